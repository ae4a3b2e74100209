/* SPDX-License-Identifier: MIT */
/* Owns the life of the process: which part is started when, what a signal does, and the
 * translation of settings into each part's options. The only file that knows all parts.
 *
 * Start: sockets (so that a taken port is told at once), spool, forwarder, control,
 * listener. Stop in reverse. Main thread: signals, reload, quiet times.
 *
 * Lock order: there is none to keep; no function of any part holds two locks.
 */
#include "daemon.h"
#include "build_config.h"

#include "clock.h"
#include "control.h"
#include "crashpoint.h"
#include "forwarder.h"
#include "http.h"
#include "intake.h"
#include "janitor.h"
#include "listener.h"
#include "metrics.h"
#include "spool.h"
#include "status.h"
#include "trim.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/statvfs.h>

/* After so long without a report coming in or going out, memory is given back. */
#define QUIET_MS 5000

struct daemon {
	const struct config_sources *sources;
	const struct config *config; /* in force: main's, or reloaded below */
	struct config reloaded;

	int signal_fd;
	int busy_fd;      /* something happened after a quiet time */
	atomic_bool busy; /* since the last quiet time */

	int *sockets; /* until the listener takes them */
	size_t socket_count;
	struct metrics *metrics;
	struct spool *spool;
	struct janitor janitor;
	struct intake *intake;
	pthread_mutex_t forwarder_lock; /* so that on_due() never meets one being freed */
	struct forwarder *forwarder;    /* under it; NULL = buffer-only */
	struct status *status;
	struct control *control;
	struct listener *listener;
};

/* Settings → options */

/* The file system on which the spool is, or will be once its folder is made. */
static int look_at_disk(const char *directory, struct statvfs *ret)
{
	CLEANUP(cleanup_free) char *path = strdup(directory);

	if (!path)
		return -ENOMEM;
	while (statvfs(path, ret) < 0) {
		char *slash = strrchr(path, '/');

		if (errno != ENOENT || !slash)
			return -errno;
		/* "/a" is in "/". */
		slash[slash == path && slash[1] != '\0' ? 1 : 0] = '\0';
	}
	return 0;
}

/* 1 GiB or 5 % of the disk, the smaller, where the setting says auto. */
static uint64_t min_free_bytes(const struct config *c)
{
	struct statvfs v;
	uint64_t share;

	if (c->spool.min_free_bytes != CONFIG_AUTO)
		return (uint64_t)c->spool.min_free_bytes;
	if (look_at_disk(c->spool.directory, &v) < 0)
		return UINT64_C(1) << 30;
	share = (uint64_t)v.f_blocks * v.f_frsize / 20;
	return share < UINT64_C(1) << 30 ? share : UINT64_C(1) << 30;
}

static struct spool_limits spool_limits(const struct config *c)
{
	return (struct spool_limits){ .max_bytes = (uint64_t)c->spool.max_bytes,
		.max_reports = (uint64_t)c->spool.max_reports,
		.min_free_bytes = min_free_bytes(c),
		.reserve_bytes = (uint64_t)c->spool.reserve_bytes,
		.when_full = c->spool.when_full == CONFIG_WHEN_FULL_REJECT
				 ? SPOOL_REJECT
				 : SPOOL_EVICT };
}

static struct spool_ages spool_ages(const struct config *c)
{
	return (struct spool_ages){ .max_age_ms = c->spool.max_age_ms,
		.keep_sent_ms = c->spool.keep_sent_ms,
		.keep_dead_ms = c->spool.keep_dead_ms };
}

static struct intake_limits intake_limits(const struct config *c)
{
	return (
	    struct intake_limits){ .max_body_bytes = (uint64_t)c->intake.max_body_bytes,
		.max_decoded_bytes = (uint64_t)c->intake.max_decoded_bytes,
		.max_ratio = (uint64_t)c->intake.max_ratio,
		.max_parts = (unsigned)c->intake.max_parts,
		.max_attributes_bytes = (uint64_t)c->intake.max_attributes_bytes,
		.formats = (const char *const *)c->intake.formats.items,
		.format_count = c->intake.formats.count };
}

