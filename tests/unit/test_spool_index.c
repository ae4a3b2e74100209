/* SPDX-License-Identifier: MIT */
/* The rows of the spool by themselves: what is committed comes back, what is asked for is
 * found in its order, and errors leave the rows as they were. */
#include "spool_index.h"

#include "bytes.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sqlite3.h>
#include <string.h>

static char *dir;
static struct spool_index *idx;
static char errbuf[512];

static bool open_index(void)
{
	bool fresh = false;

	cr_assert_eq(
	    spool_index_open(dir, &idx, &fresh, errbuf, sizeof(errbuf)), 0, "%s", errbuf);
	return fresh;
}

static void close_index(void)
{
	idx = spool_index_close(idx);
}

static void set_up(void)
{
	dir = tempdir_new();
	(void)open_index();
}

static void tear_down(void)
{
	close_index();
	dir = tempdir_free(dir);
}

TestSuite(spool_index, .init = set_up, .fini = tear_down, .timeout = 20);

static void begin(void)
{
	cr_assert_eq(spool_index_begin(idx), 0);
}

static void commit(void)
{
	cr_assert_eq(spool_index_commit(idx), 0);
}

static struct spool_row sample(int64_t seq)
{
	struct spool_row row = { .seq = seq,
		.state = REPORT_QUEUED,
		.lane = 1,
		.received_at_ms = 1000 + seq,
		.payload = { .segment = 3,
		    .header_bytes = 200,
		    .offset = 4096 * (uint64_t)seq,
		    .body_bytes = 10 * (uint64_t)seq } };

	memset(row.rxid.bytes, 0x5a, sizeof(row.rxid.bytes));
	memcpy(row.rxid.bytes, &seq, sizeof(seq));
	return row;
}

static int try_insert(const struct spool_row *row)
{
	return spool_index_insert(idx, row, 5000, "minidump", "[::1]:1", NULL);
}

static void insert(int64_t seq, int64_t lane, enum report_state state)
{
	struct spool_row row = sample(seq);

	row.lane = lane;
	row.state = state;
	cr_assert_eq(try_insert(&row), 0);
}

static struct spool_row get(int64_t seq)
{
	struct spool_row row = { 0 };

	cr_assert_eq(spool_index_get(idx, seq, &row), 1);
	return row;
}

static bool exists(int64_t seq)
{
	struct spool_row row;
	int r = spool_index_get(idx, seq, &row);

	cr_assert_geq(r, 0);
	return r == 1;
}

static void move(int64_t seq, enum report_state to, int64_t at_ms)
{
	struct spool_change c = { .to = to, .changed_at_ms = at_ms };

	cr_assert_eq(spool_index_move(idx, seq, &c), 0);
}

static void assert_same(const struct spool_row *a, const struct spool_row *b)
{
	cr_assert_eq(a->seq, b->seq);
	cr_assert_arr_eq(a->rxid.bytes, b->rxid.bytes, 16);
	cr_assert_eq(a->state, b->state);
	cr_assert_eq(a->lane, b->lane);
	cr_assert_eq(a->received_at_ms, b->received_at_ms);
	cr_assert_eq(a->payload.segment, b->payload.segment);
	cr_assert_eq(a->payload.header_bytes, b->payload.header_bytes);
	cr_assert_eq(a->payload.offset, b->payload.offset);
	cr_assert_eq(a->payload.body_bytes, b->payload.body_bytes);
	cr_assert_eq(a->attempts, b->attempts);
	cr_assert_eq(a->ambiguous, b->ambiguous);
}

static void expect_seqs(
    const struct spool_row *rows, int n, const int64_t *expected, int expected_n)
{
	cr_expect_eq(n, expected_n, "%d rows, not %d", n, expected_n);
	for (int i = 0; i < n && i < expected_n; i++)
		cr_expect_eq(rows[i].seq, expected[i], "row %d", i);
}

#define EXPECT_SEQS(rows, n, ...)                                                        \
	expect_seqs(rows, n, (const int64_t[]){ __VA_ARGS__ },                           \
	    (int)ARRAY_LEN(((const int64_t[]){ __VA_ARGS__ })))

