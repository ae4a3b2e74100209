/* SPDX-License-Identifier: MIT */
/* Owns what happens before the committer starts: opening the index (or setting a damaged
 * one aside), loading sums, and bringing records and rows into agreement.
 *
 * A record without a row was either never acknowledged (its seq is above all that were
 * ever committed: taken back if whole) or belongs to a report that is over (released).
 */
#include "spool_internal.h"

#include "clock.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* How many rows a rebuild inserts per transaction. */
#define ROWS_PER_COMMIT 1000

int spool_grow_sums(struct spool *s, uint32_t segment)
{
	size_t count = s->segment_sum_count ? s->segment_sum_count : 64;
	struct spool_sum *p;

	if (segment <= s->segment_sum_count)
		return 0;
	while (count < segment)
		count *= 2;
	p = reallocarray(s->segment_sums, count, sizeof(*p));
	if (!p)
		return -ENOMEM;
	memset(p + s->segment_sum_count, 0, (count - s->segment_sum_count) * sizeof(*p));
	s->segment_sums = p;
	s->segment_sum_count = count;
	return 0;
}

/* Loading the sums */

static int load_lane(void *cls, int64_t id, const char *universe, const char *token)
{
	struct spool *s = cls;
	struct spool_lane_entry *lane;
	int r = spool_lanes_add(&s->lanes, id, universe, token, &lane);

	if (r == 0)
		lane->stored = true;
	return r == -EEXIST ? -EBADMSG : r;
}

static int load_lane_queued(void *cls, int64_t id, uint64_t queued)
{
	struct spool *s = cls;
	struct spool_lane_entry *lane = spool_lanes_get(&s->lanes, id);

	if (!lane)
		return -EBADMSG;
	lane->queued = queued;
	return 0;
}

static int load_tally(
    void *cls, enum report_state state, uint64_t reports, uint64_t bytes)
{
	struct spool *s = cls;

	s->tally[state] = (struct spool_sum){ .reports = reports, .bytes = bytes };
	return 0;
}

static int load_segment(void *cls, uint32_t segment, uint64_t records, uint64_t bytes)
{
	struct spool *s = cls;
	int r = segment_adopt(s->segments, segment, records, bytes);

	if (r == -ENOENT) {
		log_err("segment %u of the spool is missing: its %llu reports are lost",
		    segment, (unsigned long long)records);
		r = 0;
	}
	if (r == 0)
		r = spool_grow_sums(s, segment);
	if (r == 0)
		s->segment_sums[segment - 1] =
		    (struct spool_sum){ .reports = records, .bytes = bytes };
	return r;
}

/* Sums that no spool can have; what is altered less is found where it matters. */
static bool sums_are_absurd(const struct spool *s, int64_t last_seq)
{
	for (int i = 0; i < REPORT_STATE_COUNT; i++)
		if (s->tally[i].reports > (uint64_t)last_seq ||
		    s->tally[i].bytes > (uint64_t)INT64_MAX / REPORT_STATE_COUNT)
			return true;
	return false;
}

static int load_sums(struct spool *s, int64_t last_seq)
{
	const struct spool_index_visitor v = { .lane = load_lane,
		.lane_queued = load_lane_queued,
		.tally = load_tally,
		.segment = load_segment,
		.cls = s };

	int r = spool_index_load(s->index, &v);

	return r == 0 && sums_are_absurd(s, last_seq) ? -EBADMSG : r;
}

/* Taking records back */

struct taking {
	struct spool *spool;
	struct spool_recovery *found;
	int64_t last_seq; /* highest ever committed */
	int64_t highest;  /* seen in any record */
	bool rebuild;
	uint64_t since;     /* look through segments activated after this */
	unsigned open_rows; /* inserted in the open transaction */
};

