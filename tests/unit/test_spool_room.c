/* SPDX-License-Identifier: MIT */
/* The bounds of the spool: what gives way when it is full and what never does, what it
 * takes on disk, and its reserve. */
#include "spool.h"

#include "bytes.h"
#include "cleanup.h"
#include "clock.h"
#include "log.h"
#include "spool_bed.h"
#include "spool_kit.h"
#include "strbuf.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)

/* The log, to see what it tells of evictions. */
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static struct strbuf logged;

static void keep_log(void *cls, enum log_level level, const char *line, size_t len)
{
	(void)cls;
	(void)level;
	(void)pthread_mutex_lock(&log_lock);
	strbuf_add(&logged, line, len);
	(void)pthread_mutex_unlock(&log_lock);
}

static bool is_logged(const char *text)
{
	bool found;

	(void)pthread_mutex_lock(&log_lock);
	found = strstr(strbuf_str(&logged), text) != NULL;
	(void)pthread_mutex_unlock(&log_lock);
	return found;
}

static void open_with(const struct spool_limits *limits)
{
	bed_open_with(limits);
	cr_expect_eq(bed.recovery.damaged, 0);
	cr_expect_eq(bed.recovery.recovered, 0, "what was refused came back");
}

static void set_up(void)
{
	bed_set_up();
	log_set_sink(keep_log, NULL);
}

static void tear_down(void)
{
	bed_tear_down();
	strbuf_done(&logged);
}

TestSuite(spool_room, .init = set_up, .fini = tear_down, .timeout = 60);

static struct spool_limits limits(uint64_t max_bytes, enum spool_when_full when_full)
{
	return (struct spool_limits){
		.max_bytes = max_bytes, .max_reports = 1000000, .when_full = when_full
	};
}

static struct spool_limits report_limits(
    uint64_t max_reports, enum spool_when_full when_full)
{
	return (struct spool_limits){
		.max_bytes = 40 * MIB, .max_reports = max_reports, .when_full = when_full
	};
}

static int try_accept(uint64_t i, size_t len)
{
	return kit_accept(bed.spool, BED_TOKEN, i, len, NULL);
}

/* Claim up to max (64 at most) from the oldest on, checking each. */
static size_t claim(size_t max, int64_t *seqs, uint64_t *numbers)
{
	struct report *reports[64];
	struct spool_lane lane;
	int n;

	if (spool_list_lanes(bed.spool, 0, &lane, 1) == 0)
		return 0;
	n = spool_claim(bed.spool, lane.id, false, max, reports);
	cr_assert_geq(n, 0);
	for (int i = 0; i < n; i++) {
		uint64_t number = UINT64_MAX;

		cr_assert_eq(kit_check(bed.spool, reports[i], &number), 0,
		    "what is there must be whole");
		if (seqs)
			seqs[i] = reports[i]->seq;
		if (numbers)
			numbers[i] = number;
		report_free(reports[i]);
	}
	return (size_t)n;
}

/* Claim the oldest ones and bring them all to a state. */
static void bring_oldest_to(size_t count, enum report_state state)
{
	while (count > 0) {
		int64_t seqs[64];
		size_t n = claim(count < 64 ? count : 64, seqs, NULL);

		cr_assert_gt(n, 0);
		for (size_t i = 0; i < n; i++)
			bed_settle(seqs[i], state);
		count -= n;
	}
	bed_wait();
}

/* Exactly these numbers wait, in this order. */
static void expect_waiting(uint64_t first, uint64_t count)
{
	uint64_t done = 0;
	uint64_t numbers[64];
	size_t n;

	while ((n = claim(64, NULL, numbers)) > 0)
		for (size_t i = 0; i < n; i++)
			cr_expect_eq(numbers[i], first + done++,
			    "place %" PRIu64 ": report %" PRIu64, done - 1, numbers[i]);
	cr_expect_eq(done, count, "%" PRIu64 " reports wait, not %" PRIu64, done, count);
}

/* What lies on disk */

static uint64_t du_bytes;

