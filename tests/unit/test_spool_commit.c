/* SPDX-License-Identifier: MIT */
/* The committer as others see it: each report is where its moves have taken it, what could
 * not be stored is refused or kept, and the kept sums are those of the rows. */
#include "spool.h"

#include "bytes.h"
#include "clock.h"
#include "spool_bed.h"
#include "spool_kit.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define KIB 1024u
#define MIB (1024u * KIB)

TestSuite(spool_commit, .init = bed_set_up_open, .fini = bed_tear_down, .timeout = 20);

/* Settling */

struct expected_row {
	enum report_state from, to;
	int64_t seq;
};

/* Bring a fresh report of its own lane to the state. Returns its seq. */
static int64_t bring_to(enum report_state state, const char *token, uint64_t i)
{
	struct report *r;
	int64_t seq;

	(void)bed_accept(token, i, 300);
	cr_assert_eq(bed_claim(bed_newest_lane(), true, 1, &r), 1);
	cr_assert_eq(bed_number(r), i);
	seq = r->seq;
	report_free(r);
	if (state == REPORT_DROPPED)
		bed_settle(seq, REPORT_QUEUED);
	if (state != REPORT_SENDING)
		bed_settle(seq, state);
	bed_wait();
	return seq;
}

Test(spool_commit, settlements_make_legal_moves_and_leave_the_row_at_others)
{
	static const enum report_state from[] = { REPORT_QUEUED, REPORT_SENDING,
		REPORT_SENT, REPORT_HELD, REPORT_DEAD, REPORT_DROPPED };
	static const enum report_state to[] = { REPORT_QUEUED, REPORT_SENT, REPORT_HELD,
		REPORT_DEAD, REPORT_DROPPED };
	struct expected_row rows[ARRAY_LEN(from) * ARRAY_LEN(to)];
	size_t n = 0;
	char token[16];

	for (size_t i = 0; i < ARRAY_LEN(from); i++)
		for (size_t k = 0; k < ARRAY_LEN(to); k++, n++) {
			struct spool_settlement t = { .to = to[k],
				.reason = "tested",
				.http_status = 599,
				.count_attempt = true };

			(void)snprintf(token, sizeof(token), "%zu", n);
			t.seq = bring_to(from[i], token, n);
			cr_assert_eq(spool_settle(bed.spool, &t, 1), 0);
			rows[n] = (struct expected_row){ from[i], to[k], t.seq };
		}
	bed_close();
	for (size_t i = 0; i < n; i++) {
		bool legal = report_move_is_legal(rows[i].from, rows[i].to);

		cr_expect_eq(bed_ask("state", rows[i].seq),
		    (int64_t)(legal ? rows[i].to : rows[i].from), "%s to %s",
		    report_state_name(rows[i].from), report_state_name(rows[i].to));
		cr_expect_eq(bed_ask("http_status", rows[i].seq), legal ? 599 : 0);
		cr_expect_eq(bed_ask("reason IS NOT NULL", rows[i].seq), legal);
		cr_expect_eq(bed_ask("attempts", rows[i].seq), legal);
	}
	bed_open();
}

Test(spool_commit, a_settlement_for_no_report_does_nothing)
{
	(void)bed_accept(BED_TOKEN, 1, 50);
	bed_settle(99, REPORT_DEAD);
	bed_settle(0, REPORT_DEAD);
	bed_settle(-1, REPORT_DROPPED);
	bed_reopen();
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 1);
	cr_expect_eq(bed_count_in(REPORT_DEAD) + bed_count_in(REPORT_DROPPED), 0);
}

Test(spool_commit, attempts_are_counted_and_doubt_stays)
{
	struct spool_settlement t = {
		.to = REPORT_QUEUED, .ambiguous = true, .count_attempt = true
	};
	struct report *r;

	(void)bed_accept(BED_TOKEN, 1, 50);
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(bed_claim(bed_only_lane(), false, 1, &r), 1);
		cr_expect_eq(r->attempts, i < 3 ? i : 2);
		cr_expect_eq(r->ambiguous, i > 0);
		t.seq = r->seq;
		/* In doubt once, then not; the third time the upload did not begin. */
		t.ambiguous = i == 0;
		t.count_attempt = i != 2;
		cr_assert_eq(spool_settle(bed.spool, &t, 1), 0);
		report_free(r);
		bed_reopen();
	}
}

