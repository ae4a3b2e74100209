/* SPDX-License-Identifier: MIT */
/* What a start makes of what it finds without its index, or with damage anywhere: what can
 * be read goes on, what cannot is put aside. */
#include "spool.h"

#include "bytes.h"
#include "spool_bed.h"
#include "spool_kit.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <string.h>

#define KIB 1024u
#define MIB (1024u * KIB)

TestSuite(spool_recover, .init = bed_set_up, .fini = bed_tear_down, .timeout = 20);

/* Without the index */

/* Six reports: small, large; two of each kind left queued, one of each sent. */
static void fill_and_send_some(void)
{
	struct report *reports[2];

	bed_accept_many(0, 1, 1000);
	bed_accept_many(1, 1, 2 * MIB);
	bed_accept_many(2, 2, 1000);
	bed_accept_many(4, 2, 2 * MIB);
	cr_assert_eq(spool_claim(bed.spool, bed_only_lane(), false, 2, reports), 2);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(kit_settle(bed.spool, reports[i]->seq, REPORT_SENT), 0);
		report_free(reports[i]);
	}
}

/* All that was not sent is there; a small one that was sent may be, for its bytes are. */
static void expect_rebuilt(struct bed_claimed *c)
{
	cr_expect(bed.recovery.rebuilt);
	bed_claim_all(c);
	cr_expect_eq(bed.recovery.recovered, c->total);
	for (uint64_t i = 2; i < 6; i++)
		cr_expect_eq(c->count[i], 1, "report %" PRIu64, i);
	cr_expect_eq(c->count[1], 0, "its file was removed");
	cr_expect_leq(c->count[0], 1);
	cr_expect_eq(c->ambiguous, c->total, "nobody knows which went out already");
}

Test(spool_recover, a_missing_index_is_made_anew_from_the_records)
{
	static struct bed_claimed c;

	bed_open();
	fill_and_send_some();
	bed_close();
	bed_remove_index();
	bed_open();
	expect_rebuilt(&c);
	/* And new reports come after the old ones. */
	bed_accept_many(50, 1, 100);
	cr_assert_eq(kit_settle(bed.spool, c.seq[5], REPORT_QUEUED), 0);
	bed_close();
	cr_expect_gt(
	    kit_sql(bed.dir, "SELECT reason LIKE '%rebuilt%' FROM report WHERE seq ="
			     " (SELECT min(seq) FROM report)"),
	    0, "and the row says so");
	bed_open();
	cr_expect_not(bed.recovery.rebuilt, "once is enough");
	bed_claim_all(&c);
	cr_expect_eq(c.count[50], 1);
	cr_expect_gt(c.seq[50], c.seq[5]);
}

Test(spool_recover, a_fresh_spool_is_not_taken_for_a_lost_index)
{
	bed_open();
	cr_expect_not(bed.recovery.rebuilt);
	cr_expect_eq(
	    bed.recovery.recovered + bed.recovery.damaged + bed.recovery.discarded, 0);
}

Test(spool_recover, a_garbage_index_is_set_aside_and_made_anew)
{
	static struct bed_claimed c;
	CLEANUP(cleanup_free) char *aside = tempdir_join(bed.dir, "spool.db.damaged-1");
	uint8_t *kept;
	size_t len = 0;

	bed_open();
	fill_and_send_some();
	for (int round = 1; round <= 2; round++) {
		bed_close();
		bed_remove_index();
		tempdir_write(bed.dir, "spool.db",
		    round == 1 ? "not a database, for longer"
				 " than its header would be:"
				 " 0123456789 0123456789 "
				 "0123456789 0123456789"
			       : "another garbage");
		bed_open();
		expect_rebuilt(&c);
		bed_accept_many(99 + (uint64_t)round, 1, 10);
	}
	cr_expect(bed_has_file("spool.db.damaged-2"));
	kept = bytes_read_file(aside, &len);
	cr_assert_not_null(kept);
	cr_expect_geq(len, 14);
	cr_expect_eq(memcmp(kept, "not a database", 14), 0, "kept for people to look at");
	free(kept);
}

