/* /metrics, in the text format of Prometheus. */
#include "http/server_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

const int counted_status[N_STATUS] = {200, 204, 400, 401, 404, 405, 408, 413, 415,
                                      429, 431, 500, 501, 503, 504, 505, 0};

static void describe(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_number(struct buf *out, const char *name, const char *type, const char *help,
                       double value)
{
    describe(out, name, type, help);
    buf_printf(out, "%s %.17g\n", name, value);
}

static void put_histogram(struct buf *out, const char *name, const char *help,
                          const struct moed_histogram *h)
{
    uint64_t sum = 0;
    describe(out, name, "histogram", help);
    for (int i = 0; i < MOED_HISTOGRAM_BUCKETS; i++) {
        sum += h->bucket[i];
        buf_printf(out, "%s_bucket{le=\"%.6g\"} %llu\n", name, moed_histogram_bound[i],
                   (unsigned long long)sum);
    }
    sum += h->bucket[MOED_HISTOGRAM_BUCKETS];
    buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.9g\n%s_count %llu\n", name,
               (unsigned long long)sum, name, h->sum, name, (unsigned long long)sum);
}

/* Numbers of the engine: a row each. */
struct stat_row {
    const char *name, *type, *help;
    size_t offset;
    char kind; /* 'i' int32, 'u' uint64 */
};
#define ROW(member, k, name, type, help)                                                           \
    {                                                                                              \
        name, type, help, offsetof(struct moed_engine_stats, member), k                            \
    }
static const struct stat_row stat_rows[] = {
    ROW(running, 'i', "moed_sequences_running", "gauge", "Sequences in the batch."),
    ROW(waiting, 'i', "moed_requests_waiting", "gauge", "Requests in the queue."),
    ROW(batch_limit, 'i', "moed_batch_limit", "gauge",
        "With --admission measured: so many streams decode together; else 0."),
    ROW(held, 'i', "moed_requests_held", "gauge",
        "Streams that have their first token and wait until fewer than that limit decode."),
    ROW(exempted, 'u', "moed_admissions_past_limit_total", "counter",
        "Streams that decode past that limit after --admission-wait-ms."),
    ROW(requests, 'u', "moed_requests_total", "counter", "Requests taken by the engine."),
    ROW(requests_ok, 'u', "moed_requests_ok_total", "counter", "Requests that ended well."),
    ROW(requests_failed, 'u', "moed_requests_failed_total", "counter",
        "Requests that ended with an error."),
    ROW(requests_canceled, 'u', "moed_requests_canceled_total", "counter",
        "Requests whose client went away."),
    ROW(prompt_tokens, 'u', "moed_prompt_tokens_total", "counter", "Tokens of prompts."),
    ROW(generated_tokens, 'u', "moed_generated_tokens_total", "counter", "New tokens."),
    ROW(cached_tokens, 'u', "moed_cached_tokens_total", "counter",
        "Tokens of prompts that were found in the prefix cache."),
    ROW(steps, 'u', "moed_steps_total", "counter", "Steps of the model."),
    ROW(miss_jobs, 'u', "moed_miss_jobs_total", "counter",
        "Layers of steps in which CPU threads computed experts that the GPU did not hold."),
    ROW(miss_experts, 'u', "moed_miss_experts_total", "counter", "Experts in those layers."),
    ROW(miss_bytes, 'u', "moed_miss_bytes_total", "counter",
        "Bytes of weights that those threads read; the rest of a missed expert came over the "
        "link."),
    ROW(miss_us, 'u', "moed_miss_microseconds_total", "counter",
        "Microseconds from a miss to the CPU's last result."),
    ROW(miss_failures, 'u', "moed_miss_failures_total", "counter",
        "Such layers that were given up, by the CPU or by the GPU."),
    ROW(sampled_device, 'u', "moed_sampled_device_total", "counter",
        "Tokens chosen on the device: greedy, or by temperature, min_p, top_k and top_p alone."),
    ROW(sampled_cpu, 'u', "moed_sampled_cpu_total", "counter",
        "Tokens chosen on the CPU: all where the device is the CPU; elsewhere those with "
        "penalties, logit_bias, min_tokens or logprobs."),
    ROW(long_passes, 'u', "moed_long_passes_total", "counter",
        "Passes over long prompts that pause for steps."),
    ROW(long_layers, 'u', "moed_long_pass_layers_total", "counter",
        "Layers that such passes have run."),
    ROW(long_pauses, 'u', "moed_long_pass_pauses_total", "counter",
        "Steps that ran while such a pass was paused."),
    ROW(pass_timeouts, 'u', "moed_pass_timeouts_total", "counter",
        "Passes and steps given up because a part of them did not answer in time."),
    ROW(pass_retries, 'u', "moed_pass_retries_total", "counter",
        "Passes and steps that failed and were tried again."),
    ROW(preemptions, 'u', "moed_preemptions_total", "counter",
        "Sequences that had to give up their cache blocks and were computed again."),
    ROW(kv_blocks, 'i', "moed_kv_blocks", "gauge", "Blocks of the KV cache."),
    ROW(kv_blocks_used, 'i', "moed_kv_blocks_used", "gauge", "Blocks that sequences hold."),
    ROW(kv_blocks_cached, 'i', "moed_kv_blocks_cached", "gauge",
        "Free blocks that still hold a prefix."),
    ROW(prefix_queries, 'u', "moed_prefix_query_tokens_total", "counter",
        "Tokens looked up in the prefix cache."),
    ROW(prefix_hits, 'u', "moed_prefix_hit_tokens_total", "counter",
        "Tokens found in the prefix cache."),
};

