/*
 * Attention, as a template over the vectors of vec_<isa>.h; the order of additions is that of
 * kernels/README.md. HEAD_BLOCK heads of a group share each load of K and V; all heads and several
 * rows of a sequence go through a chunk before the next one is read.
 */
#include <float.h>

#define TOKEN_BLOCK 4                /* tokens whose scores are computed together */
#define DIM_BLOCK   8                /* vectors of V taken together, at most */
#define SUM_BLOCK   (4 * HEAD_BLOCK) /* sums that they add to at a time */
#define SEATS       32

/* Scores of TOKEN_BLOCK tokens, K rows `dim` elements apart, for `heads` heads: score[h][t]. */
INLINE void scores_of(const enum dtype dtype, const size_t heads, const void *k, const float *q,
                      size_t dim, float *score, size_t score_stride)
{
    enum { SUMS = (TOKEN_BLOCK * HEAD_BLOCK + 7) / 8 };
    vf sums[SUMS];
#pragma GCC unroll 2
    for (size_t s = 0; s < SUMS; s++)
        sums[s] = v_zero();
    /* Partial sum j mod 16: one vector of 16 lanes, or one of 8 after the other. */
    for (size_t half = 0; half < 16; half += VL) {
        vf acc[SUMS * 8], kv[TOKEN_BLOCK];
#pragma GCC unroll 16
        for (size_t a = 0; a < SUMS * 8; a++)
            acc[a] = v_zero();
        for (size_t j = half; j < dim; j += 16) {
            size_t left = dim - j;
#pragma GCC unroll 4
            for (size_t t = 0; t < TOKEN_BLOCK; t++)
                kv[t] = left >= VL ? load_w(dtype, k, t * dim + j)
                                   : load_w_part(dtype, k, t * dim + j, left);
#pragma GCC unroll 4
            for (size_t h = 0; h < heads; h++) {
                const float *qh = q + h * dim + j;
                vf qv = left >= VL ? v_load(qh) : v_load_part(qh, left, -0.0f);
#pragma GCC unroll 4
                for (size_t t = 0; t < TOKEN_BLOCK; t++)
                    acc[h * TOKEN_BLOCK + t] = v_fma(kv[t], qv, acc[h * TOKEN_BLOCK + t]);
            }
        }
#pragma GCC unroll 2
        for (size_t s = 0; s < SUMS; s++)
            sums[s] = half ? v_add(sums[s], v_sum8(acc + 8 * s)) : v_sum8(acc + 8 * s);
    }
    float out[SUMS * 8];
    for (size_t s = 0; s < SUMS; s++)
        v_sum8_end(sums[s], out + 8 * s);
    for (size_t h = 0; h < heads; h++)
        memcpy(score + h * score_stride, out + h * TOKEN_BLOCK, TOKEN_BLOCK * sizeof(float));
}

/* A head of a row on its way through the chunks; its scratch is kern_attention_head_floats. */
struct seat {
    size_t row, head;
    int first, pos;
    struct attention_tree tree;
};

/* What a step through one chunk works on: `heads` seats from `seat` on, of one row and kv head. */
struct step {
    const struct kern_attention *a;
    const int32_t *blocks;
    int kv_head, chunk, last;
    struct span seen; /* positions */
    struct seat *seat;
    float *score; /* of the first seat; the others' lie head_floats apart */
    size_t head_floats;
};

INLINE float *chunk_node(const struct step *s, size_t seat)
{
    return attention_chunk_node(&s->seat[seat].tree, s->chunk, s->last);
}

/* n vectors of the seats' sums from element d on: V rows weighed by their scores. part: lanes of
 * the last vector where it is not a whole one. */
