/* SPDX-License-Identifier: MIT */
/* Owns the statements of the index: made once, values bound, never pasted. Maps SQLite's
 * codes to errno here and nowhere else. */
#include "spool_index.h"

#include "spool_schema.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#define ROW_COLUMNS                                                                      \
	"seq, rxid, state, lane, received_at, segment, offset, header_bytes, "           \
	"body_bytes, attempts, ambiguous"

/* SQLite uses a partial index only where its condition stands in the query word by word.
 */
#define QUEUE_INDEX "(state = 1 OR state = 2 OR state = 4)"
#define ENDED_INDEX "(state = 3 OR state = 5 OR state = 6 OR state = 7)"

/* For people; the rest of an upstream's long answer helps nobody. */
#define REASON_MAX 500

enum statement {
	BEGIN,
	COMMIT,
	ROLLBACK,
	INSERT,
	GET,
	MOVE,
	DELETE,
	OLDEST_OF_LANE,
	NEWEST_OF_LANE,
	WAITING,
	ENDED,
	PAGE_COUNT,
	FREE_PAGE_COUNT,
	PAGE_SIZE,
	OLDEST_TIME,
	LAST_SEQ,
	PUT_LANE,
	PUT_TALLY,
	PUT_SEGMENT,
	GET_NOTE,
	PUT_NOTE,
	STATEMENT_COUNT
};

static const char *const sql[STATEMENT_COUNT] = {
	[BEGIN] = "BEGIN IMMEDIATE",
	[COMMIT] = "COMMIT",
	[ROLLBACK] = "ROLLBACK",
	[INSERT] =
	    "INSERT INTO report (" ROW_COLUMNS ", changed_at, format, client, reason)"
	    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
	[GET] = "SELECT " ROW_COLUMNS " FROM report WHERE seq = ?1",
	[MOVE] = "UPDATE report SET state = ?2, changed_at = ?3,"
		 " ambiguous = ambiguous | ?4, attempts = attempts + ?5,"
		 " http_status = coalesce(?6, http_status),"
		 /* An old reason explains nothing about a report that was sent. */
		 " reason = CASE WHEN ?2 = 3 THEN ?7 ELSE coalesce(?7, reason) END,"
		 " upstream_rxid = coalesce(?8, upstream_rxid) WHERE seq = ?1",
	[DELETE] = "DELETE FROM report WHERE seq = ?1",
	[OLDEST_OF_LANE] =
	    "SELECT " ROW_COLUMNS " FROM report INDEXED BY report_queue"
	    " WHERE lane = ?1 AND state = ?2 AND " QUEUE_INDEX " ORDER BY seq LIMIT ?3",
	[NEWEST_OF_LANE] = "SELECT " ROW_COLUMNS " FROM report INDEXED BY report_queue"
			   " WHERE lane = ?1 AND state = ?2 AND " QUEUE_INDEX
			   " ORDER BY seq DESC LIMIT ?3",
	[WAITING] = "SELECT " ROW_COLUMNS " FROM report NOT INDEXED"
		    " WHERE seq >= ?1 AND state IN (1, 4) ORDER BY seq LIMIT ?2",
	[ENDED] = "SELECT " ROW_COLUMNS " FROM report INDEXED BY report_ended"
		  " WHERE state = ?1 AND changed_at < ?2 AND " ENDED_INDEX
		  " ORDER BY changed_at LIMIT ?3",
	/* Not the table-valued functions of the same names: those are compiled anew at each
	 * use, which takes longer than all else in a small batch. */
	[PAGE_COUNT] = "PRAGMA page_count",
	[FREE_PAGE_COUNT] = "PRAGMA freelist_count",
	[PAGE_SIZE] = "PRAGMA page_size",
	[OLDEST_TIME] =
	    "SELECT received_at FROM report INDEXED BY report_queue"
	    " WHERE lane = ?1 AND state = 1 AND " QUEUE_INDEX " ORDER BY seq LIMIT 1",
	[LAST_SEQ] = "SELECT seq FROM sqlite_sequence WHERE name = 'report'",
	[PUT_LANE] = "INSERT INTO lane (id, universe, token) VALUES (?1, ?2, ?3)",
	[PUT_TALLY] = "REPLACE INTO tally (state, reports, bytes) VALUES (?1, ?2, ?3)",
	[GET_NOTE] = "SELECT value FROM note WHERE name = ?1",
	[PUT_NOTE] = "REPLACE INTO note (name, value) VALUES (?1, ?2)",
	[PUT_SEGMENT] =
	    "REPLACE INTO segment (number, records, bytes) VALUES (?1, ?2, ?3)",
};

