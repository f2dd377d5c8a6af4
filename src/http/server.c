/* The server: its threads, its life, and what other threads ask of it. */
#include "http/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "http/server_int.h"

/* Connections taken in one turn of the loop. */
#define ACCEPT_BATCH 64
/* Connections over the limit that still get to hear why; beyond, they are just closed. */
#define REFUSED_AT_ONCE 64
/* How long nothing is accepted after the system has run out of descriptors. */
#define ACCEPT_PAUSE_US 200000

/* --- the http thread ----------------------------------------------------------------------------
 */

static void on_accept(evutil_socket_t listener, short what, void *arg)
{
    struct http_server *s = arg;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
            log_warn("http: cannot accept a connection: %s", strerror(errno));
            struct timeval pause = {0, ACCEPT_PAUSE_US};
            for (int k = 0; k < s->n_listeners; k++)
                event_del(s->listeners[k]);
            event_add(s->accept_timer, &pause);
        }
        if (fd < 0)
            break;
        if (s->n_conns >= s->cfg.max_connections + REFUSED_AT_ONCE) {
            s->count.refused++;
            close(fd);
            continue;
        }
        s->count.accepted++;
        conn_open(s, fd);
        if (s->n_conns > s->cfg.max_connections) {
            s->count.refused++;
            route_fault(LIST_FIRST(&s->conns),
                        &(struct http_fault){503, "there are too many connections"});
        }
    }
    server_settle(s);
}

static void on_accept_pause(evutil_socket_t fd, short what, void *arg)
{
    struct http_server *s = arg;
    for (int i = 0; i < s->n_listeners; i++)
        event_add(s->listeners[i], NULL);
}

static void on_outbox(evutil_socket_t fd, short what, void *arg)
{
    struct http_server *s = arg;
    generation_events(s);
    server_settle(s);
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
    struct http_server *s = arg;
    struct job *job;
    while ((job = worker_next_done(&s->worker)))
        route_job_done(s, job);
    server_settle(s);
}

static struct event *watch(struct http_server *s, int fd, event_callback_fn fn)
{
    struct event *e = event_new(s->base, fd, EV_READ | EV_PERSIST, fn, s);
    if (e)
        event_add(e, NULL);
    return e;
}

static void close_listeners(struct http_server *s)
{
    for (int i = 0; i < s->n_listeners; i++) {
        close(event_get_fd(s->listeners[i]));
        event_free(s->listeners[i]);
    }
    s->n_listeners = 0;
    if (s->unix_path)
        unlink(s->unix_path);
    event_del(s->accept_timer);
}

static void take_engine(struct http_server *s)
{
    s->engine = s->new_engine;
    s->ctx.model_names = (char **)s->cfg.model_names;
    s->ctx.n_model_names = s->cfg.n_model_names;
    s->ctx.tokenizer = moed_engine_tokenizer(s->engine);
    s->ctx.chat = s->new_chat;
    s->ctx.request_timeout_s = s->cfg.request_timeout_s;
    s->ctx.template_time_unix = s->cfg.template_time_unix ? s->cfg.template_time_unix : INT64_MIN;
    moed_engine_info(s->engine, &s->ctx.info);
    moed_engine_sampling(s->engine, &s->ctx.sampling);
    s->outbox_event = watch(s, moed_outbox_fd(s->outbox), on_outbox);
    s->ready = true;
}

static void start_draining(struct http_server *s)
{
    s->draining = true;
    close_listeners(s);
    conn_drain_idle(s);
}

static void stop_now(struct http_server *s)
{
    struct conn *c;
    s->stopping = true;
    s->draining = true;
    LIST_FOREACH(c, &s->conns, all)
    {
        if (c->generation)
            generation_stop(c);
    }
    server_settle(s);
    LIST_FOREACH(c, &s->conns, all)
    {
        conn_kill(c);
    }
    event_base_loopbreak(s->base);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct http_server *s = arg;
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof count);
    (void)n;
    pthread_mutex_lock(&s->lock);
    bool engine = s->want_engine;
    s->want_engine = false;
    pthread_mutex_unlock(&s->lock);
    if (engine)
        take_engine(s);
    if (atomic_load(&s->want_drain) && !s->draining)
        start_draining(s);
    if (atomic_load(&s->want_stop) && !s->stopping)
        stop_now(s);
    server_settle(s);
}

