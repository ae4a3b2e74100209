/* SPDX-License-Identifier: MIT */
/* What a crash client sees of the intake: the exact shape of answers, every way to send a
 * report that is in use, every refusal of the contract, and that whoever gives up in the
 * middle leaves nothing. The rules on shape come from clients that hang or lose the
 * report otherwise (wire protocol notes, section 1). */
#include "cleanup.h"
#include "strbuf.h"
#include "support/dump_builder.h"
#include "support/rawhttp.h"
#include "support/relay.h"
#include "support/tempdir.h"
#include "support/upstream_server.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <string.h>
#include <zlib.h>

#define MAX_BODY_BYTES (16u << 20)

static struct upstream_server *upstream;
static struct relay *relay;

static void start(void)
{
	struct relay_options options = {
		.sections = "[intake]\nmax_body = 16M\nmax_decoded = 24M\n"
	};

	upstream = upstream_server_new(NULL);
	cr_assert_not_null(upstream);
	options.upstream = upstream_server_url(upstream);
	options.listen_lines = "http = 127.0.0.1:0\nhttp = [::1]:0\n";
	relay = relay_new(&options);
	relay_start(relay);
}

static void stop(void)
{
	relay = relay_free(relay);
	upstream = upstream_server_free(upstream);
}

TestSuite(intake_answers, .init = start, .fini = stop, .timeout = 120);

/* Helpers */

/* Send the bytes on a connection of their own and read the one answer. */
static struct rawhttp_response exchange(const void *request, size_t len, bool is_head)
{
	struct rawhttp *c = relay_connect(relay);
	struct rawhttp_response response = { 0 };
	int r;

	(void)rawhttp_send(c, request, len); /* an early refusal may cut it short */
	r = rawhttp_receive(c, is_head, &response);
	(void)rawhttp_close(c);
	cr_assert_eq(
	    r, 0, "no answer to \"%.60s\": %s", (const char *)request, strerror(-r));
	return response;
}

static struct rawhttp_response exchange_str(const char *request)
{
	return exchange(request, strlen(request), false);
}

static void add_dump(struct strbuf *b, const struct dump_spec *spec)
{
	size_t len = 0;
	CLEANUP(cleanup_free) unsigned char *dump = dump_build(spec, &len);

	cr_assert_not_null(dump);
	strbuf_add(b, dump, len);
}

/* One post with the given target and body; its answer must be 200 with an id. */
static void accept_body(
    const char *target, const char *type, const char *headers, const struct strbuf *body)
{
	struct relay_post post = { .target = target,
		.content_type = type,
		.headers = headers,
		.body = body->data,
		.len = body->len };
	struct rawhttp_response response = { 0 };
	char rxid[RELAY_RXID_SIZE];
	int r = relay_post(relay, &post, &response);

	cr_assert_eq(r, 0, "%s %s: %s", target, type, strerror(-r));
	cr_assert(relay_parse_rxid(&response, rxid), "%s %s: %s%s", target, type,
	    response.head, response.body);
	rawhttp_response_done(&response);
}

/* What upstream accepted last, once it has accepted n in all. */
static const struct upstream_request *delivered(unsigned n)
{
	const struct upstream_request *request;

	cr_assert(upstream_server_wait(upstream, UPSTREAM_ACCEPTED, n),
	    "upstream has accepted %u of %u",
	    upstream_server_count(upstream, UPSTREAM_ACCEPTED), n);
	request = upstream_server_accepted(upstream, n - 1);
	cr_assert_not_null(request);
	return request;
}

static void expect_delivered(unsigned n, const struct strbuf *body)
{
	const struct upstream_request *request = delivered(n);

	cr_assert_eq(request->body_len, body->len);
	cr_assert_arr_eq(request->body, body->data, body->len);
}

/* Every header is "Name: value" with one space; length and type are spelled exactly. */
static void expect_strict_head(const struct rawhttp_response *response)
{
	char value[64];
	const char *line = strstr(response->head, "\r\n");

	cr_expect(rawhttp_header(
	    response->head, "Content-Type", RAWHTTP_EXACT, value, sizeof(value)));
	cr_expect_str_eq(value, "application/json");
	cr_expect(rawhttp_header(
	    response->head, "Content-Length", RAWHTTP_EXACT, value, sizeof(value)));
	cr_expect_not(rawhttp_header(
	    response->head, "Transfer-Encoding", RAWHTTP_ANY_CASE, value, sizeof(value)));
	cr_expect_not(rawhttp_header(
	    response->head, "Content-Encoding", RAWHTTP_ANY_CASE, value, sizeof(value)));
	for (; line && line[2] != '\r'; line = strstr(line + 2, "\r\n")) {
		const char *colon = strchr(line + 2, ':');

		cr_expect(colon && colon[1] == ' ' && colon[2] != ' ', "header %.40s",
		    line + 2);
	}
}

static void expect_one_line_of_json(const struct rawhttp_response *response)
{
	const char *newline = strchr(response->body, '\n');
	json_t *json = json_loadb(response->body, response->body_len, 0, NULL);

	cr_expect_eq(strlen(response->body), response->body_len);
	cr_expect(!newline || newline[1] == '\0', "%s", response->body);
	cr_expect_not_null(json, "not JSON: %s", response->body);
	json_decref(json);
}

