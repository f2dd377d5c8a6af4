/*
 * Every op of the CUDA device against the portable CPU kernels, bit for bit, over the random cases
 * of the CPU's own test and over shapes of real models. A table of kernels stands before the
 * device: it copies the arguments over, runs the op, copies the results back.
 */
#include "check.h"

#include <math.h>

#include "gpu.h"
#include "support_packed.h"

#define SEEDS          120
#define SEEDS_EMULATED 40
#define MOST_SAID      5

/* A buffer of the case on the device, until the op has run. */
struct guest {
    void *host, *device;
    size_t bytes;
    bool result, shared;
};

static struct dev *dev;
static bool emulated;
static struct guest guests[64];
static int n_guests;

static void open_dev(void)
{
    struct dev_choice choice;
    cuda_or_skip(&choice);
    emulated = cuda_emulated(&choice);
    dev = cuda_open_or_skip();
}

static void *bring(const void *host, size_t bytes, bool result, bool shared)
{
    struct dev_event event = {0};
    if (!host)
        return NULL;
    for (int i = 0; i < n_guests; i++)
        if (guests[i].host == host && guests[i].bytes == bytes) {
            guests[i].result |= result;
            return guests[i].device;
        }
    void *p = shared ? dev->ops->alloc_shared(dev, bytes) : dev->ops->alloc(dev, bytes);
    assert_non_null(p);
    guests[n_guests++] = (struct guest){(void *)host, p, bytes, result, shared};
    if (shared) {
        memcpy(p, host, bytes);
    } else {
        assert_int_equal(dev->ops->copy_in(dev, p, host, bytes, &event), 0);
        assert_int_equal(dev->ops->event_wait(dev, &event), 0);
    }
    return p;
}

static const void *in(const void *p, size_t bytes)
{
    return bring(p, bytes, false, false);
}

static void *out(void *p, size_t bytes)
{
    return bring(p, bytes, true, false);
}

static void finish(int rc)
{
    assert_int_equal(rc, 0);
    assert_int_equal(dev->kern->sync(dev), 0);
    for (int i = 0; i < n_guests; i++) {
        struct guest *g = &guests[i];
        if (g->shared) {
            memcpy(g->host, g->device, g->bytes);
            dev->ops->free_shared(dev, g->device, g->bytes);
            continue;
        }
        if (g->result)
            assert_int_equal(dev->ops->copy_out(dev, g->host, g->device, g->bytes), 0);
        dev->ops->free(dev, g->device, g->bytes);
    }
    n_guests = 0;
}

#define FLOATS(n) ((size_t)(n) * sizeof(float))

/* Bytes of n rows of `width` floats, `stride` apart. */
static size_t strided(int n, size_t stride, size_t width)
{
    return FLOATS((size_t)(n - 1) * stride + width);
}

static void run_embed(const struct kern_embed *a, struct kern_part part)
{
    int32_t most = 0;
    for (int i = 0; i < a->n; i++)
        most = a->token[i] > most ? a->token[i] : most;
    struct kern_embed d = *a;
    d.table = in(a->table, (size_t)(most + 1) * (size_t)a->dim * dtype_bytes(a->dtype));
    d.x = out(a->x, FLOATS(a->n * a->dim));
    finish(dev->kern->embed(dev, &d));
}

static void run_rmsnorm(const struct kern_rmsnorm *a, struct kern_part part)
{
    struct kern_rmsnorm d = *a;
    d.w = in(a->w, (size_t)a->dim * dtype_bytes(a->w_dtype));
    d.y = out(a->y, strided(a->n, a->y_stride, (size_t)a->dim));
    d.x = a->x == a->y ? d.y : in(a->x, strided(a->n, a->x_stride, (size_t)a->dim));
    finish(dev->kern->rmsnorm(dev, &d));
}

