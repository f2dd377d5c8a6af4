#include "check.h"

#include "sched/kv.h"

static const struct kv_salt plain = {0, 0};

static void fill(int32_t *tokens, int32_t value)
{
    for (int i = 0; i < SCHED_BLOCK_TOKENS; i++)
        tokens[i] = value + i;
}

static struct kv_pool *open_pool(int32_t n, uint64_t mask)
{
    struct moed_error err;
    struct kv_pool *p;
    assert_ok(kv_pool_open(&p, n, mask, &err), &err);
    return p;
}

static void a_chain_is_found_by_content_and_parent(void **state)
{
    struct kv_pool *p = open_pool(8, UINT64_MAX);
    int32_t a[16], b[16];
    fill(a, 1);
    fill(b, 100);
    int32_t first = kv_publish(p, kv_alloc(p), -1, plain, a);
    int32_t second = kv_publish(p, kv_alloc(p), first, plain, b);
    assert_int_equal(kv_find(p, -1, plain, a), first);
    assert_int_equal(kv_find(p, first, plain, b), second);
    assert_int_equal(kv_find(p, -1, plain, b), -1);
    assert_int_equal(kv_find(p, second, plain, a), -1);
    assert_int_equal(kv_find(p, -1, (struct kv_salt){1, 0}, a), -1);
    assert_int_equal(kv_find(p, -1, (struct kv_salt){0, 1}, a), -1);
    kv_unref(p, second);
    kv_unref(p, first);
    assert_int_equal(kv_available(p), 8);
    assert_int_equal(kv_cached(p), 2);
    assert_int_equal(kv_find(p, first, plain, b), second);
    kv_pool_close(&p);
}

/* Every hash the same: content, salt and parent alone decide. */
static void equal_hashes_share_nothing(void **state)
{
    struct kv_pool *p = open_pool(8, 0);
    int32_t a[16], b[16];
    fill(a, 1);
    fill(b, 2);
    int32_t x = kv_publish(p, kv_alloc(p), -1, plain, a);
    int32_t y = kv_publish(p, kv_alloc(p), -1, plain, b);
    int32_t z = kv_publish(p, kv_alloc(p), -1, (struct kv_salt){9, 0}, a);
    int32_t xb = kv_publish(p, kv_alloc(p), x, plain, b);
    assert_int_equal(kv_find(p, -1, plain, a), x);
    assert_int_equal(kv_find(p, -1, plain, b), y);
    assert_int_equal(kv_find(p, -1, (struct kv_salt){9, 0}, a), z);
    assert_int_equal(kv_find(p, x, plain, b), xb);
    assert_int_equal(kv_find(p, y, plain, b), -1);
    assert_int_equal(kv_find(p, y, plain, a), -1);
    kv_pool_close(&p);
}

static void the_longest_unused_is_evicted_and_its_children_are_lost(void **state)
{
    struct kv_pool *p = open_pool(3, UINT64_MAX);
    int32_t a[16], b[16], c[16];
    fill(a, 1);
    fill(b, 2);
    fill(c, 3);
    int32_t x = kv_publish(p, kv_alloc(p), -1, plain, a);
    int32_t xb = kv_publish(p, kv_alloc(p), x, plain, b);
    int32_t y = kv_publish(p, kv_alloc(p), -1, plain, c);
    assert_int_equal(kv_alloc(p), -1);
    kv_unref(p, x);
    kv_unref(p, y);
    kv_unref(p, xb);
    kv_ref(p, y); /* used again: no longer the oldest */
    kv_unref(p, y);
    int32_t n = kv_alloc(p);
    assert_int_equal(n, x);
    assert_int_equal(kv_find(p, -1, plain, a), -1);
    /* The same content again is another block: what followed the old one stays unreachable. */
    assert_int_equal(kv_publish(p, n, -1, plain, a), x);
    assert_int_equal(kv_find(p, x, plain, b), -1);
    assert_int_equal(kv_find(p, -1, plain, c), y);
    kv_pool_close(&p);
}

static void an_equal_block_takes_the_reference(void **state)
{
    struct kv_pool *p = open_pool(4, UINT64_MAX);
    int32_t a[16];
    fill(a, 1);
    int32_t x = kv_publish(p, kv_alloc(p), -1, plain, a);
    int32_t twin = kv_alloc(p);
    assert_int_equal(kv_publish(p, twin, -1, plain, a), x);
    assert_int_equal(kv_refs(p, x), 2);
    assert_int_equal(kv_refs(p, twin), 0);
    assert_int_equal(kv_available(p), 3);
    kv_pool_close(&p);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_chain_is_found_by_content_and_parent),
    cmocka_unit_test(equal_hashes_share_nothing),
    cmocka_unit_test(the_longest_unused_is_evicted_and_its_children_are_lost),
    cmocka_unit_test(an_equal_block_takes_the_reference),
};
CHECK_MAIN(tests)
