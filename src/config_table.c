/* SPDX-License-Identifier: MIT */
/* Owns the table of settings: the one place that knows which there are, their defaults
 * and ranges. Parser, defaults, checks, reload and the comparison with the sample file
 * read it. Invariant: every default lies in its row's range (config.c asserts it).
 */
#include "config.h"

#include <ctype.h>
#include <limits.h>
#include <string.h>
#include <sys/un.h>

/* No name is longer, so what was typed and is longer is near to none. */
#define TYPED_MAX_BYTES 64
#define SOCKET_PATH_MAX_BYTES (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

#define KIB(n) (INT64_C(n) << 10)
#define MIB(n) (INT64_C(n) << 20)
#define TIB(n) (INT64_C(n) << 40)
#define SECONDS(n) (INT64_C(n) * 1000)
#define DAYS(n) (INT64_C(n) * 24 * 60 * 60 * 1000)

static const struct config_choice styles[] = {
	{ "auto", CONFIG_STYLE_AUTO },
	{ "path", CONFIG_STYLE_PATH },
	{ "query", CONFIG_STYLE_QUERY },
	{ "as-received", CONFIG_STYLE_AS_RECEIVED },
	{ NULL, 0 },
};

static const struct config_choice when_full[] = {
	{ "evict", CONFIG_WHEN_FULL_EVICT },
	{ "reject", CONFIG_WHEN_FULL_REJECT },
	{ NULL, 0 },
};

static const struct config_choice log_levels[] = {
	{ "err", LOG_LEVEL_ERR },
	{ "warning", LOG_LEVEL_WARNING },
	{ "notice", LOG_LEVEL_NOTICE },
	{ "info", LOG_LEVEL_INFO },
	{ "debug", LOG_LEVEL_DEBUG },
	{ NULL, 0 },
};

static const struct config_choice log_formats[] = {
	{ "auto", LOG_FORMAT_AUTO },
	{ "text", LOG_FORMAT_TEXT },
	{ "json", LOG_FORMAT_JSON },
	{ NULL, 0 },
};

#define ROW(s, k, member)                                                                \
	.section = (s), .key = (k), .offset = offsetof(struct config, member)

