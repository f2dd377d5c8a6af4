/*
 * The HTTP server: OpenAI's API over one engine.
 *
 * It opens before the model is loaded (then /health says 503 with the progress and everything else
 * 503), gets the engine when there is one, and goes away before the engine does:
 *
 *   http_open -> [http_set_progress ...] -> http_set_engine -> [http_reload_keys ...]
 *             -> http_drain -> http_wait -> http_stop -> moed_engine_close
 *
 * Two threads of its own: the http thread owns connections and streams, the text worker tokenizes
 * long prompts. All functions here may be called from any thread, but http_open and http_stop
 * not twice at once for one server. Signal handlers may call none of them.
 */
#ifndef MOED_HTTP_SERVER_H
#define MOED_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "moed/engine.h"
#include "moed/error.h"

struct http_server;
struct chat_format;

/* Zero or NULL means: the default. Strings are copied. */
struct http_config {
    const char *host; /* a name, an IPv4 or IPv6 address, "::" for both, or "unix:PATH"; default
                         127.0.0.1 */
    int port;         /* 0: any free one (http_port tells) */
    const char *const *model_names; /* [n_model_names] names the model answers to; the first is the
                                       one it is listed under first and the default */
    size_t n_model_names;
    const char *const *api_keys; /* [n_api_keys] */
    size_t n_api_keys;
    const char *api_key_file; /* one key a line, '#' starts a comment; reread by
                                 http_reload_keys */
    const char *const
        *cors_origins; /* [n_cors_origins] "https://a.example" or "*"; none: no CORS */
    size_t n_cors_origins;
    bool salt_per_key;         /* prefix reuse only among requests with the same API key */
    size_t max_body_bytes;     /* 16 MiB */
    size_t max_header_bytes;   /* 32 KiB, request line included */
    size_t max_inflight_bytes; /* bodies being received or tokenized, of all connections: 256 MiB */
    size_t
        max_output_bytes; /* unsent bytes of a stream before its reader counts as gone: 256 KiB */
    int max_connections;  /* 4096 */
    double header_timeout_s;    /* from a request's first byte to its last header: 30; the same
                                   again without a byte of the body */
    double idle_timeout_s;      /* between requests: 120 */
    double write_timeout_s;     /* no progress while sending: 60 */
    double keep_alive_s;        /* a comment in a stream after this long without output: 10 */
    double request_timeout_s;   /* deadline of every request; 0: none */
    int64_t template_time_unix; /* what chat templates take for now; 0 or INT64_MIN: the clock */
};

/* Binds, listens and starts the threads. MOED_EIO where the address cannot be had. */
int http_open(struct http_server **out, const struct http_config *cfg, struct moed_error *err);
/* The port that it listens on; 0 for a unix socket. */
int http_port(const struct http_server *s);
/* Something like "http://127.0.0.1:8000", for people; owned by the server. */
const char *http_url(const struct http_server *s);

/* How far loading is, for /health. */
void http_set_progress(struct http_server *s, uint64_t done_bytes, uint64_t total_bytes);
/*
 * From now on requests are served. Called once. engine and chat (NULL: the model has no chat
 * template) stay the caller's and must live until http_stop has returned.
 */
int http_set_engine(struct http_server *s, struct moed_engine *engine,
                    const struct chat_format *chat, struct moed_error *err);

/* Reads the key file again. On failure the keys stay as they are. */
int http_reload_keys(struct http_server *s, struct moed_error *err);

/* No new connections and requests; idle connections are closed, requests in flight go on. */
void http_drain(struct http_server *s);
/* Waits until a drained server has no connection left; false after timeout_s. */
bool http_wait(struct http_server *s, double timeout_s);
/* Cancels what is in flight, closes all connections, joins the threads, frees. */
void http_stop(struct http_server **s);

/* The tables of parameters and errors as Markdown, which docs/api.md holds. */
void http_print_docs(struct buf *out);

#endif
