// Products of many rows on the tensor cores. A block makes a tile of rows x outputs, a warp 64 x 64
// of it (fewer rows: 64, 32 or 16 x 32); stages of 64 elements come in by cp.async while earlier
// ones are multiplied. Rows of a stage are 128 bytes, their 16-byte chunks exchanged by (row mod
// 8), so that ldmatrix meets no bank twice, and which wgmma reads as it is: there a warpgroup makes
// 64 x 256. How rows are cut into tiles changes no bit: an output adds up 16 elements at a time,
// ascending, wherever it lies in a tile and by either instruction.
#include "tensor_args.h"
#include "wgmma.cuh"

enum { ROW_BYTES = CU_TILE_DEPTH * 2, CHUNKS = ROW_BYTES / 16 };

// What one thread brings in: of each stage the same chunk of several rows of x and of w.
template <int OUTS, int ROWS, bool WIDE> struct feed {
    enum {
        STEP = OUTS / CHUNKS, // rows that all threads bring at once
        W_ROWS = OUTS / STEP,
        X_ROWS = (ROWS + STEP - 1) / STEP,
        X_UNIT = WIDE ? 16 : 2 // bytes that x_off counts in
    };
    const uint8_t *x, *w;
    uint32_t x_off[X_ROWS];
    uint32_t w_off[W_ROWS];
    int at, in; // first element of this thread's chunk in the next stage
    uint32_t to;

    __device__ __forceinline__ uint4 load_narrow(const uint8_t *p)
    {
        uint32_t v[8];
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = at + e < in ? ((const uint16_t *)p)[e] : 0;
        return make_uint4(v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16,
                          v[6] | v[7] << 16);
    }

    __device__ __forceinline__ void one(shared_at row, const uint8_t *from)
    {
        if (WIDE)
            cp_async_16(row, from, at < in ? 16 : 0);
        else
            store_shared_16(row, load_narrow(from));
    }

    __device__ __forceinline__ void fetch(shared_at stage)
    {
        const uint32_t byte = (uint32_t)at * 2;
#pragma unroll
        for (int i = 0; i < X_ROWS; i++)
            if (ROWS % STEP == 0 || (int)threadIdx.x / CHUNKS < ROWS)
                one(stage + to + i * (STEP * ROW_BYTES), x + byte + (uint64_t)x_off[i] * X_UNIT);
#pragma unroll
        for (int i = 0; i < W_ROWS; i++)
            one(stage + ROWS * ROW_BYTES + to + i * (STEP * ROW_BYTES), w + w_off[i] + byte);
        at += CU_TILE_DEPTH;
    }
};

// Which output a row of the tile's weights makes; GATED: each warp's columns are a half of gate and
// the same outputs of up.
template <int COLUMNS, bool GATED> __device__ __forceinline__ int output_of(int row, bool *up)
{
    *up = GATED && row % COLUMNS >= COLUMNS / 2;
    return GATED ? row / COLUMNS * (COLUMNS / 2) + row % (COLUMNS / 2) : row;
}

template <int OUTS, int ROWS, int COLUMNS, bool WIDE, bool GATED>
__device__ __forceinline__ void feed_begin(feed<OUTS, ROWS, WIDE> &f, const cu_product &a,
                                           const cu_tile &tile, int first_out)
{
    const int row = (int)threadIdx.x / CHUNKS, chunk = (int)threadIdx.x % CHUNKS;
    f.to = (uint32_t)(row * ROW_BYTES + ((chunk ^ (row & 7)) << 4));
    f.at = chunk * 8;
    f.in = a.in;
#pragma unroll
    for (int i = 0; i < f.X_ROWS; i++) {
        const int entry = tile.first + min(row + i * f.STEP, tile.count - 1);
        const int64_t from = a.x_row ? a.x_row[entry] : entry;
        f.x_off[i] = (uint32_t)(from * a.x_stride * 2 / f.X_UNIT);
    }
    f.x = a.x;
    f.w = tile.w + a.w_off + (int64_t)first_out * a.in * 2;
#pragma unroll
    for (int i = 0; i < f.W_ROWS; i++) {
        bool up;
        const int out = output_of<COLUMNS, GATED>(row + i * f.STEP, &up);
        f.w_off[i] = (uint32_t)min(out, a.out - 1 - first_out) * (uint32_t)a.in * 2u +
                     (up ? (uint32_t)a.up_off : 0u);
    }
}

// The fragments of 16 elements (two chunks) of a warp's rows.
template <int MI, int NI> struct fragments {
    uint32_t x[MI][4];
    uint32_t w[NI / 2][4];

    __device__ __forceinline__ void load(shared_at x_row, shared_at w_row, uint32_t x_chunk,
                                         uint32_t w_chunk)
    {
#pragma unroll
        for (int i = 0; i < MI; i++)
            ldmatrix_x4(x[i], x_row + i * (16 * ROW_BYTES) + x_chunk);
#pragma unroll
        for (int i = 0; i < NI / 2; i++)
            ldmatrix_x4(w[i], w_row + i * (16 * ROW_BYTES) + w_chunk);
    }
};