Test(spool_index, a_row_comes_back_as_it_was_inserted)
{
	struct spool_row row = sample(7);
	struct spool_row back;

	row.payload = (struct payload_ref){ .segment = 12345678,
		.header_bytes = 65536,
		.offset = UINT64_C(1) << 61,
		.body_bytes = UINT64_C(1) << 61 };
	row.received_at_ms = -1;
	row.attempts = 4000000;
	row.ambiguous = true;
	row.state = REPORT_DEAD;
	begin();
	cr_assert_eq(try_insert(&row), 0);
	commit();
	close_index();
	cr_assert_not(open_index(), "made before");
	back = get(7);
	assert_same(&back, &row);
	cr_assert_not(exists(6));
	cr_assert_not(exists(8));
}

Test(spool_index, only_the_first_opening_is_fresh)
{
	close_index();
	cr_expect_not(open_index());
}

Test(spool_index, what_is_rolled_back_never_was)
{
	begin();
	insert(1, 1, REPORT_QUEUED);
	commit();
	begin();
	insert(2, 1, REPORT_QUEUED);
	move(1, REPORT_SENDING, 1);
	spool_index_rollback(idx);
	spool_index_rollback(idx); /* again is no harm */
	cr_expect_not(exists(2));
	cr_expect_eq(get(1).state, REPORT_QUEUED);
	begin();
	insert(2, 1, REPORT_QUEUED);
	/* Not committed: as at a kill. */
	close_index();
	(void)open_index();
	cr_expect_not(exists(2));
	cr_expect(exists(1));
}

Test(spool_index, a_name_taken_is_refused_and_the_transaction_goes_on)
{
	struct spool_row same_name = sample(2);
	struct spool_row same_seq = sample(1);

	begin();
	insert(1, 1, REPORT_QUEUED);
	same_name.rxid = sample(1).rxid;
	cr_expect_eq(try_insert(&same_name), -EEXIST);
	same_seq.rxid = sample(99).rxid;
	cr_expect_eq(try_insert(&same_seq), -EEXIST);
	insert(3, 1, REPORT_QUEUED);
	commit();
	cr_expect(exists(1));
	cr_expect_not(exists(2));
	cr_expect(exists(3));
	cr_expect_arr_eq(get(1).rxid.bytes, sample(1).rxid.bytes, 16);
}

Test(spool_index, a_move_changes_what_it_says_and_keeps_the_rest)
{
	struct spool_change c = { .to = REPORT_HELD,
		.changed_at_ms = 6000,
		.ambiguous = true,
		.count_attempt = true,
		.http_status = 503,
		.reason = "why" };
	struct spool_row expected = sample(1);
	struct spool_row row;

	insert(1, 1, REPORT_QUEUED);
	insert(2, 1, REPORT_QUEUED);
	cr_assert_eq(spool_index_move(idx, 1, &c), 0);
	row = get(1);
	expected.state = REPORT_HELD;
	expected.attempts = 1;
	expected.ambiguous = true;
	assert_same(&row, &expected);
	/* Doubt stays, attempts add up. */
	c = (struct spool_change){ .to = REPORT_QUEUED, .count_attempt = true };
	cr_assert_eq(spool_index_move(idx, 1, &c), 0);
	row = get(1);
	expected.state = REPORT_QUEUED;
	expected.attempts = 2;
	assert_same(&row, &expected);
	expected = sample(2);
	row = get(2);
	assert_same(&row, &expected);
}

Test(spool_index, reports_of_a_lane_come_in_order_from_either_end)
{
	struct spool_row rows[8];

	for (int64_t seq = 8; seq >= 1; seq--)
		insert(seq, seq % 2 ? 1 : 2, REPORT_QUEUED);
	move(3, REPORT_SENDING, 1);
	move(4, REPORT_HELD, 1);
	move(5, REPORT_SENT, 1);
	EXPECT_SEQS(
	    rows, spool_index_list_lane(idx, 1, REPORT_QUEUED, false, 8, rows), 1, 7);
	EXPECT_SEQS(
	    rows, spool_index_list_lane(idx, 2, REPORT_QUEUED, true, 8, rows), 8, 6, 2);
	EXPECT_SEQS(
	    rows, spool_index_list_lane(idx, 2, REPORT_QUEUED, true, 2, rows), 8, 6);
	EXPECT_SEQS(
	    rows, spool_index_list_lane(idx, 2, REPORT_QUEUED, false, 1, rows), 2);
	EXPECT_SEQS(
	    rows, spool_index_list_lane(idx, 1, REPORT_SENDING, false, 8, rows), 3);
	EXPECT_SEQS(rows, spool_index_list_lane(idx, 2, REPORT_HELD, false, 8, rows), 4);
	cr_expect_eq(spool_index_list_lane(idx, 1, REPORT_QUEUED, false, 0, rows), 0);
	cr_expect_eq(spool_index_list_lane(idx, 3, REPORT_QUEUED, false, 8, rows), 0);
}

