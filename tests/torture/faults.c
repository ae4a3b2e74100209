/* SPDX-License-Identifier: MIT */
/* Owns the list of faults and the run of each: the driver in a process of its own, with
 * the recorder below it, then the judgement of all fates at the end of what it recorded. */
#include "faults.h"

#include "disklog.h"
#include "drive.h"
#include "files.h"
#include "pool.h"
#include "replay.h"

#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* How a call fails, and for how many calls in a row. */
struct kind {
	const char *class;
	const char *what;
	unsigned calls;
	enum disklog_class counted;
};

static const struct kind kinds[] = {
	{ "write", "EIO", 1, DISKLOG_CLASS_WRITE },
	{ "write", "ENOSPC", 1, DISKLOG_CLASS_WRITE },
	{ "write", "SHORT", 1, DISKLOG_CLASS_WRITE },
	{ "write", "ENOSPC", 4, DISKLOG_CLASS_WRITE },
	{ "sync", "EIO", 1, DISKLOG_CLASS_SYNC },
	{ "sync", "ENOSPC", 1, DISKLOG_CLASS_SYNC },
	{ "sync", "EIO", 3, DISKLOG_CLASS_SYNC },
	{ "open", "EIO", 1, DISKLOG_CLASS_OPEN },
	{ "open", "ENOSPC", 1, DISKLOG_CLASS_OPEN },
	{ "rename", "EIO", 1, DISKLOG_CLASS_RENAME },
	{ "rename", "ENOSPC", 1, DISKLOG_CLASS_RENAME },
	{ "fallocate", "EIO", 1, DISKLOG_CLASS_FALLOCATE },
	{ "fallocate", "ENOSPC", 1, DISKLOG_CLASS_FALLOCATE },
	{ "unlink", "EIO", 1, DISKLOG_CLASS_UNLINK },
	{ "mkdir", "ENOSPC", 1, DISKLOG_CLASS_MKDIR },
	{ "truncate", "EIO", 1, DISKLOG_CLASS_TRUNCATE },
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct faults {
	const struct faults_options *options;
	const char *scratch;
	uint64_t counts[DISKLOG_CLASS_COUNT]; /* of an undisturbed run */
	uint64_t total;
};

/* The driver */

static void add_environment(const char *name, const char *value)
{
	if (setenv(name, value, 1) < 0)
		_exit(126);
}

/* In the child. */
static _Noreturn void become_driver(
    const struct faults *f, const char *recording, const char *fault, pid_t parent)
{
	char spool[FILES_PATH_SIZE];
	char posted[FILES_PATH_SIZE];
	char counts[FILES_PATH_SIZE];
	char posts[24];
	char seed[24];
	const char *argv[] = { "torture", "drive", spool, posted, "--posts", posts,
		"--seed", seed, "--threads", "6", "--large", "10", "--insist", NULL };
	int out;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(126);
	files_path(spool, "%s/spool", recording);
	files_path(posted, "%s/posted", recording);
	files_path(counts, "%s/counts", recording);
	(void)snprintf(posts, sizeof(posts), "%u", f->options->posts);
	(void)snprintf(seed, sizeof(seed), "%" PRIu64, f->options->seed);
	add_environment("LD_PRELOAD", f->options->recorder);
	add_environment(DISKLOG_ENV_ROOT, spool);
	add_environment(DISKLOG_ENV_LOG, recording);
	add_environment(DISKLOG_ENV_COUNTS, counts);
	add_environment(DISKLOG_ENV_FAULT, fault);
	files_path(counts, "%s/output", recording);
	out = open(counts, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (out < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0)
		_exit(126);
	/* exec changes nothing of them. */
	(void)execv("/proc/self/exe", (char **)(uintptr_t)argv);
	_exit(126);
}

/* Returns the exit status, or minus the signal. */
static int drive(const struct faults *f, const char *recording, const char *fault)
{
	pid_t parent = getpid();
	pid_t pid = fork();
	int status = 0;

	if (pid == 0)
		become_driver(f, recording, fault, parent);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		abort();
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* One fault */

/* What the driver said last. */
static void add_output(const char *recording, char *errbuf, size_t errbuf_size)
{
	char path[FILES_PATH_SIZE];
	size_t used = strlen(errbuf);
	size_t len;
	char *text;

	files_path(path, "%s/output", recording);
	text = (char *)files_read(path, &len);
	if (!text)
		return;
	(void)snprintf(errbuf + used, errbuf_size - used, "; it says:\n%s",
	    text + (len > 2000 ? len - 2000 : 0));
	free(text);
}

static int judge(const struct faults *f, const char *recording, const char *fault,
    char *errbuf, size_t errbuf_size)
{
	char states[FILES_PATH_SIZE];
	char spool[FILES_PATH_SIZE];
	int status;

	files_path(spool, "%s/spool", recording);
	files_clear(recording);
	files_clear(spool);
	status = drive(f, recording, fault);
	if (status == DRIVE_REFUSED)
		status = drive(f, recording, "");
	if (status != 0) {
		(void)snprintf(errbuf, errbuf_size,
		    status < 0 ? "the driver was ended by signal %d"
			       : "the driver exited with status %d",
		    abs(status));
		add_output(recording, errbuf, errbuf_size);
		return -EBADE;
	}
	files_path(states, "%s/states", recording);
	return replay_ends(recording, states, errbuf, errbuf_size);
}

/* The fault number i of all. */
static void describe(const struct faults *f, uint64_t i, char *out, size_t size)
{
	size_t k = 0;

	while (i >= f->counts[kinds[k].counted])
		i -= f->counts[kinds[k++].counted];
	(void)snprintf(out, size, "%s:%" PRIu64 ":%u:%s", kinds[k].class, i + 1,
	    kinds[k].calls, kinds[k].what);
}

static int run(void *cls, unsigned worker, uint64_t i, char *errbuf, size_t errbuf_size)
{
	struct faults *f = cls;
	uint64_t max = f->options->max;
	char recording[FILES_PATH_SIZE];
	char fault[64];
	size_t len;
	int r;

	if (f->total > max)
		i = (uint64_t)((unsigned __int128)i * f->total / max);
	describe(f, i, fault, sizeof(fault));
	files_path(recording, "%s/%u", f->scratch, worker);
	r = judge(f, recording, fault, errbuf, errbuf_size);
	if (f->options->keep)
		(void)files_copy(recording, f->options->keep); /* best effort */
	if (r == 0)
		return 0;
	len = strlen(errbuf);
	(void)snprintf(errbuf + len, errbuf_size - len, "\n  (fault %s)", fault);
	return r;
}

/* All */

/* How many calls there are to fail. */
static int count_calls(struct faults *f)
{
	char recording[FILES_PATH_SIZE];
	char path[FILES_PATH_SIZE];
	FILE *file;
	int r = 0;

	files_path(recording, "%s/count", f->scratch);
	files_path(path, "%s/counts", recording);
	files_clear(recording);
	if (drive(f, recording, "") != 0)
		return -EBADE;
	file = fopen(path, "re");
	if (!file)
		return -errno;
	for (size_t i = 0; i < DISKLOG_CLASS_COUNT; i++)
		if (fscanf(file, "%" SCNu64, &f->counts[i]) != 1)
			r = -EBADMSG;
	(void)fclose(file);
	for (size_t i = 0; i < KINDS; i++)
		f->total += f->counts[kinds[i].counted];
	return r;
}

static int run_all(struct faults *f)
{
	const struct faults_options *o = f->options;
	struct pool_task task = { .count = f->total < o->max ? f->total : o->max,
		.workers = o->workers,
		.run = run,
		.cls = f };
	struct pool_result result;
	int64_t began_ms = clock_mono_ms();

	if (o->only != FAULTS_ALL) {
		task.first = o->only;
		task.count = 1;
		task.workers = 1;
	}
	pool_run(&task, &result);
	(void)printf("%" PRIu64 " faults of %" PRIu64 ", %" PRIu64 " bad, %.1f s\n",
	    result.done, f->total, result.failed,
	    (double)(clock_mono_ms() - began_ms) / 1000);
	if (result.failed > 0)
		(void)printf("see one again: torture faults %s --posts %u --max %" PRIu64
			     " --seed %" PRIu64 " --only %" PRIu64 " --keep FOLDER\n",
		    o->recorder, o->posts, o->max, o->seed, result.first_failed);
	return result.failed > 0 || result.done < task.count;
}

int faults_run(const struct faults_options *options)
{
	struct faults f = { .options = options };
	char scratch[FILES_PATH_SIZE];
	int lock = -1;
	int r = files_make_scratch(scratch, &lock);

	if (r < 0)
		return 2;
	f.scratch = scratch;
	r = count_calls(&f);
	if (r < 0)
		(void)fprintf(stderr, "the undisturbed run: %s\n", strerror(-r));
	r = r < 0 ? 2 : run_all(&f);
	files_remove(scratch);
	(void)close(lock);
	return r;
}
