#include "model/recorded.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "device/misses.h"

/* How long workers may take to come to rest after a step that failed. */
#define SETTLE_US ((int64_t)10 * 1000 * 1000)

static const int32_t sizes[] = {1, 2, 4, 8, 16, 32, STEP_MAX_ROWS};
#define SIZES ((int)(sizeof sizes / sizeof sizes[0]))

/* The plan's fixed part; the rest of plan memory follows: residency, forced choices, tables. */
struct plan {
    int32_t logit_row[STEP_MAX_ROWS]; /* sent on its own, when the layers are under way */
    int32_t n_rows, n_logits, forced_on, reserved;
    int32_t link_share[MAILBOX_SHARE_CLASSES];
    int32_t token[STEP_MAX_ROWS], pos[STEP_MAX_ROWS], seq[STEP_MAX_ROWS];
    int64_t slot[STEP_MAX_ROWS];
};

/* What is sent before the layers: the plan from n_rows on, and what follows it. */
#define PLAN_FIRST_BYTES (sizeof(struct plan) - offsetof(struct plan, n_rows))

struct recorded {
    int32_t max_rows, max_logits; /* of the largest sizes */
    struct dev_recorded *layers[SIZES], *head[SIZES];
    struct plan *plan;
    int32_t *slot_of; /* [layers][experts]; plan memory, as all here */
    int32_t *forced;  /* [layers][live rows][top_k] */
    int32_t *table;   /* [max_rows][table_stride] */
    size_t table_stride;
    uint64_t version; /* of the residency that the device has */
    int32_t *id;      /* [layers][max_rows][top_k], shared memory */
    size_t id_bytes;
    const void **host_of; /* device memory [layers][experts] */
    float *logit;         /* device memory [max_rows][experts] */
    struct mailbox *box;
    struct misses *misses;
    bool pending;
    int32_t pending_rows;
};

/* A layer's launches at most, and those of the logits. */
#define LAYER_NODES 12
#define HEAD_NODES  4
/* Of the driver, for a node of a graph that is ready to be launched. */
#define NODE_BYTES 4096

static size_t keys_of(const struct model *m)
{
    return (size_t)m->c.n_layers * (size_t)m->c.n_experts;
}

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
    return bytes + nodes * SIZES * NODE_BYTES;
}

