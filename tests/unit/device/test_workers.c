#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

#include "device/workers.h"

struct tally {
    _Atomic uint32_t seen[64]; /* how often each part ran */
    uint32_t plain[64];        /* written without atomics: each part has one owner at a time */
    int parts;
};

static void count_part(void *arg, int part, int parts, int worker)
{
    struct tally *t = arg;
    if (parts == t->parts) /* no assertion here: another thread could not end the test */
        atomic_fetch_add(&t->seen[part], 1);
    t->plain[part]++;
}

static void run_many(int threads, int spin_us, int jobs)
{
    struct moed_error err;
    struct workers *w;
    static struct tally t;
    memset(&t, 0, sizeof t);
    uint32_t want[64] = {0};
    assert_ok(workers_open(&w, threads, spin_us, &err), &err);
    for (int job = 0; job < jobs; job++) {
        t.parts = 1 + job * 7 % 64;
        workers_run(w, count_part, &t, t.parts);
        for (int i = 0; i < t.parts; i++)
            want[i]++;
        for (int i = 0; i < 64; i++) {
            assert_int_equal(t.seen[i], want[i]);
            assert_int_equal(t.plain[i], want[i]);
        }
    }
    workers_close(&w);
    assert_null(w);
}

static void each_part_runs_once_and_ends_before_run_returns(void **state)
{
    run_many(1, 10, 1000);
    run_many(2, 30, 4000);
    run_many(5, 10, 2000);
}

static void parked_workers_wake_up(void **state)
{
    run_many(4, 0, 1500);
}

static void opens_and_closes_without_a_job(void **state)
{
    struct moed_error err;
    struct workers *w;
    for (int i = 0; i < 20; i++) {
        assert_ok(workers_open(&w, 3, 5, &err), &err);
        workers_close(&w);
    }
}

/* Two pools, each driven by its own thread. */
static void *drive(void *arg)
{
    struct moed_error err;
    struct workers *w;
    struct tally *t = arg;
    if (workers_open(&w, 3, 10, &err) < 0)
        return NULL;
    t->parts = 8;
    for (int i = 0; i < 2000; i++)
        workers_run(w, count_part, t, 8);
    workers_close(&w);
    return t;
}

static void two_pools_do_not_mix(void **state)
{
    static struct tally tally[2];
    pthread_t thread[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, drive, &tally[i]), 0);
    for (int i = 0; i < 2; i++) {
        void *result;
        pthread_join(thread[i], &result);
        assert_non_null(result);
        for (int part = 0; part < 8; part++)
            assert_int_equal(tally[i].seen[part], 2000);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(each_part_runs_once_and_ends_before_run_returns),
    cmocka_unit_test(parked_workers_wake_up),
    cmocka_unit_test(opens_and_closes_without_a_job),
    cmocka_unit_test(two_pools_do_not_mix),
};
CHECK_MAIN(tests)
