#include "cli/cli.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

int cli_report(const struct moed_error *err)
{
    fprintf(stderr, "moed: %s\n", err->text);
    return err->code == MOED_EDEVICE ? CLI_DEVICE_FAILED : CLI_FAILED;
}

const char *cli_model(const struct options *o)
{
    const char *const *words;
    size_t n = options_positional(o, &words);
    const char *named = options_string(o, "model");
    if (n == 1)
        return words[0];
    if (n == 0 && named)
        return named;
    fprintf(stderr,
            n ? "moed: one model folder at a time, not %zu words\n"
              : "moed: which model? give its folder\n",
            n);
    return NULL;
}

struct moed_engine_config cli_engine_config(const struct options *o, const char *model_dir)
{
    return (struct moed_engine_config){
        .model_dir = model_dir,
        .device = options_string(o, "device"),
        .device_memory_ratio = options_real(o, "device-memory-ratio"),
        .load_format = options_string(o, "load-format"),
        .isa = options_string(o, "isa"),
        .kv_dtype = options_string(o, "kv-cache-dtype"),
        .expert_policy = options_string(o, "expert-policy"),
        .expert_records = options_string(o, "expert-records"),
        .expert_cache_bytes =
            options_has(o, "expert-cache") ? (int64_t)options_bytes(o, "expert-cache") : -1,
        .expert_cache_share =
            options_has(o, "expert-cache") ? fmax(options_share(o, "expert-cache"), 0) : 0,
        .link_bytes_per_s = options_bytes(o, "link-speed"),
        .miss_threads = (int32_t)options_int(o, "miss-threads"),
        .miss_link_share = options_string(o, "miss-link-share"),
        .one_row_step = options_string(o, "one-row-step"),
        .stage_min_rows = (int32_t)options_int(o, "stage-min-rows"),
        .threads = (int32_t)options_int(o, "threads"),
        .max_model_len = (int32_t)options_int(o, "max-model-len"),
        .max_num_seqs = (int32_t)options_int(o, "max-num-seqs"),
        .max_batched_tokens = (int32_t)options_int(o, "max-num-batched-tokens"),
        .long_prefill_tokens = options_has(o, "long-prefill-tokens")
                                   ? (int32_t)options_int(o, "long-prefill-tokens")
                                   : -1,
        .target_itl_ms = options_real(o, "target-itl-ms"),
        .kv_cache_bytes = options_bytes(o, "kv-cache-memory"),
    };
}

#define BAR_CELLS     30
#define BAR_EVERY_US  100000
#define LINE_EVERY_US 5000000

void cli_progress_init(struct cli_progress *p)
{
    p->last_us = clock_us();
    p->on_terminal = isatty(STDERR_FILENO);
}

void cli_progress_show(void *user, uint64_t done_bytes, uint64_t total_bytes, double seconds)
{
    struct cli_progress *p = user;
    int64_t now = clock_us();
    bool last = done_bytes >= total_bytes;
    if (!last && now - p->last_us < (p->on_terminal ? BAR_EVERY_US : LINE_EVERY_US))
        return;
    p->last_us = now;
    double part = total_bytes ? (double)done_bytes / (double)total_bytes : 1;
    double gb = (double)done_bytes / 1e9, total_gb = (double)total_bytes / 1e9;
    double speed = seconds > 0 ? gb / seconds : 0;
    if (p->on_terminal) {
        int full = (int)(part * BAR_CELLS);
        fprintf(stderr, "\rloading [%.*s%*s] %.2f of %.2f GB, %.2f GB/s%s", full,
                "##############################", BAR_CELLS - full, "", gb, total_gb, speed,
                last ? "\n" : "");
    } else {
        log_info("loading: %.2f of %.2f GB (%.0f %%), %.2f GB/s", gb, total_gb, part * 100, speed);
    }
}

void cli_parameters_text(char *out, size_t size, uint64_t total, uint64_t active)
{
    double unit = total < 1000000000 ? 1e6 : 1e9;
    char letter = total < 1000000000 ? 'M' : 'G';
    snprintf(out, size, "%.2f %c parameters, %.2f %c active", (double)total / unit, letter,
             (double)active / unit, letter);
}
