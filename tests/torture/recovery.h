/* SPDX-License-Identifier: MIT */
/* Starts the spool on a folder as a crash, or a vandal, left it, takes out all that is in
 * it, and judges whether the promise was kept. */
#ifndef TORTURE_RECOVERY_H
#define TORTURE_RECOVERY_H

#include "disk.h"
#include "posted.h"

#include <stdbool.h>
#include <stddef.h>

struct recovery_expectation {
	const struct posted *posted;
	/* Acknowledged: each must be there, byte for byte, or be over. */
	const struct disk_name *acked;
	size_t acked_count;
	/* Let go by upstream's or an operator's word, under our name or upstream's: these
	 * may be over. */
	const struct disk_name *over;
	size_t over_count;
	bool may_evict; /* the spool was too small for all: evicted ones are over, too */
	/* Someone has altered the files: records may be damaged, and so many of the
	 * acknowledged may be missing or unreadable. */
	bool damaged;
	size_t may_be_lost;
	bool may_be_newer; /* the index's version was altered: it may be refused */
	/* Take a new report too, which writes to segments. */
	bool go_on;
};

/* What one look found. */
struct recovery_found {
	size_t readable; /* reports whose body was handed out */
	size_t damaged;  /* put aside as dead, without a readable body */
	size_t missing;  /* acknowledged, and neither readable nor over */
	bool rebuilt;
};

/* Returns 0 when all is as it must be; else errbuf says what is not. folder belongs to
 * the caller and is changed, as a start does. */
int recovery_check(const char *folder, const struct recovery_expectation *expected,
    struct recovery_found *ret, char *errbuf, size_t errbuf_size);

#endif
