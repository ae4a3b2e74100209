/* SPDX-License-Identifier: MIT */
/* Owns what becomes of a report after each outcome, and of the pauses of its destination.
 * Invariants: a report is settled once, by one legal move; lines about a destination are
 * logged when it changes, those about a report when it is settled; no line has a token. */
#include "forwarder_internal.h"

#include "clock.h"
#include "log.h"
#include "metrics.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

/* Settling */

bool forwarder_flush(struct forwarder *f)
{
	if (f->unsettled == 0)
		return true;
	/* When the spool is closing, its next start puts the reports back. */
	if (spool_settle(f->spool, f->settlements, f->unsettled) == -ENOMEM)
		return false;
	for (size_t i = 0; i < f->unsettled; i++)
		f->results[i].report = report_free(f->results[i].report);
	f->unsettled = 0;
	return true;
}

bool forwarder_has_room(struct forwarder *f)
{
	return f->unsettled < SETTLE_BATCH || forwarder_flush(f);
}

/* Note what becomes of a report; there is room. The report is ours from here on. */
static void settle(
    struct forwarder *f, const struct upstream_result *result, enum report_state to)
{
	struct upstream_result *kept = &f->results[f->unsettled];

	assert(f->unsettled < SETTLE_BATCH);
	*kept = *result;
	f->settlements[f->unsettled++] = (struct spool_settlement){
		.seq = kept->report->seq,
		.to = to,
		.ambiguous = kept->ambiguous,
		.count_attempt = kept->began,
		.http_status = kept->http_status,
		.reason = kept->text[0] ? kept->text : NULL,
		.upstream_rxid = kept->rxid[0] ? kept->rxid : NULL,
	};
}

/* Put a claimed report back as if it had not been claimed; there is room. */
static void put_back(struct forwarder *f, struct report *r)
{
	const struct upstream_result untouched = { .report = r };

	settle(f, &untouched, REPORT_QUEUED);
}

void forwarder_release_lane(struct forwarder *f, struct lane *lane)
{
	while (lane->claimed_count > 0 && forwarder_has_room(f))
		put_back(f, lanes_take_claimed(&f->lanes, lane));
}

void forwarder_release_all(struct forwarder *f)
{
	for (struct lane *lane = lanes_after(&f->lanes, INT64_MIN); lane;) {
		int64_t id = lane->id;

		forwarder_release_lane(f, lane);
		lanes_tidy(&f->lanes, id);
		lane = lanes_after(&f->lanes, id);
	}
}

/* What an outcome does */

#define LABEL_SIZE 96

/* "universe/012345…" */
static void label_endpoint(const struct report *r, char out[LABEL_SIZE])
{
	char token[ENDPOINT_SHORT_TOKEN_SIZE];

	endpoint_shorten_token(r->token, token);
	(void)snprintf(
	    out, LABEL_SIZE, "%.64s%s%s", r->universe, *r->universe ? "/" : "", token);
}

static uint64_t count_waiting(struct forwarder *f)
{
	struct spool_stats stats;

	spool_get_stats(f->spool, &stats);
	return stats.reports[REPORT_QUEUED] + stats.reports[REPORT_SENDING];
}

static void log_settled(
    enum log_level level, const struct upstream_result *res, const char *outcome)
{
	const struct report *r = res->report;
	int64_t delay_ms = clock_wall_ms() - r->received_at_ms;
	char id[RXID_TEXT_SIZE];
	char label[LABEL_SIZE];
	const struct log_fields fields = {
		.report_id = id, .endpoint = label, .outcome = outcome
	};

	rxid_format(&r->rxid, id);
	label_endpoint(r, label);
	if (delay_ms < 0)
		delay_ms = 0;
	log_write(level, &fields,
	    "report %s: status %u, attempts %u%s, %" PRId64
	    ".%03d s after it was received"
	    "%s%.200s",
	    outcome, res->http_status, r->attempts + (res->began ? 1 : 0),
	    r->ambiguous || res->ambiguous ? " (ambiguous)" : "", delay_ms / 1000,
	    (int)(delay_ms % 1000), res->text[0] ? ": " : "", res->text);
}

/* Tell those who ask how the upstream is; an edge. */
static void tell_state(struct forwarder *f, bool up, const char *reason)
{
	(void)pthread_mutex_lock(&f->lock);
	f->state.up = up;
	f->state.since_ms = clock_wall_ms();
	(void)snprintf(f->state.reason, sizeof(f->state.reason), "%s", reason);
	(void)pthread_mutex_unlock(&f->lock);
}

void forwarder_name_state(struct forwarder *f)
{
	f->answered = false;
	(void)pthread_mutex_lock(&f->lock);
	f->state = (struct forwarder_state){ .up = true };
	(void)snprintf(
	    f->state.host, sizeof(f->state.host), "%s", upstream_host(f->now.upstream));
	(void)pthread_mutex_unlock(&f->lock);
}

