// Attention in chunks of 64 positions and a tree over chunks, in the order of kernels/README.md. A
// block takes all heads of a kv head (up to 8) through one piece of a row's chunks, so that K and V
// are read once; the last block to end joins the pieces. The kernels named _any take any shape.
#include "async.cuh"
#include "common.cuh"

#define CHUNK   64
#define THREADS CU_ATTENTION_THREADS
#define ALL     0xffffffffu

// What a block is to do.
struct work {
    int64_t row, owner; // owner: (row, head block) of the workspace
    int kv_head, head, heads;
    int first, pos;              // visible positions
    int pieces, first_piece, at; // at: among the pieces
    int lo, hi;                  // chunks, both included
};

__device__ __forceinline__ bool find_work(const cu_attention &a, work &w)
{
    w.row = blockIdx.x;
    if (a.live && w.row >= *a.live)
        return false;
    const int y = (int)blockIdx.y, head_block = y / a.splits;
    const int group = a.heads / a.kv.kv_heads, in_group = head_block % a.head_blocks;
    w.at = y % a.splits;
    w.owner = w.row * a.kv.kv_heads * a.head_blocks + head_block;
    w.kv_head = head_block / a.head_blocks;
    w.head = w.kv_head * group + in_group * a.block_heads;
    w.heads = min(a.block_heads, group - in_group * a.block_heads);
    w.pos = a.pos[w.row];
    w.first = a.window > 0 && w.pos >= a.window ? w.pos - a.window + 1 : 0;
    const int lo = w.first / CHUNK, hi = w.pos / CHUNK;
    int level = 0;
    while ((hi >> level) - (lo >> level) >= a.splits)
        level++;
    w.first_piece = lo >> level;
    w.pieces = (hi >> level) - w.first_piece + 1;
    if (w.at >= w.pieces)
        return false;
    w.lo = max(lo, (w.first_piece + w.at) << level);
    w.hi = min(hi, ((w.first_piece + w.at + 1) << level) - 1);
    return true;
}

// Nodes of the tree: W elements of one head. Those that wait for their right half lie in shared
// memory, each seen by one thread only; the one on the lowest level is the latest.
template <int W> struct node {
    float x[W], max, sum;
};

// W neighbours in shared memory or a workspace; on a 16-byte edge where W is a multiple of 4.
template <int W> __device__ __forceinline__ void get(const float *p, float (&x)[W])
{
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int e = 0; e < W; e += 4) {
            const float4 four = *(const float4 *)(p + e);
            x[e] = four.x, x[e + 1] = four.y, x[e + 2] = four.z, x[e + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int e = 0; e < W; e++)
            x[e] = p[e];
    }
}

template <int W> __device__ __forceinline__ void put(float *p, const float (&x)[W])
{
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int e = 0; e < W; e += 4)
            *(float4 *)(p + e) = make_float4(x[e], x[e + 1], x[e + 2], x[e + 3]);
    } else {
#pragma unroll
        for (int e = 0; e < W; e++)
            p[e] = x[e];
    }
}

struct waiting {
    float *x, *sums; // [depth][items][W], [depth][items][2]
    int items;
};

template <int W> __device__ __forceinline__ void join(const node<W> &left, node<W> &now)
{
    const bool left_leads = left.max >= now.max;
    const float f =
        exp_fixed(left_leads ? __fsub_rn(now.max, left.max) : __fsub_rn(left.max, now.max));
    now.sum = left_leads ? __fmaf_rn(f, now.sum, left.sum) : __fmaf_rn(f, left.sum, now.sum);
#pragma unroll
    for (int e = 0; e < W; e++)
        now.x[e] =
            left_leads ? __fmaf_rn(f, now.x[e], left.x[e]) : __fmaf_rn(f, left.x[e], now.x[e]);
    now.max = left_leads ? left.max : now.max;
}

