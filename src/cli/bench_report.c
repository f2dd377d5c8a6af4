#include "cli/bench.h"

#include <jansson.h>

#include "base/log.h"
#include "cli/cli.h"

static double rate(uint64_t bytes, double seconds)
{
    return seconds > 0 ? (double)bytes / seconds / 1e9 : 0;
}

static void print_samples(FILE *out, int decimals, const double *values, int n)
{
    for (int i = 0; i < n; i++)
        fprintf(out, " %.*f", decimals, values[i]);
    fputs(")\n", out);
}

/* A stage of a step, beside what the case's memory gives at best. */
static void print_stage(FILE *out, const char *name, double seconds, uint64_t bytes, double total,
                        double peak)
{
    if (seconds <= 0)
        return;
    fprintf(out, "    %-10s %8.3f ms/step %5.1f %%", name, seconds * 1e3,
            total > 0 ? 100 * seconds / total : 0);
    if (bytes)
        fprintf(out, "  %7.2f GB/s, %3.0f %% of the peak", rate(bytes, seconds),
                peak > 0 ? 100 * rate(bytes, seconds) / peak : 0);
    fputc('\n', out);
}

static void print_stages(const struct bench_case *c, double peak, FILE *out)
{
    const struct model_stats *s = &c->stages;
    uint64_t steps = (uint64_t)c->steps;
    double n = c->steps;
    double total = (s->seconds_experts + s->seconds_attention + s->seconds_dense +
                    s->seconds_logits + s->seconds_recorded + s->seconds_other) /
                   n;
    print_stage(out, "experts", s->seconds_experts / n, s->bytes_experts / steps, total, peak);
    print_stage(out, "attention", s->seconds_attention / n,
                (s->bytes_attention + s->bytes_kv) / steps, total, peak);
    print_stage(out, "dense", s->seconds_dense / n, s->bytes_dense / steps, total, peak);
    print_stage(out, "lm_head", s->seconds_logits / n, s->bytes_logits / steps, total, peak);
    uint64_t all =
        s->bytes_experts + s->bytes_attention + s->bytes_kv + s->bytes_dense + s->bytes_logits;
    print_stage(out, "recorded", s->seconds_recorded / n, all / steps, total, peak);
    print_stage(out, "other", s->seconds_other / n, 0, total, peak);
}

static void print_experts(const struct bench_case *c, const struct bench_numbers *n, FILE *out)
{
    if (!c->experts.uses || c->in_place)
        return;
    fprintf(out,
            "    experts: %.1f %% of %llu uses resident; from the host %.1f MB a token, %.2f "
            "admissions a token\n",
            n->hit_percent, (unsigned long long)c->experts.uses, n->host_bytes_per_token / 1e6,
            n->admissions_per_token);
    fprintf(out,
            "    link %.1f GB/s, %.0f %% of its peak; host memory %.1f GB/s, %.0f %% of its peak\n",
            n->link_gb_per_s, 100 * n->link_part, n->host_gb_per_s, 100 * n->host_part);
    if (c->misses.bytes)
        fprintf(out, "    the CPU read %.1f GB/s while it computed misses\n", n->misses_gb_per_s);
}

/* Parts of a fused step, with the waits of the grid. */
static const char *const fused_parts[DEV_FUSED_PARTS] = {"project", "attention", "out",
                                                         "router",  "gate_up",   "down"};

static void print_fused(const struct bench_case *c, FILE *out)
{
    if (!c->fused)
        return;
    fputs("    a layer of a fused step, us:", out);
    for (int i = 0; i < DEV_FUSED_PARTS; i++)
        fprintf(out, " %s %.1f", fused_parts[i], c->fused_us[i]);
    fputc('\n', out);
}

static json_t *fused_json(const struct bench_case *c)
{
    json_t *parts = json_object();
    for (int i = 0; i < DEV_FUSED_PARTS && c->fused; i++)
        json_object_set_new(parts, fused_parts[i], json_real(c->fused_us[i]));
    return parts;
}

static void print_clients(const struct bench_case *c, FILE *out)
{
    const struct bench_clients_result *r = &c->clients;
    if (c->kind != BENCH_CLIENTS)
        return;
    fprintf(
        out,
        "    %d conversations ended, after %.2f s in the mean; first tokens after %.2f s (p50), "
        "%.2f s (p99), %.2f s at most; second ones after %.2f, %.2f, %.2f s; %d clients wait "
        "for theirs; batch limit %d\n",
        r->ended, r->completion_s, r->first_p50_s, r->first_p99_s, r->first_max_s, r->second_p50_s,
        r->second_p99_s, r->second_max_s, r->waiting, r->batch_limit);
}

