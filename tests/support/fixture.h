/* SPDX-License-Identifier: MIT */
/* Recorded requests from the optional fixtures folder: NAME.http cut into head and body,
 * chunk framing removed, and what a correct reader finds in each (expected.json). Call
 * from a test's own thread; a fixture that can't be read fails the running test. */
#ifndef TESTS_FIXTURE_H
#define TESTS_FIXTURE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct fixture {
	unsigned char *raw; /* the whole request as it came off the socket */
	size_t raw_len;
	size_t head_len; /* of raw: the head with its empty line */
	char *method;
	char *target;
	char *version;
	unsigned char *body; /* dechunked, content coding kept */
	size_t body_len;
	bool is_chunked;
	bool is_complete; /* the framing came to its end */
};

/* Whether the folder is there: $RELAY_FIXTURES, else where the build expects it. A test
 * that needs it begins with
 *	if (!fixture_available()) cr_skip_test("request fixtures absent"); */
bool fixture_available(void);

/* "FOLDER/sub/name" on the heap; the caller frees it. */
char *fixture_path(const char *sub, const char *name);

/* The content of a file of the folder; the caller frees it. */
unsigned char *fixture_read(const char *sub, const char *name, size_t *ret_len);

/* Load requests/NAME. The caller ends it with fixture_done(). */
void fixture_load(const char *name, struct fixture *ret);

void fixture_done(struct fixture *f);

/* Value of a request header on the heap, name in any case; NULL if absent. */
char *fixture_header(const struct fixture *f, const char *name);

/* requests/expected.json, an array of one object per request; the caller owns it. */
json_t *fixture_expected(void);

/* A string member of an object; NULL for null or absent. */
const char *fixture_string(const json_t *object, const char *key);

/* Lower-case hex SHA-256, with NUL. */
#define FIXTURE_SHA256_SIZE 65
void fixture_sha256(const void *data, size_t len, char out[FIXTURE_SHA256_SIZE]);

#endif
