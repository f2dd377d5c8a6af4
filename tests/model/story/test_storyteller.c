/*
 * The model that ships, against what transformers, tokenizers and Jinja2 made of it
 * (tests/data/story): tokens, chats, log probabilities and greedy text, with and without an expert
 * cache.
 */
#include "answers.h"

#include <math.h>

#include <jansson.h>

#include "base/buf.h"
#include "text/template.h"
#include "text/tokenizer.h"

#define MODEL "examples/models/storyteller"
/* docs/design.md, numbers: fp32 KV. */
#define LOGPROB_TOLERANCE 2e-3
#define GREEDY_GAP        0.02
#define CONTEXT           512

static json_t *load_json(const char *path)
{
    json_error_t e;
    json_t *all = json_load_file(repo_path(path), 0, &e);
    if (!all)
        fail_msg("%s: %s", path, e.text);
    return all;
}

/* The ids of a JSON array; returns their number. */
static size_t read_ids(const json_t *array, int32_t *ids)
{
    size_t n = json_array_size(array);
    assert_true(n <= CONTEXT);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return n;
}

static void check_ids(const struct tokenizer *t, const char *text, size_t n_text,
                      const json_t *expected)
{
    struct moed_error err;
    struct tokens got = {0};
    assert_ok(tokenizer_encode(t, text, n_text, TOKENIZER_PARSE_SPECIAL, 0, &got, &err), &err);
    if (got.n != json_array_size(expected))
        fail_msg("'%.80s': %zu tokens instead of %zu", text, got.n, json_array_size(expected));
    for (size_t i = 0; i < got.n; i++)
        assert_int_equal(got.ids[i], json_integer_value(json_array_get(expected, i)));
    tokens_fini(&got);
}

static void tokens_are_those_of_tokenizers(void **state)
{
    struct moed_error err;
    struct tokenizer *t;
    char path[1024], line[65536];
    size_t cases = 0;
    snprintf(path, sizeof path, "%s", repo_path(MODEL));
    assert_ok(tokenizer_open(&t, path, &err), &err);
    FILE *f = fopen(repo_path("tests/data/story/tokenizer.jsonl"), "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        json_t *c = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(c);
        const json_t *text = json_object_get(c, "text");
        check_ids(t, json_string_value(text), json_string_length(text), json_object_get(c, "ids"));
        json_decref(c);
        cases++;
    }
    fclose(f);
    assert_true(cases >= 60);
    tokenizer_close(&t);
}

static void chats_are_those_of_transformers(void **state)
{
    struct moed_error err;
    struct tokenizer *t;
    struct chat_format *format;
    char path[1024];
    json_t *all = load_json("tests/data/story/chat.json"), *c;
    size_t i;
    snprintf(path, sizeof path, "%s", repo_path(MODEL));
    assert_ok(tokenizer_open(&t, path, &err), &err);
    assert_ok(chat_format_open(&format, path, NULL, &err), &err);
    assert_true(json_array_size(all) > 0);
    json_array_foreach(all, i, c)
    {
        struct buf text = {0};
        struct chat_input in = {
            .messages = json_object_get(c, "messages"),
            .add_generation_prompt = json_is_true(json_object_get(c, "add_generation_prompt")),
            .now_unix = INT64_MIN,
        };
        assert_ok(chat_format_render(format, &in, &text, &err), &err);
        assert_string_equal(buf_str(&text), json_string_value(json_object_get(c, "text")));
        check_ids(t, buf_str(&text), text.len, json_object_get(c, "ids"));
        buf_fini(&text);
    }
    json_decref(all);
    chat_format_close(&format);
    tokenizer_close(&t);
}

static struct moed_engine *open_engine(int64_t expert_cache_bytes)
{
    struct moed_error err;
    struct moed_engine *e;
    char path[1024];
    snprintf(path, sizeof path, "%s", repo_path(MODEL));
    struct moed_engine_config cfg = {
        .model_dir = path,
        .kv_dtype = "fp32",
        .expert_cache_bytes = expert_cache_bytes,
        .max_num_seqs = 4,
        .max_model_len = CONTEXT,
        .kv_cache_bytes = 64 << 20,
    };
    assert_ok(moed_engine_open(&e, &cfg, &err), &err);
    return e;
}

