/* SPDX-License-Identifier: MIT */
/* Configuration as its user writes it: text in, settings or complaints out. */
#include "config.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct config config;
static struct config_errors errors;

static void tidy(void)
{
	config_done(&config);
	config_errors_done(&errors);
}

TestSuite(config, .fini = tidy);

static int parse_bytes(const char *data, size_t len)
{
	tidy();
	return config_parse_buffer("t.conf", data, len, &config, &errors);
}

static int parse(const char *text)
{
	return parse_bytes(text, strlen(text));
}

static void take(const char *text)
{
	int r = parse(text);

	cr_assert_eq(
	    r, 0, "%d: %s\n%s", r, errors.count > 0 ? errors.lines[0] : "", text);
}

/* The text is refused with just this one line. */
static void refuse(const char *text, const char *line)
{
	cr_assert_eq(parse(text), -EINVAL, "taken: %s", text);
	cr_assert_eq(errors.count, 1);
	cr_assert_str_eq(errors.lines[0], line);
}

/* The text is refused with one line that holds what. */
static void refuse_with(const char *text, const char *what)
{
	cr_assert_eq(parse(text), -EINVAL, "taken: %s", text);
	cr_assert_eq(errors.count, 1, "%s", errors.lines[0]);
	cr_assert_not_null(strstr(errors.lines[0], what), "%s", errors.lines[0]);
}

static const char *show_address(const struct config_address *a)
{
	static char text[80];
	char host[INET6_ADDRSTRLEN];
	struct sockaddr_in in;
	struct sockaddr_in6 in6;

	if (a->addr.ss_family == AF_INET) {
		memcpy(&in, &a->addr, sizeof(in));
		inet_ntop(AF_INET, &in.sin_addr, host, sizeof(host));
		(void)snprintf(text, sizeof(text), "%s:%u", host, ntohs(in.sin_port));
	} else {
		memcpy(&in6, &a->addr, sizeof(in6));
		inet_ntop(AF_INET6, &in6.sin6_addr, host, sizeof(host));
		(void)snprintf(text, sizeof(text), "[%s]:%u", host, ntohs(in6.sin6_port));
	}
	return text;
}

static void expect_addresses(const char *const *expected, size_t count)
{
	cr_assert_eq(config.listen.http.count, count);
	for (size_t i = 0; i < count; i++)
		cr_assert_str_eq(show_address(&config.listen.http.items[i]), expected[i]);
}

#define EXPECT_ADDRESSES(...)                                                            \
	expect_addresses((const char *const[]){ __VA_ARGS__ },                           \
	    sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *))

Test(config, nothing_at_all_is_a_whole_configuration)
{
	take("");
	EXPECT_ADDRESSES("127.0.0.1:6097", "[::1]:6097");
	cr_assert(config.listen.http.items[1].implied);
	cr_assert_eq(config.listen.max_connections, 512);
	cr_assert_eq(config.listen.idle_timeout_ms, 30000);
	cr_assert_eq(config.intake.max_body_bytes, INT64_C(512) << 20);
	cr_assert_eq(config.intake.max_decoded_bytes, INT64_C(2) << 30);
	cr_assert_eq(config.intake.max_ratio, 200);
	cr_assert_eq(config.intake.max_parts, 256);
	cr_assert_eq(config.intake.max_attributes_bytes, 1 << 20);
	cr_assert_eq(config.intake.formats.count, 0);
	cr_assert_null(config.upstream.url);
	cr_assert_eq(config.upstream.style, CONFIG_STYLE_AUTO);
	cr_assert_eq(config.upstream.connect_timeout_ms, 10000);
	cr_assert_eq(config.upstream.stall_timeout_ms, 60000);
	cr_assert_null(config.spool.directory);
	cr_assert_eq(config.spool.max_bytes, INT64_C(10) << 30);
	cr_assert_eq(config.spool.max_reports, 1000000);
	cr_assert_eq(config.spool.max_age_ms, INT64_C(30) * 86400 * 1000);
	cr_assert_eq(config.spool.min_free_bytes, CONFIG_AUTO);
	cr_assert_eq(config.spool.reserve_bytes, 16 << 20);
	cr_assert_eq(config.spool.when_full, CONFIG_WHEN_FULL_EVICT);
	cr_assert_eq(config.spool.keep_sent_ms, INT64_C(7) * 86400 * 1000);
	cr_assert_eq(config.spool.keep_dead_ms, INT64_C(30) * 86400 * 1000);
	cr_assert_eq(config.forward.concurrency, 4);
	cr_assert_eq(config.forward.retry_min_ms, 1000);
	cr_assert_eq(config.forward.retry_max_ms, 300000);
	cr_assert_null(config.control.socket);
	cr_assert_eq(config.daemon.stop_timeout_ms, 10000);
	cr_assert_eq(config.log.level, LOG_LEVEL_INFO);
	cr_assert_eq(config.log.format, LOG_FORMAT_AUTO);
}

