/* SPDX-License-Identifier: MIT */
/* The form of a record on disk: what is written comes back, what was altered is seen, and
 * no length read from disk is believed. The layout is written out again here, from the
 * table in record.h: spools that exist must stay readable. */
#include "record.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <string.h>
#include <zlib.h>

enum {
	AT_HEADER_BYTES = 8,
	AT_FLAGS = 12,
	AT_EPOCH = 16,
	AT_OFFSET = 32,
	AT_SEQ = 40,
	AT_RXID = 48,
	AT_RECEIVED = 64,
	AT_BODY_BYTES = 72,
	AT_SHA256 = 80,
	AT_STRING_BYTES = 112,
	AT_ZERO = 116,
	AT_CRC = 124,
	AT_STRINGS = 128,
};

static struct record sample(void)
{
	struct record r = { .offset = UINT64_C(0x0102030405060708),
		.seq = INT64_C(0x1112131415161718),
		.received_at_ms = -2,
		.body_bytes = UINT64_C(0x2122232425262728),
		.strings = { .universe = "uni",
		    .token = "0123456789abcdef",
		    .format = "minidump",
		    .target = "/uni/0123456789abcdef/minidump?a=\xc3\xa4&b=\xff",
		    .content_type = "multipart/form-data; boundary=x",
		    .content_encoding = "gzip",
		    .client = "[::1]:4711" } };

	memset(r.epoch, 0xe1, sizeof(r.epoch));
	memset(r.rxid.bytes, 0x1d, sizeof(r.rxid.bytes));
	for (size_t i = 0; i < sizeof(r.sha256); i++)
		r.sha256[i] = (uint8_t)(0xa0 + i);
	return r;
}

/* The encoded header in memory of exactly its size, so that any read past it is seen. */
static uint8_t *encode(const struct record *r, size_t *ret_len)
{
	CLEANUP(strbuf_done) struct strbuf out = STRBUF_INIT;
	uint32_t header_bytes = 0;
	uint8_t *copy;

	cr_assert_eq(record_encode(r, &out, &header_bytes), 0);
	cr_assert_leq(out.len, header_bytes);
	copy = malloc(out.len);
	cr_assert_not_null(copy);
	memcpy(copy, out.data, out.len);
	*ret_len = out.len;
	return copy;
}

