/* SPDX-License-Identifier: MIT */
/* Owns the grammar of request targets. A target is never decoded as a whole: it is cut
 * into slices first, and slices that no rule changes go to upstream in their raw bytes.
 */
#include "endpoint.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

struct slice {
	const char *data;
	size_t len;
};

/* More segments than any form has are counted, not kept. */
#define SEGMENTS_KEPT 3

struct parts {
	struct slice path;  /* up to the first '?' or '&' */
	struct slice query; /* the rest, with that character */
	struct slice segments[SEGMENTS_KEPT];
	size_t segment_count; /* 0 for a path that does not begin with '/' */
	bool is_listener;
};

/* Escapes */

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

/* Decode the character at raw; returns how many bytes of raw it took. */
static size_t decode_char(const char *raw, size_t len, bool plus_is_space, char *ret)
{
	if (raw[0] == '%' && len >= 3 && hex_value(raw[1]) >= 0 &&
	    hex_value(raw[2]) >= 0) {
		*ret = (char)(hex_value(raw[1]) * 16 + hex_value(raw[2]));
		return 3;
	}
	*ret = raw[0];
	if (raw[0] == '+' && plus_is_space)
		*ret = ' ';
	return 1;
}

static void decode(const char *raw, size_t len, bool plus_is_space, struct strbuf *out)
{
	for (size_t i = 0; i < len;) {
		char c;

		i += decode_char(raw + i, len - i, plus_is_space, &c);
		strbuf_add_char(out, c);
	}
}

void endpoint_decode(const char *raw, size_t len, struct strbuf *out)
{
	decode(raw, len, true, out);
}

void endpoint_encode(const char *text, size_t len, struct strbuf *out)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				    "0123456789-_.~";

	for (size_t i = 0; i < len; i++) {
		if (memchr(plain, text[i], sizeof(plain) - 1))
			strbuf_add_char(out, text[i]);
		else
			strbuf_addf(out, "%%%02X", (unsigned char)text[i]);
	}
}

static void encode_str(const char *text, struct strbuf *out)
{
	endpoint_encode(text, strlen(text), out);
}

static bool has_control(const char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)p[i] < 0x20 || p[i] == 0x7f)
			return true;
	return false;
}

/* Paths */

static bool slice_decodes_to(struct slice s, const char *word)
{
	size_t i = 0;

	while (i < s.len && *word) {
		char c;

		i += decode_char(s.data + i, s.len - i, false, &c);
		if (c != *word++)
			return false;
	}
	return i == s.len && !*word;
}

/* Skip scheme and authority of an absolute form, which a server must take (RFC 9112,
 * section 3.2.2). */
static const char *skip_authority(const char *p, const char *end)
{
	size_t len = (size_t)(end - p);

	if (len >= 7 && strncasecmp(p, "http://", 7) == 0)
		p += 7;
	else if (len >= 8 && strncasecmp(p, "https://", 8) == 0)
		p += 8;
	else
		return p;
	while (p < end && *p != '/' && *p != '?')
		p++;
	return p;
}

/* Take the next segment of [*p, end), or return false when there is none. */
static bool next_segment(const char **p, const char *end, struct slice *ret)
{
	const char *stop;

	if (*p > end)
		return false;
	stop = memchr(*p, '/', (size_t)(end - *p));
	if (!stop)
		stop = end;
	*ret = (struct slice){ *p, (size_t)(stop - *p) };
	*p = stop + 1;
	return true;
}

/* The part of the path that has segments: without slashes before and after. */
static struct slice inner_path(struct slice path)
{
	while (path.len > 0 && path.data[0] == '/') {
		path.data++;
		path.len--;
	}
	while (path.len > 0 && path.data[path.len - 1] == '/')
		path.len--;
	return path;
}

