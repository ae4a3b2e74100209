/* SPDX-License-Identifier: MIT */
/* Owns the following of a recording: which bytes and names are durable after each event,
 * and which changes are not yet. Out of memory, or out of room in the work folder, it
 * aborts: it is part of a test. */
#include "disk_internal.h"

#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of the many zeros with which a segment is prepared, one cut in so many. */
#define ZEROS_PER_CUT 64

void *disk_grow(void *array, size_t *capacity, size_t count, size_t size)
{
	size_t wanted = *capacity ? *capacity * 2 : 16;

	if (count < *capacity)
		return array;
	while (wanted <= count)
		wanted *= 2;
	array = reallocarray(array, wanted, size);
	if (!array)
		abort();
	memset((uint8_t *)array + *capacity * size, 0, (wanted - *capacity) * size);
	*capacity = wanted;
	return array;
}

/* Files and folders */

static struct inode *add_inode(struct disk *d, bool is_folder)
{
	struct inode *inode = calloc(1, sizeof(*inode));
	char path[FILES_PATH_SIZE];

	if (!inode)
		abort();
	d->inodes =
	    disk_grow(d->inodes, &d->inode_capacity, d->inode_count, sizeof(*d->inodes));
	inode->number = (unsigned)d->inode_count;
	d->inodes[d->inode_count++] = inode;
	inode->is_folder = is_folder;
	inode->fd = -1;
	if (is_folder)
		return inode;
	files_path(path, "%s/%u", d->work, inode->number);
	inode->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (inode->fd < 0)
		abort();
	inode->image =
	    mmap(NULL, IMAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, inode->fd, 0);
	if (inode->image == MAP_FAILED)
		abort();
	return inode;
}

static void free_inode(struct inode *inode)
{
	if (inode->image)
		(void)munmap(inode->image, IMAGE_BYTES);
	if (inode->fd >= 0)
		(void)close(inode->fd);
	free(inode->changes);
	free(inode->live.list);
	free(inode->durable.list);
	free(inode->moves);
	free(inode);
}

void disk_resize(struct inode *inode, uint64_t size)
{
	if (size > IMAGE_BYTES || ftruncate(inode->fd, (off_t)size) < 0)
		abort();
	inode->size = size;
}

void disk_apply(struct inode *inode, const struct change *c)
{
	uint64_t end = c->offset + c->len;

	if (c->kind == DISKLOG_TRUNCATE) {
		disk_resize(inode, c->len);
		return;
	}
	if (c->kind == DISKLOG_PUNCH) {
		if (c->offset >= inode->size)
			return;
		if (end > inode->size)
			end = inode->size;
	}
	if (c->data) {
		if (end > inode->size)
			disk_resize(inode, end);
		memcpy(inode->image + c->offset, c->data, c->len);
		return;
	}
	/* Beyond the end there are only zeros: then a hole will do. */
	if (c->offset < inode->size)
		memset(inode->image + c->offset, 0,
		    (end < inode->size ? end : inode->size) - c->offset);
	if (end > inode->size)
		disk_resize(inode, end);
}

struct inode *entries_find(const struct entries *e, const char *name)
{
	for (size_t i = 0; i < e->count; i++)
		if (strcmp(e->list[i].name, name) == 0)
			return e->list[i].inode;
	return NULL;
}

static void entries_remove(struct entries *e, const char *name)
{
	for (size_t i = 0; i < e->count; i++) {
		if (strcmp(e->list[i].name, name) == 0) {
			e->list[i] = e->list[--e->count];
			return;
		}
	}
}

void entries_move(struct entries *e, const struct move *m)
{
	struct entry *fresh;

	if (m->from[0])
		entries_remove(e, m->from);
	if (!m->to[0])
		return;
	entries_remove(e, m->to);
	e->list = disk_grow(e->list, &e->capacity, e->count, sizeof(*e->list));
	fresh = &e->list[e->count++];
	(void)snprintf(fresh->name, sizeof(fresh->name), "%s", m->to);
	fresh->inode = m->inode;
}

/* Reading the logs */

struct event {
	struct disklog_event head;
	char text[512];
	const char *second; /* of two texts */
	const uint8_t *data;
};

