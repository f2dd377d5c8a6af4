/*
 * The portable kernels: each op as its contract says it, one element after the other. They are the
 * reference for the bits of every other instruction set.
 */
#include <float.h>

#include "cpu_int.h"
#include "packed_int.h"

/* From partial sums to the dot product. */
static float tree256(const float p[256])
{
    float s[32];
    for (int i = 0; i < 32; i++) {
        const float *g = p + (size_t)8 * i;
        s[i] = ((g[0] + g[1]) + (g[2] + g[3])) + ((g[4] + g[5]) + (g[6] + g[7]));
    }
    return tree32(s);
}

/* One dot product of the FMA class, w of any dtype. */
static float dot(const void *w, enum dtype dtype, const float *x, int k)
{
    float p[256] = {0};
    switch (dtype) {
    case DTYPE_BF16:
        for (int j = 0; j < k; j++)
            p[j & 255] =
                fmaf(f32_of_bits((uint32_t)((const uint16_t *)w)[j] << 16), x[j], p[j & 255]);
        break;
    case DTYPE_F16:
        for (int j = 0; j < k; j++)
            p[j & 255] = fmaf(kern_from_f16(((const uint16_t *)w)[j]), x[j], p[j & 255]);
        break;
    default:
        for (int j = 0; j < k; j++)
            p[j & 255] = fmaf(((const float *)w)[j], x[j], p[j & 255]);
    }
    return tree256(p);
}

/* The same of a packed row. */
static float packed_dot(const void *row, const float *x, int k)
{
    float p[256] = {0};
    const uint8_t *from = (const uint8_t *)row + PACKED_HEAD_BYTES;
    struct packed_walk escapes = packed_walk_begin(row);
    size_t n = (size_t)k;
    for (size_t at = 0, each; at < n; at += each, from += packed_bytes(each)) {
        uint16_t w[PACKED_BLOCK];
        each = packed_block(n, at);
        packed_block_unpack(row, from, each, w);
        packed_put(&escapes, at, each, w);
        for (size_t j = 0; j < each; j++)
            p[j & 255] = fmaf(f32_of_bits((uint32_t)w[j] << 16), x[at + j], p[j & 255]);
    }
    return tree256(p);
}

static float expert_dot(const struct record_class *c, const void *w, const float *x, int k)
{
    return c->packed ? packed_dot(w, x, k) : dot(w, c->dtype, x, k);
}

static void embed(const struct kern_embed *a, struct kern_part part)
{
    struct span rows = part_span((size_t)a->n, 1, part);
    for (size_t i = rows.lo; i < rows.hi; i++) {
        const void *from = row_of(a->table, a->dtype, (size_t)a->token[i], (size_t)a->dim);
        float *to = a->x + i * (size_t)a->dim;
        for (size_t j = 0; j < (size_t)a->dim; j++)
            to[j] = load_elem(from, a->dtype, j);
    }
}

static void rmsnorm(const struct kern_rmsnorm *a, struct kern_part part)
{
    struct span rows = part_span((size_t)a->n, 1, part);
    for (size_t i = rows.lo; i < rows.hi; i++) {
        const float *x = a->x + i * a->x_stride;
        float *y = a->y + i * a->y_stride;
        float inverse = 1 / sqrtf(dot(x, DTYPE_F32, x, a->dim) / (float)a->dim + a->eps);
        for (size_t j = 0; j < (size_t)a->dim; j++)
            y[j] = x[j] * inverse * load_elem(a->w, a->w_dtype, j);
    }
}

static void linear(const struct kern_linear *a, struct kern_part part)
{
    struct span outs = part_span((size_t)a->out, 1, part);
    for (size_t o = outs.lo; o < outs.hi; o++) {
        const void *w = row_of(a->w, a->w_dtype, o, (size_t)a->in);
        for (size_t i = 0; i < (size_t)a->n; i++) {
            float v = dot(w, a->w_dtype, a->x + i * a->x_stride, a->in);
            if (a->bias)
                v += load_elem(a->bias, a->bias_dtype, o);
            if (a->residual)
                v += a->residual[i * a->y_stride + o];
            a->y[i * a->y_stride + o] = v;
        }
    }
}

static void rope(const struct kern_rope *a, struct kern_part part)
{
    struct span rows = part_span((size_t)a->n, 1, part);
    size_t half = (size_t)a->head_dim / 2;
    for (size_t i = rows.lo; i < rows.hi; i++) {
        const float *cos = a->cos + (size_t)a->pos[i] * half,
                    *sin = a->sin + (size_t)a->pos[i] * half;
        for (size_t h = 0; h < (size_t)a->heads; h++) {
            float *x = a->x + i * a->x_stride + h * (size_t)a->head_dim;
            for (size_t d = 0; d < half; d++) {
                float u = x[d], v = x[d + half];
                x[d] = fmaf(u, cos[d], -(v * sin[d]));
                x[d + half] = fmaf(v, cos[d], u * sin[d]);
            }
        }
    }
}

