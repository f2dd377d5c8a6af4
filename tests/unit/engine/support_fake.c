#include "support_fake.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "check.h"

#include <assert.h>

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ (v + 0x9E3779B97F4A7C15u)) * 0xFF51AFD7ED558CCDu;
    h ^= h >> 29;
    return h * 0xC4CEB9FE1A85EC53u ^ h >> 32;
}

static void logits_of(uint64_t h, bool no_eos, float *logits)
{
    for (int32_t i = 0; i < FAKE_VOCAB; i++)
        logits[i] = (float)(mix(h, (uint64_t)i) >> 40) / (float)(1 << 22);
    logits[FAKE_EOS] -= no_eos ? 100.0f : 0.0f;
}

void fake_logits(const int32_t *tokens, size_t n, bool no_eos, float *logits)
{
    uint64_t h = 1;
    for (size_t i = 0; i < n; i++)
        h = mix(h, (uint64_t)tokens[i]);
    logits_of(h, no_eos, logits);
}

size_t fake_greedy(const int32_t *prompt, size_t n_prompt, size_t max_tokens, bool no_eos,
                   int32_t *out)
{
    uint64_t h = 1;
    size_t n = 0;
    for (size_t i = 0; i < n_prompt; i++)
        h = mix(h, (uint64_t)prompt[i]);
    while (n < max_tokens) {
        float logits[FAKE_VOCAB];
        logits_of(h, no_eos, logits);
        int32_t best = 0;
        for (int32_t i = 1; i < FAKE_VOCAB; i++)
            if (logits[i] > logits[best])
                best = i;
        out[n++] = best;
        if (best == FAKE_EOS)
            break;
        h = mix(h, (uint64_t)best);
    }
    return n;
}

const char *fake_text(int32_t id)
{
    static const char *const pieces[] = {"a",        "b",  "c", "ab",
                                         "\xC3\xA9", "d ", "e", "\xE2\x82\xAC"};
    return pieces[id % 8];
}

static void note(struct fake *f, int kind, int32_t rows, int32_t layers)
{
    int n = f->n_log;
    if (n < FAKE_LOG) {
        f->log[n] =
            (struct fake_call){.kind = kind, .rows = rows, .layers = layers, .end_us = f->clock_us};
        f->n_log = n + 1;
    }
}

static int told_to_fail(const struct fake *f, struct moed_error *err)
{
    return moed_fail(err, f->fail_code, "the fake model was told to fail");
}

static int begin(void *self, enum model_lane lane, const struct model_batch *batch,
                 struct moed_error *err)
{
    struct fake *f = self;
    struct fake_lane *l = &f->lane[lane];
    assert(!l->open && batch->n_rows > 0 && batch->n_rows <= l->max_rows);
    if (f->pass_us)
        usleep((useconds_t)f->pass_us);
    while (lane == MODEL_STEP && f->hold_at && f->passes + 1 >= f->hold_at)
        usleep(100);
    if (lane == MODEL_STEP) {
        int n = ++f->passes, times = f->fail_times ? f->fail_times : 1;
        if (f->fail_at && n >= f->fail_at && n < f->fail_at + times)
            return told_to_fail(f, err);
    }
    l->open = true;
    l->batch = *batch;
    l->layer = 0;
    for (int32_t i = 0; i < batch->n_seqs; i++)
        l->table[i] = batch->seqs[i].block_table;
    if (lane == MODEL_LONG)
        note(f, FAKE_LONG_BEGIN, batch->n_rows, 0);
    return 0;
}

static uint64_t *kv_of(const struct fake *f, const int32_t *table, int32_t pos)
{
    return &f->kv[table[pos / SCHED_BLOCK_TOKENS]][pos % SCHED_BLOCK_TOKENS];
}

