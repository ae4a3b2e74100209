/* SPDX-License-Identifier: MIT */
/* JSON at the edges: strings of our answers, written without building objects, and single
 * fields of upstream's replies, read with jansson. */
#ifndef RELAY_JSON_H
#define RELAY_JSON_H

#include "strbuf.h"

#include <stdbool.h>
#include <stddef.h>

/* No reply longer than this is looked into, nor one nested deeper. */
#define JSON_READ_MAX_BYTES ((size_t)64 * 1024)
#define JSON_READ_MAX_DEPTH 16

/* Add s as a JSON string with its quotes, on one line: control characters, DEL and the
 * separators U+2028 and U+2029 are escaped, each byte that is not well-formed UTF-8
 * becomes U+FFFD. Errors: as for strbuf. */
void json_add_string(struct strbuf *b, const char *s, size_t len);

/* Copy the string member named key of the object that text is. Whatever is in its way
 * (no object, not well-formed, too long, too deep, no such member, not a string, a NUL in
 * it, no room in out, no memory) counts as absent: false, and out is as it was. Safe on
 * any bytes. Threads: any. */
bool json_read_string(
    const char *text, size_t len, const char *key, char *out, size_t out_size);

#endif
