/* SPDX-License-Identifier: MIT */
/* The promise behind every 200: killed at whatever step, the relay delivers after the
 * next start each report that it acknowledged, byte for byte, and nothing that is half a
 * report. What was not acknowledged may arrive or not, but whole. */
#include "cleanup.h"
#include "support/dump_builder.h"
#include "support/relay.h"
#include "support/tempdir.h"
#include "support/upstream_server.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Above what goes into a segment: such a body has a file of its own. */
#define LARGE_BYTES (2u << 20)

static struct upstream_server *upstream;
static struct relay *relay;

/* What was posted: report i of the list, and whether a 200 was read for it. */
#define POSTED_MAX 400
static struct {
	struct dump_spec spec;
	bool acknowledged;
} posted[POSTED_MAX];

static void start(void)
{
	struct relay_options options = { 0 };

	upstream = upstream_server_new(NULL);
	cr_assert_not_null(upstream);
	options.upstream = upstream_server_url(upstream);
	relay = relay_new(&options);
}

static void stop(void)
{
	relay = relay_free(relay);
	upstream = upstream_server_free(upstream);
}

TestSuite(crash, .init = start, .fini = stop, .timeout = 120);

/* Every fifth report is a large one. */
static struct dump_spec spec_of(uint32_t i)
{
	return (struct dump_spec){ .seed = i, .padding = i % 5 == 1 ? LARGE_BYTES : 10 };
}

/* Post report i. Returns whether the relay still answers. */
static bool post_report(uint32_t i)
{
	int status;

	posted[i].spec = spec_of(i);
	status = relay_try_submit(relay, &posted[i].spec);
	posted[i].acknowledged = status == 200;
	return status >= 0;
}

/* After the last start: all that was acknowledged of the first n arrives, and each delivery
 * is one of those reports. What upstream had answered and the relay not yet settled at a
 * kill goes out again, once for each kill. */
static void expect_kept_promise(const char *step, uint32_t n, unsigned kills)
{
	struct dump_spec sentinel = { .seed = POSTED_MAX };
	unsigned deliveries = 1;
	CLEANUP(cleanup_free) char *left = NULL;

	for (uint32_t i = 0; i < n; i++)
		if (posted[i].acknowledged)
			cr_expect(upstream_server_wait_dump(upstream, &posted[i].spec),
			    "%s: report %u was acknowledged and is lost", step, i);
	relay_submit(relay, &sentinel);
	cr_assert(upstream_server_wait_dump(upstream, &sentinel), "%s", step);
	cr_assert_eq(relay_stop(relay), 0, "%s", step);
	for (uint32_t i = 0; i < n; i++) {
		unsigned count = upstream_server_count_dump(upstream, &posted[i].spec);

		cr_expect_leq(
		    count, kills + 1, "%s: report %u was sent %u times", step, i, count);
		deliveries += count;
	}
	cr_expect_eq(upstream_server_count(upstream, UPSTREAM_ACCEPTED), deliveries,
	    "%s: upstream has accepted what nobody posted", step);
	left = tempdir_list(relay_spool(relay));
	cr_expect_null(strstr(left, "large/"), "%s: payloads are left:\n%s", step, left);
}

/* At each named step */

struct step {
	char spec[40]; /* as the environment takes it */
};

/* The steps of src/crashpoint.h, at the first pass and at a later one. */
ParameterizedTestParameters(crash, acknowledged_reports_survive_at_each_step)
{
	static struct step steps[] = {
		{ "payload.staged" },
		{ "payload.staged:4" },
		{ "payload.large" },
		{ "payload.large:3" },
		{ "payload.renamed" },
		{ "payload.renamed:3" },
		{ "commit.synced" },
		{ "commit.synced:4" },
		{ "commit.inserted" },
		{ "commit.inserted:4" },
		{ "commit.committed" },
		{ "commit.committed:4" },
		{ "claim.committed" },
		{ "claim.committed:3" },
		{ "deliver.answered" },
		{ "deliver.answered:3" },
		{ "settle.committed" },
		{ "settle.committed:3" },
		{ "settle.released" },
		{ "settle.released:3" },
	};

	return cr_make_param_array(struct step, steps, ARRAY_LEN(steps));
}

ParameterizedTest(struct step *step, crash, acknowledged_reports_survive_at_each_step)
{
	struct relay_options options = { .upstream = upstream_server_url(upstream) };
	uint32_t n = 0;

	options.crashpoint = step->spec;
	relay_configure(relay, &options);
	relay_start(relay);
	/* Enough for several claims and settlements, of which each takes some. */
	while (n < 40 && post_report(n++))
		;
	cr_assert_eq(relay_wait_exit(relay), -SIGKILL, "%s is never passed", step->spec);

	options.crashpoint = NULL;
	relay_configure(relay, &options);
	relay_start(relay);
	expect_kept_promise(step->spec, n, 1);
}

/* At any moment */

/* Load: threads post report after report until the relay stops answering. */
static atomic_uint next_report;
static atomic_uint last_report; /* of this round */

static void *post_until_it_dies(void *cls)
{
	(void)cls;
	while (atomic_load(&next_report) < atomic_load(&last_report)) {
		uint32_t i = atomic_fetch_add(&next_report, 1);

		if (i >= POSTED_MAX || !post_report(i))
			return NULL;
	}
	return NULL;
}

Test(crash, acknowledged_reports_survive_kills_at_any_moment_under_load)
{
	/* After so many deliveries in all: early, and while much is queued. */
	static const unsigned kill_at[] = { 3, 20, 45, 70 };
	uint32_t n;

	for (size_t round = 0; round < ARRAY_LEN(kill_at); round++) {
		pthread_t threads[4];

		relay_start(relay);
		atomic_store(&last_report,
		    (unsigned)((round + 1) * POSTED_MAX / ARRAY_LEN(kill_at)));
		for (size_t i = 0; i < ARRAY_LEN(threads); i++)
			cr_assert_eq(
			    pthread_create(&threads[i], NULL, post_until_it_dies, NULL),
			    0);
		cr_expect(
		    upstream_server_wait(upstream, UPSTREAM_ACCEPTED, kill_at[round]));
		relay_kill(relay);
		for (size_t i = 0; i < ARRAY_LEN(threads); i++)
			(void)pthread_join(threads[i], NULL);
	}
	n = atomic_load(&next_report);
	relay_start(relay);
	expect_kept_promise(
	    "under load", n < POSTED_MAX ? n : POSTED_MAX, ARRAY_LEN(kill_at));
}

/* A body that was being received when the relay died is no report and no rubbish. */
Test(crash, a_body_under_way_leaves_nothing)
{
	struct rawhttp *c;
	char *noise = calloc(1, 12u << 20);

	cr_assert_not_null(noise);
	relay_start(relay);
	c = relay_connect(relay);
	cr_assert_eq(rawhttp_send_str(c, "POST " RELAY_TARGET " HTTP/1.1\r\nHost: x\r\n"
					 "Content-Length: 16777216\r\n\r\nMDMP"),
	    0);
	/* More than sockets hold, so that the relay has had to put it somewhere. */
	cr_assert_eq(rawhttp_send(c, noise, 12u << 20), 0);
	relay_kill(relay);
	(void)rawhttp_close(c);
	free(noise);
	relay_start(relay);
	expect_kept_promise("in the body", 0, 1);
}
