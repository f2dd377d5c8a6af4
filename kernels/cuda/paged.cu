// Experts of a recorded step: the choice of each row, residency, the GPU's part of the work, and
// the hand-over of the rest to the miss workers (mailbox.h).
#include "choice.cuh"
#include "packed.cuh"
#include "paged_rows.cuh"
#include "step.h"

// A warp chooses for one row; e holds the row's exponentials [experts], of this warp alone.
__device__ __forceinline__ void choose(const cu_paged &a, int row, int live, float *e)
{
    const int lane = threadIdx.x & 31;
    const float *logit = a.logit + (int64_t)row * a.experts;
    const int32_t *forced =
        *a.forced_on ? a.forced + ((int64_t)a.layer * live + row) * a.top_k : nullptr;
    int32_t *chosen = a.chosen + row * a.top_k;
    const float max = choose_experts(logit, a.experts, forced ? 1 : a.top_k, chosen);
    for (int k = lane; k < a.top_k; k += 32) {
        const int32_t id = forced ? forced[k] : chosen[k];
        a.id[row * a.top_k + k] = id;
        if (forced)
            chosen[k] = id;
    }
    exponentiate(logit, a.experts, max, e);
    if (lane == 0)
        weigh_chosen(e, sum_ascending(e, a.experts), chosen, a.top_k, a.renormalize,
                     a.weight + row * a.top_k);
}

struct resolved {
    int32_t count[CU_STEP_EXPERTS]; // rows of an expert; then where its next pair goes
    uint8_t posted[CU_STEP_EXPERTS];
    int32_t missed[CU_ITEM_ROWS + 1], taken[CU_ITEM_ROWS + 1]; // experts by link_rank
    int32_t n_hits, n_misses, n_groups, n_pairs;
};

// The link takes whole experts of high rank first: it pays for bytes alone, which an expert of
// more than one item costs once for each, the CPU for rows too.
__device__ __forceinline__ int link_rank(const cu_paged &a, int rows)
{
    return rows <= a.rows_per_item ? rows : 0;
}

__device__ __forceinline__ bool link_takes(resolved *r, int link_groups, int rank)
{
    for (int higher = rank + 1; higher <= CU_ITEM_ROWS; higher++)
        link_groups -= r->missed[higher];
    return link_groups > 0 && atomicAdd(&r->taken[rank], 1) < link_groups;
}

__device__ __forceinline__ int count_missed(const cu_paged &a, resolved *r)
{
    for (int e = (int)threadIdx.x; e < a.experts; e += (int)blockDim.x)
        if (r->count[e] && a.slot_of[e] < 0)
            atomicAdd(&r->missed[link_rank(a, r->count[e])], 1);
    __syncthreads();
    int n = 0;
    for (int rank = 0; rank <= CU_ITEM_ROWS; rank++)
        n += r->missed[rank];
    return n;
}

__device__ __forceinline__ void make_item(const cu_paged &a, resolved *r, int e,
                                          const uint8_t *record, cu_expert_item *list,
                                          int32_t *length)
{
    const int n = r->count[e], items = (n + a.rows_per_item - 1) / a.rows_per_item;
    const int first = atomicAdd(&r->n_pairs, n), at = atomicAdd(length, items);
    for (int i = 0; i < items; i++) {
        const int from = i * a.rows_per_item;
        list[at + i] = {record, first + from, min(n - from, a.rows_per_item)};
    }
    r->count[e] = first;
}

// Items and groups, in any order: no bit depends on it. The link's own experts are items like
// resident ones, and the first of them, since they take longest.
__device__ __forceinline__ void make_items(const cu_paged &a, bool box, int link_groups,
                                           resolved *r)
{
    for (int e = (int)threadIdx.x; e < a.experts; e += (int)blockDim.x) {
        const int n = r->count[e];
        if (!n || a.slot_of[e] >= 0)
            continue;
        const bool link = link_takes(r, link_groups, link_rank(a, n));
        r->posted[e] = !link;
        make_item(a, r, e, a.host_of[e], link ? a.hit : a.miss, link ? &r->n_hits : &r->n_misses);
        if (!link && box)
            a.box_group[atomicAdd(&r->n_groups, 1)] = {e, r->count[e], n, 0};
    }
    __syncthreads();
    for (int e = (int)threadIdx.x; e < a.experts; e += (int)blockDim.x)
        if (r->count[e] && a.slot_of[e] >= 0) {
            r->posted[e] = 0;
            make_item(a, r, e, a.slots + a.slot_of[e] * a.slot_bytes, a.hit, &r->n_hits);
        }
}

