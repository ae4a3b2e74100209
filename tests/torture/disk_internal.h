/* SPDX-License-Identifier: MIT */
/* What the files of the disk model share: disk.c (following the log), disk_stage.c (making
 * a state of it). */
#ifndef TORTURE_DISK_INTERNAL_H
#define TORTURE_DISK_INTERNAL_H

#include "disk.h"

/* Address space for one file's bytes. */
#define IMAGE_BYTES (UINT64_C(64) << 20)

#define SECTOR_BYTES 512u

#define NAME_BYTES 64

/* A change of a file that is not durable yet. */
struct change {
	uint64_t at;            /* event */
	enum disklog_kind kind; /* WRITE, ZERO, PUNCH, TRUNCATE */
	uint64_t offset, len;
	const uint8_t *data; /* in the log */
};

struct entry {
	char name[NAME_BYTES];
	struct inode *inode;
};

struct entries {
	struct entry *list;
	size_t count, capacity;
};

/* A change of a folder that is not durable yet. */
struct move {
	uint64_t at;
	char from[NAME_BYTES]; /* "" = made */
	char to[NAME_BYTES];   /* "" = removed */
	struct inode *inode;
};

struct inode {
	unsigned number; /* names its file in the work folder */
	bool is_folder;
	/* A file: */
	int fd;
	uint8_t *image;
	uint64_t size; /* of the file behind the image */
	bool shared;   /* with the state that is staged */
	struct change *changes;
	size_t change_count, change_capacity;
	/* A folder: */
	struct entries live; /* as the process sees it */
	struct entries durable;
	struct move *moves;
	size_t move_count, move_capacity;
};

/* Bytes to put back. */
struct undo {
	struct inode *inode;
	uint64_t offset, len;
	uint64_t size; /* of the file, to be restored first */
	uint8_t *data;
};

struct log {
	const uint8_t *data;
	size_t size;
};

struct disk {
	char *work;
	struct log *logs;
	size_t log_count;
	uint64_t *cuts;
	size_t cut_count, cut_capacity;
	char error[640];

	uint64_t at; /* events that have happened */
	size_t log;  /* the log and the place in it of the next event */
	size_t log_at;

	struct inode **inodes;
	size_t inode_count, inode_capacity;
	struct inode *root;
	struct inode *outside;  /* holds the root by the name "spool" */
	struct inode **handles; /* by handle, of the present process */
	size_t handle_capacity;
	uint64_t *syncs; /* by number: the event at which it began */
	size_t sync_capacity;

	struct disk_name *acked, *over;
	size_t acked_count, acked_capacity, over_count, over_capacity;

	struct undo *undos;
	size_t undo_count, undo_capacity;
};

#define ROOT_NAME "spool"

/* Make room for one more of count elements; aborts when out of memory, as all here does. */
void *disk_grow(void *array, size_t *capacity, size_t count, size_t size);

/* Set the size of the file behind an image; aborts where that fails. */
void disk_resize(struct inode *inode, uint64_t size);

void disk_apply(struct inode *inode, const struct change *c);

struct inode *entries_find(const struct entries *e, const char *name);
void entries_move(struct entries *e, const struct move *m);

#endif
