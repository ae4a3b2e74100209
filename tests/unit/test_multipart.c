/* SPDX-License-Identifier: MIT */
/* What the multipart reader must find: the parts that real clients mean, byte for byte,
 * the same ones whatever the cutting of the input. */
#include "multipart.h"

#include "fixture.h"
#include "gunzip.h"
#include "strbuf.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Everything found, as text: "[name|filename|type]data" per part, "-" for absent. */
struct record {
	struct strbuf text;
	uint64_t parts;
	bool is_open;
	uint64_t stop_after; /* parts; 0 = never */
	enum multipart_verdict verdict;
	bool closed;
};

static void add_text(struct record *r, struct multipart_text t)
{
	if (t.data)
		strbuf_add(&r->text, t.data, t.len);
	else
		strbuf_add_char(&r->text, '-');
}

static bool record_begin(void *cls, const struct multipart_part *part)
{
	struct record *r = cls;

	cr_assert_not(r->is_open);
	r->is_open = true;
	r->parts++;
	strbuf_add_char(&r->text, '[');
	add_text(r, part->name);
	strbuf_add_char(&r->text, '|');
	add_text(r, part->filename);
	strbuf_add_char(&r->text, '|');
	add_text(r, part->content_type);
	strbuf_add_char(&r->text, ']');
	return r->stop_after == 0 || r->parts < r->stop_after;
}

static bool record_data(void *cls, const void *data, size_t len)
{
	struct record *r = cls;

	cr_assert(r->is_open && len > 0);
	strbuf_add(&r->text, data, len);
	return true;
}

static bool record_end(void *cls)
{
	struct record *r = cls;

	cr_assert(r->is_open);
	r->is_open = false;
	return true;
}

static void record_done(struct record *r)
{
	strbuf_done(&r->text);
}

static const char *text_of(const struct record *r)
{
	return strbuf_str(&r->text);
}

/* Read a body in pieces of so many bytes, the first of them first bytes long. */
static void read_pieces(struct record *r, const char *boundary, size_t boundary_len,
    uint64_t max_parts, const void *body, size_t len, size_t first, size_t piece)
{
	const struct multipart_handler handler = { record_begin, record_data, record_end,
		r };
	struct multipart *m = NULL;
	const char *p = body;

	strbuf_reset(&r->text);
	r->parts = 0;
	r->is_open = false;
	cr_assert_eq(multipart_new(boundary, boundary_len, max_parts, &handler, &m), 0);
	r->verdict = multipart_feed(m, p, first < len ? first : len);
	for (size_t at = first; at < len; at += piece) {
		/* A copy of its own, so that a look outside the piece is noticed. */
		size_t n = len - at < piece ? len - at : piece;
		CLEANUP(cleanup_free) char *copy = malloc(n);

		cr_assert_not_null(copy);
		memcpy(copy, p + at, n);
		r->verdict = multipart_feed(m, copy, n);
	}
	if (r->verdict == MULTIPART_OK)
		r->verdict = multipart_end(m);
	cr_assert_eq(multipart_end(m), r->verdict, "a verdict is final");
	r->closed = multipart_closed(m);
	m = multipart_free(m);
	cr_assert_null(m);
}

static void read_whole(struct record *r, const char *boundary, const char *body)
{
	read_pieces(r, boundary, strlen(boundary), 0, body, strlen(body), 0, 1u << 30);
}

/* What bodies mean */

#define CD "Content-Disposition: form-data; "
#define BLANKS_16 "                "

