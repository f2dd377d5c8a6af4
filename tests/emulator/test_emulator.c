/* The emulator itself: fibers and the stand-in driver, on the kernels of selftest.cu. */
#include "check.h"

#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cuda.h>

#include "control.h"
#include "kernels.h"

static CUmodule module;
static CUstream stream;

#define OK(call) assert_int_equal(call, CUDA_SUCCESS)

static int begin(void **state)
{
    CUcontext context;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module, ""));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    return 0;
}

static int end(void **state)
{
    cuStreamDestroy(stream);
    cuModuleUnload(module);
    OK(cuDevicePrimaryCtxRelease(0));
    return 0;
}

static CUfunction function(const char *name)
{
    CUfunction f;
    OK(cuModuleGetFunction(&f, module, name));
    return f;
}

static CUresult launch(const char *name, unsigned blocks, unsigned threads, unsigned shared,
                       void **params)
{
    return cuLaunchKernel(function(name), blocks, 1, 1, threads, 1, 1, shared, stream, params,
                          NULL);
}

static CUresult launch_together(const char *name, unsigned blocks, unsigned threads,
                                unsigned shared, void **params)
{
    CUlaunchAttribute together = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
                                  .value = {.cooperative = 1}};
    CUlaunchConfig config = {blocks, 1, 1, threads, 1, 1, shared, stream, &together, 1};
    return cuLaunchKernelEx(&config, function(name), params, NULL);
}

/* Pinned memory, zeroed: kernels take it as it is. */
static void *pinned(size_t bytes)
{
    void *p;
    OK(cuMemHostAlloc(&p, bytes, CU_MEMHOSTALLOC_DEVICEMAP));
    memset(p, 0, bytes);
    return p;
}

static void shuffles_and_votes(void **state)
{
    int *out = pinned(7 * 64 * sizeof *out);
    OK(launch("shuffles", 1, 64, 0, (void *[]){&out}));
    OK(cuStreamSynchronize(stream));
    for (int t = 0; t < 64; t++) {
        int lane = t % 32, warp = t - lane, sum = 0;
        unsigned ballot = 0;
        for (int l = 0; l < 32; l++) {
            sum += warp + l;
            ballot |= (unsigned)((warp + l) % 3 == 0) << l;
        }
        assert_int_equal(out[t], t ^ 5);
        assert_int_equal(out[64 + t], t / 8 * 8 + (t + 3) % 8);
        assert_int_equal(out[128 + t], lane + 3 < 32 ? t + 3 : t);
        assert_int_equal(out[192 + t], lane % 16 >= 2 ? t - 2 : t);
        assert_int_equal(out[256 + t], (t ^ 15) + 1);
        assert_int_equal(out[320 + t], (int)ballot);
        assert_int_equal(out[384 + t], sum - 1000 * (warp + 31) + 1000000 * (warp == 32 ? 3 : 0));
    }
    OK(cuMemFreeHost(out));
}

static void indices_and_arguments(void **state)
{
    struct {
        int64_t a;
        uint8_t b, c;
    } x = {1000000, 3, 4};
    float f = 20;
    uint8_t b = 100;
    int *out = pinned(24 * 30 * sizeof *out);
    OK(cuLaunchKernel(function("indices"), 2, 3, 4, 5, 3, 2, 0, stream,
                      (void *[]){&out, &x, &f, &b}, NULL));
    x.a = 0; /* the arguments were taken at the call */
    OK(cuStreamSynchronize(stream));
    for (int i = 0; i < 24 * 30; i++)
        assert_int_equal(out[i], i % 30 + i / 30 * 100 + 1000127);
    OK(cuMemFreeHost(out));
}

