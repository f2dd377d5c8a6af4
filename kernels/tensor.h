/*
 * The tensor class: ops for passes of many rows on the tensor cores of a GPU (the CPU device has
 * none of them). Operands have 16 bits, sums are fp32. An op's result depends on its arguments
 * alone: not on how it is cut into tiles, nor on where an expert lies.
 *
 * Products with weights: from +0, 16 elements of the row at a time in ascending order, each added
 * by one instruction of the tensor cores, whose own order of additions is the hardware's.
 *
 * The residual stream, norms and the router stay fp32; rows become 16-bit by tensor_round, or
 * inside the op that makes them.
 */
#ifndef MOED_KERNELS_TENSOR_H
#define MOED_KERNELS_TENSOR_H

#include "kernels.h"

/* y[i][:] = x[i][:], rounded to nearest even; to F16, finite numbers beyond its range become the
 * largest. */
struct kern_round {
    const float *x;            /* [n][dim] */
    void *y;                   /* [n][dim] */
    enum dtype dtype;          /* of y: BF16 or F16 */
    size_t x_stride, y_stride; /* elements between rows */
    int n, dim;
};

/* y[i][o] = dot(w[o], x[i]) (+ bias[o]) (+ residual[i][o]), added in that order in fp32. residual
 * may be y. */
struct kern_tensor_linear {
    const void *w;    /* [out][in] */
    enum dtype dtype; /* of w and x: BF16 or F16 */
    const void *bias; /* [out] in bias_dtype, or NULL */
    enum dtype bias_dtype;
    const void *x;             /* [n][in] */
    float *y;                  /* [n][out] */
    const float *residual;     /* laid out as y, or NULL */
    size_t x_stride, y_stride; /* elements between rows */
    int n, in, out;
};

/*
 * y[pair][:] = down round(silu(gate x[row]) * (up x[row])) for all groups; silu in fp32 by an exp
 * and a division that are close, not exact. Records are in the class's dtype, which is BF16 or F16,
 * and below 4 GiB. Packed ones are unpacked first, as many at a time as there is room for.
 */
struct kern_tensor_experts {
    const struct record_class *cls;
    const struct kern_expert_group *group; /* [n_groups] */
    int n_groups;
    const void *x; /* [rows][hidden] in the class's dtype */
    void *hidden;  /* scratch: [rows of all groups][intermediate] in the class's dtype */
    float *y;      /* [pairs][hidden] */
    /* Scratch for packed classes: at least kern_unpacked_bytes of one expert, on a 16-byte edge. */
    void *unpacked;
    size_t unpacked_bytes;
};

/* Of the matrices of an expert. */
static inline size_t kern_unpacked_bytes(int hidden, int intermediate)
{
    return 3 * (size_t)hidden * (size_t)intermediate * sizeof(uint16_t);
}

/*
 * Causal attention as kern_attention has it, by an online softmax: q and the weights of a row are
 * rounded to BF16, sums and maxima are fp32. Takes a cache of BF16 and heads of 64 or 128
 * (kern_tensor_attention_takes). Rows of a sequence that follow one another in the call with
 * positions that do, too, are worked on together: a K or V that is not finite may spoil up to 127
 * rows before its own; memory of other positions never matters. q and its rows lie on 16-byte
 * edges.
 */
struct kern_tensor_attention {
    struct kern_kv kv;
    const float *q; /* [n][heads][head_dim], q_stride floats between rows */
    void *out;      /* [n][heads][head_dim], out_stride elements between rows */
    enum dtype out_dtype;
    size_t q_stride, out_stride;
    const int32_t *pos; /* [n] */
    const int32_t *seq; /* [n] */
    const int32_t *const
        *block_table; /* [sequences]: block of positions 16k..16k+15 is block_table[s][k] */
    int n, heads;
    int window; /* 0: none */
    float scale;
};

static inline int kern_tensor_attention_takes(const struct kern_kv *kv, int heads)
{
    return kv->dtype == DTYPE_BF16 && (kv->head_dim == 64 || kv->head_dim == 128) &&
           heads % kv->kv_heads == 0 && heads / kv->kv_heads <= 128;
}

#endif