Test(spool_recover, an_index_cut_short_is_made_anew)
{
	static struct bed_claimed c;
	CLEANUP(cleanup_free) char *path = tempdir_join(bed.dir, "spool.db");
	static const off_t lengths[] = { 0, 50, 4096, 12288 };

	bed_open();
	fill_and_send_some();
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		bed_close();
		cr_assert_eq(truncate(path, lengths[i]), 0);
		bed_open();
		expect_rebuilt(&c);
	}
}

/* The schema of a later version may mean anything. */
Test(spool_recover, an_index_of_a_newer_version_is_refused_and_not_touched)
{
	static struct bed_claimed c;
	CLEANUP(cleanup_free) char *path = tempdir_join(bed.dir, "spool.db");
	CLEANUP(cleanup_free) uint8_t *before = NULL;
	CLEANUP(cleanup_free) uint8_t *after = NULL;
	CLEANUP(cleanup_free) char *files_before = NULL;
	CLEANUP(cleanup_free) char *files_after = NULL;
	size_t len;
	size_t len_after;
	int64_t version;
	char pragma[64];

	bed_open();
	bed_accept_many(0, 3, 1000);
	bed_close();
	version = kit_sql(bed.dir, "PRAGMA user_version");
	cr_assert(kit_sql_change(bed.dir, "PRAGMA user_version = 10000"));
	before = bytes_read_file(path, &len);
	files_before = tempdir_list(bed.dir);
	bed.errbuf[0] = '\0';
	cr_expect_eq(
	    kit_open(bed.dir, &bed.spool, &bed.recovery, bed.errbuf), -EPROTONOSUPPORT);
	cr_expect_not_null(strstr(bed.errbuf, path), "%s", bed.errbuf);
	after = bytes_read_file(path, &len_after);
	files_after = tempdir_list(bed.dir);
	cr_assert(before && after);
	cr_expect_eq(len_after, len);
	cr_expect_eq(memcmp(before, after, len), 0);
	cr_expect_str_eq(files_after, files_before);

	(void)snprintf(pragma, sizeof(pragma), "PRAGMA user_version = %" PRId64, version);
	cr_assert(kit_sql_change(bed.dir, pragma));
	bed_open();
	bed_claim_all(&c);
	bed_expect_exactly(&c, 0, 3);
}

/* The index damaged inside: its first page is whole, so that opening it succeeds. */

#define PAGE 4096u

static unsigned count_pages(void)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(bed.dir, "spool.db");
	size_t len = 0;
	CLEANUP(cleanup_free) uint8_t *file = bytes_read_file(path, &len);

	cr_assert_not_null(file);
	return (unsigned)(len / PAGE);
}

static void damage_page(unsigned page)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(bed.dir, "spool.db");
	uint8_t garbage[PAGE];

	bytes_fill(garbage, sizeof(garbage), 4711);
	cr_assert(bytes_overwrite(path, (uint64_t)page * PAGE, garbage, sizeof(garbage)));
}

/* Whether all could be claimed; an error stands for an index found damaged. */
static bool try_claim_all(unsigned expected)
{
	struct report *reports[64];
	struct spool_lane lanes[4];
	size_t n = spool_list_lanes(bed.spool, 0, lanes, 4);
	unsigned whole = 0;

	for (size_t i = 0; i < n; i++) {
		int got = spool_claim(bed.spool, lanes[i].id, false, 64, reports);

		for (int k = 0; k < got; k++) {
			uint64_t number;

			whole += kit_check(bed.spool, reports[k], &number) == 0;
			report_free(reports[k]);
		}
	}
	return whole >= expected;
}

static bool open_and_claim_all(unsigned expected, unsigned page)
{
	bool sent;

	bed.errbuf[0] = '\0';
	cr_expect_eq(kit_open(bed.dir, &bed.spool, &bed.recovery, bed.errbuf), 0,
	    "page %u: %s", page, bed.errbuf);
	sent = bed.spool && try_claim_all(expected);
	bed_close();
	return sent;
}