static const struct {
	const char *what;
	const char *boundary;
	const char *body;
	const char *found;
	bool closed;
} bodies[] = {
	{ "plain", "B",
	    "--B\r\n" CD "name=\"a\"\r\n\r\n1\r\n--B\r\n" CD
	    "name=\"f\"; filename=\"x.dmp\"\r\nContent-Type: application/octet-stream\r\n"
	    "\r\nMDMP\r\n--B--\r\n",
	    "[a|-|-]1[f|x.dmp|application/octet-stream]MDMP", true },
	{ "bare line feeds", "B", "--B\n" CD "name=a\n\n1\n2\n\n--B\n\nx\n--B--\n",
	    "[a|-|-]1\n2\n[-|-|-]x", true },
	{ "Breakpad for Windows: no line end before the delimiter", "B",
	    "--B\r\n" CD "name=\"f\"\r\n\r\nMDMP--B\r\n" CD
	    "name=\"g\"\r\n\r\nlog--B--\r\n",
	    "[f|-|-]MDMP[g|-|-]log", true },
	{ "Cocoa: closed by a line of its own", "B",
	    "--B\r\n" CD "name=\"f\"\r\n\r\nMDMP\r\n--B\r\n--", "[f|-|-]MDMP", false },
	{ "preamble and epilogue", "B",
	    "pre\r\n--Bx\r\namble\r\n--B\r\n\r\nd\r\n--B--\r\nepi\r\n--B\r\n\r\nlogue",
	    "[-|-|-]d", true },
	{ "never closed", "B", "--B\r\n\r\ndata\r\n", "[-|-|-]data\r\n", false },
	{ "ends after a delimiter", "B", "--B\r\n\r\ndata\r\n--B", "[-|-|-]data", false },
	{ "ends after padding", "B", "--B\r\n\r\ndata\r\n--B \t", "[-|-|-]data", false },
	{ "ends in a line end", "B", "--B\r\n\r\ndata\r\n--B \r", "[-|-|-]data", false },
	{ "ends in half a close", "B", "--B\r\n\r\ndata\r\n--B-", "[-|-|-]data\r\n--B-",
	    false },
	{ "closed without a line end", "B", "--B\r\n\r\ndata\r\n--B--", "[-|-|-]data",
	    true },
	{ "padding", "B", "--B \t \r\n\r\nd\r\n--B" BLANKS_16 BLANKS_16 "\r\n\r\ne--B--",
	    "[-|-|-]d[-|-|-]e", true },
	{ "too much padding", "B", "--B\r\n\r\nd\r\n--B" BLANKS_16 BLANKS_16 " \r\ne",
	    "[-|-|-]d\r\n--B" BLANKS_16 BLANKS_16 " \r\ne", false },
	{ "lookalikes", "B",
	    "--B\r\n\r\n--Bx\r\n--B-\r\n--B \t-\r\n--B\rx\r\n-B\r\n--C\r\n\r\n--B--",
	    "[-|-|-]--Bx\r\n--B-\r\n--B \t-\r\n--B\rx\r\n-B\r\n--C\r\n", true },
	{ "a delimiter inside a lookalike", "--", "----\n\nx-----\n\ny--------",
	    "[-|-|-]x-[-|-|-]y", true },
	{ "a periodic boundary", "aab--aab",
	    "--aab--aab\n\n--aab--aa\n--aab--aab--aabx--aab--aab\n\n--aab--aab--",
	    "[-|-|-]--aab--aa", true },
	{ "empty values", "B",
	    "--B\r\n" CD "name=\"a\"\r\n\r\n\r\n--B\r\n" CD "name=\"b\"\r\n\r\n--B--",
	    "[a|-|-][b|-|-]", true },
	{ "line ends at the end of data", "B",
	    "--B\r\n\r\n\r\r\n--B\r\n\r\n\r\n\r\n\r\n--B\r\n\r\n\n\n--B\r\n\r\nx\r--B--",
	    "[-|-|-]\r[-|-|-]\r\n\r\n[-|-|-]\n\n[-|-|-]x\r", true },
	{ "headers only", "B",
	    "--B\r\n" CD "name=\"a\"\r\n--B\r\n--B\r\n" CD
	    "name=\"b\"\r\n\r\n1\r\n--B\r\n" CD "name=\"c\"\r\n--B--",
	    "[a|-|-][b|-|-]1[c|-|-]", true },
	{ "no part", "B", "--B--\r\n", "", true },
	{ "no part, two delimiters", "B", "--B\r\n--B--", "", true },
	{ "no delimiter", "B", "-B\r\n\r\n--b\r\n", "", false },
	{ "unfinished headers", "B", "--B\r\n" CD "name=\"a\"\r\n", "", false },
	{ "nothing", "B", "", "", false },

	{ "spelling of headers", "B",
	    "--B\r\ncontent-disposition:form-data;NAME=a ;  filename = x y \r\n"
	    "CONTENT-TYPE:\ttext/plain \r\n\r\n--B--",
	    "[a|x y|text/plain]", true },
	{ "folded headers", "B",
	    "--B\r\nContent-Disposition: form-data;\r\n "
	    "name=\"a\";\r\n\tfilename=\"b\"\r\n\r\n"
	    "--B--",
	    "[a|b|-]", true },
	{ "escapes stay as they are", "B",
	    "--B\r\n" CD
	    "name=\"a\\\"b;c%22\"; filename=\"C:\\dir\\x;.dmp\"\r\n\r\n--B--",
	    "[a\\\"b;c%22|C:\\dir\\x;.dmp|-]", true },
	{ "a path that ends in a backslash", "B",
	    "--B\r\n" CD "name=\"a\"; filename=\"C:\\dir\\\"\r\n\r\n--B--",
	    "[a|C:\\dir\\|-]", true },
	{ "an open quote", "B", "--B\r\n" CD "name=\"a;b\r\n\r\n--B--", "[a;b|-|-]",
	    true },
	{ "the first of each counts", "B",
	    "--B\r\n" CD "name=a; name=b; filename=; filename=c\r\n" CD
	    "name=d\r\nContent-Type: e\r\nContent-Type: f\r\n\r\n--B--",
	    "[a||e]", true },
	{ "extended filename", "B",
	    "--B\r\n" CD "name=a; filename*=UTF-8''%e2.dmp\r\n\r\n--B\r\n" CD
	    "filename*=x; filename=y\r\n\r\n--B--",
	    "[a|UTF-8''%e2.dmp|-][-|y|-]", true },
	{ "lines that are no headers", "B",
	    "--B\r\nnonsense\r\n: x\r\nContent-Type\r\nname=\"a\"\r\n\r\nd--B--",
	    "[-|-|-]d", true },

	{ "nested files of one name", "B",
	    "--B\r\n" CD
	    "name=\"files\"\r\nContent-Type: multipart/mixed; boundary=I\r\n\r\n"
	    "--I\r\nContent-Disposition: attachment; filename=\"a\"\r\n\r\n1\r\n--I\r\n"
	    "Content-Disposition: attachment; filename=\"b\"\r\nContent-Type: "
	    "t\r\n\r\n2\r\n"
	    "--I--\r\n\r\n--B\r\n" CD "name=\"z\"\r\n\r\n3\r\n--B--\r\n",
	    "[files|a|-]1[files|b|t]2[z|-|-]3", true },
	{ "nested, never closed", "B",
	    "--B\r\n" CD
	    "name=f\r\nContent-Type: multipart/mixed; boundary=\"B2\"\r\n\r\n"
	    "--B2\r\nContent-Disposition: file; filename=a\r\n\r\n1\r\n--B--",
	    "[f|a|-]1", true },
	{ "a file that is itself multipart", "B",
	    "--B\r\n" CD
	    "name=f; filename=m\r\nContent-Type: multipart/mixed; boundary=I\r\n"
	    "\r\n--I\r\n\r\nx\r\n--I--\r\n--B--",
	    "[f|m|multipart/mixed; boundary=I]--I\r\n\r\nx\r\n--I--", true },
	{ "nested without a boundary", "B",
	    "--B\r\n" CD "name=f\r\nContent-Type: multipart/mixed\r\n\r\n--I\r\n--B--",
	    "[f|-|multipart/mixed]--I", true },
	{ "nested twice: the inner one is data", "B",
	    "--B\r\n" CD "name=f\r\nContent-Type: multipart/mixed; boundary=I\r\n\r\n"
	    "--I\r\nContent-Type: multipart/mixed; "
	    "boundary=J\r\n\r\n--J\r\n\r\nx\r\n--J--"
	    "\r\n--I--\r\n--B--",
	    "[f|-|multipart/mixed; boundary=J]--J\r\n\r\nx\r\n--J--", true },
};

