/*
 * The pass: embedding, layers, logits. Written over a device's ops; each stage of a layer has its
 * own file.
 */
#include <assert.h>
#include <time.h>

#include "model/recorded.h"

void stage_end(struct model *m, double *seconds)
{
    struct timespec now, *mark = &m->mark;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *seconds += (double)(now.tv_sec - mark->tv_sec) + (double)(now.tv_nsec - mark->tv_nsec) * 1e-9;
    *mark = now;
}

int device_failed(const char *stage, int32_t layer, struct moed_error *err)
{
    return moed_fail(err, MOED_EDEVICE, "the device failed in %s of layer %d", stage, layer);
}

int linear_run(struct model *m, const struct pass *p, const struct weight *w,
               const struct weight *bias, int in, int out, const float *x, const float *residual,
               float *y)
{
    return m->dev->kern->linear(m->dev, &(struct kern_linear){.w = w->data,
                                                              .w_dtype = w->dtype,
                                                              .bias = bias->data,
                                                              .bias_dtype = bias->dtype,
                                                              .x = x,
                                                              .y = y,
                                                              .residual = residual,
                                                              .x_stride = (size_t)in,
                                                              .y_stride = (size_t)out,
                                                              .n = p->batch.n_rows,
                                                              .in = in,
                                                              .out = out});
}

int norm_run(struct model *m, const struct weight *w, int rows, int dim, const float *x, float *y)
{
    return m->dev->kern->rmsnorm(m->dev, &(struct kern_rmsnorm){.x = x,
                                                                .y = y,
                                                                .w = w->data,
                                                                .w_dtype = w->dtype,
                                                                .n = rows,
                                                                .dim = dim,
                                                                .x_stride = (size_t)dim,
                                                                .y_stride = (size_t)dim,
                                                                .eps = m->c.rms_eps});
}

static int bad_batch(struct moed_error *err, int32_t row, const char *what)
{
    return moed_fail(err, MOED_EINVAL, "row %d of the batch: %s", row, what);
}

/* One sequence, rows [first, end): blocks for them and all before them. */
static int check_sequence(struct model *m, struct pass *p, int32_t first, int32_t end,
                          struct moed_error *err)
{
    const struct model_batch *b = &p->batch;
    int32_t context = b->pos[end - 1] + 1;
    const int32_t *blocks = b->seqs[b->seq[first]].block_table;
    for (int32_t k = 0; k <= (context - 1) / KV_BLOCK_TOKENS; k++)
        if (blocks[k] < 0 || blocks[k] >= m->o.kv_blocks)
            return bad_batch(err, first, "a block of its sequence is not one of the cache's");
    if (context > p->max_context)
        p->max_context = context;
    p->kv_positions += (uint64_t)context;
    return 0;
}

static int check_batch(struct model *m, struct pass *p, struct moed_error *err)
{
    const struct model_batch *b = &p->batch;
    int32_t first = 0;
    if (b->n_rows < 1 || b->n_rows > p->max_rows)
        return moed_fail(err, MOED_EINVAL, "a pass of %d rows, must be 1 to %d", b->n_rows,
                         p->max_rows);
    if (b->n_seqs < 1 || b->n_seqs > p->max_rows)
        return moed_fail(err, MOED_EINVAL, "a pass of %d sequences, must be 1 to %d", b->n_seqs,
                         p->max_rows);
    for (int32_t i = 0; i < b->n_rows; i++) {
        if (b->token[i] < 0 || b->token[i] >= m->c.vocab_size)
            return bad_batch(err, i, "its token is outside the vocabulary");
        if (b->pos[i] < 0 || b->pos[i] >= m->o.max_context)
            return bad_batch(err, i, "its position is outside the context");
        if (b->seq[i] < 0 || b->seq[i] >= b->n_seqs)
            return bad_batch(err, i, "its sequence is not one of the pass");
        if (i > first && b->seq[i] == b->seq[i - 1] && b->pos[i] != b->pos[i - 1] + 1)
            return bad_batch(err, i, "its position does not follow the one before");
        if (i + 1 == b->n_rows || b->seq[i + 1] != b->seq[i]) {
            int rc = check_sequence(m, p, first, i + 1, err);
            if (rc < 0)
                return rc;
            first = i + 1;
        }
    }
    return 0;
}

