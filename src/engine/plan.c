#include "engine/plan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "device/misses.h"
#include "engine/backend.h"
#include "model/weights.h"
#include "pager/policy.h"
#include "sched/kv.h"

#define MIB ((uint64_t)1 << 20)
/* A twentieth stays free: page tables, thread stacks, allocator overhead, other processes. */
#define RESERVE_PARTS 20
/* Without --kv-cache-size at most this share of the budget goes to KV, as long as one sequence of
 * full length fits: page cache and other processes are to live too. */
#define KV_PARTS 4
/* Connections, tokenizer, text: measured in tens of MiB. */
#define OTHER_BYTES (48 * MIB)
/* Bookkeeping of one block: struct block of sched/kv.c, its bucket, its entries in block tables. */
#define BLOCK_TABLE_BYTES 192
#define MAX_BLOCKS        ((uint64_t)1 << 26)

/*
 * One pass over experts that come over a link costs the same for one token as for thousands, so a
 * longer pass is faster in proportion; its activations take from the slots at most this share of
 * the device's budget.
 */
#define LONG_ROWS  16384
#define LONG_PARTS 8
/* Rows of a step beside long passes: what decodes, and short prompts. */
#define STEP_ROWS 64
/*
 * What a link of 60 GB/s brings while the attention of 16K rows runs, which frees no staging slot;
 * but at most this share of the device's budget, and so many records that copying and computing
 * overlap.
 */
#define STAGING_BYTES     (896 * MIB)
#define STAGING_PARTS     16
#define MIN_STAGING_SLOTS 4

#define DEVICE_RATIO      0.75
/* Beside what model_memory counts: code and stacks of the kernels, what attention's blocks tell
 * each other, arrays and lists of passes that are not recorded. The context itself is not free
 * memory when that is asked for. */
#define DEVICE_OTHER_BYTES (64 * MIB)

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t sub_u64(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (double)MIB;
}

static int range(const char *param, int64_t v, int64_t low, int64_t high, struct moed_error *err)
{
    if (v >= low && v <= high)
        return 0;
    return moed_fail_param(err, MOED_EINVAL, param,
                           "%s must be between %" PRId64 " and %" PRId64 ", not %" PRId64, param,
                           low, high, v);
}

static int plan_kv_dtype(struct engine_plan *p, const char *name, struct moed_error *err)
{
    if (!name || !*name || !strcmp(name, "auto") || !strcmp(name, "bf16"))
        p->options.kv_dtype = DTYPE_BF16;
    else if (!strcmp(name, "fp32"))
        p->options.kv_dtype = DTYPE_F32;
    else
        return moed_fail_param(err, MOED_EINVAL, "kv-cache-dtype",
                               "kv-cache-dtype must be auto, bf16 or fp32, not \"%s\"", name);
    return 0;
}

static int plan_pager(struct engine_plan *p, const struct moed_engine_config *cfg,
                      const struct model_config *c, struct moed_error *err)
{
    struct pager_config *g = &p->options.pager;
    g->policy = cfg->expert_policy && *cfg->expert_policy ? cfg->expert_policy : "steady";
    if (c->n_experts == 0 || (cfg->expert_cache_bytes < 0 && !p->device_budget_bytes)) {
        g->mode = PAGER_IN_PLACE;
        return 0;
    }
    g->mode = PAGER_CACHED;
    g->cache_bytes = cfg->expert_cache_bytes < 0 ? 0 : (uint64_t)cfg->expert_cache_bytes;
    g->fill = true;
    g->stage_min_rows = cfg->stage_min_rows;
    g->staging_slots = cfg->stage_min_rows > 0 ? PAGER_STAGING_SLOTS : 0;
    return range("stage-min-rows", cfg->stage_min_rows, 0, MODEL_MAX_ROWS, err);
}

