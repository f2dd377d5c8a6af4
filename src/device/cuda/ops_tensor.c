/*
 * The tensor class: rounding, products of many rows, experts, attention; which tile for which
 * shape. No choice made here changes a bit (kernels/cuda/tensor.cu).
 *
 * Lists of expert calls go through a ring of pinned buffers, so that a call waits for nothing but
 * the copy of the list LISTS calls ago.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda/tensor_args.h"
#include "cuda_int.h"

#define LISTS          8
#define LIST_MIN_BYTES ((size_t)64 << 10)

struct list {
    uint8_t *host; /* pinned */
    CUdeviceptr device;
    size_t capacity;
    CUevent sent;
    bool used;
};

struct cuda_tensor {
    struct list list[LISTS];
    unsigned next;
    struct grown tiles;  /* of attention, and its block tables */
    size_t shared_bytes; /* that a block can have */
    bool groups;         /* the kernels of warpgroups are there */
};

/* Not cuda_launch: these kernels begin when the one ahead has ended, and are never recorded. */
static int launch(struct dev_cuda *d, enum function f, size_t x, size_t y, unsigned threads,
                  size_t shared_bytes, const void *args)
{
    void *params[] = {(void *)args};
    if (x == 0 || y == 0)
        return 0;
    if (x > INT32_MAX || y > UINT16_MAX)
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "an op too large for one launch");
    return cuda_check(d,
                      cuLaunchKernel(d->function[f], (unsigned)x, (unsigned)y, 1, threads, 1, 1,
                                     (unsigned)shared_bytes, d->compute, params, NULL),
                      "launching a kernel");
}

static int grow_list(struct dev_cuda *d, struct list *l, size_t bytes)
{
    size_t capacity = l->capacity ? l->capacity : LIST_MIN_BYTES;
    while (capacity < bytes)
        capacity *= 2;
    int rc = cuda_wait_compute(d);
    if (rc < 0)
        return rc;
    if (l->host)
        cuMemFreeHost(l->host);
    if (l->device)
        cuMemFree(l->device);
    l->host = NULL;
    l->device = 0;
    void *host = NULL;
    CUresult r = cuMemHostAlloc(&host, capacity, CU_MEMHOSTALLOC_PORTABLE);
    l->host = host;
    if (r == CUDA_SUCCESS)
        r = cuMemAlloc(&l->device, capacity);
    l->capacity = r == CUDA_SUCCESS ? capacity : 0;
    return cuda_check(d, r, "making room for a list of experts");
}

/* The next list of the ring, free to be written. */
static int take_list(struct dev_cuda *d, size_t bytes, struct list **out)
{
    struct cuda_tensor *t = d->tensor;
    struct list *l = &t->list[t->next++ % LISTS];
    int rc = 0;
    *out = l;
    if (bytes > l->capacity)
        return grow_list(d, l, bytes);
    if (l->used) {
        CUresult r = cuEventQuery(l->sent);
        rc = r == CUDA_ERROR_NOT_READY ? cuda_wait_compute(d)
                                       : cuda_check(d, r, "sending a list of experts");
    }
    return rc;
}

static int send_list(struct dev_cuda *d, struct list *l, size_t bytes)
{
    int rc = cuda_fetch(d, l->device, l->host, bytes);
    l->used = true;
    return rc < 0 ? rc
                  : cuda_check(d, cuEventRecord(l->sent, d->compute), "sending a list of experts");
}

static int tensor_round(struct dev *dev, const struct kern_round *a)
{
    struct dev_cuda *d = cuda_of(dev);
    struct cu_round args = {a->x, a->y, (int64_t)a->x_stride, (int64_t)a->y_stride, a->dim};
    int rc = cuda_enter(d);
    return rc < 0 ? rc
                  : launch(d, a->dtype == DTYPE_BF16 ? FN_round_bf16 : FN_round_f16, (size_t)a->n,
                           cuda_blocks((size_t)a->dim, CU_THREADS * 4), CU_THREADS, 0, &args);
}

