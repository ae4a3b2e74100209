/* SPDX-License-Identifier: MIT */
/* The syntax of a configuration file: bytes in memory → sections and entries with their
 * line numbers. Knows no section and no key. */
#ifndef RELAY_CONFIG_INI_H
#define RELAY_CONFIG_INI_H

#include <stddef.h>

/* No value is longer than this. */
#define CONFIG_INI_VALUE_MAX_BYTES ((size_t)64 * 1024)

/* Strings are valid during the call only, and free of control bytes but tabs. */
struct config_ini_handler {
	/* "[name]", or "[name "label"]"; label is NULL without one. name is NULL for a
	 * line that begins like a header but is none (syntax_error() was called for it):
	 * what follows belongs to no section that could be told. */
	void (*section)(
	    void *cls, unsigned int line, const char *name, const char *label);

	/* "key = value", without the blanks around both; value may be empty. */
	void (*entry)(void *cls, unsigned int line, const char *key, const char *value);

	/* A line that is neither; what holds nothing of the line's text, which may be
	 * part of a secret. */
	void (*syntax_error)(void *cls, unsigned int line, const char *what);
};

/* Walk over len bytes of data, calling the handler for each line that is neither blank
 * nor a comment. Any bytes will do: lines end in LF or CRLF, a UTF-8 byte order mark is
 * skipped.
 *
 * Rules: blanks at the start of a line mean nothing (no continuation lines). A line whose
 * first other byte is '#' or ';' is a comment. In a value, '#' or ';' begins a comment
 * only after a blank, so that "http://host/#a" and "a;b" are values, and "64K # per body"
 * is 64K. There are no quotes and no escapes.
 *
 * Returns: 0. Errors: -ENOMEM. Threads: any.
 */
int config_ini_parse(
    const char *data, size_t len, const struct config_ini_handler *handler, void *cls);

#endif
