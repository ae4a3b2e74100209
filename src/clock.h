/* SPDX-License-Identifier: MIT */
/* Wall and monotonic time in milliseconds. Everything that asks for the time asks
 * here, so that a test can set both. */
#ifndef RELAY_CLOCK_H
#define RELAY_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Milliseconds since the Unix epoch. May jump; never an order key. Threads: any. */
int64_t clock_wall_ms(void);

/* Milliseconds since some fixed moment; never goes back. Threads: any. */
int64_t clock_mono_ms(void);

/* The absolute CLOCK_MONOTONIC time that lies delay_ms from now (now, if that has passed),
 * for timed condition waits. Always real time, also while a test has set the clock. */
struct timespec clock_deadline(int64_t delay_ms);

/* Freeze both clocks at the given values (tests only); a later call moves them. */
void clock_set(int64_t wall_ms, int64_t mono_ms);

/* Let both clocks run again (tests only). */
void clock_unset(void);

/* Write wall_ms as RFC 3339 UTC with milliseconds ("2026-11-23T10:00:00.123Z"); out has
 * room for CLOCK_RFC3339_SIZE bytes. */
#define CLOCK_RFC3339_SIZE 32
void clock_format_rfc3339(int64_t wall_ms, char out[CLOCK_RFC3339_SIZE]);

#endif
