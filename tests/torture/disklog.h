/* SPDX-License-Identifier: MIT */
/* The log that the recorder writes and the disk model reads: every call of a process that
 * changed what lies below the spool folder, in order, and the moments at which a promise
 * was made. A recording is a folder with log.0, log.1, ... one for each process that used
 * the spool, in order; each a sequence of events, native byte order, of which the last may
 * be cut short by the process's end. */
#ifndef TORTURE_DISKLOG_H
#define TORTURE_DISKLOG_H

#include <stdint.h>

/* Environment of a recorded process. */
#define DISKLOG_ENV_ROOT "TORTURE_ROOT" /* the spool folder, absolute */
#define DISKLOG_ENV_LOG "TORTURE_LOG"   /* folder for the logs; unset = none is kept */
/* CLASS:FIRST:COUNT:WHAT: calls number FIRST to FIRST + COUNT - 1 of the class, counted
 * from 1, end so. CLASS: write sync open rename fallocate unlink mkdir truncate any.
 * WHAT: EIO, ENOSPC, SHORT (writes: half of it is written), KILL (SIGKILL before it). */
#define DISKLOG_ENV_FAULT "TORTURE_FAULT"
/* File to which the process appends, at its orderly end, one line with the number of
 * calls of each class, in the order of enum disklog_class. */
#define DISKLOG_ENV_COUNTS "TORTURE_COUNTS"

/* What an accepting answer holds; 36 characters of report name follow. Sent on a socket it
 * is our promise. Received it is upstream's, under a name of upstream's own: the report
 * that it answers is over, the spool may let it go. */
#define DISKLOG_ACK_TEXT "\"_rxid\":\""
/* The driver sends this in place of upstream, with our name of the report. */
#define DISKLOG_OVER_TEXT "\"_over\":\""
#define DISKLOG_NAME_BYTES 36

enum disklog_class {
	DISKLOG_CLASS_WRITE,
	DISKLOG_CLASS_SYNC,
	DISKLOG_CLASS_OPEN,
	DISKLOG_CLASS_RENAME,
	DISKLOG_CLASS_FALLOCATE,
	DISKLOG_CLASS_UNLINK,
	DISKLOG_CLASS_MKDIR,
	DISKLOG_CLASS_TRUNCATE,
	DISKLOG_CLASS_COUNT
};

/* A handle names one opening of a file or folder. Paths are relative to the spool folder;
 * "" is that folder, ".." the one that holds it. */
enum disklog_kind {
	DISKLOG_OPEN = 1, /* text: path; offset: flags as below */
	DISKLOG_WRITE,    /* data at offset */
	DISKLOG_ZERO,     /* len zeros at offset */
	DISKLOG_PUNCH,    /* len zeros at offset, the size stays */
	DISKLOG_TRUNCATE, /* size becomes len */
	DISKLOG_SYNC,     /* begins; offset: its number */
	DISKLOG_SYNCED,   /* ended well; offset: the number */
	DISKLOG_UNSYNCED, /* failed: what it was to sync may be lost for good */
	DISKLOG_MKDIR,    /* text: path */
	DISKLOG_RENAME,   /* text: path, NUL, path */
	DISKLOG_UNLINK,   /* text: path */
	DISKLOG_ACK,      /* text: report; logged just before the bytes are sent */
	DISKLOG_OVER,     /* text: report */
	DISKLOG_UNKNOWN   /* text: a call that the model knows nothing of */
};

#define DISKLOG_CREATED 1u
#define DISKLOG_TRUNCATED 2u
#define DISKLOG_FOLDER 4u

struct disklog_event {
	uint32_t kind;
	uint32_t handle;
	uint64_t offset;
	uint64_t len;
	uint32_t text_bytes; /* follow the event */
	uint32_t data_bytes; /* follow the text */
};

#endif