INLINE void weigh_of(const enum dtype dtype, const size_t heads, const size_t n,
                     const struct step *s, size_t d, size_t part)
{
    enum { BLOCKS = KV_CHUNK_TOKENS / KV_BLOCK_TOKENS };
    size_t dim = (size_t)s->a->kv.head_dim, base = (size_t)s->chunk * KV_CHUNK_TOKENS;
    vf acc[SUM_BLOCK], low[SUM_BLOCK], high[SUM_BLOCK], vv[DIM_BLOCK];
#pragma GCC unroll 16
    for (size_t i = 0; i < heads * n; i++)
        low[i] = high[i] = v_zero();
    for (size_t b = 0; b < BLOCKS; b++) {
        size_t t = base + b * KV_BLOCK_TOKENS, end = t + KV_BLOCK_TOKENS;
        t = t > s->seen.lo ? t : s->seen.lo;
        end = end < s->seen.hi ? end : s->seen.hi;
#pragma GCC unroll 16
        for (size_t i = 0; i < heads * n; i++)
            acc[i] = v_zero();
        const char *v = t < end ? kv_row(&s->a->kv, s->blocks, s->kv_head, (int)t, 1) : NULL;
        for (; t < end; t++, v += dim * dtype_bytes(dtype)) {
#pragma GCC unroll 8
            for (size_t i = 0; i < n; i++)
                vv[i] =
                    part ? load_w_part(dtype, v, d + i * VL, part) : load_w(dtype, v, d + i * VL);
#pragma GCC unroll 4
            for (size_t h = 0; h < heads; h++) {
                vf e = v_set1(s->score[h * s->head_floats + (t - base)]);
#pragma GCC unroll 8
                for (size_t i = 0; i < n; i++)
                    acc[h * n + i] = v_fma(e, vv[i], acc[h * n + i]);
            }
        }
#pragma GCC unroll 16
        for (size_t i = 0; i < heads * n; i++) {
            if (b == 0)
                low[i] = acc[i];
            else if (b == 1)
                low[i] = v_add(low[i], acc[i]);
            else if (b == 2)
                high[i] = acc[i];
            else
                acc[i] = v_add(low[i], v_add(high[i], acc[i]));
        }
    }
#pragma GCC unroll 4
    for (size_t h = 0; h < heads; h++)
#pragma GCC unroll 8
        for (size_t i = 0; i < n; i++) {
            float *to = chunk_node(s, h) + KV_NODE_HEAD + d + i * VL;
            if (part)
                v_store_part(to, part, acc[h * n + i]);
            else
                v_store(to, acc[h * n + i]);
        }
}

/* Scores of a chunk to weights in place, their largest and their sum to the node. What lies outside
 * lo..hi-1 of the chunk becomes weight 0. */
static void soften(float *score, size_t lo, size_t hi, float scale, float *node)
{
    size_t from = lo / 16 * 16, to = (hi + 15) / 16 * 16;
    vf factor = v_set1(scale), max = v_set1(-FLT_MAX);
    for (size_t i = from; i < to; i += VL)
        v_store(score + i, v_mul(v_load(score + i), factor));
    for (size_t i = from; i < lo; i++)
        score[i] = -INFINITY;
    for (size_t i = hi; i < to; i++)
        score[i] = -INFINITY;
    for (size_t i = from; i < to; i += VL)
        max = v_max(v_load(score + i), max);
    float most = v_max_of(max);
    vf sum[16 / VL];
    for (size_t i = 0; i < 16 / VL; i++)
        sum[i] = v_zero();
    max = v_set1(most);
    for (size_t i = from; i < to; i += 16)
        for (size_t j = 0; j < 16 / VL; j++) {
            vf e = v_exp(v_sub(v_load(score + i + j * VL), max));
            v_store(score + i + j * VL, e);
            sum[j] = v_add(sum[j], e);
        }
    node[NODE_MAX] = most;
    node[NODE_SUM] = v_sum16(sum);
}

