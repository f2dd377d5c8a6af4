/* Opening model folders: bare configs, text, a trained model, and what is refused. */
#include "support_real.h"

#include <jansson.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "text/tokenizer.h"

struct folder {
    char dir[64], config[96], tokenizer[96], generation[96];
};

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static struct folder folder_make(const char *config)
{
    struct folder d = {.dir = "/tmp/moed-test-XXXXXX"};
    assert_non_null(mkdtemp(d.dir));
    snprintf(d.config, sizeof d.config, "%s/config.json", d.dir);
    snprintf(d.tokenizer, sizeof d.tokenizer, "%s/tokenizer.json", d.dir);
    snprintf(d.generation, sizeof d.generation, "%s/generation_config.json", d.dir);
    put(d.config, config);
    return d;
}

static void folder_drop(struct folder *d)
{
    remove(d->config);
    remove(d->tokenizer);
    remove(d->generation);
    remove(d->dir);
}

static const char tiny[] =
    "{\"architectures\": [\"Qwen3MoeForCausalLM\"], \"model_type\": \"qwen3_moe\","
    "\"vocab_size\": 258, \"hidden_size\": 32, \"num_hidden_layers\": 2,"
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 8,"
    "\"intermediate_size\": 32, \"moe_intermediate_size\": 16, \"num_experts\": 8,"
    "\"num_experts_per_tok\": 2, \"norm_topk_prob\": true, \"hidden_act\": \"silu\","
    "\"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,"
    "\"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\", \"eos_token_id\": 256}";

/* A byte-level vocabulary: id i is byte i, 256 is the end token. */
static void put_tokenizer(const struct folder *d)
{
    struct buf b = {0};
    buf_puts(&b, "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 256, \"content\": \"<eos>\","
                 "\"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": "
                 "false, \"special\": true}], \"normalizer\": null, \"pre_tokenizer\": {\"type\": "
                 "\"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                 "\"use_regex\": true}, \"post_processor\": null, \"decoder\": {\"type\": "
                 "\"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
                 "\"use_regex\": true}, \"model\": {\"type\": \"BPE\", \"dropout\": null, "
                 "\"unk_token\": null, \"continuing_subword_prefix\": null, "
                 "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"vocab\": {");
    /* Printable bytes stand for themselves, the others follow from U+0100 on (GPT-2's table). */
    unsigned other = 256;
    for (unsigned i = 0; i < 256; i++) {
        bool own = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
        unsigned cp = own ? i : other++;
        buf_puts(&b, i ? ", \"" : "\"");
        if (cp == '"' || cp == '\\')
            buf_putc(&b, '\\');
        buf_add_utf8(&b, cp);
        buf_printf(&b, "\": %u", i);
    }
    buf_puts(&b, "}, \"merges\": []}}");
    put(d->tokenizer, buf_str(&b));
    buf_fini(&b);
}

static struct moed_engine_config dummy(const struct folder *d)
{
    return (struct moed_engine_config){
        .model_dir = d->dir, .load_format = "dummy", .threads = 2, .expert_cache_bytes = -1};
}

static struct seen *run(struct moed_engine *e, int32_t max_tokens, float temperature, uint64_t seed)
{
    static const int32_t prompt[5] = {72, 101, 108, 108, 111};
    struct seen *s = mem_new(1, sizeof *s);
    struct moed_request *r = request_of(prompt, 5, max_tokens, &s->answer);
    r->sampling.temperature = temperature;
    r->sampling.seed = seed;
    r->sampling.has_seed = true;
    ask(e, r);
    assert_int_equal(s->answer.error.code, 0);
    return s;
}

static void a_bare_config_runs_on_token_ids(void **state)
{
    struct folder d = folder_make(tiny);
    struct moed_engine_config cfg = dummy(&d);
    struct moed_engine *e = real_open(&cfg);
    assert_null(moed_engine_tokenizer(e));
    struct moed_engine_info info;
    moed_engine_info(e, &info);
    assert_string_equal(info.architecture, "Qwen3MoeForCausalLM");
    assert_int_equal(info.vocab_size, 258);
    assert_int_equal(info.max_model_len, 512);
    assert_int_equal(info.n_experts, 8);
    assert_true(info.parameters > info.active_parameters && info.active_parameters > 0);
    struct seen *s = run(e, 20, 0, 0);
    assert_true(s->answer.n[0] > 0);
    assert_string_equal(s->answer.text[0], "");
    free(s);
    moed_engine_close(&e);
    folder_drop(&d);
}

