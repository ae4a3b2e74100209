/* SPDX-License-Identifier: MIT */
/* What the files of the spool share: spool.c (the door), spool_commit.c (the committer),
 * spool_recover.c (what happens before it starts), spool_room.c (bounds),
 * spool_view.c (looking). Nobody else includes this. */
#ifndef RELAY_SPOOL_INTERNAL_H
#define RELAY_SPOOL_INTERNAL_H

#include "segment.h"
#include "spool.h"
#include "spool_index.h"
#include "spool_lanes.h"

#include <pthread.h>
#include <stdatomic.h>

enum spool_op_kind {
	SPOOL_ACCEPT,
	SPOOL_SETTLE,
	SPOOL_CLAIM,
	SPOOL_TIDY,
};

/* One thing for the committer to do. */
struct spool_op {
	struct spool_op *next;
	enum spool_op_kind kind;
	int result; /* set by the committer */
};

struct spool_queue {
	struct spool_op *head;
	struct spool_op **tail;
};

/* A payload from its first byte to its commit. */
struct spool_payload {
	struct spool_op op; /* SPOOL_ACCEPT */
	struct spool *spool;
	struct segment_writer *writer;
	/* Once handed over: */
	struct spool_row row;
	struct strbuf strings; /* universe, token, format, client, each NUL-terminated */
	const char *universe, *token, *format, *client;
	spool_commit_fn *done;
	void *cls;
};

struct spool_settle_op {
	struct spool_op op;                 /* SPOOL_SETTLE */
	struct spool_settlement settlement; /* strings owned */
};

struct spool_claim_op {
	struct spool_op op; /* SPOOL_CLAIM; lives on the claimer's stack */
	int64_t lane;
	bool newest_first;
	size_t max;
	struct spool_row *rows;
	size_t count;
	bool finished; /* under the spool's lock */
};

struct spool_tidy_op {
	struct spool_op op; /* SPOOL_TIDY; lives on the caller's stack */
	struct spool_ages ages;
	bool more;     /* there was more to do than one step */
	bool finished; /* under the spool's lock */
};

struct spool_sum {
	uint64_t reports;
	uint64_t bytes;
};

struct spool {
	/* Constant after open. */
	char *directory;
	int dir_fd; /* holds the lock */
	struct segment_store *segments;
	void (*on_due)(void *cls);
	void *on_due_cls;
	atomic_int_fast64_t last_seq; /* given to the last record placed */

	/* Owned by the committer (before it runs: by spool_open()). */
	struct spool_index *index;
	struct spool_sum *segment_sums; /* by number - 1: committed records needed */
	size_t segment_sum_count;
	int64_t waiting_from;   /* no report with a lower seq is queued or held */
	int64_t reclaim_at_ms;  /* monotonic: not before then, for it reads all rows */
	uint64_t reserve_bytes; /* held by the reserve file now */
	struct spool_queue unsettled; /* settlements to be tried again */

	pthread_mutex_t lock;
	/* Under lock: */
	struct spool_queue queue;                   /* for the committer */
	struct spool_queue sealing;                 /* large payloads for the sealer */
	struct spool_lanes lanes;                   /* changed by the committer only */
	struct spool_sum tally[REPORT_STATE_COUNT]; /* changed by the committer only */
	struct spool_limits limits;
	bool limits_changed; /* the committer has not seen them */
	int store_error; /* nothing can be stored: refuse at once, the committer probes */
	int64_t heal_at_ms;   /* monotonic: when to try storing again after that */
	uint64_t fixed_bytes; /* of the spool's disk space: index and reserve */
	bool closing;         /* nothing new is taken */
	bool sealer_stop;     /* the sealer ends when its queue is empty */
	bool commit_stop;     /* the committer ends when its queue is empty */
	pthread_cond_t commit_work;
	pthread_cond_t seal_work;
	pthread_cond_t finished; /* a claim or a tidying */

	pthread_mutex_t view_lock;
	struct spool_index *view; /* under view_lock; NULL until somebody looks */

	pthread_t committer;
	pthread_t sealer;
	bool committer_runs;
	bool sealer_runs;
};

void spool_queue_init(struct spool_queue *q);
void spool_queue_add(struct spool_queue *q, struct spool_op *op);
/* Take all at once; the list is linked by next. */
struct spool_op *spool_queue_take(struct spool_queue *q);

/* Hand an operation to the committer. Errors: -ESHUTDOWN. */
int spool_hand_over(struct spool *s, struct spool_op *op) MUST_CHECK;

/* Tell whoever waits for a payload's commit how it ended, and free the payload. */
void spool_payload_finish(struct spool_payload *p, int error);

void spool_settle_op_free(struct spool_settle_op *op);

/* The threads; arg is the spool. */
void *spool_commit_thread(void *arg);

/* Open the index and bring it and the payloads into agreement. Only for spool_open(),
 * while nothing else runs. */
int spool_recover(struct spool *s, struct spool_recovery *ret, char *errbuf,
    size_t errbuf_size) MUST_CHECK;

/* When the oldest queued report was received; 0 = none, or it can't be told. */
int64_t spool_view_oldest_queued(struct spool *s);

/* The spool's bounds (spool_room.c) */

/* What the bounds are measured against during one transaction. */
struct spool_room {
	struct spool_limits limits;
	uint64_t
	    in_use_bytes; /* payloads needed, those of this batch included; and fixed */
	uint64_t sent_bytes;    /* about what rows of sent reports take of the index */
	uint64_t movable_bytes; /* no more than this can be had by eviction */
	uint64_t fixed_bytes;   /* of that, not payloads: no eviction frees them */
	uint64_t reports;       /* that have a payload */
	uint64_t grown_bytes;   /* accepted in this transaction */
	uint64_t freed_bytes;   /* evicted in it */
	bool disk_low;          /* the file system is below min_free */
};

/* Look before a transaction. Errors: of the index. */
int spool_room_measure(struct spool *s, struct spool_room *ret) MUST_CHECK;

/* Before the store starts: how much disk it may take in advance. */
void spool_room_start(struct spool *s);

/* Whether something must go before the report in question may stay. */
bool spool_room_is_over(const struct spool_room *room);

/* After a transaction: give disk back when the spool takes more than it may. */
void spool_room_reclaim(struct spool *s);

/* Make the reserve file as large as the limits say. Returns whether the disk had room. */
bool spool_room_take_reserve(struct spool *s);

/* Give the reserve up. Returns whether there was one. */
bool spool_room_give_reserve(struct spool *s);

/* A spool with a small limit has at least so many segments. */
#define SPOOL_SEGMENTS_MIN 16

/* How soon storing is tried again after a failure. */
#define SPOOL_HEAL_MS 1000

/* Something could not be stored. If that is the disk's or the index's fault: refuse from
 * now on, and probe later. */
void spool_note_store_error(struct spool *s, int error);

/* Room in segment_sums for this segment. */
int spool_grow_sums(struct spool *s, uint32_t segment) MUST_CHECK;

#endif
