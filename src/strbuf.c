/* SPDX-License-Identifier: MIT */
/* Owns the growth rule of byte strings and the escaping of foreign text. */
#include "strbuf.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

void strbuf_done(struct strbuf *b)
{
	free(b->data);
	*b = (struct strbuf)STRBUF_INIT;
}

void strbuf_reset(struct strbuf *b)
{
	b->len = 0;
	b->failed = false;
	if (b->data)
		b->data[0] = '\0';
}

/* Make room for len more bytes and the NUL. */
static bool reserve(struct strbuf *b, size_t len)
{
	size_t need;
	size_t cap;
	char *p;

	if (b->failed)
		return false;
	if (len > SIZE_MAX / 2 - b->len - 1) {
		b->failed = true;
		return false;
	}
	need = b->len + len + 1;
	if (need <= b->cap)
		return true;
	cap = b->cap < 64 ? 64 : b->cap;
	while (cap < need)
		cap *= 2;
	p = realloc(b->data, cap);
	if (!p) {
		b->failed = true;
		return false;
	}
	b->data = p;
	b->cap = cap;
	return true;
}

void strbuf_add(struct strbuf *b, const void *data, size_t len)
{
	if (!reserve(b, len))
		return;
	if (len > 0)
		memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = '\0';
}

void strbuf_add_str(struct strbuf *b, const char *s)
{
	strbuf_add(b, s, strlen(s));
}

void strbuf_add_char(struct strbuf *b, char c)
{
	strbuf_add(b, &c, 1);
}

void strbuf_vaddf(struct strbuf *b, const char *fmt, va_list ap)
{
	va_list again;
	int n;

	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	if (n < 0)
		b->failed = true;
	else if (reserve(b, (size_t)n)) {
		(void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
		b->len += (size_t)n;
	}
	va_end(again);
}

void strbuf_addf(struct strbuf *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	strbuf_vaddf(b, fmt, ap);
	va_end(ap);
}

/* Length of the well-formed UTF-8 sequence at s (RFC 3629), or 0. */
static size_t utf8_length(const unsigned char *s, size_t len)
{
	size_t need;

	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		need = 2;
	else if (s[0] >= 0xe0 && s[0] <= 0xef)
		need = 3;
	else if (s[0] >= 0xf0 && s[0] <= 0xf4)
		need = 4;
	else
		return 0;
	if (len < need)
		return 0;
	for (size_t i = 1; i < need; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, surrogates and what lies beyond U+10FFFF. */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return need;
}

/* C1 control characters and the bidirectional overrides would change how a line reads. */
static bool utf8_is_harmful(const unsigned char *s, size_t n)
{
	if (n == 2 && ((s[0] == 0xc2 && s[1] < 0xa0) || (s[0] == 0xd8 && s[1] == 0x9c)))
		return true;
	return n == 3 && s[0] == 0xe2 &&
	       ((s[1] == 0x80 &&
		    ((s[2] >= 0x8e && s[2] <= 0x8f) || (s[2] >= 0xa8 && s[2] <= 0xae))) ||
		   (s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9));
}

void strbuf_add_escaped(struct strbuf *b, const char *s, size_t len, size_t max)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t shown = len < max ? len : max;
	size_t i = 0;

	while (i < shown) {
		size_t n = utf8_length(p + i, len - i);

		if (n > shown - i) /* a character that the bound cuts is not shown */
			break;
		if (n == 0 || p[i] < 0x20 || p[i] == 0x7f || utf8_is_harmful(p + i, n)) {
			strbuf_addf(b, "\\x%02x", p[i]);
			i++;
		} else if (p[i] == '\\') {
			strbuf_add_str(b, "\\\\");
			i++;
		} else {
			strbuf_add(b, p + i, n);
			i += n;
		}
	}
	if (i < len)
		strbuf_add_str(b, "...");
}

int strbuf_status(const struct strbuf *b)
{
	return b->failed ? -ENOMEM : 0;
}

const char *strbuf_str(const struct strbuf *b)
{
	return b->data && !b->failed ? b->data : "";
}

char *strbuf_take(struct strbuf *b)
{
	char *s = NULL;

	strbuf_add(b, "", 0); /* an empty string is still a string */
	if (!b->failed)
		s = TAKE_PTR(b->data);
	strbuf_done(b);
	return s;
}
