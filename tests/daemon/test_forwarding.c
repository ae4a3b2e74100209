/* SPDX-License-Identifier: MIT */
/* What the upstream gets: every accepted report, whole and once, whatever the upstream,
 * the network or a restart did in between. */
#include "cleanup.h"
#include "support/dump_builder.h"
#include "support/rawhttp.h"
#include "support/relay.h"
#include "support/upstream_server.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define SENTINEL_SEED 1000000

static struct upstream_server *upstream;
static struct relay *relay;

static void start_upstream(void)
{
	upstream = upstream_server_new(NULL);
	cr_assert_not_null(upstream);
}

static void stop(void)
{
	relay = relay_free(relay);
	upstream = upstream_server_free(upstream);
}

TestSuite(forwarding, .init = start_upstream, .fini = stop, .timeout = 120);

/* Helpers */

static struct relay_options to_upstream(void)
{
	return (struct relay_options){ .upstream = upstream_server_url(upstream) };
}

static void start_relay(const struct relay_options *options)
{
	relay = relay_new(options);
	relay_start(relay);
}

static void restart_relay(const struct relay_options *options)
{
	cr_assert_eq(relay_stop(relay), 0);
	relay_configure(relay, options);
	relay_start(relay);
}

/* Reports 0 to n-1: of all sizes, the last ones above what is gathered in memory. */
static struct dump_spec spec_of(uint32_t i)
{
	return (struct dump_spec){ .seed = i, .padding = (size_t)i * i * 8000 };
}

static void submit_reports(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct dump_spec spec = spec_of(i);

		relay_submit(relay, &spec);
	}
}

/* All n arrive, each once, and nothing else: a last report, taken after all others and
 * sent after them, shows that no more is on its way. requests: how many have begun in
 * all by then, failed ones too. */
static void expect_each_once(uint32_t n, unsigned requests)
{
	struct dump_spec sentinel = { .seed = SENTINEL_SEED };

	cr_assert(upstream_server_wait(upstream, UPSTREAM_ACCEPTED, n),
	    "upstream has accepted %u of %u",
	    upstream_server_count(upstream, UPSTREAM_ACCEPTED), n);
	relay_submit(relay, &sentinel);
	cr_assert(upstream_server_wait_dump(upstream, &sentinel));
	cr_assert_eq(relay_stop(relay), 0);
	for (uint32_t i = 0; i < n; i++) {
		struct dump_spec spec = spec_of(i);

		cr_expect_eq(
		    upstream_server_count_dump(upstream, &spec), 1, "report %u", i);
	}
	cr_expect_eq(upstream_server_count(upstream, UPSTREAM_ACCEPTED), n + 1);
	cr_expect_eq(upstream_server_count(upstream, UPSTREAM_BEGUN), requests + 1);
}

/* Outages */

Test(forwarding, what_came_while_upstream_was_down_arrives_once_it_is_up)
{
	struct relay_options options = to_upstream();

	upstream_server_refuse(upstream);
	start_relay(&options);
	submit_reports(20);
	cr_assert_eq(upstream_server_count(upstream, UPSTREAM_CONNECTED), 0);
	upstream_server_resume(upstream);
	expect_each_once(20, 20);
}

Test(forwarding, an_outage_is_logged_once_at_its_begin_and_once_at_its_end)
{
	struct relay_options options = to_upstream();
	size_t mark;

	start_relay(&options);
	submit_reports(1);
	cr_assert(upstream_server_wait(upstream, UPSTREAM_ACCEPTED, 1));
	mark = relay_log_mark(relay);
	upstream_server_refuse(upstream);
	for (uint32_t i = 1; i < 6; i++) {
		struct dump_spec spec = spec_of(i);

		relay_submit(relay, &spec);
	}
	relay_expect_log(relay, mark, "does not answer");
	upstream_server_resume(upstream);
	expect_each_once(6, 6);
	cr_expect_eq(relay_log_count(relay, mark, "does not answer"), 1);
	cr_expect_eq(relay_log_count(relay, mark, "answers again"), 1);
}

Test(forwarding, a_connection_that_died_while_idle_costs_nothing)
{
	struct relay_options options = to_upstream();

	start_relay(&options);
	for (uint32_t i = 0; i < 5; i++) {
		struct dump_spec spec = spec_of(i);

		relay_submit(relay, &spec);
		cr_assert(upstream_server_wait(upstream, UPSTREAM_ENDED, i + 1));
		upstream_server_refuse(upstream);
		upstream_server_resume(upstream);
	}
	expect_each_once(5, 5);
}