struct spool_index {
	sqlite3 *db;
	sqlite3_stmt *statements[STATEMENT_COUNT];
};

static int map_code(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_DONE:
	case SQLITE_ROW:
		return 0;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return -EBADMSG;
	case SQLITE_CONSTRAINT:
		return -EEXIST;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_CANTOPEN:
	case SQLITE_PERM:
		return -EACCES;
	default:
		return -EIO;
	}
}

const char *spool_index_error(const struct spool_index *x)
{
	return sqlite3_errmsg(x->db);
}

/* Opening */

static int prepare_all(struct spool_index *x)
{
	for (int i = 0; i < STATEMENT_COUNT; i++) {
		int rc = sqlite3_prepare_v3(x->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT,
		    &x->statements[i], NULL);

		if (rc != SQLITE_OK)
			return rc;
	}
	return SQLITE_OK;
}

int spool_index_open(const char *directory, struct spool_index **ret, bool *ret_fresh,
    char *errbuf, size_t errbuf_size)
{
	CLEANUP(cleanup_free) char *path = NULL;
	struct spool_index *x = calloc(1, sizeof(*x));
	int version = 0;
	int rc;
	int r;

	if (!x || asprintf(&path, "%s/" SPOOL_INDEX_NAME, directory) < 0) {
		path = NULL;
		free(x);
		(void)snprintf(errbuf, errbuf_size, "out of memory");
		return -ENOMEM;
	}
	rc = sqlite3_open_v2(path, &x->db,
	    SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc == SQLITE_OK) {
		(void)sqlite3_extended_result_codes(x->db, 1);
		rc = spool_schema_apply(x->db, &version);
	}
	if (rc == SQLITE_OK)
		rc = prepare_all(x);
	/* Our own statements are sound: the file is not what they are for (a table that is
	 * not there, a format of which SQLite knows nothing). */
	if (rc == SQLITE_ERROR)
		rc = SQLITE_CORRUPT;
	r = map_code(rc);
	if (rc == SQLITE_SCHEMA) {
		(void)snprintf(errbuf, errbuf_size,
		    "%s was made by a newer version of this program; it was not touched",
		    path);
		r = -EPROTONOSUPPORT;
	} else if (r < 0) {
		(void)snprintf(errbuf, errbuf_size, "%s: %s", path,
		    x->db ? sqlite3_errmsg(x->db) : "out of memory");
	}
	if (r < 0) {
		spool_index_close(x);
		return r;
	}
	*ret_fresh = version == 0;
	*ret = x;
	return 0;
}

int spool_index_open_reader(const char *directory, struct spool_index **ret)
{
	CLEANUP(cleanup_free) char *path = NULL;
	struct spool_index *x = calloc(1, sizeof(*x));
	int rc;

	if (!x || asprintf(&path, "%s/" SPOOL_INDEX_NAME, directory) < 0) {
		path = NULL;
		free(x);
		return -ENOMEM;
	}
	rc = sqlite3_open_v2(
	    path, &x->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc == SQLITE_OK)
		rc = spool_schema_apply_reader(x->db);
	if (rc == SQLITE_OK)
		rc = prepare_all(x);
	if (rc != SQLITE_OK) {
		spool_index_close(x);
		return map_code(rc);
	}
	*ret = x;
	return 0;
}

