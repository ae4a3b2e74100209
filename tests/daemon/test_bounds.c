/* SPDX-License-Identifier: MIT */
/* The bounds of the spool as an operator sets and changes them, what time takes away, and
 * --check-spool. */
#include "cleanup.h"
#include "clock.h"
#include "strbuf.h"
#include "support/bytes.h"
#include "support/dump_builder.h"
#include "support/rawhttp.h"
#include "support/relay.h"
#include "support/spool_kit.h"
#include "support/tempdir.h"
#include "support/upstream_server.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define KIB 1024u
#define WAIT_MS 20000

static struct relay *relay;
static char *control;

static void make(void)
{
	relay = relay_new(NULL);
	control = tempdir_join(relay_folder(relay), "control.sock");
}

static void stop(void)
{
	relay = relay_free(relay);
	free(control);
}

TestSuite(bounds, .init = make, .fini = stop, .timeout = 120);

/* ---- helpers ---- */

/* Settings of [spool]; the strings must outlive the relay. */
static void configure(const char *upstream, const char *sections)
{
	relay_configure(
	    relay, &(struct relay_options){ .upstream = upstream, .sections = sections });
}

static void reload(const char *upstream, const char *sections)
{
	size_t mark = relay_log_mark(relay);

	configure(upstream, sections);
	relay_signal(relay, SIGHUP);
	relay_expect_log(relay, mark, "reloaded");
}

static int post(uint32_t number, size_t size)
{
	return relay_try_submit(
	    relay, &(struct dump_spec){ .seed = number, .padding = size });
}

/* Post from a number on until one is refused; returns the first number not taken. */
static uint32_t post_until_refused(uint32_t number, size_t size)
{
	int status;

	while ((status = post(number, size)) == 200 && number < 1000)
		number++;
	cr_expect_eq(status, 507, "%d", status);
	return number;
}

/* A number of the status, by its place: "reports", "evicted". */
static long long ask(const char *group, const char *name)
{
	static const char request[] = "GET /api/v1/status HTTP/1.1\r\nHost: x\r\n\r\n";
	struct rawhttp_response response = { 0 };
	struct rawhttp *c;
	json_t *root;
	long long n;

	cr_assert_eq(rawhttp_connect_unix(control, &c), 0);
	cr_assert_eq(rawhttp_send_str(c, request), 0);
	cr_assert_eq(rawhttp_receive(c, false, &response), 0);
	(void)rawhttp_close(c);
	root = json_loadb(response.body, response.body_len, 0, NULL);
	cr_assert_not_null(root, "%s", response.body);
	n = json_integer_value(json_object_get(json_object_get(root, group), name));
	json_decref(root);
	rawhttp_response_done(&response);
	return n;
}

/* Reload until so many reports are in a state: each reload has the spool tidied. */
static void reload_until(
    const char *upstream, const char *sections, const char *state, long long count)
{
	static const struct timespec a_moment = { .tv_nsec = 100000000 };
	int64_t deadline_ms = clock_mono_ms() + WAIT_MS;

	do {
		reload(upstream, sections);
		(void)nanosleep(&a_moment, NULL);
	} while (ask("reports", state) != count && clock_mono_ms() < deadline_ms);
	cr_expect_eq(ask("reports", state), count);
}

/* ---- limits ---- */

Test(bounds, max_reports_is_kept_and_can_be_changed)
{
	configure(NULL, "[spool]\nmax_reports = 3\nwhen_full = reject\n");
	relay_start(relay);
	cr_expect_eq(post_until_refused(1, 100), 4);
	reload(NULL, "[spool]\nmax_reports = 5\nwhen_full = reject\n");
	cr_expect_eq(post_until_refused(4, 100), 6);
	reload(NULL, "[spool]\nmax_reports = 5\nwhen_full = evict\n");
	for (uint32_t i = 6; i < 10; i++)
		cr_expect_eq(post(i, 100), 200);
	cr_expect_eq(ask("reports", "queued"), 5);
	cr_expect_eq(ask("reports", "evicted"), 4);
	/* It is in force after a restart, too. */
	cr_assert_eq(relay_stop(relay), 0);
	relay_start(relay);
	cr_expect_eq(post(10, 100), 200);
	cr_expect_eq(ask("reports", "queued"), 5);
	cr_expect_eq(ask("reports", "evicted"), 5);
}

