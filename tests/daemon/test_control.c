/* SPDX-License-Identifier: MIT */
/* The control socket as scripts, scrapers and the command line meet it: interface.md,
 * section 7. */
#include "cleanup.h"
#include "clock.h"
#include "strbuf.h"
#include "support/dump_builder.h"
#include "support/rawhttp.h"
#include "support/relay.h"
#include "support/tempdir.h"
#include "support/upstream_server.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static struct upstream_server *upstream;
static struct relay *relay;
static char *path;

static void make(void)
{
	upstream = upstream_server_new(NULL);
	cr_assert_not_null(upstream);
	relay = relay_new(
	    &(struct relay_options){ .upstream = upstream_server_url(upstream) });
	/* Where it is by default, below $RUNTIME_DIRECTORY. */
	path = tempdir_join(relay_folder(relay), "control.sock");
}

static void stop(void)
{
	relay = relay_free(relay);
	upstream = upstream_server_free(upstream);
	free(path);
}

TestSuite(control, .init = make, .fini = stop, .timeout = 120);

/* Helpers */

static void ask_on(
    struct rawhttp *c, const char *request, bool is_head, struct rawhttp_response *ret)
{
	cr_assert_eq(rawhttp_send_str(c, request), 0);
	cr_assert_eq(rawhttp_receive(c, is_head, ret), 0, "no answer to %s", request);
	/* Whatever is asked, a token is never told. */
	cr_expect_null(strstr(ret->body, RELAY_TOKEN));
}

/* One request on a connection of its own; headers may be NULL. */
static struct rawhttp_response ask(
    const char *method, const char *target, const char *headers)
{
	CLEANUP(strbuf_done) struct strbuf request = STRBUF_INIT;
	struct rawhttp_response response = { 0 };
	struct rawhttp *c;

	strbuf_addf(&request, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n", method, target,
	    headers ? headers : "");
	cr_assert_eq(rawhttp_connect_unix(path, &c), 0, "cannot connect to %s", path);
	ask_on(c, strbuf_str(&request), strcmp(method, "HEAD") == 0, &response);
	(void)rawhttp_close(c);
	return response;
}

static void expect_header(
    const struct rawhttp_response *response, const char *name, const char *value)
{
	char found[256] = "(absent)";

	(void)rawhttp_header(response->head, name, RAWHTTP_EXACT, found, sizeof(found));
	cr_expect_str_eq(found, value, "%s", response->head);
}

static void cleanup_json(json_t **j)
{
	json_decref(*j);
}

/* The body as an object. */
static json_t *parse(const struct rawhttp_response *response)
{
	json_t *root = json_loadb(response->body, response->body_len, 0, NULL);

	cr_assert(json_is_object(root), "%s", response->body);
	return root;
}

static json_t *ask_status(void)
{
	struct rawhttp_response response = ask("GET", "/api/v1/status", NULL);
	json_t *root;

	cr_assert_eq(response.status, 200, "%s", response.body);
	expect_header(&response, "Content-Type", "application/json");
	root = parse(&response);
	rawhttp_response_done(&response);
	return root;
}

/* The error in the form of the intake's. */
static void expect_error(struct rawhttp_response *response, int status, const char *code)
{
	CLEANUP(cleanup_json) json_t *root = parse(response);
	json_t *error = json_object_get(root, "error");
	const char *response_text = json_string_value(json_object_get(root, "response"));
	const char *code_text = json_string_value(json_object_get(error, "code"));
	const char *message = json_string_value(json_object_get(error, "message"));

	cr_expect_eq(response->status, status, "%s", response->head);
	expect_header(response, "Content-Type", "application/json");
	cr_expect_str_eq(response_text ? response_text : "", "error");
	cr_expect_eq(json_integer_value(json_object_get(error, "status")), status);
	cr_expect_str_eq(code_text ? code_text : "", code);
	cr_expect(message && *message);
	rawhttp_response_done(response);
}

static json_int_t report_count(const json_t *status, const char *state)
{
	return json_integer_value(
	    json_object_get(json_object_get(status, "reports"), state));
}

