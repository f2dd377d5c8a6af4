/* Replies: heads, bodies, streams, and the one table of errors. */
#include "http/server_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/json_escape.h"

const struct error_row error_rows[] = {
    {MOED_EINVAL, 400, "invalid_request_error", "invalid_value",
     "a parameter is wrong; `param` names it"},
    {MOED_EUNSUPPORTED, 400, "invalid_request_error", "unsupported_parameter",
     "a parameter asks for what this server lacks"},
    {MOED_ELIMIT, 400, "invalid_request_error", "context_length_exceeded",
     "the prompt and the new tokens do not fit the context"},
    {MOED_ENOTFOUND, 404, "invalid_request_error", "model_not_found", "no such model"},
    {MOED_EBUSY, 429, "rate_limit_error", "queue_full",
     "the queue is full; `Retry-After` says when to come back"},
    {MOED_EDEADLINE, 504, "timeout_error", "deadline_exceeded",
     "the request's `timeout` or the server's own passed"},
    {MOED_ECLOSED, 503, "server_error", "shutting_down", "the server takes no new requests"},
    {MOED_ECANCELED, 503, "server_error", "canceled",
     "the server stopped before the request ended"},
    {MOED_EDEVICE, 500, "server_error", "device_error",
     "the device failed; /health says 503 until the process is restarted"},
    {MOED_ETIMEDOUT, 503, "server_error", "step_timed_out",
     "a step of the model did not end in time, several times over; try again"},
    {MOED_ENOMEM, 500, "server_error", "out_of_memory", "memory for this request could not be had"},
    {MOED_EINTERNAL, 500, "server_error", "internal_error", "a bug of the server"},
};
const size_t n_error_rows = sizeof error_rows / sizeof error_rows[0];

const struct error_row *error_row(int code)
{
    for (size_t i = 0; i < n_error_rows; i++)
        if (error_rows[i].code == code)
            return &error_rows[i];
    return &error_rows[n_error_rows - 1];
}

static void add_string(struct buf *out, const char *key, const char *text)
{
    buf_printf(out, ",\"%s\":", key);
    if (text && *text) {
        buf_putc(out, '"');
        json_escape_bytes(out, text, strlen(text));
        buf_putc(out, '"');
    } else {
        buf_puts(out, "null");
    }
}

void error_json(struct buf *out, const char *message, const char *type, const char *param,
                const char *code)
{
    buf_puts(out, "{\"error\":{\"message\":\"");
    json_escape_bytes(out, message, strlen(message));
    buf_putc(out, '"');
    add_string(out, "type", type);
    add_string(out, "param", param);
    add_string(out, "code", code);
    buf_puts(out, "}}");
}

void error_json_of(struct buf *out, const struct moed_error *e)
{
    const struct error_row *row = error_row(e->code);
    error_json(out, e->text[0] ? e->text : row->doc, row->type, e->param, row->name);
}

