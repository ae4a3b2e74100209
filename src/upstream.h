/* SPDX-License-Identifier: MIT */
/* One delivery of a report to an upstream → one outcome. Everything libcurl stands behind
 * this header: what its handles are set to, what its errors mean.
 *
 * A struct upstream is a destination, constant once made. A struct upstream_io carries
 * the uploads of one thread, to any number of upstreams, and is used by that thread
 * alone. A caller begins uploads, waits, and collects what has ended.
 *
 * main has called curl_global_init() before any thread exists.
 */
#ifndef RELAY_UPSTREAM_H
#define RELAY_UPSTREAM_H

#include "endpoint.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct report;
struct spool_reader;
struct upstream;
struct upstream_io;

/* The destination */

struct upstream_options {
	const char *url;    /* http[s]://HOST[:PORT][/PREFIX] */
	bool style_by_host; /* the style that suits the host, whatever style says */
	enum endpoint_style style; /* of the request target */
	const char *universe; /* for a path form of a post that named none, or NULL */
	const char *token;    /* instead of the client's, or NULL; secret */
	/* [http|https|socks4|socks4a|socks5|socks5h]://[USER:PASSWORD@]HOST[:PORT]; NULL =
	 * none, whatever the environment says. Secret. */
	const char *proxy;
	const char *ca_file;        /* PEM, instead of the system's; or NULL */
	int64_t connect_timeout_ms; /* name, connection and TLS together */
	/* An upload fails when upstream takes no more of the body for so long, or has not
	 * answered so long after taking all of it. */
	int64_t stall_timeout_ms;
	const char *version; /* ours, for the User-Agent */
};

/* Check the options and copy them.
 *
 * Owns:   *ret is let go with upstream_free().
 * Errors: -EINVAL, -ENOMEM; errbuf says what is wrong, without any secret.
 * Threads: any, but a struct upstream belongs to one thread at a time.
 */
int upstream_new(const struct upstream_options *options, struct upstream **ret,
    char *errbuf, size_t errbuf_size) MUST_CHECK;

/* Let go of a destination; uploads under way to it keep it until they end. Takes NULL,
 * returns NULL. */
struct upstream *upstream_free(struct upstream *u);

/* "HOST" or "HOST:PORT" as configured, for people. */
const char *upstream_host(const struct upstream *u);

/* Uploads */

enum upstream_outcome {
	UPSTREAM_ACCEPTED,    /* 2xx: upstream has the report */
	UPSTREAM_RETRY,       /* it answered, not so: this report again, later */
	UPSTREAM_REJECTED,    /* it answered that it will never accept this report */
	UPSTREAM_UNAVAILABLE, /* no answer: all reports wait */
	UPSTREAM_DAMAGED, /* our copy of the report is damaged; it was not sent whole */
	UPSTREAM_UNREADABLE, /* our disk or memory failed; upstream is not to blame */
	UPSTREAM_CANCELLED,  /* ended by upstream_cancel() */
};

/* Longest name by which an upstream may call a report; longer ones count as absent. */
#define UPSTREAM_RXID_SIZE 128
/* As much as is kept of what upstream said, or of why it said nothing. */
#define UPSTREAM_TEXT_SIZE 501

struct upstream_result {
	struct report *report; /* handed back */
	enum upstream_outcome outcome;
	unsigned http_status;   /* 0 = no answer */
	int64_t retry_after_ms; /* what upstream asked for, 0 = nothing */
	uint64_t sent_bytes;    /* of the body, every try counted */
	bool began;             /* something of the request was sent */
	bool ambiguous;         /* upstream may have the report without our knowing */
	char rxid[UPSTREAM_RXID_SIZE]; /* upstream's name for it, "" = unknown */
	/* Unless accepted: the beginning of the answer, or the error. Safe on one line,
	 * without any token. */
	char text[UPSTREAM_TEXT_SIZE];
};

/* Errors: -ENOMEM, -EMFILE and others of eventfd(2). */
int upstream_io_open(struct upstream_io **ret) MUST_CHECK;

/* Ends all uploads under way; what has not been collected is lost. Takes NULL, returns
 * NULL. */
struct upstream_io *upstream_io_close(struct upstream_io *io);

/* Begin to upload a report, its body from the first byte of reader. Keeps a reference of
 * u meanwhile. Nothing is sent before the next upstream_wait().
 *
 * Owns:   takes reader over in any case; r stays the caller's but must live until it is
 *         handed back by upstream_next().
 * Errors: -ENOMEM; -EINVAL the report's target makes no request for this upstream.
 */
int upstream_begin(struct upstream_io *io, struct upstream *u, struct report *r,
    struct spool_reader *reader) MUST_CHECK;

/* Carry the uploads on until one has ended, upstream_wake() was called, or timeout_ms
 * have passed (-1 = no limit). May return early. Reads bodies from the disk. */
void upstream_wait(struct upstream_io *io, int64_t timeout_ms);

/* Collect one upload that has ended. Returns false when there is none. */
bool upstream_next(struct upstream_io *io, struct upstream_result *ret);

/* How many uploads were begun and not yet collected. */
size_t upstream_count(const struct upstream_io *io);

/* Let upstream_wait() return soon. Threads: any; never blocks. */
void upstream_wake(struct upstream_io *io);

/* End all uploads under way; they are then to be collected. Does not wait for the
 * network, nor for a name being resolved. */
void upstream_cancel(struct upstream_io *io);

/* Close kept connections and give back the memory of uploads; call it when nothing is
 * going to be sent for a while. Without effect while uploads are under way. */
void upstream_rest(struct upstream_io *io);

#endif
