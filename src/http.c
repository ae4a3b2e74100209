/* SPDX-License-Identifier: MIT */
/* Owns libmicrohttpd and the accepting thread. The library is given connected sockets
 * rather than listening ones, so that connections beyond the limit wait in the kernel's
 * queue instead of being closed (most crash clients never try again), and so that any
 * number of addresses is served by the same threads.
 *
 * A request lives inside its connection: there is never more than one at a time on it.
 */
#include "http.h"

#include "log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "clock.h"

/* Memory of a connection for the head of a request; also what one read of a body takes at
 * most. Measured: 32 KiB beats both less and more. */
#define CONNECTION_MEMORY ((size_t)32 << 10)

/* After a refusal in the middle of a body so much more is read and thrown away, so that
 * the client finds the answer before the connection breaks under its writing. */
#define DISCARD_MAX (UINT64_C(16) << 20)

/* More than any setting allows. */
#define CONNECTIONS_MAX 65536u

/* How long accept() rests when the process has no descriptor or memory left. */
#define ACCEPT_REST_MS 100

enum phase {
	PHASE_NONE,     /* no request */
	PHASE_HEAD,     /* in begin() */
	PHASE_BODY,     /* the body comes */
	PHASE_DISCARD,  /* refused in the middle of the body; the rest is thrown away */
	PHASE_END,      /* in end() */
	PHASE_DEFERRED, /* suspended until http_wake() */
};

struct http_request {
	struct http_connection *connection;
	const char *method;
	bool http10;
	enum phase phase;
	uint64_t discarded;
	unsigned status;               /* of response */
	struct MHD_Response *response; /* queued as soon as the library lets us */
	void *state;
};

struct http_connection {
	struct http_server *server;
	struct http_connection *next; /* under the server's lock */
	struct http_connection **link;
	struct MHD_Connection *mhd;
	int fd;
	char client[INET6_ADDRSTRLEN];
	char *target; /* of the present request; the memory stays for the next */
	size_t target_len;
	size_t target_size;
	bool target_failed;
	bool deferred; /* under the server's lock: the request waits for http_wake() */
	struct http_request request;
};

struct http_server {
	struct http_options options; /* constant */
	int *sockets;                /* owned by the accepting thread */
	int epoll_fd;
	int wake_fd; /* a connection ended while the limit was reached, or stop */
	struct MHD_Daemon *mhd;
	pthread_t acceptor;
	bool acceptor_runs;

	atomic_bool stopping;
	atomic_uint max_connections;
	atomic_uint idle_timeout_s;
	atomic_uint connections;
	atomic_bool full; /* the acceptor waits for a connection to end */

	pthread_mutex_t lock;
	/* Under lock: */
	struct http_connection *open;
	unsigned active;   /* requests between begin() and gone() */
	unsigned deferred; /* of those, waiting for http_wake() */
	pthread_cond_t ended;
};

/* Addresses */

void http_format_address(const struct sockaddr *address, char out[HTTP_ADDRESS_SIZE])
{
	char host[INET6_ADDRSTRLEN] = "";
	/* Copied: the caller's pointer need not be aligned for the larger types. */
	struct sockaddr_in6 in6;
	struct sockaddr_in in;

	if (address->sa_family == AF_INET6) {
		memcpy(&in6, address, sizeof(in6));
		(void)inet_ntop(AF_INET6, &in6.sin6_addr, host, sizeof(host));
		(void)snprintf(
		    out, HTTP_ADDRESS_SIZE, "[%s]:%u", host, ntohs(in6.sin6_port));
	} else if (address->sa_family == AF_INET) {
		memcpy(&in, address, sizeof(in));
		(void)inet_ntop(AF_INET, &in.sin_addr, host, sizeof(host));
		(void)snprintf(out, HTTP_ADDRESS_SIZE, "%s:%u", host, ntohs(in.sin_port));
	} else {
		(void)snprintf(out, HTTP_ADDRESS_SIZE, "unix");
	}
}

int http_socket_address(int fd, char out[HTTP_ADDRESS_SIZE])
{
	union {
		struct sockaddr any;
		struct sockaddr_storage storage;
	} address = { 0 };
	socklen_t length = sizeof(address.storage);

	if (getsockname(fd, &address.any, &length) < 0)
		return -errno;
	http_format_address(&address.any, out);
	return 0;
}

