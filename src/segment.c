/* SPDX-License-Identifier: MIT */
/* Owns which segment file is in which state, the space in them, and the housekeeping
 * thread that prepares, removes and punches them.
 *
 * A segment's file is reused under the same number: free → current → full → free. Only
 * released records lie in a free one. live counts every record placed and not given up,
 * so a segment with a record on its way is never free.
 */
#include "segment_internal.h"

#include "fsutil.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <zlib.h>

/* Free segments kept for use again; in quiet times more are removed. 128 MiB of burst. */
#define FREE_SEGMENTS_KEPT 8

#define PREPARE_STEP (UINT64_C(1) << 20)

static const uint8_t segment_magic[8] = { 'M', 'D', 'S', 'E', 'G', 'M', 'T', 1 };

/* Segment header: magic 8, epoch 16, activation u64 little-endian, CRC-32 of these. */
#define HEADER_BYTES 36

void segment_name(uint32_t number, char out[SEGMENT_NAME_SIZE])
{
	(void)snprintf(out, SEGMENT_NAME_SIZE, "%08" PRIu32, number);
}

void segment_large_name(int64_t seq, char out[SEGMENT_NAME_SIZE])
{
	(void)snprintf(out, SEGMENT_NAME_SIZE, "%016" PRIx64 ".rec", (uint64_t)seq);
}

uint64_t segment_record_bytes(const struct payload_ref *ref)
{
	return segment_record_span(ref->header_bytes, ref->body_bytes);
}