static void run_linear(const struct kern_linear *a, struct kern_part part)
{
    struct kern_linear d = *a;
    d.w = in(a->w, (size_t)a->in * (size_t)a->out * dtype_bytes(a->w_dtype));
    d.bias = in(a->bias, (size_t)a->out * dtype_bytes(a->bias_dtype));
    d.x = in(a->x, strided(a->n, a->x_stride, (size_t)a->in));
    d.y = out(a->y, strided(a->n, a->y_stride, (size_t)a->out));
    d.residual =
        a->residual == a->y ? d.y : in(a->residual, strided(a->n, a->y_stride, (size_t)a->out));
    finish(dev->kern->linear(dev, &d));
}

static void run_rope(const struct kern_rope *a, struct kern_part part)
{
    struct kern_rope d = *a;
    size_t half = (size_t)a->head_dim / 2;
    int32_t most = 0;
    for (int i = 0; i < a->n; i++)
        most = a->pos[i] > most ? a->pos[i] : most;
    d.x = out(a->x, strided(a->n, a->x_stride, (size_t)(a->heads * a->head_dim)));
    d.cos = in(a->cos, FLOATS((size_t)(most + 1) * half));
    d.sin = in(a->sin, FLOATS((size_t)(most + 1) * half));
    finish(dev->kern->rope(dev, &d));
}

static void run_kv_store(const struct kern_kv_store *a, struct kern_part part)
{
    struct kern_kv_store d = *a;
    size_t width = (size_t)(a->kv.kv_heads * a->kv.head_dim);
    int64_t most = 0;
    for (int i = 0; i < a->n; i++)
        most = a->slot[i] / KV_BLOCK_TOKENS > most ? a->slot[i] / KV_BLOCK_TOKENS : most;
    d.kv.blocks = out(a->kv.blocks, (size_t)(most + 1) * a->kv.block_bytes);
    d.k = in(a->k, strided(a->n, a->k_stride, width));
    d.v = in(a->v, strided(a->n, a->v_stride, width));
    finish(dev->kern->kv_store(dev, &d));
}

static void run_attention(const struct kern_attention *a, struct kern_part part)
{
    struct kern_attention d = *a;
    size_t width = (size_t)(a->heads * a->kv.head_dim);
    int32_t most = 0;
    for (int i = 0; i < a->n; i++)
        for (int b = 0; b <= a->pos[i] / KV_BLOCK_TOKENS; b++)
            most = a->block_table[a->seq[i]][b] > most ? a->block_table[a->seq[i]][b] : most;
    d.kv.blocks = (void *)in(a->kv.blocks, (size_t)(most + 1) * a->kv.block_bytes);
    d.q = in(a->q, strided(a->n, a->q_stride, width));
    d.out = out(a->out, strided(a->n, a->out_stride, width));
    finish(dev->kern->attention(dev, &d));
}

static void run_silu_mul(const struct kern_silu_mul *a, struct kern_part part)
{
    struct kern_silu_mul d = *a;
    d.y = out(a->y, FLOATS(a->n));
    d.gate = a->gate == a->y ? d.y : in(a->gate, FLOATS(a->n));
    d.up = a->up == a->y ? d.y : in(a->up, FLOATS(a->n));
    finish(dev->kern->silu_mul(dev, &d));
}

static void run_router(const struct kern_router *a, struct kern_part part)
{
    struct kern_router d = *a;
    size_t chosen = (size_t)a->n * (size_t)a->top_k;
    d.w = in(a->w, (size_t)a->experts * (size_t)a->in * dtype_bytes(a->w_dtype));
    d.x = in(a->x, FLOATS((size_t)a->n * (size_t)a->in));
    d.id = bring(a->id, chosen * sizeof *a->id, true, true);
    d.weight = out(a->weight, FLOATS(chosen));
    finish(dev->kern->router(dev, &d));
}

/* Every second record stays in host memory, registered, as a missed expert's does. */
struct experts_call {
    struct kern_experts args;
    struct kern_expert_group group[64];
    void *registered[64];
    int n_registered;
};

