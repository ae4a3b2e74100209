/* SPDX-License-Identifier: MIT */
/* The payload store: where the bodies of reports lie on disk, as self-describing records
 * (record.h). It knows no report states and no index.
 *
 * A small body is gathered in memory (within a fixed budget for all) and goes as one
 * record into the current segment, a file of fixed size that was written once with zeros
 * and is used again when all its records are gone: then the sync of a record writes no
 * metadata of the file system, which makes it several times faster than a file each or a
 * growing file. A large body streams to a file of its own.
 *
 * In the spool folder:
 *   segments/NNNNNNNN     a 4 KiB header (epoch, activation), then records, each
 * beginning on a 4 KiB boundary so that a torn write of a new record cannot hurt its
 * neighbour large/SEQ.rec         one record, body at 64 KiB large/incoming-N      a body
 * still being received; removed at start
 *
 * Nothing placed here is durable before segment_sync() (or segment_writer_seal() for the
 * bytes of a large one) has returned 0.
 */
#ifndef RELAY_SEGMENT_H
#define RELAY_SEGMENT_H

#include "record.h"
#include "report.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 16 MiB: long enough that changing segments is rare at full load (some 250 records of
 * 64 KiB), short enough that a small spool has many and that a single report holds little
 * back from being used again. */
#define SEGMENT_BYTES (UINT64_C(16) << 20)

/* A body up to this size goes into a segment: typical multipart submissions are below. */
#define SEGMENT_INLINE_MAX (UINT64_C(1) << 20)

/* Memory for bodies being gathered, for all connections together; a body that finds none
 * left streams to a file. With 64 clients of 512 KiB at once all still fit. */
#define SEGMENT_BUDGET_BYTES (UINT64_C(32) << 20)

struct segment_store;
struct segment_writer;
struct segment_reader;

/* Open the store below the folder dir_fd (which must outlive it), making its folders if
 * absent, and remove what earlier runs had not finished receiving. Nothing is in use
 * until segment_adopt() says so.
 * ret_discarded: unfinished bodies removed. Errors: negative errno. */
int segment_store_open(
    int dir_fd, struct segment_store **ret, uint64_t *ret_discarded) MUST_CHECK;

/* Open the store only to read records by reference: nothing is made, removed or counted.
 * Errors: negative errno. */
int segment_store_open_reader(int dir_fd, struct segment_store **ret) MUST_CHECK;

/* Start the housekeeping thread; from now on segments that were not adopted are free to
 * be written over. */
int segment_store_start(struct segment_store *s) MUST_CHECK;

/* Stop housekeeping and close. Takes NULL, returns NULL. */
struct segment_store *segment_store_close(struct segment_store *s);

/* Fill segments only so far, at least SEGMENT_BYTES_MIN and at most SEGMENT_BYTES: in a
 * small spool what released records still hold of the disk is then little, too. */
#define SEGMENT_BYTES_MIN (UINT64_C(2) << 20)
void segment_set_length(struct segment_store *s, uint64_t bytes);

/* How much disk the segments may take before no new one is prepared in advance. */
void segment_set_disk_limit(struct segment_store *s, uint64_t bytes);

/* Bytes a record takes in its segment, blocks rounded up. */
uint64_t segment_record_bytes(const struct payload_ref *ref);

struct segment_usage {
	uint64_t disk_bytes; /* allocated by segments and large files */
	uint64_t free_bytes; /* of that, in segments without a record: used first */
	uint64_t
	    slack_bytes; /* of that, allocated in the current segment and not yet used */
	uint64_t live_bytes;   /* of that, records still needed */
	uint64_t doomed_bytes; /* of that, large files about to be removed */
};
void segment_get_usage(struct segment_store *s, struct segment_usage *ret);

/* Give memory kept for speed back to the system; for quiet times. */
void segment_trim(struct segment_store *s);

/* At start, before segment_store_start() */

/* So many records of the segment are still needed. Errors: -ENOENT there is no such file:
 * its number is not given to a new one while the lost records count as needed; -EBADMSG
 * no segment can have that number. */
int segment_adopt(struct segment_store *s, uint32_t segment, uint64_t records,
    uint64_t bytes) MUST_CHECK;
int segment_adopt_large(struct segment_store *s, int64_t seq) MUST_CHECK;

/* Called for each record found. whole: its body is there and has the hash that the
 * header says; a record with a damaged body has whole = false. Returns 0 to go on. */