/* Then libcurl sends the upload again by itself, on a new connection. */
Test(forwarding, a_kept_connection_that_dies_under_an_upload_costs_no_byte)
{
	struct relay_options options = to_upstream();
	struct dump_spec first = { .seed = 1 };
	struct dump_spec second = { .seed = 2, .padding = 3u << 20 };

	upstream_server_script(upstream, &(struct upstream_step){ 0 });
	upstream_server_script(upstream,
	    &(struct upstream_step){ .action = UPSTREAM_RESET, .bytes = 100000 });
	start_relay(&options);
	relay_submit(relay, &first);
	cr_assert(upstream_server_wait(upstream, UPSTREAM_ENDED, 1));
	relay_submit(relay, &second);
	cr_assert(upstream_server_wait_dump(upstream, &second));
	cr_assert_eq(relay_stop(relay), 0);
	cr_expect_eq(upstream_server_request(upstream, 1)->connection, 0,
	    "the connection was not used again");
	cr_expect_eq(upstream_server_count(upstream, UPSTREAM_BEGUN), 3);
	cr_expect_eq(upstream_server_count(upstream, UPSTREAM_ACCEPTED), 2);
}

/* One report; what happens to its first upload. */
static void expect_second_attempt(const struct upstream_step *first)
{
	struct relay_options options = to_upstream();
	struct dump_spec spec = { .seed = 1, .padding = 3u << 20 };

	/* Short, for those who stall. */
	options.upstream_lines = "stall_timeout = 500ms\n";
	upstream_server_script(upstream, first);
	start_relay(&options);
	relay_submit(relay, &spec);
	cr_assert(upstream_server_wait_dump(upstream, &spec));
	cr_assert_eq(relay_stop(relay), 0);
	cr_expect_eq(upstream_server_count(upstream, UPSTREAM_BEGUN), 2);
	cr_expect_eq(upstream_server_count(upstream, UPSTREAM_ACCEPTED), 1);
}

Test(forwarding, a_server_error_is_tried_again)
{
	expect_second_attempt(&(struct upstream_step){ .status = 500 });
}

Test(forwarding, a_busy_answer_is_tried_again)
{
	expect_second_attempt(&(struct upstream_step){ .status = 503 });
}

Test(forwarding, an_error_answered_before_the_body_was_read_is_tried_again)
{
	expect_second_attempt(
	    &(struct upstream_step){ .action = UPSTREAM_ANSWER_EARLY, .status = 500 });
}

Test(forwarding, an_upload_cut_in_the_middle_is_sent_again_from_its_begin)
{
	expect_second_attempt(
	    &(struct upstream_step){ .action = UPSTREAM_RESET, .bytes = 100000 });
}

Test(forwarding, an_upload_without_an_answer_is_sent_again)
{
	expect_second_attempt(&(struct upstream_step){ .action = UPSTREAM_CLOSE });
}

Test(forwarding, an_upstream_that_never_answers_is_given_up_and_tried_again)
{
	expect_second_attempt(&(struct upstream_step){ .action = UPSTREAM_STALL });
}

Test(forwarding, an_upstream_that_stops_reading_is_given_up_and_tried_again)
{
	expect_second_attempt(
	    &(struct upstream_step){ .action = UPSTREAM_STALL_READING, .bytes = 1000 });
}

Test(forwarding, an_upstream_that_reads_slowly_is_waited_for)
{
	struct upstream_options narrow = { .small_window = true };
	struct upstream_step step = { .action = UPSTREAM_READ_SLOWLY, .bytes = 4000 };
	struct dump_spec spec = { .seed = 1, .padding = 4u << 20 };
	struct relay_options options;

	upstream = upstream_server_free(upstream);
	upstream = upstream_server_new(&narrow);
	cr_assert_not_null(upstream);
	upstream_server_script(upstream, &step);
	options = to_upstream();
	/* Well below the time that the upload takes: a second or more. */
	options.upstream_lines = "stall_timeout = 600ms\n";
	start_relay(&options);
	relay_submit(relay, &spec);
	cr_assert(upstream_server_wait_dump(upstream, &spec));
	cr_assert_eq(relay_stop(relay), 0);
	cr_expect_eq(upstream_server_count(upstream, UPSTREAM_BEGUN), 1);
}