static void store_row(const struct kern_kv *kv, void *to, const float *from)
{
    for (size_t d = 0; d < (size_t)kv->head_dim; d++) {
        if (kv->dtype == DTYPE_BF16)
            ((uint16_t *)to)[d] = kern_to_bf16(from[d]);
        else
            ((float *)to)[d] = from[d];
    }
}

static void kv_store(const struct kern_kv_store *a, struct kern_part part)
{
    struct span rows = part_span((size_t)a->n, 1, part);
    for (size_t i = rows.lo; i < rows.hi; i++) {
        if (a->slot[i] < 0)
            continue;
        int32_t block = (int32_t)(a->slot[i] / KV_BLOCK_TOKENS);
        int offset = (int)(a->slot[i] % KV_BLOCK_TOKENS);
        for (int h = 0; h < a->kv.kv_heads; h++) {
            size_t at = (size_t)h * (size_t)a->kv.head_dim;
            store_row(&a->kv, kv_row(&a->kv, &block, h, offset, 0), a->k + i * a->k_stride + at);
            store_row(&a->kv, kv_row(&a->kv, &block, h, offset, 1), a->v + i * a->v_stride + at);
        }
    }
}

/* Element j adds to partial sum j mod 16; the end of it is sum16. */
static float dot16(const void *k, enum dtype dtype, const float *q, int n)
{
    float p[16] = {0};
    for (int j = 0; j < n; j++)
        p[j & 15] = fmaf(load_elem(k, dtype, (size_t)j), q[j], p[j & 15]);
    return sum16(p);
}

/* One head of one row. */
struct head {
    const struct kern_attention *a;
    const int32_t *blocks;
    int kv_head, first, pos;
    const float *q;
    float *score; /* [KV_CHUNK_TOKENS] */
    float *part;  /* [4][dim of the tree] */
    struct attention_tree tree;
};

/* The sums of chunk c. */
static void sum_chunk(const struct head *h, int c, float *node)
{
    const struct kern_kv *kv = &h->a->kv;
    struct span seen = attention_chunk(c, h->first, h->pos);
    size_t base = (size_t)c * KV_CHUNK_TOKENS, dim = h->tree.dim;
    float max = -FLT_MAX, p[16] = {0}, *acc = node + KV_NODE_HEAD;
    for (size_t t = seen.lo; t < seen.hi; t++) {
        const void *k = kv_row(kv, h->blocks, h->kv_head, (int)t, 0);
        float s = dot16(k, kv->dtype, h->q, kv->head_dim) * h->a->scale;
        h->score[t - base] = s;
        max = s > max ? s : max;
    }
    memset(h->part, 0, 4 * dim * sizeof(float));
    for (size_t t = seen.lo; t < seen.hi; t++) {
        const void *v = kv_row(kv, h->blocks, h->kv_head, (int)t, 1);
        float e = kern_exp(h->score[t - base] - max);
        float *part = h->part + (t - base) / KV_BLOCK_TOKENS * dim;
        p[t & 15] += e;
        for (size_t d = 0; d < (size_t)kv->head_dim; d++)
            part[d] = fmaf(e, load_elem(v, kv->dtype, d), part[d]);
    }
    node[NODE_MAX] = max;
    node[NODE_SUM] = sum16(p);
    for (size_t d = 0; d < dim; d++)
        acc[d] = (h->part[d] + h->part[dim + d]) + (h->part[2 * dim + d] + h->part[3 * dim + d]);
}

static void join(const float *other, const float *leader, float *to, size_t dim)
{
    float f = kern_exp(other[NODE_MAX] - leader[NODE_MAX]), max = leader[NODE_MAX];
    to[NODE_SUM] = fmaf(f, other[NODE_SUM], leader[NODE_SUM]);
    to[NODE_MAX] = max;
    for (size_t d = KV_NODE_HEAD; d < KV_NODE_HEAD + dim; d++)
        to[d] = fmaf(f, other[d], leader[d]);
}

static void attention(const struct kern_attention *a, struct kern_part part)
{
    int group = a->heads / a->kv.kv_heads;
    size_t dim = (size_t)a->kv.head_dim, wide = (dim + 15) / 16 * 16;
    struct span units = part_span((size_t)a->n * (size_t)a->heads, 1, part);
    float *scratch = part.scratch;
    for (size_t u = units.lo; u < units.hi; u++) {
        size_t i = u / (size_t)a->heads, at = u % (size_t)a->heads * dim;
        struct head h = {.a = a,
                         .blocks = a->block_table[a->seq[i]],
                         .kv_head = (int)(u % (size_t)a->heads) / group,
                         .first = attention_first(a, a->pos[i]),
                         .pos = a->pos[i],
                         .q = a->q + i * a->q_stride + at,
                         .score = scratch,
                         .part = scratch + KV_CHUNK_TOKENS,
                         .tree = {scratch + KV_CHUNK_TOKENS + 4 * wide, wide, 0}};
        int last = h.pos / KV_CHUNK_TOKENS;
        for (int c = h.first / KV_CHUNK_TOKENS; c <= last; c++) {
            sum_chunk(&h, c, attention_chunk_node(&h.tree, c, c == last));
            attention_tree_add(&h.tree, c, c == last, join);
        }
        float *out = a->out + i * a->out_stride + at;
        for (size_t d = 0; d < dim; d++)
            out[d] = h.tree.node[KV_NODE_HEAD + d] / h.tree.node[NODE_SUM];
    }
}

