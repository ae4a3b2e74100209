/* SPDX-License-Identifier: MIT */
/* Owns the one payload store under test and the records that tests put into it. */
#include "segment_kit.h"

#include "bytes.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

/* Too little for a spare segment to be prepared: keeps tests from waiting for 16 MiB of
 * zeros that they do not need. */
#define NO_SPARES (UINT64_C(40) << 20)

struct segment_kit sk = { .dir_fd = -1 };

void sk_open(void)
{
	cr_assert_eq(segment_store_open(sk.dir_fd, &sk.store, &sk.discarded), 0);
	segment_set_disk_limit(sk.store, NO_SPARES);
}

void sk_start(void)
{
	cr_assert_eq(segment_store_start(sk.store), 0);
}

void sk_close(void)
{
	sk.store = segment_store_close(sk.store);
}

void sk_set_up(void)
{
	sk.dir = tempdir_new();
	sk.dir_fd = open(sk.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert_geq(sk.dir_fd, 0);
	sk_open();
	sk_start();
}

void sk_tear_down(void)
{
	sk_close();
	cleanup_close(&sk.dir_fd);
	sk.dir_fd = -1;
	sk.dir = tempdir_free(sk.dir);
}

struct record sk_name(struct sk_record *p)
{
	struct record r = { .seq = p->seq,
		.received_at_ms = 1000 + p->seq,
		.strings = { .universe = "u",
		    .token = "token",
		    .format = "minidump",
		    .target = "/post?token=token",
		    .content_type = "text/plain" } };

	cr_assert_eq(rxid_make(r.received_at_ms, &p->rxid), 0);
	r.rxid = p->rxid;
	return r;
}

uint8_t *sk_body(const struct sk_record *p)
{
	uint8_t *body = malloc(p->len + 1);

	cr_assert_not_null(body);
	bytes_fill(body, p->len, (uint64_t)p->seq);
	return body;
}

struct segment_writer *sk_write_bytes(const void *data, size_t len)
{
	struct segment_writer *w = NULL;
	const uint8_t *p = data;
	size_t step = 60000;

	cr_assert_eq(segment_writer_new(sk.store, &w), 0);
	for (size_t at = 0; at < len; at += step)
		cr_assert_eq(
		    segment_writer_add(w, p + at, len - at < step ? len - at : step), 0);
	cr_assert_eq(segment_writer_bytes(w), len);
	return w;
}

struct segment_writer *sk_write(const struct sk_record *p)
{
	CLEANUP(cleanup_free) uint8_t *body = sk_body(p);

	return sk_write_bytes(body, p->len);
}

void sk_place(struct sk_record *p, struct segment_writer *w)
{
	struct record r = sk_name(p);

	cr_assert_eq(segment_writer_place(w, &r, &p->ref), 0);
	cr_assert_eq(p->ref.body_bytes, segment_writer_bytes(w));
	if (segment_writer_is_large(w))
		cr_assert_eq(segment_writer_seal(w), 0);
	segment_writer_free(w);
}

struct sk_record sk_store(int64_t seq, size_t len)
{
	struct sk_record p = { .seq = seq, .len = len };

	sk_place(&p, sk_write(&p));
	cr_assert_eq(segment_sync(sk.store, &p.ref, 1), 0);
	segment_commit(sk.store, &p.ref);
	return p;
}

void sk_release(const struct sk_record *p)
{
	segment_release(sk.store, &p->ref, p->seq);
}

char *sk_path(const struct payload_ref *ref, int64_t seq)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	if (ref->segment == 0)
		strbuf_addf(&b, "large/%016" PRIx64 ".rec", (uint64_t)seq);
	else
		strbuf_addf(&b, "segments/%08" PRIu32, ref->segment);
	return tempdir_join(sk.dir, strbuf_str(&b));
}

void sk_flip(const struct sk_record *p, uint64_t at)
{
	CLEANUP(cleanup_free) char *path = sk_path(&p->ref, p->seq);

	cr_assert(bytes_flip(path, p->ref.offset + at));
}

int sk_open_reader(const struct sk_record *p, struct segment_reader **ret)
{
	return segment_reader_open(sk.store, &p->ref, p->seq, &p->rxid, ret);
}

ssize_t sk_read(struct segment_reader *rd, uint8_t *out, size_t step, size_t *ret)
{
	ssize_t n;

	*ret = 0;
	while ((n = segment_reader_read(rd, out + *ret, step)) > 0)
		*ret += (size_t)n;
	return n;
}

void sk_assert_readable(const struct sk_record *p)
{
	CLEANUP(cleanup_free) uint8_t *expected = sk_body(p);
	CLEANUP(cleanup_free) uint8_t *got = malloc(p->len + SK_BLOCK);
	struct segment_reader *rd = NULL;
	size_t len;

	cr_assert_not_null(got);
	cr_assert_eq(sk_open_reader(p, &rd), 0, "record %" PRId64, p->seq);
	cr_assert_eq(sk_read(rd, got, SK_BLOCK, &len), 0, "record %" PRId64, p->seq);
	cr_assert_eq(len, p->len);
	cr_assert_arr_eq(got, expected, p->len);
	segment_reader_close(rd);
}

bool sk_is_readable(const struct sk_record *p)
{
	CLEANUP(cleanup_free) uint8_t *got = malloc(p->len + SK_BLOCK);
	struct segment_reader *rd = NULL;
	bool good = false;
	size_t len;

	cr_assert_not_null(got);
	if (sk_open_reader(p, &rd) == 0)
		good = sk_read(rd, got, 65536, &len) == 0 && len == p->len;
	segment_reader_close(rd);
	return good;
}

size_t sk_count_files(const char *folder)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(sk.dir, folder);
	DIR *d = opendir(path);
	const struct dirent *e;
	size_t n = 0;

	cr_assert_not_null(d);
	while ((e = readdir(d)))
		n += e->d_name[0] != '.';
	(void)closedir(d);
	return n;
}

int sk_keep_found(
    void *cls, const struct record *r, const struct payload_ref *ref, bool whole)
{
	struct sk_found *f = cls;

	cr_assert_lt(f->count, ARRAY_LEN(f->list));
	f->list[f->count].seq = r->seq;
	f->list[f->count].ref = *ref;
	f->list[f->count++].whole = whole;
	return 0;
}

void sk_scan_since(uint64_t since, struct sk_found *f)
{
	f->count = 0;
	cr_assert_eq(segment_scan(sk.store, since, sk_keep_found, f), 0);
}

void sk_scan_all(struct sk_found *f)
{
	sk_scan_since(0, f);
}

void sk_scan_large(bool check_bodies, struct sk_found *f, uint64_t *ret_damaged)
{
	f->count = 0;
	cr_assert_eq(
	    segment_scan_large(sk.store, check_bodies, sk_keep_found, f, ret_damaged), 0);
}

bool sk_has_found(const struct sk_found *f, const struct sk_record *p, bool whole)
{
	for (size_t i = 0; i < f->count; i++)
		if (f->list[i].seq == p->seq && f->list[i].whole == whole &&
		    f->list[i].ref.segment == p->ref.segment &&
		    f->list[i].ref.offset == p->ref.offset &&
		    f->list[i].ref.header_bytes == p->ref.header_bytes &&
		    f->list[i].ref.body_bytes == p->ref.body_bytes)
			return true;
	return false;
}

void sk_reopen(void)
{
	sk_close();
	sk_open();
}
