/* SPDX-License-Identifier: MIT */
/* Owns the order in which a post is judged: head before body, cheap before dear; and what
 * is counted and logged of it. The body goes two ways at once: into the payload as it
 * came, and through the submission, which only looks. */
#include "intake.h"

#include "clock.h"
#include "endpoint.h"
#include "log.h"
#include "metrics.h"
#include "spool.h"
#include "strbuf.h"
#include "submission.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* When the spool can't take a report now, come again so late. */
#define RETRY_AFTER_S 30

/* A set of limits, shared by the posts that began under it. */
struct limits {
	atomic_uint references;
	uint64_t max_body_bytes;
	struct submission_limits submission;
	char **formats;
	size_t format_count;
};

struct intake {
	struct spool *spool;
	struct metrics *metrics;
	pthread_mutex_t lock;
	struct limits *limits; /* under lock: those in force */
};

struct intake_post {
	struct intake *intake;
	struct limits *limits;
	struct endpoint endpoint;
	struct submission *submission;
	struct spool_payload *payload;
	char *content_type;
	char *content_encoding;
	char *client;
	uint64_t body_bytes;
	int64_t whole_at_us; /* monotonic: when the last byte had come */
	/* Once the body is whole: */
	int error; /* of the commit */
	struct rxid rxid;
	void (*ready)(void *cls);
	void *cls;
};

/* Limits */

static void limits_unref(struct limits *l)
{
	if (!l || atomic_fetch_sub(&l->references, 1) > 1)
		return;
	for (size_t i = 0; i < l->format_count; i++)
		free(l->formats[i]);
	free(l->formats);
	free(l);
}

static struct limits *limits_new(const struct intake_limits *from)
{
	struct limits *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	atomic_init(&l->references, 1);
	l->max_body_bytes = from->max_body_bytes;
	l->submission =
	    (struct submission_limits){ .max_decoded = from->max_decoded_bytes,
		    .max_ratio = from->max_ratio,
		    .max_parts = from->max_parts,
		    .max_attributes_bytes = from->max_attributes_bytes };
	if (from->format_count == 0)
		return l;
	l->formats = calloc(from->format_count, sizeof(char *));
	for (size_t i = 0; l->formats && i < from->format_count; i++) {
		l->formats[i] = strdup(from->formats[i]);
		if (!l->formats[i])
			break;
		l->format_count++;
	}
	if (l->format_count == from->format_count)
		return l;
	limits_unref(l);
	return NULL;
}

static struct limits *limits_ref(struct intake *in)
{
	struct limits *l;

	(void)pthread_mutex_lock(&in->lock);
	l = in->limits;
	(void)atomic_fetch_add(&l->references, 1);
	(void)pthread_mutex_unlock(&in->lock);
	return l;
}

int intake_set_limits(struct intake *in, const struct intake_limits *limits)
{
	struct limits *l = limits_new(limits);
	struct limits *old;

	if (!l)
		return -ENOMEM;
	(void)pthread_mutex_lock(&in->lock);
	old = in->limits;
	in->limits = l;
	(void)pthread_mutex_unlock(&in->lock);
	limits_unref(old);
	return 0;
}

int intake_new(const struct intake_options *options, struct intake **ret)
{
	struct intake *in = calloc(1, sizeof(*in));

	if (!in)
		return -ENOMEM;
	in->spool = options->spool;
	in->metrics = options->metrics;
	(void)pthread_mutex_init(
	    &in->lock, NULL); /* cannot fail with default attributes */
	in->limits = limits_new(&options->limits);
	if (!in->limits) {
		intake_free(in);
		return -ENOMEM;
	}
	*ret = in;
	return 0;
}

struct intake *intake_free(struct intake *in)
{
	if (!in)
		return NULL;
	limits_unref(in->limits);
	(void)pthread_mutex_destroy(&in->lock);
	free(in);
	return NULL;
}

/* Refusals */

void intake_refuse(
    struct intake_answer *a, unsigned status, const char *code, const char *fmt, ...)
{
	va_list ap;

	*a = (struct intake_answer){ .status = status, .code = code };
	va_start(ap, fmt);
	(void)vsnprintf(a->message, sizeof(a->message), fmt, ap);
	va_end(ap);
}

static enum metric refusal_metric(unsigned status)
{
	if (status == 429)
		return METRIC_SUBMISSIONS_RATE_LIMITED;
	return status >= 500 ? METRIC_SUBMISSIONS_ERROR : METRIC_SUBMISSIONS_REJECTED;
}

void intake_note_refusal(struct intake *in, const struct intake_answer *a,
    const char *client, const char *target, size_t target_len)
{
	CLEANUP(strbuf_done) struct strbuf shown = STRBUF_INIT;

	metrics_inc(in->metrics, refusal_metric(a->status));
	if (endpoint_redact_target(target, target_len, &shown) < 0)
		return;
	log_warning("refused a post from %s to %.300s: %u %s: %s",
	    client && *client ? client : "a local client", strbuf_str(&shown), a->status,
	    a->code, a->message);
}

