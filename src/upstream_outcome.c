/* SPDX-License-Identifier: MIT */
/* Owns the meaning of curl's codes and of HTTP statuses, and the words people read about a
 * failed upload. Invariant: no token is left in those words. */
#include "upstream_internal.h"

#include "json.h"
#include "report.h"

#include <errno.h>
#include <string.h>

/* What an answer does (interface.md, section 6); the first row that covers it counts. */
static const struct {
	unsigned from, to;
	enum upstream_outcome outcome;
} answers[] = {
	{ 200, 299, UPSTREAM_ACCEPTED },
	{ 300, 999, UPSTREAM_RETRY },
};

static enum upstream_outcome classify_answer(unsigned status)
{
	for (size_t i = 0; i < ARRAY_LEN(answers); i++)
		if (status >= answers[i].from && status <= answers[i].to)
			return answers[i].outcome;
	return UPSTREAM_RETRY;
}

/* Whether curl failed for a reason that lies with us. */
static bool is_our_failure(CURLcode code)
{
	return code == CURLE_OUT_OF_MEMORY || code == CURLE_FAILED_INIT ||
	       code == CURLE_BAD_FUNCTION_ARGUMENT || code == CURLE_NOT_BUILT_IN;
}

static enum upstream_outcome classify(
    const struct upload *up, CURLcode code, bool sent_whole)
{
	enum upstream_outcome outcome;

	/* A payload that is not there any more is as damaged as one that is altered. */
	if (up->read_error == -EBADMSG || up->read_error == -ENOENT)
		return UPSTREAM_DAMAGED;
	if (up->read_error < 0)
		return UPSTREAM_UNREADABLE;
	if (up->status == 0)
		return is_our_failure(code) ? UPSTREAM_UNREADABLE : UPSTREAM_UNAVAILABLE;
	outcome = classify_answer(up->status);
	/* What was said before all was sent can't be about the whole report. */
	if (outcome == UPSTREAM_ACCEPTED && !sent_whole)
		return UPSTREAM_RETRY;
	return outcome;
}

/* Copy as much as fits, ending at the border of a UTF-8 sequence. */
static void copy_text(char out[UPSTREAM_TEXT_SIZE], const char *text)
{
	size_t len = strlen(text);

	if (len >= UPSTREAM_TEXT_SIZE) {
		len = UPSTREAM_TEXT_SIZE - 1;
		while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
			len--;
	}
	memcpy(out, text, len);
	out[len] = '\0';
}

/* Shorten each occurrence of a token in text. */
static void redact(struct strbuf *text, const char *token)
{
	CLEANUP(strbuf_done) struct strbuf clean = STRBUF_INIT;
	char shortened[ENDPOINT_SHORT_TOKEN_SIZE];
	const char *from = strbuf_str(text);
	const char *found;

	if (!token || !*token || !strstr(from, token))
		return;
	endpoint_shorten_token(token, shortened);
	for (; (found = strstr(from, token)); from = found + strlen(token)) {
		strbuf_add(&clean, from, (size_t)(found - from));
		strbuf_add_str(&clean, shortened);
	}
	strbuf_add_str(&clean, from);
	/* Without memory rather nothing than a secret. */
	strbuf_reset(text);
	strbuf_add_str(text, strbuf_str(&clean));
}

/* What people are told: the beginning of the answer, else what curl says. The whole
 * answer is cleaned of tokens before it is cut, or half of one could be left at the end.
 */
static void describe(const struct upload *up, CURLcode code, char out[UPSTREAM_TEXT_SIZE])
{
	CLEANUP(strbuf_done) struct strbuf text = STRBUF_INIT;
	CLEANUP(strbuf_done) struct strbuf safe = STRBUF_INIT;

	errno = -up->read_error;
	if (up->read_error == -EBADMSG)
		strbuf_add_str(&text, "the stored body is damaged");
	else if (up->read_error < 0)
		strbuf_addf(&text, "the stored body cannot be read: %m");
	else if (up->status > 0)
		strbuf_add(&text, up->reply.data, up->reply.len);
	else if (code != CURLE_OK)
		strbuf_add_str(
		    &text, up->error[0] ? up->error : curl_easy_strerror(code));
	for (size_t i = 0; i < text.len; i++)
		if (text.data[i] == '\0')
			text.data[i] = ' ';
	redact(&text, up->report->token);
	redact(&text, up->upstream->token);
	strbuf_add_escaped(
	    &safe, strbuf_str(&text), strlen(strbuf_str(&text)), UPSTREAM_TEXT_SIZE - 1);
	copy_text(out, strbuf_str(&safe));
}

/* A name goes into a URL again, for follow-up attachments: visible ASCII only. */
static void read_rxid(const struct upload *up, char out[UPSTREAM_RXID_SIZE])
{
	if (up->reply.len == 0 || strbuf_status(&up->reply) < 0 ||
	    !json_read_string(
		up->reply.data, up->reply.len, "_rxid", out, UPSTREAM_RXID_SIZE))
		return;
	for (const char *p = out; *p; p++)
		if (*p <= ' ' || *p > '~') {
			out[0] = '\0';
			return;
		}
}

void upstream_judge(
    const struct upload *up, CURLcode code, bool cancelled, struct upstream_result *ret)
{
	uint64_t sent = upload_sent_bytes(up);
	bool sent_whole = sent == up->report->payload.body_bytes;
	bool began = upload_began(up);

	*ret = (struct upstream_result){
		.report = up->report,
		.outcome = UPSTREAM_CANCELLED,
		.http_status = up->status,
		.retry_after_ms = up->retry_after_ms,
		.sent_bytes = up->earlier_sent + sent,
		.began = began,
		.ambiguous =
		    up->earlier_whole || (began && sent_whole && up->status == 0),
	};
	if (!cancelled || up->status > 0)
		ret->outcome = classify(up, code, sent_whole);
	if (!sent_whole && classify_answer(up->status) == UPSTREAM_ACCEPTED)
		ret->ambiguous = true;
	if (ret->outcome == UPSTREAM_ACCEPTED)
		read_rxid(up, ret->rxid);
	else
		describe(up, code, ret->text);
}
