/* What a model is besides its numbers: plans of memory, random weights, refusals, statistics. */
#include "check.h"

#include <math.h>

#include "base/mem.h"
#include "store/store.h"
#include "support_model.h"

static struct model_config small_config(void)
{
    struct model_config c;
    struct moed_error err;
    json_t *json;
    assert_ok(
        store_read_json(&json, repo_path("tests/data/models/qwen3_moe_mixed"), "config.json", &err),
        &err);
    assert_ok(model_config_parse(&c, json, &err), &err);
    json_decref(json);
    return c;
}

static const struct model_options small_options = {
    .max_rows = 8, .max_context = 64, .max_logits = 4, .kv_blocks = 9, .kv_dtype = DTYPE_BF16};

static struct model *open_dummy(struct dev **dev, const struct model_config *c,
                                const struct model_options *o)
{
    struct moed_error err;
    struct store *store;
    struct model *m;
    assert_ok(store_open_dummy(&store, &err), &err);
    assert_ok(dev_cpu_open(dev, &(struct dev_cpu_config){.threads = 2, .max_context = 64}, &err),
              &err);
    assert_ok(model_open(&m, c, o, store, *dev, &err), &err);
    store_close(&store);
    return m;
}

static void memory_is_the_sum_of_its_parts(void **state)
{
    struct model_config c = small_config();
    struct model_memory m;
    model_memory(&c, DTYPE_BF16, &small_options, &m);
    /* 2 of 6 layers have 16 experts of 3 * 9 * 16 weights in one page each. */
    assert_int_equal(m.expert_records, 32);
    assert_int_equal(m.expert_record_bytes, 4096);
    assert_int_equal(m.expert_host_bytes, 32 * 4096);
    assert_int_equal(m.cache_bytes, 0);
    /* layers * K and V * heads * 16 * head_dim * 2 bytes */
    assert_int_equal(m.kv_block_bytes, 6 * 2 * 3 * 16 * 6 * 2);
    assert_int_equal(m.kv_bytes, 9 * m.kv_block_bytes);
    uint64_t total, active;
    model_config_parameters(&c, &total, &active);
    uint64_t dense = 2 * (total - 32 * 3 * 9 * 16);
    assert_in_range(m.dense_bytes, dense, dense + 64 * 100);
    assert_true(m.activation_bytes > 0);
    assert_int_equal(m.total_bytes, m.dense_bytes + m.expert_host_bytes + m.cache_bytes +
                                        m.kv_bytes + m.activation_bytes);

    struct model_options o = small_options;
    o.pager = (struct pager_config){.mode = PAGER_CACHED,
                                    .cache_bytes = 5 * 4096 + 4095,
                                    .staging_slots = 2,
                                    .stage_min_rows = 1};
    model_memory(&c, DTYPE_BF16, &o, &m);
    assert_int_equal(m.cache_bytes, 7 * 4096);
    o.pager.cache_bytes = UINT64_MAX;
    model_memory(&c, DTYPE_BF16, &o, &m);
    assert_int_equal(m.cache_bytes, 34 * 4096);
}

static void sums_beyond_64_bits_are_refused(void **state)
{
    struct model_config c = small_config();
    struct model_options o = small_options;
    struct model_memory memory;
    struct moed_error err;
    struct model *m = NULL;
    c.n_layers = MODEL_MAX_LAYERS;
    c.n_heads = c.n_kv_heads = MODEL_MAX_HEADS;
    c.head_dim = MODEL_MAX_HEAD_DIM;
    o.kv_dtype = DTYPE_F32;
    o.kv_blocks = INT32_MAX;
    model_memory(&c, DTYPE_F32, &o, &memory);
    assert_int_equal(memory.kv_bytes, UINT64_MAX);
    assert_int_equal(memory.total_bytes, UINT64_MAX);
    assert_int_equal(model_open(&m, &c, &o, NULL, NULL, &err), MOED_ELIMIT);
    assert_null(m);
}

