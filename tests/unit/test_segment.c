/* SPDX-License-Identifier: MIT */
/* The payload store while it takes and gives up records: what was synced is read back,
 * disk is used again, and what it says about its disk space is true. */
#include "segment.h"

#include "bytes.h"
#include "fsutil.h"
#include "segment_kit.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#define BLOCK SK_BLOCK
#define KIB 1024u
#define MIB (1024u * KIB)

TestSuite(segment, .init = sk_set_up, .fini = sk_tear_down, .timeout = 20);

/* A store that may take much disk, and so fills each segment to its end. */
static void allow_much_disk(void)
{
	segment_set_disk_limit(sk.store, UINT64_MAX);
}

/* Storing and reading */

Test(segment, records_of_all_sizes_are_read_back)
{
	static const size_t sizes[] = { 0, 1, 3800, 3900, 4000, 4096, 8192, 64 * KIB - 1,
		64 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1, 3 * MIB };
	struct sk_record placed[ARRAY_LEN(sizes)];

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		placed[i] = sk_store((int64_t)i + 1, sizes[i]);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		sk_assert_readable(&placed[i]);
	sk_reopen();
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		sk_assert_readable(&placed[i]);
}

Test(segment, what_the_client_sent_with_the_body_is_read_back)
{
	struct sk_record p = sk_store(7, 100);
	struct segment_reader *rd = NULL;
	const struct record *r;

	sk_reopen();
	cr_assert_eq(sk_open_reader(&p, &rd), 0);
	r = segment_reader_record(rd);
	cr_expect_eq(r->seq, 7);
	cr_expect_eq(r->received_at_ms, 1007);
	cr_expect_str_eq(r->strings.universe, "u");
	cr_expect_str_eq(r->strings.token, "token");
	cr_expect_str_eq(r->strings.format, "minidump");
	cr_expect_str_eq(r->strings.target, "/post?token=token");
	cr_expect_str_eq(r->strings.content_type, "text/plain");
	cr_expect_null(r->strings.content_encoding);
	cr_expect_null(r->strings.client);
	segment_reader_close(rd);
}

Test(segment, records_lie_on_blocks_of_their_own)
{
	struct sk_record a = sk_store(1, 10);
	struct sk_record b = sk_store(2, 10000);
	struct sk_record c = sk_store(3, 0);

	cr_expect_eq(a.ref.offset % BLOCK, 0);
	cr_expect_eq(b.ref.offset % BLOCK, 0);
	cr_expect_eq(c.ref.offset % BLOCK, 0);
	cr_expect_geq(b.ref.offset, a.ref.offset + segment_record_bytes(&a.ref));
	cr_expect_geq(c.ref.offset, b.ref.offset + segment_record_bytes(&b.ref));
	cr_expect_eq(segment_record_bytes(&b.ref) % BLOCK, 0);
}

Test(segment, a_record_that_does_not_fit_goes_to_the_next_segment)
{
	struct sk_record placed[17];

	allow_much_disk();
	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		placed[i] = sk_store((int64_t)i + 1, MIB);
	cr_expect_eq(placed[14].ref.segment, placed[0].ref.segment);
	cr_expect_neq(placed[15].ref.segment, placed[0].ref.segment);
	for (size_t i = 0; i < ARRAY_LEN(placed); i++) {
		cr_expect_leq(placed[i].ref.offset + segment_record_bytes(&placed[i].ref),
		    SEGMENT_BYTES);
		sk_assert_readable(&placed[i]);
	}
}

Test(segment, one_sync_makes_records_of_two_segments_durable)
{
	struct sk_record placed[17];
	struct payload_ref refs[ARRAY_LEN(placed)];

	allow_much_disk();
	for (size_t i = 0; i < ARRAY_LEN(placed); i++) {
		placed[i] = (struct sk_record){ .seq = (int64_t)i + 1, .len = MIB };
		sk_place(&placed[i], sk_write(&placed[i]));
		refs[i] = placed[i].ref;
	}
	cr_assert_eq(segment_sync(sk.store, refs, ARRAY_LEN(refs)), 0);
	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		segment_commit(sk.store, &refs[i]);
	sk_reopen();
	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		sk_assert_readable(&placed[i]);
}

