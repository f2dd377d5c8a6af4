// Lookups, norms, rotation, cache writes, SiLU, the router's choice, the sum over experts.
#include "common.cuh"
#include "fetch_args.h"

KERNEL __launch_bounds__(CU_THREADS) fetch(const __grid_constant__ cu_fetch a)
{
    grid_begin();
    const int64_t i = (int64_t)blockIdx.x * CU_THREADS + threadIdx.x;
    if (i < a.words)
        a.to[i] = a.from[i];
}

KERNEL __launch_bounds__(CU_THREADS) embed(const __grid_constant__ cu_embed a)
{
    grid_begin();
    const int64_t from = (int64_t)a.token[blockIdx.x] * a.dim, to = (int64_t)blockIdx.x * a.dim;
    for (int j = (int)threadIdx.x; j < a.dim; j += CU_THREADS)
        a.x[to + j] = load_any(a.table, a.dtype, from + j);
}

// A block per row: thread t holds partial sum t of the FMA class.
KERNEL __launch_bounds__(CU_THREADS) rmsnorm(const __grid_constant__ cu_rmsnorm a)
{
    grid_begin();
    __shared__ float sums[32];
    const float *x = a.x + blockIdx.x * a.x_stride;
    float *y = a.y + blockIdx.x * a.y_stride;
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    float p = 0;
    for (int j = (int)threadIdx.x; j < a.dim; j += CU_THREADS)
        p = __fmaf_rn(x[j], x[j], p);
#pragma unroll
    for (int distance = 1; distance < 8; distance *= 2)
        p = __fadd_rn(p, __shfl_xor_sync(0xffffffffu, p, distance));
    if (lane % 8 == 0)
        sums[warp * 4 + lane / 8] = p;
    __syncthreads();
    float s = sums[lane];
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
        s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, distance));
    float inverse = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(s, (float)a.dim), a.eps)));
    for (int j = (int)threadIdx.x; j < a.dim; j += CU_THREADS)
        y[j] = __fmul_rn(__fmul_rn(x[j], inverse), load_any(a.w, a.w_dtype, j));
}

KERNEL __launch_bounds__(CU_THREADS) rope(const __grid_constant__ cu_rope a)
{
    grid_begin();
    const int64_t at = (int64_t)a.pos[blockIdx.x] * a.half;
    for (int j = (int)threadIdx.x; j < a.heads * a.half; j += CU_THREADS) {
        const int d = j % a.half;
        float *x = a.x + blockIdx.x * a.x_stride + (int64_t)(j / a.half) * 2 * a.half + d;
        const float u = x[0], v = x[a.half], cos = a.cos[at + d], sin = a.sin[at + d];
        x[0] = __fmaf_rn(u, cos, -__fmul_rn(v, sin));
        x[a.half] = __fmaf_rn(v, cos, __fmul_rn(u, sin));
    }
}

KERNEL __launch_bounds__(CU_THREADS) kv_store(const __grid_constant__ cu_kv_store a)
{
    grid_begin();
    const int64_t slot = a.slot[blockIdx.x], half = (int64_t)a.kv.kv_heads * 16 * a.kv.head_dim;
    if (slot < 0)
        return;
    uint8_t *block = a.kv.blocks + slot / 16 * a.kv.block_bytes;
    for (int j = (int)threadIdx.x; j < a.kv.kv_heads * a.kv.head_dim; j += CU_THREADS) {
        const int64_t at = (j / a.kv.head_dim * 16 + slot % 16) * a.kv.head_dim + j % a.kv.head_dim;
        const float k = a.k[blockIdx.x * a.k_stride + j], v = a.v[blockIdx.x * a.v_stride + j];
        if (a.kv.dtype == DTYPE_BF16) {
            ((uint16_t *)block)[at] = to_bf16(k);
            ((uint16_t *)block)[half + at] = to_bf16(v);
        } else {
            ((float *)block)[at] = k;
            ((float *)block)[half + at] = v;
        }
    }
}

KERNEL __launch_bounds__(CU_THREADS) silu_mul(const __grid_constant__ cu_silu_mul a)
{
    grid_begin();
    const int64_t i = (int64_t)blockIdx.x * CU_THREADS + threadIdx.x;
    if (i < a.n)
        a.y[i] = silu_mul_1(a.gate[i], a.up[i]);
}