static void begin_experts(struct experts_call *c, const struct kern_experts *a)
{
    struct moed_error err;
    size_t rows = 0, pairs = 0, bytes = a->cls->bytes;
    c->args = *a;
    c->n_registered = 0;
    assert_true(a->n_groups <= 64);
    for (int g = 0; g < a->n_groups; g++) {
        c->group[g] = a->group[g];
        for (int i = 0; i < a->group[g].n; i++) {
            rows = (size_t)a->group[g].row[i] + 1 > rows ? (size_t)a->group[g].row[i] + 1 : rows;
            pairs =
                (size_t)a->group[g].pair[i] + 1 > pairs ? (size_t)a->group[g].pair[i] + 1 : pairs;
        }
        if (g % 2 && a->group[g].n) {
            void *copy = aligned_alloc(4096, bytes);
            memcpy(copy, a->group[g].record, bytes);
            assert_ok(dev->ops->host_register(dev, copy, bytes, bytes, &err), &err);
            c->group[g].record = c->registered[c->n_registered++] = copy;
        } else if (a->group[g].n) {
            c->group[g].record = in(a->group[g].record, bytes);
        }
    }
    c->args.group = c->group;
    c->args.x = in(a->x, FLOATS(rows * (size_t)a->cls->hidden));
    c->args.hidden = out(a->hidden, FLOATS(pairs * (size_t)a->cls->intermediate));
    c->args.y = out(a->y, FLOATS(pairs * (size_t)a->cls->hidden));
}

static void end_experts(struct experts_call *c, int rc)
{
    finish(rc);
    for (int i = 0; i < c->n_registered; i++) {
        dev->ops->host_unregister(dev, c->registered[i]);
        free(c->registered[i]);
    }
}

static void run_gate_up(const struct kern_experts *a, struct kern_part part)
{
    struct experts_call c;
    begin_experts(&c, a);
    end_experts(&c, dev->kern->experts_gate_up(dev, &c.args));
}

static void run_down(const struct kern_experts *a, struct kern_part part)
{
    struct experts_call c;
    begin_experts(&c, a);
    end_experts(&c, dev->kern->experts_down(dev, &c.args));
}

static void run_combine(const struct kern_combine *a, struct kern_part part)
{
    struct kern_combine d = *a;
    size_t pairs = (size_t)a->n * (size_t)a->top_k;
    d.y = in(a->y, FLOATS(pairs * (size_t)a->dim));
    d.weight = in(a->weight, FLOATS(pairs));
    d.x = out(a->x, FLOATS((size_t)a->n * (size_t)a->dim));
    finish(dev->kern->combine(dev, &d));
}

static const struct kern_cpu through_cuda = {
    .name = "cuda",
    .embed = run_embed,
    .rmsnorm = run_rmsnorm,
    .linear = run_linear,
    .rope = run_rope,
    .kv_store = run_kv_store,
    .attention = run_attention,
    .silu_mul = run_silu_mul,
    .router = run_router,
    .experts_gate_up = run_gate_up,
    .experts_down = run_down,
    .combine = run_combine,
};

