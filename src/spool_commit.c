/* SPDX-License-Identifier: MIT */
/* Owns the committer: the one thread that writes the index. It takes all operations that
 * wait, makes their payloads durable with one sync, their rows with one transaction, and
 * only then changes what others see and tells those who wait.
 *
 * Invariant: after each batch memory (tally, lanes, segment sums) equals what is
 * committed. So a transaction collects its effects in struct batch and applies them after
 * the commit; a rolled-back one leaves no trace.
 */
#include "spool_internal.h"

#include "clock.h"
#include "crashpoint.h"
#include "log.h"

#include <errno.h>
#include <string.h>

/* How long a settlement that could not be stored waits before it is tried again, if no
 * other work comes first. */
#define RETRY_SETTLE_MS 1000

/* Rows taken by one step of tidying or evicting: a few milliseconds at most. */
#define FORGET_STEP 100

struct segment_delta {
	uint32_t segment;
	int64_t records;
	int64_t bytes;
};

struct lane_delta {
	struct spool_lane_entry *lane;
	int64_t queued;
};

struct release {
	int64_t seq;
	struct payload_ref payload;
};

/* The effects of one transaction on memory. */
struct batch {
	struct spool *spool;
	int64_t now_ms;
	int64_t tally_reports[REPORT_STATE_COUNT];
	int64_t tally_bytes[REPORT_STATE_COUNT];
	struct segment_delta *segments;
	size_t segment_count, segment_capacity;
	struct lane_delta *lanes;
	size_t lane_count, lane_capacity;
	struct release *releases;
	size_t release_count, release_capacity;
	struct rxid *evicted;
	size_t evicted_count, evicted_capacity;
	struct spool_room room;
	int64_t waiting_from; /* see struct spool */
	bool queued_any;      /* in the open transaction */
	bool due;             /* in any that was committed */
};

static int grow(void **array, size_t *capacity, size_t count, size_t size)
{
	size_t wanted = *capacity ? *capacity * 2 : 16;
	void *p;

	if (count < *capacity)
		return 0;
	p = reallocarray(*array, wanted, size);
	if (!p)
		return -ENOMEM;
	*array = p;
	*capacity = wanted;
	return 0;
}

static void batch_reset(struct batch *b)
{
	memset(b->tally_reports, 0, sizeof(b->tally_reports));
	memset(b->tally_bytes, 0, sizeof(b->tally_bytes));
	b->segment_count = 0;
	b->lane_count = 0;
	b->release_count = 0;
	b->evicted_count = 0;
	b->waiting_from = b->spool->waiting_from;
	b->queued_any = false;
}

static void batch_done(struct batch *b)
{
	free(b->segments);
	free(b->lanes);
	free(b->releases);
	free(b->evicted);
}

static int note_segment(struct batch *b, const struct payload_ref *ref, int64_t records)
{
	int64_t bytes = (int64_t)segment_record_bytes(ref);
	size_t i = 0;
	int r;

	/* A row that was altered may name a segment that never was. */
	if (ref->segment == 0 ||
	    (records < 0 && ref->segment > b->spool->segment_sum_count))
		return 0;
	while (i < b->segment_count && b->segments[i].segment != ref->segment)
		i++;
	if (i == b->segment_count) {
		r = grow(
		    (void **)&b->segments, &b->segment_capacity, i, sizeof(*b->segments));
		if (r == 0)
			r = spool_grow_sums(b->spool, ref->segment);
		if (r < 0)
			return r;
		b->segments[b->segment_count++] =
		    (struct segment_delta){ .segment = ref->segment };
	}
	b->segments[i].records += records;
	b->segments[i].bytes += records * bytes;
	return 0;
}

