// Experts: blockIdx.x is one item, up to 8 rows of one expert, wherever its record lies (a slot in
// device memory, or host memory over the link).
#include "packed.cuh"

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
