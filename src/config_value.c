/* SPDX-License-Identifier: MIT */
/* Owns the spelling of values: numbers with units, words, paths, URLs, addresses.
 * Invariants: nothing is stored unless all of it was understood; a complaint names what
 * was expected, and shows the text only where it can't be a secret (a URL may be pasted
 * with a token in its path, so it is never shown).
 */
#include "config_value.h"

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <string.h>

/* So much of a wrong value is shown. */
#define SHOWN_BYTES 64

struct unit {
	const char *name;
	int64_t factor;
};

static const struct unit size_units[] = {
	{ "", 1 },
	{ "K", INT64_C(1) << 10 },
	{ "M", INT64_C(1) << 20 },
	{ "G", INT64_C(1) << 30 },
	{ "T", INT64_C(1) << 40 },
	{ NULL, 0 },
};

static const struct unit duration_units[] = {
	{ "ms", 1 },
	{ "s", 1000 },
	{ "m", INT64_C(60) * 1000 },
	{ "h", INT64_C(60) * 60 * 1000 },
	{ "d", INT64_C(24) * 60 * 60 * 1000 },
	{ NULL, 0 },
};

static const struct unit count_units[] = {
	{ "", 1 },
	{ NULL, 0 },
};

static const struct config_choice yes_or_no[] = {
	{ "yes", true },
	{ "no", false },
	{ NULL, 0 },
};

static_assert(sizeof(enum config_type) == sizeof(int), "enums are stored as int");

bool config_value_is_list(const struct config_setting *s)
{
	return s->type == CONFIG_WORDS || s->type == CONFIG_ADDRESSES;
}

static void add_shown(
    struct strbuf *why, const struct config_setting *s, const char *text)
{
	if (s->secret || s->type == CONFIG_URL || s->type == CONFIG_PROXY) {
		strbuf_add_str(why, "the value (not shown)");
		return;
	}
	strbuf_add_char(why, '"');
	strbuf_add_escaped(why, text, strlen(text), SHOWN_BYTES);
	strbuf_add_char(why, '"');
}

static int complain(struct strbuf *why, const struct config_setting *s, const char *text,
    const char *what)
{
	add_shown(why, s, text);
	strbuf_addf(why, " %s", what);
	return -EINVAL;
}

static const struct unit *units_of(const struct config_setting *s)
{
	if (s->type == CONFIG_SIZE)
		return size_units;
	return s->type == CONFIG_DURATION ? duration_units : count_units;
}

/* The shortest exact spelling, such as 64K. */
static void add_number(struct strbuf *b, const struct config_setting *s, int64_t value)
{
	const struct unit *best = units_of(s);

	for (const struct unit *u = best; u->name; u++)
		if (value != 0 && value % u->factor == 0)
			best = u;
	strbuf_addf(
	    b, "%" PRId64 "%s", value / best->factor, value == 0 ? "" : best->name);
}

static int complain_of_range(
    struct strbuf *why, const struct config_setting *s, const char *text)
{
	add_shown(why, s, text);
	strbuf_add_str(why, " is out of range; expected ");
	add_number(why, s, s->min);
	strbuf_add_str(why, " to ");
	add_number(why, s, s->max);
	if (s->unit)
		strbuf_addf(why, " %s", s->unit);
	if (s->takes_auto)
		strbuf_add_str(why, ", or auto");
	return -EINVAL;
}

static int complain_of_number(
    struct strbuf *why, const struct config_setting *s, const char *text)
{
	if (s->type == CONFIG_SIZE) {
		complain(why, s, text,
		    "is not a size; expected whole bytes, or a number with K, M, G or T "
		    "(powers of 1024), such as 64K");
		if (s->takes_auto)
			strbuf_add_str(why, ", or auto");
		return -EINVAL;
	}
	if (s->type == CONFIG_DURATION)
		return complain(why, s, text,
		    "is not a duration; expected a number with ms, s, m, h or d, such as "
		    "30s");
	return complain(why, s, text, "is not a whole number; expected digits only");
}

