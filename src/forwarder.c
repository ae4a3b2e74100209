/* SPDX-License-Identifier: MIT */
/* Owns the draining thread: what is sent when. Invariants: every report claimed is settled,
 * or the thread has ended and the next start of the spool puts it back; an upload begins
 * only where neither its upstream nor its lane is paused; with nothing due the thread has
 * no timer and sleeps. */
#include "forwarder_internal.h"

#include "clock.h"
#include "crashpoint.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/random.h>

/* A claim waits for the disk, so while uploads are quick several reports are claimed at
 * once: as many as ended in the last PACE_MS, but no more than this of a lane, ... */
#define CLAIM_MAX 64
/* ... and no more than this over all lanes. */
#define CLAIMED_MAX 256
#define PACE_MS INT64_C(250)

/* How many reports of a lane its probes try in turn. */
#define PROBE_SPREAD 8

/* Connections and buffers are kept so long after the last upload. */
#define REST_AFTER_MS 30000

/* Before the spool is asked again after it could not take a settlement. */
#define SETTLE_AGAIN_MS 100

/* The stack of the thread. Names are resolved on threads of curl's own. */
#define STACK_BYTES ((size_t)512 * 1024)

/* Pauses after a claim that failed, or that found nothing where something was listed. */
static const struct backoff_bounds claim_bounds = { .min_ms = 100, .max_ms = 30000 };

/* Beginning */

/* An upload that could not even begin; there is room to settle. */
static void fail_at_home(
    struct forwarder *f, struct lane *lane, struct report *r, int error, const char *what)
{
	struct upstream_result res = { .report = r, .outcome = UPSTREAM_UNREADABLE };

	if (error == -EBADMSG || error == -ENOENT || error == -EINVAL)
		res.outcome = UPSTREAM_DAMAGED;
	errno = -error;
	if (error == -EBADMSG)
		(void)snprintf(res.text, sizeof(res.text), "the stored body is damaged");
	else
		(void)snprintf(res.text, sizeof(res.text), "%s: %m", what);
	forwarder_apply(f, lane, &res);
}

/* Begin to upload a claimed report; there is room to settle it if that fails. */
static void begin_upload(struct forwarder *f, struct lane *lane, struct report *r)
{
	struct spool_reader *reader = NULL;
	int e = spool_reader_open(f->spool, r, &reader);

	if (e < 0) {
		fail_at_home(f, lane, r, e, "the stored body cannot be read");
		return;
	}
	e = upstream_begin(f->io, f->now.upstream, r, reader);
	if (e < 0) {
		fail_at_home(f, lane, r, e, "the request cannot be made");
		return;
	}
	lane->in_flight++;
}

/* How many to claim of a lane at once. */
static size_t choose_claim_size(const struct forwarder *f, const struct lane *lane)
{
	size_t n = f->now.concurrency - upstream_count(f->io);

	if (f->backoff.failures > 0 || lane->backoff.failures > 0)
		return 1;
	if (n < f->pace.last)
		n = f->pace.last;
	if (n > CLAIM_MAX)
		n = CLAIM_MAX;
	if (f->lanes.claimed + n > CLAIMED_MAX)
		n = f->lanes.claimed < CLAIMED_MAX ? CLAIMED_MAX - f->lanes.claimed : 1;
	return n;
}

/* Which of its reports the next upload of a lane tries, 0 = the first: a probe that failed
 * is made once more, then others have their turn. */
static size_t choose_probe(
    const struct forwarder *f, const struct lane *lane, uint64_t queued)
{
	uint64_t spread = queued < PROBE_SPREAD ? queued : PROBE_SPREAD;

	if (f->backoff.failures == 0 && lane->backoff.failures == 0)
		return 0;
	return lane->failed_probes > 1 && spread > 0
		   ? (size_t)((lane->failed_probes - 1) % spread)
		   : 0;
}

static void delay_claims(struct forwarder *f)
{
	(void)backoff_fail(&f->claims, &claim_bounds, clock_mono_ms(), 0,
	    backoff_random(&f->random_state));
}