Test(config, values_reach_their_members)
{
	take("[listen]\nhttp = 10.1.2.3:80\nmax_connections = 7\nidle_timeout=500ms\n"
	     "[intake]\nformats = minidump, json\nmax_body = 64K\n"
	     "[upstream \"main\"]\nurl = HTTPS://up.example:8443/prefix/\nstyle = "
	     "as-received\n"
	     "universe = uni\ntoken = 0123==\nproxy = socks5h://u:p%23@[::1]:1080\n"
	     "[spool]\ndirectory = /a b/c\nmin_free = 0\nwhen_full = reject\nmax_age = "
	     "2h\n"
	     "[control]\nsocket = /run/x.sock\n[log]\nlevel = debug\nformat = json\n");
	EXPECT_ADDRESSES("10.1.2.3:80");
	cr_assert_not(config.listen.http.items[0].implied);
	cr_assert_eq(config.listen.max_connections, 7);
	cr_assert_eq(config.listen.idle_timeout_ms, 500);
	cr_assert_eq(config.intake.formats.count, 2);
	cr_assert_str_eq(config.intake.formats.items[1], "json");
	cr_assert_eq(config.intake.max_body_bytes, 65536);
	cr_assert_str_eq(config.upstream.name, "main");
	cr_assert_str_eq(config.upstream.url, "HTTPS://up.example:8443/prefix/");
	cr_assert_eq(config.upstream.style, CONFIG_STYLE_AS_RECEIVED);
	cr_assert_str_eq(config.upstream.universe, "uni");
	cr_assert_str_eq(config.upstream.token, "0123==");
	cr_assert_str_eq(config.upstream.proxy, "socks5h://u:p%23@[::1]:1080");
	cr_assert_str_eq(config.spool.directory, "/a b/c");
	cr_assert_eq(config.spool.min_free_bytes, 0);
	cr_assert_eq(config.spool.when_full, CONFIG_WHEN_FULL_REJECT);
	cr_assert_eq(config.spool.max_age_ms, 7200000);
	cr_assert_str_eq(config.control.socket, "/run/x.sock");
	cr_assert_eq(config.log.level, LOG_LEVEL_DEBUG);
	cr_assert_eq(config.log.format, LOG_FORMAT_JSON);
}

Test(config, windows_editors_and_indentation_do_no_harm)
{
	take("\xef\xbb\xbf  # note\r\n\t[forward]  ; note\r\n\r\n"
	     "   concurrency\t=\t 9 \t# note\r\n"
	     "  retry_min=0010ms\r\n"
	     "\t[ upstream \"a\" ]#\r\n\turl=http://h");
	cr_assert_eq(config.forward.concurrency, 9);
	cr_assert_eq(config.forward.retry_min_ms, 10);
	cr_assert_str_eq(config.upstream.url, "http://h");
}

Test(config, comment_after_a_blank_ends_the_value_and_only_then)
{
	take("[upstream]\nurl = http://h/a;b   # where\ntoken =#a;b#c\nuniverse = u\t; "
	     "note\n");
	cr_assert_str_eq(config.upstream.url, "http://h/a;b");
	cr_assert_str_eq(config.upstream.token, "#a;b#c");
	cr_assert_str_eq(config.upstream.universe, "u");
	refuse_with(
	    "[upstream]\nurl = http://h\ntoken = #a\n", "has no value (after a blank");
}