static bool same(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

/* Goes through all seeds and says what differs: a run on a rented machine should show all faults.
 */
static void compare(const char *op, op_case *run)
{
    int bad = 0;
    open_dev();
    const int seeds = emulated ? SEEDS_EMULATED : SEEDS;
    for (uint64_t seed = 1; seed <= (uint64_t)seeds; seed++) {
        struct outcome want = run(seed, kern_cpu(KERN_ISA_SCALAR), 1, 1);
        struct outcome got = run(seed, &through_cuda, 1, 1);
        size_t differ = 0, first = 0;
        assert_int_equal(got.n, want.n);
        for (size_t i = 0; i < got.n; i++)
            if (!same(got.got[i], want.got[i]) && differ++ == 0)
                first = i;
        if (differ && bad++ < MOST_SAID)
            print_message("%s, seed %d: %zu of %zu numbers differ, first %zu: %a, scalar %a\n", op,
                          (int)seed, differ, got.n, first, (double)got.got[first],
                          (double)want.got[first]);
        outcome_free(&want);
        outcome_free(&got);
    }
    dev_close(&dev);
    if (bad)
        fail_msg("%s: %d of %d cases have other bits", op, bad, seeds);
}

#define OP_TEST(op)                                                                                \
    static void op##_cuda(void **state)                                                            \
    {                                                                                              \
        compare(#op, case_##op);                                                                   \
    }

OP_TEST(embed)
OP_TEST(rmsnorm)
OP_TEST(linear)
OP_TEST(rope)
OP_TEST(kv_store)
OP_TEST(attention)
OP_TEST(silu_mul)
OP_TEST(router)
OP_TEST(experts)
OP_TEST(combine)

static void expect_same(const char *what, const float *got, const float *want, size_t n)
{
    size_t differ = 0, first = 0;
    for (size_t i = 0; i < n; i++)
        if (!same(got[i], want[i]) && differ++ == 0)
            first = i;
    if (differ)
        fail_msg("%s: %zu of %zu numbers differ, first %zu: %a, scalar %a", what, differ, n, first,
                 (double)got[first], (double)want[first]);
}

/* An extreme of each kind for exp and division: huge, tiny, subnormal, infinite, NaN, both zeros.
 */
static void silu_of_extremes_cuda(void **state)
{
    static const float edges[] = {0,      -0.0f,  1e-45f, -1e-45f,  1e-38f,   -1e-38f, 88.7f,
                                  -88.7f, 88.73f, -88.8f, 103.9f,   -104.1f,  1e30f,   -1e30f,
                                  3e38f,  -3e38f, NAN,    INFINITY, -INFINITY};
    enum { N = 4096, EDGES = sizeof edges / sizeof edges[0] };
    static float gate[N], up[N], want[N], got[N];
    struct rng r = {77};
    open_dev();
    for (int i = 0; i < N; i++) {
        gate[i] = i < EDGES * EDGES ? edges[i / EDGES] : rng_float(&r) * 60;
        up[i] = i < EDGES * EDGES ? edges[i % EDGES] : rng_float(&r);
    }
    struct kern_silu_mul a = {gate, up, want, N};
    kern_cpu(KERN_ISA_SCALAR)->silu_mul(&a, (struct kern_part){0, 1, NULL, 0});
    a.y = got;
    run_silu_mul(&a, (struct kern_part){0});
    dev_close(&dev);
    expect_same("silu_mul", got, want, N);
}

/* Sums that underflow to -0 stay so, whatever lies behind the end of a row, for any number of rows.
 */
static void sums_of_minus_zero_cuda(void **state)
{
    enum { IN = 264, OUT = 5, ROWS = 40 };
    static uint16_t w[OUT * IN];
    static float x[ROWS * IN], y[2][ROWS * OUT];
    open_dev();
    for (int i = 0; i < OUT * IN; i++)
        w[i] = kern_to_bf16(-0x1p-100f);
    for (int i = 0; i < ROWS * IN; i++)
        x[i] = 0x1p-100f;
    for (int n = 1; n <= ROWS; n += n < 9 ? 1 : 31) {
        struct kern_linear a = {w,    DTYPE_BF16, NULL, DTYPE_BF16, x,  y[0],
                                NULL, IN,         OUT,  n,          IN, OUT};
        kern_cpu(KERN_ISA_SCALAR)->linear(&a, (struct kern_part){0, 1, NULL, 0});
        a.y = y[1];
        run_linear(&a, (struct kern_part){0});
        expect_same("sums", y[1], y[0], (size_t)n * OUT);
        assert_true(y[0][0] == 0 && signbit(y[0][0]));
    }
    dev_close(&dev);
}

/* Equal logits go by id, NaN comes last, more experts than a warp has lanes; forced choices are
 * weighed by the same logits. */
static void router_ties_and_nan_cuda(void **state)
{
    enum { IN = 40, EXPERTS = 300, ROWS = 9, TOP_K = 20 };
    static float w[EXPERTS * IN], x[ROWS * IN], scratch[EXPERTS + 16];
    static float want[2][ROWS * TOP_K];
    static int32_t id[2][ROWS * TOP_K], forced[ROWS * TOP_K];
    struct rng r = {9};
    open_dev();
    for (int i = 0; i < ROWS * TOP_K; i++)
        forced[i] = (i * 37 + i / TOP_K) % EXPERTS;
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < IN; i++)
            w[e * IN + i] = e % 7 == 3 ? NAN : (float)(e % 11) * 0.01f;
    for (int i = 0; i < ROWS * IN; i++)
        x[i] = i < IN ? NAN : i < 2 * IN ? 0 : rng_float(&r);
    for (int pass = 0; pass < 2; pass++) {
        struct kern_router a = {w,       DTYPE_F32,           x, ROWS, IN, EXPERTS, TOP_K, 1, id[0],
                                want[0], pass ? forced : NULL};
        kern_cpu(KERN_ISA_SCALAR)->router(&a, (struct kern_part){0, 1, scratch, sizeof scratch});
        a.id = id[1];
        a.weight = want[1];
        run_router(&a, (struct kern_part){0});
        assert_memory_equal(id[1], id[0], sizeof id[0]);
        assert_true(!pass || memcmp(id[0], forced, sizeof forced) == 0);
        expect_same("weights", want[1], want[0], ROWS * TOP_K);
    }
    dev_close(&dev);
}

/* More positions than a block holds scores for, whole and through a window. */
static void long_attention_cuda(void **state)
{
    enum { DIM = 64, HEADS = 3, POSITIONS = 20000, BLOCKS = POSITIONS / 16, ROWS = 3 };
    struct rng r = {5};
    struct kern_kv kv = {
        .block_bytes = 2 * 16 * DIM * 2, .dtype = DTYPE_BF16, .kv_heads = 1, .head_dim = DIM};
    uint16_t *blocks = weights_new(&r, DTYPE_BF16, BLOCKS * kv.block_bytes / 2, 1);
    float *q = floats_new(&r, ROWS * HEADS * DIM, 1), *scratch = malloc(FLOATS(POSITIONS + 64));
    static float want[ROWS * HEADS * DIM], got[ROWS * HEADS * DIM];
    static int32_t table[BLOCKS];
    const int32_t *tables[] = {table};
    const int32_t pos[ROWS] = {POSITIONS - 1, 8191, 8192}, seq[ROWS] = {0};
    for (int i = 0; i < BLOCKS; i++)
        table[i] = (i * 7 + 3) % BLOCKS;
    kv.blocks = blocks;
    open_dev();
    for (int window = 0; window < 10000; window += 9001) {
        struct kern_attention a = {.kv = kv,
                                   .q = q,
                                   .out = want,
                                   .q_stride = HEADS * DIM,
                                   .out_stride = HEADS * DIM,
                                   .pos = pos,
                                   .seq = seq,
                                   .block_table = tables,
                                   .n = ROWS,
                                   .heads = HEADS,
                                   .window = window,
                                   .scale = 0.125f,
                                   .max_context = POSITIONS};
        kern_cpu(KERN_ISA_SCALAR)
            ->attention(&a, (struct kern_part){0, 1, scratch, FLOATS(POSITIONS + 64)});
        a.out = got;
        run_attention(&a, (struct kern_part){0});
        expect_same(window ? "attention in a window" : "attention", got, want, ROWS * HEADS * DIM);
    }
    dev_close(&dev);
    free(blocks);
    free(q);
    free(scratch);
}

/* The shapes of Qwen3-30B-A3B and Mixtral, one row to many, so that every size of kernel and both
 * ways of the lists (with the launch, by a copy) are met. */
static void experts_of_real_models_cuda(void **state)
{
    static const struct {
        enum dtype dtype;
        int hidden, inner, groups, rows;
    } shapes[] = {{DTYPE_BF16, 2048, 768, 8, 1}, {DTYPE_BF16, 2048, 768, 5, 2},
                  {DTYPE_BF16, 2048, 768, 3, 4}, {DTYPE_BF16, 1024, 520, 2, 37},
                  {DTYPE_BF16, 512, 768, 60, 3}, {DTYPE_BF16, 4096, 1792, 2, 1},
                  {DTYPE_F16, 2048, 768, 2, 3},  {DTYPE_F32, 2048, 768, 2, 9}};
    open_dev();
    const int divide = emulated ? 2 : 1;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        struct record_class cls = record_class_swiglu(shapes[s].dtype, shapes[s].hidden / divide,
                                                      shapes[s].inner / divide);
        int groups = shapes[s].groups, rows = shapes[s].rows, pairs = groups * rows;
        struct rng r = {s};
        struct kern_expert_group group[64];
        int32_t row[256], pair[256];
        size_t hidden = (size_t)pairs * (size_t)cls.intermediate;
        size_t y = (size_t)pairs * (size_t)cls.hidden;
        float *x = floats_new(&r, (size_t)rows * (size_t)cls.hidden, 1);
        float *want_hidden = calloc(hidden, 4), *want_y = calloc(y, 4);
        float *got_hidden = calloc(hidden, 4), *got_y = calloc(y, 4);
        for (int i = 0; i < pairs; i++) {
            row[i] = i % rows;
            pair[i] = i % rows * groups + i / rows;
        }
        for (int g = 0; g < groups; g++) {
            void *record = aligned_alloc(4096, cls.bytes);
            void *w = weights_new(&r, cls.dtype, cls.bytes / dtype_bytes(cls.dtype), 0.05f);
            memcpy(record, w, cls.bytes);
            free(w);
            group[g] = (struct kern_expert_group){record, row + g * rows, pair + g * rows, rows};
        }
        const struct kern_cpu *k = kern_cpu(KERN_ISA_AUTO);
        size_t scratch_bytes = (size_t)4 << 20;
        struct kern_part part = {0, 1, aligned_alloc(64, scratch_bytes), scratch_bytes};
        struct kern_experts a = {&cls, group, groups, x, want_hidden, want_y};
        k->experts_gate_up(&a, part);
        k->experts_down(&a, part);
        a.hidden = got_hidden;
        a.y = got_y;
        run_gate_up(&a, part);
        run_down(&a, part);
        expect_same("hidden", got_hidden, want_hidden, hidden);
        expect_same("y", got_y, want_y, y);
        free(part.scratch);
        for (int g = 0; g < groups; g++)
            free((void *)group[g].record);
        free(x);
        free(want_hidden);
        free(want_y);
        free(got_hidden);
        free(got_y);
    }
    dev_close(&dev);
}

