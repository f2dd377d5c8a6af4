// Packed rows (packed.h) on the device: eight numbers from their low bytes and codes, and the sums
// of the FMA class over such rows, which have the bits of the same rows in bf16.
#ifndef MOED_KERNELS_CUDA_PACKED_CUH
#define MOED_KERNELS_CUDA_PACKED_CUH

#include "common.cuh"
#include "packed.h"

// What a row's codes stand for.
struct packed_row {
    uint32_t lo, hi; // upper bytes of codes 0..3 and 4..7
};

// head: the row's first word.
__device__ __forceinline__ packed_row packed_row_of(uint32_t head)
{
    const uint32_t base = (head & 0xff) * 0x01010101u, hi = base + 0x07060504u;
    return {base + 0x03020100u, head & 0xff00 ? hi & 0xff00ffffu : hi};
}

// Upper bytes of the numbers of four codes, the first lowest; index: the codes without their signs.
__device__ __forceinline__ uint32_t packed_upper(const packed_row &row, uint32_t index,
                                                 uint32_t codes)
{
    // A sign that is set makes a byte 0xff of 0x80.
    const uint32_t sign = permute(0x80808080u, 0x80808080u, codes);
    return permute(row.lo, row.hi, index) | (sign << 1 & 0x80808080u);
}

// Eight numbers as pairs of bf16.
struct packed_eight {
    uint32_t pair[4];
};

// Of low bytes 0..3 and 4..7 and codes; escapes are wrong.
__device__ __forceinline__ packed_eight packed_bits(const packed_row &row, uint32_t low0,
                                                    uint32_t low1, uint32_t codes)
{
    const uint32_t index = codes & 0x77777777u;
    const uint32_t up0 = packed_upper(row, index, codes);
    const uint32_t up1 = packed_upper(row, index >> 16, codes >> 16);
    return {{permute(low0, up0, 0x5140), permute(low0, up0, 0x7362), permute(low1, up1, 0x5140),
             permute(low1, up1, 0x7362)}};
}

// How weights are read that each are read once by this block.
struct packed_stream {
    static __device__ __forceinline__ uint4 load_16(const uint8_t *p)
    {
        return load_stream(p);
    }
    static __device__ __forceinline__ uint2 load_8(const uint8_t *p)
    {
        return load_stream_8(p);
    }
    static __device__ __forceinline__ uint32_t load_4(const uint8_t *p)
    {
        return load_stream_4(p);
    }
};

// What a lane has of a row's numbers k..k+511, k a multiple of 512, or of as many as there are:
// k+8l..k+8l+7 in low.x, low.y, codes.x, and those 256 later in the others.
struct packed_piece {
    uint4 low;
    uint2 codes;
};

// Of R rows of `in` numbers. What is not there is 0.
template <int R, class Load>
__device__ __forceinline__ void packed_load(packed_piece (&piece)[R],
                                            const uint8_t *const (&row)[R], int k, int in)
{
    const int lane = threadIdx.x & 31, left = in - k, first = min(left, 256), more = left - first;
    const int at = PACKED_HEAD_BYTES + k + k / 2;
    if (left >= 512) {
#pragma unroll
        for (int r = 0; r < R; r++) {
            piece[r].low = Load::load_16(row[r] + at + lane * 16);
            piece[r].codes = Load::load_8(row[r] + at + 512 + lane * 8);
        }
        return;
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        uint2 low0 = {}, low1 = {};
        piece[r].codes = {};
        if (lane * 8 < first) {
            low0 = Load::load_8(row[r] + at + lane * 8);
            piece[r].codes.x = Load::load_4(row[r] + at + first + lane * 4);
        }
        if (lane * 8 < more) {
            low1 = Load::load_8(row[r] + at + 384 + lane * 8);
            piece[r].codes.y = Load::load_4(row[r] + at + 384 + more + lane * 4);
        }
        piece[r].low = {low0.x, low0.y, low1.x, low1.y};
    }
}

// The first eight or the others of a piece.
__device__ __forceinline__ packed_eight packed_half(const packed_row &row, const packed_piece &p,
                                                    bool others)
{
    return others ? packed_bits(row, p.low.z, p.low.w, p.codes.y)
                  : packed_bits(row, p.low.x, p.low.y, p.codes.x);
}

// The escapes of R rows, eight at most, as a warp holds them.
struct packed_outsiders {
    uint32_t own;    // lane 4r + 1 + i has escape i of row r, where the row's head has it; or NONE
    uint32_t listed; // bit 4r: row r's are in a list
    enum : uint32_t { NONE = 0xffffffffu };
};