/* It may show only when a row is wanted: the next start then mends it. */
Test(
    spool_recover, a_damaged_page_of_the_index_stops_no_start_and_by_the_second_no_report)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(bed.dir, "spool.db");
	CLEANUP(cleanup_free) uint8_t *whole = NULL;
	size_t len = 0;
	unsigned pages;

	bed_open();
	bed_accept_many(0, 5, 1000);
	bed_close();
	whole = bytes_read_file(path, &len);
	cr_assert_not_null(whole);
	pages = count_pages();
	cr_assert_gt(pages, 5);
	for (unsigned page = 1; page < pages; page++) {
		bed_remove_index();
		tempdir_write(bed.dir, "spool.db", "");
		cr_assert(bytes_overwrite(path, 0, whole, len));
		damage_page(page);
		cr_expect(
		    open_and_claim_all(5, page + 1) || open_and_claim_all(5, page + 1),
		    "page %u", page + 1);
	}
}

/* Rows that are well formed and untrue: never a crash, never another's bytes. */
struct alteration {
	char what[40];
	char sql[160];
};

ParameterizedTestParameters(spool_recover, rows_altered_by_hand_harm_nobody_else)
{
	static struct alteration alterations[] = {
		{ "a segment of number 0", "INSERT INTO segment VALUES (0, 5, 5)" },
		{ "a segment that is not there",
		    "INSERT INTO segment VALUES (77, 5, 5)" },
		{ "a segment with fewer records",
		    "UPDATE segment SET records = 1, bytes = 1" },
		{ "a segment with bytes below zero", "UPDATE segment SET bytes = -1" },
		{ "a segment with records below zero",
		    "INSERT INTO segment VALUES (78, -5, -5)" },
		{ "a tally beyond all",
		    "UPDATE tally SET reports = 1 << 60, bytes = 1 << 60" },
		{ "a place that has none after it",
		    "UPDATE report SET seq = 9223372036854775807 WHERE seq = 5" },
		{ "a last place that has none after it",
		    "UPDATE sqlite_sequence SET seq = 9223372036854775807" },
		{ "a lane without its row", "UPDATE report SET lane = 9 WHERE seq = 1" },
		{ "two lanes become one",
		    "PRAGMA writable_schema = 1; DELETE FROM lane" },
		{ "a tally of a state that is none",
		    "INSERT INTO tally VALUES (42, 1, 1)" },
		{ "a tally below zero",
		    "UPDATE tally SET reports = -5, bytes = -5 WHERE state = 1" },
		{ "a state that is none", "UPDATE report SET state = 42 WHERE seq = 1" },
		{ "another offset", "UPDATE report SET offset = 8192 WHERE seq = 1" },
		{ "an offset below zero",
		    "UPDATE report SET offset = -4096 WHERE seq = 1" },
		{ "another segment", "UPDATE report SET segment = 0 WHERE seq = 1" },
		{ "a segment beyond all",
		    "UPDATE report SET segment = 4294967295 WHERE seq = 1" },
		{ "a longer body",
		    "UPDATE report SET body_bytes = 5000000 WHERE seq = 1" },
		{ "a body below zero",
		    "UPDATE report SET body_bytes = -1 WHERE seq = 1" },
		{ "another name", "UPDATE report SET rxid = zeroblob(16) WHERE seq = 1" },
		{ "a short name", "UPDATE report SET rxid = zeroblob(3) WHERE seq = 1" },
		{ "a header of no length",
		    "UPDATE report SET header_bytes = 0 WHERE seq = 1" },
	};

	return cr_make_param_array(
	    struct alteration, alterations, ARRAY_LEN(alterations));
}

ParameterizedTest(
    struct alteration *a, spool_recover, rows_altered_by_hand_harm_nobody_else)
{
	bool sent = false;

	bed_open();
	bed_accept_many(0, 5, 1000);
	bed_close();
	cr_assert(kit_sql_change(bed.dir, a->sql), "%s", a->what);
	/* Four at least: the fifth is the one altered. */
	for (int start = 0; start < 2 && !sent; start++) {
		cr_assert_eq(kit_open(bed.dir, &bed.spool, &bed.recovery, bed.errbuf), 0,
		    "%s: %s", a->what, bed.errbuf);
		sent = try_claim_all(4);
		/* And new ones come in and go out. */
		sent = sent && kit_accept(bed.spool, BED_TOKEN, 100, 1000, NULL) == 0 &&
		       try_claim_all(1);
		bed_close();
	}
	cr_expect(sent, "%s", a->what);
}