/* The next event at *at of a log. Returns false at its end, or where it was cut short. */
static bool read_event(const struct log *log, size_t *at, struct event *ret)
{
	size_t left = log->size - *at;
	const uint8_t *p = log->data + *at;
	size_t bytes;

	if (left < sizeof(ret->head))
		return false;
	memcpy(&ret->head, p, sizeof(ret->head));
	bytes = sizeof(ret->head) + ret->head.text_bytes + ret->head.data_bytes;
	if (left < bytes)
		return false;
	if (ret->head.text_bytes >= sizeof(ret->text))
		abort();
	p += sizeof(ret->head);
	memcpy(ret->text, p, ret->head.text_bytes);
	ret->text[ret->head.text_bytes] = '\0';
	ret->second = ret->text + strlen(ret->text) + 1;
	ret->data = ret->head.data_bytes > 0 ? p + ret->head.text_bytes : NULL;
	*at += bytes;
	return true;
}

static bool is_worth_a_cut(const struct event *e, unsigned *zeros)
{
	switch ((enum disklog_kind)e->head.kind) {
	case DISKLOG_ZERO:
		return (*zeros)++ % ZEROS_PER_CUT == 0;
	case DISKLOG_OPEN:
		return (e->head.offset & (DISKLOG_CREATED | DISKLOG_TRUNCATED)) != 0;
	case DISKLOG_SYNC:
	case DISKLOG_UNKNOWN:
		return false;
	case DISKLOG_WRITE:
	case DISKLOG_PUNCH:
	case DISKLOG_TRUNCATE:
	case DISKLOG_SYNCED:
	case DISKLOG_UNSYNCED:
	case DISKLOG_MKDIR:
	case DISKLOG_RENAME:
	case DISKLOG_UNLINK:
	case DISKLOG_ACK:
	case DISKLOG_OVER:
		return true;
	}
	return false;
}

static void list_cuts(struct disk *d, unsigned from_log)
{
	uint64_t events = 0;
	unsigned zeros = 0;

	for (size_t i = 0; i < d->log_count; i++) {
		struct event e;
		size_t at = 0;

		while (read_event(&d->logs[i], &at, &e)) {
			events++;
			if (i < from_log || !is_worth_a_cut(&e, &zeros))
				continue;
			d->cuts = disk_grow(
			    d->cuts, &d->cut_capacity, d->cut_count, sizeof(*d->cuts));
			d->cuts[d->cut_count++] = events;
		}
	}
}

static int map_log(const char *path, struct log *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		abort();
	*ret = (struct log){ .size = (size_t)st.st_size };
	if (st.st_size > 0) {
		p = mmap(NULL, ret->size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED)
			abort();
		ret->data = p;
	}
	(void)close(fd);
	return 0;
}

static int map_logs(struct disk *d, const char *recording)
{
	char path[FILES_PATH_SIZE];
	int r = 0;

	while (r == 0) {
		files_path(path, "%s/log.%zu", recording, d->log_count);
		d->logs = reallocarray(d->logs, d->log_count + 1, sizeof(*d->logs));
		if (!d->logs)
			abort();
		r = map_log(path, &d->logs[d->log_count]);
		if (r == 0)
			d->log_count++;
	}
	return r == -ENOENT && d->log_count > 0 ? 0 : r;
}

/* Following */

static int refuse(struct disk *d, const char *what, const char *which)
{
	(void)snprintf(
	    d->error, sizeof(d->error), "event %" PRIu64 ": %s %s", d->at, what, which);
	return -EPROTO;
}

/* The folder of a relative path, as the process sees it, and the name in it. */
static struct inode *find_folder(struct disk *d, const char *path, const char **ret_name)
{
	const char *slash = strchr(path, '/');
	char first[NAME_BYTES];
	struct inode *folder;

	*ret_name = slash ? slash + 1 : path;
	if (*path == '\0') {
		*ret_name = ROOT_NAME;
		return d->outside;
	}
	if (!slash)
		return d->root;
	(void)snprintf(first, sizeof(first), "%.*s", (int)(slash - path), path);
	folder = entries_find(&d->root->live, first);
	return folder && folder->is_folder && !strchr(slash + 1, '/') ? folder : NULL;
}

static struct inode *find_inode(struct disk *d, const char *path)
{
	const char *name;
	struct inode *folder;

	if (strcmp(path, "..") == 0)
		return d->outside;
	folder = find_folder(d, path, &name);
	return folder ? entries_find(&folder->live, name) : NULL;
}

static void move(struct disk *d, struct inode *folder, const char *from, const char *to,
    struct inode *inode)
{
	struct move *m;

