/* SPDX-License-Identifier: MIT */
/* The name that every client gets, and the moves a report may make. */
#include "report.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <ctype.h>
#include <string.h>

#define SOME_TIME_MS INT64_C(0x0193a4b2c3d4)

static void make_text(int64_t wall_ms, char out[RXID_TEXT_SIZE])
{
	struct rxid id;

	cr_assert_eq(rxid_make(wall_ms, &id), 0);
	rxid_format(&id, out);
}

/* ^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$ */
static bool is_uuid_v7(const char *s)
{
	if (strlen(s) != 36)
		return false;
	for (int i = 0; i < 36; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? s[i] != '-' : !strchr("0123456789abcdef", s[i]))
			return false;
	}
	return s[14] == '7' && strchr("89ab", s[19]) != NULL;
}

Test(report, names_are_uuids_of_version_7_in_lower_case)
{
	for (int i = 0; i < 500; i++) {
		char text[RXID_TEXT_SIZE];

		make_text(SOME_TIME_MS + i, text);
		cr_assert(is_uuid_v7(text), "%s", text);
	}
}

Test(report, names_begin_with_the_time)
{
	char text[RXID_TEXT_SIZE];

	make_text(SOME_TIME_MS, text);
	text[13] = '\0';
	cr_expect_str_eq(text, "0193a4b2-c3d4");
	make_text(0, text);
	text[13] = '\0';
	cr_expect_str_eq(text, "00000000-0000");
}

Test(report, names_sort_by_time)
{
	char before[RXID_TEXT_SIZE];
	char after[RXID_TEXT_SIZE];

	for (int64_t ms = 1; ms < (INT64_C(1) << 47); ms *= 2) {
		make_text(ms - 1, before);
		make_text(ms, after);
		cr_assert_lt(strcmp(before, after), 0, "%s, %s", before, after);
	}
}

/* A clock that stands wrong or still must not make two reports one. */
Test(report, names_of_the_same_moment_differ)
{
	enum {
		COUNT = 300
	};
	static char texts[COUNT][RXID_TEXT_SIZE];

	for (int i = 0; i < COUNT; i++) {
		make_text(i % 2 ? SOME_TIME_MS : -1, texts[i]);
		cr_assert(is_uuid_v7(texts[i]), "%s", texts[i]);
		for (int k = 0; k < i; k++)
			cr_assert_str_neq(texts[i], texts[k]);
	}
}

Test(report, a_name_comes_back_from_its_text_in_any_case)
{
	struct rxid id;
	struct rxid back = { { 0 } };
	char text[RXID_TEXT_SIZE];

	cr_assert_eq(rxid_make(SOME_TIME_MS, &id), 0);
	rxid_format(&id, text);
	cr_assert(rxid_parse(text, &back));
	cr_assert_arr_eq(back.bytes, id.bytes, sizeof(id.bytes));
	for (char *p = text; *p; p++)
		*p = (char)toupper((unsigned char)*p);
	memset(&back, 0, sizeof(back));
	cr_assert(rxid_parse(text, &back));
	cr_assert_arr_eq(back.bytes, id.bytes, sizeof(id.bytes));
}

struct not_a_name {
	char text[48];
};

ParameterizedTestParameters(report, what_is_no_name_is_refused)
{
	static struct not_a_name cases[] = {
		{ "" },
		{ "-" },
		{ "0193a4b2" },
		{ "0193a4b2-c3d4-7000-8000-00000000000" },
		{ "0193a4b2-c3d4-7000-8000-0000000000000" },
		{ "0193a4b2-c3d4-7000-8000-000000000000 " },
		{ " 193a4b2-c3d4-7000-8000-000000000000" },
		{ "0193a4b2c3d4700080000000000000000000" },
		{ "0193a4b2+c3d4-7000-8000-000000000000" },
		{ "0193a4b-2c3d4-7000-8000-000000000000" },
		{ "0193a4b2-c3d4-7000-8000-00000000000g" },
		{ "0193a4b2-c3d4-7000-8000-0000000000-0" },
		{ "0193a4b2-c3d4-7000-8000-0000000000\xc3\xa4" },
		{ "{193a4b2-c3d4-7000-8000-00000000000}" },
		{ "--------------------------------------" },
	};

	return cr_make_param_array(struct not_a_name, cases, ARRAY_LEN(cases));
}

ParameterizedTest(struct not_a_name *c, report, what_is_no_name_is_refused)
{
	struct rxid id;
	struct rxid untouched;

	memset(&id, 0xa5, sizeof(id));
	memset(&untouched, 0xa5, sizeof(untouched));
	cr_expect_not(rxid_parse(c->text, &id), "%s was taken", c->text);
	cr_expect_arr_eq(id.bytes, untouched.bytes, sizeof(id.bytes));
}

/* States. The sentences are those of the interface, section 4; a move that no sentence
 * allows is illegal. */

struct move {
	enum report_state from, to;
};

