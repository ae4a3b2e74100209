/* SPDX-License-Identifier: MIT */
/* The promise of a 200, put to the proof: power cuts at every moment of recorded runs,
 * each call to the disk failing once, files altered by hand. The work is done by the
 * torture tool beside this program; here stands what is run, and how much of it.
 *
 * $RELAY_TORTURE_STATES is the number of power cuts in all, $RELAY_TORTURE_SEED another
 * seed. Of what fails, the recording is kept in the working folder. */
#include "bodies.h"
#include "disklog.h"
#include "files.h"
#include "posted.h"

#include "cleanup.h"
#include "strbuf.h"
#include "support/rawhttp.h"
#include "support/relay.h"
#include "support/tempdir.h"
#include "support/upstream_server.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* A sanitizer makes each state several times as dear, and finds the same in a few. */
#if defined(__SANITIZE_ADDRESS__)
#define DEFAULT_STATES 3000
#define DEFAULT_FAULTS 120
#define DEFAULT_DAMAGES 300
#else
#define DEFAULT_STATES 20000
#define DEFAULT_FAULTS 600
#define DEFAULT_DAMAGES 1000
#endif

/* Faults mostly wait for the spool to heal: more of them than there are processors. */
#define FAULT_WORKERS "24"

#define WORKERS "2"

#define SMALL "torture_small"
#define REAL "torture"

#define ARGUMENTS_MAX 32

static char *recording; /* folder of the test */

static void start(void)
{
	const char *options = getenv("ASAN_OPTIONS");
	char text[512];

	recording = tempdir_new();
	/* The recorder is preloaded in front of a sanitizer's library; it needs none. */
	(void)snprintf(text, sizeof(text), "%s%sverify_asan_link_order=0",
	    options ? options : "", options ? ":" : "");
	(void)setenv("ASAN_OPTIONS", text, 1);
}

static void stop(void)
{
	recording = tempdir_free(recording);
}

/* No time limits of their own: "make torture" runs as long as it is asked to. */
TestSuite(torture, .init = start, .fini = stop);
TestSuite(faults, .init = start, .fini = stop);
TestSuite(damage, .init = start, .fini = stop);

/* Numbers */

static unsigned long number_from(const char *name, unsigned long fallback)
{
	const char *text = getenv(name);

	return text && *text ? strtoul(text, NULL, 10) : fallback;
}

/* A share of all states, as text. */
static const char *states(unsigned long percent, unsigned long recordings)
{
	static char text[24];
	unsigned long all = number_from("RELAY_TORTURE_STATES", DEFAULT_STATES);

	(void)snprintf(text, sizeof(text), "%lu", all * percent / 100 / recordings + 1);
	return text;
}

/* More faults and damages where more states are asked for. */
static const char *scaled(unsigned long count)
{
	static char text[24];
	unsigned long all = number_from("RELAY_TORTURE_STATES", DEFAULT_STATES);

	(void)snprintf(text, sizeof(text), "%lu",
	    all > DEFAULT_STATES ? count * (all / DEFAULT_STATES) : count);
	return text;
}

static const char *seed(unsigned long add)
{
	static char text[24];

	(void)snprintf(
	    text, sizeof(text), "%lu", number_from("RELAY_TORTURE_SEED", 1) + add);
	return text;
}

/* The tool */

/* A program beside this one. */
static void find_beside(const char *name, char out[FILES_PATH_SIZE])
{
	char self[FILES_PATH_SIZE];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	cr_assert_gt(n, 0);
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	files_path(out, "%s/%s", self, name);
}

static _Noreturn void become(const char *const *argv, const char *const *env, int out)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (; env && *env; env++)
		(void)putenv((char *)(uintptr_t)*env); /* until exec */
	if (dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0)
		_exit(127);
	(void)execv(argv[0], (char **)(uintptr_t)argv);
	_exit(127);
}

