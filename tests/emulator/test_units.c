/*
 * Units of attention that turn the heads and store K and V themselves, against the kernels `turn`
 * and `attention` one after the other: the same bits, in what comes out and in the cache.
 */
#include "check.h"

#include <stdbool.h>

#include <cuda.h>

#include "base/dtype.h"
#include "cuda/args.h"
#include "kernels.h"

#define OK(call) assert_int_equal(call, CUDA_SUCCESS)

enum { CONTEXT = 704, ROWS = 2, CHUNK = 64, DEPTH = 5 };

static CUmodule module;
static CUstream stream;

/* All memory of a case; device memory of the emulator is the host's. */
struct world {
    struct cu_attention a;
    struct cu_turn t;
    size_t shared_bytes, cache_bytes, q_bytes, k_bytes, out_bytes;
    uint8_t *cache[2];  /* of the two ways */
    float *q[2], *k[2]; /* the first is turned in place */
    float *out[2];
    int64_t *slot;
    int32_t *pos, *seq, *live;
};

struct shape {
    const char *want, *got; /* kernels */
    enum dtype dtype;
    int kv_heads, group, block_heads, gb, dim;
    int teams; /* of a block; 0: one */
};

static void *memory(size_t bytes)
{
    CUdeviceptr p;
    OK(cuMemAlloc(&p, bytes));
    memset((void *)(uintptr_t)p, 0, bytes);
    return (void *)(uintptr_t)p;
}

static void give_back(const void *p)
{
    OK(cuMemFree((CUdeviceptr)(uintptr_t)p));
}

static float *numbers(uint64_t *seed, size_t n)
{
    float *x = memory(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)(int32_t)(*seed >> 32) * 0x1p-31f;
    }
    return x;
}

static int take(size_t *at, size_t floats)
{
    size_t from = *at;
    *at += (floats + 3) / 4 * 4;
    return (int)from;
}

static void lay_out(struct world *w, const struct shape *s)
{
    struct cu_attention *a = &w->a;
    size_t gb = (size_t)s->gb, dim = (size_t)s->dim, items = gb * dim / 8, at = 0;
    size_t row_bytes = dim * dtype_bytes(s->dtype);
    size_t sums = 2 * (items > CU_ATTENTION_THREADS ? items : CU_ATTENTION_THREADS);
    size_t join = DEPTH * (items * 8 + sums);
    a->k_stride = (int32_t)((row_bytes + 31) / 64 * 64 + 32);
    a->k = take(&at, CHUNK * (size_t)a->k_stride / sizeof(float));
    a->v = take(&at, CHUNK * row_bytes / sizeof(float));
    a->part = take(&at, 4 * gb * dim);
    a->join_sums = (int32_t)(DEPTH * items * 8);
    at = at > join ? at : join;
    a->q_at = take(&at, gb * dim);
    a->score = take(&at, gb * CHUNK);
    a->weight = take(&at, gb * CHUNK);
    a->head_sums = take(&at, gb * 2);
    a->wait = take(&at, DEPTH * items * 8);
    a->wait_sums = take(&at, DEPTH * sums);
    a->node_floats = (int32_t)((items * 8 + gb * 2 + 3) / 4 * 4);
    a->team_floats = (int32_t)at;
    w->shared_bytes = at * sizeof(float);
}

/* Two sequences whose blocks lie in turns. */
static void tables(struct world *w)
{
    const int blocks = CONTEXT / 16;
    int32_t *table = memory((size_t)(ROWS * blocks) * sizeof *table);
    w->pos = memory(ROWS * sizeof *w->pos);
    w->seq = memory(ROWS * sizeof *w->seq);
    w->slot = memory(ROWS * sizeof *w->slot);
    w->live = memory(sizeof *w->live);
    for (int i = 0; i < ROWS * blocks; i++)
        table[i] = (i * 7 + 3) % (ROWS * blocks);
    for (int r = 0; r < ROWS; r++)
        w->seq[r] = ROWS - 1 - r;
    w->a.table = table;
    w->a.table_stride = blocks;
}