static int set_number(
    const struct config_setting *s, const char *text, int64_t *field, struct strbuf *why)
{
	const struct unit *u = units_of(s);
	const char *p = text;
	int64_t value = 0;
	bool overflow = false;

	if (s->takes_auto && strcmp(text, "auto") == 0) {
		*field = CONFIG_AUTO;
		return 0;
	}
	for (; *p >= '0' && *p <= '9'; p++)
		overflow = overflow || __builtin_mul_overflow(value, 10, &value) ||
			   __builtin_add_overflow(value, *p - '0', &value);
	if (p == text)
		return complain_of_number(why, s, text);
	/* Nought is the same in every unit. */
	if (*p != '\0' || overflow || value != 0) {
		while (u->name && strcmp(u->name, p) != 0)
			u++;
		if (!u->name)
			return complain_of_number(why, s, text);
		overflow = overflow || __builtin_mul_overflow(value, u->factor, &value);
	}
	if (overflow || value < s->min || value > s->max)
		return complain_of_range(why, s, text);
	*field = value;
	return 0;
}

static int set_choice(const struct config_setting *s, const struct config_choice *choices,
    const char *text, int *field, struct strbuf *why)
{
	for (const struct config_choice *c = choices; c->word; c++)
		if (strcmp(c->word, text) == 0) {
			*field = c->value;
			return 0;
		}
	complain(why, s, text, "is not known here; expected");
	for (const struct config_choice *c = choices; c->word; c++)
		strbuf_addf(why, "%s %s",
		    c == choices ? ""
		    : c[1].word  ? ","
				 : " or",
		    c->word);
	return -EINVAL;
}

/* A slash would be another segment: universe and token pasted together. */
static int check_word(
    const struct config_setting *s, const char *text, struct strbuf *why)
{
	for (const char *p = text; *p != '\0'; p++)
		if (*p <= ' ' || *p >= 0x7f || *p == '/')
			return complain(why, s, text,
			    "holds a blank, a slash or a byte that is not printable "
			    "ASCII; "
			    "expected none of these");
	return 0;
}

static int check_path(
    const struct config_setting *s, const char *text, struct strbuf *why)
{
	if (text[0] != '/')
		return complain(
		    why, s, text, "is not absolute; expected a path that begins with /");
	for (const char *p = text; *p != '\0'; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			return complain(why, s, text,
			    "holds a control byte; expected a path without");
	return 0;
}

struct url {
	const char *user; /* NULL where there is no '@' */
	const char *host;
	size_t host_len;
	const char *port; /* NULL where there is no ':' */
	size_t port_len;
	const char *rest; /* path, query, fragment; "" where there is none */
};

/* Split what follows "scheme://". */
static struct url split_url(const char *s)
{
	struct url u = { .rest = s + strcspn(s, "/?#") };
	const char *at = memrchr(s, '@', (size_t)(u.rest - s));
	const char *colon;

	if (at) {
		u.user = s;
		s = at + 1;
	}
	/* The colons in brackets are of an IPv6 address. */
	colon = memchr(s, ']', (size_t)(u.rest - s));
	if (!colon || s[0] != '[')
		colon = s;
	colon = memchr(colon, ':', (size_t)(u.rest - colon));
	u.host = s;
	u.host_len = (size_t)((colon ? colon : u.rest) - s);
	if (colon) {
		u.port = colon + 1;
		u.port_len = (size_t)(u.rest - u.port);
	}
	return u;
}

static bool host_is_valid(const char *host, size_t len)
{
	char text[INET6_ADDRSTRLEN];
	struct in6_addr address;

	if (len > 2 && host[0] == '[' && host[len - 1] == ']') {
		if (len - 2 >= sizeof(text))
			return false;
		memcpy(text, host + 1, len - 2);
		text[len - 2] = '\0';
		return inet_pton(AF_INET6, text, &address) == 1;
	}
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)host[i] >= 0x80 ||
		    (!isalnum((unsigned char)host[i]) && !strchr("-._", host[i])))
			return false;
	return len > 0 && len <= 253;
}

