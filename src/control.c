/* SPDX-License-Identifier: MIT */
/* Owns the control socket's file and the table of what is served on it. Who a peer is does
 * not matter: the rights on the socket say who may open it. Invariants: nothing but a
 * socket on which nobody answers is ever removed from the path; a request takes no body. */
#include "control.h"

#include "fsutil.h"
#include "http.h"
#include "json.h"
#include "status.h"
#include "strbuf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* Answers take microseconds; more peers than these at once are a mistake and wait. */
#define CONTROL_THREADS 1
#define CONTROL_CONNECTIONS 64
#define CONTROL_IDLE_TIMEOUT_S 30

/* How long a peer that does not take its answer can delay the stop. */
#define CONTROL_STOP_MS 1000

#define SOCKET_MODE 0660
#define FOLDER_MODE 0755

struct control {
	struct status *status;
	struct http_server *http;
	struct sockaddr_un address;
	dev_t device; /* of the socket file, to know it again */
	ino_t inode;
};

/* Answers */

/* The form is the intake's. allow is for 405, else NULL. */
static void answer_error(struct http_request *q, unsigned status, const char *code,
    const char *message, const char *allow)
{
	CLEANUP(strbuf_done) struct strbuf body = STRBUF_INIT;
	struct http_answer a = { .status = status, .content_type = "application/json" };

	strbuf_addf(&body,
	    "{\"response\":\"error\",\"error\":{\"status\":%u,\"code\":\"%s\","
	    "\"message\":",
	    status, code);
	json_add_string(&body, message, strlen(message));
	strbuf_add_str(&body, "}}\n");
	a.body = strbuf_str(&body);
	a.body_len = strlen(a.body);
	if (allow) {
		a.headers[0].name = "Allow";
		a.headers[0].value = allow;
	}
	http_answer(q, &a);
}

static void answer(struct http_request *q, unsigned status, const char *content_type,
    const struct strbuf *body)
{
	struct http_answer a = { .status = status,
		.content_type = content_type,
		.body = strbuf_str(body),
		.body_len = body->len };

	if (strbuf_status(body) < 0)
		answer_error(q, 503, "unavailable", "out of memory", NULL);
	else
		http_answer(q, &a);
}

static void answer_text(struct http_request *q, const char *text)
{
	CLEANUP(strbuf_done) struct strbuf body = STRBUF_INIT;

	strbuf_add_str(&body, text);
	answer(q, 200, "text/plain; charset=utf-8", &body);
}

static void serve_health(struct control *c, struct http_request *q)
{
	(void)c; /* that this thread answers is all there is to say */
	answer_text(q, "ok\n");
}

static void serve_readiness(struct control *c, struct http_request *q)
{
	char reason[STATUS_REASON_SIZE];

	if (status_is_ready(c->status, reason))
		answer_text(q, "ready\n");
	else
		answer_error(q, 503, "unavailable", reason, NULL);
}

static void serve_metrics(struct control *c, struct http_request *q)
{
	CLEANUP(strbuf_done) struct strbuf body = STRBUF_INIT;
	enum metrics_format format = status_choose_format(http_header(q, "Accept"));

	status_write_metrics(c->status, format, &body);
	answer(q, 200, status_content_type(format), &body);
}

static void serve_status(struct control *c, struct http_request *q)
{
	CLEANUP(strbuf_done) struct strbuf body = STRBUF_INIT;

	status_write_json(c->status, &body);
	answer(q, 200, "application/json", &body);
}

/* Routes */

/* A route for GET serves HEAD too. */
struct route {
	const char *method;
	const char *path;
	void (*serve)(struct control *c, struct http_request *q);
};

static const struct route routes[] = {
	{ "GET", "/healthz", serve_health },
	{ "GET", "/readyz", serve_readiness },
	{ "GET", "/metrics", serve_metrics },
	{ "GET", "/api/v1/status", serve_status },
};

