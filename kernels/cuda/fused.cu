// All layers of a step of one row in one launch. Between the parts of a layer the blocks wait for
// each other; while they do, the weights of a matrix to come are on their way to shared memory or
// to the second-level cache, so that the memory is busy and the chain of parts is short. The
// arithmetic is that of the ops (step.cu, attention.cu, paged.cu), bit for bit.
//
// A block has a run of the outputs of each matrix, and a warp every so many of that run's rows.
// What other blocks have written is read only after a barrier of the grid.
#include "attention.cuh"
#include "choice.cuh"
#include "fused_rows.cuh"

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

// The last warp brings weights beside attention and beside the router, which are the others' alone.
enum {
    ALL = CU_FUSED_THREADS,
    OTHERS = ALL - 32,
    ATTENDING = CU_FUSED_TEAMS * CU_ATTENTION_THREADS
};

// The first `threads` of a block.
__device__ __forceinline__ void sync_first(int threads)
{
    if (threads == ALL)
        __syncthreads();
    else
        team_sync(threads == OTHERS ? 14 : 15, (unsigned)threads);
}

// ---- barriers of the grid, in two halves: what needs nothing of other blocks goes between. By the
// first threads of each block, who need what the others have done. ----

__device__ __forceinline__ void arrive(const cu_fused &f, progress &p, int threads = ALL)
{
    p.target += gridDim.x;
    sync_first(threads);
    if (threadIdx.x == 0)
        add_release(&f.grid->arrived, 1);
}

__device__ __forceinline__ void await_all(const cu_fused &f, const progress &p, int threads = ALL)
{
    if (threadIdx.x == 0)
        while ((int32_t)(load_acquire(&f.grid->arrived) - p.target) < 0) {
        }
    sync_first(threads);
}

