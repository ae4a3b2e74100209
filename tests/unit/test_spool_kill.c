/* SPDX-License-Identifier: MIT */
/* The spool after a kill at any of its steps, the first start included: what was
 * acknowledged is there, whole, and nothing else is. */
#include "spool.h"

#include "bytes.h"
#include "crashpoint.h"
#include "spool_bed.h"
#include "spool_kit.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <semaphore.h>
#include <signal.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/wait.h>

#define KIB 1024u
#define MIB (1024u * KIB)

TestSuite(spool_kill, .init = bed_set_up, .fini = bed_tear_down, .timeout = 20);

/* Once all was sent, the disk holds nothing of it. */
static void expect_drained(const struct bed_claimed *c)
{
	CLEANUP(cleanup_free) char *files = NULL;

	for (size_t i = 0; i < ARRAY_LEN(c->count); i++)
		if (c->count[i] > 0)
			cr_assert_eq(kit_settle(bed.spool, c->seq[i], REPORT_SENT), 0);
	bed_close();
	files = tempdir_list(bed.dir);
	cr_expect_null(strstr(files, "large/"), "%s", files);
	cr_expect_eq(kit_sql(bed.dir, "SELECT total(records) FROM segment"), 0);
	cr_expect_eq(
	    kit_sql(bed.dir, "SELECT count(*) FROM report WHERE state IN (1, 2, 4)"), 0);
}

/* Killed at each step */

/* What the one who is to be killed tells of each report. */
enum told {
	TOLD_ACCEPTED = 1, /* its verdict was 0 */
	TOLD_CLAIMED = 2,  /* a claim returned it */
	TOLD_SETTLING = 4, /* about to be settled */
};

struct message {
	uint32_t number;
	uint32_t told;
};

#define REPORTS 16u

struct doomed {
	int fd;
	struct spool *spool;
	sem_t answered;
};

struct waiting {
	struct doomed *d;
	uint32_t number;
};

static void tell(const struct doomed *d, uint32_t number, enum told what)
{
	struct message m = { number, what };

	if (write(d->fd, &m, sizeof(m)) != (ssize_t)sizeof(m))
		_exit(3);
}

static void tell_verdict(void *cls, const struct spool_verdict *verdict)
{
	struct waiting *w = cls;

	if (verdict->error == 0)
		tell(w->d, w->number, TOLD_ACCEPTED);
	(void)sem_post(&w->d->answered);
}

/* Four at a time, so that there are batches. */
static void commit_some(struct doomed *d, uint32_t first, size_t len)
{
	static struct waiting waiting[REPORTS];

	for (uint32_t i = first; i < first + 4; i++) {
		waiting[i] = (struct waiting){ d, i };
		if (kit_commit(
			d->spool, BED_TOKEN, i, len + i, tell_verdict, &waiting[i]) < 0)
			_exit(4);
	}
	for (int i = 0; i < 4; i++)
		while (sem_wait(&d->answered) < 0)
			continue;
}

static enum report_state outcome_of(uint64_t number)
{
	return number % 3 ? REPORT_SENT : REPORT_QUEUED;
}

static void send_some(struct doomed *d, size_t max)
{
	struct report *reports[4];
	int n = spool_claim(d->spool, 1, true, max, reports);

	for (int i = 0; i < n; i++) {
		uint64_t number;

		if (kit_check(d->spool, reports[i], &number) < 0)
			_exit(5);
		tell(d, (uint32_t)number, TOLD_CLAIMED);
		crashpoint("deliver.answered"); /* as the forwarder does */
		tell(d, (uint32_t)number, TOLD_SETTLING);
		if (kit_settle(d->spool, reports[i]->seq, outcome_of(number)) < 0)
			_exit(6);
		report_free(reports[i]);
	}
}

/* Work until killed; the exit status says that the step was never passed. */
static void work_and_die(int fd, const char *crashpoint_spec, size_t len)
{
	struct doomed d = { .fd = fd };
	struct spool_recovery found;

	if (setenv("MINIDUMP_RELAY_CRASHPOINT", crashpoint_spec, 1) < 0 ||
	    sem_init(&d.answered, 0, 0) < 0)
		_exit(2);
	crashpoint_init();
	if (kit_open(bed.dir, &d.spool, &found, bed.errbuf) < 0)
		_exit(2);
	for (uint32_t i = 0; i < REPORTS; i += 4) {
		commit_some(&d, i, len);
		send_some(&d, 3);
	}
	spool_close(d.spool);
	_exit(0);
}

