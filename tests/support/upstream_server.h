/* SPDX-License-Identifier: MIT */
/* A scripted upstream: an HTTP/1.1 server on 127.0.0.1 that records every request exactly
 * and does to each what its script says. Port from the kernel; the port stays reserved
 * while the server refuses, so that nothing else can take it meanwhile.
 *
 * Headers of a request: rawhttp_header() on its head. Functions that wait do so for at
 * most 20 s. None fails the test, and all may be called from any thread. */
#ifndef TESTS_UPSTREAM_SERVER_H
#define TESTS_UPSTREAM_SERVER_H

#include "dump_builder.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UPSTREAM_SHA256_BYTES 32

struct upstream_server;

/* What is done to one request. */
enum upstream_action {
	UPSTREAM_ANSWER = 0,    /* read the body, then answer */
	UPSTREAM_ANSWER_EARLY,  /* answer and close after the head, body unread */
	UPSTREAM_RESET,         /* reset the connection after `bytes` bytes of body */
	UPSTREAM_CLOSE,         /* read the whole body, close without an answer */
	UPSTREAM_STALL,         /* read the body, answer when released */
	UPSTREAM_STALL_READING, /* read `bytes` bytes of body, go on when released */
	UPSTREAM_READ_SLOWLY,   /* read the body `bytes` at a time, one such a millisecond
				 */
};

/* One line of the script. Strings are copied. {0} answers 200 with a new _rxid. */
struct upstream_step {
	enum upstream_action action;
	size_t bytes;
	int status;          /* 0 = 200 */
	const char *headers; /* more header lines, each with CRLF; may be NULL */
	const char
	    *body; /* NULL = {"response":"ok","_rxid":"01000000-..."} or an error */
};

/* What can be waited for; each counts from the start of the server. */
enum upstream_event {
	UPSTREAM_CONNECTED, /* connections accepted */
	UPSTREAM_BEGUN,     /* heads of requests received */
	UPSTREAM_RECEIVED,  /* bodies received to their end */
	UPSTREAM_ACCEPTED,  /* requests received whole and answered with 2xx */
	UPSTREAM_STALLED,   /* requests now or once waiting for a release */
	UPSTREAM_ENDED,     /* requests with which the server is through */
};
#define UPSTREAM_EVENT_COUNT 6

/* One request as it came. Final once the request has ended; lives as long as the server.
 */
struct upstream_request {
	unsigned connection; /* number of the connection, from 0 */
	char *method;
	char *target;
	char *version;
	char *head; /* request line and headers as received, with the empty line */
	unsigned char *body; /* dechunked; NULL when only hashed */
	size_t body_len;
	unsigned char sha256[UPSTREAM_SHA256_BYTES]; /* of the body, when complete */
	bool complete;                               /* the body came to its end */
	bool chunked;
	int status; /* what was answered; 0 = nothing */
	bool ended;
};

struct upstream_options {
	bool hash_only;    /* do not keep bodies: for large ones */
	bool refuse;       /* begin by refusing connections */
	bool small_window; /* let the network hold little, so that slow reading shows */
};

/* Start a server; options may be NULL. NULL when the system gives no socket or thread.
 * The caller ends it with upstream_server_free(). */
struct upstream_server *upstream_server_new(const struct upstream_options *options);

/* Cut all connections, join all threads, free all records. Takes NULL, returns NULL. */
struct upstream_server *upstream_server_free(struct upstream_server *s);

/* "http://127.0.0.1:PORT", valid as long as the server. */
const char *upstream_server_url(const struct upstream_server *s);

/* Append a step: the script is used up request by request, in order of their heads. Then
 * the default applies, which is {0} unless set. */
void upstream_server_script(struct upstream_server *s, const struct upstream_step *step);
void upstream_server_set_default(
    struct upstream_server *s, const struct upstream_step *step);

/* Refuse new connections and reset those that exist; take connections again. */
void upstream_server_refuse(struct upstream_server *s);
void upstream_server_resume(struct upstream_server *s);

/* Let all requests go on that stall now or will. */
void upstream_server_release(struct upstream_server *s);

/* Wait until the event has happened n times. Returns false when it has not in time. */
bool upstream_server_wait(
    struct upstream_server *s, enum upstream_event event, unsigned n);

/* How often it has happened so far. */
unsigned upstream_server_count(struct upstream_server *s, enum upstream_event event);

/* The i-th request by the arrival of heads, or the i-th of those accepted, by answer.
 * NULL if there is none so far. */
const struct upstream_request *upstream_server_request(
    struct upstream_server *s, unsigned i);
const struct upstream_request *upstream_server_accepted(
    struct upstream_server *s, unsigned i);

/* How many accepted requests had exactly this body, and the wait until one had. */
unsigned upstream_server_count_body(
    struct upstream_server *s, const void *body, size_t len);
bool upstream_server_wait_body(struct upstream_server *s, const void *body, size_t len);

/* The same for the raw body that is this dump. */
unsigned upstream_server_count_dump(
    struct upstream_server *s, const struct dump_spec *spec);
bool upstream_server_wait_dump(struct upstream_server *s, const struct dump_spec *spec);

#endif