Test(bounds, max_bytes_is_kept_and_can_be_changed)
{
	static const char small[] =
	    "[spool]\nmax_bytes = 12M\nreserve = 1M\nmin_free = 0\nwhen_full = reject\n";
	static const char larger[] =
	    "[spool]\nmax_bytes = 24M\nreserve = 1M\nmin_free = 0\nwhen_full = reject\n";
	static const char evicting[] =
	    "[spool]\nmax_bytes = 12M\nreserve = 1M\nmin_free = 0\nwhen_full = evict\n";
	uint32_t first;
	uint32_t second;
	long long before;

	configure(NULL, small);
	relay_start(relay);
	first = post_until_refused(1, 100 * KIB);
	cr_expect_gt(first, 30);
	cr_expect_lt(first, 120);
	reload(NULL, larger);
	second = post_until_refused(first, 100 * KIB);
	cr_expect_gt(second, first + 50);
	before = ask("reports", "queued");
	cr_expect_eq(before, second - 1);
	/* Smaller than what is there: with the next report the oldest go. */
	reload(NULL, evicting);
	cr_expect_eq(post(second, 100 * KIB), 200);
	cr_expect_leq(ask("reports", "queued"), first);
	cr_expect_eq(ask("reports", "queued") + ask("reports", "evicted"), before + 1);
}

Test(bounds, a_post_larger_than_the_spool_may_be_is_refused_alone)
{
	static const char lines[] =
	    "[spool]\nmax_bytes = 12M\nreserve = 1M\nmin_free = 0\nwhen_full = evict\n";

	configure(NULL, lines);
	relay_start(relay);
	for (uint32_t i = 1; i <= 5; i++)
		cr_expect_eq(post(i, 100 * KIB), 200);
	cr_expect_eq(post(6, 14000 * KIB), 507);
	cr_expect_eq(post(7, 100 * KIB), 200);
	cr_expect_eq(ask("reports", "queued"), 6);
	cr_expect_eq(ask("reports", "evicted"), 0);
}

/* ---- time ---- */

Test(bounds, reports_that_wait_too_long_expire)
{
	configure(NULL, "");
	relay_start(relay);
	for (uint32_t i = 1; i <= 3; i++)
		cr_expect_eq(post(i, 100), 200);
	reload_until(NULL, "[spool]\nmax_age = 1s\n", "dead", 3);
	cr_expect_eq(ask("reports", "queued"), 0);
	reload_until(NULL, "[spool]\nkeep_dead = 0s\n", "dead", 0);
}

Test(bounds, rows_of_sent_reports_go_when_their_time_has_come)
{
	struct upstream_server *upstream = upstream_server_new(NULL);
	const char *url = upstream_server_url(upstream);

	configure(url, "");
	relay_start(relay);
	for (uint32_t i = 1; i <= 3; i++)
		cr_expect_eq(post(i, 100), 200);
	cr_assert(upstream_server_wait(upstream, UPSTREAM_ACCEPTED, 3));
	reload_until(url, "", "sent", 3);
	reload_until(url, "[spool]\nkeep_sent = 0s\n", "sent", 0);
	cr_assert_eq(relay_stop(relay), 0);
	(void)upstream_server_free(upstream);
}

/* ---- --check-spool ---- */

static struct relay_run check(const char *folder, int status)
{
	const char *const arguments[] = { "--spool", folder, "--check-spool", NULL };
	struct relay_run r = { 0 };

	relay_run(arguments, &r);
	cr_expect_eq(r.status, status, "%d: %s%s", r.status, r.out, r.err);
	return r;
}

/* Its output holds the text; ends the run. */
static void expect_out(struct relay_run r, const char *text)
{
	cr_expect_not_null(strstr(r.out, text), "\"%s\" is not in: %s", text, r.out);
	cr_expect_str_empty(r.err, "%s", r.err);
	relay_run_done(&r);
}