Test(spool_index, what_waits_is_listed_oldest_first_from_a_place_on)
{
	struct spool_row rows[8];

	for (int64_t seq = 1; seq <= 7; seq++)
		insert(seq, seq, REPORT_QUEUED);
	move(2, REPORT_SENDING, 1);
	move(3, REPORT_HELD, 1);
	move(4, REPORT_DEAD, 1);
	move(5, REPORT_SENT, 1);
	EXPECT_SEQS(rows, spool_index_list_waiting(idx, 0, 8, rows), 1, 3, 6, 7);
	EXPECT_SEQS(rows, spool_index_list_waiting(idx, 3, 2, rows), 3, 6);
	EXPECT_SEQS(rows, spool_index_list_waiting(idx, 4, 8, rows), 6, 7);
	cr_expect_eq(spool_index_list_waiting(idx, 8, 8, rows), 0);
}

Test(spool_index, what_has_ended_is_listed_by_the_time_it_did)
{
	struct spool_row rows[8];

	for (int64_t seq = 1; seq <= 6; seq++)
		insert(seq, 1, REPORT_QUEUED);
	move(1, REPORT_SENT, 300);
	move(2, REPORT_SENT, 100);
	move(3, REPORT_SENT, 200);
	move(4, REPORT_DEAD, 50);
	move(5, REPORT_DROPPED, 60);
	EXPECT_SEQS(
	    rows, spool_index_list_ended(idx, REPORT_SENT, INT64_MAX, 8, rows), 2, 3, 1);
	EXPECT_SEQS(rows, spool_index_list_ended(idx, REPORT_SENT, 200, 8, rows), 2);
	EXPECT_SEQS(rows, spool_index_list_ended(idx, REPORT_SENT, 201, 8, rows), 2, 3);
	EXPECT_SEQS(rows, spool_index_list_ended(idx, REPORT_SENT, 301, 1, rows), 2);
	EXPECT_SEQS(rows, spool_index_list_ended(idx, REPORT_DEAD, 1000, 8, rows), 4);
	EXPECT_SEQS(rows, spool_index_list_ended(idx, REPORT_DROPPED, 1000, 8, rows), 5);
	cr_expect_eq(spool_index_list_ended(idx, REPORT_EVICTED, 1000, 8, rows), 0);
}

Test(spool_index, the_oldest_queued_time_is_that_of_the_lane)
{
	int64_t at_ms = 7;

	cr_assert_eq(spool_index_oldest_queued(idx, 1, &at_ms), 0);
	cr_expect_eq(at_ms, 0);
	insert(1, 1, REPORT_QUEUED);
	insert(2, 2, REPORT_QUEUED);
	insert(3, 1, REPORT_QUEUED);
	move(1, REPORT_HELD, 1);
	cr_assert_eq(spool_index_oldest_queued(idx, 1, &at_ms), 0);
	cr_expect_eq(at_ms, 1003);
	cr_assert_eq(spool_index_oldest_queued(idx, 2, &at_ms), 0);
	cr_expect_eq(at_ms, 1002);
}