static void fill(struct world *w, const struct shape *s, uint64_t seed)
{
    const size_t elem = dtype_bytes(s->dtype), dim = (size_t)s->dim;
    const size_t kv = (size_t)s->kv_heads * dim, heads = (size_t)(s->kv_heads * s->group);
    const size_t cache = (size_t)ROWS * CONTEXT * 2 * kv;
    float *old = numbers(&seed, cache);
    w->cache_bytes = cache * elem;
    w->q_bytes = w->out_bytes = ROWS * heads * dim * sizeof(float);
    w->k_bytes = ROWS * kv * sizeof(float);
    for (int i = 0; i < 2; i++) {
        w->cache[i] = memory(w->cache_bytes);
        for (size_t e = 0; e < cache; e++)
            if (s->dtype == DTYPE_BF16)
                ((uint16_t *)w->cache[i])[e] = kern_to_bf16(old[e]);
            else
                ((float *)w->cache[i])[e] = old[e];
        w->out[i] = memory(w->out_bytes);
        w->q[i] = memory(w->q_bytes);
        w->k[i] = memory(w->k_bytes);
    }
    give_back(old);
    w->t = (struct cu_turn){.v = numbers(&seed, ROWS * kv),
                            .cos = numbers(&seed, CONTEXT * dim / 2),
                            .sin = numbers(&seed, CONTEXT * dim / 2),
                            .n = ROWS,
                            .heads = (int32_t)heads,
                            .norm_dtype = DTYPE_F32,
                            .eps = 1e-6f};
}

static void world_open(struct world *w, const struct shape *s, uint64_t seed)
{
    const int head_blocks = (s->group + s->block_heads - 1) / s->block_heads;
    const size_t owners = (size_t)(ROWS * s->kv_heads * head_blocks);
    *w = (struct world){0};
    fill(w, s, seed);
    tables(w);
    lay_out(w, s);
    w->a.kv = (struct cu_kv){
        NULL, (int64_t)2 * s->kv_heads * 16 * s->dim * (int64_t)dtype_bytes(s->dtype),
        (int32_t)s->dtype, s->kv_heads, s->dim};
    w->a.heads = s->kv_heads * s->group;
    w->a.q_stride = w->a.out_stride = w->a.heads * s->dim;
    w->a.head_blocks = head_blocks;
    w->a.block_heads = s->block_heads;
    w->a.scale = 0.125f;
    w->a.node = memory(owners * 16 * (size_t)w->a.node_floats * sizeof(float));
    w->a.ended = memory(owners * sizeof *w->a.ended);
    w->a.pos = w->t.pos = w->pos;
    w->a.seq = w->seq;
    w->a.live = w->t.live = w->live;
    w->t.slot = w->slot;
}

static void world_close(struct world *w)
{
    for (int i = 0; i < 2; i++) {
        give_back(w->cache[i]);
        give_back(w->q[i]);
        give_back(w->k[i]);
        give_back(w->out[i]);
    }
    const void *rest[] = {w->t.v,     w->t.cos, w->t.sin, w->a.table, w->a.node,
                          w->a.ended, w->pos,   w->seq,   w->slot,    w->live};
    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++)
        give_back(rest[i]);
}

static CUfunction function(const char *name, size_t shared_bytes)
{
    CUfunction f;
    OK(cuModuleGetFunction(&f, module, name));
    OK(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)shared_bytes));
    return f;
}

/* One way after the other over the same row; `turned`: the heads still are to be turned. */
static void compare(struct world *w, const struct shape *s, bool turned, uint64_t seed)
{
    struct cu_attention a[2] = {w->a, w->a};
    struct cu_turn t[2] = {w->t, w->t};
    const unsigned heads = (unsigned)(w->a.heads + 2 * s->kv_heads);
    const unsigned units = (unsigned)(s->kv_heads * w->a.head_blocks * w->a.splits);
    float *q = numbers(&seed, w->q_bytes / sizeof *q), *k = numbers(&seed, w->k_bytes / sizeof *k);
    for (int i = 0; i < 2; i++) {
        a[i].kv.blocks = t[i].kv.blocks = w->cache[i];
        t[i].kv = a[i].kv;
        a[i].out = w->out[i];
        memset(w->out[i], 0xee, w->out_bytes);
        memcpy(w->q[i], q, w->q_bytes);
        memcpy(w->k[i], k, w->k_bytes);
        t[i].q = w->q[i];
        t[i].k = w->k[i];
    }
    a[0].q = w->q[0];
    a[1].q = turned ? NULL : w->q[1];
    if (!turned)
        t[1].q = NULL;
    else
        OK(cuLaunchKernel(function("turn", 0), ROWS, (heads + CU_WARPS - 1) / CU_WARPS, 1,
                          CU_THREADS, 1, 1, 0, stream, (void *[]){&t[0]}, NULL));
    OK(cuLaunchKernel(function(s->want, w->shared_bytes), ROWS, units, 1, CU_ATTENTION_THREADS, 1,
                      1, (unsigned)w->shared_bytes, stream, (void *[]){&a[0]}, NULL));
    const unsigned teams = s->teams ? (unsigned)s->teams : 1;
    const unsigned shared_bytes = teams * (unsigned)w->shared_bytes;
    OK(cuLaunchCooperativeKernel(function(s->got, shared_bytes), 3, 1, 1,
                                 teams * CU_ATTENTION_THREADS + 64, 1, 1, shared_bytes, stream,
                                 (void *[]){&a[1], &t[1], (void *)&units}));
    OK(cuStreamSynchronize(stream));
    assert_memory_equal(w->out[1], w->out[0], w->out_bytes);
    assert_memory_equal(w->cache[1], w->cache[0], w->cache_bytes);
    give_back(q);
    give_back(k);
}