static int note_lane(struct batch *b, struct spool_lane_entry *lane, int64_t queued)
{
	size_t i = 0;
	int r;

	while (i < b->lane_count && b->lanes[i].lane != lane)
		i++;
	if (i == b->lane_count) {
		r = grow((void **)&b->lanes, &b->lane_capacity, i, sizeof(*b->lanes));
		if (r < 0)
			return r;
		b->lanes[b->lane_count++] = (struct lane_delta){ .lane = lane };
	}
	b->lanes[i].queued += queued;
	return 0;
}

static int note_release(struct batch *b, const struct spool_row *row)
{
	int r = note_segment(b, &row->payload, -1);

	if (r == 0)
		r = grow((void **)&b->releases, &b->release_capacity, b->release_count,
		    sizeof(*b->releases));
	if (r == 0)
		b->releases[b->release_count++] =
		    (struct release){ .seq = row->seq, .payload = row->payload };
	return r;
}

static void note_tally(struct batch *b, const struct spool_row *row,
    enum report_state state, int64_t reports)
{
	b->tally_reports[state] += reports;
	b->tally_bytes[state] += reports * (int64_t)row->payload.body_bytes;
}

/* Note that a report went from its row's state to another; REPORT_NEW stands for what it
 * is before it comes and after its row is gone. */
static int note_move(struct batch *b, const struct spool_row *row, enum report_state to)
{
	struct spool_lane_entry *lane = spool_lanes_get(&b->spool->lanes, row->lane);
	bool had = report_state_has_payload(row->state);
	bool has = report_state_has_payload(to);
	int r = 0;

	if (row->state != REPORT_NEW)
		note_tally(b, row, row->state, -1);
	if (to != REPORT_NEW)
		note_tally(b, row, to, 1);
	if ((to == REPORT_QUEUED || to == REPORT_HELD) && row->seq < b->waiting_from)
		b->waiting_from = row->seq;
	if (lane && row->state == REPORT_QUEUED)
		r = note_lane(b, lane, -1);
	if (lane && to == REPORT_QUEUED && r == 0) {
		r = note_lane(b, lane, 1);
		b->queued_any = true;
	}
	if (r == 0 && has && !had)
		r = note_segment(b, &row->payload, 1);
	if (r == 0 && had && !has)
		r = note_release(b, row);
	return r;
}

/* The lane of a new report, its row inserted if it is not committed yet. */
static int find_lane(
    struct batch *b, const char *universe, const char *token, int64_t *ret)
{
	struct spool *s = b->spool;
	struct spool_lane_entry *lane = spool_lanes_find(&s->lanes, universe, token);
	int r = 0;

	if (!lane) {
		(void)pthread_mutex_lock(&s->lock);
		r = spool_lanes_add(&s->lanes, 0, universe, token, &lane);
		(void)pthread_mutex_unlock(&s->lock);
	}
	if (r == 0 && !lane->stored) {
		size_t i = 0;

		/* In this transaction already? */
		while (i < b->lane_count && b->lanes[i].lane != lane)
			i++;
		if (i == b->lane_count) {
			r = spool_index_put_lane(s->index, lane->id, universe, token);
			if (r == 0)
				r = note_lane(b, lane, 0);
		}
	}
	if (r == 0)
		*ret = lane->id;
	return r;
}

/* One operation in the open transaction. A negative result means that the transaction
 * cannot go on; an operation's own refusal stands in op->result. */

/* Remove rows of the reports that were sent longest ago, so that their pages are used
 * again. Returns how many. */
static int forget_sent(struct batch *b)
{
	struct spool_row rows[FORGET_STEP];
	uint64_t before;
	uint64_t after;
	int n = spool_index_list_ended(
	    b->spool->index, REPORT_SENT, INT64_MAX, FORGET_STEP, rows);
	int r = n < 0 ? n : spool_index_used_bytes(b->spool->index, &before);

	for (int i = 0; i < n && r == 0; i++) {
		r = spool_index_delete(b->spool->index, rows[i].seq);
		if (r == 0)
			r = note_move(b, &rows[i], REPORT_NEW);
	}
	if (r == 0)
		r = spool_index_used_bytes(b->spool->index, &after);
	if (r < 0)
		return r;
	b->room.freed_bytes += before > after ? before - after : 0;
	return n;
}