Test(spool_index, all_that_was_being_sent_is_queued_again_and_in_doubt)
{
	uint64_t count = 0;

	cr_assert_eq(spool_index_put_lane(idx, 1, "u", "a"), 0);
	cr_assert_eq(spool_index_put_lane(idx, 2, "u", "b"), 0);
	for (int64_t seq = 1; seq <= 6; seq++)
		insert(seq, 1 + seq % 2, REPORT_QUEUED);
	move(1, REPORT_SENDING, 1);
	move(2, REPORT_SENDING, 1);
	move(3, REPORT_HELD, 1);
	move(4, REPORT_SENT, 1);
	cr_assert_eq(spool_index_requeue_sending(idx, &count), 0);
	cr_expect_eq(count, 2);
	for (int64_t seq = 1; seq <= 6; seq++) {
		static const enum report_state states[] = { REPORT_NEW, REPORT_QUEUED,
			REPORT_QUEUED, REPORT_HELD, REPORT_SENT, REPORT_QUEUED,
			REPORT_QUEUED };

		cr_expect_eq(get(seq).state, states[seq]);
		cr_expect_eq(get(seq).ambiguous, seq <= 2);
	}
	cr_assert_eq(spool_index_requeue_sending(idx, &count), 0);
	cr_expect_eq(count, 0);
}

/* Else a record of a report that is long over would be taken for one never acknowledged.
 */
Test(spool_index, the_highest_place_given_is_known_after_its_row_is_gone)
{
	int64_t seq = -1;

	cr_assert_eq(spool_index_last_seq(idx, &seq), 0);
	cr_expect_eq(seq, 0);
	insert(5, 1, REPORT_QUEUED);
	insert(9, 1, REPORT_QUEUED);
	insert(7, 1, REPORT_QUEUED);
	cr_assert_eq(spool_index_delete(idx, 9), 0);
	cr_expect_not(exists(9));
	cr_expect(exists(7));
	close_index();
	(void)open_index();
	cr_assert_eq(spool_index_last_seq(idx, &seq), 0);
	cr_expect_eq(seq, 9);
}

/* What a start loads */

struct loaded {
	int lanes, queued, tallies, segments;
	int64_t queued_of[4];
	uint64_t reports[REPORT_STATE_COUNT], bytes[REPORT_STATE_COUNT];
	uint64_t segment_records, segment_bytes;
	int answer;
};

static int load_lane(void *cls, int64_t id, const char *universe, const char *token)
{
	struct loaded *l = cls;

	l->lanes++;
	cr_assert_eq(id, l->lanes);
	cr_assert_str_eq(universe, id == 1 ? "" : "u");
	cr_assert_str_eq(token, id == 1 ? "a" : "b");
	return l->answer;
}

static int load_queued(void *cls, int64_t id, uint64_t queued)
{
	struct loaded *l = cls;

	l->queued++;
	cr_assert(id >= 1 && id <= 2);
	l->queued_of[id] = (int64_t)queued;
	return 0;
}

static int load_tally(
    void *cls, enum report_state state, uint64_t reports, uint64_t bytes)
{
	struct loaded *l = cls;

	l->tallies++;
	l->reports[state] = reports;
	l->bytes[state] = bytes;
	return 0;
}

static int load_segment(void *cls, uint32_t number, uint64_t records, uint64_t bytes)
{
	struct loaded *l = cls;

	l->segments++;
	cr_assert_eq(number, 4);
	l->segment_records = records;
	l->segment_bytes = bytes;
	return 0;
}

static int load(struct loaded *l)
{
	struct spool_index_visitor v = { load_lane, load_queued, load_tally, load_segment,
		l };

	return spool_index_load(idx, &v);
}