/* clang-format off */
static const struct config_setting settings[] = {
	{ ROW("listen", "http", listen.http), .type = CONFIG_ADDRESSES,
	  .default_text = "127.0.0.1:6097, [::1]:6097", .min = 1, .max = 64,
	  .help = "Addresses that take posts over HTTP",
	  .reload = CONFIG_RELOAD_RESTART },
	{ ROW("listen", "max_connections", listen.max_connections), .type = CONFIG_COUNT,
	  .default_text = "512", .min = 1, .max = 65536, .unit = "connections",
	  .help = "Connections open at once; further ones wait" },
	{ ROW("listen", "idle_timeout", listen.idle_timeout_ms), .type = CONFIG_DURATION,
	  .default_text = "30s", .min = 100, .max = DAYS(1),
	  .help = "A connection on which nothing comes for so long is closed" },

	{ ROW("intake", "max_body", intake.max_body_bytes), .type = CONFIG_SIZE,
	  .default_text = "512M", .min = 1, .max = TIB(1),
	  .help = "Largest body of a post, as received" },
	{ ROW("intake", "max_decoded", intake.max_decoded_bytes), .type = CONFIG_SIZE,
	  .default_text = "2G", .min = 1, .max = TIB(16),
	  .help = "Largest body of a post after gzip or deflate is undone" },
	{ ROW("intake", "max_ratio", intake.max_ratio), .type = CONFIG_COUNT,
	  .default_text = "200", .min = 1, .max = 1000000, .unit = "times",
	  .help = "How many times larger a compressed body may become" },
	{ ROW("intake", "max_parts", intake.max_parts), .type = CONFIG_COUNT,
	  .default_text = "256", .min = 1, .max = 100000, .unit = "parts",
	  .help = "Most parts of a multipart body" },
	{ ROW("intake", "max_attributes_bytes", intake.max_attributes_bytes), .type = CONFIG_SIZE,
	  .default_text = "1M", .min = 1, .max = MIB(64),
	  .help = "Largest sum of the names and values of a report's attributes" },
	{ ROW("intake", "formats", intake.formats), .type = CONFIG_WORDS,
	  .min = 0, .max = 64,
	  .help = "Formats that are taken, such as minidump, json; empty for all" },

	{ ROW("upstream", "url", upstream.url), .type = CONFIG_URL, .min = 1, .max = 4096,
	  .help = "Where reports go: http or https, host, and port or path where needed" },
	{ ROW("upstream", "style", upstream.style), .type = CONFIG_ENUM,
	  .default_text = "auto", .choices = styles,
	  .help = "Form of the upstream's URLs: auto, path, query or as-received" },
	{ ROW("upstream", "universe", upstream.universe), .type = CONFIG_WORD, .min = 1, .max = 256,
	  .help = "Universe for a path form made from a query form that names none" },
	{ ROW("upstream", "token", upstream.token), .type = CONFIG_WORD, .min = 1, .max = 1024,
	  .secret = true,
	  .help = "Token to use upstream in place of the client's" },
	{ ROW("upstream", "proxy", upstream.proxy), .type = CONFIG_PROXY, .min = 1, .max = 4096,
	  .secret = true,
	  .help = "Proxy on the way to the upstream; the environment's is never used" },
	{ ROW("upstream", "ca_file", upstream.ca_file), .type = CONFIG_PATH,
	  .min = 1, .max = PATH_MAX - 1,
	  .help = "Certificates (PEM) to trust for https, in place of the system's" },
	{ ROW("upstream", "connect_timeout", upstream.connect_timeout_ms), .type = CONFIG_DURATION,
	  .default_text = "10s", .min = 100, .max = SECONDS(3600),
	  .help = "How long a connection to the upstream may take to open" },
	{ ROW("upstream", "stall_timeout", upstream.stall_timeout_ms), .type = CONFIG_DURATION,
	  .default_text = "60s", .min = 100, .max = DAYS(1),
	  .help = "An upload that does not move for so long is given up, and tried again" },

	{ ROW("spool", "directory", spool.directory), .type = CONFIG_PATH,
	  .min = 1, .max = PATH_MAX - 64,
	  .help = "Where reports are kept",
	  .reload = CONFIG_RELOAD_RESTART },
	{ ROW("spool", "max_bytes", spool.max_bytes), .type = CONFIG_SIZE,
	  .default_text = "10G", .min = KIB(64), .max = TIB(1024),
	  .help = "What the spool may take on disk" },
	{ ROW("spool", "max_reports", spool.max_reports), .type = CONFIG_COUNT,
	  .default_text = "1000000", .min = 1, .max = 1000000000, .unit = "reports",
	  .help = "How many reports the spool may hold" },
	{ ROW("spool", "max_age", spool.max_age_ms), .type = CONFIG_DURATION,
	  .default_text = "30d", .min = SECONDS(1), .max = DAYS(36500),
	  .help = "A report that could not be sent for so long expires" },
	{ ROW("spool", "min_free", spool.min_free_bytes), .type = CONFIG_SIZE, .takes_auto = true,
	  .default_text = "auto", .min = 0, .max = TIB(1024),
	  .help = "Free space to leave on the disk; auto is 1G or 5% of it, the smaller" },
	{ ROW("spool", "reserve", spool.reserve_bytes), .type = CONFIG_SIZE,
	  .default_text = "16M", .min = 0, .max = TIB(1),
	  .help = "Space held back, and given up when the disk is full so that draining goes on" },
	{ ROW("spool", "when_full", spool.when_full), .type = CONFIG_ENUM,
	  .default_text = "evict", .choices = when_full,
	  .help = "What gives way in a full spool: older reports (evict), or new ones (reject)" },
	{ ROW("spool", "keep_sent", spool.keep_sent_ms), .type = CONFIG_DURATION,
	  .default_text = "7d", .min = 0, .max = DAYS(36500),
	  .help = "How long a sent report is remembered, without its payload" },
	{ ROW("spool", "keep_dead", spool.keep_dead_ms), .type = CONFIG_DURATION,
	  .default_text = "30d", .min = 0, .max = DAYS(36500),
	  .help = "How long a report that the upstream will never take is kept" },

	{ ROW("forward", "concurrency", forward.concurrency), .type = CONFIG_COUNT,
	  .default_text = "4", .min = 1, .max = 64, .unit = "uploads",
	  .help = "Uploads at once" },
	{ ROW("forward", "retry_min", forward.retry_min_ms), .type = CONFIG_DURATION,
	  .default_text = "1s", .min = 10, .max = DAYS(1),
	  .help = "Wait before the first new attempt; it grows from one to the next" },
	{ ROW("forward", "retry_max", forward.retry_max_ms), .type = CONFIG_DURATION,
	  .default_text = "5m", .min = 10, .max = DAYS(30),
	  .help = "Longest wait between two attempts" },

	{ ROW("control", "socket", control.socket), .type = CONFIG_PATH,
	  .min = 1, .max = SOCKET_PATH_MAX_BYTES,
	  .help = "Unix socket on which the relay is inspected and controlled" },

	{ ROW("daemon", "stop_timeout", daemon.stop_timeout_ms), .type = CONFIG_DURATION,
	  .default_text = "10s", .min = 0, .max = SECONDS(3600),
	  .help = "How long a stop waits for posts that are being received" },

	{ ROW("log", "level", log.level), .type = CONFIG_ENUM,
	  .default_text = "info", .choices = log_levels,
	  .help = "The least urgent lines that are shown: err, warning, notice, info or debug" },
	{ ROW("log", "format", log.format), .type = CONFIG_ENUM,
	  .default_text = "auto", .choices = log_formats,
	  .help = "Form of a line: auto (the journal's under systemd, else text), text or json" },
};
/* clang-format on */