/* The dead report that died first, else the report that has waited longest. Returns 1
 * found, 0 there is none. */
static int find_victim(struct batch *b, struct spool_row *ret)
{
	int n = spool_index_list_ended(b->spool->index, REPORT_DEAD, INT64_MAX, 1, ret);

	if (n == 0) {
		n = spool_index_list_waiting(b->spool->index, b->waiting_from, 1, ret);
		if (n > 0)
			b->waiting_from = ret->seq;
	}
	return n;
}

/* Give one thing up for room. Returns 1 done, 0 there is nothing to give up. */
static int evict_one(struct batch *b)
{
	struct spool_change change = { .to = REPORT_EVICTED,
		.changed_at_ms = b->now_ms,
		.reason = "evicted: the spool was full" };
	struct spool_row row;
	int r = 0;

	/* Rows of sent reports help against max_bytes only. */
	if (b->room.reports < b->room.limits.max_reports && !b->room.disk_low)
		r = forget_sent(b);
	if (r != 0)
		return r < 0 ? r : 1;
	r = find_victim(b, &row);
	if (r <= 0)
		return r;
	r = spool_index_move(b->spool->index, row.seq, &change);
	if (r == 0)
		r = note_move(b, &row, REPORT_EVICTED);
	if (r == 0)
		r = grow((void **)&b->evicted, &b->evicted_capacity, b->evicted_count,
		    sizeof(*b->evicted));
	if (r < 0)
		return r;
	b->evicted[b->evicted_count++] = row.rxid;
	b->room.freed_bytes += segment_record_bytes(&row.payload);
	b->room.reports--;
	return 1;
}

/* Make room for a report whose payload is placed already. Returns 1 there is room, 0 not
 * even by giving up others. */
static int make_room(struct batch *b, const struct payload_ref *payload)
{
	uint64_t bytes = segment_record_bytes(payload);
	/* Nothing is given up for one that would not fit even alone. */
	bool may_evict =
	    b->room.limits.when_full == SPOOL_EVICT &&
	    b->room.fixed_bytes + bytes <=
		b->room.limits.max_bytes + b->room.sent_bytes &&
	    b->room.in_use_bytes <= b->room.limits.max_bytes + b->room.movable_bytes &&
	    b->room.limits.max_reports > 0;

	b->room.grown_bytes += bytes;
	while (spool_room_is_over(&b->room)) {
		int r = may_evict ? evict_one(b) : 0;

		if (r == 0) { /* it goes itself */
			b->room.grown_bytes -= bytes;
			b->room.freed_bytes += bytes;
		}
		if (r <= 0)
			return r;
	}
	b->room.reports++;
	return 1;
}

static int apply_accept(struct batch *b, struct spool_payload *p)
{
	struct spool_row fresh = p->row;
	int r = make_room(b, &p->row.payload);

	if (r == 0)
		p->op.result = -EDQUOT;
	if (r <= 0)
		return r;
	r = find_lane(b, p->universe, p->token, &p->row.lane);
	if (r == 0)
		r = spool_index_insert(
		    b->spool->index, &p->row, b->now_ms, p->format, p->client, NULL);
	if (r < 0)
		return r;
	fresh.lane = p->row.lane;
	fresh.state = REPORT_NEW;
	return note_move(b, &fresh, REPORT_QUEUED);
}

static int apply_settle(struct batch *b, struct spool_settle_op *op)
{
	const struct spool_settlement *t = &op->settlement;
	struct spool_change change = { .to = t->to,
		.changed_at_ms = b->now_ms,
		.ambiguous = t->ambiguous,
		.count_attempt = t->count_attempt,
		.http_status = t->http_status,
		.reason = t->reason,
		.upstream_rxid = t->upstream_rxid };
	struct spool_row row;
	int r = spool_index_get(b->spool->index, t->seq, &row);

	if (r < 0)
		return r;
	if (r == 0 || !report_move_is_legal(row.state, t->to)) {
		op->op.result = r == 0 ? -ENOENT : -EINVAL;
		return 0;
	}
	r = spool_index_move(b->spool->index, t->seq, &change);
	return r < 0 ? r : note_move(b, &row, t->to);
}