static void join(const float *other, const float *leader, float *to, size_t dim)
{
    float max = leader[NODE_MAX];
    vf factor = v_exp(v_set1(other[NODE_MAX] - max));
    v_store(to, v_fma(factor, v_load(other), v_load(leader)));
    to[NODE_MAX] = max;
    for (size_t d = KV_NODE_HEAD; d < KV_NODE_HEAD + dim; d += VL)
        v_store(to + d, v_fma(factor, v_load(other + d), v_load(leader + d)));
}

/* Scores of the chunk, and sums over it, for `heads` seats (at most HEAD_BLOCK). */
INLINE void score_chunk(const enum dtype dtype, const size_t heads, const struct step *s)
{
    const struct kern_attention *a = s->a;
    size_t dim = (size_t)a->kv.head_dim, base = (size_t)s->chunk * KV_CHUNK_TOKENS;
    const float *q = a->q + s->seat->row * a->q_stride + s->seat->head * dim;
    for (size_t t = s->seen.lo / TOKEN_BLOCK * TOKEN_BLOCK; t < s->seen.hi; t += TOKEN_BLOCK)
        scores_of(dtype, heads, kv_row(&a->kv, s->blocks, s->kv_head, (int)t, 0), q, dim,
                  s->score + (t - base), s->head_floats);
}

INLINE void weigh_chunk(const enum dtype dtype, const size_t heads, const struct step *s)
{
    const size_t n = SUM_BLOCK / heads < DIM_BLOCK ? SUM_BLOCK / heads : DIM_BLOCK;
    size_t dim = (size_t)s->a->kv.head_dim, whole = dim / VL * VL, d = 0;
    for (; d + n * VL <= whole; d += n * VL)
        weigh_of(dtype, heads, n, s, d, 0);
    for (; d < whole; d += VL)
        weigh_of(dtype, heads, 1, s, d, 0);
    if (d < dim)
        weigh_of(dtype, heads, 1, s, d, dim - d);
}

#define PASS(name, dtype, heads)                                                                   \
    static void name(const struct step *s)                                                         \
    {                                                                                              \
        size_t base = (size_t)s->chunk * KV_CHUNK_TOKENS;                                          \
        score_chunk(dtype, heads, s);                                                              \
        for (size_t i = 0; i < heads; i++)                                                         \
            soften(s->score + i * s->head_floats, s->seen.lo - base, s->seen.hi - base,            \
                   s->a->scale, chunk_node(s, i));                                                 \
        weigh_chunk(dtype, heads, s);                                                              \
    }

PASS(pass_bf16_1, DTYPE_BF16, 1)
PASS(pass_bf16_2, DTYPE_BF16, 2)
PASS(pass_f32_1, DTYPE_F32, 1)
PASS(pass_f32_2, DTYPE_F32, 2)
#if HEAD_BLOCK == 4
PASS(pass_bf16_4, DTYPE_BF16, 4)
PASS(pass_f32_4, DTYPE_F32, 4)
#define PASSES(dtype)                                                                              \
    {                                                                                              \
        pass_##dtype##_1, pass_##dtype##_2, pass_##dtype##_4                                       \
    }
#else
#define PASSES(dtype)                                                                              \
    {                                                                                              \
        pass_##dtype##_1, pass_##dtype##_2                                                         \
    }
#endif

/* One row's seats through one chunk. */
static void pass_chunk(struct step s, size_t n_seats)
{
    /* By KV dtype (bf16 or not) and the logarithm of heads. */
    static void (*const passes[2][3])(const struct step *) = {PASSES(f32), PASSES(bf16)};
    for (size_t log; n_seats > 0; n_seats -= (size_t)1 << log) {
        log = n_seats >= HEAD_BLOCK ? HEAD_BLOCK / 2 : n_seats >= 2;
        passes[s.a->kv.dtype == DTYPE_BF16][log](&s);
        for (size_t i = 0; i < (size_t)1 << log; i++)
            attention_tree_add(&s.seat[i].tree, s.chunk, s.last, join);
        s.seat += (size_t)1 << log;
        s.score += s.head_floats << log;
    }
}

