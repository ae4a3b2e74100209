/* SPDX-License-Identifier: MIT */
/* Owns the scripted upstream. One thread accepts, one serves each connection with
 * blocking calls; to stop, sockets are shut down, which wakes whoever blocks on them.
 * Everything in struct upstream_server below the lock is touched under it only; a
 * request's record is written by its connection's thread until `ended` is set under the
 * lock. */
#include "upstream_server.h"

#include "cleanup.h"
#include "clock.h"
#include "rawhttp.h"
#include "strbuf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <nettle/sha2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define WAIT_MS 20000
#define BACKLOG 128
#define BUFFER_BYTES 65536

struct owned_step {
	struct upstream_step step;
	char *headers, *body; /* what step's strings are */
};

struct script_entry {
	struct owned_step own;
	struct script_entry *next;
};

struct record {
	struct upstream_request request;
	struct record *next;          /* by arrival of heads */
	struct record *next_accepted; /* by answer */
};

struct connection {
	struct upstream_server *server;
	pthread_t thread;
	int fd; /* under the server's lock once the thread runs; -1 = closed */
	unsigned number;
	struct connection *next;
	/* Owned by the connection's thread. */
	size_t start, end; /* unread part of buffer */
	char buffer[BUFFER_BYTES];
};

struct upstream_server {
	/* Constant after start. */
	struct upstream_options options;
	char url[40];
	int listen_fd; /* bound for the server's life; listens while not refusing */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stopping, listening, released;
	pthread_t acceptor; /* valid while listening */
	struct connection *connections;
	struct script_entry *script, **script_end;
	struct owned_step fallback;
	struct record *records, **records_end;
	struct record *accepted, **accepted_end;
	unsigned counts[UPSTREAM_EVENT_COUNT];
};

/* Reading a connection: bytes in order, 0 at the end, negative when cut */

static ssize_t fill(struct connection *c)
{
	ssize_t n;

	do
		n = recv(c->fd, c->buffer, sizeof(c->buffer), 0);
	while (n < 0 && errno == EINTR);
	c->start = 0;
	c->end = n > 0 ? (size_t)n : 0;
	return n < 0 ? -errno : n;
}

/* One piece of at most max bytes, straight from the buffer. */
static ssize_t read_piece(struct connection *c, size_t max, const char **ret)
{
	size_t have;

	if (c->start == c->end) {
		ssize_t n = fill(c);

		if (n <= 0)
			return n;
	}
	have = c->end - c->start < max ? c->end - c->start : max;
	*ret = c->buffer + c->start;
	c->start += have;
	return (ssize_t)have;
}

/* Read up to and with the given ending. False when the connection ends before. */
static bool read_until(struct connection *c, const char *ending, struct strbuf *out)
{
	size_t ending_len = strlen(ending);
	const char *p;

	while (out->len < ending_len ||
	       memcmp(out->data + out->len - ending_len, ending, ending_len) != 0) {
		if (read_piece(c, 1, &p) != 1)
			return false;
		strbuf_add(out, p, 1);
	}
	return strbuf_status(out) == 0;
}

