/* SPDX-License-Identifier: MIT */
/* What inflating must get right: the same bytes whatever the cutting of the input, never
 * "done" for a stream that is not, and caps that hold. */
#include "gunzip.h"

#include "strbuf.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define GZIP_BITS (15 + 16)
#define ZLIB_BITS 15
#define RAW_BITS (-15)

/* A stream of the given window bits, appended to out. */
static void compress_to(struct strbuf *out, int bits, const void *data, size_t len)
{
	unsigned char block[4096];
	CLEANUP(cleanup_free) unsigned char *copy = malloc(len + 1);
	z_stream z = { 0 };
	int r;

	cr_assert_not_null(copy);
	memcpy(copy, data, len);
	cr_assert_eq(deflateInit2(&z, 6, Z_DEFLATED, bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = copy;
	z.avail_in = (uInt)len;
	do {
		z.next_out = block;
		z.avail_out = sizeof(block);
		r = deflate(&z, Z_FINISH);
		strbuf_add(out, block, sizeof(block) - z.avail_out);
	} while (r == Z_OK || r == Z_BUF_ERROR);
	cr_assert_eq(r, Z_STREAM_END);
	(void)deflateEnd(&z);
	cr_assert_eq(strbuf_status(out), 0);
}

/* Text that compresses about threefold, different for each seed. */
static void make_text(struct strbuf *out, unsigned seed, size_t len)
{
	uint32_t x = seed * 2654435761u + 1;

	while (out->len < len) {
		x = x * 1664525u + 1013904223u;
		strbuf_addf(out, "%x line of text %u\n", x >> 8, seed);
	}
	out->len = len;
}

struct run {
	struct strbuf output;
	uint64_t stop_after; /* 0 = never */
	enum gunzip_verdict fed;
	enum gunzip_verdict ended;
	uint64_t offset;
};

static bool collect(void *cls, const void *data, size_t len)
{
	struct run *run = cls;

	cr_assert_gt(len, 0);
	strbuf_add(&run->output, data, len);
	return run->stop_after == 0 || run->output.len < run->stop_after;
}

/* Feed all input in pieces of so many bytes. */
static void inflate_pieces(struct run *run, struct gunzip_options options,
    const void *data, size_t len, size_t piece)
{
	struct gunzip *g = NULL;
	const char *p = data;

	options.sink = collect;
	options.cls = run;
	strbuf_reset(&run->output);
	run->fed = GUNZIP_OK;
	cr_assert_eq(gunzip_new(&options, &g), 0);
	for (size_t at = 0; at < len; at += piece)
		run->fed = gunzip_feed(g, p + at, len - at < piece ? len - at : piece);
	run->ended = gunzip_end(g);
	run->offset = gunzip_offset(g);
	g = gunzip_free(g);
	cr_assert_null(g);
}

static void run_done(struct run *run)
{
	strbuf_done(&run->output);
}

static bool same(const struct strbuf *a, const struct strbuf *b)
{
	return a->len == b->len && memcmp(strbuf_str(a), strbuf_str(b), a->len) == 0;
}

static const size_t pieces[] = { 1, 2, 7, 100, 4096, 1u << 30 };

Test(gunzip, inflates_each_form_however_the_input_is_cut)
{
	static const struct {
		enum gunzip_coding coding;
		int bits;
	} forms[] = { { GUNZIP_GZIP, GZIP_BITS }, { GUNZIP_DEFLATE, ZLIB_BITS },
		{ GUNZIP_DEFLATE, RAW_BITS } };
	CLEANUP(strbuf_done) struct strbuf text = STRBUF_INIT;
	CLEANUP(run_done) struct run run = { 0 };

	make_text(&text, 1, 200000);
	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		CLEANUP(strbuf_done) struct strbuf packed = STRBUF_INIT;
		struct gunzip_options options = { .coding = forms[i].coding };

		compress_to(&packed, forms[i].bits, text.data, text.len);
		for (size_t k = 0; k < ARRAY_LEN(pieces); k++) {
			inflate_pieces(&run, options, packed.data, packed.len, pieces[k]);
			cr_assert_eq(run.fed, GUNZIP_DONE, "form %zu piece %zu", i, k);
			cr_assert_eq(run.ended, GUNZIP_DONE);
			cr_assert(same(&run.output, &text));
		}
	}
}

Test(gunzip, a_stream_cut_at_any_byte_is_never_done)
{
	static const struct {
		enum gunzip_coding coding;
		int bits;
	} forms[] = { { GUNZIP_GZIP, GZIP_BITS }, { GUNZIP_DEFLATE, ZLIB_BITS },
		{ GUNZIP_DEFLATE, RAW_BITS } };
	CLEANUP(strbuf_done) struct strbuf text = STRBUF_INIT;
	CLEANUP(run_done) struct run run = { 0 };

	make_text(&text, 2, 3000);
	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		CLEANUP(strbuf_done) struct strbuf packed = STRBUF_INIT;
		struct gunzip_options options = { .coding = forms[i].coding };

		compress_to(&packed, forms[i].bits, text.data, text.len);
		for (size_t len = 0; len < packed.len; len++) {
			inflate_pieces(&run, options, packed.data, len, 1u << 30);
			cr_assert_eq(
			    run.ended, GUNZIP_TRUNCATED, "form %zu, %zu bytes", i, len);
			cr_assert_eq(run.offset, len);
		}
	}
}

