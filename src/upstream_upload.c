/* SPDX-License-Identifier: MIT */
/* Owns one upload: what its curl handle is set to, what goes up and what is read of the
 * answer. Invariants: the request target, which carries the token, is never part of curl's
 * URL, so no error text of curl's can show it; nothing is taken from the environment; the
 * answer is read up to a fixed size. */
#include "upstream_internal.h"

#include "backoff.h"
#include "clock.h"
#include "report.h"
#include "spool.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

uint64_t upload_sent_bytes(const struct upload *up)
{
	curl_off_t n = 0;

	if (curl_easy_getinfo(up->easy, CURLINFO_SIZE_UPLOAD_T, &n) != CURLE_OK || n < 0)
		return 0;
	return (uint64_t)n;
}

bool upload_began(const struct upload *up)
{
	curl_off_t connected_us = 0;

	return up->earlier_sent > 0 || upload_sent_bytes(up) > 0 ||
	       (curl_easy_getinfo(up->easy, CURLINFO_PRETRANSFER_TIME_T, &connected_us) ==
		       CURLE_OK &&
		   connected_us > 0);
}

/* What curl calls */

/* Keep little unsent in the socket's buffer (what is in flight is not limited): else the
 * last megabytes of a body would seem sent, and their way over a slow line would count as
 * upstream's silence. */
static int prepare_socket(void *cls, curl_socket_t fd, curlsocktype purpose)
{
	int unsent_bytes = 128 * 1024;

	(void)cls;
	(void)purpose;
	/* Without it uploads work as well, but for that. */
	(void)setsockopt(
	    fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_bytes, sizeof(unsent_bytes));
	return CURL_SOCKOPT_OK;
}

static size_t read_body(char *buf, size_t size, size_t count, void *cls)
{
	struct upload *up = cls;
	ssize_t n = spool_reader_read(up->reader, buf, size * count);

	if (n == 0 && up->body_read < up->report->payload.body_bytes)
		n = -EBADMSG; /* an early end would leave upstream waiting for the rest */
	if (n < 0) {
		up->read_error = (int)n;
		return CURL_READFUNC_ABORT;
	}
	up->body_read += (uint64_t)n;
	return (size_t)n;
}

/* A kept connection turned out to be closed: curl tries again on a new one. Upstream may
 * have read all that was sent on the old one. */
static int rewind_body(void *cls, curl_off_t offset, int origin)
{
	struct upload *up = cls;
	int r;

	if (offset != 0 || origin != SEEK_SET)
		return CURL_SEEKFUNC_FAIL;
	r = spool_reader_rewind(up->reader);
	if (r < 0) {
		up->read_error = r;
		return CURL_SEEKFUNC_FAIL;
	}
	up->earlier_sent += upload_sent_bytes(up);
	up->earlier_whole |= up->body_read == up->report->payload.body_bytes;
	up->body_read = 0;
	return CURL_SEEKFUNC_OK;
}

/* Copy the value of "Retry-After: 120\r\n"; false if the line is another header. */
static bool take_retry_after(const char *line, size_t len, char *out, size_t out_size)
{
	static const char name[] = "Retry-After:";
	size_t skip = sizeof(name) - 1;

	if (len < skip || strncasecmp(line, name, skip) != 0)
		return false;
	while (skip < len && (line[skip] == ' ' || line[skip] == '\t'))
		skip++;
	while (len > skip && strchr("\r\n \t", line[len - 1]))
		len--;
	if (len - skip >= out_size)
		return false;
	memcpy(out, line + skip, len - skip);
	out[len - skip] = '\0';
	return true;
}

/* Status of "HTTP/1.1 200 OK", 0 if the line is no status line. */
static unsigned parse_status_line(const char *line, size_t len)
{
	const char *sp = memchr(line, ' ', len);
	unsigned status = 0;

	if (len < 5 || strncmp(line, "HTTP/", 5) != 0 || !sp || line + len - sp < 4)
		return 0;
	for (int i = 1; i <= 3; i++) {
		if (sp[i] < '0' || sp[i] > '9')
			return 0;
		status = status * 10 + (unsigned)(sp[i] - '0');
	}
	return status;
}

