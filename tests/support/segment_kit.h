/* SPDX-License-Identifier: MIT */
/* A payload store in a folder of its own, and records by number: the body of a record
 * follows from its seq. There is one store per process, as each test has a process of its
 * own. Whatever goes wrong fails the running test. */
#ifndef TESTS_SEGMENT_KIT_H
#define TESTS_SEGMENT_KIT_H

#include "segment.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Records begin on these. */
#define SK_BLOCK 4096u

struct segment_kit {
	char *dir;
	int dir_fd;
	struct segment_store *store;
	uint64_t discarded; /* by the last sk_open() */
};

extern struct segment_kit sk;

/* For TestSuite: a folder with a store that runs. */
void sk_set_up(void);
void sk_tear_down(void);

/* Close and open as a restart does; sk_start() makes it run. */
void sk_open(void);
void sk_start(void);
void sk_close(void);
void sk_reopen(void); /* close and open */

/* A record as the test knows it; the caller sets seq and len. */
struct sk_record {
	int64_t seq;
	size_t len;
	struct rxid rxid;
	struct payload_ref ref;
};

/* The body it must have; the caller frees it. */
uint8_t *sk_body(const struct sk_record *p);

/* Storing in steps: a writer with these bytes, or with the record's body; what goes into
 * its header, under a new name; to its place, a large one also to its file name, the
 * writer freed. */
struct segment_writer *sk_write_bytes(const void *data, size_t len);
struct segment_writer *sk_write(const struct sk_record *p);
struct record sk_name(struct sk_record *p);
void sk_place(struct sk_record *p, struct segment_writer *w);

/* All the way, as the committer does it; and away again. */
struct sk_record sk_store(int64_t seq, size_t len);
void sk_release(const struct sk_record *p);

/* The file it lies in; the caller frees it. */
char *sk_path(const struct payload_ref *ref, int64_t seq);

/* Flip a bit of the record, at so many bytes from its beginning. */
void sk_flip(const struct sk_record *p, uint64_t at);

int sk_open_reader(const struct sk_record *p, struct segment_reader **ret);

/* Read the body in pieces of step bytes; returns the last answer: 0 at the end. */
ssize_t sk_read(struct segment_reader *rd, uint8_t *out, size_t step, size_t *ret);

void sk_assert_readable(const struct sk_record *p);
bool sk_is_readable(const struct sk_record *p);

size_t sk_count_files(const char *folder);

/* What a scan has found. */
struct sk_found {
	size_t count;
	struct {
		int64_t seq;
		struct payload_ref ref;
		bool whole;
	} list[128];
};

/* For segment_scan(): keep what was found in cls, a struct sk_found. */
int sk_keep_found(
    void *cls, const struct record *r, const struct payload_ref *ref, bool whole);
void sk_scan_since(uint64_t since, struct sk_found *f);
void sk_scan_all(struct sk_found *f);
void sk_scan_large(bool check_bodies, struct sk_found *f, uint64_t *ret_damaged);
bool sk_has_found(const struct sk_found *f, const struct sk_record *p, bool whole);

#endif
