/* A device that fails at its Nth call: every failure comes back in words, nothing leaks. */
#include "check.h"

#include "store/store.h"
#include "support_model.h"

/* Forwards to a CPU device until the countdown ends. */
struct fault_dev {
    struct dev base;
    struct dev *inner;
    int allocs_left, ops_left; /* -1: never fails */
    int registered;            /* blocks of host memory, now */
};

static struct fault_dev *self_of(struct dev *dev)
{
    return (struct fault_dev *)dev;
}

static bool fails(int *left)
{
    if (*left == 0)
        return true;
    if (*left > 0)
        --*left;
    return false;
}

static void *fault_alloc(struct dev *dev, size_t bytes)
{
    struct fault_dev *f = self_of(dev);
    return fails(&f->allocs_left) ? NULL : f->inner->ops->alloc(f->inner, bytes);
}

static void fault_free(struct dev *dev, void *p, size_t bytes)
{
    self_of(dev)->inner->ops->free(self_of(dev)->inner, p, bytes);
}

static int fault_register(struct dev *dev, void *p, size_t bytes, size_t edge_bytes,
                          struct moed_error *err)
{
    struct fault_dev *f = self_of(dev);
    if (fails(&f->allocs_left))
        return moed_fail(err, MOED_ENOMEM, "the fault device registers nothing");
    f->registered++;
    return f->inner->ops->host_register(f->inner, p, bytes, edge_bytes, err);
}

static void fault_unregister(struct dev *dev, void *p)
{
    self_of(dev)->registered--;
    self_of(dev)->inner->ops->host_unregister(self_of(dev)->inner, p);
}

static int fault_copy_in(struct dev *dev, void *dst, const void *src, size_t bytes,
                         struct dev_event *ev)
{
    struct fault_dev *f = self_of(dev);
    return f->inner->ops->copy_in(f->inner, dst, src, bytes, ev);
}

static int fault_copy_out(struct dev *dev, void *dst, const void *src, size_t bytes)
{
    struct fault_dev *f = self_of(dev);
    return fails(&f->ops_left) ? MOED_EDEVICE : f->inner->ops->copy_out(f->inner, dst, src, bytes);
}

static int fault_event_wait(struct dev *dev, struct dev_event *ev)
{
    return self_of(dev)->inner->ops->event_wait(self_of(dev)->inner, ev);
}

#define FORWARD(op)                                                                                \
    static int fault_##op(struct dev *dev, const struct kern_##op *a)                              \
    {                                                                                              \
        struct fault_dev *f = self_of(dev);                                                        \
        return fails(&f->ops_left) ? MOED_EDEVICE : f->inner->kern->op(f->inner, a);               \
    }
FORWARD(embed)
FORWARD(rmsnorm)
FORWARD(linear)
FORWARD(rope)
FORWARD(kv_store)
FORWARD(attention)
FORWARD(silu_mul)
FORWARD(router)
FORWARD(combine)

static int fault_gate_up(struct dev *dev, const struct kern_experts *a)
{
    struct fault_dev *f = self_of(dev);
    return fails(&f->ops_left) ? MOED_EDEVICE : f->inner->kern->experts_gate_up(f->inner, a);
}

static int fault_down(struct dev *dev, const struct kern_experts *a)
{
    struct fault_dev *f = self_of(dev);
    return fails(&f->ops_left) ? MOED_EDEVICE : f->inner->kern->experts_down(f->inner, a);
}

static int fault_sync(struct dev *dev)
{
    return self_of(dev)->inner->kern->sync(self_of(dev)->inner);
}

static const struct dev_ops fault_ops = {
    .name = "fault",
    .alloc = fault_alloc,
    .free = fault_free,
    .alloc_shared = fault_alloc,
    .free_shared = fault_free,
    .host_register = fault_register,
    .host_unregister = fault_unregister,
    .copy_in = fault_copy_in,
    .event_wait = fault_event_wait,
    .copy_out = fault_copy_out,
};
static const struct dev_kern fault_kern = {
    .embed = fault_embed,
    .rmsnorm = fault_rmsnorm,
    .linear = fault_linear,
    .rope = fault_rope,
    .kv_store = fault_kv_store,
    .attention = fault_attention,
    .silu_mul = fault_silu_mul,
    .router = fault_router,
    .experts_gate_up = fault_gate_up,
    .experts_down = fault_down,
    .combine = fault_combine,
    .sync = fault_sync,
};

struct setup {
    struct fault_dev dev;
    struct model_config c;
    struct store *store;
    struct model_options o;
};

