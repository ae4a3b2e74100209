/* SPDX-License-Identifier: MIT */
/* What every HTTP server of the daemon shares: sockets, connections, one request at a
 * time on each, answers in the form that the strictest crash client needs. A thin layer
 * over libmicrohttpd; nothing else in the program knows it.
 *
 * Threads: one accepts, `threads` serve. All callbacks of one request come from the same
 * serving thread, one after the other; they must not block on the disk or the network for
 * long, for other connections wait meanwhile.
 */
#ifndef RELAY_HTTP_H
#define RELAY_HTTP_H

#include "cleanup.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct http_server;
struct http_request;

/* Make a listening socket. text names the address in errors.
 * Returns the descriptor, or a negative errno with the reason in errbuf. */
int http_listen(const struct sockaddr *address, socklen_t length, char *errbuf,
    size_t errbuf_size) MUST_CHECK;

/* The address as text, "127.0.0.1:6097" or "[::1]:6097"; out has HTTP_ADDRESS_SIZE. */
#define HTTP_ADDRESS_SIZE 64
void http_format_address(const struct sockaddr *address, char out[HTTP_ADDRESS_SIZE]);

/* The address to which a listening socket is bound, as above. */
int http_socket_address(int fd, char out[HTTP_ADDRESS_SIZE]) MUST_CHECK;

struct http_options {
	const int *sockets; /* taken over, also on failure; closed when stopping */
	size_t socket_count;
	unsigned threads;
	unsigned max_connections; /* more wait in the kernel's queue */
	unsigned idle_timeout_s; /* a connection without any byte for so long is closed */

	/* The head of a request is there: look at it; answer it now, or let the body
	 * come. */
	void (*begin)(void *cls, struct http_request *q);
	/* The next piece of the body. An answer now refuses the rest of it. */
	void (*data)(void *cls, struct http_request *q, const void *data, size_t len);
	/* The body is whole: answer now, or http_defer() and answer in resumed(). */
	void (*end)(void *cls, struct http_request *q);
	/* http_wake() was called: answer. */
	void (*resumed)(void *cls, struct http_request *q);
	/* The request is over, answered or broken off: free its state. */
	void (*gone)(void *cls, struct http_request *q);
	void *cls;
};

int http_start(const struct http_options *options, struct http_server **ret) MUST_CHECK;

/* Other limits for what comes from now on. Threads: any. */
void http_set_limits(
    struct http_server *h, unsigned max_connections, unsigned idle_timeout_s);

/* Stop accepting; requests that go on get so long to end, deferred ones as long as they
 * need; then close everything. Takes NULL, returns NULL. */
struct http_server *http_stop(struct http_server *h, int64_t timeout_ms);

/* Whether http_stop() has begun: what comes now on a kept-alive connection is refused. */
bool http_is_stopping(const struct http_request *q);

/* Looking at a request */

const char *http_method(const struct http_request *q);

/* The request target as it came, undecoded. */
const char *http_target(const struct http_request *q, size_t *ret_len);

/* The first header of this name (any case), or NULL; how many there are. */
const char *http_header(const struct http_request *q, const char *name);
unsigned http_header_count(const struct http_request *q, const char *name);

/* The client's address without its port, as text. */
const char *http_client(const struct http_request *q);

/* What begin() attached for the other callbacks. */
void http_set_state(struct http_request *q, void *state);
void *http_state(const struct http_request *q);

/* Answering */

struct http_answer {
	unsigned status;
	const char *content_type;
	const char *body;
	size_t body_len;
	/* Up to this many more headers; a NULL name ends them. */
	struct {
		const char *name;
		const char *value;
	} headers[4];
};

/* Answer a request, once, from a callback other than gone(); all is copied. In begin() and
 * data() the rest of the body is refused and the connection closed afterwards. */
void http_answer(struct http_request *q, const struct http_answer *answer);

/* In end(): what the answer needs comes from elsewhere. http_wake() must follow in any
 * case, or stopping never ends. */
void http_defer(struct http_request *q);

/* Have resumed() called for a deferred request. The request may be over before this
 * returns. Threads: any; never blocks. */
void http_wake(struct http_request *q);

#endif
