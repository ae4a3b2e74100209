/* SPDX-License-Identifier: MIT */
/* Owns the judgement of a request before it is a post, and the wording of answers. The
 * form of an answer follows the strictest client of each kind (wire protocol notes,
 * section 1): status 200 exactly, Content-Length, identity coding, one short line. */
#include "listener.h"

#include "http.h"
#include "intake.h"
#include "json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Two threads keep two cores busy with hashing; more only contend for the disk. */
#define LISTENER_THREADS 2

struct listener {
	struct intake *intake;
	struct http_server *http;
};

/* Answers */

static void write_body(const struct intake_answer *a, struct strbuf *out)
{
	char id[RXID_TEXT_SIZE];

	if (a->status == 200) {
		rxid_format(&a->rxid, id);
		strbuf_addf(out, "{\"response\":\"ok\",\"_rxid\":\"%s\"}", id);
		return;
	}
	strbuf_addf(out,
	    "{\"response\":\"error\",\"error\":{\"status\":%u,\"code\":\"%s\","
	    "\"message\":",
	    a->status, a->code);
	json_add_string(out, a->message, strlen(a->message));
	strbuf_add_str(out, "}}");
}

static void answer(struct http_request *q, const struct intake_answer *a)
{
	CLEANUP(strbuf_done) struct strbuf body = STRBUF_INIT;
	struct http_answer reply = { .status = a->status,
		.content_type = "application/json" };
	char retry_after[16];
	size_t n = 0;

	write_body(a, &body);
	reply.body = strbuf_str(&body);
	reply.body_len = strlen(reply.body);
	if (a->status == 405) {
		reply.headers[n].name = "Allow";
		reply.headers[n++].value = "POST";
	}
	if (a->status == 415) {
		reply.headers[n].name = "Accept-Encoding";
		reply.headers[n++].value = "gzip, deflate, identity";
	}
	if (a->retry_after_s > 0) {
		(void)snprintf(retry_after, sizeof(retry_after), "%u", a->retry_after_s);
		reply.headers[n].name = "Retry-After";
		reply.headers[n].value = retry_after;
	}
	http_answer(q, &reply);
}

/* Judging a head */

/* Read a Content-Length of digits only. */
static bool parse_length(const char *s, int64_t *ret)
{
	int64_t n = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || n > (INT64_MAX - 9) / 10)
			return false;
		n = n * 10 + (*s - '0');
	}
	*ret = n;
	return true;
}

/* Framing that two readers could understand differently is refused: the library alone
 * would take a length beside a chunked coding, and two lengths. */
static bool judge_framing(
    const struct http_request *q, int64_t *ret_length, struct intake_answer *refusal)
{
	unsigned lengths = http_header_count(q, "Content-Length");
	const char *coding = http_header(q, "Transfer-Encoding");

	*ret_length = -1;
	if (lengths > 1)
		intake_refuse(
		    refusal, 400, "bad-request", "more than one Content-Length");
	else if (lengths > 0 && coding)
		intake_refuse(refusal, 400, "bad-request",
		    "Content-Length together with Transfer-Encoding");
	else if (coding && (http_header_count(q, "Transfer-Encoding") > 1 ||
			       strcasecmp(coding, "chunked") != 0))
		intake_refuse(refusal, 400, "bad-request",
		    "a Transfer-Encoding other than chunked");
	else if (lengths > 0 &&
		 !parse_length(http_header(q, "Content-Length"), ret_length))
		intake_refuse(refusal, 400, "bad-request", "Content-Length is no number");
	else if (lengths == 0 && !coding)
		*ret_length = 0;
	return refusal->status == 0;
}

static bool judge_head(
    const struct http_request *q, struct intake_head *head, struct intake_answer *refusal)
{
	if (http_is_stopping(q)) {
		intake_refuse(refusal, 503, "unavailable", "the relay is stopping");
		refusal->retry_after_s = 5;
		return false;
	}
	if (strcmp(http_method(q), "POST") != 0) {
		intake_refuse(refusal, 405, "method", "only POST is taken here");
		return false;
	}
	head->content_type = http_header(q, "Content-Type");
	head->content_encoding = http_header(q, "Content-Encoding");
	return judge_framing(q, &head->content_length, refusal);
}

/* The callbacks of a request */

static void begin(void *cls, struct http_request *q)
{
	struct listener *l = cls;
	struct intake_head head = { .client = http_client(q), .content_length = -1 };
	struct intake_answer refusal = { 0 };
	struct intake_post *post;

	head.target = http_target(q, &head.target_len);
	if (!judge_head(q, &head, &refusal)) {
		intake_note_refusal(
		    l->intake, &refusal, head.client, head.target, head.target_len);
		answer(q, &refusal);
	} else if (!intake_begin(l->intake, &head, &post, &refusal)) {
		answer(q, &refusal);
	} else {
		http_set_state(q, post);
	}
}

static void data(void *cls, struct http_request *q, const void *bytes, size_t len)
{
	struct intake_post *post = http_state(q);
	struct intake_answer refusal = { 0 };

	(void)cls;
	if (intake_add(post, bytes, len, &refusal))
		return;
	http_set_state(q, NULL);
	intake_cancel(post);
	answer(q, &refusal);
}

/* From the committer's thread: no more than to wake the connection, since all others of
 * the batch wait for theirs. */
static void ready(void *cls)
{
	http_wake(cls);
}

static void end(void *cls, struct http_request *q)
{
	(void)cls;
	http_defer(q);
	intake_end(http_state(q), ready, q);
}

static void resumed(void *cls, struct http_request *q)
{
	struct intake_post *post = http_state(q);
	struct intake_answer a;

	(void)cls;
	http_set_state(q, NULL);
	intake_finish(post, &a);
	answer(q, &a);
}

static void gone(void *cls, struct http_request *q)
{
	(void)cls;
	intake_cancel(http_state(q));
}

int listener_start(const struct listener_options *options, struct listener **ret)
{
	struct listener *l = calloc(1, sizeof(*l));
	struct http_options http = { .sockets = options->sockets,
		.socket_count = options->socket_count,
		.threads = LISTENER_THREADS,
		.max_connections = options->max_connections,
		.idle_timeout_s = options->idle_timeout_s,
		.begin = begin,
		.data = data,
		.end = end,
		.resumed = resumed,
		.gone = gone,
		.cls = l };
	int r;

	if (!l) {
		for (size_t i = 0; i < options->socket_count; i++)
			(void)close(options->sockets[i]); /* nothing was written to it */
		return -ENOMEM;
	}
	l->intake = options->intake;
	r = http_start(&http, &l->http);
	if (r < 0) {
		free(l);
		return r;
	}
	*ret = l;
	return 0;
}

void listener_set_limits(
    struct listener *l, unsigned max_connections, unsigned idle_timeout_s)
{
	http_set_limits(l->http, max_connections, idle_timeout_s);
}

struct listener *listener_stop(struct listener *l, int64_t timeout_ms)
{
	if (!l)
		return NULL;
	http_stop(l->http, timeout_ms);
	free(l);
	return NULL;
}