static unsigned idle_timeout_s(const struct config *c)
{
	return (unsigned)((c->listen.idle_timeout_ms + 999) / 1000);
}

static enum endpoint_style upstream_style(enum config_style style)
{
	switch (style) {
	case CONFIG_STYLE_PATH:
		return ENDPOINT_STYLE_PATH;
	case CONFIG_STYLE_QUERY:
		return ENDPOINT_STYLE_QUERY;
	case CONFIG_STYLE_AUTO:
	case CONFIG_STYLE_AS_RECEIVED:
		break;
	}
	return ENDPOINT_STYLE_AS_RECEIVED;
}

static struct forwarder_options forwarder_options(
    struct daemon *d, const struct config *c)
{
	return (struct forwarder_options){ .spool = d->spool,
		.metrics = d->metrics,
		.upstream = { .url = c->upstream.url,
		    .style_by_host = c->upstream.style == CONFIG_STYLE_AUTO,
		    .style = upstream_style(c->upstream.style),
		    .universe = c->upstream.universe,
		    .token = c->upstream.token,
		    .proxy = c->upstream.proxy,
		    .ca_file = c->upstream.ca_file,
		    .connect_timeout_ms = c->upstream.connect_timeout_ms,
		    .stall_timeout_ms = c->upstream.stall_timeout_ms,
		    .version = PACKAGE_VERSION },
		.concurrency = (unsigned)c->forward.concurrency,
		.retry = { .min_ms = c->forward.retry_min_ms,
		    .max_ms = c->forward.retry_max_ms } };
}

/* Quiet times */

/* From the committer, after each batch that queued something. */
static void on_due(void *cls)
{
	struct daemon *d = cls;
	uint64_t one = 1;

	(void)pthread_mutex_lock(&d->forwarder_lock);
	if (d->forwarder)
		forwarder_wake(d->forwarder);
	(void)pthread_mutex_unlock(&d->forwarder_lock);
	if (!atomic_exchange(&d->busy, true))
		(void)!write(d->busy_fd, &one, sizeof(one)); /* cannot overflow */
}

/* Starting */

static int open_sockets(struct daemon *d)
{
	const struct config_addresses *a = &d->config->listen.http;
	char errbuf[256];

	d->sockets = calloc(a->count ? a->count : 1, sizeof(int));
	if (!d->sockets)
		return -ENOMEM;
	for (size_t i = 0; i < a->count; i++) {
		const struct sockaddr *addr = (const struct sockaddr *)&a->items[i].addr;
		int fd = http_listen(addr, a->items[i].len, errbuf, sizeof(errbuf));

		if (fd >= 0) {
			d->sockets[d->socket_count++] = fd;
		} else if (a->items[i].implied &&
			   (fd == -EAFNOSUPPORT || fd == -EADDRNOTAVAIL)) {
			log_notice("%s: going on without it", errbuf);
		} else {
			log_err("%s", errbuf);
			return fd;
		}
	}
	if (d->socket_count > 0)
		return 0;
	log_err("there is no address to listen on");
	return -EADDRNOTAVAIL;
}

static void log_recovery(const struct spool_recovery *r)
{
	if (r->rebuilt)
		log_warning(
		    "the index of the spool was made anew from its records: what was"
		    " sent before may go out again");
	if (r->requeued || r->recovered || r->damaged || r->discarded)
		log_notice(
		    "recovered the spool: %llu reports were being sent and are queued"
		    " again, %llu taken back, %llu damaged and put aside, %llu"
		    " unfinished discarded",
		    (unsigned long long)r->requeued, (unsigned long long)r->recovered,
		    (unsigned long long)r->damaged, (unsigned long long)r->discarded);
}

