// Rows of bf16 weights times rows of activations in shared memory, by warps that have many of the
// former to go through. Weights come by cp.async, past the ends of rows too, so that a warp always
// has some under way; a lane reads back what it has asked for itself, and nobody waits for anybody.
#ifndef MOED_KERNELS_CUDA_ROW_STREAM_CUH
#define MOED_KERNELS_CUDA_ROW_STREAM_CUH

#include "common.cuh"
#include "mma.cuh"

// Rows of activations, fp32, into shared memory, `width` = vector_floats(in) apart, each in the
// order of place_of; -0 behind its end and where there is none (NULL): its product with +0 changes
// no sum.
template <int N>
__device__ __forceinline__ void keep_vectors(const float *const (&from)[N], int in, int width,
                                             float *to)
{
    const float4 none = {-0.0f, -0.0f, -0.0f, -0.0f};
    for (int j = (int)threadIdx.x * 4; j < width; j += CU_THREADS * 4) {
        float4 v[N];
#pragma unroll
        for (int r = 0; r < N; r++)
            v[r] = from[r] && j < in ? *(const float4 *)(from[r] + j) : none;
#pragma unroll
        for (int r = 0; r < N; r++)
            *(float4 *)(to + r * width + place_of(j)) = v[r];
    }
}

// Groups 0 .. groups - 1 of R rows of `in` numbers; rows(g, w) says where those of group g lie, on
// 16-byte edges. SHARED: other warps of the block read the same rows at about the same time.
template <int R, bool SHARED, class Rows> struct weight_stream {
    enum { STAGE_BYTES = R * 512, STAGES = CU_RING_BYTES / STAGE_BYTES };
    const Rows rows;
    const int groups, in;
    uint8_t *const ring; // this warp's, CU_RING_BYTES
    const uint8_t *w[R] = {};
    int group, at, put, get;

    __device__ __forceinline__ weight_stream(const Rows &rows, int groups, int in, uint8_t *ring)
        : rows(rows), groups(groups), in(in), ring(ring + lane_of() * 16), group(0), at(0), put(0),
          get(0)
    {
        if (groups > 0)
            rows(0, w);
#pragma unroll
        for (int i = 0; i < STAGES - 1; i++)
            ask();
    }

    __device__ __forceinline__ void ask()
    {
        if (group < groups) {
            const int bytes = at + lane_of() * 8 < in ? 16 : 0;
#pragma unroll
            for (int r = 0; r < R; r++) {
                const uint8_t *from = w[r] + (at + lane_of() * 8) * 2;
                if (SHARED)
                    cp_async_16_near(shared_address(ring + put + r * 512), from, bytes);
                else
                    cp_async_16(shared_address(ring + put + r * 512), from, bytes);
            }
            at += 256;
            if (at >= in) {
                at = 0;
                if (++group < groups)
                    rows(group, w);
            }
        }
        cp_async_commit();
        put = put + STAGE_BYTES == CU_RING_BYTES ? 0 : put + STAGE_BYTES;
    }

    // The lane's eight of the next 256 numbers of each row, +0 behind their end.
    __device__ __forceinline__ void take(float (&wide)[R][8])
    {
        ask();
        cp_async_wait<STAGES - 1>();
#pragma unroll
        for (int r = 0; r < R; r++)
            widen8(*(const uint4 *)(ring + get + r * 512), wide[r]);
        get = get + STAGE_BYTES == CU_RING_BYTES ? 0 : get + STAGE_BYTES;
    }

    // done(g, s) for each group, s being the lane's sums of eight of row r times activations b:
    // s[r * NB + b].
    template <int NB, class Done>
    __device__ __forceinline__ void multiply(const float *x, const Done &done)
    {
        const int width = vector_floats(in);
        x += lane_of() * 4;
#pragma unroll 1
        for (int g = 0; g < groups; g++) {
            float acc[R * NB][8], s[R * NB];
#pragma unroll
            for (int i = 0; i < R * NB; i++)
#pragma unroll
                for (int e = 0; e < 8; e++)
                    acc[i][e] = 0;
#pragma unroll 1
            for (int k = 0; k < width; k += 256) {
                float wide[R][8];
                take(wide);
#pragma unroll
                for (int b = 0; b < NB; b++) {
                    float xs[8];
                    load_vector(x + b * width + k, xs);
#pragma unroll
                    for (int r = 0; r < R; r++)
#pragma unroll
                        for (int e = 0; e < 8; e++)
                            acc[r * NB + b][e] = __fmaf_rn(wide[r][e], xs[e], acc[r * NB + b][e]);
                }
            }
#pragma unroll
            for (int i = 0; i < R * NB; i++)
                s[i] = sum_of_eight(acc[i]);
            done(g, s);
        }
        cp_async_wait<0>();
    }
};

#endif
