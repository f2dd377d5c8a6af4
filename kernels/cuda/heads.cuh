// What happens to a row's heads of Q and K before attention: RMSNorm, RoPE, and the way into the KV
// cache.
#ifndef MOED_KERNELS_CUDA_HEADS_CUH
#define MOED_KERNELS_CUDA_HEADS_CUH

#include "common.cuh"

__device__ __forceinline__ float inverse_norm(float sum, int dim, float eps)
{
    // A division by a power of two is a product with another, bit for bit.
    const float inverse = __uint_as_float((254u << 23) - __float_as_uint((float)dim));
    const float mean = dim & (dim - 1) ? __fdiv_rn(sum, (float)dim) : __fmul_rn(sum, inverse);
    return __frcp_rn(__fsqrt_rn(__fadd_rn(mean, eps)));
}

// Elements d and d + dim / 2 of a head, which RoPE turns together.
struct turned_pair {
    float lo, hi;
};

__device__ __forceinline__ turned_pair norm_pair(turned_pair x, float inverse, float lo_weight,
                                                 float hi_weight)
{
    return {__fmul_rn(__fmul_rn(x.lo, inverse), lo_weight),
            __fmul_rn(__fmul_rn(x.hi, inverse), hi_weight)};
}

__device__ __forceinline__ turned_pair turn_pair(turned_pair x, float cos, float sin)
{
    return {__fmaf_rn(x.lo, cos, -__fmul_rn(x.hi, sin)),
            __fmaf_rn(x.hi, cos, __fmul_rn(x.lo, sin))};
}

// Where a slot has the K or V of one kv head.
__device__ __forceinline__ uint8_t *kv_row(const cu_kv &kv, int64_t slot, bool is_v, int head)
{
    const int64_t row = ((int64_t)is_v * kv.kv_heads + head) * 16 + (slot & 15);
    return kv.blocks + (slot >> 4) * kv.block_bytes +
           row * kv.head_dim * (kv.dtype == DTYPE_BF16 ? 2 : 4);
}

template <int DT> __device__ __forceinline__ void store_kv(uint8_t *row, int d, float v)
{
    if (DT == DTYPE_BF16)
        ((uint16_t *)row)[d] = to_bf16(v);
    else
        ((float *)row)[d] = v;
}

// Lanes over which a head of up to 256 elements lies, eight to each; the others have the same
// again.
__device__ __forceinline__ int head_lanes(int dim)
{
    return dim <= 64 ? 8 : dim <= 128 ? 16 : 32;
}

// A head of `dim` elements (a multiple of 8, up to 64 N and 256; on a 16-byte edge) over a warp, in
// two ways: the eight that the lane's partial sums take, and pairs for RoPE. NULL: zeros.
template <int N>
__device__ __forceinline__ void load_head(const float *x, int dim, float (&eight)[8],
                                          float (&lo)[N], float (&hi)[N])
{
    const int lane = (int)threadIdx.x & 31, half = dim / 2;
    const int at = lane % head_lanes(dim) * 8;
    float4 a = {0, 0, 0, 0}, b = {0, 0, 0, 0};
    if (x && at < dim) {
        a = __ldcg((const float4 *)(x + at));
        b = __ldcg((const float4 *)(x + at + 4));
    }
#pragma unroll
    for (int p = 0; p < N; p++) {
        const bool there = x && lane + 32 * p < half;
        lo[p] = there ? __ldcg(x + lane + 32 * p) : 0;
        hi[p] = there ? __ldcg(x + lane + 32 * p + half) : 0;
    }
    eight[0] = a.x, eight[1] = a.y, eight[2] = a.z, eight[3] = a.w;
    eight[4] = b.x, eight[5] = b.y, eight[6] = b.z, eight[7] = b.w;
}

// The sums of squares of N such heads, in the FMA class.
template <int N>
__device__ __forceinline__ void head_square_sums(const float (&eight)[N][8], int dim,
                                                 float (&sum)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        float p[8];
#pragma unroll
        for (int e = 0; e < 8; e++)
            p[e] = __fmaf_rn(eight[i][e], eight[i][e], 0);
        sum[i] = sum_of_eight(p);
    }
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
#pragma unroll
        for (int i = 0; i < N; i++)
            if (distance < head_lanes(dim))
                sum[i] = __fadd_rn(sum[i], __shfl_xor_sync(0xffffffffu, sum[i], distance));
}

#endif
