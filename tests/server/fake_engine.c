#include "fake_engine.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/outbox.h"
#include "engine/stop.h"
#include "moed/request.h"
#include "text/tokenizer.h"

const char fake_text[] =
    "It was a bright cold day in April \xE2\x80\x94 and the clocks were striking thirteen. "
    "Na\xC3\xAFve caf\xC3\xA9s \xF0\x9F\x99\x82 opened late; \"quotes\" and \\slashes\\ were "
    "free.\n";

const double moed_histogram_bound[MOED_HISTOGRAM_BUCKETS] = {
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3,    0.5,   0.75,  1,     1.5,  2.5,  5,    10,   20,    40,  80,   160};

struct sequence {
    int32_t choice, n_new;
    size_t at; /* in the ids of fake_text */
    bool done;
    struct detokenizer *detokenizer;
    struct stop_matcher stop;
};

struct item {
    TAILQ_ENTRY(item) list;
    struct moed_request *request;
    struct moed_outbox *outbox;
    uint64_t handle;
    int64_t arrived_us, next_us, last_us;
    bool canceled, device_error;
    int64_t fail_at, slow_us, stop_at; /* -1: not asked for */
    struct sequence *sequences;        /* [n] once it runs */
    struct moed_usage usage;
};
TAILQ_HEAD(items, item);

struct moed_engine {
    struct fake_config cfg;
    struct tokens text;
    pthread_t thread;
    pthread_mutex_t lock; /* guards everything */
    pthread_cond_t work;
    struct items queue, batch;
    bool stop, draining;
    uint64_t handles;
    struct moed_engine_stats stats;
};

static void observe(struct moed_histogram *h, int64_t us)
{
    int i = 0;
    while (i < MOED_HISTOGRAM_BUCKETS && (double)us * 1e-6 > moed_histogram_bound[i])
        i++;
    h->bucket[i]++;
    h->count++;
    h->sum += (double)us * 1e-6;
}

static void push(struct item *item, struct event_parts *parts)
{
    parts->user = item->request->user;
    parts->usage = item->usage;
    outbox_push(item->outbox, outbox_event_new(parts));
}

static void item_free(struct item *item)
{
    for (int32_t i = 0; item->sequences && i < item->request->n; i++) {
        detokenizer_close(&item->sequences[i].detokenizer);
        stop_fini(&item->sequences[i].stop);
    }
    free(item->sequences);
    moed_request_free(&item->request);
    outbox_unref(item->outbox);
    free(item);
}

static void fail_item(struct moed_engine *e, struct item *item, int code, const char *why)
{
    struct moed_error error;
    moed_fail(&error, code, "%s", why);
    push(item, &(struct event_parts){.kind = MOED_EVENT_ERROR, .error = &error, .stop_token = -1});
    if (code == MOED_ECANCELED)
        e->stats.requests_canceled++;
    else
        e->stats.requests_failed++;
}

static float fake_logprob(int32_t id)
{
    return -0.25F - 0.125F * (float)(id % 5);
}

/* The alternatives: the token itself first or second, by its parity. */
static void fake_token(struct moed_token *t, struct moed_top *top, int32_t id, int32_t n_top,
                       int32_t vocab)
{
    int32_t place = id % 2;
    *t = (struct moed_token){.id = id, .logprob = fake_logprob(id), .rank = place + 1, .top = top};
    t->n_top = n_top > 0 ? n_top : 0;
    for (int32_t i = 0; i < t->n_top; i++) {
        int32_t other = (id + 1 + i) % vocab;
        float delta = (float)(i - place);
        top[i] = i == place ? (struct moed_top){id, t->logprob}
                            : (struct moed_top){other, t->logprob - 0.0625F * delta};
    }
}

static void push_prompt(struct moed_engine *e, struct item *item)
{
    const struct moed_request *q = item->request;
    int32_t n_top = q->sampling.prompt_logprobs;
    struct moed_token *tokens = mem_new(q->n_prompt, sizeof *tokens);
    struct moed_top *top = mem_new(q->n_prompt * (size_t)(n_top + 1), sizeof *top);
    int32_t vocab = tokenizer_vocab_size(e->cfg.tokenizer);
    for (size_t i = 0; i < q->n_prompt; i++)
        fake_token(&tokens[i], top + i * (size_t)(n_top + 1), q->prompt[i], i ? n_top : 0, vocab);
    tokens[0].logprob = NAN;
    tokens[0].rank = 0;
    push(item, &(struct event_parts){.kind = MOED_EVENT_PROMPT,
                                     .tokens = tokens,
                                     .n_tokens = q->n_prompt,
                                     .stop_token = -1});
    free(tokens);
    free(top);
}