Test(gunzip, members_follow_one_another)
{
	CLEANUP(strbuf_done) struct strbuf text = STRBUF_INIT;
	CLEANUP(strbuf_done) struct strbuf packed = STRBUF_INIT;
	CLEANUP(run_done) struct run run = { 0 };
	struct gunzip_options options = { .coding = GUNZIP_GZIP };
	size_t first;

	make_text(&text, 3, 5000);
	compress_to(&packed, GZIP_BITS, text.data, 2000);
	first = packed.len;
	compress_to(&packed, GZIP_BITS, "", 0);
	compress_to(&packed, GZIP_BITS, text.data + 2000, 3000);
	for (size_t piece = 1; piece <= packed.len; piece++) {
		inflate_pieces(&run, options, packed.data, packed.len, piece);
		cr_assert_eq(run.ended, GUNZIP_DONE, "pieces of %zu", piece);
		cr_assert(same(&run.output, &text));
	}
	inflate_pieces(&run, options, packed.data, packed.len - 1, 1u << 30);
	cr_assert_eq(run.ended, GUNZIP_TRUNCATED, "the last member is cut");
	inflate_pieces(&run, options, packed.data, first + 2, 1u << 30);
	cr_assert_eq(run.ended, GUNZIP_TRUNCATED, "magic promises another member");
}

Test(gunzip, what_follows_the_last_member_is_ignored)
{
	static const struct {
		const char *bytes;
		size_t len;
	} tails[] = { { "\0\0\0\0\0\0\0", 7 }, { "garbage", 7 }, { "\x1f", 1 },
		{ "\x1f\x1f\x8b", 3 }, { "\r\n", 2 } };
	CLEANUP(strbuf_done) struct strbuf text = STRBUF_INIT;
	CLEANUP(run_done) struct run run = { 0 };
	struct gunzip_options options = { .coding = GUNZIP_GZIP };

	make_text(&text, 4, 500);
	for (size_t i = 0; i < ARRAY_LEN(tails); i++) {
		CLEANUP(strbuf_done) struct strbuf packed = STRBUF_INIT;

		compress_to(&packed, GZIP_BITS, text.data, text.len);
		strbuf_add(&packed, tails[i].bytes, tails[i].len);
		for (size_t piece = 1; piece < 1u << 20; piece *= 1024) {
			inflate_pieces(&run, options, packed.data, packed.len, piece);
			cr_assert_eq(run.ended, GUNZIP_DONE, "tail %zu", i);
			cr_assert(same(&run.output, &text));
		}
	}
}