/* -1 when it is no port. */
static int read_port(const char *s, size_t len)
{
	int port = 0;

	if (len == 0 || len > 5)
		return -1;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return -1;
		port = port * 10 + (s[i] - '0');
	}
	return port <= 65535 ? port : -1;
}

static bool url_has_scheme(
    const char *text, const char *const *schemes, const char **ret_rest)
{
	for (; *schemes; schemes++) {
		size_t len = strlen(*schemes);

		if (strncasecmp(text, *schemes, len) == 0 &&
		    strncmp(text + len, "://", 3) == 0) {
			*ret_rest = text + len + 3;
			return true;
		}
	}
	return false;
}

/* What is wrong with the URL, or NULL. */
static const char *find_url_fault(const struct config_setting *s, const char *text)
{
	static const char *const web[] = { "http", "https", NULL };
	static const char *const proxies[] = { "http", "https", "socks4", "socks4a",
		"socks5", "socks5h", NULL };
	const char *rest = NULL;
	struct url u;

	for (const char *p = text; *p != '\0'; p++)
		if (*p <= ' ' || *p >= 0x7f)
			return "holds a blank or a byte that is not printable ASCII; "
			       "expected "
			       "such bytes as %XX, or host names in their ASCII form";
	if (!url_has_scheme(text, s->type == CONFIG_PROXY ? proxies : web, &rest))
		return s->type == CONFIG_PROXY
			   ? "has no scheme that is known; expected http://, https://, "
			     "socks4://, socks4a://, socks5:// or socks5h:// and "
			     "HOST[:PORT]"
			   : "has no scheme that is known; expected http://HOST[:PORT] "
			     "or "
			     "https://HOST[:PORT]";
	u = split_url(rest);
	if (u.host_len == 0)
		return "names no host; expected SCHEME://HOST[:PORT]";
	if (!host_is_valid(u.host, u.host_len))
		return "names no valid host; expected a name, an IPv4 address, or an "
		       "IPv6 "
		       "address in brackets";
	if (u.port && read_port(u.port, u.port_len) < 1)
		return "names no valid port; expected 1 to 65535";
	if (s->type == CONFIG_PROXY)
		return strcmp(u.rest, "") == 0 || strcmp(u.rest, "/") == 0
			   ? NULL
			   : "goes on after the host; expected "
			     "SCHEME://[USER:PASSWORD@]HOST[:PORT]";
	if (u.user)
		return "holds a user or a password; expected none (the token has a key "
		       "of "
		       "its own)";
	if (strpbrk(u.rest, "?#"))
		return "holds a query or a fragment; expected none (token and universe "
		       "have "
		       "keys of their own)";
	return NULL;
}

static struct config_address make_ipv4(struct in_addr address, int port)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr = address };
	struct config_address a = { .len = sizeof(in) };

	in.sin_port = htons((uint16_t)port);
	memcpy(&a.addr, &in, sizeof(in));
	return a;
}

static struct config_address make_ipv6(struct in6_addr address, int port)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_addr = address };
	struct config_address a = { .len = sizeof(in6) };

	in6.sin6_port = htons((uint16_t)port);
	memcpy(&a.addr, &in6, sizeof(in6));
	return a;
}

