/* SPDX-License-Identifier: MIT */
/* What an operator, a scraper and a load balancer are told: by a reader that is as strict
 * as theirs, of a real spool. */
#include "status.h"

#include "cleanup.h"
#include "clock.h"
#include "metrics.h"
#include "report.h"
#include "spool.h"
#include "strbuf.h"
#include "support/tempdir.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define NOW_MS INT64_C(1795428000123) /* 2026-11-23T10:00:00.123Z */

static char *folder;
static struct spool *spool;
static struct metrics *metrics;
static struct status *status;

/* What the callback tells; none unless a test sets it. */
static const struct status_upstream *upstreams;
static size_t upstream_count;

static bool get_upstream(void *cls, size_t i, struct status_upstream *ret)
{
	(void)cls;
	if (i >= upstream_count)
		return false;
	*ret = upstreams[i];
	return true;
}

static void make(void)
{
	static const char *const addresses[] = { "127.0.0.1:6097", "[::1]:6097" };
	struct spool_options options = { .limits = { .max_bytes = UINT64_C(1) << 30,
					     .max_reports = 1000,
					     .when_full = SPOOL_REJECT } };
	struct status_options status_options = { .version = "1.2.3",
		.addresses = addresses,
		.address_count = ARRAY_LEN(addresses),
		.get_upstream = get_upstream };
	struct spool_recovery recovery;
	char errbuf[256];

	clock_set(NOW_MS, 5000);
	folder = tempdir_new();
	options.directory = folder;
	cr_assert_eq(spool_open(&options, &spool, &recovery, errbuf, sizeof(errbuf)), 0);
	metrics = metrics_new();
	cr_assert_not_null(metrics);
	status_options.spool = spool;
	status_options.metrics = metrics;
	cr_assert_eq(status_new(&status_options, &status), 0);
}

static void done(void)
{
	status = status_free(status);
	spool = spool_close(spool);
	metrics = metrics_free(metrics);
	folder = tempdir_free(folder);
	clock_unset();
}

TestSuite(status, .init = make, .fini = done, .timeout = 60);

/* Helpers */

struct commit {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool finished;
	int error;
};

static void committed(void *cls, const struct spool_verdict *verdict)
{
	struct commit *c = cls;

	(void)pthread_mutex_lock(&c->lock);
	c->finished = true;
	c->error = verdict->error;
	(void)pthread_cond_signal(&c->changed);
	(void)pthread_mutex_unlock(&c->lock);
}

/* Put a report of so many bytes, accepted now, into the spool. Returns as a commit. */
static int try_put_report(size_t len)
{
	struct commit c = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false,
		0 };
	CLEANUP(cleanup_free) char *body = calloc(1, len);
	struct spool_draft draft = { .received_at_ms = clock_wall_ms(),
		.universe = "demo",
		.token = "t",
		.format = "minidump",
		.target = "/demo/t/minidump" };
	struct spool_payload *p;

	cr_assert_not_null(body);
	cr_assert_eq(spool_payload_begin(spool, &p), 0);
	c.error = spool_payload_write(p, body, len);
	if (c.error < 0) {
		spool_payload_abort(p);
		return c.error;
	}
	spool_commit(spool, p, &draft, committed, &c);
	(void)pthread_mutex_lock(&c.lock);
	while (!c.finished)
		(void)pthread_cond_wait(&c.changed, &c.lock);
	(void)pthread_mutex_unlock(&c.lock);
	return c.error;
}

static void put_report(size_t len)
{
	cr_assert_eq(try_put_report(len), 0);
}

static char *write_metrics(enum metrics_format format)
{
	struct strbuf b = STRBUF_INIT;
	char *text;

	status_write_metrics(status, format, &b);
	text = strbuf_take(&b);
	cr_assert_not_null(text);
	return text;
}

static void cleanup_json(json_t **j)
{
	json_decref(*j);
}

/* The JSON as an object, after a look at its form. */
static json_t *read_json(void)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	json_t *root;

	status_write_json(status, &b);
	cr_assert_eq(strbuf_status(&b), 0);
	cr_assert_eq(strchr(strbuf_str(&b), '\n'), b.data + b.len - 1,
	    "not one line:\n%s", strbuf_str(&b));
	root = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, NULL);
	cr_assert(json_is_object(root), "%s", strbuf_str(&b));
	return root;
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "(absent)";
}

