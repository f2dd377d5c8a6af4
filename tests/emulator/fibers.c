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
#define WARPS        (EMULATOR_MAX_THREADS / 32)
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

static struct fiber fibers[EMULATOR_MAX_THREADS];
static struct warp warps[WARPS];
static struct barrier barriers[EMULATOR_BARRIERS];
static struct stack scheduler;
static const struct emulator_launch *launch;
static void fiber_main(void);
static unsigned n_threads, n_alive, current;
static bool barriers_used; /* in this block */
static bool progress;      /* a fiber has left for another reason than a spin */
static void *shared;
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
    return shared;
}

static struct emulator_index index_of(unsigned thread)
{
    return (struct emulator_index){thread % blockDim.x, thread / blockDim.x % blockDim.y,
                                   thread / blockDim.x / blockDim.y};
}

/* Makes a fiber the one that runs next: the caller switches to its stack. */
static struct stack *enter(unsigned thread)
{
    struct fiber *f = &fibers[thread];
    warps[thread / 32].ready &= ~(1u << thread % 32);
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
    const uint32_t ready = failed ? 0 : warps[w].ready;
    from->state = why;
    progress = progress || why != SPINNING;
    stack_switch(&from->stack, ready ? enter(w * 32 + (unsigned)__builtin_ctz(ready)) : &scheduler,
                 why == ENDED);
}

/* Until someone lets this fiber run on. */
static void leave(enum state why)
{
    struct fiber *f = &fibers[current];
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
    go_on(&fibers[current], ENDED);
    abort();
}

static void let_run(unsigned thread)
{
    warps[thread / 32].ready |= 1u << thread % 32;
}

/* Ends the wait of these lanes of warp w if all are there for the same. */
static void complete_lanes(unsigned w, uint32_t live)
{
    const struct fiber *f = &fibers[w * 32], *any = &f[__builtin_ctz(live)];
    void *lane[32];
    for (unsigned i = 0; i < 32; i++) {
        lane[i] = live >> i & 1 ? f[i].mine : NULL;
        if (live >> i & 1 && (f[i].mask != any->mask || f[i].complete != any->complete))
            return;
    }
    warps[w].waiting &= ~live;
    if (any->complete)
        any->complete(lane, live);
    warps[w].ready |= live;
}

void emulator_collective(uint32_t mask, emulator_complete *complete, void *mine)
{
    const unsigned self = current, w = self / 32, bit = 1u << self % 32;
    struct fiber *f = &fibers[self];
    if (!(mask & bit))
        emulator_fault("a warp operation whose mask %08x does not name its own lane %u", mask,
                       self % 32);
    f->mask = mask;
    f->complete = complete;
    f->mine = mine;
    const uint32_t live = mask & ~warps[w].ended;
    warps[w].waiting |= bit;
    if ((warps[w].waiting & live) == live)
        complete_lanes(w, live);
    if (warps[w].waiting & bit)
        leave(IN_WARP);
    else
        warps[w].ready &= ~bit;
}

static bool release_barrier(unsigned id)
{
    struct barrier *b = &barriers[id];
    if (!b->arrived || b->arrived < (b->wanted ? b->wanted : n_alive))
        return false;
    *b = (struct barrier){0, 0};
    for (unsigned i = 0; i < n_threads; i++)
        if (fibers[i].state == AT_BARRIER && fibers[i].barrier == id) {
            fibers[i].state = READY;
            let_run(i);
        }
    return true;
}

void emulator_barrier(unsigned id, unsigned threads)
{
    struct barrier *b = &barriers[id];
    const unsigned self = current;
    if (id >= EMULATOR_BARRIERS || threads % 32 || threads > n_threads ||
        (b->arrived && b->wanted != threads))
        emulator_fault("barrier %u for %u threads, in a block of %u with %u waiting for %u", id,
                       threads, n_threads, b->arrived, b->wanted);
    barriers_used = true;
    b->arrived++;
    b->wanted = threads;
    fibers[self].barrier = id;
    if (!release_barrier(id))
        leave(AT_BARRIER);
}

void emulator_spin(void)
{
    warps[current / 32].spinning |= 1u << current % 32;
    leave(SPINNING);
}