/* The peer's address without its port. */
static void format_client(const struct sockaddr *address, char out[INET6_ADDRSTRLEN])
{
	struct sockaddr_in6 in6;
	struct sockaddr_in in;

	out[0] = '\0';
	if (address && address->sa_family == AF_INET6) {
		memcpy(&in6, address, sizeof(in6));
		(void)inet_ntop(AF_INET6, &in6.sin6_addr, out, INET6_ADDRSTRLEN);
	} else if (address && address->sa_family == AF_INET) {
		memcpy(&in, address, sizeof(in));
		(void)inet_ntop(AF_INET, &in.sin_addr, out, INET6_ADDRSTRLEN);
	}
}

int http_listen(
    const struct sockaddr *address, socklen_t length, char *errbuf, size_t errbuf_size)
{
	CLEANUP(cleanup_close)
	int fd =
	    socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	char text[HTTP_ADDRESS_SIZE];
	int on = 1;
	int r;

	http_format_address(address, text);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    (address->sa_family == AF_INET6 &&
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0) ||
	    bind(fd, address, length) < 0 || listen(fd, SOMAXCONN) < 0) {
		r = -errno;
		(void)snprintf(
		    errbuf, errbuf_size, "cannot listen on %s: %s", text, strerror(-r));
		return r;
	}
	return TAKE_FD(fd);
}

/* Connections */

static void count_connection(struct http_server *h, int delta)
{
	uint64_t one = 1;

	if (delta > 0) {
		(void)atomic_fetch_add(&h->connections, 1);
		return;
	}
	(void)atomic_fetch_sub(&h->connections, 1);
	if (atomic_exchange(&h->full, false))
		/* The counter cannot overflow; the acceptor empties it. */
		(void)!write(h->wake_fd, &one, sizeof(one));
}

static void connection_started(
    struct http_server *h, struct MHD_Connection *mhd, void **context)
{
	const union MHD_ConnectionInfo *info;
	struct http_connection *c = calloc(1, sizeof(*c));

	/* Without memory every request on it is cut in handle(). */
	*context = c;
	if (!c)
		return;
	c->server = h;
	c->mhd = mhd;
	c->request.connection = c;
	info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
	c->fd = info ? info->connect_fd : -1;
	info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	format_client(info ? info->client_addr : NULL, c->client);
	(void)MHD_set_connection_option(
	    mhd, MHD_CONNECTION_OPTION_TIMEOUT, atomic_load(&h->idle_timeout_s));
	(void)pthread_mutex_lock(&h->lock);
	c->next = h->open;
	c->link = &h->open;
	if (c->next)
		c->next->link = &c->next;
	h->open = c;
	(void)pthread_mutex_unlock(&h->lock);
}

/* The library closes the socket only after this. */
static void connection_ended(struct http_connection *c)
{
	struct http_server *h = c->server;

	(void)pthread_mutex_lock(&h->lock);
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
	(void)pthread_mutex_unlock(&h->lock);
	free(c->target);
	free(c);
}

static void notify_connection(void *cls, struct MHD_Connection *mhd, void **context,
    enum MHD_ConnectionNotificationCode code)
{
	struct http_server *h = cls;
	struct http_connection *c = *context;

	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		connection_started(h, mhd, context);
		return;
	}
	if (c)
		connection_ended(c);
	*context = NULL;
	count_connection(h, -1);
}

static struct http_connection *connection_of(struct MHD_Connection *mhd)
{
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? info->socket_context : NULL;
}

/* The only place where the library shows the target before it decodes it. */
static void *keep_target(void *cls, const char *target, struct MHD_Connection *mhd)
{
	struct http_connection *c = connection_of(mhd);
	size_t len = strlen(target);

	(void)cls;
	if (!c)
		return NULL;
	c->target_failed = false;
	if (len + 1 > c->target_size) {
		char *p = realloc(c->target, len + 1);

		if (!p) {
			c->target_failed = true;
			return NULL;
		}
		c->target = p;
		c->target_size = len + 1;
	}
	memcpy(c->target, target, len + 1);
	c->target_len = len;
	return NULL;
}