static int apply_claim(struct batch *b, struct spool_claim_op *op)
{
	struct spool_change change = { .to = REPORT_SENDING, .changed_at_ms = b->now_ms };
	int n = spool_index_list_lane(b->spool->index, op->lane, REPORT_QUEUED,
	    op->newest_first, op->max, op->rows);

	op->count = 0;
	for (int i = 0; i < n; i++) {
		int r = spool_index_move(b->spool->index, op->rows[i].seq, &change);

		if (r == 0)
			r = note_move(b, &op->rows[i], REPORT_SENDING);
		if (r < 0)
			return r;
	}
	if (n > 0)
		op->count = (size_t)n;
	return n < 0 ? n : 0;
}

/* Take the rows of one ended state that were changed before a time. Adds to *ret_count. */
static int forget_ended(
    struct batch *b, enum report_state state, int64_t before_ms, size_t *ret_count)
{
	struct spool_row rows[FORGET_STEP];
	int n = spool_index_list_ended(
	    b->spool->index, state, before_ms, FORGET_STEP - *ret_count, rows);
	int r = n < 0 ? n : 0;

	for (int i = 0; i < n && r == 0; i++) {
		r = spool_index_delete(b->spool->index, rows[i].seq);
		if (r == 0)
			r = note_move(b, &rows[i], REPORT_NEW);
	}
	if (n > 0)
		*ret_count += (size_t)n;
	return r;
}

/* Reports of one lane that have waited too long become dead. */
static int expire_lane(struct batch *b, int64_t lane, enum report_state state,
    int64_t before_ms, size_t *ret_count)
{
	struct spool_change change = { .to = REPORT_DEAD,
		.changed_at_ms = b->now_ms,
		.reason = "expired: it waited longer than max_age" };
	struct spool_row rows[FORGET_STEP];
	int n = spool_index_list_lane(
	    b->spool->index, lane, state, false, FORGET_STEP - *ret_count, rows);
	int r = n < 0 ? n : 0;

	for (int i = 0; i < n && r == 0 && rows[i].received_at_ms < before_ms; i++) {
		r = spool_index_move(b->spool->index, rows[i].seq, &change);
		if (r == 0)
			r = note_move(b, &rows[i], REPORT_DEAD);
		++*ret_count;
	}
	return r;
}

static int apply_tidy(struct batch *b, struct spool_tidy_op *op)
{
	const struct spool_lanes *lanes = &b->spool->lanes;
	int64_t dead_before = b->now_ms - op->ages.keep_dead_ms;
	int64_t old_before = b->now_ms - op->ages.max_age_ms;
	size_t count = 0;
	int r = forget_ended(b, REPORT_SENT, b->now_ms - op->ages.keep_sent_ms, &count);

	if (r == 0)
		r = forget_ended(b, REPORT_DROPPED, dead_before, &count);
	if (r == 0)
		r = forget_ended(b, REPORT_EVICTED, dead_before, &count);
	if (r == 0)
		r = forget_ended(b, REPORT_DEAD, dead_before, &count);
	for (size_t i = 0; i < lanes->count && r == 0 && count < FORGET_STEP; i++) {
		r = expire_lane(
		    b, lanes->by_id[i]->id, REPORT_QUEUED, old_before, &count);
		if (r == 0 && count < FORGET_STEP)
			r = expire_lane(
			    b, lanes->by_id[i]->id, REPORT_HELD, old_before, &count);
	}
	op->more = count >= FORGET_STEP;
	return r;
}

