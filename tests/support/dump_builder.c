/* SPDX-License-Identifier: MIT */
/* Owns the layout of built dumps: every stream has its place, computed once in
 * plan_layout(), so that no offset is written before it is known. */
#include "dump_builder.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES 32
#define DIRECTORY_ENTRY_BYTES 12
#define STREAM_COUNT 5
#define SYSTEM_INFO_BYTES 56
#define EXCEPTION_BYTES 168
#define THREAD_LIST_BYTES (4 + 48)
#define MODULE_LIST_BYTES (4 + 108)
#define CONTEXT_AMD64_BYTES 1232
#define STACK_BYTES 256
#define STACK_BASE 0x7ffe00000000u
#define THREAD_ID 4711

enum stream_type {
	STREAM_THREADS = 3,
	STREAM_MODULES = 4,
	STREAM_EXCEPTION = 6,
	STREAM_SYSTEM_INFO = 7,
	STREAM_NOISE = 0x4B6B0002, /* the range left to applications */
};

struct layout {
	size_t system_info, exception, threads, modules, context, csd, name, codeview,
	    stack, noise, end;
};

struct builder {
	struct dump_spec spec;
	struct layout at;
	unsigned char *bytes;
};

static void put(struct builder *b, size_t offset, uint64_t value, size_t width)
{
	for (size_t i = 0; i < width; i++)
		b->bytes[offset + i] = (unsigned char)(value >> (8 * i));
}

static void put32(struct builder *b, size_t offset, uint64_t value)
{
	put(b, offset, value, 4);
}

/* A location descriptor: size, then offset in the file. */
static void put_location(struct builder *b, size_t offset, size_t size, size_t target)
{
	put32(b, offset, size);
	put32(b, offset + 4, target);
}

static size_t name_bytes(const struct dump_spec *spec)
{
	return 4 + 2 * (strlen(spec->module) + 1);
}

/* "RSDS", GUID, age, name with its NUL. */
static size_t codeview_bytes(const struct dump_spec *spec)
{
	return 4 + 16 + 4 + strlen(spec->module) + 1;
}

static size_t take(size_t *cursor, size_t bytes)
{
	size_t start = *cursor;

	*cursor = (start + bytes + 7) & ~(size_t)7;
	return start;
}

static void plan_layout(struct builder *b)
{
	struct layout *at = &b->at;
	size_t cursor = HEADER_BYTES + (size_t)STREAM_COUNT * DIRECTORY_ENTRY_BYTES;

	at->system_info = take(&cursor, SYSTEM_INFO_BYTES);
	at->exception = take(&cursor, EXCEPTION_BYTES);
	at->threads = take(&cursor, THREAD_LIST_BYTES);
	at->modules = take(&cursor, MODULE_LIST_BYTES);
	at->context = take(&cursor, CONTEXT_AMD64_BYTES);
	at->csd = take(&cursor, 4 + 2);
	at->name = take(&cursor, name_bytes(&b->spec));
	at->codeview = take(&cursor, codeview_bytes(&b->spec));
	at->stack = take(&cursor, STACK_BYTES);
	at->noise = cursor;
	at->end = cursor + b->spec.padding;
}

static void put_directory_entry(
    struct builder *b, size_t index, enum stream_type type, size_t size, size_t target)
{
	size_t offset = HEADER_BYTES + index * DIRECTORY_ENTRY_BYTES;

	put32(b, offset, (uint64_t)type);
	put_location(b, offset + 4, size, target);
}

static void put_header(struct builder *b)
{
	const struct layout *at = &b->at;

	(void)memcpy(b->bytes, "MDMP", 4);
	put32(b, 4, 0xa793);
	put32(b, 8, STREAM_COUNT);
	put32(b, 12, HEADER_BYTES);
	put32(b, 20, 1600000000u + b->spec.seed);
	put_directory_entry(b, 0, STREAM_SYSTEM_INFO, SYSTEM_INFO_BYTES, at->system_info);
	put_directory_entry(b, 1, STREAM_EXCEPTION, EXCEPTION_BYTES, at->exception);
	put_directory_entry(b, 2, STREAM_THREADS, THREAD_LIST_BYTES, at->threads);
	put_directory_entry(b, 3, STREAM_MODULES, MODULE_LIST_BYTES, at->modules);
	put_directory_entry(b, 4, STREAM_NOISE, b->spec.padding, at->noise);
}

