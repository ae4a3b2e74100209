/* SPDX-License-Identifier: MIT */
/* How the daemon starts, refuses to start, reloads, stops, and what it costs to run:
 * interface.md, sections 1 and 3, as an operator and an init system see them. */
#include "cleanup.h"
#include "clock.h"
#include "strbuf.h"
#include "support/dump_builder.h"
#include "support/rawhttp.h"
#include "support/relay.h"
#include "support/tempdir.h"
#include "support/upstream_server.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <nettle/sha2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

static struct upstream_server *upstream;
static struct relay *relay;

static void make(void)
{
	upstream = upstream_server_new(NULL);
	cr_assert_not_null(upstream);
	relay = relay_new(
	    &(struct relay_options){ .upstream = upstream_server_url(upstream) });
}

static void stop(void)
{
	relay = relay_free(relay);
	upstream = upstream_server_free(upstream);
}

TestSuite(lifecycle, .init = make, .fini = stop, .timeout = 120);

/* Helpers */

static void configure(const struct relay_options *changes)
{
	struct relay_options options = *changes;

	if (!options.upstream)
		options.upstream = upstream_server_url(upstream);
	relay_configure(relay, &options);
}

static size_t count_lines(const char *text)
{
	size_t n = 0;

	for (; (text = strchr(text, '\n')); text++)
		n++;
	return n;
}

/* The program, run with the arguments, ends with this status. Consumed by the caller. */
static struct relay_run run(const char *const *arguments, int status)
{
	struct relay_run r = { 0 };

	relay_run(arguments, &r);
	cr_expect_eq(r.status, status, "%s ends with %d: %s%s", arguments[0], r.status,
	    r.out, r.err);
	return r;
}

/* Write FILE with the text and run the program on it. */
static struct relay_run run_with_config(const char *text, bool check, int status)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(relay_folder(relay), "try.conf");
	const char *const arguments[] = { "-c", path, check ? "--check-config" : NULL,
		NULL };

	tempdir_write(relay_folder(relay), "try.conf", text);
	return run(arguments, status);
}

/* The daemon, launched, ends at once with status 1 and one line that names the fault. */
static void expect_failed_start(struct relay *r, const char *fault)
{
	size_t mark = relay_log_mark(r);

	relay_launch(r);
	cr_expect_eq(relay_wait_exit(r), 1);
	cr_expect_eq(relay_log_count(r, mark, fault), 1, "no line names %s", fault);
	cr_expect_eq(relay_log_count(r, mark, " ready"), 0);
}

static void expect_delivery(uint32_t seed)
{
	struct dump_spec spec = { .seed = seed };

	relay_submit(relay, &spec);
	cr_assert(upstream_server_wait_dump(upstream, &spec));
}

/* Flags */

Test(lifecycle, version_is_told)
{
	const char *const arguments[] = { "--version", NULL };
	struct relay_run r = run(arguments, 0);

	cr_expect_eq(strncmp(r.out, "minidump-relayd ", 16), 0, "%s", r.out);
	cr_expect_str_empty(r.err);
	relay_run_done(&r);
}

Test(lifecycle, help_names_every_flag)
{
	static const char *const flags[] = { "-c", "--upstream", "--listen", "--spool",
		"--control", "--check-config", "--version", "--help" };
	const char *const arguments[] = { "--help", NULL };
	struct relay_run r = run(arguments, 0);

	for (size_t i = 0; i < ARRAY_LEN(flags); i++)
		cr_expect(strstr(r.out, flags[i]), "%s is not in:\n%s", flags[i], r.out);
	cr_expect_str_empty(r.err);
	relay_run_done(&r);
}

Test(lifecycle, wrong_usage_ends_with_2_and_names_the_word)
{
	static const struct {
		const char *arguments[3];
		const char *word;
	} wrong[] = {
		{ { "--upstreams", NULL }, "--upstreams" },
		{ { "-x", NULL }, "x" },
		{ { "--spool", NULL }, "spool" },
		{ { "something", NULL }, "something" },
	};

	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		struct relay_run r = run(wrong[i].arguments, 2);

		cr_expect(strstr(r.err, wrong[i].word), "%s", r.err);
		cr_expect_str_empty(r.out);
		relay_run_done(&r);
	}
}

Test(lifecycle, a_bad_value_of_a_flag_is_bad_configuration)
{
	static const char *const bad[][3] = { { "--upstream", "ftp://x/", NULL },
		{ "--listen", "127.0.0.1:65536", NULL } };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct relay_run r = run(bad[i], 78);

		cr_expect(strstr(r.err, bad[i][0]), "%s", r.err);
		relay_run_done(&r);
	}
}