static int add_sums(struct spool *s, const struct spool_row *row)
{
	struct spool_sum *sum;
	int r =
	    spool_index_put_tally(s->index, row->state, s->tally[row->state].reports + 1,
		s->tally[row->state].bytes + row->payload.body_bytes);

	if (r < 0)
		return r;
	s->tally[row->state].reports++;
	s->tally[row->state].bytes += row->payload.body_bytes;
	if (row->payload.segment == 0)
		return segment_adopt_large(s->segments, row->seq);
	r = spool_grow_sums(s, row->payload.segment);
	if (r < 0)
		return r;
	sum = &s->segment_sums[row->payload.segment - 1];
	sum->reports++;
	sum->bytes += segment_record_bytes(&row->payload);
	r = spool_index_put_segment(
	    s->index, row->payload.segment, sum->reports, sum->bytes);
	if (r < 0)
		return r;
	return segment_adopt(
	    s->segments, row->payload.segment, 1, segment_record_bytes(&row->payload));
}

/* The lane of a record, made if need be. NULL = failed, *ret_error says why. */
static struct spool_lane_entry *find_lane(
    struct spool *s, const struct record *rec, int *ret_error)
{
	struct spool_lane_entry *lane =
	    spool_lanes_find(&s->lanes, rec->strings.universe, rec->strings.token);
	int r;

	if (lane)
		return lane;
	r = spool_lanes_add(
	    &s->lanes, 0, rec->strings.universe, rec->strings.token, &lane);
	if (r == 0)
		r = spool_index_put_lane(s->index, lane->id, lane->universe, lane->token);
	if (r < 0) {
		*ret_error = r;
		return NULL;
	}
	lane->stored = true;
	return lane;
}

static int insert_record(
    struct taking *t, const struct record *rec, const struct payload_ref *ref, bool whole)
{
	struct spool *s = t->spool;
	struct spool_row row = { .seq = rec->seq,
		.rxid = rec->rxid,
		.state = whole ? REPORT_QUEUED : REPORT_DEAD,
		.received_at_ms = rec->received_at_ms,
		.payload = *ref,
		/* Without the old index nobody knows whether it went out already. */
		.ambiguous = t->rebuild };
	int r = -ENOMEM;
	struct spool_lane_entry *lane = find_lane(s, rec, &r);

	if (!lane)
		return r;
	row.lane = lane->id;
	r = spool_index_insert(s->index, &row, clock_wall_ms(), rec->strings.format,
	    rec->strings.client,
	    whole ? (t->rebuild ? "index rebuilt: may have been sent before" : NULL)
		  : "record damaged in the spool");
	if (r == -EEXIST)
		return 0; /* a copy: the index knows a report of this name */
	if (r == 0)
		r = add_sums(s, &row);
	if (r < 0)
		return r;
	if (whole) {
		lane->queued++;
		t->found->recovered++;
	} else {
		t->found->damaged++;
	}
	if (++t->open_rows >= ROWS_PER_COMMIT) {
		t->open_rows = 0;
		r = spool_index_commit(s->index);
		if (r == 0)
			r = spool_index_begin(s->index);
	}
	return r;
}

/* Whether the index already speaks for the record. */
static int is_known(struct spool *s, int64_t seq, enum report_state *ret_state)
{
	struct spool_row row;
	int r = spool_index_get(s->index, seq, &row);

	*ret_state = r > 0 ? row.state : REPORT_NEW;
	return r;
}

static int take_small(
    void *cls, const struct record *rec, const struct payload_ref *ref, bool whole)
{
	struct taking *t = cls;
	enum report_state state;
	int r;

	if (rec->seq > t->highest)
		t->highest = rec->seq;
	if (!t->rebuild && (rec->seq <= t->last_seq || !whole))
		return 0;
	r = is_known(t->spool, rec->seq, &state);
	return r != 0 ? (r < 0 ? r : 0) : insert_record(t, rec, ref, whole);
}