/* Run to the end. Returns the exit status, or minus the signal. */
static int run(const char *const *argv, const char *const *env, struct strbuf *output)
{
	char buf[4096];
	int fds[2];
	int status = 0;
	ssize_t n;
	pid_t pid;

	cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0)
		become(argv, env, fds[1]);
	(void)close(fds[1]);
	while ((n = read(fds[0], buf, sizeof(buf))) > 0)
		strbuf_add(output, buf, (size_t)n);
	(void)close(fds[0]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* The tool with these arguments, ended by NULL, and this environment. */
static int run_tool(const char *tool, const char *const *env, struct strbuf *output,
    const char *command, const char *const *arguments)
{
	const char *argv[ARGUMENTS_MAX + 3];
	char program[FILES_PATH_SIZE];
	size_t n = 0;

	find_beside(tool, program);
	argv[n++] = program;
	argv[n++] = command;
	while (*arguments && n < ARGUMENTS_MAX)
		argv[n++] = *arguments++;
	argv[n] = NULL;
	return run(argv, env, output);
}

#define ARGUMENTS(...) ((const char *const[]){ __VA_ARGS__, NULL })

/* What the recorder needs to know: where the spool and the logs are, and the fault. */
struct recorder {
	char preload[FILES_PATH_SIZE];
	char root[FILES_PATH_SIZE];
	char log[FILES_PATH_SIZE];
	char fault[FILES_PATH_SIZE];
	char counts[FILES_PATH_SIZE];
	const char *env[6];
};

static void recorder_init(
    struct recorder *r, const char *spool, const char *folder, const char *fault)
{
	char path[FILES_PATH_SIZE];

	find_beside("recorder.so", path);
	files_path(r->preload, "LD_PRELOAD=%s", path);
	files_path(r->root, DISKLOG_ENV_ROOT "=%s", spool);
	files_path(r->log, DISKLOG_ENV_LOG "=%s", folder);
	files_path(r->fault, DISKLOG_ENV_FAULT "=%s", fault);
	files_path(r->counts, DISKLOG_ENV_COUNTS "=%s/counts", folder);
	r->env[0] = r->preload;
	r->env[1] = r->root;
	r->env[2] = r->log;
	r->env[3] = r->fault;
	r->env[4] = r->counts;
	r->env[5] = NULL;
}

/* Leave the recording where it can be found, and fail. */
static void fail_with(const char *what, const struct strbuf *output)
{
	char kept[FILES_PATH_SIZE];
	char folder[FILES_PATH_SIZE];

	if (!getcwd(folder, sizeof(folder)))
		(void)strcpy(folder, ".");
	files_path(kept, "%s/torture-kept-XXXXXX", folder);
	if (!mkdtemp(kept) || files_copy(recording, kept) < 0)
		(void)strcpy(kept, "(nowhere)");
	cr_expect_fail("%s:\n%sthe recording %s is kept as %s", what,
	    output && output->len > 0 ? output->data : "", recording, kept);
}

static void expect_well(int status, const char *what, const struct strbuf *output)
{
	if (output->len > 0)
		(void)fprintf(stderr, "%s: %s", what, output->data);
	if (status != 0)
		fail_with(what, output);
}

/* Recording the driver */

/* The spool and the list of what was posted, in the test's folder. */
static void drive(
    const char *tool, const char *fault, bool dies, const char *const *arguments)
{
	CLEANUP(strbuf_done) struct strbuf output = STRBUF_INIT;
	char spool[FILES_PATH_SIZE];
	char posted[FILES_PATH_SIZE];
	const char *argv[ARGUMENTS_MAX];
	struct recorder r;
	size_t n = 2;
	int status;

	files_path(spool, "%s/spool", recording);
	files_path(posted, "%s/posted", recording);
	recorder_init(&r, spool, recording, fault);
	argv[0] = spool;
	argv[1] = posted;
	while (*arguments && n < ARGUMENTS_MAX - 1)
		argv[n++] = *arguments++;
	argv[n] = NULL;
	status = run_tool(tool, r.env, &output, "drive", argv);
	if (status != 0 && !(dies && status == -SIGKILL))
		fail_with("the driver failed", &output);
}

/* An empty spool folder, as a packager would have made it. */
static void make_spool(void)
{
	char spool[FILES_PATH_SIZE];

	files_path(spool, "%s/spool", recording);
	files_clear(recording);
	files_clear(spool);
}

/* flag: one more, or NULL. */
static void replay(
    const char *tool, const char *count, const char *from_log, const char *flag)
{
	CLEANUP(strbuf_done) struct strbuf output = STRBUF_INIT;
	int status = run_tool(tool, NULL, &output, "replay",
	    ARGUMENTS(recording, "--states", count, "--seed", seed(0), "--from-log",
		from_log, "--workers", WORKERS, flag));

	expect_well(status, "power cuts", &output);
}

/* Power cuts */

#define SHORT_RECORDINGS 5

Test(torture, power_cuts_of_short_runs_lose_nothing)
{
	for (unsigned i = 0; i < SHORT_RECORDINGS; i++) {
		make_spool();
		drive(SMALL, "", false, ARGUMENTS("--posts", "60", "--seed", seed(i)));
		replay(SMALL, states(52, SHORT_RECORDINGS), "0", NULL);
	}
}

/* Long enough that segments are used again and the index's log is wound up. */
Test(torture, power_cuts_of_a_long_run_lose_nothing)
{
	make_spool();
	drive(SMALL, "", false,
	    ARGUMENTS("--posts", "600", "--drain", "90", "--medium", "8", "--large", "3",
		"--seed", seed(0)));
	replay(SMALL, states(7, 1), "0", NULL);
}

/* Too small for what comes: reports are evicted or refused, holes are punched. */
Test(torture, power_cuts_of_a_full_spool_lose_nothing)
{
	make_spool();
	drive(SMALL, "", false,
	    ARGUMENTS("--posts", "400", "--max-bytes", "3500000", "--reserve", "200000",
		"--seed", seed(0), "--evict"));
	replay(SMALL, states(4, 1), "0", "--may-evict");
	make_spool();
	drive(SMALL, "", false,
	    ARGUMENTS("--posts", "400", "--max-bytes", "6000000", "--reserve", "200000",
		"--seed", seed(1)));
	replay(SMALL, states(4, 1), "0", NULL);
}

/* With the sizes as they are. */
Test(torture, power_cuts_with_segments_of_full_size_lose_nothing)
{
	make_spool();
	drive(REAL, "", false,
	    ARGUMENTS("--posts", "120", "--drain", "80", "--medium", "10", "--large", "3",
		"--seed", seed(0)));
	replay(REAL, states(3, 1), "0", NULL);
}

/* The first start makes the folder too. */
Test(torture, power_cuts_of_the_first_start_lose_nothing)
{
	drive(SMALL, "", false, ARGUMENTS("--posts", "20", "--seed", seed(0)));
	replay(SMALL, states(2, 1), "0", NULL);
}

/* Killed at the first fault of each, started again on what the kernel still holds, and
 * then the power goes. */
Test(torture, power_cuts_after_kills_lose_nothing)
{
	static const unsigned chains[][5] = { { 3 }, { 8, 12, 30, 31 }, { 20, 30, 40 },
		{ 50, 200 }, { 100, 100, 100, 60 }, { 150, 90, 33 },
		{ 300, 20, 20, 20, 20 } };

	for (size_t i = 0; i < ARRAY_LEN(chains); i++) {
		char first[24] = "1";

		make_spool();
		for (size_t k = 0; k < ARRAY_LEN(chains[i]) && chains[i][k] > 0; k++) {
			char fault[40];

			(void)snprintf(
			    fault, sizeof(fault), "any:%u:1:KILL", chains[i][k]);
			drive(SMALL, fault, true,
			    ARGUMENTS(
				"--posts", "60", "--first-id", first, "--seed", seed(k)));
			(void)snprintf(first, sizeof(first), "%zu", 1000 * (k + 1));
		}
		drive(SMALL, "", false,
		    ARGUMENTS("--posts", "40", "--first-id", first, "--seed", seed(9)));
		replay(SMALL, states(18, ARRAY_LEN(chains)), "0", NULL);
	}
}

static void harm(const char *what)
{
	CLEANUP(strbuf_done) struct strbuf output = STRBUF_INIT;
	char spool[FILES_PATH_SIZE];
	struct recorder r;

	files_path(spool, "%s/spool", recording);
	recorder_init(&r, spool, recording, "");
	cr_assert_eq(run_tool(SMALL, r.env, &output, "harm", ARGUMENTS(spool, what)), 0);
}

/* More segments than a start looks through otherwise, so that only a whole rebuild, be it
 * in several attempts, finds all. */
Test(torture, power_cuts_while_the_index_is_rebuilt_lose_nothing)
{
	static const char *const harms[] = { "lose-index", "garble-index" };

	for (size_t i = 0; i < ARRAY_LEN(harms); i++) {
		make_spool();
		drive(SMALL, "", false,
		    ARGUMENTS("--posts", "350", "--drain", "30", "--medium", "20",
			"--large", "2", "--seed", seed(0)));
		harm(harms[i]);
		drive(SMALL, "", false,
		    ARGUMENTS("--posts", "10", "--first-id", "10000", "--seed", seed(1)));
		replay(SMALL, states(4, ARRAY_LEN(harms)), "2", NULL);
	}
}

/* The daemon */

#define DAEMON_POSTS 140
#define DAEMON_THREADS 4

static struct relay *relay;
static atomic_uint next_post;
static struct {
	bool accepted;
	char name[RELAY_RXID_SIZE];
} answers[DAEMON_POSTS + 1];

static size_t draw_length(uint64_t id)
{
	uint64_t random = id;
	uint64_t kind = random_below(&random, 100);

	if (kind < 5)
		return (1u << 20) + 1 + (size_t)random_below(&random, 100000);
	if (kind < 17)
		return 300000 + (size_t)random_below(&random, 300000);
	return BODY_MIN_BYTES + (size_t)random_below(&random, 9000);
}

/* Post body number id and note the answer. Returns the status, or what rawhttp says. */
static int post_body(struct rawhttp *c, uint64_t id)
{
	static const char *const targets[] = { RELAY_TARGET,
		"/demo/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
		"/minidump" };
	size_t len = draw_length(id);
	uint8_t *body = malloc(len);
	struct relay_post post = { .target = targets[id % 2], .body = body, .len = len };
	struct rawhttp_response response = { 0 };
	int status;

	if (!body)
		abort();
	body_fill(id, body, len);
	status = relay_post_on(c, &post, &response);
	free(body);
	if (status < 0)
		return status;
	status = response.status;
	answers[id].accepted = relay_parse_rxid(&response, answers[id].name);
	rawhttp_response_done(&response);
	return status;
}

static void *post_some(void *cls)
{
	unsigned last = *(unsigned *)cls;
	struct rawhttp *c = NULL;
	unsigned id;

	while ((id = atomic_fetch_add(&next_post, 1)) <= last) {
		if (!c && rawhttp_connect("127.0.0.1", relay_port(relay), &c) < 0)
			break;
		/* A refusal may close the connection: the next post has its own. */
		if (post_body(c, id) != 200)
			c = rawhttp_close(c);
	}
	rawhttp_close(c);
	return NULL;
}

/* Bodies 1 to last, over a few connections. */
static void post_all(unsigned last)
{
	pthread_t threads[DAEMON_THREADS];

	memset(answers, 0, sizeof(answers));
	atomic_store(&next_post, 1);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, post_some, &last), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		(void)pthread_join(threads[i], NULL);
}

