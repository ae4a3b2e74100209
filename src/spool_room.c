/* SPDX-License-Identifier: MIT */
/* Owns the spool's bounds: what counts as full, the reserve that lets a full spool drain,
 * and giving disk back.
 *
 * What counts against max_bytes is what cannot be had without giving up a report: payloads
 * still needed, the used part of the index, and the reserve. Disk that released payloads
 * still hold is used first, and given back when the spool takes more than it may.
 */
#include "spool_internal.h"

#include "clock.h"
#include "fsutil.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define RESERVE_NAME "reserve"

/* The reserve never takes more than this part of a small spool. */
#define RESERVE_SHARE 8

/* Beside the records still needed, the disk holds what is left of the segment whose
 * records go first, and of the current one. That much is kept free below max_bytes, or the share
 * of a small spool. */
#define MARGIN_MAX (2 * SEGMENT_BYTES)
#define MARGIN_SHARE 8

/* Punching holes reads all rows: after each time it rests so many times as long as it
 * took, so that it never takes more than a few percent of the committer's time; less
 * when the spool takes more than it may, or the disk is short. */
#define RECLAIM_REST_TIMES 30
#define RECLAIM_REST_TIMES_SHORT 3

/* What a record may take beside its body: usual strings and the rest of a block. */
#define RECORD_EXTRA_BYTES UINT64_C(8192)

/* A row with its part of the indexes, rather more. */
#define ROW_BYTES UINT64_C(512)

/* Less is not worth the trouble. */
#define WASTE_MIN (UINT64_C(256) << 10)

/* A body of which nobody has said how long it is counts as a small submission. */
#define UNKNOWN_BODY (UINT64_C(128) << 10)

/* A start writes to the index before anything can be given back: on a full disk it needs
 * what the reserve of the last run holds. */
#define RECOVER_MIN (UINT64_C(4) << 20)

/* A full disk counts as healed once it has so much beside the reserve. */
#define HEALED_MIN (2 * SEGMENT_INLINE_MAX)

/* Whether the file system has less free space than this. */
static bool disk_is_below(struct spool *s, uint64_t bytes)
{
	uint64_t free_bytes;
	uint64_t total_bytes;

	return bytes > 0 && fs_free_space(s->dir_fd, &free_bytes, &total_bytes) == 0 &&
	       free_bytes < bytes;
}

/* What may be filled with records, the index and the reserve. */
static uint64_t usable_bytes(uint64_t max_bytes)
{
	uint64_t margin = max_bytes / MARGIN_SHARE;

	return max_bytes - (margin < MARGIN_MAX ? margin : MARGIN_MAX);
}

static uint64_t reports_with_payload(const struct spool *s)
{
	return s->tally[REPORT_QUEUED].reports + s->tally[REPORT_SENDING].reports +
	       s->tally[REPORT_HELD].reports + s->tally[REPORT_DEAD].reports;
}

/* Whether the file system has no room for a body and its floor. A small body goes into
 * disk that the segments have already, if there is some. */
static bool disk_is_short(struct spool *s, const struct segment_usage *usage,
    uint64_t min_free_bytes, uint64_t body_bytes)
{
	if (body_bytes > SEGMENT_INLINE_MAX)
		return disk_is_below(s, min_free_bytes + body_bytes);
	return usage->free_bytes + usage->slack_bytes < body_bytes + SEGMENT_INLINE_MAX &&
	       disk_is_below(s, min_free_bytes);
}

int spool_check_room(struct spool *s, uint64_t body_bytes)
{
	struct segment_usage usage;
	struct spool_limits limits;
	uint64_t fixed;
	uint64_t reports;
	uint64_t movable;
	uint64_t sent_rows;
	uint64_t usable;
	bool full;
	int r;

	(void)pthread_mutex_lock(&s->lock);
	r = s->closing ? -ESHUTDOWN : s->store_error;
	limits = s->limits;
	fixed = s->fixed_bytes;
	reports = reports_with_payload(s);
	movable =
	    reports - s->tally[REPORT_SENDING].reports + s->tally[REPORT_SENT].reports;
	/* Rows of sent reports go before anything else. */
	sent_rows = limits.when_full == SPOOL_EVICT
			? s->tally[REPORT_SENT].reports * ROW_BYTES
			: 0;
	(void)pthread_mutex_unlock(&s->lock);
	if (r < 0)
		return r;
	if (body_bytes == 0)
		body_bytes = UNKNOWN_BODY;
	segment_get_usage(s->segments, &usage);
	usable = usable_bytes(limits.max_bytes);
	if (fixed + body_bytes > usable + sent_rows)
		return -EDQUOT; /* no eviction makes room for this one */
	full = usage.live_bytes - usage.doomed_bytes + fixed + body_bytes > usable ||
	       reports >= limits.max_reports ||
	       disk_is_short(s, &usage, limits.min_free_bytes, body_bytes);
	if (full && (limits.when_full == SPOOL_REJECT || movable == 0))
		return -EDQUOT;
	/* Others can only go once this one is there. */
	return body_bytes > SEGMENT_INLINE_MAX && disk_is_below(s, body_bytes) ? -ENOSPC
									       : 0;
}