/* What each report was told to be, by number. */
static void run_doomed(const char *crashpoint_spec, size_t len, uint32_t told[REPORTS])
{
	int pipes[2];
	struct message m;
	pid_t child;
	int status;

	cr_assert_eq(pipe2(pipes, O_CLOEXEC), 0);
	child = fork();
	cr_assert_geq(child, 0);
	if (child == 0)
		work_and_die(pipes[1], crashpoint_spec, len);
	(void)close(pipes[1]);
	while (read(pipes[0], &m, sizeof(m)) == (ssize_t)sizeof(m)) {
		cr_assert_lt(m.number, REPORTS);
		told[m.number] |= m.told;
	}
	(void)close(pipes[0]);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
	    "%s was never passed: status %x", crashpoint_spec, (unsigned)status);
}

struct step {
	char spec[32];
	bool large;
};

ParameterizedTestParameters(spool_kill, acknowledged_reports_survive_a_kill_at_each_step)
{
	static struct step steps[] = {
		{ "payload.staged", false },
		{ "payload.staged:7", false },
		{ "commit.synced", false },
		{ "commit.synced:3", false },
		{ "commit.inserted", false },
		{ "commit.inserted:3", false },
		{ "commit.committed", false },
		{ "commit.committed:4", false },
		{ "claim.committed", false },
		{ "claim.committed:2", false },
		{ "deliver.answered", false },
		{ "deliver.answered:5", false },
		{ "settle.committed", false },
		{ "settle.committed:2", false },
		{ "settle.released", false },
		{ "payload.staged", true },
		{ "payload.large", true },
		{ "payload.large:7", true },
		{ "payload.renamed", true },
		{ "payload.renamed:7", true },
		{ "commit.synced:2", true },
		{ "commit.inserted:6", true },
		{ "commit.committed:6", true },
		{ "claim.committed", true },
		{ "deliver.answered:2", true },
		{ "settle.committed", true },
		{ "settle.released", true },
	};

	return cr_make_param_array(struct step, steps, ARRAY_LEN(steps));
}

static bool may_be_over(uint32_t told, uint64_t number)
{
	return (told & TOLD_SETTLING) && outcome_of(number) != REPORT_QUEUED;
}

static void expect_promise_kept(const uint32_t told[REPORTS], const struct bed_claimed *c)
{
	for (uint64_t i = 0; i < REPORTS; i++) {
		cr_expect_leq(c->count[i], 1, "report %" PRIu64 " is there twice", i);
		if (told[i] & TOLD_ACCEPTED)
			cr_expect(c->count[i] == 1 || may_be_over(told[i], i),
			    "report %" PRIu64 " was acknowledged and is lost", i);
		if (c->count[i] > 0 &&
		    (told[i] & (TOLD_CLAIMED | TOLD_SETTLING)) == TOLD_CLAIMED)
			cr_expect(c->in_doubt[i],
			    "report %" PRIu64 " may have been sent and nothing says so",
			    i);
	}
}

ParameterizedTest(struct step *step, spool_kill,
    acknowledged_reports_survive_a_kill_at_each_step, .timeout = 20)
{
	static struct bed_claimed c;
	uint32_t told[REPORTS] = { 0 };
	CLEANUP(cleanup_free) char *files = NULL;

	run_doomed(step->spec, step->large ? MIB + 100 * KIB : 3000, told);
	bed_open();
	cr_expect_not(bed.recovery.rebuilt);
	files = tempdir_list(bed.dir);
	cr_expect_null(strstr(files, "incoming"), "%s", files);
	bed_claim_all(&c);
	expect_promise_kept(told, &c);
	cr_expect_eq(bed.recovery.damaged, 0, "what died half way is nobody's");
	expect_drained(&c);
}

/* A report that was being sent at the kill has been claimed without anybody knowing what
 * became of it. */
Test(spool_kill, reports_being_sent_are_queued_again_and_in_doubt)
{
	static struct bed_claimed c;
	uint32_t told[REPORTS] = { 0 };

	run_doomed("claim.committed", 1000, told);
	bed_open();
	cr_expect_eq(bed.recovery.requeued, 3);
	bed_claim_all(&c);
	bed_expect_exactly(&c, 0, 4);
	cr_expect_eq(c.ambiguous, 3);
}

Test(spool_kill, whole_records_that_no_row_knew_are_taken_back)
{
	static struct bed_claimed c;
	uint32_t told[REPORTS] = { 0 };

	run_doomed("commit.synced", 1000, told);
	bed_open();
	cr_expect_gt(bed.recovery.recovered, 0);
	bed_claim_all(&c);
	cr_expect_eq(c.total, bed.recovery.recovered);
	cr_expect_eq(c.ambiguous, 0, "nobody can have sent them");
}

/* The rows of the last transactions lie in SQLite's log only. */
Test(spool_kill, acknowledged_reports_survive_the_loss_of_the_index_log)
{
	static struct bed_claimed c;
	uint32_t told[REPORTS] = { 0 };

	bed_open();
	bed_accept_many(100, 3, 1000);
	bed_close();
	run_doomed("payload.staged:9", 1000, told);
	cr_assert(bed_has_file("spool.db-wal"));
	bed_remove_file("spool.db-wal");
	bed_open();
	bed_claim_all(&c);
	for (uint64_t i = 0; i < REPORTS; i++)
		if (told[i] & TOLD_ACCEPTED)
			cr_expect_eq(c.count[i], 1, "report %" PRIu64, i);
	for (uint64_t i = 100; i < 103; i++)
		cr_expect_eq(c.count[i], 1, "report %" PRIu64, i);
}