static void split_target(const char *target, size_t len, struct parts *ret)
{
	const char *end = target + len;
	const char *start = skip_authority(target, end);
	const char *stop = start;
	struct slice inner;
	struct slice s;

	while (stop < end && *stop != '?' && *stop != '&')
		stop++;
	*ret = (struct parts){ .path = { start, (size_t)(stop - start) },
		.query = { stop, (size_t)(end - stop) } };
	inner = inner_path(ret->path);
	if (inner.len == 0 || start[0] != '/')
		return;
	for (const char *p = inner.data; next_segment(&p, inner.data + inner.len, &s);
	     ret->segment_count++)
		if (ret->segment_count < SEGMENTS_KEPT)
			ret->segments[ret->segment_count] = s;
	ret->is_listener =
	    (ret->segment_count == 1 && slice_decodes_to(ret->segments[0], "post")) ||
	    (ret->segment_count == 2 && slice_decodes_to(ret->segments[0], "api") &&
		slice_decodes_to(ret->segments[1], "post"));
}

static bool is_hosted(const struct parts *p)
{
	return !p->is_listener && (p->segment_count == 2 || p->segment_count == 3);
}

/* Parameters */

static const struct {
	const char *name;
	enum endpoint_key key;
} keys[] = {
	{ "token", ENDPOINT_KEY_TOKEN },
	{ "format", ENDPOINT_KEY_FORMAT },
	{ "universe", ENDPOINT_KEY_UNIVERSE },
	{ "object", ENDPOINT_KEY_OBJECT },
	{ "attachment_name", ENDPOINT_KEY_ATTACHMENT_NAME },
	{ "_mod_sync", ENDPOINT_KEY_MOD_SYNC },
};

/* The longest name with every byte escaped. */
#define KEY_RAW_MAX 45

static enum endpoint_key find_key(struct slice name)
{
	if (name.len <= KEY_RAW_MAX)
		for (size_t i = 0; i < ARRAY_LEN(keys); i++)
			if (slice_decodes_to(name, keys[i].name))
				return keys[i].key;
	return ENDPOINT_KEY_OTHER;
}

#define KEY_BIT(key) (1u << (unsigned)(key))

/* Not object and attachment_name: a URL in a value may well have such a query, and a crash
 * must not become a follow-up by it. */
#define LATE_KEYS                                                                        \
	(KEY_BIT(ENDPOINT_KEY_TOKEN) | KEY_BIT(ENDPOINT_KEY_FORMAT) |                    \
	    KEY_BIT(ENDPOINT_KEY_UNIVERSE) | KEY_BIT(ENDPOINT_KEY_MOD_SYNC))

/* Whether the '?' at p divides parameters though it is not the first one: if a name
 * follows that the destination needs and that is nowhere else. */
static bool is_late_divider(struct endpoint_params *it, const char *p)
{
	struct slice name = { p + 1, 0 };
	enum endpoint_key key;
	bool has_value;

	while (name.data + name.len < it->end && name.len <= KEY_RAW_MAX &&
	       !strchr("=&?", name.data[name.len]))
		name.len++;
	has_value = name.data + name.len < it->end && name.data[name.len] == '=';
	key = find_key(name);
	if ((KEY_BIT(key) & LATE_KEYS) == 0 || (it->seen & KEY_BIT(key)) != 0)
		return false;
	if (!has_value && key != ENDPOINT_KEY_MOD_SYNC)
		return false;
	it->seen |= KEY_BIT(key);
	return true;
}

bool endpoint_params_next(struct endpoint_params *it, struct endpoint_param *ret)
{
	while (it->pos < it->end) {
		const char *start = it->pos;
		const char *p = start;
		const char *value;

		while (p < it->end && *p != '&' && p != it->divider &&
		       (*p != '?' || !is_late_divider(it, p)))
			p++;
		it->pos = p < it->end ? p + 1 : p;
		if (p == start)
			continue;
		value = memchr(start, '=', (size_t)(p - start));
		*ret = (struct endpoint_param){ .raw = start,
			.raw_len = (size_t)(p - start),
			.name_len = (size_t)((value ? value : p) - start) };
		if (value) {
			ret->value = value + 1;
			ret->value_len = (size_t)(p - ret->value);
		}
		ret->key = start == it->bare
			       ? ENDPOINT_KEY_BARE_FORMAT
			       : find_key((struct slice){ start, ret->name_len });
		return true;
	}
	return false;
}

