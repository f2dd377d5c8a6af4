// The choice of experts and their outputs in a fused step (fused_step.cuh): what is resident, and
// what is missed, which the CPU and the link share (mailbox.h).
#ifndef MOED_KERNELS_CUDA_FUSED_EXPERTS_CUH
#define MOED_KERNELS_CUDA_FUSED_EXPERTS_CUH

#include "choice.cuh"
#include "fused_grid.cuh"
#include "fused_packed_rows.cuh"

// Warp 0: where the chosen experts are, and who computes what of those that are not resident. The
// link's own are like resident ones, behind those.
__device__ __forceinline__ void resolve(const block &b, const cu_paged &a)
{
    control &c = *b.c;
    const int k = lane_of(), e = k < a.top_k ? c.chosen[k] : 0;
    const int slot = k < a.top_k ? b.slot[e] : 0;
    const uint32_t all = a.top_k < 32 ? (1u << a.top_k) - 1 : 0xffffffffu;
    const uint32_t hits = __ballot_sync(0xffffffffu, slot >= 0) & all, misses = all & ~hits;
    const uint32_t before = (1u << k) - 1;
    // Workers may still be at a job that was given up.
    const int n = __popc(misses);
    const mailbox_cut cut =
        mailbox_cut_of(n, c.given_up ? MAILBOX_SHARE_ONE : c.link_share[mailbox_share_class(n)],
                       a.inner, a.width, 1);
    const int link = cut.link_groups;
    const int resident = __popc(hits), missed = __popc(misses & before) - link;
    if (hits >> k & 1) {
        const int at = __popc(hits & before);
        c.hit[at] = a.slots + slot * a.slot_bytes;
        c.hit_at[at] = k;
    } else if (misses >> k & 1 && missed < 0) {
        c.hit[resident + link + missed] = a.host_of[e];
        c.hit_at[resident + link + missed] = k;
    } else if (misses >> k & 1) {
        c.miss[missed] = a.host_of[e];
        c.miss_at[missed] = k;
    }
    if (blockIdx.x == 0 && k < a.top_k)
        a.id[k] = e;
    if (k)
        return;
    c.n_hits = resident + link;
    c.n_misses = n - link;
    c.link_groups = link;
    c.cpu_inner = cut.cpu_inner;
    c.cpu_width = cut.cpu_width;
    c.job = 0;
    if (c.cpu_inner)
        c.job = c.seq = c.seq + 1 ? c.seq + 1 : 1;
}

__device__ __noinline__ float choose_most(const float *logit, int experts, int top_k,
                                          int32_t *chosen)
{
    return choose_experts(logit, experts, top_k, chosen);
}

// What the choice has need of beside the logits, before they are there.
__device__ __forceinline__ void prepare_choice(const block &b, const cu_paged &a)
{
    const int tid = (int)threadIdx.x;
    for (int e = tid; e < a.experts; e += OTHERS) {
        const int32_t slot = a.slot_of[e];
        b.slot[e] = slot;
        if (slot < 0)
            b.c->paged_layer = a.layer;
    }
    if (tid < a.top_k && *a.forced_on)
        b.c->chosen[tid] = a.forced[a.layer * a.top_k + tid];
    if (tid < MAILBOX_SHARE_CLASSES)
        b.c->link_share[tid] = a.link_share[tid];
    if (tid == 32) {
        b.c->forced = *a.forced_on;
        b.c->given_up = (int32_t)a.state->gave_up;
    }
}

// The row's choice, by warp 0 of every block.
__device__ __forceinline__ void choose(const block &b, const cu_paged &a)
{
#pragma unroll 4
    for (int e = lane_of(); e < a.experts; e += 32)
        b.logit[e] = a.logit[e];
    __syncwarp();
    if (!b.c->forced)
        choose_most(b.logit, a.experts, a.top_k, b.c->chosen);
    __syncwarp();
    resolve(b, a);
}

