/* SPDX-License-Identifier: MIT */
/* Owns the search for delimiters and the reading of part headers.
 *
 * Positions are relative to the input at hand; negative ones lie in the carry, the few
 * bytes of earlier input that may yet turn out to belong to a delimiter. What lies before
 * cursor has been delivered. The search is Knuth, Morris and Pratt's, so that no byte is
 * looked at more than a few times, with Horspool's skip while nothing is matched, so that
 * most bytes of bulk data are not looked at at all.
 */
#include "multipart.h"

#include "strbuf.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#define PATTERN_MAX (2 + MULTIPART_BOUNDARY_MAX)
#define CARRY_MAX (2 + PATTERN_MAX + MULTIPART_PADDING_MAX + 2)

enum state {
	PREAMBLE,
	HEADER,
	DATA,
	EPILOGUE
};

/* What stands after the pattern. */
enum suffix {
	SUFFIX_MORE,  /* not enough input to tell */
	SUFFIX_NEXT,  /* a delimiter: a part follows */
	SUFFIX_CLOSE, /* the closing delimiter */
	SUFFIX_WRONG  /* no delimiter: data */
};

struct multipart {
	struct multipart_handler handler;
	struct multipart *outer; /* the reader whose part this one reads, or NULL */
	struct multipart *inner; /* reads the nested part that is open, or NULL */
	uint64_t max_parts;
	uint64_t parts;
	enum multipart_verdict failed;
	enum state state;
	bool closed;
	bool ended;      /* no more input will come */
	bool is_bare_lf; /* the last header line ended without CR */

	unsigned char pattern[PATTERN_MAX]; /* "--" and the boundary */
	size_t pattern_len;
	uint16_t border[PATTERN_MAX + 1]; /* longest proper border of each prefix */
	uint16_t shift[256];              /* by hash of the last two bytes of a window */

	size_t matched;      /* bytes of pattern that end at the position at */
	ptrdiff_t match_end; /* where the whole pattern ended, when all is matched */
	ptrdiff_t at;
	ptrdiff_t cursor;
	const unsigned char *input;
	ptrdiff_t input_len;
	unsigned char carry[CARRY_MAX];
	size_t carry_len;

	struct strbuf block;        /* header lines of the part being begun */
	size_t line_start;          /* in block */
	struct multipart_text name; /* of the open nested part; points into block */
};

/* Parameters of a header value */

struct param {
	struct multipart_text name;
	struct multipart_text value;
	bool is_quoted;
};

static bool is_blank(int c)
{
	return c == ' ' || c == '\t';
}

static struct multipart_text trim(const char *p, const char *end)
{
	while (p < end && is_blank(*p))
		p++;
	while (end > p && is_blank(end[-1]))
		end--;
	return (struct multipart_text){ p, (size_t)(end - p) };
}

static const char *find_char(const char *p, const char *end, int c)
{
	const char *found = p < end ? memchr(p, c, (size_t)(end - p)) : NULL;

	return found ? found : end;
}

static bool text_is(struct multipart_text t, const char *word)
{
	return t.data && t.len == strlen(word) && strncasecmp(t.data, word, t.len) == 0;
}

/* The quote that closes a value begun before p. A backslash protects the next byte; but
 * Windows paths may end in one, so where no other quote follows it protects nothing. */
static const char *find_closing_quote(const char *p, const char *end)
{
	for (const char *q = p; q < end; q++) {
		if (*q == '"')
			return q;
		if (*q == '\\')
			q++;
	}
	return find_char(p, end, '"');
}

