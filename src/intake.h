/* SPDX-License-Identifier: MIT */
/* The walk of one post: judge its target and head, read its body (submission) while it is
 * spooled (payload), commit, answer. Knows no HTTP server: the listener brings the pieces
 * and carries the answer away. */
#ifndef RELAY_INTAKE_H
#define RELAY_INTAKE_H

#include "cleanup.h"
#include "report.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct intake;
struct intake_post;
struct metrics;
struct spool;

struct intake_limits {
	uint64_t max_body_bytes;
	uint64_t max_decoded_bytes;
	uint64_t max_ratio;
	unsigned max_parts;
	uint64_t max_attributes_bytes;
	const char *const *formats; /* those taken; none = all */
	size_t format_count;
};

struct intake_options {
	struct spool *spool;         /* outlives the intake */
	struct metrics *metrics;     /* outlives the intake */
	struct intake_limits limits; /* copied */
};

int intake_new(const struct intake_options *options, struct intake **ret) MUST_CHECK;

/* No post may be under way. Takes NULL, returns NULL. */
struct intake *intake_free(struct intake *in);

/* Judge what comes from now on by other limits. Threads: any. Errors: -ENOMEM. */
int intake_set_limits(struct intake *in, const struct intake_limits *limits) MUST_CHECK;

#define INTAKE_MESSAGE_SIZE 256

/* What the client is told (interface.md, section 2). */
struct intake_answer {
	unsigned status;
	const char *code; /* of an error, a literal; NULL when status is 200 */
	char message[INTAKE_MESSAGE_SIZE]; /* of an error, one line, without secrets */
	struct rxid rxid;                  /* when status is 200 */
	unsigned retry_after_s;            /* 0 = say nothing */
};

/* Fill an error. message is escaped by the caller where it shows foreign bytes. */
void intake_refuse(struct intake_answer *a, unsigned status, const char *code,
    const char *fmt, ...) PRINTF_LIKE(4, 5);

/* Count and log a refusal for which there is no post: it was refused before
 * intake_begin(). */
void intake_note_refusal(struct intake *in, const struct intake_answer *a,
    const char *client, const char *target, size_t target_len);

/* The head of a post. Borrowed while intake_begin() runs. */
struct intake_head {
	const char *target; /* raw */
	size_t target_len;
	const char *content_type;     /* or NULL */
	const char *content_encoding; /* or NULL */
	const char *client;           /* for people, or NULL */
	int64_t content_length;       /* -1 = not known yet (chunked) */
};

/* Judge a head. Returns true: the body may come, and *ret_post ends with intake_end() and
 * intake_finish(), or with intake_cancel(). False: refused, *ret_refusal is the answer, already counted and
 * logged. Threads: any. */
bool intake_begin(struct intake *in, const struct intake_head *head,
    struct intake_post **ret_post, struct intake_answer *ret_refusal) MUST_CHECK;

/* The next piece of the body. False: refused; the post can then only be cancelled. */
bool intake_add(struct intake_post *p, const void *data, size_t len,
    struct intake_answer *ret_refusal) MUST_CHECK;

/* The body is whole: hand it to the spool. ready is called exactly once, when
 * intake_finish() may be called: from the committer's thread, or before this returns. It
 * must not block. */
void intake_end(struct intake_post *p, void (*ready)(void *cls), void *cls);

/* What became of it: counted and logged. Frees the post. Threads: any. */
void intake_finish(struct intake_post *p, struct intake_answer *ret);

/* The client went away, or was refused: nothing is left behind. Takes NULL. */
void intake_cancel(struct intake_post *p);

#endif
