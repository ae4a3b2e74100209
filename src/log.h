/* SPDX-License-Identifier: MIT */
/* The log of the process: one event, one line, one write to stderr. No call fails, none
 * changes errno, none waits for long on a reader that has stopped reading. */
#ifndef RELAY_LOG_H
#define RELAY_LOG_H

#include "cleanup.h"

#include <stddef.h>

/* The numbers are those of syslog(3), so that they serve as sd-daemon(3) prefixes. */
enum log_level {
	LOG_LEVEL_ERR = 3,     /* an operator must act */
	LOG_LEVEL_WARNING = 4, /* something was lost or refused; going on */
	LOG_LEVEL_NOTICE = 5,  /* the service changed its state */
	LOG_LEVEL_INFO = 6,    /* a report was accepted or settled */
	LOG_LEVEL_DEBUG = 7    /* the rest */
};

enum log_format {
	LOG_FORMAT_AUTO, /* for the journal where stderr is the journal, else text */
	LOG_FORMAT_TEXT, /* 2026-11-23T10:00:00.123Z info message report_id=... */
	LOG_FORMAT_JSON  /* {"time":...,"level":...,"message":...,"report_id":...} */
};

/* No line is longer than this, its newline included. */
#define LOG_LINE_MAX_BYTES 2048

/* What a line is about, beside its message; a member that is NULL is left out. Never a
 * whole token: redact before. */
struct log_fields {
	const char *report_id;
	const char *endpoint;
	const char *outcome;
};

/* Set level and format. AUTO is decided here: stderr is the journal when $JOURNAL_STREAM
 * names its device and inode (systemd.exec(5)). Before the first call: info, text.
 *
 * Returns: 0. Errors: -EINVAL for a value outside its enum; nothing changes then.
 * Threads: may be called again at any time, but reads the environment.
 */
int log_init(enum log_level level, enum log_format format);

/* Change the level alone. Threads: any. */
void log_set_level(enum log_level level);

/* Write one line when level is at or above the level in force. Control bytes and newlines
 * in message and fields are escaped (strbuf_add_escaped()); what is too long is cut and
 * marked by "...", the message before any field. Where stderr takes no bytes for 200 ms
 * the line is dropped, and the loss is counted in a line of its own once it takes them
 * again. fields may be NULL. Keeps errno, so %m is usable. Threads: any. */
void log_write(enum log_level level, const struct log_fields *fields, const char *fmt,
    ...) PRINTF_LIKE(3, 4);

#define log_err(...) log_write(LOG_LEVEL_ERR, NULL, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, NULL, __VA_ARGS__)
#define log_notice(...) log_write(LOG_LEVEL_NOTICE, NULL, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, NULL, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, NULL, __VA_ARGS__)

/* Takes each line in place of stderr: NUL-terminated, without its newline, valid during
 * the call only. Called on the thread that logs, with no lock held. */
typedef void (*log_sink)(void *cls, enum log_level level, const char *line, size_t len);

/* Send lines to sink, or to stderr again when it is NULL (tests only). Not while another
 * thread logs. */
void log_set_sink(log_sink sink, void *cls);

#endif
