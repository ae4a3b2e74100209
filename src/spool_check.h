/* SPDX-License-Identifier: MIT */
/* A look at a spool that no daemon has open: is everything there that the index says, and
 * sound? Nothing in the spool is changed; the index is looked at in a copy, because
 * SQLite cannot read a log of changes without writing beside it. */
#ifndef RELAY_SPOOL_CHECK_H
#define RELAY_SPOOL_CHECK_H

#include "cleanup.h"

#include <stdbool.h>

/* Told for each finding, one line without newline; damage: what a sound spool has not. */
typedef void spool_check_line_fn(void *cls, bool damage, const char *line);

/* Check the spool in the folder. Reads every payload.
 * Returns: 0 sound, 1 damaged; -EBUSY a daemon has it open, -ENOENT there is none, or
 * another negative errno: it could not be checked, the last line says why. */
int spool_check(const char *directory, spool_check_line_fn *line, void *cls) MUST_CHECK;

#endif
