/* SPDX-License-Identifier: MIT */
/* Every recorded request, as it came off the socket of a real client, goes to the relay
 * byte for byte. The client gets the answer of the contract, and upstream exactly the body
 * that the client sent, under the same target, type and coding. */
#include "cleanup.h"
#include "support/fixture.h"
#include "support/rawhttp.h"
#include "support/relay.h"
#include "support/upstream_server.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NAMES_MAX 200
#define RECORDED_TOKEN "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

struct name {
	char text[96]; /* of the file; "" when there are no fixtures */
};

static struct upstream_server *upstream;
static struct relay *relay;
static const char *current; /* file under test, for messages */

static void start(void)
{
	struct relay_options options = { 0 };

	if (!fixture_available())
		cr_skip_test("request fixtures absent");
	upstream = upstream_server_new(NULL);
	cr_assert_not_null(upstream);
	options.upstream = upstream_server_url(upstream);
	/* So that a request that never ends does. */
	options.listen_lines = "http = 127.0.0.1:0\nidle_timeout = 1s\n";
	relay = relay_new(&options);
	relay_start(relay);
}

static void stop(void)
{
	relay = relay_free(relay);
	upstream = upstream_server_free(upstream);
}

/* What expected.json tells of the request. The caller owns it. */
static json_t *expectation_of(const char *name)
{
	json_t *all = fixture_expected();
	json_t *found = NULL;
	json_t *one;
	size_t i;

	json_array_foreach(all, i, one)
	{
		if (strcmp(fixture_string(one, "file"), name) == 0)
			found = json_incref(one);
	}
	json_decref(all);
	cr_assert_not_null(found, "%s is not in expected.json", name);
	return found;
}

/* Whether it can be no report: declared as a minidump, holding none, and no attachment to
 * an earlier report. All else is accepted, whatever it is. */
static bool is_no_report(const struct fixture *f, const json_t *expected)
{
	return (strstr(f->target, "/minidump") || strstr(f->target, "format=minidump")) &&
	       !strstr(f->target, "object=") &&
	       !json_is_true(json_object_get(expected, "raw_is_minidump")) &&
	       !fixture_string(expected, "dump_part");
}

/* Send the recording and read the answer past any 100. Returns what rawhttp says. */
static int replay(const struct fixture *f, struct rawhttp_response *ret)
{
	struct rawhttp *c = relay_connect(relay);
	int r = rawhttp_send(c, f->raw, f->raw_len);

	if (r == 0)
		r = rawhttp_receive(c, false, ret);
	if (r == 0 && ret->status == 100) {
		rawhttp_response_done(ret);
		r = rawhttp_receive(c, false, ret);
	}
	/* Crashpad's socket transport waits for the end. */
	if (r == 0 && strcmp(f->version, "HTTP/1.0") == 0)
		cr_expect_eq(rawhttp_wait_close(c), 0, "%s", current);
	(void)rawhttp_close(c);
	return r;
}

static void expect_same_header(
    const struct fixture *f, const struct upstream_request *got, const char *name)
{
	CLEANUP(cleanup_free) char *sent = fixture_header(f, name);
	char arrived[256];
	bool found =
	    rawhttp_header(got->head, name, RAWHTTP_ANY_CASE, arrived, sizeof(arrived));

	cr_expect_eq(found, sent != NULL, "%s: %s in:\n%s", current, name, got->head);
	if (found && sent)
		cr_expect_str_eq(arrived, sent, "%s: %s", current, name);
}

static void expect_same_upstream(const struct fixture *f)
{
	const struct upstream_request *got;

	cr_assert(upstream_server_wait(upstream, UPSTREAM_ACCEPTED, 1), "%s", current);
	got = upstream_server_accepted(upstream, 0);
	cr_assert_not_null(got);
	cr_expect_str_eq(got->method, "POST", "%s", current);
	cr_expect_str_eq(got->target, f->target, "%s", current);
	expect_same_header(f, got, "Content-Type");
	expect_same_header(f, got, "Content-Encoding");
	cr_assert_eq(got->body_len, f->body_len, "%s", current);
	cr_expect_arr_eq(got->body, f->body, f->body_len, "%s", current);
}

