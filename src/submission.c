/* SPDX-License-Identifier: MIT */
/* Owns the rules by which a post is judged. The chain is feed → (gunzip) → read_decoded →
 * (multipart) → fields and files. The first refusal stays: everything checks verdict
 * before going on.
 */
#include "submission.h"

#include "endpoint.h"
#include "gunzip.h"
#include "multipart.h"
#include "strbuf.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>

enum reading {
	NOTHING,
	FIELD,
	FILE_PART,
};

struct submission {
	struct submission_limits limits;
	struct submission_sink sink; /* callbacks NULL when nobody wants the files */
	char *declared_format;
	char *content_type;
	bool is_follow_up;
	struct gunzip *gunzip;
	struct multipart *multipart; /* NULL: the body is one file */
	enum submission_verdict verdict;
	struct submission_refusal refusal;

	enum reading reading;
	struct strbuf field; /* name, NUL, value */
	size_t field_name_len;
	uint64_t attributes_bytes; /* spent of max_attributes_bytes */

	struct submission_facts facts; /* its arrays are the two below */
	struct submission_attribute *attributes;
	size_t attributes_cap;
	struct submission_file *files;
	size_t files_cap;
};

/* Refusal */

static const struct {
	int status;
	const char *code;
} refusals[] = {
	[SUBMISSION_OK] = { 0, "" },
	[SUBMISSION_EMPTY_BODY] = { 400, "empty-body" },
	[SUBMISSION_BAD_MULTIPART] = { 400, "bad-multipart" },
	[SUBMISSION_BAD_ENCODING] = { 400, "bad-encoding" },
	[SUBMISSION_UNSUPPORTED_ENCODING] = { 415, "unsupported-encoding" },
	[SUBMISSION_TOO_LARGE] = { 413, "too-large" },
	[SUBMISSION_NOT_A_MINIDUMP] = { 400, "not-a-minidump" },
	[SUBMISSION_NO_MEMORY] = { 503, "unavailable" },
};

/* Copy text, cut between characters where it is too long. */
static void copy_message(const char *text, char out[SUBMISSION_MESSAGE_SIZE])
{
	size_t len = strlen(text);

	if (len >= SUBMISSION_MESSAGE_SIZE) {
		len = SUBMISSION_MESSAGE_SIZE - 1;
		while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
			len--;
	}
	memcpy(out, text, len);
	out[len] = '\0';
}

/* Refuse, unless something else was wrong before. Foreign text among the arguments is
 * escaped by the caller. */
PRINTF_LIKE(3, 4)
static void refuse(
    struct submission *s, enum submission_verdict verdict, const char *fmt, ...)
{
	CLEANUP(strbuf_done) struct strbuf text = STRBUF_INIT;
	va_list ap;

	if (s->verdict != SUBMISSION_OK)
		return;
	va_start(ap, fmt);
	strbuf_vaddf(&text, fmt, ap);
	va_end(ap);
	s->verdict = verdict;
	s->refusal.status = refusals[verdict].status;
	s->refusal.code = refusals[verdict].code;
	copy_message(strbuf_str(&text), s->refusal.message);
}

static void refuse_no_memory(struct submission *s)
{
	refuse(s, SUBMISSION_NO_MEMORY, "out of memory");
}

/* Attributes */

/* Room for one more item in an array; NULL when there is no memory. */
static void *grow(void *array, size_t count, size_t *cap, size_t item_size)
{
	size_t wanted = *cap == 0 ? 8 : *cap * 2;
	void *p = array;

	if (count < *cap)
		return array;
	p = reallocarray(array, wanted, item_size);
	if (p)
		*cap = wanted;
	return p;
}

/* Spend from what attributes and names may take; false, with a refusal, when over. */
static bool spend(struct submission *s, size_t bytes)
{
	uint64_t max = s->limits.max_attributes_bytes;

	if (max > 0 && bytes > max - s->attributes_bytes) {
		refuse(s, SUBMISSION_TOO_LARGE,
		    "attributes and file names take more than %" PRIu64 " bytes", max);
		return false;
	}
	s->attributes_bytes += bytes;
	return true;
}

