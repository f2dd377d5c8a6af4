/* The ops of recorded steps: norm with matrices, heads before attention, experts that the device
 * resolves. */
#include <string.h>

#include "cuda_int.h"

#define PATIENCE_US 2000000

static void *cut(uint8_t *base, size_t *used, size_t bytes)
{
    void *p = base ? base + *used : NULL;
    *used += (bytes + 255) / 256 * 256;
    return p;
}

/* Cuts what paged experts share from base, or counts (base NULL). Returns the bytes. */
static size_t cut_paged(struct cu_paged *a, const struct mailbox_layout *l, uint8_t *base)
{
    size_t used = 0, items = kern_paged_items(l), pairs = (size_t)l->max_pairs;
    a->state = cut(base, &used, sizeof *a->state);
    a->hit = cut(base, &used, items * sizeof *a->hit);
    a->miss = cut(base, &used, items * sizeof *a->miss);
    a->row = cut(base, &used, pairs * sizeof *a->row);
    a->pair = cut(base, &used, pairs * sizeof *a->pair);
    a->chosen = cut(base, &used, pairs * sizeof *a->chosen);
    a->missed = cut(base, &used, pairs);
    a->link_x = cut(base, &used,
                    (size_t)CU_LINK_BLOCKS * CU_MAX_ROWS * (size_t)l->inner * sizeof *a->link_x);
    return used;
}

int cuda_mailbox_open(struct dev *dev, const struct mailbox_layout *l, int64_t patience_us,
                      struct mailbox **out, struct moed_error *err)
{
    struct dev_cuda *d = cuda_of(dev);
    struct paged *p = &d->paged;
    if (p->box)
        return moed_fail(err, MOED_EINTERNAL, "a second mailbox");
    size_t bytes = cut_paged(&p->args, l, NULL);
    if (bytes > kern_paged_bytes(l))
        return moed_fail(err, MOED_EINTERNAL, "more memory for misses than was planned");
    uint8_t *box = cuda_alloc_shared(dev, l->bytes), *memory = cuda_alloc(dev, bytes);
    p->layout = *l;
    p->box = (struct mailbox *)box;
    p->memory = (CUdeviceptr)(uintptr_t)memory;
    if (!box || !memory)
        return moed_fail(err, MOED_ENOMEM, "no memory for the mailbox of misses");
    cut_paged(&p->args, l, memory);
    p->args.box = p->box;
    p->args.box_group = (struct mailbox_group *)(box + l->group_off);
    p->args.box_row = (int32_t *)(box + l->row_off);
    p->args.box_pair = (int32_t *)(box + l->pair_off);
    p->args.box_x = (float *)(box + l->x_off);
    p->args.box_hidden = (float *)(box + l->hidden_off);
    p->args.box_y = (float *)(box + l->y_off);
    p->args.patience_ns = (uint64_t)(patience_us > 0 ? patience_us : PATIENCE_US) * 1000;
    *out = p->box;
    return 0;
}

void cuda_mailbox_close(struct dev *dev)
{
    struct dev_cuda *d = cuda_of(dev);
    cuda_free_shared(&d->dev, d->paged.box, d->paged.layout.bytes);
    cuda_free(&d->dev, (void *)(uintptr_t)d->paged.memory, 0);
    d->paged = (struct paged){0};
}

int cuda_step_outcome(struct dev_cuda *d)
{
    struct paged *p = &d->paged;
    if (!p->box)
        return 0;
    uint32_t seen = __atomic_load_n(&p->box->abandon, __ATOMIC_ACQUIRE);
    if (seen == p->abandoned)
        return 0;
    p->abandoned = seen;
    int rc = cuda_check(
        d, cuMemsetD32Async(p->memory + offsetof(struct cu_paged_state, gave_up), 0, 1, d->compute),
        "starting again after a miss");
    return rc < 0 ? rc : MOED_ETIMEDOUT;
}

bool cuda_can_page(struct dev *dev, const struct record_class *cls, int experts, int top_k)
{
    return cls->hidden % 8 == 0 && cls->intermediate % 8 == 0 &&
           (cls->gate_off | cls->up_off | cls->down_off) % CUDA_WORDS_ALIGN == 0 &&
           experts <= CU_STEP_EXPERTS && top_k <= CU_MAX_TOP_K;
}

/* Kernels of STEPPED by rows that share a reading of the weights. More than four would take so many
 * registers that too few loads are in flight; what is read again comes from the cache. */
struct stepped {
    enum function one, two, four;
};

