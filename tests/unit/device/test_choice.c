/* Which device a name means, with and without a GPU in the machine. */
#include "check.h"

#include "device/device.h"

static void names(void **state)
{
    static const char *const bad[] = {"gpu",     "cuda:", "cuda:x",    "cuda:-1",
                                      "cuda:1x", "CPU",   "cuda:1024", "cuda0"};
    struct dev_choice c;
    struct moed_error err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(dev_choose(&c, bad[i], &err), MOED_EINVAL);
        assert_string_equal(err.param, "device");
    }
    assert_ok(dev_choose(&c, "cpu", &err), &err);
    assert_false(c.cuda);
}

/* Without an answer from CUDA, auto is the CPU and says why; asking for CUDA is refused alike. */
static void auto_always_finds_one(void **state)
{
    static const char *const unsaid[] = {"auto", "", NULL};
    struct dev_choice c, asked;
    struct moed_error err = {0};
    int rc = dev_choose(&asked, "cuda", &err);
    for (size_t i = 0; i < 3; i++) {
        struct moed_error none;
        assert_ok(dev_choose(&c, unsaid[i], &none), &none);
        assert_int_equal(c.cuda, rc == 0);
        assert_true(*c.why != 0);
        assert_true(c.cuda || strncmp(c.why, "cpu, since", 10) == 0);
    }
    if (rc < 0) {
        assert_int_equal(rc, MOED_EUNSUPPORTED);
        assert_string_equal(err.param, "device");
    }
    assert_int_equal(dev_choose(&c, "cuda:1000", &err), MOED_EUNSUPPORTED);
}

static void the_chosen_one_opens(void **state)
{
    struct dev_choice c;
    struct dev *dev;
    struct moed_error err;
    struct dev_cpu_config cpu = {.threads = 1};
    assert_ok(dev_choose(&c, "auto", &err), &err);
    assert_ok(dev_open(&dev, &c, &cpu, &err), &err);
    assert_string_equal(dev->ops->name, c.cuda ? "cuda" : "cpu");
    assert_int_equal(dev->ops->uses_host_memory, !c.cuda);
    dev_close(&dev);
    assert_null(dev);
}

static void a_choice_may_be_kept_for_the_open_that_follows(void **state)
{
    struct dev_choice c;
    struct dev *dev;
    struct moed_error err;
    struct dev_cpu_config cpu = {.threads = 1};
    assert_ok(dev_choose_to_open(&c, "auto", &err), &err);
    assert_int_equal(c.kept, c.cuda);
    assert_ok(dev_open(&dev, &c, &cpu, &err), &err);
    dev_choice_end(&c);
    assert_false(c.kept);
    dev_choice_end(&c);
    dev_close(&dev);
    assert_ok(dev_choose_to_open(&c, "auto", &err), &err);
    dev_choice_end(&c);
    assert_int_equal(dev_choose_to_open(&c, "none", &err), MOED_EINVAL);
    assert_false(c.kept);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(names),
    cmocka_unit_test(auto_always_finds_one),
    cmocka_unit_test(the_chosen_one_opens),
    cmocka_unit_test(a_choice_may_be_kept_for_the_open_that_follows),
};
CHECK_MAIN(tests)
