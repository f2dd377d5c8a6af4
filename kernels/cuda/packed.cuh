// Packed rows (packed.h) on the device: eight numbers from their low bytes and codes, and the sums
// of the FMA class over such rows, which have the bits of the same rows in bf16.
#ifndef MOED_KERNELS_CUDA_PACKED_CUH
#define MOED_KERNELS_CUDA_PACKED_CUH

#include "common.cuh"
#include "packed.h"

// A row as a warp holds it. `at` is where it lies among its record's lists; its numbers may be read
// from a copy elsewhere.
struct packed_row {
    const uint8_t *at;
    uint4 head;      // struct packed_head
    uint32_t lo, hi; // upper bytes of codes 0..3 and 4..7
};

__device__ __forceinline__ packed_row packed_row_of(const uint8_t *at, const uint4 &head)
{
    const uint32_t base = (head.x & 0xff) * 0x01010101u;
    const uint32_t hi = base + 0x07060504u;
    return {at, head, base + 0x03020100u, head.x & 0xff00 ? hi & 0xff00ffffu : hi};
}

// Upper bytes of the numbers of four codes, the first lowest; index: the codes without their signs.
__device__ __forceinline__ uint32_t packed_upper(const packed_row &row, uint32_t index,
                                                 uint32_t codes)
{
    // A sign that is set makes a byte 0xff of 0x80.
    const uint32_t sign = permute(0x80808080u, 0x80808080u, codes);
    return permute(row.lo, row.hi, index) | (sign << 1 & 0x80808080u);
}

// Eight numbers as pairs of bf16, escapes wrong: low bytes 0..3 and 4..7, codes.
__device__ __forceinline__ uint4 packed_bits(const packed_row &row, uint32_t low0, uint32_t low1,
                                             uint32_t codes)
{
    const uint32_t index = codes & 0x77777777u;
    const uint32_t up0 = packed_upper(row, index, codes);
    const uint32_t up1 = packed_upper(row, index >> 16, codes >> 16);
    return make_uint4(permute(low0, up0, 0x5140), permute(low0, up0, 0x7362),
                      permute(low1, up1, 0x5140), permute(low1, up1, 0x7362));
}

// Not 0 where one of eight codes is an escape.
__device__ __forceinline__ uint32_t packed_escaped(uint32_t codes)
{
    return codes & codes >> 1 & codes >> 2 & 0x11111111u;
}

// Puts what escapes the row has among its numbers k..k+7 into their bits. Rare: not inlined, so
// that loops stay small.
static __device__ __noinline__ uint4 packed_patch(uint4 bits, const uint8_t *at, uint4 head, int k)
{
    const uint32_t n = head.x >> 16;
    const uint32_t *list = (const uint32_t *)(at + head.y);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t escape = n > PACKED_OWN ? list[i]
                                : i == 0       ? head.y
                                : i == 1       ? head.z
                                               : head.w;
        const uint32_t place = (escape >> 16) - (uint32_t)k;
        const uint32_t keep = place & 1 ? 0x0000ffffu : 0xffff0000u;
        const uint32_t put = place & 1 ? escape << 16 : escape & 0xffff;
        if (place / 2 == 0)
            bits.x = (bits.x & keep) | put;
        if (place / 2 == 1)
            bits.y = (bits.y & keep) | put;
        if (place / 2 == 2)
            bits.z = (bits.z & keep) | put;
        if (place / 2 == 3)
            bits.w = (bits.w & keep) | put;
    }
    return bits;
}

__device__ __forceinline__ void packed_widen(const uint4 &bits, float (&w)[8])
{
    widen_bf16(bits.x, w);
    widen_bf16(bits.y, w + 2);
    widen_bf16(bits.z, w + 4);
    widen_bf16(bits.w, w + 6);
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

// in: the row's numbers. What is not there is 0.
template <class Load>
__device__ __forceinline__ packed_piece packed_load(const uint8_t *row, int k, int in)
{
    const int lane = threadIdx.x & 31, left = in - k, first = min(left, 256), more = left - first;
    const uint8_t *p = row + PACKED_HEAD_BYTES + k + k / 2;
    packed_piece piece = {};
    if (left >= 512) {
        piece.low = Load::load_16(p + lane * 16);
        piece.codes = Load::load_8(p + 512 + lane * 8);
        return piece;
    }
    if (lane * 8 < first) {
        const uint2 low = Load::load_8(p + lane * 8);
        piece.low.x = low.x, piece.low.y = low.y;
        piece.codes.x = Load::load_4(p + first + lane * 4);
    }
    p += 256 + 128;
    if (lane * 8 < more) {
        const uint2 low = Load::load_8(p + lane * 8);
        piece.low.z = low.x, piece.low.w = low.y;
        piece.codes.y = Load::load_4(p + more + lane * 4);
    }
    return piece;
}

// The numbers of a piece; k: of packed_load, and 8l.
__device__ __forceinline__ void packed_numbers(const packed_row &row, const packed_piece &piece,
                                               int k, float (&first)[8], float (&second)[8])
{
    uint4 a = packed_bits(row, piece.low.x, piece.low.y, piece.codes.x);
    uint4 b = packed_bits(row, piece.low.z, piece.low.w, piece.codes.y);
    if (packed_escaped(piece.codes.x) | packed_escaped(piece.codes.y)) {
        a = packed_patch(a, row.at, row.head, k);
        b = packed_patch(b, row.at, row.head, k + 256);
    }
    packed_widen(a, first);
    packed_widen(b, second);
}

// dots of packed rows, on 16-byte edges. x_of(b, k, xs) gives activations k..k+7 of row b. AHEAD
// pieces of each row are asked for together.
template <int R, int NB, int AHEAD, class Load, class X>
__device__ __forceinline__ void packed_dots(const uint8_t *const (&w)[R], const X &x_of, int count,
                                            int in, float (&out)[R][NB])
{
    const int lane8 = (threadIdx.x & 31) * 8;
    float acc[R][NB][8];
    packed_row row[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        row[r] = packed_row_of(w[r], Load::load_16(w[r]));
#pragma unroll
        for (int b = 0; b < NB; b++)
#pragma unroll
            for (int e = 0; e < 8; e++)
                acc[r][b][e] = 0;
    }
#pragma unroll 1
    for (int turn = 0; turn < in; turn += AHEAD * 512) {
        packed_piece piece[AHEAD][R];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int r = 0; r < R; r++)
                if (turn + i * 512 < in)
                    piece[i][r] = packed_load<Load>(w[r], turn + i * 512, in);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int k = turn + i * 512 + lane8;
            float wide[2][R][8];
            if (turn + i * 512 >= in)
                break;
#pragma unroll
            for (int r = 0; r < R; r++)
                packed_numbers(row[r], piece[i][r], k, wide[0][r], wide[1][r]);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (k + half * 256 >= in)
                    break;
#pragma unroll
                for (int b = 0; b < NB; b++) {
                    if (NB > 1 && b >= count)
                        break;
                    float xs[8];
                    x_of(b, k + half * 256, xs);
#pragma unroll
                    for (int r = 0; r < R; r++)
#pragma unroll
                        for (int e = 0; e < 8; e++)
                            acc[r][b][e] = __fmaf_rn(wide[half][r][e], xs[e], acc[r][b][e]);
                }
            }
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