/* What clients and upstream know at the end. */
static void write_posted(struct upstream_server *upstream)
{
	char path[FILES_PATH_SIZE];
	const struct upstream_request *q;
	uint64_t id;

	files_path(path, "%s/posted", recording);
	for (unsigned i = 0; (q = upstream_server_request(upstream, i)); i++) {
		char name[DISKLOG_NAME_BYTES + 1];

		if (!q->ended || !q->complete || q->status != 200)
			continue;
		cr_assert(body_check(q->body, q->body_len, &id),
		    "upstream got what nobody sent");
		/* As it answers the request of this number. */
		(void)snprintf(
		    name, sizeof(name), "01000000-0000-0000-0000-%012u", i + 1);
		cr_assert_eq(posted_append(path, name, id), 0);
	}
	for (id = 1; id <= DAEMON_POSTS; id++)
		if (answers[id].accepted)
			cr_assert_eq(posted_append(path, answers[id].name, id), 0);
}

/* The daemon with the recorder below it. The strings live as long as r. */
static void configure(
    struct recorder *r, struct upstream_server *upstream, const char *fault)
{
	struct relay_options options = { .upstream = upstream_server_url(upstream) };

	recorder_init(r, relay_spool(relay), recording, fault);
	options.environment = r->env;
	relay_configure(relay, &options);
}

