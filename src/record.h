/* SPDX-License-Identifier: MIT */
/* The form in which a payload lies on disk: a header that describes itself, then the
 * body. Pure encoding; no I/O.
 *
 * Header (little-endian):
 *     0  "MDRELAY" 0x01          64  received_at_ms, int64
 *     8  header bytes, u32       72  body bytes, u64
 *    12  flags, u32 (0)          80  SHA-256 of the body
 *    16  epoch, 16 bytes        112  bytes of strings, u32
 *    32  offset in the file     116  8 bytes of zero
 *    40  seq, int64             124  CRC-32 of bytes 0..123 and of the strings
 *    48  rxid                   128  strings: u32 length (0xffffffff = absent), bytes
 *
 * The epoch is random and new for each use of a segment, and the record knows its own
 * offset: so neither what an earlier use left behind nor a body that looks like a record
 * (a client may post anything) can be taken for one.
 */
#ifndef RELAY_RECORD_H
#define RELAY_RECORD_H

#include "report.h"
#include "strbuf.h"

#define RECORD_HEADER_BYTES 128u
/* Strings and fixed part together: the request head that brought them is smaller. */
#define RECORD_HEADER_MAX (64u << 10)
#define RECORD_EPOCH_BYTES 16

struct record {
	uint8_t epoch[RECORD_EPOCH_BYTES];
	uint64_t offset;
	int64_t seq;
	struct rxid rxid;
	int64_t received_at_ms;
	uint32_t header_bytes; /* distance from the record's start to the body */
	uint64_t body_bytes;
	uint8_t sha256[SHA256_BYTES];
	/* Borrowed from whoever encodes or from the buffer that was decoded; NULL =
	 * absent. */
	struct record_strings {
		const char *universe, *token, *format;
		const char *target, *content_type, *content_encoding, *client;
	} strings;
};

/* Append the header for r to out. r->header_bytes 0 means: the body follows at once.
 * Sets *ret_header_bytes. Errors: -ENOMEM, -EMSGSIZE strings too long. */
int record_encode(
    const struct record *r, struct strbuf *out, uint32_t *ret_header_bytes) MUST_CHECK;

enum record_check {
	RECORD_OK,
	RECORD_NONE,  /* no record begins here */
	RECORD_SHORT, /* more bytes are needed: *ret_need from the record's start */
	RECORD_NO_MEMORY,
	RECORD_DAMAGED /* begins as a record of ours, but its header is not whole */
};

/* Decode a header from data. The strings are copied, NUL-terminated, into arena, which
 * the caller resets and frees; ret->strings point into it. */
enum record_check record_decode(const void *data, size_t len, struct strbuf *arena,
    struct record *ret, size_t *ret_need);

#endif