static bool same_string(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static void assert_same(const struct record *a, const struct record *b)
{
	cr_assert_arr_eq(a->epoch, b->epoch, sizeof(a->epoch));
	cr_assert_eq(a->offset, b->offset);
	cr_assert_eq(a->seq, b->seq);
	cr_assert_arr_eq(a->rxid.bytes, b->rxid.bytes, sizeof(a->rxid.bytes));
	cr_assert_eq(a->received_at_ms, b->received_at_ms);
	cr_assert_eq(a->body_bytes, b->body_bytes);
	cr_assert_arr_eq(a->sha256, b->sha256, sizeof(a->sha256));
	cr_assert(same_string(a->strings.universe, b->strings.universe));
	cr_assert(same_string(a->strings.token, b->strings.token));
	cr_assert(same_string(a->strings.format, b->strings.format));
	cr_assert(same_string(a->strings.target, b->strings.target));
	cr_assert(same_string(a->strings.content_type, b->strings.content_type));
	cr_assert(same_string(a->strings.content_encoding, b->strings.content_encoding));
	cr_assert(same_string(a->strings.client, b->strings.client));
}

static void assert_round_trip(const struct record *r)
{
	CLEANUP(strbuf_done) struct strbuf arena = STRBUF_INIT;
	struct record back;
	size_t need = 0;
	size_t len;
	CLEANUP(cleanup_free) uint8_t *bytes = encode(r, &len);

	cr_assert_eq(record_decode(bytes, len, &arena, &back, &need), RECORD_OK);
	assert_same(&back, r);
	cr_assert_eq(back.header_bytes, r->header_bytes ? r->header_bytes : len);
}

Test(record, comes_back_as_it_was_written)
{
	struct record r = sample();

	assert_round_trip(&r);
}

Test(record, absent_and_empty_strings_are_told_apart)
{
	struct record r = sample();

	r.strings.universe = "";
	r.strings.content_type = NULL;
	r.strings.content_encoding = "";
	r.strings.client = NULL;
	assert_round_trip(&r);
	r.strings.content_type = "";
	r.strings.content_encoding = NULL;
	assert_round_trip(&r);
}

Test(record, ends_of_the_number_ranges_come_back)
{
	struct record r = sample();

	r.seq = 1;
	r.offset = 0;
	r.body_bytes = 0;
	r.received_at_ms = INT64_MIN;
	assert_round_trip(&r);
	r.seq = INT64_MAX;
	r.offset = UINT64_MAX;
	r.body_bytes = (uint64_t)INT64_MAX / 2;
	r.received_at_ms = INT64_MAX;
	assert_round_trip(&r);
}

Test(record, the_body_may_begin_further_on)
{
	struct record r = sample();

	r.header_bytes = RECORD_HEADER_MAX;
	assert_round_trip(&r);
}

static uint64_t number(const uint8_t *p, int bytes)
{
	uint64_t v = 0;

	while (bytes-- > 0)
		v = v << 8 | p[bytes];
	return v;
}

static void put_number(uint8_t *p, int bytes, uint64_t v)
{
	for (int i = 0; i < bytes; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

/* As whoever damages a header could, if he also knew how to mend its checksum. */
static void mend_crc(uint8_t *h, size_t string_bytes)
{
	uLong crc = crc32(0, h, AT_CRC);

	crc = crc32(crc, h + AT_STRINGS, (uInt)string_bytes);
	put_number(h + AT_CRC, 4, crc);
}

Test(record, lies_on_disk_as_the_table_says)
{
	struct record r = sample();
	size_t len;
	CLEANUP(cleanup_free) uint8_t *h = encode(&r, &len);
	size_t string_bytes = len - AT_STRINGS;
	uint8_t again[4];

	cr_assert_arr_eq(h, "MDRELAY\x01", 8);
	cr_assert_eq(number(h + AT_HEADER_BYTES, 4), len);
	cr_assert_eq(number(h + AT_FLAGS, 4), 0);
	cr_assert_arr_eq(h + AT_EPOCH, r.epoch, 16);
	cr_assert_eq(number(h + AT_OFFSET, 8), r.offset);
	cr_assert_eq((int64_t)number(h + AT_SEQ, 8), r.seq);
	cr_assert_arr_eq(h + AT_RXID, r.rxid.bytes, 16);
	cr_assert_eq((int64_t)number(h + AT_RECEIVED, 8), r.received_at_ms);
	cr_assert_eq(number(h + AT_BODY_BYTES, 8), r.body_bytes);
	cr_assert_arr_eq(h + AT_SHA256, r.sha256, 32);
	cr_assert_eq(number(h + AT_STRING_BYTES, 4), string_bytes);
	cr_assert_eq(number(h + AT_ZERO, 8), 0);
	cr_assert_eq(number(h + AT_STRINGS, 4), 3);
	cr_assert_arr_eq(h + AT_STRINGS + 4, "uni", 3);
	memcpy(again, h + AT_CRC, 4);
	mend_crc(h, string_bytes);
	cr_assert_arr_eq(h + AT_CRC, again, 4);
}

Test(record, is_appended_to_what_is_there)
{
	CLEANUP(strbuf_done) struct strbuf out = STRBUF_INIT;
	CLEANUP(strbuf_done) struct strbuf arena = STRBUF_INIT;
	struct record r = sample();
	struct record back;
	uint32_t header_bytes;
	size_t need;

	strbuf_add_str(&out, "before");
	cr_assert_eq(record_encode(&r, &out, &header_bytes), 0);
	cr_assert_eq(out.len, 6 + header_bytes);
	cr_assert_arr_eq(out.data, "before", 6);
	cr_assert_eq(
	    record_decode(out.data + 6, header_bytes, &arena, &back, &need), RECORD_OK);
	assert_same(&back, &r);
}

Test(record, strings_of_an_earlier_record_do_not_shine_through)
{
	CLEANUP(strbuf_done) struct strbuf arena = STRBUF_INIT;
	struct record r = sample();
	struct record back;
	size_t first_len;
	size_t second_len;
	size_t need;
	CLEANUP(cleanup_free) uint8_t *first = encode(&r, &first_len);
	CLEANUP(cleanup_free) uint8_t *second = NULL;

	r.strings.token = "t";
	r.strings.client = NULL;
	second = encode(&r, &second_len);
	cr_assert_eq(record_decode(first, first_len, &arena, &back, &need), RECORD_OK);
	cr_assert_eq(record_decode(second, second_len, &arena, &back, &need), RECORD_OK);
	assert_same(&back, &r);
}

/* 64 KiB for the header with all its strings, and not one byte more. */
Test(record, strings_up_to_the_bound_fit_and_longer_ones_are_refused)
{
	CLEANUP(strbuf_done) struct strbuf out = STRBUF_INIT;
	struct record r = sample();
	uint32_t header_bytes = 7;
	size_t len;
	size_t room;
	CLEANUP(cleanup_free) uint8_t *bytes = NULL;
	CLEANUP(cleanup_free) char *target = NULL;

	r.strings.target = "";
	bytes = encode(&r, &len);
	room = RECORD_HEADER_MAX - len;
	target = malloc(RECORD_HEADER_MAX * 2);
	cr_assert_not_null(target);
	memset(target, 'x', RECORD_HEADER_MAX * 2);
	target[room] = '\0';
	r.strings.target = target;
	assert_round_trip(&r);
	r.header_bytes = RECORD_HEADER_MAX;
	assert_round_trip(&r);

	target[room] = 'x';
	target[room + 1] = '\0';
	cr_expect_eq(record_encode(&r, &out, &header_bytes), -EMSGSIZE);
	r.header_bytes = 0;
	cr_expect_eq(record_encode(&r, &out, &header_bytes), -EMSGSIZE);
	target[room + 1] = 'x';
	target[RECORD_HEADER_MAX * 2 - 1] = '\0';
	cr_expect_eq(record_encode(&r, &out, &header_bytes), -EMSGSIZE);
	cr_expect_eq(header_bytes, 7);
}

Test(record, a_body_cannot_begin_inside_the_strings)
{
	CLEANUP(strbuf_done) struct strbuf out = STRBUF_INIT;
	struct record r = sample();
	uint32_t header_bytes;

	r.header_bytes = RECORD_HEADER_BYTES + 10;
	cr_assert_eq(record_encode(&r, &out, &header_bytes), -EMSGSIZE);
}

/* Reading what was altered */

Test(record, each_bit_that_flips_is_noticed)
{
	CLEANUP(strbuf_done) struct strbuf arena = STRBUF_INIT;
	struct record r = sample();
	size_t len;
	CLEANUP(cleanup_free) uint8_t *h = encode(&r, &len);
	/* So much behind it as a flipped length could ask for. */
	CLEANUP(cleanup_free) uint8_t *roomy = calloc(1, RECORD_HEADER_MAX);

	cr_assert_not_null(roomy);
	memcpy(roomy, h, len);
	for (size_t bit = 0; bit < len * 8; bit++) {
		struct record back = { .seq = -77 };
		size_t need = 0;
		enum record_check check;

		roomy[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		check = record_decode(roomy, RECORD_HEADER_MAX, &arena, &back, &need);
		cr_assert_eq(
		    check, bit < 64 ? RECORD_NONE : RECORD_DAMAGED, "bit %zu", bit);
		cr_assert_eq(back.seq, -77, "bit %zu: written though damaged", bit);
		roomy[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}

Test(record, short_input_asks_for_more_until_it_is_whole)
{
	CLEANUP(strbuf_done) struct strbuf arena = STRBUF_INIT;
	struct record r = sample();
	size_t len;
	CLEANUP(cleanup_free) uint8_t *h = encode(&r, &len);

	for (size_t have = 0; have < len; have++) {
		CLEANUP(cleanup_free) uint8_t *part = malloc(have ? have : 1);
		struct record back;
		size_t need = 0;

		cr_assert_not_null(part);
		memcpy(part, h, have);
		cr_assert_eq(
		    record_decode(part, have, &arena, &back, &need), RECORD_SHORT);
		cr_assert_gt(need, have, "%zu bytes ask for %zu", have, need);
		cr_assert_leq(need, len);
	}
}

Test(record, what_never_was_a_record_is_none)
{
	CLEANUP(strbuf_done) struct strbuf arena = STRBUF_INIT;
	uint8_t bytes[RECORD_HEADER_BYTES] = { 0 };
	struct record back;
	size_t need;

	cr_expect_eq(
	    record_decode(bytes, sizeof(bytes), &arena, &back, &need), RECORD_NONE);
	memset(bytes, 0xff, sizeof(bytes));
	cr_expect_eq(
	    record_decode(bytes, sizeof(bytes), &arena, &back, &need), RECORD_NONE);
	memcpy(bytes, "MDRELAY\x02", 8);
	cr_expect_eq(
	    record_decode(bytes, sizeof(bytes), &arena, &back, &need), RECORD_NONE);
}

struct lie {
	char what[48];
	size_t at;
	int bytes;
	uint64_t value;
};

#define UNIVERSE (AT_STRINGS)
#define TOKEN (UNIVERSE + 4 + 3)

/* One number replaced, the checksum made right again. */
ParameterizedTestParameters(record, numbers_that_lie_are_seen)
{
	static struct lie lies[] = {
		{ "header without room for its strings", AT_HEADER_BYTES, 4, 128 },
		{ "header of nothing", AT_HEADER_BYTES, 4, 0 },
		{ "header longer than any", AT_HEADER_BYTES, 4, RECORD_HEADER_MAX + 1 },
		{ "header of 4 GiB", AT_HEADER_BYTES, 4, UINT32_MAX },
		{ "seq 0", AT_SEQ, 8, 0 },
		{ "seq below 0", AT_SEQ, 8, UINT64_MAX },
		{ "body that overflows an offset", AT_BODY_BYTES, 8, INT64_MAX },
		{ "body of 2^64 - 1", AT_BODY_BYTES, 8, UINT64_MAX },
		{ "string longer than all", UNIVERSE, 4, 60000 },
		{ "string of nearly 4 GiB", UNIVERSE, 4, UINT32_MAX - 1 },
		{ "universe absent, its bytes a length", UNIVERSE, 4, UINT32_MAX },
		{ "universe one shorter", UNIVERSE, 4, 2 },
		{ "universe one longer", UNIVERSE, 4, 4 },
		{ "token absent", TOKEN, 4, UINT32_MAX },
		{ "NUL in a string", TOKEN + 5, 1, 0 },
	};

	return cr_make_param_array(struct lie, lies, ARRAY_LEN(lies));
}

ParameterizedTest(struct lie *lie, record, numbers_that_lie_are_seen)
{
	CLEANUP(strbuf_done) struct strbuf arena = STRBUF_INIT;
	struct record r = sample();
	struct record back = { .seq = -77 };
	size_t need = 0;
	size_t len;
	CLEANUP(cleanup_free) uint8_t *h = encode(&r, &len);
	enum record_check check;

	put_number(h + lie->at, lie->bytes, lie->value);
	mend_crc(h, len - AT_STRINGS);
	check = record_decode(h, len, &arena, &back, &need);
	cr_expect_eq(check, RECORD_DAMAGED, "%s: %d", lie->what, (int)check);
	cr_expect_eq(back.seq, -77);
}

Test(record, a_record_without_what_every_report_has_is_damaged)
{
	CLEANUP(strbuf_done) struct strbuf arena = STRBUF_INIT;

	for (int i = 0; i < 4; i++) {
		struct record r = sample();
		struct record back;
		size_t need;
		size_t len;
		CLEANUP(cleanup_free) uint8_t *h = NULL;
		const char **required[] = { &r.strings.universe, &r.strings.token,
			&r.strings.format, &r.strings.target };

		*required[i] = NULL;
		h = encode(&r, &len);
		cr_expect_eq(
		    record_decode(h, len, &arena, &back, &need), RECORD_DAMAGED, "%d", i);
	}
}

Test(record, more_string_bytes_than_a_header_may_have_are_never_asked_for)
{
	CLEANUP(strbuf_done) struct strbuf arena = STRBUF_INIT;
	static const uint32_t claims[] = { RECORD_HEADER_MAX - RECORD_HEADER_BYTES + 1,
		RECORD_HEADER_MAX, 0x7fffffff, 0xffffff80, 0xffffffff };
	struct record r = sample();
	size_t len;
	CLEANUP(cleanup_free) uint8_t *h = encode(&r, &len);

	for (size_t i = 0; i < ARRAY_LEN(claims); i++) {
		struct record back;
		size_t need = 0;

		put_number(h + AT_STRING_BYTES, 4, claims[i]);
		put_number(h + AT_HEADER_BYTES, 4, RECORD_HEADER_MAX);
		cr_expect_eq(record_decode(h, len, &arena, &back, &need), RECORD_DAMAGED);
		cr_expect_leq(need, RECORD_HEADER_MAX);
	}
}

/* Anything may lie on a disk: whatever is accepted must be whole in itself. */
Test(record, random_damage_with_a_right_checksum_never_misleads)
{
	CLEANUP(strbuf_done) struct strbuf arena = STRBUF_INIT;
	struct record r = sample();
	size_t len;
	CLEANUP(cleanup_free) uint8_t *good = encode(&r, &len);
	CLEANUP(cleanup_free) uint8_t *h = malloc(len);
	uint64_t random = 42;

	cr_assert_not_null(h);
	for (int round = 0; round < 20000; round++) {
		struct record back;
		size_t need = 0;
		size_t sum = 0;

		memcpy(h, good, len);
		for (int k = 0; k < 1 + round % 4; k++) {
			random = random * UINT64_C(6364136223846793005) + 1442695;
			h[8 + (random >> 33) % (len - 8)] = (uint8_t)(random >> 56);
		}
		mend_crc(h, len - AT_STRINGS);
		if (record_decode(h, len, &arena, &back, &need) != RECORD_OK)
			continue;
		cr_assert_leq(back.header_bytes, RECORD_HEADER_MAX);
		cr_assert_geq(back.header_bytes, len);
		cr_assert_gt(back.seq, 0);
		sum = strlen(back.strings.universe) + strlen(back.strings.token) +
		      strlen(back.strings.format) + strlen(back.strings.target);
		cr_assert_leq(sum, len);
	}
}
