/* SPDX-License-Identifier: MIT */
/* Owns zlib: nothing outside this file knows its types or codes. Output is counted before
 * it is handed on, so a sink never sees a byte beyond the caps. gzip's members are told
 * from trailing garbage here, by their magic, because zlib stops after each member. */
#include "gunzip.h"

#include <errno.h>
#include <limits.h>
#define ZLIB_CONST
#include <zlib.h>

enum gunzip_state {
	DETECT_FIRST,  /* deflate: no byte seen */
	DETECT_SECOND, /* deflate: one byte seen, kept in first */
	INFLATE,       /* inside a stream */
	MEMBER_END,    /* gzip: at the end of a member */
	MEMBER_MAGIC,  /* gzip: the first byte of the magic came after a member */
	TRAILER,       /* all that comes now is ignored */
};

#define GZIP_MAGIC_1 0x1f
#define GZIP_MAGIC_2 0x8b

/* Window bits as inflateInit2() takes them. */
#define WINDOW_GZIP (15 + 16)
#define WINDOW_ZLIB 15
#define WINDOW_RAW (-15)

struct gunzip {
	struct gunzip_options options;
	enum gunzip_state state;
	enum gunzip_verdict failed; /* GUNZIP_OK while nothing has failed */
	z_stream z;
	uint64_t consumed; /* input bytes that zlib or we have taken */
	uint64_t produced;
	const char *reason;
	unsigned char first;
	unsigned char block[GUNZIP_BLOCK_BYTES];
};

int gunzip_new(const struct gunzip_options *options, struct gunzip **ret)
{
	struct gunzip *g = calloc(1, sizeof(*g));
	bool is_gzip = options->coding == GUNZIP_GZIP;

	if (!g)
		return -ENOMEM;
	g->options = *options;
	g->state = is_gzip ? INFLATE : DETECT_FIRST;
	g->reason = "";
	if (inflateInit2(&g->z, is_gzip ? WINDOW_GZIP : WINDOW_ZLIB) != Z_OK) {
		free(g);
		return -ENOMEM;
	}
	*ret = g;
	return 0;
}

struct gunzip *gunzip_free(struct gunzip *g)
{
	if (!g)
		return NULL;
	(void)inflateEnd(&g->z); /* fails only for a stream never initialised */
	free(g);
	return NULL;
}

/* Count what zlib has put into the block and hand it on. */
static enum gunzip_verdict pass_block(struct gunzip *g)
{
	const struct gunzip_options *o = &g->options;
	size_t len = sizeof(g->block) - g->z.avail_out;

	if (len == 0)
		return GUNZIP_OK;
	g->produced += len;
	if (o->max_output_bytes > 0 && g->produced > o->max_output_bytes)
		return GUNZIP_TOO_LARGE;
	if (o->max_ratio > 0 && g->produced > GUNZIP_RATIO_FREE_BYTES &&
	    g->produced / o->max_ratio > g->consumed)
		return GUNZIP_RATIO;
	return o->sink(o->cls, g->block, len) ? GUNZIP_OK : GUNZIP_STOPPED;
}

static enum gunzip_verdict map_zlib(struct gunzip *g, int r)
{
	switch (r) {
	case Z_OK:
	case Z_STREAM_END:
	case Z_BUF_ERROR: /* no progress: wants more input */
		return GUNZIP_OK;
	case Z_MEM_ERROR:
		return GUNZIP_NO_MEMORY;
	case Z_NEED_DICT:
		g->reason = "preset dictionary";
		return GUNZIP_CORRUPT;
	default:
		if (g->z.msg)
			g->reason = g->z.msg;
		return GUNZIP_CORRUPT;
	}
}

/* Run zlib over the input until it is used up or the stream has ended. */
static enum gunzip_verdict inflate_input(
    struct gunzip *g, const unsigned char *data, size_t len, size_t *ret_used)
{
	size_t used = 0;
	int r;

