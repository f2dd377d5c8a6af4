/* Attention: which kernel, how a launch cuts contexts into pieces, the layout of shared memory. */
#include <string.h>

#include "cuda_int.h"

/* Blocks of a launch that cut contexts between them, for each multiprocessor. More make small
 * contexts and batches faster, and the join of the pieces slower. */
#define BLOCKS_PER_SM 8
#define MIN_BLOCKS    256
#define FEW_BLOCKS    16
#define FEW_CONTEXT   4096
#define MAX_SPLITS    64 /* pieces of one context */
/* Floats of a piece: eight heads of 256. Wider ones make do with fewer pieces. */
#define NODE_FLOATS 2064
#define FAST_HEADS  8 /* of a block at most */

int cuda_attention_open(struct dev_cuda *d, struct moed_error *err)
{
    static const enum function functions[] = {
        FN_attention_bf16_1,   FN_attention_bf16_2, FN_attention_bf16_4,  FN_attention_bf16_8,
        FN_attention_bf16_any, FN_attention_f32_4,  FN_attention_f32_any,
    };
    struct attention_memory *m = &d->attention;
    const int blocks = d->processors * BLOCKS_PER_SM;
    CUresult r = CUDA_SUCCESS;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0] && r == CUDA_SUCCESS; i++)
        r = cuFuncSetAttribute(d->function[functions[i]],
                               CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                               d->max_shared_bytes);
    if (r != CUDA_SUCCESS)
        return moed_fail(err, MOED_EUNSUPPORTED, "cannot set up attention: %s", cuda_words(r));
    m->blocks = blocks > MIN_BLOCKS ? blocks : MIN_BLOCKS;
    m->node_bytes = (size_t)m->blocks * NODE_FLOATS * sizeof(float);
    m->node = (CUdeviceptr)(uintptr_t)cuda_alloc(&d->dev, m->node_bytes);
    m->ended = (CUdeviceptr)(uintptr_t)cuda_alloc(&d->dev, (size_t)m->blocks * sizeof(uint32_t));
    return m->node && m->ended
               ? 0
               : moed_fail(err, MOED_ENOMEM, "no memory for attention on the CUDA device");
}

void cuda_attention_close(struct dev_cuda *d)
{
    if (d->attention.node)
        cuMemFree(d->attention.node);
    if (d->attention.ended)
        cuMemFree(d->attention.ended);
}

/* The block tables of the call's sequences as one array [sequences][stride]. */
static int flat_tables(struct dev_cuda *d, const struct kern_attention *a, const void **out,
                       size_t *stride)
{
    if (a->table_stride) {
        *stride = a->table_stride;
        return cuda_plan_array(d, MIRROR_TABLE, a->block_table[0], 0, out);
    }
    size_t each = cuda_blocks((size_t)a->max_context, KV_BLOCK_TOKENS), seqs = 0;
    for (int i = 0; i < a->n; i++)
        seqs = (size_t)a->seq[i] + 1 > seqs ? (size_t)a->seq[i] + 1 : seqs;
    size_t bytes = seqs * each * sizeof(int32_t);
    int rc = cuda_grow(d, &d->table, bytes);
    if (rc < 0)
        return rc;
    memset(d->table.p, 0, bytes);
    for (int i = 0; i < a->n; i++) {
        bool last = i + 1 == a->n || a->seq[i + 1] != a->seq[i] || a->pos[i + 1] < a->pos[i];
        if (last)
            memcpy((int32_t *)d->table.p + (size_t)a->seq[i] * each, a->block_table[a->seq[i]],
                   ((size_t)a->pos[i] / KV_BLOCK_TOKENS + 1) * sizeof(int32_t));
    }
    *stride = each;
    return cuda_plan_array(d, MIRROR_TABLE, d->table.p, bytes, out);
}

static int ceil_log2(int n)
{
    int log = 0;
    while (1 << log < n)
        log++;
    return log;
}

/* How a launch is cut. `heads` per block: 0 for the kernels that take any shape. */
struct shape {
    int blocks; /* of the launch, at most */
    int heads, splits;
    int wait, join; /* nodes that may wait within a piece, and while pieces are joined */
    size_t shared_floats;
};

static int take(size_t *at, size_t floats)
{
    size_t from = *at;
    *at += (floats + 3) / 4 * 4;
    return (int)from;
}