// Its weights, by a warp, while others wait for hidden.
__device__ __forceinline__ void weigh(const block &b, const cu_paged &a)
{
    control &c = *b.c;
    const float max = choose_most(b.logit, a.experts, 1, &c.best);
    exponentiate(b.logit, a.experts, max, b.exponential);
    if (lane_of() == 0)
        weigh_chosen(b.exponential, sum_ascending(b.exponential, a.experts), c.chosen, a.top_k,
                     a.renormalize, c.weight);
}

// By one block's others, while they wait for the logits: the row that experts work on to the
// mailbox, whether any is missed or not.
__device__ __forceinline__ void send_row(const cu_paged &a, const float *h)
{
    for (int j = (int)threadIdx.x * 4; j < a.width; j += OTHERS * 4)
        *(float4 *)(a.box_x + j) = *(const float4 *)(h + place_of(j));
}

// By one block's others: the misses to the mailbox. What the others have written is released with
// what thread 0 has, since they have met.
__device__ __forceinline__ void post(const cu_fused &f, const control &c, const cu_paged &a)
{
    const int tid = (int)threadIdx.x, fours = c.cpu_width / 4;
    const float not_yet = __uint_as_float(MAILBOX_NOT_YET);
    for (int i = tid; i < c.n_misses * fours; i += OTHERS)
        *(float4 *)(a.box_y + (int64_t)c.miss_at[i / fours] * a.width +
                    i % fours * 4) = {not_yet, not_yet, not_yet, not_yet};
    if (tid < c.n_misses) {
        a.box_group[tid] = {c.chosen[c.miss_at[tid]], tid, 1, 0};
        a.box_row[tid] = 0;
        a.box_pair[tid] = c.miss_at[tid];
    }
    sync_first(OTHERS);
    if (tid)
        return;
    a.box->layer = a.layer;
    a.box->n_rows = 1;
    a.box->n_groups = a.box->n_pairs = c.n_misses;
    a.box->cpu_inner = c.cpu_inner;
    a.box->cpu_width = c.cpu_width;
    a.box->link_groups = c.link_groups;
    a.box->posted_ns = global_timer_ns();
    store_system(&a.box->posted, c.job);
    store_release(&f.grid->posted, c.job);
}

// From row to row.
template <bool PACKED> __device__ __forceinline__ int64_t in_row_bytes(const cu_paged &a)
{
    return PACKED ? a.in_row_bytes : (int64_t)a.width * 2;
}

template <bool PACKED> __device__ __forceinline__ int64_t down_row_bytes(const cu_paged &a)
{
    return PACKED ? a.down_row_bytes : (int64_t)a.inner * 2;
}

// n rows of experts times a vector, R of them or fewer and one repeated; AHEAD turns of 256
// elements of plain ones are asked for together.
template <bool PACKED, int R, int AHEAD>
__device__ __forceinline__ dotted<R> expert_dots(const far_rows<R> &rows, int n, int in, int x_at)
{
    if constexpr (PACKED)
        return packed_far_dots<R>(rows, n, in, x_at);
    else
        return far_dots<R, AHEAD>(rows, in, x_at);
}

// A unit of gate and up: output `out` of the expert at `place` of the choice.
struct unit {
    const uint8_t *gate, *up;
    float *hidden;
};

template <bool PACKED>
__device__ __forceinline__ unit unit_of(const cu_paged &a, const uint8_t *record, int place,
                                        int out)
{
    const uint8_t *const row = record + (int64_t)out * in_row_bytes<PACKED>(a);
    return {row + a.gate_off, row + a.up_off, a.hidden + (int64_t)place * a.inner + out};
}

// N units by a warp. twin: another place for those of the first.
template <bool PACKED, int N>
__device__ __forceinline__ void gate_up_units(const cu_fused &f, const cu_paged &a,
                                              const unit (&u)[N], float *twin)
{
    far_rows<2 * N> rows;
#pragma unroll
    for (int i = 0; i < N; i++) {
        rows.w[2 * i] = u[i].gate;
        rows.w[2 * i + 1] = u[i].up;
    }
    const dotted<2 *N> d = expert_dots<PACKED, 2 * N, 4>(rows, 2 * N, a.width, f.work_at);
#pragma unroll
    for (int i = 0; i < N; i++)
        if (lane_of() == i) {
            const float v = silu_mul_1(d.y[2 * i], d.y[2 * i + 1]);
            *u[i].hidden = v;
            if (twin)
                *twin = v;
        }
}

