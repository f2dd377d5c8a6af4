// A packed row (packed.h) times a vector in shared memory, by a warp: of a fused step
// (fused_step.cuh).
//
// A row is taken in runs of a few shapes, each straight code without a branch, so that what one
// number waits for passes with the others' arithmetic; all of a run is asked for at once. Escapes
// cost nothing there: each lane has its own upper byte for them. Only where a lane would need two
// are they put in one by one. All wait for the slowest warp, so a rare row may not be slow.
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

// A row with more escapes than lanes: its product by lane 0.
__device__ __noinline__ float packed_crowded_sum(const uint8_t *row, int in, int x_at)
{
    SHARED_DYNAMIC(uint8_t, shared);
    const float *x = (const float *)(shared + x_at);
    const auto x_of = [&](int, int k, float(&xs)[8]) { load_vector(x + place_of(k), xs); };
    const uint8_t *const rows[1] = {row};
    float y[1][1];
    packed_dots<1, 1, 1, packed_once>(rows, x_of, 1, in, y);
    return lane_of() ? -0.0f : y[0][0]; // -0 changes no sum
}

// What all runs of a row have.
struct packed_state : packed_marks {
    const uint8_t *w; // of the row
    const float *x;   // the lane's place in the vector
    float sum[8];
};

// The lane's 8 elements k+8l..k+8l+7 of the 256 from k on.
__device__ __forceinline__ void add_eight(packed_state &s, const packed_eight &w, int k)
{
    float xs[8], wide[8];
    load_vector(s.x + k, xs);
#pragma unroll
    for (int q = 0; q < 4; q++)
        widen_bf16(w.pair[q], wide + 2 * q);
#pragma unroll
    for (int e = 0; e < 8; e++)
        s.sum[e] = __fmaf_rn(wide[e], xs[e], s.sum[e]);
}

template <bool BY_ONE>
__device__ __forceinline__ void add_256(packed_state &s, const packed_piece &piece, bool others,
                                        int k)
{
    packed_eight w = packed_half(s.row, piece, others);
    if (BY_ONE)
        put_escapes(s, w, k);
    add_eight(s, w, k);
}

// BLOCKS of 512 and, if HALF, one of 256 behind them.
template <int BLOCKS, bool HALF> struct packed_run {
    packed_piece piece[BLOCKS + HALF];

    __device__ __forceinline__ void load(const uint8_t *row, int k)
    {
        const uint8_t *at = row + PACKED_HEAD_BYTES + k + k / 2;
#pragma unroll
        for (int i = 0; i < BLOCKS; i++, at += 768)
            piece[i] = {load_once(at + lane_of() * 16), load_two_once(at + 512 + lane_of() * 8)};
        if (HALF) {
            const uint2 low = load_two_once(at + lane_of() * 8);
            piece[BLOCKS] = {{low.x, low.y, 0, 0}, {load_word_once(at + 256 + lane_of() * 4), 0}};
        }
    }

    template <bool BY_ONE> __device__ __forceinline__ void add_all(packed_state &s, int k) const
    {
#pragma unroll
        for (int i = 0; i < BLOCKS; i++) {
            add_256<BY_ONE>(s, piece[i], false, k + i * 512);
            add_256<BY_ONE>(s, piece[i], true, k + i * 512 + 256);
        }
        if (HALF)
            add_256<BY_ONE>(s, piece[BLOCKS], false, k + BLOCKS * 512);
    }

    // From element k on.
    __device__ __forceinline__ void add(packed_state &s, int k) const
    {
        if (s.by_one)
            add_all<true>(s, k);
        else
            add_all<false>(s, k);
    }
};

// Fewer than 256 numbers, the last ones.
__device__ __forceinline__ void add_rest(packed_state &s, int k, int in)
{
    const int n = in - k, lane = min(lane_of(), n / 8 - 1); // the others' are not used
    const uint8_t *at = s.w + PACKED_HEAD_BYTES + k + k / 2;
    const uint2 low = load_two_once(at + lane * 8);
    packed_eight w = packed_bits(s.row, low.x, low.y, load_word_once(at + n + lane * 4));
    put_escapes(s, w, k);
    if (lane_of() * 8 < n)
        add_eight(s, w, k);
}

// Begins a row whose first run has been asked for. False: more escapes than lanes.
__device__ __forceinline__ bool begin_row(packed_state &s, uint4 head)
{
    // Or the compiler computes what it has need of before it asks for anything else.
    keep_here(head.x);
    keep_here(head.y);
    const int n = (int)(head.x >> 16);
    s.row = packed_row_of(head.x);
    s.escape = packed_outsiders::NONE;
    s.by_one = false;
#pragma unroll
    for (int e = 0; e < 8; e++)
        s.sum[e] = 0;
    if (n == 0 || n > 32)
        return n == 0;
    const int lane = lane_of();
    uint32_t own = lane == 0 ? head.y : lane == 1 ? head.z : head.w;
    if (n > PACKED_OWN)
        own = lane < n ? ((const uint32_t *)(s.w + head.y))[lane] : 0;
    take_escapes(s, own, n);
    return true;
}

template <int BLOCKS, bool HALF>
__device__ __forceinline__ bool first_run(packed_state &s, const uint4 &head)
{
    packed_run<BLOCKS, HALF> run;
    run.load(s.w, 0);
    if (!begin_row(s, head))
        return false;
    run.add(s, 0);
    return true;
}

template <int BLOCKS, bool HALF> __device__ __forceinline__ int later_run(packed_state &s, int k)
{
    packed_run<BLOCKS, HALF> run;
    run.load(s.w, k);
    run.add(s, k);
    return k + BLOCKS * 512 + HALF * 256;
}

// What follows the first run.
__device__ __forceinline__ void add_more(packed_state &s, int k, int in)
{
#pragma unroll 1
    while (in - k >= 256)
        k = in - k >= 2048   ? later_run<4, false>(s, k)
            : in - k >= 1024 ? later_run<2, false>(s, k)
            : in - k >= 512  ? later_run<1, false>(s, k)
                             : later_run<0, true>(s, k);
    if (k < in)
        add_rest(s, k, in);
}

// The lane's sum of 8 partial sums. Not inlined, as far_dots (fused_rows.cuh).
__device__ __noinline__ float packed_far_sum(const uint8_t *row, int in, int x_at)
{
    SHARED_DYNAMIC(uint8_t, shared);
    const uint4 head = load_once(row);
    packed_state s;
    s.w = row;
    s.x = (const float *)(shared + x_at) + lane_of() * 4;
    int k = 0;
    bool few = true;
    if (in >= 2048)
        few = first_run<4, false>(s, head), k = 2048;
    else if (in >= 1024)
        few = first_run<2, false>(s, head), k = 1024;
    else if (in >= 768)
        few = first_run<1, true>(s, head), k = 768;
    else
        few = begin_row(s, head);
    if (!few)
        return packed_crowded_sum(row, in, x_at);
    if (k < in)
        add_more(s, k, in);
    return sum_of_eight(s.sum);
}

// As far_dots, of packed rows, of the first n of them.
template <int R>
__device__ __forceinline__ dotted<R> packed_far_dots(const far_rows<R> &rows, int n, int in,
                                                     int x_at)
{
    float s[R];
#pragma unroll
    for (int r = 0; r < R; r++)
        s[r] = r < n ? packed_far_sum(rows.w[r], in, x_at) : 0;
    const float all = trees(s);
    dotted<R> d;
#pragma unroll
    for (int r = 0; r < R; r++)
        d.y[r] = __shfl_sync(0xffffffffu, all, r * (32 / R));
    return d;
}

#endif
