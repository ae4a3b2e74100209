/* SPDX-License-Identifier: MIT */
/* A byte string that never lies about a failure, and foreign text that cannot change how
 * a line of the log or the terminal reads. */
#include "strbuf.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <wchar.h>

/* No allocator has this much; volatile, so that the compiler does not say so itself. */
static volatile size_t too_much = SIZE_MAX / 2 + 1;

static void fail(struct strbuf *b)
{
	strbuf_add(b, "x", too_much);
}

Test(strbuf, pieces_of_all_kinds_are_joined_across_growth)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	CLEANUP(strbuf_done) struct strbuf expected = STRBUF_INIT;
	char piece[32];

	for (int i = 0; i < 1000; i++) {
		strbuf_addf(&b, "%d:%s", i, "text");
		strbuf_add_char(&b, ',');
		strbuf_add_str(&b, "");
		strbuf_add(&b, "\xff", 1);
		strbuf_add(&expected, piece,
		    (size_t)snprintf(piece, sizeof(piece), "%d:text,\xff", i));
		cr_assert_eq(b.data[b.len], '\0');
	}
	cr_assert_eq(strbuf_status(&b), 0);
	cr_assert_eq(b.len, expected.len);
	cr_assert_arr_eq(b.data, expected.data, b.len);
}

Test(strbuf, formatted_text_longer_than_any_first_guess_comes_whole)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	strbuf_addf(&b, "%s%*d", "ab", 100000, 7);
	cr_assert_eq(strbuf_status(&b), 0);
	cr_assert_eq(b.len, 100002);
	cr_assert_eq(strlen(strbuf_str(&b)), 100002);
	cr_assert_eq(b.data[100001], '7');
}

Test(strbuf, nul_bytes_are_kept)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	strbuf_add(&b, "a\0b", 3);
	strbuf_add_char(&b, '\0');
	strbuf_add_str(&b, "c");
	cr_assert_eq(b.len, 5);
	cr_assert_arr_eq(b.data, "a\0b\0c", 6);
}

Test(strbuf, empty_is_a_string_and_not_null)
{
	struct strbuf b = STRBUF_INIT;
	CLEANUP(cleanup_free) char *taken = NULL;

	cr_assert_str_eq(strbuf_str(&b), "");
	taken = strbuf_take(&b);
	cr_assert_not_null(taken);
	cr_assert_str_eq(taken, "");
}

Test(strbuf, a_failure_sticks_until_reset)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	strbuf_add_str(&b, "before");
	fail(&b);
	cr_expect_eq(strbuf_status(&b), -ENOMEM);
	/* Half of a record or an answer must not pass for the whole. */
	strbuf_add_str(&b, "after");
	strbuf_addf(&b, "%d", 1);
	strbuf_add_char(&b, 'c');
	strbuf_add_escaped(&b, "e", 1, 1);
	cr_expect_eq(strbuf_status(&b), -ENOMEM);
	cr_expect_str_eq(strbuf_str(&b), "");

	strbuf_reset(&b);
	cr_expect_eq(strbuf_status(&b), 0);
	strbuf_add_str(&b, "again");
	cr_expect_str_eq(strbuf_str(&b), "again");
}

Test(strbuf, what_cannot_be_formatted_is_a_failure)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	/* No such character in the C locale. */
	strbuf_addf(&b, "half %ls", L"\x20ac");
	cr_expect_eq(strbuf_status(&b), -ENOMEM);
}

Test(strbuf, nothing_can_be_taken_after_a_failure)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	strbuf_add_str(&b, "half");
	fail(&b);
	cr_expect_null(strbuf_take(&b));
	/* And the buffer is new. */
	cr_expect_eq(strbuf_status(&b), 0);
	cr_expect_eq(b.len, 0);
}

Test(strbuf, taking_leaves_an_empty_usable_buffer)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	CLEANUP(cleanup_free) char *taken = NULL;

	strbuf_add_str(&b, "first");
	taken = strbuf_take(&b);
	strbuf_add_str(&b, "second");
	cr_expect_str_eq(taken, "first");
	cr_expect_str_eq(strbuf_str(&b), "second");
}

struct escaped {
	char in[24];
	size_t len; /* 0 = up to the NUL */
	char out[64];
};

