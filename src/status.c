/* SPDX-License-Identifier: MIT */
/* Owns the wording of what the relay is like: names of members and metrics, units, what
 * is left out when it is not known. Invariants: constant after status_new() but for the
 * mark that the relay stops; no metric family is written twice, its samples stand side by
 * side, and none has a label whose values come from clients. */
#include "status.h"

#include "clock.h"
#include "json.h"
#include "report.h"
#include "spool.h"
#include "strbuf.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define PREFIX "minidump_relay_"

struct status {
	struct spool *spool;
	const struct metrics *metrics;
	char *version;
	char **addresses;
	size_t address_count;
	bool (*get_upstream)(void *cls, size_t i, struct status_upstream *ret);
	void *cls;
	int64_t started_at_ms;      /* wall clock, for people */
	int64_t started_at_mono_ms; /* for the uptime */
	atomic_bool stopping;
};

struct named_metric {
	enum metric metric;
	const char *name;
};

/* The outcomes as the metrics' labels have them. */
static const struct named_metric submissions[] = {
	{ METRIC_SUBMISSIONS_ACCEPTED, "accepted" },
	{ METRIC_SUBMISSIONS_DUPLICATE, "duplicate" },
	{ METRIC_SUBMISSIONS_SUPPRESSED, "suppressed" },
	{ METRIC_SUBMISSIONS_RATE_LIMITED, "rate_limited" },
	{ METRIC_SUBMISSIONS_REJECTED, "rejected" },
	{ METRIC_SUBMISSIONS_ERROR, "error" },
};

static const struct named_metric forwards[] = {
	{ METRIC_FORWARD_SENT, "sent" },
	{ METRIC_FORWARD_RETRY, "retry" },
	{ METRIC_FORWARD_DEAD, "dead" },
	{ METRIC_FORWARD_HELD, "held" },
};

/* Life */

static bool copy_addresses(struct status *st, const struct status_options *options)
{
	st->addresses = calloc(options->address_count + 1, sizeof(char *));
	if (!st->addresses)
		return false;
	for (size_t i = 0; i < options->address_count; i++) {
		st->addresses[i] = strdup(options->addresses[i]);
		if (!st->addresses[i])
			return false;
		st->address_count++;
	}
	return true;
}

int status_new(const struct status_options *options, struct status **ret)
{
	struct status *st = calloc(1, sizeof(*st));

	if (!st)
		return -ENOMEM;
	st->spool = options->spool;
	st->metrics = options->metrics;
	st->get_upstream = options->get_upstream;
	st->cls = options->cls;
	st->started_at_ms = clock_wall_ms();
	st->started_at_mono_ms = clock_mono_ms();
	atomic_init(&st->stopping, false);
	st->version = strdup(options->version);
	if (!st->version || !copy_addresses(st, options)) {
		status_free(st);
		return -ENOMEM;
	}
	*ret = st;
	return 0;
}

struct status *status_free(struct status *st)
{
	if (!st)
		return NULL;
	for (size_t i = 0; i < st->address_count; i++)
		free(st->addresses[i]);
	free(st->addresses);
	free(st->version);
	free(st);
	return NULL;
}

void status_set_stopping(struct status *st)
{
	atomic_store(&st->stopping, true);
}

static bool get_upstream(const struct status *st, size_t i, struct status_upstream *ret)
{
	*ret = (struct status_upstream){ 0 };
	return st->get_upstream && st->get_upstream(st->cls, i, ret);
}

/* What an upstream is called where it must have a name: without one there is no other. */
static const char *upstream_name(const struct status_upstream *u)
{
	return u->name[0] ? u->name : "default";
}

/* Readiness */

bool status_is_ready(struct status *st, char reason[STATUS_REASON_SIZE])
{
	int r = atomic_load(&st->stopping) ? -ESHUTDOWN : spool_check_room(st->spool, 0);

	reason[0] = '\0';
	if (r == -ESHUTDOWN)
		(void)snprintf(reason, STATUS_REASON_SIZE, "the relay is stopping");
	else if (r == -EDQUOT)
		(void)snprintf(reason, STATUS_REASON_SIZE,
		    "the spool is full: a limit or the free-space floor is reached");
	else if (r < 0)
		(void)snprintf(reason, STATUS_REASON_SIZE,
		    "the spool cannot be written: %s", spool_error_text(r));
	return r == 0;
}

/* JSON */

/* A member's name, and the comma before it where it is not the object's first. */
static void add_key(struct strbuf *out, const char *name)
{
	if (out->len > 0 && out->data[out->len - 1] != '{')
		strbuf_add_char(out, ',');
	strbuf_addf(out, "\"%s\":", name);
}

static void add_number(struct strbuf *out, const char *name, uint64_t value)
{
	add_key(out, name);
	strbuf_addf(out, "%" PRIu64, value);
}

static void add_bool(struct strbuf *out, const char *name, bool value)
{
	add_key(out, name);
	strbuf_add_str(out, value ? "true" : "false");
}

static void add_text(struct strbuf *out, const char *name, const char *value)
{
	add_key(out, name);
	json_add_string(out, value, strlen(value));
}

