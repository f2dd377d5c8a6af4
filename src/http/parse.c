#include "http/parse.h"

#include <string.h>
#include <strings.h>

static int64_t fail(struct http_fault *fault, int status, const char *why)
{
    *fault = (struct http_fault){status, why};
    return -1;
}

/* tchar of RFC 9110. */
static bool is_token_char(unsigned char c)
{
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        return true;
    return c && strchr("!#$%&'*+-.^_`|~", c);
}

static bool is_token(struct http_slice s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!is_token_char((unsigned char)s.at[i]))
            return false;
    return s.n > 0;
}

static struct http_slice trim(const char *from, const char *to)
{
    while (from < to && (*from == ' ' || *from == '\t'))
        from++;
    while (to > from && (to[-1] == ' ' || to[-1] == '\t'))
        to--;
    return (struct http_slice){from, (size_t)(to - from)};
}

bool http_slice_is(struct http_slice s, const char *text)
{
    return s.at && s.n == strlen(text) && memcmp(s.at, text, s.n) == 0;
}

bool http_slice_is_nocase(struct http_slice s, const char *text)
{
    return s.at && s.n == strlen(text) && strncasecmp(s.at, text, s.n) == 0;
}

struct http_slice http_header(const struct http_head *head, const char *name)
{
    for (size_t i = 0; i < head->n_headers; i++)
        if (http_slice_is_nocase(head->headers[i].name, name))
            return head->headers[i].value;
    return (struct http_slice){0};
}

/* Whether a comma-separated list has the token, in any case. */
static bool list_has(struct http_slice list, const char *token)
{
    const char *at = list.at, *end = list.at + list.n;
    while (at < end) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        const char *to = comma ? comma : end;
        if (http_slice_is_nocase(trim(at, to), token))
            return true;
        at = to + 1;
    }
    return false;
}

static enum http_method method_of(struct http_slice s)
{
    if (http_slice_is(s, "GET"))
        return HTTP_GET;
    if (http_slice_is(s, "HEAD"))
        return HTTP_HEAD;
    if (http_slice_is(s, "POST"))
        return HTTP_POST;
    if (http_slice_is(s, "OPTIONS"))
        return HTTP_OPTIONS;
    return HTTP_OTHER;
}

static int64_t parse_target(struct http_head *head, struct http_slice target,
                            struct http_fault *fault)
{
    for (size_t i = 0; i < target.n; i++)
        if ((unsigned char)target.at[i] <= ' ' || (unsigned char)target.at[i] >= 0x7F)
            return fail(fault, 400, "the request target has characters that must be encoded");
    /* The absolute form is for proxies, but every server must take it. */
    if (target.n > 7 && strncasecmp(target.at, "http://", 7) == 0) {
        const char *slash = memchr(target.at + 7, '/', target.n - 7);
        if (!slash) {
            target = (struct http_slice){"/", 1};
        } else {
            target.n -= (size_t)(slash - target.at);
            target.at = slash;
        }
    }
    bool star = target.n == 1 && *target.at == '*' && head->method == HTTP_OPTIONS;
    if (target.n == 0 || (*target.at != '/' && !star))
        return fail(fault, 400, "the request target must start with '/'");
    const char *mark = memchr(target.at, '?', target.n);
    head->path = target;
    head->query = (struct http_slice){0};
    if (mark) {
        head->path.n = (size_t)(mark - target.at);
        head->query.at = mark + 1;
        head->query.n = target.n - head->path.n - 1;
    }
    return 0;
}

