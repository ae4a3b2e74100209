/* SPDX-License-Identifier: MIT */
/* Streaming reader of multipart bodies as crash clients really write them (RFC 2046 and
 * 7578, and wire protocol notes, sections 2 to 7). It only looks: nothing is rewritten,
 * data is handed on as slices of the input wherever possible.
 *
 * A delimiter is "--" and the boundary, anywhere, followed by "--", or by at most
 * MULTIPART_PADDING_MAX blanks and a line end or the end of the body. Anything else after
 * it makes it data. A CRLF before it belongs to it, if there is one. A bare LF does only
 * if the part's header ended in one: else it is the last byte of a text file in a body of
 * Breakpad for Windows or macOS, which lack the line end before the delimiter. Cocoa's
 * bodies never close; the end of the body ends the last part. What stands before the
 * first delimiter and after the closing one is ignored.
 *
 * Work is linear in the input for every boundary and every way the input is cut; memory
 * is bounded by the boundary's and the header block's limits. An object belongs to one
 * thread at a time.
 */
#ifndef RELAY_MULTIPART_H
#define RELAY_MULTIPART_H

#include "cleanup.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* RFC 2046 allows 70 bytes; more is taken, for clients that know no better. */
#define MULTIPART_BOUNDARY_MAX 256

/* All header lines of one part together. */
#define MULTIPART_HEADER_MAX 16384u

/* Blanks between a delimiter and its line end (RFC 2046: transport padding). */
#define MULTIPART_PADDING_MAX 32

struct multipart;

enum multipart_verdict {
	MULTIPART_OK,
	MULTIPART_HEADER_TOO_LARGE, /* a part's header block is over its limit */
	MULTIPART_TOO_MANY_PARTS,
	MULTIPART_STOPPED, /* a callback wanted no more */
	MULTIPART_NO_MEMORY,
};

/* Bytes from a part's header, not NUL-terminated; data is NULL when the part has none. */
struct multipart_text {
	const char *data;
	size_t len;
};

/* What a part's header says, exactly as on the wire: neither backslash nor percent
 * escapes are undone (clients differ in what they escape). Valid until the callback
 * returns. */
struct multipart_part {
	struct multipart_text
	    name; /* inside a nested multipart/mixed: the outer part's */
	/* A part with a filename is a file, also with an empty one. From filename*, still
	 * in its RFC 5987 form, only when there is no plain filename. */
	struct multipart_text filename;
	struct multipart_text content_type;
};

/* Called in order begin, data any number of times, end; per part. false stops the reader
 * for good. */
struct multipart_handler {
	bool (*part_begin)(void *cls, const struct multipart_part *part);
	bool (*part_data)(void *cls, const void *data, size_t len); /* len > 0 */
	bool (*part_end)(void *cls);
	void *cls;
};

/* Whether a Content-Type value is of type multipart/anything. NULL is not. */
bool multipart_is_type(const char *content_type);

/* Take the boundary out of a Content-Type value (RFC 2045, section 5.1): quoted or not,
 * in any place among the parameters, the name in any case, with or without a space after
 * the semicolon. Unquoted it goes to the next semicolon, whatever characters it has.
 *
 * Returns: its length, 1 to MULTIPART_BOUNDARY_MAX; out is not NUL-terminated.
 * Errors:  -ENOENT no such parameter; -EINVAL empty or with control bytes; -E2BIG longer.
 */
int multipart_find_boundary(
    const char *content_type, char out[MULTIPART_BOUNDARY_MAX]) MUST_CHECK;

/* Make a reader. boundary is copied, without the leading dashes of the delimiter.
 * max_parts counts nested parts and their container too; 0 = no limit.
 * Owns: the caller ends it with multipart_free(). Errors: -EINVAL a boundary that is
 * empty, too long or has line ends; -ENOMEM. */
int multipart_new(const char *boundary, size_t boundary_len, uint64_t max_parts,
    const struct multipart_handler *handler, struct multipart **ret) MUST_CHECK;

/* Takes NULL, returns NULL. */
struct multipart *multipart_free(struct multipart *m);

/* Read the next piece of the body, of any length. A verdict other than OK is final. */
enum multipart_verdict multipart_feed(struct multipart *m, const void *data, size_t len);

/* The body has ended: ends the part that is open, if any. A part whose header block was
 * not complete is no part. */
enum multipart_verdict multipart_end(struct multipart *m);

/* Parts begun so far, with containers of nested ones. */
uint64_t multipart_parts(const struct multipart *m);

/* Whether the closing delimiter has been seen. */
bool multipart_closed(const struct multipart *m);

#endif
