// The tensor cores and what feeds them: mma.sync, ldmatrix, cp.async, rounding to 16 bits. Each is one
// instruction; the emulator has a twin of each.
#ifndef MOED_KERNELS_CUDA_MMA_CUH
#define MOED_KERNELS_CUDA_MMA_CUH

#include "common.cuh"

#ifndef SHARED_DYNAMIC
#define SHARED_DYNAMIC(type, name) extern __shared__ type name[]
#endif

#ifndef MOED_EMULATED

// An address in shared memory, as ldmatrix and cp.async take it; bytes are added to it.
typedef uint32_t shared_at;

__device__ __forceinline__ shared_at shared_address(const void *p)
{
    return (shared_at)__cvta_generic_to_shared(p);
}

// Four 8x8 matrices of 16-bit numbers; lane l gives the row l % 8 of matrix l / 8 (16 bytes) and gets
// of each matrix elements 2(l % 4), 2(l % 4) + 1 of row l / 4.
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
// a[1] row g + 8; a[2], a[3] the same rows, columns 8 + 2t..; b0 rows 2t.. of column g, b1 rows 8 + 2t..;
// d[0], d[1] row g, columns 2t, 2t + 1; d[2], d[3] row g + 8.
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

// Starts copying 16 bytes from global to shared memory, past L1; of these the first `bytes` (16 or 0)
// are read, the rest is zero.
__device__ __forceinline__ void cp_async_16(shared_at to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :
                 : "r"(to), "l"(from), "r"(bytes)
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
