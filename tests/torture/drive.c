/* SPDX-License-Identifier: MIT */
/* Owns the driver's threads. What each does follows from the seed; how they meet does
 * not. */
#include "drive.h"

#include "bodies.h"
#include "posted.h"

#include "clock.h"
#include "segment.h"
#include "spool.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 8
#define LANES 3
#define PIECE_BYTES 30000u
#define ASIDE_MAX 64
/* One poster has no more than so many posts without a verdict. */
#define WINDOW 4
/* How long a spool may take to heal after a fault. */
#define INSIST_MS 10000
#define INSIST_STEP_MS 20
#define INSIST_BYTES 4000u

struct drive {
	const struct drive_options *options;
	struct spool *spool;
	int speak, listen; /* ends of the socket */
	atomic_uint next_post;
	atomic_uint settled;
	atomic_bool wrong;

	pthread_mutex_t lock;
	pthread_cond_t due;
	bool is_due;   /* under lock */
	bool draining; /* under lock: false = end */
};

/* A thread that posts. */
struct poster {
	struct drive *drive;
	uint64_t random;
	uint8_t *body;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t answered;
	unsigned under_way; /* under lock */
	int last_error;     /* under lock */
};

struct post {
	struct poster *poster;
	uint64_t id;
};

static void complain(struct drive *d, const char *what, int error)
{
	(void)fprintf(stderr, "driver: %s: %s\n", what, strerror(-error));
	atomic_store(&d->wrong, true);
}

/* Promises */

static void say(struct drive *d, const char *intro, const struct rxid *rxid, uint64_t id)
{
	char name[RXID_TEXT_SIZE];
	char text[128];
	int len;

	rxid_format(rxid, name);
	len = snprintf(text, sizeof(text), "%s%s\" %" PRIu64, intro, name, id);
	if (send(d->speak, text, (size_t)len, MSG_NOSIGNAL) != len)
		abort();
}

/* What clients hear. Ends with an empty message. */
static void *hear(void *arg)
{
	struct drive *d = arg;
	char text[128];
	ssize_t n;

	/* Not recv(): the recorder takes that for upstream. */
	while ((n = recvfrom(d->listen, text, sizeof(text) - 1, 0, NULL, NULL)) > 0) {
		char name[DISKLOG_NAME_BYTES + 1];
		uint64_t id;

		text[n] = '\0';
		if (sscanf(text, DISKLOG_ACK_TEXT "%36s\" %" SCNu64, name, &id) == 2 &&
		    posted_append(d->options->posted, name, id) < 0)
			abort();
	}
	return NULL;
}

/* Posting */

static void take_verdict(void *cls, const struct spool_verdict *verdict)
{
	struct post *post = cls;
	struct poster *p = post->poster;

	if (verdict->error == 0)
		say(p->drive, DISKLOG_ACK_TEXT, &verdict->rxid, post->id);
	(void)pthread_mutex_lock(&p->lock);
	p->under_way--;
	p->last_error = verdict->error;
	(void)pthread_cond_signal(&p->answered);
	(void)pthread_mutex_unlock(&p->lock);
	free(post);
}

static void wait_until(struct poster *p, unsigned under_way)
{
	(void)pthread_mutex_lock(&p->lock);
	while (p->under_way > under_way)
		(void)pthread_cond_wait(&p->answered, &p->lock);
	(void)pthread_mutex_unlock(&p->lock);
}

static size_t draw_length(const struct drive_options *o, uint64_t *random)
{
	uint64_t kind = random_below(random, 100);
	uint64_t len = random_below(random, 3000);

	if (kind < o->large_percent)
		len =
		    SEGMENT_INLINE_MAX + 1 + random_below(random, SEGMENT_INLINE_MAX / 8);
	else if (kind < o->large_percent + o->medium_percent)
		len = random_below(random, SEGMENT_INLINE_MAX);
	return BODY_MIN_BYTES + (size_t)len;
}

static int fill(struct poster *p, struct spool_payload *payload, uint64_t id, size_t len)
{
	int r = 0;

	body_fill(id, p->body, len);
	for (size_t at = 0; at < len && r == 0; at += PIECE_BYTES)
		r = spool_payload_write(payload, p->body + at,
		    len - at < PIECE_BYTES ? len - at : PIECE_BYTES);
	return r;
}