struct spool_index *spool_index_close(struct spool_index *x)
{
	if (!x)
		return NULL;
	for (int i = 0; i < STATEMENT_COUNT; i++)
		(void)sqlite3_finalize(x->statements[i]); /* repeats old errors */
	/* All that was acknowledged is committed; a failing checkpoint leaves it in the
	 * log. */
	(void)sqlite3_close(x->db);
	free(x);
	return NULL;
}

/* Running statements */

/* Step a statement that returns no rows, and make it ready for the next use. Bind errors
 * (out of memory) show up as a failed step: SQLite then binds NULL against NOT NULL. */
static int run(sqlite3_stmt *stmt)
{
	int rc = sqlite3_step(stmt);

	(void)sqlite3_reset(stmt); /* repeats rc */
	return rc == SQLITE_ROW ? -EIO : map_code(rc);
}

static int run_plain(struct spool_index *x, enum statement id)
{
	sqlite3_stmt *stmt = x->statements[id];

	return run(stmt);
}

static int exec_plain(struct spool_index *x, const char *text)
{
	return map_code(sqlite3_exec(x->db, text, NULL, NULL, NULL));
}

int spool_index_begin(struct spool_index *x)
{
	return run_plain(x, BEGIN);
}

int spool_index_commit(struct spool_index *x)
{
	return run_plain(x, COMMIT);
}

void spool_index_rollback(struct spool_index *x)
{
	/* SQLite may have rolled back by itself (full disk): then there is nothing to do.
	 */
	if (!sqlite3_get_autocommit(x->db))
		(void)run_plain(x, ROLLBACK);
}

static void bind_text(sqlite3_stmt *stmt, int at, const char *s)
{
	if (s)
		(void)sqlite3_bind_text(stmt, at, s, -1, SQLITE_STATIC);
	else
		(void)sqlite3_bind_null(stmt, at);
}

/* Text for people: cut to what is kept. */
static void bind_reason(sqlite3_stmt *stmt, int at, const char *s)
{
	if (s)
		(void)sqlite3_bind_text(
		    stmt, at, s, (int)strnlen(s, REASON_MAX), SQLITE_STATIC);
	else
		(void)sqlite3_bind_null(stmt, at);
}

/* Reports */

int spool_index_insert(struct spool_index *x, const struct spool_row *row,
    int64_t changed_at_ms, const char *format, const char *client, const char *reason)
{
	sqlite3_stmt *stmt = x->statements[INSERT];

	(void)sqlite3_bind_int64(stmt, 1, row->seq);
	(void)sqlite3_bind_blob(
	    stmt, 2, row->rxid.bytes, (int)sizeof(row->rxid.bytes), SQLITE_STATIC);
	(void)sqlite3_bind_int(stmt, 3, (int)row->state);
	(void)sqlite3_bind_int64(stmt, 4, row->lane);
	(void)sqlite3_bind_int64(stmt, 5, row->received_at_ms);
	(void)sqlite3_bind_int64(stmt, 6, row->payload.segment);
	(void)sqlite3_bind_int64(stmt, 7, (sqlite3_int64)row->payload.offset);
	(void)sqlite3_bind_int64(stmt, 8, row->payload.header_bytes);
	(void)sqlite3_bind_int64(stmt, 9, (sqlite3_int64)row->payload.body_bytes);
	(void)sqlite3_bind_int64(stmt, 10, row->attempts);
	(void)sqlite3_bind_int(stmt, 11, row->ambiguous);
	(void)sqlite3_bind_int64(stmt, 12, changed_at_ms);
	bind_text(stmt, 13, format);
	bind_text(stmt, 14, client);
	bind_reason(stmt, 15, reason);
	return run(stmt);
}

/* A damaged index may hold anything. A row that makes no sense still comes back, so that
 * it harms no other: its payload is nowhere, and whoever wants it finds that out. */
