/* moed plan: what a model takes and whether it fits, from its headers alone. */
#include "cli/cli.h"

#include <stdlib.h>

#include <jansson.h>

#include "engine/plan.h"

static void print_json(const struct model_config *c, const struct engine_plan *p, bool fits)
{
    const struct model_memory *m = &p->memory;
    uint64_t total, active;
    model_config_parameters(c, &total, &active);
    json_t *bytes =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "dense",
                  (json_int_t)m->dense_bytes, "experts", (json_int_t)m->expert_host_bytes,
                  "expert_record", (json_int_t)m->expert_record_bytes, "expert_cache",
                  (json_int_t)m->cache_bytes, "kv_cache", (json_int_t)m->kv_bytes, "kv_block",
                  (json_int_t)m->kv_block_bytes, "activations", (json_int_t)m->activation_bytes,
                  "long_passes", (json_int_t)m->long_bytes, "logits", (json_int_t)p->sampling_bytes,
                  "other", (json_int_t)p->other_bytes, "total", (json_int_t)p->total_bytes);
    if (p->device_budget_bytes)
        json_object_set_new(
            bytes, "device",
            json_pack("{s:I, s:I, s:I, s:I}", "recorded_steps", (json_int_t)m->step_bytes, "total",
                      (json_int_t)p->device_bytes, "budget", (json_int_t)p->device_budget_bytes,
                      "other", (json_int_t)p->device_other_bytes));
    json_t *all = json_pack(
        "{s:s, s:I, s:I, s:b, s:o, s:I, s:I, s:s?, s:i, s:i, s:i, s:i, s:i, s:i}", "architecture",
        c->architecture, "parameters", (json_int_t)total, "active_parameters", (json_int_t)active,
        "fits", (int)fits, "bytes", bytes, "budget_bytes", (json_int_t)p->budget_bytes,
        "expert_records", (json_int_t)m->expert_records, "record_class",
        m->expert_records ? engine_records_name(p->options.packed_experts) : NULL, "kv_blocks",
        (int)p->options.kv_blocks, "max_model_len", (int)p->max_model_len, "max_num_seqs",
        (int)p->max_seqs, "max_num_batched_tokens", (int)p->max_batched_tokens,
        "long_prefill_tokens", (int)p->options.long_rows, "threads", p->threads);
    json_dumpf(all, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(all);
}

static void print_text(const struct model_config *c, const struct engine_plan *p)
{
    struct buf text = {0};
    uint64_t total, active;
    char parameters[80];
    model_config_parameters(c, &total, &active);
    cli_parameters_text(parameters, sizeof parameters, total, active);
    engine_plan_text(p, &text);
    printf("%s: %s\n%s", c->architecture, parameters, buf_str(&text));
    buf_fini(&text);
}

int cli_plan(const struct options *o)
{
    struct moed_error err = {0};
    struct engine_plan plan;
    struct model_config *config = calloc(1, sizeof *config);
    const char *dir = cli_model(o);
    int status = CLI_USAGE;
    if (!dir || !config)
        goto out;
    struct moed_engine_config cfg = cli_engine_config(o, dir);
    cfg.no_prefix_cache = options_flag(o, "no-prefix-cache");
    int rc = engine_plan_model(&plan, config, &cfg, &err);
    /* What does not fit is still an answer: the numbers say by how much. */
    bool answered = rc == 0 || rc == MOED_ENOMEM;
    if (answered && options_flag(o, "json"))
        print_json(config, &plan, rc == 0);
    else if (rc == 0)
        print_text(config, &plan);
    status = rc < 0 ? cli_report(&err) : CLI_OK;
out:
    free(config);
    return status;
}
