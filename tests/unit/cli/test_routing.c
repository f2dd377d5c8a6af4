/* Synthetic routing: the rules of its draws, and the locality that caches find in it. */
#include "check.h"

#include <math.h>

#include "cli/routing.h"
#include "pager/policy.h"
#include "pager/replay.h"

enum { LAYERS = 8 };
static const bool all[LAYERS] = {true, true, true, true, true, true, true, true};

static struct routing *open_routing(const char *name, int32_t n_experts, int32_t top_k,
                                    int32_t streams, uint64_t seed)
{
    const struct routing_shape shape = {LAYERS, n_experts, top_k, all};
    struct moed_error err;
    struct routing *r;
    assert_non_null(routing_find(name));
    assert_ok(routing_open(&r, routing_find(name), &shape, streams, seed, &err), &err);
    return r;
}

static double lru_hits(const char *name, int32_t n_experts, int32_t top_k, int32_t slots)
{
    enum { STEPS = 4000, WARM = 500 };
    struct trace t = {.n_layers = LAYERS, .n_experts = n_experts};
    struct routing *r = open_routing(name, n_experts, top_k, 1, 7);
    int32_t id[LAYERS * 16];
    struct replay_counts c;
    for (int step = 0; step < STEPS; step++) {
        routing_draw(r, 0, 1, id, (size_t)top_k);
        for (int32_t i = 0; i < LAYERS * top_k; i++)
            trace_use(&t, i / top_k, id[i], 1);
        trace_end_step(&t);
    }
    replay_policy(&t, policy_find("lru"), slots, WARM, &c);
    trace_fini(&t);
    routing_close(&r);
    return 100.0 * (double)c.hits / (double)c.uses;
}

/* Hit rates of LRU on recorded routing of the models, at a quarter of the experts (Mixtral: 3 of
 * 8). */
static void a_cache_hits_as_on_recorded_routing(void **state)
{
    static const struct {
        const char *name;
        int32_t n_experts, top_k;
        double share, hits;
    } cases[] = {
        {"qwen3-30b-a3b", 128, 8, 0.25, 81},
        {"gpt-oss-120b", 128, 4, 0.25, 80},
        {"olmoe", 64, 8, 0.25, 65},
        {"mixtral-8x7b", 8, 2, 0.375, 50},
        {"deepseek-v2-lite", 64, 6, 0.25, 47},
        {"qwen1.5-moe", 60, 4, 0.25, 40},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t slots = (int32_t)(LAYERS * cases[i].n_experts * cases[i].share);
        double hits = lru_hits(cases[i].name, cases[i].n_experts, cases[i].top_k, slots);
        print_message("%s: %.1f %%, recorded %.0f\n", cases[i].name, hits, cases[i].hits);
        assert_true(fabs(hits - cases[i].hits) <= 3);
    }
    /* Without locality a cache of a quarter serves a quarter. */
    assert_true(fabs(lru_hits("uniform", 64, 8, LAYERS * 64 / 4) - 25) < 1);
}

static void draws_are_distinct_experts(void **state)
{
    static const char *const names[] = {"qwen3-30b-a3b", "phi-3.5-moe", "uniform"};
    for (size_t m = 0; m < 3; m++)
        for (int32_t top_k = 1; top_k <= 9; top_k += 4) {
            struct routing *r = open_routing(names[m], 9, top_k, 1, m);
            for (int step = 0; step < 50; step++) {
                int32_t id[LAYERS * 9];
                routing_draw(r, 0, 1, id, (size_t)top_k);
                for (int32_t layer = 0; layer < LAYERS; layer++) {
                    unsigned seen = 0;
                    for (int32_t k = 0; k < top_k; k++) {
                        int32_t e = id[layer * top_k + k];
                        assert_true(e >= 0 && e < 9 && !(seen >> e & 1));
                        seen |= 1u << e;
                    }
                }
            }
            routing_close(&r);
        }
}

