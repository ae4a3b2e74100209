/* SPDX-License-Identifier: MIT */
/* Reading the payload store: what is damaged is seen, what was not ours is never found, and
 * neither hides its neighbours. */
#include "segment.h"

#include "bytes.h"
#include "segment_kit.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define BLOCK SK_BLOCK
#define KIB 1024u
#define MIB (1024u * KIB)

TestSuite(segment_read, .init = sk_set_up, .fini = sk_tear_down, .timeout = 20);

/* Finding records again */

Test(segment_read, a_scan_finds_all_records_where_they_lie)
{
	struct sk_record placed[20];
	struct sk_found f;

	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		placed[i] = sk_store((int64_t)i + 1, i % 3 ? MIB : 100 * i);
	sk_reopen();
	sk_scan_all(&f);
	cr_assert_eq(f.count, ARRAY_LEN(placed));
	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		cr_assert(sk_has_found(&f, &placed[i], true), "record %zu", i);
}

/* After a kill only the segments used last can hold what the index does not know. */
Test(segment_read, a_scan_from_an_activation_on_finds_what_came_after_it)
{
	struct sk_record placed[40];
	uint64_t activation_of[40];
	struct sk_found f;

	for (size_t i = 0; i < ARRAY_LEN(placed); i++) {
		placed[i] = sk_store((int64_t)i + 1, MIB);
		activation_of[i] = segment_last_activation(sk.store);
	}
	sk_reopen();
	cr_assert_eq(segment_last_activation(sk.store), activation_of[39]);
	cr_assert_geq(activation_of[39], activation_of[0] + 2);
	for (uint64_t since = 0; since <= activation_of[39]; since++) {
		sk_scan_since(since, &f);
		for (size_t i = 0; i < ARRAY_LEN(placed); i++)
			cr_expect_eq(sk_has_found(&f, &placed[i], true),
			    activation_of[i] > since, "record %zu", i);
	}
	cr_expect_eq(f.count, 0);
}

Test(segment_read, a_record_placed_and_not_synced_is_found_if_it_is_whole)
{
	struct sk_record p = { .seq = 5, .len = 5000 };
	struct sk_found f;

	sk_place(&p, sk_write(&p));
	sk_reopen();
	sk_scan_all(&f);
	cr_assert_eq(f.count, 1);
	cr_assert(sk_has_found(&f, &p, true));
}

static int keep_one(
    void *cls, const struct record *r, const struct payload_ref *ref, bool whole)
{
	(void)sk_keep_found(cls, r, ref, whole);
	return -ECANCELED;
}

Test(segment_read, a_scan_stops_when_told_so)
{
	struct sk_found f = { .count = 0 };
	uint64_t damaged = 0;

	for (int64_t seq = 1; seq <= 3; seq++)
		(void)sk_store(seq, 10);
	for (int64_t seq = 4; seq <= 6; seq++)
		(void)sk_store(seq, 2 * MIB);
	cr_expect_eq(segment_scan(sk.store, 0, keep_one, &f), -ECANCELED);
	cr_expect_eq(f.count, 1);
	cr_expect_eq(
	    segment_scan_large(sk.store, true, keep_one, &f, &damaged), -ECANCELED);
	cr_expect_eq(f.count, 2);
}

Test(segment_read, nothing_of_an_earlier_use_is_found)
{
	struct sk_record old[4];
	struct sk_record fresh;
	struct sk_found f;
	size_t file_len;
	CLEANUP(cleanup_free) char *path = NULL;
	CLEANUP(cleanup_free) uint8_t *raw = NULL;

	for (size_t i = 0; i < ARRAY_LEN(old); i++)
		old[i] = sk_store((int64_t)i + 1, 5000);
	sk_reopen();
	sk_start(); /* nothing adopted: all is free */
	fresh = sk_store(9, 5000);
	cr_assert_eq(fresh.ref.segment, old[0].ref.segment);
	path = sk_path(&fresh.ref, fresh.seq);
	sk_reopen();
	/* The old bytes are there. */
	raw = bytes_read_file(path, &file_len);
	cr_assert_not_null(raw);
	cr_assert_arr_eq(raw + old[2].ref.offset, "MDRELAY", 7);
	sk_scan_all(&f);
	cr_expect_eq(f.count, 1);
	cr_expect(sk_has_found(&f, &fresh, true));
	/* Also when only the first record tells which use it is. */
	cr_assert(bytes_flip(path, 10));
	sk_reopen();
	sk_scan_all(&f);
	cr_expect_eq(f.count, 1);
	cr_expect(sk_has_found(&f, &fresh, true));
}

