/* SPDX-License-Identifier: MIT */
/* Owns the filter and the thread that decides on each call that it reports. The thread
 * is made before the filter, or it would wait for itself. */
#include "faulty_disk.h"

#include "cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

struct faulty_disk {
	sem_t installed;
	int listener; /* -1 = the filter could not be had */
	atomic_int error;
	atomic_uint count;
};

#define LOAD(field)                                                                      \
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define REPORT_IF(number)                                                                \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1),                             \
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)

/* Logs and sockets use other calls than the spool does. */
static const struct sock_filter filter[] = {
	LOAD(nr),
	REPORT_IF(__NR_pwrite64),
	REPORT_IF(__NR_pwritev),
	REPORT_IF(__NR_ftruncate),
	REPORT_IF(__NR_fallocate),
	REPORT_IF(__NR_unlinkat),
	REPORT_IF(__NR_mkdirat),
#ifdef __NR_renameat
	REPORT_IF(__NR_renameat),
#endif
	REPORT_IF(__NR_renameat2),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_openat, 0, 3),
	/* A file may be opened to be read. */
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
	    offsetof(struct seccomp_data, args) + 2 * sizeof(uint64_t)),
	BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC, 0, 1),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

static bool is_own_thread(uint32_t tid)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/task/%u", tid);
	return access(path, F_OK) == 0;
}

static void answer(struct faulty_disk *d, const struct seccomp_notif *call)
{
	struct seccomp_notif_resp reply = { .id = call->id };
	int error = atomic_load(&d->error);

	if (error != 0 && !is_own_thread(call->pid)) {
		reply.error = -error;
		atomic_fetch_add(&d->count, 1);
	} else {
		reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	}
	/* A caller that was killed meanwhile needs no answer. */
	(void)ioctl(d->listener, SECCOMP_IOCTL_NOTIF_SEND, &reply);
}

static void *decide(void *cls)
{
	struct faulty_disk *d = cls;

	while (sem_wait(&d->installed) < 0)
		continue;
	while (d->listener >= 0) {
		struct seccomp_notif call;

		memset(&call, 0, sizeof(call)); /* or the kernel refuses */
		if (ioctl(d->listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0)
			answer(d, &call);
		else if (errno != EINTR && errno != ENOENT)
			break;
	}
	return NULL;
}

static int install(void)
{
	struct sock_fprog program = { .len = ARRAY_LEN(filter),
		.filter = (struct sock_filter *)(uintptr_t)filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
	    SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

struct faulty_disk *faulty_disk_new(void)
{
	/* One for the process, and the thread may use it to the end. */
	static struct faulty_disk disk;
	struct faulty_disk *d = &disk;
	pthread_t thread;

	if (sem_init(&d->installed, 0, 0) < 0 ||
	    pthread_create(&thread, NULL, decide, d) != 0)
		return NULL;
	(void)pthread_detach(thread);
	d->listener = install();
	(void)sem_post(&d->installed);
	if (d->listener < 0)
		return NULL;
	(void)fcntl(d->listener, F_SETFD, FD_CLOEXEC);
	return d;
}

void faulty_disk_set(struct faulty_disk *d, int error)
{
	atomic_store(&d->error, error);
}

unsigned faulty_disk_count(struct faulty_disk *d)
{
	return atomic_load(&d->count);
}
