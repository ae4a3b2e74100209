/* SPDX-License-Identifier: MIT */
/* Owns the reports by number and the load on a spool. Bodies are never held longer than
 * needed: the sizes go up to some MiB. */
#include "spool_kit.h"

#include "bytes.h"
#include "cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct spool_limits kit_limits(void)
{
	return (struct spool_limits){ .max_bytes = UINT64_C(40) << 20,
		.max_reports = 1000000,
		.when_full = SPOOL_REJECT };
}

int kit_open(const char *dir, struct spool **ret, struct spool_recovery *ret_recovery,
    char *errbuf)
{
	struct spool_options options = { .directory = dir, .limits = kit_limits() };

	return spool_open(&options, ret, ret_recovery, errbuf, KIT_ERROR_SIZE);
}

int64_t kit_time_of(uint64_t i)
{
	return INT64_C(1795428000000) + (int64_t)i * 1000;
}

/* Pieces of different sizes, as a network brings them. */
static int write_body(struct spool_payload *p, const uint8_t *body, size_t len)
{
	size_t step = 1 + len / 3;
	int r = 0;

	for (size_t at = 0; at < len && r == 0; at += step)
		r = spool_payload_write(p, body + at, len - at < step ? len - at : step);
	return r;
}

int kit_commit(struct spool *s, const char *token, uint64_t i, size_t len,
    spool_commit_fn *done, void *cls)
{
	CLEANUP(cleanup_free) uint8_t *body = malloc(len + 1);
	struct spool_payload *p = NULL;
	char target[128];
	struct spool_draft draft = { .received_at_ms = kit_time_of(i),
		.universe = "universe",
		.token = token,
		.format = "minidump",
		.target = target,
		.content_type = i % 2 ? "application/octet-stream" : NULL,
		.client = "[::1]:4711" };
	int r = body ? spool_payload_begin(s, &p) : -ENOMEM;

	if (r < 0)
		return r;
	bytes_fill(body, len, i);
	(void)snprintf(target, sizeof(target), "/post?token=%s&i=%" PRIu64 "&len=%zu",
	    token, i, len);
	r = write_body(p, body, len);
	if (r < 0) {
		spool_payload_abort(p);
		return r;
	}
	spool_commit(s, p, &draft, done, cls);
	return 0;
}

/* Whoever waits for verdicts. */
struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t told;
	bool finished;
	struct spool_verdict verdict;
};

static void keep_verdict(void *cls, const struct spool_verdict *verdict)
{
	struct waiter *w = cls;

	(void)pthread_mutex_lock(&w->lock);
	w->verdict = *verdict;
	w->finished = true;
	(void)pthread_cond_signal(&w->told);
	(void)pthread_mutex_unlock(&w->lock);
}

int kit_accept(
    struct spool *s, const char *token, uint64_t i, size_t len, struct rxid *ret_rxid)
{
	struct waiter w = { .lock = PTHREAD_MUTEX_INITIALIZER,
		.told = PTHREAD_COND_INITIALIZER };
	int r = kit_commit(s, token, i, len, keep_verdict, &w);

	if (r < 0)
		return r;
	(void)pthread_mutex_lock(&w.lock);
	while (!w.finished)
		(void)pthread_cond_wait(&w.told, &w.lock);
	(void)pthread_mutex_unlock(&w.lock);
	(void)pthread_cond_destroy(&w.told);
	(void)pthread_mutex_destroy(&w.lock);
	if (w.verdict.error == 0 && ret_rxid)
		*ret_rxid = w.verdict.rxid;
	return w.verdict.error;
}

static int compare_body(struct spool *s, const struct report *r, uint64_t i, size_t len)
{
	CLEANUP(cleanup_free) uint8_t *expected = malloc(len + 1);
	CLEANUP(cleanup_free) uint8_t *got = malloc(len + 1);
	struct spool_reader *rd = NULL;
	size_t done = 0;
	ssize_t n;
	int e;

	if (!expected || !got)
		return -ENOMEM;
	e = spool_reader_open(s, r, &rd);
	if (e < 0)
		return e;
	while ((n = spool_reader_read(rd, got + done, 1 + (len - done) / 2)) > 0)
		done += (size_t)n;
	spool_reader_close(rd);
	if (n < 0)
		return (int)n;
	bytes_fill(expected, len, i);
	return done == len && memcmp(got, expected, len) == 0 ? 0 : -EBADMSG;
}