// One block: every row's choice, then what is resident and what is not; misses go to the mailbox.
KERNEL __launch_bounds__(CU_RESOLVE_ROWS * 32) resolve(const __grid_constant__ cu_paged a)
{
    SHARED_DYNAMIC(float, exponentials); // [warps][experts]
    __shared__ struct resolved r;
    grid_begin();
    const int tid = (int)threadIdx.x, warps = (int)blockDim.x / 32, live = min(*a.live, a.n);
    const int pairs = live * a.top_k;
    // Workers may still be at a job that was given up.
    const bool box = !a.state->gave_up;
    for (int e = tid; e < a.experts; e += (int)blockDim.x)
        r.count[e] = 0;
    if (tid == 0)
        r.n_hits = r.n_misses = r.n_groups = r.n_pairs = 0;
    if (tid <= CU_ITEM_ROWS)
        r.missed[tid] = r.taken[tid] = 0;
    for (int row = tid / 32; row < live; row += warps)
        choose(a, row, live, exponentials + tid / 32 * a.experts);
    __syncthreads();
    for (int p = tid; p < pairs; p += (int)blockDim.x)
        atomicAdd(&r.count[a.chosen[p]], 1);
    __syncthreads();
    const int missed = count_missed(a, &r);
    // No late outputs: the link's few blocks would fetch hidden of many rows one after the other.
    const mailbox_cut cut =
        mailbox_cut_of(missed, box ? a.link_share[mailbox_share_class(missed)] : MAILBOX_SHARE_ONE,
                       a.inner, a.width, 0);
    make_items(a, box, cut.link_groups, &r);
    __syncthreads();
    for (int p = tid; p < pairs; p += (int)blockDim.x) {
        const int e = a.chosen[p], at = atomicAdd(&r.count[e], 1);
        a.row[at] = p / a.top_k;
        a.pair[at] = p;
        a.missed[p] = r.posted[e];
        if (cut.cpu_inner) {
            a.box_row[at] = p / a.top_k;
            a.box_pair[at] = p;
        }
    }
    for (int j = tid; j < live * a.width && cut.cpu_inner; j += (int)blockDim.x)
        a.box_x[j] = a.h[j];
    __threadfence_system();
    __syncthreads();
    if (tid)
        return;
    cu_paged_state *s = a.state;
    s->n_hits = r.n_hits;
    s->n_misses = r.n_misses;
    s->cpu_inner = cut.cpu_inner;
    s->cpu_width = cut.cpu_width;
    s->link_groups = cut.link_groups;
    s->job = 0;
    if (!cut.cpu_inner)
        return;
    s->seq = s->seq + 1 ? s->seq + 1 : 1;
    s->job = s->seq;
    a.box->layer = a.layer;
    a.box->n_rows = live;
    a.box->n_groups = r.n_groups;
    a.box->n_pairs = r.n_pairs;
    a.box->cpu_inner = cut.cpu_inner;
    a.box->cpu_width = cut.cpu_width;
    a.box->link_groups = cut.link_groups;
    a.box->posted_ns = global_timer_ns();
    __threadfence_system();
    store_system(&a.box->posted, s->seq);
}

// The last of the link's blocks says that all have done their part.
__device__ __forceinline__ void link_arrive(const cu_paged &a)
{
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x || !a.state->job)
        return;
    if (atomicAdd(&a.state->arrived, 1) + 1 < CU_LINK_BLOCKS)
        return;
    a.state->arrived = 0;
    a.box->link_ns = global_timer_ns();
    __threadfence_system();
    store_system(&a.box->link_hidden, a.state->job);
}

__device__ __forceinline__ int row_of(const cu_paged &a, const cu_expert_item &item, int b)
{
    return a.n == 1 ? 0 : a.row[item.first + min(b, item.count - 1)];
}

template <int DT, int NB>
__device__ __forceinline__ void gate_up_one(const cu_paged &a, const cu_expert_item &item, int out,
                                            bool tell)
{
    const int lane = threadIdx.x & 31;
    const int64_t at = out * a.in_row_bytes;
    const uint8_t *const w[2] = {item.record + a.gate_off + at, item.record + a.up_off + at};
    const float *x[NB];
#pragma unroll
    for (int b = 0; b < NB; b++)
        x[b] = a.h + (int64_t)row_of(a, item, b) * a.width;
    float y[2][NB];
    dots_of<DT, 2, NB, true>(w, x, item.count, a.width, y);
#pragma unroll
    for (int b = 0; b < NB; b++) {
        if (lane != b || b >= item.count)
            continue;
        const int64_t to = (int64_t)a.pair[item.first + b] * a.inner + out;
        const float v = silu_mul_1(y[0][b], y[1][b]);
        a.hidden[to] = v;
        if (tell)
            a.box_hidden[to] = v;
    }
}

