// A packed row (packed.h) times a vector in shared memory, by a warp: of a fused step
// (fused_step.cuh).
//
// All of a row of the usual length is asked for at once; while it comes, the other warps of the
// processor unpack theirs. Unpacking wants straight code: rows without escapes have their own. A
// list of escapes is read once, each by a lane: all wait for the slowest warp, so a rare row may
// not be slow.
#ifndef MOED_KERNELS_CUDA_FUSED_PACKED_ROWS_CUH
#define MOED_KERNELS_CUDA_FUSED_PACKED_ROWS_CUH

#include "fused_rows.cuh"
#include "packed.cuh"

struct packed_once {
    static __device__ __forceinline__ uint4 load_16(const uint8_t *p)
    {
        return load_once(p);
    }
    static __device__ __forceinline__ uint2 load_8(const uint8_t *p)
    {
        return load_two_once(p);
    }
    static __device__ __forceinline__ uint32_t load_4(const uint8_t *p)
    {
        return load_word_once(p);
    }
};

__device__ __forceinline__ void load_vector(const float *at, float (&xs)[8])
{
    const float4 lo = *(const float4 *)at, hi = *(const float4 *)(at + 128);
    xs[0] = lo.x, xs[1] = lo.y, xs[2] = lo.z, xs[3] = lo.w;
    xs[4] = hi.x, xs[5] = hi.y, xs[6] = hi.z, xs[7] = hi.w;
}

// A row with more escapes than lanes.
__device__ __noinline__ float packed_crowded_dot(const uint8_t *row, int in, int x_at)
{
    SHARED_DYNAMIC(uint8_t, shared);
    const float *x = (const float *)(shared + x_at);
    const auto x_of = [&](int, int k, float(&xs)[8]) { load_vector(x + place_of(k), xs); };
    const uint8_t *const rows[1] = {row};
    float y[1][1];
    packed_dots<1, 1, 1, packed_once>(rows, x_of, 1, in, y);
    return y[0][0];
}

// What a lane has of a block of 512, and of 256 numbers or fewer.
__device__ __forceinline__ packed_piece load_block(const uint8_t *row, int k)
{
    const uint8_t *at = row + PACKED_HEAD_BYTES + k + k / 2;
    return {load_once(at + lane_of() * 16), load_two_once(at + 512 + lane_of() * 8)};
}

__device__ __forceinline__ packed_piece load_few(const uint8_t *row, int k, int n)
{
    const uint8_t *at = row + PACKED_HEAD_BYTES + k + k / 2;
    const int lane = min(lane_of(), n / 8 - 1); // the others' are not used
    const uint2 low = load_two_once(at + lane * 8);
    return {{low.x, low.y, 0, 0}, {load_word_once(at + n + lane * 4), 0}};
}

// Up to 256 elements, from k on. OWN: the row has escapes, each of them some lane's.
template <bool OWN>
__device__ __forceinline__ void add_half(const packed_row &row, const packed_piece &piece,
                                         bool others, uint32_t own, const float *x, int k, int in,
                                         float (&sum)[8])
{
    packed_eight w[1] = {packed_half(row, piece, others)};
    float xs[8], wide[8];
    if (OWN) {
        const bool here = own >> 24 == (uint32_t)k >> 8;
        for (uint32_t left = __ballot_sync(0xffffffffu, here); left; left &= left - 1)
            packed_put(w, 0, __shfl_sync(0xffffffffu, own, __ffs((int)left) - 1), k);
    }
    if (k + 256 > in && k + lane_of() * 8 >= in)
        return;
    load_vector(x + k, xs);
#pragma unroll
    for (int q = 0; q < 4; q++)
        widen_bf16(w[0].pair[q], wide + 2 * q);
#pragma unroll
    for (int e = 0; e < 8; e++)
        sum[e] = __fmaf_rn(wide[e], xs[e], sum[e]);
}

// Blocks from `turn` on, as many as there are of those asked for together.
template <bool OWN, int AHEAD>
__device__ __forceinline__ void add_blocks(const packed_row &row,
                                           const packed_piece (&piece)[AHEAD], uint32_t own,
                                           const float *x, int turn, int full, float (&sum)[8])
{
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
        const int k = turn + i * 512;
        if (k >= full)
            break;
        add_half<OWN>(row, piece[i], false, own, x, k, full, sum);
        add_half<OWN>(row, piece[i], true, own, x, k + 256, full, sum);
    }
}

// Every lane gets the result. Not inlined, as far_dots (fused_rows.cuh).
__device__ __noinline__ float packed_far_dot(const uint8_t *at, int in, int x_at)
{
    enum { AHEAD = 4, BLOCK = 512, HALF = 256 };
    SHARED_DYNAMIC(uint8_t, shared);
    const float *x = (const float *)(shared + x_at) + lane_of() * 4;
    const uint8_t *const rows[1] = {at};
    const uint32_t heads = packed_load_heads<1, packed_once>(rows);
    const int full = in & ~(BLOCK - 1);
    packed_piece piece[AHEAD], last = {};
    const auto load = [&](int turn) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (turn + i * BLOCK < full)
                piece[i] = load_block(at, turn + i * BLOCK);
    };
    load(0);
    if (full < in)
        last = load_few(at, full, min(in - full, HALF));
    const packed_row row = packed_row_of(__shfl_sync(0xffffffffu, heads, 0));
    const uint32_t escapes = __shfl_sync(0xffffffffu, heads, 0) >> 16;
    uint32_t own = packed_outsiders_of<1>(heads).own;
    if (escapes > PACKED_OWN) {
        const uint32_t *list = (const uint32_t *)(at + __shfl_sync(0xffffffffu, heads, 1));
        own =
            lane_of() < (int)min(escapes, 32u) ? list[lane_of()] : (uint32_t)packed_outsiders::NONE;
    }
    float sum[8] = {};
#pragma unroll 1
    for (int turn = 0; turn < full; turn += AHEAD * BLOCK) {
        if (turn > 0)
            load(turn);
        if (escapes)
            add_blocks<true, AHEAD>(row, piece, own, x, turn, full, sum);
        else
            add_blocks<false, AHEAD>(row, piece, own, x, turn, full, sum);
    }
#pragma unroll 1
    for (int k = full; k < in; k += HALF) {
        add_half<true>(row, last, false, own, x, k, in, sum);
        if (k + HALF < in)
            last = load_few(at, k + HALF, in - k - HALF);
    }
    return escapes > 32 ? packed_crowded_dot(at, in, x_at) : tree(sum);
}

// As far_dots, of packed rows.
template <int R>
__device__ __forceinline__ dotted<R> packed_far_dots(const far_rows<R> &rows, int in, int x_at)
{
    dotted<R> d;
#pragma unroll
    for (int r = 0; r < R; r++)
        d.y[r] = packed_far_dot(rows.w[r], in, x_at);
    return d;
}

#endif
