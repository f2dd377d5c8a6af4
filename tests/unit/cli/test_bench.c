/* What moed bench makes of its samples, and what it prints of that. */
#include "check.h"

#include <math.h>

#include <jansson.h>

#include "cli/bench.h"

#define GB 1000000000ull

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-9 * fabs(want) + 1e-15))
        fail_msg("%.17g, expected %.17g", got, want);
}

/* Ten steps of batch 2 on a GPU: 40 GB of hits, 8 GB of misses of which the CPU reads 6, and 1 GB
 * of admissions. */
static double step_seconds[30];
static struct bench_result *gpu_result(void)
{
    struct bench_result *r = calloc(1, sizeof *r);
    assert_non_null(r);
    *r = (struct bench_result){
        .architecture = "Qwen3MoeForCausalLM",
        .isa = "avx512",
        .policy = "lfru",
        .routing = "synthetic:uniform",
        .device = "a GPU",
        .apart = true,
        .threads = 14,
        .record_bytes = GB,
        .records = 64,
        .peaks = {.link = 50, .device = 4000, .host_cpu = 150, .host_link = 50},
        .n_cases = 1};
    for (int i = 0; i < 30; i++)
        step_seconds[i] = 0.01 + 0.001 * ((i * 7) % 30);
    r->cases[0] = (struct bench_case){
        .kind = BENCH_DECODE,
        .slots = 16,
        .cache_bytes = 16 * GB,
        .batch = 2,
        .context = 128,
        .steps = 10,
        .tokens = 20,
        .n_runs = 3,
        .seconds = {0.3, 0.1, 0.2},
        .read_gb_per_s = {160, 150, 170},
        .step_seconds = step_seconds,
        .n_step_seconds = 30,
        .stages = {.seconds_experts = 0.1,
                   .bytes_experts = 49 * GB, /* a GB of it is the router */
                   .bytes_experts_cpu = 6 * GB,
                   .bytes_attention = 2 * GB,
                   .bytes_kv = GB,
                   .bytes_logits = 4 * GB},
        .experts = {.uses = 48,
                    .hits = 40,
                    .misses = 8,
                    .admissions = 5,
                    .bytes_in_place = 8 * GB,
                    .bytes_copied = GB},
    };
    return r;
}

static void numbers_of_a_device_apart(void **state)
{
    struct bench_result *r = gpu_result();
    struct bench_numbers n;
    bench_numbers(&n, r, &r->cases[0]);
    near(n.tokens_per_s, 100);
    near(n.step_ms, 20);
    near(n.p50_ms, 10 + 14);
    near(n.p99_ms, 10 + 29);
    near(n.max_ms, 10 + 29);
    near(n.hit_percent, 100.0 * 40 / 48);
    near(n.host_bytes_per_token, 9.0 * GB / 20);
    near(n.admissions_per_token, 0.25);
    near(n.link_gb_per_s, 3 / 0.2); /* two of the missed, one admitted */
    near(n.link_part, 15.0 / 50);
    near(n.host_gb_per_s, 9 / 0.2);
    near(n.host_part, 45.0 / 200);
    /* 8 GB besides experts, then misses take longer than hits. */
    double floor = 8.0 / 4000 + 8.0 / 200;
    near(n.floor_ms, floor / 10 * 1e3);
    near(n.floor_part, floor / 0.2);

    r->cases[0].experts.hits = 48;
    r->cases[0].experts.misses = 0;
    bench_numbers(&n, r, &r->cases[0]);
    near(n.floor_ms, (8.0 / 4000 + 48.0 / 4000) / 10 * 1e3);
    r->cases[0].experts.hits = 40;
    r->cases[0].experts.misses = 8;
    r->cases[0].kind = BENCH_PREFILL; /* the CPU is no help */
    bench_numbers(&n, r, &r->cases[0]);
    near(n.floor_ms, (8.0 / 4000 + 8.0 / 50) / 10 * 1e3);
    r->cases[0].kind = BENCH_MIXED; /* has none */
    bench_numbers(&n, r, &r->cases[0]);
    near(n.floor_ms, 0);
    r->cases[0].kind = BENCH_DECODE;
    r->peaks = (struct bench_peaks){0};
    bench_numbers(&n, r, &r->cases[0]);
    near(n.floor_ms, 0);
    free(r);
}

