/*
 * Attention, as a template over the vectors of vec_<isa>.h; the order of additions is that of
 * kernels/README.md. HEAD_BLOCK heads of a group share each load of K and V.
 */
#define TOKEN_BLOCK 4 /* tokens whose scores are computed together */
#define DIM_BLOCK   4 /* vectors of V taken together */

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

/* n vectors of the output from element d on, for `heads` heads: V rows of first..pos weighed by
 * their scores. part: lanes of the last vector where it is not a whole one. */
struct weigh {
    const struct kern_attention *a;
    const int32_t *blocks;
    int kv_head, first, pos;
    const float *score; /* [heads][stride], of position base on */
    size_t stride;
    int base;
    const float *sum; /* [heads] */
    float *out;       /* [heads][head_dim] */
};

INLINE void weigh_of(const enum dtype dtype, const size_t heads, const size_t n,
                     const struct weigh *w, size_t d, size_t part)
{
    size_t dim = (size_t)w->a->kv.head_dim;
    vf acc[HEAD_BLOCK * DIM_BLOCK], vv[DIM_BLOCK];
#pragma GCC unroll 16
    for (size_t a = 0; a < heads * n; a++)
        acc[a] = v_zero();
    for (int t = w->first; t <= w->pos;) {
        const char *v = kv_row(&w->a->kv, w->blocks, w->kv_head, t, 1);
        int end = t / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS + KV_BLOCK_TOKENS;
        for (; t < end && t <= w->pos; t++, v += dim * dtype_bytes(dtype)) {
#pragma GCC unroll 4
            for (size_t i = 0; i < n; i++)
                vv[i] =
                    part ? load_w_part(dtype, v, d + i * VL, part) : load_w(dtype, v, d + i * VL);
#pragma GCC unroll 4
            for (size_t h = 0; h < heads; h++) {
                vf e = v_set1(w->score[h * w->stride + (size_t)(t - w->base)]);
#pragma GCC unroll 4
                for (size_t i = 0; i < n; i++)
                    acc[h * n + i] = v_fma(e, vv[i], acc[h * n + i]);
            }
        }
    }
#pragma GCC unroll 4
    for (size_t h = 0; h < heads; h++)
#pragma GCC unroll 4
        for (size_t i = 0; i < n; i++) {
            float *out = w->out + h * dim + d + i * VL;
            vf value = v_div(acc[h * n + i], v_set1(w->sum[h]));
            if (part)
                v_store_part(out, part, value);
            else
                v_store(out, value);
        }
}

/* Scores to weights e^(score - max) in place, and their sum. score[i] is of position base + i, base
 * a multiple of 16; what lies outside first..pos becomes weight 0. */
static float soften(float *score, int base, int first, int pos, float scale)
{
    size_t n = (size_t)(pos - base) / 16 * 16 + 16;
    vf factor = v_set1(scale), max = v_set1(-INFINITY);
    for (size_t i = 0; i < n; i += VL)
        v_store(score + i, v_mul(v_load(score + i), factor));
    for (int i = 0; i < first - base; i++)
        score[i] = -INFINITY;
    for (size_t i = (size_t)(pos - base) + 1; i < n; i++)
        score[i] = -INFINITY;
    for (size_t i = 0; i < n; i += VL)
        max = v_max(v_load(score + i), max);
    float lane[16], most = -INFINITY;
    v_store(lane, max);
    for (size_t i = 0; i < VL; i++)
        most = lane[i] > most ? lane[i] : most;
    vf sum[16 / VL];
    for (size_t i = 0; i < 16 / VL; i++)
        sum[i] = v_zero();
    max = v_set1(most);
    for (size_t i = 0; i < n; i += 16)
        for (size_t j = 0; j < 16 / VL; j++) {
            vf e = v_exp(v_sub(v_load(score + i + j * VL), max));
            v_store(score + i + j * VL, e);
            sum[j] = v_add(sum[j], e);
        }
    for (size_t j = 0; j < 16 / VL; j++)
        v_store(lane + j * VL, sum[j]);
    return sum16(lane);
}