/* What the spool's refusal means to the client. */
static void refuse_for_spool(struct intake_answer *a, int error)
{
	if (error == -ENOSPC || error == -EDQUOT)
		intake_refuse(a, 507, "spool-full", "the spool is full");
	else if (error == -EMSGSIZE)
		intake_refuse(a, 431, "header-too-large",
		    "target and headers are too large to be kept");
	else if (error == -ESHUTDOWN)
		intake_refuse(a, 503, "unavailable", "the relay is stopping");
	else
		intake_refuse(a, 503, "unavailable", "the spool cannot be written: %s",
		    spool_error_text(error));
	if (a->status >= 500)
		a->retry_after_s = RETRY_AFTER_S;
}

static void refuse_for_memory(struct intake_answer *a)
{
	intake_refuse(a, 503, "unavailable", "out of memory");
	a->retry_after_s = RETRY_AFTER_S;
}

static bool refuse_post(struct intake_post *p, const struct intake_answer *a)
{
	const char *target = p->endpoint.target;

	intake_note_refusal(p->intake, a, p->client, target, strlen(target));
	return false;
}

static void refuse_for_fault(struct intake_answer *a, enum endpoint_fault fault)
{
	switch (fault) {
	case ENDPOINT_BAD_TARGET:
		intake_refuse(
		    a, 400, "bad-request", "control bytes in the request target");
		break;
	case ENDPOINT_UNKNOWN_PATH:
		intake_refuse(a, 404, "unknown-path",
		    "not a submission URL: expected /UNIVERSE/TOKEN/FORMAT or"
		    " /post?format=FORMAT&token=TOKEN");
		break;
	case ENDPOINT_MISSING_TOKEN:
		intake_refuse(a, 403, "missing-token", "the URL names no token");
		break;
	}
}

/* What the submission found wrong, as an answer. */
static void refuse_for_content(struct intake_answer *a, const struct submission *s)
{
	const struct submission_refusal *why = submission_refusal(s);

	intake_refuse(a, (unsigned)why->status, why->code, "%s", why->message);
	if (why->status >= 500)
		a->retry_after_s = RETRY_AFTER_S;
}

/* The head */

static bool copy_string(char **to, const char *from)
{
	if (!from)
		return true;
	*to = strdup(from);
	return *to != NULL;
}

static bool copy_head(struct intake_post *p, const struct intake_head *head)
{
	return copy_string(&p->content_type, head->content_type) &&
	       copy_string(&p->content_encoding, head->content_encoding) &&
	       copy_string(
		   &p->client, head->client && *head->client ? head->client : NULL);
}

static bool format_is_taken(const struct limits *l, const char *format)
{
	for (size_t i = 0; i < l->format_count; i++)
		if (strcmp(l->formats[i], format) == 0)
			return true;
	return l->format_count == 0;
}

/* All that can be said before the body. */
static bool judge_head(
    struct intake_post *p, const struct intake_head *head, struct intake_answer *refusal)
{
	const struct limits *l = p->limits;
	struct submission_options options = { .limits = l->submission };
	enum endpoint_fault fault;
	int r;

	r = endpoint_parse(head->target, head->target_len, &p->endpoint, &fault);
	if (r == -EBADMSG)
		refuse_for_fault(refusal, fault);
	else if (r < 0)
		refuse_for_memory(refusal);
	else if (head->content_length >= 0 &&
		 (uint64_t)head->content_length > l->max_body_bytes)
		intake_refuse(refusal, 413, "too-large",
		    "the body has %lld bytes, the limit ([intake] max_body) is %llu",
		    (long long)head->content_length,
		    (unsigned long long)l->max_body_bytes);
	if (refusal->status != 0)
		return false;

	r = submission_new(&options, &p->endpoint, head->content_type,
	    head->content_encoding, &p->submission);
	if (r < 0) {
		refuse_for_memory(refusal);
		return false;
	}
	if (submission_verdict(p->submission) != SUBMISSION_OK) {
		refuse_for_content(refusal, p->submission);
		return false;
	}
	r = spool_check_room(p->intake->spool,
	    head->content_length > 0 ? (uint64_t)head->content_length : 0);
	if (r == 0)
		r = spool_payload_begin(p->intake->spool, &p->payload);
	if (r < 0)
		refuse_for_spool(refusal, r);
	return r == 0;
}

bool intake_begin(struct intake *in, const struct intake_head *head,
    struct intake_post **ret_post, struct intake_answer *ret_refusal)
{
	struct intake_post *p = calloc(1, sizeof(*p));

