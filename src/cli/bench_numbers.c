#include "cli/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

const char *const bench_kind_names[BENCH_KINDS] = {"prefill", "decode", "mixed", "clients"};

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double ranked(const double *values, int n, int rank)
{
    if (n == 0)
        return 0;
    double *sorted = mem_new((size_t)n, sizeof *sorted);
    memcpy(sorted, values, sizeof *sorted * (size_t)n);
    qsort(sorted, (size_t)n, sizeof *sorted, compare_double);
    double found = sorted[rank];
    free(sorted);
    return found;
}

double bench_percentile(const double *values, int n, double part)
{
    int rank = (int)ceil(part * n) - 1;
    return ranked(values, n, rank < 0 ? 0 : rank);
}

double bench_median(const double *values, int n)
{
    return ranked(values, n, n / 2);
}

static double per_second(double bytes, double seconds)
{
    return seconds > 0 ? bytes / seconds / 1e9 : 0;
}

static double part_of(double value, double whole)
{
    return whole > 0 ? value / whole : 0;
}

/* Seconds for the bytes of a whole run; 0 where a speed is not known. */
static double floor_seconds(const struct bench_result *r, const struct bench_case *c)
{
    const struct model_stats *s = &c->stages;
    const struct pager_counters *e = &c->experts;
    double other = (double)(s->bytes_attention + s->bytes_kv + s->bytes_dense + s->bytes_logits);
    double used = (double)e->uses * (double)r->matrix_bytes;
    double experts = (double)s->bytes_experts;
    if (c->kind == BENCH_MIXED)
        return 0;
    if (!r->apart)
        return part_of((other + experts) / 1e9, bench_median(c->read_gb_per_s, c->n_runs));
    double host = c->kind == BENCH_PREFILL ? r->peaks.link : r->peaks.host_cpu + r->peaks.host_link;
    /* What is left of the bytes is the router. */
    double resident = other + fmax(experts - used, 0);
    double hits = (double)e->hits * (double)r->matrix_bytes;
    double misses = (double)e->misses * (double)r->matrix_bytes;
    if (r->peaks.device <= 0 || host <= 0)
        return 0;
    return (resident / r->peaks.device + fmax(hits / r->peaks.device, misses / host)) / 1e9;
}

void bench_numbers(struct bench_numbers *out, const struct bench_result *r,
                   const struct bench_case *c)
{
    const struct pager_counters *e = &c->experts;
    double seconds = bench_median(c->seconds, c->n_runs), tokens = (double)c->tokens;
    /* Copies take whole records, what computes in place reads the matrices. */
    double in_place =
        (double)e->bytes_in_place * part_of((double)r->matrix_bytes, (double)r->record_bytes);
    double from_host = c->in_place ? 0 : in_place + (double)e->bytes_copied;
    double by_cpu = r->apart ? (double)c->stages.bytes_experts_cpu : in_place;
    double over_link = fmax(from_host - by_cpu, 0);
    double host_peak = r->apart ? r->peaks.host_cpu + r->peaks.host_link
                                : bench_median(c->read_gb_per_s, c->n_runs);
    double floor = floor_seconds(r, c);
    int n_steps = (int)c->n_step_seconds;
    *out = (struct bench_numbers){
        .tokens_per_s = part_of(tokens, seconds),
        .step_ms = seconds / c->steps * 1e3,
        .p50_ms = bench_percentile(c->step_seconds, n_steps, 0.5) * 1e3,
        .p99_ms = bench_percentile(c->step_seconds, n_steps, 0.99) * 1e3,
        .max_ms = bench_percentile(c->step_seconds, n_steps, 1) * 1e3,
        .hit_percent = 100 * part_of((double)e->hits, (double)e->uses),
        .host_bytes_per_token = part_of(from_host, tokens),
        .admissions_per_token = part_of((double)e->admissions, tokens),
        .link_gb_per_s = per_second(over_link, seconds),
        .link_part = part_of(per_second(over_link, seconds), r->peaks.link),
        .host_gb_per_s = per_second(from_host, seconds),
        .host_part = part_of(per_second(from_host, seconds), host_peak),
        .misses_gb_per_s = per_second((double)c->misses.bytes, (double)c->misses.ns * 1e-9),
        .first_token_ms = c->kind == BENCH_PREFILL ? seconds * 1e3 : 0,
        .floor_ms = floor / c->steps * 1e3,
        .floor_part = part_of(floor, seconds),
    };
}
