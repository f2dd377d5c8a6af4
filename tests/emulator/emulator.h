/*
 * CUDA C++ for g++: what kernels/cuda uses of the language and its built-in functions, over
 * fibers.h. Included before a kernel source by the wrapper that CMake makes for it
 * (kernel.cpp.in); inline PTX has its twin beside it, under MOED_EMULATED.
 */
#ifndef MOED_TESTS_EMULATOR_H
#define MOED_TESTS_EMULATOR_H

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <type_traits>

#include "fibers.h"

/* The listing pass (list_kernels.py) looks for these two words. */
#ifndef EMULATOR_LISTS_KERNELS
#define __global__
#define __launch_bounds__(...)
#endif
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __grid_constant__
#define __constant__ static
#define __shared__   static
#ifndef __restrict__
#define __restrict__ __restrict
#endif
#define __align__(n) __attribute__((aligned(n)))

#define DEVICE_FN    static inline __attribute__((unused))

template <size_t... I> struct emulator_indices {
};
template <size_t N, size_t... I> struct emulator_count : emulator_count<N - 1, N - 1, I...> {
};
template <size_t... I> struct emulator_count<0, I...> {
    typedef emulator_indices<I...> type;
};

/* A kernel by type: calls it with arguments that the driver holds by address. */
template <auto *F> struct emulator_entry;
template <class... A, void (*F)(A...)> struct emulator_entry<F> {
    template <size_t... I> static void with(void *const *params, emulator_indices<I...>)
    {
        F(*static_cast<std::remove_reference_t<A> *>(params[I])...);
    }
    static void call(void *const *params)
    {
        with(params, typename emulator_count<sizeof...(A)>::type());
    }
    static void add(emulator_kernel *k, const char *name, unsigned max_threads)
    {
        const size_t bytes[] = {sizeof(A)..., 0};
        static_assert(sizeof...(A) <= EMULATOR_MAX_PARAMS, "too many parameters");
        k->name = name;
        k->call = call;
        k->n_params = (int)sizeof...(A);
        for (size_t i = 0; i < sizeof...(A); i++)
            k->param_bytes[i] = bytes[i];
        k->max_threads = max_threads;
        emulator_register(k);
    }
};
#define EMULATED_KERNEL(name, max_threads)                                                         \
    __attribute__((constructor)) static void emulated_##name(void)                                 \
    {                                                                                              \
        static emulator_kernel k;                                                                  \
        emulator_entry<name>::add(&k, #name, max_threads);                                         \
    }

/* Vectors. */
#define EMULATOR_VECTORS(type, base, bytes)                                                        \
    struct __attribute__((aligned(2 * bytes))) type##2                                             \
    {                                                                                              \
        base x, y;                                                                                 \
    };                                                                                             \
    struct type##3                                                                                 \
    {                                                                                              \
        base x, y, z;                                                                              \
    };                                                                                             \
    struct __attribute__((aligned(4 * bytes > 16 ? 16 : 4 * bytes))) type##4                       \
    {                                                                                              \
        base x, y, z, w;                                                                           \
    };                                                                                             \
    DEVICE_FN type##2 make_##type##2(base x, base y)                                               \
    {                                                                                              \
        return {x, y};                                                                             \
    }                                                                                              \
    DEVICE_FN type##4 make_##type##4(base x, base y, base z, base w)                               \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
EMULATOR_VECTORS(char, signed char, 1)
EMULATOR_VECTORS(uchar, unsigned char, 1)
EMULATOR_VECTORS(short, short, 2)
EMULATOR_VECTORS(ushort, unsigned short, 2)
EMULATOR_VECTORS(int, int, 4)
EMULATOR_VECTORS(uint, unsigned, 4)
EMULATOR_VECTORS(float, float, 4)
EMULATOR_VECTORS(longlong, long long, 8)
EMULATOR_VECTORS(ulonglong, unsigned long long, 8)
EMULATOR_VECTORS(double, double, 8)
typedef emulator_index dim3;

/* Numbers. */
using std::isinf;
using std::isnan;
#define EMULATOR_MIN_MAX(type)                                                                     \
    DEVICE_FN type min(type a, type b)                                                             \
    {                                                                                              \
        return a < b ? a : b;                                                                      \
    }                                                                                              \
    DEVICE_FN type max(type a, type b)                                                             \
    {                                                                                              \
        return a < b ? b : a;                                                                      \
    }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
DEVICE_FN float min(float a, float b)
{
    return fminf(a, b);
}
DEVICE_FN float max(float a, float b)
{
    return fmaxf(a, b);
}
DEVICE_FN float __fmaf_rn(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}
DEVICE_FN float __fadd_rn(float a, float b)
{
    return a + b;
}
DEVICE_FN float __fsub_rn(float a, float b)
{
    return a - b;
}
DEVICE_FN float __fmul_rn(float a, float b)
{
    return a * b;
}
DEVICE_FN float __fdiv_rn(float a, float b)
{
    return a / b;
}
DEVICE_FN float __frcp_rn(float a)
{
    return 1.0f / a;
}
DEVICE_FN float __fsqrt_rn(float a)
{
    return __builtin_sqrtf(a);
}
DEVICE_FN double __fma_rn(double a, double b, double c)
{
    return __builtin_fma(a, b, c);
}
DEVICE_FN double __dadd_rn(double a, double b)
{
    return a + b;
}
DEVICE_FN double __dmul_rn(double a, double b)
{
    return a * b;
}
DEVICE_FN double __ddiv_rn(double a, double b)
{
    return a / b;
}
DEVICE_FN int __float2int_rn(float a)
{
    return (int)rintf(a);
}
DEVICE_FN int __float2int_rz(float a)
{
    return (int)a;
}
DEVICE_FN float __int2float_rn(int a)
{
    return (float)a;
}
DEVICE_FN float __uint2float_rn(unsigned a)
{
    return (float)a;
}
template <class To, class From> DEVICE_FN To emulator_bits(From v)
{
    To to;
    static_assert(sizeof(To) == sizeof(From), "other size");
    memcpy(&to, &v, sizeof to);
    return to;
}
DEVICE_FN unsigned __float_as_uint(float v)
{
    return emulator_bits<unsigned>(v);
}
DEVICE_FN int __float_as_int(float v)
{
    return emulator_bits<int>(v);
}
DEVICE_FN float __uint_as_float(unsigned v)
{
    return emulator_bits<float>(v);
}
DEVICE_FN float __int_as_float(int v)
{
    return emulator_bits<float>(v);
}
DEVICE_FN long long __double_as_longlong(double v)
{
    return emulator_bits<long long>(v);
}
DEVICE_FN double __longlong_as_double(long long v)
{
    return emulator_bits<double>(v);
}
DEVICE_FN int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
DEVICE_FN int __popcll(unsigned long long v)
{
    return __builtin_popcountll(v);
}
DEVICE_FN int __ffs(int v)
{
    return __builtin_ffs(v);
}
DEVICE_FN int __ffsll(long long v)
{
    return __builtin_ffsll(v);
}
DEVICE_FN int __clz(int v)
{
    return v ? __builtin_clz((unsigned)v) : 32;
}
DEVICE_FN int __clzll(long long v)
{
    return v ? __builtin_clzll((unsigned long long)v) : 64;
}
DEVICE_FN unsigned __brev(unsigned v)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        r |= (v >> i & 1) << (31 - i);
    return r;
}
DEVICE_FN unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
DEVICE_FN int __mulhi(int a, int b)
{
    return (int)((int64_t)a * b >> 32);
}
DEVICE_FN unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
DEVICE_FN unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned by)
{
    return (unsigned)(((uint64_t)hi << 32 | lo) << (by & 31) >> 32);
}
DEVICE_FN unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned by)
{
    return (unsigned)(((uint64_t)hi << 32 | lo) >> (by & 31));
}
DEVICE_FN unsigned __byte_perm(unsigned a, unsigned b, unsigned select)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= (unsigned)(both >> 8 * (select >> 4 * i & 7) & 0xff) << 8 * i;
    return r;
}

