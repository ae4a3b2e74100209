/* SPDX-License-Identifier: MIT */
/* The spelling of each type of value, and what is said of a wrong one. */
#include "config_value.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <string.h>

#define TEXT_SIZE 128

/* Criterion copies parameters to another process: no pointers. */
struct number_case {
	enum config_type type;
	char text[TEXT_SIZE];
	int64_t value; /* -1: refused */
};

ParameterizedTestParameters(config_value, numbers_with_units)
{
	static struct number_case cases[] = {
		{ CONFIG_SIZE, "0", 0 },
		{ CONFIG_SIZE, "4096", 4096 },
		{ CONFIG_SIZE, "64K", 65536 },
		{ CONFIG_SIZE, "10M", 10 << 20 },
		{ CONFIG_SIZE, "2G", INT64_C(2) << 30 },
		{ CONFIG_SIZE, "1T", INT64_C(1) << 40 },
		{ CONFIG_SIZE, "10MB", -1 },
		{ CONFIG_SIZE, "64k", -1 },
		{ CONFIG_SIZE, "1.5G", -1 },
		{ CONFIG_SIZE, "-1", -1 },
		{ CONFIG_SIZE, "+1", -1 },
		{ CONFIG_SIZE, "K", -1 },
		{ CONFIG_SIZE, "1 K", -1 },
		{ CONFIG_SIZE, "0x10", -1 },
		{ CONFIG_SIZE, "auto", -1 },
		{ CONFIG_SIZE, "9223372036854775808", -1 },
		{ CONFIG_SIZE, "18446744073709551617", -1 },
		{ CONFIG_SIZE, "8388608T", -1 },
		{ CONFIG_SIZE, "16777217T", -1 },
		{ CONFIG_DURATION, "500ms", 500 },
		{ CONFIG_DURATION, "30s", 30000 },
		{ CONFIG_DURATION, "5m", 300000 },
		{ CONFIG_DURATION, "2h", 7200000 },
		{ CONFIG_DURATION, "7d", 604800000 },
		{ CONFIG_DURATION, "0", 0 },
		{ CONFIG_DURATION, "0s", 0 },
		{ CONFIG_DURATION, "30", -1 },
		{ CONFIG_DURATION, "1h30m", -1 },
		{ CONFIG_DURATION, "3w", -1 },
		{ CONFIG_DURATION, "0x", -1 },
		{ CONFIG_DURATION, "99999999999999999999", -1 },
		{ CONFIG_DURATION, "99999999999999999999d", -1 },
		{ CONFIG_COUNT, "7", 7 },
		{ CONFIG_COUNT, "7K", -1 },
		{ CONFIG_COUNT, "7s", -1 },
	};

	return cr_make_param_array(
	    struct number_case, cases, sizeof(cases) / sizeof(cases[0]));
}

ParameterizedTest(struct number_case *c, config_value, numbers_with_units)
{
	CLEANUP(strbuf_done) struct strbuf why = STRBUF_INIT;
	struct config_setting s = { .type = c->type, .max = INT64_C(1) << 60 };
	int64_t value = 42;
	int r;

	r = config_value_set(&s, c->text, &value, &why);
	cr_assert_eq(r, c->value < 0 ? -EINVAL : 0, "%s", c->text);
	cr_assert_eq(
	    value, c->value < 0 ? 42 : c->value, "%s: %jd", c->text, (intmax_t)value);
	cr_assert_eq(why.len == 0, r == 0);
}

Test(config_value, range_is_told_in_the_units_of_the_setting)
{
	CLEANUP(strbuf_done) struct strbuf why = STRBUF_INIT;
	struct config_setting s = {
		.type = CONFIG_DURATION, .min = 100, .max = INT64_C(36) * 3600 * 1000
	};
	int64_t value = 0;

	cr_assert_eq(config_value_set(&s, "2d", &value, &why), -EINVAL);
	cr_assert_str_eq(
	    strbuf_str(&why), "\"2d\" is out of range; expected 100ms to 36h");
	strbuf_reset(&why);
	s = (struct config_setting){
		.type = CONFIG_SIZE, .max = 1 << 16, .takes_auto = true
	};
	cr_assert_eq(config_value_set(&s, "65537", &value, &why), -EINVAL);
	cr_assert_str_eq(
	    strbuf_str(&why), "\"65537\" is out of range; expected 0 to 64K, or auto");
	cr_assert_eq(config_value_set(&s, "auto", &value, &why), 0);
	cr_assert_eq(value, CONFIG_AUTO);
}

