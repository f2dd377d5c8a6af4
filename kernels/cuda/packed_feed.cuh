// Packed rows (packed.h) for row_stream.cuh. A stage is a block of 512 numbers of each row, or what
// there is behind the last such, and each row's head, which only the row's first stage has.
#ifndef MOED_KERNELS_CUDA_PACKED_FEED_CUH
#define MOED_KERNELS_CUDA_PACKED_FEED_CUH

#include "packed.cuh"
#include "row_stream.cuh"

template <int ROWS> struct packed_feed {
    enum {
        R = ROWS,
        HALVES = 2,
        CODES = 512, // lane l has 16 low bytes at 16l, 8 bytes of codes at CODES + 8l
        HEAD = 768,
        ROW_BYTES = HEAD + PACKED_HEAD_BYTES,
        STAGE_BYTES = R * ROW_BYTES
    };
    packed_marks marks[R];
    uint32_t listed; // bit 4r: row r has more escapes than lanes
    bool any_by_one;

    // A block of fewer than 512 numbers: n low bytes, then n / 2 bytes of codes.
    static __device__ __forceinline__ void ask_half(const uint8_t *from, int n, uint8_t *low,
                                                    uint8_t *codes)
    {
        const bool there = lane_of() * 8 < n;
        cp_async_few<8>(shared_address(low), from + lane_of() * 8, there ? 8 : 0);
        cp_async_few<4>(shared_address(codes), from + n + lane_of() * 4, there ? 4 : 0);
    }

    __device__ __forceinline__ void ask(const uint8_t *const (&w)[R], int at, int in,
                                        uint8_t *stage) const
    {
        const int left = in - at;
#pragma unroll
        for (int r = 0; r < R; r++) {
            const uint8_t *from = w[r] + PACKED_HEAD_BYTES + at + at / 2;
            uint8_t *const low = stage + r * ROW_BYTES + lane_of() * 16;
            uint8_t *const codes = stage + r * ROW_BYTES + CODES + lane_of() * 8;
            if (left >= 512) {
                cp_async_16(shared_address(low), from + lane_of() * 16, 16);
                cp_async_few<8>(shared_address(codes), from + CODES + lane_of() * 8, 8);
            } else {
                ask_half(from, min(left, 256), low, codes);
                if (left > 256)
                    ask_half(from + 384, left - 256, low + 8, codes + 4);
            }
            if (at == 0 && lane_of() == r)
                cp_async_16(shared_address(stage + r * ROW_BYTES + HEAD), w[r], 16);
        }
    }

    // What the rows' heads say; where(w): where the rows lie.
    template <class Where>
    __device__ __forceinline__ void begin(const uint8_t *stage, const Where &where)
    {
        listed = 0;
        any_by_one = false;
        __syncwarp();
#pragma unroll
        for (int r = 0; r < R; r++) {
            const uint8_t *const at = stage + r * ROW_BYTES + HEAD;
            const uint32_t first = *(const uint32_t *)at;
            const int n = (int)(first >> 16), lane = lane_of();
            marks[r] = {packed_row_of(first), packed_outsiders::NONE, false};
            if (n > 32)
                listed |= 1u << 4 * r;
            if (n == 0 || n > 32)
                continue;
            const uint32_t *list = (const uint32_t *)(at + 4);
            if (n > PACKED_OWN) {
                const uint8_t *w[R];
                where(w);
                list = (const uint32_t *)(w[r] + list[0]);
            }
            take_escapes(marks[r], lane < n ? list[lane] : 0, n);
            any_by_one = any_by_one || marks[r].by_one;
        }
        // Heads are all lanes', and the next stage is asked for into their place.
        __syncwarp();
    }

    template <class Where>
    __device__ __forceinline__ void half(const uint8_t *stage, int h, int k, const Where &where,
                                         float (&wide)[R][8]) const
    {
        packed_eight bits[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
            const uint8_t *const at = stage + r * ROW_BYTES;
            const uint2 low = *(const uint2 *)(at + lane_of() * 16 + h * 8);
            const uint32_t codes = *(const uint32_t *)(at + CODES + lane_of() * 8 + h * 4);
            bits[r] = packed_bits(marks[r].row, low.x, low.y, codes);
        }
        if (any_by_one)
#pragma unroll
            for (int r = 0; r < R; r++)
                if (marks[r].by_one)
                    put_escapes(marks[r], bits[r], k);
        if (listed) {
            const uint8_t *w[R];
            where(w);
            packed_put_all(bits, {packed_outsiders::NONE, listed}, w, k);
        }
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int q = 0; q < 4; q++)
                widen_bf16(bits[r].pair[q], wide[r] + 2 * q);
    }
};

#endif
