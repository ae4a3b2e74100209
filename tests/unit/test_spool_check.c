/* SPDX-License-Identifier: MIT */
/* --check-spool from inside: a sound spool is called sound, each kind of damage is told
 * with a line that names it, and whatever it finds, it changes nothing. */
#include "spool_check.h"

#include "bytes.h"
#include "log.h"
#include "spool.h"
#include "spool_kit.h"
#include "strbuf.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <nettle/sha2.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define KIB 1024u
#define MIB (1024u * KIB)

#define TOKEN "0123456789abcdef"

static char *dir;
static char *tmp; /* where the check may write */
static struct spool *spool;
static char errbuf[KIT_ERROR_SIZE];

/* What the check told. */
static struct strbuf damage;
static struct strbuf remarks;

/* Damage that tests make is told to the log as it should be: not on their output. */
static void swallow(void *cls, enum log_level level, const char *line, size_t len)
{
	(void)cls;
	(void)level;
	(void)line;
	(void)len;
}

static void set_up(void)
{
	log_set_sink(swallow, NULL);
	dir = tempdir_new();
	tmp = tempdir_new();
	cr_assert_eq(setenv("TMPDIR", tmp, 1), 0);
}

static void tear_down(void)
{
	spool = spool_close(spool);
	dir = tempdir_free(dir);
	tmp = tempdir_free(tmp);
	strbuf_done(&damage);
	strbuf_done(&remarks);
}

TestSuite(spool_check, .init = set_up, .fini = tear_down, .timeout = 20);

/* The spool under test */

#define REPORTS 8u
#define LARGE_ONE 5u

static size_t size_of(uint64_t i)
{
	return i == LARGE_ONE ? 2 * MIB : 3000 + 5000 * (size_t)i;
}

static void open_spool(void)
{
	struct spool_recovery recovery;

	cr_assert_eq(kit_open(dir, &spool, &recovery, errbuf), 0, "%s", errbuf);
}

static void close_spool(void)
{
	spool = spool_close(spool);
}

/* Eight reports: 0 was sent, 1 is dead, the others wait; 5 is large. */
static struct rxid rxids[REPORTS];

static void fill(void)
{
	struct report *reports[2];

	open_spool();
	for (uint64_t i = 0; i < REPORTS; i++)
		cr_assert_eq(kit_accept(spool, TOKEN, i, size_of(i), &rxids[i]), 0);
	cr_assert_eq(spool_claim(spool, 1, false, 2, reports), 2);
	cr_assert_eq(kit_settle(spool, reports[0]->seq, REPORT_SENT), 0);
	cr_assert_eq(kit_settle(spool, reports[1]->seq, REPORT_DEAD), 0);
	report_free(reports[0]);
	report_free(reports[1]);
	close_spool();
}

/* A column of a report by its number. */
static int64_t ask(const char *column, uint64_t number)
{
	char query[128];

	(void)snprintf(query, sizeof(query),
	    "SELECT %s FROM report WHERE received_at = %" PRId64, column,
	    kit_time_of(number));
	return kit_sql(dir, query);
}

static char *segment_path(uint64_t number)
{
	char name[64];

	(void)snprintf(name, sizeof(name), "segments/%08" PRId64, ask("segment", number));
	return tempdir_join(dir, name);
}

static char *large_path(uint64_t number)
{
	char name[64];

	(void)snprintf(
	    name, sizeof(name), "large/%016" PRIx64 ".rec", (uint64_t)ask("seq", number));
	return tempdir_join(dir, name);
}

/* Checking */

static void keep_line(void *cls, bool is_damage, const char *line)
{
	(void)cls;
	cr_expect_null(strchr(line, '\n'), "%s", line);
	strbuf_addf(is_damage ? &damage : &remarks, "%s\n", line);
}

static void list_state(struct strbuf *out, const char *path);

