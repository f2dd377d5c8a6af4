// Norms and dense matrices of a fused step (fused_step.cuh).
#ifndef MOED_KERNELS_CUDA_FUSED_MATRICES_CUH
#define MOED_KERNELS_CUDA_FUSED_MATRICES_CUH

#include "fused_grid.cuh"

struct matrix_rows {
    const cu_norm_linear &a;
    int first;
    __device__ __forceinline__ const cu_matrix &matrix(int i) const
    {
        const int out = first + i;
        return a.matrix[out >= a.matrix[2].first ? 2 : out >= a.matrix[1].first ? 1 : 0];
    }
    __device__ __forceinline__ const uint8_t *operator()(int i) const
    {
        const cu_matrix &m = matrix(i);
        return m.w + (int64_t)(first + i - m.first) * a.in * 2;
    }
};

// Which matrix of a layer.
enum which { PROJECT, OUT, ROUTER };

__device__ __forceinline__ const cu_norm_linear &matrix_of(const block &b, int layer, which w)
{
    const cu_layer &l = b.c->layer[layer & 1];
    return w == PROJECT ? l.project : w == OUT ? l.out : l.router;
}

__device__ __forceinline__ const cu_near &near_of(const cu_fused &f, which w)
{
    return w == PROJECT ? f.near_project : w == OUT ? f.near_out : f.near_router;
}

__device__ __forceinline__ const cu_rows &rows_of(const block &b, int layer, which w)
{
    return b.c->rows[layer & 1][w];
}

// By one thread: a block's rows of a matrix.
__device__ __forceinline__ cu_rows plan_rows(const cu_norm_linear &a, const cu_near &place)
{
    const run mine(a.outs);
    const int row_bytes = a.in * 2;
    int shift = 0;
    while ((row_bytes << (shift + 1)) <= CU_FUSED_BUNDLE_BYTES)
        shift++;
    const int most = min(place.bytes / row_bytes, CU_FUSED_BUNDLES << shift);
    return {mine.first, mine.count, min(mine.count, most), shift};
}

__device__ __forceinline__ phase_barrier *brought_of(const block &b, which w, int bundle)
{
    return (phase_barrier *)b.c->brought[w] + bundle;
}

// By one warp: brings the block's rows to their places, as far as there are some, and the others to
// the second-level cache. Only so much is under way at once that who reads something else meanwhile
// need not wait long.
__device__ __noinline__ void bring_matrix(const cu_fused &f, int layer, which w)
{
    enum { UNDER_WAY = 3 };
    SHARED_DYNAMIC(uint8_t, shared);
    const block b = block_of(f);
    const cu_norm_linear &a = matrix_of(b, layer, w);
    const cu_near &place = near_of(f, w);
    const cu_rows mine = rows_of(b, layer, w);
    const int row_bytes = a.in * 2, lane = lane_of();
    const matrix_rows rows{a, mine.first};
    if (a.norm && blockIdx.x == 0 && lane == 0)
        prefetch_row(a.norm, (uint32_t)a.in * (a.norm_dtype == DTYPE_F32 ? 4 : 2));
    for (int n = 0; n << mine.shift < mine.placed && lane == 0; n++) {
        const int first = n << mine.shift, end = min((n + 1) << mine.shift, mine.placed);
        if (n >= UNDER_WAY)
            barrier_wait(brought_of(b, w, n - UNDER_WAY), (uint32_t)layer);
        barrier_expect(brought_of(b, w, n), (uint32_t)((end - first) * row_bytes));
        for (int i = first; i < end; i++)
            copy_bulk(shared + place.at + i * row_bytes, rows(i), (uint32_t)row_bytes,
                      brought_of(b, w, n));
    }
    for (int i = mine.placed + lane; i < mine.count; i += 32)
        prefetch_row(rows(i), (uint32_t)row_bytes);
    __syncwarp();
}

// A row or none of each warp's, all of them near: what OUT and ROUTER usually are, and the block
// waits for them alone.
__device__ __forceinline__ void multiply_one(const cu_fused &f, const block &b, int layer, which w,
                                             const cu_norm_linear &a, const cu_rows &mine)
{
    const int i = warp_of(), row = mine.first + i;
    if (i >= mine.count)
        return;
    const cu_matrix &m = matrix_rows{a, mine.first}.matrix(i);
    const int at = row - m.first;
    const float before = a.residual ? a.residual[row] : 0;
    const float bias = m.bias ? load_any(m.bias, a.bias_dtype, at) : 0;
    barrier_wait(brought_of(b, w, i >> mine.shift), (uint32_t)layer);
    float y = near_dots<1>(near_of(f, w).at + i * a.in * 2, 0, a.in, f.work_at).y[0];
    if (lane_of())
        return;
    if (m.bias)
        y = __fadd_rn(y, bias);
    m.y[at] = a.residual ? __fadd_rn(y, before) : y;
}