Test(lifecycle, flags_win_over_the_file)
{
	CLEANUP(cleanup_free) char *other = tempdir_join(relay_folder(relay), "other");
	const char *const arguments[] = { "--upstream", upstream_server_url(upstream),
		"--listen", "127.0.0.1:0", "--spool", other, NULL };
	CLEANUP(cleanup_free) char *listed = NULL;

	/* Were the file's values used, it could not listen nor deliver. */
	configure(&(struct relay_options){ .upstream = "http://127.0.0.1:1",
	    .listen_lines = "http = 192.0.2.1:1\n",
	    .arguments = arguments });
	relay_start(relay);
	expect_delivery(1);
	listed = tempdir_list(other);
	cr_expect(strstr(listed, "spool.db"), "%s", listed);
	cr_assert_eq(relay_stop(relay), 0);
}

/* Configuration */

Test(lifecycle, a_bad_file_is_refused_with_its_line_and_the_nearest_key)
{
	struct relay_run r =
	    run_with_config("# sample\n[intake]\nmax_bodi = 1M\n", false, 78);

	cr_expect(strstr(r.err, "try.conf:3"), "%s", r.err);
	cr_expect(strstr(r.err, "max_bodi"), "%s", r.err);
	cr_expect(strstr(r.err, "max_body"), "%s", r.err);
	cr_expect_null(strstr(r.err, "listening"), "%s", r.err);
	relay_run_done(&r);
}

Test(lifecycle, a_file_that_is_not_there_is_refused)
{
	const char *const arguments[] = { "-c", "/nowhere/relay.conf", NULL };
	struct relay_run r = run(arguments, 78);

	cr_expect(strstr(r.err, "/nowhere/relay.conf"), "%s", r.err);
	relay_run_done(&r);
}

Test(lifecycle, check_config_says_ok)
{
	struct relay_run r =
	    run_with_config("[listen]\nhttp = 127.0.0.1:0\n[intake]\nmax_body = 2M\n"
			    "[upstream]\nurl = https://submit.backtrace.io\n",
		true, 0);

	cr_expect_str_eq(r.out, "configuration OK\n");
	cr_expect_str_empty(r.err);
	relay_run_done(&r);
}

Test(lifecycle, check_config_prints_every_error)
{
	static const char *const expected[] = { "try.conf:2", "try.conf:3", "try.conf:4",
		"try.conf:6" };
	struct relay_run r = run_with_config("[intake]\n"
					     "max_body = plenty\n"
					     "colour = blue\n"
					     "[intak]\n"
					     "[forward]\n"
					     "retry_min = 5 parsecs\n",
	    true, 78);

	for (size_t i = 0; i < ARRAY_LEN(expected); i++)
		cr_expect(
		    strstr(r.err, expected[i]), "%s is not in:\n%s", expected[i], r.err);
	cr_expect_geq(count_lines(r.err), ARRAY_LEN(expected));
	cr_expect_null(strstr(r.out, "OK"));
	relay_run_done(&r);
}

Test(lifecycle, check_config_touches_nothing)
{
	CLEANUP(cleanup_free)
	char *spool = tempdir_join(relay_folder(relay), "untouched");
	struct strbuf text = STRBUF_INIT;
	struct stat st;
	struct relay_run r;

	strbuf_addf(&text, "[spool]\ndirectory = %s\n", spool);
	r = run_with_config(strbuf_str(&text), true, 0);
	cr_expect_eq(stat(spool, &st), -1);
	relay_run_done(&r);
	strbuf_done(&text);
}

/* Starts that fail */

Test(lifecycle, a_port_in_use_is_named)
{
	CLEANUP(cleanup_close) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in sin = { .sin_family = AF_INET };
	socklen_t len = sizeof(sin);
	char address[32];
	char lines[48];

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert_eq(bind(fd, (const struct sockaddr *)&sin, sizeof(sin)), 0);
	cr_assert_eq(listen(fd, 1), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	(void)snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(sin.sin_port));
	(void)snprintf(lines, sizeof(lines), "http = %s\n", address);
	configure(&(struct relay_options){ .listen_lines = lines });
	expect_failed_start(relay, address);
}

Test(lifecycle, a_spool_in_use_is_named_and_its_owner_goes_on)
{
	const char *const arguments[] = { "--spool", relay_spool(relay), NULL };
	struct relay *second =
	    relay_new(&(struct relay_options){ .arguments = arguments });

	relay_start(relay);
	expect_failed_start(second, relay_spool(relay));
	(void)relay_free(second);
	expect_delivery(1);
}