/* Memory. */
template <class T> DEVICE_FN T __ldg(const T *p)
{
    return *p;
}
#define __ldcg(p)     __ldg(p)
#define __ldcs(p)     __ldg(p)
#define __ldca(p)     __ldg(p)
#define __ldcv(p)     (*(const volatile std::remove_reference_t<decltype(*(p))> *)(p))
#define __stcg(p, v)  (void)(*(p) = (v))
#define __stcs(p, v)  (void)(*(p) = (v))
#define __isShared(p) 0
#define __isGlobal(p) 1
DEVICE_FN void __threadfence()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
DEVICE_FN void __threadfence_block()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
DEVICE_FN void __threadfence_system()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Atomics. Each lets the rest of the block run first, so that a spin over one goes on. The _system
 * and _block forms are the same: other threads of the host may use the same word. */
template <class T, class F> DEVICE_FN T emulator_atomic(T *p, F change)
{
    emulator_spin();
    T old, next;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do
        next = change(old);
    while (!__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
#define EMULATOR_ATOMIC(suffix)                                                                    \
    template <class T> DEVICE_FN T atomicAdd##suffix(T *p, std::common_type_t<T> v)                \
    {                                                                                              \
        return emulator_atomic(p, [=](T old) { return (T)(old + v); });                            \
    }                                                                                              \
    template <class T> DEVICE_FN T atomicSub##suffix(T *p, std::common_type_t<T> v)                \
    {                                                                                              \
        return emulator_atomic(p, [=](T old) { return (T)(old - v); });                            \
    }                                                                                              \
    template <class T> DEVICE_FN T atomicMax##suffix(T *p, std::common_type_t<T> v)                \
    {                                                                                              \
        return emulator_atomic(p, [=](T old) { return old < v ? v : old; });                       \
    }                                                                                              \
    template <class T> DEVICE_FN T atomicMin##suffix(T *p, std::common_type_t<T> v)                \
    {                                                                                              \
        return emulator_atomic(p, [=](T old) { return v < old ? v : old; });                       \
    }                                                                                              \
    template <class T> DEVICE_FN T atomicOr##suffix(T *p, std::common_type_t<T> v)                 \
    {                                                                                              \
        return emulator_atomic(p, [=](T old) { return (T)(old | v); });                            \
    }                                                                                              \
    template <class T> DEVICE_FN T atomicAnd##suffix(T *p, std::common_type_t<T> v)                \
    {                                                                                              \
        return emulator_atomic(p, [=](T old) { return (T)(old & v); });                            \
    }                                                                                              \
    template <class T> DEVICE_FN T atomicXor##suffix(T *p, std::common_type_t<T> v)                \
    {                                                                                              \
        return emulator_atomic(p, [=](T old) { return (T)(old ^ v); });                            \
    }                                                                                              \
    template <class T> DEVICE_FN T atomicExch##suffix(T *p, std::common_type_t<T> v)               \
    {                                                                                              \
        return emulator_atomic(p, [=](T) { return v; });                                           \
    }                                                                                              \
    template <class T>                                                                             \
    DEVICE_FN T atomicCAS##suffix(T *p, std::common_type_t<T> want, std::common_type_t<T> v)       \
    {                                                                                              \
        return emulator_atomic(p, [=](T old) { return old == want ? v : old; });                   \
    }                                                                                              \
    template <class T> DEVICE_FN T atomicInc##suffix(T *p, std::common_type_t<T> most)             \
    {                                                                                              \
        return emulator_atomic(p, [=](T old) { return old >= most ? (T)0 : (T)(old + 1); });       \
    }
EMULATOR_ATOMIC()
EMULATOR_ATOMIC(_block)
EMULATOR_ATOMIC(_system)

/* Time and spins. The device's clock goes slowly, as the device does: what a kernel takes for its
 * patience of 2 s lasts half a minute of a busy machine. */
#define warpSize        32
#define EMULATOR_SLOWER 16
DEVICE_FN uint64_t emulator_ns()
{
    struct timespec t;
    emulator_spin();
    clock_gettime(CLOCK_MONOTONIC, &t);
    return ((uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec) / EMULATOR_SLOWER;
}
DEVICE_FN long long clock64()
{
    return (long long)emulator_ns();
}
DEVICE_FN void __nanosleep(unsigned)
{
    emulator_spin();
}

/* Barriers. */
DEVICE_FN void __syncthreads()
{
    emulator_barrier(0, 0);
}
DEVICE_FN void __syncwarp(unsigned mask = 0xffffffffu)
{
    emulator_collective(mask, nullptr, nullptr);
}
DEVICE_FN unsigned __activemask()
{
    emulator_fault("__activemask tells nothing here: pass the mask down");
}

/* Shuffles: each lane brings a value and the lane that it wants; NO_LANE for its own. */
struct emulator_shuffle {
    uint64_t value, result;
    int from;
};
DEVICE_FN void emulator_shuffle_complete(void *const lane[32], uint32_t mask)
{
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1))
            continue;
        emulator_shuffle *s = static_cast<emulator_shuffle *>(lane[i]);
        if (!lane[s->from])
            emulator_fault("lane %d shuffles from lane %d, which does not take part", i, s->from);
        s->result = static_cast<emulator_shuffle *>(lane[s->from])->value;
    }
}
template <class T> DEVICE_FN T emulator_shuffle_from(unsigned mask, T v, int from)
{
    emulator_shuffle s = {0, 0, from};
    T result;
    static_assert(sizeof v == 4 || sizeof v == 8, "a shuffle takes 4 or 8 bytes");
    memcpy(&s.value, &v, sizeof v);
    emulator_collective(mask, emulator_shuffle_complete, &s);
    memcpy(&result, &s.result, sizeof result);
    return result;
}
template <class T> DEVICE_FN T __shfl_sync(unsigned mask, T v, int from, int width = 32)
{
    const int lane = (int)emulator_lane();
    return emulator_shuffle_from(mask, v, (lane & -width) + (from & (width - 1)));
}
template <class T> DEVICE_FN T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32)
{
    const int lane = (int)emulator_lane(), from = lane ^ with;
    return emulator_shuffle_from(mask, v,
                                 from < (lane & -width) + width && from < 32 ? from : lane);
}
template <class T> DEVICE_FN T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32)
{
    const int lane = (int)emulator_lane(), at = lane & (width - 1);
    return emulator_shuffle_from(mask, v, at + (int)by < width ? lane + (int)by : lane);
}
template <class T> DEVICE_FN T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32)
{
    const int lane = (int)emulator_lane(), at = lane & (width - 1);
    return emulator_shuffle_from(mask, v, at >= (int)by ? lane - (int)by : lane);
}

