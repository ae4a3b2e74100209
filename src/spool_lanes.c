/* SPDX-License-Identifier: MIT */
/* Owns the table of destinations: an array by id, which only grows at its end because ids
 * ascend, and a search tree by name. */
#include "spool_lanes.h"

#include <errno.h>
#include <search.h>
#include <string.h>

static int compare_names(const void *a, const void *b)
{
	const struct spool_lane_entry *x = a;
	const struct spool_lane_entry *y = b;
	int c = strcmp(x->token, y->token);

	return c != 0 ? c : strcmp(x->universe, y->universe);
}

size_t spool_lanes_after(const struct spool_lanes *l, int64_t id)
{
	size_t low = 0;
	size_t high = l->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (l->by_id[middle]->id <= id)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct spool_lane_entry *spool_lanes_get(const struct spool_lanes *l, int64_t id)
{
	size_t i = spool_lanes_after(l, id);

	return i > 0 && l->by_id[i - 1]->id == id ? l->by_id[i - 1] : NULL;
}

struct spool_lane_entry *spool_lanes_find(
    const struct spool_lanes *l, const char *universe, const char *token)
{
	/* The key is only compared. */
	struct spool_lane_entry key = { .universe = (char *)(uintptr_t)universe,
		.token = (char *)(uintptr_t)token };
	void *const *node = tfind(&key, &l->by_name, compare_names);

	return node ? *node : NULL;
}

static void entry_free(struct spool_lane_entry *e)
{
	if (!e)
		return;
	free(e->universe);
	free(e->token);
	free(e);
}

static int grow(struct spool_lanes *l)
{
	size_t capacity = l->capacity ? l->capacity * 2 : 16;
	struct spool_lane_entry **p;

	if (l->count < l->capacity)
		return 0;
	p = reallocarray(l->by_id, capacity, sizeof(struct spool_lane_entry *));
	if (!p)
		return -ENOMEM;
	l->by_id = p;
	l->capacity = capacity;
	return 0;
}

int spool_lanes_add(struct spool_lanes *l, int64_t id, const char *universe,
    const char *token, struct spool_lane_entry **ret)
{
	int64_t last = l->count > 0 ? l->by_id[l->count - 1]->id : 0;
	struct spool_lane_entry *e;
	void *const *node;

	if (id == 0)
		id = last + 1;
	if (id <= last)
		return -EEXIST;
	e = calloc(1, sizeof(*e));
	if (!e || grow(l) < 0) {
		free(e);
		return -ENOMEM;
	}
	e->id = id;
	e->universe = strdup(universe);
	e->token = strdup(token);
	node = e->universe && e->token ? tsearch(e, &l->by_name, compare_names) : NULL;
	if (!node) {
		entry_free(e);
		return -ENOMEM;
	}
	if (*node != e) {
		entry_free(e);
		return -EEXIST;
	}
	l->by_id[l->count++] = e;
	*ret = e;
	return 0;
}

void spool_lanes_done(struct spool_lanes *l)
{
	for (size_t i = 0; i < l->count; i++) {
		(void)tdelete(l->by_id[i], &l->by_name, compare_names);
		entry_free(l->by_id[i]);
	}
	free(l->by_id);
	*l = (struct spool_lanes){ 0 };
}
