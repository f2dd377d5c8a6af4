// All layers of a step of one row in one launch. Between the parts of a layer the blocks wait for
// each other; while they do, the weights of a matrix to come are on their way to shared memory or
// to the second-level cache, so that the memory is busy and the chain of parts is short. The
// arithmetic is that of the ops (step.cu, attention.cu, paged.cu), bit for bit.
//
// A block has a run of the outputs of each matrix, and a warp every so many of that run's rows.
// What other blocks have written is read only after a barrier of the grid.
#include "attention.cuh"
#include "choice.cuh"
#include "fused_args.h"
#include "mma.cuh"

#define WARPS CU_FUSED_WARPS
#define DT    DTYPE_BF16

typedef cu_fused_control control;

// Shared memory of a block, cut.
struct block {
    control *c;
    float *logit, *exponential, *y, *work;
    int32_t *slot;
};

__device__ __forceinline__ block block_of(const cu_fused &f)
{
    SHARED_DYNAMIC(uint8_t, shared);
    block b;
    b.c = (control *)shared;
    b.logit = (float *)(shared + f.logit_at);
    b.exponential = (float *)(shared + f.exponential_at);
    b.slot = (int32_t *)(shared + f.slot_at);
    b.y = (float *)(shared + f.y_at);
    b.work = (float *)(shared + f.work_at);
    return b;
}

// How far the block is.
struct progress {
    uint32_t target; // of the barrier to come
    int layer;
};

__device__ __forceinline__ int lane_of()
{
    return (int)threadIdx.x & 31;
}

__device__ __forceinline__ int warp_of()
{
    return (int)threadIdx.x / 32;
}

// ---- barriers of the grid, in two halves: what needs nothing of other blocks goes between ----

__device__ __forceinline__ void arrive(const cu_fused &f, progress &p)
{
    p.target += gridDim.x;
    __syncthreads();
    if (threadIdx.x == 0)
        add_release(&f.grid->arrived, 1);
}

__device__ __forceinline__ void await_all(const cu_fused &f, const progress &p)
{
    if (threadIdx.x == 0)
        while ((int32_t)(load_acquire(&f.grid->arrived) - p.target) < 0) {
        }
    __syncthreads();
}

__device__ __forceinline__ void mark(const cu_fused &f, const progress &p, int part)
{
    if (f.cycles && blockIdx.x == 0 && threadIdx.x == 0)
        f.cycles[p.layer * (CU_FUSED_PARTS + 1) + part] = cycles_now();
}

// ---- rows of weights ----

// A block's run of n things.
struct run {
    int first, count;
    __device__ __forceinline__ explicit run(int n)
        : first((int)((uint32_t)n * blockIdx.x / gridDim.x)),
          count((int)((uint32_t)n * (blockIdx.x + 1) / gridDim.x) - first)
    {
    }
};

// A warp's rows among the block's: from, from + step, ...
struct share {
    int from, step, count;
};

// By turns of the warps from `first` on.
__device__ __forceinline__ share every_so_many(int count, int first = 0)
{
    const int w = warp_of() - first, step = WARPS - first;
    return {w, step, count > w ? (count - w + step - 1) / step : 0};
}

// How many of a warp's rows have a place in the block's near memory.
__device__ __forceinline__ int near_rows(const cu_near &near, const share &s, int row_bytes)
{
    const int places = near.bytes / row_bytes;
    return places <= s.from ? 0 : min(s.count, (places - s.from + s.step - 1) / s.step);
}

// Asks for a warp's rows of at least `first` in the second-level cache.
template <class Row>
__device__ __forceinline__ void prefetch_rows(const share &s, int first, int row_bytes,
                                              const Row &row)
{
#pragma unroll 1
    for (int j = first + lane_of(); j < s.count; j += 32)
        prefetch_row(row(s.from + j * s.step), (uint32_t)row_bytes);
}

