/* SPDX-License-Identifier: MIT */
/* Owns the table of settings, the order of sources, and what holds between settings.
 * Invariants: a struct config that left this module is whole and in range; one error
 * anywhere means no config at all; every value goes through set_value(), defaults and
 * flags like those of files, so that all are judged alike.
 */
#include "config.h"

#include "config_ini.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#define FILE_MAX_BYTES ((size_t)4 << 20)
#define NAME_MAX_BYTES 64
/* Room for a place per row of the table; asserted at the start of each load. */
#define SETTINGS_MAX 64

/* Where a value comes from. */
struct place {
	const char *source; /* a file's path, or a flag; NULL: the default */
	unsigned int line;  /* 0 for a flag or a whole file */
	unsigned int pass;  /* which source, counted from 1 */
	bool is_flag;
	bool is_bad; /* the value there was refused */
};

struct loader {
	struct config config;
	struct config_errors *errs;
	size_t complaints; /* by this load */
	bool out_of_memory;

	struct place places[SETTINGS_MAX]; /* by row */
	struct place here;                 /* what is being read */

	const char *section; /* the table's, or NULL where entries belong nowhere */
	char label[NAME_MAX_BYTES + 1];
	bool seen_header; /* in this file */

	bool has_upstream;
	struct place upstream_place;

	char **paths; /* of the folder's files; places point into them */
	size_t path_count;
};

void config_errors_done(struct config_errors *errs)
{
	for (size_t i = 0; i < errs->count; i++)
		free(errs->lines[i]);
	free(errs->lines);
	*errs = (struct config_errors)CONFIG_ERRORS_INIT;
}

void config_errors_add(struct config_errors *errs, const char *fmt, ...)
{
	CLEANUP(cleanup_free) char *line = NULL;
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	char **lines;
	va_list ap;

	if (errs->count == CONFIG_ERRORS_MAX) {
		errs->not_kept++;
		return;
	}
	va_start(ap, fmt);
	strbuf_vaddf(&b, fmt, ap);
	va_end(ap);
	line = strbuf_take(&b);
	lines = reallocarray(errs->lines, errs->count + 1, sizeof(*lines));
	if (lines)
		errs->lines = lines;
	if (!lines || !line) {
		errs->out_of_memory = true;
		return;
	}
	lines[errs->count++] = TAKE_PTR(line);
}

static void add_place(struct strbuf *b, const struct place *p)
{
	assert(p->source); /* else a default was refused */
	strbuf_add_escaped(b, p->source, strlen(p->source), PATH_MAX);
	if (p->line > 0)
		strbuf_addf(b, ":%u", p->line);
}

static void add_section(struct strbuf *b, const char *section, const char *label)
{
	strbuf_add_char(b, '[');
	strbuf_add_escaped(b, section, strlen(section), NAME_MAX_BYTES);
	if (label && label[0] != '\0') {
		strbuf_add_str(b, " \"");
		strbuf_add_escaped(b, label, strlen(label), NAME_MAX_BYTES);
		strbuf_add_char(b, '"');
	}
	strbuf_add_char(b, ']');
}

/* "FILE:LINE: [section] key: what", or "--flag: what". */
static void complain(struct loader *l, const struct place *p, const char *section,
    const char *label, const char *key, const char *what)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	l->complaints++;
	add_place(&b, p);
	strbuf_add_str(&b, ": ");
	if (section && !p->is_flag) {
		add_section(&b, section, label);
		if (key) {
			strbuf_add_char(&b, ' ');
			strbuf_add_escaped(&b, key, strlen(key), NAME_MAX_BYTES);
		}
		strbuf_add_str(&b, ": ");
	}
	strbuf_add_str(&b, what);
	if (strbuf_status(&b) < 0)
		l->out_of_memory = true;
	else
		config_errors_add(l->errs, "%s", strbuf_str(&b));
}

static bool is_upstream(const char *section)
{
	return strcmp(section, "upstream") == 0;
}