static int64_t directive(const char *text, const char *name, bool value)
{
    const char *at = strstr(text, name);
    return !at ? -1 : value ? strtoll(at + strlen(name), NULL, 10) : 1;
}

static void start_item(struct moed_engine *e, struct item *item)
{
    struct moed_request *q = item->request;
    struct buf text = {0};
    tokenizer_decode(e->cfg.tokenizer, q->prompt, q->n_prompt, 0, &text);
    item->device_error = directive(buf_str(&text), "@device_error", false) > 0;
    item->fail_at = item->device_error ? 0 : directive(buf_str(&text), "@fail_at=", true);
    item->slow_us = directive(buf_str(&text), "@slow=", true) * 1000;
    item->stop_at = directive(buf_str(&text), "@stop_at=", true);
    buf_fini(&text);
    item->sequences = mem_new((size_t)q->n, sizeof *item->sequences);
    for (int32_t i = 0; i < q->n; i++) {
        struct sequence *s = &item->sequences[i];
        s->choice = i;
        uint64_t shift = (q->sampling.has_seed ? q->sampling.seed : 0) + (uint64_t)i;
        s->at = q->sampling.temperature > 0 ? shift % e->text.n : 0;
        detokenizer_open(&s->detokenizer, e->cfg.tokenizer,
                         q->sampling.skip_special ? DETOKENIZER_SKIP_SPECIAL : 0);
        stop_init(&s->stop, q->sampling.stop, q->sampling.n_stop, q->sampling.include_stop);
    }
    item->usage.prompt_tokens = (uint32_t)q->n_prompt;
    item->usage.cached_tokens = (uint32_t)(q->n_prompt - 1) / 16 * 16;
    e->stats.prompt_tokens += q->n_prompt;
    e->stats.cached_tokens += item->usage.cached_tokens;
    observe(&e->stats.queue_time, clock_us() - item->arrived_us);
    if (q->sampling.prompt_logprobs >= 0)
        push_prompt(e, item);
    e->stats.running += q->n;
    e->stats.kv_blocks_used += q->n;
}

/* One new token of one sequence. */
static void step_sequence(struct moed_engine *e, struct item *item, struct sequence *s)
{
    const struct moed_sampling *p = &item->request->sampling;
    struct moed_token token;
    struct moed_top top[MOED_MAX_TOP_LOGPROBS + 1];
    struct buf text = {0};
    const char *bytes;
    size_t n;
    struct event_parts parts = {
        .kind = MOED_EVENT_TOKENS, .choice = s->choice, .tokens = &token, .stop_token = -1};
    if (p->max_tokens > 0) {
        int32_t id = e->text.ids[s->at++ % e->text.n];
        s->n_new++;
        item->usage.completion_tokens++;
        e->stats.generated_tokens++;
        fake_token(&token, top, id, p->logprobs, tokenizer_vocab_size(e->cfg.tokenizer));
        parts.n_tokens = p->logprobs >= 0 ? 1 : 0;
        detokenizer_push(s->detokenizer, id, &bytes, &n);
        stop_push(&s->stop, bytes, n);
        buf_add(&text, buf_str(&s->stop.out), s->stop.out.len);
        for (size_t i = 0; i < p->n_stop_id; i++)
            if (p->stop_id[i] == id)
                parts.finish = MOED_FINISH_STOP, parts.stop_token = id;
    }
    bool ends = item->stop_at >= 0 && s->n_new >= item->stop_at;
    if (s->stop.found) {
        parts.finish = MOED_FINISH_STOP;
        parts.stop_reason = s->stop.found;
    } else if (parts.finish == MOED_FINISH_NONE && s->n_new >= p->min_tokens && ends) {
        parts.finish = MOED_FINISH_STOP;
    } else if (parts.finish == MOED_FINISH_NONE && s->n_new >= p->max_tokens) {
        parts.finish = MOED_FINISH_LENGTH;
    }
    if (parts.finish != MOED_FINISH_NONE && !s->stop.found) {
        detokenizer_finish(s->detokenizer, &bytes, &n);
        stop_push(&s->stop, bytes, n);
        buf_add(&text, buf_str(&s->stop.out), s->stop.out.len);
        stop_finish(&s->stop);
        buf_add(&text, buf_str(&s->stop.out), s->stop.out.len);
    }
    parts.text = buf_str(&text);
    parts.text_bytes = text.len;
    push(item, &parts);
    buf_fini(&text);
    s->done = parts.finish != MOED_FINISH_NONE;
    if (s->done) {
        e->stats.running--;
        e->stats.kv_blocks_used--;
    }
}