int kit_check(struct spool *s, const struct report *r, uint64_t *ret_number)
{
	char token[64];
	uint64_t i;
	size_t len;
	int e;

	if (sscanf(r->envelope.target, "/post?token=%63[^&]&i=%" SCNu64 "&len=%zu", token,
		&i, &len) != 3 ||
	    strcmp(token, r->token) != 0 || r->payload.body_bytes != len ||
	    r->received_at_ms != kit_time_of(i) || strcmp(r->universe, "universe") != 0 ||
	    strcmp(r->format, "minidump") != 0 || r->envelope.content_encoding ||
	    !r->envelope.client || !r->envelope.content_type != !(i % 2))
		return -EBADMSG;
	e = compare_body(s, r, i, len);
	if (e == 0)
		*ret_number = i;
	return e;
}

int kit_settle(struct spool *s, int64_t seq, enum report_state to)
{
	struct spool_settlement t = { .seq = seq, .to = to };

	return spool_settle(s, &t, 1);
}

/* The index */

static sqlite3 *open_index(const char *dir)
{
	char path[512];
	sqlite3 *db = NULL;

	(void)snprintf(path, sizeof(path), "%s/spool.db", dir);
	if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
		(void)sqlite3_close(db);
		return NULL;
	}
	return db;
}

int64_t kit_sql(const char *dir, const char *query)
{
	sqlite3 *db = open_index(dir);
	sqlite3_stmt *stmt = NULL;
	int64_t value = INT64_MIN;

	if (!db)
		return value;
	if (sqlite3_prepare_v2(db, query, -1, &stmt, NULL) == SQLITE_OK &&
	    sqlite3_step(stmt) == SQLITE_ROW)
		value = sqlite3_column_int64(stmt, 0);
	(void)sqlite3_finalize(stmt);
	(void)sqlite3_close(db);
	return value;
}

bool kit_sql_change(const char *dir, const char *statements)
{
	sqlite3 *db = open_index(dir);
	bool done = db && sqlite3_exec(db, statements, NULL, NULL, NULL) == SQLITE_OK;

	(void)sqlite3_close(db);
	return done;
}

/* Load */

struct load {
	struct spool *spool;
	unsigned threads, bodies; /* bodies of each thread */
	atomic_uint started;      /* threads so far; each takes its number from it */
	atomic_uint committed, refused;
	atomic_uchar *told;     /* by number: verdicts of each body */
	unsigned char *claimed; /* by number; the drainer's */
	atomic_uint due;
	int drain_error;
};

struct told {
	struct load *load;
	unsigned number;
};

/* Two lanes; sizes from nothing to beyond what fits a segment. */
static const char *token_of(unsigned number)
{
	return number % 3 ? "first" : "second";
}

static size_t size_of(unsigned number)
{
	if (number % 97 == 13)
		return (size_t)1200 << 10;
	return number % 11 == 0 ? 0 : (size_t)(number * 2654435761u % 30000);
}

static void count_verdict(void *cls, const struct spool_verdict *verdict)
{
	struct told *t = cls;

	atomic_fetch_add(&t->load->told[t->number], 1);
	atomic_fetch_add(
	    verdict->error == 0 ? &t->load->committed : &t->load->refused, 1);
	free(t);
}

static void *commit_many(void *cls)
{
	struct load *l = cls;
	unsigned thread = atomic_fetch_add(&l->started, 1);

	for (unsigned k = 0; k < l->bodies; k++) {
		unsigned number = k * l->threads + thread;
		struct told *t = malloc(sizeof(*t));

		if (!t)
			return NULL;
		*t = (struct told){ .load = l, .number = number };
		if (kit_commit(l->spool, token_of(number), number, size_of(number),
			count_verdict, t) < 0) {
			free(t);
			atomic_fetch_add(&l->refused, 1);
		}
	}
	return NULL;
}