static bool send_all(const struct connection *c, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

/* Events */

static void count_event_locked(struct upstream_server *s, enum upstream_event event)
{
	s->counts[event]++;
	(void)pthread_cond_broadcast(&s->changed);
}

static void count_event(struct upstream_server *s, enum upstream_event event)
{
	(void)pthread_mutex_lock(&s->lock);
	count_event_locked(s, event);
	(void)pthread_mutex_unlock(&s->lock);
}

static void wait_for_release(struct upstream_server *s)
{
	(void)pthread_mutex_lock(&s->lock);
	count_event_locked(s, UPSTREAM_STALLED);
	while (!s->released && !s->stopping)
		(void)pthread_cond_wait(&s->changed, &s->lock);
	(void)pthread_mutex_unlock(&s->lock);
}

/* The pace of a slow reader; a stop ends it at once. */
static void pause_between_pieces(struct upstream_server *s)
{
	struct timespec until = clock_deadline(1);

	(void)pthread_mutex_lock(&s->lock);
	while (!s->stopping && pthread_cond_clockwait(&s->changed, &s->lock,
				   CLOCK_MONOTONIC, &until) != ETIMEDOUT)
		;
	(void)pthread_mutex_unlock(&s->lock);
}

/* One request */

/* A body being received: where its bytes go, and what the script wants to happen at which
 * of them. */
struct body_reader {
	struct connection *c;
	const struct upstream_step *step;
	struct sha256_ctx sha;
	struct strbuf kept;
	size_t received;
	bool stalled;
};

static size_t piece_limit(const struct body_reader *in)
{
	size_t bytes = in->step->bytes;

	if (in->step->action == UPSTREAM_READ_SLOWLY)
		return bytes > 0 ? bytes : 1;
	if ((in->step->action == UPSTREAM_RESET ||
		in->step->action == UPSTREAM_STALL_READING) &&
	    in->received < bytes)
		return bytes - in->received;
	return BUFFER_BYTES;
}

/* Do what the script wants at this point of the body. False: cut the connection here. */
static bool reach_point(struct body_reader *in)
{
	bool there = in->received >= in->step->bytes;

	if (in->step->action == UPSTREAM_RESET && there)
		return false;
	if (in->step->action == UPSTREAM_STALL_READING && there && !in->stalled) {
		in->stalled = true;
		wait_for_release(in->c->server);
	}
	if (in->step->action == UPSTREAM_READ_SLOWLY && in->received > 0)
		pause_between_pieces(in->c->server);
	return true;
}

/* Receive len body bytes. */
static bool read_span(struct body_reader *in, size_t len)
{
	while (len > 0) {
		size_t limit;
		const char *p;
		ssize_t n;

		if (!reach_point(in))
			return false;
		limit = piece_limit(in);
		n = read_piece(in->c, len < limit ? len : limit, &p);
		if (n <= 0)
			return false;
		sha256_update(&in->sha, (size_t)n, (const uint8_t *)p);
		if (!in->c->server->options.hash_only)
			strbuf_add(&in->kept, p, (size_t)n);
		in->received += (size_t)n;
		len -= (size_t)n;
	}
	return reach_point(in);
}

static bool read_chunks(struct body_reader *in)
{
	for (;;) {
		struct strbuf line = STRBUF_INIT;
		bool ok = read_until(in->c, "\r\n", &line);
		size_t size = ok ? strtoul(line.data, NULL, 16) : 0;

		strbuf_done(&line);
		if (!ok)
			return false;
		if (size > 0 && !read_span(in, size))
			return false;
		ok = read_until(in->c, "\r\n", &line);
		/* After the last chunk: trailers, of which libcurl sends none here. */
		ok = ok && line.len == 2;
		strbuf_done(&line);
		if (!ok || size == 0)
			return ok;
	}
}

static bool read_body(
    struct connection *c, struct upstream_request *r, const struct upstream_step *step)
{
	struct body_reader in = { .c = c, .step = step };
	char length[32];
	bool ok;

	sha256_init(&in.sha);
	ok = reach_point(&in);
	if (ok && r->chunked)
		ok = read_chunks(&in);
	else if (ok && rawhttp_header(r->head, "Content-Length", RAWHTTP_ANY_CASE, length,
			   sizeof(length)))
		ok = read_span(&in, strtoul(length, NULL, 10));
	r->body_len = in.received;
	if (!c->server->options.hash_only)
		r->body = (unsigned char *)strbuf_take(&in.kept);
	r->complete = ok;
	sha256_digest(&in.sha, sizeof(r->sha256), r->sha256);
	if (ok)
		count_event(c->server, UPSTREAM_RECEIVED);
	return ok;
}

static const char *reason_of(int status)
{
	if (status == 200)
		return "OK";
	return status < 300 ? "Accepted" : "Refused";
}

static bool send_answer(struct connection *c, struct upstream_request *r,
    const struct upstream_step *step, unsigned number, bool close)
{
	int status = step->status ? step->status : 200;
	struct strbuf body = STRBUF_INIT;
	struct strbuf out = STRBUF_INIT;
	bool ok;

	if (step->body)
		strbuf_add_str(&body, step->body);
	else if (status < 300)
		strbuf_addf(&body,
		    "{\"response\":\"ok\",\"_rxid\":\"01000000-0000-0000-0000-%012u\"}",
		    number);
	else
		strbuf_addf(
		    &body, "{\"error\":{\"code\":%d,\"message\":\"scripted\"}}", status);
	strbuf_addf(&out,
	    "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
	    "Content-Length: %zu\r\n%s%s\r\n%s",
	    status, reason_of(status), body.len, step->headers ? step->headers : "",
	    close ? "Connection: close\r\n" : "", strbuf_str(&body));
	r->status = status;
	ok = strbuf_status(&out) == 0 && send_all(c, out.data, out.len);
	strbuf_done(&body);
	strbuf_done(&out);
	return ok;
}

static void reset_socket(const struct connection *c)
{
	struct linger hard = { .l_onoff = 1, .l_linger = 0 };

	(void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
}

/* An answer sent before the body was read must not be lost to a reset: read on what still
 * comes until the client has had enough. */
static void drain(struct connection *c)
{
	(void)shutdown(c->fd, SHUT_WR);
	while (fill(c) > 0)
		;
}

/* Returns whether the connection may carry another request. */
static bool serve_body(struct connection *c, struct upstream_request *r,
    const struct upstream_step *step, unsigned number)
{
	char expect[32];

	if (step->action == UPSTREAM_ANSWER_EARLY) {
		(void)send_answer(c, r, step, number, true);
		drain(c);
		return false;
	}
	if (rawhttp_header(r->head, "Expect", RAWHTTP_ANY_CASE, expect, sizeof(expect)) &&
	    !send_all(c, "HTTP/1.1 100 Continue\r\n\r\n", 25))
		return false;
	if (!read_body(c, r, step)) {
		if (step->action == UPSTREAM_RESET)
			reset_socket(c);
		return false;
	}
	if (step->action == UPSTREAM_CLOSE)
		return false;
	if (step->action == UPSTREAM_STALL)
		wait_for_release(c->server);
	return send_answer(c, r, step, number, false);
}

static char *copy_word(const char **cursor, const char *stop)
{
	size_t len = strcspn(*cursor, stop);
	char *word = strndup(*cursor, len);

	*cursor += len;
	*cursor += **cursor == ' ';
	return word;
}

static void parse_head(struct upstream_request *r)
{
	const char *cursor = r->head;
	char coding[64];

	r->method = copy_word(&cursor, " \r");
	r->target = copy_word(&cursor, " \r");
	r->version = copy_word(&cursor, " \r");
	r->chunked = rawhttp_header(r->head, "Transfer-Encoding", RAWHTTP_ANY_CASE,
			 coding, sizeof(coding)) &&
		     strcasecmp(coding, "chunked") == 0;
}

static void free_step(struct owned_step *own)
{
	free(own->headers);
	free(own->body);
	*own = (struct owned_step){ 0 };
}

static struct owned_step copy_step(const struct upstream_step *step)
{
	struct owned_step own = { .step = *step };

	own.headers = step->headers ? strdup(step->headers) : NULL;
	own.body = step->body ? strdup(step->body) : NULL;
	own.step.headers = own.headers;
	own.step.body = own.body;
	return own;
}

/* Enter the request into the records and take its step from the script. */
static unsigned begin_request(
    struct connection *c, struct record *record, struct owned_step *ret_step)
{
	struct upstream_server *s = c->server;
	struct script_entry *entry;
	unsigned number;

	(void)pthread_mutex_lock(&s->lock);
	*s->records_end = record;
	s->records_end = &record->next;
	number = s->counts[UPSTREAM_BEGUN] + 1;
	entry = s->script;
	if (entry) {
		s->script = entry->next;
		if (!s->script)
			s->script_end = &s->script;
		*ret_step = entry->own;
		free(entry);
	} else {
		*ret_step = copy_step(&s->fallback.step);
	}
	count_event_locked(s, UPSTREAM_BEGUN);
	(void)pthread_mutex_unlock(&s->lock);
	return number;
}

static void end_request(struct connection *c, struct record *record, bool answered)
{
	struct upstream_server *s = c->server;
	const struct upstream_request *r = &record->request;

	(void)pthread_mutex_lock(&s->lock);
	record->request.ended = true;
	if (answered && r->complete && r->status >= 200 && r->status < 300) {
		*s->accepted_end = record;
		s->accepted_end = &record->next_accepted;
		count_event_locked(s, UPSTREAM_ACCEPTED);
	}
	count_event_locked(s, UPSTREAM_ENDED);
	(void)pthread_mutex_unlock(&s->lock);
}

static bool serve_request(struct connection *c)
{
	struct owned_step own = { 0 };
	struct strbuf head = STRBUF_INIT;
	struct record *record;
	unsigned number;
	bool again;

	if (!read_until(c, "\r\n\r\n", &head)) {
		strbuf_done(&head);
		return false;
	}
	record = calloc(1, sizeof(*record));
	if (!record) {
		strbuf_done(&head);
		return false;
	}
	record->request.connection = c->number;
	record->request.head = strbuf_take(&head);
	parse_head(&record->request);
	number = begin_request(c, record, &own);
	again = serve_body(c, &record->request, &own.step, number);
	end_request(c, record, again);
	free_step(&own);
	return again;
}

/* Connections */

static void *serve_connection(void *cls)
{
	struct connection *c = cls;
	struct upstream_server *s = c->server;
	int fd;

	while (serve_request(c))
		;
	(void)pthread_mutex_lock(&s->lock);
	fd = TAKE_FD(c->fd);
	(void)pthread_mutex_unlock(&s->lock);
	(void)close(fd);
	return NULL;
}

/* Takes fd over. */
static void start_connection(struct upstream_server *s, int fd)
{
	struct connection *c = calloc(1, sizeof(*c));

	if (!c) {
		(void)close(fd);
		return;
	}
	c->server = s;
	c->fd = fd;
	(void)pthread_mutex_lock(&s->lock);
	c->number = s->counts[UPSTREAM_CONNECTED];
	/* A connection that was accepted just before refusing began goes the way of
	 * those that existed then. */
	if (!s->listening || s->stopping ||
	    pthread_create(&c->thread, NULL, serve_connection, c) != 0) {
		reset_socket(c);
		(void)close(fd);
		free(c);
	} else {
		c->next = s->connections;
		s->connections = c;
		count_event_locked(s, UPSTREAM_CONNECTED);
	}
	(void)pthread_mutex_unlock(&s->lock);
}

static void *accept_connections(void *cls)
{
	struct upstream_server *s = cls;

	for (;;) {
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0)
			start_connection(s, fd);
		else if (errno != EINTR && errno != ECONNABORTED)
			return NULL;
	}
}

static bool bind_loopback(int fd, uint16_t port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons(port) };
	int one = 1;

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
	       bind(fd, (const struct sockaddr *)&sin, sizeof(sin)) == 0;
}