static int add_blocks(
    const char *path, const struct stat *st, int type, struct FTW *position)
{
	(void)path;
	(void)position;
	if (type == FTW_F)
		du_bytes += (uint64_t)st->st_blocks * 512;
	return 0; /* a file that went meanwhile takes nothing */
}

static uint64_t du(void)
{
	du_bytes = 0;
	(void)nftw(bed.dir, add_blocks, 16, FTW_PHYS);
	return du_bytes;
}

/* Something the housekeeper does comes about in time. */
static bool comes_below(uint64_t bytes)
{
	int64_t deadline_ms = clock_mono_ms() + 10000;

	while (du() > bytes) {
		if (clock_mono_ms() > deadline_ms)
			return false;
		(void)sched_yield();
	}
	return true;
}

static uint64_t reserve_on_disk(void)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(bed.dir, "reserve");
	struct stat st;

	if (stat(path, &st) < 0)
		return 0;
	cr_expect_geq((uint64_t)st.st_blocks * 512, (uint64_t)st.st_size,
	    "a reserve with holes reserves nothing");
	return (uint64_t)st.st_size;
}

/* Rejecting */

Test(spool_room, a_full_spool_rejects_new_reports_and_keeps_what_it_has)
{
	struct spool_limits l = limits(8 * MIB, SPOOL_REJECT);
	uint64_t n = 0;
	int64_t seqs[64];
	size_t claimed;
	int r;

	open_with(&l);
	while ((r = try_accept(n, 64 * KIB)) == 0 && n < 200)
		n++;
	cr_assert_eq(r, -EDQUOT, "%d", r);
	cr_expect_gt(n, 40, "a half of the limit, at the least, is for reports");
	cr_expect_eq(spool_check_room(bed.spool, 100 * KIB), -EDQUOT);
	cr_expect_eq(
	    spool_check_room(bed.spool, 0), -EDQUOT, "the length is not known yet");
	for (uint64_t i = 0; i < 10; i++)
		cr_expect_eq(try_accept(1000 + i, 64 * KIB), -EDQUOT);
	cr_expect_eq(bed_figures().store_error, -EDQUOT);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), n);
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 0);
	cr_expect_leq(du(), l.max_bytes);

	bed_close();
	open_with(&l);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), n);
	/* Whatever goes makes room by itself. */
	claimed = claim(20, seqs, NULL);
	for (size_t i = 0; i < claimed; i++)
		bed_settle(seqs[i], REPORT_SENT);
	bed_wait();
	cr_expect_eq(spool_check_room(bed.spool, 64 * KIB), 0);
	bed_accept_many(n, 5, 64 * KIB);
	expect_waiting(20, n + 5 - 20);
}

Test(spool_room, max_reports_rejects_the_one_too_many)
{
	struct spool_limits l = report_limits(3, SPOOL_REJECT);

	open_with(&l);
	bed_accept_many(0, 3, 100);
	cr_expect_eq(spool_check_room(bed.spool, 0), -EDQUOT);
	cr_expect_eq(try_accept(3, 100), -EDQUOT);
	cr_expect_eq(try_accept(4, 2 * MIB), -EDQUOT);
	/* A dead one still has its payload, a sent one has not. */
	bring_oldest_to(1, REPORT_DEAD);
	cr_expect_eq(try_accept(3, 100), -EDQUOT);
	bring_oldest_to(1, REPORT_SENT);
	cr_expect_eq(spool_check_room(bed.spool, 0), 0);
	bed_accept_many(3, 1, 100);
	cr_expect_eq(try_accept(4, 100), -EDQUOT);
	expect_waiting(2, 2);
}

/* Reports that pass the first look together are still judged one by one. */
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

Test(spool_room, reports_that_come_together_do_not_pass_the_limit_together)
{
	struct spool_limits l = report_limits(10, SPOOL_REJECT);
	struct verdicts v = { 0 };

	open_with(&l);
	for (uint64_t i = 0; i < 60; i++)
		cr_assert_eq(kit_commit(bed.spool, BED_TOKEN, i,
				 i % 7 == 3 ? 2 * MIB : 1000, count_verdict, &v),
		    0);
	bed_close();
	cr_expect_eq(v.told, 60);
	cr_expect_eq(v.accepted, 10);
	open_with(&l);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 10);
}