/* Before the last layer what lies in the rows' places is worthless. */
static void compute(struct fake *f, struct fake_lane *l, bool last)
{
    const struct model_batch *b = &l->batch;
    for (int32_t i = 0; i < b->n_rows; i++) {
        const int32_t *table = l->table[b->seq[i]];
        int32_t p = b->pos[i];
        assert(i == 0 || b->seq[i] != b->seq[i - 1] || p == b->pos[i - 1] + 1);
        if (!table)
            continue;
        uint64_t before = p == 0 ? 1 : *kv_of(f, table, p - 1);
        l->row[i] = mix(before, (uint64_t)b->token[i]);
        *kv_of(f, table, p) = last ? l->row[i] : ~l->row[i];
    }
}

static int run(void *self, enum model_lane lane, int32_t layer_end, struct moed_error *err)
{
    struct fake *f = self;
    struct fake_lane *l = &f->lane[lane];
    assert(l->open && layer_end > l->layer && layer_end <= f->n_layers);
    int32_t n = layer_end - l->layer;
    l->layer = layer_end;
    f->clock_us +=
        lane == MODEL_STEP ? f->step_us + (l->batch.n_rows - 1) * f->row_us : n * f->layer_us;
    note(f, lane == MODEL_STEP ? FAKE_STEP : FAKE_LONG_RUN, l->batch.n_rows, n);
    bool last = layer_end == f->n_layers;
    compute(f, l, last);
    if (lane == MODEL_STEP) {
        assert(last);
        return 0;
    }
    int runs = ++f->long_runs;
    if (f->long_fail_at && runs >= f->long_fail_at && runs < f->long_fail_at + f->long_fails)
        return told_to_fail(f, err);
    if (!last && f->on_pause)
        f->on_pause(f->user);
    return 0;
}

static int logits(void *self, enum model_lane lane, const int32_t *rows, int32_t n, float *out,
                  struct moed_error *err)
{
    struct fake *f = self;
    const struct fake_lane *l = &f->lane[lane];
    assert(n > 0 && n <= f->max_logits && l->open && l->layer == f->n_layers);
    for (int32_t i = 0; i < n; i++) {
        assert(l->table[l->batch.seq[rows[i]]]);
        logits_of(l->row[rows[i]], f->no_eos, out + (size_t)i * FAKE_VOCAB);
        for (int32_t k = 0; f->nan_logits && k < FAKE_VOCAB; k++)
            out[(size_t)i * FAKE_VOCAB + (size_t)k] = NAN;
    }
    return 0;
}

static int sample(void *self, enum model_lane lane, const int32_t *rows, int32_t n,
                  const struct kern_sample_row *params, int32_t *token, struct moed_error *err)
{
    struct fake *f = self;
    float *l = mem_new((size_t)n * FAKE_VOCAB, sizeof *l);
    void *scratch = mem_new(kern_sample_cpu_scratch_bytes(FAKE_VOCAB), 1);
    int rc = logits(self, lane, rows, n, l, err);
    for (int32_t i = 0; i < n; i++)
        token[i] = kern_sample_cpu(l + (size_t)i * FAKE_VOCAB, FAKE_VOCAB, &params[i], scratch);
    free(l);
    free(scratch);
    f->sampled += n;
    if (f->fail_sampled && f->sampled >= f->fail_sampled)
        return moed_fail(err, MOED_EDEVICE, "the fake device was told to fail in sampling");
    return rc;
}

static void drop(void *self, enum model_lane lane, int32_t seq)
{
    struct fake *f = self;
    struct fake_lane *l = &f->lane[lane];
    assert(lane == MODEL_LONG && l->open && l->table[seq]);
    l->table[seq] = NULL;
    note(f, FAKE_LONG_DROP, 0, 0);
}

static int end(void *self, enum model_lane lane)
{
    struct fake *f = self;
    assert(f->lane[lane].open);
    f->lane[lane].open = false;
    if (lane == MODEL_LONG)
        note(f, FAKE_LONG_END, 0, 0);
    return f->end_fail_at && f->passes >= f->end_fail_at && atomic_exchange(&f->end_fail_at, 0)
               ? f->fail_code
               : 0;
}

static int64_t now_us(void *self)
{
    return ((struct fake *)self)->clock_us;
}

struct part {
    void (*fn)(void *arg, int part, int parts);
    void *arg;
    int part, parts;
};

