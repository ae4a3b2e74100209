/* SPDX-License-Identifier: MIT */
/* How a post is judged: everything a real client sends is accepted and understood, and
 * what can be no report is refused with the contract's status and code. */
#include "submission.h"

#include "endpoint.h"
#include "fixture.h"
#include "strbuf.h"

#include <criterion/criterion.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define HOSTED "/u/0123456789abcdef/"
#define MULTIPART "multipart/form-data; boundary=B"
#define CD "Content-Disposition: form-data; "

/* A post as a test writes it; len 0 = body is a string. */
struct post {
	const char *target;
	const char *type;
	const char *encoding;
	const void *body;
	size_t len;
	struct submission_limits limits;
	const struct submission_sink *sink;
};

/* Read a post in pieces of so many bytes to its end, or to its refusal. */
static struct submission *read_pieces(const struct post *p, size_t piece)
{
	const struct submission_options options = { p->limits, p->sink };
	CLEANUP(endpoint_done) struct endpoint e = { 0 };
	enum endpoint_fault fault;
	struct submission *s = NULL;
	const char *body = p->body;
	size_t len = p->len > 0 ? p->len : strlen(body);

	cr_assert_eq(endpoint_parse(p->target, strlen(p->target), &e, &fault), 0);
	cr_assert_eq(submission_new(&options, &e, p->type, p->encoding, &s), 0);
	for (size_t at = 0; at < len; at += piece)
		if (submission_feed(s, body + at, len - at < piece ? len - at : piece) !=
		    SUBMISSION_OK)
			break;
	cr_assert_eq(submission_end(s), submission_verdict(s));
	return s;
}

static struct submission *read_post(const struct post *p)
{
	return read_pieces(p, SIZE_MAX / 2);
}

static void check_refused(
    const struct post *p, int status, const char *code, const char *message)
{
	struct submission *s = read_post(p);
	const struct submission_refusal *r = submission_refusal(s);

	cr_assert_neq(submission_verdict(s), SUBMISSION_OK, "%s is accepted", message);
	cr_assert_str_eq(r->code, code, "%s: %s", r->code, r->message);
	cr_assert_eq(r->status, status);
	cr_assert_str_eq(r->message, message, "%s", r->message);
	cr_assert_eq(submission_feed(s, "MDMP", 4), submission_verdict(s), "it is final");
	s = submission_free(s);
	cr_assert_null(s);
}

/* Accepted, with this effective format; "minidump" must have been found in the bytes
 * unless opaque is set. */
static void check_accepted(const struct post *p, const char *format, bool is_minidump)
{
	struct submission *s = read_post(p);
	const struct submission_facts *f = submission_facts(s);

	cr_assert_eq(
	    submission_verdict(s), SUBMISSION_OK, "%s", submission_refusal(s)->message);
	cr_assert_eq(submission_refusal(s)->status, 0);
	cr_assert_str_eq(f->format, format);
	cr_assert_eq(f->is_minidump, is_minidump);
	s = submission_free(s);
	cr_assert_null(s);
}

/* Content codings */

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
}

#define GZIP_BITS (15 + 16)
#define ZLIB_BITS 15
#define RAW_BITS (-15)

Test(submission, takes_every_spelling_of_the_codings)
{
	static const struct {
		const char *encoding;
		int bits;
	} cases[] = { { "gzip", GZIP_BITS }, { "GZip ", GZIP_BITS },
		{ "x-gzip", GZIP_BITS }, { "deflate", ZLIB_BITS },
		{ "Deflate", RAW_BITS } };
	static const char dump[] = "MDMP and the rest of a dump";

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(strbuf_done) struct strbuf body = STRBUF_INIT;
		struct post p = { .target = HOSTED "json",
			.encoding = cases[i].encoding };

		compress_to(&body, cases[i].bits, dump, sizeof(dump) - 1);
		p.body = body.data;
		p.len = body.len;
		check_accepted(&p, "minidump", true);
	}
	check_accepted(
	    &(struct post){
		.target = HOSTED "minidump", .encoding = "identity", .body = dump },
	    "minidump", true);
	check_accepted(
	    &(struct post){ .target = HOSTED "minidump", .encoding = " ", .body = dump },
	    "minidump", true);
}

