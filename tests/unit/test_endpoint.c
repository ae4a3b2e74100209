/* SPDX-License-Identifier: MIT */
/* Which submission a target means, what upstream is asked for, and that no printed target
 * shows a token. */
#include "endpoint.h"

#include "strbuf.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TOKEN "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void parse(const char *target, struct endpoint *ret)
{
	enum endpoint_fault fault = ENDPOINT_BAD_TARGET;
	int r = endpoint_parse(target, strlen(target), ret, &fault);

	cr_assert_eq(r, 0, "%s: %d, fault %d", target, r, (int)fault);
}

/* Forms */

static const struct {
	const char *target;
	const char *universe;
	const char *token;
	const char *format;
	enum endpoint_form form;
} accepted[] = {
	{ "/u/T/minidump", "u", "T", "minidump", ENDPOINT_HOSTED },
	{ "/u/T", "u", "T", "json", ENDPOINT_HOSTED },
	{ "/u/T/", "u", "T", "json", ENDPOINT_HOSTED },
	{ "/u/T/minidump/", "u", "T", "minidump", ENDPOINT_HOSTED },
	{ "//u/T/minidump", "u", "T", "minidump", ENDPOINT_HOSTED },
	{ "/u/T/minidump?a=b", "u", "T", "minidump", ENDPOINT_HOSTED },
	{ "/u/T/minidump&version=1.0", "u", "T", "minidump", ENDPOINT_HOSTED },
	{ "/u/T/json&version=1.0?format=minidump", "u", "T", "minidump",
	    ENDPOINT_HOSTED },
	{ "/u/T/json?format=minidump", "u", "T", "minidump", ENDPOINT_HOSTED },
	{ "/u/T/json?format=&format=btt", "u", "T", "btt", ENDPOINT_HOSTED },
	{ "/u/T/json?token=X&universe=v", "u", "T", "json", ENDPOINT_HOSTED },
	{ "/u//json?token=X", "u", "X", "json", ENDPOINT_HOSTED },
	{ "/a%20b/T%2fx+y/mini%64ump", "a b", "T/x+y", "minidump", ENDPOINT_HOSTED },
	{ "/u/T%zz%/json", "u", "T%zz%", "json", ENDPOINT_HOSTED },
	{ "/post/T/json", "post", "T", "json", ENDPOINT_HOSTED },
	{ "http://relay:6097/u/T/minidump?x=http://y", "u", "T", "minidump",
	    ENDPOINT_HOSTED },
	{ "HTTPS://relay/post?token=T", "", "T", "json", ENDPOINT_LISTENER },

	{ "/post?format=minidump&token=T", "", "T", "minidump", ENDPOINT_LISTENER },
	{ "/post?token=T&format=minidump&universe=u", "u", "T", "minidump",
	    ENDPOINT_LISTENER },
	{ "//post?token=T", "", "T", "json", ENDPOINT_LISTENER },
	{ "/post/?token=T", "", "T", "json", ENDPOINT_LISTENER },
	{ "/api/post?token=T&format=minidump", "", "T", "minidump", ENDPOINT_LISTENER },
	{ "//api/post/?token=T", "", "T", "json", ENDPOINT_LISTENER },
	{ "/p%6fst?t%6fken=T", "", "T", "json", ENDPOINT_LISTENER },
	{ "/api/post?minidump&token=T", "", "T", "minidump", ENDPOINT_LISTENER },
	{ "/post?minidump&token=T&format=btt", "", "T", "btt", ENDPOINT_LISTENER },
	{ "/post?_mod_sync&token=T", "", "T", "json", ENDPOINT_LISTENER },
	{ "/post?token=T&minidump", "", "T", "json", ENDPOINT_LISTENER },
	{ "/post&token=T&format=minidump", "", "T", "minidump", ENDPOINT_LISTENER },
	{ "/post?token=&token=T&token=X", "", "T", "json", ENDPOINT_LISTENER },
	{ "/post?token=a+b%2B", "", "a b+", "json", ENDPOINT_LISTENER },
	{ "/post?&&token=T&", "", "T", "json", ENDPOINT_LISTENER },
	{ "/post?token=a=b", "", "a=b", "json", ENDPOINT_LISTENER },
	/* A second '?' where the key is nowhere else, and where it is. */
	{ "/post?token=T&_mod_sync=1?format=dump", "", "T", "dump", ENDPOINT_LISTENER },
	{ "/post?_mod_sync=1?format=dump?token=T", "", "T", "dump", ENDPOINT_LISTENER },
	{ "/post?format=json&token=T&x=1?format=dump", "", "T", "json",
	    ENDPOINT_LISTENER },
	{ "/u/T/json?url=http://x/?token=X", "u", "T", "json", ENDPOINT_HOSTED },
	{ "/u/T/json?url=http://x/?format=minidump", "u", "T", "json", ENDPOINT_HOSTED },
	{ "/u/T?x=1?format=minidump", "u", "T", "minidump", ENDPOINT_HOSTED },
};

