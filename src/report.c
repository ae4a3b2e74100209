/* SPDX-License-Identifier: MIT */
/* Owns the shape of report names and the table of legal moves between states. */
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

int rxid_make(int64_t wall_ms, struct rxid *ret)
{
	struct rxid id;
	uint64_t ms = wall_ms < 0 ? 0 : (uint64_t)wall_ms;

	/* Up to 256 bytes come whole once the kernel's generator is seeded. */
	if (getrandom(id.bytes, sizeof(id.bytes), 0) != (ssize_t)sizeof(id.bytes))
		return -EIO;
	for (int i = 0; i < 6; i++)
		id.bytes[i] = (uint8_t)(ms >> (40 - 8 * i));
	id.bytes[6] = (uint8_t)((id.bytes[6] & 0x0f) | 0x70); /* version 7 */
	id.bytes[8] = (uint8_t)((id.bytes[8] & 0x3f) | 0x80); /* RFC 9562 variant */
	*ret = id;
	return 0;
}

void rxid_format(const struct rxid *id, char out[RXID_TEXT_SIZE])
{
	static const char digits[] = "0123456789abcdef";
	char *p = out;

	for (size_t i = 0; i < sizeof(id->bytes); i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = digits[id->bytes[i] >> 4];
		*p++ = digits[id->bytes[i] & 0x0f];
	}
	*p = '\0';
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool rxid_parse(const char *s, struct rxid *ret)
{
	struct rxid id;

	if (strnlen(s, RXID_TEXT_SIZE) != RXID_TEXT_SIZE - 1)
		return false;
	for (size_t i = 0; i < sizeof(id.bytes); i++) {
		int high;
		int low;

		if ((i == 4 || i == 6 || i == 8 || i == 10) && *s++ != '-')
			return false;
		high = hex_value(*s++);
		low = hex_value(*s++);
		if (high < 0 || low < 0)
			return false;
		id.bytes[i] = (uint8_t)(high * 16 + low);
	}
	*ret = id;
	return true;
}

static const char *const state_names[REPORT_STATE_COUNT] = {
	[REPORT_NEW] = "new",
	[REPORT_QUEUED] = "queued",
	[REPORT_SENDING] = "sending",
	[REPORT_SENT] = "sent",
	[REPORT_HELD] = "held",
	[REPORT_DEAD] = "dead",
	[REPORT_DROPPED] = "dropped",
	[REPORT_EVICTED] = "evicted",
};

const char *report_state_name(enum report_state state)
{
	if ((unsigned)state >= REPORT_STATE_COUNT)
		return "unknown";
	return state_names[state];
}

enum report_state report_state_parse(const char *name)
{
	for (unsigned i = REPORT_QUEUED; i < REPORT_STATE_COUNT; i++)
		if (strcmp(name, state_names[i]) == 0)
			return (enum report_state)i;
	return REPORT_NEW;
}

#define TO(state) (1u << (state))

/* From each state, the set of states a report may go to. A report being sent is neither
 * dropped nor evicted: it is settled first. Sent, dropped and evicted have no payload
 * left and are final. */
static const unsigned legal_moves[REPORT_STATE_COUNT] = {
	[REPORT_NEW] = TO(REPORT_QUEUED) | TO(REPORT_DEAD),
	[REPORT_QUEUED] = TO(REPORT_SENDING) | TO(REPORT_HELD) | TO(REPORT_DEAD) |
			  TO(REPORT_DROPPED) | TO(REPORT_EVICTED),
	[REPORT_SENDING] =
	    TO(REPORT_SENT) | TO(REPORT_QUEUED) | TO(REPORT_HELD) | TO(REPORT_DEAD),
	[REPORT_HELD] =
	    TO(REPORT_QUEUED) | TO(REPORT_DEAD) | TO(REPORT_DROPPED) | TO(REPORT_EVICTED),
	[REPORT_DEAD] = TO(REPORT_QUEUED) | TO(REPORT_DROPPED) | TO(REPORT_EVICTED),
	[REPORT_SENT] = 0,
	[REPORT_DROPPED] = 0,
	[REPORT_EVICTED] = 0,
};

bool report_move_is_legal(enum report_state from, enum report_state to)
{
	if ((unsigned)from >= REPORT_STATE_COUNT || (unsigned)to >= REPORT_STATE_COUNT)
		return false;
	return (legal_moves[from] & TO(to)) != 0;
}

bool report_state_has_payload(enum report_state state)
{
	return state == REPORT_QUEUED || state == REPORT_SENDING ||
	       state == REPORT_HELD || state == REPORT_DEAD;
}

void report_envelope_done(struct report_envelope *e)
{
	free(e->target);
	free(e->content_type);
	free(e->content_encoding);
	free(e->client);
	*e = (struct report_envelope){ 0 };
}

struct report *report_free(struct report *r)
{
	if (!r)
		return NULL;
	free(r->universe);
	free(r->token);
	free(r->format);
	report_envelope_done(&r->envelope);
	free(r);
	return NULL;
}
