/* SPDX-License-Identifier: MIT */
/* The torture tool: one program, since what drives a spool and what judges it must have
 * the same sizes built in.
 *
 * usage: torture drive SPOOL POSTED [--NAME VALUE...]
 *        torture harm SPOOL lose-index|garble-index
 *        torture replay RECORDING [--NAME VALUE...]
 *        torture ends RECORDING
 *        torture faults RECORDER [--NAME VALUE...]
 *        torture damage RECORDING [--NAME VALUE...]
 * Exit status: 0 well, 1 a promise was broken, 2 usage or no way to tell; drive also
 * DRIVE_REFUSED. */
#include "damage.h"
#include "drive.h"
#include "faults.h"
#include "files.h"
#include "pool.h"
#include "replay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct flag {
	const char *name;
	uint64_t *number; /* one of these */
	unsigned *count;
	bool *on; /* takes no value */
	const char **text;
};

static bool parse_flag(const struct flag *f, const char *value)
{
	char *end;
	uint64_t n;

	if (f->on) {
		*f->on = true;
		return true;
	}
	if (f->text) {
		*f->text = value;
		return true;
	}
	errno = 0;
	n = strtoull(value, &end, 10);
	if (errno != 0 || end == value || *end)
		return false;
	if (f->number)
		*f->number = n;
	else
		*f->count = (unsigned)n;
	return true;
}

/* Flags end with one without a name. */
static bool parse_flags(char **argv, const struct flag *flags)
{
	for (; *argv; argv++) {
		const struct flag *f = flags;

		while (f->name && strcmp(f->name, *argv) != 0)
			f++;
		if (!f->name || (!f->on && !argv[1]) || !parse_flag(f, argv[1])) {
			(void)fprintf(stderr, "torture: what is %s?\n", *argv);
			return false;
		}
		if (!f->on)
			argv++;
	}
	return true;
}

static int drive(char **argv)
{
	struct drive_options o = { .posts = 200,
		.first_id = 1,
		.threads = 3,
		.medium_percent = 15,
		.large_percent = 5,
		.drain_percent = 70,
		.max_bytes = UINT64_C(10) << 30 };
	const struct flag flags[] = { { "--seed", .number = &o.seed },
		{ "--first-id", .number = &o.first_id }, { "--posts", .count = &o.posts },
		{ "--threads", .count = &o.threads },
		{ "--medium", .count = &o.medium_percent },
		{ "--large", .count = &o.large_percent },
		{ "--drain", .count = &o.drain_percent },
		{ "--max-bytes", .number = &o.max_bytes },
		{ "--reserve", .number = &o.reserve_bytes },
		{ "--evict", .on = &o.evict }, { "--abandon", .on = &o.abandon },
		{ "--insist", .on = &o.insist }, { .name = NULL } };

	if (!argv[0] || !argv[1] || !parse_flags(argv + 2, flags))
		return 2;
	o.spool = argv[0];
	o.posted = argv[1];
	return drive_run(&o);
}

/* What can happen to an index between two runs, so that the harm can be recorded too. */
static int harm(char **argv)
{
	static const char garbage[64] = "this is no index any more";
	int folder = argv[0] ? open(argv[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int fd;
	int r = -1;

	if (folder < 0 || !argv[1])
		return 2;
	if (strcmp(argv[1], "lose-index") == 0) {
		r = unlinkat(folder, "spool.db", 0);
	} else if (strcmp(argv[1], "garble-index") == 0) {
		fd = openat(folder, "spool.db", O_WRONLY | O_CLOEXEC);
		r = fd < 0 || pwrite(fd, garbage, sizeof(garbage), 0) < 0 ? -1
									  : fsync(fd);
	}
	if (r == 0)
		r = fsync(folder);
	if (r < 0)
		perror("torture harm");
	return r < 0 ? 2 : 0;
}

static int replay(char **argv)
{
	struct replay_options o = { .states = 1000, .only = REPLAY_ALL, .workers = 2 };
	const struct flag flags[] = { { "--states", .number = &o.states },
		{ "--seed", .number = &o.seed }, { "--only", .number = &o.only },
		{ "--workers", .count = &o.workers },
		{ "--from-log", .count = &o.from_log },
		{ "--may-evict", .on = &o.may_evict }, { "--keep", .text = &o.keep },
		{ .name = NULL } };

	if (!argv[0] || !parse_flags(argv + 1, flags))
		return 2;
	o.recording = argv[0];
	return replay_run(&o);
}

/* Every fate, once, at the end. */
static int ends(char **argv)
{
	static char error[POOL_ERROR_BYTES];
	char scratch[FILES_PATH_SIZE];
	char states[FILES_PATH_SIZE];
	int lock = -1;
	int r;

	if (!argv[0] || files_make_scratch(scratch, &lock) < 0)
		return 2;
	files_path(states, "%s/states", scratch);
	r = replay_ends(argv[0], states, error, sizeof(error));
	if (r < 0)
		(void)printf("%s\n", error);
	files_remove(scratch);
	(void)close(lock);
	return r < 0 ? 1 : 0;
}

static int damage(char **argv)
{
	struct damage_options o = { .count = 1000, .only = DAMAGE_ALL, .workers = 2 };
	const struct flag flags[] = { { "--count", .number = &o.count },
		{ "--seed", .number = &o.seed }, { "--only", .number = &o.only },
		{ "--workers", .count = &o.workers }, { "--keep", .text = &o.keep },
		{ .name = NULL } };

	if (!argv[0] || !parse_flags(argv + 1, flags))
		return 2;
	o.recording = argv[0];
	return damage_run(&o);
}

static int faults(char **argv)
{
	struct faults_options o = {
		.max = UINT64_MAX, .only = FAULTS_ALL, .posts = 20, .workers = 2
	};
	const struct flag flags[] = { { "--max", .number = &o.max },
		{ "--seed", .number = &o.seed }, { "--only", .number = &o.only },
		{ "--posts", .count = &o.posts }, { "--workers", .count = &o.workers },
		{ "--keep", .text = &o.keep }, { .name = NULL } };

	if (!argv[0] || !parse_flags(argv + 1, flags))
		return 2;
	o.recorder = argv[0];
	return faults_run(&o);
}

/* The recorder is preloaded in front of a sanitizer's library; it needs none of it. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "verify_asan_link_order=0";
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(char **argv);
	} commands[] = { { "drive", drive }, { "harm", harm }, { "replay", replay },
		{ "ends", ends }, { "faults", faults }, { "damage", damage } };

	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argv + 2);
	(void)fprintf(stderr, "usage: torture drive|harm|replay|ends|faults|damage "
			      "FOLDER... [--NAME VALUE...]\n");
	return 2;
}
