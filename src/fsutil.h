/* SPDX-License-Identifier: MIT */
/* File helpers that do not stop half way: full reads and writes, synced folders, free
 * space. All return 0 or a count, or a negative errno, and restart after EINTR. */
#ifndef RELAY_FSUTIL_H
#define RELAY_FSUTIL_H

#include "cleanup.h"

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Write all of buf at offset; -EIO if the file takes nothing more without saying why. */
int fs_write_full(int fd, const void *buf, size_t len, uint64_t offset) MUST_CHECK;

/* Write all vectors at offset; iov is used up. */
int fs_writev_full(int fd, struct iovec *iov, int count, uint64_t offset) MUST_CHECK;

/* Read up to len bytes at offset; fewer only at the end of the file. */
ssize_t fs_read_full(int fd, void *buf, size_t len, uint64_t offset) MUST_CHECK;

/* Make a new, renamed or removed entry of the folder durable. */
int fs_sync_folder(int dir_fd) MUST_CHECK;

int fs_sync_data(int fd) MUST_CHECK;

/* Make the folder, and those above it, if absent, with the mode less the umask; new ones
 * are durable. */
int fs_make_folder(const char *path, mode_t mode) MUST_CHECK;

/* Bytes an unprivileged writer may still use, and the size of the file system. */
int fs_free_space(int fd, uint64_t *ret_free, uint64_t *ret_total) MUST_CHECK;

/* What the file takes on disk, holes not counted. */
int fs_allocated_bytes(int fd, uint64_t *ret) MUST_CHECK;

#endif
