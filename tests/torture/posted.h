/* SPDX-License-Identifier: MIT */
/* What the clients of a recorded run know, and the upstream: under which name each has
 * which body. Kept as the file "posted" of the recording, a line each: name, body number.
 */
#ifndef TORTURE_POSTED_H
#define TORTURE_POSTED_H

#include "disklog.h"

#include <stddef.h>
#include <stdint.h>

struct posted_report {
	char name[DISKLOG_NAME_BYTES + 1];
	uint64_t id;
};

struct posted {
	struct posted_report *list; /* by name */
	size_t count;
};

/* An absent file is an empty list. Returns 0 or a negative errno. */
int posted_load(const char *path, struct posted *ret);
void posted_done(struct posted *p);

/* NULL = nobody heard of it. */
const struct posted_report *posted_find(const struct posted *p, const char *name);

/* Append a line. Threads: any, of any process. */
int posted_append(const char *path, const char *name, uint64_t id);

#endif