static void put_engine(struct buf *out, const struct http_server *s)
{
    struct moed_engine_stats stats = {0};
    moed_engine_stats(s->engine, &stats);
    put_number(out, "moed_engine_failed", "gauge", "1 after an error that needs a restart.",
               stats.failed);
    for (size_t i = 0; i < sizeof stat_rows / sizeof stat_rows[0]; i++) {
        const struct stat_row *row = &stat_rows[i];
        const void *at = (const char *)&stats + row->offset;
        double value =
            row->kind == 'i' ? (double)*(const int32_t *)at : (double)*(const uint64_t *)at;
        put_number(out, row->name, row->type, row->help, value);
    }
    put_histogram(out, "moed_time_to_first_token_seconds", "From arrival to the first new token.",
                  &stats.ttft);
    put_histogram(out, "moed_inter_token_seconds", "Between two new tokens of a sequence.",
                  &stats.inter_token);
    put_histogram(out, "moed_queue_seconds", "From arrival to the first step.", &stats.queue_time);
    put_histogram(out, "moed_step_seconds", "One step of the model.", &stats.step_time);
    put_histogram(out, "moed_request_seconds", "From arrival to the last token.",
                  &stats.request_time);
}

/* --- the pager: rows come by callback, for all layers and for each ------------------------------
 */

struct counter {
    char name[64];
    char help[160];
    uint64_t total;
    uint64_t *layer; /* [n_layers] */
    bool *in_layer;  /* [n_layers] */
};

struct counters {
    struct counter *rows;
    size_t n, cap;
    int32_t n_layers, layer; /* layer being asked for; -1: totals */
};

static void on_counter(void *user, const char *name, const char *help, uint64_t value)
{
    struct counters *all = user;
    size_t i = 0;
    while (i < all->n && strcmp(all->rows[i].name, name) != 0)
        i++;
    if (i == all->n) {
        all->rows = mem_reserve(all->rows, &all->cap, all->n + 1, sizeof *all->rows);
        struct counter *row = &all->rows[all->n++];
        *row = (struct counter){0};
        snprintf(row->name, sizeof row->name, "%s", name);
        snprintf(row->help, sizeof row->help, "%s", help);
        row->layer = mem_new((size_t)all->n_layers + 1, sizeof *row->layer);
        row->in_layer = mem_new((size_t)all->n_layers + 1, sizeof *row->in_layer);
    }
    if (all->layer < 0) {
        all->rows[i].total = value;
    } else {
        all->rows[i].layer[all->layer] = value;
        all->rows[i].in_layer[all->layer] = true;
    }
}

static void put_pager_info(struct buf *out, const struct http_server *s)
{
    struct moed_pager_info info;
    if (moed_engine_pager_info(s->engine, &info) != 0)
        return;
    describe(out, "moed_pager_info", "gauge", "How experts are kept.");
    buf_printf(out, "moed_pager_info{policy=\"%s\",in_place=\"%s\"} 1\n", info.policy,
               info.in_place ? "true" : "false");
    put_number(out, "moed_pager_slots", "gauge", "Experts that the cache can hold.", info.slots);
    put_number(out, "moed_pager_resident", "gauge", "Experts in the cache.", info.resident);
    put_number(out, "moed_pager_record_bytes", "gauge", "Bytes of one expert.",
               (double)info.record_bytes);
    put_number(out, "moed_pager_cache_bytes", "gauge", "Bytes of the cache.",
               (double)info.cache_bytes);
}