static void options_out_of_range_are_named(void **state)
{
    struct model_config c = small_config();
    struct moed_error err;
    struct model *m = NULL;
    struct model_options o = small_options;
    o.max_context = c.max_position + 1;
    assert_int_equal(model_open(&m, &c, &o, NULL, NULL, &err), MOED_EINVAL);
    assert_string_equal(err.param, "max_context");
    o = small_options;
    o.max_logits = o.max_rows + 1;
    assert_int_equal(model_open(&m, &c, &o, NULL, NULL, &err), MOED_EINVAL);
    assert_string_equal(err.param, "max_logits");
    o = small_options;
    o.kv_dtype = DTYPE_F16;
    assert_int_equal(model_open(&m, &c, &o, NULL, NULL, &err), MOED_EINVAL);
    assert_string_equal(err.param, "kv_dtype");
}

static void random_weights_run_and_repeat(void **state)
{
    static const int32_t token[] = {3, 1, 4, 1}, pos[] = {0, 1, 2, 3}, seq[] = {0, 0, 0, 0};
    static const int32_t blocks[] = {5}, rows[] = {3, 0};
    const struct model_seq seqs[] = {{blocks}};
    const struct model_batch batch = {
        .n_rows = 4, .token = token, .pos = pos, .seq = seq, .n_seqs = 1, .seqs = seqs};
    struct model_config c = small_config();
    struct moed_error err;
    float logits[2][2 * 64];
    for (int k = 0; k < 2; k++) {
        struct dev *dev;
        struct model *m = open_dummy(&dev, &c, &small_options);
        assert_ok(model_pass_begin(m, MODEL_STEP, &batch, &err), &err);
        assert_ok(model_pass_run(m, MODEL_STEP, c.n_layers, &err), &err);
        assert_ok(model_pass_logits(m, MODEL_STEP, rows, 2, logits[k], &err), &err);
        assert_int_equal(model_pass_logits(m, MODEL_STEP, rows, 5, logits[k], &err), MOED_EINVAL);
        assert_int_equal(model_pass_logits(m, MODEL_STEP, (const int32_t[]){4}, 1, logits[k], &err),
                         MOED_EINVAL);
        model_pass_end(m, MODEL_STEP);

        struct model_stats s;
        model_stats(m, &s);
        assert_int_equal(s.passes, 1);
        assert_int_equal(s.rows, 4);
        /* Each position read once and written once, in 6 layers, fp32 norms apart. */
        assert_int_equal(s.bytes_kv, 6 * (4 + 4) * 2 * 3 * 6 * 2);
        assert_int_equal(s.bytes_logits, 64 * 16 * 4);
        assert_true(s.bytes_experts > 0 && s.bytes_dense > 0 && s.bytes_attention > 0);
        assert_true(s.seconds_experts > 0 && s.seconds_attention > 0);
        model_close(&m);
        dev_close(&dev);
    }
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    float low = logits[0][0], high = low;
    for (int i = 0; i < 2 * 64; i++) {
        assert_true(isfinite(logits[0][i]));
        low = fminf(low, logits[0][i]);
        high = fmaxf(high, logits[0][i]);
    }
    assert_true(high - low > 1 && high - low < 100);
}

