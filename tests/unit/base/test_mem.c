#include "check.h"

#include <sys/mman.h>

#include "base/mem.h"

static void huge_pages_are_told(void **state)
{
    enum { MIB = 1 << 20 };
    size_t bytes = 64 * MIB;
    uint8_t *p = mem_map(bytes);
    assert_non_null(p);
    long long huge = mem_huge_bytes(p, bytes);
    assert_true(huge == -1 || huge == 0); /* nothing was touched */
    memset(p, 1, bytes);
    huge = mem_huge_bytes(p, bytes);
    assert_true(huge >= -1 && huge <= (long long)bytes);
    mem_unmap(p, bytes);

    p = mem_map(bytes);
    assert_int_equal(madvise(p, bytes, MADV_NOHUGEPAGE), 0);
    memset(p, 1, bytes);
    huge = mem_huge_bytes(p, bytes);
    assert_true(huge == -1 || huge == 0);
    mem_unmap(p, bytes);
    /* Blocks next to each other do not count for one another beyond their size. */
    uint8_t *a = mem_map(2 * MIB), *b = mem_map(2 * MIB);
    memset(a, 1, 2 * MIB);
    memset(b, 1, 2 * MIB);
    assert_true(mem_huge_bytes(a, 2 * MIB) <= 2 * MIB);
    mem_unmap(a, 2 * MIB);
    mem_unmap(b, 2 * MIB);
}

/* A block that was filled with small pages keeps its bytes, on pages no smaller than before. */
static void small_pages_become_huge(void **state)
{
    size_t bytes = (size_t)16 << 20;
    uint8_t *p = mem_map(bytes);
    assert_int_equal(madvise(p, bytes, MADV_NOHUGEPAGE), 0);
    for (size_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)(i * 7 >> 8);
    long long before = mem_huge_bytes(p, bytes);
    assert_int_equal(madvise(p, bytes, MADV_HUGEPAGE), 0);
    mem_make_huge(p, bytes);
    assert_true(mem_huge_bytes(p, bytes) >= before);
    for (size_t i = 0; i < bytes; i++)
        assert_int_equal(p[i], (uint8_t)(i * 7 >> 8));
    mem_unmap(p, bytes);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(small_pages_become_huge),
    cmocka_unit_test(huge_pages_are_told),
};

CHECK_MAIN(tests)