Test(spool_index, sums_are_loaded_as_they_were_put_last)
{
	struct loaded l = { 0 };

	cr_assert_eq(spool_index_put_lane(idx, 1, "", "a"), 0);
	cr_assert_eq(spool_index_put_lane(idx, 2, "u", "b"), 0);
	cr_assert_eq(spool_index_put_lane(idx, 3, "u", "b"), -EEXIST);
	cr_assert_eq(spool_index_put_tally(idx, REPORT_QUEUED, 1, 2), 0);
	cr_assert_eq(spool_index_put_tally(idx, REPORT_QUEUED, 3, 4), 0);
	cr_assert_eq(spool_index_put_tally(idx, REPORT_EVICTED, 5, UINT32_MAX), 0);
	cr_assert_eq(spool_index_put_segment(idx, 4, 9, 9), 0);
	cr_assert_eq(spool_index_put_segment(idx, 4, 2, 8192), 0);
	cr_assert_eq(spool_index_put_segment(idx, 5, 0, 0), 0);
	insert(1, 2, REPORT_QUEUED);
	insert(2, 2, REPORT_QUEUED);
	insert(3, 2, REPORT_SENDING);
	insert(4, 1, REPORT_HELD);
	cr_assert_eq(load(&l), 0);
	cr_expect_eq(l.lanes, 2);
	cr_expect_eq(l.queued, 1);
	cr_expect_eq(l.queued_of[2], 2);
	cr_expect_eq(l.tallies, 2);
	cr_expect_eq(l.reports[REPORT_QUEUED], 3);
	cr_expect_eq(l.bytes[REPORT_QUEUED], 4);
	cr_expect_eq(l.reports[REPORT_EVICTED], 5);
	cr_expect_eq(l.bytes[REPORT_EVICTED], UINT32_MAX);
	cr_expect_eq(l.segments, 1);
	cr_expect_eq(l.segment_records, 2);
	cr_expect_eq(l.segment_bytes, 8192);
	/* And ends with the first that cannot take it. */
	l = (struct loaded){ .answer = -ENOMEM };
	cr_expect_eq(load(&l), -ENOMEM);
	cr_expect_eq(l.lanes, 1);
	cr_expect_eq(l.tallies, 0);
}

static void count_payload(void *cls, const struct payload_ref *ref)
{
	cr_assert_eq(ref->segment, 3);
	cr_assert_eq(ref->header_bytes, 200);
	cr_assert_eq(ref->offset % 4096, 0);
	cr_assert_eq(ref->body_bytes * 4096, ref->offset * 10);
	((bool *)cls)[ref->offset / 4096] = true;
}

/* What this misses is punched out of its segment. */
Test(spool_index, every_payload_still_needed_in_a_segment_is_visited)
{
	bool seen[10] = { false };
	struct spool_row large = sample(8);

	for (int64_t seq = 1; seq < REPORT_STATE_COUNT; seq++)
		insert(seq, 1, (enum report_state)seq);
	large.payload.segment = 0;
	cr_assert_eq(try_insert(&large), 0);
	cr_assert_eq(spool_index_each_payload(idx, count_payload, seen), 0);
	for (int seq = 1; seq < REPORT_STATE_COUNT; seq++)
		cr_expect_eq(seen[seq], report_state_has_payload((enum report_state)seq),
		    "%s", report_state_name((enum report_state)seq));
	cr_expect_not(seen[8]);
}

Test(spool_index, notes_are_zero_until_put_and_then_remembered)
{
	static const enum spool_note notes[] = { SPOOL_NOTE_CLEAN, SPOOL_NOTE_LAST_SEQ,
		SPOOL_NOTE_ACTIVATION };
	int64_t value = -1;

	for (size_t i = 0; i < ARRAY_LEN(notes); i++) {
		cr_assert_eq(spool_index_get_note(idx, notes[i], &value), 0);
		cr_expect_eq(value, 0);
		cr_assert_eq(spool_index_put_note(idx, notes[i], 1), 0);
		cr_assert_eq(
		    spool_index_put_note(idx, notes[i], INT64_MAX - (int64_t)i), 0);
	}
	close_index();
	(void)open_index();
	for (size_t i = 0; i < ARRAY_LEN(notes); i++) {
		cr_assert_eq(spool_index_get_note(idx, notes[i], &value), 0);
		cr_expect_eq(value, INT64_MAX - (int64_t)i);
	}
}

Test(spool_index, used_bytes_follow_the_rows_both_ways)
{
	uint64_t empty = 0;
	uint64_t filled = 0;
	uint64_t emptied = 0;

	cr_assert_eq(spool_index_used_bytes(idx, &empty), 0);
	begin();
	for (int64_t seq = 1; seq <= 2000; seq++)
		insert(seq, 1, REPORT_QUEUED);
	commit();
	cr_assert_eq(spool_index_used_bytes(idx, &filled), 0);
	begin();
	for (int64_t seq = 1; seq <= 2000; seq++)
		cr_assert_eq(spool_index_delete(idx, seq), 0);
	commit();
	cr_assert_eq(spool_index_used_bytes(idx, &emptied), 0);
	cr_expect_gt(filled, empty + 100000);
	cr_expect_lt(emptied, empty + 20000);
}