/* Evicting */

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

Test(spool_room, the_oldest_reports_give_way)
{
	struct spool_limits l = report_limits(4, SPOOL_EVICT);
	struct rxid first;
	char id[RXID_TEXT_SIZE];

	open_with(&l);
	cr_assert_eq(kit_accept(bed.spool, BED_TOKEN, 0, 5000, &first), 0);
	bed_accept_many(1, 5, 5000);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 4);
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 2);
	cr_expect_eq(spool_check_room(bed.spool, 100), 0, "a full spool goes on taking");
	rxid_format(&first, id);
	cr_expect(is_logged(id), "what was given up is told");
	bed_close();
	expect_reason(0, REPORT_EVICTED, "evicted");
	expect_reason(1, REPORT_EVICTED, "evicted");
	cr_expect_eq(kit_sql(bed.dir, "SELECT total(records) FROM segment"), 4,
	    "the payload goes, the row stays");
	open_with(&l);
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 2);
	expect_waiting(2, 4);
}

Test(spool_room, large_payloads_go_from_the_disk_when_they_are_evicted)
{
	struct spool_limits l = report_limits(2, SPOOL_EVICT);
	CLEANUP(cleanup_free) char *files = NULL;
	size_t n = 0;

	open_with(&l);
	bed_accept_many(0, 6, 2 * MIB);
	bed_close();
	files = tempdir_list(bed.dir);
	for (const char *p = files; (p = strstr(p, "large/")); p++)
		n++;
	cr_expect_eq(n, 2, "%s", files);
	open_with(&l);
	expect_waiting(4, 2);
}

Test(spool_room, dead_reports_give_way_before_waiting_ones)
{
	struct spool_limits l = report_limits(4, SPOOL_EVICT);
	int64_t seqs[4];

	open_with(&l);
	bed_accept_many(0, 4, 1000);
	cr_assert_eq(claim(4, seqs, NULL), 4);
	bed_settle(seqs[0], REPORT_QUEUED);
	bed_settle(seqs[1], REPORT_QUEUED);
	bed_settle(seqs[2], REPORT_DEAD);
	bed_settle(seqs[3], REPORT_HELD);
	bed_wait();
	bed_accept_many(4, 1, 1000);
	cr_expect_eq(bed_count_in(REPORT_DEAD), 0);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 3);
	/* Then what waits, held or not, by age. */
	bed_accept_many(5, 2, 1000);
	cr_expect_eq(bed_count_in(REPORT_HELD), 1);
	bed_accept_many(7, 1, 1000);
	cr_expect_eq(bed_count_in(REPORT_HELD), 0);
	bed_close();
	for (uint64_t i = 0; i < 4; i++)
		expect_reason(i, REPORT_EVICTED, "evicted");
	open_with(&l);
	expect_waiting(4, 4);
}

/* Even one that was put back, or was claimed when others went, is found again. */
Test(spool_room, a_report_put_back_is_the_oldest_again)
{
	struct spool_limits l = report_limits(4, SPOOL_EVICT);
	int64_t seqs[2];

	open_with(&l);
	bed_accept_many(0, 4, 1000);
	cr_assert_eq(claim(2, seqs, NULL), 2);
	bed_accept_many(4, 1, 1000);
	bed_settle(seqs[0], REPORT_QUEUED);
	bed_settle(seqs[1], REPORT_SENT);
	bed_wait();
	bed_accept_many(5, 2, 1000);
	bed_close();
	expect_reason(2, REPORT_EVICTED, "evicted");
	expect_reason(0, REPORT_EVICTED, "evicted");
	open_with(&l);
	expect_waiting(3, 4);
}