static int embed(struct model *m, const struct pass *p, struct moed_error *err)
{
    struct kern_embed a = {.table = m->w.embed.data,
                           .dtype = m->w.embed.dtype,
                           .token = p->batch.token,
                           .x = p->a->x,
                           .n = p->batch.n_rows,
                           .dim = m->c.hidden};
    int rc = m->dev->kern->embed(m->dev, &a);
    return rc < 0 ? moed_fail(err, MOED_EDEVICE, "the device failed in the embedding") : 0;
}

int model_pass_begin(struct model *m, enum model_lane lane, const struct model_batch *batch,
                     struct moed_error *err)
{
    struct pass *p = &m->lane[lane];
    assert(!p->open);
    p->batch = *batch;
    p->failed = p->replayed = p->streams = false;
    p->layer = p->max_context = 0;
    p->kv_positions = 0;
    int rc = check_batch(m, p, err);
    if (rc < 0)
        return rc;
    clock_gettime(CLOCK_MONOTONIC, &m->mark);
    for (int32_t s = 0; s < batch->n_seqs; s++)
        p->block_table[s] = batch->seqs[s].block_table;
    for (int32_t i = 0; i < batch->n_rows; i++) {
        int32_t pos = batch->pos[i];
        int64_t block = p->block_table[batch->seq[i]][pos / KV_BLOCK_TOKENS];
        p->slot[i] = block * KV_BLOCK_TOKENS + pos % KV_BLOCK_TOKENS;
    }
    p->tensor = long_fits(m, p);
    p->open = true;
    m->stats.passes++;
    m->stats.rows += (uint64_t)batch->n_rows;
    stage_end(m, &m->stats.seconds_other);
    return 0;
}

static int waiting_failed(struct moed_error *err)
{
    return moed_fail(err, MOED_EDEVICE, "the device failed in what it had to do before a pause");
}

/* Before the pager may give slots to others the device must be done with them. */
static int step_end(struct model *m)
{
    if (!m->in_step)
        return 0;
    int rc = m->dev->kern->sync(m->dev);
    if (recorded_pending(m->recorded))
        rc = recorded_settle(m->recorded, m, rc);
    if (m->pager)
        pager_step_end(m->pager);
    m->in_step = false;
    return rc;
}

/* What a replay touches beside experts, which are counted when it has ended. */
static void count_bytes(struct model *m, const struct pass *p)
{
    for (int32_t layer = 0; layer < m->c.n_layers; layer++) {
        m->stats.bytes_attention += m->w.layer[layer].attention_bytes;
        m->stats.bytes_kv += attention_kv_bytes(m, p, layer);
        if (!m->c.moe_layer[layer])
            m->stats.bytes_dense += m->w.layer[layer].ffn_bytes;
    }
}

static int step_begin(struct model *m)
{
    int rc = step_end(m);
    if (m->pager)
        pager_step_begin(m->pager);
    m->in_step = true;
    return rc;
}

static int run_layer(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err)
{
    int rc = attention_run(m, p, layer, err);
    if (rc < 0)
        return rc;
    return m->c.moe_layer[layer] ? experts_run(m, p, layer, err) : dense_run(m, p, layer, err);
}

int model_pass_run(struct model *m, enum model_lane lane, int32_t layer_end, struct moed_error *err)
{
    struct pass *p = &m->lane[lane];
    assert(p->open && !p->failed && layer_end <= m->c.n_layers);
    clock_gettime(CLOCK_MONOTONIC, &m->mark);
    int rc = step_begin(m);
    if (rc < 0)
        waiting_failed(err);
    if (rc >= 0 && p->layer == 0)
        p->replayed = layer_end == m->c.n_layers && recorded_fits(m->recorded, m, p);
    if (rc >= 0 && p->replayed) {
        rc = recorded_run(m->recorded, m, p, err);
        p->layer = layer_end;
        count_bytes(m, p);
    } else if (rc >= 0 && p->layer == 0) {
        if (p->tensor)
            long_begin(m, p);
        rc = embed(m, p, err);
    }
    while (rc >= 0 && p->layer < layer_end) {
        rc = p->tensor ? long_layer(m, p, p->layer, err) : run_layer(m, p, p->layer, err);
        p->layer++;
    }
    /* A pass that goes on to its logits waits for the device there. */
    if (rc >= 0 && p->layer < m->c.n_layers && (rc = step_end(m)) < 0)
        waiting_failed(err);
    stage_end(m, &m->stats.seconds_other);
    p->failed = rc < 0;
    return rc < 0 ? rc : 0;
}