Test(endpoint, reads_every_documented_form)
{
	for (size_t i = 0; i < ARRAY_LEN(accepted); i++) {
		CLEANUP(endpoint_done) struct endpoint e = { 0 };

		parse(accepted[i].target, &e);
		cr_assert_str_eq(e.universe, accepted[i].universe, "%s: universe %s",
		    accepted[i].target, e.universe);
		cr_assert_str_eq(e.token, accepted[i].token, "%s: token %s",
		    accepted[i].target, e.token);
		cr_assert_str_eq(e.format, accepted[i].format, "%s: format %s",
		    accepted[i].target, e.format);
		cr_assert_eq(e.form, accepted[i].form, "%s", accepted[i].target);
		cr_assert_str_eq(e.target, accepted[i].target);
	}
}

Test(endpoint, refuses_what_is_no_submission_url)
{
	static const struct {
		const char *target;
		enum endpoint_fault fault;
	} cases[] = {
		{ "", ENDPOINT_UNKNOWN_PATH },
		{ "*", ENDPOINT_UNKNOWN_PATH },
		{ "/", ENDPOINT_UNKNOWN_PATH },
		{ "//?token=T", ENDPOINT_UNKNOWN_PATH },
		{ "/?token=T", ENDPOINT_UNKNOWN_PATH },
		{ "/u", ENDPOINT_UNKNOWN_PATH },
		{ "/posts?token=T", ENDPOINT_UNKNOWN_PATH },
		{ "/favicon.ico", ENDPOINT_UNKNOWN_PATH },
		{ "/u/T/json/x", ENDPOINT_UNKNOWN_PATH },
		{ "/u/T//json", ENDPOINT_UNKNOWN_PATH },
		{ "/api/post/x/y?token=T", ENDPOINT_UNKNOWN_PATH },
		{ "u/T/json", ENDPOINT_UNKNOWN_PATH },
		{ "http://relay", ENDPOINT_UNKNOWN_PATH },
		{ "/post", ENDPOINT_MISSING_TOKEN },
		{ "/post?format=minidump", ENDPOINT_MISSING_TOKEN },
		{ "/api/post?minidump&token=", ENDPOINT_MISSING_TOKEN },
		{ "/post?token", ENDPOINT_MISSING_TOKEN },
		{ "/post?Token=T", ENDPOINT_MISSING_TOKEN },
		{ "/u//json", ENDPOINT_MISSING_TOKEN },
		{ "/u/T/json\x01", ENDPOINT_BAD_TARGET },
		{ "/u/T/json?a=\x7f", ENDPOINT_BAD_TARGET },
		{ "/u/T%00x/json", ENDPOINT_BAD_TARGET },
		{ "/u%0a/T/json", ENDPOINT_BAD_TARGET },
		{ "/u/T/js%1bon", ENDPOINT_BAD_TARGET },
		{ "/post?token=T%7f", ENDPOINT_BAD_TARGET },
		{ "/post?token=T&format=%00", ENDPOINT_BAD_TARGET },
		{ "/u/../json", ENDPOINT_BAD_TARGET },
		{ "/u/%2e%2E/json", ENDPOINT_BAD_TARGET },
		{ "/./T/json", ENDPOINT_BAD_TARGET },
		{ "/post?token=T&universe=..", ENDPOINT_BAD_TARGET },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct endpoint e = { 0 };
		enum endpoint_fault fault;

		cr_assert_eq(
		    endpoint_parse(cases[i].target, strlen(cases[i].target), &e, &fault),
		    -EBADMSG, "%s", cases[i].target);
		cr_assert_eq(
		    fault, cases[i].fault, "%s: %d", cases[i].target, (int)fault);
		cr_assert_null(e.token, "nothing is written on failure");
	}
}