Test(spool_room, a_report_being_sent_never_gives_way)
{
	struct spool_limits l = report_limits(3, SPOOL_EVICT);
	uint64_t numbers[3];
	int64_t seqs[3];

	open_with(&l);
	bed_accept_many(0, 3, 1000);
	cr_assert_eq(claim(3, seqs, numbers), 3);
	cr_expect_eq(spool_check_room(bed.spool, 100), -EDQUOT);
	cr_expect_eq(try_accept(3, 1000), -EDQUOT);
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 0);
	cr_expect_eq(bed_count_in(REPORT_SENDING), 3);
	bed_settle(seqs[1], REPORT_QUEUED);
	bed_wait();
	bed_accept_many(4, 1, 1000);
	cr_expect_eq(bed_count_in(REPORT_SENDING), 2);
	bed_close();
	expect_reason(1, REPORT_EVICTED, "evicted");
	/* They were being sent: they are queued again, and all there. */
	open_with(&l);
	cr_expect_eq(claim(3, NULL, numbers), 3);
	cr_expect_eq(numbers[0], 0);
	cr_expect_eq(numbers[1], 2);
	cr_expect_eq(numbers[2], 4);
}

static int64_t index_bytes(void)
{
	CLEANUP(cleanup_free) char *wal = tempdir_join(bed.dir, "spool.db-wal");
	struct stat st = { 0 };
	int64_t pages = kit_sql(bed.dir,
	    "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count(),"
	    " pragma_freelist_count(), pragma_page_size()");

	cr_assert_gt(pages, 0);
	(void)stat(wal, &st);
	return pages + (int64_t)st.st_size;
}

/* They are remembered only as a courtesy. */
Test(spool_room, rows_of_sent_reports_go_before_any_report)
{
	struct spool_limits l = limits(64 * MIB, SPOOL_EVICT);
	uint64_t n = 2500;

	open_with(&l);
	fill_quickly(0, n, 10);
	bring_oldest_to(n, REPORT_SENT);
	bed_accept_many(n, 20, 64 * KIB);
	n += 20;
	/* Lower the limit until rows must go, and on until none is left. */
	l.max_bytes = (uint64_t)index_bytes() + 2 * MIB;
	for (int step = 0; step < 200 && bed_count_in(REPORT_EVICTED) == 0; step++) {
		uint64_t left = bed_count_in(REPORT_SENT);

		l.max_bytes -= 32 * KIB;
		spool_set_limits(bed.spool, &l);
		bed_accept_many(n++, 1, 100);
		if (bed_count_in(REPORT_EVICTED) > 0)
			cr_expect_eq(bed_count_in(REPORT_SENT), 0,
			    "with %" PRIu64 " sent rows there a report was evicted",
			    left);
	}
	cr_expect_eq(bed_count_in(REPORT_SENT), 0);
	cr_expect_gt(bed_count_in(REPORT_EVICTED), 0);
	cr_expect_gt(bed_count_in(REPORT_QUEUED), 0);
}

/* So many rows of sent reports, put there by hand: the spool is closed. */
static void add_sent_rows(unsigned count)
{
	char statements[1024];

	(void)snprintf(statements, sizeof(statements),
	    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %u)"
	    " INSERT INTO report (rxid, state, lane, received_at, changed_at, segment,"
	    "  offset, header_bytes, body_bytes, format, upstream_rxid)"
	    " SELECT randomblob(16), 3, 1, i, i, 1, 4096, 100, 1000, 'minidump',"
	    "  hex(randomblob(18)) FROM n;"
	    "INSERT INTO lane (id, universe, token) VALUES (1, 'universe', '" BED_TOKEN
	    "');"
	    "REPLACE INTO tally (state, reports, bytes) VALUES (3, %u, %u * 1000)",
	    count, count, count);
	cr_assert(kit_sql_change(bed.dir, statements));
}

/* The file of the index keeps the pages of rows that have gone; a limit that leaves out
 * nothing but them must not be the end of the spool. */
