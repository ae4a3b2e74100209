/* SPDX-License-Identifier: MIT */
/* A report: one submission once it is in the spool, its name (rxid), its states and which
 * moves between them are legal. Plain values; nothing here does I/O. */
#ifndef RELAY_REPORT_H
#define RELAY_REPORT_H

#include "cleanup.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES 32

/* The name of a report */

/* A UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, then random bits. */
struct rxid {
	uint8_t bytes[16];
};

/* "0193a4b2-…" in lower case, 8-4-4-4-12, with NUL: Backtrace's SDKs look for exactly
 * this shape (their Electron module matches a UUID by a regular expression). */
#define RXID_TEXT_SIZE 37

/* Make a new name. wall_ms is the time it carries; uniqueness does not depend on it.
 * Errors: -EIO when the kernel gives no random bytes. Threads: any. */
int rxid_make(int64_t wall_ms, struct rxid *ret) MUST_CHECK;

void rxid_format(const struct rxid *id, char out[RXID_TEXT_SIZE]);

/* Read the text form, upper or lower case. Returns false if s is not one. */
bool rxid_parse(const char *s, struct rxid *ret);

/* States */

/* Stored as numbers in the index: never renumber. */
enum report_state {
	REPORT_NEW = 0,    /* not in the spool yet; never stored */
	REPORT_QUEUED = 1, /* waits to be sent */
	REPORT_SENDING =
	    2,           /* claimed by the forwarder; becomes queued at the next start */
	REPORT_SENT = 3, /* upstream has it; payload released, row stays for keep_sent */
	REPORT_HELD = 4, /* its token or upstream is refused or paused; tried rarely */
	REPORT_DEAD =
	    5, /* never acceptable, expired or damaged; payload kept if readable */
	REPORT_DROPPED = 6, /* removed by hand; payload released */
	REPORT_EVICTED = 7, /* removed for room; payload released */
};
#define REPORT_STATE_COUNT 8

/* "queued", "sending", ...; never NULL. */
const char *report_state_name(enum report_state state);

/* The state named so, or REPORT_NEW if there is none. */
enum report_state report_state_parse(const char *name);

/* Whether a report may go from one state to the other: the one table of legal moves. */
bool report_move_is_legal(enum report_state from, enum report_state to);

/* Whether a report in this state still has its payload. */
bool report_state_has_payload(enum report_state state);

/* The report */

/* In place of a segment number: a row that was altered points nowhere. */
#define PAYLOAD_NOWHERE UINT32_MAX

/* Where the payload lies; made by segment.c, stored in the row, opaque to others. The
 * hash of the body stands in the record itself. */
struct payload_ref {
	uint32_t segment;      /* segment number; 0 = a file of its own, named by seq */
	uint32_t header_bytes; /* record header before the body */
	uint64_t offset;       /* of the record within its file */
	uint64_t body_bytes;
};

/* What the client sent beside the body; what upstream gets again. Owned strings. */
struct report_envelope {
	char *target;           /* raw request target, as received */
	char *content_type;     /* NULL = the client sent none */
	char *content_encoding; /* NULL = none */
	char *client;           /* address of the client, as text */
};

struct report {
	int64_t seq; /* order of acceptance, > 0; the row's key */
	struct rxid rxid;
	enum report_state state;
	int64_t lane;           /* destination: universe + token (spool.h) */
	int64_t received_at_ms; /* wall clock */
	char *universe;         /* "" = the client named none */
	char *token;            /* secret: never log */
	char *format; /* effective: "minidump" for a dump whatever was declared */
	struct report_envelope envelope;
	struct payload_ref payload;
	unsigned attempts; /* uploads begun so far */
	bool ambiguous;    /* may have reached upstream although we saw no answer */
};

/* Free a report and all it owns; takes NULL, returns NULL. */
struct report *report_free(struct report *r);

void report_envelope_done(struct report_envelope *e);

#endif