/* Damaged records */

static void flip_in_record(int64_t seq, uint64_t at, bool in_body)
{
	char query[128];
	char name[64];
	CLEANUP(cleanup_free) char *path = NULL;
	int64_t segment;
	int64_t offset;

	bed_close();
	(void)snprintf(
	    query, sizeof(query), "SELECT segment FROM report WHERE seq = %" PRId64, seq);
	segment = kit_sql(bed.dir, query);
	(void)snprintf(query, sizeof(query),
	    "SELECT offset + %s FROM report WHERE seq = %" PRId64,
	    in_body ? "header_bytes" : "0", seq);
	offset = kit_sql(bed.dir, query);
	cr_assert(segment >= 0 && offset >= 0);
	if (segment == 0)
		(void)snprintf(
		    name, sizeof(name), "large/%016" PRIx64 ".rec", (uint64_t)seq);
	else
		(void)snprintf(name, sizeof(name), "segments/%08" PRId64, segment);
	path = tempdir_join(bed.dir, name);
	cr_assert(bytes_flip(path, (uint64_t)offset + at));
}

static int64_t state_of(int64_t seq)
{
	char query[128];

	(void)snprintf(
	    query, sizeof(query), "SELECT state FROM report WHERE seq = %" PRId64, seq);
	return kit_sql(bed.dir, query);
}

Test(spool_recover, a_record_with_a_damaged_header_is_put_aside_and_others_go_on)
{
	static struct bed_claimed c;

	bed_open();
	bed_accept_many(0, 3, 1000);
	bed_accept_many(3, 2, 2 * MIB);
	flip_in_record(2, 70, false);
	flip_in_record(5, 70, false);
	bed_open();
	bed_claim_all(&c);
	cr_expect_eq(c.total, 3);
	cr_expect(c.count[0] == 1 && c.count[2] == 1 && c.count[3] == 1);
	bed_close();
	cr_expect_eq(state_of(2), REPORT_DEAD);
	cr_expect_eq(state_of(5), REPORT_DEAD);
	cr_expect_eq(kit_sql(bed.dir, "SELECT count(*) FROM report WHERE state = 5 AND"
				      " (reason LIKE '%damaged%'"
				      " OR reason LIKE '%missing%')"),
	    2);
	bed_open();
	cr_expect_eq(bed.recovery.requeued, 3);
}

/* "0: the lane has nothing queued", says the header. */
Test(spool_recover, a_claim_of_one_gives_the_next_when_the_first_is_damaged)
{
	struct report *r = NULL;
	uint64_t number = 0;

	bed_open();
	bed_accept_many(0, 3, 1000);
	flip_in_record(1, 70, false);
	bed_open();
	cr_assert_eq(spool_claim(bed.spool, bed_only_lane(), false, 1, &r), 1);
	cr_expect_eq(kit_check(bed.spool, r, &number), 0);
	cr_expect_eq(number, 1);
	report_free(r);
}

Test(spool_recover, a_damaged_body_is_never_handed_over_whole)
{
	struct report *reports[2];
	uint64_t number;

	bed_open();
	bed_accept_many(0, 1, 5000);
	bed_accept_many(1, 1, 2 * MIB);
	flip_in_record(1, 4000, true);
	flip_in_record(2, MIB, true);
	bed_open();
	cr_assert_eq(spool_claim(bed.spool, bed_only_lane(), false, 2, reports), 2);
	for (int i = 0; i < 2; i++) {
		cr_expect_eq(kit_check(bed.spool, reports[i], &number), -EBADMSG);
		report_free(reports[i]);
	}
}

Test(spool_recover, a_report_whose_file_is_gone_is_put_aside)
{
	static struct bed_claimed c;

	bed_open();
	bed_accept_many(0, 2, 2 * MIB);
	bed_close();
	bed_remove_file("large/0000000000000001.rec");
	bed_open();
	bed_claim_all(&c);
	bed_expect_exactly(&c, 1, 1);
	bed_close();
	cr_expect_eq(state_of(1), REPORT_DEAD);
	cr_expect_eq(kit_sql(bed.dir, "SELECT count(*) FROM report WHERE state = 5 AND"
				      " reason LIKE '%missing%'"),
	    1);
	bed_open();
}

