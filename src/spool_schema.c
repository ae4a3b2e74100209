/* SPDX-License-Identifier: MIT */
/* Owns the DDL. A step, once released, is never changed: a change is a new step. */
#include "spool_schema.h"

#include "cleanup.h"

#include <stdio.h>

/* States are numbers, see enum report_state. Rows are small on purpose: what the client
 * sent lies in the record, so that a delete needs little room in the log of a full disk.
 *
 * report_queue   what a claim asks for, what may be evicted or expire while it waits, and
 *                at start what was being sent
 * report_ended   what the janitor asks for
 * note           single numbers, see enum spool_note
 * lane           destinations; a token is stored once
 * tally, segment sums over report, kept so that a start need not read a million rows
 */
static const char step_1[] =
    "CREATE TABLE report ("
    "  seq INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  rxid BLOB NOT NULL,"
    "  state INTEGER NOT NULL,"
    "  lane INTEGER NOT NULL,"
    "  received_at INTEGER NOT NULL,"
    "  changed_at INTEGER NOT NULL,"
    "  segment INTEGER NOT NULL,"
    "  offset INTEGER NOT NULL,"
    "  header_bytes INTEGER NOT NULL,"
    "  body_bytes INTEGER NOT NULL,"
    "  format TEXT NOT NULL,"
    "  client TEXT,"
    "  attempts INTEGER NOT NULL DEFAULT 0,"
    "  ambiguous INTEGER NOT NULL DEFAULT 0,"
    "  http_status INTEGER NOT NULL DEFAULT 0,"
    "  reason TEXT,"
    "  upstream_rxid TEXT"
    ") STRICT;"
    "CREATE UNIQUE INDEX report_rxid ON report (rxid);"
    "CREATE INDEX report_queue ON report (lane, state, seq) WHERE state = 1 OR state = 2 "
    "OR state = 4;"
    "CREATE INDEX report_ended ON report (state, changed_at) WHERE state = 3 OR state = "
    "5 OR state = 6 OR state = 7;"
    "CREATE TABLE lane ("
    "  id INTEGER PRIMARY KEY,"
    "  universe TEXT NOT NULL,"
    "  token TEXT NOT NULL,"
    "  UNIQUE (universe, token)"
    ") STRICT;"
    "CREATE TABLE tally ("
    "  state INTEGER PRIMARY KEY,"
    "  reports INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL"
    ") STRICT;"
    "CREATE TABLE segment ("
    "  number INTEGER PRIMARY KEY,"
    "  records INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL"
    ") STRICT;"
    "CREATE TABLE note ("
    "  name INTEGER PRIMARY KEY,"
    "  value INTEGER NOT NULL"
    ") STRICT;"
    /* SPOOL_NOTE_REBUILDING: an index is unfinished until all records are in it, also if
     * the process dies right after this. */
    "INSERT INTO note (name, value) VALUES (4, 1);";

static const char *const steps[] = { step_1 };

#define SCHEMA_VERSION ((int)ARRAY_LEN(steps))

/* WAL with synchronous=FULL: a commit is one append to the log and one sync of it; with
 * NORMAL a power cut loses acknowledged rows. Debian builds SQLite with secure_delete on,
 * which would write pages only to blank them; the index holds no payload. A small cache
 * (KiB when negative) is enough: claims and inserts are at the two ends of the tables. */
static const char setup[] = "PRAGMA journal_mode = WAL;"
			    "PRAGMA synchronous = FULL;"
			    "PRAGMA secure_delete = OFF;"
			    "PRAGMA cache_size = -1024;"
			    "PRAGMA temp_store = MEMORY;"
			    "PRAGMA journal_size_limit = 4194304;";

static int read_version(sqlite3 *db, int *ret)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &stmt, NULL);

	if (rc == SQLITE_OK) {
		rc = sqlite3_step(stmt);
		if (rc == SQLITE_ROW) {
			*ret = sqlite3_column_int(stmt, 0);
			rc = SQLITE_OK;
		}
	}
	(void)sqlite3_finalize(stmt); /* repeats the error of the step */
	return rc;
}

static int run_steps(sqlite3 *db, int from)
{
	char pragma[48];
	int rc = sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL);

	for (int i = from; rc == SQLITE_OK && i < SCHEMA_VERSION; i++)
		rc = sqlite3_exec(db, steps[i], NULL, NULL, NULL);
	if (rc == SQLITE_OK) {
		(void)snprintf(
		    pragma, sizeof(pragma), "PRAGMA user_version = %d", SCHEMA_VERSION);
		rc = sqlite3_exec(db, pragma, NULL, NULL, NULL);
	}
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
	if (rc != SQLITE_OK) /* the first failure is the one to tell */
		(void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

int spool_schema_apply(sqlite3 *db, int *ret_from)
{
	int version = 0;
	int rc = sqlite3_busy_timeout(db, 5000);

	if (rc == SQLITE_OK)
		rc = read_version(db, &version);
	if (rc != SQLITE_OK)
		return rc;
	if (version > SCHEMA_VERSION || version < 0)
		return SQLITE_SCHEMA;
	rc = sqlite3_exec(db, setup, NULL, NULL, NULL);
	if (rc == SQLITE_OK && version < SCHEMA_VERSION)
		rc = run_steps(db, version);
	if (rc == SQLITE_OK)
		*ret_from = version;
	return rc;
}

int spool_schema_apply_reader(sqlite3 *db)
{
	int version = 0;
	int rc = sqlite3_busy_timeout(db, 5000);

	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, "PRAGMA cache_size = -256", NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = read_version(db, &version);
	return rc == SQLITE_OK && version != SCHEMA_VERSION ? SQLITE_SCHEMA : rc;
}
