// All layers of a step of one row in one launch. Between the parts of a layer the blocks wait for
// each other; while they do, the weights of a matrix to come are on their way to shared memory or
// to the second-level cache, so that the memory is busy and the chain of parts is short. The
// arithmetic is that of the ops (step.cu, attention.cu, paged.cu), bit for bit.
//
// A block has a run of the outputs of each matrix, and a warp every so many of that run's rows.
// What other blocks have written is read only after a barrier of the grid.
//
// PACKED: experts lie in packed rows (packed.h). A kernel of its own in a file of its own, since
// one that could do both would not stay in the instruction caches.
#ifndef MOED_KERNELS_CUDA_FUSED_STEP_CUH
#define MOED_KERNELS_CUDA_FUSED_STEP_CUH

#include "attention.cuh"
#include "fused_experts.cuh"
#include "fused_matrices.cuh"

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

// By a warp, beside attention: waits until the job of the layer before is over, as it must be
// before the next is posted, and loads the next layer.
__device__ __noinline__ void go_on(const cu_fused &f, int layer)
{
    const block b = block_of(f);
    const cu_paged &a = b.c->layer[layer & 1].experts;
    if (blockIdx.x == 0 && lane_of() == 0 && b.c->job)
        await(a.state, a.box, b.c->job, a.patience_ns, &a.box->done);
    __syncwarp();
    if (layer + 1 < f.n_layers)
        load_layer(f, layer + 1);
}

// Attention, by the first warps of a block: a unit or more, what needs no other block before the
// barrier. The last bring the next matrix meanwhile, and what the next layer needs.
__device__ __forceinline__ void attend_part(const cu_fused &f, const block &b, const progress &p,
                                            const cu_layer &l)
{
    const attn::team_barriers<CU_FUSED_TEAMS> sync = {1};
    attn::unit<DT, CU_FUSED_HEADS, CU_FUSED_DIM, CU_FUSED_TEAMS> u;
    static_assert(ATTENDING <= ALL - 64, "two warps have nothing to do with attention");
    if (warp_of() == WARPS - 1)
        bring_matrix(f, p.layer, OUT);
    else if (warp_of() == WARPS - 2)
        go_on(f, p.layer);
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
    if (blockIdx.x == 0 && b.c->paged_layer == e.layer)
        send_row(e, b.work);
    await_all(f, p, OTHERS);
    mark(f, p, CU_FUSED_GATE_UP);
    if (warp_of() == 0)
        choose(b, e);
    sync_first(OTHERS);
    if (threadIdx.x == 0)
        barrier_arrive((phase_barrier *)&b.c->known);
    if (blockIdx.x == 0 && b.c->job)
        post(f, *b.c, e);
}

// MISSES: some are not resident. Layers where all are have code of their own, since what the others
// need takes registers and room in the instruction caches.
template <bool PACKED, bool MISSES>
__device__ __forceinline__ void compute_experts(const cu_fused &f, const block &b, progress &p,
                                                const cu_paged &e)
{
    gate_up<PACKED, MISSES>(f, *b.c, e);
    arrive(f, p);
    if (warp_of() == 1)
        weigh(b, e);
    await_all(f, p);
    mark(f, p, CU_FUSED_DOWN);
    down<PACKED, MISSES>(f, b, e, p.layer + 1 == f.n_layers);
}

template <bool PACKED> __device__ __forceinline__ void run_layer(const cu_fused &f, progress &p)
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
    if (c.n_misses)
        compute_experts<PACKED, true>(f, b, p, e);
    else
        compute_experts<PACKED, false>(f, b, p, e);
    arrive(f, p);
    await_all(f, p);
    if (c.job && blockIdx.x == 0 && threadIdx.x == 0)
        e.box->ended_ns = global_timer_ns(); // with what came over the link to any block
    mark(f, p, CU_FUSED_PARTS);
}

template <bool PACKED> __device__ __forceinline__ void run_step(const cu_fused &f)
{
    const block b = block_of(f);
    progress p = {f.grid->base, 0};
    cu_paged_state *state = f.layer->experts.state;
    if (threadIdx.x == 0) {
        b.c->seq = state->seq;
        b.c->job = 0;
        b.c->paged_layer = -1;
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
        run_layer<PACKED>(f, p);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        f.grid->base = p.target;
        state->seq = b.c->seq;
    }
}

#endif