/* Where things lie in shared memory; the pieces' join uses what K, V and their parts have left. */
static void lay_out(struct cu_attention *args, struct shape *s, size_t elem_bytes)
{
    size_t dim = (size_t)args->kv.head_dim, at = 0, row_bytes = dim * elem_bytes;
    size_t heads = s->heads ? (size_t)s->heads : 1, depth = (size_t)s->wait;
    size_t items = s->heads ? heads * dim / 8 : CU_ATTENTION_SLICE, width = s->heads ? 8 : 1;
    /* Kernels that know the width of a head may take smaller items, a thread each. */
    size_t sums = 2 * (items > CU_ATTENTION_THREADS ? items : CU_ATTENTION_THREADS);
    if (s->heads) {
        /* Rows 32 bytes beyond a multiple of 64: 4 of them meet no bank twice. */
        args->k_stride = (int32_t)((row_bytes + 31) / 64 * 64 + 32);
        args->k = take(&at, KV_CHUNK_TOKENS * (size_t)args->k_stride / sizeof(float));
        args->v = take(&at, KV_CHUNK_TOKENS * row_bytes / sizeof(float));
        args->part = take(&at, 4 * heads * dim);
        args->join_sums = (int32_t)((size_t)s->join * items * width);
        size_t join = (size_t)s->join * (items * width + sums);
        at = at > join ? at : join;
    } else if (s->join > s->wait) {
        depth = (size_t)s->join;
    }
    args->q_at = take(&at, heads * dim);
    args->score = take(&at, heads * KV_CHUNK_TOKENS);
    args->weight = take(&at, heads * KV_CHUNK_TOKENS);
    args->head_sums = take(&at, heads * 2);
    args->wait = take(&at, depth * items * width);
    args->wait_sums = take(&at, depth * sums);
    args->node_floats = (int32_t)((items * width + heads * 2 + 3) / 4 * 4);
    args->team_floats = (int32_t)at;
    s->shared_floats = at;
}

/* How many pieces a context is cut into at most, and how deep the trees get. */
static void cut(const struct dev_cuda *d, const struct kern_attention *a, struct cu_attention *args,
                struct shape *s, size_t node_floats)
{
    size_t owners = (size_t)a->n * (size_t)a->kv.kv_heads * (size_t)args->head_blocks;
    size_t room = d->attention.node_bytes / sizeof(float) / node_floats;
    size_t blocks = (size_t)s->blocks < room ? (size_t)s->blocks : room;
    bool windowed = a->window > 0 && a->window < a->max_context;
    int seen = windowed ? a->window : a->max_context;
    /* A window may begin and end within chunks, and within pieces: one more of each. */
    int chunks = (seen + KV_CHUNK_TOKENS - 1) / KV_CHUNK_TOKENS + windowed, level = 0;
    size_t splits = blocks / owners;
    splits = splits > MAX_SPLITS ? MAX_SPLITS : splits > (size_t)chunks ? (size_t)chunks : splits;
    s->splits = args->splits = splits ? (int)splits : 1;
    while (((chunks - 1) >> level) + windowed >= s->splits && 1 << level < 2 * chunks)
        level++;
    s->wait = level ? level : 1;
    s->join = ceil_log2(s->splits) + 2;
}

/* Fills the shape for so many heads per block; false when a block has no room for it. */
static bool fit(const struct dev_cuda *d, const struct kern_attention *a, struct cu_attention *args,
                struct shape *s, int heads)
{
    int group = a->heads / a->kv.kv_heads, dim = a->kv.head_dim;
    s->heads = heads;
    if (heads) {
        args->head_blocks = (group + heads - 1) / heads;
        args->block_heads = (group + args->head_blocks - 1) / args->head_blocks;
    } else {
        args->head_blocks = group * (int)cuda_blocks((size_t)dim, CU_ATTENTION_SLICE);
        args->block_heads = 1;
    }
    size_t most =
        heads ? (size_t)heads * (size_t)dim + 2 * (size_t)heads + 4 : CU_ATTENTION_SLICE + 4;
    cut(d, a, args, s, most);
    lay_out(args, s, dtype_bytes(a->kv.dtype));
    return s->shared_floats * sizeof(float) <= (size_t)d->max_shared_bytes;
}