/* Random bytes make every kind of broken UTF-8; streamed text must equal the text of all ids. */
static void streamed_text_is_the_text_of_all_tokens(void **state)
{
    struct folder d = folder_make(tiny);
    put_tokenizer(&d);
    struct moed_engine_config cfg = dummy(&d);
    struct moed_engine *e = real_open(&cfg);
    const struct tokenizer *t = moed_engine_tokenizer(e);
    assert_non_null(t);
    size_t bytes = 0;
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct seen *s = run(e, 60, 1, seed);
        struct buf all = {0};
        int32_t n = s->answer.n[0];
        n -= s->answer.finish[0] == MOED_FINISH_STOP;
        tokenizer_decode(t, s->answer.tokens[0], (size_t)n, DETOKENIZER_SKIP_SPECIAL, &all);
        assert_int_equal(s->answer.text_bytes[0], all.len);
        assert_memory_equal(s->answer.text[0], buf_str(&all), all.len);
        bytes += all.len;
        buf_fini(&all);
        free(s);
    }
    assert_true(bytes > 500);
    moed_engine_close(&e);
    folder_drop(&d);
}

static void generation_config_gives_defaults(void **state)
{
    struct folder d = folder_make(tiny);
    put(d.generation, "{\"temperature\": 0.6, \"top_p\": 0.95, \"top_k\": 20, \"eos_token_id\": "
                      "[1, 2], \"do_sample\": true}");
    struct moed_engine_config cfg = dummy(&d);
    struct moed_engine *e = real_open(&cfg);
    struct moed_sampling s;
    moed_engine_sampling(e, &s);
    assert_true(s.temperature == 0.6f && s.top_p == 0.95f && s.top_k == 20 && s.min_p == 0);
    moed_engine_close(&e);
    cfg.no_generation_config = true;
    e = real_open(&cfg);
    moed_engine_sampling(e, &s);
    assert_true(s.temperature == 1 && s.top_p == 1 && s.top_k == 0);
    moed_engine_close(&e);
    folder_drop(&d);
}

struct counted {
    uint64_t activations, hits, misses;
};

static void count(void *user, const char *name, const char *help, uint64_t value)
{
    struct counted *c = user;
    assert_true(strlen(help) > 0);
    if (!strcmp(name, "activations"))
        c->activations = value;
    if (!strcmp(name, "hits"))
        c->hits = value;
    if (!strcmp(name, "misses"))
        c->misses = value;
}

static void the_pager_shows_its_numbers(void **state)
{
    struct folder d = folder_make(tiny);
    struct moed_engine_config cfg = dummy(&d);
    cfg.expert_cache_bytes = 4 * 4096;
    struct moed_engine *e = real_open(&cfg);
    free(run(e, 10, 0, 0));
    struct counted all = {0}, layer = {0}, sum = {0};
    assert_int_equal(moed_engine_pager_counters(e, -1, count, &all), 0);
    for (int32_t i = 0; i < 2; i++) {
        assert_int_equal(moed_engine_pager_counters(e, i, count, &layer), 0);
        sum.activations += layer.activations;
        sum.misses += layer.misses;
    }
    assert_true(all.activations > 0 && all.misses > 0);
    assert_int_equal(all.activations, sum.activations);
    assert_int_equal(all.misses, sum.misses);
    assert_int_equal(moed_engine_pager_counters(e, 2, count, &layer), MOED_ENOTFOUND);
    struct moed_pager_info info;
    assert_int_equal(moed_engine_pager_info(e, &info), 0);
    assert_false(info.in_place);
    assert_string_equal(info.policy, "steady");
    assert_int_equal(info.slots, 4);
    moed_engine_close(&e);
    folder_drop(&d);
}

static void refused(const struct moed_engine_config *cfg, int code, const char *param,
                    const char *words)
{
    struct moed_engine *e;
    struct moed_error err = {0};
    int rc = moed_engine_open(&e, cfg, &err);
    if (rc != code || strcmp(err.param, param) != 0 || !strstr(err.text, words))
        fail_msg("%d %s: %s", rc, err.param, err.text);
    assert_null(e);
}

