// Sampling by the rule of sample.h. Four kernels in a row, blocks over (chunk of ids, row); the
// block of a row that ends last carries on alone with what the others have left in the row's state:
//   sample_best    the largest logit; greedy rows are done
//   sample_weigh   weights, counted and summed in bins of logits: where top_k or top_p cuts, to a
//   bin sample_select  the candidates of those bins as a list, and the exact cut in it sample_draw
//   sums of the kept weights per chunk, and the token
// Sums are of whole numbers, so atomic additions in any order give equal bits.
#define SAMPLE_FN static __device__ __forceinline__
#include "sample.h"

#include "common.cuh"
#include "sample_args.h"

typedef unsigned long long u64;

#define EACH  (SAMPLE_CHUNK / CU_THREADS)   // ids of a thread, one after the other
#define BINS  (CU_SAMPLE_BINS / CU_THREADS) // bins of a thread, likewise
#define DIGIT 256
#define FULL  0xffffffffu

static_assert(EACH == 8, "ids are loaded in pairs of four");
static_assert(DIGIT == CU_THREADS, "a thread per digit");

__device__ __forceinline__ cu_sample_state *state_of(const cu_sample &a, int row)
{
    return (cu_sample_state *)(a.scratch + row * a.state_bytes);
}

__device__ __forceinline__ u64 *chunk_sums(cu_sample_state *s)
{
    return (u64 *)((uint8_t *)s + SAMPLE_STATE_BYTES);
}

__device__ __forceinline__ bool is_greedy(const kern_sample_row &p)
{
    return p.temperature == 0 || p.top_k == 1;
}

// What other blocks have written since this kernel began.
__device__ __forceinline__ u64 fresh(const u64 *p)
{
    return *(const volatile u64 *)p;
}

__device__ __forceinline__ uint32_t fresh(const uint32_t *p)
{
    return *(const volatile uint32_t *)p;
}

// EACH logits from `first` on; NaN beyond the vocabulary.
__device__ __forceinline__ void load_logits(const cu_sample &a, int row, int first,
                                            float (&l)[EACH])
{
    const float *p = a.logits + (int64_t)row * a.vocab + first;
    if (a.wide && first + EACH <= a.vocab) {
        const float4 lo = ((const float4 *)p)[0], hi = ((const float4 *)p)[1];
        l[0] = lo.x, l[1] = lo.y, l[2] = lo.z, l[3] = lo.w;
        l[4] = hi.x, l[5] = hi.y, l[6] = hi.z, l[7] = hi.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        l[i] = first + i < a.vocab ? p[i] : __uint_as_float(0x7fc00000u);
}

__device__ __forceinline__ int first_id()
{
    return (int)blockIdx.x * SAMPLE_CHUNK + (int)threadIdx.x * EACH;
}

// Whether this block is the last of its row to come here; then it sees what the others wrote.
__device__ __forceinline__ bool last_block(const cu_sample &a, cu_sample_state *s)
{
    __shared__ int last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(&s->ticket, 1u) + 1 == (uint32_t)a.chunks;
        if (last)
            s->ticket = 0;
    }
    __syncthreads();
    __threadfence();
    return last != 0;
}

// Sum over the threads up to this one; every thread calls. *total: over all.
__device__ __forceinline__ u64 sum_up_to(u64 v, u64 *total)
{
    __shared__ u64 of_warp[CU_WARPS];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const u64 other = __shfl_up_sync(FULL, v, distance);
        v += lane >= distance ? other : 0;
    }
    __syncthreads();
    if (lane == 31)
        of_warp[warp] = v;
    __syncthreads();
    u64 all = 0;
#pragma unroll
    for (int w = 0; w < CU_WARPS; w++) {
        v += w < warp ? of_warp[w] : 0;
        all += of_warp[w];
    }
    *total = all;
    return v;
}

__device__ __forceinline__ u64 largest_of_block(u64 v)
{
    __shared__ u64 of_warp[CU_WARPS];
#pragma unroll
    for (int distance = 16; distance; distance /= 2) {
        const u64 other = __shfl_xor_sync(FULL, v, distance);
        v = other > v ? other : v;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = v;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < CU_WARPS; w++)
        v = of_warp[w] > v ? of_warp[w] : v;
    return v;
}

// A logit's weight, and its bin: bins fall with the logit. 72 per unit of the exponent: weights end
// at 2^-41.
struct weighed {
    u64 weight;
    int bin;
};

__device__ __forceinline__ weighed weigh(float l, float best, const kern_sample_row &p)
{
    const float depth = -((l - best) / p.temperature) * 72.0f;
    weighed w;
    w.weight = sample_weight(sample_share(l, best, p.temperature, p.min_p));
    w.bin = depth < (float)CU_SAMPLE_BINS ? (int)depth : CU_SAMPLE_BINS - 1;
    return w;
}