/* Health and readiness */

Test(control, health_and_readiness_are_told)
{
	struct rawhttp_response response;

	relay_start(relay);
	response = ask("GET", "/healthz", NULL);
	cr_expect_eq(response.status, 200);
	cr_expect_str_eq(response.body, "ok\n");
	expect_header(&response, "Content-Type", "text/plain; charset=utf-8");
	rawhttp_response_done(&response);
	response = ask("GET", "/readyz?verbose", NULL);
	cr_expect_eq(response.status, 200);
	rawhttp_response_done(&response);
}

Test(control, a_full_spool_is_healthy_but_not_ready)
{
	struct rawhttp_response response;

	relay_configure(
	    relay, &(struct relay_options){
		       .sections = "[spool]\nmax_reports = 1\nwhen_full = reject\n" });
	relay_start(relay);
	relay_submit(relay, &(struct dump_spec){ .seed = 1 });
	response = ask("GET", "/readyz", NULL);
	cr_expect(strstr(response.body, "full"), "%s", response.body);
	expect_error(&response, 503, "unavailable");
	response = ask("GET", "/healthz", NULL);
	cr_expect_eq(response.status, 200);
	rawhttp_response_done(&response);
	cr_expect_eq(relay_try_submit(relay, &(struct dump_spec){ .seed = 2 }), 507);
}

/* Status */

Test(control, status_of_a_relay_without_upstream_tells_what_it_keeps)
{
	CLEANUP(cleanup_json) json_t *status = NULL;
	const json_t *listening;
	char address[32];

	relay_configure(relay, NULL);
	relay_start(relay);
	relay_submit(relay, &(struct dump_spec){ .seed = 1 });
	relay_submit(relay, &(struct dump_spec){ .seed = 2, .padding = 10000 });
	status = ask_status();
	cr_expect(json_is_true(json_object_get(status, "buffer_only")));
	cr_expect(json_is_true(json_object_get(status, "ready")));
	cr_expect_eq(report_count(status, "queued"), 2);
	cr_expect_gt(json_integer_value(json_object_get(status, "payload_bytes")), 10000);
	cr_expect(json_is_string(json_object_get(status, "oldest_queued_at")));
	listening = json_object_get(status, "listening");
	cr_assert_eq(json_array_size(listening), 1);
	(void)snprintf(address, sizeof(address), "127.0.0.1:%u", relay_port(relay));
	cr_expect_str_eq(json_string_value(json_array_get(listening, 0)), address);
}

Test(control, status_counts_what_was_refused_and_what_went_out)
{
	CLEANUP(cleanup_json) json_t *status = NULL;
	struct dump_spec spec = { .seed = 1 };
	struct relay_post bad = { .body = "text", .len = 4 };
	struct rawhttp_response response;
	const json_t *submissions;
	const json_t *up;

	relay_start(relay);
	relay_submit(relay, &spec);
	cr_assert(upstream_server_wait_dump(upstream, &spec));
	relay_expect_log(relay, 0, "outcome=sent");
	cr_assert_eq(relay_post(relay, &bad, &response), 0);
	cr_expect_eq(response.status, 400);
	rawhttp_response_done(&response);
	status = ask_status();
	submissions = json_object_get(status, "submissions");
	cr_expect_eq(json_integer_value(json_object_get(submissions, "accepted")), 1);
	cr_expect_eq(json_integer_value(json_object_get(submissions, "rejected")), 1);
	cr_expect_eq(json_integer_value(
			 json_object_get(json_object_get(status, "forward"), "sent")),
	    1);
	cr_expect(json_is_false(json_object_get(status, "buffer_only")));
	cr_assert_eq(json_array_size(json_object_get(status, "upstreams")), 1);
	up = json_array_get(json_object_get(status, "upstreams"), 0);
	cr_expect(json_is_true(json_object_get(up, "up")));
	cr_expect(strstr(upstream_server_url(upstream),
	    json_string_value(json_object_get(up, "host"))));
}