static json_t *clients_json(const struct bench_case *c)
{
    const struct bench_clients_result *r = &c->clients;
    if (c->kind != BENCH_CLIENTS)
        return json_object();
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "admission",
                     r->measured ? "measured" : "all", "tokens", (int)r->tokens, "ended",
                     (int)r->ended, "waiting", (int)r->waiting, "batch_limit", (int)r->batch_limit,
                     "first_token_s_p50", r->first_p50_s, "first_token_s_p99", r->first_p99_s,
                     "first_token_s_max", r->first_max_s, "second_token_s_p50", r->second_p50_s,
                     "second_token_s_p99", r->second_p99_s, "second_token_s_max", r->second_max_s,
                     "completion_s", r->completion_s);
}

static void print_case(const struct bench_result *r, const struct bench_case *c, FILE *out)
{
    struct bench_numbers n;
    double reads = bench_median(c->read_gb_per_s, c->n_runs);
    bench_numbers(&n, r, c);
    if (c->kind == BENCH_CLIENTS)
        fprintf(out, "\n%d clients, admission %s, conversations of %d tokens", c->batch,
                c->clients.measured ? "measured" : "all", c->clients.tokens);
    else if (c->kind == BENCH_DECODE)
        fprintf(out, "\ndecode, batch %d from %d tokens of context, %d steps", c->batch, c->context,
                c->steps);
    else
        fprintf(out, "\nprefill, %lld tokens in %d passes", (long long)c->tokens, c->steps);
    if (c->kind == BENCH_MIXED)
        fprintf(out, " beside %d streams with a target of %.1f ms", c->batch, c->target_itl_ms);
    fprintf(out, ", routing %s", c->routing);
    if (!c->in_place && r->records)
        fprintf(out, ", cache %.3f GiB = %d slots", (double)c->cache_bytes / 0x1p30, c->slots);
    if (c->n_runs == 0) {
        fputs(": not measured, the time was over\n", out);
        return;
    }
    fprintf(out, ": %.1f tokens/s, %.3f ms a step (median of %d; runs in s:", n.tokens_per_s,
            n.step_ms, c->n_runs);
    print_samples(out, 4, c->seconds, c->n_runs);
    fprintf(out, "    %s: p50 %.3f ms, p99 %.3f ms, longest %.3f ms",
            c->kind == BENCH_MIXED ? "between tokens of the streams" : "steps", n.p50_ms, n.p99_ms,
            n.max_ms);
    if (n.floor_ms > 0)
        fprintf(out, "; floor %.3f ms a step (%.1f tokens/s), %.0f %% of it reached", n.floor_ms,
                (double)c->tokens / c->steps / n.floor_ms * 1e3, 100 * n.floor_part);
    fputc('\n', out);
    if (n.first_token_ms > 0)
        fprintf(out, "    time to first token %.1f ms\n", n.first_token_ms);
    print_clients(c, out);
    print_experts(c, &n, out);
    print_fused(c, out);
    print_stages(c, r->apart ? r->peaks.device : reads, out);
    fprintf(out, "    plain reads by the CPU's threads: %.2f GB/s (median; after each run:", reads);
    print_samples(out, 1, c->read_gb_per_s, c->n_runs);
}

void bench_say_case(const struct bench_result *r, const struct bench_case *c)
{
    struct bench_numbers n;
    bench_numbers(&n, r, c);
    if (c->n_runs == 0) {
        log_warn("bench: not measured, the time was over: %s, batch %d", bench_kind_names[c->kind],
                 c->batch);
        return;
    }
    log_info("bench: %s, batch %d, %lld tokens, %d slots, %s: %.1f tokens/s, %.2f ms a step "
             "(p99 %.2f), floor %.2f ms, hits %.1f %%, link %.1f GB/s, host %.1f GB/s",
             bench_kind_names[c->kind], c->batch, (long long)c->tokens, c->slots, c->routing,
             n.tokens_per_s, n.step_ms, n.p99_ms, n.floor_ms, n.hit_percent, n.link_gb_per_s,
             n.host_gb_per_s);
}

void bench_print_table(const struct bench_result *r, FILE *out)
{
    const struct bench_peaks *p = &r->peaks;
    char parameters[80];
    cli_parameters_text(parameters, sizeof parameters, r->parameters, r->active_parameters);
    fprintf(out, "%s: %s; device %s; %d threads, %s; contexts of up to %d tokens\n",
            r->architecture, parameters, r->device, r->threads, r->isa, r->max_context);
    if (r->records && r->n_cases && r->cases[0].in_place)
        fprintf(out, "experts: %d, %s records, used in place\n", r->records, r->record_class);
    else if (r->records)
        fprintf(out, "experts: %d, %s records of %.2f MiB, policy %s\n", r->records,
                r->record_class, (double)r->record_bytes / 0x1p20, r->policy);
    if (p->link > 0)
        fprintf(out, "peaks: link %.1f GB/s", p->link);
    if (p->device > 0)
        fprintf(out, ", device memory %.0f (copy, read + write), CPU and link at once %.1f + %.1f",
                p->device, p->host_cpu, p->host_link);
    if (p->link > 0)
        fputc('\n', out);
    for (int i = 0; i < r->n_cases; i++)
        print_case(r, &r->cases[i], out);
}

