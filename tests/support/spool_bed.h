/* SPDX-License-Identifier: MIT */
/* The test bed of the spool: one spool in a folder of its own, and what tests do with it
 * all the time. There is one per process, as each test has a process of its own. Whatever
 * goes wrong fails the running test. */
#ifndef TESTS_SPOOL_BED_H
#define TESTS_SPOOL_BED_H

#include "spool.h"
#include "spool_kit.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BED_TOKEN "0123456789abcdef"

struct spool_bed {
	char *dir;
	struct spool *spool;
	struct spool_recovery recovery; /* of the last opening */
	char errbuf[KIT_ERROR_SIZE];
};

extern struct spool_bed bed;

/* For TestSuite: a folder without a spool; and the same with an open one. The log is
 * silenced: damage that tests make belongs there, not on their output. */
void bed_set_up(void);
void bed_set_up_open(void);
void bed_tear_down(void);

void bed_open(void); /* with kit_limits() */
void bed_open_with(const struct spool_limits *limits);
void bed_close(void);
void bed_reopen(void);

/* Accept report number i in a lane of its token; accept a row of numbers in the lane of
 * BED_TOKEN. */
struct rxid bed_accept(const char *token, uint64_t i, size_t len);
void bed_accept_many(uint64_t first, uint64_t count, size_t len);

/* The lane, where there is only one; the lane of the token that was used last for the
 * first time. */
int64_t bed_only_lane(void);
int64_t bed_newest_lane(void);

int bed_claim(int64_t lane, bool newest_first, size_t max, struct report **out);

/* The number of a claimed report, its body checked. */
uint64_t bed_number(const struct report *r);

/* Claim everything of a lane and expect these numbers in this order. */
void bed_expect_claimed(int64_t lane, const uint64_t *expected, size_t n);

void bed_settle(int64_t seq, enum report_state to);

/* Until all that was handed over before is done. */
void bed_wait(void);

struct spool_stats bed_figures(void);
uint64_t bed_count_in(enum report_state state);

/* A number from the row of a report in the index of the closed spool. */
int64_t bed_ask(const char *column, int64_t seq);

size_t bed_count_large_files(void);
bool bed_has_file(const char *name);

/* Absent is as good. The index is removed with its log. */
void bed_remove_file(const char *name);
void bed_remove_index(void);

/* What can be claimed: by number, how often and whether in doubt. */
struct bed_claimed {
	unsigned total;
	unsigned ambiguous;
	int64_t seq[2048];
	unsigned char count[2048];
	bool in_doubt[2048];
};

/* Claim all of all lanes; each must be whole and in order. */
void bed_claim_all(struct bed_claimed *c);

/* These numbers and no others, each once. */
void bed_expect_exactly(const struct bed_claimed *c, uint64_t first, uint64_t count);

#endif