const struct config_setting *config_settings(size_t *ret_count)
{
	*ret_count = ARRAY_LEN(settings);
	return settings;
}

const struct config_setting *config_find_setting(const char *section, const char *key)
{
	for (size_t i = 0; i < ARRAY_LEN(settings); i++)
		if (strcmp(settings[i].section, section) == 0 &&
		    strcmp(settings[i].key, key) == 0)
			return &settings[i];
	return NULL;
}

void *config_field(struct config *c, const struct config_setting *s)
{
	return (char *)c + s->offset;
}

void config_done(struct config *c)
{
	for (size_t i = 0; i < ARRAY_LEN(settings); i++)
		config_value_clear(&settings[i], config_field(c, &settings[i]));
	free(c->upstream.name);
	*c = (struct config){ 0 };
}

size_t config_reload_needs_restart(const struct config *old, const struct config *new,
    void (*needs_restart)(void *cls, const struct config_setting *s), void *cls)
{
	size_t count = 0;

	for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
		const struct config_setting *s = &settings[i];

		if (s->reload != CONFIG_RELOAD_RESTART ||
		    config_value_equal(
			s, (const char *)old + s->offset, (const char *)new + s->offset))
			continue;
		needs_restart(cls, s);
		count++;
	}
	return count;
}

/* The i-th name to choose from: a key of the section, or with NULL a section; NULL when
 * row i adds none. */
static const char *known_name(const char *section, size_t i)
{
	const struct config_setting *s = &settings[i];

	if (section)
		return strcmp(s->section, section) == 0 ? s->key : NULL;
	return i == 0 || strcmp(s->section, s[-1].section) != 0 ? s->section : NULL;
}

/* How many letters one must insert, remove, replace or swap with the next to come from a
 * to b, case aside; more than max counts as max + 1. */
static size_t edit_distance(const char *a, const char *b, size_t max)
{
	size_t row[3][TYPED_MAX_BYTES + 1];
	size_t *before = row[0], *last = row[1], *now = row[2];
	size_t la = strlen(a), lb = strlen(b);

	if (la > TYPED_MAX_BYTES || lb > TYPED_MAX_BYTES)
		return max + 1;
	for (size_t j = 0; j <= lb; j++)
		last[j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t *spare = before;

		now[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			int ca = tolower((unsigned char)a[i - 1]);
			int cb = tolower((unsigned char)b[j - 1]);
			size_t best = last[j - 1] + (ca != cb);

			if (last[j] + 1 < best)
				best = last[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
			    cb == tolower((unsigned char)a[i - 2]) &&
			    before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			now[j] = best;
		}
		before = last;
		last = now;
		now = spare;
	}
	return last[lb] > max ? max + 1 : last[lb];
}

static const char *nearest_name(const char *section, const char *typed)
{
	size_t len = strlen(typed);
	size_t best = len < 6 ? 1 : len / 3; /* further off is another word */
	const char *nearest = NULL;

	for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
		const char *name = known_name(section, i);
		size_t distance = name ? edit_distance(typed, name, best) : best + 1;

		if (distance < best + (nearest == NULL)) {
			best = distance;
			nearest = name;
		}
	}
	return nearest;
}

void config_suggest_name(struct strbuf *b, const char *section, const char *typed)
{
	const char *open = section ? "" : "[";
	const char *close = section ? "" : "]";
	const char *nearest = nearest_name(section, typed);
	const char *home = NULL;
	const char *sep = "";

	strbuf_add_str(b, "; expected one of ");
	for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
		const char *name = known_name(section, i);

		if (name) {
			strbuf_addf(b, "%s%s%s%s", sep, open, name, close);
			sep = ", ";
		}
		if (section && !home && strcmp(settings[i].key, typed) == 0)
			home = settings[i].section;
	}
	if (home)
		strbuf_addf(b, "; did you mean \"%s\" in [%s]?", typed, home);
	else if (nearest)
		strbuf_addf(b, "; did you mean \"%s%s%s\"?", open, nearest, close);
}