static uint64_t file_disk_bytes(struct spool *s, const char *name)
{
	struct stat st;

	return fstatat(s->dir_fd, name, &st, 0) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

int spool_room_measure(struct spool *s, struct spool_room *ret)
{
	uint64_t index_bytes = file_disk_bytes(s, SPOOL_INDEX_NAME);
	uint64_t fixed_bytes =
	    index_bytes + file_disk_bytes(s, SPOOL_INDEX_NAME "-wal") + s->reserve_bytes;
	struct spool_room room = { 0 };
	struct segment_usage usage;
	uint64_t movable_bytes;
	uint64_t sent_bytes;

	segment_get_usage(s->segments, &usage);
	(void)pthread_mutex_lock(&s->lock);
	room.limits = s->limits;
	room.reports = reports_with_payload(s);
	/* No less than what they take; rows of sent reports make room, too. */
	sent_bytes = s->tally[REPORT_SENT].reports * ROW_BYTES;
	movable_bytes = s->tally[REPORT_QUEUED].bytes + s->tally[REPORT_HELD].bytes +
			s->tally[REPORT_DEAD].bytes +
			s->tally[REPORT_SENT].reports * ROW_BYTES +
			room.reports * RECORD_EXTRA_BYTES;
	s->fixed_bytes = fixed_bytes;
	(void)pthread_mutex_unlock(&s->lock);
	room.limits.max_bytes = usable_bytes(room.limits.max_bytes);
	room.fixed_bytes = fixed_bytes;
	room.sent_bytes = sent_bytes;
	room.movable_bytes = movable_bytes;
	room.in_use_bytes = usage.live_bytes - usage.doomed_bytes + fixed_bytes;
	if (room.in_use_bytes > room.limits.max_bytes) {
		/* Only now is it worth asking how much of the index is free pages. */
		uint64_t used_bytes;
		int r = spool_index_used_bytes(s->index, &used_bytes);

		if (r < 0)
			return r;
		if (used_bytes < index_bytes) {
			uint64_t free_bytes = index_bytes - used_bytes;

			room.in_use_bytes -= free_bytes;
			room.fixed_bytes -= free_bytes;
			(void)pthread_mutex_lock(&s->lock);
			s->fixed_bytes = room.fixed_bytes;
			(void)pthread_mutex_unlock(&s->lock);
		}
	}
	room.disk_low = usage.free_bytes + usage.slack_bytes < SEGMENT_INLINE_MAX &&
			disk_is_below(s, room.limits.min_free_bytes);
	*ret = room;
	return 0;
}

bool spool_room_is_over(const struct spool_room *room)
{
	return room->in_use_bytes > room->limits.max_bytes + room->freed_bytes ||
	       room->reports >= room->limits.max_reports ||
	       (room->disk_low && room->freed_bytes < room->grown_bytes);
}

struct mark {
	segment_mark_fn *mark;
	void *cls;
};

static void mark_payload(void *cls, const struct payload_ref *ref)
{
	const struct mark *m = cls;

	m->mark(m->cls, ref);
}

static int list_live(void *cls, segment_mark_fn *mark, void *mark_cls)
{
	struct spool *s = cls;
	struct mark m = { .mark = mark, .cls = mark_cls };

	return spool_index_each_payload(s->index, mark_payload, &m);
}

static uint64_t wanted_reserve(struct spool *s)
{
	uint64_t wanted;

	(void)pthread_mutex_lock(&s->lock);
	wanted = s->limits.reserve_bytes;
	if (wanted > s->limits.max_bytes / RESERVE_SHARE)
		wanted = s->limits.max_bytes / RESERVE_SHARE;
	(void)pthread_mutex_unlock(&s->lock);
	return wanted;
}

static void drop_reserve(struct spool *s)
{
	s->reserve_bytes = 0;
	(void)unlinkat(s->dir_fd, RESERVE_NAME, 0); /* gone or not: tried */
}

/* Tell the segments how much they may take: of max_bytes, and of what the disk has beside
 * its floor and the reserve. They would fill it in advance. */
static void set_disk_limit(struct spool *s, uint64_t limit, uint64_t min_free_bytes)
{
	struct segment_usage usage;
	uint64_t kept = min_free_bytes + wanted_reserve(s) - s->reserve_bytes;
	uint64_t free_bytes;
	uint64_t total_bytes;

	segment_get_usage(s->segments, &usage);
	if (fs_free_space(s->dir_fd, &free_bytes, &total_bytes) == 0) {
		uint64_t there = usage.disk_bytes + free_bytes;

		if (there < kept)
			limit = 0;
		else if (there - kept < limit)
			limit = there - kept;
	}
	segment_set_disk_limit(s->segments, limit);
}

void spool_room_start(struct spool *s)
{
	uint64_t limit = s->limits.max_bytes;

	if (disk_is_below(s, RECOVER_MIN))
		drop_reserve(s);
	set_disk_limit(s, limit, s->limits.min_free_bytes);
	segment_set_length(s->segments, limit / SPOOL_SEGMENTS_MIN);
}

void spool_room_reclaim(struct spool *s)
{
	int64_t began_ms = clock_mono_ms();
	struct segment_usage usage;
	uint64_t limit;
	uint64_t usable;
	uint64_t waste;
	uint64_t freed = 0;
	uint64_t min_free;
	bool disk_full;
	bool is_short;
	int rest_times;
	int r;

	(void)pthread_mutex_lock(&s->lock);
	disk_full = s->store_error == -ENOSPC;
	min_free = s->limits.min_free_bytes;
	limit = s->limits.max_bytes > s->fixed_bytes
		    ? s->limits.max_bytes - s->fixed_bytes
		    : 0;
	usable = usable_bytes(s->limits.max_bytes);
	usable = usable > s->fixed_bytes ? usable - s->fixed_bytes : 0;
	(void)pthread_mutex_unlock(&s->lock);
	/* On a full disk the index and the reserve need what free segments hold. */
	set_disk_limit(s, disk_full ? 0 : limit, min_free);
	segment_set_length(s->segments, limit / SPOOL_SEGMENTS_MIN);
	segment_get_usage(s->segments, &usage);
	waste =
	    usage.disk_bytes - usage.live_bytes - usage.free_bytes - usage.slack_bytes;
	if (waste > usage.disk_bytes || waste < WASTE_MIN || began_ms < s->reclaim_at_ms)
		return;
	is_short = disk_full || disk_is_below(s, min_free);
	if (!is_short && usage.disk_bytes <= usable)
		return;
	is_short |= usage.disk_bytes > limit;
	r = segment_reclaim(s->segments, list_live, s, &freed);
	if (r < 0)
		log_warning("cannot give disk space back: %s", strerror(-r));
	else
		log_debug(
		    "gave %llu bytes of disk space back", (unsigned long long)freed);
	rest_times = is_short ? RECLAIM_REST_TIMES_SHORT : RECLAIM_REST_TIMES;
	s->reclaim_at_ms = clock_mono_ms() + rest_times * (clock_mono_ms() - began_ms);
}

/* The reserve */

static void make_reserve(struct spool *s, uint64_t bytes)
{
	CLEANUP(cleanup_close)
	int fd = openat(s->dir_fd, RESERVE_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	/* Without one the daemon works on; a full disk then drains less surely. */
	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 ||
	    posix_fallocate(fd, 0, (off_t)bytes) != 0)
		drop_reserve(s);
	else
		s->reserve_bytes = bytes;
}

bool spool_room_take_reserve(struct spool *s)
{
	uint64_t wanted = wanted_reserve(s);
	uint64_t free_bytes;
	uint64_t total_bytes;

	if (wanted == 0)
		drop_reserve(s); /* one that an earlier run had */
	else if (wanted < s->reserve_bytes)
		make_reserve(s, wanted);
	if (wanted > s->reserve_bytes) {
		uint64_t bytes = wanted;

		/* A part is better than none. */
		if (fs_free_space(s->dir_fd, &free_bytes, &total_bytes) == 0 &&
		    bytes - s->reserve_bytes > free_bytes / 2)
			bytes = s->reserve_bytes + free_bytes / 2;
		if (bytes > s->reserve_bytes)
			make_reserve(s, bytes);
	}
	/* Else a full disk would seem healed as soon as the reserve is back. */
	return s->reserve_bytes == wanted && !disk_is_below(s, HEALED_MIN);
}

bool spool_room_give_reserve(struct spool *s)
{
	bool had = s->reserve_bytes > 0;

	drop_reserve(s);
	return had;
}

const char *spool_error_text(int error)
{
	if (error == -EBADMSG)
		return "its index is damaged: the next start makes it anew";
	if (error == -EDQUOT)
		return "a limit is reached and nothing may be given up";
	return strerror(-error);
}

void spool_note_store_error(struct spool *s, int error)
{
	bool first;

	/* Trouble of this one report, or a limit: the disk is not to blame. */
	if (error == -ENOMEM || error == -EDQUOT || error == -EMSGSIZE ||
	    error == -ESHUTDOWN)
		return;
	(void)pthread_mutex_lock(&s->lock);
	first = s->store_error == 0;
	s->store_error = error;
	s->heal_at_ms = clock_mono_ms() + SPOOL_HEAL_MS;
	(void)pthread_cond_signal(&s->commit_work);
	(void)pthread_mutex_unlock(&s->lock);
	if (first)
		log_err(
		    "the spool cannot store reports: %s; posts are refused until it can",
		    spool_error_text(error));
}
