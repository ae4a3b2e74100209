/* SPDX-License-Identifier: MIT */
/* Options of an upstream: what can't work is refused at once, and no complaint shows a
 * secret that stands in an option. What uploads do is the daemon tests' business. */
#include "upstream.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

static const struct upstream_options defaults = {
	.url = "http://upstream.example",
	.token = "tokensecret",
	.connect_timeout_ms = 1000,
	.stall_timeout_ms = 1000,
	.version = "1",
};

static int try_options(const struct upstream_options *o, char errbuf[256])
{
	struct upstream *u = NULL;
	int r = upstream_new(o, &u, errbuf, 256);

	cr_assert_eq(r == 0, u != NULL);
	(void)upstream_free(u);
	return r;
}

Test(upstream, url_that_can_not_be_posted_to_is_refused_without_showing_it)
{
	static const char *const urls[] = { "", "secret", "secret.example:80",
		"ftp://secret.example", "unix:///secret", "http://",
		"http://user:secret@host", "http://secret@host", "http://h:99999/secret",
		"http://h/?token=secret", "https://h/x#secret" };

	for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
		struct upstream_options o = defaults;
		char errbuf[256] = "";

		o.url = urls[i];
		cr_expect_eq(try_options(&o, errbuf), -EINVAL, "%s", urls[i]);
		cr_expect(strstr(errbuf, "url"), "%s: %s", urls[i], errbuf);
		cr_expect_not(strstr(errbuf, "secret"), "%s: %s", urls[i], errbuf);
	}
}

Test(upstream, proxy_that_can_not_work_is_refused_without_showing_it)
{
	static const char *const proxies[] = { "ftp://u:secret@h", "socks9://u:secret@h",
		"http://u:secret@h:99999", "u:secret@ho st", "http://u:secret@" };

	for (size_t i = 0; i < ARRAY_LEN(proxies); i++) {
		struct upstream_options o = defaults;
		char errbuf[256] = "";

		o.proxy = proxies[i];
		cr_expect_eq(try_options(&o, errbuf), -EINVAL, "%s", proxies[i]);
		cr_expect(strstr(errbuf, "proxy"), "%s: %s", proxies[i], errbuf);
		cr_expect_not(strstr(errbuf, "secret"), "%s: %s", proxies[i], errbuf);
	}
}

Test(upstream, good_options_are_taken_and_the_host_is_shown_as_configured)
{
	static const struct {
		const char *url, *proxy, *host;
	} good[] = {
		{ "http://h", NULL, "h" },
		{ "https://submit.backtrace.io/", "", "submit.backtrace.io" },
		{ "HTTPS://h:8443/relay/", "http://u:p@proxy:3128", "h:8443" },
		{ "http://[::1]:6097//x/../y", "socks5h://proxy", "[::1]:6097" },
		{ "http://127.0.0.1:1", "proxy:3128", "127.0.0.1:1" },
	};

	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct upstream_options o = defaults;
		struct upstream *u = NULL;
		char errbuf[256] = "";

		o.url = good[i].url;
		o.proxy = good[i].proxy;
		cr_assert_eq(
		    upstream_new(&o, &u, errbuf, sizeof(errbuf)), 0, "%s", errbuf);
		cr_expect_str_eq(upstream_host(u), good[i].host);
		(void)upstream_free(u);
	}
}
