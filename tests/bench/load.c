/* SPDX-License-Identifier: MIT */
/* The load of the benchmarks: posts minidumps over kept-alive connections, a fixed number
 * of them, each connection its next one as soon as the last is answered, and measures.
 *
 * It shares the cores with the daemon it drives, so it does as little as it can: one
 * thread, requests prepared in advance of which only a stamp in the dump changes, the bulk
 * of all bodies one block of memory, one system call to send and one to read. Every answer
 * is checked all the same: status 200, and a _rxid that no other answer has.
 */
#include "cleanup.h"
#include "report.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

/* Crashpad's form (util/net/http_multipart_builder.cc): its boundary, the fields sorted by
 * name, then the dump. */
#define BOUNDARY "---MultipartBoundary-3vBqXr0ZpKc8TyUeWm5LhNsAg7dJf1oQ---"
#define FIELD(name, value)                                                               \
	"--" BOUNDARY "\r\nContent-Disposition: form-data; name=\"" name                 \
	"\"\r\n\r\n" value "\r\n"
#define FIELDS                                                                           \
	FIELD("guid", "7f1c2f2e-6c4b-4c55-9a39-0d7f4f1d2a11")                            \
	FIELD("list_annotations", "renderer\nbenchmark")                                 \
	FIELD("plat", "Linux")                                                           \
	FIELD("prod", "Relay_Bench")                                                     \
	FIELD("ptype", "renderer")                                                       \
	FIELD("ver", "156.0.8078.79")                                                    \
	"--" BOUNDARY                                                                    \
	"\r\nContent-Disposition: form-data; name=\"upload_file_minidump\";"             \
	" filename=\"5a1b0cde-9c1e-4f5d-8a4e-3c1f0b7a9d22.dmp\"\r\n"                     \
	"Content-Type: application/octet-stream\r\n\r\n"
#define TAIL "\r\n--" BOUNDARY "--\r\n"

/* The dump's first bytes: signature and version, then what differs from dump to dump. */
#define DUMP_START "MDMP\x93\xa7\x00\x00"
#define STAMP_BYTES 16

/* The rest of a body is this block, repeated. */
#define BLOCK_BYTES ((size_t)512 << 10)
#define VECTORS 8

#define STALL_MS 60000

struct plan {
	uint16_t port;
	unsigned connections;
	uint64_t requests;
	uint64_t body_bytes;
	const char *target;
};

struct request {
	char *head; /* of HTTP, the fields, the start of the dump */
	size_t head_bytes;
	size_t stamp_at;
	uint64_t bulk_bytes;
	uint64_t total_bytes;
};

struct connection {
	int fd;
	char *head; /* its own copy: the stamp is in it */
	bool busy;
	uint64_t sent;
	int64_t began_ns;
	char answer[1024];
	size_t answer_bytes;
};

struct load {
	struct plan plan;
	struct request request;
	uint8_t *block;
	uint64_t seed;
	uint64_t begun;
	uint64_t done;
	uint32_t *latency_us;
	struct rxid *names;
	struct connection *connections;
	int epoll_fd;
};

static void die(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)fputs("load: ", stderr);
	(void)vfprintf(stderr, fmt, ap);
	(void)fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

static void *take_memory(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p)
		die("out of memory");
	return p;
}

static int64_t now_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail */
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* What is posted */

static void make_request(const struct plan *p, struct request *ret)
{
	size_t around =
	    strlen(FIELDS) + sizeof(DUMP_START) - 1 + STAMP_BYTES + strlen(TAIL);
	int n;

	if (p->body_bytes < around)
		die("a body has at least %zu bytes", around);
	n = asprintf(&ret->head,
	    "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nUser-Agent: Crashpad/0.8.0 "
	    "bench\r\n"
	    "Accept: */*\r\nContent-Type: multipart/form-data; boundary=" BOUNDARY "\r\n"
	    "Content-Length: %" PRIu64 "\r\n\r\n" FIELDS "%.4s....%*s",
	    p->target, p->port, p->body_bytes, DUMP_START, STAMP_BYTES, "");
	if (n < 0)
		die("out of memory");
	ret->head_bytes = (size_t)n;
	ret->stamp_at = ret->head_bytes - STAMP_BYTES;
	/* The version holds NULs, which no format prints. */
	memcpy(ret->head + ret->stamp_at - 4, &DUMP_START[4], 4);
	ret->bulk_bytes = p->body_bytes - around;
	ret->total_bytes = ret->head_bytes + ret->bulk_bytes + strlen(TAIL);
}

