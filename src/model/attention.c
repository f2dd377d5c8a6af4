/* The first half of a layer: norm, Q K V, rotation, cache, attention, output projection. */
#include <math.h>

#include "model/model_int.h"

/* Bytes of K and V that a layer reads and writes for the pass, each position once. */
uint64_t attention_kv_bytes(const struct model *m, const struct pass *p, int32_t layer)
{
    const struct model_batch *b = &p->batch;
    uint64_t per_token = m->layer_block_bytes / KV_BLOCK_TOKENS;
    uint64_t positions = p->kv_positions, window = (uint64_t)m->c.window[layer];
    if (window) {
        positions = 0;
        for (int32_t i = 0, first = 0; i < b->n_rows; i++) {
            if (i + 1 < b->n_rows && b->seq[i + 1] == b->seq[i])
                continue;
            uint64_t context = (uint64_t)b->pos[i] + 1, reach = (uint64_t)(i - first) + window;
            positions += context < reach ? context : reach;
            first = i + 1;
        }
    }
    return (positions + (uint64_t)b->n_rows) * per_token;
}

static int project(struct model *m, const struct pass *p, const struct layer_weights *l)
{
    const struct model_config *c = &m->c;
    const struct activations *a = p->a;
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    int rc;
    if ((rc = norm_run(m, &l->attn_norm, p->batch.n_rows, c->hidden, a->x, a->h)) < 0 ||
        (rc = linear_run(m, p, &l->q, &l->q_bias, c->hidden, q_dim, a->h, NULL, a->q)) < 0 ||
        (rc = linear_run(m, p, &l->k, &l->k_bias, c->hidden, kv_dim, a->h, NULL, a->k)) < 0 ||
        (rc = linear_run(m, p, &l->v, &l->v_bias, c->hidden, kv_dim, a->h, NULL, a->v)) < 0)
        return rc;
    return 0;
}

/* qk-norm and RoPE on the heads of Q or K. */
static int turn(struct model *m, const struct pass *p, const struct weight *norm, int heads,
                float *x)
{
    const struct model_config *c = &m->c;
    const struct model_batch *b = &p->batch;
    if (norm->data) {
        int rc = norm_run(m, norm, b->n_rows * heads, c->head_dim, x, x);
        if (rc < 0)
            return rc;
    }
    return m->dev->kern->rope(m->dev,
                              &(struct kern_rope){.x = x,
                                                  .x_stride = (size_t)heads * (size_t)c->head_dim,
                                                  .pos = b->pos,
                                                  .cos = m->b.cos,
                                                  .sin = m->b.sin,
                                                  .n = b->n_rows,
                                                  .heads = heads,
                                                  .head_dim = c->head_dim});
}

struct kern_kv layer_kv(const struct model *m, int32_t layer)
{
    return (struct kern_kv){.blocks = m->kv +
                                      (size_t)layer * (size_t)m->o.kv_blocks * m->layer_block_bytes,
                            .block_bytes = m->layer_block_bytes,
                            .dtype = m->o.kv_dtype,
                            .kv_heads = m->c.n_kv_heads,
                            .head_dim = m->c.head_dim};
}

static int attend(struct model *m, const struct pass *p, int32_t layer)
{
    const struct model_config *c = &m->c;
    const struct model_batch *b = &p->batch;
    const struct dev_kern *kern = m->dev->kern;
    size_t q_dim = (size_t)c->n_heads * (size_t)c->head_dim;
    size_t kv_dim = (size_t)c->n_kv_heads * (size_t)c->head_dim;
    struct kern_kv kv = layer_kv(m, layer);
    struct kern_kv_store store = {.kv = kv,
                                  .k = p->a->k,
                                  .v = p->a->v,
                                  .k_stride = kv_dim,
                                  .v_stride = kv_dim,
                                  .slot = p->slot,
                                  .n = b->n_rows};
    struct kern_attention attention = {.kv = kv,
                                       .q = p->a->q,
                                       .out = p->a->att,
                                       .q_stride = q_dim,
                                       .out_stride = q_dim,
                                       .pos = b->pos,
                                       .seq = b->seq,
                                       .block_table = p->block_table,
                                       .n = b->n_rows,
                                       .heads = c->n_heads,
                                       .window = c->window[layer],
                                       .scale = (float)(1 / sqrt((double)c->head_dim)),
                                       .max_context = p->max_context};
    int rc = kern->kv_store(m->dev, &store);
    return rc < 0 ? rc : kern->attention(m->dev, &attention);
}

int attention_run(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err)
{
    const struct layer_weights *l = &m->w.layer[layer];
    const struct model_config *c = &m->c;
    if (project(m, p, l) < 0 || turn(m, p, &l->q_norm, c->n_heads, p->a->q) < 0 ||
        turn(m, p, &l->k_norm, c->n_kv_heads, p->a->k) < 0 || attend(m, p, layer) < 0 ||
        linear_run(m, p, &l->o, &l->o_bias, c->n_heads * c->head_dim, c->hidden, p->a->att, p->a->x,
                   p->a->x) < 0)
        return device_failed("attention", layer, err);
    m->stats.bytes_attention += l->attention_bytes;
    m->stats.bytes_kv += attention_kv_bytes(m, p, layer);
    stage_end(m, &m->stats.seconds_attention);
    return 0;
}