/* An answer as the error table has it. Consumes the response. */
static void expect_refusal(
    const char *what, struct rawhttp_response response, int status, const char *code)
{
	json_t *json = json_loadb(response.body, response.body_len, 0, NULL);
	json_t *error = json_object_get(json, "error");
	const char *got = json_string_value(json_object_get(error, "code"));
	const char *message = json_string_value(json_object_get(error, "message"));
	const char *kind = json_string_value(json_object_get(json, "response"));

	cr_expect_eq(
	    response.status, status, "%s: %s%s", what, response.head, response.body);
	cr_expect(got && strcmp(got, code) == 0, "%s: %s", what, response.body);
	cr_expect(kind && strcmp(kind, "error") == 0, "%s: %s", what, response.body);
	cr_expect(message && *message, "%s: %s", what, response.body);
	cr_expect_eq(
	    json_integer_value(json_object_get(error, "status")), status, "%s", what);
	cr_expect_eq(strncmp(response.head, "HTTP/1.1 ", 9), 0, "%s", what);
	expect_strict_head(&response);
	expect_one_line_of_json(&response);
	json_decref(json);
	rawhttp_response_done(&response);
}

/* The relay works, and of all that came before nothing reaches upstream: in order of
 * acceptance this one comes last, so whatever was wrongly kept would be there by then. */
static void expect_only_this_is_forwarded(uint32_t seed)
{
	struct dump_spec spec = { .seed = seed };

	relay_submit(relay, &spec);
	cr_assert(upstream_server_wait_dump(upstream, &spec));
	cr_assert_eq(relay_stop(relay), 0);
	cr_assert_eq(upstream_server_count(upstream, UPSTREAM_BEGUN), 1);
}

