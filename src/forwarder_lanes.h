/* SPDX-License-Identifier: MIT */
/* What the forwarder remembers of lanes: which are paused, what of theirs is under way,
 * which of their reports it has claimed ahead. Lanes of which there is nothing to remember
 * have no entry. Internal to forwarder*.c; not locked. */
#ifndef RELAY_FORWARDER_LANES_H
#define RELAY_FORWARDER_LANES_H

#include "backoff.h"
#include "cleanup.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct report;

/* Beyond so many entries the longest-standing pauses are forgotten: those lanes are then
 * probed early, nothing worse. */
#define LANES_MAX 4096

struct lane {
	int64_t id;
	struct backoff backoff;
	unsigned in_flight;
	/* Probes in a row that upstream got to see and that failed: the next one tries
	 * another report, so that one that always fails does not stop those behind it. */
	unsigned failed_probes;
	struct report **claimed; /* marked as being sent, upload not begun; or NULL */
	size_t claimed_next;     /* index of the first that is left */
	size_t claimed_count;    /* how many are left */
};

struct lanes {
	struct lane *items; /* by id, ascending */
	size_t count;
	size_t capacity;
	size_t claimed; /* in all lanes */
};

/* The entry or NULL. Valid until the next lanes_get() or lanes_tidy(). */
struct lane *lanes_find(struct lanes *l, int64_t id);

/* The entry, made if absent; NULL without memory. May forget other entries. */
struct lane *lanes_get(struct lanes *l, int64_t id) MUST_CHECK;

/* The first entry with an id above id, or NULL. */
struct lane *lanes_after(struct lanes *l, int64_t id);

/* Hand n claimed reports to a lane that has none left. list is taken over. */
void lanes_put_claimed(
    struct lanes *l, struct lane *lane, struct report **list, size_t n);

/* Take the first, or the last, of the lane's claimed reports; there is one. */
struct report *lanes_take_claimed(struct lanes *l, struct lane *lane);
struct report *lanes_take_last_claimed(struct lanes *l, struct lane *lane);

/* Remove the entry if there is nothing to remember of the lane. */
void lanes_tidy(struct lanes *l, int64_t id);

/* End every pause now; the next upload of each lane is its probe. */
void lanes_end_pauses(struct lanes *l);

/* When the next of the pauses ends that last beyond now_ms, or INT64_MAX. */
int64_t lanes_next_end_ms(const struct lanes *l, int64_t now_ms);

/* Free all. Nothing is claimed any more. */
void lanes_done(struct lanes *l);

#endif
