/* SPDX-License-Identifier: MIT */
/* Each call of the driver that touches the disk fails once: the spool must not die of it,
 * must not lose what it acknowledges meanwhile, and must take reports afterwards. A call
 * that fails while the spool is being opened may be the end of that start, not of the
 * next. */
#ifndef TORTURE_FAULTS_H
#define TORTURE_FAULTS_H

#include <stdint.h>

#define FAULTS_ALL UINT64_MAX

struct faults_options {
	const char *recorder; /* the preload library */
	uint64_t max;         /* if there are more, so many of them, evenly */
	uint64_t seed;
	uint64_t only; /* one of them, or FAULTS_ALL */
	unsigned posts;
	unsigned workers;
	const char *keep; /* folder for the one's recording, or NULL */
};

/* Returns 0, 1 something broke, 2 no way to tell. Prints one line. */
int faults_run(const struct faults_options *options);

#endif
