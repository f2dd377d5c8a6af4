// Resident experts of a step of several rows: a block keeps the activations of an item in shared
// memory and goes through rows of weights, groups of two a warp.
#ifndef MOED_KERNELS_CUDA_PAGED_ROWS_CUH
#define MOED_KERNELS_CUDA_PAGED_ROWS_CUH

#include "packed_feed.cuh"

typedef plain_feed<2, false> plain_pair;
typedef packed_feed<2> packed_pair;

// Two rows times NB vectors, as trees() takes them: value half * P + b. The results of half 0 are
// in lanes 0..15, those of half 1 in 16..31, each in `lanes` lanes.
template <int NB> struct pair_results {
    enum { P = NB > 2 ? 4 : NB, LANES = 16 / P };

    static __device__ __forceinline__ float of(const float (&s)[2 * NB])
    {
        float value[2 * P];
#pragma unroll
        for (int i = 0; i < 2 * P; i++)
            value[i] = i % P < NB ? s[i / P * NB + i % P] : 0;
        return trees(value);
    }

    // Which b this lane has; whether it is the one to write it.
    static __device__ __forceinline__ int mine()
    {
        return lane_of() % 16 / LANES;
    }

    static __device__ __forceinline__ bool writes()
    {
        return lane_of() % LANES == 0 && mine() < NB;
    }
};

// The groups of this warp among `all`.
__device__ __forceinline__ int groups_of_warp(int all, int per_warp, int *first)
{
    *first = ((int)blockIdx.x * CU_WARPS + (int)threadIdx.x / 32) * per_warp;
    return min(per_warp, all - *first);
}

__device__ __forceinline__ uint8_t *ring_of_warp(float *behind)
{
    return (uint8_t *)behind + (int)threadIdx.x / 32 * CU_RING_BYTES;
}

template <class Feed, int NB>
__device__ __forceinline__ void gate_up_rows(const cu_paged &a, const cu_expert_item &item,
                                             float *shared)
{
    typedef pair_results<NB> results;
    const int width = vector_floats(a.width);
    int first;
    const int groups = groups_of_warp(a.inner, a.groups_per_warp, &first);
    const auto rows = [&](int g, const uint8_t *(&w)[2]) {
        const uint8_t *at = item.record + (first + g) * a.in_row_bytes;
        w[0] = at + a.gate_off;
        w[1] = at + a.up_off;
    };
    weight_stream<Feed, decltype(rows)> weights(rows, groups, a.width,
                                                ring_of_warp(shared + CU_ITEM_ROWS * width));
    const float *from[NB];
#pragma unroll
    for (int b = 0; b < NB; b++)
        from[b] = a.h + (int64_t)a.row[item.first + b] * a.width;
    keep_vectors(from, a.width, width, shared);
    const int64_t to = (int64_t)a.pair[item.first + min(results::mine(), NB - 1)] * a.inner + first;
    __syncthreads();
    weights.template multiply<NB>(shared, [&](int g, const float(&s)[2 * NB]) {
        const float gate = results::of(s), up = __shfl_down_sync(0xffffffffu, gate, 16);
        if (lane_of() < 16 && results::writes())
            a.hidden[to + g] = silu_mul_1(gate, up);
    });
}

template <class Feed, int NB>
__device__ __forceinline__ void down_rows(const cu_paged &a, const cu_expert_item &item,
                                          float *shared)
{
    typedef pair_results<NB> results;
    const int width = vector_floats(a.inner);
    int first;
    const int groups = groups_of_warp((a.width + 1) / 2, a.groups_per_warp, &first);
    const auto rows = [&](int g, const uint8_t *(&w)[2]) {
        const int out = (first + g) * 2;
        w[0] = item.record + a.down_off + out * a.down_row_bytes;
        w[1] = w[0] + (out + 1 < a.width ? a.down_row_bytes : 0);
    };
    weight_stream<Feed, decltype(rows)> weights(rows, groups, a.inner,
                                                ring_of_warp(shared + CU_ITEM_ROWS * width));
    const int half = lane_of() / 16;
    const float *from[NB];
#pragma unroll
    for (int b = 0; b < NB; b++)
        from[b] = a.hidden + (int64_t)a.pair[item.first + b] * a.inner;
    keep_vectors(from, a.inner, width, shared);
    const int out = first * 2 + half;
    float *const to =
        a.y + (int64_t)a.pair[item.first + min(results::mine(), NB - 1)] * a.width + out;
    __syncthreads();
    weights.template multiply<NB>(shared, [&](int g, const float(&s)[2 * NB]) {
        const float y = results::of(s);
        if (results::writes() && out + 2 * g < a.width)
            to[2 * g] = y;
    });
}

template <int N> struct row_count {
    enum { value = N };
};

// Straight code for each number of rows that an item may have.
template <class Body> __device__ __forceinline__ void by_rows(int count, const Body &body)
{
    if (count == 1)
        body(row_count<1>());
    else if (count == 2)
        body(row_count<2>());
    else if (count == 3)
        body(row_count<3>());
    else
        body(row_count<4>());
}

template <class Feed>
__device__ __forceinline__ void gate_up_item(const cu_paged &a, const cu_expert_item item,
                                             float *shared)
{
    by_rows(item.count, [&](auto n) { gate_up_rows<Feed, decltype(n)::value>(a, item, shared); });
}

template <class Feed>
__device__ __forceinline__ void down_item(const cu_paged &a, const cu_expert_item item,
                                          float *shared)
{
    by_rows(item.count, [&](auto n) { down_rows<Feed, decltype(n)::value>(a, item, shared); });
}

#endif