static void list_entry(struct strbuf *out, const char *path)
{
	struct stat st;
	CLEANUP(cleanup_free) uint8_t *content = NULL;
	uint8_t hash[SHA256_DIGEST_SIZE] = { 0 };
	size_t len = 0;

	cr_assert_eq(lstat(path, &st), 0);
	if (S_ISREG(st.st_mode)) {
		struct sha256_ctx ctx;

		content = bytes_read_file(path, &len);
		cr_assert_not_null(content);
		sha256_init(&ctx);
		sha256_update(&ctx, len, content);
		sha256_digest(&ctx, sizeof(hash), hash);
	}
	strbuf_addf(out, "%s inode %ju mode %o size %jd blocks %jd mtime %jd.%09ld ",
	    path, (uintmax_t)st.st_ino, (unsigned)st.st_mode, (intmax_t)st.st_size,
	    (intmax_t)st.st_blocks, (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	for (size_t i = 0; i < sizeof(hash); i++)
		strbuf_addf(out, "%02x", hash[i]);
	strbuf_add_str(out, "\n");
	if (S_ISDIR(st.st_mode))
		list_state(out, path);
}

static int skip_dots(const struct dirent *e)
{
	return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

/* All below a folder with its content and times. */
static void list_state(struct strbuf *out, const char *path)
{
	struct dirent **entries = NULL;
	int n = scandir(path, &entries, skip_dots, alphasort);

	for (int i = 0; i < n; i++) {
		CLEANUP(cleanup_free)
		char *below = tempdir_join(path, entries[i]->d_name);

		list_entry(out, below);
		free(entries[i]);
	}
	free(entries);
}

/* The check itself; it leaves spool and temporary folder as they were. */
static int check(void)
{
	struct strbuf before = STRBUF_INIT;
	struct strbuf after = STRBUF_INIT;
	CLEANUP(cleanup_free) char *left = NULL;
	int r;

	strbuf_reset(&damage);
	strbuf_reset(&remarks);
	list_entry(&before, dir);
	r = spool_check(dir, keep_line, NULL);
	list_entry(&after, dir);
	cr_expect_str_eq(
	    strbuf_str(&after), strbuf_str(&before), "the check changed something");
	left = tempdir_list(tmp);
	cr_expect_str_empty(left, "left behind: %s", left);
	strbuf_done(&before);
	strbuf_done(&after);
	return r;
}

static void expect_sound(void)
{
	int r = check();

	cr_expect_eq(r, 0, "%d: %s%s", r, strbuf_str(&damage), strbuf_str(&remarks));
	cr_expect_eq(damage.len, 0, "%s", strbuf_str(&damage));
}

/* The check finds damage and names it in a line. */
static void expect_damage(const char *what)
{
	int r = check();

	cr_expect_eq(r, 1, "%d: %s%s", r, strbuf_str(&damage), strbuf_str(&remarks));
	cr_expect_not_null(strstr(strbuf_str(&damage), what), "%s is not named: %s", what,
	    strbuf_str(&damage));
}

static unsigned count_damage(void)
{
	unsigned n = 0;

	for (const char *p = strbuf_str(&damage); (p = strchr(p, '\n')); p++)
		n++;
	return n;
}

/* One report is named, and no other. */
static void expect_damaged_report(uint64_t number)
{
	char id[RXID_TEXT_SIZE];

	rxid_format(&rxids[number], id);
	expect_damage(id);
	cr_expect_eq(count_damage(), 1, "%s", strbuf_str(&damage));
}

/* Sound ones */

Test(spool_check, a_sound_spool_is_called_sound)
{
	fill();
	expect_sound();
	cr_expect_not_null(
	    strstr(strbuf_str(&remarks), "8 reports, 7 with a sound payload"), "%s",
	    strbuf_str(&remarks));
	/* Checking has not made it unsound. */
	open_spool();
	close_spool();
	expect_sound();
}

Test(spool_check, a_spool_in_which_nothing_was_stored_is_sound)
{
	expect_sound();
	open_spool();
	close_spool();
	expect_sound();
}

/* It was seen to be damaged, and put aside: that is how it should be. */
Test(spool_check, a_dead_report_may_be_damaged)
{
	CLEANUP(cleanup_free) char *path = NULL;

	fill();
	path = segment_path(1);
	cr_assert(bytes_flip(path, (uint64_t)ask("offset + header_bytes", 1) + 10));
	expect_sound();
	cr_expect_not_null(strstr(strbuf_str(&remarks), "6 with a sound payload"), "%s",
	    strbuf_str(&remarks));
}

/* What was released is nobody's: it may be written over at any time. */
Test(spool_check, what_no_report_needs_may_hold_anything)
{
	CLEANUP(cleanup_free) char *path = NULL;

	fill();
	path = segment_path(0);
	cr_assert(bytes_flip(path, (uint64_t)ask("offset + header_bytes", 0) + 10));
	expect_sound();
}

/* Work until killed, in a process of its own. */
static void be_killed(void)
{
	pid_t child = fork();
	int status;

	cr_assert_geq(child, 0);
	if (child == 0) {
		struct spool_recovery recovery;
		struct report *r;

		if (kit_open(dir, &spool, &recovery, errbuf) < 0)
			_exit(1);
		for (uint64_t i = 0; i < 300; i++)
			if (kit_accept(spool, TOKEN, i, i == 7 ? 2 * MIB : 500, NULL) < 0)
				_exit(2);
		if (spool_claim(spool, 1, false, 1, &r) != 1)
			_exit(3);
		(void)kill(getpid(), SIGKILL);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(
	    WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "%x", (unsigned)status);
}

/* The rows are still in the log of the index, beside it: that must be read, and left. */
Test(spool_check, a_spool_left_by_a_kill_is_sound_and_stays_as_it_is)
{
	struct spool_recovery recovery;
	struct stat st;
	CLEANUP(cleanup_free) char *wal = tempdir_join(dir, "spool.db-wal");

	be_killed();
	cr_assert_eq(stat(wal, &st), 0);
	cr_assert_gt(st.st_size, 100000);
	expect_sound();
	cr_expect_not_null(
	    strstr(strbuf_str(&remarks), "300 reports, 300 with a sound payload"), "%s",
	    strbuf_str(&remarks));
	cr_assert_eq(kit_open(dir, &spool, &recovery, errbuf), 0, "%s", errbuf);
	cr_expect_eq(recovery.requeued, 1);
	cr_expect_not(recovery.rebuilt);
	close_spool();
	expect_sound();
}

/* Damaged payloads */

Test(spool_check, a_flipped_bit_of_a_body_is_found)
{
	CLEANUP(cleanup_free) char *path = NULL;

	fill();
	path = segment_path(3);
	cr_assert(
	    bytes_flip(path, (uint64_t)ask("offset + header_bytes + body_bytes - 1", 3)));
	expect_damaged_report(3);
}

Test(spool_check, a_flipped_bit_of_a_record_header_is_found)
{
	CLEANUP(cleanup_free) char *path = NULL;

	fill();
	path = segment_path(4);
	cr_assert(bytes_flip(path, (uint64_t)ask("offset", 4) + 20));
	expect_damaged_report(4);
}

Test(spool_check, a_flipped_bit_of_a_large_body_is_found)
{
	CLEANUP(cleanup_free) char *path = NULL;

	fill();
	path = large_path(LARGE_ONE);
	cr_assert(bytes_flip(path, MIB));
	expect_damaged_report(LARGE_ONE);
}

Test(spool_check, a_large_file_cut_short_is_found)
{
	CLEANUP(cleanup_free) char *path = NULL;

	fill();
	path = large_path(LARGE_ONE);
	cr_assert_eq(truncate(path, MIB), 0);
	expect_damaged_report(LARGE_ONE);
}

Test(spool_check, a_missing_large_file_is_found)
{
	CLEANUP(cleanup_free) char *path = NULL;

	fill();
	path = large_path(LARGE_ONE);
	cr_assert_eq(unlink(path), 0);
	expect_damaged_report(LARGE_ONE);
	cr_expect_not_null(
	    strstr(strbuf_str(&damage), "missing"), "%s", strbuf_str(&damage));
}

Test(spool_check, each_report_of_a_missing_segment_is_named)
{
	CLEANUP(cleanup_free) char *path = NULL;

	fill();
	path = segment_path(2);
	cr_assert_eq(unlink(path), 0);
	expect_damage("missing");
	cr_expect_eq(count_damage(), 5, "%s", strbuf_str(&damage));
	for (uint64_t i = 2; i < REPORTS; i++) {
		char id[RXID_TEXT_SIZE];

		rxid_format(&rxids[i], id);
		cr_expect_eq(strstr(strbuf_str(&damage), id) != NULL, i != LARGE_ONE,
		    "report %" PRIu64, i);
	}
}

Test(spool_check, a_record_of_another_report_is_no_substitute)
{
	fill();
	cr_assert(kit_sql_change(dir,
	    "UPDATE report SET (offset, header_bytes, body_bytes) ="
	    " (SELECT offset, header_bytes, body_bytes FROM report WHERE seq = 3)"
	    " WHERE seq = 4"));
	expect_damage("");
	cr_expect_gt(count_damage(), 0);
}

static void remove_folder(const char *name)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, name);
	CLEANUP(cleanup_free) char *moved = tempdir_join(tmp, name);

	cr_assert_eq(rename(path, moved), 0);
	(void)tempdir_free(TAKE_PTR(moved));
}

Test(spool_check, a_missing_folder_of_payloads_is_found)
{
	fill();
	remove_folder("segments");
	expect_damage("payload");
	remove_folder("large");
	expect_damage("payload");
}

/* Damaged index */

Test(spool_check, a_missing_index_is_found)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, "spool.db");

	fill();
	cr_assert_eq(unlink(path), 0);
	expect_damage(path);
	cr_expect_not_null(
	    strstr(strbuf_str(&damage), "missing"), "%s", strbuf_str(&damage));
}

