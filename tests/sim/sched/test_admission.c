/*
 * Admission by what was measured, beside admission of all that fits: clients in a closed loop, each
 * with one conversation after another, over the real scheduler and a model of what steps cost.
 *
 * Steps cost what was measured on an H200 with Qwen3-30B-A3B at 25 and 75 % of the experts resident
 * (docs/performance.md), and for 100 % what a batch that shares its weights would; a cache that has
 * to get used to a new conversation, or to a batch of another size, costs more for a while. Steps
 * vary.
 */
#include "check.h"

#include <math.h>

#include "base/mem.h"
#include "engine/admission.h"
#include "sched/sched.h"

#define MAX_CLIENTS 64
#define CURVE       7 /* 1 to 64 rows */
#define THINK_US    1000
/* A cache of a quarter of the experts takes in a conversation's own in about so long ... */
#define ADAPT_US 300000.0
/* ... until then a step takes so much longer where all rows are new, or the batch was half or twice
 * as large. */
#define COLD        0.6
#define RESIZED     0.2
#define VARY        0.4 /* of a step; conversations differ by half of it */
#define KV_BLOCKS   (MAX_CLIENTS * 160)
#define MAX_SAMPLES (1 << 16)

struct curve {
    const char *name;
    double rate[CURVE]; /* tokens/s at 1, 2, 4, ... rows */
    double cold;        /* part of COLD and RESIZED that it pays */
};

static const struct curve quarter = {"25 %", {129, 91, 76, 70, 76, 99, 125}, 1};
static const struct curve most = {"75 %", {306, 323, 300, 283, 266, 291, 340}, 0.25};
static const struct curve whole = {"100 %", {335, 560, 900, 1450, 2300, 3500, 5000}, 0};

struct client {
    struct sched_request *request;
    int64_t asked_us, next_us, born_us; /* of the conversation; the next; admitted */
    bool started;
    double pace; /* of this conversation's steps */
};

struct load {
    const struct curve *curve;
    int32_t clients, tokens;
    bool measured;
    int64_t wait_us;
    int64_t warm_us, end_us;
    const struct curve *later; /* from half of the time on; NULL: the same */
};

struct outcome {
    double tokens_s, ttft_p50_s, ttft_p99_s, ttft_max_s, completion_s;
    double worst_minutes; /* tokens/s of the worst ten minutes */
    int64_t ended, past_limit;
    double limit; /* mean */
};

struct world {
    const struct load *load;
    struct sched *s;
    struct admission a;
    struct client client[MAX_CLIENTS];
    int64_t now_us;
    double size; /* log2 rows that the cache is used to */
    uint64_t random;
    double *ttft, completions_us;
    int n_ttft;
    int64_t ended, tokens;
    double limit_us;
};

static double even(struct world *w)
{
    w->random = w->random * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(w->random >> 11) * 0x1p-53;
}

static double rate_of(const struct world *w, int32_t rows)
{
    const struct load *l = w->load;
    const struct curve *c = l->later && w->now_us > l->end_us / 2 ? l->later : l->curve;
    double x = log2(rows), i = floor(x);
    if (i >= CURVE - 1)
        return c->rate[CURVE - 1];
    return c->rate[(int)i] * (1 - (x - i)) + c->rate[(int)i + 1] * (x - i);
}

static void ask(struct world *w, struct client *c)
{
    struct moed_error err;
    int32_t token = (int32_t)(c - w->client);
    struct sched_new r = {.prompt = &token, .n_prompt = 1, .n = 1, .max_tokens = w->load->tokens};
    assert_ok(sched_add(w->s, &c->request, &r, &err), &err);
    c->request->seqs[0].user = c;
    c->asked_us = w->now_us;
    c->started = false;
    c->pace = 1 + VARY / 2 * (even(w) - 0.5);
}

static void arrivals(struct world *w)
{
    const struct load *l = w->load;
    for (int i = 0; i < l->clients; i++) {
        struct client *c = &w->client[i];
        if (!c->request && w->now_us >= c->next_us)
            ask(w, c);
        if (l->measured && l->wait_us && c->request && w->now_us - c->asked_us >= l->wait_us)
            sched_exempt(w->s, &c->request->seqs[0]);
    }
}

/* The time of a step, in microseconds, and what the cache makes of it. */
static int64_t step_us(struct world *w, const struct sched_plan *p)
{
    double cold = 0, pace = 0;
    int32_t rows = p->n_rows;
    for (int32_t i = 0; i < rows; i++) {
        const struct sched_span *s = i < p->n_decode ? &p->decode[i] : &p->prefill[i - p->n_decode];
        struct client *c = s->seq->user;
        if (i >= p->n_decode)
            c->born_us = w->now_us;
        cold += exp(-(double)(w->now_us - c->born_us) / ADAPT_US) / rows;
        pace += c->pace / rows;
    }
    double us = rows / rate_of(w, rows) * 1e6 * pace * (1 + VARY * (even(w) - 0.5));
    us *= 1 + w->load->curve->cold * (COLD * cold + RESIZED * fabs(log2(rows) - w->size));
    w->size += (log2(rows) - w->size) * (1 - exp(-us / ADAPT_US));
    return (int64_t)us;
}

