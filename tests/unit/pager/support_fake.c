#include "support_fake.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint32_t draw(struct fake_dev *f)
{
    f->seed ^= f->seed << 13;
    f->seed ^= f->seed >> 17;
    f->seed ^= f->seed << 5;
    return f->seed >> 8;
}

static struct fake_dev *fake_of(struct dev *dev)
{
    return (struct fake_dev *)dev;
}

static void *fake_alloc(struct dev *dev, size_t bytes)
{
    void *p = fake_of(dev)->no_memory ? NULL : aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (p)
        memset(p, 0, bytes);
    return p;
}

static void fake_free(struct dev *dev, void *p, size_t bytes)
{
    free(p);
}

static void end_copy(struct fake_dev *f, struct fake_copy *c)
{
    bool fail = draw(f) % 256 < f->fail_in_256;
    /* A failed copy leaves rubbish. */
    if (fail)
        memset(c->dst, 0xEE, c->bytes);
    else
        memcpy(c->dst, c->src, c->bytes);
    atomic_store(&c->event->state, fail ? 3 : 2);
    c->event = NULL;
    f->queued--;
    atomic_fetch_add(&f->ended, 1);
}

static int fake_copy_in(struct dev *dev, void *dst, const void *src, size_t bytes,
                        struct dev_event *ev)
{
    struct fake_dev *f = fake_of(dev);
    if (draw(f) % 256 < f->refuse_in_256)
        return MOED_EBUSY;
    for (int i = 0; i < FAKE_QUEUE; i++)
        if (!f->queue[i].event) {
            f->queue[i] = (struct fake_copy){dst, src, bytes, ev};
            atomic_store(&ev->state, 1);
            f->queued++;
            if (f->queued > f->in_flight_most)
                f->in_flight_most = f->queued;
            atomic_fetch_add(&f->copies, 1);
            atomic_fetch_add(&f->bytes, bytes);
            return 0;
        }
    return MOED_EBUSY;
}

static int fake_event_wait(struct dev *dev, struct dev_event *ev)
{
    struct fake_dev *f = fake_of(dev);
    while (f->queued > 0 && atomic_load(&ev->state) == 1) {
        pthread_mutex_lock(&f->lock);
        while (f->permits == 0)
            pthread_cond_wait(&f->let_go, &f->lock);
        f->permits -= f->permits > 0;
        pthread_mutex_unlock(&f->lock);
        if (f->late_us && draw(f) % 16 == 0)
            usleep(draw(f) % f->late_us);
        /* Any of the queue ends next. */
        int i = (int)(draw(f) % FAKE_QUEUE);
        while (!f->queue[i].event)
            i = (i + 1) % FAKE_QUEUE;
        end_copy(f, &f->queue[i]);
    }
    return atomic_load(&ev->state) < 3 ? 0 : MOED_EDEVICE;
}

static int fake_event_mark(struct dev *dev, struct dev_event *ev)
{
    atomic_store(&ev->state, 1);
    atomic_fetch_add(&fake_of(dev)->marks, 1);
    return 0;
}

/* Only what is marked may be waited for, and once. */
static int fake_copies_wait(struct dev *dev, struct dev_event *ev)
{
    int state = atomic_exchange(&ev->state, 0);
    assert(state == 1);
    atomic_fetch_add(&fake_of(dev)->waits, 1);
    return 0;
}

static const struct dev_ops fake_ops = {
    .name = "fake",
    .alloc = fake_alloc,
    .free = fake_free,
    .copy_in = fake_copy_in,
    .event_wait = fake_event_wait,
    .event_mark = fake_event_mark,
    .copies_wait = fake_copies_wait,
};

void fake_open(struct fake_dev *f)
{
    memset(f, 0, sizeof *f);
    f->dev.ops = &fake_ops;
    f->seed = 2463534242u;
    f->permits = -1;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->let_go, NULL);
}

void fake_close(struct fake_dev *f)
{
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->let_go);
}

void fake_permit(struct fake_dev *f, int64_t n)
{
    pthread_mutex_lock(&f->lock);
    f->permits = n < 0 ? -1 : f->permits + n;
    pthread_cond_broadcast(&f->let_go);
    pthread_mutex_unlock(&f->lock);
}

void fake_hold(struct fake_dev *f)
{
    pthread_mutex_lock(&f->lock);
    f->permits = 0;
    pthread_mutex_unlock(&f->lock);
}

static uint64_t word_of(int32_t key, size_t i)
{
    return ((uint64_t)key << 32 | i) * 0x9E3779B97F4A7C15u;
}

void fake_records_make(struct fake_records *r, int n_layers, int n_experts, size_t record_bytes,
                       int dense_layer)
{
    int32_t n = (int32_t)(n_layers * n_experts);
    memset(r, 0, sizeof *r);
    r->cls.bytes = record_bytes;
    r->arena = aligned_alloc(4096, (size_t)n * record_bytes);
    assert(r->arena);
    r->map = (struct expert_map){.n_layers = n_layers, .n_experts = n_experts, .cls = &r->cls};
    r->map.host_of = calloc((size_t)n, sizeof r->map.host_of[0]);
    for (int32_t k = 0; k < n; k++) {
        uint64_t *words = (uint64_t *)(void *)(r->arena + (size_t)k * record_bytes);
        for (size_t i = 0; i < record_bytes / 8; i++)
            words[i] = word_of(k, i);
        if (k / n_experts != dense_layer)
            r->map.host_of[k] = words;
    }
}

void fake_records_free(struct fake_records *r)
{
    free(r->map.host_of);
    free(r->arena);
}

bool fake_records_holds(const struct fake_records *r, const void *record, int layer, int expert)
{
    const uint64_t *words = record;
    for (size_t i = 0; i < r->cls.bytes / 8; i++)
        if (words[i] != word_of((int32_t)(layer * r->map.n_experts + expert), i))
            return false;
    return true;
}