/* Upstream takes most, and has its moods. */
static void script(struct upstream_server *upstream)
{
	static const int moods[] = { 200, 200, 200, 503, 200, 200, 400, 200, 200, 429,
		200, 200, 200, 404, 200 };

	for (size_t i = 0; i < ARRAY_LEN(moods); i++)
		upstream_server_script(
		    upstream, &(struct upstream_step){ .status = moods[i] });
}

Test(torture, power_cuts_of_the_daemon_lose_nothing)
{
	struct upstream_server *upstream = upstream_server_new(NULL);
	struct recorder r;

	cr_assert_not_null(upstream);
	relay = relay_new(NULL);
	script(upstream);
	configure(&r, upstream, "");
	relay_start(relay);
	post_all(DAEMON_POSTS);
	cr_expect(
	    upstream_server_wait(upstream, UPSTREAM_ACCEPTED, DAEMON_POSTS * 3 / 5));
	cr_expect_eq(relay_stop(relay), 0);
	for (unsigned id = 1; id <= DAEMON_POSTS; id++)
		cr_expect(answers[id].accepted, "post %u was not accepted", id);
	write_posted(upstream);
	relay = relay_free(relay);
	upstream_server_free(upstream);
	replay(REAL, states(6, 1), "0", NULL);
}

/* Faults */

