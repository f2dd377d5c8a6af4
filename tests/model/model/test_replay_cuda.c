/*
 * One list of plans, recorded once: sequences that join and leave, decode rows, chunks, long passes
 * that pause for steps. Replayed at every budget of experts, with every policy, with misses
 * computed by the CPU, over the link, or by both, in plain and in packed records: the logits of
 * every row have the same bits.
 */
#include "check.h"

#include "base/mem.h"
#include "device/misses.h"
#include "gpu.h"
#include "pager/policy.h"
#include "support_model.h"

#define VOCAB     67
#define LONG_ROWS 96
#define MAX_SEQS  4
#define CONTEXT   240
#define MOE       2
#define EXPERTS   20
#define RECORDS   (MOE * EXPERTS)
#define PLANS     12

static struct model_config config(void)
{
    return (struct model_config){.family = MODEL_QWEN3_MOE,
                                 .architecture = "Qwen3MoeForCausalLM",
                                 .vocab_size = VOCAB,
                                 .hidden = 64,
                                 .n_layers = MOE + 1,
                                 .n_heads = 2,
                                 .n_kv_heads = 1,
                                 .head_dim = 64,
                                 .intermediate = 48,
                                 .max_position = 256,
                                 .rms_eps = 1e-6f,
                                 .rope_theta = 1e4,
                                 .qk_norm = true,
                                 .n_experts = EXPERTS,
                                 .top_k = 3,
                                 .moe_intermediate = 32,
                                 .norm_topk = true,
                                 .moe_layer = {true, false, true},
                                 .dtype = DTYPE_BF16,
                                 .bos = -1};
}

/* A pass: so many rows of each sequence, from where it stands. */
struct plan {
    enum model_lane lane;
    bool pauses; /* after each layer, for the plan that follows */
    int32_t n_rows;
    int32_t token[LONG_ROWS], pos[LONG_ROWS], seq[LONG_ROWS], row[LONG_ROWS];
    int32_t block[MAX_SEQS][CONTEXT / KV_BLOCK_TOKENS];
};

struct list {
    struct plan plan[PLANS];
    int32_t n, rows;
};

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 16;
}

/* rows[s]: of sequence s, from position done[s]; its k-th life has tokens and blocks of its own. */
static void add(struct list *l, enum model_lane lane, bool pauses, const int32_t *rows,
                int32_t *done, const int32_t *life)
{
    struct plan *p = &l->plan[l->n++];
    *p = (struct plan){.lane = lane, .pauses = pauses};
    for (int32_t s = 0; s < MAX_SEQS; s++) {
        for (int32_t k = 0; k < CONTEXT / KV_BLOCK_TOKENS; k++)
            p->block[s][k] = ((k * 2 + life[s] % 2) * MAX_SEQS + s) * 37 % 256;
        for (int32_t i = 0; i < rows[s]; i++, done[s]++) {
            uint32_t seed = (uint32_t)(life[s] * 1000 + s * 300 + done[s]);
            p->row[p->n_rows] = p->n_rows;
            p->pos[p->n_rows] = done[s];
            p->seq[p->n_rows] = s;
            p->token[p->n_rows++] = (int32_t)(next(&seed) % VOCAB);
        }
    }
    l->rows += p->n_rows;
}

/* Prompts alone, in one pass and in chunks; decode rows of all; one leaves, another takes its
 * place. */
static void record(struct list *l)
{
    static const struct {
        enum model_lane lane;
        bool pauses;
        int32_t leaves; /* a sequence that begins anew, or -1 */
        int32_t rows[MAX_SEQS];
    } script[PLANS] = {
        {MODEL_LONG, false, -1, {96, 0, 0, 0}}, {MODEL_STEP, false, -1, {1, 0, 0, 0}},
        {MODEL_STEP, false, -1, {1, 33, 0, 0}}, {MODEL_LONG, true, -1, {0, 0, 60, 20}},
        {MODEL_STEP, false, -1, {1, 1, 0, 0}},  {MODEL_STEP, false, -1, {1, 1, 1, 1}},
        {MODEL_STEP, false, 1, {1, 7, 1, 1}},   {MODEL_STEP, false, -1, {1, 1, 1, 1}},
        {MODEL_LONG, true, 0, {70, 0, 0, 0}},   {MODEL_STEP, false, -1, {0, 1, 1, 1}},
        {MODEL_STEP, false, 3, {1, 1, 1, 5}},   {MODEL_STEP, false, -1, {1, 1, 1, 1}},
    };
    int32_t done[MAX_SEQS] = {0}, life[MAX_SEQS] = {0};
    *l = (struct list){0};
    for (int i = 0; i < PLANS; i++) {
        if (script[i].leaves >= 0) {
            done[script[i].leaves] = 0;
            life[script[i].leaves]++;
        }
        add(l, script[i].lane, script[i].pauses, script[i].rows, done, life);
    }
}

static uint64_t hash(uint64_t h, const float *x, size_t n)
{
    const uint8_t *p = (const uint8_t *)x;
    for (size_t i = 0; i < n * sizeof *x; i++)
        h = (h ^ p[i]) * 0x100000001B3;
    return h;
}

