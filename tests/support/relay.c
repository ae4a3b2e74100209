/* SPDX-License-Identifier: MIT */
/* Owns the daemon's process and its log. One thread per start reads the log until the
 * daemon's end; the log is shared with it under the lock. The process is waited for by
 * its id alone and killed at the latest when the starting thread ends. */
#include "relay.h"

#include "cleanup.h"
#include "clock.h"
#include "strbuf.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define WAIT_MS 20000
#define LOG_SHOWN_BYTES 4000

struct relay {
	struct relay_options options;
	char *folder, *spool, *config;
	pid_t pid; /* 0 = not running */
	uint16_t port;
	size_t start_mark; /* where the log of the last start begins */
	bool reading;
	pthread_t reader; /* valid while reading */
	int pipe_fd;      /* owned by the reader */
	int log_fd;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct strbuf log;
	bool log_ended;
};

static const struct relay_options no_options;

/* Failing with the log */

static void fail(struct relay *r, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void fail(struct relay *r, const char *fmt, ...)
{
	struct strbuf message = STRBUF_INIT;
	const char *log;
	size_t len;
	va_list ap;

	va_start(ap, fmt);
	strbuf_vaddf(&message, fmt, ap);
	va_end(ap);
	(void)pthread_mutex_lock(&r->lock);
	log = strbuf_str(&r->log);
	len = strlen(log);
	strbuf_addf(&message, "; the log ends so:\n%s",
	    len > LOG_SHOWN_BYTES ? log + len - LOG_SHOWN_BYTES : log);
	(void)pthread_mutex_unlock(&r->lock);
	cr_assert_fail("%s", strbuf_str(&message));
	abort(); /* not reached: an assertion leaves the test */
}

/* The process */

/* What the environment says about supervision or folders is not for the daemon under
 * test: it gets its own, below. */
static bool is_kept(const char *variable)
{
	static const char *const dropped[] = { "STATE_DIRECTORY=", "RUNTIME_DIRECTORY=",
		"XDG_", "NOTIFY_SOCKET=", "LISTEN_", "JOURNAL_STREAM=", "WATCHDOG_",
		"MINIDUMP_RELAY_", "HOME=" };

	for (size_t i = 0; i < ARRAY_LEN(dropped); i++) {
		if (strncmp(variable, dropped[i], strlen(dropped[i])) == 0)
			return false;
	}
	return true;
}

/* A list of strings ended by NULL, owned. */
struct string_list {
	char **items;
	size_t n;
};

static void append(struct string_list *list, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void append(struct string_list *list, const char *fmt, ...)
{
	char **items = realloc(list->items, (list->n + 2) * sizeof(*items));
	char *item = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&item, fmt, ap);
	va_end(ap);
	if (!items || n < 0)
		abort();
	items[list->n++] = item;
	items[list->n] = NULL;
	list->items = items;
}

static void append_all(struct string_list *list, const char *const *items)
{
	for (; items && *items; items++)
		append(list, "%s", *items);
}

static void free_list(struct string_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->items[i]);
	free(list->items);
}

static struct string_list base_environment(const char *home)
{
	struct string_list env = { 0 };

	for (char **variable = environ; *variable; variable++) {
		if (is_kept(*variable))
			append(&env, "%s", *variable);
	}
	append(&env, "HOME=%s", home);
	append(&env, "RUNTIME_DIRECTORY=%s", home);
	append(&env, "STATE_DIRECTORY=%s/state", home);
	return env;
}

static const char *program(void)
{
	const char *path = getenv("RELAY_DAEMON");

	if (!path || !*path)
		cr_assert_fail("RELAY_DAEMON must name the daemon's program");
	return path;
}

/* In the child: only calls that are safe after fork() in a program with threads. */
static _Noreturn void become_daemon(pid_t parent, const char *path,
    const struct string_list *args, const struct string_list *env, int out_fd, int err_fd)
{
	sigset_t none;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(out_fd, STDOUT_FILENO) < 0 || dup2(err_fd, STDERR_FILENO) < 0)
		_exit(127);
	/* Nothing of the test's may stay open in the daemon. */
	if (close_range(3, ~0u, 0) < 0)
		_exit(127);
	(void)execve(path, args->items, env->items);
	_exit(127);
}

