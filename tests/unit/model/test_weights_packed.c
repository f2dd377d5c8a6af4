/* Experts loaded into packed records hold, row by row, the bytes of those loaded into plain ones.
 */
#include "check.h"

#include <unistd.h>

#include "base/mem.h"
#include "model/family.h"
#include "model/weights_int.h"
#include "packed.h"
#include "support_edit.h"

struct shape {
    int hidden, inner, layers, experts;
};

/* Rows of 2,048 numbers come in several runs; those of 520 are not whole blocks. */
static const struct shape shapes[] = {{64, 24, 3, 6}, {2048, 768, 1, 2}, {1032, 520, 2, 3}};

static struct model_config config_of(const struct shape *s)
{
    struct model_config c = {.family = MODEL_QWEN3_MOE,
                             .architecture = "Qwen3MoeForCausalLM",
                             .vocab_size = 40,
                             .hidden = s->hidden,
                             .n_layers = s->layers,
                             .n_heads = 2,
                             .n_kv_heads = 1,
                             .head_dim = 8,
                             .max_position = 64,
                             .qk_norm = true,
                             .n_experts = s->experts,
                             .top_k = 2,
                             .moe_intermediate = s->inner,
                             .dtype = DTYPE_BF16};
    for (int i = 0; i < c.n_layers; i++)
        c.moe_layer[i] = true;
    return c;
}

/* A checkpoint in a folder of its own, and the same weights in memory. */
struct bench {
    struct model_config c;
    struct weights plain;
    struct edit e;
    uint16_t *fused; /* NULL: each expert has tensors of its own */
    char dir[64], path[128];
};

static void load_dummy(struct weights *w, const struct model_config *c, bool packed)
{
    struct moed_error err;
    struct store *store;
    struct weights_load_options o = {.packed = packed, .io_threads = 3};
    *w = (struct weights){0};
    assert_ok(store_open_dummy(&store, &err), &err);
    assert_ok(weights_load(w, c, store, &o, &err), &err);
    store_close(&store);
}

static int add_dense(void *arg, const struct weight_spec *s)
{
    struct bench *b = arg;
    edit_add(&b->e, s->name, "BF16", s->shape[0], s->n_dims == 2 ? s->shape[1] : 0);
    edit_find(&b->e, s->name)->data = s->into->data;
    return 0;
}

static void add_expert(struct bench *b, int layer, int expert)
{
    const struct record_class *cls = &b->plain.cls;
    const struct family *f = family_find(b->c.family);
    const uint8_t *record = b->plain.host_of[layer * b->c.n_experts + expert];
    const struct {
        const char *name;
        size_t at;
        int rows, columns;
    } part[] = {{f->gate, cls->gate_off, cls->intermediate, cls->hidden},
                {f->up, cls->up_off, cls->intermediate, cls->hidden},
                {f->down, cls->down_off, cls->hidden, cls->intermediate}};
    for (int i = 0; i < 3; i++) {
        char name[160];
        snprintf(name, sizeof name, "model.layers.%d.%s.%d.%s", layer, f->experts_prefix, expert,
                 part[i].name);
        edit_add(&b->e, name, "BF16", part[i].rows, part[i].columns);
        edit_find(&b->e, name)->data = record + part[i].at;
    }
}

/* One tensor [experts][rows][columns], of parts that lie `offsets` into each record. */
static uint16_t *add_fused(struct bench *b, int layer, const char *tail, const size_t *offsets,
                           int n_offsets, int rows, int columns, uint16_t *to)
{
    char name[160];
    size_t n = (size_t)rows * (size_t)columns;
    snprintf(name, sizeof name, "model.layers.%d.%s", layer, tail);
    edit_add(&b->e, name, "BF16", 0, 0);
    struct edit_tensor *t = edit_find(&b->e, name);
    t->n_dims = 3;
    t->shape[0] = b->c.n_experts;
    t->shape[1] = (int64_t)rows * n_offsets;
    t->shape[2] = columns;
    t->data = (const uint8_t *)to;
    for (int e = 0; e < b->c.n_experts; e++)
        for (int i = 0; i < n_offsets; i++, to += n)
            memcpy(to, (const uint8_t *)b->plain.host_of[layer * b->c.n_experts + e] + offsets[i],
                   n * sizeof *to);
    return to;
}