static void *run(void *arg)
{
    struct http_server *s = arg;
    pthread_setname_np(pthread_self(), "moed-http");
    event_base_loop(s->base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

/* --- opening and closing ------------------------------------------------------------------------
 */

static char **copy_list(const char *const *list, size_t n)
{
    char **copy = mem_new(n + 1, sizeof *copy);
    for (size_t i = 0; i < n; i++)
        copy[i] = mem_strdup(list[i]);
    return copy;
}

static void copy_config(struct http_config *to, const struct http_config *from)
{
    static const char *const no_name[] = {"moed"};
    *to = *from;
    to->host = mem_strdup(from->host && *from->host ? from->host : "127.0.0.1");
    to->n_model_names = from->n_model_names ? from->n_model_names : 1;
    to->model_names = (const char *const *)copy_list(
        from->n_model_names ? from->model_names : no_name, to->n_model_names);
    to->api_keys = (const char *const *)copy_list(from->api_keys, from->n_api_keys);
    to->api_key_file = from->api_key_file ? mem_strdup(from->api_key_file) : NULL;
    to->cors_origins = (const char *const *)copy_list(from->cors_origins, from->n_cors_origins);
#define DEFAULT(field, value) to->field = from->field > 0 ? from->field : (value)
    DEFAULT(max_body_bytes, (size_t)16 << 20);
    DEFAULT(max_header_bytes, (size_t)32 << 10);
    DEFAULT(max_inflight_bytes, (size_t)256 << 20);
    DEFAULT(max_output_bytes, (size_t)256 << 10);
    DEFAULT(max_connections, 4096);
    DEFAULT(header_timeout_s, 30);
    DEFAULT(idle_timeout_s, 120);
    DEFAULT(write_timeout_s, 60);
    DEFAULT(keep_alive_s, 10);
    DEFAULT(request_timeout_s, 0);
#undef DEFAULT
}

static void free_list(const char *const *list, size_t n)
{
    keys_free((char **)list, n);
}

static void free_config(struct http_config *cfg)
{
    free((char *)cfg->host);
    free((char *)cfg->api_key_file);
    free_list(cfg->model_names, cfg->n_model_names);
    free_list(cfg->api_keys, cfg->n_api_keys);
    free_list(cfg->cors_origins, cfg->n_cors_origins);
}

static void make_url(struct http_server *s)
{
    const char *host = s->cfg.host;
    if (s->unix_path)
        s->url = mem_strdup(host);
    else if (strchr(host, ':') && *host != '[')
        s->url = mem_printf("http://[%s]:%d", host, s->port);
    else
        s->url = mem_printf("http://%s:%d", host, s->port);
}

static int open_events(struct http_server *s, struct moed_error *err)
{
    s->base = event_base_new();
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!s->base || s->wake_fd < 0)
        return moed_fail(err, MOED_EIO, "the event loop cannot start: %s", strerror(errno));
    s->wake_event = watch(s, s->wake_fd, on_wake);
    s->done_event = watch(s, s->worker.done.fd, on_done);
    s->accept_timer = event_new(s->base, -1, 0, on_accept_pause, s);
    if (!s->wake_event || !s->done_event || !s->accept_timer)
        return moed_fail(err, MOED_ENOMEM, "no memory for the event loop");
    return 0;
}

/* Each connection takes a descriptor; the usual soft limit of 1024 is there for select(). */
static void raise_descriptor_limit(int connections)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)connections + 512;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < wanted)
        log_warn("http: only %llu file descriptors for %d connections",
                 (unsigned long long)limit.rlim_cur, connections);
}

static int open_listeners(struct http_server *s, struct moed_error *err)
{
    int fds[MAX_LISTENERS];
    s->port = s->cfg.port;
    raise_descriptor_limit(s->cfg.max_connections);
    int n = listen_open(fds, &s->port, &s->unix_path, s->cfg.host, err);
    if (n < 0)
        return n;
    for (int i = 0; i < n; i++) {
        s->listeners[i] = watch(s, fds[i], on_accept);
        if (!s->listeners[i])
            return moed_fail(err, MOED_ENOMEM, "no memory for a listening socket");
        s->n_listeners++;
    }
    make_url(s);
    return 0;
}