static int open_spool(struct daemon *d)
{
	struct spool_options options = { .directory = d->config->spool.directory,
		.limits = spool_limits(d->config),
		.on_due = on_due,
		.cls = d };
	struct spool_recovery recovery;
	struct spool_stats stats;
	char errbuf[512];
	int r = spool_open(&options, &d->spool, &recovery, errbuf, sizeof(errbuf));

	if (r < 0) {
		log_err("%s", errbuf);
		return r;
	}
	log_recovery(&recovery);
	d->janitor = (struct janitor){ .spool = d->spool, .ages = spool_ages(d->config) };
	spool_get_stats(d->spool, &stats);
	log_notice("spool %s: %llu reports queued, %llu held, %llu dead",
	    options.directory, (unsigned long long)stats.reports[REPORT_QUEUED],
	    (unsigned long long)stats.reports[REPORT_HELD],
	    (unsigned long long)stats.reports[REPORT_DEAD]);
	return 0;
}

static int start_forwarder(struct daemon *d, const struct config *c)
{
	struct forwarder_options options = forwarder_options(d, c);
	struct forwarder *forwarder;
	char errbuf[256];
	int r;

	if (!c->upstream.url) {
		log_notice("no upstream is configured: reports are kept, not forwarded"
			   " (buffer-only)");
		return 0;
	}
	r = forwarder_start(&options, &forwarder, errbuf, sizeof(errbuf));
	if (r < 0) {
		log_err("cannot start forwarding: %s", errbuf);
		return r;
	}
	(void)pthread_mutex_lock(&d->forwarder_lock);
	d->forwarder = forwarder;
	/* What became due before it could be told. */
	forwarder_wake(forwarder);
	(void)pthread_mutex_unlock(&d->forwarder_lock);
	return 0;
}

static void stop_forwarder(struct daemon *d, int64_t timeout_ms)
{
	struct forwarder *forwarder;

	(void)pthread_mutex_lock(&d->forwarder_lock);
	forwarder = TAKE_PTR(d->forwarder);
	(void)pthread_mutex_unlock(&d->forwarder_lock);
	forwarder_stop(forwarder, timeout_ms);
}

/* The upstream, for those who ask how it is. */
static bool get_upstream(void *cls, size_t i, struct status_upstream *ret)
{
	struct daemon *d = cls;
	struct forwarder_state state;
	bool found = false;

	(void)pthread_mutex_lock(&d->forwarder_lock);
	if (i == 0 && d->forwarder) {
		forwarder_get_state(d->forwarder, &state);
		found = true;
	}
	(void)pthread_mutex_unlock(&d->forwarder_lock);
	if (!found)
		return false;
	*ret = (struct status_upstream){ .up = state.up, .since_ms = state.since_ms };
	(void)snprintf(ret->name, sizeof(ret->name), "%s", state.name);
	(void)snprintf(ret->host, sizeof(ret->host), "%s", state.host);
	(void)snprintf(ret->reason, sizeof(ret->reason), "%s", state.reason);
	return true;
}

static int start_status(struct daemon *d)
{
	CLEANUP(cleanup_free)
	char(*texts)[HTTP_ADDRESS_SIZE] = calloc(d->socket_count, sizeof(*texts));
	CLEANUP(cleanup_free)
	const char **addresses = calloc(d->socket_count, sizeof(char *));
	struct status_options options = { .spool = d->spool,
		.metrics = d->metrics,
		.version = PACKAGE_VERSION,
		.addresses = addresses,
		.get_upstream = get_upstream,
		.cls = d };

	if (!texts || !addresses)
		return -ENOMEM;
	for (size_t i = 0; i < d->socket_count; i++)
		if (http_socket_address(d->sockets[i], texts[options.address_count]) ==
		    0) {
			addresses[options.address_count] = texts[options.address_count];
			options.address_count++;
		}
	return status_new(&options, &d->status);
}

static int start_control(struct daemon *d, const struct config *c)
{
	struct control_options options = { .path = c->control.socket,
		.status = d->status };
	char errbuf[256];
	int r = control_start(&options, &d->control, errbuf, sizeof(errbuf));

	if (r < 0)
		log_err("%s", errbuf);
	return r;
}

static int start_intake(struct daemon *d)
{
	struct intake_options options = { .spool = d->spool,
		.metrics = d->metrics,
		.limits = intake_limits(d->config) };
	int r = intake_new(&options, &d->intake);

	if (r < 0)
		log_err("cannot start the intake: %s", strerror(-r));
	return r;
}