Test(config_value, booleans_are_yes_or_no)
{
	CLEANUP(strbuf_done) struct strbuf why = STRBUF_INIT;
	struct config_setting s = { .type = CONFIG_BOOL };
	bool value = false;

	cr_assert_eq(config_value_set(&s, "yes", &value, &why), 0);
	cr_assert(value);
	cr_assert_eq(config_value_set(&s, "true", &value, &why), -EINVAL);
	cr_assert_str_eq(
	    strbuf_str(&why), "\"true\" is not known here; expected yes or no");
	cr_assert(value);
	cr_assert_eq(config_value_set(&s, "no", &value, &why), 0);
	cr_assert_not(value);
}

struct text_case {
	enum config_type type;
	bool valid;
	char text[TEXT_SIZE];
};

ParameterizedTestParameters(config_value, texts)
{
	static struct text_case cases[] = {
		{ CONFIG_URL, true, "http://h" },
		{ CONFIG_URL, true, "https://submit.backtrace.io/" },
		{ CONFIG_URL, true, "HTTP://[::1]:8080/a/b%20c" },
		{ CONFIG_URL, true, "http://10.0.0.1:65535/x@y:z" },
		{ CONFIG_URL, true, "http://under_score.example" },
		{ CONFIG_URL, false, "h" },
		{ CONFIG_URL, false, "h:80" },
		{ CONFIG_URL, false, "ftp://h" },
		{ CONFIG_URL, false, "socks5://h" },
		{ CONFIG_URL, false, "http:h" },
		{ CONFIG_URL, false, "http://" },
		{ CONFIG_URL, false, "http:///path" },
		{ CONFIG_URL, false, "http://:80" },
		{ CONFIG_URL, false, "http://h:" },
		{ CONFIG_URL, false, "http://h:0" },
		{ CONFIG_URL, false, "http://h:65536" },
		{ CONFIG_URL, false, "http://h:8o" },
		{ CONFIG_URL, false, "http://::1/" },
		{ CONFIG_URL, false, "http://[::1" },
		{ CONFIG_URL, false, "http://[]" },
		{ CONFIG_URL, false, "http://[::1]x" },
		{ CONFIG_URL, false, "http://[1.2.3.4]" },
		{ CONFIG_URL, false, "http://u@h" },
		{ CONFIG_URL, false, "http://u:p@h" },
		{ CONFIG_URL, false, "http://h?q" },
		{ CONFIG_URL, false, "http://h/p?q=1" },
		{ CONFIG_URL, false, "http://h/p#f" },
		{ CONFIG_URL, false, "http://h/a b" },
		{ CONFIG_URL, false, "http://h\xc3\xa9/" },
		{ CONFIG_URL, false, "http://h<x>" },
		{ CONFIG_PROXY, true, "http://proxy:3128" },
		{ CONFIG_PROXY, true, "socks5h://u:p@ss@h:1080/" },
		{ CONFIG_PROXY, false, "proxy:3128" },
		{ CONFIG_PROXY, false, "http://u:p@" },
		{ CONFIG_PROXY, false, "http://h/path" },
		{ CONFIG_PROXY, false, "http://h?q" },
		{ CONFIG_PATH, true, "/" },
		{ CONFIG_PATH, true, "/a b/\xff" },
		{ CONFIG_PATH, false, "a" },
		{ CONFIG_PATH, false, "~/a" },
		{ CONFIG_PATH, false, "/a\x01" },
		{ CONFIG_PATH, false, "\"/a\"" },
		{ CONFIG_WORD, true, "0123456789abcdef+=~#;?&%," },
		{ CONFIG_WORD, false, "a b" },
		{ CONFIG_WORD, false, "universe/token" },
		{ CONFIG_WORD, false, "'a'" },
		{ CONFIG_WORD, false, "" },
	};

	return cr_make_param_array(
	    struct text_case, cases, sizeof(cases) / sizeof(cases[0]));
}