static int take_large(
    void *cls, const struct record *rec, const struct payload_ref *ref, bool whole)
{
	struct taking *t = cls;
	struct spool *s = t->spool;
	enum report_state state;
	int r = is_known(s, rec->seq, &state);

	if (rec->seq > t->highest)
		t->highest = rec->seq;
	if (r < 0)
		return r;
	if (r > 0 && report_state_has_payload(state))
		return segment_adopt_large(s->segments, rec->seq);
	if (r == 0 && (t->rebuild || (rec->seq > t->last_seq && whole)))
		return insert_record(t, rec, ref, whole);
	t->found->discarded++;
	segment_release(s->segments, ref, rec->seq);
	return 0;
}

static int take_records(struct taking *t)
{
	struct spool *s = t->spool;
	uint64_t damaged = 0;
	int r = spool_index_begin(s->index);

	if (r == 0 && t->since < segment_last_activation(s->segments))
		r = segment_scan(s->segments, t->since, take_small, t);
	if (r == 0)
		r = segment_scan_large(s->segments, t->rebuild, take_large, t, &damaged);
	if (r == 0)
		r = spool_index_put_note(s->index, SPOOL_NOTE_REBUILDING, 0);
	if (r == 0)
		r = spool_index_commit(s->index);
	if (r < 0)
		spool_index_rollback(s->index);
	t->found->damaged += damaged;
	return r;
}

/* Opening the index */

/* Set the index and its log aside under a name of their own, for people to look at. */
static int set_index_aside(struct spool *s, char *name, size_t name_size)
{
	static const char *const suffixes[] = { "", "-wal", "-shm" };
	char from[64];
	char to[128];

	for (unsigned n = 1;; n++) {
		(void)snprintf(name, name_size, SPOOL_INDEX_NAME ".damaged-%u", n);
		if (faccessat(s->dir_fd, name, F_OK, 0) < 0)
			break;
	}
	for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
		(void)snprintf(from, sizeof(from), SPOOL_INDEX_NAME "%s", suffixes[i]);
		(void)snprintf(to, sizeof(to), "%s%s", name, suffixes[i]);
		if (renameat(s->dir_fd, from, s->dir_fd, to) < 0 && errno != ENOENT)
			return -errno;
	}
	return 0;
}

/* Open the index and see that its pages hang together. */
static int open_index(struct spool *s, char *errbuf, size_t errbuf_size)
{
	bool fresh;
	int r = spool_index_open(s->directory, &s->index, &fresh, errbuf, errbuf_size);

	if (r < 0 || fresh)
		return r;
	r = spool_index_check(s->index);
	if (r < 0)
		(void)snprintf(errbuf, errbuf_size, "%s/" SPOOL_INDEX_NAME ": %s",
		    s->directory,
		    r == -EBADMSG ? "its pages do not hang together"
				  : spool_index_error(s->index));
	return r;
}

/* Read the notes of the last run, and make those of this one. */
static int take_notes(struct spool *s, struct taking *t)
{
	int64_t clean = 0;
	int64_t last_seq = 0;
	int64_t activation = 0;
	int64_t rebuilding = 0;
	uint64_t last = segment_last_activation(s->segments);
	int r = spool_index_get_note(s->index, SPOOL_NOTE_CLEAN, &clean);

	if (r == 0)
		r = spool_index_get_note(s->index, SPOOL_NOTE_LAST_SEQ, &last_seq);
	if (r == 0)
		r = spool_index_get_note(s->index, SPOOL_NOTE_ACTIVATION, &activation);
	if (r == 0)
		r = spool_index_get_note(s->index, SPOOL_NOTE_REBUILDING, &rebuilding);
	if (r == 0)
		r = spool_index_put_note(s->index, SPOOL_NOTE_CLEAN, 0);
	if (r < 0)
		return r;
	/* A fresh index, or one that a start left unfinished. Over old records it replaces a
	 * lost one; over none this is the first start. */
	t->rebuild = rebuilding != 0;
	t->highest = last_seq;
	if (t->rebuild)
		t->since = 0;
	else if (clean)
		/* Segments taken into use since then belong to a run of which the index
		 * knows nothing: its log is lost. */
		t->since = (uint64_t)activation;
	else
		t->since = last > SEGMENT_RECENT ? last - SEGMENT_RECENT : 0;
	return 0;
}