/* Whether the kernels for whole words can take it. */
static bool wide(const struct kern_attention *a)
{
    return a->kv.head_dim % 8 == 0 && cuda_aligned(a->kv.blocks) &&
           a->kv.block_bytes % CUDA_WORDS_ALIGN == 0 && cuda_aligned(a->out) &&
           a->out_stride % 4 == 0;
}

static enum function choose(const struct dev_cuda *d, const struct kern_attention *a,
                            struct cu_attention *args, struct shape *s)
{
    bool bf16 = a->kv.dtype == DTYPE_BF16;
    int group = a->heads / a->kv.kv_heads;
    /* Few rows would leave most of the GPU idle at a short context; at a long one there are pieces
     * enough, and each group of heads reads K and V again. */
    bool few = a->n * a->kv.kv_heads < FEW_BLOCKS;
    int most = !bf16 || (few && a->max_context > FEW_CONTEXT) ? 4 : few ? 2 : FAST_HEADS;
    for (int heads = most; wide(a) && heads; heads /= 2) {
        if (bf16 && heads > 1 && heads / 2 >= group)
            continue;
        if (fit(d, a, args, s, heads))
            return !bf16        ? FN_attention_f32_4
                   : heads == 8 ? FN_attention_bf16_8
                   : heads == 4 ? FN_attention_bf16_4
                   : heads == 2 ? FN_attention_bf16_2
                                : FN_attention_bf16_1;
        if (!bf16)
            break;
    }
    fit(d, a, args, s, 0);
    return bf16 ? FN_attention_bf16_any : FN_attention_f32_any;
}

/* All but how it is cut. */
static int fill_args(struct dev_cuda *d, const struct kern_attention *a, struct cu_attention *out)
{
    const void *pos, *seq, *table;
    size_t n = (size_t)a->n, stride;
    int rc;
    if ((rc = cuda_plan_array(d, MIRROR_POS, a->pos, n * sizeof *a->pos, &pos)) < 0 ||
        (rc = cuda_plan_array(d, MIRROR_SEQ, a->seq, n * sizeof *a->seq, &seq)) < 0 ||
        (rc = flat_tables(d, a, &table, &stride)) < 0)
        return rc;
    *out = (struct cu_attention){.kv = cuda_kv_args(&a->kv),
                                 .q = a->q,
                                 .out = a->out,
                                 .q_stride = (int64_t)a->q_stride,
                                 .out_stride = (int64_t)a->out_stride,
                                 .pos = pos,
                                 .seq = seq,
                                 .table = table,
                                 .live = d->live,
                                 .table_stride = (int64_t)stride,
                                 .node = (float *)(uintptr_t)d->attention.node,
                                 .ended = (uint32_t *)(uintptr_t)d->attention.ended,
                                 .heads = a->heads,
                                 .window = a->window,
                                 .scale = a->scale};
    return 0;
}

int cuda_attention(struct dev *dev, const struct kern_attention *a)
{
    struct dev_cuda *d = cuda_of(dev);
    struct cu_attention args;
    int rc;
    if (a->kv.dtype != DTYPE_F32 && a->kv.dtype != DTYPE_BF16)
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "attention over such a KV cache");
    if ((rc = cuda_enter(d)) < 0 || a->n == 0 || (rc = fill_args(d, a, &args)) < 0)
        return rc;
    struct shape s = {.blocks = d->attention.blocks};
    enum function f = choose(d, a, &args, &s);
    size_t head_blocks = (size_t)a->kv.kv_heads * (size_t)args.head_blocks;
    return cuda_launch(d, f, (size_t)a->n, head_blocks * (size_t)args.splits, CU_ATTENTION_THREADS,
                       s.shared_floats * sizeof(float), &args);
}

bool cuda_attention_units(struct dev_cuda *d, const struct kern_attention *a, int units,
                          struct cu_attention *out, int *out_units, size_t *shared_bytes)
{
    struct shape s = {.blocks = units};
    size_t most = d->attention.node_bytes / sizeof(float);
    if (a->kv.dtype != DTYPE_BF16 || !wide(a) || fill_args(d, a, out) < 0 ||
        !fit(d, a, out, &s, CU_FUSED_HEADS))
        return false;
    *out_units = a->kv.kv_heads * out->head_blocks * s.splits;
    *shared_bytes = CU_FUSED_TEAMS * s.shared_floats * sizeof(float);
    return (size_t)*out_units * (size_t)out->node_floats <= most &&
           *out_units <= d->attention.blocks;
}