/* Votes and sums: one result for all lanes, by an operation over what they bring. */
template <class T> struct emulator_vote {
    T value, result;
};
template <class T, T (*Op)(T, T)>
DEVICE_FN void emulator_reduce_complete(void *const lane[32], uint32_t mask)
{
    T all = static_cast<emulator_vote<T> *>(lane[__builtin_ctz(mask)])->value;
    for (uint32_t left = mask & (mask - 1); left; left &= left - 1)
        all = Op(all, static_cast<emulator_vote<T> *>(lane[__builtin_ctz(left)])->value);
    for (uint32_t left = mask; left; left &= left - 1)
        static_cast<emulator_vote<T> *>(lane[__builtin_ctz(left)])->result = all;
}
template <class T, T (*Op)(T, T)> DEVICE_FN T emulator_reduce(unsigned mask, T v)
{
    emulator_vote<T> mine = {v, v};
    emulator_collective(mask, emulator_reduce_complete<T, Op>, &mine);
    return mine.result;
}
template <class T> inline T emulator_op_add(T a, T b)
{
    return (T)((std::make_unsigned_t<T>)a + (std::make_unsigned_t<T>)b);
}
template <class T> inline T emulator_op_min(T a, T b)
{
    return b < a ? b : a;
}
template <class T> inline T emulator_op_max(T a, T b)
{
    return a < b ? b : a;
}
template <class T> inline T emulator_op_and(T a, T b)
{
    return a & b;
}
template <class T> inline T emulator_op_or(T a, T b)
{
    return a | b;
}
template <class T> inline T emulator_op_xor(T a, T b)
{
    return a ^ b;
}
#define EMULATOR_REDUCE(op, type)                                                                  \
    DEVICE_FN type __reduce_##op##_sync(unsigned mask, type v)                                     \
    {                                                                                              \
        return emulator_reduce<type, emulator_op_##op<type>>(mask, v);                             \
    }
