/* SPDX-License-Identifier: MIT */
/* The limit that the benchmarks compare the daemon with: what a durable accept costs on
 * this machine when nothing is done but what must be. The same HTTP layer (http.c, as many
 * threads), the same SHA-256 while receiving and the same segments (segment.c), one small
 * row in SQLite, one committer; but no endpoint, no multipart, no limits, no log, no
 * indexes, sums or lanes beside the row.
 *
 * Says "listening on http://127.0.0.1:PORT/" on stderr as the daemon does; ends on SIGTERM.
 * Whatever goes wrong ends it: a benchmark has no use for a half.
 */
#include "clock.h"
#include "http.h"
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

/* As listener.c. */
#define THREADS 2

struct post {
	struct post *next;
	struct http_request *request;
	struct segment_writer *writer;
	struct payload_ref payload;
	struct record record;
};

struct limit {
	struct segment_store *segments;
	atomic_int_fast64_t last_seq;
	sqlite3 *db;
	sqlite3_stmt *begin, *insert, *commit;

	pthread_mutex_t lock;
	/* Under lock: */
	struct post *queue; /* newest first: their order does not matter here */
	bool stop;
	pthread_cond_t work;
};

static void die(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)fputs("limit: ", stderr);
	(void)vfprintf(stderr, fmt, ap);
	(void)fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

static void need(int r, const char *what)
{
	if (r < 0)
		die("%s: %s", what, strerror(-r));
}

static struct post *post_free(struct post *p)
{
	if (p)
		segment_writer_free(p->writer);
	free(p);
	return NULL;
}

/* The committer */

static void step(struct limit *l, sqlite3_stmt *stmt)
{
	if (sqlite3_step(stmt) != SQLITE_DONE)
		die("index: %s", sqlite3_errmsg(l->db));
	(void)sqlite3_reset(stmt); /* repeats the step's result */
}

static void insert(struct limit *l, const struct post *p)
{
	sqlite3_stmt *stmt = l->insert;

	/* A failed bind shows in the step: the columns are NOT NULL. */
	(void)sqlite3_bind_int64(stmt, 1, p->record.seq);
	(void)sqlite3_bind_blob(
	    stmt, 2, p->record.rxid.bytes, sizeof(p->record.rxid.bytes), SQLITE_STATIC);
	(void)sqlite3_bind_int64(stmt, 3, p->record.received_at_ms);
	(void)sqlite3_bind_int64(stmt, 4, p->payload.segment);
	(void)sqlite3_bind_int64(stmt, 5, (sqlite3_int64)p->payload.offset);
	(void)sqlite3_bind_int64(stmt, 6, (sqlite3_int64)p->payload.body_bytes);
	step(l, stmt);
}

static void commit_batch(struct limit *l, struct post *batch)
{
	struct payload_ref *refs;
	size_t n = 0;

	for (struct post *p = batch; p; p = p->next)
		n++;
	refs = calloc(n, sizeof(*refs));
	if (!refs)
		die("out of memory");
	n = 0;
	for (struct post *p = batch; p; p = p->next)
		refs[n++] = p->payload;
	need(segment_sync(l->segments, refs, n), "cannot sync");
	free(refs);
	step(l, l->begin);
	for (struct post *p = batch; p; p = p->next)
		insert(l, p);
	step(l, l->commit);
	while (batch) {
		struct post *p = batch;

		batch = p->next; /* once woken it may be gone */
		segment_commit(l->segments, &p->payload);
		http_wake(p->request);
	}
}

