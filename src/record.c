/* SPDX-License-Identifier: MIT */
/* Owns the byte layout of record headers; see record.h. Lengths read from disk are
 * checked before use: a damaged header is an expected input. */
#include "record.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <zlib.h>

static const uint8_t magic[8] = { 'M', 'D', 'R', 'E', 'L', 'A', 'Y', 1 };

enum {
	AT_HEADER_BYTES = 8,
	AT_EPOCH = 16,
	AT_OFFSET = 32,
	AT_SEQ = 40,
	AT_RXID = 48,
	AT_RECEIVED = 64,
	AT_BODY_BYTES = 72,
	AT_SHA256 = 80,
	AT_STRING_BYTES = 112,
	AT_CRC = 124,
};

#define STRING_COUNT 7
#define STRING_ABSENT UINT32_MAX

static void put_u32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static void put_u64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get_u32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
	       (uint32_t)p[3] << 24;
}

static uint64_t get_u64(const uint8_t *p)
{
	return (uint64_t)get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}

/* The strings in the order in which they are stored. */
static const char **string_slot(struct record_strings *s, int i)
{
	const char **const slots[STRING_COUNT] = { &s->universe, &s->token, &s->format,
		&s->target, &s->content_type, &s->content_encoding, &s->client };

	return slots[i];
}

static uint32_t header_crc(const uint8_t *header, size_t string_bytes)
{
	uLong crc = crc32(0, header, AT_CRC);

	return (uint32_t)crc32(crc, header + RECORD_HEADER_BYTES, (uInt)string_bytes);
}

int record_encode(const struct record *r, struct strbuf *out, uint32_t *ret_header_bytes)
{
	static const uint8_t blank[RECORD_HEADER_BYTES];
	struct record_strings strings = r->strings;
	size_t start = out->len;
	size_t string_bytes;
	uint8_t *h;
	uint32_t header_bytes;

	strbuf_add(out, blank, sizeof(blank));
	for (int i = 0; i < STRING_COUNT; i++) {
		const char *s = *string_slot(&strings, i);
		size_t n = s ? strlen(s) : 0;
		uint8_t length[4];

		if (n > RECORD_HEADER_MAX)
			return -EMSGSIZE;
		put_u32(length, s ? (uint32_t)n : STRING_ABSENT);
		strbuf_add(out, length, sizeof(length));
		if (s)
			strbuf_add(out, s, n);
	}
	if (strbuf_status(out) < 0)
		return -ENOMEM;
	string_bytes = out->len - start - RECORD_HEADER_BYTES;
	if (string_bytes > RECORD_HEADER_MAX - RECORD_HEADER_BYTES)
		return -EMSGSIZE;
	header_bytes = r->header_bytes;
	if (header_bytes == 0)
		header_bytes = (uint32_t)(RECORD_HEADER_BYTES + string_bytes);
	if (header_bytes < RECORD_HEADER_BYTES + string_bytes)
		return -EMSGSIZE;

	h = (uint8_t *)out->data + start;
	memcpy(h, magic, sizeof(magic));
	put_u32(h + AT_HEADER_BYTES, header_bytes);
	memcpy(h + AT_EPOCH, r->epoch, sizeof(r->epoch));
	put_u64(h + AT_OFFSET, r->offset);
	put_u64(h + AT_SEQ, (uint64_t)r->seq);
	memcpy(h + AT_RXID, r->rxid.bytes, sizeof(r->rxid.bytes));
	put_u64(h + AT_RECEIVED, (uint64_t)r->received_at_ms);
	put_u64(h + AT_BODY_BYTES, r->body_bytes);
	memcpy(h + AT_SHA256, r->sha256, sizeof(r->sha256));
	put_u32(h + AT_STRING_BYTES, (uint32_t)string_bytes);
	put_u32(h + AT_CRC, header_crc(h, string_bytes));
	*ret_header_bytes = header_bytes;
	return 0;
}

/* Copy the strings into the arena; offsets first, pointers once it no longer moves. */
static bool decode_strings(
    const uint8_t *p, size_t len, struct strbuf *arena, struct record_strings *ret)
{
	size_t at[STRING_COUNT];

	strbuf_reset(arena);
	for (int i = 0; i < STRING_COUNT; i++) {
		uint32_t n;

		if (len < 4)
			return false;
		n = get_u32(p);
		p += 4;
		len -= 4;
		at[i] = SIZE_MAX;
		if (n == STRING_ABSENT)
			continue;
		if (n > len || memchr(p, '\0', n))
			return false;
		at[i] = arena->len;
		strbuf_add(arena, p, n);
		strbuf_add_char(arena, '\0');
		p += n;
		len -= n;
	}
	if (strbuf_status(arena) < 0)
		return len ==
		       0; /* the caller asks the arena why there is nothing in it */
	for (int i = 0; i < STRING_COUNT; i++)
		*string_slot(ret, i) = at[i] == SIZE_MAX ? NULL : arena->data + at[i];
	return len == 0 && ret->universe && ret->token && ret->format && ret->target;
}

enum record_check record_decode(const void *data, size_t len, struct strbuf *arena,
    struct record *ret, size_t *ret_need)
{
	const uint8_t *h = data;
	struct record r = { 0 };
	size_t string_bytes;

	*ret_need = RECORD_HEADER_BYTES;
	if (len < RECORD_HEADER_BYTES)
		return RECORD_SHORT;
	if (memcmp(h, magic, sizeof(magic)) != 0)
		return RECORD_NONE;
	r.header_bytes = get_u32(h + AT_HEADER_BYTES);
	string_bytes = get_u32(h + AT_STRING_BYTES);
	if (string_bytes > RECORD_HEADER_MAX - RECORD_HEADER_BYTES ||
	    r.header_bytes > RECORD_HEADER_MAX ||
	    r.header_bytes < RECORD_HEADER_BYTES + string_bytes)
		return RECORD_DAMAGED;
	*ret_need = RECORD_HEADER_BYTES + string_bytes;
	if (len < *ret_need)
		return RECORD_SHORT;
	if (header_crc(h, string_bytes) != get_u32(h + AT_CRC))
		return RECORD_DAMAGED;
	memcpy(r.epoch, h + AT_EPOCH, sizeof(r.epoch));
	r.offset = get_u64(h + AT_OFFSET);
	r.seq = (int64_t)get_u64(h + AT_SEQ);
	memcpy(r.rxid.bytes, h + AT_RXID, sizeof(r.rxid.bytes));
	r.received_at_ms = (int64_t)get_u64(h + AT_RECEIVED);
	r.body_bytes = get_u64(h + AT_BODY_BYTES);
	memcpy(r.sha256, h + AT_SHA256, sizeof(r.sha256));
	if (r.seq <= 0 || r.body_bytes > (uint64_t)INT64_MAX / 2)
		return RECORD_DAMAGED;
	if (!decode_strings(h + RECORD_HEADER_BYTES, string_bytes, arena, &r.strings))
		return RECORD_DAMAGED;
	if (strbuf_status(arena) < 0)
		return RECORD_NO_MEMORY;
	*ret = r;
	return RECORD_OK;
}