static void numbers_of_the_cpu(void **state)
{
    struct bench_result *r = gpu_result();
    struct bench_numbers n;
    r->apart = false;
    r->peaks = (struct bench_peaks){.link = 10};
    r->cases[0].stages.bytes_experts_cpu = 0;
    bench_numbers(&n, r, &r->cases[0]);
    /* All bytes at the speed of reads; misses are read in place, admissions cross the link. */
    near(n.floor_ms, 56.0 / 160 / 10 * 1e3);
    near(n.link_gb_per_s, 1 / 0.2);
    near(n.host_part, 45.0 / 160);
    r->cases[0].in_place = true;
    bench_numbers(&n, r, &r->cases[0]);
    near(n.host_bytes_per_token, 0);
    near(n.link_gb_per_s, 0);
    free(r);
}

static void medians_and_percentiles(void **state)
{
    static const double v[] = {5, 1, 4, 2, 3, 6};
    near(bench_median(v, 1), 5);
    near(bench_median(v, 3), 4);
    near(bench_median(v, 4), 4); /* the upper of two */
    near(bench_percentile(v, 6, 0.5), 3);
    near(bench_percentile(v, 6, 0.99), 6);
    near(bench_percentile(v, 6, 1.0 / 6), 1);
    near(bench_percentile(NULL, 0, 0.5), 0);
}

static void both_forms_say_the_same(void **state)
{
    struct bench_result *r = gpu_result();
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    bench_print_table(r, out);
    fclose(out);
    static const char *const words[] = {
        "link 50.0 GB/s, device memory 4000",
        "batch 2 from 128 tokens",
        "16 slots: 100.0 tokens/s, 20.000 ms a step",
        "0.3000 0.1000 0.2000)",
        "p50 24.000 ms, p99 39.000 ms, longest 39.000 ms; floor 4.200 ms a step (476.2 tokens/s)",
        "21 % of it reached",
        "83.3 % of 48 uses resident; from the host 450.0 MB a token, 0.25 admissions a token",
        "link 15.0 GB/s, 30 % of its peak; host memory 45.0 GB/s, 22 % of its peak",
        "synthetic:uniform",
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strstr(text, words[i]))
            fail_msg("'%s' is not in:\n%s", words[i], text);
    free(text);
    out = open_memstream(&text, &bytes);
    bench_print_json(r, out);
    fclose(out);
    json_t *json = json_loads(text, 0, NULL),
           *one = json_array_get(json_object_get(json, "cases"), 0);
    assert_non_null(one);
    near(json_real_value(json_object_get(one, "tokens_per_s")), 100);
    near(json_real_value(json_object_get(one, "floor_ms")), 4.2);
    near(json_real_value(json_object_get(one, "floor_part")), 0.21);
    near(json_real_value(json_object_get(one, "step_ms_max")), 39);
    near(json_real_value(json_object_get(one, "link_gb_per_s")), 15);
    assert_string_equal(json_string_value(json_object_get(one, "kind")), "decode");
    assert_int_equal(json_array_size(json_object_get(one, "steps_ms")), 30);
    assert_int_equal(json_array_size(json_object_get(one, "runs_seconds")), 3);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(one, "pager"), "admissions")), 5);
    near(json_real_value(json_object_get(json_object_get(json, "peaks_gb_per_s"), "host_cpu")),
         150);
    json_decref(json);
    free(text);
    free(r);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(numbers_of_a_device_apart),
    cmocka_unit_test(numbers_of_the_cpu),
    cmocka_unit_test(medians_and_percentiles),
    cmocka_unit_test(both_forms_say_the_same),
};
CHECK_MAIN(tests)