/* One post, or the beginning of one whose client goes away. */
static void post(struct poster *p, uint64_t id, size_t len, bool goes_away)
{
	static const char *const tokens[LANES] = { "one", "two", "three" };
	struct spool_draft draft = { .received_at_ms = clock_wall_ms(),
		.universe = "demo",
		.token = tokens[id % LANES],
		.format = "minidump",
		.target = "/demo/token/minidump",
		.content_type = id % 2 ? "application/octet-stream" : NULL,
		.client = "127.0.0.1" };
	struct spool_payload *payload = NULL;
	struct post *post = calloc(1, sizeof(*post));
	int r = spool_payload_begin(p->drive->spool, &payload);

	if (!post)
		abort();
	*post = (struct post){ .poster = p, .id = id };
	if (r == 0)
		r = fill(p, payload, id, goes_away ? len - len / 3 : len);
	if (r < 0 || goes_away) {
		spool_payload_abort(payload);
		free(post);
		(void)pthread_mutex_lock(&p->lock);
		p->last_error = r;
		(void)pthread_mutex_unlock(&p->lock);
		return;
	}
	(void)pthread_mutex_lock(&p->lock);
	p->under_way++;
	(void)pthread_mutex_unlock(&p->lock);
	spool_commit(p->drive->spool, payload, &draft, take_verdict, post);
}

static void *post_all(void *arg)
{
	struct poster *p = arg;
	struct drive *d = p->drive;
	const struct drive_options *o = d->options;
	unsigned i;

	while ((i = atomic_fetch_add(&d->next_post, 1)) < o->posts) {
		size_t len = draw_length(o, &p->random);

		post(p, o->first_id + i, len, random_below(&p->random, 20) == 0);
		wait_until(p, random_below(&p->random, 3) ? WINDOW - 1 : 0);
	}
	wait_until(p, 0);
	return NULL;
}

/* Draining */

static void note_due(void *cls)
{
	struct drive *d = cls;

	(void)pthread_mutex_lock(&d->lock);
	d->is_due = true;
	(void)pthread_cond_signal(&d->due);
	(void)pthread_mutex_unlock(&d->lock);
}

