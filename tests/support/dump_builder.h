/* SPDX-License-Identifier: MIT */
/* Builds small, valid minidumps in memory: header, directory, system info, exception, one
 * thread with an amd64 context and a stack, one module with a name and a CodeView record,
 * and, if asked for, a stream of noise that makes the dump as large as wanted. Layout:
 * wire protocol notes, section 8. Little-endian whatever the host is. */
#ifndef TESTS_DUMP_BUILDER_H
#define TESTS_DUMP_BUILDER_H

#include <stddef.h>
#include <stdint.h>

/* What may differ between two dumps. A field left 0 or NULL takes its default. */
struct dump_spec {
	/* Fills stack and noise, and is the time stamp: two dumps with different seeds
	 * and else equal specs differ in bytes, but are the same crash. */
	uint32_t seed;
	uint32_t exception_code;    /* 11: SIGSEGV */
	uint64_t exception_address; /* 0: as it is on Linux for a call of NULL */
	uint64_t module_base;       /* 0x400000 */
	uint32_t module_size;       /* 0x10000 */
	uint64_t pc;                /* module_base + 0x1234 */
	const char *module;         /* "/usr/bin/example" */
	uint32_t debug_seed;        /* distinguishes debug ids; 1 */
	size_t padding;             /* bytes of noise; it does not compress */
};

/* Build one. The caller frees the bytes; NULL when out of memory. Threads: any. */
unsigned char *dump_build(const struct dump_spec *spec, size_t *ret_len);

#endif
