/* SPDX-License-Identifier: MIT */
/* Owns looking at the index without disturbing the committer: a read-only connection of
 * its own, opened when first used; in WAL mode it neither blocks nor is blocked. */
#include "spool_internal.h"

#define LANES_AT_ONCE 64

/* The connection, with its lock held; NULL if it can't be had (then without the lock). */
static struct spool_index *view_lock(struct spool *s)
{
	(void)pthread_mutex_lock(&s->view_lock);
	if (!s->view && spool_index_open_reader(s->directory, &s->view) < 0) {
		(void)pthread_mutex_unlock(&s->view_lock);
		return NULL;
	}
	return s->view;
}

static void view_unlock(struct spool *s)
{
	(void)pthread_mutex_unlock(&s->view_lock);
}

int64_t spool_view_oldest_queued(struct spool *s)
{
	struct spool_lane lanes[LANES_AT_ONCE];
	int64_t oldest_ms = 0;
	int64_t after = INT64_MIN;
	size_t n;

	while ((n = spool_list_lanes(s, after, lanes, LANES_AT_ONCE)) > 0) {
		struct spool_index *view = view_lock(s);

		if (!view)
			return 0;
		for (size_t i = 0; i < n; i++) {
			int64_t at_ms = 0;

			if (spool_index_oldest_queued(view, lanes[i].id, &at_ms) == 0 &&
			    at_ms > 0 && (oldest_ms == 0 || at_ms < oldest_ms))
				oldest_ms = at_ms;
		}
		view_unlock(s);
		after = lanes[n - 1].id;
	}
	return oldest_ms;
}