/* Called for each line of header, those of interim answers (1xx) too. */
static size_t read_header(char *line, size_t size, size_t count, void *cls)
{
	struct upload *up = cls;
	size_t len = size * count;
	unsigned status = parse_status_line(line, len);
	char value[64];

	up->header_bytes += len;
	if (up->header_bytes > UPSTREAM_REPLY_MAX_BYTES)
		return 0;
	if (status >= 200)
		up->status = status;
	if (up->status >= 200 && take_retry_after(line, len, value, sizeof(value)))
		up->retry_after_ms = backoff_retry_after_ms(value, clock_wall_ms());
	return len;
}

static size_t read_reply(char *data, size_t size, size_t count, void *cls)
{
	struct upload *up = cls;
	size_t len = size * count;

	if (len > UPSTREAM_REPLY_MAX_BYTES - up->reply.len)
		return 0; /* more than any answer needs: curl closes the connection */
	strbuf_add(&up->reply, data, len);
	return len;
}

/* The handle */

#define SET(option, value)                                                               \
	do {                                                                             \
		CURLcode code_ = curl_easy_setopt(up->easy, (option), (value));          \
		if (code_ != CURLE_OK)                                                   \
			return code_;                                                    \
	} while (0)

/* What is the same for all uploads to one upstream. */
static CURLcode set_fixed_options(struct upload *up)
{
	const struct upstream *u = up->upstream;

	SET(CURLOPT_PRIVATE, up);
	SET(CURLOPT_ERRORBUFFER, up->error);
	SET(CURLOPT_URL, u->base);
	SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_USERAGENT, u->user_agent);
	SET(CURLOPT_NOSIGNAL, 1L);
	/* Else giving up would wait for a resolver that does not answer. */
	SET(CURLOPT_QUICK_EXIT, 1L);
	SET(CURLOPT_CONNECTTIMEOUT_MS, u->connect_timeout_ms);
	/* Empty strings keep curl from looking into the environment. */
	SET(CURLOPT_PROXY, u->proxy ? u->proxy : "");
	SET(CURLOPT_NOPROXY, "");
	SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_PROXY_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	if (u->ca_file) {
		SET(CURLOPT_CAINFO, u->ca_file);
		SET(CURLOPT_PROXY_CAINFO, u->ca_file);
		/* The folder of the system's authorities would be asked as well; a TLS
		 * library that knows none refuses the option, which is as good. */
		(void)curl_easy_setopt(up->easy, CURLOPT_CAPATH, NULL);
		(void)curl_easy_setopt(up->easy, CURLOPT_PROXY_CAPATH, NULL);
	}
	SET(CURLOPT_SOCKOPTFUNCTION, prepare_socket);
	SET(CURLOPT_POST, 1L);
	SET(CURLOPT_READFUNCTION, read_body);
	SET(CURLOPT_READDATA, up);
	SET(CURLOPT_SEEKFUNCTION, rewind_body);
	SET(CURLOPT_SEEKDATA, up);
	SET(CURLOPT_HEADERFUNCTION, read_header);
	SET(CURLOPT_HEADERDATA, up);
	SET(CURLOPT_WRITEFUNCTION, read_reply);
	SET(CURLOPT_WRITEDATA, up);
	return CURLE_OK;
}

static CURLcode set_body_options(struct upload *up, const char *target)
{
	/* Curl copies the target, and keeps the pointer of the header list. */
	SET(CURLOPT_REQUEST_TARGET, target);
	SET(CURLOPT_HTTPHEADER, up->headers);
	SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)up->report->payload.body_bytes);
	return CURLE_OK;
}

#undef SET