ParameterizedTest(struct text_case *c, config_value, texts)
{
	CLEANUP(strbuf_done) struct strbuf why = STRBUF_INIT;
	CLEANUP(cleanup_free) char *value = NULL;
	struct config_setting s = { .type = c->type, .max = 100 };
	int r;

	r = config_value_set(&s, c->text, &value, &why);
	cr_assert_eq(r, c->valid ? 0 : -EINVAL, "%s: %s", c->text, strbuf_str(&why));
	cr_assert_eq(value != NULL, c->valid);
	if (c->valid)
		cr_assert_str_eq(value, c->text);
	else
		cr_assert_not_null(strstr(strbuf_str(&why), "; expected "));
}

ParameterizedTestParameters(config_value, addresses)
{
	static struct text_case cases[] = {
		{ CONFIG_ADDRESSES, true, "127.0.0.1:6097" },
		{ CONFIG_ADDRESSES, true, "0.0.0.0:0" },
		{ CONFIG_ADDRESSES, true, "[::]:65535" },
		{ CONFIG_ADDRESSES, true, "[::ffff:1.2.3.4]:1" },
		{ CONFIG_ADDRESSES, true, "LocalHost:1" },
		{ CONFIG_ADDRESSES, false, "127.0.0.1" },
		{ CONFIG_ADDRESSES, false, "6097" },
		{ CONFIG_ADDRESSES, false, ":6097" },
		{ CONFIG_ADDRESSES, false, "127.0.0.1:" },
		{ CONFIG_ADDRESSES, false, "127.0.0.1:65536" },
		{ CONFIG_ADDRESSES, false, "127.0.0.1:99999999999" },
		{ CONFIG_ADDRESSES, false, "127.0.0.1:-1" },
		{ CONFIG_ADDRESSES, false, "127.1:80" },
		{ CONFIG_ADDRESSES, false, "::1:80" },
		{ CONFIG_ADDRESSES, false, "[::1]" },
		{ CONFIG_ADDRESSES, false, "[::1]80" },
		{ CONFIG_ADDRESSES, false, "[]:80" },
		{ CONFIG_ADDRESSES, false, "[:80" },
		{ CONFIG_ADDRESSES, false, "[127.0.0.1]:80" },
		{ CONFIG_ADDRESSES, false, "example.com:80" },
		{ CONFIG_ADDRESSES, false, "*:80" },
		{ CONFIG_ADDRESSES, false, "http://127.0.0.1:80" },
		{ CONFIG_ADDRESSES, false,
		    "[1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc]:80" },
	};

	return cr_make_param_array(
	    struct text_case, cases, sizeof(cases) / sizeof(cases[0]));
}

ParameterizedTest(struct text_case *c, config_value, addresses)
{
	CLEANUP(strbuf_done) struct strbuf why = STRBUF_INIT;
	struct config_setting s = { .type = CONFIG_ADDRESSES, .min = 1, .max = 4 };
	struct config_addresses value = { 0 };
	int r;

	r = config_value_set(&s, c->text, &value, &why);
	cr_assert_eq(r, c->valid ? 0 : -EINVAL, "%s: %s", c->text, strbuf_str(&why));
	cr_assert_eq(value.count > 0, c->valid);
	if (!c->valid)
		cr_assert_not_null(strstr(strbuf_str(&why), "; expected "));
	config_value_clear(&s, &value);
}

Test(config_value, a_wrong_value_is_shown_short_and_escaped)
{
	CLEANUP(strbuf_done) struct strbuf why = STRBUF_INIT;
	struct config_setting s = { .type = CONFIG_COUNT, .max = 9 };
	int64_t value = 0;
	char text[1000];

	memset(text, 'x', sizeof(text));
	memcpy(text, "\x1b[2J", 4);
	text[sizeof(text) - 1] = '\0';
	cr_assert_eq(config_value_set(&s, text, &value, &why), -EINVAL);
	cr_assert_eq(strncmp(strbuf_str(&why), "\"\\x1b[2Jxxx", 11), 0);
	cr_assert_lt(why.len, 160);
}
