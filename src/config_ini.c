/* SPDX-License-Identifier: MIT */
/* Owns the line syntax of configuration files. A reader of our own because inih (r55, as
 * Debian builds it) can't report every error with its line: its handler is told no line
 * number, and of several bad lines only the first is returned; after a broken header the
 * keys below count to the section before it; a section without keys, text after "]", and
 * a section name beyond 49 bytes go unnoticed or are cut without a word, as is a value at
 * a NUL byte; "key: value" counts as "key = value". Values beyond 195 bytes and indented
 * keys need its process-wide variables.
 */
#include "config_ini.h"

#include "strbuf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct reader {
	const struct config_ini_handler *handler;
	void *cls;
	unsigned int line;
};

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static bool is_comment(char c)
{
	return c == '#' || c == ';';
}

static bool is_control(char c)
{
	return ((unsigned char)c < 0x20 && c != '\t') || c == 0x7f;
}

static bool is_name(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static char *skip_blanks(char *s)
{
	while (is_blank(*s))
		s++;
	return s;
}

static void syntax_error(const struct reader *r, const char *what)
{
	r->handler->syntax_error(r->cls, r->line, what);
}

/* What is wrong with a line that begins with '[', or NULL; then *ret_label is NULL where
 * there is none. Cuts the line into its strings. */
static const char *split_header(char *s, const char **ret_name, const char **ret_label)
{
	const char *label = NULL;
	char *name;
	char *end;

	name = skip_blanks(s + 1);
	for (end = name; is_name(*end); end++)
		;
	if (end == name)
		return "no section name; expected [section] or [section \"name\"]";
	s = skip_blanks(end);
	if (*s == '"') {
		char *quote = strchr(s + 1, '"');

		if (!quote)
			return "the name of the section has no closing quote; "
			       "expected [section \"name\"]";
		label = s + 1;
		*quote = '\0';
		s = skip_blanks(quote + 1);
	}
	if (*s != ']')
		return "the section header has no \"]\" after its name; "
		       "expected [section] or [section \"name\"]";
	s = skip_blanks(s + 1);
	if (*s != '\0' && !is_comment(*s))
		return "text after the section header; expected a line of its own for "
		       "each";
	*end = '\0';
	*ret_name = name;
	*ret_label = label;
	return NULL;
}

static void read_header(const struct reader *r, char *s)
{
	const char *name = NULL;
	const char *label = NULL;
	const char *wrong = split_header(s, &name, &label);

	if (wrong)
		syntax_error(r, wrong);
	r->handler->section(r->cls, r->line, name, label);
}

/* Cut the value where a comment begins, then its blanks at both ends. */
static char *trim_value(char *s)
{
	char *end = s;

	while (*end != '\0' && !(is_comment(*end) && end > s && is_blank(end[-1])))
		end++;
	while (end > s && is_blank(end[-1]))
		end--;
	*end = '\0';
	return skip_blanks(s);
}

static void read_entry(const struct reader *r, char *s)
{
	char *key = s;
	char *end;
	char *value;

	for (end = key; is_name(*end); end++)
		;
	s = skip_blanks(end);
	if (*s == '=' && end == key) {
		syntax_error(r, "no key before \"=\"; expected key = value");
		return;
	}
	if (*s != '=') {
		syntax_error(r, "neither a section nor an entry; expected [section], "
				"key = value, or a comment after # or ;");
		return;
	}
	value = trim_value(s + 1);
	*end = '\0';
	if (strlen(value) > CONFIG_INI_VALUE_MAX_BYTES)
		syntax_error(r, "the value is too long; expected at most 65536 bytes");
	else
		r->handler->entry(r->cls, r->line, key, value);
}

/* s holds len bytes and a NUL; it may hold other NUL bytes as well. */
static void read_line(const struct reader *r, char *s, size_t len)
{
	char what[64];
	char *start = skip_blanks(s);

	if (start == s + len || is_comment(*start))
		return;
	for (size_t i = 0; i < len; i++) {
		if (!is_control(s[i]))
			continue;
		(void)snprintf(what, sizeof(what),
		    "control byte 0x%02x at column %zu; expected text",
		    (unsigned char)s[i], i + 1);
		syntax_error(r, what);
		if (*start == '[')
			r->handler->section(r->cls, r->line, NULL, NULL);
		return;
	}
	if (*start == '[')
		read_header(r, start);
	else
		read_entry(r, start);
}

int config_ini_parse(
    const char *data, size_t len, const struct config_ini_handler *handler, void *cls)
{
	static const char bom[] = "\xef\xbb\xbf";
	CLEANUP(strbuf_done) struct strbuf line = STRBUF_INIT;
	struct reader r = { .handler = handler, .cls = cls };
	size_t at = 0;

	if (len >= 3 && memcmp(data, bom, 3) == 0)
		at = 3;
	while (at < len) {
		const char *lf = memchr(data + at, '\n', len - at);
		size_t n = lf ? (size_t)(lf - (data + at)) : len - at;

		r.line++;
		strbuf_reset(&line);
		strbuf_add(&line, data + at, n);
		if (strbuf_status(&line) < 0)
			return -ENOMEM;
		at += n + (lf != NULL);
		if (n > 0 && line.data[n - 1] == '\r')
			line.data[--n] = '\0';
		read_line(&r, line.data, n);
	}
	return 0;
}
