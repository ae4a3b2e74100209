/* SPDX-License-Identifier: MIT */
/* The intake's HTTP: which requests are posts at all, framing that can be trusted, and the
 * answers in JSON (interface.md, section 2). */
#ifndef RELAY_LISTENER_H
#define RELAY_LISTENER_H

#include "cleanup.h"

#include <stddef.h>
#include <stdint.h>

struct intake;
struct listener;

struct listener_options {
	struct intake *intake; /* outlives the listener */
	const int *sockets;    /* listening; taken over, also on failure */
	size_t socket_count;
	unsigned max_connections;
	unsigned idle_timeout_s;
};

int listener_start(
    const struct listener_options *options, struct listener **ret) MUST_CHECK;

/* Other limits for what comes from now on. Threads: any. */
void listener_set_limits(
    struct listener *l, unsigned max_connections, unsigned idle_timeout_s);

/* Stop accepting; let the posts under way end, for at most timeout_ms, and every one that
 * is whole be answered. Takes NULL, returns NULL. */
struct listener *listener_stop(struct listener *l, int64_t timeout_ms);

#endif