/* s->field is complete: make it an attribute. */
static void end_field(struct submission *s)
{
	size_t len = s->field.len;
	struct submission_attribute *all = grow(s->attributes, s->facts.attribute_count,
	    &s->attributes_cap, sizeof(*s->attributes));
	char *data = strbuf_take(&s->field);

	if (all)
		s->facts.attributes = s->attributes = all;
	if (!all || !data) {
		free(data);
		refuse_no_memory(s);
		return;
	}
	all[s->facts.attribute_count++] = (struct submission_attribute){ .name = data,
		.name_len = s->field_name_len,
		.value = data + s->field_name_len + 1,
		.value_len = len - s->field_name_len - 1 };
}

static void begin_field(struct submission *s, const char *name, size_t len)
{
	if (!spend(s, len))
		return;
	strbuf_reset(&s->field);
	strbuf_add(&s->field, name, len);
	strbuf_add_char(&s->field, '\0');
	s->field_name_len = len;
}

static void add_query_attribute(struct submission *s, const struct endpoint_param *p)
{
	CLEANUP(strbuf_done) struct strbuf text = STRBUF_INIT;

	endpoint_decode(p->raw, p->name_len, &text);
	begin_field(s, strbuf_str(&text), text.len);
	strbuf_reset(&text);
	endpoint_decode(p->value ? p->value : "", p->value_len, &text);
	if (strbuf_status(&text) < 0)
		refuse_no_memory(s);
	if (s->verdict != SUBMISSION_OK || !spend(s, text.len))
		return;
	strbuf_add(&s->field, strbuf_str(&text), text.len);
	end_field(s);
}

/* Files */

/* Copy header text; NULL stays NULL. Returns false when there is no memory. */
static bool copy_text(struct multipart_text t, char **ret)
{
	if (!t.data)
		return true;
	*ret = strndup(t.data, t.len);
	return *ret != NULL;
}

static void begin_file(struct submission *s, const struct multipart_part *part)
{
	struct submission_file *all =
	    grow(s->files, s->facts.file_count, &s->files_cap, sizeof(*s->files));
	struct submission_file *f;

	if (!all) {
		refuse_no_memory(s);
		return;
	}
	s->facts.files = s->files = all;
	f = &all[s->facts.file_count];
	*f = (struct submission_file){ 0 };
	s->facts.file_count++; /* now freed with the rest */
	if (!copy_text(part->name, &f->name) ||
	    !copy_text(part->filename, &f->filename) ||
	    !copy_text(part->content_type, &f->content_type)) {
		refuse_no_memory(s);
		return;
	}
	if (s->sink.file_begin)
		s->sink.file_begin(s->sink.cls, s->facts.file_count - 1, f);
}

static void add_file_data(struct submission *s, const void *data, size_t len)
{
	struct submission_file *f = &s->files[s->facts.file_count - 1];
	size_t room = sizeof(f->head) - f->head_len;
	size_t take = len < room ? len : room;

	memcpy(f->head + f->head_len, data, take);
	f->head_len += take;
	f->size += len;
	if (s->sink.file_data)
		s->sink.file_data(s->sink.cls, s->facts.file_count - 1, data, len);
}

static void end_file(struct submission *s)
{
	if (s->sink.file_end)
		s->sink.file_end(s->sink.cls, s->facts.file_count - 1);
}

/* Form parts */

static bool text_begins(struct multipart_text t, const char *word)
{
	size_t len = strlen(word);

	return t.len >= len && memcmp(t.data, word, len) == 0;
}

static bool text_is(struct multipart_text t, const char *word)
{
	return t.len == strlen(word) && text_begins(t, word);
}

static bool is_field(const struct multipart_part *p)
{
	return !p->filename.data && p->name.len > 0 &&
	       !text_is(p->name, "upload_file_minidump") &&
	       !text_is(p->name, "upload_file") && !text_begins(p->name, "attachment_");
}

static bool on_part_begin(void *cls, const struct multipart_part *part)
{
	struct submission *s = cls;

	if (is_field(part)) {
		s->reading = FIELD;
		begin_field(s, part->name.data, part->name.len);
	} else {
		s->reading = FILE_PART;
		if (spend(
			s, part->name.len + part->filename.len + part->content_type.len))
			begin_file(s, part);
	}
	return s->verdict == SUBMISSION_OK;
}

static bool on_part_data(void *cls, const void *data, size_t len)
{
	struct submission *s = cls;

	if (s->reading == FILE_PART)
		add_file_data(s, data, len);
	else if (spend(s, len))
		strbuf_add(&s->field, data, len);
	return s->verdict == SUBMISSION_OK;
}

