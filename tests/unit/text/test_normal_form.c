/* Unicode normal forms: examples of UAX 15, and the orders that trip simple implementations. */
#include "check.h"

#include "base/mem.h"
#include "text/unicode.h"

static void check_form(enum normal_form form, const char *text, const char *expected)
{
    struct buf out = {0};
    normal_form(&out, text, strlen(text), form);
    assert_string_equal(buf_str(&out), expected);
    buf_fini(&out);
}

static void composes_and_decomposes(void **state)
{
    check_form(NORMAL_FORM_C, "plain", "plain");
    check_form(NORMAL_FORM_C, "A\u030A \u212B", "\u00C5 \u00C5");
    check_form(NORMAL_FORM_D, "\u00C5\u1E69", "A\u030As\u0323\u0307");
    check_form(NORMAL_FORM_C, "\u1E9B\u0323", "\u1E9B\u0323");
    check_form(NORMAL_FORM_D, "\u1E9B\u0323", "\u017F\u0323\u0307");
    check_form(NORMAL_FORM_KC, "\u1E9B\u0323 \uFB01 \u2460", "\u1E69 fi 1");
    check_form(NORMAL_FORM_KD, "\u1E9B\u0323 \uFB01", "s\u0323\u0307 fi");
    check_form(NORMAL_FORM_C, "q\u0307\u0323", "q\u0323\u0307");
    check_form(NORMAL_FORM_C, "\u0958", "\u0915\u093C"); /* never composed */
}

static void keeps_hangul(void **state)
{
    check_form(NORMAL_FORM_C, "\u1100\u1161\u11A8", "\uAC01");
    check_form(NORMAL_FORM_D, "\uAC01", "\u1100\u1161\u11A8");
    check_form(NORMAL_FORM_C, "\uAC00\u11A8", "\uAC01");
    check_form(NORMAL_FORM_C, "\uAC00\u11A7", "\uAC00\u11A7"); /* no trailing consonant */
    check_form(NORMAL_FORM_KC, "\u1100\u1161\u11A7", "\uAC00\u11A7");
}

/* U+1E136 came with Unicode 12 and class 230; the makers' library knows Unicode 9. */
static void leaves_what_came_after_unicode_9(void **state)
{
    check_form(NORMAL_FORM_C, "\u031A\U0001E136", "\u031A\U0001E136");
    check_form(NORMAL_FORM_C, "a\U0001E136\u0301", "a\U0001E136\u0301");
    check_form(NORMAL_FORM_C, "\U00011935\U00011930", "\U00011935\U00011930");
    check_form(NORMAL_FORM_KC, "\u32FF", "\u32FF");
}

/* Many marks, with classes in falling order: sorted, and equal classes stay in their order. */
static void orders_long_runs_of_marks(void **state)
{
    enum { N = 1000 };
    struct buf text = {0}, expected = {0};
    buf_puts(&text, "x");
    buf_puts(&expected, "x");
    for (int i = 0; i < N; i++)
        buf_puts(&text, i % 2 ? "\u0316" : i % 4 ? "\u0307" : "\u0308"); /* classes 220, 230 */
    for (int i = 0; i < N / 2; i++)
        buf_puts(&expected, "\u0316");
    for (int i = 0; i < N; i += 2)
        buf_puts(&expected, i % 4 ? "\u0307" : "\u0308");
    check_form(NORMAL_FORM_D, buf_str(&text), buf_str(&expected));
    buf_fini(&text);
    buf_fini(&expected);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(composes_and_decomposes),
    cmocka_unit_test(keeps_hangul),
    cmocka_unit_test(leaves_what_came_after_unicode_9),
    cmocka_unit_test(orders_long_runs_of_marks),
};
CHECK_MAIN(tests)