/* Claim up to 8 of a lane, check and settle them. Returns how many, or an error. */
static int drain_lane(struct load *l, int64_t lane)
{
	struct report *reports[8];
	int n = spool_claim(l->spool, lane, false, ARRAY_LEN(reports), reports);
	int64_t last = 0;
	int e = n < 0 ? n : 0;

	for (int i = 0; i < n; i++) {
		uint64_t number = 0;
		int64_t seq = reports[i]->seq;
		int r = kit_check(l->spool, reports[i], &number);

		if (r == 0 && (number >= (uint64_t)l->threads * l->bodies ||
				  l->claimed[number]++ > 0 || seq <= last))
			r = -EEXIST;
		if (r == 0)
			r = kit_settle(l->spool, seq, REPORT_SENT);
		if (r < 0)
			e = r;
		last = seq;
		report_free(reports[i]);
	}
	return e < 0 ? e : n;
}

static void *drain(void *cls)
{
	struct load *l = cls;
	unsigned left = l->threads * l->bodies;

	while (left > 0 && l->drain_error == 0) {
		struct spool_lane lanes[4];
		size_t n = spool_list_lanes(l->spool, 0, lanes, ARRAY_LEN(lanes));
		struct spool_stats stats;

		/* Looking must disturb nobody. */
		spool_get_stats(l->spool, &stats);
		spool_trim(l->spool);
		for (size_t i = 0; i < n; i++) {
			int got = drain_lane(l, lanes[i].id);

			if (got < 0)
				l->drain_error = got;
			else
				left -= (unsigned)got;
		}
		if (atomic_load(&l->refused) > 0)
			l->drain_error = -EIO;
	}
	return NULL;
}

static void note_due(void *cls)
{
	struct load *l = cls;

	atomic_fetch_add(&l->due, 1);
}

static int run_threads(struct load *l)
{
	pthread_t threads[32];
	pthread_t drainer;
	unsigned n = 0;
	int r = pthread_create(&drainer, NULL, drain, l);

	if (r != 0)
		return -r;
	while (n < l->threads && n < ARRAY_LEN(threads) &&
	       pthread_create(&threads[n], NULL, commit_many, l) == 0)
		n++;
	for (unsigned i = 0; i < n; i++)
		(void)pthread_join(threads[i], NULL);
	(void)pthread_join(drainer, NULL);
	return l->drain_error;
}

/* After the threads: each body was answered once, and sent once. */
static int judge(const struct load *l, const struct spool_stats *stats, char *errbuf)
{
	unsigned all = l->threads * l->bodies;

	for (unsigned i = 0; i < all; i++)
		if (atomic_load(&l->told[i]) != 1 || l->claimed[i] != 1) {
			(void)snprintf(errbuf, KIT_ERROR_SIZE,
			    "body %u was answered %d times and claimed %d times", i,
			    atomic_load(&l->told[i]), l->claimed[i]);
			return -EPROTO;
		}
	if (stats->reports[REPORT_SENT] != all || atomic_load(&l->due) == 0) {
		(void)snprintf(errbuf, KIT_ERROR_SIZE,
		    "%" PRIu64 " of %u are sent, %u times something was due",
		    stats->reports[REPORT_SENT], all, atomic_load(&l->due));
		return -EPROTO;
	}
	return 0;
}

int kit_run_load(
    const char *dir, uint64_t max_bytes, unsigned threads, unsigned bodies, char *errbuf)
{
	struct load l = { .threads = threads, .bodies = bodies };
	struct spool_options options = {
		.directory = dir, .limits = kit_limits(), .on_due = note_due, .cls = &l
	};
	struct spool_recovery recovery;
	struct spool_stats stats = { 0 };
	int r = -ENOMEM;

	options.limits.max_bytes = max_bytes;
	l.told = calloc((size_t)threads * bodies, sizeof(*l.told));
	l.claimed = calloc((size_t)threads * bodies, 1);
	(void)snprintf(errbuf, KIT_ERROR_SIZE, "out of memory");
	if (l.told && l.claimed)
		r = spool_open(&options, &l.spool, &recovery, errbuf, KIT_ERROR_SIZE);
	if (r == 0) {
		r = run_threads(&l);
		(void)snprintf(errbuf, KIT_ERROR_SIZE, "draining ended with %d", r);
	}
	spool_close(l.spool);
	l.spool = NULL;
	/* Settlements are handed over, not waited for: closing finishes them. */
	if (r == 0)
		r = spool_open(&options, &l.spool, &recovery, errbuf, KIT_ERROR_SIZE);
	if (r == 0) {
		spool_get_stats(l.spool, &stats);
		r = judge(&l, &stats, errbuf);
	}
	spool_close(l.spool);
	free(l.told);
	free(l.claimed);
	return r;
}
