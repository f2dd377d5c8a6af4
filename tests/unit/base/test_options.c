#include "check.h"

#include "base/options.h"

enum { SERVE = 1, BENCH = 2 };

static const struct option_row rows[] = {
    {"port", 0, OPTION_INT, "N", "8000", 0, 65535, SERVE, NULL,
     "Port to listen on; 0 picks a free one."},
    {"cache", 0, OPTION_BYTES, "SIZE", NULL, 0, 0, SERVE | BENCH, "MOED_TEST_CACHE", "Bytes."},
    {"policy", 0, OPTION_CHOICE, "lru|lfu", "lru", 0, 0, SERVE, NULL, "Policy."},
    {"prompt", 'p', OPTION_STRING, "TEXT", NULL, 0, 0, BENCH, NULL, "Prompt."},
    {"name", 0, OPTION_LIST, "NAME", NULL, 0, 0, SERVE, NULL, "Names."},
    {"slots", 0, OPTION_SIZE, "SIZE", NULL, 0, 0, SERVE, NULL, "Slots."},
    {"slots", 0, OPTION_STRING, "LIST", "0,1", 0, 0, BENCH, NULL, "Several."},
    {"fast", 0, OPTION_FLAG, NULL, NULL, 0, 0, SERVE, NULL, "Fast."},
};
#define N (sizeof rows / sizeof rows[0])

static int parse(struct options **o, unsigned command, struct moed_error *err, int argc, ...)
{
    char *argv[16];
    va_list args;
    va_start(args, argc);
    for (int i = 0; i < argc; i++)
        argv[i] = va_arg(args, char *);
    va_end(args);
    return options_parse(o, rows, N, command, argc, argv, err);
}

static void reads_every_kind(void **state)
{
    struct options *o;
    struct moed_error err;
    const char *const *list;
    assert_ok(parse(&o, SERVE, &err, 8, "model", "--port=9", "--cache", "1.5MiB", "--name", "a",
                    "--name=b", "--fast"),
              &err);
    assert_int_equal(options_int(o, "port"), 9);
    assert_int_equal(options_bytes(o, "cache"), 1572864);
    assert_true(options_flag(o, "fast"));
    assert_string_equal(options_string(o, "policy"), "lru");
    assert_int_equal(options_list(o, "name", &list), 2);
    assert_string_equal(list[1], "b");
    assert_int_equal(options_positional(o, &list), 1);
    assert_string_equal(list[0], "model");
    options_free(&o);
}

static void environment_comes_before_the_default(void **state)
{
    struct options *o;
    struct moed_error err;
    setenv("MOED_TEST_CACHE", "2KiB", 1);
    assert_ok(parse(&o, BENCH, &err, 0), &err);
    assert_int_equal(options_bytes(o, "cache"), 2048);
    options_free(&o);
    setenv("MOED_TEST_CACHE", "many", 1);
    assert_int_equal(parse(&o, BENCH, &err, 0), MOED_EINVAL);
    assert_non_null(strstr(err.text, "MOED_TEST_CACHE"));
    unsetenv("MOED_TEST_CACHE");
}

static void errors_name_the_option(void **state)
{
    struct options *o;
    struct moed_error err;
    assert_int_equal(parse(&o, SERVE, &err, 1, "--port=70000"), MOED_EINVAL);
    assert_string_equal(err.param, "port");
    assert_null(o);
    assert_int_equal(parse(&o, SERVE, &err, 2, "--policy", "fifo"), MOED_EINVAL);
    assert_string_equal(err.text, "--policy is one of lru|lfu, not 'fifo'");
    assert_int_equal(parse(&o, SERVE, &err, 1, "--port"), MOED_EINVAL);
    assert_int_equal(parse(&o, SERVE, &err, 1, "--nope"), MOED_EINVAL);
    assert_string_equal(err.param, "--nope");
    assert_int_equal(parse(&o, SERVE, &err, 2, "-p", "x"), MOED_EINVAL);
    assert_non_null(strstr(err.text, "no meaning for this command"));
}

static void sizes_are_exact_or_refused(void **state)
{
    uint64_t n;
    assert_int_equal(options_parse_bytes("0", &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(options_parse_bytes("3GiB", &n), 0);
    assert_int_equal(n, 3ull << 30);
    assert_true(options_parse_bytes("-1", &n) < 0);
    assert_true(options_parse_bytes("1 GiB", &n) < 0);
    assert_true(options_parse_bytes("99999999999GiB", &n) < 0);
}

static void a_size_may_be_a_share(void **state)
{
    struct options *o;
    struct moed_error err;
    assert_ok(parse(&o, SERVE, &err, 1, "--slots=12.5%"), &err);
    assert_true(options_share(o, "slots") == 0.125);
    options_free(&o);
    assert_ok(parse(&o, SERVE, &err, 1, "--slots=3KiB"), &err);
    assert_true(options_share(o, "slots") < 0);
    assert_int_equal(options_bytes(o, "slots"), 3072);
    options_free(&o);
    static const char *const wrong[] = {"101%", "-1%", "%", "5%%", "5 %", "nan%", "five"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(parse(&o, SERVE, &err, 2, "--slots", wrong[i]), MOED_EINVAL);
        assert_string_equal(err.param, "slots");
    }
}

static void a_name_may_mean_another_row_for_another_command(void **state)
{
    struct options *o;
    struct moed_error err;
    assert_ok(parse(&o, BENCH, &err, 1, "--slots=0,25%,1GiB"), &err);
    assert_string_equal(options_string(o, "slots"), "0,25%,1GiB");
    options_free(&o);
    assert_ok(parse(&o, BENCH, &err, 0), &err);
    assert_string_equal(options_string(o, "slots"), "0,1");
    options_free(&o);
    assert_int_equal(parse(&o, SERVE, &err, 1, "--slots=0,25%"), MOED_EINVAL);
}

static void help_and_reference_come_from_the_rows(void **state)
{
    struct buf b = {0};
    options_help(rows, N, SERVE, &b);
    assert_non_null(strstr(
        buf_str(&b), "--port N\n        Port to listen on; 0 picks a free one. Default 8000.\n"));
    assert_null(strstr(buf_str(&b), "--prompt"));
    buf_truncate(&b, 0);
    options_markdown(rows, N, SERVE, &b);
    assert_non_null(strstr(buf_str(&b), "| `--policy lru\\|lfu` | lru |  | Policy. |\n"));
    buf_fini(&b);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(reads_every_kind),
    cmocka_unit_test(environment_comes_before_the_default),
    cmocka_unit_test(errors_name_the_option),
    cmocka_unit_test(sizes_are_exact_or_refused),
    cmocka_unit_test(a_size_may_be_a_share),
    cmocka_unit_test(a_name_may_mean_another_row_for_another_command),
    cmocka_unit_test(help_and_reference_come_from_the_rows),
};
CHECK_MAIN(tests)