/* `heads` heads (at most HEAD_BLOCK) of one row and kv head. */
INLINE void attend_of(const enum dtype dtype, const size_t heads, const struct kern_attention *a,
                      size_t row, size_t head, float *score)
{
    size_t dim = (size_t)a->kv.head_dim, whole = dim / VL * VL;
    const float *q = a->q + row * a->q_stride + head * dim;
    struct weigh w = {.a = a, .blocks = a->block_table[a->seq[row]], .pos = a->pos[row]};
    w.kv_head = (int)head / (a->heads / a->kv.kv_heads);
    w.first = attention_first(a, w.pos);
    w.base = w.first / 16 * 16;
    w.stride = (size_t)(w.pos - w.base) / 16 * 16 + 16;
    w.score = score;
    w.out = a->out + row * a->out_stride + head * dim;
    for (int t = w.first / TOKEN_BLOCK * TOKEN_BLOCK; t <= w.pos; t += TOKEN_BLOCK)
        scores_of(dtype, heads, kv_row(&a->kv, w.blocks, w.kv_head, t, 0), q, dim,
                  score + (t - w.base), w.stride);
    float sum[HEAD_BLOCK];
    for (size_t h = 0; h < heads; h++)
        sum[h] = soften(score + h * w.stride, w.base, w.first, w.pos, a->scale);
    w.sum = sum;
    size_t d = 0;
    for (; d + DIM_BLOCK * VL <= whole; d += DIM_BLOCK * VL)
        weigh_of(dtype, heads, DIM_BLOCK, &w, d, 0);
    for (; d < whole; d += VL)
        weigh_of(dtype, heads, 1, &w, d, 0);
    if (d < dim)
        weigh_of(dtype, heads, 1, &w, d, dim - d);
}

#define ATTEND(name, dtype, heads)                                                                 \
    static void name(const struct kern_attention *a, size_t row, size_t head, float *score)        \
    {                                                                                              \
        attend_of(dtype, heads, a, row, head, score);                                              \
    }

ATTEND(attend_bf16_1, DTYPE_BF16, 1)
ATTEND(attend_bf16_2, DTYPE_BF16, 2)
ATTEND(attend_f32_1, DTYPE_F32, 1)
ATTEND(attend_f32_2, DTYPE_F32, 2)
#if HEAD_BLOCK == 4
ATTEND(attend_bf16_4, DTYPE_BF16, 4)
ATTEND(attend_f32_4, DTYPE_F32, 4)
#endif

static void attend(const struct kern_attention *a, size_t row, size_t head, size_t heads,
                   float *score)
{
    int bf16 = a->kv.dtype == DTYPE_BF16;
    switch (heads) {
    case 1:
        (bf16 ? attend_bf16_1 : attend_f32_1)(a, row, head, score);
        break;
    case 2:
        (bf16 ? attend_bf16_2 : attend_f32_2)(a, row, head, score);
        break;
#if HEAD_BLOCK == 4
    case 4:
        (bf16 ? attend_bf16_4 : attend_f32_4)(a, row, head, score);
        break;
#endif
    }
}

/* Most heads of 1, 2, .. HEAD_BLOCK that are left and whose scores have room. */
static size_t heads_next(const struct kern_attention *a, size_t row, size_t left,
                         size_t room_floats)
{
    int pos = a->pos[row], base = attention_first(a, pos) / 16 * 16;
    size_t each = (size_t)(pos - base) / 16 * 16 + 16, heads = HEAD_BLOCK;
    while (heads > 1 && (heads > left || heads * each > room_floats))
        heads /= 2;
    return heads;
}

static void attention(const struct kern_attention *a, struct kern_part part)
{
    size_t group = (size_t)(a->heads / a->kv.kv_heads),
           pairs = (size_t)a->n * (size_t)a->kv.kv_heads;
    /* Few rows: heads of a group go apart so that all parts have work. */
    size_t pieces = 1;
    while (pairs * pieces < (size_t)part.count && group / pieces > 1)
        pieces *= 2;
    struct span units = part_span(pairs * pieces, 1, part);
    size_t room_floats = part.scratch_bytes / sizeof(float);
    for (size_t u = units.lo; u < units.hi; u++) {
        size_t pair = u / pieces, piece = u % pieces, row = pair / (size_t)a->kv.kv_heads;
        size_t head = pair % (size_t)a->kv.kv_heads * group,
               end = head + group * (piece + 1) / pieces;
        for (head += group * piece / pieces; head < end;) {
            size_t heads = heads_next(a, row, end - head, room_floats);
            attend(a, row, head, heads, part.scratch);
            head += heads;
        }
    }
}