#define STEPPED_OF(name)                                                                           \
    {                                                                                              \
        [DTYPE_F32] = {FN_##name##_f32_1, FN_##name##_f32_4, FN_##name##_f32_4},                   \
        [DTYPE_BF16] = {FN_##name##_bf16_1, FN_##name##_bf16_2, FN_##name##_bf16_4},               \
        [DTYPE_F16] = {FN_##name##_f16_1, FN_##name##_f16_4, FN_##name##_f16_4},                   \
    }

#define STEPPED_PACKED(name)                                                                       \
    {                                                                                              \
        FN_##name##_packed_1, FN_##name##_packed_2, FN_##name##_packed_4                           \
    }

struct stepped_size {
    enum function f;
    int rows;
};

static struct stepped_size stepped_for(const struct stepped *s, enum dtype dtype, int n)
{
    if (n == 1)
        return (struct stepped_size){s->one, 1};
    if (dtype != DTYPE_BF16 || n > 2)
        return (struct stepped_size){s->four, 4};
    return (struct stepped_size){s->two, 2};
}

static int norm_alone(struct dev *dev, const struct kern_norm_linear *a)
{
    size_t in = (size_t)a->in;
    if (!a->norm)
        return 0;
    if (!a->h)
        return cuda_check(cuda_of(dev), CUDA_ERROR_INVALID_VALUE, "a norm without a place");
    return cuda_rmsnorm(dev, &(struct kern_rmsnorm){.x = a->x,
                                                    .y = a->h,
                                                    .w = a->norm,
                                                    .w_dtype = a->norm_dtype,
                                                    .n = a->n,
                                                    .dim = a->in,
                                                    .x_stride = in,
                                                    .y_stride = in,
                                                    .eps = a->eps});
}

/* As separate ops: what the kernel has no size for. */
static int norm_then_linear(struct dev *dev, const struct kern_norm_linear *a)
{
    int rc = norm_alone(dev, a);
    for (int i = 0; i < a->n_matrices && rc == 0; i++) {
        const struct kern_matrix *m = &a->matrix[i];
        rc = cuda_linear(dev, &(struct kern_linear){.w = m->w,
                                                    .w_dtype = m->w_dtype,
                                                    .bias = m->bias,
                                                    .bias_dtype = m->bias_dtype,
                                                    .x = a->norm ? a->h : a->x,
                                                    .y = m->y,
                                                    .residual = a->residual,
                                                    .x_stride = (size_t)a->in,
                                                    .y_stride = (size_t)m->out,
                                                    .n = a->n,
                                                    .in = a->in,
                                                    .out = m->out});
    }
    return rc;
}

bool cuda_alike(const struct kern_norm_linear *a)
{
    bool alike = a->in % 8 == 0;
    for (int i = 0; i < a->n_matrices; i++)
        alike = alike && a->matrix[i].w_dtype == a->matrix[0].w_dtype &&
                cuda_aligned(a->matrix[i].w) &&
                (!a->matrix[i].bias || a->matrix[i].bias_dtype == a->matrix[0].bias_dtype);
    return alike && cuda_aligned(a->x) && cuda_aligned(a->h);
}

struct cu_norm_linear cuda_norm_linear_args(const struct kern_norm_linear *a)
{
    struct cu_norm_linear args = {.x = a->x,
                                  .residual = a->residual,
                                  .norm = a->norm,
                                  .h = a->norm ? a->h : NULL,
                                  .n_matrices = a->n_matrices,
                                  .n = a->n,
                                  .in = a->in,
                                  .norm_dtype = (int32_t)a->norm_dtype,
                                  .bias_dtype = (int32_t)a->matrix[0].bias_dtype,
                                  .eps = a->eps};
    for (int i = 0; i < STEP_MAX_MATRICES; i++) {
        args.matrix[i].first = i < a->n_matrices ? args.outs : INT32_MAX;
        if (i >= a->n_matrices)
            continue;
        args.matrix[i].w = a->matrix[i].w;
        args.matrix[i].bias = a->matrix[i].bias;
        args.matrix[i].y = a->matrix[i].y;
        args.matrix[i].out = a->matrix[i].out;
        args.outs += a->matrix[i].out;
    }
    return args;
}

/* The largest matrix that gains from weights that come before the launch's turn: beyond it the
 * memory is busy all the time anyway. */
#define NEAR_BYTES ((size_t)64 << 20)

int cuda_norm_linear(struct dev *dev, const struct kern_norm_linear *a)
{
    static const struct stepped sizes[DTYPE_COUNT] = STEPPED_OF(norm_linear);
    struct dev_cuda *d = cuda_of(dev);
    enum dtype dtype = a->matrix[0].w_dtype;
    struct stepped_size s = stepped_for(&sizes[dtype], dtype, a->n);
    struct cu_norm_linear args = cuda_norm_linear_args(a);
    size_t row_bytes = (size_t)a->in * dtype_bytes(dtype);
    /* A block that normalises more rows than one takes longer than a launch more. */
    bool apart = a->norm && a->n > 1;
    size_t shared = a->norm && !apart ? (size_t)a->in * sizeof(float) : 0;
    if (dtype != DTYPE_F32)
        shared += CU_BLOCK_OUTS * row_bytes;
    if (!cuda_alike(a) || shared > (size_t)d->max_shared_bytes ||
        (size_t)args.outs * row_bytes > NEAR_BYTES || cuda_linear_is_many(d, dtype, a->n, a->in))
        return norm_then_linear(dev, a);
    int rc = cuda_enter(d);
    if (rc == 0 && apart) {
        rc = norm_alone(dev, a);
        args.x = a->h;
        args.norm = NULL;
        args.h = NULL;
    }
    return rc < 0 ? rc
                  : cuda_launch(d, s.f, cuda_blocks((size_t)a->n, (size_t)s.rows),
                                cuda_blocks((size_t)args.outs, CU_BLOCK_OUTS), CU_THREADS, shared,
                                &args);
}

int cuda_turn_args(struct dev_cuda *d, const struct kern_turn *a, struct cu_turn *out)
{
    const void *pos, *slot;
    int rc;
    if ((rc = cuda_plan_array(d, MIRROR_POS, a->pos, (size_t)a->n * sizeof *a->pos, &pos)) < 0 ||
        (rc = cuda_plan_array(d, MIRROR_SLOT, a->slot, (size_t)a->n * sizeof *a->slot, &slot)) < 0)
        return rc;
    *out = (struct cu_turn){.kv = cuda_kv_args(&a->kv),
                            .q = a->q,
                            .k = a->k,
                            .v = a->v,
                            .cos = a->cos,
                            .sin = a->sin,
                            .q_norm = a->q_norm,
                            .k_norm = a->k_norm,
                            .pos = pos,
                            .live = d->live,
                            .slot = slot,
                            .n = a->n,
                            .heads = a->heads,
                            .norm_dtype = (int32_t)a->norm_dtype,
                            .eps = a->eps};
    return 0;
}

int cuda_turn(struct dev *dev, const struct kern_turn *a)
{
    struct dev_cuda *d = cuda_of(dev);
    struct cu_turn args;
    int rc = cuda_enter(d);
    if (rc < 0 || (rc = cuda_turn_args(d, a, &args)) < 0)
        return rc;
    return cuda_launch(d, FN_turn, (size_t)a->n,
                       cuda_blocks((size_t)(a->heads + 2 * a->kv.kv_heads), CU_WARPS), CU_THREADS,
                       0, &args);
}

struct cu_paged cuda_paged_args(const struct dev_cuda *d, const struct kern_paged_experts *a,
                                int rows_per_item)
{
    struct cu_paged args = d->paged.args;
    args.logit = a->logit;
    args.h = a->h;
    args.live = d->live;
    args.slot_of = cuda_plan_twin(d, a->slot_of);
    args.link_share = cuda_plan_twin(d, a->link_share);
    args.forced = cuda_plan_twin(d, a->forced);
    args.forced_on = cuda_plan_twin(d, a->forced_on);
    args.slots = a->slots;
    args.host_of = (const uint8_t *const *)a->host_of;
    args.slot_bytes = (int64_t)a->slot_bytes;
    args.gate_off = (int64_t)a->cls->gate_off;
    args.up_off = (int64_t)a->cls->up_off;
    args.down_off = (int64_t)a->cls->down_off;
    args.in_row_bytes = (int64_t)a->cls->in_row_bytes;
    args.down_row_bytes = (int64_t)a->cls->down_row_bytes;
    args.id = a->id;
    args.weight = a->weight;
    args.hidden = a->hidden;
    args.y = a->y;
    args.x = a->x;
    args.n = a->n;
    args.experts = a->experts;
    args.top_k = a->top_k;
    args.renormalize = a->renormalize;
    args.layer = a->layer;
    args.width = a->cls->hidden;
    args.inner = a->cls->intermediate;
    args.rows_per_item = rows_per_item;
    return args;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The kernels of a step's experts. */
struct paged_kernels {
    enum function gate_up, down;
    int rows;                    /* of an item */
    int up_outs, down_outs;      /* of a block */
    int up_groups, down_groups;  /* of a warp, of the kernels that keep rows; else 0 */
    size_t up_bytes, down_bytes; /* of shared memory */
};

static struct paged_kernels paged_by_size(const struct record_class *c, int n)
{
    static const struct stepped gate_up[DTYPE_COUNT] = STEPPED_OF(paged_gate_up),
                                packed_gate_up = STEPPED_PACKED(paged_gate_up);
    static const struct stepped down[DTYPE_COUNT] = STEPPED_OF(paged_down),
                                packed_down = STEPPED_PACKED(paged_down);
    /* Up to 16 rows most experts have one or two of them. */
    int size = n > 1 && n <= 16 ? 2 : n;
    struct stepped_size up =
        stepped_for(c->packed ? &packed_gate_up : &gate_up[c->dtype], c->dtype, size);
    struct stepped_size second =
        stepped_for(c->packed ? &packed_down : &down[c->dtype], c->dtype, size);
    return (struct paged_kernels){.gate_up = up.f,
                                  .down = second.f,
                                  .rows = up.rows,
                                  .up_outs = CU_WARPS,
                                  .down_outs = CU_BLOCK_OUTS};
}

/* Small steps have few items, and the more blocks for each. */
static struct paged_kernels paged_kernels_for(const struct dev_cuda *d,
                                              const struct record_class *c, int n)
{
    size_t rings = CU_WARPS * CU_RING_BYTES;
    int up_groups = n <= 4 ? 2 : 4, down_groups = n <= 4 ? 4 : 8;
    struct paged_kernels k = {
        .gate_up = c->packed ? FN_paged_gate_up_packed_rows : FN_paged_gate_up_bf16_rows,
        .down = c->packed ? FN_paged_down_packed_rows : FN_paged_down_bf16_rows,
        .rows = CU_ITEM_ROWS,
        .up_outs = CU_WARPS * up_groups,
        .down_outs = CU_WARPS * down_groups * 2,
        .up_groups = up_groups,
        .down_groups = down_groups,
        .up_bytes = CU_ITEM_ROWS * cuda_vector_bytes(c->hidden) + rings,
        .down_bytes = CU_ITEM_ROWS * cuda_vector_bytes(c->intermediate) + rings};
    bool keeps = n > 1 && c->dtype == DTYPE_BF16 &&
                 larger(k.up_bytes, k.down_bytes) <= (size_t)d->max_shared_bytes;
    return keeps ? k : paged_by_size(c, n);
}

int cuda_paged_experts(struct dev *dev, const struct kern_paged_experts *a)
{
    struct dev_cuda *d = cuda_of(dev);
    const struct paged_kernels k = paged_kernels_for(d, a->cls, a->n);
    struct cu_paged args = cuda_paged_args(d, a, k.rows);
    if (!args.live || !args.slot_of || !args.link_share || !args.forced_on || !d->paged.box ||
        a->n * a->top_k > d->paged.layout.max_pairs)
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "experts of a step without its plan");
    size_t pairs = (size_t)a->n * (size_t)a->top_k, experts = (size_t)a->experts;
    size_t items = (pairs < experts ? pairs : experts) + pairs / (size_t)k.rows;
    size_t warps = a->n < CU_RESOLVE_ROWS ? (size_t)a->n : CU_RESOLVE_ROWS;
    size_t threads = larger(warps * 32, 256);
    size_t up_blocks = cuda_blocks((size_t)args.inner, (size_t)k.up_outs);
    size_t down_blocks = cuda_blocks((size_t)args.width, (size_t)k.down_outs);
    int rc;
    items = a->n == 1 ? pairs : items;
    if ((rc = cuda_enter(d)) < 0 ||
        (rc = cuda_launch(d, FN_resolve, 1, 1, (unsigned)threads,
                          threads / 32 * experts * sizeof(float), &args)) < 0)
        return rc;
    args.groups_per_warp = k.up_groups;
    rc = cuda_launch(d, k.gate_up, larger(up_blocks, CU_LINK_BLOCKS), 1 + items, CU_THREADS,
                     k.up_bytes, &args);
    args.groups_per_warp = k.down_groups;
    if (rc == 0)
        rc = cuda_launch(d, k.down, larger(down_blocks, CU_LINK_BLOCKS), 1 + items, CU_THREADS,
                         k.down_bytes, &args);
    return rc < 0 ? rc
                  : cuda_launch(d, FN_paged_combine, (size_t)a->n,
                                cuda_blocks((size_t)args.width, CU_THREADS), CU_THREADS, 0, &args);
}