/* Compress as "gzip" (window bits 31) or "deflate" (15). */
static void compress_to(struct strbuf *out, const struct strbuf *in, int window_bits)
{
	z_stream z = { 0 };
	unsigned char buf[4096];
	int r;

	cr_assert_eq(
	    deflateInit2(&z, 6, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = (unsigned char *)in->data;
	z.avail_in = (uInt)in->len;
	do {
		z.next_out = buf;
		z.avail_out = sizeof(buf);
		r = deflate(&z, Z_FINISH);
		strbuf_add(out, buf, sizeof(buf) - z.avail_out);
	} while (r == Z_OK);
	cr_assert_eq(r, Z_STREAM_END);
	(void)deflateEnd(&z);
}

static void compress_dump(struct strbuf *out, const struct dump_spec *spec, int bits)
{
	struct strbuf dump = STRBUF_INIT;

	add_dump(&dump, spec);
	compress_to(out, &dump, bits);
	strbuf_done(&dump);
}

/* Shape of the answer */

Test(intake_answers, success_has_the_shape_that_strict_clients_need)
{
	struct strbuf dump = STRBUF_INIT;
	struct relay_post post = { 0 };
	struct rawhttp_response response = { 0 };
	char rxid[RELAY_RXID_SIZE];

	add_dump(&dump, &(struct dump_spec){ .seed = 1 });
	post.body = dump.data;
	post.len = dump.len;
	cr_assert_eq(relay_post(relay, &post, &response), 0);
	cr_expect_eq(
	    strncmp(response.head, "HTTP/1.1 200 OK\r\n", 17), 0, "%s", response.head);
	expect_strict_head(&response);
	expect_one_line_of_json(&response);
	cr_expect_lt(response.body_len, 200);
	cr_expect_eq(strncmp(response.body, "{\"response\":\"ok\",\"_rxid\":\"", 26), 0,
	    "%s", response.body);
	cr_assert(relay_parse_rxid(&response, rxid), "%s", response.body);
	cr_expect_eq(rxid[14], '7', "not a UUID of version 7: %s", rxid);
	cr_expect(strchr("89ab", rxid[19]), "not a UUID of RFC 9562: %s", rxid);
	rawhttp_response_done(&response);
	strbuf_done(&dump);
}

Test(intake_answers, http_1_0_is_answered_and_closed)
{
	struct strbuf request = STRBUF_INIT;
	struct strbuf dump = STRBUF_INIT;
	struct rawhttp *c = relay_connect(relay);
	struct rawhttp_response response = { 0 };
	char rxid[RELAY_RXID_SIZE];
	char value[32];

	add_dump(&dump, &(struct dump_spec){ .seed = 2 });
	strbuf_addf(&request, "POST %s HTTP/1.0\r\nContent-Length: %zu\r\n\r\n",
	    RELAY_TARGET, dump.len);
	strbuf_add(&request, dump.data, dump.len);
	cr_assert_eq(rawhttp_send(c, request.data, request.len), 0);
	cr_assert_eq(rawhttp_receive(c, false, &response), 0);
	cr_expect(relay_parse_rxid(&response, rxid), "%s", response.head);
	cr_expect_eq(
	    strncmp(response.head, "HTTP/1.1 200 OK\r\n", 17), 0, "%s", response.head);
	cr_expect(rawhttp_header(
		      response.head, "Connection", RAWHTTP_EXACT, value, sizeof(value)) &&
		  strcmp(value, "close") == 0);
	cr_expect_eq(rawhttp_wait_close(c), 0);
	rawhttp_response_done(&response);
	(void)rawhttp_close(c);
	strbuf_done(&dump);
	strbuf_done(&request);
}

/* Backtrace's Crashpad fork on Linux, and every Crashpad on Android. */
Test(intake_answers, http_1_0_chunked_without_host_is_accepted)
{
	struct strbuf request = STRBUF_INIT;
	struct strbuf dump = STRBUF_INIT;
	struct rawhttp_response response;
	char rxid[RELAY_RXID_SIZE];

	add_dump(&dump, &(struct dump_spec){ .seed = 3 });
	strbuf_addf(&request,
	    "POST %s HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n%zx\r\n", RELAY_TARGET,
	    dump.len);
	strbuf_add(&request, dump.data, dump.len);
	strbuf_add_str(&request, "\r\n0\r\n\r\n");
	response = exchange(request.data, request.len, false);
	cr_expect(
	    relay_parse_rxid(&response, rxid), "%s%s", response.head, response.body);
	expect_delivered(1, &dump);
	rawhttp_response_done(&response);
	strbuf_done(&dump);
	strbuf_done(&request);
}

Test(intake_answers, a_connection_carries_many_posts)
{
	struct rawhttp *c = relay_connect(relay);
	char last[RELAY_RXID_SIZE] = "";

	for (uint32_t seed = 1; seed <= 5; seed++) {
		struct rawhttp_response response = { 0 };
		struct relay_post post = { 0 };
		char rxid[RELAY_RXID_SIZE];
		CLEANUP(cleanup_free)
		unsigned char *dump =
		    dump_build(&(struct dump_spec){ .seed = seed }, &post.len);

		post.body = dump;
		cr_assert_eq(relay_post_on(c, &post, &response), 0);
		cr_assert(relay_parse_rxid(&response, rxid), "%s", response.head);
		cr_expect_str_neq(rxid, last);
		(void)memcpy(last, rxid, sizeof(last));
		rawhttp_response_done(&response);
	}
	(void)rawhttp_close(c);
	(void)delivered(5);
}

Test(intake_answers, pipelined_posts_are_answered_one_by_one)
{
	struct rawhttp *c = relay_connect(relay);
	struct strbuf both = STRBUF_INIT;

	for (uint32_t seed = 1; seed <= 2; seed++) {
		struct strbuf dump = STRBUF_INIT;

		add_dump(&dump, &(struct dump_spec){ .seed = seed });
		strbuf_addf(&both,
		    "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n",
		    RELAY_TARGET, dump.len);
		strbuf_add(&both, dump.data, dump.len);
		strbuf_done(&dump);
	}
	cr_assert_eq(rawhttp_send(c, both.data, both.len), 0);
	for (int i = 0; i < 2; i++) {
		struct rawhttp_response response = { 0 };
		char rxid[RELAY_RXID_SIZE];

		cr_assert_eq(rawhttp_receive(c, false, &response), 0);
		cr_expect(relay_parse_rxid(&response, rxid), "%s", response.head);
		rawhttp_response_done(&response);
	}
	(void)rawhttp_close(c);
	strbuf_done(&both);
	(void)delivered(2);
}

Test(intake_answers, ipv6_loopback_is_served_too)
{
	struct rawhttp *c = NULL;
	struct rawhttp_response response = { 0 };
	struct relay_post post = { 0 };
	char rxid[RELAY_RXID_SIZE];
	CLEANUP(cleanup_free)
	unsigned char *dump = dump_build(&(struct dump_spec){ .seed = 6 }, &post.len);

	post.body = dump;
	cr_assert_eq(rawhttp_connect("::1", relay_port_of(relay, "[::1]"), &c), 0);
	cr_assert_eq(relay_post_on(c, &post, &response), 0);
	cr_expect(relay_parse_rxid(&response, rxid), "%s", response.head);
	rawhttp_response_done(&response);
	(void)rawhttp_close(c);
}

/* Expect */

#define EXPECTING(target, length)                                                        \
	"POST " target " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " length         \
	"\r\nExpect: 100-continue\r\n\r\n"

Test(intake_answers, expect_is_answered_before_the_body)
{
	struct rawhttp *c = relay_connect(relay);
	struct strbuf head = STRBUF_INIT;
	struct strbuf dump = STRBUF_INIT;
	struct rawhttp_response response = { 0 };
	char rxid[RELAY_RXID_SIZE];

	add_dump(&dump, &(struct dump_spec){ .seed = 7 });
	strbuf_addf(&head, EXPECTING("%s", "%zu"), RELAY_TARGET, dump.len);
	cr_assert_eq(rawhttp_send(c, head.data, head.len), 0);
	cr_assert_eq(rawhttp_receive(c, false, &response), 0);
	cr_assert_eq(response.status, 100, "%s", response.head);
	rawhttp_response_done(&response);
	cr_assert_eq(rawhttp_send(c, dump.data, dump.len), 0);
	cr_assert_eq(rawhttp_receive(c, false, &response), 0);
	cr_expect(relay_parse_rxid(&response, rxid), "%s", response.head);
	rawhttp_response_done(&response);
	(void)rawhttp_close(c);
	strbuf_done(&dump);
	strbuf_done(&head);
}

/* The client would send all of the body for nothing. */
Test(intake_answers, a_refusal_comes_instead_of_the_continue)
{
	expect_refusal(
	    "path", exchange_str(EXPECTING("/nowhere", "5")), 404, "unknown-path");
	expect_refusal("token", exchange_str(EXPECTING("/post?format=minidump", "5")),
	    403, "missing-token");
	expect_refusal("length", exchange_str(EXPECTING(RELAY_TARGET, "999999999")), 413,
	    "too-large");
}

/* Refusals */

#define SOME_BODY "Content-Length: 4\r\n\r\nMDMP"

Test(intake_answers, other_methods_are_refused_with_the_one_allowed)
{
	static const struct {
		const char *method;
		const char *rest;
	} requests[] = { { "GET", "\r\n" }, { "HEAD", "\r\n" }, { "DELETE", "\r\n" },
		{ "PUT", SOME_BODY }, { "PATCH", SOME_BODY } };

	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		const char *method = requests[i].method;
		bool is_head = strcmp(method, "HEAD") == 0;
		struct strbuf request = STRBUF_INIT;
		struct rawhttp_response response;
		char allow[32] = "";

		strbuf_addf(&request, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s", method,
		    RELAY_TARGET, requests[i].rest);
		response = exchange(request.data, request.len, is_head);
		(void)rawhttp_header(
		    response.head, "Allow", RAWHTTP_EXACT, allow, sizeof(allow));
		cr_expect_str_eq(allow, "POST", "%s: %s", method, response.head);
		cr_expect_eq(response.status, 405, "%s: %s", method, response.head);
		if (is_head)
			rawhttp_response_done(&response);
		else
			expect_refusal(method, response, 405, "method");
		strbuf_done(&request);
	}
	expect_only_this_is_forwarded(1);
}

struct refused {
	const char *target;
	const char *headers;
	const char *body;
	int status;
	const char *code;
};

#define FORM "Content-Type: multipart/form-data; boundary=B\r\n"
#define LENGTH(n) "Content-Length: " #n "\r\n"

static const struct refused refusals[] = {
	{ "/", LENGTH(4), "MDMP", 404, "unknown-path" },
	{ "/favicon.ico", LENGTH(4), "MDMP", 404, "unknown-path" },
	{ "/a/b/c/d/e", LENGTH(4), "MDMP", 404, "unknown-path" },
	{ "/posting?format=minidump&token=x", LENGTH(4), "MDMP", 404, "unknown-path" },
	{ "/post?format=minidump", LENGTH(4), "MDMP", 403, "missing-token" },
	{ "/post?token=&format=minidump", LENGTH(4), "MDMP", 403, "missing-token" },
	{ "/api/post", LENGTH(4), "MDMP", 403, "missing-token" },
	{ RELAY_TARGET, LENGTH(9), "some text", 400, "not-a-minidump" },
	{ RELAY_TARGET, LENGTH(3), "MDM", 400, "not-a-minidump" },
	{ RELAY_TARGET, LENGTH(0), "", 400, "empty-body" },
	{ RELAY_TARGET, "", "", 400, "empty-body" },
	{ RELAY_TARGET, "Transfer-Encoding: chunked\r\n", "0\r\n\r\n", 400,
	    "empty-body" },
	{ RELAY_TARGET, "Content-Type: multipart/form-data\r\n" LENGTH(9),
	    "--B\r\n\r\nxx", 400, "bad-multipart" },
	{ RELAY_TARGET, FORM LENGTH(7), "nothing", 400, "bad-multipart" },
	{ RELAY_TARGET, FORM LENGTH(5), "--B--", 400, "bad-multipart" },
	{ RELAY_TARGET, FORM "Transfer-Encoding: chunked\r\n",
	    "5f\r\n--B\r\nContent-Disposition: form-data; "
	    "name=\"upload_file_minidump\"; filename=\"x\"\r\n\r\ntext\r\n--B--\r\n"
	    "\r\n0\r\n\r\n",
	    400, "not-a-minidump" },
	{ RELAY_TARGET, "Content-Encoding: gzip\r\n" LENGTH(4), "MDMP", 400,
	    "bad-encoding" },
	{ RELAY_TARGET, "Content-Encoding: deflate\r\n" LENGTH(4), "MDMP", 400,
	    "bad-encoding" },
	{ RELAY_TARGET, "Content-Encoding: br\r\n" LENGTH(4), "MDMP", 415,
	    "unsupported-encoding" },
	{ RELAY_TARGET, "Content-Encoding: gzip, gzip\r\n" LENGTH(4), "MDMP", 415,
	    "unsupported-encoding" },
	{ RELAY_TARGET, LENGTH(4) "Transfer-Encoding: chunked\r\n", "0\r\n\r\n", 400,
	    "bad-request" },
	{ RELAY_TARGET, LENGTH(4) LENGTH(5), "MDMP1", 400, "bad-request" },
	{ "/demo/to\x01ken/minidump", LENGTH(4), "MDMP", 400, "bad-request" },
	{ RELAY_TARGET "?a=\x7f", LENGTH(4), "MDMP", 400, "bad-request" },
};

Test(intake_answers, what_can_be_no_report_is_refused_as_the_table_says)
{
	for (size_t i = 0; i < ARRAY_LEN(refusals); i++) {
		const struct refused *r = &refusals[i];
		struct strbuf request = STRBUF_INIT;
		struct strbuf what = STRBUF_INIT;

		strbuf_addf(&request, "POST %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n%s",
		    r->target, r->headers, r->body);
		strbuf_addf(&what, "row %zu, %s", i, r->code);
		expect_refusal(strbuf_str(&what),
		    exchange(request.data, request.len, false), r->status, r->code);
		strbuf_done(&what);
		strbuf_done(&request);
	}
	expect_only_this_is_forwarded(1);
}

Test(intake_answers, an_unknown_coding_is_told_the_known_ones)
{
	struct rawhttp_response response =
	    exchange_str("POST " RELAY_TARGET " HTTP/1.1\r\nHost: x\r\nContent-Encoding: "
			 "zstd\r\nContent-Length: 4\r\n\r\nMDMP");
	char accepted[64] = "";

	cr_expect(rawhttp_header(
	    response.head, "Accept-Encoding", RAWHTTP_EXACT, accepted, sizeof(accepted)));
	cr_expect_str_eq(accepted, "gzip, deflate, identity");
	expect_refusal("zstd", response, 415, "unsupported-encoding");
}

/* The library answers this one by itself, with a page of its own. */
Test(intake_answers, a_header_that_is_too_large_is_refused)
{
	struct strbuf request = STRBUF_INIT;
	struct rawhttp_response response;

	strbuf_addf(&request, "POST %s HTTP/1.1\r\nHost: x\r\nX-Long: ", RELAY_TARGET);
	for (int i = 0; i < 100000; i++)
		strbuf_add_char(&request, 'a');
	strbuf_add_str(&request, "\r\n" SOME_BODY);
	response = exchange(request.data, request.len, false);
	cr_expect_eq(response.status, 431, "%s", response.head);
	rawhttp_response_done(&response);
	expect_only_this_is_forwarded(1);
	strbuf_done(&request);
}

Test(intake_answers, a_gzip_body_cut_short_is_refused)
{
	struct strbuf gzip = STRBUF_INIT;
	struct strbuf request = STRBUF_INIT;

	compress_dump(&gzip, &(struct dump_spec){ .seed = 8 }, 31);
	gzip.len -= 9; /* its checksum, its length, and one byte */
	strbuf_addf(&request,
	    "POST %s HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
	    "Content-Length: %zu\r\n\r\n",
	    RELAY_TARGET, gzip.len);
	strbuf_add(&request, gzip.data, gzip.len);
	expect_refusal(
	    "gzip", exchange(request.data, request.len, false), 400, "bad-encoding");
	expect_only_this_is_forwarded(1);
	strbuf_done(&request);
	strbuf_done(&gzip);
}

Test(intake_answers, a_length_over_the_limit_is_refused_before_the_body)
{
	struct strbuf head = STRBUF_INIT;

	strbuf_addf(&head, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %u\r\n\r\n",
	    RELAY_TARGET, MAX_BODY_BYTES + 1);
	expect_refusal("length", exchange(head.data, head.len, false), 413, "too-large");
	expect_only_this_is_forwarded(1);
	strbuf_done(&head);
}

/* Without a length: as soon as the limit is passed, not at the end, which never comes. */
Test(intake_answers, a_chunked_body_is_refused_when_it_passes_the_limit)
{
	size_t len = MAX_BODY_BYTES + 1;
	CLEANUP(cleanup_free) char *body = calloc(1, len);
	struct rawhttp *c = relay_connect(relay);
	struct rawhttp_response response = { 0 };
	struct strbuf head = STRBUF_INIT;

	cr_assert_not_null(body);
	(void)memcpy(body, "MDMP", 4);
	strbuf_addf(&head,
	    "POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%zx\r\n",
	    RELAY_TARGET, len);
	cr_assert_eq(rawhttp_send(c, head.data, head.len), 0);
	cr_assert_eq(rawhttp_send(c, body, len), 0);
	cr_assert_eq(rawhttp_receive(c, false, &response), 0);
	expect_refusal("chunked", response, 413, "too-large");
	(void)rawhttp_close(c);
	expect_only_this_is_forwarded(1);
	strbuf_done(&head);
}

/* Noise, then zeros: over the size alone; zeros only: over the ratio alone. */
Test(intake_answers, a_body_that_inflates_over_a_limit_is_refused)
{
	static const struct {
		size_t noise_bytes, zero_bytes;
	} bodies[] = { { 8u << 20, 17u << 20 }, { 0, 20u << 20 } };

	for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
		CLEANUP(cleanup_free) char *zeros = calloc(1, bodies[i].zero_bytes);
		struct strbuf plain = STRBUF_INIT;
		struct strbuf gzip = STRBUF_INIT;
		struct relay_post post = { .headers = "Content-Encoding: gzip\r\n" };
		struct rawhttp_response response = { 0 };

		cr_assert_not_null(zeros);
		add_dump(&plain,
		    &(struct dump_spec){ .seed = 9, .padding = bodies[i].noise_bytes });
		strbuf_add(&plain, zeros, bodies[i].zero_bytes);
		compress_to(&gzip, &plain, 31);
		post.body = gzip.data;
		post.len = gzip.len;
		cr_assert_eq(relay_post(relay, &post, &response), 0);
		expect_refusal("inflated", response, 413, "too-large");
		strbuf_done(&gzip);
		strbuf_done(&plain);
	}
	expect_only_this_is_forwarded(1);
}

