/* SPDX-License-Identifier: MIT */
/* What a scraper reads must be what was counted, under the names of the contract. */
#include "metrics.h"

#include "strbuf.h"

#include <criterion/criterion.h>
#include <string.h>

static void cleanup_metrics(struct metrics **m)
{
	*m = metrics_free(*m);
}

static size_t occurrences(const char *text, const char *part)
{
	size_t n = 0;

	for (const char *p = text; (p = strstr(p, part)); p++)
		n++;
	return n;
}

Test(metrics, every_sample_has_its_contract_name_and_each_family_one_type)
{
	CLEANUP(cleanup_metrics) struct metrics *m = metrics_new();
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	static const char *const lines[] = {
		"\n# TYPE minidump_relay_submissions counter\n",
		"\nminidump_relay_submissions_total{outcome=\"accepted\"} 2\n",
		"\nminidump_relay_submissions_total{outcome=\"duplicate\"} 0\n",
		"\nminidump_relay_submissions_total{outcome=\"suppressed\"} 0\n",
		"\nminidump_relay_submissions_total{outcome=\"rate_limited\"} 0\n",
		"\nminidump_relay_submissions_total{outcome=\"rejected\"} 0\n",
		"\nminidump_relay_submissions_total{outcome=\"error\"} 0\n",
		"\nminidump_relay_submission_bytes_total 5000000000\n",
		"\n# TYPE minidump_relay_forward counter\n",
		"\nminidump_relay_forward_total{result=\"sent\"} 0\n",
		"\nminidump_relay_forward_total{result=\"retry\"} 0\n",
		"\nminidump_relay_forward_total{result=\"dead\"} 1\n",
		"\nminidump_relay_forward_total{result=\"held\"} 0\n",
		"\nminidump_relay_forward_bytes_total 0\n",
		"\n# TYPE minidump_relay_accept_duration_seconds histogram\n",
	};

	metrics_inc(m, METRIC_SUBMISSIONS_ACCEPTED);
	metrics_inc(m, METRIC_SUBMISSIONS_ACCEPTED);
	metrics_add(m, METRIC_SUBMISSION_BYTES, UINT64_C(5000000000));
	metrics_inc(m, METRIC_FORWARD_DEAD);
	metrics_render(m, METRICS_OPENMETRICS, &b);
	cr_assert_eq(strbuf_status(&b), 0);
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		cr_expect_eq(occurrences(strbuf_str(&b), lines[i]), 1, "%s", lines[i]);
	cr_assert_eq(occurrences(strbuf_str(&b), "# TYPE "), 5);
	cr_assert_eq(occurrences(strbuf_str(&b), "# HELP "), 5);
}

Test(metrics, prometheus_text_types_the_names_it_shows)
{
	CLEANUP(cleanup_metrics) struct metrics *m = metrics_new();
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	metrics_render(m, METRICS_PROMETHEUS, &b);
	cr_assert(
	    strstr(strbuf_str(&b), "# TYPE minidump_relay_forward_total counter\n"));
	cr_assert(strstr(strbuf_str(&b), "# TYPE minidump_relay_forward_bytes_total "));
}

Test(metrics, histogram_buckets_are_cumulative_and_bounds_inclusive)
{
	CLEANUP(cleanup_metrics) struct metrics *m = metrics_new();
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	static const char *const lines[] = {
		"_bucket{le=\"0.0005\"} 1\n",
		"_bucket{le=\"0.001\"} 2\n",
		"_bucket{le=\"2.5\"} 2\n",
		"_bucket{le=\"5.0\"} 3\n",
		"_bucket{le=\"+Inf\"} 4\n",
		"_sum 95.001501\n",
		"_count 4\n",
	};

	metrics_observe_accept_us(m, 500);
	metrics_observe_accept_us(m, 501);
	metrics_observe_accept_us(m, 5000000);
	metrics_observe_accept_us(m, 90000500);
	metrics_render(m, METRICS_OPENMETRICS, &b);
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		cr_expect(strstr(strbuf_str(&b), lines[i]), "%s", lines[i]);
}