static void put_system_info(struct builder *b)
{
	size_t at = b->at.system_info;

	put(b, at, 9, 2); /* amd64 */
	b->bytes[at + 6] = 2;
	put32(b, at + 20, 0x8201); /* Linux */
	put32(b, at + 24, b->at.csd);
}

static void put_exception(struct builder *b)
{
	size_t at = b->at.exception;

	put32(b, at, THREAD_ID);
	put32(b, at + 8, b->spec.exception_code);
	put(b, at + 24, b->spec.exception_address, 8);
	put_location(b, at + 160, CONTEXT_AMD64_BYTES, b->at.context);
}

static void put_thread(struct builder *b)
{
	size_t at = b->at.threads;

	put32(b, at, 1);
	put32(b, at + 4, THREAD_ID);
	put(b, at + 4 + 24, STACK_BASE, 8);
	put_location(b, at + 4 + 32, STACK_BYTES, b->at.stack);
	put_location(b, at + 4 + 40, CONTEXT_AMD64_BYTES, b->at.context);

	put32(b, b->at.context + 48, 0x10001f); /* all register groups of amd64 */
	put(b, b->at.context + 152, STACK_BASE, 8);
	put(b, b->at.context + 248, b->spec.pc, 8);
}

static void put_module(struct builder *b)
{
	const char *name = b->spec.module;
	size_t at = b->at.modules;
	size_t codeview = b->at.codeview;

	put32(b, at, 1);
	put(b, at + 4, b->spec.module_base, 8);
	put32(b, at + 4 + 8, b->spec.module_size);
	put32(b, at + 4 + 20, b->at.name);
	put_location(b, at + 4 + 76, codeview_bytes(&b->spec), codeview);

	/* Names here are ASCII, so that UTF-16 is each byte and a zero. */
	put32(b, b->at.name, 2 * strlen(name));
	for (size_t i = 0; name[i]; i++)
		put(b, b->at.name + 4 + 2 * i, (unsigned char)name[i], 2);

	(void)memcpy(b->bytes + codeview, "RSDS", 4);
	put32(b, codeview + 4, b->spec.debug_seed);
	put(b, codeview + 8, 0x8899aabbccddeeffu, 8);
	put32(b, codeview + 20, 1);
	(void)memcpy(b->bytes + codeview + 24, name, strlen(name));
}

/* Noise from xorshift: a function of the seed alone. */
static void put_noise(struct builder *b, size_t offset, size_t bytes)
{
	uint64_t state = 0x9e3779b97f4a7c15u ^ ((uint64_t)b->spec.seed << 17);

	for (size_t i = 0; i < bytes; i++) {
		if (i % 8 == 0) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
		}
		b->bytes[offset + i] = (unsigned char)(state >> (8 * (i % 8)));
	}
}

static void apply_defaults(struct dump_spec *spec)
{
	if (!spec->exception_code)
		spec->exception_code = 11;
	if (!spec->module_base)
		spec->module_base = 0x400000;
	if (!spec->module_size)
		spec->module_size = 0x10000;
	if (!spec->pc)
		spec->pc = spec->module_base + 0x1234;
	if (!spec->module)
		spec->module = "/usr/bin/example";
	if (!spec->debug_seed)
		spec->debug_seed = 1;
}

unsigned char *dump_build(const struct dump_spec *spec, size_t *ret_len)
{
	struct builder b = { .spec = *spec };

	apply_defaults(&b.spec);
	plan_layout(&b);
	b.bytes = calloc(1, b.at.end);
	if (!b.bytes)
		return NULL;
	put_header(&b);
	put_system_info(&b);
	put_exception(&b);
	put_thread(&b);
	put_module(&b);
	put_noise(&b, b.at.stack, STACK_BYTES);
	put_noise(&b, b.at.noise, b.spec.padding);
	*ret_len = b.at.end;
	return b.bytes;
}