static void add_date(struct buf *out)
{
    char text[64];
    struct tm tm;
    time_t now = time(NULL);
    gmtime_r(&now, &tm);
    strftime(text, sizeof text, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
    buf_puts(out, text);
}

/* The status line and the headers that every reply has; the caller ends it with an empty line. */
static void add_head(struct conn *c, int status)
{
    struct buf *out = &c->out;
    struct request *r = &c->req;
    r->status = status;
    buf_printf(out, "HTTP/1.1 %d %s\r\n", status, http_reason(status));
    add_date(out);
    buf_printf(out, "X-Request-Id: %s\r\n", r->id);
    if (r->origin) {
        buf_printf(out, "Access-Control-Allow-Origin: %s\r\nVary: Origin\r\n", r->origin);
        buf_puts(out, "Access-Control-Expose-Headers: X-Request-Id, Retry-After\r\n");
    }
    if (c->server->draining)
        c->close_after = true;
    if (c->close_after)
        buf_puts(out, "Connection: close\r\n");
    else if (!r->chunked_reply)
        buf_puts(out, "Connection: keep-alive\r\n");
}

static void count_reply(struct conn *c)
{
    size_t row = c->req.route ? (size_t)(c->req.route - routes) : n_routes, column = 0;
    while (column + 1 < N_STATUS && counted_status[column] != c->req.status)
        column++;
    c->server->count.requests[row][column]++;
}

static void finish(struct conn *c, const char *type, const struct buf *body)
{
    buf_printf(&c->out, "Content-Type: %s\r\nContent-Length: %zu\r\n\r\n", type, body->len);
    if (c->req.method != HTTP_HEAD)
        buf_add(&c->out, buf_str(body), body->len);
    count_reply(c);
    conn_reply_done(c);
}

void reply_text(struct conn *c, int status, const char *type, const struct buf *body)
{
    add_head(c, status);
    finish(c, type, body);
}

void reply_json(struct conn *c, int status, const struct buf *body)
{
    reply_text(c, status, "application/json", body);
}

/* Headers that belong to a status. */
static void add_status_headers(struct conn *c, int status)
{
    if (status == 429 || status == 503)
        buf_puts(&c->out, "Retry-After: 1\r\n");
    if (status == 401)
        buf_puts(&c->out, "WWW-Authenticate: Bearer\r\n");
    if (status != 405 || !c->req.route)
        return;
    unsigned methods = c->req.route->methods;
    buf_printf(&c->out, "Allow: %s%s%sOPTIONS\r\n", methods & HTTP_GET ? "GET, HEAD, " : "",
               methods & HTTP_POST ? "POST, " : "", "");
}

static void reply_error_body(struct conn *c, int status, struct buf *body)
{
    add_head(c, status);
    add_status_headers(c, status);
    finish(c, "application/json", body);
    buf_fini(body);
}

void reply_error(struct conn *c, int status, const char *type, const char *code, const char *param,
                 const char *fmt, ...)
{
    char message[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    struct buf body = {0};
    error_json(&body, message, type, param, code);
    reply_error_body(c, status, &body);
}

void reply_fail(struct conn *c, const struct moed_error *e)
{
    struct buf body = {0};
    error_json_of(&body, e);
    reply_error_body(c, error_row(e->code)->status, &body);
}

void reply_preflight(struct conn *c, struct http_slice asked_headers)
{
    add_head(c, 204);
    if (c->req.route) {
        unsigned methods = c->req.route->methods;
        const char *list = methods & HTTP_POST ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
        buf_printf(&c->out, "Allow: %s\r\n", list);
        if (c->req.origin)
            buf_printf(&c->out, "Access-Control-Allow-Methods: %s\r\n", list);
    }
    if (c->req.origin && asked_headers.n)
        buf_printf(&c->out, "Access-Control-Allow-Headers: %.*s\r\n", (int)asked_headers.n,
                   asked_headers.at);
    if (c->req.origin)
        buf_puts(&c->out, "Access-Control-Max-Age: 86400\r\n");
    buf_puts(&c->out, "\r\n");
    count_reply(c);
    conn_reply_done(c);
}

void reply_stream_begin(struct conn *c)
{
    if (!c->req.chunked_reply)
        c->close_after = true; /* HTTP/1.0: the end of the connection is the end of the stream */
    add_head(c, 200);
    buf_puts(&c->out, "Content-Type: text/event-stream; charset=utf-8\r\n"
                      "Cache-Control: no-cache\r\n"
                      "X-Accel-Buffering: no\r\n");
    buf_puts(&c->out, c->req.chunked_reply ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
    conn_stream_begun(c);
}

void reply_stream_add(struct conn *c, const struct buf *data)
{
    if (data->len == 0)
        return; /* an empty chunk would end the body */
    if (c->req.chunked_reply)
        buf_printf(&c->out, "%zx\r\n", data->len);
    buf_add(&c->out, data->data, data->len);
    if (c->req.chunked_reply)
        buf_puts(&c->out, "\r\n");
    conn_mark(c);
}

void reply_stream_end(struct conn *c)
{
    if (c->req.chunked_reply)
        buf_puts(&c->out, "0\r\n\r\n");
    count_reply(c);
    conn_reply_done(c);
}
