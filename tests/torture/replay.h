/* SPDX-License-Identifier: MIT */
/* Power cuts over a recording: each state is a moment and a fate of what was not durable
 * then; the spool is started on it and judged. A state is named by its number, given the
 * number of states in all and the seed. */
#ifndef TORTURE_REPLAY_H
#define TORTURE_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REPLAY_ALL UINT64_MAX

struct replay_options {
	const char *recording;
	uint64_t states;
	uint64_t seed;
	uint64_t only; /* a state, or REPLAY_ALL */
	unsigned workers;
	unsigned from_log; /* not before this process */
	bool may_evict;    /* see recovery.h */
	const char *keep; /* folder in which the state "only" is left as it was staged, or
			     NULL */
};

/* Judge every fate at the end of a recording, states below scratch. Returns 0, or a
 * negative errno with what is wrong in errbuf. */
int replay_ends(
    const char *recording, const char *scratch, char *errbuf, size_t errbuf_size);

/* Returns 0 when all is well, 1 when a promise was broken, 2 when it could not be said.
 * Prints one line. */
int replay_run(const struct replay_options *options);

#endif