	do {
		size_t left = len - used;
		uInt offered = left > UINT_MAX ? UINT_MAX : (uInt)left;
		enum gunzip_verdict v;

		g->z.next_in = data + used;
		g->z.avail_in = offered;
		g->z.next_out = g->block;
		g->z.avail_out = sizeof(g->block);
		r = inflate(&g->z, Z_NO_FLUSH);
		used += offered - g->z.avail_in;
		g->consumed += offered - g->z.avail_in;
		v = map_zlib(g, r);
		if (v == GUNZIP_OK)
			v = pass_block(g);
		if (v != GUNZIP_OK)
			return v;
		/* A full block may hide more output that needs no more input. */
	} while (
	    r != Z_STREAM_END && r != Z_BUF_ERROR && (used < len || g->z.avail_out == 0));
	if (r == Z_STREAM_END)
		g->state = g->options.coding == GUNZIP_GZIP ? MEMBER_END : TRAILER;
	*ret_used = used;
	return GUNZIP_OK;
}

static bool is_zlib_header(unsigned first, unsigned second)
{
	/* RFC 1950: method 8, a window of at most 32 KiB, and a check over both bytes. */
	return (first & 0x0f) == 8 && first >> 4 <= 7 && (first * 256 + second) % 31 == 0;
}

/* Deflate's second byte: choose the form, then give zlib the byte kept back. */
static enum gunzip_verdict detect_form(struct gunzip *g, unsigned char second)
{
	size_t used;

	g->state = INFLATE;
	if (!is_zlib_header(g->first, second) && inflateReset2(&g->z, WINDOW_RAW) != Z_OK)
		return GUNZIP_NO_MEMORY;
	return inflate_input(g, &g->first, 1, &used);
}

/* The magic of another gzip member is complete: begin it. */
static enum gunzip_verdict begin_member(struct gunzip *g)
{
	static const unsigned char magic[] = { GZIP_MAGIC_1, GZIP_MAGIC_2 };
	size_t used;

	g->state = INFLATE;
	if (inflateReset(&g->z) != Z_OK)
		return GUNZIP_NO_MEMORY;
	return inflate_input(g, magic, sizeof(magic), &used);
}

/* Take input by the state, at least one byte of it. */
static enum gunzip_verdict step(
    struct gunzip *g, const unsigned char *data, size_t len, size_t *ret_used)
{
	*ret_used = 1;
	switch (g->state) {
	case DETECT_FIRST:
		g->first = data[0];
		g->state = DETECT_SECOND;
		return GUNZIP_OK;
	case DETECT_SECOND:
		*ret_used = 0; /* only looked at: zlib takes it next */
		return detect_form(g, data[0]);
	case INFLATE:
		return inflate_input(g, data, len, ret_used);
	case MEMBER_END:
		g->state = data[0] == GZIP_MAGIC_1 ? MEMBER_MAGIC : TRAILER;
		return GUNZIP_OK;
	case MEMBER_MAGIC:
		if (data[0] == GZIP_MAGIC_2)
			return begin_member(g);
		g->state = TRAILER;
		return GUNZIP_OK;
	case TRAILER:
	default:
		*ret_used = len;
		return GUNZIP_OK;
	}
}

static bool may_end(const struct gunzip *g)
{
	return g->state == MEMBER_END || g->state == MEMBER_MAGIC || g->state == TRAILER;
}

enum gunzip_verdict gunzip_feed(struct gunzip *g, const void *data, size_t len)
{
	const unsigned char *p = data;
	size_t at = 0;

	while (g->failed == GUNZIP_OK && at < len) {
		size_t used = 0;

		g->failed = step(g, p + at, len - at, &used);
		at += used;
	}
	if (g->failed != GUNZIP_OK)
		return g->failed;
	return may_end(g) ? GUNZIP_DONE : GUNZIP_OK;
}

enum gunzip_verdict gunzip_end(struct gunzip *g)
{
	if (g->failed == GUNZIP_OK && !may_end(g))
		g->failed = GUNZIP_TRUNCATED;
	return g->failed == GUNZIP_OK ? GUNZIP_DONE : g->failed;
}

uint64_t gunzip_offset(const struct gunzip *g)
{
	return g->consumed + (g->state == DETECT_SECOND ? 1 : 0);
}

const char *gunzip_reason(const struct gunzip *g)
{
	return g->reason;
}