/* A client may post anything, also what a thief has copied from the disk: here a body
 * with a copy of another record on each block, every second one with the offset set right
 * and the epoch left to guess. */
static uint8_t *forge_body(const struct sk_record *victim, uint64_t at, size_t len)
{
	CLEANUP(cleanup_free) char *path = sk_path(&victim->ref, victim->seq);
	uint32_t header_bytes = victim->ref.header_bytes;
	uint8_t *body = calloc(1, len);
	size_t file_len;
	CLEANUP(cleanup_free) uint8_t *raw = bytes_read_file(path, &file_len);
	const uint8_t *copy = raw + victim->ref.offset;
	size_t copy_bytes = (size_t)segment_record_bytes(&victim->ref);

	cr_assert(body && raw);
	cr_assert_leq(victim->ref.offset + copy_bytes, file_len);
	for (uint64_t block = 1; block * BLOCK + copy_bytes < len; block++) {
		uint8_t *to = body + block * BLOCK - header_bytes;
		CLEANUP(strbuf_done) struct strbuf header = STRBUF_INIT;
		CLEANUP(strbuf_done) struct strbuf arena = STRBUF_INIT;
		struct record r;
		size_t need;

		memcpy(to, copy, copy_bytes);
		if (block % 2)
			continue;
		cr_assert_eq(
		    record_decode(copy, header_bytes, &arena, &r, &need), RECORD_OK);
		memset(r.epoch, 0, sizeof(r.epoch));
		r.offset = at + block * BLOCK;
		r.seq += 1000;
		cr_assert_eq(record_encode(&r, &header, &header_bytes), 0);
		memcpy(to, header.data, header_bytes);
	}
	return body;
}

Test(segment_read, a_record_inside_a_body_is_never_found)
{
	struct sk_record victim = sk_store(1, 3000);
	struct sk_record forger = { .seq = 2, .len = 10 * BLOCK };
	uint64_t at = victim.ref.offset + segment_record_bytes(&victim.ref);
	CLEANUP(cleanup_free) uint8_t *body = forge_body(&victim, at, forger.len);
	struct sk_record copied = victim;
	struct segment_reader *rd = NULL;
	struct sk_record last;
	struct sk_found f;

	cr_assert_eq(segment_record_bytes(&victim.ref), BLOCK);
	sk_place(&forger, sk_write_bytes(body, forger.len));
	cr_assert_eq(segment_sync(sk.store, &forger.ref, 1), 0);
	cr_assert_eq(forger.ref.offset, at);
	cr_assert_eq(forger.ref.header_bytes, victim.ref.header_bytes);
	last = sk_store(3, 100);

	/* A row that was altered to point to the copy does not get it. */
	copied.ref.offset = at + BLOCK;
	cr_expect_eq(sk_open_reader(&copied, &rd), -EBADMSG);
	sk_reopen();
	sk_scan_all(&f);
	cr_expect_eq(f.count, 3);
	cr_expect(sk_has_found(&f, &victim, true));
	cr_expect(sk_has_found(&f, &forger, true));
	cr_expect(sk_has_found(&f, &last, true));

	/* Without its header, a scan looks through the body block by block. */
	sk_flip(&forger, 60);
	sk_scan_all(&f);
	cr_expect_eq(f.count, 2);
	cr_expect(sk_has_found(&f, &victim, true));
	cr_expect(sk_has_found(&f, &last, true));
}

/* Damage */

Test(segment_read, a_damaged_body_fails_at_the_read_that_would_complete_it)
{
	struct sk_record p = sk_store(1, 100000);
	CLEANUP(cleanup_free) uint8_t *expected = sk_body(&p);
	uint8_t buf[30000];
	struct segment_reader *rd = NULL;

	sk_flip(&p, p.ref.header_bytes + 95000);
	cr_assert_eq(sk_open_reader(&p, &rd), 0);
	for (size_t i = 0; i < 3; i++) {
		cr_assert_eq(segment_reader_read(rd, buf, sizeof(buf)), sizeof(buf));
		cr_assert_arr_eq(buf, expected + i * sizeof(buf), sizeof(buf));
	}
	cr_expect_eq(segment_reader_read(rd, buf, 9999), 9999);
	cr_expect_eq(segment_reader_read(rd, buf, sizeof(buf)), -EBADMSG);
	/* And not the second time either. */
	cr_expect_eq(segment_reader_read(rd, buf, sizeof(buf)), -EBADMSG);
	cr_assert_eq(segment_reader_rewind(rd), 0);
	cr_expect_eq(segment_reader_read(rd, buf, sizeof(buf)), sizeof(buf));
	segment_reader_close(rd);
}

