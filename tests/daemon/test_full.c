/* SPDX-License-Identifier: MIT */
/* A disk that is full to its last block, or takes no writes: what was acknowledged is
 * safe, posts are refused in a way that a client can understand, what is queued goes out
 * and makes room, and all heals by itself. On a small file system of the test's own. */
#include "cleanup.h"
#include "clock.h"
#include "strbuf.h"
#include "support/dump_builder.h"
#include "support/faulty_disk.h"
#include "support/rawhttp.h"
#include "support/relay.h"
#include "support/tempdir.h"
#include "support/upstream_server.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#define KIB 1024u
#define MIB (1024u * KIB)

/* No wait is longer. */
#define WAIT_MS 20000

static struct upstream_server *upstream;
static struct relay *relay;
static char *control; /* the control socket */
static char *disk;    /* the small file system; NULL = none could be mounted */
static char *spool;   /* on it */

/* Mount a file system of this size that only this process and its children see. */
static bool mount_disk(const char *size)
{
	char options[64];

	(void)snprintf(options, sizeof(options), "size=%s,mode=0700", size);
	return unshare(CLONE_NEWNS) == 0 &&
	       mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("relay-test", disk, "tmpfs", 0, options) == 0;
}

static void make(void)
{
	upstream = upstream_server_new(
	    &(struct upstream_options){ .hash_only = true, .refuse = true });
	cr_assert_not_null(upstream);
	relay = relay_new(NULL);
	control = tempdir_join(relay_folder(relay), "control.sock");
	disk = tempdir_join(relay_folder(relay), "disk");
	spool = tempdir_join(disk, "spool");
	cr_assert_eq(mkdir(disk, 0700), 0);
}

static void stop(void)
{
	/* Out of the way of those who remove the folder; the daemon may still use it. */
	(void)umount2(disk, MNT_DETACH);
	relay = relay_free(relay);
	upstream = upstream_server_free(upstream);
	free(control);
	free(spool);
	free(disk);
}

TestSuite(full, .init = make, .fini = stop, .timeout = 120);

/* Helpers */

static const char *arguments[3];

/* A relay with its spool on the small disk and these settings of [spool]. */
static void configure(const char *spool_lines)
{
	static char sections[512];

	arguments[0] = "--spool";
	arguments[1] = spool;
	(void)snprintf(sections, sizeof(sections), "[log]\nlevel = notice\n[spool]\n%s",
	    spool_lines);
	relay_configure(
	    relay, &(struct relay_options){ .upstream = upstream_server_url(upstream),
		       .sections = sections,
		       .arguments = arguments });
}

static void need_disk(const char *size)
{
	if (!mount_disk(size))
		cr_skip_test("needs root to mount a small file system");
}

static struct dump_spec dump_of(uint32_t number, size_t size)
{
	return (struct dump_spec){ .seed = number, .padding = size };
}

/* What was posted: how each was answered, by number from 1. */
struct posts {
	size_t size;
	uint32_t next;
	unsigned accepted;
	bool is_accepted[2000];
};

static int post_next(struct posts *p)
{
	struct dump_spec spec = dump_of(++p->next, p->size);
	int status;

	cr_assert_lt(p->next, ARRAY_LEN(p->is_accepted));
	status = relay_try_submit(relay, &spec);
	p->is_accepted[p->next] = status == 200;
	p->accepted += status == 200;
	return status;
}

/* Post until one is refused. */
static void post_to_the_brim(struct posts *p)
{
	int status = 200;

	while (status == 200 && p->next < 1000)
		status = post_next(p);
	cr_assert(
	    status == 507 || status == 503, "%d after %u posts", status, p->accepted);
	cr_assert_gt(p->accepted, 10);
}