Test(config, lists_take_commas_and_repeated_keys)
{
	take("[listen]\nhttp = 127.0.0.1:1 ,[::1]:2\nhttp = 0.0.0.0:0\n");
	EXPECT_ADDRESSES("127.0.0.1:1", "[::1]:2", "0.0.0.0:0");
	take("[intake]\nformats =\n");
	cr_assert_eq(config.intake.formats.count, 0);
	refuse_with("[intake]\nformats = a,,b\n", "has an empty item");
	refuse_with("[listen]\nhttp = 127.0.0.1:1,\n", "has an empty item");
	refuse_with("[listen]\nhttp =\n", "has no value");
}

Test(config, localhost_is_both_loopback_addresses)
{
	take("[listen]\nhttp = localhost:80\n");
	EXPECT_ADDRESSES("127.0.0.1:80", "[::1]:80");
	cr_assert_not(config.listen.http.items[0].implied);
	cr_assert(config.listen.http.items[1].implied);
}

Test(config, same_address_twice_is_refused_but_not_with_port_0)
{
	take("[listen]\nhttp = 127.0.0.1:0, 127.0.0.1:0\n");
	refuse("[listen]\nhttp = localhost:80\nhttp = [::1]:80\n",
	    "t.conf:3: [listen] http: names the same address twice (localhost is "
	    "127.0.0.1 and "
	    "[::1]); expected each once");
}

Test(config, error_says_where_what_and_what_was_expected)
{
	refuse("[forward]\n\nconcurrency = 65\n",
	    "t.conf:3: [forward] concurrency: \"65\" is out of range; expected 1 to 64 "
	    "uploads");
	refuse("[upstream \"a\"]\nurl = ftp://h\n",
	    "t.conf:2: [upstream \"a\"] url: the value (not shown) has no scheme that is "
	    "known; "
	    "expected http://HOST[:PORT] or https://HOST[:PORT]");
	refuse("[log]\nlevel = warn\n", "t.conf:2: [log] level: \"warn\" is not known "
					"here; expected err, warning, notice, "
					"info or debug");
	refuse("[daemon]\nstop_timeout = 30\n",
	    "t.conf:2: [daemon] stop_timeout: \"30\" is not a duration; expected a "
	    "number with "
	    "ms, s, m, h or d, such as 30s");
}

Test(config, unknown_names_come_with_the_nearest_known_one)
{
	refuse("[control]\nsoket = /x\n", "t.conf:2: [control] soket: unknown key; "
					  "expected one of socket; did you mean "
					  "\"socket\"?");
	refuse("[lisen]\nhttp = 1.2.3.4:5\n",
	    "t.conf:1: [lisen]: unknown section; expected one of [listen], [intake], "
	    "[upstream], "
	    "[spool], [forward], [control], [daemon], [log]; did you mean \"[listen]\"?");
}

Test(config, key_of_another_section_is_pointed_home)
{
	refuse_with(
	    "[listen]\nmax_body = 1M\n", "did you mean \"max_body\" in [intake]?");
	refuse_with(
	    "[listen]\nMax-Conections = 1\n", "did you mean \"max_connections\"?");
	cr_assert_eq(parse("[listen]\nzzz = 1\n"), -EINVAL);
	cr_assert_null(strstr(errors.lines[0], "did you mean"), "%s", errors.lines[0]);
}

Test(config, every_error_is_told_not_only_the_first)
{
	cr_assert_eq(parse("x = 1\n"                      /* 1: before any section */
			   "[nope]\nkey = 1\n"            /* 2; its keys are not judged */
			   "[forward\nconcurrency = 99\n" /* 4: no ]; nor are these */
			   "[forward]\nconcurrency = 99\n" /* 7 */
			   "concurrency 3\n"               /* 8 */
			   "= 3\n"                         /* 9 */
			   "[log] level = info\n"          /* 10 */
			   "level = x\n"                   /* 11: below a bad header */
			   "[log]\nlevel = x\n"),          /* 13 */
	    -EINVAL);
	cr_assert_eq(errors.count, 8);
	for (size_t i = 0; i < errors.count; i++) {
		static const int lines[] = { 1, 2, 4, 7, 8, 9, 10, 13 };
		char start[32];

		(void)snprintf(start, sizeof(start), "t.conf:%d: ", lines[i]);
		cr_assert_eq(strncmp(errors.lines[i], start, strlen(start)), 0, "%s",
		    errors.lines[i]);
	}
}