static bool takes_method(const struct route *r, const char *method)
{
	return strcmp(method, r->method) == 0 ||
	       (strcmp(method, "HEAD") == 0 && strcmp(r->method, "GET") == 0);
}

static void add_method(struct strbuf *allow, const char *method)
{
	if (allow->len > 0)
		strbuf_add_str(allow, ", ");
	strbuf_add_str(allow, strcmp(method, "GET") == 0 ? "GET, HEAD" : method);
}

/* The route of a request, or NULL; then allow has the methods that its path takes. */
static const struct route *find_route(const struct http_request *q, struct strbuf *allow)
{
	size_t len;
	const char *target = http_target(q, &len);
	const char *query = memchr(target, '?', len);

	if (query)
		len = (size_t)(query - target);
	for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
		const struct route *r = &routes[i];

		if (strlen(r->path) != len || memcmp(r->path, target, len) != 0)
			continue;
		if (takes_method(r, http_method(q)))
			return r;
		add_method(allow, r->method);
	}
	return NULL;
}

static void begin(void *cls, struct http_request *q)
{
	CLEANUP(strbuf_done) struct strbuf allow = STRBUF_INIT;

	(void)cls;
	if (find_route(q, &allow))
		return;
	if (allow.len == 0)
		answer_error(
		    q, 404, "unknown-path", "nothing is served at this path", NULL);
	else
		answer_error(q, 405, "method", "this path does not take this method",
		    strbuf_str(&allow));
}

static void data(void *cls, struct http_request *q, const void *bytes, size_t len)
{
	(void)cls;
	(void)bytes;
	(void)len;
	answer_error(q, 400, "bad-request", "this request takes no body", NULL);
}

static void end(void *cls, struct http_request *q)
{
	CLEANUP(strbuf_done) struct strbuf allow = STRBUF_INIT;
	const struct route *r = find_route(q, &allow); /* begin() has found it too */

	r->serve(cls, q);
}

static void resumed(void *cls, struct http_request *q)
{
	/* No request is deferred. */
	(void)cls;
	(void)q;
}

static void gone(void *cls, struct http_request *q)
{
	/* No request has a state. */
	(void)cls;
	(void)q;
}

/* The socket */

static int fail(
    int r, const char *path, const char *what, char *errbuf, size_t errbuf_size)
{
	(void)snprintf(errbuf, errbuf_size, "control socket %s: %s", path, what);
	return r;
}

static int set_address(
    struct control *c, const char *path, char *errbuf, size_t errbuf_size)
{
	size_t len = strlen(path);

	if (len == 0 || len >= sizeof(c->address.sun_path)) {
		(void)snprintf(errbuf, errbuf_size,
		    "control socket: the path of a Unix socket has 1 to %zu bytes, this"
		    " one has %zu: %s",
		    sizeof(c->address.sun_path) - 1, len, path);
		return -ENAMETOOLONG;
	}
	c->address.sun_family = AF_UNIX;
	memcpy(c->address.sun_path, path, len + 1);
	return 0;
}

/* Make the folder of the path if it is absent. */
static int make_folder(const char *path)
{
	CLEANUP(cleanup_free) char *folder = strdup(path);
	struct stat st;
	char *slash;
	int r;

	if (!folder)
		return -ENOMEM;
	slash = strrchr(folder, '/');
	if (!slash || slash == folder)
		return 0;
	*slash = '\0';
	if (stat(folder, &st) == 0)
		return 0; /* if it is no folder, bind() says so */
	r = fs_make_folder(folder, FOLDER_MODE);
	if (r < 0)
		return r;
	/* The daemon's umask lets no one else in; here those of the socket's group must
	 * come through. */
	return chmod(folder, FOLDER_MODE) < 0 ? -errno : 0;
}