template <int DT, int MI, int NI>
__device__ __forceinline__ void multiply(float (&acc)[MI][NI][4], const fragments<MI, NI> &f)
{
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
            mma_16816<DT>(acc[i][j], f.x[i], f.w[j / 2][j % 2 * 2], f.w[j / 2][j % 2 * 2 + 1]);
}

// The products of a tile, all of `in`.
template <int DT, int MI, int NI, int OUTS, int ROWS, bool WIDE>
__device__ __forceinline__ void products(float (&acc)[MI][NI][4], feed<OUTS, ROWS, WIDE> &f,
                                         shared_at shared, int warp_row, int warp_out)
{
    enum { STAGE_BYTES = (CU_TILE_ROWS + OUTS) * ROW_BYTES, SLICES = CU_TILE_DEPTH / 16 };
    const int lane = threadIdx.x & 31, steps = (f.in + CU_TILE_DEPTH - 1) / CU_TILE_DEPTH;
    const uint32_t turn = lane & 7;
    const uint32_t x_at = (uint32_t)(warp_row + (lane & 15)) * ROW_BYTES;
    const uint32_t w_at = (uint32_t)(ROWS + warp_out + (lane & 7) + (lane >> 4 << 3)) * ROW_BYTES;
    const uint32_t x_chunk = (turn ^ (uint32_t)(lane >> 4)) << 4;
    const uint32_t w_chunk = (turn ^ (uint32_t)(lane >> 3 & 1)) << 4;
    fragments<MI, NI> part[2];
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                acc[i][j][e] = 0;
#pragma unroll
    for (int s = 0; s < CU_STAGES - 1; s++) {
        if (s < steps)
            f.fetch(shared + s * STAGE_BYTES);
        cp_async_commit();
    }
    cp_async_wait<CU_STAGES - 2>();
    __syncthreads();
    part[0].load(shared + x_at, shared + w_at, x_chunk, w_chunk);
    int now = 0, next = CU_STAGES - 1;
    for (int step = 0; step < steps; step++) {
        const int after = now + 1 == CU_STAGES ? 0 : now + 1;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            const bool last = slice + 1 == SLICES;
            if (last) {
                cp_async_wait<CU_STAGES - 2>();
                __syncthreads();
            }
            const shared_at stage = shared + (last ? after : now) * STAGE_BYTES;
            const uint32_t flip = (uint32_t)((slice + 1) % SLICES) << 5;
            part[(slice + 1) & 1].load(stage + x_at, stage + w_at, x_chunk ^ flip, w_chunk ^ flip);
            if (slice == 0) {
                if (step + CU_STAGES - 1 < steps)
                    f.fetch(shared + next * STAGE_BYTES);
                cp_async_commit();
            }
            multiply<DT>(acc, part[slice & 1]);
        }
        next = now;
        now = after;
    }
    cp_async_wait<0>();
}

#if HAVE_WGMMA

// The same by a warpgroup for its 64 rows and all outputs of the tile. While a stage is multiplied
// the next two come in; the one before it is free when all warpgroups have seen it multiplied.
template <int OUTS, int ROWS>
__device__ __forceinline__ void group_products(float (&acc)[1][OUTS / 8][4],
                                               feed<OUTS, ROWS, true> &f, shared_at shared,
                                               int group_row)
{
    enum { STAGE_BYTES = CU_GROUP_STAGE_BYTES, SLICES = CU_TILE_DEPTH / 16, AHEAD = 2 };
    const int steps = (f.in + CU_TILE_DEPTH - 1) / CU_TILE_DEPTH;
#pragma unroll
    for (int j = 0; j < OUTS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            acc[0][j][e] = 0;
#pragma unroll
    for (int s = 0; s < AHEAD; s++) {
        if (s < steps)
            f.fetch(shared + s * STAGE_BYTES);
        cp_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        const shared_at stage = shared + step % CU_GROUP_STAGES * STAGE_BYTES;
        cp_async_wait<AHEAD - 1>();
        wgmma_publish();
        __syncthreads();
        const wgmma_tile x = wgmma_tile_at(stage + group_row * ROW_BYTES);
        const wgmma_tile w = wgmma_tile_at(stage + ROWS * ROW_BYTES);
        wgmma_begin();
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++)
            wgmma_m64n256k16_bf16(acc[0], wgmma_slice(x, slice), wgmma_slice(w, slice));
        wgmma_end_group();
        if (step + AHEAD < steps)
            f.fetch(shared + (step + AHEAD) % CU_GROUP_STAGES * STAGE_BYTES);
        cp_async_commit();
        wgmma_wait<1>();
    }
    wgmma_wait<0>();
    cp_async_wait<0>();
}