/* A refusal names its reason and says when to come again. */
static void expect_refusal(size_t size)
{
	struct relay_post post = { 0 };
	struct dump_spec spec = dump_of(999999, size);
	CLEANUP(cleanup_free) unsigned char *dump = dump_build(&spec, &post.len);
	struct rawhttp_response response = { 0 };
	char after[16] = "";

	post.body = dump;
	cr_assert_eq(relay_post(relay, &post, &response), 0);
	cr_expect(
	    response.status == 507 || response.status == 503, "%d", response.status);
	cr_expect(rawhttp_header(
		      response.head, "Retry-After", RAWHTTP_EXACT, after, sizeof(after)),
	    "%s", response.head);
	cr_expect_gt(atoi(after), 0, "%s", after);
	cr_expect_not_null(strstr(response.body, "\"response\":\"error\""));
	cr_expect_not_null(
	    strstr(response.body, response.status == 507 ? "spool-full" : "unavailable"));
	rawhttp_response_done(&response);
}

static struct rawhttp_response ask(const char *target)
{
	CLEANUP(strbuf_done) struct strbuf request = STRBUF_INIT;
	struct rawhttp_response response = { 0 };
	struct rawhttp *c;

	strbuf_addf(&request, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target);
	cr_assert_eq(rawhttp_connect_unix(control, &c), 0);
	cr_assert_eq(rawhttp_send_str(c, strbuf_str(&request)), 0);
	cr_assert_eq(rawhttp_receive(c, false, &response), 0);
	(void)rawhttp_close(c);
	return response;
}

static void expect_not_ready(void)
{
	struct rawhttp_response response = ask("/readyz");

	cr_expect_eq(response.status, 503, "%d %s", response.status, response.body);
	cr_expect_not_null(strstr(response.body, "spool"), "%s", response.body);
	rawhttp_response_done(&response);
	response = ask("/healthz");
	cr_expect_eq(response.status, 200, "a full disk is no reason to be restarted");
	rawhttp_response_done(&response);
}

static void expect_ready(void)
{
	struct rawhttp_response response = ask("/readyz");

	cr_expect_eq(response.status, 200, "%d %s", response.status, response.body);
	rawhttp_response_done(&response);
}

/* How many reports are in one state or, as a report may change it at any time, in either
 * of two. */
static long long count_in(const char *state, const char *other)
{
	struct rawhttp_response response = ask("/api/v1/status");
	json_t *root = json_loadb(response.body, response.body_len, 0, NULL);
	json_t *reports = json_object_get(root, "reports");
	long long n = json_integer_value(json_object_get(reports, state)) +
		      json_integer_value(json_object_get(reports, other));

	cr_assert_not_null(root, "%s", response.body);
	json_decref(root);
	rawhttp_response_done(&response);
	return n;
}

static long long count_waiting(void)
{
	return count_in("queued", "sending");
}

static uint64_t free_on_disk(void)
{
	struct statvfs v;

	cr_assert_eq(statvfs(disk, &v), 0);
	return (uint64_t)v.f_bavail * v.f_frsize;
}

/* Whether the i-th post was delivered, byte for byte. */
static bool is_delivered(const struct posts *p, uint32_t i)
{
	struct dump_spec spec = dump_of(i, p->size);

	return upstream_server_count_dump(upstream, &spec) > 0;
}

/* The upstream comes, and all that was acknowledged arrives. */
static void expect_all_delivered(const struct posts *p)
{
	upstream_server_resume(upstream);
	cr_expect(upstream_server_wait(upstream, UPSTREAM_ACCEPTED, p->accepted),
	    "%u of %u were delivered", upstream_server_count(upstream, UPSTREAM_ACCEPTED),
	    p->accepted);
	for (uint32_t i = 1; i <= p->next; i++)
		cr_expect(!p->is_accepted[i] || is_delivered(p, i),
		    "post %u was acknowledged and is lost", i);
}

static const struct timespec a_moment = { .tv_nsec = 10000000 };

/* Posts are taken again by themselves. mark: before the disk was full. */
static void expect_healed(size_t mark, struct posts *p)
{
	struct rawhttp_response response = { 0 };
	int64_t deadline_ms = clock_mono_ms() + WAIT_MS;

	if (relay_log_count(relay, mark, "cannot store reports") > 0)
		relay_expect_log(relay, mark, "storing again");
	/* The last of its work may have filled the disk once more. */
	do {
		rawhttp_response_done(&response);
		(void)nanosleep(&a_moment, NULL);
		response = ask("/readyz");
	} while (response.status != 200 && clock_mono_ms() < deadline_ms);
	rawhttp_response_done(&response);
	for (int i = 0; i < 5; i++)
		cr_expect_eq(post_next(p), 200);
	expect_ready();
}