static pid_t spawn(const char *path, const struct string_list *args,
    const struct string_list *env, int out_fd, int err_fd)
{
	pid_t parent = getpid();
	pid_t pid = fork();

	if (pid == 0)
		become_daemon(parent, path, args, env, out_fd, err_fd);
	cr_assert_gt(pid, 0, "cannot fork: %s", strerror(errno));
	return pid;
}

/* Wait for the end of a child within the deadline. Returns false when it still runs. */
static bool reap(pid_t pid, int *ret_status)
{
	struct pollfd p = { .fd = (int)syscall(SYS_pidfd_open, pid, 0),
		.events = POLLIN };
	int64_t deadline_ms = clock_mono_ms() + WAIT_MS;
	int status = 0;
	int n;

	do {
		int64_t left_ms = deadline_ms - clock_mono_ms();

		n = poll(&p, 1, left_ms > 0 ? (int)left_ms : 0);
	} while (n < 0 && errno == EINTR);
	if (p.fd >= 0)
		(void)close(p.fd);
	if (n != 1 || waitpid(pid, &status, 0) != pid)
		return false;
	*ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
	return true;
}

/* The log */

static void *read_log(void *cls)
{
	struct relay *r = cls;
	char buf[4096];
	ssize_t n;

	while (
	    (n = read(r->pipe_fd, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)) {
		if (n < 0)
			continue;
		/* The file is for the reader of a failed test. */
		(void)!write(r->log_fd, buf, (size_t)n);
		(void)pthread_mutex_lock(&r->lock);
		strbuf_add(&r->log, buf, (size_t)n);
		(void)pthread_cond_broadcast(&r->changed);
		(void)pthread_mutex_unlock(&r->lock);
	}
	(void)close(r->pipe_fd);
	(void)pthread_mutex_lock(&r->lock);
	r->log_ended = true;
	(void)pthread_cond_broadcast(&r->changed);
	(void)pthread_mutex_unlock(&r->lock);
	return NULL;
}

size_t relay_log_mark(struct relay *r)
{
	size_t mark;

	(void)pthread_mutex_lock(&r->lock);
	mark = r->log.len;
	(void)pthread_mutex_unlock(&r->lock);
	return mark;
}

static bool log_holds_locked(const struct relay *r, size_t mark, const char *text)
{
	return strstr(strbuf_str(&r->log) + mark, text) != NULL;
}

void relay_expect_log(struct relay *r, size_t mark, const char *text)
{
	struct timespec until = clock_deadline(WAIT_MS);
	bool found;
	int error = 0;

	(void)pthread_mutex_lock(&r->lock);
	while (!(found = log_holds_locked(r, mark, text)) && !r->log_ended &&
	       error != ETIMEDOUT)
		error = pthread_cond_clockwait(
		    &r->changed, &r->lock, CLOCK_MONOTONIC, &until);
	(void)pthread_mutex_unlock(&r->lock);
	if (!found)
		fail(r, "the log does not say \"%s\"", text);
}

unsigned relay_log_count(struct relay *r, size_t mark, const char *text)
{
	const char *line;
	unsigned n = 0;

	(void)pthread_mutex_lock(&r->lock);
	line = strbuf_str(&r->log) + mark;
	while ((line = strstr(line, text))) {
		n++;
		line += strcspn(line, "\n");
	}
	(void)pthread_mutex_unlock(&r->lock);
	return n;
}

/* Life of a relay */

static void add_section(struct strbuf *b, const char *name, const char *lines)
{
	if (lines && *lines)
		strbuf_addf(b, "[%s]\n%s", name, lines);
}

static const char *or_default(const char *text, const char *fallback)
{
	return text ? text : fallback;
}

void relay_configure(struct relay *r, const struct relay_options *options)
{
	const struct relay_options *o = options ? options : &no_options;
	struct strbuf b = STRBUF_INIT;
	struct strbuf upstream = STRBUF_INIT;

	r->options = *o;
	if (o->upstream)
		strbuf_addf(&upstream, "url = %s\n", o->upstream);
	strbuf_add_str(&upstream, or_default(o->upstream_lines, ""));
	add_section(&b, "listen", or_default(o->listen_lines, "http = 127.0.0.1:0\n"));
	add_section(&b, "upstream", strbuf_str(&upstream));
	add_section(&b, "forward",
	    or_default(o->forward_lines, "retry_min = 20ms\nretry_max = 200ms\n"));
	add_section(&b, "daemon", or_default(o->daemon_lines, "stop_timeout = 5s\n"));
	strbuf_addf(&b, "[spool]\ndirectory = %s\n", r->spool);
	strbuf_add_str(&b, or_default(o->sections, ""));
	tempdir_write(r->folder, "relay.conf", strbuf_str(&b));
	strbuf_done(&upstream);
	strbuf_done(&b);
}

struct relay *relay_new(const struct relay_options *options)
{
	struct relay *r = calloc(1, sizeof(*r));
	CLEANUP(cleanup_free) char *log_path = NULL;

	if (!r)
		abort();
	r->folder = tempdir_new();
	r->spool = tempdir_join(r->folder, "spool");
	r->config = tempdir_join(r->folder, "relay.conf");
	log_path = tempdir_join(r->folder, "log");
	r->log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	(void)pthread_mutex_init(&r->lock, NULL);
	(void)pthread_cond_init(&r->changed, NULL);
	relay_configure(r, options);
	return r;
}

void relay_launch(struct relay *r)
{
	const char *path = program();
	struct string_list args = { 0 };
	struct string_list env = base_environment(r->folder);
	int fds[2];

	cr_assert_eq(r->pid, 0, "the daemon runs already");
	cr_assert_eq(pipe2(fds, O_CLOEXEC), 0, "no pipe: %s", strerror(errno));
	append(&args, "minidump-relayd");
	append(&args, "-c");
	append(&args, "%s", r->config);
	append_all(&args, r->options.arguments);
	append_all(&env, r->options.environment);
	if (r->options.crashpoint)
		append(&env, "MINIDUMP_RELAY_CRASHPOINT=%s", r->options.crashpoint);

	r->start_mark = relay_log_mark(r);
	r->log_ended = false;
	r->pid = spawn(path, &args, &env, fds[1], fds[1]);
	(void)close(fds[1]);
	r->pipe_fd = fds[0];
	r->reading = pthread_create(&r->reader, NULL, read_log, r) == 0;
	cr_assert(r->reading, "no thread to read the log");
	free_list(&args);
	free_list(&env);
}

uint16_t relay_port_of(struct relay *r, const char *address)
{
	struct strbuf text = STRBUF_INIT;
	const char *found;
	unsigned long port = 0;

	strbuf_addf(&text, "listening on http://%s:", address);
	relay_expect_log(r, r->start_mark, strbuf_str(&text));
	(void)pthread_mutex_lock(&r->lock);
	found = strstr(strbuf_str(&r->log) + r->start_mark, strbuf_str(&text));
	if (found)
		port = strtoul(found + text.len, NULL, 10);
	(void)pthread_mutex_unlock(&r->lock);
	strbuf_done(&text);
	if (port == 0 || port > UINT16_MAX)
		fail(r, "the log names no port of %s", address);
	return (uint16_t)port;
}

void relay_wait_ready(struct relay *r)
{
	relay_expect_log(r, r->start_mark, " ready");
	r->port = 0;
	if (relay_log_count(r, r->start_mark, "listening on http://127.0.0.1:") > 0)
		r->port = relay_port_of(r, "127.0.0.1");
}

void relay_start(struct relay *r)
{
	relay_launch(r);
	relay_wait_ready(r);
}

void relay_signal(struct relay *r, int sig)
{
	cr_assert_gt(r->pid, 0, "the daemon does not run");
	cr_assert_eq(kill(r->pid, sig), 0, "cannot signal: %s", strerror(errno));
}

/* What no log may hold; the reader has ended. */
static const char *find_trouble(const struct relay *r)
{
	static const char *const troubles[] = { "LeakSanitizer", "AddressSanitizer",
		"ThreadSanitizer", "runtime error:", RELAY_TOKEN };

	for (size_t i = 0; i < ARRAY_LEN(troubles); i++) {
		if (strstr(strbuf_str(&r->log), troubles[i]))
			return troubles[i];
	}
	return NULL;
}

int relay_wait_exit(struct relay *r)
{
	const char *trouble;
	int status = 0;

	if (!reap(r->pid, &status))
		fail(r, "the daemon does not end");
	r->pid = 0;
	if (r->reading)
		(void)pthread_join(r->reader, NULL);
	r->reading = false;
	trouble = find_trouble(r);
	if (trouble)
		fail(r, "the log holds \"%s\"", trouble);
	return status;
}

int relay_stop(struct relay *r)
{
	relay_signal(r, SIGTERM);
	return relay_wait_exit(r);
}

void relay_kill(struct relay *r)
{
	relay_signal(r, SIGKILL);
	(void)relay_wait_exit(r);
}

/* End the daemon in teardown, where no assertion may leave before all is released. */
static int end_process(struct relay *r)
{
	int status = 0;

	if (!r->pid)
		return 0;
	(void)kill(r->pid, SIGTERM);
	if (!reap(r->pid, &status)) {
		(void)kill(r->pid, SIGKILL);
		(void)waitpid(r->pid, NULL, 0);
		status = -SIGKILL;
	}
	if (r->reading)
		(void)pthread_join(r->reader, NULL);
	return status;
}

struct relay *relay_free(struct relay *r)
{
	const char *trouble;
	bool failed;
	int status;

	if (!r)
		return NULL;
	status = end_process(r);
	trouble = find_trouble(r);
	failed = status != 0 || trouble;
	if (failed)
		(void)fprintf(stderr, "the daemon ended with status %d%s%s; its log:\n%s",
		    status, trouble ? " and logged " : "", trouble ? trouble : "",
		    strbuf_str(&r->log));
	(void)close(r->log_fd);
	(void)tempdir_free(r->folder);
	free(r->spool);
	free(r->config);
	strbuf_done(&r->log);
	(void)pthread_cond_destroy(&r->changed);
	(void)pthread_mutex_destroy(&r->lock);
	free(r);
	/* Criterion counts no assertion of a teardown; this it does not overlook. */
	if (failed)
		_exit(EXIT_FAILURE);
	return NULL;
}

const char *relay_folder(const struct relay *r)
{
	return r->folder;
}

const char *relay_spool(const struct relay *r)
{
	return r->spool;
}

uint16_t relay_port(const struct relay *r)
{
	return r->port;
}

long relay_memory_kib(struct relay *r, const char *name)
{
	size_t name_len = strlen(name);
	char path[64];
	char line[256];
	long kib = -1;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)r->pid);
	f = fopen(path, "re");
	while (f && kib < 0 && fgets(line, sizeof(line), f)) {
		if (strncmp(line, name, name_len) == 0 && line[name_len] == ':')
			kib = strtol(line + name_len + 1, NULL, 10);
	}
	if (f)
		(void)fclose(f);
	if (kib < 0)
		fail(r, "%s does not tell %s", path, name);
	return kib;
}

