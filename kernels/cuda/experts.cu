// Experts: blockIdx.x is one item, up to 8 rows of one expert, wherever its record lies (a slot in
// device memory, or host memory over the link).
#include "packed.cuh"
#include "tensor_args.h"

struct expert_list {
    const cu_expert_item *item;
    const int32_t *row, *pair;
};

__device__ __forceinline__ expert_list list_of(const cu_experts &a)
{
    const uint8_t *list = a.list ? a.list : a.inline_list;
    expert_list l;
    l.item = (const cu_expert_item *)list;
    l.row = (const int32_t *)(l.item + a.n_items);
    l.pair = l.row + a.pairs;
    return l;
}

template <int DT, int NB, bool VEC> __device__ __forceinline__ void gate_up(const cu_experts &a)
{
    grid_begin();
    const expert_list l = list_of(a);
    const cu_expert_item item = l.item[blockIdx.x];
    const int lane = threadIdx.x & 31, out = (int)blockIdx.y * CU_WARPS + threadIdx.x / 32;
    if (out >= a.inner)
        return;
    const int64_t at = out * a.in_row_bytes;
    const uint8_t *const w[2] = {item.record + a.gate_off + at, item.record + a.up_off + at};
    const float *x[NB];
#pragma unroll
    for (int b = 0; b < NB; b++)
        x[b] = a.x + (int64_t)l.row[item.first + min(b, item.count - 1)] * a.width;
    float y[2][NB];
    dots_of<DT, 2, NB, VEC>(w, x, item.count, a.width, y);
#pragma unroll
    for (int b = 0; b < NB; b++)
        if (lane == b && b < item.count)
            a.hidden[(int64_t)l.pair[item.first + b] * a.inner + out] =
                silu_mul_1(y[0][b], y[1][b]);
}

template <int DT, int NB, bool VEC> __device__ __forceinline__ void down(const cu_experts &a)
{
    grid_begin();
    const expert_list l = list_of(a);
    const cu_expert_item item = l.item[blockIdx.x];
    const int lane = threadIdx.x & 31;
    const int first = ((int)blockIdx.y * CU_WARPS + (int)threadIdx.x / 32) * CU_OUTS;
    if (first >= a.width)
        return;
    const uint8_t *w[CU_OUTS];
    const float *x[NB];
#pragma unroll
    for (int r = 0; r < CU_OUTS; r++)
        w[r] = item.record + a.down_off + min(first + r, a.width - 1) * a.down_row_bytes;
#pragma unroll
    for (int b = 0; b < NB; b++)
        x[b] = a.hidden + (int64_t)l.pair[item.first + min(b, item.count - 1)] * a.inner;
    float y[CU_OUTS][NB];
    dots_of<DT, CU_OUTS, NB, VEC>(w, x, item.count, a.inner, y);
#pragma unroll
    for (int r = 0; r < CU_OUTS; r++)
#pragma unroll
        for (int b = 0; b < NB; b++)
            if (lane == r * NB + b && first + r < a.width && b < item.count)
                a.y[(int64_t)l.pair[item.first + b] * a.width + first + r] = y[r][b];
}

#define EXPERTS(suffix, DT, NB, VEC)                                                               \
    KERNEL __launch_bounds__(CU_THREADS) gate_up_##suffix(const __grid_constant__ cu_experts a)    \
    {                                                                                              \
        gate_up<DT, NB, VEC>(a);                                                                   \
    }                                                                                              \
    KERNEL __launch_bounds__(CU_THREADS) down_##suffix(const __grid_constant__ cu_experts a)       \
    {                                                                                              \
        down<DT, NB, VEC>(a);                                                                      \
    }
#define EXPERTS_OF(suffix, DT)                                                                     \
    EXPERTS(suffix##_1, DT, 1, true)                                                               \
    EXPERTS(suffix##_4, DT, 4, true)                                                               \
    EXPERTS(suffix##_any, DT, 1, false)

EXPERTS_OF(f32, DTYPE_F32)
EXPERTS_OF(bf16, DTYPE_BF16)
EXPERTS_OF(f16, DTYPE_F16)
EXPERTS(bf16_2, DTYPE_BF16, 2, true)
EXPERTS(bf16_8, DTYPE_BF16, 8, true)
EXPERTS(packed_1, PACKED_BF16, 1, true)
EXPERTS(packed_2, PACKED_BF16, 2, true)
EXPERTS(packed_4, PACKED_BF16, 4, true)
EXPERTS(packed_8, PACKED_BF16, 8, true)

// A row of n numbers, by a warp.
__device__ __forceinline__ void unpack_row(const uint8_t *packed, int n, uint8_t *to)
{
    const uint8_t *const w[1] = {packed};
    const uint32_t heads = packed_load_heads<1, packed_stream>(w);
    const packed_row row = packed_row_of(__shfl_sync(0xffffffffu, heads, 0));
    const packed_outsiders escapes = packed_outsiders_of<1>(heads);
#pragma unroll 1
    for (int at = 0; at < n; at += 512) {
        packed_piece piece[1];
        packed_load<1, packed_stream>(piece, w, at, n);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int first = at + half * 256, k = first + (int)(threadIdx.x & 31) * 8;
            if (first >= n)
                break;
            packed_eight bits[1] = {packed_half(row, piece[0], half)};
            packed_put_all(bits, escapes, w, first);
            const uint32_t(&pair)[4] = bits[0].pair;
            if (k < n)
                *(uint4 *)(to + (size_t)k * 2) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
        }
    }
}

// blockIdx.x: a record; a warp has one of its rows.
KERNEL __launch_bounds__(CU_THREADS) unpack(const __grid_constant__ cu_unpack a)
{
    const int row = (int)blockIdx.y * CU_WARPS + (int)threadIdx.x / 32, in_rows = 2 * a.inner;
    const uint8_t *record = a.record[blockIdx.x];
    uint8_t *to = a.to + blockIdx.x * a.to_bytes;
    if (row < in_rows)
        unpack_row(row < a.inner ? record + a.gate_off + row * a.in_row_bytes
                                 : record + a.up_off + (row - a.inner) * a.in_row_bytes,
                   a.width, to + (int64_t)row * a.width * 2);
    else if (row < in_rows + a.width)
        unpack_row(record + a.down_off + (row - in_rows) * a.down_row_bytes, a.inner,
                   to + ((int64_t)in_rows * a.width + (int64_t)(row - in_rows) * a.inner) * 2);
}