Test(segment, strings_too_long_for_a_header_take_no_place)
{
	struct sk_record p = { .seq = 1, .len = 100 };
	struct segment_writer *w = sk_write(&p);
	struct record r = sk_name(&p);
	CLEANUP(cleanup_free) char *target = calloc(1, RECORD_HEADER_MAX + 1);
	struct segment_usage usage;

	cr_assert_not_null(target);
	memset(target, 'x', RECORD_HEADER_MAX);
	r.strings.target = target;
	cr_assert_eq(segment_writer_place(w, &r, &p.ref), -EMSGSIZE);
	segment_writer_free(w);
	segment_get_usage(sk.store, &usage);
	cr_assert_eq(usage.live_bytes, 0);
}

/* Large bodies */

Test(segment, a_large_body_has_its_name_only_once_it_is_sealed)
{
	struct sk_record p = { .seq = 0x1f, .len = 2 * MIB };
	struct segment_writer *w = sk_write(&p);
	struct record r = sk_name(&p);
	CLEANUP(cleanup_free) char *before = NULL;
	CLEANUP(cleanup_free) char *after = NULL;

	cr_assert(segment_writer_is_large(w));
	cr_assert_eq(segment_writer_place(w, &r, &p.ref), 0);
	before = tempdir_list(sk.dir);
	cr_expect_null(strstr(before, ".rec"));
	cr_assert_eq(segment_writer_seal(w), 0);
	segment_writer_free(w);
	after = tempdir_list(sk.dir);
	cr_expect_not_null(strstr(after, "large/000000000000001f.rec\n"));
	cr_expect_null(strstr(after, "incoming"));
	cr_assert_eq(segment_sync(sk.store, &p.ref, 1), 0);
	segment_commit(sk.store, &p.ref);
	sk_assert_readable(&p);
}

Test(segment, bodies_given_up_leave_no_file_and_no_memory)
{
	CLEANUP(cleanup_free) uint8_t *bytes = calloc(1, 2 * MIB);
	struct segment_usage usage;

	cr_assert_not_null(bytes);
	/* Of small ones, twice as many as there is memory for. */
	for (uint64_t i = 0; i < 2 * SEGMENT_BUDGET_BYTES / MIB; i++) {
		struct segment_writer *w = sk_write_bytes(bytes, MIB);

		cr_assert_not(segment_writer_is_large(w));
		segment_writer_free(w);
	}
	for (int i = 0; i < 3; i++) {
		struct sk_record p = { .seq = i + 1, .len = 2 * MIB };
		struct segment_writer *w = sk_write(&p);
		struct record r = sk_name(&p);

		cr_assert_eq(sk_count_files("large"), 1);
		if (i == 1)
			cr_assert_eq(segment_writer_place(w, &r, &p.ref), 0);
		segment_writer_free(w);
		cr_assert_eq(sk_count_files("large"), 0);
	}
	segment_get_usage(sk.store, &usage);
	cr_assert_eq(usage.live_bytes, 0);
}

Test(segment, a_sealed_body_that_is_abandoned_or_released_vanishes)
{
	struct sk_record a = { .seq = 1, .len = 2 * MIB };
	struct sk_record b = sk_store(2, 2 * MIB);
	struct sk_record c = sk_store(3, 2 * MIB);

	sk_place(&a, sk_write(&a));
	segment_abandon(sk.store, &a.ref, a.seq);
	sk_release(&b);
	sk_reopen();
	cr_expect_eq(sk_count_files("large"), 1);
	sk_assert_readable(&c);
}

Test(segment, unfinished_bodies_of_an_earlier_run_are_removed)
{
	CLEANUP(cleanup_free) char *large = tempdir_join(sk.dir, "large");
	struct sk_record kept = sk_store(1, 2 * MIB);

	sk_close();
	tempdir_write(large, "incoming-0", "half");
	tempdir_write(large, "incoming-17", "half");
	sk_open();
	cr_expect_eq(sk.discarded, 2);
	cr_expect_eq(sk_count_files("large"), 1);
	sk_start();
	/* And the names are free again. */
	(void)sk_store(2, 2 * MIB);
	sk_assert_readable(&kept);
}