static void add_text_if_any(struct strbuf *out, const char *name, const char *value)
{
	if (value[0])
		add_text(out, name, value);
}

static void add_time_if_any(struct strbuf *out, const char *name, int64_t wall_ms)
{
	char text[CLOCK_RFC3339_SIZE];

	if (wall_ms == 0)
		return;
	clock_format_rfc3339(wall_ms, text);
	add_text(out, name, text);
}

static void add_counters(const struct status *st, struct strbuf *out, const char *name,
    const struct named_metric *list, size_t n)
{
	add_key(out, name);
	strbuf_add_char(out, '{');
	for (size_t i = 0; i < n; i++)
		add_number(out, list[i].name, metrics_get(st->metrics, list[i].metric));
	strbuf_add_char(out, '}');
}

static void add_addresses(const struct status *st, struct strbuf *out)
{
	add_key(out, "listening");
	strbuf_add_char(out, '[');
	for (size_t i = 0; i < st->address_count; i++) {
		if (i > 0)
			strbuf_add_char(out, ',');
		json_add_string(out, st->addresses[i], strlen(st->addresses[i]));
	}
	strbuf_add_char(out, ']');
}

static void add_spool(const struct spool_stats *stats, struct strbuf *out)
{
	add_key(out, "reports");
	strbuf_add_char(out, '{');
	for (int i = REPORT_NEW + 1; i < REPORT_STATE_COUNT; i++)
		add_number(
		    out, report_state_name((enum report_state)i), stats->reports[i]);
	strbuf_add_char(out, '}');
	add_number(out, "payload_bytes", stats->payload_bytes);
	add_number(out, "spool_bytes", stats->disk_bytes);
	add_number(out, "spool_limit_bytes", stats->limit_bytes);
	add_time_if_any(out, "oldest_queued_at", stats->oldest_queued_at_ms);
}

static void add_upstreams(const struct status *st, struct strbuf *out)
{
	struct status_upstream u;

	add_key(out, "upstreams");
	strbuf_add_char(out, '[');
	for (size_t i = 0; get_upstream(st, i, &u); i++) {
		strbuf_add_str(out, i > 0 ? ",{" : "{");
		add_text(out, "name", upstream_name(&u));
		add_text_if_any(out, "host", u.host);
		add_bool(out, "up", u.up);
		add_time_if_any(out, "since", u.since_ms);
		add_text_if_any(out, "reason", u.reason);
		strbuf_add_char(out, '}');
	}
	strbuf_add_char(out, ']');
}

void status_write_json(struct status *st, struct strbuf *out)
{
	int64_t uptime_ms = clock_mono_ms() - st->started_at_mono_ms;
	char reason[STATUS_REASON_SIZE];
	struct status_upstream first;
	struct spool_stats stats;

	spool_get_stats(st->spool, &stats);
	strbuf_add_char(out, '{');
	add_text(out, "version", st->version);
	add_time_if_any(out, "started_at", st->started_at_ms);
	add_number(out, "uptime_s", (uint64_t)uptime_ms / 1000);
	add_addresses(st, out);
	add_bool(out, "buffer_only", !get_upstream(st, 0, &first));
	add_bool(out, "ready", status_is_ready(st, reason));
	add_text_if_any(out, "reason", reason);
	add_spool(&stats, out);
	add_counters(st, out, "submissions", submissions, ARRAY_LEN(submissions));
	add_counters(st, out, "forward", forwards, ARRAY_LEN(forwards));
	add_upstreams(st, out);
	strbuf_add_str(out, "}\n");
}

/* Metrics */

static void add_head(
    struct strbuf *out, const char *family, const char *type, const char *help)
{
	strbuf_addf(out,
	    "# HELP " PREFIX "%s %s\n"
	    "# TYPE " PREFIX "%s %s\n",
	    family, help, family, type);
}

/* A label's value; both formats escape the same three characters. */
static void add_label(struct strbuf *out, const char *name, const char *value)
{
	strbuf_addf(out, "{%s=\"", name);
	for (const char *p = value; *p; p++) {
		if (*p == '\n') {
			strbuf_add_str(out, "\\n");
			continue;
		}
		if (*p == '"' || *p == '\\')
			strbuf_add_char(out, '\\');
		strbuf_add_char(out, *p);
	}
	strbuf_add_str(out, "\"}");
}

static void add_reports_metric(const struct spool_stats *stats, struct strbuf *out)
{
	add_head(out, "reports", "gauge", "Reports that the spool knows, by state.");
	for (int i = REPORT_NEW + 1; i < REPORT_STATE_COUNT; i++) {
		strbuf_add_str(out, PREFIX "reports");
		add_label(out, "state", report_state_name((enum report_state)i));
		strbuf_addf(out, " %" PRIu64 "\n", stats->reports[i]);
	}
}