Test(spool_recover, without_an_index_damaged_records_are_dead_and_their_neighbours_live)
{
	static struct bed_claimed c;

	bed_open();
	bed_accept_many(0, 3, 5000);
	bed_accept_many(3, 2, 2 * MIB);
	flip_in_record(2, 4000, true);
	flip_in_record(4, 4000, true);
	bed_remove_index();
	bed_open();
	cr_expect(bed.recovery.rebuilt);
	cr_expect_eq(bed.recovery.damaged, 2);
	cr_expect_eq(bed.recovery.recovered, 3);
	bed_claim_all(&c);
	cr_expect_eq(c.total, 3);
	cr_expect(c.count[0] == 1 && c.count[2] == 1 && c.count[4] == 1);
	bed_close();
	cr_expect_eq(state_of(2), REPORT_DEAD);
	cr_expect_eq(state_of(4), REPORT_DEAD);
	bed_open();
}

/* A segment lost whole: its reports are, and nobody else's. */
Test(spool_recover, reports_stored_after_a_segment_was_lost_are_safe)
{
	char name[64];
	static struct bed_claimed c;
	struct report *reports[16];
	int n;

	bed_open();
	bed_accept_many(0, 10, 1000);
	bed_close();
	/* Whichever it is: a spare may have been prepared first. */
	(void)snprintf(name, sizeof(name), "segments/%08" PRId64,
	    kit_sql(bed.dir, "SELECT segment FROM report WHERE seq = 1"));
	bed_remove_file(name);
	bed_open();
	bed_accept_many(20, 5, 1000);
	/* The lost ones are found to be so, and dropped by hand. */
	n = spool_claim(bed.spool, bed_only_lane(), false, 16, reports);
	cr_assert_eq(n, 5);
	for (int i = 0; i < n; i++) {
		cr_assert_eq(kit_settle(bed.spool, reports[i]->seq, REPORT_QUEUED), 0);
		report_free(reports[i]);
	}
	for (int64_t seq = 1; seq <= 10; seq++)
		cr_assert_eq(kit_settle(bed.spool, seq, REPORT_DROPPED), 0);
	/* Then comes enough to fill segments and have them used again. */
	for (uint64_t i = 100; i < 150; i++) {
		cr_assert_eq(kit_accept(bed.spool, "other", i, MIB, NULL), 0);
		cr_assert_eq(spool_claim(bed.spool, 2, false, 1, reports), 1);
		cr_assert_eq(kit_settle(bed.spool, reports[0]->seq, REPORT_SENT), 0);
		report_free(reports[0]);
	}
	bed_claim_all(&c);
	bed_expect_exactly(&c, 20, 5);
}

/* Refused once, and then its name in the order of acceptance given to another. */

static atomic_int refuse_commits;

static int refuse_commit(void *cls)
{
	(void)cls;
	return atomic_load(&refuse_commits);
}

static int add_refusing_hook(sqlite3 *db, const char **error, const void *api)
{
	(void)error;
	(void)api;
	(void)sqlite3_commit_hook(db, refuse_commit, NULL);
	return SQLITE_OK;
}

Test(spool_recover, a_refused_report_never_takes_the_place_of_an_accepted_one)
{
	static struct bed_claimed c;

	cr_assert_eq(
	    sqlite3_auto_extension((void (*)(void))add_refusing_hook), SQLITE_OK);
	bed_open();
	bed_accept_many(0, 1, 1000);
	atomic_store(&refuse_commits, 1);
	cr_assert_lt(kit_accept(bed.spool, BED_TOKEN, 1, 1000, NULL), 0);
	atomic_store(&refuse_commits, 0);
	bed_close();
	bed_open();
	bed_accept_many(2, 1, 1000);
	bed_close();
	bed_remove_index();
	bed_open();
	bed_claim_all(&c);
	cr_expect_eq(c.count[0], 1);
	cr_expect_eq(c.count[2], 1, "acknowledged and lost");
}
