/* SPDX-License-Identifier: MIT */
/* One post being read: body → inflate → form parts → what it is. A look, never a rewrite:
 * what is stored is the body as received, and nothing here keeps it. Knows no HTTP beyond
 * the two header values, and no spool.
 *
 * What can be no report is refused, with the status, code and message that the client
 * gets (interface contract, section 2); all else is accepted as it is. Memory is bounded
 * by the limits, whatever the body's size. One submission belongs to one thread at a time.
 */
#ifndef RELAY_SUBMISSION_H
#define RELAY_SUBMISSION_H

#include "cleanup.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct endpoint;
struct submission;

/* What was found */

/* From the query (decoded), then from form fields (name as on the wire). Both strings are
 * NUL-terminated, and may hold NUL bytes. */
struct submission_attribute {
	char *name;
	size_t name_len;
	char *value;
	size_t value_len;
};

#define SUBMISSION_HEAD_BYTES 8

/* A body, or a form part that is no attribute: one with a filename or without a name, and
 * without a filename those called upload_file_minidump, upload_file and attachment_...
 * (Backtrace's browser SDK sends them so). Strings as on the wire, up to their first NUL
 * byte; NULL when absent, as all are for a body without form. */
struct submission_file {
	char *name;
	char *filename;
	char *content_type;
	uint64_t size;
	unsigned char head[SUBMISSION_HEAD_BYTES]; /* its first bytes */
	size_t head_len;
};

#define SUBMISSION_NO_DUMP SIZE_MAX

struct submission_facts {
	/* "minidump" if the dump begins with MDMP, whatever was declared; else as declared.
	 */
	const char *format;
	bool is_minidump;
	bool is_multipart;
	bool is_closed; /* multipart: the closing delimiter was there */
	/* Index of the dump in files: part upload_file_minidump, else upload_file, else
	 * the first file that begins with MDMP; a body without form; SUBMISSION_NO_DUMP if
	 * there is none, and for follow-ups. It need not be a minidump. All other files are
	 * attachments. */
	size_t dump;
	uint64_t received_bytes;
	uint64_t decoded_bytes;
	const struct submission_attribute *attributes;
	size_t attribute_count;
	const struct submission_file *files;
	size_t file_count;
};

/* Refusal */

enum submission_verdict {
	SUBMISSION_OK,
	SUBMISSION_EMPTY_BODY,
	SUBMISSION_BAD_MULTIPART,        /* no usable boundary, or no part at all */
	SUBMISSION_BAD_ENCODING,         /* does not inflate to its end */
	SUBMISSION_UNSUPPORTED_ENCODING, /* neither gzip, deflate nor identity */
	SUBMISSION_TOO_LARGE,            /* over one of submission_limits */
	SUBMISSION_NOT_A_MINIDUMP,       /* format minidump, and no MDMP */
	SUBMISSION_NO_MEMORY,            /* ours; the client may come again */
};

#define SUBMISSION_MESSAGE_SIZE 200

struct submission_refusal {
	int status;       /* HTTP's; 0 = not refused */
	const char *code; /* of the contract's error table; a literal */
	char message[SUBMISSION_MESSAGE_SIZE]; /* one line, foreign bytes escaped */
};

/* Reading */

struct submission_limits { /* 0 = no limit */
	uint64_t max_decoded;
	uint64_t max_ratio;
	uint64_t max_parts;
	/* Names and values of attributes, with names, filenames and types of files. */
	uint64_t max_attributes_bytes;
};

/* Whoever wants the decoded files themselves as they pass (to hash them, to read the
 * dump) without another pass. Called from within new, feed and end; file is the index in
 * facts, f is valid during the call. Which file is the dump is known only at the end: a
 * better name may still come. After a refusal nothing is called any more, so the last
 * file may lack its end. */
struct submission_sink {
	void (*file_begin)(void *cls, size_t file, const struct submission_file *f);
	void (*file_data)(void *cls, size_t file, const void *data, size_t len);
	void (*file_end)(void *cls, size_t file);
	void *cls;
};

struct submission_options {
	struct submission_limits limits;
	const struct submission_sink *sink; /* copied; may be NULL */
};

/* Begin a submission. All arguments are copied; content_type and content_encoding may be
 * NULL. A follow-up (endpoint->object) is opaque: no form is looked for in it.
 *
 * Owns:    the caller ends it with submission_free().
 * Returns: 0; it may be refused already: ask submission_verdict().
 * Errors:  -ENOMEM. */
int submission_new(const struct submission_options *options,
    const struct endpoint *endpoint, const char *content_type,
    const char *content_encoding, struct submission **ret) MUST_CHECK;

/* Takes NULL, returns NULL. */
struct submission *submission_free(struct submission *s);

/* Read the next piece of the body (chunk framing removed, coding not). A verdict other
 * than OK is final: more need not be fed. */
enum submission_verdict submission_feed(
    struct submission *s, const void *data, size_t len);

/* The body is complete: judge it as a whole. */
enum submission_verdict submission_end(struct submission *s);

enum submission_verdict submission_verdict(const struct submission *s);

/* Why it was refused; valid as long as s. */
const struct submission_refusal *submission_refusal(const struct submission *s);

/* What it is; valid as long as s, meaningful after submission_end() said OK. */
const struct submission_facts *submission_facts(const struct submission *s);

#endif