/* Read one address; "localhost" is two. Returns how many, or what is wrong. */
static const char *read_address(
    const char *text, struct config_address ret[2], size_t *ret_count)
{
	const char *colon = strrchr(text, ':');
	char host[INET6_ADDRSTRLEN + 2];
	size_t len = colon ? (size_t)(colon - text) : 0;
	struct in_addr v4;
	struct in6_addr v6;
	int port;

	if (!colon || len == 0)
		return "is not ADDRESS:PORT; expected such as 127.0.0.1:6097 or "
		       "[::1]:6097 "
		       "(0.0.0.0 or [::] for all)";
	if (text[0] != '[' && memchr(text, ':', len))
		return "has more than one colon; expected an IPv6 address in brackets, "
		       "such as "
		       "[::1]:6097";
	port = read_port(colon + 1, strlen(colon + 1));
	if (port < 0)
		return "has no valid port; expected 0 to 65535 after the last colon";
	if (len >= sizeof(host))
		return "is no IP address; expected such as 127.0.0.1:6097 or [::1]:6097";
	memcpy(host, text, len);
	host[len] = '\0';
	if (host[0] == '[' && host[len - 1] == ']') {
		host[len - 1] = '\0';
		if (inet_pton(AF_INET6, host + 1, &v6) != 1)
			return "has no IPv6 address in its brackets; expected such as "
			       "[::1]:6097";
		ret[0] = make_ipv6(v6, port);
		*ret_count = 1;
		return NULL;
	}
	if (strcasecmp(host, "localhost") == 0) {
		v4.s_addr = htonl(INADDR_LOOPBACK);
		ret[0] = make_ipv4(v4, port);
		ret[1] = make_ipv6(in6addr_loopback, port);
		ret[1].implied = true;
		*ret_count = 2;
		return NULL;
	}
	if (inet_pton(AF_INET, host, &v4) != 1)
		return "names no IP address; expected such as 127.0.0.1:6097 or "
		       "[::1]:6097 (of "
		       "names only localhost)";
	ret[0] = make_ipv4(v4, port);
	*ret_count = 1;
	return NULL;
}

static int complain_of_count(
    struct strbuf *why, const struct config_setting *s, size_t count)
{
	if (count <= (size_t)s->max)
		return 0;
	strbuf_addf(why, "has too many items; expected at most %" PRId64, s->max);
	return -EINVAL;
}

static int add_word(const struct config_setting *s, const char *text,
    struct config_words *words, struct strbuf *why)
{
	CLEANUP(cleanup_free) char *copy = NULL;
	char **items;
	int r;

	r = check_word(s, text, why);
	if (r < 0)
		return r;
	r = complain_of_count(why, s, words->count + 1);
	if (r < 0)
		return r;
	copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	items = reallocarray(words->items, words->count + 1, sizeof(*items));
	if (!items)
		return -ENOMEM;
	words->items = items;
	words->items[words->count++] = TAKE_PTR(copy);
	return 0;
}

static int add_address(const struct config_setting *s, const char *text,
    struct config_addresses *addresses, struct strbuf *why)
{
	struct config_address read[2] = { 0 };
	struct config_address *items;
	size_t count = 0;
	const char *fault;
	int r;

	fault = read_address(text, read, &count);
	if (fault)
		return complain(why, s, text, fault);
	r = complain_of_count(why, s, addresses->count + count);
	if (r < 0)
		return r;
	items = reallocarray(addresses->items, addresses->count + count, sizeof(*items));
	if (!items)
		return -ENOMEM;
	addresses->items = items;
	memcpy(items + addresses->count, read, count * sizeof(*items));
	addresses->count += count;
	return 0;
}

/* Cut the blanks at both ends. */
static char *trim(char *s)
{
	char *end;

	s += strspn(s, " \t");
	for (end = s + strlen(s); end > s && (end[-1] == ' ' || end[-1] == '\t'); end--)
		;
	*end = '\0';
	return s;
}

static int add_items(
    const struct config_setting *s, const char *text, void *field, struct strbuf *why)
{
	CLEANUP(cleanup_free) char *copy = strdup(text);
	char *next = copy;
	char *item;
	int r = 0;

	if (!copy)
		return -ENOMEM;
	while (r == 0 && (item = strsep(&next, ","))) {
		item = trim(item);
		if (item[0] == '\0')
			return complain(why, s, text,
			    "has an empty item; expected items with one comma between "
			    "two");
		if (s->type == CONFIG_WORDS)
			r = add_word(s, item, field, why);
		else
			r = add_address(s, item, field, why);
	}
	return r;
}

static int check_string(
    const struct config_setting *s, const char *text, struct strbuf *why)
{
	const char *fault;

	if ((int64_t)strlen(text) > s->max) {
		strbuf_addf(why,
		    "the value is too long; expected at most %" PRId64 " bytes", s->max);
		return -EINVAL;
	}
	if (s->type == CONFIG_WORD)
		return check_word(s, text, why);
	if (s->type == CONFIG_PATH)
		return check_path(s, text, why);
	fault = find_url_fault(s, text);
	return fault ? complain(why, s, text, fault) : 0;
}

