/* SPDX-License-Identifier: MIT */
/* Owns the worker processes: they share a page of counters with the parent, which sees to
 * it that each crash and each hang is counted, and that the work goes on behind it. */
#include "pool.h"

#include "clock.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS_MAX 64
#define FAILURES_SHOWN 5
#define FAILURES_MAX 50
#define HANG_MS 60000
#define LOOK_MS 1000

struct shared {
	atomic_uint_fast64_t done;
	atomic_uint_fast64_t failed;
	atomic_uint_fast64_t first_failed;
	atomic_uint_fast64_t at[WORKERS_MAX];   /* piece in work; count = none left */
	atomic_int_fast64_t since[WORKERS_MAX]; /* monotonic ms */
};

struct worker {
	unsigned slot;   /* takes every so-manieth piece */
	unsigned number; /* a name for its folders */
	uint64_t first;
	pid_t pid; /* 0 = ended */
	int pidfd;
};

static void count_failure(struct shared *s, uint64_t i, const char *what)
{
	uint_fast64_t first = atomic_load(&s->first_failed);

	while (i < first && !atomic_compare_exchange_weak(&s->first_failed, &first, i))
		continue;
	if (atomic_fetch_add(&s->failed, 1) < FAILURES_SHOWN)
		(void)fprintf(stderr, "piece %" PRIu64 ": %s\n", i, what);
}

static _Noreturn void work(
    const struct pool_task *t, struct shared *s, const struct worker *w, pid_t parent)
{
	uint64_t end = t->first + t->count;
	static char error[POOL_ERROR_BYTES];

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	for (uint64_t i = w->first; i < end; i += t->workers) {
		atomic_store(&s->since[w->slot], clock_mono_ms());
		atomic_store(&s->at[w->slot], i);
		if (atomic_load(&s->failed) >= FAILURES_MAX)
			break;
		error[0] = '\0';
		if (t->run(t->cls, w->number, i, error, sizeof(error)) < 0)
			count_failure(s, i, error);
		atomic_fetch_add(&s->done, 1);
	}
	atomic_store(&s->at[w->slot], end);
	if (t->end)
		t->end(t->cls, w->number);
	_exit(0);
}

static void start(const struct pool_task *t, struct shared *s, struct worker *w)
{
	static unsigned started;
	pid_t parent = getpid();

	w->number = started++;
	atomic_store(&s->since[w->slot], clock_mono_ms());
	atomic_store(&s->at[w->slot], w->first);
	w->pid = fork();
	if (w->pid == 0)
		work(t, s, w, parent);
	if (w->pid < 0)
		abort();
	w->pidfd = (int)syscall(SYS_pidfd_open, w->pid, 0);
	if (w->pidfd < 0)
		abort();
}

/* A worker ended: was it in order, and who goes on? */
static void reap(const struct pool_task *t, struct shared *s, struct worker *w)
{
	uint64_t at = atomic_load(&s->at[w->slot]);
	uint64_t end = t->first + t->count;
	char what[80];
	int status = 0;

	if (waitpid(w->pid, &status, 0) != w->pid)
		abort();
	(void)close(w->pidfd);
	w->pid = 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	if (WIFEXITED(status))
		(void)snprintf(what, sizeof(what), "the process exited with status %d",
		    WEXITSTATUS(status));
	else
		(void)snprintf(what, sizeof(what), "the process was ended by signal %d%s",
		    WTERMSIG(status),
		    WTERMSIG(status) == SIGKILL ? " (it hung, or took all memory)" : "");
	count_failure(s, at, what);
	if (at >= end)
		return;
	atomic_fetch_add(&s->done, 1);
	w->first = at + t->workers;
	if (w->first < end && atomic_load(&s->failed) < FAILURES_MAX)
		start(t, s, w);
}

static bool look(const struct pool_task *t, struct shared *s, struct worker *workers)
{
	struct pollfd p[WORKERS_MAX];
	bool any = false;

	for (unsigned i = 0; i < t->workers; i++) {
		p[i] = (struct pollfd){ .fd = workers[i].pid ? workers[i].pidfd : -1,
			.events = POLLIN };
		any |= workers[i].pid != 0;
	}
	if (!any)
		return false;
	if (poll(p, t->workers, LOOK_MS) < 0 && errno != EINTR)
		abort();
	for (unsigned i = 0; i < t->workers; i++) {
		if (p[i].fd >= 0 && (p[i].revents & POLLIN))
			reap(t, s, &workers[i]);
		else if (workers[i].pid &&
			 clock_mono_ms() - atomic_load(&s->since[i]) > HANG_MS)
			(void)kill(workers[i].pid, SIGKILL);
	}
	return true;
}

void pool_run(const struct pool_task *task, struct pool_result *ret)
{
	struct worker workers[WORKERS_MAX] = { { 0 } };
	struct shared *s = mmap(
	    NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (s == MAP_FAILED || task->workers > WORKERS_MAX)
		abort();
	atomic_store(&s->first_failed, UINT64_MAX);
	for (unsigned i = 0; i < task->workers; i++) {
		workers[i] = (struct worker){ .slot = i, .first = task->first + i };
		if (i < task->count)
			start(task, s, &workers[i]);
	}
	while (look(task, s, workers))
		continue;
	*ret = (struct pool_result){ .done = atomic_load(&s->done),
		.failed = atomic_load(&s->failed),
		.first_failed = atomic_load(&s->first_failed) };
	(void)munmap(s, sizeof(*s));
}
