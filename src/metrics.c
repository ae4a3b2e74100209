/* SPDX-License-Identifier: MIT */
/* Owns the table of counters and how they are shown. Invariants: rows of one family stand
 * side by side and their first carries the help; counters only grow. Plain relaxed
 * atomics: they are counted from every thread, each stands for itself, and no other
 * memory is published through them. */
#include "metrics.h"

#include "strbuf.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>

static const struct {
	const char *family; /* without prefix and without "_total" */
	const char *labels; /* or NULL */
	const char *help;   /* in the first row of a family */
} table[METRIC_COUNT] = {
	[METRIC_SUBMISSIONS_ACCEPTED] = { "submissions", "outcome=\"accepted\"",
	    "Submissions answered, by outcome." },
	[METRIC_SUBMISSIONS_DUPLICATE] = { "submissions", "outcome=\"duplicate\"", NULL },
	[METRIC_SUBMISSIONS_SUPPRESSED] = { "submissions", "outcome=\"suppressed\"",
	    NULL },
	[METRIC_SUBMISSIONS_RATE_LIMITED] = { "submissions", "outcome=\"rate_limited\"",
	    NULL },
	[METRIC_SUBMISSIONS_REJECTED] = { "submissions", "outcome=\"rejected\"", NULL },
	[METRIC_SUBMISSIONS_ERROR] = { "submissions", "outcome=\"error\"", NULL },
	[METRIC_SUBMISSION_BYTES] = { "submission_bytes", NULL,
	    "Body bytes of accepted submissions, as received." },
	[METRIC_FORWARD_SENT] = { "forward", "result=\"sent\"",
	    "Uploads to upstream, by result." },
	[METRIC_FORWARD_RETRY] = { "forward", "result=\"retry\"", NULL },
	[METRIC_FORWARD_DEAD] = { "forward", "result=\"dead\"", NULL },
	[METRIC_FORWARD_HELD] = { "forward", "result=\"held\"", NULL },
	[METRIC_FORWARD_BYTES] = { "forward_bytes", NULL,
	    "Body bytes sent to upstream, failed uploads included." },
};

#define PREFIX "minidump_relay_"

/* Upper bounds of the accept histogram: about a sync of a good disk up to the few seconds
 * after which clients give up. */
static const struct {
	uint64_t us;
	const char *le;
} buckets[] = {
	{ 500, "0.0005" },
	{ 1000, "0.001" },
	{ 2500, "0.0025" },
	{ 5000, "0.005" },
	{ 10000, "0.01" },
	{ 25000, "0.025" },
	{ 50000, "0.05" },
	{ 100000, "0.1" },
	{ 250000, "0.25" },
	{ 500000, "0.5" },
	{ 1000000, "1.0" },
	{ 2500000, "2.5" },
	{ 5000000, "5.0" },
};

struct metrics {
	atomic_uint_fast64_t counters[METRIC_COUNT];
	/* Durations of accepts by the first bound they keep to; the last: none. */
	atomic_uint_fast64_t accepts[ARRAY_LEN(buckets) + 1];
	atomic_uint_fast64_t accept_sum_us;
};

struct metrics *metrics_new(void)
{
	return calloc(1, sizeof(struct metrics));
}

struct metrics *metrics_free(struct metrics *m)
{
	free(m);
	return NULL;
}

void metrics_inc(struct metrics *m, enum metric metric)
{
	metrics_add(m, metric, 1);
}

void metrics_add(struct metrics *m, enum metric metric, uint64_t n)
{
	(void)atomic_fetch_add_explicit(&m->counters[metric], n, memory_order_relaxed);
}

void metrics_observe_accept_us(struct metrics *m, uint64_t duration_us)
{
	size_t i = 0;

	while (i < ARRAY_LEN(buckets) && duration_us > buckets[i].us)
		i++;
	(void)atomic_fetch_add_explicit(&m->accepts[i], 1, memory_order_relaxed);
	(void)atomic_fetch_add_explicit(
	    &m->accept_sum_us, duration_us, memory_order_relaxed);
}

static uint64_t load(const atomic_uint_fast64_t *v)
{
	return (uint64_t)atomic_load_explicit(v, memory_order_relaxed);
}

uint64_t metrics_get(const struct metrics *m, enum metric metric)
{
	return load(&m->counters[metric]);
}

/* OpenMetrics names a family of counters without "_total", Prometheus' older format with.
 */
static void render_counter(
    const struct metrics *m, size_t i, enum metrics_format format, struct strbuf *out)
{
	const char *suffix = format == METRICS_PROMETHEUS ? "_total" : "";

	if (table[i].help)
		strbuf_addf(out,
		    "# HELP " PREFIX "%s%s %s\n"
		    "# TYPE " PREFIX "%s%s counter\n",
		    table[i].family, suffix, table[i].help, table[i].family, suffix);
	strbuf_addf(out, PREFIX "%s_total", table[i].family);
	if (table[i].labels)
		strbuf_addf(out, "{%s}", table[i].labels);
	strbuf_addf(out, " %" PRIu64 "\n", load(&m->counters[i]));
}

static void render_accepts(const struct metrics *m, struct strbuf *out)
{
	static const char name[] = PREFIX "accept_duration_seconds";
	uint64_t sum_us = load(&m->accept_sum_us);
	uint64_t count = 0;

	strbuf_addf(out,
	    "# HELP %s Time from the last byte of an accepted submission to its answer.\n"
	    "# TYPE %s histogram\n",
	    name, name);
	for (size_t i = 0; i < ARRAY_LEN(buckets); i++) {
		count += load(&m->accepts[i]);
		strbuf_addf(out, "%s_bucket{le=\"%s\"} %" PRIu64 "\n", name,
		    buckets[i].le, count);
	}
	count += load(&m->accepts[ARRAY_LEN(buckets)]);
	strbuf_addf(out,
	    "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n"
	    "%s_sum %" PRIu64 ".%06" PRIu64 "\n"
	    "%s_count %" PRIu64 "\n",
	    name, count, name, sum_us / 1000000, sum_us % 1000000, name, count);
}

void metrics_render(
    const struct metrics *m, enum metrics_format format, struct strbuf *out)
{
	for (size_t i = 0; i < METRIC_COUNT; i++)
		render_counter(m, i, format, out);
	render_accepts(m, out);
}
