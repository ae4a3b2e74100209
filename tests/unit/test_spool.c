/* SPDX-License-Identifier: MIT */
/* The spool from its door: what was accepted is there, in order and byte for byte, for one
 * daemon only, and its figures are true. */
#include "spool.h"

#include "bytes.h"
#include "spool_bed.h"
#include "spool_kit.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define KIB 1024u
#define MIB (1024u * KIB)

TestSuite(spool, .init = bed_set_up_open, .fini = bed_tear_down, .timeout = 20);

/* Accepting */

Test(spool, accepted_reports_keep_order_and_bytes_over_a_restart)
{
	static const size_t sizes[] = { 0, 1, 4096, 64 * KIB, 2 * MIB, 300, MIB, MIB + 1,
		100 };
	struct rxid rxids[ARRAY_LEN(sizes)];
	struct report *reports[64];

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		rxids[i] = bed_accept(BED_TOKEN, i, sizes[i]);
	bed_reopen();
	cr_expect_eq(bed.recovery.requeued, 0);
	cr_expect_eq(bed.recovery.recovered, 0);
	cr_expect_not(bed.recovery.rebuilt);
	cr_assert_eq(
	    bed_claim(bed_only_lane(), false, 64, reports), (int)ARRAY_LEN(sizes));
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		cr_expect_eq(bed_number(reports[i]), i);
		cr_expect_arr_eq(reports[i]->rxid.bytes, rxids[i].bytes, 16);
		cr_expect_eq(reports[i]->attempts, 0);
		cr_expect_not(reports[i]->ambiguous);
		report_free(reports[i]);
	}
}

Test(spool, the_name_carries_the_time_the_report_came_in)
{
	struct rxid rxid = bed_accept(BED_TOKEN, 7, 10);
	uint64_t ms = 0;

	for (int i = 0; i < 6; i++)
		ms = ms << 8 | rxid.bytes[i];
	cr_expect_eq((int64_t)ms, kit_time_of(7));
}

static void count_call(void *cls, const struct spool_verdict *verdict)
{
	atomic_int *calls = cls;

	(void)verdict;
	atomic_fetch_add(calls, 1);
}

static void keep_error(void *cls, const struct spool_verdict *verdict)
{
	*(int *)cls = verdict->error;
}

static void commit_draft(
    const struct spool_draft *draft, spool_commit_fn *done, void *cls, size_t len)
{
	CLEANUP(cleanup_free) uint8_t *body = calloc(1, len + 1);
	struct spool_payload *p = NULL;

	cr_assert_not_null(body);
	cr_assert_eq(spool_payload_begin(bed.spool, &p), 0);
	cr_assert_eq(spool_payload_write(p, body, len), 0);
	spool_commit(bed.spool, p, draft, done, cls);
}

Test(spool, what_the_client_sent_comes_back_as_it_was)
{
	static char target[20000];
	struct spool_draft draft = { .received_at_ms = 5,
		.universe = "",
		.token = "",
		.format = "btt",
		.target = target,
		.content_type = "",
		.content_encoding = "gzip",
		.client = NULL };
	atomic_int calls = 0;
	struct report *r;

	memset(target, 'x', sizeof(target) - 1);
	memcpy(target, "//post?\xff\x01%00&", 12);
	commit_draft(&draft, count_call, &calls, 100);
	bed_reopen();
	cr_assert_eq(calls, 1);
	cr_assert_eq(bed_claim(bed_only_lane(), false, 1, &r), 1);
	cr_expect_eq(r->received_at_ms, 5);
	cr_expect_str_eq(r->universe, "");
	cr_expect_str_eq(r->token, "");
	cr_expect_str_eq(r->format, "btt");
	cr_expect_str_eq(r->envelope.target, target);
	cr_expect_str_eq(r->envelope.content_type, "");
	cr_expect_str_eq(r->envelope.content_encoding, "gzip");
	cr_expect_null(r->envelope.client);
	cr_expect_eq(r->state, REPORT_SENDING);
	report_free(r);
}

Test(spool, each_commit_is_answered_exactly_once)
{
	enum {
		COUNT = 60
	};
	static atomic_int calls[COUNT];

	for (uint64_t i = 0; i < COUNT; i++)
		cr_assert_eq(kit_commit(bed.spool, BED_TOKEN, i,
				 i % 20 == 7 ? 2 * MIB : i * 100, count_call, &calls[i]),
		    0);
	/* Closing finishes what was handed over. */
	bed_reopen();
	for (size_t i = 0; i < COUNT; i++)
		cr_expect_eq(calls[i], 1, "%zu: %d", i, calls[i]);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), COUNT);
}

