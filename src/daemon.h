/* SPDX-License-Identifier: MIT */
/* Starts and stops the parts and turns settings into their options. */
#ifndef RELAY_DAEMON_H
#define RELAY_DAEMON_H

#include "config.h"

/* Run until SIGTERM or SIGINT with the settings c; sources are where they came from, to be
 * read again on SIGHUP. Both stay the caller's.
 * Returns: the exit status, 0 stopped in order, 1 failed (one line was logged).
 * Call once, from the main thread, before any other exists. */
int daemon_run(const struct config_sources *sources, struct config *c);

#endif