static void setup_open(struct setup *s)
{
    struct moed_error err;
    json_t *json;
    const char *dir = repo_path("tests/data/models/qwen3_moe_mixed");
    *s = (struct setup){
        .dev = {.base = {&fault_ops, &fault_kern}, .allocs_left = -1, .ops_left = -1},
        .o = {.max_rows = 8,
              .max_context = 64,
              .max_logits = 4,
              .kv_blocks = 4,
              .load_part_bytes = 32 << 10,
              .pager = {.mode = PAGER_CACHED, .cache_bytes = 8 * 4096}}};
    assert_ok(store_read_json(&json, dir, "config.json", &err), &err);
    assert_ok(model_config_parse(&s->c, json, &err), &err);
    json_decref(json);
    assert_ok(store_open(&s->store, dir, &err), &err);
    struct dev_cpu_config cpu = {.threads = 1, .max_context = 64};
    assert_ok(dev_cpu_open(&s->dev.inner, &cpu, &err), &err);
}

static void setup_close(struct setup *s)
{
    store_close(&s->store);
    dev_close(&s->dev.inner);
}

static void no_memory_is_said_and_nothing_leaks(void **state)
{
    struct setup s;
    int n = 0;
    setup_open(&s);
    for (;; n++) {
        struct moed_error err = {0};
        struct model *m = NULL;
        s.dev.allocs_left = n;
        int rc = model_open(&m, &s.c, &s.o, s.store, &s.dev.base, &err);
        if (rc == 0) {
            assert_true(s.dev.registered >=
                        4); /* parts of the experts alone: dense ones have left */
            model_close(&m);
            assert_int_equal(s.dev.registered, 0);
            break;
        }
        assert_null(m);
        assert_int_equal(s.dev.registered, 0);
        assert_int_equal(rc, MOED_ENOMEM);
        assert_true(*err.text != 0);
    }
    /* Registrations of several parts, KV, activations, slots. */
    assert_true(n >= 9);
    setup_close(&s);
}

/* The device comes later, or never. */
static void a_model_that_was_only_begun_can_be_closed(void **state)
{
    struct setup s;
    struct moed_error err;
    struct model *m;
    setup_open(&s);
    assert_ok(model_begin(&m, &s.c, &s.o, s.store, &err), &err);
    model_close(&m);
    assert_null(m);
    assert_ok(model_begin(&m, &s.c, &s.o, s.store, &err), &err);
    assert_ok(model_finish(m, &s.dev.base, &err), &err);
    model_close(&m);
    s.o.max_rows = 0;
    assert_int_equal(model_begin(&m, &s.c, &s.o, s.store, &err), MOED_EINVAL);
    assert_null(m);
    setup_close(&s);
}

static void a_failing_op_ends_the_pass_in_words(void **state)
{
    static const int32_t token[] = {5, 6}, pos[] = {0, 1}, seq[] = {0, 0}, block[] = {2};
    static const int32_t rows[] = {1};
    const struct model_seq seqs[] = {{block}};
    const struct model_batch batch = {2, token, pos, seq, 1, seqs};
    struct setup s;
    struct moed_error err;
    struct model *m;
    float logits[64];
    int n = 0, rc;
    setup_open(&s);
    assert_ok(model_open(&m, &s.c, &s.o, s.store, &s.dev.base, &err), &err);
    do {
        s.dev.ops_left = n++;
        rc = model_pass_begin(m, MODEL_STEP, &batch, &err);
        if (rc == 0) {
            if ((rc = model_pass_run(m, MODEL_STEP, s.c.n_layers, &err)) == 0)
                rc = model_pass_logits(m, MODEL_STEP, rows, 1, logits, &err);
            model_pass_end(m, MODEL_STEP);
        }
        struct pager_info info;
        pager_info(model_pager(m), &info);
        assert_int_equal(info.leases_out, 0);
        if (rc < 0) {
            assert_int_equal(rc, MOED_EDEVICE);
            assert_non_null(strstr(err.text, "the device failed in"));
        }
    } while (rc < 0);
    /* Embedding, 14 or so ops in each of 6 layers, 3 for the logits. */
    assert_in_range(n, 60, 120);
    model_close(&m);
    setup_close(&s);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(no_memory_is_said_and_nothing_leaks),
    cmocka_unit_test(a_model_that_was_only_begun_can_be_closed),
    cmocka_unit_test(a_failing_op_ends_the_pass_in_words),
};
CHECK_MAIN(tests)
