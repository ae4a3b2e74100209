/* SPDX-License-Identifier: MIT */
/* Owns the judgement of a recovered spool, through the spool's own door: claims for what
 * is queued, the index's rows for the rest. */
#include "recovery.h"

#include "bodies.h"
#include "files.h"

#include "clock.h"
#include "log.h"
#include "spool.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* No body of these tests is larger. */
#define BODY_BYTES (4u << 20)

#define CLAIM_BATCH 64
#define LOG_TAIL_BYTES 1500

/* Body numbers of reports posted after a recovery. */
#define FRESH_ID (UINT64_C(1) << 40)

/* More reports than any of these spools ever has. */
#define FOUND_MAX 20000

/* A verdict that never comes is a failure, not a hang. */
#define VERDICT_S 20

enum kept {
	KEPT_READABLE, /* its body was read */
	KEPT_ROW,      /* a row without a body: sent, dropped */
	KEPT_DAMAGED   /* a body that does not read */
};

struct found {
	char name[DISKLOG_NAME_BYTES + 1];
	enum kept kept;
};

struct check {
	const struct recovery_expectation *expected;
	struct spool *spool;
	char *errbuf;
	size_t errbuf_size;
	uint8_t *body; /* BODY_BYTES */
	struct found *found;
	size_t found_count, found_capacity;
	uint64_t *over_ids; /* bodies that are over */
	size_t over_count;
	bool foreign;      /* bytes were handed out that must not be */
	uint64_t fresh_id; /* a report posted after the recovery; 0 = none */
	bool fresh_seen;
};

