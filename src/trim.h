/* SPDX-License-Identifier: MIT */
/* Giving back memory of the whole process that quiet times don't need. */
#ifndef RELAY_TRIM_H
#define RELAY_TRIM_H

/* Give free heap pages and the resident pages of program and library text back to the
 * system. What is needed again comes back by itself, at the price of some page faults: for
 * quiet times only. Does nothing to the latter in a build with sanitizers. Threads: any;
 * the others may go on. */
void trim_memory(void);

#endif
