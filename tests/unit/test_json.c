/* SPDX-License-Identifier: MIT */
/* Answers must stay valid JSON on one line whatever text goes into them, and upstream's
 * reply may be anything at all. */
#include "json.h"

#include <criterion/criterion.h>
#include <string.h>

static void assert_written(const char *in, size_t len, const char *expected)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	json_add_string(&b, in, len);
	cr_assert_eq(strbuf_status(&b), 0);
	cr_assert_str_eq(strbuf_str(&b), expected);
}

#define ASSERT_WRITTEN(in, expected) assert_written(in, sizeof(in) - 1, expected)

Test(json, plain_text_is_written_as_it_is)
{
	ASSERT_WRITTEN("", "\"\"");
	ASSERT_WRITTEN("a/b Z\xc3\xa4 \xe2\x82\xac \xf0\x9f\x92\xa5",
	    "\"a/b Z\xc3\xa4 \xe2\x82\xac \xf0\x9f\x92\xa5\"");
}

Test(json, what_would_break_the_line_or_the_string_is_escaped)
{
	ASSERT_WRITTEN("a\"b\\c", "\"a\\\"b\\\\c\"");
	ASSERT_WRITTEN("\n\r\t\x01\x1f\x7f", "\"\\n\\r\\t\\u0001\\u001f\\u007f\"");
	ASSERT_WRITTEN("a\0b", "\"a\\u0000b\"");
	ASSERT_WRITTEN("\xe2\x80\xa8\xe2\x80\xa9", "\"\\u2028\\u2029\"");
}

Test(json, bytes_that_are_not_utf8_are_replaced_one_by_one)
{
	ASSERT_WRITTEN("\xff"
		       "a\x80",
	    "\"\xef\xbf\xbd"
	    "a\xef\xbf\xbd\"");
	/* Cut, overlong, surrogate, beyond U+10FFFF. */
	ASSERT_WRITTEN("\xe2\x82", "\"\xef\xbf\xbd\xef\xbf\xbd\"");
	ASSERT_WRITTEN("\xc0\xaf", "\"\xef\xbf\xbd\xef\xbf\xbd\"");
	ASSERT_WRITTEN("\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
	ASSERT_WRITTEN(
	    "\xf4\x90\x80\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
}

static bool read_rxid(const char *text, char out[16])
{
	return json_read_string(text, strlen(text), "_rxid", out, 16);
}

Test(json, string_member_is_read)
{
	char out[16] = "";

	cr_assert(read_rxid("{\"response\":\"ok\",\"_rxid\":\"01-ab\",\"x\":[{}]}", out));
	cr_assert_str_eq(out, "01-ab");
	cr_assert(read_rxid(" {\"_rxid\":\"\\u0061\\\"\"}\r\n", out));
	cr_assert_str_eq(out, "a\"");
}

Test(json, anything_else_is_absent_and_leaves_the_output_alone)
{
	static const char *const texts[] = { "", " ", "{", "[]", "null", "\"_rxid\"",
		"{\"_rxid\":1}", "{\"_rxid\":null}", "{\"_rxid\":{\"_rxid\":\"a\"}}",
		"{\"rxid\":\"a\"}", "{\"_rxid\":\"a\"", "{\"_rxid\":\"a\"}x",
		"{\"_rxid\":\"0123456789abcdef\"}", "{\"_rxid\":\"a\\u0000b\"}",
		"{\"_rxid\":\"\xff\"}", "{\"_rxid\":\"a\nb\"}", "{'_rxid':'a'}",
		"<html>{\"_rxid\":\"a\"}</html>" };
	char out[16] = "kept";

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		cr_expect_not(read_rxid(texts[i], out), "%s", texts[i]);
	cr_assert_not(json_read_string("{\"_rxid\":\"a\0b\"}", 15, "_rxid", out, 16));
	cr_assert_str_eq(out, "kept");
}

Test(json, depth_and_length_are_bounded)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	char out[16];

	strbuf_add_str(&b, "{\"a\":");
	for (int i = 0; i < JSON_READ_MAX_DEPTH - 1; i++)
		strbuf_add_char(&b, '[');
	strbuf_add_str(&b, "\"[[[\\\"[[[\"");
	for (int i = 0; i < JSON_READ_MAX_DEPTH - 1; i++)
		strbuf_add_char(&b, ']');
	strbuf_add_str(&b, ",\"_rxid\":\"deep\"}");
	cr_assert(read_rxid(strbuf_str(&b), out), "brackets in strings do not count");

	strbuf_reset(&b);
	strbuf_add_str(&b, "{\"_rxid\":\"x\",\"a\":");
	for (int i = 0; i < 1000; i++)
		strbuf_add_char(&b, '[');
	for (int i = 0; i < 1000; i++)
		strbuf_add_char(&b, ']');
	strbuf_add_char(&b, '}');
	cr_assert_not(read_rxid(strbuf_str(&b), out));

	strbuf_reset(&b);
	strbuf_add_str(&b, "{\"_rxid\":\"x\"}");
	while (b.len < JSON_READ_MAX_BYTES)
		strbuf_add_char(&b, ' ');
	cr_assert(json_read_string(b.data, b.len, "_rxid", out, sizeof(out)));
	strbuf_add_char(&b, ' ');
	cr_assert_not(json_read_string(b.data, b.len, "_rxid", out, sizeof(out)));
}