Test(spool_commit, what_upstream_said_is_kept_with_the_report)
{
	CLEANUP(cleanup_free) char *reason = calloc(1, 1001);
	struct spool_settlement t = {
		.to = REPORT_QUEUED, .http_status = 503, .reason = reason
	};
	struct report *r;
	int64_t lane;

	cr_assert_not_null(reason);
	memset(reason, 'r', 1000);
	(void)bed_accept(BED_TOKEN, 1, 50);
	lane = bed_only_lane();
	cr_assert_eq(bed_claim(lane, false, 1, &r), 1);
	t.seq = r->seq;
	cr_assert_eq(spool_settle(bed.spool, &t, 1), 0);
	report_free(r);
	/* The strings were copied: the caller's may change at once. */
	memset(reason, 'x', 1000);
	bed_close();
	cr_expect_eq(bed_ask("http_status", t.seq), 503);
	cr_expect_eq(bed_ask("length(reason)", t.seq), 500);
	cr_expect_eq(bed_ask("reason NOT LIKE '%x%'", t.seq), 1);
	bed_open();
	cr_assert_eq(bed_claim(lane, false, 1, &r), 1);
	report_free(r);
	t = (struct spool_settlement){ .seq = t.seq,
		.to = REPORT_SENT,
		.http_status = 200,
		.upstream_rxid = "abc-1" };
	cr_assert_eq(spool_settle(bed.spool, &t, 1), 0);
	bed_close();
	cr_expect_eq(bed_ask("http_status", t.seq), 200);
	cr_expect_eq(bed_ask("upstream_rxid = 'abc-1'", t.seq), 1);
	bed_open();
}

Test(spool_commit, settlements_handed_over_just_before_closing_are_kept)
{
	enum {
		COUNT = 40
	};
	struct report *reports[COUNT];
	struct spool_settlement list[COUNT] = { { 0 } };

	for (uint64_t i = 0; i < COUNT; i++)
		(void)bed_accept(BED_TOKEN, i, 50);
	cr_assert_eq(bed_claim(bed_only_lane(), false, COUNT, reports), COUNT);
	for (int i = 0; i < COUNT; i++) {
		list[i].seq = reports[i]->seq;
		list[i].to = i % 2 ? REPORT_SENT : REPORT_HELD;
		report_free(reports[i]);
	}
	cr_assert_eq(spool_settle(bed.spool, list, COUNT), 0);
	bed_reopen();
	cr_expect_eq(bed.recovery.requeued, 0);
	cr_expect_eq(bed_count_in(REPORT_SENT), COUNT / 2);
	cr_expect_eq(bed_count_in(REPORT_HELD), COUNT / 2);
}

Test(spool_commit, payloads_go_when_no_state_needs_them)
{
	struct report *reports[2];
	struct spool_stats stats;

	(void)bring_to(REPORT_HELD, "held", 1);
	(void)bring_to(REPORT_DEAD, "dead", 2);
	(void)bring_to(REPORT_SENT, "sent", 3);
	(void)bring_to(REPORT_DROPPED, "dropped", 4);
	for (uint64_t i = 10; i < 13; i++)
		(void)bed_accept("large", i, 2 * MIB);
	cr_assert_eq(bed_claim(bed_only_lane(), false, 2, reports), 2);
	for (int i = 0; i < 2; i++) {
		bed_settle(reports[i]->seq, i ? REPORT_DEAD : REPORT_SENT);
		report_free(reports[i]);
	}
	bed_wait();
	for (int i = 0; i < 2; i++) {
		spool_get_stats(bed.spool, &stats);
		cr_expect_eq(stats.payload_bytes, 300 + 300 + 2 * 2 * MIB);
		bed_reopen();
	}
	cr_expect_eq(bed_count_large_files(), 2);
}