__device__ __forceinline__ float best_logit(const cu_sample_state *s)
{
    return sample_logit((uint32_t)(s->best >> 32));
}

KERNEL __launch_bounds__(CU_THREADS) sample_best(const __grid_constant__ cu_sample a)
{
    const int row = (int)blockIdx.y, t = (int)threadIdx.x;
    grid_begin();
    if (a.live && row >= *a.live)
        return;
    cu_sample_state *s = state_of(a, row);
    const bool greedy = !a.general || is_greedy(a.row[row]);
    const int first = first_id();
    float l[EACH];
    u64 best = 0;
    load_logits(a, row, first, l);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const u64 order = sample_order(l[i], (uint32_t)(first + i));
        best = order > best ? order : best;
    }
    if (!greedy)
        for (int b = (int)blockIdx.x * CU_THREADS + t; b < CU_SAMPLE_BINS;
             b += a.chunks * CU_THREADS)
            s->count[b] = 0, s->sum[b] = 0;
    best = largest_of_block(best);
    if (t == 0)
        chunk_sums(s)[blockIdx.x] = best;
    if (!last_block(a, s))
        return;
    best = 0;
    for (int c = t; c < a.chunks; c += CU_THREADS) {
        const u64 of_chunk = fresh(&chunk_sums(s)[c]);
        best = of_chunk > best ? of_chunk : best;
    }
    best = largest_of_block(best);
    if (t)
        return;
    const uint32_t infinite = 0x7f800000u, key = (uint32_t)(best >> 32);
    const bool none = (sample_bits(sample_logit(key)) & infinite) == infinite;
    s->best = best;
    s->listed = 0;
    s->stage = none || greedy ? CU_SAMPLE_DONE : CU_SAMPLE_WEIGH;
    if (none || greedy)
        a.token[row] = none ? -1 : (int32_t)(FULL - (uint32_t)best);
}

// The token of a row whose chunk_sums are there; the whole block.
__device__ void draw(const cu_sample &a, int row, cu_sample_state *s, u64 threshold, u64 target)
{
    __shared__ int hit;
    __shared__ u64 rest;
    const kern_sample_row p = a.row[row];
    const float best = best_logit(s);
    const int t = (int)threadIdx.x;
    u64 before = 0, total;
    if (t == 0)
        hit = -1;
    for (int c = 0; c < a.chunks && before <= target; c += CU_THREADS) {
        const u64 mine = c + t < a.chunks ? fresh(&chunk_sums(s)[c + t]) : 0;
        const u64 end = before + sum_up_to(mine, &total);
        if (end > target && end - mine <= target)
            hit = c + t, rest = target - (end - mine);
        before += total;
    }
    __syncthreads();
    const int first = hit * SAMPLE_CHUNK + t * EACH;
    float l[EACH];
    u64 weight[EACH], sum = 0;
    load_logits(a, row, first, l);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const bool kept = sample_order(l[i], (uint32_t)(first + i)) >= threshold;
        weight[i] = kept ? weigh(l[i], best, p).weight : 0;
        sum += weight[i];
    }
    u64 end = sum_up_to(sum, &total), passed = end - sum;
    if (end <= rest || passed > rest)
        return;
    for (int i = 0; i < EACH; i++) {
        passed += weight[i];
        if (passed > rest) {
            a.token[row] = first + i;
            return;
        }
    }
}

// Bin by bin from the best: the bin in which count (by_count) or the sum of weights reaches `goal`,
// and the sum before it. The whole block.
__device__ void find_bin(const cu_sample_state *s, bool by_count, u64 goal, int *bin, u64 *before)
{
    __shared__ int found;
    __shared__ u64 found_before;
    const int t = (int)threadIdx.x;
    u64 count = 0, sum = 0, total;
    for (int b = t * BINS; b < (t + 1) * BINS; b++) {
        count += fresh(&s->count[b]);
        sum += fresh(&s->sum[b]);
    }
    const u64 count_end = sum_up_to(count, &total), sum_end = sum_up_to(sum, &total);
    u64 c = count_end - count, w = sum_end - sum, reached = by_count ? count_end : sum_end;
    if (reached >= goal && (by_count ? c : w) < goal) {
        int b = t * BINS;
        for (; b < (t + 1) * BINS - 1; b++) {
            const u64 more_c = c + fresh(&s->count[b]), more_w = w + fresh(&s->sum[b]);
            if ((by_count ? more_c : more_w) >= goal)
                break;
            c = more_c, w = more_w;
        }
        found = b;
        found_before = w;
    }
    __syncthreads();
    *bin = found;
    *before = found_before;
}

