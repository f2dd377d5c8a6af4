#include "check.h"

#include <sys/stat.h>

#include "base/mem.h"
#include "engine/plan.h"
#include "sched/kv.h"

/* As the published Qwen3-30B-A3B, cut to four layers. */
static struct model_config qwen3(void)
{
    struct model_config c = {.family = MODEL_QWEN3_MOE,
                             .vocab_size = 151936,
                             .hidden = 2048,
                             .n_layers = 4,
                             .n_heads = 32,
                             .n_kv_heads = 4,
                             .head_dim = 128,
                             .max_position = 40960,
                             .rms_eps = 1e-6f,
                             .rope_theta = 1e6,
                             .qk_norm = true,
                             .n_experts = 128,
                             .top_k = 8,
                             .moe_intermediate = 768,
                             .dtype = DTYPE_BF16};
    for (int i = 0; i < c.n_layers; i++)
        c.moe_layer[i] = true;
    return c;
}

#define GIB ((uint64_t)1 << 30)
static const uint64_t kv_token_bytes = 4 * 2 * 4 * 128 * 2; /* layers, K and V, heads, bf16 */
static const uint64_t record_bytes = (uint64_t)3 * 2048 * 768 * 2;

static int plan(struct engine_plan *p, const struct moed_engine_config *cfg, uint64_t available,
                struct moed_error *err)
{
    struct model_config c = qwen3();
    struct memory_limits limits = {available, available, UINT64_MAX};
    int rc = engine_plan(p, cfg, &c, DTYPE_BF16, 2, &limits, err);
    if (rc == 0) {
        assert_true(p->total_bytes <= p->budget_bytes && p->budget_bytes < available);
        assert_true(p->memory.kv_bytes ==
                    (uint64_t)p->options.kv_blocks * SCHED_BLOCK_TOKENS * kv_token_bytes);
        assert_true(p->total_bytes >= p->memory.total_bytes + p->sampling_bytes);
    }
    return rc;
}

static const struct moed_engine_config in_place = {.expert_cache_bytes = -1,
                                                   .expert_records = "plain"};

static void plenty_of_memory_serves_the_full_context(void **state)
{
    struct engine_plan p;
    struct moed_error err;
    assert_ok(plan(&p, &in_place, 64 * GIB, &err), &err);
    assert_int_equal(p.max_model_len, 40960);
    assert_int_equal(p.max_seqs, 64);
    assert_int_equal(p.max_batched_tokens, 512);
    assert_int_equal(p.max_queue, 256);
    assert_int_equal(p.threads, 2);
    assert_int_equal(p.memory.expert_host_bytes, 512 * record_bytes);
    assert_int_equal(p.memory.cache_bytes, 0);
    assert_true(p.options.kv_blocks >= 40960 / SCHED_BLOCK_TOKENS);
    assert_true(p.memory.kv_bytes <= p.budget_bytes / 4 + GIB);
}

/* Enough for all but the KV cache and 100 MiB more. */
static uint64_t scarce(void)
{
    struct engine_plan p;
    struct moed_error err;
    assert_ok(plan(&p, &in_place, 64 * GIB, &err), &err);
    return (p.total_bytes - p.memory.kv_bytes + (100 << 20)) / 19 * 20;
}

static void little_memory_shortens_the_context(void **state)
{
    struct engine_plan p;
    struct moed_error err;
    uint64_t available = scarce();
    assert_ok(plan(&p, &in_place, available, &err), &err);
    assert_true(p.max_model_len < 40960 && p.max_model_len >= SCHED_BLOCK_TOKENS);
    assert_true(p.max_model_len <= p.options.kv_blocks * SCHED_BLOCK_TOKENS);
    /* What is left would not hold one more block. */
    assert_true(p.budget_bytes - p.total_bytes <
                2 * SCHED_BLOCK_TOKENS * kv_token_bytes + (1 << 20) * 20);
    struct moed_engine_config cfg = in_place;
    cfg.max_model_len = 40960;
    assert_int_equal(plan(&p, &cfg, available, &err), MOED_ENOMEM);
    assert_string_equal(err.param, "max-model-len");
    assert_non_null(strstr(err.text, "40960"));
}