/* Quota is judged by this figure: it must follow the disk down as well as up. */
Test(spool_commit, disk_figures_come_down_when_payloads_go)
{
	struct spool_stats stats;
	struct timespec step = { 0, 1000000 };

	for (uint64_t i = 0; i < 8; i++) {
		struct report *r;

		(void)bed_accept(BED_TOKEN, i, 3 * MIB);
		cr_assert_eq(bed_claim(bed_only_lane(), false, 1, &r), 1);
		bed_settle(r->seq, REPORT_SENT);
		report_free(r);
		bed_wait();
	}
	/* The files are removed a moment later. */
	for (int i = 0; i < 5000 && bed_count_large_files() > 0; i++)
		(void)nanosleep(&step, NULL);
	cr_assert_eq(bed_count_large_files(), 0);
	for (int i = 0; i < 1000; i++) {
		spool_get_stats(bed.spool, &stats);
		if (stats.disk_bytes < 3 * MIB)
			break;
		(void)nanosleep(&step, NULL);
	}
	cr_expect_lt(stats.disk_bytes, 3 * MIB, "%" PRIu64 " bytes, and nothing is there",
	    stats.disk_bytes);
	cr_expect_eq(spool_check_room(bed.spool, 3 * MIB), 0);
}

/* When the index fails. SQLite asks a hook before each commit, on every connection made
 * after the hook's maker was registered: so a commit can be made to fail. */

static atomic_int commits_to_fail;

static int fail_commit(void *cls)
{
	(void)cls;
	if (atomic_load(&commits_to_fail) <= 0)
		return 0;
	atomic_fetch_sub(&commits_to_fail, 1);
	return 1;
}

static int add_hook(sqlite3 *db, const char **error, const void *api)
{
	(void)error;
	(void)api;
	(void)sqlite3_commit_hook(db, fail_commit, NULL);
	return SQLITE_OK;
}

static void make_commits_fail(void)
{
	bed_close();
	/* Its type is that of any entry point: cast as the manual says. */
	cr_assert_eq(sqlite3_auto_extension((void (*)(void))add_hook), SQLITE_OK);
	bed_open();
	clock_set(kit_time_of(0), 0);
}

/* Later than any wait of the spool for a failure to pass. */
static void let_time_pass(void)
{
	clock_set(kit_time_of(0), clock_mono_ms() + 60000);
	bed_wait();
	bed_wait();
}

Test(spool_commit, a_report_whose_row_cannot_be_stored_is_refused_and_gone)
{
	make_commits_fail();
	(void)bed_accept(BED_TOKEN, 1, 100);
	for (uint64_t i = 2; i < 4; i++) {
		commits_to_fail = 2;
		cr_expect_lt(
		    kit_accept(bed.spool, BED_TOKEN, i, i == 2 ? 100 : 2 * MIB, NULL), 0);
		commits_to_fail = 0;
		let_time_pass();
	}
	cr_expect_eq(spool_check_room(bed.spool, 100), 0, "it heals by itself");
	(void)bed_accept(BED_TOKEN, 4, 100);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 2);
	bed_reopen();
	cr_expect_eq(bed.recovery.recovered, 0);
	bed_expect_claimed(bed_only_lane(), (uint64_t[]){ 1, 4 }, 2);
	cr_expect_eq(bed_count_large_files(), 0);
}

Test(spool_commit, an_answer_that_cannot_be_stored_is_stored_later)
{
	struct report *r;
	int64_t lane;

	make_commits_fail();
	(void)bed_accept(BED_TOKEN, 1, 100);
	(void)bed_accept(BED_TOKEN, 2, 100);
	lane = bed_only_lane();
	cr_assert_eq(bed_claim(lane, false, 1, &r), 1);
	commits_to_fail = 1;
	bed_settle(r->seq, REPORT_SENT);
	report_free(r);
	while (atomic_load(&commits_to_fail) > 0)
		(void)sched_yield();
	/* Whatever comes next, the older answer goes first. */
	cr_assert_eq(bed_claim(lane, false, 1, &r), 1);
	cr_expect_eq(bed_number(r), 2);
	report_free(r);
	bed_wait();
	cr_expect_eq(bed_count_in(REPORT_SENT), 1);
	bed_reopen();
	cr_expect_eq(bed_count_in(REPORT_SENT), 1);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 1);
}