Test(segment_read, one_flipped_byte_anywhere_in_a_body_is_seen)
{
	struct sk_record small = sk_store(1, 3000);
	struct sk_record large = sk_store(2, 2 * MIB);

	for (uint64_t at = 0; at < small.len; at += 599) {
		sk_flip(&small, small.ref.header_bytes + at);
		cr_expect_not(sk_is_readable(&small), "byte %" PRIu64, at);
		sk_flip(&small, small.ref.header_bytes + at);
	}
	cr_expect(sk_is_readable(&small));
	for (uint64_t at = 0; at < large.len; at += 700001) {
		sk_flip(&large, large.ref.header_bytes + at);
		cr_expect_not(sk_is_readable(&large), "byte %" PRIu64, at);
		sk_flip(&large, large.ref.header_bytes + at);
	}
	cr_expect(sk_is_readable(&large));
}

Test(segment_read, a_damaged_header_is_seen_before_anything_is_read)
{
	struct sk_record placed[] = { sk_store(1, 3000), sk_store(2, 2 * MIB) };

	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		for (uint64_t at = 0; at < RECORD_HEADER_BYTES + 20; at += 7) {
			struct segment_reader *rd = NULL;

			sk_flip(&placed[i], at);
			cr_expect_eq(sk_open_reader(&placed[i], &rd), -EBADMSG,
			    "byte %" PRIu64, at);
			sk_flip(&placed[i], at);
		}
	sk_assert_readable(&placed[0]);
	sk_assert_readable(&placed[1]);
}

Test(segment_read, a_reference_to_another_record_gives_nothing)
{
	struct sk_record p = sk_store(1, 3000);
	struct sk_record q = sk_store(2, 3000);
	struct segment_reader *rd = NULL;
	struct sk_record wrong[7];

	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		wrong[i] = p;
	wrong[0].ref = q.ref;
	wrong[1].seq = q.seq;
	wrong[2].rxid = q.rxid;
	wrong[3].ref.body_bytes--;
	wrong[4].ref.offset += BLOCK;
	wrong[5].ref.offset = UINT64_C(1) << 40;
	wrong[6].ref.offset += 1;
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		cr_expect_eq(sk_open_reader(&wrong[i], &rd), -EBADMSG, "%zu", i);
	wrong[0] = p;
	wrong[0].ref.segment = 77;
	cr_expect_eq(sk_open_reader(&wrong[0], &rd), -ENOENT);
	wrong[0].ref.segment = 0;
	cr_expect_eq(sk_open_reader(&wrong[0], &rd), -ENOENT);
}

Test(segment_read, a_file_cut_short_is_damaged_and_not_short)
{
	struct sk_record p = sk_store(1, 3000);
	struct sk_record q = sk_store(2, 2 * MIB);
	CLEANUP(cleanup_free) char *segment = sk_path(&p.ref, p.seq);
	CLEANUP(cleanup_free) char *large = sk_path(&q.ref, q.seq);
	uint8_t buf[4000];
	struct segment_reader *rd = NULL;

	cr_assert_eq(truncate(segment, (off_t)(p.ref.offset + 2000)), 0);
	cr_assert_eq(sk_open_reader(&p, &rd), 0);
	cr_expect_eq(segment_reader_read(rd, buf, sizeof(buf)), -EBADMSG);
	segment_reader_close(rd);
	cr_assert_eq(truncate(segment, (off_t)(p.ref.offset + 50)), 0);
	cr_expect_eq(sk_open_reader(&p, &rd), -EBADMSG);
	cr_assert_eq(truncate(segment, 0), 0);
	cr_expect_eq(sk_open_reader(&p, &rd), -EBADMSG);
	cr_assert_eq(truncate(large, MIB), 0);
	cr_expect_not(sk_is_readable(&q));
	cr_assert_eq(unlink(large), 0);
	cr_expect_eq(sk_open_reader(&q, &rd), -ENOENT);
}

