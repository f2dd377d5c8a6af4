/* moed generate: one prompt, its continuation on standard output as it comes. */
#include "cli/cli.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "cli/time.h"
#include "text/template.h"
#include "text/tokenizer.h"

#define STDIN_MAX_BYTES ((size_t)64 << 20)

static int read_stdin(struct buf *out, struct moed_error *err)
{
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, stdin)) > 0) {
        if (out->len + n > STDIN_MAX_BYTES)
            return moed_fail(err, MOED_ELIMIT,
                             "the prompt on standard input is longer than %zu bytes",
                             STDIN_MAX_BYTES);
        buf_add(out, chunk, n);
    }
    if (ferror(stdin))
        return moed_fail(err, MOED_EIO, "standard input: %s", strerror(errno));
    return 0;
}

/* The user's text inside the model's chat template. */
static int wrap_chat(const struct options *o, const char *dir, const struct buf *text,
                     struct buf *out, struct moed_error *err)
{
    struct chat_format *format = NULL;
    int64_t now_unix;
    int rc = cli_template_time(o, &now_unix, err);
    if (rc == 0)
        rc = chat_format_open(&format, dir, options_string(o, "chat-template"), err);
    if (rc == 0 && !format)
        rc = moed_fail(err, MOED_ENOTFOUND,
                       "%s has no chat template; give one with --chat-template", dir);
    if (rc == 0) {
        json_t *content = json_stringn(buf_str(text), text->len);
        if (!content) {
            rc = moed_fail(err, MOED_EINVAL, "the prompt is not UTF-8");
        } else {
            struct chat_input in = {.add_generation_prompt = 1, .now_unix = now_unix};
            in.messages = json_pack("[{s:s, s:o}]", "role", "user", "content", content);
            rc = chat_format_render(format, &in, out, err);
            json_decref(in.messages);
        }
    }
    chat_format_close(&format);
    return rc;
}

static int make_prompt(const struct options *o, const char *dir, const struct tokenizer *t,
                       struct tokens *out, struct moed_error *err)
{
    struct buf text = {0}, wrapped = {0};
    int rc = 0;
    const char *given = options_string(o, "prompt");
    if (given)
        buf_puts(&text, given);
    else
        rc = read_stdin(&text, err);
    unsigned flags = TOKENIZER_ADD_SPECIAL;
    const struct buf *prompt = &text;
    if (rc == 0 && options_flag(o, "chat")) {
        rc = wrap_chat(o, dir, &text, &wrapped, err);
        prompt = &wrapped;
        /* The template writes the special tokens itself. */
        flags = TOKENIZER_PARSE_SPECIAL;
    }
    if (rc == 0)
        rc = tokenizer_encode(t, buf_str(prompt), prompt->len, flags, 0, out, err);
    if (rc == 0 && out->n == 0) {
        if (tokenizer_bos(t) >= 0)
            tokens_add(out, tokenizer_bos(t));
        else
            rc = moed_fail(err, MOED_EINVAL, "the prompt is empty");
    }
    buf_fini(&text);
    buf_fini(&wrapped);
    return rc;
}

static struct moed_request *make_request(const struct options *o, const struct moed_engine *e,
                                         struct tokens *prompt)
{
    struct moed_request *r = moed_request_new();
    moed_engine_sampling(e, &r->sampling);
    r->prompt = prompt->ids;
    r->n_prompt = prompt->n;
    *prompt = (struct tokens){0};
    r->n = 1;
    r->sampling.max_tokens = (int32_t)options_int(o, "max-tokens");
    if (options_has(o, "temperature"))
        r->sampling.temperature = (float)options_real(o, "temperature");
    if (options_has(o, "top-p"))
        r->sampling.top_p = (float)options_real(o, "top-p");
    if (options_has(o, "seed")) {
        r->sampling.seed = (uint64_t)options_int(o, "seed");
        r->sampling.has_seed = true;
    }
    snprintf(r->id, sizeof r->id, "generate");
    return r;
}

