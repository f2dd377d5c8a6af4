// Copies from global to shared memory that run beside the arithmetic of the thread that started
// them.
#ifndef MOED_KERNELS_CUDA_ASYNC_CUH
#define MOED_KERNELS_CUDA_ASYNC_CUH

#include <stdint.h>

// 16 bytes; both on 16-byte edges.
__device__ __forceinline__ void copy_async_16(void *to_shared, const void *from)
{
#ifdef MOED_EMULATED
    *static_cast<uint4 *>(to_shared) = *static_cast<const uint4 *>(from);
#else
    const uint32_t to = (uint32_t)__cvta_generic_to_shared(to_shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#endif
}

// Ends a group of copies of this thread, which may be empty.
__device__ __forceinline__ void copies_end_group()
{
#ifndef MOED_EMULATED
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for all groups of this thread but the latest N.
template <int N> __device__ __forceinline__ void copies_wait()
{
#ifndef MOED_EMULATED
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

#endif
