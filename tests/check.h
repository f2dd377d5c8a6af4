/*
 * What every C test program shares: cmocka with its includes, a main that lists tests and runs one
 * by name, and the way to the test data that is not part of the repository.
 */
#ifndef MOED_TESTS_CHECK_H
#define MOED_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Path of a file of this repository (MOED_SOURCE where a build was brought along); the result lives
 * until the next call on this thread. */
static inline const char *repo_path(const char *relative)
{
    static _Thread_local char path[1024];
    const char *root = getenv("MOED_SOURCE");
    snprintf(path, sizeof path, "%s/%s", root ? root : MOED_SOURCE_DIR, relative);
    return path;
}

/* Path of a file of the outside test data, or the running test is skipped, visibly. */
static inline const char *data_path(const char *relative)
{
    static _Thread_local char path[1024];
    const char *root = getenv("MOED_TEST_DATA");
    if (!root || !*root) {
        print_message("MOED_TEST_DATA is not set: skipped\n");
        skip();
    }
    snprintf(path, sizeof path, "%s/%s", root, relative);
    return path;
}

/* Fails with the library's own words where a call did not return 0. */
#define assert_ok(call, err)                                                                       \
    do {                                                                                           \
        int rc_ = (call);                                                                          \
        if (rc_ < 0)                                                                               \
            fail_msg("%s: %d: %s", #call, rc_, (err)->text);                                       \
    } while (0)

static inline int check_main(const struct CMUnitTest *tests, size_t n, int argc, char **argv,
                             const char *group)
{
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < n; i++)
            printf("%s\n", tests[i].name);
        return 0;
    }
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
        size_t found = 0;
        for (size_t i = 0; i < n; i++)
            found += strcmp(tests[i].name, argv[1]) == 0;
        if (!found) {
            fprintf(stderr, "no test named %s\n", argv[1]);
            return 2;
        }
    }
    return _cmocka_run_group_tests(group, tests, n, NULL, NULL);
}

#define CHECK_MAIN(tests)                                                                          \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        return check_main(tests, sizeof(tests) / sizeof(tests[0]), argc, argv, __FILE__);          \
    }

#endif
