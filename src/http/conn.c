/* Connections: input, output, timeouts, and the states between them. */
#include "http/server_int.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

/* How long input is thrown away after an early reply, so that a client that is still sending its
 * body gets to read why it need not. */
#define LINGER_US 5000000
/* A whole body may take so many times the header timeout. */
#define BODY_PATIENCE 20
/* How often a connection whose input is not read is asked whether its client is still there. */
#define PEEK_US 500000
/* Bytes in the kernel that are not sent yet: a slow reader is noticed here, not after megabytes. */
#define UNSENT_BYTES 131072
/* Sent bytes that are kept at most in front of unsent ones. */
#define COMPACT_BYTES 65536

static void on_read(evutil_socket_t fd, short what, void *arg);
static void on_write(evutil_socket_t fd, short what, void *arg);
static void on_timer(evutil_socket_t fd, short what, void *arg);

static void set_state(struct conn *c, enum conn_state state)
{
    c->state = state;
    c->state_us = clock_us();
    c->progress_us = c->state_us;
}

void conn_mark(struct conn *c)
{
    if (c->is_dirty)
        return;
    c->is_dirty = true;
    TAILQ_INSERT_TAIL(&c->server->dirty, c, dirty);
}

static int64_t seconds(double s)
{
    return (int64_t)(s * 1e6);
}

/* When something has to happen even if nothing happens; INT64_MAX: never. */
static int64_t deadline(const struct conn *c)
{
    const struct http_config *cfg = &c->server->cfg;
    int64_t peek = c->reading ? INT64_MAX : clock_us() + PEEK_US, at = INT64_MAX;
    switch (c->state) {
    case CONN_IDLE:
        return c->state_us + seconds(cfg->idle_timeout_s);
    case CONN_HEAD:
        return c->state_us + seconds(cfg->header_timeout_s);
    case CONN_BODY:
        at = c->state_us + BODY_PATIENCE * seconds(cfg->header_timeout_s);
        return c->progress_us + seconds(cfg->header_timeout_s) < at
                   ? c->progress_us + seconds(cfg->header_timeout_s)
                   : at;
    case CONN_WORK:
        if (c->generation)
            at = c->progress_us + seconds(cfg->keep_alive_s);
        return at < peek ? at : peek;
    case CONN_STREAM:
        at = c->progress_us +
             seconds(c->out.len > c->out_done ? cfg->write_timeout_s : cfg->keep_alive_s);
        return at < peek ? at : peek;
    case CONN_FLUSH:
        return c->progress_us + seconds(cfg->write_timeout_s);
    case CONN_LINGER:
        return c->state_us + LINGER_US;
    case CONN_DEAD:
        break;
    }
    return INT64_MAX;
}

/* A timer that fires too early is cheaper than moving it with every byte: it is only ever brought
 * forward. */
static void arm_timer(struct conn *c)
{
    int64_t at = deadline(c);
    if (at == INT64_MAX || (c->timer_at_us && c->timer_at_us <= at))
        return;
    int64_t left = at - clock_us();
    left = left < 1000 ? 1000 : left;
    struct timeval tv = {left / 1000000, left % 1000000};
    c->timer_at_us = at;
    event_add(c->timer, &tv);
}

static void set_reading(struct conn *c, bool on)
{
    if (c->reading == on)
        return;
    c->reading = on;
    if (on)
        event_add(c->read_event, NULL);
    else
        event_del(c->read_event);
}

static void request_init(struct conn *c)
{
    c->req = (struct request){0};
    c->close_after = false;
}

static void request_fini(struct conn *c)
{
    c->server->inflight_bytes -= c->req.counted_bytes;
    buf_fini(&c->req.body);
    free(c->req.path);
    free(c->req.origin);
    c->req = (struct request){0};
}

/* Only memory can be lacking here; mem.h says what then. */
static struct event *new_event(struct http_server *s, int fd, short what, event_callback_fn fn,
                               struct conn *c)
{
    struct event *e = mem_new(1, event_get_struct_event_size());
    int rc = event_assign(e, s->base, fd, what, fn, c);
    assert(rc == 0);
    return e;
}

