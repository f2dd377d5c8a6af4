/* Blocks, warps and fibers. Everything here belongs to the thread that holds `one_kernel`. */
#include "fibers.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "switch.h"

#ifdef __SANITIZE_ADDRESS__
#define STACK_BYTES ((size_t)256 << 10)
#else
#define STACK_BYTES ((size_t)96 << 10)
#endif
/* Stacks begin so far apart modulo the size of a page, lest all of a block compete for a few sets
 * of the cache. */
#define COLOUR_BYTES ((size_t)832)
#define COLOURS      ((size_t)64)
#define GUARD_BYTES  ((size_t)4096)
/* Of dynamic shared memory: where tiles of wgmma begin. */
#define SHARED_ALIGNMENT ((size_t)1024)
#define WARPS            (EMULATOR_MAX_THREADS / 32)
/* Turns in which all that is left of a block only spins: after so many the host's threads get the
 * core, and after so long the launch is given up. */
#define SPINS_PER_YIELD 64
#define SPIN_SECONDS    100

enum state {
    NEW,      /* has not run in this block */
    READY,    /* may run on: set by whoever ends its wait */
    SPINNING, /* has yielded in a spin */
    IN_WARP,  /* waits for lanes of its warp */
    AT_BARRIER,
    ENDED
};

struct late_copy {
    void *to;
    const void *from;
    size_t bytes;
    unsigned group;
};

struct fiber {
    struct stack stack;
    struct emulator_index index;
    enum state state;
    uint32_t mask; /* IN_WARP: of its operation */
    emulator_complete *complete;
    void *mine;
    unsigned barrier; /* AT_BARRIER */
    struct late_copy *copies;
    size_t n_copies, room;
    unsigned group; /* of cp.async that is being filled */
};

struct warp {
    uint32_t ready, spinning, waiting, ended; /* lanes */
};

struct barrier {
    unsigned arrived, wanted; /* wanted 0: all that have not ended */
};

/* Held while a kernel runs; guards all that follows. */
static pthread_mutex_t one_kernel = PTHREAD_MUTEX_INITIALIZER;
static struct emulator_kernel *kernels; /* complete before main */

/* A block that runs. */
struct block {
    struct emulator_index index;
    struct fiber fiber[EMULATOR_MAX_THREADS];
    struct warp warp[WARPS];
    struct barrier barrier[EMULATOR_BARRIERS];
    bool barriers_used;
    unsigned n_alive;
    void *shared; /* dynamic */
};

static struct block blocks[EMULATOR_MAX_BLOCKS]; /* the first alone, unless they run together */
static struct block *block;                      /* of the fiber that runs */
static unsigned current;                         /* its number in there */
static unsigned n_threads;                       /* of each block */
static struct stack scheduler;
static const struct emulator_launch *launch;
static void fiber_main(void);
static bool progress; /* a fiber has left for another reason than a spin */
static bool failed;
static char fault_text[512];

struct emulator_index threadIdx, blockIdx, blockDim, gridDim;

void emulator_register(struct emulator_kernel *k)
{
    k->next = kernels;
    kernels = k;
}

const struct emulator_kernel *emulator_find(const char *name)
{
    for (const struct emulator_kernel *k = kernels; k; k = k->next)
        if (strcmp(k->name, name) == 0)
            return k;
    return NULL;
}

unsigned emulator_lane(void)
{
    return current % 32;
}

void *emulator_shared_dynamic(void)
{
    return block->shared;
}

static struct emulator_index index_of(unsigned thread)
{
    return (struct emulator_index){thread % blockDim.x, thread / blockDim.x % blockDim.y,
                                   thread / blockDim.x / blockDim.y};
}

/* Makes a fiber the one that runs next: the caller switches to its stack. */
static struct stack *enter(unsigned thread)
{
    struct fiber *f = &block->fiber[thread];
    block->warp[thread / 32].ready &= ~(1u << thread % 32);
    if (f->state == NEW) {
        if (!f->stack.base) {
            uint8_t *p = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            assert(p != MAP_FAILED);
            assert(mprotect(p, GUARD_BYTES, PROT_NONE) == 0);
            f->stack.base = p + GUARD_BYTES;
            f->stack.bytes = STACK_BYTES - thread % COLOURS * COLOUR_BYTES / 64 * 64;
        }
        stack_prepare(&f->stack, fiber_main);
    }
    current = thread;
    threadIdx = f->index;
    return &f->stack;
}