Test(spool_room, an_index_that_once_was_large_does_not_lock_the_spool)
{
	struct spool_limits l = limits(40 * MIB, SPOOL_EVICT);

	open_with(&l);
	bed_close();
	add_sent_rows(70000);
	cr_assert_gt(index_bytes(), (int64_t)(9 * MIB));
	l.max_bytes = 10 * MIB;
	open_with(&l);
	for (uint64_t i = 0; i < 20; i++) {
		cr_expect_eq(
		    spool_check_room(bed.spool, 50 * KIB), 0, "before %" PRIu64, i);
		cr_expect_eq(try_accept(i, 50 * KIB), 0, "report %" PRIu64, i);
	}
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 20);
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 0);
	bed_close();
	open_with(&l);
	cr_expect_eq(try_accept(20, 50 * KIB), 0);
	/* Now the pages are free: room for those who may give nothing up, too. */
	l.when_full = SPOOL_REJECT;
	spool_set_limits(bed.spool, &l);
	cr_expect_eq(spool_check_room(bed.spool, 50 * KIB), 0);
	cr_expect_eq(try_accept(21, 50 * KIB), 0);
}

Test(spool_room, limits_made_smaller_hold_for_the_next_report)
{
	struct spool_limits l = report_limits(100, SPOOL_EVICT);

	open_with(&l);
	bed_accept_many(0, 50, 1000);
	l.max_reports = 10;
	spool_set_limits(bed.spool, &l);
	bed_accept_many(50, 1, 1000);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 10);
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 41);
	l.when_full = SPOOL_REJECT;
	spool_set_limits(bed.spool, &l);
	cr_expect_eq(try_accept(51, 1000), -EDQUOT);
	l.max_reports = 11;
	spool_set_limits(bed.spool, &l);
	bed_accept_many(51, 1, 1000);
	expect_waiting(41, 11);
}

/* A report larger than all there may be */

static void refuse_a_giant(enum spool_when_full when_full, bool announced)
{
	struct spool_limits l = limits(12 * MIB, when_full);

	open_with(&l);
	bed_accept_many(0, 6, 300 * KIB);
	if (announced) {
		cr_expect_eq(spool_check_room(bed.spool, 13 * MIB), -EDQUOT);
	} else {
		int r = try_accept(6, 13 * MIB);

		cr_expect_eq(r, -EDQUOT, "%d", r);
	}
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 0, "others were given up for nothing");
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 6);
	cr_expect_eq(spool_check_room(bed.spool, 100 * KIB), 0);
	bed_accept_many(6, 1, 300 * KIB);
	expect_waiting(0, 7);
}

Test(spool_room, a_report_larger_than_the_limit_is_refused_when_announced)
{
	refuse_a_giant(SPOOL_REJECT, true);
}

Test(spool_room, a_report_announced_larger_than_the_limit_evicts_nothing)
{
	refuse_a_giant(SPOOL_EVICT, true);
}

Test(spool_room, a_report_that_grows_larger_than_the_limit_is_refused)
{
	refuse_a_giant(SPOOL_REJECT, false);
}

Test(spool_room, a_report_that_grows_larger_than_the_limit_evicts_nothing)
{
	refuse_a_giant(SPOOL_EVICT, false);
}

/* What is being sent stays: where that leaves no room, evicting the rest is in vain. */
Test(spool_room, nothing_is_evicted_for_a_report_that_does_not_fit_anyway)
{
	struct spool_limits l = limits(20 * MIB, SPOOL_EVICT);

	open_with(&l);
	bed_accept_many(0, 10, MIB);
	cr_assert_eq(claim(8, NULL, NULL), 8);
	cr_expect_eq(try_accept(10, 10 * MIB), -EDQUOT);
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 0);
	bed_accept_many(11, 1, MIB);
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 0);
}

