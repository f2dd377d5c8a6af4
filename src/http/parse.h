/*
 * The HTTP/1.1 message syntax (RFC 9112) as a server needs it: request heads and chunked bodies.
 * Pure functions over bytes: no connections, no clock.
 *
 * Strict on purpose, because a proxy in front may read a sloppy message differently: lines end in
 * CRLF, no folded headers, no space before a colon, one Content-Length, never both Content-Length
 * and Transfer-Encoding.
 */
#ifndef MOED_HTTP_PARSE_H
#define MOED_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_MAX_HEADERS 100
#define HTTP_MAX_LINE    8192 /* bytes of the request line */
#define HTTP_NO_LENGTH   (-1)

enum http_method {
    HTTP_GET = 1,
    HTTP_HEAD = 2,
    HTTP_POST = 4,
    HTTP_OPTIONS = 8,
    HTTP_OTHER = 16, /* a well-formed method that no endpoint has */
};

/* A piece of the head's bytes. */
struct http_slice {
    const char *at; /* NULL: absent */
    size_t n;
};

struct http_header {
    struct http_slice name, value; /* the value without white space around it */
};

/* Slices point into the bytes given to http_parse_head. */
struct http_head {
    enum http_method method;
    struct http_slice path;  /* as sent, still percent-encoded, without the query */
    struct http_slice query; /* without '?' */
    int minor;               /* HTTP/1.minor */
    bool keep_alive;
    bool chunked;
    bool expect_continue;
    int64_t content_length; /* HTTP_NO_LENGTH: not given */
    size_t n_headers;
    struct http_header headers[HTTP_MAX_HEADERS];
};

/* What is wrong with a message: the status to answer and why, static words. */
struct http_fault {
    int status;
    const char *why;
};

/*
 * Looks for a whole head at the start of n bytes. Returns its length, 0 when more bytes are needed,
 * or -1 with *fault set. *scanned, 0 at first, remembers what earlier calls with fewer of the same
 * bytes have already seen. Empty lines before the request line are part of the head.
 */
int64_t http_parse_head(struct http_head *head, const char *bytes, size_t n, size_t max_bytes,
                        size_t *scanned, struct http_fault *fault);

/* The value of the first header of that name (any case), or absent. */
struct http_slice http_header(const struct http_head *head, const char *name);
bool http_slice_is(struct http_slice s, const char *text);        /* exactly */
bool http_slice_is_nocase(struct http_slice s, const char *text); /* in any ASCII case */

/* Decodes %XX in place of n bytes; returns the new length, or -1 for a broken or zero escape. */
int64_t http_percent_decode(char *bytes, size_t n);

/* A chunked body, decoded as it arrives. Starts as {0}. */
struct http_chunks {
    int state;
    uint64_t left;     /* bytes to come of this chunk */
    size_t line_bytes; /* of this size line, or of all trailers */
};

/*
 * Takes bytes of a chunked body, one piece of data at a time: returns how many of n were used, and
 * *data is what they carry (may be empty). *done is set with the last byte of the body. -1 with
 * *fault set when they are malformed.
 */
int64_t http_chunks_take(struct http_chunks *c, const char *bytes, size_t n,
                         struct http_slice *data, bool *done, struct http_fault *fault);

/* The words for a status code ("Not Found"). */
const char *http_reason(int status);

#endif