/* However many bodies come at once: memory is bounded, and none is refused. */
Test(segment, a_body_that_finds_no_memory_streams_to_a_file)
{
	enum {
		SLOTS = SEGMENT_BUDGET_BYTES / (64 * KIB)
	};
	static struct segment_writer *writers[SLOTS];
	struct sk_record p = { .seq = 1, .len = 10 };
	struct sk_record q = { .seq = 2, .len = 100 * KIB };
	struct segment_writer *w;

	for (size_t i = 0; i < SLOTS; i++)
		writers[i] = sk_write_bytes("x", 1);
	w = sk_write(&p);
	cr_assert(segment_writer_is_large(w));
	sk_place(&p, w);
	/* One piece of memory is back: the body that wants two begins there and ends in
	 * a file. */
	segment_writer_free(writers[0]);
	w = sk_write(&q);
	cr_assert(segment_writer_is_large(w));
	sk_place(&q, w);
	for (size_t i = 1; i < SLOTS; i++)
		segment_writer_free(writers[i]);
	cr_assert_eq(
	    segment_sync(sk.store, (struct payload_ref[]){ p.ref, q.ref }, 2), 0);
	sk_assert_readable(&p);
	sk_assert_readable(&q);
	/* And then there is memory again. */
	p.seq = 3;
	w = sk_write(&p);
	cr_assert_not(segment_writer_is_large(w));
	sk_place(&p, w);
	sk_assert_readable(&p);
}

/* What the housekeeper does comes a moment later. */
static void await(bool (*reached)(void))
{
	struct timespec step = { 0, 1000000 };

	for (int i = 0; i < 5000 && !reached(); i++)
		(void)nanosleep(&step, NULL);
	cr_assert(reached());
}

static bool at_most_10_segments(void)
{
	return sk_count_files("segments") <= 10;
}

static uint64_t disk_bytes(void)
{
	struct segment_usage usage;

	segment_get_usage(sk.store, &usage);
	return usage.disk_bytes;
}

static bool no_large_files(void)
{
	return sk_count_files("large") == 0;
}

static bool one_large_file(void)
{
	return sk_count_files("large") == 1;
}

static bool two_large_files(void)
{
	return sk_count_files("large") == 2;
}

static bool no_more_than_one_on_disk(void)
{
	return disk_bytes() < 3 * MIB;
}

static bool no_live_bytes(void)
{
	struct segment_usage usage;

	segment_get_usage(sk.store, &usage);
	return usage.live_bytes == 0;
}

/* Use and use again */

Test(segment, released_segments_are_used_again)
{
	uint32_t highest = 0;

	allow_much_disk();
	for (int64_t seq = 1; seq <= 100; seq++) {
		struct sk_record p = sk_store(seq, MIB);

		if (p.ref.segment > highest)
			highest = p.ref.segment;
		if (seq % 10 == 0)
			sk_assert_readable(&p);
		sk_release(&p);
	}
	/* 7 segments were filled; in use at once: the current one and spares. */
	cr_expect_leq(highest, 4, "segment %" PRIu32 " was made", highest);
	cr_expect_leq(sk_count_files("segments"), 4);
}

Test(segment, a_segment_with_one_record_left_is_not_written_over)
{
	struct sk_record kept = sk_store(1, 1000);
	struct sk_record on_its_way = { .seq = 2, .len = 1000 };

	sk_place(&on_its_way, sk_write(&on_its_way));
	for (int64_t seq = 3; seq <= 60; seq++) {
		struct sk_record p = sk_store(seq, MIB);

		sk_release(&p);
	}
	sk_assert_readable(&kept);
	sk_assert_readable(&on_its_way);
	sk_release(&kept);
	for (int64_t seq = 61; seq <= 100; seq++) {
		struct sk_record p = sk_store(seq, MIB);

		sk_release(&p);
	}
	sk_assert_readable(&on_its_way);
}

Test(segment, many_free_segments_are_not_all_kept)
{
	static struct sk_record placed[180];

	allow_much_disk();
	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		placed[i] = sk_store((int64_t)i + 1, MIB);
	cr_assert_geq(sk_count_files("segments"), 12);
	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		sk_release(&placed[i]);
	/* In quiet times 128 MiB are kept for the next burst, beside the current one and one
	 * that was being prepared. */
	segment_trim(sk.store);
	await(at_most_10_segments);
}