Test(submission, refuses_codings_it_can_not_undo)
{
	struct post p = { .target = HOSTED "minidump", .body = "MDMP" };

	p.encoding = "br";
	check_refused(&p, 415, "unsupported-encoding",
	    "Content-Encoding \"br\" is not supported: use gzip, deflate or identity");
	p.encoding = "gzip, gzip";
	check_refused(&p, 415, "unsupported-encoding",
	    "Content-Encoding \"gzip, gzip\" is not supported: use gzip, deflate or "
	    "identity");
	p.encoding = "\x1b[31m";
	check_refused(&p, 415, "unsupported-encoding",
	    "Content-Encoding \"\\x1b[31m\" is not supported: use gzip, deflate or "
	    "identity");
}

Test(submission, a_gzip_body_must_inflate_to_its_end_in_every_format)
{
	static const char dump[] = "MDMP and the rest of a dump, rather short";
	static const char *const targets[] = { HOSTED "minidump", HOSTED "json",
		HOSTED "json?object=x" };
	CLEANUP(strbuf_done) struct strbuf body = STRBUF_INIT;

	compress_to(&body, GZIP_BITS, dump, sizeof(dump) - 1);
	for (size_t i = 0; i < ARRAY_LEN(targets); i++) {
		struct post p = { .target = targets[i], .encoding = "gzip" };

		p.body = body.data;
		for (p.len = 1; p.len < body.len; p.len++) {
			char message[100];

			(void)snprintf(message, sizeof(message),
			    "the body does not inflate to its end: it stops at byte %zu",
			    p.len);
			check_refused(&p, 400, "bad-encoding", message);
		}
		check_refused(
		    &(struct post){
			.target = targets[i], .encoding = "gzip", .body = dump },
		    400, "bad-encoding",
		    "the body does not inflate: broken at byte 2 (incorrect header "
		    "check)");
	}
}

/* Emptiness */

Test(submission, an_empty_body_is_no_report)
{
	CLEANUP(strbuf_done) struct strbuf nothing = STRBUF_INIT;
	struct post p = { .body = "" };

	p.target = HOSTED "minidump";
	check_refused(&p, 400, "empty-body", "the body is empty");
	p.target = HOSTED "symbols";
	check_refused(&p, 400, "empty-body", "the body is empty");
	p.target = HOSTED "json?object=x&attachment_name=y";
	check_refused(&p, 400, "empty-body", "the body is empty");
	p.target = HOSTED "json";
	p.type = MULTIPART;
	check_refused(&p, 400, "empty-body", "the body is empty");
	p.encoding = "gzip";
	check_refused(&p, 400, "empty-body", "the body is empty");
	compress_to(&nothing, GZIP_BITS, "", 0);
	p.body = nothing.data;
	p.len = nothing.len;
	check_refused(&p, 400, "empty-body", "the body inflates to nothing");
}

/* Multipart */

Test(submission, a_multipart_body_needs_a_boundary_and_a_part)
{
	struct post p = { .target = HOSTED "json", .body = "--B\r\n\r\nx\r\n--B--" };

	p.type = "multipart/form-data";
	check_refused(&p, 400, "bad-multipart",
	    "Content-Type is multipart and has no boundary parameter");
	p.type = "multipart/form-data; boundary=\"\"";
	check_refused(&p, 400, "bad-multipart",
	    "Content-Type is multipart and has an empty or unusable boundary");
	p.type = MULTIPART;
	p.body = "--C\r\n\r\nx\r\n--C--";
	check_refused(&p, 400, "bad-multipart",
	    "no part in a multipart body of 15 bytes, Content-Type " MULTIPART);
	p.body = "--B--\r\n";
	check_refused(&p, 400, "bad-multipart",
	    "no part in a multipart body of 7 bytes, Content-Type " MULTIPART);
	p.body = "--B\r\n\r\nx";
	check_accepted(&p, "json", false);
	p.type = "multipart/mixed; boundary=B";
	check_accepted(&p, "json", false);
}