/* Fill the disk to its last block with a file of somebody else's. */
static void fill_with_foreign_file(void)
{
	static const char junk[64 * KIB] = "junk";
	CLEANUP(cleanup_free) char *path = tempdir_join(disk, "foreign");
	CLEANUP(cleanup_close)
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	size_t step = sizeof(junk);

	cr_assert_geq(fd, 0);
	while (step >= 512) {
		ssize_t n = write(fd, junk, step);

		if (n <= 0)
			step /= 2;
	}
	cr_assert_eq(errno, ENOSPC);
	cr_assert_eq(free_on_disk(), 0);
}

static void remove_foreign_file(void)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(disk, "foreign");

	cr_assert_eq(unlink(path), 0);
}

/* Full of reports */

/* Post to the brim, be refused, drain, be taken again. Where large ones do not fit any
 * more, small ones still may. */
static void fill_and_drain(const char *spool_lines, size_t size)
{
	struct posts p = { .size = size };
	struct posts small = { .size = 30 * KIB };
	size_t mark;

	need_disk("48m");
	configure(spool_lines);
	relay_start(relay);
	mark = relay_log_mark(relay);
	post_to_the_brim(&p);
	for (int i = 0; i < 3; i++)
		expect_refusal(p.size);
	while (post_next(&small) == 200)
		continue;
	expect_refusal(small.size);
	expect_not_ready();
	cr_expect_eq(count_waiting(), p.accepted + small.accepted);
	expect_all_delivered(&p);
	expect_healed(mark, &p);
	expect_all_delivered(&small);
	cr_expect(upstream_server_wait(
	    upstream, UPSTREAM_ACCEPTED, p.accepted + small.accepted));
	cr_assert_eq(relay_stop(relay), 0);
	relay_start(relay);
	cr_expect_eq(count_waiting(), 0);
}

Test(full, a_disk_filled_with_reports_drains_and_takes_posts_again)
{
	fill_and_drain("max_bytes = 1G\nmin_free = 0\nwhen_full = reject\n", 200 * KIB);
}

Test(full, a_disk_filled_with_large_reports_drains_too)
{
	fill_and_drain(
	    "max_bytes = 1G\nmin_free = 0\nreserve = 4M\nwhen_full = reject\n", 2 * MIB);
}

Test(full, a_disk_filled_with_small_reports_drains_too)
{
	fill_and_drain("max_bytes = 1G\nmin_free = 0\nwhen_full = reject\n", 60 * KIB);
}

/* Evicting does not help where the disk itself ends: with no floor, posts are refused. */
Test(full, where_old_reports_may_go_nothing_is_lost_but_what_is_counted)
{
	fill_and_drain("max_bytes = 1G\nmin_free = 0\nwhen_full = evict\n", 200 * KIB);
}

Test(full, a_floor_keeps_the_disk_from_filling_when_posts_are_rejected)
{
	struct posts p = { .size = 200 * KIB };

	need_disk("48m");
	configure("max_bytes = 1G\nmin_free = 8M\nreserve = 1M\nwhen_full = reject\n");
	relay_start(relay);
	post_to_the_brim(&p);
	expect_refusal(p.size);
	expect_not_ready();
	cr_expect_gt(free_on_disk(), 7 * MIB);
	expect_all_delivered(&p);
	/* There is no state to heal from: the next post is simply taken. */
	for (int64_t until_ms = clock_mono_ms() + WAIT_MS;
	     count_waiting() > 0 && clock_mono_ms() < until_ms;)
		(void)nanosleep(&a_moment, NULL);
	expect_ready();
	for (int i = 0; i < 5; i++)
		cr_expect_eq(post_next(&p), 200);
}