struct rawhttp *relay_connect(struct relay *r)
{
	struct rawhttp *c = NULL;
	int error = rawhttp_connect("127.0.0.1", r->port, &c);

	if (error < 0)
		fail(r, "cannot connect to port %u: %s", r->port, strerror(-error));
	return c;
}

/* Posting */

int relay_post_on(
    struct rawhttp *c, const struct relay_post *post, struct rawhttp_response *ret)
{
	struct strbuf head = STRBUF_INIT;
	int r;

	strbuf_addf(&head,
	    "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %s\r\n"
	    "Content-Length: %zu\r\n%s\r\n",
	    or_default(post->target, RELAY_TARGET),
	    or_default(post->content_type, "application/octet-stream"), post->len,
	    or_default(post->headers, ""));
	r = strbuf_status(&head);
	if (r == 0)
		r = rawhttp_send(c, strbuf_str(&head), head.len);
	strbuf_done(&head);
	if (r == 0)
		r = rawhttp_send(c, post->body, post->len);
	if (r < 0 && r != -EPIPE && r != -ECONNRESET)
		return r;
	return rawhttp_receive(c, false, ret);
}

int relay_post(
    struct relay *r, const struct relay_post *post, struct rawhttp_response *ret)
{
	struct rawhttp *c = NULL;
	int error = rawhttp_connect("127.0.0.1", r->port, &c);

