/* SPDX-License-Identifier: MIT */
/* Owns a body while it comes in: gathered in slots, or streamed to a file once it is too
 * large or no slot is left; then placed as one record. */
#include "segment_internal.h"

#include "crashpoint.h"
#include "fsutil.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <string.h>

#define WRITER_SLOTS (SEGMENT_INLINE_MAX / SEGMENT_SLOT_BYTES)

/* The kernel is told to begin writing a large body after each so many bytes: the final
 * sync then finds little left, which makes a large body several times faster. */
#define WRITEBACK_STEP (UINT64_C(8) << 20)

struct segment_writer {
	struct segment_store *store;
	struct sha256_ctx hash;
	uint64_t body_bytes;
	/* Small: */
	void *slots[WRITER_SLOTS];
	size_t slot_count;
	/* Large: */
	int fd; /* -1 while small */
	uint_fast32_t incoming;
	uint64_t written; /* bytes of the body in the file; the rest lies in one slot */
	uint64_t writeback_at;
	int64_t seq; /* once placed */
	bool sealed;
};

static void incoming_name(uint_fast32_t n, char out[SEGMENT_NAME_SIZE])
{
	(void)snprintf(out, SEGMENT_NAME_SIZE, "incoming-%" PRIuFAST32, n);
}

int segment_writer_new(struct segment_store *s, struct segment_writer **ret)
{
	struct segment_writer *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->store = s;
	w->fd = -1;
	sha256_init(&w->hash);
	*ret = w;
	return 0;
}

uint64_t segment_writer_bytes(const struct segment_writer *w)
{
	return w->body_bytes;
}

bool segment_writer_is_large(const struct segment_writer *w)
{
	return w->fd >= 0;
}

static void return_slots(struct segment_writer *w)
{
	while (w->slot_count > 0)
		segment_return_slot(w->store, w->slots[--w->slot_count]);
}

/* The gathered body as vectors; returns how many. */
static int slot_vectors(const struct segment_writer *w, struct iovec *iov)
{
	uint64_t left = w->body_bytes;
	int n = 0;

	for (size_t i = 0; i < w->slot_count && left > 0; i++) {
		uint64_t len = left < SEGMENT_SLOT_BYTES ? left : SEGMENT_SLOT_BYTES;

		iov[n++] =
		    (struct iovec){ .iov_base = w->slots[i], .iov_len = (size_t)len };
		left -= len;
	}
	return n;
}

/* What a large body counts for on disk: what it is given back for when it is removed. */
static uint64_t large_bytes(const struct segment_writer *w)
{
	return SEGMENT_LARGE_BODY_AT + w->written;
}