	folder->moves = disk_grow(folder->moves, &folder->move_capacity,
	    folder->move_count, sizeof(*folder->moves));
	m = &folder->moves[folder->move_count++];
	*m = (struct move){ .at = d->at, .inode = inode };
	(void)snprintf(m->from, sizeof(m->from), "%s", from);
	(void)snprintf(m->to, sizeof(m->to), "%s", to);
	entries_move(&folder->live, m);
}

static void change(struct disk *d, struct inode *inode, const struct event *e)
{
	inode->changes = disk_grow(inode->changes, &inode->change_capacity,
	    inode->change_count, sizeof(*inode->changes));
	inode->changes[inode->change_count++] = (struct change){ .at = d->at,
		.kind = (enum disklog_kind)e->head.kind,
		.offset = e->head.offset,
		.len = e->head.len,
		.data = e->data };
}

static int follow_open(struct disk *d, const struct event *e)
{
	struct inode *inode = find_inode(d, e->text);
	const char *name;
	struct inode *folder = find_folder(d, e->text, &name);
	struct event emptied = { .head = { .kind = DISKLOG_TRUNCATE } };

	if (e->head.offset & DISKLOG_CREATED) {
		if (inode || !folder)
			return refuse(d, "cannot be made:", e->text);
		inode = add_inode(d, false);
		move(d, folder, "", name, inode);
	}
	if (!inode)
		return refuse(d, "opens what is not there:", e->text);
	if (inode->is_folder != ((e->head.offset & DISKLOG_FOLDER) != 0))
		return refuse(d, "is of another kind:", e->text);
	if (e->head.offset & DISKLOG_TRUNCATED)
		change(d, inode, &emptied);
	d->handles = disk_grow(
	    d->handles, &d->handle_capacity, e->head.handle, sizeof(struct inode *));
	d->handles[e->head.handle] = inode;
	return 0;
}

/* What was changed before the sync began is durable. */
static void make_durable(struct inode *inode, uint64_t before)
{
	size_t n = 0;

	while (n < inode->change_count && inode->changes[n].at < before)
		disk_apply(inode, &inode->changes[n++]);
	inode->change_count -= n;
	if (n > 0)
		memmove(inode->changes, inode->changes + n,
		    inode->change_count * sizeof(*inode->changes));
	for (n = 0; n < inode->move_count && inode->moves[n].at < before; n++)
		entries_move(&inode->durable, &inode->moves[n]);
	inode->move_count -= n;
	if (n > 0)
		memmove(inode->moves, inode->moves + n,
		    inode->move_count * sizeof(*inode->moves));
}

/* What was changed before the failed sync began never gets to the disk; names may. */
static void make_lost(struct inode *inode, uint64_t before)
{
	size_t n = 0;

	while (n < inode->change_count && inode->changes[n].at < before)
		n++;
	inode->change_count -= n;
	if (n > 0)
		memmove(inode->changes, inode->changes + n,
		    inode->change_count * sizeof(*inode->changes));
}

static int follow_handle(struct disk *d, const struct event *e)
{
	struct inode *inode =
	    e->head.handle < d->handle_capacity ? d->handles[e->head.handle] : NULL;
	enum disklog_kind kind = (enum disklog_kind)e->head.kind;

	if (!inode)
		return refuse(d, "uses an unknown handle", "");
	if (kind == DISKLOG_SYNC) {
		d->syncs = disk_grow(
		    d->syncs, &d->sync_capacity, e->head.offset, sizeof(*d->syncs));
		d->syncs[e->head.offset] = d->at;
	} else if (kind == DISKLOG_SYNCED) {
		make_durable(inode, d->syncs[e->head.offset]);
	} else if (kind == DISKLOG_UNSYNCED) {
		make_lost(inode, d->syncs[e->head.offset]);
	} else if (inode->is_folder) {
		return refuse(d, "writes to a folder", "");
	} else {
		change(d, inode, e);
	}
	return 0;
}

static int follow_name(struct disk *d, const struct event *e)
{
	struct inode *inode = find_inode(d, e->text);
	const char *name;
	struct inode *folder = find_folder(d, e->text, &name);
	const char *other = "";

	if (!folder || (e->head.kind == DISKLOG_MKDIR) == (inode != NULL))
		return refuse(d, "names what the model does not know:", e->text);
	if (e->head.kind == DISKLOG_MKDIR) {
		inode = folder == d->outside ? d->root : add_inode(d, true);
		move(d, folder, "", name, inode);
		return 0;
	}
	if (e->head.kind == DISKLOG_RENAME && find_folder(d, e->second, &other) != folder)
		return refuse(d, "renames into another folder:", e->text);
	move(d, folder, name, other, inode);
	return 0;
}