/* Heads head..head+heads-1 (of one kv head) of rows row..row+rows-1 (of one sequence); scratch has
 * room for all. */
static void attend(const struct kern_attention *a, size_t row, size_t rows, size_t head,
                   size_t heads, float *scratch)
{
    size_t dim = (size_t)a->kv.head_dim, wide = (dim + 15) / 16 * 16;
    size_t head_floats = kern_attention_head_floats(a->kv.head_dim);
    struct seat seat[SEATS];
    int lo = INT32_MAX, hi = 0;
    for (size_t i = 0; i < rows * heads; i++) {
        float *node = scratch + i * head_floats + KV_CHUNK_TOKENS + 4 * wide;
        int pos = a->pos[row + i / heads], first = attention_first(a, pos);
        seat[i] = (struct seat){row + i / heads, head + i % heads, first, pos, {node, wide, 0}};
        lo = first < lo ? first : lo;
        hi = pos > hi ? pos : hi;
    }
    for (int c = lo / KV_CHUNK_TOKENS; c <= hi / KV_CHUNK_TOKENS; c++)
        for (size_t r = 0; r < rows; r++) {
            struct seat *of = seat + r * heads;
            struct step s = {.a = a,
                             .blocks = a->block_table[a->seq[row]],
                             .kv_head = (int)head / (a->heads / a->kv.kv_heads),
                             .chunk = c,
                             .last = c == of->pos / KV_CHUNK_TOKENS,
                             .seen = attention_chunk(c, of->first, of->pos),
                             .seat = of,
                             .score = scratch + r * heads * head_floats,
                             .head_floats = head_floats};
            if (of->first / KV_CHUNK_TOKENS <= c && c <= of->pos / KV_CHUNK_TOKENS)
                pass_chunk(s, heads);
        }
    for (size_t i = 0; i < rows * heads; i++) {
        const float *node = seat[i].tree.node;
        float *out = a->out + seat[i].row * a->out_stride + seat[i].head * dim;
        vf sum = v_set1(node[NODE_SUM]);
        size_t d = 0;
        for (; d + VL <= dim; d += VL)
            v_store(out + d, v_div(v_load(node + KV_NODE_HEAD + d), sum));
        if (d < dim)
            v_store_part(out + d, dim - d,
                         v_div(v_load_part(node + KV_NODE_HEAD + d, dim - d, 0), sum));
    }
}

/* Rows from `row` on, at most `most`, that are of one sequence. */
static size_t rows_alike(const struct kern_attention *a, size_t row, size_t most)
{
    size_t rows = 1;
    while (rows < most && a->seq[row + rows] == a->seq[row])
        rows++;
    return rows;
}

static void attention(const struct kern_attention *a, struct kern_part part)
{
    size_t group = (size_t)(a->heads / a->kv.kv_heads), n = (size_t)a->n,
           pairs = n * (size_t)a->kv.kv_heads;
    /* Few rows: heads of a group go apart so that all parts have work. */
    size_t pieces = 1;
    while (pairs * pieces < (size_t)part.count && group / pieces > 1)
        pieces *= 2;
    struct span units = part_span(pairs * pieces, 1, part);
    size_t seats = part.scratch_bytes / kern_attention_scratch_bytes(a->kv.head_dim, 1);
    seats = seats > SEATS ? SEATS : seats;
    for (size_t u = units.lo, rows; u < units.hi; u += rows) {
        size_t pair = u / pieces, piece = u % pieces, row = pair % n;
        size_t head = pair / n * group, end = head + group * (piece + 1) / pieces;
        head += group * piece / pieces;
        size_t heads = end - head, most = seats / heads;
        most = pieces > 1 || most < 1 ? 1 : most;
        most = most < units.hi - u ? most : units.hi - u;
        rows = rows_alike(a, row, most < n - row ? most : n - row);
        for (; head < end; head += heads) {
            heads = end - head < seats ? end - head : seats;
            attend(a, row, rows, head, heads, part.scratch);
        }
    }
}
