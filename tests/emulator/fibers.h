/*
 * How emulated kernels run: each CUDA thread of a block is a fiber of the calling thread. Plain C;
 * the kernels see it through emulator.h.
 *
 * Blocks run one after the other, x fastest, then y, then z: a block may wait for earlier blocks
 * and for threads of the host, never for later blocks. Those of a cooperative launch run together,
 * in turns: where all threads of one wait or spin, the next goes on. One kernel runs at a time in
 * the process (emulator_run takes a lock), so what stands below is global.
 */
#ifndef MOED_TESTS_EMULATOR_FIBERS_H
#define MOED_TESTS_EMULATOR_FIBERS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As CUDA's built-in variables: of the fiber that runs. */
struct emulator_index {
    uint32_t x, y, z;
};
extern struct emulator_index threadIdx, blockIdx, blockDim, gridDim;

#define EMULATOR_MAX_PARAMS  16
#define EMULATOR_MAX_THREADS 1024
#define EMULATOR_MAX_BLOCKS  3 /* of a cooperative launch: one on each multiprocessor */
#define EMULATOR_BARRIERS    16

/* A kernel, as list_kernels.py finds it and emulator.h describes it. */
struct emulator_kernel {
    const char *name;
    void (*call)(void *const *params); /* params: the address of each argument */
    int n_params;
    size_t param_bytes[EMULATOR_MAX_PARAMS];
    unsigned max_threads; /* of __launch_bounds__ */
    struct emulator_kernel *next;
};

/* Called by constructors, before any thread runs. */
void emulator_register(struct emulator_kernel *k);
const struct emulator_kernel *emulator_find(const char *name);

struct emulator_launch {
    const struct emulator_kernel *kernel;
    struct emulator_index grid, block;
    size_t shared_bytes; /* dynamic */
    int cooperative;     /* all blocks at the same time, EMULATOR_MAX_BLOCKS at most */
    void *const *params;
};

/* Runs it to its end. 0, or -1 when a thread has done what a GPU does not do (text says what; the
 * rest of the launch is given up). Any thread. */
int emulator_run(const struct emulator_launch *l, char *text, size_t text_bytes);

/*
 * The rest is for kernels, on their fibers.
 *
 * A warp operation: waits until every live lane of mask has come with the same mask and operation;
 * the last one calls complete over what they brought (lane[i] is NULL for a lane that has ended).
 */
typedef void emulator_complete(void *const lane[32], uint32_t mask);
void emulator_collective(uint32_t mask, emulator_complete *complete, void *mine);
/* Barrier `id` of the block for so many threads; 0: all that have not ended. */
void emulator_barrier(unsigned id, unsigned threads);
/* Lets others run: of the block, of other blocks that run too, from time to time other threads of
 * the host. In spins. */
void emulator_spin(void);
void *emulator_shared_dynamic(void);
unsigned emulator_lane(void);
/* Ends the launch with an error. */
__attribute__((noreturn, format(printf, 1, 2))) void emulator_fault(const char *format, ...);

/* Acquire and release, as the thread sanitizer sees them too: what orders threads of the host
 * through a kernel. */
uint32_t emulator_load_word(const uint32_t *p);
void emulator_store_word(uint32_t *p, uint32_t v);

/* cp.async: the copies of a thread happen when it waits for them, so that a missing wait shows. */
void emulator_copy_later(void *to, const void *from, size_t bytes); /* from NULL: zeros */
void emulator_copy_commit(void);
void emulator_copy_wait(unsigned groups_left);

#ifdef __cplusplus
}
#endif

#endif
