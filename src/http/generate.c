/*
 * Completions and chats at the engine: one body becomes one engine request per prompt (a part), its
 * events become one reply or one stream.
 *
 * A part lives until the engine's last event for it, a generation until its reply is done or its
 * client gone; a part whose generation ended first is cancelled and comes home alone.
 */
#include "http/server_int.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "http/wire.h"

struct part {
    LIST_ENTRY(part) all;          /* server->parts */
    struct generation *generation; /* NULL: nobody waits for it */
    uint64_t handle;
    size_t prompt;
};

/* A whole reply beyond this is refused: it is kept in memory until its end. */
#define MAX_REPLY_BYTES ((size_t)256 << 20)

struct choice {
    bool begun; /* stream: its first event (role, echo) is out */
    enum moed_finish finish;
    char *stop_reason;
    int32_t stop_token;
    struct buf text; /* whole reply: all of it */
    struct wire_logprobs logprobs;
};

struct generation {
    struct conn *conn;
    struct api_request *request;
    struct choice *choices;      /* [n_prompts * n] */
    struct part **parts;         /* [n_prompts]; NULL: not yet, or no longer at the engine */
    struct moed_usage *usage;    /* [n_prompts] */
    struct buf *prompt_logprobs; /* [n_prompts]; the JSON value */
    size_t next, live;           /* parts: the next to submit, how many are at the engine */
    struct buf head;             /* of every event: id, object, created, model */
    struct buf pending;          /* events for the client, sent when the callback ends */
    struct wire_style style;
    bool begun;        /* the stream's head is out */
    size_t held_bytes; /* about what choices and prompt_logprobs have gathered */
};

static bool is_chat(const struct generation *g)
{
    return g->request->endpoint == API_CHAT;
}

static struct wire_style style_of(const struct http_server *s, const struct api_request *r)
{
    return (struct wire_style){
        .tokenizer = s->ctx.tokenizer,
        .chat = r->endpoint == API_CHAT,
        .tokens_as_ids = r->tokens_as_ids,
        .skip_special = r->sampling.skip_special,
        .n_top = r->sampling.logprobs > 0 ? r->sampling.logprobs : 0,
    };
}

/* Everything of the answer up to "choices". */
static void make_head(struct generation *g)
{
    struct conn *c = g->conn;
    const char *object = is_chat(g)
                             ? (g->request->stream ? "chat.completion.chunk" : "chat.completion")
                             : "text_completion";
    buf_printf(&g->head, "{\"id\":\"%s-", is_chat(g) ? "chatcmpl" : "cmpl");
    /* The client's own request id may repeat; ours must not. */
    uint64_t unique[2] = {c->server->secret, (uint64_t)c->req.started_us};
    uint64_t seed = (uint64_t)(uintptr_t)g ^ c->server->count.accepted << 32;
    buf_printf(&g->head, "%016llx%016llx",
               (unsigned long long)XXH3_64bits_withSeed(unique, 16, seed),
               (unsigned long long)XXH3_64bits_withSeed(unique, 16, ~seed));
    buf_printf(&g->head, "\",\"object\":\"%s\",\"created\":%lld,\"model\":", object,
               (long long)time(NULL));
    wire_string(&g->head, g->request->model, strlen(g->request->model));
    buf_printf(&g->head, ",\"system_fingerprint\":\"moed-%s\",\"choices\":[", MOED_VERSION);
}

static struct moed_usage total_usage(const struct generation *g)
{
    struct moed_usage sum = {0};
    for (size_t i = 0; i < g->request->n_prompts; i++) {
        sum.prompt_tokens += g->usage[i].prompt_tokens;
        sum.completion_tokens += g->usage[i].completion_tokens;
        sum.cached_tokens += g->usage[i].cached_tokens;
    }
    return sum;
}