Test(submission, a_refused_boundary_has_a_bounded_message)
{
	CLEANUP(strbuf_done) struct strbuf type = STRBUF_INIT;
	struct post p = { .target = HOSTED "json", .body = "x" };
	struct submission *s;

	strbuf_add_str(&type, "multipart/form-data; boundary=\"\xc3\xa4\x1b");
	for (int i = 0; i < 5000; i++)
		strbuf_add_str(&type, "\xc3\xa4");
	p.type = strbuf_str(&type);
	check_refused(&p, 400, "bad-multipart",
	    "Content-Type is multipart and has an empty or unusable boundary");
	type.len = 0;
	strbuf_add_str(&type, "multipart/form-data; boundary=B; x=\"");
	for (int i = 0; i < 5000; i++)
		strbuf_add_char(&type, '\x1b');
	p.type = strbuf_str(&type);
	s = read_post(&p);
	cr_assert_eq(submission_verdict(s), SUBMISSION_BAD_MULTIPART);
	cr_assert_lt(strlen(submission_refusal(s)->message), SUBMISSION_MESSAGE_SIZE);
	submission_free(s);
}

/* Which part is the dump */

#define PART(params, data) "--B\r\n" CD params "\r\n\r\n" data "\r\n"

Test(submission, chooses_the_dump_by_name_then_by_magic)
{
	static const struct {
		const char *what;
		const char *body;
		size_t dump;
		bool is_minidump;
	} cases[] = {
		{ "the best name wins",
		    PART("name=\"x\"; filename=\"x\"", "MDMP1")
			PART("name=\"upload_file\"; filename=\"x\"", "MDMP2") PART(
			    "name=\"upload_file_minidump\"; filename=\"x\"", "MDMP3"),
		    2, true },
		{ "the second best name",
		    PART("name=\"x\"; filename=\"x\"", "MDMP1")
			PART("name=\"upload_file\"; filename=\"x\"", "MDMP2"),
		    1, true },
		{ "the first of a name",
		    PART("name=\"upload_file\"; filename=\"x\"", "MDMP1")
			PART("name=\"upload_file\"; filename=\"x\"", "MDMP2"),
		    0, true },
		{ "the first file with the magic",
		    PART("name=\"a\"; filename=\"x\"", "log")
			PART("name=\"b\"; filename=\"x\"", "MDMP1")
			    PART("name=\"c\"; filename=\"x\"", "MDMP2"),
		    1, true },
		{ "a part without a name", "--B\r\n\r\nMDMP\r\n", 0, true },
		{ "no filename, but the name", PART("name=upload_file", "MDMP"), 0,
		    true },
		{ "a report in JSON with a dump attached",
		    PART("name=\"upload_file\"; filename=\"x\"", "{}")
			PART("name=\"attachment_d\"; filename=\"d\"", "MDMP"),
		    0, false },
		{ "a field with the magic is no dump", PART("name=x", "MDMP"),
		    SUBMISSION_NO_DUMP, false },
		{ "the browser SDK: fields only",
		    PART("name=\"upload_file\"", "{}")
			PART("name=\"attachment_a\"", "text"),
		    0, false },
		{ "nothing of the kind", PART("name=\"a\"; filename=\"x\"", "log"),
		    SUBMISSION_NO_DUMP, false },
		{ "too short for the magic", PART("name=upload_file", "MDM"), 0, false },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		for (size_t piece = 1; piece < 300; piece += 7) {
			struct submission *s =
			    read_pieces(&(struct post){ .target = HOSTED "json",
					    .type = MULTIPART,
					    .body = cases[i].body },
				piece);
			const struct submission_facts *f = submission_facts(s);

			cr_assert_eq(submission_verdict(s), SUBMISSION_OK, "%s: %s",
			    cases[i].what, submission_refusal(s)->message);
			cr_assert_eq(
			    f->dump, cases[i].dump, "%s: %zu", cases[i].what, f->dump);
			cr_assert_eq(
			    f->is_minidump, cases[i].is_minidump, "%s", cases[i].what);
			cr_assert_str_eq(
			    f->format, cases[i].is_minidump ? "minidump" : "json");
			submission_free(s);
		}
	}
}

