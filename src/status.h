/* SPDX-License-Identifier: MIT */
/* How the relay is: one look at spool, counters and upstreams, told as JSON, as metrics,
 * and as ready or not (interface.md, section 7). Everything is asked of its owner at the
 * moment it is told; nothing is kept here. */
#ifndef RELAY_STATUS_H
#define RELAY_STATUS_H

#include "cleanup.h"
#include "metrics.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct spool;
struct status;
struct strbuf;

/* An upstream as it is now. Plain text in UTF-8. */
struct status_upstream {
	char name[80];    /* of [upstream "name"]; "" = the one without a name */
	char host[300];   /* "HOST" or "HOST:PORT", without any secret */
	bool up;          /* it answered last time, or was not asked yet */
	int64_t since_ms; /* wall clock: up or down since; 0 = not known */
	char reason[512]; /* why it is down; "" = not known, or up */
};

struct status_options {
	/* Outlive the status. */
	struct spool *spool;
	const struct metrics *metrics;
	/* Copied. */
	const char *version;
	const char *const *addresses; /* where posts are taken, "127.0.0.1:6097" */
	size_t address_count;
	/* Fill *ret with upstream number i, or return false when there are not so many;
	 * with none the relay is buffer-only. Called from any thread; must not block.
	 * NULL = there is none. */
	bool (*get_upstream)(void *cls, size_t i, struct status_upstream *ret);
	void *cls;
};

/* The relay counts as started now.
 * Owns:   *ret is ended by status_free(). Errors: -ENOMEM. */
int status_new(const struct status_options *options, struct status **ret) MUST_CHECK;

/* Takes NULL, returns NULL. */
struct status *status_free(struct status *st);

/* From now on the relay is not ready: it stops. Threads: any. */
void status_set_stopping(struct status *st);

/* Whether a submission would be accepted now: the spool can be written and is not full,
 * the relay is not stopping. If not, the reason in words is in reason, else "". Threads:
 * any; as spool_check_room(). */
#define STATUS_REASON_SIZE 128
bool status_is_ready(struct status *st, char reason[STATUS_REASON_SIZE]);

/* Add the answer to GET /api/v1/status: one JSON object on one line. Times are RFC 3339
 * UTC, sizes bytes; what is not known is absent. Threads: any; as spool_get_stats().
 * Errors: as for strbuf. */
void status_write_json(struct status *st, struct strbuf *out);

/* Add the whole exposition: counters, and what is the case now. OpenMetrics ends with
 * "# EOF\n". Threads: any; as spool_get_stats(). Errors: as for strbuf. */
void status_write_metrics(
    struct status *st, enum metrics_format format, struct strbuf *out);

/* The format that suits an Accept header (NULL = none) best, OpenMetrics where it is all
 * the same (RFC 9110, section 12.5.1), and its content type. */
enum metrics_format status_choose_format(const char *accept);
const char *status_content_type(enum metrics_format format);

#endif