/* Lets go of everything; parts still at the engine are cancelled and find no generation. */
static void generation_free(struct generation *g)
{
    struct conn *c = g->conn;
    c->req.usage = total_usage(g);
    size_t n_prompts = g->request->n_prompts;
    for (size_t i = 0; i < n_prompts; i++) {
        if (g->parts[i]) {
            moed_cancel(c->server->engine, g->parts[i]->handle);
            g->parts[i]->generation = NULL;
        }
        buf_fini(&g->prompt_logprobs[i]);
    }
    for (size_t i = 0; i < n_prompts * (size_t)g->request->n; i++) {
        free(g->choices[i].stop_reason);
        buf_fini(&g->choices[i].text);
        wire_logprobs_fini(&g->choices[i].logprobs);
    }
    free(g->choices);
    free(g->parts);
    free(g->usage);
    free(g->prompt_logprobs);
    buf_fini(&g->head);
    buf_fini(&g->pending);
    api_request_free(&g->request);
    free(g);
    c->generation = NULL;
}

void generation_abandon(struct conn *c)
{
    generation_free(c->generation);
}

/* --- streams ------------------------------------------------------------------------------ */

static void begin_stream(struct generation *g)
{
    if (g->begun)
        return;
    g->begun = true;
    reply_stream_begin(g->conn);
}

/* Starts an event about one choice, up to its own members. */
static void open_event(struct generation *g, size_t index)
{
    begin_stream(g);
    buf_puts(&g->pending, "data: ");
    buf_add(&g->pending, g->head.data, g->head.len);
    buf_printf(&g->pending, "{\"index\":%zu,", index);
    conn_mark(g->conn);
}

static void close_event(struct generation *g)
{
    buf_puts(&g->pending, "}]");
    if (g->request->continuous_usage) {
        struct moed_usage usage = total_usage(g);
        buf_puts(&g->pending, ",\"usage\":");
        wire_usage(&g->pending, &usage);
    } else if (g->request->include_usage) {
        buf_puts(&g->pending, ",\"usage\":null");
    }
    buf_puts(&g->pending, "}\n\n");
}

/* One event with text, logprobs that have gathered, and the end if it is there. */
static void put_event(struct generation *g, size_t index, const char *text, size_t n,
                      const struct choice *done)
{
    struct choice *choice = &g->choices[index];
    open_event(g, index);
    if (!is_chat(g)) {
        buf_puts(&g->pending, "\"text\":");
        wire_string(&g->pending, text, n);
    } else if (n || !done) {
        buf_puts(&g->pending, "\"delta\":{\"content\":");
        wire_string(&g->pending, text, n);
        buf_putc(&g->pending, '}');
    } else {
        buf_puts(&g->pending, "\"delta\":{}");
    }
    buf_puts(&g->pending, ",\"logprobs\":");
    if (g->request->logprobs && choice->logprobs.n) {
        wire_logprobs_put(&g->pending, &choice->logprobs, is_chat(g));
        wire_logprobs_clear(&choice->logprobs);
    } else {
        buf_puts(&g->pending, "null");
    }
    wire_finish(&g->pending, done ? done->finish : MOED_FINISH_NONE,
                done ? done->stop_reason : NULL, done ? done->stop_token : -1);
    close_event(g);
}

/* What comes before the first text of a choice: the role, or the echoed prompt. */
static void begin_choice(struct generation *g, size_t index)
{
    struct choice *choice = &g->choices[index];
    if (choice->begun)
        return;
    choice->begun = true;
    if (is_chat(g)) {
        open_event(g, index);
        buf_puts(&g->pending, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                              "\"logprobs\":null,\"finish_reason\":null");
        close_event(g);
    } else if (g->request->echo) {
        const struct api_prompt *prompt = &g->request->prompts[index / (size_t)g->request->n];
        put_event(g, index, prompt->text, prompt->text_bytes, NULL);
    }
}

void generation_flush(struct conn *c)
{
    struct generation *g = c->generation;
    if (!g || g->pending.len == 0)
        return;
    reply_stream_add(c, &g->pending);
    buf_truncate(&g->pending, 0);
}

void generation_comment(struct conn *c)
{
    struct generation *g = c->generation;
    if (!g->request->stream)
        return;
    begin_stream(g);
    buf_puts(&g->pending, ": keep-alive\n\n");
    c->server->count.comments++;
    conn_mark(c);
}

static void end_stream(struct generation *g)
{
    struct conn *c = g->conn;
    if (g->request->include_usage) {
        struct moed_usage usage = total_usage(g);
        buf_puts(&g->pending, "data: ");
        buf_add(&g->pending, g->head.data, g->head.len);
        buf_puts(&g->pending, "],\"usage\":");
        wire_usage(&g->pending, &usage);
        buf_puts(&g->pending, "}\n\n");
    }
    buf_puts(&g->pending, "data: [DONE]\n\n");
    generation_flush(c);
    generation_free(g);
    reply_stream_end(c);
}