static json_int_t number_of(const json_t *object, const char *key)
{
	const json_t *n = json_object_get(object, key);

	cr_expect(json_is_integer(n), "%s is no integer", key);
	return json_integer_value(n);
}

/* A strict reader of an exposition */

#define FAMILIES_MAX 32
#define SAMPLES_MAX 256
#define NAME_MAX_BYTES 160

struct family {
	char name[NAME_MAX_BYTES];
	char type[16];
	bool has_help;
};

struct reader {
	enum metrics_format format;
	struct family families[FAMILIES_MAX];
	size_t family_count;
	char samples[SAMPLES_MAX][NAME_MAX_BYTES]; /* name with labels */
	size_t sample_count;
	bool ended;       /* by # EOF */
	double le;        /* of the last bucket */
	double in_bucket; /* of the last bucket */
	double in_inf;
};

static bool is_name(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		char c = s[i];

		if (!(c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			(i > 0 && c >= '0' && c <= '9')))
			return false;
	}
	return len > 0;
}

/* Past "{name=\"value\",...}", or NULL when that is not what stands there. */
static const char *skip_labels(const char *s)
{
	if (*s++ != '{')
		return NULL;
	for (;;) {
		size_t len = strcspn(s, "=");

		if (!is_name(s, len) || strncmp(s + len, "=\"", 2) != 0)
			return NULL;
		for (s += len + 2; *s != '"'; s++) {
			if (*s == '\\' && !strchr("\\\"n", *++s))
				return NULL;
			if (*s == '\0')
				return NULL;
		}
		if (*++s == '}')
			return s + 1;
		if (*s++ != ',')
			return NULL;
	}
}

static bool ends_with(const char *s, size_t len, const char *end)
{
	size_t n = strlen(end);

	return len > n && strncmp(s + len - n, end, n) == 0;
}

/* Which suffix a sample of the family carries by its type, or NULL when its name is none
 * of the family's. */
static const char *suffix_of(
    const struct reader *r, const struct family *f, const char *name, size_t len)
{
	static const char *const histogram[] = { "_bucket", "_sum", "_count" };
	size_t base = strlen(f->name);
	const char *wanted = "";

	if (len < base || strncmp(name, f->name, base) != 0)
		return NULL;
	if (strcmp(f->type, "histogram") == 0) {
		for (size_t i = 0; i < ARRAY_LEN(histogram); i++)
			if (strlen(histogram[i]) == len - base &&
			    strncmp(name + base, histogram[i], len - base) == 0)
				return histogram[i];
		return NULL;
	}
	if (r->format == METRICS_OPENMETRICS && strcmp(f->type, "counter") == 0)
		wanted = "_total";
	if (strcmp(f->type, "info") == 0)
		wanted = "_info";
	return strlen(wanted) == len - base &&
		       strncmp(name + base, wanted, len - base) == 0
		   ? wanted
		   : NULL;
}

static void read_type(const struct reader *r, const struct family *f)
{
	size_t len = strlen(f->name);
	char type[20];
	bool is_counter = strcmp(f->type, "counter") == 0;

	(void)snprintf(type, sizeof(type), " %s ", f->type);
	if (r->format == METRICS_OPENMETRICS) {
		/* A family is named without the suffix of its samples. */
		cr_expect(strstr(" counter gauge histogram info ", type), "%s", f->type);
		cr_expect_not(ends_with(f->name, len, "_total"), "%s", f->name);
		cr_expect_not(ends_with(f->name, len, "_info"), "%s", f->name);
	} else {
		cr_expect(strstr(" counter gauge histogram ", type), "%s", f->type);
		cr_expect_eq(
		    ends_with(f->name, len, "_total"), is_counter, "%s", f->name);
	}
	cr_expect(f->has_help, "%s has no help before its type", f->name);
}

/* "# HELP name text" or "# TYPE name type". */
static void read_comment(struct reader *r, const char *line)
{
	bool is_help = strncmp(line, "# HELP ", 7) == 0;
	const char *name = line + 7;
	size_t len = strcspn(name, " ");
	struct family *f = &r->families[r->family_count];

	cr_assert(is_help || strncmp(line, "# TYPE ", 7) == 0, "%s", line);
	cr_assert(is_name(name, len) && name[len] == ' ' && name[len + 1], "%s", line);
	cr_assert_lt(len, NAME_MAX_BYTES);
	if (is_help) {
		cr_assert_lt(++r->family_count, FAMILIES_MAX);
		(void)snprintf(f->name, sizeof(f->name), "%.*s", (int)len, name);
		f->has_help = true;
		for (struct family *other = r->families; other < f; other++)
			cr_expect_str_neq(other->name, f->name, "twice");
		return;
	}
	cr_assert_gt(r->family_count, 0);
	f--;
	cr_assert_eq(strlen(f->name), len, "%s", line);
	cr_assert_eq(strncmp(f->name, name, len), 0, "%s", line);
	cr_assert_str_empty(f->type, "%s", line);
	(void)snprintf(f->type, sizeof(f->type), "%s", name + len + 1);
	r->in_bucket = r->le = -1;
	r->in_inf = -1;
	read_type(r, f);
}

