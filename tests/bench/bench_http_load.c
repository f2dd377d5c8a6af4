/*
 * Load for a running server: streams of completions side by side.
 *
 *   bench_http_load PORT [STREAMS [REQUESTS [MAX_TOKENS [PROMPT_WORDS]]]]
 *
 * Prints tokens per second, percentiles of the time to the first token and between tokens, and,
 * from the server's /metrics, which share of its CPU time the http thread and the text worker took.
 * One event loop, one thread; 127.0.0.1.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"

struct samples {
    double *ms;
    size_t n, cap;
};

struct load {
    struct event_base *base;
    int port, streams, left, running, max_tokens, prompt_words, number;
    size_t done, failed, tokens;
    struct samples first, between;
};

struct stream {
    struct load *load;
    int fd;
    struct event *event;
    int64_t began_us, last_us;
    struct buf line; /* an unfinished line */
    bool done;
};

static void add_sample(struct samples *s, int64_t us)
{
    s->ms = mem_reserve(s->ms, &s->cap, s->n + 1, sizeof *s->ms);
    s->ms[s->n++] = (double)us / 1000;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, struct samples *s)
{
    if (!s->n)
        return;
    qsort(s->ms, s->n, sizeof *s->ms, compare);
    printf("%-14s p50 %8.2f ms  p90 %8.2f ms  p99 %8.2f ms  max %8.2f ms\n", name, s->ms[s->n / 2],
           s->ms[s->n * 9 / 10], s->ms[s->n * 99 / 100], s->ms[s->n - 1]);
}

static int connect_to(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        perror("connect");
        exit(1);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void send_all(int fd, const struct buf *b)
{
    for (size_t at = 0; at < b->len;) {
        ssize_t n = send(fd, b->data + at, b->len - at, MSG_NOSIGNAL);
        if (n < 0) {
            perror("send");
            exit(1);
        }
        at += (size_t)n;
    }
}

static void send_request(struct stream *s)
{
    struct load *load = s->load;
    struct buf body = {0}, request = {0};
    buf_printf(&body, "{\"prompt\":\"request %d:", load->number++);
    for (int i = 0; i < load->prompt_words; i++)
        buf_printf(&body, " word%d", i % 100);
    buf_printf(&body,
               "\",\"max_tokens\":%d,\"stream\":true,\"ignore_eos\":true,"
               "\"stream_options\":{\"include_usage\":true}}",
               load->max_tokens);
    buf_printf(&request,
               "POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
               "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
               body.len, body.data);
    s->began_us = clock_us();
    s->last_us = 0;
    s->done = false;
    send_all(s->fd, &request);
    buf_fini(&body);
    buf_fini(&request);
}

static void on_readable(evutil_socket_t fd, short what, void *arg);

static void start(struct stream *s)
{
    s->load->left--;
    s->load->running++;
    s->fd = connect_to(s->load->port);
    send_request(s);
    evutil_make_socket_nonblocking(s->fd);
    s->event = event_new(s->load->base, s->fd, EV_READ | EV_PERSIST, on_readable, s);
    event_add(s->event, NULL);
}

static void finish(struct stream *s)
{
    struct load *load = s->load;
    if (s->done)
        load->done++;
    else
        load->failed++;
    event_free(s->event);
    close(s->fd);
    buf_truncate(&s->line, 0);
    load->running--;
    if (load->left > 0)
        start(s);
    else if (load->running == 0)
        event_base_loopbreak(load->base);
}

static void take_line(struct stream *s, const char *line, int64_t now)
{
    struct load *load = s->load;
    static const char usage[] = "\"completion_tokens\":";
    if (strncmp(line, "data: ", 6) != 0)
        return;
    if (strcmp(line, "data: [DONE]") == 0) {
        s->done = true;
        return;
    }
    const char *count = strstr(line, usage);
    if (count) {
        load->tokens += (size_t)atoi(count + sizeof usage - 1);
        return;
    }
    if (s->last_us)
        add_sample(&load->between, now - s->last_us);
    else
        add_sample(&load->first, now - s->began_us);
    s->last_us = now;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct stream *s = arg;
    char bytes[16384];
    ssize_t n = recv(fd, bytes, sizeof bytes, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        finish(s);
        return;
    }
    int64_t now = clock_us();
    for (ssize_t i = 0; i < n; i++) {
        if (bytes[i] == '\n') {
            take_line(s, buf_str(&s->line), now);
            buf_truncate(&s->line, 0);
        } else {
            buf_putc(&s->line, bytes[i]);
        }
    }
}

/* A number of /metrics; -1 if it is not there. */
static double metric(const char *text, const char *name)
{
    char key[128];
    snprintf(key, sizeof key, "\n%s ", name);
    const char *at = strstr(text, key);
    return at ? atof(at + strlen(key)) : -1;
}

struct cpu {
    double http, text, process;
};

static struct cpu read_cpu(int port)
{
    struct buf reply = {0}, request = {0};
    char bytes[16384];
    ssize_t n;
    int fd = connect_to(port);
    buf_puts(&request, "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    send_all(fd, &request);
    while ((n = recv(fd, bytes, sizeof bytes, 0)) > 0)
        buf_add(&reply, bytes, (size_t)n);
    close(fd);
    struct cpu cpu = {metric(buf_str(&reply), "moed_http_cpu_seconds_total"),
                      metric(buf_str(&reply), "moed_text_cpu_seconds_total"),
                      metric(buf_str(&reply), "process_cpu_seconds_total")};
    buf_fini(&reply);
    buf_fini(&request);
    return cpu;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "bench_http_load PORT [STREAMS [REQUESTS [MAX_TOKENS [PROMPT_WORDS]]]]\n");
        return 2;
    }
    struct load load = {.port = atoi(argv[1]),
                        .streams = argc > 2 ? atoi(argv[2]) : 64,
                        .max_tokens = argc > 4 ? atoi(argv[4]) : 128,
                        .prompt_words = argc > 5 ? atoi(argv[5]) : 32};
    load.left = argc > 3 ? atoi(argv[3]) : 4 * load.streams;
    load.base = event_base_new();
    struct stream *streams = mem_new((size_t)load.streams, sizeof *streams);
    struct cpu before = read_cpu(load.port);
    int64_t began = clock_us();
    for (int i = 0; i < load.streams && load.left > 0; i++) {
        streams[i].load = &load;
        start(&streams[i]);
    }
    event_base_dispatch(load.base);
    double seconds = (double)(clock_us() - began) / 1e6;
    struct cpu after = read_cpu(load.port);
    printf("%d streams, %zu requests done, %zu failed, %zu tokens in %.2f s: %.0f tokens/s\n",
           load.streams, load.done, load.failed, load.tokens, seconds,
           (double)load.tokens / seconds);
    print_samples("first token", &load.first);
    print_samples("between tokens", &load.between);
    double process = after.process - before.process;
    if (before.process >= 0 && process > 0)
        printf(
            "server CPU     %.2f s; http thread %.2f %%, text worker %.2f %%, %.2f us per token\n",
            process, 100 * (after.http - before.http) / process,
            100 * (after.text - before.text) / process,
            1e6 * (after.http - before.http) / (double)(load.tokens ? load.tokens : 1));
    for (int i = 0; i < load.streams; i++)
        buf_fini(&streams[i].line);
    free(streams);
    free(load.first.ms);
    free(load.between.ms);
    event_base_free(load.base);
    return load.failed ? 1 : 0;
}