static bool on_part_end(void *cls)
{
	struct submission *s = cls;

	if (s->reading == FILE_PART)
		end_file(s);
	else
		end_field(s);
	s->reading = NOTHING;
	return s->verdict == SUBMISSION_OK;
}

static void judge_multipart(struct submission *s, enum multipart_verdict v)
{
	switch (v) {
	case MULTIPART_OK:
	case MULTIPART_STOPPED: /* by a refusal of ours */
		return;
	case MULTIPART_HEADER_TOO_LARGE:
		refuse(s, SUBMISSION_TOO_LARGE,
		    "the header of part %" PRIu64 " takes more than %u bytes",
		    multipart_parts(s->multipart) + 1, MULTIPART_HEADER_MAX);
		return;
	case MULTIPART_TOO_MANY_PARTS:
		refuse(s, SUBMISSION_TOO_LARGE, "more than %" PRIu64 " parts",
		    s->limits.max_parts);
		return;
	case MULTIPART_NO_MEMORY:
	default:
		refuse_no_memory(s);
	}
}

/* Begin */

static bool word_is(const char *p, size_t len, const char *word)
{
	return len == strlen(word) && strncasecmp(p, word, len) == 0;
}

static bool read_decoded(void *cls, const void *data, size_t len);

static int begin_coding(struct submission *s, const char *coding)
{
	struct gunzip_options options = { .max_output_bytes = s->limits.max_decoded,
		.max_ratio = s->limits.max_ratio,
		.sink = read_decoded,
		.cls = s };
	size_t len;

	while (coding && isspace((unsigned char)*coding))
		coding++;
	len = coding ? strlen(coding) : 0;
	while (len > 0 && isspace((unsigned char)coding[len - 1]))
		len--;
	if (len == 0 || word_is(coding, len, "identity"))
		return 0;
	if (word_is(coding, len, "gzip") || word_is(coding, len, "x-gzip")) {
		options.coding = GUNZIP_GZIP;
	} else if (word_is(coding, len, "deflate")) {
		options.coding = GUNZIP_DEFLATE;
	} else {
		CLEANUP(strbuf_done) struct strbuf shown = STRBUF_INIT;

		strbuf_add_escaped(&shown, coding, len, 40);
		refuse(s, SUBMISSION_UNSUPPORTED_ENCODING,
		    "Content-Encoding \"%s\" is not supported: use gzip, deflate or "
		    "identity",
		    strbuf_str(&shown));
		return 0;
	}
	return gunzip_new(&options, &s->gunzip);
}

static int begin_multipart(struct submission *s)
{
	const struct multipart_handler handler = { .part_begin = on_part_begin,
		.part_data = on_part_data,
		.part_end = on_part_end,
		.cls = s };
	char boundary[MULTIPART_BOUNDARY_MAX];
	const char *what;
	int len;

	s->facts.is_multipart = true;
	len = multipart_find_boundary(s->content_type, boundary);
	if (len > 0)
		return multipart_new(
		    boundary, (size_t)len, s->limits.max_parts, &handler, &s->multipart);
	what = len == -ENOENT  ? "no boundary parameter"
	       : len == -E2BIG ? "a boundary that is too long"
			       : "an empty or unusable boundary";
	refuse(s, SUBMISSION_BAD_MULTIPART, "Content-Type is multipart and has %s", what);
	return 0;
}

static void add_query_attributes(struct submission *s, const struct endpoint *e)
{
	struct endpoint_params it;
	struct endpoint_param p;

	endpoint_params_init(&it, e->target, strlen(e->target));
	while (s->verdict == SUBMISSION_OK && endpoint_params_next(&it, &p))
		if (p.key == ENDPOINT_KEY_OTHER || p.key == ENDPOINT_KEY_MOD_SYNC)
			add_query_attribute(s, &p);
}

static int begin_body(struct submission *s, const char *content_encoding)
{
	struct multipart_part whole = { 0 };
	int r = begin_coding(s, content_encoding);

	if (r < 0 || s->verdict != SUBMISSION_OK)
		return r;
	if (!s->is_follow_up && multipart_is_type(s->content_type))
		return begin_multipart(s);
	begin_file(s, &whole);
	return 0;
}