static int start_listener(struct daemon *d)
{
	struct listener_options options = { .intake = d->intake,
		.sockets = d->sockets,
		.socket_count = d->socket_count,
		.max_connections = (unsigned)d->config->listen.max_connections,
		.idle_timeout_s = idle_timeout_s(d->config) };
	int r;

	for (size_t i = 0; i < d->socket_count; i++) {
		char address[HTTP_ADDRESS_SIZE];

		if (http_socket_address(d->sockets[i], address) == 0)
			log_notice("listening on http://%s/", address);
	}
	d->socket_count = 0; /* the listener takes them, also when it fails */
	r = listener_start(&options, &d->listener);
	if (r < 0)
		log_err("cannot start the listener: %s", strerror(-r));
	return r;
}

static int start(struct daemon *d)
{
	int r;

	d->metrics = metrics_new();
	if (!d->metrics) {
		log_err("out of memory");
		return -ENOMEM;
	}
	r = open_sockets(d);
	if (r == 0)
		r = open_spool(d);
	if (r == 0)
		r = start_forwarder(d, d->config);
	if (r == 0)
		r = start_status(d);
	if (r == 0)
		r = start_control(d, d->config);
	if (r == 0)
		r = start_intake(d);
	if (r == 0)
		r = start_listener(d);
	return r;
}

/* Stopping */

static void stop(struct daemon *d)
{
	int64_t until_ms = clock_mono_ms() + d->config->daemon.stop_timeout_ms;
	int64_t left_ms;

	if (d->status)
		status_set_stopping(d->status);
	d->listener = listener_stop(d->listener, d->config->daemon.stop_timeout_ms);
	left_ms = until_ms - clock_mono_ms();
	stop_forwarder(d, left_ms > 0 ? left_ms : 0);
	d->control = control_stop(d->control);
	d->status = status_free(d->status);
	d->intake = intake_free(d->intake);
	d->spool = spool_close(d->spool);
	d->metrics = metrics_free(d->metrics);
	for (size_t i = 0; i < d->socket_count; i++)
		(void)close(d->sockets[i]); /* nothing was written to it */
	free(d->sockets);
}

/* Reloading */

static void name_restart(void *cls, const struct config_setting *s)
{
	(void)cls;
	log_warning("[%s] %s has changed: that needs a restart", s->section, s->key);
}

static void reload_upstream(struct daemon *d, const struct config *c)
{
	struct forwarder_options options = forwarder_options(d, c);
	char errbuf[256];

	if (!c->upstream.url && d->forwarder) {
		stop_forwarder(d, c->daemon.stop_timeout_ms);
		log_notice(
		    "no upstream is configured any more: reports are kept (buffer-only)");
	} else if (c->upstream.url && !d->forwarder) {
		(void)start_forwarder(d, c); /* it has said why not; reports are kept */
	} else if (d->forwarder &&
		   forwarder_reload(d->forwarder, &options, errbuf, sizeof(errbuf)) < 0) {
		log_err("the upstream's new settings are not in force: %s", errbuf);
	}
}

static void reload_control(struct daemon *d, const struct config *c)
{
	if (strcmp(c->control.socket, d->config->control.socket) == 0)
		return;
	d->control = control_stop(d->control);
	(void)start_control(d, c); /* it has said why not */
}

static void put_in_force(struct daemon *d, const struct config *c)
{
	struct spool_limits spool = spool_limits(c);
	struct intake_limits intake = intake_limits(c);

	(void)config_reload_needs_restart(d->config, c, name_restart, NULL);
	log_set_level(c->log.level);
	spool_set_limits(d->spool, &spool);
	d->janitor.ages = spool_ages(c);
	d->janitor.next_at_ms = 0;
	if (intake_set_limits(d->intake, &intake) < 0)
		log_err("out of memory: the new limits are not in force");
	listener_set_limits(
	    d->listener, (unsigned)c->listen.max_connections, idle_timeout_s(c));
	reload_upstream(d, c);
	reload_control(d, c);
}