int engine_plan_misses(struct model_options *o, const struct moed_engine_config *cfg,
                       struct moed_error *err)
{
    const char *share = cfg->miss_link_share;
    o->miss_threads = cfg->miss_threads;
    o->link_share = MISSES_SHARE_ADAPTIVE;
    o->fused_step = !cfg->one_row_step || strcmp(cfg->one_row_step, "fused") == 0;
    o->miss_isa = cfg->isa && *cfg->isa ? (enum kern_isa)kern_isa_parse(cfg->isa) : KERN_ISA_AUTO;
    if (share && *share && strcmp(share, "auto") != 0) {
        char *end;
        long percent = strtol(share, &end, 10);
        if (end == share || *end || percent < 0 || percent > 100)
            return moed_fail_param(err, MOED_EINVAL, "miss-link-share",
                                   "miss-link-share must be auto or 0 to 100, not \"%.64s\"",
                                   share);
        o->link_share = (int32_t)(percent * MAILBOX_SHARE_ONE / 100);
    }
    return range("miss-threads", cfg->miss_threads, 0, MISSES_THREADS_MAX, err);
}

static bool is(const char *value, const char *name)
{
    return value && strcmp(value, name) == 0;
}

int engine_plan_records(bool *packed, const struct moed_engine_config *cfg,
                        const struct model_config *c, enum dtype weight_dtype, bool plain_does,
                        struct moed_error *err)
{
    const char *asked = cfg->expert_records && *cfg->expert_records ? cfg->expert_records : "auto";
    bool can = weights_can_pack(c, weight_dtype);
    *packed = false;
    if (is(asked, "auto")) {
        *packed = can && !plain_does &&
                  weights_record_class(c, weight_dtype, true).bytes <
                      weights_record_class(c, weight_dtype, false).bytes;
        return 0;
    }
    if (!is(asked, "plain") && !is(asked, "packed"))
        return moed_fail_param(err, MOED_EINVAL, "expert-records",
                               "expert-records must be auto, plain or packed, not \"%.64s\"",
                               asked);
    *packed = is(asked, "packed") && c->n_experts;
    if (*packed && !can)
        return moed_fail_param(err, MOED_EINVAL, "expert-records",
                               "expert-records cannot be packed: that takes bf16 and widths that "
                               "are multiples of 8 below 65536; these experts are %s, %d and %d "
                               "wide",
                               dtype_name(weight_dtype), c->hidden, c->moe_intermediate);
    return 0;
}

bool engine_records_again(const struct moed_engine_config *cfg, const struct moed_error *err)
{
    return !is(cfg->expert_records, "packed") && err->code == MOED_EUNSUPPORTED &&
           strcmp(err->param, WEIGHTS_UNPACKABLE) == 0;
}

const char *engine_records_name(bool packed)
{
    return packed ? "packed" : "plain";
}

static int32_t step_rows(const struct engine_plan *p, const struct moed_engine_config *cfg)
{
    int32_t rows = p->options.long_rows ? STEP_ROWS : 512;
    if (cfg->max_batched_tokens)
        return cfg->max_batched_tokens;
    return p->max_seqs > rows ? p->max_seqs : rows;
}

static int plan_limits(struct engine_plan *p, const struct moed_engine_config *cfg,
                       const struct model_config *c, int cores, struct moed_error *err)
{
    p->max_seqs = cfg->max_num_seqs ? cfg->max_num_seqs : 64;
    p->max_queue = cfg->max_queue ? cfg->max_queue : 256;
    p->options.long_rows = cfg->long_prefill_tokens > 0 ? cfg->long_prefill_tokens : 0;
    p->max_batched_tokens = step_rows(p, cfg);
    p->target_itl_us =
        cfg->target_itl_ms > 0 ? (int64_t)(cfg->target_itl_ms * 1000) : ENGINE_TARGET_ITL_US;
    p->max_model_len = cfg->max_model_len ? cfg->max_model_len : c->max_position;
    p->threads = cfg->threads ? cfg->threads : cores;
    int rc;
    if ((rc = range("threads", p->threads, 1, 1024, err)) < 0 ||
        (rc = range("max-num-seqs", p->max_seqs, 1, 4096, err)) < 0 ||
        (rc = range("max-queue", p->max_queue, 1, 1 << 20, err)) < 0 ||
        (rc = range("max-num-batched-tokens", p->max_batched_tokens, p->max_seqs, MODEL_MAX_ROWS,
                    err)) < 0 ||
        (rc = range("long-prefill-tokens", cfg->long_prefill_tokens, -1, MODEL_MAX_ROWS, err)) <
            0 ||
        (rc = range("max-model-len", p->max_model_len, 1, c->max_position, err)) < 0)
        return rc;
    p->options.max_rows = p->max_batched_tokens;
    p->options.max_logits = p->max_seqs < 64 ? p->max_seqs : 64;
    return 0;
}

