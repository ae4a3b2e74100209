/* SPDX-License-Identifier: MIT */
/* Owns the uploads of one thread and the multi handle that carries them. Invariants: an
 * upload is in exactly one of three lists (under way, ended, idle), and its handle is in the
 * multi handle exactly while it is under way; without uploads under way nothing here wakes
 * up by itself. */
#include "upstream_internal.h"

#include "clock.h"
#include "spool.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <poll.h>
#include <sys/eventfd.h>

/* How often within stall_timeout the progress of an upload is looked at. */
#define STALL_SAMPLES 4

struct upstream_io {
	int wake_fd;
	CURLM *multi; /* NULL while at rest */
	struct upload *under_way;
	struct upload *ended; /* in order */
	struct upload **ended_tail;
	struct upload *idle;
	size_t count; /* under way and ended */
};

int upstream_io_open(struct upstream_io **ret)
{
	struct upstream_io *io = calloc(1, sizeof(*io));

	if (!io)
		return -ENOMEM;
	/* Not curl_multi_wakeup(): the multi handle goes away at rest, and with it all
	 * kept connections, while other threads may always wake. */
	io->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (io->wake_fd < 0) {
		int r = -errno;

		free(io);
		return r;
	}
	io->ended_tail = &io->ended;
	*ret = io;
	return 0;
}

struct upstream_io *upstream_io_close(struct upstream_io *io)
{
	struct upstream_result lost;

	if (!io)
		return NULL;
	upstream_cancel(io);
	while (upstream_next(io, &lost))
		;
	upstream_rest(io);
	(void)close(io->wake_fd);
	free(io);
	return NULL;
}

/* An idle upload to that upstream, or a new one; NULL without memory. Frees idle ones to
 * upstreams that are no more. */
static struct upload *take_upload(struct upstream_io *io, struct upstream *u)
{
	struct upload *found = NULL;
	struct upload **p = &io->idle;

	while (*p) {
		struct upload *up = *p;

		if (up->upstream->retired || (!found && up->upstream == u)) {
			*p = up->next;
			if (up->upstream == u)
				found = up;
			else
				(void)upload_free(up);
		} else {
			p = &up->next;
		}
	}
	return found ? found : upload_new(u);
}

int upstream_begin(struct upstream_io *io, struct upstream *u, struct report *r,
    struct spool_reader *reader)
{
	struct upload *up = take_upload(io, u);
	int e;

	if (!up) {
		(void)spool_reader_close(reader);
		return -ENOMEM;
	}
	e = upload_prepare(up, r, reader);
	if (e == 0 && !io->multi) {
		io->multi = curl_multi_init();
		e = io->multi ? 0 : -ENOMEM;
	}
	if (e == 0 && curl_multi_add_handle(io->multi, up->easy) != CURLM_OK)
		e = -ENOMEM;
	if (e < 0) {
		(void)upload_free(up);
		return e;
	}
	up->next = io->under_way;
	io->under_way = up;
	io->count++;
	return 0;
}

/* Take an upload out of curl's hands and make its result. */
static void finish(
    struct upstream_io *io, struct upload *up, CURLcode code, bool cancelled)
{
	struct upload **p = &io->under_way;

	upstream_judge(up, code, cancelled, &up->result);
	(void)curl_multi_remove_handle(io->multi, up->easy); /* it is in there */
	while (*p && *p != up)
		p = &(*p)->next;
	assert(*p == up);
	*p = up->next;
	up->next = NULL;
	*io->ended_tail = up;
	io->ended_tail = &up->next;
}

bool upstream_next(struct upstream_io *io, struct upstream_result *ret)
{
	struct upload *up = io->ended;

	if (!up)
		return false;
	io->ended = up->next;
	if (!io->ended)
		io->ended_tail = &io->ended;
	*ret = up->result;
	upload_clear(up);
	up->next = io->idle;
	io->idle = up;
	io->count--;
	return true;
}

/* Look whether an upload moves. Returns false when it has not for too long. Until it has
 * a connection, curl's own timeout counts. */