/* A kernel of products, and the tiles it makes. */
struct shape {
    enum function plain, gated;
    int rows, outs; /* as many threads as outs */
    size_t shared_bytes;
    double rate; /* of multiplying in a full tile, measured; beside SHAPE_256 */
};

enum { SHAPE_GROUPS, SHAPE_256, SHAPE_128, SHAPE_128_64, SHAPE_128_32, SHAPE_NARROW, SHAPE_COUNT };

#define SHAPE(name, rows, outs, rate)                                                              \
    {                                                                                              \
        FN_product_##name, FN_product_gated_##name, rows, outs, CU_TILE_BYTES(outs), rate          \
    }

static const struct shape shapes[2][SHAPE_COUNT] = {
    /* bf16 */
    {{FN_product_bf16_groups, FN_product_gated_bf16_groups, 128, 256, CU_GROUP_BYTES, 1.5},
     SHAPE(bf16_256, 128, 256, 1),
     SHAPE(bf16_128, 128, 128, 0.95),
     SHAPE(bf16_128, 64, 128, 0.75),
     SHAPE(bf16_128, 32, 128, 0.5),
     SHAPE(bf16_any, 32, 128, 0)},
    /* f16; a width of 256 is not worth its time to compile */
    {SHAPE(f16_128, 128, 128, 0.95), SHAPE(f16_128, 128, 128, 0.95), SHAPE(f16_128, 128, 128, 0.95),
     SHAPE(f16_128, 64, 128, 0.75), SHAPE(f16_128, 32, 128, 0.5), SHAPE(f16_any, 32, 128, 0)},
};

static const struct shape *shapes_of(enum dtype dtype)
{
    return shapes[dtype == DTYPE_F16];
}

/* The shape that is through first: waves of blocks over the processors, by their measured rates. */
static const struct shape *shape_for(const struct dev_cuda *d, enum dtype dtype, size_t rows,
                                     size_t outs)
{
    const struct cuda_tensor *t = d->tensor;
    const struct shape *of = shapes_of(dtype), *best = NULL;
    double least = 0;
    for (int i = t->groups ? SHAPE_GROUPS : SHAPE_256; i <= SHAPE_128_32; i++) {
        const struct shape *s = &of[i];
        if (s->shared_bytes > t->shared_bytes)
            continue;
        size_t at_once = (size_t)d->processors * (256 / (size_t)s->outs);
        size_t blocks = cuda_blocks(rows, (size_t)s->rows) * cuda_blocks(outs, (size_t)s->outs);
        double time =
            (double)cuda_blocks(blocks, at_once) * s->rows * s->outs * (256.0 / s->outs) / s->rate;
        if (!best || time < least) {
            best = s;
            least = time;
        }
    }
    return best;
}

static int run_products(struct dev_cuda *d, const struct shape *s, bool gated, size_t tiles,
                        struct cu_product *args)
{
    size_t each = gated ? (size_t)s->outs / 2 : (size_t)s->outs;
    size_t out_tiles = cuda_blocks((size_t)args->out, each);
    args->out_tiles = (int32_t)out_tiles;
    args->rows = s->rows;
    return launch(d, gated ? s->gated : s->plain, tiles * out_tiles, 1, (unsigned)s->outs,
                  s->shared_bytes, args);
}

/* Offsets within the rows and the weights of a tile are of 32 bits. */
static bool fits(uint64_t x_rows, uint64_t x_stride, bool wide)
{
    return x_rows * x_stride / (wide ? 8 : 1) <= UINT32_MAX;
}

static int tensor_linear(struct dev *dev, const struct kern_tensor_linear *a)
{
    struct dev_cuda *d = cuda_of(dev);
    bool wide = a->in % 8 == 0 && a->x_stride % 8 == 0 && cuda_aligned(a->w) && cuda_aligned(a->x);
    const struct shape *s = wide ? shape_for(d, a->dtype, (size_t)a->n, (size_t)a->out)
                                 : &shapes_of(a->dtype)[SHAPE_NARROW];
    int rc = cuda_enter(d);
    if (rc < 0)
        return rc;
    if (!fits((uint64_t)a->n, a->x_stride, wide))
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "a product of so many rows");
    struct cu_product args = {.w = a->w,
                              .x = a->x,
                              .y = a->y,
                              .residual = a->residual,
                              .bias = a->bias,
                              .x_stride = (int64_t)a->x_stride,
                              .y_stride = (int64_t)a->y_stride,
                              .in = a->in,
                              .out = a->out,
                              .n = a->n,
                              .bias_dtype = (int32_t)a->bias_dtype};
    return run_products(d, s, false, cuda_blocks((size_t)a->n, (size_t)s->rows), &args);
}

