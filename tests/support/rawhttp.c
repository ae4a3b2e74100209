/* SPDX-License-Identifier: MIT */
/* Owns the client's socket and what was read beyond the last response. The socket does
 * not block: every wait is a poll() up to the call's deadline. */
#include "rawhttp.h"

#include "cleanup.h"
#include "clock.h"
#include "strbuf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

struct rawhttp {
	int fd;
	struct strbuf pending; /* received, not yet part of a response */
};

static int wait_ready(const struct rawhttp *c, short events, int64_t deadline_ms)
{
	struct pollfd p = { .fd = c->fd, .events = events };

	for (;;) {
		int64_t left_ms = deadline_ms - clock_mono_ms();
		int n = poll(&p, 1, left_ms > 0 ? (int)left_ms : 0);

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

static int connect_within_deadline(
    struct rawhttp *c, const struct sockaddr *address, socklen_t len)
{
	int error = 0;
	socklen_t error_len = sizeof(error);
	int r;

	if (connect(c->fd, address, len) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return -errno;
	r = wait_ready(c, POLLOUT, clock_mono_ms() + RAWHTTP_DEADLINE_MS);
	if (r < 0)
		return r;
	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &error_len) < 0)
		return -errno;
	return -error;
}

static int open_connection(
    const struct sockaddr *address, socklen_t len, struct rawhttp **ret)
{
	struct rawhttp *c = calloc(1, sizeof(*c));
	int one = 1;
	int r;

	if (!c)
		return -ENOMEM;
	c->fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0) {
		r = -errno;
		free(c);
		return r;
	}
	/* So that pieces go out as they are; a Unix socket has no such option. */
	(void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	r = connect_within_deadline(c, address, len);
	if (r < 0) {
		(void)rawhttp_close(c);
		return r;
	}
	*ret = c;
	return 0;
}

int rawhttp_connect(const char *address, uint16_t port, struct rawhttp **ret)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };

	if (inet_pton(AF_INET, address, &v4.sin_addr) == 1)
		return open_connection((const struct sockaddr *)&v4, sizeof(v4), ret);
	if (inet_pton(AF_INET6, address, &v6.sin6_addr) == 1)
		return open_connection((const struct sockaddr *)&v6, sizeof(v6), ret);
	return -EINVAL;
}

int rawhttp_connect_unix(const char *path, struct rawhttp **ret)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(un.sun_path))
		return -ENAMETOOLONG;
	(void)memcpy(un.sun_path, path, strlen(path) + 1);
	return open_connection((const struct sockaddr *)&un, sizeof(un), ret);
}

struct rawhttp *rawhttp_close(struct rawhttp *c)
{
	if (!c)
		return NULL;
	(void)close(c->fd);
	strbuf_done(&c->pending);
	free(c);
	return NULL;
}

struct rawhttp *rawhttp_reset(struct rawhttp *c)
{
	struct linger hard = { .l_onoff = 1, .l_linger = 0 };

