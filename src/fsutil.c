/* SPDX-License-Identifier: MIT */
/* Owns the loops around read, write and sync. */
#include "fsutil.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

int fs_write_full(int fd, const void *buf, size_t len, uint64_t offset)
{
	const char *p = buf;

	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		p += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int fs_writev_full(int fd, struct iovec *iov, int count, uint64_t offset)
{
	while (count > 0) {
		ssize_t n;

		if (iov->iov_len == 0) {
			iov++;
			count--;
			continue;
		}
		n = pwritev(fd, iov, count > IOV_MAX ? IOV_MAX : count, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		offset += (uint64_t)n;
		while (count > 0 && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (n > 0) {
			iov->iov_base = (char *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

ssize_t fs_read_full(int fd, void *buf, size_t len, uint64_t offset)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n =
		    pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int fs_sync_folder(int dir_fd)
{
	while (fsync(dir_fd) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int fs_sync_data(int fd)
{
	while (fdatasync(fd) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* Make the entry of a new folder in the one above it durable. */
static int sync_parent(const char *path)
{
	CLEANUP(cleanup_free) char *parent = NULL;
	CLEANUP(cleanup_close) int fd = -1;

	if (asprintf(&parent, "%s/..", path) < 0) {
		parent = NULL;
		return -ENOMEM;
	}
	fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* One that may be searched and not read cannot be synced; that is not our affair. */
	if (fd < 0)
		return errno == EACCES ? 0 : -errno;
	return fs_sync_folder(fd);
}

int fs_make_folder(const char *path, mode_t mode)
{
	CLEANUP(cleanup_free) char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	if (!*copy)
		return -ENOENT;
	for (char *p = copy + 1;; p++) {
		char c = *p;

		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		if (mkdir(copy, mode) == 0) {
			int r = sync_parent(copy);

			if (r < 0)
				return r;
		} else {
			int r = errno == EEXIST ? -ENOTDIR : -errno;
			struct stat st;

			/* A folder that exists may refuse in other words (EROFS, EACCES). */
			if (stat(copy, &st) < 0 || !S_ISDIR(st.st_mode))
				return r;
		}
		*p = c;
		if (c == '\0')
			return 0;
	}
}

int fs_free_space(int fd, uint64_t *ret_free, uint64_t *ret_total)
{
	struct statvfs v;

	while (fstatvfs(fd, &v) < 0)
		if (errno != EINTR)
			return -errno;
	*ret_free = (uint64_t)v.f_bavail * v.f_frsize;
	*ret_total = (uint64_t)v.f_blocks * v.f_frsize;
	return 0;
}

int fs_allocated_bytes(int fd, uint64_t *ret)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*ret = (uint64_t)st.st_blocks * 512;
	return 0;
}