/* The listener form's bare format: "?minidump&token=". */
static const char *find_bare_format(const struct endpoint_params *it)
{
	static const char modifier[] = "_mod_";
	struct endpoint_params scan = *it;
	struct endpoint_param p;
	const char *bare = NULL;

	for (bool is_first = true; endpoint_params_next(&scan, &p); is_first = false) {
		if (p.key == ENDPOINT_KEY_FORMAT)
			return NULL;
		if (is_first && !p.value && p.key == ENDPOINT_KEY_OTHER &&
		    (p.raw_len < sizeof(modifier) - 1 ||
			memcmp(p.raw, modifier, sizeof(modifier) - 1) != 0))
			bare = p.raw;
	}
	return bare;
}

static void params_init(struct endpoint_params *it, const struct parts *parts)
{
	struct endpoint_params scan;
	struct endpoint_param p;
	struct slice q = parts->query;

	*it = (struct endpoint_params){ .pos = q.data,
		.end = q.data + q.len,
		.divider = q.len > 0 ? memchr(q.data, '?', q.len) : NULL };
	/* First without late dividers: they are only for keys not found so. */
	scan = *it;
	scan.seen = ~0u;
	while (endpoint_params_next(&scan, &p))
		it->seen |= KEY_BIT(p.key);
	if (is_hosted(parts))
		it->seen |= KEY_BIT(ENDPOINT_KEY_TOKEN) | KEY_BIT(ENDPOINT_KEY_UNIVERSE);
	if (is_hosted(parts) && parts->segment_count == 3)
		it->seen |= KEY_BIT(ENDPOINT_KEY_FORMAT);
	if (parts->is_listener)
		it->bare = find_bare_format(it);
}

void endpoint_params_init(struct endpoint_params *it, const char *target, size_t len)
{
	struct parts parts;

	split_target(target, len, &parts);
	params_init(it, &parts);
}

/* Reading */

void endpoint_done(struct endpoint *e)
{
	free(e->universe);
	free(e->token);
	free(e->format);
	free(e->object);
	free(e->attachment_name);
	free(e->target);
	*e = (struct endpoint){ 0 };
}

/* Decode one of the names that make a destination. They go into paths, logs and the
 * index: no control bytes, nor what a client of HTTP would resolve as a relative path. */
static int decode_name(struct slice raw, bool plus_is_space, char **ret)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	char *name;

	decode(raw.data, raw.len, plus_is_space, &b);
	if (has_control(strbuf_str(&b), b.len) || strcmp(strbuf_str(&b), ".") == 0 ||
	    strcmp(strbuf_str(&b), "..") == 0)
		return -EBADMSG;
	name = strbuf_take(&b);
	if (!name)
		return -ENOMEM;
	free(*ret);
	*ret = name;
	return 0;
}

/* Decode a value that only upstream judges; one with a NUL in it stays as it is. */
static int decode_value(struct slice raw, char **ret)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	decode(raw.data, raw.len, true, &b);
	if (b.len > 0 && memchr(b.data, '\0', b.len)) {
		strbuf_reset(&b);
		strbuf_add(&b, raw.data, raw.len);
	}
	*ret = strbuf_take(&b);
	return *ret ? 0 : -ENOMEM;
}

static bool is_unset(const char *s)
{
	return !s || !*s;
}

static int read_param(const struct endpoint_param *p, struct endpoint *e, char **format)
{
	struct slice value = { p->value ? p->value : p->raw + p->name_len, p->value_len };

	switch (p->key) {
	case ENDPOINT_KEY_TOKEN:
		return is_unset(e->token) ? decode_name(value, true, &e->token) : 0;
	case ENDPOINT_KEY_FORMAT:
		return is_unset(*format) ? decode_name(value, true, format) : 0;
	case ENDPOINT_KEY_BARE_FORMAT:
		value = (struct slice){ p->raw, p->raw_len };
		return is_unset(*format) ? decode_name(value, true, format) : 0;
	case ENDPOINT_KEY_UNIVERSE:
		return is_unset(e->universe) ? decode_name(value, true, &e->universe) : 0;
	case ENDPOINT_KEY_OBJECT:
		return e->object ? 0 : decode_value(value, &e->object);
	case ENDPOINT_KEY_ATTACHMENT_NAME:
		return e->attachment_name ? 0 : decode_value(value, &e->attachment_name);
	case ENDPOINT_KEY_MOD_SYNC:
		e->mod_sync = true;
		return 0;
	case ENDPOINT_KEY_OTHER:
	default:
		return 0;
	}
}