int submission_new(const struct submission_options *options,
    const struct endpoint *endpoint, const char *content_type,
    const char *content_encoding, struct submission **ret)
{
	struct submission *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->limits = options->limits;
	if (options->sink)
		s->sink = *options->sink;
	s->is_follow_up = endpoint->object != NULL;
	s->facts.dump = SUBMISSION_NO_DUMP;
	s->declared_format = strdup(endpoint->format);
	s->facts.format = s->declared_format;
	s->refusal.code = refusals[SUBMISSION_OK].code;
	if (content_type)
		s->content_type = strdup(content_type);
	r = s->declared_format && !content_type == !s->content_type
		? begin_body(s, content_encoding)
		: -ENOMEM;
	if (r < 0) {
		submission_free(s);
		return r;
	}
	add_query_attributes(s, endpoint);
	*ret = s;
	return 0;
}

struct submission *submission_free(struct submission *s)
{
	if (!s)
		return NULL;
	for (size_t i = 0; i < s->facts.attribute_count; i++)
		free(s->attributes[i].name); /* one block with the value */
	for (size_t i = 0; i < s->facts.file_count; i++) {
		free(s->files[i].name);
		free(s->files[i].filename);
		free(s->files[i].content_type);
	}
	free(s->attributes);
	free(s->files);
	strbuf_done(&s->field);
	s->gunzip = gunzip_free(s->gunzip);
	s->multipart = multipart_free(s->multipart);
	free(s->declared_format);
	free(s->content_type);
	free(s);
	return NULL;
}

/* Body */

static void refuse_decoded_size(struct submission *s)
{
	refuse(s, SUBMISSION_TOO_LARGE, "the decoded body is over %" PRIu64 " bytes",
	    s->limits.max_decoded);
}

/* The sink of gunzip, and where a body without coding goes. */
static bool read_decoded(void *cls, const void *data, size_t len)
{
	struct submission *s = cls;

	s->facts.decoded_bytes += len;
	if (s->limits.max_decoded > 0 && s->facts.decoded_bytes > s->limits.max_decoded)
		refuse_decoded_size(s);
	else if (s->multipart)
		judge_multipart(s, multipart_feed(s->multipart, data, len));
	else
		add_file_data(s, data, len);
	return s->verdict == SUBMISSION_OK;
}

static void judge_coding(struct submission *s, enum gunzip_verdict v)
{
	uint64_t at = gunzip_offset(s->gunzip);

	switch (v) {
	case GUNZIP_OK:
	case GUNZIP_DONE:
	case GUNZIP_STOPPED: /* by a refusal of ours */
		return;
	case GUNZIP_CORRUPT:
		refuse(s, SUBMISSION_BAD_ENCODING,
		    "the body does not inflate: broken at byte %" PRIu64 " (%s)", at,
		    gunzip_reason(s->gunzip));
		return;
	case GUNZIP_TRUNCATED:
		refuse(s, SUBMISSION_BAD_ENCODING,
		    "the body does not inflate to its end: it stops at byte %" PRIu64,
		    at);
		return;
	case GUNZIP_TOO_LARGE:
		refuse_decoded_size(s);
		return;
	case GUNZIP_RATIO:
		refuse(s, SUBMISSION_TOO_LARGE,
		    "the body inflates to more than %" PRIu64 " times its size",
		    s->limits.max_ratio);
		return;
	case GUNZIP_NO_MEMORY:
	default:
		refuse_no_memory(s);
	}
}

enum submission_verdict submission_feed(
    struct submission *s, const void *data, size_t len)
{
	if (s->verdict != SUBMISSION_OK || len == 0)
		return s->verdict;
	s->facts.received_bytes += len;
	if (s->gunzip)
		judge_coding(s, gunzip_feed(s->gunzip, data, len));
	else
		(void)read_decoded(s, data, len); /* a refusal is in s */
	return s->verdict;
}

/* End */

static bool begins_with(const struct submission_file *f, const char *magic, size_t len)
{
	return f->head_len >= len && memcmp(f->head, magic, len) == 0;
}

static bool begins_as_minidump(const struct submission_file *f)
{
	return begins_with(f, "MDMP", 4);
}

/* gzip, xz, bzip2, zstd. */
static bool begins_as_compressed(const struct submission_file *f)
{
	return begins_with(f, "\x1f\x8b", 2) || begins_with(f, "\xfd\x37zXZ\0", 6) ||
	       begins_with(f, "BZh", 3) || begins_with(f, "\x28\xb5\x2f\xfd", 4);
}

/* The first file of a name, or SUBMISSION_NO_DUMP. */
static size_t find_file(const struct submission *s, const char *name)
{
	for (size_t i = 0; i < s->facts.file_count; i++)
		if (s->files[i].name && strcmp(s->files[i].name, name) == 0)
			return i;
	return SUBMISSION_NO_DUMP;
}