static void what_does_not_fit_is_refused_with_the_numbers(void **state)
{
    struct engine_plan p;
    struct moed_error err;
    assert_int_equal(plan(&p, &in_place, 4 * GIB, &err), MOED_ENOMEM);
    char experts[32], available[32];
    snprintf(experts, sizeof experts, "%.1f of experts", 512.0 * (double)record_bytes / 1048576.0);
    snprintf(available, sizeof available, "%.1f MiB available", 4096.0);
    assert_non_null(strstr(err.text, experts));
    assert_non_null(strstr(err.text, available));
    struct moed_engine_config cfg = in_place;
    cfg.kv_cache_bytes = 3 * GIB;
    assert_ok(plan(&p, &cfg, 12 * GIB, &err), &err);
    assert_int_equal(p.options.kv_blocks,
                     (int32_t)(3 * GIB / (SCHED_BLOCK_TOKENS * kv_token_bytes)));
    assert_int_equal(plan(&p, &cfg, 8 * GIB, &err), MOED_ENOMEM);
    assert_int_equal(plan(&p, &in_place, 0, &err), MOED_ENOMEM);
}

static void slots_of_the_expert_cache_count(void **state)
{
    struct engine_plan p;
    struct moed_error err;
    struct moed_engine_config cfg = in_place;
    cfg.expert_cache_bytes = (int64_t)(100 * record_bytes);
    assert_ok(plan(&p, &cfg, 20 * GIB, &err), &err);
    assert_int_equal(p.options.pager.mode, PAGER_CACHED);
    assert_int_equal(p.memory.cache_bytes, 100 * record_bytes);
    assert_int_equal(plan(&p, &cfg, scarce(), &err), MOED_ENOMEM);
    struct buf text = {0};
    assert_ok(plan(&p, &cfg, 20 * GIB, &err), &err);
    engine_plan_text(&p, &text);
    assert_non_null(strstr(buf_str(&text), "100 slots"));
    assert_non_null(strstr(buf_str(&text), "512 plain records of 9.00 MiB"));
    buf_fini(&text);
    cfg.expert_cache_bytes = 0;
    cfg.expert_cache_share = 0.25;
    assert_ok(plan(&p, &cfg, 20 * GIB, &err), &err);
    assert_int_equal(p.options.pager.mode, PAGER_CACHED);
    assert_int_equal(p.memory.cache_bytes, 128 * record_bytes);
    cfg.expert_cache_bytes = -1; /* in place: no share of it */
    assert_ok(plan(&p, &cfg, 20 * GIB, &err), &err);
    assert_int_equal(p.options.pager.mode, PAGER_IN_PLACE);
    assert_int_equal(p.memory.cache_bytes, 0);
}

/* A device of so much free memory beside a host with plenty. */
static int plan_on_device(struct engine_plan *p, const struct moed_engine_config *cfg,
                          uint64_t device_bytes, struct moed_error *err)
{
    struct model_config c = qwen3();
    struct memory_limits limits = {64 * GIB, 64 * GIB, UINT64_MAX, device_bytes};
    int rc = engine_plan(p, cfg, &c, DTYPE_BF16, 2, &limits, err);
    if (rc == 0) {
        assert_true(p->device_bytes <= p->device_budget_bytes);
        assert_true(p->device_budget_bytes < device_bytes);
        assert_true(p->device_bytes == p->memory.dense_bytes + p->memory.kv_bytes +
                                           p->memory.activation_bytes + p->memory.cache_bytes +
                                           p->memory.step_bytes);
        assert_true(p->memory.step_bytes > 0 && p->device_other_bytes > 0);
        assert_true(p->total_bytes >= p->memory.dense_bytes + p->memory.expert_host_bytes);
    }
    return rc;
}

static void a_device_gets_the_slots_that_fit(void **state)
{
    struct engine_plan p;
    struct moed_error err;
    struct moed_engine_config cfg = in_place;
    assert_ok(plan_on_device(&p, &cfg, 80 * GIB, &err), &err); /* all of them */
    assert_int_equal(p.options.pager.mode, PAGER_CACHED);
    assert_true(p.options.device_logits);
    assert_int_equal(p.memory.cache_bytes, 4 * 128 * record_bytes);
    assert_ok(plan_on_device(&p, &cfg, 8 * GIB, &err), &err); /* some */
    assert_true(p.memory.cache_bytes > 0 && p.memory.cache_bytes < 4 * 128 * record_bytes);
    assert_true(p.device_budget_bytes - p.device_bytes < record_bytes);
    uint64_t some = p.memory.cache_bytes;
    cfg.device_memory_ratio = 0.9;
    assert_ok(plan_on_device(&p, &cfg, 8 * GIB, &err), &err);
    assert_true(p.memory.cache_bytes > some);
    cfg.expert_cache_bytes = 0; /* none */
    assert_ok(plan_on_device(&p, &cfg, 8 * GIB, &err), &err);
    assert_int_equal(p.memory.cache_bytes, 0);
    assert_int_equal(p.options.pager.mode, PAGER_CACHED);
    cfg.expert_cache_bytes = (int64_t)(4 * GIB); /* more than there is */
    assert_int_equal(plan_on_device(&p, &cfg, 4 * GIB, &err), MOED_ENOMEM);
    assert_non_null(strstr(err.text, "does not fit the device"));
    cfg = in_place;
    assert_int_equal(plan_on_device(&p, &cfg, GIB, &err), MOED_ENOMEM);
    assert_non_null(strstr(err.text, "does not fit the device"));
}

