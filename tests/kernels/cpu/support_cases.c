#include "support_cases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EPS 0x1p-24

uint64_t rng_next(struct rng *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int rng_int(struct rng *r, int lo, int hi)
{
    return lo + (int)(rng_next(r) % (uint64_t)(hi - lo + 1));
}

float rng_float(struct rng *r)
{
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (double)(rng_next(r) >> 11) * 0x1p-53 - 0.5;
    return (float)(sum * 1.732);
}

/* A width that is often near an edge of the kernels' blocks. */
static int rng_width(struct rng *r, int max)
{
    static const int edges[] = {1, 7, 8, 15, 16, 17, 31, 63, 64, 255, 256, 257, 272, 511, 512, 768};
    int w = rng_int(r, 0, 1) ? edges[rng_int(r, 0, 15)] + rng_int(r, 0, 1) : rng_int(r, 1, max);
    return w < max ? w : max;
}

float *floats_new(struct rng *r, size_t n, float scale)
{
    float *p = malloc(n * sizeof *p + (n == 0));
    for (size_t i = 0; i < n; i++)
        p[i] = rng_float(r) * scale;
    return p;
}

void *weights_new(struct rng *r, enum dtype dtype, size_t n, float scale)
{
    if (dtype == DTYPE_F32)
        return floats_new(r, n, scale);
    uint16_t *p = malloc(n * sizeof *p + (n == 0));
    for (size_t i = 0; i < n; i++) {
        /* f16: an exponent near 1 with random sign and mantissa; 1 in 64 is subnormal. */
        uint64_t u = rng_next(r);
        uint16_t f16 = (uint16_t)((u & 0x83ff) | (u >> 32 & 63 ? 9 + (u >> 40 & 3) : 0) << 10);
        p[i] = dtype == DTYPE_BF16 ? kern_to_bf16(rng_float(r) * scale) : f16;
    }
    return p;
}

double weight_at(const void *w, enum dtype dtype, size_t i)
{
    if (dtype == DTYPE_F32)
        return (double)((const float *)w)[i];
    uint16_t v = ((const uint16_t *)w)[i];
    return (double)(dtype == DTYPE_BF16 ? kern_from_bf16(v) : kern_from_f16(v));
}

static struct outcome outcome_new(size_t n)
{
    struct outcome o = {n, malloc(n * sizeof(float) + 1), malloc(n * sizeof(double) + 1),
                        malloc(n * sizeof(double) + 1)};
    memset(o.got, 0xff, n * sizeof(float));
    return o;
}

void outcome_free(struct outcome *o)
{
    free(o->got);
    free(o->want);
    free(o->tol);
}

/* Dot product in double and the sum of magnitudes, which scales its rounding error. */
static double dot_f64(const void *w, enum dtype dtype, size_t at, const float *x, int k,
                      double *mag)
{
    double sum = 0;
    *mag = 0;
    for (int j = 0; j < k; j++) {
        double term = weight_at(w, dtype, at + (size_t)j) * (double)x[j];
        sum += term;
        *mag += fabs(term);
    }
    return sum;
}

/* At most about k / 256 additions in a row and 8 levels of tree. */
static double dot_tol(double mag, int k)
{
    return mag * EPS * (10 + k / 256.0);
}

/* Scratch for all rows at once, for some, for none. */
static size_t scratch_bytes_of(uint64_t seed)
{
    static const size_t bytes[] = {(size_t)1 << 20, (size_t)220 << 10, (size_t)180 << 10, 4096};
    return bytes[seed / 7 % 4];
}

/* Runs all parts of a case, the last first, each with scratch of its own contents. */
#define RUN(fn, args, parts) RUN_WITH(fn, args, parts, 0)
#define RUN_WITH(fn, args, parts, least)                                                           \
    do {                                                                                           \
        size_t bytes_ = scratch_bytes_of(seed);                                                    \
        bytes_ = bytes_ > (least) ? bytes_ : (least);                                              \
        void *scratch_ = aligned_alloc(64, bytes_);                                                \
        for (int part_ = (parts)-1; part_ >= 0; part_--) {                                         \
            memset(scratch_, 0xff, bytes_);                                                        \
            fn(args, (struct kern_part){part_, parts, scratch_, bytes_});                          \
        }                                                                                          \
        free(scratch_);                                                                            \
    } while (0)

struct outcome case_embed(uint64_t seed, const struct kern_cpu *k, int parts, int check)
{
    struct rng r = {seed};
    int n = rng_int(&r, 1, 9), dim = rng_width(&r, 300), vocab = rng_int(&r, 1, 20);
    enum dtype dtype = (enum dtype)rng_int(&r, 0, 2);
    void *table = weights_new(&r, dtype, (size_t)vocab * (size_t)dim, 1);
    int32_t token[9];
    struct outcome o = outcome_new((size_t)n * (size_t)dim);
    for (int i = 0; i < n; i++)
        token[i] = rng_int(&r, 0, vocab - 1);
    struct kern_embed a = {table, dtype, token, o.got, n, dim};
    RUN(k->embed, &a, parts);
    for (size_t i = 0; i < o.n; i++) {
        size_t row = (size_t)token[i / (size_t)dim];
        o.want[i] = weight_at(table, dtype, row * (size_t)dim + i % (size_t)dim);
        o.tol[i] = 0;
    }
    free(table);
    return o;
}

struct outcome case_rmsnorm(uint64_t seed, const struct kern_cpu *k, int parts, int check)
{
    struct rng r = {seed};
    int n = rng_int(&r, 1, 12), dim = rng_width(&r, 900), gap = rng_int(&r, 0, 5);
    enum dtype dtype = (enum dtype)rng_int(&r, 0, 2);
    size_t stride = (size_t)(dim + gap);
    void *w = weights_new(&r, dtype, (size_t)dim, 1);
    float *x = floats_new(&r, (size_t)n * stride, 3);
    struct outcome o = outcome_new((size_t)n * (size_t)dim);
    float eps = rng_int(&r, 0, 1) ? 1e-6f : 1e-5f;
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int j = 0; j < dim; j++)
            sum += (double)x[(size_t)i * stride + (size_t)j] *
                   (double)x[(size_t)i * stride + (size_t)j];
        for (int j = 0; j < dim; j++) {
            size_t at = (size_t)i * (size_t)dim + (size_t)j;
            o.want[at] = (double)x[(size_t)i * stride + (size_t)j] / sqrt(sum / dim + (double)eps) *
                         weight_at(w, dtype, (size_t)j);
            o.tol[at] = fabs(o.want[at]) * EPS * (16 + dim / 256.0) + 1e-42;
        }
    }
    struct kern_rmsnorm a = {x, o.got, w, dtype, n, dim, stride, (size_t)dim, eps};
    if (gap == 0 && rng_int(&r, 0, 1)) { /* in place */
        memcpy(o.got, x, o.n * sizeof(float));
        a.x = o.got;
    }
    RUN(k->rmsnorm, &a, parts);
    free(w);
    free(x);
    return o;
}

