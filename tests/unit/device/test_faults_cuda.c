/* Faults of a CUDA device, as the emulator makes them to order: each is said, sticks, and goes with
 * the device. */
#include "check.h"

#include "gpu.h"

#define N 300

typedef void order(unsigned n);

static order *order_of(const char *name)
{
    struct dev_choice choice;
    order *fn;
    cuda_or_skip(&choice); /* opens the object */
    void *symbol = emulator_symbol_or_skip(name);
    memcpy(&fn, &symbol, sizeof fn);
    return fn;
}

static int add_up(struct dev *dev, float *x)
{
    struct kern_silu_mul a = {x, x, x, N};
    int rc = dev->kern->silu_mul(dev, &a);
    return rc < 0 ? rc : dev->kern->sync(dev);
}

static int send(struct dev *dev, float *x)
{
    static const float ones[N] = {1};
    struct dev_event event = {0};
    int rc = dev->ops->copy_in(dev, x, ones, sizeof ones, &event);
    return rc < 0 ? rc : dev->ops->event_wait(dev, &event);
}

/* Nothing works any more but closing; the next device is a whole one. */
static void expect_dead(struct dev *dev, float *x)
{
    float back[N];
    assert_int_equal(add_up(dev, x), MOED_EDEVICE);
    assert_int_equal(send(dev, x), MOED_EDEVICE);
    assert_int_equal(dev->kern->sync(dev), MOED_EDEVICE);
    assert_int_equal(dev->ops->copy_out(dev, back, x, sizeof back), MOED_EDEVICE);
    assert_null(dev->ops->alloc(dev, 64));
    dev->ops->free(dev, x, sizeof back);
    dev_close(&dev);
    dev = cuda_open_or_skip();
    x = dev->ops->alloc(dev, sizeof back);
    assert_non_null(x);
    assert_int_equal(send(dev, x), 0);
    assert_int_equal(add_up(dev, x), 0);
    dev->ops->free(dev, x, sizeof back);
    dev_close(&dev);
}

static void failed_launch_cuda(void **state)
{
    order *fail_launch = order_of("emulator_fail_launch");
    struct dev *dev = cuda_open_or_skip();
    float *x = dev->ops->alloc(dev, N * sizeof *x);
    assert_int_equal(add_up(dev, x), 0);
    fail_launch(2);
    assert_int_equal(add_up(dev, x), 0);
    assert_int_equal(add_up(dev, x), MOED_EDEVICE);
    expect_dead(dev, x);
}

static void failed_copy_cuda(void **state)
{
    order *fail_copy = order_of("emulator_fail_copy");
    struct dev *dev = cuda_open_or_skip();
    float *x = dev->ops->alloc(dev, N * sizeof *x);
    assert_int_equal(send(dev, x), 0);
    fail_copy(1);
    assert_int_equal(send(dev, x), MOED_EDEVICE);
    expect_dead(dev, x);
}

/* Refused memory is no fault of the device. */
static void refused_memory_cuda(void **state)
{
    order *fail_alloc = order_of("emulator_fail_alloc");
    struct dev *dev = cuda_open_or_skip();
    fail_alloc(1);
    assert_null(dev->ops->alloc(dev, 64));
    fail_alloc(1);
    assert_null(dev->ops->alloc_shared(dev, 64));
    float *x = dev->ops->alloc(dev, N * sizeof *x);
    assert_non_null(x);
    assert_int_equal(send(dev, x), 0);
    assert_int_equal(add_up(dev, x), 0);
    dev->ops->free(dev, x, N * sizeof *x);
    dev_close(&dev);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(failed_launch_cuda),
    cmocka_unit_test(failed_copy_cuda),
    cmocka_unit_test(refused_memory_cuda),
};
CHECK_MAIN(tests)
