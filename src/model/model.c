#include "model/model.h"

#include <assert.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/recorded.h"

static int32_t most_rows(const struct model_options *o)
{
    return o->long_rows > o->max_rows ? o->long_rows : o->max_rows;
}

static int check_options(const struct model_config *c, const struct model_options *o,
                         struct moed_error *err)
{
    const struct {
        const char *name;
        int32_t min, value, max;
    } ranges[] = {
        {"max_rows", 1, o->max_rows, MODEL_MAX_ROWS},
        {"long_rows", 0, o->long_rows, MODEL_MAX_ROWS},
        {"max_context", 1, o->max_context, c->max_position},
        {"max_logits", 1, o->max_logits, o->max_rows},
        {"kv_blocks", 1, o->kv_blocks, INT32_MAX},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max)
            return moed_fail_param(err, MOED_EINVAL, ranges[i].name, "%s is %d, must be %d to %d",
                                   ranges[i].name, ranges[i].value, ranges[i].min, ranges[i].max);
    if (o->kv_dtype != DTYPE_F32 && o->kv_dtype != DTYPE_BF16)
        return moed_fail_param(err, MOED_EINVAL, "kv_dtype", "kv_dtype must be F32 or BF16");
    /* An index of a pair of row and chosen expert is an int32_t. */
    int32_t rows = most_rows(o);
    if (c->top_k && rows > INT32_MAX / c->top_k)
        return moed_fail_param(err, MOED_ELIMIT, rows == o->max_rows ? "max_rows" : "long_rows",
                               "a pass of %d rows is too long for %d experts a token", rows,
                               c->top_k);
    struct model_memory memory;
    model_memory(c, DTYPE_F32, o, &memory);
    if (memory.total_bytes > (uint64_t)INT64_MAX)
        return moed_fail(err, MOED_ELIMIT, "a model of these options takes more than 2^63 bytes");
    return 0;
}

/* Copies host memory to the device, in order, and waits. */
static int send(struct model *m, void *dst, const void *src, uint64_t bytes, struct moed_error *err)
{
    struct dev_event event = {0};
    int rc = m->dev->ops->copy_in(m->dev, dst, src, bytes, &event);
    if (rc >= 0)
        rc = m->dev->ops->event_wait(m->dev, &event);
    return rc < 0 ? moed_fail(err, MOED_EDEVICE, "the device failed in a copy of weights") : 0;
}

/* Dense weights to the device, unless it uses host memory; records stay and become readable. */
static int place_weights(struct model *m, struct moed_error *err)
{
    const struct dev_ops *ops = m->dev->ops;
    int rc;
    if (!ops->uses_host_memory) {
        m->dense = ops->alloc(m->dev, m->w.dense_bytes);
        m->dense_bytes = m->w.dense_bytes;
        if (!m->dense)
            return moed_fail(err, MOED_ENOMEM, "no device memory for %llu bytes of dense weights",
                             (unsigned long long)m->dense_bytes);
        if ((rc = send(m, m->dense, m->w.dense, m->dense_bytes, err)) < 0)
            return rc;
        weights_move_dense(&m->w, &m->c, m->dense);
    }
    if (!m->w.arena)
        return 0;
    rc = ops->host_register(m->dev, m->w.arena, m->w.arena_bytes, m->w.cls.bytes, err);
    m->registered_arena = rc >= 0;
    weights_report_pages(&m->w); /* as the driver has left them */
    return rc < 0 ? rc : 0;
}

/* cos and sin, made on the host. */
static int place_tables(struct model *m, struct moed_error *err)
{
    size_t floats = (size_t)m->o.max_context * (size_t)(m->c.head_dim / 2);
    if (m->dev->ops->uses_host_memory) {
        rope_tables(&m->c, m->o.max_context, m->b.cos, m->b.sin);
        return 0;
    }
    float *table = mem_try(2 * floats, sizeof *table);
    if (!table)
        return moed_fail(err, MOED_ENOMEM, "no memory for the RoPE tables");
    rope_tables(&m->c, m->o.max_context, table, table + floats);
    int rc = send(m, m->b.cos, table, floats * sizeof *table, err);
    if (rc == 0)
        rc = send(m, m->b.sin, table + floats, floats * sizeof *table, err);
    free(table);
    return rc;
}

