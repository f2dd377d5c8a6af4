#include "check.h"

#include <unistd.h>

#include "http/server_int.h"

static struct http_slice slice(const char *text)
{
    return (struct http_slice){text, strlen(text)};
}

static void a_key_is_found_by_its_exact_bytes(void **state)
{
    char one[] = "alpha", two[] = "alphabet", three[] = "b";
    char *keys[] = {one, two, three};
    assert_int_equal(keys_find(keys, 3, slice("Bearer alpha")), 0);
    assert_int_equal(keys_find(keys, 3, slice("BEARER alphabet")), 1);
    assert_int_equal(keys_find(keys, 3, slice("Bearer   b")), 2);
    static const char *const wrong[] = {"",
                                        "Bearer",
                                        "Bearer ",
                                        "Bearer alph",
                                        "alpha",
                                        "Basic alpha",
                                        "Bearer Alpha",
                                        "Bearer bb",
                                        "Bearer alpha "};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(keys_find(keys, 3, slice(wrong[i])), -1);
    assert_int_equal(keys_find(keys, 3, (struct http_slice){0}), -1);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void a_key_file_may_have_comments_but_not_be_empty(void **state)
{
    char path[] = "/tmp/moed_keys_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    const char *const given[] = {"given"};
    struct http_config cfg = {.api_key_file = path};
    struct moed_error err;
    char **keys;
    size_t n;
    write_file(path, "# one\n\n first second\n\tthird # x\r\nlast");
    assert_ok(keys_load(&keys, &n, &cfg, &err), &err);
    assert_int_equal(n, 3);
    assert_string_equal(keys[0], "first");
    assert_string_equal(keys[1], "third");
    assert_string_equal(keys[2], "last");
    keys_free(keys, n);
    write_file(path, "# nothing\n");
    assert_int_equal(keys_load(&keys, &n, &cfg, &err), MOED_EINVAL);
    cfg.api_keys = given;
    cfg.n_api_keys = 1;
    assert_ok(keys_load(&keys, &n, &cfg, &err), &err);
    assert_int_equal(n, 1);
    keys_free(keys, n);
    const char *const empty[] = {"given", ""};
    cfg.api_keys = empty;
    cfg.n_api_keys = 2;
    assert_int_equal(keys_load(&keys, &n, &cfg, &err), MOED_EINVAL);
    cfg.n_api_keys = 1;
    unlink(path);
    assert_int_equal(keys_load(&keys, &n, &cfg, &err), MOED_EIO);
    assert_null(keys);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_key_is_found_by_its_exact_bytes),
    cmocka_unit_test(a_key_file_may_have_comments_but_not_be_empty),
};
CHECK_MAIN(tests)
