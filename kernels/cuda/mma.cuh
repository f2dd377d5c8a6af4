// The tensor cores and what feeds them: mma.sync, ldmatrix, cp.async, rounding to 16 bits. Each is
// one instruction; the emulator has a twin of each.
#ifndef MOED_KERNELS_CUDA_MMA_CUH
#define MOED_KERNELS_CUDA_MMA_CUH

#include "common.cuh"

#ifndef MOED_EMULATED

// An address in shared memory, as ldmatrix and cp.async take it; bytes are added to it.
typedef uint32_t shared_at;

__device__ __forceinline__ shared_at shared_address(const void *p)
{
    return (shared_at)__cvta_generic_to_shared(p);
}

// Four 8x8 matrices of 16-bit numbers; lane l gives the row l % 8 of matrix l / 8 (16 bytes) and
// gets of each matrix elements 2(l % 4), 2(l % 4) + 1 of row l / 4.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], shared_at row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], shared_at row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// d += a b: a 16x16, b 16x8, of bf16. With g = lane / 4, t = lane % 4: a[0] is row g, columns 2t..;
// a[1] row g + 8; a[2], a[3] the same rows, columns 8 + 2t..; b0 rows 2t.. of column g, b1 rows 8 +
// 2t..; d[0], d[1] row g, columns 2t, 2t + 1; d[2], d[3] row g + 8.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                                  uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Starts copying 16 bytes from global to shared memory, past L1; of these the first `bytes` (16 or
// 0) are read, the rest is zero.
__device__ __forceinline__ void cp_async_16(shared_at to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :
                 : "r"(to), "l"(from), "r"(bytes)
                 : "memory");
}

// The same through L1: for what others on this multiprocessor read, too.
__device__ __forceinline__ void cp_async_16_near(shared_at to, const void *from, int bytes)
{
    asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :
                 : "r"(to), "l"(from), "r"(bytes)
                 : "memory");
}

// 4 or 8 bytes, of which the first `bytes` (all or none) are read.
template <int SIZE>
__device__ __forceinline__ void cp_async_few(shared_at to, const void *from, int bytes)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :
                 : "r"(to), "l"(from), "n"(SIZE), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until at most N of this thread's groups are under way.
template <int N> __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void store_shared_16(shared_at to, uint4 v)
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};"
                 :
                 : "r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

// Two numbers rounded to bf16 (nearest even), the first in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi)
{
    uint32_t v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
    return v;
}

__device__ __forceinline__ uint32_t pack_f16_rn(float lo, float hi)
{
    uint32_t v;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
    return v;
}

// 2^x to about 2 ulp, subnormal results zero.
__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// To about 2 ulp; 0 where the divisor is beyond 2^126.
__device__ __forceinline__ float divide_fast(float a, float b)
{
    return __fdividef(a, b);
}

#else

typedef uint8_t *shared_at;

__device__ __forceinline__ shared_at shared_address(void *p)
{
    return static_cast<shared_at>(p);
}

struct emulated_ldmatrix {
    const uint8_t *row;
    uint32_t r[4];
};

template <bool TRANS> void emulated_ldmatrix_complete(void *const lane[32], uint32_t mask)
{
    if (mask != 0xffffffffu)
        emulator_fault("ldmatrix by a part of a warp");
    for (int l = 0; l < 32; l++)
        for (int m = 0; m < 4; m++) {
            emulated_ldmatrix *mine = static_cast<emulated_ldmatrix *>(lane[l]);
            uint32_t both = 0;
            for (int e = 0; e < 2; e++) {
                const int row = TRANS ? l % 4 * 2 + e : l / 4;
                const int column = TRANS ? l / 4 : l % 4 * 2 + e;
                const uint8_t *from = static_cast<emulated_ldmatrix *>(lane[m * 8 + row])->row;
                if ((uintptr_t)from % 16)
                    emulator_fault("ldmatrix of a row off a 16-byte edge");
                both |= (uint32_t)((const uint16_t *)from)[column] << 16 * e;
            }
            mine->r[m] = both;
        }
}

template <bool TRANS> void emulated_ldmatrix_x4(uint32_t (&r)[4], shared_at row)
{
    emulated_ldmatrix mine = {row, {0}};
    emulator_collective(0xffffffffu, emulated_ldmatrix_complete<TRANS>, &mine);
    for (int m = 0; m < 4; m++)
        r[m] = mine.r[m];
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], shared_at row)
{
    emulated_ldmatrix_x4<false>(r, row);
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], shared_at row)
{
    emulated_ldmatrix_x4<true>(r, row);
}

struct emulated_mma {
    float *d;
    const uint32_t *a;
    uint32_t b[2];
};

template <int DT> float emulated_half(uint32_t both, int which)
{
    const uint16_t v = (uint16_t)(both >> 16 * which);
    return DT == DTYPE_BF16 ? from_bf16(v) : from_f16(v);
}

