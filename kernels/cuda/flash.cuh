// What kernels of causal attention for many rows share. A block takes up to 128 (row, head) pairs of
// one kv head, whose heads lie side by side (pair = row * group + head), and goes over the keys KEYS
// at a time with an online softmax. A warp holds MI fragments of 16 pairs, and of their scores NJ
// fragments of 8 keys.
#ifndef MOED_KERNELS_CUDA_FLASH_CUH
#define MOED_KERNELS_CUDA_FLASH_CUH

#include "mma.cuh"
#include "tensor_args.h"

// One kv head of one sequence, brought in KEYS at a time by a warp for each block of 16. The block
// table is read one round ahead. In shared memory lie columns of WIDE elements each, one behind the
// other: KEYS rows, their chunks of 16 bytes exchanged by (row mod 8).
template <int DIM, int WIDE, int KEYS> struct pages {
    enum {
        THREADS = KEYS / 16 * 32,
        ROW_BYTES = DIM * 2,
        CHUNKS = ROW_BYTES / 16,
        STEP = 32 / CHUNKS, // rows that a warp brings at once
        HALF_BYTES = 16 * ROW_BYTES,
        COLUMN_BYTES = KEYS * WIDE * 2
    };
    static_assert(STEP >= 1 && 16 % STEP == 0, "a warp brings whole rows");
    const uint8_t *k; // this lane's first chunk of block 0
    int64_t v_off, block_bytes;
    const int32_t *table;
    int begin, end; // positions that take part
    int row;        // of the round, that this lane brings first
    uint32_t to;    // where it goes
    int32_t block, ahead;

    // The keys that rows of the tile see, from a multiple of KEYS on; the blocks of the first round
    // are looked up.
    __device__ __forceinline__ int start(const cu_flash &a, const cu_flash_tile &tile)
    {
        const int lane = threadIdx.x & 31, chunk = lane % CHUNKS;
        const int column = chunk / (WIDE / 8), near = chunk % (WIDE / 8);
        k = a.kv.blocks + (int64_t)blockIdx.y * HALF_BYTES + lane * 16;
        v_off = (int64_t)a.kv.kv_heads * HALF_BYTES;
        block_bytes = a.kv.block_bytes;
        table = a.table + tile.seq * a.table_stride;
        begin = a.window > 0 ? max(0, tile.pos - a.window + 1) : 0;
        end = tile.pos + tile.count;
        row = (int)threadIdx.x / 32 * 16 + lane / CHUNKS;
        to = column * COLUMN_BYTES + row * (WIDE * 2) + ((near ^ (lane / CHUNKS)) << 4);
        const int first = begin / KEYS * KEYS;
        look(first);
        turn();
        return first;
    }

    __device__ __forceinline__ void look(int key)
    {
        const int at = key + (int)threadIdx.x / 32 * 16;
        ahead = at < end && at + 16 > begin ? table[at / 16] : 0;
    }

    // The blocks looked up become those fetched from.
    __device__ __forceinline__ void turn()
    {
        block = ahead;
    }

    // Positions from key on to shared memory; those that do not take part as zeros.
    __device__ __forceinline__ void fetch(const uint8_t *from, shared_at tile, int key) const
    {
        const uint8_t *p = from + (int64_t)block * block_bytes;
#pragma unroll
        for (int i = 0; i < 16 / STEP; i++) {
            const int r = i * STEP, t = key + row + r;
            cp_async_16(tile + r * (WIDE * 2) + (to ^ (uint32_t)(r & 7) << 4), p + r * ROW_BYTES,
                        t >= begin && t < end ? 16 : 0);
        }
    }
};

// What a thread knows of its pairs: number i * 2 + half is row lane / 4 + 8 half of fragment i.
template <int MI> struct softmax {
    float max[MI * 2], sum[MI * 2]; // sum: of this thread's columns
    int pos[MI * 2];

    // first: the warp's first pair.
    __device__ __forceinline__ void start(const cu_flash_tile &tile, int group, int first)
    {
#pragma unroll
        for (int n = 0; n < MI * 2; n++) {
            max[n] = __uint_as_float(0xff800000u);
            sum[n] = 0;
            pos[n] = tile.pos + (first + n * 8 + (int)(threadIdx.x & 31) / 4) / group;
        }
    }
};

