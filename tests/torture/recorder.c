/* SPDX-License-Identifier: MIT */
/* Owns the recorder's state: the log file, the descriptors known to belong to the spool,
 * the armed fault. Global on purpose: it sits below a program that knows nothing of it.
 *
 * An event is logged under one lock, right after the call that it tells of and before
 * that call returns; of a sync the beginning is logged too, since it vouches only for
 * what was written before it began. So whatever the program may rely on stands in the log
 * in an order that it may rely on. */
#undef _FILE_OFFSET_BITS /* both names of each call are needed */
#undef _FORTIFY_SOURCE
#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DESCRIPTORS 4096
#define PROMISE_BYTES 4096

struct known {
	dev_t dev;
	ino_t ino;
	uint32_t handle; /* 0 = not the spool's */
	bool logged;
};

struct fault {
	bool any;
	enum disklog_class class;
	unsigned long first, count;
	int error; /* 0 = short */
	bool kill;
};

/* Constant after recorder_init(). */
static bool is_on;
static char roots[2][PATH_MAX]; /* the spool folder as given, and without symlinks */
static struct fault fault;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Under the lock: */
static int log_fd = -1;
static struct known known[DESCRIPTORS];
static uint32_t last_handle;
static uint64_t last_sync;
static unsigned long counts[DISKLOG_CLASS_COUNT];
static unsigned long total;

static const char *const class_names[DISKLOG_CLASS_COUNT] = { "write", "sync", "open",
	"rename", "fallocate", "unlink", "mkdir", "truncate" };

static _Noreturn void die(const char *what)
{
	(void)dprintf(STDERR_FILENO, "recorder: %s: %s\n", what, strerror(errno));
	abort();
}

/* Start and end */