static json_t *stage_json(double seconds, uint64_t bytes)
{
    return json_pack("{s:f, s:I, s:f}", "seconds", seconds, "bytes", (json_int_t)bytes, "gb_per_s",
                     rate(bytes, seconds));
}

static json_t *array_json(const double *values, int n, double unit)
{
    json_t *array = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(array, json_real(values[i] * unit));
    return array;
}

static json_t *stages_json(const struct model_stats *s)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:f, s:f, s:I}", "experts",
                     stage_json(s->seconds_experts, s->bytes_experts), "attention",
                     stage_json(s->seconds_attention, s->bytes_attention + s->bytes_kv), "dense",
                     stage_json(s->seconds_dense, s->bytes_dense), "lm_head",
                     stage_json(s->seconds_logits, s->bytes_logits), "recorded_seconds",
                     s->seconds_recorded, "other_seconds", s->seconds_other, "bytes_experts_cpu",
                     (json_int_t)s->bytes_experts_cpu);
}

static json_t *numbers_json(const struct bench_numbers *n)
{
    return json_pack(
        "{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}",
        "tokens_per_s", n->tokens_per_s, "step_ms", n->step_ms, "step_ms_p50", n->p50_ms,
        "step_ms_p99", n->p99_ms, "step_ms_max", n->max_ms, "hit_percent", n->hit_percent,
        "host_bytes_per_token", n->host_bytes_per_token, "admissions_per_token",
        n->admissions_per_token, "link_gb_per_s", n->link_gb_per_s, "link_part", n->link_part,
        "host_gb_per_s", n->host_gb_per_s, "host_part", n->host_part, "misses_gb_per_s",
        n->misses_gb_per_s, "first_token_ms", n->first_token_ms, "floor_ms", n->floor_ms,
        "floor_part", n->floor_part);
}

static json_t *case_json(const struct bench_result *r, const struct bench_case *c)
{
    struct bench_numbers n;
    json_t *experts = json_object();
#define X(name, help)                                                                              \
    json_object_set_new(experts, #name, json_integer((json_int_t)c->experts.name));
    PAGER_COUNTERS(X)
#undef X
    bench_numbers(&n, r, c);
    json_t *all = numbers_json(&n);
    json_t *more = json_pack(
        "{s:s, s:s, s:i, s:f, s:i, s:i, s:i, s:I, s:b, s:i, s:I, s:o, s:o, s:o, s:o, s:o, s:o, "
        "s:o}",
        "kind", bench_kind_names[c->kind], "routing", c->routing, "warmup_steps",
        (int)c->warmup_steps, "target_itl_ms", c->target_itl_ms, "batch", (int)c->batch, "context",
        (int)c->context, "steps", (int)c->steps, "tokens", (json_int_t)c->tokens, "in_place",
        (int)c->in_place, "slots", (int)c->slots, "cache_bytes", (json_int_t)c->cache_bytes,
        "runs_seconds", array_json(c->seconds, c->n_runs, 1), "steps_ms",
        array_json(c->step_seconds, (int)c->n_step_seconds, 1e3), "read_gb_per_s",
        array_json(c->read_gb_per_s, c->n_runs, 1), "stages", stages_json(&c->stages), "fused_us",
        fused_json(c), "clients", clients_json(c), "pager", experts);
    json_object_update(all, more);
    json_decref(more);
    return all;
}

void bench_print_json(const struct bench_result *r, FILE *out)
{
    const struct bench_peaks *p = &r->peaks;
    json_t *cases = json_array();
    for (int i = 0; i < r->n_cases; i++)
        json_array_append_new(cases, case_json(r, &r->cases[i]));
    json_t *peaks = json_pack("{s:f, s:f, s:f, s:f}", "link", p->link, "device", p->device,
                              "host_cpu", p->host_cpu, "host_link", p->host_link);
    json_t *all = json_pack(
        "{s:s, s:s, s:I, s:I, s:i, s:s, s:s, s:s, s:i, s:i, s:I, s:s?, s:o, s:o}", "architecture",
        r->architecture, "device", r->device, "parameters", (json_int_t)r->parameters,
        "active_parameters", (json_int_t)r->active_parameters, "threads", r->threads, "isa", r->isa,
        "policy", r->policy, "routing", r->routing, "max_context", (int)r->max_context, "records",
        (int)r->records, "record_bytes", (json_int_t)r->record_bytes, "record_class",
        r->record_class, "peaks_gb_per_s", peaks, "cases", cases);
    json_dumpf(all, out, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    fputc('\n', out);
    json_decref(all);
}
