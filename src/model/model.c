#include "model/model.h"

#include <assert.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
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
    struct model_options widest = *o;
    widest.packed_experts = false;
    model_memory(c, DTYPE_F32, &widest, &memory);
    if (memory.total_bytes > (uint64_t)INT64_MAX)
        return moed_fail(err, MOED_ELIMIT, "a model of these options takes more than 2^63 bytes");
    return 0;
}

static int fail_copy(struct moed_error *err)
{
    return moed_fail(err, MOED_EDEVICE, "the device failed in a copy of weights");
}

/* Copies host memory to the device, in order, and waits. */
static int send(struct model *m, void *dst, const void *src, uint64_t bytes, struct moed_error *err)
{
    struct dev_event event = {0};
    int rc = m->dev->ops->copy_in(m->dev, dst, src, bytes, &event);
    if (rc >= 0)
        rc = m->dev->ops->event_wait(m->dev, &event);
    return rc < 0 ? fail_copy(err) : 0;
}

/* Weights on their way from host memory to where the device reads them. */
struct placing {
    struct dev_event sent;
    bool under_way; /* a copy of dense weights */
    int64_t begin_us, registering_us;
    uint64_t registered_bytes;
    void **locked; /* [n_locked] parts of dense weights, registered for their copies */
    size_t n_locked, locked_cap;
};

static int end_copy(struct model *m, struct placing *p, struct moed_error *err)
{
    if (!p->under_way)
        return 0;
    p->under_way = false;
    return m->dev->ops->event_wait(m->dev, &p->sent) < 0 ? fail_copy(err) : 0;
}

/* A part of the experts stays and becomes readable. */
static int place_experts(struct model *m, struct placing *p, const struct weights_part *part,
                         struct moed_error *err)
{
    const struct dev_ops *ops = m->dev->ops;
    int64_t begin_us = clock_us();
    int rc = ops->host_register(m->dev, part->data, part->bytes, m->w.cls.bytes, err);
    if (rc < 0)
        return moed_fail_in(err, rc, "experts, %.1f of %.1f MiB of them registered before",
                            (double)p->registered_bytes / 0x1p20,
                            (double)m->w.arena_bytes / 0x1p20);
    p->registering_us += clock_us() - begin_us;
    p->registered_bytes += part->bytes;
    m->registered =
        mem_reserve(m->registered, &m->registered_cap, m->n_registered + 1, sizeof *m->registered);
    m->registered[m->n_registered++] = part->data;
    return 0;
}

/* A part of the dense weights goes to the device, unless it uses host memory. Where it cannot be
 * registered its copy is slow, and that is all. */
static int place_dense(struct model *m, struct placing *p, const struct weights_part *part,
                       struct moed_error *err)
{
    const struct dev_ops *ops = m->dev->ops;
    struct moed_error ignored;
    int rc;
    if (!m->dense)
        return 0;
    int64_t begin_us = clock_us();
    if (ops->host_register(m->dev, part->data, part->bytes, 0, &ignored) >= 0) {
        p->locked = mem_reserve(p->locked, &p->locked_cap, p->n_locked + 1, sizeof *p->locked);
        p->locked[p->n_locked++] = part->data;
        p->registering_us += clock_us() - begin_us;
        p->registered_bytes += part->bytes;
    }
    if ((rc = end_copy(m, p, err)) < 0)
        return rc;
    rc = ops->copy_in(m->dev, m->dense + (part->data - m->w.dense), part->data, part->bytes,
                      &p->sent);
    p->under_way = rc >= 0;
    return rc < 0 ? fail_copy(err) : 0;
}

static void say_placed(const struct placing *p, int64_t read_us)
{
    double gb = (double)p->registered_bytes * 1e-9, seconds = (double)p->registering_us * 1e-6;
    log_info("weights: registered %.2f GB in %.3f s, %.1f GB/s; all in place %.3f s after the last "
             "was read, %.3f s after the device was open",
             gb, seconds, seconds > 0 ? gb / seconds : 0, (double)(clock_us() - read_us) * 1e-6,
             (double)(clock_us() - p->begin_us) * 1e-6);
}

/* Takes the parts as they come in, in the order in which they are read. */
static int place_weights(struct model *m, struct moed_error *err)
{
    const struct dev_ops *ops = m->dev->ops;
    struct placing p = {.begin_us = clock_us()};
    struct weights_part part;
    int rc;
    if (!ops->uses_host_memory) {
        m->dense = ops->alloc(m->dev, m->w.dense_bytes);
        m->dense_bytes = m->w.dense_bytes;
        if (!m->dense)
            return moed_fail(err, MOED_ENOMEM, "no device memory for %llu bytes of dense weights",
                             (unsigned long long)m->dense_bytes);
    }
    while ((rc = weights_load_next(m->loading, &part, err)) > 0) {
        rc = part.in_arena ? place_experts(m, &p, &part, err) : place_dense(m, &p, &part, err);
        if (rc < 0)
            break;
    }
    int copied = end_copy(m, &p, rc < 0 ? NULL : err);
    rc = rc < 0 ? rc : copied;
    for (size_t i = 0; i < p.n_locked; i++)
        ops->host_unregister(m->dev, p.locked[i]);
    free(p.locked);
    if (rc < 0)
        return rc;
    int64_t read_us = weights_load_ended_us(m->loading);
    weights_load_end(&m->loading);
    if (m->dense)
        weights_move_dense(&m->w, &m->c, m->dense);
    if (!ops->uses_host_memory)
        say_placed(&p, read_us);
    weights_report_pages(&m->w); /* as the driver has left them */
    return 0;
}

