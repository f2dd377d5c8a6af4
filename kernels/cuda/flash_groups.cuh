// Causal attention for many rows over heads of 128 by warpgroups, 64 pairs each: wgmma reads K and
// V from shared memory, what it multiplies them by is in registers. Scores of the next keys are
// begun before the weights of these are multiplied with V, and become weights beside that.
#ifndef MOED_KERNELS_CUDA_FLASH_GROUPS_CUH
#define MOED_KERNELS_CUDA_FLASH_GROUPS_CUH

#include "flash.cuh"
#include "wgmma.cuh"

#if HAVE_WGMMA

// Where the two tiles of a round lie, and how they are multiplied by the pairs of a warpgroup.
struct group_round {
    enum {
        DIM = 128,
        KEYS = CU_FLASH_GROUP_KEYS,
        TILE_BYTES = KEYS * DIM * 2,
        STAGE_BYTES = 2 * TILE_BYTES
    };
    typedef pages<DIM, 64, KEYS> kv_pages;
    static_assert((int)kv_pages::THREADS == CU_FLASH_GROUP_THREADS,
                  "a warp for each block of a round");

    static __device__ __forceinline__ void fetch(kv_pages &kv, shared_at stage, int key)
    {
        if (key < kv.end) {
            kv.fetch(kv.k, stage, key);
            kv.fetch(kv.k + kv.v_off, stage + TILE_BYTES, key);
        }
        cp_async_commit();
    }

    static __device__ __forceinline__ void
    multiply_keys(float (&s)[1][KEYS / 8][4], const uint32_t (&q)[DIM / 16][4], shared_at stage)
    {
#pragma unroll
        for (int slice = 0; slice < DIM / 16; slice++) {
            const wgmma_tile k = wgmma_tile_at(stage + slice / 4 * kv_pages::COLUMN_BYTES);
            if (slice == 0)
                wgmma_m64n128k16_bf16<false>(s[0], q[slice], k);
            else
                wgmma_m64n128k16_bf16<true>(s[0], q[slice], wgmma_slice(k, slice % 4));
        }
        wgmma_end_group();
    }

    static __device__ __forceinline__ void multiply_values(float (&out)[1][DIM / 8][4],
                                                           const uint32_t (&p)[KEYS / 16][1][4],
                                                           shared_at stage)
    {
        const shared_at v = stage + TILE_BYTES;
#pragma unroll
        for (int slice = 0; slice < KEYS / 16; slice++)
            wgmma_m64n128k16_bf16_across(
                out[0], p[slice][0],
                wgmma_tile_across(v + slice * (16 * 128), kv_pages::COLUMN_BYTES));
        wgmma_end_group();
    }
};

// The warp's queries, rounded, as fragments; zeros where there are none.
template <int DIM>
__device__ __forceinline__ void load_queries_near(const cu_flash &a, const cu_flash_tile &tile,
                                                  int group, int first, uint32_t (&q)[DIM / 16][4])
{
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int pair = first + half * 8 + lane / 4, row = pair / group;
        const int head = (int)blockIdx.y * group + pair % group;
        const float *from = a.q + (tile.row + row) * a.q_stride + head * DIM + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < DIM / 8; i++) {
            float2 v = make_float2(0, 0);
            if (row < tile.count)
                v = *(const float2 *)(from + i * 8);
            q[i / 2][i % 2 * 2 + half] = pack_bf16(v.x, v.y);
        }
    }
}

__device__ __forceinline__ void flash_groups(const cu_flash &a)
{
    typedef group_round round;
    enum { STAGES = CU_FLASH_STAGES, KEYS = round::KEYS, DIM = round::DIM };
    SHARED_DYNAMIC_ALIGNED(uint4, aligned_memory, WGMMA_ALIGNMENT);
    const shared_at shared = shared_address(aligned_memory);
    const cu_flash_tile tile = a.tile[blockIdx.x];
    const int group = a.heads / a.kv.kv_heads;
    const int first = (int)threadIdx.x / 32 * 16;
    const bool at_work = first / WGMMA_ROWS * WGMMA_ROWS < tile.count * group;
    round::kv_pages kv;
    softmax<1> m;
    float out[1][DIM / 8][4], s[1][KEYS / 8][4], shrink[2];
    uint32_t q[DIM / 16][4], p[KEYS / 16][1][4];
    int key = kv.start(a, tile), stage = 0;
    round::fetch(kv, shared, key);
    kv.look(key + KEYS);
    kv.turn();
    round::fetch(kv, shared + round::STAGE_BYTES, key + KEYS);
    kv.look(key + 2 * KEYS);
    m.start(tile, group, first);
    load_queries_near<DIM>(a, tile, group, first, q);
#pragma unroll
    for (int j = 0; j < DIM / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            out[0][j][e] = 0;
    cp_async_wait<1>();
    wgmma_publish();
    __syncthreads();
    if (at_work) {
        wgmma_begin();
        round::multiply_keys(s, q, shared);
        wgmma_wait<0>();
        if (cuts(a, tile, key, KEYS))
            mask(s, m, key, a.window);
        weigh(s, m, a.scale_log2, shrink);
#pragma unroll
        for (int slice = 0; slice < KEYS / 16; slice++)
            round_weights(p[slice], s, slice);
    }
    for (; key + KEYS < kv.end; key += KEYS) {
        const shared_at now = shared + stage * round::STAGE_BYTES;
        stage = stage + 1 < STAGES ? stage + 1 : 0;
        const shared_at next = shared + stage * round::STAGE_BYTES;
        // All warpgroups are through with the stage before this one.
        cp_async_wait<0>();
        wgmma_publish();
        __syncthreads();
        kv.turn();
        round::fetch(kv, shared + (stage + 1 < STAGES ? stage + 1 : 0) * round::STAGE_BYTES,
                     key + 2 * KEYS);
        kv.look(key + 3 * KEYS);
        if (!at_work)
            continue;
        wgmma_begin();
        round::multiply_keys(s, q, next);
        round::multiply_values(out, p, now);
        wgmma_wait<1>();
        if (cuts(a, tile, key + KEYS, KEYS))
            mask(s, m, key + KEYS, a.window);
        weigh(s, m, a.scale_log2, shrink);
        wgmma_wait<0>();
        rescale(out, shrink);
#pragma unroll
        for (int slice = 0; slice < KEYS / 16; slice++)
            round_weights(p[slice], s, slice);
    }
    cp_async_wait<0>();
    if (!at_work)
        return;
    wgmma_begin();
    round::multiply_values(out, p, shared + stage * round::STAGE_BYTES);
    wgmma_wait<0>();
    write_rows<1, DIM>(a, tile, group, first, out, m);
}

#endif

#endif