/* A socket bound to a port of the kernel's choice that keeps it even while it does not
 * listen: Linux does so only for a port that was asked for by number, so the number is
 * learnt from one socket and bound by another before the first lets go. */
static int bind_reserved(uint16_t *ret_port)
{
	CLEANUP(cleanup_close) int scout = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CLEANUP(cleanup_close) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in sin = { 0 };
	socklen_t len = sizeof(sin);

	if (scout < 0 || fd < 0 || !bind_loopback(scout, 0) ||
	    getsockname(scout, (struct sockaddr *)&sin, &len) < 0 ||
	    !bind_loopback(fd, ntohs(sin.sin_port)))
		return -1;
	*ret_port = ntohs(sin.sin_port);
	return TAKE_FD(fd);
}

struct upstream_server *upstream_server_new(const struct upstream_options *options)
{
	struct upstream_server *s = calloc(1, sizeof(*s));
	uint16_t port = 0;
	int small = 262144; /* several segments of the loopback */

	if (!s)
		return NULL;
	if (options)
		s->options = *options;
	s->listen_fd = bind_reserved(&port);
	if (s->listen_fd < 0) {
		free(s);
		return NULL;
	}
	if (s->options.small_window)
		(void)setsockopt(
		    s->listen_fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	(void)snprintf(s->url, sizeof(s->url), "http://127.0.0.1:%u", port);
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)pthread_cond_init(&s->changed, NULL);
	s->script_end = &s->script;
	s->records_end = &s->records;
	s->accepted_end = &s->accepted;
	if (!s->options.refuse)
		upstream_server_resume(s);
	return s;
}

