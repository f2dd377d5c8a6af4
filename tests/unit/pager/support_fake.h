/*
 * A device without compute whose copies do what a script says: late, failing, out of order, refused
 * for want of room, or held until the test lets them go. And records filled with their key.
 */
#ifndef MOED_TESTS_SUPPORT_FAKE_H
#define MOED_TESTS_SUPPORT_FAKE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "device/device.h"
#include "pager/pager.h"
#include "record.h"

#define FAKE_QUEUE 8

struct fake_copy {
    void *dst;
    const void *src;
    size_t bytes;
    struct dev_event *event; /* NULL: done */
};

struct fake_dev {
    struct dev dev;
    uint32_t seed;        /* of the script below; the pager thread's */
    unsigned fail_in_256; /* chances of a copy */
    unsigned refuse_in_256;
    unsigned late_us; /* one in 16 is up to so much later */
    struct fake_copy queue[FAKE_QUEUE];
    int queued;
    int in_flight_most;
    bool no_memory;                 /* alloc fails */
    _Atomic uint64_t copies, bytes; /* begun */
    _Atomic uint64_t ended;
    _Atomic uint64_t marks, waits; /* of ops: made, and waited for by copies */
    pthread_mutex_t lock;
    pthread_cond_t let_go;
    int64_t permits; /* copies that may still end, under lock; negative: any number */
};

void fake_open(struct fake_dev *f);
void fake_close(struct fake_dev *f);
/* Lets n more copies end; -1: all from now on. */
void fake_permit(struct fake_dev *f, int64_t n);
/* Holds all copies from now on. */
void fake_hold(struct fake_dev *f);

struct fake_records {
    struct record_class cls;
    struct expert_map map;
    uint8_t *arena;
};
/* Layer `dense_layer` (-1: none) has no experts. */
void fake_records_make(struct fake_records *r, int n_layers, int n_experts, size_t record_bytes,
                       int dense_layer);
void fake_records_free(struct fake_records *r);
/* Whether record holds the bytes of this expert, all of them. */
bool fake_records_holds(const struct fake_records *r, const void *record, int layer, int expert);

/* Waits for a minute or longer for a condition on the fake's counters, without burning a core. */
#define FAKE_WAIT(condition)                                                                       \
    do {                                                                                           \
        for (int tries_ = 0; !(condition); tries_++) {                                             \
            assert_true(tries_ < 600000);                                                          \
            usleep(100);                                                                           \
        }                                                                                          \
    } while (0)

#endif
