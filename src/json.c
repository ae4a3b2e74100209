/* SPDX-License-Identifier: MIT */
/* Owns the escaping of JSON strings and what we accept of foreign JSON. Invariants: what
 * is written is well-formed UTF-8 whatever came in; what is read is bounded in length and
 * depth before the library sees it, as its parser recurses. */
#include "json.h"

#include <jansson.h>
#include <stdint.h>
#include <string.h>

/* Writing */

/* Read one character. Returns its length, or 0 if the bytes are not well-formed UTF-8:
 * also overlong forms, surrogates and what lies beyond U+10FFFF (RFC 3629). */
static size_t read_utf8(const unsigned char *s, size_t len, uint32_t *ret)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	uint32_t c = s[0];
	size_t n = 1;

	if (c >= 0xf8 || (c >= 0x80 && c < 0xc0))
		return 0;
	if (c >= 0x80) {
		n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
		c &= 0x7fu >> n;
	}
	if (n > len)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3fu);
	}
	if (n > 1 && (c < smallest[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)))
		return 0;
	*ret = c;
	return n;
}

/* Whether a character may stand for itself. U+2028 and U+2029 end a line for JavaScript.
 */
static bool is_plain(uint32_t c)
{
	return c >= 0x20 && c != '"' && c != '\\' && c != 0x7f && c != 0x2028 &&
	       c != 0x2029;
}

static void add_escape(struct strbuf *b, uint32_t c)
{
	switch (c) {
	case '"':
	case '\\':
		strbuf_addf(b, "\\%c", (char)c);
		break;
	case '\n':
		strbuf_add_str(b, "\\n");
		break;
	case '\r':
		strbuf_add_str(b, "\\r");
		break;
	case '\t':
		strbuf_add_str(b, "\\t");
		break;
	default:
		strbuf_addf(b, "\\u%04x", (unsigned)c);
		break;
	}
}

void json_add_string(struct strbuf *b, const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t done = 0; /* all before it is written */
	size_t i = 0;

	strbuf_add_char(b, '"');
	while (i < len) {
		uint32_t c = 0xfffd;
		size_t n = read_utf8(p + i, len - i, &c);

		if (n == 0 || !is_plain(c)) {
			strbuf_add(b, p + done, i - done);
			if (n == 0)
				strbuf_add_str(b, "\xef\xbf\xbd");
			else
				add_escape(b, c);
			done = i + (n ? n : 1);
		}
		i += n ? n : 1;
	}
	strbuf_add(b, p + done, len - done);
	strbuf_add_char(b, '"');
}

/* Reading */

/* Whether text opens no more than JSON_READ_MAX_DEPTH brackets at once. A look only: on
 * what is not JSON it may be wrong either way by as much as the parser refuses anyway. */
static bool is_shallow(const char *text, size_t len)
{
	bool in_string = false;
	unsigned depth = 0;

	for (size_t i = 0; i < len; i++) {
		char c = text[i];

		if (c == '"')
			in_string = !in_string;
		else if (in_string)
			i += c == '\\';
		else if (c == '{' || c == '[')
			depth++;
		else if ((c == '}' || c == ']') && depth > 0)
			depth--;
		if (depth > JSON_READ_MAX_DEPTH)
			return false;
	}
	return true;
}

static void cleanup_json(json_t **j)
{
	json_decref(*j);
}

bool json_read_string(
    const char *text, size_t len, const char *key, char *out, size_t out_size)
{
	CLEANUP(cleanup_json) json_t *root = NULL;
	const json_t *member;
	size_t n;

	if (len > JSON_READ_MAX_BYTES || !is_shallow(text, len))
		return false;
	root = json_loadb(text, len, 0, NULL);
	if (!root)
		return false;
	member = json_object_get(root, key);
	if (!json_is_string(member))
		return false;
	n = json_string_length(member);
	if (n >= out_size)
		return false;
	memcpy(out, json_string_value(member), n + 1);
	return true;
}
