/* What streams and graphs do: kernels, copies, events. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "driver_int.h"

uint32_t emulator_load_word(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

void emulator_store_word(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

struct work *work_new(enum work_kind kind)
{
    struct work *w = calloc(1, sizeof *w);
    if (w)
        w->kind = kind;
    return w;
}

void work_free(struct work *w)
{
    if (w && w->kind == WORK_KERNEL)
        free(w->kernel.bytes);
    if (w && w->kind == WORK_COPY)
        free(w->copy.staged);
    free(w);
}

void work_list_add(struct work_list *list, struct work *w)
{
    w->next = NULL;
    *(list->end ? list->end : &list->first) = w;
    list->end = &w->next;
    list->n++;
}

void work_list_free(struct work_list *list)
{
    while (list->first) {
        struct work *w = list->first;
        list->first = w->next;
        work_free(w);
    }
    *list = (struct work_list){0};
}

static struct work *duplicate(const struct work *w)
{
    struct work *c = work_new(w->kind);
    if (!c)
        return NULL;
    *c = *w;
    if (w->kind != WORK_KERNEL)
        return c;
    size_t bytes = 0;
    for (int i = 0; i < w->kernel.launch.kernel->n_params; i++)
        bytes += (w->kernel.launch.kernel->param_bytes[i] + 15) / 16 * 16;
    c->kernel.bytes = aligned_alloc(16, bytes + 16);
    if (!c->kernel.bytes) {
        free(c);
        return NULL;
    }
    memcpy(c->kernel.bytes, w->kernel.bytes, bytes);
    c->kernel.launch.params = c->kernel.params;
    for (int i = 0; i < w->kernel.launch.kernel->n_params; i++)
        c->kernel.params[i] = c->kernel.bytes + ((uint8_t *)w->kernel.params[i] - w->kernel.bytes);
    return c;
}

bool work_list_clone(struct work_list *out, const struct work_list *from)
{
    *out = (struct work_list){0};
    for (const struct work *w = from->first; w; w = w->next) {
        struct work *c = duplicate(w);
        if (!c) {
            work_list_free(out);
            return false;
        }
        work_list_add(out, c);
    }
    return true;
}

static void run_kernel(const struct work *w)
{
    char text[512];
    if (emulator_run(&w->kernel.launch, text, sizeof text) == 0)
        return;
    fprintf(stderr, "emulator: %s\n", text);
    atomic_store(&driver.sticky, CUDA_ERROR_LAUNCH_FAILED);
}

static void run_copy(const struct work *w)
{
    pthread_mutex_lock(&driver.lock);
    bool fault = driver_fault(&driver.fail_copy);
    pthread_mutex_unlock(&driver.lock);
    if (fault)
        atomic_store(&driver.sticky, CUDA_ERROR_LAUNCH_FAILED);
    else
        memcpy(w->copy.to, w->copy.staged ? w->copy.staged : w->copy.from, w->copy.bytes);
}

static void run_set(const struct work *w)
{
    if (w->set.each == 1)
        memset(w->set.to, (int)w->set.value, w->set.n);
    for (size_t i = 0; i < w->set.n && w->set.each == 2; i++)
        ((uint16_t *)w->set.to)[i] = (uint16_t)w->set.value;
    for (size_t i = 0; i < w->set.n && w->set.each == 4; i++)
        ((uint32_t *)w->set.to)[i] = w->set.value;
}

static void run_record(const struct work *w)
{
    struct timespec t;
    pthread_mutex_lock(&driver.lock);
    clock_gettime(CLOCK_MONOTONIC, &t);
    w->event.event->reached = w->event.number;
    w->event.event->seconds = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
    pthread_cond_broadcast(&driver.change);
    pthread_mutex_unlock(&driver.lock);
}

static void run_wait(const struct work *w)
{
    pthread_mutex_lock(&driver.lock);
    while (w->event.event->reached < w->event.number)
        pthread_cond_wait(&driver.change, &driver.lock);
    pthread_mutex_unlock(&driver.lock);
}

static bool word_is(const struct work *w)
{
    const uint32_t v = __atomic_load_n(w->word.p, __ATOMIC_ACQUIRE);
    switch (w->word.how & 3) {
    case CU_STREAM_WAIT_VALUE_GEQ:
        return (int32_t)(v - w->word.value) >= 0;
    case CU_STREAM_WAIT_VALUE_EQ:
        return v == w->word.value;
    case CU_STREAM_WAIT_VALUE_AND:
        return (v & w->word.value) != 0;
    default:
        return ~(v | w->word.value) != 0;
    }
}

static void run_wait_word(const struct work *w)
{
    const struct timespec pause = {0, 20000};
    while (!word_is(w))
        nanosleep(&pause, NULL);
}

static void run_graph(struct CUgraphExec_st *g)
{
    for (const struct work *w = g->nodes.first; w; w = w->next)
        work_run(w);
    pthread_mutex_lock(&driver.lock);
    bool last = --g->in_flight == 0 && g->destroyed;
    pthread_mutex_unlock(&driver.lock);
    if (last) {
        work_list_free(&g->nodes);
        free(g);
    }
}

void work_run(const struct work *w)
{
    const bool dead = atomic_load(&driver.sticky) != CUDA_SUCCESS;
    switch (w->kind) {
    case WORK_KERNEL:
        if (!dead)
            run_kernel(w);
        break;
    case WORK_COPY:
        if (!dead)
            run_copy(w);
        break;
    case WORK_SET:
        if (!dead)
            run_set(w);
        break;
    case WORK_RECORD:
        run_record(w);
        break;
    case WORK_WAIT:
        run_wait(w);
        break;
    case WORK_HOST:
        w->host.fn(w->host.arg);
        break;
    case WORK_WRITE_WORD:
        if (!dead)
            __atomic_store_n(w->word.p, w->word.value, __ATOMIC_RELEASE);
        break;
    case WORK_WAIT_WORD:
        if (!dead)
            run_wait_word(w);
        break;
    case WORK_GRAPH:
        run_graph(w->graph);
        break;
    }
}
