/* SPDX-License-Identifier: MIT */
/* A spool as its users see it, in few words: reports by number, each with a body, a lane
 * and a target that follow from its number, so that whatever comes back can be judged.
 *
 * Knows no test framework: a forked child that is to be killed uses it, and a program of
 * its own, where a sanitizer does not start under the framework.
 */
#ifndef TESTS_SPOOL_KIT_H
#define TESTS_SPOOL_KIT_H

#include "spool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KIT_ERROR_SIZE 512

/* Limits that none of the tests reaches by accident, yet so small that no segment is
 * prepared in advance: tests need not wait for zeros they do not use. */
struct spool_limits kit_limits(void);

/* Open with these limits. Errors: as spool_open(); the reason in errbuf, KIT_ERROR_SIZE
 * bytes. */
int kit_open(const char *dir, struct spool **ret, struct spool_recovery *ret_recovery,
    char *errbuf) MUST_CHECK;

/* When report number i came in. */
int64_t kit_time_of(uint64_t i);

/* Hand report number i with a body of len bytes over, without waiting. Returns 0, or why
 * the payload could not be written; done is then not called. */
int kit_commit(struct spool *s, const char *token, uint64_t i, size_t len,
    spool_commit_fn *done, void *cls) MUST_CHECK;

/* The same, and wait for the verdict. ret_rxid may be NULL. */
int kit_accept(struct spool *s, const char *token, uint64_t i, size_t len,
    struct rxid *ret_rxid) MUST_CHECK;

/* The number of a report that came from kit_commit(); its body must be that number's,
 * byte for byte. Errors: -EBADMSG another body, or as spool_reader_read(). */
int kit_check(struct spool *s, const struct report *r, uint64_t *ret_number) MUST_CHECK;

/* Settle without trimmings. */
int kit_settle(struct spool *s, int64_t seq, enum report_state to) MUST_CHECK;

/* Ask the index of a closed spool: the number in the first column of the first row, or
 * INT64_MIN when there is none or it cannot be had. */
int64_t kit_sql(const char *dir, const char *query);

/* Change the index of a closed spool. */
bool kit_sql_change(const char *dir, const char *statements);

/* Threads that all commit at once, each some bodies of changing size, while another one
 * claims what came and sends it. Then everything is checked: each report once, whole, in
 * its lane's order. Returns 0, or a negative errno with the reason in errbuf. */
int kit_run_load(const char *dir, uint64_t max_bytes, unsigned threads, unsigned bodies,
    char *errbuf) MUST_CHECK;

#endif