/* Whether someone answers: 1; 0 nobody does, or there is no such socket any more. */
static int probe(const struct sockaddr_un *address)
{
	CLEANUP(cleanup_close)
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	/* EAGAIN: alive, but its queue is full. */
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
	    errno == EAGAIN)
		return 1;
	return errno == ECONNREFUSED || errno == ENOENT ? 0 : -errno;
}

/* Remove what a dead daemon left, and nothing else. */
static int remove_stale(const struct sockaddr_un *address, const char **ret_what)
{
	const char *path = address->sun_path;
	struct stat st;
	int r;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode)) {
		*ret_what = "there is something that is no socket";
		return -EEXIST;
	}
	r = probe(address);
	if (r > 0) {
		*ret_what = "another daemon answers there";
		return -EADDRINUSE;
	}
	if (r == 0 && unlink(path) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

/* Bind and listen. Returns the descriptor. */
static int open_socket(struct control *c)
{
	CLEANUP(cleanup_close)
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	const struct sockaddr *address = (const struct sockaddr *)&c->address;
	const char *path = c->address.sun_path;
	struct stat st;

	/* The file is made with the descriptor's mode, so that it is never open to more
	 * than it shall be; then the umask's part in it is undone. */
	if (fd < 0 || fchmod(fd, SOCKET_MODE) < 0 ||
	    bind(fd, address, sizeof(c->address)) < 0)
		return -errno;
	if (lstat(path, &st) < 0)
		return -errno;
	c->device = st.st_dev;
	c->inode = st.st_ino;
	if (chmod(path, SOCKET_MODE) < 0 || listen(fd, SOMAXCONN) < 0) {
		int r = -errno;

		(void)unlink(path); /* the error before it is what counts */
		return r;
	}
	return TAKE_FD(fd);
}

/* Another daemon may have put its own there meanwhile. */
static void remove_socket(const struct control *c)
{
	const char *path = c->address.sun_path;
	struct stat st;

	if (lstat(path, &st) == 0 && st.st_dev == c->device && st.st_ino == c->inode)
		(void)unlink(path); /* a stale one is replaced by the next start */
}

static int make_socket(
    struct control *c, const char *path, char *errbuf, size_t errbuf_size)
{
	const char *what = NULL;
	int r = set_address(c, path, errbuf, errbuf_size);

	if (r < 0)
		return r;
	r = make_folder(path);
	if (r == 0)
		r = remove_stale(&c->address, &what);
	if (r == 0)
		r = open_socket(c);
	if (r < 0)
		return fail(r, path, what ? what : strerror(-r), errbuf, errbuf_size);
	return r;
}

/* Life */

static int serve(struct control *c, int fd, char *errbuf, size_t errbuf_size)
{
	struct http_options http = { .sockets = &fd,
		.socket_count = 1,
		.threads = CONTROL_THREADS,
		.max_connections = CONTROL_CONNECTIONS,
		.idle_timeout_s = CONTROL_IDLE_TIMEOUT_S,
		.begin = begin,
		.data = data,
		.end = end,
		.resumed = resumed,
		.gone = gone,
		.cls = c };
	int r = http_start(&http, &c->http);

	if (r < 0) {
		remove_socket(c);
		return fail(r, c->address.sun_path, strerror(-r), errbuf, errbuf_size);
	}
	return 0;
}

int control_start(const struct control_options *options, struct control **ret,
    char *errbuf, size_t errbuf_size)
{
	CLEANUP(cleanup_free) struct control *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return fail(
		    -ENOMEM, options->path, strerror(ENOMEM), errbuf, errbuf_size);
	c->status = options->status;
	r = make_socket(c, options->path, errbuf, errbuf_size);
	if (r < 0)
		return r;
	r = serve(c, r, errbuf, errbuf_size);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(c);
	return 0;
}

struct control *control_stop(struct control *c)
{
	if (!c)
		return NULL;
	remove_socket(c);
	http_stop(c->http, CONTROL_STOP_MS);
	free(c);
	return NULL;
}