/* Claim reports of a lane that has none claimed. Returns whether there are some now. */
static bool claim(struct forwarder *f, struct lane *lane, uint64_t queued)
{
	size_t probe = choose_probe(f, lane, queued);
	size_t max = probe > 0 ? probe + 1 : choose_claim_size(f, lane);
	CLEANUP(cleanup_free) struct report **list = calloc(max, sizeof(struct report *));
	int n = -ENOMEM;

	/* What was just put back is to be found by this claim. */
	if (list && forwarder_flush(f))
		n = spool_claim(f->spool, lane->id, f->now.newest_first, max, list);
	if (n <= 0) {
		delay_claims(f);
		return false;
	}
	backoff_succeed(&f->claims, clock_mono_ms(), 1);
	lanes_put_claimed(&f->lanes, lane, TAKE_PTR(list), (size_t)n);
	return true;
}

/* Begin to upload one of those claimed of a lane; in a probe the others go back. */
static void begin_next(struct forwarder *f, struct lane *lane)
{
	if (f->backoff.failures == 0 && lane->backoff.failures == 0) {
		begin_upload(f, lane, lanes_take_claimed(&f->lanes, lane));
	} else {
		begin_upload(f, lane, lanes_take_last_claimed(&f->lanes, lane));
		forwarder_release_lane(f, lane);
	}
}

/* A lane from which an upload may begin, and how many reports it has in the queue. */
struct candidate {
	int64_t id;
	uint64_t queued;
};

static bool lane_allows(struct forwarder *f, int64_t id, int64_t now_ms)
{
	const struct lane *lane = lanes_find(&f->lanes, id);

	return !lane || backoff_allows(&lane->backoff, now_ms, lane->in_flight);
}

/* The first such lane behind lane after that has something queued. */
static bool find_queued(
    struct forwarder *f, int64_t after, int64_t now_ms, struct candidate *ret)
{
	struct spool_lane page[64];
	size_t n;

	do {
		n = spool_list_lanes(f->spool, after, page, ARRAY_LEN(page));
		for (size_t i = 0; i < n; i++)
			if (lane_allows(f, page[i].id, now_ms)) {
				*ret = (struct candidate){ page[i].id, page[i].queued };
				return true;
			}
		if (n > 0)
			after = page[n - 1].id;
	} while (n == ARRAY_LEN(page));
	return false;
}

/* The first such lane behind lane after that has something claimed or queued. */
static bool find_candidate(
    struct forwarder *f, int64_t after, int64_t now_ms, struct candidate *ret)
{
	struct candidate queued;
	const struct lane *lane = lanes_after(&f->lanes, after);

	while (lane && (lane->claimed_count == 0 ||
			   !backoff_allows(&lane->backoff, now_ms, lane->in_flight)))
		lane = lanes_after(&f->lanes, lane->id);
	if (backoff_allows(&f->claims, now_ms, 0) &&
	    find_queued(f, after, now_ms, &queued) && (!lane || queued.id < lane->id)) {
		*ret = queued;
		return true;
	}
	if (!lane)
		return false;
	*ret = (struct candidate){ lane->id, 0 };
	return true;
}

/* Begin one upload of the lane whose turn it is. Returns whether to go on. */
static bool serve_next_lane(struct forwarder *f, int64_t now_ms)
{
	struct candidate next;
	struct lane *lane;

	if (!find_candidate(f, f->turn, now_ms, &next) &&
	    !find_candidate(f, INT64_MIN, now_ms, &next))
		return false;
	if (!forwarder_has_room(f))
		return false;
	lane = lanes_get(&f->lanes, next.id);
	if (!lane) {
		delay_claims(f);
		return false;
	}
	f->turn = next.id;
	if (lane->claimed_count == 0 && !claim(f, lane, next.queued)) {
		lanes_tidy(&f->lanes, next.id);
		return true; /* other lanes may have claimed reports */
	}
	begin_next(f, lane);
	f->resting = false;
	return true;
}

static void begin_uploads(struct forwarder *f)
{
	int64_t now_ms = clock_mono_ms();

	while (upstream_count(f->io) < f->now.concurrency &&
	       backoff_allows(&f->backoff, now_ms, (unsigned)upstream_count(f->io)) &&
	       serve_next_lane(f, now_ms))
		;
}

/* The thread */

static bool is_paused(const struct backoff *b, int64_t now_ms)
{
	return b->until_ms > now_ms;
}

