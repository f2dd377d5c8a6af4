#include "check.h"

#include <math.h>

#include <jansson.h>

#include "engine/sampler.h"

static double philox_uniform(uint64_t seed, uint32_t choice, uint64_t position)
{
    return (double)sample_random(seed, choice, position) * 0x1p-53;
}

/* Random123, tests/kat_vectors, rows of philox4x32 with 10 rounds. */
static void philox_gives_the_published_numbers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
        uint32_t out[4];
        sample_philox(kat[i].counter, kat[i].key, out);
        assert_memory_equal(out, kat[i].out, sizeof out);
    }
    double sum = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        double u = philox_uniform(5, 1, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
    }
    assert_true(fabs(sum / 10000 - 0.5) < 0.02);
}

static int32_t pick(const float *logits, int32_t vocab, const struct sample_params *p)
{
    struct moed_error err;
    struct sampler_scratch s;
    assert_ok(sampler_scratch_init(&s, vocab, &err), &err);
    int32_t token = sampler_pick(&s, logits, p);
    sampler_scratch_fini(&s);
    return token;
}

static float number(json_t *c, const char *key)
{
    return (float)json_number_value(json_object_get(c, key));
}

static void count_tokens(struct token_counts *counts, json_t *list, bool generated)
{
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v)
        token_counts_add(counts, (int32_t)json_integer_value(v), generated);
}

static void check_vector(json_t *c)
{
    float logits[128];
    int32_t mask[4];
    struct moed_logit_bias bias[4];
    json_t *l = json_object_get(c, "logits"), *b = json_object_get(c, "bias");
    int32_t n = (int32_t)json_array_size(l);
    for (int32_t i = 0; i < n; i++)
        logits[i] = (float)json_number_value(json_array_get(l, (size_t)i));
    size_t n_mask = json_array_size(json_object_get(c, "mask"));
    for (size_t i = 0; i < n_mask; i++)
        mask[i] = (int32_t)json_integer_value(json_array_get(json_object_get(c, "mask"), i));
    for (size_t i = 0; i < json_array_size(b); i++) {
        json_t *pair = json_array_get(b, i);
        bias[i].token = (int32_t)json_integer_value(json_array_get(pair, 0));
        bias[i].bias = (float)json_number_value(json_array_get(pair, 1));
    }
    struct token_counts counts = {0};
    count_tokens(&counts, json_object_get(c, "prompt"), false);
    count_tokens(&counts, json_object_get(c, "generated"), true);
    struct moed_sampling s;
    moed_sampling_default(&s);
    s.temperature = number(c, "temperature");
    s.top_k = (int32_t)number(c, "top_k");
    s.top_p = number(c, "top_p");
    s.min_p = number(c, "min_p");
    s.presence_penalty = number(c, "presence_penalty");
    s.frequency_penalty = number(c, "frequency_penalty");
    s.repetition_penalty = number(c, "repetition_penalty");
    s.bias = bias;
    s.n_bias = json_array_size(b);
    struct sample_params p = {
        .sampling = &s,
        .counts = &counts,
        .mask = mask,
        .n_mask = n_mask,
        .seed = (uint64_t)json_integer_value(json_object_get(c, "seed")),
        .choice = (uint32_t)json_integer_value(json_object_get(c, "choice")),
        .position = (uint64_t)json_integer_value(json_object_get(c, "position")),
    };
    int32_t token = (int32_t)json_integer_value(json_object_get(c, "token"));
    assert_int_equal(pick(logits, n, &p), token);
    token_counts_fini(&counts);

    struct moed_top top[5];
    struct moed_token t;
    sampler_logprobs(logits, n, token, 5, top, &t);
    assert_true(fabs((double)t.logprob - json_number_value(json_object_get(c, "logprob"))) < 1e-5);
    assert_int_equal(t.rank, json_integer_value(json_object_get(c, "rank")));
    json_t *want = json_object_get(c, "top");
    assert_int_equal(t.n_top, json_array_size(want));
    for (int32_t i = 0; i < t.n_top; i++) {
        json_t *pair = json_array_get(want, (size_t)i);
        assert_int_equal(t.top[i].token, json_integer_value(json_array_get(pair, 0)));
        assert_true(fabs((double)t.top[i].logprob - json_number_value(json_array_get(pair, 1))) <
                    1e-5);
    }
}

static void tokens_equal_those_of_the_reference_in_python(void **state)
{
    json_t *all = json_load_file(repo_path("tests/data/sampler/vectors.json"), 0, NULL);
    assert_non_null(all);
    assert_true(json_array_size(all) >= 100);
    size_t i;
    json_t *c;
    json_array_foreach(all, i, c) check_vector(c);
    json_decref(all);
}

/* A second reference, for large vocabularies: everything sorted, everything in double. */
struct pair {
    double logit;
    int32_t id;
};

static int by_logit(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit) - (x->logit > y->logit) : x->id - y->id;
}

static int by_id(const void *a, const void *b)
{
    return ((const struct pair *)a)->id - ((const struct pair *)b)->id;
}

