/*
 * Compute operations: their contracts. CPU kernels (kernels/cpu) fill struct kern_cpu for each
 * instruction set; a device (src/device) runs them over its workers, or runs its own kernels under
 * the same contracts.
 *
 * Activations are fp32, row-major, contiguous unless a stride is given. Weights have a dtype (fp32,
 * bf16, f16). Inputs and outputs do not overlap unless the op says so.
 *
 * Same bits. Each output number is defined by a fixed order of fp32 operations, so that every
 * instruction set, every number of threads, every batch gives equal bits. All dot products of
 * weights with activations are of the FMA class:
 *
 *   element j adds by fused multiply-add to partial sum j mod 256, in ascending j, from +0;
 *   then each group of 8 neighbours: ((p0+p1)+(p2+p3))+((p4+p5)+(p6+p7)), giving 32 sums;
 *   then pairs at distance 16, 8, 4, 2, 1: s[i] = s[i] + s[i+distance].
 *
 * Round to nearest even, denormals kept, no contraction, exp by kern_exp alone, IEEE division and
 * square root.
 */
#ifndef MOED_KERNELS_H
#define MOED_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "record.h"

enum kern_isa { KERN_ISA_AUTO, KERN_ISA_SCALAR, KERN_ISA_AVX2, KERN_ISA_AVX512, KERN_ISA_COUNT };

/* Which share of an op's work a call does; any count gives the same bits. scratch belongs to the
 * calling worker. */
struct kern_part {
    int index, count;
    void *scratch; /* 64-byte aligned */
    size_t scratch_bytes;
};

/* x[i][:] = table[token[i]][:]; token ids are in range (the caller checks). Splits over rows. */
struct kern_embed {
    const void *table; /* [vocab][dim] */
    enum dtype dtype;
    const int32_t *token; /* [n] */
    float *x;             /* [n][dim] */
    int n, dim;
};

/*
 * y[i][:] = x[i][:] / sqrt(mean(x[i][:]^2) + eps) * w[:]; y may be x. The sum of squares is of the
 * FMA class (x * x); then inverse = 1 / sqrt(sum / dim + eps) and y = (x * inverse) * w. Splits
 * over rows. For qk-norm a "row" is a head: n rows at stride `x_stride` floats.
 */
struct kern_rmsnorm {
    const float *x;
    float *y;
    const void *w; /* [dim] */
    enum dtype w_dtype;
    int n, dim;
    size_t x_stride, y_stride; /* floats between rows */
    float eps;
};

/*
 * y[i][o] = dot(w[o], x[i]) (+ bias[o]) (+ residual[i][o]), added in that order; FMA class.
 * residual may be y. Splits over outputs (and rows when there are many). One row must run at memory
 * bandwidth.
 */
struct kern_linear {
    const void *w; /* [out][in] */
    enum dtype w_dtype;
    const void *bias; /* [out] in bias_dtype, or NULL */
    enum dtype bias_dtype;
    const float *x;        /* [n], x_stride floats apart */
    float *y;              /* [n], y_stride floats apart */
    const float *residual; /* laid out as y, or NULL */
    size_t x_stride, y_stride;
    int n, in, out;
};

/*
 * Rotary embedding in place, half-split: for d < half = head_dim/2, (a, b) = (x[d], x[d+half])
 * becomes (fma(a, cos, -(b*sin)), fma(b, cos, a*sin)) with cos, sin from the tables at the row's
 * position. Splits over rows.
 */
struct kern_rope {
    float *x; /* [n][heads][head_dim], x_stride floats between rows */
    size_t x_stride;
    const int32_t *pos;     /* [n] */
    const float *cos, *sin; /* [positions][head_dim/2] */
    int n, heads, head_dim;
};

/* The paged KV cache of one layer. Block b: K [kv_heads][16][head_dim], then V alike. */
#define KV_BLOCK_TOKENS 16
struct kern_kv {
    void *blocks;
    size_t block_bytes; /* both halves: 2 * kv_heads * 16 * head_dim * dtype_bytes */
    enum dtype dtype;   /* F32 or BF16 (round to nearest even) */
    int kv_heads, head_dim;
};

/* Writes row i's K and V to slot[i] = block * 16 + offset; a row whose slot is -1 is not written.
 * Splits over rows. */
