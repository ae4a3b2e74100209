/* SPDX-License-Identifier: MIT */
/* Owns the one spool under test. */
#include "spool_bed.h"

#include "log.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct spool_bed bed;

static void swallow(void *cls, enum log_level level, const char *line, size_t len)
{
	(void)cls;
	(void)level;
	(void)line;
	(void)len;
}

void bed_open_with(const struct spool_limits *limits)
{
	struct spool_options options = { .directory = bed.dir, .limits = *limits };

	bed_close();
	cr_assert_eq(spool_open(&options, &bed.spool, &bed.recovery, bed.errbuf,
			 sizeof(bed.errbuf)),
	    0, "%s", bed.errbuf);
}

void bed_open(void)
{
	struct spool_limits limits = kit_limits();

	bed_open_with(&limits);
}

void bed_close(void)
{
	bed.spool = spool_close(bed.spool);
}

void bed_reopen(void)
{
	bed_close();
	bed_open();
}

void bed_set_up(void)
{
	log_set_sink(swallow, NULL);
	bed.dir = tempdir_new();
}

void bed_set_up_open(void)
{
	bed_set_up();
	bed_open();
}

void bed_tear_down(void)
{
	bed_close();
	bed.dir = tempdir_free(bed.dir);
}

struct rxid bed_accept(const char *token, uint64_t i, size_t len)
{
	struct rxid rxid = { { 0 } };
	int r = kit_accept(bed.spool, token, i, len, &rxid);

	cr_assert_eq(r, 0, "report %" PRIu64 ": %d", i, r);
	return rxid;
}

void bed_accept_many(uint64_t first, uint64_t count, size_t len)
{
	for (uint64_t i = first; i < first + count; i++)
		(void)bed_accept(BED_TOKEN, i, len);
}

int64_t bed_only_lane(void)
{
	struct spool_lane lanes[2];

	cr_assert_eq(spool_list_lanes(bed.spool, 0, lanes, 2), 1);
	return lanes[0].id;
}

int64_t bed_newest_lane(void)
{
	struct spool_lane lanes[64];
	size_t n = spool_list_lanes(bed.spool, 0, lanes, ARRAY_LEN(lanes));

	cr_assert_gt(n, 0);
	return lanes[n - 1].id;
}

int bed_claim(int64_t lane, bool newest_first, size_t max, struct report **out)
{
	int n = spool_claim(bed.spool, lane, newest_first, max, out);

	cr_assert_geq(n, 0, "%d", n);
	cr_assert_leq((size_t)n, max);
	return n;
}

uint64_t bed_number(const struct report *r)
{
	uint64_t i = UINT64_MAX;

	cr_assert_eq(kit_check(bed.spool, r, &i), 0, "what is there must be whole");
	return i;
}

void bed_expect_claimed(int64_t lane, const uint64_t *expected, size_t n)
{
	struct report *reports[64];
	int got = bed_claim(lane, false, ARRAY_LEN(reports), reports);

	cr_expect_eq(got, (int)n, "%d reports, not %zu", got, n);
	for (int i = 0; i < got; i++) {
		uint64_t number = bed_number(reports[i]);

		cr_expect((size_t)i < n && number == expected[i],
		    "place %d: number %" PRIu64, i, number);
		report_free(reports[i]);
	}
}

void bed_settle(int64_t seq, enum report_state to)
{
	cr_assert_eq(kit_settle(bed.spool, seq, to), 0);
}

void bed_wait(void)
{
	struct report *nothing;

	/* A claim comes after everything handed over before it. */
	cr_assert_eq(spool_claim(bed.spool, INT64_MAX, false, 1, &nothing), 0);
}

struct spool_stats bed_figures(void)
{
	struct spool_stats stats;

	spool_get_stats(bed.spool, &stats);
	return stats;
}

uint64_t bed_count_in(enum report_state state)
{
	return bed_figures().reports[state];
}

int64_t bed_ask(const char *column, int64_t seq)
{
	char query[256];

	(void)snprintf(query, sizeof(query), "SELECT %s FROM report WHERE seq = %" PRId64,
	    column, seq);
	return kit_sql(bed.dir, query);
}

size_t bed_count_large_files(void)
{
	CLEANUP(cleanup_free) char *files = tempdir_list(bed.dir);
	size_t n = 0;

	for (const char *p = files; (p = strstr(p, "large/")); p++)
		n++;
	return n;
}

bool bed_has_file(const char *name)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(bed.dir, name);

	return access(path, F_OK) == 0;
}

void bed_remove_file(const char *name)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(bed.dir, name);

	(void)unlink(path); /* absent is as good */
}

void bed_remove_index(void)
{
	bed_remove_file("spool.db");
	bed_remove_file("spool.db-wal");
	bed_remove_file("spool.db-shm");
}

void bed_claim_all(struct bed_claimed *c)
{
	struct report *reports[64];
	struct spool_lane lane;
	int64_t last = 0;

	memset(c, 0, sizeof(*c));
	while (spool_list_lanes(bed.spool, 0, &lane, 1) > 0) {
		int n = spool_claim(bed.spool, lane.id, false, 64, reports);

		cr_assert_geq(n, 0, "%d", n);
		for (int i = 0; i < n; i++) {
			uint64_t number = 0;

			cr_assert_eq(kit_check(bed.spool, reports[i], &number), 0,
			    "what is there must be whole");
			cr_assert_lt(number, ARRAY_LEN(c->count));
			cr_assert_gt(reports[i]->seq, last, "out of order");
			last = reports[i]->seq;
			c->seq[number] = last;
			c->count[number]++;
			c->in_doubt[number] = reports[i]->ambiguous;
			c->ambiguous += reports[i]->ambiguous;
			c->total++;
			report_free(reports[i]);
		}
	}
}

void bed_expect_exactly(const struct bed_claimed *c, uint64_t first, uint64_t count)
{
	cr_expect_eq(c->total, count, "%u reports, not %" PRIu64, c->total, count);
	for (uint64_t i = first; i < first + count; i++)
		cr_expect_eq(c->count[i], 1, "report %" PRIu64, i);
}