/* The class that a model of these widths gets on a GPU that holds few of its experts. */
static int class_of(bool *packed, const char *asked, enum dtype dtype, int hidden, int inner,
                    struct moed_error *err)
{
    struct model_config c = qwen3();
    struct moed_engine_config cfg = {.expert_cache_bytes = 0, .expert_records = asked};
    struct memory_limits limits = {64 * GIB, 64 * GIB, UINT64_MAX, 80 * GIB};
    struct engine_plan p;
    c.hidden = hidden;
    c.moe_intermediate = inner;
    int rc = engine_plan(&p, &cfg, &c, dtype, 2, &limits, err);
    *packed = p.options.packed_experts;
    return rc;
}

static void experts_are_packed_where_that_saves_bytes(void **state)
{
    struct moed_error err;
    bool packed;
    assert_ok(class_of(&packed, NULL, DTYPE_BF16, 2048, 768, &err), &err);
    assert_true(packed);
    assert_ok(class_of(&packed, "auto", DTYPE_BF16, 2048, 768, &err), &err);
    assert_true(packed);
    assert_ok(class_of(&packed, "plain", DTYPE_BF16, 2048, 768, &err), &err);
    assert_false(packed);
    static const struct {
        enum dtype dtype;
        int hidden, inner;
        bool can;
    } others[] = {{DTYPE_F16, 2048, 768, false},
                  {DTYPE_F32, 2048, 768, false},
                  {DTYPE_BF16, 2044, 768, false},
                  {DTYPE_BF16, 2048, 767, false},
                  {DTYPE_BF16, 16, 16, true}}; /* as many pages as plain ones */
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_ok(
            class_of(&packed, "auto", others[i].dtype, others[i].hidden, others[i].inner, &err),
            &err);
        assert_false(packed);
        int rc =
            class_of(&packed, "packed", others[i].dtype, others[i].hidden, others[i].inner, &err);
        assert_int_equal(rc, others[i].can ? 0 : MOED_EINVAL);
        if (others[i].can)
            assert_true(packed);
        else
            assert_string_equal(err.param, "expert-records");
    }
    assert_int_equal(class_of(&packed, "packed", DTYPE_F16, 2048, 768, &err), MOED_EINVAL);
    assert_non_null(strstr(err.text, "F16, 2048 and 768 wide"));
    assert_int_equal(class_of(&packed, "small", DTYPE_BF16, 2048, 768, &err), MOED_EINVAL);
    assert_non_null(strstr(err.text, "small"));
}

static void packed_records_are_counted_as_they_lie(void **state)
{
    struct engine_plan p;
    struct moed_error err;
    uint64_t bytes = record_class_packed(2048, 768).bytes;
    struct moed_engine_config cfg = {.expert_cache_share = 0.25, .expert_records = "packed"};
    assert_ok(plan(&p, &cfg, 20 * GIB, &err), &err);
    assert_true(p.options.packed_experts);
    assert_int_equal(p.memory.expert_record_bytes, bytes);
    assert_in_range(p.memory.expert_matrix_bytes, bytes / 100 * 99, bytes);
    assert_int_equal(p.memory.expert_host_bytes, 512 * bytes);
    assert_int_equal(p.memory.cache_bytes, 128 * bytes);
    struct buf text = {0};
    engine_plan_text(&p, &text);
    assert_non_null(strstr(buf_str(&text), "512 packed records of 6.82 MiB"));
    buf_fini(&text);
}

