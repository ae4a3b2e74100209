/* SPDX-License-Identifier: MIT */
/* Owns the table of lanes. Invariants: ascending by id, no id twice; an entry with uploads
 * under way or claimed reports is never forgotten; claimed is the sum of all entries'. */
#include "forwarder_lanes.h"

#include <assert.h>
#include <string.h>

/* Index of the first entry whose id is not below id. */
static size_t lower_bound(const struct lanes *l, int64_t id)
{
	size_t low = 0;
	size_t high = l->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (l->items[mid].id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct lane *lanes_find(struct lanes *l, int64_t id)
{
	size_t i = lower_bound(l, id);

	return i < l->count && l->items[i].id == id ? &l->items[i] : NULL;
}

struct lane *lanes_after(struct lanes *l, int64_t id)
{
	size_t i = id == INT64_MAX ? l->count : lower_bound(l, id + 1);

	return i < l->count ? &l->items[i] : NULL;
}

static bool is_busy(const struct lane *lane)
{
	return lane->in_flight > 0 || lane->claimed_count > 0;
}

static void remove_at(struct lanes *l, size_t i)
{
	free(l->items[i].claimed);
	l->count--;
	memmove(&l->items[i], &l->items[i + 1], (l->count - i) * sizeof(l->items[0]));
}

/* Forget the entry that would be probed first anyway. */
static void forget_one(struct lanes *l)
{
	size_t oldest = l->count;

	for (size_t i = 0; i < l->count; i++)
		if (!is_busy(&l->items[i]) &&
		    (oldest == l->count ||
			l->items[i].backoff.until_ms < l->items[oldest].backoff.until_ms))
			oldest = i;
	if (oldest < l->count)
		remove_at(l, oldest);
}

struct lane *lanes_get(struct lanes *l, int64_t id)
{
	struct lane *lane = lanes_find(l, id);
	size_t i;

	if (lane)
		return lane;
	if (l->count >= LANES_MAX)
		forget_one(l);
	if (l->count == l->capacity) {
		size_t capacity = l->capacity ? l->capacity * 2 : 8;

		lane = reallocarray(l->items, capacity, sizeof(*lane));
		if (!lane)
			return NULL;
		l->items = lane;
		l->capacity = capacity;
	}
	i = lower_bound(l, id);
	lane = &l->items[i];
	memmove(lane + 1, lane, (l->count - i) * sizeof(*lane));
	*lane = (struct lane){ .id = id };
	l->count++;
	return lane;
}

void lanes_put_claimed(struct lanes *l, struct lane *lane, struct report **list, size_t n)
{
	assert(lane->claimed_count == 0);
	free(lane->claimed);
	lane->claimed = list;
	lane->claimed_next = 0;
	lane->claimed_count = n;
	l->claimed += n;
}

struct report *lanes_take_claimed(struct lanes *l, struct lane *lane)
{
	assert(lane->claimed_count > 0);
	lane->claimed_count--;
	l->claimed--;
	return lane->claimed[lane->claimed_next++];
}

struct report *lanes_take_last_claimed(struct lanes *l, struct lane *lane)
{
	assert(lane->claimed_count > 0);
	lane->claimed_count--;
	l->claimed--;
	return lane->claimed[lane->claimed_next + lane->claimed_count];
}

void lanes_tidy(struct lanes *l, int64_t id)
{
	const struct lane *lane = lanes_find(l, id);

	if (lane && !is_busy(lane) && lane->backoff.window == 0 &&
	    lane->failed_probes == 0)
		remove_at(l, (size_t)(lane - l->items));
}

void lanes_end_pauses(struct lanes *l)
{
	for (size_t i = 0; i < l->count; i++)
		backoff_hurry(&l->items[i].backoff);
}

int64_t lanes_next_end_ms(const struct lanes *l, int64_t now_ms)
{
	int64_t next_ms = INT64_MAX;

	for (size_t i = 0; i < l->count; i++) {
		int64_t until_ms = l->items[i].backoff.until_ms;

		if (until_ms > now_ms && until_ms < next_ms)
			next_ms = until_ms;
	}
	return next_ms;
}

void lanes_done(struct lanes *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->items[i].claimed);
	free(l->items);
	*l = (struct lanes){ 0 };
}