static void read_row(sqlite3_stmt *stmt, struct spool_row *ret)
{
	const void *rxid = sqlite3_column_blob(stmt, 1);
	int64_t segment = sqlite3_column_int64(stmt, 5);
	int64_t offset = sqlite3_column_int64(stmt, 6);
	int64_t header_bytes = sqlite3_column_int64(stmt, 7);
	int64_t body_bytes = sqlite3_column_int64(stmt, 8);
	struct spool_row row = { .seq = sqlite3_column_int64(stmt, 0),
		.state = (enum report_state)sqlite3_column_int(stmt, 2),
		.lane = sqlite3_column_int64(stmt, 3),
		.received_at_ms = sqlite3_column_int64(stmt, 4),
		.payload = { .segment = PAYLOAD_NOWHERE },
		.attempts = (unsigned)sqlite3_column_int(stmt, 9),
		.ambiguous = sqlite3_column_int(stmt, 10) != 0 };

	if (rxid && sqlite3_column_bytes(stmt, 1) == (int)sizeof(row.rxid.bytes)) {
		memcpy(row.rxid.bytes, rxid, sizeof(row.rxid.bytes));
		if (segment >= 0 && segment < PAYLOAD_NOWHERE && offset >= 0 &&
		    offset < INT64_MAX / 2 && header_bytes > 0 &&
		    header_bytes <= UINT16_MAX + 1 && body_bytes >= 0 &&
		    body_bytes < INT64_MAX / 2)
			row.payload = (struct payload_ref){ .segment = (uint32_t)segment,
				.header_bytes = (uint32_t)header_bytes,
				.offset = (uint64_t)offset,
				.body_bytes = (uint64_t)body_bytes };
	}
	*ret = row;
}

int spool_index_get(struct spool_index *x, int64_t seq, struct spool_row *ret)
{
	sqlite3_stmt *stmt = x->statements[GET];
	int found = 0;
	int r = 0;
	int rc;

	(void)sqlite3_bind_int64(stmt, 1, seq);
	rc = sqlite3_step(stmt);
	r = map_code(rc);
	if (rc == SQLITE_ROW) {
		read_row(stmt, ret);
		found = 1;
	}
	(void)sqlite3_reset(stmt); /* repeats rc */
	return r < 0 ? r : found;
}

int spool_index_move(struct spool_index *x, int64_t seq, const struct spool_change *c)
{
	sqlite3_stmt *stmt = x->statements[MOVE];

	(void)sqlite3_bind_int64(stmt, 1, seq);
	(void)sqlite3_bind_int(stmt, 2, (int)c->to);
	(void)sqlite3_bind_int64(stmt, 3, c->changed_at_ms);
	(void)sqlite3_bind_int(stmt, 4, c->ambiguous);
	(void)sqlite3_bind_int(stmt, 5, c->count_attempt);
	if (c->http_status > 0)
		(void)sqlite3_bind_int64(stmt, 6, c->http_status);
	else
		(void)sqlite3_bind_null(stmt, 6);
	bind_reason(stmt, 7, c->reason);
	bind_text(stmt, 8, c->upstream_rxid);
	return run(stmt);
}

/* Step a bound query to its end, collecting rows; returns how many. */
static int collect(sqlite3_stmt *stmt, size_t max, struct spool_row *out)
{
	int n = 0;
	int rc;

	while ((rc = sqlite3_step(stmt)) == SQLITE_ROW && (size_t)n < max)
		read_row(stmt, &out[n++]);
	(void)sqlite3_reset(stmt); /* repeats rc */
	return map_code(rc) < 0 ? map_code(rc) : n;
}

int spool_index_list_lane(struct spool_index *x, int64_t lane, enum report_state state,
    bool newest_first, size_t max, struct spool_row *out)
{
	sqlite3_stmt *stmt =
	    x->statements[newest_first ? NEWEST_OF_LANE : OLDEST_OF_LANE];

	(void)sqlite3_bind_int64(stmt, 1, lane);
	(void)sqlite3_bind_int(stmt, 2, (int)state);
	(void)sqlite3_bind_int64(stmt, 3, (sqlite3_int64)max);
	return collect(stmt, max, out);
}