Test(endpoint, a_nul_byte_in_the_target_is_bad)
{
	static const char target[] = "/u/T/json\0?token=x";
	struct endpoint e;
	enum endpoint_fault fault;

	cr_assert_eq(endpoint_parse(target, sizeof(target) - 1, &e, &fault), -EBADMSG);
	cr_assert_eq(fault, ENDPOINT_BAD_TARGET);
}

Test(endpoint, reads_follow_ups_and_modifiers)
{
	CLEANUP(endpoint_done) struct endpoint e = { 0 };

	parse("/post?token=T&object=56-00&attachment_name=advanced%20logs.txt", &e);
	cr_assert_str_eq(e.object, "56-00");
	cr_assert_str_eq(e.attachment_name, "advanced logs.txt");
	cr_assert_not(e.mod_sync);
	endpoint_done(&e);
	/* The Node SDK leaves '&' in a name as it is; a NUL is upstream's business. */
	parse("/u/T/json?object=&attachment_name=a%20&%20b.txt%00&_mod_sync", &e);
	cr_assert_str_eq(e.object, "", "an empty object is still a follow-up");
	cr_assert_str_eq(e.attachment_name, "a ");
	cr_assert(e.mod_sync);
	endpoint_done(&e);
	parse("/u/T/json?attachment_name=a%00b&url=http://x/?object=3", &e);
	cr_assert_null(e.object, "a URL in a value makes no follow-up");
	cr_assert_str_eq(e.attachment_name, "a%00b");
}

/* Parameters */

/* All parameters as "name=value;" decoded, with the key as a number where known. */
static void list_params(const char *target, struct strbuf *out)
{
	struct endpoint_params it;
	struct endpoint_param p;

	strbuf_reset(out);
	endpoint_params_init(&it, target, strlen(target));
	while (endpoint_params_next(&it, &p)) {
		if (p.key != ENDPOINT_KEY_OTHER)
			strbuf_addf(out, "%d:", (int)p.key);
		endpoint_decode(p.raw, p.name_len, out);
		if (p.value)
			strbuf_add_char(out, '=');
		endpoint_decode(p.value ? p.value : "", p.value_len, out);
		strbuf_add_char(out, ';');
	}
}

Test(endpoint, lists_parameters_in_order_and_decoded)
{
	static const struct {
		const char *target;
		const char *params;
	} cases[] = {
		{ "/u/T/json", "" },
		{ "/u/T/json?", "" },
		{ "/u/T/json?a=1&b&c=&&=d", "a=1;b;c=;=d;" },
		{ "/u/T/json?a%20b=%41+%2b%zz%4", "a b=A +%zz%4;" },
		{ "/u/T/minidump&version=1.0", "version=1.0;" },
		{ "/u/T/minidump&version=1.0?guid=x&y=z", "version=1.0;guid=x;y=z;" },
		{ "/u/T/json?a=b?c=d", "a=b?c=d;" },
		{ "/u/T/json??a=b", "?a=b;" },
		{ "/post?minidump&token=T", "7:minidump;1:token=T;" },
		{ "/post?token=T&_mod_sync=1?format=dump",
		    "1:token=T;6:_mod_sync=1;2:format=dump;" },
		{ "/post?token=T?token=X", "1:token=T?token=X;" },
		{ "/post?a=1?token=T&b=2?token=X", "a=1;1:token=T;b=2?token=X;" },
		{ "/post?token=T?format", "1:token=T?format;" },
	};
	CLEANUP(strbuf_done) struct strbuf out = STRBUF_INIT;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		list_params(cases[i].target, &out);
		cr_assert_str_eq(strbuf_str(&out), cases[i].params, "%s: %s",
		    cases[i].target, strbuf_str(&out));
	}
}

/* Upstream */

static void check_upstream(
    const char *target, const struct endpoint_rewrite *rewrite, const char *wanted)
{
	CLEANUP(endpoint_done) struct endpoint e = { 0 };
	CLEANUP(strbuf_done) struct strbuf out = STRBUF_INIT;

	parse(target, &e);
	cr_assert_eq(endpoint_upstream_target(&e, rewrite, &out), 0);
	cr_assert_str_eq(strbuf_str(&out), wanted, "%s became %s, not %s", target,
	    strbuf_str(&out), wanted);
}