void upstream_server_resume(struct upstream_server *s)
{
	(void)pthread_mutex_lock(&s->lock);
	if (!s->listening && listen(s->listen_fd, BACKLOG) == 0)
		s->listening =
		    pthread_create(&s->acceptor, NULL, accept_connections, s) == 0;
	(void)pthread_mutex_unlock(&s->lock);
}

void upstream_server_refuse(struct upstream_server *s)
{
	pthread_t acceptor;
	bool was_listening;

	(void)pthread_mutex_lock(&s->lock);
	was_listening = s->listening;
	acceptor = s->acceptor;
	s->listening = false;
	/* Wakes accept() and takes the socket out of the listening state. */
	(void)shutdown(s->listen_fd, SHUT_RDWR);
	for (struct connection *c = s->connections; c; c = c->next) {
		if (c->fd < 0)
			continue;
		reset_socket(c);
		(void)shutdown(c->fd, SHUT_RDWR);
	}
	(void)pthread_mutex_unlock(&s->lock);
	if (was_listening)
		(void)pthread_join(acceptor, NULL);
}

static void free_records(struct upstream_server *s)
{
	while (s->records) {
		struct record *record = s->records;

		s->records = record->next;
		free(record->request.method);
		free(record->request.target);
		free(record->request.version);
		free(record->request.head);
		free(record->request.body);
		free(record);
	}
	while (s->script) {
		struct script_entry *entry = s->script;

		s->script = entry->next;
		free_step(&entry->own);
		free(entry);
	}
	free_step(&s->fallback);
}