/* Read the parameter at *pos, after the semicolon; false at the end. */
static bool next_param(const char **pos, const char *end, struct param *ret)
{
	const char *p = *pos;
	const char *stop;

	while (p < end && (is_blank(*p) || *p == ';'))
		p++;
	if (p == end)
		return false;
	stop = p;
	while (stop < end && *stop != ';' && *stop != '=')
		stop++;
	*ret = (struct param){ .name = trim(p, stop) };
	if (stop == end || *stop == ';') {
		*pos = stop;
		return true;
	}
	for (p = stop + 1; p < end && is_blank(*p); p++)
		;
	if (p < end && *p == '"') {
		p++;
		stop = find_closing_quote(p, end);
		ret->value = (struct multipart_text){ p, (size_t)(stop - p) };
		ret->is_quoted = true;
	} else {
		stop = find_char(p, end, ';');
		ret->value = trim(p, stop);
	}
	*pos = find_char(stop, end, ';');
	return true;
}

/* Boundary */

bool multipart_is_type(const char *content_type)
{
	static const char type[] = "multipart/";

	if (!content_type)
		return false;
	while (is_blank(*content_type))
		content_type++;
	return strncasecmp(content_type, type, sizeof(type) - 1) == 0;
}

/* Copy a boundary's value, without the backslashes of a quoted one. */
static int copy_boundary(const struct param *p, char out[MULTIPART_BOUNDARY_MAX])
{
	struct multipart_text v = p->value;
	int len = 0;

	/* RFC 2046: a boundary does not end in blanks; clients that quote one that does
	 * can't have meant them. */
	v = trim(v.data, v.data + v.len);
	for (size_t i = 0; i < v.len; i++) {
		if (p->is_quoted && v.data[i] == '\\' && i + 1 < v.len)
			i++;
		if ((unsigned char)v.data[i] < 0x20 || v.data[i] == 0x7f)
			return -EINVAL;
		if (len == MULTIPART_BOUNDARY_MAX)
			return -E2BIG;
		out[len++] = v.data[i];
	}
	return len > 0 ? len : -EINVAL;
}

static int find_boundary(struct multipart_text type, char out[MULTIPART_BOUNDARY_MAX])
{
	const char *end = type.data + type.len;
	const char *p = type.data;
	struct param param;

	/* RFC 1867's examples have a comma after the media type. */
	while (p < end && *p != ';' && *p != ',')
		p++;
	if (p < end)
		p++;
	while (next_param(&p, end, &param))
		if (text_is(param.name, "boundary") && param.value.data)
			return copy_boundary(&param, out);
	return -ENOENT;
}

int multipart_find_boundary(const char *content_type, char out[MULTIPART_BOUNDARY_MAX])
{
	struct multipart_text t = { content_type, strlen(content_type) };

	return find_boundary(t, out);
}

/* Search tables */

static unsigned pair_hash(const unsigned char *second)
{
	return (second[0] - ((unsigned)second[-1] << 3)) & 0xff;
}

static void prepare_tables(struct multipart *m)
{
	size_t n = m->pattern_len;
	size_t k = 0;

	for (size_t i = 0; i < ARRAY_LEN(m->shift); i++)
		m->shift[i] = (uint16_t)(n - 1);
	for (size_t i = 1; i < n; i++)
		m->shift[pair_hash(&m->pattern[i])] = (uint16_t)(n - 1 - i);
	m->border[0] = m->border[1] = 0;
	for (size_t i = 1; i < n; i++) {
		while (k > 0 && m->pattern[i] != m->pattern[k])
			k = m->border[k];
		if (m->pattern[i] == m->pattern[k])
			k++;
		m->border[i + 1] = (uint16_t)k;
	}
}

/* Life */

int multipart_new(const char *boundary, size_t boundary_len, uint64_t max_parts,
    const struct multipart_handler *handler, struct multipart **ret)
{
	struct multipart *m;

	if (boundary_len == 0 || boundary_len > MULTIPART_BOUNDARY_MAX)
		return -EINVAL;
	/* The search relies on it that no line end is part of a delimiter. */
	if (memchr(boundary, '\r', boundary_len) || memchr(boundary, '\n', boundary_len))
		return -EINVAL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->handler = *handler;
	m->max_parts = max_parts;
	m->state = PREAMBLE;
	memcpy(m->pattern, "--", 2);
	memcpy(m->pattern + 2, boundary, boundary_len);
	m->pattern_len = 2 + boundary_len;
	prepare_tables(m);
	*ret = m;
	return 0;
}