/* Nothing of what came before was kept: a report after it is the only one. */
static void expect_nothing_kept(void)
{
	struct dump_spec spec = { .seed = 1 };

	relay_submit(relay, &spec);
	cr_assert(upstream_server_wait_dump(upstream, &spec), "%s", current);
	cr_assert_eq(relay_stop(relay), 0, "%s", current);
	cr_expect_eq(upstream_server_count(upstream, UPSTREAM_BEGUN), 1, "%s", current);
}

static void expect_refused(const struct fixture *f, int status, const char *code)
{
	struct rawhttp_response response = { 0 };
	char allow[16] = "";

	cr_assert_eq(replay(f, &response), 0, "%s", current);
	cr_expect_eq(response.status, status, "%s: %s", current, response.head);
	cr_expect(strstr(response.body, code), "%s: %s", current, response.body);
	if (status == 405) {
		(void)rawhttp_header(
		    response.head, "Allow", RAWHTTP_EXACT, allow, sizeof(allow));
		cr_expect_str_eq(allow, "POST", "%s", current);
	}
	rawhttp_response_done(&response);
	expect_nothing_kept();
}

static void expect_accepted(const struct fixture *f)
{
	struct rawhttp_response response = { 0 };
	char rxid[RELAY_RXID_SIZE];

	cr_assert_eq(replay(f, &response), 0, "%s", current);
	cr_assert(relay_parse_rxid(&response, rxid), "%s: %s%s", current, response.head,
	    response.body);
	rawhttp_response_done(&response);
	expect_same_upstream(f);
}

/* The client says no more, and waits; the relay gives it up. */
static void expect_not_accepted(const struct fixture *f)
{
	struct rawhttp_response response = { 0 };
	struct rawhttp *c = relay_connect(relay);
	int r;

	cr_assert_eq(rawhttp_send(c, f->raw, f->raw_len), 0, "%s", current);
	r = rawhttp_receive(c, false, &response);
	if (r == 0)
		cr_expect_neq(response.status, 200, "%s: %s", current, response.body);
	else
		cr_expect_neq(r, -ETIMEDOUT, "%s is waited for too long", current);
	rawhttp_response_done(&response);
	(void)rawhttp_close(c);
	expect_nothing_kept();
}

ParameterizedTestParameters(fixtures, each_request_is_answered_and_passed_on)
{
	static struct name names[NAMES_MAX];
	size_t n = 0;

	if (fixture_available()) {
		json_t *all = fixture_expected();

		while (n < json_array_size(all) && n < NAMES_MAX) {
			(void)snprintf(names[n].text, sizeof(names[n].text), "%s",
			    fixture_string(json_array_get(all, n), "file"));
			n++;
		}
		json_decref(all);
	}
	return cr_make_param_array(struct name, names, n > 0 ? n : 1);
}

ParameterizedTest(struct name *name, fixtures, each_request_is_answered_and_passed_on,
    .init = start, .fini = stop, .timeout = 60)
{
	json_t *expected = expectation_of(name->text);
	struct fixture f = { 0 };

	current = name->text;
	fixture_load(name->text, &f);
	if (strcmp(f.method, "POST") != 0)
		expect_refused(&f, 405, "\"method\"");
	else if (!f.is_complete)
		expect_not_accepted(&f);
	else if (is_no_report(&f, expected))
		expect_refused(&f, 400, "\"not-a-minidump\"");
	else
		expect_accepted(&f);
	cr_expect_eq(relay_log_count(relay, 0, RECORDED_TOKEN), 0, "%s", current);
	fixture_done(&f);
	json_decref(expected);
}
