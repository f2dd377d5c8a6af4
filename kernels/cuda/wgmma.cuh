// The tensor cores of compute capability 9.0 as a warpgroup uses them: four warps multiply two
// tiles of shared memory, which no thread loads. Instructions, and a twin of each for the emulator.
// PTX ISA 9.7.15 gives descriptors and fragments.
#ifndef MOED_KERNELS_CUDA_WGMMA_CUH
#define MOED_KERNELS_CUDA_WGMMA_CUH

#include "mma.cuh"

// Only code for this very architecture has the instructions, not PTX that others may run.
#if defined(MOED_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAVE_WGMMA 1
#else
#define HAVE_WGMMA 0
#endif

enum { WGMMA_ROWS = 64, WGMMA_THREADS = 128, WGMMA_ALIGNMENT = 1024 };

#ifndef MOED_EMULATED

// Rows of 64 16-bit numbers, 128 bytes each, 8 of them 1,024; chunks of 16 bytes exchanged by (row
// mod 8). The first row on an edge of WGMMA_ALIGNMENT.
typedef uint64_t wgmma_tile;

__device__ __forceinline__ wgmma_tile wgmma_tile_at(shared_at first_row)
{
    const uint64_t exchanged_in_128_bytes = 1ull << 62, bytes_of_8_rows = 1024 >> 4;
    return exchanged_in_128_bytes | bytes_of_8_rows << 32 | 1ull << 16 |
           (uint64_t)(first_row >> 4 & 0x3fff);
}

// The tile from number 16 * slices of each row on.
__device__ __forceinline__ wgmma_tile wgmma_slice(wgmma_tile tile, int slices)
{
    return tile + (uint64_t)(slices * 2);
}

// Such a tile as a factor that is multiplied across: each of its rows has 64 columns of the product,
// and the rows `column_bytes` behind it the 64 after them.
__device__ __forceinline__ wgmma_tile wgmma_tile_across(shared_at first_row, uint32_t column_bytes)
{
    return (wgmma_tile_at(first_row) & ~(0x3fffull << 16)) | (uint64_t)(column_bytes >> 4) << 16;
}

#define D4(j)  "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define D32(j) D4(j), D4(j + 1), D4(j + 2), D4(j + 3), D4(j + 4), D4(j + 5), D4(j + 6), D4(j + 7)

// d += a b^T: a 64 x 16, b 256 x 16, of bf16, by the 128 threads of a warpgroup. d[j] are columns
// 8j.. of the rows of the warp's quarter, as mma_m16n8k16_bf16 has them. Begins; wgmma_wait ends.
__device__ __forceinline__ void wgmma_m64n256k16_bf16(float (&d)[32][4], wgmma_tile a, wgmma_tile b)
{
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.eq.u32 add, 0, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "
        "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, "
        "%125, %126, %127}, %128, %129, add, 1, 1, 0, 0;\n"
        "}"
        : D32(0), D32(8), D32(16), D32(24)
        : "l"(a), "l"(b)
        : "memory");
}

// d = a b^T, and with ADD d += a b^T: a 64 x 16 in the registers of the warpgroup, each warp's quarter
// as mma_m16n8k16_bf16 has it, b 128 x 16.
template <bool ADD>
__device__ __forceinline__ void wgmma_m64n128k16_bf16(float (&d)[16][4], const uint32_t (&a)[4],
                                                      wgmma_tile b)
{
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.ne.u32 add, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, add, 1, 1, 0;\n"
        "}"
        : D32(0), D32(8)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ADD)
        : "memory");
}

// d += a b: b 16 x 128, multiplied across.
__device__ __forceinline__ void wgmma_m64n128k16_bf16_across(float (&d)[16][4],
                                                             const uint32_t (&a)[4], wgmma_tile b)
{
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.eq.u32 add, 0, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, add, 1, 1, 1;\n"
        "}"
        : D32(0), D32(8)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
        : "memory");
}

#undef D32
#undef D4

// What this thread has written to shared memory, by cp.async too once waited for, is there for
// wgmma after the next barrier.
__device__ __forceinline__ void wgmma_publish()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Before the first of some, and whenever registers of d have been written since.
__device__ __forceinline__ void wgmma_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_end_group()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most N groups are under way.
template <int N> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