/* Kept sums against the rows, after much of everything */

enum {
	MODEL_MAX = 600
};

struct model_report {
	enum report_state state;
	unsigned lane; /* of MODEL_LANES */
	int64_t seq;   /* 0 = not learnt yet */
	bool ambiguous;
	size_t len;
};

#define MODEL_LANES 3u

static struct model {
	struct model_report reports[MODEL_MAX];
	size_t count;
	uint64_t random;
} model;

static uint64_t pick(uint64_t below)
{
	return bytes_random(&model.random) % below;
}

static const char *const model_tokens[MODEL_LANES] = { "one", "two", "three" };

static void model_accept(void)
{
	struct model_report *r = &model.reports[model.count];

	*r = (struct model_report){ .state = REPORT_QUEUED,
		.lane = (unsigned)pick(MODEL_LANES),
		.len = pick(40) == 0 ? MIB + pick(100000) : pick(20000) };
	(void)bed_accept(model_tokens[r->lane], model.count++, r->len);
}

/* Lanes get their ids in order of first use; the first reports use them in order. */
static void model_begin(void)
{
	model.random = 20240607;
	for (unsigned i = 0; i < MODEL_LANES; i++) {
		model.reports[i] =
		    (struct model_report){ .state = REPORT_QUEUED, .lane = i, .len = 10 };
		(void)bed_accept(model_tokens[i], i, 10);
	}
	model.count = MODEL_LANES;
}

/* The next a claim must give of a lane, in the order asked for; MODEL_MAX = none. */
static size_t model_next(unsigned lane, bool newest_first)
{
	size_t found = MODEL_MAX;

	for (size_t i = 0; i < model.count; i++) {
		const struct model_report *r = &model.reports[i];

		if (r->lane == lane && r->state == REPORT_QUEUED &&
		    (found == MODEL_MAX || newest_first))
			found = i;
	}
	return found;
}

static void model_claim(void)
{
	struct report *reports[6];
	unsigned lane = (unsigned)pick(MODEL_LANES);
	bool newest_first = pick(3) == 0;
	size_t max = 1 + pick(ARRAY_LEN(reports));
	int n = bed_claim((int64_t)lane + 1, newest_first, max, reports);

	for (int i = 0; i < n; i++) {
		size_t expected = model_next(lane, newest_first);
		uint64_t number = bed_number(reports[i]);
		struct model_report *r = &model.reports[number];

		cr_assert_eq(
		    number, expected, "claimed %" PRIu64 ", not %zu", number, expected);
		cr_assert_eq(reports[i]->ambiguous, r->ambiguous);
		r->state = REPORT_SENDING;
		r->seq = reports[i]->seq;
		report_free(reports[i]);
	}
	if ((size_t)n < max)
		cr_assert_eq(model_next(lane, newest_first), MODEL_MAX);
}

static void model_settle(void)
{
	static const enum report_state to[] = { REPORT_QUEUED, REPORT_SENT, REPORT_HELD,
		REPORT_DEAD, REPORT_DROPPED, REPORT_SENT, REPORT_SENT };
	size_t i = pick(model.count);
	struct model_report *r = &model.reports[i];
	struct spool_settlement t = { .to = to[pick(ARRAY_LEN(to))],
		.ambiguous = pick(4) == 0,
		.count_attempt = true };

	if (r->seq == 0)
		return;
	t.seq = r->seq;
	cr_assert_eq(spool_settle(bed.spool, &t, 1), 0);
	if (!report_move_is_legal(r->state, t.to))
		return;
	r->state = t.to;
	r->ambiguous |= t.ambiguous;
}