// Whether some row does not see all keys of the round.
__device__ __forceinline__ bool cuts(const cu_flash &a, const cu_flash_tile &tile, int key,
                                     int keys)
{
    return key + keys > tile.pos + 1 ||
           (a.window > 0 && key <= tile.pos + tile.count - 1 - a.window);
}

template <int MI, int NJ>
__device__ __forceinline__ void mask(float (&s)[MI][NJ][4], const softmax<MI> &m, int key,
                                     int window)
{
    const int column = key + (int)(threadIdx.x & 3) * 2;
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int t = column + j * 8 + (e & 1), pos = m.pos[i * 2 + e / 2];
                if (t > pos || (window > 0 && t <= pos - window))
                    s[i][j][e] = __uint_as_float(0xff800000u);
            }
}

// Scores become weights relative to the new maximum; what is summed so far is to be multiplied by
// `shrink` to be so, too.
template <int MI, int NJ>
__device__ __forceinline__ void weigh(float (&s)[MI][NJ][4], softmax<MI> &m, float scale,
                                      float (&shrink)[MI * 2])
{
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int n = i * 2 + half;
            float max = m.max[n];
#pragma unroll
            for (int j = 0; j < NJ; j++)
                max = fmaxf(max, fmaxf(s[i][j][half * 2], s[i][j][half * 2 + 1]));
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
            // Nothing seen yet, behind a window: any finite reference will do.
            const float origin = max == __uint_as_float(0xff800000u) ? 0 : __fmul_rn(max, scale);
            // Exactly 1 where the maximum stays, so that keys behind a row's position change
            // nothing.
            shrink[n] = exp2_fast(__fsub_rn(__fmul_rn(m.max[n], scale), origin));
            m.max[n] = max;
            float sum = 0;
#pragma unroll
            for (int j = 0; j < NJ; j++)
#pragma unroll
                for (int e = half * 2; e < half * 2 + 2; e++) {
                    s[i][j][e] = exp2_fast(__fmaf_rn(s[i][j][e], scale, -origin));
                    sum += s[i][j][e];
                }
            m.sum[n] = __fmaf_rn(m.sum[n], shrink[n], sum);
        }
}

template <int MI, int NI>
__device__ __forceinline__ void rescale(float (&out)[MI][NI][4], const float (&shrink)[MI * 2])
{
#pragma unroll
    for (int n = 0; n < MI * 2; n++)
        if (shrink[n] != 1.0f)
#pragma unroll
            for (int j = 0; j < NI; j++) {
                out[n / 2][j][n % 2 * 2] *= shrink[n];
                out[n / 2][j][n % 2 * 2 + 1] *= shrink[n];
            }
}

// Weights of 16 keys as the first factor of a product.
template <int MI, int NJ>
__device__ __forceinline__ void round_weights(uint32_t (&x)[MI][4], const float (&p)[MI][NJ][4],
                                              int slice)
{
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            x[i][e] = pack_bf16(p[i][2 * slice + e / 2][e % 2 * 2],
                                p[i][2 * slice + e / 2][e % 2 * 2 + 1]);
}

template <int MI, int DIM>
__device__ __forceinline__ void write_rows(const cu_flash &a, const cu_flash_tile &tile, int group,
                                           int first, const float (&out)[MI][DIM / 8][4],
                                           const softmax<MI> &m)
{
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int n = 0; n < MI * 2; n++) {
        float sum = m.sum[n];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const int pair = first + n * 8 + lane / 4;
        if (pair / group >= tile.count)
            continue;
        const float inverse = __fdiv_rn(1.0f, sum);
        const int64_t at = (tile.row + pair / group) * a.out_stride +
                           ((int)blockIdx.y * group + pair % group) * DIM + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < DIM / 8; j++) {
            const float v0 = out[n / 2][j][n % 2 * 2] * inverse;
            const float v1 = out[n / 2][j][n % 2 * 2 + 1] * inverse;
            if (a.out_dtype == DTYPE_F32)
                *(float2 *)((float *)a.out + at + j * 8) = make_float2(v0, v1);
            else
                *(uint32_t *)((uint16_t *)a.out + at + j * 8) = a.out_dtype == DTYPE_BF16
                                                                    ? pack16<DTYPE_BF16>(v0, v1)
                                                                    : pack16<DTYPE_F16>(v0, v1);
        }
    }
}

#endif
