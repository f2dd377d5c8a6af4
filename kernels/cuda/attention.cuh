// Attention for heads whose width is a multiple of 8, as units that a team of threads runs: of a
// block of its own (attention.cu) or within a larger one. A unit may also turn the row's heads of Q
// and K (norm, RoPE) itself and store K and V, with the bits of the kernel `turn`.
#ifndef MOED_KERNELS_CUDA_ATTENTION_CUH
#define MOED_KERNELS_CUDA_ATTENTION_CUH

#include "async.cuh"
#include "attention_tree.cuh"
#include "heads.cuh"

namespace attn
{

// Floats in the order of whole numbers; the way back is the same.
__device__ __forceinline__ int ordered(int bits)
{
    return bits ^ (bits >> 31 & 0x7fffffff);
}

// Scores to weights of heads `head`, head + 4, ... (N of them), by one warp, over positions
// lo..hi-1 of the chunk: the largest score to sums[2 head], weights to weight[t * stride + head]
// and e, those of t = lane and t = lane + 32.
template <int N>
__device__ __forceinline__ void soften(const float *score, float *weight, int stride, int head,
                                       int lo, int hi, float (&e)[N][2], float *sums)
{
    const int lane = team_thread() & 31;
    const bool in[2] = {lane >= lo && lane < hi, lane + 32 >= lo && lane + 32 < hi};
    float max[N];
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            e[i][j] = in[j] ? score[(head + 4 * i) * CHUNK + lane + 32 * j]
                            : __uint_as_float(0xff800000u);
#pragma unroll
    for (int i = 0; i < N; i++) {
        max[i] = __uint_as_float(0xff7fffffu); // -FLT_MAX
        max[i] = e[i][0] > max[i] ? e[i][0] : max[i];
        max[i] = e[i][1] > max[i] ? e[i][1] : max[i];
        max[i] = __int_as_float(
            ordered(__reduce_max_sync(0xffffffffu, ordered(__float_as_int(max[i])))));
    }
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float x = exp_below(__fsub_rn(e[i][j], max[i]));
            e[i][j] = in[j] ? x : 0;
            weight[(lane + 32 * j) * stride + head + 4 * i] = e[i][j];
        }
#pragma unroll
    for (int i = 0; i < N && lane == 0; i++)
        sums[2 * (head + 4 * i)] = max[i];
}

// The sums of such weights in the short class, to sums[2 head + 1].
template <int N>
__device__ __forceinline__ void sum_weights(const float (&e)[N][2], int head, float *sums)
{
    float sum[N];
    // Lane l < 16 holds partial sum l; weights that do not count are +0, which changes none.
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float e16 = __shfl_xor_sync(0xffffffffu, e[i][0], 16);
        const float e48 = __shfl_xor_sync(0xffffffffu, e[i][1], 16);
        sum[i] = __fadd_rn(__fadd_rn(__fadd_rn(e[i][0], e16), e[i][1]), e48);
    }
#pragma unroll
    for (int distance = 1; distance <= 8; distance *= 2)
#pragma unroll
        for (int i = 0; i < N; i++)
            sum[i] = __fadd_rn(sum[i], __shfl_xor_sync(0xffffffffu, sum[i], distance));
#pragma unroll
    for (int i = 0; i < N && (team_thread() & 31) == 0; i++)
        sums[2 * (head + 4 * i) + 1] = sum[i];
}

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

// Four of V's.
template <int DT> __device__ __forceinline__ void widen4(const uint8_t *p, float (&w)[4])
{
    if (DT == DTYPE_F32) {
        get((const float *)p, w);
        return;
    }
    const uint2 a = *(const uint2 *)p;
    widen_bf16(a.x, w);
    widen_bf16(a.y, w + 2);
}

template <int DT> struct bytes_of {
    enum { N = DT == DTYPE_F32 ? 4 : 2 };
};