/* Feeds prompt and stored continuation; each step's best five must have the stored log
 * probabilities. */
static double logprobs_of(struct moed_engine *e, const json_t *item, struct answer *a)
{
    int32_t ids[2 * CONTEXT];
    size_t n_prompt = read_ids(json_object_get(item, "prompt_ids"), ids);
    size_t n = read_ids(json_object_get(item, "ids"), ids + n_prompt);
    double worst = 0;
    memset(a, 0, sizeof *a);
    struct moed_request *r = request_of(ids, n_prompt + n, 0, a);
    r->sampling.prompt_logprobs = 8;
    ask(e, r);
    assert_int_equal(a->error.code, 0);
    assert_int_equal(a->n_prompt, n_prompt + n);
    for (size_t s = 0; s < n; s++) {
        const json_t *top =
                         json_object_get(json_array_get(json_object_get(item, "steps"), s), "top"),
                     *pair;
        size_t k;
        json_array_foreach(top, k, pair)
        {
            json_int_t id = json_integer_value(json_array_get(pair, 0));
            double expected = json_number_value(json_array_get(pair, 1)), got = NAN;
            for (int32_t j = 0; j < a->prompt[n_prompt + s].n_top; j++)
                if (a->prompt_top[n_prompt + s][j].token == id)
                    got = a->prompt_top[n_prompt + s][j].logprob;
            if (!(fabs(got - expected) <= LOGPROB_TOLERANCE))
                fail_msg("%s, step %zu: token %lld has log probability %f instead of %f",
                         json_string_value(json_object_get(item, "name")), s, (long long)id, got,
                         expected);
            worst = fmax(worst, fabs(got - expected));
        }
    }
    return worst;
}

/* Greedy decoding follows the stored ids up to the first step where the two best are too close to
 * call. */
static void check_greedy(struct moed_engine *e, const json_t *item, struct answer *a)
{
    int32_t prompt[CONTEXT], expected[CONTEXT];
    size_t n_prompt = read_ids(json_object_get(item, "prompt_ids"), prompt);
    size_t n = read_ids(json_object_get(item, "ids"), expected), sure = 0;
    const json_t *steps = json_object_get(item, "steps");
    while (sure < n &&
           json_number_value(json_object_get(json_array_get(steps, sure), "gap")) >= GREEDY_GAP)
        sure++;
    memset(a, 0, sizeof *a);
    ask(e, request_of(prompt, n_prompt, (int32_t)n, a));
    assert_int_equal(a->error.code, 0);
    assert_true((size_t)a->n[0] >= sure);
    for (size_t i = 0; i < sure; i++)
        assert_int_equal(a->tokens[0][i], expected[i]);
    if (sure == n) {
        const char *text = json_string_value(json_object_get(item, "text"));
        assert_int_equal(a->text_bytes[0], strlen(text));
        assert_memory_equal(a->text[0], text, a->text_bytes[0]);
    }
}

static void check_vectors(int64_t expert_cache_bytes)
{
    struct moed_engine *e = open_engine(expert_cache_bytes);
    struct answer *a = mem_new(1, sizeof *a);
    json_t *all = load_json("tests/data/story/greedy.json"), *item;
    double worst = 0;
    size_t i;
    assert_int_equal(json_array_size(all), 10);
    json_array_foreach(all, i, item)
    {
        worst = fmax(worst, logprobs_of(e, item, a));
        check_greedy(e, item, a);
    }
    print_message("largest difference of a log probability: %.2g\n", worst);
    json_decref(all);
    free(a);
    moed_engine_close(&e);
}

static void text_is_that_of_transformers(void **state)
{
    check_vectors(-1);
}

static void text_is_the_same_with_a_cache_of_a_quarter(void **state)
{
    check_vectors(48 * 73728);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(tokens_are_those_of_tokenizers),
    cmocka_unit_test(chats_are_those_of_transformers),
    cmocka_unit_test(text_is_that_of_transformers),
    cmocka_unit_test(text_is_the_same_with_a_cache_of_a_quarter),
};
CHECK_MAIN(tests)
