#include "check.h"

#include "base/buf.h"
#include "base/json_escape.h"
#include "base/utf8.h"

static void appends_and_drops(void **state)
{
    struct buf b = {0};
    assert_string_equal(buf_str(&b), "");
    buf_puts(&b, "hello");
    buf_printf(&b, " %d", 42);
    buf_drop(&b, 1);
    buf_truncate(&b, 5);
    assert_string_equal(buf_str(&b), "ello ");
    buf_add_utf8(&b, 0x20AC);
    assert_string_equal(buf_str(&b), "ello \xE2\x82\xAC");
    size_t n;
    char *s = buf_take(&b, &n);
    assert_int_equal(n, 8);
    assert_null(b.data);
    free(s);
}

static void json_text_is_always_valid_utf8(void **state)
{
    struct buf b = {0};
    json_escape_bytes(&b, "a\"\\\n\x01\xC3\xA9\xFF\xE2\x82|\x7F", 12);
    assert_string_equal(buf_str(&b),
                        "a\\\"\\\\\\n\\u0001\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD|\\u007f");
    buf_fini(&b);
}

static void utf8_refuses_what_the_standard_refuses(void **state)
{
    unsigned cp;
    assert_int_equal(utf8_decode("\xF0\x9F\x99\x82", 4, &cp), 4);
    assert_int_equal(cp, 0x1F642);
    assert_int_equal(utf8_decode("\xF0\x9F", 2, &cp), -2);
    assert_int_equal(utf8_decode("\xC0\x80", 2, &cp), -1);     /* overlong */
    assert_int_equal(utf8_decode("\xED\xA0\x80", 3, &cp), -1); /* surrogate */
    assert_int_equal(utf8_decode("\xF4\x90\x80\x80", 4, &cp), -1);
    assert_int_equal(utf8_valid_prefix("ab\xC3", 3), 2);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(appends_and_drops),
    cmocka_unit_test(json_text_is_always_valid_utf8),
    cmocka_unit_test(utf8_refuses_what_the_standard_refuses),
};
CHECK_MAIN(tests)