struct multipart *multipart_free(struct multipart *m)
{
	if (!m)
		return NULL;
	m->inner = multipart_free(m->inner);
	strbuf_done(&m->block);
	free(m);
	return NULL;
}

static void fail(struct multipart *m, enum multipart_verdict why)
{
	if (m->failed == MULTIPART_OK)
		m->failed = why;
}

/* Delivery */

static unsigned char byte_at(const struct multipart *m, ptrdiff_t i)
{
	return i >= 0 ? m->input[i] : m->carry[(ptrdiff_t)m->carry_len + i];
}

static void deliver_slice(struct multipart *m, const unsigned char *data, size_t len)
{
	if (len == 0 || m->state != DATA || m->failed != MULTIPART_OK)
		return;
	if (m->inner)
		fail(m, multipart_feed(m->inner, data, len));
	else if (!m->handler.part_data(m->handler.cls, data, len))
		fail(m, MULTIPART_STOPPED);
}

/* Hand on what lies between the cursor and the position upto. */
static void deliver(struct multipart *m, ptrdiff_t upto)
{
	if (m->cursor < 0) {
		ptrdiff_t stop = upto < 0 ? upto : 0;

		deliver_slice(m, m->carry + ((ptrdiff_t)m->carry_len + m->cursor),
		    (size_t)(stop - m->cursor));
		m->cursor = stop;
	}
	if (upto > m->cursor) {
		deliver_slice(m, m->input + m->cursor, (size_t)(upto - m->cursor));
		m->cursor = upto;
	}
}

static void end_part(struct multipart *m)
{
	if (m->state != DATA || m->failed != MULTIPART_OK)
		return;
	if (m->inner) {
		fail(m, multipart_end(m->inner));
		m->inner = multipart_free(m->inner);
	} else if (!m->handler.part_end(m->handler.cls)) {
		fail(m, MULTIPART_STOPPED);
	}
}

/* Part headers */

static void read_disposition(struct multipart_text value, struct multipart_part *part)
{
	const char *end = value.data + value.len;
	const char *p = find_char(value.data, end, ';');
	struct multipart_text extended = { NULL, 0 };
	struct param param;

	while (next_param(&p, end, &param)) {
		if (!param.value.data)
			continue;
		if (text_is(param.name, "name") && !part->name.data)
			part->name = param.value;
		else if (text_is(param.name, "filename") && !part->filename.data)
			part->filename = param.value;
		else if (text_is(param.name, "filename*") && !extended.data)
			extended = param.value;
	}
	if (!part->filename.data)
		part->filename = extended;
}

/* Join folded lines (RFC 822's continuation): their line ends become blanks. */
static void unfold(struct strbuf *block)
{
	for (size_t i = 1; i + 1 < block->len; i++) {
		if (block->data[i] != '\n' || !is_blank(block->data[i + 1]))
			continue;
		block->data[i] = ' ';
		if (block->data[i - 1] == '\r')
			block->data[i - 1] = ' ';
	}
}

/* Read the header lines in block; the first of each name counts. */
static void read_header(struct multipart *m, struct multipart_part *part)
{
	const char *p = strbuf_str(&m->block);
	const char *end = p + m->block.len;
	bool has_disposition = false;

	unfold(&m->block);
	*part = (struct multipart_part){ 0 };
	for (; p < end; p++) {
		const char *eol = find_char(p, end, '\n');
		const char *colon = find_char(p, eol, ':');
		const char *stop = eol > p && eol[-1] == '\r' ? eol - 1 : eol;
		struct multipart_text name = trim(p, colon);

		if (colon < stop && text_is(name, "content-disposition")) {
			if (!has_disposition)
				read_disposition(trim(colon + 1, stop), part);
			has_disposition = true;
		} else if (colon < stop && text_is(name, "content-type") &&
			   !part->content_type.data) {
			part->content_type = trim(colon + 1, stop);
		}
		p = eol;
	}
}