	if (c)
		(void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	return rawhttp_close(c);
}

int rawhttp_send(struct rawhttp *c, const void *data, size_t len)
{
	int64_t deadline_ms = clock_mono_ms() + RAWHTTP_DEADLINE_MS;
	const char *p = data;

	while (len > 0) {
		ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);

		if (n >= 0) {
			p += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			int r = wait_ready(c, POLLOUT, deadline_ms);

			if (r < 0)
				return r;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

int rawhttp_send_str(struct rawhttp *c, const char *s)
{
	return rawhttp_send(c, s, strlen(s));
}

int rawhttp_send_pieces(struct rawhttp *c, const void *data, size_t len, size_t piece)
{
	const char *p = data;

	for (size_t done = 0; done < len; done += piece) {
		size_t n = len - done < piece ? len - done : piece;
		int r = rawhttp_send(c, p + done, n);

		if (r < 0)
			return r;
	}
	return 0;
}

void rawhttp_finish(struct rawhttp *c)
{
	(void)shutdown(c->fd, SHUT_WR);
}

/* Read what is there, waiting for the first byte. Returns how many, 0 at the end. */
static ssize_t receive_some(struct rawhttp *c, int64_t deadline_ms)
{
	char buf[16384];

	for (;;) {
		ssize_t n = recv(c->fd, buf, sizeof(buf), 0);
		int r;

		if (n >= 0) {
			strbuf_add(&c->pending, buf, (size_t)n);
			return n;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		r = wait_ready(c, POLLIN, deadline_ms);
		if (r < 0)
			return r;
	}
}

/* Take the first len bytes out of the pending ones. */
static char *take_pending(struct rawhttp *c, size_t len)
{
	struct strbuf rest = STRBUF_INIT;
	char *taken = malloc(len + 1);

	if (!taken)
		return NULL;
	if (len > 0)
		(void)memcpy(taken, c->pending.data, len);
	taken[len] = '\0';
	strbuf_add(&rest, strbuf_str(&c->pending) + len, c->pending.len - len);
	strbuf_done(&c->pending);
	c->pending = rest;
	return taken;
}

/* "HTTP/1.x NNN " or an error. */
static int parse_status(const char *head)
{
	if (strncmp(head, "HTTP/1.1 ", 9) != 0 && strncmp(head, "HTTP/1.0 ", 9) != 0)
		return -EPROTO;
	for (int i = 9; i < 12; i++) {
		if (head[i] < '0' || head[i] > '9')
			return -EPROTO;
	}
	return (head[9] - '0') * 100 + (head[10] - '0') * 10 + (head[11] - '0');
}

static int receive_head(
    struct rawhttp *c, int64_t deadline_ms, struct rawhttp_response *response)
{
	const char *end;

	while (!(end = strstr(strbuf_str(&c->pending), "\r\n\r\n"))) {
		ssize_t n = receive_some(c, deadline_ms);

		if (n < 0)
			return (int)n;
		if (n == 0)
			return c->pending.len > 0 ? -EPIPE : -ENODATA;
	}
	response->head = take_pending(c, (size_t)(end - c->pending.data) + 4);
	if (!response->head)
		return -ENOMEM;
	response->status = parse_status(response->head);
	return response->status < 0 ? response->status : 0;
}

/* How long the body is, for any spelling of the name. */
static int find_length(const struct rawhttp_response *response, size_t *ret)
{
	char text[24];
	char *end;

	if (rawhttp_header(response->head, "Transfer-Encoding", RAWHTTP_ANY_CASE, text,
		sizeof(text)))
		return -EPROTO;
	if (!rawhttp_header(
		response->head, "Content-Length", RAWHTTP_ANY_CASE, text, sizeof(text)))
		return -EPROTO;
	*ret = strtoul(text, &end, 10);
	return end > text && *end == '\0' ? 0 : -EPROTO;
}

static int receive_body(
    struct rawhttp *c, int64_t deadline_ms, struct rawhttp_response *response)
{
	size_t len = 0;
	int r = find_length(response, &len);

	if (r < 0)
		return r;
	while (c->pending.len < len) {
		ssize_t n = receive_some(c, deadline_ms);

		if (n < 0)
			return (int)n;
		if (n == 0)
			return -EPIPE;
	}
	response->body = take_pending(c, len);
	response->body_len = len;
	return response->body ? 0 : -ENOMEM;
}

int rawhttp_receive(struct rawhttp *c, bool is_head, struct rawhttp_response *ret)
{
	int64_t deadline_ms = clock_mono_ms() + RAWHTTP_DEADLINE_MS;
	struct rawhttp_response response = { 0 };
	int r = receive_head(c, deadline_ms, &response);

	if (r == 0 && (is_head || response.status < 200))
		response.body = take_pending(c, 0);
	else if (r == 0)
		r = receive_body(c, deadline_ms, &response);
	if (r < 0) {
		rawhttp_response_done(&response);
		return r;
	}
	*ret = response;
	return 0;
}

int rawhttp_wait_close(struct rawhttp *c)
{
	ssize_t n = c->pending.len > 0
			? 1
			: receive_some(c, clock_mono_ms() + RAWHTTP_DEADLINE_MS);

	if (n > 0)
		return -EBUSY;
	return n == 0 || n == -ECONNRESET ? 0 : (int)n;
}

void rawhttp_response_done(struct rawhttp_response *r)
{
	free(r->head);
	free(r->body);
	*r = (struct rawhttp_response){ 0 };
}

bool rawhttp_header(const char *head, const char *name, enum rawhttp_spelling spelling,
    char *out, size_t size)
{
	size_t name_len = strlen(name);
	const char *line = head;

	while ((line = strstr(line, "\r\n")) && line[2] != '\r') {
		size_t len;

		line += 2;
		if (strncasecmp(line, name, name_len) != 0 || line[name_len] != ':')
			continue;
		if (spelling == RAWHTTP_EXACT && memcmp(line, name, name_len) != 0)
			continue;
		line += name_len + 1;
		line += *line == ' ';
		len = strcspn(line, "\r");
		if (len >= size)
			return false;
		(void)memcpy(out, line, len);
		out[len] = '\0';
		return true;
	}
	return false;
}