// Sets a warp's rows on their way to their places, as one group; asks for those without a place.
template <class Row>
__device__ __forceinline__ void bring(const cu_near &place, const share &s, int row_bytes,
                                      const Row &row)
{
    SHARED_DYNAMIC(uint8_t, shared);
    const int near = near_rows(place, s, row_bytes);
#pragma unroll 1
    for (int j = 0; j < near; j++) {
        const int i = s.from + j * s.step;
        const uint8_t *from = row(i);
        for (int at = lane_of() * 16; at < row_bytes; at += 512)
            cp_async_16(shared_address(shared + place.at + i * row_bytes + at), from + at, 16);
    }
    cp_async_commit();
    prefetch_rows(s, near, row_bytes, row);
}

// Rows times x [in] by a warp, both R at a time; every lane gets the results. These and what
// follows is not inlined: the instructions of several copies would not stay in the caches.

template <int R> struct dotted {
    float y[R];
};

// Weights and x at bytes of shared memory; rows `step` bytes apart, `count` of them there.
template <int R>
__device__ __noinline__ dotted<R> near_dots(int w_at, int step, int count, int in, int x_at)
{
    SHARED_DYNAMIC(uint8_t, shared);
    const uint8_t *w[R];
#pragma unroll
    for (int r = 0; r < R; r++)
        w[r] = shared + w_at + min(r, count - 1) * step;
    const float *const x[1] = {(const float *)(shared + x_at)};
    float y[R][1];
    dotted<R> out;
    dots<DT, R, 1, true, true>(w, x, 1, in, y);
#pragma unroll
    for (int r = 0; r < R; r++)
        out.y[r] = y[r][0];
    return out;
}

// Rows of any memory that nobody writes; they may be the same.
template <int R> struct far_rows {
    const uint8_t *w[R];
};

template <int R> __device__ __noinline__ dotted<R> far_dots(far_rows<R> rows, int in, int x_at)
{
    SHARED_DYNAMIC(uint8_t, shared);
    const float *const x[1] = {(const float *)(shared + x_at)};
    float y[R][1];
    dotted<R> out;
    dots<DT, R, 1, true>(rows.w, x, 1, in, y);
#pragma unroll
    for (int r = 0; r < R; r++)
        out.y[r] = y[r][0];
    return out;
}

// Lane r takes output r of those that are there.
template <int R, class Out>
__device__ __forceinline__ void put_out(const dotted<R> &d, int count, int i, int step,
                                        const Out &out)
{
#pragma unroll
    for (int r = 0; r < R; r++)
        if (lane_of() == r && r < count)
            out(i + r * step, d.y[r]);
}

// All of a warp's rows times what lies at x_at.
template <class Row, class Out>
__device__ __forceinline__ void dot_rows(const cu_near &place, const share &s, int in, int x_at,
                                         const Row &row, const Out &out)
{
    const int row_bytes = in * 2, near = near_rows(place, s, row_bytes);
    for (int j = 0; j < near; j += 4) {
        const int i = s.from + j * s.step, at = place.at + i * row_bytes, n = min(near - j, 4);
        if (n > 2)
            put_out(near_dots<4>(at, s.step * row_bytes, n, in, x_at), n, i, s.step, out);
        else
            put_out(near_dots<2>(at, s.step * row_bytes, n, in, x_at), n, i, s.step, out);
    }
    for (int j = near, n; j < s.count; j += n) {
        const int i = s.from + j * s.step;
        n = min(s.count - j, s.count - j > 2 ? 4 : 2);
        if (n > 2)
            put_out(far_dots<4>(
                        {{row(i), row(i + s.step), row(i + 2 * s.step), row(i + (n - 1) * s.step)}},
                        in, x_at),
                    n, i, s.step, out);
        else
            put_out(far_dots<2>({{row(i), row(i + (n - 1) * s.step)}}, in, x_at), n, i, s.step,
                    out);
    }
}

// ---- dense matrices ----

struct matrix_rows {
    const cu_norm_linear &a;
    int first;
    __device__ __forceinline__ const cu_matrix &matrix(int i) const
    {
        const int out = first + i;
        return a.matrix[out >= a.matrix[2].first ? 2 : out >= a.matrix[1].first ? 1 : 0];
    }
    __device__ __forceinline__ const uint8_t *operator()(int i) const
    {
        const cu_matrix &m = matrix(i);
        return m.w + (int64_t)(first + i - m.first) * a.in * 2;
    }
};

