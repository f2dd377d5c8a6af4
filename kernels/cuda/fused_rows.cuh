// Rows of weights times a vector in shared memory (place_of), by a warp: of a fused step
// (fused_step.cuh).
#ifndef MOED_KERNELS_CUDA_FUSED_ROWS_CUH
#define MOED_KERNELS_CUDA_FUSED_ROWS_CUH

#include "common.cuh"
#include "fused_args.h"
#include "stream.cuh"

#define WARPS CU_FUSED_WARPS
#define DT    DTYPE_BF16

__device__ __forceinline__ int warp_of()
{
    return (int)threadIdx.x / 32;
}

// A block's run of n things.
struct run {
    int first, count;
    __device__ __forceinline__ explicit run(int n)
        : first((int)((uint32_t)n * blockIdx.x / gridDim.x)),
          count((int)((uint32_t)n * (blockIdx.x + 1) / gridDim.x) - first)
    {
    }
};

// A warp's rows among the block's: from, from + step, ...
struct share {
    int from, step, count;
};

// By turns of the first so many warps, which are all or all but the last.
__device__ __forceinline__ share every_so_many(int count, int warps)
{
    const int w = warp_of(), more = count - w + warps - 1;
    const int n = warps == WARPS ? more / WARPS : more / (WARPS - 1);
    return {w, warps, w < warps ? max(n, 0) : 0};
}

__device__ __forceinline__ void load8_once(const uint8_t *row, int k, float (&w)[8])
{
    widen8(load_once(row + (size_t)k * 2), w);
}

// Rows times x [in], which lies at bytes x_at of shared memory, by a warp, R at a time; every lane
// gets the results, lane l has the partial sums 8l..8l+7. NEAR: the rows lie in shared memory too.
// AHEAD turns of 256 elements are asked for together; turns beyond a multiple of it one by one.
template <int R, bool NEAR, int AHEAD = 4>
__device__ __forceinline__ void multiply_with(const uint8_t *const (&w)[R], int in, int x_at,
                                              float (&y)[R])
{
    SHARED_DYNAMIC(uint8_t, shared);
    const int lane = lane_of();
    float sum[R][8];
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int e = 0; e < 8; e++)
            sum[r][e] = 0;
    const float *x = (const float *)(shared + x_at) + lane * 4;
#pragma unroll AHEAD
    for (int k = lane * 8; k < in; k += 256, x += 256) {
        float wide[R][8];
#pragma unroll
        for (int r = 0; r < R; r++)
            if (NEAR)
                load8_near<DT>(w[r], k, wide[r]);
            else
                load8_once(w[r], k, wide[r]);
        const float4 lo = *(const float4 *)x, hi = *(const float4 *)(x + 128);
        const float xs[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int e = 0; e < 8; e++)
                sum[r][e] = __fmaf_rn(wide[r][e], xs[e], sum[r][e]);
    }
#pragma unroll
    for (int r = 0; r < R; r++)
        y[r] = tree(sum[r]);
}

template <int R> struct dotted {
    float y[R];
};

// Rows at bytes of shared memory, `step` bytes apart.
template <int R>
__device__ __forceinline__ dotted<R> near_dots(int w_at, int step, int in, int x_at)
{
    SHARED_DYNAMIC(uint8_t, shared);
    const uint8_t *w[R];
#pragma unroll
    for (int r = 0; r < R; r++)
        w[r] = shared + w_at + r * step;
    dotted<R> out;
    multiply_with<R, true, 2>(w, in, x_at, out.y);
    return out;
}

// Rows of any memory that nobody writes; they may be the same.
template <int R> struct far_rows {
    const uint8_t *w[R];
};

// Not inlined: the instructions of several copies would not stay in the caches. What is called once
// is inlined, for a call moves registers to memory.
template <int R, int AHEAD>
__device__ __noinline__ dotted<R> far_dots(far_rows<R> rows, int in, int x_at)
{
    dotted<R> out;
    multiply_with<R, false, AHEAD>(rows.w, in, x_at, out.y);
    return out;
}

// Result r of lane r.
template <int R> __device__ __forceinline__ float of_lane(const dotted<R> &d)
{
    float y = d.y[0];
#pragma unroll
    for (int r = 1; r < R; r++)
        y = lane_of() == r ? d.y[r] : y;
    return y;
}

// Lane r takes output r of those that are there.
template <int R, class Out>
__device__ __forceinline__ void put_out(const dotted<R> &d, int count, int i, int step,
                                        const Out &out)
{
    const float y = of_lane(d);
    if (lane_of() < count)
        out(i + lane_of() * step, y);
}

// n rows in shared memory, three at most; lane r gets the result of row r.
__device__ __forceinline__ float few_near(int n, int w_at, int step, int in, int x_at)
{
    return n == 3   ? of_lane(near_dots<3>(w_at, step, in, x_at))
           : n == 2 ? of_lane(near_dots<2>(w_at, step, in, x_at))
                    : of_lane(near_dots<1>(w_at, step, in, x_at));
}

// n rows i, i + step, ..., four at most; lane r gets the result of row r.
template <class Row>
__device__ __forceinline__ float few_far(int n, int i, int step, int in, int x_at, const Row &row)
{
    const uint8_t *const last = row(i + (n - 1) * step);
    const auto at = [&](int k) { return row(i + min(k, n - 1) * step); };
    return of_lane(far_dots<4, 4>({{at(0), at(1), at(2), last}}, in, x_at));
}

#endif