/* The call's groups as tiles, then rows, then pairs, all in one list on the device. */
static int list_experts(struct dev_cuda *d, const struct kern_tensor_experts *a, int rows,
                        size_t *tiles, struct cu_product *up, struct cu_product *down)
{
    size_t n = 0, entries = 0, at = 0;
    struct list *l;
    for (int g = 0; g < a->n_groups; g++) {
        n += cuda_blocks((size_t)a->group[g].n, (size_t)rows);
        entries += (size_t)a->group[g].n;
    }
    size_t row_off = n * sizeof(struct cu_tile), pair_off = row_off + entries * sizeof(int32_t);
    size_t bytes = pair_off + entries * sizeof(int32_t);
    *tiles = n;
    if (n == 0)
        return 0;
    int rc = take_list(d, bytes, &l);
    if (rc < 0)
        return rc;
    struct cu_tile *tile = (struct cu_tile *)l->host;
    for (int g = 0; g < a->n_groups; g++) {
        const struct kern_expert_group *group = &a->group[g];
        if (group->n == 0)
            continue;
        size_t group_bytes = (size_t)group->n * sizeof(int32_t);
        for (int first = 0; first < group->n; first += rows)
            *tile++ = (struct cu_tile){group->record, (int32_t)at + first,
                                       group->n - first < rows ? group->n - first : rows};
        memcpy(l->host + row_off + at * sizeof(int32_t), group->row, group_bytes);
        memcpy(l->host + pair_off + at * sizeof(int32_t), group->pair, group_bytes);
        at += (size_t)group->n;
    }
    const uint8_t *device = (const uint8_t *)(uintptr_t)l->device;
    up->tile = down->tile = (const struct cu_tile *)device;
    up->x_row = (const int32_t *)(device + row_off);
    down->y_row = (const int32_t *)(device + pair_off);
    return send_list(d, l, bytes);
}

static bool experts_wide(const struct kern_tensor_experts *a)
{
    const struct record_class *c = a->cls;
    bool wide = c->hidden % 8 == 0 && c->intermediate % 8 == 0 && cuda_aligned(a->x) &&
                cuda_aligned(a->hidden) && (c->gate_off | c->up_off | c->down_off) % 16 == 0;
    for (int g = 0; g < a->n_groups; g++)
        wide = wide && (a->group[g].n == 0 || cuda_aligned(a->group[g].record));
    return wide;
}

static int plain_experts(struct dev_cuda *d, const struct kern_tensor_experts *a)
{
    const struct record_class *c = a->cls;
    bool wide = experts_wide(a);
    size_t pairs = 0, most_row = 0, tiles = 0;
    int rc;
    for (int g = 0; g < a->n_groups; g++) {
        pairs += (size_t)a->group[g].n;
        for (int i = 0; i < a->group[g].n; i++)
            if ((size_t)a->group[g].row[i] > most_row)
                most_row = (size_t)a->group[g].row[i];
    }
    if (c->dtype == DTYPE_F32 || c->bytes > UINT32_MAX || c->up_off < c->gate_off ||
        !fits(most_row + 1, (uint64_t)c->hidden, wide) ||
        !fits(pairs, (uint64_t)c->intermediate, wide))
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "experts of this size");
    const struct shape *up_shape = &shapes_of(c->dtype)[wide ? SHAPE_128 : SHAPE_NARROW];
    const struct shape *down_shape = up_shape;
    if (wide) {
        up_shape = shape_for(d, c->dtype, pairs, 2 * (size_t)c->intermediate);
        down_shape = shape_for(d, c->dtype, pairs, (size_t)c->hidden);
    }
    struct cu_product up = {.x = a->x,
                            .y = a->hidden,
                            .x_stride = c->hidden,
                            .y_stride = c->intermediate,
                            .w_off = (int64_t)c->gate_off,
                            .up_off = (int64_t)(c->up_off - c->gate_off),
                            .in = c->hidden,
                            .out = c->intermediate};
    struct cu_product down = {.x = a->hidden,
                              .y = a->y,
                              .x_stride = c->intermediate,
                              .y_stride = c->hidden,
                              .w_off = (int64_t)c->down_off,
                              .in = c->intermediate,
                              .out = c->hidden};
    int rows = wide ? CU_TILE_ROWS : up_shape->rows;
    if ((rc = list_experts(d, a, rows, &tiles, &up, &down)) < 0 ||
        (rc = run_products(d, up_shape, true, tiles, &up)) < 0)
        return rc;
    return run_products(d, down_shape, false, tiles, &down);
}