uint64_t engine_device_budget(uint64_t free_bytes, double ratio)
{
    double bytes = (double)free_bytes * (ratio > 0 ? ratio : DEVICE_RATIO);
    return bytes > (double)DEVICE_OTHER_BYTES ? (uint64_t)bytes - DEVICE_OTHER_BYTES : 1;
}

/* What lies on a device apart from the host. */
static uint64_t on_device(const struct model_memory *m)
{
    return m->dense_bytes + m->kv_bytes + m->activation_bytes + m->cache_bytes + m->step_bytes;
}

uint64_t engine_cache_bytes(uint64_t device_budget_bytes, const struct model_memory *m)
{
    uint64_t rest = on_device(m) - m->cache_bytes + m->staging_bytes;
    uint64_t room = sub_u64(device_budget_bytes, rest);
    uint64_t slots = m->expert_record_bytes ? room / m->expert_record_bytes : 0;
    return min_u64(slots, m->expert_records) * m->expert_record_bytes;
}

int engine_staging_slots(uint64_t device_budget_bytes, const struct model_memory *m)
{
    uint64_t bytes = min_u64(STAGING_BYTES, device_budget_bytes / STAGING_PARTS);
    uint64_t slots = m->expert_record_bytes ? bytes / m->expert_record_bytes : 0;
    slots = min_u64(slots, min_u64(PAGER_MAX_STAGING, m->expert_records));
    return slots > MIN_STAGING_SLOTS ? (int)slots : MIN_STAGING_SLOTS;
}

uint64_t engine_share_bytes(double share, const struct model_memory *m)
{
    return (uint64_t)(share * (double)m->expert_records + 0.5) * m->expert_record_bytes;
}

/*
 * The long lane, unless its length is given: on a device apart from the host as long as its share
 * of the device allows, also where all experts fit, since tensor cores want many rows.
 */
static void plan_long(struct engine_plan *p, const struct moed_engine_config *cfg,
                      const struct model_config *c, enum dtype dtype)
{
    struct model_options *o = &p->options;
    struct model_memory m;
    if (cfg->long_prefill_tokens >= 0 || !p->device_budget_bytes)
        return;
    o->max_context = p->max_model_len;
    o->kv_blocks = 1;
    for (o->long_rows = LONG_ROWS; o->long_rows > STEP_ROWS; o->long_rows /= 2) {
        model_memory(c, dtype, o, &m);
        if (m.long_bytes <= p->device_budget_bytes / LONG_PARTS)
            break;
    }
    if (o->long_rows <= STEP_ROWS)
        o->long_rows = 0;
    p->max_batched_tokens = step_rows(p, cfg);
    o->max_rows = p->max_batched_tokens;
}

/* Streams of the long lane on a device apart need staging slots, whatever steps do. */
static void plan_staging(struct engine_plan *p, const struct model_config *c, enum dtype dtype)
{
    struct model_memory m;
    if (!p->device_budget_bytes || p->options.long_rows == 0 ||
        p->options.pager.mode != PAGER_CACHED)
        return;
    p->options.max_context = p->max_model_len;
    p->options.kv_blocks = 1;
    model_memory(c, dtype, &p->options, &m);
    p->options.pager.staging_slots = engine_staging_slots(p->device_budget_bytes, &m);
}

/* All but the KV cache, on the host. Dense weights pass through the host also where they go to a
 * device. */
