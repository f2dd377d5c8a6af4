// Kernels of recorded steps beside the experts: norm with up to three matrices, and what happens to
// the heads of Q and K before attention.
#include "common.cuh"
#include "heads.cuh"
#include "mma.cuh"

// The sum of squares of the FMA class by a whole block: thread t holds partial sum t.
__device__ __forceinline__ float block_square_sum(const float *x, int dim)
{
    __shared__ float sums[32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    float p = 0;
    for (int j = (int)threadIdx.x; j < dim; j += CU_THREADS)
        p = __fmaf_rn(x[j], x[j], p);
#pragma unroll
    for (int distance = 1; distance < 8; distance *= 2)
        p = __fadd_rn(p, __shfl_xor_sync(0xffffffffu, p, distance));
    __syncthreads();
    if (lane % 8 == 0)
        sums[warp * 4 + lane / 8] = p;
    __syncthreads();
    float s = sums[lane];
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
        s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, distance));
    return s;
}

// The normalised row into shared memory, by every block for itself: less time than one more launch.
__device__ __forceinline__ void norm_row(const cu_norm_linear &a, float *shared)
{
    const float inverse = inverse_norm(block_square_sum(a.x, a.in), a.in, a.eps);
    for (int j = (int)threadIdx.x; j < a.in; j += CU_THREADS) {
        const float y = __fmul_rn(__fmul_rn(a.x[j], inverse), load_any(a.norm, a.norm_dtype, j));
        shared[j] = y;
        if (a.h && blockIdx.y == 0)
            a.h[j] = y;
    }
    __syncthreads();
}

struct outputs {
    const cu_matrix *matrix[CU_OUTS];
    const uint8_t *w[CU_OUTS];
};

__device__ __forceinline__ outputs outputs_of(const cu_norm_linear &a, int first, int64_t row_bytes)
{
    outputs o;
#pragma unroll
    for (int r = 0; r < CU_OUTS; r++) {
        const int out = min(first + r, a.outs - 1);
        o.matrix[r] = out >= a.matrix[2].first   ? &a.matrix[2]
                      : out >= a.matrix[1].first ? &a.matrix[1]
                                                 : &a.matrix[0];
        o.w[r] = o.matrix[r]->w + (int64_t)(out - o.matrix[r]->first) * row_bytes;
    }
    return o;
}

// A warp's rows of weights into its place in shared memory; needs nothing of earlier launches.
__device__ __forceinline__ uint8_t *bring_rows(const outputs &o, uint8_t *near, int row_bytes)
{
    uint8_t *mine = near + (int)threadIdx.x / 32 * CU_OUTS * row_bytes;
#pragma unroll
    for (int r = 0; r < CU_OUTS; r++)
        for (int at = (int)(threadIdx.x & 31) * 16; at < row_bytes; at += 512)
            cp_async_16(shared_address(mine + r * row_bytes + at), o.w[r] + at, 16);
    cp_async_commit();
    return mine;
}

// NEAR: all weights of the block are on their way to shared memory before the launch ahead has ended,
// so that the time of small launches is not lost for the memory. Blocks with the same blockIdx.y share
// weights, which only the first of them takes from memory.
template <int DT, int NB, bool NEAR>
__device__ __forceinline__ void norm_linear(const cu_norm_linear &a)
{
    SHARED_DYNAMIC(float, shared); // x [in] where normalised, then weights
    const int row = (int)blockIdx.x * NB, count = min(NB, a.n - row);
    const int lane = threadIdx.x & 31, row_bytes = a.in * (DT == DTYPE_F32 ? 4 : 2);
    const int first = (int)blockIdx.y * CU_BLOCK_OUTS + (int)threadIdx.x / 32 * CU_OUTS;
    grid_dependency_launch();
    outputs o = outputs_of(a, first, row_bytes);
    if (NEAR) {
        const uint8_t *mine =
            bring_rows(o, (uint8_t *)(shared + (a.norm ? a.in : 0)), row_bytes);
#pragma unroll
        for (int r = 0; r < CU_OUTS; r++)
            o.w[r] = mine + r * row_bytes;
    }
    grid_dependency_wait();
    if (a.norm)
        norm_row(a, shared);
    if (NEAR) {
        cp_async_wait<0>();
        __syncwarp();
    }
    if (first >= a.outs)
        return;
    const float *x[NB];
#pragma unroll
    for (int b = 0; b < NB; b++) {
        const int i = min(b, count - 1);
        x[b] = a.norm ? shared : a.x + (int64_t)(row + i) * a.in;
    }
    float y[CU_OUTS][NB];
    dots<DT, CU_OUTS, NB, true, NEAR>(o.w, x, count, a.in, y);
#pragma unroll
    for (int r = 0; r < CU_OUTS; r++)
#pragma unroll
        for (int b = 0; b < NB; b++) {
            if (lane != (r * NB + b) % 32 || first + r >= a.outs || b >= count)
                continue;
            const cu_matrix *m = o.matrix[r];
            const int out = first + r - m->first;
            const int64_t at = (int64_t)(row + b) * m->out + out;
            float v = y[r][b];
            if (m->bias)
                v = __fadd_rn(v, load_any(m->bias, a.bias_dtype, out));
            if (a.residual)
                v = __fadd_rn(v, a.residual[at]);
            m->y[at] = v;
        }
}

