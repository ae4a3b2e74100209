/* SPDX-License-Identifier: MIT */
/* What the forwarder remembers of lanes: nobody's turn may be skipped, nothing claimed may
 * be forgotten, and memory stays bounded whatever number of lanes is paused. */
#include "forwarder_lanes.h"

#include "report.h"

#include <criterion/criterion.h>

static struct lane *make(struct lanes *l, int64_t id, int64_t until_ms)
{
	struct lane *lane = lanes_get(l, id);

	cr_assert(lane);
	lane->backoff =
	    (struct backoff){ .failures = 1, .window = 1, .until_ms = until_ms };
	return lane;
}

static struct report **make_reports(size_t n)
{
	struct report **list = calloc(n, sizeof(struct report *));

	cr_assert(list);
	for (size_t i = 0; i < n; i++) {
		list[i] = calloc(1, sizeof(struct report));
		cr_assert(list[i]);
		list[i]->seq = (int64_t)i + 1;
	}
	return list;
}

static int64_t take_seq(struct report *r)
{
	int64_t seq = r->seq;

	free(r);
	return seq;
}

Test(forwarder_lanes, are_visited_in_order_whatever_order_they_came_in)
{
	static const int64_t ids[] = { 5, 1, 9, INT64_MAX, 3 };
	static const int64_t sorted[] = { 1, 3, 5, 9, INT64_MAX };
	CLEANUP(lanes_done) struct lanes l = { 0 };
	const struct lane *lane;
	size_t i = 0;

	for (size_t k = 0; k < ARRAY_LEN(ids); k++)
		(void)make(&l, ids[k], 1);
	for (lane = lanes_after(&l, INT64_MIN); lane; lane = lanes_after(&l, lane->id))
		cr_assert_eq(lane->id, sorted[i++]);
	cr_assert_eq(i, ARRAY_LEN(sorted));
	cr_assert_eq(lanes_after(&l, 5)->id, 9);
	cr_assert_null(lanes_find(&l, 4));
	cr_assert_eq(lanes_get(&l, 9)->backoff.window, 1, "an entry is not made twice");
}

Test(forwarder_lanes, entry_stays_while_there_is_something_to_remember)
{
	CLEANUP(lanes_done) struct lanes l = { 0 };
	struct lane *lane = lanes_get(&l, 7);

	lane->in_flight = 1;
	lanes_tidy(&l, 7);
	lane = lanes_find(&l, 7);
	cr_assert(lane);
	lane->in_flight = 0;
	lane->backoff.window = 1;
	lanes_tidy(&l, 7);
	lane = lanes_find(&l, 7);
	cr_assert(lane);
	lane->backoff.window = 0;
	lanes_tidy(&l, 7);
	cr_assert_null(lanes_find(&l, 7));
}

Test(forwarder_lanes, claimed_reports_come_out_from_both_ends_and_are_counted)
{
	CLEANUP(lanes_done) struct lanes l = { 0 };
	struct lane *lane = lanes_get(&l, 7);

	lanes_put_claimed(&l, lane, make_reports(3), 3);
	lanes_tidy(&l, 7);
	cr_assert_eq(lanes_find(&l, 7), lane, "a lane with claimed reports is kept");
	cr_assert_eq(l.claimed, 3);
	cr_assert_eq(take_seq(lanes_take_claimed(&l, lane)), 1);
	cr_assert_eq(take_seq(lanes_take_last_claimed(&l, lane)), 3);
	cr_assert_eq(take_seq(lanes_take_claimed(&l, lane)), 2);
	cr_assert_eq(l.claimed, 0);
	lanes_put_claimed(&l, lane, make_reports(1), 1);
	cr_assert_eq(take_seq(lanes_take_claimed(&l, lane)), 1);
}

Test(forwarder_lanes, too_many_pauses_lose_the_one_that_ends_first_but_no_busy_lane)
{
	CLEANUP(lanes_done) struct lanes l = { 0 };

	for (int64_t id = 0; id < LANES_MAX; id++)
		make(&l, id, id + 1000)->in_flight = id == 0;
	(void)make(&l, LANES_MAX, 5);
	cr_assert_eq(l.count, LANES_MAX);
	cr_assert(lanes_find(&l, 0), "its upload is under way");
	cr_assert_null(lanes_find(&l, 1));
	cr_assert(lanes_find(&l, 2));
	cr_assert(lanes_find(&l, LANES_MAX));
}

Test(forwarder_lanes, only_pauses_that_last_ask_for_a_wake_up)
{
	CLEANUP(lanes_done) struct lanes l = { 0 };

	cr_assert_eq(lanes_next_end_ms(&l, 0), INT64_MAX);
	(void)make(&l, 1, 100);
	(void)make(&l, 2, 300);
	(void)make(&l, 3, 200);
	cr_assert_eq(lanes_next_end_ms(&l, 100), 200);
	cr_assert_eq(lanes_next_end_ms(&l, 300), INT64_MAX);
	lanes_end_pauses(&l);
	cr_assert_eq(lanes_next_end_ms(&l, 1), INT64_MAX);
	cr_assert(backoff_allows(&lanes_find(&l, 2)->backoff, 1, 0));
	cr_assert_not(backoff_allows(&lanes_find(&l, 2)->backoff, 1, 1), "one probe");
}
