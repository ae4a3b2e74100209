/* SPDX-License-Identifier: MIT */
/* Flips and garbage in the files of a finished spool: the recording's base/, whose reports
 * stand in its "posted". Whatever is altered, the spool starts, hands out nothing that
 * nobody sent, and the neighbours of a damaged record go on. */
#ifndef TORTURE_DAMAGE_H
#define TORTURE_DAMAGE_H

#include <stdint.h>

#define DAMAGE_ALL UINT64_MAX

struct damage_options {
	const char *recording;
	uint64_t count;
	uint64_t seed;
	uint64_t only; /* one of them, or DAMAGE_ALL */
	unsigned workers;
	const char *keep; /* folder for the one, as it was altered, or NULL */
};

/* Returns 0, 1 something broke, 2 no way to tell. Prints one line. */
int damage_run(const struct damage_options *options);

#endif