Test(control, status_and_metrics_tell_that_the_upstream_is_down)
{
	CLEANUP(cleanup_json) json_t *status = NULL;
	struct rawhttp_response response;
	const json_t *down;

	upstream_server_refuse(upstream);
	relay_start(relay);
	relay_submit(relay, &(struct dump_spec){ .seed = 1 });
	relay_expect_log(relay, 0, "does not answer");
	status = ask_status();
	down = json_array_get(json_object_get(status, "upstreams"), 0);
	cr_expect(json_is_false(json_object_get(down, "up")));
	cr_expect(json_is_string(json_object_get(down, "since")));
	cr_expect(json_is_string(json_object_get(down, "reason")));
	/* A relay takes reports whatever its upstream does. */
	cr_expect(json_is_true(json_object_get(status, "ready")));
	response = ask("GET", "/metrics", NULL);
	cr_expect(strstr(
	    response.body, "\nminidump_relay_upstream_up{upstream=\"default\"} 0\n"));
	rawhttp_response_done(&response);
}

/* Metrics */

Test(control, metrics_come_in_the_format_that_is_asked_for)
{
	struct rawhttp_response response;

	relay_start(relay);
	relay_submit(relay, &(struct dump_spec){ .seed = 1 });
	response = ask("GET", "/metrics", NULL);
	cr_expect_eq(response.status, 200);
	expect_header(&response, "Content-Type",
	    "application/openmetrics-text; version=1.0.0; charset=utf-8");
	cr_expect(strstr(response.body,
	    "\nminidump_relay_submissions_total{outcome=\"accepted\"} 1\n"));
	cr_expect(strstr(response.body, "\n# EOF\n"));
	rawhttp_response_done(&response);
	response = ask("GET", "/metrics", "Accept: text/plain;version=0.0.4\r\n");
	expect_header(
	    &response, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
	cr_expect(
	    strstr(response.body, "\n# TYPE minidump_relay_submissions_total counter\n"));
	cr_expect_null(strstr(response.body, "# EOF"));
	rawhttp_response_done(&response);
}

/* Routes */

Test(control, many_requests_go_over_one_connection)
{
	struct rawhttp *c;

	relay_start(relay);
	cr_assert_eq(rawhttp_connect_unix(path, &c), 0);
	for (int i = 0; i < 20; i++) {
		struct rawhttp_response response = { 0 };
		bool is_head = i % 2 == 1;

		ask_on(c,
		    is_head ? "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
			    : "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
		    is_head, &response);
		cr_expect_eq(response.status, 200);
		cr_expect_eq(response.body_len == 0, is_head);
		rawhttp_response_done(&response);
	}
	(void)rawhttp_close(c);
}

Test(control, an_unknown_path_is_404)
{
	static const char *const targets[] = { "/nothing", "/healthz/", "/healthzz",
		"/health", "//healthz", "/api/v1/", "/api/v1/status/x", "/%68ealthz",
		"/?/healthz", "/METRICS", "*", "/demo/token/minidump" };

	relay_start(relay);
	for (size_t i = 0; i < ARRAY_LEN(targets); i++) {
		struct rawhttp_response response = ask("GET", targets[i], NULL);

		expect_error(&response, 404, "unknown-path");
	}
}

Test(control, a_wrong_method_is_405_and_told_the_right_ones)
{
	static const char *const methods[] = { "POST", "PUT", "DELETE", "OPTIONS", "get",
		"FROB" };

	relay_start(relay);
	for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
		struct rawhttp_response response =
		    ask(methods[i], "/api/v1/status", "Content-Length: 0\r\n");

		expect_header(&response, "Allow", "GET, HEAD");
		expect_error(&response, 405, "method");
	}
}

Test(control, a_body_is_refused)
{
	static const char *const requests[] = {
		"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
		"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
		"4\r\nbody\r\n0\r\n\r\n",
	};

	relay_start(relay);
	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		struct rawhttp_response response = { 0 };
		struct rawhttp *c;

		cr_assert_eq(rawhttp_connect_unix(path, &c), 0);
		ask_on(c, requests[i], false, &response);
		expect_error(&response, 400, "bad-request");
		(void)rawhttp_close(c);
	}
}