Test(spool_check, an_index_of_garbage_is_found)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, "spool.db");
	uint8_t garbage[4096];

	fill();
	bytes_fill(garbage, sizeof(garbage), 99);
	cr_assert(bytes_overwrite(path, 0, garbage, sizeof(garbage)));
	expect_damage(path);
	cr_assert_eq(truncate(path, 0), 0);
	expect_damage(path);
}

Test(spool_check, a_damaged_page_of_the_index_is_found)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, "spool.db");
	uint8_t garbage[4096];
	int64_t page;

	fill();
	page = kit_sql(dir, "SELECT rootpage FROM sqlite_schema WHERE name = 'report'");
	cr_assert_gt(page, 1);
	bytes_fill(garbage, sizeof(garbage), 99);
	cr_assert(
	    bytes_overwrite(path, (uint64_t)(page - 1) * 4096, garbage, sizeof(garbage)));
	expect_damage(path);
}

Test(spool_check, an_index_cut_short_is_found)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, "spool.db");

	fill();
	cr_assert_eq(truncate(path, 2 * 4096), 0);
	expect_damage(path);
}

/* Sums that no longer say what the rows say, whichever way they were changed. */
Test(spool_check, altered_sums_are_found)
{
	static const char *const changes[] = {
		"UPDATE tally SET reports = reports + 1 WHERE state = 1",
		"UPDATE tally SET bytes = bytes - 1 WHERE state = 1",
		"REPLACE INTO tally VALUES (6, 4, 0)",
		"DELETE FROM tally WHERE state = 5",
		"UPDATE segment SET records = records - 1",
		"UPDATE segment SET bytes = bytes + 4096",
		"INSERT INTO segment VALUES (77, 3, 12288)",
		"DELETE FROM segment",
	};

	fill();
	for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
		cr_assert(kit_sql_change(dir,
		    "CREATE TABLE tally_kept AS SELECT * FROM tally;"
		    "CREATE TABLE segment_kept AS SELECT * FROM segment"));
		cr_assert(kit_sql_change(dir, changes[i]));
		cr_expect_eq(check(), 1, "not found: %s", changes[i]);
		cr_expect_not_null(strstr(strbuf_str(&damage), "sums"), "%s: %s",
		    changes[i], strbuf_str(&damage));
		cr_assert(kit_sql_change(dir,
		    "DELETE FROM tally; DELETE FROM segment;"
		    "INSERT INTO tally SELECT * FROM tally_kept;"
		    "INSERT INTO segment SELECT * FROM segment_kept;"
		    "DROP TABLE tally_kept; DROP TABLE segment_kept"));
	}
	expect_sound();
}

