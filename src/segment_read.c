/* SPDX-License-Identifier: MIT */
/* Owns reading records back: one by its reference, or all of them by looking for them.
 * Whatever lies on the disk is an input that may be anything: a record counts only if its
 * header is whole, names its own place and the segment's epoch, and its body has the hash
 * that the header gives. */
#include "segment_internal.h"

#include "fsutil.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <nettle/sha2.h>
#include <string.h>
#include <sys/stat.h>

#define READ_CHUNK (UINT64_C(64) << 10)

struct segment_reader {
	int fd;
	uint64_t body_at;
	uint64_t at; /* bytes of the body handed out */
	struct sha256_ctx hash;
	struct record record;
	struct strbuf strings; /* what record.strings point into */
};

/* Read and decode the header of a record at offset. Returns 0 with *ret_check, or a
 * negative errno of the disk. buf holds RECORD_HEADER_MAX bytes. */
static int read_header(int fd, uint64_t offset, uint8_t *buf, struct strbuf *arena,
    struct record *ret, enum record_check *ret_check)
{
	size_t want = SEGMENT_BLOCK;
	size_t have = 0;

	for (;;) {
		ssize_t n = fs_read_full(fd, buf + have, want - have, offset + have);

		if (n < 0)
			return (int)n;
		have += (size_t)n;
		*ret_check = record_decode(buf, have, arena, ret, &want);
		if (*ret_check == RECORD_NO_MEMORY)
			return -ENOMEM;
		if (*ret_check != RECORD_SHORT)
			return 0;
		if (want <= have || want > RECORD_HEADER_MAX || n == 0) {
			*ret_check = RECORD_DAMAGED;
			return 0;
		}
	}
}

/* One record */

static int open_payload(
    struct segment_store *s, const struct payload_ref *ref, int64_t seq)
{
	char name[SEGMENT_NAME_SIZE];
	int fd;