static int recover(struct spool *s, struct taking *t)
{
	int r = take_notes(s, t);

	if (r == 0)
		r = spool_index_last_seq(s->index, &t->last_seq);
	/* Reports are counted one by one: half of all numbers are never given. */
	if (r == 0 && (t->last_seq < 0 || t->last_seq > INT64_MAX / 2 || t->highest < 0 ||
			  t->highest > INT64_MAX / 2))
		r = -EBADMSG;
	if (r == 0)
		r = spool_index_requeue_sending(s->index, &t->found->requeued);
	return r;
}

/* The rows that were being sent moved to queued: so must their sums. */
static int move_requeued(struct spool *s)
{
	struct spool_sum *from = &s->tally[REPORT_SENDING];
	struct spool_sum *to = &s->tally[REPORT_QUEUED];
	int r;

	if (from->reports == 0)
		return 0;
	to->reports += from->reports;
	to->bytes += from->bytes;
	*from = (struct spool_sum){ 0 };
	r = spool_index_put_tally(s->index, REPORT_QUEUED, to->reports, to->bytes);
	return r < 0 ? r : spool_index_put_tally(s->index, REPORT_SENDING, 0, 0);
}

/* Take everything from the index; what it says must make sense. */
static int load(struct spool *s, struct taking *t)
{
	int r = spool_index_begin(s->index);

	if (r == 0)
		r = recover(s, t);
	if (r == 0)
		r = load_sums(s, t->last_seq);
	if (r == 0)
		r = move_requeued(s);
	if (r == 0)
		r = spool_index_commit(s->index);
	if (r < 0)
		spool_index_rollback(s->index);
	return r;
}

/* Forget what a damaged index has told so far. */
static int start_again(struct spool *s)
{
	uint64_t discarded;

	s->index = spool_index_close(s->index);
	spool_lanes_done(&s->lanes);
	memset(s->tally, 0, sizeof(s->tally));
	free(TAKE_PTR(s->segment_sums));
	s->segment_sum_count = 0;
	s->segments = segment_store_close(s->segments);
	return segment_store_open(s->dir_fd, &s->segments, &discarded);
}

/* Put a damaged index away and begin a new one. */
static int replace_index(struct spool *s, char *errbuf, size_t errbuf_size)
{
	char name[64];
	int r;

	log_err("the index of the spool is damaged: %s", errbuf);
	r = start_again(s);
	if (r == 0)
		r = set_index_aside(s, name, sizeof(name));
	if (r < 0) {
		(void)snprintf(errbuf, errbuf_size,
		    "spool %s: cannot set the index aside: %s", s->directory,
		    strerror(-r));
		return r;
	}
	log_notice(
	    "set aside as %s/%s; making a new one from the records", s->directory, name);
	return open_index(s, errbuf, errbuf_size);
}

int spool_recover(
    struct spool *s, struct spool_recovery *ret, char *errbuf, size_t errbuf_size)
{
	struct taking t = { .spool = s, .found = ret };
	int r = open_index(s, errbuf, errbuf_size);

	if (r == 0) {
		r = load(s, &t);
		if (r < 0)
			(void)snprintf(errbuf, errbuf_size,
			    "spool %s: cannot read the index: %s", s->directory,
			    spool_index_error(s->index));
	}
	if (r == -EBADMSG) {
		r = replace_index(s, errbuf, errbuf_size);
		if (r == 0)
			r = load(s, &t);
	}
	if (r < 0)
		return r;
	r = take_records(&t);
	if (r < 0) {
		(void)snprintf(errbuf, errbuf_size, "spool %s: cannot recover: %s (%s)",
		    s->directory, strerror(-r), spool_index_error(s->index));
		return r;
	}
	ret->rebuilt = t.rebuild && ret->recovered + ret->damaged > 0;
	atomic_store(&s->last_seq, t.highest > t.last_seq ? t.highest : t.last_seq);
	return 0;
}