/* Unpacks, from group *next on, as many experts as there is room for, and makes a call of them that
 * plain_experts takes. */
static int unpack_some(struct dev_cuda *d, const struct kern_tensor_experts *a, int *next,
                       struct kern_expert_group *group, struct kern_tensor_experts *out)
{
    const struct record_class *c = a->cls;
    size_t each = kern_unpacked_bytes(c->hidden, c->intermediate), room = a->unpacked_bytes / each;
    struct cu_unpack args = {.to = a->unpacked,
                             .to_bytes = (int64_t)each,
                             .gate_off = (int64_t)c->gate_off,
                             .up_off = (int64_t)c->up_off,
                             .down_off = (int64_t)c->down_off,
                             .in_row_bytes = (int64_t)c->in_row_bytes,
                             .down_row_bytes = (int64_t)c->down_row_bytes,
                             .width = c->hidden,
                             .inner = c->intermediate};
    size_t n = 0;
    for (; *next < a->n_groups && n < room && n < CU_UNPACK_RECORDS; ++*next) {
        if (a->group[*next].n == 0)
            continue;
        group[n] = a->group[*next];
        args.record[n] = group[n].record;
        group[n].record = (uint8_t *)a->unpacked + n * each;
        n++;
    }
    out->group = group;
    out->n_groups = (int)n;
    return launch(d, FN_unpack, n,
                  cuda_blocks(2 * (size_t)c->intermediate + (size_t)c->hidden, CU_WARPS),
                  CU_THREADS, 0, &args);
}

static int packed_experts(struct dev_cuda *d, const struct kern_tensor_experts *a)
{
    struct kern_expert_group group[CU_UNPACK_RECORDS];
    struct record_class plain = *a->cls;
    struct kern_tensor_experts some = *a;
    size_t matrix = (size_t)plain.hidden * (size_t)plain.intermediate * sizeof(uint16_t);
    plain.packed = false;
    plain.gate_off = 0;
    plain.up_off = matrix;
    plain.down_off = 2 * matrix;
    plain.bytes = 3 * matrix;
    some.cls = &plain;
    if (!experts_wide(a) || !cuda_aligned(a->unpacked) || a->unpacked_bytes < plain.bytes)
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "packed experts without room to unpack");
    for (int next = 0; next < a->n_groups;) {
        int rc = unpack_some(d, a, &next, group, &some);
        if (rc < 0 || (rc = plain_experts(d, &some)) < 0)
            return rc;
        for (int g = 0; g < some.n_groups; g++)
            some.hidden = (uint16_t *)some.hidden + (size_t)group[g].n * (size_t)plain.intermediate;
    }
    return 0;
}

static int tensor_experts(struct dev *dev, const struct kern_tensor_experts *a)
{
    struct dev_cuda *d = cuda_of(dev);
    int rc = cuda_enter(d);
    if (rc < 0)
        return rc;
    return a->cls->packed ? packed_experts(d, a) : plain_experts(d, a);
}