/* Runs a plan, and those that fall into its pauses; returns how many. */
static int run(struct rig *r, const struct plan *p, float *logits, uint64_t *h)
{
    struct model_seq seqs[MAX_SEQS];
    struct moed_error err;
    int ran = 1;
    for (int s = 0; s < MAX_SEQS; s++)
        seqs[s].block_table = p->block[s];
    struct model_batch batch = {p->n_rows, p->token, p->pos, p->seq, MAX_SEQS, seqs, NULL};
    assert_ok(model_pass_begin(r->m, p->lane, &batch, &err), &err);
    for (int32_t layer = p->pauses ? 1 : r->c.n_layers; layer <= r->c.n_layers; layer++) {
        assert_ok(model_pass_run(r->m, p->lane, layer, &err), &err);
        if (layer == 1)
            ran += run(r, p + 1, logits, h);
    }
    assert_ok(model_pass_logits(r->m, p->lane, p->row, p->n_rows, logits, &err), &err);
    assert_ok(model_pass_end(r->m, p->lane), &err);
    *h = hash(*h, logits, (size_t)p->n_rows * VOCAB);
    return ran;
}

static uint64_t replay(const struct list *l, int percent, const char *policy, int share, int turn)
{
    struct model_config c = config();
    struct model_memory memory;
    struct pager_counters n;
    struct rig r;
    uint64_t h = 0xCBF29CE484222325, slots = (uint64_t)(RECORDS * percent / 100);
    const bool packed = turn % 2;
    model_memory(&c, c.dtype,
                 &(struct model_options){.kv_blocks = 1, .max_rows = 1, .packed_experts = packed},
                 &memory);
    rig_open(&r, &(struct rig_options){.dummy = &c,
                                       .kv_dtype = DTYPE_BF16,
                                       .cuda = true,
                                       .max_rows = LONG_ROWS,
                                       .long_rows = LONG_ROWS,
                                       .packed = packed,
                                       .pager = {.mode = PAGER_CACHED,
                                                 .cache_bytes = slots * memory.expert_record_bytes,
                                                 .policy = policy,
                                                 .staging_slots = turn % 3 ? 2 + turn % 5 : 0,
                                                 .stream_ahead_rows = turn % 2,
                                                 .fill = turn % 4 == 1,
                                                 .synchronous = turn % 5 == 2},
                                       .miss_threads = 1 + turn % 2,
                                       .link_share = share});
    float *logits = mem_new(LONG_ROWS * VOCAB, sizeof *logits);
    for (int32_t i = 0; i < l->n;)
        i += run(&r, &l->plan[i], logits, &h);
    pager_counters(model_pager(r.m), &n);
    assert_int_equal(n.load_errors, 0);
    assert_true(n.uses > 0 && (percent > 0 || n.hits == 0));
    free(logits);
    rig_close(&r);
    return h;
}

static const int percents[] = {0, 5, 25, 50, 100};
static const int shares[] = {0, MAILBOX_SHARE_ONE, MISSES_SHARE_ADAPTIVE};

/* Each budget, policy and share once. */
static bool once(int b, int k, int s)
{
    return k == b % 4 && s == b % 3;
}

/* Each budget with each policy, each of both with each share. */
static bool in_pairs(int b, int k, int s)
{
    return s == (b + k) % 3;
}

static bool in_all_ways(int b, int k, int s)
{
    return true;
}

/* On the emulator, which takes its time, in pairs at most. */
static void replay_all(bool (*chosen)(int budget, int policy, int share))
{
    struct dev_choice choice;
    struct list *l = mem_new(1, sizeof *l);
    uint64_t want = 0;
    int turn = 0;
    cuda_or_skip(&choice);
    if (cuda_emulated(&choice) && chosen == in_all_ways)
        chosen = in_pairs;
    record(l);
    for (int b = 0; b < 5; b++) {
        char names[256], *rest = names, *policy;
        snprintf(names, sizeof names, "%s", policy_names());
        for (int k = 0; (policy = strsep(&rest, ", "));) {
            if (!*policy)
                continue;
            for (int s = 0; s < 3; s++) {
                if (!chosen(b, k, s))
                    continue;
                uint64_t h = replay(l, percents[b], policy, shares[s], turn++);
                want = want ? want : h;
                if (h != want)
                    fail_msg("%d %% of the experts, %s, share of the link %d: other bits",
                             percents[b], policy, shares[s]);
            }
            k++;
        }
    }
    print_message("%d replays of %d plans, %d rows: the same bits\n", turn, l->n, l->rows);
    assert_true(turn >= 5);
    free(l);
}

static void plans_give_the_same_bits_cuda(void **state)
{
    replay_all(once);
}

static void plans_give_the_same_bits_in_all_ways_cuda(void **state)
{
    replay_all(in_all_ways);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(plans_give_the_same_bits_cuda),
    cmocka_unit_test(plans_give_the_same_bits_in_all_ways_cuda),
};
CHECK_MAIN(tests)