// By a warp, before it reads over the link: the job is posted, which would wait 10 us behind what
// all of them ask for.
__device__ __forceinline__ void await_posted(const cu_fused &f, const control &c)
{
    if (lane_of() == 0)
        while (load_acquire(&f.grid->posted) != c.job) {
        }
    __syncwarp();
}

// By the last warp of each block: gate and up of missed experts, over the link.
template <bool PACKED>
__device__ __forceinline__ void gate_up_over_link(const cu_fused &f, const control &c,
                                                  const cu_paged &a)
{
    const int from = c.cpu_inner, span = a.inner - from;
    if (c.job)
        await_posted(f, c);
    for (int u = (int)blockIdx.x; u < c.n_misses * span; u += (int)gridDim.x) {
        const int m = u / span;
        const int64_t to = (int64_t)c.miss_at[m] * a.inner;
        const int out = from + u % span;
        gate_up_units<PACKED, 1>(f, a, {unit_of<PACKED>(a, c.miss[m], c.miss_at[m], out)},
                                 c.job ? a.box_hidden + to + out : nullptr);
    }
    __threadfence_system();
    __syncwarp();
    if (lane_of() || !c.job || atomicAdd(&a.state->arrived, 1) + 1 < gridDim.x)
        return;
    a.state->arrived = 0;
    a.box->link_ns = global_timer_ns();
    __threadfence_system();
    store_system(&a.box->link_hidden, c.job);
}

// Turns of a row of down that are asked for together: all of a row of 768, the usual length.
enum { DOWN_AHEAD = 3 };

// Rows of the block's down, one expert after the other.
template <bool PACKED> struct down_rows {
    const cu_paged &a;
    const uint8_t *const *record;
    int first, outs;
    __device__ __forceinline__ const uint8_t *operator()(int i) const
    {
        return record[i / outs] + a.down_off + (first + i % outs) * down_row_bytes<PACKED>(a);
    }
};

// A warp's part of n rows that follow each other.
__device__ __forceinline__ share part_of(int n)
{
    const int from = n * warp_of() / WARPS;
    return {from, 1, n * (warp_of() + 1) / WARPS - from};
}

template <bool PACKED, bool MISSES>
__device__ __forceinline__ void gate_up(const cu_fused &f, const control &c, const cu_paged &a)
{
    const bool link = MISSES && c.cpu_inner < a.inner;
    const int warps = link ? WARPS - 1 : WARPS;
    const run units(c.n_hits * a.inner);
    const share mine = every_so_many(units.count, warps);
    const auto nth = [&](int j) {
        const int u = units.first + mine.from + j * mine.step, at = u / a.inner;
        return unit_of<PACKED>(a, c.hit[at], c.hit_at[at], u % a.inner);
    };
    bool awaited = !MISSES || !c.link_groups;
    for (int j = 0, n; j < mine.count; j += n) {
        const int last = units.first + mine.from + (j + 1) * mine.step;
        if (!awaited && last >= (c.n_hits - c.link_groups) * a.inner) {
            await_posted(f, c);
            awaited = true;
        }
        n = !PACKED && j + 2 <= mine.count ? 2 : 1;
        if (n == 2)
            gate_up_units<PACKED, 2>(f, a, {nth(j), nth(j + 1)}, nullptr);
        else
            gate_up_units<PACKED, 1>(f, a, {nth(j)}, nullptr);
    }
    if (MISSES && warp_of() >= warps)
        gate_up_over_link<PACKED>(f, c, a);
}