static void barriers_and_shared_memory(void **state)
{
    enum { N = 1000, EACH = 256 };
    int n = N, *data = pinned(N * sizeof *data);
    unsigned *count = pinned(sizeof *count);
    for (int i = 0; i < N; i++)
        data[i] = i;
    OK(launch("reverse", 4, EACH, EACH * sizeof(int), (void *[]){&data, &count, &n}));
    OK(cuStreamSynchronize(stream));
    for (int i = 0; i < N; i++) {
        int first = i / EACH * EACH, live = N - first < EACH ? N - first : EACH;
        assert_int_equal(data[i], first + live - 1 - (i - first));
    }
    assert_int_equal(*count, N);
    OK(launch("untouched", 3, 32, 32 * sizeof(float), (void *[]){&count}));
    OK(cuStreamSynchronize(stream));
    assert_int_equal(*count, N);
    OK(cuMemFreeHost(data));
    OK(cuMemFreeHost(count));
}

static void numbers(void **state)
{
    float *out = pinned(65536 * sizeof *out);
    OK(launch("halves", 1, 32, 0, (void *[]){&out}));
    OK(cuStreamSynchronize(stream));
    for (int i = 0; i < 65536; i++) {
        float want = kern_from_f16((uint16_t)i);
        assert_true(memcmp(&want, &out[i], sizeof want) == 0 || (want != want && out[i] != out[i]));
    }
    OK(cuMemFreeHost(out));
}

/* What would hang a GPU, or be undefined there, is an error that sticks until all is closed. */
static void deadlocks_are_reported(void **state)
{
    for (int which = 0; which < 3; which++) {
        int *out = pinned(64 * sizeof *out);
        OK(which < 2 ? launch("deadlock", 2, 64, 0, (void *[]){&which})
                     : launch("wrong_shuffle", 1, 32, 0, (void *[]){&out}));
        assert_int_equal(cuStreamSynchronize(stream), CUDA_ERROR_LAUNCH_FAILED);
        assert_int_equal(launch("add", 1, 32, 0, (void *[]){&out, &which}),
                         CUDA_ERROR_LAUNCH_FAILED);
        cuMemFreeHost(out);
        end(NULL);
        begin(NULL);
    }
    int *out = pinned(64 * sizeof *out), by = 2;
    OK(launch("add", 1, 32, 0, (void *[]){&out, &by}));
    OK(cuStreamSynchronize(stream));
    assert_int_equal(out[31], 2);
    OK(cuMemFreeHost(out));
}

static void compare_rounds(const int *data, int blocks, int threads, int rounds)
{
    const int n = blocks * threads;
    int *mine = calloc((size_t)n, sizeof *mine), *before = calloc((size_t)n, sizeof *before);
    for (int i = 0; i < n; i++)
        mine[i] = before[i] = 1000 * (i / threads) + i % threads;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < n; i++)
            mine[i] += before[(i / threads + 1) % blocks * threads + threads - 1 - i % threads];
        memcpy(before, mine, (size_t)n * sizeof *mine);
    }
    assert_memory_equal(data + rounds % 2 * n, mine, (size_t)n * sizeof *mine);
    free(mine);
    free(before);
}

/* Blocks of a cooperative grid wait for each other, each with shared memory of its own; in a graph
 * too. */
static void cooperative_grids_run_together(void **state)
{
    enum { THREADS = 512, ROUNDS = 7 };
    int blocks = 0, each = 0, cooperative = 0, n = ROUNDS;
    uint32_t *arrived = pinned(4096);
    CUgraph graph;
    CUgraphExec exec;
    OK(cuDeviceGetAttribute(&blocks, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    OK(cuDeviceGetAttribute(&cooperative, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 0));
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&each, function("rounds"), THREADS, 4096));
    assert_true(blocks > 1 && each == 1 && cooperative == 1);
    int *data = pinned((size_t)(2 * blocks * THREADS) * sizeof *data);
    void *params[] = {&arrived, &data, &n};
    OK(launch_together("rounds", (unsigned)blocks, THREADS, THREADS * sizeof(int), params));
    OK(cuStreamSynchronize(stream));
    compare_rounds(data, blocks, THREADS, n);
    OK(cuMemFreeHost(data));
    data = pinned((size_t)(2 * 2 * 1024) * sizeof *data);
    n = 4;
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuMemsetD32Async((CUdeviceptr)(uintptr_t)arrived, 0, 1, stream));
    OK(launch_together("rounds", 2, 1024, 1024 * sizeof(int), params));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiate(&exec, graph, 0));
    OK(cuGraphDestroy(graph));
    for (int replay = 0; replay < 3; replay++) {
        memset(data, 0, (size_t)(2 * 2 * 1024) * sizeof *data);
        OK(cuGraphLaunch(exec, stream));
        OK(cuStreamSynchronize(stream));
        compare_rounds(data, 2, 1024, n);
    }
    OK(cuGraphExecDestroy(exec));
    OK(cuMemFreeHost(data));
    OK(cuMemFreeHost(arrived));
}