/* --- whole replies ------------------------------------------------------------------------ */

static void put_choice(struct buf *out, struct generation *g, size_t index)
{
    struct choice *choice = &g->choices[index];
    buf_printf(out, "{\"index\":%zu,", index);
    buf_puts(out, is_chat(g) ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    wire_string(out, buf_str(&choice->text), choice->text.len);
    if (is_chat(g))
        buf_puts(out, ",\"refusal\":null}");
    buf_puts(out, ",\"logprobs\":");
    if (g->request->logprobs)
        wire_logprobs_put(out, &choice->logprobs, is_chat(g));
    else
        buf_puts(out, "null");
    wire_finish(out, choice->finish, choice->stop_reason, choice->stop_token);
    if (g->request->prompt_logprobs && !is_chat(g)) {
        const struct buf *prompt = &g->prompt_logprobs[index / (size_t)g->request->n];
        buf_puts(out, ",\"prompt_logprobs\":");
        buf_puts(out, prompt->len ? prompt->data : "null");
    }
    buf_putc(out, '}');
}

static void send_whole(struct generation *g)
{
    struct conn *c = g->conn;
    struct moed_usage usage = total_usage(g);
    struct buf out = {0};
    buf_add(&out, g->head.data, g->head.len);
    for (size_t i = 0; i < g->request->n_prompts * (size_t)g->request->n; i++) {
        if (i)
            buf_putc(&out, ',');
        put_choice(&out, g, i);
    }
    buf_puts(&out, "],\"usage\":");
    wire_usage(&out, &usage);
    if (g->request->prompt_logprobs && is_chat(g)) {
        buf_puts(&out, ",\"prompt_logprobs\":");
        buf_puts(&out, g->prompt_logprobs[0].len ? g->prompt_logprobs[0].data : "null");
    }
    buf_putc(&out, '}');
    generation_free(g);
    reply_json(c, 200, &out);
    buf_fini(&out);
}

/* --- the way to the engine and back --------------------------------------------------------- */

static void fail(struct generation *g, const struct moed_error *e)
{
    struct conn *c = g->conn;
    log_info("http: %s: failed: %s", c->req.id, e->text);
    if (!g->begun) {
        generation_free(g);
        reply_fail(c, e);
        return;
    }
    /* The status is out already: one event says what happened, and no [DONE] follows. */
    buf_puts(&g->pending, "data: ");
    error_json_of(&g->pending, e);
    buf_puts(&g->pending, "\n\n");
    generation_flush(c);
    generation_free(g);
    reply_stream_end(c);
}

void generation_stop(struct conn *c)
{
    struct moed_error err;
    moed_fail(&err, MOED_ECANCELED, "the server is stopping");
    fail(c->generation, &err);
}

static void end_choice(struct generation *g, size_t index, const struct moed_event *e)
{
    struct choice *choice = &g->choices[index];
    choice->finish = e && e->finish != MOED_FINISH_NONE ? e->finish : MOED_FINISH_LENGTH;
    choice->stop_reason = e && e->stop_reason ? mem_strdup(e->stop_reason) : NULL;
    choice->stop_token = e ? e->stop_token : -1;
}

/* Echo of a whole reply goes in front of what is generated. */
static void add_echo(struct generation *g, size_t prompt)
{
    const struct api_request *r = g->request;
    if (!r->echo || r->stream)
        return;
    for (size_t i = prompt * (size_t)r->n; i < (prompt + 1) * (size_t)r->n; i++)
        buf_add(&g->choices[i].text, r->prompts[prompt].text, r->prompts[prompt].text_bytes);
}

/* No new tokens and nothing to compute: the prompt is the answer. */
static void finish_without_engine(struct generation *g, size_t prompt)
{
    const struct api_request *r = g->request;
    g->usage[prompt].prompt_tokens = (uint32_t)r->prompts[prompt].n;
    for (size_t i = prompt * (size_t)r->n; i < (prompt + 1) * (size_t)r->n; i++) {
        end_choice(g, i, NULL);
        if (r->stream) {
            begin_choice(g, i);
            put_event(g, i, "", 0, &g->choices[i]);
        }
    }
}

static int submit_one(struct generation *g, struct moed_error *err)
{
    struct conn *c = g->conn;
    struct http_server *s = c->server;
    struct api_request *r = g->request;
    size_t index = g->next;
    struct part *part = mem_new(1, sizeof *part);
    struct moed_request *q = api_engine_request(r, index);
    snprintf(q->id, sizeof q->id, "%.63s", c->req.id);
    q->user = part;
    if (r->timeout_s > 0)
        q->deadline_us = c->req.started_us + (int64_t)(r->timeout_s * 1e6);
    if (c->req.key_salt)
        q->cache_salt = XXH3_64bits_withSeed(&r->cache_salt, sizeof r->cache_salt, c->req.key_salt);
    int rc = moed_submit(s->engine, &q, s->outbox, &part->handle, err);
    if (rc < 0) {
        r->prompts[index].ids = q->prompt; /* to try again with */
        q->prompt = NULL;
        moed_request_free(&q);
        free(part);
        return rc;
    }
    part->generation = g;
    part->prompt = index;
    g->parts[index] = part;
    g->live++;
    g->next++;
    LIST_INSERT_HEAD(&s->parts, part, all);
    return 0;
}

/* Hands over as many prompts as there is room for; the rest follows as they end. False when the
 * generation has failed and is gone. */
static bool submit_more(struct generation *g)
{
    struct api_request *r = g->request;
    int32_t room = g->conn->server->ctx.info.max_num_seqs / r->n;
    while (g->next < r->n_prompts && g->live < (size_t)(room > 1 ? room : 1)) {
        struct moed_error err = {0};
        if (r->sampling.max_tokens == 0 && r->sampling.prompt_logprobs < 0) {
            add_echo(g, g->next);
            finish_without_engine(g, g->next++);
            continue;
        }
        int rc = submit_one(g, &err);
        if (rc == MOED_EBUSY && g->live > 0)
            return true;
        if (rc < 0) {
            err.code = rc;
            fail(g, &err);
            return false;
        }
        add_echo(g, g->next - 1);
    }
    return true;
}

static void finish_if_done(struct generation *g)
{
    if (g->live > 0 || g->next < g->request->n_prompts)
        return;
    if (g->request->stream)
        end_stream(g);
    else
        send_whole(g);
}

void generation_start(struct conn *c, struct api_request *request)
{
    struct generation *g = mem_new(1, sizeof *g);
    size_t n_prompts = request->n_prompts;
    g->conn = c;
    g->request = request;
    g->style = style_of(c->server, request);
    g->choices = mem_new(n_prompts * (size_t)request->n, sizeof *g->choices);
    g->parts = mem_new(n_prompts, sizeof(struct part *));
    g->usage = mem_new(n_prompts, sizeof *g->usage);
    g->prompt_logprobs = mem_new(n_prompts, sizeof *g->prompt_logprobs);
    c->generation = g;
    make_head(g);
    if (submit_more(g))
        finish_if_done(g);
}

/* Whether the first token (bos) was put in front of the text by the tokenizer. */
static size_t count_hidden(const struct generation *g, const struct api_prompt *prompt,
                           const struct moed_event *e)
{
    const struct tokenizer *t = g->style.tokenizer;
    size_t n;
    if (!t || e->n_tokens == 0 || !tokenizer_is_special(t, e->tokens[0].id))
        return 0;
    const char *bytes = tokenizer_token_bytes(t, e->tokens[0].id, &n);
    return n > prompt->text_bytes || memcmp(bytes, prompt->text, n) != 0;
}

static void on_prompt(struct generation *g, size_t prompt, const struct moed_event *e)
{
    const struct api_request *r = g->request;
    if (r->prompt_logprobs) {
        struct wire_style style = g->style;
        style.n_top = r->sampling.prompt_logprobs;
        wire_prompt_logprobs(&g->prompt_logprobs[prompt], &style, e->tokens, e->n_tokens);
    }
    if (!r->echo || !r->logprobs)
        return;
    struct wire_style style = g->style;
    style.skip_special = false;
    style.hidden = count_hidden(g, &r->prompts[prompt], e);
    for (size_t i = prompt * (size_t)r->n; i < (prompt + 1) * (size_t)r->n; i++) {
        wire_logprobs_add(&g->choices[i].logprobs, &style, e->tokens, e->n_tokens);
        if (r->stream)
            begin_choice(g, i);
    }
}

static void on_tokens(struct generation *g, size_t prompt, const struct moed_event *e)
{
    const struct api_request *r = g->request;
    assert(e->choice >= 0 && e->choice < r->n);
    size_t index = prompt * (size_t)r->n + (size_t)e->choice;
    struct choice *choice = &g->choices[index];
    bool done = e->finish != MOED_FINISH_NONE;
    if (r->stream)
        begin_choice(g, index);
    if (r->logprobs)
        wire_logprobs_add(&choice->logprobs, &g->style, e->tokens, e->n_tokens);
    if (done)
        end_choice(g, index, e);
    if (!g->conn->req.first_us)
        g->conn->req.first_us = clock_us();
    if (!r->stream)
        buf_add(&choice->text, e->text, e->text_bytes);
    else if (e->text_bytes || done || choice->logprobs.n)
        put_event(g, index, e->text, e->text_bytes, done ? choice : NULL);
}

static void part_end(struct http_server *s, struct part *part)
{
    if (part->generation) {
        part->generation->parts[part->prompt] = NULL;
        part->generation->live--;
    }
    LIST_REMOVE(part, all);
    free(part);
}

static void on_done(struct generation *g, size_t prompt)
{
    const struct api_request *r = g->request;
    for (size_t i = prompt * (size_t)r->n; i < (prompt + 1) * (size_t)r->n; i++) {
        if (g->choices[i].finish != MOED_FINISH_NONE)
            continue;
        end_choice(g, i, NULL);
        if (r->stream) {
            begin_choice(g, i);
            put_event(g, i, "", 0, &g->choices[i]);
        }
    }
    if (submit_more(g))
        finish_if_done(g);
}

/* Counts what an event adds to a whole reply; false when that was too much and the generation is
 * gone. */
static bool hold(struct generation *g, const struct moed_event *e)
{
    if (g->request->stream)
        return true;
    size_t each = 64, copies = e->kind == MOED_EVENT_PROMPT ? (size_t)g->request->n + 1 : 1;
    for (size_t i = 0; i < e->n_tokens; i++)
        each += 64 + 48 * (size_t)e->tokens[i].n_top;
    g->held_bytes += e->text_bytes + each * copies;
    if (g->held_bytes <= MAX_REPLY_BYTES)
        return true;
    struct moed_error err;
    moed_fail_param(&err, MOED_EINVAL, "stream", "the reply is larger than %zu MiB; use 'stream'",
                    MAX_REPLY_BYTES >> 20);
    fail(g, &err);
    return false;
}

static void on_event(struct http_server *s, const struct moed_event *e)
{
    struct part *part = e->user;
    struct generation *g = part->generation;
    size_t prompt = part->prompt;
    bool last = e->kind == MOED_EVENT_DONE || e->kind == MOED_EVENT_ERROR;
    if (g && e->kind != MOED_EVENT_ERROR)
        g->usage[prompt] = e->usage;
    if (last)
        part_end(s, part);
    if (!g || !hold(g, e))
        return;
    switch (e->kind) {
    case MOED_EVENT_PROMPT:
        on_prompt(g, prompt, e);
        break;
    case MOED_EVENT_TOKENS:
        on_tokens(g, prompt, e);
        break;
    case MOED_EVENT_ERROR:
        fail(g, &e->error);
        break;
    case MOED_EVENT_DONE:
        on_done(g, prompt);
        break;
    }
}

void generation_events(struct http_server *s)
{
    struct moed_event *e;
    while ((e = moed_outbox_next(s->outbox))) {
        on_event(s, e);
        moed_event_free(e);
    }
}

void generation_forget_all(struct http_server *s)
{
    /* No connection is left, so no generation waits for any of them. */
    struct part *part = LIST_FIRST(&s->parts);
    while (part) {
        struct part *next = LIST_NEXT(part, all);
        assert(!part->generation);
        free(part);
        part = next;
    }
    LIST_INIT(&s->parts);
}
