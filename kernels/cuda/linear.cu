// Dense matrices: a warp per CU_OUTS outputs, up to 8 rows per reading of the weights. blockIdx.x
// counts rows, so that blocks that run together read the same weights. Many rows of activations, as
// a router of a long pass has them, are what limits there: a block keeps its rows in shared memory.
#include "row_stream.cuh"

// A dot product becomes an output.
__device__ __forceinline__ void put(const cu_linear &a, int row, int out, float v)
{
    const int64_t at = row * a.y_stride + out;
    if (a.bias)
        v = __fadd_rn(v, load_any(a.bias, a.bias_dtype, out));
    if (a.residual)
        v = __fadd_rn(v, a.residual[at]);
    a.y[at] = v;
}

template <int DT, int NB, bool VEC> __device__ __forceinline__ void linear(const cu_linear &a)
{
    const int warp = threadIdx.x / 32, first = (int)blockIdx.y * CU_BLOCK_OUTS + warp * CU_OUTS;
    const int row = (int)blockIdx.x * NB, count = min(NB, a.n - row);
    const int64_t row_bytes = (int64_t)a.in * (DT == DTYPE_F32 ? 4 : 2);
    grid_dependency_launch();
    if (first >= a.out)
        return;
    const uint8_t *w[CU_OUTS];
    const float *x[NB];
#pragma unroll
    for (int r = 0; r < CU_OUTS; r++)
        w[r] = (const uint8_t *)a.w + min(first + r, a.out - 1) * row_bytes;
#pragma unroll
    for (int r = 0; r < CU_OUTS; r++)
        if (VEC && (int)(threadIdx.x & 31) == r)
            prefetch_row(w[r], (uint32_t)row_bytes);
    grid_dependency_wait();
#pragma unroll
    for (int b = 0; b < NB; b++)
        x[b] = a.x + min(row + b, a.n - 1) * a.x_stride;
    float y[CU_OUTS][NB];
    dots<DT, CU_OUTS, NB, VEC>(w, x, count, a.in, y);
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int r = 0; r < CU_OUTS; r++)
#pragma unroll
        for (int b = 0; b < NB; b++) {
            if (lane != (r * NB + b) % 32 || first + r >= a.out || b >= count)
                continue;
            put(a, row + b, first + r, y[r][b]);
        }
}

#define LINEAR(name, DT, NB, VEC)                                                                  \
    KERNEL __launch_bounds__(CU_THREADS) name(const __grid_constant__ cu_linear a)                 \
    {                                                                                              \
        linear<DT, NB, VEC>(a);                                                                    \
    }
#define LINEARS(suffix, DT)                                                                        \
    LINEAR(linear_##suffix##_1, DT, 1, true)                                                       \
    LINEAR(linear_##suffix##_4, DT, 4, true)                                                       \
    LINEAR(linear_##suffix##_any, DT, 1, false)

LINEARS(f32, DTYPE_F32)
LINEARS(bf16, DTYPE_BF16)
LINEARS(f16, DTYPE_F16)
// The format that models have most gets more sizes; each costs time to compile.
LINEAR(linear_bf16_2, DTYPE_BF16, 2, true)
LINEAR(linear_bf16_8, DTYPE_BF16, 8, true)

// ---- many rows ----

enum { MANY = CU_MANY_OUTS * CU_MANY_ROWS };

// PARTS warps share outputs and have CU_MANY_ROWS rows each. Blocks of a column of the grid share
// the outputs.
template <int PARTS> __device__ __forceinline__ void linear_many(const cu_linear &a)
{
    enum { ROWS = PARTS * CU_MANY_ROWS, OUTS = CU_WARPS / PARTS * CU_MANY_OUTS };
    SHARED_DYNAMIC(float, shared);
    const int warp = (int)threadIdx.x / 32, width = vector_floats(a.in);
    const int row = (int)blockIdx.x * ROWS, part = warp % PARTS * CU_MANY_ROWS;
    const int first = (int)blockIdx.y * OUTS + warp / PARTS * CU_MANY_OUTS;
    const int stride = (int)gridDim.y * OUTS, groups = (a.out - first + stride - 1) / stride;
    const auto rows = [&](int g, const uint8_t *(&w)[CU_MANY_OUTS]) {
#pragma unroll
        for (int r = 0; r < CU_MANY_OUTS; r++)
            w[r] =
                (const uint8_t *)a.w + (int64_t)min(first + g * stride + r, a.out - 1) * a.in * 2;
    };
    grid_dependency_launch();
    weight_stream<plain_feed<CU_MANY_OUTS, true>, decltype(rows)> weights(
        rows, groups, a.in, (uint8_t *)(shared + ROWS * width) + warp * CU_RING_BYTES);
    grid_dependency_wait();
#pragma unroll
    for (int p = 0; p < ROWS; p += CU_MANY_ROWS) {
        const float *from[CU_MANY_ROWS];
#pragma unroll
        for (int r = 0; r < CU_MANY_ROWS; r++)
            from[r] = row + p + r < a.n ? a.x + (row + p + r) * a.x_stride : nullptr;
        keep_vectors(from, a.in, width, shared + p * width);
    }
    __syncthreads();
    const int mine = lane_of() / (32 / MANY), to = row + part + mine % CU_MANY_ROWS;
    const bool writes = lane_of() % (32 / MANY) == 0 && to < a.n;
    weights.template multiply<CU_MANY_ROWS>(shared + part * width, [&](int g, float(&s)[MANY]) {
        const float v = trees(s);
        const int out = first + g * stride + mine / CU_MANY_ROWS;
        if (writes && out < a.out)
            put(a, to, out, v);
    });
}

KERNEL __launch_bounds__(CU_THREADS, 1) linear_bf16_many_4(const __grid_constant__ cu_linear a)
{
    linear_many<1>(a);
}

KERNEL __launch_bounds__(CU_THREADS, 1) linear_bf16_many_8(const __grid_constant__ cu_linear a)
{
    linear_many<2>(a);
}

KERNEL __launch_bounds__(CU_THREADS, 1) linear_bf16_many_16(const __grid_constant__ cu_linear a)
{
    linear_many<4>(a);
}
