/* Making the recordings: what a step does, op by op. */
#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/recorded_int.h"

/* Attention and what is before and behind it, of n rows. */
static void attention_ops(struct kern_layer *out, struct recorded *r, struct model *m, int32_t n,
                          int32_t layer)
{
    const struct layer_weights *l = &m->w.layer[layer];
    const struct model_config *c = &m->c;
    const struct activations *a = m->lane[MODEL_STEP].a;
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    struct kern_kv kv = layer_kv(m, layer);
    out->project = (struct kern_norm_linear){
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
    out->turn = (struct kern_turn){.q = a->q,
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
    out->attention = (struct kern_attention){.kv = kv,
                                             .q = a->q,
                                             .out = a->att,
                                             .q_stride = (size_t)q_dim,
                                             .out_stride = (size_t)q_dim,
                                             .pos = r->plan->pos,
                                             .seq = r->plan->seq,
                                             .block_table = (const int32_t *const *)&r->table,
                                             .table_stride = r->table_stride,
                                             .n = n,
                                             .heads = c->n_heads,
                                             .window = c->window[layer],
                                             .scale = (float)(1 / sqrt((double)c->head_dim)),
                                             .max_context = m->o.max_context};
    out->out = (struct kern_norm_linear){
        .x = a->att,
        .residual = a->x,
        .matrix = {{l->o.data, l->o_bias.data, l->o.dtype, l->o_bias.dtype, a->x, c->hidden}},
        .n_matrices = 1,
        .n = n,
        .in = q_dim};
}

/* The second half of a layer with experts, of n rows. */
static void expert_ops(struct kern_layer *out, struct recorded *r, struct model *m, int32_t n,
                       int32_t layer)
{
    const struct layer_weights *l = &m->w.layer[layer];
    const struct model_config *c = &m->c;
    const struct activations *a = m->lane[MODEL_STEP].a;
    size_t first = (size_t)layer * (size_t)c->n_experts;
    out->router = (struct kern_norm_linear){
        .x = a->x,
        .norm = l->ffn_norm.data,
        .norm_dtype = l->ffn_norm.dtype,
        .eps = c->rms_eps,
        .h = a->h,
        .matrix = {{l->router.data, NULL, l->router.dtype, DTYPE_F32, r->logit, c->n_experts}},
        .n_matrices = 1,
        .n = n,
        .in = c->hidden};
    out->experts = (struct kern_paged_experts){.cls = &m->w.cls,
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
        out->experts.slots = pager_slots(m->pager, &out->experts.slot_bytes);
}

static int record_attention(struct recorded *r, struct model *m, int32_t n, int32_t layer)
{
    const struct dev_step *step = m->dev->step;
    struct kern_layer ops;
    int rc;
    attention_ops(&ops, r, m, n, layer);
    if ((rc = step->norm_linear(m->dev, &ops.project)) < 0 ||
        (rc = step->turn(m->dev, &ops.turn)) < 0 ||
        (rc = m->dev->kern->attention(m->dev, &ops.attention)) < 0)
        return rc;
    return step->norm_linear(m->dev, &ops.out);
}

static int record_experts(struct recorded *r, struct model *m, int32_t n, int32_t layer)
{
    struct kern_layer ops;
    expert_ops(&ops, r, m, n, layer);
    int rc = m->dev->step->norm_linear(m->dev, &ops.router);
    return rc < 0 ? rc : m->dev->step->paged_experts(m->dev, &ops.experts);
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

static int record_embed(struct recorded *r, struct model *m, int32_t n)
{
    struct kern_embed embed = {.table = m->w.embed.data,
                               .dtype = m->w.embed.dtype,
                               .token = r->plan->token,
                               .x = m->lane[MODEL_STEP].a->x,
                               .n = n,
                               .dim = m->c.hidden};
    return m->dev->kern->embed(m->dev, &embed);
}

static int record_layers(struct recorded *r, struct model *m, int32_t n)
{
    int rc = record_embed(r, m, n);
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
    return recorded_sizes[i] < most ? recorded_sizes[i] : most;
}

static int record_size(struct recorded *r, struct model *m, struct dev_recorded **out,
                       int (*record)(struct recorded *, struct model *, int32_t), int32_t n,
                       struct moed_error *err)
{
    const struct dev_step *step = m->dev->step;
    int rc = step->record_begin(m->dev);
    if (rc == 0)
        step->live(m->dev, &r->plan->n_rows);
    if (rc == 0)
        rc = record(r, m, n);
    return rc < 0
               ? moed_fail(err, MOED_EDEVICE, "the device failed in recording a step of %d rows", n)
               : step->record_end(m->dev, out, err);
}

/* Sizes up to the one that holds `most` rows. */
static int record_sizes(struct recorded *r, struct model *m, struct dev_recorded **out,
                        int (*record)(struct recorded *, struct model *, int32_t), int32_t most,
                        struct moed_error *err)
{
    for (int i = 0; i < RECORDED_SIZES; i++) {
        int32_t n = size_at(i, most);
        int rc = record_size(r, m, &out[i], record, n, err);
        if (rc < 0 || n == most)
            return rc;
    }
    return 0;
}

void recordings_forget(struct recorded *r, struct model *m)
{
    for (int i = 0; i < RECORDED_SIZES; i++) {
        m->dev->step->forget(m->dev, r->layers[i]);
        m->dev->step->forget(m->dev, r->head[i]);
        r->layers[i] = r->head[i] = NULL;
    }
    m->dev->step->forget(m->dev, r->one_row);
    m->dev->step->fused_close(m->dev, r->fused);
    r->one_row = NULL;
    r->fused = NULL;
}

/* Longer contexts have more attention to share than one unit a multiprocessor. */
#define ONE_ROW_CONTEXT 4096

static int record_one_row(struct recorded *r, struct model *m, int32_t n)
{
    int rc = record_embed(r, m, n);
    return rc < 0 ? rc : m->dev->step->fused(m->dev, r->fused);
}

static int open_fused(struct recorded *r, struct model *m, struct moed_error *err)
{
    const struct model_config *c = &m->c;
    const char *why = "there are layers without experts";
    struct kern_layer *layers = mem_new((size_t)c->n_layers, sizeof *layers);
    int32_t n = 0;
    int rc = 0;
    r->one_row_context = m->o.max_context < ONE_ROW_CONTEXT ? m->o.max_context : ONE_ROW_CONTEXT;
    while (n < c->n_layers && c->moe_layer[n]) {
        attention_ops(&layers[n], r, m, 1, n);
        layers[n].attention.max_context = r->one_row_context;
        expert_ops(&layers[n], r, m, 1, n);
        n++;
    }
    if (n == c->n_layers)
        rc = m->dev->step->fused_open(m->dev, layers, n, &r->fused, &why, err);
    if (rc == 0 && !r->fused)
        log_info("steps of one row are not fused: %s", why);
    free(layers);
    return rc;
}

int recorded_record(struct recorded *r, struct model *m, struct moed_error *err)
{
    if (!r)
        return 0;
    recordings_forget(r, m);
    r->version = 0;
    int rc = record_sizes(r, m, r->layers, record_layers, r->max_rows, err);
    if (rc == 0)
        rc = record_sizes(r, m, r->head, record_head, r->max_logits, err);
    if (rc == 0 && m->o.fused_step)
        rc = open_fused(r, m, err);
    return rc < 0 || !r->fused ? rc : record_size(r, m, &r->one_row, record_one_row, 1, err);
}

int record_misses(struct recorded *r, struct model *m, int32_t most, struct dev_recorded **out,
                  int32_t *n_layers, struct moed_error *err)
{
    const struct dev_step *step = m->dev->step;
    int32_t n = 0;
    int rc = step->record_begin(m->dev);
    if (rc == 0)
        step->live(m->dev, &r->plan->n_rows);
    for (int32_t layer = 0; rc == 0 && layer < m->c.n_layers && n < most; layer++)
        if (m->c.moe_layer[layer]) {
            rc = record_experts(r, m, 1, layer);
            n++;
        }
    *n_layers = n;
    return rc < 0 ? moed_fail(err, MOED_EDEVICE, "the device failed in recording misses")
                  : step->record_end(m->dev, out, err);
}