	if (error < 0)
		return error;
	error = relay_post_on(c, post, ret);
	(void)rawhttp_close(c);
	return error;
}

bool relay_parse_rxid(const struct rawhttp_response *response, char ret[RELAY_RXID_SIZE])
{
	static const char key[] = "\"_rxid\":\"";
	const char *id = response->status == 200 ? strstr(response->body, key) : NULL;

	if (!id)
		return false;
	id += sizeof(key) - 1;
	if (strspn(id, "0123456789abcdef-") != RELAY_RXID_SIZE - 1 ||
	    id[RELAY_RXID_SIZE - 1] != '"')
		return false;
	for (size_t i = 0; i < RELAY_RXID_SIZE - 1; i++) {
		bool hyphen = i == 8 || i == 13 || i == 18 || i == 23;

		if ((id[i] == '-') != hyphen)
			return false;
	}
	(void)memcpy(ret, id, RELAY_RXID_SIZE - 1);
	ret[RELAY_RXID_SIZE - 1] = '\0';
	return true;
}

int relay_try_submit(struct relay *r, const struct dump_spec *spec)
{
	struct rawhttp_response response = { 0 };
	struct relay_post post = { 0 };
	unsigned char *dump = dump_build(spec, &post.len);
	int status;

	if (!dump)
		return -ENOMEM;
	post.body = dump;
	status = relay_post(r, &post, &response);
	if (status == 0)
		status = response.status;
	rawhttp_response_done(&response);
	free(dump);
	return status;
}

