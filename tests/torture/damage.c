/* SPDX-License-Identifier: MIT */
/* Owns the choice of what is altered and where, which follows from seed and number. */
#include "damage.h"

#include "bodies.h"
#include "files.h"
#include "pool.h"
#include "recovery.h"

#include "clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_MAX 64
#define NAME_SIZE 300
#define GARBAGE_BYTES 600
#define BLOCK_BYTES 4096

/* A garbage run may reach from one record into the next. */
#define RECORDS_HIT_MAX 2

struct damage {
	const struct damage_options *options;
	struct posted posted;
	struct disk_name *acked; /* all of posted */
	char base[FILES_PATH_SIZE];
	const char *scratch;
	char index_files[FILES_MAX][NAME_SIZE]; /* relative to base */
	size_t index_count;
	char payload_files[FILES_MAX][NAME_SIZE];
	size_t payload_count;
};

/* What is done to which file. */
struct blow {
	const char *file;
	bool on_index;
	uint64_t offset;
	size_t len; /* 0 = the file ends at offset */
	uint8_t bytes[GARBAGE_BYTES];
};

/* The choice */

static void list_folder(struct damage *g, const char *folder)
{
	char path[FILES_PATH_SIZE];
	struct dirent *e;
	DIR *dir;

	files_path(path, "%s%s", g->base, folder);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		char *name;

		if (e->d_type != DT_REG || strstr(e->d_name, "-shm"))
			continue;
		if (g->index_count == FILES_MAX || g->payload_count == FILES_MAX)
			abort();
		name = *folder ? g->payload_files[g->payload_count++]
			       : g->index_files[g->index_count++];
		(void)snprintf(name, NAME_SIZE, "%s/%s", folder, e->d_name);
	}
	if (dir)
		(void)closedir(dir);
}

static int compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

static void list_files(struct damage *g)
{
	list_folder(g, "");
	list_folder(g, "/segments");
	list_folder(g, "/large");
	/* In an order that is the same for everyone. */
	qsort(g->index_files, g->index_count, NAME_SIZE, compare);
	qsort(g->payload_files, g->payload_count, NAME_SIZE, compare);
}

/* Somewhere where something is: most of a segment is empty. */
static uint64_t choose_offset(int fd, uint64_t size, uint64_t *random)
{
	uint8_t block[BLOCK_BYTES];
	uint64_t at = 0;

	for (int tries = 0; tries < 200; tries++) {
		ssize_t n;

		at = random_below(random, size);
		n = pread(fd, block, sizeof(block), (off_t)(at - at % sizeof(block)));
		if (n > 1 && memcmp(block, block + 1, (size_t)n - 1) != 0)
			break;
	}
	/* Heads are what is looked at most closely. */
	if (random_below(random, 3) == 0)
		at = at - at % BLOCK_BYTES + random_below(random, 200);
	return at < size ? at : size - 1;
}

static int choose(struct damage *g, uint64_t *random, struct blow *ret)
{
	bool on_index = g->payload_count == 0 || random_next(random) & 1;
	const char *file = on_index
			       ? g->index_files[random_below(random, g->index_count)]
			       : g->payload_files[random_below(random, g->payload_count)];
	char path[FILES_PATH_SIZE];
	struct stat st;
	int fd;

	*ret = (struct blow){ .file = file, .on_index = on_index };
	files_path(path, "%s%s", g->base, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size == 0)
		return -EIO;
	ret->offset = choose_offset(fd, (uint64_t)st.st_size, random);
	switch (random_below(random, 10)) {
	case 0: /* cut short; of the payload only where one record is lost by it */
		ret->len = on_index || strstr(file, ".rec") ? 0 : 1;
		break;
	case 1:
	case 2:
	case 3:
		ret->len = 1 + random_below(random, GARBAGE_BYTES);
		break;
	default:
		ret->len = 1;
	}
	if (ret->len > (uint64_t)st.st_size - ret->offset)
		ret->len = (uint64_t)st.st_size - ret->offset;
	if (pread(fd, ret->bytes, ret->len, (off_t)ret->offset) != (ssize_t)ret->len)
		abort();
	(void)close(fd);
	if (ret->len == 1)
		ret->bytes[0] ^= (uint8_t)(1u << random_below(random, 8));
	for (size_t i = 0; ret->len > 1 && i < ret->len; i++)
		ret->bytes[i] = (uint8_t)random_next(random);
	return 0;
}

/* The staging */

