// Attention's pieces of work and its tree over chunks of positions, in the order of
// kernels/README.md. A block takes one piece of a row's chunks, by one team of CU_ATTENTION_THREADS
// threads or by several (a power of two), of which each has a part of the piece; the last block to
// end joins the pieces.
#ifndef MOED_KERNELS_CUDA_ATTENTION_TREE_CUH
#define MOED_KERNELS_CUDA_ATTENTION_TREE_CUH

#include "common.cuh"

namespace attn
{

enum { CHUNK = 64, THREADS = CU_ATTENTION_THREADS };

// How the threads of a team wait for each other, and those of all teams of the block: a block that
// is one team; TEAMS of them at the beginning of a larger block, with barriers `first` to first +
// TEAMS.
struct block_sync {
    __device__ __forceinline__ void operator()() const
    {
        __syncthreads();
    }
    __device__ __forceinline__ void all() const
    {
    }
};

template <int TEAMS> struct team_barriers {
    unsigned first;
    __device__ __forceinline__ void operator()() const
    {
        team_sync(TEAMS == 1 ? first : first + threadIdx.x / THREADS, THREADS);
    }
    __device__ __forceinline__ void all() const
    {
        team_sync(first + TEAMS, TEAMS * THREADS);
    }
};

__device__ __forceinline__ int team_thread()
{
    return (int)(threadIdx.x % THREADS);
}

// The part of shared memory that is the team's own.
template <int TEAMS>
__device__ __forceinline__ float *team_memory(const cu_attention &a, float *shared)
{
    return TEAMS == 1 ? shared : shared + (int)(threadIdx.x / THREADS) * a.team_floats;
}

// What a block is to do, and a team of it.
struct work {
    int64_t row, owner; // owner: (row, head block) of the workspace
    int kv_head, head, heads;
    int first, pos;              // visible positions
    int pieces, first_piece, at; // at: among the pieces
    int lo = 0, hi = -1;         // the team's chunks, both included; none where lo > hi
    uint32_t there;              // teams that have chunks, a bit each
};

// Cuts chunks lo..hi of a piece, which is 2^level chunks from `begin` on, into the teams' parts.
template <int TEAMS>
__device__ __forceinline__ void part_piece(int begin, int level, int lo, int hi, work &w)
{
    int part = 0; // level of a team's part
    while (TEAMS << part < 1 << level)
        part++;
    const int team = TEAMS == 1 ? 0 : (int)(threadIdx.x / THREADS);
    w.lo = max(lo, begin + (team << part));
    w.hi = min(hi, begin + ((team + 1) << part) - 1);
    w.there = 0;
#pragma unroll
    for (int i = 0; i < TEAMS; i++)
        if (max(lo, begin + (i << part)) <= min(hi, begin + ((i + 1) << part) - 1))
            w.there |= 1u << i;
}

// False: nothing, since the row takes no part or has fewer pieces.
template <int TEAMS = 1>
__device__ __forceinline__ bool find_work(const cu_attention &a, int64_t row, int y, work &w)
{
    w.row = row;
    if (a.live && w.row >= *a.live)
        return false;
    const int head_block = y / a.splits;
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
    // What the teams of one block can take at once is not worth a join of pieces.
    while (TEAMS >> level > 1)
        level++;
    if (hi >> level != lo >> level)
        level = 0;
    while ((hi >> level) - (lo >> level) >= a.splits)
        level++;
    w.first_piece = lo >> level;
    w.pieces = (hi >> level) - w.first_piece + 1;
    if (w.at >= w.pieces)
        return false;
    const int begin = (w.first_piece + w.at) << level;
    part_piece<TEAMS>(begin, level, max(lo, begin), min(hi, begin + (1 << level) - 1), w);
    return true;
}

// exp_fixed of what is not above 0, or no number: one path without branches, so that several go
// beside each other.
__device__ __forceinline__ float exp_below(float x)
{
    const float y = x < EXP_LO ? EXP_LO : x;
    const float n = __fsub_rn(__fmaf_rn(y, EXP_LOG2E, EXP_MAGIC), EXP_MAGIC);
    const float r = __fmaf_rn(n, -EXP_LN2_LO, __fmaf_rn(n, -EXP_LN2_HI, y));
    float q = __fmaf_rn(EXP_Q4, r, EXP_Q3);
    q = __fmaf_rn(q, r, EXP_Q2);
    q = __fmaf_rn(q, r, EXP_Q1);
    q = __fmaf_rn(q, r, EXP_Q0);
    const float p = __fmaf_rn(__fmaf_rn(q, r, 1.0f), r, 1.0f);
    const int whole = __float2int_rz(n), half = whole >> 1;
    const float scale0 = __uint_as_float((uint32_t)(half + 127) << 23);
    const float scale1 = __uint_as_float(x < EXP_LO ? 0 : (uint32_t)(whole - half + 127) << 23);
    return __fmul_rn(__fmul_rn(p, scale0), scale1);
}

// Nodes of the tree: W elements of one head. Those that wait for their right half lie in shared
// memory, each seen by one thread only; the one on the lowest level is the latest.
template <int W> struct node {
    float x[W], max, sum;
};

// W neighbours in shared memory or a workspace, on an edge of 4 W bytes, of 16 at most.
template <int W> __device__ __forceinline__ void get(const float *p, float (&x)[W])
{
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int e = 0; e < W; e += 4) {
            const float4 four = *(const float4 *)(p + e);
            x[e] = four.x, x[e + 1] = four.y, x[e + 2] = four.z, x[e + 3] = four.w;
        }
    } else if constexpr (W == 2) {
        const float2 two = *(const float2 *)p;
        x[0] = two.x, x[1] = two.y;
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
    } else if constexpr (W == 2) {
        *(float2 *)p = make_float2(x[0], x[1]);
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
        exp_below(left_leads ? __fsub_rn(now.max, left.max) : __fsub_rn(left.max, now.max));
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
    } else if constexpr (W == 2) {
        const float2 two = __ldcg((const float2 *)(from + item * W));
        n.x[0] = two.x, n.x[1] = two.y;
    } else {
#pragma unroll
        for (int e = 0; e < W; e++)
            n.x[e] = __ldcg(from + item * W + e);
    }
    const float2 sums = __ldcg((const float2 *)(from + items * W + 2 * h));
    n.max = sums.x;
    n.sum = sums.y;
}