/* Turn a small body into a large one. */
static int spill(struct segment_writer *w)
{
	struct iovec iov[WRITER_SLOTS];
	char name[SEGMENT_NAME_SIZE];
	int count;
	int r;

	w->incoming = atomic_fetch_add(&w->store->next_incoming, 1);
	incoming_name(w->incoming, name);
	w->fd =
	    openat(w->store->large_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (w->fd < 0) {
		r = -errno;
		w->fd = -1;
		return r;
	}
	count = slot_vectors(w, iov);
	r = fs_writev_full(w->fd, iov, count, SEGMENT_LARGE_BODY_AT);
	w->written = w->writeback_at = w->body_bytes;
	segment_count_large(w->store, (int64_t)large_bytes(w));
	return_slots(w);
	return r;
}

/* Append to the slots as much as may be gathered; returns how much. */
static size_t gather(struct segment_writer *w, const uint8_t *data, size_t len)
{
	size_t done = 0;

	while (done < len && w->body_bytes < SEGMENT_INLINE_MAX) {
		size_t at = (size_t)(w->body_bytes % SEGMENT_SLOT_BYTES);
		size_t n = SEGMENT_SLOT_BYTES - at;

		if (at == 0) {
			void *slot = segment_take_slot(w->store);

			if (!slot)
				break;
			w->slots[w->slot_count++] = slot;
		}
		if (n > len - done)
			n = len - done;
		memcpy((uint8_t *)w->slots[w->slot_count - 1] + at, data + done, n);
		w->body_bytes += n;
		done += n;
	}
	return done;
}

static int write_large(struct segment_writer *w, const void *data, size_t len)
{
	int r = fs_write_full(w->fd, data, len, SEGMENT_LARGE_BODY_AT + w->written);

	if (r < 0)
		return r;
	w->written += len;
	segment_count_large(w->store, (int64_t)len);
	if (w->written - w->writeback_at >= WRITEBACK_STEP) {
		/* A hint: the sync in seal is what counts. */
		(void)sync_file_range(w->fd,
		    (off_t)(SEGMENT_LARGE_BODY_AT + w->writeback_at),
		    (off_t)(w->written - w->writeback_at), SYNC_FILE_RANGE_WRITE);
		w->writeback_at = w->written;
	}
	return 0;
}

/* Write what lies in the slot. */
static int flush(struct segment_writer *w)
{
	return w->written == w->body_bytes
		   ? 0
		   : write_large(w, w->slots[0], (size_t)(w->body_bytes - w->written));
}

/* Whole slots go to the file: pieces as they come off the network, small and crooked, take
 * the kernel twice the time. Without a slot they must do. */
static int stream(struct segment_writer *w, const uint8_t *data, size_t len)
{
	int r = 0;

	while (len > 0 && r == 0) {
		size_t n =
		    SEGMENT_SLOT_BYTES - (size_t)(w->body_bytes % SEGMENT_SLOT_BYTES);

		if (n > len)
			n = len;
		if (w->slot_count == 0 && (w->slots[0] = segment_take_slot(w->store)))
			w->slot_count = 1;
		if (w->slot_count == 0) {
			r = write_large(w, data, n);
			w->body_bytes += n;
		} else {
			memcpy((uint8_t *)w->slots[0] + (w->body_bytes - w->written),
			    data, n);
			w->body_bytes += n;
			if (w->body_bytes % SEGMENT_SLOT_BYTES == 0)
				r = flush(w);
		}
		data += n;
		len -= n;
	}
	return r;
}

int segment_writer_add(struct segment_writer *w, const void *data, size_t len)
{
	const uint8_t *p = data;
	size_t n = 0;
	int r;

	if (w->body_bytes > (uint64_t)INT64_MAX / 4)
		return -EMSGSIZE;
	sha256_update(&w->hash, len, p);
	if (w->fd < 0) {
		n = gather(w, p, len);
		if (n == len)
			return 0;
		r = spill(w);
		if (r < 0)
			return r;
	}
	return stream(w, p + n, len - n);
}

static int place_small(struct segment_writer *w, struct record *r, struct strbuf *header,
    struct payload_ref *ret)
{
	static const uint8_t zeros[SEGMENT_BLOCK];
	struct iovec iov[WRITER_SLOTS + 2];
	struct segment *seg;
	uint32_t header_bytes;
	uint64_t offset;
	uint64_t span;
	int count;
	int e;

	/* Encoded once to learn its length, again with its place in it. */
	e = record_encode(r, header, &header_bytes);
	if (e < 0)
		return e;
	span = segment_record_span(header_bytes, w->body_bytes);
	e = segment_reserve(w->store, span, &seg, &offset);
	if (e < 0)
		return e;
	*ret = (struct payload_ref){ .segment = seg->number,
		.header_bytes = header_bytes,
		.offset = offset,
		.body_bytes = w->body_bytes };
	memcpy(r->epoch, seg->epoch, sizeof(r->epoch));
	r->offset = offset;
	strbuf_reset(header);
	e = record_encode(r, header, &header_bytes);
	if (e == 0) {
		iov[0] =
		    (struct iovec){ .iov_base = header->data, .iov_len = header->len };
		count = 1 + slot_vectors(w, iov + 1);
		/* Whole blocks, or the kernel must read the last one before changing it.
		 */
		iov[count].iov_base = (void *)(uintptr_t)zeros;
		iov[count++].iov_len = (size_t)(span - header_bytes - w->body_bytes);
		e = fs_writev_full(seg->fd, iov, count, offset);
		if (e < 0)
			segment_mark_broken(w->store, seg);
	}
	if (e < 0)
		segment_abandon(w->store, ret, r->seq);
	return e;
}

static int place_large(struct segment_writer *w, struct record *r, struct strbuf *header,
    struct payload_ref *ret)
{
	int e;

	r->header_bytes = SEGMENT_LARGE_BODY_AT;
	e = record_encode(r, header, &r->header_bytes);
	if (e == 0)
		e = flush(w);
	if (e == 0)
		e = fs_write_full(w->fd, header->data, header->len, 0);
	if (e < 0)
		return e;
	w->seq = r->seq;
	*ret = (struct payload_ref){ .segment = 0,
		.header_bytes = SEGMENT_LARGE_BODY_AT,
		.offset = 0,
		.body_bytes = w->body_bytes };
	return 0;
}

int segment_writer_place(
    struct segment_writer *w, struct record *r, struct payload_ref *ret)
{
	CLEANUP(strbuf_done) struct strbuf header = STRBUF_INIT;
	int e;

	memset(r->epoch, 0, sizeof(r->epoch));
	r->offset = 0;
	r->header_bytes = 0;
	r->body_bytes = w->body_bytes;
	sha256_digest(&w->hash, sizeof(r->sha256), r->sha256);
	e = w->fd < 0 ? place_small(w, r, &header, ret) : place_large(w, r, &header, ret);
	if (e == 0 && w->fd < 0)
		return_slots(w);
	return e;
}

int segment_writer_seal(struct segment_writer *w)
{
	char from[SEGMENT_NAME_SIZE];
	char to[SEGMENT_NAME_SIZE];
	int r = fs_sync_data(w->fd);

	if (r < 0)
		return r;
	crashpoint("payload.large");
	incoming_name(w->incoming, from);
	segment_large_name(w->seq, to);
	if (renameat(w->store->large_fd, from, w->store->large_fd, to) < 0)
		return -errno;
	w->sealed = true;
	return 0;
}

struct segment_writer *segment_writer_free(struct segment_writer *w)
{
	char name[SEGMENT_NAME_SIZE];

	if (!w)
		return NULL;
	return_slots(w);
	if (w->fd >= 0) {
		(void)close(w->fd); /* synced if sealed, else unwanted */
		if (!w->sealed) {
			incoming_name(w->incoming, name);
			/* If it stays, the next start removes it. */
			(void)unlinkat(w->store->large_fd, name, 0);
			segment_count_large(w->store, -(int64_t)large_bytes(w));
		}
	}
	free(w);
	return NULL;
}