/* Rows that make no sense are damage, not a reason to break off. */
Test(spool_check, altered_rows_are_found)
{
	static const char *const changes[] = {
		"UPDATE report SET rxid = x'00' WHERE seq = 3",
		"UPDATE report SET segment = 4000 WHERE seq = 3",
		"UPDATE report SET segment = -1 WHERE seq = 3",
		"UPDATE report SET offset = offset + 4096 WHERE seq = 3",
		"UPDATE report SET offset = -4096 WHERE seq = 3",
		"UPDATE report SET offset = 9223372036854775807 WHERE seq = 3",
		"UPDATE report SET header_bytes = 0 WHERE seq = 3",
		"UPDATE report SET body_bytes = body_bytes + 1 WHERE seq = 3",
		"UPDATE report SET body_bytes = -1 WHERE seq = 3",
		"UPDATE report SET state = 99 WHERE seq = 3",
		"UPDATE report SET lane = 4711 WHERE seq = 3",
		"DELETE FROM lane",
		"DELETE FROM report WHERE seq = 3",
		"DROP TABLE tally",
	};
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, "spool.db");
	CLEANUP(cleanup_free) uint8_t *sound = NULL;
	size_t len = 0;

	fill();
	sound = bytes_read_file(path, &len);
	cr_assert_not_null(sound);
	for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
		int r;

		cr_assert(kit_sql_change(dir, changes[i]), "%s", changes[i]);
		r = check();
		cr_expect_eq(r, 1, "%s: %d", changes[i], r);
		cr_expect_gt(count_damage(), 0, "%s: nothing is told", changes[i]);
		cr_assert_eq(truncate(path, (off_t)len), 0);
		cr_assert(bytes_overwrite(path, 0, sound, len));
	}
	expect_sound();
}

