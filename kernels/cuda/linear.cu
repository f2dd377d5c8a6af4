// Dense matrices: a warp per CU_OUTS outputs, up to 8 rows per reading of the weights. blockIdx.x counts
// rows, so that blocks that run together read the same weights. Many rows of activations, as a
// router of a long pass has them, are what limits there: a block keeps its rows in shared memory.
#include "common.cuh"

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

enum { MANY_W = 4, MANY_X = CU_MANY_ROWS / 2, MANY = MANY_W * MANY_X };
static_assert(CU_MANY_OUTS == CU_WARPS / 2 * MANY_W, "half of the warps have the block's other rows");

// Rows of x from `row` on, each in the order of place_of, -0 behind their end and behind the last:
// its product with +0 changes no sum.
__device__ __forceinline__ void keep_rows(const cu_linear &a, int row, int width, float *to)
{
    const float4 none = {-0.0f, -0.0f, -0.0f, -0.0f};
    for (int j = (int)threadIdx.x * 4; j < width; j += CU_THREADS * 4) {
        const float *const from = a.x + row * a.x_stride + j;
        float4 v[CU_MANY_ROWS];
#pragma unroll
        for (int r = 0; r < CU_MANY_ROWS; r++)
            v[r] = j < a.in && row + r < a.n ? *(const float4 *)(from + r * a.x_stride) : none;
#pragma unroll
        for (int r = 0; r < CU_MANY_ROWS; r++)
            *(float4 *)(to + r * width + place_of(j)) = v[r];
    }
}

// The lane's sums of eight of outputs w times rows x, which lie `width` apart: [output][row].
__device__ __forceinline__ void many_sums(const uint8_t *const (&w)[MANY_W], const float *x, int in,
                                          int width, float (&s)[MANY])
{
    enum { AHEAD = 2 };
    const int k = lane_of() * 8;
    const uint4 none = {0, 0, 0, 0};
    float acc[MANY][8];
    uint4 next[AHEAD][MANY_W];
    const auto ask = [&](int at, uint4(&to)[MANY_W]) {
#pragma unroll
        for (int r = 0; r < MANY_W; r++)
            to[r] = at + k < in ? *(const uint4 *)(w[r] + (at + k) * 2) : none;
    };
#pragma unroll
    for (int i = 0; i < MANY; i++)
#pragma unroll
        for (int e = 0; e < 8; e++)
            acc[i][e] = 0;
    x += lane_of() * 4;
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        ask(i * 256, next[i]);
#pragma unroll 1
    for (int at = 0; at < width; at += 256) {
        float wide[MANY_W][8];
#pragma unroll
        for (int r = 0; r < MANY_W; r++) {
            widen8(next[0][r], wide[r]);
            next[0][r] = next[1][r];
        }
        ask(at + AHEAD * 256, next[1]);
#pragma unroll
        for (int b = 0; b < MANY_X; b++) {
            float xs[8];
            load_vector(x + b * width + at, xs);
#pragma unroll
            for (int r = 0; r < MANY_W; r++)
#pragma unroll
                for (int e = 0; e < 8; e++)
                    acc[r * MANY_X + b][e] = __fmaf_rn(wide[r][e], xs[e], acc[r * MANY_X + b][e]);
        }
    }
#pragma unroll
    for (int i = 0; i < MANY; i++)
        s[i] = sum_of_eight(acc[i]);
}

// Blocks of a column of the grid share the outputs, in runs of CU_MANY_OUTS.
KERNEL __launch_bounds__(CU_THREADS, 1) linear_bf16_many(const __grid_constant__ cu_linear a)
{
    SHARED_DYNAMIC(float, x);
    const int warp = (int)threadIdx.x / 32, width = vector_floats(a.in), half = warp % 2 * MANY_X;
    const int row = (int)blockIdx.x * CU_MANY_ROWS;
    grid_begin();
    keep_rows(a, row, width, x);
    __syncthreads();
    for (int first = (int)blockIdx.y * CU_MANY_OUTS + warp / 2 * MANY_W; first < a.out;
         first += (int)gridDim.y * CU_MANY_OUTS) {
        const uint8_t *w[MANY_W];
        float s[MANY];
#pragma unroll
        for (int r = 0; r < MANY_W; r++)
            w[r] = (const uint8_t *)a.w + (int64_t)min(first + r, a.out - 1) * a.in * 2;
        many_sums(w, x + half * width, a.in, width, s);
        const float v = trees(s);
        const int mine = lane_of() / (32 / MANY), to = row + half + mine % MANY_X;
        const int out = first + mine / MANY_X;
        if (lane_of() % (32 / MANY) || out >= a.out || to >= a.n)
            continue;
        put(a, to, out, v);
    }
}