/* Every way to send */

#define T RELAY_TOKEN

Test(intake_answers, every_form_of_the_url_is_taken_and_passed_on)
{
	static const struct {
		const char *target;
		const char *passed_on; /* NULL = as it came */
	} forms_of_url[] = {
		{ "/demo/" T "/minidump", NULL },
		{ "/demo/" T "/minidump?version=1.0&empty=&odd=%41%20b", NULL },
		{ "/demo/" T "/minidump&version=1.0", NULL },
		{ "/demo/" T "/minidump&version=1.0?guid=1", NULL },
		{ "/demo/" T "/json?format=minidump", NULL },
		{ "/post?format=minidump&token=" T, NULL },
		{ "/post?token=" T "&version=2&format=minidump", NULL },
		{ "/post?minidump&token=" T, NULL },
		{ "/post?format=minidump&universe=demo&token=" T, NULL },
		{ "//post?format=minidump&token=" T, NULL },
		{ "/api/post?token=" T "&format=minidump&_mod_sync=true", NULL },
		{ "/api/post?minidump&token=" T, NULL },
		/* Declared as something else: the dump in the body decides. */
		{ "/demo/" T "/json", "/demo/" T "/minidump" },
		{ "/post?token=" T, "/post?token=" T "&format=minidump" },
		{ "/demo/" T "/minidump&_mod_sync=1?format=dump",
		    "/demo/" T "/minidump&_mod_sync=1?format=minidump" },
	};
	struct strbuf body = STRBUF_INIT;

	for (unsigned i = 0; i < ARRAY_LEN(forms_of_url); i++) {
		const char *target = forms_of_url[i].target;
		const char *passed_on = forms_of_url[i].passed_on;

		strbuf_reset(&body);
		add_dump(&body, &(struct dump_spec){ .seed = i });
		accept_body(target, "application/octet-stream", NULL, &body);
		expect_delivered(i + 1, &body);
		cr_expect_str_eq(
		    delivered(i + 1)->target, passed_on ? passed_on : target);
	}
	strbuf_done(&body);
}