Test(endpoint, with_nothing_to_replace_upstream_gets_the_raw_target)
{
	const struct endpoint_rewrite plain = { .style = ENDPOINT_STYLE_AS_RECEIVED };

	for (size_t i = 0; i < ARRAY_LEN(accepted); i++) {
		struct endpoint_rewrite path = { .style = ENDPOINT_STYLE_PATH,
			.token = accepted[i].token,
			.format = accepted[i].format };

		if (strncasecmp(accepted[i].target, "http", 4) == 0)
			continue;
		check_upstream(accepted[i].target, &plain, accepted[i].target);
		if (accepted[i].form == ENDPOINT_HOSTED || !*accepted[i].universe)
			check_upstream(accepted[i].target, &path, accepted[i].target);
	}
}

static const struct {
	struct endpoint_rewrite rewrite;
	const char *target;
	const char *wanted;
} rewrites[] = {
	/* As received: in place. */
	{ { .prefix = "/base/" }, "/u/T/json?a=b", "/base/u/T/json?a=b" },
	{ { .prefix = "/" }, "//post?token=T", "//post?token=T" },
	{ {}, "http://relay:1/u/T/json", "/u/T/json" },
	{ { .token = "new" }, "/u/T/json/?x=%41+&token=T",
	    "/u/new/json/?x=%41+&token=new" },
	{ { .token = "n/w" }, "//post?a=1&token=T&b=2&&token=X#",
	    "//post?a=1&token=n%2Fw&b=2&&token=n%2Fw" },
	{ { .token = "new" }, "/post&token=T&_mod_sync=1?format=dump",
	    "/post&token=new&_mod_sync=1?format=dump" },
	{ { .token = "new" }, "/u//json?token=T", "/u//json?token=new" },
	{ { .format = "minidump" }, "/u/T/json", "/u/T/minidump" },
	{ { .format = "minidump" }, "/u/T", "/u/T/minidump" },
	{ { .format = "minidump" }, "/u/T/?a", "/u/T/minidump/?a" },
	{ { .format = "minidump" }, "/u/T/x?format=json", "/u/T/x?format=minidump" },
	{ { .format = "minidump" }, "/post?token=T", "/post?token=T&format=minidump" },
	{ { .format = "minidump" }, "/post?json&token=T", "/post?minidump&token=T" },
	{ { .format = "minidump" }, "/post?token=?", "/post?token=?&format=minidump" },
	{ { .format = "minidump" }, "/u/T/json&v=1", "/u/T/minidump&v=1" },
	{ { .format = "minidump", .token = "new" }, "/u/T/json&v=1",
	    "/u/new/minidump&v=1" },
	{ { .object = "up stream" }, "/post?token=T&object=ours&x",
	    "/post?token=T&object=up%20stream&x" },
	{ { .object = "theirs" }, "/post?token=T", "/post?token=T" },

	/* Path. */
	{ { .style = ENDPOINT_STYLE_PATH, .prefix = "/p", .universe = "cfg" },
	    "/u/T/json?x", "/p/u/T/json?x" },
	{ { .style = ENDPOINT_STYLE_PATH, .universe = "c g" },
	    "/post?format=minidump&a=%41&token=T&b", "/c%20g/T/minidump?a=%41&b" },
	{ { .style = ENDPOINT_STYLE_PATH, .universe = "cfg" },
	    "/api/post?minidump&universe=u&token=T", "/u/T/minidump" },
	{ { .style = ENDPOINT_STYLE_PATH }, "/api/post?token=T&a",
	    "/api/post?token=T&a" },
	{ { .style = ENDPOINT_STYLE_PATH, .token = "new" },
	    "/u/T/minidump&version=1.0?guid=%7b",
	    "/u/new/minidump?version=1.0&guid=%7b" },
	{ { .style = ENDPOINT_STYLE_PATH, .format = "minidump" },
	    "/u/T/json?format=json&token=T&a=b?c", "/u/T/minidump?a=b?c" },
	{ { .style = ENDPOINT_STYLE_PATH, .format = "json" }, "/u/T/minidump?format=json",
	    "/u/T/minidump?format=json" },
	{ { .style = ENDPOINT_STYLE_PATH, .universe = "u" },
	    "/post?token=T&_mod_sync=1?format=dump", "/u/T/dump?_mod_sync=1" },

	/* Query. */
	{ { .style = ENDPOINT_STYLE_QUERY }, "/u/T%2f/minidump&version=1.0",
	    "/post?format=minidump&token=T%2F&universe=u&version=1.0" },
	{ { .style = ENDPOINT_STYLE_QUERY, .prefix = "/p" }, "//post?token=T",
	    "/p/post?format=json&token=T" },
	{ { .style = ENDPOINT_STYLE_QUERY, .token = "new", .format = "minidump" },
	    "/api/post?json&token=T&object=x&_mod_sync",
	    "/post?format=minidump&token=new&object=x&_mod_sync" },
	{ { .style = ENDPOINT_STYLE_QUERY, .object = "y&z" },
	    "/post?token=T&object=x&attachment_name=a%20b",
	    "/post?format=json&token=T&object=y%26z&attachment_name=a%20b" },
};