struct upstream_server *upstream_server_free(struct upstream_server *s)
{
	if (!s)
		return NULL;
	(void)pthread_mutex_lock(&s->lock);
	s->stopping = true;
	(void)pthread_cond_broadcast(&s->changed);
	(void)pthread_mutex_unlock(&s->lock);
	upstream_server_refuse(s);
	while (s->connections) {
		struct connection *c = s->connections;

		s->connections = c->next;
		(void)pthread_join(c->thread, NULL);
		free(c);
	}
	free_records(s);
	(void)close(s->listen_fd);
	(void)pthread_cond_destroy(&s->changed);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
	return NULL;
}

/* What tests ask */

const char *upstream_server_url(const struct upstream_server *s)
{
	return s->url;
}

void upstream_server_script(struct upstream_server *s, const struct upstream_step *step)
{
	struct script_entry *entry = calloc(1, sizeof(*entry));

	if (!entry)
		abort();
	entry->own = copy_step(step);
	(void)pthread_mutex_lock(&s->lock);
	*s->script_end = entry;
	s->script_end = &entry->next;
	(void)pthread_mutex_unlock(&s->lock);
}

void upstream_server_set_default(
    struct upstream_server *s, const struct upstream_step *step)
{
	(void)pthread_mutex_lock(&s->lock);
	free_step(&s->fallback);
	s->fallback = copy_step(step);
	(void)pthread_mutex_unlock(&s->lock);
}

void upstream_server_release(struct upstream_server *s)
{
	(void)pthread_mutex_lock(&s->lock);
	s->released = true;
	(void)pthread_cond_broadcast(&s->changed);
	(void)pthread_mutex_unlock(&s->lock);
}