static void count_pace(struct pace *p, int64_t now_ms)
{
	int64_t elapsed_ms = now_ms - p->since_ms;

	if (elapsed_ms >= PACE_MS) {
		p->last = elapsed_ms < 2 * PACE_MS ? p->ended : 0;
		p->ended = 0;
		p->since_ms = now_ms;
	}
	p->ended++;
}

/* Settle the uploads that have ended. */
static void collect(struct forwarder *f)
{
	struct upstream_result res;

	while (forwarder_has_room(f) && upstream_next(f->io, &res)) {
		int64_t id = res.report->lane;
		struct lane *lane = lanes_find(&f->lanes, id);

		if (res.http_status > 0)
			crashpoint("deliver.answered");
		assert(lane && lane->in_flight > 0);
		lane->in_flight--;
		forwarder_apply(f, lane, &res);
		f->idle_since_ms = clock_mono_ms();
		count_pace(&f->pace, f->idle_since_ms);
		if (is_paused(&lane->backoff, f->idle_since_ms))
			forwarder_release_lane(f, lane);
		lanes_tidy(&f->lanes, id);
	}
	if (f->lanes.claimed > 0 && is_paused(&f->backoff, clock_mono_ms()))
		forwarder_release_all(f);
	(void)forwarder_flush(f); /* what is left is tried again */
}

static void rest_when_idle(struct forwarder *f)
{
	if (f->resting || upstream_count(f->io) > 0 ||
	    clock_mono_ms() < f->idle_since_ms + REST_AFTER_MS)
		return;
	upstream_rest(f->io);
	f->resting = true;
}

/* Put everything back that is not under way, and in the end that too. Returns whether all
 * is done. */
static bool wind_down(struct forwarder *f)
{
	bool give_up = clock_mono_ms() >= f->give_up_at_ms;

	if (give_up)
		upstream_cancel(f->io);
	collect(f);
	forwarder_release_all(f);
	return (forwarder_flush(f) && upstream_count(f->io) == 0 &&
		   f->lanes.claimed == 0) ||
	       give_up;
}

/* Take what forwarder_stop() and forwarder_reload() left. */
static void take_orders(struct forwarder *f)
{
	struct settings next;

	(void)pthread_mutex_lock(&f->lock); /* can't fail for a plain mutex */
	next = f->next;
	f->next.upstream = NULL;
	f->stopping = f->stop;
	f->give_up_at_ms = f->stop_at_ms;
	(void)pthread_mutex_unlock(&f->lock);
	if (!next.upstream)
		return;
	(void)upstream_free(f->now.upstream);
	f->now = next;
	forwarder_name_state(f);
	backoff_hurry(&f->backoff);
	lanes_end_pauses(&f->lanes);
	forwarder_release_all(f);
}

static int64_t min_i64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* How long there is nothing to do but what the network or other threads bring; -1 = for
 * ever. Pauses that are over need no wake-up. */
static int64_t next_wait_ms(const struct forwarder *f)
{
	int64_t now_ms = clock_mono_ms();
	int64_t at_ms = lanes_next_end_ms(&f->lanes, now_ms);

	if (f->stopping)
		at_ms = f->give_up_at_ms;
	else if (!f->resting && upstream_count(f->io) == 0)
		at_ms = min_i64(at_ms, f->idle_since_ms + REST_AFTER_MS);
	if (!f->stopping && is_paused(&f->backoff, now_ms))
		at_ms = min_i64(at_ms, f->backoff.until_ms);
	if (!f->stopping && is_paused(&f->claims, now_ms))
		at_ms = min_i64(at_ms, f->claims.until_ms);
	if (f->unsettled > 0)
		at_ms = min_i64(at_ms, now_ms + SETTLE_AGAIN_MS);
	if (at_ms == INT64_MAX)
		return -1;
	return at_ms > now_ms ? at_ms - now_ms : 0;
}

static void *run(void *cls)
{
	struct forwarder *f = cls;

	for (;;) {
		take_orders(f);
		if (f->stopping) {
			if (wind_down(f))
				return NULL;
		} else {
			collect(f);
			begin_uploads(f);
			rest_when_idle(f);
		}
		upstream_wait(f->io, next_wait_ms(f));
	}
}

/* Start and stop */

