/* SPDX-License-Identifier: MIT */
/* Streaming inflate of an HTTP content coding, gzip or deflate, with caps on what comes
 * out. Memory is fixed (zlib's 32 KiB window and one output block), whatever the input
 * says. An object belongs to one thread at a time; there is no global state. */
#ifndef RELAY_GUNZIP_H
#define RELAY_GUNZIP_H

#include "cleanup.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The ratio is judged only once so much has come out: small honest bodies (a page of
 * zeros) inflate to a thousand times their size and hurt nobody. */
#define GUNZIP_RATIO_FREE_BYTES 1048576u

/* Most that is handed to the sink at once. */
#define GUNZIP_BLOCK_BYTES 32768u

struct gunzip;

enum gunzip_coding {
	GUNZIP_GZIP, /* RFC 1952, one or more members one after the other */
	/* RFC 1950 (zlib), as HTTP means it, or bare RFC 1951, as some clients send: told
	 * apart by the first two bytes, of which no encoder's bare form looks like the
	 * header of the other. */
	GUNZIP_DEFLATE,
};

enum gunzip_verdict {
	GUNZIP_OK,      /* sound so far, more input is needed */
	GUNZIP_DONE,    /* the stream may end here; gzip may go on with another member */
	GUNZIP_CORRUPT, /* not this coding, or damaged at gunzip_offset() */
	GUNZIP_TRUNCATED, /* from gunzip_end(): the input stopped before the stream's end
			   */
	GUNZIP_TOO_LARGE, /* more than max_output_bytes came out */
	GUNZIP_RATIO,     /* more than max_ratio times the input came out */
	GUNZIP_STOPPED,   /* the sink wanted no more */
	GUNZIP_NO_MEMORY,
};

struct gunzip_options {
	enum gunzip_coding coding;
	uint64_t max_output_bytes; /* 0 = no limit */
	uint64_t max_ratio;        /* 0 = no limit */
	/* Takes the next block of output, never empty; false ends the work. */
	bool (*sink)(void *cls, const void *data, size_t len);
	void *cls;
};

/* Make an inflater. Owns: the caller ends it with gunzip_free(). Errors: -ENOMEM. */
int gunzip_new(const struct gunzip_options *options, struct gunzip **ret) MUST_CHECK;

/* Takes NULL, returns NULL. */
struct gunzip *gunzip_free(struct gunzip *g);

/* Inflate the next piece of input, of any length. Every verdict but OK and DONE is final
 * and is returned again by every later call. What follows the end of the stream (zero
 * padding, garbage that does not begin with gzip's magic) is ignored, as gzip(1) does. */
enum gunzip_verdict gunzip_feed(struct gunzip *g, const void *data, size_t len);

/* The input has ended: DONE if the stream had, TRUNCATED if not, or the final verdict. */
enum gunzip_verdict gunzip_end(struct gunzip *g);

/* How many bytes of input were understood: after CORRUPT where it broke, after TRUNCATED
 * how much there was. */
uint64_t gunzip_offset(const struct gunzip *g);

/* zlib's words for what was wrong after CORRUPT, else "". A literal. */
const char *gunzip_reason(const struct gunzip *g);

#endif
