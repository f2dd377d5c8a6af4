/*
 * Passes of many rows by the tensor class (kernels/tensor.h): prompts on the long lane. Experts
 * come as a stream of the pager, copied ahead of the router; each is computed when it is there, so
 * that the copies of the next layers never wait for compute longer than the staging slots last.
 *
 * The host waits once in a layer, for the router's choice.
 */
#include <math.h>

#include "model/model_int.h"

/* Up to so many rows of a pass, and of an expert, the FMA class computes: part of what a plan's
 * bits are (design 3.7), not of how fast it is. */
#define FMA_PASS_ROWS   64
#define FMA_EXPERT_ROWS 8

/* Experts of one launch: enough rows to fill a device, few enough that their staging slots are
 * soon filled again. */
#define EXPERTS_AT_ONCE 24

static bool alike(enum dtype dtype, const struct weight *const *w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (w[i]->data && w[i]->dtype != dtype)
            return false;
    return true;
}

bool long_possible(const struct model *m)
{
    enum dtype dtype = m->w.layer[0].q.dtype;
    if (!m->dev->tensor || !m->dev->step || (dtype != DTYPE_BF16 && dtype != DTYPE_F16))
        return false;
    for (int32_t i = 0; i < m->c.n_layers; i++) {
        const struct layer_weights *l = &m->w.layer[i];
        const struct weight *const w[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        if (!alike(dtype, w, sizeof w / sizeof w[0]))
            return false;
    }
    return !m->w.arena || m->w.cls.dtype == dtype;
}

bool long_fits(const struct model *m, const struct pass *p)
{
    return m->has_tensor && p == &m->lane[MODEL_LONG] && p->batch.n_rows > FMA_PASS_ROWS;
}

/* y [rows][dim] in the weights' dtype. */
static int round_rows(struct model *m, const struct pass *p, const float *x, void *y, int dim)
{
    struct kern_round a = {.x = x,
                           .y = y,
                           .dtype = m->w.layer[0].q.dtype,
                           .x_stride = (size_t)dim,
                           .y_stride = (size_t)dim,
                           .n = p->batch.n_rows,
                           .dim = dim};
    return m->dev->tensor->round(m->dev, &a);
}

/* y [rows][out] = w x (+ bias) (+ residual), x of 16 bits. */
static int multiply(struct model *m, const struct pass *p, const struct weight *w,
                    const struct weight *bias, int in, int out, const void *x,
                    const float *residual, float *y)
{
    struct kern_tensor_linear a = {.w = w->data,
                                   .dtype = w->dtype,
                                   .bias = bias->data,
                                   .bias_dtype = bias->dtype,
                                   .x = x,
                                   .y = y,
                                   .residual = residual,
                                   .x_stride = (size_t)in,
                                   .y_stride = (size_t)out,
                                   .n = p->batch.n_rows,
                                   .in = in,
                                   .out = out};
    return m->dev->tensor->linear(m->dev, &a);
}

static int norm_and_round(struct model *m, const struct pass *p, const struct weight *norm)
{
    int rc = norm_run(m, norm, p->batch.n_rows, m->c.hidden, p->a->x, p->a->h);
    return rc < 0 ? rc : round_rows(m, p, p->a->h, p->a->x16, m->c.hidden);
}

static int project(struct model *m, const struct pass *p, const struct layer_weights *l)
{
    const struct model_config *c = &m->c;
    const struct activations *a = p->a;
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    int rc;
    if ((rc = norm_and_round(m, p, &l->attn_norm)) < 0 ||
        (rc = multiply(m, p, &l->q, &l->q_bias, c->hidden, q_dim, a->x16, NULL, a->q)) < 0 ||
        (rc = multiply(m, p, &l->k, &l->k_bias, c->hidden, kv_dim, a->x16, NULL, a->k)) < 0)
        return rc;
    return multiply(m, p, &l->v, &l->v_bias, c->hidden, kv_dim, a->x16, NULL, a->v);
}

static int turn(struct model *m, const struct pass *p, const struct layer_weights *l,
                const struct kern_kv *kv)
{
    const struct activations *a = p->a;
    struct kern_turn turn = {.q = a->q,
                             .k = a->k,
                             .v = a->v,
                             .q_norm = l->q_norm.data,
                             .k_norm = l->k_norm.data,
                             .norm_dtype = l->q_norm.dtype,
                             .eps = m->c.rms_eps,
                             .cos = m->b.cos,
                             .sin = m->b.sin,
                             .pos = p->batch.pos,
                             .slot = p->slot,
                             .kv = *kv,
                             .n = p->batch.n_rows,
                             .heads = m->c.n_heads};
    return m->dev->step->turn(m->dev, &turn);
}

/* *out: the result, [rows][q_dim] in 16 bits. */
static int attend(struct model *m, const struct pass *p, int32_t layer, const struct kern_kv *kv,
                  const void **out)
{
    const struct model_batch *b = &p->batch;
    const struct activations *a = p->a;
    size_t q_dim = (size_t)m->c.n_heads * (size_t)m->c.head_dim;
    float scale = (float)(1 / sqrt((double)m->c.head_dim));
    *out = a->att;
    if (kern_tensor_attention_takes(kv, m->c.n_heads))
        return m->dev->tensor->attention(
            m->dev, &(struct kern_tensor_attention){.kv = *kv,
                                                    .q = a->q,
                                                    .out = a->att,
                                                    .out_dtype = m->w.layer[0].q.dtype,
                                                    .q_stride = q_dim,
                                                    .out_stride = q_dim,
                                                    .pos = b->pos,
                                                    .seq = b->seq,
                                                    .block_table = p->block_table,
                                                    .n = b->n_rows,
                                                    .heads = m->c.n_heads,
                                                    .window = m->c.window[layer],
                                                    .scale = scale});
    struct kern_attention attention = {.kv = *kv,
                                       .q = a->q,
                                       .out = a->att,
                                       .q_stride = q_dim,
                                       .out_stride = q_dim,
                                       .pos = b->pos,
                                       .seq = b->seq,
                                       .block_table = p->block_table,
                                       .n = b->n_rows,
                                       .heads = m->c.n_heads,
                                       .window = m->c.window[layer],
                                       .scale = scale,
                                       .max_context = p->max_context};
    *out = a->q;
    int rc = m->dev->kern->attention(m->dev, &attention);
    return rc < 0 ? rc : round_rows(m, p, a->att, a->q, (int)q_dim);
}

static int attention(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err)
{
    const struct layer_weights *l = &m->w.layer[layer];
    const struct model_config *c = &m->c;
    struct kern_kv kv = layer_kv(m, layer);
    const void *out;
    if (project(m, p, l) < 0 || turn(m, p, l, &kv) < 0 || attend(m, p, layer, &kv, &out) < 0 ||
        multiply(m, p, &l->o, &l->o_bias, c->n_heads * c->head_dim, c->hidden, out, p->a->x,
                 p->a->x) < 0)
        return device_failed("attention", layer, err);
    m->stats.bytes_attention += l->attention_bytes;
    m->stats.bytes_kv += attention_kv_bytes(m, p, layer);
    stage_end(m, &m->stats.seconds_attention);
    return 0;
}

static int dense(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err)
{
    const struct layer_weights *l = &m->w.layer[layer];
    const struct activations *a = p->a;
    int hidden = m->c.hidden, inter = m->c.intermediate;
    struct kern_silu_mul act = {
        .gate = a->gate, .up = a->up, .y = a->gate, .n = (size_t)p->batch.n_rows * (size_t)inter};
    if (norm_and_round(m, p, &l->ffn_norm) < 0 ||
        multiply(m, p, &l->gate, &l->gate_bias, hidden, inter, a->x16, NULL, a->gate) < 0 ||
        multiply(m, p, &l->up, &l->up_bias, hidden, inter, a->x16, NULL, a->up) < 0 ||
        m->dev->kern->silu_mul(m->dev, &act) < 0 || round_rows(m, p, a->gate, a->up, inter) < 0 ||
        multiply(m, p, &l->down, &l->down_bias, inter, hidden, a->up, a->x, a->x) < 0)
        return device_failed("the MLP", layer, err);
    m->stats.bytes_dense += l->ffn_bytes;
    stage_end(m, &m->stats.seconds_dense);
    return 0;
}

/* Queues n leased experts: those with many rows, then those with few, from the other end of the
 * list. */
static int compute(struct model *m, const struct pass *p, const struct pager_lease *lease, int n)
{
    const struct activations *a = p->a;
    struct expert_groups *g = &m->groups;
    int tensor = 0, fma = n;
    for (int i = 0; i < n; i++) {
        struct kern_expert_group group = expert_group(g, &lease[i]);
        if (group.n > FMA_EXPERT_ROWS)
            g->group[tensor++] = group;
        else
            g->group[--fma] = group;
    }
    struct kern_tensor_experts many = {.cls = &m->w.cls,
                                       .group = g->group,
                                       .n_groups = tensor,
                                       .x = a->x16,
                                       .hidden = a->hidden,
                                       .y = a->y,
                                       .unpacked = a->unpacked,
                                       .unpacked_bytes = a->unpacked_bytes};
    struct kern_experts few = {.cls = &m->w.cls,
                               .group = g->group + fma,
                               .n_groups = n - fma,
                               .x = a->h,
                               .hidden = a->hidden,
                               .y = a->y};
    int rc = tensor > 0 ? m->dev->tensor->experts(m->dev, &many) : 0;
    if (rc < 0 || fma == n)
        return rc;
    rc = m->dev->kern->experts_gate_up(m->dev, &few);
    return rc < 0 ? rc : m->dev->kern->experts_down(m->dev, &few);
}

/* The layer's experts as they come. */
static int compute_stream(struct model *m, const struct pass *p, int32_t layer, int32_t n,
                          struct moed_error *err)
{
    struct expert_groups *g = &m->groups;
    int rc = pager_stream_layer(m->pager, layer, g->need, (size_t)n, err);
    int got;
    while (rc >= 0 && (got = pager_stream_next(m->pager, g->lease,
                                               n < EXPERTS_AT_ONCE ? n : EXPERTS_AT_ONCE)) > 0) {
        if (compute(m, p, g->lease, got) < 0)
            rc = device_failed("the experts", layer, err);
        pager_release(m->pager, g->lease, (size_t)got);
    }
    return rc;
}

static int compute_leased(struct model *m, const struct pass *p, int32_t layer, int32_t n,
                          struct moed_error *err)
{
    struct expert_groups *g = &m->groups;
    int rc = pager_acquire(m->pager, layer, g->need, (size_t)n, g->lease, err);
    if (rc < 0)
        return rc;
    if (compute(m, p, g->lease, n) < 0)
        rc = device_failed("the experts", layer, err);
    pager_release(m->pager, g->lease, (size_t)n);
    return rc;
}

static int experts(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err)
{
    const struct model_config *c = &m->c;
    const struct activations *a = p->a;
    if (experts_route(m, p, layer) < 0 || round_rows(m, p, a->h, a->x16, c->hidden) < 0 ||
        m->dev->kern->sync(m->dev) < 0)
        return device_failed("the router", layer, err);
    int32_t n = experts_group(m, p);
    int rc = p->streams ? compute_stream(m, p, layer, n, err) : compute_leased(m, p, layer, n, err);
    if (rc < 0)
        return rc;
    struct kern_combine combine = {.y = a->y,
                                   .weight = a->weight,
                                   .x = a->x,
                                   .n = p->batch.n_rows,
                                   .top_k = c->top_k,
                                   .dim = c->hidden};
    if (m->dev->kern->combine(m->dev, &combine) < 0)
        return device_failed("the experts", layer, err);
    experts_count(m, layer, n);
    return 0;
}

void long_begin(struct model *m, struct pass *p)
{
    p->streams = m->pager && pager_stream_open(m->pager, 0, m->c.n_layers, p->batch.n_rows) > 0;
}

int long_layer(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err)
{
    int rc = attention(m, p, layer, err);
    if (rc < 0)
        return rc;
    return m->c.moe_layer[layer] ? experts(m, p, layer, err) : dense(m, p, layer, err);
}

void long_end(struct model *m, struct pass *p)
{
    if (p->streams)
        pager_stream_close(m->pager);
    p->streams = false;
}
