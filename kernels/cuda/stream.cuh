// Copies from global memory (or the host's, mapped) to shared memory that the machine makes by
// itself, and the barriers in shared memory that tell when they have arrived. From sm_90 on; for
// an older machine sources compile, and what gets here traps.
#ifndef MOED_KERNELS_CUDA_STREAM_CUH
#define MOED_KERNELS_CUDA_STREAM_CUH

#include "mma.cuh"

// A barrier of one arrival a phase, 8 bytes of shared memory. Phase p ends with the arrival and the
// bytes that it expects; who waits gives the lowest bit of p.
struct phase_barrier {
#ifdef MOED_EMULATED
    uint32_t phases, bytes;
#else
    uint64_t state;
#endif
};

// 16 bytes of weights that nobody reads again soon: kept out of L1, and the first to leave the
// second-level cache, where what every layer needs should stay.
__device__ __forceinline__ uint4 load_once(const void *p)
{
#ifdef MOED_EMULATED
    return *static_cast<const uint4 *>(p);
#else
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p), "l"(policy));
    return v;
#endif
}

// The same of 8 bytes and of 4.
__device__ __forceinline__ uint2 load_two_once(const void *p)
{
#ifdef MOED_EMULATED
    return *static_cast<const uint2 *>(p);
#else
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.L2::cache_hint.v2.u32 {%0, %1}, [%2], %3;"
        : "=r"(v.x), "=r"(v.y)
        : "l"(p), "l"(policy));
    return v;
#endif
}

__device__ __forceinline__ uint32_t load_word_once(const void *p)
{
#ifdef MOED_EMULATED
    return *static_cast<const uint32_t *>(p);
#else
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    uint32_t v;
    asm("ld.global.nc.L1::no_allocate.L2::cache_hint.u32 %0, [%1], %2;"
        : "=r"(v)
        : "l"(p), "l"(policy));
    return v;
#endif
}

#ifdef MOED_EMULATED

__device__ __forceinline__ void barrier_init(phase_barrier *b)
{
    *b = {0, 0};
}

__device__ __forceinline__ void barrier_arrive(phase_barrier *b)
{
    b->phases++;
}

__device__ __forceinline__ void barrier_expect(phase_barrier *b, uint32_t bytes)
{
    b->bytes = bytes;
}

__device__ __forceinline__ void copy_bulk(void *to, const void *from, uint32_t bytes,
                                          phase_barrier *b)
{
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16 || bytes % 16 || bytes > b->bytes)
        emulator_fault("a bulk copy off a 16-byte edge, or of more than was expected");
    memcpy(to, from, bytes);
    b->bytes -= bytes;
    if (!b->bytes)
        b->phases++;
}

__device__ __forceinline__ void barrier_wait(const phase_barrier *b, uint32_t phase)
{
    while ((b->phases & 1) == (phase & 1))
        emulator_spin();
}

__device__ __forceinline__ void yield_to_copies()
{
}

#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// By one thread; the block synchronises before anybody uses it.
__device__ __forceinline__ void barrier_init(phase_barrier *b)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(b)) : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(phase_barrier *b)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

// The arrival, with bytes that are still to come.
__device__ __forceinline__ void barrier_expect(phase_barrier *b, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)),
                 "r"(bytes)
                 : "memory");
}

// All on 16-byte edges. What is copied is read once: it leaves the second-level cache first.
__device__ __forceinline__ void copy_bulk(void *to, const void *from, uint32_t bytes,
                                          phase_barrier *b)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(b)), "l"(policy)
                 : "memory");
}

__device__ __forceinline__ void barrier_wait(const phase_barrier *b, uint32_t phase)
{
    uint32_t over = 0;
    while (!over)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(over)
                     : "r"(shared_address(b)), "r"(phase & 1)
                     : "memory");
}

// What this thread has stored in shared memory may be overwritten by copies that another thread
// asks for behind a barrier.
__device__ __forceinline__ void yield_to_copies()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#else

__device__ __forceinline__ void barrier_init(phase_barrier *)
{
    __trap();
}

__device__ __forceinline__ void barrier_arrive(phase_barrier *)
{
    __trap();
}

__device__ __forceinline__ void barrier_expect(phase_barrier *, uint32_t)
{
    __trap();
}

__device__ __forceinline__ void copy_bulk(void *, const void *, uint32_t, phase_barrier *)
{
    __trap();
}

__device__ __forceinline__ void barrier_wait(const phase_barrier *, uint32_t)
{
    __trap();
}

__device__ __forceinline__ void yield_to_copies()
{
    __trap();
}

#endif

#endif