template <int DT, int NB> __device__ __forceinline__ void gate_up_over_link(const cu_paged &a)
{
    const int warp = (int)threadIdx.x / 32;
    const int from = a.state->cpu_inner, span = a.inner - from, n = a.state->n_misses;
    if (blockIdx.x >= CU_LINK_BLOCKS || n == 0 || span == 0)
        return;
    for (int u = (int)blockIdx.x * CU_WARPS + warp; u < n * span; u += CU_LINK_BLOCKS * CU_WARPS)
        gate_up_one<DT, NB>(a, a.miss[u / span], from + u % span, from > 0);
    link_arrive(a);
}

// blockIdx.y 0: missed experts over the link; the others: an item each.
template <int DT, int NB> __device__ __forceinline__ void paged_gate_up(const cu_paged &a)
{
    grid_begin();
    const int out = (int)blockIdx.x * CU_WARPS + (int)threadIdx.x / 32;
    if (blockIdx.y == 0) {
        gate_up_over_link<DT, NB>(a);
        return;
    }
    const cu_expert_item item = a.hit[blockIdx.y - 1];
    if ((int)blockIdx.y <= a.state->n_hits && out < a.inner)
        gate_up_one<DT, NB>(a, item, out, false);
}

template <int DT, int NB>
__device__ __forceinline__ void down_two(const cu_paged &a, const cu_expert_item &item,
                                         const float *const (&x)[NB], int first)
{
    const int lane = threadIdx.x & 31;
    const uint8_t *w[CU_OUTS];
#pragma unroll
    for (int r = 0; r < CU_OUTS; r++)
        w[r] = item.record + a.down_off + min(first + r, a.width - 1) * a.down_row_bytes;
    float y[CU_OUTS][NB];
    dots_of<DT, CU_OUTS, NB, true>(w, x, item.count, a.inner, y);
#pragma unroll
    for (int r = 0; r < CU_OUTS; r++)
#pragma unroll
        for (int b = 0; b < NB; b++)
            if (lane == r * NB + b && first + r < a.width && b < item.count)
                a.y[(int64_t)a.pair[item.first + b] * a.width + first + r] = y[r][b];
}

// What the CPU made of an item's hidden vectors, and what came over the link, side by side in
// memory of this block alone.
__device__ __forceinline__ float *gather_hidden(const cu_paged &a, const cu_expert_item &item)
{
    float *to = a.link_x + (int64_t)blockIdx.x * CU_MAX_ROWS * a.inner;
    const int by_cpu = a.state->job ? a.state->cpu_inner : 0, fours = a.inner / 4;
    const auto from = [&](int i) {
        const int j = i % fours * 4;
        const int64_t at = (int64_t)a.pair[item.first + i / fours] * a.inner + j;
        return j < by_cpu ? load_system_float4(a.box_hidden + at)
                          : *(const float4 *)(a.hidden + at);
    };
    fetch_fours(item.count * fours, CU_THREADS, from, [&](int i) { return to + i * 4; });
    __syncthreads();
    return to;
}

template <int DT, int NB> __device__ __forceinline__ void down_over_link(const cu_paged &a)
{
    const int n = a.state->n_misses, from = a.state->cpu_width;
    if (blockIdx.x >= CU_LINK_BLOCKS || n == 0 || from >= a.width)
        return;
    if (a.state->job) {
        if (threadIdx.x == 0)
            await(a.state, a.box, a.state->job, a.patience_ns, &a.box->cpu_hidden);
        __syncthreads();
    }
    for (int i = 0; i < n; i++) {
        const cu_expert_item item = a.miss[i];
        const float *hidden = gather_hidden(a, item);
        const float *x[NB];
#pragma unroll
        for (int b = 0; b < NB; b++)
            x[b] = hidden + min(b, item.count - 1) * a.inner;
        for (int out = from + ((int)blockIdx.x * CU_WARPS + (int)threadIdx.x / 32) * CU_OUTS;
             out < a.width; out += CU_LINK_BLOCKS * CU_BLOCK_OUTS)
            down_two<DT, NB>(a, item, x, out);
        __syncthreads();
    }
}

template <int DT, int NB> __device__ __forceinline__ void paged_down(const cu_paged &a)
{
    grid_begin();
    if (blockIdx.y == 0) {
        down_over_link<DT, NB>(a);
        return;
    }
    const int first = ((int)blockIdx.x * CU_WARPS + (int)threadIdx.x / 32) * CU_OUTS;
    const cu_expert_item item = a.hit[blockIdx.y - 1];
    if ((int)blockIdx.y > a.state->n_hits || first >= a.width)
        return;
    const float *x[NB];
#pragma unroll
    for (int b = 0; b < NB; b++)
        x[b] = a.hidden + (int64_t)a.pair[item.first + min(b, item.count - 1)] * a.inner;
    down_two<DT, NB>(a, item, x, first);
}