struct outcome case_linear(uint64_t seed, const struct kern_cpu *k, int parts, int check)
{
    struct rng r = {seed};
    int n = rng_int(&r, 0, 1) ? rng_int(&r, 1, 9) : rng_int(&r, 1, 70);
    int in = rng_width(&r, 1300), out = rng_width(&r, n > 8 ? 70 : 150);
    enum dtype dtype = (enum dtype)rng_int(&r, 0, 2), bias_dtype = (enum dtype)rng_int(&r, 0, 2);
    size_t x_stride = (size_t)(in + rng_int(&r, 0, 3)),
           y_stride = (size_t)(out + rng_int(&r, 0, 3));
    void *w = weights_new(&r, dtype, (size_t)in * (size_t)out, 1);
    void *bias = rng_int(&r, 0, 1) ? weights_new(&r, bias_dtype, (size_t)out, 1) : NULL;
    float *x = floats_new(&r, (size_t)n * x_stride, 1);
    float *residual = rng_int(&r, 0, 1) ? floats_new(&r, (size_t)n * y_stride, 1) : NULL;
    int in_place = residual && rng_int(&r, 0, 1);
    struct outcome o = outcome_new((size_t)n * y_stride);
    for (size_t i = 0; i < o.n; i++) {
        size_t row = i / y_stride, col = i % y_stride;
        if (col >= (size_t)out) { /* the gap stays as it is */
            o.got[i] = in_place ? residual[i] : 0;
            o.want[i] = (double)o.got[i];
            o.tol[i] = 0;
            continue;
        }
        double mag;
        o.want[i] = dot_f64(w, dtype, col * (size_t)in, x + row * x_stride, in, &mag);
        o.want[i] += bias ? weight_at(bias, bias_dtype, col) : 0;
        o.want[i] += residual ? (double)residual[i] : 0;
        o.tol[i] = dot_tol(mag, in) + fabs(o.want[i]) * EPS * 4 + EPS * 8;
    }
    if (in_place)
        memcpy(o.got, residual, o.n * sizeof(float));
    struct kern_linear a = {
        w,        dtype,    bias, bias_dtype, x,  o.got, in_place ? o.got : residual,
        x_stride, y_stride, n,    in,         out};
    RUN(k->linear, &a, parts);
    free(w);
    free(bias);
    free(x);
    free(residual);
    return o;
}