Test(multipart, finds_what_each_kind_of_body_means)
{
	CLEANUP(record_done) struct record r = { 0 };

	for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
		read_whole(&r, bodies[i].boundary, bodies[i].body);
		cr_assert_eq(r.verdict, MULTIPART_OK);
		cr_assert_str_eq(text_of(&r), bodies[i].found, "%s: found %s",
		    bodies[i].what, text_of(&r));
		cr_assert_eq(r.closed, bodies[i].closed, "%s", bodies[i].what);
	}
}

Test(multipart, finds_the_same_however_the_body_is_cut)
{
	CLEANUP(record_done) struct record r = { 0 };

	for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
		const char *b = bodies[i].boundary;
		size_t len = strlen(bodies[i].body);

		for (size_t n = 1; n <= len; n++) {
			read_pieces(
			    &r, b, strlen(b), 0, bodies[i].body, len, n, 1u << 30);
			cr_assert_str_eq(text_of(&r), bodies[i].found, "%s: cut at %zu",
			    bodies[i].what, n);
			cr_assert_eq(r.closed, bodies[i].closed);
			read_pieces(&r, b, strlen(b), 0, bodies[i].body, len, n, n);
			cr_assert_str_eq(text_of(&r), bodies[i].found,
			    "%s: pieces of %zu", bodies[i].what, n);
			cr_assert_eq(r.closed, bodies[i].closed);
		}
	}
}