// The heads of R rows: lane 4r + i gets word i of row r.
template <int R, class Load>
__device__ __forceinline__ uint32_t packed_load_heads(const uint8_t *const (&row)[R])
{
    static_assert(R <= 8 && PACKED_HEAD_BYTES == 16, "a head is four lanes' words");
    const int lane = threadIdx.x & 31;
    int64_t from = lane % 4 * 4;
#pragma unroll
    for (int r = 1; r < R; r++)
        from += (row[r] - row[0]) & -(int64_t)(lane / 4 == r);
    return Load::load_4(row[0] + from);
}

template <int R> __device__ __forceinline__ packed_outsiders packed_outsiders_of(uint32_t heads)
{
    static_assert(PACKED_OWN == 3, "a head is one word and its escapes");
    const int lane = threadIdx.x & 31;
    const uint32_t n = __shfl_sync(0xffffffffu, heads, lane & ~3) >> 16, i = lane & 3;
    const bool own = lane < 4 * R && i > 0 && i <= n && n <= PACKED_OWN;
    const bool listed = lane < 4 * R && i == 0 && n > PACKED_OWN;
    return {own ? heads : (uint32_t)packed_outsiders::NONE, __ballot_sync(0xffffffffu, listed)};
}

// One escape into the numbers of row r that the warp holds from `first` on. By masks: a compiler
// that sees a choice of registers may put them all into memory.
template <int R>
__device__ __forceinline__ void packed_put(packed_eight (&w)[R], int r, uint32_t escape, int first)
{
    const int at = (int)(escape >> 16) - first;
    const int mine = at >> 3 == (int)(threadIdx.x & 31) ? r * 4 + (at >> 1 & 3) : -1;
    const uint32_t half = at & 1 ? 0xffff0000u : 0x0000ffffu;
    const uint32_t bits = (escape & 0xffff) * 0x00010001u;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const uint32_t mask = mine == i * 4 + q ? half : 0;
            w[i].pair[q] = (w[i].pair[q] & ~mask) | (bits & mask);
        }
}

// Puts in what escapes there are among elements first..first+255 of R rows, of which lane l holds
// 8l..8l+7. All lanes of the warp take part.
template <int R>
__device__ __forceinline__ void packed_put_all(packed_eight (&w)[R], const packed_outsiders &e,
                                               const uint8_t *const (&row)[R], int first)
{
    const auto here = [&](uint32_t escape) { return (escape >> 16) - (uint32_t)first < 256; };
    for (uint32_t left = __ballot_sync(0xffffffffu, here(e.own)); left; left &= left - 1) {
        const int lane = __ffs((int)left) - 1;
        packed_put(w, lane / 4, __shfl_sync(0xffffffffu, e.own, lane), first);
    }
    if (!e.listed)
        return;
#pragma unroll
    for (int r = 0; r < R; r++) {
        const struct packed_head *head = (const struct packed_head *)row[r];
        const uint32_t *list = (const uint32_t *)(row[r] + head->own[0]);
        const int n = e.listed >> 4 * r & 1 ? head->escapes : 0;
#pragma unroll 1
        for (int i = 0; i < n; i++)
            if (here(list[i]))
                packed_put(w, r, list[i], first);
    }
}

// A row's table with the lane's own upper byte for escapes in place of its eighth, for rows with 32
// escapes at most.
struct packed_marks {
    packed_row row;
    uint32_t escape; // one of the row's by each lane: column << 16 | bits; or none
    bool by_one;     // a lane would need two such bytes: escapes are put in one by one
};

// n escapes, of which this lane has one or none. Upper bytes: each lane's own.
__device__ __forceinline__ void take_escapes(packed_marks &s, uint32_t escapes, int n)
{
    enum : uint32_t { NONE = 0x100 };
    uint32_t upper = NONE;
    bool two = false;
#pragma unroll 1
    for (int i = 0; i < n; i++) {
        const uint32_t e = __shfl_sync(0xffffffffu, escapes, i), u = e >> 8 & 0x7f;
        const bool mine = (e >> 19 & 31) == (uint32_t)lane_of();
        two = two || (mine && upper != NONE && upper != u);
        upper = mine ? u : upper;
    }
    s.escape = lane_of() < n ? escapes : (uint32_t)packed_outsiders::NONE;
    s.by_one = __any_sync(0xffffffffu, two);
    s.row.hi = upper == NONE ? s.row.hi : permute(s.row.hi, upper, 0x4210);
}