/* On from the running fiber: to the next of its warp that may run, else to the scheduler. */
static void go_on(struct fiber *from, enum state why)
{
    const unsigned w = current / 32;
    const uint32_t ready = failed ? 0 : block->warp[w].ready;
    from->state = why;
    progress = progress || why != SPINNING;
    stack_switch(&from->stack, ready ? enter(w * 32 + (unsigned)__builtin_ctz(ready)) : &scheduler,
                 why == ENDED);
}

/* Until someone lets this fiber run on. */
static void leave(enum state why)
{
    struct fiber *f = &block->fiber[current];
    go_on(f, why);
    f->state = READY;
}

void emulator_fault(const char *format, ...)
{
    va_list args;
    int n = snprintf(fault_text, sizeof fault_text,
                     "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): ", launch->kernel->name,
                     blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    va_start(args, format);
    vsnprintf(fault_text + n, sizeof fault_text - (size_t)n, format, args);
    va_end(args);
    failed = true;
    go_on(&block->fiber[current], ENDED);
    abort();
}

static void let_run(unsigned thread)
{
    block->warp[thread / 32].ready |= 1u << thread % 32;
}

/* Ends the wait of these lanes of warp w if all are there for the same. */
static void complete_lanes(unsigned w, uint32_t live)
{
    const struct fiber *f = &block->fiber[w * 32], *any = &f[__builtin_ctz(live)];
    void *lane[32];
    for (unsigned i = 0; i < 32; i++) {
        lane[i] = live >> i & 1 ? f[i].mine : NULL;
        if (live >> i & 1 && (f[i].mask != any->mask || f[i].complete != any->complete))
            return;
    }
    block->warp[w].waiting &= ~live;
    if (any->complete)
        any->complete(lane, live);
    block->warp[w].ready |= live;
}

void emulator_collective(uint32_t mask, emulator_complete *complete, void *mine)
{
    const unsigned self = current, w = self / 32, bit = 1u << self % 32;
    struct fiber *f = &block->fiber[self];
    if (!(mask & bit))
        emulator_fault("a warp operation whose mask %08x does not name its own lane %u", mask,
                       self % 32);
    f->mask = mask;
    f->complete = complete;
    f->mine = mine;
    const uint32_t live = mask & ~block->warp[w].ended;
    block->warp[w].waiting |= bit;
    if ((block->warp[w].waiting & live) == live)
        complete_lanes(w, live);
    if (block->warp[w].waiting & bit)
        leave(IN_WARP);
    else
        block->warp[w].ready &= ~bit;
}

static bool release_barrier(unsigned id)
{
    struct barrier *b = &block->barrier[id];
    if (!b->arrived || b->arrived < (b->wanted ? b->wanted : block->n_alive))
        return false;
    *b = (struct barrier){0, 0};
    for (unsigned i = 0; i < n_threads; i++)
        if (block->fiber[i].state == AT_BARRIER && block->fiber[i].barrier == id) {
            block->fiber[i].state = READY;
            let_run(i);
        }
    return true;
}

void emulator_barrier(unsigned id, unsigned threads)
{
    struct barrier *b = &block->barrier[id];
    const unsigned self = current;
    if (id >= EMULATOR_BARRIERS || threads % 32 || threads > n_threads ||
        (b->arrived && b->wanted != threads))
        emulator_fault("barrier %u for %u threads, in a block of %u with %u waiting for %u", id,
                       threads, n_threads, b->arrived, b->wanted);
    block->barriers_used = true;
    b->arrived++;
    b->wanted = threads;
    block->fiber[self].barrier = id;
    if (!release_barrier(id))
        leave(AT_BARRIER);
}

void emulator_spin(void)
{
    block->warp[current / 32].spinning |= 1u << current % 32;
    leave(SPINNING);
}

void emulator_copy_later(void *to, const void *from, size_t bytes)
{
    struct fiber *f = &block->fiber[current];
    if (f->n_copies == f->room) {
        f->room = f->room ? f->room * 2 : 16;
        f->copies = realloc(f->copies, f->room * sizeof *f->copies);
        assert(f->copies);
    }
    f->copies[f->n_copies++] = (struct late_copy){to, from, bytes, f->group};
}

void emulator_copy_commit(void)
{
    block->fiber[current].group++;
}

void emulator_copy_wait(unsigned groups_left)
{
    struct fiber *f = &block->fiber[current];
    size_t kept = 0;
    for (size_t i = 0; i < f->n_copies; i++) {
        struct late_copy c = f->copies[i];
        if (f->group - c.group <= groups_left) {
            f->copies[kept++] = c;
        } else if (c.from) {
            memcpy(c.to, c.from, c.bytes);
        } else {
            memset(c.to, 0, c.bytes);
        }
    }
    f->n_copies = kept;
}

static void fiber_main(void)
{
    /* The first fiber of a launch is entered from the scheduler. */
    stack_entered(scheduler.base ? NULL : &scheduler);
    launch->kernel->call(launch->params);
    unsigned self = current, w = self / 32;
    struct fiber *f = &block->fiber[self];
    block->warp[w].ended |= 1u << self % 32;
    block->n_alive--;
    for (unsigned i = 0; i < 32 && block->warp[w].waiting; i++) {
        const uint32_t live = block->fiber[w * 32 + i].mask & ~block->warp[w].ended;
        if (block->warp[w].waiting >> i & 1 && (block->warp[w].waiting & live) == live)
            complete_lanes(w, live);
    }
    for (unsigned id = 0; id < EMULATOR_BARRIERS && block->barriers_used; id++)
        release_barrier(id);
    go_on(f, ENDED);
}

/* Says who waits for what, in a block where nobody can run. */
static void report_deadlock(void)
{
    char text[400];
    size_t at = 0;
    unsigned said = 0, waiting = 0;
    for (unsigned i = 0; i < n_threads; i++) {
        const struct fiber *f = &block->fiber[i];
        if (f->state == ENDED)
            continue;
        waiting++;
        const struct fiber *before = i ? f - 1 : NULL;
        if ((before && before->state == f->state && before->mask == f->mask && i % 32) ||
            said++ > 3)
            continue;
        const struct emulator_index t = f->index;
        if (f->state == AT_BARRIER)
            at += (size_t)snprintf(text + at, sizeof text - at,
                                   "; thread (%u, %u, %u) waits at barrier %u of the block", t.x,
                                   t.y, t.z, f->barrier);
        else
            at += (size_t)snprintf(text + at, sizeof text - at,
                                   "; thread (%u, %u, %u) waits in a warp operation of lanes %08x",
                                   t.x, t.y, t.z, f->mask);
    }
    snprintf(fault_text, sizeof fault_text,
             "kernel %s, block (%u, %u, %u): deadlock: %u threads wait, %u have ended%s",
             launch->kernel->name, blockIdx.x, blockIdx.y, blockIdx.z, waiting, n_threads - waiting,
             text);
    failed = true;
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* All that is left spins: for the host, or for something that never comes. */
static void only_spins(unsigned turns, double *since)
{
    if (turns % SPINS_PER_YIELD)
        return;
    double now = seconds_now();
    if (*since == 0)
        *since = now;
    if (now - *since < SPIN_SECONDS) {
        struct timespec pause = {0, 50000};
        if (now - *since > 0.002)
            nanosleep(&pause, NULL);
        else
            sched_yield();
        return;
    }
    snprintf(
        fault_text, sizeof fault_text,
        "kernel %s, block (%u, %u, %u) spins for %d s: for the host, for a block that has ended, "
        "or for a later one, which comes here in cooperative launches alone",
        launch->kernel->name, blockIdx.x, blockIdx.y, blockIdx.z, SPIN_SECONDS);
    failed = true;
}

static void begin_block(uint64_t at)
{
    const struct emulator_index *grid = &launch->grid;
    memset(block->barrier, 0, sizeof block->barrier);
    block->barriers_used = false;
    block->index =
        (struct emulator_index){(uint32_t)(at % grid->x), (uint32_t)(at / grid->x % grid->y),
                                (uint32_t)(at / grid->x / grid->y)};
    for (unsigned w = 0; w < (n_threads + 31) / 32; w++) {
        unsigned lanes = n_threads - w * 32 < 32 ? n_threads - w * 32 : 32;
        uint32_t there = lanes == 32 ? UINT32_MAX : (1u << lanes) - 1;
        block->warp[w] = (struct warp){.ready = there, .ended = ~there};
    }
    for (unsigned i = 0; i < n_threads; i++) {
        block->fiber[i].state = NEW;
        block->fiber[i].n_copies = 0;
        block->fiber[i].group = 0;
    }
    block->n_alive = n_threads;
    /* No block may read what another has left: NaN as floats. */
    memset(block->shared, 0xff, launch->shared_bytes);
}

/* Lets each of the block's threads run until it waits. */
static void run_turn(void)
{
    const unsigned n_warps = (n_threads + 31) / 32;
    uint32_t may_go_on = 0;
    blockIdx = block->index;
    for (unsigned w = 0; w < n_warps; w++)
        while (block->warp[w].ready && !failed)
            stack_switch(&scheduler, enter(w * 32 + (unsigned)__builtin_ctz(block->warp[w].ready)),
                         0);
    for (unsigned w = 0; w < n_warps; w++) {
        may_go_on |= block->warp[w].ready |= block->warp[w].spinning;
        block->warp[w].spinning = 0;
    }
    /* Only threads of the same block end the waits that are left. */
    if (block->n_alive && !may_go_on && !failed)
        report_deadlock();
}

/* Block `first` and those behind it, n at the same time: a turn of one, a turn of the next. */
static void run_blocks(uint64_t first, unsigned n)
{
    unsigned turns = 0;
    double since = 0;
    for (unsigned i = 0; i < n; i++) {
        block = &blocks[i];
        begin_block(first + i);
    }
    for (bool left = true; left && !failed;) {
        left = progress = false;
        for (unsigned i = 0; i < n && !failed; i++) {
            block = &blocks[i];
            if (block->n_alive)
                run_turn();
            left = left || block->n_alive;
        }
        turns = progress ? 0 : turns + 1;
        since = progress ? 0 : since;
        if (left && !progress && !failed)
            only_spins(turns, &since);
    }
}

/* Of the launch, with at least a chunk behind that nothing may touch. */
static size_t shared_room(void)
{
    return (launch->shared_bytes / SHARED_ALIGNMENT + 2) * SHARED_ALIGNMENT;
}

/* Memory that the blocks of a launch need, for n at a time. */
static void open_blocks(unsigned n)
{
    const size_t bytes = shared_room();
    for (unsigned b = 0; b < n; b++) {
        blocks[b].shared = aligned_alloc(SHARED_ALIGNMENT, bytes);
        assert(blocks[b].shared);
#ifdef __SANITIZE_ADDRESS__
        __asan_poison_memory_region((uint8_t *)blocks[b].shared + launch->shared_bytes,
                                    bytes - launch->shared_bytes);
#endif
        for (unsigned i = 0; i < n_threads; i++)
            blocks[b].fiber[i].index = index_of(i);
    }
}

static void close_blocks(unsigned n)
{
    for (unsigned b = 0; b < n; b++) {
#ifdef __SANITIZE_ADDRESS__
        __asan_unpoison_memory_region(blocks[b].shared, shared_room());
#endif
        free(blocks[b].shared);
        blocks[b].shared = NULL;
        for (unsigned i = 0; failed && i < n_threads; i++)
            if (blocks[b].fiber[i].stack.base)
                stack_abandon(&blocks[b].fiber[i].stack);
    }
}

int emulator_run(const struct emulator_launch *l, char *text, size_t text_bytes)
{
    const uint64_t n_blocks = (uint64_t)l->grid.x * l->grid.y * l->grid.z;
    const unsigned at_once = l->cooperative ? (unsigned)n_blocks : 1;
    assert(n_blocks <= EMULATOR_MAX_BLOCKS || !l->cooperative);
    pthread_mutex_lock(&one_kernel);
    launch = l;
    gridDim = l->grid;
    blockDim = l->block;
    n_threads = l->block.x * l->block.y * l->block.z;
    assert(n_threads <= EMULATOR_MAX_THREADS);
    failed = false;
#ifdef __SANITIZE_ADDRESS__
    scheduler.base = NULL;
#endif
    open_blocks(at_once);
    for (uint64_t first = 0; first < n_blocks && !failed; first += at_once)
        run_blocks(first, at_once);
    close_blocks(at_once);
    snprintf(text, text_bytes, "%s", failed ? fault_text : "");
    launch = NULL;
    int rc = failed ? -1 : 0;
    pthread_mutex_unlock(&one_kernel);
    return rc;
}