/* A part of type multipart/mixed without a filename holds files of one name (RFC 2388,
 * section 4.2; curl -F name=@a,b). Begin to read it with a reader of its own, one level
 * deep. Without a usable boundary it is a part like others. */
static bool begin_nested(struct multipart *m, const struct multipart_part *part)
{
	static const char mixed[] = "multipart/mixed";
	char boundary[MULTIPART_BOUNDARY_MAX];
	int len;
	int r;

	if (m->outer || part->filename.data ||
	    part->content_type.len < sizeof(mixed) - 1 ||
	    strncasecmp(part->content_type.data, mixed, sizeof(mixed) - 1) != 0)
		return false;
	len = find_boundary(part->content_type, boundary);
	if (len < 0)
		return false;
	r = multipart_new(boundary, (size_t)len, 0, &m->handler, &m->inner);
	if (r < 0) {
		fail(m, MULTIPART_NO_MEMORY);
		return true;
	}
	m->inner->outer = m;
	m->name = part->name;
	return true;
}

/* The header block is complete: begin the part. */
static void begin_part(struct multipart *m)
{
	struct multipart *root = m->outer ? m->outer : m;
	struct multipart_part part;

	if (strbuf_status(&m->block) < 0) {
		fail(m, MULTIPART_NO_MEMORY);
		return;
	}
	read_header(m, &part);
	m->state = DATA;
	m->matched = 0;
	root->parts++;
	if (root->max_parts > 0 && root->parts > root->max_parts) {
		fail(m, MULTIPART_TOO_MANY_PARTS);
		return;
	}
	if (begin_nested(m, &part))
		return;
	if (m->outer)
		part.name = m->outer->name;
	if (!m->handler.part_begin(m->handler.cls, &part))
		fail(m, MULTIPART_STOPPED);
}

static void begin_header(struct multipart *m)
{
	m->state = HEADER;
	m->line_start = 0;
	strbuf_reset(&m->block);
}

/* Whether a line among the headers is a delimiter: parts may have headers only, and a
 * client may write two delimiters one after the other. */
static enum suffix judge_header_line(
    const struct multipart *m, const char *line, size_t len)
{
	size_t i = m->pattern_len;

	if (len < i || memcmp(line, m->pattern, i) != 0)
		return SUFFIX_WRONG;
	if (len - i >= 2 && line[i] == '-' && line[i + 1] == '-')
		return SUFFIX_CLOSE;
	if (len - i > MULTIPART_PADDING_MAX)
		return SUFFIX_WRONG;
	for (; i < len; i++)
		if (!is_blank(line[i]))
			return SUFFIX_WRONG;
	return SUFFIX_NEXT;
}

/* A line of the header block, or what stands of it at the end of the body, is complete.
 */
static void end_header_line(struct multipart *m)
{
	const char *line = strbuf_str(&m->block) + m->line_start;
	size_t len = m->block.len - m->line_start;
	enum suffix suffix;

	if (len > 0 && line[len - 1] == '\n')
		len--;
	m->is_bare_lf = len == 0 || line[len - 1] != '\r';
	if (!m->is_bare_lf)
		len--;
	if (len == 0 && !m->ended) {
		begin_part(m);
		return;
	}
	suffix = judge_header_line(m, line, len);
	if (suffix == SUFFIX_WRONG) {
		m->line_start = m->block.len;
		return;
	}
	if (m->line_start > 0) { /* a part of headers only */
		m->block.len = m->line_start;
		begin_part(m);
		end_part(m);
	}
	begin_header(m);
	if (suffix == SUFFIX_CLOSE) {
		m->state = EPILOGUE;
		m->closed = true;
	}
}