static int fail(struct check *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

static int fail(struct check *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(c->errbuf, c->errbuf_size, fmt, ap);
	va_end(ap);
	return -EBADE;
}

static void note(struct check *c, const char *name, enum kept kept)
{
	struct found *f;

	if (c->found_count == c->found_capacity) {
		c->found_capacity = c->found_capacity ? 2 * c->found_capacity : 256;
		c->found = reallocarray(c->found, c->found_capacity, sizeof(*c->found));
		if (!c->found)
			abort();
	}
	f = &c->found[c->found_count++];
	(void)snprintf(f->name, sizeof(f->name), "%s", name);
	f->kept = kept;
}

/* Upstream has names of its own, so go by the bodies. */
static void list_over(struct check *c)
{
	size_t count = c->expected->over_count;

	c->over_ids = calloc(count + 1, sizeof(*c->over_ids));
	if (!c->over_ids)
		abort();
	for (size_t i = 0; i < count; i++) {
		const struct posted_report *p =
		    posted_find(c->expected->posted, c->expected->over[i].text);

		if (p)
			c->over_ids[c->over_count++] = p->id;
	}
}

static bool is_over(const struct check *c, const char *name)
{
	const struct posted_report *p = posted_find(c->expected->posted, name);

	for (size_t i = 0; p && i < c->over_count; i++)
		if (c->over_ids[i] == p->id)
			return true;
	/* Its name may never have reached the client. */
	for (size_t i = 0; !p && i < c->expected->over_count; i++)
		if (strcmp(c->expected->over[i].text, name) == 0)
			return true;
	return false;
}

/* One report */

/* Returns the body's length, or what the spool says. */
static ssize_t read_body(struct check *c, const struct report *r)
{
	struct spool_reader *rd = NULL;
	ssize_t n = spool_reader_open(c->spool, r, &rd);
	size_t len = 0;

	while (n >= 0 && len < BODY_BYTES) {
		n = spool_reader_read(rd, c->body + len, BODY_BYTES - len);
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	spool_reader_close(rd);
	return n < 0 ? n : (ssize_t)len;
}

/* What was handed out must be what a client has sent under this name. */
static int judge_body(struct check *c, const char *name, size_t len)
{
	const struct posted_report *p = posted_find(c->expected->posted, name);
	uint64_t id;

	c->foreign = true;
	if (!body_check(c->body, len, &id))
		return fail(c, "report %s is handed out with %zu bytes that nobody sent",
		    name, len);
	if (p && p->id != id)
		return fail(c, "report %s is handed out with the body of another", name);
	c->foreign = false;
	if (c->fresh_id != 0 && id == c->fresh_id)
		c->fresh_seen = true;
	note(c, name, KEPT_READABLE);
	return 0;
}

static int judge_report(struct check *c, const struct report *r)
{
	char name[RXID_TEXT_SIZE];
	ssize_t n = read_body(c, r);

	rxid_format(&r->rxid, name);
	if (n == -EBADMSG || n == -ENOENT || (n < 0 && c->expected->damaged)) {
		note(c, name, KEPT_DAMAGED);
		/* Acknowledged or not: no row without its payload. */
		return c->expected->damaged
			   ? 0
			   : fail(c, "report %s has a row and no payload", name);
	}
	if (n < 0)
		return fail(c, "report %s cannot be read: %s", name, strerror((int)-n));
	return judge_body(c, name, (size_t)n);
}

/* What is queued */

static int claim_lane(struct check *c, int64_t lane)
{
	struct report *reports[CLAIM_BATCH];
	int r = 0;
	int n;

	do {
		n = spool_claim(c->spool, lane, false, CLAIM_BATCH, reports);
		if (c->found_count > FOUND_MAX)
			r = fail(c, "claims give the same reports over and over");
		for (int i = 0; i < n; i++) {
			if (r == 0)
				r = judge_report(c, reports[i]);
			report_free(reports[i]);
		}
	} while (n > 0 && r == 0);
	if (n < 0)
		return fail(c, "cannot claim: %s", strerror(-n));
	return r;
}

static int claim_all(struct check *c)
{
	struct spool_lane lane;
	int64_t after = 0;
	int r = 0;

	/* The next is the one after, whatever became of this one's count. */
	while (r == 0 && spool_list_lanes(c->spool, after, &lane, 1) == 1) {
		r = claim_lane(c, lane.id);
		after = lane.id;
	}
	return r;
}

/* What is not queued */

static int judge_row(struct check *c, sqlite3_stmt *row)
{
	struct report r = { .seq = sqlite3_column_int64(row, 0),
		.state = (enum report_state)sqlite3_column_int(row, 2),
		.payload = { .segment = (uint32_t)sqlite3_column_int64(row, 3),
		    .offset = (uint64_t)sqlite3_column_int64(row, 4),
		    .header_bytes = (uint32_t)sqlite3_column_int64(row, 5),
		    .body_bytes = (uint64_t)sqlite3_column_int64(row, 6) } };
	char name[RXID_TEXT_SIZE];
	const void *rxid = sqlite3_column_blob(row, 1);

	if (sqlite3_column_bytes(row, 1) != (int)sizeof(r.rxid.bytes))
		return 0; /* a damaged row; what it stood for will be missed */
	memcpy(r.rxid.bytes, rxid, sizeof(r.rxid.bytes));
	rxid_format(&r.rxid, name);
	if (report_state_has_payload(r.state))
		return judge_report(c, &r);
	if (!c->expected->damaged && !is_over(c, name) &&
	    !(c->expected->may_evict && r.state == REPORT_EVICTED))
		return fail(c, "report %s is %s, but upstream has not got it", name,
		    report_state_name(r.state));
	note(c, name, KEPT_ROW);
	return 0;
}

static int judge_rows(struct check *c, const char *folder)
{
	char path[FILES_PATH_SIZE];
	sqlite3_stmt *rows = NULL;
	sqlite3 *db = NULL;
	int rc;
	int r = 0;

	files_path(path, "%s/spool.db", folder);
	rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(db,
		    "SELECT seq, rxid, state, segment, offset, header_bytes, body_bytes"
		    " FROM report WHERE state NOT IN (1, 2)",
		    -1, &rows, NULL);
	while (rc == SQLITE_OK && r == 0 && (rc = sqlite3_step(rows)) == SQLITE_ROW) {
		r = judge_row(c, rows);
		rc = SQLITE_OK;
	}
	if (r == 0 && rc != SQLITE_DONE && !c->expected->damaged)
		r = fail(c, "the index cannot be read: %s", sqlite3_errmsg(db));
	(void)sqlite3_finalize(rows); /* repeats rc */
	(void)sqlite3_close(db);
	return r;
}

/* Going on */

struct wait {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool done;
	int error;
};

static void take_verdict(void *cls, const struct spool_verdict *verdict)
{
	struct wait *w = cls;

	(void)pthread_mutex_lock(&w->lock);
	w->done = true;
	w->error = verdict->error;
	(void)pthread_cond_signal(&w->changed);
	(void)pthread_mutex_unlock(&w->lock);
}

/* A recovered spool takes new reports. */
static int post_fresh(struct check *c)
{
	struct spool_draft draft = { .received_at_ms = clock_wall_ms(),
		.universe = "fresh",
		.token = "token",
		.format = "minidump",
		.target = "/" };
	static struct wait w = { .lock = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER };
	struct spool_payload *payload = NULL;
	struct timespec until;
	size_t len = BODY_MIN_BYTES + 5000;
	int r = spool_payload_begin(c->spool, &payload);

	c->fresh_id = FRESH_ID + 1;
	body_fill(c->fresh_id, c->body, len);
	if (r == 0)
		r = spool_payload_write(payload, c->body, len);
	if (r < 0) {
		spool_payload_abort(payload);
		return fail(c, "takes no new report: %s", strerror(-r));
	}
	w.done = false;
	spool_commit(c->spool, payload, &draft, take_verdict, &w);
	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += VERDICT_S;
	(void)pthread_mutex_lock(&w.lock);
	while (!w.done && r == 0)
		r = pthread_cond_timedwait(&w.changed, &w.lock, &until);
	(void)pthread_mutex_unlock(&w.lock);
	if (r != 0)
		return fail(c, "says nothing about a new report");
	return w.error == 0 ? 0 : fail(c, "takes no new report: %s", strerror(-w.error));
}

/* The whole */

static int compare_found(const void *a, const void *b)
{
	const struct found *x = a;
	const struct found *y = b;
	int r = strcmp(x->name, y->name);

	return r != 0 ? r : (int)x->kept - (int)y->kept;
}

/* The best that was found of a report; NULL = nothing. */
static const struct found *find_found(const struct check *c, const char *name)
{
	size_t low = 0;
	size_t high = c->found_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(c->found[middle].name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < c->found_count && strcmp(c->found[low].name, name) == 0
		   ? &c->found[low]
		   : NULL;
}

static int judge_promises(struct check *c, struct recovery_found *ret)
{
	const char *first = NULL;
	const char *how = "";

	if (c->found_count > 0)
		qsort(c->found, c->found_count, sizeof(*c->found), compare_found);
	for (size_t i = 0; i < c->expected->acked_count; i++) {
		const char *name = c->expected->acked[i].text;
		const struct found *f = find_found(c, name);

		/* What is over may have no row any more, but never one that lies. */
		if (f ? f->kept != KEPT_DAMAGED : is_over(c, name))
			continue;
		ret->missing++;
		first = first ? first : name;
		how = f ? "damaged" : "gone";
	}
	if (ret->missing <= c->expected->may_be_lost)
		return 0;
	return fail(
	    c, "%zu acknowledged reports are lost; %s is %s", ret->missing, first, how);
}

static int open_spool(
    struct check *c, const char *folder, const char *when, struct spool_recovery *ret)
{
	struct spool_options options = { .directory = folder,
		.limits = { .max_bytes = UINT64_C(10) << 30,
		    .max_reports = 1000000,
		    .when_full = SPOOL_REJECT } };
	char reason[512] = "";
	int r = spool_open(&options, &c->spool, ret, reason, sizeof(reason));

	if (r < 0)
		(void)fail(c, "%s fails: %s (%s)", when, strerror(-r), reason);
	return r;
}

/* After an orderly end there is nothing to mend. */
static int open_again(struct check *c, const char *folder)
{
	struct spool_recovery recovery;
	struct spool_stats before;
	struct spool_stats after;
	int r;

	spool_get_stats(c->spool, &before);
	c->spool = spool_close(c->spool);
	r = open_spool(c, folder, "the second start", &recovery);
	if (r < 0)
		return r;
	spool_get_stats(c->spool, &after);
	if (c->expected->damaged)
		return 0;
	if (recovery.recovered || recovery.damaged || recovery.discarded ||
	    recovery.rebuilt)
		return fail(c,
		    "the second start finds %" PRIu64 " to recover, %" PRIu64
		    " damaged, %" PRIu64 " to discard%s",
		    recovery.recovered, recovery.damaged, recovery.discarded,
		    recovery.rebuilt ? ", and rebuilds" : "");
	if (after.reports[REPORT_QUEUED] !=
	    before.reports[REPORT_QUEUED] + before.reports[REPORT_SENDING])
		return fail(c,
		    "the second start has %" PRIu64 " queued, not %" PRIu64
		    " and %" PRIu64,
		    after.reports[REPORT_QUEUED], before.reports[REPORT_QUEUED],
		    before.reports[REPORT_SENDING]);
	return 0;
}

/* What the spool says goes into the failure's message, not to stderr. */
struct log_tail {
	pthread_mutex_t lock;
	char text[LOG_TAIL_BYTES];
	size_t len;
};

static void keep_line(void *cls, enum log_level level, const char *line, size_t len)
{
	struct log_tail *t = cls;

	if (level > LOG_LEVEL_WARNING)
		return;
	(void)pthread_mutex_lock(&t->lock);
	if (t->len + len + 2 < sizeof(t->text)) {
		memcpy(t->text + t->len, line, len);
		t->text[t->len + len] = '\n';
		t->len += len + 1;
		t->text[t->len] = '\0';
	}
	(void)pthread_mutex_unlock(&t->lock);
}

static int take_out(struct check *c, const char *folder)
{
	int r = claim_all(c);

	return r < 0 ? r : judge_rows(c, folder);
}

static int check(struct check *c, const char *folder, struct recovery_found *ret)
{
	struct spool_recovery recovery;
	int r = open_spool(c, folder, "the start", &recovery);

	if (r == -EPROTONOSUPPORT && c->expected->may_be_newer)
		return 0;
	if (r < 0)
		return r;
	ret->rebuilt = recovery.rebuilt;
	r = take_out(c, folder);
	if (r < 0 && c->expected->damaged && !c->foreign) {
		/* Damage may show only when it is met; the next start must mend it. */
		c->spool = spool_close(c->spool);
		c->found_count = 0;
		r = open_spool(c, folder, "the start after damage was met", &recovery);
		ret->rebuilt |= recovery.rebuilt;
		if (r == 0)
			r = take_out(c, folder);
	}
	if (r == 0)
		r = judge_promises(c, ret);
	for (size_t i = 0; i < c->found_count; i++) {
		ret->readable += c->found[i].kept == KEPT_READABLE;
		ret->damaged += c->found[i].kept == KEPT_DAMAGED;
	}
	if (r == 0 && c->expected->go_on)
		r = post_fresh(c);
	if (r == 0)
		r = open_again(c, folder);
	if (r == 0 && c->expected->go_on) {
		r = claim_all(c);
		if (r == 0 && !c->fresh_seen)
			r = fail(c, "the report taken after the start is lost");
	}
	return r;
}

int recovery_check(const char *folder, const struct recovery_expectation *expected,
    struct recovery_found *ret, char *errbuf, size_t errbuf_size)
{
	static uint8_t
	    body[BODY_BYTES]; /* touched memory is dear; kept from state to state */
	struct check c = { .expected = expected,
		.errbuf = errbuf,
		.errbuf_size = errbuf_size,
		.body = body };
	struct log_tail tail = { .lock = PTHREAD_MUTEX_INITIALIZER };
	size_t len;
	int r;

	*ret = (struct recovery_found){ 0 };
	list_over(&c);
	log_set_sink(keep_line, &tail);
	r = check(&c, folder, ret);
	spool_close(c.spool);
	log_set_sink(NULL, NULL);
	free(c.found);
	free(c.over_ids);
	if (r < 0 && tail.len > 0) {
		len = strlen(errbuf);
		(void)snprintf(
		    errbuf + len, errbuf_size - len, "; its log:\n%s", tail.text);
	}
	return r;
}