static int64_t parse_request_line(struct http_head *head, const char *line, size_t n,
                                  struct http_fault *fault)
{
    const char *space = memchr(line, ' ', n);
    if (!space)
        return fail(fault, 400, "the request line is not METHOD TARGET VERSION");
    struct http_slice method = {line, (size_t)(space - line)};
    if (!is_token(method))
        return fail(fault, 400, "the request method is malformed");
    const char *target = space + 1;
    const char *last = memchr(target, ' ', (size_t)(line + n - target));
    if (!last)
        return fail(fault, 400, "the request line is not METHOD TARGET VERSION");
    struct http_slice version = {last + 1, (size_t)(line + n - last - 1)};
    if (version.n != 8 || memcmp(version.at, "HTTP/", 5) != 0 || version.at[6] != '.' ||
        version.at[5] < '0' || version.at[5] > '9' || version.at[7] < '0' || version.at[7] > '9')
        return fail(fault, 400, "the protocol version is malformed");
    if (version.at[5] != '1')
        return fail(fault, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    head->minor = version.at[7] == '0' ? 0 : 1;
    head->method = method_of(method);
    return parse_target(head, (struct http_slice){target, (size_t)(last - target)}, fault);
}

static int64_t parse_header(struct http_head *head, const char *line, size_t n,
                            struct http_fault *fault)
{
    if (head->n_headers == HTTP_MAX_HEADERS)
        return fail(fault, 431, "too many header fields");
    if (*line == ' ' || *line == '\t')
        return fail(fault, 400, "folded header lines are not allowed");
    const char *colon = memchr(line, ':', n);
    if (!colon)
        return fail(fault, 400, "a header line has no colon");
    struct http_slice name = {line, (size_t)(colon - line)};
    if (!is_token(name))
        return fail(fault, 400, "a header name is malformed");
    struct http_slice value = trim(colon + 1, line + n);
    for (size_t i = 0; i < value.n; i++) {
        unsigned char c = (unsigned char)value.at[i];
        if ((c < ' ' && c != '\t') || c == 0x7F)
            return fail(fault, 400, "a header value has control characters");
    }
    head->headers[head->n_headers++] = (struct http_header){name, value};
    return 0;
}

static int64_t parse_length(struct http_slice value, struct http_fault *fault)
{
    int64_t length = 0;
    if (value.n == 0)
        return fail(fault, 400, "Content-Length is empty");
    for (size_t i = 0; i < value.n; i++) {
        if (value.at[i] < '0' || value.at[i] > '9')
            return fail(fault, 400, "Content-Length is not a number");
        if (length > (INT64_MAX - 9) / 10)
            return fail(fault, 413, "Content-Length is too large");
        length = length * 10 + (value.at[i] - '0');
    }
    return length;
}

/* Works out what the headers say about the connection and the body. */
static int64_t interpret(struct http_head *head, struct http_fault *fault)
{
    int hosts = 0, lengths = 0, encodings = 0;
    head->content_length = HTTP_NO_LENGTH;
    head->keep_alive = head->minor == 1;
    head->chunked = false;
    head->expect_continue = false;
    for (size_t i = 0; i < head->n_headers; i++) {
        struct http_slice name = head->headers[i].name, value = head->headers[i].value;
        if (http_slice_is_nocase(name, "Host")) {
            hosts++;
        } else if (http_slice_is_nocase(name, "Content-Length")) {
            if (lengths++)
                return fail(fault, 400, "more than one Content-Length");
            head->content_length = parse_length(value, fault);
            if (head->content_length < 0)
                return -1;
        } else if (http_slice_is_nocase(name, "Transfer-Encoding")) {
            if (encodings++ || !http_slice_is_nocase(value, "chunked"))
                return fail(fault, 501, "the only Transfer-Encoding spoken here is chunked");
            head->chunked = true;
        } else if (http_slice_is_nocase(name, "Connection")) {
            if (list_has(value, "close"))
                head->keep_alive = false;
            else if (head->minor == 0 && list_has(value, "keep-alive"))
                head->keep_alive = true;
        } else if (http_slice_is_nocase(name, "Expect")) {
            if (!http_slice_is_nocase(value, "100-continue"))
                return fail(fault, 417, "the only expectation met here is 100-continue");
            head->expect_continue = head->minor == 1;
        }
    }
    if (hosts > 1 || (hosts == 0 && head->minor == 1))
        return fail(fault, 400, "exactly one Host header is needed");
    if (lengths && encodings)
        return fail(fault, 400, "both Content-Length and Transfer-Encoding");
    if (encodings && head->minor == 0)
        return fail(fault, 400, "Transfer-Encoding needs HTTP/1.1");
    return 0;
}

/* The end of the line that starts at `from`: its CR, NULL while it is not all there. A bare LF or
 * CR is a fault. */
static const char *line_end(const char *from, const char *end, struct http_fault *fault)
{
    const char *lf = memchr(from, '\n', (size_t)(end - from));
    if (!lf)
        return NULL;
    if (lf == from || lf[-1] != '\r') {
        fail(fault, 400, "a line does not end in CRLF");
        return NULL;
    }
    return lf - 1;
}

/* Parses the request line at `at`, as soon as it is there, so that what is not HTTP at all gets its
 * answer at once. Returns the start of the next line, NULL when there is more to come or a fault.
 */
static const char *first_line(struct http_head *head, const char *at, const char *end,
                              struct http_fault *fault)
{
    if (at < end && !is_token_char((unsigned char)*at)) {
        fail(fault, 400, "this is not an HTTP request");
        return NULL;
    }
    const char *cr = line_end(at, end, fault);
    if (fault->status)
        return NULL;
    if ((size_t)((cr ? cr : end) - at) > HTTP_MAX_LINE) {
        fail(fault, 414, "the request line is too long");
        return NULL;
    }
    if (!cr || parse_request_line(head, at, (size_t)(cr - at), fault) < 0)
        return NULL;
    return cr + 2;
}

/* Where the head ends (after its empty line), 0 if it does not yet. */
static size_t find_end(const char *bytes, size_t n, size_t *scanned)
{
    size_t from = *scanned > 3 ? *scanned - 3 : 0;
    const char *found = n > from ? memmem(bytes + from, n - from, "\r\n\r\n", 4) : NULL;
    *scanned = n;
    return found ? (size_t)(found - bytes) + 4 : 0;
}

int64_t http_parse_head(struct http_head *head, const char *bytes, size_t n, size_t max_bytes,
                        size_t *scanned, struct http_fault *fault)
{
    *fault = (struct http_fault){0};
    head->n_headers = 0;
    size_t skip = 0;
    while (skip + 1 < n && bytes[skip] == '\r' && bytes[skip + 1] == '\n')
        skip += 2;
    if (skip > 8)
        return fail(fault, 400, "too many empty lines before a request");
    if (n - skip == 0 || (n - skip == 1 && bytes[skip] == '\r'))
        return 0;
    const char *at = first_line(head, bytes + skip, bytes + n, fault);
    if (fault->status)
        return -1;
    size_t end = at ? find_end(bytes + skip, n - skip, scanned) + skip : skip;
    if (end == skip) {
        if (n > max_bytes)
            return fail(fault, 431, "the header fields are too large");
        return 0;
    }
    if (end > max_bytes)
        return fail(fault, 431, "the header fields are too large");
    while (at < bytes + end - 2) {
        const char *cr = line_end(at, bytes + end, fault);
        if (!cr || parse_header(head, at, (size_t)(cr - at), fault) < 0)
            return -1;
        at = cr + 2;
    }
    return interpret(head, fault) < 0 ? -1 : (int64_t)end;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int64_t http_percent_decode(char *bytes, size_t n)
{
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] != '%') {
            bytes[out++] = bytes[i];
            continue;
        }
        int high = i + 2 < n ? hex_value(bytes[i + 1]) : -1;
        int low = i + 2 < n ? hex_value(bytes[i + 2]) : -1;
        if (high < 0 || low < 0 || high + low == 0)
            return -1;
        bytes[out++] = (char)(high << 4 | low);
        i += 2;
    }
    return (int64_t)out;
}

