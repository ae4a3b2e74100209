/* SPDX-License-Identifier: MIT */
/* Named steps at which a test kills the process, as a power cut or kill -9 would. With
 * the environment variable MINIDUMP_RELAY_CRASHPOINT=NAME[:N] the process sends itself
 * SIGKILL when it passes step NAME for the N-th time (default 1). Without the variable
 * a step costs one test of a pointer.
 *
 * The steps, in the order in which a report passes them:
 *   payload.staged     record written to its segment, nothing synced
 *   payload.large      large file written and synced, not yet renamed
 *   payload.renamed    large file renamed, its folder not yet synced
 *   commit.synced      payloads synced, no row yet
 *   commit.inserted    rows inserted, transaction open
 *   commit.committed   rows durable, nobody answered yet
 *   claim.committed    reports marked as being sent, nothing sent yet
 *   deliver.answered   upstream has answered, nothing settled yet
 *   settle.committed   outcome durable, payload not yet released
 *   settle.released    payload released
 */
#ifndef RELAY_CRASHPOINT_H
#define RELAY_CRASHPOINT_H

/* Read the environment once, before other threads exist. */
void crashpoint_init(void);

/* Pass step name. Threads: any. */
void crashpoint(const char *name);

#endif
