#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/cli.h"

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(const double *values, int n)
{
    double sorted[BENCH_MAX_RUNS];
    memcpy(sorted, values, sizeof(double) * (size_t)n);
    qsort(sorted, (size_t)n, sizeof(double), compare_double);
    return sorted[n / 2];
}

static double rate(uint64_t bytes, double seconds)
{
    return seconds > 0 ? (double)bytes / seconds / 1e9 : 0;
}

static double hit_percent(const struct pager_counters *p)
{
    return p->uses ? 100.0 * (double)p->hits / (double)p->uses : 0;
}

static void print_stage(FILE *out, const char *name, double seconds, uint64_t bytes, double total,
                        double peak)
{
    if (seconds <= 0)
        return;
    fprintf(out, "    %-10s %8.3f ms/step %5.1f %%", name, seconds * 1e3,
            total > 0 ? 100 * seconds / total : 0);
    if (bytes)
        fprintf(out, "  %7.2f GB/s, %3.0f %% of plain reads", rate(bytes, seconds),
                peak > 0 ? 100 * rate(bytes, seconds) / peak : 0);
    fputc('\n', out);
}

static void print_case(const struct bench_result *r, const struct bench_case *c, FILE *out)
{
    const struct model_stats *s = &c->stages;
    double median = bench_median(c->seconds, c->n_runs), steps = c->steps;
    double peak = bench_median(c->read_gb_per_s, c->n_runs);
    if (c->prefill)
        fprintf(out, "\nprefill, %d tokens", r->prompt_tokens);
    else
        fprintf(out, "\ndecode, batch %d from %d tokens of context, %d steps", c->batch, r->context,
                c->steps);
    fprintf(out,
            ": %.1f tokens/s, %.3f ms a step (median of %d; runs in s:", (double)c->tokens / median,
            median / steps * 1e3, c->n_runs);
    for (int i = 0; i < c->n_runs; i++)
        fprintf(out, " %.4f", c->seconds[i]);
    fputs(")\n", out);
    fprintf(out, "    plain reads by the same threads: %.2f GB/s (median; after each run:", peak);
    for (int i = 0; i < c->n_runs; i++)
        fprintf(out, " %.1f", c->read_gb_per_s[i]);
    fputs(")\n", out);
    if (c->experts.uses)
        fprintf(out,
                "    experts: %.1f %% of %llu uses resident, %.1f MB copied, %.1f MB read in place "
                "a step\n",
                hit_percent(&c->experts), (unsigned long long)c->experts.uses,
                (double)c->experts.bytes_copied / steps / 1e6,
                (double)c->experts.bytes_in_place / steps / 1e6);
    double total = (s->seconds_experts + s->seconds_attention + s->seconds_dense +
                    s->seconds_logits + s->seconds_other) /
                   steps;
    print_stage(out, "experts", s->seconds_experts / steps, s->bytes_experts / (uint64_t)c->steps,
                total, peak);
    print_stage(out, "attention", s->seconds_attention / steps,
                (s->bytes_attention + s->bytes_kv) / (uint64_t)c->steps, total, peak);
    print_stage(out, "dense", s->seconds_dense / steps, s->bytes_dense / (uint64_t)c->steps, total,
                peak);
    print_stage(out, "lm_head", s->seconds_logits / steps, s->bytes_logits / (uint64_t)c->steps,
                total, peak);
    print_stage(out, "other", s->seconds_other / steps, 0, total, peak);
}

void bench_print_table(const struct bench_result *r, FILE *out)
{
    char parameters[80];
    cli_parameters_text(parameters, sizeof parameters, r->parameters, r->active_parameters);
    fprintf(out, "%s: %s; device %s; %d threads, %s\n", r->architecture, parameters, r->device,
            r->threads, r->isa);
    if (r->records && r->in_place)
        fprintf(out, "experts: %d, used in place\n", r->records);
    else if (r->records)
        fprintf(out, "experts: %d, cache %.3f GiB = %d slots, policy %s\n", r->records,
                (double)r->cache_bytes / 1073741824.0, r->slots, r->policy);
    for (int i = 0; i < r->n_cases; i++)
        print_case(r, &r->cases[i], out);
}

static json_t *stage_json(double seconds, uint64_t bytes)
{
    return json_pack("{s:f, s:I, s:f}", "seconds", seconds, "bytes", (json_int_t)bytes, "gb_per_s",
                     rate(bytes, seconds));
}

static json_t *array_json(const double *values, int n)
{
    json_t *array = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(array, json_real(values[i]));
    return array;
}

static json_t *case_json(const struct bench_case *c)
{
    const struct model_stats *s = &c->stages;
    json_t *experts = json_object();
#define X(name, help)                                                                              \
    json_object_set_new(experts, #name, json_integer((json_int_t)c->experts.name));
    PAGER_COUNTERS(X)
#undef X
    return json_pack("{s:s, s:i, s:i, s:I, s:f, s:f, s:o, s:o, s:{s:o, s:o, s:o, s:o, s:f}, s:o}",
                     "kind", c->prefill ? "prefill" : "decode", "batch", (int)c->batch, "steps",
                     (int)c->steps, "tokens", (json_int_t)c->tokens, "tokens_per_s",
                     (double)c->tokens / bench_median(c->seconds, c->n_runs), "median_seconds",
                     bench_median(c->seconds, c->n_runs), "runs_seconds",
                     array_json(c->seconds, c->n_runs), "read_gb_per_s",
                     array_json(c->read_gb_per_s, c->n_runs), "stages", "experts",
                     stage_json(s->seconds_experts, s->bytes_experts), "attention",
                     stage_json(s->seconds_attention, s->bytes_attention + s->bytes_kv), "dense",
                     stage_json(s->seconds_dense, s->bytes_dense), "lm_head",
                     stage_json(s->seconds_logits, s->bytes_logits), "other_seconds",
                     s->seconds_other, "pager", experts);
}

void bench_print_json(const struct bench_result *r, FILE *out)
{
    json_t *cases = json_array();
    for (int i = 0; i < r->n_cases; i++)
        json_array_append_new(cases, case_json(&r->cases[i]));
    json_t *all = json_pack(
        "{s:s, s:s, s:I, s:I, s:i, s:s, s:s, s:b, s:I, s:i, s:i, s:i, s:i, s:o}", "architecture",
        r->architecture, "device", r->device, "parameters", (json_int_t)r->parameters,
        "active_parameters", (json_int_t)r->active_parameters, "threads", r->threads, "isa", r->isa,
        "policy", r->policy, "in_place", (int)r->in_place, "cache_bytes",
        (json_int_t)r->cache_bytes, "slots", (int)r->slots, "records", (int)r->records, "context",
        (int)r->context, "prompt_tokens", (int)r->prompt_tokens, "cases", cases);
    json_dumpf(all, out, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    fputc('\n', out);
    json_decref(all);
}
