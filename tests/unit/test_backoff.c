/* SPDX-License-Identifier: MIT */
/* What a destination that failed gets: a pause within bounds, one probe, then full speed
 * again; and what Retry-After may ask of us. */
#include "backoff.h"

#include "cleanup.h"

#include <criterion/criterion.h>
#include <limits.h>

#define HOUR_MS INT64_C(3600000)
/* Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110. */
#define RFC_DATE_MS INT64_C(784111777000)

static const struct backoff_bounds bounds = { .min_ms = 1000, .max_ms = 300000 };

Test(backoff, delay_stays_between_its_bounds_and_grows_with_the_failures)
{
	uint64_t state = 1;
	int64_t longest = 0;

	for (unsigned failures = 1; failures < 70; failures++)
		for (int i = 0; i < 100; i++) {
			int64_t d =
			    backoff_delay_ms(failures, &bounds, backoff_random(&state));

			cr_assert(d >= 1000 && d <= 300000);
			if (failures < 8)
				cr_assert(d <= INT64_C(1000) << failures);
			if (d > longest)
				longest = d;
		}
	cr_assert_gt(longest, 250000);
	cr_assert_leq(backoff_delay_ms(UINT_MAX, &bounds, UINT64_MAX), 300000);
}

Test(backoff, delay_is_spread_over_the_whole_range)
{
	uint64_t state = 7;
	unsigned low = 0;

	for (int i = 0; i < 1000; i++)
		if (backoff_delay_ms(20, &bounds, backoff_random(&state)) < 150000)
			low++;
	cr_assert(low > 400 && low < 600, "%u of 1000 in the lower half", low);
}

Test(backoff, equal_or_reversed_bounds_give_the_minimum)
{
	struct backoff_bounds equal = { 500, 500 };
	struct backoff_bounds reversed = { 500, 100 };

	cr_assert_eq(backoff_delay_ms(9, &equal, UINT64_MAX), 500);
	cr_assert_eq(backoff_delay_ms(9, &reversed, UINT64_MAX), 500);
}

Test(backoff, pause_ends_with_one_probe_and_speed_doubles)
{
	struct backoff b = { 0 };
	unsigned windows[] = { 1, 2, 4, 8 };

	cr_assert(backoff_allows(&b, 0, 100), "a healthy destination has no bound");
	cr_assert(backoff_fail(&b, &bounds, 0, 0, 0));
	cr_assert_eq(b.until_ms, 1000);
	cr_assert_not(backoff_allows(&b, 999, 0));
	for (size_t i = 0; i < ARRAY_LEN(windows); i++) {
		cr_assert(backoff_allows(&b, 1000, windows[i] - 1));
		cr_assert_not(backoff_allows(&b, 1000, windows[i]));
		backoff_succeed(&b, 1000, 8);
	}
	cr_assert(backoff_allows(&b, 1000, 100));
	cr_assert_eq(b.failures, 0);
}

Test(backoff, uploads_that_fail_together_count_once)
{
	struct backoff b = { 0 };

	cr_assert(backoff_fail(&b, &bounds, 0, 0, 0));
	cr_assert_not(backoff_fail(&b, &bounds, 1, 0, UINT64_MAX));
	cr_assert_not(backoff_fail(&b, &bounds, 2, 0, UINT64_MAX));
	cr_assert_eq(b.failures, 1);
	cr_assert_eq(b.until_ms, 1000);
}

Test(backoff, success_of_an_older_upload_does_not_end_a_pause)
{
	struct backoff b = { 0 };

	(void)backoff_fail(&b, &bounds, 0, 60000, 0);
	backoff_succeed(&b, 500, 4);
	cr_assert_not(backoff_allows(&b, 59999, 0));
	cr_assert_eq(b.failures, 1);
}

Test(backoff, retry_after_stands_in_for_the_delay)
{
	struct backoff b = { 0 };

	(void)backoff_fail(&b, &bounds, 0, 30000, UINT64_C(1000));
	cr_assert(b.until_ms >= 30000 && b.until_ms <= 31000);
	(void)backoff_fail(&b, &bounds, 10, 50000, 0);
	cr_assert_geq(b.until_ms, 50010, "the longest wish of one pause is obeyed");

	b = (struct backoff){ .failures = 20 };
	(void)backoff_fail(&b, &bounds, 0, 1, 0);
	cr_assert_eq(b.until_ms, 1000, "never below the minimum");
}

Test(backoff, retry_after_in_seconds)
{
	cr_assert_eq(backoff_retry_after_ms("120", 0), 120000);
	cr_assert_eq(backoff_retry_after_ms("3601", 0), HOUR_MS);
	cr_assert_eq(backoff_retry_after_ms("1000000000", 0), HOUR_MS);
	cr_assert_eq(
	    backoff_retry_after_ms("99999999999999999999999999999999", 0), HOUR_MS);
}

Test(backoff, retry_after_as_a_date_in_all_three_forms)
{
	static const char *const forms[] = { "Sun, 06 Nov 1994 08:49:37 GMT",
		"Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994" };

	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		cr_expect_eq(backoff_retry_after_ms(forms[i], RFC_DATE_MS - 90000), 90000,
		    "%s", forms[i]);
		cr_expect_eq(backoff_retry_after_ms(forms[i], RFC_DATE_MS - 9 * HOUR_MS),
		    HOUR_MS, "%s", forms[i]);
		cr_expect_eq(
		    backoff_retry_after_ms(forms[i], RFC_DATE_MS), 0, "%s", forms[i]);
		cr_expect_eq(
		    backoff_retry_after_ms(forms[i], RFC_DATE_MS + 1), 0, "%s", forms[i]);
	}
	cr_assert_eq(backoff_retry_after_ms("Wed Nov 16 08:49:37 1994",
			 RFC_DATE_MS + 10 * 24 * HOUR_MS - 1000),
	    1000);
}

Test(backoff, retry_after_that_makes_no_sense_is_ignored)
{
	static const char *const nonsense[] = { "", "-1", "never", "1e9", "0", "12 s",
		"+5", " 5", "Sun, 06 Nov 1994", "Sun, 06 Nov 1994 08:49:37 GMTx",
		"Sun, 06 Nov 1994 25:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT",
		"Sun, 06 Nox 1994 08:49:37 GMT", "Sun,06 Nov 1994 08:49:37 GMT", ",", " ",
		"Sun Nov", "Sun Nov  6 08:49:37 1994 GMT", "Sunday, 06-Nov-94" };

	cr_expect_eq(backoff_retry_after_ms(NULL, 0), 0);
	for (size_t i = 0; i < ARRAY_LEN(nonsense); i++)
		cr_expect_eq(
		    backoff_retry_after_ms(nonsense[i], 0), 0, "\"%s\"", nonsense[i]);
}