bool upstream_server_wait(
    struct upstream_server *s, enum upstream_event event, unsigned n)
{
	struct timespec until = clock_deadline(WAIT_MS);
	bool there;
	int r = 0;

	(void)pthread_mutex_lock(&s->lock);
	while (s->counts[event] < n && r != ETIMEDOUT)
		r = pthread_cond_clockwait(
		    &s->changed, &s->lock, CLOCK_MONOTONIC, &until);
	there = s->counts[event] >= n;
	(void)pthread_mutex_unlock(&s->lock);
	return there;
}

unsigned upstream_server_count(struct upstream_server *s, enum upstream_event event)
{
	unsigned n;

	(void)pthread_mutex_lock(&s->lock);
	n = s->counts[event];
	(void)pthread_mutex_unlock(&s->lock);
	return n;
}

const struct upstream_request *upstream_server_request(
    struct upstream_server *s, unsigned i)
{
	const struct record *record;

	(void)pthread_mutex_lock(&s->lock);
	record = s->records;
	while (record && i-- > 0)
		record = record->next;
	(void)pthread_mutex_unlock(&s->lock);
	return record ? &record->request : NULL;
}

const struct upstream_request *upstream_server_accepted(
    struct upstream_server *s, unsigned i)
{
	const struct record *record;

	(void)pthread_mutex_lock(&s->lock);
	record = s->accepted;
	while (record && i-- > 0)
		record = record->next_accepted;
	(void)pthread_mutex_unlock(&s->lock);
	return record ? &record->request : NULL;
}

static unsigned count_body_locked(const struct upstream_server *s,
    const unsigned char digest[UPSTREAM_SHA256_BYTES], size_t len)
{
	unsigned n = 0;

	for (const struct record *record = s->accepted; record;
	     record = record->next_accepted)
		n += record->request.body_len == len &&
		     memcmp(record->request.sha256, digest, UPSTREAM_SHA256_BYTES) == 0;
	return n;
}

static void hash_body(
    const void *body, size_t len, unsigned char ret[UPSTREAM_SHA256_BYTES])
{
	struct sha256_ctx sha;

	sha256_init(&sha);
	sha256_update(&sha, len, body);
	sha256_digest(&sha, UPSTREAM_SHA256_BYTES, ret);
}

unsigned upstream_server_count_body(
    struct upstream_server *s, const void *body, size_t len)
{
	unsigned char digest[UPSTREAM_SHA256_BYTES];
	unsigned n;

	hash_body(body, len, digest);
	(void)pthread_mutex_lock(&s->lock);
	n = count_body_locked(s, digest, len);
	(void)pthread_mutex_unlock(&s->lock);
	return n;
}

bool upstream_server_wait_body(struct upstream_server *s, const void *body, size_t len)
{
	struct timespec until = clock_deadline(WAIT_MS);
	unsigned char digest[UPSTREAM_SHA256_BYTES];
	unsigned n;
	int r = 0;

	hash_body(body, len, digest);
	(void)pthread_mutex_lock(&s->lock);
	while ((n = count_body_locked(s, digest, len)) == 0 && r != ETIMEDOUT)
		r = pthread_cond_clockwait(
		    &s->changed, &s->lock, CLOCK_MONOTONIC, &until);
	(void)pthread_mutex_unlock(&s->lock);
	return n > 0;
}

unsigned upstream_server_count_dump(
    struct upstream_server *s, const struct dump_spec *spec)
{
	size_t len = 0;
	CLEANUP(cleanup_free) unsigned char *dump = dump_build(spec, &len);

	return dump ? upstream_server_count_body(s, dump, len) : 0;
}

bool upstream_server_wait_dump(struct upstream_server *s, const struct dump_spec *spec)
{
	size_t len = 0;
	CLEANUP(cleanup_free) unsigned char *dump = dump_build(spec, &len);

	return dump && upstream_server_wait_body(s, dump, len);
}
