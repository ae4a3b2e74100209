/* SPDX-License-Identifier: MIT */
/* Owns the way of a line to stderr: its layout in three formats, its bounds, and what
 * happens when nobody reads. The one module with process-wide state: stderr is one per
 * process, every module logs, and a log handle handed through each call would say
 * nothing. Invariants: a line is one write of at most LOG_LINE_MAX_BYTES, so that it is
 * atomic on a pipe; it holds no control byte but its final newline; no path fails the
 * caller.
 */
#include "log.h"

#include "clock.h"
#include "strbuf.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

/* Room for the parts of a line; with names, quotes, time and cut marks they stay within
 * LOG_LINE_MAX_BYTES, also as JSON (asserted in add()). */
#define MESSAGE_MAX_BYTES 1400
#define FIELD_MAX_BYTES 160

/* How long a line waits for a reader before it is given up. */
#define STALL_MS 200

enum layout {
	LAYOUT_TEXT,
	LAYOUT_JOURNAL, /* no time of its own, and a priority prefix */
	LAYOUT_JSON
};

struct line {
	char data[LOG_LINE_MAX_BYTES + 1];
	size_t len;
};

static struct {
	atomic_int level;
	atomic_int layout;

	/* Constant while any other thread logs: set by tests only. */
	log_sink sink;
	void *sink_cls;

	/* Under lock, which also keeps two threads from taking the last free space of a
	 * pipe, so that a write after a poll does not block. */
	pthread_mutex_t lock;
	uint64_t lost_lines; /* since the last line that went out */
} state = {
	.level = LOG_LEVEL_INFO,
	.layout = LAYOUT_TEXT,
	.lock = PTHREAD_MUTEX_INITIALIZER,
};

static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	char name[64];
	struct stat st;

	if (!stream || fstat(STDERR_FILENO, &st) < 0)
		return false;
	(void)snprintf(
	    name, sizeof(name), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	return strcmp(stream, name) == 0;
}

int log_init(enum log_level level, enum log_format format)
{
	enum layout layout = LAYOUT_TEXT;

	if (level < LOG_LEVEL_ERR || level > LOG_LEVEL_DEBUG)
		return -EINVAL;
	switch (format) {
	case LOG_FORMAT_AUTO:
		if (stderr_is_journal())
			layout = LAYOUT_JOURNAL;
		break;
	case LOG_FORMAT_TEXT:
		break;
	case LOG_FORMAT_JSON:
		layout = LAYOUT_JSON;
		break;
	default:
		return -EINVAL;
	}
	atomic_store(&state.layout, (int)layout);
	log_set_level(level);
	return 0;
}

void log_set_level(enum log_level level)
{
	atomic_store(&state.level, (int)level);
}

void log_set_sink(log_sink sink, void *cls)
{
	state.sink = sink;
	state.sink_cls = cls;
}

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERR:
		return "err";
	case LOG_LEVEL_WARNING:
		return "warning";
	case LOG_LEVEL_NOTICE:
		return "notice";
	case LOG_LEVEL_INFO:
		return "info";
	case LOG_LEVEL_DEBUG:
		return "debug";
	}
	return "unknown";
}

static void add(struct line *l, const char *s, size_t len)
{
	assert(len <= LOG_LINE_MAX_BYTES - l->len);
	memcpy(l->data + l->len, s, len);
	l->len += len;
	l->data[l->len] = '\0';
}

static void add_str(struct line *l, const char *s)
{
	add(l, s, strlen(s));
}

/* Add escaped text within max bytes; in quotes a quote and a backslash are escaped once
 * more. A cut falls on the border of a UTF-8 sequence. */
static void add_bounded(
    struct line *l, const char *s, size_t len, size_t max, bool quoted)
{
	size_t used = 0;
	size_t i = 0;

	while (i < len) {
		bool escape = quoted && (s[i] == '"' || s[i] == '\\');
		size_t n = 1;

		while (i + n < len && ((unsigned char)s[i + n] & 0xc0) == 0x80)
			n++;
		if (used + n + escape > max) {
			add_str(l, "...");
			return;
		}
		if (escape)
			add(l, "\\", 1);
		add(l, s + i, n);
		used += n + escape;
		i += n;
	}
}

/* Whether text can be shown as it is: printable ASCII and nothing to escape, as nearly all
 * of it is. */
static bool is_plain(const char *s, size_t len, bool quoted)
{
	for (size_t i = 0; i < len; i++)
		if (s[i] < 0x20 || s[i] == 0x7f || s[i] == '\\' ||
		    (quoted && s[i] == '"'))
			return false;
	return true;
}

/* The same for text from outside. Without memory to escape it, what is not plain ASCII
 * shows as '?': the line matters more than its spelling. */