/* Positions of both rows, the slots that belong to them, and what else differs between cases. */
static void contexts(struct world *w, const struct shape *s, bool turned)
{
    static const int32_t pos[] = {0, 1, 15, 16, 63, 64, 130, 255, 256, 500, 699};
    static const int windows[] = {0, 40, 150}, splits[] = {1, 3, 11};
    uint64_t seed = 1;
    const float *norm = numbers(&seed, (size_t)s->dim), *other = numbers(&seed, (size_t)s->dim);
    for (size_t i = 0; i < sizeof pos / sizeof pos[0]; i++) {
        w->a.window = windows[i % 3];
        w->a.splits = splits[i / 2 % 3];
        w->t.q_norm = i % 4 == 1 ? NULL : norm;
        w->t.k_norm = i % 4 >= 2 ? NULL : other;
        *w->live = i % 5 == 4 ? 1 : ROWS;
        for (int r = 0; r < ROWS; r++) {
            w->pos[r] = pos[(i + 4 * (size_t)r) % (sizeof pos / sizeof pos[0])];
            w->slot[r] =
                w->a.table[w->seq[r] * w->a.table_stride + w->pos[r] / 16] * 16 + w->pos[r] % 16;
            if (r == 1 && i % 3 == 1)
                w->slot[r] = -1;
        }
        compare(w, s, turned, seed + i);
    }
    give_back(norm);
    give_back(other);
}

static void each_shape(const struct shape *shapes, size_t n, bool turned)
{
    CUcontext context;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module, ""));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (size_t i = 0; i < n; i++) {
        struct world w;
        world_open(&w, &shapes[i], i);
        contexts(&w, &shapes[i], turned);
        world_close(&w);
    }
    OK(cuStreamDestroy(stream));
    OK(cuModuleUnload(module));
    OK(cuDevicePrimaryCtxRelease(0));
}

static const struct shape shapes[] = {
    {"attention_bf16_1", "units_bf16_1", DTYPE_BF16, 2, 1, 1, 1, 128},
    {"attention_bf16_2", "units_bf16_2_128", DTYPE_BF16, 1, 4, 2, 2, 128},
    {"attention_bf16_4", "units_bf16_4_64", DTYPE_BF16, 2, 4, 4, 4, 64},
    {"attention_bf16_8", "units_bf16_8", DTYPE_BF16, 1, 5, 5, 8, 72},
    {"attention_f32_4", "units_f32_4", DTYPE_F32, 1, 8, 4, 4, 128},
    {"attention_bf16_2", "pairs_bf16_2_128", DTYPE_BF16, 1, 4, 2, 2, 128, 2},
    {"attention_bf16_4", "fours_bf16_4", DTYPE_BF16, 1, 3, 3, 4, 72, 4},
};
static const size_t n_shapes = sizeof shapes / sizeof shapes[0];

static void units_attend_alike(void **state)
{
    each_shape(shapes, n_shapes, false);
}

static void units_turn_and_attend_alike(void **state)
{
    each_shape(shapes, n_shapes, true);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(units_attend_alike),
    cmocka_unit_test(units_turn_and_attend_alike),
};
CHECK_MAIN(tests)