static size_t find_dump(const struct submission *s)
{
	size_t dump;

	if (s->is_follow_up)
		return SUBMISSION_NO_DUMP;
	if (!s->multipart)
		return 0;
	dump = find_file(s, "upload_file_minidump");
	if (dump == SUBMISSION_NO_DUMP)
		dump = find_file(s, "upload_file");
	for (size_t i = 0; i < s->facts.file_count && dump == SUBMISSION_NO_DUMP; i++)
		if (begins_as_minidump(&s->files[i]))
			dump = i;
	return dump;
}

/* The format says minidump, and what came is none. */
static void refuse_dump(struct submission *s)
{
	CLEANUP(strbuf_done) struct strbuf where = STRBUF_INIT;
	CLEANUP(strbuf_done) struct strbuf found = STRBUF_INIT;
	const struct submission_file *f;

	if (s->facts.dump == SUBMISSION_NO_DUMP) {
		refuse(s, SUBMISSION_NOT_A_MINIDUMP,
		    "format minidump, but none of %" PRIu64
		    " parts is upload_file_minidump, upload_file or a file that begins "
		    "with MDMP",
		    multipart_parts(s->multipart));
		return;
	}
	f = &s->files[s->facts.dump];
	if (f->name) {
		strbuf_add_str(&where, "part ");
		strbuf_add_escaped(&where, f->name, strlen(f->name), 40);
	} else {
		strbuf_add_str(&where, s->multipart ? "the part" : "the body");
	}
	strbuf_add_escaped(&found, (const char *)f->head, f->head_len, f->head_len);
	if (f->size == 0)
		refuse(s, SUBMISSION_NOT_A_MINIDUMP, "format minidump, but %s is empty",
		    strbuf_str(&where));
	else
		refuse(s, SUBMISSION_NOT_A_MINIDUMP,
		    "format minidump, but %s (%" PRIu64
		    " bytes) begins with \"%s\", not with MDMP",
		    strbuf_str(&where), f->size, strbuf_str(&found));
}

static void judge_dump(struct submission *s)
{
	const struct submission_file *f = NULL;

	s->facts.dump = find_dump(s);
	if (s->facts.dump != SUBMISSION_NO_DUMP)
		f = &s->files[s->facts.dump];
	if (f && begins_as_minidump(f)) {
		s->facts.is_minidump = true;
		s->facts.format = "minidump";
		return;
	}
	if (s->is_follow_up || strcmp(s->declared_format, "minidump") != 0 ||
	    (f && begins_as_compressed(f)))
		return;
	refuse_dump(s);
}

static void end_body(struct submission *s)
{
	CLEANUP(strbuf_done) struct strbuf shown = STRBUF_INIT;

	if (!s->multipart) {
		end_file(s);
		return;
	}
	judge_multipart(s, multipart_end(s->multipart));
	s->facts.is_closed = multipart_closed(s->multipart);
	if (multipart_parts(s->multipart) > 0)
		return;
	strbuf_add_escaped(&shown, s->content_type, strlen(s->content_type), 100);
	refuse(s, SUBMISSION_BAD_MULTIPART,
	    "no part in a multipart body of %" PRIu64 " bytes, Content-Type %s",
	    s->facts.decoded_bytes, strbuf_str(&shown));
}

enum submission_verdict submission_end(struct submission *s)
{
	if (s->verdict == SUBMISSION_OK && s->facts.received_bytes == 0)
		refuse(s, SUBMISSION_EMPTY_BODY, "the body is empty");
	if (s->verdict == SUBMISSION_OK && s->gunzip)
		judge_coding(s, gunzip_end(s->gunzip));
	if (s->verdict == SUBMISSION_OK && s->facts.decoded_bytes == 0)
		refuse(s, SUBMISSION_EMPTY_BODY, "the body inflates to nothing");
	if (s->verdict == SUBMISSION_OK)
		end_body(s);
	if (s->verdict == SUBMISSION_OK)
		judge_dump(s);
	return s->verdict;
}

enum submission_verdict submission_verdict(const struct submission *s)
{
	return s->verdict;
}

const struct submission_refusal *submission_refusal(const struct submission *s)
{
	return &s->refusal;
}

const struct submission_facts *submission_facts(const struct submission *s)
{
	return &s->facts;
}
