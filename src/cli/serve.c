/*
 * moed serve: opens the port, loads the model on a thread of its own while /health says 503, then
 * waits for signals on the main thread.
 */
#include "cli/cli.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/notify.h"
#include "cli/time.h"
#include "http/server.h"
#include "text/template.h"

/* How often a serving process looks whether its device still works. */
#define FAILURE_CHECK_MS 1000

struct serve {
    const struct options *options;
    const char *dir;
    struct http_server *http;
    int signal_fd;
    int loaded_fd; /* readable when the loader thread is done */
    /* Written by the loader thread before loaded_fd becomes readable, read by the main thread
     * after. */
    struct moed_engine *engine;
    struct chat_format *chat;
    struct moed_error error;
    int rc;
    struct cli_progress progress; /* loader thread */
    pthread_t loader;
};

static void on_progress(void *user, uint64_t done_bytes, uint64_t total_bytes, double seconds)
{
    struct serve *s = user;
    http_set_progress(s->http, done_bytes, total_bytes);
    cli_progress_show(&s->progress, done_bytes, total_bytes, seconds);
}

static void *load(void *arg)
{
    struct serve *s = arg;
    const struct options *o = s->options;
    struct moed_engine_config cfg = cli_engine_config(o, s->dir);
    cfg.admission = options_string(o, "admission");
    cfg.admission_wait_ms = options_real(o, "admission-wait-ms");
    cfg.max_queue = (int32_t)options_int(o, "max-queue");
    cfg.no_prefix_cache = options_flag(o, "no-prefix-cache");
    cfg.no_generation_config = strcmp(options_string(o, "generation-config"), "none") == 0;
    cfg.progress = on_progress;
    cfg.user = s;
    s->rc = chat_format_open(&s->chat, s->dir, options_string(o, "chat-template"), &s->error);
    if (s->rc == 0)
        s->rc = moed_engine_open(&s->engine, &cfg, &s->error);
    uint64_t one = 1;
    if (write(s->loaded_fd, &one, sizeof one) != (ssize_t)sizeof one)
        log_error("eventfd: %s", strerror(errno));
    return NULL;
}

/* The folder's own name; of a Hugging Face snapshot (models--ORG--NAME/snapshots/HASH) ORG/NAME. */
static char *default_name(const char *dir)
{
    char *path = realpath(dir, NULL);
    const char *full = path ? path : dir, *hub = strstr(full, "models--");
    char *name;
    if (hub) {
        size_t n = strcspn(hub + 8, "/");
        name = mem_strndup(hub + 8, n);
        char *dashes = strstr(name, "--");
        if (dashes) {
            *dashes = '/';
            memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
        }
    } else {
        const char *slash = strrchr(full, '/');
        name = mem_strdup(slash && slash[1] ? slash + 1 : full);
    }
    free(path);
    return name;
}

static int open_http(struct serve *s, struct moed_error *err)
{
    const struct options *o = s->options;
    char *own_name = default_name(s->dir);
    const char *fallback[] = {own_name};
    struct http_config cfg = {
        .host = options_string(o, "host"),
        .port = (int)options_int(o, "port"),
        .api_key_file = options_string(o, "api-key-file"),
        .max_body_bytes = options_bytes(o, "max-body"),
        .max_connections = (int)options_int(o, "max-connections"),
        .request_timeout_s = options_real(o, "request-timeout"),
        .salt_per_key = options_flag(o, "prefix-per-key"),
    };
    cfg.n_model_names = options_list(o, "served-model-name", &cfg.model_names);
    if (!cfg.n_model_names) {
        cfg.model_names = fallback;
        cfg.n_model_names = 1;
    }
    cfg.n_api_keys = options_list(o, "api-key", &cfg.api_keys);
    cfg.n_cors_origins = options_list(o, "cors-origin", &cfg.cors_origins);
    int rc = cli_template_time(o, &cfg.template_time_unix, err);
    if (rc == 0)
        rc = http_open(&s->http, &cfg, err);
    free(own_name);
    return rc;
}

static void reload_keys(struct serve *s)
{
    struct moed_error err;
    if (http_reload_keys(s->http, &err) < 0)
        log_error("the API keys stay as they are: %s", err.text);
    else
        log_info("API keys read again");
}

