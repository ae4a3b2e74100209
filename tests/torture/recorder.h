/* SPDX-License-Identifier: MIT */
/* What the two files of the recorder share: recorder.c knows which descriptors belong to
 * the spool, writes the log and decides on faults; recorder_calls.c stands in for the C
 * library's calls. */
#ifndef TORTURE_RECORDER_H
#define TORTURE_RECORDER_H

#include "disklog.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Room for a path below the spool folder. */
#define RECORDER_PATH_SIZE 256

/* Whether a process is watched at all: if not, every call goes straight through. */
bool recorder_is_on(void);

/* Between these the log and what it tells of cannot change. Not for signal handlers. */
void recorder_lock(void);
void recorder_unlock(void);

/* Whether the path names something of the spool; then its relative name is in out. */
bool recorder_find_path(int dir_fd, const char *path, char out[RECORDER_PATH_SIZE]);

/* Under the lock from here on. */

/* The handle of a descriptor, 0 if what it refers to is not the spool's. *ret_logged is
 * false for what leaves no trace after a crash (the index's shared memory). */
uint32_t recorder_find(int fd, bool *ret_logged);

/* A descriptor was opened for the relative path. */
void recorder_note_open(int fd, const char *path, unsigned flags);

void recorder_note(
    enum disklog_kind kind, uint32_t handle, uint64_t offset, uint64_t len);
void recorder_note_path(enum disklog_kind kind, const char *path, const char *other);
void recorder_note_write(
    uint32_t handle, uint64_t offset, const struct iovec *iov, size_t bytes);
void recorder_note_unknown(const char *call);

/* A number for a sync. */
uint64_t recorder_next_sync(void);

enum recorder_fault {
	RECORDER_NO_FAULT,
	RECORDER_FAIL, /* errno is set */
	RECORDER_SHORT /* half of it */
};

/* Count a call of the class. */
enum recorder_fault recorder_count(enum disklog_class class);

/* Not under the lock: log the promises among bytes about to be sent, and those among bytes
 * that were received. */
void recorder_note_sent(const struct iovec *iov, size_t count);
void recorder_note_received(const void *data, size_t len);

#endif
