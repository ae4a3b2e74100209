/* SPDX-License-Identifier: MIT */
/* What time brings to the spool: reports that waited too long expire, rows and payloads
 * kept long enough go. Small steps, so that posts never wait for it; run by the main
 * thread between signals. */
#ifndef RELAY_JANITOR_H
#define RELAY_JANITOR_H

#include "spool.h"

#include <stdint.h>

struct janitor {
	struct spool *spool;    /* outlives it */
	struct spool_ages ages; /* may be changed between steps */
	int64_t next_at_ms;     /* monotonic; 0 = at once */
};

/* Do a step if one is due. Returns in how many milliseconds the next one is. Blocks for
 * one commit. */
int64_t janitor_step(struct janitor *j);

#endif