struct outcome case_rope(uint64_t seed, const struct kern_cpu *k, int parts, int check)
{
    struct rng r = {seed};
    int n = rng_int(&r, 1, 6), heads = rng_int(&r, 1, 5), half = rng_int(&r, 1, 70);
    size_t row = (size_t)heads * (size_t)half * 2, stride = row + (size_t)rng_int(&r, 0, 4);
    float *cos = floats_new(&r, (size_t)half * 10, 1), *sin = floats_new(&r, (size_t)half * 10, 1);
    struct outcome o = outcome_new((size_t)n * stride);
    int32_t pos[6];
    for (size_t i = 0; i < o.n; i++)
        o.got[i] = rng_float(&r);
    for (int i = 0; i < n; i++)
        pos[i] = rng_int(&r, 0, 9);
    for (size_t i = 0; i < o.n; i++) {
        size_t col = i % stride, d = col % (size_t)(2 * half);
        o.want[i] = (double)o.got[i];
        o.tol[i] = 0;
        if (col >= row)
            continue;
        size_t table = (size_t)pos[i / stride] * (size_t)half + d % (size_t)half;
        double a = (double)o.got[i], b, c = (double)cos[table], s = (double)sin[table];
        b = (double)o.got[d < (size_t)half ? i + (size_t)half : i - (size_t)half];
        o.want[i] = d < (size_t)half ? a * c - b * s : a * c + b * s;
        o.tol[i] = (fabs(a * c) + fabs(b * s)) * EPS * 3;
    }
    struct kern_rope a = {o.got, stride, pos, cos, sin, n, heads, 2 * half};
    RUN(k->rope, &a, parts);
    free(cos);
    free(sin);
    return o;
}

/* Offset in elements of K (or V) of one token's kv head from the start of the cache. */
static size_t kv_at(const struct kern_kv *kv, int64_t slot, int h, int v)
{
    size_t block = (size_t)slot / KV_BLOCK_TOKENS, token = (size_t)slot % KV_BLOCK_TOKENS;
    size_t block_elems = (size_t)2 * (size_t)kv->kv_heads * KV_BLOCK_TOKENS * (size_t)kv->head_dim;
    return block * block_elems +
           (((size_t)v * (size_t)kv->kv_heads + (size_t)h) * KV_BLOCK_TOKENS + token) *
               (size_t)kv->head_dim;
}

