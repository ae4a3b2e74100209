/* SPDX-License-Identifier: MIT */
/* A stand-in for the daemon that needs no HTTP: threads that post into a spool, a thread
 * that drains it, and the bytes of each acknowledgement on a socket, for the recorder. */
#ifndef TORTURE_DRIVE_H
#define TORTURE_DRIVE_H

#include <stdbool.h>
#include <stdint.h>

struct drive_options {
	const char *spool;
	const char *posted; /* file that takes what was acknowledged; see posted.h */
	uint64_t seed;
	uint64_t first_id; /* body numbers from here on */
	unsigned posts;
	unsigned threads;
	unsigned medium_percent; /* of the bodies: up to what goes into a segment */
	unsigned large_percent;  /* of the bodies: more than goes into a segment */
	unsigned drain_percent;  /* of the reports: taken out again, most of them sent */
	uint64_t max_bytes;      /* of the spool */
	uint64_t reserve_bytes;
	bool evict;   /* when full; else it rejects */
	bool abandon; /* end without closing */
	bool insist;  /* at the end a report must be taken, faults or not */
};

/* Exit status: 0 all well, 1 the spool did what it must not, 3 it could not be opened. */
#define DRIVE_REFUSED 3
int drive_run(const struct drive_options *options);

#endif
