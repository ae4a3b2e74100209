/* SPDX-License-Identifier: MIT */
/* Owns the generator of test bodies (SplitMix64) and the altering of files. */
#include "bytes.h"

#include "cleanup.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t bytes_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

void bytes_fill(void *out, size_t len, uint64_t seed)
{
	uint64_t state = seed;
	uint8_t *p = out;

	while (len > 0) {
		uint64_t word = bytes_random(&state);
		size_t n = len < sizeof(word) ? len : sizeof(word);

		memcpy(p, &word, n);
		p += n;
		len -= n;
	}
}

bool bytes_overwrite(const char *path, uint64_t at, const void *data, size_t len)
{
	CLEANUP(cleanup_close) int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd >= 0 && pwrite(fd, data, len, (off_t)at) == (ssize_t)len;
}

bool bytes_flip(const char *path, uint64_t at)
{
	CLEANUP(cleanup_close) int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	if (fd < 0 || pread(fd, &byte, 1, (off_t)at) != 1)
		return false;
	byte ^= 0x10;
	return pwrite(fd, &byte, 1, (off_t)at) == 1;
}

uint8_t *bytes_read_file(const char *path, size_t *ret_len)
{
	CLEANUP(cleanup_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
	CLEANUP(cleanup_free) uint8_t *data = NULL;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return NULL;
	data = malloc((size_t)st.st_size + 1);
	if (!data || read(fd, data, (size_t)st.st_size) != (ssize_t)st.st_size)
		return NULL;
	*ret_len = (size_t)st.st_size;
	return TAKE_PTR(data);
}