int spool_index_list_waiting(
    struct spool_index *x, int64_t from_seq, size_t max, struct spool_row *out)
{
	sqlite3_stmt *stmt = x->statements[WAITING];

	(void)sqlite3_bind_int64(stmt, 1, from_seq);
	(void)sqlite3_bind_int64(stmt, 2, (sqlite3_int64)max);
	return collect(stmt, max, out);
}

int spool_index_list_ended(struct spool_index *x, enum report_state state,
    int64_t before_ms, size_t max, struct spool_row *out)
{
	sqlite3_stmt *stmt = x->statements[ENDED];

	(void)sqlite3_bind_int(stmt, 1, (int)state);
	(void)sqlite3_bind_int64(stmt, 2, before_ms);
	(void)sqlite3_bind_int64(stmt, 3, (sqlite3_int64)max);
	return collect(stmt, max, out);
}

int spool_index_delete(struct spool_index *x, int64_t seq)
{
	sqlite3_stmt *stmt = x->statements[DELETE];

	(void)sqlite3_bind_int64(stmt, 1, seq);
	return run(stmt);
}

static int read_number(
    struct spool_index *x, enum statement id, const int64_t *argument, int64_t *ret)
{
	sqlite3_stmt *stmt = x->statements[id];
	int64_t value = 0;
	int r = 0;
	int rc;

	if (argument)
		(void)sqlite3_bind_int64(stmt, 1, *argument);
	rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW)
		value = sqlite3_column_int64(stmt, 0);
	(void)sqlite3_reset(stmt); /* repeats rc */
	r = map_code(rc);
	if (r == 0)
		*ret = value;
	return r;
}

int spool_index_oldest_queued(struct spool_index *x, int64_t lane, int64_t *ret_at_ms)
{
	return read_number(x, OLDEST_TIME, &lane, ret_at_ms);
}

int spool_index_last_seq(struct spool_index *x, int64_t *ret)
{
	return read_number(x, LAST_SEQ, NULL, ret);
}

int spool_index_used_bytes(struct spool_index *x, uint64_t *ret)
{
	int64_t pages;
	int64_t unused;
	int64_t size;
	int r = read_number(x, PAGE_COUNT, NULL, &pages);

	if (r == 0)
		r = read_number(x, FREE_PAGE_COUNT, NULL, &unused);
	if (r == 0)
		r = read_number(x, PAGE_SIZE, NULL, &size);
	if (r == 0)
		*ret = (uint64_t)((pages - unused) * size);
	return r;
}

int spool_index_requeue_sending(struct spool_index *x, uint64_t *ret_count)
{
	/* Lane by lane, so that the queue's own index finds them. */
	int r = exec_plain(x,
	    "UPDATE report SET state = 1, ambiguous = 1 WHERE seq IN"
	    " (SELECT q.seq FROM lane CROSS JOIN report q INDEXED BY report_queue"
	    "  ON q.lane = lane.id AND q.state = 2)");

	if (r == 0)
		*ret_count = (uint64_t)sqlite3_changes(x->db);
	return r;
}

/* Kept sums */

int spool_index_put_lane(
    struct spool_index *x, int64_t id, const char *universe, const char *token)
{
	sqlite3_stmt *stmt = x->statements[PUT_LANE];

	(void)sqlite3_bind_int64(stmt, 1, id);
	bind_text(stmt, 2, universe);
	bind_text(stmt, 3, token);
	return run(stmt);
}

static int put_sums(
    struct spool_index *x, enum statement id, int64_t key, uint64_t count, uint64_t bytes)
{
	sqlite3_stmt *stmt = x->statements[id];

	(void)sqlite3_bind_int64(stmt, 1, key);
	(void)sqlite3_bind_int64(stmt, 2, (sqlite3_int64)count);
	(void)sqlite3_bind_int64(stmt, 3, (sqlite3_int64)bytes);
	return run(stmt);
}