static void release_running(struct moed_engine *e, struct item *item)
{
    for (int32_t i = 0; i < item->request->n; i++) {
        e->stats.running -= !item->sequences[i].done;
        e->stats.kv_blocks_used -= !item->sequences[i].done;
    }
}

/* True when the item has ended. */
static bool step_item(struct moed_engine *e, struct item *item, int64_t now)
{
    const struct moed_request *q = item->request;
    if (item->canceled || (q->deadline_us && now > q->deadline_us)) {
        release_running(e, item);
        fail_item(e, item, item->canceled ? MOED_ECANCELED : MOED_EDEADLINE,
                  item->canceled ? "canceled" : "the request's time is over");
        return true;
    }
    if (now < item->next_us)
        return false;
    item->next_us = now + item->slow_us;
    bool all = true;
    for (int32_t i = 0; i < q->n; i++) {
        struct sequence *s = &item->sequences[i];
        if (!s->done && item->fail_at >= 0 && s->n_new >= item->fail_at) {
            release_running(e, item);
            e->stats.failed = item->device_error;
            fail_item(e, item, item->device_error ? MOED_EDEVICE : MOED_EINTERNAL,
                      "a fault was asked for");
            return true;
        }
        if (!s->done)
            step_sequence(e, item, s);
        all = all && s->done;
    }
    observe(item->last_us ? &e->stats.inter_token : &e->stats.ttft,
            now - (item->last_us ? item->last_us : item->arrived_us));
    item->last_us = now;
    if (!all)
        return false;
    push(item, &(struct event_parts){.kind = MOED_EVENT_DONE, .stop_token = -1});
    e->stats.requests_ok++;
    observe(&e->stats.request_time, now - item->arrived_us);
    return true;
}

static void admit(struct moed_engine *e, int64_t now)
{
    struct item *item, *next;
    for (item = TAILQ_FIRST(&e->queue); item; item = next) {
        next = TAILQ_NEXT(item, list);
        bool late = item->request->deadline_us && now > item->request->deadline_us;
        if (item->canceled || late) {
            TAILQ_REMOVE(&e->queue, item, list);
            e->stats.waiting--;
            fail_item(e, item, late ? MOED_EDEADLINE : MOED_ECANCELED, "ended in the queue");
            item_free(item);
            continue;
        }
        if (e->stats.running && e->stats.running + item->request->n > e->cfg.max_num_seqs)
            continue;
        TAILQ_REMOVE(&e->queue, item, list);
        e->stats.waiting--;
        start_item(e, item);
        TAILQ_INSERT_TAIL(&e->batch, item, list);
    }
}

static void step(struct moed_engine *e)
{
    int64_t now = clock_us();
    struct item *item, *next;
    for (item = TAILQ_FIRST(&e->batch); item; item = next) {
        next = TAILQ_NEXT(item, list);
        if (!step_item(e, item, now))
            continue;
        TAILQ_REMOVE(&e->batch, item, list);
        item_free(item);
    }
    admit(e, now);
    e->stats.steps++;
}