static void read_bucket(struct reader *r, const char *line, double value)
{
	const char *bound = strstr(line, "le=\"");
	double le;

	cr_assert_not_null(bound, "%s", line);
	le = strtod(bound + 4, NULL); /* knows "+Inf" */
	cr_expect_gt(le, r->le, "%s", line);
	cr_expect_geq(value, r->in_bucket, "not cumulative: %s", line);
	/* OpenMetrics wants the canonical form of a float: 1.0, not 1. */
	cr_expect(strncmp(bound + 4, "+Inf\"", 5) == 0 ||
		      memchr(bound + 4, '.', strcspn(bound + 4, "\"")),
	    "%s", line);
	r->le = le;
	r->in_bucket = value;
	if (strncmp(bound + 4, "+Inf\"", 5) == 0)
		r->in_inf = value;
}

static void remember_sample(struct reader *r, const char *line, size_t len)
{
	char *kept = r->samples[r->sample_count];

	cr_assert_lt(len, NAME_MAX_BYTES);
	cr_assert_lt(r->sample_count, SAMPLES_MAX);
	(void)snprintf(kept, NAME_MAX_BYTES, "%.*s", (int)len, line);
	for (size_t i = 0; i < r->sample_count; i++)
		cr_expect_str_neq(r->samples[i], kept, "twice");
	r->sample_count++;
}

/* "name{labels} value", of the family that was announced last. */
static void read_sample(struct reader *r, const char *line)
{
	size_t len = strcspn(line, "{ ");
	const char *rest = line[len] == '{' ? skip_labels(line + len) : line + len;
	const struct family *f = &r->families[r->family_count - 1];
	const char *suffix;
	double value;
	char *end;

	cr_assert_gt(r->family_count, 0, "a sample without a family: %s", line);
	cr_assert(is_name(line, len) && rest && *rest == ' ', "%s", line);
	suffix = suffix_of(r, f, line, len);
	cr_assert_not_null(suffix, "not of family %s (%s): %s", f->name, f->type, line);
	value = strtod(rest + 1, &end);
	cr_assert(end > rest + 1 && *end == '\0', "%s", line);
	cr_expect_geq(value, 0, "%s", line);
	remember_sample(r, line, (size_t)(rest - line));
	if (strcmp(suffix, "_bucket") == 0)
		read_bucket(r, line, value);
	if (strcmp(suffix, "_count") == 0)
		cr_expect_eq(value, r->in_inf, "%s", line);
	if (strcmp(suffix, "_info") == 0)
		cr_expect_eq(value, 1);
}

/* Read it whole; fails the test at whatever a strict reader would refuse. */
static void read_exposition(struct reader *r, enum metrics_format format, char *text)
{
	size_t len = strlen(text);
	char *save = NULL;

	*r = (struct reader){ .format = format };
	cr_assert(len > 0 && text[len - 1] == '\n');
	cr_assert_null(strstr(text, "\n\n"), "an empty line");
	for (char *line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		cr_assert_not(r->ended, "after the end: %s", line);
		if (format == METRICS_OPENMETRICS && strcmp(line, "# EOF") == 0)
			r->ended = true;
		else if (line[0] == '#')
			read_comment(r, line);
		else
			read_sample(r, line);
	}
	cr_assert_eq(r->ended, format == METRICS_OPENMETRICS);
}

static bool has_sample(const struct reader *r, const char *sample)
{
	for (size_t i = 0; i < r->sample_count; i++)
		if (strcmp(r->samples[i], sample) == 0)
			return true;
	return false;
}

static const char *type_of(const struct reader *r, const char *family)
{
	for (size_t i = 0; i < r->family_count; i++)
		if (strcmp(r->families[i].name, family) == 0)
			return r->families[i].type;
	return "(absent)";
}

/* Metrics */