/* The same experts in plain and in packed records. */
struct packed_case {
    struct record_class plain, packed;
    struct kern_expert_group group[8], packed_group[8];
    int32_t row[64], pair[64];
    int groups, pairs;
    float *x;
};

static void packed_case_init(struct packed_case *c, int hidden, int inner, int groups, int rows)
{
    struct rng r = {(uint64_t)(hidden * 7 + inner + rows)};
    c->plain = record_class_swiglu(DTYPE_BF16, hidden, inner);
    c->packed = packed_class_roomy(hidden, inner);
    c->groups = groups;
    c->pairs = groups * rows;
    c->x = floats_new(&r, (size_t)(rows * hidden), 1);
    for (int i = 0; i < c->pairs; i++) {
        c->row[i] = i % rows;
        c->pair[i] = i % rows * groups + i / rows;
    }
    for (int g = 0; g < groups; g++) {
        uint16_t *record = plain_record_new(&r, &c->plain, 0.05f);
        c->group[g] =
            (struct kern_expert_group){record, c->row + g * rows, c->pair + g * rows, rows};
        c->packed_group[g] = c->group[g];
        c->packed_group[g].record = packed_record_new(record, &c->plain, &c->packed);
    }
}

static void packed_case_free(struct packed_case *c)
{
    for (int g = 0; g < c->groups; g++) {
        free((void *)c->group[g].record);
        free((void *)c->packed_group[g].record);
    }
    free(c->x);
}