static uint64_t fixed_bytes(struct engine_plan *p, const struct moed_engine_config *cfg,
                            const struct model_config *c, enum dtype dtype)
{
    uint64_t vocab = (uint64_t)c->vocab_size;
    p->options.max_context = p->max_model_len;
    p->options.kv_blocks = 1;
    model_memory(c, dtype, &p->options, &p->memory);
    if (cfg->expert_cache_share > 0 && cfg->expert_cache_bytes >= 0) {
        p->options.pager.cache_bytes = engine_share_bytes(cfg->expert_cache_share, &p->memory);
        model_memory(c, dtype, &p->options, &p->memory);
    }
    p->sampling_bytes = (uint64_t)p->options.max_logits * vocab * sizeof(float) +
                        (uint64_t)p->threads * vocab * (2 * sizeof(float) + 2 * sizeof(uint64_t));
    p->other_bytes = OTHER_BYTES;
    uint64_t model = p->device_budget_bytes ? p->memory.dense_bytes + p->memory.expert_host_bytes
                                            : p->memory.total_bytes - p->memory.kv_bytes;
    return model + p->sampling_bytes + p->other_bytes;
}

static int too_large_for_device(const struct engine_plan *p, uint64_t kv_bytes,
                                struct moed_error *err)
{
    const struct model_memory *m = &p->memory;
    return moed_fail(err, MOED_ENOMEM,
                     "the model does not fit the device: %.1f MiB of dense weights, %.1f of expert "
                     "cache, %.1f of activations and at least %.1f of KV cache are more than the "
                     "%.1f MiB that may be used (--device-memory-ratio; %.1f MiB are free)",
                     mib(m->dense_bytes), mib(m->cache_bytes), mib(m->activation_bytes),
                     mib(kv_bytes), mib(p->device_budget_bytes), mib(p->limits.device_bytes));
}

static int too_large(const struct engine_plan *p, uint64_t kv_bytes, struct moed_error *err)
{
    const struct model_memory *m = &p->memory;
    if (p->device_budget_bytes && on_device(m) - m->kv_bytes + kv_bytes > p->device_budget_bytes)
        return too_large_for_device(p, kv_bytes, err);
    return moed_fail(err, MOED_ENOMEM,
                     "the model does not fit: %.1f MiB of dense weights, %.1f of experts, %.1f of "
                     "expert cache, %.1f of activations, %.1f of logits, %.1f of other tables and "
                     "at least %.1f of KV cache are more than the %.1f MiB that may be used "
                     "(%.1f MiB available%s)",
                     mib(m->dense_bytes), mib(m->expert_host_bytes), mib(m->cache_bytes),
                     mib(m->activation_bytes), mib(p->sampling_bytes), mib(p->other_bytes),
                     mib(kv_bytes), mib(p->budget_bytes), mib(p->limits.available_bytes),
                     p->limits.container_bytes < p->limits.machine_bytes ? " in this container"
                                                                         : "");
}

/* Blocks for the KV cache, and the length of a sequence where the model's own does not fit. `fixed`
 * of `budget` bytes are spoken for. */
static int plan_kv(struct engine_plan *p, const struct moed_engine_config *cfg, uint64_t budget,
                   uint64_t fixed, struct moed_error *err)
{
    uint64_t block = p->memory.kv_block_bytes + BLOCK_TABLE_BYTES;
    uint64_t full = ((uint64_t)p->max_model_len + SCHED_BLOCK_TOKENS - 1) / SCHED_BLOCK_TOKENS;
    uint64_t room = budget > fixed ? (budget - fixed) / block : 0;
    uint64_t blocks;
    if (cfg->kv_cache_bytes) {
        blocks = min_u64(cfg->kv_cache_bytes / p->memory.kv_block_bytes, MAX_BLOCKS);
        if (blocks == 0)
            return moed_fail_param(err, MOED_EINVAL, "kv-cache-size",
                                   "kv-cache-size of %" PRIu64 " bytes is less than one block of "
                                   "%" PRIu64,
                                   cfg->kv_cache_bytes, p->memory.kv_block_bytes);
        if (blocks > room)
            return too_large(p, blocks * p->memory.kv_block_bytes, err);
    } else {
        uint64_t share = budget / KV_PARTS / block;
        blocks = min_u64(full * (uint64_t)p->max_seqs, share > full ? share : full);
        blocks = min_u64(min_u64(blocks, room), MAX_BLOCKS);
        if (blocks == 0)
            return too_large(p, p->memory.kv_block_bytes, err);
    }
    if (blocks < full && cfg->max_model_len)
        return moed_fail_param(err, cfg->kv_cache_bytes ? MOED_EINVAL : MOED_ENOMEM,
                               "max-model-len",
                               "one sequence of %d tokens needs %.1f MiB of KV cache; there is "
                               "room for %.1f MiB",
                               p->max_model_len, mib(full * p->memory.kv_block_bytes),
                               mib(blocks * p->memory.kv_block_bytes));
    if (blocks < full)
        p->max_model_len = (int32_t)(blocks * SCHED_BLOCK_TOKENS);
    p->options.kv_blocks = (int32_t)blocks;
    p->options.max_context = p->max_model_len;
    p->other_bytes += blocks * BLOCK_TABLE_BYTES;
    return 0;
}

