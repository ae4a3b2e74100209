/* SPDX-License-Identifier: MIT */
/* Owns the handling of folders and whole files. */
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define SCRATCH_NAME "relay-torture-"

/* States of a run take less than this. */
#define SCRATCH_BYTES (UINT64_C(1) << 30)

void files_path(char out[FILES_PATH_SIZE], const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(out, FILES_PATH_SIZE, fmt, ap);
	va_end(ap);
	if (n < 0 || n >= FILES_PATH_SIZE)
		abort();
}

uint8_t *files_read(const char *path, size_t *ret_len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *data;
	size_t len = 0;
	ssize_t n = 1;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) < 0 || !(data = malloc((size_t)st.st_size + 1))) {
		(void)close(fd);
		return NULL;
	}
	while (n > 0 && len < (size_t)st.st_size) {
		n = read(fd, data + len, (size_t)st.st_size - len);
		len += n > 0 ? (size_t)n : 0;
	}
	(void)close(fd);
	data[len] = '\0';
	*ret_len = len;
	return data;
}

static int remove_entry(
    const char *path, const struct stat *st, int type, struct FTW *position)
{
	(void)st;
	(void)type;
	(void)position;
	(void)remove(path); /* what cannot be removed stays */
	return 0;
}

static int remove_below(
    const char *path, const struct stat *st, int type, struct FTW *position)
{
	return position->level > 0 ? remove_entry(path, st, type, position) : 0;
}

void files_remove(const char *path)
{
	(void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

void files_clear(const char *path)
{
	(void)nftw(path, remove_below, 16, FTW_DEPTH | FTW_PHYS);
	(void)mkdir(path, 0700); /* there already, most often */
}

static int copy_bytes(int from, int to, off_t size)
{
	off_t at = 0;

	while (at < size) {
		off_t end;
		ssize_t n;

		at = lseek(from, at, SEEK_DATA);
		if (at < 0)
			break;
		end = lseek(from, at, SEEK_HOLE);
		while (at < end) {
			char buf[64 << 10];
			size_t want = (size_t)(end - at);

			n = pread(from, buf, want < sizeof(buf) ? want : sizeof(buf), at);
			if (n <= 0 || pwrite(to, buf, (size_t)n, at) != n)
				return n < 0 ? -errno : -EIO;
			at += n;
		}
	}
	return ftruncate(to, size) < 0 ? -errno : 0;
}

int files_copy_file(const char *from, const char *to)
{
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct stat st;
	int r = in < 0 || out < 0 || fstat(in, &st) < 0 ? -errno : 0;

	if (r == 0)
		r = copy_bytes(in, out, st.st_size);
	if (in >= 0)
		(void)close(in);
	if (out >= 0 && close(out) < 0 && r == 0)
		r = -errno;
	return r;
}

int files_copy(const char *from, const char *to)
{
	DIR *dir = opendir(from);
	struct dirent *e;
	int r = 0;

	if (!dir)
		return -errno;
	if (mkdir(to, 0700) < 0 && errno != EEXIST)
		r = -errno;
	while (r == 0 && (e = readdir(dir))) {
		char source[FILES_PATH_SIZE];
		char target[FILES_PATH_SIZE];

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		files_path(source, "%s/%s", from, e->d_name);
		files_path(target, "%s/%s", to, e->d_name);
		r = e->d_type == DT_DIR ? files_copy(source, target)
					: files_copy_file(source, target);
	}
	(void)closedir(dir);
	return r;
}

/* One that was made this moment may not be locked yet. */
#define LEFT_BEHIND_S 60

/* The lock on a folder goes with its owner, whatever ends it. */
static void remove_left_behind(const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *e;
	struct stat st;

	while (dir && (e = readdir(dir))) {
		char path[FILES_PATH_SIZE];
		int fd;

		if (strncmp(e->d_name, SCRATCH_NAME, strlen(SCRATCH_NAME)) != 0)
			continue;
		files_path(path, "%s/%s", folder, e->d_name);
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0 && fstat(fd, &st) == 0 &&
		    st.st_ctime < time(NULL) - LEFT_BEHIND_S &&
		    flock(fd, LOCK_EX | LOCK_NB) == 0)
			files_remove(path);
		if (fd >= 0)
			(void)close(fd);
	}
	if (dir)
		(void)closedir(dir);
}

int files_make_scratch(char out[FILES_PATH_SIZE], int *ret_lock)
{
	const char *folder = "/dev/shm";
	struct statvfs v;
	int fd;

	if (access(folder, W_OK) < 0 || statvfs(folder, &v) < 0 ||
	    (uint64_t)v.f_bavail * v.f_frsize < SCRATCH_BYTES)
		folder = getenv("TMPDIR");
	if (!folder || !*folder)
		folder = "/tmp";
	remove_left_behind(folder);
	files_path(out, "%s/" SCRATCH_NAME "XXXXXX", folder);
	if (!mkdtemp(out))
		return -errno;
	fd = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return -errno;
	*ret_lock = fd;
	return 0;
}