Test(lifecycle, a_spool_that_cannot_be_is_named)
{
	CLEANUP(cleanup_free)
	char *in_the_way = tempdir_join(relay_folder(relay), "file");
	const char *const folders[] = { in_the_way, "/proc/no-such/spool" };

	tempdir_write(relay_folder(relay), "file", "x");
	for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
		const char *const arguments[] = { "--spool", folders[i], NULL };

		configure(&(struct relay_options){ .arguments = arguments });
		expect_failed_start(relay, folders[i]);
	}
}

Test(lifecycle, the_spool_is_its_owners_alone)
{
	struct stat st;

	relay_start(relay);
	cr_assert_eq(stat(relay_spool(relay), &st), 0);
	cr_expect_eq(st.st_mode & 07777u, 0700u);
}

/* Stopping */

/* The first half of a post on a connection of its own. */
static struct rawhttp *begin_post(const unsigned char *dump, size_t len)
{
	struct rawhttp *c = relay_connect(relay);
	char head[256];

	(void)snprintf(head, sizeof(head),
	    "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n"
	    "Expect: 100-continue\r\n\r\n",
	    RELAY_TARGET, len);
	cr_assert_eq(rawhttp_send_str(c, head), 0);
	cr_assert_eq(rawhttp_send(c, dump, len / 2), 0);
	return c;
}

/* The relay has seen the head of the post: it has said so. */
static void await_continue(struct rawhttp *c)
{
	struct rawhttp_response response = { 0 };

	cr_assert_eq(rawhttp_receive(c, false, &response), 0);
	cr_assert_eq(response.status, 100, "%s", response.head);
	rawhttp_response_done(&response);
}

static void stop_during_a_post(int sig)
{
	struct dump_spec spec = { .seed = 1, .padding = 100000 };
	size_t len = 0;
	CLEANUP(cleanup_free) unsigned char *dump = dump_build(&spec, &len);
	struct rawhttp_response response = { 0 };
	char rxid[RELAY_RXID_SIZE];
	struct rawhttp *c;
	size_t mark;

	relay_start(relay);
	c = begin_post(dump, len);
	await_continue(c);
	mark = relay_log_mark(relay);
	relay_signal(relay, sig);
	relay_expect_log(relay, mark, "stopping");
	cr_assert_eq(rawhttp_send(c, dump + len / 2, len - len / 2), 0);
	cr_assert_eq(rawhttp_receive(c, false, &response), 0);
	cr_expect(
	    relay_parse_rxid(&response, rxid), "%s%s", response.head, response.body);
	cr_expect_eq(relay_wait_exit(relay), 0);
	rawhttp_response_done(&response);
	(void)rawhttp_close(c);
	relay_start(relay);
	cr_expect(upstream_server_wait_dump(upstream, &spec));
}

Test(lifecycle, sigterm_lets_a_post_end_that_is_being_received)
{
	stop_during_a_post(SIGTERM);
}

Test(lifecycle, sigint_does_the_same)
{
	stop_during_a_post(SIGINT);
}

Test(lifecycle, a_stalled_client_holds_a_stop_no_longer_than_stop_timeout)
{
	size_t len = 0;
	CLEANUP(cleanup_free)
	unsigned char *dump = dump_build(&(struct dump_spec){ .seed = 1 }, &len);
	struct rawhttp *c;
	int64_t began_ms;

	configure(&(struct relay_options){ .daemon_lines = "stop_timeout = 300ms\n" });
	relay_start(relay);
	c = begin_post(dump, len);
	await_continue(c);
	began_ms = clock_mono_ms();
	cr_expect_eq(relay_stop(relay), 0);
	cr_expect_lt(clock_mono_ms() - began_ms, 5000);
	(void)rawhttp_close(c);
}

/* What a client sends last may come in one packet with its end, and must still be seen. */
Test(lifecycle, a_client_that_went_away_does_not_hold_a_stop)
{
	static const char half[] = "POST " RELAY_TARGET " HTTP/1.1\r\nHost: x\r\n"
				   "Content-Length: 1000\r\n\r\nMDMP";
	int64_t began_ms;

	configure(&(struct relay_options){ .daemon_lines = "stop_timeout = 15s\n" });
	relay_start(relay);
	for (int i = 0; i < 10; i++) {
		struct rawhttp *c = relay_connect(relay);

		cr_assert_eq(rawhttp_send_str(c, half), 0);
		(void)rawhttp_close(c);
	}
	began_ms = clock_mono_ms();
	cr_expect_eq(relay_stop(relay), 0);
	cr_expect_lt(clock_mono_ms() - began_ms, 10000);
}

