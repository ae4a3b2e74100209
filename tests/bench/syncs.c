/* SPDX-License-Identifier: MIT */
/* A preload library of the benchmarks that counts what a process asks of the disk. When
 * the process ends in order it writes one line to the file $BENCH_COUNTS,
 *
 *     syncs=N written=BYTES cpu_ms=N max_rss_kb=N
 *
 * where written is what was written at given places in files (the log of events and
 * sockets are not). The kernel's own account, /proc/PID/io, would be of less use: it counts
 * whole folios of the page cache, however little of them was written. Made without
 * -D_FILE_OFFSET_BITS, since it is about both names of each function.
 */
#include "cleanup.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/uio.h>

static atomic_ulong syncs;
static atomic_ulong written;

/* The library's own function, found once; threads that race here store the same value. */
#define NEXT(type, name)                                                                 \
	__extension__({                                                                  \
		static type next_;                                                       \
		if (!next_)                                                              \
			*(void **)&next_ = dlsym(RTLD_NEXT, name);                       \
		next_;                                                                   \
	})

typedef int sync_fn(int fd);
typedef ssize_t pwrite_fn(int fd, const void *buf, size_t len, off_t at);
typedef ssize_t pwritev_fn(int fd, const struct iovec *iov, int count, off_t at);

static int count_sync(int r)
{
	(void)atomic_fetch_add_explicit(&syncs, 1, memory_order_relaxed);
	return r;
}

static ssize_t count_written(ssize_t n)
{
	if (n > 0)
		(void)atomic_fetch_add_explicit(
		    &written, (unsigned long)n, memory_order_relaxed);
	return n;
}

int fsync(int fd)
{
	return count_sync(NEXT(sync_fn *, "fsync")(fd));
}

int fdatasync(int fd)
{
	return count_sync(NEXT(sync_fn *, "fdatasync")(fd));
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t at)
{
	return count_written(NEXT(pwrite_fn *, "pwrite")(fd, buf, len, at));
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t at)
{
	return count_written(NEXT(pwrite_fn *, "pwrite64")(fd, buf, len, at));
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t at)
{
	return count_written(NEXT(pwritev_fn *, "pwritev")(fd, iov, count, at));
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t at)
{
	return count_written(NEXT(pwritev_fn *, "pwritev64")(fd, iov, count, at));
}

static long milliseconds(const struct timeval *t)
{
	return t->tv_sec * 1000 + t->tv_usec / 1000;
}

__attribute__((destructor)) static void report(void)
{
	const char *path = getenv("BENCH_COUNTS");
	struct rusage u = { 0 };
	CLEANUP(cleanup_fclose) FILE *f = path ? fopen(path, "we") : NULL;

	if (!f || getrusage(RUSAGE_SELF, &u) < 0)
		return;
	(void)fprintf(f, "syncs=%lu written=%lu cpu_ms=%ld max_rss_kb=%ld\n",
	    atomic_load(&syncs), atomic_load(&written),
	    milliseconds(&u.ru_utime) + milliseconds(&u.ru_stime), u.ru_maxrss);
}
