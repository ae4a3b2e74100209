/* SPDX-License-Identifier: MIT */
/* The destinations known to the spool, in memory: found by universe and token, or by id.
 * Internal to spool*.c; not locked by itself. */
#ifndef RELAY_SPOOL_LANES_H
#define RELAY_SPOOL_LANES_H

#include "cleanup.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct spool_lane_entry {
	int64_t id;
	char *universe;
	char *token;
	uint64_t queued;
	bool stored; /* its row is committed */
};

struct spool_lanes {
	struct spool_lane_entry **by_id; /* ascending */
	size_t count;
	size_t capacity;
	void *by_name; /* tsearch(3) tree of the same entries */
};

/* Add a lane; id 0 = the next free one. Errors: -ENOMEM, -EEXIST. */
int spool_lanes_add(struct spool_lanes *l, int64_t id, const char *universe,
    const char *token, struct spool_lane_entry **ret) MUST_CHECK;

/* NULL = unknown. */
struct spool_lane_entry *spool_lanes_find(
    const struct spool_lanes *l, const char *universe, const char *token);
struct spool_lane_entry *spool_lanes_get(const struct spool_lanes *l, int64_t id);

/* Index of the first lane whose id is above id. */
size_t spool_lanes_after(const struct spool_lanes *l, int64_t id);

void spool_lanes_done(struct spool_lanes *l);

#endif
