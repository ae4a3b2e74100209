/* SPDX-License-Identifier: MIT */
/* Owns the arithmetic of pauses: delays, Retry-After and the way back to full speed.
 * Invariants: no input makes a delay negative, or longer than the larger of max_ms and
 * Retry-After's hour (and its jitter); nothing here reads a clock. */
#include "backoff.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>
#include <time.h>

static int64_t min_i64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t max_i64(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* Evenly in [0, span]; the bias of the modulo is far below what jitter is for. */
static int64_t spread(int64_t span, uint64_t random)
{
	return span > 0 ? (int64_t)(random % ((uint64_t)span + 1)) : 0;
}

int64_t backoff_delay_ms(
    unsigned failures, const struct backoff_bounds *bounds, uint64_t random)
{
	int64_t ceiling = bounds->min_ms;

	for (unsigned i = 0; i < failures && ceiling < bounds->max_ms; i++)
		ceiling = ceiling > bounds->max_ms / 2 ? bounds->max_ms
						       : max_i64(ceiling * 2, 1);
	return bounds->min_ms + spread(ceiling - bounds->min_ms, random);
}

bool backoff_fail(struct backoff *b, const struct backoff_bounds *bounds, int64_t now_ms,
    int64_t retry_after_ms, uint64_t random)
{
	bool began = now_ms >= b->until_ms;
	int64_t asked = 0;

	if (retry_after_ms > 0)
		asked = max_i64(retry_after_ms, bounds->min_ms) +
			spread(bounds->min_ms, random);
	if (!began) {
		if (asked > 0)
			b->until_ms = max_i64(b->until_ms, now_ms + asked);
		return false;
	}
	if (b->failures < UINT_MAX)
		b->failures++;
	b->window = 1;
	b->until_ms =
	    now_ms + (asked > 0 ? asked : backoff_delay_ms(b->failures, bounds, random));
	return true;
}

void backoff_succeed(struct backoff *b, int64_t now_ms, unsigned concurrency)
{
	if (now_ms < b->until_ms)
		return;
	b->failures = 0;
	if (b->window > concurrency / 2)
		b->window = 0;
	else
		b->window *= 2;
}

bool backoff_allows(const struct backoff *b, int64_t now_ms, unsigned in_flight)
{
	return now_ms >= b->until_ms && (b->window == 0 || in_flight < b->window);
}

void backoff_hurry(struct backoff *b)
{
	b->until_ms = 0;
	if (b->failures > 1)
		b->failures = 1;
}

uint64_t backoff_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* Retry-After */

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Take exactly so many digits. */
static bool take_digits(const char **p, unsigned digits, int *ret)
{
	int n = 0;

	for (unsigned i = 0; i < digits; i++) {
		if (!is_digit((*p)[i]))
			return false;
		n = n * 10 + ((*p)[i] - '0');
	}
	*p += digits;
	*ret = n;
	return true;
}

static bool take_text(const char **p, const char *text)
{
	size_t len = strlen(text);

	if (strncasecmp(*p, text, len) != 0)
		return false;
	*p += len;
	return true;
}

static bool take_month(const char **p, int *ret)
{
	static const char months[][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul",
		"Aug", "Sep", "Oct", "Nov", "Dec" };

	for (int i = 0; i < 12; i++)
		if (take_text(p, months[i])) {
			*ret = i;
			return true;
		}
	return false;
}

/* "08:49:37"; 60 is a leap second. */
static bool take_time(const char **p, struct tm *tm)
{
	return take_digits(p, 2, &tm->tm_hour) && take_text(p, ":") &&
	       take_digits(p, 2, &tm->tm_min) && take_text(p, ":") &&
	       take_digits(p, 2, &tm->tm_sec) && tm->tm_hour < 24 && tm->tm_min < 60 &&
	       tm->tm_sec <= 60;
}

/* "Sun, 06 Nov 1994 08:49:37 GMT", behind the comma. */
static bool parse_imf_fixdate(const char *p, struct tm *tm)
{
	return take_digits(&p, 2, &tm->tm_mday) && take_text(&p, " ") &&
	       take_month(&p, &tm->tm_mon) && take_text(&p, " ") &&
	       take_digits(&p, 4, &tm->tm_year) && take_text(&p, " ") &&
	       take_time(&p, tm) && take_text(&p, " GMT") && *p == '\0';
}

/* "Sunday, 06-Nov-94 08:49:37 GMT", behind the comma. A year that seems more than 50
 * years ahead is one of the past (RFC 9110, section 5.6.7). */
static bool parse_rfc850(const char *p, int this_year, struct tm *tm)
{
	if (!take_digits(&p, 2, &tm->tm_mday) || !take_text(&p, "-") ||
	    !take_month(&p, &tm->tm_mon) || !take_text(&p, "-") ||
	    !take_digits(&p, 2, &tm->tm_year) || !take_text(&p, " ") ||
	    !take_time(&p, tm) || !take_text(&p, " GMT") || *p != '\0')
		return false;
	tm->tm_year += this_year - this_year % 100;
	if (tm->tm_year > this_year + 50)
		tm->tm_year -= 100;
	return true;
}

/* "Sun Nov  6 08:49:37 1994", behind the first space. */
static bool parse_asctime(const char *p, struct tm *tm)
{
	if (!take_month(&p, &tm->tm_mon) || !take_text(&p, " "))
		return false;
	if (take_text(&p, " ") ? !take_digits(&p, 1, &tm->tm_mday)
			       : !take_digits(&p, 2, &tm->tm_mday))
		return false;
	return take_text(&p, " ") && take_time(&p, tm) && take_text(&p, " ") &&
	       take_digits(&p, 4, &tm->tm_year) && *p == '\0';
}

/* The moment an HTTP date names, or -1. Which weekday it claims does not matter. */
static int64_t parse_http_date_ms(const char *s, int64_t now_wall_ms)
{
	const char *rest = strpbrk(s, ", ");
	time_t now_s = (time_t)(now_wall_ms / 1000);
	struct tm now = { 0 };
	struct tm tm = { 0 };
	bool understood;

	if (!rest || !gmtime_r(&now_s, &now))
		return -1;
	if (*rest == ' ')
		understood = parse_asctime(rest + 1, &tm);
	else if (rest[1] != ' ')
		understood = false;
	else
		understood = parse_imf_fixdate(rest + 2, &tm) ||
			     parse_rfc850(rest + 2, now.tm_year + 1900, &tm);
	if (!understood || tm.tm_mday < 1 || tm.tm_mday > 31)
		return -1;
	tm.tm_year -= 1900;
	return (int64_t)timegm(&tm) * 1000;
}

/* Whole seconds, any number of digits. */
static int64_t parse_seconds_ms(const char *s)
{
	int64_t ms = 0;

	for (; is_digit(*s); s++)
		ms = min_i64(
		    ms * 10 + (*s - '0') * INT64_C(1000), BACKOFF_RETRY_AFTER_MAX_MS);
	return *s == '\0' ? ms : 0;
}

int64_t backoff_retry_after_ms(const char *value, int64_t now_wall_ms)
{
	int64_t at_ms;

	if (!value)
		return 0;
	if (is_digit(value[0]))
		return parse_seconds_ms(value);
	at_ms = parse_http_date_ms(value, now_wall_ms);
	if (at_ms <= now_wall_ms)
		return 0;
	return min_i64(at_ms - now_wall_ms, BACKOFF_RETRY_AFTER_MAX_MS);
}