/* The file of an evicted report takes a while to go; others must not go in its place. */
Test(spool_room, no_more_is_evicted_than_must_be)
{
	struct spool_limits l = limits(40 * MIB, SPOOL_EVICT);
	uint64_t n = 6;
	uint64_t evicted;

	open_with(&l);
	bed_accept_many(0, n, 5 * MIB);
	while (bed_count_in(REPORT_EVICTED) == 0 && n < 100)
		bed_accept_many(n++, 1, 5 * MIB);
	evicted = bed_count_in(REPORT_EVICTED);
	cr_expect_eq(evicted, 1);
	/* These together are smaller than what has just gone. */
	bed_accept_many(n, 50, 1000);
	cr_expect_leq(bed_count_in(REPORT_EVICTED), evicted + 1);
}

/* What the spool takes on disk */

/* What it may take beyond max_bytes: a few pages of the file system's own and of SQLite's
 * shared memory; and bodies on their way, which no eviction can foresee. */
#define SLACK(bytes_under_way) (2 * MIB + (bytes_under_way))

struct run {
	struct spool_limits limits;
	uint64_t bodies;
	uint64_t at_once; /* in one go, not waited for one by one */
	size_t size;
	uint64_t large_each; /* 0 = none */
	size_t large_size;
};

static size_t size_of(const struct run *run, uint64_t i)
{
	return run->large_each > 0 && i % run->large_each == 0 ? run->large_size
							       : run->size;
}

/* Post, sending some of them on, and return the most the spool ever took. */
static uint64_t run_and_measure(const struct run *run)
{
	uint64_t peak = 0;
	uint64_t posted = 0;
	struct verdicts v = { 0 };

	for (uint64_t i = 0; i < run->bodies; i++) {
		uint64_t now;

		if (kit_commit(
			bed.spool, BED_TOKEN, i, size_of(run, i), count_verdict, &v) == 0)
			posted++;
		while (posted - atomic_load(&v.told) >= run->at_once)
			(void)sched_yield();
		if (i % 50 == 49)
			bring_oldest_to(3, i % 100 == 49 ? REPORT_SENT : REPORT_DEAD);
		now = du();
		if (now > peak)
			peak = now;
	}
	while (atomic_load(&v.told) < posted)
		(void)sched_yield();
	cr_expect_eq(v.accepted, run->bodies, "%u of %" PRIu64 " were taken", v.accepted,
	    run->bodies);
	return peak;
}

static void expect_within_limit(const struct run *run, bool files_go_later)
{
	uint64_t allowed = run->limits.max_bytes + SLACK(run->at_once * run->size);
	uint64_t peak;

	open_with(&run->limits);
	peak = run_and_measure(run);
	if (!files_go_later)
		cr_expect_leq(peak, allowed,
		    "%" PRIu64 " KiB were taken where %" PRIu64 " KiB may be", peak / KIB,
		    allowed / KIB);
	cr_expect(comes_below(run->limits.max_bytes + SLACK(0)),
	    "%" PRIu64 " KiB stay taken", du() / KIB);
	/* The bound leaves room for reports, too. */
	cr_expect_gt(bed_figures().payload_bytes, run->limits.max_bytes / 3);
	cr_expect_eq(spool_check_room(bed.spool, run->size), 0);
	bed_close();
	open_with(&run->limits);
	cr_expect_leq(du(), run->limits.max_bytes + SLACK(0), "after a restart");
	bed_accept_many(run->bodies, 20, run->size);
	cr_expect(comes_below(allowed), "%" PRIu64 " KiB", du() / KIB);
}

Test(spool_room, a_long_run_stays_within_max_bytes)
{
	struct run run = { .limits = limits(20 * MIB, SPOOL_EVICT),
		.bodies = 2000,
		.at_once = 1,
		.size = 64 * KIB };

	run.limits.reserve_bytes = 16 * MIB;
	expect_within_limit(&run, false);
}

Test(spool_room, many_at_once_stay_within_max_bytes)
{
	struct run run = { .limits = limits(20 * MIB, SPOOL_EVICT),
		.bodies = 2000,
		.at_once = 16,
		.size = 64 * KIB };

	expect_within_limit(&run, false);
}