int spool_index_put_tally(
    struct spool_index *x, enum report_state state, uint64_t reports, uint64_t bytes)
{
	return put_sums(x, PUT_TALLY, (int64_t)state, reports, bytes);
}

int spool_index_put_segment(
    struct spool_index *x, uint32_t segment, uint64_t records, uint64_t bytes)
{
	return put_sums(x, PUT_SEGMENT, segment, records, bytes);
}

/* Run a query made for this one use, calling visit for each row. */
static int each_row(struct spool_index *x, const char *text,
    int (*visit)(void *cls, sqlite3_stmt *row), void *cls)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(x->db, text, -1, &stmt, NULL);
	int r = map_code(rc);

	while (r == 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
		r = visit(cls, stmt);
	if (r == 0)
		r = map_code(rc);
	(void)sqlite3_finalize(stmt); /* repeats rc */
	return r;
}

static const char *text_column(sqlite3_stmt *row, int i)
{
	const char *s = (const char *)sqlite3_column_text(row, i);

	return s ? s : "";
}

static int visit_lane(void *cls, sqlite3_stmt *row)
{
	const struct spool_index_visitor *v = cls;

	return v->lane(v->cls, sqlite3_column_int64(row, 0), text_column(row, 1),
	    text_column(row, 2));
}

static int visit_lane_queued(void *cls, sqlite3_stmt *row)
{
	const struct spool_index_visitor *v = cls;

	return v->lane_queued(
	    v->cls, sqlite3_column_int64(row, 0), (uint64_t)sqlite3_column_int64(row, 1));
}

static int visit_tally(void *cls, sqlite3_stmt *row)
{
	const struct spool_index_visitor *v = cls;
	int64_t state = sqlite3_column_int64(row, 0);

	int64_t reports = sqlite3_column_int64(row, 1);
	int64_t bytes = sqlite3_column_int64(row, 2);

	if (state <= REPORT_NEW || state >= REPORT_STATE_COUNT || reports < 0 ||
	    bytes < 0)
		return -EBADMSG;
	return v->tally(
	    v->cls, (enum report_state)state, (uint64_t)reports, (uint64_t)bytes);
}

static int visit_segment(void *cls, sqlite3_stmt *row)
{
	const struct spool_index_visitor *v = cls;
	int64_t segment = sqlite3_column_int64(row, 0);
	int64_t records = sqlite3_column_int64(row, 1);
	int64_t bytes = sqlite3_column_int64(row, 2);

	if (segment <= 0 || segment >= PAYLOAD_NOWHERE || records < 0 || bytes < 0)
		return -EBADMSG;
	return v->segment(v->cls, (uint32_t)segment, (uint64_t)records, (uint64_t)bytes);
}

int spool_index_load(struct spool_index *x, const struct spool_index_visitor *v)
{
	/* Only handed back to the visit functions above, which do not change it. */
	void *cls = (void *)(uintptr_t)v;
	int r = each_row(
	    x, "SELECT id, universe, token FROM lane ORDER BY id", visit_lane, cls);

	if (r == 0)
		r = each_row(x,
		    "SELECT lane, count(*) FROM report INDEXED BY report_queue"
		    " WHERE state = 1 AND " QUEUE_INDEX " GROUP BY lane",
		    visit_lane_queued, cls);
	if (r == 0)
		r = each_row(
		    x, "SELECT state, reports, bytes FROM tally", visit_tally, cls);
	if (r == 0)
		r = each_row(x,
		    "SELECT number, records, bytes FROM segment WHERE records > 0",
		    visit_segment, cls);
	return r;
}

struct row_visit {
	int (*visit)(void *cls, const struct spool_row *row);
	void *cls;
};

static int visit_row(void *cls, sqlite3_stmt *row)
{
	const struct row_visit *v = cls;
	struct spool_row r;

	read_row(row, &r);
	return v->visit(v->cls, &r);
}

int spool_index_each_row(struct spool_index *x,
    int (*visit)(void *cls, const struct spool_row *row), void *cls)
{
	struct row_visit v = { .visit = visit, .cls = cls };

	return each_row(
	    x, "SELECT " ROW_COLUMNS " FROM report ORDER BY seq", visit_row, &v);
}