Test(forwarding, any_2xx_settles_a_report)
{
	struct relay_options options = to_upstream();

	for (int i = 0; i < 3; i++)
		upstream_server_script(upstream,
		    &(struct upstream_step){ .status = 201 + i, .body = "taken" });
	start_relay(&options);
	submit_reports(3);
	expect_each_once(3, 3);
}

/* The token would travel with it. */
Test(forwarding, a_redirect_is_not_followed)
{
	struct upstream_server *other = upstream_server_new(NULL);
	struct relay_options options = to_upstream();
	struct dump_spec spec = { .seed = 1 };
	char location[80];

	cr_assert_not_null(other);
	(void)snprintf(location, sizeof(location), "Location: %s/demo/x/minidump\r\n",
	    upstream_server_url(other));
	upstream_server_script(
	    upstream, &(struct upstream_step){ .status = 307, .headers = location });
	start_relay(&options);
	relay_submit(relay, &spec);
	cr_assert(upstream_server_wait_dump(upstream, &spec));
	cr_assert_eq(relay_stop(relay), 0);
	cr_expect_eq(upstream_server_count(other, UPSTREAM_CONNECTED), 0);
	(void)upstream_server_free(other);
}

Test(forwarding, as_many_uploads_run_at_once_as_are_set)
{
	struct relay_options options = to_upstream();

	options.forward_lines = "concurrency = 3\nretry_min = 20ms\nretry_max = 200ms\n";
	upstream_server_set_default(
	    upstream, &(struct upstream_step){ .action = UPSTREAM_STALL });
	start_relay(&options);
	submit_reports(6);
	cr_assert(upstream_server_wait(upstream, UPSTREAM_STALLED, 3));
	cr_expect_eq(upstream_server_count(upstream, UPSTREAM_BEGUN), 3);
	upstream_server_release(upstream);
	expect_each_once(6, 6);
}

/* Restarts */

Test(forwarding, what_is_queued_survives_a_restart)
{
	struct relay_options options = to_upstream();

	upstream_server_refuse(upstream);
	start_relay(&options);
	submit_reports(15);
	restart_relay(&options);
	restart_relay(&options);
	upstream_server_resume(upstream);
	expect_each_once(15, 15);
}

Test(forwarding, an_upload_under_way_at_a_stop_is_sent_after_the_start)
{
	struct relay_options options = to_upstream();
	struct dump_spec spec = { .seed = 1, .padding = 3u << 20 };

	options.daemon_lines = "stop_timeout = 200ms\n";
	upstream_server_script(upstream,
	    &(struct upstream_step){ .action = UPSTREAM_STALL_READING, .bytes = 100000 });
	start_relay(&options);
	relay_submit(relay, &spec);
	cr_assert(upstream_server_wait(upstream, UPSTREAM_STALLED, 1));
	restart_relay(&options);
	cr_assert(upstream_server_wait_dump(upstream, &spec));
	cr_assert_eq(relay_stop(relay), 0);
	cr_expect_eq(upstream_server_count(upstream, UPSTREAM_ACCEPTED), 1);
}

Test(forwarding, buffer_only_keeps_until_there_is_an_upstream)
{
	struct relay_options options = to_upstream();

	start_relay(NULL);
	relay_expect_log(relay, 0, "buffer-only");
	submit_reports(10);
	restart_relay(&options);
	expect_each_once(10, 10);
}

/* Large bodies */

Test(forwarding, large_bodies_arrive_whole)
{
	static const size_t sizes[] = { 512u << 10, (1u << 20) - 6168, (1u << 20) + 1,
		20u << 20 };
	struct relay_options options = to_upstream();

	start_relay(&options);
	for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct dump_spec spec = { .seed = i, .padding = sizes[i] };

		relay_submit(relay, &spec);
	}
	for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct dump_spec spec = { .seed = i, .padding = sizes[i] };

		cr_expect(
		    upstream_server_wait_dump(upstream, &spec), "%zu bytes", sizes[i]);
	}
}

/* Target, token and headers */