Test(intake_answers, other_formats_are_opaque)
{
	static const char *const formats[] = { "json", "btt", "plcrash", "symbols",
		"sourcemap", "something-new" };
	struct strbuf body = STRBUF_INIT;
	struct strbuf target = STRBUF_INIT;

	for (unsigned i = 0; i < ARRAY_LEN(formats); i++) {
		strbuf_reset(&body);
		strbuf_addf(&body, "%s: not a dump %u", formats[i], i);
		strbuf_add(&body, "\0\r\n--", 5);
		strbuf_reset(&target);
		strbuf_addf(&target, "/demo/%s/%s", T, formats[i]);
		accept_body(strbuf_str(&target), "application/octet-stream", NULL, &body);
		expect_delivered(i + 1, &body);
	}
	strbuf_done(&target);
	strbuf_done(&body);
}

Test(intake_answers, compressed_bodies_are_taken_and_kept_compressed)
{
	static const struct {
		int window_bits;
		const char *coding;
	} codings[] = { { 31, "gzip" }, { 15, "deflate" }, { 31, "GZIP" },
		{ 31, "x-gzip" } };
	struct strbuf body = STRBUF_INIT;
	struct strbuf header = STRBUF_INIT;

	for (unsigned i = 0; i < ARRAY_LEN(codings); i++) {
		char coding[16] = "";

		strbuf_reset(&body);
		strbuf_reset(&header);
		compress_dump(&body, &(struct dump_spec){ .seed = i, .padding = 100000 },
		    codings[i].window_bits);
		strbuf_addf(&header, "Content-Encoding: %s\r\n", codings[i].coding);
		accept_body(
		    RELAY_TARGET, "application/octet-stream", strbuf_str(&header), &body);
		expect_delivered(i + 1, &body);
		(void)rawhttp_header(delivered(i + 1)->head, "Content-Encoding",
		    RAWHTTP_ANY_CASE, coding, sizeof(coding));
		cr_expect_str_eq(coding, codings[i].coding);
	}
	strbuf_done(&header);
	strbuf_done(&body);
}