Test(config, errors_are_bounded_in_number)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	for (int i = 0; i < CONFIG_ERRORS_MAX + 5; i++)
		strbuf_add_str(&b, "x\n");
	cr_assert_eq(parse(strbuf_str(&b)), -EINVAL);
	cr_assert_eq(errors.count, CONFIG_ERRORS_MAX);
	cr_assert_eq(errors.not_kept, 5);
}

Test(config, scalar_set_twice_in_a_file_is_an_error_that_names_both)
{
	refuse("[log]\nlevel = info\n[spool]\n[log]\nlevel = debug\n",
	    "t.conf:5: [log] level: is set again; expected one such line (the first is "
	    "line 2)");
}

Test(config, related_settings_are_judged_together)
{
	refuse("[forward]\nretry_max = 1s\nretry_min = 2s\n",
	    "t.conf:3: [forward] retry_min: retry_min must be at most retry_max; "
	    "expected a "
	    "smaller value, or a larger retry_max");
	refuse("[forward]\nretry_max = 500ms\n",
	    "t.conf:2: [forward] retry_max: retry_min must be at most retry_max; "
	    "expected a "
	    "larger value, or a smaller retry_min");
	take("[forward]\nretry_max = 1s\n");
	refuse_with("[spool]\nmax_bytes = 16M\n", "reserve must be less than max_bytes");
	take("[spool]\nmax_bytes = 16M\nreserve = 1M\n");
	/* A value that was refused is not judged again by its default. */
	refuse_with("[forward]\nretry_max = 5x\nretry_min = 10m\n", "retry_max: \"5x\"");
}

Test(config, upstream_section_needs_a_url_once_it_says_something)
{
	take("[upstream]\n");
	cr_assert_null(config.upstream.url);
	refuse("[log]\n[upstream]\ntoken = abc\n",
	    "t.conf:3: [upstream] url: is missing; expected url = https://HOST in this "
	    "section");
	refuse_with("[upstream \"a\"]\n", "t.conf:1: [upstream \"a\"] url: is missing");
	refuse_with("[upstream]\nurl = nonsense\n", "has no scheme");
}

Test(config, only_one_upstream_for_now)
{
	refuse("[upstream \"a\"]\nurl = http://h\n[upstream \"b\"]\nurl = http://i\nfoo "
	       "= 1\n",
	    "t.conf:3: [upstream \"b\"]: only one upstream is supported by this version; "
	    "expected no other beside [upstream \"a\"] (t.conf:1)");
	refuse_with(
	    "[upstream]\nurl = http://h\n[upstream \"b\"]\n", "only one upstream");
	refuse_with("[upstream \"b\"]\nurl = http://h\n[upstream]\nstyle = path\n",
	    "t.conf:4: [upstream]: only one upstream");
	take("[upstream]\n[upstream \"b\"]\nurl = http://h\n[log]\n[upstream "
	     "\"b\"]\ntoken=x\n");
	refuse_with("[upstream \"b c\"]\n", "this name is not valid");
	refuse_with("[upstream \"\"]\n", "this name is not valid");
	refuse_with("[spool \"b\"]\n", "takes no name");
}

Test(config, no_part_of_a_secret_is_ever_shown)
{
	static const char *const texts[] = {
		"[upstream]\nurl = http://h\ntoken = S3CRET S3CRET\n",
		"[upstream]\nurl = http://h\ntoken = \"S3CRET\"\n",
		"[upstream]\nurl = http://h\ntoken = S3CRET/S3CRET\n",
		"[upstream]\nurl = http://h\ntoken = S3CRET\x01\n",
		"[upstream]\nurl = http://h\ntoken S3CRET\n",
		"[upstream]\nurl = http://h\ntoken: S3CRET==\n",
		"[upstream]\nurl = http://h\ntoken = x\ntoken = S3CRET\n",
		"[upstream]\nurl = http://h\ntokn = S3CRET\n",
		"[upstream]\nurl = http://h\nproxy = http://u:S3CRET@\n",
		"[upstream]\nurl = http://h\nproxy = u:S3CRET@host\n",
		"[upstream]\nurl = http://u:S3CRET@h\n",
		"[upstream]\nurl = http://h/?token=S3CRET\n",
		"[upstream]\nurl = S3CRET\n",
		"[upstream S3CRET]\n",
		"token = S3CRET\n",
	};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		cr_assert_eq(parse(texts[i]), -EINVAL, "taken: %s", texts[i]);
		for (size_t j = 0; j < errors.count; j++)
			cr_assert_null(
			    strstr(errors.lines[j], "S3C"), "%s", errors.lines[j]);
	}
}