struct outcome case_kv_store(uint64_t seed, const struct kern_cpu *k, int parts, int check)
{
    enum { BLOCKS = 3 };
    struct rng r = {seed};
    struct kern_kv kv = {.dtype = rng_int(&r, 0, 1) ? DTYPE_BF16 : DTYPE_F32,
                         .kv_heads = rng_int(&r, 1, 4),
                         .head_dim = rng_width(&r, 130)};
    int n = rng_int(&r, 1, 10);
    size_t row = (size_t)kv.kv_heads * (size_t)kv.head_dim,
           stride = row + (size_t)rng_int(&r, 0, 3);
    size_t elems = row * 2 * KV_BLOCK_TOKENS * BLOCKS;
    kv.block_bytes = elems / BLOCKS * dtype_bytes(kv.dtype);
    kv.blocks = calloc(elems, dtype_bytes(kv.dtype));
    float *key = floats_new(&r, (size_t)n * stride, 1),
          *value = floats_new(&r, (size_t)n * stride, 1);
    struct outcome o = outcome_new(elems);
    memset(o.want, 0, elems * sizeof(double));
    memset(o.tol, 0, elems * sizeof(double));
    int64_t slot[10];
    for (int i = 0; i < n; i++) {
        slot[i] = rng_int(&r, 0, 4) ? i * 4 + rng_int(&r, 0, 3) : -1;
        if (slot[i] < 0)
            continue;
        for (size_t j = 0; j < row; j++)
            for (int v = 0; v < 2; v++) {
                int h = (int)(j / (size_t)kv.head_dim);
                size_t at = kv_at(&kv, slot[i], h, v) + j % (size_t)kv.head_dim;
                double x = (double)(v ? value : key)[(size_t)i * stride + j];
                o.want[at] = x;
                o.tol[at] = kv.dtype == DTYPE_BF16 ? fabs(x) * 0x1p-8 : 0;
            }
    }
    struct kern_kv_store a = {kv, key, value, stride, stride, slot, n};
    RUN(k->kv_store, &a, parts);
    for (size_t i = 0; i < elems; i++)
        o.got[i] = (float)weight_at(kv.blocks, kv.dtype, i);
    free(kv.blocks);
    free(key);
    free(value);
    return o;
}

/* The attention of one head in double. */
static void attend_f64(const struct kern_attention *a, int row, int head, double *out, double *tol)
{
    const struct kern_kv *kv = &a->kv;
    int dim = kv->head_dim, pos = a->pos[row], kv_head = head / (a->heads / kv->kv_heads);
    int first = a->window && pos - a->window + 1 > 0 ? pos - a->window + 1 : 0;
    const int32_t *blocks = a->block_table[a->seq[row]];
    const float *q = a->q + (size_t)row * a->q_stride + (size_t)head * (size_t)dim;
    double *e = malloc(((size_t)pos + 1) * sizeof *e), max = -INFINITY, sum = 0, largest_mag = 0;
    for (int t = first; t <= pos; t++) {
        int64_t slot = (int64_t)blocks[t / 16] * 16 + t % 16;
        double mag;
        e[t] = dot_f64(kv->blocks, kv->dtype, kv_at(kv, slot, kv_head, 0), q, dim, &mag) *
               (double)a->scale;
        mag *= (double)a->scale;
        largest_mag = mag > largest_mag ? mag : largest_mag;
        max = e[t] > max ? e[t] : max;
    }
    for (int t = first; t <= pos; t++)
        sum += e[t] = exp(e[t] - max);
    for (int d = 0; d < dim; d++) {
        double acc = 0, mag = 0;
        for (int t = first; t <= pos; t++) {
            int64_t slot = (int64_t)blocks[t / 16] * 16 + t % 16;
            double term =
                e[t] * weight_at(kv->blocks, kv->dtype, kv_at(kv, slot, kv_head, 1) + (size_t)d);
            acc += term;
            mag += fabs(term);
        }
        out[d] = acc / sum;
        /* error of the scores moves every weight; the sums add theirs */
        tol[d] = mag / sum * EPS * (24 * (1 + largest_mag) + (pos - first + 1));
    }
    free(e);
}