static int set_string(
    const struct config_setting *s, const char *text, char **field, struct strbuf *why)
{
	char *copy;
	int r;

	r = check_string(s, text, why);
	if (r < 0)
		return r;
	copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

static int set_bool(
    const struct config_setting *s, const char *text, bool *field, struct strbuf *why)
{
	int value = 0;
	int r;

	r = set_choice(s, yes_or_no, text, &value, why);
	if (r == 0)
		*field = value != 0;
	return r;
}

int config_value_set(
    const struct config_setting *s, const char *text, void *field, struct strbuf *why)
{
	if (text[0] == '\0') {
		if (config_value_is_list(s) && s->min == 0)
			return 0;
		strbuf_add_str(why,
		    "has no value (after a blank, # and ; begin a comment); "
		    "expected one, or no such line for the default");
		return -EINVAL;
	}
	/* Quotes are a habit from other formats; as part of a path or token they would do
	 * harm later and elsewhere. */
	if (text[0] == '"' || text[0] == '\'')
		return complain(
		    why, s, text, "begins with a quote; expected the bare value");
	switch (s->type) {
	case CONFIG_COUNT:
	case CONFIG_SIZE:
	case CONFIG_DURATION:
		return set_number(s, text, field, why);
	case CONFIG_BOOL:
		return set_bool(s, text, field, why);
	case CONFIG_ENUM:
		return set_choice(s, s->choices, text, field, why);
	case CONFIG_WORD:
	case CONFIG_PATH:
	case CONFIG_URL:
	case CONFIG_PROXY:
		return set_string(s, text, field, why);
	case CONFIG_WORDS:
	case CONFIG_ADDRESSES:
		return add_items(s, text, field, why);
	}
	assert(false);
	return -EINVAL;
}

void config_value_clear(const struct config_setting *s, void *field)
{
	struct config_words *words = field;
	struct config_addresses *addresses = field;

	switch (s->type) {
	case CONFIG_COUNT:
	case CONFIG_SIZE:
	case CONFIG_DURATION:
		*(int64_t *)field = 0;
		break;
	case CONFIG_BOOL:
		*(bool *)field = false;
		break;
	case CONFIG_ENUM:
		*(int *)field = 0;
		break;
	case CONFIG_WORD:
	case CONFIG_PATH:
	case CONFIG_URL:
	case CONFIG_PROXY:
		free(*(char **)field);
		*(char **)field = NULL;
		break;
	case CONFIG_WORDS:
		for (size_t i = 0; i < words->count; i++)
			free(words->items[i]);
		free(words->items);
		*words = (struct config_words){ 0 };
		break;
	case CONFIG_ADDRESSES:
		free(addresses->items);
		*addresses = (struct config_addresses){ 0 };
		break;
	}
}

static bool strings_equal(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool words_equal(const struct config_words *a, const struct config_words *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (strcmp(a->items[i], b->items[i]) != 0)
			return false;
	return true;
}

static bool addresses_equal(
    const struct config_addresses *a, const struct config_addresses *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (a->items[i].len != b->items[i].len ||
		    memcmp(&a->items[i].addr, &b->items[i].addr, a->items[i].len) != 0)
			return false;
	return true;
}

bool config_value_equal(const struct config_setting *s, const void *a, const void *b)
{
	switch (s->type) {
	case CONFIG_COUNT:
	case CONFIG_SIZE:
	case CONFIG_DURATION:
		return *(const int64_t *)a == *(const int64_t *)b;
	case CONFIG_BOOL:
		return *(const bool *)a == *(const bool *)b;
	case CONFIG_ENUM:
		return *(const int *)a == *(const int *)b;
	case CONFIG_WORD:
	case CONFIG_PATH:
	case CONFIG_URL:
	case CONFIG_PROXY:
		return strings_equal(*(char *const *)a, *(char *const *)b);
	case CONFIG_WORDS:
		return words_equal(a, b);
	case CONFIG_ADDRESSES:
		return addresses_equal(a, b);
	}
	assert(false);
	return false;
}