/* Post one dump to the client's target and return what upstream got. */
static const struct upstream_request *forward_one(
    const struct relay_options *options, const char *target)
{
	struct rawhttp_response response = { 0 };
	struct relay_post post = { .target = target, .content_type = "x/y; z=\"1\"" };
	CLEANUP(cleanup_free)
	unsigned char *dump = dump_build(&(struct dump_spec){ .seed = 1 }, &post.len);
	const struct upstream_request *request;
	char rxid[RELAY_RXID_SIZE];
	char type[32] = "";

	post.body = dump;
	start_relay(options);
	cr_assert_eq(relay_post(relay, &post, &response), 0);
	cr_assert(relay_parse_rxid(&response, rxid), "%s", response.body);
	rawhttp_response_done(&response);
	cr_assert(upstream_server_wait(upstream, UPSTREAM_ACCEPTED, 1));
	request = upstream_server_accepted(upstream, 0);
	cr_assert_not_null(request);
	cr_expect_str_eq(request->method, "POST");
	cr_expect(rawhttp_header(
	    request->head, "Content-Type", RAWHTTP_ANY_CASE, type, sizeof(type)));
	cr_expect_str_eq(type, "x/y; z=\"1\"");
	cr_expect_eq(request->body_len, post.len);
	cr_expect_arr_eq(request->body, dump, post.len);
	return request;
}

/* Whether the query of a target holds the parameter, as "name=value". */
static bool has_parameter(const char *target, const char *parameter)
{
	size_t len = strlen(parameter);
	const char *p = strpbrk(target, "?&");

	for (; p; p = strpbrk(p + 1, "?&")) {
		if (strncmp(p + 1, parameter, len) == 0 &&
		    (p[1 + len] == '\0' || p[1 + len] == '&'))
			return true;
	}
	return false;
}

Test(forwarding, style_path_makes_the_hosted_form)
{
	static const char hosted[] = "/demo/" RELAY_TOKEN "/minidump?";
	struct relay_options options = to_upstream();
	const struct upstream_request *request;

	options.upstream_lines = "style = path\nuniverse = demo\n";
	request = forward_one(&options,
	    "/post?version=1.2&format=minidump&token=" RELAY_TOKEN "&guid=a%20b");
	cr_expect_eq(strncmp(request->target, hosted, sizeof(hosted) - 1), 0, "%s",
	    request->target);
	cr_expect(has_parameter(request->target, "version=1.2"), "%s", request->target);
	cr_expect(has_parameter(request->target, "guid=a%20b"), "%s", request->target);
	cr_expect_null(strstr(request->target, "token="), "%s", request->target);
}

Test(forwarding, style_query_makes_the_listener_form)
{
	struct relay_options options = to_upstream();
	const struct upstream_request *request;

	options.upstream_lines = "style = query\n";
	request = forward_one(
	    &options, "/demo/" RELAY_TOKEN "/minidump&version=1.2&guid=a%20b");
	cr_expect_eq(strncmp(request->target, "/post?", 6), 0, "%s", request->target);
	cr_expect(has_parameter(request->target, "token=" RELAY_TOKEN));
	cr_expect(has_parameter(request->target, "format=minidump"));
	cr_expect(has_parameter(request->target, "version=1.2"), "%s", request->target);
	cr_expect(has_parameter(request->target, "guid=a%20b"), "%s", request->target);
}

#define REAL_TOKEN "9d8c7b6a5f4e3d2c1b0a99887766554433221100ffeeddccbbaa998877665544"

static void expect_real_token(const char *target)
{
	struct relay_options options = to_upstream();
	const struct upstream_request *request;

	options.upstream_lines = "token = " REAL_TOKEN "\n";
	request = forward_one(&options, target);
	cr_expect(strstr(request->target, REAL_TOKEN), "%s", request->target);
	cr_expect_null(strstr(request->target, RELAY_TOKEN), "%s", request->target);
	cr_expect_eq(relay_log_count(relay, 0, REAL_TOKEN), 0);
}

Test(forwarding, the_relays_own_token_takes_the_place_of_the_clients_in_a_path)
{
	expect_real_token("/demo/" RELAY_TOKEN "/minidump?version=1");
}

Test(forwarding, the_relays_own_token_takes_the_place_of_the_clients_in_a_query)
{
	expect_real_token("/post?format=minidump&token=" RELAY_TOKEN "&version=1");
}

Test(forwarding, proxies_of_the_environment_are_not_used)
{
	static const char *const proxies[] = { "http_proxy=http://127.0.0.1:1",
		"HTTP_PROXY=http://127.0.0.1:1", "all_proxy=http://127.0.0.1:1",
		"ALL_PROXY=http://127.0.0.1:1", NULL };
	struct relay_options options = to_upstream();

	options.environment = proxies;
	start_relay(&options);
	submit_reports(1);
	cr_assert(upstream_server_wait(upstream, UPSTREAM_ACCEPTED, 1));
}