static void put_pager(struct buf *out, const struct http_server *s)
{
    struct counters all = {.n_layers = s->ctx.info.n_layers, .layer = -1};
    if (moed_engine_pager_counters(s->engine, -1, on_counter, &all) == 0)
        for (all.layer = 0; all.layer < all.n_layers; all.layer++)
            moed_engine_pager_counters(s->engine, all.layer, on_counter, &all);
    for (size_t i = 0; i < all.n; i++) {
        struct counter *row = &all.rows[i];
        char name[128];
        snprintf(name, sizeof name, "moed_pager_%s_total", row->name);
        describe(out, name, "counter", row->help);
        buf_printf(out, "%s %llu\n", name, (unsigned long long)row->total);
        snprintf(name, sizeof name, "moed_pager_layer_%s_total", row->name);
        describe(out, name, "counter", row->help);
        for (int32_t k = 0; k < all.n_layers; k++)
            if (row->in_layer[k])
                buf_printf(out, "%s{layer=\"%d\"} %llu\n", name, k,
                           (unsigned long long)row->layer[k]);
        free(row->layer);
        free(row->in_layer);
    }
    free(all.rows);
    put_pager_info(out, s);
}

/* --- the server itself --------------------------------------------------------------------------
 */

static double thread_seconds(clockid_t clock)
{
    struct timespec t;
    return clock_gettime(clock, &t) == 0 ? (double)t.tv_sec + (double)t.tv_nsec * 1e-9 : 0;
}

static void put_cpu(struct buf *out, const struct http_server *s)
{
    clockid_t text;
    put_number(out, "moed_http_cpu_seconds_total", "counter",
               "CPU time of the thread that owns the connections.",
               thread_seconds(CLOCK_THREAD_CPUTIME_ID));
    if (pthread_getcpuclockid(s->worker.thread, &text) == 0)
        put_number(out, "moed_text_cpu_seconds_total", "counter",
                   "CPU time of the thread that prepares long prompts.", thread_seconds(text));
    put_number(out, "process_cpu_seconds_total", "counter", "CPU time of the process.",
               thread_seconds(CLOCK_PROCESS_CPUTIME_ID));
    /* "total resident ...", in pages. */
    FILE *f = fopen("/proc/self/statm", "re");
    char line[128], *second = NULL;
    if (f && fgets(line, sizeof line, f))
        second = strchr(line, ' ');
    if (second)
        put_number(out, "process_resident_memory_bytes", "gauge", "Memory in use.",
                   (double)strtoull(second, NULL, 10) * (double)sysconf(_SC_PAGESIZE));
    if (f)
        fclose(f);
}

static void put_requests(struct buf *out, const struct http_server *s)
{
    describe(out, "moed_http_requests_total", "counter", "Requests by endpoint and status.");
    for (size_t r = 0; r <= n_routes; r++)
        for (size_t k = 0; k < N_STATUS; k++)
            if (s->count.requests[r][k]) {
                buf_printf(out, "moed_http_requests_total{path=\"%s\",status=\"",
                           r < n_routes ? routes[r].path : "other");
                if (counted_status[k])
                    buf_printf(out, "%d", counted_status[k]);
                else
                    buf_puts(out, "other");
                buf_printf(out, "\"} %llu\n", (unsigned long long)s->count.requests[r][k]);
            }
}

static void put_server(struct buf *out, const struct http_server *s)
{
    const struct http_counters *c = &s->count;
    describe(out, "moed_build_info", "gauge", "The version.");
    buf_printf(out, "moed_build_info{version=\"%s\"} 1\n", MOED_VERSION);
    put_number(out, "moed_http_ready", "gauge", "1 when the model is loaded.", s->ready);
    put_number(out, "moed_http_connections", "gauge", "Open connections.", s->n_conns);
    put_number(out, "moed_http_connections_total", "counter", "Connections accepted.",
               (double)c->accepted);
    put_number(out, "moed_http_connections_refused_total", "counter",
               "Connections turned away because there were too many.", (double)c->refused);
    put_number(out, "moed_http_bytes_received_total", "counter", "Bytes read.",
               (double)c->bytes_in);
    put_number(out, "moed_http_bytes_sent_total", "counter", "Bytes written.",
               (double)c->bytes_out);
    put_number(out, "moed_http_inflight_bytes", "gauge", "Bodies being received or tokenized.",
               (double)s->inflight_bytes);
    put_number(out, "moed_http_gone_clients_total", "counter",
               "Clients that left before their reply.", (double)c->gone_clients);
    put_number(out, "moed_http_slow_readers_total", "counter",
               "Streams canceled because nobody read them.", (double)c->slow_readers);
    put_number(out, "moed_http_request_timeouts_total", "counter",
               "Requests that did not arrive in time.", (double)c->timeouts);
    put_number(out, "moed_http_keep_alive_comments_total", "counter",
               "Comments sent to keep streams open.", (double)c->comments);
    put_requests(out, s);
}

void info_metrics(struct conn *c)
{
    struct buf body = {0};
    put_server(&body, c->server);
    put_cpu(&body, c->server);
    if (c->server->ready) {
        put_engine(&body, c->server);
        put_pager(&body, c->server);
    }
    reply_text(c, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
    buf_fini(&body);
}
