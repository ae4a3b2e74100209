/* SPDX-License-Identifier: MIT */
/* The thread that drains the spool: claim, deliver, settle, wait. It runs while there is an
 * upstream; without one the daemon only buffers.
 *
 * Backoff is the destination's, not the report's. No answer at all pauses the whole
 * upstream; an answer that is no success pauses the lane (universe and token) it was given
 * to, and nobody else. A pause ends with one probe, then uploads double up to full
 * concurrency. Lanes take turns, upload by upload.
 */
#ifndef RELAY_FORWARDER_H
#define RELAY_FORWARDER_H

#include "backoff.h"
#include "upstream.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct forwarder;
struct metrics;
struct spool;

struct forwarder_options {
	/* Outlive the forwarder; of no meaning to forwarder_reload(). */
	struct spool *spool;
	struct metrics *metrics;

	struct upstream_options upstream;
	unsigned concurrency; /* uploads at once, at least 1 */
	struct backoff_bounds retry;
	bool newest_first; /* order within a lane */
};

/* Start the thread. Strings of the options are copied. curl_global_init() has been called.
 *
 * Owns:   *ret is ended by forwarder_stop().
 * Errors: -EINVAL the upstream's options are bad; -ENOMEM, -EAGAIN, -EMFILE no memory,
 *         thread or descriptor. errbuf says why, without any secret.
 */
int forwarder_start(const struct forwarder_options *options, struct forwarder **ret,
    char *errbuf, size_t errbuf_size) MUST_CHECK;

/* Begin no more uploads, give those under way timeout_ms to end, put the rest back, end the
 * thread. Blocks so long; the spool must still be open. Takes NULL, returns NULL. */
struct forwarder *forwarder_stop(struct forwarder *f, int64_t timeout_ms);

/* Something may be due. Threads: any; never blocks, as spool's on_due asks. */
void forwarder_wake(struct forwarder *f);

/* How the upstream is. */
struct forwarder_state {
	char name[80];    /* of [upstream "name"]; "" = the one without a name */
	char host[300];   /* "HOST" or "HOST:PORT" */
	bool up;          /* it answered last time, or was not asked yet */
	int64_t since_ms; /* wall clock; 0 = not asked yet */
	char reason[512]; /* why it is down, "" when up; one line, no token */
};

/* Threads: any; never blocks for long. */
void forwarder_get_state(struct forwarder *f, struct forwarder_state *ret);

/* Take new options into force: for uploads begun from now on. Pauses end, as their reason
 * may be gone with the old options. On an error the old ones stay in force.
 * Errors: as forwarder_start(). Threads: any, one at a time. */
int forwarder_reload(struct forwarder *f, const struct forwarder_options *options,
    char *errbuf, size_t errbuf_size) MUST_CHECK;

#endif