// All is binned: what is kept, or in which bins the cut falls.
__device__ void cut_to_bins(const cu_sample &a, int row, cu_sample_state *s)
{
    const kern_sample_row p = a.row[row];
    u64 count = 0, sum = 0, before = 0;
    for (int b = (int)threadIdx.x; b < CU_SAMPLE_BINS; b += CU_THREADS) {
        count += fresh(&s->count[b]);
        sum += fresh(&s->sum[b]);
    }
    sum_up_to(count, &count);
    sum_up_to(sum, &sum);
    const bool by_count = p.top_k > 0 && (u64)p.top_k < count;
    int bin = 0;
    if (!by_count && p.top_p >= 1) {
        draw(a, row, s, 0, sample_target(sum, sample_random(p.seed, p.choice, p.position)));
        if (threadIdx.x == 0)
            s->stage = CU_SAMPLE_DONE;
        return;
    }
    const u64 goal = by_count ? (u64)p.top_k : sample_need(p.top_p, sum);
    find_bin(s, by_count, goal, &bin, &before);
    if (threadIdx.x)
        return;
    s->first_bin = by_count ? 0 : bin;
    s->last_bin = bin;
    s->before = by_count ? 0 : before;
    s->target = goal;
    s->by_count = by_count;
    s->stage = CU_SAMPLE_SELECT;
}

KERNEL __launch_bounds__(CU_THREADS) sample_weigh(const __grid_constant__ cu_sample a)
{
    __shared__ uint32_t count[CU_SAMPLE_BINS];
    __shared__ u64 sum[CU_SAMPLE_BINS];
    const int row = (int)blockIdx.y, t = (int)threadIdx.x;
    grid_begin();
    if (a.live && row >= *a.live)
        return;
    cu_sample_state *s = state_of(a, row);
    if (s->stage != CU_SAMPLE_WEIGH)
        return;
    const kern_sample_row p = a.row[row];
    const float best = best_logit(s);
    float l[EACH];
    u64 mine = 0, total;
    for (int b = t; b < CU_SAMPLE_BINS; b += CU_THREADS)
        count[b] = 0, sum[b] = 0;
    load_logits(a, row, first_id(), l);
    __syncthreads();
    for (int i = 0; i < EACH; i++) {
        const weighed w = weigh(l[i], best, p);
        if (w.weight) {
            mine += w.weight;
            atomicAdd(&count[w.bin], 1u);
            atomicAdd(&sum[w.bin], w.weight);
        }
    }
    sum_up_to(mine, &total);
    if (t == 0)
        chunk_sums(s)[blockIdx.x] = total;
    for (int b = t; b < CU_SAMPLE_BINS; b += CU_THREADS)
        if (count[b]) {
            atomicAdd(&s->count[b], count[b]);
            atomicAdd(&s->sum[b], sum[b]);
        }
    if (last_block(a, s))
        cut_to_bins(a, row, s);
}

// The candidates of a row: its list, or where that is too short, its logits.
struct candidates {
    const float *logits;
    const u64 *list; // or NULL
    int n, first_bin, last_bin;
    float best;
    kern_sample_row row;
};

// Candidate i's place in the order, 0: none; and its weight.
__device__ __forceinline__ u64 candidate(const candidates &c, int i, u64 *weight)
{
    const u64 listed = c.list ? fresh(&c.list[i]) : 0;
    const float l = c.list ? sample_logit((uint32_t)(listed >> 32)) : c.logits[i];
    const weighed w = weigh(l, c.best, c.row);
    *weight = w.weight;
    if (c.list)
        return listed;
    return w.weight && w.bin >= c.first_bin && w.bin <= c.last_bin ? sample_order(l, (uint32_t)i)
                                                                   : 0;
}

// The last candidate of those whose places begin with `prefix`. The whole block.
__device__ u64 last_with(const candidates &c, int shift, u64 prefix)
{
    __shared__ u64 last;
    if (threadIdx.x == 0)
        last = ~0ull;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < c.n; i += CU_THREADS) {
        u64 weight;
        const u64 order = candidate(c, i, &weight);
        if (order && order >> shift == prefix)
            atomicMin(&last, order);
    }
    __syncthreads();
    return last;
}

