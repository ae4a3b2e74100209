/* SPDX-License-Identifier: MIT */
/* What the benchmarks do with the disk themselves:
 *
 *     disk prepare SPOOL SEGMENTS   an empty spool with so many segments that were written
 *                                   before and are free, so that no run pays for growing
 *     disk count SPOOL              reports in its index
 *     disk stream FILE BYTES        write so much as fast as the disk takes it; seconds
 */
#include "cleanup.h"
#include "fsutil.h"
#include "segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define PIECE_BYTES ((size_t)1 << 20)

/* As segment_write.c's: writing begins as the data comes. */
#define WRITEBACK_BYTES ((uint64_t)8 << 20)

/* The header of a segment and the block in which its first record would begin. */
#define BLANK_BYTES ((size_t)8 << 10)

static void die(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)fputs("disk: ", stderr);
	(void)vfprintf(stderr, fmt, ap);
	(void)fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

static void need(int r, const char *what)
{
	if (r < 0)
		die("%s: %s", what, strerror(-r));
}

static void *zeros(void)
{
	void *p = calloc(1, PIECE_BYTES);

	if (!p)
		die("out of memory");
	return p;
}

static void write_file(int fd, const void *piece, uint64_t bytes)
{
	uint64_t at = 0;
	uint64_t started = 0;

	while (at < bytes) {
		uint64_t n = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;

		need(fs_write_full(fd, piece, (size_t)n, at), "cannot write");
		at += n;
		if (at - started >= WRITEBACK_BYTES) {
			/* A hint. */
			(void)sync_file_range(fd, (off_t)started, (off_t)(at - started),
			    SYNC_FILE_RANGE_WRITE);
			started = at;
		}
	}
	need(fs_sync_data(fd), "cannot sync");
}

/* Open a folder below dir_fd. */
static int open_folder(int dir_fd, const char *name)
{
	int fd;

	if (mkdirat(dir_fd, name, 0700) < 0 && errno != EEXIST)
		die("%s: %s", name, strerror(errno));
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		die("%s: %s", name, strerror(errno));
	return fd;
}

/* Remove the files of a folder, but none that is a segment up to number keep. */
static void remove_files(int dir_fd, uint32_t keep)
{
	int fd = dup(dir_fd);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;

	if (!dir)
		die("cannot read a folder: %s", strerror(errno));
	while ((e = readdir(dir))) {
		unsigned long number = strtoul(e->d_name, NULL, 10);

		if (e->d_name[0] != '.' && (number == 0 || number > keep) &&
		    unlinkat(dir_fd, e->d_name, 0) < 0 && errno != EISDIR)
			die("%s: %s", e->d_name, strerror(errno));
	}
	(void)closedir(dir); /* nothing was written through it */
}

/* A free segment: of full size, every block written once, and nothing in it. */
static void prepare_segment(int dir_fd, uint32_t number, const void *piece)
{
	CLEANUP(cleanup_close) int fd = -1;
	uint64_t allocated = 0;
	char name[16];

	(void)snprintf(name, sizeof(name), "%08" PRIu32, number);
	fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		die("%s: %s", name, strerror(errno));
	need(fs_allocated_bytes(fd, &allocated), name);
	if (allocated < SEGMENT_BYTES)
		write_file(fd, piece, SEGMENT_BYTES);
	else
		write_file(fd, piece, BLANK_BYTES);
}

static void prepare(const char *directory, uint32_t segments)
{
	CLEANUP(cleanup_free) void *piece = zeros();
	int dir_fd = open_folder(AT_FDCWD, directory);
	int segments_fd = open_folder(dir_fd, "segments");
	int large_fd = open_folder(dir_fd, "large");

	remove_files(dir_fd, 0);
	remove_files(large_fd, 0);
	remove_files(segments_fd, segments);
	for (uint32_t n = 1; n <= segments; n++)
		prepare_segment(segments_fd, n, piece);
	need(fs_sync_folder(segments_fd), "cannot sync");
	need(fs_sync_folder(dir_fd), "cannot sync");
}

static void count(const char *directory)
{
	CLEANUP(cleanup_free) char *path = NULL;
	sqlite3 *db;
	sqlite3_stmt *stmt;

	if (asprintf(&path, "%s/spool.db", directory) < 0)
		die("out of memory");
	if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(db, "SELECT count(*) FROM report", -1, &stmt, NULL) !=
		SQLITE_OK ||
	    sqlite3_step(stmt) != SQLITE_ROW)
		die("%s: %s", path, sqlite3_errmsg(db));
	(void)printf("%lld\n", (long long)sqlite3_column_int64(stmt, 0));
	(void)sqlite3_finalize(stmt); /* only read */
	(void)sqlite3_close(db);
}

static void stream(const char *path, uint64_t bytes)
{
	CLEANUP(cleanup_free) void *piece = zeros();
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct timespec from;
	struct timespec to;

	if (fd < 0)
		die("%s: %s", path, strerror(errno));
	memset(piece, 0x5a, PIECE_BYTES);
	(void)clock_gettime(CLOCK_MONOTONIC, &from); /* cannot fail */
	write_file(fd, piece, bytes);
	(void)clock_gettime(CLOCK_MONOTONIC, &to);
	(void)close(fd); /* synced */
	if (unlink(path) < 0)
		die("%s: %s", path, strerror(errno));
	(void)printf("seconds=%.4f\n", (double)(to.tv_sec - from.tv_sec) +
					   (double)(to.tv_nsec - from.tv_nsec) / 1e9);
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "prepare") == 0)
		prepare(argv[2], (uint32_t)strtoul(argv[3], NULL, 10));
	else if (argc == 3 && strcmp(argv[1], "count") == 0)
		count(argv[2]);
	else if (argc == 4 && strcmp(argv[1], "stream") == 0)
		stream(argv[2], strtoull(argv[3], NULL, 10));
	else
		die("usage: disk prepare SPOOL SEGMENTS | count SPOOL | stream FILE "
		    "BYTES");
	return 0;
}
