/* Merging against the definition: search the whole word for the best pair, join it, begin again. */
#include "check.h"

#include "text/bpe.h"

enum { N_LETTERS = 4, N_SYMBOLS = 60, LONGEST_WORD = 400 };

/* A merge table of random strings over a few letters, so that merges collide and nest. */
struct table {
    struct pieces symbols;
    struct bpe bpe;
    struct bpe_merge list[4 * N_SYMBOLS];
    size_t n;
};

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static void make_table(struct table *t, uint64_t *random, int equal_ranks)
{
    char letters[] = "abcd";
    *t = (struct table){0};
    for (int32_t i = 0; i < N_LETTERS; i++) {
        pieces_set(&t->symbols, i, &letters[i], 1);
        pieces_index(&t->symbols, i);
    }
    while (t->symbols.n < N_SYMBOLS) {
        int32_t left = (int32_t)(next_random(random) % t->symbols.n);
        int32_t right = (int32_t)(next_random(random) % t->symbols.n);
        char joined[64];
        size_t n_left, n_right;
        const char *a = pieces_get(&t->symbols, left, &n_left);
        const char *b = pieces_get(&t->symbols, right, &n_right);
        if (n_left + n_right > 12)
            continue;
        memcpy(joined, a, n_left);
        memcpy(joined + n_left, b, n_right);
        int32_t id = (int32_t)t->symbols.n;
        if (pieces_find(&t->symbols, joined, n_left + n_right) >= 0)
            continue;
        pieces_set(&t->symbols, id, joined, n_left + n_right);
        pieces_index(&t->symbols, id);
        /* Ranks in no order, so that a merge may make room for one that goes before it. */
        uint32_t rank = equal_ranks ? next_random(random) % 8 : next_random(random);
        t->list[t->n++] = (struct bpe_merge){left, right, rank, id};
    }
    bpe_init(&t->bpe, &t->symbols, 1);
    for (size_t i = 0; i < t->n; i++)
        bpe_add(&t->bpe, t->list[i].left, t->list[i].right, t->list[i].rank, t->list[i].result);
}

static size_t merge_by_definition(const struct table *t, int32_t *s, size_t n)
{
    for (;;) {
        const struct bpe_merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t k = 0; k < t->n; k++)
                if (t->list[k].left == s[i] && t->list[k].right == s[i + 1] &&
                    (!best || t->list[k].rank < best->rank)) {
                    best = &t->list[k];
                    at = i;
                }
        if (!best)
            return n;
        s[at] = best->result;
        memmove(s + at + 1, s + at + 2, (n - at - 2) * sizeof *s);
        n--;
    }
}

static void check_table(uint64_t seed, int equal_ranks)
{
    uint64_t random = seed;
    struct table t;
    struct bpe_work work = {0}; /* used again and again, as in one call of tokenizer_encode */
    make_table(&t, &random, equal_ranks);
    for (int round = 0; round < 20; round++) {
        int32_t expected[LONGEST_WORD];
        size_t n = 1 + next_random(&random) % (round % 2 ? LONGEST_WORD : 40);
        uint32_t used = 1 + next_random(&random) % N_LETTERS;
        bpe_work_clear(&work, n);
        for (size_t i = 0; i < n; i++) {
            expected[i] = (int32_t)(next_random(&random) % used);
            bpe_work_add(&work, expected[i]);
        }
        n = merge_by_definition(&t, expected, n);
        bpe_merge_word(&t.bpe, &work);
        assert_int_equal(work.n, n);
        assert_memory_equal(work.symbols, expected, n * sizeof *expected);
    }
    bpe_work_fini(&work);
    bpe_fini(&t.bpe);
    pieces_fini(&t.symbols);
}

static void merges_in_the_order_of_ranks(void **state)
{
    for (uint64_t seed = 1; seed <= 60; seed++)
        check_table(seed, 0);
}

static void equal_ranks_merge_from_left_to_right(void **state)
{
    for (uint64_t seed = 1; seed <= 60; seed++)
        check_table(seed, 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(merges_in_the_order_of_ranks),
    cmocka_unit_test(equal_ranks_merge_from_left_to_right),
};
CHECK_MAIN(tests)