typedef int segment_scan_fn(
    void *cls, const struct record *r, const struct payload_ref *ref, bool whole);

/* The number of the last activation: segments are numbered by it in the order in which
 * they were taken into use. */
uint64_t segment_last_activation(struct segment_store *s);

/* So many segments, the last activated, may hold records that were placed and not yet
 * committed when the process died: the memory budget bounds them, and each may lie partly
 * in the next segment. */
#define SEGMENT_RECENT (SEGMENT_BUDGET_BYTES / SEGMENT_BYTES + 2)

/* Look through the segments with a later activation than since, and those whose own header
 * is damaged. Bounded memory. */
int segment_scan(
    struct segment_store *s, uint64_t since, segment_scan_fn *fn, void *cls) MUST_CHECK;

/* Look through the large files; a file that is no record counts into ret_damaged and is
 * set aside under another name. check_bodies = false trusts the bodies' hashes. */
int segment_scan_large(struct segment_store *s, bool check_bodies, segment_scan_fn *fn,
    void *cls, uint64_t *ret_damaged) MUST_CHECK;

/* Writing */

/* Begin a body. Owns: the caller. Threads: any, one writer at a time per object. */
int segment_writer_new(struct segment_store *s, struct segment_writer **ret) MUST_CHECK;

/* Append. Errors: -ENOSPC, -EIO, -ENOMEM; only freeing is then left. */
int segment_writer_add(struct segment_writer *w, const void *data, size_t len) MUST_CHECK;

uint64_t segment_writer_bytes(const struct segment_writer *w);
bool segment_writer_is_large(const struct segment_writer *w);

/* Give the record its place: a small one is written to the current segment, a large one
 * gets its header. r carries seq, rxid, received_at_ms and the strings; the rest is
 * filled in. After success the place is taken until segment_release(). */
int segment_writer_place(
    struct segment_writer *w, struct record *r, struct payload_ref *ret) MUST_CHECK;

/* Large bodies, after place: sync the file and rename it. Blocks on the disk. */
int segment_writer_seal(struct segment_writer *w) MUST_CHECK;

/* Free the memory, and the file of a large body that was not sealed. Takes NULL, returns
 * NULL. */
struct segment_writer *segment_writer_free(struct segment_writer *w);

/* Make n placed records durable: one sync per segment they lie in, one of the folder if
 * large ones are among them. After an error none of them may be taken for durable, and
 * the segment concerned is not written to again. Threads: the committer. */
int segment_sync(
    struct segment_store *s, const struct payload_ref *refs, size_t n) MUST_CHECK;

/* The record's row is committed: from now on the index speaks for it. */
void segment_commit(struct segment_store *s, const struct payload_ref *ref);

/* A record that was placed but not committed is given up. */
void segment_abandon(struct segment_store *s, const struct payload_ref *ref, int64_t seq);

/* A committed record is not needed any more. */
void segment_release(struct segment_store *s, const struct payload_ref *ref, int64_t seq);

/* Give disk held by released records in part-filled segments back to the file system by
 * punching holes. list_live must call mark() for every payload that a committed row still
 * needs; it runs in the caller's thread with no lock held.
 * Returns 0 or list_live's error; ret_freed in bytes. */
typedef void segment_mark_fn(void *mark_cls, const struct payload_ref *ref);
int segment_reclaim(struct segment_store *s,
    int (*list_live)(void *cls, segment_mark_fn *mark, void *mark_cls), void *cls,
    uint64_t *ret_freed) MUST_CHECK;

/* Reading */

/* Open the record at ref; it must be the one with this seq and rxid.
 * Errors: -EBADMSG damaged or another record, -ENOENT, -EIO, -ENOMEM. Threads: any. */
int segment_reader_open(struct segment_store *s, const struct payload_ref *ref,
    int64_t seq, const struct rxid *rxid, struct segment_reader **ret) MUST_CHECK;

/* Valid as long as the reader. */
const struct record *segment_reader_record(const struct segment_reader *rd);

/* See spool_reader_read(). */
ssize_t segment_reader_read(struct segment_reader *rd, void *buf, size_t len) MUST_CHECK;
int segment_reader_rewind(struct segment_reader *rd) MUST_CHECK;
struct segment_reader *segment_reader_close(struct segment_reader *rd);

#endif
