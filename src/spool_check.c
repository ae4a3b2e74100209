/* SPDX-License-Identifier: MIT */
/* Owns --check-spool: index, sums, payloads, in this order. Invariant: what could not be
 * looked at is never called sound. */
#include "spool_check.h"

#include "fsutil.h"
#include "segment.h"
#include "spool_index.h"
#include "spool_lanes.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

struct check {
	const char *directory;
	int dir_fd;
	char copy[256]; /* folder with the copy of the index; "" = none */
	struct spool_index *index;
	struct spool_lanes lanes;
	struct segment_store *segments;
	spool_check_line_fn *line;
	void *cls;
	uint64_t reports;
	uint64_t payloads;
	uint64_t bytes;
	bool damaged;
};

static void tell(struct check *c, bool damage, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void tell(struct check *c, bool damage, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->damaged |= damage;
	c->line(c->cls, damage, text);
}

/* Opening */

static int open_folder(struct check *c)
{
	int r = 0;

	c->dir_fd = open(c->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c->dir_fd < 0)
		r = -errno;
	else if (flock(c->dir_fd, LOCK_EX | LOCK_NB) < 0)
		r = errno == EWOULDBLOCK ? -EBUSY : -errno;
	if (r == -EBUSY)
		tell(c, false,
		    "spool %s is in use by a running minidump-relayd: stop it first",
		    c->directory);
	else if (r < 0)
		tell(c, false, "spool %s: %s", c->directory, strerror(-r));
	return r;
}

static int copy_file(struct check *c, const char *name)
{
	CLEANUP(cleanup_free) char *path = NULL;
	CLEANUP(cleanup_close) int from = openat(c->dir_fd, name, O_RDONLY | O_CLOEXEC);
	CLEANUP(cleanup_close) int to = -1;
	ssize_t n;

	if (from < 0)
		return -errno;
	if (asprintf(&path, "%s/%s", c->copy, name) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (to < 0)
		return -errno;
	while ((n = sendfile(to, from, NULL, 1 << 20)) > 0)
		continue;
	return n < 0 ? -errno : 0;
}

static void remove_copy(struct check *c)
{
	static const char *const names[] = { SPOOL_INDEX_NAME, SPOOL_INDEX_NAME "-wal",
		SPOOL_INDEX_NAME "-shm" };

	if (!c->copy[0])
		return;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char path[sizeof(c->copy) + 32];

		(void)snprintf(path, sizeof(path), "%s/%s", c->copy, names[i]);
		(void)unlink(path); /* it may not have been made */
	}
	(void)rmdir(c->copy); /* in the folder for such things, if it stays */
}

/* A folder in which nothing was ever stored, such as an init system makes it. */
static bool is_fresh(const struct check *c)
{
	return faccessat(c->dir_fd, "segments", F_OK, 0) < 0 && errno == ENOENT &&
	       faccessat(c->dir_fd, "large", F_OK, 0) < 0 && errno == ENOENT;
}

/* Returns 1 there is an index, 0 none, which is told unless the spool is fresh. */
static int find_index(struct check *c)
{
	if (faccessat(c->dir_fd, SPOOL_INDEX_NAME, F_OK, 0) == 0)
		return 1;
	if (errno != ENOENT) {
		int r = -errno;

		tell(c, false, "%s/%s: %s", c->directory, SPOOL_INDEX_NAME, strerror(-r));
		return r;
	}
	if (is_fresh(c))
		tell(c, false, "nothing was ever stored in %s", c->directory);
	else
		tell(c, true,
		    "%s/%s is missing: the next start makes it anew from the records",
		    c->directory, SPOOL_INDEX_NAME);
	return 0;
}

static int copy_index(struct check *c)
{
	const char *tmp = getenv("TMPDIR");
	int r;

	(void)snprintf(c->copy, sizeof(c->copy), "%s/minidump-relay-check.XXXXXX",
	    tmp && tmp[0] == '/' && strlen(tmp) < 200 ? tmp : "/tmp");
	if (!mkdtemp(c->copy)) {
		r = -errno;
		tell(c, false, "cannot copy the index for checking: %s: %s", c->copy,
		    strerror(-r));
		c->copy[0] = '\0';
		return r;
	}
	r = copy_file(c, SPOOL_INDEX_NAME);
	if (r == 0) {
		r = copy_file(c, SPOOL_INDEX_NAME "-wal");
		if (r == -ENOENT)
			r = 0;
	}
	if (r < 0)
		tell(c, false, "cannot copy the index for checking: %s", strerror(-r));
	return r;
}

/* What a start takes from the index must make sense, or it makes the index anew. */

static int see_lane(void *cls, int64_t id, const char *universe, const char *token)
{
	struct check *c = cls;
	struct spool_lane_entry *lane;
	int r = spool_lanes_add(&c->lanes, id, universe, token, &lane);

	return r == -EEXIST ? -EBADMSG : r;
}

static int see_lane_queued(void *cls, int64_t id, uint64_t queued)
{
	struct check *c = cls;

	(void)queued;
	return spool_lanes_get(&c->lanes, id) ? 0 : -EBADMSG;
}

static int see_tally(void *cls, enum report_state state, uint64_t reports, uint64_t bytes)
{
	(void)cls;
	(void)state;
	(void)reports;
	(void)bytes;
	return 0;
}

static int see_segment(void *cls, uint32_t segment, uint64_t records, uint64_t bytes)
{
	(void)cls;
	(void)segment;
	(void)records;
	(void)bytes;
	return 0;
}

static int check_index(struct check *c)
{
	const struct spool_index_visitor v = { .lane = see_lane,
		.lane_queued = see_lane_queued,
		.tally = see_tally,
		.segment = see_segment,
		.cls = c };
	int r = spool_index_check(c->index);

	return r < 0 ? r : spool_index_load(c->index, &v);
}

/* Returns 1 it can be read; 0 it is missing or damaged; negative: it could not be
 * checked. */
static int open_index(struct check *c)
{
	char errbuf[512] = "";
	bool fresh = false;
	int r = find_index(c);

	if (r > 0)
		r = copy_index(c);
	else
		return r;
	if (r < 0)
		return r;
	r = spool_index_open(c->copy, &c->index, &fresh, errbuf, sizeof(errbuf));
	if (r == 0 && !fresh)
		r = check_index(c);
	if (r == 0 && !fresh)
		return 1;
	if (r == 0 || r == -EBADMSG) {
		tell(c, true,
		    "%s/%s is damaged: the next start sets it aside and makes it anew",
		    c->directory, SPOOL_INDEX_NAME);
		return 0;
	}
	/* The text of the error would name the copy. */
	tell(c, false, "%s/%s: %s", c->directory, SPOOL_INDEX_NAME,
	    r == -EPROTONOSUPPORT ? "it was made by a newer version of this program"
				  : strerror(-r));
	return r;
}

/* Payloads */

static int read_payload(struct check *c, const struct spool_row *row)
{
	struct segment_reader *rd = NULL;
	uint8_t buf[64 << 10];
	ssize_t n =
	    segment_reader_open(c->segments, &row->payload, row->seq, &row->rxid, &rd);

	while (n >= 0 && (n = segment_reader_read(rd, buf, sizeof(buf))) > 0)
		continue;
	segment_reader_close(rd);
	return (int)n;
}

static int check_row(void *cls, const struct spool_row *row)
{
	struct check *c = cls;
	char id[RXID_TEXT_SIZE];
	int r;

	c->reports++;
	if (!report_state_has_payload(row->state))
		return 0;
	rxid_format(&row->rxid, id);
	r = read_payload(c, row);
	if (r == -ENOMEM)
		return r;
	/* What is known to be damaged was put aside as dead: that is how it should be. */
	if (r < 0 && row->state != REPORT_DEAD)
		tell(c, true, "report %s (%s): %s", id, report_state_name(row->state),
		    r == -EBADMSG  ? "its record is damaged"
		    : r == -ENOENT ? "its payload is missing"
				   : strerror(-r));
	if (r == 0) {
		c->payloads++;
		c->bytes += row->payload.body_bytes;
	}
	return 0;
}

/* The sums that are kept so that a start need not read all rows. */
static void check_sums(struct check *c)
{
	bool good = false;
	int r = spool_index_check_sums(c->index, &good);

	if (r < 0 || !good)
		tell(c, true, "the sums kept in the index do not agree with its rows");
}

static int check_all(struct check *c)
{
	int r;

	check_sums(c);
	r = segment_store_open_reader(c->dir_fd, &c->segments);
	if (r < 0) {
		tell(c, true, "the payloads' folders cannot be opened: %s", strerror(-r));
		return 0;
	}
	r = spool_index_each_row(c->index, check_row, c);
	if (r == -EBADMSG) {
		tell(c, true, "a row of the index cannot be read");
		return 0;
	}
	if (r < 0) {
		tell(c, false, "the check broke off: %s", strerror(-r));
		return r;
	}
	tell(c, false,
	    "%" PRIu64 " reports, %" PRIu64 " with a sound payload, %" PRIu64 " bytes",
	    c->reports, c->payloads, c->bytes);
	return 0;
}

int spool_check(const char *directory, spool_check_line_fn *line, void *cls)
{
	struct check c = {
		.directory = directory, .dir_fd = -1, .line = line, .cls = cls
	};
	int r = open_folder(&c);

	if (r == 0)
		r = open_index(&c);
	if (r > 0)
		r = check_all(&c);
	spool_index_close(c.index);
	segment_store_close(c.segments);
	spool_lanes_done(&c.lanes);
	remove_copy(&c);
	cleanup_close(&c.dir_fd);
	return r < 0 ? r : c.damaged;
}