/* Beginning and end of a form around the dump. */
struct form {
	const char *type;
	const char *before;
	const char *after;
};

#define PART(name, file)                                                                 \
	"Content-Disposition: form-data; name=\"" name "\"; filename=\"" file            \
	"\"\r\nContent-Type: application/octet-stream\r\n\r\n"
#define FIELD(name, value)                                                               \
	"--B\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n" value "\r\n"

static const struct form forms[] = {
	{ "multipart/form-data; boundary=B",
	    FIELD("prod", "x") "--B\r\n" PART("upload_file_minidump", "a.dmp"),
	    "\r\n--B--\r\n" },
	{ "multipart/form-data; boundary=\"B\"; charset=utf-8",
	    "--B\r\n" PART("upload_file", "a.dmp"), "\r\n--B--\r\n" },
	{ "multipart/form-data; boundary=B",
	    "--B\r\n" PART("crash", "C:\\a \xc3\xa9.dmp"),
	    "\r\n" FIELD("late", "") "--B--\r\n" },
	/* Breakpad on Windows: no CRLF before the delimiter. */
	{ "multipart/form-data; boundary=B", "--B\r\n" PART("upload_file_minidump", "a"),
	    "--B--\r\n" },
	/* Cocoa's end, and no end at all. */
	{ "multipart/form-data; boundary=B", "--B\r\n" PART("upload_file_minidump", "a"),
	    "\r\n--B\r\n--" },
	{ "multipart/form-data;boundary=*****",
	    "--*****\r\n" PART("upload_file_minidump", "a"), "" },
};