/* A bad configuration changes nothing at all. */
static void reload(struct daemon *d)
{
	CLEANUP(config_errors_done) struct config_errors errors = CONFIG_ERRORS_INIT;
	struct config_environment env = config_process_environment();
	struct config fresh = { 0 };
	int r = config_load(d->sources, &fresh, &errors);

	if (r == 0)
		r = config_resolve_paths(&fresh, &env, &errors);
	if (r < 0) {
		for (size_t i = 0; i < errors.count; i++)
			log_err("%s", errors.lines[i]);
		log_err("the configuration was not reloaded; the old one stays in force");
		config_done(&fresh);
		return;
	}
	(void)log_init(fresh.log.level, fresh.log.format); /* the values were checked */
	put_in_force(d, &fresh);
	config_done(&d->reloaded);
	d->reloaded = fresh;
	d->config = &d->reloaded;
	log_notice("configuration reloaded");
}

/* Running */

/* Returns false when the daemon shall stop. */
static bool take_signal(struct daemon *d)
{
	struct signalfd_siginfo info;

	if (read(d->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return true;
	if (info.ssi_signo == SIGHUP) {
		reload(d);
		return true;
	}
	log_notice("stopping");
	return false;
}

/* Wait for signals, and do what time brings. While reports come and go look again each
 * QUIET_MS whether that has ended, and give memory back then. */
static void wait_for_stop(struct daemon *d)
{
	struct pollfd fds[2] = { { .fd = d->signal_fd, .events = POLLIN },
		{ .fd = d->busy_fd, .events = POLLIN } };
	int64_t quiet_at_ms = INT64_MAX;

	for (;;) {
		int64_t wait_ms = janitor_step(&d->janitor);
		int64_t now_ms = clock_mono_ms();
		uint64_t drained;
		int n;

		if (now_ms >= quiet_at_ms) {
			quiet_at_ms = now_ms + QUIET_MS;
			if (!atomic_exchange(&d->busy, false)) {
				spool_trim(d->spool);
				trim_memory();
				quiet_at_ms = INT64_MAX;
			}
		}
		if (quiet_at_ms - now_ms < wait_ms)
			wait_ms = quiet_at_ms - now_ms;
		n = poll(fds, 2, (int)wait_ms);
		if (n > 0 && (fds[0].revents & POLLIN) && !take_signal(d))
			return;
		if (n > 0 && (fds[1].revents & POLLIN)) {
			(void)!read(d->busy_fd, &drained, sizeof(drained));
			quiet_at_ms = clock_mono_ms() + QUIET_MS;
		}
	}
}

/* All signals that mean something are read from a descriptor by the main thread; threads
 * made later inherit the mask. */
static int take_signals(struct daemon *d)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	(void)signal(SIGPIPE, SIG_IGN);
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	d->busy_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return d->signal_fd < 0 || d->busy_fd < 0 ? -errno : 0;
}

/* A closed 0, 1 or 2 would be given to the next file opened, and a stray write to stderr
 * would land in the spool. */
static void occupy_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= 2);
	cleanup_close(&fd);
}

static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		/* Without it max_connections may not be reached; accepting then rests. */
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

int daemon_run(const struct config_sources *sources, struct config *c)
{
	struct daemon d = {
		.sources = sources, .config = c, .signal_fd = -1, .busy_fd = -1
	};
	int r;

	(void)pthread_mutex_init(&d.forwarder_lock, NULL); /* cannot fail */
	occupy_standard_descriptors();
	raise_descriptor_limit();
	crashpoint_init();
	/* Memory holds tokens and other programs' memory: no core dumps, no ptrace. */
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	r = take_signals(&d);
	if (r == 0 && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		r = -ENOMEM;
	if (r < 0)
		log_err("cannot start: %s", strerror(-r));
	else
		r = start(&d);
	if (r == 0) {
		trim_memory();
		log_notice("ready");
		wait_for_stop(&d);
	}
	stop(&d);
	curl_global_cleanup();
	config_done(&d.reloaded);
	cleanup_close(&d.signal_fd);
	cleanup_close(&d.busy_fd);
	if (r == 0)
		log_notice("stopped");
	return r == 0 ? 0 : 1;
}