/* -1: too near a border for single precision to be sure. */
static int32_t reference(const float *logits, int32_t n, const struct moed_sampling *o, double u)
{
    struct pair *p = malloc((size_t)n * sizeof *p);
    for (int32_t i = 0; i < n; i++)
        p[i] = (struct pair){(double)logits[i], i};
    qsort(p, (size_t)n, sizeof *p, by_logit);
    double top = p[0].logit, total = 0, mass = 0;
    int32_t kept = 0, token = -1;
    while (kept < n && exp((p[kept].logit - top) / (double)o->temperature) >= (double)o->min_p)
        kept++;
    if (o->top_k > 0 && kept > o->top_k)
        kept = o->top_k;
    for (int32_t i = 0; i < kept; i++)
        total += exp((p[i].logit - top) / (double)o->temperature);
    if (o->top_p < 1) {
        int32_t i = 0;
        while (i < kept && mass < (double)o->top_p * total)
            mass += exp((p[i++].logit - top) / (double)o->temperature);
        kept = i;
        total = mass;
    }
    qsort(p, (size_t)kept, sizeof *p, by_id);
    mass = 0;
    for (int32_t i = 0; i < kept && token < 0; i++) {
        double before = mass;
        mass += exp((p[i].logit - top) / (double)o->temperature);
        if (mass > u * total) {
            token = p[i].id;
            if (mass - u * total < 1e-4 * total || u * total - before < 1e-4 * total)
                token = -1;
            break;
        }
    }
    free(p);
    return token;
}

static void large_vocabularies_agree_with_a_full_sort(void **state)
{
    enum { VOCAB = 20011 };
    float *logits = malloc(VOCAB * sizeof *logits);
    int compared = 0;
    for (uint64_t seed = 1; seed <= 120; seed++) {
        float spread = seed % 3 == 0 ? 0.1f : seed % 3 == 1 ? 4.0f : 12.0f;
        for (int32_t i = 0; i < VOCAB; i++)
            logits[i] = spread * (float)(philox_uniform(seed, 9, (uint64_t)i) - 0.5) +
                        (i % 1000 == 7 ? 6.0f : 0);
        struct moed_sampling s;
        moed_sampling_default(&s);
        s.temperature = seed % 2 ? 1.0f : 0.8f;
        s.top_k = seed % 5 == 0 ? 50 : seed % 5 == 1 ? 3000 : 0;
        s.top_p = seed % 4 == 0 ? 1.0f : seed % 4 == 1 ? 0.99f : 0.8f;
        s.min_p = seed % 7 == 0 ? 0.01f : 0;
        struct sample_params p = {.sampling = &s, .seed = seed, .position = 3};
        int32_t want = reference(logits, VOCAB, &s, philox_uniform(seed, 0, 3));
        int32_t got = pick(logits, VOCAB, &p);
        if (want < 0)
            continue;
        /* top_p's border may fall elsewhere by one token of 1e-5 mass: nearly all must agree. */
        compared += want == got;
        if (s.top_p == 1 || spread > 1)
            assert_int_equal(got, want);
    }
    assert_true(compared >= 55);
    free(logits);
}

static void frequencies_follow_the_probabilities(void **state)
{
    static const float logits[8] = {0, 1, -1, 2, 0.5f, -2, 1.5f, 0.2f};
    struct moed_sampling s;
    moed_sampling_default(&s);
    double weight[8], total = 0, chi = 0;
    for (int i = 0; i < 8; i++)
        total += weight[i] = exp((double)logits[i]);
    enum { DRAWS = 40000 };
    int seen[8] = {0};
    for (uint64_t i = 0; i < DRAWS; i++)
        seen[pick(logits, 8, &(struct sample_params){.sampling = &s, .seed = 11, .position = i})]++;
    for (int i = 0; i < 8; i++) {
        double want = DRAWS * weight[i] / total;
        chi += (seen[i] - want) * (seen[i] - want) / want;
    }
    assert_true(chi < 24.3); /* 7 degrees of freedom, one in a thousand */
    assert_true(chi > 0.3);
}

static void ties_go_to_the_lower_id(void **state)
{
    static const float logits[20] = {1, 3, 3, 2, 3};
    struct moed_sampling s;
    moed_sampling_default(&s);
    s.temperature = 0;
    struct sample_params p = {.sampling = &s, .seed = 1};
    assert_int_equal(pick(logits, 20, &p), 1);
    s.temperature = 1;
    s.top_k = 2;
    for (p.position = 0; p.position < 200; p.position++) {
        int32_t t = pick(logits, 20, &p);
        assert_true(t == 1 || t == 2);
    }
    static const float zeros[3] = {-0.0f, 0.0f, -1};
    s.top_k = 1;
    assert_int_equal(pick(zeros, 3, &p), 0);
    s.top_k = 2;
    s.top_p = 0.3f;
    for (p.position = 0; p.position < 50; p.position++)
        assert_int_equal(pick(zeros, 3, &p), 0);
}

static void masked_tokens_never_come_and_bad_logits_are_told(void **state)
{
    float logits[3] = {5, 1, 0};
    int32_t mask[2] = {0, 1};
    struct moed_sampling s;
    moed_sampling_default(&s);
    struct sample_params p = {.sampling = &s, .mask = mask, .n_mask = 1, .seed = 3};
    for (p.position = 0; p.position < 100; p.position++)
        assert_int_not_equal(pick(logits, 3, &p), 0);
    s.temperature = 0;
    assert_int_equal(pick(logits, 3, &p), 1);
    p.n_mask = 2;
    assert_int_equal(pick(logits, 3, &p), 2);
    logits[2] = NAN;
    assert_int_equal(pick(logits, 3, &p), -1);
    s.temperature = 1;
    logits[2] = INFINITY;
    assert_int_equal(pick(logits, 3, &p), -1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(philox_gives_the_published_numbers),
    cmocka_unit_test(tokens_equal_those_of_the_reference_in_python),
    cmocka_unit_test(large_vocabularies_agree_with_a_full_sort),
    cmocka_unit_test(frequencies_follow_the_probabilities),
    cmocka_unit_test(ties_go_to_the_lower_id),
    cmocka_unit_test(masked_tokens_never_come_and_bad_logits_are_told),
};
CHECK_MAIN(tests)
