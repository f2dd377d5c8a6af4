/*
 * Attention of the CUDA device against the CPU's, bit for bit: group sizes, widths of heads,
 * windows, contexts of one chunk to hundreds, cut into one piece or many, rows that do not take
 * part, recorded launches that meet other positions, numbers that are none.
 */
#include "check.h"

#include <math.h>

#include "gpu.h"
#include "support_cases.h"

#define MOST_SAID 5
#define MAX_ROWS  48

static struct dev *dev;

/* Random K, V and q, on both sides. */
struct world {
    struct kern_kv kv; /* on the host */
    struct kern_kv on_device;
    int blocks, heads, n;
    size_t kv_elems, q_floats;
    float *q, *want, *got;
    float *device_q, *device_out;
    int32_t *table; /* [2][blocks]: two sequences */
    const int32_t *tables[2];
};

static void *send(const void *p, size_t bytes)
{
    struct dev_event event = {0};
    void *device = dev->ops->alloc(dev, bytes);
    assert_non_null(device);
    assert_int_equal(dev->ops->copy_in(dev, device, p, bytes, &event), 0);
    assert_int_equal(dev->ops->event_wait(dev, &event), 0);
    return device;
}

static size_t kv_bytes(const struct world *w)
{
    return w->kv_elems * dtype_bytes(w->kv.dtype);
}

static void world_open(struct world *w, uint64_t seed, enum dtype dtype, int kv_heads, int group,
                       int dim, int context, int n)
{
    struct rng r = {seed};
    *w = (struct world){.blocks = (context + 15) / 16, .heads = kv_heads * group, .n = n};
    size_t block_elems = (size_t)2 * (size_t)kv_heads * KV_BLOCK_TOKENS * (size_t)dim;
    w->kv = (struct kern_kv){.block_bytes = block_elems * dtype_bytes(dtype),
                             .dtype = dtype,
                             .kv_heads = kv_heads,
                             .head_dim = dim};
    w->kv_elems = block_elems * (size_t)w->blocks;
    w->kv.blocks = weights_new(&r, dtype, w->kv_elems, 1);
    w->q_floats = (size_t)n * (size_t)w->heads * (size_t)dim;
    w->q = floats_new(&r, w->q_floats, 1);
    w->want = calloc(w->q_floats, sizeof(float));
    w->got = calloc(w->q_floats, sizeof(float));
    w->table = calloc((size_t)w->blocks * 2, sizeof *w->table);
    for (int s = 0; s < 2; s++) {
        w->tables[s] = w->table + s * w->blocks;
        for (int i = 0; i < w->blocks; i++)
            w->table[s * w->blocks + i] = (i * 7 + 3 + s) % w->blocks;
    }
    w->on_device = w->kv;
    w->on_device.blocks = send(w->kv.blocks, kv_bytes(w));
    w->device_q = send(w->q, w->q_floats * sizeof(float));
    w->device_out = send(w->got, w->q_floats * sizeof(float));
}

static void world_close(struct world *w)
{
    dev->ops->free(dev, w->on_device.blocks, kv_bytes(w));
    dev->ops->free(dev, w->device_q, w->q_floats * sizeof(float));
    dev->ops->free(dev, w->device_out, w->q_floats * sizeof(float));
    free(w->kv.blocks);
    free(w->q);
    free(w->want);
    free(w->got);
    free(w->table);
}

static struct kern_attention args_of(const struct world *w, const int32_t *pos, const int32_t *seq,
                                     int window)
{
    size_t width = (size_t)w->heads * (size_t)w->kv.head_dim;
    struct kern_attention a = {.kv = w->kv,
                               .q = w->q,
                               .out = w->want,
                               .q_stride = width,
                               .out_stride = width,
                               .pos = pos,
                               .seq = seq,
                               .block_table = w->tables,
                               .n = w->n,
                               .heads = w->heads,
                               .window = window,
                               .scale = 1 / sqrtf((float)w->kv.head_dim),
                               .max_context = 1};
    for (int i = 0; i < w->n; i++)
        a.max_context = pos[i] >= a.max_context ? pos[i] + 1 : a.max_context;
    return a;
}

static struct kern_attention on_device(const struct world *w, struct kern_attention a)
{
    a.kv = w->on_device;
    a.q = w->device_q;
    a.out = w->device_out;
    return a;
}

static void on_cpu(const struct kern_attention *a)
{
    size_t bytes = (size_t)2 << 20;
    void *scratch = aligned_alloc(64, bytes);
    kern_cpu(KERN_ISA_AUTO)->attention(a, (struct kern_part){0, 1, scratch, bytes});
    free(scratch);
}

