/* SPDX-License-Identifier: MIT */
/* What time takes away (spool_tidy): reports that waited too long, and what was kept long
 * enough; in small steps, beside all else. */
#include "spool.h"

#include "cleanup.h"
#include "clock.h"
#include "spool_bed.h"
#include "spool_kit.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

#define DAY_MS INT64_C(86400000)

TestSuite(spool_tidy, .init = bed_set_up, .fini = bed_tear_down, .timeout = 60);

struct verdicts {
	atomic_uint told, accepted;
};

static void count_verdict(void *cls, const struct spool_verdict *verdict)
{
	struct verdicts *v = cls;

	if (verdict->error == 0)
		atomic_fetch_add(&v->accepted, 1);
	atomic_fetch_add(&v->told, 1);
}

/* Many that are small, without waiting for each. */
static void fill_quickly(uint64_t first, uint64_t count, size_t len)
{
	struct verdicts v = { 0 };

	for (uint64_t i = first; i < first + count; i++)
		cr_assert_eq(
		    kit_commit(bed.spool, BED_TOKEN, i, len, count_verdict, &v), 0);
	bed_wait();
	cr_assert_eq(v.accepted, count);
}

/* Claim up to max (64 at most) from the oldest on, checking each. */
static size_t claim(size_t max, int64_t *seqs)
{
	struct report *reports[64];
	struct spool_lane lane;
	int n;

	cr_assert_eq(spool_list_lanes(bed.spool, 0, &lane, 1), 1);
	n = bed_claim(lane.id, false, max, reports);
	for (int i = 0; i < n; i++) {
		(void)bed_number(reports[i]);
		seqs[i] = reports[i]->seq;
		report_free(reports[i]);
	}
	return (size_t)n;
}

/* A report, by number, is in this state, and its reason says so. */
static void expect_reason(uint64_t number, enum report_state state, const char *part)
{
	char query[256];

	(void)snprintf(query, sizeof(query),
	    "SELECT state FROM report WHERE received_at = %" PRId64, kit_time_of(number));
	cr_expect_eq(kit_sql(bed.dir, query), (int64_t)state, "report %" PRIu64, number);
	(void)snprintf(query, sizeof(query),
	    "SELECT coalesce(instr(reason, '%s'), 0) > 0 FROM report"
	    " WHERE received_at = %" PRId64,
	    part, kit_time_of(number));
	cr_expect_eq(kit_sql(bed.dir, query), 1, "report %" PRIu64 " does not say %s",
	    number, part);
}

static struct spool_ages ages(void)
{
	return (struct spool_ages){ .max_age_ms = 30 * DAY_MS,
		.keep_sent_ms = 7 * DAY_MS,
		.keep_dead_ms = 30 * DAY_MS };
}

static int tidy(void)
{
	struct spool_ages a = ages();

	return spool_tidy(bed.spool, &a);
}

/* Freeze the clock so many days after report 0 came in. */
static void go_to_day(int64_t day)
{
	clock_set(kit_time_of(0) + day * DAY_MS, 1000000 + day);
}

static void open_for_tidying(void)
{
	go_to_day(0);
	bed_open();
}

/* When reports end, by day: sent on 1, dead on 2, dropped on 3; one waits, one is held.
 */
static void make_one_of_each(void)
{
	int64_t seqs[5];

	bed_accept_many(0, 5, 1000);
	cr_assert_eq(claim(5, seqs), 5);
	go_to_day(1);
	bed_settle(seqs[0], REPORT_SENT);
	bed_wait();
	go_to_day(2);
	bed_settle(seqs[1], REPORT_DEAD);
	bed_wait();
	go_to_day(3);
	bed_settle(seqs[2], REPORT_DEAD);
	bed_settle(seqs[2], REPORT_DROPPED);
	bed_settle(seqs[3], REPORT_QUEUED);
	bed_settle(seqs[4], REPORT_HELD);
	bed_wait();
}

Test(spool_tidy, tidying_does_nothing_before_its_time)
{
	open_for_tidying();
	cr_expect_eq(tidy(), 0, "an empty spool");
	make_one_of_each();
	cr_expect_eq(tidy(), 0);
	go_to_day(7);
	cr_expect_eq(tidy(), 0);
	cr_expect_eq(bed_count_in(REPORT_SENT), 1);
	cr_expect_eq(bed_count_in(REPORT_DEAD), 1);
	cr_expect_eq(bed_count_in(REPORT_DROPPED), 1);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 1);
	cr_expect_eq(bed_count_in(REPORT_HELD), 1);
}