static int make_settings(const struct forwarder_options *options, struct settings *ret,
    char *errbuf, size_t errbuf_size)
{
	struct upstream *u = NULL;
	int r = upstream_new(&options->upstream, &u, errbuf, errbuf_size);

	if (r < 0)
		return r;
	*ret = (struct settings){
		.upstream = u,
		.concurrency = options->concurrency > 0 ? options->concurrency : 1,
		.retry = options->retry,
		.newest_first = options->newest_first,
	};
	return 0;
}

/* Also of one whose thread never ran. What could not be settled is put back by the spool's
 * next start. */
static struct forwarder *forwarder_free(struct forwarder *f)
{
	struct upstream_result lost;

	if (!f)
		return NULL;
	if (f->io)
		while (upstream_next(f->io, &lost))
			(void)report_free(lost.report);
	f->io = upstream_io_close(f->io);
	for (size_t i = 0; i < f->unsettled; i++)
		(void)report_free(f->results[i].report);
	for (struct lane *lane = lanes_after(&f->lanes, INT64_MIN); lane;
	     lane = lanes_after(&f->lanes, lane->id))
		while (lane->claimed_count > 0)
			(void)report_free(lanes_take_claimed(&f->lanes, lane));
	lanes_done(&f->lanes);
	(void)upstream_free(f->now.upstream);
	(void)upstream_free(f->next.upstream);
	(void)pthread_mutex_destroy(&f->lock); /* nobody holds it */
	free(f);
	return NULL;
}

/* All signals stay with the main thread; SIGPIPE, which TLS libraries raise, with nobody. */
static int start_thread(struct forwarder *f)
{
	pthread_attr_t attr;
	sigset_t all;
	sigset_t old;
	int r = pthread_attr_init(&attr);

	if (r != 0)
		return -r;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old); /* valid arguments */
	r = pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (r == 0)
		r = pthread_create(&f->thread, &attr, run, f);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	(void)pthread_attr_destroy(&attr);
	if (r == 0)
		(void)pthread_setname_np(f->thread, "forwarder"); /* for people only */
	return -r;
}

int forwarder_start(const struct forwarder_options *options, struct forwarder **ret,
    char *errbuf, size_t errbuf_size)
{
	struct forwarder *f = calloc(1, sizeof(*f));
	int r;

	if (!f) {
		(void)snprintf(errbuf, errbuf_size, "out of memory");
		return -ENOMEM;
	}
	(void)pthread_mutex_init(&f->lock, NULL); /* can't fail on Linux */
	f->spool = options->spool;
	f->metrics = options->metrics;
	f->turn = INT64_MIN;
	f->resting = true;
	/* Jitter needs no secret: without random bytes the clock will do. */
	if (getrandom(&f->random_state, sizeof(f->random_state), GRND_NONBLOCK) < 0)
		f->random_state = (uint64_t)clock_wall_ms();
	r = make_settings(options, &f->now, errbuf, errbuf_size);
	if (r < 0) {
		(void)forwarder_free(f);
		return r;
	}
	forwarder_name_state(f);
	r = upstream_io_open(&f->io);
	if (r == 0)
		r = start_thread(f);
	if (r < 0) {
		errno = -r;
		(void)snprintf(errbuf, errbuf_size, "no thread or descriptor: %m");
		(void)forwarder_free(f);
		return r;
	}
	*ret = f;
	return 0;
}

struct forwarder *forwarder_stop(struct forwarder *f, int64_t timeout_ms)
{
	if (!f)
		return NULL;
	(void)pthread_mutex_lock(&f->lock);
	f->stop = true;
	f->stop_at_ms = clock_mono_ms() + (timeout_ms > 0 ? timeout_ms : 0);
	(void)pthread_mutex_unlock(&f->lock);
	forwarder_wake(f);
	(void)pthread_join(f->thread, NULL); /* it is joinable and not ourselves */
	return forwarder_free(f);
}

void forwarder_wake(struct forwarder *f)
{
	upstream_wake(f->io);
}

int forwarder_reload(struct forwarder *f, const struct forwarder_options *options,
    char *errbuf, size_t errbuf_size)
{
	struct settings next;
	struct upstream *unused;
	int r = make_settings(options, &next, errbuf, errbuf_size);

	if (r < 0)
		return r;
	(void)pthread_mutex_lock(&f->lock);
	unused = f->next.upstream;
	f->next = next;
	(void)pthread_mutex_unlock(&f->lock);
	(void)upstream_free(unused);
	forwarder_wake(f);
	return 0;
}
