/* SPDX-License-Identifier: MIT */
/* The tables of the index and the steps from one version of them to the next. Internal to
 * spool*.c. */
#ifndef RELAY_SPOOL_SCHEMA_H
#define RELAY_SPOOL_SCHEMA_H

#include <sqlite3.h>

/* Set the connection up and step the schema to the present version in one transaction.
 * Returns an SQLite code; SQLITE_SCHEMA when a newer version made it (untouched then).
 * ret_from: the version found, 0 = fresh. */
int spool_schema_apply(sqlite3 *db, int *ret_from);

/* Set up a connection that only looks. */
int spool_schema_apply_reader(sqlite3 *db);

#endif