static void *part_main(void *arg)
{
    struct part *p = arg;
    p->fn(p->arg, p->part, p->parts);
    return NULL;
}

static void parallel(void *self, void (*fn)(void *arg, int part, int parts), void *arg, int parts)
{
    struct part p[16];
    pthread_t t[16];
    for (int i = 0; i < parts; i++) {
        p[i] = (struct part){fn, arg, i, parts};
        pthread_create(&t[i], NULL, part_main, &p[i]);
    }
    for (int i = 0; i < parts; i++)
        pthread_join(t[i], NULL);
}

static void close_fake(void *self)
{
    struct fake *f = self;
    free(f->kv);
    for (enum model_lane lane = 0; lane < MODEL_LANES; lane++) {
        assert(!f->lane[lane].open);
        free(f->lane[lane].table);
        free(f->lane[lane].row);
    }
    free(f);
}

/* The text of ids that stand for themselves; a zero-sized detokenizer. */
static void *text_open(const void *tokenizer, bool skip_special)
{
    return mem_new(1, sizeof(int));
}

static void text_push(void *d, int32_t id, const char **text, size_t *n)
{
    *text = id == FAKE_EOS ? "<eos>" : fake_text(id);
    *n = strlen(*text);
}

static void text_finish(void *d, const char **text, size_t *n)
{
    *text = "";
    *n = 0;
}

struct fake *fake_setup(struct engine_setup *setup, const struct fake_config *cfg)
{
    struct fake *f = mem_new(1, sizeof *f);
    *setup = (struct engine_setup){
        .backend = {.self = f,
                    .begin = begin,
                    .run = run,
                    .logits = logits,
                    .sample = cfg->samples ? sample : NULL,
                    .drop = drop,
                    .end = end,
                    .now_us = cfg->step_us ? now_us : NULL,
                    .parallel = cfg->threads ? parallel : NULL,
                    .threads = cfg->threads,
                    .close = close_fake},
        .text = {.open = cfg->no_text ? NULL : text_open,
                 .push = text_push,
                 .finish = text_finish,
                 .close = free},
        .sched = {.max_seqs = cfg->max_seqs ? cfg->max_seqs : 8,
                  .max_batched_tokens = cfg->max_batched_tokens ? cfg->max_batched_tokens : 64,
                  .long_prefill_tokens = cfg->long_prefill_tokens,
                  .max_queue = cfg->max_queue ? cfg->max_queue : 64,
                  .max_model_len = cfg->max_model_len ? cfg->max_model_len : 400,
                  .kv_blocks = cfg->kv_blocks ? cfg->kv_blocks : 100,
                  .no_prefix_cache = cfg->no_prefix_cache},
        .max_logits = cfg->max_logits ? cfg->max_logits : 8,
        .target_itl_us = cfg->target_itl_us,
        .admission_measured = cfg->admission_measured,
        .admission_wait_us = cfg->admission_wait_us,
        .eos = {FAKE_EOS},
        .n_eos = 1,
        .info = {.vocab_size = FAKE_VOCAB, .n_layers = cfg->n_layers ? cfg->n_layers : FAKE_LAYERS},
    };
    f->no_eos = cfg->no_eos;
    f->n_layers = setup->info.n_layers;
    f->step_us = cfg->step_us;
    f->layer_us = cfg->layer_us;
    f->row_us = cfg->row_us;
    f->lane[MODEL_STEP].max_rows = setup->sched.max_batched_tokens;
    f->lane[MODEL_LONG].max_rows = setup->sched.long_prefill_tokens;
    f->max_logits = setup->max_logits;
    f->kv = mem_new((size_t)setup->sched.kv_blocks, sizeof *f->kv);
    for (enum model_lane lane = 0; lane < MODEL_LANES; lane++) {
        struct fake_lane *l = &f->lane[lane];
        l->table = mem_new((size_t)l->max_rows, sizeof *l->table);
        l->row = mem_new((size_t)l->max_rows, sizeof *l->row);
    }
    return f;
}