/* What a lane has beside its activations. */
static int alloc_lane(struct model *m, enum model_lane lane, struct moed_error *err)
{
    struct pass *p = &m->lane[lane];
    size_t rows = (size_t)lane_rows(&m->o, lane), pairs = rows * (size_t)m->c.top_k;
    p->max_rows = (int32_t)rows;
    p->a = &m->b.lane[lane];
    if (pairs) {
        p->id_bytes = pairs * sizeof *p->id;
        p->id = m->dev->ops->alloc_shared(m->dev, p->id_bytes);
        if (!p->id)
            return moed_fail(err, MOED_ENOMEM, "no memory for the experts of %zu rows", rows);
    }
    p->slot = mem_try(rows, sizeof *p->slot);
    p->block_table = mem_try(rows, sizeof *p->block_table);
    if (!p->slot || !p->block_table)
        return moed_fail(err, MOED_ENOMEM, "no memory for the lists of a pass of %zu rows", rows);
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
    m->buffer_bytes = buffers_layout(&m->b, NULL, c, &m->o, NULL);
    m->buffer_block = m->dev->ops->alloc(m->dev, m->buffer_bytes);
    if (!m->buffer_block)
        return moed_fail(err, MOED_ENOMEM, "no memory for %llu bytes of activations",
                         (unsigned long long)m->buffer_bytes);
    buffers_layout(&m->b, m->buffer_block, c, &m->o, NULL);
    int rc = place_tables(m, err);
    if (rc < 0)
        return rc;
    for (enum model_lane lane = 0; lane < MODEL_LANES; lane++)
        if ((rc = alloc_lane(m, lane, err)) < 0)
            return rc;

    size_t pairs = (size_t)most_rows(&m->o) * (size_t)c->top_k, experts = (size_t)c->n_experts;
    struct expert_groups *g = &m->groups;
    g->need = mem_try(experts, sizeof *g->need);
    g->lease = mem_try(experts, sizeof *g->lease);
    g->group = mem_try(experts, sizeof *g->group);
    g->first = mem_try(experts + 1, sizeof *g->first);
    g->row = mem_try(pairs, sizeof *g->row);
    g->pair = mem_try(pairs, sizeof *g->pair);
    m->no_blocks = mem_try((size_t)m->o.max_context / KV_BLOCK_TOKENS + 1, sizeof *m->no_blocks);
    if (!g->need || !g->lease || !g->group || !g->first || !g->row || !g->pair || !m->no_blocks)
        return moed_fail(err, MOED_ENOMEM, "no memory for the lists of a pass of %d rows",
                         most_rows(&m->o));
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
    struct pager_config cfg = m->o.pager;
    if (recorded_demand_open(m->recorded))
        cfg.demand_open = recorded_demand_open(m->recorded);
    return pager_open(&m->pager, &cfg, &m->map, m->dev, err);
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
    m->o.device_logits = !dev->ops->uses_host_memory;
    m->dev = dev;
    if ((rc = weights_load(&m->w, c, store, &load, err)) < 0 || (rc = place_weights(m, err)) < 0 ||
        (rc = alloc_buffers(m, err)) < 0 || (rc = sampler_open(m, err)) < 0)
        goto failed;
    m->has_tensor = m->lane[MODEL_LONG].max_rows > 0 && long_possible(m);
    if ((rc = recorded_open(&m->recorded, m, err)) < 0 ||
        (rc = recorded_measure(m->recorded, m, err)) < 0 || (rc = open_pager(m, err)) < 0 ||
        (rc = recorded_record(m->recorded, m, err)) < 0)
        goto failed;
    *out = m;
    return 0;
failed:
    model_close(&m);
    return rc;
}

void model_close(struct model **model)
{
    struct model *m = *model;
    if (!m)
        return;
    for (enum model_lane lane = 0; lane < MODEL_LANES; lane++)
        if (m->lane[lane].open)
            model_pass_end(m, lane);
    if (m->pager)
        pager_close(&m->pager);
    recorded_close(&m->recorded, m);
    if (m->registered_arena)
        m->dev->ops->host_unregister(m->dev, m->w.arena);
    sampler_close(m);
    if (m->kv)
        m->dev->ops->free(m->dev, m->kv, m->kv_bytes);
    if (m->buffer_block)
        m->dev->ops->free(m->dev, m->buffer_block, m->buffer_bytes);
    if (m->dense)
        m->dev->ops->free(m->dev, m->dense, m->dense_bytes);
    for (enum model_lane lane = 0; lane < MODEL_LANES; lane++) {
        struct pass *p = &m->lane[lane];
        if (p->id)
            m->dev->ops->free_shared(m->dev, p->id, p->id_bytes);
        free(p->slot);
        free(p->block_table);
    }
    free(m->groups.need);
    free(m->groups.lease);
    free(m->groups.group);
    free(m->groups.first);
    free(m->groups.row);
    free(m->groups.pair);
    free(m->no_blocks);
    weights_fini(&m->w);
    free(m);
    *model = NULL;
}

int model_set_cache(struct model *m, const struct pager_config *cfg, struct moed_error *err)
{
    for (enum model_lane lane = 0; lane < MODEL_LANES; lane++)
        assert(!m->lane[lane].open);
    pager_close(&m->pager);
    m->o.pager = *cfg;
    int rc = open_pager(m, err);
    return rc < 0 ? rc : recorded_record(m->recorded, m, err);
}

int32_t model_fused_context(const struct model *m)
{
    return recorded_fused_context(m->recorded);
}

int model_fused_times(struct model *m, double *us)
{
    return model_fused_context(m) ? recorded_fused_times(m->recorded, m, us) : MOED_EUNSUPPORTED;
}

const struct misses *model_misses(const struct model *m)
{
    return recorded_misses(m->recorded);
}

struct pager *model_pager(struct model *m)
{
    return m->pager;
}

void model_stats(const struct model *m, struct model_stats *out)
{
    *out = m->stats;
    out->bytes_experts_cpu = recorded_cpu_bytes(m->recorded);
}