struct outcome case_attention(uint64_t seed, const struct kern_cpu *k, int parts, int check)
{
    enum { SEQS = 3, BLOCKS = 64, TABLE = 100 };
    struct rng r = {seed};
    int group = rng_int(&r, 1, 9), n = rng_int(&r, 1, 7);
    int longest = rng_int(&r, 1, seed % 8 ? 300 : TABLE * 16);
    struct kern_kv kv = {.dtype = rng_int(&r, 0, 1) ? DTYPE_BF16 : DTYPE_F32,
                         .kv_heads = rng_int(&r, 1, 3),
                         .head_dim = rng_width(&r, 256)};
    size_t elems = (size_t)2 * (size_t)kv.kv_heads * 16 * (size_t)kv.head_dim;
    kv.block_bytes = elems * dtype_bytes(kv.dtype);
    kv.blocks = weights_new(&r, kv.dtype, elems * BLOCKS, 1);
    int32_t table[SEQS][TABLE], pos[7], seq[7];
    const int32_t *tables[SEQS] = {table[0], table[1], table[2]};
    for (int i = 0; i < SEQS * TABLE; i++)
        table[i / TABLE][i % TABLE] = (i * 37 + 5) % BLOCKS;
    int highest = 0, heads = group * kv.kv_heads;
    for (int i = 0; i < n; i++) {
        pos[i] = rng_int(&r, 0, longest - 1);
        seq[i] = rng_int(&r, 0, SEQS - 1);
        highest = pos[i] > highest ? pos[i] : highest;
    }
    size_t row = (size_t)heads * (size_t)kv.head_dim, stride = row + (size_t)rng_int(&r, 0, 3);
    float *q = floats_new(&r, (size_t)n * stride, 1);
    struct outcome o = outcome_new((size_t)n * row);
    struct kern_attention a = {.kv = kv,
                               .q = q,
                               .out = o.got,
                               .q_stride = stride,
                               .out_stride = row,
                               .pos = pos,
                               .seq = seq,
                               .block_table = tables,
                               .n = n,
                               .heads = heads,
                               .window = rng_int(&r, 0, 1) ? rng_int(&r, 1, longest + 9) : 0,
                               .scale = 1 / sqrtf((float)kv.head_dim),
                               .max_context = highest + 1};
    RUN_WITH(k->attention, &a, parts, kern_attention_scratch_bytes(kv.head_dim, 1));
    for (int i = 0; i < n && check; i++)
        for (int h = 0; h < heads; h++) {
            size_t at = (size_t)i * row + (size_t)h * (size_t)kv.head_dim;
            attend_f64(&a, i, h, o.want + at, o.tol + at);
        }
    free(kv.blocks);
    free(q);
    return o;
}

static double silu_f64(double g)
{
    return g / (1 + exp(-g));
}

struct outcome case_silu_mul(uint64_t seed, const struct kern_cpu *k, int parts, int check)
{
    struct rng r = {seed};
    size_t n = (size_t)rng_width(&r, 900);
    float *gate = floats_new(&r, n, 8), *up = floats_new(&r, n, 2);
    gate[0] = rng_int(&r, 0, 1) ? -120 : 95;
    struct outcome o = outcome_new(n);
    for (size_t i = 0; i < n; i++) {
        o.want[i] = silu_f64((double)gate[i]) * (double)up[i];
        o.tol[i] = fabs(o.want[i]) * EPS * 12 + 1e-36; /* below exp's overflow: zero */
    }
    struct kern_silu_mul a = {gate, up, o.got, n};
    if (rng_int(&r, 0, 1)) { /* in place */
        memcpy(o.got, gate, n * sizeof(float));
        a.gate = o.got;
    }
    RUN(k->silu_mul, &a, parts);
    free(gate);
    free(up);
    return o;
}

/* Distinct experts in any order for each row, some of them far from the best. */
static int32_t *forced_new(struct rng *r, int n, int experts, int top_k)
{
    int32_t *forced = malloc((size_t)n * (size_t)top_k * sizeof *forced);
    for (int i = 0; i < n; i++) {
        int32_t deck[70];
        for (int e = 0; e < experts; e++)
            deck[e] = e;
        for (int k = 0; k < top_k; k++) {
            int from = rng_int(r, k, experts - 1);
            forced[i * top_k + k] = deck[from];
            deck[from] = deck[k];
        }
    }
    return forced;
}

