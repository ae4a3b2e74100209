/* SPDX-License-Identifier: MIT */
/* Many short pieces of work, spread over processes, since any of them may crash or hang:
 * that is what is being looked for. */
#ifndef TORTURE_POOL_H
#define TORTURE_POOL_H

#include <stddef.h>
#include <stdint.h>

#define POOL_ERROR_BYTES 4096

struct pool_task {
	uint64_t first, count; /* numbers of the pieces */
	unsigned workers;
	/* Do piece i; a worker gets ascending numbers. Returns 0, or a negative errno with
	 * what is wrong in errbuf. worker tells them apart, also a successor from the one
	 * that crashed, which left its folders behind. */
	int (*run)(
	    void *cls, unsigned worker, uint64_t i, char *errbuf, size_t errbuf_size);
	/* Before a worker ends in order; may be NULL. */
	void (*end)(void *cls, unsigned worker);
	void *cls;
};

struct pool_result {
	uint64_t done;
	uint64_t failed;       /* of those, crashed and hung ones included */
	uint64_t first_failed; /* the lowest number, if any failed */
};

/* Do all; failures are told on stderr, the first few of them. Gives up after many. The
 * caller has no other thread. */
void pool_run(const struct pool_task *task, struct pool_result *ret);

#endif