Test(submission, format_minidump_needs_a_dump_and_says_what_came)
{
	struct post p = { .target = HOSTED "minidump" };

	p.body = "example_minidump.dmp";
	check_refused(&p, 400, "not-a-minidump",
	    "format minidump, but the body (20 bytes) begins with \"example_\", "
	    "not with MDMP");
	p.body = "\x1b[2J\xff\x07";
	check_refused(&p, 400, "not-a-minidump",
	    "format minidump, but the body (6 bytes) begins with "
	    "\"\\x1b[2J\\xff\\x07\", not with MDMP");
	p.body = "MDM";
	check_refused(&p, 400, "not-a-minidump",
	    "format minidump, but the body (3 bytes) begins with \"MDM\", not with MDMP");
	p.type = MULTIPART;
	p.body = PART("name=a", "x") PART("name=b; filename=c", "log");
	check_refused(&p, 400, "not-a-minidump",
	    "format minidump, but none of 2 parts is upload_file_minidump, upload_file "
	    "or "
	    "a file that begins with MDMP");
	p.body = PART("name=upload_file_minidump; filename=c", "") "--B--";
	check_refused(&p, 400, "not-a-minidump",
	    "format minidump, but part upload_file_minidump is empty");
	p.body = PART("name=upload_file; filename=c", "\n<html>") "--B--";
	check_refused(&p, 400, "not-a-minidump",
	    "format minidump, but part upload_file (7 bytes) begins with "
	    "\"\\x0a<html>\", not with MDMP");
	p.target = "/post?token=T&format=minidump";
	check_refused(&p, 400, "not-a-minidump",
	    "format minidump, but part upload_file (7 bytes) begins with "
	    "\"\\x0a<html>\", not with MDMP");
}

Test(submission, a_dump_that_is_itself_compressed_is_opaque)
{
	static const struct {
		const char *bytes;
		size_t len;
	} magics[] = { { "\x1f\x8b\x08\0", 4 }, { "\xfd\x37zXZ\0\0", 7 }, { "BZh9", 4 },
		{ "\x28\xb5\x2f\xfd\0", 5 } };
	static const char head[] = "--B\r\n" CD "name=upload_file_minidump\r\n\r\n";

	for (size_t i = 0; i < ARRAY_LEN(magics); i++) {
		CLEANUP(strbuf_done) struct strbuf form = STRBUF_INIT;
		struct post p = { .target = HOSTED "minidump",
			.body = magics[i].bytes,
			.len = magics[i].len };

		check_accepted(&p, "minidump", false);
		strbuf_add(&form, head, sizeof(head) - 1);
		strbuf_add(&form, magics[i].bytes, magics[i].len);
		p.type = MULTIPART;
		p.body = form.data;
		p.len = form.len;
		check_accepted(&p, "minidump", false);
	}
}

Test(submission, other_formats_and_follow_ups_are_opaque)
{
	struct post p = { .target = HOSTED "json", .body = "anything" };

	check_accepted(&p, "json", false);
	p.target = HOSTED "symbols";
	check_accepted(&p, "symbols", false);
	p.type = "application/x-www-form-urlencoded";
	p.body = "MDMP=1&x";
	check_accepted(&p, "minidump", true);
	p.target = HOSTED "minidump?object=x";
	p.body = "log";
	check_accepted(&p, "minidump", false);
	p.target = HOSTED "json?object=x";
	p.body = "MDMP";
	check_accepted(&p, "json", false);
	p.type = MULTIPART;
	p.body = "no form";
	check_accepted(&p, "json", false);
}

/* Facts */