// Into the numbers k+8l..k+8l+7 of each lane.
__device__ __forceinline__ void put_escapes(const packed_marks &s, packed_eight &w, int k)
{
    packed_eight one[1] = {w};
    const bool here = s.escape >> 24 == (uint32_t)k >> 8;
    for (uint32_t left = __ballot_sync(0xffffffffu, here); left; left &= left - 1)
        packed_put(one, 0, __shfl_sync(0xffffffffu, s.escape, __ffs((int)left) - 1), k);
    w = one[0];
}

// Adds up elements first..first+255 of R rows, of which a piece has the first or the other eight.
template <int R, int NB, class X>
__device__ __forceinline__ void
packed_add(const packed_row (&row)[R], const packed_piece (&piece)[R], bool others,
           const packed_outsiders &escapes, const uint8_t *const (&w)[R], int first, int in,
           const X &x_of, int count, float (&acc)[R][NB][8])
{
    const int k = first + (int)(threadIdx.x & 31) * 8;
    packed_eight bits[R];
    float wide[R][8];
#pragma unroll
    for (int r = 0; r < R; r++)
        bits[r] = packed_half(row[r], piece[r], others);
    packed_put_all(bits, escapes, w, first);
    if (k >= in)
        return;
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int q = 0; q < 4; q++)
            widen_bf16(bits[r].pair[q], wide[r] + 2 * q);
#pragma unroll
    for (int b = 0; b < NB; b++) {
        float xs[8];
        if (NB > 1 && b >= count)
            break;
        x_of(b, k, xs);
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int e = 0; e < 8; e++)
                acc[r][b][e] = __fmaf_rn(wide[r][e], xs[e], acc[r][b][e]);
    }
}

// dots of packed rows, on 16-byte edges. x_of(b, k, xs) gives activations k..k+7 of row b. AHEAD
// pieces of each row are asked for together.
template <int R, int NB, int AHEAD, class Load, class X>
__device__ __forceinline__ void packed_dots(const uint8_t *const (&w)[R], const X &x_of, int count,
                                            int in, float (&out)[R][NB])
{
    const uint32_t heads = packed_load_heads<R, Load>(w);
    float acc[R][NB][8];
    packed_row row[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        row[r] = packed_row_of(__shfl_sync(0xffffffffu, heads, 4 * r));
#pragma unroll
        for (int b = 0; b < NB; b++)
#pragma unroll
            for (int e = 0; e < 8; e++)
                acc[r][b][e] = 0;
    }
    const packed_outsiders escapes = packed_outsiders_of<R>(heads);
#pragma unroll 1
    for (int turn = 0; turn < in;) {
        packed_piece piece[AHEAD][R];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (turn + i * 512 < in)
                packed_load<R, Load>(piece[i], w, turn + i * 512, in);
#pragma unroll 1
        for (const int end = min(turn + AHEAD * 512, in); turn < end; turn += 512) {
#pragma unroll
            for (int half = 0; half < 2; half++)
                if (turn + half * 256 < in)
                    packed_add(row, piece[0], half, escapes, w, turn + half * 256, in, x_of, count,
                               acc);
#pragma unroll
            for (int i = 1; i < AHEAD; i++)
#pragma unroll
                for (int r = 0; r < R; r++)
                    piece[i - 1][r] = piece[i][r];
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int b = 0; b < NB; b++)
            out[r][b] = tree(acc[r][b]);
}

// What kernels of either class are made for: a dtype, or this.
enum { PACKED_BF16 = DTYPE_COUNT };

// Rows of either class times activations in memory; VEC: see dots.
template <int DT, int R, int NB, bool VEC>
__device__ __forceinline__ void dots_of(const uint8_t *const (&w)[R], const float *const (&x)[NB],
                                        int count, int in, float (&out)[R][NB])
{
    if constexpr (DT == PACKED_BF16) {
        const auto x_of = [&](int b, int k, float(&xs)[8]) {
            const float4 lo = ((const float4 *)(x[b] + k))[0], hi = ((const float4 *)(x[b] + k))[1];
            xs[0] = lo.x, xs[1] = lo.y, xs[2] = lo.z, xs[3] = lo.w;
            xs[4] = hi.x, xs[5] = hi.y, xs[6] = hi.z, xs[7] = hi.w;
        };
        packed_dots<R, NB, NB == 1 ? 2 : 1, packed_stream>(w, x_of, count, in, out);
    } else {
        dots<DT, R, NB, VEC>(w, x, count, in, out);
    }
}

#endif
