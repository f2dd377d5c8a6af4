/* The second half of a layer without experts: norm and a SwiGLU MLP. */
#include "model/model_int.h"

int dense_run(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err)
{
    const struct layer_weights *l = &m->w.layer[layer];
    const struct model_config *c = &m->c;
    const struct activations *a = p->a;
    int inter = c->intermediate;
    int32_t n = p->batch.n_rows;
    struct kern_silu_mul act = {
        .gate = a->gate, .up = a->up, .y = a->gate, .n = (size_t)n * (size_t)inter};
    if (norm_run(m, &l->ffn_norm, n, c->hidden, a->x, a->h) < 0 ||
        linear_run(m, p, &l->gate, &l->gate_bias, c->hidden, inter, a->h, NULL, a->gate) < 0 ||
        linear_run(m, p, &l->up, &l->up_bias, c->hidden, inter, a->h, NULL, a->up) < 0 ||
        m->dev->kern->silu_mul(m->dev, &act) < 0 ||
        linear_run(m, p, &l->down, &l->down_bias, inter, c->hidden, a->gate, a->x, a->x) < 0)
        return device_failed("the MLP", layer, err);
    m->stats.bytes_dense += l->ffn_bytes;
    stage_end(m, &m->stats.seconds_dense);
    return 0;
}
