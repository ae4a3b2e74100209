/* SPDX-License-Identifier: MIT */
/* Owns the making of one state: what of the changes that are not durable is there, and the
 * folder that shows it. The changed bytes are laid over the files' durable ones and taken
 * back afterwards. */
#include "disk_internal.h"

#include "bodies.h"
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const fate_names[DISK_FATES] = { "all lost", "all kept", "some kept",
	"last write torn", "a write torn", "some sectors kept", "names without data",
	"data without names", "names and some data" };

const char *disk_fate_name(enum disk_fate fate)
{
	return fate_names[fate];
}

/* What is decided once for a state. */
struct plan {
	enum disk_fate fate;
	uint64_t random;
	const struct change *torn; /* NULL = none */
	bool sizes_survive;        /* a lost write may still have made its file longer */
};

/* Laying bytes over */

/* Keep what a change of this range would overwrite. */
static void save(struct disk *d, struct inode *inode, uint64_t offset, uint64_t len)
{
	struct undo *u;

	d->undos =
	    disk_grow(d->undos, &d->undo_capacity, d->undo_count, sizeof(*d->undos));
	u = &d->undos[d->undo_count++];
	if (offset >= inode->size)
		len = 0;
	else if (len > inode->size - offset)
		len = inode->size - offset;
	*u = (struct undo){
		.inode = inode, .offset = offset, .len = len, .size = inode->size
	};
	if (len == 0)
		return;
	u->data = malloc(len);
	if (!u->data)
		abort();
	memcpy(u->data, inode->image + offset, len);
}

/* A change of a staged file shows in its time. */
static const struct timespec unchanged[2] = { { 0 } };

static bool was_left_alone(struct inode *inode)
{
	struct stat st;

	if (!inode->shared)
		return true;
	inode->shared = false;
	return fstat(inode->fd, &st) == 0 && st.st_mtim.tv_sec == 0;
}

bool disk_unstage(struct disk *d)
{
	bool good = true;

	for (size_t i = 0; i < d->inode_count; i++)
		good &= was_left_alone(d->inodes[i]);
	while (d->undo_count > 0) {
		struct undo *u = &d->undos[--d->undo_count];

		if (u->inode->size != u->size)
			disk_resize(u->inode, u->size);
		if (u->len > 0)
			memcpy(u->inode->image + u->offset, u->data, u->len);
		free(u->data);
	}
	return good;
}

static void lay(struct disk *d, struct inode *inode, const struct change *c)
{
	if (c->kind == DISKLOG_TRUNCATE)
		save(d, inode, c->len, UINT64_MAX - c->len);
	else
		save(d, inode, c->offset, c->len);
	disk_apply(inode, c);
}

/* The part of a write from one offset to another. */
static void lay_part(struct disk *d, struct inode *inode, const struct change *c,
    uint64_t from, uint64_t to)
{
	struct change part = *c;

	part.offset = from;
	part.len = to - from;
	if (c->data)
		part.data = c->data + (from - c->offset);
	lay(d, inode, &part);
}

static uint64_t sector_end(const struct change *c, uint64_t at)
{
	uint64_t end = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;

	return end < c->offset + c->len ? end : c->offset + c->len;
}

/* Any of its sectors. */
static void lay_sectors(
    struct disk *d, struct inode *inode, const struct change *c, uint64_t *random)
{
	uint64_t at = c->offset;

	if (c->kind == DISKLOG_TRUNCATE) {
		if (random_next(random) & 1)
			lay(d, inode, c);
		return;
	}
	while (at < c->offset + c->len) {
		uint64_t from = at;
		bool kept = random_next(random) & 1;

		/* Runs, since long ones are usual and short ones are found by chance. */
		do
			at = sector_end(c, at);
		while (at < c->offset + c->len && random_next(random) % 4 != 0);
		if (kept)
			lay_part(d, inode, c, from, at);
	}
}

/* The first sectors only. */
static void lay_torn(
    struct disk *d, struct inode *inode, const struct change *c, uint64_t *random)
{
	uint64_t first = c->offset / SECTOR_BYTES;
	uint64_t sectors = (c->offset + c->len - 1) / SECTOR_BYTES - first + 1;
	uint64_t end = (first + random_below(random, sectors)) * SECTOR_BYTES;

	if (end > c->offset)
		lay_part(d, inode, c, c->offset, end);
}