/* A request head that no record holds: the client's fault, nobody else's. */
Test(spool, a_draft_too_long_for_a_record_is_refused_alone)
{
	CLEANUP(cleanup_free) char *target = calloc(1, 70000);
	struct spool_draft draft = { .universe = "u",
		.token = BED_TOKEN,
		.format = "minidump",
		.target = target };
	int error = 0;

	cr_assert_not_null(target);
	memset(target, 'x', 69999);
	for (size_t len = 100; len <= 2 * MIB; len += 2 * MIB - 100) {
		error = 0;
		commit_draft(&draft, keep_error, &error, len);
		cr_expect_lt(error, 0);
		cr_expect_eq(spool_check_room(bed.spool, 100), 0,
		    "others are refused too: %d", spool_check_room(bed.spool, 100));
	}
	(void)bed_accept(BED_TOKEN, 1, 100);
	bed_reopen();
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 1);
}

Test(spool, an_aborted_payload_leaves_nothing)
{
	static const size_t sizes[] = { 0, 100, 3 * MIB };
	CLEANUP(cleanup_free) uint8_t *body = calloc(1, 3 * MIB);

	cr_assert_not_null(body);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct spool_payload *p = NULL;

		cr_assert_eq(spool_payload_begin(bed.spool, &p), 0);
		cr_assert_eq(spool_payload_write(p, body, sizes[i]), 0);
		cr_assert_null(spool_payload_abort(p));
	}
	cr_assert_null(spool_payload_abort(NULL));
	cr_expect_eq(bed_count_large_files(), 0);
	bed_reopen();
	cr_expect_eq(bed.recovery.recovered + bed.recovery.discarded, 0);
	for (int i = 0; i < REPORT_STATE_COUNT; i++)
		cr_expect_eq(bed_count_in((enum report_state)i), 0);
}

Test(spool, commits_of_many_threads_are_all_there)
{
	bed_close();
	cr_expect_eq(kit_run_load(bed.dir, UINT64_C(1) << 30, 8, 100, bed.errbuf), 0,
	    "%s", bed.errbuf);
	bed_open();
}

/* Claiming */

Test(spool, claims_come_from_the_end_asked_for_and_no_more_than_asked_for)
{
	struct report *reports[64];
	int64_t lane;

	for (uint64_t i = 0; i < 10; i++)
		(void)bed_accept(BED_TOKEN, i, 50);
	lane = bed_only_lane();
	cr_expect_eq(bed_claim(lane, false, 0, reports), 0);
	cr_assert_eq(bed_claim(lane, false, 3, reports), 3);
	for (uint64_t i = 0; i < 3; i++)
		cr_expect_eq(bed_number(reports[i]), i);
	for (int i = 0; i < 3; i++)
		report_free(reports[i]);
	cr_assert_eq(bed_claim(lane, true, 2, reports), 2);
	cr_expect_eq(bed_number(reports[0]), 9);
	cr_expect_eq(bed_number(reports[1]), 8);
	report_free(reports[0]);
	report_free(reports[1]);
	bed_expect_claimed(lane, (uint64_t[]){ 3, 4, 5, 6, 7 }, 5);
	cr_expect_eq(bed_claim(lane, false, 64, reports), 0);
	cr_expect_eq(bed_claim(lane, true, 64, reports), 0);
	cr_expect_eq(bed_claim(lane + 1, false, 64, reports), 0);
}

Test(spool, more_than_one_claim_may_take_at_once_are_all_had_by_asking_again)
{
	struct report *reports[200];
	static atomic_int calls;
	unsigned n = 0;
	int got;

	for (uint64_t i = 0; i < 150; i++)
		cr_assert_eq(
		    kit_commit(bed.spool, BED_TOKEN, i, 10, count_call, &calls), 0);
	bed_reopen();
	while ((got = bed_claim(bed_newest_lane(), false, ARRAY_LEN(reports), reports)) >
	       0) {
		for (int i = 0; i < got; i++) {
			cr_expect_eq(bed_number(reports[i]), n++);
			report_free(reports[i]);
		}
		if (n == 150)
			break;
	}
	cr_expect_eq(n, 150);
}

Test(spool, a_report_put_back_keeps_its_place)
{
	struct report *reports[2];

	for (uint64_t i = 0; i < 4; i++)
		(void)bed_accept(BED_TOKEN, i, 50);
	cr_assert_eq(bed_claim(bed_only_lane(), false, 2, reports), 2);
	for (int i = 1; i >= 0; i--) {
		bed_settle(reports[i]->seq, REPORT_QUEUED);
		report_free(reports[i]);
	}
	/* Settlements handed over come before any later claim. */
	bed_expect_claimed(bed_only_lane(), (uint64_t[]){ 0, 1, 2, 3 }, 4);
}