static const struct status_upstream two_upstreams[] = {
	{ .name = "", .host = "submit.backtrace.io", .up = true },
	{ .name = "on\"prem\\ise\n", .host = "crash.example:8443", .up = false },
};

static enum metrics_format formats[] = { METRICS_OPENMETRICS, METRICS_PROMETHEUS };

ParameterizedTestParameters(status, an_exposition_stands_before_a_strict_reader)
{
	return cr_make_param_array(enum metrics_format, formats, ARRAY_LEN(formats));
}

ParameterizedTest(
    enum metrics_format *format, status, an_exposition_stands_before_a_strict_reader)
{
	/* Every name of the contract, whatever the format. */
	static const char *const samples[] = {
		"submissions_total{outcome=\"accepted\"}",
		"submissions_total{outcome=\"duplicate\"}",
		"submissions_total{outcome=\"suppressed\"}",
		"submissions_total{outcome=\"rate_limited\"}",
		"submissions_total{outcome=\"rejected\"}",
		"submissions_total{outcome=\"error\"}",
		"submission_bytes_total",
		"accept_duration_seconds_bucket{le=\"+Inf\"}",
		"accept_duration_seconds_sum",
		"accept_duration_seconds_count",
		"reports{state=\"queued\"}",
		"reports{state=\"sending\"}",
		"reports{state=\"sent\"}",
		"reports{state=\"held\"}",
		"reports{state=\"dead\"}",
		"reports{state=\"dropped\"}",
		"reports{state=\"evicted\"}",
		"spool_bytes",
		"spool_limit_bytes",
		"oldest_queued_seconds",
		"forward_total{result=\"sent\"}",
		"forward_total{result=\"retry\"}",
		"forward_total{result=\"dead\"}",
		"forward_total{result=\"held\"}",
		"forward_bytes_total",
		"upstream_up{upstream=\"default\"}",
		"upstream_up{upstream=\"on\\\"prem\\\\ise\\n\"}",
		"build_info{version=\"1.2.3\"}",
	};
	static struct reader r;
	char *text;

	upstreams = two_upstreams;
	upstream_count = ARRAY_LEN(two_upstreams);
	metrics_observe_accept_us(metrics, 700);
	metrics_observe_accept_us(metrics, 9000000);
	text = write_metrics(*format);
	read_exposition(&r, *format, text);
	for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
		char name[NAME_MAX_BYTES];

		(void)snprintf(name, sizeof(name), "minidump_relay_%s", samples[i]);
		cr_expect(has_sample(&r, name), "%s is missing", name);
	}
	free(text);
}

Test(status, gauges_have_the_type_that_suits_each_format)
{
	static struct reader r;
	char *text = write_metrics(METRICS_OPENMETRICS);

	read_exposition(&r, METRICS_OPENMETRICS, text);
	cr_expect_str_eq(type_of(&r, "minidump_relay_build"), "info");
	cr_expect_str_eq(type_of(&r, "minidump_relay_reports"), "gauge");
	free(text);
	text = write_metrics(METRICS_PROMETHEUS);
	read_exposition(&r, METRICS_PROMETHEUS, text);
	cr_expect_str_eq(type_of(&r, "minidump_relay_build_info"), "gauge");
	cr_expect_str_eq(type_of(&r, "minidump_relay_submissions_total"), "counter");
	free(text);
}

Test(status, metrics_show_what_waits_and_for_how_long)
{
	char *text;

	put_report(1000);
	clock_set(NOW_MS + 61500, 66500);
	put_report(2000);
	text = write_metrics(METRICS_OPENMETRICS);
	cr_expect(strstr(text, "\nminidump_relay_reports{state=\"queued\"} 2\n"));
	cr_expect(strstr(text, "\nminidump_relay_oldest_queued_seconds 61.500\n"), "%s",
	    strstr(text, "minidump_relay_oldest"));
	cr_expect(strstr(text, "\nminidump_relay_spool_limit_bytes 1073741824\n"));
	cr_expect_null(strstr(text, "\nminidump_relay_spool_bytes 0\n"));
	cr_expect_null(strstr(text, "upstream_up"), "there is no upstream");
	free(text);
}

Test(status, a_clock_that_was_set_back_makes_no_negative_age)
{
	char *text;

	put_report(1000);
	clock_set(NOW_MS - 3600000, 6000);
	text = write_metrics(METRICS_OPENMETRICS);
	cr_expect(strstr(text, "\nminidump_relay_oldest_queued_seconds 0.000\n"));
	free(text);
}