void conn_open(struct http_server *s, int fd)
{
    struct conn *c = mem_new(1, sizeof *c);
    int on = 1, unsent = UNSENT_BYTES;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* fails on unix sockets: no matter */
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
    c->server = s;
    c->fd = fd;
    c->read_event = new_event(s, fd, EV_READ | EV_PERSIST, on_read, c);
    c->write_event = new_event(s, fd, EV_WRITE, on_write, c);
    c->timer = new_event(s, -1, 0, on_timer, c);
    LIST_INSERT_HEAD(&s->conns, c, all);
    s->n_conns++;
    set_state(c, CONN_IDLE);
    request_init(c);
    set_reading(c, true);
    arm_timer(c);
}

void conn_kill(struct conn *c)
{
    if (c->state == CONN_DEAD)
        return;
    if (c->generation)
        generation_abandon(c);
    if (c->job)
        job_orphan(c);
    set_state(c, CONN_DEAD);
    conn_mark(c);
}

static void conn_free(struct conn *c)
{
    struct http_server *s = c->server;
    request_fini(c);
    struct event *events[] = {c->read_event, c->write_event, c->timer};
    for (size_t i = 0; i < 3; i++) {
        event_del(events[i]);
        free(events[i]);
    }
    close(c->fd);
    buf_fini(&c->in);
    buf_fini(&c->out);
    LIST_REMOVE(c, all);
    s->n_conns--;
    free(c);
}

/* The client has closed its side while a request is being worked on. */
static void client_gone(struct conn *c)
{
    c->server->count.gone_clients++;
    log_info("http: %s: the client is gone", c->req.id);
    conn_kill(c);
}

/* --- output ------------------------------------------------------------------------------- */

void conn_reply_done(struct conn *c)
{
    set_state(c, CONN_FLUSH);
    conn_mark(c);
}

void conn_stream_begun(struct conn *c)
{
    set_state(c, CONN_STREAM);
    c->out_piece = 0;
    conn_mark(c);
}

/* Sends what it can. False when the connection is broken. */
static bool flush(struct conn *c)
{
    while (c->out_done < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->out_done, c->out.len - c->out_done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (!c->want_write)
                event_add(c->write_event, NULL);
            c->want_write = true;
            /* A reader that is always a little behind must not make us keep all that it has read.
             */
            if (c->out_done > COMPACT_BYTES) {
                buf_drop(&c->out, c->out_done);
                c->out_done = 0;
            }
            return true;
        }
        if (n < 0)
            return false;
        c->out_done += (size_t)n;
        c->server->count.bytes_out += (uint64_t)n;
        c->progress_us = clock_us();
    }
    c->out_done = 0;
    buf_truncate(&c->out, 0);
    return true;
}

static void log_request(struct conn *c)
{
    const struct request *r = &c->req;
    const char *path = r->route ? r->route->path : "-";
    double seconds = (double)(clock_us() - r->started_us) / 1e6;
    bool asks = r->route && r->route->methods == HTTP_GET && r->status != 500;
    if (r->first_us)
        log_info("http: %s: %s %d in %.3f s, %u + %u tokens, the first after %.3f s", r->id, path,
                 r->status, seconds, r->usage.prompt_tokens, r->usage.completion_tokens,
                 (double)(r->first_us - r->started_us) / 1e6);
    else
        log_line(asks ? LOG_DEBUG_LEVEL : LOG_INFO_LEVEL, "http: %s: %s %d in %.3f s", r->id, path,
                 r->status, seconds);
}

static void take_input(struct conn *c);

/* The reply is out: closes, or goes on to the next request. */
static void request_end(struct conn *c)
{
    log_request(c);
    bool keep = !c->close_after && !c->server->draining;
    bool linger = c->req.unread_body && !c->got_eof;
    request_fini(c);
    if (keep && !(c->got_eof && c->in.len == 0)) {
        request_init(c);
        set_state(c, CONN_IDLE);
        c->in_scanned = 0;
        buf_fini(&c->out); /* an idle connection holds nothing */
        if (c->in.len == 0)
            buf_fini(&c->in);
        if (!c->got_eof)
            set_reading(c, true);
        take_input(c);
    } else if (linger) {
        shutdown(c->fd, SHUT_WR);
        set_state(c, CONN_LINGER);
        set_reading(c, true);
        buf_fini(&c->in);
    } else {
        conn_kill(c);
    }
}