// Which matrix of a layer.
enum which { PROJECT, OUT, ROUTER };

__device__ __forceinline__ const cu_norm_linear &matrix_of(const block &b, int layer, which w)
{
    const cu_layer &l = b.c->layer[layer & 1];
    return w == PROJECT ? l.project : w == OUT ? l.out : l.router;
}

__device__ __forceinline__ const cu_near &near_of(const cu_fused &f, which w)
{
    return w == PROJECT ? f.near_project : w == OUT ? f.near_out : f.near_router;
}

// By the warps from `first` on, all of the block's rows; the others may have copies of their own
// under way, for which a wait would be one for these too.
__device__ __noinline__ void bring_matrix(const cu_fused &f, int layer, which w, int first)
{
    const block b = block_of(f);
    const cu_norm_linear &a = matrix_of(b, layer, w);
    const run mine(a.outs);
    bring(near_of(f, w), every_so_many(mine.count, first), a.in * 2, matrix_rows{a, mine.first});
    if (a.norm && blockIdx.x == 0 && threadIdx.x == CU_FUSED_THREADS - 1)
        prefetch_row(a.norm, (uint32_t)a.in * (a.norm_dtype == DTYPE_F32 ? 4 : 2));
}

__device__ __noinline__ void multiply(const cu_fused &f, int layer, which w)
{
    const block b = block_of(f);
    const cu_norm_linear &a = matrix_of(b, layer, w);
    const run mine(a.outs);
    const matrix_rows rows{a, mine.first};
    dot_rows(near_of(f, w), every_so_many(mine.count), a.in, f.work_at, rows, [&](int i, float v) {
        const cu_matrix &m = rows.matrix(i);
        const int out = mine.first + i - m.first;
        if (m.bias)
            v = __fadd_rn(v, load_any(m.bias, a.bias_dtype, out));
        if (a.residual)
            v = __fadd_rn(v, a.residual[out]);
        m.y[out] = v;
    });
}

// rmsnorm of x into what the block works on, by every block for itself.
__device__ __noinline__ void norm(const cu_fused &f, int layer, which w)
{
    const block b = block_of(f);
    const cu_norm_linear &a = matrix_of(b, layer, w);
    float *const to = b.work, *const sums = b.c->sums;
    if (threadIdx.x < 256) {
        float p = 0;
#pragma unroll 8
        for (int j = (int)threadIdx.x; j < a.in; j += 256)
            p = __fmaf_rn(a.x[j], a.x[j], p);
#pragma unroll
        for (int distance = 1; distance < 8; distance *= 2)
            p = __fadd_rn(p, __shfl_xor_sync(0xffffffffu, p, distance));
        if (lane_of() % 8 == 0)
            sums[warp_of() * 4 + lane_of() / 8] = p;
    }
    __syncthreads();
    float s = sums[lane_of()];
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
        s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, distance));
    const float inverse = inverse_norm(s, a.in, a.eps);
#pragma unroll 4
    for (int j = (int)threadIdx.x; j < a.in; j += CU_FUSED_THREADS)
        to[j] = __fmul_rn(__fmul_rn(a.x[j], inverse), load_any(a.norm, a.norm_dtype, j));
}

__device__ __forceinline__ void copy_into(float *to, const float *from, int n)
{
#pragma unroll 4
    for (int j = (int)threadIdx.x * 4; j < n; j += CU_FUSED_THREADS * 4)
        *(float4 *)(to + j) = *(const float4 *)(from + j);
}

// ---- experts ----