static void note_name(
    struct disk_name **list, size_t *count, size_t *capacity, const char *text)
{
	*list = disk_grow(*list, capacity, *count, sizeof(**list));
	memcpy((*list)[*count].text, text, DISKLOG_NAME_BYTES);
	++*count;
}

static int follow(struct disk *d, const struct event *e)
{
	switch ((enum disklog_kind)e->head.kind) {
	case DISKLOG_OPEN:
		return follow_open(d, e);
	case DISKLOG_WRITE:
	case DISKLOG_ZERO:
	case DISKLOG_PUNCH:
	case DISKLOG_TRUNCATE:
	case DISKLOG_SYNC:
	case DISKLOG_SYNCED:
	case DISKLOG_UNSYNCED:
		return follow_handle(d, e);
	case DISKLOG_MKDIR:
	case DISKLOG_RENAME:
	case DISKLOG_UNLINK:
		return follow_name(d, e);
	case DISKLOG_ACK:
		note_name(&d->acked, &d->acked_count, &d->acked_capacity, e->text);
		return 0;
	case DISKLOG_OVER:
		note_name(&d->over, &d->over_count, &d->over_capacity, e->text);
		return 0;
	case DISKLOG_UNKNOWN:
		break;
	}
	return refuse(d, "is none that the model knows:", e->text);
}

int disk_advance(struct disk *d, uint64_t events)
{
	struct event e;
	int r = 0;

	while (d->at < events && r == 0) {
		if (!read_event(&d->logs[d->log], &d->log_at, &e)) {
			/* Another process begins; what is not durable stays in memory. */
			if (++d->log == d->log_count)
				return refuse(d, "is beyond the end", "");
			d->log_at = 0;
			if (d->handles)
				memset(d->handles, 0,
				    d->handle_capacity * sizeof(*d->handles));
			continue;
		}
		r = follow(d, &e);
		d->at++;
	}
	return r;
}

/* Beginning and end */

/* Whether the recorded process made the spool folder itself. */
static bool makes_root(const struct disk *d)
{
	struct event e;
	size_t at = 0;

	while (read_event(&d->logs[0], &at, &e)) {
		if (e.head.kind == DISKLOG_MKDIR && e.text[0] == '\0')
			return true;
		if (e.head.kind != DISKLOG_MKDIR && e.head.kind != DISKLOG_OPEN)
			return false;
	}
	return false;
}

int disk_open(const char *recording, const char *work, unsigned from_log,
    struct disk **ret, char *errbuf, size_t errbuf_size)
{
	struct disk *d = calloc(1, sizeof(*d));
	struct move root = { .to = ROOT_NAME };
	int r;

	if (!d)
		abort();
	d->work = strdup(work);
	r = map_logs(d, recording);
	if (r < 0) {
		(void)snprintf(errbuf, errbuf_size, "%s: %s", recording, strerror(-r));
		disk_close(d);
		return r;
	}
	list_cuts(d, from_log);
	d->outside = add_inode(d, true);
	d->root = add_inode(d, true);
	root.inode = d->root;
	if (!makes_root(d)) {
		entries_move(&d->outside->durable, &root);
		entries_move(&d->outside->live, &root);
	}
	*ret = d;
	return 0;
}

struct disk *disk_close(struct disk *d)
{
	if (!d)
		return NULL;
	for (size_t i = 0; i < d->inode_count; i++)
		free_inode(d->inodes[i]);
	for (size_t i = 0; i < d->log_count; i++)
		if (d->logs[i].size > 0)
			(void)munmap((void *)(uintptr_t)d->logs[i].data, d->logs[i].size);
	free(d->inodes);
	free(d->logs);
	free(d->cuts);
	free(d->handles);
	free(d->syncs);
	free(d->acked);
	free(d->over);
	free(d->undos);
	free(d->work);
	free(d);
	return NULL;
}

const uint64_t *disk_cuts(const struct disk *d, size_t *ret_count)
{
	*ret_count = d->cut_count;
	return d->cuts;
}

const char *disk_error(const struct disk *d)
{
	return d->error;
}

const struct disk_name *disk_acked(const struct disk *d, size_t *ret_count)
{
	*ret_count = d->acked_count;
	return d->acked;
}

const struct disk_name *disk_over(const struct disk *d, size_t *ret_count)
{
	*ret_count = d->over_count;
	return d->over;
}
