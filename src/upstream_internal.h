/* SPDX-License-Identifier: MIT */
/* What the files of upstream share: upstream.c (the destination), upstream_upload.c (one
 * upload and its curl handle), upstream_outcome.c (what its end means), upstream_io.c (all
 * uploads of a thread). Nobody else includes this. */
#ifndef RELAY_UPSTREAM_INTERNAL_H
#define RELAY_UPSTREAM_INTERNAL_H

#include "strbuf.h"
#include "upstream.h"

#include <curl/curl.h>

/* Of an answer no more is read, header and body each. */
#define UPSTREAM_REPLY_MAX_BYTES ((size_t)64 * 1024)

struct upstream {
	unsigned refs; /* the owner's and the uploads' */
	bool retired;  /* the owner let go: its handles are not kept for others */
	char *base;    /* scheme://host[:port] */
	char *host;    /* the same without scheme */
	char *prefix;  /* of every target; "", or begins with a slash and ends without */
	enum endpoint_style style;
	char *universe;
	char *token;
	char *proxy;
	char *ca_file;
	char *user_agent;
	bool absolute_target; /* the proxy wants the whole URL in the request line */
	long connect_timeout_ms;
	int64_t stall_timeout_ms;
};

/* One upload, and the handle it uses; kept idle for the next one to the same upstream. */
struct upload {
	struct upload *next;
	struct upstream *upstream;
	CURL *easy;
	struct curl_slist *headers;
	struct spool_reader *reader;
	struct report *report;
	struct strbuf reply;
	uint64_t body_read;    /* bytes handed to curl in this try */
	uint64_t earlier_sent; /* bytes sent in tries before this one */
	bool earlier_whole;    /* an earlier try had sent the whole body */
	int read_error;        /* of reader, 0 = none */
	size_t header_bytes;
	unsigned status; /* final one, 0 = none yet */
	int64_t retry_after_ms;
	uint64_t progress_bytes; /* body bytes sent, of all tries, at the last look */
	int64_t moved_at_ms;     /* when that last grew */
	int64_t looked_at_ms;    /* when it was looked at */
	char error[CURL_ERROR_SIZE];
	struct upstream_result result; /* once ended */
};

/* Upstream.c */

/* Take and give back a reference of an upload. */
struct upstream *upstream_ref(struct upstream *u);
struct upstream *upstream_unref(struct upstream *u);

/* Upstream_upload.c */

/* An upload with a handle made ready for u, of which it keeps a reference; NULL without
 * memory. */
struct upload *upload_new(struct upstream *u) MUST_CHECK;

/* Takes NULL, returns NULL. The handle is in no multi handle any more. */
struct upload *upload_free(struct upload *up);

/* Load it with a report. Takes reader over in any case. Errors: as upstream_begin(); the
 * upload can then only be cleared or freed. */
int upload_prepare(
    struct upload *up, struct report *r, struct spool_reader *reader) MUST_CHECK;

/* Forget the report, keep the handle. */
void upload_clear(struct upload *up);

/* Bytes of the body sent since the last rewind. */
uint64_t upload_sent_bytes(const struct upload *up);

/* Whether something of the request was sent. */
bool upload_began(const struct upload *up);

/* Upstream_outcome.c */

/* What the end of an upload means. code: what curl says. */
void upstream_judge(
    const struct upload *up, CURLcode code, bool cancelled, struct upstream_result *ret);

#endif
