/* SPDX-License-Identifier: MIT */
/* A temporary folder per test, and what a test asks of a folder: write a file, read one,
 * list everything below. Whatever goes wrong here fails the running test: call from the
 * test's own thread only. */
#ifndef TESTS_TEMPDIR_H
#define TESTS_TEMPDIR_H

#include <stddef.h>

/* Make an empty folder of mode 0700 below $TMPDIR (default /tmp). The caller ends it with
 * tempdir_free(). */
char *tempdir_new(void);

/* Remove the folder with all below it and free the path. Takes NULL, returns NULL. Never
 * fails the test: it runs in teardown. */
char *tempdir_free(char *path);

/* "dir/name" on the heap; the caller frees it. */
char *tempdir_join(const char *dir, const char *name);

/* Make or replace dir/name with the text. */
void tempdir_write(const char *dir, const char *name, const char *text);

/* All regular files, folders and sockets below dir, one path relative to dir per line,
 * sorted. "" for an empty or absent folder. The caller frees it. */
char *tempdir_list(const char *dir);

#endif