Test(config, control_bytes_are_refused_with_their_place)
{
	static const char nul[] = "[upstream]\nurl = http://h\ntoken = ab\0cd\n";

	cr_assert_eq(parse_bytes(nul, sizeof(nul) - 1), -EINVAL);
	cr_assert_eq(errors.count, 1);
	cr_assert_str_eq(
	    errors.lines[0], "t.conf:3: control byte 0x00 at column 11; expected text");
	refuse_with("[spool]\ndirectory = /a\rb\n", "control byte 0x0d at column 15");
	refuse_with("[spool]\ndirectory = /a\tb\n", "control byte");
	refuse_with("[sp\x7fool]\ndirectory = x\n", "control byte 0x7f at column 4");
	take("# \x01\x02 in a comment\n");
}

Test(config, long_values_are_whole_and_bounded)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	strbuf_add_str(&b, "[intake]\nformats = ");
	for (int i = 0; i < 60; i++)
		strbuf_addf(&b, "%sformat-%0900d", i > 0 ? "," : "", i);
	take(strbuf_str(&b));
	cr_assert_eq(config.intake.formats.count, 60);
	strbuf_reset(&b);
	strbuf_add_str(&b, "[intake]\nformats = ");
	for (int i = 0; i < 66000; i++)
		strbuf_add_char(&b, 'x');
	refuse_with(strbuf_str(&b), "t.conf:2: the value is too long");
	strbuf_reset(&b);
	strbuf_add_str(&b, "[intake]\nformats = a");
	for (int i = 0; i < 64; i++)
		strbuf_add_str(&b, ",a");
	refuse_with(strbuf_str(&b), "too many items; expected at most 64");
}

Test(config, any_prefix_and_any_changed_byte_is_survived)
{
	static const char text[] =
	    "\xef\xbb\xbf[listen]\nhttp = [::1]:0, localhost:1 # c\n"
	    "[upstream \"a\"]\nurl = http://[::1]:1/p\ntoken = t\n"
	    "[spool]\nmin_free = 5G\nmax_age=1d\n";
	char copy[sizeof(text)];

	for (size_t len = 0; len < sizeof(text); len++) {
		(void)parse_bytes(text, len);
		for (int c = 0; c < 256; c += 3) {
			memcpy(copy, text, sizeof(text));
			copy[len] = (char)c;
			(void)parse_bytes(copy, sizeof(copy) - 1);
		}
	}
}

static char folder[] = "/tmp/relay-config-XXXXXX";

static void make_folder(void)
{
	cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void)
{
	char command[128];

	(void)snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	cr_assert_eq(system(command), 0);
	tidy();
}

TestSuite(config_files, .init = make_folder, .fini = remove_folder);