static int open_segment(struct segment_store *s, uint32_t number, int flags)
{
	char name[SEGMENT_NAME_SIZE];
	int fd;

	segment_name(number, name);
	fd = openat(s->segments_fd, name, flags | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

/* The sums follow every change of a segment's space and state. */

static void set_allocated(struct segment_store *s, struct segment *seg, uint64_t bytes)
{
	s->allocated_total += bytes - seg->allocated;
	if (seg->state == SEGMENT_FREE)
		s->free_total += bytes - seg->allocated;
	seg->allocated = bytes;
}

static void set_state(
    struct segment_store *s, struct segment *seg, enum segment_state state)
{
	if (seg->state == SEGMENT_FREE)
		s->free_total -= seg->allocated;
	if (state == SEGMENT_FREE)
		s->free_total += seg->allocated;
	seg->state = state;
}

static void set_live_bytes(struct segment_store *s, struct segment *seg, uint64_t bytes)
{
	s->live_total += bytes - seg->live_bytes;
	seg->live_bytes = bytes;
}

/* The segment's own header */

static void encode_header(uint8_t out[HEADER_BYTES],
    const uint8_t epoch[RECORD_EPOCH_BYTES], uint64_t activation)
{
	uint32_t crc;

	memcpy(out, segment_magic, 8);
	memcpy(out + 8, epoch, RECORD_EPOCH_BYTES);
	for (int i = 0; i < 8; i++)
		out[24 + i] = (uint8_t)(activation >> (8 * i));
	crc = (uint32_t)crc32(0, out, 32);
	for (int i = 0; i < 4; i++)
		out[32 + i] = (uint8_t)(crc >> (8 * i));
}

bool segment_read_header(
    int fd, uint8_t epoch[RECORD_EPOCH_BYTES], uint64_t *ret_activation)
{
	uint8_t raw[HEADER_BYTES];
	uint8_t again[HEADER_BYTES];
	uint64_t activation = 0;

	if (fs_read_full(fd, raw, sizeof(raw), 0) != (ssize_t)sizeof(raw))
		return false;
	for (int i = 7; i >= 0; i--)
		activation = activation << 8 | raw[24 + i];
	encode_header(again, raw + 8, activation);
	if (memcmp(raw, again, sizeof(raw)) != 0)
		return false;
	memcpy(epoch, raw + 8, RECORD_EPOCH_BYTES);
	*ret_activation = activation;
	return true;
}

/* Opening */

/* Make room in the table for a segment of this number and return a new entry. */
static int add_segment(struct segment_store *s, uint32_t number, struct segment **ret)
{
	CLEANUP(cleanup_free) struct segment *seg = calloc(1, sizeof(*seg));

	if (!seg)
		return -ENOMEM;
	if (number > s->segment_count) {
		struct segment **p =
		    reallocarray(s->segments, number, sizeof(struct segment *));

		if (!p)
			return -ENOMEM;
		for (size_t i = s->segment_count; i < number; i++)
			p[i] = NULL;
		s->segments = p;
		s->segment_count = number;
	}
	seg->number = number;
	seg->state = SEGMENT_GOING;
	seg->fd = -1;
	*ret = s->segments[number - 1] = TAKE_PTR(seg);
	return 0;
}

/* Take a segment file found at start into the table; free until adopted. */
static int load_segment(struct segment_store *s, uint32_t number)
{
	CLEANUP(cleanup_close) int fd = open_segment(s, number, O_RDONLY);
	struct segment *seg;
	uint64_t allocated;
	int r;

	if (fd < 0)
		return fd;
	r = fs_allocated_bytes(fd, &allocated);
	if (r == 0)
		r = add_segment(s, number, &seg);
	if (r < 0)
		return r;
	set_allocated(s, seg, allocated);
	set_state(s, seg, SEGMENT_FREE);
	seg->entry_synced = true;
	if (!segment_read_header(fd, seg->epoch, &seg->activation))
		seg->activation = 0;
	if (seg->activation > s->last_activation)
		s->last_activation = seg->activation;
	return 0;
}

/* 16 TiB of segments; a stray file must not make the table larger. */
#define NUMBER_MAX (UINT64_C(1) << 20)

/* A segment number from a file name, 0 if it is none of ours. The bound keeps the table
 * from growing with a stray name. */
static uint32_t parse_segment_name(const char *name)
{
	char again[SEGMENT_NAME_SIZE];
	unsigned long n = strtoul(name, NULL, 10);

	if (n == 0 || n > NUMBER_MAX)
		return 0;
	segment_name((uint32_t)n, again);
	return strcmp(name, again) == 0 ? (uint32_t)n : 0;
}

static int load_segments(struct segment_store *s)
{
	int fd = openat(s->segments_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *e;
	DIR *dir;
	int r = 0;

	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		(void)close(fd); /* nothing was written through it */
		return r;
	}
	while (r == 0 && (errno = 0, e = readdir(dir))) {
		uint32_t number = parse_segment_name(e->d_name);

		if (number > 0)
			r = load_segment(s, number);
	}
	if (r == 0 && errno != 0)
		r = -errno;
	(void)closedir(dir); /* nothing was written through it */
	return r;
}

/* Count what lies in the folder of large files, and remove what was never whole. */
static int load_large(struct segment_store *s, uint64_t *ret_removed)
{
	int fd = openat(s->large_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *e;
	uint64_t removed = 0;
	DIR *dir;
	int r = 0;

	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		(void)close(fd); /* nothing was written through it */
		return r;
	}
	while (r == 0 && (errno = 0, e = readdir(dir))) {
		struct stat st;

		if (strncmp(e->d_name, "incoming-", 9) == 0) {
			if (unlinkat(s->large_fd, e->d_name, 0) < 0)
				r = -errno;
			else
				removed++;
		} else if (fstatat(s->large_fd, e->d_name, &st, 0) < 0) {
			r = -errno;
		} else if (S_ISREG(st.st_mode)) {
			s->large_bytes += (uint64_t)st.st_size;
		}
	}
	if (r == 0 && errno != 0)
		r = -errno;
	(void)closedir(dir); /* nothing was written through it */
	*ret_removed = removed;
	return r;
}

static int open_folder(int dir_fd, const char *name)
{
	int fd;

	if (mkdirat(dir_fd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int open_folders(struct segment_store *s, int dir_fd)
{
	int r;

	s->segments_fd = open_folder(dir_fd, "segments");
	if (s->segments_fd < 0)
		return s->segments_fd;
	s->large_fd = open_folder(dir_fd, "large");
	if (s->large_fd < 0)
		return s->large_fd;
	/* A run that was killed may have made names and not synced them; from here on
	 * every name that is found counts as durable. */
	r = fs_sync_folder(dir_fd);
	if (r == 0)
		r = fs_sync_folder(s->segments_fd);
	return r == 0 ? fs_sync_folder(s->large_fd) : r;
}

static struct segment_store *store_alloc(void)
{
	struct segment_store *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->segments_fd = -1;
	s->large_fd = -1;
	s->disk_limit = UINT64_MAX;
	s->length = SEGMENT_BYTES;
	(void)pthread_mutex_init(
	    &s->lock, NULL); /* cannot fail with default attributes */
	(void)pthread_cond_init(&s->work, NULL);
	return s;
}

/* Address space only: pages come when a slot is first used, and go in segment_trim(). */
static int map_slots(struct segment_store *s)
{
	void *p = mmap(NULL, SEGMENT_BUDGET_BYTES, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -ENOMEM;
	s->slots = p;
	for (size_t i = 0; i < SEGMENT_SLOTS; i++)
		s->free_slots[i] = (uint16_t)(SEGMENT_SLOTS - 1 - i);
	s->free_slot_count = SEGMENT_SLOTS;
	return 0;
}

int segment_store_open(int dir_fd, struct segment_store **ret, uint64_t *ret_discarded)
{
	struct segment_store *s = store_alloc();
	int r;

	if (!s)
		return -ENOMEM;
	r = map_slots(s);
	if (r == 0)
		r = open_folders(s, dir_fd);
	if (r == 0)
		r = load_segments(s);
	if (r == 0)
		r = load_large(s, ret_discarded);
	if (r < 0) {
		segment_store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

int segment_store_open_reader(int dir_fd, struct segment_store **ret)
{
	struct segment_store *s = store_alloc();

	if (!s)
		return -ENOMEM;
	s->segments_fd = openat(dir_fd, "segments", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->segments_fd >= 0)
		s->large_fd = openat(dir_fd, "large", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->segments_fd < 0 || s->large_fd < 0) {
		int r = -errno;

		segment_store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

uint64_t segment_last_activation(struct segment_store *s)
{
	uint64_t last;

	(void)pthread_mutex_lock(&s->lock);
	last = s->last_activation;
	(void)pthread_mutex_unlock(&s->lock);
	return last;
}

/* How far beyond the files found a row's segment number may lie. */
#define NUMBERS_BEYOND 65536

int segment_adopt(
    struct segment_store *s, uint32_t segment, uint64_t records, uint64_t bytes)
{
	struct segment *seg = NULL;
	int r;

	if (segment == 0 || segment > s->segment_count + NUMBERS_BEYOND)
		return -EBADMSG;
	if (segment <= s->segment_count)
		seg = s->segments[segment - 1];
	if (!seg) {
		r = add_segment(s, segment, &seg);
		if (r < 0)
			return r;
		set_state(s, seg, SEGMENT_LOST);
	}
	seg->live += records;
	if (seg->state == SEGMENT_LOST)
		return -ENOENT;
	/* What an earlier run was writing to is never written to again before it is free:
	 * behind its last committed record there may be whole ones that were not. */
	set_state(s, seg, SEGMENT_FULL);
	set_live_bytes(s, seg, seg->live_bytes + bytes);
	return 0;
}

int segment_adopt_large(struct segment_store *s, int64_t seq)
{
	char name[SEGMENT_NAME_SIZE];
	struct stat st;

	segment_large_name(seq, name);
	/* Its bytes were counted when the store was opened. */
	return fstatat(s->large_fd, name, &st, 0) < 0 ? -errno : 0;
}

/* Slots */

void *segment_take_slot(struct segment_store *s)
{
	void *slot = NULL;

	(void)pthread_mutex_lock(&s->lock);
	if (s->free_slot_count > 0)
		slot =
		    s->slots + SEGMENT_SLOT_BYTES * s->free_slots[--s->free_slot_count];
	(void)pthread_mutex_unlock(&s->lock);
	return slot;
}

void segment_return_slot(struct segment_store *s, void *slot)
{
	size_t index = (size_t)((uint8_t *)slot - s->slots) / SEGMENT_SLOT_BYTES;

	(void)pthread_mutex_lock(&s->lock);
	s->free_slots[s->free_slot_count++] = (uint16_t)index;
	(void)pthread_mutex_unlock(&s->lock);
}

void segment_trim(struct segment_store *s)
{
	(void)pthread_mutex_lock(&s->lock);
	/* Only pages of free slots; a failure leaves them in memory, no harm. */
	for (size_t i = 0; i < s->free_slot_count; i++)
		(void)madvise(s->slots + SEGMENT_SLOT_BYTES * s->free_slots[i],
		    SEGMENT_SLOT_BYTES, MADV_DONTNEED);
	s->quiet = true;
	s->prepare = true;
	(void)pthread_cond_signal(&s->work);
	(void)pthread_mutex_unlock(&s->lock);
}

/* Space */

static uint64_t disk_bytes_locked(const struct segment_store *s)
{
	return s->allocated_total + s->large_bytes;
}

void segment_set_length(struct segment_store *s, uint64_t bytes)
{
	bytes -= bytes % PREPARE_STEP;
	if (bytes < SEGMENT_BYTES_MIN)
		bytes = SEGMENT_BYTES_MIN;
	(void)pthread_mutex_lock(&s->lock);
	s->length = bytes < SEGMENT_BYTES ? bytes : SEGMENT_BYTES;
	(void)pthread_mutex_unlock(&s->lock);
}

void segment_set_disk_limit(struct segment_store *s, uint64_t bytes)
{
	(void)pthread_mutex_lock(&s->lock);
	s->disk_limit = bytes;
	if (disk_bytes_locked(s) > bytes && s->free_total > 0) {
		s->prepare = true; /* the housekeeper then removes free ones */
		(void)pthread_cond_signal(&s->work);
	}
	(void)pthread_mutex_unlock(&s->lock);
}

void segment_count_large(struct segment_store *s, int64_t delta_bytes)
{
	(void)pthread_mutex_lock(&s->lock);
	s->large_bytes = (uint64_t)((int64_t)s->large_bytes + delta_bytes);
	(void)pthread_mutex_unlock(&s->lock);
}

void segment_get_usage(struct segment_store *s, struct segment_usage *ret)
{
	struct segment_usage u = { 0 };

	(void)pthread_mutex_lock(&s->lock);
	u.disk_bytes = disk_bytes_locked(s);
	u.free_bytes = s->free_total;
	u.live_bytes = s->live_total + s->large_bytes;
	u.doomed_bytes = s->doomed_bytes;
	if (s->current && s->current->allocated > s->current->head)
		u.slack_bytes = s->current->allocated - s->current->head;
	(void)pthread_mutex_unlock(&s->lock);
	*ret = u;
}

/* The free segment that has the most of its disk space already, or NULL. */
static struct segment *find_free(struct segment_store *s)
{
	struct segment *best = NULL;

	for (size_t i = 0; i < s->segment_count; i++) {
		struct segment *seg = s->segments[i];

		if (seg && seg->state == SEGMENT_FREE && !seg->broken &&
		    (!best || seg->allocated > best->allocated))
			best = seg;
	}
	return best;
}

/* Lowest number without a file. */
static uint32_t unused_number(const struct segment_store *s)
{
	size_t i = 0;

	while (i < s->segment_count && s->segments[i])
		i++;
	return (uint32_t)i + 1;
}

static void forget_segment(struct segment_store *s, struct segment *seg)
{
	set_allocated(s, seg, 0);
	s->segments[seg->number - 1] = NULL;
	free(seg);
}

/* A full segment without unsynced records needs no descriptor; one without any record is
 * free. A lost one without any row left is forgotten, and its number free. Called after
 * whatever lowers pins or live; seg may be gone afterwards. */
static void settle_segment(struct segment_store *s, struct segment *seg)
{
	if (seg->state == SEGMENT_LOST && seg->live == 0) {
		forget_segment(s, seg);
		return;
	}
	if (seg->state != SEGMENT_FULL)
		return;
	if (seg->pins == 0 && seg->fd >= 0)
		(void)close(TAKE_FD(seg->fd)); /* synced or abandoned: nothing to lose */
	if (seg->live == 0) {
		set_state(s, seg, SEGMENT_FREE);
		set_live_bytes(s, seg, 0);
		s->prepare = true;
		(void)pthread_cond_signal(&s->work);
	}
}

static void retire_current(struct segment_store *s)
{
	struct segment *seg = s->current;

	s->current = NULL;
	if (!seg)
		return;
	set_state(s, seg, SEGMENT_FULL);
	settle_segment(s, seg);
}

/* Take a free segment, or a new file that grows as it is written, into use. */
static int activate(struct segment_store *s)
{
	struct segment *seg = find_free(s);
	uint8_t header[HEADER_BYTES];
	int r;

	if (!seg) {
		r = add_segment(s, unused_number(s), &seg);
		if (r < 0)
			return r;
		set_state(s, seg, SEGMENT_FREE);
	}
	if (seg->fd < 0) {
		seg->fd = open_segment(s, seg->number, O_RDWR | O_CREAT);
		if (seg->fd < 0) {
			r = seg->fd;
			seg->fd = -1;
			return r;
		}
	}
	if (getrandom(seg->epoch, sizeof(seg->epoch), 0) != (ssize_t)sizeof(seg->epoch))
		return -EIO;
	encode_header(header, seg->epoch, s->last_activation + 1);
	r = fs_write_full(seg->fd, header, sizeof(header), 0);
	if (r < 0) {
		(void)close(TAKE_FD(seg->fd)); /* still free, nothing in it */
		return r;
	}
	seg->activation = ++s->last_activation;
	seg->head = SEGMENT_BLOCK;
	if (seg->allocated < SEGMENT_BLOCK)
		set_allocated(s, seg, SEGMENT_BLOCK);
	set_state(s, seg, SEGMENT_CURRENT);
	s->current = seg;
	s->quiet = false;
	s->prepare = true;
	(void)pthread_cond_signal(&s->work);
	return 0;
}

int segment_reserve(
    struct segment_store *s, uint64_t span, struct segment **ret, uint64_t *ret_offset)
{
	struct segment *seg;
	int r = 0;

	(void)pthread_mutex_lock(&s->lock);
	if (s->current && s->current->head + span > s->length)
		retire_current(s);
	if (!s->current)
		r = activate(s);
	if (r == 0) {
		seg = s->current;
		*ret = seg;
		*ret_offset = seg->head;
		seg->head += span;
		if (seg->allocated < seg->head)
			set_allocated(s, seg, seg->head);
		seg->live++;
		set_live_bytes(s, seg, seg->live_bytes + span);
		seg->pins++;
	}
	(void)pthread_mutex_unlock(&s->lock);
	return r;
}

void segment_mark_broken(struct segment_store *s, struct segment *seg)
{
	(void)pthread_mutex_lock(&s->lock);
	seg->broken = true;
	if (s->current == seg)
		retire_current(s);
	(void)pthread_mutex_unlock(&s->lock);
}

/* Making durable, giving up */

static int sync_segment(struct segment_store *s, struct segment *seg)
{
	int r;

	/* The kernel tells of a failed write once; then its pages count as written, and a
	 * later sync would vouch for records that are not there. */
	if (seg->sync_failed)
		return -EIO;
	r = fs_sync_data(seg->fd);
	seg->sync_failed = r < 0; /* the committer alone reads and sets it */
	if (r == 0 && !seg->entry_synced) {
		r = fs_sync_folder(s->segments_fd);
		if (r == 0)
			seg->entry_synced =
			    true; /* the committer alone reads and sets it */
	}
	if (r < 0)
		segment_mark_broken(s, seg);
	return r;
}

int segment_sync(struct segment_store *s, const struct payload_ref *refs, size_t n)
{
	/* A batch lies in a few neighbouring segments: a linear look-up is enough. */
	struct segment *synced[8];
	size_t synced_count = 0;
	bool large = false;
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		struct segment *seg;
		size_t k = 0;

		if (refs[i].segment == 0) {
			large = true;
			continue;
		}
		(void)pthread_mutex_lock(&s->lock);
		seg = s->segments[refs[i].segment - 1];
		(void)pthread_mutex_unlock(&s->lock);
		while (k < synced_count && synced[k] != seg)
			k++;
		if (k < synced_count)
			continue;
		/* The pin of refs[i] keeps the descriptor open. */
		r = sync_segment(s, seg);
		if (synced_count < ARRAY_LEN(synced))
			synced[synced_count++] = seg;
	}
	if (r == 0 && large)
		r = fs_sync_folder(s->large_fd);
	return r;
}

static void drop_record(
    struct segment_store *s, const struct payload_ref *ref, bool pinned, bool needed)
{
	struct segment *seg = s->segments[ref->segment - 1];

	if (pinned)
		seg->pins--;
	if (!needed) {
		uint64_t span = segment_record_span(ref->header_bytes, ref->body_bytes);

		seg->live--;
		set_live_bytes(
		    s, seg, span < seg->live_bytes ? seg->live_bytes - span : 0);
	}
	settle_segment(s, seg);
}

/* Have the housekeeper remove a large file. Without memory for the order it stays until
 * the next start finds no row for it. */
static void doom_large(
    struct segment_store *s, const struct payload_ref *ref, int64_t seq)
{
	struct segment_doomed *d = calloc(1, sizeof(*d));

	if (!d)
		return;
	d->seq = seq;
	d->bytes = ref->header_bytes + ref->body_bytes;
	(void)pthread_mutex_lock(&s->lock);
	if (d->bytes > s->large_bytes - s->doomed_bytes) /* it was altered */
		d->bytes = s->large_bytes - s->doomed_bytes;
	s->doomed_bytes += d->bytes;
	d->next = s->doomed;
	s->doomed = d;
	(void)pthread_cond_signal(&s->work);
	(void)pthread_mutex_unlock(&s->lock);
}

void segment_commit(struct segment_store *s, const struct payload_ref *ref)
{
	if (ref->segment == 0)
		return;
	(void)pthread_mutex_lock(&s->lock);
	drop_record(s, ref, true, true);
	(void)pthread_mutex_unlock(&s->lock);
}

/* A refused record must not be found whole by a start that knows nothing of the refusal.
 * Best effort: what fails here is taken back later, never lost. */
static void erase_record(
    struct segment_store *s, const struct payload_ref *ref, int64_t seq)
{
	static const uint8_t zeros[SEGMENT_BLOCK];
	char name[SEGMENT_NAME_SIZE];
	int fd;

	if (ref->segment == 0) {
		segment_large_name(seq, name);
		(void)unlinkat(s->large_fd, name, 0);
		return;
	}
	fd = open_segment(s, ref->segment, O_RDWR);
	if (fd < 0)
		return;
	(void)!pwrite(fd, zeros, sizeof(zeros), (off_t)ref->offset);
	(void)close(fd);
}

void segment_abandon(struct segment_store *s, const struct payload_ref *ref, int64_t seq)
{
	erase_record(s, ref, seq);
	if (ref->segment == 0) {
		doom_large(s, ref, seq);
		return;
	}
	(void)pthread_mutex_lock(&s->lock);
	drop_record(s, ref, true, false);
	(void)pthread_mutex_unlock(&s->lock);
}

void segment_release(struct segment_store *s, const struct payload_ref *ref, int64_t seq)
{
	if (ref->segment == 0) {
		doom_large(s, ref, seq);
		return;
	}
	(void)pthread_mutex_lock(&s->lock);
	if (ref->segment <= s->segment_count && s->segments[ref->segment - 1] &&
	    s->segments[ref->segment - 1]->live > 0)
		drop_record(s, ref, false, false);
	(void)pthread_mutex_unlock(&s->lock);
}

/* Housekeeping */

/* Fill a new file with zeros, so that writing records into it later changes no metadata.
 * Only disk that exists is used: a failure just means that segments grow instead. */
static int prewrite(int fd, uint64_t length)
{
	static const uint8_t zeros[64 << 10];
	uint64_t at = 0;

	while (at < length) {
		int r = fs_write_full(fd, zeros, sizeof(zeros), at);

		if (r < 0)
			return r;
		at += sizeof(zeros);
		/* Start the writing early and in pieces, or the final sync holds up those
		 * of the committer; a hint, so its result does not matter. */
		if (at % PREPARE_STEP == 0)
			(void)sync_file_range(fd, (off_t)(at - PREPARE_STEP),
			    PREPARE_STEP, SYNC_FILE_RANGE_WRITE);
	}
	return fs_sync_data(fd);
}

static int prepare_file(struct segment_store *s, uint32_t number, uint64_t length)
{
	CLEANUP(cleanup_close)
	int fd = open_segment(s, number, O_RDWR | O_CREAT | O_TRUNC);
	int r = fd < 0 ? fd : prewrite(fd, length);

	if (r == 0)
		r = fs_sync_folder(s->segments_fd);
	return r;
}

static void remove_file(struct segment_store *s, uint32_t number)
{
	char name[SEGMENT_NAME_SIZE];

	segment_name(number, name);
	/* If it stays it holds disk until the next start takes it as a free segment. */
	(void)unlinkat(s->segments_fd, name, 0);
}

/* So many times a spare must be free on the disk: it shall never be what fills it. */
#define SPARE_TIMES 4

static bool has_space_for_spare(const struct segment_store *s)
{
	uint64_t free_bytes;
	uint64_t total_bytes;

	return fs_free_space(s->segments_fd, &free_bytes, &total_bytes) == 0 &&
	       free_bytes >= SPARE_TIMES * s->length;
}

/* One free segment is enough to change to without waiting for the disk. Lock held, let
 * go while writing. */
static void prepare_spare(struct segment_store *s)
{
	uint64_t length = s->length;
	struct segment *seg;
	int r;

	s->prepare = false;
	if (!has_space_for_spare(s))
		return;
	if (find_free(s) ||
	    disk_bytes_locked(s) + 2 * length > s->disk_limit - s->disk_limit / 4)
		return;
	if (add_segment(s, unused_number(s), &seg) < 0)
		return;
	set_allocated(s, seg, length);
	(void)pthread_mutex_unlock(&s->lock);
	r = prepare_file(s, seg->number, length);
	if (r < 0)
		remove_file(s, seg->number);
	(void)pthread_mutex_lock(&s->lock);
	if (r < 0) {
		forget_segment(s, seg);
		return;
	}
	seg->entry_synced = true;
	set_state(s, seg, SEGMENT_FREE);
}

/* Remove one free segment that is too much for the disk limit, or broken, or in quiet
 * times too many: under load it would soon be made again, and its zeros written first. */
static bool remove_surplus(struct segment_store *s)
{
	struct segment *victim = NULL;
	size_t free_count = 0;

	for (size_t i = 0; i < s->segment_count; i++) {
		struct segment *seg = s->segments[i];

		if (!seg || seg->state != SEGMENT_FREE)
			continue;
		free_count++;
		if (!victim || seg->broken ||
		    (!victim->broken && seg->allocated < victim->allocated))
			victim = seg;
	}
	if (!victim || ((free_count <= FREE_SEGMENTS_KEPT || !s->quiet) &&
			   !victim->broken && disk_bytes_locked(s) <= s->disk_limit))
		return false;
	set_state(s, victim, SEGMENT_GOING);
	if (victim->fd >= 0)
		(void)close(TAKE_FD(victim->fd)); /* free: nothing to lose */
	(void)pthread_mutex_unlock(&s->lock);
	remove_file(s, victim->number);
	(void)pthread_mutex_lock(&s->lock);
	forget_segment(s, victim);
	return true;
}

static bool remove_doomed(struct segment_store *s)
{
	struct segment_doomed *d = s->doomed;
	char name[SEGMENT_NAME_SIZE];

	if (!d)
		return false;
	s->doomed = d->next;
	(void)pthread_mutex_unlock(&s->lock);
	segment_large_name(d->seq, name);
	/* If it stays, the next start removes it: no row speaks for it. */
	(void)unlinkat(s->large_fd, name, 0);
	(void)pthread_mutex_lock(&s->lock);
	s->large_bytes -= d->bytes;
	s->doomed_bytes -= d->bytes;
	free(d);
	return true;
}

static void *housekeep(void *arg)
{
	struct segment_store *s = arg;

	(void)pthread_mutex_lock(&s->lock);
	for (;;) {
		if (remove_doomed(s))
			continue;
		if (s->stopping)
			break;
		if (s->prepare) {
			prepare_spare(s);
			while (remove_surplus(s))
				continue;
			continue;
		}
		(void)pthread_cond_wait(&s->work, &s->lock);
	}
	(void)pthread_mutex_unlock(&s->lock);
	return NULL;
}

int segment_store_start(struct segment_store *s)
{
	pthread_attr_t attr;
	int r;

	for (size_t i = 0; i < s->segment_count; i++)
		if (s->segments[i])
			settle_segment(s, s->segments[i]);
	s->prepare = true;
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setstacksize(&attr, 128 << 10);
	r = pthread_create(&s->housekeeper, &attr, housekeep, s);
	(void)pthread_attr_destroy(&attr);
	s->started = r == 0;
	return -r;
}

struct segment_store *segment_store_close(struct segment_store *s)
{
	if (!s)
		return NULL;
	if (s->started) {
		(void)pthread_mutex_lock(&s->lock);
		s->stopping = true;
		(void)pthread_cond_signal(&s->work);
		(void)pthread_mutex_unlock(&s->lock);
		(void)pthread_join(s->housekeeper, NULL);
	}
	for (size_t i = 0; i < s->segment_count; i++) {
		if (s->segments[i] && s->segments[i]->fd >= 0)
			(void)close(s->segments[i]->fd); /* all that mattered is synced */
		free(s->segments[i]);
	}
	free(s->segments);
	while (s->doomed) {
		struct segment_doomed *d = s->doomed;

		s->doomed = d->next;
		free(d);
	}
	if (s->slots)
		(void)munmap(s->slots, SEGMENT_BUDGET_BYTES);
	cleanup_close(&s->segments_fd);
	cleanup_close(&s->large_fd);
	(void)pthread_cond_destroy(&s->work);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
	return NULL;
}

/* Reclaiming */

#define BLOCKS (SEGMENT_BYTES / SEGMENT_BLOCK)

/* Which blocks of which segments are still needed, while a reclaim runs. */
struct reclaim {
	uint8_t **maps; /* by number - 1; NULL = not looked at */
	size_t count;
};

static void mark_live(void *cls, const struct payload_ref *ref)
{
	struct reclaim *rc = cls;
	uint64_t first = ref->offset / SEGMENT_BLOCK;
	uint64_t n =
	    segment_record_span(ref->header_bytes, ref->body_bytes) / SEGMENT_BLOCK;
	uint8_t *map;

	if (ref->segment == 0 || ref->segment > rc->count || !rc->maps[ref->segment - 1])
		return;
	map = rc->maps[ref->segment - 1];
	for (uint64_t b = first; b < first + n && b < BLOCKS; b++)
		map[b / 8] = (uint8_t)(map[b / 8] | 1u << (b % 8));
}

/* Full segments with no record on its way and enough to gain. */
static int choose_for_reclaim(struct segment_store *s, struct reclaim *rc)
{
	int r = 0;

	(void)pthread_mutex_lock(&s->lock);
	rc->count = s->segment_count;
	rc->maps = calloc(rc->count ? rc->count : 1, sizeof(*rc->maps));
	if (!rc->maps)
		r = -ENOMEM;
	for (size_t i = 0; r == 0 && i < rc->count; i++) {
		struct segment *seg = s->segments[i];

		if (!seg || seg->state != SEGMENT_FULL || seg->pins > 0 ||
		    seg->allocated < seg->live_bytes + SEGMENT_BLOCK * 4)
			continue;
		rc->maps[i] = calloc(1, BLOCKS / 8);
		if (!rc->maps[i])
			r = -ENOMEM;
		else
			seg->live++; /* held: must not become free and current meanwhile
				      */
	}
	(void)pthread_mutex_unlock(&s->lock);
	return r;
}

static uint64_t punch_segment(
    struct segment_store *s, uint32_t number, const uint8_t *map)
{
	CLEANUP(cleanup_close) int fd = open_segment(s, number, O_RDWR);
	uint64_t before = 0;
	uint64_t after = 0;

	if (fd < 0 || fs_allocated_bytes(fd, &before) < 0)
		return 0;
	for (uint64_t b = 1; b < BLOCKS;) {
		uint64_t end = b;

		while (end < BLOCKS && !(map[end / 8] & 1u << (end % 8)))
			end++;
		/* Not every file system can: then the space comes back with the segment.
		 */
		if (end > b && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   (off_t)(b * SEGMENT_BLOCK),
				   (off_t)((end - b) * SEGMENT_BLOCK)) < 0)
			break;
		b = end + 1;
	}
	if (fs_allocated_bytes(fd, &after) < 0)
		return 0;
	(void)pthread_mutex_lock(&s->lock);
	set_allocated(s, s->segments[number - 1], after);
	(void)pthread_mutex_unlock(&s->lock);
	return before > after ? before - after : 0;
}

static void let_go(struct segment_store *s, uint32_t number)
{
	struct segment *seg;

	(void)pthread_mutex_lock(&s->lock);
	seg = s->segments[number - 1]; /* held until now, so it is there */
	seg->live--;
	settle_segment(s, seg);
	(void)pthread_mutex_unlock(&s->lock);
}

int segment_reclaim(struct segment_store *s,
    int (*list_live)(void *cls, segment_mark_fn *mark, void *mark_cls), void *cls,
    uint64_t *ret_freed)
{
	struct reclaim rc = { 0 };
	uint64_t freed = 0;
	int r = choose_for_reclaim(s, &rc);

	if (r == 0)
		r = list_live(cls, mark_live, &rc);
	for (size_t i = 0; rc.maps && i < rc.count; i++) {
		if (!rc.maps[i])
			continue;
		if (r == 0)
			freed += punch_segment(s, (uint32_t)i + 1, rc.maps[i]);
		let_go(s, (uint32_t)i + 1);
		free(rc.maps[i]);
	}
	free(rc.maps);
	if (r == 0)
		*ret_freed = freed;
	return r;
}