static void teams_have_barriers_of_their_own(void **state)
{
    int *out = pinned(128 * sizeof *out);
    OK(launch("teams", 1, 160, 160 * sizeof(int), (void *[]){&out}));
    OK(cuStreamSynchronize(stream));
    for (int t = 0; t < 128; t++) /* after an odd number of rounds the team is turned around */
        assert_int_equal(out[t], t < 64 ? t + 8 : 64 + 63 - t % 64 + 3);
    OK(cuMemFreeHost(out));
}

static void a_stuck_block_ends_its_grid(void **state)
{
    uint32_t *arrived = pinned(4096);
    OK(launch_together("stuck_grid", 2, 64, 0, (void *[]){&arrived}));
    assert_int_equal(cuStreamSynchronize(stream), CUDA_ERROR_LAUNCH_FAILED);
    cuMemFreeHost(arrived);
}

static void *answer(void *arg)
{
    uint32_t *word = arg;
    while (__atomic_load_n(&word[1], __ATOMIC_ACQUIRE) != 1)
        nanosleep(&(struct timespec){0, 100000}, NULL);
    __atomic_store_n(&word[0], 7, __ATOMIC_RELEASE);
    return NULL;
}

static void kernels_wait_for_the_host_and_each_other(void **state)
{
    uint64_t patience_ns = 20000000000u;
    uint32_t *word = pinned(4096);
    int *out = pinned(64 * sizeof *out);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, answer, word), 0);
    OK(launch("ask_host", 1, 64, 0, (void *[]){&word, &patience_ns}));
    OK(cuStreamSynchronize(stream));
    pthread_join(thread, NULL);
    assert_int_equal(word[2], 2);
    word[0] = 0;
    patience_ns = 1000;
    OK(launch("ask_host", 1, 64, 0, (void *[]){&word, &patience_ns}));
    OK(cuStreamSynchronize(stream));
    assert_int_equal(word[2], 3);
    OK(launch("warp_waits", 1, 64, 0, (void *[]){&out}));
    OK(cuStreamSynchronize(stream));
    for (int i = 0; i < 64; i++)
        assert_int_equal(out[i], 5);
    OK(cuMemFreeHost(word));
    OK(cuMemFreeHost(out));
}

static void launches_have_limits(void **state)
{
    int *out = pinned(4096), by = 1;
    void *params[] = {&out, &by};
    CUfunction f = function("add"), none;
    assert_int_equal(cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, stream, params, NULL),
                     CUDA_ERROR_INVALID_VALUE); /* more threads than its launch bounds */
    assert_int_equal(cuLaunchKernel(f, 1, 65536, 1, 32, 1, 1, 0, stream, params, NULL),
                     CUDA_ERROR_INVALID_VALUE);
    assert_int_equal(cuLaunchKernel(f, 0, 1, 1, 32, 1, 1, 0, stream, params, NULL),
                     CUDA_ERROR_INVALID_VALUE);
    assert_int_equal(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 64 << 10, stream, params, NULL),
                     CUDA_ERROR_INVALID_VALUE);
    OK(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 64 << 10));
    OK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 64 << 10, stream, params, NULL));
    assert_int_equal(launch_together("add", 4, 32, 0, params),
                     CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    OK(launch_together("add", 1, 32, 0, params));
    assert_int_equal(cuModuleGetFunction(&none, module, "no_such_kernel"), CUDA_ERROR_NOT_FOUND);
    OK(cuStreamSynchronize(stream));
    assert_int_equal(out[0], 2);
    OK(cuMemFreeHost(out));
}