Test(faults, each_call_to_the_disk_may_fail_once)
{
	CLEANUP(strbuf_done) struct strbuf output = STRBUF_INIT;
	char recorder[FILES_PATH_SIZE];
	int status;

	find_beside("recorder.so", recorder);
	status = run_tool(SMALL, NULL, &output, "faults",
	    ARGUMENTS(recorder, "--max", scaled(DEFAULT_FAULTS), "--seed", seed(0),
		"--workers", FAULT_WORKERS));
	expect_well(status, "faults", &output);
}

#define FAULT_POSTS 16
#define FAULT_HEAL_MS 10000
#define FAULT_STEP_MS 20

/* Calls of a class in one recorded process. */
static void read_counts(unsigned long out[DISKLOG_CLASS_COUNT])
{
	char path[FILES_PATH_SIZE];
	FILE *f;

	files_path(path, "%s/counts", recording);
	f = fopen(path, "re");
	cr_assert_not_null(f, "the recorder left no counts");
	for (size_t i = 0; i < DISKLOG_CLASS_COUNT; i++)
		cr_assert_eq(fscanf(f, "%lu", &out[i]), 1);
	(void)fclose(f);
}

/* Some posts may be refused; soon one is taken. */
static void expect_going_on(void)
{
	struct rawhttp *c = NULL;
	int status = 0;

	for (int waited = 0; waited < FAULT_HEAL_MS && status != 200;
	     waited += FAULT_STEP_MS) {
		if (rawhttp_connect("127.0.0.1", relay_port(relay), &c) == 0)
			status = post_body(c, FAULT_POSTS + 1);
		c = rawhttp_close(c);
		if (status != 200)
			(void)poll(NULL, 0, FAULT_STEP_MS); /* nothing tells of healing */
	}
	cr_expect_eq(status, 200, "the relay takes no post any more");
}

