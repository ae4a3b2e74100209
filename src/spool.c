/* SPDX-License-Identifier: MIT */
/* Owns the door of the spool: opening and closing, handing work to the committer, reading
 * payloads, and the sealer, a thread that waits for the disk in place of the committer
 * when a large body is synced, so that small ones are not held up by it.
 *
 * Lock order: none needed, no function holds two. */
#include "spool_internal.h"

#include "clock.h"
#include "crashpoint.h"
#include "fsutil.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

void spool_queue_init(struct spool_queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

void spool_queue_add(struct spool_queue *q, struct spool_op *op)
{
	op->next = NULL;
	*q->tail = op;
	q->tail = &op->next;
}

struct spool_op *spool_queue_take(struct spool_queue *q)
{
	struct spool_op *list = q->head;

	spool_queue_init(q);
	return list;
}

int spool_hand_over(struct spool *s, struct spool_op *op)
{
	int r = 0;

	(void)pthread_mutex_lock(&s->lock);
	if (s->commit_stop)
		r = -ESHUTDOWN;
	else
		spool_queue_add(&s->queue, op);
	(void)pthread_cond_signal(&s->commit_work);
	(void)pthread_mutex_unlock(&s->lock);
	return r;
}

/* Receiving */

int spool_payload_begin(struct spool *s, struct spool_payload **ret)
{
	struct spool_payload *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->op.kind = SPOOL_ACCEPT;
	p->spool = s;
	r = segment_writer_new(s->segments, &p->writer);
	if (r < 0) {
		free(p);
		return r;
	}
	*ret = p;
	return 0;
}

/* A body whose length nobody announced is judged again as it grows. */
#define JUDGE_STEP (UINT64_C(8) << 20)

int spool_payload_write(struct spool_payload *p, const void *data, size_t len)
{
	uint64_t before = segment_writer_bytes(p->writer);
	int r = segment_writer_add(p->writer, data, len);

	if (r == 0 && before / JUDGE_STEP != segment_writer_bytes(p->writer) / JUDGE_STEP)
		return spool_check_room(p->spool, 0);
	if (r < 0)
		spool_note_store_error(p->spool, r);
	return r;
}

struct spool_payload *spool_payload_abort(struct spool_payload *p)
{
	if (!p)
		return NULL;
	segment_writer_free(p->writer);
	strbuf_done(&p->strings);
	free(p);
	return NULL;
}

void spool_payload_finish(struct spool_payload *p, int error)
{
	struct spool_verdict verdict = { .error = error, .rxid = p->row.rxid };
	spool_commit_fn *done = p->done;
	void *cls = p->cls;

	spool_payload_abort(p);
	done(cls, &verdict);
}

/* Copy a string that must outlive the caller; offsets, since the buffer may move. */
static size_t keep_string(struct strbuf *b, const char *s)
{
	size_t at = b->len;

	if (!s)
		return SIZE_MAX;
	strbuf_add(b, s, strlen(s) + 1);
	return at;
}

static int keep_strings(struct spool_payload *p, const struct spool_draft *draft)
{
	size_t universe = keep_string(&p->strings, draft->universe);
	size_t token = keep_string(&p->strings, draft->token);
	size_t format = keep_string(&p->strings, draft->format);
	size_t client = keep_string(&p->strings, draft->client);

	if (strbuf_status(&p->strings) < 0)
		return -ENOMEM;
	p->universe = p->strings.data + universe;
	p->token = p->strings.data + token;
	p->format = p->strings.data + format;
	p->client = client == SIZE_MAX ? NULL : p->strings.data + client;
	return 0;
}

/* Name the report and give its record a place on disk. */
static int place(struct spool_payload *p, const struct spool_draft *draft)
{
	struct record record = { .received_at_ms = draft->received_at_ms,
		.strings = { .universe = draft->universe,
		    .token = draft->token,
		    .format = draft->format,
		    .target = draft->target,
		    .content_type = draft->content_type,
		    .content_encoding = draft->content_encoding,
		    .client = draft->client } };
	int r = keep_strings(p, draft);

	if (r == 0)
		r = rxid_make(draft->received_at_ms, &record.rxid);
	if (r < 0)
		return r;
	record.seq = atomic_fetch_add(&p->spool->last_seq, 1) + 1;
	r = segment_writer_place(p->writer, &record, &p->row.payload);
	if (r < 0)
		return r;
	crashpoint("payload.staged");
	p->row.seq = record.seq;
	p->row.rxid = record.rxid;
	p->row.state = REPORT_QUEUED;
	p->row.received_at_ms = draft->received_at_ms;
	return 0;
}

void spool_commit(struct spool *s, struct spool_payload *payload,
    const struct spool_draft *draft, spool_commit_fn *done, void *cls)
{
	int r;

	payload->done = done;
	payload->cls = cls;
	r = place(payload, draft);
	if (r < 0) {
		spool_note_store_error(s, r);
		spool_payload_finish(payload, r);
		return;
	}
	if (segment_writer_is_large(payload->writer)) {
		(void)pthread_mutex_lock(&s->lock);
		if (s->sealer_stop)
			r = -ESHUTDOWN;
		else
			spool_queue_add(&s->sealing, &payload->op);
		(void)pthread_cond_signal(&s->seal_work);
		(void)pthread_mutex_unlock(&s->lock);
	} else {
		r = spool_hand_over(s, &payload->op);
		if (r < 0)
			segment_abandon(
			    s->segments, &payload->row.payload, payload->row.seq);
	}
	if (r < 0)
		spool_payload_finish(payload, r);
}

/* Wait for the disk to have a large body, then pass it on to the committer. */
static void seal(struct spool *s, struct spool_payload *p)
{
	int r = segment_writer_seal(p->writer);

	if (r == 0) {
		crashpoint("payload.renamed");
		r = spool_hand_over(s, &p->op);
		if (r < 0)
			segment_abandon(s->segments, &p->row.payload, p->row.seq);
	} else {
		spool_note_store_error(s, r);
	}
	if (r < 0)
		spool_payload_finish(p, r);
}

static void *seal_thread(void *arg)
{
	struct spool *s = arg;

	(void)pthread_mutex_lock(&s->lock);
	for (;;) {
		struct spool_op *list = spool_queue_take(&s->sealing);

		if (!list && s->sealer_stop)
			break;
		if (!list) {
			(void)pthread_cond_wait(&s->seal_work, &s->lock);
			continue;
		}
		(void)pthread_mutex_unlock(&s->lock);
		while (list) {
			/* op is the first member. */
			struct spool_payload *p = (struct spool_payload *)list;

			list = list->next;
			seal(s, p);
		}
		(void)pthread_mutex_lock(&s->lock);
	}
	(void)pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* Draining */

size_t spool_list_lanes(
    struct spool *s, int64_t after, struct spool_lane *out, size_t max)
{
	size_t n = 0;

	(void)pthread_mutex_lock(&s->lock);
	for (size_t i = spool_lanes_after(&s->lanes, after);
	     i < s->lanes.count && n < max; i++) {
		const struct spool_lane_entry *e = s->lanes.by_id[i];

		if (e->queued > 0)
			out[n++] =
			    (struct spool_lane){ .id = e->id, .queued = e->queued };
	}
	(void)pthread_mutex_unlock(&s->lock);
	return n;
}

void spool_settle_op_free(struct spool_settle_op *op)
{
	if (!op)
		return;
	/* The copies made below. */
	free((void *)(uintptr_t)op->settlement.reason);
	free((void *)(uintptr_t)op->settlement.upstream_rxid);
	free(op);
}

static struct spool_settle_op *settle_op_new(const struct spool_settlement *t)
{
	struct spool_settle_op *op = calloc(1, sizeof(*op));

	if (!op)
		return NULL;
	op->op.kind = SPOOL_SETTLE;
	op->settlement = *t;
	op->settlement.reason = t->reason ? strdup(t->reason) : NULL;
	op->settlement.upstream_rxid = t->upstream_rxid ? strdup(t->upstream_rxid) : NULL;
	if ((t->reason && !op->settlement.reason) ||
	    (t->upstream_rxid && !op->settlement.upstream_rxid)) {
		spool_settle_op_free(op);
		return NULL;
	}
	return op;
}

int spool_settle(struct spool *s, const struct spool_settlement *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct spool_settle_op *op = settle_op_new(&list[i]);
		int r = op ? spool_hand_over(s, &op->op) : -ENOMEM;

		if (r < 0) {
			spool_settle_op_free(op);
			return r;
		}
	}
	return 0;
}

static char *copy_or_null(const char *s, bool *failed)
{
	char *copy = s ? strdup(s) : NULL;

	if (s && !copy)
		*failed = true;
	return copy;
}

static int report_new(
    const struct spool_row *row, const struct record *record, struct report **ret)
{
	struct report *r = calloc(1, sizeof(*r));
	bool failed = false;

	if (!r)
		return -ENOMEM;
	r->seq = row->seq;
	r->rxid = row->rxid;
	r->state = REPORT_SENDING;
	r->lane = row->lane;
	r->received_at_ms = row->received_at_ms;
	r->payload = row->payload;
	r->attempts = row->attempts;
	r->ambiguous = row->ambiguous;
	r->universe = copy_or_null(record->strings.universe, &failed);
	r->token = copy_or_null(record->strings.token, &failed);
	r->format = copy_or_null(record->strings.format, &failed);
	r->envelope.target = copy_or_null(record->strings.target, &failed);
	r->envelope.content_type = copy_or_null(record->strings.content_type, &failed);
	r->envelope.content_encoding =
	    copy_or_null(record->strings.content_encoding, &failed);
	r->envelope.client = copy_or_null(record->strings.client, &failed);
	if (failed) {
		report_free(r);
		return -ENOMEM;
	}
	*ret = r;
	return 0;
}

/* Make a report of a claimed row and the record it points to. What goes upstream comes
 * from the record, which is checksummed, not from the row. */
static int load_report(struct spool *s, const struct spool_row *row, struct report **ret)
{
	struct segment_reader *rd = NULL;
	int r =
	    segment_reader_open(s->segments, &row->payload, row->seq, &row->rxid, &rd);

	if (r == 0)
		r = report_new(row, segment_reader_record(rd), ret);
	segment_reader_close(rd);
	return r;
}

/* A claimed report that cannot be loaded: what is damaged or unreadable is put aside, and
 * true returned; for want of memory or descriptors it is tried again later. */
static bool put_back(struct spool *s, const struct spool_row *row, int error)
{
	/* Memory and descriptors come back; what the disk cannot read does not. */
	bool damaged = error != -ENOMEM && error != -EMFILE && error != -ENFILE;
	struct spool_settlement t = { .seq = row->seq,
		.to = damaged ? REPORT_DEAD : REPORT_QUEUED,
		.reason = error == -ENOENT ? "payload missing from the spool"
			  : damaged        ? "record damaged in the spool"
					   : NULL };
	char id[RXID_TEXT_SIZE];

	rxid_format(&row->rxid, id);
	if (damaged)
		log_err("report %s is damaged in the spool and was put aside: %s", id,
		    t.reason);
	else
		log_warning("report %s cannot be read now: %s", id, strerror(-error));
	if (spool_settle(s, &t, 1) <
	    0) /* stays sending; queued again at the next start */
		log_warning("report %s stays claimed until the next start", id);
	return damaged;
}

#define CLAIM_MAX 64

/* One claim by the committer; returns how many could be loaded, or a negative errno. */
static int claim_once(struct spool *s, struct spool_claim_op *op, struct report **out)
{
	int n = 0;
	int failed = 0;
	int r = spool_hand_over(s, &op->op);

	if (r < 0)
		return r;
	(void)pthread_mutex_lock(&s->lock);
	while (!op->finished)
		(void)pthread_cond_wait(&s->finished, &s->lock);
	(void)pthread_mutex_unlock(&s->lock);
	if (op->op.result < 0)
		return op->op.result;
	crashpoint("claim.committed");
	for (size_t i = 0; i < op->count; i++) {
		r = load_report(s, &op->rows[i], &out[n]);
		if (r == 0)
			n++;
		else if (!put_back(s, &op->rows[i], r))
			failed = r;
	}
	return n > 0 ? n : failed;
}

int spool_claim(
    struct spool *s, int64_t lane, bool newest_first, size_t max, struct report **out)
{
	struct spool_row rows[CLAIM_MAX];

	for (;;) {
		struct spool_claim_op op = { .op = { .kind = SPOOL_CLAIM },
			.lane = lane,
			.newest_first = newest_first,
			.max = max < CLAIM_MAX ? max : CLAIM_MAX,
			.rows = rows };
		int n = claim_once(s, &op, out);

		/* All of them damaged, and put aside: others may wait behind them. */
		if (n != 0 || op.count == 0)
			return n;
	}
}

int spool_reader_open(struct spool *s, const struct report *r, struct spool_reader **ret)
{
	struct segment_reader *rd;
	int e = segment_reader_open(s->segments, &r->payload, r->seq, &r->rxid, &rd);

	/* A spool_reader is a segment_reader under the name the spool's users know. */
	if (e == 0)
		*ret = (struct spool_reader *)rd;
	return e;
}

ssize_t spool_reader_read(struct spool_reader *rd, void *buf, size_t len)
{
	return segment_reader_read((struct segment_reader *)rd, buf, len);
}

int spool_reader_rewind(struct spool_reader *rd)
{
	return segment_reader_rewind((struct segment_reader *)rd);
}

struct spool_reader *spool_reader_close(struct spool_reader *rd)
{
	segment_reader_close((struct segment_reader *)rd);
	return NULL;
}

/* Keeping house */

int spool_tidy(struct spool *s, const struct spool_ages *ages)
{
	struct spool_tidy_op op = { .op = { .kind = SPOOL_TIDY }, .ages = *ages };
	int r = spool_hand_over(s, &op.op);

	if (r < 0)
		return r;
	(void)pthread_mutex_lock(&s->lock);
	while (!op.finished)
		(void)pthread_cond_wait(&s->finished, &s->lock);
	(void)pthread_mutex_unlock(&s->lock);
	return op.op.result < 0 ? op.op.result : op.more;
}

/* Looking */

void spool_set_limits(struct spool *s, const struct spool_limits *limits)
{
	(void)pthread_mutex_lock(&s->lock);
	s->limits = *limits;
	s->limits_changed = true;
	(void)pthread_mutex_unlock(&s->lock);
	segment_set_disk_limit(s->segments, limits->max_bytes);
}

void spool_trim(struct spool *s)
{
	segment_trim(s->segments);
}

void spool_get_stats(struct spool *s, struct spool_stats *ret)
{
	struct segment_usage usage;
	struct spool_stats st = { 0 };

	segment_get_usage(s->segments, &usage);
	(void)pthread_mutex_lock(&s->lock);
	st.disk_bytes = usage.disk_bytes + s->fixed_bytes;
	for (int i = 0; i < REPORT_STATE_COUNT; i++) {
		st.reports[i] = s->tally[i].reports;
		if (report_state_has_payload((enum report_state)i))
			st.payload_bytes += s->tally[i].bytes;
	}
	st.limit_bytes = s->limits.max_bytes;
	(void)pthread_mutex_unlock(&s->lock);
	st.store_error = spool_check_room(s, 0);
	st.oldest_queued_at_ms = spool_view_oldest_queued(s);
	*ret = st;
}

/* Opening and closing */

/* Open the folder and take its lock: the lock is on the folder itself, so that nothing a
 * user could remove carries it. */
static int open_folder(struct spool *s, char *errbuf, size_t errbuf_size)
{
	int r = fs_make_folder(s->directory, 0700);

	if (r == 0) {
		s->dir_fd = open(s->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (s->dir_fd < 0)
			r = -errno;
	}
	if (r == 0 && faccessat(s->dir_fd, ".", W_OK | X_OK, AT_EACCESS) < 0)
		r = -errno;
	/* The folder's own name must be durable before anything in it counts. */
	if (r == 0) {
		CLEANUP(cleanup_close)
		int parent = openat(s->dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (parent >= 0)
			r = fs_sync_folder(parent);
	}
	if (r == 0 && flock(s->dir_fd, LOCK_EX | LOCK_NB) < 0) {
		r = errno == EWOULDBLOCK ? -EBUSY : -errno;
		if (r == -EBUSY) {
			(void)snprintf(errbuf, errbuf_size,
			    "spool %s is in use by another minidump-relayd",
			    s->directory);
			return r;
		}
	}
	if (r < 0)
		(void)snprintf(
		    errbuf, errbuf_size, "spool %s: %s", s->directory, strerror(-r));
	return r;
}

static int start_thread(pthread_t *thread, void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	int r;

	(void)pthread_attr_init(&attr);
	/* SQLite's own documentation asks for no more; the default of 8 MiB is only
	 * address space, yet counts against limits some machines set. */
	(void)pthread_attr_setstacksize(&attr, 512 << 10);
	r = pthread_create(thread, &attr, run, arg);
	(void)pthread_attr_destroy(&attr);
	return -r;
}

static int start_threads(struct spool *s)
{
	int r = segment_store_start(s->segments);

	if (r == 0)
		r = start_thread(&s->committer, spool_commit_thread, s);
	if (r == 0) {
		s->committer_runs = true;
		r = start_thread(&s->sealer, seal_thread, s);
	}
	if (r == 0)
		s->sealer_runs = true;
	return r;
}

static struct spool *spool_alloc(const struct spool_options *options)
{
	struct spool *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->dir_fd = -1;
	s->on_due = options->on_due;
	s->on_due_cls = options->cls;
	s->limits = options->limits;
	spool_queue_init(&s->queue);
	spool_queue_init(&s->sealing);
	spool_queue_init(&s->unsettled);
	/* These cannot fail with default attributes. */
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)pthread_mutex_init(&s->view_lock, NULL);
	(void)pthread_cond_init(&s->seal_work, NULL);
	(void)pthread_cond_init(&s->finished, NULL);
	{
		pthread_condattr_t attr;

		(void)pthread_condattr_init(&attr);
		(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
		(void)pthread_cond_init(&s->commit_work, &attr);
		(void)pthread_condattr_destroy(&attr);
	}
	s->directory = strdup(options->directory);
	if (!s->directory)
		return spool_close(s);
	return s;
}

int spool_open(const struct spool_options *options, struct spool **ret,
    struct spool_recovery *ret_recovery, char *errbuf, size_t errbuf_size)
{
	struct spool_recovery recovery = { 0 };
	struct spool *s = spool_alloc(options);
	int r;

	if (!s) {
		(void)snprintf(errbuf, errbuf_size, "out of memory");
		return -ENOMEM;
	}
	r = open_folder(s, errbuf, errbuf_size);
	if (r == 0) {
		r = segment_store_open(s->dir_fd, &s->segments, &recovery.discarded);
		if (r < 0)
			(void)snprintf(errbuf, errbuf_size,
			    "spool %s: cannot open payloads: %s", s->directory,
			    strerror(-r));
	}
	if (r == 0) {
		spool_room_start(s);
		r = spool_recover(s, &recovery, errbuf, errbuf_size);
	}
	if (r == 0) {
		(void)spool_room_take_reserve(s); /* without one draining is less sure */
		r = start_threads(s);
		if (r < 0)
			(void)snprintf(errbuf, errbuf_size, "cannot start a thread: %s",
			    strerror(-r));
	}
	if (r < 0) {
		spool_close(s);
		return r;
	}
	*ret_recovery = recovery;
	*ret = s;
	return 0;
}

static void stop_thread(
    struct spool *s, bool *stop, pthread_cond_t *wake, pthread_t thread)
{
	(void)pthread_mutex_lock(&s->lock);
	*stop = true;
	(void)pthread_cond_signal(wake);
	(void)pthread_mutex_unlock(&s->lock);
	(void)pthread_join(thread, NULL);
}

/* What the next start need not find out by reading segments. */
static void leave_notes(struct spool *s)
{
	int r = spool_index_begin(s->index);

	if (r == 0)
		r = spool_index_put_note(
		    s->index, SPOOL_NOTE_LAST_SEQ, atomic_load(&s->last_seq));
	if (r == 0)
		r = spool_index_put_note(s->index, SPOOL_NOTE_ACTIVATION,
		    (int64_t)segment_last_activation(s->segments));
	if (r == 0)
		r = spool_index_put_note(s->index, SPOOL_NOTE_CLEAN, 1);
	if (r == 0)
		r = spool_index_commit(s->index);
	if (r == 0)
		return;
	log_warning("the spool could not be marked as closed in order: %s",
	    spool_index_error(s->index));
	spool_index_rollback(s->index);
}

struct spool *spool_close(struct spool *s)
{
	struct spool_op *op;

	if (!s)
		return NULL;
	(void)pthread_mutex_lock(&s->lock);
	s->closing = true;
	(void)pthread_mutex_unlock(&s->lock);
	if (s->sealer_runs)
		stop_thread(s, &s->sealer_stop, &s->seal_work, s->sealer);
	if (s->committer_runs)
		stop_thread(s, &s->commit_stop, &s->commit_work, s->committer);
	op = spool_queue_take(&s->unsettled);
	if (op)
		log_warning(
		    "outcomes of uploads could not be stored: these reports will be"
		    " sent again");
	while (op) {
		struct spool_op *next = op->next;

		spool_settle_op_free((struct spool_settle_op *)op);
		op = next;
	}
	spool_index_close(s->view);
	if (s->index && s->committer_runs)
		leave_notes(s);
	spool_index_close(s->index);
	segment_store_close(s->segments);
	spool_lanes_done(&s->lanes);
	free(s->segment_sums);
	cleanup_close(&s->dir_fd);
	(void)pthread_cond_destroy(&s->commit_work);
	(void)pthread_cond_destroy(&s->seal_work);
	(void)pthread_cond_destroy(&s->finished);
	(void)pthread_mutex_destroy(&s->lock);
	(void)pthread_mutex_destroy(&s->view_lock);
	free(s->directory);
	free(s);
	return NULL;
}