static void list_attributes(const struct submission_facts *f, struct strbuf *out)
{
	for (size_t i = 0; i < f->attribute_count; i++) {
		const struct submission_attribute *a = &f->attributes[i];

		strbuf_add(out, a->name, a->name_len);
		strbuf_add_char(out, '=');
		strbuf_add(out, a->value, a->value_len);
		strbuf_add_char(out, ';');
	}
}

Test(submission, collects_attributes_and_attachments)
{
	static const char body[] = PART("name=\"v%22\"", "1\n2") PART("name=empty", "")
	    PART("name=\"attachment_a\"; filename=\"C:\\a\"\r\nContent-Type: t/p", "log")
		PART("name=upload_file; filename=d", "MDMPxxxxxx") "--B--";
	CLEANUP(strbuf_done) struct strbuf found = STRBUF_INIT;
	struct submission *s = read_post(&(struct post){
	    .target = "/post?minidump&a=%41+b&token=T&universe=u&_mod_sync=1&c&"
		      "attachment_name=n&format=",
	    .type = MULTIPART,
	    .body = body });
	const struct submission_facts *f = submission_facts(s);

	cr_assert_eq(submission_verdict(s), SUBMISSION_OK);
	list_attributes(f, &found);
	cr_assert_str_eq(strbuf_str(&found),
	    "minidump=;a=A b;_mod_sync=1;c=;v%22=1\n2;empty=;", "%s", strbuf_str(&found));
	cr_assert_eq(f->file_count, 2);
	cr_assert_str_eq(f->files[0].name, "attachment_a");
	cr_assert_str_eq(f->files[0].filename, "C:\\a");
	cr_assert_str_eq(f->files[0].content_type, "t/p");
	cr_assert_eq(f->files[0].size, 3);
	cr_assert_eq(f->dump, 1);
	cr_assert_eq(f->files[1].size, 10);
	cr_assert_null(f->files[1].content_type);
	cr_assert(f->is_closed && f->is_multipart);
	cr_assert_eq(f->received_bytes, sizeof(body) - 1);
	cr_assert_eq(f->decoded_bytes, sizeof(body) - 1);
	submission_free(s);
}

Test(submission, values_may_hold_nul_bytes)
{
	static const char body[] = "--B\r\n" CD "name=a\r\n\r\nx\0y\r\n--B--";
	struct submission *s = read_post(&(struct post){ .target = HOSTED "json?q=%00z",
	    .type = MULTIPART,
	    .body = body,
	    .len = sizeof(body) - 1 });
	const struct submission_facts *f = submission_facts(s);

	cr_assert_eq(f->attribute_count, 2);
	cr_assert_eq(f->attributes[0].value_len, 2);
	cr_assert_eq(memcmp(f->attributes[0].value, "\0z", 3), 0);
	cr_assert_eq(f->attributes[1].value_len, 3);
	cr_assert_eq(memcmp(f->attributes[1].value, "x\0y", 4), 0);
	submission_free(s);
}

/* Limits */

Test(submission, attributes_have_a_limit_together)
{
	/* Names and values: q, 12 | a, 34 | file f, n, t. */
	static const char body[] =
	    PART("name=a", "34") PART("name=f; filename=n\r\nContent-Type: t", "MDMP");
	struct post p = {
		.target = HOSTED "minidump?q=12", .type = MULTIPART, .body = body
	};

	p.limits.max_attributes_bytes = 9;
	check_accepted(&p, "minidump", true);
	p.limits.max_attributes_bytes = 8;
	check_refused(
	    &p, 413, "too-large", "attributes and file names take more than 8 bytes");
	p.limits.max_attributes_bytes = 5;
	check_refused(
	    &p, 413, "too-large", "attributes and file names take more than 5 bytes");
	p.limits.max_attributes_bytes = 2;
	check_refused(
	    &p, 413, "too-large", "attributes and file names take more than 2 bytes");
}