// A warp's share of a chunk on its way to shared memory: one block of 16 positions of K or V, which
// lies in one piece; rows are set `stride` bytes apart. Row `skip` stays as it is.
struct mover {
    int units, row, col, step_row, step_col; // units of 16 bytes per row
    __device__ __forceinline__ void start(uint8_t *to, const uint8_t *from, int stride,
                                          int skip) const
    {
        int r = row, c = col;
        for (int u = team_thread() & 31; u < 16 * units; u += 32) {
            if (r != skip)
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

__device__ __forceinline__ mover mover_of(int row_bytes)
{
    const int lane = team_thread() & 31, units = row_bytes / 16;
    return {units, lane / units, lane % units, 32 / units, 32 % units};
}

// Scores of a chunk's positions [lo, hi): a warp takes T blocks of positions by H heads, two lanes
// to a position, one for each half of the short class.
template <int DT, int GB, int DIM>
__device__ __forceinline__ void scores(const uint8_t *k, int k_stride, const float *q, int dim,
                                       float scale, float *score, int lo, int hi)
{
    enum { H = GB > 1 ? GB / 2 : 1, T = GB > 1 ? 2 : 1, TILES = 4 / T };
    const int unrolled = DIM && GB <= 2 ? DIM / 16 : 2;
    const int lane = team_thread() & 31, warp = team_thread() / 32;
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
#pragma unroll unrolled
    for (int i16 = 0; i16 < dim; i16 += 16) {
        const int j = i16 + half * 8;
        if ((DIM == 0 || DIM % 16) && j >= dim)
            break;
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
            s = __fmul_rn(__fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, 1)), scale);
            if (half == 0)
                score[(head + h) * CHUNK + t + i * 16] = s;
        }
}

// Weighed sums of V over one block of 16 positions per warp; a lane takes 4 elements of H heads.
template <int DT, int GB, int H>
__device__ __forceinline__ void weigh(const uint8_t *v, const float *weight, int dim, float *part,
                                      int lo, int hi)
{
    const int lane = team_thread() & 31, warp = team_thread() / 32, quads = dim / 4;
    const int begin = max(lo, warp * 16), end = min(hi, warp * 16 + 16);
    for (int item = lane; item < quads * (GB / H); item += 32) {
        const int at = item % quads * 4, head = item / quads * H;
        float acc[H][4];
#pragma unroll
        for (int h = 0; h < H; h++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                acc[h][e] = 0;
#pragma unroll 4
        for (int t = begin; t < end; t++) {
            float wide[4], e[H];
            widen4<DT>(v + (t * dim + at) * bytes_of<DT>::N, wide);
            get(weight + t * GB + head, e);
#pragma unroll
            for (int h = 0; h < H; h++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    acc[h][i] = __fmaf_rn(e[h], wide[i], acc[h][i]);
        }
#pragma unroll
        for (int h = 0; h < H; h++)
            put(part + (warp * GB + head + h) * dim + at, acc[h]);
    }
}

template <int W>
__device__ __forceinline__ void write_out(const cu_attention &a, const work &w, int h, int dim,
                                          int d, const node<W> &n)
{
    if (h >= w.heads)
        return;
    float out[W];
#pragma unroll
    for (int e = 0; e < W; e++)
        out[e] = __fdiv_rn(n.x[e], n.sum);
    put(a.out + w.row * a.out_stride + (int64_t)(w.head + h) * dim + d, out);
}

// An item's node over the whole piece to where it belongs.
template <int W>
__device__ __forceinline__ void end_piece(const cu_attention &a, const work &w, int dim, int items,
                                          int item, const node<W> &n)
{
    const int each = dim / W, h = item / each;
    if (w.pieces == 1)
        write_out(a, w, h, dim, item % each * W, n);
    else
        store_piece(a, w, items, item, h, item % each == 0, n);
}

// A team's node for the team that joins them, in place of the item's parts.
template <int W>
__device__ __forceinline__ void keep_node(float *part, int items, int item, const node<W> &n)
{
    put(part + item * W, n.x);
    part[(items + item) * W] = n.max;
    part[(2 * items + item) * W] = n.sum;
}

template <int W>
__device__ __forceinline__ void take_node(const float *part, int items, int item, node<W> &n)
{
    get(part + item * W, n.x);
    n.max = part[(items + item) * W];
    n.sum = part[(2 * items + item) * W];
}

// The parts of chunk c to nodes, up the tree, and after the last chunk to where they belong.
// Returns the levels on which nodes wait from then on.
template <int W, int GB, int TEAMS>
__device__ __forceinline__ uint32_t end_chunk(const cu_attention &a, const work &w, int c, int dim,
                                              float *part, const float *head_sums,
                                              const waiting &stack, uint32_t waits)
{
    const int each = dim / W, items = GB * each; // of a head
    uint32_t after = 0;
    for (int item = team_thread(); item < items; item += THREADS) {
        const int h = item / each;
        node<W> n;
        float p[4][W];
#pragma unroll
        for (int i = 0; i < 4; i++)
            get(part + (i * items + item) * W, p[i]);
#pragma unroll
        for (int e = 0; e < W; e++)
            n.x[e] = __fadd_rn(__fadd_rn(p[0][e], p[1][e]), __fadd_rn(p[2][e], p[3][e]));
        n.max = head_sums[2 * h];
        n.sum = head_sums[2 * h + 1];
        after = add_node(n, c, c == w.hi, waits, stack, item);
        if (c == w.hi && TEAMS > 1)
            keep_node(part, items, item, n);
        else if (c == w.hi)
            end_piece(a, w, dim, items, item, n);
    }
    return after;
}

// The teams' nodes to that of the piece, by the first team.
template <int W, int GB, int TEAMS>
__device__ __forceinline__ void join_teams(const cu_attention &a, const work &w, int dim,
                                           const float *shared)
{
    const int items = GB * dim / W;
    for (int item = team_thread(); item < items; item += THREADS) {
        node<W> n[TEAMS];
#pragma unroll
        for (int i = 0; i < TEAMS; i++)
            if (w.there >> i & 1)
                take_node(shared + i * a.team_floats + a.part, items, item, n[i]);
            else
                n[i] = {};
#pragma unroll
        for (int width = 1; width < TEAMS; width *= 2)
#pragma unroll
            for (int i = 2 * width - 1; i < TEAMS; i += 2 * width) {
                const uint32_t half = (1u << width) - 1;
                join_if((w.there >> (i + 1 - 2 * width) & half) != 0,
                        (w.there >> (i + 1 - width) & half) != 0, n[i - width], n[i]);
            }
        end_piece(a, w, dim, items, item, n[TEAMS - 1]);
    }
}

// ---- a unit of work ----

// Elements of a head that a thread joins: with a width that is known, all threads of the team have
// some.
template <int GB, int DIM> struct width {
    enum {
        N = DIM == 0 || GB * DIM >= 8 * THREADS ? 8
            : GB * DIM > THREADS                ? GB *DIM / THREADS
                                                : 1
    };
    static_assert(DIM % N == 0, "whole items of a head");
};

// A block's unit, as one of its teams has it: the heads of one head block through one piece of a
// row's chunks. DIM: the width of a head, 0 where only the launch knows it.
template <int DT, int GB, int DIM, int TEAMS = 1> struct unit {
    work w;
    mover move;
    const int32_t *table; // the sequence's blocks
    const uint8_t *keys;  // of the kv head, from its block's begin
    const uint8_t *first; // this warp's block of the first chunk; NULL: nothing of it is visible
    int64_t slot;         // where the row's own K and V are to be stored by this unit; -1: nowhere
    int own;              // their row in the first chunk, if it is not copied; -1: all rows are
    enum { EACH = (GB + 2 + 3) / 4 };
    const float *raw[EACH]; // heads that this warp is to turn: q heads, k, v; NULL: none
};

template <int DIM> __device__ __forceinline__ int width_of(const cu_attention &a)
{
    return DIM ? DIM : a.kv.head_dim;
}

template <int DT, int GB, int DIM, int TEAMS>
__device__ __forceinline__ bool find_unit(const cu_attention &a, int64_t row, int y,
                                          unit<DT, GB, DIM, TEAMS> &u)
{
    if (!find_work<TEAMS>(a, row, y, u.w))
        return false;
    const int row_bytes = width_of<DIM>(a) * bytes_of<DT>::N;
    const int b = u.w.lo * 4 + team_thread() / 32;
    u.move = mover_of(row_bytes);
    u.table = a.table + a.seq[u.w.row] * a.table_stride;
    u.keys = a.kv.blocks + (int64_t)u.w.kv_head * 16 * row_bytes;
    u.first = nullptr;
    if (u.w.lo <= u.w.hi && b >= u.w.first / 16 && b <= u.w.pos / 16)
        u.first = u.keys + u.table[b] * a.kv.block_bytes;
    u.slot = u.own = -1;
    return true;
}

// Starts the copies of the first chunk: a group of K, then one of V.
template <int DT, int GB, int DIM, int TEAMS>
__device__ __forceinline__ void start_unit(const cu_attention &a, const unit<DT, GB, DIM, TEAMS> &u,
                                           float *shared)
{
    const int warp = team_thread() / 32, row_bytes = width_of<DIM>(a) * bytes_of<DT>::N;
    const int64_t v_off = (int64_t)a.kv.kv_heads * 16 * row_bytes;
    const int skip = u.own - warp * 16;
    if (u.first)
        u.move.start((uint8_t *)(shared + a.k) + warp * 16 * a.k_stride, u.first, a.k_stride, skip);
    copies_end_group();
    if (u.first)
        u.move.start((uint8_t *)(shared + a.v) + warp * 16 * row_bytes, u.first + v_off, row_bytes,
                     skip);
    copies_end_group();
}

// The unit from q in the team's memory on, which need not be synchronised, nor the rows of the
// first chunk that are not copied. All teams of the block.
template <int DT, int GB, int DIM, int TEAMS, class Sync>
__device__ __forceinline__ void run_unit(const cu_attention &a, const unit<DT, GB, DIM, TEAMS> &u,
                                         float *block_shared, const Sync &sync)
{
    enum { SOFTENED = GB >= 4 ? GB / 4 : 1, W = width<GB, DIM>::N };
    const work &w = u.w;
    float *const shared = team_memory<TEAMS>(a, block_shared);
    const int tid = team_thread(), warp = tid / 32, dim = width_of<DIM>(a);
    const int items = GB * dim / W, row_bytes = dim * bytes_of<DT>::N;
    // The last warps soften, since a chunk that is not full leaves them idle afterwards.
    const int softened = THREADS / 32 - 1 - warp;
    uint8_t *k = (uint8_t *)(shared + a.k), *v = (uint8_t *)(shared + a.v);
    float *part = shared + a.part, *q = shared + a.q_at, *score = shared + a.score,
          *weight = shared + a.weight, *head_sums = shared + a.head_sums;
    const waiting stack = {shared + a.wait, shared + a.wait_sums, items};
    // Arguments may lie in shared memory: what follows a barrier should not wait for them.
    const int k_stride = a.k_stride;
    const float scale = a.scale;
    const int64_t v_off = (int64_t)a.kv.kv_heads * 16 * row_bytes, block_bytes = a.kv.block_bytes;
    uint8_t *to_k = k + warp * 16 * k_stride, *to_v = v + warp * 16 * row_bytes;
    uint32_t waits = 0;
    for (int c = w.lo; c <= w.hi; c++) {
        const int lo = max(w.first - c * CHUNK, 0), hi = min(w.pos + 1 - c * CHUNK, CHUNK);
        const int b = (c + 1) * 4 + warp;
        const uint8_t *next =
            c < w.hi && b <= w.pos / 16 ? u.keys + u.table[b] * block_bytes : nullptr;
        copies_wait<1>();
        sync();
        scores<DT, GB, DIM>(k, k_stride, q, dim, scale, score, lo, hi);
        sync();
        if (next)
            u.move.start(to_k, next, k_stride, -1);
        copies_end_group();
        float e[SOFTENED][2];
        if (softened < GB)
            soften(score, weight, GB, softened, lo, hi, e, head_sums);
        copies_wait<1>();
        sync();
        if (softened < GB)
            sum_weights(e, softened, head_sums);
        if (GB > 1 && dim <= 64)
            weigh<DT, GB, (GB > 1 ? GB / 2 : 1)>(v, weight, dim, part, lo, hi);
        else
            weigh<DT, GB, GB>(v, weight, dim, part, lo, hi);
        sync();
        if (next)
            u.move.start(to_v, next + v_off, row_bytes, -1);
        copies_end_group();
        waits = end_chunk<W, GB, TEAMS>(a, w, c, dim, part, head_sums, stack, waits);
    }
    if constexpr (TEAMS > 1) {
        sync.all();
        if (threadIdx.x >= THREADS)
            return;
        join_teams<W, GB, TEAMS>(a, w, dim, block_shared);
    }
    if (w.pieces == 1 || !ends_last(a, w, (uint32_t *)score, sync))
        return;
    const waiting pieces = {shared, shared + a.join_sums, items}; // K, V and parts are used up
    for (int item = tid; item < items; item += THREADS) {
        const int each = dim / W, h = item / each;
        node<W> root = {};
        join_pieces(a, w, pieces, item, h, root);
        write_out(a, w, h, dim, item % each * W, root);
    }
}

// q of the unit as it is.
template <int DT, int GB, int DIM, int TEAMS>
__device__ __forceinline__ void take_q(const cu_attention &a, const unit<DT, GB, DIM, TEAMS> &u,
                                       float *shared)
{
    const int dim = width_of<DIM>(a);
    const float *from = a.q + u.w.row * a.q_stride + (int64_t)u.w.head * dim;
    for (int h = 0; h < GB; h++)
        for (int d = team_thread(); d < dim; d += THREADS)
            shared[a.q_at + h * dim + d] = h < u.w.heads ? from[h * dim + d] : 0;
}

// Unit y = head block * splits + piece of a row, by the first TEAMS * CU_ATTENTION_THREADS threads
// of a block, all of which call this. `shared` is as the launch lays it out, once for each team,
// and is theirs until all of them have returned.
template <int DT, int GB, int DIM = 0, int TEAMS = 1, class Sync>
__device__ __forceinline__ void attend(const cu_attention &a, int64_t row, int y, float *shared,
                                       const Sync &sync)
{
    unit<DT, GB, DIM, TEAMS> u;
    if (!find_unit(a, row, y, u))
        return;
    float *const mine = team_memory<TEAMS>(a, shared);
    start_unit(a, u, mine);
    take_q(a, u, mine);
    run_unit(a, u, shared, sync);
}

// ---- heads that are still to be turned ----

// What turning needs beside the heads, in place of the parts: cos and sin [dim / 2] of the
// position, norms of q and of k [dim].
template <int DT, int GB, int DIM, int TEAMS>
__device__ __forceinline__ void bring_turn(const cu_attention &a, const cu_turn &t,
                                           const unit<DT, GB, DIM, TEAMS> &u, float *shared)
{
    const int dim = width_of<DIM>(a), half = dim / 2;
    const int64_t at = (int64_t)u.w.pos * half;
    float *near = shared + a.part;
    for (int d = team_thread(); d < half; d += THREADS) {
        near[d] = t.cos[at + d];
        near[half + d] = t.sin[at + d];
    }
    for (int d = team_thread(); d < dim; d += THREADS) {
        if (t.q_norm)
            near[dim + d] = load_any(t.q_norm, t.norm_dtype, d);
        if (t.k_norm && u.slot >= 0)
            near[2 * dim + d] = load_any(t.k_norm, t.norm_dtype, d);
    }
}

// What does not depend on the row's q, k and v: the plan, the copies of older K and V, norms and
// angles. All of it may come before the launch's blocks have waited for q, k and v. False: this
// team has no unit.
template <int DT, int GB, int DIM, int TEAMS>
__device__ __forceinline__ bool turn_begin(const cu_attention &a, const cu_turn &t, int64_t row,
                                           int y, float *shared, unit<DT, GB, DIM, TEAMS> &u)
{
    if (!find_unit(a, row, y, u))
        return false;
    if (u.w.lo <= u.w.hi && u.w.hi == u.w.pos / CHUNK)
        u.slot = t.slot[row];
    if (u.slot >= 0 && u.w.lo == u.w.hi)
        u.own = u.w.pos % CHUNK;
#pragma unroll
    for (int i = 0; i < u.EACH; i++) {
        const int item = team_thread() / 32 + 4 * i, dim = width_of<DIM>(a);
        u.raw[i] = nullptr;
        if (item < u.w.heads)
            u.raw[i] = t.q + (row * a.heads + u.w.head + item) * dim;
        else if (item >= GB && item < GB + 2 && u.slot >= 0)
            u.raw[i] = (item == GB ? t.k : t.v) + (row * a.kv.kv_heads + u.w.kv_head) * dim;
    }
    float *const mine = team_memory<TEAMS>(a, shared);
    start_unit(a, u, mine);
    bring_turn(a, t, u, mine);
    return true;
}

// An element of the row's own K or V: to its place in the cache and in the chunk at hand.
template <int DT>
__device__ __forceinline__ void store_own(uint8_t *cache, uint8_t *near, int d, float x)
{
    store_kv<DT>(cache, d, x);
    if (near)
        store_kv<DT>(near, d, x);
}

// The heads of q into shared memory, and the row's own K and V where they belong: a warp takes
// items warp, warp + 4, ... of the q heads, k and v.
template <int DT, int GB, int DIM, int TEAMS>
__device__ __forceinline__ void turn_heads(const cu_attention &a, const cu_turn &t,
                                           const unit<DT, GB, DIM, TEAMS> &u, float *shared)
{
    enum {
        EACH = unit<DT, GB, DIM, TEAMS>::EACH,
        PAIRS = (DIM ? DIM : CU_TURN_DIM) / 64 + (DIM % 64 != 0)
    };
    const int lane = team_thread() & 31, warp = team_thread() / 32;
    const int dim = width_of<DIM>(a), half = dim / 2;
    const float *near = shared + a.part;
    float eight[EACH][8], lo[EACH][PAIRS], hi[EACH][PAIRS], inverse[EACH] = {};
#pragma unroll
    for (int i = 0; i < EACH; i++)
        load_head(u.raw[i], dim, eight[i], lo[i], hi[i]);
    if (t.q_norm || t.k_norm)
        head_square_sums(eight, dim, inverse);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int item = warp + 4 * i;
        const bool is_q = item < GB, is_v = item == GB + 1;
        if (item > GB + 1 || (!is_q && u.slot < 0))
            continue;
        const float *norm = is_v                ? nullptr
                            : is_q && t.q_norm  ? near + dim
                            : !is_q && t.k_norm ? near + 2 * dim
                                                : nullptr;
        if (norm)
            inverse[i] = inverse_norm(inverse[i], dim, t.eps);
        uint8_t *cache = kv_row(a.kv, max(u.slot, (int64_t)0), is_v, u.w.kv_head), *chunk = nullptr;
        if (u.own >= 0)
            chunk = is_v ? (uint8_t *)(shared + a.v) + u.own * dim * bytes_of<DT>::N
                         : (uint8_t *)(shared + a.k) + u.own * a.k_stride;
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const int d = lane + 32 * p;
            if (d >= half)
                break;
            turned_pair r = {lo[i][p], hi[i][p]};
            if (norm)
                r = norm_pair(r, inverse[i], norm[d], norm[d + half]);
            if (!is_v)
                r = turn_pair(r, near[d], near[half + d]);
            if (is_q) {
                shared[a.q_at + item * dim + d] = r.lo;
                shared[a.q_at + item * dim + d + half] = r.hi;
            } else {
                store_own<DT>(cache, chunk, d, r.lo);
                store_own<DT>(cache, chunk, d + half, r.hi);
            }
        }
    }
}

// The rest, once q, k and v are there and the team is synchronised: turns the heads, stores K and V
// of the row's own position (where the unit sees it), attends.
template <int DT, int GB, int DIM, int TEAMS, class Sync>
__device__ __forceinline__ void turn_end(const cu_attention &a, const cu_turn &t,
                                         const unit<DT, GB, DIM, TEAMS> &u, float *shared,
                                         const Sync &sync)
{
    if (u.w.lo <= u.w.hi)
        turn_heads(a, t, u, team_memory<TEAMS>(a, shared));
    run_unit(a, u, shared, sync);
}

} // namespace attn

#endif
