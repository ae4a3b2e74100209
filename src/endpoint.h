/* SPDX-License-Identifier: MIT */
/* Where a submission is to go, as its request target says it: universe, token, format, in
 * the forms that Backtrace documents (wire protocol notes, section 5); the targets that
 * are made of it for upstream; and the printing of targets and tokens without the secret.
 * Pure functions over bytes: no I/O, no global state, any thread.
 *
 * A target is a path, then parameters from the first '?' or '&' on. Parameters are divided
 * by '&', and by the first '?', also where it stands after a '&': Crashpad appends
 * "?guid=" to "/U/T/minidump&version=1.0". A further '?' is data, as in any query, unless
 * a token, format, universe or _mod_sync follows it that the target has nowhere else: a
 * documented example has "_mod_sync=1?format=dump".
 */
#ifndef RELAY_ENDPOINT_H
#define RELAY_ENDPOINT_H

#include "cleanup.h"
#include "strbuf.h"

#include <stdbool.h>
#include <stddef.h>

enum endpoint_form {
	ENDPOINT_HOSTED,   /* /UNIVERSE/TOKEN[/FORMAT] */
	ENDPOINT_LISTENER, /* /post, //post, /api/post with parameters */
};

enum endpoint_fault {
	ENDPOINT_BAD_TARGET,    /* control bytes, plain or escaped, where a name stands */
	ENDPOINT_UNKNOWN_PATH,  /* no form of a submission URL */
	ENDPOINT_MISSING_TOKEN, /* a submission URL, but its token is absent or empty */
};

/* Owned strings, all but target percent-decoded. */
struct endpoint {
	enum endpoint_form form;
	char *universe; /* "" = none named */
	char *token;    /* secret, never empty */
	char *format;   /* as declared; "json" when nothing was (upstream's rule) */
	char *object;   /* NULL = not a follow-up to an earlier report */
	char *attachment_name; /* NULL = none */
	bool mod_sync;         /* _mod_sync is present; its value means nothing */
	char *target;          /* the raw target it was read from */
};

/* Read a raw request target (origin form, or absolute form with http or https).
 *
 * The token and universe of a path win over parameters; a parameter's format wins over
 * the path's. Of several like parameters the first that is not empty counts. In the
 * listener form, with no format named, the very first parameter is the format if it has no
 * '=' and is no "_mod_..." modifier. Bad percent escapes stand for themselves.
 *
 * Owns:   the caller ends *ret with endpoint_done().
 * Errors: -EBADMSG, then *ret_fault says why; -ENOMEM. */
int endpoint_parse(const char *target, size_t len, struct endpoint *ret,
    enum endpoint_fault *ret_fault) MUST_CHECK;

/* Free what it owns; a zeroed one is fine. */
void endpoint_done(struct endpoint *e);

/* Parameters */

enum endpoint_key {
	ENDPOINT_KEY_OTHER, /* an attribute, or a modifier not known here */
	ENDPOINT_KEY_TOKEN,
	ENDPOINT_KEY_FORMAT,
	ENDPOINT_KEY_UNIVERSE,
	ENDPOINT_KEY_OBJECT,
	ENDPOINT_KEY_ATTACHMENT_NAME,
	ENDPOINT_KEY_MOD_SYNC,
	ENDPOINT_KEY_BARE_FORMAT, /* the whole parameter is the format */
};

/* One parameter, as it stands in the target: slices of it. */
struct endpoint_param {
	enum endpoint_key key;
	const char *raw; /* "name=value" or "name" */
	size_t raw_len;
	size_t name_len;   /* the name begins at raw */
	const char *value; /* NULL when there is no '=' */
	size_t value_len;
};

/* An iterator over the parameters of a target, in order; empty ones are left out. The
 * target must stay. */
struct endpoint_params {
	const char *pos;
	const char *end;
	const char *divider; /* the first '?' */
	unsigned seen;       /* keys that need no '?' of their own any more */
	const char *bare;    /* the parameter that is the format, or NULL */
};

void endpoint_params_init(struct endpoint_params *it, const char *target, size_t len);

/* Returns false at the end. */
bool endpoint_params_next(struct endpoint_params *it, struct endpoint_param *ret);

/* Append a parameter's name or value decoded: percent escapes, and '+' as a space. */
void endpoint_decode(const char *raw, size_t len, struct strbuf *out);

/* Append text percent-encoded: all but A-Z a-z 0-9 - _ . ~ */
void endpoint_encode(const char *text, size_t len, struct strbuf *out);

/* Targets for upstream */

enum endpoint_style {
	ENDPOINT_STYLE_AS_RECEIVED, /* the form in which the client sent it */
	ENDPOINT_STYLE_PATH,        /* /U/T/F?attributes */
	ENDPOINT_STYLE_QUERY,       /* /post?format=F&token=T[&universe=U]&attributes */
};

/* The style that "auto" means for an upstream's host name (without port): path for
 * submit.backtrace.io, query for *.sp.backtrace.io, else as received. */
enum endpoint_style endpoint_style_for_host(const char *host);

/* A parameter to be added; plain text. */
struct endpoint_extra {
	const char *name;
	const char *value;
};

/* What is to differ from the client's target. Plain text; NULL = as the client has it. */
struct endpoint_rewrite {
	enum endpoint_style style;
	const char *prefix;   /* path of upstream's URL, goes first; may be NULL */
	const char *token;    /* in place of every token */
	const char *universe; /* for a path form made of a target that names none */
	const char *format;   /* the effective one */
	const char *object;   /* in place of the value of object= */
	const struct endpoint_extra *extras; /* appended, in order */
	size_t extra_count;
};

/* Append the request target for upstream to out.
 *
 * As received: the raw target, byte for byte but for what is replaced; a changed format
 * takes the place of the declared one. Path style from a hosted form with nothing to
 * change: byte for byte. Else built anew: one '?', every parameter but the token, format
 * and universe in its raw bytes and order. Path style without any universe falls back to
 * as received.
 *
 * Errors: -ENOMEM. */
int endpoint_upstream_target(const struct endpoint *e,
    const struct endpoint_rewrite *rewrite, struct strbuf *out) MUST_CHECK;

/* Printing without the secret */

/* What may be shown of a token: its first 6 bytes and "…"; of one shorter than 12 bytes
 * the first third only, so that a short one can't be guessed from the log. Bytes outside
 * printable ASCII show as '?'. */
#define ENDPOINT_SHORT_TOKEN_SIZE 10
void endpoint_shorten_token(const char *token, char out[ENDPOINT_SHORT_TOKEN_SIZE]);

/* Append the target with every token shortened: those in their places (also in targets
 * that endpoint_parse() refuses, and under "Token"), every other occurrence of them,
 * however it is escaped, and any run of 32 or more hex digits. In a path of unknown form
 * every segment of 12 bytes or more counts as a token. The result is not escaped for a
 * terminal. Errors: -ENOMEM. */
int endpoint_redact_target(const char *target, size_t len, struct strbuf *out) MUST_CHECK;

#endif