void emulator_copy_later(void *to, const void *from, size_t bytes)
{
    struct fiber *f = &fibers[current];
    if (f->n_copies == f->room) {
        f->room = f->room ? f->room * 2 : 16;
        f->copies = realloc(f->copies, f->room * sizeof *f->copies);
        assert(f->copies);
    }
    f->copies[f->n_copies++] = (struct late_copy){to, from, bytes, f->group};
}

void emulator_copy_commit(void)
{
    fibers[current].group++;
}

void emulator_copy_wait(unsigned groups_left)
{
    struct fiber *f = &fibers[current];
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
    struct fiber *f = &fibers[self];
    warps[w].ended |= 1u << self % 32;
    n_alive--;
    for (unsigned i = 0; i < 32 && warps[w].waiting; i++) {
        const uint32_t live = fibers[w * 32 + i].mask & ~warps[w].ended;
        if (warps[w].waiting >> i & 1 && (warps[w].waiting & live) == live)
            complete_lanes(w, live);
    }
    for (unsigned id = 0; id < EMULATOR_BARRIERS && barriers_used; id++)
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
        const struct fiber *f = &fibers[i];
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
    snprintf(fault_text, sizeof fault_text,
             "kernel %s, block (%u, %u, %u) spins for %d s: for the host, or for a later block, "
             "which never comes here",
             launch->kernel->name, blockIdx.x, blockIdx.y, blockIdx.z, SPIN_SECONDS);
    failed = true;
}

static void run_block(void)
{
    const unsigned n_warps = (n_threads + 31) / 32;
    unsigned turns = 0;
    double since = 0;
    memset(barriers, 0, sizeof barriers);
    barriers_used = false;
    for (unsigned w = 0; w < n_warps; w++) {
        unsigned lanes = n_threads - w * 32 < 32 ? n_threads - w * 32 : 32;
        uint32_t there = lanes == 32 ? UINT32_MAX : (1u << lanes) - 1;
        warps[w] = (struct warp){.ready = there, .ended = ~there};
    }
    for (unsigned i = 0; i < n_threads; i++) {
        fibers[i].state = NEW;
        fibers[i].n_copies = 0;
        fibers[i].group = 0;
    }
    n_alive = n_threads;
    while (n_alive && !failed) {
        bool spins = false;
        progress = false;
        for (unsigned w = 0; w < n_warps; w++)
            while (warps[w].ready && !failed)
                stack_switch(&scheduler, enter(w * 32 + (unsigned)__builtin_ctz(warps[w].ready)),
                             0);
        for (unsigned w = 0; w < n_warps; w++) {
            spins = spins || warps[w].spinning;
            warps[w].ready |= warps[w].spinning;
            warps[w].spinning = 0;
        }
        turns = progress ? 0 : turns + 1;
        since = progress ? 0 : since;
        if (!progress && spins && !failed)
            only_spins(turns, &since);
        else if (!progress && !failed)
            report_deadlock();
    }
}

int emulator_run(const struct emulator_launch *l, char *text, size_t text_bytes)
{
    pthread_mutex_lock(&one_kernel);
    launch = l;
    gridDim = l->grid;
    blockDim = l->block;
    n_threads = l->block.x * l->block.y * l->block.z;
    failed = false;
    shared = aligned_alloc(128, (l->shared_bytes + 255) / 128 * 128);
    assert(shared && n_threads <= EMULATOR_MAX_THREADS);
    for (unsigned i = 0; i < n_threads; i++)
        fibers[i].index = index_of(i);
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region((uint8_t *)shared + l->shared_bytes,
                                (l->shared_bytes + 255) / 128 * 128 - l->shared_bytes);
    scheduler.base = NULL;
#endif
    for (uint32_t z = 0; z < l->grid.z && !failed; z++)
        for (uint32_t y = 0; y < l->grid.y && !failed; y++)
            for (uint32_t x = 0; x < l->grid.x && !failed; x++) {
                blockIdx = (struct emulator_index){x, y, z};
                /* No block may read what another has left: NaN as floats. */
                memset(shared, 0xff, l->shared_bytes);
                run_block();
            }
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(shared, (l->shared_bytes + 255) / 128 * 128);
#endif
    free(shared);
    for (unsigned i = 0; failed && i < n_threads; i++)
        if (fibers[i].stack.base)
            stack_abandon(&fibers[i].stack);
    snprintf(text, text_bytes, "%s", failed ? fault_text : "");
    launch = NULL;
    int rc = failed ? -1 : 0;
    pthread_mutex_unlock(&one_kernel);
    return rc;
}