#endif

__device__ __forceinline__ float silu_mul_near(float gate, float up)
{
    return divide_fast(gate, 1.0f + exp2_fast(-1.44269504f * gate)) * up;
}

__device__ __forceinline__ void store_pair(float *y, int left, bool even, float v0, float v1)
{
    if (even && left > 1) {
        *(float2 *)y = make_float2(v0, v1);
    } else {
        y[0] = v0;
        if (left > 1)
            y[1] = v1;
    }
}

// Two neighbouring outputs of one row, fp32.
template <int DT>
__device__ __forceinline__ void finish(const cu_product &a, int64_t row, int out, bool even,
                                       float v0, float v1)
{
    const int64_t at = row * a.y_stride + out;
    const bool two = out + 1 < a.out;
    if (a.bias) {
        v0 += load_any(a.bias, a.bias_dtype, out);
        v1 += two ? load_any(a.bias, a.bias_dtype, out + 1) : 0;
    }
    if (a.residual) {
        v0 += a.residual[at];
        v1 += two ? a.residual[at + 1] : 0;
    }
    store_pair((float *)a.y + at, a.out - out, even, v0, v1);
}

template <int DT, int MI, int NI, bool GATED>
__device__ __forceinline__ void write_tile(const cu_product &a, const cu_tile &tile,
                                           const float (&acc)[MI][NI][4], int warp_row,
                                           int first_out)
{
    const int lane = threadIdx.x & 31;
    const bool even = ((a.y_stride | (int64_t)((uintptr_t)a.y / 4)) & 1) == 0;
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int m = warp_row + i * 16 + half * 8 + lane / 4;
            if (m >= tile.count)
                continue;
            const int64_t row = a.y_row ? a.y_row[tile.first + m] : tile.first + m;
#pragma unroll
            for (int j = 0; j < (GATED ? NI / 2 : NI); j++) {
                const int out = first_out + j * 8 + lane % 4 * 2;
                const float v0 = acc[i][j][half * 2], v1 = acc[i][j][half * 2 + 1];
                if (out >= a.out)
                    continue;
                if (!GATED) {
                    finish<DT>(a, row, out, even, v0, v1);
                    continue;
                }
                const float *up = acc[i][(j + NI / 2) % NI];
                uint16_t *y = (uint16_t *)a.y + row * a.y_stride + out;
                const uint32_t both = pack16<DT>(silu_mul_near(v0, up[half * 2]),
                                                 silu_mul_near(v1, up[half * 2 + 1]));
                if (a.out % 2 == 0) {
                    *(uint32_t *)y = both;
                } else {
                    y[0] = (uint16_t)both;
                    if (out + 1 < a.out)
                        y[1] = (uint16_t)(both >> 16);
                }
            }
        }
}

// One tile by warps that stand WARPS_M x the rest, each with MI x NI fragments.
template <int DT, int OUTS, int WARPS_M, int MI, bool WIDE, bool GATED>
__device__ __forceinline__ void run_tile(const cu_product &a, const cu_tile &tile, int out_tile,
                                         shared_at shared)
{
    enum {
        COLUMNS = 32 * WARPS_M,
        NI = COLUMNS / 8,
        ROWS = WARPS_M * MI * 16,
        MADE = GATED ? 2 : 1
    };
    const int warp = threadIdx.x / 32;
    const int warp_m = warp % WARPS_M, warp_n = warp / WARPS_M;
    const int first_out = out_tile * (OUTS / MADE);
    feed<OUTS, ROWS, WIDE> f;
    float acc[MI][NI][4];
    feed_begin<OUTS, ROWS, COLUMNS, WIDE, GATED>(f, a, tile, first_out);
    products<DT>(acc, f, shared, warp_m * MI * 16, warp_n * COLUMNS);
    write_tile<DT, MI, NI, GATED>(a, tile, acc, warp_m * MI * 16,
                                  first_out + warp_n * (COLUMNS / MADE));
}

// The tile of this block, and which of its outputs.
__device__ __forceinline__ cu_tile tile_of(const cu_product &a, int *out_tile)
{
    const int index = (int)blockIdx.x / a.out_tiles;
    cu_tile tile;
    *out_tile = (int)blockIdx.x % a.out_tiles;
    if (a.tile) {
        tile = a.tile[index];
    } else {
        tile.w = a.w;
        tile.first = index * a.rows;
        tile.count = min(a.rows, a.n - tile.first);
    }
    return tile;
}