Test(status, metrics_tell_which_upstream_is_down)
{
	char *text;

	upstreams = two_upstreams;
	upstream_count = ARRAY_LEN(two_upstreams);
	text = write_metrics(METRICS_PROMETHEUS);
	cr_expect(strstr(text, "upstream_up{upstream=\"default\"} 1\n"));
	cr_expect(strstr(text, "upstream_up{upstream=\"on\\\"prem\\\\ise\\n\"} 0\n"));
	cr_expect_null(strstr(text, "EOF"));
	free(text);
}

/* JSON */

Test(status, json_of_a_fresh_relay_leaves_out_what_it_does_not_know)
{
	CLEANUP(cleanup_json) json_t *root = read_json();
	const json_t *listening = json_object_get(root, "listening");

	cr_expect_str_eq(text_of(root, "version"), "1.2.3");
	cr_expect_str_eq(text_of(root, "started_at"), "2026-11-23T10:00:00.123Z");
	cr_expect_eq(number_of(root, "uptime_s"), 0);
	cr_assert_eq(json_array_size(listening), 2);
	cr_expect_str_eq(json_string_value(json_array_get(listening, 1)), "[::1]:6097");
	cr_expect(json_is_true(json_object_get(root, "buffer_only")));
	cr_expect(json_is_true(json_object_get(root, "ready")));
	cr_expect_null(json_object_get(root, "reason"));
	cr_expect_null(json_object_get(root, "oldest_queued_at"));
	cr_expect_eq(number_of(root, "payload_bytes"), 0);
	cr_expect_eq(json_object_size(json_object_get(root, "reports")), 7);
	cr_expect_eq(json_array_size(json_object_get(root, "upstreams")), 0);
}

Test(status, json_tells_what_is_in_the_spool_and_what_has_happened)
{
	CLEANUP(cleanup_json) json_t *root = NULL;

	put_report(1000);
	put_report(500);
	metrics_add(metrics, METRIC_SUBMISSIONS_ACCEPTED, 2);
	metrics_inc(metrics, METRIC_SUBMISSIONS_RATE_LIMITED);
	metrics_inc(metrics, METRIC_FORWARD_RETRY);
	clock_set(NOW_MS + 90061000, 5000 + 90061999);
	root = read_json();
	/* By the monotonic clock: the wall clock may jump. */
	cr_expect_eq(number_of(root, "uptime_s"), 90061);
	cr_expect_eq(number_of(json_object_get(root, "reports"), "queued"), 2);
	cr_expect_eq(number_of(json_object_get(root, "reports"), "sent"), 0);
	cr_expect_eq(number_of(root, "payload_bytes"), 1500);
	cr_expect_gt(number_of(root, "spool_bytes"), 0);
	cr_expect_eq(number_of(root, "spool_limit_bytes"), 1 << 30);
	cr_expect_str_eq(text_of(root, "oldest_queued_at"), "2026-11-23T10:00:00.123Z");
	cr_expect_eq(number_of(json_object_get(root, "submissions"), "accepted"), 2);
	cr_expect_eq(number_of(json_object_get(root, "submissions"), "rate_limited"), 1);
	cr_expect_eq(number_of(json_object_get(root, "submissions"), "error"), 0);
	cr_expect_eq(number_of(json_object_get(root, "forward"), "retry"), 1);
	cr_expect_eq(number_of(json_object_get(root, "forward"), "sent"), 0);
}

Test(status, json_says_which_upstream_is_down_since_when_and_why)
{
	static const struct status_upstream list[] = {
		{ .name = "main", .host = "a.example", .up = true },
		{ .host = "b.example:8443",
		    .since_ms = NOW_MS,
		    .reason = "connection refused \"\xff\"\n" },
	};
	CLEANUP(cleanup_json) json_t *root = NULL;
	const json_t *up;
	const json_t *down;

	upstreams = list;
	upstream_count = ARRAY_LEN(list);
	root = read_json();
	cr_expect(json_is_false(json_object_get(root, "buffer_only")));
	cr_assert_eq(json_array_size(json_object_get(root, "upstreams")), 2);
	up = json_array_get(json_object_get(root, "upstreams"), 0);
	down = json_array_get(json_object_get(root, "upstreams"), 1);
	cr_expect_str_eq(text_of(up, "name"), "main");
	cr_expect_str_eq(text_of(up, "host"), "a.example");
	cr_expect(json_is_true(json_object_get(up, "up")));
	cr_expect_null(json_object_get(up, "since"));
	cr_expect_null(json_object_get(up, "reason"));
	cr_expect_str_eq(text_of(down, "name"), "default");
	cr_expect(json_is_false(json_object_get(down, "up")));
	cr_expect_str_eq(text_of(down, "since"), "2026-11-23T10:00:00.123Z");
	cr_expect_str_eq(
	    text_of(down, "reason"), "connection refused \"\xef\xbf\xbd\"\n");
}