static int apply(struct batch *b, struct spool_op *op)
{
	op->result = 0;
	switch (op->kind) {
	case SPOOL_ACCEPT:
		return apply_accept(b, (struct spool_payload *)op);
	case SPOOL_SETTLE:
		return apply_settle(b, (struct spool_settle_op *)op);
	case SPOOL_CLAIM:
		return apply_claim(b, (struct spool_claim_op *)op);
	case SPOOL_TIDY:
		return apply_tidy(b, (struct spool_tidy_op *)op);
	}
	return -EINVAL;
}

/* Add a signed change to a sum that can never fall below zero unless the index was
 * damaged; then zero is the harmless answer. */
static uint64_t plus(uint64_t sum, int64_t delta)
{
	if (delta < 0 && sum < (uint64_t)-delta)
		return 0;
	return sum + (uint64_t)delta;
}

static int write_sums(struct batch *b)
{
	struct spool *s = b->spool;
	int r = 0;

	for (int i = 1; i < REPORT_STATE_COUNT && r == 0; i++)
		if (b->tally_reports[i] != 0 || b->tally_bytes[i] != 0)
			r = spool_index_put_tally(s->index, (enum report_state)i,
			    plus(s->tally[i].reports, b->tally_reports[i]),
			    plus(s->tally[i].bytes, b->tally_bytes[i]));
	for (size_t i = 0; i < b->segment_count && r == 0; i++) {
		const struct segment_delta *d = &b->segments[i];
		const struct spool_sum *sum = &s->segment_sums[d->segment - 1];

		if (d->records != 0 || d->bytes != 0)
			r = spool_index_put_segment(s->index, d->segment,
			    plus(sum->reports, d->records), plus(sum->bytes, d->bytes));
	}
	return r;
}

/* Make memory follow what was committed. */
static void publish(struct batch *b)
{
	struct spool *s = b->spool;

	(void)pthread_mutex_lock(&s->lock);
	for (int i = 1; i < REPORT_STATE_COUNT; i++) {
		s->tally[i].reports = plus(s->tally[i].reports, b->tally_reports[i]);
		s->tally[i].bytes = plus(s->tally[i].bytes, b->tally_bytes[i]);
	}
	for (size_t i = 0; i < b->lane_count; i++) {
		struct spool_lane_entry *lane = b->lanes[i].lane;

		lane->queued = plus(lane->queued, b->lanes[i].queued);
		lane->stored = true;
	}
	s->waiting_from = b->waiting_from;
	(void)pthread_mutex_unlock(&s->lock);
	b->due |= b->queued_any;
	for (size_t i = 0; i < b->segment_count; i++) {
		struct spool_sum *sum = &s->segment_sums[b->segments[i].segment - 1];

		sum->reports = plus(sum->reports, b->segments[i].records);
		sum->bytes = plus(sum->bytes, b->segments[i].bytes);
	}
}

/* The payloads that no row needs any more go after their rows have changed: a crash in
 * between leaves bytes, never a row without them. */
static void release(struct batch *b)
{
	if (b->release_count > 0)
		crashpoint("settle.committed");
	for (size_t i = 0; i < b->release_count; i++)
		segment_release(
		    b->spool->segments, &b->releases[i].payload, b->releases[i].seq);
	if (b->release_count > 0)
		crashpoint("settle.released");
	for (size_t i = 0; i < b->evicted_count; i++) {
		char id[RXID_TEXT_SIZE];

		rxid_format(&b->evicted[i], id);
		log_warning("evicted report %s: the spool is full", id);
	}
}

/* Run the operations whose result is 0 as one transaction. only: a single operation, or
 * NULL for all of the list. */