#define NORM_LINEAR(name, DT, NB, NEAR)                                                            \
    KERNEL __launch_bounds__(CU_THREADS) name(const __grid_constant__ cu_norm_linear a)            \
    {                                                                                              \
        norm_linear<DT, NB, NEAR>(a);                                                        \
    }

NORM_LINEAR(norm_linear_bf16_1, DTYPE_BF16, 1, true)
NORM_LINEAR(norm_linear_bf16_2, DTYPE_BF16, 2, true)
NORM_LINEAR(norm_linear_bf16_4, DTYPE_BF16, 4, true)
NORM_LINEAR(norm_linear_f16_1, DTYPE_F16, 1, true)
NORM_LINEAR(norm_linear_f16_4, DTYPE_F16, 4, true)
NORM_LINEAR(norm_linear_f32_1, DTYPE_F32, 1, false)
NORM_LINEAR(norm_linear_f32_4, DTYPE_F32, 4, false)

// A warp normalises a head of up to 1,024 elements; lane l holds partial sums 8l..8l+7.
__device__ __forceinline__ float head_square_sum(const float *x, int dim)
{
    float p[8];
#pragma unroll
    for (int e = 0; e < 8; e++)
        p[e] = 0;
    for (int j = (threadIdx.x & 31) * 8; j < dim; j += 256)
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (j + e < dim)
                p[e] = __fmaf_rn(x[j + e], x[j + e], p[e]);
    return tree(p);
}

// A warp per head of a row: those of Q, then those of K, then those of V.
template <int DT> __device__ __forceinline__ void turn_row(const cu_turn &a)
{
    const int lane = threadIdx.x & 31, dim = a.kv.head_dim, half = dim / 2;
    const int head = (int)blockIdx.y * CU_WARPS + (int)threadIdx.x / 32;
    const int64_t i = blockIdx.x;
    if ((a.live && i >= *a.live) || head >= a.heads + 2 * a.kv.kv_heads)
        return;
    const int64_t slot = a.slot[i];
    if (head >= a.heads + a.kv.kv_heads) {
        const int v_head = head - a.heads - a.kv.kv_heads;
        const float *v = a.v + (i * a.kv.kv_heads + v_head) * dim;
        for (int d = lane; d < dim && slot >= 0; d += 32)
            store_kv<DT>(kv_row(a.kv, slot, true, v_head), d, v[d]);
        return;
    }
    const bool is_q = head < a.heads;
    const int k_head = is_q ? 0 : head - a.heads;
    float *x = is_q ? a.q + (i * a.heads + head) * dim : a.k + (i * a.kv.kv_heads + k_head) * dim;
    const void *norm = is_q ? a.q_norm : a.k_norm;
    const float inverse = norm ? inverse_norm(head_square_sum(x, dim), dim, a.eps) : 0;
    const int64_t at = (int64_t)a.pos[i] * half;
    for (int d = lane; d < half; d += 32) {
        turned_pair r = {x[d], x[d + half]};
        if (norm)
            r = norm_pair(r, inverse, load_any(norm, a.norm_dtype, d),
                          load_any(norm, a.norm_dtype, d + half));
        r = turn_pair(r, a.cos[at + d], a.sin[at + d]);
        if (is_q) {
            x[d] = r.lo;
            x[d + half] = r.hi;
        } else if (slot >= 0) {
            uint8_t *row = kv_row(a.kv, slot, false, k_head);
            store_kv<DT>(row, d, r.lo);
            store_kv<DT>(row, d + half, r.hi);
        }
    }
}

KERNEL __launch_bounds__(CU_THREADS) turn(const __grid_constant__ cu_turn a)
{
    grid_begin();
    if (a.kv.dtype == DTYPE_BF16)
        turn_row<DTYPE_BF16>(a);
    else
        turn_row<DTYPE_F32>(a);
}
