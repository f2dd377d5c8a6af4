#include "check.h"

#include <sys/mman.h>

#include "base/mem_int.h"

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

/* Both ways of counting say the same of a block whose pages the kernel does not change meanwhile.
 */
static void both_counts_agree(void **state)
{
    size_t bytes = 16 * HUGE_PAGE_BYTES;
    uint8_t *p = mem_map(bytes);
    if (mem_huge_bytes_scanned(p, bytes) < 0 || mem_huge_bytes_listed(p, bytes) < 0) {
        mem_unmap(p, bytes);
        skip(); /* Linux before 6.7, or without huge pages */
    }
    /* Runs of 1, 2, 3, 4 huge pages between runs of small ones and one that nobody touched. */
    static const int small[16] = {0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1};
    for (size_t i = 0; i < 16; i++)
        if (small[i])
            assert_int_equal(madvise(p + i * HUGE_PAGE_BYTES, HUGE_PAGE_BYTES, MADV_NOHUGEPAGE), 0);
    memset(p, 1, bytes - HUGE_PAGE_BYTES);
    long long listed = mem_huge_bytes_listed(p, bytes);
    assert_true(listed >= 0 && listed <= (long long)(10 * HUGE_PAGE_BYTES));
    assert_int_equal(mem_huge_bytes_scanned(p, bytes), listed);
    assert_int_equal(mem_huge_bytes(p, bytes), listed);
    /* No more than the block, wherever its last page ends. */
    uint8_t *last = p + 13 * HUGE_PAGE_BYTES;
    long long one = mem_huge_bytes_scanned(last, HUGE_PAGE_BYTES);
    assert_int_equal(mem_huge_bytes_scanned(last, 4096), one ? 4096 : 0);
    mem_unmap(p, bytes);
}

/* More runs than the kernel tells of at once. */
static void many_runs_are_counted(void **state)
{
    enum { RUNS = 40 };
    size_t bytes = 2 * RUNS * HUGE_PAGE_BYTES;
    uint8_t *p = mem_map(bytes);
    /* One byte is enough for a huge page. */
    for (size_t i = 0; i < RUNS; i++)
        p[2 * i * HUGE_PAGE_BYTES] = 1;
    long long scanned = mem_huge_bytes_scanned(p, bytes), listed = mem_huge_bytes_listed(p, bytes);
    mem_unmap(p, bytes);
    if (scanned < 0 || listed < 0)
        skip(); /* as above */
    assert_int_equal(scanned, listed);
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
    cmocka_unit_test(both_counts_agree),
    cmocka_unit_test(many_runs_are_counted),
};

CHECK_MAIN(tests)