Test(spool_room, small_and_large_bodies_mixed_stay_within_max_bytes)
{
	struct run run = { .limits = limits(30 * MIB, SPOOL_EVICT),
		.bodies = 500,
		.at_once = 4,
		.size = 100 * KIB,
		.large_each = 20,
		.large_size = 3 * MIB };

	expect_within_limit(&run, true);
}

Test(spool_room, a_smaller_limit_is_kept_after_a_restart)
{
	struct spool_limits l = limits(40 * MIB, SPOOL_EVICT);

	open_with(&l);
	bed_accept_many(0, 400, 64 * KIB);
	bed_close();
	l.max_bytes = 20 * MIB;
	open_with(&l);
	bed_accept_many(400, 5, 64 * KIB);
	cr_expect(comes_below(l.max_bytes + SLACK(0)), "%" PRIu64 " KiB", du() / KIB);
	cr_expect_gt(bed_count_in(REPORT_QUEUED), 100);
}

/* The disk's own floor */

static uint64_t free_on_disk(void)
{
	struct statvfs v;

	cr_assert_eq(statvfs(bed.dir, &v), 0);
	return (uint64_t)v.f_bavail * v.f_frsize;
}

Test(spool_room, below_min_free_new_reports_are_rejected_until_there_is_space)
{
	struct spool_limits l = limits(40 * MIB, SPOOL_REJECT);
	uint64_t count = 3;

	open_with(&l);
	bed_accept_many(0, 3, 1000);
	l.min_free_bytes = UINT64_MAX / 4;
	spool_set_limits(bed.spool, &l);
	cr_expect_eq(spool_check_room(bed.spool, 5 * MIB), -EDQUOT);
	/* What the spool has of the disk already may be filled, and no more. */
	while (try_accept(count, 64 * KIB) == 0)
		cr_assert_lt(++count, 3 + 2 * 40);
	cr_expect_eq(try_accept(count, 64 * KIB), -EDQUOT);
	cr_expect_eq(spool_check_room(bed.spool, 64 * KIB), -EDQUOT);
	l.min_free_bytes = 0;
	spool_set_limits(bed.spool, &l);
	cr_expect_eq(spool_check_room(bed.spool, 1000), 0);
	bed_accept_many(count, 1, 1000);
	expect_waiting(0, count + 1);
}

Test(spool_room, below_min_free_reports_give_way_but_the_spool_goes_on)
{
	struct spool_limits l = limits(40 * MIB, SPOOL_EVICT);

	l.min_free_bytes = UINT64_MAX / 4;
	open_with(&l);
	cr_expect_eq(
	    spool_check_room(bed.spool, 1000), -EDQUOT, "nothing is there to give way");
	cr_expect_eq(try_accept(0, 1000), -EDQUOT);
	l.min_free_bytes = 0;
	spool_set_limits(bed.spool, &l);
	bed_accept_many(0, 20, 64 * KIB);
	l.min_free_bytes = UINT64_MAX / 4;
	spool_set_limits(bed.spool, &l);
	cr_expect_eq(spool_check_room(bed.spool, 1000), 0);
	bed_accept_many(20, 1, 64 * KIB);
	/* What the spool has of the disk already may be filled first. */
	cr_expect_leq(bed_count_in(REPORT_EVICTED), 1);
	bed_accept_many(21, 100, 64 * KIB);
	cr_expect_geq(bed_count_in(REPORT_EVICTED), 20);
	cr_expect_leq(bed_figures().payload_bytes, 20 * 64 * KIB + 5 * MIB);
}

Test(spool_room, a_body_that_would_take_the_disk_below_min_free_is_rejected)
{
	struct spool_limits l = limits(UINT64_MAX / 4, SPOOL_REJECT);
	uint64_t half = free_on_disk() / 2;

	l.min_free_bytes = half;
	open_with(&l);
	cr_expect_eq(spool_check_room(bed.spool, 1000), 0);
	cr_expect_eq(spool_check_room(bed.spool, half + half / 2), -EDQUOT);
	/* And with nothing in the way, one larger than the disk is not even begun. */
	l.min_free_bytes = 0;
	l.when_full = SPOOL_EVICT;
	spool_set_limits(bed.spool, &l);
	bed_accept_many(0, 1, 1000);
	cr_expect_eq(spool_check_room(bed.spool, half), 0);
	cr_expect_eq(spool_check_room(bed.spool, 4 * half), -ENOSPC);
	cr_expect_eq(spool_check_room(bed.spool, 1000), 0, "others are not concerned");
}

