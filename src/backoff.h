/* SPDX-License-Identifier: MIT */
/* How long a destination that failed is left alone, and how it comes back to full speed.
 * Pure: time and randomness are handed in, nothing here waits.
 *
 * A pause ends with one probe; each success after it doubles the uploads allowed at once.
 */
#ifndef RELAY_BACKOFF_H
#define RELAY_BACKOFF_H

#include <stdbool.h>
#include <stdint.h>

/* Retry-After is obeyed up to one hour. */
#define BACKOFF_RETRY_AFTER_MAX_MS INT64_C(3600000)

/* The backoff of one destination: an upstream, or a lane of it. All zero = healthy. */
struct backoff {
	unsigned failures; /* in a row */
	unsigned window;   /* uploads allowed at once while it recovers; 0 = no bound */
	int64_t until_ms;  /* no upload before then, on the monotonic clock */
};

/* Between which bounds a pause lies. max_ms below min_ms counts as min_ms. */
struct backoff_bounds {
	int64_t min_ms;
	int64_t max_ms;
};

/* The pause after so many failures in a row: exponential with full jitter, evenly
 * distributed from min_ms to the smaller of max_ms and min_ms doubled per failure. random
 * is any number of the caller's. */
int64_t backoff_delay_ms(
    unsigned failures, const struct backoff_bounds *bounds, uint64_t random);

/* What a Retry-After header asks for (RFC 9110, section 10.2.3): seconds or one of the
 * three HTTP date forms, seen at now_wall_ms. Returns the delay, at most
 * BACKOFF_RETRY_AFTER_MAX_MS, or 0 when there is nothing to obey: NULL, not understood,
 * negative, or a moment already past. */
int64_t backoff_retry_after_ms(const char *value, int64_t now_wall_ms);

/* An upload failed because of this destination. Begins a pause; a failure while it is
 * already paused comes from an upload begun before, and does not count again.
 * retry_after_ms: what upstream asked for, instead of our own delay (never less than
 * bounds->min_ms, and spread a little so that a fleet does not come back as one), or 0.
 * Returns whether a pause began. */
bool backoff_fail(struct backoff *b, const struct backoff_bounds *bounds, int64_t now_ms,
    int64_t retry_after_ms, uint64_t random);

/* An upload succeeded. concurrency: the number of uploads at full speed. During a pause
 * it changes nothing: the upload was begun before, and upstream may have asked us to
 * wait. */
void backoff_succeed(struct backoff *b, int64_t now_ms, unsigned concurrency);

/* Whether one more upload may begin beside those in_flight. */
bool backoff_allows(const struct backoff *b, int64_t now_ms, unsigned in_flight);

/* End a pause now and let a new one begin short: the reason may be gone. */
void backoff_hurry(struct backoff *b);

/* Next number of a SplitMix64 sequence, for jitter. *state is any seed. */
uint64_t backoff_random(uint64_t *state);

#endif
