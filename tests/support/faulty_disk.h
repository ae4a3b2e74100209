/* SPDX-License-Identifier: MIT */
/* A disk that stops taking writes while a program runs, and takes them again: the kernel
 * refuses to remount a file system under open files, so the calls themselves are made to
 * fail (seccomp notifications). Works without privileges and with any build of the
 * program. */
#ifndef TESTS_FAULTY_DISK_H
#define TESTS_FAULTY_DISK_H

struct faulty_disk;

/* From now on the children of the calling thread have such a disk; it works until told
 * otherwise. The calling process itself always writes as it likes. Ends with the process.
 * NULL when the kernel does not offer this. */
struct faulty_disk *faulty_disk_new(void);

/* Let every write, and all that changes a folder, fail with this errno; 0 = work again. */
void faulty_disk_set(struct faulty_disk *d, int error);

/* How many calls have been failed so far. */
unsigned faulty_disk_count(struct faulty_disk *d);

#endif
