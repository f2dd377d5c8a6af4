/* What moed bench makes of its samples, and what it prints of that. */
#include "check.h"

#include <math.h>

#include <jansson.h>

#include "base/clock.h"
#include "cli/bench.h"
#include "cli/cli.h"

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
        .matrix_bytes = GB,
        .record_class = "plain",
        .records = 64,
        .peaks = {.link = 50, .device = 4000, .host_cpu = 150, .host_link = 50},
        .cases = calloc(1, sizeof *r->cases),
        .n_cases = 1};
    assert_non_null(r->cases);
    for (int i = 0; i < 30; i++)
        step_seconds[i] = 0.01 + 0.001 * ((i * 7) % 30);
    r->cases[0] = (struct bench_case){
        .kind = BENCH_DECODE,
        .routing = "synthetic:uniform",
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
        .misses = {.bytes = 6 * GB, .ns = 60000000},
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
    near(n.misses_gb_per_s, 6 / 0.06);
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
    free(r->cases);
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
    free(r->cases);
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
    free(r->cases);
    free(r);
}

/* The sets of a command line; returns how many, or an error. */
static int sets_of(struct bench_set *sets, const char *cases, const char *more, const char *value,
                   struct moed_error *err)
{
    const char *words[] = {"--cases", cases, more, value};
    char text[4][256], *argv[4];
    for (int i = 0; i < (more ? 4 : 2); i++) {
        snprintf(text[i], sizeof text[i], "%s", words[i]);
        argv[i] = text[i];
    }
    struct options *o;
    assert_ok(options_parse(&o, cli_rows, cli_n_rows, CLI_BENCH, more ? 4 : 2, argv, err), err);
    int n = bench_parse_sets(sets, o, false, err);
    options_free(&o);
    return n;
}

static void sets_of_cases(void **state)
{
    struct bench_set s[BENCH_MAX_SETS];
    struct moed_error err;
    assert_int_equal(sets_of(s, "decode,mixed", NULL, NULL, &err), 1);
    assert_true(s[0].kinds[BENCH_DECODE] && s[0].kinds[BENCH_MIXED] && !s[0].kinds[BENCH_PREFILL]);
    assert_int_equal(bench_set_batch(&s[0]), 32);
    assert_int_equal(bench_set_cases(&s[0]), 6 + 1);
    assert_int_equal(s[0].warmup_tokens, 0);
    assert_null(s[0].routing);
    assert_int_equal(sets_of(s,
                             "decode batch=2,4 expert-cache=25%,0 routing=synthetic:uniform; "
                             "prefill prompt-tokens=7,9 runs=1 ;mixed target-itl-ms=2.5  "
                             "decode-tokens=5 warmup-tokens=9 routing=model",
                             "--routing", "synthetic:olmoe", &err),
                     3);
    assert_int_equal(bench_set_cases(&s[0]), 4);
    assert_int_equal(bench_set_batch(&s[0]), 4);
    assert_int_equal(bench_set_prompt(&s[0]), 1);
    near(s[0].cache[0].share, 0.25);
    assert_true(s[0].cache[1].given && s[0].cache[1].bytes == 0);
    assert_string_equal(s[0].routing->name, "uniform");
    assert_int_equal(s[0].warmup_tokens, 256);
    assert_int_equal(s[0].runs, 3);
    assert_string_equal(s[1].routing->name, "olmoe");
    assert_int_equal(s[1].warmup_tokens, 0); /* no cache */
    assert_int_equal(bench_set_prompt(&s[1]), 9);
    assert_int_equal(s[1].runs, 1);
    assert_null(s[2].routing);
    assert_int_equal(s[2].target_itl_us, 2500);
    assert_int_equal(s[2].decode_steps, 5);
    assert_int_equal(s[2].warmup_tokens, 9);
    assert_int_equal(sets_of(s, "clients batch=3,1 admission=all; clients admission-wait-ms=1.5",
                             NULL, NULL, &err),
                     2);
    assert_int_equal(bench_set_batch(&s[0]), 3);
    assert_int_equal(bench_set_cases(&s[0]), 2);
    assert_true(!s[0].measured && s[0].admission_wait_us == 60000000);
    assert_true(s[1].measured && s[1].admission_wait_us == 1500);
    static const struct {
        const char *cases, *word;
    } wrong[] = {{"", "1 to"},
                 {"decode; ;prefill", "1 to"},
                 {"decode speed=3", "not 'speed'"},
                 {"decode fast", "not NAME=VALUE"},
                 {"decode,all", "not 'decode,all'"},
                 {"decode batch=1,x", "not '1,x'"},
                 {"clients admission=some", "not 'some'"},
                 {"clients admission-wait-ms=-1", "from 0"},
                 {"decode runs=1.5", "whole"},
                 {"decode runs=101", "1 to 100"},
                 {"decode expert-cache=many", "not 'many'"},
                 {"decode routing=synthetic:nobody", "olmoe"}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(sets_of(s, wrong[i].cases, NULL, NULL, &err), MOED_EINVAL);
        if (!strstr(err.text, wrong[i].word))
            fail_msg("'%s': %s", wrong[i].cases, err.text);
    }
}

static void a_watch_ends_cases(void **state)
{
    struct bench_watch w = {0};
    bench_watch_begin(&w, 0, 3600000000);
    bench_watch_case(&w, "a case");
    assert_true(bench_watch_goes_on(&w, 0.5, "steps", 1, 2) && !bench_watch_over(&w));
    assert_in_range(bench_watch_left_us(&w, 0.5), 1790000000, 1800000000);
    w.case_begin_us -= 1800000000; /* half of it is over */
    assert_false(bench_watch_goes_on(&w, 0.5, "steps", 1, 2));
    assert_true(bench_watch_goes_on(&w, 1, "steps", 1, 2));
    w.end_us = clock_us();
    assert_false(bench_watch_goes_on(&w, 1, "steps", 1, 2));
    assert_true(bench_watch_over(&w));
    assert_int_equal(bench_watch_left_us(&w, 1), 0);
}

static void a_case_without_runs_is_said(void **state)
{
    struct bench_result *r = gpu_result();
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    r->cases[0].n_runs = 0;
    r->cases[0].n_step_seconds = 0;
    bench_print_table(r, out);
    bench_print_json(r, out);
    fclose(out);
    assert_non_null(strstr(text, "not measured"));
    assert_non_null(strstr(text, "\"runs_seconds\": []"));
    free(text);
    free(r->cases);
    free(r);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(numbers_of_a_device_apart),
    cmocka_unit_test(numbers_of_the_cpu),
    cmocka_unit_test(medians_and_percentiles),
    cmocka_unit_test(both_forms_say_the_same),
    cmocka_unit_test(sets_of_cases),
    cmocka_unit_test(a_watch_ends_cases),
    cmocka_unit_test(a_case_without_runs_is_said),
};
CHECK_MAIN(tests)