Test(spool_tidy, tidying_takes_each_when_its_time_has_come)
{
	open_for_tidying();
	make_one_of_each();
	go_to_day(9);
	cr_expect_eq(tidy(), 0);
	cr_expect_eq(bed_count_in(REPORT_SENT), 0);
	cr_expect_eq(bed_count_in(REPORT_DEAD), 1);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 1);
	/* What waits expires; a day more and the first dead one goes, then the dropped
	 * one; those that expired today stay for their own time. */
	go_to_day(31);
	cr_expect_eq(tidy(), 0);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 0);
	cr_expect_eq(bed_count_in(REPORT_HELD), 0);
	cr_expect_eq(bed_count_in(REPORT_DEAD), 3);
	go_to_day(33);
	cr_expect_eq(tidy(), 0);
	cr_expect_eq(bed_count_in(REPORT_DEAD), 2);
	go_to_day(34);
	cr_expect_eq(tidy(), 0);
	cr_expect_eq(bed_count_in(REPORT_DROPPED), 0);
	bed_close();
	expect_reason(3, REPORT_DEAD, "max_age");
	expect_reason(4, REPORT_DEAD, "max_age");
	cr_expect_eq(kit_sql(bed.dir, "SELECT total(records) FROM segment"), 2,
	    "the payload of a dead report is kept as long as its row");
	open_for_tidying();
	go_to_day(62);
	cr_expect_eq(tidy(), 0);
	bed_close();
	cr_expect_eq(kit_sql(bed.dir, "SELECT count(*) FROM report"), 0);
	cr_expect_eq(kit_sql(bed.dir, "SELECT total(records) FROM segment"), 0);
	cr_expect_eq(kit_sql(bed.dir, "SELECT total(reports) FROM tally"), 0);
}

Test(spool_tidy, a_report_being_sent_does_not_expire)
{
	int64_t seqs[1];

	open_for_tidying();
	bed_accept_many(0, 2, 1000);
	cr_assert_eq(claim(1, seqs), 1);
	go_to_day(100);
	cr_expect_eq(tidy(), 0);
	cr_expect_eq(bed_count_in(REPORT_SENDING), 1);
	cr_expect_eq(bed_count_in(REPORT_DEAD), 1);
	bed_settle(seqs[0], REPORT_SENT);
	bed_wait();
	cr_expect_eq(bed_count_in(REPORT_SENT), 1);
	/* One put back is as old as it is. */
	bed_accept_many(2, 1, 1000);
	cr_assert_eq(claim(1, seqs), 1);
	cr_expect_eq(tidy(), 0);
	bed_settle(seqs[0], REPORT_QUEUED);
	bed_wait();
	cr_expect_eq(tidy(), 0);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 0);
}

Test(spool_tidy, evicted_rows_go_with_time_too)
{
	struct spool_limits l = kit_limits();

	l.max_reports = 1;
	l.when_full = SPOOL_EVICT;
	go_to_day(0);
	bed_open_with(&l);
	bed_accept_many(0, 3, 1000);
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 2);
	go_to_day(29);
	cr_expect_eq(tidy(), 0);
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 2);
	go_to_day(31);
	cr_expect_eq(tidy(), 0);
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 0);
}

/* Tidy to the end, expecting each step to take no more than a few milliseconds' worth. */
static unsigned tidy_in_steps(enum report_state state)
{
	unsigned steps = 0;
	int r;

	do {
		uint64_t before = bed_count_in(state);

		r = tidy();
		cr_assert_geq(r, 0);
		cr_expect_leq(before - bed_count_in(state), 100, "a step took %" PRIu64,
		    before - bed_count_in(state));
		steps++;
	} while (r > 0 && steps < 1000);
	return steps;
}

Test(spool_tidy, tidying_goes_in_small_steps)
{
	open_for_tidying();
	fill_quickly(0, 450, 10);
	go_to_day(40);
	cr_expect_eq(tidy_in_steps(REPORT_QUEUED), 5);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 0);
	cr_expect_eq(bed_count_in(REPORT_DEAD), 450);
	go_to_day(80);
	cr_expect_eq(tidy_in_steps(REPORT_DEAD), 5);
	cr_expect_eq(bed_count_in(REPORT_DEAD), 0);
	cr_expect_eq(tidy(), 0);
}

struct commits {
	atomic_bool stop;
	uint64_t next;
	unsigned refused;
	struct verdicts verdicts;
};

/* The number of the first one. */
#define FIRST 1000

static void *commit_on(void *cls)
{
	struct commits *c = cls;

	while (!atomic_load(&c->stop) && c->next < FIRST + 3000) {
		if (kit_commit(bed.spool, BED_TOKEN, c->next, c->next % 3000,
			count_verdict, &c->verdicts) < 0)
			c->refused++;
		c->next++;
		/* No faster than they are taken. */
		while (c->next - FIRST - atomic_load(&c->verdicts.told) > 64)
			(void)sched_yield();
	}
	return NULL;
}

Test(spool_tidy, tidying_and_taking_reports_do_not_hurt_each_other)
{
	static struct commits c = { .next = FIRST };
	pthread_t thread;
	unsigned steps = 0;
	int r;

	open_for_tidying();
	fill_quickly(0, 500, 10);
	/* Those that come are new on that day by their own time, those that are there
	 * are old. */
	go_to_day(30);
	clock_set(kit_time_of(600) + 30 * DAY_MS, clock_mono_ms());
	cr_assert_eq(pthread_create(&thread, NULL, commit_on, &c), 0);
	while ((r = tidy()) > 0 && steps < 1000)
		steps++;
	cr_expect_eq(r, 0);
	cr_expect_eq(steps, 5);
	atomic_store(&c.stop, true);
	(void)pthread_join(thread, NULL);
	bed_wait();
	cr_expect_eq(c.refused, 0);
	cr_expect_eq(c.verdicts.accepted, c.next - FIRST);
	cr_expect_eq(bed_count_in(REPORT_DEAD), 500);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), c.next - FIRST);
	bed_close();
	cr_expect_eq(kit_sql(bed.dir, "SELECT sum(reports) FROM tally"),
	    kit_sql(bed.dir, "SELECT count(*) FROM report"));
}