void model_pass_drop(struct model *m, enum model_lane lane, int32_t seq)
{
    struct pass *p = &m->lane[lane];
    assert(p->open && seq >= 0 && seq < p->batch.n_seqs);
    for (int32_t i = 0; i < p->batch.n_rows; i++)
        if (p->batch.seq[i] == seq)
            p->slot[i] = -1;
    p->block_table[seq] = m->no_blocks;
}

int head_run(struct model *m, const struct pass *p, const int32_t *rows, int32_t n, float *y,
             struct moed_error *err)
{
    const struct dev_kern *kern = m->dev->kern;
    const struct model_config *c = &m->c;
    assert(p->open && !p->failed && p->layer == c->n_layers);
    if (n < 1 || n > m->o.max_logits)
        return moed_fail(err, MOED_EINVAL, "logits of %d rows, must be 1 to %d", n,
                         m->o.max_logits);
    for (int32_t i = 0; i < n; i++)
        if (rows[i] < 0 || rows[i] >= p->batch.n_rows)
            return moed_fail(err, MOED_EINVAL, "logits of row %d of %d", rows[i], p->batch.n_rows);
    clock_gettime(CLOCK_MONOTONIC, &m->mark);
    m->stats.bytes_logits +=
        (uint64_t)c->vocab_size * (uint64_t)c->hidden * (uint64_t)dtype_bytes(m->w.head.dtype);
    /* Picking rows is looking them up in a table. */
    struct kern_embed pick = {.table = p->a->x,
                              .dtype = DTYPE_F32,
                              .token = rows,
                              .x = m->b.last,
                              .n = n,
                              .dim = c->hidden};
    struct kern_linear head = {.w = m->w.head.data,
                               .w_dtype = m->w.head.dtype,
                               .x = m->b.last,
                               .y = y,
                               .x_stride = (size_t)c->hidden,
                               .y_stride = (size_t)c->vocab_size,
                               .n = n,
                               .in = c->hidden,
                               .out = c->vocab_size};
    int rc = 0;
    if (p->replayed && recorded_head_fits(m->recorded, n))
        rc = recorded_head(m->recorded, m, rows, n);
    else if ((rc = kern->embed(m->dev, &pick)) >= 0 &&
             (rc = norm_run(m, &m->w.norm, n, c->hidden, m->b.last, m->b.last)) >= 0)
        rc = kern->linear(m->dev, &head);
    return rc < 0 ? moed_fail(err, MOED_EDEVICE, "the device failed in the logits") : 0;
}

int head_wait(struct model *m, struct moed_error *err)
{
    int rc = m->dev->kern->sync(m->dev);
    if (recorded_pending(m->recorded))
        rc = recorded_settle(m->recorded, m, rc);
    if (rc == MOED_ETIMEDOUT)
        return recorded_timed_out(err);
    return rc < 0 ? moed_fail(err, MOED_EDEVICE, "the device failed in the logits") : 0;
}

void head_end(struct model *m, const struct pass *p)
{
    stage_end(m, p->replayed ? &m->stats.seconds_recorded : &m->stats.seconds_logits);
}

int model_pass_logits(struct model *m, enum model_lane lane, const int32_t *rows, int32_t n,
                      float *logits, struct moed_error *err)
{
    const struct pass *p = &m->lane[lane];
    int rc = head_run(m, p, rows, n, m->b.logits ? m->b.logits : logits, err);
    if (rc < 0 || (rc = head_wait(m, err)) < 0)
        return rc;
    if (m->b.logits &&
        m->dev->ops->copy_out(m->dev, logits, m->b.logits,
                              (size_t)n * (size_t)m->c.vocab_size * sizeof *logits) < 0)
        return moed_fail(err, MOED_EDEVICE, "the device failed in the logits");
    head_end(m, p);
    return 0;
}

int model_pass_end(struct model *m, enum model_lane lane)
{
    struct pass *p = &m->lane[lane];
    assert(p->open);
    long_end(m, p);
    p->open = false;
    return step_end(m);
}