static int visit_flag(void *cls, sqlite3_stmt *row)
{
	*(bool *)cls = sqlite3_column_int64(row, 0) != 0;
	return 0;
}

int spool_index_check_sums(struct spool_index *x, bool *ret_good)
{
	bool good = false;
	int r = each_row(x,
	    "WITH t AS (SELECT state, count(*), sum(body_bytes) FROM report GROUP BY "
	    "state),"
	    " k AS (SELECT state, reports, bytes FROM tally WHERE reports > 0 OR bytes > "
	    "0),"
	    " g AS (SELECT segment, count(*), sum((header_bytes + body_bytes + 4095) / "
	    "4096)"
	    "  * 4096 FROM report WHERE segment > 0 AND state IN (1, 2, 4, 5) GROUP BY "
	    "segment),"
	    " m AS (SELECT number, records, bytes FROM segment WHERE records > 0 OR "
	    "bytes > 0)"
	    " SELECT NOT EXISTS (SELECT * FROM t EXCEPT SELECT * FROM k)"
	    " AND NOT EXISTS (SELECT * FROM k EXCEPT SELECT * FROM t)"
	    " AND NOT EXISTS (SELECT * FROM g EXCEPT SELECT * FROM m)"
	    " AND NOT EXISTS (SELECT * FROM m EXCEPT SELECT * FROM g)",
	    visit_flag, &good);

	if (r == 0)
		*ret_good = good;
	return r;
}

struct payload_visit {
	void (*visit)(void *cls, const struct payload_ref *ref);
	void *cls;
};

static int visit_payload(void *cls, sqlite3_stmt *row)
{
	const struct payload_visit *v = cls;
	struct payload_ref ref = { .segment = (uint32_t)sqlite3_column_int64(row, 0),
		.offset = (uint64_t)sqlite3_column_int64(row, 1),
		.header_bytes = (uint32_t)sqlite3_column_int64(row, 2),
		.body_bytes = (uint64_t)sqlite3_column_int64(row, 3) };

	v->visit(v->cls, &ref);
	return 0;
}

int spool_index_each_payload(struct spool_index *x,
    void (*visit)(void *cls, const struct payload_ref *ref), void *cls)
{
	struct payload_visit v = { .visit = visit, .cls = cls };

	return each_row(x,
	    "SELECT segment, offset, header_bytes, body_bytes FROM report"
	    " WHERE segment > 0 AND state IN (1, 2, 4, 5)",
	    visit_payload, &v);
}

/* Notes and checks */

int spool_index_get_note(struct spool_index *x, enum spool_note note, int64_t *ret)
{
	int64_t name = note;

	return read_number(x, GET_NOTE, &name, ret);
}

int spool_index_put_note(struct spool_index *x, enum spool_note note, int64_t value)
{
	sqlite3_stmt *stmt = x->statements[PUT_NOTE];

	(void)sqlite3_bind_int64(stmt, 1, note);
	(void)sqlite3_bind_int64(stmt, 2, value);
	return run(stmt);
}

static int visit_check(void *cls, sqlite3_stmt *row)
{
	*(bool *)cls = strcmp(text_column(row, 0), "ok") == 0;
	return 0;
}

/* About 100,000 reports; a tenth of a second. */
#define THOROUGH_MAX_BYTES (UINT64_C(16) << 20)

int spool_index_check(struct spool_index *x)
{
	uint64_t bytes = 0;
	/* The thorough check also compares each index with its table; on a large file a
	 * start cannot wait for that. */
	bool thorough =
	    spool_index_used_bytes(x, &bytes) == 0 && bytes <= THOROUGH_MAX_BYTES;
	bool good = false;
	int r =
	    each_row(x, thorough ? "PRAGMA integrity_check(1)" : "PRAGMA quick_check(1)",
		visit_check, &good);

	return r < 0 ? r : good ? 0 : -EBADMSG;
}