/* Equal bits, or both NaN, over rows from..to-1. */
static void expect_rows(const struct world *w, const char *what, int from, int to)
{
    size_t width = (size_t)w->heads * (size_t)w->kv.head_dim;
    int wrong = 0;
    for (size_t i = (size_t)from * width; i < (size_t)to * width; i++) {
        if (memcmp(w->got + i, w->want + i, sizeof(float)) == 0 ||
            (isnan(w->got[i]) && isnan(w->want[i])))
            continue;
        if (++wrong <= MOST_SAID)
            print_error("%s: row %zu element %zu is %a, not %a\n", what, i / width, i % width,
                        (double)w->got[i], (double)w->want[i]);
    }
    if (wrong)
        fail_msg("%s: %d numbers differ", what, wrong);
}

static void compare(struct world *w, const char *what, const int32_t *pos, const int32_t *seq,
                    int window)
{
    struct kern_attention a = args_of(w, pos, seq, window), d = on_device(w, a);
    char name[128];
    on_cpu(&a);
    assert_int_equal(dev->kern->attention(dev, &d), 0);
    assert_int_equal(dev->ops->copy_out(dev, w->got, w->device_out, w->q_floats * sizeof(float)),
                     0);
    snprintf(name, sizeof name, "%s, window %d", what, window);
    expect_rows(w, name, 0, w->n);
}

/* Every kernel, by the heads of a group and their width. */
static void shapes_cuda(void **state)
{
    static const struct {
        enum dtype dtype;
        int kv_heads, group, dim;
    } shapes[] = {
        {DTYPE_BF16, 1, 8, 128},  {DTYPE_BF16, 2, 1, 64},  {DTYPE_BF16, 1, 2, 80},
        {DTYPE_BF16, 1, 3, 96},   {DTYPE_BF16, 1, 5, 128}, {DTYPE_BF16, 1, 16, 128},
        {DTYPE_BF16, 1, 12, 64},  {DTYPE_BF16, 2, 4, 128}, {DTYPE_BF16, 1, 8, 256},
        {DTYPE_BF16, 1, 6, 72},   {DTYPE_BF16, 1, 1, 576}, {DTYPE_BF16, 1, 7, 33},
        {DTYPE_BF16, 1, 2, 1000}, {DTYPE_F32, 2, 4, 64},   {DTYPE_F32, 1, 8, 128},
        {DTYPE_F32, 1, 3, 20},    {DTYPE_F32, 1, 1, 257},
    };
    static const int32_t pos[] = {0, 15, 16, 63, 64, 65, 127, 200, 256, 639, 640};
    static const int32_t seq[] = {0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0};
    static const int windows[] = {0, 1, 50, 65, 200};
    dev = cuda_open_or_skip();
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        struct world w;
        char what[64];
        snprintf(what, sizeof what, "%s, %d of %d", shapes[s].dtype == DTYPE_BF16 ? "bf16" : "f32",
                 shapes[s].group, shapes[s].dim);
        world_open(&w, s, shapes[s].dtype, shapes[s].kv_heads, shapes[s].group, shapes[s].dim, 641,
                   (int)(sizeof pos / sizeof pos[0]));
        for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++)
            compare(&w, what, pos, seq, windows[i]);
        world_close(&w);
    }
    dev_close(&dev);
}

/* One row is cut into many pieces, many rows into few, very many not at all; windows that begin
 * within a piece. */
static void pieces_cuda(void **state)
{
    static const struct {
        int rows, kv_heads, context, windows[3];
    } cases[] = {{1, 1, 20000, {0, 4000, 9001}},
                 {3, 1, 20000, {0, 4000, 9001}},
                 {MAX_ROWS, 1, 20000, {0, 4000, 9001}},
                 {MAX_ROWS, 8, 3000, {0, 130, 700}}};
    int32_t pos[MAX_ROWS], seq[MAX_ROWS];
    dev = cuda_open_or_skip();
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        struct world w;
        struct rng r = {k};
        int context = cases[k].context;
        world_open(&w, k, DTYPE_BF16, cases[k].kv_heads, 4 / cases[k].kv_heads + 1, 64, context,
                   cases[k].rows);
        for (int i = 0; i < cases[k].rows; i++) {
            pos[i] = i == 0 ? context - 1 : rng_int(&r, 0, i % 4 ? 700 : context - 1);
            seq[i] = i % 2;
        }
        for (size_t i = 0; i < 3; i++)
            compare(&w, "pieces", pos, seq, cases[k].windows[i]);
        world_close(&w);
    }
    dev_close(&dev);
}