static void bench_open(struct bench *b, const struct shape *s, bool fused)
{
    *b = (struct bench){.c = config_of(s)};
    load_dummy(&b->plain, &b->c, false);
    const struct record_class *cls = &b->plain.cls;
    const struct family *f = family_find(b->c.family);
    const size_t both[] = {cls->gate_off, cls->up_off};
    if (fused)
        b->fused = mem_new(b->plain.arena_bytes, 1);
    weights_each_dense(&b->c, fused, &b->plain, add_dense, b);
    uint16_t *to = b->fused;
    for (int l = 0; l < b->c.n_layers; l++) {
        for (int e = 0; !fused && e < b->c.n_experts; e++)
            add_expert(b, l, e);
        if (!fused)
            continue;
        to = add_fused(b, l, f->fused_gate_up, both, 2, s->inner, s->hidden, to);
        to = add_fused(b, l, f->fused_down, &cls->down_off, 1, s->hidden, s->inner, to);
    }
    snprintf(b->dir, sizeof b->dir, "/tmp/moed-packed-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    snprintf(b->path, sizeof b->path, "%s/model.safetensors", b->dir);
}

static void bench_close(struct bench *b)
{
    unlink(b->path);
    rmdir(b->dir);
    edit_close(&b->e);
    weights_fini(&b->plain);
    free(b->fused);
}

static int bench_load(struct bench *b, struct weights *w, bool packed, struct moed_error *err)
{
    struct store *store;
    struct weights_load_options o = {.packed = packed, .io_threads = 3};
    *w = (struct weights){0};
    edit_write(&b->e, b->path);
    int rc = store_open(&store, b->dir, err);
    assert_ok(rc, err);
    rc = weights_load(w, &b->c, store, &o, err);
    store_close(&store);
    return rc;
}

static void same_rows(const uint8_t *packed, const uint8_t *plain, int rows, int columns)
{
    uint16_t *row = mem_new((size_t)columns, sizeof *row);
    for (int i = 0; i < rows; i++) {
        packed_row_unpack(packed + (size_t)i * packed_row_bytes(columns), columns, row);
        assert_memory_equal(row, plain + (size_t)i * (size_t)columns * sizeof *row,
                            (size_t)columns * sizeof *row);
    }
    free(row);
}

static void all_zero(const uint8_t *from, const uint8_t *to)
{
    for (; from < to; from++)
        assert_int_equal(*from, 0);
}

static void same_record(const uint8_t *packed, const struct record_class *p, const uint8_t *plain,
                        const struct record_class *c)
{
    same_rows(packed + p->gate_off, plain + c->gate_off, c->intermediate, c->hidden);
    same_rows(packed + p->up_off, plain + c->up_off, c->intermediate, c->hidden);
    same_rows(packed + p->down_off, plain + c->down_off, c->hidden, c->intermediate);
    size_t in = (size_t)p->intermediate * p->in_row_bytes;
    all_zero(packed + p->gate_off + in, packed + p->up_off);
    all_zero(packed + p->up_off + in, packed + p->down_off);
    all_zero(packed + p->down_off + (size_t)p->hidden * p->down_row_bytes, packed + p->lists_off);
    all_zero(packed + p->lists_off + p->lists_bytes, packed + p->bytes);
}

static void same_weights(const struct model_config *c, const struct weights *packed,
                         const struct weights *plain)
{
    assert_true(packed->cls.packed && !plain->cls.packed);
    assert_int_equal(packed->arena_bytes,
                     (uint64_t)c->n_layers * (uint64_t)c->n_experts * packed->cls.bytes);
    for (int i = 0; i < c->n_layers * c->n_experts; i++)
        same_record(packed->host_of[i], &packed->cls, plain->host_of[i], &plain->cls);
    assert_int_equal(packed->dense_bytes, plain->dense_bytes);
    assert_memory_equal(packed->embed.data, plain->embed.data,
                        (size_t)c->vocab_size * (size_t)c->hidden * 2);
    assert_memory_equal(packed->layer[0].router.data, plain->layer[0].router.data,
                        (size_t)c->n_experts * (size_t)c->hidden * 2);
}

static void files_arrive_packed(bool fused)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct bench b;
        struct weights w;
        struct moed_error err;
        bench_open(&b, &shapes[i], fused);
        /* Rows that have more escapes than they hold themselves. */
        uint16_t *some = (uint16_t *)(void *)(b.plain.arena + b.plain.cls.down_off);
        for (int k = 0; k < 5; k++)
            some[2 + k] = (uint16_t)(0x0101 * (k + 1));
        if (fused) {
            size_t both = 2 * (size_t)shapes[i].inner * (size_t)shapes[i].hidden;
            memcpy(b.fused + both * (size_t)shapes[i].experts + 2, some + 2, 10);
        }
        /* At even and odd places of the file. */
        for (b.e.pad = 0; b.e.pad < 2; b.e.pad++) {
            assert_ok(bench_load(&b, &w, true, &err), &err);
            same_weights(&b.c, &w, &b.plain);
            weights_fini(&w);
        }
        bench_close(&b);
    }
}

static void experts_of_files_arrive_packed(void **state)
{
    files_arrive_packed(false);
}

static void fused_experts_arrive_packed(void **state)
{
    files_arrive_packed(true);
}

static void made_up_experts_are_the_same_packed(void **state)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct model_config c = config_of(&shapes[i]);
        struct weights plain, packed;
        load_dummy(&plain, &c, false);
        load_dummy(&packed, &c, true);
        same_weights(&c, &packed, &plain);
        weights_fini(&plain);
        weights_fini(&packed);
    }
}