/* The index is written to, the altered file is; all others are shared. */
static int stage_one(
    const struct damage *g, const char *file, const char *folder, const struct blow *b)
{
	char from[FILES_PATH_SIZE];
	char to[FILES_PATH_SIZE];
	int fd;
	int r = 0;

	files_path(from, "%s%s", g->base, file);
	files_path(to, "%s%s", folder, file);
	if (strchr(file + 1, '/') && file != b->file)
		return link(from, to) < 0 ? -errno : 0;
	r = files_copy_file(from, to);
	if (r < 0 || file != b->file)
		return r;
	fd = open(to, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (b->len == 0 ? ftruncate(fd, (off_t)b->offset) < 0
			: pwrite(fd, b->bytes, b->len, (off_t)b->offset) < 0)
		r = -errno;
	(void)close(fd);
	return r;
}

static int stage(const struct damage *g, const char *folder, const struct blow *b)
{
	static const char *const below[] = { "segments", "large" };
	char path[FILES_PATH_SIZE];
	int r = 0;

	files_clear(folder);
	for (size_t i = 0; i < sizeof(below) / sizeof(below[0]); i++) {
		files_path(path, "%s/%s", folder, below[i]);
		if (mkdir(path, 0700) < 0)
			return -errno;
	}
	for (size_t i = 0; i < g->index_count && r == 0; i++)
		r = stage_one(g, g->index_files[i], folder, b);
	for (size_t i = 0; i < g->payload_count && r == 0; i++)
		r = stage_one(g, g->payload_files[i], folder, b);
	return r;
}

/* The run */

/* SQLite's file format: user_version stands at offset 60, or in a copy of the first page
 * in the log, which has checksums. */
static bool hits_version(const struct blow *b)
{
	return strcmp(b->file, "/spool.db") == 0 && b->offset < 64 &&
	       b->offset + b->len > 60;
}

static int run(void *cls, unsigned worker, uint64_t i, char *errbuf, size_t errbuf_size)
{
	struct damage *g = cls;
	uint64_t random = g->options->seed ^ (i * UINT64_C(0x9e3779b97f4a7c15));
	struct recovery_expectation expected = { .posted = &g->posted,
		.acked = g->acked,
		.acked_count = g->posted.count,
		.damaged = true };
	struct recovery_found found;
	char folder[FILES_PATH_SIZE];
	struct blow b;
	size_t len;
	int r = choose(g, &random, &b);

	files_path(folder, "%s/%u", g->scratch, worker);
	if (r == 0)
		r = stage(g, folder, &b);
	if (r == 0 && g->options->keep)
		r = files_copy(folder, g->options->keep);
	expected.may_be_lost = b.on_index ? SIZE_MAX : RECORDS_HIT_MAX;
	expected.may_be_newer = hits_version(&b);
	if (r < 0)
		(void)snprintf(errbuf, errbuf_size, "cannot stage: %s", strerror(-r));
	else
		r = recovery_check(folder, &expected, &found, errbuf, errbuf_size);
	if (r == 0)
		return 0;
	len = strlen(errbuf);
	(void)snprintf(errbuf + len, errbuf_size - len,
	    "\n  (%s %s at %" PRIu64 ", %zu bytes)", b.file,
	    b.len == 0 ? "cut short" : "altered", b.offset, b.len);
	return r;
}

static int run_all(struct damage *g)
{
	const struct damage_options *o = g->options;
	struct pool_task task = {
		.count = o->count, .workers = o->workers, .run = run, .cls = g
	};
	struct pool_result result;
	int64_t began_ms = clock_mono_ms();

	if (o->only != DAMAGE_ALL) {
		task.first = o->only;
		task.count = 1;
		task.workers = 1;
	}
	pool_run(&task, &result);
	(void)printf("%" PRIu64 " altered spools, %" PRIu64 " bad, %.1f s\n", result.done,
	    result.failed, (double)(clock_mono_ms() - began_ms) / 1000);
	if (result.failed > 0)
		(void)printf("see one again: torture damage %s --count %" PRIu64
			     " --seed %" PRIu64 " --only %" PRIu64 " --keep FOLDER\n",
		    o->recording, o->count, o->seed, result.first_failed);
	return result.failed > 0 || result.done < task.count;
}

static int prepare(struct damage *g, const char *scratch)
{
	char path[FILES_PATH_SIZE];
	int r;

	files_path(path, "%s/posted", g->options->recording);
	r = posted_load(path, &g->posted);
	if (r < 0)
		return r;
	g->acked = calloc(g->posted.count + 1, sizeof(*g->acked));
	if (!g->acked)
		abort();
	for (size_t i = 0; i < g->posted.count; i++)
		memcpy(g->acked[i].text, g->posted.list[i].name, DISKLOG_NAME_BYTES);
	/* Beside the states, so that links can be made. */
	files_path(path, "%s/base", g->options->recording);
	files_path(g->base, "%s/base", scratch);
	r = files_copy(path, g->base);
	if (r == 0)
		list_files(g);
	return r == 0 && (g->index_count == 0 || g->posted.count == 0) ? -ENOENT : r;
}

int damage_run(const struct damage_options *options)
{
	static struct damage g;
	char scratch[FILES_PATH_SIZE];
	int lock = -1;
	int r = files_make_scratch(scratch, &lock);

	if (r < 0)
		return 2;
	g = (struct damage){ .options = options, .scratch = scratch };
	r = prepare(&g, scratch);
	if (r < 0)
		(void)fprintf(stderr, "%s: %s\n", options->recording, strerror(-r));
	r = r < 0 ? 2 : run_all(&g);
	files_remove(scratch);
	(void)close(lock);
	posted_done(&g.posted);
	free(g.acked);
	return r;
}