/* Every length around the edges of chunks and pieces, one row at a time. */
static void every_length_cuda(void **state)
{
    struct world w;
    static const int32_t seq[] = {1};
    dev = cuda_open_or_skip();
    world_open(&w, 3, DTYPE_BF16, 1, 2, 64, 1300, 1);
    for (int32_t pos = 0; pos < 1300; pos += pos % 64 < 62 && pos % 64 > 2 ? 13 : 1) {
        compare(&w, "a length", &pos, seq, 0);
        compare(&w, "a length", &pos, seq, 130);
    }
    world_close(&w);
    dev_close(&dev);
}

/* A key of -infinity weighs nothing, alone in its chunk or not; +infinity and NaN are not hidden;
 * what is not visible never counts. */
static void no_numbers_cuda(void **state)
{
    enum { CONTEXT = 400, DIM = 64, TRIES = 40 };
    static const float odd[] = {-INFINITY, INFINITY, NAN, 1e30f, -1e30f};
    static const int32_t pos[] = {399, 255, 129}, seq[] = {0, 0, 0};
    dev = cuda_open_or_skip();
    for (int t = 0; t < TRIES; t++) {
        struct world w;
        struct rng r = {(uint64_t)t};
        world_open(&w, (uint64_t)t, DTYPE_F32, 1, 4, DIM, CONTEXT, 3);
        int n = t % 4 == 3 ? 64 : 3, from = t % 4 == 3 ? 64 : rng_int(&r, 0, CONTEXT - 4);
        for (int i = from; i < from + n; i++) {
            float *block = (float *)w.kv.blocks + (size_t)w.table[i / 16] * 2 * 16 * DIM;
            float *row = block + ((size_t)(t % 3 == 2) * 16 + (size_t)(i % 16)) * DIM;
            row[rng_int(&r, 0, DIM - 1)] = odd[t % 5];
        }
        dev->ops->free(dev, w.on_device.blocks, kv_bytes(&w));
        w.on_device.blocks = send(w.kv.blocks, kv_bytes(&w));
        compare(&w, "odd numbers", pos, seq, t % 2 ? 100 : 0);
        world_close(&w);
    }
    dev_close(&dev);
}

struct plan {
    int32_t live, pos[MAX_ROWS], seq[MAX_ROWS], table[];
};

/* One recording, replayed with contexts of any length and with fewer rows than it has. */
static void recorded_cuda(void **state)
{
    enum { CONTEXT = 9000, ROWS = 8 };
    static const int32_t lives[] = {8, 1, 5, 0, 8};
    struct moed_error err;
    struct dev_recorded *recorded;
    struct world w;
    dev = cuda_open_or_skip();
    assert_non_null(dev->step);
    world_open(&w, 11, DTYPE_BF16, 2, 4, 64, CONTEXT, ROWS);
    size_t bytes = sizeof(struct plan) + (size_t)w.blocks * 2 * sizeof(int32_t);
    struct plan *p = dev->step->plan_alloc(dev, bytes);
    assert_non_null(p);
    memcpy(p->table, w.table, (size_t)w.blocks * 2 * sizeof(int32_t));
    struct kern_attention a = args_of(&w, p->pos, p->seq, 0), d = on_device(&w, a);
    const int32_t *tables = p->table;
    d.block_table = &tables;
    d.table_stride = (size_t)w.blocks;
    d.max_context = CONTEXT;
    assert_int_equal(dev->step->record_begin(dev), 0);
    dev->step->live(dev, &p->live);
    assert_int_equal(dev->kern->attention(dev, &d), 0);
    assert_ok(dev->step->record_end(dev, &recorded, &err), &err);
    for (size_t k = 0; k < sizeof lives / sizeof lives[0]; k++) {
        struct rng r = {k};
        p->live = lives[k];
        for (int i = 0; i < ROWS; i++) {
            p->pos[i] = i < lives[k] ? rng_int(&r, 0, k % 2 ? 200 : CONTEXT - 1) : 1 << 30;
            p->seq[i] = i < lives[k] ? i % 2 : 1 << 30;
        }
        assert_int_equal(dev->step->plan_send(dev, p, bytes), 0);
        assert_int_equal(dev->step->replay(dev, recorded), 0);
        assert_int_equal(dev->kern->sync(dev), 0);
        assert_int_equal(dev->ops->copy_out(dev, w.got, w.device_out, w.q_floats * sizeof(float)),
                         0);
        a.n = lives[k];
        if (a.n)
            on_cpu(&a);
        expect_rows(&w, "recorded", 0, ROWS); /* the others keep what they had */
    }
    dev->step->forget(dev, recorded);
    dev->step->plan_free(dev, p);
    world_close(&w);
    dev_close(&dev);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(shapes_cuda),       cmocka_unit_test(pieces_cuda),
    cmocka_unit_test(every_length_cuda), cmocka_unit_test(no_numbers_cuda),
    cmocka_unit_test(recorded_cuda),
};
CHECK_MAIN(tests)
