/* SPDX-License-Identifier: MIT */
/* The spool: payloads in the segment store, one row per report in a SQLite index (WAL,
 * synchronous=FULL). The index is the truth: a report exists if and only if its row does,
 * and a row is committed only after its payload is on stable storage.
 *
 * One thread, the committer, writes the index. Whoever changes something hands it an
 * operation; the committer takes all that wait, syncs the payloads once, makes one
 * transaction of them and then tells everyone. So the batch grows with the load and a
 * lone operation never waits for company.
 *
 * A lane is a destination: universe and token. Reports of one lane are sent in order and
 * share its backoff; lanes share the upstream fairly.
 */
#ifndef RELAY_SPOOL_H
#define RELAY_SPOOL_H

#include "report.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct spool;
struct spool_payload;

enum spool_when_full {
	SPOOL_EVICT,
	SPOOL_REJECT
};

struct spool_limits {
	uint64_t max_bytes;   /* on disk */
	uint64_t max_reports; /* with payload */
	uint64_t min_free_bytes;
	uint64_t reserve_bytes;
	enum spool_when_full when_full;
};

struct spool_options {
	const char *directory; /* made with mode 0700 if absent */
	struct spool_limits limits;
	/* Called when a report has become due: after each commit that queued one. No lock
	 * is held; must not block. May be NULL. */
	void (*on_due)(void *cls);
	void *cls;
};

/* What one open found and mended, for the start-up log line. */
struct spool_recovery {
	uint64_t requeued;  /* were being sent when the last run ended */
	uint64_t recovered; /* whole records no row knew, taken back */
	uint64_t damaged;   /* records put aside as dead */
	uint64_t discarded; /* unfinished payloads removed */
	bool rebuilt;       /* the index was missing or damaged and made anew */
};

/* Open or make the spool, take its lock, recover, start the committer.
 *
 * Errors: -EBUSY another daemon has it; -EACCES, -ENOTDIR, ... as the system says;
 *         -EPROTONOSUPPORT the index is of a newer version; -EIO. The reason, with the
 *         path at fault, is in errbuf.
 */
int spool_open(const struct spool_options *options, struct spool **ret,
    struct spool_recovery *ret_recovery, char *errbuf, size_t errbuf_size) MUST_CHECK;

/* Finish what was handed over, stop the committer, close. Takes NULL, returns NULL. All
 * payloads must have been committed or aborted and all reports freed. */
struct spool *spool_close(struct spool *s);

/* Take new limits into force. Threads: any. */
void spool_set_limits(struct spool *s, const struct spool_limits *limits);

/* Taking a report */

/* Whether a submission of so many body bytes (0 = not known yet) would be taken now.
 * Returns: 0; -EDQUOT a limit or the free-space floor is reached and nothing may be
 * evicted; -ENOSPC the disk is full, -EROFS, -EIO it cannot be written; -ESHUTDOWN the
 * spool is closing. Cheap; threads: any. */
int spool_check_room(struct spool *s, uint64_t body_bytes) MUST_CHECK;

/* Why in words, for a negative errno of the spool. A literal or strerror()'s. */
const char *spool_error_text(int error);

/* Begin to receive a payload. Small ones are gathered in memory within a fixed budget,
 * large ones stream to a file that vanishes unless committed.
 * Owns: the caller; ends with spool_commit() or spool_payload_abort(). */
int spool_payload_begin(struct spool *s, struct spool_payload **ret) MUST_CHECK;

/* Append. Errors: -ENOSPC, -EIO, -ENOMEM; the payload can then only be aborted. */
int spool_payload_write(struct spool_payload *p, const void *data, size_t len) MUST_CHECK;

/* Forget a payload and leave nothing behind. Takes NULL, returns NULL. */
struct spool_payload *spool_payload_abort(struct spool_payload *p);

/* A submission ready to become a report. All strings are borrowed until spool_commit()
 * returns. */
struct spool_draft {
	int64_t received_at_ms;
	const char *universe; /* "" = none named */
	const char *token;
	const char *format; /* effective */
	const char *target;
	const char *content_type;     /* or NULL */
	const char *content_encoding; /* or NULL */
	const char *client;           /* or NULL */
};

/* How a commit ended. */
struct spool_verdict {
	int error; /* 0, or as spool_check_room(), or -ENOMEM: nothing is stored */
	struct rxid rxid;
};