/* Size line digits -> extension (ignored) -> LF -> data -> CR LF after it -> ... -> trailer lines.
 */
enum {
    CHUNK_SIZE_FIRST,
    CHUNK_SIZE,
    CHUNK_EXTENSION,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_TRAILER_START,
    CHUNK_TRAILER,
    CHUNK_TRAILER_LF,
    CHUNK_END_LF,
    CHUNK_DONE,
};

/* Bytes of a size line, and of all trailers together. */
#define CHUNK_MAX_LINE 4096

static int64_t chunk_size_char(struct http_chunks *c, char b, struct http_fault *fault)
{
    int digit = hex_value(b);
    if (digit >= 0) {
        if (c->left >> 56)
            return fail(fault, 413, "a chunk is too large");
        c->left = c->left << 4 | (unsigned)digit;
        c->state = CHUNK_SIZE;
    } else if (c->state == CHUNK_SIZE_FIRST) {
        return fail(fault, 400, "a chunk size is malformed");
    } else if (b == '\r') {
        c->state = CHUNK_SIZE_LF;
    } else if (b == ';' || b == ' ' || b == '\t') {
        c->state = CHUNK_EXTENSION;
    } else {
        return fail(fault, 400, "a chunk size is malformed");
    }
    return 0;
}

static int64_t expect_char(struct http_chunks *c, char b, char wanted, int next,
                           struct http_fault *fault)
{
    if (b != wanted)
        return fail(fault, 400, "a chunk is not framed by CRLF");
    c->state = next;
    return 0;
}