Test(spool_kill, an_index_lost_at_a_kill_is_made_anew)
{
	static struct bed_claimed c;
	uint32_t told[REPORTS] = { 0 };

	run_doomed("settle.committed:2", 1000, told);
	bed_remove_index();
	bed_open();
	cr_expect(bed.recovery.rebuilt);
	bed_claim_all(&c);
	expect_promise_kept(told, &c);
	cr_expect_eq(c.ambiguous, c.total);
}

/* Killed while making the index anew. SQLite asks a hook before each commit. */

static int commits_left;

static int die_at_commit(void *cls)
{
	(void)cls;
	if (--commits_left <= 0)
		(void)kill(getpid(), SIGKILL);
	return 0;
}

static int add_hook(sqlite3 *db, const char **error, const void *api)
{
	(void)error;
	(void)api;
	(void)sqlite3_commit_hook(db, die_at_commit, NULL);
	return SQLITE_OK;
}

/* Open in a child that is killed at the n-th commit. Returns false if there are fewer. */
static bool open_and_die(int n)
{
	pid_t child = fork();
	int status;

	cr_assert_geq(child, 0);
	if (child == 0) {
		struct spool *s;
		struct spool_recovery r;

		commits_left = n;
		if (sqlite3_auto_extension((void (*)(void))add_hook) != SQLITE_OK ||
		    kit_open(bed.dir, &s, &r, bed.errbuf) < 0)
			_exit(1);
		_exit(0);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return true;
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", (unsigned)status);
	return false;
}

static void ignore_verdict(void *cls, const struct spool_verdict *verdict)
{
	(void)cls;
	(void)verdict;
}

/* More rows than one transaction takes, more segments than a start after a kill looks
 * through, and a record that is damaged. */
enum {
	SMALL_COUNT = 1030,
	BIG_COUNT = 76
};

static void fill_many_segments(void)
{
	struct spool_options options = { .directory = bed.dir, .limits = kit_limits() };
	CLEANUP(cleanup_free) char *second = tempdir_join(bed.dir, "segments/00000002");

	options.limits.max_bytes = UINT64_C(1) << 30;
	cr_assert_eq(spool_open(&options, &bed.spool, &bed.recovery, bed.errbuf,
			 sizeof(bed.errbuf)),
	    0);
	for (uint64_t i = 0; i < SMALL_COUNT; i++)
		cr_assert_eq(
		    kit_commit(bed.spool, BED_TOKEN, i, 100, ignore_verdict, NULL), 0);
	for (uint64_t i = SMALL_COUNT; i < SMALL_COUNT + BIG_COUNT; i++)
		cr_assert_eq(
		    kit_commit(bed.spool, BED_TOKEN, i, MIB - 1000, ignore_verdict, NULL),
		    0);
	bed_close();
	cr_assert_eq(
	    kit_sql(bed.dir, "SELECT count(*) FROM report"), SMALL_COUNT + BIG_COUNT);
	cr_assert_geq(kit_sql(bed.dir, "SELECT count(DISTINCT segment) FROM report"), 6);
	/* In the body of the first record there. */
	cr_assert(bytes_flip(second, 4096 + 500000));
}

Test(spool_kill, a_kill_while_the_index_is_made_anew_loses_nothing)
{
	int killed = 0;

	fill_many_segments();
	for (int n = 1; n < 10; n++) {
		bed_remove_index();
		if (!open_and_die(n))
			break;
		killed++;
		bed_open();
		bed_close();
		cr_expect_eq(kit_sql(bed.dir, "SELECT count(*) FROM report"),
		    SMALL_COUNT + BIG_COUNT, "killed at commit %d: %" PRId64 " left", n,
		    kit_sql(bed.dir, "SELECT count(*) FROM report"));
		cr_expect_eq(
		    kit_sql(bed.dir, "SELECT count(*) FROM report WHERE state = 1"
				     " AND ambiguous = 0"),
		    0, "killed at commit %d: not all are marked", n);
		cr_expect_eq(
		    kit_sql(bed.dir, "SELECT count(*) FROM report WHERE state = 5"), 1,
		    "killed at commit %d: the damaged one is not put aside", n);
		cr_expect_eq(kit_sql(bed.dir, "SELECT total(reports) FROM tally"),
		    SMALL_COUNT + BIG_COUNT);
		cr_expect_eq(kit_sql(bed.dir, "SELECT total(records) FROM segment"),
		    SMALL_COUNT + BIG_COUNT);
	}
	cr_expect_geq(killed, 3);
}