static const struct move allowed[] = {
	/* A submission is committed; a damaged record found at start is put aside. */
	{ REPORT_NEW, REPORT_QUEUED },
	{ REPORT_NEW, REPORT_DEAD },
	/* queued -> sending -> sent */
	{ REPORT_QUEUED, REPORT_SENDING },
	{ REPORT_SENDING, REPORT_SENT },
	/* No answer, or a restart: it is sent again. */
	{ REPORT_SENDING, REPORT_QUEUED },
	/* queued -> held -> queued: its token or upstream is refused, or paused; the
	 * refusal is an answer to one being sent. */
	{ REPORT_QUEUED, REPORT_HELD },
	{ REPORT_SENDING, REPORT_HELD },
	{ REPORT_HELD, REPORT_QUEUED },
	/* -> dead: upstream said it can never be accepted, or it expired. */
	{ REPORT_SENDING, REPORT_DEAD },
	{ REPORT_QUEUED, REPORT_DEAD },
	{ REPORT_HELD, REPORT_DEAD },
	/* Dead ones keep their payload so that a retry by hand can send them. */
	{ REPORT_DEAD, REPORT_QUEUED },
	/* dropped by hand, evicted by quota; never one being sent (section 5). */
	{ REPORT_QUEUED, REPORT_DROPPED },
	{ REPORT_HELD, REPORT_DROPPED },
	{ REPORT_DEAD, REPORT_DROPPED },
	{ REPORT_QUEUED, REPORT_EVICTED },
	{ REPORT_HELD, REPORT_EVICTED },
	{ REPORT_DEAD, REPORT_EVICTED },
};

static bool is_allowed(enum report_state from, enum report_state to)
{
	for (size_t i = 0; i < ARRAY_LEN(allowed); i++)
		if (allowed[i].from == from && allowed[i].to == to)
			return true;
	return false;
}

Test(report, exactly_the_moves_of_the_contract_are_legal)
{
	for (int from = 0; from < REPORT_STATE_COUNT; from++)
		for (int to = 0; to < REPORT_STATE_COUNT; to++)
			cr_expect_eq(report_move_is_legal(
					 (enum report_state)from, (enum report_state)to),
			    is_allowed((enum report_state)from, (enum report_state)to),
			    "%s to %s", report_state_name((enum report_state)from),
			    report_state_name((enum report_state)to));
}

/* A state read from a damaged row is a number like any other. */
Test(report, numbers_that_are_no_state_can_go_nowhere)
{
	static const int strange[] = { -1, REPORT_STATE_COUNT, 31, 32, 33, 1000,
		-2147483647 - 1, 2147483647 };

	for (size_t i = 0; i < ARRAY_LEN(strange); i++) {
		enum report_state s = (enum report_state)strange[i];

		for (int other = 0; other < REPORT_STATE_COUNT; other++) {
			cr_expect_not(report_move_is_legal(s, (enum report_state)other));
			cr_expect_not(report_move_is_legal((enum report_state)other, s));
		}
		cr_expect_not_null(report_state_name(s));
		cr_expect_not(report_state_has_payload(s));
	}
}

Test(report, payloads_go_with_the_states_that_send_nothing_any_more)
{
	/* Section 4: dead is kept with its payload; of sent (section 3, keep_sent),
	 * dropped and evicted the row stays and the payload goes. */
	cr_expect(report_state_has_payload(REPORT_QUEUED));
	cr_expect(report_state_has_payload(REPORT_SENDING));
	cr_expect(report_state_has_payload(REPORT_HELD));
	cr_expect(report_state_has_payload(REPORT_DEAD));
	cr_expect_not(report_state_has_payload(REPORT_SENT));
	cr_expect_not(report_state_has_payload(REPORT_DROPPED));
	cr_expect_not(report_state_has_payload(REPORT_EVICTED));
}

Test(report, no_move_brings_a_released_payload_back)
{
	for (int from = 1; from < REPORT_STATE_COUNT; from++)
		for (int to = 0; to < REPORT_STATE_COUNT; to++)
			if (!report_state_has_payload((enum report_state)from))
				cr_expect_not(report_move_is_legal(
				    (enum report_state)from, (enum report_state)to));
}

Test(report, states_have_the_names_and_numbers_that_others_rely_on)
{
	/* Names: the interface, section 4. Numbers: rows of spools that exist. */
	static const struct {
		int number;
		const char *name;
	} states[] = { { 1, "queued" }, { 2, "sending" }, { 3, "sent" }, { 4, "held" },
		{ 5, "dead" }, { 6, "dropped" }, { 7, "evicted" } };

	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		enum report_state s = (enum report_state)states[i].number;

		cr_expect_str_eq(report_state_name(s), states[i].name);
		cr_expect_eq(report_state_parse(states[i].name), s);
	}
	cr_expect_eq(report_state_parse("new"), REPORT_NEW);
	cr_expect_eq(report_state_parse("Queued"), REPORT_NEW);
	cr_expect_eq(report_state_parse(""), REPORT_NEW);
	cr_expect_eq(report_state_parse("queued "), REPORT_NEW);
}

Test(report, half_built_reports_can_be_freed)
{
	struct report *r = calloc(1, sizeof(*r));

	cr_assert_not_null(r);
	r->token = strdup("t");
	r->envelope.target = strdup("/post");
	cr_assert_null(report_free(r));
	cr_assert_null(report_free(NULL));
}
