/* SPDX-License-Identifier: MIT */
/* Owns where the spool and the control socket are when nothing says so (interface.md,
 * section 1; systemd.exec(5) for the folders that a service manager makes; the XDG base
 * directory specification, by which a relative value is ignored).
 */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const char *get_process_variable(void *cls, const char *name)
{
	(void)cls; /* the process has one environment */
	return getenv(name);
}

struct config_environment config_process_environment(void)
{
	return (struct config_environment){ .get = get_process_variable,
		.is_root = geteuid() == 0 };
}

/* The folder that the variable names, joined with rest. -ENOENT when it names none. */
static int join_variable(const struct config_environment *env, const char *name,
    const char *separators, const char *rest, char **ret)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;
	const char *value = env->get(env->cls, name);
	char *path;

	if (!value || value[0] != '/')
		return -ENOENT;
	strbuf_add(&b, value, strcspn(value, separators));
	strbuf_add_str(&b, rest);
	path = strbuf_take(&b);
	if (!path)
		return -ENOMEM;
	*ret = path;
	return 0;
}

/* A service manager may name several folders in one variable: the first is ours. */
static int join_first(
    const struct config_environment *env, const char *name, const char *rest, char **ret)
{
	return join_variable(env, name, ":", rest, ret);
}

static int join(
    const struct config_environment *env, const char *name, const char *rest, char **ret)
{
	return join_variable(env, name, "", rest, ret);
}

static int copy_path(const char *path, char **ret)
{
	char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	*ret = copy;
	return 0;
}

int config_default_spool_directory(const struct config_environment *env, char **ret)
{
	int r;

	r = join_first(env, "STATE_DIRECTORY", "", ret);
	if (r != -ENOENT)
		return r;
	if (env->is_root)
		return copy_path("/var/lib/minidump-relay", ret);
	r = join(env, "XDG_STATE_HOME", "/minidump-relay", ret);
	if (r != -ENOENT)
		return r;
	return join(env, "HOME", "/.local/state/minidump-relay", ret);
}

int config_default_control_socket(const struct config_environment *env, char **ret)
{
	int r;

	r = join_first(env, "RUNTIME_DIRECTORY", "/control.sock", ret);
	if (r != -ENOENT)
		return r;
	if (env->is_root)
		return copy_path("/run/minidump-relay/control.sock", ret);
	return join(env, "XDG_RUNTIME_DIR", "/minidump-relay/control.sock", ret);
}

/* Fill the setting where it is empty, judged by its row like any other value. */
static int resolve(struct config *c, const struct config_setting *s,
    const struct config_environment *env,
    int (*find)(const struct config_environment *env, char **ret), const char *advice,
    struct config_errors *errs)
{
	CLEANUP(strbuf_done) struct strbuf why = STRBUF_INIT;
	CLEANUP(cleanup_free) char *path = NULL;
	char **field = config_field(c, s);
	int r;

	if (*field)
		return 0;
	r = find(env, &path);
	if (r == 0)
		r = config_value_set(s, path, field, &why);
	if (r == -ENOENT) {
		config_errors_add(errs,
		    "[%s] %s: no place is known by default; expected %s", s->section,
		    s->key, advice);
		return -EINVAL;
	}
	if (r == -EINVAL)
		config_errors_add(errs,
		    "[%s] %s: %s (this default is from the environment)", s->section,
		    s->key, strbuf_str(&why));
	return r;
}

int config_resolve_paths(
    struct config *c, const struct config_environment *env, struct config_errors *errs)
{
	int spool;
	int control;

	spool = resolve(c, config_find_setting("spool", "directory"), env,
	    config_default_spool_directory,
	    "--spool DIR, that key, or one of $STATE_DIRECTORY, $XDG_STATE_HOME and "
	    "$HOME set "
	    "to an absolute path",
	    errs);
	control = resolve(c, config_find_setting("control", "socket"), env,
	    config_default_control_socket,
	    "--control PATH, that key, or one of $RUNTIME_DIRECTORY and $XDG_RUNTIME_DIR "
	    "set "
	    "to an absolute path",
	    errs);
	return spool < 0 ? spool : control;
}
