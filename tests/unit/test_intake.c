/* SPDX-License-Identifier: MIT */
/* The walk of a post without HTTP: what is refused when, what is stored, what is left
 * behind. */
#include "intake.h"

#include "cleanup.h"
#include "log.h"
#include "metrics.h"
#include "spool.h"
#include "spool_kit.h"
#include "strbuf.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

#define TOKEN "0123456789abcdef0123456789abcdef"
#define TARGET "/demo/" TOKEN "/minidump?version=1.0"

static char *dir;
static struct spool *spool;
static struct metrics *metrics;
static struct intake *intake;
static struct strbuf logged = STRBUF_INIT;

static void keep_line(void *cls, enum log_level level, const char *line, size_t len)
{
	(void)cls;
	(void)level;
	strbuf_add(&logged, line, len);
	strbuf_add_char(&logged, '\n');
}

static void setup(void)
{
	struct intake_options options = { .limits = { .max_body_bytes = 1000,
					      .max_decoded_bytes = 100000,
					      .max_ratio = 200,
					      .max_parts = 10,
					      .max_attributes_bytes = 1000 } };
	struct spool_recovery recovery;
	char errbuf[KIT_ERROR_SIZE];

	log_set_sink(keep_line, NULL);
	dir = tempdir_new();
	cr_assert_eq(kit_open(dir, &spool, &recovery, errbuf), 0, "%s", errbuf);
	metrics = metrics_new();
	cr_assert_not_null(metrics);
	options.spool = spool;
	options.metrics = metrics;
	cr_assert_eq(intake_new(&options, &intake), 0);
}

static void teardown(void)
{
	intake = intake_free(intake);
	spool = spool_close(spool);
	metrics = metrics_free(metrics);
	dir = tempdir_free(dir);
	log_set_sink(NULL, NULL);
	strbuf_done(&logged);
}

TestSuite(intake, .init = setup, .fini = teardown);

/* An end that is waited for. */
struct waiting {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool ready;
};

static void wake(void *cls)
{
	struct waiting *w = cls;

	(void)pthread_mutex_lock(&w->lock);
	w->ready = true;
	(void)pthread_cond_signal(&w->cond);
	(void)pthread_mutex_unlock(&w->lock);
}

static void end(struct intake_post *post, struct intake_answer *ret)
{
	struct waiting w = { .lock = PTHREAD_MUTEX_INITIALIZER,
		.cond = PTHREAD_COND_INITIALIZER };

	intake_end(post, wake, &w);
	(void)pthread_mutex_lock(&w.lock);
	while (!w.ready)
		(void)pthread_cond_wait(&w.cond, &w.lock);
	(void)pthread_mutex_unlock(&w.lock);
	intake_finish(post, ret);
}

static bool begin(const char *target, int64_t length, struct intake_post **ret_post,
    struct intake_answer *ret_refusal)
{
	struct intake_head head = { .target = target,
		.target_len = strlen(target),
		.client = "127.0.0.1",
		.content_length = length };

	return intake_begin(intake, &head, ret_post, ret_refusal);
}

/* Post a body whole; the answer says how it went. */
static struct intake_answer post(const char *target, const void *body, size_t len)
{
	struct intake_answer a;
	struct intake_post *p = NULL;

	if (!begin(target, (int64_t)len, &p, &a))
		return a;
	if (!intake_add(p, body, len, &a)) {
		intake_cancel(p);
		return a;
	}
	end(p, &a);
	return a;
}

static uint64_t stored(void)
{
	struct spool_stats stats;

	spool_get_stats(spool, &stats);
	return stats.reports[REPORT_QUEUED];
}

Test(intake, a_report_is_stored_as_it_came_and_counted_and_logged_once)
{
	static const char body[] = "MDMP and what follows";
	struct intake_answer a = post(TARGET, body, sizeof(body));
	struct spool_reader *reader = NULL;
	struct spool_lane lane;
	struct report *r = NULL;
	char back[100] = "";
	char id[RXID_TEXT_SIZE];

	cr_assert_eq(a.status, 200, "%s", a.message);
	cr_assert_eq(spool_list_lanes(spool, 0, &lane, 1), 1);
	cr_assert_eq(spool_claim(spool, lane.id, false, 1, &r), 1);
	cr_expect_str_eq(r->universe, "demo");
	cr_expect_str_eq(r->token, TOKEN);
	cr_expect_str_eq(r->format, "minidump");
	cr_expect_str_eq(r->envelope.target, TARGET);
	cr_expect_null(r->envelope.content_type);
	cr_expect_eq(memcmp(&r->rxid, &a.rxid, sizeof(a.rxid)), 0);
	cr_assert_eq(spool_reader_open(spool, r, &reader), 0);
	cr_expect_eq(spool_reader_read(reader, back, sizeof(back)), sizeof(body));
	cr_expect_arr_eq(back, body, sizeof(body));
	(void)spool_reader_close(reader);
	(void)report_free(r);
	cr_expect_eq(metrics_get(metrics, METRIC_SUBMISSIONS_ACCEPTED), 1);
	cr_expect_eq(metrics_get(metrics, METRIC_SUBMISSION_BYTES), sizeof(body));
	rxid_format(&a.rxid, id);
	cr_expect_not_null(strstr(strbuf_str(&logged), id));
	cr_expect_null(strstr(strbuf_str(&logged), TOKEN), "the token is in the log");
}