// Warp 0: where the chosen experts are, and who computes what of those that are not resident.
__device__ __forceinline__ void resolve(const block &b, const cu_paged &a, bool given_up)
{
    control &c = *b.c;
    const int k = lane_of(), e = k < a.top_k ? c.chosen[k] : 0;
    const int slot = k < a.top_k ? b.slot[e] : 0;
    const uint32_t all = a.top_k < 32 ? (1u << a.top_k) - 1 : 0xffffffffu;
    const uint32_t hits = __ballot_sync(0xffffffffu, slot >= 0) & all, misses = all & ~hits;
    const uint32_t before = (1u << k) - 1;
    if (hits >> k & 1) {
        const int at = __popc(hits & before);
        c.hit[at] = a.slots + slot * a.slot_bytes;
        c.hit_at[at] = k;
    } else if (misses >> k & 1) {
        const int at = __popc(misses & before);
        c.miss[at] = a.host_of[e];
        c.miss_at[at] = k;
    }
    if (blockIdx.x == 0 && k < a.top_k)
        a.id[k] = e;
    if (k)
        return;
    const int n = __popc(misses);
    const int share = a.link_share[mailbox_share_class(n)];
    c.n_hits = __popc(hits);
    c.n_misses = n;
    // Workers may still be at a job that was given up.
    c.cpu_inner = n && !given_up ? mailbox_cpu_outputs(a.inner, share) : 0;
    c.cpu_width = c.cpu_inner ? mailbox_cpu_outputs(a.width, share) : 0;
    c.job = 0;
    if (c.cpu_inner)
        c.job = c.seq = c.seq + 1 ? c.seq + 1 : 1;
}

// The row's choice, by every block for itself: warp 0 chooses, warp 1 makes the weights.
__device__ __forceinline__ void choose(const block &b, const cu_paged &a)
{
    control &c = *b.c;
    for (int e = (int)threadIdx.x; e < a.experts; e += CU_FUSED_THREADS)
        b.logit[e] = a.logit[e];
    __syncthreads();
    if (warp_of() == 0) {
        const bool given_up = a.state->gave_up;
        const int32_t *forced = *a.forced_on ? a.forced + (int64_t)a.layer * a.top_k : nullptr;
        if (forced && lane_of() < a.top_k)
            c.chosen[lane_of()] = forced[lane_of()];
        else if (!forced)
            choose_experts(b.logit, a.experts, a.top_k, c.chosen);
        __syncwarp();
        resolve(b, a, given_up);
    } else if (warp_of() == 1) {
        const float max = choose_experts(b.logit, a.experts, 1, &c.best);
        exponentiate(b.logit, a.experts, max, b.exponential);
        if (lane_of() == 0)
            c.sum = sum_ascending(b.exponential, a.experts);
    }
    __syncthreads();
    if (threadIdx.x == 32)
        weigh_chosen(b.exponential, c.sum, c.chosen, a.top_k, a.renormalize, c.weight);
}

// By one block: the misses to the mailbox, with the row they work on.
__device__ __forceinline__ void post(const control &c, const cu_paged &a, const float *h)
{
    const int tid = (int)threadIdx.x;
    for (int j = tid; j < a.width; j += CU_FUSED_THREADS)
        a.box_x[j] = h[j];
    if (tid < c.n_misses) {
        a.box_group[tid] = {c.chosen[c.miss_at[tid]], tid, 1, 0};
        a.box_row[tid] = 0;
        a.box_pair[tid] = c.miss_at[tid];
    }
    __threadfence_system();
    __syncthreads();
    if (tid)
        return;
    a.box->layer = a.layer;
    a.box->n_rows = 1;
    a.box->n_groups = a.box->n_pairs = c.n_misses;
    a.box->cpu_inner = c.cpu_inner;
    a.box->cpu_width = c.cpu_width;
    a.box->posted_ns = global_timer_ns();
    __threadfence_system();
    store_system(&a.box->posted, c.job);
}

// Output `out` of an expert's hidden vector.
__device__ __forceinline__ void gate_up_one(const cu_fused &f, const cu_paged &a,
                                            const uint8_t *record, int out, float *hidden,
                                            float *twin)
{
    const uint8_t *row = record + (int64_t)out * a.width * 2;
    const dotted<2> d = far_dots<2>({{row + a.gate_off, row + a.up_off}}, a.width, f.work_at);
    if (lane_of())
        return;
    const float v = silu_mul_1(d.y[0], d.y[1]);
    hidden[out] = v;
    if (twin)
        twin[out] = v;
}

