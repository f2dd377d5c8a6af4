/*
 * Two lanes: a pass that pauses at layers while steps run beside it. What each row computes must be
 * what it computes alone, and a sequence that is dropped must leave its blocks alone.
 */
#include "check.h"

#include "base/mem.h"
#include "support_model.h"

#define MAX_ROWS 64

static const char *const models[] = {"mixtral_window", "qwen3_moe_64e", "llama_mha_tied"};
#define N_MODELS (sizeof models / sizeof models[0])

static const char *model_dir(const char *name)
{
    static _Thread_local char dir[1100];
    snprintf(dir, sizeof dir, "%s/%s", repo_path("tests/data/models"), name);
    return dir;
}

/* A pass over `n` tokens of some sequences from position 0, which outlives the call. */
struct long_pass {
    int32_t token[MAX_ROWS], pos[MAX_ROWS], seq[MAX_ROWS], n;
    struct model_seq seqs[RIG_MAX_SEQS];
    int n_seqs;
};

static void long_add(struct long_pass *p, const struct rig_seq *q, int32_t n)
{
    for (int32_t i = 0; i < n; i++, p->n++) {
        assert_true(p->n < MAX_ROWS);
        p->token[p->n] = q->token[i];
        p->pos[p->n] = i;
        p->seq[p->n] = p->n_seqs;
    }
    p->seqs[p->n_seqs++].block_table = q->block;
}

static void long_begin(struct rig *r, const struct long_pass *p)
{
    struct moed_error err;
    struct model_batch batch = {p->n, p->token, p->pos, p->seq, p->n_seqs, p->seqs};
    assert_ok(model_pass_begin(r->m, MODEL_LONG, &batch, &err), &err);
}

static void run_to(struct rig *r, int32_t layer)
{
    struct moed_error err;
    assert_ok(model_pass_run(r->m, MODEL_LONG, layer, &err), &err);
}

/* Ends the pass; logits of rows [first, first + n) become the sequence's own. */
static void long_logits(struct rig *r, int32_t first, struct rig_seq *q, int32_t n)
{
    struct moed_error err;
    int32_t rows[MAX_ROWS];
    for (int32_t i = 0; i < n; i++)
        rows[i] = first + i;
    assert_ok(model_pass_logits(r->m, MODEL_LONG, rows, n, q->logits, &err), &err);
    q->done = n;
}

static uint64_t reference(const char *dir, const struct vectors *v, int32_t *layers)
{
    struct rig r;
    rig_open(&r, &(struct rig_options){.dir = dir});
    rig_add_vectors(&r, v);
    rig_run_alone(&r, MAX_ROWS);
    uint64_t hash = rig_hash(&r);
    *layers = r.c.n_layers;
    rig_close(&r);
    return hash;
}

/* The first sequence goes through the long lane; at each pause the others take a step of one token
 * each, and so does the first when its pass has ended. */
static void interleave(const char *dir, const struct vectors *v, const struct pager_config *pager,
                       int32_t layers_per_run, uint64_t want)
{
    struct rig r;
    rig_open(&r, &(struct rig_options){.dir = dir, .long_rows = MAX_ROWS, .pager = *pager});
    rig_add_vectors(&r, v);
    struct rig_seq *first = &r.seq[0];
    struct long_pass p = {0};
    int32_t n = first->n - 2;
    long_add(&p, first, n);
    long_begin(&r, &p);
    for (int32_t layer = 0;; layer += layers_per_run) {
        int32_t count[RIG_MAX_SEQS] = {0}, rows = 0;
        run_to(&r, layer < r.c.n_layers ? layer : r.c.n_layers);
        for (int s = 1; s < r.n_seqs; s++)
            rows += count[s] = r.seq[s].done < r.seq[s].n;
        if (rows)
            rig_pass(&r, count);
        if (layer >= r.c.n_layers)
            break;
    }
    long_logits(&r, 0, first, n);
    model_pass_end(r.m, MODEL_LONG);
    rig_run_together(&r, 1);
    assert_int_equal(rig_hash(&r), want);
    rig_close(&r);
}

static void steps_run_beside_a_paused_pass(void **state)
{
    for (size_t i = 0; i < N_MODELS; i++) {
        const char *dir = model_dir(models[i]);
        struct vectors v;
        int32_t layers;
        vectors_open(&v, dir);
        uint64_t want = reference(dir, &v, &layers);
        const struct pager_config pagers[] = {
            {.mode = PAGER_IN_PLACE},
            {.mode = PAGER_CACHED, .cache_bytes = 1 << 16, .synchronous = true},
            {.mode = PAGER_CACHED,
             .cache_bytes = 1 << 15,
             .staging_slots = PAGER_STAGING_SLOTS,
             .stage_min_rows = 2},
        };
        for (size_t k = 0; k < sizeof pagers / sizeof pagers[0]; k++)
            for (int32_t run = 1; run <= layers; run++)
                interleave(dir, &v, &pagers[k], run, want);
        vectors_close(&v);
    }
}

/* Two sequences in one pass; the second is dropped at `pause`, and a step takes over its blocks. */
static void drop_at(const char *dir, const struct vectors *v, int32_t pause, uint64_t want)
{
    struct rig r;
    rig_open(&r, &(struct rig_options){.dir = dir, .long_rows = MAX_ROWS});
    rig_add_vectors(&r, v);
    struct rig_seq *kept = &r.seq[0], *heir = &r.seq[1], gone = *kept;
    int32_t n = kept->n < MAX_ROWS / 2 ? kept->n : MAX_ROWS / 2;
    int32_t *table = mem_new(64, sizeof *table);
    memcpy(table, heir->block, 64 * sizeof *table);
    struct long_pass p = {0};
    long_add(&p, &gone, n);
    p.seqs[0].block_table = table;
    long_add(&p, kept, n);
    long_begin(&r, &p);
    run_to(&r, pause);
    model_pass_drop(r.m, MODEL_LONG, 0);
    free(table);
    int32_t count[RIG_MAX_SEQS] = {0, heir->n < MAX_ROWS ? heir->n : MAX_ROWS};
    rig_pass(&r, count);
    run_to(&r, r.c.n_layers);
    long_logits(&r, n, kept, n);
    model_pass_end(r.m, MODEL_LONG);
    rig_run_together(&r, 1);
    assert_int_equal(rig_hash(&r), want);
    rig_close(&r);
}

static void a_dropped_sequence_leaves_its_blocks_alone(void **state)
{
    for (size_t i = 0; i < N_MODELS; i++) {
        const char *dir = model_dir(models[i]);
        struct vectors v;
        int32_t layers;
        vectors_open(&v, dir);
        assert_true(v.n_seqs >= 2);
        uint64_t want = reference(dir, &v, &layers);
        for (int32_t pause = 0; pause < layers; pause++)
            drop_at(dir, &v, pause, want);
        vectors_close(&v);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(steps_run_beside_a_paused_pass),
    cmocka_unit_test(a_dropped_sequence_leaves_its_blocks_alone),
};
CHECK_MAIN(tests)
