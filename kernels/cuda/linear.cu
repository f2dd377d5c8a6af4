// Dense matrices: a warp per CU_OUTS outputs, up to 8 rows per reading of the weights. blockIdx.x counts
// rows, so that blocks that run together read the same weights.
#include "common.cuh"

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
            float v = y[r][b];
            int64_t at = (int64_t)(row + b) * a.y_stride + first + r;
            if (a.bias)
                v = __fadd_rn(v, load_any(a.bias, a.bias_dtype, first + r));
            if (a.residual)
                v = __fadd_rn(v, a.residual[at]);
            a.y[at] = v;
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