/* Parts cover the arena, and nothing of one changes once it is handed out. */
static void parts_of_packed_experts_are_whole(void **state)
{
    for (size_t part_bytes = 1; part_bytes <= 1 << 25; part_bytes *= 64) {
        struct bench b;
        struct weights w = {0};
        struct weights_loading *l;
        struct weights_part part;
        struct store *store;
        struct moed_error err;
        size_t arena = 0;
        int rc;
        bench_open(&b, &shapes[2], false);
        edit_write(&b.e, b.path);
        assert_ok(store_open(&store, b.dir, &err), &err);
        struct weights_load_options o = {.packed = true, .part_bytes = part_bytes, .io_threads = 3};
        assert_ok(weights_load_begin(&l, &w, &b.c, store, &o, &err), &err);
        uint8_t *copy = malloc(w.arena_bytes);
        assert_non_null(copy);
        while ((rc = weights_load_next(l, &part, &err)) > 0) {
            if (!part.in_arena)
                continue;
            assert_true((size_t)(part.data - w.arena) % w.cls.bytes == 0 &&
                        part.bytes % w.cls.bytes == 0);
            memcpy(copy + (part.data - w.arena), part.data, part.bytes);
            arena += part.bytes;
        }
        assert_ok(rc, &err);
        weights_load_end(&l);
        assert_int_equal(arena, w.arena_bytes);
        assert_memory_equal(copy, w.arena, w.arena_bytes);
        same_weights(&b.c, &w, &b.plain);
        free(copy);
        weights_fini(&w);
        store_close(&store);
        bench_close(&b);
    }
}

static void bits_that_do_not_pack_are_refused_by_name(void **state)
{
    static const char name[] = "model.layers.1.mlp.experts.2.up_proj.weight";
    struct bench b;
    struct weights w;
    struct moed_error err;
    bench_open(&b, &shapes[2], false);
    size_t n = (size_t)shapes[2].hidden * (size_t)shapes[2].inner;
    uint16_t *bits = mem_new(n, sizeof *bits);
    uint32_t x = 1;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525 + 1013904223;
        bits[i] = (uint16_t)(x >> 16);
    }
    edit_find(&b.e, name)->data = (const uint8_t *)bits;
    assert_int_equal(bench_load(&b, &w, true, &err), MOED_EUNSUPPORTED);
    assert_string_equal(err.param, WEIGHTS_UNPACKABLE);
    assert_non_null(strstr(err.text, name));
    assert_null(w.arena);
    assert_ok(bench_load(&b, &w, false, &err), &err);
    weights_fini(&w);
    free(bits);
    bench_close(&b);
}

static void formats_and_widths_that_do_not_pack_are_refused(void **state)
{
    struct bench b;
    struct weights w;
    struct moed_error err;
    bench_open(&b, &shapes[0], false);
    for (size_t i = 0; i < b.e.n; i++)
        snprintf(b.e.tensor[i].dtype, sizeof b.e.tensor[i].dtype, "F16");
    assert_int_equal(bench_load(&b, &w, true, &err), MOED_EUNSUPPORTED);
    assert_string_equal(err.param, WEIGHTS_UNPACKABLE);
    assert_non_null(strstr(err.text, "F16"));
    bench_close(&b);
    bench_open(&b, &(struct shape){64, 20, 2, 2}, false);
    assert_int_equal(bench_load(&b, &w, true, &err), MOED_EUNSUPPORTED);
    assert_string_equal(err.param, WEIGHTS_UNPACKABLE);
    assert_non_null(strstr(err.text, "64 and 20 wide"));
    bench_close(&b);
}

static void a_packed_loading_may_be_left(void **state)
{
    struct bench b;
    bench_open(&b, &shapes[1], false);
    edit_write(&b.e, b.path);
    for (int taken = 0; taken < 3; taken++) {
        struct weights w = {0};
        struct weights_loading *l;
        struct weights_part part;
        struct store *store;
        struct moed_error err;
        struct weights_load_options o = {.packed = true, .part_bytes = 4096, .io_threads = 2};
        assert_ok(store_open(&store, b.dir, &err), &err);
        assert_ok(weights_load_begin(&l, &w, &b.c, store, &o, &err), &err);
        for (int i = 0; i < taken; i++)
            assert_int_equal(weights_load_next(l, &part, &err), 1);
        weights_load_end(&l);
        weights_fini(&w);
        store_close(&store);
    }
    bench_close(&b);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(experts_of_files_arrive_packed),
    cmocka_unit_test(fused_experts_arrive_packed),
    cmocka_unit_test(made_up_experts_are_the_same_packed),
    cmocka_unit_test(parts_of_packed_experts_are_whole),
    cmocka_unit_test(bits_that_do_not_pack_are_refused_by_name),
    cmocka_unit_test(formats_and_widths_that_do_not_pack_are_refused),
    cmocka_unit_test(a_packed_loading_may_be_left),
};
CHECK_MAIN(tests)