/* One run of the daemon with a fault. */
static void run_with_fault(const char *fault, unsigned posts)
{
	struct upstream_server *upstream = upstream_server_new(NULL);
	struct recorder r;

	cr_assert_not_null(upstream);
	files_clear(recording);
	relay = relay_new(NULL);
	configure(&r, upstream, fault);
	relay_start(relay);
	if (posts > 0) {
		post_all(posts);
		expect_going_on();
	}
	cr_expect_eq(relay_stop(relay), 0, "with fault %s", fault);
	write_posted(upstream);
	relay = relay_free(relay);
	upstream_server_free(upstream);
}

Test(faults, the_daemon_outlives_each)
{
	static const struct {
		const char *class, *what;
		enum disklog_class counted;
		unsigned runs;
	} kinds[] = { { "write", "EIO", DISKLOG_CLASS_WRITE, 4 },
		{ "write", "ENOSPC", DISKLOG_CLASS_WRITE, 4 },
		{ "write", "SHORT", DISKLOG_CLASS_WRITE, 2 },
		{ "sync", "EIO", DISKLOG_CLASS_SYNC, 8 },
		{ "open", "EIO", DISKLOG_CLASS_OPEN, 2 } };
	unsigned long idle[DISKLOG_CLASS_COUNT];
	unsigned long busy[DISKLOG_CLASS_COUNT];

	run_with_fault("", 0);
	read_counts(idle);
	run_with_fault("", FAULT_POSTS);
	read_counts(busy);
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		unsigned long from = idle[kinds[i].counted] + 1;
		unsigned long span = busy[kinds[i].counted] - idle[kinds[i].counted];

		for (unsigned k = 0; k < kinds[i].runs; k++) {
			CLEANUP(strbuf_done) struct strbuf output = STRBUF_INIT;
			char fault[64];
			int status;

			(void)snprintf(fault, sizeof(fault), "%s:%lu:1:%s",
			    kinds[i].class, from + span * k / kinds[i].runs,
			    kinds[i].what);
			run_with_fault(fault, FAULT_POSTS);
			status =
			    run_tool(REAL, NULL, &output, "ends", ARGUMENTS(recording));
			if (status != 0)
				fail_with(fault, &output);
		}
	}
}

/* Damage */

/* The same reports, once with all in the index's file and once with all in its log. */
static void damage(bool closed)
{
	CLEANUP(strbuf_done) struct strbuf output = STRBUF_INIT;
	char base[FILES_PATH_SIZE];
	char posted[FILES_PATH_SIZE];
	int status;

	files_clear(recording);
	files_path(base, "%s/base", recording);
	files_path(posted, "%s/posted", recording);
	status = run_tool(SMALL, NULL, &output, "drive",
	    ARGUMENTS(base, posted, "--posts", "110", "--drain", "20", "--seed", seed(5),
		closed ? NULL : "--abandon"));
	cr_assert_eq(status, 0, "%s", strbuf_str(&output));
	status = run_tool(SMALL, NULL, &output, "damage",
	    ARGUMENTS(recording, "--count", scaled(DEFAULT_DAMAGES), "--seed", seed(0),
		"--workers", WORKERS));
	expect_well(status, "damage", &output);
}

Test(damage, altered_files_of_a_closed_spool_harm_no_neighbour)
{
	damage(true);
}

Test(damage, altered_files_of_a_killed_spool_harm_no_neighbour)
{
	damage(false);
}