static void lay_as_planned(
    struct disk *d, struct inode *inode, const struct change *c, struct plan *p)
{
	switch (p->fate) {
	case DISK_LOST:
	case DISK_NAMES_ONLY:
	case DISK_FATES:
		return;
	case DISK_KEPT:
	case DISK_DATA_ONLY:
		lay(d, inode, c);
		return;
	case DISK_SOME:
	case DISK_NAMES_SOME:
		if (random_next(&p->random) & 1)
			lay(d, inode, c);
		return;
	case DISK_TORN_LAST:
		if (c == p->torn)
			lay_torn(d, inode, c, &p->random);
		else
			lay(d, inode, c);
		return;
	case DISK_TORN_ANY:
		if (c == p->torn)
			lay_sectors(d, inode, c, &p->random);
		else
			lay(d, inode, c);
		return;
	case DISK_SECTORS:
		lay_sectors(d, inode, c, &p->random);
		return;
	}
}

static void lay_over(struct disk *d, struct inode *inode, struct plan *p)
{
	uint64_t size = inode->size;

	for (size_t i = 0; i < inode->change_count; i++) {
		const struct change *c = &inode->changes[i];

		if (c->kind == DISKLOG_TRUNCATE)
			size = c->len;
		else if (c->kind != DISKLOG_PUNCH && c->offset + c->len > size)
			size = c->offset + c->len;
		lay_as_planned(d, inode, c, p);
	}
	if (p->sizes_survive && size > inode->size) {
		save(d, inode, inode->size, 0);
		disk_resize(inode, size);
	}
}

/* The write to be torn: the last, or any, that is not durable. */
static const struct change *choose_torn(struct disk *d, struct plan *p)
{
	const struct change *torn = NULL;
	uint64_t seen = 0;

	if (p->fate != DISK_TORN_LAST && p->fate != DISK_TORN_ANY)
		return NULL;
	for (size_t i = 0; i < d->inode_count; i++) {
		for (size_t k = 0; k < d->inodes[i]->change_count; k++) {
			const struct change *c = &d->inodes[i]->changes[k];

			if (c->kind == DISKLOG_TRUNCATE || c->len == 0)
				continue;
			seen++;
			if (p->fate == DISK_TORN_LAST
				? !torn || c->at > torn->at
				: random_below(&p->random, seen) == 0)
				torn = c;
		}
	}
	return torn;
}

/* Names */

static bool keeps_name(struct plan *p)
{
	switch (p->fate) {
	case DISK_LOST:
	case DISK_DATA_ONLY:
	case DISK_FATES:
		return false;
	case DISK_KEPT:
	case DISK_TORN_LAST:
	case DISK_TORN_ANY:
	case DISK_NAMES_ONLY:
	case DISK_NAMES_SOME:
		return true;
	case DISK_SOME:
	case DISK_SECTORS:
		return random_next(&p->random) & 1;
	}
	return false;
}

/* The folder's entries in this state; the caller frees the list. */
static struct entries choose_entries(const struct inode *folder, struct plan *p)
{
	struct entries e = { .capacity = folder->durable.count + 1 };

	e.list = calloc(e.capacity, sizeof(*e.list));
	if (!e.list)
		abort();
	e.count = folder->durable.count;
	if (e.count > 0)
		memcpy(e.list, folder->durable.list, e.count * sizeof(*e.list));
	for (size_t i = 0; i < folder->move_count; i++)
		if (keeps_name(p))
			entries_move(&e, &folder->moves[i]);
	return e;
}

static int stage_file(struct disk *d, struct inode *inode, const char *path, bool copy)
{
	char source[FILES_PATH_SIZE];

	files_path(source, "%s/%u", d->work, inode->number);
	if (copy)
		return files_copy_file(source, path);
	inode->shared = true;
	return link(source, path) < 0 || futimens(inode->fd, unchanged) < 0 ? -errno : 0;
}

static int stage_folder(struct disk *d, const struct inode *folder, struct plan *p,
    const char *path, bool copy)
{
	struct entries e = choose_entries(folder, p);
	int r = mkdir(path, 0700) < 0 ? -errno : 0;

	for (size_t i = 0; i < e.count && r == 0; i++) {
		char below[FILES_PATH_SIZE];

		files_path(below, "%s/%s", path, e.list[i].name);
		r = e.list[i].inode->is_folder
			? stage_folder(d, e.list[i].inode, p, below, copy)
			: stage_file(
			      d, e.list[i].inode, below, copy || folder == d->root);
	}
	free(e.list);
	return r;
}

int disk_stage(
    struct disk *d, enum disk_fate fate, uint64_t seed, const char *folder, bool copy)
{
	struct plan p = { .fate = fate, .random = seed };
	struct entries outside;
	int r = 0;

	p.sizes_survive = fate != DISK_LOST && random_next(&p.random) % 4 == 0;
	p.torn = choose_torn(d, &p);
	for (size_t i = 0; i < d->inode_count; i++)
		lay_over(d, d->inodes[i], &p);
	files_remove(folder);
	outside = choose_entries(d->outside, &p);
	if (entries_find(&outside, ROOT_NAME))
		r = stage_folder(d, d->root, &p, folder, copy);
	free(outside.list);
	return r;
}