Test(endpoint, rewrites_what_must_be_and_keeps_the_rest_raw)
{
	for (size_t i = 0; i < ARRAY_LEN(rewrites); i++)
		check_upstream(
		    rewrites[i].target, &rewrites[i].rewrite, rewrites[i].wanted);
}

Test(endpoint, appends_extra_parameters_in_every_style)
{
	static const struct endpoint_extra extras[] = { { "relay.id", "a b" },
		{ "relay.host", "h&" } };
	static const struct {
		enum endpoint_style style;
		const char *target;
		const char *wanted;
	} cases[] = {
		{ ENDPOINT_STYLE_AS_RECEIVED, "/u/T/json",
		    "/u/T/json?relay.id=a%20b&relay.host=h%26" },
		{ ENDPOINT_STYLE_AS_RECEIVED, "/u/T/json?",
		    "/u/T/json?relay.id=a%20b&relay.host=h%26" },
		{ ENDPOINT_STYLE_AS_RECEIVED, "/u/T/json&v=1",
		    "/u/T/json&v=1&relay.id=a%20b&relay.host=h%26" },
		{ ENDPOINT_STYLE_AS_RECEIVED, "/post?token=T&",
		    "/post?token=T&relay.id=a%20b&relay.host=h%26" },
		{ ENDPOINT_STYLE_PATH, "/u/T/json&v=1",
		    "/u/T/json?v=1&relay.id=a%20b&relay.host=h%26" },
		{ ENDPOINT_STYLE_QUERY, "/post?token=T",
		    "/post?format=json&token=T&relay.id=a%20b&relay.host=h%26" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct endpoint_rewrite rewrite = {
			.style = cases[i].style, .extras = extras, .extra_count = 2
		};

		check_upstream(cases[i].target, &rewrite, cases[i].wanted);
	}
}

Test(endpoint, knows_the_style_of_backtraces_hosts)
{
	cr_assert_eq(endpoint_style_for_host("submit.backtrace.io"), ENDPOINT_STYLE_PATH);
	cr_assert_eq(endpoint_style_for_host("Submit.Backtrace.IO"), ENDPOINT_STYLE_PATH);
	cr_assert_eq(
	    endpoint_style_for_host("acme.sp.backtrace.io"), ENDPOINT_STYLE_QUERY);
	cr_assert_eq(
	    endpoint_style_for_host("sp.backtrace.io"), ENDPOINT_STYLE_AS_RECEIVED);
	cr_assert_eq(
	    endpoint_style_for_host("xsubmit.backtrace.io"), ENDPOINT_STYLE_AS_RECEIVED);
	cr_assert_eq(endpoint_style_for_host("127.0.0.1"), ENDPOINT_STYLE_AS_RECEIVED);
}

/* Secrets */

Test(endpoint, shortens_tokens)
{
	static const char *const cases[][2] = {
		{ TOKEN, "012345…" },
		{ "abcdefghijkl", "abcdef…" },
		{ "abcdefghijk", "abc…" },
		{ "abc", "a…" },
		{ "ab", "…" },
		{ "", "…" },
		{ "\xc3\xa4 b\ncdefghijk", "???b?c…" },
	};
	char out[ENDPOINT_SHORT_TOKEN_SIZE];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		endpoint_shorten_token(cases[i][0], out);
		cr_assert_str_eq(out, cases[i][1], "%s: %s", cases[i][0], out);
	}
}