// Rows of any number, near and far.
__device__ __forceinline__ void multiply_rows(const cu_fused &f, int layer, which w)
{
    const block b = block_of(f);
    const cu_norm_linear &a = matrix_of(b, layer, w);
    const cu_rows mine = rows_of(b, layer, w);
    const matrix_rows rows{a, mine.first};
    const int warps = w == ROUTER ? WARPS - 1 : WARPS;
    const share s = every_so_many(mine.count, warps);
    const int near = every_so_many(mine.placed, warps).count, row = mine.first + s.from;
    // What is added to the first rows' products, of which a lane has one, is there when they are.
    const int lane_row = row + lane_of() * warps;
    float before = 0;
    if (a.residual && lane_of() < min(s.count, 4))
        before = a.residual[lane_row];
    const auto out = [&](int i, float v) {
        const cu_matrix &m = rows.matrix(i);
        const int at = mine.first + i - m.first;
        if (m.bias)
            v = __fadd_rn(v, load_any(m.bias, a.bias_dtype, at));
        if (a.residual)
            v = __fadd_rn(v, mine.first + i == lane_row ? before : a.residual[at]);
        m.y[at] = v;
    };
    for (int j = 0; j < near; j++)
        barrier_wait(brought_of(b, w, (s.from + j * warps) >> mine.shift), (uint32_t)layer);
    const int row_bytes = a.in * 2, near_at = near_of(f, w).at;
    for (int j = 0, n; j < s.count; j += n) {
        const int i = s.from + j * warps;
        float y;
        if (j < near) {
            n = min(near - j, 3);
            y = few_near(n, near_at + i * row_bytes, warps * row_bytes, a.in, f.work_at);
        } else {
            n = min(s.count - j, 4);
            y = few_far(n, i, warps, a.in, f.work_at, rows);
        }
        if (lane_of() < n)
            out(i + lane_of() * warps, y);
    }
}

// A copy apart for matrices of unusual shapes.
__device__ __noinline__ void multiply_many(const cu_fused &f, int layer, which w)
{
    multiply_rows(f, layer, w);
}

__device__ __forceinline__ void multiply(const cu_fused &f, int layer, which w)
{
    const block b = block_of(f);
    const cu_rows &mine = rows_of(b, layer, w);
    if (w != PROJECT && mine.count <= (w == ROUTER ? WARPS - 1 : WARPS) &&
        mine.placed == mine.count)
        multiply_one(f, b, layer, w, matrix_of(b, layer, w), mine);
    else if (w == PROJECT)
        multiply_rows(f, layer, PROJECT);
    else
        multiply_many(f, layer, w);
}

// Weights of a norm that a thread has need of, before anything waits for one of them.
template <int N, class T>
__device__ __forceinline__ void load_weights(const void *norm, int in, int threads, T (&to)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int j = (int)threadIdx.x + i * threads;
        to[i] = j < in ? ((const T *)norm)[j] : (T)0;
    }
}

__device__ __forceinline__ float norm_weight(uint32_t bits, int dtype)
{
    return dtype == DTYPE_F32    ? __uint_as_float(bits)
           : dtype == DTYPE_BF16 ? from_bf16((uint16_t)bits)
                                 : from_f16((uint16_t)bits);
}

// rmsnorm of x into what the block works on, by every block for itself; by the others for the
// router.
template <which w> __device__ __forceinline__ void norm(const cu_fused &f, int layer)
{
    enum { HELD = 5, EACH = 8 };
    constexpr int threads = w == ROUTER ? OTHERS : ALL;
    const block b = block_of(f);
    const cu_norm_linear &a = matrix_of(b, layer, w);
    float *const to = b.work, *const sums = b.c->sums;
    const int tid = (int)threadIdx.x, in = a.in, dtype = a.norm_dtype;
    uint32_t weight[HELD];
    if (dtype == DTYPE_F32) {
        load_weights(a.norm, in, threads, weight);
    } else {
        uint16_t half[HELD];
        load_weights(a.norm, in, threads, half);
#pragma unroll
        for (int i = 0; i < HELD; i++)
            weight[i] = half[i];
    }
    if (tid < 256) {
        float p = 0;
        for (int first = tid; first < in; first += 256 * EACH) {
            float x[EACH];
#pragma unroll
            for (int i = 0; i < EACH; i++)
                x[i] = first + 256 * i < in ? a.x[first + 256 * i] : 0;
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                if (first + 256 * i >= in)
                    break;
                to[place_of(first + 256 * i)] = x[i];
                p = __fmaf_rn(x[i], x[i], p);
            }
        }
#pragma unroll
        for (int distance = 1; distance < 8; distance *= 2)
            p = __fadd_rn(p, __shfl_xor_sync(0xffffffffu, p, distance));
        if (lane_of() % 8 == 0)
            sums[warp_of() * 4 + lane_of() / 8] = p;
    }
    sync_first(threads);
    float s = sums[lane_of()];
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
        s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, distance));
    const float inverse = inverse_norm(s, in, a.eps);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int j = tid + i * threads, at = place_of(j);
        if (j < in)
            to[at] = __fmul_rn(__fmul_rn(to[at], inverse), norm_weight(weight[i], dtype));
    }
    for (int j = tid + HELD * threads; j < in; j += threads) {
        const int at = place_of(j);
        to[at] = __fmul_rn(__fmul_rn(to[at], inverse), load_any(a.norm, dtype, j));
    }
    sync_first(threads);
}

// A vector (a multiple of 4 long) that lies in its own order.
__device__ __forceinline__ void copy_into(float *to, const float *from, int n)
{
#pragma unroll 4
    for (int j = (int)threadIdx.x * 4; j < n; j += CU_FUSED_THREADS * 4)
        *(float4 *)(to + place_of(j)) = *(const float4 *)(from + j);
}

#endif
