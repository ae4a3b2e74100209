/* SPDX-License-Identifier: MIT */
/* Owns the calls that the recorder stands in for. Each goes to the kernel by syscall(2),
 * so that it needs nothing looked up and works from a process's first instruction on. What
 * changes the disk in a way that the model does not know is logged as such: a replay then
 * refuses the log rather than overlook something. 64-bit systems only, as off_t goes to
 * the kernel whole. */
#undef _FILE_OFFSET_BITS /* both names of each call are needed */
#undef _FORTIFY_SOURCE
#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(off_t) == 8 && sizeof(long) == 8, "64-bit systems only");

/* The same function under a second name of the C library. */
#define ALSO(name) __attribute__((alias(name)))

/* Opening */

static int open_file(int dir_fd, const char *path, int flags, mode_t mode)
{
	char name[RECORDER_PATH_SIZE];
	struct stat st;
	bool fresh;
	int fd = -1;

	if (!recorder_is_on() || !recorder_find_path(dir_fd, path, name))
		return (int)syscall(SYS_openat, dir_fd, path, flags, mode);
	recorder_lock();
	fresh = (flags & O_CREAT) && fstatat(dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0;
	if (recorder_count(DISKLOG_CLASS_OPEN) == RECORDER_NO_FAULT) {
		fd = (int)syscall(SYS_openat, dir_fd, path, flags, mode);
		if (fd >= 0)
			recorder_note_open(fd, name,
			    (fresh ? DISKLOG_CREATED : 0) |
				((flags & O_TRUNC) && !fresh ? DISKLOG_TRUNCATED : 0));
		if (fd >= 0 && (flags & O_TMPFILE) == O_TMPFILE)
			recorder_note_unknown("O_TMPFILE");
	}
	recorder_unlock();
	return fd;
}

/* The mode is there only if the flags ask for it. */
#define MODE(flags, last)                                                                \
	__extension__({                                                                  \
		mode_t mode_ = 0;                                                        \
		va_list ap_;                                                             \
		va_start(ap_, last);                                                     \
		if (((flags)&O_CREAT) || ((flags)&O_TMPFILE) == O_TMPFILE)               \
			mode_ = va_arg(ap_, mode_t);                                     \
		va_end(ap_);                                                             \
		mode_;                                                                   \
	})

int open(const char *path, int flags, ...)
{
	return open_file(AT_FDCWD, path, flags, MODE(flags, flags));
}
int open64(const char *path, int flags, ...) ALSO("open");

int openat(int dir_fd, const char *path, int flags, ...)
{
	return open_file(dir_fd, path, flags, MODE(flags, flags));
}
int openat64(int dir_fd, const char *path, int flags, ...) ALSO("openat");

int creat(const char *path, mode_t mode)
{
	return open_file(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) ALSO("creat");

/* What fortified programs call instead. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir_fd, const char *path, int flags);
int __openat64_2(int dir_fd, const char *path, int flags);

int __open_2(const char *path, int flags)
{
	return open_file(AT_FDCWD, path, flags, 0);
}
int __open64_2(const char *path, int flags) ALSO("__open_2");

int __openat_2(int dir_fd, const char *path, int flags)
{
	return open_file(dir_fd, path, flags, 0);
}
int __openat64_2(int dir_fd, const char *path, int flags) ALSO("__openat_2");

/* Writing */

#define NO_OFFSET ((off_t)-1)

static ssize_t write_to_kernel(int fd, const struct iovec *iov, int count, off_t offset)
{
	if (offset == NO_OFFSET)
		return syscall(SYS_writev, fd, iov, count);
	return syscall(SYS_pwritev, fd, iov, count, offset, 0L);
}

static size_t sum(const struct iovec *iov, int count)
{
	size_t n = 0;

	for (int i = 0; i < count; i++)
		n += iov[i].iov_len;
	return n;
}

/* The first vectors as far as limit; returns how many of them. */
static int cut(struct iovec *out, const struct iovec *iov, int count, size_t limit)
{
	int n = 0;

	while (n < count && n < IOV_MAX && limit > 0) {
		out[n] = iov[n];
		if (out[n].iov_len > limit)
			out[n].iov_len = limit;
		limit -= out[n].iov_len;
		n++;
	}
	return n;
}

static off_t write_position(int fd, off_t offset)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	if (offset != NO_OFFSET)
		return offset;
	if ((flags & O_APPEND) && fstat(fd, &st) == 0)
		return st.st_size;
	return lseek(fd, 0, SEEK_CUR);
}

static ssize_t write_file(int fd, const struct iovec *iov, int count, off_t offset)
{
	struct iovec part[IOV_MAX];
	bool logged = false;
	uint32_t handle;
	off_t at;
	ssize_t n = -1;

	recorder_lock();
	handle = recorder_find(fd, &logged);
	if (handle == 0) {
		recorder_unlock();
		return write_to_kernel(fd, iov, count, offset);
	}
	at = write_position(fd, offset);
	switch (recorder_count(DISKLOG_CLASS_WRITE)) {
	case RECORDER_NO_FAULT:
		n = write_to_kernel(fd, iov, count, offset);
		break;
	case RECORDER_SHORT:
		count = cut(part, iov, count, (sum(iov, count) + 1) / 2);
		n = write_to_kernel(fd, part, count, offset);
		break;
	case RECORDER_FAIL:
		break;
	}
	if (n > 0 && logged)
		recorder_note_write(handle, (uint64_t)at, iov, (size_t)n);
	recorder_unlock();
	return n;
}

/* Files go under the lock; a socket is looked at for promises; anything else, such as a
 * pipe that a signal handler writes to, is left alone. */
static ssize_t write_any(int fd, const struct iovec *iov, int count, off_t offset)
{
	struct stat st;

	if (!recorder_is_on() || fstat(fd, &st) < 0)
		return write_to_kernel(fd, iov, count, offset);
	if (S_ISREG(st.st_mode))
		return write_file(fd, iov, count, offset);
	if (S_ISSOCK(st.st_mode))
		recorder_note_sent(iov, (size_t)count);
	return write_to_kernel(fd, iov, count, offset);
}

static struct iovec one(const void *data, size_t len)
{
	return (struct iovec){ .iov_base = (void *)(uintptr_t)data, .iov_len = len };
}

ssize_t write(int fd, const void *data, size_t len)
{
	struct iovec iov = one(data, len);

	return write_any(fd, &iov, 1, NO_OFFSET);
}

ssize_t writev(int fd, const struct iovec *iov, int count)
{
	return write_any(fd, iov, count, NO_OFFSET);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
	struct iovec iov = one(data, len);

	return write_any(fd, &iov, 1, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t len, off_t offset) ALSO("pwrite");

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
	return write_any(fd, iov, count, offset);
}
ssize_t pwritev64(int fd, const struct iovec *iov, int count, off_t offset)
    ALSO("pwritev");

/* Sockets */

ssize_t send(int fd, const void *data, size_t len, int flags)
{
	struct iovec iov = one(data, len);

	if (recorder_is_on())
		recorder_note_sent(&iov, 1);
	return syscall(SYS_sendto, fd, data, len, flags, NULL, 0);
}

ssize_t sendto(int fd, const void *data, size_t len, int flags,
    const struct sockaddr *address, socklen_t address_len)
{
	struct iovec iov = one(data, len);

	if (recorder_is_on())
		recorder_note_sent(&iov, 1);
	return syscall(SYS_sendto, fd, data, len, flags, address, address_len);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	if (recorder_is_on())
		recorder_note_sent(message->msg_iov, message->msg_iovlen);
	return syscall(SYS_sendmsg, fd, message, flags);
}

/* The library that uploads calls only this. */
ssize_t recv(int fd, void *data, size_t len, int flags)
{
	ssize_t n = syscall(SYS_recvfrom, fd, data, len, flags, NULL, NULL);
	int error = errno;

	if (n > 0 && recorder_is_on())
		recorder_note_received(data, (size_t)n);
	errno = error;
	return n;
}

/* Sizes and space */

int ftruncate(int fd, off_t size)
{
	bool logged = false;
	uint32_t handle;
	int r = -1;

	if (!recorder_is_on())
		return (int)syscall(SYS_ftruncate, fd, size);
	recorder_lock();
	handle = recorder_find(fd, &logged);
	if (handle == 0 || recorder_count(DISKLOG_CLASS_TRUNCATE) == RECORDER_NO_FAULT)
		r = (int)syscall(SYS_ftruncate, fd, size);
	if (handle != 0 && logged && r == 0)
		recorder_note(DISKLOG_TRUNCATE, handle, 0, (uint64_t)size);
	recorder_unlock();
	return r;
}
int ftruncate64(int fd, off_t size) ALSO("ftruncate");

static void note_allocation(int fd, uint32_t handle, int mode, off_t offset, off_t len)
{
	struct stat st;

	if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
		recorder_note(DISKLOG_PUNCH, handle, (uint64_t)offset, (uint64_t)len);
	else if (mode == 0 && fstat(fd, &st) == 0)
		recorder_note(DISKLOG_TRUNCATE, handle, 0, (uint64_t)st.st_size);
	else if (mode != FALLOC_FL_KEEP_SIZE)
		recorder_note_unknown("fallocate in this mode");
}

int fallocate(int fd, int mode, off_t offset, off_t len)
{
	bool logged = false;
	uint32_t handle;
	int r = -1;

	if (!recorder_is_on())
		return (int)syscall(SYS_fallocate, fd, mode, offset, len);
	recorder_lock();
	handle = recorder_find(fd, &logged);
	if (handle == 0 || recorder_count(DISKLOG_CLASS_FALLOCATE) == RECORDER_NO_FAULT)
		r = (int)syscall(SYS_fallocate, fd, mode, offset, len);
	if (handle != 0 && logged && r == 0)
		note_allocation(fd, handle, mode, offset, len);
	recorder_unlock();
	return r;
}
int fallocate64(int fd, int mode, off_t offset, off_t len) ALSO("fallocate");

int posix_fallocate(int fd, off_t offset, off_t len)
{
	int saved = errno;
	int r = fallocate(fd, 0, offset, len) < 0 ? errno : 0;

	errno = saved;
	return r;
}
int posix_fallocate64(int fd, off_t offset, off_t len) ALSO("posix_fallocate");

/* Syncing */

/* How long a sync takes that is going to fail: on disks that fail it is long, and others
 * write meanwhile what it will not vouch for. */
#define FAILING_SYNC_NS 2000000

static int fail_sync(uint32_t handle, bool logged)
{
	const struct timespec delay = { .tv_nsec = FAILING_SYNC_NS };
	uint64_t number;
	int error = errno;

	recorder_unlock();
	(void)nanosleep(&delay, NULL); /* a signal may shorten it */
	recorder_lock();
	number = recorder_next_sync();
	if (logged) {
		recorder_note(DISKLOG_SYNC, handle, number, 0);
		recorder_note(DISKLOG_UNSYNCED, handle, number, 0);
	}
	recorder_unlock();
	errno = error;
	return -1;
}

static int sync_file(int fd, long call)
{
	bool logged = false;
	uint32_t handle;
	uint64_t number;
	int error;
	int r;

	if (!recorder_is_on())
		return (int)syscall(call, fd);
	recorder_lock();
	handle = recorder_find(fd, &logged);
	if (handle != 0 && recorder_count(DISKLOG_CLASS_SYNC) != RECORDER_NO_FAULT)
		return fail_sync(handle, logged);
	number = recorder_next_sync();
	if (handle != 0 && logged)
		recorder_note(DISKLOG_SYNC, handle, number, 0);
	recorder_unlock(); /* others go on writing meanwhile */
	r = (int)syscall(call, fd);
	error = errno;
	recorder_lock();
	if (handle != 0 && logged)
		recorder_note(
		    r == 0 ? DISKLOG_SYNCED : DISKLOG_UNSYNCED, handle, number, 0);
	recorder_unlock();
	errno = error;
	return r;
}

int fsync(int fd)
{
	return sync_file(fd, SYS_fsync);
}

int fdatasync(int fd)
{
	return sync_file(fd, SYS_fdatasync);
}

/* Names */

int mkdirat(int dir_fd, const char *path, mode_t mode)
{
	char name[RECORDER_PATH_SIZE];
	int r = -1;

	if (!recorder_is_on() || !recorder_find_path(dir_fd, path, name))
		return (int)syscall(SYS_mkdirat, dir_fd, path, mode);
	recorder_lock();
	if (recorder_count(DISKLOG_CLASS_MKDIR) == RECORDER_NO_FAULT)
		r = (int)syscall(SYS_mkdirat, dir_fd, path, mode);
	if (r == 0)
		recorder_note_path(DISKLOG_MKDIR, name, NULL);
	recorder_unlock();
	return r;
}

int mkdir(const char *path, mode_t mode)
{
	return mkdirat(AT_FDCWD, path, mode);
}

int unlinkat(int dir_fd, const char *path, int flags)
{
	char name[RECORDER_PATH_SIZE];
	int r = -1;

	if (!recorder_is_on() || !recorder_find_path(dir_fd, path, name))
		return (int)syscall(SYS_unlinkat, dir_fd, path, flags);
	recorder_lock();
	if (recorder_count(DISKLOG_CLASS_UNLINK) == RECORDER_NO_FAULT)
		r = (int)syscall(SYS_unlinkat, dir_fd, path, flags);
	if (r == 0 && (flags & AT_REMOVEDIR))
		recorder_note_unknown("removal of a folder");
	else if (r == 0)
		recorder_note_path(DISKLOG_UNLINK, name, NULL);
	recorder_unlock();
	return r;
}

int unlink(const char *path)
{
	return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
	return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int remove(const char *path)
{
	int r = unlinkat(AT_FDCWD, path, 0);

	return r < 0 && errno == EISDIR ? rmdir(path) : r;
}

static int rename_file(
    int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
	char from_name[RECORDER_PATH_SIZE];
	char to_name[RECORDER_PATH_SIZE];
	bool ours;
	int r = -1;

	if (!recorder_is_on())
		return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
	ours = recorder_find_path(from_fd, from, from_name);
	if (recorder_find_path(to_fd, to, to_name) != ours) {
		recorder_lock();
		recorder_note_unknown("rename into or out of the spool");
		recorder_unlock();
	}
	if (!ours)
		return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
	recorder_lock();
	if (recorder_count(DISKLOG_CLASS_RENAME) == RECORDER_NO_FAULT)
		r = (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
	if (r == 0 && (flags & ~(unsigned)RENAME_NOREPLACE))
		recorder_note_unknown("rename with flags");
	else if (r == 0)
		recorder_note_path(DISKLOG_RENAME, from_name, to_name);
	recorder_unlock();
	return r;
}

int rename(const char *from, const char *to)
{
	return rename_file(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
	return rename_file(from_fd, from, to_fd, to, 0);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
	return rename_file(from_fd, from, to_fd, to, flags);
}

/* What the model does not know */

static void refuse_path(int dir_fd, const char *path, const char *call)
{
	char name[RECORDER_PATH_SIZE];

	if (!recorder_is_on() || !recorder_find_path(dir_fd, path, name))
		return;
	recorder_lock();
	recorder_note_unknown(call);
	recorder_unlock();
}

static void refuse_descriptor(int fd, const char *call)
{
	bool logged = false;

	if (!recorder_is_on())
		return;
	recorder_lock();
	if (recorder_find(fd, &logged) != 0 && logged)
		recorder_note_unknown(call);
	recorder_unlock();
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
	refuse_path(to_fd, to, "linkat");
	return (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
}

int link(const char *from, const char *to)
{
	return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int symlinkat(const char *target, int dir_fd, const char *path)
{
	refuse_path(dir_fd, path, "symlinkat");
	return (int)syscall(SYS_symlinkat, target, dir_fd, path);
}

int symlink(const char *target, const char *path)
{
	return symlinkat(target, AT_FDCWD, path);
}

int truncate(const char *path, off_t size)
{
	refuse_path(AT_FDCWD, path, "truncate");
	return (int)syscall(SYS_truncate, path, size);
}
int truncate64(const char *path, off_t size) ALSO("truncate");

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	refuse_descriptor(fd, "pwritev2");
	return syscall(SYS_pwritev2, fd, iov, count, offset, 0L, flags);
}
ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
    ALSO("pwritev2");

ssize_t copy_file_range(
    int from_fd, off_t *from, int to_fd, off_t *to, size_t len, unsigned flags)
{
	refuse_descriptor(to_fd, "copy_file_range");
	return syscall(SYS_copy_file_range, from_fd, from, to_fd, to, len, flags);
}

void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
	if (fd >= 0 && (prot & PROT_WRITE) && (flags & MAP_SHARED))
		refuse_descriptor(fd, "mmap");
	return (void *)syscall(SYS_mmap, at, len, prot, flags, fd, offset);
}
void *mmap64(void *at, size_t len, int prot, int flags, int fd, off_t offset)
    ALSO("mmap");
