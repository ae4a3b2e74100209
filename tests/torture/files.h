/* SPDX-License-Identifier: MIT */
/* Folders and whole files, for the torture tests. */
#ifndef TORTURE_FILES_H
#define TORTURE_FILES_H

#include "cleanup.h"

#include <stddef.h>
#include <stdint.h>

/* Room for any path used here. */
#define FILES_PATH_SIZE 1024

/* Make a path as printf() does. Aborts when it is too long. */
void files_path(char out[FILES_PATH_SIZE], const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The whole content on the heap; NULL with errno where it can't be read. */
uint8_t *files_read(const char *path, size_t *ret_len);

/* Remove all below the folder, and the folder itself. What cannot be removed stays. */
void files_remove(const char *path);

/* Remove all below the folder, which is made if it is not there. */
void files_clear(const char *path);

/* Copy all below from into to, which is made. Holes stay holes. Returns 0 or a negative
 * errno. */
int files_copy(const char *from, const char *to);

/* Copy one file; to must not exist. */
int files_copy_file(const char *from, const char *to);

/* Make a folder for a worker's states, on memory where there is some, of a fixed name
 * with six random characters added. Removes those that a killed run left behind. The
 * caller ends it with files_remove() and close(*ret_lock). Returns 0 or a negative errno.
 */
int files_make_scratch(char out[FILES_PATH_SIZE], int *ret_lock);

#endif