// Whether this team is the last of its owner's to come here; then it sees what all have stored. The
// word is in shared memory.
template <class Sync>
__device__ __forceinline__ bool ends_last(const cu_attention &a, const work &w, uint32_t *last,
                                          const Sync &sync)
{
    sync();
    if (team_thread() == 0) {
        *last = add_acquire_release(&a.ended[w.owner], 1) == (uint32_t)w.pieces - 1;
        if (*last)
            a.ended[w.owner] = 0;
    }
    sync();
    return *last;
}

// The node over neighbours, of which one half or both are there.
template <int W>
__device__ __forceinline__ void join_if(bool has_left, bool has_right, const node<W> &left,
                                        node<W> &now)
{
    node<W> both = now;
    join(left, both);
#pragma unroll
    for (int e = 0; e < W; e++)
        now.x[e] = !has_right ? left.x[e] : has_left ? both.x[e] : now.x[e];
    now.max = !has_right ? left.max : has_left ? both.max : now.max;
    now.sum = !has_right ? left.sum : has_left ? both.sum : now.sum;
}

// The root over all pieces, for one item. Eight at a time are a tree of their own, in registers,
// whose exponentials do not wait for each other.
template <int W>
__device__ __forceinline__ void join_pieces(const cu_attention &a, const work &w, const waiting &s,
                                            int item, int h, node<W> &root)
{
    enum { AHEAD = 8 };
    const int last_piece = w.first_piece + w.pieces - 1;
    uint32_t waits = 0;
    for (int base = w.first_piece / AHEAD * AHEAD; base <= last_piece; base += AHEAD) {
        const int from = w.first_piece - base,
                  to = last_piece - base; // of the eight, both included
        node<W> n[AHEAD];
        // Where there is none, another one is loaded, which counts for nothing.
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            load_piece(a, w, min(max(i - from, 0), w.pieces - 1), s.items, item, h, n[i]);
#pragma unroll
        for (int width = 1; width < AHEAD; width *= 2)
#pragma unroll
            for (int i = 2 * width - 1; i < AHEAD; i += 2 * width)
                join_if(from <= i - width, to > i - width, n[i - width], n[i]);
        root = n[AHEAD - 1];
        waits = add_node(root, base / AHEAD, base + AHEAD > last_piece, waits, s, item);
    }
}

} // namespace attn

#endif