ParameterizedTestParameters(strbuf, foreign_text_is_made_harmless)
{
	static struct escaped cases[] = {
		{ "plain ~text", 0, "plain ~text" },
		{ "a\\b", 0, "a\\\\b" },
		/* Text cannot pretend to be an escape of ours. */
		{ "\\x41", 0, "\\\\x41" },
		/* Control bytes, NUL and DEL. */
		{ "\r\n\t\x1b[0m", 0, "\\x0d\\x0a\\x09\\x1b[0m" },
		{ "a\0b", 3, "a\\x00b" },
		{ "\x01\x1f \x7f", 0, "\\x01\\x1f \\x7f" },
		/* Well-formed UTF-8: the ends of each length's range. */
		{ "\xc2\xa0\xdf\xbf", 0, "\xc2\xa0\xdf\xbf" },
		{ "\xe0\xa0\x80\xef\xbf\xbf", 0, "\xe0\xa0\x80\xef\xbf\xbf" },
		{ "\xed\x9f\xbf\xee\x80\x80", 0, "\xed\x9f\xbf\xee\x80\x80" },
		{ "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 0,
		    "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf" },
		/* A byte that begins nothing, and one that goes on from nothing. */
		{ "a\xff\xfe", 0, "a\\xff\\xfe" },
		{ "a\x80\xbf", 0, "a\\x80\\xbf" },
		/* Cut short: by the end, and by another character. */
		{ "\xc3", 0, "\\xc3" },
		{ "\xe2\x82", 0, "\\xe2\\x82" },
		{ "\xf0\x9f\x92", 0, "\\xf0\\x9f\\x92" },
		{ "\xe2\x82z", 0, "\\xe2\\x82z" },
		/* Overlong forms, of newline and slash too. */
		{ "\xc0\x8a\xc1\xbf", 0, "\\xc0\\x8a\\xc1\\xbf" },
		{ "\xe0\x80\xaf\xe0\x9f\xbf", 0, "\\xe0\\x80\\xaf\\xe0\\x9f\\xbf" },
		{ "\xf0\x80\x80\x8a", 0, "\\xf0\\x80\\x80\\x8a" },
		{ "\xf0\x8f\xbf\xbf", 0, "\\xf0\\x8f\\xbf\\xbf" },
		/* Surrogates, and beyond U+10FFFF. */
		{ "\xed\xa0\x80", 0, "\\xed\\xa0\\x80" },
		{ "\xf4\x90\x80\x80", 0, "\\xf4\\x90\\x80\\x80" },
		{ "\xf5\x80\x80\x80", 0, "\\xf5\\x80\\x80\\x80" },
		/* C1: U+0085 is a new line to some, U+009B begins a terminal command. */
		{ "\xc2\x80\xc2\x85\xc2\x9b\xc2\x9f", 0,
		    "\\xc2\\x80\\xc2\\x85\\xc2\\x9b\\xc2\\x9f" },
		/* Bidirectional marks, embeddings, overrides, isolates; U+2028, U+2029.
		 */
		{ "\xe2\x80\x8e\xe2\x80\x8f", 0, "\\xe2\\x80\\x8e\\xe2\\x80\\x8f" },
		{ "\xe2\x80\xaa\xe2\x80\xae", 0, "\\xe2\\x80\\xaa\\xe2\\x80\\xae" },
		{ "\xe2\x81\xa6\xe2\x81\xa9", 0, "\\xe2\\x81\\xa6\\xe2\\x81\\xa9" },
		{ "\xe2\x80\xa8\xe2\x80\xa9", 0, "\\xe2\\x80\\xa8\\xe2\\x80\\xa9" },
		/* Their neighbours are ordinary: dash, ellipsis, narrow space. */
		{ "\xe2\x80\x93\xe2\x80\xa6\xe2\x80\xaf", 0,
		    "\xe2\x80\x93\xe2\x80\xa6\xe2\x80\xaf" },
	};

	return cr_make_param_array(struct escaped, cases, ARRAY_LEN(cases));
}

ParameterizedTest(struct escaped *c, strbuf, foreign_text_is_made_harmless)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	size_t len = c->len ? c->len : strlen(c->in);

	strbuf_add_escaped(&b, c->in, len, len);
	cr_assert_str_eq(strbuf_str(&b), c->out);
}

Test(strbuf, bidirectional_controls_are_escaped_without_exception)
{
	/* UAX #9: ALM, LRM, RLM, LRE..RLO, LRI..PDI. */
	static const unsigned controls[] = { 0x061c, 0x200e, 0x200f, 0x202a, 0x202b,
		0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069 };

	for (size_t i = 0; i < ARRAY_LEN(controls); i++) {
		CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
		unsigned u = controls[i];
		char three[] = { (char)(0xe0 | u >> 12), (char)(0x80 | (u >> 6 & 0x3f)),
			(char)(0x80 | (u & 0x3f)) };
		char two[] = { (char)(0xc0 | u >> 6), (char)(0x80 | (u & 0x3f)) };

		if (u < 0x800)
			strbuf_add_escaped(&b, two, sizeof(two), sizeof(two));
		else
			strbuf_add_escaped(&b, three, sizeof(three), sizeof(three));
		for (size_t k = 0; k < b.len; k++)
			cr_expect(b.data[k] > 0, "U+%04X is shown as it is", u);
	}
}

Test(strbuf, what_is_cut_is_marked_and_what_is_whole_is_not)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	strbuf_add_escaped(&b, "abcdef", 6, 6);
	strbuf_add_char(&b, ' ');
	strbuf_add_escaped(&b, "abcdef", 6, 3);
	strbuf_add_char(&b, ' ');
	strbuf_add_escaped(&b, "abc", 3, 0);
	strbuf_add_char(&b, ' ');
	strbuf_add_escaped(&b, "", 0, 0);
	strbuf_add_char(&b, ' ');
	strbuf_add_escaped(&b, "\n\n\n", 3, 2);
	cr_assert_str_eq(strbuf_str(&b), "abcdef abc... ...  \\x0a\\x0a...");
}

/* The bound is what keeps a log line or an answer small: it holds inside a character. */
Test(strbuf, no_more_than_the_bound_is_shown_of_a_character_on_the_bound)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	strbuf_add_escaped(&b, "a\xf0\x9f\x92\xa5z", 6, 2);
	cr_assert_eq(strbuf_status(&b), 0);
	cr_expect_null(strstr(strbuf_str(&b), "\xf0\x9f\x92\xa5"),
	    "4 bytes of a character were shown where 1 more was allowed");
	cr_expect_str_eq(strbuf_str(&b) + b.len - 3, "...");
}