Test(segment, segments_of_an_earlier_run_are_kept_while_adopted_and_then_used)
{
	struct sk_record kept = sk_store(1, 1000);
	struct sk_record gone = sk_store(2, 1000);
	struct sk_record fresh;

	sk_reopen();
	cr_assert_eq(
	    segment_adopt(sk.store, kept.ref.segment, 2,
		segment_record_bytes(&kept.ref) + segment_record_bytes(&gone.ref)),
	    0);
	cr_assert_eq(segment_adopt(sk.store, 99, 1, 4096), -ENOENT);
	sk_start();
	sk_release(&gone);
	fresh = sk_store(3, 1000);
	cr_expect_neq(fresh.ref.segment, kept.ref.segment,
	    "behind the last committed record may be others");
	sk_assert_readable(&kept);
	sk_release(&kept);
	sk_release(&fresh);
	sk_reopen();
	sk_start();
	fresh = sk_store(4, 1000);
	cr_expect_leq(fresh.ref.segment, 2);
	sk_assert_readable(&fresh);
}

Test(segment, other_files_among_the_segments_do_no_harm)
{
	CLEANUP(cleanup_free) char *segments = tempdir_join(sk.dir, "segments");
	struct sk_record p = sk_store(1, 1000);
	struct sk_found f;

	sk_close();
	tempdir_write(segments, "0000001", "x");
	tempdir_write(segments, "00000001.bak", "x");
	tempdir_write(segments, "00000000", "x");
	tempdir_write(segments, "README", "x");
	tempdir_write(segments, "00000002", "");
	sk_open();
	sk_scan_all(&f);
	cr_expect_eq(f.count, 1);
	cr_expect(sk_has_found(&f, &p, true));
	sk_start();
	p = sk_store(2, 1000);
	sk_assert_readable(&p);
}

/* Disk */

