// Causal attention for many rows by single warps, each of which holds 32 pairs: K of the next keys
// comes in while V is multiplied, V while K is. By warpgroups: flash_groups.cuh.
#include "flash.cuh"
#include "flash_groups.cuh"

enum { KEYS = CU_FLASH_KEYS, PAIRS = CU_FLASH_ROWS, WARP_PAIRS = 32, MI = WARP_PAIRS / 16 };

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
        round_weights(x, p, slice);
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

template <int DIM> __device__ __forceinline__ void flash(const cu_flash &a)
{
    SHARED_DYNAMIC(uint4, memory);
    const shared_at q = shared_address(memory);
    const shared_at k = q + PAIRS * DIM * 2, v = k + KEYS * DIM * 2;
    const cu_flash_tile tile = a.tile[blockIdx.x];
    const int group = a.heads / a.kv.kv_heads;
    const int first = (int)threadIdx.x / 32 * WARP_PAIRS;
    const bool at_work = first < tile.count * group;
    pages<DIM, DIM, KEYS> kv;
    static_assert(kv.THREADS == CU_FLASH_THREADS, "a warp for each block of a round");
    softmax<MI> m;
    float out[MI][DIM / 8][4];
    m.start(tile, group, first);
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < DIM / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                out[i][j][e] = 0;
    int key = kv.start(a, tile);
    kv.fetch(kv.k, k, key);
    cp_async_commit();
    load_queries<DIM>(a, tile, group, q);
    for (; key < kv.end; key += KEYS) {
        float s[MI][KEYS / 8][4], shrink[MI * 2];
        cp_async_wait<0>();
        __syncthreads();
        kv.fetch(kv.k + kv.v_off, v, key);
        cp_async_commit();
        kv.look(key + KEYS);
        if (at_work)
            multiply_keys<DIM>(s, q + first * (DIM * 2), k);
        cp_async_wait<0>();
        __syncthreads();
        kv.turn();
        if (key + KEYS < kv.end)
            kv.fetch(kv.k, k, key + KEYS);
        cp_async_commit();
        if (!at_work)
            continue;
        if (cuts(a, tile, key, KEYS))
            mask(s, m, key, a.window);
        weigh(s, m, a.scale_log2, shrink);
        rescale(out, shrink);
        multiply_values<DIM>(out, s, v);
    }
    cp_async_wait<0>();
    write_rows<MI, DIM>(a, tile, group, first, out, m);
}

KERNEL __launch_bounds__(CU_FLASH_THREADS, 2) flash_64(const __grid_constant__ cu_flash a)
{
    flash<64>(a);
}

KERNEL __launch_bounds__(CU_FLASH_THREADS, 2) flash_128(const __grid_constant__ cu_flash a)
{
    flash<128>(a);
}

KERNEL __launch_bounds__(CU_FLASH_GROUP_THREADS, 1)
    flash_128_groups(const __grid_constant__ cu_flash a)
{
#if HAVE_WGMMA
    flash_groups(a);
#endif
}