/* Like the memory in a dump: half of it zeros, the other half not. */
static uint8_t *make_block(void)
{
	uint8_t *block = take_memory(1, BLOCK_BYTES);
	uint64_t x = UINT64_C(0x9e3779b97f4a7c15);

	for (size_t i = 0; i < BLOCK_BYTES; i += sizeof(x)) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		if (i / 256 % 2)
			memcpy(block + i, &x, sizeof(x));
	}
	return block;
}

/* What is left of a request, as vectors; returns how many. */
static size_t rest_of_request(
    const struct load *l, const struct connection *c, struct iovec iov[VECTORS])
{
	const struct request *q = &l->request;
	uint64_t at = c->sent;
	size_t n = 0;

	if (at < q->head_bytes) {
		iov[n++] = (struct iovec){ c->head + at, q->head_bytes - (size_t)at };
		at = q->head_bytes;
	}
	at -= q->head_bytes;
	while (at < q->bulk_bytes && n < VECTORS) {
		size_t from = (size_t)(at % BLOCK_BYTES);
		uint64_t len = BLOCK_BYTES - from;

		if (len > q->bulk_bytes - at)
			len = q->bulk_bytes - at;
		iov[n++] = (struct iovec){ l->block + from, (size_t)len };
		at += len;
	}
	if (n < VECTORS && at >= q->bulk_bytes) {
		/* Only read from. */
		char *tail = (char *)(uintptr_t)TAIL;
		size_t from = (size_t)(at - q->bulk_bytes);

		iov[n++] = (struct iovec){ tail + from, strlen(TAIL) - from };
	}
	return n;
}

static void send_some(struct load *l, struct connection *c)
{
	struct iovec iov[VECTORS];
	struct msghdr message = { .msg_iov = iov };

	while (c->busy && c->sent < l->request.total_bytes) {
		ssize_t n;

		message.msg_iovlen = rest_of_request(l, c, iov);
		n = sendmsg(c->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0)
			die("cannot send: %s", strerror(errno));
		c->sent += (uint64_t)n;
	}
}

static void begin_request(struct load *l, struct connection *c)
{
	uint64_t stamp[2] = { l->seed, l->begun };

	c->busy = l->begun < l->plan.requests;
	if (!c->busy)
		return;
	l->begun++;
	memcpy(c->head + l->request.stamp_at, stamp, sizeof(stamp));
	c->sent = 0;
	c->answer_bytes = 0;
	c->began_ns = now_ns();
	send_some(l, c);
}

/* What comes back */

/* Whether the answer is whole. */
static bool is_whole(const struct connection *c)
{
	static const char name[] = "Content-Length: ";
	const char *end = strstr(c->answer, "\r\n\r\n");
	const char *length = strstr(c->answer, name);

	return end && length && length < end &&
	       c->answer_bytes >= (size_t)(end - c->answer) + 4 +
				      strtoul(length + sizeof(name) - 1, NULL, 10);
}

static void end_request(struct load *l, struct connection *c)
{
	static const char name[] = "\"_rxid\":\"";
	char *id = strstr(c->answer, name);
	int64_t took_us = (now_ns() - c->began_ns) / 1000;

	if (strncmp(c->answer, "HTTP/1.1 200 ", 13) != 0 || !id)
		die("not accepted: %s", c->answer);
	id += sizeof(name) - 1;
	if (strlen(id) >= RXID_TEXT_SIZE)
		id[RXID_TEXT_SIZE - 1] = '\0';
	if (!rxid_parse(id, &l->names[l->done]))
		die("no _rxid: %s", c->answer);
	l->latency_us[l->done++] = took_us > UINT32_MAX ? UINT32_MAX : (uint32_t)took_us;
	begin_request(l, c);
}

static void read_some(struct load *l, struct connection *c)
{
	ssize_t n = recv(c->fd, c->answer + c->answer_bytes,
	    sizeof(c->answer) - 1 - c->answer_bytes, MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		die("a connection broke: %s", n < 0 ? strerror(errno) : "closed");
	c->answer_bytes += (size_t)n;
	c->answer[c->answer_bytes] = '\0';
	if (!c->busy || c->answer_bytes == sizeof(c->answer) - 1)
		die("unexpected answer: %s", c->answer);
	if (is_whole(c))
		end_request(l, c);
}

/* Running */

static void open_connection(struct load *l, struct connection *c)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
		.sin_port = htons(l->plan.port),
		.sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data = { c } };
	int on = 1;

	c->head = take_memory(1, l->request.head_bytes);
	memcpy(c->head, l->request.head, l->request.head_bytes);
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		die("cannot connect to port %u: %s", l->plan.port, strerror(errno));
	if (setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
	    epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, c->fd, &e) < 0)
		die("cannot set up a connection: %s", strerror(errno));
}