Test(spool, destinations_are_listed_and_claimed_each_by_itself)
{
	struct spool_lane lanes[8];
	int64_t first;
	int64_t second;

	(void)bed_accept("a", 0, 50);
	(void)bed_accept("b", 1, 50);
	(void)bed_accept("a", 2, 50);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(spool_list_lanes(bed.spool, 0, lanes, 8), 2);
		first = lanes[0].id;
		second = lanes[1].id;
		cr_expect_eq(lanes[0].queued, 2);
		cr_expect_eq(lanes[1].queued, 1);
		cr_expect_lt(first, second);
		bed_reopen();
	}
	/* In pages. */
	cr_expect_eq(spool_list_lanes(bed.spool, 0, lanes, 1), 1);
	cr_expect_eq(lanes[0].id, first);
	cr_expect_eq(spool_list_lanes(bed.spool, first, lanes, 1), 1);
	cr_expect_eq(lanes[0].id, second);
	cr_expect_eq(spool_list_lanes(bed.spool, second, lanes, 1), 0);

	bed_expect_claimed(second, (uint64_t[]){ 1 }, 1);
	cr_expect_eq(spool_list_lanes(bed.spool, 0, lanes, 8), 1);
	bed_expect_claimed(first, (uint64_t[]){ 0, 2 }, 2);
	cr_expect_eq(spool_list_lanes(bed.spool, 0, lanes, 8), 0);
}

Test(spool, universe_and_token_together_make_a_destination)
{
	static const char *const names[][2] = { { "u", "t" }, { "u", "T" }, { "v", "t" },
		{ "", "ut" }, { "ut", "" }, { "u", "t" } };
	struct spool_lane lanes[8];
	atomic_int calls = 0;

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct spool_draft draft = { .universe = names[i][0],
			.token = names[i][1],
			.format = "json",
			.target = "/" };

		commit_draft(&draft, count_call, &calls, 1);
	}
	bed_reopen();
	cr_expect_eq(spool_list_lanes(bed.spool, 0, lanes, 8), 5);
}

/* When the queue has something for the forwarder */

static atomic_int due_calls;

static void count_due(void *cls)
{
	struct spool_lane lanes[4];
	struct spool_stats stats;

	(void)cls;
	/* No lock is held: looking is allowed. */
	if (bed.spool) {
		spool_get_stats(bed.spool, &stats);
		(void)spool_list_lanes(bed.spool, 0, lanes, 4);
	}
	atomic_fetch_add(&due_calls, 1);
}

Test(spool, the_forwarder_is_told_when_something_is_due)
{
	struct spool_options options = {
		.directory = bed.dir, .limits = kit_limits(), .on_due = count_due
	};
	struct report *r;
	int before;

	bed_close();
	cr_assert_eq(spool_open(&options, &bed.spool, &bed.recovery, bed.errbuf,
			 sizeof(bed.errbuf)),
	    0);
	(void)bed_accept(BED_TOKEN, 1, 50);
	cr_assert_eq(bed_claim(bed_only_lane(), false, 1, &r), 1);
	cr_expect_eq(due_calls, 1, "after the verdict at the latest with the claim");
	bed_settle(r->seq, REPORT_QUEUED);
	report_free(r);
	bed_wait();
	bed_wait();
	cr_expect_eq(due_calls, 2);
	cr_assert_eq(bed_claim(bed_only_lane(), false, 1, &r), 1);
	before = due_calls;
	bed_settle(r->seq, REPORT_SENT);
	report_free(r);
	bed_wait();
	bed_wait();
	cr_expect_eq(due_calls, before);
}

/* Looking */

Test(spool, figures_follow_the_reports)
{
	struct spool_stats stats;
	struct report *r;

	spool_get_stats(bed.spool, &stats);
	cr_expect_eq(stats.limit_bytes, kit_limits().max_bytes);
	cr_expect_eq(stats.store_error, 0);
	cr_expect_eq(stats.payload_bytes, 0);
	(void)bed_accept("a", 1, 1000);
	(void)bed_accept("a", 2, 2 * MIB);
	(void)bed_accept("b", 3, 300);
	cr_assert_eq(bed_claim(bed_newest_lane(), false, 1, &r), 1);
	bed_settle(r->seq, REPORT_HELD);
	report_free(r);
	bed_wait();
	for (int i = 0; i < 2; i++) {
		spool_get_stats(bed.spool, &stats);
		cr_expect_eq(stats.reports[REPORT_QUEUED], 2);
		cr_expect_eq(stats.reports[REPORT_HELD], 1);
		cr_expect_eq(stats.payload_bytes, 1000 + 2 * MIB + 300);
		cr_expect_geq(stats.disk_bytes, stats.payload_bytes);
		bed_reopen();
	}
}

