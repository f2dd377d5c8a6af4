#include "check.h"

#include <poll.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/inbox.h"
#include "base/mem.h"

#define THREADS    4
#define PER_THREAD 20000

struct item {
    struct inbox_node node;
    int thread, number;
};

struct pusher {
    struct inbox *q;
    int thread;
};

static int readable(struct inbox *q)
{
    struct pollfd p = {.fd = q->fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void the_descriptor_tells_whether_there_is_something(void **state)
{
    struct moed_error err;
    struct inbox q;
    assert_ok(inbox_init(&q, &err), &err);
    assert_false(readable(&q));
    struct item a = {.number = 1}, b = {.number = 2}, c = {.number = 3};
    inbox_push(&q, &a.node);
    inbox_push(&q, &b.node);
    assert_true(readable(&q));
    assert_ptr_equal(inbox_next(&q), &a.node);
    assert_true(readable(&q));
    inbox_push(&q, &c.node);
    assert_ptr_equal(inbox_next(&q), &b.node);
    assert_ptr_equal(inbox_next(&q), &c.node);
    assert_null(inbox_next(&q));
    assert_false(readable(&q));
    inbox_fini(&q);
}

static void waiting_ends_by_time_or_by_a_push(void **state)
{
    struct moed_error err;
    struct inbox q;
    assert_ok(inbox_init(&q, &err), &err);
    int64_t start = clock_us();
    inbox_wait(&q, 20000);
    assert_true(clock_us() - start >= 20000);
    struct item a = {0};
    inbox_push(&q, &a.node);
    inbox_wait(&q, -1);
    assert_ptr_equal(inbox_next(&q), &a.node);
    inbox_fini(&q);
}

static void *push_many(void *arg)
{
    struct pusher *p = arg;
    for (int i = 0; i < PER_THREAD; i++) {
        struct item *it = mem_new(1, sizeof *it);
        it->thread = p->thread;
        it->number = i;
        inbox_push(p->q, &it->node);
    }
    return NULL;
}

static void nothing_is_lost_and_each_thread_keeps_its_order(void **state)
{
    struct moed_error err;
    struct inbox q;
    assert_ok(inbox_init(&q, &err), &err);
    pthread_t threads[THREADS];
    struct pusher pushers[THREADS];
    for (int t = 0; t < THREADS; t++) {
        pushers[t] = (struct pusher){&q, t};
        assert_int_equal(pthread_create(&threads[t], NULL, push_many, &pushers[t]), 0);
    }
    int next[THREADS] = {0}, total = 0;
    while (total < THREADS * PER_THREAD) {
        struct item *it = (struct item *)inbox_next(&q);
        if (!it) {
            inbox_wait(&q, -1);
            continue;
        }
        assert_int_equal(it->number, next[it->thread]);
        next[it->thread]++;
        total++;
        free(it);
    }
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    assert_null(inbox_next(&q));
    inbox_fini(&q);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_descriptor_tells_whether_there_is_something),
    cmocka_unit_test(waiting_ends_by_time_or_by_a_push),
    cmocka_unit_test(nothing_is_lost_and_each_thread_keeps_its_order),
};
CHECK_MAIN(tests)