Test(endpoint, redacts_tokens_in_every_form)
{
	static const char *const cases[][2] = {
		{ "/u/" TOKEN "/json?a=b", "/u/012345…/json?a=b" },
		{ "/u/" TOKEN, "/u/012345…" },
		{ "//post?format=x&token=" TOKEN "&a",
		    "//post?format=x&token=012345…&a" },
		{ "/u/my-secret-token/json?x=my-secret-token&y=my%2dsecret%2Dtoken",
		    "/u/my-sec…/json?x=my-sec…&y=my-sec…" },
		{ "/u/my%2Dsecret-token/json&x=amy-secret-tokenb",
		    "/u/my-sec…/json&x=amy-sec…b" },
		{ "/post?t%6Fken=my-secret-token", "/post?t%6Fken=my-sec…" },
		{ "/post?Token=my-secret-token;token=other-secret",
		    "/post?Token=my-sec…;token=other-…" },
		{ "/post?token=first-secret&token=second-secret",
		    "/post?token=first-…&token=second…" },
		{ "/post?token=first+secret&x=first%20secret&y=first+secret",
		    "/post?token=first?…&x=first?…&y=first?…" },
		{ "/post?_mod_sync=1?token=my-secret-token",
		    "/post?_mod_sync=1?token=my-sec…" },
		/* Refused targets are logged, too. */
		{ "/prefix/u/my-secret-token/json", "/prefix/u/my-sec…/json" },
		{ "/my-secret-token", "/my-sec…" },
		{ "my-secret-token/" TOKEN, "my-sec…/012345…" },
		{ "/x?y=" TOKEN, "/x?y=012345…" },
		{ "/x?y=%30%31" TOKEN, "/x?y=010123…" },
		{ "/u//json", "/u//json" },
		{ "/post?token=", "/post?token=" },
		{ "", "" },
		{ "/u/abc/json?x=abc", "/u/a…/json?x=a…" },
	};
	CLEANUP(strbuf_done) struct strbuf out = STRBUF_INIT;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		strbuf_reset(&out);
		cr_assert_eq(
		    endpoint_redact_target(cases[i][0], strlen(cases[i][0]), &out), 0);
		cr_assert_str_eq(strbuf_str(&out), cases[i][1], "%s: %s", cases[i][0],
		    strbuf_str(&out));
	}
}

/* Whatever a target looks like: if it is accepted, its printed form has no token. */
Test(endpoint, no_accepted_target_keeps_its_token_in_print)
{
	static const char *const words[] = { "/", "/", "u", "post", "api", "?", "&", "=",
		"token=", "format=", "universe=", "sekrit-token-1", "sekrit%2dtoken-1",
		"%73ekrit-token-1", "json", "+", "%", "_mod_sync", ";", "Token=" };
	uint32_t x = 99;
	unsigned accepted_count = 0;

	for (int round = 0; round < 200000; round++) {
		CLEANUP(endpoint_done) struct endpoint e = { 0 };
		CLEANUP(strbuf_done) struct strbuf shown = STRBUF_INIT;
		CLEANUP(strbuf_done) struct strbuf decoded = STRBUF_INIT;
		enum endpoint_fault fault;
		char target[400] = "/";

		for (int i = 0; i < 12; i++) {
			x = x * 1664525u + 1013904223u;
			strcat(target, words[(x >> 16) % ARRAY_LEN(words)]);
		}
		if (endpoint_parse(target, strlen(target), &e, &fault) < 0 ||
		    !strstr(e.token, "sekrit-token-1"))
			continue;
		accepted_count++;
		cr_assert_eq(endpoint_redact_target(target, strlen(target), &shown), 0);
		cr_assert_null(strstr(strbuf_str(&shown), e.token), "%s: %s", target,
		    strbuf_str(&shown));
		endpoint_decode(strbuf_str(&shown), shown.len, &decoded);
		cr_assert_null(strstr(strbuf_str(&decoded), e.token), "%s: %s", target,
		    strbuf_str(&shown));
	}
	cr_assert_gt(accepted_count, 1000);
}
