/* Endpoints that tell about the server and its model. */
#include "http/server_int.h"

#include <string.h>

#include "http/wire.h"
#include "moed/version.h"

static void health_failed(struct conn *c, const char *status, const char *code, const char *message)
{
    struct http_server *s = c->server;
    struct buf body = {0};
    error_json(&body, message, "server_error", NULL, code);
    buf_truncate(&body, body.len - 1);
    buf_printf(&body, ",\"status\":\"%s\"", status);
    uint64_t total = atomic_load(&s->total_bytes), done = atomic_load(&s->done_bytes);
    if (!s->ready)
        buf_printf(&body, ",\"progress\":%.4f,\"loaded_bytes\":%llu,\"total_bytes\":%llu",
                   total ? (double)done / (double)total : 0.0, (unsigned long long)done,
                   (unsigned long long)total);
    buf_putc(&body, '}');
    reply_json(c, 503, &body);
    buf_fini(&body);
}

void info_health(struct conn *c)
{
    struct http_server *s = c->server;
    struct moed_engine_stats stats = {0};
    if (s->ready)
        moed_engine_stats(s->engine, &stats);
    if (s->draining) {
        health_failed(c, "draining", "shutting_down", "the server is shutting down");
    } else if (!s->ready) {
        health_failed(c, "loading", "model_loading", "the model is being loaded");
    } else if (stats.failed) {
        health_failed(c, "failed", "device_error", "the engine has failed; restart the process");
    } else {
        struct buf body = {0};
        buf_puts(&body, "{\"status\":\"ok\"}");
        reply_json(c, 200, &body);
        buf_fini(&body);
    }
}

void info_ping(struct conn *c)
{
    reply_text(c, 200, "text/plain", &(struct buf){0});
}

void info_version(struct conn *c)
{
    struct buf body = {0};
    buf_printf(&body, "{\"version\":\"%s\"}", MOED_VERSION);
    reply_json(c, 200, &body);
    buf_fini(&body);
}

static void put_model(struct conn *c, struct buf *out, const char *name)
{
    const struct moed_engine_info *info = &c->server->ctx.info;
    buf_puts(out, "{\"id\":");
    wire_string(out, name, strlen(name));
    buf_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"moed\",\"root\":",
               (long long)(info->loaded_unix ? info->loaded_unix : c->server->created_unix));
    wire_string(out, c->server->ctx.model_names[0], strlen(c->server->ctx.model_names[0]));
    buf_printf(out, ",\"parent\":null,\"max_model_len\":%d,\"architecture\":", info->max_model_len);
    wire_string(out, info->architecture, strnlen(info->architecture, sizeof info->architecture));
    buf_printf(out, ",\"parameters\":%llu,\"active_parameters\":%llu}",
               (unsigned long long)info->parameters, (unsigned long long)info->active_parameters);
}

void info_models(struct conn *c)
{
    const struct api_context *ctx = &c->server->ctx;
    struct buf body = {0};
    buf_puts(&body, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < ctx->n_model_names; i++) {
        if (i)
            buf_putc(&body, ',');
        put_model(c, &body, ctx->model_names[i]);
    }
    buf_puts(&body, "]}");
    reply_json(c, 200, &body);
    buf_fini(&body);
}

void info_model(struct conn *c)
{
    const struct api_context *ctx = &c->server->ctx;
    const char *name = c->req.path + strlen(c->req.route->path);
    for (size_t i = 0; i < ctx->n_model_names; i++) {
        if (strcmp(ctx->model_names[i], name) != 0)
            continue;
        struct buf body = {0};
        put_model(c, &body, name);
        reply_json(c, 200, &body);
        buf_fini(&body);
        return;
    }
    reply_error(c, 404, "invalid_request_error", "model_not_found", "model",
                "the model '%.200s' is not served here", name);
}