static void complain_of_setting(struct loader *l, const struct place *p,
    const struct config_setting *s, const char *what)
{
	const char *label = is_upstream(s->section) ? l->config.upstream.name : NULL;

	complain(l, p, s->section, label, s->key, what);
}

static void complain_of_unknown(
    struct loader *l, const char *section, const char *label, const char *key)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	strbuf_add_str(&b, key ? "unknown key" : "unknown section");
	/* Not worth a search when it will not be kept. */
	if (l->errs->count < CONFIG_ERRORS_MAX)
		config_suggest_name(&b, key ? section : NULL, key ? key : section);
	complain(l, &l->here, section, label, key, strbuf_str(&b));
}

/* Several lines of a list in one source add up; all else that is set again is an error in
 * one source, and the last word over several. */
static void set_value(struct loader *l, const struct config_setting *s, const char *text)
{
	CLEANUP(strbuf_done) struct strbuf why = STRBUF_INIT;
	size_t count;
	struct place *p = &l->places[s - config_settings(&count)];
	void *field = config_field(&l->config, s);
	bool again = p->pass == l->here.pass && p->source;
	bool is_bad = again && p->is_bad;
	int r;

	if (again && !config_value_is_list(s)) {
		strbuf_addf(&why,
		    "is set again; expected one such line (the first is line %u)",
		    p->line);
		complain_of_setting(l, &l->here, s, strbuf_str(&why));
		return;
	}
	if (!again && config_value_is_list(s))
		config_value_clear(s, field);
	*p = l->here;
	r = config_value_set(s, text, field, &why);
	p->is_bad = is_bad || r < 0;
	if (r == -EINVAL)
		complain_of_setting(l, p, s, strbuf_str(&why));
	else if (r < 0)
		l->out_of_memory = true;
}

/* The section has said something: it is the upstream, or one too many. */
static bool claim_upstream(struct loader *l, const char *label)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	const char *name = l->config.upstream.name ? l->config.upstream.name : "";

	if (l->has_upstream && strcmp(name, label) == 0)
		return true;
	if (l->has_upstream) {
		strbuf_add_str(&b,
		    "only one upstream is supported by this version; expected no "
		    "other beside ");
		add_section(&b, "upstream", name);
		strbuf_add_str(&b, " (");
		add_place(&b, &l->upstream_place);
		strbuf_add_char(&b, ')');
		complain(l, &l->here, "upstream", label, NULL, strbuf_str(&b));
		return false;
	}
	if (label[0] != '\0') {
		l->config.upstream.name = strdup(label);
		l->out_of_memory = l->out_of_memory || !l->config.upstream.name;
	}
	l->has_upstream = true;
	l->upstream_place = l->here;
	return true;
}