static void a_device_that_holds_most_experts_gets_plain_ones(void **state)
{
    struct engine_plan p;
    struct moed_error err;
    struct moed_engine_config cfg = {.expert_cache_bytes = -1};
    assert_ok(plan_on_device(&p, &cfg, 80 * GIB, &err), &err);
    assert_false(p.options.packed_experts);
    assert_int_equal(p.memory.cache_bytes, 4 * 128 * record_bytes);
    cfg.expert_records = "packed";
    assert_ok(plan_on_device(&p, &cfg, 80 * GIB, &err), &err);
    assert_true(p.options.packed_experts);
    cfg.expert_records = "plain";
    assert_ok(plan_on_device(&p, &cfg, 8 * GIB, &err), &err);
    uint64_t plain_slots = p.memory.cache_bytes / record_bytes;
    cfg.expert_records = "auto";
    assert_ok(plan_on_device(&p, &cfg, 8 * GIB, &err), &err);
    assert_int_equal(p.options.packed_experts, plain_slots * 5 < 512 * 2);
    cfg.expert_records = "packed";
    assert_ok(plan_on_device(&p, &cfg, 8 * GIB, &err), &err);
    assert_true(p.memory.cache_bytes / p.memory.expert_record_bytes > plain_slots);
    cfg.expert_records = "auto";
    cfg.expert_cache_bytes = 0;
    assert_ok(plan_on_device(&p, &cfg, 80 * GIB, &err), &err);
    assert_true(p.options.packed_experts);
    for (int percent = 30; percent <= 100; percent += 5) {
        cfg.expert_cache_share = percent / 100.0;
        assert_ok(plan_on_device(&p, &cfg, 80 * GIB, &err), &err);
        assert_int_equal(p.options.packed_experts, percent < 40);
    }
    /* All have slots packed, but not plain. */
    cfg.expert_cache_share = 0;
    for (uint64_t bytes = 100; bytes <= 512; bytes++) {
        cfg.expert_cache_bytes = (int64_t)(bytes * record_bytes);
        assert_ok(plan_on_device(&p, &cfg, 80 * GIB, &err), &err);
        bool all_packed = bytes * record_bytes >= 512 * record_class_packed(2048, 768).bytes;
        assert_int_equal(p.options.packed_experts, bytes < 205 || (all_packed && bytes < 512));
    }
    cfg.expert_cache_bytes = 0;
    /* What the host cannot hold plain, it may packed. */
    struct model_config c = qwen3();
    struct memory_limits limits = {11 * GIB / 2, 11 * GIB / 2, UINT64_MAX, 80 * GIB};
    assert_ok(engine_plan(&p, &cfg, &c, DTYPE_BF16, 2, &limits, &err), &err);
    assert_true(p.options.packed_experts);
    cfg.expert_records = "plain";
    assert_int_equal(engine_plan(&p, &cfg, &c, DTYPE_BF16, 2, &limits, &err), MOED_ENOMEM);
}

static void a_device_gets_a_long_lane(void **state)
{
    struct engine_plan p;
    struct moed_error err;
    struct moed_engine_config cfg = in_place;
    cfg.long_prefill_tokens = -1;
    /* Also where all experts fit. */
    assert_ok(plan_on_device(&p, &cfg, 80 * GIB, &err), &err);
    assert_int_equal(p.options.long_rows, 16384);
    assert_int_equal(p.max_batched_tokens, 64);
    assert_int_equal(p.target_itl_us, 100000);
    /* As long as an eighth of the device allows. */
    assert_ok(plan_on_device(&p, &cfg, 6 * GIB, &err), &err);
    int32_t rows = p.options.long_rows;
    assert_true(rows >= 1024 && rows < 16384 && (rows & (rows - 1)) == 0);
    assert_true(p.memory.long_bytes <= p.device_budget_bytes / 8);
    assert_true(2 * p.memory.long_bytes > p.device_budget_bytes / 8);
    assert_true(p.memory.long_bytes < p.memory.activation_bytes);
    assert_int_equal(p.max_batched_tokens, 64);
    assert_int_equal(p.options.max_rows, 64);
    struct buf text = {0};
    char line[80];
    engine_plan_text(&p, &text);
    snprintf(line, sizeof line, "%d rows, paused for steps every 100 ms", rows);
    assert_non_null(strstr(buf_str(&text), line));
    buf_fini(&text);
    cfg.expert_cache_bytes = 0;
    assert_ok(plan_on_device(&p, &cfg, 40 * GIB, &err), &err);
    assert_int_equal(p.options.long_rows, 16384);
    cfg.long_prefill_tokens = 0;
    assert_ok(plan_on_device(&p, &cfg, 80 * GIB, &err), &err);
    assert_int_equal(p.options.long_rows, 0);
    assert_int_equal(p.memory.long_bytes, 0);
    assert_int_equal(p.max_batched_tokens, 512);
}

