/*
 * The HTTP server over the fake engine, as a program that the Python tests start.
 *
 *   moed_fake_server FOLDER [--name value ...]
 *
 * FOLDER holds tokenizer.json and tokenizer_config.json. Prints "port N" when it listens. SIGHUP
 * rereads the key file, SIGTERM drains and ends, a second one ends at once.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "fake_engine.h"
#include "http/server.h"
#include "text/template.h"
#include "text/tokenizer.h"

struct settings {
    struct http_config http;
    struct fake_config engine;
    const char *names[8], *keys[8], *origins[8];
    double load_s, drain_s;
};

static void set(struct settings *s, const char *name, const char *value)
{
    struct http_config *h = &s->http;
    double number = atof(value);
    const struct {
        const char *name;
        double *field;
    } doubles[] = {
        {"--header-timeout", &h->header_timeout_s},
        {"--idle-timeout", &h->idle_timeout_s},
        {"--write-timeout", &h->write_timeout_s},
        {"--keep-alive", &h->keep_alive_s},
        {"--request-timeout", &h->request_timeout_s},
        {"--load", &s->load_s},
        {"--drain", &s->drain_s},
    };
    for (size_t i = 0; i < sizeof doubles / sizeof doubles[0]; i++)
        if (strcmp(name, doubles[i].name) == 0) {
            *doubles[i].field = number;
            return;
        }
    const struct {
        const char *name;
        const char **list;
        size_t *n;
    } lists[] = {
        {"--served-model-name", s->names, &h->n_model_names},
        {"--api-key", s->keys, &h->n_api_keys},
        {"--cors-origin", s->origins, &h->n_cors_origins},
    };
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        if (strcmp(name, lists[i].name) == 0 && *lists[i].n < 8) {
            lists[i].list[(*lists[i].n)++] = value;
            return;
        }
    if (strcmp(name, "--host") == 0)
        h->host = value;
    else if (strcmp(name, "--port") == 0)
        h->port = (int)number;
    else if (strcmp(name, "--api-key-file") == 0)
        h->api_key_file = value;
    else if (strcmp(name, "--max-body") == 0)
        h->max_body_bytes = (size_t)number;
    else if (strcmp(name, "--max-connections") == 0)
        h->max_connections = (int)number;
    else if (strcmp(name, "--max-output") == 0)
        h->max_output_bytes = (size_t)number;
    else if (strcmp(name, "--max-model-len") == 0)
        s->engine.max_model_len = (int32_t)number;
    else if (strcmp(name, "--max-num-seqs") == 0)
        s->engine.max_num_seqs = (int32_t)number;
    else if (strcmp(name, "--max-queue") == 0)
        s->engine.max_queue = (int32_t)number;
    else if (strcmp(name, "--step-us") == 0)
        s->engine.step_us = (int64_t)number;
    else {
        fprintf(stderr, "no option %s\n", name);
        exit(2);
    }
}

static void die(const struct moed_error *err)
{
    fprintf(stderr, "%s\n", err->text);
    exit(1);
}

/* The next signal, or 0 after that many seconds. */
static int wait_signal(const sigset_t *set, double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    int signal = sigtimedwait(set, NULL, &t);
    return signal < 0 ? 0 : signal;
}

int main(int argc, char **argv)
{
    static const char *const default_names[] = {"fake", "org/fake-alias"};
    struct settings s = {.engine = {.max_model_len = 4096,
                                    .max_num_seqs = 64,
                                    .max_queue = 256,
                                    .n_layers = 3,
                                    .step_us = 1000},
                         .drain_s = 30};
    struct moed_error err = {0};
    struct tokenizer *tokenizer = NULL;
    struct chat_format *chat = NULL;
    struct http_server *server = NULL;
    if (argc < 2 || argc % 2) {
        fprintf(stderr, "moed_fake_server FOLDER [--name value ...]\n");
        return 2;
    }
    s.http.model_names = s.names;
    s.http.api_keys = s.keys;
    s.http.cors_origins = s.origins;
    for (int i = 2; i + 1 < argc; i += 2)
        set(&s, argv[i], argv[i + 1]);
    if (!s.http.n_model_names) {
        s.http.model_names = default_names;
        s.http.n_model_names = 2;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (http_open(&server, &s.http, &err) < 0)
        die(&err);
    printf("port %d\n", http_port(server));
    fflush(stdout);
    if (tokenizer_open(&tokenizer, argv[1], &err) < 0 ||
        chat_format_open(&chat, argv[1], NULL, &err) < 0)
        die(&err);
    http_set_progress(server, 250, 1000);
    int signal = wait_signal(&signals, s.load_s);
    s.engine.tokenizer = tokenizer;
    struct moed_engine *engine = fake_engine_open(&s.engine);
    if (http_set_engine(server, engine, chat, &err) < 0)
        die(&err);
    while (signal != SIGTERM && signal != SIGINT) {
        signal = wait_signal(&signals, 3600);
        if (signal == SIGHUP && http_reload_keys(server, &err) < 0)
            log_error("%s", err.text);
    }
    moed_drain(engine);
    http_drain(server);
    for (double waited = 0; waited < s.drain_s && !http_wait(server, 0.05); waited += 0.05) {
        signal = wait_signal(&signals, 0);
        if (signal == SIGTERM || signal == SIGINT)
            break;
    }
    http_stop(&server);
    moed_engine_close(&engine);
    chat_format_close(&chat);
    tokenizer_close(&tokenizer);
    return 0;
}