// Adds node `index` of its level; nodes come in ascending order. After the last, `now` is the root.
// Returns the levels on which nodes wait from then on.
template <int W>
__device__ __forceinline__ uint32_t add_node(node<W> &now, int index, bool last, uint32_t waits,
                                             const waiting &s, int item)
{
    for (int level = 0; !last || waits; level++) {
        const bool joins = waits >> level & 1;
        if (joins)
            waits &= ~(1u << level);
        else if (last || index >> level & 1)
            continue;
        const int slot = __popc(waits) * s.items + item;
        float *x = s.x + slot * W, *sums = s.sums + slot * 2;
        if (joins) {
            node<W> left;
            get(x, left.x);
            left.max = sums[0];
            left.sum = sums[1];
            join(left, now);
            continue;
        }
        put(x, now.x);
        sums[0] = now.max;
        sums[1] = now.sum;
        return waits | 1u << level;
    }
    return 0;
}

// A piece to the workspace: elements, then (max, sum) of each head.
template <int W>
__device__ __forceinline__ void store_piece(const cu_attention &a, const work &w, int items,
                                            int item, int h, bool first_of_head, const node<W> &n)
{
    float *to = a.node + (w.owner * a.splits + w.at) * a.node_floats;
    put(to + item * W, n.x);
    if (first_of_head) {
        to[items * W + 2 * h] = n.max;
        to[items * W + 2 * h + 1] = n.sum;
    }
}

template <int W>
__device__ __forceinline__ void load_piece(const cu_attention &a, const work &w, int at, int items,
                                           int item, int h, node<W> &n)
{
    const float *from = a.node + (w.owner * a.splits + at) * a.node_floats;
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int e = 0; e < W; e += 4) {
            const float4 four = __ldcg((const float4 *)(from + item * W + e));
            n.x[e] = four.x, n.x[e + 1] = four.y, n.x[e + 2] = four.z, n.x[e + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int e = 0; e < W; e++)
            n.x[e] = __ldcg(from + item * W + e);
    }
    const float2 sums = __ldcg((const float2 *)(from + items * W + 2 * h));
    n.max = sums.x;
    n.sum = sums.y;
}