/* The KV cache and, unless its size is given, the expert slots on a device apart from the host. */
static int plan_device(struct engine_plan *p, const struct moed_engine_config *cfg,
                       const struct model_config *c, enum dtype weight_dtype, uint64_t host_fixed,
                       struct moed_error *err)
{
    uint64_t other = p->other_bytes;
    int rc =
        plan_kv(p, cfg, p->device_budget_bytes, on_device(&p->memory) - p->memory.kv_bytes, err);
    if (rc < 0)
        return rc;
    model_memory(c, weight_dtype, &p->options, &p->memory);
    if (cfg->expert_cache_bytes < 0 && p->options.pager.mode == PAGER_CACHED) {
        p->options.pager.cache_bytes = engine_cache_bytes(p->device_budget_bytes, &p->memory);
        model_memory(c, weight_dtype, &p->options, &p->memory);
    }
    p->device_bytes = on_device(&p->memory);
    p->device_other_bytes = DEVICE_OTHER_BYTES;
    p->total_bytes = host_fixed + p->other_bytes - other;
    return p->device_bytes > p->device_budget_bytes
               ? too_large_for_device(p, p->memory.kv_bytes, err)
               : 0;
}

static int plan_with(struct engine_plan *p, const struct moed_engine_config *cfg,
                     const struct model_config *c, enum dtype weight_dtype, int cores,
                     const struct memory_limits *limits, bool packed, struct moed_error *err)
{
    *p = (struct engine_plan){.limits = *limits, .options.packed_experts = packed};
    p->budget_bytes = limits->available_bytes - limits->available_bytes / RESERVE_PARTS;
    if (limits->device_bytes)
        p->device_budget_bytes =
            engine_device_budget(limits->device_bytes, cfg->device_memory_ratio);
    p->options.device_logits = p->device_budget_bytes > 0;
    int rc;
    if ((rc = plan_kv_dtype(p, cfg->kv_dtype, err)) < 0 || (rc = plan_pager(p, cfg, c, err)) < 0 ||
        (rc = engine_plan_misses(&p->options, cfg, err)) < 0 ||
        (rc = plan_limits(p, cfg, c, cores, err)) < 0)
        return rc;
    plan_long(p, cfg, c, weight_dtype);
    plan_staging(p, c, weight_dtype);
    uint64_t fixed = fixed_bytes(p, cfg, c, weight_dtype);
    p->total_bytes = fixed;
    if (p->memory.total_bytes == UINT64_MAX || fixed > p->budget_bytes)
        return too_large(p, p->memory.kv_block_bytes, err);
    if (p->device_budget_bytes)
        return plan_device(p, cfg, c, weight_dtype, fixed, err);
    if ((rc = plan_kv(p, cfg, p->budget_bytes, fixed, err)) < 0)
        return rc;
    model_memory(c, weight_dtype, &p->options, &p->memory);
    p->total_bytes = p->memory.total_bytes + p->sampling_bytes + p->other_bytes;
    return 0;
}

/* Measured (docs/performance.md): with slots for a quarter of the experts packed records are faster
 * by a quarter and more in as many bytes, for a half as fast; where all have slots packed but not
 * plain they are faster, and slower where plain ones have, too. */