Test(lifecycle, an_idle_connection_does_not_hold_a_stop)
{
	struct rawhttp *fresh;
	struct rawhttp *used;
	struct rawhttp_response response = { 0 };
	struct relay_post post = { 0 };
	CLEANUP(cleanup_free)
	unsigned char *dump = dump_build(&(struct dump_spec){ .seed = 1 }, &post.len);
	int64_t began_ms;

	configure(&(struct relay_options){ .daemon_lines = "stop_timeout = 15s\n" });
	relay_start(relay);
	fresh = relay_connect(relay);
	used = relay_connect(relay);
	post.body = dump;
	cr_assert_eq(relay_post_on(used, &post, &response), 0);
	rawhttp_response_done(&response);
	began_ms = clock_mono_ms();
	cr_expect_eq(relay_stop(relay), 0);
	cr_expect_lt(clock_mono_ms() - began_ms, 10000);
	(void)rawhttp_close(fresh);
	(void)rawhttp_close(used);
}

Test(lifecycle, an_upstream_that_hangs_does_not_hold_a_stop)
{
	struct dump_spec spec = { .seed = 1 };
	int64_t began_ms;

	configure(&(struct relay_options){ .daemon_lines = "stop_timeout = 300ms\n" });
	upstream_server_set_default(
	    upstream, &(struct upstream_step){ .action = UPSTREAM_STALL });
	relay_start(relay);
	relay_submit(relay, &spec);
	cr_assert(upstream_server_wait(upstream, UPSTREAM_STALLED, 1));
	began_ms = clock_mono_ms();
	cr_expect_eq(relay_stop(relay), 0);
	cr_expect_lt(clock_mono_ms() - began_ms, 5000);
}

/* Reloading */

Test(lifecycle, a_reload_with_a_bad_file_keeps_the_old_settings)
{
	size_t mark;

	relay_start(relay);
	mark = relay_log_mark(relay);
	tempdir_write(relay_folder(relay), "relay.conf", "[intake]\nmax_body = plenty\n");
	relay_signal(relay, SIGHUP);
	relay_expect_log(relay, mark, "relay.conf:2");
	expect_delivery(1);
}

Test(lifecycle, a_reload_takes_new_settings)
{
	struct dump_spec small = { .seed = 1 };
	struct dump_spec large = { .seed = 2, .padding = 100000 };
	size_t mark;

	relay_start(relay);
	relay_submit(relay, &large);
	mark = relay_log_mark(relay);
	configure(&(struct relay_options){ .sections = "[intake]\nmax_body = 64K\n",
	    .listen_lines = "http = 127.0.0.1:0, [::1]:0\n" });
	relay_signal(relay, SIGHUP);
	relay_expect_log(relay, mark, "reloaded");
	cr_expect_eq(relay_try_submit(relay, &large), 413);
	cr_expect_eq(relay_try_submit(relay, &small), 200);
	/* The addresses can't change while it runs; that is said. */
	relay_expect_log(relay, mark, "restart");
}

/* The log */

Test(lifecycle, each_report_has_one_line_when_taken_and_one_when_settled)
{
	struct relay_post post = { 0 };
	CLEANUP(cleanup_free)
	unsigned char *dump = dump_build(&(struct dump_spec){ .seed = 1 }, &post.len);
	struct rawhttp_response response = { 0 };
	char rxid[RELAY_RXID_SIZE];

	relay_start(relay);
	post.body = dump;
	cr_assert_eq(relay_post(relay, &post, &response), 0);
	cr_assert(relay_parse_rxid(&response, rxid), "%s", response.body);
	cr_assert(upstream_server_wait(upstream, UPSTREAM_ACCEPTED, 1));
	cr_assert_eq(relay_stop(relay), 0);
	cr_expect_eq(relay_log_count(relay, 0, rxid), 2);
	rawhttp_response_done(&response);
}

/* That the whole token stands nowhere is asked at the end of every test; here each thing
 * that is logged about a report happens at the most talkative level. */