/* Against a plain search */

static uint32_t next_random(uint32_t *x)
{
	*x = *x * 1664525u + 1013904223u;
	return *x >> 16;
}

/* Whether a delimiter stands at p; the rule of multipart.h, written down plainly. */
static bool is_delimiter(const char *p, const char *end, const char *boundary)
{
	size_t n = strlen(boundary);
	size_t blanks = 0;

	if ((size_t)(end - p) < n + 2 || memcmp(p, "--", 2) != 0 ||
	    memcmp(p + 2, boundary, n) != 0)
		return false;
	p += n + 2;
	if (end - p >= 2 && p[0] == '-' && p[1] == '-')
		return true;
	for (; p < end && (*p == ' ' || *p == '\t'); p++)
		blanks++;
	if (blanks > MULTIPART_PADDING_MAX)
		return false;
	if (p < end && *p == '\r')
		p++;
	return p == end || *p == '\n';
}

static size_t length_of_data(const char *data, size_t len, const char *boundary)
{
	for (size_t i = 0; i < len; i++) {
		if (!is_delimiter(data + i, data + len, boundary))
			continue;
		if (i > 0 && data[i - 1] == '\n')
			return i > 1 && data[i - 2] == '\r' ? i - 2 : i - 1;
		return i;
	}
	return len;
}

Test(multipart, agrees_with_a_plain_search_on_noise_made_of_delimiters)
{
	static const char letters[] = "----ab\r\n\n ";
	CLEANUP(record_done) struct record whole = { 0 };
	CLEANUP(record_done) struct record cut = { 0 };
	uint32_t x = 12345;

	for (int round = 0; round < 20000; round++) {
		char boundary[8] = "";
		char body[100] = "--";
		size_t head;
		size_t len;
		size_t found;

		for (size_t i = 0, n = 1 + next_random(&x) % 5; i < n; i++)
			boundary[i] = letters[2 + next_random(&x) % 4];
		strcat(strcat(body, boundary), "\n\n");
		head = strlen(body);
		len = head + next_random(&x) % 60;
		for (size_t i = head; i < len; i++)
			body[i] = letters[next_random(&x) % (sizeof(letters) - 1)];
		/* Half of them get a real one somewhere. */
		if (len > head + 20 && next_random(&x) % 2 == 0) {
			memcpy(body + head + 5, "--", 2);
			memcpy(body + head + 7, boundary, strlen(boundary));
		}
		found = length_of_data(body + head, len - head, boundary);
		read_pieces(
		    &whole, boundary, strlen(boundary), 0, body, len, 0, 1u << 30);
		cr_assert_geq(whole.text.len, 7 + found, "%.*s", (int)len, body);
		cr_assert_eq(memcmp(text_of(&whole) + 7, body + head, found), 0);
		cr_assert(
		    whole.text.len == 7 + found || text_of(&whole)[7 + found] == '[',
		    "boundary %s in %.*s", boundary, (int)len, body);
		read_pieces(&cut, boundary, strlen(boundary), 0, body, len,
		    next_random(&x) % len, 1 + next_random(&x) % 7);
		cr_assert_str_eq(text_of(&cut), text_of(&whole));
		cr_assert_eq(cut.closed, whole.closed);
	}
}

/* Boundary */

