// What the CUDA kernels share: loads of weights, kern_exp, the sums of the FMA class.
#ifndef MOED_KERNELS_CUDA_COMMON_CUH
#define MOED_KERNELS_CUDA_COMMON_CUH

#include "args.h"
#include "base/dtype.h"
#include "exp_constants.h"
#include "ptx.cuh"

#define KERNEL extern "C" __global__ void

__device__ __forceinline__ float from_bf16(uint32_t v)
{
    return __uint_as_float(v << 16);
}

__device__ __forceinline__ uint16_t to_bf16(float v)
{
    uint32_t u = __float_as_uint(v);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

template <int DT> __device__ __forceinline__ float load_as(const void *p, int64_t i)
{
    if (DT == DTYPE_BF16)
        return from_bf16(((const uint16_t *)p)[i]);
    if (DT == DTYPE_F16)
        return from_f16(((const uint16_t *)p)[i]);
    return ((const float *)p)[i];
}

__device__ __forceinline__ float load_any(const void *p, int dtype, int64_t i)
{
    return dtype == DTYPE_BF16  ? load_as<DTYPE_BF16>(p, i)
           : dtype == DTYPE_F16 ? load_as<DTYPE_F16>(p, i)
                                : load_as<DTYPE_F32>(p, i);
}

__device__ __forceinline__ float exp_fixed(float x)
{
    if (isnan(x))
        return x;
    if (x > EXP_HI)
        return __uint_as_float(0x7f800000u);
    if (x < EXP_LO)
        return 0;
    float n = __fsub_rn(__fmaf_rn(x, EXP_LOG2E, EXP_MAGIC), EXP_MAGIC);
    float r = __fmaf_rn(n, -EXP_LN2_LO, __fmaf_rn(n, -EXP_LN2_HI, x));
    float q = __fmaf_rn(EXP_Q4, r, EXP_Q3);
    q = __fmaf_rn(q, r, EXP_Q2);
    q = __fmaf_rn(q, r, EXP_Q1);
    q = __fmaf_rn(q, r, EXP_Q0);
    float p = __fmaf_rn(__fmaf_rn(q, r, 1.0f), r, 1.0f);
    int whole = (int)n, half = whole >> 1;
    float scale0 = __uint_as_float((uint32_t)(half + 127) << 23);
    float scale1 = __uint_as_float((uint32_t)(whole - half + 127) << 23);
    return __fmul_rn(__fmul_rn(p, scale0), scale1);
}

__device__ __forceinline__ float silu_mul_1(float gate, float up)
{
    return __fmul_rn(__fdiv_rn(gate, __fadd_rn(1.0f, exp_fixed(-gate))), up);
}

// Of a row's exponentials e [experts], in ascending order: by one thread.
__device__ __forceinline__ float sum_ascending(const float *e, int experts)
{
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < experts; i++)
        sum = __fadd_rn(sum, e[i]);
    return sum;
}

// The weights of a row's chosen experts (kern_router), by one thread.
__device__ __forceinline__ void weigh_chosen(const float *e, float sum, const int32_t *chosen,
                                             int top_k, int renormalize, float *weight)
{
    float all = 0;
#pragma unroll 1
    for (int k = 0; k < top_k; k++) {
        const float w = __fdiv_rn(e[chosen[k]], sum);
        weight[k] = w;
        all = __fadd_rn(all, w);
    }
#pragma unroll 1
    for (int k = 0; k < top_k && renormalize; k++)
        weight[k] = __fdiv_rn(weight[k], all);
}

__device__ __forceinline__ void widen_bf16(uint32_t two, float *w)
{
    w[0] = __uint_as_float(two << 16);
    w[1] = __uint_as_float(two & 0xffff0000u);
}

__device__ __forceinline__ void widen8(const uint4 &a, float (&w)[8])
{
    widen_bf16(a.x, w);
    widen_bf16(a.y, w + 2);
    widen_bf16(a.z, w + 4);
    widen_bf16(a.w, w + 6);
}

__device__ __forceinline__ void widen_f16(uint32_t two, float *w)
{
    w[0] = from_f16((uint16_t)two);
    w[1] = from_f16((uint16_t)(two >> 16));
}

// Weights k..k+7 of a row; row + k is on a 16-byte edge.
template <int DT> __device__ __forceinline__ void load8(const uint8_t *row, int k, float (&w)[8])
{
    if (DT == DTYPE_F32) {
        uint4 a = load_stream(row + (size_t)k * 4), b = load_stream(row + (size_t)k * 4 + 16);
        w[0] = __uint_as_float(a.x), w[1] = __uint_as_float(a.y);
        w[2] = __uint_as_float(a.z), w[3] = __uint_as_float(a.w);
        w[4] = __uint_as_float(b.x), w[5] = __uint_as_float(b.y);
        w[6] = __uint_as_float(b.z), w[7] = __uint_as_float(b.w);
        return;
    }
    uint4 a = load_stream(row + (size_t)k * 2);
    const uint32_t q[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (DT == DTYPE_BF16)
            widen_bf16(q[i], w + 2 * i);
        else
            widen_f16(q[i], w + 2 * i);
    }
}