Test(intake, what_is_too_long_is_refused_by_its_announced_length)
{
	struct intake_post *p = NULL;
	struct intake_answer a;

	cr_assert_not(begin(TARGET, 1001, &p, &a));
	cr_expect_eq(a.status, 413);
	cr_expect_str_eq(a.code, "too-large");
	cr_expect_not_null(strstr(a.message, "max_body"));
	cr_expect_eq(metrics_get(metrics, METRIC_SUBMISSIONS_REJECTED), 1);
}

Test(intake, what_grows_too_long_is_refused_when_it_does)
{
	static const char piece[600] = "MDMP";
	struct intake_post *p = NULL;
	struct intake_answer a;

	cr_assert(begin(TARGET, -1, &p, &a));
	cr_assert(intake_add(p, piece, sizeof(piece), &a));
	cr_assert_not(intake_add(p, piece, sizeof(piece), &a));
	cr_expect_eq(a.status, 413);
	intake_cancel(p);
	cr_expect_eq(stored(), 0);
}

Test(intake, a_post_that_is_broken_off_leaves_nothing)
{
	struct intake_post *p = NULL;
	struct intake_answer a;

	cr_assert(begin(TARGET, 100, &p, &a));
	cr_assert(intake_add(p, "MDMP", 4, &a));
	intake_cancel(p);
	cr_expect_eq(stored(), 0);
	cr_expect_eq(post(TARGET, "MDMP", 4).status, 200, "the next one is not harmed");
}

struct refused {
	const char *target;
	const char *body;
	unsigned status;
	const char *code;
};

Test(intake, refusals_name_status_and_code)
{
	static const struct refused cases[] = {
		{ "/", "MDMP", 404, "unknown-path" },
		{ "/post?format=minidump", "MDMP", 403, "missing-token" },
		{ "/demo/" TOKEN "\x01/minidump", "MDMP", 400, "bad-request" },
		{ TARGET, "", 400, "empty-body" },
		{ TARGET, "no dump", 400, "not-a-minidump" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct intake_answer a =
		    post(cases[i].target, cases[i].body, strlen(cases[i].body));

		cr_expect_eq(a.status, cases[i].status, "%s", cases[i].code);
		cr_assert_not_null(a.code);
		cr_expect_str_eq(a.code, cases[i].code);
		cr_expect_neq(a.message[0], '\0');
	}
	cr_expect_eq(stored(), 0);
	cr_expect_eq(metrics_get(metrics, METRIC_SUBMISSIONS_REJECTED), ARRAY_LEN(cases));
	cr_expect_null(strstr(strbuf_str(&logged), TOKEN), "the token is in the log");
}

Test(intake, only_formats_that_are_set_are_taken)
{
	static const char *const formats[] = { "json", "plcrash" };
	struct intake_limits limits = { .max_body_bytes = 1000,
		.formats = formats,
		.format_count = ARRAY_LEN(formats) };
	struct intake_answer a;

	cr_assert_eq(intake_set_limits(intake, &limits), 0);
	a = post(TARGET, "MDMP", 4);
	cr_expect_eq(a.status, 403);
	cr_expect_str_eq(a.code, "forbidden");
	/* A dump is one whatever it is called. */
	cr_expect_eq(post("/demo/" TOKEN "/json", "MDMP", 4).status, 403);
	cr_expect_eq(post("/demo/" TOKEN "/json", "{}", 2).status, 200);
}

Test(intake, new_limits_are_for_posts_that_begin_later)
{
	struct intake_limits limits = { .max_body_bytes = 10 };
	static const char body[100] = "MDMP";
	struct intake_post *p = NULL;
	struct intake_answer a;

	cr_assert(begin(TARGET, 100, &p, &a));
	cr_assert_eq(intake_set_limits(intake, &limits), 0);
	cr_assert(intake_add(p, body, sizeof(body), &a));
	end(p, &a);
	cr_expect_eq(a.status, 200);
	cr_expect_eq(post(TARGET, body, sizeof(body)).status, 413);
}
