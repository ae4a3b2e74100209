/* SPDX-License-Identifier: MIT */
/* The rows of the spool: a thin layer of prepared statements over SQLite. Internal to
 * spool*.c. One struct spool_index is used by one thread at a time.
 *
 * Errors everywhere: -ENOSPC the disk is full, -EBADMSG the index is damaged, -ENOMEM,
 * -EEXIST a name is taken, -EIO anything else; spool_index_error() has SQLite's text for
 * the log.
 */
#ifndef RELAY_SPOOL_INDEX_H
#define RELAY_SPOOL_INDEX_H

#include "report.h"

#include <stdbool.h>
#include <stdint.h>

struct spool_index;

#define SPOOL_INDEX_NAME "spool.db"

/* Open or make the index in the folder (a path); a fresh or older schema is stepped up to
 * the present one. Errors also: -EPROTONOSUPPORT made by a newer version. */
int spool_index_open(const char *directory, struct spool_index **ret, bool *ret_fresh,
    char *errbuf, size_t errbuf_size) MUST_CHECK;

/* Open an index that exists, only to look at it. */
int spool_index_open_reader(const char *directory, struct spool_index **ret) MUST_CHECK;

struct spool_index *spool_index_close(struct spool_index *x);

/* Whether all pages hang together; reads the whole file. */
int spool_index_check(struct spool_index *x) MUST_CHECK;

/* SQLite's words on the last failure. */
const char *spool_index_error(const struct spool_index *x);

int spool_index_begin(struct spool_index *x) MUST_CHECK;
int spool_index_commit(struct spool_index *x) MUST_CHECK;
void spool_index_rollback(struct spool_index *x);

/* Reports */

struct spool_row {
	int64_t seq;
	struct rxid rxid;
	enum report_state state;
	int64_t lane;
	int64_t received_at_ms;
	struct payload_ref payload;
	unsigned attempts;
	bool ambiguous;
};

int spool_index_insert(struct spool_index *x, const struct spool_row *row,
    int64_t changed_at_ms, const char *format, const char *client,
    const char *reason) MUST_CHECK;

/* Returns 1 found, 0 no such report. */
int spool_index_get(struct spool_index *x, int64_t seq, struct spool_row *ret) MUST_CHECK;

/* What changes with a move; see struct spool_settlement. */
struct spool_change {
	enum report_state to;
	int64_t changed_at_ms;
	bool ambiguous;
	bool count_attempt;
	unsigned http_status;
	const char *reason;
	const char *upstream_rxid;
};
int spool_index_move(
    struct spool_index *x, int64_t seq, const struct spool_change *c) MUST_CHECK;

/* The oldest or newest reports of a lane that are queued, sending or held, as state says.
 * Returns how many. */
int spool_index_list_lane(struct spool_index *x, int64_t lane, enum report_state state,
    bool newest_first, size_t max, struct spool_row *out) MUST_CHECK;

/* Reports from seq on that wait, queued or held, oldest first. Returns how many. */
int spool_index_list_waiting(struct spool_index *x, int64_t from_seq, size_t max,
    struct spool_row *out) MUST_CHECK;

/* Reports in a state that has no way on by itself (sent, dead, dropped, evicted), changed
 * before a time; longest ago first. Returns how many. */
int spool_index_list_ended(struct spool_index *x, enum report_state state,
    int64_t before_ms, size_t max, struct spool_row *out) MUST_CHECK;

int spool_index_delete(struct spool_index *x, int64_t seq) MUST_CHECK;

/* Bytes of the index that hold something; free pages are used again first. */
int spool_index_used_bytes(struct spool_index *x, uint64_t *ret) MUST_CHECK;

/* When the oldest queued report of the lane was received; 0 = none. */
int spool_index_oldest_queued(
    struct spool_index *x, int64_t lane, int64_t *ret_at_ms) MUST_CHECK;

/* At start: all that were being sent become queued and ambiguous. Returns 0. */
int spool_index_requeue_sending(struct spool_index *x, uint64_t *ret_count) MUST_CHECK;

/* The highest seq ever committed, also if its row is gone; 0 = none. */
int spool_index_last_seq(struct spool_index *x, int64_t *ret) MUST_CHECK;

/* Kept sums: derivable from the rows, kept so that a start need not read them all */

int spool_index_put_lane(struct spool_index *x, int64_t id, const char *universe,
    const char *token) MUST_CHECK;
int spool_index_put_tally(struct spool_index *x, enum report_state state,
    uint64_t reports, uint64_t bytes) MUST_CHECK;
int spool_index_put_segment(
    struct spool_index *x, uint32_t segment, uint64_t records, uint64_t bytes) MUST_CHECK;

struct spool_index_visitor {
	int (*lane)(void *cls, int64_t id, const char *universe, const char *token);
	int (*lane_queued)(void *cls, int64_t id, uint64_t queued);
	int (*tally)(
	    void *cls, enum report_state state, uint64_t reports, uint64_t bytes);
	int (*segment)(void *cls, uint32_t segment, uint64_t records, uint64_t bytes);
	void *cls;
};

/* Visit all lanes, then the number queued of each lane that has any, all tallies, all
 * segments with a record. Ends early with a visitor's negative answer. */
int spool_index_load(
    struct spool_index *x, const struct spool_index_visitor *v) MUST_CHECK;

/* Whether the kept sums agree with the rows; reads all rows. */
int spool_index_check_sums(struct spool_index *x, bool *ret_good) MUST_CHECK;

/* Visit every row by seq. Ends early with visit's negative answer. */
int spool_index_each_row(struct spool_index *x,
    int (*visit)(void *cls, const struct spool_row *row), void *cls) MUST_CHECK;

/* Visit the payload of every report that has one in a segment. */
int spool_index_each_payload(struct spool_index *x,
    void (*visit)(void *cls, const struct payload_ref *ref), void *cls) MUST_CHECK;

/* Notes */

/* Single numbers; 0 where nothing was put. Stored as numbers: never renumber. */
enum spool_note {
	SPOOL_NOTE_CLEAN = 1, /* the last run closed the spool in order */
	SPOOL_NOTE_LAST_SEQ =
	    2, /* when it did: the last seq given, also to refused ones */
	SPOOL_NOTE_ACTIVATION = 3, /* when it did: the last activation of a segment */
	SPOOL_NOTE_REBUILDING =
	    4, /* not all records are in the index yet; 1 in a fresh one */
};
int spool_index_get_note(
    struct spool_index *x, enum spool_note note, int64_t *ret) MUST_CHECK;
int spool_index_put_note(
    struct spool_index *x, enum spool_note note, int64_t value) MUST_CHECK;

#endif