static void token_came(struct world *w, struct sched_seq *q)
{
    struct client *c = q->user;
    bool counts = w->now_us >= w->load->warm_us;
    if (!c->started && counts && w->n_ttft < MAX_SAMPLES)
        w->ttft[w->n_ttft++] = (double)(w->now_us - c->asked_us) * 1e-6;
    c->started = true;
    w->tokens += counts;
    sched_append(w->s, q, 1);
    if (q->n_tokens < q->max_len)
        return;
    sched_end(w->s, q);
    sched_remove(w->s, &c->request);
    admission_ended(&w->a, w->load->tokens);
    c->next_us = w->now_us + THINK_US;
    w->ended += counts;
    w->completions_us += counts ? (double)(w->now_us - c->asked_us) : 0;
}

static void step(struct world *w, const struct sched_plan *p)
{
    struct sched_seq *due[MAX_CLIENTS];
    int32_t n = 0, n_decode = p->n_decode, n_prefill = p->n_prefill;
    for (int32_t i = 0; i < n_decode; i++)
        due[n++] = p->decode[i].seq;
    for (int32_t i = 0; i < n_prefill; i++)
        due[n++] = p->prefill[i].seq;
    int64_t begin = w->now_us;
    w->now_us += step_us(w, p);
    admission_step(&w->a, n_decode, n_prefill == 0, begin, w->now_us);
    sched_complete(w->s);
    for (int32_t i = 0; i < n; i++)
        token_came(w, due[i]);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void close_world(struct world *w)
{
    for (int i = 0; i < w->load->clients; i++) {
        if (!w->client[i].request)
            continue;
        sched_end(w->s, &w->client[i].request->seqs[0]);
        sched_remove(w->s, &w->client[i].request);
    }
    sched_close(&w->s);
    free(w->ttft);
}

static struct outcome simulate(const struct load *l)
{
    struct world w = {.load = l, .random = 7, .ttft = mem_new(MAX_SAMPLES, sizeof(double))};
    struct sched_config cfg = {.max_seqs = 64,
                               .max_batched_tokens = 128,
                               .max_queue = 256,
                               .max_model_len = 2560,
                               .kv_blocks = KV_BLOCKS};
    struct moed_error err;
    struct sched_stats stats;
    struct outcome o = {.worst_minutes = INFINITY};
    int64_t mark_us = l->warm_us, mark_tokens = 0;
    assert_ok(sched_open(&w.s, &cfg, &err), &err);
    admission_init(&w.a, cfg.max_seqs, l->wait_us);
    while (w.now_us < l->end_us) {
        arrivals(&w);
        sched_stats(w.s, &stats);
        int32_t limit = cfg.max_seqs;
        if (l->measured)
            limit = admission_limit(&w.a, w.now_us, stats.running, stats.queued);
        sched_limit_batch(w.s, limit);
        const struct sched_plan *p = sched_plan(w.s);
        int64_t before = w.now_us;
        if (p->n_rows > 0)
            step(&w, p);
        else
            w.now_us += 100;
        w.limit_us += (double)limit * (double)(w.now_us - before);
        if (w.now_us - mark_us >= 600000000) {
            o.worst_minutes = fmin(o.worst_minutes, (double)(w.tokens - mark_tokens) * 1e6 /
                                                        (double)(w.now_us - mark_us));
            mark_us = w.now_us;
            mark_tokens = w.tokens;
        }
    }
    sched_stats(w.s, &stats);
    qsort(w.ttft, (size_t)w.n_ttft, sizeof *w.ttft, compare);
    o.tokens_s = (double)w.tokens * 1e6 / (double)(w.now_us - l->warm_us);
    o.completion_s = w.ended ? w.completions_us * 1e-6 / (double)w.ended : 0;
    o.ended = w.ended;
    o.past_limit = (int64_t)stats.exempted;
    o.limit = w.limit_us / (double)w.now_us;
    if (w.n_ttft) {
        o.ttft_p50_s = w.ttft[w.n_ttft / 2];
        o.ttft_p99_s = w.ttft[(w.n_ttft - 1) * 99 / 100];
        o.ttft_max_s = w.ttft[w.n_ttft - 1];
    }
    close_world(&w);
    return o;
}

static void table(void **state)
{
    const struct curve *curves[] = {&quarter, &most, &whole};
    for (int32_t tokens = 128; tokens <= 2048; tokens *= 4)
        for (int k = 0; k < 3; k++) {
            for (int32_t n = 1; n <= 64; n *= 2) {
                for (int m = 0; m < 3; m++) {
                    struct load l = {.curve = curves[k],
                                     .clients = n,
                                     .tokens = tokens,
                                     .measured = m > 0,
                                     .wait_us = m == 2 ? 60000000 : 0,
                                     .warm_us = 0,
                                     .end_us = 3600000000};
                    struct outcome o = simulate(&l);
                    print_message("%s L %d | %d | %s | %.1f | %.2f | %.2f | %.2f | %.1f  worst10 "
                                  "%.1f limit %.1f past %lld\n",
                                  curves[k]->name, tokens, n,
                                  m == 2 ? "60s"
                                  : m    ? "measured"
                                         : "all",
                                  o.tokens_s, o.ttft_p50_s, o.ttft_p99_s, o.ttft_max_s,
                                  o.completion_s, o.worst_minutes, o.limit,
                                  (long long)o.past_limit);
                }
            }
        }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(table),
};
CHECK_MAIN(tests)