/* Read path and parameters into e, which holds NULL for what is nowhere named. */
static int read_parts(const struct parts *parts, struct endpoint *e)
{
	CLEANUP(cleanup_free) char *format = NULL;
	struct endpoint_params it;
	struct endpoint_param p;
	int r = 0;

	e->form = parts->is_listener ? ENDPOINT_LISTENER : ENDPOINT_HOSTED;
	if (!parts->is_listener) {
		r = decode_name(parts->segments[0], false, &e->universe);
		if (r == 0)
			r = decode_name(parts->segments[1], false, &e->token);
		if (r == 0 && parts->segment_count == 3)
			r = decode_name(parts->segments[2], false, &e->format);
	}
	params_init(&it, parts);
	while (r == 0 && endpoint_params_next(&it, &p))
		r = read_param(&p, e, &format);
	if (r == 0 && !is_unset(format)) {
		free(e->format);
		e->format = TAKE_PTR(format);
	}
	return r;
}

static int set_default(char **s, const char *value)
{
	if (!is_unset(*s))
		return 0;
	free(*s);
	*s = strdup(value);
	return *s ? 0 : -ENOMEM;
}

int endpoint_parse(
    const char *target, size_t len, struct endpoint *ret, enum endpoint_fault *ret_fault)
{
	CLEANUP(endpoint_done) struct endpoint e = { 0 };
	struct parts parts;
	int r;

	*ret_fault = ENDPOINT_BAD_TARGET;
	if (has_control(target, len))
		return -EBADMSG;
	split_target(target, len, &parts);
	if (!parts.is_listener && !is_hosted(&parts)) {
		*ret_fault = ENDPOINT_UNKNOWN_PATH;
		return -EBADMSG;
	}
	r = read_parts(&parts, &e);
	if (r < 0)
		return r;
	if (is_unset(e.token)) {
		*ret_fault = ENDPOINT_MISSING_TOKEN;
		return -EBADMSG;
	}
	e.target = strndup(target, len);
	if (!e.target || set_default(&e.universe, "") < 0 ||
	    set_default(&e.format, "json") < 0)
		return -ENOMEM;
	*ret = e;
	e = (struct endpoint){ 0 };
	return 0;
}

/* Targets for upstream */

enum endpoint_style endpoint_style_for_host(const char *host)
{
	static const char on_premise[] = ".sp.backtrace.io";
	size_t len = strlen(host);
	size_t tail = sizeof(on_premise) - 1;

	if (strcasecmp(host, "submit.backtrace.io") == 0)
		return ENDPOINT_STYLE_PATH;
	if (len > tail && strcasecmp(host + len - tail, on_premise) == 0)
		return ENDPOINT_STYLE_QUERY;
	return ENDPOINT_STYLE_AS_RECEIVED;
}

/* What really differs from the client's target. NULL = nothing. */
struct change {
	const char *token;
	const char *format;
	const char *object;
};

static const char *if_other(const char *wanted, const char *present)
{
	return wanted && present && strcmp(wanted, present) != 0 ? wanted : NULL;
}

/* Begin a parameter: '?' for the first one in out after position start, else '&'; nothing
 * where a divider stands already, which a later '?' is not. */
static void add_divider(struct strbuf *out, size_t start)
{
	const char *p = strbuf_str(out) + start;
	size_t len = out->len - start;
	const char *first = memchr(p, '?', len);
	bool is_open = len > 0 && (p[len - 1] == '&' || first == p + len - 1);

	if (!first && !memchr(p, '&', len))
		strbuf_add_char(out, '?');
	else if (!is_open)
		strbuf_add_char(out, '&');
}

static void add_param(
    struct strbuf *out, size_t start, const char *name, const char *value)
{
	add_divider(out, start);
	encode_str(name, out);
	strbuf_add_char(out, '=');
	encode_str(value, out);
}

