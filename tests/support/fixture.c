/* SPDX-License-Identifier: MIT */
/* Owns the reading of the fixtures folder. The dechunker is plain and strict: recorded
 * framing is sound up to the point where the recording ends. */
#include "fixture.h"

#include <criterion/criterion.h>
#include <nettle/sha2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static const char *folder(void)
{
	const char *s = getenv("RELAY_FIXTURES");

	return s && *s ? s : RELAY_FIXTURES_DIR;
}

char *fixture_path(const char *sub, const char *name)
{
	char *path = NULL;

	cr_assert_geq(asprintf(&path, "%s/%s/%s", folder(), sub, name), 0);
	return path;
}

bool fixture_available(void)
{
	char *path = fixture_path("requests", "expected.json");
	bool found = access(path, R_OK) == 0;

	free(path);
	return found;
}

unsigned char *fixture_read(const char *sub, const char *name, size_t *ret_len)
{
	char *path = fixture_path(sub, name);
	FILE *f = fopen(path, "rbe");
	unsigned char *data;
	long size;

	cr_assert_not_null(f, "%s can't be opened", path);
	cr_assert_eq(fseek(f, 0, SEEK_END), 0);
	size = ftell(f);
	cr_assert_geq(size, 0);
	rewind(f);
	data = malloc((size_t)size + 1);
	cr_assert_not_null(data);
	cr_assert_eq(fread(data, 1, (size_t)size, f), (size_t)size, "%s", path);
	data[size] = '\0';
	(void)fclose(f); /* only read */
	free(path);
	*ret_len = (size_t)size;
	return data;
}

/* Remove the framing of a chunked body; returns whether its last chunk was there. */
static bool dechunk(
    const unsigned char *p, size_t len, unsigned char *out, size_t *ret_len)
{
	const unsigned char *end = p + len;

	*ret_len = 0;
	for (;;) {
		const unsigned char *eol = memmem(p, (size_t)(end - p), "\r\n", 2);
		size_t size;

		if (!eol)
			return false;
		size = strtoul((const char *)p, NULL, 16);
		p = eol + 2;
		if (size == 0)
			return true;
		if (size > (size_t)(end - p)) {
			memcpy(out + *ret_len, p, (size_t)(end - p));
			*ret_len += (size_t)(end - p);
			return false;
		}
		memcpy(out + *ret_len, p, size);
		*ret_len += size;
		p += size;
		if (end - p < 2)
			return false;
		p += 2;
	}
}

static void split_body(struct fixture *f)
{
	const unsigned char *entity = f->raw + f->head_len;
	size_t len = f->raw_len - f->head_len;
	char *coding = fixture_header(f, "Transfer-Encoding");
	char *length = fixture_header(f, "Content-Length");

	f->body = malloc(len + 1);
	cr_assert_not_null(f->body);
	f->is_chunked = coding && strcasecmp(coding, "chunked") == 0;
	if (f->is_chunked) {
		f->is_complete = dechunk(entity, len, f->body, &f->body_len);
	} else {
		memcpy(f->body, entity, len);
		f->body_len = len;
		f->is_complete = len == (length ? strtoul(length, NULL, 10) : 0);
	}
	free(coding);
	free(length);
}

void fixture_load(const char *name, struct fixture *ret)
{
	struct fixture f = { 0 };
	const unsigned char *blank;

	f.raw = fixture_read("requests", name, &f.raw_len);
	blank = memmem(f.raw, f.raw_len, "\r\n\r\n", 4);
	cr_assert_not_null(blank, "%s has no head", name);
	f.head_len = (size_t)(blank - f.raw) + 4;
	cr_assert_eq(
	    sscanf((const char *)f.raw, "%ms %ms %ms", &f.method, &f.target, &f.version),
	    3, "%s has no request line", name);
	split_body(&f);
	*ret = f;
}

void fixture_done(struct fixture *f)
{
	free(f->raw);
	free(f->method);
	free(f->target);
	free(f->version);
	free(f->body);
	*f = (struct fixture){ 0 };
}

char *fixture_header(const struct fixture *f, const char *name)
{
	const char *line = (const char *)f->raw;
	const char *end = line + f->head_len;
	size_t len = strlen(name);

	while ((line = memmem(line, (size_t)(end - line), "\r\n", 2))) {
		line += 2;
		if ((size_t)(end - line) > len && strncasecmp(line, name, len) == 0 &&
		    line[len] == ':') {
			const char *value = line + len + 1;

			value += strspn(value, " \t");
			return strndup(value, strcspn(value, "\r"));
		}
	}
	return NULL;
}

json_t *fixture_expected(void)
{
	char *path = fixture_path("requests", "expected.json");
	json_error_t error;
	json_t *all = json_load_file(path, 0, &error);

	cr_assert(json_is_array(all), "%s: line %d: %s", path, error.line, error.text);
	free(path);
	return all;
}

const char *fixture_string(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

void fixture_sha256(const void *data, size_t len, char out[FIXTURE_SHA256_SIZE])
{
	struct sha256_ctx hash;
	uint8_t digest[SHA256_DIGEST_SIZE];

	sha256_init(&hash);
	sha256_update(&hash, len, data);
	sha256_digest(&hash, sizeof(digest), digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		(void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
}