/* Errors */

Test(spool_index, a_whole_index_is_found_whole_and_a_damaged_one_is_not)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, SPOOL_INDEX_NAME);
	CLEANUP(cleanup_free) uint8_t *garbage = malloc(4096);

	cr_assert_not_null(garbage);
	bytes_fill(garbage, 4096, 1);
	begin();
	for (int64_t seq = 1; seq <= 500; seq++)
		insert(seq, 1, REPORT_QUEUED);
	commit();
	cr_expect_eq(spool_index_check(idx), 0);
	close_index();
	cr_assert(bytes_overwrite(path, 4096, garbage, 4096));
	(void)open_index();
	cr_expect_eq(spool_index_check(idx), -EBADMSG);
}

Test(spool_index, an_index_that_cannot_be_opened_is_named)
{
	struct spool_index *second = NULL;
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, SPOOL_INDEX_NAME);
	CLEANUP(cleanup_free) char *nowhere = tempdir_join(dir, "nowhere");
	bool fresh = true;

	cr_expect_eq(
	    spool_index_open(nowhere, &second, &fresh, errbuf, sizeof(errbuf)), -EACCES);
	cr_expect_not_null(strstr(errbuf, nowhere), "%s", errbuf);
	close_index();
	tempdir_write(dir, SPOOL_INDEX_NAME,
	    "no database, and long enough to show it: "
	    "0123456789012345678901234567890123456789"
	    "0123456789012345678901234567890123456789");
	cr_expect_eq(
	    spool_index_open(dir, &second, &fresh, errbuf, sizeof(errbuf)), -EBADMSG);
	cr_expect_not_null(strstr(errbuf, path), "%s", errbuf);
	cr_expect_null(second);
	cr_expect(fresh, "not written after a failure");
}

static void set_version(int version)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, SPOOL_INDEX_NAME);
	sqlite3 *db = NULL;
	char pragma[64];

	(void)snprintf(pragma, sizeof(pragma), "PRAGMA user_version = %d", version);
	cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_exec(db, pragma, NULL, NULL, NULL), SQLITE_OK);
	cr_assert_eq(sqlite3_close(db), SQLITE_OK);
}

Test(spool_index, versions_this_program_cannot_know_are_refused)
{
	static const int versions[] = { 1000, 2147483647, -1 };

	for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
		struct spool_index *newer = NULL;
		bool fresh;

		close_index();
		set_version(versions[i]);
		cr_expect_eq(
		    spool_index_open(dir, &newer, &fresh, errbuf, sizeof(errbuf)),
		    -EPROTONOSUPPORT, "version %d", versions[i]);
		cr_expect_null(newer);
	}
}

/* A connection of SQLite's whose file may not grow stands for a full disk. */
static int limit_pages(sqlite3 *db, const char **error, const void *api)
{
	(void)error;
	(void)api;
	return sqlite3_exec(db, "PRAGMA max_page_count = 40", NULL, NULL, NULL);
}

Test(spool_index, a_full_disk_is_told_and_room_can_be_made)
{
	int64_t seq = 1;
	int r = 0;

	close_index();
	cr_assert_eq(sqlite3_auto_extension((void (*)(void))limit_pages), SQLITE_OK);
	(void)open_index();
	while (r == 0 && seq < 10000) {
		struct spool_row row = sample(seq);

		begin();
		r = try_insert(&row);
		if (r == 0)
			r = spool_index_commit(idx);
		if (r < 0)
			spool_index_rollback(idx);
		else
			seq++;
	}
	cr_assert_eq(r, -ENOSPC);
	cr_assert_gt(seq, 10);
	cr_expect_not(exists(seq));
	cr_expect(exists(seq - 1));
	/* What is there can be moved and deleted. */
	begin();
	move(1, REPORT_SENT, 1);
	for (int64_t i = 1; i < seq / 2; i++)
		cr_assert_eq(spool_index_delete(idx, i), 0);
	commit();
	begin();
	insert(seq, 1, REPORT_QUEUED);
	commit();
	cr_expect(exists(seq));
	cr_expect_eq(spool_index_check(idx), 0);
}
