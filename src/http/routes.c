/* Which endpoint a request is for, whether it may be asked, and the way through the text worker. */
#include "http/server_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

/* Bodies up to this many bytes are prepared at once: about a millisecond. */
#define INLINE_BODY_BYTES 16384

static void run_api(struct conn *c);

const struct route routes[] = {
    {"/v1/completions", HTTP_POST, .endpoint = API_COMPLETIONS, .run = run_api},
    {"/v1/chat/completions", HTTP_POST, .endpoint = API_CHAT, .run = run_api},
    {"/v1/models", HTTP_GET, .run = info_models},
    {"/v1/models/", HTTP_GET, .run = info_model},
    {"/tokenize", HTTP_POST, .endpoint = API_TOKENIZE, .run = run_api},
    {"/detokenize", HTTP_POST, .endpoint = API_DETOKENIZE, .run = run_api},
    {"/apply-template", HTTP_POST, .endpoint = API_TEMPLATE, .run = run_api},
    {"/health", HTTP_GET, .open = true, .always = true, .run = info_health},
    {"/ping", HTTP_GET | HTTP_POST, .open = true, .always = true, .run = info_ping},
    {"/version", HTTP_GET, .open = true, .always = true, .run = info_version},
    {"/metrics", HTTP_GET, .open = true, .always = true, .run = info_metrics},
};
const size_t n_routes = sizeof routes / sizeof routes[0];
_Static_assert(sizeof routes / sizeof routes[0] <= MAX_ROUTES, "MAX_ROUTES");

static const struct route *find_route(const char *path)
{
    for (size_t i = 0; i < n_routes; i++) {
        size_t n = strlen(routes[i].path);
        bool tree = routes[i].path[n - 1] == '/';
        if (tree ? strncmp(path, routes[i].path, n) == 0 && path[n]
                 : strcmp(path, routes[i].path) == 0)
            return &routes[i];
    }
    return NULL;
}

/* --- the head ------------------------------------------------------------------------------- */

/* The client's own id is kept if it can stand in a header and in a log line. */
static void set_id(struct conn *c, struct http_slice given)
{
    bool usable = given.n > 0 && given.n < sizeof c->req.id;
    for (size_t i = 0; usable && i < given.n; i++)
        usable = given.at[i] > ' ' && given.at[i] < 0x7F;
    if (usable) {
        memcpy(c->req.id, given.at, given.n);
        c->req.id[given.n] = 0;
        return;
    }
    uint64_t unique[3] = {(uint64_t)clock_us(), (uint64_t)(uintptr_t)c, c->server->count.bytes_in};
    snprintf(c->req.id, sizeof c->req.id, "req-%016llx",
             (unsigned long long)XXH3_64bits_withSeed(unique, sizeof unique, c->server->secret));
}

static void set_origin(struct conn *c, struct http_slice origin)
{
    const struct http_config *cfg = &c->server->cfg;
    for (size_t i = 0; origin.n && i < cfg->n_cors_origins; i++) {
        if (strcmp(cfg->cors_origins[i], "*") == 0)
            c->req.origin = mem_strdup("*");
        else if (http_slice_is_nocase(origin, cfg->cors_origins[i]))
            c->req.origin = mem_strdup(cfg->cors_origins[i]);
        if (c->req.origin)
            return;
    }
}

static bool check_key(struct conn *c, struct http_slice authorization)
{
    struct http_server *s = c->server;
    pthread_mutex_lock(&s->lock);
    int found = s->n_keys ? keys_find(s->keys, s->n_keys, authorization) : 0;
    if (found >= 0 && s->n_keys && s->cfg.salt_per_key)
        c->req.key_salt =
            XXH3_64bits_withSeed(s->keys[found], strlen(s->keys[found]), s->secret) | 1;
    pthread_mutex_unlock(&s->lock);
    if (found < 0)
        reply_error(c, 401, "authentication_error", "invalid_api_key", NULL,
                    authorization.at ? "the API key is not known"
                                     : "an API key is needed: Authorization: Bearer KEY");
    return found >= 0;
}

/* While loading, while draining and after a failure of the engine nothing is served. */
static bool check_ready(struct conn *c)
{
    struct http_server *s = c->server;
    if (s->draining)
        reply_error(c, 503, "server_error", "shutting_down", NULL, "the server is shutting down");
    else if (!s->ready)
        reply_error(c, 503, "server_error", "model_loading", NULL, "the model is being loaded");
    else
        return true;
    return false;
}

static bool is_json_type(struct http_slice type)
{
    if (!type.at)
        return false;
    const char *semicolon = memchr(type.at, ';', type.n);
    if (semicolon)
        type.n = (size_t)(semicolon - type.at);
    while (type.n && (type.at[type.n - 1] == ' ' || type.at[type.n - 1] == '\t'))
        type.n--;
    return http_slice_is_nocase(type, "application/json") ||
           (type.n > 5 && strncasecmp(type.at + type.n - 5, "+json", 5) == 0);
}

/* Anything but JSON is refused, also because a web page may send the other types anywhere without
 * asking first. */
static bool check_body(struct conn *c, const struct http_head *head)
{
    if (!c->req.route->endpoint)
        return true;
    struct http_slice type = http_header(head, "Content-Type");
    if (!is_json_type(type)) {
        reply_error(c, 415, "invalid_request_error", "unsupported_media_type", NULL,
                    "the body must be sent as Content-Type: application/json, not '%.*s'",
                    type.n < 80 ? (int)type.n : 80, type.at ? type.at : "");
        return false;
    }
    struct http_slice encoding = http_header(head, "Content-Encoding");
    if (encoding.n && !http_slice_is_nocase(encoding, "identity")) {
        reply_error(c, 415, "invalid_request_error", "unsupported_content_encoding", NULL,
                    "the body must be sent without Content-Encoding");
        return false;
    }
    return true;
}