#else

struct wgmma_tile {
    const uint8_t *row;
    int slice;
    uint32_t column_bytes;
};

__device__ __forceinline__ wgmma_tile wgmma_tile_at(shared_at first_row)
{
    if ((uintptr_t)first_row % WGMMA_ALIGNMENT)
        emulator_fault("a tile of wgmma off its edge");
    return {first_row, 0, 0};
}

// Slices of 16 rows keep the exchange of chunks: they begin on an edge of 1,024 bytes, too.
__device__ __forceinline__ wgmma_tile wgmma_tile_across(shared_at first_row, uint32_t column_bytes)
{
    return {wgmma_tile_at(first_row).row, 0, column_bytes};
}

__device__ __forceinline__ wgmma_tile wgmma_slice(wgmma_tile tile, int slices)
{
    return {tile.row, tile.slice + slices, tile.column_bytes};
}

__device__ __forceinline__ uint16_t emulated_bits_at(wgmma_tile tile, int row, int k)
{
    const int chunk = (tile.slice * 2 + k / 8) ^ (row & 7);
    return ((const uint16_t *)(tile.row + row * 128 + chunk * 16))[k % 8];
}

__device__ __forceinline__ float emulated_wgmma_at(wgmma_tile tile, int row, int k)
{
    return from_bf16(emulated_bits_at(tile, row, k));
}

// Done at once, and by each thread for itself: shared memory holds all that it needs.
__device__ __forceinline__ void wgmma_m64n256k16_bf16(float (&d)[32][4], wgmma_tile a, wgmma_tile b)
{
    const int lane = threadIdx.x & 31, first = (int)threadIdx.x / 32 % 4 * 16 + lane / 4;
    for (int e = 0; e < 4; e++) {
        float row[16];
        for (int k = 0; k < 16; k++)
            row[k] = emulated_wgmma_at(a, first + e / 2 * 8, k);
        for (int j = 0; j < 32; j++)
            for (int k = 0; k < 16; k++)
                d[j][e] = __fmaf_rn(row[k], emulated_wgmma_at(b, j * 8 + lane % 4 * 2 + e % 2, k),
                                    d[j][e]);
    }
}

__device__ __forceinline__ uint32_t emulated_pair(uint16_t lo, uint16_t hi)
{
    return lo | (uint32_t)hi << 16;
}

template <bool ADD>
__device__ __forceinline__ void wgmma_m64n128k16_bf16(float (&d)[16][4], const uint32_t (&a)[4],
                                                      wgmma_tile b)
{
    const int lane = threadIdx.x & 31;
    for (int j = 0; j < 16; j++) {
        uint32_t half[2];
        for (int h = 0; h < 2; h++)
            half[h] = emulated_pair(emulated_bits_at(b, j * 8 + lane / 4, h * 8 + lane % 4 * 2),
                                    emulated_bits_at(b, j * 8 + lane / 4, h * 8 + lane % 4 * 2 + 1));
        for (int e = 0; e < 4 && !ADD; e++)
            d[j][e] = 0;
        mma_m16n8k16_bf16(d[j], a, half[0], half[1]);
    }
}

__device__ __forceinline__ void wgmma_m64n128k16_bf16_across(float (&d)[16][4],
                                                             const uint32_t (&a)[4], wgmma_tile b)
{
    const int lane = threadIdx.x & 31;
    for (int j = 0; j < 16; j++) {
        const wgmma_tile column = {b.row + j / 8 * b.column_bytes, 0, 0};
        uint32_t half[2];
        for (int h = 0; h < 2; h++)
            half[h] = emulated_pair(
                emulated_bits_at(column, h * 8 + lane % 4 * 2, j % 8 * 8 + lane / 4),
                emulated_bits_at(column, h * 8 + lane % 4 * 2 + 1, j % 8 * 8 + lane / 4));
        mma_m16n8k16_bf16(d[j], a, half[0], half[1]);
    }
}

__device__ __forceinline__ void wgmma_publish()
{
}

__device__ __forceinline__ void wgmma_begin()
{
}

__device__ __forceinline__ void wgmma_end_group()
{
}

template <int N> __device__ __forceinline__ void wgmma_wait()
{
}

#endif

#endif
