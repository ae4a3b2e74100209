/* SPDX-License-Identifier: MIT */
/* Owns what a body looks like. */
#include "bodies.h"

#include <string.h>

#define HEAD_BYTES 24

/* Splitmix64: every state is good, so seeds need no care. */
static uint64_t mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint64_t random_next(uint64_t *state)
{
	*state += UINT64_C(0x9e3779b97f4a7c15);
	return mix(*state);
}

uint64_t random_below(uint64_t *state, uint64_t below)
{
	return random_next(state) % below;
}

static void fill_head(uint64_t id, uint8_t head[HEAD_BYTES], size_t len)
{
	static const uint8_t magic[8] = { 'M', 'D', 'M', 'P', 0x93, 0xa7, 0, 0 };
	uint64_t length = len;

	memcpy(head, magic, sizeof(magic));
	memcpy(head + 8, &id, sizeof(id));
	memcpy(head + 16, &length, sizeof(length));
}

static uint64_t word(uint64_t id, size_t at)
{
	return mix(id * UINT64_C(0x9e3779b97f4a7c15) + at);
}

void body_fill(uint64_t id, void *buf, size_t len)
{
	uint8_t *p = buf;

	fill_head(id, p, len);
	for (size_t at = HEAD_BYTES; at < len; at += 8) {
		uint64_t w = word(id, at);

		memcpy(p + at, &w, len - at < 8 ? len - at : 8);
	}
}

bool body_check(const void *buf, size_t len, uint64_t *ret_id)
{
	const uint8_t *p = buf;
	uint8_t head[HEAD_BYTES];
	uint64_t id;

	if (len < BODY_MIN_BYTES)
		return false;
	memcpy(&id, p + 8, sizeof(id));
	fill_head(id, head, len);
	if (memcmp(p, head, sizeof(head)) != 0)
		return false;
	for (size_t at = HEAD_BYTES; at < len; at += 8) {
		uint64_t expected = word(id, at);
		uint64_t w = expected;

		memcpy(&w, p + at, len - at < 8 ? len - at : 8);
		if (w != expected)
			return false;
	}
	*ret_id = id;
	return true;
}
