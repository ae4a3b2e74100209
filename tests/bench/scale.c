/* SPDX-License-Identifier: MIT */
/* What a long queue costs: fills a spool through spool.h to one length after the other and
 * measures at each what it takes to accept a report, and to claim and settle one; at the
 * last, how long opening takes after a close in order and after kill -9, and the memory.
 *
 * Each step is a process of its own, forked before any thread is started: so memory is
 * that of the step, and the killed one is really killed. The bodies are small; what is
 * measured is the index and the records.
 */
#include "cleanup.h"
#include "clock.h"
#include "spool.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#define BODY_BYTES 1024
#define LANES 4

/* At once: while filling, and while measuring. */
#define FILL_WINDOW 4096
#define WINDOW 16

#define ROUNDS 3
#define CLAIM_MAX 64

struct driver {
	struct spool *spool;
	uint64_t stamp; /* of the last body */

	pthread_mutex_t lock;
	/* Under lock: */
	struct flight *landed;
	bool waiting;
	pthread_cond_t landing;
};

/* One report on its way into the spool. */
struct flight {
	struct flight *next;
	struct driver *driver;
	int64_t began_ns;
	int64_t ended_ns;
	int error;
};

static void die(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)fputs("scale: ", stderr);
	(void)vfprintf(stderr, fmt, ap);
	(void)fputc('\n', stderr);
	va_end(ap);
	_exit(1);
}

static void need(int r, const char *what)
{
	if (r < 0)
		die("%s: %s", what, strerror(-r));
}

static void *take_memory(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p)
		die("out of memory");
	return p;
}

static int64_t now_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail */
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static struct spool *open_spool(const char *directory)
{
	struct spool_options options = { .directory = directory,
		.limits = { .max_bytes = UINT64_C(1) << 40,
		    .max_reports = UINT64_C(1) << 40,
		    .when_full = SPOOL_REJECT } };
	struct spool_recovery recovery;
	struct spool *s;
	char errbuf[512];

	if (spool_open(&options, &s, &recovery, errbuf, sizeof(errbuf)) < 0)
		die("%s", errbuf);
	return s;
}

static uint64_t queued(struct spool *s)
{
	struct spool_stats stats;

	spool_get_stats(s, &stats);
	return stats.reports[REPORT_QUEUED];
}

/* Accepting */

/* From the committer's thread. */
static void land(void *cls, const struct spool_verdict *verdict)
{
	struct flight *f = cls;
	struct driver *d = f->driver;

	f->ended_ns = now_ns();
	f->error = verdict->error;
	(void)pthread_mutex_lock(&d->lock);
	f->next = d->landed;
	d->landed = f;
	if (d->waiting)
		(void)pthread_cond_signal(&d->landing);
	(void)pthread_mutex_unlock(&d->lock);
}

static void launch(struct driver *d, struct flight *f)
{
	static const char *const tokens[LANES] = { "0123456789abcdef0123456789abcdef",
		"1123456789abcdef0123456789abcdef", "2123456789abcdef0123456789abcdef",
		"3123456789abcdef0123456789abcdef" };
	uint8_t body[BODY_BYTES] = { 'M', 'D', 'M', 'P' };
	struct spool_draft draft = { .received_at_ms = clock_wall_ms(),
		.universe = "bench",
		.format = "minidump",
		.target = "/bench/0123456789abcdef0123456789abcdef/minidump",
		.content_type = "application/octet-stream",
		.client = "127.0.0.1" };
	struct spool_payload *p;

	d->stamp++;
	memcpy(body + 8, &d->stamp, sizeof(d->stamp));
	draft.token = tokens[d->stamp % LANES];
	f->driver = d;
	f->began_ns = now_ns();
	need(spool_payload_begin(d->spool, &p), "cannot begin");
	need(spool_payload_write(p, body, sizeof(body)), "cannot write");
	spool_commit(d->spool, p, &draft, land, f);
}

static struct flight *wait_for_landed(struct driver *d)
{
	struct flight *list;

