// What the kernels need of the machine beyond CUDA C++: inline PTX, and beside each piece its twin
// in plain C++ for the emulator (tests/emulator).
#ifndef MOED_KERNELS_CUDA_PTX_CUH
#define MOED_KERNELS_CUDA_PTX_CUH

#include <stdint.h>

// The launch's dynamic shared memory as `name`; one element type per source file.
#ifdef MOED_EMULATED
#define SHARED_DYNAMIC_ALIGNED(type, name, alignment)                                              \
    type *const name = static_cast<type *>(emulator_shared_dynamic())
#else
#define SHARED_DYNAMIC_ALIGNED(type, name, alignment)                                              \
    extern __shared__ __align__(alignment) type name[]
#endif
#define SHARED_DYNAMIC(type, name) SHARED_DYNAMIC_ALIGNED(type, name, 16)

// Exact for every half, subnormals too.
__device__ __forceinline__ float from_f16(uint16_t v)
{
#ifdef MOED_EMULATED
    const uint32_t sign = (uint32_t)(v >> 15) << 31, exponent = v >> 10 & 31, fraction = v & 1023;
    if (exponent == 0)
        return __uint_as_float(__float_as_uint((float)fraction * 0x1p-24f) | sign);
    return __uint_as_float(sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13);
#else
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
    return f;
#endif
}

// 16 bytes of weights, each read once by this block: kept out of L1, where the activations live.
__device__ __forceinline__ uint4 load_stream(const void *p)
{
#ifdef MOED_EMULATED
    return *static_cast<const uint4 *>(p);
#else
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p));
    return v;
#endif
}

// The same of 8 bytes, and of 4.
__device__ __forceinline__ uint2 load_stream_8(const void *p)
{
#ifdef MOED_EMULATED
    return *static_cast<const uint2 *>(p);
#else
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
#endif
}

__device__ __forceinline__ uint32_t load_stream_4(const void *p)
{
#ifdef MOED_EMULATED
    return *static_cast<const uint32_t *>(p);
#else
    uint32_t v;
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
#endif
}

// Nothing is computed with v before this.
__device__ __forceinline__ void keep_here(uint32_t &v)
{
#ifndef MOED_EMULATED
    asm volatile("" : "+r"(v));
#endif
}

// Four bytes of the eight of lo and hi: byte i is the one that nibble i of select names, or, where
// the nibble's top bit is set, that one's top bit eight times.
__device__ __forceinline__ uint32_t permute(uint32_t lo, uint32_t hi, uint32_t select)
{
#ifdef MOED_EMULATED
    const uint64_t both = (uint64_t)hi << 32 | lo;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t nibble = select >> 4 * i & 15;
        const uint32_t byte = (uint32_t)(both >> 8 * (nibble & 7)) & 0xff;
        r |= (nibble < 8 ? byte : byte >> 7 ? 0xffu : 0) << 8 * i;
    }
    return r;
#else
    uint32_t r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(lo), "r"(hi), "r"(select));
    return r;
#endif
}

// A launch may begin before the one ahead of it in the stream has ended (programmatic dependent
// launch): nothing that an earlier launch writes may be touched before the wait. Nothing where the
// architecture has no such thing.
__device__ __forceinline__ void grid_dependency_wait()
{
#if !defined(MOED_EMULATED) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The launch behind this one may begin from here on.
__device__ __forceinline__ void grid_dependency_launch()
{
#if !defined(MOED_EMULATED) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void grid_begin()
{
    grid_dependency_launch();
    grid_dependency_wait();
}

// Brings bytes (a multiple of 16, from a 16-byte edge) nearer: weights, before the wait.
__device__ __forceinline__ void prefetch_row(const void *p, uint32_t bytes)
{
#if !defined(MOED_EMULATED) && __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#endif
}

// Words and numbers that the host writes while the kernel runs. In the emulator each load lets the
// rest of the block run.
__device__ __forceinline__ uint32_t load_system(const uint32_t *p)
{
#ifdef MOED_EMULATED
    emulator_spin();
    return emulator_load_word(p);
#else
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
#endif
}

__device__ __forceinline__ float load_system_float(const float *p)
{
#ifdef MOED_EMULATED
    float v;
    __atomic_load(p, &v, __ATOMIC_RELAXED);
    return v;
#else
    float v;
    asm volatile("ld.relaxed.sys.global.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
    return v;
#endif
}

// Four that lie on a 16-byte edge.
__device__ __forceinline__ float4 load_system_float4(const float *p)
{
    float4 v;
#ifdef MOED_EMULATED
    v = {load_system_float(p), load_system_float(p + 1), load_system_float(p + 2),
         load_system_float(p + 3)};
#else
    asm volatile("ld.relaxed.sys.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(p)
                 : "memory");
#endif
    return v;
}

__device__ __forceinline__ void store_system(uint32_t *p, uint32_t v)
{
#ifdef MOED_EMULATED
    emulator_store_word(p, v);
#else
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#endif
}

// A barrier of the first `threads` threads (whole warps) that come to barrier `id` of the block, 1
// to 15; 0 is that of __syncthreads.
__device__ __forceinline__ void team_sync(unsigned id, unsigned threads)
{
#ifdef MOED_EMULATED
    emulator_barrier(id, threads);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// Words by which blocks of one grid wait for each other. In the emulator each look lets the other
// threads run, those of other blocks too in a cooperative launch.
__device__ __forceinline__ uint32_t load_acquire(const uint32_t *p)
{
#ifdef MOED_EMULATED
    emulator_spin();
    return emulator_load_word(p);
#else
    uint32_t v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
#endif
}

__device__ __forceinline__ void store_release(uint32_t *p, uint32_t v)
{
#ifdef MOED_EMULATED
    emulator_store_word(p, v);
#else
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#endif
}

__device__ __forceinline__ void add_release(uint32_t *p, uint32_t v)
{
#ifdef MOED_EMULATED
    __atomic_fetch_add(p, v, __ATOMIC_RELEASE);
#else
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#endif
}

// Adds; what the block has written and synchronised before is seen by who adds later, and the other
// way round. Returns the old word.
__device__ __forceinline__ uint32_t add_acquire_release(uint32_t *p, uint32_t v)
{
#ifdef MOED_EMULATED
    return atomicAdd(p, v);
#else
    uint32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(old)
                 : "l"(p), "r"(v)
                 : "memory");
    return old;
#endif
}

// Of this multiprocessor's clock; nanoseconds in the emulator.
__device__ __forceinline__ uint64_t cycles_now()
{
#ifdef MOED_EMULATED
    return emulator_ns();
#else
    return (uint64_t)clock64();
#endif
}

__device__ __forceinline__ uint64_t global_timer_ns()
{
#ifdef MOED_EMULATED
    return emulator_ns();
#else
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
#endif
}

#endif
