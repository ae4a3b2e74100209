/* SPDX-License-Identifier: MIT */
/* Owns which states are looked at. Moments ascend with the number of the state, so that a
 * worker reads the log once; neighbours have different fates. */
#include "replay.h"

#include "bodies.h"
#include "disk.h"
#include "files.h"
#include "pool.h"
#include "recovery.h"

#include "clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of so many states one goes on to take a new report. */
#define GO_ON_EVERY 16

/* A disk, and the folder that shows its states. */
struct stage {
	struct disk *disk;
	char folder[FILES_PATH_SIZE];
};

/* One state. */
struct cut {
	uint64_t events;
	enum disk_fate fate;
	uint64_t seed;
	bool may_evict;
	const char *keep; /* see replay.h */
};

static int open_stage(struct stage *s, const char *recording, const char *scratch,
    unsigned from_log, char *errbuf, size_t errbuf_size)
{
	char work[FILES_PATH_SIZE];
	int r;

	files_path(work, "%s/files", scratch);
	files_path(s->folder, "%s/spool", scratch);
	if (mkdir(scratch, 0700) < 0 || mkdir(work, 0700) < 0) {
		r = -errno;
		(void)snprintf(errbuf, errbuf_size, "%s: %s", work, strerror(-r));
		return r;
	}
	return disk_open(recording, work, from_log, &s->disk, errbuf, errbuf_size);
}

static int judge(struct stage *s, const struct posted *posted, const struct cut *cut,
    char *errbuf, size_t errbuf_size)
{
	uint64_t random = cut->seed;
	struct recovery_expectation expected = { .posted = posted,
		.may_evict = cut->may_evict };
	struct recovery_found found;
	size_t len;
	int r = disk_advance(s->disk, cut->events);

	if (r < 0) {
		(void)snprintf(errbuf, errbuf_size, "%s", disk_error(s->disk));
		return r;
	}
	expected.acked = disk_acked(s->disk, &expected.acked_count);
	expected.over = disk_over(s->disk, &expected.over_count);
	expected.go_on = random_below(&random, GO_ON_EVERY) == 0;
	r = disk_stage(s->disk, cut->fate, random, s->folder, expected.go_on);
	if (r == 0 && cut->keep)
		r = files_copy(s->folder, cut->keep);
	if (r < 0)
		(void)snprintf(errbuf, errbuf_size, "cannot stage: %s", strerror(-r));
	else
		r = recovery_check(s->folder, &expected, &found, errbuf, errbuf_size);
	if (!disk_unstage(s->disk) && r == 0) {
		r = -EBADE;
		(void)snprintf(
		    errbuf, errbuf_size, "a start alone writes to a payload's file");
	}
	if (r == 0)
		return 0;
	len = strlen(errbuf);
	(void)snprintf(errbuf + len, errbuf_size - len,
	    "\n  (cut after event %" PRIu64 ", %s, %zu acknowledged)", cut->events,
	    disk_fate_name(cut->fate), expected.acked_count);
	return r;
}

/* Many */

struct replay {
	const struct replay_options *options;
	struct posted posted;
	const char *scratch;
	struct stage stage; /* a worker's own */
};

static int run(void *cls, unsigned worker, uint64_t i, char *errbuf, size_t errbuf_size)
{
	struct replay *p = cls;
	const struct replay_options *o = p->options;
	struct cut cut = { .fate = (enum disk_fate)(i % DISK_FATES),
		.seed = o->seed ^ (i * UINT64_C(0x9e3779b97f4a7c15)),
		.may_evict = o->may_evict,
		.keep = o->keep };
	char scratch[FILES_PATH_SIZE];
	const uint64_t *cuts;
	size_t count;

	if (!p->stage.disk) {
		int r;

		files_path(scratch, "%s/%u", p->scratch, worker);
		r = open_stage(
		    &p->stage, o->recording, scratch, o->from_log, errbuf, errbuf_size);
		if (r < 0)
			return r;
	}
	cuts = disk_cuts(p->stage.disk, &count);
	if (count == 0) {
		(void)snprintf(errbuf, errbuf_size, "nothing was recorded");
		return -ENODATA;
	}
	cut.events = cuts[(uint64_t)((unsigned __int128)i * count / o->states)];
	return judge(&p->stage, &p->posted, &cut, errbuf, errbuf_size);
}

static void end(void *cls, unsigned worker)
{
	struct replay *p = cls;

	(void)worker;
	p->stage.disk = disk_close(p->stage.disk);
}

static int run_all(struct replay *p)
{
	const struct replay_options *o = p->options;
	struct pool_task task = { .count = o->states,
		.workers = o->workers,
		.run = run,
		.end = end,
		.cls = p };
	struct pool_result result;
	int64_t began_ms = clock_mono_ms();

	if (o->only != REPLAY_ALL) {
		task.first = o->only;
		task.count = 1;
		task.workers = 1;
	}
	pool_run(&task, &result);
	(void)printf("%" PRIu64 " states, %" PRIu64 " bad, %.1f s\n", result.done,
	    result.failed, (double)(clock_mono_ms() - began_ms) / 1000);
	if (result.failed > 0)
		(void)printf("see one again: torture replay %s --states %" PRIu64
			     " --seed %" PRIu64 " --from-log %u%s --only %" PRIu64
			     " --keep FOLDER\n",
		    o->recording, o->states, o->seed, o->from_log,
		    o->may_evict ? " --may-evict" : "", result.first_failed);
	return result.failed > 0 || result.done < task.count;
}

static int load_posted(const char *recording, struct posted *ret)
{
	char path[FILES_PATH_SIZE];

	files_path(path, "%s/posted", recording);
	return posted_load(path, ret);
}

int replay_run(const struct replay_options *options)
{
	struct replay p = { .options = options };
	char scratch[FILES_PATH_SIZE];
	int lock = -1;
	int r = load_posted(options->recording, &p.posted);

	if (r == 0)
		r = files_make_scratch(scratch, &lock);
	if (r < 0) {
		(void)fprintf(stderr, "%s: %s\n", options->recording, strerror(-r));
		return 2;
	}
	p.scratch = scratch;
	r = run_all(&p);
	files_remove(scratch);
	(void)close(lock);
	posted_done(&p.posted);
	return r;
}

/* The end of one */

int replay_ends(
    const char *recording, const char *scratch, char *errbuf, size_t errbuf_size)
{
	struct stage s = { .disk = NULL };
	struct posted posted = { 0 };
	const uint64_t *cuts;
	size_t count;
	int r = load_posted(recording, &posted);

	if (r == 0)
		r = open_stage(&s, recording, scratch, 0, errbuf, errbuf_size);
	for (int i = 0; i < DISK_FATES && r == 0; i++) {
		struct cut cut = { .fate = (enum disk_fate)i, .seed = (uint64_t)i };

		cuts = disk_cuts(s.disk, &count);
		cut.events = count > 0 ? cuts[count - 1] : 0;
		r = judge(&s, &posted, &cut, errbuf, errbuf_size);
	}
	disk_close(s.disk);
	posted_done(&posted);
	return r;
}
