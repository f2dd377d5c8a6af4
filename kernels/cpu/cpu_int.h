/*
 * What the CPU kernels of all instruction sets share: the tables, how work is cut into parts, how
 * an expert call is walked, and the element forms of conversions and exp.
 */
#ifndef MOED_KERNELS_CPU_INT_H
#define MOED_KERNELS_CPU_INT_H

#include <math.h>
#include <string.h>

#include "exp_constants.h"
#include "kernels.h"
#include "packed.h"

extern const struct kern_cpu kern_cpu_scalar, kern_cpu_avx2, kern_cpu_avx512;

/* What AUTO stands for here. */
enum kern_ahead kern_ahead_of(enum kern_ahead wanted);

/* Half-open range of one part. */
struct span {
    size_t lo, hi;
};

/* Share index of count of `total` units, as even as whole units of `grain` allow. */
static inline struct span part_span(size_t total, size_t grain, struct kern_part part)
{
    size_t units = (total + grain - 1) / grain, count = (size_t)part.count;
    size_t each = units / count, more = units % count, i = (size_t)part.index;
    size_t lo = (each * i + (i < more ? i : more)) * grain;
    size_t hi = lo + (each + (i < more)) * grain;
    return (struct span){lo < total ? lo : total, hi < total ? hi : total};
}

static inline float f32_of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t bits_of_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* Element i of an array of the given dtype. */
static inline float load_elem(const void *p, enum dtype dtype, size_t i)
{
    switch (dtype) {
    case DTYPE_BF16:
        return f32_of_bits((uint32_t)((const uint16_t *)p)[i] << 16);
    case DTYPE_F16:
        return kern_from_f16(((const uint16_t *)p)[i]);
    default:
        return ((const float *)p)[i];
    }
}

static inline const void *row_of(const void *p, enum dtype dtype, size_t row, size_t width)
{
    return (const char *)p + row * width * dtype_bytes(dtype);
}

/*
 * The tree that ends a dot product of the FMA class: 32 sums of 8 neighbours to one number.
 * s is overwritten.
 */
static inline float tree32(float *s)
{
    for (int distance = 16; distance; distance /= 2)
        for (int i = 0; i < distance; i++)
            s[i] += s[i + distance];
    return s[0];
}

/* The tree of the short class (16 partial sums): scores and softmax sums of attention. */
static inline float sum16(const float *p)
{
    return (((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]))) +
           (((p[8] + p[9]) + (p[10] + p[11])) + ((p[12] + p[13]) + (p[14] + p[15])));
}

/* The first position that a row at pos sees. */
static inline int attention_first(const struct kern_attention *a, int pos)
{
    return a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
}

/* Positions of chunk c that a row sees. */
static inline struct span attention_chunk(int c, int first, int pos)
{
    int lo = c * KV_CHUNK_TOKENS, hi = lo + KV_CHUNK_TOKENS;
    return (struct span){(size_t)(lo > first ? lo : first), (size_t)(hi <= pos ? hi : pos + 1)};
}

/* K (or V) of position t for one kv head. */
static inline void *kv_row(const struct kern_kv *kv, const int32_t *block_table, int kv_head, int t,
                           int is_v)
{
    size_t row = ((size_t)is_v * (size_t)kv->kv_heads + (size_t)kv_head) * KV_BLOCK_TOKENS +
                 (size_t)(t % KV_BLOCK_TOKENS);
    return (char *)kv->blocks + (size_t)block_table[t / KV_BLOCK_TOKENS] * kv->block_bytes +
           row * (size_t)kv->head_dim * dtype_bytes(kv->dtype);
}

/*
 * One head's way up the tree over chunks (kernels/README.md): the node at hand, and one that waits
 * for its right half on each level of `waits`.
 */
struct attention_tree {
    float *node; /* [1 + KV_TREE_LEVELS][KV_NODE_HEAD + dim], dim a multiple of 16 */
    size_t dim;
    uint32_t waits;
};

enum { NODE_MAX, NODE_SUM };

/* Joins two nodes, of which one leads, into `to`, which is one of them. */
typedef void attention_join(const float *other, const float *leader, float *to, size_t dim);

static inline float *attention_waiting(const struct attention_tree *t, int level)
{
    return t->node + (size_t)(1 + level) * (KV_NODE_HEAD + t->dim);
}

/* Where the sums of chunk c go: an even one waits for its neighbour at once. */
static inline float *attention_chunk_node(const struct attention_tree *t, int c, int last)
{
    return c % 2 == 0 && !last ? attention_waiting(t, 0) : t->node;
}

/* Chunk c is in its node; chunks come in ascending order, `last` says which is the last: then the
 * node at hand becomes the root. */
static inline void attention_tree_add(struct attention_tree *t, int c, int last,
                                      attention_join *join)
{
    float *now = t->node;
    if (c % 2 == 0 && !last) {
        t->waits |= 1;
        return;
    }
    for (int level = 0; level < KV_TREE_LEVELS; level++) {
        float *left = attention_waiting(t, level);
        if (t->waits >> level & 1) {
            int left_leads = left[NODE_MAX] >= now[NODE_MAX];
            join(left_leads ? now : left, left_leads ? left : now, now, t->dim);
            t->waits &= ~(1u << level);
        } else if (!last && !(c >> level & 1)) {
            memcpy(left, now, (KV_NODE_HEAD + t->dim) * sizeof(float));
            t->waits |= 1u << level;
            return;
        }
    }
}

/*
 * An expert call cut into parts of equal cost. An output of a group costs its weights' way from
 * memory plus its rows' arithmetic; EXPERT_BYTES_COST_ROWS says how many rows the former is worth.
 * A share is some outputs of one group. EXPERT_GRAIN outputs stay together, a tile's worth; those
 * of a single row go one by one, so that many threads share one expert evenly.
 */
#define EXPERT_BYTES_COST_ROWS 6
#define EXPERT_GRAIN           8

struct expert_walk {
    const struct kern_experts *call;
    size_t outs;   /* of each group, from 0 */
    int group;     /* next one */
    size_t before; /* cost of the groups passed */
    size_t lo, hi; /* cost range of this call's parts */
    size_t more;   /* and up to where the parts that the thread does next go */
};

struct expert_share {
    const struct kern_expert_group *group;
    struct span outs; /* to compute: none in a share of what comes next */
    size_t more;      /* outputs up to here are the thread's */
};

enum expert_half { EXPERT_GATE_UP, EXPERT_DOWN };

struct expert_walk expert_walk_begin(const struct kern_experts *call, enum expert_half half,
                                     struct kern_part part);
/* The next share, those to compute before those of what comes next; 0 at the end. */
int expert_walk_next(struct expert_walk *w, struct expert_share *share);

#endif
