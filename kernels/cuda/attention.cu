// Attention in chunks of 64 positions and a tree over chunks, in the order of kernels/README.md. A
// block takes all heads of a kv head (up to 8) through one piece of a row's chunks, so that K and V
// are read once; the last block to end joins the pieces. The kernels named _any take any shape.
#include "attention.cuh"

using namespace attn;

template <int DT, int GB> __device__ __forceinline__ void attention(const cu_attention &a)
{
    grid_dependency_launch();
    SHARED_DYNAMIC(float, shared);
    unit<DT, GB, 0> u;
    if (!find_unit(a, blockIdx.x, (int)blockIdx.y, u)) {
        grid_dependency_wait();
        return;
    }
    // Plan arrays are there before any launch of a recording begins; K, V and q are not, but all of
    // K and V that is old may come nearer.
    if (u.first && threadIdx.x % 32 == 0) {
        const int bytes = 16 * a.kv.head_dim * bytes_of<DT>::N;
        prefetch_row(u.first, bytes);
        prefetch_row(u.first + (int64_t)a.kv.kv_heads * bytes, bytes);
    }
    grid_dependency_wait();
    start_unit(a, u, shared);
    take_q(a, u, shared);
    run_unit(a, u, shared, block_sync());
}

// ---- any shape: one head and some of its elements per block ----

template <int DT> __device__ __forceinline__ float dot16(const uint8_t *k, const float *q, int n)
{
    float p[16];
#pragma unroll
    for (int e = 0; e < 16; e++)
        p[e] = 0;
    for (int j = 0; j < n; j += 16)
#pragma unroll
        for (int e = 0; e < 16; e++)
            if (j + e < n)
                p[e] = __fmaf_rn(load_as<DT>(k, j + e), q[j + e], p[e]);
    const float lo = __fadd_rn(__fadd_rn(__fadd_rn(p[0], p[1]), __fadd_rn(p[2], p[3])),
                               __fadd_rn(__fadd_rn(p[4], p[5]), __fadd_rn(p[6], p[7])));
    const float hi = __fadd_rn(__fadd_rn(__fadd_rn(p[8], p[9]), __fadd_rn(p[10], p[11])),
                               __fadd_rn(__fadd_rn(p[12], p[13]), __fadd_rn(p[14], p[15])));
    return __fadd_rn(lo, hi);
}

template <int DT> __device__ __forceinline__ void attention_any(const cu_attention &a)
{
    grid_begin();
    SHARED_DYNAMIC(float, shared);
    work w;
    if (!find_work(a, blockIdx.x, (int)blockIdx.y, w))
        return;
    const int tid = (int)threadIdx.x, dim = a.kv.head_dim;
    const int slices = (dim + CU_ATTENTION_SLICE - 1) / CU_ATTENTION_SLICE;
    // Head blocks are (head, slice) here.
    const int group = a.heads / a.kv.kv_heads;
    const int in_group = (int)blockIdx.y / a.splits % a.head_blocks;
    const int head = w.kv_head * group + in_group / slices;
    const int d = in_group % slices * CU_ATTENTION_SLICE + tid;
    float *q = shared + a.q_at, *score = shared + a.score, *weight = shared + a.weight,
          *head_sums = shared + a.head_sums;
    const waiting stack = {shared + a.wait, shared + a.wait_sums, THREADS};
    const int32_t *table = a.table + a.seq[w.row] * a.table_stride;
    const int64_t row_bytes = (int64_t)dim * bytes_of<DT>::N;
    const int64_t v_off = a.kv.kv_heads * 16 * row_bytes;
    const uint8_t *keys = a.kv.blocks + w.kv_head * 16 * row_bytes;
    for (int e = tid; e < dim; e += THREADS)
        q[e] = a.q[w.row * a.q_stride + (int64_t)head * dim + e];
    __syncthreads();
    uint32_t waits = 0;
    node<1> n = {{0}, 0, 1};
    for (int c = w.lo; c <= w.hi; c++) {
        const int lo = max(w.first - c * CHUNK, 0), hi = min(w.pos + 1 - c * CHUNK, CHUNK);
        if (tid >= lo && tid < hi) {
            const int t = c * CHUNK + tid;
            const uint8_t *row = keys + table[t / 16] * a.kv.block_bytes + t % 16 * row_bytes;
            score[tid] = __fmul_rn(dot16<DT>(row, q, dim), a.scale);
        }
        __syncthreads();
        if (tid < 32) {
            float e[1][2];
            soften(score, weight, 1, 0, lo, hi, e, head_sums);
            sum_weights(e, 0, head_sums);
        }
        __syncthreads();
        float part[4] = {0, 0, 0, 0};
#pragma unroll
        for (int b = 0; b < 4; b++) {
            const int end = min(hi, b * 16 + 16);
            if (d < dim && max(lo, b * 16) < end) {
                const uint8_t *v = keys + table[c * 4 + b] * a.kv.block_bytes + v_off;
                for (int t = max(lo, b * 16); t < end; t++)
                    part[b] = __fmaf_rn(weight[t], load_as<DT>(v + t % 16 * row_bytes, d), part[b]);
            }
        }
        n.x[0] = __fadd_rn(__fadd_rn(part[0], part[1]), __fadd_rn(part[2], part[3]));
        n.max = head_sums[0];
        n.sum = head_sums[1];
        waits = add_node(n, c, c == w.hi, waits, stack, tid);
        __syncthreads();
    }
    if (w.pieces > 1) {
        store_piece(a, w, THREADS, tid, 0, tid == 0, n);
        if (!ends_last(a, w, (uint32_t *)score, block_sync()))
            return;
        join_pieces(a, w, stack, tid, 0, n);
    }
    if (d < dim)
        a.out[w.row * a.out_stride + (int64_t)head * dim + d] = __fdiv_rn(n.x[0], n.sum);
}

#define ATTENTION(name, body)                                                                      \
    KERNEL __launch_bounds__(CU_ATTENTION_THREADS, 4) name(const __grid_constant__ cu_attention a) \
    {                                                                                              \
        body(a);                                                                                   \
    }

ATTENTION(attention_bf16_1, (attention<DTYPE_BF16, 1>))
ATTENTION(attention_bf16_2, (attention<DTYPE_BF16, 2>))
ATTENTION(attention_bf16_4, (attention<DTYPE_BF16, 4>))
ATTENTION(attention_bf16_8, (attention<DTYPE_BF16, 8>))
ATTENTION(attention_bf16_any, attention_any<DTYPE_BF16>)
ATTENTION(attention_f32_4, (attention<DTYPE_F32, 4>))
ATTENTION(attention_f32_any, attention_any<DTYPE_F32>)