static int transact(struct batch *b, struct spool_op *list, const struct spool_op *only)
{
	struct spool *s = b->spool;
	int r;

	batch_reset(b);
	r = spool_index_begin(s->index);
	if (r == 0)
		r = spool_room_measure(s, &b->room);
	for (struct spool_op *op = list; op && r == 0; op = op->next)
		if ((!only || op == only) && op->result == 0)
			r = apply(b, op);
	if (r == 0)
		r = write_sums(b);
	if (r == 0) {
		crashpoint("commit.inserted");
		r = spool_index_commit(s->index);
	}
	if (r < 0) {
		log_debug("index: %s", spool_index_error(s->index));
		spool_index_rollback(s->index);
		return r;
	}
	crashpoint("commit.committed");
	publish(b);
	release(b);
	return 0;
}

/* One transaction for all; if it fails, one each, so that none fails for another's sake.
 * On a full disk nothing is accepted any more, and the reserve is given up so that the
 * others, which make room, can be stored. */
static void transact_all(struct batch *b, struct spool_op *list)
{
	bool many = list && list->next;
	int r = transact(b, list, NULL);
	bool again = many;

	if (r == 0)
		return;
	if (r == -ENOSPC && spool_room_give_reserve(b->spool))
		again = true;
	for (struct spool_op *op = list; op; op = op->next) {
		if (op->result != 0)
			continue;
		if (again && !(r == -ENOSPC && op->kind == SPOOL_ACCEPT))
			op->result = transact(b, list, op);
		else
			op->result = r;
	}
}

/* Make the payloads of all accepts durable; if that fails, none of them is accepted. */
static void sync_payloads(struct batch *b, struct spool_op *list)
{
	struct payload_ref *refs = NULL;
	size_t capacity = 0;
	size_t n = 0;
	int r = 0;

	for (struct spool_op *op = list; op && r == 0; op = op->next) {
		if (op->kind != SPOOL_ACCEPT)
			continue;
		r = grow((void **)&refs, &capacity, n, sizeof(*refs));
		if (r == 0)
			refs[n++] = ((struct spool_payload *)op)->row.payload;
	}
	if (n > 0 && r == 0) {
		r = segment_sync(b->spool->segments, refs, n);
		crashpoint("commit.synced");
	}
	free(refs);
	if (r == 0)
		return;
	for (struct spool_op *op = list; op; op = op->next)
		if (op->kind == SPOOL_ACCEPT)
			op->result = r;
}

static void finish_accept(struct spool *s, struct spool_payload *p)
{
	int r = p->op.result;

	if (r == 0)
		segment_commit(s->segments, &p->row.payload);
	else
		segment_abandon(s->segments, &p->row.payload, p->row.seq);
	if (r < 0)
		spool_note_store_error(s, r);
	spool_payload_finish(p, r);
}

/* A settlement that could not be stored is kept: upstream's answer must not be lost while
 * this process lives. */
static void finish_settle(struct spool *s, struct spool_settle_op *op)
{
	int r = op->op.result;

	if (r < 0 && r != -ENOENT && r != -EINVAL) {
		op->op.result = 0;
		spool_queue_add(&s->unsettled, &op->op);
		return;
	}
	if (r < 0)
		log_err("report %lld: no legal move to %s", (long long)op->settlement.seq,
		    report_state_name(op->settlement.to));
	spool_settle_op_free(op);
}

/* Let whoever waits for a claim or a tidying go on; the operation is on its stack. */
static void finish_waiting(struct spool *s, bool *finished)
{
	(void)pthread_mutex_lock(&s->lock);
	*finished = true;
	(void)pthread_cond_broadcast(&s->finished);
	(void)pthread_mutex_unlock(&s->lock);
}

static void finish(struct spool *s, struct spool_op *op)
{
	switch (op->kind) {
	case SPOOL_ACCEPT:
		finish_accept(s, (struct spool_payload *)op);
		break;
	case SPOOL_SETTLE:
		finish_settle(s, (struct spool_settle_op *)op);
		break;
	case SPOOL_CLAIM:
		finish_waiting(s, &((struct spool_claim_op *)op)->finished);
		break;
	case SPOOL_TIDY:
		finish_waiting(s, &((struct spool_tidy_op *)op)->finished);
		break;
	}
}

