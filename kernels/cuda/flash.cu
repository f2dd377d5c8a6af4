// Causal attention for many rows: a block takes up to 128 (row, head) pairs of one kv head, whose
// heads lie side by side (pair = row * group + head), and goes over the keys 64 at a time with an
// online softmax. A warp holds 32 pairs. K of the next keys comes in while V is multiplied, V while
// K is.
#include "mma.cuh"
#include "tensor_args.h"

enum { KEYS = CU_FLASH_KEYS, PAIRS = CU_FLASH_ROWS, WARP_PAIRS = 32, MI = WARP_PAIRS / 16 };

// One kv head of one sequence. The block table is read one round of keys ahead.
template <int DIM> struct pages {
    enum {
        ROW_BYTES = DIM * 2,
        CHUNKS = ROW_BYTES / 16,
        STEP = CU_FLASH_THREADS / CHUNKS, // keys that all threads bring at once
        HALF_BYTES = 16 * ROW_BYTES
    };
    const uint8_t *k;
    int64_t v_off, block_bytes;
    const int32_t *table;
    int begin, end; // positions that take part
    int32_t block[KEYS / 16], ahead[KEYS / 16];

    __device__ __forceinline__ void look(int key)
    {
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            const int at = key + i * 16;
            ahead[i] = at < end && at + 16 > begin ? table[at / 16] : 0;
        }
    }

    // Positions from key on to shared memory; those that do not take part as zeros.
    __device__ __forceinline__ void fetch(const uint8_t *from, shared_at to, int key) const
    {
        const int row = (int)threadIdx.x / CHUNKS, chunk = (int)threadIdx.x % CHUNKS;
#pragma unroll
        for (int i = 0; i < KEYS / STEP; i++) {
            const int r = row + i * STEP, t = key + r;
            const uint8_t *p = from + (int64_t)block[i * STEP / 16] * block_bytes +
                               (r & 15) * ROW_BYTES + chunk * 16;
            cp_async_16(to + r * ROW_BYTES + ((chunk ^ (r & 7)) << 4), p,
                        t >= begin && t < end ? 16 : 0);
        }
    }
};

// The queries of the block, rounded, to shared memory; zeros where there are none.
template <int DIM>
__device__ __forceinline__ void load_queries(const cu_flash &a, const cu_flash_tile &tile,
                                             int group, shared_at to)
{
    enum { CHUNKS = DIM / 8 };
    for (int i = (int)threadIdx.x; i < PAIRS * CHUNKS; i += CU_FLASH_THREADS) {
        const int pair = i / CHUNKS, chunk = i % CHUNKS, row = pair / group;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (row < tile.count) {
            const int head = (int)blockIdx.y * group + pair % group;
            const float4 *q =
                (const float4 *)(a.q + (tile.row + row) * a.q_stride + head * DIM + chunk * 8);
            const float4 lo = q[0], hi = q[1];
            v = make_uint4(pack_bf16(lo.x, lo.y), pack_bf16(lo.z, lo.w), pack_bf16(hi.x, hi.y),
                           pack_bf16(hi.z, hi.w));
        }
        store_shared_16(to + pair * (DIM * 2) + ((chunk ^ (pair & 7)) << 4), v);
    }
}

