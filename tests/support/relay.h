/* SPDX-License-Identifier: MIT */
/* The daemon under test: the real binary ($RELAY_DAEMON) with a folder, a configuration
 * and a spool of its own, on ports from the kernel. Its stderr is kept whole, across
 * restarts, in memory and in the file "log" of its folder.
 *
 * Whatever goes wrong fails the running test with the end of the log. So all but the
 * functions marked "any thread" are for the test's own thread; the daemon moreover dies
 * with the thread that started it. No wait is longer than 20 s. */
#ifndef TESTS_RELAY_H
#define TESTS_RELAY_H

#include "dump_builder.h"
#include "rawhttp.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What submissions of these tests carry, unless a test says otherwise. The token must
 * never be seen whole in a log: that is checked whenever the daemon ends. */
#define RELAY_TOKEN "5a3ec7d0b1f2e4968877665544332211ffeeddccbbaa99001122334455667788"
#define RELAY_TARGET "/demo/" RELAY_TOKEN "/minidump"
#define RELAY_RXID_SIZE 37

struct relay;

/* Configuration lines, each text with its newlines; NULL = the default. All strings are
 * borrowed until the relay is freed or configured anew. */
struct relay_options {
	const char *upstream;           /* URL; NULL = buffer-only */
	const char *upstream_lines;     /* more for [upstream]; none */
	const char *listen_lines;       /* [listen]; "http = 127.0.0.1:0" */
	const char *forward_lines;      /* [forward]; retries within 20 to 200 ms */
	const char *daemon_lines;       /* [daemon]; "stop_timeout = 5s" */
	const char *sections;           /* whole sections; none */
	const char *crashpoint;         /* "NAME[:N]" of crashpoint.h; none */
	const char *const *arguments;   /* more flags, ended by NULL */
	const char *const *environment; /* more "NAME=value", ended by NULL */
};

/* Make folder and configuration; nothing runs yet. options may be NULL. The caller ends
 * it with relay_free(). */
struct relay *relay_new(const struct relay_options *options);

/* Stop the daemon if it runs, and remove its folder. If it does not end with status 0, or
 * its log holds what relay_wait_exit() looks for, the log is printed and the process of
 * the test ends, which fails the test program: for use in a teardown, where an assertion
 * would not. Takes NULL, returns NULL. */
struct relay *relay_free(struct relay *r);

/* Write the configuration anew, for the next start or reload. */
void relay_configure(struct relay *r, const struct relay_options *options);

/* Start the daemon and wait until it says that it is ready. */
void relay_start(struct relay *r);

/* Start it without waiting; relay_wait_exit() or relay_wait_ready() follows. */
void relay_launch(struct relay *r);
void relay_wait_ready(struct relay *r);

/* Send a signal. */
void relay_signal(struct relay *r, int sig);

/* Wait for the daemon's end. Returns its exit status, or minus the signal that ended it.
 */
int relay_wait_exit(struct relay *r);

/* SIGTERM and the wait; SIGKILL and the wait. */
int relay_stop(struct relay *r);
void relay_kill(struct relay *r);

/* Folder of this relay, and the spool in it. */
const char *relay_folder(const struct relay *r);
const char *relay_spool(const struct relay *r);

/* The port on 127.0.0.1, as the last start logged it; that of another address as logged
 * ("[::1]"). Any thread. */
uint16_t relay_port(const struct relay *r);
uint16_t relay_port_of(struct relay *r, const char *address);

/* How much was logged so far: a mark for the functions below. */
size_t relay_log_mark(struct relay *r);

/* Wait until the log since mark holds the text. */
void relay_expect_log(struct relay *r, size_t mark, const char *text);

/* How many lines since mark hold the text. */
unsigned relay_log_count(struct relay *r, size_t mark, const char *text);

/* A figure of /proc/PID/status in KiB: "VmHWM", "VmRSS". */
long relay_memory_kib(struct relay *r, const char *name);

/* Open a connection to relay_port(). */
struct rawhttp *relay_connect(struct relay *r);

/* Posting */

struct relay_post {
	const char *target;       /* NULL = RELAY_TARGET */
	const char *content_type; /* NULL = application/octet-stream */
	const char *headers;      /* more header lines, each with CRLF; may be NULL */
	const void *body;
	size_t len;
};

/* Send one post on a connection and read its answer; open one just for that. 0, or what
 * rawhttp says. A server that answered before it read all is no error. Any thread. */
int relay_post_on(
    struct rawhttp *c, const struct relay_post *post, struct rawhttp_response *ret);
int relay_post(
    struct relay *r, const struct relay_post *post, struct rawhttp_response *ret);

/* The _rxid of an accepting answer: status 200 and the id in its exact shape. Returns
 * false if it is none. Any thread. */
bool relay_parse_rxid(const struct rawhttp_response *response, char ret[RELAY_RXID_SIZE]);

/* Post the dump as a raw body. Returns the status of the answer, or what rawhttp says.
 * Any thread. */
int relay_try_submit(struct relay *r, const struct dump_spec *spec);

/* The same; it must be accepted. */
void relay_submit(struct relay *r, const struct dump_spec *spec);

/* One short run of the program */

struct relay_run {
	int status; /* as relay_wait_exit() */
	char *out;  /* stdout */
	char *err;  /* stderr */
};

/* Run the daemon's program with these arguments until it ends. The caller ends *ret with
 * relay_run_done(). */
void relay_run(const char *const *arguments, struct relay_run *ret);
void relay_run_done(struct relay_run *run);

#endif