static void commit_list(struct batch *b, struct spool_op *list)
{
	struct spool *s = b->spool;

	b->due = false;
	b->now_ms = clock_wall_ms();
	sync_payloads(b, list);
	transact_all(b, list);
	while (list) {
		struct spool_op *next = list->next; /* finish() may free it */

		finish(s, list);
		list = next;
	}
	if (b->due && s->on_due)
		s->on_due(s->on_due_cls);
}

/* Whether the committer must look again by itself, and when (monotonic). */
static bool has_own_work(const struct spool *s, int64_t *ret_at_ms)
{
	if (s->store_error != 0 && s->store_error != -EBADMSG) {
		*ret_at_ms = s->heal_at_ms;
		return true;
	}
	*ret_at_ms = clock_mono_ms() + RETRY_SETTLE_MS;
	return s->unsettled.head != NULL;
}

/* Wait for work. Settlements that failed before come first: they are older. Returns false
 * when it is time to end. */
static bool next_list(struct spool *s, struct spool_op **ret)
{
	bool go_on;

	(void)pthread_mutex_lock(&s->lock);
	while (!s->queue.head && !s->commit_stop) {
		int64_t at_ms;
		struct timespec until;

		if (!has_own_work(s, &at_ms)) {
			(void)pthread_cond_wait(&s->commit_work, &s->lock);
			continue;
		}
		at_ms -= clock_mono_ms();
		until = clock_deadline(at_ms > 0 ? at_ms : 0);
		if (pthread_cond_timedwait(&s->commit_work, &s->lock, &until) ==
		    ETIMEDOUT)
			break;
	}
	go_on = s->queue.head || !s->commit_stop;
	*s->unsettled.tail = s->queue.head;
	*ret = go_on ? spool_queue_take(&s->unsettled) : NULL;
	if (go_on)
		spool_queue_init(&s->queue);
	(void)pthread_mutex_unlock(&s->lock);
	return go_on;
}

/* After a failure: see whether the disk takes a transaction again, and if so take posts
 * again. */
static void heal(struct batch *b)
{
	struct spool *s = b->spool;
	bool due;
	int r;

	(void)pthread_mutex_lock(&s->lock);
	/* A damaged index does not heal: only a start makes it anew. */
	due = s->store_error != 0 && s->store_error != -EBADMSG &&
	      clock_mono_ms() >= s->heal_at_ms;
	(void)pthread_mutex_unlock(&s->lock);
	if (!due)
		return;
	/* A full disk has room again when it has room for the reserve. */
	r = spool_room_take_reserve(s)
		? spool_index_put_note(s->index, SPOOL_NOTE_CLEAN, 0)
		: -ENOSPC;
	(void)pthread_mutex_lock(&s->lock);
	s->store_error = r;
	s->heal_at_ms = clock_mono_ms() + SPOOL_HEAL_MS;
	(void)pthread_mutex_unlock(&s->lock);
	if (r == 0)
		log_notice("storing again");
}

/* New limits may ask for another reserve; without the disk for it draining is less sure,
 * no more. */
static void follow_limits(struct spool *s)
{
	bool changed;

	(void)pthread_mutex_lock(&s->lock);
	changed = s->limits_changed;
	s->limits_changed = false;
	(void)pthread_mutex_unlock(&s->lock);
	if (changed)
		(void)spool_room_take_reserve(s);
}

void *spool_commit_thread(void *arg)
{
	struct spool *s = arg;
	struct batch b = { .spool = s };
	struct spool_op *list;

	while (next_list(s, &list)) {
		if (list)
			commit_list(&b, list);
		heal(&b);
		follow_limits(s);
		spool_room_reclaim(s);
	}
	/* A last try for what could not be stored before. */
	list = spool_queue_take(&s->unsettled);
	if (list)
		commit_list(&b, list);
	batch_done(&b);
	return NULL;
}
