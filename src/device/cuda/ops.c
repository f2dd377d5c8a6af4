/* The ops: checks what a kernel needs, brings plan arrays over, launches. */
#include <string.h>

#include "cuda/args.h"
#include "cuda_int.h"

int cuda_launch(struct dev_cuda *d, enum function f, size_t x, size_t y, unsigned threads,
                size_t shared_bytes, const void *args)
{
    void *params[] = {(void *)args};
    if (x == 0 || y == 0)
        return 0;
    if (x > INT32_MAX || y > UINT16_MAX)
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "an op too large for one launch");
    /* All kernels begin with grid_begin: one may be set up while the one ahead still runs. */
    CUlaunchAttribute overlap = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                                 .value.programmaticStreamSerializationAllowed = 1};
    CUlaunchConfig config = {.gridDimX = (unsigned)x,
                             .gridDimY = (unsigned)y,
                             .gridDimZ = 1,
                             .blockDimX = threads,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .sharedMemBytes = (unsigned)shared_bytes,
                             .hStream = d->compute,
                             .attrs = &overlap,
                             .numAttrs = d->overlaps ? 1 : 0};
    return cuda_check(d, cuLaunchKernelEx(&config, d->function[f], params, NULL),
                      "launching a kernel");
}

int cuda_plan_array(struct dev_cuda *d, enum mirror_kind kind, const void *p, size_t bytes,
                    const void **out)
{
    CUdeviceptr device = 0;
    if ((*out = cuda_plan_twin(d, p)))
        return 0;
    int rc = cuda_mirror(d, kind, p, bytes, &device);
    *out = cuda_at(device);
    return rc;
}

int cuda_embed(struct dev *dev, const struct kern_embed *a)
{
    struct dev_cuda *d = cuda_of(dev);
    const void *token;
    int rc;
    if ((rc = cuda_enter(d)) < 0 ||
        (rc = cuda_plan_array(d, MIRROR_TOKEN, a->token, (size_t)a->n * sizeof *a->token, &token)) <
            0)
        return rc;
    struct cu_embed args = {a->table, token, a->x, a->n, a->dim, (int32_t)a->dtype};
    return cuda_launch(d, FN_embed, (size_t)a->n, 1, CU_THREADS, 0, &args);
}

int cuda_rmsnorm(struct dev *dev, const struct kern_rmsnorm *a)
{
    struct dev_cuda *d = cuda_of(dev);
    struct cu_rmsnorm args = {.x = a->x,
                              .y = a->y,
                              .w = a->w,
                              .x_stride = (int64_t)a->x_stride,
                              .y_stride = (int64_t)a->y_stride,
                              .dim = a->dim,
                              .w_dtype = (int32_t)a->w_dtype,
                              .eps = a->eps};
    int rc = cuda_enter(d);
    return rc < 0 ? rc : cuda_launch(d, FN_rmsnorm, (size_t)a->n, 1, CU_THREADS, 0, &args);
}

/* One op over weights comes in sizes by rows per reading of the weights. */
struct sizes {
    enum function one, two, four, eight, any;
};