static const char *in_folder(const char *name)
{
	static char path[256];

	(void)snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static void write_file(const char *name, const char *text)
{
	FILE *f = fopen(in_folder(name), "w");

	cr_assert_not_null(f);
	cr_assert_geq(fputs(text, f), 0);
	cr_assert_eq(fclose(f), 0);
}

static int load(struct config_sources src)
{
	CLEANUP(cleanup_free) char *path = strdup(in_folder("r.conf"));

	src.path = path;
	tidy();
	return config_load(&src, &config, &errors);
}

/* The only error is line, below the folder. */
static void expect_error(const char *line)
{
	cr_assert_eq(errors.count, 1);
	cr_assert_str_eq(errors.lines[0], in_folder(line));
}

Test(config_files, absent_file_is_an_error_only_when_it_was_named)
{
	cr_assert_eq(load((struct config_sources){ 0 }), 0);
	cr_assert_eq(load((struct config_sources){ .path_required = true }), -EINVAL);
	expect_error(
	    "r.conf: can't be read: No such file or directory; expected a readable text "
	    "file");
}

Test(config_files, folder_counts_also_without_the_file)
{
	cr_assert_eq(mkdir(in_folder("r.conf.d"), 0700), 0);
	write_file("r.conf.d/a.conf", "[log]\nlevel = debug\n");
	cr_assert_eq(load((struct config_sources){ 0 }), 0);
	cr_assert_eq(config.log.level, LOG_LEVEL_DEBUG);
}

Test(config_files, later_file_wins_and_replaces_lists_and_flags_win_over_all)
{
	const char *const listen[] = { "127.0.0.1:7", "localhost:8" };

	cr_assert_eq(mkdir(in_folder("r.conf.d"), 0700), 0);
	write_file("r.conf",
	    "[log]\nlevel = debug\n[listen]\nhttp = 127.0.0.1:1\n"
	    "[forward]\nconcurrency = 2\n[upstream]\nurl = http://file\n");
	write_file("r.conf.d/10.conf",
	    "[listen]\nhttp = 127.0.0.1:2\nhttp = 127.0.0.1:3\n"
	    "[upstream]\ntoken = abc\n[forward]\nconcurrency = 3\n");
	write_file("r.conf.d/9.conf", "[forward]\nconcurrency = 5\n");
	write_file("r.conf.d/z.conf.bak", "nonsense");
	write_file("r.conf.d/.hidden.conf", "nonsense");
	cr_assert_eq(load((struct config_sources){ 0 }), 0);
	cr_assert_eq(config.log.level, LOG_LEVEL_DEBUG);
	cr_assert_eq(config.forward.concurrency, 5, "9.conf comes after 10.conf");
	cr_assert_str_eq(config.upstream.url, "http://file");
	cr_assert_str_eq(config.upstream.token, "abc");
	EXPECT_ADDRESSES("127.0.0.1:2", "127.0.0.1:3");

	cr_assert_eq(load((struct config_sources){ .listen = listen,
			 .listen_count = 2,
			 .upstream_url = "http://flag",
			 .spool_directory = "/s",
			 .control_socket = "/c" }),
	    0);
	EXPECT_ADDRESSES("127.0.0.1:7", "127.0.0.1:8", "[::1]:8");
	cr_assert_str_eq(config.upstream.url, "http://flag");
	cr_assert_str_eq(config.spool.directory, "/s");
	cr_assert_str_eq(config.control.socket, "/c");
}

Test(config_files, errors_of_all_sources_are_told_by_their_names)
{
	const char *const listen[] = { "example.com:80" };

	cr_assert_eq(mkdir(in_folder("r.conf.d"), 0700), 0);
	cr_assert_eq(mkdir(in_folder("r.conf.d/b.conf"), 0700), 0);
	cr_assert_eq(symlink("nowhere", in_folder("r.conf.d/c.conf")), 0);
	write_file("r.conf", "[forward]\nretry_min = 10m\n");
	write_file("r.conf.d/a.conf", "[log]\nlevel = x\n");
	cr_assert_eq(load((struct config_sources){ .listen = listen, .listen_count = 1 }),
	    -EINVAL);
	cr_assert_eq(errors.count, 5);
	cr_assert_not_null(strstr(errors.lines[0], "r.conf.d/a.conf:2: [log] level: "));
	cr_assert_not_null(
	    strstr(errors.lines[1], "r.conf.d/b.conf: is not a regular file"));
	cr_assert_not_null(
	    strstr(errors.lines[2], "r.conf.d/c.conf: can't be read: No such"));
	cr_assert_str_eq(errors.lines[3], "--listen: \"example.com:80\" names no IP "
					  "address; expected such as 127.0.0.1:6097 or "
					  "[::1]:6097 (of names only localhost)");
	cr_assert_not_null(strstr(errors.lines[4], "r.conf:2: [forward] retry_min: "));
}

Test(config_files, a_huge_file_and_a_folder_in_its_place_are_refused)
{
	cr_assert_eq(mkdir(in_folder("r.conf"), 0700), 0);
	cr_assert_eq(load((struct config_sources){ 0 }), -EINVAL);
	expect_error(
	    "r.conf: can't be read: Is a directory; expected a readable text file");
	cr_assert_eq(rmdir(in_folder("r.conf")), 0);
	write_file("r.conf", "");
	cr_assert_eq(truncate(in_folder("r.conf"), (off_t)5 << 20), 0);
	cr_assert_eq(load((struct config_sources){ 0 }), -EINVAL);
	expect_error(
	    "r.conf: can't be read: File too large; expected a readable text file");
}

Test(config_files, ca_file_must_be_a_readable_file)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	strbuf_addf(
	    &b, "[upstream]\nurl = https://h\nca_file = %s\n", in_folder("ca.pem"));
	write_file("r.conf", strbuf_str(&b));
	cr_assert_eq(load((struct config_sources){ 0 }), -EINVAL);
	expect_error(
	    "r.conf:3: [upstream] ca_file: the file can't be read: No such file or "
	    "directory; expected a file of PEM certificates");
	write_file("ca.pem", "x");
	cr_assert_eq(load((struct config_sources){ 0 }), 0);
}