Test(multipart, takes_the_boundary_from_any_spelling)
{
	static const struct {
		const char *type;
		const char *boundary;
	} cases[] = {
		{ "multipart/form-data; boundary=abc", "abc" },
		{ "multipart/form-data;boundary=*****", "*****" },
		{ "Multipart/Form-Data; BOUNDARY=abc ", "abc" },
		{ "multipart/form-data; boundary=\"a b;c\"; charset=utf-8", "a b;c" },
		{ "multipart/form-data; charset=\"x; boundary=no\"; boundary=yes",
		    "yes" },
		{ "multipart/form-data; boundary=\"a\\\"b\\\\\"", "a\"b\\" },
		{ "multipart/form-data; boundary=a=b:c,d/e?; x=y", "a=b:c,d/e?" },
		{ "multipart/form-data , boundary=abc", "abc" },
		{ "multipart/form-data; boundary = abc", "abc" },
		{ "multipart/form-data; boundary=first; boundary=second", "first" },
		{ "multipart/form-data; boundary=\"trailing \"", "trailing" },
		{ "multipart/form-data; boundary=-", "-" },
		{ "multipart/form-data; boundary=----x----;", "----x----" },
		{ "multipart/form-data;;; boundary=abc", "abc" },
		{ "multipart/form-data; boundary=\"open", "open" },
	};
	char out[MULTIPART_BOUNDARY_MAX];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		int n = multipart_find_boundary(cases[i].type, out);

		cr_assert_eq(
		    (size_t)n, strlen(cases[i].boundary), "%s: %d", cases[i].type, n);
		cr_assert_eq(
		    memcmp(out, cases[i].boundary, (size_t)n), 0, "%s", cases[i].type);
		cr_assert(multipart_is_type(cases[i].type));
	}
}

Test(multipart, names_what_is_wrong_with_a_boundary)
{
	CLEANUP(strbuf_done) struct strbuf type = STRBUF_INIT;
	char out[MULTIPART_BOUNDARY_MAX];

	cr_assert_eq(multipart_find_boundary("multipart/form-data", out), -ENOENT);
	cr_assert_eq(
	    multipart_find_boundary("multipart/form-data; boundary", out), -ENOENT);
	cr_assert_eq(
	    multipart_find_boundary("multipart/form-data; xboundary=a", out), -ENOENT);
	cr_assert_eq(
	    multipart_find_boundary("multipart/form-data; boundary=", out), -EINVAL);
	cr_assert_eq(
	    multipart_find_boundary("multipart/form-data; boundary=\"\"", out), -EINVAL);
	cr_assert_eq(
	    multipart_find_boundary("multipart/form-data; boundary=a\tb", out), -EINVAL);
	strbuf_add_str(&type, "multipart/form-data; boundary=");
	for (int i = 0; i < MULTIPART_BOUNDARY_MAX; i++)
		strbuf_add_char(&type, 'x');
	cr_assert_eq(
	    multipart_find_boundary(strbuf_str(&type), out), MULTIPART_BOUNDARY_MAX);
	strbuf_add_char(&type, 'x');
	cr_assert_eq(multipart_find_boundary(strbuf_str(&type), out), -E2BIG);
	cr_assert_not(multipart_is_type("application/x-www-form-urlencoded"));
	cr_assert_not(multipart_is_type("multipart"));
	cr_assert_not(multipart_is_type(NULL));
}

Test(multipart, reads_with_boundaries_of_every_length)
{
	CLEANUP(record_done) struct record r = { 0 };

	for (size_t n = 1; n <= MULTIPART_BOUNDARY_MAX; n++) {
		CLEANUP(strbuf_done) struct strbuf body = STRBUF_INIT;
		CLEANUP(strbuf_done) struct strbuf boundary = STRBUF_INIT;

		for (size_t i = 0; i < n; i++)
			strbuf_add_char(&boundary, "-ab-"[i % 4]);
		strbuf_addf(&body, "--%s\r\n\r\n--%.*s\r\n--%s--", strbuf_str(&boundary),
		    (int)(n - 1), strbuf_str(&boundary), strbuf_str(&boundary));
		for (size_t piece = 1; piece < 1000; piece *= 3) {
			read_pieces(&r, strbuf_str(&boundary), n, 0, strbuf_str(&body),
			    body.len, piece, piece);
			cr_assert(r.closed, "length %zu", n);
			cr_assert_eq(
			    r.text.len, 7 + 2 + n - 1, "length %zu: %s", n, text_of(&r));
		}
	}
}