static void add_spool_metrics(const struct spool_stats *stats, struct strbuf *out)
{
	int64_t age_ms = 0;

	/* The wall clock may have been set back since. */
	if (stats->oldest_queued_at_ms > 0)
		age_ms = clock_wall_ms() - stats->oldest_queued_at_ms;
	if (age_ms < 0)
		age_ms = 0;
	add_reports_metric(stats, out);
	add_head(out, "spool_bytes", "gauge", "Disk space that the spool takes.");
	strbuf_addf(out, PREFIX "spool_bytes %" PRIu64 "\n", stats->disk_bytes);
	add_head(
	    out, "spool_limit_bytes", "gauge", "Disk space that the spool may take.");
	strbuf_addf(out, PREFIX "spool_limit_bytes %" PRIu64 "\n", stats->limit_bytes);
	add_head(out, "oldest_queued_seconds", "gauge",
	    "Age of the oldest report that waits to be sent, 0 when none does.");
	strbuf_addf(out, PREFIX "oldest_queued_seconds %" PRId64 ".%03d\n", age_ms / 1000,
	    (int)(age_ms % 1000));
}

static void add_upstream_metric(const struct status *st, struct strbuf *out)
{
	struct status_upstream u;

	for (size_t i = 0; get_upstream(st, i, &u); i++) {
		if (i == 0)
			add_head(out, "upstream_up", "gauge",
			    "Whether the upstream answers: 1, or 0 while it is down.");
		strbuf_add_str(out, PREFIX "upstream_up");
		add_label(out, "upstream", upstream_name(&u));
		strbuf_addf(out, " %d\n", u.up ? 1 : 0);
	}
}

/* OpenMetrics has a type for facts, whose family is named without the "_info". */
static void add_build_metric(
    const struct status *st, enum metrics_format format, struct strbuf *out)
{
	static const char help[] = "The running version.";

	if (format == METRICS_OPENMETRICS)
		add_head(out, "build", "info", help);
	else
		add_head(out, "build_info", "gauge", help);
	strbuf_add_str(out, PREFIX "build_info");
	add_label(out, "version", st->version);
	strbuf_add_str(out, " 1\n");
}

void status_write_metrics(
    struct status *st, enum metrics_format format, struct strbuf *out)
{
	struct spool_stats stats;

	spool_get_stats(st->spool, &stats);
	metrics_render(st->metrics, format, out);
	add_spool_metrics(&stats, out);
	add_upstream_metric(st, out);
	add_build_metric(st, format, out);
	if (format == METRICS_OPENMETRICS)
		strbuf_add_str(out, "# EOF\n");
}

/* Which format */

/* How much one format is wanted, by the most precise range of the header that covers it. */
struct preference {
	const char *type;
	const char *any_subtype;
	unsigned precision; /* 0 = not covered yet */
	unsigned quality;   /* in thousandths */
};

/* "1", "0.5", ...; anything else counts as 1. */
static unsigned parse_quality(const char *s)
{
	unsigned quality = 0;
	unsigned scale = 100;

	if (*s != '0')
		return 1000;
	if (s[1] != '.')
		return 0;
	for (s += 2; *s >= '0' && *s <= '9' && scale > 0; s++, scale /= 10)
		quality += (unsigned)(*s - '0') * scale;
	return quality;
}

/* The "q" parameter of a range, whose other parameters don't matter here. */
static unsigned range_quality(const char *s, size_t len)
{
	const char *end = s + len;

	while ((s = memchr(s, ';', (size_t)(end - s)))) {
		for (s++; s < end && (*s == ' ' || *s == '\t'); s++)
			;
		if (end - s > 2 && strncasecmp(s, "q=", 2) == 0)
			return parse_quality(s + 2);
	}
	return 1000;
}

static bool is_type(const char *range, size_t len, const char *type)
{
	return len == strlen(type) && strncasecmp(range, type, len) == 0;
}

static void weigh_range(struct preference *p, const char *range, size_t len)
{
	size_t type_len = 0;
	unsigned quality = range_quality(range, len);
	unsigned precision = 0;

	while (type_len < len && !strchr("; \t", range[type_len]))
		type_len++;
	if (is_type(range, type_len, p->type))
		precision = 3;
	else if (is_type(range, type_len, p->any_subtype))
		precision = 2;
	else if (is_type(range, type_len, "*/*"))
		precision = 1;
	if (precision == 0 || precision < p->precision)
		return;
	if (precision > p->precision || quality > p->quality)
		p->quality = quality;
	p->precision = precision;
}

enum metrics_format status_choose_format(const char *accept)
{
	struct preference open = { .type = "application/openmetrics-text",
		.any_subtype = "application/*" };
	struct preference text = { .type = "text/plain", .any_subtype = "text/*" };

	while (accept && *accept) {
		size_t len;

		accept += strspn(accept, ", \t");
		len = strcspn(accept, ",");
		weigh_range(&open, accept, len);
		weigh_range(&text, accept, len);
		accept += len;
	}
	return text.quality > open.quality ? METRICS_PROMETHEUS : METRICS_OPENMETRICS;
}

const char *status_content_type(enum metrics_format format)
{
	if (format == METRICS_OPENMETRICS)
		return "application/openmetrics-text; version=1.0.0; charset=utf-8";
	return "text/plain; version=0.0.4; charset=utf-8";
}
