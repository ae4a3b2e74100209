/* SPDX-License-Identifier: MIT */
/* Owns the destination: what its options must be like and the copy of them that uploads
 * share. Invariants: a struct upstream does not change once made, but for the count of its
 * references; no complaint about an option shows the option's value, which may be secret. */
#include "upstream_internal.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

struct upstream *upstream_ref(struct upstream *u)
{
	u->refs++;
	return u;
}

struct upstream *upstream_unref(struct upstream *u)
{
	if (!u || --u->refs > 0)
		return NULL;
	free(u->base);
	free(u->host);
	free(u->prefix);
	free(u->universe);
	if (u->token)
		explicit_bzero(u->token, strlen(u->token));
	free(u->token);
	free(u->proxy);
	free(u->ca_file);
	free(u->user_agent);
	free(u);
	return NULL;
}

struct upstream *upstream_free(struct upstream *u)
{
	if (u)
		u->retired = true;
	return upstream_unref(u);
}

static void cleanup_upstream(struct upstream **u)
{
	(void)upstream_unref(*u);
}

static void cleanup_url(CURLU **u)
{
	curl_url_cleanup(*u);
}

static void cleanup_curl_string(char **s)
{
	curl_free(*s);
}

static int copy_string(const char *s, char **ret)
{
	if (!s || !*s)
		return 0;
	*ret = strdup(s);
	return *ret ? 0 : -ENOMEM;
}

static bool url_has(CURLU *url, CURLUPart part)
{
	CLEANUP(cleanup_curl_string) char *s = NULL;

	return curl_url_get(url, part, &s, 0) == CURLUE_OK;
}

static int bad_option(char *errbuf, size_t errbuf_size, const char *why)
{
	(void)snprintf(errbuf, errbuf_size, "%s", why);
	return -EINVAL;
}

/* Take the prefix without the slashes at its end, so that prefix and target join well. */
static int take_prefix(struct upstream *u, const char *path)
{
	size_t len = strlen(path);

	while (len > 0 && path[len - 1] == '/')
		len--;
	u->prefix = strndup(path, len);
	return u->prefix ? 0 : -ENOMEM;
}

static int parse_url(struct upstream *u, const struct upstream_options *o, char *errbuf,
    size_t errbuf_size)
{
	CLEANUP(cleanup_url) CURLU *url = curl_url();
	CLEANUP(cleanup_curl_string) char *scheme = NULL;
	CLEANUP(cleanup_curl_string) char *host = NULL;
	CLEANUP(cleanup_curl_string) char *port = NULL;
	CLEANUP(cleanup_curl_string) char *path = NULL;

	if (!url)
		return -ENOMEM;
	if (curl_url_set(url, CURLUPART_URL, o->url, CURLU_PATH_AS_IS) != CURLUE_OK)
		return bad_option(errbuf, errbuf_size,
		    "the upstream's url is none; expected "
		    "http[s]://HOST[:PORT][/PREFIX]");
	if (url_has(url, CURLUPART_USER) || url_has(url, CURLUPART_PASSWORD))
		return bad_option(errbuf, errbuf_size,
		    "the upstream's url may not carry a user or password");
	if (url_has(url, CURLUPART_QUERY) || url_has(url, CURLUPART_FRAGMENT))
		return bad_option(errbuf, errbuf_size,
		    "the upstream's url may not carry a query or fragment");
	if (curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
	    curl_url_get(url, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
	    curl_url_get(url, CURLUPART_PATH, &path, 0) != CURLUE_OK)
		return -ENOMEM;
	if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
		return bad_option(errbuf, errbuf_size,
		    "the upstream's url must begin with http:// or https://");
	/* No port is no error: the scheme's. */
	(void)curl_url_get(url, CURLUPART_PORT, &port, 0);
	if (asprintf(&u->host, "%s%s%s", host, port ? ":" : "", port ? port : "") < 0) {
		u->host = NULL;
		return -ENOMEM;
	}
	if (asprintf(&u->base, "%s://%s", scheme, u->host) < 0) {
		u->base = NULL;
		return -ENOMEM;
	}
	u->style = o->style_by_host ? endpoint_style_for_host(host) : o->style;
	u->absolute_target = strcmp(scheme, "http") == 0;
	return take_prefix(u, path);
}

/* Proxies are checked here because curl's own complaint about a bad one would show its
 * password. Behind one that speaks HTTP an http:// upload is no tunnel, and its request
 * line names the whole URL (RFC 9112, section 3.2.2). */
static int parse_proxy(
    struct upstream *u, const char *text, char *errbuf, size_t errbuf_size)
{
	static const char *const schemes[] = { "http", "https", "socks4", "socks4a",
		"socks5", "socks5h" };
	CLEANUP(cleanup_url) CURLU *url = curl_url();
	CLEANUP(cleanup_curl_string) char *scheme = NULL;
	size_t i = 0;

	if (!url)
		return -ENOMEM;
	if (curl_url_set(url, CURLUPART_URL, text,
		CURLU_NON_SUPPORT_SCHEME | CURLU_GUESS_SCHEME) != CURLUE_OK)
		return bad_option(errbuf, errbuf_size,
		    "the proxy is no URL; expected SCHEME://[USER:PASSWORD@]HOST[:PORT]");
	/* Without a scheme it is an HTTP proxy, whatever its host is called. */
	if (strstr(text, "://") &&
	    curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK)
		return -ENOMEM;
	while (
	    i < ARRAY_LEN(schemes) && strcmp(scheme ? scheme : "http", schemes[i]) != 0)
		i++;
	if (i == ARRAY_LEN(schemes))
		return bad_option(errbuf, errbuf_size,
		    "the proxy's scheme is unknown; expected http, https, socks4, "
		    "socks4a, "
		    "socks5 or socks5h");
	u->absolute_target = u->absolute_target && i < 2;
	return copy_string(text, &u->proxy);
}

static long clamp_ms(int64_t ms)
{
	return ms < 1 ? 1 : ms > INT_MAX ? INT_MAX : (long)ms;
}

static int copy_options(struct upstream *u, const struct upstream_options *o)
{
	int r = copy_string(o->universe, &u->universe);

	u->connect_timeout_ms = clamp_ms(o->connect_timeout_ms);
	u->stall_timeout_ms = clamp_ms(o->stall_timeout_ms);
	if (r < 0)
		return r;
	r = copy_string(o->token, &u->token);
	if (r < 0)
		return r;
	r = copy_string(o->ca_file, &u->ca_file);
	if (r < 0)
		return r;
	if (asprintf(&u->user_agent, "minidump-relay/%s", o->version) < 0) {
		u->user_agent = NULL;
		return -ENOMEM;
	}
	return 0;
}

int upstream_new(const struct upstream_options *options, struct upstream **ret,
    char *errbuf, size_t errbuf_size)
{
	CLEANUP(cleanup_upstream) struct upstream *u = calloc(1, sizeof(*u));
	int r;

	/* What follows overwrites it where it knows better. */
	(void)snprintf(errbuf, errbuf_size, "out of memory");
	if (!u)
		return -ENOMEM;
	u->refs = 1;
	r = copy_options(u, options);
	if (r < 0)
		return r;
	r = parse_url(u, options, errbuf, errbuf_size);
	if (r < 0)
		return r;
	if (options->proxy && *options->proxy) {
		r = parse_proxy(u, options->proxy, errbuf, errbuf_size);
		if (r < 0)
			return r;
	} else {
		u->absolute_target = false;
	}
	*ret = TAKE_PTR(u);
	return 0;
}

const char *upstream_host(const struct upstream *u)
{
	return u->host;
}