bool engine_plain_does(struct engine_class_bytes plain, struct engine_class_bytes packed)
{
    return plain.slots >= plain.all ||
           (plain.slots / 2 >= plain.all / 5 && packed.slots < packed.all);
}

static struct engine_class_bytes class_bytes(const struct engine_plan *p)
{
    const struct model_memory *m = &p->memory;
    return (struct engine_class_bytes){m->cache_bytes - m->staging_bytes, m->expert_host_bytes};
}

int engine_plan(struct engine_plan *p, const struct moed_engine_config *cfg,
                const struct model_config *c, enum dtype weight_dtype, int cores,
                const struct memory_limits *limits, struct moed_error *err)
{
    bool packed, plain_does = plan_with(p, cfg, c, weight_dtype, cores, limits, false, NULL) == 0;
    if (plain_does && p->device_budget_bytes && weights_can_pack(c, weight_dtype)) {
        struct engine_class_bytes plain = class_bytes(p);
        plain_does = plan_with(p, cfg, c, weight_dtype, cores, limits, true, NULL) < 0 ||
                     engine_plain_does(plain, class_bytes(p));
    }
    int rc = engine_plan_records(&packed, cfg, c, weight_dtype, plain_does, err);
    if (rc < 0)
        return rc;
    return plan_with(p, cfg, c, weight_dtype, cores, limits, packed, err);
}

void engine_plan_text(const struct engine_plan *p, struct buf *out)
{
    const struct model_memory *m = &p->memory;
    buf_printf(out, "dense weights   %10.1f MiB\n", mib(m->dense_bytes));
    if (m->expert_records > 0) {
        buf_printf(out, "experts         %10.1f MiB  %" PRIu64 " %s records of %.2f MiB\n",
                   mib(m->expert_host_bytes), m->expert_records,
                   engine_records_name(p->options.packed_experts), mib(m->expert_record_bytes));
        if (p->options.pager.mode == PAGER_IN_PLACE)
            buf_printf(out, "expert cache    %10s      experts are used in place\n", "none");
        else
            buf_printf(
                out, "expert cache    %10.1f MiB  %" PRIu64 " slots and %d for staging, %s\n",
                mib(m->cache_bytes), (m->cache_bytes - m->staging_bytes) / m->expert_record_bytes,
                p->options.pager.staging_slots, p->options.pager.policy);
    }
    buf_printf(out, "KV cache        %10.1f MiB  %d blocks of %d tokens, %s\n", mib(m->kv_bytes),
               p->options.kv_blocks, SCHED_BLOCK_TOKENS, dtype_name(p->options.kv_dtype));
    buf_printf(out, "activations     %10.1f MiB  %d rows\n",
               mib(m->activation_bytes - m->long_bytes), p->options.max_rows);
    if (p->options.long_rows > 0)
        buf_printf(out, "long passes     %10.1f MiB  %d rows, paused for steps every %.0f ms\n",
                   mib(m->long_bytes), p->options.long_rows, (double)p->target_itl_us * 1e-3);
    buf_printf(out, "logits          %10.1f MiB  %d rows\n", mib(p->sampling_bytes),
               p->options.max_logits);
    buf_printf(out, "other           %10.1f MiB\n", mib(p->other_bytes));
    if (p->device_budget_bytes)
        buf_printf(out,
                   "recorded steps  %10.1f MiB  plans, lists, graphs\n"
                   "on the device   %10.1f MiB  of %.1f MiB that may be used, and %.1f MiB for "
                   "kernels and their buffers\n",
                   mib(m->step_bytes), mib(p->device_bytes), mib(p->device_budget_bytes),
                   mib(p->device_other_bytes));
    buf_printf(out, "%s           %10.1f MiB  of %.1f MiB that may be used\n",
               p->device_budget_bytes ? "host " : "total", mib(p->total_bytes),
               mib(p->budget_bytes));
    buf_printf(out, "context of %d tokens, %d sequences, %d tokens a step, %d threads\n",
               p->max_model_len, p->max_seqs, p->max_batched_tokens, p->threads);
}