typedef void spool_commit_fn(void *cls, const struct spool_verdict *verdict);

/* Make payload and draft a report. Takes the payload over in any case. done is called
 * exactly once, from the committer or (at an early failure) from the caller's thread
 * before this returns; when it says 0, the report is on stable storage. done must not
 * block nor call the spool. */
void spool_commit(struct spool *s, struct spool_payload *payload,
    const struct spool_draft *draft, spool_commit_fn *done, void *cls);

/* Draining */

struct spool_lane {
	int64_t id;
	uint64_t queued; /* reports in state queued */
};

/* Copy up to max lanes that have something queued, by id, beginning after lane id after.
 * Returns how many. Threads: any. */
size_t spool_list_lanes(
    struct spool *s, int64_t after, struct spool_lane *out, size_t max);

/* Settle an outcome: one legal move of a report that is being sent (or, for a change by
 * hand, in any state from which the move is legal). */
struct spool_settlement {
	int64_t seq;
	enum report_state to;      /* SENT, QUEUED, HELD, DEAD, DROPPED */
	bool ambiguous;            /* sticky once set */
	bool count_attempt;        /* the upload began: attempts + 1 */
	unsigned http_status;      /* upstream's answer, 0 = none */
	const char *reason;        /* for people, or NULL; at most 500 bytes are kept */
	const char *upstream_rxid; /* for SENT, or NULL */
};

/* Hand over settlements; returns at once; strings are copied. They are applied in order,
 * before any claim made later, and the payloads of finished reports are released after
 * their rows are durable. Errors: -ENOMEM, -ESHUTDOWN. Threads: any. */
int spool_settle(
    struct spool *s, const struct spool_settlement *list, size_t n) MUST_CHECK;

/* Claim up to max reports of one lane, oldest first (newest first if so asked), and mark
 * them as being sent. Blocks until the mark is durable.
 * Owns:    caller frees each with report_free(); each must be settled.
 * Returns: how many (0 = the lane has nothing queued), or -EIO, -ENOMEM, -ESHUTDOWN.
 * Threads: the forwarder. */
int spool_claim(struct spool *s, int64_t lane, bool newest_first, size_t max,
    struct report **out) MUST_CHECK;

/* A claimed report's body, to be read in order. The stored SHA-256 is checked while
 * reading: the read that would complete a body with another hash fails instead, so a
 * damaged body is never handed over whole. */
struct spool_reader;

int spool_reader_open(
    struct spool *s, const struct report *r, struct spool_reader **ret) MUST_CHECK;

/* Read up to len bytes. Returns how many, 0 at the end, -EBADMSG when the record is
 * damaged, -EIO. Blocks on the disk. */
ssize_t spool_reader_read(struct spool_reader *rd, void *buf, size_t len) MUST_CHECK;

/* Begin again at the first byte (libcurl's seek callback after a stale connection). */
int spool_reader_rewind(struct spool_reader *rd) MUST_CHECK;

struct spool_reader *spool_reader_close(struct spool_reader *rd);

/* Keeping house */

struct spool_ages {
	int64_t max_age_ms;   /* a report that waits longer is dead */
	int64_t keep_sent_ms; /* rows of sent reports are kept so long */
	int64_t keep_dead_ms; /* dead reports, and rows of dropped and evicted ones */
};

/* One small step of what time brings: expired reports become dead, rows and payloads kept
 * long enough go. Blocks until it is durable.
 * Returns: 1 there is more to do, 0 not now, or a negative errno. Threads: any but the
 * committer. */
int spool_tidy(struct spool *s, const struct spool_ages *ages) MUST_CHECK;

/* Looking */

struct spool_stats {
	uint64_t reports[REPORT_STATE_COUNT]; /* by state */
	uint64_t payload_bytes;               /* of reports that still have one */
	uint64_t disk_bytes;                  /* what the spool takes on disk */
	uint64_t limit_bytes;
	int64_t oldest_queued_at_ms; /* 0 = nothing queued */
	int store_error; /* 0, or why nothing can be stored now: spool_check_room() */
};

/* Give memory that was kept for speed back to the system; for quiet times. Threads: any.
 */
void spool_trim(struct spool *s);

/* Costs a look-up in the index per lane that has something queued. Threads: any. */
void spool_get_stats(struct spool *s, struct spool_stats *ret);

#endif
