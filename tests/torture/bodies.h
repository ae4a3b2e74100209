/* SPDX-License-Identifier: MIT */
/* Bodies that tell what they are: a number and a length in a head, then bytes that follow
 * from the number. So whoever holds one can say whether it is whole and which it is. They
 * begin as a minidump does. And a small random generator, for all that is drawn here. */
#ifndef TORTURE_BODIES_H
#define TORTURE_BODIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BODY_MIN_BYTES 32

/* Fill buf with body number id; len no less than BODY_MIN_BYTES. */
void body_fill(uint64_t id, void *buf, size_t len);

/* Whether buf is a body, whole and unchanged. */
bool body_check(const void *buf, size_t len, uint64_t *ret_id);

/* Advance the state and return the next number. */
uint64_t random_next(uint64_t *state);

/* 0 to below - 1; below > 0. */
uint64_t random_below(uint64_t *state, uint64_t below);

#endif