/* Answers */

static struct MHD_Response *make_response(
    const struct http_request *q, const struct http_answer *a)
{
	/* The copy is taken before this returns, whatever the flag's name says. */
	struct MHD_Response *response = MHD_create_response_from_buffer(
	    a->body_len, (void *)(uintptr_t)a->body, MHD_RESPMEM_MUST_COPY);

	if (!response)
		return NULL;
	(void)MHD_add_response_header(
	    response, MHD_HTTP_HEADER_CONTENT_TYPE, a->content_type);
	for (size_t i = 0; i < ARRAY_LEN(a->headers) && a->headers[i].name; i++)
		(void)MHD_add_response_header(
		    response, a->headers[i].name, a->headers[i].value);
	/* Crashpad's socket transport speaks 1.0 and reads to the end of the connection.
	 */
	if (q->http10 || q->phase == PHASE_HEAD ||
	    atomic_load(&q->connection->server->stopping))
		(void)MHD_add_response_header(
		    response, MHD_HTTP_HEADER_CONNECTION, "close");
	return response;
}

/* The library takes an answer only before or after the body, so one in its middle is
 * written past it. Nothing was written on this connection since the last answer, thus the
 * socket's buffer takes it whole; if it does not, the client sees a cut connection. */
static void send_refusal(struct http_request *q, const struct http_answer *a)
{
	char head[1024];
	int n = snprintf(head, sizeof(head),
	    "HTTP/1.1 %u %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n", a->status,
	    MHD_get_reason_phrase_for(a->status), a->content_type, a->body_len);
	struct iovec iov[2];
	struct msghdr message = { .msg_iov = iov, .msg_iovlen = 2 };

	for (size_t i = 0; i < ARRAY_LEN(a->headers) && a->headers[i].name; i++)
		if (n > 0 && (size_t)n < sizeof(head))
			n += snprintf(head + n, sizeof(head) - (size_t)n, "%s: %s\r\n",
			    a->headers[i].name, a->headers[i].value);
	if (n > 0 && (size_t)n < sizeof(head))
		n += snprintf(
		    head + n, sizeof(head) - (size_t)n, "Connection: close\r\n\r\n");
	if (n <= 0 || (size_t)n >= sizeof(head))
		return;
	iov[0] = (struct iovec){ .iov_base = head, .iov_len = (size_t)n };
	iov[1] = (struct iovec){ .iov_base = (void *)(uintptr_t)a->body,
		.iov_len = a->body_len };
	(void)sendmsg(q->connection->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	(void)shutdown(q->connection->fd, SHUT_WR);
}

void http_answer(struct http_request *q, const struct http_answer *answer)
{
	switch (q->phase) {
	case PHASE_HEAD:
	case PHASE_END:
		q->status = answer->status;
		q->response = make_response(q, answer);
		break;
	case PHASE_BODY:
		send_refusal(q, answer);
		q->phase = PHASE_DISCARD;
		break;
	case PHASE_NONE:
	case PHASE_DISCARD:
	case PHASE_DEFERRED:
		break;
	}
}

void http_defer(struct http_request *q)
{
	struct http_server *h = q->connection->server;

	(void)pthread_mutex_lock(&h->lock);
	q->connection->deferred = true;
	h->deferred++;
	(void)pthread_mutex_unlock(&h->lock);
	q->phase = PHASE_DEFERRED;
	MHD_suspend_connection(q->connection->mhd);
}

void http_wake(struct http_request *q)
{
	/* Once resumed the request may be gone at any moment; the server stays until the
	 * count says so. */
	struct http_server *h = q->connection->server;

	MHD_resume_connection(q->connection->mhd);
	(void)pthread_mutex_lock(&h->lock);
	if (--h->deferred == 0)
		(void)pthread_cond_broadcast(&h->ended);
	(void)pthread_mutex_unlock(&h->lock);
}

/* Requests */

/* Give the response to the library. MHD_NO closes the connection: there was no memory
 * for an answer. */
static enum MHD_Result queue_response(struct http_request *q)
{
	struct MHD_Response *response = TAKE_PTR(q->response);
	enum MHD_Result result;

	if (!response)
		return MHD_NO;
	result = MHD_queue_response(q->connection->mhd, q->status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result begin_request(struct http_server *h, struct http_connection *c,
    const char *method, const char *version)
{
	struct http_request *q = &c->request;

	*q = (struct http_request){ .connection = c,
		.method = method,
		.http10 = strcmp(version, MHD_HTTP_VERSION_1_0) == 0,
		.phase = PHASE_HEAD };
	(void)pthread_mutex_lock(&h->lock);
	c->deferred = false;
	h->active++;
	(void)pthread_mutex_unlock(&h->lock);
	h->options.begin(h->options.cls, q);
	if (q->response)
		return queue_response(q);
	q->phase = PHASE_BODY;
	return MHD_YES;
}

static enum MHD_Result take_data(
    struct http_server *h, struct http_request *q, const char *data, size_t *size)
{
	if (q->phase == PHASE_BODY)
		h->options.data(h->options.cls, q, data, *size);
	else
		q->discarded += *size;
	*size = 0;
	return q->discarded > DISCARD_MAX ? MHD_NO : MHD_YES;
}

static enum MHD_Result end_request(struct http_server *h, struct http_request *q)
{
	if (q->phase == PHASE_BODY) {
		q->phase = PHASE_END;
		h->options.end(h->options.cls, q);
		if (q->phase == PHASE_DEFERRED)
			return MHD_YES;
	} else if (q->phase == PHASE_DEFERRED) {
		q->phase = PHASE_END;
		h->options.resumed(h->options.cls, q);
	} else {
		return MHD_NO; /* refused before; the answer is out */
	}
	return queue_response(q);
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *mhd, const char *url,
    const char *method, const char *version, const char *data, size_t *size, void **seen)
{
	struct http_server *h = cls;
	struct http_connection *c = connection_of(mhd);

	(void)url;
	if (!c || c->target_failed)
		return MHD_NO;
	if (!*seen) {
		*seen = &c->request;
		return begin_request(h, c, method, version);
	}
	if (*size > 0)
		return take_data(h, &c->request, data, size);
	return end_request(h, &c->request);
}

static void request_completed(void *cls, struct MHD_Connection *mhd, void **seen,
    enum MHD_RequestTerminationCode code)
{
	struct http_server *h = cls;
	struct http_request *q = *seen;

	(void)mhd;
	(void)code;
	if (!q || q->phase == PHASE_NONE)
		return;
	h->options.gone(h->options.cls, q);
	if (q->response)
		MHD_destroy_response(TAKE_PTR(q->response));
	q->phase = PHASE_NONE;
	*seen = NULL;
	(void)pthread_mutex_lock(&h->lock);
	if (--h->active == 0)
		(void)pthread_cond_broadcast(&h->ended);
	(void)pthread_mutex_unlock(&h->lock);
}

bool http_is_stopping(const struct http_request *q)
{
	return atomic_load(&q->connection->server->stopping);
}

const char *http_method(const struct http_request *q)
{
	return q->method;
}

const char *http_target(const struct http_request *q, size_t *ret_len)
{
	*ret_len = q->connection->target_len;
	return q->connection->target;
}

const char *http_header(const struct http_request *q, const char *name)
{
	return MHD_lookup_connection_value(q->connection->mhd, MHD_HEADER_KIND, name);
}

struct header_count {
	const char *name;
	unsigned count;
};

static enum MHD_Result count_header(
    void *cls, enum MHD_ValueKind kind, const char *key, const char *value)
{
	struct header_count *n = cls;

	(void)kind;
	(void)value;
	if (strcasecmp(key, n->name) == 0)
		n->count++;
	return MHD_YES;
}

unsigned http_header_count(const struct http_request *q, const char *name)
{
	struct header_count n = { .name = name };

	(void)MHD_get_connection_values(
	    q->connection->mhd, MHD_HEADER_KIND, count_header, &n);
	return n.count;
}

const char *http_client(const struct http_request *q)
{
	return q->connection->client;
}

void http_set_state(struct http_request *q, void *state)
{
	q->state = state;
}

void *http_state(const struct http_request *q)
{
	return q->state;
}

/* Accepting */

static void watch_sockets(struct http_server *h, bool watch)
{
	for (size_t i = 0; i < h->options.socket_count; i++) {
		struct epoll_event e = { .events = watch ? EPOLLIN : 0,
			.data = { .fd = h->sockets[i] } };

		/* The descriptor is in the set; changing it cannot fail. */
		(void)epoll_ctl(h->epoll_fd, EPOLL_CTL_MOD, h->sockets[i], &e);
	}
}

/* Take one connection from a listening socket. Returns false when accepting must rest. */
static bool accept_one(struct http_server *h, int listener)
{
	union {
		struct sockaddr any;
		struct sockaddr_storage storage;
	} address = { 0 };
	socklen_t length = sizeof(address.storage);
	int fd = accept4(listener, &address.any, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return errno != EMFILE && errno != ENFILE && errno != ENOBUFS &&
		       errno != ENOMEM;
	count_connection(h, 1);
	if (MHD_add_connection(h->mhd, fd, &address.any, length) != MHD_YES) {
		/* It closed the socket and told nobody. */
		count_connection(h, -1);
		log_warning("a connection was lost: no resources to serve it");
	}
	return true;
}

/* Whether a connection more may be taken. */
static bool has_room(struct http_server *h)
{
	if (atomic_load(&h->connections) < atomic_load(&h->max_connections))
		return true;
	/* Announce the wait, then look again: one may have ended in between. */
	atomic_store(&h->full, true);
	return atomic_load(&h->connections) < atomic_load(&h->max_connections);
}

/* Wait until there is something to accept and a place for it. */
static void *accept_thread(void *arg)
{
	struct http_server *h = arg;
	struct epoll_event events[8];
	bool watching = true;
	bool rest = false; /* out of descriptors or memory: look again in a while */

	while (!atomic_load(&h->stopping)) {
		bool watch_now = !rest && has_room(h);
		uint64_t drained;
		int n;

		if (watch_now != watching)
			watch_sockets(h, watch_now);
		watching = watch_now;
		n = epoll_wait(
		    h->epoll_fd, events, ARRAY_LEN(events), rest ? ACCEPT_REST_MS : -1);
		rest = false;
		for (int i = 0; i < n; i++) {
			if (events[i].data.fd == h->wake_fd)
				(void)!read(h->wake_fd, &drained, sizeof(drained));
			else if (!accept_one(h, events[i].data.fd))
				rest = true;
		}
	}
	return NULL;
}

static int watch(struct http_server *h, int fd)
{
	struct epoll_event e = { .events = EPOLLIN, .data = { .fd = fd } };

	return epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

/* Starting and stopping */

static void log_library(void *cls, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);
static void log_library(void *cls, const char *fmt, va_list ap)
{
	char text[512];

	(void)cls;
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	log_debug("libmicrohttpd: %s", text);
}

static int start_library(struct http_server *h)
{
	/* The library divides its limit among its threads, and a thread at its share
	 * refuses though others have room; so each share is the whole: ours is the limit
	 * that counts. */
	unsigned limit = CONNECTIONS_MAX * h->options.threads;

	h->mhd = MHD_start_daemon(
	    MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_NO_LISTEN_SOCKET |
		MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG,
	    0, NULL, NULL, handle, h, MHD_OPTION_EXTERNAL_LOGGER, log_library, NULL,
	    MHD_OPTION_THREAD_POOL_SIZE, h->options.threads, MHD_OPTION_CONNECTION_LIMIT,
	    limit, MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY,
	    MHD_OPTION_NOTIFY_CONNECTION, notify_connection, h,
	    MHD_OPTION_NOTIFY_COMPLETED, request_completed, h,
	    MHD_OPTION_URI_LOG_CALLBACK, keep_target, NULL, MHD_OPTION_THREAD_STACK_SIZE,
	    (size_t)256 << 10, MHD_OPTION_END);
	return h->mhd ? 0 : -ENOMEM;
}

static struct http_server *server_alloc(const struct http_options *options)
{
	struct http_server *h = calloc(1, sizeof(*h));
	pthread_condattr_t attr;

	if (!h)
		return NULL;
	h->options = *options;
	atomic_init(&h->max_connections, options->max_connections);
	atomic_init(&h->idle_timeout_s, options->idle_timeout_s);
	h->epoll_fd = -1;
	h->wake_fd = -1;
	(void)pthread_mutex_init(
	    &h->lock, NULL); /* cannot fail with default attributes */
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&h->ended, &attr);
	(void)pthread_condattr_destroy(&attr);
	h->sockets =
	    calloc(options->socket_count ? options->socket_count : 1, sizeof(int));
	if (!h->sockets) {
		free(h);
		return NULL;
	}
	memcpy(h->sockets, options->sockets, options->socket_count * sizeof(int));
	h->options.sockets = h->sockets;
	return h;
}

int http_start(const struct http_options *options, struct http_server **ret)
{
	struct http_server *h = server_alloc(options);
	pthread_attr_t attr;
	int r = 0;

	if (!h) {
		for (size_t i = 0; i < options->socket_count; i++)
			(void)close(options->sockets[i]); /* nothing was written to it */
		return -ENOMEM;
	}
	h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (h->epoll_fd < 0 || h->wake_fd < 0)
		r = -errno;
	if (r == 0)
		r = watch(h, h->wake_fd);
	for (size_t i = 0; i < options->socket_count && r == 0; i++)
		r = watch(h, h->sockets[i]);
	if (r == 0)
		r = start_library(h);
	if (r == 0) {
		(void)pthread_attr_init(&attr);
		(void)pthread_attr_setstacksize(&attr, 128 << 10);
		r = -pthread_create(&h->acceptor, &attr, accept_thread, h);
		(void)pthread_attr_destroy(&attr);
		h->acceptor_runs = r == 0;
	}
	if (r < 0) {
		http_stop(h, 0);
		return r;
	}
	*ret = h;
	return 0;
}

void http_set_limits(
    struct http_server *h, unsigned max_connections, unsigned idle_timeout_s)
{
	uint64_t one = 1;

	atomic_store(&h->max_connections, max_connections);
	atomic_store(&h->idle_timeout_s, idle_timeout_s);
	(void)!write(h->wake_fd, &one, sizeof(one)); /* a place may have become free */
}

/* Break connections whose client has gone. The library misses an end that came together
 * with the last bytes (its edge is spent on those) until the idle timeout. Lock held. */
static void break_deserted(struct http_server *h)
{
	char byte;

	for (struct http_connection *c = h->open; c; c = c->next)
		if (!c->deferred && c->fd >= 0 &&
		    recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
			(void)shutdown(c->fd, SHUT_RDWR);
}

/* How often deserted connections are looked for while stopping. */
#define DESERTED_MS 100

static void wait_for_requests(struct http_server *h, int64_t timeout_ms)
{
	int64_t give_up_at_ms = clock_mono_ms() + timeout_ms;

	(void)pthread_mutex_lock(&h->lock);
	while (h->active > 0 && clock_mono_ms() < give_up_at_ms) {
		struct timespec until = clock_deadline(DESERTED_MS);

		break_deserted(h);
		(void)pthread_cond_timedwait(&h->ended, &h->lock, &until);
	}
	/* Whoever is to wake these holds on to them; the library cannot close them. */
	while (h->deferred > 0)
		(void)pthread_cond_wait(&h->ended, &h->lock);
	(void)pthread_mutex_unlock(&h->lock);
}

struct http_server *http_stop(struct http_server *h, int64_t timeout_ms)
{
	uint64_t one = 1;

	if (!h)
		return NULL;
	atomic_store(&h->stopping, true);
	if (h->acceptor_runs) {
		(void)!write(h->wake_fd, &one, sizeof(one)); /* cannot overflow */
		(void)pthread_join(h->acceptor, NULL);
	}
	for (size_t i = 0; i < h->options.socket_count; i++)
		(void)close(h->sockets[i]); /* nothing was written to it */
	if (h->mhd) {
		wait_for_requests(h, timeout_ms);
		MHD_stop_daemon(h->mhd);
	}
	cleanup_close(&h->epoll_fd);
	cleanup_close(&h->wake_fd);
	(void)pthread_cond_destroy(&h->ended);
	(void)pthread_mutex_destroy(&h->lock);
	free(h->sockets);
	free(h);
	return NULL;
}