static void *committer(void *arg)
{
	struct limit *l = arg;

	(void)pthread_mutex_lock(&l->lock);
	while (!l->stop || l->queue) {
		struct post *batch = TAKE_PTR(l->queue);

		if (!batch) {
			(void)pthread_cond_wait(&l->work, &l->lock);
			continue;
		}
		(void)pthread_mutex_unlock(&l->lock);
		commit_batch(l, batch);
		(void)pthread_mutex_lock(&l->lock);
	}
	(void)pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* The callbacks of a request */

static void begin(void *cls, struct http_request *q)
{
	struct limit *l = cls;
	struct post *p = calloc(1, sizeof(*p));

	if (!p)
		die("out of memory");
	need(segment_writer_new(l->segments, &p->writer), "no writer");
	p->request = q;
	http_set_state(q, p);
}

static void data(void *cls, struct http_request *q, const void *bytes, size_t len)
{
	struct post *p = http_state(q);

	(void)cls;
	need(segment_writer_add(p->writer, bytes, len), "cannot write");
}

static void end(void *cls, struct http_request *q)
{
	struct limit *l = cls;
	struct post *p = http_state(q);
	size_t target_len;

	p->record.seq = atomic_fetch_add(&l->last_seq, 1) + 1;
	p->record.received_at_ms = clock_wall_ms();
	p->record.strings.target = http_target(q, &target_len);
	p->record.strings.content_type = http_header(q, "Content-Type");
	need(rxid_make(p->record.received_at_ms, &p->record.rxid), "no name");
	need(segment_writer_place(p->writer, &p->record, &p->payload), "cannot place");
	if (segment_writer_is_large(p->writer))
		need(segment_writer_seal(p->writer), "cannot seal");
	http_defer(q);
	(void)pthread_mutex_lock(&l->lock);
	p->next = l->queue;
	l->queue = p;
	(void)pthread_cond_signal(&l->work);
	(void)pthread_mutex_unlock(&l->lock);
}

static void resumed(void *cls, struct http_request *q)
{
	struct post *p = http_state(q);
	char id[RXID_TEXT_SIZE];
	char body[80];
	struct http_answer answer = {
		.status = 200, .content_type = "application/json", .body = body
	};

	(void)cls;
	rxid_format(&p->record.rxid, id);
	answer.body_len = (size_t)snprintf(
	    body, sizeof(body), "{\"response\":\"ok\",\"_rxid\":\"%s\"}", id);
	http_answer(q, &answer);
}

static void gone(void *cls, struct http_request *q)
{
	(void)cls;
	post_free(http_state(q));
	http_set_state(q, NULL);
}

/* Starting */

static sqlite3_stmt *prepare(struct limit *l, const char *sql)
{
	sqlite3_stmt *stmt;

	if (sqlite3_prepare_v3(l->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL) !=
	    SQLITE_OK)
		die("%s: %s", sql, sqlite3_errmsg(l->db));
	return stmt;
}

/* The same settings as spool_schema.c. */
static void open_index(struct limit *l, const char *directory)
{
	static const char setup[] = "PRAGMA journal_mode = WAL;"
				    "PRAGMA synchronous = FULL;"
				    "PRAGMA secure_delete = OFF;"
				    "PRAGMA cache_size = -1024;"
				    "CREATE TABLE report (seq INTEGER PRIMARY KEY,"
				    " rxid BLOB NOT NULL, received_at INTEGER NOT NULL,"
				    " segment INTEGER NOT NULL, offset INTEGER NOT NULL,"
				    " body_bytes INTEGER NOT NULL) STRICT";
	CLEANUP(cleanup_free) char *path = NULL;

	if (asprintf(&path, "%s/spool.db", directory) < 0)
		die("out of memory");
	if (sqlite3_open_v2(path, &l->db,
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
		NULL) != SQLITE_OK ||
	    sqlite3_exec(l->db, setup, NULL, NULL, NULL) != SQLITE_OK)
		die("%s: %s", path, sqlite3_errmsg(l->db));
	l->begin = prepare(l, "BEGIN IMMEDIATE");
	l->insert =
	    prepare(l, "INSERT INTO report (seq, rxid, received_at, segment, offset,"
		       " body_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
	l->commit = prepare(l, "COMMIT");
}

static void close_index(struct limit *l)
{
	/* They repeat the result of the last step. */
	(void)sqlite3_finalize(l->begin);
	(void)sqlite3_finalize(l->insert);
	(void)sqlite3_finalize(l->commit);
	if (sqlite3_close(l->db) != SQLITE_OK)
		die("cannot close the index");
}

static int open_spool(struct limit *l, const char *directory)
{
	int dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t discarded;

	if (dir_fd < 0)
		die("%s: %s", directory, strerror(errno));
	need(
	    segment_store_open(dir_fd, &l->segments, &discarded), "cannot open segments");
	open_index(l, directory);
	need(segment_store_start(l->segments), "cannot start segments");
	return dir_fd;
}

static struct http_server *start_http(struct limit *l)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
		.sin_addr = { htonl(INADDR_LOOPBACK) } };
	char errbuf[256];
	char address[HTTP_ADDRESS_SIZE];
	int fd = http_listen((struct sockaddr *)&at, sizeof(at), errbuf, sizeof(errbuf));
	struct http_options options = { .sockets = &fd,
		.socket_count = 1,
		.threads = THREADS,
		.max_connections = 512,
		.idle_timeout_s = 30,
		.begin = begin,
		.data = data,
		.end = end,
		.resumed = resumed,
		.gone = gone,
		.cls = l };
	struct http_server *h;

	if (fd < 0)
		die("%s", errbuf);
	need(http_socket_address(fd, address), "no address");
	need(http_start(&options, &h), "cannot serve");
	(void)fprintf(stderr, "listening on http://%s/\nready\n", address);
	return h;
}

int main(int argc, char **argv)
{
	struct limit l = { .lock = PTHREAD_MUTEX_INITIALIZER,
		.work = PTHREAD_COND_INITIALIZER };
	struct http_server *http;
	pthread_t thread;
	sigset_t signals;
	int dir_fd;
	int sig;

	if (argc != 2)
		die("usage: limit SPOOL");
	(void)sigemptyset(&signals);
	(void)sigaddset(&signals, SIGTERM);
	(void)sigaddset(&signals, SIGINT);
	need(-pthread_sigmask(SIG_BLOCK, &signals, NULL), "signals");
	dir_fd = open_spool(&l, argv[1]);
	need(-pthread_create(&thread, NULL, committer, &l), "no thread");
	http = start_http(&l);
	need(-sigwait(&signals, &sig), "signals");

	http_stop(http, 10000);
	(void)pthread_mutex_lock(&l.lock);
	l.stop = true;
	(void)pthread_cond_signal(&l.work);
	(void)pthread_mutex_unlock(&l.lock);
	(void)pthread_join(thread, NULL);
	close_index(&l);
	segment_store_close(l.segments);
	(void)close(dir_fd);
	return 0;
}
