/* SPDX-License-Identifier: MIT */
/* Owns the armed step. Global on purpose: a step must be passable from any depth without
 * every function carrying a test's business; constant after crashpoint_init(). */
#include "crashpoint.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *armed;
static atomic_long passes_left;

void crashpoint_init(void)
{
	const char *spec = getenv("MINIDUMP_RELAY_CRASHPOINT");
	char *colon;

	if (!spec || !*spec)
		return;
	armed = strdup(spec);
	if (!armed)
		return;
	atomic_store(&passes_left, 1);
	colon = strchr(armed, ':');
	if (colon) {
		*colon = '\0';
		atomic_store(&passes_left, strtol(colon + 1, NULL, 10));
	}
}

void crashpoint(const char *name)
{
	if (!armed || strcmp(name, armed) != 0)
		return;
	if (atomic_fetch_sub(&passes_left, 1) == 1)
		(void)kill(getpid(), SIGKILL);
}