Test(config_files, relative_paths_of_flags_begin_at_the_working_folder)
{
	cr_assert_eq(chdir(folder), 0);
	cr_assert_eq(load((struct config_sources){
			 .spool_directory = "var/spool", .control_socket = "c.sock" }),
	    0);
	cr_assert_str_eq(config.spool.directory, in_folder("var/spool"));
	cr_assert_str_eq(config.control.socket, in_folder("c.sock"));
	cr_assert_eq(load((struct config_sources){ .spool_directory = "" }), -EINVAL);
}

struct variable {
	const char *name;
	const char *value;
};

static const char *get_variable(void *cls, const char *name)
{
	for (const struct variable *v = cls; v->name; v++)
		if (strcmp(v->name, name) == 0)
			return v->value;
	return NULL;
}

struct path_case {
	struct variable variables[4];
	bool is_root;
	const char *spool; /* NULL: none */
	const char *control;
};

Test(config, default_paths_follow_the_environment)
{
	static struct path_case cases[] = {
		{ { { "STATE_DIRECTORY", "/s/a:/s/b" },
		      { "RUNTIME_DIRECTORY", "/r/a:/r/b" }, { "HOME", "/h" } },
		    true, "/s/a", "/r/a/control.sock" },
		{ { { "HOME", "/root" }, { "XDG_RUNTIME_DIR", "/run/user/0" },
		      { "XDG_STATE_HOME", "/x" } },
		    true, "/var/lib/minidump-relay", "/run/minidump-relay/control.sock" },
		{ { { "XDG_STATE_HOME", "/x:y" }, { "HOME", "/h" },
		      { "XDG_RUNTIME_DIR", "/run/user/7" } },
		    false, "/x:y/minidump-relay",
		    "/run/user/7/minidump-relay/control.sock" },
		{ { { "XDG_STATE_HOME", "relative" }, { "HOME", "/h" },
		      { "STATE_DIRECTORY", "" } },
		    false, "/h/.local/state/minidump-relay", NULL },
		{ { { "HOME", "" } }, false, NULL, NULL },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct config_environment env = { .get = get_variable,
			.cls = cases[i].variables,
			.is_root = cases[i].is_root };
		size_t missing = (size_t)!cases[i].spool + (size_t)!cases[i].control;

		take("");
		cr_assert_eq(config_resolve_paths(&config, &env, &errors),
		    missing > 0 ? -EINVAL : 0);
		cr_assert_eq(errors.count, missing);
		if (cases[i].spool)
			cr_assert_str_eq(config.spool.directory, cases[i].spool);
		if (cases[i].control)
			cr_assert_str_eq(config.control.socket, cases[i].control);
	}
	cr_assert_not_null(strstr(errors.lines[0], "expected --spool DIR, "));
	cr_assert_not_null(strstr(errors.lines[1], "expected --control PATH, "));
}

Test(config, configured_paths_are_kept_and_too_long_a_socket_is_refused)
{
	char runtime[160] = "/";
	struct variable variables[] = { { "RUNTIME_DIRECTORY", runtime },
		{ NULL, NULL } };
	struct config_environment env = { .get = get_variable, .cls = variables };

	memset(runtime + 1, 'x', 120);
	take("[spool]\ndirectory = /mine\n[control]\nsocket = /mine.sock\n");
	cr_assert_eq(config_resolve_paths(&config, &env, &errors), 0);
	cr_assert_str_eq(config.spool.directory, "/mine");
	take("[spool]\ndirectory = /mine\n");
	cr_assert_eq(config_resolve_paths(&config, &env, &errors), -EINVAL);
	cr_assert_not_null(strstr(errors.lines[0], "expected at most 107 bytes"));
}