static void *run(void *arg)
{
    struct moed_engine *e = arg;
    pthread_mutex_lock(&e->lock);
    while (!e->stop) {
        if (TAILQ_EMPTY(&e->queue) && TAILQ_EMPTY(&e->batch)) {
            pthread_cond_wait(&e->work, &e->lock);
            continue;
        }
        step(e);
        pthread_mutex_unlock(&e->lock);
        struct timespec pause = {e->cfg.step_us / 1000000, e->cfg.step_us % 1000000 * 1000};
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

struct moed_engine *fake_engine_open(const struct fake_config *cfg)
{
    struct moed_engine *e = mem_new(1, sizeof *e);
    struct moed_error err;
    e->cfg = *cfg;
    TAILQ_INIT(&e->queue);
    TAILQ_INIT(&e->batch);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->work, NULL);
    int rc = tokenizer_encode(cfg->tokenizer, fake_text, strlen(fake_text), 0, 0, &e->text, &err);
    assert(rc == 0);
    rc = pthread_create(&e->thread, NULL, run, e);
    assert(rc == 0);
    return e;
}

void moed_engine_close(struct moed_engine **engine)
{
    struct moed_engine *e = *engine;
    pthread_mutex_lock(&e->lock);
    e->stop = true;
    pthread_cond_signal(&e->work);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    struct item *item;
    while ((item = TAILQ_FIRST(&e->queue))) {
        TAILQ_REMOVE(&e->queue, item, list);
        item_free(item);
    }
    while ((item = TAILQ_FIRST(&e->batch))) {
        TAILQ_REMOVE(&e->batch, item, list);
        item_free(item);
    }
    tokens_fini(&e->text);
    free(e);
    *engine = NULL;
}

void moed_engine_info(const struct moed_engine *e, struct moed_engine_info *out)
{
    *out = (struct moed_engine_info){
        .architecture = "FakeForCausalLM",
        .vocab_size = tokenizer_vocab_size(e->cfg.tokenizer),
        .max_model_len = e->cfg.max_model_len,
        .max_num_seqs = e->cfg.max_num_seqs,
        .max_batched_tokens = 512,
        .max_queue = e->cfg.max_queue,
        .n_layers = e->cfg.n_layers,
        .n_experts = 8,
        .top_k = 2,
        .kv_blocks = 100,
        .parameters = 1000,
        .active_parameters = 250,
        .loaded_unix = time(NULL),
    };
}

void moed_engine_sampling(const struct moed_engine *e, struct moed_sampling *out)
{
    moed_sampling_default(out);
}

const struct tokenizer *moed_engine_tokenizer(const struct moed_engine *e)
{
    return e->cfg.tokenizer;
}

int moed_submit(struct moed_engine *e, struct moed_request **request, struct moed_outbox *outbox,
                uint64_t *handle, struct moed_error *err)
{
    int rc = 0;
    pthread_mutex_lock(&e->lock);
    if (e->stats.failed)
        rc = moed_fail(err, MOED_EDEVICE, "the engine has failed");
    else if (e->draining)
        rc = moed_fail(err, MOED_ECLOSED, "draining");
    else if (e->stats.waiting >= e->cfg.max_queue)
        rc = moed_fail(err, MOED_EBUSY, "the queue is full (%d requests)", e->cfg.max_queue);
    if (rc == 0) {
        struct item *item = mem_new(1, sizeof *item);
        item->request = *request;
        *request = NULL;
        item->outbox = outbox;
        outbox_ref(outbox);
        item->arrived_us = clock_us();
        *handle = item->handle = ++e->handles;
        TAILQ_INSERT_TAIL(&e->queue, item, list);
        e->stats.waiting++;
        e->stats.requests++;
        pthread_cond_signal(&e->work);
    }
    pthread_mutex_unlock(&e->lock);
    return rc;
}

void moed_cancel(struct moed_engine *e, uint64_t handle)
{
    struct item *item;
    pthread_mutex_lock(&e->lock);
    TAILQ_FOREACH(item, &e->queue, list)
    if (item->handle == handle)
        item->canceled = true;
    TAILQ_FOREACH(item, &e->batch, list)
    if (item->handle == handle)
        item->canceled = true;
    pthread_mutex_unlock(&e->lock);
}

void moed_drain(struct moed_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->draining = true;
    pthread_mutex_unlock(&e->lock);
}

void moed_engine_stats(const struct moed_engine *engine, struct moed_engine_stats *out)
{
    struct moed_engine *e = (struct moed_engine *)engine;
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    out->kv_blocks = 100;
    pthread_mutex_unlock(&e->lock);
}

int moed_engine_pager_counters(const struct moed_engine *e, int32_t layer, moed_counter_fn fn,
                               void *user)
{
    if (layer >= e->cfg.n_layers)
        return MOED_ENOTFOUND;
    uint64_t each = layer < 0 ? (uint64_t)e->cfg.n_layers : 1;
    fn(user, "hits", "Activations of experts in the cache.", 10 * each);
    fn(user, "misses", "Activations of experts outside the cache.", 3 * each);
    return 0;
}

int moed_engine_pager_info(const struct moed_engine *e, struct moed_pager_info *out)
{
    *out = (struct moed_pager_info){
        .policy = "lfru", .slots = 16, .resident = 12, .record_bytes = 4096, .cache_bytes = 65536};
    return 0;
}