// The block's outputs of the resident experts.
template <bool PACKED>
__device__ __forceinline__ void down_resident(const cu_fused &f, const block &b, const cu_paged &a,
                                              const run &outs)
{
    enum { TOGETHER = 4 };
    const control &c = *b.c;
    const share mine = part_of(c.n_hits * outs.count);
    const down_rows<PACKED> rows{a, c.hit, outs.first, outs.count};
    for (int at = 0; at < mine.count;) {
        const int i = mine.from + at, expert = i / outs.count;
        const int n = min(min(mine.count - at, (expert + 1) * outs.count - i), TOGETHER);
        const int x_at = f.work_at + expert * vector_floats(a.inner) * 4;
        far_rows<TOGETHER> some;
#pragma unroll
        for (int r = 0; r < TOGETHER; r++)
            some.w[r] = rows(i + min(r, n - 1));
        const float y = of_lane(expert_dots<PACKED, TOGETHER, DOWN_AHEAD>(some, n, a.inner, x_at));
        if (lane_of() < n)
            b.y[c.hit_at[expert] * f.outs + (i + lane_of()) % outs.count] = y;
        at += n;
    }
}

// By a block: waits for a word of the miss workers.
__device__ __forceinline__ void await_word(const control &c, const cu_paged &a,
                                           const uint32_t *word)
{
    if (threadIdx.x == 0)
        await(a.state, a.box, c.job, a.patience_ns, word);
    __syncthreads();
}

// What the miss workers have written, which block 0 brings to device memory for all: over the link
// once, not by each block that has need of some.
template <class Bring>
__device__ __forceinline__ void brought_once(const control &c, uint32_t *there, const Bring &bring)
{
    if (blockIdx.x == 0) {
        bring();
        __syncthreads();
        if (threadIdx.x == 0)
            store_release(there, c.job);
        return;
    }
    if (threadIdx.x == 0)
        while (load_acquire(there) != c.job) {
        }
    __syncthreads();
}

__device__ __forceinline__ bool is_there(float v)
{
    return __float_as_uint(v) != MAILBOX_NOT_YET;
}

// The CPU's part of missed experts' vectors of `width`, as long. False: this thread's has floats
// that are not there yet.
__device__ __forceinline__ bool fetch(const control &c, const float *from, int width, int length,
                                      float *to)
{
    const int fours = length / 4;
    const auto at = [&](int i) { return (int64_t)c.miss_at[i / fours] * width + i % fours * 4; };
    bool there = true;
    fetch_fours(
        c.n_misses * fours, CU_FUSED_THREADS,
        [&](int i) {
            const float4 v = load_system_float4(from + at(i));
            there = there && is_there(v.x) && is_there(v.y) && is_there(v.z) && is_there(v.w);
            return v;
        },
        [&](int i) { return to + at(i); });
    return there;
}

// By block 0: the CPU's outputs, looked at a few times when they are about to stand, and if need be
// once more when they do. In the last layer only then: no later one awaits the job's end.
__device__ __forceinline__ void bring_y(const control &c, const cu_paged &a, bool last)
{
    enum { LOOKS = 4 };
    const auto there = [&] { return fetch(c, a.box_y, a.width, c.cpu_width, a.y); };
    if (!last) {
        await_word(c, a, &a.box->y_soon);
        for (int look = 0; look < LOOKS; look++)
            if (__syncthreads_and(there()))
                return;
    }
    await_word(c, a, &a.box->done);
    there();
}

// Hidden vectors of n experts at places `at` of the choice, to shared memory.
__device__ __forceinline__ void gather_hidden(const cu_paged &a, const int32_t *at, int n,
                                              float *to)
{
    const int fours = a.inner / 4;
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < n * fours; i += CU_FUSED_THREADS) {
        const int h = i / fours, j = i % fours * 4;
        *(float4 *)(to + h * vector_floats(a.inner) + place_of(j)) =
            *(const float4 *)(a.hidden + (int64_t)at[h] * a.inner + j);
    }
}