Test(control, what_is_no_http_does_no_harm)
{
	struct rawhttp_response response;
	CLEANUP(cleanup_free) char *long_target = calloc(1, 200001);
	struct rawhttp *c;

	relay_start(relay);
	cr_assert_not_null(long_target);
	(void)memset(long_target, 'a', 200000);
	(void)memcpy(long_target, "/healthz?", 9);
	cr_assert_eq(rawhttp_connect_unix(path, &c), 0);
	(void)rawhttp_send_str(c, "\x16\x03\x01 not http\r\n\r\n");
	(void)rawhttp_close(c);
	cr_assert_eq(rawhttp_connect_unix(path, &c), 0);
	(void)rawhttp_send_str(c, "GET ");
	(void)rawhttp_send_str(c, long_target);
	(void)rawhttp_reset(c);
	response = ask("GET", "/healthz", NULL);
	cr_expect_eq(response.status, 200);
	rawhttp_response_done(&response);
}

/* The socket */

Test(control, the_socket_is_for_owner_and_group_and_goes_with_the_daemon)
{
	struct stat st;

	relay_start(relay);
	cr_assert_eq(stat(path, &st), 0);
	cr_expect(S_ISSOCK(st.st_mode));
	cr_expect_eq(st.st_mode & 07777u, 0660u, "%o", st.st_mode);
	cr_assert_eq(relay_stop(relay), 0);
	cr_expect_eq(stat(path, &st), -1);
}

Test(control, an_absent_folder_is_made_so_that_the_group_comes_through)
{
	CLEANUP(cleanup_free) char *folder = tempdir_join(relay_folder(relay), "run");
	CLEANUP(cleanup_free) char *inner = tempdir_join(folder, "relay.sock");
	const char *const arguments[] = { "--control", inner, NULL };
	struct rawhttp_response response;
	struct stat st;

	relay_configure(relay, &(struct relay_options){ .arguments = arguments });
	relay_start(relay);
	cr_assert_eq(stat(folder, &st), 0);
	cr_expect_eq(st.st_mode & 07777u, 0755u, "%o", st.st_mode);
	free(path);
	path = strdup(inner);
	response = ask("GET", "/healthz", NULL);
	cr_expect_eq(response.status, 200);
	rawhttp_response_done(&response);
	cr_assert_eq(relay_stop(relay), 0);
}

Test(control, what_a_killed_daemon_left_is_replaced)
{
	struct rawhttp_response response;
	struct stat st;

	relay_start(relay);
	relay_kill(relay);
	cr_assert_eq(stat(path, &st), 0);
	relay_start(relay);
	response = ask("GET", "/readyz", NULL);
	cr_expect_eq(response.status, 200);
	rawhttp_response_done(&response);
}

/* The relay, launched, ends at once and names the path. */
static void expect_failed_start(struct relay *r, const char *fault)
{
	size_t mark = relay_log_mark(r);

	relay_launch(r);
	cr_expect_eq(relay_wait_exit(r), 1);
	cr_expect_eq(relay_log_count(r, mark, fault), 1, "no line names %s", fault);
	cr_expect_eq(relay_log_count(r, mark, " ready"), 0);
}

Test(control, the_socket_of_a_live_daemon_is_left_to_it)
{
	const char *const arguments[] = { "--control", path, NULL };
	struct rawhttp_response response;
	struct relay *second;

	relay_start(relay);
	second = relay_new(&(struct relay_options){ .arguments = arguments });
	expect_failed_start(second, path);
	(void)relay_free(second);
	response = ask("GET", "/healthz", NULL);
	cr_expect_eq(response.status, 200);
	rawhttp_response_done(&response);
}

Test(control, a_file_that_is_no_socket_is_never_removed)
{
	struct stat st;

	tempdir_write(relay_folder(relay), "control.sock", "precious");
	expect_failed_start(relay, path);
	cr_assert_eq(stat(path, &st), 0);
	cr_expect(S_ISREG(st.st_mode));
	cr_expect_eq(st.st_size, 8);
}