// The cut in the order at which the count of candidates (by_count), or their weights and `before`,
// reach `goal`: the place of the last that is kept; *sum: before and all weights down to it. Digit
// by digit of the order, until the rest is one candidate or all of it is kept. The whole block.
__device__ u64 find_cut(const candidates &c, bool by_count, u64 goal, u64 before, u64 *sum)
{
    __shared__ uint32_t count_of[DIGIT];
    __shared__ u64 sum_of[DIGIT];
    __shared__ int chosen, chosen_whole;
    __shared__ u64 chosen_count, chosen_sum, chosen_end;
    const int t = (int)threadIdx.x;
    u64 prefix = 0, counted = 0, total;
    for (int shift = 56;; shift -= 8) { // no two have one place: at 0 the rest is one
        count_of[t] = 0;
        sum_of[t] = 0;
        __syncthreads();
        for (int i = t; i < c.n; i += CU_THREADS) {
            u64 weight;
            const u64 order = candidate(c, i, &weight);
            if (order && (shift == 56 || order >> (shift + 8) == prefix)) {
                atomicAdd(&count_of[order >> shift & (DIGIT - 1)], 1u);
                atomicAdd(&sum_of[order >> shift & (DIGIT - 1)], weight);
            }
        }
        __syncthreads();
        const int digit = DIGIT - 1 - t;
        const u64 n = count_of[digit], w = sum_of[digit];
        const u64 n_end = counted + sum_up_to(n, &total), w_end = before + sum_up_to(w, &total);
        if (n &&
            (by_count ? n_end >= goal && n_end - n < goal : w_end >= goal && w_end - w < goal)) {
            chosen = digit;
            chosen_whole = n == 1 || (by_count && n_end == goal);
            chosen_count = n_end - n;
            chosen_sum = w_end - w;
            chosen_end = w_end;
        }
        __syncthreads();
        prefix = prefix << 8 | (u64)chosen;
        counted = chosen_count;
        before = chosen_sum;
        if (chosen_whole) {
            *sum = chosen_end;
            return last_with(c, shift, prefix);
        }
    }
}

__device__ void select(const cu_sample &a, int row, cu_sample_state *s)
{
    candidates c;
    const uint32_t listed = fresh(&s->listed);
    c.logits = a.logits + (int64_t)row * a.vocab;
    c.list = listed <= CU_SAMPLE_LIST ? s->list : NULL;
    c.n = listed <= CU_SAMPLE_LIST ? (int)listed : a.vocab;
    c.first_bin = s->first_bin;
    c.last_bin = s->last_bin;
    c.best = best_logit(s);
    c.row = a.row[row];
    u64 sum, threshold = find_cut(c, s->by_count != 0, s->target, s->before, &sum);
    if (s->by_count && c.row.top_p < 1)
        threshold = find_cut(c, false, sample_need(c.row.top_p, sum), 0, &sum);
    __syncthreads();
    if (threadIdx.x)
        return;
    s->threshold = threshold;
    s->target = sample_target(sum, sample_random(c.row.seed, c.row.choice, c.row.position));
    s->stage = CU_SAMPLE_DRAW;
}

KERNEL __launch_bounds__(CU_THREADS) sample_select(const __grid_constant__ cu_sample a)
{
    const int row = (int)blockIdx.y, first = first_id();
    grid_begin();
    if (a.live && row >= *a.live)
        return;
    cu_sample_state *s = state_of(a, row);
    if (s->stage != CU_SAMPLE_SELECT)
        return;
    const kern_sample_row p = a.row[row];
    const float best = best_logit(s);
    float l[EACH];
    load_logits(a, row, first, l);
    for (int i = 0; i < EACH; i++) {
        const weighed w = weigh(l[i], best, p);
        if (w.weight && w.bin >= s->first_bin && w.bin <= s->last_bin) {
            const uint32_t at = atomicAdd(&s->listed, 1u);
            if (at < CU_SAMPLE_LIST)
                s->list[at] = sample_order(l[i], (uint32_t)(first + i));
        }
    }
    if (last_block(a, s))
        select(a, row, s);
}

KERNEL __launch_bounds__(CU_THREADS) sample_draw(const __grid_constant__ cu_sample a)
{
    const int row = (int)blockIdx.y, first = first_id();
    grid_begin();
    if (a.live && row >= *a.live)
        return;
    cu_sample_state *s = state_of(a, row);
    if (s->stage != CU_SAMPLE_DRAW)
        return;
    const kern_sample_row p = a.row[row];
    const float best = best_logit(s);
    const u64 threshold = s->threshold;
    float l[EACH];
    u64 sum = 0, total;
    load_logits(a, row, first, l);
    for (int i = 0; i < EACH; i++)
        if (sample_order(l[i], (uint32_t)(first + i)) >= threshold)
            sum += weigh(l[i], best, p).weight;
    sum_up_to(sum, &total);
    if (threadIdx.x == 0)
        chunk_sums(s)[blockIdx.x] = total;
    if (last_block(a, s))
        draw(a, row, s, threshold, s->target);
}