Test(lifecycle, a_token_shows_only_its_begin)
{
	static const char shown[] = "5a3ec7\xe2\x80\xa6";
	struct upstream_step cut = { .action = UPSTREAM_CLOSE };
	struct upstream_step failed = { .status = 500,
		.body = "no such token " RELAY_TOKEN };
	struct rawhttp_response response = { 0 };
	struct relay_post refused = { .body = "text", .len = 4 };

	configure(&(struct relay_options){ .sections = "[log]\nlevel = debug\n",
	    .upstream_lines = "connect_timeout = 1s\n" });
	upstream_server_script(upstream, &cut);
	upstream_server_script(upstream, &failed);
	relay_start(relay);
	expect_delivery(1);
	cr_assert_eq(relay_post(relay, &refused, &response), 0);
	cr_expect_eq(response.status, 400);
	cr_expect_null(strstr(response.body, RELAY_TOKEN));
	rawhttp_response_done(&response);
	refused.target = "/post?format=minidump&token=" RELAY_TOKEN "&&=\"%zz";
	cr_assert_eq(relay_post(relay, &refused, &response), 0);
	cr_expect_null(strstr(response.body, RELAY_TOKEN));
	rawhttp_response_done(&response);
	upstream_server_refuse(upstream);
	relay_submit(relay, &(struct dump_spec){ .seed = 2 });
	cr_assert_eq(relay_stop(relay), 0);
	cr_expect_geq(relay_log_count(relay, 0, shown), 1);
}

/* Figures */

static void skip_if_sanitized(void)
{
	const char *sanitized = getenv("RELAY_SANITIZED");

	if (!sanitized || strcmp(sanitized, "1") != 0)
		return;
	stop(); /* a test that is skipped has no teardown */
	cr_skip_test("memory figures mean nothing in a build with sanitizers");
}

Test(lifecycle, idle_memory_is_small)
{
	skip_if_sanitized();
	relay_start(relay);
	cr_expect_lt(relay_memory_kib(relay, "VmRSS"), 8 * 1024, "%ld KiB resident",
	    relay_memory_kib(relay, "VmRSS"));
}

#define HUGE_MIB ((size_t)512)

/* Post HUGE_MIB of zeros behind the magic, and hash what was sent. */
static void post_huge(unsigned char ret_sha256[UPSTREAM_SHA256_BYTES])
{
	size_t piece = 1u << 20;
	CLEANUP(cleanup_free) char *zeros = calloc(1, piece);
	struct rawhttp *c = relay_connect(relay);
	struct rawhttp_response response = { 0 };
	struct sha256_ctx sha;
	char head[256];

	cr_assert_not_null(zeros);
	(void)snprintf(head, sizeof(head),
	    "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", RELAY_TARGET,
	    HUGE_MIB * piece);
	cr_assert_eq(rawhttp_send_str(c, head), 0);
	sha256_init(&sha);
	(void)memcpy(zeros, "MDMP", 4);
	for (size_t i = 0; i < HUGE_MIB; i++) {
		cr_assert_eq(rawhttp_send(c, zeros, piece), 0);
		sha256_update(&sha, piece, (const uint8_t *)zeros);
		(void)memset(zeros, 0, 4);
	}
	sha256_digest(&sha, UPSTREAM_SHA256_BYTES, ret_sha256);
	cr_assert_eq(rawhttp_receive(c, false, &response), 0);
	cr_assert_eq(response.status, 200, "%s", response.body);
	rawhttp_response_done(&response);
	(void)rawhttp_close(c);
}

/* Coming in and going out. */
Test(lifecycle, a_huge_body_takes_little_memory)
{
	unsigned char sha256[UPSTREAM_SHA256_BYTES];
	const struct upstream_request *request;
	long peak_kib;

	skip_if_sanitized();
	upstream = upstream_server_free(upstream);
	upstream = upstream_server_new(&(struct upstream_options){ .hash_only = true });
	cr_assert_not_null(upstream);
	configure(&(struct relay_options){ 0 });
	relay_start(relay);
	post_huge(sha256);
	peak_kib = relay_memory_kib(relay, "VmHWM");
	cr_expect_lt(peak_kib, 48 * 1024, "%ld KiB at the peak of the intake", peak_kib);
	cr_assert(upstream_server_wait(upstream, UPSTREAM_ACCEPTED, 1));
	peak_kib = relay_memory_kib(relay, "VmHWM");
	cr_expect_lt(peak_kib, 48 * 1024, "%ld KiB at the peak of the upload", peak_kib);
	request = upstream_server_accepted(upstream, 0);
	cr_assert_not_null(request);
	cr_expect_eq(request->body_len, HUGE_MIB << 20);
	cr_expect_arr_eq(request->sha256, sha256, sizeof(sha256));
}