static void a_long_lane_may_be_asked_for_anywhere(void **state)
{
    struct engine_plan p;
    struct moed_error err;
    struct moed_engine_config cfg = in_place;
    assert_ok(plan(&p, &cfg, 64 * GIB, &err), &err);
    uint64_t without = p.memory.activation_bytes;
    cfg.long_prefill_tokens = -1;
    assert_ok(plan(&p, &cfg, 64 * GIB, &err), &err);
    assert_int_equal(p.options.long_rows, 0);
    assert_int_equal(p.memory.activation_bytes, without);
    cfg.long_prefill_tokens = 3000;
    cfg.max_num_seqs = 100;
    cfg.target_itl_ms = 20;
    assert_ok(plan(&p, &cfg, 64 * GIB, &err), &err);
    assert_int_equal(p.options.long_rows, 3000);
    assert_int_equal(p.max_batched_tokens, 100);
    assert_int_equal(p.target_itl_us, 20000);
    cfg.max_batched_tokens = 512;
    cfg.max_num_seqs = 0;
    assert_ok(plan(&p, &cfg, 64 * GIB, &err), &err);
    assert_int_equal(p.max_batched_tokens, 512);
    assert_true(p.memory.activation_bytes - p.memory.long_bytes == without);
    cfg.long_prefill_tokens = 1 << 21;
    assert_int_equal(plan(&p, &cfg, 64 * GIB, &err), MOED_EINVAL);
    assert_string_equal(err.param, "long-prefill-tokens");
}

static void put(const char *root, const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *s = strchr(full + strlen(root) + 1, '/'); s; s = strchr(s + 1, '/')) {
        *s = '\0';
        mkdir(full, 0700);
        *s = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void containers_say_what_is_left(void **state)
{
    char root[] = "/tmp/moed-limits-XXXXXX", proc[64], cgroup[64], command[128];
    assert_non_null(mkdtemp(root));
    snprintf(proc, sizeof proc, "%s/proc", root);
    snprintf(cgroup, sizeof cgroup, "%s/cgroup", root);
    put(root, "proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    8000 kB\n");
    put(root, "proc/self/cgroup", "0::/outer/inner\n");
    struct memory_limits l;
    memory_limits_from(&l, proc, cgroup);
    assert_int_equal(l.available_bytes, 8000 * 1024);
    assert_true(l.container_bytes == UINT64_MAX);
    /* The outer group is the tighter one; its page cache can go, its shared memory cannot. */
    put(root, "cgroup/outer/inner/memory.max", "max\n");
    put(root, "cgroup/outer/inner/memory.current", "1000\n");
    put(root, "cgroup/outer/memory.max", "1000000\n");
    put(root, "cgroup/outer/memory.current", "600000\n");
    put(root, "cgroup/outer/memory.stat", "anon 1\nfile 300000\nfile_mapped 7\nshmem 100000\n");
    memory_limits_from(&l, proc, cgroup);
    assert_int_equal(l.container_bytes, 1000000 - 400000);
    assert_int_equal(l.available_bytes, 600000);
    /* Version 1, at its own mount. */
    put(root, "proc/self/cgroup", "4:memory:/box\n0::/\n");
    put(root, "cgroup/memory/box/memory.limit_in_bytes", "500000\n");
    put(root, "cgroup/memory/box/memory.usage_in_bytes", "450000\n");
    put(root, "cgroup/memory/box/memory.stat", "cache 9\ntotal_cache 50000\ntotal_shmem 0\n");
    put(root, "cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put(root, "cgroup/memory/memory.usage_in_bytes", "450000\n");
    memory_limits_from(&l, proc, cgroup);
    assert_int_equal(l.available_bytes, 100000);
    memory_limits_from(&l, "/nowhere", "/nowhere");
    assert_true(l.available_bytes == UINT64_MAX);
    snprintf(command, sizeof command, "rm -r %s", root);
    assert_int_equal(system(command), 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(plenty_of_memory_serves_the_full_context),
    cmocka_unit_test(little_memory_shortens_the_context),
    cmocka_unit_test(what_does_not_fit_is_refused_with_the_numbers),
    cmocka_unit_test(slots_of_the_expert_cache_count),
    cmocka_unit_test(a_device_gets_the_slots_that_fit),
    cmocka_unit_test(experts_are_packed_where_that_saves_bytes),
    cmocka_unit_test(packed_records_are_counted_as_they_lie),
    cmocka_unit_test(a_device_that_holds_most_experts_gets_plain_ones),
    cmocka_unit_test(a_device_gets_a_long_lane),
    cmocka_unit_test(a_long_lane_may_be_asked_for_anywhere),
    cmocka_unit_test(containers_say_what_is_left),
};
CHECK_MAIN(tests)
