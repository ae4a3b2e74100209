/* SPDX-License-Identifier: MIT */
/* Owns how often the spool is tidied. Ages are counted in days: once a minute is often. */
#include "janitor.h"

#include "clock.h"
#include "log.h"

#include <string.h>

#define REST_MS 60000

/* Between two steps of the same tidying: several batches of posts come in between. */
#define STEP_REST_MS 20

int64_t janitor_step(struct janitor *j)
{
	int64_t now_ms = clock_mono_ms();
	int r;

	if (now_ms < j->next_at_ms)
		return j->next_at_ms - now_ms;
	r = spool_tidy(j->spool, &j->ages);
	if (r < 0)
		log_warning("cannot tidy the spool: %s", strerror(-r));
	j->next_at_ms = clock_mono_ms() + (r > 0 ? STEP_REST_MS : REST_MS);
	return j->next_at_ms - clock_mono_ms();
}