// By the last warp of each block: gate and up of missed experts, over the link.
__device__ __forceinline__ void gate_up_over_link(const cu_fused &f, const control &c,
                                                  const cu_paged &a)
{
    const int from = c.cpu_inner, span = a.inner - from;
    for (int u = (int)blockIdx.x; u < c.n_misses * span; u += (int)gridDim.x) {
        const int m = u / span;
        const int64_t to = (int64_t)c.miss_at[m] * a.inner;
        gate_up_one(f, a, c.miss[m], from + u % span, a.hidden + to,
                    c.job ? a.box_hidden + to : nullptr);
    }
    __threadfence_system();
    __syncwarp();
    if (lane_of() || !c.job || atomicAdd(&a.state->arrived, 1) + 1 < gridDim.x)
        return;
    a.state->arrived = 0;
    a.box->link_hidden_ns = global_timer_ns();
    __threadfence_system();
    store_system(&a.box->link_hidden, c.job);
}

// Rows of the block's down, one expert after the other.
struct down_rows {
    const cu_paged &a;
    const uint8_t *const *record;
    int first, outs;
    __device__ __forceinline__ const uint8_t *operator()(int i) const
    {
        return record[i / outs] + a.down_off + (int64_t)(first + i % outs) * a.inner * 2;
    }
};

// A warp's part of n rows that follow each other.
__device__ __forceinline__ share part_of(int n)
{
    const int from = n * warp_of() / WARPS;
    return {from, 1, n * (warp_of() + 1) / WARPS - from};
}

__device__ __forceinline__ void gate_up(const cu_fused &f, const control &c, const cu_paged &a)
{
    const bool link = c.n_misses && c.cpu_inner < a.inner;
    const int warps = link ? WARPS - 1 : WARPS;
    const run units(c.n_hits * a.inner), outs(a.width);
    const int count = warp_of() < warps ? units.count : 0;
    int i = warp_of() - warps;
    for (int turn = 0; turn == 0 || i + warps < count; turn++) {
        i += warps;
        if (i < count) {
            const int u = units.first + i, at = u / a.inner;
            gate_up_one(f, a, c.hit[at], u % a.inner, a.hidden + (int64_t)c.hit_at[at] * a.inner,
                        nullptr);
        }
        // Behind the loads that are needed first; the memory then has work beyond the barrier.
        if (turn == 0)
            prefetch_rows(part_of(c.n_hits * outs.count), 0, a.inner * 2,
                          down_rows{a, c.hit, outs.first, outs.count});
    }
    if (warp_of() >= warps)
        gate_up_over_link(f, c, a);
}

// The block's outputs of the resident experts.
__device__ __forceinline__ void down_resident(const cu_fused &f, const block &b, const cu_paged &a,
                                              const run &outs)
{
    const control &c = *b.c;
    const share mine = part_of(c.n_hits * outs.count);
    const down_rows rows{a, c.hit, outs.first, outs.count};
    for (int at = 0; at < mine.count;) {
        const int i = mine.from + at, expert = i / outs.count;
        const int n = min(mine.count - at, (expert + 1) * outs.count - i);
        dot_rows({0, 0}, {i, 1, n}, a.inner, f.work_at + expert * a.inner * 4, rows,
                 [&](int row, float v) { b.y[c.hit_at[expert] * f.outs + row % outs.count] = v; });
        at += n;
    }
}

// Waits for a word of the miss workers; block 0 asks for all.
__device__ __forceinline__ void await_word(const control &c, const cu_paged &a,
                                           const uint32_t *word, uint32_t *seen)
{
    if (threadIdx.x == 0 && blockIdx.x == 0) {
        await(a.state, a.box, c.job, a.patience_ns, word);
        store_system(seen, c.job);
    } else if (threadIdx.x == 0) {
        while (load_acquire(seen) != c.job) {
        }
    }
    __syncthreads();
}