__device__ __forceinline__ void mark(const cu_fused &f, const progress &p, int part)
{
    if (f.cycles && blockIdx.x == 0 && threadIdx.x == 0)
        f.cycles[p.layer * (CU_FUSED_PARTS + 1) + part] = cycles_now();
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

__device__ __forceinline__ const cu_rows &rows_of(const block &b, int layer, which w)
{
    return b.c->rows[layer & 1][w];
}

// By one thread: a block's rows of a matrix.
__device__ __forceinline__ cu_rows plan_rows(const cu_norm_linear &a, const cu_near &place)
{
    const run mine(a.outs);
    const int row_bytes = a.in * 2;
    int shift = 0;
    while ((row_bytes << (shift + 1)) <= CU_FUSED_BUNDLE_BYTES)
        shift++;
    const int most = min(place.bytes / row_bytes, CU_FUSED_BUNDLES << shift);
    return {mine.first, mine.count, min(mine.count, most), shift};
}

__device__ __forceinline__ phase_barrier *brought_of(const block &b, which w, int bundle)
{
    return (phase_barrier *)b.c->brought[w] + bundle;
}

// By one warp: brings the block's rows to their places, as far as there are some, and the others to
// the second-level cache. Only so much is under way at once that who reads something else meanwhile
// need not wait long.
__device__ __noinline__ void bring_matrix(const cu_fused &f, int layer, which w)
{
    enum { UNDER_WAY = 3 };
    SHARED_DYNAMIC(uint8_t, shared);
    const block b = block_of(f);
    const cu_norm_linear &a = matrix_of(b, layer, w);
    const cu_near &place = near_of(f, w);
    const cu_rows mine = rows_of(b, layer, w);
    const int row_bytes = a.in * 2, lane = lane_of();
    const matrix_rows rows{a, mine.first};
    if (a.norm && blockIdx.x == 0 && lane == 0)
        prefetch_row(a.norm, (uint32_t)a.in * (a.norm_dtype == DTYPE_F32 ? 4 : 2));
    for (int n = 0; n << mine.shift < mine.placed && lane == 0; n++) {
        const int first = n << mine.shift, end = min((n + 1) << mine.shift, mine.placed);
        if (n >= UNDER_WAY)
            barrier_wait(brought_of(b, w, n - UNDER_WAY), (uint32_t)layer);
        barrier_expect(brought_of(b, w, n), (uint32_t)((end - first) * row_bytes));
        for (int i = first; i < end; i++)
            copy_bulk(shared + place.at + i * row_bytes, rows(i), (uint32_t)row_bytes,
                      brought_of(b, w, n));
    }
    for (int i = mine.placed + lane; i < mine.count; i += 32)
        prefetch_row(rows(i), (uint32_t)row_bytes);
    __syncwarp();
}

// A row or none of each warp's, all of them near: what OUT and ROUTER usually are, and the block
// waits for them alone.
__device__ __forceinline__ void multiply_one(const cu_fused &f, const block &b, int layer, which w,
                                             const cu_norm_linear &a, const cu_rows &mine)
{
    const int i = warp_of(), row = mine.first + i;
    if (i >= mine.count)
        return;
    const cu_matrix &m = matrix_rows{a, mine.first}.matrix(i);
    const int at = row - m.first;
    const float before = a.residual ? a.residual[row] : 0;
    const float bias = m.bias ? load_any(m.bias, a.bias_dtype, at) : 0;
    barrier_wait(brought_of(b, w, i >> mine.shift), (uint32_t)layer);
    float y = near_dots<1>(near_of(f, w).at + i * a.in * 2, 0, a.in, f.work_at).y[0];
    if (lane_of())
        return;
    if (m.bias)
        y = __fadd_rn(y, bias);
    m.y[at] = a.residual ? __fadd_rn(y, before) : y;
}

// Rows of any number, near and far.
__device__ __forceinline__ void multiply_rows(const cu_fused &f, int layer, which w)
{
    const block b = block_of(f);
    const cu_norm_linear &a = matrix_of(b, layer, w);
    const cu_rows mine = rows_of(b, layer, w);
    const matrix_rows rows{a, mine.first};
    const int warps = w == ROUTER ? WARPS - 1 : WARPS;
    const share s = every_so_many(mine.count, warps);
    const int near = every_so_many(mine.placed, warps).count, row = mine.first + s.from;
    // What is added to the first rows' products, of which a lane has one, is there when they are.
    const int lane_row = row + lane_of() * warps;
    float before = 0;
    if (a.residual && lane_of() < min(s.count, 4))
        before = a.residual[lane_row];
    const auto out = [&](int i, float v) {
        const cu_matrix &m = rows.matrix(i);
        const int at = mine.first + i - m.first;
        if (m.bias)
            v = __fadd_rn(v, load_any(m.bias, a.bias_dtype, at));
        if (a.residual)
            v = __fadd_rn(v, mine.first + i == lane_row ? before : a.residual[at]);
        m.y[at] = v;
    };
    for (int j = 0; j < near; j++)
        barrier_wait(brought_of(b, w, (s.from + j * warps) >> mine.shift), (uint32_t)layer);
    const int row_bytes = a.in * 2, near_at = near_of(f, w).at;
    for (int j = 0, n; j < s.count; j += n) {
        const int i = s.from + j * warps;
        float y;
        if (j < near) {
            n = min(near - j, 3);
            y = few_near(n, near_at + i * row_bytes, warps * row_bytes, a.in, f.work_at);
        } else {
            n = min(s.count - j, 4);
            y = few_far(n, i, warps, a.in, f.work_at, rows);
        }
        if (lane_of() < n)
            out(i + lane_of() * warps, y);
    }
}

// A copy apart for matrices of unusual shapes.
__device__ __noinline__ void multiply_many(const cu_fused &f, int layer, which w)
{
    multiply_rows(f, layer, w);
}

__device__ __forceinline__ void multiply(const cu_fused &f, int layer, which w)
{
    const block b = block_of(f);
    const cu_rows &mine = rows_of(b, layer, w);
    if (w != PROJECT && mine.count <= (w == ROUTER ? WARPS - 1 : WARPS) &&
        mine.placed == mine.count)
        multiply_one(f, b, layer, w, matrix_of(b, layer, w), mine);
    else if (w == PROJECT)
        multiply_rows(f, layer, PROJECT);
    else
        multiply_many(f, layer, w);
}

// Weights of a norm that a thread has need of, before anything waits for one of them.
template <int N, class T>
__device__ __forceinline__ void load_weights(const void *norm, int in, int threads, T (&to)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int j = (int)threadIdx.x + i * threads;
        to[i] = j < in ? ((const T *)norm)[j] : (T)0;
    }
}

__device__ __forceinline__ float norm_weight(uint32_t bits, int dtype)
{
    return dtype == DTYPE_F32    ? __uint_as_float(bits)
           : dtype == DTYPE_BF16 ? from_bf16((uint16_t)bits)
                                 : from_f16((uint16_t)bits);
}