Test(gunzip, damage_is_found_and_located)
{
	CLEANUP(strbuf_done) struct strbuf text = STRBUF_INIT;
	CLEANUP(strbuf_done) struct strbuf packed = STRBUF_INIT;
	CLEANUP(run_done) struct run run = { 0 };
	struct gunzip_options options = { .coding = GUNZIP_GZIP };

	make_text(&text, 5, 4000);
	compress_to(&packed, GZIP_BITS, text.data, text.len);
	/* Behind the 10 bytes of header every bit counts, by the check sum if not before. */
	for (size_t at = 10; at < packed.len; at++) {
		packed.data[at] = (char)(packed.data[at] ^ 0x10);
		inflate_pieces(&run, options, packed.data, packed.len, 1000);
		cr_assert(run.ended == GUNZIP_CORRUPT || run.ended == GUNZIP_TRUNCATED,
		    "byte %zu", at);
		cr_assert_leq(run.offset, packed.len);
		packed.data[at] = (char)(packed.data[at] ^ 0x10);
	}
	inflate_pieces(&run, options, "MDMP and so on", 14, 1);
	cr_assert_eq(run.fed, GUNZIP_CORRUPT, "later input does not mend it");
	cr_assert_eq(run.ended, GUNZIP_CORRUPT);
	cr_assert_leq(run.offset, 2);
}

Test(gunzip, output_stops_at_its_cap)
{
	CLEANUP(strbuf_done) struct strbuf text = STRBUF_INIT;
	CLEANUP(strbuf_done) struct strbuf packed = STRBUF_INIT;
	CLEANUP(run_done) struct run run = { 0 };
	struct gunzip_options options = { .coding = GUNZIP_GZIP };

	make_text(&text, 6, 100000);
	compress_to(&packed, GZIP_BITS, text.data, text.len);
	options.max_output_bytes = 100000;
	inflate_pieces(&run, options, packed.data, packed.len, 1u << 30);
	cr_assert_eq(run.ended, GUNZIP_DONE);
	options.max_output_bytes = 99999;
	inflate_pieces(&run, options, packed.data, packed.len, 1u << 30);
	cr_assert_eq(run.ended, GUNZIP_TOO_LARGE);
	cr_assert_leq(run.output.len, options.max_output_bytes);
}

Test(gunzip, a_bomb_is_stopped_by_its_ratio_and_a_small_body_is_not)
{
	CLEANUP(cleanup_free) char *zeros = calloc(16, 1u << 20);
	CLEANUP(strbuf_done) struct strbuf bomb = STRBUF_INIT;
	CLEANUP(strbuf_done) struct strbuf page = STRBUF_INIT;
	CLEANUP(run_done) struct run run = { 0 };
	struct gunzip_options options = { .coding = GUNZIP_GZIP, .max_ratio = 200 };

	cr_assert_not_null(zeros);
	compress_to(&bomb, GZIP_BITS, zeros, 16u << 20);
	compress_to(&page, GZIP_BITS, zeros, GUNZIP_RATIO_FREE_BYTES);
	inflate_pieces(&run, options, page.data, page.len, 1u << 30);
	cr_assert_eq(run.ended, GUNZIP_DONE);
	inflate_pieces(&run, options, bomb.data, bomb.len, 512);
	cr_assert_eq(run.ended, GUNZIP_RATIO);
	cr_assert_leq(run.output.len, 2u << 20, "stopped early");
	options.max_ratio = 0;
	inflate_pieces(&run, options, bomb.data, bomb.len, 512);
	cr_assert_eq(run.ended, GUNZIP_DONE);
	cr_assert_eq(run.output.len, 16u << 20);
}

Test(gunzip, the_sink_can_stop_it)
{
	CLEANUP(strbuf_done) struct strbuf text = STRBUF_INIT;
	CLEANUP(strbuf_done) struct strbuf packed = STRBUF_INIT;
	CLEANUP(run_done) struct run run = { .stop_after = 1 };
	struct gunzip_options options = { .coding = GUNZIP_DEFLATE };

	make_text(&text, 7, 10u * GUNZIP_BLOCK_BYTES);
	compress_to(&packed, ZLIB_BITS, text.data, text.len);
	inflate_pieces(&run, options, packed.data, packed.len, 1u << 30);
	cr_assert_eq(run.ended, GUNZIP_STOPPED);
	cr_assert_leq(run.output.len, GUNZIP_BLOCK_BYTES);
}