static void add_foreign(struct line *l, const char *s, size_t max, bool quoted)
{
	CLEANUP(strbuf_done) struct strbuf safe = STRBUF_INIT;
	size_t len = strlen(s);
	char plain[MESSAGE_MAX_BYTES + 1];

	if (len <= max && is_plain(s, len, quoted)) {
		add(l, s, len);
		return;
	}
	strbuf_add_escaped(&safe, s, len, max);
	if (strbuf_status(&safe) == 0) {
		add_bounded(l, strbuf_str(&safe), safe.len, max, quoted);
		return;
	}
	if (len > sizeof(plain))
		len = sizeof(plain);
	memcpy(plain, s, len);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c < 0x20 || c >= 0x7f)
			plain[i] = '?';
	}
	add_bounded(l, plain, len, max, quoted);
}

static void add_field(
    struct line *l, enum layout layout, const char *name, const char *value)
{
	/* A bare word stays bare, as logfmt has it. */
	bool quoted =
	    layout == LAYOUT_JSON || value[0] == '\0' || strpbrk(value, " \"=") != NULL;

	add_str(l, layout == LAYOUT_JSON ? ",\"" : " ");
	add_str(l, name);
	add_str(l, layout == LAYOUT_JSON ? "\":" : "=");
	add_str(l, quoted ? "\"" : "");
	add_foreign(l, value, FIELD_MAX_BYTES, quoted);
	add_str(l, quoted ? "\"" : "");
}

static void start_line(struct line *l, enum layout layout, enum log_level level)
{
	char time[CLOCK_RFC3339_SIZE];
	char prefix[8];

	l->len = 0;
	if (layout == LAYOUT_JOURNAL) {
		(void)snprintf(prefix, sizeof(prefix), "<%d>", (int)level);
		add_str(l, prefix);
		return;
	}
	clock_format_rfc3339(clock_wall_ms(), time);
	add_str(l, layout == LAYOUT_JSON ? "{\"time\":\"" : "");
	add_str(l, time);
	add_str(l, layout == LAYOUT_JSON ? "\",\"level\":\"" : " ");
	add_str(l, level_name(level));
	add_str(l, layout == LAYOUT_JSON ? "\",\"message\":\"" : " ");
}

static void compose_line(struct line *l, enum log_level level,
    const struct log_fields *fields, const char *message)
{
	enum layout layout = (enum layout)atomic_load(&state.layout);
	bool json = layout == LAYOUT_JSON;

	start_line(l, layout, level);
	add_foreign(l, message, MESSAGE_MAX_BYTES, json);
	add_str(l, json ? "\"" : "");
	if (fields && fields->report_id)
		add_field(l, layout, "report_id", fields->report_id);
	if (fields && fields->endpoint)
		add_field(l, layout, "endpoint", fields->endpoint);
	if (fields && fields->outcome)
		add_field(l, layout, "outcome", fields->outcome);
	add_str(l, json ? "}\n" : "\n");
}

/* True when stderr took the line. A reader that has stopped is waited for once, not once
 * per line. The caller holds the lock. */
static bool write_line(const struct line *l)
{
	struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };
	int wait_ms = state.lost_lines > 0 ? 0 : STALL_MS;
	ssize_t n;
	int r;

	do
		r = poll(&p, 1, wait_ms);
	while (r < 0 && errno == EINTR);
	if (r == 0)
		return false;
	/* Nobody will read: no line to lose, and no SIGPIPE to raise. */
	if (r > 0 && (p.revents & (POLLERR | POLLHUP | POLLNVAL)))
		return true;
	do
		n = write(STDERR_FILENO, l->data, l->len);
	while (n < 0 && errno == EINTR);
	/* Any other failure (closed, a full disk) has no place left to be told. */
	return n >= 0 || errno != EAGAIN;
}

static void emit_line(const struct line *l)
{
	char message[80];
	struct line lost;

	(void)pthread_mutex_lock(&state.lock); /* a plain mutex, never held twice */
	if (state.lost_lines > 0) {
		(void)snprintf(message, sizeof(message),
		    "%" PRIu64 " log lines were lost: nobody read them",
		    state.lost_lines);
		compose_line(&lost, LOG_LEVEL_WARNING, NULL, message);
		if (write_line(&lost))
			state.lost_lines = 0;
	}
	if (state.lost_lines > 0 || !write_line(l))
		state.lost_lines++;
	(void)pthread_mutex_unlock(&state.lock);
}

void log_write(
    enum log_level level, const struct log_fields *fields, const char *fmt, ...)
{
	char message[MESSAGE_MAX_BYTES + 2]; /* one byte more than is shown tells a cut */
	int saved_errno = errno;
	struct line l;
	va_list ap;
	int n;

	if ((int)level > atomic_load_explicit(&state.level, memory_order_relaxed))
		return;
	va_start(ap, fmt);
	n = vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	compose_line(&l, level, fields, n < 0 ? fmt : message);
	if (state.sink) {
		l.data[l.len - 1] = '\0';
		state.sink(state.sink_cls, level, l.data, l.len - 1);
	} else {
		emit_line(&l);
	}
	errno = saved_errno;
}
