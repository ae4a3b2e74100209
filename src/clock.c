/* SPDX-License-Identifier: MIT */
/* Owns the two clocks and the switch by which tests freeze them. The switch is global
 * because time is; it is atomic and written only by tests. */
#include "clock.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

static atomic_bool frozen;
static atomic_int_fast64_t frozen_wall_ms;
static atomic_int_fast64_t frozen_mono_ms;

static int64_t read_ms(clockid_t id)
{
	struct timespec ts = { 0 };

	/* Cannot fail for these clocks and a valid pointer. */
	(void)clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t clock_wall_ms(void)
{
	if (atomic_load_explicit(&frozen, memory_order_acquire))
		return (int64_t)atomic_load(&frozen_wall_ms);
	return read_ms(CLOCK_REALTIME);
}

int64_t clock_mono_ms(void)
{
	if (atomic_load_explicit(&frozen, memory_order_acquire))
		return (int64_t)atomic_load(&frozen_mono_ms);
	return read_ms(CLOCK_MONOTONIC);
}

struct timespec clock_deadline(int64_t delay_ms)
{
	struct timespec ts = { 0 };

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	if (delay_ms < 0)
		return ts;
	ts.tv_sec += (time_t)(delay_ms / 1000);
	ts.tv_nsec += (long)(delay_ms % 1000) * 1000000L;
	if (ts.tv_nsec >= 1000000000L) {
		ts.tv_sec++;
		ts.tv_nsec -= 1000000000L;
	}
	return ts;
}

void clock_set(int64_t wall_ms, int64_t mono_ms)
{
	atomic_store(&frozen_wall_ms, wall_ms);
	atomic_store(&frozen_mono_ms, mono_ms);
	atomic_store_explicit(&frozen, true, memory_order_release);
}

void clock_unset(void)
{
	atomic_store_explicit(&frozen, false, memory_order_release);
}

void clock_format_rfc3339(int64_t wall_ms, char out[CLOCK_RFC3339_SIZE])
{
	time_t s = (time_t)(wall_ms / 1000);
	int ms = (int)(wall_ms % 1000);
	struct tm tm;

	if (ms < 0) {
		ms += 1000;
		s--;
	}
	if (!gmtime_r(&s, &tm) || tm.tm_year < 0 || tm.tm_year > 8099)
		(void)snprintf(out, CLOCK_RFC3339_SIZE, "0000-00-00T00:00:00.000Z");
	else
		(void)snprintf(out, CLOCK_RFC3339_SIZE,
		    "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", (tm.tm_year + 1900) % 10000,
		    (tm.tm_mon + 1) % 100, tm.tm_mday % 100, tm.tm_hour % 100,
		    tm.tm_min % 100, tm.tm_sec % 100, ms % 1000);
}