static void count_key(void *cls, const struct config_setting *s)
{
	struct strbuf *b = cls;

	strbuf_addf(b, "[%s] %s ", s->section, s->key);
}

Test(config, reload_names_the_changed_settings_that_need_a_restart)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	CLEANUP(config_done) struct config old = { 0 };

	take("[listen]\nhttp = 127.0.0.1:1\n[spool]\ndirectory = "
	     "/a\n[upstream]\nurl=http://a\n");
	old = config;
	config = (struct config){ 0 };
	take("[listen]\nhttp = 127.0.0.1:2\n[spool]\ndirectory = "
	     "/b\n[upstream]\nurl=http://b\n"
	     "[intake]\nformats = json\n");
	cr_assert_eq(config_reload_needs_restart(&old, &config, count_key, &b), 2);
	cr_assert_str_eq(strbuf_str(&b), "[listen] http [spool] directory ");
	take("[listen]\nhttp = 127.0.0.1:1\n[spool]\ndirectory = /a\n[log]\nlevel=err\n");
	cr_assert_eq(config_reload_needs_restart(&old, &config, count_key, &b), 0);
}

/* The sample's text; the caller frees it. The test runs with $srcdir, or in the tree. */
static char *read_sample(void)
{
	const char *srcdir = getenv("srcdir");
	char path[4096];
	char *text = calloc(1, 65536);
	FILE *f;

	(void)snprintf(
	    path, sizeof(path), "%s/etc/minidump-relay.conf", srcdir ? srcdir : ".");
	f = fopen(path, "r");
	cr_assert_not_null(f, "%s", path);
	cr_assert_not_null(text);
	cr_assert_gt(fread(text, 1, 65535, f), 0);
	(void)fclose(f);
	return text;
}

Test(config, sample_shows_every_setting_with_default_and_help)
{
	CLEANUP(cleanup_free) char *text = read_sample();
	size_t count;
	const struct config_setting *s = config_settings(&count);

	for (size_t i = 0; i < count; i++) {
		CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
		const char *section;
		const char *end;
		const char *help;
		const char *line;

		strbuf_addf(&b, "\n[%s]\n", s[i].section);
		section = strstr(text, strbuf_str(&b));
		cr_assert_not_null(section, "[%s] is missing", s[i].section);
		end = strstr(section + 1, "\n[");
		strbuf_reset(&b);
		strbuf_addf(&b, "\n# %s\n", s[i].help);
		help = strstr(section, strbuf_str(&b));
		cr_assert(help && (!end || help < end), "%s: help is not: %s", s[i].key,
		    s[i].help);
		strbuf_reset(&b);
		strbuf_addf(&b, "\n#%s =%s%s\n", s[i].key, s[i].default_text ? " " : "",
		    s[i].default_text ? s[i].default_text : "");
		line = strstr(help, strbuf_str(&b));
		cr_assert(line && (!end || line < end), "not below its help: %s",
		    strbuf_str(&b));
	}
}

Test(config, sample_uncommented_is_the_defaults_and_nothing_unknown)
{
	CLEANUP(cleanup_free) char *text = read_sample();
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	CLEANUP(config_done) struct config defaults = { 0 };
	size_t count;
	const struct config_setting *s = config_settings(&count);
	size_t keys = 0;

	take("");
	defaults = config;
	config = (struct config){ 0 };
	take(text);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		const char *equals = strstr(line, " =");
		bool is_key = line[0] == '#' && equals &&
			      strcspn(line + 1, " ") == (size_t)(equals - line - 1);

		keys += is_key;
		/* What has no default shows no value; a url is needed by its section. */
		if (strcmp(line, "#url =") == 0)
			strbuf_add_str(&b, "url = http://h\n");
		else
			strbuf_addf(
			    &b, "%s\n", is_key && equals[2] == ' ' ? line + 1 : line);
	}
	cr_assert_eq(keys, count);
	take(strbuf_str(&b));
	for (size_t i = 0; i < count; i++)
		if (s[i].default_text)
			cr_assert(config_value_equal(&s[i], config_field(&config, &s[i]),
				      config_field(&defaults, &s[i])),
			    "%s", s[i].key);
}