/* cos and sin, made on the host. */
static int place_tables(struct model *m, struct moed_error *err)
{
    size_t floats = (size_t)m->o.max_context * (size_t)(m->c.head_dim / 2);
    if (m->dev->ops->uses_host_memory)
        return rope_tables(&m->c, m->o.max_context, m->b.cos, m->b.sin, err);
    float *table = mem_try(2 * floats, sizeof *table);
    if (!table)
        return moed_fail(err, MOED_ENOMEM, "no memory for the RoPE tables");
    int rc = rope_tables(&m->c, m->o.max_context, table, table + floats, err);
    if (rc == 0)
        rc = send(m, m->b.cos, table, floats * sizeof *table, err);
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

int model_begin(struct model **out, const struct model_config *c, const struct model_options *o,
                struct store *store, struct moed_error *err)
{
    struct weights_load_options load = {.io_threads = o->io_threads,
                                        .part_bytes = o->load_part_bytes,
                                        .packed = o->packed_experts,
                                        .progress = o->progress,
                                        .user = o->user};
    *out = NULL;
    int rc = check_options(c, o, err);
    if (rc < 0)
        return rc;
    struct model *m = mem_new(1, sizeof *m);
    m->c = *c;
    m->o = *o;
    rc = weights_load_begin(&m->loading, &m->w, &m->c, store, &load, err);
    if (rc < 0)
        model_close(&m);
    *out = m;
    return rc;
}

/* What takes how long between the last byte and the first step, in seconds. */
struct stages {
    int64_t mark_us;
    double memory_s, misses_s, pager_s, recording_s;
};

static int stage(struct stages *s, double *seconds, int rc)
{
    int64_t now_us = clock_us();
    *seconds += (double)(now_us - s->mark_us) * 1e-6;
    s->mark_us = now_us;
    return rc;
}

int model_finish(struct model *m, struct dev *dev, struct moed_error *err)
{
    m->dev = dev;
    m->o.device_logits = !dev->ops->uses_host_memory;
    int rc = place_weights(m, err);
    if (rc < 0)
        return rc;
    struct stages s = {.mark_us = clock_us()};
    if ((rc = alloc_buffers(m, err)) < 0 || (rc = sampler_open(m, err)) < 0)
        return rc;
    m->has_tensor = m->lane[MODEL_LONG].max_rows > 0 && long_possible(m);
    rc = stage(&s, &s.memory_s, recorded_open(&m->recorded, m, err));
    if (rc < 0 || (rc = stage(&s, &s.misses_s, recorded_measure(m->recorded, m, err))) < 0 ||
        (rc = stage(&s, &s.pager_s, open_pager(m, err))) < 0 ||
        (rc = stage(&s, &s.recording_s, recorded_record(m->recorded, m, err))) < 0)
        return rc;
    if (!dev->ops->uses_host_memory)
        log_info(
            "model: memory taken in %.3f s, misses measured in %.3f, slots made in %.3f, steps "
            "recorded in %.3f",
            s.memory_s, s.misses_s, s.pager_s, s.recording_s);
    return 0;
}

int model_open(struct model **out, const struct model_config *c, const struct model_options *o,
               struct store *store, struct dev *dev, struct moed_error *err)
{
    int rc = model_begin(out, c, o, store, err);
    if (rc == 0 && (rc = model_finish(*out, dev, err)) < 0)
        model_close(out);
    return rc;
}

static void close_device_side(struct model *m)
{
    const struct dev_ops *ops = m->dev->ops;
    for (enum model_lane lane = 0; lane < MODEL_LANES; lane++)
        if (m->lane[lane].open)
            model_pass_end(m, lane);
    if (m->pager)
        pager_close(&m->pager);
    recorded_close(&m->recorded, m);
    for (size_t i = 0; i < m->n_registered; i++)
        ops->host_unregister(m->dev, m->registered[i]);
    sampler_close(m);
    if (m->kv)
        ops->free(m->dev, m->kv, m->kv_bytes);
    if (m->buffer_block)
        ops->free(m->dev, m->buffer_block, m->buffer_bytes);
    if (m->dense)
        ops->free(m->dev, m->dense, m->dense_bytes);
    for (enum model_lane lane = 0; lane < MODEL_LANES; lane++)
        if (m->lane[lane].id)
            ops->free_shared(m->dev, m->lane[lane].id, m->lane[lane].id_bytes);
}

void model_close(struct model **model)
{
    struct model *m = *model;
    if (!m)
        return;
    weights_load_end(&m->loading);
    if (m->dev)
        close_device_side(m);
    for (enum model_lane lane = 0; lane < MODEL_LANES; lane++) {
        struct pass *p = &m->lane[lane];
        free(p->slot);
        free(p->block_table);
    }
    free(m->registered);
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
    int rc = recorded_measure(m->recorded, m, err);
    if (rc == 0)
        rc = open_pager(m, err);
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