/* Take the first number that is free. */
static void open_log(const char *folder)
{
	char path[PATH_MAX];

	for (unsigned n = 0; log_fd < 0; n++) {
		(void)snprintf(path, sizeof(path), "%s/log.%u", folder, n);
		log_fd = (int)syscall(SYS_openat, AT_FDCWD, path,
		    O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
		if (log_fd < 0 && errno != EEXIST)
			die(path);
	}
}

static void parse_fault(const char *spec)
{
	char class[16];
	char what[16];

	if (sscanf(spec, "%15[a-z]:%lu:%lu:%15[A-Z]", class, &fault.first, &fault.count,
		what) != 4) {
		errno = EINVAL;
		die(spec);
	}
	fault.any = strcmp(class, "any") == 0;
	fault.kill = strcmp(what, "KILL") == 0;
	fault.error = strcmp(what, "EIO") == 0      ? EIO
		      : strcmp(what, "ENOSPC") == 0 ? ENOSPC
						    : 0;
	for (int i = 0; i < DISKLOG_CLASS_COUNT; i++)
		if (strcmp(class, class_names[i]) == 0)
			fault.class = (enum disklog_class)i;
}

/* The spool folder need not exist yet; the one that holds it must. */
static void set_roots(const char *root)
{
	char parent[PATH_MAX];
	char resolved[PATH_MAX];
	const char *slash = strrchr(root, '/');

	if (!slash || slash == root || strlen(root) >= PATH_MAX) {
		errno = EINVAL;
		die(DISKLOG_ENV_ROOT);
	}
	(void)snprintf(parent, sizeof(parent), "%.*s", (int)(slash - root), root);
	if (!realpath(parent, resolved))
		die(parent);
	(void)snprintf(roots[0], sizeof(roots[0]), "%s", root);
	if ((size_t)snprintf(roots[1], sizeof(roots[1]), "%s%s", resolved, slash) >=
	    sizeof(roots[1]))
		die(parent);
}

__attribute__((constructor)) static void recorder_init(void)
{
	const char *root = getenv(DISKLOG_ENV_ROOT);
	const char *folder = getenv(DISKLOG_ENV_LOG);
	const char *spec = getenv(DISKLOG_ENV_FAULT);

	if (!root || !*root)
		return;
	set_roots(root);
	if (spec && *spec)
		parse_fault(spec);
	if (folder && *folder)
		open_log(folder);
	is_on = true;
}

__attribute__((destructor)) static void recorder_end(void)
{
	const char *path = getenv(DISKLOG_ENV_COUNTS);
	char line[256];
	int len = 0;
	int fd;

	if (!is_on || !path)
		return;
	for (int i = 0; i < DISKLOG_CLASS_COUNT; i++)
		len +=
		    snprintf(line + len, sizeof(line) - (size_t)len, "%lu ", counts[i]);
	line[len - 1] = '\n';
	fd = (int)syscall(
	    SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || syscall(SYS_write, fd, line, len) != len)
		die(path);
	(void)close(fd);
}

bool recorder_is_on(void)
{
	return is_on;
}

void recorder_lock(void)
{
	(void)pthread_mutex_lock(&lock);
}

void recorder_unlock(void)
{
	(void)pthread_mutex_unlock(&lock);
}

/* The log */

static void append(struct iovec *iov, int count)
{
	size_t want = 0;
	ssize_t n;

	if (log_fd < 0)
		return;
	for (int i = 0; i < count; i++)
		want += iov[i].iov_len;
	n = syscall(SYS_writev, log_fd, iov, count);
	if (n < 0 || (size_t)n != want)
		die("log");
}

void recorder_note(enum disklog_kind kind, uint32_t handle, uint64_t offset, uint64_t len)
{
	struct disklog_event e = {
		.kind = kind, .handle = handle, .offset = offset, .len = len
	};
	struct iovec iov = { .iov_base = &e, .iov_len = sizeof(e) };

	append(&iov, 1);
}

static void note_text(struct disklog_event e, const char *text, size_t len)
{
	struct iovec iov[2] = { { .iov_base = &e, .iov_len = sizeof(e) },
		{ .iov_base = (void *)(uintptr_t)text, .iov_len = len } };

	e.text_bytes = (uint32_t)len;
	append(iov, 2);
}

/* The index's shared memory is made anew at each start. */
static bool leaves_a_trace(const char *path)
{
	size_t n = strlen(path);

	return n < 4 || strcmp(path + n - 4, "-shm") != 0;
}

void recorder_note_path(enum disklog_kind kind, const char *path, const char *other)
{
	char text[2 * RECORDER_PATH_SIZE];
	int len = snprintf(text, sizeof(text), "%s", path);

	if (!leaves_a_trace(path))
		return;
	if (other)
		len += 1 + snprintf(text + len + 1, sizeof(text) - (size_t)len - 1, "%s",
			       other);
	note_text((struct disklog_event){ .kind = kind }, text, (size_t)len);
}

void recorder_note_unknown(const char *call)
{
	note_text((struct disklog_event){ .kind = DISKLOG_UNKNOWN }, call, strlen(call));
}

static bool is_zero(const struct iovec *iov, int count)
{
	for (int i = 0; i < count; i++) {
		const uint8_t *p = iov[i].iov_base;
		size_t n = iov[i].iov_len;

		/* Equal to itself shifted by one: all bytes are the first one. */
		if (n > 0 && (p[0] != 0 || memcmp(p, p + 1, n - 1) != 0))
			return false;
	}
	return true;
}

#define VECTORS 64

void recorder_note_write(
    uint32_t handle, uint64_t offset, const struct iovec *iov, size_t bytes)
{
	struct disklog_event e = { .handle = handle, .offset = offset, .len = bytes };
	struct iovec out[VECTORS + 1];
	size_t left = bytes;
	int n = 0;

	while (left > 0) {
		if (n == VECTORS || bytes > UINT32_MAX) {
			recorder_note_unknown("a write in very many parts");
			return;
		}
		out[1 + n] = iov[n];
		if (out[1 + n].iov_len > left)
			out[1 + n].iov_len = left;
		left -= out[1 + n].iov_len;
		n++;
	}
	e.kind = is_zero(out + 1, n) ? DISKLOG_ZERO : DISKLOG_WRITE;
	if (e.kind == DISKLOG_WRITE)
		e.data_bytes = (uint32_t)bytes;
	out[0] = (struct iovec){ .iov_base = &e, .iov_len = sizeof(e) };
	append(out, e.kind == DISKLOG_WRITE ? 1 + n : 1);
}

uint64_t recorder_next_sync(void)
{
	return ++last_sync;
}

/* What belongs to the spool */

/* openat(folder, ".") names the folder itself. */
static size_t without_dot(const char *path)
{
	size_t n = strlen(path);

	while ((n >= 2 && path[n - 2] == '/' && path[n - 1] == '.') ||
	       (n >= 1 && path[n - 1] == '/'))
		n--;
	return n;
}

/* Below one of the roots, that root itself, or the folder that holds it. */
static bool strip_root(const char *path, char out[RECORDER_PATH_SIZE])
{
	size_t len = without_dot(path);

	for (int i = 0; i < 2; i++) {
		size_t n = strlen(roots[i]);

		if (len >= n && strncmp(path, roots[i], n) == 0 &&
		    (len == n || path[n] == '/')) {
			n += len > n;
			if (len - n >= RECORDER_PATH_SIZE)
				return false;
			memcpy(out, path + n, len - n);
			out[len - n] = '\0';
			return true;
		}
		n = (size_t)(strrchr(roots[i], '/') - roots[i]);
		if (len == n && strncmp(path, roots[i], n) == 0) {
			(void)strcpy(out, "..");
			return true;
		}
	}
	return false;
}

static bool path_of_descriptor(int fd, char out[PATH_MAX])
{
	char link[40];
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, out, PATH_MAX - 1);
	if (n < 0)
		return false;
	out[n] = '\0';
	return true;
}