Test(intake_answers, forms_of_all_sorts_are_taken_and_kept_as_they_are)
{
	struct strbuf body = STRBUF_INIT;

	for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
		char type[80] = "";

		strbuf_reset(&body);
		strbuf_add_str(&body, forms[i].before);
		add_dump(&body, &(struct dump_spec){ .seed = i });
		strbuf_add_str(&body, forms[i].after);
		accept_body(RELAY_TARGET, forms[i].type, NULL, &body);
		expect_delivered(i + 1, &body);
		(void)rawhttp_header(delivered(i + 1)->head, "Content-Type",
		    RAWHTTP_ANY_CASE, type, sizeof(type));
		cr_expect_str_eq(type, forms[i].type);
	}
	strbuf_done(&body);
}

Test(intake_answers, a_form_compressed_as_a_whole_is_taken)
{
	struct strbuf form = STRBUF_INIT;
	struct strbuf gzip = STRBUF_INIT;

	strbuf_add_str(&form, forms[0].before);
	add_dump(&form, &(struct dump_spec){ .seed = 10, .padding = 300000 });
	strbuf_add_str(&form, forms[0].after);
	compress_to(&gzip, &form, 31);
	accept_body(RELAY_TARGET, forms[0].type, "Content-Encoding: gzip\r\n", &gzip);
	expect_delivered(1, &gzip);
	strbuf_done(&gzip);
	strbuf_done(&form);
}

Test(intake_answers, a_dump_part_that_is_itself_compressed_is_taken)
{
	struct strbuf form = STRBUF_INIT;

	strbuf_add_str(&form, forms[0].before);
	compress_dump(&form, &(struct dump_spec){ .seed = 11 }, 31);
	strbuf_add_str(&form, forms[0].after);
	accept_body(RELAY_TARGET, forms[0].type, NULL, &form);
	expect_delivered(1, &form);
	strbuf_done(&form);
}

/* Send head and body in packets of one byte; the dump arrives whole. */
static void expect_accepted_in_pieces(
    const char *framing, const struct strbuf *body, const struct dump_spec *spec)
{
	struct rawhttp *c = relay_connect(relay);
	struct rawhttp_response response = { 0 };
	struct strbuf head = STRBUF_INIT;
	char rxid[RELAY_RXID_SIZE];

	strbuf_addf(
	    &head, "POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", RELAY_TARGET, framing);
	cr_assert_eq(rawhttp_send_pieces(c, head.data, head.len, 1), 0);
	cr_assert_eq(rawhttp_send_pieces(c, body->data, body->len, 1), 0);
	cr_assert_eq(rawhttp_receive(c, false, &response), 0);
	cr_expect(
	    relay_parse_rxid(&response, rxid), "%s%s", response.head, response.body);
	cr_expect(upstream_server_wait_dump(upstream, spec));
	rawhttp_response_done(&response);
	(void)rawhttp_close(c);
	strbuf_done(&head);
}

Test(intake_answers, a_body_may_come_byte_by_byte)
{
	struct dump_spec spec = { .seed = 12 };
	struct strbuf dump = STRBUF_INIT;
	char framing[40];

	add_dump(&dump, &spec);
	(void)snprintf(framing, sizeof(framing), "Content-Length: %zu", dump.len);
	expect_accepted_in_pieces(framing, &dump, &spec);
	strbuf_done(&dump);
}