/* Readiness */

static void expect_not_ready(const char *why)
{
	CLEANUP(cleanup_json) json_t *root = read_json();
	char reason[STATUS_REASON_SIZE];

	cr_expect_not(status_is_ready(status, reason));
	cr_expect(strstr(reason, why), "%s", reason);
	cr_expect(json_is_false(json_object_get(root, "ready")));
	cr_expect_str_eq(text_of(root, "reason"), reason);
}

Test(status, a_relay_that_stops_is_not_ready)
{
	char reason[STATUS_REASON_SIZE] = "x";

	cr_expect(status_is_ready(status, reason));
	cr_expect_str_empty(reason);
	status_set_stopping(status);
	expect_not_ready("stopping");
}

Test(status, a_full_spool_is_not_ready_until_there_is_room)
{
	struct spool_limits limits = { .max_bytes = UINT64_C(1) << 30,
		.max_reports = 1,
		.when_full = SPOOL_REJECT };
	char reason[STATUS_REASON_SIZE];

	spool_set_limits(spool, &limits);
	put_report(1000);
	expect_not_ready("full");
	limits.max_reports = 2;
	spool_set_limits(spool, &limits);
	cr_expect(status_is_ready(status, reason), "%s", reason);
}

/* A file may not grow any more: as on a disk that fails. */
Test(status, a_spool_that_cannot_be_written_is_not_ready)
{
	struct rlimit before;
	struct rlimit none;

	cr_assert_neq(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
	cr_assert_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
	none = before;
	none.rlim_cur = 0;
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &none), 0);
	cr_assert_lt(try_put_report(1000), 0);
	expect_not_ready("cannot be written");
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
}

/* The choice of a format */

struct accept {
	char header[240];
	enum metrics_format format;
};

static struct accept accepts[] = {
	{ "*/*", METRICS_OPENMETRICS },
	{ "application/openmetrics-text", METRICS_OPENMETRICS },
	{ "text/plain", METRICS_PROMETHEUS },
	{ "TEXT/Plain;version=0.0.4", METRICS_PROMETHEUS },
	{ "text/*", METRICS_PROMETHEUS },
	/* Prometheus 2.x, and one told to prefer the older format. */
	{ "application/openmetrics-text;version=1.0.0,"
	  "application/openmetrics-text;version=0.0.1;q=0.75,"
	  "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
	    METRICS_OPENMETRICS },
	{ "text/plain;version=0.0.4;q=0.6,"
	  "application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.2",
	    METRICS_PROMETHEUS },
	{ "text/plain ; q=0.4 , application/openmetrics-text ; version=1.0.0 ; Q=0.35",
	    METRICS_PROMETHEUS },
	/* The precise range counts, whatever a wider one says. */
	{ "*/*, application/openmetrics-text;q=0.2", METRICS_PROMETHEUS },
	{ "*/*;q=0.9, text/plain;q=0", METRICS_OPENMETRICS },
	{ "text/*;q=0.9,text/plain;q=0.1,*/*;q=0.5", METRICS_OPENMETRICS },
	{ "text/plain;q=0.1, */*;q=0.5, application/openmetrics-text;q=0.3",
	    METRICS_OPENMETRICS },
	/* A browser. */
	{ "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
	    METRICS_OPENMETRICS },
	/* Nothing that we have, or nothing at all. */
	{ "image/png", METRICS_OPENMETRICS },
	{ ",,;q=;;=,q, ;", METRICS_OPENMETRICS },
	{ "", METRICS_OPENMETRICS },
};

ParameterizedTestParameters(status, accept_chooses_the_format)
{
	return cr_make_param_array(struct accept, accepts, ARRAY_LEN(accepts));
}

ParameterizedTest(struct accept *a, status, accept_chooses_the_format)
{
	cr_expect_eq(status_choose_format(a->header), a->format, "%s", a->header);
	cr_expect_eq(status_choose_format(NULL), METRICS_OPENMETRICS);
}
