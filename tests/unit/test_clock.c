/* SPDX-License-Identifier: MIT */
/* Times as log lines and scripts read them, and the clock that tests set by hand. */
#include "clock.h"

#include "cleanup.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct moment {
	int64_t wall_ms;
	char text[CLOCK_RFC3339_SIZE];
};

ParameterizedTestParameters(clock, moments_are_written_as_rfc3339)
{
	/* The seconds by date(1), for instance `date -u -d 2000-02-29T12:34:56 +%s`. */
	static struct moment moments[] = {
		{ 0, "1970-01-01T00:00:00.000Z" },
		{ 1, "1970-01-01T00:00:00.001Z" },
		{ 999, "1970-01-01T00:00:00.999Z" },
		{ 1000, "1970-01-01T00:00:01.000Z" },
		{ 1795428000123, "2026-11-23T10:00:00.123Z" },
		{ 951827696007, "2000-02-29T12:34:56.007Z" },
		{ 4107542400000, "2100-03-01T00:00:00.000Z" },
		{ 2147483648000, "2038-01-19T03:14:08.000Z" },
		{ 253402300799999, "9999-12-31T23:59:59.999Z" },
		/* Before the epoch: milliseconds still count upwards. */
		{ -1, "1969-12-31T23:59:59.999Z" },
		{ -1000, "1969-12-31T23:59:59.000Z" },
		{ -1001, "1969-12-31T23:59:58.999Z" },
		{ -2208988800000, "1900-01-01T00:00:00.000Z" },
		/* What the form cannot hold is still text of the right shape. */
		{ 253402300800000, "0000-00-00T00:00:00.000Z" },
		{ INT64_MAX, "0000-00-00T00:00:00.000Z" },
		{ INT64_MIN, "0000-00-00T00:00:00.000Z" },
	};

	return cr_make_param_array(struct moment, moments, ARRAY_LEN(moments));
}

ParameterizedTest(struct moment *m, clock, moments_are_written_as_rfc3339)
{
	char text[CLOCK_RFC3339_SIZE];

	clock_format_rfc3339(m->wall_ms, text);
	cr_expect_str_eq(text, m->text, "%" PRId64 " became %s", m->wall_ms, text);
}

Test(clock, local_time_zone_does_not_matter)
{
	char text[CLOCK_RFC3339_SIZE];

	cr_assert_eq(setenv("TZ", "Asia/Tokyo", 1), 0);
	tzset();
	clock_format_rfc3339(0, text);
	cr_assert_str_eq(text, "1970-01-01T00:00:00.000Z");
}

Test(clock, frozen_clocks_stand_until_moved_and_run_again_when_let_go)
{
	int64_t real_wall = clock_wall_ms();
	int64_t real_mono = clock_mono_ms();

	clock_set(-5, 77);
	cr_expect_eq(clock_wall_ms(), -5);
	cr_expect_eq(clock_mono_ms(), 77);
	clock_set(6, 78);
	cr_expect_eq(clock_wall_ms(), 6);
	cr_expect_eq(clock_mono_ms(), 78);
	clock_unset();
	/* The wall clock may be set back by others; not to the seventies. */
	cr_expect_gt(clock_wall_ms(), real_wall - INT64_C(86400000));
	cr_expect_geq(clock_mono_ms(), real_mono);
}

/* A frozen deadline would let a timed wait of the committer last for ever. */
Test(clock, deadlines_are_real_while_the_clock_is_frozen)
{
	struct timespec before;
	struct timespec until;
	int64_t delay_ns;

	clock_set(0, 0);
	cr_assert_eq(clock_gettime(CLOCK_MONOTONIC, &before), 0);
	until = clock_deadline(2999);
	delay_ns = (int64_t)(until.tv_sec - before.tv_sec) * 1000000000 + until.tv_nsec -
		   before.tv_nsec;
	cr_expect_geq(delay_ns, INT64_C(2999000000));
	cr_expect_lt(delay_ns, INT64_C(60000000000));
}

/* pthread_cond_timedwait() refuses a deadline whose nanoseconds are out of range, and a
 * loop around it would spin: also one that has passed must be well formed. */
Test(clock, deadlines_are_well_formed_also_in_the_past)
{
	static const int64_t delays[] = { 0, 1, 999, 1000, 1001, -1, -999, -1000,
		-86400001 };

	for (size_t i = 0; i < ARRAY_LEN(delays); i++)
		for (int again = 0; again < 50; again++) {
			struct timespec until = clock_deadline(delays[i]);

			cr_assert(until.tv_nsec >= 0 && until.tv_nsec < 1000000000,
			    "%" PRId64 " ms from now has %ld ns", delays[i],
			    until.tv_nsec);
		}
}