/* Rows of a sequence that follow one another, in pieces of at most `most`. */
static size_t cut_rows(const struct kern_tensor_attention *a, int most, struct cu_flash_tile *out)
{
    size_t n = 0;
    for (int i = 0; i < a->n; i++) {
        if (i > 0 && out[n - 1].count < most && a->seq[i] == a->seq[i - 1] &&
            a->pos[i] == a->pos[i - 1] + 1)
            out[n - 1].count++;
        else
            out[n++] = (struct cu_flash_tile){i, 1, a->pos[i], a->seq[i]};
    }
    return n;
}

/* The longest contexts first: what ends last should begin first. */
static int by_context(const void *a, const void *b)
{
    const struct cu_flash_tile *x = a, *y = b;
    int dx = x->pos + x->count, dy = y->pos + y->count;
    return dx != dy ? (dx < dy) - (dx > dy) : (x->row > y->row) - (x->row < y->row);
}

/* The tiles of an attention and its block tables [sequences][stride], on the device. */
static int list_attention(struct dev_cuda *d, const struct kern_tensor_attention *a,
                          struct cu_flash *args, size_t *tiles)
{
    struct grown *g = &d->tensor->tiles;
    size_t each = 1, seqs = 0, n = (size_t)a->n;
    for (size_t i = 0; i < n; i++) {
        size_t blocks = (size_t)a->pos[i] / KV_BLOCK_TOKENS + 1;
        each = blocks > each ? blocks : each;
        seqs = (size_t)a->seq[i] + 1 > seqs ? (size_t)a->seq[i] + 1 : seqs;
    }
    size_t table_bytes = seqs * each * sizeof(int32_t);
    int rc = cuda_grow(d, g, n * sizeof(struct cu_flash_tile) + table_bytes);
    if (rc < 0)
        return rc;
    struct cu_flash_tile *tile = g->p;
    size_t count = cut_rows(a, CU_FLASH_ROWS / (a->heads / a->kv.kv_heads), tile);
    qsort(tile, count, sizeof *tile, by_context);
    int32_t *table = (int32_t *)(tile + count);
    memset(table, 0, table_bytes);
    for (size_t i = count; i-- > 0;)
        memcpy(table + (size_t)tile[i].seq * each, a->block_table[tile[i].seq],
               ((size_t)(tile[i].pos + tile[i].count - 1) / KV_BLOCK_TOKENS + 1) * sizeof *table);
    CUdeviceptr device = 0;
    size_t tile_bytes = count * sizeof *tile;
    rc = cuda_mirror(d, MIRROR_TILES, g->p, tile_bytes + table_bytes, &device);
    args->tile = (const struct cu_flash_tile *)(uintptr_t)device;
    args->table = (const int32_t *)(uintptr_t)(device + tile_bytes);
    args->table_stride = (int64_t)each;
    *tiles = count;
    return rc;
}

static int tensor_attention(struct dev *dev, const struct kern_tensor_attention *a)
{
    struct dev_cuda *d = cuda_of(dev);
    size_t tiles = 0;
    if (!kern_tensor_attention_takes(&a->kv, a->heads) || !cuda_aligned(a->kv.blocks) ||
        a->kv.block_bytes % 16 || !cuda_aligned(a->q) || a->q_stride % 4 || a->out_stride % 2 ||
        (uintptr_t)a->out % (2 * dtype_bytes(a->out_dtype)))
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "attention of such heads");
    struct cu_flash args = {.kv = {a->kv.blocks, (int64_t)a->kv.block_bytes, (int32_t)a->kv.dtype,
                                   a->kv.kv_heads, a->kv.head_dim},
                            .q = a->q,
                            .out = a->out,
                            .q_stride = (int64_t)a->q_stride,
                            .out_stride = (int64_t)a->out_stride,
                            .heads = a->heads,
                            .window = a->window,
                            .out_dtype = (int32_t)a->out_dtype,
                            .scale_log2 = a->scale * 1.44269504f};
    int rc;
    if ((rc = cuda_enter(d)) < 0 || (rc = list_attention(d, a, &args, &tiles)) < 0)
        return rc;
    size_t kv_heads = (size_t)a->kv.kv_heads;
    if (a->kv.head_dim == 128 && d->tensor->groups)
        return launch(d, FN_flash_128_groups, tiles, kv_heads, CU_FLASH_GROUP_THREADS,
                      CU_FLASH_GROUP_BYTES(128), &args);
    return launch(d, a->kv.head_dim == 64 ? FN_flash_64 : FN_flash_128, tiles, kv_heads,
                  CU_FLASH_THREADS, (size_t)CU_FLASH_BYTES(a->kv.head_dim), &args);
}