void upload_clear(struct upload *up)
{
	/* Unsetting an option can't fail. */
	if (up->easy)
		(void)curl_easy_setopt(up->easy, CURLOPT_HTTPHEADER, NULL);
	curl_slist_free_all(up->headers);
	up->headers = NULL;
	up->reader = spool_reader_close(up->reader);
	up->report = NULL;
	strbuf_done(&up->reply);
}

struct upload *upload_free(struct upload *up)
{
	if (!up)
		return NULL;
	upload_clear(up);
	curl_easy_cleanup(up->easy);
	up->upstream = upstream_unref(up->upstream);
	free(up);
	return NULL;
}

struct upload *upload_new(struct upstream *u)
{
	struct upload *up = calloc(1, sizeof(*up));

	if (!up)
		return NULL;
	up->upstream = upstream_ref(u);
	up->easy = curl_easy_init();
	if (!up->easy || set_fixed_options(up) != CURLE_OK)
		return upload_free(up);
	return up;
}

static int add_header(struct upload *up, const char *line)
{
	struct curl_slist *l = curl_slist_append(up->headers, line);

	if (!l)
		return -ENOMEM;
	up->headers = l;
	return 0;
}

/* Give a header of the client's as it was. Curl wants a semicolon after a name that shall
 * go without a value. A line break in a value would begin a header of its own. */
static int add_client_header(struct upload *up, const char *name, const char *value)
{
	CLEANUP(strbuf_done) struct strbuf b = STRBUF_INIT;

	strbuf_addf(&b, "%s%s%s", name, *value ? ": " : ";", value);
	if (strbuf_status(&b) < 0)
		return -ENOMEM;
	for (char *p = b.data; *p; p++)
		if (*p == '\r' || *p == '\n')
			*p = ' ';
	return add_header(up, b.data);
}

/* A header line with nothing behind its colon keeps curl from adding its own. */
static int add_headers(struct upload *up)
{
	const struct report_envelope *e = &up->report->envelope;
	int r = add_header(up, "Expect:");

	if (r < 0)
		return r;
	r = e->content_type ? add_client_header(up, "Content-Type", e->content_type)
			    : add_header(up, "Content-Type:");
	if (r < 0 || !e->content_encoding)
		return r;
	return add_client_header(up, "Content-Encoding", e->content_encoding);
}

/* Append the request target. Behind a proxy that wants the whole URL, that. */
static int build_target(
    const struct upstream *u, const struct report *r, struct strbuf *out)
{
	CLEANUP(endpoint_done) struct endpoint e = { 0 };
	const char *target = r->envelope.target;
	const struct endpoint_rewrite rewrite = {
		.style = u->style,
		.prefix = u->prefix,
		.token = u->token,
		.universe = u->universe,
		.format = r->format,
	};
	enum endpoint_fault fault;
	int n = endpoint_parse(target, strlen(target), &e, &fault);

	if (n < 0)
		return n == -ENOMEM ? n : -EINVAL;
	if (u->absolute_target)
		strbuf_add_str(out, u->base);
	return endpoint_upstream_target(&e, &rewrite, out);
}

int upload_prepare(struct upload *up, struct report *r, struct spool_reader *reader)
{
	CLEANUP(strbuf_done) struct strbuf target = STRBUF_INIT;
	int e;

	up->report = r;
	up->reader = reader;
	up->body_read = up->earlier_sent = 0;
	up->earlier_whole = false;
	up->read_error = 0;
	up->header_bytes = 0;
	up->status = 0;
	up->retry_after_ms = 0;
	up->progress_bytes = 0;
	up->moved_at_ms = up->looked_at_ms = clock_mono_ms();
	up->error[0] = '\0';
	e = add_headers(up);
	if (e < 0)
		return e;
	e = build_target(up->upstream, r, &target);
	if (e < 0)
		return e;
	return set_body_options(up, strbuf_str(&target)) == CURLE_OK ? 0 : -ENOMEM;
}