__device__ __forceinline__ int lane_of()
{
    return (int)threadIdx.x & 31;
}

// The tree of the FMA class over 8 neighbours.
__device__ __forceinline__ float sum_of_eight(const float (&p)[8])
{
    return __fadd_rn(__fadd_rn(__fadd_rn(p[0], p[1]), __fadd_rn(p[2], p[3])),
                     __fadd_rn(__fadd_rn(p[4], p[5]), __fadd_rn(p[6], p[7])));
}

// The tree of the FMA class over the 256 partial sums of a warp; every lane gets the result (an
// addition gives the same bits either way round).
__device__ __forceinline__ float tree(const float (&p)[8])
{
    float s = sum_of_eight(p);
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
        s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, distance));
    return s;
}

// The rest of tree() for the lanes' sums of eight of R rows at once: fewer shuffles, none of which
// waits for another row's. Lanes r * 32 / R and on get the result of row r.
template <int R> __device__ __forceinline__ float trees(float (&s)[R])
{
#pragma unroll
    for (int step = 0; step < 5; step++) {
        const int distance = 16 >> step, n = R >> (step + 1);
        const bool high = threadIdx.x & distance;
#pragma unroll
        for (int i = 0; i < R / 2; i++)
            if (i < n) {
                const float own = high ? s[i + n] : s[i], other = high ? s[i] : s[i + n];
                s[i] = __fadd_rn(own, __shfl_xor_sync(0xffffffffu, other, distance));
            }
        if (n == 0)
            s[0] = __fadd_rn(s[0], __shfl_xor_sync(0xffffffffu, s[0], distance));
    }
    return s[0];
}

// A vector that rows are multiplied with may lie in shared memory in the order in which a warp
// reads it: of each 256 elements first the four of each lane that its first load takes, then those
// of the second. Where element j lies:
__device__ __forceinline__ int place_of(int j)
{
    return (j & ~255) | (j >> 2 & 1) << 7 | (j >> 3 & 31) << 2 | (j & 3);
}

// Floats that it takes.
__device__ __forceinline__ int vector_floats(int n)
{
    return (n + 255) & ~255;
}

// A lane's eight of 256 elements, whose first four lie at `at`.
__device__ __forceinline__ void load_vector(const float *at, float (&xs)[8])
{
    const float4 lo = *(const float4 *)at, hi = *(const float4 *)(at + 128);
    xs[0] = lo.x, xs[1] = lo.y, xs[2] = lo.z, xs[3] = lo.w;
    xs[4] = hi.x, xs[5] = hi.y, xs[6] = hi.z, xs[7] = hi.w;
}

// The same of a row in shared memory.
template <int DT> __device__ __forceinline__ void load8_near(const uint8_t *row, int k, float (&w)[8])
{
    const uint4 a = *(const uint4 *)(row + (size_t)k * 2);
    const uint32_t q[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (DT == DTYPE_BF16)
            widen_bf16(q[i], w + 2 * i);
        else
            widen_f16(q[i], w + 2 * i);
    }
}

// R weight rows times NB activation rows, `count` of which are there; lane l holds the partial sums
// 8l..8l+7. VEC: all rows begin on 16-byte edges and `in` is a multiple of 8. NEAR: the weights lie in
// shared memory, 16 bits each.
template <int DT, int R, int NB, bool VEC, bool NEAR = false>
__device__ __forceinline__ void dots(const uint8_t *const (&w)[R], const float *const (&x)[NB],
                                     int count, int in, float (&out)[R][NB])
{
    float acc[R][NB][8];
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int b = 0; b < NB; b++)
#pragma unroll
            for (int e = 0; e < 8; e++)
                acc[r][b][e] = 0;
    const int unrolled = NB == 1 ? (R > 2 ? 2 : 4) : NB <= 4 ? 2 : 1;
#pragma unroll unrolled
    for (int k = (threadIdx.x & 31) * 8; k < in; k += 256) {
        if (VEC) {
            float wide[R][8];
#pragma unroll
            for (int r = 0; r < R; r++)
                if (NEAR)
                    load8_near<DT>(w[r], k, wide[r]);
                else
                    load8<DT>(w[r], k, wide[r]);
#pragma unroll
            for (int b = 0; b < NB; b++) {
                if (NB > 1 && b >= count)
                    break;
                float4 lo = ((const float4 *)(x[b] + k))[0], hi = ((const float4 *)(x[b] + k))[1];
                const float xs[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll
                for (int r = 0; r < R; r++)
#pragma unroll
                    for (int e = 0; e < 8; e++)
                        acc[r][b][e] = __fmaf_rn(wide[r][e], xs[e], acc[r][b][e]);
            }
        } else {
#pragma unroll
            for (int e = 0; e < 8; e++)
                if (k + e < in)
#pragma unroll
                    for (int r = 0; r < R; r++) {
                        float one = load_as<DT>(w[r], k + e);
#pragma unroll
                        for (int b = 0; b < NB; b++)
                            if (b < count)
                                acc[r][b][e] = __fmaf_rn(one, x[b][k + e], acc[r][b][e]);
                    }
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int b = 0; b < NB; b++)
            out[r][b] = tree(acc[r][b]);
}

#endif