/* One piece may be as large as it is (a prompt's logprobs); what gathers beyond it is the reader's
 * doing. */
static void check_reader(struct conn *c)
{
    size_t unsent = c->out.len - c->out_done;
    if (c->state != CONN_STREAM || unsent <= c->server->cfg.max_output_bytes + c->out_piece)
        return;
    c->server->count.slow_readers++;
    log_info("http: %s: the client does not read: %zu bytes are waiting; canceled", c->req.id,
             unsent);
    conn_kill(c);
}

static void settle(struct conn *c)
{
    size_t before = c->out.len;
    if (c->generation)
        generation_flush(c);
    if (c->out.len - before > c->out_piece)
        c->out_piece = c->out.len - before;
    if (c->state != CONN_DEAD && !flush(c)) {
        if (c->state == CONN_WORK || c->state == CONN_STREAM)
            client_gone(c);
        else
            conn_kill(c);
    }
    check_reader(c);
    if (c->state == CONN_FLUSH && c->out.len == c->out_done)
        request_end(c);
    if (c->state != CONN_DEAD)
        arm_timer(c);
}

void server_settle(struct http_server *s)
{
    struct conn *c;
    while ((c = TAILQ_FIRST(&s->dirty))) {
        TAILQ_REMOVE(&s->dirty, c, dirty);
        c->is_dirty = false;
        if (c->state == CONN_DEAD)
            conn_free(c);
        else
            settle(c);
    }
    if (s->draining && s->n_conns == 0) {
        pthread_mutex_lock(&s->lock);
        s->is_empty = true;
        pthread_cond_broadcast(&s->emptied);
        pthread_mutex_unlock(&s->lock);
    }
}

void conn_drain_idle(struct http_server *s)
{
    struct conn *c;
    LIST_FOREACH(c, &s->conns, all)
    {
        if (c->state == CONN_IDLE)
            conn_kill(c);
    }
}

/* --- input -------------------------------------------------------------------------------- */

/* Moves input into the body; true when the body is complete. */
static bool take_body(struct conn *c)
{
    struct request *r = &c->req;
    struct http_fault fault;
    size_t used = 0;
    bool done = !r->chunked_body && r->body_left == 0;
    while (used < c->in.len && !done) {
        struct http_slice data = {c->in.data + used, c->in.len - used};
        if (r->chunked_body) {
            int64_t n = http_chunks_take(&r->chunks, data.at, data.n, &data, &done, &fault);
            if (n < 0) {
                route_fault(c, &fault);
                break;
            }
            used += (size_t)n;
        } else {
            data.n = (int64_t)data.n > r->body_left ? (size_t)r->body_left : data.n;
            r->body_left -= (int64_t)data.n;
            used += data.n;
            done = r->body_left == 0;
        }
        if (r->body.len + data.n > c->server->cfg.max_body_bytes) {
            route_fault(c, &(struct http_fault){413, "the body is too large"});
            break;
        }
        if (c->server->inflight_bytes + data.n > c->server->cfg.max_inflight_bytes) {
            route_fault(c, &(struct http_fault){503, "too many bodies are being received"});
            break;
        }
        buf_add(&r->body, data.at, data.n);
        r->counted_bytes += data.n;
        c->server->inflight_bytes += data.n;
    }
    buf_drop(&c->in, used);
    return done && c->state == CONN_BODY;
}

