#include "check.h"

#include "base/buf.h"
#include "engine/stop.h"

static uint64_t seed = 1;

static uint32_t rnd(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

/* The rule on the whole text: the match that ends first, the longest of those. */
static size_t cut_of(const char *text, char *const *stop, size_t n, const char **found)
{
    *found = NULL;
    for (size_t end = 1; end <= strlen(text); end++) {
        for (size_t i = 0; i < n; i++) {
            size_t k = strlen(stop[i]);
            if (k <= end && !strncmp(text + end - k, stop[i], k) && (!*found || k > strlen(*found)))
                *found = stop[i];
        }
        if (*found)
            return end - strlen(*found);
    }
    return strlen(text);
}

static void any_pieces_give_the_text_before_the_first_match(void **state)
{
    int matched = 0;
    for (int round = 0; round < 20000; round++) {
        char text[40], words[3][6];
        char *stop[3];
        size_t n = rnd(4), len = rnd(sizeof text);
        for (size_t i = 0; i < len; i++)
            text[i] = (char)('a' + rnd(3));
        text[len] = 0;
        for (size_t i = 0; i < n; i++) {
            size_t k = 1 + rnd(5);
            for (size_t j = 0; j < k; j++)
                words[i][j] = (char)('a' + rnd(3));
            words[i][k] = 0;
            stop[i] = words[i];
        }
        const char *want;
        size_t cut = cut_of(text, stop, n, &want);
        bool include = rnd(2);
        struct stop_matcher m;
        struct buf all = {0};
        stop_init(&m, stop, n, include);
        for (size_t at = 0; at < len;) {
            size_t k = 1 + rnd(4);
            k = k > len - at ? len - at : k;
            stop_push(&m, text + at, k);
            buf_add(&all, m.out.data, m.out.len);
            at += k;
            /* What is out is final and what is held could still become a match. */
            assert_true(all.len <= cut + (include && want ? strlen(want) : 0));
            assert_true(m.held.len < 5);
        }
        stop_finish(&m);
        buf_add(&all, m.out.data, m.out.len);
        if (want && include)
            cut += strlen(want);
        assert_true(m.found == want || (want && !strcmp(m.found, want)));
        assert_int_equal(all.len, cut);
        assert_memory_equal(buf_str(&all), text, cut);
        matched += want != NULL;
        buf_fini(&all);
        stop_fini(&m);
    }
    assert_true(matched > 5000 && matched < 19000);
}

static void only_what_may_begin_a_match_is_held_back(void **state)
{
    char end[] = "<end>";
    char *stop[] = {end};
    struct stop_matcher m;
    stop_init(&m, stop, 1, false);
    stop_push(&m, "a < b", 5);
    assert_string_equal(buf_str(&m.out), "a < b");
    stop_push(&m, " <e", 3);
    assert_string_equal(buf_str(&m.out), " ");
    stop_push(&m, "l", 1);
    assert_string_equal(buf_str(&m.out), "<el");
    stop_push(&m, "x<en", 4);
    stop_push(&m, "d>more", 6);
    assert_string_equal(buf_str(&m.out), "");
    assert_ptr_equal(m.found, end);
    stop_finish(&m);
    assert_string_equal(buf_str(&m.out), "");
    stop_fini(&m);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(any_pieces_give_the_text_before_the_first_match),
    cmocka_unit_test(only_what_may_begin_a_match_is_held_back),
};
CHECK_MAIN(tests)