static void collect_header(struct multipart *m)
{
	assert(m->at >= 0); /* a delimiter is seen whole only in new input */
	while (m->state == HEADER && m->at < m->input_len && m->failed == MULTIPART_OK) {
		const unsigned char *p = m->input + m->at;
		const unsigned char *eol =
		    memchr(p, '\n', (size_t)(m->input_len - m->at));
		size_t take =
		    eol ? (size_t)(eol - p) + 1 : (size_t)(m->input_len - m->at);

		if (take > MULTIPART_HEADER_MAX - m->block.len) {
			fail(m, MULTIPART_HEADER_TOO_LARGE);
			return;
		}
		strbuf_add(&m->block, p, take);
		if (strbuf_status(&m->block) < 0) {
			fail(m, MULTIPART_NO_MEMORY);
			return;
		}
		m->at += (ptrdiff_t)take;
		if (eol)
			end_header_line(m);
	}
	m->cursor = m->at;
}

/* Search */

/* From position at, with nothing matched, on to where a match may begin, or to the last
 * bytes of the input. The usual shift has a loop of its own, so that the
 * processor need not wait for one load to know where the next one is. */
static ptrdiff_t skip(const struct multipart *m, ptrdiff_t at)
{
	const unsigned char *last = m->input + (ptrdiff_t)m->pattern_len - 1;
	const ptrdiff_t stop = m->input_len - (ptrdiff_t)m->pattern_len;
	const unsigned usual = (unsigned)m->pattern_len - 1;

	for (;;) {
		unsigned shift;

		while (at <= stop && m->shift[pair_hash(&last[at])] == usual)
			at += usual;
		shift = at <= stop ? m->shift[pair_hash(&last[at])] : 0;
		if (shift == 0)
			return at;
		at += shift;
	}
}

/* Go on from at until the whole pattern is matched; false when the input is used up. */
static bool match_pattern(struct multipart *m)
{
	ptrdiff_t at = m->at;
	size_t k = m->matched;

	while (at < m->input_len && k < m->pattern_len) {
		unsigned char c;

		if (k == 0 && at >= 0)
			at = skip(m, at);
		c = byte_at(m, at++);
		while (k > 0 && c != m->pattern[k])
			k = m->border[k];
		if (c == m->pattern[k])
			k++;
	}
	m->at = at;
	m->matched = k;
	m->match_end = at;
	return k == m->pattern_len;
}

/* Judge what follows the pattern; on NEXT and CLOSE *ret_end is where the delimiter ends.
 * At most MULTIPART_PADDING_MAX + 2 bytes, so looking again with more input is cheap. */
static enum suffix judge_suffix(const struct multipart *m, ptrdiff_t *ret_end)
{
	const ptrdiff_t start = m->match_end;
	const ptrdiff_t len = m->input_len;
	ptrdiff_t i = start;

	*ret_end = len;
	if (i < len && byte_at(m, i) == '-') {
		if (i + 1 == len)
			return m->ended ? SUFFIX_WRONG : SUFFIX_MORE;
		*ret_end = i + 2;
		return byte_at(m, i + 1) == '-' ? SUFFIX_CLOSE : SUFFIX_WRONG;
	}
	while (i < len && i - start <= MULTIPART_PADDING_MAX && is_blank(byte_at(m, i)))
		i++;
	if (i - start > MULTIPART_PADDING_MAX)
		return SUFFIX_WRONG;
	if (i < len && byte_at(m, i) == '\r')
		i++;
	if (i == len)
		return m->ended ? SUFFIX_NEXT : SUFFIX_MORE;
	*ret_end = i + 1;
	return byte_at(m, i) == '\n' ? SUFFIX_NEXT : SUFFIX_WRONG;
}