/* Rows go where the batch says, and the router's weights follow. */
static void forced_choices_are_the_ones_used(void **state)
{
    enum { LAYERS = 6, ROWS = 3, TOP_K = 3 };
    static const int32_t token[] = {3, 1, 4}, pos[] = {0, 1, 2}, seq[ROWS] = {0};
    static const int32_t blocks[] = {5}, rows[] = {2};
    const struct model_seq seqs[] = {{blocks}};
    struct model_config c = small_config();
    struct moed_error err;
    float logits[3][64];
    assert_int_equal(c.n_layers, LAYERS);
    assert_int_equal(c.top_k, TOP_K);
    struct dev *dev;
    struct model *m = open_dummy(&dev, &c, &small_options);
    uint64_t seen[LAYERS] = {0};
    for (int k = 0; k < 3; k++) {
        int32_t forced[LAYERS][ROWS][TOP_K];
        for (int32_t layer = 0; layer < LAYERS; layer++)
            for (int32_t i = 0; i < ROWS; i++)
                for (int32_t j = 0; j < TOP_K; j++)
                    forced[layer][i][j] = !c.moe_layer[layer] ? -1
                                          : k == 2 ? (layer + i * TOP_K + j) % c.n_experts
                                                   : (layer + j) % c.n_experts;
        const struct model_batch batch = {
            ROWS, token, pos, seq, 1, seqs, k == 0 ? NULL : &forced[0][0][0]};
        assert_ok(model_pass_begin(m, MODEL_STEP, &batch, &err), &err);
        assert_ok(model_pass_run(m, MODEL_STEP, c.n_layers, &err), &err);
        assert_ok(model_pass_logits(m, MODEL_STEP, rows, 1, logits[k], &err), &err);
        model_pass_end(m, MODEL_STEP);
        for (int32_t layer = 0; layer < LAYERS; layer++) {
            struct pager_counters count;
            pager_counters_layer(model_pager(m), layer, &count);
            uint64_t want = !c.moe_layer[layer] ? 0 : k == 1 ? TOP_K : ROWS * TOP_K;
            if (k > 0)
                assert_int_equal(count.uses - seen[layer], want);
            seen[layer] = count.uses;
        }
    }
    assert_memory_not_equal(logits[0], logits[1], sizeof logits[0]);
    assert_memory_not_equal(logits[1], logits[2], sizeof logits[0]);
    for (int i = 0; i < 64; i++)
        assert_true(isfinite(logits[1][i]) && isfinite(logits[2][i]));
    model_close(&m);
    dev_close(&dev);
}

static void a_wrong_batch_opens_no_pass(void **state)
{
    static const int32_t good[] = {0, 1}, block[] = {0}, no_block[] = {9};
    const struct model_seq seqs[] = {{block}}, bad_seqs[] = {{no_block}};
    const struct {
        struct model_batch batch;
        const char *word;
    } cases[] = {
        {{0, good, good, (const int32_t[]){0, 0}, 1, seqs}, "0 rows"},
        {{9, good, good, (const int32_t[]){0, 0}, 1, seqs}, "9 rows"},
        {{2, (const int32_t[]){0, 64}, good, (const int32_t[]){0, 0}, 1, seqs}, "vocabulary"},
        {{2, (const int32_t[]){-1, 0}, good, (const int32_t[]){0, 0}, 1, seqs}, "vocabulary"},
        {{2, good, (const int32_t[]){0, 2}, (const int32_t[]){0, 0}, 1, seqs}, "follow"},
        {{1, good, (const int32_t[]){64}, (const int32_t[]){0}, 1, seqs}, "context"},
        {{2, good, good, (const int32_t[]){0, 1}, 1, seqs}, "sequence"},
        {{2, good, good, (const int32_t[]){0, 0}, 1, bad_seqs}, "block"},
        {{1, good, good, (const int32_t[]){0}, 9, seqs}, "9 sequences"},
        {{1, good, good, (const int32_t[]){0}, 0, seqs}, "0 sequences"},
    };
    struct model_config c = small_config();
    struct dev *dev;
    struct model *m = open_dummy(&dev, &c, &small_options);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moed_error err = {0};
        assert_int_equal(model_pass_begin(m, MODEL_STEP, &cases[i].batch, &err), MOED_EINVAL);
        if (!strstr(err.text, cases[i].word))
            fail_msg("%s: %s", cases[i].word, err.text);
    }
    model_close(&m);
    dev_close(&dev);
}