/* The next signal, 0 when fd (if not -1) became readable or the time passed. */
static int next_signal(struct serve *s, int fd, int timeout_ms)
{
    struct pollfd fds[] = {{.fd = s->signal_fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    if (poll(fds, 2, timeout_ms) <= 0 || !(fds[0].revents & POLLIN))
        return 0;
    struct signalfd_siginfo info;
    return read(s->signal_fd, &info, sizeof info) == (ssize_t)sizeof info ? (int)info.ssi_signo : 0;
}

/* Waits for the loader. A stop signal ends the process at once: nothing is in flight yet. */
static int wait_loaded(struct serve *s)
{
    for (;;) {
        int signal_number = next_signal(s, s->loaded_fd, -1);
        if (signal_number == SIGHUP) {
            reload_keys(s);
        } else if (signal_number) {
            log_info("stopped while loading");
            pthread_detach(s->loader);
            _exit(CLI_OK);
        } else {
            struct pollfd done = {.fd = s->loaded_fd, .events = POLLIN};
            uint64_t count;
            /* Reading it, not only seeing it readable, puts what the loader wrote before this. */
            if (poll(&done, 1, 0) > 0 &&
                read(s->loaded_fd, &count, sizeof count) == (ssize_t)sizeof count)
                return s->rc;
        }
    }
}

/* Serves until a stop signal or a device failure. Returns the exit status. */
static int serve_until_stopped(struct serve *s)
{
    for (;;) {
        int signal_number = next_signal(s, -1, FAILURE_CHECK_MS);
        if (signal_number == SIGHUP) {
            reload_keys(s);
        } else if (signal_number) {
            return CLI_OK;
        } else {
            struct moed_engine_stats stats;
            moed_engine_stats(s->engine, &stats);
            if (stats.failed) {
                log_error(
                    "the device failed; the process ends so that a supervisor can start it again");
                return CLI_DEVICE_FAILED;
            }
        }
    }
}

/* Lets requests in flight end; a second stop signal or the time limit cuts this short. */
static void drain(struct serve *s)
{
    double limit = options_real(s->options, "drain-timeout");
    int64_t waited_ms = 0;
    notify_supervisor("STOPPING=1\nSTATUS=draining");
    log_info("draining, for at most %.0f s", limit);
    http_drain(s->http);
    while ((double)waited_ms < limit * 1000 && !http_wait(s->http, 0.1)) {
        waited_ms += 100;
        int signal_number = next_signal(s, -1, 0);
        if (signal_number == SIGTERM || signal_number == SIGINT) {
            log_info("stopped by a second signal");
            break;
        }
    }
}

static int start_signals(struct serve *s, struct moed_error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    /* Blocked before any thread starts, so that all inherit it and only the descriptor sees
     * signals. */
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    s->loaded_fd = eventfd(0, EFD_CLOEXEC);
    if (s->signal_fd < 0 || s->loaded_fd < 0)
        return moed_fail(err, MOED_EIO, "signalfd, eventfd: %s", strerror(errno));
    return 0;
}

int cli_serve(const struct options *o)
{
    struct serve s = {.options = o, .signal_fd = -1, .loaded_fd = -1};
    struct moed_error err = {0};
    int status = CLI_FAILED;
    s.dir = cli_model(o);
    if (!s.dir)
        return CLI_USAGE;
    cli_progress_init(&s.progress);
    int rc = start_signals(&s, &err);
    if (rc == 0)
        rc = open_http(&s, &err);
    if (rc == 0) {
        log_info("listening on %s, loading %s", http_url(s.http), s.dir);
        notify_supervisor("STATUS=loading");
        if (pthread_create(&s.loader, NULL, load, &s))
            rc = moed_fail(&err, MOED_EIO, "cannot start the loader thread");
    }
    if (rc == 0) {
        rc = wait_loaded(&s);
        pthread_join(s.loader, NULL);
        err = s.error;
    }
    if (rc == 0)
        rc = http_set_engine(s.http, s.engine, s.chat, &err);
    if (rc == 0) {
        log_info("ready on %s", http_url(s.http));
        notify_supervisor("READY=1\nSTATUS=serving");
        status = serve_until_stopped(&s);
        if (status == CLI_OK)
            drain(&s);
    } else {
        status = cli_report(&err);
    }
    http_stop(&s.http);
    moed_engine_close(&s.engine);
    chat_format_close(&s.chat);
    if (s.signal_fd >= 0)
        close(s.signal_fd);
    if (s.loaded_fd >= 0)
        close(s.loaded_fd);
    return status;
}