/* The endpoint of the target, or a reply that says why not. */
static bool resolve(struct conn *c, const struct http_head *head)
{
    char *path = mem_strndup(head->path.at, head->path.n);
    int64_t n = http_percent_decode(path, head->path.n);
    c->req.path = path;
    if (n < 0) {
        reply_error(c, 400, "invalid_request_error", "bad_request", NULL,
                    "the path has a broken percent escape");
        return false;
    }
    path[n] = 0;
    bool any = strcmp(path, "*") == 0 && head->method == HTTP_OPTIONS;
    c->req.route = find_route(path);
    if (head->method == HTTP_OPTIONS && (c->req.route || any)) {
        reply_preflight(c, http_header(head, "Access-Control-Request-Headers"));
        return false;
    }
    if (!c->req.route) {
        reply_error(c, 404, "invalid_request_error", "not_found", NULL,
                    "there is no endpoint '%.200s'", path);
        return false;
    }
    unsigned methods = c->req.route->methods;
    unsigned method = head->method == HTTP_HEAD ? HTTP_GET : (unsigned)head->method;
    if (!(methods & method)) {
        reply_error(c, 405, "invalid_request_error", "method_not_allowed", NULL, "'%s' takes %s",
                    path, methods & HTTP_POST ? "POST" : "GET");
        return false;
    }
    return true;
}

void route_head(struct conn *c, const struct http_head *head)
{
    const struct http_config *cfg = &c->server->cfg;
    bool has_body = head->chunked || head->content_length > 0;
    c->req.method = head->method;
    c->req.chunked_reply = head->minor == 1;
    c->close_after = !head->keep_alive || c->server->draining;
    set_id(c, http_header(head, "X-Request-Id"));
    set_origin(c, http_header(head, "Origin"));
    /* Until the body is read, a reply ends the connection: what follows cannot be told from it. */
    bool close_after = c->close_after;
    c->close_after |= has_body;
    c->req.unread_body = has_body;
    if (head->content_length > 0 && (uint64_t)head->content_length > cfg->max_body_bytes) {
        route_fault(c, &(struct http_fault){413, "the body is too large"});
        return;
    }
    if (!resolve(c, head) ||
        (!c->req.route->open && !check_key(c, http_header(head, "Authorization"))) ||
        (!c->req.route->always && !check_ready(c)) || !check_body(c, head))
        return;
    c->close_after = close_after;
    c->req.unread_body = false;
}

void route_fault(struct conn *c, const struct http_fault *fault)
{
    static const struct {
        int status;
        const char *code;
    } codes[] = {
        {400, "bad_request"},     {408, "request_timeout"},    {413, "body_too_large"},
        {414, "uri_too_long"},    {417, "expectation_failed"}, {431, "headers_too_large"},
        {501, "not_implemented"}, {503, "overloaded"},         {505, "version_not_supported"},
    };
    const char *code = "bad_request";
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i].status == fault->status)
            code = codes[i].code;
    /* What ends before its first line is whole counts from when the connection began to wait. */
    if (!c->req.started_us)
        c->req.started_us = c->state_us;
    if (!c->req.id[0])
        set_id(c, (struct http_slice){0});
    c->req.chunked_reply = true;
    c->close_after = true;
    c->req.unread_body = true;
    if (fault->status == 413)
        reply_error(c, 413, "invalid_request_error", code, NULL, "%s: at most %zu bytes are taken",
                    fault->why, c->server->cfg.max_body_bytes);
    else
        reply_error(c, fault->status,
                    fault->status < 500 ? "invalid_request_error" : "server_error", code, NULL,
                    "%s", fault->why);
}

void route_run(struct conn *c)
{
    c->req.route->run(c);
}

/* --- bodies --------------------------------------------------------------------------------- */

static void drop_body(struct conn *c)
{
    c->server->inflight_bytes -= c->req.counted_bytes;
    c->req.counted_bytes = 0;
    buf_fini(&c->req.body);
}

/* Takes the request over. */
static void prepared(struct conn *c, int rc, struct api_request *request, struct moed_error *err)
{
    drop_body(c);
    if (rc < 0) {
        err->code = rc;
        reply_fail(c, err);
    } else if (request->endpoint & API_GENERATE) {
        generation_start(c, request);
    } else {
        reply_json(c, 200, &request->reply);
        api_request_free(&request);
    }
}

static void run_api(struct conn *c)
{
    struct http_server *s = c->server;
    struct buf *body = &c->req.body;
    if (body->len <= INLINE_BODY_BYTES) {
        struct api_request *request;
        struct moed_error err = {0};
        int rc =
            api_prepare(&request, &s->ctx, c->req.route->endpoint, buf_str(body), body->len, &err);
        prepared(c, rc, request, &err);
        return;
    }
    struct job *job = mem_new(1, sizeof *job);
    job->conn = c;
    job->ctx = &s->ctx;
    job->endpoint = c->req.route->endpoint;
    job->body = buf_take(body, &job->body_bytes);
    c->job = job;
    worker_submit(&s->worker, job);
}

void route_job_done(struct http_server *s, struct job *job)
{
    struct conn *c = job->conn;
    if (c) {
        struct api_request *request = job->request;
        job->request = NULL;
        c->job = NULL;
        prepared(c, job->rc, request, &job->error);
    } else {
        s->inflight_bytes -= job->body_bytes;
    }
    job_free(&job);
}

void job_orphan(struct conn *c)
{
    /* The bytes stay counted until the worker is done with them. */
    c->req.counted_bytes -= c->job->body_bytes;
    c->job->conn = NULL;
    c->job = NULL;
}