static void drive(struct load *l)
{
	struct epoll_event events[64];

	for (unsigned i = 0; i < l->plan.connections; i++)
		begin_request(l, &l->connections[i]);
	while (l->done < l->plan.requests) {
		int n = epoll_wait(l->epoll_fd, events, ARRAY_LEN(events), STALL_MS);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			die("no answer for %d s; %" PRIu64 " were answered",
			    STALL_MS / 1000, l->done);
		for (int i = 0; i < n; i++) {
			if (events[i].events & EPOLLOUT)
				send_some(l, events[i].data.ptr);
			if (events[i].events & (uint32_t)~EPOLLOUT)
				read_some(l, events[i].data.ptr);
		}
	}
}

static int compare_names(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct rxid));
}

static int compare_times(const void *a, const void *b)
{
	const uint32_t *x = a;
	const uint32_t *y = b;

	return (*x > *y) - (*x < *y);
}

static double percentile_ms(const struct load *l, unsigned percent)
{
	return l->latency_us[(l->done - 1) * percent / 100] / 1000.0;
}

static void print_result(struct load *l, int64_t took_ns)
{
	double seconds = (double)took_ns / 1e9;

	qsort(l->names, l->done, sizeof(*l->names), compare_names);
	for (uint64_t i = 1; i < l->done; i++)
		if (compare_names(&l->names[i - 1], &l->names[i]) == 0)
			die("two answers have the same _rxid");
	qsort(l->latency_us, l->done, sizeof(*l->latency_us), compare_times);
	(void)printf("requests=%" PRIu64
		     " seconds=%.4f rate=%.1f p50_ms=%.3f p99_ms=%.3f\n",
	    l->done, seconds, (double)l->done / seconds, percentile_ms(l, 50),
	    percentile_ms(l, 99));
}

static uint64_t parse_number(const char *s, uint64_t max)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(s, &end, 10);
	if (errno != 0 || end == s || *end || n == 0 || n > max)
		die("'%s' is no number from 1 to %" PRIu64, s, max);
	return n;
}

static void parse_arguments(int argc, char **argv, struct plan *p)
{
	int opt;

	*p = (struct plan){ .connections = 1,
		.requests = 1,
		.body_bytes = 64 << 10,
		.target = "/bench/0123456789abcdef/minidump" };
	while ((opt = getopt(argc, argv, "c:n:s:t:")) != -1) {
		if (opt == 'c')
			p->connections = (unsigned)parse_number(optarg, 60000);
		else if (opt == 'n')
			p->requests = parse_number(optarg, UINT64_C(1) << 30);
		else if (opt == 's')
			p->body_bytes = parse_number(optarg, UINT64_C(1) << 40);
		else if (opt == 't')
			p->target = optarg;
		else
			optind = argc + 1;
	}
	if (optind != argc - 1)
		die("usage: load [-c CONNECTIONS] [-n REQUESTS] [-s BODY_BYTES]"
		    " [-t TARGET] PORT");
	p->port = (uint16_t)parse_number(argv[optind], UINT16_MAX);
}

static void load_done(struct load *l)
{
	for (unsigned i = 0; i < l->plan.connections; i++) {
		(void)close(l->connections[i].fd); /* every answer was read */
		free(l->connections[i].head);
	}
	free(l->connections);
	free(l->names);
	free(l->latency_us);
	free(l->block);
	free(l->request.head);
	(void)close(l->epoll_fd); /* nothing was written to it */
}

int main(int argc, char **argv)
{
	struct load l = { 0 };
	int64_t began_ns;

	parse_arguments(argc, argv, &l.plan);
	if (getrandom(&l.seed, sizeof(l.seed), 0) != (ssize_t)sizeof(l.seed))
		die("no random bytes");
	make_request(&l.plan, &l.request);
	l.block = make_block();
	l.latency_us = take_memory(l.plan.requests, sizeof(*l.latency_us));
	l.names = take_memory(l.plan.requests, sizeof(*l.names));
	l.connections = take_memory(l.plan.connections, sizeof(*l.connections));
	l.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l.epoll_fd < 0)
		die("no epoll: %s", strerror(errno));
	for (unsigned i = 0; i < l.plan.connections; i++)
		open_connection(&l, &l.connections[i]);
	began_ns = now_ns();
	drive(&l);
	print_result(&l, now_ns() - began_ns);
	load_done(&l);
	return 0;
}