/* Posts go on and on through a disk that is too small for them. */
Test(full, with_eviction_and_a_floor_every_post_is_taken)
{
	struct posts p = { .size = 200 * KIB };
	unsigned evicted = 0;
	unsigned delivered = 0;

	need_disk("48m");
	configure("max_bytes = 1G\nmin_free = 8M\nreserve = 1M\nwhen_full = evict\n");
	relay_start(relay);
	for (int i = 0; i < 500; i++)
		cr_assert_eq(post_next(&p), 200, "post %d", i + 1);
	expect_ready();
	cr_expect_gt(free_on_disk(), 6 * MIB);
	evicted = (unsigned)count_in("evicted", "");
	cr_expect_gt(evicted, 100);
	upstream_server_resume(upstream);
	cr_expect(upstream_server_wait(upstream, UPSTREAM_ACCEPTED, 500 - evicted));
	for (uint32_t i = 1; i <= p.next; i++)
		delivered += is_delivered(&p, i);
	cr_expect_eq(
	    delivered + evicted, 500, "%u delivered, %u evicted", delivered, evicted);
	/* The last ones are there. */
	for (uint32_t i = p.next - 100; i <= p.next; i++)
		cr_expect(is_delivered(&p, i), "post %u", i);
}

Test(full, what_was_acknowledged_survives_a_kill_on_a_full_disk)
{
	struct posts p = { .size = 200 * KIB };
	size_t mark;

	need_disk("48m");
	configure("max_bytes = 1G\nmin_free = 0\nwhen_full = reject\n");
	relay_start(relay);
	post_to_the_brim(&p);
	expect_refusal(p.size);
	relay_kill(relay);
	relay_start(relay);
	/* One that was refused may be there too: its record may have been whole. */
	cr_expect_geq(count_waiting(), p.accepted);
	mark = relay_log_mark(relay);
	expect_all_delivered(&p);
	if (relay_log_count(relay, mark, "storing again") == 0)
		(void)post_next(&p);
	for (int64_t until_ms = clock_mono_ms() + WAIT_MS;
	     post_next(&p) != 200 && clock_mono_ms() < until_ms;)
		(void)nanosleep(&a_moment, NULL);
	expect_ready();
}

/* Full of something else */

Test(full, a_disk_filled_by_others_heals_when_they_make_room)
{
	struct posts p = { .size = 100 * KIB };
	size_t mark;

	need_disk("48m");
	configure("max_bytes = 1G\nmin_free = 0\nreserve = 4M\n");
	relay_start(relay);
	for (int i = 0; i < 20; i++)
		cr_assert_eq(post_next(&p), 200);
	mark = relay_log_mark(relay);
	fill_with_foreign_file();
	/* What the segment in use has left is used up first. */
	for (int i = 0; i < 300 && post_next(&p) == 200; i++)
		continue;
	expect_refusal(p.size);
	expect_refusal(3 * MIB);
	expect_not_ready();
	remove_foreign_file();
	expect_healed(mark, &p);
	expect_all_delivered(&p);
}

static void post_for(struct posts *p, int64_t ms)
{
	for (int64_t until_ms = clock_mono_ms() + ms; clock_mono_ms() < until_ms;) {
		(void)post_next(p);
		(void)nanosleep(&a_moment, NULL);
	}
}

Test(full, a_state_is_logged_at_its_begin_and_its_end_only)
{
	struct posts p = { .size = 100 * KIB };
	size_t mark;

	need_disk("48m");
	configure("max_bytes = 1G\nmin_free = 0\nreserve = 4M\n");
	relay_start(relay);
	cr_assert_eq(post_next(&p), 200);
	/* The spool gives disk back that it has, which fills again, until there is no
	 * more. */
	for (int i = 0; i < 3; i++) {
		fill_with_foreign_file();
		post_for(&p, 1100);
	}
	mark = relay_log_mark(relay);
	post_for(&p, 1500);
	cr_expect_eq(relay_log_count(relay, mark, "cannot store reports"), 0);
	cr_expect_eq(relay_log_count(relay, mark, "storing again"), 0);
	expect_not_ready();
	remove_foreign_file();
	relay_expect_log(relay, mark, "storing again");
	expect_healed(mark, &p);
	cr_expect_eq(relay_log_count(relay, mark, "storing again"), 1);
}

/* The reserve is what lets claims and outcomes be stored. */
Test(full, what_is_queued_goes_out_although_others_have_filled_the_disk)
{
	struct posts p = { .size = 100 * KIB };

	need_disk("48m");
	configure("max_bytes = 1G\nmin_free = 0\nreserve = 4M\n");
	relay_start(relay);
	for (int i = 0; i < 100; i++)
		cr_assert_eq(post_next(&p), 200);
	fill_with_foreign_file();
	expect_all_delivered(&p);
	cr_expect_eq(free_on_disk() > 0 || count_in("sent", "") > 0, 1);
	cr_assert_eq(relay_stop(relay), 0);
}