#define SIZES(name)                                                                                \
    {                                                                                              \
        [DTYPE_F32] = {FN_##name##_f32_1, FN_##name##_f32_4, FN_##name##_f32_4, FN_##name##_f32_4, \
                       FN_##name##_f32_any},                                                       \
        [DTYPE_BF16] = {FN_##name##_bf16_1, FN_##name##_bf16_2, FN_##name##_bf16_4,                \
                        FN_##name##_bf16_8, FN_##name##_bf16_any},                                 \
        [DTYPE_F16] = {FN_##name##_f16_1, FN_##name##_f16_4, FN_##name##_f16_4, FN_##name##_f16_4, \
                       FN_##name##_f16_any},                                                       \
    }

/* The same over packed rows, which always begin where wide loads may. */
#define PACKED_SIZES(name)                                                                         \
    {                                                                                              \
        FN_##name##_packed_1, FN_##name##_packed_2, FN_##name##_packed_4, FN_##name##_packed_8,    \
            FN_COUNT                                                                               \
    }

struct size {
    enum function f;
    int rows;
};

/* For n rows; wide: the loads of 16 bytes are possible. */
static struct size size_for(const struct sizes *s, enum dtype dtype, int n, bool wide)
{
    if (!wide)
        return (struct size){s->any, 1};
    if (n == 1)
        return (struct size){s->one, 1};
    if (dtype != DTYPE_BF16)
        return (struct size){s->four, 4};
    return n == 2   ? (struct size){s->two, 2}
           : n <= 4 ? (struct size){s->four, 4}
                    : (struct size){s->eight, 8};
}

/* Of a block of linear_bf16_many that keeps so many rows, and has weights under way. */
static size_t many_bytes(int rows, int in)
{
    return cuda_vector_bytes(in) * (size_t)rows + CU_WARPS * CU_RING_BYTES;
}

/* Of those kernels, that for n rows. */
struct many {
    enum function f;
    int rows, outs; /* of a block */
};

static struct many many_for(const struct dev_cuda *d, int n, int in)
{
    const size_t most = (size_t)d->max_shared_bytes;
    if (n > 8 && many_bytes(16, in) <= most)
        return (struct many){FN_linear_bf16_many_16, 16, 2 * CU_MANY_OUTS};
    if (n > 4 && many_bytes(8, in) <= most)
        return (struct many){FN_linear_bf16_many_8, 8, 4 * CU_MANY_OUTS};
    return (struct many){FN_linear_bf16_many_4, 4, 8 * CU_MANY_OUTS};
}

bool cuda_linear_is_many(const struct dev_cuda *d, enum dtype w_dtype, int n, int in)
{
    return w_dtype == DTYPE_BF16 && n > 1 && many_bytes(4, in) <= (size_t)d->max_shared_bytes;
}

/* Blocks take all of a multiprocessor's shared memory: one for each, or as many as rows ask for. */
static int launch_many(struct dev_cuda *d, const struct cu_linear *a)
{
    struct many m = many_for(d, a->n, a->in);
    size_t x = cuda_blocks((size_t)a->n, (size_t)m.rows);
    size_t runs = cuda_blocks((size_t)a->out, (size_t)m.outs);
    size_t y = (size_t)d->processors > x ? (size_t)d->processors / x : 1;
    return cuda_launch(d, m.f, x, y < runs ? y : runs, CU_THREADS, many_bytes(m.rows, a->in), a);
}

int cuda_linear(struct dev *dev, const struct kern_linear *a)
{
    static const struct sizes sizes[DTYPE_COUNT] = SIZES(linear);
    struct dev_cuda *d = cuda_of(dev);
    bool wide = a->in % 8 == 0 && cuda_aligned(a->w) && cuda_aligned(a->x) && a->x_stride % 4 == 0;
    struct size s = size_for(&sizes[a->w_dtype], a->w_dtype, a->n, wide);
    struct cu_linear args = {.w = a->w,
                             .bias = a->bias,
                             .x = a->x,
                             .residual = a->residual,
                             .y = a->y,
                             .x_stride = (int64_t)a->x_stride,
                             .y_stride = (int64_t)a->y_stride,
                             .n = a->n,
                             .in = a->in,
                             .out = a->out,
                             .bias_dtype = (int32_t)a->bias_dtype};
    int rc = cuda_enter(d);
    if (rc == 0 && wide && cuda_linear_is_many(d, a->w_dtype, a->n, a->in))
        return launch_many(d, &args);
    return rc < 0 ? rc
                  : cuda_launch(d, s.f, cuda_blocks((size_t)a->n, (size_t)s.rows),
                                cuda_blocks((size_t)a->out, CU_BLOCK_OUTS), CU_THREADS, 0, &args);
}

int cuda_rope(struct dev *dev, const struct kern_rope *a)
{
    struct dev_cuda *d = cuda_of(dev);
    const void *pos;
    int rc;
    if ((rc = cuda_enter(d)) < 0 ||
        (rc = cuda_plan_array(d, MIRROR_POS, a->pos, (size_t)a->n * sizeof *a->pos, &pos)) < 0)
        return rc;
    struct cu_rope args = {.x = a->x,
                           .x_stride = (int64_t)a->x_stride,
                           .pos = pos,
                           .cos = a->cos,
                           .sin = a->sin,
                           .n = a->n,
                           .heads = a->heads,
                           .half = a->head_dim / 2};
    return cuda_launch(d, FN_rope, (size_t)a->n, 1, CU_THREADS, 0, &args);
}

int cuda_kv_store(struct dev *dev, const struct kern_kv_store *a)
{
    struct dev_cuda *d = cuda_of(dev);
    const void *slot;
    int rc;
    if ((rc = cuda_enter(d)) < 0 ||
        (rc = cuda_plan_array(d, MIRROR_SLOT, a->slot, (size_t)a->n * sizeof *a->slot, &slot)) < 0)
        return rc;
    struct cu_kv_store args = {.kv = cuda_kv_args(&a->kv),
                               .k = a->k,
                               .v = a->v,
                               .k_stride = (int64_t)a->k_stride,
                               .v_stride = (int64_t)a->v_stride,
                               .slot = slot,
                               .n = a->n};
    return cuda_launch(d, FN_kv_store, (size_t)a->n, 1, CU_THREADS, 0, &args);
}

int cuda_silu_mul(struct dev *dev, const struct kern_silu_mul *a)
{
    struct dev_cuda *d = cuda_of(dev);
    struct cu_silu_mul args = {a->gate, a->up, a->y, (int64_t)a->n};
    int rc = cuda_enter(d);
    return rc < 0 ? rc
                  : cuda_launch(d, FN_silu_mul, cuda_blocks(a->n, CU_THREADS), 1, CU_THREADS, 0,
                                &args);
}

static int want_logits(struct dev_cuda *d, size_t bytes)
{
    if (bytes <= d->logits_bytes)
        return 0;
    int rc = cuda_wait_compute(d);
    if (rc < 0)
        return rc;
    if (d->logits)
        cuMemFree(d->logits);
    d->logits = 0;
    CUresult r = cuMemAlloc(&d->logits, bytes);
    d->logits_bytes = r == CUDA_SUCCESS ? bytes : 0;
    return cuda_check(d, r, "making room for the router");
}

int cuda_router(struct dev *dev, const struct kern_router *a)
{
    struct dev_cuda *d = cuda_of(dev);
    if (a->top_k > CU_MAX_TOP_K || a->experts > CU_MAX_EXPERTS)
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "a router of so many experts");
    const void *forced = NULL;
    int rc = cuda_enter(d);
    if (rc < 0 || (rc = want_logits(d, (size_t)a->n * (size_t)a->experts * sizeof(float))) < 0)
        return rc;
    if (a->forced &&
        (rc = cuda_plan_array(d, MIRROR_FORCED, a->forced,
                              (size_t)a->n * (size_t)a->top_k * sizeof *a->forced, &forced)) < 0)
        return rc;
    struct kern_linear logits = {.w = a->w,
                                 .w_dtype = a->w_dtype,
                                 .x = a->x,
                                 .y = (float *)cuda_at(d->logits),
                                 .x_stride = (size_t)a->in,
                                 .y_stride = (size_t)a->experts,
                                 .n = a->n,
                                 .in = a->in,
                                 .out = a->experts};
    struct cu_select args = {.logit = (float *)cuda_at(d->logits),
                             .id = a->id,
                             .weight = a->weight,
                             .forced = forced,
                             .n = a->n,
                             .experts = a->experts,
                             .top_k = a->top_k,
                             .renormalize = a->renormalize};
    if ((rc = cuda_linear(dev, &logits)) < 0)
        return rc;
    return cuda_launch(d, FN_router_select, cuda_blocks((size_t)a->n, CU_ROUTER_ROWS), 1,
                       CU_ROUTER_ROWS * 32, 0, &args);
}

/* The call's groups as items of at most `rows` rows, and its lists, where the kernel finds them. */
static int expert_list(struct dev_cuda *d, const struct kern_experts *a, int rows,
                       struct cu_experts *args)
{
    size_t items = 0, pairs = 0;
    for (int g = 0; g < a->n_groups; g++) {
        items += cuda_blocks((size_t)a->group[g].n, (size_t)rows);
        pairs += (size_t)a->group[g].n;
    }
    size_t bytes = items * sizeof(struct cu_expert_item) + 2 * pairs * sizeof(int32_t);
    int rc = cuda_grow(d, &d->list, bytes);
    if (rc < 0)
        return rc;
    struct cu_expert_item *item = d->list.p;
    int32_t *row = (int32_t *)(item + items), *pair = row + pairs;
    size_t at_item = 0, at_pair = 0;
    for (int g = 0; g < a->n_groups; g++) {
        const struct kern_expert_group *group = &a->group[g];
        for (int first = 0; first < group->n; first += rows)
            item[at_item++] =
                (struct cu_expert_item){group->record, (int32_t)at_pair + first,
                                        group->n - first < rows ? group->n - first : rows};
        for (int i = 0; i < group->n; i++, at_pair++) {
            row[at_pair] = group->row[i];
            pair[at_pair] = group->pair[i];
        }
    }
    args->n_items = (int32_t)items;
    args->pairs = (int32_t)pairs;
    if (bytes <= CU_INLINE_BYTES) {
        memcpy(args->inline_list, d->list.p, bytes);
        return 0;
    }
    const void *list;
    rc = cuda_plan_array(d, MIRROR_LIST, d->list.p, bytes, &list);
    args->list = list;
    return rc;
}

/* in: the width that dot products run over; outs: the number of blocks over outputs. */
static int run_experts(struct dev *dev, const struct kern_experts *a, const struct sizes *sizes,
                       const struct sizes *packed, int in, const float *x, size_t outs)
{
    struct dev_cuda *d = cuda_of(dev);
    const struct record_class *c = a->cls;
    bool wide = in % 8 == 0 && cuda_aligned(x) &&
                (c->gate_off | c->up_off | c->down_off) % CUDA_WORDS_ALIGN == 0;
    int most = 1;
    for (int g = 0; g < a->n_groups; g++) {
        most = a->group[g].n > most ? a->group[g].n : most;
        wide = wide && cuda_aligned(a->group[g].record);
    }
    if (c->packed && !wide)
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "packed experts off 16-byte edges");
    struct size s = size_for(c->packed ? packed : &sizes[c->dtype], c->dtype, most, wide);
    struct cu_experts args;
    memset(&args, 0, offsetof(struct cu_experts, inline_list));
    args.x = a->x;
    args.hidden = a->hidden;
    args.y = a->y;
    args.gate_off = (int64_t)c->gate_off;
    args.up_off = (int64_t)c->up_off;
    args.down_off = (int64_t)c->down_off;
    args.in_row_bytes = (int64_t)c->in_row_bytes;
    args.down_row_bytes = (int64_t)c->down_row_bytes;
    args.width = c->hidden;
    args.inner = c->intermediate;
    int rc;
    if ((rc = cuda_enter(d)) < 0 || (rc = expert_list(d, a, s.rows, &args)) < 0)
        return rc;
    return cuda_launch(d, s.f, (size_t)args.n_items, outs, CU_THREADS, 0, &args);
}

int cuda_experts_gate_up(struct dev *dev, const struct kern_experts *a)
{
    static const struct sizes sizes[DTYPE_COUNT] = SIZES(gate_up), packed = PACKED_SIZES(gate_up);
    return run_experts(dev, a, sizes, &packed, a->cls->hidden, a->x,
                       cuda_blocks((size_t)a->cls->intermediate, CU_WARPS));
}

int cuda_experts_down(struct dev *dev, const struct kern_experts *a)
{
    static const struct sizes sizes[DTYPE_COUNT] = SIZES(down), packed = PACKED_SIZES(down);
    return run_experts(dev, a, sizes, &packed, a->cls->intermediate, a->hidden,
                       cuda_blocks((size_t)a->cls->hidden, CU_BLOCK_OUTS));
}

int cuda_combine(struct dev *dev, const struct kern_combine *a)
{
    struct dev_cuda *d = cuda_of(dev);
    struct cu_combine args = {a->y, a->weight, a->x, a->n, a->top_k, a->dim};
    int rc = cuda_enter(d);
    return rc < 0 ? rc
                  : cuda_launch(d, FN_combine, (size_t)a->n,
                                cuda_blocks((size_t)a->dim, 4 * CU_THREADS), CU_THREADS, 0, &args);
}