void relay_submit(struct relay *r, const struct dump_spec *spec)
{
	int status = relay_try_submit(r, spec);

	if (status < 0)
		fail(r, "the post failed: %s", strerror(-status));
	if (status != 200)
		fail(r, "the post was answered with %d", status);
}

/* One short run */

/* Read both pipes to their ends. False when the deadline passes before. */
static bool collect(int out_fd, int err_fd, struct strbuf *out, struct strbuf *err)
{
	struct pollfd p[2] = { { .fd = out_fd, .events = POLLIN },
		{ .fd = err_fd, .events = POLLIN } };
	struct strbuf *texts[2] = { out, err };
	int64_t deadline_ms = clock_mono_ms() + WAIT_MS;

	while (p[0].fd >= 0 || p[1].fd >= 0) {
		int64_t left_ms = deadline_ms - clock_mono_ms();

		if (left_ms <= 0)
			return false;
		if (poll(p, 2, (int)left_ms) <= 0)
			continue;
		for (size_t i = 0; i < 2; i++) {
			char buf[4096];
			ssize_t n;

			if (!p[i].revents)
				continue;
			n = read(p[i].fd, buf, sizeof(buf));
			if (n > 0)
				strbuf_add(texts[i], buf, (size_t)n);
			else if (n == 0 || errno != EINTR)
				p[i].fd = -1;
		}
	}
	return true;
}

void relay_run(const char *const *arguments, struct relay_run *ret)
{
	const char *path = program();
	char *folder = tempdir_new();
	struct string_list args = { 0 };
	struct string_list env = base_environment(folder);
	struct strbuf out = STRBUF_INIT;
	struct strbuf err = STRBUF_INIT;
	struct relay_run run = { 0 };
	int out_fds[2];
	int err_fds[2];
	bool ended;
	pid_t pid;

	append(&args, "minidump-relayd");
	append_all(&args, arguments);
	cr_assert_eq(pipe2(out_fds, O_CLOEXEC), 0);
	cr_assert_eq(pipe2(err_fds, O_CLOEXEC), 0);
	pid = spawn(path, &args, &env, out_fds[1], err_fds[1]);
	(void)close(out_fds[1]);
	(void)close(err_fds[1]);
	ended = collect(out_fds[0], err_fds[0], &out, &err);
	if (!ended)
		(void)kill(pid, SIGKILL);
	ended = reap(pid, &run.status) && ended;
	(void)close(out_fds[0]);
	(void)close(err_fds[0]);
	run.out = strbuf_take(&out);
	run.err = strbuf_take(&err);
	free_list(&args);
	free_list(&env);
	(void)tempdir_free(folder);
	cr_assert(ended, "the program does not end; it wrote:\n%s%s", run.out, run.err);
	*ret = run;
}

void relay_run_done(struct relay_run *run)
{
	free(run->out);
	free(run->err);
	*run = (struct relay_run){ 0 };
}