// Those of its outputs of missed experts that come over the link.
__device__ __forceinline__ void down_over_link(const cu_fused &f, const block &b, const cu_paged &a,
                                               const run &outs)
{
    const control &c = *b.c;
    const int first = max(outs.first, c.cpu_width), n = outs.first + outs.count - first;
    if (c.n_misses == 0 || c.cpu_width == a.width)
        return;
    if (c.job && (n > 0 || blockIdx.x == 0))
        await_word(c, a, &a.box->cpu_hidden, &f.grid->cpu_hidden);
    if (n <= 0)
        return;
    float *hidden = b.work + c.n_hits * a.inner;
    for (int i = (int)threadIdx.x; i < c.n_misses * a.inner; i += CU_FUSED_THREADS) {
        const int64_t from = (int64_t)c.miss_at[i / a.inner] * a.inner + i % a.inner;
        hidden[i] = c.job && i % a.inner < c.cpu_inner ? load_system_float(a.box_hidden + from)
                                                       : a.hidden[from];
    }
    __syncthreads();
    const int pairs = (n + 1) / 2;
    for (int i = warp_of(); i < c.n_misses * pairs; i += WARPS) {
        const int m = i / pairs, out = first + i % pairs * 2, there = min(2, first + n - out);
        const uint8_t *row = c.miss[m] + a.down_off + (int64_t)out * a.inner * 2;
        const dotted<2> d = far_dots<2>({{row, row + (int64_t)(there - 1) * a.inner * 2}}, a.inner,
                                        f.work_at + (c.n_hits + m) * a.inner * 4);
        put_out(d, there, out - outs.first, 1,
                [&](int at, float v) { b.y[c.miss_at[m] * f.outs + at] = v; });
    }
}

// Those that the CPU has computed.
__device__ __forceinline__ void down_by_cpu(const cu_fused &f, const block &b, const cu_paged &a,
                                            const run &outs)
{
    const control &c = *b.c;
    const int n = min(outs.count, c.cpu_width - outs.first);
    if (!c.job || (n <= 0 && blockIdx.x))
        return;
    await_word(c, a, &a.box->done, &f.grid->done);
    for (int i = (int)threadIdx.x; i < c.n_misses * n; i += CU_FUSED_THREADS) {
        const int k = c.miss_at[i / n], out = outs.first + i % n;
        b.y[k * f.outs + i % n] = load_system_float(a.box_y + (int64_t)k * a.width + out);
    }
}

// down of all chosen experts for the block's outputs, summed in the order of the choice onto x.
__device__ __forceinline__ void down(const cu_fused &f, const block &b, const cu_paged &a)
{
    const control &c = *b.c;
    const run outs(a.width);
    const int fours = a.inner / 4;
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < c.n_hits * fours; i += CU_FUSED_THREADS) {
        const int h = i / fours, at = i % fours * 4;
        *(float4 *)(b.work + h * a.inner + at) =
            *(const float4 *)(a.hidden + (int64_t)c.hit_at[h] * a.inner + at);
    }
    __syncthreads();
    down_resident(f, b, a, outs);
    down_over_link(f, b, a, outs);
    down_by_cpu(f, b, a, outs);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < outs.count; i += CU_FUSED_THREADS) {
        float acc = 0;
        for (int k = 0; k < a.top_k; k++)
            acc = __fmaf_rn(c.weight[k], b.y[k * f.outs + i], acc);
        a.x[outs.first + i] = __fadd_rn(a.x[outs.first + i], acc);
    }
}

// ---- the parts of a layer ----

__device__ __forceinline__ void load_layer(const cu_fused &f, const block &b, int layer)
{
    const uint32_t *from = (const uint32_t *)(f.layer + layer);
    uint32_t *to = (uint32_t *)&b.c->layer[layer & 1];
    for (int i = (int)threadIdx.x; i < (int)(sizeof(cu_layer) / 4); i += CU_FUSED_THREADS)
        to[i] = from[i];
}