/* Copy the path of the target with a token and a format put in their places. */
static void copy_path(
    const struct parts *p, const char *token, const char *format, struct strbuf *out)
{
	const char *done = p->path.data;
	const struct slice *s = p->segments;

	if (!p->is_listener && token && s[1].len > 0) {
		strbuf_add(out, done, (size_t)(s[1].data - done));
		encode_str(token, out);
		done = s[1].data + s[1].len;
	}
	if (!p->is_listener && format) {
		const char *stop =
		    p->segment_count == 3 ? s[2].data : s[1].data + s[1].len;

		strbuf_add(out, done, (size_t)(stop - done));
		if (p->segment_count == 2)
			strbuf_add_char(out, '/');
		encode_str(format, out);
		done = p->segment_count == 3 ? stop + s[2].len : stop;
	}
	strbuf_add(out, done, (size_t)(p->path.data + p->path.len - done));
}

/* Copy the parameters with their dividers, values that change put in their places. */
static void copy_query(
    const struct parts *parts, const struct change *change, struct strbuf *out)
{
	const char *done = parts->query.data;
	const char *end = done + parts->query.len;
	struct endpoint_params it;
	struct endpoint_param p;

	params_init(&it, parts);
	while (endpoint_params_next(&it, &p)) {
		const char *at = p.value;
		size_t len = p.value_len;
		const char *value = NULL;

		if (p.key == ENDPOINT_KEY_TOKEN)
			value = change->token;
		else if (p.key == ENDPOINT_KEY_OBJECT)
			value = change->object;
		else if (p.key == ENDPOINT_KEY_FORMAT)
			value = change->format;
		else if (p.key == ENDPOINT_KEY_BARE_FORMAT) {
			value = change->format;
			at = p.raw;
			len = p.raw_len;
		}
		if (!value || !at)
			continue;
		strbuf_add(out, done, (size_t)(at - done));
		encode_str(value, out);
		done = at + len;
	}
	strbuf_add(out, done, (size_t)(end - done));
}

static bool query_names_format(const struct parts *parts)
{
	struct endpoint_params it;
	struct endpoint_param p;

	params_init(&it, parts);
	while (endpoint_params_next(&it, &p))
		if (p.key == ENDPOINT_KEY_BARE_FORMAT ||
		    (p.key == ENDPOINT_KEY_FORMAT && p.value))
			return true;
	return false;
}

static void build_as_received(
    const struct parts *parts, const struct change *change, struct strbuf *out)
{
	size_t start = out->len;
	bool in_query = query_names_format(parts);

	copy_path(parts, change->token, in_query ? NULL : change->format, out);
	copy_query(parts, change, out);
	if (parts->is_listener && change->format && !in_query)
		add_param(out, start, "format", change->format);
}

/* Append the client's parameters that a target built anew does not have in its own way. */
static void add_attributes(const struct parts *parts, const struct change *change,
    size_t start, struct strbuf *out)
{
	struct endpoint_params it;
	struct endpoint_param p;

	params_init(&it, parts);
	while (endpoint_params_next(&it, &p)) {
		if (p.key == ENDPOINT_KEY_TOKEN || p.key == ENDPOINT_KEY_FORMAT ||
		    p.key == ENDPOINT_KEY_UNIVERSE || p.key == ENDPOINT_KEY_BARE_FORMAT)
			continue;
		add_divider(out, start);
		if (p.key == ENDPOINT_KEY_OBJECT && change->object) {
			strbuf_add_str(out, "object=");
			encode_str(change->object, out);
		} else {
			strbuf_add(out, p.raw, p.raw_len);
		}
	}
}

static void build_anew(enum endpoint_style style, const char *universe, const char *token,
    const char *format, struct strbuf *out)
{
	size_t start = out->len;

	if (style == ENDPOINT_STYLE_PATH) {
		strbuf_add_char(out, '/');
		encode_str(universe, out);
		strbuf_add_char(out, '/');
		encode_str(token, out);
		strbuf_add_char(out, '/');
		encode_str(format, out);
		return;
	}
	strbuf_add_str(out, "/post");
	add_param(out, start, "format", format);
	add_param(out, start, "token", token);
	if (*universe)
		add_param(out, start, "universe", universe);
}

static void add_prefix(const char *prefix, struct strbuf *out)
{
	size_t len = prefix ? strlen(prefix) : 0;

	while (len > 0 && prefix[len - 1] == '/')
		len--;
	strbuf_add(out, prefix ? prefix : "", len);
}