EMULATOR_REDUCE(add, int)
EMULATOR_REDUCE(add, unsigned)
EMULATOR_REDUCE(min, int)
EMULATOR_REDUCE(min, unsigned)
EMULATOR_REDUCE(max, int)
EMULATOR_REDUCE(max, unsigned)
EMULATOR_REDUCE(and, unsigned)
EMULATOR_REDUCE(or, unsigned)
EMULATOR_REDUCE(xor, unsigned)
DEVICE_FN unsigned __ballot_sync(unsigned mask, int v)
{
    return __reduce_or_sync(mask, v ? 1u << emulator_lane() : 0u);
}
DEVICE_FN int __any_sync(unsigned mask, int v)
{
    return __reduce_or_sync(mask, v != 0) != 0;
}
DEVICE_FN int __all_sync(unsigned mask, int v)
{
    return __reduce_and_sync(mask, v != 0) != 0;
}
DEVICE_FN void emulator_match_complete(void *const lane[32], uint32_t mask)
{
    for (int i = 0; i < 32; i++)
        for (int j = 0; j < 32 && mask >> i & 1; j++) {
            emulator_shuffle *s = static_cast<emulator_shuffle *>(lane[i]);
            if (mask >> j & 1 && static_cast<emulator_shuffle *>(lane[j])->value == s->value)
                s->result |= 1u << j;
        }
}
template <class T> DEVICE_FN unsigned __match_any_sync(unsigned mask, T v)
{
    emulator_shuffle s = {0, 0, 0};
    memcpy(&s.value, &v, sizeof v);
    emulator_collective(mask, emulator_match_complete, &s);
    return (unsigned)s.result;
}

/* Barriers of the block that also count. */
DEVICE_FN int __syncthreads_count(int v)
{
    static int count;
    __syncthreads();
    count = 0;
    __syncthreads();
    count += v != 0;
    __syncthreads();
    return count;
}
DEVICE_FN int __syncthreads_or(int v)
{
    return __syncthreads_count(v) != 0;
}
DEVICE_FN int __syncthreads_and(int v)
{
    return __syncthreads_count(v == 0) == 0;
}

#endif