// Attention, by the first warps of a block: a unit or more, what needs no other block before the
// barrier. The other warps bring the rows of the next matrix meanwhile.
__device__ __forceinline__ void attend_part(const cu_fused &f, const block &b, const progress &p,
                                            const cu_layer &l)
{
    enum { ATTENDING = CU_FUSED_TEAMS * CU_ATTENTION_THREADS };
    const bool mine = threadIdx.x < ATTENDING;
    const attn::team_barriers<CU_FUSED_TEAMS> sync = {1};
    attn::unit<DT, CU_FUSED_HEADS, CU_FUSED_DIM, CU_FUSED_TEAMS> u;
    bool there = false;
    if (!mine)
        bring_matrix(f, p.layer, OUT, ATTENDING / 32);
    else if ((int)blockIdx.x < l.units)
        there = attn::turn_begin(l.attention, l.turn, 0, (int)blockIdx.x, b.work, u);
    await_all(f, p);
    mark(f, p, CU_FUSED_ATTENTION);
    if (!mine)
        return;
    for (int y = (int)blockIdx.x;;) {
        if (there)
            attn::turn_end(l.attention, l.turn, u, b.work, sync);
        y += (int)gridDim.x;
        if (y >= l.units)
            break;
        sync.all();
        there = attn::turn_begin(l.attention, l.turn, 0, y, b.work, u);
        sync.all();
    }
}

__device__ __forceinline__ void run_layer(const cu_fused &f, progress &p)
{
    const block b = block_of(f);
    const cu_layer &l = b.c->layer[p.layer & 1];
    const cu_paged &e = l.experts;
    const bool last = p.layer + 1 == f.n_layers;
    mark(f, p, CU_FUSED_PROJECT);
    norm(f, p.layer, PROJECT);
    cp_async_wait<0>();
    __syncthreads();
    multiply(f, p.layer, PROJECT);
    arrive(f, p);
    attend_part(f, b, p, l);
    arrive(f, p);
    if (!last)
        load_layer(f, b, p.layer + 1);
    await_all(f, p);
    mark(f, p, CU_FUSED_OUT);
    copy_into(b.work, l.out.x, l.out.in);
    cp_async_wait<0>();
    __syncthreads();
    multiply(f, p.layer, OUT);
    arrive(f, p);
    bring_matrix(f, p.layer, ROUTER, 0);
    // Until the experts are chosen the memory has nothing else to do.
    if (!last)
        bring_matrix(f, p.layer + 1, PROJECT, 0);
    else
        cp_async_commit();
    for (int i = (int)threadIdx.x; i < e.experts; i += CU_FUSED_THREADS)
        b.slot[i] = e.slot_of[i];
    await_all(f, p);
    mark(f, p, CU_FUSED_ROUTER);
    norm(f, p.layer, ROUTER);
    cp_async_wait<1>();
    __syncthreads();
    multiply(f, p.layer, ROUTER);
    arrive(f, p);
    await_all(f, p);
    mark(f, p, CU_FUSED_GATE_UP);
    choose(b, e);
    if (blockIdx.x == 0 && b.c->job)
        post(*b.c, e, b.work);
    gate_up(f, *b.c, e);
    arrive(f, p);
    await_all(f, p);
    mark(f, p, CU_FUSED_DOWN);
    down(f, b, e);
    arrive(f, p);
    await_all(f, p);
    if (b.c->job && blockIdx.x == 0 && threadIdx.x == 0)
        e.box->ended_ns = global_timer_ns(); // with what came over the link to any block
    mark(f, p, CU_FUSED_PARTS);
}

KERNEL __launch_bounds__(CU_FUSED_THREADS, 1) fused_bf16(const __grid_constant__ cu_fused f)
{
    const block b = block_of(f);
    progress p = {f.grid->base, 0};
    cu_paged_state *state = f.layer->experts.state;
    if (threadIdx.x == 0)
        b.c->seq = state->seq;
    load_layer(f, b, 0);
    __syncthreads();
    bring_matrix(f, 0, PROJECT, 0);
    for (; p.layer < f.n_layers; p.layer++)
        run_layer(f, p);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        f.grid->base = p.target;
        state->seq = b.c->seq;
    }
}