static void a_pass_may_end_at_any_layer(void **state)
{
    static const int32_t zero[] = {0}, block[] = {0};
    const struct model_seq seqs[] = {{block}};
    const struct model_batch batch = {1, zero, zero, zero, 1, seqs};
    struct model_config c = small_config();
    struct moed_error err;
    struct dev *dev;
    struct model *m = open_dummy(&dev, &c, &small_options);
    for (int32_t end = 0; end <= c.n_layers; end++) {
        assert_ok(model_pass_begin(m, MODEL_STEP, &batch, &err), &err);
        assert_ok(model_pass_run(m, MODEL_STEP, end, &err), &err);
        model_pass_end(m, MODEL_STEP);
    }
    /* Closing with a pass open ends it. */
    assert_ok(model_pass_begin(m, MODEL_STEP, &batch, &err), &err);
    model_close(&m);
    dev_close(&dev);
}

/* The same bits from each, and counters that begin anew. */
static void the_cache_may_be_changed_between_passes(void **state)
{
    static const int32_t token[] = {3, 1, 4}, pos[] = {0, 1, 2}, seq[] = {0, 0, 0};
    static const int32_t blocks[] = {5}, rows[] = {2};
    const struct model_seq seqs[] = {{blocks}};
    const struct model_batch batch = {3, token, pos, seq, 1, seqs};
    const struct pager_config configs[] = {{.mode = PAGER_IN_PLACE},
                                           {.mode = PAGER_CACHED, .cache_bytes = 5 * 4096},
                                           {.mode = PAGER_CACHED}};
    struct model_config c = small_config();
    struct moed_error err;
    float logits[3][64];
    struct dev *dev;
    struct model *m = open_dummy(&dev, &c, &small_options);
    for (int k = 0; k < 3; k++) {
        struct pager_counters count;
        struct pager_info info;
        assert_ok(model_set_cache(m, &configs[k], &err), &err);
        assert_ok(model_pass_begin(m, MODEL_STEP, &batch, &err), &err);
        assert_ok(model_pass_run(m, MODEL_STEP, c.n_layers, &err), &err);
        assert_ok(model_pass_logits(m, MODEL_STEP, rows, 1, logits[k], &err), &err);
        model_pass_end(m, MODEL_STEP);
        assert_memory_equal(logits[k], logits[0], sizeof logits[0]);
        pager_info(model_pager(m), &info);
        pager_counters(model_pager(m), &count);
        assert_int_equal(info.slots, k == 0 ? 32 : k == 1 ? 5 : 0);
        assert_int_equal(count.activations, 2 * 3 * c.top_k);
        assert_int_equal(count.misses, k == 0 ? 0 : count.uses);
    }
    struct pager_config wrong = {.policy = "none"};
    assert_int_equal(model_set_cache(m, &wrong, &err), MOED_EINVAL);
    model_close(&m);
    dev_close(&dev);
}

static void weight_dtype_is_that_of_the_file(void **state)
{
    struct model_config c = small_config();
    struct moed_error err;
    struct store *store;
    assert_ok(store_open(&store, repo_path("tests/data/models/qwen3_moe_mixed"), &err), &err);
    c.dtype = DTYPE_F16;
    assert_int_equal(model_weight_dtype(&c, store), DTYPE_F32);
    store_close(&store);
    assert_ok(store_open_dummy(&store, &err), &err);
    assert_int_equal(model_weight_dtype(&c, store), DTYPE_F16);
    store_close(&store);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(memory_is_the_sum_of_its_parts),
    cmocka_unit_test(sums_beyond_64_bits_are_refused),
    cmocka_unit_test(options_out_of_range_are_named),
    cmocka_unit_test(random_weights_run_and_repeat),
    cmocka_unit_test(forced_choices_are_the_ones_used),
    cmocka_unit_test(a_wrong_batch_opens_no_pass),
    cmocka_unit_test(a_pass_may_end_at_any_layer),
    cmocka_unit_test(the_cache_may_be_changed_between_passes),
    cmocka_unit_test(weight_dtype_is_that_of_the_file),
};
CHECK_MAIN(tests)