/* Limits */

Test(multipart, a_header_block_has_a_limit)
{
	CLEANUP(strbuf_done) struct strbuf body = STRBUF_INIT;
	CLEANUP(record_done) struct record r = { 0 };
	static const size_t pieces[] = { 1, 1000, 1u << 30 };
	size_t padding = MULTIPART_HEADER_MAX - strlen("X: \r\n\r\n");

	for (size_t extra = 0; extra < 2; extra++) {
		strbuf_reset(&body);
		strbuf_add_str(&body, "--B\r\nX: ");
		for (size_t i = 0; i < padding + extra; i++)
			strbuf_add_char(&body, 'x');
		strbuf_add_str(&body, "\r\n\r\ndata\r\n--B--");
		for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
			read_pieces(
			    &r, "B", 1, 0, strbuf_str(&body), body.len, 0, pieces[i]);
			cr_assert_eq(
			    r.verdict, extra ? MULTIPART_HEADER_TOO_LARGE : MULTIPART_OK);
			cr_assert_str_eq(text_of(&r), extra ? "" : "[-|-|-]data");
		}
	}
}

Test(multipart, parts_have_a_limit_nested_ones_too)
{
	static const char nested[] =
	    "--B\r\n" CD "name=f\r\nContent-Type: multipart/mixed; boundary=I\r\n\r\n"
	    "--I\r\n\r\n1\r\n--I\r\n\r\n2\r\n--I--\r\n--B--";
	CLEANUP(record_done) struct record r = { 0 };

	read_pieces(&r, "B", 1, 3, nested, strlen(nested), 0, 1u << 30);
	cr_assert_eq(r.verdict, MULTIPART_OK);
	read_pieces(&r, "B", 1, 2, nested, strlen(nested), 0, 1u << 30);
	cr_assert_eq(r.verdict, MULTIPART_TOO_MANY_PARTS);
	cr_assert_str_eq(text_of(&r), "[f|-|-]1");
}

Test(multipart, reads_a_hundred_thousand_parts)
{
	CLEANUP(strbuf_done) struct strbuf body = STRBUF_INIT;
	CLEANUP(record_done) struct record r = { 0 };

	for (int i = 0; i < 100000; i++)
		strbuf_addf(&body, "--B\r\n" CD "name=\"n%d\"\r\n\r\n%d\r\n", i, i);
	strbuf_add_str(&body, "--B--\r\n");
	read_pieces(&r, "B", 1, 0, body.data, body.len, 0, 32768);
	cr_assert_eq(r.verdict, MULTIPART_OK);
	cr_assert_eq(r.parts, 100000);
	cr_assert(r.closed);
	read_pieces(&r, "B", 1, 256, body.data, body.len, 0, 32768);
	cr_assert_eq(r.verdict, MULTIPART_TOO_MANY_PARTS);
	cr_assert_eq(r.parts, 256);
}

Test(multipart, a_callback_can_stop_it)
{
	CLEANUP(record_done) struct record r = { .stop_after = 2 };

	read_whole(&r, "B", "--B\r\n\r\n1\r\n--B\r\n\r\n2\r\n--B\r\n\r\n3\r\n--B--");
	cr_assert_eq(r.verdict, MULTIPART_STOPPED);
	cr_assert_eq(r.parts, 2);
}

/* Recorded requests */

static bool append(void *cls, const void *data, size_t len)
{
	strbuf_add(cls, data, len);
	return true;
}

/* The body without its content coding. */
static void decode_body(const struct fixture *f, struct strbuf *out)
{
	CLEANUP(cleanup_free) char *coding = fixture_header(f, "Content-Encoding");
	struct gunzip_options options = { GUNZIP_GZIP, 0, 0, append, out };
	struct gunzip *g = NULL;

	if (!coding) {
		strbuf_add(out, f->body, f->body_len);
		return;
	}
	cr_assert_eq(gunzip_new(&options, &g), 0);
	cr_assert_eq(gunzip_feed(g, f->body, f->body_len), GUNZIP_DONE);
	g = gunzip_free(g);
	cr_assert_null(g);
}