/* One block of plan memory, cut. */
static int make_plan(struct recorded *r, struct model *m, struct moed_error *err)
{
    size_t keys = keys_of(m), rows = (size_t)r->max_rows, forced = forced_of(&m->c, rows);
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
    size_t bytes = keys_of(m) * sizeof *r->host_of;
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

/* Record. */

static int record_attention(struct recorded *r, struct model *m, int32_t n, int32_t layer)
{
    const struct layer_weights *l = &m->w.layer[layer];
    const struct model_config *c = &m->c;
    const struct activations *a = m->lane[MODEL_STEP].a;
    const struct dev_step *step = m->dev->step;
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    struct kern_norm_linear project = {
        .x = a->x,
        .norm = l->attn_norm.data,
        .norm_dtype = l->attn_norm.dtype,
        .eps = c->rms_eps,
        .h = a->h,
        .matrix = {{l->q.data, l->q_bias.data, l->q.dtype, l->q_bias.dtype, a->q, q_dim},
                   {l->k.data, l->k_bias.data, l->k.dtype, l->k_bias.dtype, a->k, kv_dim},
                   {l->v.data, l->v_bias.data, l->v.dtype, l->v_bias.dtype, a->v, kv_dim}},
        .n_matrices = 3,
        .n = n,
        .in = c->hidden};
    struct kern_kv kv = layer_kv(m, layer);
    struct kern_turn turn = {.q = a->q,
                             .k = a->k,
                             .v = a->v,
                             .q_norm = l->q_norm.data,
                             .k_norm = l->k_norm.data,
                             .norm_dtype = l->q_norm.dtype,
                             .eps = c->rms_eps,
                             .cos = m->b.cos,
                             .sin = m->b.sin,
                             .pos = r->plan->pos,
                             .slot = r->plan->slot,
                             .kv = kv,
                             .n = n,
                             .heads = c->n_heads};
    const int32_t *tables = r->table;
    struct kern_attention attention = {.kv = kv,
                                       .q = a->q,
                                       .out = a->att,
                                       .q_stride = (size_t)q_dim,
                                       .out_stride = (size_t)q_dim,
                                       .pos = r->plan->pos,
                                       .seq = r->plan->seq,
                                       .block_table = &tables,
                                       .table_stride = r->table_stride,
                                       .n = n,
                                       .heads = c->n_heads,
                                       .window = c->window[layer],
                                       .scale = (float)(1 / sqrt((double)c->head_dim)),
                                       .max_context = m->o.max_context};
    struct kern_norm_linear out = {
        .x = a->att,
        .residual = a->x,
        .matrix = {{l->o.data, l->o_bias.data, l->o.dtype, l->o_bias.dtype, a->x, c->hidden}},
        .n_matrices = 1,
        .n = n,
        .in = q_dim};
    int rc;
    if ((rc = step->norm_linear(m->dev, &project)) < 0 || (rc = step->turn(m->dev, &turn)) < 0 ||
        (rc = m->dev->kern->attention(m->dev, &attention)) < 0)
        return rc;
    return step->norm_linear(m->dev, &out);
}

static int record_experts(struct recorded *r, struct model *m, int32_t n, int32_t layer)
{
    const struct layer_weights *l = &m->w.layer[layer];
    const struct model_config *c = &m->c;
    const struct activations *a = m->lane[MODEL_STEP].a;
    size_t first = (size_t)layer * (size_t)c->n_experts;
    struct kern_norm_linear router = {
        .x = a->x,
        .norm = l->ffn_norm.data,
        .norm_dtype = l->ffn_norm.dtype,
        .eps = c->rms_eps,
        .h = a->h,
        .matrix = {{l->router.data, NULL, l->router.dtype, DTYPE_F32, r->logit, c->n_experts}},
        .n_matrices = 1,
        .n = n,
        .in = c->hidden};
    struct kern_paged_experts experts = {.cls = &m->w.cls,
                                         .logit = r->logit,
                                         .h = a->h,
                                         .slot_of = r->slot_of + first,
                                         .host_of = r->host_of + first,
                                         .link_share = r->plan->link_share,
                                         .forced = r->forced,
                                         .forced_on = &r->plan->forced_on,
                                         .id = r->id + (size_t)layer * (size_t)r->max_rows *
                                                           (size_t)c->top_k,
                                         .weight = a->weight,
                                         .hidden = a->hidden,
                                         .y = a->y,
                                         .x = a->x,
                                         .n = n,
                                         .experts = c->n_experts,
                                         .top_k = c->top_k,
                                         .layer = layer,
                                         .renormalize = c->norm_topk};
    if (m->pager)
        experts.slots = pager_slots(m->pager, &experts.slot_bytes);
    int rc = m->dev->step->norm_linear(m->dev, &router);
    return rc < 0 ? rc : m->dev->step->paged_experts(m->dev, &experts);
}

static int record_dense(struct model *m, int32_t n, int32_t layer)
{
    const struct layer_weights *l = &m->w.layer[layer];
    const struct model_config *c = &m->c;
    const struct activations *a = m->lane[MODEL_STEP].a;
    int inter = c->intermediate;
    struct kern_norm_linear up = {
        .x = a->x,
        .norm = l->ffn_norm.data,
        .norm_dtype = l->ffn_norm.dtype,
        .eps = c->rms_eps,
        .h = a->h,
        .matrix = {{l->gate.data, l->gate_bias.data, l->gate.dtype, l->gate_bias.dtype, a->gate,
                    inter},
                   {l->up.data, l->up_bias.data, l->up.dtype, l->up_bias.dtype, a->up, inter}},
        .n_matrices = 2,
        .n = n,
        .in = c->hidden};
    struct kern_silu_mul act = {
        .gate = a->gate, .up = a->up, .y = a->gate, .n = (size_t)n * (size_t)inter};
    struct kern_norm_linear down = {.x = a->gate,
                                    .residual = a->x,
                                    .matrix = {{l->down.data, l->down_bias.data, l->down.dtype,
                                                l->down_bias.dtype, a->x, c->hidden}},
                                    .n_matrices = 1,
                                    .n = n,
                                    .in = inter};
    int rc;
    if ((rc = m->dev->step->norm_linear(m->dev, &up)) < 0 ||
        (rc = m->dev->kern->silu_mul(m->dev, &act)) < 0)
        return rc;
    return m->dev->step->norm_linear(m->dev, &down);
}

static int record_layers(struct recorded *r, struct model *m, int32_t n)
{
    struct kern_embed embed = {.table = m->w.embed.data,
                               .dtype = m->w.embed.dtype,
                               .token = r->plan->token,
                               .x = m->lane[MODEL_STEP].a->x,
                               .n = n,
                               .dim = m->c.hidden};
    int rc = m->dev->kern->embed(m->dev, &embed);
    for (int32_t layer = 0; rc == 0 && layer < m->c.n_layers; layer++) {
        rc = record_attention(r, m, n, layer);
        if (rc == 0)
            rc = m->c.moe_layer[layer] ? record_experts(r, m, n, layer) : record_dense(m, n, layer);
    }
    return rc;
}

static int record_head(struct recorded *r, struct model *m, int32_t n)
{
    const struct model_config *c = &m->c;
    struct kern_embed pick = {.table = m->lane[MODEL_STEP].a->x,
                              .dtype = DTYPE_F32,
                              .token = r->plan->logit_row,
                              .x = m->b.last,
                              .n = n,
                              .dim = c->hidden};
    struct kern_linear head = {.w = m->w.head.data,
                               .w_dtype = m->w.head.dtype,
                               .x = m->b.last,
                               .y = m->b.logits,
                               .x_stride = (size_t)c->hidden,
                               .y_stride = (size_t)c->vocab_size,
                               .n = n,
                               .in = c->hidden,
                               .out = c->vocab_size};
    int rc;
    if ((rc = m->dev->kern->embed(m->dev, &pick)) < 0 ||
        (rc = norm_run(m, &m->w.norm, n, c->hidden, m->b.last, m->b.last)) < 0)
        return rc;
    return m->dev->kern->linear(m->dev, &head);
}

static int32_t size_at(int i, int32_t most)
{
    return sizes[i] < most ? sizes[i] : most;
}

/* Sizes up to the one that holds `most` rows. */
static int record_sizes(struct recorded *r, struct model *m, struct dev_recorded **out,
                        int (*record)(struct recorded *, struct model *, int32_t), int32_t most,
                        struct moed_error *err)
{
    const struct dev_step *step = m->dev->step;
    for (int i = 0; i < SIZES; i++) {
        int32_t n = size_at(i, most);
        int rc = step->record_begin(m->dev);
        if (rc == 0)
            step->live(m->dev, &r->plan->n_rows);
        if (rc == 0 && (rc = record(r, m, n)) == 0)
            rc = step->record_end(m->dev, &out[i], err);
        else if (rc < 0)
            moed_fail(err, MOED_EDEVICE, "the device failed in recording a step of %d rows", n);
        if (rc < 0)
            return rc;
        if (n == most)
            break;
    }
    return 0;
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

static void forget_all(struct recorded *r, struct model *m)
{
    for (int i = 0; i < SIZES; i++) {
        m->dev->step->forget(m->dev, r->layers[i]);
        m->dev->step->forget(m->dev, r->head[i]);
        r->layers[i] = r->head[i] = NULL;
    }
}

int recorded_record(struct recorded *r, struct model *m, struct moed_error *err)
{
    if (!r)
        return 0;
    forget_all(r, m);
    r->version = 0;
    int rc = record_sizes(r, m, r->layers, record_layers, r->max_rows, err);
    return rc < 0 ? rc : record_sizes(r, m, r->head, record_head, r->max_logits, err);
}

/* Layers of one measurement and how often it is repeated: some ten milliseconds each. */
#define MEASURE_LAYERS 8
#define MEASURE_TURNS  4

/* The best time of a replay in which of all experts so much comes over the link; GB/s. */
static double measure_share(struct recorded *r, struct model *m, const struct dev_recorded *step,
                            int32_t share, uint64_t bytes, int *rc)
{
    int64_t best_us = 0;
    for (int c = 0; c < MAILBOX_SHARE_CLASSES; c++)
        r->plan->link_share[c] = share;
    for (int turn = 0; turn < MEASURE_TURNS && *rc == 0; turn++) {
        int64_t begin_us = clock_us();
        misses_step_begin(r->misses);
        *rc = m->dev->step->plan_send(m->dev, &r->plan->n_rows,
                                      PLAN_FIRST_BYTES + keys_of(m) * sizeof *r->slot_of);
        if (*rc == 0)
            *rc = m->dev->step->replay(m->dev, step);
        if (*rc == 0)
            *rc = m->dev->kern->sync(m->dev);
        misses_step_end(r->misses);
        int64_t us = clock_us() - begin_us;
        best_us = turn == 0 || us < best_us ? us : best_us;
    }
    return best_us > 0 ? (double)bytes / (double)best_us * 1e-3 : 0;
}

/* One row that misses its experts in some layers. *n_layers: in how many. */
static int record_misses(struct recorded *r, struct model *m, struct dev_recorded **out,
                         int32_t *n_layers, struct moed_error *err)
{
    const struct dev_step *step = m->dev->step;
    int32_t n = 0;
    int rc = step->record_begin(m->dev);
    if (rc == 0)
        step->live(m->dev, &r->plan->n_rows);
    for (int32_t layer = 0; rc == 0 && layer < m->c.n_layers && n < MEASURE_LAYERS; layer++)
        if (m->c.moe_layer[layer]) {
            rc = record_experts(r, m, 1, layer);
            n++;
        }
    *n_layers = n;
    return rc < 0 ? moed_fail(err, MOED_EDEVICE, "the device failed in recording misses")
                  : step->record_end(m->dev, out, err);
}

int recorded_measure(struct recorded *r, struct model *m, struct moed_error *err)
{
    struct dev_recorded *step = NULL;
    int32_t layers;
    if (!r || !r->misses || m->o.link_share != MISSES_SHARE_ADAPTIVE)
        return 0;
    int rc = record_misses(r, m, &step, &layers, err);
    if (rc < 0)
        return rc;
    memset(r->plan, 0, sizeof *r->plan);
    r->plan->n_rows = r->plan->forced_on = 1;
    memset(r->slot_of, 0xff, keys_of(m) * sizeof *r->slot_of);
    for (int32_t i = 0; i < m->c.n_layers * m->c.top_k; i++)
        r->forced[i] = i % m->c.top_k;
    rc = m->dev->step->plan_send(m->dev, r->forced,
                                 (size_t)m->c.n_layers * (size_t)m->c.top_k * sizeof *r->forced);
    uint64_t bytes = (uint64_t)layers * (uint64_t)m->c.top_k * m->w.cls.bytes;
    double cpu = measure_share(r, m, step, 0, bytes, &rc);
    double link = measure_share(r, m, step, MAILBOX_SHARE_ONE, bytes, &rc);
    double share = cpu + link > 0 ? link / (cpu + link) : 0;
    double both = measure_share(r, m, step, (int32_t)(share * MAILBOX_SHARE_ONE), bytes, &rc);
    m->dev->step->forget(m->dev, step);
    if (rc < 0 && misses_settle(r->misses, SETTLE_US, err) == 0 && rc == MOED_ETIMEDOUT) {
        log_warn("misses: the workers did not answer in time when measured; shares are learned "
                 "while running");
        return 0;
    }
    if (rc < 0)
        return moed_fail(err, rc, "the device failed in measuring misses");
    misses_set_rates(
        r->misses,
        &(struct misses_rates){.cpu_gb_per_s = cpu, .link_gb_per_s = link, .both_gb_per_s = both});
    log_info("misses, %d experts of a layer at a time: by the CPU %.1f GB/s, over the link %.1f, "
             "by both %.1f with %.0f %% over the link",
             m->c.top_k, cpu, link, both, share * 100);
    return 0;
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
    forget_all(r, m);
    m->dev->step->mailbox_close(m->dev);
    m->dev->step->plan_free(m->dev, r->plan);
    if (r->id)
        ops->free_shared(m->dev, r->id, r->id_bytes);
    if (r->host_of)
        ops->free(m->dev, r->host_of, keys_of(m) * sizeof *r->host_of);
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
    size_t bytes = PLAN_FIRST_BYTES, keys = keys_of(m);
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
    while (sizes[i] < n)
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
    if (rc == 0)
        rc = m->dev->step->replay(m->dev, r->layers[index_for(p->batch.n_rows)]);
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
    uint64_t matrices = 3 * (uint64_t)c->hidden * (uint64_t)c->moe_intermediate *
                        (uint64_t)dtype_bytes(m->w.cls.dtype);
    m->stats.bytes_experts += (uint64_t)n * matrices + m->w.layer[layer].ffn_bytes;
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

uint64_t recorded_cpu_bytes(const struct recorded *r)
{
    struct misses_stats stats = {0};
    if (r && r->misses)
        misses_stats(r->misses, &stats);
    return stats.bytes;
}