/* hidden, then y. */
static float *packed_case_run(const struct packed_case *c, bool packed, const struct kern_cpu *k)
{
    size_t hidden = (size_t)(c->pairs * c->plain.intermediate), scratch_bytes = (size_t)4 << 20;
    float *out = calloc(hidden + (size_t)(c->pairs * c->plain.hidden), sizeof *out);
    struct kern_part part = {0, 1, aligned_alloc(64, scratch_bytes), scratch_bytes};
    struct kern_experts a = {packed ? &c->packed : &c->plain,
                             packed ? c->packed_group : c->group,
                             c->groups,
                             c->x,
                             out,
                             out + hidden};
    k->experts_gate_up(&a, part);
    k->experts_down(&a, part);
    free(part.scratch);
    return out;
}

/* Packed records give the bits of plain ones, wherever they lie: every size of kernel, whole blocks
 * of a row and parts, escapes in heads and in lists. */
static void experts_of_packed_records_cuda(void **state)
{
    static const struct {
        int hidden, inner, groups, rows;
    } shapes[] = {{768, 264, 3, 1}, {1408, 48, 2, 2}, {264, 1408, 2, 4}, {48, 768, 2, 8},
                  {520, 8, 4, 1},   {8, 1032, 4, 5},  {2048, 768, 2, 1}, {512, 256, 2, 15}};
    open_dev();
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        struct packed_case c;
        packed_case_init(&c, shapes[s].hidden, shapes[s].inner, shapes[s].groups, shapes[s].rows);
        float *want = packed_case_run(&c, false, kern_cpu(KERN_ISA_SCALAR));
        float *plain = packed_case_run(&c, false, &through_cuda);
        float *packed = packed_case_run(&c, true, &through_cuda);
        size_t n = (size_t)(c.pairs * (c.plain.hidden + c.plain.intermediate));
        expect_same("plain records", plain, want, n);
        expect_same("packed records", packed, want, n);
        free(want);
        free(plain);
        free(packed);
        packed_case_free(&c);
    }
    dev_close(&dev);
}