/* One byte that is not data. */
static int64_t frame_char(struct http_chunks *c, char b, struct http_fault *fault)
{
    if (++c->line_bytes > CHUNK_MAX_LINE)
        return fail(fault, 400, "a chunk's size line or trailer is too long");
    switch (c->state) {
    case CHUNK_SIZE_FIRST:
    case CHUNK_SIZE:
        return chunk_size_char(c, b, fault);
    case CHUNK_EXTENSION:
        if (b == '\n')
            return fail(fault, 400, "a chunk is not framed by CRLF");
        if (b == '\r')
            c->state = CHUNK_SIZE_LF;
        return 0;
    case CHUNK_SIZE_LF:
        c->line_bytes = 0;
        return expect_char(c, b, '\n', c->left ? CHUNK_DATA : CHUNK_TRAILER_START, fault);
    case CHUNK_DATA_CR:
        return expect_char(c, b, '\r', CHUNK_DATA_LF, fault);
    case CHUNK_DATA_LF:
        c->line_bytes = 0;
        return expect_char(c, b, '\n', CHUNK_SIZE_FIRST, fault);
    case CHUNK_TRAILER_START:
        c->state = b == '\r' ? CHUNK_END_LF : CHUNK_TRAILER;
        return b == '\n' ? fail(fault, 400, "a trailer line does not end in CRLF") : 0;
    case CHUNK_TRAILER:
        if (b == '\n')
            return fail(fault, 400, "a trailer line does not end in CRLF");
        if (b == '\r')
            c->state = CHUNK_TRAILER_LF;
        return 0;
    case CHUNK_TRAILER_LF:
        return expect_char(c, b, '\n', CHUNK_TRAILER_START, fault);
    default:
        return expect_char(c, b, '\n', CHUNK_DONE, fault);
    }
}

int64_t http_chunks_take(struct http_chunks *c, const char *bytes, size_t n,
                         struct http_slice *data, bool *done, struct http_fault *fault)
{
    size_t i = 0;
    *data = (struct http_slice){0};
    *done = false;
    while (i < n && c->state != CHUNK_DONE) {
        if (c->state != CHUNK_DATA) {
            if (frame_char(c, bytes[i++], fault) < 0)
                return -1;
            continue;
        }
        size_t have = n - i < c->left ? n - i : (size_t)c->left;
        *data = (struct http_slice){bytes + i, have};
        c->left -= have;
        if (c->left == 0)
            c->state = CHUNK_DATA_CR;
        return (int64_t)(i + have);
    }
    *done = c->state == CHUNK_DONE;
    return (int64_t)i;
}

const char *http_reason(int status)
{
    static const struct {
        int status;
        const char *words;
    } reasons[] = {
        {100, "Continue"},
        {200, "OK"},
        {204, "No Content"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        if (reasons[i].status == status)
            return reasons[i].words;
    return "Unknown";
}
