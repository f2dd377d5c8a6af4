#include "model/recorded_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

const int32_t recorded_sizes[RECORDED_SIZES] = {1, 2, 4, 8, 16, 32, STEP_MAX_ROWS};

static int32_t at_most_recorded(int32_t rows)
{
    return rows < STEP_MAX_ROWS ? rows : STEP_MAX_ROWS;
}

static size_t table_stride_of(const struct model_options *o)
{
    return ((size_t)o->max_context + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

static size_t forced_of(const struct model_config *c, size_t rows)
{
    return (size_t)c->n_layers * rows * (size_t)c->top_k;
}

static size_t plan_bytes(const struct model_config *c, const struct model_options *o, size_t rows)
{
    size_t words =
        (size_t)c->n_layers * (size_t)c->n_experts + forced_of(c, rows) + rows * table_stride_of(o);
    return sizeof(struct plan) + words * sizeof(int32_t);
}

uint64_t recorded_bytes(const struct model_config *c, const struct model_options *o)
{
    int32_t rows = at_most_recorded(lane_rows(o, MODEL_STEP));
    uint64_t experts = (uint64_t)c->n_experts, bytes = plan_bytes(c, o, (size_t)rows);
    uint64_t nodes = (uint64_t)c->n_layers * LAYER_NODES + HEAD_NODES;
    if (experts) {
        struct mailbox_layout l =
            mailbox_layout(rows, c->top_k, c->n_experts, c->hidden, c->moe_intermediate);
        bytes += (uint64_t)c->n_layers * experts * sizeof(void *) +
                 (uint64_t)rows * experts * sizeof(float) + kern_paged_bytes(&l);
    }
    if (o->fused_step)
        bytes += (uint64_t)c->n_layers * STEP_FUSED_LAYER_BYTES;
    return bytes + nodes * RECORDED_SIZES * NODE_BYTES;
}

/* One block of plan memory, cut. */
static int make_plan(struct recorded *r, struct model *m, struct moed_error *err)
{
    size_t keys = recorded_keys(m), rows = (size_t)r->max_rows, forced = forced_of(&m->c, rows);
    r->table_stride = table_stride_of(&m->o);
    r->plan = m->dev->step->plan_alloc(m->dev, plan_bytes(&m->c, &m->o, rows));
    if (!r->plan)
        return moed_fail(err, MOED_ENOMEM, "no memory for the plan of a recorded step");
    r->slot_of = (int32_t *)(r->plan + 1);
    r->forced = r->slot_of + keys;
    r->table = r->forced + forced;
    return 0;
}

/* Where the records lie, for the device. */
static int send_records(struct recorded *r, struct model *m, struct moed_error *err)
{
    const struct dev_ops *ops = m->dev->ops;
    size_t bytes = recorded_keys(m) * sizeof *r->host_of;
    struct dev_event event = {0};
    r->host_of = ops->alloc(m->dev, bytes);
    r->logit = ops->alloc(m->dev, (size_t)r->max_rows * (size_t)m->c.n_experts * sizeof *r->logit);
    r->id_bytes = (size_t)m->c.n_layers * (size_t)r->max_rows * (size_t)m->c.top_k * sizeof *r->id;
    r->id = ops->alloc_shared(m->dev, r->id_bytes);
    if (!r->host_of || !r->logit || !r->id)
        return moed_fail(err, MOED_ENOMEM, "no memory for the experts of a recorded step");
    int rc = ops->copy_in(m->dev, r->host_of, m->w.host_of, bytes, &event);
    if (rc >= 0)
        rc = ops->event_wait(m->dev, &event);
    return rc < 0 ? moed_fail(err, MOED_EDEVICE, "the device failed in a copy") : 0;
}

static int open_misses(struct recorded *r, struct model *m, struct moed_error *err)
{
    struct mailbox_layout layout =
        mailbox_layout(r->max_rows, m->c.top_k, m->c.n_experts, m->c.hidden, m->c.moe_intermediate);
    struct misses_config cfg = {.threads = m->o.miss_threads,
                                .kern = kern_cpu(m->o.miss_isa),
                                .cls = &m->w.cls,
                                .host_of = m->w.host_of,
                                .layers = m->c.n_layers,
                                .experts = m->c.n_experts,
                                .layout = layout,
                                .link_share = m->o.link_share,
                                .wait_limit_us = m->o.miss_wait_us,
                                .on_job = m->o.on_miss,
                                .on_job_arg = m->o.on_miss_arg};
    int rc = m->dev->step->mailbox_open(m->dev, &layout, m->o.miss_patience_us, &cfg.mailbox, err);
    r->box = cfg.mailbox;
    return rc < 0 ? rc : misses_open(&r->misses, &cfg, err);
}

/* Why this model cannot be recorded on this device, or NULL. */
static const char *obstacle(const struct model *m)
{
    if (!m->w.arena)
        return NULL;
    if (m->o.pager.mode != PAGER_CACHED)
        return "the experts are used in place";
    if (!m->dev->step->can_page(m->dev, &m->w.cls, m->c.n_experts, m->c.top_k))
        return "the shapes of the experts are not multiples of 8, or they are too many";
    return NULL;
}

int recorded_open(struct recorded **out, struct model *m, struct moed_error *err)
{
    *out = NULL;
    if (!m->dev->step)
        return 0;
    const char *why = obstacle(m);
    if (why) {
        log_warn("steps are not recorded: %s; each op is a launch of its own, and slower", why);
        return 0;
    }
    struct recorded *r = *out = mem_new(1, sizeof *r);
    r->max_rows = at_most_recorded(lane_rows(&m->o, MODEL_STEP));
    r->max_logits = at_most_recorded(m->o.max_logits);
    int rc = make_plan(r, m, err);
    if (rc == 0 && m->w.arena && (rc = send_records(r, m, err)) == 0)
        rc = open_misses(r, m, err);
    if (rc < 0)
        recorded_close(out, m);
    return rc;
}

const _Atomic uint32_t *recorded_demand_open(const struct recorded *r)
{
    return r && r->box ? (const _Atomic uint32_t *)&r->box->open : NULL;
}

/* Microseconds an expert, from a job's posting to its end, by the size of the job. */
static void say_sizes(const struct misses_stats *s)
{
    static const char *const size[MAILBOX_SHARE_CLASSES] = {"1", "2", "3-4", "5-8", "9-16", "17-"};
    char line[512] = "";
    size_t at = 0;
    for (int c = 0; c < MAILBOX_SHARE_CLASSES; c++)
        for (int way = 0; way < 2; way++)
            if (s->seen[c][way].groups && at < sizeof line)
                at += (size_t)snprintf(line + at, sizeof line - at, "%s %s: %.1f (of %llu)",
                                       at ? "," : "", way ? "with the link" : size[c],
                                       (double)s->seen[c][way].ns * 1e-3 /
                                           (double)s->seen[c][way].groups,
                                       (unsigned long long)s->seen[c][way].groups);
    if (at)
        log_info("misses, microseconds an expert as the device saw them, by how many a job had:%s",
                 line);
}

/* What the workers did, in lines for people. */
static void say_misses(const struct recorded *r)
{
    struct misses_stats s;
    if (!r->misses)
        return;
    misses_stats(r->misses, &s);
    double jobs = s.jobs ? (double)s.jobs : 1, us = 1e-3 / jobs, threads = s.threads;
    double working_ns = s.jobs ? (double)(s.gate_up_ns + s.down_ns) : 1;
    log_info("misses: %llu jobs of %.2f experts by %d threads%s, %.1f us each (gate/up %.1f, "
             "waiting for the link %.1f, down %.1f), %.1f GB/s while working; share of the link "
             "%.1f %% for one expert, %.1f %% for five to eight; %llu failed, %llu abandoned",
             (unsigned long long)s.jobs, (double)s.groups / jobs, s.threads,
             s.pinned ? ", pinned" : "", (double)s.total_ns * us, (double)s.gate_up_ns * us,
             (double)s.wait_ns * us, (double)s.down_ns * us, (double)s.bytes / working_ns,
             misses_link_share(r->misses, 1) / 10.24, misses_link_share(r->misses, 8) / 10.24,
             (unsigned long long)s.failed, (unsigned long long)s.abandoned);
    log_info(
        "misses: threads were in kernels for %.0f %% of that time, took %.1f pieces a job from "
        "others and came too late %.2f times a job; %llu steps found them parked",
        (double)s.busy_ns / working_ns / threads * 100, (double)s.pieces_taken / jobs,
        (double)s.parts_missed / jobs, (unsigned long long)s.wakes);
    say_sizes(&s);
}

void recorded_close(struct recorded **recorded, struct model *m)
{
    struct recorded *r = *recorded;
    const struct dev_ops *ops = m->dev->ops;
    if (!r)
        return;
    *recorded = NULL;
    say_misses(r);
    misses_close(&r->misses);
    recordings_forget(r, m);
    m->dev->step->mailbox_close(m->dev);
    m->dev->step->plan_free(m->dev, r->plan);
    if (r->id)
        ops->free_shared(m->dev, r->id, r->id_bytes);
    if (r->host_of)
        ops->free(m->dev, r->host_of, recorded_keys(m) * sizeof *r->host_of);
    if (r->logit)
        ops->free(m->dev, r->logit,
                  (size_t)r->max_rows * (size_t)m->c.n_experts * sizeof *r->logit);
    free(r);
}

const struct misses *recorded_misses(const struct recorded *r)
{
    return r ? r->misses : NULL;
}

/* Replay. */

bool recorded_fits(const struct recorded *r, const struct model *m, const struct pass *p)
{
    return r && p == &m->lane[MODEL_STEP] && p->batch.n_rows <= r->max_rows &&
           p->batch.n_seqs <= r->max_rows;
}

/* Block tables that differ from what the device has; most steps have none. */
static int send_tables(struct recorded *r, struct model *m, const struct pass *p)
{
    const struct model_batch *b = &p->batch;
    size_t lo = SIZE_MAX, hi = 0;
    for (int32_t i = 0; i < b->n_rows; i++) {
        if (i + 1 < b->n_rows && b->seq[i + 1] == b->seq[i])
            continue;
        size_t at = (size_t)b->seq[i] * r->table_stride,
               n = (size_t)b->pos[i] / KV_BLOCK_TOKENS + 1;
        const int32_t *blocks = p->block_table[b->seq[i]];
        if (memcmp(r->table + at, blocks, n * sizeof *blocks) == 0)
            continue;
        memcpy(r->table + at, blocks, n * sizeof *blocks);
        lo = at < lo ? at : lo;
        hi = at + n > hi ? at + n : hi;
    }
    return hi > lo ? m->dev->step->plan_send(m->dev, r->table + lo, (hi - lo) * sizeof *r->table)
                   : 0;
}

static void fill_rows(struct recorded *r, const struct pass *p)
{
    const struct model_batch *b = &p->batch;
    struct plan *plan = r->plan;
    plan->n_rows = b->n_rows;
    plan->forced_on = b->forced != NULL;
    for (int32_t i = 0; i < r->max_rows; i++) {
        bool is = i < b->n_rows;
        plan->token[i] = is ? b->token[i] : 0;
        plan->pos[i] = is ? b->pos[i] : 0;
        plan->seq[i] = is ? b->seq[i] : 0;
        plan->slot[i] = is ? p->slot[i] : -1;
    }
}

/* The plan's head and, where it has changed, the residency behind it. */
static int send_plan(struct recorded *r, struct model *m, const struct pass *p)
{
    const struct dev_step *step = m->dev->step;
    const struct model_batch *b = &p->batch;
    size_t bytes = PLAN_FIRST_BYTES, keys = recorded_keys(m);
    uint64_t version = 0;
    fill_rows(r, p);
    if (m->pager) {
        const int32_t *table = pager_table(m->pager, &version);
        misses_link_shares(r->misses, r->plan->link_share);
        if (version != r->version) {
            memcpy(r->slot_of, table, keys * sizeof *table);
            bytes += keys * sizeof *table;
            r->version = version;
        }
    }
    int rc = step->plan_send(m->dev, &r->plan->n_rows, bytes);
    if (rc == 0 && b->forced) {
        size_t n = (size_t)m->c.n_layers * (size_t)b->n_rows * (size_t)m->c.top_k;
        memcpy(r->forced, b->forced, n * sizeof *b->forced);
        rc = step->plan_send(m->dev, r->forced, n * sizeof *b->forced);
    }
    return rc < 0 ? rc : send_tables(r, m, p);
}

static int index_for(int32_t n)
{
    int i = 0;
    while (recorded_sizes[i] < n)
        i++;
    return i;
}

int recorded_timed_out(struct moed_error *err)
{
    return moed_fail(err, MOED_ETIMEDOUT,
                     "the workers that compute experts outside the device did not answer in time");
}

int recorded_run(struct recorded *r, struct model *m, const struct pass *p, struct moed_error *err)
{
    if (m->pager)
        misses_step_begin(r->misses);
    int rc = send_plan(r, m, p);
    bool one_row = r->one_row && p->batch.n_rows == 1 && p->max_context <= r->one_row_context;
    if (rc == 0)
        rc = m->dev->step->replay(m->dev,
                                  one_row ? r->one_row : r->layers[index_for(p->batch.n_rows)]);
    r->pending = true;
    r->pending_rows = p->batch.n_rows;
    return rc < 0 ? device_failed("a recorded step", 0, err) : 0;
}

bool recorded_head_fits(const struct recorded *r, int32_t n)
{
    return n <= r->max_logits;
}

int recorded_head(struct recorded *r, struct model *m, const int32_t *rows, int32_t n)
{
    struct plan *plan = r->plan;
    memset(plan->logit_row, 0, sizeof plan->logit_row);
    memcpy(plan->logit_row, rows, (size_t)n * sizeof *rows);
    int rc = m->dev->step->plan_send(m->dev, plan->logit_row, sizeof plan->logit_row);
    return rc < 0 ? rc : m->dev->step->replay(m->dev, r->head[index_for(n)]);
}

/* What a layer's rows chose, as one event for the pager. */
static void account_layer(struct recorded *r, struct model *m, int32_t layer)
{
    const struct model_config *c = &m->c;
    const int32_t *id = r->id + (size_t)layer * (size_t)r->max_rows * (size_t)c->top_k;
    struct pager_need *need = m->groups.need;
    int32_t pairs = r->pending_rows * c->top_k, *place = m->groups.first, n = 0;
    memset(place, 0, (size_t)c->n_experts * sizeof *place);
    for (int32_t i = 0; i < pairs; i++) {
        if (!place[id[i]]) {
            need[n] = (struct pager_need){.expert = id[i]};
            place[id[i]] = ++n;
        }
        need[place[id[i]] - 1].rows++;
    }
    pager_account(m->pager, layer, need, (size_t)n);
    m->stats.bytes_experts +=
        (uint64_t)n * record_matrix_bytes(&m->w.cls) + m->w.layer[layer].ffn_bytes;
}

int recorded_settle(struct recorded *r, struct model *m, int rc)
{
    struct moed_error err;
    r->pending = false;
    if (!m->pager)
        return rc;
    misses_step_end(r->misses);
    if (rc < 0) {
        if (misses_settle(r->misses, SETTLE_US, &err) < 0)
            return MOED_EDEVICE;
        return rc;
    }
    for (int32_t layer = 0; layer < m->c.n_layers; layer++)
        if (m->c.moe_layer[layer])
            account_layer(r, m, layer);
    return rc;
}

bool recorded_pending(const struct recorded *r)
{
    return r && r->pending;
}

int32_t recorded_fused_context(const struct recorded *r)
{
    return r && r->one_row ? r->one_row_context : 0;
}

int recorded_fused_times(struct recorded *r, struct model *m, double *us)
{
    misses_step_begin(r->misses);
    int rc = m->dev->step->fused_times(m->dev, r->fused, us);
    misses_step_end(r->misses);
    return rc;
}

uint64_t recorded_cpu_bytes(const struct recorded *r)
{
    struct misses_stats stats = {0};
    if (r && r->misses)
        misses_stats(r->misses, &stats);
    return stats.bytes;
}