/* Parses a head if it is all there; false when more is needed. */
static bool take_head(struct conn *c)
{
    struct http_head head;
    struct http_fault fault;
    int64_t n = http_parse_head(&head, buf_str(&c->in), c->in.len, c->server->cfg.max_header_bytes,
                                &c->in_scanned, &fault);
    if (n == 0) {
        if (c->state == CONN_IDLE && c->in.len)
            set_state(c, CONN_HEAD);
        return false;
    }
    set_state(c, CONN_HEAD);
    c->req.started_us = c->state_us;
    if (n < 0) {
        route_fault(c, &fault);
        return false;
    }
    c->req.body_left = head.content_length > 0 ? head.content_length : 0;
    c->req.chunked_body = head.chunked;
    route_head(c, &head);
    bool has_more = c->in.len > (size_t)n;
    buf_drop(&c->in, (size_t)n);
    c->in_scanned = 0;
    if (c->state != CONN_HEAD)
        return true; /* refused */
    set_state(c, CONN_BODY);
    if (head.expect_continue && !has_more && (head.chunked || c->req.body_left)) {
        buf_puts(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
        conn_mark(c);
    }
    return true;
}

/* Goes as far as the input allows. */
static void take_input(struct conn *c)
{
    while (c->state == CONN_IDLE || c->state == CONN_HEAD || c->state == CONN_BODY) {
        if (c->state != CONN_BODY) {
            if (c->in.len == 0 || !take_head(c))
                break;
        } else {
            if (!take_body(c))
                break;
            if (c->in.len == 0)
                buf_fini(&c->in);
            set_state(c, CONN_WORK);
            route_run(c);
        }
    }
    if (c->state == CONN_WORK && c->got_eof)
        client_gone(c);
    if (c->got_eof && (c->state == CONN_IDLE || c->state == CONN_HEAD || c->state == CONN_BODY))
        conn_kill(c); /* half a request, and no more will come */
    if ((c->state == CONN_WORK || c->state == CONN_STREAM || c->state == CONN_FLUSH) &&
        c->in.len > IN_HIGH_BYTES)
        set_reading(c, false);
    arm_timer(c);
}

static void on_eof(struct conn *c)
{
    c->got_eof = true;
    set_reading(c, false);
    if (c->state == CONN_WORK || c->state == CONN_STREAM)
        client_gone(c);
    else if (c->state != CONN_FLUSH)
        conn_kill(c);
}

static void on_read(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    struct http_server *s = c->server;
    ssize_t n = recv(fd, s->read_buffer, READ_CHUNK_BYTES, 0);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return;
    if (n < 0) {
        if (c->state == CONN_WORK || c->state == CONN_STREAM)
            client_gone(c);
        else
            conn_kill(c);
    } else if (n == 0) {
        on_eof(c);
    } else if (c->state != CONN_LINGER && c->state != CONN_DEAD) {
        s->count.bytes_in += (uint64_t)n;
        if (c->state == CONN_BODY)
            c->progress_us = clock_us();
        buf_add(&c->in, s->read_buffer, (size_t)n);
        take_input(c);
    }
    server_settle(s);
}

static void on_write(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    c->want_write = false;
    conn_mark(c);
    server_settle(c->server);
}

static bool has_hung_up(const struct conn *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

static void timed_out(struct conn *c)
{
    switch (c->state) {
    case CONN_HEAD:
    case CONN_BODY:
        c->server->count.timeouts++;
        route_fault(c, &(struct http_fault){408, "the request did not arrive in time"});
        break;
    case CONN_WORK:
    case CONN_STREAM:
        if (c->out.len > c->out_done) {
            c->server->count.slow_readers++;
            log_info("http: %s: the client does not read; canceled", c->req.id);
            conn_kill(c);
        } else if (c->generation) {
            c->progress_us = clock_us();
            generation_comment(c);
        }
        break;
    default:
        conn_kill(c);
        break;
    }
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    struct http_server *s = c->server;
    c->timer_at_us = 0;
    bool working = c->state == CONN_WORK || c->state == CONN_STREAM;
    if (working && !c->reading && has_hung_up(c))
        client_gone(c);
    else if (deadline(c) <= clock_us() + 1000)
        timed_out(c);
    if (c->state != CONN_DEAD)
        arm_timer(c);
    server_settle(s);
}