// scores[i][j]: 16 pairs times keys 8j..8j+7.
template <int DIM>
__device__ __forceinline__ void multiply_keys(float (&s)[MI][KEYS / 8][4], shared_at q, shared_at k)
{
    const int lane = threadIdx.x & 31;
    const uint32_t turn = lane & 7;
    const shared_at q_row = q + (uint32_t)(lane & 15) * (DIM * 2);
    const shared_at k_row = k + (uint32_t)((lane & 7) + (lane >> 4 << 3)) * (DIM * 2);
    const uint32_t q_chunk = (turn ^ (uint32_t)(lane >> 4)) << 4;
    const uint32_t k_chunk = (turn ^ (uint32_t)(lane >> 3 & 1)) << 4;
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                s[i][j][e] = 0;
#pragma unroll
    for (int slice = 0; slice < DIM / 16; slice++) {
        uint32_t x[MI][4], w[4];
#pragma unroll
        for (int i = 0; i < MI; i++)
            ldmatrix_x4(x[i], q_row + i * (16 * DIM * 2) + (q_chunk ^ (uint32_t)slice << 5));
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            ldmatrix_x4(w, k_row + j * (16 * DIM * 2) + (k_chunk ^ (uint32_t)slice << 5));
#pragma unroll
            for (int i = 0; i < MI; i++) {
                mma_m16n8k16_bf16(s[i][2 * j], x[i], w[0], w[1]);
                mma_m16n8k16_bf16(s[i][2 * j + 1], x[i], w[2], w[3]);
            }
        }
    }
}

template <int DIM>
__device__ __forceinline__ void multiply_values(float (&out)[MI][DIM / 8][4],
                                                const float (&p)[MI][KEYS / 8][4], shared_at v)
{
    const int lane = threadIdx.x & 31;
    const shared_at v_row = v + (uint32_t)(lane & 15) * (DIM * 2);
    const uint32_t v_chunk = (uint32_t)((lane & 7) ^ (lane >> 4)) << 4;
#pragma unroll
    for (int slice = 0; slice < KEYS / 16; slice++) {
        uint32_t x[MI][4], w[4];
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                x[i][e] = pack_bf16(p[i][2 * slice + e / 2][e % 2 * 2],
                                    p[i][2 * slice + e / 2][e % 2 * 2 + 1]);
#pragma unroll
        for (int j = 0; j < DIM / 16; j++) {
            ldmatrix_x4_trans(w, v_row + slice * (16 * DIM * 2) + (v_chunk ^ (uint32_t)j << 5));
#pragma unroll
            for (int i = 0; i < MI; i++) {
                mma_m16n8k16_bf16(out[i][2 * j], x[i], w[0], w[1]);
                mma_m16n8k16_bf16(out[i][2 * j + 1], x[i], w[2], w[3]);
            }
        }
    }
}

// What a thread knows of its pairs: number i * 2 + half is row lane / 4 + 8 half of fragment i.
struct softmax {
    float max[MI * 2], sum[MI * 2]; // sum: of this thread's columns
    int pos[MI * 2];
};

__device__ __forceinline__ void mask(float (&s)[MI][KEYS / 8][4], const softmax &m, int key,
                                     int window)
{
    const int column = key + (int)(threadIdx.x & 3) * 2;
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int t = column + j * 8 + (e & 1), pos = m.pos[i * 2 + e / 2];
                if (t > pos || (window > 0 && t <= pos - window))
                    s[i][j][e] = __uint_as_float(0xff800000u);
            }
}

// Scores become weights relative to the new maximum; what is summed so far is brought to it.
template <int DIM>
__device__ __forceinline__ void weigh(float (&s)[MI][KEYS / 8][4], float (&out)[MI][DIM / 8][4],
                                      softmax &m, float scale)
{
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int n = i * 2 + half;
            float max = m.max[n];
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
                max = fmaxf(max, fmaxf(s[i][j][half * 2], s[i][j][half * 2 + 1]));
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
            // Nothing seen yet, behind a window: any finite reference will do.
            const float origin = max == __uint_as_float(0xff800000u) ? 0 : __fmul_rn(max, scale);
            // Exactly 1 where the maximum stays, so that keys behind a row's position change
            // nothing.
            const float shrink = exp2_fast(__fsub_rn(__fmul_rn(m.max[n], scale), origin));
            m.max[n] = max;
            float sum = 0;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int e = half * 2; e < half * 2 + 2; e++) {
                    s[i][j][e] = exp2_fast(__fmaf_rn(s[i][j][e], scale, -origin));
                    sum += s[i][j][e];
                }
            m.sum[n] = __fmaf_rn(m.sum[n], shrink, sum);
            if (shrink != 1.0f)
