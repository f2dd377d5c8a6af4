// A row's choice of experts, and the wait for the miss workers: what recorded steps share
// (paged.cu, fused_step.cuh).
#ifndef MOED_KERNELS_CUDA_CHOICE_CUH
#define MOED_KERNELS_CUDA_CHOICE_CUH

#include "common.cuh"

// Larger numbers first, NaN last, -0 as +0.
__device__ __forceinline__ uint32_t order_of(float v)
{
    if (isnan(v))
        return 0;
    const uint32_t u = __float_as_uint(__fadd_rn(v, 0.0f));
    return u >> 31 ? ~u : u | 0x80000000u;
}

// A warp chooses for one row, as router_select does: `top_k` times the largest, ties to the lower
// id. Lane 0 writes chosen [top_k]. Returns the largest logit.
__device__ __forceinline__ float choose_experts(const float *logit, int experts, int top_k,
                                                int32_t *chosen)
{
    const int lane = threadIdx.x & 31;
    uint64_t taken = 0;
    float max = 0;
    for (int k = 0; k < top_k; k++) {
        uint32_t best = 0;
        int best_e = 0x7fffffff;
        for (int i = lane, n = 0; i < experts; i += 32, n++) {
            const uint32_t o = order_of(logit[i]);
            if (!(taken >> n & 1) && (best_e == 0x7fffffff || o > best))
                best = o, best_e = i;
        }
        const uint32_t top = __reduce_max_sync(0xffffffffu, best);
        const bool mine = best == top && best_e != 0x7fffffff;
        const int id = __reduce_min_sync(0xffffffffu, mine ? best_e : 0x7fffffff);
        if (id % 32 == lane)
            taken |= (uint64_t)1 << id / 32;
        if (lane == 0)
            chosen[k] = id;
        if (k == 0)
            max = logit[id];
    }
    __syncwarp();
    return max;
}

// By a warp: e [experts] = exp(logit - max).
__device__ __forceinline__ void exponentiate(const float *logit, int experts, float max, float *e)
{
#pragma unroll 1
    for (int i = threadIdx.x & 31; i < experts; i += 32)
        e[i] = exp_fixed(__fsub_rn(logit[i], max));
    __syncwarp();
}

// Waits for the miss workers' word to reach a job. False: they failed or took too long.
__device__ __forceinline__ bool await(cu_paged_state *s, mailbox *box, uint32_t job,
                                      uint64_t patience_ns, const uint32_t *word)
{
    enum { LOOKS = 16 }; // a look takes a round trip over the link: mostly at the word alone
    const uint64_t begin = global_timer_ns();
    for (uint32_t looks = 1;; looks++) {
        if (load_system(word) == job)
            return true;
        if (looks % LOOKS)
            continue;
        if (atomicAdd(&s->gave_up, 0))
            return false;
        const bool failed = load_system(&box->failed) == job || load_system(&box->stop);
        if (failed || global_timer_ns() - begin > patience_ns) {
            atomicExch(&s->gave_up, 1);
            store_system(&box->abandon, job);
            return false;
        }
    }
}

// Four floats at a time to(i) = from(i), i below n, by `threads` of a block: loads that take a
// round trip over the link begin together.
template <class From, class To>
__device__ __forceinline__ void fetch_fours(int n, int threads, const From &from, const To &to)
{
    enum { TOGETHER = 4 };
    for (int first = (int)threadIdx.x; first < n; first += TOGETHER * threads) {
        float4 v[TOGETHER];
#pragma unroll
        for (int k = 0; k < TOGETHER; k++)
            if (first + k * threads < n)
                v[k] = from(first + k * threads);
#pragma unroll
        for (int k = 0; k < TOGETHER; k++)
            if (first + k * threads < n)
                *(float4 *)to(first + k * threads) = v[k];
    }
}

#endif