	(void)pthread_mutex_lock(&d->lock);
	d->waiting = true;
	while (!d->landed)
		(void)pthread_cond_wait(&d->landing, &d->lock);
	d->waiting = false;
	list = TAKE_PTR(d->landed);
	(void)pthread_mutex_unlock(&d->lock);
	return list;
}

/* Accept n reports, window of them at once. latency_us has room for n, or is NULL. */
static double accept_reports(
    struct driver *d, uint64_t n, unsigned window, uint32_t *latency_us)
{
	struct flight *flights = take_memory(window, sizeof(*flights));
	int64_t began_ns = now_ns();
	uint64_t begun = 0;
	uint64_t done = 0;

	while (begun < n && begun < window)
		launch(d, &flights[begun++]);
	while (done < n) {
		struct flight *f = wait_for_landed(d);

		while (f) {
			struct flight *next = f->next;

			need(f->error, "not accepted");
			if (latency_us)
				latency_us[done] =
				    (uint32_t)((f->ended_ns - f->began_ns) / 1000);
			done++;
			if (begun < n) {
				begun++;
				launch(d, f);
			}
			f = next;
		}
	}
	free(flights);
	return (double)(now_ns() - began_ns) / 1e9;
}

/* Draining */

/* Claim and settle up to n reports, lane after lane; returns how many. */
static uint64_t drain_reports(struct spool *s, uint64_t n)
{
	struct report *reports[CLAIM_MAX];
	struct spool_settlement settled[CLAIM_MAX];
	struct spool_lane lane;
	int64_t last = 0;
	uint64_t done = 0;

	while (done < n) {
		uint64_t left = n - done;
		int count;

		if (spool_list_lanes(s, last, &lane, 1) == 0 &&
		    spool_list_lanes(s, 0, &lane, 1) == 0)
			break;
		last = lane.id;
		count = spool_claim(s, lane.id, false,
		    left < CLAIM_MAX ? (size_t)left : CLAIM_MAX, reports);
		need(count, "cannot claim");
		for (int i = 0; i < count; i++) {
			settled[i] = (struct spool_settlement){ .seq = reports[i]->seq,
				.to = REPORT_SENT,
				.count_attempt = true,
				.http_status = 200,
				.upstream_rxid = "0193a4b2-0000-7000-8000-000000000000" };
			report_free(reports[i]);
		}
		need(spool_settle(s, settled, (size_t)count), "cannot settle");
		done += (uint64_t)count;
	}
	/* Settlements are applied before a claim made later: of nothing, to wait. */
	need(spool_claim(s, INT64_MAX, false, 1, reports), "cannot claim");
	return done;
}

/* Steps */

static int compare_times(const void *a, const void *b)
{
	const uint32_t *x = a;
	const uint32_t *y = b;

	return (*x > *y) - (*x < *y);
}