	if (ref->segment == 0)
		segment_large_name(seq, name);
	else
		segment_name(ref->segment, name);
	fd = openat(
	    ref->segment == 0 ? s->large_fd : s->segments_fd, name, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int segment_reader_open(struct segment_store *s, const struct payload_ref *ref,
    int64_t seq, const struct rxid *rxid, struct segment_reader **ret)
{
	CLEANUP(cleanup_free) uint8_t *buf = malloc(RECORD_HEADER_MAX);
	struct segment_reader *rd = calloc(1, sizeof(*rd));
	enum record_check check = RECORD_NONE;
	int r;

	if (!rd || !buf) {
		free(rd);
		return -ENOMEM;
	}
	rd->fd = open_payload(s, ref, seq);
	r = rd->fd < 0 ? rd->fd : 0;
	if (r == 0)
		r = read_header(
		    rd->fd, ref->offset, buf, &rd->strings, &rd->record, &check);
	if (r == 0 && (check != RECORD_OK || rd->record.seq != seq ||
			  rd->record.offset != ref->offset ||
			  rd->record.body_bytes != ref->body_bytes ||
			  memcmp(&rd->record.rxid, rxid, sizeof(*rxid)) != 0))
		r = -EBADMSG;
	if (r < 0) {
		segment_reader_close(rd);
		return r;
	}
	rd->body_at = ref->offset + rd->record.header_bytes;
	sha256_init(&rd->hash);
	*ret = rd;
	return 0;
}

const struct record *segment_reader_record(const struct segment_reader *rd)
{
	return &rd->record;
}

ssize_t segment_reader_read(struct segment_reader *rd, void *buf, size_t len)
{
	uint64_t left = rd->record.body_bytes - rd->at;
	uint8_t digest[SHA256_BYTES];
	ssize_t n;

	if (left == 0 || len == 0)
		return 0;
	if (len > left)
		len = (size_t)left;
	n = fs_read_full(rd->fd, buf, len, rd->body_at + rd->at);
	if (n < 0)
		return n;
	if ((size_t)n < len)
		return -EBADMSG; /* the file is shorter than its header says */
	sha256_update(&rd->hash, len, buf);
	if (len == left) {
		sha256_digest(&rd->hash, sizeof(digest), digest);
		if (memcmp(digest, rd->record.sha256, sizeof(digest)) != 0)
			return -EBADMSG;
	}
	rd->at += len;
	return n;
}

int segment_reader_rewind(struct segment_reader *rd)
{
	rd->at = 0;
	sha256_init(&rd->hash);
	return 0;
}

struct segment_reader *segment_reader_close(struct segment_reader *rd)
{
	if (!rd)
		return NULL;
	cleanup_close(&rd->fd);
	strbuf_done(&rd->strings);
	free(rd);
	return NULL;
}

/* Looking for records */

/* Whether the body behind a good header has its hash; buf holds READ_CHUNK bytes. */
static int check_body(
    int fd, uint64_t at, const struct record *r, uint8_t *buf, bool *ret)
{
	uint8_t digest[SHA256_BYTES];
	struct sha256_ctx hash;
	uint64_t done = 0;

	sha256_init(&hash);
	while (done < r->body_bytes) {
		uint64_t want = r->body_bytes - done;
		ssize_t n;

		if (want > READ_CHUNK)
			want = READ_CHUNK;
		n = fs_read_full(fd, buf, (size_t)want, at + done);
		if (n < 0)
			return (int)n;
		if ((uint64_t)n < want) {
			*ret = false;
			return 0;
		}
		sha256_update(&hash, (size_t)n, buf);
		done += (uint64_t)n;
	}
	sha256_digest(&hash, sizeof(digest), digest);
	*ret = memcmp(digest, r->sha256, sizeof(digest)) == 0;
	return 0;
}

struct scan {
	segment_scan_fn *fn;
	void *cls;
	uint8_t *buf; /* READ_CHUNK bytes, no less than RECORD_HEADER_MAX */
	struct strbuf strings;
};

/* The epoch of the segment's present use. A damaged segment header is made up for by the
 * first record, which no body can imitate: nothing lies before it. */
static bool learn_epoch(int fd, struct scan *sc, uint8_t epoch[RECORD_EPOCH_BYTES])
{
	uint64_t activation;
	enum record_check check = RECORD_NONE;
	struct record first;

	if (segment_read_header(fd, epoch, &activation))
		return true;
	if (read_header(fd, SEGMENT_BLOCK, sc->buf, &sc->strings, &first, &check) < 0 ||
	    check != RECORD_OK || first.offset != SEGMENT_BLOCK)
		return false;
	memcpy(epoch, first.epoch, RECORD_EPOCH_BYTES);
	return true;
}

static int scan_segment(struct segment_store *s, uint32_t number, struct scan *sc)
{
	struct payload_ref ref = { .segment = number };
	CLEANUP(cleanup_close) int fd = open_payload(s, &ref, 0);
	uint8_t epoch[RECORD_EPOCH_BYTES];
	uint64_t at = SEGMENT_BLOCK;
	int r;

	if (fd < 0)
		return fd;
	if (!learn_epoch(fd, sc, epoch))
		return 0;
	/* After a kill, unlike after a power cut, records are read from memory: they must be
	 * durable before rows speak of them. */
	if (fs_sync_data(fd) < 0)
		return 0; /* as if nothing were there: no row will speak of it */
	while (at < SEGMENT_BYTES) {
		enum record_check check = RECORD_NONE;
		struct record rec;
		bool whole = false;

		r = read_header(fd, at, sc->buf, &sc->strings, &rec, &check);
		if (r == -ENOMEM)
			return r;
		/* What cannot be read harms no more than itself. */
		if (r < 0 || check != RECORD_OK || rec.offset != at ||
		    memcmp(rec.epoch, epoch, sizeof(epoch)) != 0 ||
		    rec.body_bytes > SEGMENT_INLINE_MAX) {
			at += SEGMENT_BLOCK;
			continue;
		}
		if (check_body(fd, at + rec.header_bytes, &rec, sc->buf, &whole) < 0)
			whole = false;
		ref.offset = at;
		ref.header_bytes = rec.header_bytes;
		ref.body_bytes = rec.body_bytes;
		r = sc->fn(sc->cls, &rec, &ref, whole);
		if (r < 0)
			return r;
		at += segment_record_span(rec.header_bytes, rec.body_bytes);
	}
	return 0;
}

static int scan_begin(struct scan *sc, segment_scan_fn *fn, void *cls)
{
	*sc = (struct scan){ .fn = fn, .cls = cls, .buf = malloc(READ_CHUNK) };
	return sc->buf ? 0 : -ENOMEM;
}

static void scan_done(struct scan *sc)
{
	free(sc->buf);
	strbuf_done(&sc->strings);
}

int segment_scan(struct segment_store *s, uint64_t since, segment_scan_fn *fn, void *cls)
{
	CLEANUP(scan_done) struct scan sc = { 0 };
	int r = scan_begin(&sc, fn, cls);

	for (size_t i = 0; i < s->segment_count && r == 0; i++) {
		const struct segment *seg = s->segments[i];

		if (!seg || seg->state == SEGMENT_LOST)
			continue;
		/* Activation 0: nothing but zeros, or a header that is damaged. */
		if (seg->activation > since || (seg->activation == 0 && seg->allocated))
			r = scan_segment(s, seg->number, &sc);
	}
	return r;
}

static int scan_large_file(struct segment_store *s, const char *name, bool check_bodies,
    struct scan *sc, bool *ret_good)
{
	CLEANUP(cleanup_close) int fd = openat(s->large_fd, name, O_RDONLY | O_CLOEXEC);
	enum record_check check = RECORD_NONE;
	char expected[SEGMENT_NAME_SIZE];
	struct payload_ref ref = { 0 };
	struct record rec;
	struct stat st;
	bool whole = true;
	int r;

	*ret_good = false;
	if (fd < 0)
		return errno == ENOMEM || errno == EMFILE || errno == ENFILE ? -errno : 0;
	r = read_header(fd, 0, sc->buf, &sc->strings, &rec, &check);
	/* What cannot be read harms no more than itself. */
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	if (check == RECORD_OK)
		segment_large_name(rec.seq, expected);
	if (check != RECORD_OK || strcmp(name, expected) != 0 || rec.offset != 0) {
		*ret_good = false;
		return 0;
	}
	*ret_good = true;
	if (check_bodies)
		r = check_body(fd, rec.header_bytes, &rec, sc->buf, &whole);
	else if (fstat(fd, &st) < 0)
		r = -errno;
	else
		whole = (uint64_t)st.st_size >= rec.header_bytes + rec.body_bytes;
	if (r < 0)
		return r;
	ref.header_bytes = rec.header_bytes;
	ref.body_bytes = rec.body_bytes;
	return sc->fn(sc->cls, &rec, &ref, whole);
}

/* Keep what is no record out of the way of the next scan, for people to look at. */
static int set_aside(struct segment_store *s, const char *name)
{
	CLEANUP(strbuf_done) struct strbuf to = STRBUF_INIT;

	strbuf_addf(&to, "%s.damaged", name);
	if (strbuf_status(&to) < 0)
		return -ENOMEM;
	return renameat(s->large_fd, name, s->large_fd, to.data) < 0 ? -errno : 0;
}

int segment_scan_large(struct segment_store *s, bool check_bodies, segment_scan_fn *fn,
    void *cls, uint64_t *ret_damaged)
{
	CLEANUP(scan_done) struct scan sc = { 0 };
	int fd = openat(s->large_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t damaged = 0;
	struct dirent *e;
	DIR *dir;
	int r;

	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		(void)close(fd); /* nothing was written through it */
		return r;
	}
	r = scan_begin(&sc, fn, cls);
	while (r == 0 && (errno = 0, e = readdir(dir))) {
		size_t n = strlen(e->d_name);
		bool good = true;

		if (n < 4 || strcmp(e->d_name + n - 4, ".rec") != 0)
			continue;
		r = scan_large_file(s, e->d_name, check_bodies, &sc, &good);
		if (r == 0 && !good) {
			damaged++;
			/* If it keeps its name it is found again next time. */
			(void)set_aside(s, e->d_name);
		}
	}
	if (r == 0 && errno != 0)
		r = -errno;
	(void)closedir(dir); /* nothing was written through it */
	if (r == 0)
		*ret_damaged = damaged;
	return r;
}