#pragma unroll
                for (int j = 0; j < DIM / 8; j++) {
                    out[i][j][half * 2] *= shrink;
                    out[i][j][half * 2 + 1] *= shrink;
                }
        }
}

template <int DIM>
__device__ __forceinline__ void write_rows(const cu_flash &a, const cu_flash_tile &tile, int group,
                                           int first, const float (&out)[MI][DIM / 8][4],
                                           const softmax &m)
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

template <int DIM>
__device__ __forceinline__ void pages_begin(pages<DIM> &kv, const cu_flash &a,
                                            const cu_flash_tile &tile)
{
    kv.k = a.kv.blocks + (int64_t)blockIdx.y * kv.HALF_BYTES;
    kv.v_off = (int64_t)a.kv.kv_heads * kv.HALF_BYTES;
    kv.block_bytes = a.kv.block_bytes;
    kv.table = a.table + tile.seq * a.table_stride;
    kv.begin = a.window > 0 ? max(0, tile.pos - a.window + 1) : 0;
    kv.end = tile.pos + tile.count;
}

template <int DIM> __device__ __forceinline__ void flash(const cu_flash &a)
{
    SHARED_DYNAMIC(uint4, memory);
    const shared_at q = shared_address(memory);
    const shared_at k = q + PAIRS * DIM * 2, v = k + KEYS * DIM * 2;
    const cu_flash_tile tile = a.tile[blockIdx.x];
    const int group = a.heads / a.kv.kv_heads;
    const int first = (int)threadIdx.x / 32 * WARP_PAIRS, lane = threadIdx.x & 31;
    const bool at_work = first < tile.count * group;
    pages<DIM> kv;
    softmax m;
    float out[MI][DIM / 8][4];
    pages_begin(kv, a, tile);
#pragma unroll
    for (int n = 0; n < MI * 2; n++) {
        m.max[n] = __uint_as_float(0xff800000u);
        m.sum[n] = 0;
        m.pos[n] = tile.pos + (first + n * 8 + lane / 4) / group;
#pragma unroll
        for (int j = 0; j < DIM / 8; j++)
            out[n / 2][j][n % 2 * 2] = out[n / 2][j][n % 2 * 2 + 1] = 0;
    }
    int key = kv.begin / KEYS * KEYS;
    kv.look(key);
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        kv.block[i] = kv.ahead[i];
    kv.fetch(kv.k, k, key);
    cp_async_commit();
    load_queries<DIM>(a, tile, group, q);
    for (; key < kv.end; key += KEYS) {
        float s[MI][KEYS / 8][4];
        cp_async_wait<0>();
        __syncthreads();
        kv.fetch(kv.k + kv.v_off, v, key);
        cp_async_commit();
        kv.look(key + KEYS);
        if (at_work)
            multiply_keys<DIM>(s, q + first * (DIM * 2), k);
        cp_async_wait<0>();
        __syncthreads();
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++)
            kv.block[i] = kv.ahead[i];
        if (key + KEYS < kv.end)
            kv.fetch(kv.k, k, key + KEYS);
        cp_async_commit();
        if (!at_work)
            continue;
        if (key + KEYS > tile.pos + 1 || (a.window > 0 && key <= kv.end - 1 - a.window))
            mask(s, m, key, a.window);
        weigh<DIM>(s, out, m, a.scale_log2);
        multiply_values<DIM>(out, s, v);
    }
    cp_async_wait<0>();
    write_rows<DIM>(a, tile, group, first, out, m);
}

KERNEL __launch_bounds__(CU_FLASH_THREADS, 2) flash_64(const __grid_constant__ cu_flash a)
{
    flash<64>(a);
}

KERNEL __launch_bounds__(CU_FLASH_THREADS, 2) flash_128(const __grid_constant__ cu_flash a)
{
    flash<128>(a);
}