/* What cannot be checked is not called sound, nor damaged */

Test(spool_check, a_spool_in_use_is_left_alone)
{
	int r;

	open_spool();
	strbuf_reset(&damage);
	strbuf_reset(&remarks);
	r = spool_check(dir, keep_line, NULL);
	cr_expect_eq(r, -EBUSY, "%d", r);
	cr_expect_eq(damage.len, 0, "%s", strbuf_str(&damage));
	cr_expect_not_null(strstr(strbuf_str(&remarks), dir), "%s", strbuf_str(&remarks));
	cr_expect_not_null(
	    strstr(strbuf_str(&remarks), "in use"), "%s", strbuf_str(&remarks));
	cr_expect_eq(kit_accept(spool, TOKEN, 1, 1000, NULL), 0, "its owner goes on");
}

/* And the other way round: no daemon begins to write while it is read. */
static int error_of_opening;

static void open_meanwhile(void *cls, bool is_damage, const char *line)
{
	struct spool *second = NULL;
	struct spool_recovery recovery;

	(void)cls;
	(void)is_damage;
	(void)line;
	error_of_opening = kit_open(dir, &second, &recovery, errbuf);
	spool_close(second);
}

Test(spool_check, no_daemon_starts_while_a_spool_is_checked)
{
	fill();
	cr_expect_eq(spool_check(dir, open_meanwhile, NULL), 0);
	cr_expect_eq(error_of_opening, -EBUSY);
	open_spool();
}

Test(spool_check, a_folder_that_is_not_there_is_named)
{
	CLEANUP(cleanup_free) char *absent = tempdir_join(dir, "absent");

	cr_expect_eq(spool_check(absent, keep_line, NULL), -ENOENT);
	cr_expect_not_null(
	    strstr(strbuf_str(&remarks), absent), "%s", strbuf_str(&remarks));
	cr_expect_eq(damage.len, 0);
	cr_expect_eq(access(absent, F_OK), -1);
}

Test(spool_check, an_index_of_a_newer_version_is_not_judged)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, "spool.db");

	fill();
	cr_assert(kit_sql_change(dir, "PRAGMA user_version = 10000"));
	cr_expect_eq(check(), -EPROTONOSUPPORT);
	cr_expect_eq(damage.len, 0, "%s", strbuf_str(&damage));
	cr_expect_not_null(
	    strstr(strbuf_str(&remarks), "newer"), "%s", strbuf_str(&remarks));
	cr_expect_not_null(
	    strstr(strbuf_str(&remarks), path), "%s", strbuf_str(&remarks));
}

Test(spool_check, without_a_place_for_the_copy_nothing_is_called_sound)
{
	CLEANUP(cleanup_free) char *absent = tempdir_join(dir, "absent");
	int r;

	fill();
	cr_assert_eq(setenv("TMPDIR", absent, 1), 0);
	r = check();
	cr_expect_lt(r, 0, "%d", r);
	cr_expect_not_null(
	    strstr(strbuf_str(&remarks), absent), "%s", strbuf_str(&remarks));
}