Test(intake_answers, each_byte_may_be_a_chunk_of_its_own)
{
	struct dump_spec spec = { .seed = 13 };
	struct strbuf dump = STRBUF_INIT;
	struct strbuf chunks = STRBUF_INIT;

	add_dump(&dump, &spec);
	for (size_t i = 0; i < dump.len; i++) {
		strbuf_add_str(&chunks, "1\r\n");
		strbuf_add(&chunks, dump.data + i, 1);
		strbuf_add_str(&chunks, "\r\n");
	}
	strbuf_add_str(&chunks, "0\r\n\r\n");
	expect_accepted_in_pieces("Transfer-Encoding: chunked", &chunks, &spec);
	strbuf_done(&chunks);
	strbuf_done(&dump);
}

/* Giving up, and many at once */

/* Send half of a body of len bytes and leave, politely or by a reset. */
static void give_up(size_t len, bool chunked, bool reset)
{
	struct strbuf dump = STRBUF_INIT;
	struct strbuf head = STRBUF_INIT;
	struct rawhttp *c = relay_connect(relay);

	add_dump(&dump, &(struct dump_spec){ .seed = 14, .padding = len });
	strbuf_addf(&head, "POST %s HTTP/1.1\r\nHost: x\r\n", RELAY_TARGET);
	strbuf_addf(&head,
	    chunked ? "Transfer-Encoding: chunked\r\n\r\n%zx\r\n"
		    : "Content-Length: %zu\r\n\r\n",
	    chunked ? dump.len / 2 : dump.len);
	cr_assert_eq(rawhttp_send(c, head.data, head.len), 0);
	cr_assert_eq(rawhttp_send(c, dump.data, dump.len / 2), 0);
	if (chunked)
		cr_assert_eq(rawhttp_send_str(c, "\r\n"), 0);
	if (reset)
		(void)rawhttp_reset(c);
	else
		(void)rawhttp_close(c);
	strbuf_done(&head);
	strbuf_done(&dump);
}

Test(intake_answers, a_client_that_goes_away_leaves_nothing)
{
	/* Of the large body more is sent than sockets can hold: the relay has had to
	 * put it somewhere. */
	static const size_t sizes[] = { 0, 200000, 15u << 20 };
	CLEANUP(cleanup_free) char *left = NULL;

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		give_up(sizes[i], false, false);
		give_up(sizes[i], true, false);
		give_up(sizes[i], false, true);
		give_up(sizes[i], true, true);
	}
	cr_assert_eq(relay_stop(relay), 0);
	left = tempdir_list(relay_spool(relay));
	cr_expect_null(strstr(left, "large/"), "%s", left);
	relay_start(relay);
	expect_only_this_is_forwarded(15);
}

/* The Node SDK never ends a post whose attachment is a buffer. */
Test(intake_answers, a_body_that_stops_coming_is_given_up)
{
	struct relay_options options = { .upstream = upstream_server_url(upstream),
		.listen_lines = "http = 127.0.0.1:0\nidle_timeout = 300ms\n" };
	struct rawhttp_response response = { 0 };
	struct rawhttp *c;
	int r;

	cr_assert_eq(relay_stop(relay), 0);
	relay_configure(relay, &options);
	relay_start(relay);
	c = relay_connect(relay);
	cr_assert_eq(
	    rawhttp_send_str(c, "POST " RELAY_TARGET " HTTP/1.1\r\nHost: x\r\n"
				"Transfer-Encoding: chunked\r\n\r\n5\r\nMDMP1\r\n"),
	    0);
	/* Closed, with or without a word about the reason. */
	r = rawhttp_receive(c, false, &response);
	if (r == 0)
		expect_refusal("stalled", response, 408, "timeout");
	else
		cr_expect(r == -ENODATA || r == -ECONNRESET, "%s", strerror(-r));
	(void)rawhttp_close(c);
	expect_only_this_is_forwarded(1);
}

static void *submit_one(void *cls)
{
	struct dump_spec *spec = cls;

	/* The answer goes back in a field that is done with. */
	spec->exception_code = (uint32_t)relay_try_submit(relay, spec);
	return NULL;
}

Test(intake_answers, thirty_two_clients_at_once_are_all_served)
{
	struct dump_spec specs[32];
	pthread_t threads[32];

	for (uint32_t i = 0; i < ARRAY_LEN(specs); i++) {
		specs[i] = (struct dump_spec){ .seed = i, .padding = i * 20000 };
		cr_assert_eq(pthread_create(&threads[i], NULL, submit_one, &specs[i]), 0);
	}
	for (uint32_t i = 0; i < ARRAY_LEN(specs); i++) {
		(void)pthread_join(threads[i], NULL);
		cr_expect_eq(specs[i].exception_code, 200, "client %u: %d", i,
		    (int)specs[i].exception_code);
	}
	(void)delivered(ARRAY_LEN(specs));
	for (uint32_t i = 0; i < ARRAY_LEN(specs); i++) {
		specs[i].exception_code = 0;
		cr_expect_eq(
		    upstream_server_count_dump(upstream, &specs[i]), 1, "client %u", i);
	}
}