Test(segment_read, rewinding_gives_the_whole_body_again)
{
	struct sk_record p = sk_store(1, 100000);
	CLEANUP(cleanup_free) uint8_t *expected = sk_body(&p);
	static uint8_t got[100001];
	struct segment_reader *rd = NULL;
	size_t len;

	cr_assert_eq(sk_open_reader(&p, &rd), 0);
	cr_assert_eq(segment_reader_read(rd, got, 70000), 70000);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(segment_reader_rewind(rd), 0);
		memset(got, 0, sizeof(got));
		cr_assert_eq(sk_read(rd, got, 33333, &len), 0);
		cr_assert_eq(len, p.len);
		cr_assert_arr_eq(got, expected, p.len);
	}
	segment_reader_close(rd);
}

Test(segment_read, damaged_records_do_not_hide_their_neighbours)
{
	struct sk_record placed[5];
	struct sk_found f;

	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		placed[i] = sk_store((int64_t)i + 1, 20000);
	sk_flip(&placed[1], 90);                                /* header */
	sk_flip(&placed[3], placed[3].ref.header_bytes + 7777); /* body */
	sk_reopen();
	sk_scan_all(&f);
	cr_expect_eq(f.count, 4);
	cr_expect(sk_has_found(&f, &placed[0], true));
	cr_expect(sk_has_found(&f, &placed[2], true));
	cr_expect(sk_has_found(&f, &placed[3], false));
	cr_expect(sk_has_found(&f, &placed[4], true));
}

Test(segment_read, records_are_found_without_the_segments_own_header)
{
	struct sk_record placed[3];
	CLEANUP(cleanup_free) char *path = NULL;
	struct sk_found f;

	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		placed[i] = sk_store((int64_t)i + 1, 20000);
	sk_close();
	path = sk_path(&placed[0].ref, 1);
	cr_assert(bytes_overwrite(path, 0, (uint8_t[BLOCK]){ 0 }, BLOCK));
	sk_open();
	for (uint64_t since = 0; since < 100; since += 99) {
		sk_scan_since(since, &f);
		cr_expect_eq(f.count, ARRAY_LEN(placed));
		for (size_t i = 0; i < ARRAY_LEN(placed); i++)
			cr_expect(sk_has_found(&f, &placed[i], true));
	}
	/* And with the first record gone too, nothing is worse than lost. */
	sk_flip(&placed[0], 0);
	sk_scan_all(&f);
	cr_expect_eq(f.count, 0);
	sk_start();
	placed[0] = sk_store(9, 100);
	sk_assert_readable(&placed[0]);
}

Test(segment_read, large_files_are_found_and_strangers_set_aside)
{
	CLEANUP(cleanup_free) char *large = tempdir_join(sk.dir, "large");
	struct sk_record good = sk_store(1, 2 * MIB);
	struct sk_record bad_body = sk_store(2, 2 * MIB);
	struct sk_record bad_header = sk_store(3, 2 * MIB);
	struct sk_record short_body = sk_store(4, 2 * MIB);
	struct sk_record renamed = sk_store(5, 2 * MIB);
	CLEANUP(cleanup_free) char *short_path = sk_path(&short_body.ref, 4);
	CLEANUP(cleanup_free) char *from = sk_path(&renamed.ref, 5);
	CLEANUP(cleanup_free) char *to = sk_path(&renamed.ref, 6);
	CLEANUP(cleanup_free) char *list = NULL;
	uint64_t damaged = 0;
	struct sk_found f;

	sk_flip(&bad_body, bad_body.ref.header_bytes + MIB);
	sk_flip(&bad_header, 50);
	cr_assert_eq(truncate(short_path, MIB), 0);
	cr_assert_eq(rename(from, to), 0);
	tempdir_write(large, "stranger.rec", "not a record");
	tempdir_write(large, "note.txt", "not even a name");

	sk_scan_large(true, &f, &damaged);
	cr_expect_eq(damaged, 3);
	cr_expect_eq(f.count, 3);
	cr_expect(sk_has_found(&f, &good, true));
	cr_expect(sk_has_found(&f, &bad_body, false));
	cr_expect(sk_has_found(&f, &short_body, false));
	list = tempdir_list(sk.dir);
	cr_expect_not_null(strstr(list, "large/0000000000000003.rec.damaged\n"));
	cr_expect_not_null(strstr(list, "large/0000000000000006.rec.damaged\n"));
	cr_expect_not_null(strstr(list, "large/stranger.rec.damaged\n"));
	cr_expect_not_null(strstr(list, "large/note.txt\n"));

	/* Once only; and a body that is trusted is not read. */
	sk_scan_large(false, &f, &damaged);
	cr_expect_eq(damaged, 0);
	cr_expect_eq(f.count, 3);
	cr_expect(sk_has_found(&f, &bad_body, true));
	cr_expect(sk_has_found(&f, &short_body, false));
}
