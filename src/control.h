/* SPDX-License-Identifier: MIT */
/* The control socket's HTTP: health, metrics and the API (interface.md, section 7), for
 * those who may open the socket. */
#ifndef RELAY_CONTROL_H
#define RELAY_CONTROL_H

#include "cleanup.h"

#include <stddef.h>

struct control;
struct status;

struct control_options {
	const char *path;      /* of the Unix socket; copied */
	struct status *status; /* outlives the control */
};

/* Make the socket (mode 0660; its folder, if absent, 0755) and serve it. The socket file
 * that a dead daemon left is replaced.
 *
 * Owns:   *ret is ended by control_stop().
 * Errors: -EADDRINUSE a live daemon answers there; -EEXIST something else than a socket is
 *         there; -ENAMETOOLONG; -EACCES, -ENOTDIR, ... as the system says; -ENOMEM. The
 *         reason, with the path, is in errbuf. */
int control_start(const struct control_options *options, struct control **ret,
    char *errbuf, size_t errbuf_size) MUST_CHECK;

/* Remove the socket file if it is still ours, let the answers under way go out, close.
 * Takes NULL, returns NULL. */
struct control *control_stop(struct control *c);

#endif
