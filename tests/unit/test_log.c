/* SPDX-License-Identifier: MIT */
/* The log as its readers see it: lines through the sink, and bytes on a real stderr. */
#include "log.h"

#include "clock.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

/* 2026-11-23T10:00:00.123Z */
#define SOME_TIME_MS INT64_C(1795428000123)

struct sink {
	char last[LOG_LINE_MAX_BYTES + 1];
	int count;
};

static void keep_line(void *cls, enum log_level level, const char *line, size_t len)
{
	struct sink *s = cls;

	(void)level;
	cr_assert_eq(strlen(line), len);
	cr_assert_lt(len, LOG_LINE_MAX_BYTES);
	memcpy(s->last, line, len + 1);
	s->count++;
}

static void start(struct sink *s, enum log_level level, enum log_format format)
{
	clock_set(SOME_TIME_MS, 0);
	cr_assert_eq(log_init(level, format), 0);
	log_set_sink(keep_line, s);
}

/* Every byte in its place, also in a JSON string. */
static bool is_printable(const char *s)
{
	for (; *s != '\0'; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	return true;
}

Test(log, text_line_has_time_level_message_and_fields)
{
	struct sink s = { 0 };

	start(&s, LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
	log_write(LOG_LEVEL_INFO,
	    &(struct log_fields){
		.report_id = "0193", .outcome = "not sent", .endpoint = "" },
	    "accepted %d bytes", 42);
	cr_assert_str_eq(s.last, "2026-11-23T10:00:00.123Z info accepted 42 bytes "
				 "report_id=0193 endpoint=\"\" outcome=\"not sent\"");
}

Test(log, json_line_is_one_object_with_its_strings_escaped)
{
	struct sink s = { 0 };

	start(&s, LOG_LEVEL_INFO, LOG_FORMAT_JSON);
	log_write(LOG_LEVEL_WARNING, &(struct log_fields){ .endpoint = "a\\b" },
	    "said \"no\"\nand\tleft \xff");
	cr_assert_str_eq(s.last,
	    "{\"time\":\"2026-11-23T10:00:00.123Z\",\"level\":\"warning\",\"message\":"
	    "\"said \\\"no\\\"\\\\x0aand\\\\x09left "
	    "\\\\xff\",\"endpoint\":\"a\\\\\\\\b\"}");
}

Test(log, a_client_cannot_forge_a_second_line_or_move_the_cursor)
{
	struct sink s = { 0 };

	start(&s, LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
	log_write(LOG_LEVEL_INFO, &(struct log_fields){ .endpoint = "u\r\n<0>forged" },
	    "%s", "x\n2026-11-23T10:00:00.123Z err forged\x1b[2J\x7f");
	cr_assert_eq(s.count, 1);
	cr_assert(is_printable(s.last), "%s", s.last);
}

Test(log, lines_above_the_level_are_not_written)
{
	struct sink s = { 0 };

	start(&s, LOG_LEVEL_NOTICE, LOG_FORMAT_TEXT);
	log_info("quiet");
	log_debug("quieter");
	cr_assert_eq(s.count, 0);
	log_notice("heard");
	log_set_level(LOG_LEVEL_DEBUG);
	log_debug("heard");
	cr_assert_eq(s.count, 2);
}

Test(log, unknown_level_or_format_changes_nothing)
{
	struct sink s = { 0 };

	start(&s, LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
	cr_assert_eq(log_init((enum log_level)9, LOG_FORMAT_JSON), -EINVAL);
	cr_assert_eq(log_init(LOG_LEVEL_ERR, (enum log_format)9), -EINVAL);
	log_info("still text at info");
	cr_assert_eq(s.count, 1);
	cr_assert_eq(s.last[0], '2');
}

struct filler {
	char byte; /* repeated through message and fields */
	enum log_format format;
};

ParameterizedTestParameters(log, longest_line_is_bounded_and_keeps_its_fields)
{
	static struct filler fillers[] = {
		{ 'x', LOG_FORMAT_TEXT },
		{ '\x01', LOG_FORMAT_TEXT },
		{ '\\', LOG_FORMAT_TEXT },
		{ 'x', LOG_FORMAT_JSON },
		{ '\x01', LOG_FORMAT_JSON },
		{ '\\', LOG_FORMAT_JSON },
		{ '"', LOG_FORMAT_JSON },
		{ '\xff', LOG_FORMAT_JSON },
	};

	return cr_make_param_array(
	    struct filler, fillers, sizeof(fillers) / sizeof(fillers[0]));
}

ParameterizedTest(struct filler *f, log, longest_line_is_bounded_and_keeps_its_fields)
{
	struct sink s = { 0 };
	char big[8192];
	size_t len;

	memset(big, f->byte, sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	start(&s, LOG_LEVEL_INFO, f->format);
	log_write(LOG_LEVEL_WARNING,
	    &(struct log_fields){ .report_id = big, .endpoint = big, .outcome = big },
	    "%s", big);
	len = strlen(s.last);
	cr_assert(is_printable(s.last));
	cr_assert_not_null(strstr(s.last, "outcome"));
	cr_assert_not_null(strstr(s.last, "..."));
	if (f->format == LOG_FORMAT_JSON)
		cr_assert_str_eq(s.last + len - 5, "...\"}");
}

Test(log, a_cut_does_not_split_a_character)
{
	struct sink s = { 0 };
	char big[4097] = "";

	/* One odd byte, so that two-byte letters straddle any even bound, and some more.
	 */
	for (size_t shift = 0; shift < 4; shift++) {
		memset(big, 'x', shift);
		for (size_t i = shift; i + 2 < sizeof(big); i += 2)
			memcpy(big + i, "\xc3\xa9", 3);
		start(&s, LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
		log_info("%s", big);
		cr_assert_null(strstr(s.last, "\\xc3"), "half a letter: %s", s.last);
		cr_assert_not_null(strstr(s.last, "\xc3\xa9..."));
	}
}

Test(log, errno_survives)
{
	struct sink s = { 0 };

	start(&s, LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
	errno = ENOSPC;
	log_err("write: %m");
	cr_assert_eq(errno, ENOSPC);
	cr_assert_not_null(strstr(s.last, "No space left on device"));
}

/* Put a pipe in place of stderr; returns its reading end. */
static int catch_stderr(void)
{
	int ends[2];

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	cr_assert_geq(dup2(ends[1], STDERR_FILENO), 0);
	(void)close(ends[1]);
	return ends[0];
}

static size_t read_some(int fd, char *buf, size_t size)
{
	ssize_t n = read(fd, buf, size - 1);

	cr_assert_geq(n, 0);
	buf[n] = '\0';
	return (size_t)n;
}

Test(log, journal_gets_a_priority_and_no_time)
{
	int saved = dup(STDERR_FILENO);
	int fd = catch_stderr();
	char name[64];
	char buf[256];
	struct stat st;

	cr_assert_eq(fstat(STDERR_FILENO, &st), 0);
	(void)snprintf(
	    name, sizeof(name), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	cr_assert_eq(setenv("JOURNAL_STREAM", name, 1), 0);
	cr_assert_eq(log_init(LOG_LEVEL_INFO, LOG_FORMAT_AUTO), 0);
	log_write(LOG_LEVEL_NOTICE, &(struct log_fields){ .outcome = "up" }, "ready");
	(void)read_some(fd, buf, sizeof(buf));
	(void)dup2(saved, STDERR_FILENO);
	cr_assert_str_eq(buf, "<5>ready outcome=up\n");
}

Test(log, an_inherited_journal_variable_does_not_make_a_file_the_journal)
{
	int saved = dup(STDERR_FILENO);
	int fd = catch_stderr();
	char buf[256];

	/* As in a shell below a service, with stderr sent elsewhere. */
	cr_assert_eq(setenv("JOURNAL_STREAM", "8:1", 1), 0);
	clock_set(SOME_TIME_MS, 0);
	cr_assert_eq(log_init(LOG_LEVEL_INFO, LOG_FORMAT_AUTO), 0);
	log_info("ready");
	(void)read_some(fd, buf, sizeof(buf));
	(void)dup2(saved, STDERR_FILENO);
	cr_assert_str_eq(buf, "2026-11-23T10:00:00.123Z info ready\n");
}

Test(log, a_reader_that_stops_costs_lines_but_never_the_caller, .timeout = 20)
{
	int saved = dup(STDERR_FILENO);
	int fd = catch_stderr();
	char buf[65536];
	size_t n = 0;

	(void)fcntl(STDERR_FILENO, F_SETPIPE_SZ, 16384);
	cr_assert_eq(log_init(LOG_LEVEL_INFO, LOG_FORMAT_TEXT), 0);
	for (int i = 0; i < 1000; i++)
		log_info("a line that nobody reads, and that fills the pipe %d", i);
	n = read_some(fd, buf, sizeof(buf));
	cr_assert_eq(buf[n - 1], '\n', "no line is cut in two");
	log_info("somebody reads again");
	(void)read_some(fd, buf, sizeof(buf));
	(void)dup2(saved, STDERR_FILENO);
	cr_assert_not_null(strstr(buf, " warning "), "%s", buf);
	cr_assert_not_null(strstr(buf, "log lines were lost"), "%s", buf);
	cr_assert_not_null(strstr(buf, "somebody reads again\n"), "%s", buf);
}

Test(log, a_closed_reader_or_stderr_harms_nobody)
{
	int saved = dup(STDERR_FILENO);
	int fd = catch_stderr();

	cr_assert_eq(log_init(LOG_LEVEL_INFO, LOG_FORMAT_TEXT), 0);
	(void)close(fd);
	log_info("to nobody"); /* SIGPIPE would end this process */
	(void)close(STDERR_FILENO);
	log_info("to nothing");
	(void)dup2(saved, STDERR_FILENO);
}

static void *write_lines(void *cls)
{
	const char *letter = cls;
	char text[101];

	memset(text, *letter, 100);
	text[100] = '\0';
	for (int i = 0; i < 200; i++)
		log_info("%s", text);
	return NULL;
}

Test(log, lines_of_two_threads_do_not_mix)
{
	int saved = dup(STDERR_FILENO);
	int fd = catch_stderr();
	pthread_t threads[2];
	char letters[] = "ab";
	char line[512];
	FILE *in;
	int seen = 0;

	(void)fcntl(STDERR_FILENO, F_SETPIPE_SZ, 1 << 20);
	cr_assert_eq(log_init(LOG_LEVEL_INFO, LOG_FORMAT_TEXT), 0);
	for (int i = 0; i < 2; i++)
		cr_assert_eq(
		    pthread_create(&threads[i], NULL, write_lines, &letters[i]), 0);
	for (int i = 0; i < 2; i++)
		cr_assert_eq(pthread_join(threads[i], NULL), 0);
	(void)dup2(
	    saved, STDERR_FILENO); /* the last writing end: the reader sees an end */
	in = fdopen(fd, "r");
	cr_assert_not_null(in);
	while (fgets(line, sizeof(line), in)) {
		const char *text = strstr(line, " info ");

		cr_assert_not_null(text);
		text += strlen(" info ");
		cr_assert_eq(strspn(text, text[0] == 'a' ? "a" : "b"), 100, "%s", line);
		seen++;
	}
	(void)fclose(in);
	cr_assert_eq(seen, 400);
}