static void what_cannot_run_is_refused_by_name(void **state)
{
    struct folder d = folder_make(tiny);
    struct moed_engine_config good = dummy(&d), c;
#define BAD(field, value, code, param, words)                                                      \
    do {                                                                                           \
        c = good;                                                                                  \
        c.field = value;                                                                           \
        refused(&c, code, param, words);                                                           \
    } while (0)
    BAD(model_dir, NULL, MOED_EINVAL, "model", "no model");
    BAD(model_dir, "/nowhere", MOED_ENOTFOUND, "", "config.json");
    BAD(load_format, "gguf", MOED_EINVAL, "load-format", "gguf");
    BAD(load_format, "auto", MOED_ENOTFOUND, "", "safetensors");
    BAD(isa, "mmx", MOED_EINVAL, "isa", "mmx");
    BAD(expert_records, "small", MOED_EINVAL, "expert-records", "small");
    BAD(kv_dtype, "fp8", MOED_EINVAL, "kv-cache-dtype", "fp8");
    BAD(expert_policy, "fifo", MOED_EINVAL, "expert-policy", "lfru");
    BAD(max_model_len, 513, MOED_EINVAL, "max-model-len", "512");
    BAD(max_num_seqs, -1, MOED_EINVAL, "max-num-seqs", "-1");
    BAD(max_batched_tokens, 63, MOED_EINVAL, "max-num-batched-tokens", "64");
    BAD(kv_cache_bytes, 1, MOED_EINVAL, "kv-cache-size", "block");
    BAD(kv_cache_bytes, (uint64_t)1 << 50, MOED_ENOMEM, "", "does not fit");
    put(d.tokenizer, "{");
    BAD(threads, 1, MOED_EFORMAT, "", "tokenizer.json");
    BAD(device, "tpu", MOED_EINVAL, "device", "tpu"); /* is told before the tokenizer's fault */
    put(d.config, "{\"architectures\": [\"T5ForConditionalGeneration\"]}");
    BAD(threads, 1, MOED_EUNSUPPORTED, "architectures", "T5");
    BAD(device, "tpu", MOED_EUNSUPPORTED, "architectures", "T5"); /* and the folder's before it */
    char words[600];
    snprintf(words, sizeof words, "%s: config.json: architectures", d.dir);
    BAD(threads, 1, MOED_EUNSUPPORTED, "architectures", words);
    folder_drop(&d);
}

/* A trained model, end to end: the text that others get from the same file. */
static void stories_are_told_as_expected(void **state)
{
    json_t *want = json_load_file(data_path("models/stories260K/expected.json"), 0, NULL);
    assert_non_null(want);
    json_t *ids = json_object_get(want, "greedy_ids");
    size_t n = json_array_size(ids);
    assert_true(n > 100 && n < 400);
    struct moed_engine_config cfg = {.model_dir = data_path("models/stories260K"),
                                     .kv_dtype = "fp32",
                                     .threads = 2,
                                     .expert_cache_bytes = -1};
    struct moed_engine *e = real_open(&cfg);
    int32_t first = (int32_t)json_integer_value(json_array_get(ids, 0));
    struct seen *s = mem_new(1, sizeof *s);
    s->any_position = true;
    struct answer *a = &s->answer;
    ask(e, request_of(&first, 1, (int32_t)n - 1, a));
    assert_int_equal(a->error.code, 0);
    for (size_t i = 1; i < n; i++)
        assert_int_equal(a->tokens[0][i - 1], json_integer_value(json_array_get(ids, i)));
    moed_engine_close(&e);
    json_decref(want);
    free(s);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_bare_config_runs_on_token_ids),
    cmocka_unit_test(streamed_text_is_the_text_of_all_tokens),
    cmocka_unit_test(generation_config_gives_defaults),
    cmocka_unit_test(the_pager_shows_its_numbers),
    cmocka_unit_test(what_cannot_run_is_refused_by_name),
    cmocka_unit_test(stories_are_told_as_expected),
};
CHECK_MAIN(tests)
