/* SPDX-License-Identifier: MIT */
/* What the files of the payload store share: segment.c (which segment is what, space,
 * housekeeping), segment_write.c (bodies coming in), segment_read.c (reading, scanning).
 * Nobody else includes this. */
#ifndef RELAY_SEGMENT_INTERNAL_H
#define RELAY_SEGMENT_INTERNAL_H

#include "segment.h"

#include <pthread.h>
#include <stdatomic.h>

#define SEGMENT_BLOCK UINT64_C(4096)

/* Bodies are gathered in slots of this size. */
#define SEGMENT_SLOT_BYTES (UINT64_C(64) << 10)
#define SEGMENT_SLOTS (SEGMENT_BUDGET_BYTES / SEGMENT_SLOT_BYTES)

/* Where the body of a large file begins. */
#define SEGMENT_LARGE_BODY_AT RECORD_HEADER_MAX

enum segment_state {
	SEGMENT_FREE,    /* no record in it is needed; may be activated */
	SEGMENT_CURRENT, /* records are being placed in it */
	SEGMENT_FULL,    /* no more room, or left by an earlier run */
	SEGMENT_GOING,   /* being removed or prepared by the housekeeper */
	SEGMENT_LOST,    /* its file is missing, but rows speak of records in it */
};

struct segment {
	uint32_t number;
	enum segment_state state;
	int fd; /* open while current or while unsynced records are in it */
	uint8_t epoch[RECORD_EPOCH_BYTES];
	uint64_t activation; /* order in which segments were taken into use; 0 = never */
	uint64_t head;       /* where the next record goes */
	uint64_t allocated;  /* bytes on disk */
	uint64_t live_bytes; /* of records needed, committed or not yet */
	uint64_t live;       /* how many */
	uint64_t pins;       /* of those, placed and not yet committed */
	bool entry_synced;   /* its name in the folder is durable */
	bool sync_failed;    /* what was written before may be lost */
	bool broken;         /* a write or sync failed: never place in it again */
};

/* A large file to be removed by the housekeeper. */
struct segment_doomed {
	struct segment_doomed *next;
	int64_t seq;
	uint64_t bytes;
};

struct segment_store {
	/* Constant after segment_store_open(). */
	int segments_fd; /* folders */
	int large_fd;
	uint8_t *slots; /* SEGMENT_BUDGET_BYTES of address space */

	pthread_mutex_t lock;
	/* Under lock: */
	struct segment **segments; /* by number - 1; NULL = no such file */
	size_t segment_count;
	struct segment *current;
	uint64_t last_activation;
	uint64_t large_bytes;     /* on disk, those still coming in included */
	uint64_t doomed_bytes;    /* of that, about to be removed */
	uint64_t allocated_total; /* sums over segments, so that asking costs nothing */
	uint64_t live_total;
	uint64_t free_total; /* allocated by free ones */
	uint64_t disk_limit;
	uint64_t length;                    /* how far segments are filled */
	uint16_t free_slots[SEGMENT_SLOTS]; /* a stack: the warmest on top */
	size_t free_slot_count;
	struct segment_doomed *doomed;
	bool prepare; /* the housekeeper shall look for a spare */
	bool quiet;   /* no segment was taken into use since segment_trim() */
	bool stopping;
	pthread_cond_t work;

	pthread_t housekeeper;
	bool started;
	atomic_uint_fast32_t next_incoming;
};

/* The name of a segment or large file, relative to its folder. */
#define SEGMENT_NAME_SIZE 32
void segment_name(uint32_t number, char out[SEGMENT_NAME_SIZE]);
void segment_large_name(int64_t seq, char out[SEGMENT_NAME_SIZE]);

/* Bytes a record takes in a segment. */
static inline uint64_t segment_record_span(uint64_t header_bytes, uint64_t body_bytes)
{
	return (header_bytes + body_bytes + SEGMENT_BLOCK - 1) & ~(SEGMENT_BLOCK - 1);
}

/* Reserve span bytes in the current segment, changing to another when it is full; pins
 * the segment. Returns it with the offset, and its open descriptor stays valid while
 * pinned. Errors: -ENOSPC, -EIO, ... */
int segment_reserve(struct segment_store *s, uint64_t span, struct segment **ret,
    uint64_t *ret_offset) MUST_CHECK;

/* A write or sync in the segment failed. */
void segment_mark_broken(struct segment_store *s, struct segment *seg);

void *segment_take_slot(struct segment_store *s);
void segment_return_slot(struct segment_store *s, void *slot);

void segment_count_large(struct segment_store *s, int64_t delta_bytes);

/* Read a segment file's own header. false: none, or damaged. */
bool segment_read_header(
    int fd, uint8_t epoch[RECORD_EPOCH_BYTES], uint64_t *ret_activation);

#endif
