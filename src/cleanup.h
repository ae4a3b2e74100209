/* SPDX-License-Identifier: MIT */
/* The one idiom for scope-bound release: a variable declared with CLEANUP(f)
 * is released by f(&variable) when it leaves its scope; ownership is handed on
 * with TAKE_PTR or TAKE_FD. Initialise every such variable where it is declared.
 */
#ifndef RELAY_CLEANUP_H
#define RELAY_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(f) __attribute__((cleanup(f)))
#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Yield the pointer and leave NULL behind, so that its cleanup does nothing. */
#define TAKE_PTR(p)                                                                      \
	__extension__({                                                                  \
		__auto_type taken_ = (p);                                                \
		(p) = NULL;                                                              \
		taken_;                                                                  \
	})

/* The same for a file descriptor; leaves -1 behind. */
#define TAKE_FD(fd)                                                                      \
	__extension__({                                                                  \
		int taken_ = (fd);                                                       \
		(fd) = -1;                                                               \
		taken_;                                                                  \
	})

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

/* Close without reporting: only for descriptors whose content does not matter
 * (reads, folders, failures already being reported). */
static inline void cleanup_close(const int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
}

static inline void cleanup_fclose(FILE **f)
{
	if (*f)
		(void)fclose(*f);
}

#endif