static int start_thread(struct http_server *s, struct moed_error *err)
{
    int error = pthread_create(&s->thread, NULL, run, s);
    if (error)
        return moed_fail(err, MOED_EIO, "the http thread cannot start: %s", strerror(error));
    s->running = true;
    return 0;
}

int http_open(struct http_server **out, const struct http_config *cfg, struct moed_error *err)
{
    struct http_server *s = mem_new(1, sizeof *s);
    pthread_condattr_t attr;
    *out = NULL;
    LIST_INIT(&s->conns);
    TAILQ_INIT(&s->dirty);
    LIST_INIT(&s->parts);
    s->wake_fd = -1;
    s->created_unix = time(NULL);
    s->read_buffer = mem_new(1, READ_CHUNK_BYTES);
    if (getrandom(&s->secret, sizeof s->secret, 0) != (ssize_t)sizeof s->secret)
        s->secret = (uint64_t)clock_us();
    copy_config(&s->cfg, cfg);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->emptied, &attr);
    pthread_condattr_destroy(&attr);
    int rc = keys_load(&s->keys, &s->n_keys, &s->cfg, err);
    if (rc < 0 || (rc = worker_open(&s->worker, err)) < 0 || (rc = open_events(s, err)) < 0 ||
        (rc = open_listeners(s, err)) < 0 || (rc = start_thread(s, err)) < 0) {
        http_stop(&s);
        return rc;
    }
    *out = s;
    return 0;
}

static void wake(struct http_server *s)
{
    uint64_t one = 1;
    ssize_t n = write(s->wake_fd, &one, sizeof one);
    (void)n; /* a full counter wakes as well */
}

static void free_event(struct event **e)
{
    if (*e)
        event_free(*e);
    *e = NULL;
}

void http_stop(struct http_server **server)
{
    struct http_server *s = *server;
    if (!s)
        return;
    if (s->running) {
        atomic_store(&s->want_stop, true);
        wake(s);
        pthread_join(s->thread, NULL);
    }
    worker_close(&s->worker);
    /* Before the outbox: its last reference may be the engine's, which then closes the descriptor.
     */
    free_event(&s->outbox_event);
    moed_outbox_close(&s->outbox);
    generation_forget_all(s);
    if (s->accept_timer)
        close_listeners(s);
    free_event(&s->wake_event);
    free_event(&s->done_event);
    free_event(&s->accept_timer);
    if (s->base)
        event_base_free(s->base);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    keys_free(s->keys, s->n_keys);
    free_config(&s->cfg);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->emptied);
    free(s->url);
    free(s->unix_path);
    free(s->read_buffer);
    free(s);
    *server = NULL;
}

/* --- asked by other threads ---------------------------------------------------------------------
 */

int http_port(const struct http_server *s)
{
    return s->unix_path ? 0 : s->port;
}

const char *http_url(const struct http_server *s)
{
    return s->url;
}

void http_set_progress(struct http_server *s, uint64_t done_bytes, uint64_t total_bytes)
{
    atomic_store(&s->total_bytes, total_bytes);
    atomic_store(&s->done_bytes, done_bytes);
}

int http_set_engine(struct http_server *s, struct moed_engine *engine,
                    const struct chat_format *chat, struct moed_error *err)
{
    int rc = moed_outbox_open(&s->outbox, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&s->lock);
    s->new_engine = engine;
    s->new_chat = chat;
    s->want_engine = true;
    pthread_mutex_unlock(&s->lock);
    wake(s);
    return 0;
}

int http_reload_keys(struct http_server *s, struct moed_error *err)
{
    char **keys;
    size_t n_keys;
    int rc = keys_load(&keys, &n_keys, &s->cfg, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&s->lock);
    char **old = s->keys;
    size_t n_old = s->n_keys;
    s->keys = keys;
    s->n_keys = n_keys;
    pthread_mutex_unlock(&s->lock);
    keys_free(old, n_old);
    return 0;
}

void http_drain(struct http_server *s)
{
    atomic_store(&s->want_drain, true);
    wake(s);
}

bool http_wait(struct http_server *s, double timeout_s)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + (int64_t)(timeout_s * 1e9);
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&s->lock);
    while (!s->is_empty && pthread_cond_timedwait(&s->emptied, &s->lock, &until) != ETIMEDOUT)
        ;
    bool empty = s->is_empty;
    pthread_mutex_unlock(&s->lock);
    return empty;
}