struct kern_kv_store {
    struct kern_kv kv;
    const float *k, *v; /* [n][kv_heads][head_dim], stride floats between rows */
    size_t k_stride, v_stride;
    const int64_t *slot; /* [n] */
    int n;
};

/*
 * Causal attention over the cache, GQA (head h reads kv head h / (heads / kv_heads)). Row i of
 * sequence seq[i] at position pos[i] sees positions first..pos[i], first = max(0, pos - window + 1)
 * when window > 0. Softmax over scores * scale. Sums run within chunks of KV_CHUNK_TOKENS
 * positions, and over chunks in a binary tree, both fixed by absolute position alone (stated in
 * kernels/README.md), so that slices of prompts, batch and prefix reuse do not change bits. Splits
 * over (row, kv head).
 */
#define KV_CHUNK_TOKENS 64
/* Levels of the tree over all chunks that positions of 31 bits can have. */
#define KV_TREE_LEVELS 26
struct kern_attention {
    struct kern_kv kv;
    const float *q; /* [n][heads][head_dim], q_stride floats between rows */
    float *out;     /* [n][heads][head_dim], out_stride floats between rows */
    size_t q_stride, out_stride;
    const int32_t *pos; /* [n] */
    const int32_t *seq; /* [n] */
    const int32_t *const
        *block_table;    /* [sequences]: block of positions 16k..16k+15 is block_table[s][k] */
    size_t table_stride; /* more than 0, in recorded steps only: block_table[0] is a plan array
                            [sequences][table_stride] of all tables, and pos and seq are too */
    int n, heads;
    int window; /* 0: none */
    float scale;
    int max_context; /* highest pos + 1, at least; of a recorded step: of all its replays */
};

/* One head's scores and parts of a chunk, and its tree: the node at hand and one that waits on each
 * level. A node is m, sum, and from float KV_NODE_HEAD on acc. */
#define KV_NODE_HEAD 16
static inline size_t kern_attention_head_floats(int head_dim)
{
    size_t dim = ((size_t)head_dim + 15) / 16 * 16;
    return KV_CHUNK_TOKENS + 4 * dim + (KV_TREE_LEVELS + 1) * (KV_NODE_HEAD + dim);
}

/* Scratch that attention likes for so many heads of a group at once (and 1 is the least it takes):
 * K and V are read once for them. */
static inline size_t kern_attention_scratch_bytes(int head_dim, int heads)
{
    return kern_attention_head_floats(head_dim) * (size_t)heads * sizeof(float);
}

/* y = silu(gate) * up, silu(g) = g / (1 + kern_exp(-g)); y may be gate or up. Splits over elements.
 */
struct kern_silu_mul {
    const float *gate, *up;
    float *y;
    size_t n;
};

/*
 * Router: logits of the FMA class, the top_k largest (ties: lower id; NaN last) in falling order,
 * weights e^(logit - largest) / sum over all experts in ascending order, divided by the sum of the
 * chosen (in falling order) when renormalize. Splits over rows. Scratch: experts floats.
 *
 * forced replaces the choice alone: those experts in that order, weighed by the same rule over the
 * logits, which are computed all the same; benches bring routing of real models to random weights.
 */
struct kern_router {
    const void *w; /* [experts][in] */
    enum dtype w_dtype;
    const float *x; /* [n][in] */
    int n, in, experts, top_k;
    int renormalize;
    int32_t *id;           /* [n][top_k] */
    float *weight;         /* [n][top_k] */
    const int32_t *forced; /* [n][top_k] distinct experts, part of the plan; NULL: the largest */
};

/* What follows the logits of one row: chooses and weighs. logit [experts] is overwritten. Any
 * instruction set, any thread. */
void kern_router_select(const struct kern_router *a, size_t row, float *logit);

/* One expert and the rows it works on. */
struct kern_expert_group {
    const void *record;  /* laid out by the call's record_class */
    const int32_t *row;  /* [n] rows of x */
    const int32_t *pair; /* [n] where the result goes: y[pair] (row * top_k + position among the
                            row's choices) */
    int n;
};

/*
 * Where weights go that are asked for before a single row of x needs them: the first-level cache,
 * or the second-level one well ahead and the first-level one just ahead. AUTO: what is faster on
 * this make of CPU (kernels/README.md). Changes no bit.
 */
enum kern_ahead { KERN_AHEAD_AUTO, KERN_AHEAD_L1, KERN_AHEAD_L2 };