Test(control, a_folder_that_cannot_be_is_named)
{
	CLEANUP(cleanup_free) char *inner = NULL;
	const char *arguments[] = { "--control", NULL, NULL };

	tempdir_write(relay_folder(relay), "file", "x");
	inner = tempdir_join(relay_folder(relay), "file/deep/control.sock");
	arguments[1] = inner;
	relay_configure(relay, &(struct relay_options){ .arguments = arguments });
	expect_failed_start(relay, inner);
}

/* Put another socket in the place of the daemon's. */
static int replace_socket(void)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_lt(strlen(path), sizeof(un.sun_path));
	(void)memcpy(un.sun_path, path, strlen(path) + 1);
	cr_assert_eq(unlink(path), 0);
	cr_assert_eq(bind(fd, (const struct sockaddr *)&un, sizeof(un)), 0);
	return fd;
}

Test(control, a_socket_that_is_no_longer_ours_is_not_removed)
{
	CLEANUP(cleanup_close) int fd = -1;
	struct stat st;

	relay_start(relay);
	fd = replace_socket();
	cr_assert_eq(relay_stop(relay), 0);
	cr_expect_eq(stat(path, &st), 0, "it removed another's socket");
}

Test(control, an_open_connection_does_not_hold_a_stop)
{
	struct rawhttp_response response = { 0 };
	struct rawhttp *half;
	struct rawhttp *used;

	relay_configure(
	    relay, &(struct relay_options){ .daemon_lines = "stop_timeout = 15s\n" });
	relay_start(relay);
	cr_assert_eq(rawhttp_connect_unix(path, &used), 0);
	ask_on(used, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", false, &response);
	rawhttp_response_done(&response);
	cr_assert_eq(rawhttp_connect_unix(path, &half), 0);
	cr_assert_eq(rawhttp_send_str(half,
			 "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"),
	    0);
	cr_expect_eq(relay_stop(relay), 0); /* waits for the end, with a deadline */
	(void)rawhttp_close(used);
	(void)rawhttp_close(half);
}

Test(control, a_relay_that_stops_says_that_it_is_not_ready)
{
	size_t len = 0;
	CLEANUP(cleanup_free)
	unsigned char *dump = dump_build(&(struct dump_spec){ .seed = 1 }, &len);
	struct rawhttp_response response = { 0 };
	struct rawhttp *post;
	char head[256];
	int64_t deadline_ms;
	size_t mark;

	relay_start(relay);
	post = relay_connect(relay);
	(void)snprintf(head, sizeof(head),
	    "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n"
	    "Expect: 100-continue\r\n\r\n",
	    RELAY_TARGET, len);
	cr_assert_eq(rawhttp_send_str(post, head), 0);
	cr_assert_eq(rawhttp_receive(post, false, &response), 0);
	cr_expect_eq(response.status, 100);
	rawhttp_response_done(&response);
	mark = relay_log_mark(relay);
	relay_signal(relay, SIGTERM);
	relay_expect_log(relay, mark, "stopping");
	/* The post under way holds the stop, of which the log told a moment ahead. */
	deadline_ms = clock_mono_ms() + RAWHTTP_DEADLINE_MS;
	response = ask("GET", "/readyz", NULL);
	while (response.status == 200 && clock_mono_ms() < deadline_ms) {
		rawhttp_response_done(&response);
		response = ask("GET", "/readyz", NULL);
	}
	cr_expect(strstr(response.body, "stopping"), "%s", response.body);
	expect_error(&response, 503, "unavailable");
	cr_assert_eq(rawhttp_send(post, dump, len), 0);
	cr_assert_eq(rawhttp_receive(post, false, &response), 0);
	cr_expect_eq(response.status, 200);
	rawhttp_response_done(&response);
	cr_expect_eq(relay_wait_exit(relay), 0);
	(void)rawhttp_close(post);
}
