/* SPDX-License-Identifier: MIT */
/* Owns the making and removing of test folders. Names come from mkdtemp(), so any number
 * of tests may run at once. */
#include "tempdir.h"

#include "cleanup.h"
#include "strbuf.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

char *tempdir_new(void)
{
	const char *base = getenv("TMPDIR");
	char *path = tempdir_join(base && *base ? base : "/tmp", "relay-test-XXXXXX");

	if (!mkdtemp(path))
		cr_assert_fail("cannot make a folder %s: %s", path, strerror(errno));
	return path;
}

static int remove_entry(
    const char *path, const struct stat *st, int type, struct FTW *position)
{
	(void)st;
	(void)type;
	(void)position;
	/* What cannot be removed stays: the walk goes on with the rest. */
	(void)remove(path);
	return 0;
}

char *tempdir_free(char *path)
{
	if (!path)
		return NULL;
	(void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	free(path);
	return NULL;
}

char *tempdir_join(const char *dir, const char *name)
{
	struct strbuf b = STRBUF_INIT;
	char *path;

	strbuf_addf(&b, "%s/%s", dir, name);
	path = strbuf_take(&b);
	cr_assert_not_null(path, "out of memory");
	return path;
}

void tempdir_write(const char *dir, const char *name, const char *text)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, name);
	FILE *f = fopen(path, "we");
	bool ok = f && fputs(text, f) != EOF;

	if (f && fclose(f) == EOF)
		ok = false;
	if (!ok)
		cr_assert_fail("cannot write %s: %s", path, strerror(errno));
}

static int skip_dots(const struct dirent *e)
{
	return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

static void list_into(struct strbuf *out, const char *dir, const char *prefix)
{
	struct dirent **entries = NULL;
	int n = scandir(dir, &entries, skip_dots, alphasort);

	for (int i = 0; i < n; i++) {
		const char *name = entries[i]->d_name;
		CLEANUP(cleanup_free) char *below = tempdir_join(dir, name);
		struct strbuf relative = STRBUF_INIT;

		strbuf_addf(&relative, "%s%s", prefix, name);
		strbuf_addf(out, "%s\n", strbuf_str(&relative));
		if (entries[i]->d_type == DT_DIR) {
			strbuf_add_char(&relative, '/');
			list_into(out, below, strbuf_str(&relative));
		}
		strbuf_done(&relative);
		free(entries[i]);
	}
	free(entries);
}

char *tempdir_list(const char *dir)
{
	struct strbuf out = STRBUF_INIT;
	char *text;

	strbuf_add_str(&out, "");
	list_into(&out, dir, "");
	text = strbuf_take(&out);
	cr_assert_not_null(text, "out of memory");
	return text;
}