// BLOCKS of a processor at once: what registers must leave room for.
#define PAGED(suffix, DT, NB, BLOCKS)                                                              \
    KERNEL __launch_bounds__(CU_THREADS, BLOCKS)                                                   \
        paged_gate_up_##suffix(const __grid_constant__ cu_paged a)                                 \
    {                                                                                              \
        paged_gate_up<DT, NB>(a);                                                                  \
    }                                                                                              \
    KERNEL __launch_bounds__(CU_THREADS, BLOCKS)                                                   \
        paged_down_##suffix(const __grid_constant__ cu_paged a)                                    \
    {                                                                                              \
        paged_down<DT, NB>(a);                                                                     \
    }

PAGED(bf16_1, DTYPE_BF16, 1, 3)
PAGED(bf16_2, DTYPE_BF16, 2, 2)
PAGED(bf16_4, DTYPE_BF16, 4, 2)
PAGED(f16_1, DTYPE_F16, 1, 3)
PAGED(f16_4, DTYPE_F16, 4, 1)
PAGED(f32_1, DTYPE_F32, 1, 2)
PAGED(f32_4, DTYPE_F32, 4, 1)
PAGED(packed_1, PACKED_BF16, 1, 3)
PAGED(packed_2, PACKED_BF16, 2, 2)
PAGED(packed_4, PACKED_BF16, 4, 2)

// The same for items of up to CU_ITEM_ROWS rows.
template <int DT, class Feed> __device__ __forceinline__ void gate_up_kept(const cu_paged &a)
{
    SHARED_DYNAMIC(float, shared);
    grid_begin();
    if (blockIdx.y == 0)
        gate_up_over_link<DT, CU_ITEM_ROWS>(a);
    else if ((int)blockIdx.y <= a.state->n_hits)
        gate_up_item<Feed>(a, a.hit[blockIdx.y - 1], shared);
}

template <int DT, class Feed> __device__ __forceinline__ void down_kept(const cu_paged &a)
{
    SHARED_DYNAMIC(float, shared);
    grid_begin();
    if (blockIdx.y == 0)
        down_over_link<DT, CU_ITEM_ROWS>(a);
    else if ((int)blockIdx.y <= a.state->n_hits)
        down_item<Feed>(a, a.hit[blockIdx.y - 1], shared);
}

#define PAGED_ROWS(suffix, DT, FEED)                                                               \
    KERNEL __launch_bounds__(CU_THREADS, 2)                                                        \
        paged_gate_up_##suffix##_rows(const __grid_constant__ cu_paged a)                          \
    {                                                                                              \
        gate_up_kept<DT, FEED>(a);                                                                 \
    }                                                                                              \
    KERNEL __launch_bounds__(CU_THREADS, 2)                                                        \
        paged_down_##suffix##_rows(const __grid_constant__ cu_paged a)                             \
    {                                                                                              \
        down_kept<DT, FEED>(a);                                                                    \
    }

PAGED_ROWS(bf16, DTYPE_BF16, plain_pair)
PAGED_ROWS(packed, PACKED_BF16, packed_pair)

// kern_combine over what the GPU and what the CPU have made.
KERNEL __launch_bounds__(CU_THREADS) paged_combine(const __grid_constant__ cu_paged a)
{
    grid_begin();
    const int j = (int)blockIdx.y * CU_THREADS + (int)threadIdx.x;
    const int64_t i = blockIdx.x;
    if (i >= *a.live)
        return;
    const bool job = a.state->job && a.state->cpu_width > 0;
    if (job) {
        if (threadIdx.x == 0) {
            const bool tells = blockIdx.x == 0 && blockIdx.y == 0;
            if (tells && a.state->link_groups)
                a.box->link_ns = global_timer_ns();
            await(a.state, a.box, a.state->job, a.patience_ns, &a.box->done);
            if (tells)
                a.box->ended_ns = global_timer_ns();
        }
        __syncthreads();
    }
    if (j >= a.width)
        return;
    const bool from_cpu = job && j < a.state->cpu_width;
    float acc = 0;
    for (int first = 0; first < a.top_k; first += 8) {
        float y[8];
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int64_t p = i * a.top_k + first + k, at = p * a.width + j;
            if (first + k < a.top_k)
                y[k] = from_cpu && a.missed[p] ? load_system_float(a.box_y + at) : a.y[at];
        }
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (first + k < a.top_k)
                acc = __fmaf_rn(a.weight[i * a.top_k + first + k], y[k], acc);
    }
    a.x[i * a.width + j] = __fadd_rn(a.x[i * a.width + j], acc);
}