static float silu_mul_1(float gate, float up)
{
    return gate / (1 + kern_exp(-gate)) * up;
}

static void silu_mul(const struct kern_silu_mul *a, struct kern_part part)
{
    struct span span = part_span(a->n, 1, part);
    for (size_t i = span.lo; i < span.hi; i++)
        a->y[i] = silu_mul_1(a->gate[i], a->up[i]);
}

static void router(const struct kern_router *a, struct kern_part part)
{
    struct span rows = part_span((size_t)a->n, 1, part);
    float *logit = part.scratch;
    for (size_t i = rows.lo; i < rows.hi; i++) {
        for (size_t e = 0; e < (size_t)a->experts; e++)
            logit[e] = dot(row_of(a->w, a->w_dtype, e, (size_t)a->in), a->w_dtype,
                           a->x + i * (size_t)a->in, a->in);
        kern_router_select(a, i, logit);
    }
}

static void experts_gate_up(const struct kern_experts *a, struct kern_part part)
{
    const struct record_class *c = a->cls;
    size_t hidden = (size_t)c->hidden, wide = (size_t)c->intermediate;
    struct expert_walk walk = expert_walk_begin(a, EXPERT_GATE_UP, part);
    struct expert_share s;
    while (expert_walk_next(&walk, &s))
        for (size_t o = s.outs.lo; o < s.outs.hi; o++) {
            const char *record = s.group->record;
            const void *gate = record + c->gate_off + o * c->in_row_bytes;
            const void *up = record + c->up_off + o * c->in_row_bytes;
            for (int r = 0; r < s.group->n; r++) {
                const float *x = a->x + (size_t)s.group->row[r] * hidden;
                a->hidden[(size_t)s.group->pair[r] * wide + o] =
                    silu_mul_1(expert_dot(c, gate, x, c->hidden), expert_dot(c, up, x, c->hidden));
            }
        }
}

static void experts_down(const struct kern_experts *a, struct kern_part part)
{
    const struct record_class *c = a->cls;
    size_t hidden = (size_t)c->hidden, wide = (size_t)c->intermediate;
    struct expert_walk walk = expert_walk_begin(a, EXPERT_DOWN, part);
    struct expert_share s;
    while (expert_walk_next(&walk, &s))
        for (size_t o = s.outs.lo; o < s.outs.hi; o++) {
            const void *w = (const char *)s.group->record + c->down_off + o * c->down_row_bytes;
            for (int r = 0; r < s.group->n; r++) {
                size_t pair = (size_t)s.group->pair[r];
                a->y[pair * hidden + o] =
                    expert_dot(c, w, a->hidden + pair * wide, c->intermediate);
            }
        }
}

static void combine(const struct kern_combine *a, struct kern_part part)
{
    struct span rows = part_span((size_t)a->n, 1, part);
    size_t dim = (size_t)a->dim, top_k = (size_t)a->top_k;
    for (size_t i = rows.lo; i < rows.hi; i++)
        for (size_t j = 0; j < dim; j++) {
            float acc = 0;
            for (size_t k = 0; k < top_k; k++)
                acc = fmaf(a->weight[i * top_k + k], a->y[(i * top_k + k) * dim + j], acc);
            a->x[i * dim + j] += acc;
        }
}

static void exp_all(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = kern_exp(x[i]);
}

static uint32_t read(const void *p, size_t bytes)
{
    const uint64_t *word = p;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < bytes / sizeof *word; i += 8)
        for (size_t j = 0; j < 8; j++)
            sum[j] ^= word[i + j];
    uint64_t all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
    return (uint32_t)(all ^ all >> 32);
}

static double multiply_add(long steps, float *sink)
{
    float a[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (long n = 0; n < steps; n++)
        for (size_t i = 0; i < 8; i++)
            a[i] = fmaf(a[i], 0.999f, 1e-3f);
    *sink = a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7];
    return 16.0 * (double)steps;
}

const struct kern_cpu kern_cpu_scalar = {
    .name = "scalar",
    .embed = embed,
    .rmsnorm = rmsnorm,
    .linear = linear,
    .rope = rope,
    .kv_store = kv_store,
    .attention = attention,
    .silu_mul = silu_mul,
    .router = router,
    .experts_gate_up = experts_gate_up,
    .experts_down = experts_down,
    .combine = combine,
    .exp = exp_all,
    .read = read,
    .multiply_add = multiply_add,
    .pack_rows = packed_rows_pack,
    .unpack_rows = packed_rows_unpack,
};
