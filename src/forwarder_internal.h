/* SPDX-License-Identifier: MIT */
/* What the files of the forwarder share: forwarder.c (the thread: what is sent when) and
 * forwarder_outcome.c (what becomes of a report after each outcome). Nobody else includes
 * this. */
#ifndef RELAY_FORWARDER_INTERNAL_H
#define RELAY_FORWARDER_INTERNAL_H

#include "forwarder.h"
#include "forwarder_lanes.h"
#include "report.h"
#include "spool.h"

#include <pthread.h>

/* Results that go to the spool in one call. */
#define SETTLE_BATCH 16

struct settings {
	struct upstream *upstream;
	unsigned concurrency;
	struct backoff_bounds retry;
	bool newest_first;
};

/* Uploads ended in PACE_MS. */
struct pace {
	int64_t since_ms;
	unsigned ended; /* since then */
	unsigned last;  /* in the period before */
};

struct forwarder {
	/* Constant after start. */
	struct spool *spool;
	struct metrics *metrics;
	struct upstream_io *io;
	pthread_t thread;

	pthread_mutex_t lock;
	/* Under lock. */
	bool stop;
	int64_t stop_at_ms;
	struct settings next; /* upstream NULL = nothing new */
	struct forwarder_state state;

	/* Owned by the thread. */
	bool stopping;
	int64_t give_up_at_ms; /* while stopping */
	struct settings now;
	struct lanes lanes;
	int64_t turn;           /* the lane that was served last */
	struct backoff backoff; /* of the upstream */
	int64_t down_since_ms;  /* while it has failures */
	bool answered;          /* ever, since the settings now in force */
	struct backoff claims;  /* of the spool's answers to claims */
	struct pace pace;
	int64_t idle_since_ms;
	bool resting;
	uint64_t random_state;
	struct upstream_result results[SETTLE_BATCH]; /* behind settlements */
	struct spool_settlement settlements[SETTLE_BATCH];
	size_t unsettled;
};

/* Forwarder_outcome.c */

/* Hand all that is unsettled to the spool. Returns whether there is room again: without
 * memory it is kept, and nothing else is taken on meanwhile. */
bool forwarder_flush(struct forwarder *f);

/* Whether one more report can be settled; may flush. */
bool forwarder_has_room(struct forwarder *f);

/* Put back what was claimed ahead of one lane, or of all, as if it had not been: or as much
 * as there is memory for. May flush. */
void forwarder_release_lane(struct forwarder *f, struct lane *lane);
void forwarder_release_all(struct forwarder *f);

/* New settings are in force: they may mean another upstream, that was not asked yet. */
void forwarder_name_state(struct forwarder *f);

/* Do what an outcome asks for: settle the report, which is taken over, pause or resume its
 * lane and the upstream, count, tell. There is room to settle. */
void forwarder_apply(
    struct forwarder *f, struct lane *lane, const struct upstream_result *res);

#endif