/* Alone or beside others, one by one or many at once. */
static void a_stream_depends_on_itself_alone(void **state)
{
    static const char *const names[] = {"olmoe", "uniform"};
    enum { TOP_K = 4, TOKENS = 1200 };
    static int32_t one[LAYERS][TOKENS][TOP_K], other[LAYERS][TOKENS][TOP_K];
    for (int m = 0; m < 2; m++) {
        struct routing *a = open_routing(names[m], 32, TOP_K, 1, 3);
        struct routing *b = open_routing(names[m], 32, TOP_K, 3, 3);
        for (int i = 0; i < TOKENS; i++)
            routing_draw(a, 0, 1, &one[0][i][0], TOKENS * TOP_K);
        for (int i = 0; i < TOKENS; i += 300) {
            int32_t noise[LAYERS * TOP_K];
            routing_draw(b, 0, 300, &other[0][i][0], TOKENS * TOP_K);
            routing_draw(b, 2, 1, noise, TOP_K);
        }
        assert_memory_equal(one, other, sizeof one);
        routing_draw(b, 1, TOKENS, &other[0][0][0], TOKENS * TOP_K);
        assert_memory_not_equal(one, other, sizeof one);
        routing_close(&a);
        routing_close(&b);
        a = open_routing(names[m], 32, TOP_K, 1, 4);
        routing_draw(a, 0, TOKENS, &other[0][0][0], TOKENS * TOP_K);
        assert_memory_not_equal(one, other, sizeof one);
        routing_close(&a);
    }
}

static void layers_without_experts_get_none(void **state)
{
    static const bool some[] = {false, true, false};
    const struct routing_shape shape = {3, 16, 2, some};
    struct moed_error err;
    struct routing *r;
    int32_t id[3][5][2];
    assert_ok(routing_open(&r, routing_find("mixtral-8x7b"), &shape, 1, 0, &err), &err);
    routing_draw(r, 0, 5, &id[0][0][0], 10);
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 2; k++) {
            assert_int_equal(id[0][i][k], -1);
            assert_int_equal(id[2][i][k], -1);
            assert_true(id[1][i][k] >= 0);
        }
    routing_close(&r);
}

/* Every expert as often as every other, in each place. */
static void even_draws_are_even(void **state)
{
    enum { EXPERTS = 10, TOP_K = 4, TOKENS = 5000 };
    static int32_t id[LAYERS][TOKENS][TOP_K];
    int count[TOP_K][EXPERTS] = {0};
    struct routing *r = open_routing("uniform", EXPERTS, TOP_K, 1, 11);
    routing_draw(r, 0, TOKENS, &id[0][0][0], TOKENS * TOP_K);
    for (int layer = 0; layer < LAYERS; layer++)
        for (int i = 0; i < TOKENS; i++)
            for (int k = 0; k < TOP_K; k++)
                count[k][id[layer][i][k]]++;
    for (int k = 0; k < TOP_K; k++)
        for (int e = 0; e < EXPERTS; e++)
            assert_in_range(count[k][e], LAYERS * TOKENS / EXPERTS * 94 / 100,
                            LAYERS * TOKENS / EXPERTS * 106 / 100);
    routing_close(&r);
}

static void names_find_their_models(void **state)
{
    struct buf names = {0};
    routing_names(&names);
    assert_non_null(strstr(buf_str(&names), "qwen3-30b-a3b, "));
    assert_non_null(strstr(buf_str(&names), ", uniform"));
    assert_null(routing_find("qwen3"));
    assert_null(routing_find(""));
    buf_fini(&names);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_cache_hits_as_on_recorded_routing),
    cmocka_unit_test(draws_are_distinct_experts),
    cmocka_unit_test(a_stream_depends_on_itself_alone),
    cmocka_unit_test(layers_without_experts_get_none),
    cmocka_unit_test(even_draws_are_even),
    cmocka_unit_test(names_find_their_models),
};
CHECK_MAIN(tests)
