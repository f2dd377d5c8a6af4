/*
 * What the files of http/ share. Everything here belongs to the http thread unless it says
 * otherwise.
 *
 * A connection holds one request at a time (pipelined ones wait in its input) and walks through the
 * states below; conn.c alone changes them. What a request needs beyond an immediate reply hangs off
 * the connection: a job at the text worker, then a generation at the engine. When the client goes
 * first, both are cut off and come home on their own.
 *
 * Nothing is freed and nothing is written inside a handler: connections that have output or have
 * ended stand in the server's list `dirty`, which each event-loop callback empties at its end
 * (server_settle). So a handler may touch its connection whatever the functions it called did.
 */
#ifndef MOED_HTTP_SERVER_INT_H
#define MOED_HTTP_SERVER_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include <event2/event.h>

#include "base/buf.h"
#include "base/inbox.h"
#include "http/api.h"
#include "http/parse.h"
#include "http/server.h"

#define READ_CHUNK_BYTES 65536 /* one read; the buffer is the server's, not the connection's */
#define IN_HIGH_BYTES    65536 /* pipelined input kept while a reply is under way */

enum conn_state {
    CONN_IDLE,   /* between requests: from accept, or after a reply */
    CONN_HEAD,   /* bytes of a head have come */
    CONN_BODY,   /* the head is done, the body is not */
    CONN_WORK,   /* the request is being worked on: no byte of the reply yet */
    CONN_STREAM, /* the head of a streamed reply is out, its end is not */
    CONN_FLUSH,  /* the reply is complete, its bytes are not all out */
    CONN_LINGER, /* replied, closing: input is read and thrown away so that the reply arrives */
    CONN_DEAD,   /* closed; freed when the callback ends */
};

/* The request in hand. */
struct request {
    enum http_method method;
    bool chunked_reply; /* the client speaks HTTP/1.1 */
    bool chunked_body;
    bool unread_body;  /* replied before all of the body was read */
    int64_t body_left; /* bytes to come, for Content-Length */
    struct http_chunks chunks;
    struct buf body;
    size_t counted_bytes; /* of body, in server->inflight_bytes */
    const struct route *route;
    char *path; /* decoded; owned */
    char id[72];
    char *origin;      /* the CORS origin to allow, or NULL; owned */
    uint64_t key_salt; /* of the API key, if prefixes are kept apart by key */
    int64_t started_us;
    int status; /* of the reply; 0 before */
    /* Of a generation, for the log. */
    int64_t first_us; /* when the first token was there */
    struct moed_usage usage;
};

struct conn {
    LIST_ENTRY(conn) all;    /* server->conns */
    TAILQ_ENTRY(conn) dirty; /* server->dirty, where is_dirty */
    bool is_dirty;
    struct http_server *server;
    int fd;
    enum conn_state state;
    bool reading; /* the read event is armed */
    bool got_eof;
    bool close_after; /* close when the reply is out */
    bool want_write;  /* the write event is armed */
    struct event *read_event, *write_event, *timer;
    int64_t timer_at_us; /* when the timer will fire; 0: not armed */
    int64_t state_us;    /* since when it is in this state */
    int64_t progress_us; /* last byte in (BODY) or out */
    struct buf in;
    size_t in_scanned;
    struct buf out;
    size_t out_done;  /* bytes of out that are sent */
    size_t out_piece; /* the largest piece that this stream has had to send at once */
    struct request req;
    struct job *job;               /* at the text worker, or NULL */
    struct generation *generation; /* at the engine, or NULL */
};

/* An endpoint. */
struct route {
    const char *path; /* "/v1/models/" with a final slash takes what follows as its argument */
    unsigned methods; /* bit set of http_method; HEAD goes with GET */
    bool open;        /* needs no API key */
    bool always;      /* answers while loading and draining too */
    enum api_endpoint endpoint; /* of those with a JSON body */
    void (*run)(struct conn *c);
};
extern const struct route routes[];
extern const size_t n_routes;
#define MAX_ROUTES 24

/* Work for the text worker: a body to prepare. */
struct job {
    struct inbox_node node;
    struct conn *conn; /* the http thread's; NULL when the client has gone */
    const struct api_context *ctx;
    enum api_endpoint endpoint;
    char *body; /* owned */
    size_t body_bytes;
    struct api_request *request; /* the outcome */
    int rc;
    struct moed_error error;
};

/* The status codes that are counted, in rising order; anything else counts as the last. */
#define N_STATUS 17
extern const int counted_status[N_STATUS];

/* Counters of the http thread, read by it alone. */
struct http_counters {
    uint64_t accepted, refused;                  /* connections */
    uint64_t requests[MAX_ROUTES + 1][N_STATUS]; /* the last row: no such endpoint, or no request */
    uint64_t slow_readers, gone_clients, timeouts, comments;
    uint64_t bytes_in, bytes_out;
};

struct worker {
    pthread_t thread;
    bool running;
    struct inbox todo; /* jobs; taken by the worker */
    struct inbox done; /* jobs; taken by the http thread */
    atomic_bool stop;
    struct inbox_node stop_node;
};

#define MAX_LISTENERS 8

struct http_server {
    /* Set by http_open, then constant. */
    struct http_config cfg; /* all defaults filled in; strings and lists owned */
    char *url, *unix_path;
    int64_t created_unix;
    struct event_base *base;
    pthread_t thread;
    uint64_t secret; /* mixes the salts of API keys */
    int port;
    bool running;

