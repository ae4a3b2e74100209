/* SPDX-License-Identifier: MIT */
/* An HTTP client that sends exactly the bytes it is given and reads exactly one response
 * at a time, keeping its spelling. No call waits longer than RAWHTTP_DEADLINE_MS. Errors
 * are returned, so that load threads of a test may use it; one connection belongs to one
 * thread. */
#ifndef TESTS_RAWHTTP_H
#define TESTS_RAWHTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RAWHTTP_DEADLINE_MS 20000

struct rawhttp;

struct rawhttp_response {
	int status;
	char *head; /* status line and headers as received, with the empty line */
	char *body; /* NUL-terminated for convenience */
	size_t body_len;
};

/* Open a connection to a numeric address ("127.0.0.1", "::1") or to a Unix socket.
 * Owns: the caller ends it with rawhttp_close() or rawhttp_reset().
 * Errors: -ECONNREFUSED and what else connect() says; -ETIMEDOUT; -ENOMEM. */
int rawhttp_connect(const char *address, uint16_t port, struct rawhttp **ret);
int rawhttp_connect_unix(const char *path, struct rawhttp **ret);

/* Take NULL, return NULL. reset makes the peer see a reset, not an end. */
struct rawhttp *rawhttp_close(struct rawhttp *c);
struct rawhttp *rawhttp_reset(struct rawhttp *c);

/* Send all bytes. Errors: -EPIPE, -ECONNRESET (the peer is gone; a response may still be
 * there to be read), -ETIMEDOUT (the peer takes no more). */
int rawhttp_send(struct rawhttp *c, const void *data, size_t len);
int rawhttp_send_str(struct rawhttp *c, const char *s);

/* The same in pieces of so many bytes, each in a packet of its own. */
int rawhttp_send_pieces(struct rawhttp *c, const void *data, size_t len, size_t piece);

/* Say that nothing more will be sent; responses can still be read. */
void rawhttp_finish(struct rawhttp *c);

/* Read one response; a 1xx counts as one, without a body. is_head: it answers a HEAD
 * request, so that no body follows whatever its Content-Length says.
 * Owns: the caller ends *ret with rawhttp_response_done().
 * Errors: -ENODATA closed without a byte; -EPIPE closed in the middle; -ECONNRESET;
 *         -ETIMEDOUT; -EPROTO no well-formed status line or no way to tell the end of the
 *         body but the close of the connection (a chunked answer is such, too). */
int rawhttp_receive(struct rawhttp *c, bool is_head, struct rawhttp_response *ret);

/* Wait for the peer to close the connection. 0 when it did without sending another byte;
 * -EBUSY when bytes came; -ETIMEDOUT. A reset counts as closed. */
int rawhttp_wait_close(struct rawhttp *c);

void rawhttp_response_done(struct rawhttp_response *r);

/* Copy the value of a header out of a head (of a response, or of a request as a server
 * got it), without the one space after the colon. With RAWHTTP_EXACT the name must match
 * in its capitals too. Returns false if there is none, or no room for it. */
enum rawhttp_spelling {
	RAWHTTP_EXACT,
	RAWHTTP_ANY_CASE
};
bool rawhttp_header(const char *head, const char *name, enum rawhttp_spelling spelling,
    char *out, size_t size);

#endif
