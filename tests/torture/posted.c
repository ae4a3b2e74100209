/* SPDX-License-Identifier: MIT */
/* Owns the form of the file "posted". */
#include "posted.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES 80

static int compare(const void *a, const void *b)
{
	const struct posted_report *x = a;
	const struct posted_report *y = b;

	return strcmp(x->name, y->name);
}

int posted_load(const char *path, struct posted *ret)
{
	FILE *f = fopen(path, "re");
	struct posted p = { 0 };
	struct posted_report report;

	if (!f && errno != ENOENT)
		return -errno;
	while (f && fscanf(f, "%36s %" SCNu64, report.name, &report.id) == 2) {
		p.list = reallocarray(p.list, p.count + 1, sizeof(*p.list));
		if (!p.list)
			abort();
		p.list[p.count++] = report;
	}
	if (f)
		(void)fclose(f);
	if (p.count > 0)
		qsort(p.list, p.count, sizeof(*p.list), compare);
	*ret = p;
	return 0;
}

void posted_done(struct posted *p)
{
	free(p->list);
	*p = (struct posted){ 0 };
}

const struct posted_report *posted_find(const struct posted *p, const char *name)
{
	struct posted_report key;

	if (p->count == 0)
		return NULL;
	(void)snprintf(key.name, sizeof(key.name), "%s", name);
	return bsearch(&key, p->list, p->count, sizeof(*p->list), compare);
}

int posted_append(const char *path, const char *name, uint64_t id)
{
	char line[LINE_BYTES];
	int len = snprintf(line, sizeof(line), "%s %" PRIu64 "\n", name, id);
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	int r = fd < 0 || write(fd, line, (size_t)len) != len ? -errno : 0;

	if (fd >= 0)
		(void)close(fd);
	return r;
}