struct outcome case_router(uint64_t seed, const struct kern_cpu *k, int parts, int check)
{
    struct rng r = {seed};
    int n = rng_int(&r, 1, 30), in = rng_width(&r, 600), experts = rng_int(&r, 1, 70);
    int top_k = rng_int(&r, 1, experts < 8 ? experts : 8);
    enum dtype dtype = (enum dtype)rng_int(&r, 0, 2);
    void *w = weights_new(&r, dtype, (size_t)in * (size_t)experts, 0.3f);
    float *x = floats_new(&r, (size_t)n * (size_t)in, 0.3f);
    int32_t *id = malloc((size_t)n * (size_t)top_k * sizeof *id);
    size_t choices = (size_t)n * (size_t)top_k;
    struct outcome o = outcome_new(choices * 2); /* weights, then ids */
    int renormalize = rng_int(&r, 0, 1);
    int32_t *forced = rng_int(&r, 0, 2) ? NULL : forced_new(&r, n, experts, top_k);
    struct kern_router a = {w, dtype, x, n, in, experts, top_k, renormalize, id, o.got, forced};
    RUN(k->router, &a, parts);
    double logit[70];
    for (int i = 0; i < n; i++) {
        double max = -INFINITY, sum = 0, chosen = 0, worst = 0, mag;
        const int32_t *given = forced ? forced + (size_t)i * (size_t)top_k : NULL;
        for (int e = 0; e < experts; e++) {
            logit[e] =
                dot_f64(w, dtype, (size_t)e * (size_t)in, x + (size_t)i * (size_t)in, in, &mag);
            worst = dot_tol(mag, in) > worst ? dot_tol(mag, in) : worst;
            max = logit[e] > max ? logit[e] : max;
        }
        for (int e = 0; e < experts; e++)
            sum += exp(logit[e] - max);
        /* Choices are judged by their logits: each must be the best left, within rounding. */
        for (int c = 0; c < top_k; c++) {
            size_t at = (size_t)i * (size_t)top_k + (size_t)c;
            int best = given ? given[c] : -1;
            for (int e = 0; e < experts && !given; e++)
                if (best < 0 || logit[e] > logit[best])
                    best = e;
            int got = id[at] >= 0 && id[at] < experts ? id[at] : -1;
            o.got[choices + at] = (float)got;
            int as_good = got >= 0 && !given && logit[best] - logit[got] <= 2 * worst;
            o.want[choices + at] = as_good ? got : best;
            o.tol[choices + at] = 0;
            o.want[at] = exp(logit[best] - max) / sum;
            o.tol[at] = o.want[at] * (4 * worst + EPS * (experts + 20));
            chosen += o.want[at];
            logit[got >= 0 ? got : best] = -INFINITY;
        }
        for (int c = 0; c < top_k && a.renormalize; c++)
            o.want[(size_t)i * (size_t)top_k + (size_t)c] /= chosen;
        for (int c = 0; c < top_k && a.renormalize; c++)
            o.tol[(size_t)i * (size_t)top_k + (size_t)c] *= 2 / chosen;
    }
    free(w);
    free(x);
    free(id);
    free(forced);
    return o;
}