// rmsnorm of x into what the block works on, by every block for itself; by the others for the
// router.
template <which w> __device__ __forceinline__ void norm(const cu_fused &f, int layer)
{
    enum { HELD = 8, EACH = 8 };
    constexpr int threads = w == ROUTER ? OTHERS : ALL;
    const block b = block_of(f);
    const cu_norm_linear &a = matrix_of(b, layer, w);
    float *const to = b.work, *const sums = b.c->sums;
    const int tid = (int)threadIdx.x, in = a.in, dtype = a.norm_dtype;
    uint32_t weight[HELD];
    if (dtype == DTYPE_F32) {
        load_weights(a.norm, in, threads, weight);
    } else {
        uint16_t half[HELD];
        load_weights(a.norm, in, threads, half);
#pragma unroll
        for (int i = 0; i < HELD; i++)
            weight[i] = half[i];
    }
    if (tid < 256) {
        float p = 0;
        for (int first = tid; first < in; first += 256 * EACH) {
            float x[EACH];
#pragma unroll
            for (int i = 0; i < EACH; i++)
                x[i] = first + 256 * i < in ? a.x[first + 256 * i] : 0;
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                if (first + 256 * i >= in)
                    break;
                to[place_of(first + 256 * i)] = x[i];
                p = __fmaf_rn(x[i], x[i], p);
            }
        }
#pragma unroll
        for (int distance = 1; distance < 8; distance *= 2)
            p = __fadd_rn(p, __shfl_xor_sync(0xffffffffu, p, distance));
        if (lane_of() % 8 == 0)
            sums[warp_of() * 4 + lane_of() / 8] = p;
    }
    sync_first(threads);
    float s = sums[lane_of()];
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
        s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, distance));
    const float inverse = inverse_norm(s, in, a.eps);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int j = tid + i * threads, at = place_of(j);
        if (j < in)
            to[at] = __fmul_rn(__fmul_rn(to[at], inverse), norm_weight(weight[i], dtype));
    }
    for (int j = tid + HELD * threads; j < in; j += threads) {
        const int at = place_of(j);
        to[at] = __fmul_rn(__fmul_rn(to[at], inverse), load_any(a.norm, dtype, j));
    }
    sync_first(threads);
}

// A vector (a multiple of 4 long) that lies in its own order.
__device__ __forceinline__ void copy_into(float *to, const float *from, int n)
{
#pragma unroll 4
    for (int j = (int)threadIdx.x * 4; j < n; j += CU_FUSED_THREADS * 4)
        *(float4 *)(to + place_of(j)) = *(const float4 *)(from + j);
}

// ---- experts ----

// Warp 0: where the chosen experts are, and who computes what of those that are not resident.
__device__ __forceinline__ void resolve(const block &b, const cu_paged &a)
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
    const int share = c.link_share[mailbox_share_class(n)];
    c.n_hits = __popc(hits);
    c.n_misses = n;
    // Workers may still be at a job that was given up.
    c.cpu_inner = n && !c.given_up ? mailbox_cpu_outputs(a.inner, share) : 0;
    c.cpu_width = c.cpu_inner ? mailbox_cpu_outputs(a.width, share) : 0;
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
    for (int e = tid; e < a.experts; e += OTHERS)
        b.slot[e] = a.slot_of[e];
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

// By one block's others: the misses to the mailbox, with the row they work on.
__device__ __forceinline__ void post(const cu_fused &f, const control &c, const cu_paged &a,
                                     const float *h)
{
    const int tid = (int)threadIdx.x;
    for (int j = tid; j < a.width; j += OTHERS)
        a.box_x[j] = h[place_of(j)];
    if (tid < c.n_misses) {
        a.box_group[tid] = {c.chosen[c.miss_at[tid]], tid, 1, 0};
        a.box_row[tid] = 0;
        a.box_pair[tid] = c.miss_at[tid];
    }
    __threadfence_system();
    sync_first(OTHERS);
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
    store_release(&f.grid->posted, c.job);
}

// A unit of gate and up: output `out` of the expert at `place` of the choice.
struct unit {
    const uint8_t *gate, *up;
    float *hidden;
};

__device__ __forceinline__ unit unit_of(const cu_paged &a, const uint8_t *record, int place,
                                        int out)
{
    const uint8_t *const row = record + (int64_t)out * a.width * 2;
    return {row + a.gate_off, row + a.up_off, a.hidden + (int64_t)place * a.inner + out};
}

