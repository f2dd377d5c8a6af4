/* What a model takes, before it takes it; and the cutting of the block of device buffers. */
#include "model/recorded.h"

#include <stdio.h>

#include "model/family.h"

#define BUFFER_ALIGN_BYTES 64
/* Packed experts of a long pass are unpacked so many at once, or as many as take so many bytes:
 * enough for their products to fill a device, where large ones do it by themselves. */
#define UNPACKED_AT_ONCE 16
#define UNPACKED_BYTES   ((uint64_t)256 << 20)

static uint64_t add_bytes(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static uint64_t mul_bytes(uint64_t a, uint64_t b)
{
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

struct cutter {
    uint8_t *base;
    uint64_t used;
};

/* rows * columns elements of 2 to 8 bytes; the limits of config and options keep the product under
 * 2^63. NULL where nothing is asked for. */
static void *cut(struct cutter *k, uint64_t rows, uint64_t columns, uint64_t size)
{
    uint64_t bytes = mul_bytes(mul_bytes(rows, columns), size), at = k->used;
    if (!bytes)
        return NULL;
    k->used = add_bytes(k->used, add_bytes(bytes, BUFFER_ALIGN_BYTES - 1));
    if (k->used != UINT64_MAX)
        k->used = k->used / BUFFER_ALIGN_BYTES * BUFFER_ALIGN_BYTES;
    return k->base ? k->base + at : NULL;
}

static uint64_t unpacked_bytes(const struct model_config *c)
{
    uint64_t each = kern_unpacked_bytes(c->hidden, c->moe_intermediate), n = UNPACKED_AT_ONCE;
    if (!each)
        return 0;
    n = n < UNPACKED_BYTES / each ? n : UNPACKED_BYTES / each;
    n = n < (uint64_t)c->n_experts ? n : (uint64_t)c->n_experts;
    return (n ? n : 1) * each;
}

static void cut_lane(struct cutter *k, struct activations *a, const struct model_config *c,
                     uint64_t rows, bool tensor, bool packed)
{
    uint64_t hidden = (uint64_t)c->hidden;
    uint64_t q_dim = (uint64_t)c->n_heads * (uint64_t)c->head_dim;
    uint64_t kv_dim = (uint64_t)c->n_kv_heads * (uint64_t)c->head_dim;
    uint64_t pairs = rows * (uint64_t)c->top_k;
    a->x = cut(k, rows, hidden, sizeof(float));
    a->h = cut(k, rows, hidden, sizeof(float));
    a->q = cut(k, rows, q_dim, sizeof(float));
    a->k = cut(k, rows, kv_dim, sizeof(float));
    a->v = cut(k, rows, kv_dim, sizeof(float));
    a->att = cut(k, rows, q_dim, sizeof(float));
    a->gate = cut(k, rows, (uint64_t)c->intermediate, sizeof(float));
    a->up = cut(k, rows, (uint64_t)c->intermediate, sizeof(float));
    a->weight = cut(k, pairs, 1, sizeof(float));
    a->hidden = cut(k, pairs, (uint64_t)c->moe_intermediate, sizeof(float));
    a->y = cut(k, pairs, hidden, sizeof(float));
    a->x16 = cut(k, tensor ? rows : 0, hidden, sizeof(uint16_t));
    a->unpacked_bytes = tensor && packed && rows ? unpacked_bytes(c) : 0;
    a->unpacked = cut(k, 1, a->unpacked_bytes, 1);
}

int32_t lane_rows(const struct model_options *o, enum model_lane lane)
{
    return lane == MODEL_LONG ? o->long_rows : o->max_rows;
}

uint64_t buffers_layout(struct device_buffers *b, uint8_t *base, const struct model_config *c,
                        const struct model_options *o, uint64_t *long_bytes)
{
    struct cutter k = {.base = base};
    uint64_t half = (uint64_t)c->head_dim / 2;
    cut_lane(&k, &b->lane[MODEL_STEP], c, (uint64_t)o->max_rows, false, false);
    b->last = cut(&k, (uint64_t)o->max_logits, (uint64_t)c->hidden, sizeof(float));
    b->logits = cut(&k, o->device_logits ? (uint64_t)o->max_logits : 0, (uint64_t)c->vocab_size,
                    sizeof(float));
    b->sampler = cut(&k, o->device_logits ? (uint64_t)o->max_logits : 0,
                     kern_sample_row_bytes(c->vocab_size), 1);
    b->cos = cut(&k, (uint64_t)o->max_context, half, sizeof(float));
    b->sin = cut(&k, (uint64_t)o->max_context, half, sizeof(float));
    uint64_t rest = k.used;
    /* The CPU has no tensor class; of a device apart nobody knows yet when it is planned for. */
    cut_lane(&k, &b->lane[MODEL_LONG], c, (uint64_t)o->long_rows, o->device_logits,
             o->packed_experts);
    if (long_bytes)
        *long_bytes = k.used - rest;
    return k.used;
}

uint64_t kv_layer_block_bytes(const struct model_config *c, enum dtype kv_dtype)
{
    return 2 * (uint64_t)c->n_kv_heads * KV_BLOCK_TOKENS * (uint64_t)c->head_dim *
           dtype_bytes(kv_dtype);
}

void model_memory(const struct model_config *c, enum dtype weight_dtype,
                  const struct model_options *o, struct model_memory *out)
{
    struct model_memory m = {0};
    struct device_buffers b;
    m.dense_bytes = weights_dense_bytes(c, weight_dtype);
    struct record_class cls = weights_record_class(c, weight_dtype, o->packed_experts);
    m.expert_record_bytes = cls.bytes;
    m.expert_matrix_bytes = record_matrix_bytes(&cls);
    m.expert_records = (uint64_t)model_config_moe_layers(c) * (uint64_t)c->n_experts;
    m.expert_host_bytes = mul_bytes(m.expert_records, m.expert_record_bytes);
    if (o->pager.mode == PAGER_CACHED && m.expert_record_bytes) {
        uint64_t slots = o->pager.cache_bytes / m.expert_record_bytes;
        if (slots > m.expert_records)
            slots = m.expert_records;
        uint64_t staging = o->pager.staging_slots > 0 ? (uint64_t)o->pager.staging_slots : 0;
        m.staging_bytes = mul_bytes(staging, m.expert_record_bytes);
        m.cache_bytes = add_bytes(mul_bytes(slots, m.expert_record_bytes), m.staging_bytes);
    }
    m.kv_block_bytes = mul_bytes((uint64_t)c->n_layers, kv_layer_block_bytes(c, o->kv_dtype));
    m.kv_bytes = mul_bytes(m.kv_block_bytes, (uint64_t)o->kv_blocks);
    m.activation_bytes = buffers_layout(&b, NULL, c, o, &m.long_bytes);
    if (o->device_logits) {
        uint64_t rows = (uint64_t)(o->long_rows > o->max_rows ? o->long_rows : o->max_rows);
        m.step_bytes = add_bytes(recorded_bytes(c, o),
                                 mul_bytes(rows, (uint64_t)c->n_experts * sizeof(float)));
    }
    m.total_bytes = add_bytes(m.dense_bytes, m.expert_host_bytes);
    m.total_bytes = add_bytes(m.total_bytes, m.cache_bytes);
    m.total_bytes = add_bytes(m.total_bytes, m.kv_bytes);
    m.total_bytes = add_bytes(m.total_bytes, m.activation_bytes);
    m.total_bytes = add_bytes(m.total_bytes, m.step_bytes);
    *out = m;
}

enum dtype model_weight_dtype(const struct model_config *c, const struct store *store)
{
    const struct family *f = family_find(c->family);
    char name[4][TENSOR_MAX_NAME_BYTES] = {"", "", "model.layers.0.self_attn.q_proj.weight",
                                           "model.embed_tokens.weight"};
    int layer = 0;
    while (layer < c->n_layers && !c->moe_layer[layer])
        layer++;
    if (layer < c->n_layers) {
        snprintf(name[0], sizeof name[0], "model.layers.%d.%s.0.%s", layer, f->experts_prefix,
                 f->gate);
        snprintf(name[1], sizeof name[1], "model.layers.%d.%s", layer, f->fused_gate_up);
    }
    for (int i = 0; i < 4; i++) {
        const struct tensor_ref *ref = store_find(store, name[i]);
        if (ref && ref->dtype < DTYPE_COUNT)
            return ref->dtype;
    }
    return c->dtype;
}