/* The reserve */

Test(spool_room, the_reserve_is_there_and_never_more_than_an_eighth)
{
	static const struct {
		uint64_t max_bytes, reserve, expected;
	} cases[] = {
		{ 1024 * MIB, 3 * MIB, 3 * MIB },
		{ 16 * MIB, 3 * MIB, 2 * MIB },
		{ 8 * MIB, 16 * MIB, MIB },
		{ 8 * MIB, 100 * KIB, 100 * KIB },
		{ 8 * MIB, 0, 0 },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct spool_limits l = limits(cases[i].max_bytes, SPOOL_EVICT);

		l.reserve_bytes = cases[i].reserve;
		open_with(&l);
		cr_expect_eq(reserve_on_disk(), cases[i].expected,
		    "case %zu: %" PRIu64 " bytes", i, reserve_on_disk());
		bed_accept_many(i, 1, 1000);
		cr_expect_geq(bed_figures().disk_bytes, cases[i].expected);
		bed_close();
	}
}

Test(spool_room, the_reserve_follows_changed_limits)
{
	struct spool_limits l = limits(80 * MIB, SPOOL_EVICT);

	l.reserve_bytes = MIB;
	open_with(&l);
	l.reserve_bytes = 2 * MIB;
	spool_set_limits(bed.spool, &l);
	bed_accept_many(0, 1, 1000);
	bed_wait();
	bed_wait();
	cr_expect_eq(reserve_on_disk(), 2 * MIB);
	l.max_bytes = 8 * MIB;
	spool_set_limits(bed.spool, &l);
	bed_accept_many(1, 1, 1000);
	bed_wait();
	bed_wait();
	cr_expect_eq(reserve_on_disk(), MIB);
}

/* A connection of SQLite's whose file may not grow stands for a full disk. */
static int limit_pages(sqlite3 *db, const char **error, const void *api)
{
	(void)error;
	(void)api;
	return sqlite3_exec(db, "PRAGMA max_page_count = 40", NULL, NULL, NULL);
}

/* Later than any wait of the spool for a failure to pass. */
static void let_time_pass(void)
{
	clock_set(kit_time_of(0), clock_mono_ms() + 60000);
	bed_wait();
	bed_wait();
}

Test(spool_room, on_a_full_disk_the_reserve_is_given_up_and_comes_back)
{
	struct spool_limits l = limits(40 * MIB, SPOOL_EVICT);
	uint64_t n = 0;

	l.reserve_bytes = 2 * MIB;
	/* Its type is that of any entry point: cast as the manual says. */
	cr_assert_eq(sqlite3_auto_extension((void (*)(void))limit_pages), SQLITE_OK);
	open_with(&l);
	clock_set(kit_time_of(0), clock_mono_ms());
	while (n < 10000 && try_accept(n, 10) == 0)
		n++;
	cr_assert_gt(n, 50);
	cr_expect_eq(spool_check_room(bed.spool, 10), -ENOSPC);
	cr_expect_eq(bed_figures().store_error, -ENOSPC);
	cr_expect_eq(reserve_on_disk(), 0);
	cr_expect(is_logged("cannot store"));
	cr_expect_eq(bed_count_in(REPORT_EVICTED), 0);
	cr_expect_eq(try_accept(n, 10), -ENOSPC);
	let_time_pass();
	cr_expect_eq(spool_check_room(bed.spool, 10), 0);
	cr_expect_eq(reserve_on_disk(), 2 * MIB);
	cr_expect(is_logged("storing again"));
	cr_expect_eq(bed_count_in(REPORT_QUEUED), n);
}