static bool label_is_valid(const char *label)
{
	size_t len = strlen(label);

	return len > 0 && len <= NAME_MAX_BYTES &&
	       strspn(label,
		   "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
		   len;
}

/* The name as the table has it, or NULL. */
static const char *find_section(const char *name)
{
	size_t count;
	const struct config_setting *s = config_settings(&count);

	for (size_t i = 0; i < count; i++)
		if (strcmp(s[i].section, name) == 0)
			return s[i].section;
	return NULL;
}

static void on_section(void *cls, unsigned int line, const char *name, const char *label)
{
	struct loader *l = cls;
	const char *known = name ? find_section(name) : NULL;

	l->here.line = line;
	l->seen_header = true;
	l->section = NULL;
	l->label[0] = '\0';
	if (!name)
		return;
	if (!known) {
		complain_of_unknown(l, name, label, NULL);
		return;
	}
	if (label && !is_upstream(known)) {
		complain(l, &l->here, known, label, NULL,
		    "this section takes no name; expected the section alone");
		return;
	}
	if (label && !label_is_valid(label)) {
		complain(l, &l->here, known, label, NULL,
		    "this name is not valid; expected 1 to 64 of letters, digits, - _ .");
		return;
	}
	if (label)
		(void)snprintf(l->label, sizeof(l->label), "%s", label);
	/* An unnamed section without keys says nothing: the sample file has one. */
	if (!label || claim_upstream(l, label))
		l->section = known;
}

static void on_entry(void *cls, unsigned int line, const char *key, const char *value)
{
	struct loader *l = cls;
	const struct config_setting *s;

	l->here.line = line;
	if (!l->section) {
		/* Below a bad header, one error is enough. */
		if (!l->seen_header)
			complain(l, &l->here, NULL, NULL, NULL,
			    "an entry before any section; expected a [section] above it");
		return;
	}
	if (is_upstream(l->section) && !claim_upstream(l, l->label)) {
		l->section = NULL;
		return;
	}
	s = config_find_setting(l->section, key);
	if (s)
		set_value(l, s, value);
	else
		complain_of_unknown(l, l->section, l->label, key);
}

static void on_syntax_error(void *cls, unsigned int line, const char *what)
{
	struct loader *l = cls;

	l->here.line = line;
	complain(l, &l->here, NULL, NULL, NULL, what);
}

static void begin_source(struct loader *l, const char *source, bool is_flag)
{
	l->here = (struct place){
		.source = source, .pass = l->here.pass + 1, .is_flag = is_flag
	};
	l->section = NULL;
	l->seen_header = false;
}

static void parse_file(struct loader *l, const char *name, const char *data, size_t len)
{
	static const struct config_ini_handler handler = {
		.section = on_section,
		.entry = on_entry,
		.syntax_error = on_syntax_error,
	};

	begin_source(l, name, false);
	if (config_ini_parse(data, len, &handler, l) < 0)
		l->out_of_memory = true;
}

static int read_bytes(const char *path, struct strbuf *b)
{
	CLEANUP(cleanup_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
	char chunk[4096];
	ssize_t n;

	if (fd < 0)
		return -errno;
	for (;;) {
		n = read(fd, chunk, sizeof(chunk));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : strbuf_status(b);
		if (b->len + (size_t)n > FILE_MAX_BYTES)
			return -EFBIG;
		strbuf_add(b, chunk, (size_t)n);
	}
}

static void load_file(struct loader *l, const char *path, bool required)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	char what[256];
	int r;

	r = read_bytes(path, &b);
	if (r == 0) {
		parse_file(l, path, strbuf_str(&b), b.len);
		return;
	}
	if (r == -ENOMEM)
		l->out_of_memory = true;
	if (r == -ENOMEM || (r == -ENOENT && !required))
		return;
	begin_source(l, path, false);
	(void)snprintf(what, sizeof(what),
	    "can't be read: %s; expected a readable text file", strerror(-r));
	complain(l, &l->here, NULL, NULL, NULL, what);
}

static int is_fragment(const struct dirent *e)
{
	size_t len = strlen(e->d_name);

	return e->d_name[0] != '.' && len > 5 &&
	       strcmp(e->d_name + len - 5, ".conf") == 0;
}

/* By bytes, so that the order is the same in every locale. */
static int compare_names(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void load_fragment(struct loader *l, const char *path)
{
	struct stat st;

	/* A pipe would be waited for. */
	if (stat(path, &st) < 0 || S_ISREG(st.st_mode)) {
		load_file(l, path, true);
		return;
	}
	begin_source(l, path, false);
	complain(l, &l->here, NULL, NULL, NULL, "is not a regular file; expected one");
}

/* Keep the path in the loader; NULL without memory. */
static const char *keep_path(struct loader *l, const char *folder, const char *name)
{
	char **paths = reallocarray(l->paths, l->path_count + 1, sizeof(*paths));
	char *path = NULL;

	if (paths)
		l->paths = paths;
	if (!paths ||
	    asprintf(&path, "%s%s%s", folder, name ? "/" : "", name ? name : "") < 0) {
		l->out_of_memory = true;
		return NULL;
	}
	paths[l->path_count++] = path;
	return path;
}

static void load_folder(struct loader *l, const char *file)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	struct dirent **entries = NULL;
	const char *folder;
	int n;

	strbuf_addf(&b, "%s.d", file);
	folder = strbuf_status(&b) == 0 ? keep_path(l, strbuf_str(&b), NULL) : NULL;
	if (!folder) {
		l->out_of_memory = true;
		return;
	}
	n = scandir(folder, &entries, is_fragment, compare_names);
	if (n < 0 && errno != ENOENT) {
		strbuf_reset(&b);
		strbuf_addf(&b, "can't be read: %s; expected a readable folder, or none",
		    strerror(errno));
		begin_source(l, folder, false);
		complain(l, &l->here, NULL, NULL, NULL, strbuf_str(&b));
	}
	for (int i = 0; i < n; i++) {
		const char *path = keep_path(l, folder, entries[i]->d_name);

		free(entries[i]);
		if (path)
			load_fragment(l, path);
	}
	free(entries);
}

static void set_flag(struct loader *l, const char *flag, const char *section,
    const char *key, const char *text)
{
	if (!text)
		return;
	begin_source(l, flag, true);
	set_value(l, config_find_setting(section, key), text);
}

/* Paths on the command line are the shell's: relative to where it stands. */
static void set_path_flag(struct loader *l, const char *flag, const char *section,
    const char *key, const char *path)
{
	CLEANUP(cleanup_free) char *folder = NULL;
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	if (path && path[0] != '\0' && path[0] != '/')
		folder = getcwd(NULL, 0);
	if (!folder) {
		set_flag(l, flag, section, key, path);
		return;
	}
	strbuf_addf(&b, "%s/%s", strcmp(folder, "/") == 0 ? "" : folder, path);
	if (strbuf_status(&b) < 0)
		l->out_of_memory = true;
	else
		set_flag(l, flag, section, key, strbuf_str(&b));
}

static void apply_flags(struct loader *l, const struct config_sources *src)
{
	set_flag(l, "--upstream", "upstream", "url", src->upstream_url);
	set_path_flag(l, "--spool", "spool", "directory", src->spool_directory);
	set_path_flag(l, "--control", "control", "socket", src->control_socket);
	/* One source, so that the flag given twice adds up. */
	begin_source(l, "--listen", true);
	for (size_t i = 0; i < src->listen_count; i++)
		set_value(l, config_find_setting("listen", "http"), src->listen[i]);
}

static const struct place *place_of(
    const struct loader *l, const struct config_setting *s)
{
	size_t count;

	return &l->places[s - config_settings(&count)];
}

/* Complain where a number is not below (or, unless strict, equal to) another; the place
 * is the later of the two. */
static void check_order(struct loader *l, const char *section, const char *lower_key,
    const char *upper_key, bool strict)
{
	const struct config_setting *lower = config_find_setting(section, lower_key);
	const struct config_setting *upper = config_find_setting(section, upper_key);
	const struct place *a = place_of(l, lower);
	const struct place *b = place_of(l, upper);
	int64_t low = *(const int64_t *)config_field(&l->config, lower);
	int64_t high = *(const int64_t *)config_field(&l->config, upper);
	bool at_lower = a->pass > b->pass || (a->pass == b->pass && a->line > b->line);
	char what[160];

	if (a->is_bad || b->is_bad || low < high || (low == high && !strict))
		return;
	(void)snprintf(what, sizeof(what),
	    "%s must be %s %s; expected a %s value, or a %s %s", lower_key,
	    strict ? "less than" : "at most", upper_key, at_lower ? "smaller" : "larger",
	    at_lower ? "larger" : "smaller", at_lower ? upper_key : lower_key);
	complain_of_setting(l, at_lower ? a : b, at_lower ? lower : upper, what);
}

static bool has_fixed_port(const struct config_address *a)
{
	struct sockaddr_in in;
	struct sockaddr_in6 in6;

	if (a->addr.ss_family == AF_INET) {
		memcpy(&in, &a->addr, sizeof(in));
		return in.sin_port != 0;
	}
	memcpy(&in6, &a->addr, sizeof(in6));
	return in6.sin6_port != 0;
}

/* The same address twice could never be bound; with port 0 it is two ports. */
static void check_addresses(struct loader *l)
{
	const struct config_setting *s = config_find_setting("listen", "http");
	const struct config_addresses *http = &l->config.listen.http;

	for (size_t i = 0; i < http->count; i++)
		for (size_t j = 0; j < i; j++) {
			const struct config_address *a = &http->items[i];
			const struct config_address *b = &http->items[j];

			if (a->len != b->len || !has_fixed_port(a) ||
			    memcmp(&a->addr, &b->addr, a->len) != 0)
				continue;
			complain_of_setting(l, place_of(l, s), s,
			    "names the same address twice (localhost is 127.0.0.1 and "
			    "[::1]); "
			    "expected each once");
			return;
		}
}

static void check_upstream(struct loader *l)
{
	const struct config_upstream *up = &l->config.upstream;
	const struct config_setting *url = config_find_setting("upstream", "url");
	const struct config_setting *ca_file = config_find_setting("upstream", "ca_file");
	struct stat st;
	char what[160];
	int r = 0;

	if (l->has_upstream && !up->url && !place_of(l, url)->is_bad)
		complain_of_setting(l, &l->upstream_place, url,
		    "is missing; expected url = https://HOST in this section");
	if (!up->ca_file)
		return;
	/* Not opened: to open a device may have effects. */
	if (stat(up->ca_file, &st) < 0 ||
	    faccessat(AT_FDCWD, up->ca_file, R_OK, AT_EACCESS) < 0)
		r = errno;
	else if (!S_ISREG(st.st_mode))
		r = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
	if (r == 0)
		return;
	(void)snprintf(what, sizeof(what),
	    "the file can't be read: %s; expected a file of PEM certificates",
	    strerror(r));
	complain_of_setting(l, place_of(l, ca_file), ca_file, what);
}

static void loader_init(struct loader *l, struct config_errors *errs)
{
	size_t count;
	const struct config_setting *s = config_settings(&count);

	*l = (struct loader){ .errs = errs };
	assert(count <= SETTINGS_MAX);
	for (size_t i = 0; i < count; i++)
		if (s[i].default_text)
			set_value(l, &s[i], s[i].default_text);
	for (size_t i = 0; i < l->config.listen.http.count; i++)
		l->config.listen.http.items[i].implied = true;
}

/* Check the whole, hand it over if it is sound, and release the rest. */
static int loader_finish(struct loader *l, struct config *ret)
{
	int r = 0;

	check_addresses(l);
	check_order(l, "spool", "reserve", "max_bytes", true);
	check_order(l, "forward", "retry_min", "retry_max", false);
	check_upstream(l);
	for (size_t i = 0; i < l->path_count; i++)
		free(l->paths[i]);
	free(l->paths);
	if (l->out_of_memory || l->errs->out_of_memory)
		r = -ENOMEM;
	else if (l->complaints > 0)
		r = -EINVAL;
	if (r < 0)
		config_done(&l->config);
	else
		*ret = l->config;
	return r;
}

int config_load(
    const struct config_sources *src, struct config *ret, struct config_errors *errs)
{
	struct loader l;

	loader_init(&l, errs);
	load_file(&l, src->path, src->path_required);
	load_folder(&l, src->path);
	apply_flags(&l, src);
	return loader_finish(&l, ret);
}

int config_parse_buffer(const char *name, const char *data, size_t len,
    struct config *ret, struct config_errors *errs)
{
	struct loader l;

	loader_init(&l, errs);
	parse_file(&l, name, data, len);
	return loader_finish(&l, ret);
}