static void copies_within_the_device_cuda(void **state)
{
    enum { BYTES = 300000, AT = 4096, N = 123457 };
    static uint8_t sent[BYTES], got[BYTES];
    struct dev_event event = {0};
    struct rng r = {8};
    open_dev();
    uint8_t *a = dev->ops->alloc(dev, BYTES), *b = dev->ops->alloc(dev, BYTES);
    assert_true(a && b);
    for (int i = 0; i < BYTES; i++)
        sent[i] = (uint8_t)rng_int(&r, 1, 255);
    assert_int_equal(dev->ops->copy_in(dev, a, sent, BYTES, &event), 0);
    assert_int_equal(dev->ops->event_wait(dev, &event), 0);
    assert_int_equal(dev->ops->copy_within(dev, b + AT, a, N), 0);
    assert_int_equal(dev->ops->copy_out(dev, got, b, BYTES), 0);
    assert_memory_equal(got + AT, sent, N);
    assert_int_equal(got[AT - 1], 0);
    assert_int_equal(got[AT + N], 0);
    dev->ops->free(dev, a, BYTES);
    dev->ops->free(dev, b, BYTES);
    dev_close(&dev);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(embed_cuda),
    cmocka_unit_test(rmsnorm_cuda),
    cmocka_unit_test(linear_cuda),
    cmocka_unit_test(rope_cuda),
    cmocka_unit_test(kv_store_cuda),
    cmocka_unit_test(attention_cuda),
    cmocka_unit_test(silu_mul_cuda),
    cmocka_unit_test(router_cuda),
    cmocka_unit_test(experts_cuda),
    cmocka_unit_test(combine_cuda),
    cmocka_unit_test(silu_of_extremes_cuda),
    cmocka_unit_test(copies_within_the_device_cuda),
    cmocka_unit_test(sums_of_minus_zero_cuda),
    cmocka_unit_test(router_ties_and_nan_cuda),
    cmocka_unit_test(long_attention_cuda),
    cmocka_unit_test(experts_of_real_models_cuda),
    cmocka_unit_test(experts_of_packed_records_cuda),
};
CHECK_MAIN(tests)