Test(submission, parts_headers_and_sizes_have_limits)
{
	CLEANUP(strbuf_done) struct strbuf big = STRBUF_INIT;
	struct post p = { .target = HOSTED "json",
		.type = MULTIPART,
		.body = PART("name=a", "1") PART("name=b", "2") };

	p.limits.max_parts = 2;
	check_accepted(&p, "json", false);
	p.limits.max_parts = 1;
	check_refused(&p, 413, "too-large", "more than 1 parts");
	strbuf_add_str(&big, "--B\r\n\r\n\r\n--B\r\nX: ");
	for (int i = 0; i < 17000; i++)
		strbuf_add_char(&big, 'x');
	p.body = big.data;
	p.limits.max_parts = 0;
	check_refused(
	    &p, 413, "too-large", "the header of part 2 takes more than 16384 bytes");
	p.type = NULL;
	p.body = "12345";
	p.limits.max_decoded = 5;
	check_accepted(&p, "json", false);
	p.limits.max_decoded = 4;
	check_refused(&p, 413, "too-large", "the decoded body is over 4 bytes");
}

Test(submission, bombs_are_refused)
{
	CLEANUP(cleanup_free) char *zeros = calloc(8, 1u << 20);
	CLEANUP(strbuf_done) struct strbuf bomb = STRBUF_INIT;
	struct post p = { .target = HOSTED "json", .encoding = "gzip" };

	cr_assert_not_null(zeros);
	compress_to(&bomb, GZIP_BITS, zeros, 8u << 20);
	p.body = bomb.data;
	p.len = bomb.len;
	check_accepted(&p, "json", false);
	p.limits.max_ratio = 200;
	check_refused(
	    &p, 413, "too-large", "the body inflates to more than 200 times its size");
	p.limits.max_ratio = 0;
	p.limits.max_decoded = 1u << 20;
	check_refused(&p, 413, "too-large", "the decoded body is over 1048576 bytes");
}

/* Sink */

static void log_begin(void *cls, size_t file, const struct submission_file *f)
{
	strbuf_addf(cls, "<%zu %s>", file, f->name ? f->name : "-");
}

static void log_data(void *cls, size_t file, const void *data, size_t len)
{
	(void)file;
	strbuf_add(cls, data, len);
}

static void log_end(void *cls, size_t file)
{
	strbuf_addf(cls, "</%zu>", file);
}

Test(submission, the_sink_sees_every_file_decoded)
{
	CLEANUP(strbuf_done) struct strbuf seen = STRBUF_INIT;
	CLEANUP(strbuf_done) struct strbuf packed = STRBUF_INIT;
	const struct submission_sink sink = { log_begin, log_data, log_end, &seen };
	static const char form[] = PART("name=a", "field")
	    PART("name=f; filename=n", "log") PART("name=upload_file", "MDMP") "--B--";
	struct post p = { .target = HOSTED "json",
		.type = MULTIPART,
		.encoding = "gzip",
		.sink = &sink };

	compress_to(&packed, GZIP_BITS, form, sizeof(form) - 1);
	p.body = packed.data;
	p.len = packed.len;
	check_accepted(&p, "minidump", true);
	cr_assert_str_eq(strbuf_str(&seen), "<0 f>log</0><1 upload_file>MDMP</1>");
	strbuf_reset(&seen);
	p = (struct post){ .target = HOSTED "json", .body = "raw", .sink = &sink };
	check_accepted(&p, "json", false);
	cr_assert_str_eq(strbuf_str(&seen), "<0 ->raw</0>");
}

/* Recorded requests */