// Whether this block is the last of its owner's to come here; then it sees what all have stored.
__device__ __forceinline__ bool ends_last(const cu_attention &a, const work &w)
{
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(&a.ended[w.owner], 1u) == (uint32_t)w.pieces - 1;
        if (last)
            a.ended[w.owner] = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

// The root over all pieces, for one item.
template <int W>
__device__ __forceinline__ void join_pieces(const cu_attention &a, const work &w, const waiting &s,
                                            int item, int h, node<W> &root)
{
    enum { AHEAD = W >= 8 ? 8 : 16 };
    uint32_t waits = 0;
    for (int at = 0; at < w.pieces; at += AHEAD) {
        node<W> n[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (at + i < w.pieces)
                load_piece(a, w, at + i, s.items, item, h, n[i]);
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (at + i < w.pieces) {
                waits =
                    add_node(n[i], w.first_piece + at + i, at + i == w.pieces - 1, waits, s, item);
                root = n[i];
            }
    }
}

// Scores of one head to weights: max, weights and their sum in the short class, over positions
// lo..hi-1 of the chunk. One warp; weight[t * stride].
__device__ __forceinline__ void soften(const float *score, float *weight, int stride, int lo,
                                       int hi, float *sums)
{
    const int lane = (int)threadIdx.x & 31;
    const bool in0 = lane >= lo && lane < hi, in1 = lane + 32 >= lo && lane + 32 < hi;
    const float s0 = in0 ? score[lane] : __uint_as_float(0xff800000u);
    const float s1 = in1 ? score[lane + 32] : __uint_as_float(0xff800000u);
    float max = __uint_as_float(0xff7fffffu); // -FLT_MAX
    max = s0 > max ? s0 : max;
    max = s1 > max ? s1 : max;
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
        max = fmaxf(max, __shfl_xor_sync(ALL, max, distance));
    const float e0 = in0 ? exp_fixed(__fsub_rn(s0, max)) : 0;
    const float e1 = in1 ? exp_fixed(__fsub_rn(s1, max)) : 0;
    weight[lane * stride] = e0;
    weight[(lane + 32) * stride] = e1;
    // Lane l < 16 holds partial sum l; weights that do not count are +0, which changes none.
    const float e16 = __shfl_xor_sync(ALL, e0, 16), e48 = __shfl_xor_sync(ALL, e1, 16);
    float sum = __fadd_rn(__fadd_rn(__fadd_rn(e0, e16), e1), e48);
#pragma unroll
    for (int distance = 1; distance <= 8; distance *= 2)
        sum = __fadd_rn(sum, __shfl_xor_sync(ALL, sum, distance));
    if (lane == 0) {
        sums[0] = max;
        sums[1] = sum;
    }
}

// ---- heads whose width is a multiple of 8 ----

template <int DT> __device__ __forceinline__ void widen8(const uint8_t *p, float (&w)[8])
{
    const uint4 a = *(const uint4 *)p;
    if (DT == DTYPE_F32) {
        const uint4 b = *(const uint4 *)(p + 16);
        w[0] = __uint_as_float(a.x), w[1] = __uint_as_float(a.y);
        w[2] = __uint_as_float(a.z), w[3] = __uint_as_float(a.w);
        w[4] = __uint_as_float(b.x), w[5] = __uint_as_float(b.y);
        w[6] = __uint_as_float(b.z), w[7] = __uint_as_float(b.w);
        return;
    }
    widen_bf16(a.x, w);
    widen_bf16(a.y, w + 2);
    widen_bf16(a.z, w + 4);
    widen_bf16(a.w, w + 6);
}

template <int DT> struct bytes_of {
    enum { N = DT == DTYPE_F32 ? 4 : 2 };
};

// A warp's share of a chunk on its way to shared memory: one block of 16 positions of K or V, which
// lies in one piece; rows are set `stride` bytes apart.
struct mover {
    int units, row, col, step_row, step_col; // units of 16 bytes per row
    __device__ __forceinline__ mover(int row_bytes, int lane)
        : units(row_bytes / 16), row(lane / units), col(lane % units), step_row(32 / units),
          step_col(32 % units)
    {
    }
    __device__ __forceinline__ void start(uint8_t *to, const uint8_t *from, int stride,
                                          int lane) const
    {
        int r = row, c = col;
        for (int u = lane; u < 16 * units; u += 32) {
            copy_async_16(to + r * stride + c * 16, from + u * 16);
            r += step_row;
            c += step_col;
            if (c >= units) {
                c -= units;
                r++;
            }
        }
    }
};

// Scores of a chunk's positions [lo, hi): a warp takes T blocks of positions by H heads, two lanes
// to a position, one for each half of the short class.
template <int DT, int GB>
__device__ __forceinline__ void scores(const uint8_t *k, int k_stride, const float *q, int dim,
                                       float scale, float *score, int lo, int hi)
{
    enum { H = GB > 1 ? GB / 2 : 1, T = GB > 1 ? 2 : 1, TILES = 4 / T };
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x / 32;
    const int t = warp % TILES * T * 16 + lane / 2, half = lane % 2, head = warp / TILES * H;
    if (warp % TILES * T * 16 >= hi || (warp % TILES + 1) * T * 16 <= lo)
        return;
    const uint8_t *row = k + t * k_stride;
    q += head * dim;
    float acc[T][H][8];
#pragma unroll
    for (int i = 0; i < T; i++)
#pragma unroll
        for (int h = 0; h < H; h++)
#pragma unroll
            for (int e = 0; e < 8; e++)
                acc[i][h][e] = 0;
#pragma unroll 2
    for (int j = half * 8; j < dim; j += 16) {
        float wide[T][8];
#pragma unroll
        for (int i = 0; i < T; i++)
            widen8<DT>(row + i * 16 * k_stride + j * bytes_of<DT>::N, wide[i]);
#pragma unroll
        for (int h = 0; h < H; h++) {
            float qs[8];
            get(q + h * dim + j, qs);
#pragma unroll
            for (int i = 0; i < T; i++)
#pragma unroll
                for (int e = 0; e < 8; e++)
                    acc[i][h][e] = __fmaf_rn(wide[i][e], qs[e], acc[i][h][e]);
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < T; i++)
#pragma unroll
        for (int h = 0; h < H; h++) {
            const float(&p)[8] = acc[i][h];
            float s = __fadd_rn(__fadd_rn(__fadd_rn(p[0], p[1]), __fadd_rn(p[2], p[3])),
                                __fadd_rn(__fadd_rn(p[4], p[5]), __fadd_rn(p[6], p[7])));
            s = __fmul_rn(__fadd_rn(s, __shfl_xor_sync(ALL, s, 1)), scale);
            if (half == 0)
                score[(head + h) * CHUNK + t + i * 16] = s;
        }
}

// Weighed sums of V over one block of 16 positions per warp; a lane takes 8 elements of H heads.
template <int DT, int GB, int H>
__device__ __forceinline__ void weigh(const uint8_t *v, const float *weight, int dim, float *part,
                                      int lo, int hi)
{
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x / 32, octets = dim / 8;
    const int begin = max(lo, warp * 16), end = min(hi, warp * 16 + 16);
    for (int item = lane; item < octets * (GB / H); item += 32) {
        const int at = item % octets * 8, head = item / octets * H;
        float acc[H][8];
#pragma unroll
        for (int h = 0; h < H; h++)
#pragma unroll
            for (int e = 0; e < 8; e++)
                acc[h][e] = 0;
#pragma unroll 4
        for (int t = begin; t < end; t++) {
            float wide[8], e[H];
            widen8<DT>(v + (t * dim + at) * bytes_of<DT>::N, wide);
            get(weight + t * GB + head, e);
#pragma unroll
            for (int h = 0; h < H; h++)
#pragma unroll
                for (int i = 0; i < 8; i++)
                    acc[h][i] = __fmaf_rn(e[h], wide[i], acc[h][i]);
        }
#pragma unroll
        for (int h = 0; h < H; h++)
            put(part + (warp * GB + head + h) * dim + at, acc[h]);
    }
}

__device__ __forceinline__ void write_out(const cu_attention &a, const work &w, int h, int d,
                                          const node<8> &n)
{
    if (h >= w.heads)
        return;
    float out[8];
#pragma unroll
    for (int e = 0; e < 8; e++)
        out[e] = __fdiv_rn(n.x[e], n.sum);
    put(a.out + w.row * a.out_stride + (int64_t)(w.head + h) * a.kv.head_dim + d, out);
}

// The parts of chunk c to nodes, up the tree, and after the last chunk to where they belong.
// Returns the levels on which nodes wait from then on.
template <int GB>
__device__ __forceinline__ uint32_t end_chunk(const cu_attention &a, const work &w, int c,
                                              const float *part, const float *head_sums,
                                              const waiting &stack, uint32_t waits)
{
    const int octets = a.kv.head_dim / 8, items = GB * octets;
    uint32_t after = 0;
    for (int item = (int)threadIdx.x; item < items; item += THREADS) {
        const int h = item / octets;
        node<8> n;
        float p[4][8];
#pragma unroll
        for (int i = 0; i < 4; i++)
            get(part + (i * items + item) * 8, p[i]);
#pragma unroll
        for (int e = 0; e < 8; e++)
            n.x[e] = __fadd_rn(__fadd_rn(p[0][e], p[1][e]), __fadd_rn(p[2][e], p[3][e]));
        n.max = head_sums[2 * h];
        n.sum = head_sums[2 * h + 1];
        after = add_node(n, c, c == w.hi, waits, stack, item);
        if (c == w.hi && w.pieces == 1)
            write_out(a, w, h, item % octets * 8, n);
        else if (c == w.hi)
            store_piece(a, w, items, item, h, item % octets == 0, n);
    }
    return after;
}

template <int DT, int GB> __device__ __forceinline__ void attention(const cu_attention &a)
{
    grid_dependency_launch();
    SHARED_DYNAMIC(float, shared);
    work w;
    if (!find_work(a, w)) {
        grid_dependency_wait();
        return;
    }
    const int tid = (int)threadIdx.x, lane = tid & 31, warp = tid / 32, dim = a.kv.head_dim;
    const int octets = dim / 8, items = GB * octets, row_bytes = dim * bytes_of<DT>::N;
    uint8_t *k = (uint8_t *)(shared + a.k), *v = (uint8_t *)(shared + a.v);
    float *part = shared + a.part, *q = shared + a.q_at, *score = shared + a.score,
          *weight = shared + a.weight, *head_sums = shared + a.head_sums;
    const waiting stack = {shared + a.wait, shared + a.wait_sums, items};
    const int32_t *table = a.table + a.seq[w.row] * a.table_stride;
    const int64_t v_off = (int64_t)a.kv.kv_heads * 16 * row_bytes;
    const uint8_t *keys = a.kv.blocks + (int64_t)w.kv_head * 16 * row_bytes;
    const mover move(row_bytes, lane);
    uint8_t *to_k = k + warp * 16 * a.k_stride, *to_v = v + warp * 16 * row_bytes;
    const int first_block = w.first / 16, last_block = w.pos / 16;

    // This warp's block of chunk c, NULL where nothing of it is visible.
    const uint8_t *now = nullptr, *next = nullptr;
    int b = w.lo * 4 + warp;
    if (b >= first_block && b <= last_block)
        now = keys + table[b] * a.kv.block_bytes;
    // Plan arrays are there before any launch of a recording begins; K, V and q are not, but all of
    // K and V that is old may come nearer.
    if (now && lane == 0) {
        prefetch_row(now, 16 * row_bytes);
        prefetch_row(now + v_off, 16 * row_bytes);
    }
    grid_dependency_wait();
    if (now)
        move.start(to_k, now, a.k_stride, lane);
    copies_end_group();
    if (now)
        move.start(to_v, now + v_off, row_bytes, lane);
    copies_end_group();
    for (int h = 0; h < GB; h++)
        for (int d = tid; d < dim; d += THREADS)
            q[h * dim + d] =
                h < w.heads ? a.q[w.row * a.q_stride + (int64_t)(w.head + h) * dim + d] : 0;
    uint32_t waits = 0;
    for (int c = w.lo; c <= w.hi; c++) {
        const int lo = max(w.first - c * CHUNK, 0), hi = min(w.pos + 1 - c * CHUNK, CHUNK);
        b += 4;
        next = c < w.hi && b <= last_block ? keys + table[b] * a.kv.block_bytes : nullptr;
        copies_wait<1>();
        __syncthreads();
        scores<DT, GB>(k, a.k_stride, q, dim, a.scale, score, lo, hi);
        __syncthreads();
        if (next)
            move.start(to_k, next, a.k_stride, lane);
        copies_end_group();
        for (int h = warp; h < GB; h += THREADS / 32)
            soften(score + h * CHUNK, weight + h, GB, lo, hi, head_sums + 2 * h);
        copies_wait<1>();
        __syncthreads();
        if (GB >= 4 && dim <= 64)
            weigh<DT, GB, (GB >= 4 ? GB / 4 : 1)>(v, weight, dim, part, lo, hi);
        else
            weigh<DT, GB, (GB > 1 ? GB / 2 : 1)>(v, weight, dim, part, lo, hi);
        __syncthreads();
        if (next)
            move.start(to_v, next + v_off, row_bytes, lane);
        copies_end_group();
        waits = end_chunk<GB>(a, w, c, part, head_sums, stack, waits);
    }
    if (w.pieces == 1 || !ends_last(a, w))
        return;
    const waiting pieces = {shared, shared + a.join_sums, items}; // K, V and parts are used up
    for (int item = tid; item < items; item += THREADS) {
        node<8> root = {};
        join_pieces(a, w, pieces, item, item / octets, root);
        write_out(a, w, item / octets, item % octets * 8, root);
    }
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
    if (!find_work(a, w))
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
        if (tid < 32)
            soften(score, weight, 1, lo, hi, head_sums);
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
        if (!ends_last(a, w))
            return;
        join_pieces(a, w, stack, tid, 0, n);
    }
    if (d < dim)
        a.out[w.row * a.out_stride + (int64_t)head * dim + d] = __fdiv_rn(n.x[0], n.sum);
}

#define ATTENTION(name, body)                                                                      \
    KERNEL __launch_bounds__(CU_ATTENTION_THREADS) name(const __grid_constant__ cu_attention a)    \
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