static unsigned long resident_kb(void)
{
	CLEANUP(cleanup_fclose) FILE *f = fopen("/proc/self/status", "re");
	unsigned long kb = 0;
	char line[128];

	while (f && kb == 0 && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmRSS: %lu", &kb) != 1)
			kb = 0;
	return kb;
}

/* Of all threads, in microseconds: unlike the time that passes it does not depend on how
 * busy the disk is with other things. */
static double cpu_us(void)
{
	struct rusage u = { 0 };

	(void)getrusage(RUSAGE_SELF, &u); /* cannot fail */
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* One round at the present length of the queue, which is the same again afterwards. */
static void measure_round(struct driver *d, uint64_t length, uint64_t operations)
{
	uint32_t *latency_us = take_memory(operations, sizeof(*latency_us));
	double n = (double)operations;
	double cpu[3] = { cpu_us() };
	double took = accept_reports(d, operations, WINDOW, latency_us);
	int64_t began_ns;

	cpu[1] = cpu_us();
	qsort(latency_us, operations, sizeof(*latency_us), compare_times);
	began_ns = now_ns();
	if (drain_reports(d->spool, operations) != operations)
		die("the queue ended");
	cpu[2] = cpu_us();
	(void)printf("level=%" PRIu64 " accept_us=%.2f accept_cpu_us=%.2f"
		     " accept_p50_ms=%.3f accept_p99_ms=%.3f drain_us=%.2f"
		     " drain_cpu_us=%.2f\n",
	    length, took * 1e6 / n, (cpu[1] - cpu[0]) / n,
	    latency_us[operations / 2] / 1000.0,
	    latency_us[operations * 99 / 100] / 1000.0,
	    (double)(now_ns() - began_ns) / 1000 / n, (cpu[2] - cpu[1]) / n);
	(void)fflush(stdout);
	free(latency_us);
}

static void driver_init(struct driver *d, const char *directory)
{
	*d = (struct driver){ .spool = open_spool(directory),
		.stamp = (uint64_t)now_ns(),
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.landing = PTHREAD_COND_INITIALIZER };
}

static void measure_level(const char *directory, uint64_t length, uint64_t operations)
{
	struct driver d;
	uint64_t have;

	driver_init(&d, directory);
	have = queued(d.spool);
	if (have < length) {
		uint64_t n = length - have;
		double took = accept_reports(&d, n, FILL_WINDOW, NULL);

		(void)printf("filled=%" PRIu64 " seconds=%.1f\n", n, took);
	}
	for (int i = 0; i < ROUNDS; i++)
		measure_round(&d, length, operations);
	spool_close(d.spool);
}

static void measure_opening(const char *directory, const char *after)
{
	int64_t began_ns = now_ns();
	struct spool *s = open_spool(directory);
	int64_t took_ns = now_ns() - began_ns;

	(void)printf("opened=%s queued=%" PRIu64 " open_ms=%.1f rss_kb=%lu\n", after,
	    queued(s), (double)took_ns / 1e6, resident_kb());
	(void)fflush(stdout);
	spool_close(s);
}

/* Accept without end, and say when it has got going. */
static void accept_until_killed(const char *directory, int ready_fd)
{
	struct driver d;

	driver_init(&d, directory);
	(void)accept_reports(&d, 10000, WINDOW, NULL);
	if (write(ready_fd, "", 1) != 1)
		die("nobody waits");
	for (;;)
		(void)accept_reports(&d, 10000, WINDOW, NULL);
}

static void wait_for(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) < 0)
		die("waitpid: %s", strerror(errno));
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		_exit(1); /* it has said why */
}

/* In the child 0, in the parent its pid. */
static pid_t fork_step(void)
{
	pid_t pid;

	(void)fflush(stdout); /* or both would write it */
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	return pid;
}

static void run_killed(const char *directory)
{
	int fds[2];
	pid_t pid;
	char c;

	if (pipe(fds) < 0)
		die("pipe: %s", strerror(errno));
	pid = fork_step();
	if (pid == 0) {
		(void)close(fds[0]);
		accept_until_killed(directory, fds[1]);
	}
	(void)close(fds[1]);
	if (read(fds[0], &c, 1) != 1)
		die("the process to be killed ended by itself");
	(void)close(fds[0]);
	(void)kill(pid, SIGKILL); /* its own child, which was not waited for */
	(void)waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
	const char *directory;
	uint64_t operations;
	pid_t pid;

	if (argc < 4)
		die("usage: scale SPOOL OPERATIONS LENGTH...");
	directory = argv[1];
	operations = strtoull(argv[2], NULL, 10);
	if (operations == 0)
		die("no operations");
	for (int i = 3; i < argc; i++) {
		pid = fork_step();
		if (pid == 0) {
			measure_level(directory, strtoull(argv[i], NULL, 10), operations);
			return fflush(stdout) != 0;
		}
		wait_for(pid);
	}
	for (int killed = 0; killed <= 1; killed++) {
		if (killed)
			run_killed(directory);
		pid = fork_step();
		if (pid == 0) {
			measure_opening(directory, killed ? "killed" : "clean");
			return fflush(stdout) != 0;
		}
		wait_for(pid);
	}
	return 0;
}