int endpoint_upstream_target(
    const struct endpoint *e, const struct endpoint_rewrite *rewrite, struct strbuf *out)
{
	const struct change change = { .token = if_other(rewrite->token, e->token),
		.format = if_other(rewrite->format, e->format),
		.object = if_other(rewrite->object, e->object) };
	enum endpoint_style style = rewrite->style;
	const char *universe = e->universe;
	struct parts parts;
	size_t start;

	if (style == ENDPOINT_STYLE_PATH && is_unset(universe) && rewrite->universe)
		universe = rewrite->universe;
	if (style == ENDPOINT_STYLE_PATH &&
	    (is_unset(universe) ||
		(e->form == ENDPOINT_HOSTED && !change.token && !change.format &&
		    !change.object && rewrite->extra_count == 0)))
		style = ENDPOINT_STYLE_AS_RECEIVED;
	split_target(e->target, strlen(e->target), &parts);
	add_prefix(rewrite->prefix, out);
	start = out->len;
	if (style == ENDPOINT_STYLE_AS_RECEIVED) {
		build_as_received(&parts, &change, out);
	} else {
		build_anew(style, universe, change.token ? change.token : e->token,
		    change.format ? change.format : e->format, out);
		add_attributes(&parts, &change, start, out);
	}
	for (size_t i = 0; i < rewrite->extra_count; i++)
		add_param(out, start, rewrite->extras[i].name, rewrite->extras[i].value);
	return strbuf_status(out);
}

/* Printing without the secret */

static void shorten(const char *token, size_t len, char out[ENDPOINT_SHORT_TOKEN_SIZE])
{
	size_t shown = len >= 12 ? 6 : len / 3;

	memset(out, '?', shown);
	for (size_t i = 0; i < shown; i++)
		if (token[i] > 0x20 && token[i] < 0x7f)
			out[i] = token[i];
	memcpy(out + shown, "\u2026", sizeof("\u2026"));
}

void endpoint_shorten_token(const char *token, char out[ENDPOINT_SHORT_TOKEN_SIZE])
{
	shorten(token, strlen(token), out);
}

#define HEX_RUN_MIN 32
#define LONG_SEGMENT_MIN 12
#define TOKENS_SOUGHT 8 /* different tokens whose other occurrences are looked for */

/* A target with its decoded form and marks on the raw bytes that must not be shown. */
struct redaction {
	const char *raw;
	size_t raw_len;
	char *text;   /* decoded, '+' as a space everywhere */
	size_t *from; /* offset in raw of each byte of text, and of the end */
	size_t text_len;
	bool *marks;
	struct slice sought[TOKENS_SOUGHT];
	size_t sought_count;
};

static void redaction_done(struct redaction *x)
{
	free(x->text);
	free(x->from);
	free(x->marks);
}

static int redaction_init(struct redaction *x, const char *raw, size_t len)
{
	x->raw = raw;
	x->raw_len = len;
	x->text = calloc(len + 1, 1);
	x->from = calloc(len + 1, sizeof(*x->from));
	x->marks = calloc(len + 1, sizeof(*x->marks));
	if (!x->text || !x->from || !x->marks)
		return -ENOMEM;
	for (size_t i = 0; i < len;) {
		x->from[x->text_len] = i;
		i += decode_char(raw + i, len - i, true, &x->text[x->text_len++]);
	}
	x->from[x->text_len] = len;
	return 0;
}

static void mark_raw(struct redaction *x, const char *data, size_t len)
{
	memset(x->marks + (data - x->raw), true, len);
}

static void mark_text(struct redaction *x, size_t at, size_t len)
{
	mark_raw(x, x->raw + x->from[at], x->from[at + len] - x->from[at]);
}

/* A token stands here: hide it, and remember it so that it is looked for elsewhere. */
static void mark_token(struct redaction *x, const char *data, size_t len)
{
	if (len == 0)
		return;
	mark_raw(x, data, len);
	if (x->sought_count < TOKENS_SOUGHT)
		x->sought[x->sought_count++] = (struct slice){ data, len };
}

