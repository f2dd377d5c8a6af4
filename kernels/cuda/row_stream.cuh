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

// A stage of the ring: so many numbers of each of R rows, plain. SHARED: other warps of the block
// read the same rows at about the same time.
template <int ROWS, bool SHARED> struct plain_feed {
    enum { R = ROWS, HALVES = 1, STAGE_BYTES = R * 512 };

    __device__ __forceinline__ void ask(const uint8_t *const (&w)[R], int at, int in,
                                        uint8_t *stage) const
    {
        const int bytes = at + lane_of() * 8 < in ? 16 : 0;
#pragma unroll
        for (int r = 0; r < R; r++) {
            const uint8_t *from = w[r] + (at + lane_of() * 8) * 2;
            const shared_at to = shared_address(stage + r * 512 + lane_of() * 16);
            if (SHARED)
                cp_async_16_near(to, from, bytes);
            else
                cp_async_16(to, from, bytes);
        }
    }

    template <class Where> __device__ __forceinline__ void begin(const uint8_t *, const Where &)
    {
    }

    // The lane's eight of 256 numbers of each row, +0 behind their end.
    template <class Where>
    __device__ __forceinline__ void half(const uint8_t *stage, int, int, const Where &,
                                         float (&wide)[R][8]) const
    {
#pragma unroll
        for (int r = 0; r < R; r++)
            widen8(*(const uint4 *)(stage + r * 512 + lane_of() * 16), wide[r]);
    }
};

// Groups 0 .. groups - 1 of rows of `in` numbers; rows(g, w) says where those of group g lie, on
// 16-byte edges.
template <class Feed, class Rows> struct weight_stream {
    enum { R = Feed::R, STAGES = CU_RING_BYTES / Feed::STAGE_BYTES, NUMBERS = 256 * Feed::HALVES };
    static_assert(STAGES >= 3, "some must be under way");
    const Rows rows;
    const int groups, in;
    uint8_t *const ring; // this warp's, CU_RING_BYTES
    const uint8_t *w[R] = {};
    int group, at, put, get;
    Feed feed;

    __device__ __forceinline__ weight_stream(const Rows &rows, int groups, int in, uint8_t *ring)
        : rows(rows), groups(groups), in(in), ring(ring), group(0), at(0), put(0), get(0)
    {
        if (groups > 0)
            rows(0, w);
#pragma unroll
        for (int i = 0; i < STAGES - 1; i++)
            ask();
    }

    __device__ __forceinline__ static void turn(int &stage)
    {
        stage += Feed::STAGE_BYTES;
        stage = stage == STAGES * Feed::STAGE_BYTES ? 0 : stage;
    }

    __device__ __forceinline__ void ask()
    {
        if (group < groups) {
            feed.ask(w, at, in, ring + put);
            at += NUMBERS;
            if (at >= in) {
                at = 0;
                if (++group < groups)
                    rows(group, w);
            }
        }
        cp_async_commit();
        turn(put);
    }

    // The next stage; what this lane has of it is there until the one behind it is taken.
    __device__ __forceinline__ const uint8_t *take()
    {
        ask();
        cp_async_wait<STAGES - 1>();
        const uint8_t *stage = ring + get;
        turn(get);
        return stage;
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
            const auto where = [&](const uint8_t *(&w)[R]) { rows(g, w); };
            float acc[R * NB][8], s[R * NB];
#pragma unroll
            for (int i = 0; i < R * NB; i++)
#pragma unroll
                for (int e = 0; e < 8; e++)
                    acc[i][e] = 0;
#pragma unroll 1
            for (int first = 0; first < width; first += NUMBERS) {
                const uint8_t *stage = take();
                if (first == 0)
                    feed.begin(stage, where);
#pragma unroll
                for (int h = 0; h < Feed::HALVES; h++) {
                    const int k = first + h * 256;
                    if (h == 0 || k < width)
                        add<NB>(stage, h, k, where, x + k, width, acc);
                }
            }
#pragma unroll
            for (int i = 0; i < R * NB; i++)
                s[i] = sum_of_eight(acc[i]);
            done(g, s);
        }
        cp_async_wait<0>();
    }

    template <int NB, class Where>
    __device__ __forceinline__ void add(const uint8_t *stage, int h, int k, const Where &where,
                                        const float *x, int width, float (&acc)[R * NB][8])
    {
        float wide[R][8];
        feed.half(stage, h, k, where, wide);
#pragma unroll
        for (int b = 0; b < NB; b++) {
            float xs[8];
            load_vector(x + b * width, xs);
#pragma unroll
            for (int r = 0; r < R; r++)
#pragma unroll
                for (int e = 0; e < 8; e++)
                    acc[r * NB + b][e] = __fmaf_rn(wide[r][e], xs[e], acc[r * NB + b][e]);
        }
    }
};

#endif