static bool is_moving(struct upload *up, int64_t now_ms)
{
	uint64_t sent_bytes = up->earlier_sent + upload_sent_bytes(up);

	up->looked_at_ms = now_ms;
	if (sent_bytes > up->progress_bytes || !upload_began(up)) {
		up->progress_bytes = sent_bytes;
		up->moved_at_ms = now_ms;
	}
	return now_ms - up->moved_at_ms < up->upstream->stall_timeout_ms;
}

/* End the uploads that stall. Returns when to look again, in ms, or -1. */
static int64_t end_stalled(struct upstream_io *io)
{
	int64_t now_ms = clock_mono_ms();
	int64_t next_ms = -1;
	struct upload *following;

	for (struct upload *up = io->under_way; up; up = following) {
		int64_t period_ms = up->upstream->stall_timeout_ms / STALL_SAMPLES + 1;
		int64_t left_ms = up->looked_at_ms + period_ms - now_ms;

		following = up->next;
		if (left_ms <= 0) {
			if (!is_moving(up, now_ms)) {
				(void)snprintf(up->error, sizeof(up->error),
				    "no progress for %" PRId64 " ms",
				    up->upstream->stall_timeout_ms);
				finish(io, up, CURLE_OPERATION_TIMEDOUT, false);
				continue;
			}
			left_ms = period_ms;
		}
		if (next_ms < 0 || left_ms < next_ms)
			next_ms = left_ms;
	}
	return next_ms;
}

/* Let curl do what it can without waiting, and take what has ended. */
static void perform(struct upstream_io *io)
{
	int running;
	int queued;
	CURLMsg *msg;

	if (!io->under_way)
		return;
	if (curl_multi_perform(io->multi, &running) != CURLM_OK)
		while (io->under_way)
			finish(io, io->under_way, CURLE_OUT_OF_MEMORY, false);
	while (io->under_way && (msg = curl_multi_info_read(io->multi, &queued))) {
		CURLcode code = msg->data.result;
		char *private = NULL;

		if (msg->msg != CURLMSG_DONE ||
		    curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &private) !=
			CURLE_OK)
			continue;
		finish(io, (struct upload *)(void *)private, code, false);
	}
}

static void wait_for_events(struct upstream_io *io, int64_t timeout_ms)
{
	int timeout = timeout_ms < 0 || timeout_ms > INT_MAX ? -1 : (int)timeout_ms;
	uint64_t wakes;

	/* Errors of waiting (a signal, no memory) are an early return. */
	if (!io->under_way) {
		struct pollfd p = { .fd = io->wake_fd, .events = POLLIN };

		(void)poll(&p, 1, timeout);
	} else {
		struct curl_waitfd w = { .fd = io->wake_fd, .events = CURL_WAIT_POLLIN };

		(void)curl_multi_poll(
		    io->multi, &w, 1, timeout < 0 ? INT_MAX : timeout, NULL);
	}
	/* Empty when nobody woke us. */
	(void)!read(io->wake_fd, &wakes, sizeof(wakes));
}

void upstream_wait(struct upstream_io *io, int64_t timeout_ms)
{
	struct upload **tail = io->ended_tail;
	int64_t look_ms;

	perform(io);
	look_ms = end_stalled(io);
	/* What had ended before was left by the caller, and is no reason to hurry. */
	if (io->ended_tail != tail)
		return;
	if (timeout_ms < 0 || (look_ms >= 0 && look_ms < timeout_ms))
		timeout_ms = look_ms;
	wait_for_events(io, timeout_ms);
	perform(io);
}

size_t upstream_count(const struct upstream_io *io)
{
	return io->count;
}

void upstream_wake(struct upstream_io *io)
{
	uint64_t one = 1;

	/* A full counter is a wake-up under way already. */
	(void)!write(io->wake_fd, &one, sizeof(one));
}

void upstream_cancel(struct upstream_io *io)
{
	while (io->under_way)
		finish(io, io->under_way, CURLE_OK, true);
}

void upstream_rest(struct upstream_io *io)
{
	struct upload *up;

	if (io->under_way || (!io->multi && !io->idle))
		return;
	while ((up = io->idle)) {
		io->idle = up->next;
		(void)upload_free(up);
	}
	(void)curl_multi_cleanup(io->multi); /* nothing is in it */
	io->multi = NULL;
	(void)malloc_trim(0); /* returns whether there was anything to give back */
}