/* Three reports in a spool at rest. */
static const char *fill(void)
{
	configure(NULL, "");
	relay_start(relay);
	for (uint32_t i = 1; i <= 3; i++)
		cr_expect_eq(post(i, i == 2 ? 2048 * KIB : 5000), 200);
	cr_assert_eq(relay_stop(relay), 0);
	return relay_spool(relay);
}

Test(bounds, check_spool_calls_a_sound_spool_sound)
{
	const char *spool = fill();

	expect_out(check(spool, 0), "3 reports, 3 with a sound payload");
	expect_out(check(spool, 0), "the spool is sound\n");
	relay_start(relay);
	cr_expect_eq(ask("reports", "queued"), 3);
}

Test(bounds, check_spool_says_what_is_damaged)
{
	const char *spool = fill();
	CLEANUP(cleanup_free) char *segment = NULL;
	CLEANUP(cleanup_free) char *before = NULL;
	CLEANUP(cleanup_free) char *after = NULL;
	struct relay_run r;
	char name[64];
	int64_t number = kit_sql(spool, "SELECT segment FROM report WHERE seq = 1");
	int64_t at =
	    kit_sql(spool, "SELECT offset + header_bytes FROM report WHERE seq = 1");

	cr_assert_gt(number, 0);
	cr_assert_gt(at, 0);
	(void)snprintf(name, sizeof(name), "segments/%08lld", (long long)number);
	segment = tempdir_join(spool, name);
	cr_assert(bytes_flip(segment, (uint64_t)at + 100));
	before = tempdir_list(spool);
	r = check(spool, 1);
	cr_expect_eq(strncmp(r.out, "DAMAGED: report 0", 17), 0, "%s", r.out);
	cr_expect_null(strstr(r.out, "is sound\n"), "%s", r.out);
	expect_out(r, "2 with a sound payload");
	after = tempdir_list(spool);
	cr_expect_str_eq(after, before);
}

Test(bounds, check_spool_leaves_a_spool_in_use_alone)
{
	configure(NULL, "");
	relay_start(relay);
	cr_expect_eq(post(1, 100), 200);
	expect_out(check(relay_spool(relay), 1), "in use");
	cr_expect_eq(post(2, 100), 200);
}

Test(bounds, check_spool_names_a_folder_that_is_not_there)
{
	CLEANUP(cleanup_free) char *absent = tempdir_join(relay_folder(relay), "absent");

	expect_out(check(absent, 1), absent);
	cr_expect_eq(access(absent, F_OK), -1, "and does not make it");
}

/* As a unit does that checks before each start, the first one included. */
Test(bounds, check_spool_takes_an_empty_folder_for_sound)
{
	CLEANUP(cleanup_free) char *empty = tempdir_join(relay_folder(relay), "empty");

	cr_assert_eq(mkdir(empty, 0700), 0);
	expect_out(check(empty, 0), "is sound\n");
}

/* ---- an index of a later version ---- */

Test(bounds, an_index_of_a_newer_version_is_refused_and_not_touched)
{
	const char *spool = fill();
	CLEANUP(cleanup_free) char *path = tempdir_join(spool, "spool.db");
	CLEANUP(cleanup_free) uint8_t *before = NULL;
	CLEANUP(cleanup_free) uint8_t *after = NULL;
	size_t len = 0;
	size_t len_after = 0;
	int64_t version = kit_sql(spool, "PRAGMA user_version");
	char pragma[64];
	size_t mark = relay_log_mark(relay);

	cr_assert(kit_sql_change(spool, "PRAGMA user_version = 1000"));
	before = bytes_read_file(path, &len);
	relay_launch(relay);
	cr_expect_eq(relay_wait_exit(relay), 1);
	cr_expect_eq(relay_log_count(relay, mark, path), 1);
	cr_expect_eq(relay_log_count(relay, mark, "newer version"), 1);
	after = bytes_read_file(path, &len_after);
	cr_assert(before && after);
	cr_expect_eq(len, len_after);
	cr_expect(len == len_after && memcmp(before, after, len) == 0);
	expect_out(check(spool, 1), "newer version");

	(void)snprintf(
	    pragma, sizeof(pragma), "PRAGMA user_version = %lld", (long long)version);
	cr_assert(kit_sql_change(spool, pragma));
	relay_start(relay);
	cr_expect_eq(ask("reports", "queued"), 3);
}