/* The reserve of the last run must not be in the way of the next one. */
Test(full, a_start_on_a_full_disk_succeeds)
{
	struct posts p = { .size = 100 * KIB };

	need_disk("48m");
	configure("max_bytes = 1G\nmin_free = 0\nreserve = 4M\n");
	relay_start(relay);
	for (int i = 0; i < 50; i++)
		cr_assert_eq(post_next(&p), 200);
	cr_assert_eq(relay_stop(relay), 0);
	fill_with_foreign_file();
	relay_start(relay);
	relay_kill(relay);
	relay_start(relay);
	cr_expect_eq(count_waiting(), p.accepted);
	expect_all_delivered(&p);
}

/* No writes at all */

Test(full, a_start_on_a_read_only_disk_is_refused_and_named)
{
	struct posts p = { .size = 1000 };
	size_t mark;

	need_disk("48m");
	configure("");
	relay_start(relay);
	cr_assert_eq(post_next(&p), 200);
	cr_assert_eq(relay_stop(relay), 0);
	cr_assert_eq(mount(NULL, disk, NULL, MS_REMOUNT | MS_RDONLY, "size=48m"), 0);
	mark = relay_log_mark(relay);
	relay_launch(relay);
	cr_expect_eq(relay_wait_exit(relay), 1);
	cr_expect_eq(relay_log_count(relay, mark, spool), 1);
	cr_expect_eq(relay_log_count(relay, mark, "Read-only"), 1);
	cr_assert_eq(mount(NULL, disk, NULL, MS_REMOUNT, "size=48m"), 0);
	relay_start(relay);
	expect_all_delivered(&p);
}

/* As after the kernel has met an error on the file system; and back. */
static void fail_and_heal(int error)
{
	struct faulty_disk *faulty = faulty_disk_new();
	struct posts p = { .size = 100 * KIB };
	size_t mark;

	if (!faulty)
		cr_skip_test("needs seccomp notifications");
	configure("min_free = 0\n");
	relay_start(relay);
	for (int i = 0; i < 20; i++)
		cr_assert_eq(post_next(&p), 200);
	mark = relay_log_mark(relay);
	faulty_disk_set(faulty, error);
	for (int i = 0; i < 3; i++)
		expect_refusal(i == 1 ? 3 * MIB : p.size);
	expect_not_ready();
	/* Trying to deliver does it no harm, and nothing is delivered twice after. */
	upstream_server_resume(upstream);
	relay_expect_log(relay, mark, "cannot store reports");
	for (int i = 0; i < 20; i++) {
		expect_refusal(p.size);
		(void)nanosleep(&a_moment, NULL);
	}
	cr_expect_gt(faulty_disk_count(faulty), 0);
	faulty_disk_set(faulty, 0);
	expect_healed(mark, &p);
	expect_all_delivered(&p);
	cr_expect_eq(relay_log_count(relay, mark, "cannot store reports"), 1);
	cr_assert_eq(relay_stop(relay), 0);
}

Test(full, a_disk_that_becomes_read_only_is_survived)
{
	fail_and_heal(EROFS);
}

Test(full, a_failing_disk_is_survived)
{
	fail_and_heal(EIO);
}

Test(full, a_kill_while_the_disk_fails_loses_nothing)
{
	struct faulty_disk *faulty = faulty_disk_new();
	struct posts p = { .size = 100 * KIB };

	if (!faulty)
		cr_skip_test("needs seccomp notifications");
	configure("min_free = 0\n");
	relay_start(relay);
	for (int i = 0; i < 20; i++)
		cr_assert_eq(post_next(&p), 200);
	faulty_disk_set(faulty, EIO);
	expect_refusal(p.size);
	relay_kill(relay);
	faulty_disk_set(faulty, 0);
	relay_start(relay);
	cr_expect_eq(count_waiting(), 20);
	expect_all_delivered(&p);
}