	*ret_refusal = (struct intake_answer){ 0 };
	if (!p) {
		refuse_for_memory(ret_refusal);
		metrics_inc(in->metrics, METRIC_SUBMISSIONS_ERROR);
		return false;
	}
	p->intake = in;
	p->limits = limits_ref(in);
	if (!copy_head(p, head))
		refuse_for_memory(ret_refusal);
	else if (judge_head(p, head, ret_refusal)) {
		*ret_post = p;
		return true;
	}
	intake_note_refusal(
	    in, ret_refusal, head->client, head->target, head->target_len);
	intake_cancel(p);
	return false;
}

/* The body */

bool intake_add(struct intake_post *p, const void *data, size_t len,
    struct intake_answer *ret_refusal)
{
	int r;

	p->body_bytes += len;
	if (p->body_bytes > p->limits->max_body_bytes) {
		intake_refuse(ret_refusal, 413, "too-large",
		    "the body is larger than the limit ([intake] max_body) of %llu bytes",
		    (unsigned long long)p->limits->max_body_bytes);
		return refuse_post(p, ret_refusal);
	}
	if (submission_feed(p->submission, data, len) != SUBMISSION_OK) {
		refuse_for_content(ret_refusal, p->submission);
		return refuse_post(p, ret_refusal);
	}
	r = spool_payload_write(p->payload, data, len);
	if (r < 0) {
		refuse_for_spool(ret_refusal, r);
		return refuse_post(p, ret_refusal);
	}
	return true;
}

static int64_t now_us(void)
{
	struct timespec ts = { 0 };

	(void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail */
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void log_accepted(const struct intake_post *p)
{
	char id[RXID_TEXT_SIZE];
	char token[ENDPOINT_SHORT_TOKEN_SIZE];
	CLEANUP(strbuf_done) struct strbuf endpoint = STRBUF_INIT;
	struct log_fields fields = { .report_id = id, .outcome = "accepted" };

	rxid_format(&p->rxid, id);
	endpoint_shorten_token(p->endpoint.token, token);
	strbuf_addf(&endpoint, "%s/%s/%s", p->endpoint.universe, token,
	    submission_facts(p->submission)->format);
	fields.endpoint = strbuf_str(&endpoint);
	log_write(LOG_LEVEL_INFO, &fields, "accepted a report of %llu bytes from %s",
	    (unsigned long long)p->body_bytes, p->client ? p->client : "a local client");
}

/* From the committer's thread. */
static void committed(void *cls, const struct spool_verdict *verdict)
{
	struct intake_post *p = cls;

	p->error = verdict->error;
	p->rxid = verdict->rxid;
	p->ready(p->cls);
}

/* Whether the post as a whole is a report that is taken. */
static bool is_taken(const struct intake_post *p)
{
	return submission_verdict(p->submission) == SUBMISSION_OK &&
	       format_is_taken(p->limits, submission_facts(p->submission)->format);
}

void intake_end(struct intake_post *p, void (*ready)(void *cls), void *cls)
{
	struct spool_draft draft = { .received_at_ms = clock_wall_ms(),
		.universe = p->endpoint.universe,
		.token = p->endpoint.token,
		.target = p->endpoint.target,
		.content_type = p->content_type,
		.content_encoding = p->content_encoding,
		.client = p->client };

	p->whole_at_us = now_us();
	p->ready = ready;
	p->cls = cls;
	(void)submission_end(p->submission); /* is_taken() asks again */
	if (!is_taken(p)) {
		ready(cls);
		return;
	}
	draft.format = submission_facts(p->submission)->format;
	spool_commit(p->intake->spool, TAKE_PTR(p->payload), &draft, committed, p);
}

void intake_finish(struct intake_post *p, struct intake_answer *ret)
{
	struct intake *in = p->intake;

	*ret = (struct intake_answer){ .status = 200, .rxid = p->rxid };
	if (submission_verdict(p->submission) != SUBMISSION_OK)
		refuse_for_content(ret, p->submission);
	else if (!is_taken(p))
		intake_refuse(ret, 403, "forbidden",
		    "reports of this format are not taken here ([intake] formats)");
	else if (p->error < 0)
		refuse_for_spool(ret, p->error);
	if (ret->status == 200) {
		metrics_inc(in->metrics, METRIC_SUBMISSIONS_ACCEPTED);
		metrics_add(in->metrics, METRIC_SUBMISSION_BYTES, p->body_bytes);
		metrics_observe_accept_us(
		    in->metrics, (uint64_t)(now_us() - p->whole_at_us));
		log_accepted(p);
	} else {
		(void)refuse_post(
		    p, ret); /* counts and logs; there is nothing more to do */
	}
	intake_cancel(p);
}

void intake_cancel(struct intake_post *p)
{
	if (!p)
		return;
	spool_payload_abort(p->payload);
	submission_free(p->submission);
	endpoint_done(&p->endpoint);
	limits_unref(p->limits);
	free(p->content_type);
	free(p->content_encoding);
	free(p->client);
	free(p);
}