/* The parts of a recorded request compared one after the other with what is expected. */
struct comparison {
	const char *file;
	json_t *parts;
	size_t index;
	struct strbuf data;
};

static void compare_text(
    const struct comparison *c, const char *key, struct multipart_text found)
{
	const char *wanted = fixture_string(json_array_get(c->parts, c->index), key);

	cr_assert_eq(!wanted, !found.data, "%s part %zu %s", c->file, c->index, key);
	if (wanted)
		cr_assert(found.len == strlen(wanted) &&
			      memcmp(found.data, wanted, found.len) == 0,
		    "%s part %zu %s: %.*s", c->file, c->index, key, (int)found.len,
		    found.data);
}

static bool compare_begin(void *cls, const struct multipart_part *part)
{
	struct comparison *c = cls;

	cr_assert_lt(c->index, json_array_size(c->parts), "%s", c->file);
	compare_text(c, "name", part->name);
	compare_text(c, "filename", part->filename);
	compare_text(c, "content_type", part->content_type);
	strbuf_reset(&c->data);
	return true;
}

static bool compare_data(void *cls, const void *data, size_t len)
{
	struct comparison *c = cls;

	strbuf_add(&c->data, data, len);
	return true;
}

static bool compare_end(void *cls)
{
	struct comparison *c = cls;
	const json_t *wanted = json_array_get(c->parts, c->index);
	const char *value = fixture_string(wanted, "value");
	char hash[FIXTURE_SHA256_SIZE];

	cr_assert_eq((json_int_t)c->data.len,
	    json_integer_value(json_object_get(wanted, "size")), "%s part %zu", c->file,
	    c->index);
	fixture_sha256(strbuf_str(&c->data), c->data.len, hash);
	cr_assert_str_eq(
	    hash, fixture_string(wanted, "sha256"), "%s part %zu", c->file, c->index);
	if (value)
		cr_assert_str_eq(strbuf_str(&c->data), value);
	c->index++;
	return true;
}

static void compare_fixture(json_t *expected, size_t piece)
{
	struct comparison c = { .file = fixture_string(expected, "file"),
		.parts = json_object_get(expected, "parts") };
	const struct multipart_handler handler = { compare_begin, compare_data,
		compare_end, &c };
	CLEANUP(strbuf_done) struct strbuf body = STRBUF_INIT;
	CLEANUP(cleanup_free) char *type = NULL;
	CLEANUP(fixture_done) struct fixture f = { 0 };
	char boundary[MULTIPART_BOUNDARY_MAX];
	struct multipart *m = NULL;
	int len;

	fixture_load(c.file, &f);
	decode_body(&f, &body);
	type = fixture_header(&f, "Content-Type");
	cr_assert_not_null(type);
	len = multipart_find_boundary(type, boundary);
	cr_assert_gt(len, 0, "%s", c.file);
	cr_assert_eq(multipart_new(boundary, (size_t)len, 0, &handler, &m), 0);
	for (size_t at = 0; at < body.len; at += piece)
		cr_assert_eq(multipart_feed(m, body.data + at,
				 body.len - at < piece ? body.len - at : piece),
		    MULTIPART_OK);
	cr_assert_eq(multipart_end(m), MULTIPART_OK);
	cr_assert_eq(c.index, json_array_size(c.parts), "%s", c.file);
	m = multipart_free(m);
	strbuf_done(&c.data);
}

Test(multipart, finds_every_part_of_every_recorded_request)
{
	static const size_t pieces[] = { 1u << 30, 1, 3, 57, 1000, 32768, 65524 };
	json_t *all;
	size_t compared = 0;

	if (!fixture_available())
		cr_skip_test("request fixtures absent");
	all = fixture_expected();
	for (size_t i = 0; i < json_array_size(all); i++) {
		json_t *expected = json_array_get(all, i);

		if (!json_is_array(json_object_get(expected, "parts")))
			continue;
		for (size_t k = 0; k < ARRAY_LEN(pieces); k++)
			compare_fixture(expected, pieces[k]);
		compared++;
	}
	json_decref(all);
	cr_assert_gt(compared, 20);
}