/* Where the line end before position i begins, or i; never before the cursor. */
static ptrdiff_t before_line_end(const struct multipart *m, ptrdiff_t i)
{
	ptrdiff_t left = i - m->cursor;

	if (left < 1 || byte_at(m, i - 1) != '\n')
		return i;
	if (left > 1 && byte_at(m, i - 2) == '\r')
		return i - 2;
	return m->is_bare_lf ? i - 1 : i;
}

/* Find the next delimiter and act on it. Returns false when the input is used up. */
static bool find_delimiter(struct multipart *m)
{
	ptrdiff_t end;
	enum suffix suffix;

	if (m->matched < m->pattern_len && !match_pattern(m))
		return false;
	suffix = judge_suffix(m, &end);
	if (suffix == SUFFIX_MORE)
		return false;
	if (suffix == SUFFIX_WRONG) {
		/* Another match may begin inside this one. */
		m->at = m->match_end;
		m->matched = m->border[m->pattern_len];
		return true;
	}
	deliver(m, before_line_end(m, m->match_end - (ptrdiff_t)m->pattern_len));
	end_part(m);
	m->at = m->cursor = end;
	m->matched = 0;
	begin_header(m);
	if (suffix == SUFFIX_CLOSE) {
		m->state = EPILOGUE;
		m->closed = true;
	}
	return true;
}

/* Deliver all that can't belong to a delimiter any more. */
static void deliver_settled(struct multipart *m)
{
	ptrdiff_t hold = m->input_len - (ptrdiff_t)m->matched;

	if (m->matched == m->pattern_len)
		hold = m->match_end - (ptrdiff_t)m->pattern_len;
	if (hold == m->input_len && hold > m->cursor && byte_at(m, hold - 1) == '\r')
		hold--;
	else
		hold = before_line_end(m, hold);
	deliver(m, hold);
}

/* Keep what is not delivered for the next input, and move positions to be relative to it.
 */
static void carry_over(struct multipart *m)
{
	if (m->cursor >= 0) {
		m->carry_len = (size_t)(m->input_len - m->cursor);
		assert(m->carry_len <= sizeof(m->carry));
		if (m->carry_len > 0)
			memcpy(m->carry, m->input + m->cursor, m->carry_len);
	} else {
		size_t kept = (size_t)-m->cursor;
		size_t added = (size_t)m->input_len;

		assert(kept + added <= sizeof(m->carry));
		memmove(m->carry, m->carry + (m->carry_len - kept), kept);
		if (added > 0)
			memcpy(m->carry + kept, m->input, added);
		m->carry_len = kept + added;
	}
	m->at -= m->input_len;
	m->cursor -= m->input_len;
	m->match_end -= m->input_len;
}

enum multipart_verdict multipart_feed(struct multipart *m, const void *data, size_t len)
{
	bool more = len > 0;

	assert(!m->ended && len <= PTRDIFF_MAX);
	m->input = data;
	m->input_len = (ptrdiff_t)len;
	while (more && m->failed == MULTIPART_OK && m->state != EPILOGUE) {
		if (m->state == HEADER) {
			collect_header(m);
			more = m->at < m->input_len;
		} else {
			more = find_delimiter(m);
		}
	}
	if (m->failed == MULTIPART_OK && (m->state == PREAMBLE || m->state == DATA))
		deliver_settled(m);
	if (m->failed == MULTIPART_OK && m->state != EPILOGUE)
		carry_over(m);
	return m->failed;
}

enum multipart_verdict multipart_end(struct multipart *m)
{
	m->ended = true;
	m->input_len = 0;
	if (m->failed != MULTIPART_OK)
		return m->failed;
	if (m->state == HEADER)
		end_header_line(m);
	while (m->state == PREAMBLE || m->state == DATA)
		if (!find_delimiter(m)) {
			deliver(m, 0);
			end_part(m);
			break;
		}
	m->state = EPILOGUE;
	return m->failed;
}

uint64_t multipart_parts(const struct multipart *m)
{
	return m->parts;
}

bool multipart_closed(const struct multipart *m)
{
	return m->closed;
}
