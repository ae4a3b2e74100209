/* SPDX-License-Identifier: MIT */
/* What a setting is (a row of the table in config_table.c) and how the text of one value
 * becomes what the program uses. */
#ifndef RELAY_CONFIG_VALUE_H
#define RELAY_CONFIG_VALUE_H

#include "strbuf.h"

#include <stdint.h>
#include <sys/socket.h>

enum config_type {
	CONFIG_COUNT,    /* int64_t */
	CONFIG_SIZE,     /* int64_t, bytes: 4096, 64K, 10M, 2G, 1T (powers of 1024) */
	CONFIG_DURATION, /* int64_t, milliseconds: 500ms, 30s, 5m, 2h, 7d, or a bare 0 */
	CONFIG_BOOL,     /* bool: yes, no */
	CONFIG_ENUM,     /* an enum: one of the row's words */
	CONFIG_WORD,     /* char *: printable ASCII, no slash */
	CONFIG_PATH,     /* char *: an absolute path */
	CONFIG_URL,      /* char *: http or https, host, port and path only */
	CONFIG_PROXY,    /* char *: http, https, socks4, socks4a, socks5 or socks5h */
	CONFIG_WORDS,    /* struct config_words */
	CONFIG_ADDRESSES /* struct config_addresses: 127.0.0.1:80, [::1]:80, localhost:80
			  */
};

/* Whether a reload can put a new value in force (interface.md, section 3). */
enum config_reload {
	CONFIG_RELOAD_LIVE,
	CONFIG_RELOAD_RESTART
};

struct config_choice {
	const char *word; /* NULL ends a list of choices */
	int value;
};

/* In place of a size, where the row says takes_auto. */
#define CONFIG_AUTO INT64_C(-1)

struct config_setting {
	const char *section;
	const char *key;
	enum config_type type;
	const char *default_text; /* NULL: not set */

	/* Both included. A number's range in its own unit; the number of items of a list;
	 * the length of other texts in bytes. */
	int64_t min;
	int64_t max;

	const char *unit;                    /* what a COUNT counts; else NULL */
	const char *help;                    /* one line, without a full stop */
	size_t offset;                       /* of the value in struct config */
	const struct config_choice *choices; /* ENUM */
	bool takes_auto;                     /* SIZE: also "auto" */
	bool secret;                         /* never shown, also when it is wrong */
	enum config_reload reload;
};

struct config_words {
	char **items;
	size_t count;
};

struct config_address {
	struct sockaddr_storage addr;
	socklen_t len;

	/* Nobody named this very address: it comes from the default, or is the IPv6 half
	 * of "localhost". A machine without its address family may go without it. */
	bool implied;
};

struct config_addresses {
	struct config_address *items;
	size_t count;
};

/* Whether several values of the setting add up. */
bool config_value_is_list(const struct config_setting *s);

/* Read text as the row s asks and store it in *field, which is of the row's type and
 * holds a valid value (zero is one). A scalar is replaced; to a list the items are added.
 *
 * Errors:  -EINVAL, and *why is given "what is wrong; expected ...", without any part of
 *          a secret; a scalar is unchanged then, a list may hold some of the items.
 *          -ENOMEM.
 * Threads: any.
 */
int config_value_set(const struct config_setting *s, const char *text, void *field,
    struct strbuf *why) MUST_CHECK;

/* Free what *field owns and make it zero. */
void config_value_clear(const struct config_setting *s, void *field);

/* Whether two values mean the same; the order of a list counts. */
bool config_value_equal(const struct config_setting *s, const void *a, const void *b);

#endif
