/* SPDX-License-Identifier: MIT */
/* The settings of the daemon (interface.md, section 3): files and flags → struct config.
 * A new setting is a member of struct config, a row of the table in config_table.c, and
 * its lines in etc/minidump-relay.conf; a test compares the last two. */
#ifndef RELAY_CONFIG_H
#define RELAY_CONFIG_H

#include "config_value.h"
#include "log.h"

#define CONFIG_DEFAULT_PATH "/etc/minidump-relay.conf"

enum config_style {
	CONFIG_STYLE_AUTO,       /* by the upstream's host, else as received */
	CONFIG_STYLE_PATH,       /* /UNIVERSE/TOKEN/FORMAT */
	CONFIG_STYLE_QUERY,      /* /post?format=FORMAT&token=TOKEN */
	CONFIG_STYLE_AS_RECEIVED /* in the form in which the client sent it */
};

enum config_when_full {
	CONFIG_WHEN_FULL_EVICT,
	CONFIG_WHEN_FULL_REJECT
};

struct config_upstream {
	char *name; /* of [upstream "name"], or NULL */
	char *url;  /* NULL: no upstream, the relay is buffer-only */
	enum config_style style;
	char *universe; /* these and below: NULL when not set */
	char *token;
	char *proxy;
	char *ca_file;
	int64_t connect_timeout_ms;
	int64_t stall_timeout_ms;
};

/* A plain value: constant after load, owned by who loaded it, free to read by any thread.
 * Each number is within its row's range. */
struct config {
	struct {
		struct config_addresses http;
		int64_t max_connections;
		int64_t idle_timeout_ms;
	} listen;
	struct {
		int64_t max_body_bytes;
		int64_t max_decoded_bytes;
		int64_t max_ratio;
		int64_t max_parts;
		int64_t max_attributes_bytes;
		struct config_words formats; /* empty: all */
	} intake;
	struct config_upstream upstream;
	struct {
		char *directory; /* NULL until config_resolve_paths() */
		int64_t max_bytes;
		int64_t max_reports;
		int64_t max_age_ms;
		int64_t
		    min_free_bytes; /* CONFIG_AUTO: 1G or 5% of the disk, the smaller */
		int64_t reserve_bytes;
		enum config_when_full when_full;
		int64_t keep_sent_ms;
		int64_t keep_dead_ms;
	} spool;
	struct {
		int64_t concurrency;
		int64_t retry_min_ms;
		int64_t retry_max_ms;
	} forward;
	struct {
		char *socket; /* NULL until config_resolve_paths() */
	} control;
	struct {
		int64_t stop_timeout_ms;
	} daemon;
	struct {
		enum log_level level;
		enum log_format format;
	} log;
};

/* So many errors are kept; further ones are counted. */
#define CONFIG_ERRORS_MAX 1000

/* What is wrong, in the order of reading: lines without a newline, escaped, without any
 * secret: "FILE:LINE: [section] key: what is wrong; expected ...". */
struct config_errors {
	char **lines;
	size_t count;
	size_t not_kept;
	bool out_of_memory; /* at least one error has no line */
};

#define CONFIG_ERRORS_INIT                                                               \
	{                                                                                \
		0                                                                        \
	}

void config_errors_done(struct config_errors *errs);

/* Add a line; text from outside is escaped by the caller. Never fails: see the members.
 */
void config_errors_add(struct config_errors *errs, const char *fmt, ...)
    PRINTF_LIKE(2, 3);

/* Where settings come from, the later winning. All strings stay the caller's. */
struct config_sources {
	const char *path; /* then the *.conf files of the folder PATH.d, in byte order */
	bool path_required; /* named by the user: its absence is an error */

	/* Flags; NULL or 0 when not given. Paths may be relative to the working folder.
	 */
	const char *upstream_url;
	const char *const *listen; /* each as a value of [listen] http */
	size_t listen_count;
	const char *spool_directory;
	const char *control_socket;
};

/* Read all sources. In a later file a scalar replaces the earlier value, a list the whole
 * earlier list; within one file a list adds up over its lines, and a scalar set twice is
 * an error. A section without keys says nothing, but [upstream "name"] asks for its url.
 *
 * Owns:    *ret is released by config_done(). errs is the caller's, initialised; errors
 * are added to it. Returns: 0. Errors: -EINVAL, errs says why; -ENOMEM. Threads: any;
 * reads files.
 */
int config_load(const struct config_sources *src, struct config *ret,
    struct config_errors *errs) MUST_CHECK;

/* The same for one file whose bytes are in memory; name stands for it in errors. Looks at
 * the disk only to see whether ca_file is readable. Safe on any bytes. */
int config_parse_buffer(const char *name, const char *data, size_t len,
    struct config *ret, struct config_errors *errs) MUST_CHECK;

/* Free what c owns. A zeroed struct will do. */
void config_done(struct config *c);

/* The environment a process finds; tests pass their own. */
struct config_environment {
	const char *(*get)(void *cls, const char *name); /* like getenv(3) */
	void *cls;
	bool is_root;
};

struct config_environment config_process_environment(void);

/* Where the spool, or the control socket, is when nothing says so (interface.md, section
 * 1): below $STATE_DIRECTORY / $RUNTIME_DIRECTORY (the first of several), else for root
 * in /var/lib / /run, else below $XDG_STATE_HOME (~/.local/state) / $XDG_RUNTIME_DIR.
 * Values that are no absolute path count as not set.
 *
 * Owns:   caller frees *ret. Errors: -ENOENT no place is known; -ENOMEM.
 */
int config_default_spool_directory(
    const struct config_environment *env, char **ret) MUST_CHECK;
int config_default_control_socket(
    const struct config_environment *env, char **ret) MUST_CHECK;

/* Fill spool.directory and control.socket where they are not set.
 *
 * Errors: -EINVAL, errs says which and how to set it; -ENOMEM. c stays valid, and may
 *         have one of the two.
 */
int config_resolve_paths(struct config *c, const struct config_environment *env,
    struct config_errors *errs) MUST_CHECK;

/* Call needs_restart for each setting that differs between the two and that a running
 * daemon can't change, in the order of the table. Returns how many. Both are resolved. */
size_t config_reload_needs_restart(const struct config *old, const struct config *new,
    void (*needs_restart)(void *cls, const struct config_setting *s), void *cls);

/* The table, a section's rows side by side. Constant. */
const struct config_setting *config_settings(size_t *ret_count);

/* The row, or NULL. */
const struct config_setting *config_find_setting(const char *section, const char *key);

/* Add to b "; expected one of ..." and, where a known name is near, "; did you mean
 * ...?": for what was typed as a key of the known section, or, with NULL, as a section.
 */
void config_suggest_name(struct strbuf *b, const char *section, const char *typed);

/* Its member of c. */
void *config_field(struct config *c, const struct config_setting *s);

#endif