    /* The http thread's. */
    bool draining, stopping;
    bool ready; /* there is an engine */
    int n_listeners;
    int n_conns;
    struct event *listeners[MAX_LISTENERS];
    struct event *wake_event, *outbox_event, *done_event, *accept_timer;
    LIST_HEAD(, conn) conns;
    TAILQ_HEAD(, conn) dirty;
    LIST_HEAD(, part) parts; /* requests at the engine */
    size_t inflight_bytes;
    char *read_buffer; /* [READ_CHUNK_BYTES] */
    struct moed_engine *engine;
    struct moed_outbox *outbox;
    struct api_context ctx; /* read by the worker too; constant once ready */
    struct http_counters count;
    struct worker worker;

    /* Any thread. */
    _Atomic(uint64_t) done_bytes, total_bytes;
    int wake_fd;
    atomic_bool want_drain, want_stop;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t emptied;
    struct moed_engine *new_engine;
    const struct chat_format *new_chat;
    char **keys; /* [n_keys] */
    size_t n_keys;
    bool is_empty; /* draining, and no connection is left */
    bool want_engine;
};

/* conn.c ------------------------------------------------------------------------------------ */

/* Takes over an accepted socket. */
void conn_open(struct http_server *s, int fd);
/* Closes at once, whatever state: the client is gone or the server stops. */
void conn_kill(struct conn *c);
/* The reply is complete in c->out; the request ends when it is sent. */
void conn_reply_done(struct conn *c);
/* A streamed reply's head is in c->out. */
void conn_stream_begun(struct conn *c);
/* There is output: it is sent when the callback ends. */
void conn_mark(struct conn *c);
/* Closes connections that wait for a request. */
void conn_drain_idle(struct http_server *s);
/* Sends, goes on to the next request, frees. At the end of every callback. */
void server_settle(struct http_server *s);

/* routes.c ---------------------------------------------------------------------------------- */

/* The head is there. Either replies (an error), or leaves it to go on to the body. */
void route_head(struct conn *c, const struct http_head *head);
/* The whole request is there. */
void route_run(struct conn *c);
/* What came is no request. */
void route_fault(struct conn *c, const struct http_fault *fault);
/* A job came back from the text worker. */
void route_job_done(struct http_server *s, struct job *job);
/* A worker's job loses its client. */
void job_orphan(struct conn *c);

/* reply.c ----------------------------------------------------------------------------------- */

struct error_row {
    int code; /* moed_code */
    int status;
    const char *type, *name; /* OpenAI's error.type and error.code */
    const char *doc;
};
extern const struct error_row error_rows[];
extern const size_t n_error_rows;
const struct error_row *error_row(int code);

/* Appends {"error":{...}}; param may be NULL or empty. */
void error_json(struct buf *out, const char *message, const char *type, const char *param,
                const char *code);
void error_json_of(struct buf *out, const struct moed_error *e);

/* A whole reply; HEAD gets its headers only. */
void reply_json(struct conn *c, int status, const struct buf *body);
void reply_text(struct conn *c, int status, const char *type, const struct buf *body);
void reply_error(struct conn *c, int status, const char *type, const char *code, const char *param,
                 const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* By the one table of errors. */
void reply_fail(struct conn *c, const struct moed_error *e);
/* OPTIONS: what may be asked here, and from where. */
void reply_preflight(struct conn *c, struct http_slice asked_headers);
/* The head of a streamed reply, then its pieces and its end. */
void reply_stream_begin(struct conn *c);
void reply_stream_add(struct conn *c, const struct buf *data);
void reply_stream_end(struct conn *c);

/* generate.c -------------------------------------------------------------------------------- */

struct generation;
/* Takes the request over; replies itself when the engine refuses. */
void generation_start(struct conn *c, struct api_request *request);
/* The server stops: tells the client and cancels. */
void generation_stop(struct conn *c);
/* The client is gone: cancels what is in flight and frees. */
void generation_abandon(struct conn *c);
/* A keep-alive comment is due. */
void generation_comment(struct conn *c);
/* Moves what has gathered for the client into the connection's output. */
void generation_flush(struct conn *c);
/* Takes events from the engine. */
void generation_events(struct http_server *s);
/* Before the outbox is closed: forgets all. */
void generation_forget_all(struct http_server *s);

/* info.c, metrics.c: endpoints that only tell ------------------------------------------------- */
void info_health(struct conn *c);
void info_ping(struct conn *c);
void info_version(struct conn *c);
void info_models(struct conn *c);
void info_model(struct conn *c);
void info_metrics(struct conn *c);

/* worker.c ---------------------------------------------------------------------------------- */
int worker_open(struct worker *w, struct moed_error *err);
void worker_submit(struct worker *w, struct job *job);
struct job *worker_next_done(struct worker *w);
void worker_close(struct worker *w);
void job_free(struct job **job);

/* listen.c ---------------------------------------------------------------------------------- */

/* Binds and listens; returns how many sockets are in fds[MAX_LISTENERS]. */
int listen_open(int *fds, int *port, char **unix_path, const char *host, struct moed_error *err);

/* keys.c ------------------------------------------------------------------------------------ */

/* The keys of the configuration and of its file. */
int keys_load(char ***keys, size_t *n_keys, const struct http_config *cfg, struct moed_error *err);
void keys_free(char **keys, size_t n_keys);
/* Which key an Authorization header presents, or -1. Takes the same time for each key. */
int keys_find(char *const *keys, size_t n_keys, struct http_slice authorization);

#endif