Test(spool, the_time_of_the_oldest_queued_report_is_known)
{
	struct spool_stats stats;
	struct report *r;

	spool_get_stats(bed.spool, &stats);
	cr_expect_eq(stats.oldest_queued_at_ms, 0);
	for (uint64_t i = 3; i < 6; i++)
		(void)bed_accept("a", i, 10);
	(void)bed_accept("b", 1, 10);
	(void)bed_accept("c", 9, 10);
	spool_get_stats(bed.spool, &stats);
	cr_expect_eq(stats.oldest_queued_at_ms, kit_time_of(1));
	cr_assert_eq(bed_claim(2, false, 1, &r), 1);
	cr_assert_eq(bed_number(r), 1);
	report_free(r);
	spool_get_stats(bed.spool, &stats);
	cr_expect_eq(stats.oldest_queued_at_ms, kit_time_of(3));
	bed_reopen(); /* what was being sent is queued again */
	spool_get_stats(bed.spool, &stats);
	cr_expect_eq(stats.oldest_queued_at_ms, kit_time_of(1));
}

/* One spool, one daemon */

static int open_again(void)
{
	struct spool *second = NULL;
	struct spool_recovery r;
	int e;

	bed.errbuf[0] = '\0';
	e = kit_open(bed.dir, &second, &r, bed.errbuf);
	spool_close(second);
	return e;
}

Test(spool, a_spool_in_use_is_refused_with_its_path)
{
	cr_expect_eq(open_again(), -EBUSY);
	cr_expect_not_null(strstr(bed.errbuf, bed.dir), "%s", bed.errbuf);
	/* The first one goes on undisturbed. */
	(void)bed_accept(BED_TOKEN, 1, 50);
	bed_expect_claimed(bed_only_lane(), (uint64_t[]){ 1 }, 1);
	bed_close();
	cr_expect_eq(open_again(), 0);
	bed_open();
}

Test(spool, a_spool_in_use_is_refused_to_another_process)
{
	pid_t child = fork();
	int status;

	cr_assert_geq(child, 0);
	if (child == 0)
		_exit(open_again() == -EBUSY && strstr(bed.errbuf, bed.dir) ? 0 : 1);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	(void)bed_accept(BED_TOKEN, 1, 50);
}

/* A body still being received by the daemon that runs is not rubbish of an earlier one. */
Test(spool, being_refused_touches_nothing_of_the_spool_in_use)
{
	CLEANUP(cleanup_free) uint8_t *body = malloc(3 * MIB);
	struct spool_draft draft = { .received_at_ms = kit_time_of(1),
		.universe = "u",
		.token = BED_TOKEN,
		.format = "minidump",
		.target = "/" };
	struct spool_payload *p = NULL;
	int error = 1;

	cr_assert_not_null(body);
	bytes_fill(body, 3 * MIB, 1);
	cr_assert_eq(spool_payload_begin(bed.spool, &p), 0);
	cr_assert_eq(spool_payload_write(p, body, 3 * MIB), 0);
	cr_expect_eq(open_again(), -EBUSY);
	spool_commit(bed.spool, p, &draft, keep_error, &error);
	bed_reopen();
	cr_expect_eq(error, 0);
	cr_expect_eq(bed_count_in(REPORT_QUEUED), 1);
}

Test(spool, a_folder_that_cannot_be_one_is_named)
{
	CLEANUP(cleanup_free) char *file = tempdir_join(bed.dir, "file");
	CLEANUP(cleanup_free) char *below = tempdir_join(bed.dir, "file/spool");
	struct spool *s = NULL;
	struct spool_recovery r;

	tempdir_write(bed.dir, "file", "");
	bed.errbuf[0] = '\0';
	cr_expect_lt(kit_open(file, &s, &r, bed.errbuf), 0);
	cr_expect_not_null(strstr(bed.errbuf, file), "%s", bed.errbuf);
	bed.errbuf[0] = '\0';
	cr_expect_lt(kit_open(below, &s, &r, bed.errbuf), 0);
	cr_expect_not_null(strstr(bed.errbuf, below), "%s", bed.errbuf);
	cr_expect_null(s);
}

Test(spool, the_folder_is_made_for_its_owner_only)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(bed.dir, "a/b");
	struct spool *s = NULL;
	struct spool_recovery r;
	struct stat st;

	cr_assert_eq(kit_open(path, &s, &r, bed.errbuf), 0, "%s", bed.errbuf);
	spool_close(s);
	cr_assert_eq(stat(path, &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0700);
}