// Those of its outputs of missed experts that come over the link, by so many warps that what all
// blocks together ask for does not hold up what else crosses it.
template <bool PACKED>
__device__ __forceinline__ void down_over_link(const cu_fused &f, const block &b, const cu_paged &a,
                                               const run &outs)
{
    const control &c = *b.c;
    const int first = max(outs.first, c.cpu_width), n = outs.first + outs.count - first;
    if (c.cpu_width == a.width)
        return;
    if (c.job && (n > 0 || blockIdx.x == 0))
        brought_once(c, &f.grid->cpu_hidden, [&] {
            await_word(c, a, &a.box->cpu_hidden);
            fetch(c, a.box_hidden, a.inner, c.cpu_inner, a.hidden);
        });
    if (n <= 0)
        return;
    const int stride = vector_floats(a.inner);
    gather_hidden(a, c.miss_at, c.n_misses, b.work + c.n_hits * stride);
    __syncthreads();
    const int blocks = (a.width - c.cpu_width + outs.count - 1) / outs.count;
    const int warps = min(max(CU_FUSED_LINK_WARPS / blocks, 1), WARPS), pairs = (n + 1) / 2;
    for (int i = warp_of(); i < c.n_misses * pairs && warp_of() < warps; i += warps) {
        const int m = i / pairs, out = first + i % pairs * 2, there = min(2, first + n - out);
        const int64_t row_bytes = down_row_bytes<PACKED>(a);
        const uint8_t *row = c.miss[m] + a.down_off + out * row_bytes;
        const dotted<2> d =
            expert_dots<PACKED, 2, DOWN_AHEAD>({{row, row + (there - 1) * row_bytes}}, there,
                                               a.inner, f.work_at + (c.n_hits + m) * stride * 4);
        put_out(d, there, out - outs.first, 1,
                [&](int at, float v) { b.y[c.miss_at[m] * f.outs + at] = v; });
    }
}

// Those that the CPU has computed.
__device__ __forceinline__ void down_by_cpu(const cu_fused &f, const block &b, const cu_paged &a,
                                            const run &outs, bool last)
{
    const control &c = *b.c;
    const int n = min(outs.count, c.cpu_width - outs.first);
    if (!c.job || (n <= 0 && blockIdx.x))
        return;
    brought_once(c, &f.grid->done, [&] { bring_y(c, a, last); });
    for (int i = (int)threadIdx.x; i < c.n_misses * n; i += CU_FUSED_THREADS) {
        const int k = c.miss_at[i / n];
        b.y[k * f.outs + i % n] = a.y[(int64_t)k * a.width + outs.first + i % n];
    }
}

// By a block that has done its part of the link's own experts; the last one says when.
__device__ __forceinline__ void tell_link_ended(const cu_paged &a)
{
    __syncthreads();
    if (threadIdx.x || atomicAdd(&a.state->arrived, 1) + 1 < gridDim.x)
        return;
    a.state->arrived = 0;
    a.box->link_ns = global_timer_ns();
}

// down of all chosen experts for the block's outputs, summed in the order of the choice onto x.
// last: of the layers.
template <bool PACKED, bool MISSES>
__device__ __forceinline__ void down(const cu_fused &f, const block &b, const cu_paged &a,
                                     bool last)
{
    const control &c = *b.c;
    const run outs(a.width);
    const int tid = (int)threadIdx.x;
    const float before = tid < outs.count ? a.x[outs.first + tid] : 0;
    gather_hidden(a, c.hit_at, c.n_hits, b.work);
    __syncthreads();
    down_resident<PACKED>(f, b, a, outs);
    if (MISSES && c.link_groups)
        tell_link_ended(a);
    if (MISSES) {
        down_over_link<PACKED>(f, b, a, outs);
        down_by_cpu(f, b, a, outs, last);
    }
    __syncthreads();
    for (int i = tid; i < outs.count; i += CU_FUSED_THREADS) {
        float acc = 0;
        for (int k = 0; k < a.top_k; k++)
            acc = __fmaf_rn(c.weight[k], b.y[k * f.outs + i], acc);
        a.x[outs.first + i] = __fadd_rn(i == tid ? before : a.x[outs.first + i], acc);
    }
}

#endif