const struct dev_tensor cuda_tensor_ops = {
    .round = tensor_round,
    .linear = tensor_linear,
    .experts = tensor_experts,
    .attention = tensor_attention,
};

/* Kernels that take more shared memory than any may without asking. */
static CUresult ask_for_shared(struct dev_cuda *d)
{
    CUfunction_attribute attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    CUresult r = CUDA_SUCCESS;
    for (int i = 0; i < 2 * SHAPE_COUNT && r == CUDA_SUCCESS; i++) {
        const struct shape *s = &shapes[i / SHAPE_COUNT][i % SHAPE_COUNT];
        if (s->shared_bytes > d->tensor->shared_bytes)
            continue;
        r = cuFuncSetAttribute(d->function[s->plain], attribute, (int)s->shared_bytes);
        if (r == CUDA_SUCCESS)
            r = cuFuncSetAttribute(d->function[s->gated], attribute, (int)s->shared_bytes);
    }
    if (r == CUDA_SUCCESS)
        r = cuFuncSetAttribute(d->function[FN_flash_128], attribute, CU_FLASH_BYTES(128));
    if (r == CUDA_SUCCESS && d->tensor->groups)
        r = cuFuncSetAttribute(d->function[FN_flash_128_groups], attribute,
                               CU_FLASH_GROUP_BYTES(128));
    return r;
}

/* Whether the kernels of warpgroups are code, not the empty bodies of other architectures: those
 * come from no PTX but that of compute capability 9.0 itself. */
static CUresult look_for_groups(struct dev_cuda *d)
{
    CUfunction f = d->function[FN_product_bf16_groups];
    int ptx = 0, binary = 0;
    CUresult r = cuFuncGetAttribute(&ptx, CU_FUNC_ATTRIBUTE_PTX_VERSION, f);
    if (r == CUDA_SUCCESS)
        r = cuFuncGetAttribute(&binary, CU_FUNC_ATTRIBUTE_BINARY_VERSION, f);
    d->tensor->groups = ptx == 90 && binary == 90;
    return r;
}

int cuda_tensor_open(struct dev_cuda *d, struct moed_error *err)
{
    struct cuda_tensor *t = calloc(1, sizeof *t);
    int shared_bytes = 0;
    if (!t)
        return moed_fail(err, MOED_ENOMEM, "no memory for a device");
    d->tensor = t;
    CUresult r = cuDeviceGetAttribute(
        &shared_bytes, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, d->device);
    t->shared_bytes = (size_t)shared_bytes;
    if (r == CUDA_SUCCESS)
        r = look_for_groups(d);
    if (t->shared_bytes < (size_t)CU_TILE_BYTES(128))
        d->dev.tensor = NULL;
    else if (r == CUDA_SUCCESS)
        r = ask_for_shared(d);
    for (int i = 0; i < LISTS && r == CUDA_SUCCESS; i++)
        r = cuEventCreate(&t->list[i].sent, CU_EVENT_DISABLE_TIMING);
    return r == CUDA_SUCCESS ? 0
                             : moed_fail(err, MOED_EUNSUPPORTED,
                                         "cannot set up the tensor kernels: %s", cuda_words(r));
}

void cuda_tensor_close(struct dev_cuda *d)
{
    struct cuda_tensor *t = d->tensor;
    if (!t)
        return;
    for (int i = 0; i < LISTS; i++) {
        struct list *l = &t->list[i];
        if (l->sent)
            cuEventDestroy(l->sent);
        if (l->host)
            cuMemFreeHost(l->host);
        if (l->device)
            cuMemFree(l->device);
    }
    free(t->tiles.p);
    free(t);
    d->tensor = NULL;
}