static void copies_are_checked_and_ordered(void **state)
{
    enum { N = 32, BYTES = N * sizeof(int) };
    int pageable[N], back[N], by = 5;
    float ms = -1;
    CUdeviceptr x;
    CUevent event, early, late;
    OK(cuMemAlloc(&x, BYTES));
    OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    OK(cuEventCreate(&early, CU_EVENT_DEFAULT));
    OK(cuEventCreate(&late, CU_EVENT_DEFAULT));
    OK(cuEventRecord(early, stream));
    for (int i = 0; i < N; i++)
        pageable[i] = i;
    OK(cuMemcpyHtoDAsync(x, pageable, BYTES, stream));
    memset(pageable, 0, BYTES); /* pageable memory was read at the call */
    OK(launch("add", 1, N, 0, (void *[]){&x, &by}));
    OK(cuEventRecord(event, stream));
    OK(cuEventSynchronize(event));
    OK(cuEventQuery(event));
    OK(cuEventRecord(late, stream));
    OK(cuEventSynchronize(late));
    OK(cuEventElapsedTime(&ms, early, late));
    assert_true(ms >= 0);
    OK(cuMemcpyDtoHAsync(back, x, BYTES,
                         stream)); /* and pageable memory is written before it ends */
    for (int i = 0; i < N; i++)
        assert_int_equal(back[i], i + 5);
    assert_int_equal(cuMemcpyHtoDAsync(x + 4, pageable, BYTES, stream), CUDA_ERROR_INVALID_VALUE);
    assert_int_equal(cuMemcpyHtoDAsync((CUdeviceptr)(uintptr_t)back, pageable, BYTES, stream),
                     CUDA_ERROR_INVALID_VALUE);
    assert_int_equal(cuMemsetD8Async(x, 0, BYTES + 1, stream), CUDA_ERROR_INVALID_VALUE);
    void *whole = aligned_alloc(4096, 8192);
    OK(cuMemHostRegister(whole, 4096, 0));
    assert_int_equal(cuMemHostRegister((uint8_t *)whole + 4095, 2, 0),
                     CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    assert_int_equal(cuMemcpyHtoDAsync(x, (uint8_t *)whole + 4096 - 8, 64, stream),
                     CUDA_ERROR_INVALID_VALUE); /* across the edge of the registered piece */
    OK(cuMemHostUnregister(whole));
    assert_int_equal(cuMemHostUnregister(whole), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    assert_int_equal(cuMemFree(x + 4), CUDA_ERROR_INVALID_VALUE);
    free(whole);
    OK(cuMemFree(x));
    OK(cuEventDestroy(event));
    OK(cuEventDestroy(early));
    OK(cuEventDestroy(late));
}

static void graphs_replay(void **state)
{
    enum { N = 32, BYTES = N * sizeof(int) };
    int *host = pinned(BYTES), *back = pinned(BYTES), by = 3;
    CUdeviceptr x, more;
    CUgraph graph;
    CUgraphExec exec;
    CUstream side;
    CUevent fork, join;
    OK(cuMemAlloc(&x, BYTES));
    OK(cuStreamCreate(&side, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
    OK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuMemcpyHtoDAsync(x, host, BYTES, stream));
    OK(launch("add", 1, N, 0, (void *[]){&x, &by}));
    by = 100; /* taken at the call */
    OK(cuEventRecord(fork, stream));
    OK(cuStreamWaitEvent(side, fork, 0));
    OK(cuMemcpyDtoHAsync(back, x, BYTES, side));
    OK(cuEventRecord(join, side));
    OK(cuStreamWaitEvent(stream, join, 0));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiate(&exec, graph, 0));
    OK(cuGraphDestroy(graph));
    assert_int_equal(back[3], 0); /* nothing ran while capturing */
    for (int round = 0; round < 3; round++) {
        host[3] = 10 * round;
        OK(cuGraphLaunch(exec, stream));
        OK(cuStreamSynchronize(stream));
        assert_int_equal(back[3], 10 * round + 3);
    }
    OK(cuGraphExecDestroy(exec));
    /* What may not be done while capturing breaks the capture. */
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    assert_int_equal(cuMemAlloc(&more, 4), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_int_equal(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuMemAlloc(&more, 4));
    assert_int_equal(cuStreamQuery(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_int_equal(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    OK(cuMemFree(more));
    OK(cuMemFree(x));
    OK(cuStreamDestroy(side));
    OK(cuEventDestroy(fork));
    OK(cuEventDestroy(join));
    OK(cuMemFreeHost(host));
    OK(cuMemFreeHost(back));
}

static void faults_to_order(void **state)
{
    int *x = pinned(4096), by = 1;
    void *params[] = {&x, &by}, *none;
    emulator_fail_alloc(1);
    assert_int_equal(cuMemHostAlloc(&none, 64, 0), CUDA_ERROR_OUT_OF_MEMORY);
    OK(launch("add", 1, 32, 0, params));
    emulator_fail_launch(2);
    OK(launch("add", 1, 32, 0, params));
    assert_int_equal(launch("add", 1, 32, 0, params), CUDA_ERROR_LAUNCH_FAILED);
    assert_int_equal(cuStreamQuery(stream), CUDA_ERROR_LAUNCH_FAILED);
    cuMemFreeHost(x);
    end(NULL);
    begin(NULL);
    CUdeviceptr d;
    OK(cuMemAlloc(&d, 64));
    emulator_fail_copy(1);
    OK(cuMemcpyHtoDAsync(d, &by, sizeof by, stream));
    assert_int_equal(cuStreamSynchronize(stream), CUDA_ERROR_LAUNCH_FAILED);
    cuMemFree(d);
}

/* 32 numbers in memory for 16: a process of its own, which the sanitizer ends. */
static void overruns_are_seen(void **state)
{
#ifdef __SANITIZE_ADDRESS__
    int status, by = 1;
    pid_t child = fork();
    if (child == 0) {
        CUdeviceptr x;
        begin(NULL);
        if (!freopen("/dev/null", "w", stderr) || cuMemAlloc(&x, 16 * sizeof(int)) != 0)
            _exit(0);
        launch("add", 1, 32, 0, (void *[]){&x, &by});
        cuStreamSynchronize(stream);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_not_equal(status, 0);
#else
    print_message("not the address sanitizer: skipped\n");
    skip();
#endif
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(shuffles_and_votes, begin, end),
    cmocka_unit_test_setup_teardown(indices_and_arguments, begin, end),
    cmocka_unit_test_setup_teardown(barriers_and_shared_memory, begin, end),
    cmocka_unit_test_setup_teardown(numbers, begin, end),
    cmocka_unit_test_setup_teardown(deadlocks_are_reported, begin, end),
    cmocka_unit_test_setup_teardown(cooperative_grids_run_together, begin, end),
    cmocka_unit_test_setup_teardown(teams_have_barriers_of_their_own, begin, end),
    cmocka_unit_test_setup_teardown(a_stuck_block_ends_its_grid, begin, end),
    cmocka_unit_test_setup_teardown(kernels_wait_for_the_host_and_each_other, begin, end),
    cmocka_unit_test_setup_teardown(launches_have_limits, begin, end),
    cmocka_unit_test_setup_teardown(copies_are_checked_and_ordered, begin, end),
    cmocka_unit_test_setup_teardown(graphs_replay, begin, end),
    cmocka_unit_test_setup_teardown(faults_to_order, begin, end),
    cmocka_unit_test(overruns_are_seen),
};
CHECK_MAIN(tests)