// One fused multiply-add after the other: the hardware's order is not known.
template <int DT> void emulated_mma_complete(void *const lane[32], uint32_t mask)
{
    if (mask != 0xffffffffu)
        emulator_fault("mma by a part of a warp");
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; l++) {
        const emulated_mma *from = static_cast<emulated_mma *>(lane[l]);
        for (int e = 0; e < 8; e++)
            a[l / 4 + e / 2 % 2 * 8][l % 4 * 2 + e % 2 + e / 4 * 8] =
                emulated_half<DT>(from->a[e / 2], e % 2);
        for (int e = 0; e < 4; e++)
            b[l % 4 * 2 + e % 2 + e / 2 * 8][l / 4] = emulated_half<DT>(from->b[e / 2], e % 2);
    }
    for (int l = 0; l < 32; l++)
        for (int e = 0; e < 4; e++) {
            float sum = static_cast<emulated_mma *>(lane[l])->d[e];
            for (int k = 0; k < 16; k++)
                sum = __fmaf_rn(a[l / 4 + e / 2 * 8][k], b[k][l % 4 * 2 + e % 2], sum);
            static_cast<emulated_mma *>(lane[l])->d[e] = sum;
        }
}

__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                                  uint32_t b0, uint32_t b1)
{
    emulated_mma mine = {d, a, {b0, b1}};
    emulator_collective(0xffffffffu, emulated_mma_complete<DTYPE_BF16>, &mine);
}

__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1)
{
    emulated_mma mine = {d, a, {b0, b1}};
    emulator_collective(0xffffffffu, emulated_mma_complete<DTYPE_F16>, &mine);
}

__device__ __forceinline__ void cp_async_16(shared_at to, const void *from, int bytes)
{
    if ((uintptr_t)to % 16 || (bytes && (uintptr_t)from % 16))
        emulator_fault("cp.async off a 16-byte edge");
    emulator_copy_later(to, bytes ? from : NULL, 16);
}

__device__ __forceinline__ void cp_async_16_near(shared_at to, const void *from, int bytes)
{
    cp_async_16(to, from, bytes);
}

template <int SIZE>
__device__ __forceinline__ void cp_async_few(shared_at to, const void *from, int bytes)
{
    if ((uintptr_t)to % SIZE || (bytes && (uintptr_t)from % SIZE))
        emulator_fault("cp.async off an edge");
    emulator_copy_later(to, bytes ? from : NULL, SIZE);
}

__device__ __forceinline__ void cp_async_commit()
{
    emulator_copy_commit();
}

template <int N> __device__ __forceinline__ void cp_async_wait()
{
    emulator_copy_wait(N);
}

__device__ __forceinline__ void store_shared_16(shared_at to, uint4 v)
{
    *reinterpret_cast<uint4 *>(to) = v;
}

__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi)
{
    return to_bf16(lo) | (uint32_t)to_bf16(hi) << 16;
}

// Nearest even; the unit in the last place is 2^-24 below 2^-14.
__device__ __forceinline__ uint32_t emulated_to_f16(float v)
{
    const uint32_t sign = __float_as_uint(v) >> 31 << 15, u = __float_as_uint(fabsf(v));
    if (u > 0x7f800000u)
        return sign | 0x7fff;
    if (fabsf(v) >= 65520.0f)
        return sign | 0x7c00;
    if (fabsf(v) < 0x1p-14f)
        return sign | (uint32_t)rintf(fabsf(v) * 0x1p24f);
    const uint32_t even = u + 0xfff + (u >> 13 & 1);
    return sign | ((even >> 13) - (112u << 10));
}

__device__ __forceinline__ uint32_t pack_f16_rn(float lo, float hi)
{
    return emulated_to_f16(lo) | emulated_to_f16(hi) << 16;
}

__device__ __forceinline__ float exp2_fast(float x)
{
    return exp2f(x);
}

__device__ __forceinline__ float divide_fast(float a, float b)
{
    return a / b;
}

#endif

// What f16 cannot hold becomes the largest it can; infinities and NaN stay.
__device__ __forceinline__ float to_f16_range(float v)
{
    return fabsf(v) > 65504.0f && fabsf(v) <= 3.4e38f ? copysignf(65504.0f, v) : v;
}

template <int DT> __device__ __forceinline__ uint32_t pack16(float lo, float hi)
{
    return DT == DTYPE_BF16 ? pack_bf16(lo, hi) : pack_f16_rn(to_f16_range(lo), to_f16_range(hi));
}

template <int DT>
__device__ __forceinline__ void mma_16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                          uint32_t b1)
{
    if (DT == DTYPE_BF16)
        mma_m16n8k16_bf16(d, a, b0, b1);
    else
        mma_m16n8k16_f16(d, a, b0, b1);
}

#endif
