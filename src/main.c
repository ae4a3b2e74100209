/* SPDX-License-Identifier: MIT */
/* minidump-relayd: the command line and the exit status (interface.md, section 1). */
#include "build_config.h"
#include "config.h"
#include "daemon.h"
#include "spool_check.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* sysexits.h */
#define EXIT_BAD_CONFIG 78
#define EXIT_BAD_USAGE 2

static const char usage[] =
    "usage: minidump-relayd [-c FILE] [--upstream URL] [--listen ADDR:PORT]\n"
    "                       [--spool DIR] [--control PATH]\n"
    "                       [--check-config] [--check-spool] [--version] [--help]\n";

static const char help[] =
    "\n"
    "Takes crash reports from clients at once, keeps them safe and forwards them to a\n"
    "Backtrace instance when it can. Runs in the foreground.\n"
    "\n"
    "  -c, --config FILE    settings, in place of " CONFIG_DEFAULT_PATH "\n"
    "  --upstream URL       where reports go; without one they are kept only\n"
    "  --listen ADDR:PORT   take posts here (repeatable)\n"
    "  --spool DIR          keep reports here\n"
    "  --control PATH       socket for control and metrics\n"
    "  --check-config       name every error in the settings, and exit\n"
    "  --check-spool        say what is damaged in the spool, change nothing, and exit:\n"
    "                       0 sound, 1 damaged; the daemon must not run\n"
    "  --version, --help\n"
    "\n"
    "Exit status: 0 stopped in order, 2 usage, 78 bad settings, 1 anything else.\n";

enum {
	OPT_UPSTREAM = 256,
	OPT_LISTEN,
	OPT_SPOOL,
	OPT_CONTROL,
	OPT_CHECK_CONFIG,
	OPT_CHECK_SPOOL,
	OPT_VERSION,
	OPT_HELP,
};

static const struct option options[] = {
	{ "config", required_argument, NULL, 'c' },
	{ "upstream", required_argument, NULL, OPT_UPSTREAM },
	{ "listen", required_argument, NULL, OPT_LISTEN },
	{ "spool", required_argument, NULL, OPT_SPOOL },
	{ "control", required_argument, NULL, OPT_CONTROL },
	{ "check-config", no_argument, NULL, OPT_CHECK_CONFIG },
	{ "check-spool", no_argument, NULL, OPT_CHECK_SPOOL },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

struct command_line {
	struct config_sources sources;
	const char **listen; /* owned; the strings are argv's */
	bool check_config;
	bool check_spool;
};

/* Returns -1 to go on, else the exit status. */
static int parse_command_line(int argc, char **argv, struct command_line *c)
{
	int opt;

	c->sources.path = CONFIG_DEFAULT_PATH;
	while ((opt = getopt_long(argc, argv, "c:", options, NULL)) != -1) {
		switch (opt) {
		case 'c':
			c->sources.path = optarg;
			c->sources.path_required = true;
			break;
		case OPT_UPSTREAM:
			c->sources.upstream_url = optarg;
			break;
		case OPT_LISTEN:
			c->listen[c->sources.listen_count++] = optarg;
			break;
		case OPT_SPOOL:
			c->sources.spool_directory = optarg;
			break;
		case OPT_CONTROL:
			c->sources.control_socket = optarg;
			break;
		case OPT_CHECK_CONFIG:
			c->check_config = true;
			break;
		case OPT_CHECK_SPOOL:
			c->check_spool = true;
			break;
		case OPT_VERSION:
			(void)puts("minidump-relayd " PACKAGE_VERSION);
			return 0;
		case OPT_HELP:
			(void)fputs(usage, stdout);
			(void)fputs(help, stdout);
			return 0;
		default: /* getopt has said what is wrong */
			(void)fputs(usage, stderr);
			return EXIT_BAD_USAGE;
		}
	}
	c->sources.listen = c->listen;
	if (optind == argc)
		return -1;
	(void)fprintf(
	    stderr, "minidump-relayd: unexpected argument '%s'\n%s", argv[optind], usage);
	return EXIT_BAD_USAGE;
}

static void print_errors(const struct config_errors *errors)
{
	for (size_t i = 0; i < errors->count; i++)
		(void)fprintf(stderr, "%s\n", errors->lines[i]);
	if (errors->not_kept > 0)
		(void)fprintf(stderr, "and %zu more errors\n", errors->not_kept);
	if (errors->out_of_memory)
		(void)fprintf(stderr, "out of memory\n");
}

static void print_finding(void *cls, bool damage, const char *text)
{
	(void)cls;
	(void)printf("%s%s\n", damage ? "DAMAGED: " : "", text);
}

/* The exit status: 0 sound, 1 damaged or not to be checked. */
static int check_spool(const struct config *config)
{
	int r = spool_check(config->spool.directory, print_finding, NULL);

	if (r == 0)
		(void)puts("the spool is sound");
	return r == 0 ? 0 : 1;
}

static int run(const struct command_line *line)
{
	CLEANUP(config_errors_done) struct config_errors errors = CONFIG_ERRORS_INIT;
	CLEANUP(config_done) struct config config = { 0 };
	struct config_environment env = config_process_environment();
	int r = config_load(&line->sources, &config, &errors);

	if (r == 0)
		r = config_resolve_paths(&config, &env, &errors);
	if (r < 0) {
		print_errors(&errors);
		return r == -ENOMEM ? 1 : EXIT_BAD_CONFIG;
	}
	if (line->check_config)
		return puts("configuration OK") < 0;
	if (line->check_spool)
		return check_spool(&config);
	(void)log_init(config.log.level, config.log.format); /* the values were checked */
	return daemon_run(&line->sources, &config);
}

int main(int argc, char **argv)
{
	/* No more --listen than arguments. */
	CLEANUP(cleanup_free) const char **listen = calloc((size_t)argc, sizeof(char *));
	struct command_line line = { .listen = listen };
	int status;

	if (!listen) {
		(void)fputs("minidump-relayd: out of memory\n", stderr);
		return 1;
	}
	/* Reports hold memory of other people's programs: nothing we make is for others. */
	(void)umask(077);
	status = parse_command_line(argc, argv, &line);
	return status >= 0 ? status : run(&line);
}