bool recorder_find_path(int dir_fd, const char *path, char out[RECORDER_PATH_SIZE])
{
	char folder[PATH_MAX];
	char full[2 * PATH_MAX];
	int saved = errno;
	bool found;

	if (path[0] == '/')
		return strip_root(path, out);
	found = dir_fd == AT_FDCWD ? getcwd(folder, sizeof(folder)) != NULL
				   : path_of_descriptor(dir_fd, folder);
	errno = saved;
	if (!found)
		return false;
	(void)snprintf(full, sizeof(full), "%s/%s", folder, path);
	return strip_root(full, out);
}

void recorder_note_open(int fd, const char *path, unsigned flags)
{
	struct stat st;
	struct known *k;

	if (fd >= DESCRIPTORS || fstat(fd, &st) < 0)
		die("too many descriptors");
	k = &known[fd];
	*k = (struct known){ .dev = st.st_dev,
		.ino = st.st_ino,
		.handle = ++last_handle,
		.logged = leaves_a_trace(path) };
	if (k->logged)
		note_text(
		    (struct disklog_event){ .kind = DISKLOG_OPEN,
			.handle = k->handle,
			.offset = flags | (S_ISDIR(st.st_mode) ? DISKLOG_FOLDER : 0) },
		    path, strlen(path));
}

uint32_t recorder_find(int fd, bool *ret_logged)
{
	char folder[PATH_MAX];
	char path[RECORDER_PATH_SIZE];
	struct stat st;
	struct known *k;

	if (fd < 0 || fd >= DESCRIPTORS || fstat(fd, &st) < 0 ||
	    (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
		return 0;
	k = &known[fd];
	/* Not opened by way of us (dup, fopen), or the number is used anew. */
	if (k->handle == 0 || k->dev != st.st_dev || k->ino != st.st_ino) {
		if (!path_of_descriptor(fd, folder) || !strip_root(folder, path))
			return 0;
		recorder_note_open(fd, path, 0);
	}
	*ret_logged = k->logged;
	return k->handle;
}

/* Faults */

enum recorder_fault recorder_count(enum disklog_class class)
{
	unsigned long n = ++counts[class];

	total++;
	if (fault.count == 0)
		return RECORDER_NO_FAULT;
	if (fault.any)
		n = total;
	else if (class != fault.class)
		return RECORDER_NO_FAULT;
	if (n < fault.first || n >= fault.first + fault.count)
		return RECORDER_NO_FAULT;
	if (fault.kill)
		(void)kill(getpid(), SIGKILL);
	if (fault.error == 0)
		return RECORDER_SHORT;
	errno = fault.error;
	return RECORDER_FAIL;
}

/* Promises */

static void note_promise(
    const char *text, const char *intro, enum disklog_kind kind, size_t len)
{
	size_t n = strlen(intro);
	const char *p = memmem(text, len, intro, n);

	if (!p || len - (size_t)(p - text) < n + DISKLOG_NAME_BYTES)
		return;
	recorder_lock();
	note_text((struct disklog_event){ .kind = kind }, p + n, DISKLOG_NAME_BYTES);
	recorder_unlock();
}

void recorder_note_sent(const struct iovec *iov, size_t count)
{
	char text[PROMISE_BYTES];
	size_t len = 0;

	for (size_t i = 0; i < count && len < sizeof(text); i++) {
		size_t n = iov[i].iov_len;

		if (n > sizeof(text) - len)
			n = sizeof(text) - len;
		if (n > 0)
			memcpy(text + len, iov[i].iov_base, n);
		len += n;
	}
	note_promise(text, DISKLOG_ACK_TEXT, DISKLOG_ACK, len);
	note_promise(text, DISKLOG_OVER_TEXT, DISKLOG_OVER, len);
}

void recorder_note_received(const void *data, size_t len)
{
	note_promise(data, DISKLOG_ACK_TEXT, DISKLOG_OVER, len);
}
