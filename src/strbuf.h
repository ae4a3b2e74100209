/* SPDX-License-Identifier: MIT */
/* A growing byte string, always NUL-terminated, that may also hold NUL bytes. Errors are
 * sticky: after a failed allocation every call does nothing and strbuf_status() says so,
 * so a writer checks once at the end. */
#ifndef RELAY_STRBUF_H
#define RELAY_STRBUF_H

#include "cleanup.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct strbuf {
	char *data; /* NUL-terminated, or NULL while nothing was added */
	size_t len; /* without the NUL */
	size_t cap;
	bool failed;
};

#define STRBUF_INIT                                                                      \
	{                                                                                \
		0                                                                        \
	}

/* Release the memory and leave an empty, usable buffer. */
void strbuf_done(struct strbuf *b);

/* Forget the content, keep the memory, clear the error. */
void strbuf_reset(struct strbuf *b);

void strbuf_add(struct strbuf *b, const void *data, size_t len);
void strbuf_add_str(struct strbuf *b, const char *s);
void strbuf_add_char(struct strbuf *b, char c);
void strbuf_addf(struct strbuf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void strbuf_vaddf(struct strbuf *b, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);

/* Add text from outside so that it is safe on one line of a terminal or a log: control
 * bytes, DEL, and bytes that are not well-formed UTF-8 become \xNN, a backslash \\ ; at
 * most max bytes of the input are shown, a cut is marked by "...". */
void strbuf_add_escaped(struct strbuf *b, const char *s, size_t len, size_t max);

/* 0, or -ENOMEM if any call since the last reset failed. */
int strbuf_status(const struct strbuf *b) MUST_CHECK;

/* The content as a C string, never NULL ("" when empty or failed); valid until the next
 * call on b. */
const char *strbuf_str(const struct strbuf *b);

/* Hand the string to the caller, who frees it; b is empty afterwards. NULL after a
 * failure. */
char *strbuf_take(struct strbuf *b) MUST_CHECK;

#endif