static void model_restart(void)
{
	uint64_t requeued = 0;

	for (size_t i = 0; i < model.count; i++)
		if (model.reports[i].state == REPORT_SENDING) {
			model.reports[i].state = REPORT_QUEUED;
			model.reports[i].ambiguous = true;
			requeued++;
		}
	bed_reopen();
	cr_assert_eq(bed.recovery.requeued, requeued);
}

#define SPAN "((header_bytes + body_bytes + 4095) / 4096 * 4096)"
#define HAS_PAYLOAD "segment > 0 AND state IN (1, 2, 4, 5)"

/* Rows in which kept and counted differ, either way round. */
static int64_t count_differences(const char *kept, const char *counted)
{
	char query[1024];

	(void)snprintf(query, sizeof(query),
	    "SELECT (SELECT count(*) FROM (%s EXCEPT %s))"
	    " + (SELECT count(*) FROM (%s EXCEPT %s))",
	    kept, counted, counted, kept);
	return kit_sql(bed.dir, query);
}

static void check_sums(void)
{
	cr_expect_eq(
	    count_differences("SELECT state, reports, bytes FROM tally WHERE reports > 0"
			      " OR bytes > 0",
		"SELECT state, count(*), sum(body_bytes) FROM report GROUP BY state"),
	    0);
	cr_expect_eq(count_differences("SELECT number, records, bytes FROM segment WHERE "
				       "records > 0 OR bytes > 0",
			 "SELECT segment, count(*), sum(" SPAN
			 ") FROM report WHERE " HAS_PAYLOAD " GROUP BY segment"),
	    0);
}

static void check_against_model(void)
{
	uint64_t counts[REPORT_STATE_COUNT] = { 0 };
	uint64_t queued[MODEL_LANES] = { 0 };
	struct spool_lane lanes[MODEL_LANES + 1];
	struct spool_stats stats;
	size_t n;

	for (size_t i = 0; i < model.count; i++) {
		counts[model.reports[i].state]++;
		if (model.reports[i].state == REPORT_QUEUED)
			queued[model.reports[i].lane]++;
	}
	bed_wait();
	spool_get_stats(bed.spool, &stats);
	for (int i = 0; i < REPORT_STATE_COUNT; i++)
		cr_expect_eq(stats.reports[i], counts[i], "%s",
		    report_state_name((enum report_state)i));
	n = spool_list_lanes(bed.spool, 0, lanes, MODEL_LANES + 1);
	for (size_t i = 0; i < n; i++) {
		cr_assert(lanes[i].id >= 1 && lanes[i].id <= MODEL_LANES);
		cr_expect_eq(lanes[i].queued, queued[lanes[i].id - 1]);
		queued[lanes[i].id - 1] = 0;
	}
	for (size_t i = 0; i < MODEL_LANES; i++)
		cr_expect_eq(queued[i], 0, "lane %zu is not listed", i + 1);
}

static void check_rows_against_model(void)
{
	for (size_t i = 0; i < model.count; i++) {
		const struct model_report *r = &model.reports[i];

		if (r->seq == 0)
			continue;
		cr_assert_eq(
		    bed_ask("state", r->seq), (int64_t)r->state, "report %zu", i);
		cr_assert_eq(bed_ask("ambiguous", r->seq), r->ambiguous, "report %zu", i);
	}
}

Test(spool_commit, kept_sums_equal_the_rows_after_a_random_run)
{
	model_begin();
	for (int step = 0; step < 350; step++) {
		uint64_t dice = pick(100);

		if (dice < 35)
			model_accept();
		else if (dice < 60)
			model_claim();
		else if (dice < 98)
			model_settle();
		else
			model_restart();
	}
	check_against_model();
	bed_close();
	check_sums();
	check_rows_against_model();
	/* And what is left can be sent, whole. */
	bed_open();
	for (size_t i = 0; i < model.count; i++)
		if (model.reports[i].state == REPORT_SENDING) {
			model.reports[i].state = REPORT_QUEUED;
			model.reports[i].ambiguous = true;
		}
	check_against_model();
	for (int i = 0; i < 100; i++)
		model_claim();
	check_against_model();
}