/* Prints text as it arrives until the request ends. */
static int stream(struct moed_outbox *outbox, struct moed_usage *usage, int64_t *first_us,
                  struct moed_error *err)
{
    for (;;) {
        struct pollfd fd = {.fd = moed_outbox_fd(outbox), .events = POLLIN};
        if (poll(&fd, 1, -1) < 0 && errno != EINTR)
            return moed_fail(err, MOED_EIO, "poll: %s", strerror(errno));
        struct moed_event *event;
        while ((event = moed_outbox_next(outbox))) {
            enum moed_event_kind kind = event->kind;
            if (kind == MOED_EVENT_TOKENS) {
                if (!*first_us)
                    *first_us = clock_us();
                fwrite(event->text, 1, event->text_bytes, stdout);
                fflush(stdout);
            }
            *usage = event->usage;
            if (kind == MOED_EVENT_ERROR && err)
                *err = event->error;
            moed_event_free(event);
            if (kind == MOED_EVENT_ERROR)
                return err ? err->code : MOED_EINTERNAL;
            if (kind == MOED_EVENT_DONE)
                return 0;
        }
    }
}

static void print_counter(void *user, const char *name, const char *help, uint64_t value)
{
    fprintf(stderr, "%s%s %llu", *(int *)user ? ", " : "experts: ", name,
            (unsigned long long)value);
    *(int *)user = 1;
}

static void print_stats(const struct moed_engine *e, const struct moed_usage *u, int64_t start_us,
                        int64_t first_us)
{
    int64_t end_us = clock_us();
    double first = (double)(first_us - start_us) * 1e-6, rest = (double)(end_us - first_us) * 1e-6;
    fprintf(stderr, "prompt %u tokens (%u reused), first token after %.3f s; %u new tokens",
            u->prompt_tokens, u->cached_tokens, first, u->completion_tokens);
    if (u->completion_tokens > 1 && rest > 0)
        fprintf(stderr, ", %.1f tokens/s", (double)(u->completion_tokens - 1) / rest);
    fputc('\n', stderr);
    int any = 0;
    moed_engine_pager_counters(e, -1, print_counter, &any);
    if (any)
        fputc('\n', stderr);
}

int cli_generate(const struct options *o)
{
    struct moed_error err = {0};
    struct moed_engine *engine = NULL;
    struct moed_outbox *outbox = NULL;
    struct moed_request *request = NULL;
    struct tokens prompt = {0};
    struct cli_progress progress;
    const char *dir = cli_model(o);
    if (!dir)
        return CLI_USAGE;

    cli_progress_init(&progress);
    struct moed_engine_config cfg = cli_engine_config(o, dir);
    cfg.no_prefix_cache = options_flag(o, "no-prefix-cache");
    cfg.no_generation_config = strcmp(options_string(o, "generation-config"), "none") == 0;
    cfg.progress = cli_progress_show;
    cfg.user = &progress;
    int rc = moed_engine_open(&engine, &cfg, &err);
    const struct tokenizer *tokenizer = rc == 0 ? moed_engine_tokenizer(engine) : NULL;
    if (rc == 0 && !tokenizer)
        rc = moed_fail(&err, MOED_ENOTFOUND,
                       "%s has no tokenizer, so there is no text to read or write", dir);
    if (rc == 0)
        rc = make_prompt(o, dir, tokenizer, &prompt, &err);
    if (rc == 0)
        rc = moed_outbox_open(&outbox, &err);
    if (rc == 0) {
        uint64_t handle;
        struct moed_usage usage = {0};
        int64_t start_us = clock_us(), first_us = 0;
        request = make_request(o, engine, &prompt);
        rc = moed_submit(engine, &request, outbox, &handle, &err);
        if (rc == 0)
            rc = stream(outbox, &usage, &first_us, &err);
        if (rc == 0) {
            fputc('\n', stdout);
            fflush(stdout);
            if (options_flag(o, "stats"))
                print_stats(engine, &usage, start_us, first_us);
        }
    }
    tokens_fini(&prompt);
    moed_request_free(&request);
    moed_engine_close(&engine);
    moed_outbox_close(&outbox);
    return rc < 0 ? cli_report(&err) : CLI_OK;
}
