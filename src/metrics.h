/* SPDX-License-Identifier: MIT */
/* All counters of the daemon, in one list: what has happened since it started. What is
 * the case now (reports by state, spool size) is not kept here but asked of its owner
 * when it is shown. Names: interface.md, section 7. */
#ifndef RELAY_METRICS_H
#define RELAY_METRICS_H

#include "cleanup.h"

#include <stdint.h>

struct strbuf;
struct metrics;

/* Rows of the table in metrics.c, in its order. */
enum metric {
	METRIC_SUBMISSIONS_ACCEPTED,     /* answered with 200, new */
	METRIC_SUBMISSIONS_DUPLICATE,    /* answered with 200, known already */
	METRIC_SUBMISSIONS_SUPPRESSED,   /* answered with 200, counted, not kept */
	METRIC_SUBMISSIONS_RATE_LIMITED, /* refused for its source's rate */
	METRIC_SUBMISSIONS_REJECTED,     /* refused for what it is */
	METRIC_SUBMISSIONS_ERROR,        /* refused for our own trouble */
	METRIC_SUBMISSION_BYTES,         /* bodies of accepted submissions */
	METRIC_FORWARD_SENT,             /* uploads that upstream accepted */
	METRIC_FORWARD_RETRY,            /* uploads to be done again */
	METRIC_FORWARD_DEAD,             /* uploads after which the report is dead */
	METRIC_FORWARD_HELD,             /* uploads after which the report is held */
	METRIC_FORWARD_BYTES,            /* body bytes sent up, failed uploads included */
	METRIC_COUNT
};

enum metrics_format {
	METRICS_OPENMETRICS, /* the caller ends the whole exposition with "# EOF\n" */
	METRICS_PROMETHEUS   /* text format 0.0.4 */
};

/* Counters at zero; NULL without memory. Freed after all threads that count have ended.
 */
struct metrics *metrics_new(void) MUST_CHECK;

/* Takes NULL, returns NULL. */
struct metrics *metrics_free(struct metrics *m);

/* Count. Threads: any; never blocks. */
void metrics_inc(struct metrics *m, enum metric metric);
void metrics_add(struct metrics *m, enum metric metric, uint64_t n);

/* One accepted submission took so long, from the last byte of its body to the answer.
 * Threads: any; never blocks. */
void metrics_observe_accept_us(struct metrics *m, uint64_t duration_us);

/* The value now. Threads: any. */
uint64_t metrics_get(const struct metrics *m, enum metric metric);

/* Add all families in the given format. Each value is read once; they are not of one
 * moment. Threads: any. Errors: as for strbuf. */
void metrics_render(
    const struct metrics *m, enum metrics_format format, struct strbuf *out);

#endif