void forwarder_get_state(struct forwarder *f, struct forwarder_state *ret)
{
	(void)pthread_mutex_lock(&f->lock);
	*ret = f->state;
	(void)pthread_mutex_unlock(&f->lock);
}

/* The upstream answered, whatever it said. */
static void note_answer(struct forwarder *f, int64_t now_ms)
{
	bool was_down = f->backoff.failures > 0;

	backoff_succeed(&f->backoff, now_ms, f->now.concurrency);
	if (!f->answered || (was_down && f->backoff.failures == 0))
		tell_state(f, true, "");
	f->answered = true;
	if (was_down && f->backoff.failures == 0)
		log_notice("upstream %s answers again after %" PRId64 " s, %" PRIu64
			   " reports wait",
		    upstream_host(f->now.upstream), (now_ms - f->down_since_ms) / 1000,
		    count_waiting(f));
}

static void note_silence(struct forwarder *f, struct lane *lane,
    const struct upstream_result *res, int64_t now_ms)
{
	if (!backoff_fail(
		&f->backoff, &f->now.retry, now_ms, 0, backoff_random(&f->random_state)))
		return;
	if (res->began)
		lane->failed_probes++;
	if (f->backoff.failures > 1)
		return;
	f->down_since_ms = now_ms;
	tell_state(f, false, res->text);
	log_warning("upstream %s does not answer: %s; %" PRIu64 " reports wait",
	    upstream_host(f->now.upstream), res->text, count_waiting(f));
}

static void pause_lane(struct forwarder *f, struct lane *lane,
    const struct upstream_result *res, int64_t now_ms)
{
	char label[LABEL_SIZE];

	if (!backoff_fail(&lane->backoff, &f->now.retry, now_ms, res->retry_after_ms,
		backoff_random(&f->random_state)))
		return;
	lane->failed_probes++;
	if (lane->backoff.failures > 1)
		return;
	label_endpoint(res->report, label);
	if (res->http_status > 0)
		log_warning("reports for %s wait: upstream answers %u%s%.200s", label,
		    res->http_status, res->text[0] ? ": " : "", res->text);
	else
		log_warning("reports for %s wait: %.200s", label, res->text);
}

static void resume_lane(
    struct forwarder *f, struct lane *lane, const struct report *r, int64_t now_ms)
{
	bool was_paused = lane->backoff.failures > 0;
	char label[LABEL_SIZE];

	backoff_succeed(&lane->backoff, now_ms, f->now.concurrency);
	lane->failed_probes = 0;
	if (!was_paused || lane->backoff.failures > 0)
		return;
	label_endpoint(r, label);
	log_notice("reports for %s are accepted again", label);
}

/* The report goes back to the queue. */
static void retry(struct forwarder *f, const struct upstream_result *res)
{
	metrics_inc(f->metrics, METRIC_FORWARD_RETRY);
	/* While upstream is away its coming and going is told, not each probe. */
	log_settled(
	    res->http_status > 0 ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG, res, "retry");
	settle(f, res, REPORT_QUEUED);
}

static void bury(struct forwarder *f, const struct upstream_result *res)
{
	metrics_inc(f->metrics, METRIC_FORWARD_DEAD);
	log_settled(LOG_LEVEL_WARNING, res, "dead");
	settle(f, res, REPORT_DEAD);
}

void forwarder_apply(
    struct forwarder *f, struct lane *lane, const struct upstream_result *res)
{
	int64_t now_ms = clock_mono_ms();

	if (res->http_status > 0)
		note_answer(f, now_ms);
	metrics_add(f->metrics, METRIC_FORWARD_BYTES, res->sent_bytes);
	switch (res->outcome) {
	case UPSTREAM_ACCEPTED:
		resume_lane(f, lane, res->report, now_ms);
		metrics_inc(f->metrics, METRIC_FORWARD_SENT);
		log_settled(LOG_LEVEL_INFO, res, "sent");
		settle(f, res, REPORT_SENT);
		break;
	case UPSTREAM_RETRY:
	case UPSTREAM_UNREADABLE:
		pause_lane(f, lane, res, now_ms);
		retry(f, res);
		break;
	case UPSTREAM_REJECTED:
		resume_lane(f, lane, res->report, now_ms);
		bury(f, res);
		break;
	case UPSTREAM_UNAVAILABLE:
		note_silence(f, lane, res, now_ms);
		retry(f, res);
		break;
	case UPSTREAM_DAMAGED:
		bury(f, res);
		break;
	case UPSTREAM_CANCELLED:
		log_settled(LOG_LEVEL_DEBUG, res, "cancelled");
		settle(f, res, REPORT_QUEUED);
		break;
	}
}