static void make_disk_refuse(uint64_t file_bytes)
{
	struct rlimit limit = { file_bytes, RLIM_INFINITY };

	cr_assert_neq(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

Test(segment, a_write_that_fails_hurts_no_other_record)
{
	struct sk_record kept = sk_store(1, MIB);
	struct sk_record refused = { .seq = 2, .len = MIB };
	struct segment_writer *w = sk_write(&refused);
	struct record r = sk_name(&refused);
	struct sk_record after;
	struct sk_found f;

	allow_much_disk();
	make_disk_refuse(MIB + 64 * KIB);
	cr_assert_lt(segment_writer_place(w, &r, &refused.ref), 0);
	segment_writer_free(w);
	sk_assert_readable(&kept);
	make_disk_refuse(RLIM_INFINITY);
	/* What came half is not built upon. */
	after = sk_store(3, MIB);
	cr_expect_neq(after.ref.segment, kept.ref.segment);
	sk_assert_readable(&after);
	sk_reopen();
	sk_scan_all(&f);
	cr_expect(sk_has_found(&f, &kept, true));
	cr_expect(sk_has_found(&f, &after, true));
	cr_expect_not(sk_has_found(&f, &refused, true));
	sk_assert_readable(&kept);
}

/* What a failing disk has of it is not known: not even once all in it was released. */
Test(segment, a_segment_in_which_a_write_failed_is_never_used_again)
{
	struct sk_record first = sk_store(1, MIB);
	struct sk_record refused = { .seq = 2, .len = MIB };
	struct segment_writer *w = sk_write(&refused);
	struct record r = sk_name(&refused);
	CLEANUP(cleanup_free) char *path = sk_path(&first.ref, first.seq);
	/* Stays the same file when its name has gone to another. */
	CLEANUP(cleanup_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
	char before[64];
	char after[64];

	cr_assert_geq(fd, 0);
	cr_assert_eq(fs_read_full(fd, before, sizeof(before), 0), sizeof(before));
	allow_much_disk();
	make_disk_refuse(MIB + 64 * KIB);
	cr_assert_lt(segment_writer_place(w, &r, &refused.ref), 0);
	segment_writer_free(w);
	make_disk_refuse(RLIM_INFINITY);
	sk_release(&first);
	for (int64_t seq = 3; seq <= 40; seq++) {
		struct sk_record p = sk_store(seq, MIB);

		sk_assert_readable(&p);
		sk_release(&p);
	}
	cr_assert_eq(fs_read_full(fd, after, sizeof(after), 0), sizeof(after));
	cr_expect_arr_eq(before, after, sizeof(before), "its header was written anew");
}

Test(segment, a_large_body_that_fails_leaves_no_file)
{
	CLEANUP(cleanup_free) uint8_t *bytes = calloc(1, 3 * MIB);
	struct segment_writer *w = NULL;

	cr_assert_not_null(bytes);
	cr_assert_eq(segment_writer_new(sk.store, &w), 0);
	make_disk_refuse(2 * MIB);
	cr_expect_lt(segment_writer_add(w, bytes, 3 * MIB), 0);
	segment_writer_free(w);
	cr_expect_eq(sk_count_files("large"), 0);
}

Test(segment, usage_follows_what_is_stored_and_released)
{
	struct segment_usage before;
	struct segment_usage with;
	struct segment_usage after;
	struct sk_record small;
	struct sk_record large;

	segment_get_usage(sk.store, &before);
	cr_assert_eq(before.live_bytes, 0);
	small = sk_store(1, 100000);
	large = sk_store(2, 2 * MIB);
	segment_get_usage(sk.store, &with);
	cr_expect_geq(with.live_bytes, 100000 + 2 * MIB);
	cr_expect_geq(with.disk_bytes, with.live_bytes);
	sk_release(&small);
	sk_release(&large);
	await(no_large_files);
	await(no_live_bytes); /* the file goes first, then its bytes */
	segment_get_usage(sk.store, &after);
	cr_expect_lt(after.disk_bytes, with.disk_bytes);
}

/* Quota is judged by these figures: they must not sink below what lies on the disk. */
Test(segment, releasing_adopted_large_files_takes_off_no_more_than_they_had)
{
	struct sk_record placed[6];

	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		placed[i] = sk_store((int64_t)i + 1, 2 * MIB);
	sk_reopen();
	for (size_t i = 0; i < ARRAY_LEN(placed); i++)
		cr_assert_eq(segment_adopt_large(sk.store, placed[i].seq), 0);
	sk_start();
	for (size_t i = 1; i < ARRAY_LEN(placed); i++)
		sk_release(&placed[i]);
	await(one_large_file);
	await(no_more_than_one_on_disk);
	cr_expect_geq(disk_bytes(), 2 * MIB, "%" PRIu64 " bytes", disk_bytes());
}

Test(segment, removing_a_large_file_nobody_adopted_takes_nothing_off_others)
{
	struct sk_record kept = sk_store(1, 3 * MIB);
	struct sk_record strays[] = { sk_store(2, 2 * MIB), sk_store(3, 2 * MIB) };

	sk_reopen();
	cr_assert_eq(segment_adopt_large(sk.store, kept.seq), 0);
	sk_start();
	/* As recovery does with one that no row knows. A file goes before its bytes are
	 * taken off: once the second is gone, the first has been dealt with. */
	sk_release(&strays[0]);
	await(two_large_files);
	sk_release(&strays[1]);
	await(one_large_file);
	cr_expect_geq(disk_bytes(), 3 * MIB, "%" PRIu64 " bytes", disk_bytes());
}

static bool can_punch(void)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(sk.dir, "probe");
	CLEANUP(cleanup_close)
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	return fd >= 0 && fs_write_full(fd, (char[2 * BLOCK]){ 0 }, 2 * BLOCK, 0) == 0 &&
	       fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BLOCK) == 0;
}

struct live {
	const struct sk_record *list;
	size_t count;
	int result;
};

static int list_live(void *cls, segment_mark_fn *mark, void *mark_cls)
{
	const struct live *l = cls;

	for (size_t i = 0; i < l->count; i++)
		mark(mark_cls, &l->list[i].ref);
	return l->result;
}

static uint64_t allocated(const struct sk_record *p)
{
	CLEANUP(cleanup_free) char *path = sk_path(&p->ref, p->seq);
	struct stat st;

	cr_assert_eq(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* A full segment of many records of which few are left. */
enum {
	MANY = 40,
	LEFT = 3
};

static void fill_and_release(struct sk_record left[LEFT])
{
	allow_much_disk();
	for (int64_t seq = 1; seq <= MANY; seq++) {
		struct sk_record p = sk_store(seq, 500 * KIB);

		if (seq == 1 || seq == 15 || seq == MANY)
			*left++ = p;
		else
			sk_release(&p);
	}
}

Test(segment, disk_of_dead_records_is_given_back_and_live_ones_stay)
{
	struct sk_record left[LEFT];
	struct live live = { .list = left, .count = LEFT };
	uint64_t before;
	uint64_t freed = 0;

	if (!can_punch())
		cr_skip_test("file system cannot punch holes");
	fill_and_release(left);
	cr_assert_eq(left[1].ref.segment, left[0].ref.segment);
	cr_assert_neq(left[2].ref.segment, left[0].ref.segment);
	before = allocated(&left[0]);
	cr_assert_eq(segment_reclaim(sk.store, list_live, &live, &freed), 0);
	cr_expect_geq(freed, 10 * MIB);
	cr_expect_leq(allocated(&left[0]) + freed, before + BLOCK);
	cr_expect_geq(allocated(&left[0]), 2 * 500 * KIB);
	for (size_t i = 0; i < LEFT; i++)
		sk_assert_readable(&left[i]);
	/* A second time there is nothing to gain, and nothing to lose. */
	cr_assert_eq(segment_reclaim(sk.store, list_live, &live, &freed), 0);
	cr_expect_leq(freed, MIB);
	for (size_t i = 0; i < LEFT; i++)
		sk_assert_readable(&left[i]);
}

Test(segment, a_segment_with_holes_is_used_again)
{
	struct sk_record left[LEFT];
	struct live live = { .list = left, .count = LEFT };
	uint64_t freed;
	struct sk_record after[40];

	fill_and_release(left);
	cr_assert_eq(segment_reclaim(sk.store, list_live, &live, &freed), 0);
	sk_release(&left[0]);
	sk_release(&left[1]);
	for (size_t i = 0; i < ARRAY_LEN(after); i++)
		after[i] = sk_store((int64_t)(100 + i), 500 * KIB);
	for (size_t i = 0; i < ARRAY_LEN(after); i++)
		sk_assert_readable(&after[i]);
	sk_assert_readable(&left[2]);
}

Test(segment, nothing_is_given_back_when_the_live_ones_are_not_known)
{
	struct sk_record left[LEFT];
	struct live live = { .list = left, .count = 0, .result = -EIO };
	uint64_t freed = 7;

	fill_and_release(left);
	cr_expect_eq(segment_reclaim(sk.store, list_live, &live, &freed), -EIO);
	cr_expect_eq(freed, 7);
	for (size_t i = 0; i < LEFT; i++)
		sk_assert_readable(&left[i]);
}

/* Placed, its segment full, its row not committed: the list of rows does not have it. */
Test(segment, a_record_on_its_way_is_not_punched)
{
	struct sk_record left[LEFT];
	struct live live = { .list = left, .count = LEFT };
	struct sk_record on_its_way = { .seq = 1000, .len = 500 * KIB };
	uint64_t freed;

	sk_place(&on_its_way, sk_write(&on_its_way));
	fill_and_release(left);
	cr_assert_neq(left[2].ref.segment, on_its_way.ref.segment);
	cr_assert_eq(segment_reclaim(sk.store, list_live, &live, &freed), 0);
	sk_assert_readable(&on_its_way);
	cr_assert_eq(segment_sync(sk.store, &on_its_way.ref, 1), 0);
	segment_commit(sk.store, &on_its_way.ref);
	sk_assert_readable(&on_its_way);
}

Test(segment, trimming_keeps_bodies_that_are_being_gathered)
{
	struct sk_record p = { .seq = 1, .len = 200 * KIB };
	struct segment_writer *w = sk_write(&p);
	struct sk_record gone = sk_store(2, 300 * KIB);

	segment_trim(sk.store);
	sk_place(&p, w);
	sk_assert_readable(&p);
	sk_assert_readable(&gone);
	p.seq = 3;
	sk_place(&p, sk_write(&p));
	sk_assert_readable(&p);
}