template <int DT, int OUTS, bool WIDE, bool GATED>
__device__ __forceinline__ void product(const cu_product &a)
{
    SHARED_DYNAMIC(uint4, stages);
    int out_tile;
    const cu_tile tile = tile_of(a, &out_tile);
    const shared_at shared = shared_address(stages);
    if (!WIDE)
        run_tile<DT, OUTS, 1, 2, WIDE, GATED>(a, tile, out_tile, shared);
    else if (tile.count > 64)
        run_tile<DT, OUTS, 2, 4, true, GATED>(a, tile, out_tile, shared);
    else if (tile.count > 32)
        run_tile<DT, OUTS, 1, 4, true, GATED>(a, tile, out_tile, shared);
    else if (tile.count > 16)
        run_tile<DT, OUTS, 1, 2, true, GATED>(a, tile, out_tile, shared);
    else
        run_tile<DT, OUTS, 1, 1, true, GATED>(a, tile, out_tile, shared);
}

// bf16, 256 outputs. Up to 64 rows are multiplied as elsewhere.
template <bool GATED> __device__ __forceinline__ void group_product(const cu_product &a)
{
#if HAVE_WGMMA
    enum { OUTS = 256, ROWS = CU_TILE_ROWS };
    SHARED_DYNAMIC_ALIGNED(uint4, aligned_stages, WGMMA_ALIGNMENT);
    int out_tile;
    const cu_tile tile = tile_of(a, &out_tile);
    const shared_at shared = shared_address(aligned_stages);
    if (tile.count <= WGMMA_ROWS) {
        run_tile<DTYPE_BF16, OUTS, 1, 4, true, GATED>(a, tile, out_tile, shared);
        return;
    }
    const int first_out = out_tile * (GATED ? OUTS / 2 : OUTS);
    const int group_row = (int)threadIdx.x / WGMMA_THREADS * WGMMA_ROWS;
    feed<OUTS, ROWS, true> f;
    float acc[1][OUTS / 8][4];
    feed_begin<OUTS, ROWS, OUTS, true, GATED>(f, a, tile, first_out);
    group_products<OUTS, ROWS>(acc, f, shared, group_row);
    write_tile<DTYPE_BF16, 1, OUTS / 8, GATED>(
        a, tile, acc, group_row + (int)threadIdx.x / 32 % 4 * 16, first_out);
#endif
}

KERNEL __launch_bounds__(256, 1) product_bf16_groups(const __grid_constant__ cu_product a)
{
    group_product<false>(a);
}

KERNEL __launch_bounds__(256, 1) product_gated_bf16_groups(const __grid_constant__ cu_product a)
{
    group_product<true>(a);
}

#define PRODUCT(suffix, DT, OUTS, WIDE)                                                            \
    KERNEL __launch_bounds__(OUTS, 256 / OUTS)                                                     \
        product_##suffix(const __grid_constant__ cu_product a)                                     \
    {                                                                                              \
        product<DT, OUTS, WIDE, false>(a);                                                         \
    }                                                                                              \
    KERNEL __launch_bounds__(OUTS, 256 / OUTS)                                                     \
        product_gated_##suffix(const __grid_constant__ cu_product a)                               \
    {                                                                                              \
        product<DT, OUTS, WIDE, true>(a);                                                          \
    }

PRODUCT(bf16_128, DTYPE_BF16, 128, true)
PRODUCT(bf16_256, DTYPE_BF16, 256, true)
PRODUCT(bf16_any, DTYPE_BF16, 128, false)
PRODUCT(f16_128, DTYPE_F16, 128, true)
PRODUCT(f16_any, DTYPE_F16, 128, false)

// blockIdx.x: row; blockIdx.y: a part of CU_THREADS * 4 elements.
template <int DT> __device__ __forceinline__ void round_row(const cu_round &a)
{
    const float *x = a.x + blockIdx.x * a.x_stride;
    uint16_t *y = (uint16_t *)a.y + blockIdx.x * a.y_stride;
    const int j = ((int)blockIdx.y * CU_THREADS + (int)threadIdx.x) * 4;
    if (j + 4 <= a.dim && ((uintptr_t)(x + j) & 15) == 0 && ((uintptr_t)(y + j) & 7) == 0) {
        const float4 v = *(const float4 *)(x + j);
        *(uint2 *)(y + j) = make_uint2(pack16<DT>(v.x, v.y), pack16<DT>(v.z, v.w));
        return;
    }
    for (int e = j; e < min(j + 4, a.dim); e++)
        y[e] = (uint16_t)pack16<DT>(x[e], 0);
}

KERNEL __launch_bounds__(CU_THREADS) round_bf16(const __grid_constant__ cu_round a)
{
    round_row<DTYPE_BF16>(a);
}

KERNEL __launch_bounds__(CU_THREADS) round_f16(const __grid_constant__ cu_round a)
{
    round_row<DTYPE_F16>(a);
}