/* Both expert ops; the result is hidden, then y. */
struct outcome case_experts(uint64_t seed, const struct kern_cpu *k, int parts, int check)
{
    enum { ROWS = 24, GROUPS = 5, TOP_K = 2, PAIRS = ROWS * TOP_K };
    struct rng r = {seed};
    struct record_class cls =
        record_class_swiglu((enum dtype)rng_int(&r, 0, 2), rng_width(&r, 300), rng_width(&r, 270));
    size_t hidden = (size_t)cls.hidden, wide = (size_t)cls.intermediate;
    struct kern_expert_group group[GROUPS];
    int32_t row[GROUPS][PAIRS], pair[GROUPS][PAIRS];
    char *records[GROUPS];
    for (int g = 0; g < GROUPS; g++) {
        group[g] = (struct kern_expert_group){NULL, row[g], pair[g], 0};
        void *w = weights_new(&r, cls.dtype, cls.bytes / dtype_bytes(cls.dtype), 0.5f);
        records[g] = w;
        group[g].record = w;
    }
    int skew = rng_int(&r, 0, 1); /* all rows to one or two groups */
    for (int p = 0; p < PAIRS; p++) {
        int g = skew ? p % 2 : rng_int(&r, 0, GROUPS - 1);
        row[g][group[g].n] = p / TOP_K;
        pair[g][group[g].n++] = p;
    }
    float *x = floats_new(&r, ROWS * hidden, 0.5f);
    struct outcome o = outcome_new(PAIRS * (wide + hidden));
    float *h = o.got, *y = o.got + PAIRS * wide;
    struct kern_experts a = {&cls, group, GROUPS, x, h, y};
    RUN(k->experts_gate_up, &a, parts);
    RUN(k->experts_down, &a, parts);
    for (int g = 0; g < GROUPS && check; g++)
        for (int i = 0; i < group[g].n; i++) {
            const char *record = records[g];
            size_t p = (size_t)pair[g][i];
            double mag_g, mag_u, mag;
            for (size_t j = 0; j < wide; j++) {
                const float *xi = x + (size_t)row[g][i] * hidden;
                double gate =
                    dot_f64(record + cls.gate_off, cls.dtype, j * hidden, xi, cls.hidden, &mag_g);
                double up =
                    dot_f64(record + cls.up_off, cls.dtype, j * hidden, xi, cls.hidden, &mag_u);
                o.want[p * wide + j] = silu_f64(gate) * up;
                o.tol[p * wide + j] = dot_tol(mag_g, cls.hidden) * 1.2 * fabs(up) +
                                      dot_tol(mag_u, cls.hidden) * fabs(silu_f64(gate)) +
                                      fabs(o.want[p * wide + j]) * EPS * 12 + 1e-36;
            }
            for (size_t j = 0; j < hidden; j++) {
                size_t at = PAIRS * wide + p * hidden + j;
                /* from the hidden vector that was computed, so errors do not add up */
                o.want[at] = dot_f64(record + cls.down_off, cls.dtype, j * wide, h + p * wide,
                                     cls.intermediate, &mag);
                o.tol[at] = dot_tol(mag, cls.intermediate) + 1e-40;
            }
        }
    for (int g = 0; g < GROUPS; g++)
        free(records[g]);
    free(x);
    return o;
}

struct outcome case_combine(uint64_t seed, const struct kern_cpu *k, int parts, int check)
{
    struct rng r = {seed};
    int n = rng_int(&r, 1, 9), top_k = rng_int(&r, 1, 9), dim = rng_width(&r, 600);
    float *y = floats_new(&r, (size_t)n * (size_t)top_k * (size_t)dim, 1);
    float *weight = floats_new(&r, (size_t)n * (size_t)top_k, 1);
    struct outcome o = outcome_new((size_t)n * (size_t)dim);
    for (size_t i = 0; i < o.n; i++) {
        size_t row = i / (size_t)dim, col = i % (size_t)dim;
        double acc = 0, mag = 0;
        o.got[i] = rng_float(&r);
        for (size_t c = 0; c < (size_t)top_k; c++) {
            size_t pair = row * (size_t)top_k + c;
            double term = (double)weight[pair] * (double)y[pair * (size_t)dim + col];
            acc += term;
            mag += fabs(term);
        }
        o.want[i] = (double)o.got[i] + acc;
        o.tol[i] = (mag + fabs((double)o.got[i])) * EPS * (top_k + 2);
    }
    struct kern_combine a = {y, weight, o.got, n, top_k, dim};
    RUN(k->combine, &a, parts);
    free(y);
    free(weight);
    return o;
}
