// Attention of one head of one row per block, in the order of kernels/README.md. Scores are held for
// a.scores positions at a time; a longer context computes them twice, for the maximum and for use.
#include "common.cuh"

struct view {
    const uint8_t *blocks; // of K or V of one kv head
    int64_t block_bytes;
    const int32_t *table;
    int dim;
};

template <int DT> __device__ __forceinline__ const uint8_t *row_at(const view &v, int t)
{
    return v.blocks + v.table[t / 16] * v.block_bytes +
           (int64_t)(t % 16) * v.dim * (DT == DTYPE_F32 ? 4 : 2);
}

// A dot product of the short class.
template <int DT, bool VEC> __device__ __forceinline__ float dot16(const uint8_t *k, const float *q,
                                                                   int n)
{
    float p[16];
#pragma unroll
    for (int e = 0; e < 16; e++)
        p[e] = 0;
    for (int j = 0; j < n; j += 16) {
#pragma unroll
        for (int half = 0; half < 16; half += 8) {
            if (VEC) {
                if (j + half < n) {
                    float w[8];
                    load8<DT>(k, j + half, w);
#pragma unroll
                    for (int e = 0; e < 8; e++)
                        p[half + e] = __fmaf_rn(w[e], q[j + half + e], p[half + e]);
                }
            } else {
#pragma unroll
                for (int e = half; e < half + 8; e++)
                    if (j + e < n)
                        p[e] = __fmaf_rn(load_as<DT>(k, j + e), q[j + e], p[e]);
            }
        }
    }
    float lo = __fadd_rn(__fadd_rn(__fadd_rn(p[0], p[1]), __fadd_rn(p[2], p[3])),
                         __fadd_rn(__fadd_rn(p[4], p[5]), __fadd_rn(p[6], p[7])));
    float hi = __fadd_rn(__fadd_rn(__fadd_rn(p[8], p[9]), __fadd_rn(p[10], p[11])),
                         __fadd_rn(__fadd_rn(p[12], p[13]), __fadd_rn(p[14], p[15])));
    return __fadd_rn(lo, hi);
}

template <int DT, bool VEC>
__device__ __forceinline__ float score_range(const view &k, const float *q, float scale, int lo,
                                             int hi, float *score, float max)
{
    for (int t = lo + (int)threadIdx.x; t < hi; t += CU_THREADS) {
        const float s = __fmul_rn(dot16<DT, VEC>(row_at<DT>(k, t), q, k.dim), scale);
        score[t - lo] = s;
        max = s > max ? s : max;
    }
    return max;
}

__device__ __forceinline__ float block_max(float max)
{
    __shared__ float all[CU_WARPS];
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, distance));
    if (threadIdx.x % 32 == 0)
        all[threadIdx.x / 32] = max;
    __syncthreads();
    for (int w = 0; w < CU_WARPS; w++)
        max = fmaxf(max, all[w]);
    return max;
}

// acc = fma(e[t], v[t][d], acc) for t in [lo, hi) ascending; many loads in flight.
template <int DT> __device__ __forceinline__ float add_values(const view &v, int d, int lo, int hi,
                                                              const float *e, float acc)
{
    enum { AHEAD = 32 };
    for (int t = lo; t < hi; t += AHEAD) {
        float one[AHEAD];
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            one[u] = t + u < hi ? load_as<DT>(row_at<DT>(v, t + u), d) : 0;
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            if (t + u < hi)
                acc = __fmaf_rn(e[t + u - lo], one[u], acc);
    }
    return acc;
}

template <int DT, bool VEC> __device__ __forceinline__ void attention(const cu_attention &a)
{
    SHARED_DYNAMIC(float, shared);
    grid_begin();
    __shared__ float partial[16];
    const int tid = (int)threadIdx.x, dim = a.kv.head_dim, h = (int)blockIdx.y;
    const int64_t i = blockIdx.x;
    if (a.live && i >= *a.live)
        return;
    float *q = shared, *score = shared + (dim + 31) / 32 * 32;
    const int pos = a.pos[i], end = pos + 1;
    const int first = a.window > 0 && pos >= a.window ? pos - a.window + 1 : 0;
    const int kv_head = h / (a.heads / a.kv.kv_heads);
    const int64_t head_bytes = (int64_t)16 * dim * (DT == DTYPE_F32 ? 4 : 2);
    view k = {a.kv.blocks + kv_head * head_bytes, a.kv.block_bytes,
              a.table + a.seq[i] * a.table_stride, dim};
    view v = k;
    v.blocks += a.kv.kv_heads * head_bytes;
    for (int d = tid; d < dim; d += CU_THREADS)
        q[d] = a.q[i * a.q_stride + (int64_t)h * dim + d];
    if (tid < 16)
        partial[tid] = 0;
    __syncthreads();
    float max = __uint_as_float(0xff800000u);
    for (int lo = first; lo < end; lo += a.scores)
        max = score_range<DT, VEC>(k, q, a.scale, lo, min(end, lo + a.scores), score, max);
    max = block_max(max);
    float acc[CU_MAX_DIM / CU_THREADS] = {0};
    for (int lo = first; lo < end; lo += a.scores) {
        const int hi = min(end, lo + a.scores);
        if (end - first > a.scores)
            score_range<DT, VEC>(k, q, a.scale, lo, hi, score, max);
        for (int t = lo + tid; t < hi; t += CU_THREADS)
            score[t - lo] = exp_fixed(__fsub_rn(score[t - lo], max));
        __syncthreads();
#pragma unroll
        for (int n = 0; n < CU_MAX_DIM / CU_THREADS; n++)
            if (tid + n * CU_THREADS < dim)
                acc[n] = add_values<DT>(v, tid + n * CU_THREADS, lo, hi, score, acc[n]);
        if (tid >= CU_THREADS - 16) {
            const int p = tid - (CU_THREADS - 16);
            float s = partial[p];
            for (int t = lo + ((p - lo) & 15); t < hi; t += 16)
                s = __fadd_rn(s, score[t - lo]);
            partial[p] = s;
        }
        __syncthreads();
    }
    const float *p = partial;
    float low = __fadd_rn(__fadd_rn(__fadd_rn(p[0], p[1]), __fadd_rn(p[2], p[3])),
                          __fadd_rn(__fadd_rn(p[4], p[5]), __fadd_rn(p[6], p[7])));
    float high = __fadd_rn(__fadd_rn(__fadd_rn(p[8], p[9]), __fadd_rn(p[10], p[11])),
                           __fadd_rn(__fadd_rn(p[12], p[13]), __fadd_rn(p[14], p[15])));
    const float sum = __fadd_rn(low, high);
#pragma unroll
    for (int n = 0; n < CU_MAX_DIM / CU_THREADS; n++)
        if (tid + n * CU_THREADS < dim)
            a.out[i * a.out_stride + (int64_t)h * dim + tid + n * CU_THREADS] =
                __fdiv_rn(acc[n], sum);
}

#define ATTENTION(name, DT, VEC)                                                                   \
    KERNEL __launch_bounds__(CU_THREADS) name(const __grid_constant__ cu_attention a)              \
    {                                                                                              \
        attention<DT, VEC>(a);                                                                     \
    }

ATTENTION(attention_f32, DTYPE_F32, true)
ATTENTION(attention_f32_any, DTYPE_F32, false)
ATTENTION(attention_bf16, DTYPE_BF16, true)
ATTENTION(attention_bf16_any, DTYPE_BF16, false)