// N units by a warp. twin: another place for those of the first.
template <int N>
__device__ __forceinline__ void gate_up_units(const cu_fused &f, const cu_paged &a,
                                              const unit (&u)[N], float *twin)
{
    far_rows<2 * N> rows;
#pragma unroll
    for (int i = 0; i < N; i++) {
        rows.w[2 * i] = u[i].gate;
        rows.w[2 * i + 1] = u[i].up;
    }
    const dotted<2 *N> d = far_dots<2 * N, 4>(rows, a.width, f.work_at);
#pragma unroll
    for (int i = 0; i < N; i++)
        if (lane_of() == i) {
            const float v = silu_mul_1(d.y[2 * i], d.y[2 * i + 1]);
            *u[i].hidden = v;
            if (twin)
                *twin = v;
        }
}

// By the last warp of each block: gate and up of missed experts, over the link. Not before the job
// is posted, which would wait 10 us behind what all these ask for.
__device__ __forceinline__ void gate_up_over_link(const cu_fused &f, const control &c,
                                                  const cu_paged &a)
{
    const int from = c.cpu_inner, span = a.inner - from;
    if (c.job && lane_of() == 0)
        while (load_acquire(&f.grid->posted) != c.job) {
        }
    __syncwarp();
    for (int u = (int)blockIdx.x; u < c.n_misses * span; u += (int)gridDim.x) {
        const int m = u / span;
        const int64_t to = (int64_t)c.miss_at[m] * a.inner;
        const int out = from + u % span;
        gate_up_units<1>(f, a, {unit_of(a, c.miss[m], c.miss_at[m], out)},
                         c.job ? a.box_hidden + to + out : nullptr);
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

// Turns of a row of down that are asked for together: all of a row of 768, the usual length.
enum { DOWN_AHEAD = 3 };

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
    const run units(c.n_hits * a.inner);
    const share mine = every_so_many(units.count, warps);
    const auto nth = [&](int j) {
        const int u = units.first + mine.from + j * mine.step, at = u / a.inner;
        return unit_of(a, c.hit[at], c.hit_at[at], u % a.inner);
    };
    for (int j = 0; j < mine.count; j += 2) {
        if (j + 2 <= mine.count)
            gate_up_units<2>(f, a, {nth(j), nth(j + 1)}, nullptr);
        else
            gate_up_units<1>(f, a, {nth(j)}, nullptr);
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
        const int n = min(min(mine.count - at, (expert + 1) * outs.count - i), 4);
        const int x_at = f.work_at + expert * vector_floats(a.inner) * 4;
        const float y = few_far<DOWN_AHEAD>(n, i, 1, a.inner, x_at, rows);
        if (lane_of() < n)
            b.y[c.hit_at[expert] * f.outs + (i + lane_of()) % outs.count] = y;
        at += n;
    }
}

// Waits for a word of the miss workers, which block 0 looks at for all: it does what is to be done
// with what they have written before it tells the others.
template <class Then>
__device__ __forceinline__ void await_word(const control &c, const cu_paged &a,
                                           const uint32_t *word, uint32_t *seen, const Then &then)
{
    if (blockIdx.x == 0) {
        if (threadIdx.x == 0)
            await(a.state, a.box, c.job, a.patience_ns, word);
        __syncthreads();
        then();
        __syncthreads();
        if (threadIdx.x == 0)
            store_release(seen, c.job);
        return;
    }
    if (threadIdx.x == 0)
        while (load_acquire(seen) != c.job) {
        }
    __syncthreads();
}

// The CPU's part of missed experts' vectors of `width`, as long, to device memory: over the link
// once, not by each block that has need of some.
__device__ __forceinline__ void fetch(const control &c, const float *from, int width, int length,
                                      float *to)
{
    const int fours = length / 4;
    const auto at = [&](int i) { return (int64_t)c.miss_at[i / fours] * width + i % fours * 4; };
    fetch_fours(
        c.n_misses * fours, CU_FUSED_THREADS,
        [&](int i) { return load_system_float4(from + at(i)); }, [&](int i) { return to + at(i); });
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
__device__ __forceinline__ void down_over_link(const cu_fused &f, const block &b, const cu_paged &a,
                                               const run &outs)
{
    const control &c = *b.c;
    const int first = max(outs.first, c.cpu_width), n = outs.first + outs.count - first;
    if (c.n_misses == 0 || c.cpu_width == a.width)
        return;
    if (c.job && (n > 0 || blockIdx.x == 0))
        await_word(c, a, &a.box->cpu_hidden, &f.grid->cpu_hidden,
                   [&] { fetch(c, a.box_hidden, a.inner, c.cpu_inner, a.hidden); });
    if (n <= 0)
        return;
    const int stride = vector_floats(a.inner);
    gather_hidden(a, c.miss_at, c.n_misses, b.work + c.n_hits * stride);
    __syncthreads();
    const int blocks = (a.width - c.cpu_width + outs.count - 1) / outs.count;
    const int warps = min(max(CU_FUSED_LINK_WARPS / blocks, 1), WARPS), pairs = (n + 1) / 2;
    for (int i = warp_of(); i < c.n_misses * pairs && warp_of() < warps; i += warps) {
        const int m = i / pairs, out = first + i % pairs * 2, there = min(2, first + n - out);
        const uint8_t *row = c.miss[m] + a.down_off + (int64_t)out * a.inner * 2;
        const dotted<2> d =
            far_dots<2, DOWN_AHEAD>({{row, row + (int64_t)(there - 1) * a.inner * 2}}, a.inner,
                                    f.work_at + (c.n_hits + m) * stride * 4);
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
    await_word(c, a, &a.box->done, &f.grid->done,
               [&] { fetch(c, a.box_y, a.width, c.cpu_width, a.y); });
    for (int i = (int)threadIdx.x; i < c.n_misses * n; i += CU_FUSED_THREADS) {
        const int k = c.miss_at[i / n];
        b.y[k * f.outs + i % n] = a.y[(int64_t)k * a.width + outs.first + i % n];
    }
}

// down of all chosen experts for the block's outputs, summed in the order of the choice onto x.
__device__ __forceinline__ void down(const cu_fused &f, const block &b, const cu_paged &a)
{
    const control &c = *b.c;
    const run outs(a.width);
    const int tid = (int)threadIdx.x;
    const float before = tid < outs.count ? a.x[outs.first + tid] : 0;
    gather_hidden(a, c.hit_at, c.n_hits, b.work);
    __syncthreads();
    down_resident(f, b, a, outs);
    down_over_link(f, b, a, outs);
    down_by_cpu(f, b, a, outs);
    __syncthreads();
    for (int i = tid; i < outs.count; i += CU_FUSED_THREADS) {
        float acc = 0;
        for (int k = 0; k < a.top_k; k++)
            acc = __fmaf_rn(c.weight[k], b.y[k * f.outs + i], acc);
        a.x[outs.first + i] = __fadd_rn(i == tid ? before : a.x[outs.first + i], acc);
    }
}

// ---- the parts of a layer ----

// By the last warp.
__device__ __noinline__ void load_layer(const cu_fused &f, int layer)
{
    enum { EACH = (sizeof(cu_layer) / 8 + 31) / 32 };
    static_assert(sizeof(cu_layer) % 8 == 0, "words of eight bytes");
    const block b = block_of(f);
    const uint64_t *from = (const uint64_t *)(f.layer + layer);
    cu_layer &l = b.c->layer[layer & 1];
    uint64_t word[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++)
        word[i] = lane_of() + 32 * i < (int)sizeof l / 8 ? from[lane_of() + 32 * i] : 0;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (lane_of() + 32 * i < (int)sizeof l / 8)
            ((uint64_t *)&l)[lane_of() + 32 * i] = word[i];
    __syncwarp();
    if (lane_of() <= ROUTER) {
        const which w = (which)lane_of();
        b.c->rows[layer & 1][w] = plan_rows(matrix_of(b, layer, w), near_of(f, w));
    }
    __syncwarp();
}

// Attention, by the first warps of a block: a unit or more, what needs no other block before the
// barrier. The last brings the next matrix meanwhile, and the next layer.
__device__ __forceinline__ void attend_part(const cu_fused &f, const block &b, const progress &p,
                                            const cu_layer &l)
{
    const attn::team_barriers<CU_FUSED_TEAMS> sync = {1};
    attn::unit<DT, CU_FUSED_HEADS, CU_FUSED_DIM, CU_FUSED_TEAMS> u;
    static_assert(ATTENDING <= ALL - 64, "two warps have nothing to do with attention");
    if (warp_of() == WARPS - 1)
        bring_matrix(f, p.layer, OUT);
    else if (warp_of() == WARPS - 2 && p.layer + 1 < f.n_layers)
        load_layer(f, p.layer + 1);
    if (threadIdx.x >= ATTENDING)
        return;
    for (int y = (int)blockIdx.x;;) {
        const bool there = y < l.units && attn::turn_begin(l.attention, l.turn, 0, y, b.work, u);
        if (y == (int)blockIdx.x) {
            await_all(f, p, ATTENDING);
            mark(f, p, CU_FUSED_ATTENTION);
        } else {
            sync.all();
        }
        if (there)
            attn::turn_end(l.attention, l.turn, u, b.work, sync);
        y += (int)gridDim.x;
        if (y >= l.units)
            break;
        sync.all();
    }
    yield_to_copies();
}

// The router and the choice; the last warp brings the router's rows and then, since the memory has
// nothing else to do until the experts are chosen, those of the next layer's Q, K and V.
__device__ __forceinline__ void choose_part(const cu_fused &f, const block &b, progress &p,
                                            const cu_paged &e)
{
    if (warp_of() == WARPS - 1) {
        bring_matrix(f, p.layer, ROUTER);
        if (p.layer + 1 < f.n_layers)
            bring_matrix(f, p.layer + 1, PROJECT);
        p.target += gridDim.x;
        barrier_wait((phase_barrier *)&b.c->known, (uint32_t)p.layer);
        return;
    }
    prepare_choice(b, e);
    await_all(f, p, OTHERS);
    mark(f, p, CU_FUSED_ROUTER);
    norm<ROUTER>(f, p.layer);
    multiply(f, p.layer, ROUTER);
    arrive(f, p, OTHERS);
    await_all(f, p, OTHERS);
    mark(f, p, CU_FUSED_GATE_UP);
    if (warp_of() == 0)
        choose(b, e);
    sync_first(OTHERS);
    if (threadIdx.x == 0)
        barrier_arrive((phase_barrier *)&b.c->known);
    if (blockIdx.x == 0 && b.c->job)
        post(f, *b.c, e, b.work);
}

__device__ __forceinline__ void run_layer(const cu_fused &f, progress &p)
{
    const block b = block_of(f);
    const cu_layer &l = b.c->layer[p.layer & 1];
    const cu_paged &e = l.experts;
    control &c = *b.c;
    mark(f, p, CU_FUSED_PROJECT);
    norm<PROJECT>(f, p.layer);
    multiply(f, p.layer, PROJECT);
    arrive(f, p);
    attend_part(f, b, p, l);
    arrive(f, p);
    await_all(f, p);
    mark(f, p, CU_FUSED_OUT);
    copy_into(b.work, l.out.x, l.out.in);
    sync_first(ALL);
    multiply(f, p.layer, OUT);
    arrive(f, p);
    choose_part(f, b, p, e);
    gate_up(f, c, e);
    arrive(f, p);
    if (warp_of() == 1)
        weigh(b, e);
    await_all(f, p);
    mark(f, p, CU_FUSED_DOWN);
    down(f, b, e);
    arrive(f, p);
    await_all(f, p);
    if (c.job && blockIdx.x == 0 && threadIdx.x == 0)
        e.box->ended_ns = global_timer_ns(); // with what came over the link to any block
    mark(f, p, CU_FUSED_PARTS);
}

KERNEL __launch_bounds__(CU_FUSED_THREADS, 1) fused_bf16(const __grid_constant__ cu_fused f)
{
    const block b = block_of(f);
    progress p = {f.grid->base, 0};
    cu_paged_state *state = f.layer->experts.state;
    if (threadIdx.x == 0) {
        b.c->seq = state->seq;
        for (int i = 0; i < CU_FUSED_BUNDLES; i++)
            for (int w = PROJECT; w <= ROUTER; w++)
                barrier_init((phase_barrier *)&b.c->brought[w][i]);
        barrier_init((phase_barrier *)&b.c->known);
    }
    if (warp_of() == WARPS - 1)
        load_layer(f, 0);
    __syncthreads();
    if (warp_of() == WARPS - 1)
        bring_matrix(f, 0, PROJECT);
    for (; p.layer < f.n_layers; p.layer++)
        run_layer(f, p);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        f.grid->base = p.target;
        state->seq = b.c->seq;
    }
}