/* Fields that expected.json lists, in order, must be the last attributes. */
static void compare_parts(
    const char *file, json_t *parts, const struct submission_facts *f)
{
	size_t files = 0;
	size_t fields = 0;
	size_t skipped;

	for (size_t i = 0; i < json_array_size(parts); i++)
		if (!fixture_string(json_array_get(parts, i), "filename"))
			fields++;
	cr_assert_geq(f->attribute_count, fields, "%s", file);
	skipped = f->attribute_count - fields;
	fields = 0;
	for (size_t i = 0; i < json_array_size(parts); i++) {
		json_t *part = json_array_get(parts, i);
		json_int_t size = json_integer_value(json_object_get(part, "size"));
		char hash[FIXTURE_SHA256_SIZE];

		if (fixture_string(part, "filename")) {
			cr_assert_lt(files, f->file_count, "%s", file);
			cr_assert_str_eq(
			    f->files[files].name, fixture_string(part, "name"));
			cr_assert_str_eq(
			    f->files[files].filename, fixture_string(part, "filename"));
			cr_assert_eq(f->files[files].size, (uint64_t)size);
			files++;
			continue;
		}
		cr_assert_str_eq(f->attributes[skipped + fields].name,
		    fixture_string(part, "name"), "%s", file);
		cr_assert_eq(f->attributes[skipped + fields].value_len, (size_t)size);
		fixture_sha256(f->attributes[skipped + fields].value, (size_t)size, hash);
		cr_assert_str_eq(hash, fixture_string(part, "sha256"), "%s", file);
		fields++;
	}
	cr_assert_eq(f->file_count, files, "%s", file);
}

static void compare_fixture(json_t *expected, size_t piece)
{
	const char *file = fixture_string(expected, "file");
	const char *dump_part = fixture_string(expected, "dump_part");
	json_t *parts = json_object_get(expected, "parts");
	json_t *decoded = json_object_get(expected, "decoded_bytes");
	CLEANUP(fixture_done) struct fixture f = { 0 };
	CLEANUP(cleanup_free) char *type = NULL;
	CLEANUP(cleanup_free) char *encoding = NULL;
	const struct submission_facts *facts;
	struct submission *s;

	fixture_load(file, &f);
	cr_assert_eq(f.is_complete, json_is_true(json_object_get(expected, "complete")));
	cr_assert_eq((json_int_t)f.body_len,
	    json_integer_value(json_object_get(expected, "entity_bytes")));
	cr_assert_str_eq(f.target, fixture_string(expected, "target"));
	if (f.body_len == 0)
		return;
	type = fixture_header(&f, "Content-Type");
	encoding = fixture_header(&f, "Content-Encoding");
	s = read_pieces(&(struct post){ .target = f.target,
			    .type = type,
			    .encoding = encoding,
			    .body = f.body,
			    .len = f.body_len },
	    piece);
	facts = submission_facts(s);
	if (strcmp(file, "curl-d-literal-path.http") == 0) {
		cr_assert_eq(submission_verdict(s), SUBMISSION_NOT_A_MINIDUMP);
		submission_free(s);
		return;
	}
	cr_assert_eq(submission_verdict(s), SUBMISSION_OK, "%s: %s", file,
	    submission_refusal(s)->message);
	cr_assert_eq(facts->decoded_bytes,
	    decoded ? (uint64_t)json_integer_value(decoded) : f.body_len);
	cr_assert_eq(facts->is_multipart, json_is_array(parts), "%s", file);
	if (facts->is_multipart) {
		compare_parts(file, parts, facts);
		cr_assert_eq(facts->is_minidump, dump_part != NULL, "%s", file);
		if (dump_part)
			cr_assert_str_eq(facts->files[facts->dump].name, dump_part);
		cr_assert_eq(facts->is_closed, !strstr(file, "cocoa"), "%s", file);
	} else {
		cr_assert_eq(facts->is_minidump,
		    json_is_true(json_object_get(expected, "raw_is_minidump")), "%s",
		    file);
	}
	submission_free(s);
}

Test(submission, understands_every_recorded_request)
{
	static const size_t pieces[] = { 1u << 30, 1, 13, 4097, 65524 };
	json_t *all;

	if (!fixture_available())
		cr_skip_test("request fixtures absent");
	all = fixture_expected();
	cr_assert_gt(json_array_size(all), 30);
	for (size_t i = 0; i < json_array_size(all); i++)
		for (size_t k = 0; k < ARRAY_LEN(pieces); k++)
			compare_fixture(json_array_get(all, i), pieces[k]);
	json_decref(all);
}
