/* SPDX-License-Identifier: MIT */
/* Bodies that tell which they are, and hands that alter files: what the tests of records,
 * segments and the spool share. Knows no test framework, so that a forked child and a
 * program of its own may use it. */
#ifndef TESTS_BYTES_H
#define TESTS_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The next of a row of numbers that looks random and is the same for the same start. */
uint64_t bytes_random(uint64_t *state);

/* Fill with bytes that only this seed gives; the first n of a longer body are those of a
 * shorter one. */
void bytes_fill(void *out, size_t len, uint64_t seed);

/* Flip one bit of the file at path. false = it has no such byte. */
bool bytes_flip(const char *path, uint64_t at);

/* Write over a part of the file at path. */
bool bytes_overwrite(const char *path, uint64_t at, const void *data, size_t len);

/* The whole file on the heap, NULL if it cannot be read; the caller frees it. */
uint8_t *bytes_read_file(const char *path, size_t *ret_len);

#endif
