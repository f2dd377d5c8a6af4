#include "check.h"

#include <unistd.h>

#include "model/weights.h"
#include "support_edit.h"

/* A copy of a small model's tensors in a folder of its own, changed by `change`, then loaded. */
struct bench {
    struct model_config c;
    struct edit e;
    char dir[64], path[128];
    struct moed_error err;
    uint64_t progress_done, progress_total;
};

static void bench_open(struct bench *b, const char *model)
{
    char dir[1100];
    struct moed_error err;
    json_t *json;
    *b = (struct bench){0};
    snprintf(dir, sizeof dir, "%s/%s", repo_path("tests/data/models"), model);
    assert_ok(store_read_json(&json, dir, "config.json", &err), &err);
    assert_ok(model_config_parse(&b->c, json, &err), &err);
    json_decref(json);
    snprintf(dir + strlen(dir), sizeof dir - strlen(dir), "/model.safetensors");
    edit_open(&b->e, dir);
    snprintf(b->dir, sizeof b->dir, "/tmp/moed-weights-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    snprintf(b->path, sizeof b->path, "%s/model.safetensors", b->dir);
}

static void bench_close(struct bench *b)
{
    unlink(b->path);
    rmdir(b->dir);
    edit_close(&b->e);
}

static void note(void *user, uint64_t done_bytes, uint64_t total_bytes, double seconds)
{
    struct bench *b = user;
    b->progress_done = done_bytes;
    b->progress_total = total_bytes;
}

/* Writes the changed file and loads it; the weights stay when out is given. */
static int bench_load(struct bench *b, struct weights *out)
{
    struct store *store;
    struct weights w = {0};
    struct weights_load_options o = {.progress = note, .user = b};
    edit_write(&b->e, b->path);
    int rc = store_open(&store, b->dir, &b->err);
    if (rc < 0)
        return rc;
    rc = weights_load(&w, &b->c, store, &o, &b->err);
    if (out)
        *out = w;
    else
        weights_fini(&w);
    store_close(&store);
    return rc;
}

static void refused(struct bench *b, int code, const char *tensor)
{
    int rc = bench_load(b, NULL);
    if (rc != code || !strstr(b->err.text, tensor))
        fail_msg("%s: %d, \"%s\"", tensor, rc, b->err.text);
    bench_close(b);
}

static void all_bytes_arrive_where_the_layout_says(void **state)
{
    struct bench b;
    struct weights w;
    bench_open(&b, "qwen3_moe_mixed");
    assert_ok(bench_load(&b, &w), &b.err);
    assert_int_equal(b.progress_done, b.progress_total);
    assert_true(b.progress_total > 0);
    assert_int_equal(w.cls.bytes % 4096, 0);
    assert_int_equal(w.dense_bytes, weights_dense_bytes(&b.c, DTYPE_F32));
    const size_t expert_bytes = 9 * 16 * sizeof(float);
    for (int l = 0; l < b.c.n_layers; l++)
        for (int e = 0; e < b.c.n_experts; e++) {
            const uint8_t *record = w.host_of[l * b.c.n_experts + e];
            char name[128];
            assert_true((record != NULL) == b.c.moe_layer[l]);
            if (!record)
                continue;
            assert_int_equal((uintptr_t)record % 4096, 0);
            snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.gate_proj.weight", l, e);
            assert_memory_equal(record + w.cls.gate_off, edit_find(&b.e, name)->data, expert_bytes);
            snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.up_proj.weight", l, e);
            assert_memory_equal(record + w.cls.up_off, edit_find(&b.e, name)->data, expert_bytes);
            snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.down_proj.weight", l, e);
            assert_memory_equal(record + w.cls.down_off, edit_find(&b.e, name)->data, expert_bytes);
        }
    assert_memory_equal(w.layer[3].down.data,
                        edit_find(&b.e, "model.layers.3.mlp.down_proj.weight")->data,
                        16 * 28 * sizeof(float));
    assert_null(w.layer[3].router.data);
    assert_null(w.layer[1].gate.data);
    assert_memory_equal(w.head.data, edit_find(&b.e, "lm_head.weight")->data,
                        64 * 16 * sizeof(float));
    weights_fini(&w);
    bench_close(&b);
}

static void a_missing_tensor_is_named(void **state)
{
    static const char *const names[] = {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.2.self_attn.o_proj.bias",
        "model.layers.4.self_attn.q_norm.weight",
        "model.layers.1.mlp.gate.weight",
        "model.layers.3.mlp.up_proj.weight",
        "model.layers.5.mlp.experts.7.down_proj.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct bench b;
        bench_open(&b, "qwen3_moe_mixed");
        edit_drop(&b.e, names[i]);
        refused(&b, MOED_ENOTFOUND, names[i]);
    }
}

static void a_surplus_tensor_is_named(void **state)
{
    static const char *const names[] = {
        "model.layers.6.self_attn.q_proj.weight",
        "model.layers.1.mlp.experts.16.up_proj.weight",
        "model.layers.3.mlp.gate.weight",
        "model.layers.0.self_attn.q_proj.weight_scale",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct bench b;
        bench_open(&b, "qwen3_moe_mixed");
        edit_add(&b.e, names[i], "F32", 4, 4);
        refused(&b, MOED_EFORMAT, names[i]);
    }
}

static void buffers_of_older_files_are_no_surplus(void **state)
{
    struct bench b;
    bench_open(&b, "llama_mha_tied");
    edit_add(&b.e, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 5, 0);
    assert_ok(bench_load(&b, NULL), &b.err);
    bench_close(&b);
}

static void a_wrong_shape_is_named(void **state)
{
    static const struct {
        const char *name;
        int64_t rows, columns;
    } cases[] = {
        {"model.layers.0.input_layernorm.weight", 4, 4},
        {"model.layers.1.self_attn.q_proj.weight", 16, 18},
        {"model.layers.1.mlp.experts.2.gate_proj.weight", 16, 9},
        {"model.layers.1.mlp.gate.weight", 15, 16},
        {"lm_head.weight", 63, 16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bench b;
        bench_open(&b, "qwen3_moe_mixed");
        struct edit_tensor *t = edit_find(&b.e, cases[i].name);
        t->n_dims = 2;
        t->shape[0] = cases[i].rows;
        t->shape[1] = cases[i].columns;
        refused(&b, MOED_EFORMAT, cases[i].name);
    }
}

static void fused_experts_of_a_wrong_shape_are_named(void **state)
{
    struct bench b;
    bench_open(&b, "mixtral_fused");
    /* [experts][hidden][2 * intermediate], as another family has it. */
    struct edit_tensor *t = edit_find(&b.e, "model.layers.1.mlp.experts.gate_up_proj");
    t->shape[1] = 20;
    t->shape[2] = 36;
    refused(&b, MOED_EFORMAT, "model.layers.1.mlp.experts.gate_up_proj");
    bench_open(&b, "mixtral_fused");
    edit_drop(&b.e, "model.layers.1.mlp.experts.down_proj");
    refused(&b, MOED_ENOTFOUND, "model.layers.1.mlp.experts.down_proj");
}

static void experts_of_several_formats_are_refused(void **state)
{
    static const char name[] = "model.layers.3.mlp.experts.4.up_proj.weight";
    struct bench b;
    bench_open(&b, "qwen3_moe_mixed");
    snprintf(edit_find(&b.e, "model.layers.5.mlp.experts.4.up_proj.weight")->dtype, 8, "BF16");
    refused(&b, MOED_EUNSUPPORTED, "model.layers.5.mlp.experts.4.up_proj.weight");
    bench_open(&b, "qwen3_moe_mixed");
    edit_add(&b.e, name, "F32", 9, 16);
    refused(&b, MOED_EFORMAT, name);
    bench_open(&b, "qwen3_moe_mixed");
    snprintf(edit_find(&b.e, "model.layers.0.self_attn.v_proj.weight")->dtype, 8, "I32");
    refused(&b, MOED_EUNSUPPORTED, "model.layers.0.self_attn.v_proj.weight");
}

static void other_tensors_may_differ_in_format(void **state)
{
    struct bench b;
    struct weights w;
    bench_open(&b, "qwen3_moe_mixed");
    snprintf(edit_find(&b.e, "model.layers.1.input_layernorm.weight")->dtype, 8, "BF16");
    assert_ok(bench_load(&b, &w), &b.err);
    assert_int_equal(w.layer[1].attn_norm.dtype, DTYPE_BF16);
    assert_int_equal(w.layer[0].attn_norm.dtype, DTYPE_F32);
    weights_fini(&w);
    bench_close(&b);
}

static void a_tied_model_may_repeat_its_head(void **state)
{
    struct bench b;
    struct weights w;
    bench_open(&b, "llama_mha_tied");
    edit_add(&b.e, "lm_head.weight", "F32", 67, 30);
    assert_ok(bench_load(&b, &w), &b.err);
    assert_ptr_equal(w.head.data, w.embed.data);
    weights_fini(&w);
    bench_close(&b);
    bench_open(&b, "llama_mha_tied");
    edit_add(&b.e, "lm_head.weight", "F32", 67, 31);
    refused(&b, MOED_EFORMAT, "lm_head.weight");
}

static void a_truncated_file_is_refused(void **state)
{
    struct bench b;
    struct store *store;
    bench_open(&b, "llama_mha_tied");
    edit_write(&b.e, b.path);
    FILE *f = fopen(b.path, "rb");
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    fclose(f);
    assert_int_equal(truncate(b.path, size - 100), 0);
    assert_true(store_open(&store, b.dir, &b.err) < 0);
    print_message("%s\n", b.err.text);
    assert_non_null(strstr(b.err.text, b.e.tensor[b.e.n - 1].name));
    bench_close(&b);
}

/* Begins to load the unchanged file in parts of about so many bytes. */
static struct store *begin_in_parts(struct bench *b, struct weights *w, size_t part_bytes,
                                    struct weights_loading **l)
{
    struct store *store;
    edit_write(&b->e, b->path);
    assert_ok(store_open(&store, b->dir, &b->err), &b->err);
    struct weights_load_options o = {
        .part_bytes = part_bytes, .io_threads = 3, .progress = note, .user = b};
    assert_ok(weights_load_begin(l, w, &b->c, store, &o, &b->err), &b->err);
    return store;
}

/* Each byte of both blocks is in one part, and is what it stays when the part is handed out. */
static void parts_are_whole_and_cover_all(void **state)
{
    for (size_t part_bytes = 1; part_bytes <= 1 << 20; part_bytes *= 32) {
        struct bench b;
        struct weights w = {0};
        struct weights_loading *l;
        struct weights_part part;
        size_t dense = 0, arena = 0, parts = 0;
        int rc;
        bench_open(&b, "qwen3_moe_mixed");
        struct store *store = begin_in_parts(&b, &w, part_bytes, &l);
        uint8_t *seen = calloc(1, w.dense_bytes + w.arena_bytes),
                *copy = malloc(w.dense_bytes + w.arena_bytes);
        assert_true(seen && copy);
        while ((rc = weights_load_next(l, &part, &b.err)) > 0) {
            const uint8_t *block = part.in_arena ? w.arena : w.dense;
            size_t at = (size_t)(part.data - block);
            assert_int_equal((uintptr_t)part.data % 4096, 0);
            if (part.in_arena)
                assert_true(at % w.cls.bytes == 0 && part.bytes % w.cls.bytes == 0);
            *(part.in_arena ? &arena : &dense) += part.bytes;
            at += part.in_arena ? w.dense_bytes : 0;
            for (size_t i = 0; i < part.bytes; i++)
                assert_int_equal(seen[at + i]++, 0);
            memcpy(copy + at, part.data, part.bytes);
            parts++;
        }
        assert_ok(rc, &b.err);
        assert_true(weights_load_ended_us(l) > 0);
        weights_load_end(&l);
        assert_null(l);
        assert_int_equal(dense, w.dense_bytes);
        assert_int_equal(arena, w.arena_bytes);
        assert_true(part_bytes > 4096 || parts > 20);
        assert_true(part_bytes < 1 << 20 || parts == 2);
        assert_memory_equal(copy, w.dense, w.dense_bytes);
        assert_memory_equal(copy + w.dense_bytes, w.arena, w.arena_bytes);
        assert_memory_equal(w.head.data, edit_find(&b.e, "lm_head.weight")->data,
                            64 * 16 * sizeof(float));
        free(seen);
        free(copy);
        weights_fini(&w);
        store_close(&store);
        bench_close(&b);
    }
}

static void a_loading_may_be_left_at_any_part(void **state)
{
    for (int taken = 0; taken < 12; taken++) {
        struct bench b;
        struct weights w = {0};
        struct weights_loading *l;
        struct weights_part part;
        bench_open(&b, "qwen3_moe_mixed");
        struct store *store = begin_in_parts(&b, &w, 4096, &l);
        for (int i = 0; i < taken; i++)
            assert_int_equal(weights_load_next(l, &part, &b.err), 1);
        weights_load_end(&l);
        weights_fini(&w);
        store_close(&store);
        bench_close(&b);
    }
}

static void a_file_that_went_is_named(void **state)
{
    struct bench b;
    struct weights w = {0};
    struct weights_loading *l;
    struct weights_part part;
    struct store *store;
    struct weights_load_options o = {0};
    bench_open(&b, "qwen3_moe_mixed");
    edit_write(&b.e, b.path);
    assert_ok(store_open(&store, b.dir, &b.err), &b.err);
    unlink(b.path);
    assert_ok(weights_load_begin(&l, &w, &b.c, store, &o, &b.err), &b.err);
    assert_int_equal(weights_load_next(l, &part, &b.err), MOED_ENOTFOUND);
    assert_non_null(strstr(b.err.text, b.path));
    weights_load_end(&l);
    weights_fini(&w);
    store_close(&store);
    bench_close(&b);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(all_bytes_arrive_where_the_layout_says),
    cmocka_unit_test(a_missing_tensor_is_named),
    cmocka_unit_test(a_surplus_tensor_is_named),
    cmocka_unit_test(buffers_of_older_files_are_no_surplus),
    cmocka_unit_test(a_wrong_shape_is_named),
    cmocka_unit_test(fused_experts_of_a_wrong_shape_are_named),
    cmocka_unit_test(experts_of_several_formats_are_refused),
    cmocka_unit_test(other_tensors_may_differ_in_format),
    cmocka_unit_test(a_tied_model_may_repeat_its_head),
    cmocka_unit_test(a_truncated_file_is_refused),
    cmocka_unit_test(parts_are_whole_and_cover_all),
    cmocka_unit_test(a_loading_may_be_left_at_any_part),
    cmocka_unit_test(a_file_that_went_is_named),
};
CHECK_MAIN(tests)