__device__ __forceinline__ void combine_one(const cu_combine &a, int64_t i, int64_t j)
{
    float acc = 0;
    for (int k = 0; k < a.top_k; k++)
        acc = __fmaf_rn(a.weight[i * a.top_k + k], a.y[(i * a.top_k + k) * a.dim + j], acc);
    a.x[i * a.dim + j] = __fadd_rn(a.x[i * a.dim + j], acc);
}

// Four elements by a thread.
KERNEL __launch_bounds__(CU_THREADS) combine(const __grid_constant__ cu_combine a)
{
    grid_begin();
    const int64_t j = ((int64_t)blockIdx.y * CU_THREADS + threadIdx.x) * 4, i = blockIdx.x;
    if (j >= a.dim)
        return;
    if (a.dim % 4) {
        for (int64_t e = j; e < min(j + 4, (int64_t)a.dim); e++)
            combine_one(a, i, e);
        return;
    }
    const float *weight = a.weight + i * a.top_k, *y = a.y + i * a.top_k * a.dim + j;
    float4 *const to = (float4 *)(a.x + i * a.dim + j), x = *to;
    float acc[4] = {};
#pragma unroll 8
    for (int k = 0; k < a.top_k; k++) {
        const float4 v = *(const float4 *)(y + (int64_t)k * a.dim);
        acc[0] = __fmaf_rn(weight[k], v.x, acc[0]);
        acc[1] = __fmaf_rn(weight[k], v.y, acc[1]);
        acc[2] = __fmaf_rn(weight[k], v.z, acc[2]);
        acc[3] = __fmaf_rn(weight[k], v.w, acc[3]);
    }
    *to = {__fadd_rn(x.x, acc[0]), __fadd_rn(x.y, acc[1]), __fadd_rn(x.z, acc[2]),
           __fadd_rn(x.w, acc[3])};
}

// Whether (v, e) is chosen before (best, best_e): larger first, NaN last, equal ones by id.
__device__ __forceinline__ bool chosen_before(float v, int e, float best, int best_e)
{
    if (best_e < 0 || e < 0)
        return best_e < 0 && e >= 0;
    if (v > best || (isnan(best) && !isnan(v)))
        return true;
    if (best > v || (isnan(v) && !isnan(best)))
        return false;
    return e < best_e;
}

// The best expert of a row that no lane has marked as taken, the same in every lane; lane l looks
// after experts l, l + 32, ...
__device__ __forceinline__ int best_left(const float *logit, int experts, uint64_t taken, int lane,
                                         float &best)
{
    int best_e = -1;
    best = 0;
    for (int e = lane, i = 0; e < experts; e += 32, i++) {
        const float v = logit[e];
        if (!(taken >> i & 1) && chosen_before(v, e, best, best_e))
            best = v, best_e = e;
    }
    for (int distance = 16; distance; distance /= 2) {
        const float v = __shfl_xor_sync(0xffffffffu, best, distance);
        const int e = __shfl_xor_sync(0xffffffffu, best_e, distance);
        if (chosen_before(v, e, best, best_e))
            best = v, best_e = e;
    }
    return best_e;
}

// A warp per row.
KERNEL __launch_bounds__(CU_ROUTER_ROWS * 32) router_select(const __grid_constant__ cu_select a)
{
    grid_begin();
    __shared__ int32_t chosen_id[CU_ROUTER_ROWS][CU_MAX_TOP_K];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const int row = (int)blockIdx.x * CU_ROUTER_ROWS + warp;
    if (row >= a.n)
        return;
    float *logit = a.logit + (int64_t)row * a.experts;
    int32_t *id = chosen_id[warp];
    uint64_t taken = 0;
    float max = 0;
    for (int k = 0; k < a.top_k; k++) {
        float best = 0;
        int e = -1;
        if (k == 0 || !a.forced) {
            e = best_left(logit, a.experts, taken, lane, best);
            max = k == 0 ? best : max;
        }
        if (a.forced)
            e = a.forced[(int64_t)row * a.top_k + k];
        if (e % 32 == lane)
            taken |= (uint64_t)1 << e / 32;
        if (lane == 0)
            id[k] = e;
    }
    __syncwarp();
    // Host memory: one write of the warp.
    for (int k = lane; k < a.top_k; k += 32)
        a.id[(int64_t)row * a.top_k + k] = id[k];
    for (int e = lane; e < a.experts; e += 32)
        logit[e] = exp_fixed(__fsub_rn(logit[e], max));
    __syncwarp();
    if (lane == 0)
        weigh_chosen(logit, sum_ascending(logit, a.experts), id, a.top_k, a.renormalize,
                     a.weight + (int64_t)row * a.top_k);
}
