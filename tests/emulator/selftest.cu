// Kernels for the emulator's own tests (test_emulator.c).
#include "cuda/common.cuh"

// out [7][64]: what each thread gets.
KERNEL __launch_bounds__(64) shuffles(int *out)
{
    const int t = (int)threadIdx.x, n = 64;
    const unsigned all = 0xffffffffu;
    out[t] = __shfl_xor_sync(all, t, 5);
    out[n + t] = __shfl_sync(all, t, t + 3, 8);
    out[2 * n + t] = __shfl_down_sync(all, t, 3);
    out[3 * n + t] = __shfl_up_sync(all, t, 2, 16);
    // Two halves of a warp, each for itself.
    const unsigned half = t % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
    out[4 * n + t] = (int)__shfl_xor_sync(half, (long long)t << 32 | 1, 15) +
                     (int)(__shfl_xor_sync(half, (long long)t << 32 | 1, 15) >> 32);
    out[5 * n + t] = (int)__ballot_sync(all, t % 3 == 0);
    out[6 * n + t] = __reduce_add_sync(all, t) + 1000 * __reduce_min_sync(all, -t) +
                     1000000 * (__any_sync(all, t == 40) + 2 * __all_sync(all, t >= 32));
}

struct three {
    int64_t a;
    uint8_t b, c;
};

// Arguments of different sizes, and every index.
KERNEL indices(int *out, const struct three x, float f, uint8_t b)
{
    const int block = (int)((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
    const int thread =
        (int)((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x);
    const int threads = (int)(blockDim.x * blockDim.y * blockDim.z);
    out[block * threads + thread] = thread + 100 * block + (int)x.a + x.b + x.c + (int)f + b;
}

// Each block turns its part around in shared memory, then counts threads through an atomic.
KERNEL __launch_bounds__(256) reverse(int *data, unsigned *count, int n)
{
    SHARED_DYNAMIC(int, part);
    __shared__ int seen;
    const int t = (int)threadIdx.x, at = (int)(blockIdx.x * blockDim.x) + t;
    if (t == 0)
        seen = 0;
    // Threads that end here do not count in the barriers below.
    if (at >= n)
        return;
    part[t] = data[at];
    __syncthreads();
    const int live = min((int)blockDim.x, n - (int)(blockIdx.x * blockDim.x));
    data[at] = part[live - 1 - t];
    atomicAdd(&seen, 1);
    __syncthreads();
    if (t == 0)
        atomicAdd(count, (unsigned)seen);
}

// Fresh shared memory is no number.
KERNEL __launch_bounds__(32) untouched(int *bad)
{
    SHARED_DYNAMIC(float, x);
    if (!isnan(x[threadIdx.x]))
        atomicAdd(bad, 1);
    x[threadIdx.x] = 1;
}

KERNEL __launch_bounds__(64) deadlock(int which)
{
    const unsigned t = threadIdx.x;
    if (which == 0 && t < 16)
        __syncwarp();
    else if (which == 1)
        __syncwarp(t < 16 ? 0xffffffffu : 0xffff0000u);
    __syncthreads();
}

KERNEL __launch_bounds__(32) wrong_shuffle(int *out)
{
    if (threadIdx.x < 8)
        out[threadIdx.x] = __shfl_sync(0xffu, 1, (int)threadIdx.x + 1);
}

// word[0] is the host's, word[1] the answer.
KERNEL __launch_bounds__(64) ask_host(uint32_t *word, uint64_t patience_ns)
{
    const uint64_t begin = global_timer_ns();
    if (threadIdx.x == 40) {
        store_system(&word[1], 1);
        while (load_system(&word[0]) != 7 && global_timer_ns() - begin < patience_ns)
            ;
        store_system(&word[1], word[0] == 7 ? 2 : 3);
    }
    __syncthreads();
    if (threadIdx.x == 0)
        store_system(&word[2], word[1]);
}

// A warp waits for another by a word in shared memory.
KERNEL __launch_bounds__(64) warp_waits(int *out)
{
    __shared__ int word;
    if (threadIdx.x == 0)
        word = 0;
    __syncthreads();
    if (threadIdx.x < 32)
        while (atomicAdd(&word, 0) == 0)
            ;
    else if (threadIdx.x == 63)
        atomicExch(&word, 5);
    __syncthreads();
    out[threadIdx.x] = word;
}

KERNEL __launch_bounds__(32) halves(float *out)
{
    for (int i = (int)threadIdx.x; i < 65536; i += 32)
        out[i] = from_f16((uint16_t)i);
}

KERNEL __launch_bounds__(32) add(int *x, int by)
{
    x[threadIdx.x] += by;
}

// Rounds of a cooperative grid: in each, every block adds to its own numbers, in shared memory, what
// the next block had in the round before. data [2][blocks][threads].
KERNEL __launch_bounds__(1024) rounds(uint32_t *arrived, int *data, int n)
{
    SHARED_DYNAMIC(int, mine);
    const int t = (int)threadIdx.x, threads = (int)blockDim.x, blocks = (int)gridDim.x;
    const int block = (int)blockIdx.x, next = (block + 1) % blocks;
    mine[t] = 1000 * block + t;
    data[block * threads + t] = mine[t];
    for (int round = 0; round < n; round++) {
        const uint32_t all = (uint32_t)((round + 1) * blocks);
        __syncthreads();
        if (t == 0) {
            add_release(arrived, 1);
            while (load_acquire(arrived) < all)
                ;
        }
        __syncthreads();
        int *const from = data + round % 2 * blocks * threads;
        int *const to = data + (round + 1) % 2 * blocks * threads;
        mine[t] += from[next * threads + threads - 1 - t];
        to[block * threads + t] = mine[t];
    }
}

// Two teams of a block, with barriers of their own, turn numbers around: out [2][64].
KERNEL __launch_bounds__(160) teams(int *out)
{
    SHARED_DYNAMIC(int, x);
    const int t = (int)threadIdx.x, team = t / 64, rounds = team ? 3 : 8;
    if (team > 1)
        return;
    x[t] = t;
    for (int i = 0; i < rounds; i++) {
        team_sync((unsigned)team + 1, 64);
        const int other = x[team * 64 + 63 - t % 64];
        team_sync((unsigned)team + 1, 64);
        x[t] = other + 1;
    }
    out[t] = x[t];
}

// The first block waits for the second, of which half a warp waits for the other half.
KERNEL __launch_bounds__(64) stuck_grid(uint32_t *arrived)
{
    if (blockIdx.x == 0)
        while (load_acquire(arrived) == 0)
            ;
    else if (threadIdx.x < 16)
        __syncwarp();
    __syncthreads();
    if (threadIdx.x == 0)
        add_release(arrived, 1);
}
