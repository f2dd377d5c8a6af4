// A block of a fused step (fused_step.cuh): its shared memory, and the barriers of the grid.
#ifndef MOED_KERNELS_CUDA_FUSED_GRID_CUH
#define MOED_KERNELS_CUDA_FUSED_GRID_CUH

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

#endif