/* Whether it could be read; an injected fault may prevent that. */
static bool judge_claimed(struct drive *d, const struct report *r, uint8_t *body)
{
	struct spool_reader *rd = NULL;
	ssize_t n = spool_reader_open(d->spool, r, &rd);
	size_t len = 0;
	uint64_t id;

	while (n >= 0) {
		n = spool_reader_read(rd, body + len, 2 * SEGMENT_INLINE_MAX - len);
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	spool_reader_close(rd);
	if (n == -EBADMSG || n == -ENOENT)
		complain(d, "a claimed report is damaged", (int)n);
	if (n < 0)
		return false;
	if (!body_check(body, len, &id))
		complain(d, "a claimed report is not what was sent", -EBADMSG);
	return true;
}

static void settle(struct drive *d, const struct report *r, enum report_state to)
{
	struct spool_settlement t = { .seq = r->seq,
		.to = to,
		.count_attempt = true,
		.http_status = to == REPORT_SENT   ? 200
			       : to == REPORT_DEAD ? 400
						   : 503,
		.reason = to == REPORT_DEAD ? "upstream says: 400 no" : NULL,
		.upstream_rxid = to == REPORT_SENT ? "01000000-0000" : NULL };

	if (to == REPORT_SENT || to == REPORT_DROPPED)
		say(d, DISKLOG_OVER_TEXT, &r->rxid, 0);
	if (spool_settle(d->spool, &t, 1) < 0)
		complain(d, "a settlement is refused", -ESHUTDOWN);
	atomic_fetch_add(&d->settled, 1);
}

static enum report_state draw_outcome(const struct report *r, uint64_t *random)
{
	uint64_t kind = random_below(random, 100);

	if (kind < 80 || r->attempts > 1)
		return REPORT_SENT;
	return kind < 87 ? REPORT_QUEUED : kind < 94 ? REPORT_HELD : REPORT_DEAD;
}

/* Held and dead reports, kept for a later change by hand. */
struct aside {
	struct report *list[ASIDE_MAX];
	size_t count;
};

static void put_aside(struct aside *a, struct report *r, enum report_state state)
{
	r->state = state;
	if ((state == REPORT_HELD || state == REPORT_DEAD) && a->count < ASIDE_MAX)
		a->list[a->count++] = r;
	else
		report_free(r);
}

static void change_by_hand(struct drive *d, struct aside *a, uint64_t *random)
{
	struct report *r;

	if (a->count == 0 || random_below(random, 4) != 0)
		return;
	r = a->list[--a->count];
	settle(d, r, r->state == REPORT_HELD ? REPORT_QUEUED : REPORT_DROPPED);
	report_free(r);
}

static void drain_once(struct drive *d, struct aside *a, uint64_t *random, uint8_t *body)
{
	struct spool_lane lanes[LANES];
	size_t n = spool_list_lanes(d->spool, 0, lanes, LANES);

	for (size_t i = 0; i < n; i++) {
		struct report *reports[4];
		/* An injected fault may fail a claim. */
		int claimed = spool_claim(d->spool, lanes[i].id, random_next(random) & 1,
		    1 + random_below(random, 4), reports);

		for (int k = 0; k < claimed; k++) {
			enum report_state to = draw_outcome(reports[k], random);

			if (!judge_claimed(d, reports[k], body))
				to = REPORT_QUEUED;
			settle(d, reports[k], to);
			put_aside(a, reports[k], to);
		}
	}
	change_by_hand(d, a, random);
}

/* Wait until something is due that may be drained. Returns false at the end. */
static bool wait_due(struct drive *d)
{
	bool go_on;

	(void)pthread_mutex_lock(&d->lock);
	while (d->draining &&
	       (!d->is_due || atomic_load(&d->settled) * 100 >
				  atomic_load(&d->next_post) * d->options->drain_percent))
		(void)pthread_cond_wait(&d->due, &d->lock);
	d->is_due = false;
	go_on = d->draining;
	(void)pthread_mutex_unlock(&d->lock);
	return go_on;
}

static void *drain(void *arg)
{
	struct drive *d = arg;
	uint64_t random = d->options->seed + 1;
	uint8_t *body = malloc(2 * SEGMENT_INLINE_MAX);
	struct aside aside = { .count = 0 };

	if (!body)
		abort();
	while (wait_due(d))
		drain_once(d, &aside, &random, body);
	while (aside.count > 0)
		report_free(aside.list[--aside.count]);
	free(body);
	return NULL;
}

/* The run */

static void poster_init(struct poster *p, struct drive *d, uint64_t random)
{
	*p = (struct poster){ .drive = d, .random = random };
	p->body = malloc(2 * SEGMENT_INLINE_MAX);
	if (!p->body)
		abort();
	(void)pthread_mutex_init(&p->lock, NULL); /* cannot fail with these attributes */
	(void)pthread_cond_init(&p->answered, NULL);
}

/* Whatever went wrong before, the spool soon takes a report again. */
static void insist(struct drive *d, struct poster *p)
{
	int64_t deadline_ms = clock_mono_ms() + INSIST_MS;
	uint64_t id = d->options->first_id + d->options->posts;
	int error;

	do {
		error = spool_check_room(d->spool, INSIST_BYTES);
		if (error == 0) {
			post(p, id++, INSIST_BYTES, false);
			wait_until(p, 0);
			error = p->last_error;
		}
		if (error == 0)
			return;
		(void)poll(NULL, 0, INSIST_STEP_MS); /* nothing tells of healing */
	} while (clock_mono_ms() < deadline_ms);
	complain(d, "no report is taken any more", error);
}

static void run(struct drive *d)
{
	static struct poster posters[THREADS_MAX];
	pthread_t drainer;
	unsigned n =
	    d->options->threads < THREADS_MAX ? d->options->threads : THREADS_MAX;

	d->draining = true;
	if (pthread_create(&drainer, NULL, drain, d) != 0)
		abort();
	for (unsigned i = 0; i < n; i++) {
		poster_init(&posters[i], d, d->options->seed * 1000 + i);
		if (pthread_create(&posters[i].thread, NULL, post_all, &posters[i]) != 0)
			abort();
	}
	for (unsigned i = 0; i < n; i++)
		(void)pthread_join(posters[i].thread, NULL);
	(void)pthread_mutex_lock(&d->lock);
	d->draining = false;
	(void)pthread_cond_signal(&d->due);
	(void)pthread_mutex_unlock(&d->lock);
	(void)pthread_join(drainer, NULL);
	if (d->options->insist)
		insist(d, &posters[0]);
	for (unsigned i = 0; i < n; i++)
		free(posters[i].body);
}

static int open_spool(struct drive *d)
{
	struct spool_options options = { .directory = d->options->spool,
		.limits = { .max_bytes = d->options->max_bytes,
		    .max_reports = 1000000,
		    .reserve_bytes = d->options->reserve_bytes,
		    .when_full = d->options->evict ? SPOOL_EVICT : SPOOL_REJECT },
		.on_due = note_due,
		.cls = d };
	struct spool_recovery recovery;
	char reason[512];
	int r = spool_open(&options, &d->spool, &recovery, reason, sizeof(reason));

	if (r < 0)
		(void)fprintf(stderr, "driver: %s\n", reason);
	return r;
}

int drive_run(const struct drive_options *options)
{
	struct drive d = { .options = options,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.due = PTHREAD_COND_INITIALIZER };
	pthread_t hearer;
	int ends[2];

	if (open_spool(&d) < 0)
		return DRIVE_REFUSED;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		abort();
	d.speak = ends[0];
	d.listen = ends[1];
	if (pthread_create(&hearer, NULL, hear, &d) != 0)
		abort();
	run(&d);
	(void)shutdown(d.speak, SHUT_WR);
	(void)pthread_join(hearer, NULL);
	if (options->abandon)
		_exit(atomic_load(&d.wrong) ? 1 : 0);
	d.spool = spool_close(d.spool);
	(void)close(ends[0]);
	(void)close(ends[1]);
	return atomic_load(&d.wrong) ? 1 : 0;
}