static void mark_path(struct redaction *x, const struct parts *parts)
{
	struct slice inner = inner_path(parts->path);
	struct slice s;

	if (is_hosted(parts)) {
		mark_token(x, parts->segments[1].data, parts->segments[1].len);
		return;
	}
	if (parts->is_listener)
		return;
	for (const char *p = inner.data; next_segment(&p, inner.data + inner.len, &s);)
		if (s.len >= LONG_SEGMENT_MIN)
			mark_token(x, s.data, s.len);
}

/* Values of parameters called token: as endpoint_parse() divides them, and then whatever
 * divides them and however the name is spelled. */
static void mark_params(struct redaction *x, const struct parts *parts)
{
	const char *p = parts->query.data;
	const char *end = p + parts->query.len;
	struct endpoint_params it;
	struct endpoint_param param;

	params_init(&it, parts);
	while (endpoint_params_next(&it, &param))
		if (param.key == ENDPOINT_KEY_TOKEN && param.value)
			mark_token(x, param.value, param.value_len);
	while (p < end) {
		CLEANUP(strbuf_done) struct strbuf name = STRBUF_INIT;
		const char *value;
		size_t len = 0;

		while (p + len < end && p[len] != '&' && p[len] != '?' && p[len] != ';')
			len++;
		value = len > 0 ? memchr(p, '=', len) : NULL;
		if (value && value - p <= KEY_RAW_MAX) {
			decode(p, (size_t)(value - p), true, &name);
			if (strcasecmp(strbuf_str(&name), "token") == 0)
				mark_token(x, value + 1, (size_t)(p + len - value - 1));
		}
		p += len + 1;
	}
}

static const char *find_bytes(const char *p, const char *end, const struct strbuf *needle)
{
	return memmem(p, (size_t)(end - p), needle->data, needle->len);
}

/* Hide the token wherever it stands, as read or as written: "%7" of one may be the "%7"
 * of another's "%73". */
static int mark_occurrences(struct redaction *x, struct slice token)
{
	CLEANUP(strbuf_done) struct strbuf needle = STRBUF_INIT;
	const char *found;
	const char *p;

	decode(token.data, token.len, true, &needle);
	if (strbuf_status(&needle) < 0)
		return -ENOMEM;
	for (p = x->text; (found = find_bytes(p, x->text + x->text_len, &needle));
	     p = found + needle.len)
		mark_text(x, (size_t)(found - x->text), needle.len);
	strbuf_reset(&needle);
	decode(token.data, token.len, false, &needle);
	for (p = x->raw; (found = find_bytes(p, x->raw + x->raw_len, &needle));
	     p = found + needle.len)
		mark_raw(x, found, needle.len);
	return strbuf_status(&needle);
}

static void mark_hex_runs(struct redaction *x)
{
	size_t run = 0;

	for (size_t i = 0; i <= x->text_len; i++) {
		if (i < x->text_len && hex_value(x->text[i]) >= 0) {
			run++;
			continue;
		}
		if (run >= HEX_RUN_MIN)
			mark_text(x, i - run, run);
		run = 0;
	}
}

static void print_redacted(const struct redaction *x, struct strbuf *out)
{
	for (size_t i = 0; i < x->raw_len;) {
		CLEANUP(strbuf_done) struct strbuf hidden = STRBUF_INIT;
		char shown[ENDPOINT_SHORT_TOKEN_SIZE];
		size_t start = i;

		while (i < x->raw_len && x->marks[i] == x->marks[start])
			i++;
		if (!x->marks[start]) {
			strbuf_add(out, x->raw + start, i - start);
			continue;
		}
		decode(x->raw + start, i - start, true, &hidden);
		shorten(strbuf_str(&hidden), hidden.len, shown);
		strbuf_add_str(out, shown);
	}
}

int endpoint_redact_target(const char *target, size_t len, struct strbuf *out)
{
	CLEANUP(redaction_done) struct redaction x = { 0 };
	struct parts parts;
	int r = redaction_init(&x, target, len);

	split_target(target, len, &parts);
	if (r == 0) {
		mark_path(&x, &parts);
		mark_params(&x, &parts);
		mark_hex_runs(&x);
	}
	for (size_t i = 0; r == 0 && i < x.sought_count; i++)
		r = mark_occurrences(&x, x.sought[i]);
	if (r < 0)
		return r;
	print_redacted(&x, out);
	return strbuf_status(out);
}
