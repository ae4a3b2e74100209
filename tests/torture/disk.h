/* SPDX-License-Identifier: MIT */
/* A disk as a power cut may leave it. It reads a recording and, up to any event, knows
 * what is durable and what is not yet:
 *
 *   - the bytes and the size of a file are durable as of the last sync of the file that
 *     began after they were written; later ones may be lost, all or in part, in any
 *     combination, each sector of 512 bytes by itself;
 *   - a name made, moved or removed is durable after a sync of its folder; until then it
 *     may be so already or not, each by itself: a sync of the file alone promises nothing
 *     for its name;
 *   - what a failed sync was to make durable is lost, whatever a later one says: the
 *     kernel counts those pages as written.
 *
 * The files' present bytes lie in files of a work folder, so that a state is staged by
 * links. A disk belongs to one process.
 */
#ifndef TORTURE_DISK_H
#define TORTURE_DISK_H

#include "disklog.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct disk;

struct disk_name {
	char text[DISKLOG_NAME_BYTES + 1];
};

/* Read the recording, which began with an empty spool folder or none. work is an empty
 * folder, on the file system on which states will be staged. Cuts are listed from this
 * log on. Errors: a negative errno, errbuf says why. */
int disk_open(const char *recording, const char *work, unsigned from_log,
    struct disk **ret, char *errbuf, size_t errbuf_size);

struct disk *disk_close(struct disk *d);

/* After how many events a cut is worth a look, ascending: not after those that change
 * nothing. */
const uint64_t *disk_cuts(const struct disk *d, size_t *ret_count);

/* Go on until so many events have happened. -EPROTO: the log tells of something that the
 * model cannot follow; disk_error() says what. */
int disk_advance(struct disk *d, uint64_t events);
const char *disk_error(const struct disk *d);

/* The reports promised, and those that may be gone, up to here. */
const struct disk_name *disk_acked(const struct disk *d, size_t *ret_count);
const struct disk_name *disk_over(const struct disk *d, size_t *ret_count);

/* What becomes of all that is not durable. */
enum disk_fate {
	DISK_LOST,       /* nothing is there */
	DISK_KEPT,       /* everything is */
	DISK_SOME,       /* some writes, some names */
	DISK_TORN_LAST,  /* everything, but the last write ends at some sector */
	DISK_TORN_ANY,   /* the same with any write, and any of its sectors */
	DISK_SECTORS,    /* some sectors, some names */
	DISK_NAMES_ONLY, /* all names, no data */
	DISK_DATA_ONLY,  /* all data, no names */
	DISK_NAMES_SOME, /* all names, some writes */
	DISK_FATES
};

const char *disk_fate_name(enum disk_fate fate);

/* Make folder what a cut now would leave, whatever was in it before. copy: with files of
 * its own, so that they may be written to; else only those right in it (the index) may.
 * disk_unstage() must follow; it returns false when one was that must not. */
int disk_stage(
    struct disk *d, enum disk_fate fate, uint64_t seed, const char *folder, bool copy);
bool disk_unstage(struct disk *d);

#endif