/*
 * hidden[pair][:] = silu(gate x) * (up x) and y[pair][:] = down hidden[pair], all of the FMA class,
 * for all groups. Two ops, because a barrier lies between. Split over (group, outputs); one row
 * must run at memory bandwidth. A caller may leave the outputs behind an end to someone else.
 */
struct kern_experts {
    const struct record_class *cls;
    const struct kern_expert_group *group; /* [n_groups] */
    int n_groups;
    const float *x; /* [rows][hidden] */
    float *hidden;  /* [pairs][intermediate] */
    float *y;       /* [pairs][hidden] */
    /* The outputs to compute of each group: [0, inner_end) of gate/up, [0, width_end) of down;
     * 0: all. The others are not written. Down reads all of hidden. */
    int inner_end, width_end;
    /* A call computes parts [index, index + run) of part.count (0: one). While it reads the last of
     * them it asks the memory for those behind, up to `more`: what the same thread does next. */
    int run, more;
    enum kern_ahead ahead;
};

/* Asks the memory for bytes [from, end) of the weights that this part of experts_down will read, as
 * far as it has so many: for a thread that waits for the hidden vector. They go to the second-level
 * cache. */
void kern_experts_fetch_down(const struct kern_experts *a, struct kern_part part, size_t from,
                             size_t end);

/* acc = +0; acc = fma(weight[i][k], y[i*top_k+k], acc) for k ascending; x[i] = x[i] + acc. Splits
 * over rows. */
struct kern_combine {
    const float *y;      /* [n * top_k][dim] */
    const float *weight; /* [n][top_k] */
    float *x;            /* [n][dim], in place */
    int n, top_k, dim;
};

struct packed_lists;

/* The kernels of one instruction set. Each does part.index of part.count of the op's work. */
struct kern_cpu {
    const char *name; /* "scalar", "avx2", "avx512" */
    void (*embed)(const struct kern_embed *, struct kern_part);
    void (*rmsnorm)(const struct kern_rmsnorm *, struct kern_part);
    void (*linear)(const struct kern_linear *, struct kern_part);
    void (*rope)(const struct kern_rope *, struct kern_part);
    void (*kv_store)(const struct kern_kv_store *, struct kern_part);
    void (*attention)(const struct kern_attention *, struct kern_part);
    void (*silu_mul)(const struct kern_silu_mul *, struct kern_part);
    void (*router)(const struct kern_router *, struct kern_part);
    void (*experts_gate_up)(const struct kern_experts *, struct kern_part);
    void (*experts_down)(const struct kern_experts *, struct kern_part);
    void (*combine)(const struct kern_combine *, struct kern_part);
    /* y[i] = kern_exp(x[i]); y may be x. */
    void (*exp)(const float *x, float *y, size_t n);
    /* Reads bytes (a multiple of 64, 64-byte aligned) with the widest loads, as a yardstick of
     * bandwidth; the result depends on all of them. */
    uint32_t (*read)(const void *p, size_t bytes);
    /* The yardstick of arithmetic: `steps` times some independent fused multiply-adds in registers.
     * Returns how many floating-point operations they were (two each). */
    double (*multiply_add)(long steps, float *sink);
    /* Packed rows (packed.h), one behind the other from first_row on (16-byte aligned), from and to
     * w [rows][in]. All instruction sets make the same bytes. False: the lists are full; then what
     * they, and the rows from some row on, hold is of no use. Any thread. */
    bool (*pack_rows)(const uint16_t *w, int in, size_t rows, void *first_row,
                      const struct packed_lists *lists);
    void (*unpack_rows)(const void *first_row, int in, size_t rows, uint16_t *w);
};

/* The table of an instruction set, NULL where this CPU or this build lacks it. AUTO: the best one.
 * Static. */
const struct kern_cpu *kern_cpu(enum kern_isa isa);
/* "auto", "scalar", "avx2", "avx512"; NULL for an unknown value; and back (-1 for an unknown name).
 */
const char *kern_isa_name(enum kern_isa isa);
int kern_isa_parse(const char *name);

/* exp(x) in one fixed sequence of fp32 operations (error below 2 ulp; 0 under -104, inf
 * over 88.73); scalar form. */
float kern_exp(float x);

/* bf16 and f16 to fp32 (exact) and fp32 to bf16 (nearest even, NaN kept). */
float kern_from_bf16(uint16_t v);
float kern_from_f16(uint16_t v);
uint16_t kern_to_bf16(float v);

#endif
