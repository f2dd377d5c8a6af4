#include "model/model.h"

#include <stdlib.h>

#include "base/mem.h"
#include "model/model_int.h"

static int check_options(const struct model_config *c, const struct model_options *o,
                         struct moed_error *err)
{
    const struct {
        const char *name;
        int32_t value, max;
    } ranges[] = {
        {"max_rows", o->max_rows, MODEL_MAX_ROWS},
        {"max_context", o->max_context, c->max_position},
        {"max_logits", o->max_logits, o->max_rows},
        {"kv_blocks", o->kv_blocks, INT32_MAX},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (ranges[i].value < 1 || ranges[i].value > ranges[i].max)
            return moed_fail_param(err, MOED_EINVAL, ranges[i].name, "%s is %d, must be 1 to %d",
                                   ranges[i].name, ranges[i].value, ranges[i].max);
    if (o->kv_dtype != DTYPE_F32 && o->kv_dtype != DTYPE_BF16)
        return moed_fail_param(err, MOED_EINVAL, "kv_dtype", "kv_dtype must be F32 or BF16");
    /* An index of a pair of row and chosen expert is an int32_t. */
    if (c->top_k && o->max_rows > INT32_MAX / c->top_k)
        return moed_fail_param(err, MOED_ELIMIT, "max_rows",
                               "max_rows is %d, too many for %d experts a token", o->max_rows,
                               c->top_k);
    struct model_memory memory;
    model_memory(c, DTYPE_F32, o, &memory);
    if (memory.total_bytes > (uint64_t)INT64_MAX)
        return moed_fail(err, MOED_ELIMIT, "a model of these options takes more than 2^63 bytes");
    return 0;
}

/* Weights are read by the device where they lie. */
static int register_weights(struct model *m, struct moed_error *err)
{
    const struct dev_ops *ops = m->dev->ops;
    int rc = ops->host_register(m->dev, m->w.dense, m->w.dense_bytes, err);
    if (rc < 0)
        return rc;
    m->registered_dense = true;
    if (!m->w.arena)
        return 0;
    if ((rc = ops->host_register(m->dev, m->w.arena, m->w.arena_bytes, err)) < 0)
        return rc;
    m->registered_arena = true;
    return 0;
}

static int alloc_buffers(struct model *m, struct moed_error *err)
{
    const struct model_config *c = &m->c;
    m->layer_block_bytes = kv_layer_block_bytes(c, m->o.kv_dtype);
    m->kv_bytes = (uint64_t)c->n_layers * (uint64_t)m->o.kv_blocks * m->layer_block_bytes;
    m->kv = m->dev->ops->alloc(m->dev, m->kv_bytes);
    if (!m->kv)
        return moed_fail(err, MOED_ENOMEM, "no memory for %llu bytes of KV cache",
                         (unsigned long long)m->kv_bytes);
    m->activation_bytes = activations_layout(&m->a, NULL, c, &m->o);
    m->activation_block = m->dev->ops->alloc(m->dev, m->activation_bytes);
    if (!m->activation_block)
        return moed_fail(err, MOED_ENOMEM, "no memory for %llu bytes of activations",
                         (unsigned long long)m->activation_bytes);
    activations_layout(&m->a, m->activation_block, c, &m->o);
    rope_tables(c, m->o.max_context, m->a.cos, m->a.sin);

    size_t rows = (size_t)m->o.max_rows, pairs = rows * (size_t)c->top_k;
    size_t experts = (size_t)c->n_experts;
    struct expert_groups *g = &m->groups;
    m->block_table = mem_try(rows, sizeof *m->block_table);
    g->need = mem_try(experts, sizeof *g->need);
    g->lease = mem_try(experts, sizeof *g->lease);
    g->group = mem_try(experts, sizeof *g->group);
    g->first = mem_try(experts + 1, sizeof *g->first);
    g->row = mem_try(pairs, sizeof *g->row);
    g->pair = mem_try(pairs, sizeof *g->pair);
    if (!m->block_table || !g->need || !g->lease || !g->group || !g->first || !g->row || !g->pair)
        return moed_fail(err, MOED_ENOMEM, "no memory for the lists of a pass of %zu rows", rows);
    return 0;
}

static int open_pager(struct model *m, struct moed_error *err)
{
    if (!m->w.arena)
        return 0;
    m->map = (struct expert_map){.n_layers = m->c.n_layers,
                                 .n_experts = m->c.n_experts,
                                 .cls = &m->w.cls,
                                 .host_of = m->w.host_of};
    return pager_open(&m->pager, &m->o.pager, &m->map, m->dev, err);
}

int model_open(struct model **out, const struct model_config *c, const struct model_options *o,
               struct store *store, struct dev *dev, struct moed_error *err)
{
    struct weights_load_options load = {
        .io_threads = o->io_threads, .progress = o->progress, .user = o->user};
    int rc = check_options(c, o, err);
    if (rc < 0)
        return rc;
    struct model *m = mem_new(1, sizeof *m);
    m->c = *c;
    m->o = *o;
    m->dev = dev;
    if ((rc = weights_load(&m->w, c, store, &load, err)) < 0 ||
        (rc = register_weights(m, err)) < 0 || (rc = alloc_buffers(m, err)) < 0 ||
        (rc = open_pager(m, err)) < 0) {
        model_close(&m);
        return rc;
    }
    *out = m;
    return 0;
}

void model_close(struct model **model)
{
    struct model *m = *model;
    if (!m)
        return;
    if (m->pass.open)
        model_pass_end(m);
    if (m->pager)
        pager_close(&m->pager);
    if (m->registered_dense)
        m->dev->ops->host_unregister(m->dev, m->w.dense);
    if (m->registered_arena)
        m->dev->ops->host_unregister(m->dev, m->w.arena);
    if (m->kv)
        m->dev->ops->free(m->dev, m->kv, m->kv_bytes);
    if (m->activation_block)
        m->dev->ops->free(m->dev, m->activation_block, m->activation_bytes);
    free(m->groups.need);
    free(m->groups.lease);
    free(m->groups.group);
    free(m->groups.first);
    free(m->groups.row);
    free(m->groups.pair);
    free(m->block_table);
    weights_fini(&m->w);
    free(m);
    *model = NULL;
}

struct pager *model_pager(struct model *m)
{
    return m->pager;
}

void model_stats(const struct model *m, struct model_stats *out)
{
    *out = m->stats;
}
