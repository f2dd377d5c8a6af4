#include "model/weights_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/family.h"
#include "packed.h"

static uint64_t align_up(uint64_t n)
{
    return (n + WEIGHT_ALIGN_BYTES - 1) / WEIGHT_ALIGN_BYTES * WEIGHT_ALIGN_BYTES;
}

/* The list of tensors: state while weights_each_dense walks. */
struct walk {
    struct weight_spec spec;
    int (*fn)(void *arg, const struct weight_spec *spec);
    void *arg;
    int layer; /* -1: names stand alone */
    int rc;
};

static void emit(struct walk *k, const char *name, enum weight_kind kind, int64_t rows,
                 int64_t columns, struct weight *into)
{
    if (k->rc < 0)
        return;
    struct weight_spec *s = &k->spec;
    if (k->layer < 0)
        snprintf(s->name, sizeof s->name, "%s", name);
    else
        snprintf(s->name, sizeof s->name, "model.layers.%d.%s", k->layer, name);
    s->n_dims = columns ? 2 : 1;
    s->shape[0] = rows;
    s->shape[1] = columns;
    s->kind = kind;
    s->into = into;
    k->rc = k->fn(k->arg, s);
}

static void emit_attention(struct walk *k, const struct model_config *c, struct layer_weights *l)
{
    int64_t hidden = c->hidden, q = (int64_t)c->n_heads * c->head_dim,
            kv = (int64_t)c->n_kv_heads * c->head_dim;
    k->spec.counter = &l->attention_bytes;
    emit(k, "input_layernorm.weight", WEIGHT_NORM, hidden, 0, &l->attn_norm);
    emit(k, "self_attn.q_proj.weight", WEIGHT_MATRIX, q, hidden, &l->q);
    emit(k, "self_attn.k_proj.weight", WEIGHT_MATRIX, kv, hidden, &l->k);
    emit(k, "self_attn.v_proj.weight", WEIGHT_MATRIX, kv, hidden, &l->v);
    emit(k, "self_attn.o_proj.weight", WEIGHT_MATRIX, hidden, q, &l->o);
    if (c->attention_bias) {
        emit(k, "self_attn.q_proj.bias", WEIGHT_BIAS, q, 0, &l->q_bias);
        emit(k, "self_attn.k_proj.bias", WEIGHT_BIAS, kv, 0, &l->k_bias);
        emit(k, "self_attn.v_proj.bias", WEIGHT_BIAS, kv, 0, &l->v_bias);
    }
    if (c->attention_out_bias)
        emit(k, "self_attn.o_proj.bias", WEIGHT_BIAS, hidden, 0, &l->o_bias);
    if (c->qk_norm) {
        emit(k, "self_attn.q_norm.weight", WEIGHT_NORM, c->head_dim, 0, &l->q_norm);
        emit(k, "self_attn.k_norm.weight", WEIGHT_NORM, c->head_dim, 0, &l->k_norm);
    }
}

static void emit_ffn(struct walk *k, const struct model_config *c, const char *router,
                     struct layer_weights *l)
{
    int64_t hidden = c->hidden, inter = c->intermediate;
    k->spec.counter = &l->ffn_bytes;
    emit(k, "post_attention_layernorm.weight", WEIGHT_NORM, hidden, 0, &l->ffn_norm);
    if (c->moe_layer[k->layer]) {
        emit(k, router, WEIGHT_MATRIX, c->n_experts, hidden, &l->router);
        return;
    }
    emit(k, "mlp.gate_proj.weight", WEIGHT_MATRIX, inter, hidden, &l->gate);
    emit(k, "mlp.up_proj.weight", WEIGHT_MATRIX, inter, hidden, &l->up);
    emit(k, "mlp.down_proj.weight", WEIGHT_MATRIX, hidden, inter, &l->down);
    if (c->mlp_bias) {
        emit(k, "mlp.gate_proj.bias", WEIGHT_BIAS, inter, 0, &l->gate_bias);
        emit(k, "mlp.up_proj.bias", WEIGHT_BIAS, inter, 0, &l->up_bias);
        emit(k, "mlp.down_proj.bias", WEIGHT_BIAS, hidden, 0, &l->down_bias);
    }
}

int weights_each_dense(const struct model_config *c, bool fused, struct weights *w,
                       int (*fn)(void *arg, const struct weight_spec *spec), void *arg)
{
    const struct family *f = family_find(c->family);
    struct walk k = {.fn = fn, .arg = arg, .layer = -1};
    emit(&k, "model.embed_tokens.weight", WEIGHT_EMBED, c->vocab_size, c->hidden, &w->embed);
    emit(&k, "model.norm.weight", WEIGHT_NORM, c->hidden, 0, &w->norm);
    if (!c->tied_embeddings)
        emit(&k, "lm_head.weight", WEIGHT_MATRIX, c->vocab_size, c->hidden, &w->head);
    for (k.layer = 0; k.layer < c->n_layers; k.layer++) {
        emit_attention(&k, c, &w->layer[k.layer]);
        emit_ffn(&k, c, fused ? f->fused_router : f->router, &w->layer[k.layer]);
    }
    return k.rc;
}

struct planner {
    struct weight_plan *plan;
    struct weights *w;
    const struct model_config *c;
    const struct family *f;
    struct store *store;
    bool packed;
    struct moed_error *err;
};

static void take(struct weight_plan *p, const struct tensor_ref *ref)
{
    p->used = mem_reserve(p->used, &p->used_cap, p->n_used + 1, sizeof *p->used);
    p->used[p->n_used++] = ref;
}

static void add_piece(struct weight_plan *p, struct weight_piece piece)
{
    p->piece = mem_reserve(p->piece, &p->cap, p->n + 1, sizeof *p->piece);
    p->piece[p->n++] = piece;
}

static int plan_dense(void *arg, const struct weight_spec *s)
{
    struct planner *pl = arg;
    struct weight_plan *p = pl->plan;
    const struct tensor_ref *ref;
    int rc = store_expect(pl->store, s->name, s->n_dims, s->shape, pl->c->dtype, &ref, pl->err);
    if (rc < 0)
        return rc;
    s->into->dtype = ref->dtype;
    if (s->counter)
        *s->counter += ref->bytes;
    take(p, ref);
    add_piece(p, (struct weight_piece){.ref = ref,
                                       .bytes = ref->bytes,
                                       .place_bytes = p->dense_bytes,
                                       .taken_bytes = ref->bytes,
                                       .kind = s->kind});
    p->dense_bytes += align_up(ref->bytes);
    return 0;
}

/* All experts have one dtype, which fixes the record class when the first one is met. */
static int expert_tensor(struct planner *pl, const char *name, int n_dims, const int64_t *shape,
                         const struct tensor_ref **out)
{
    int rc = store_expect(pl->store, name, n_dims, shape, pl->c->dtype, out, pl->err);
    if (rc < 0)
        return rc;
    struct record_class *cls = &pl->w->cls;
    if (!cls->bytes && pl->packed && !weights_can_pack(pl->c, (*out)->dtype))
        return moed_fail_param(
            pl->err, MOED_EUNSUPPORTED, WEIGHTS_UNPACKABLE,
            "tensor %s is %s, %d and %d wide: packed records take bf16 and widths "
            "that are multiples of 8 below 65536; expert-records plain takes it",
            name, dtype_name((*out)->dtype), pl->c->hidden, pl->c->moe_intermediate);
    if (!cls->bytes)
        *cls = weights_record_class(pl->c, (*out)->dtype, pl->packed);
    if ((*out)->dtype != cls->dtype)
        return moed_fail_param(pl->err, MOED_EUNSUPPORTED, "dtype",
                               "tensor %s is %s, the experts before it are %s; all must be of one "
                               "format",
                               name, dtype_name((*out)->dtype), dtype_name(cls->dtype));
    take(pl->plan, *out);
    return 0;
}

/* Rows of a run: dummy weights are made fastest in whole blocks of 1024, which 128 rows of any
 * width are. */
static uint64_t run_rows(uint64_t row_bytes)
{
    uint64_t rows = PACK_RUN_BYTES / row_bytes;
    return rows > 128 ? rows / 128 * 128 : rows;
}

/* A matrix [rows][columns] of an expert, which begins `first` bytes into the tensor. A packed one
 * is cut into runs of rows. */
static void add_matrix(struct planner *pl, const struct tensor_ref *ref, uint64_t first, int rows,
                       int columns, uint64_t place)
{
    bool packed = pl->w->cls.packed;
    uint64_t in = (uint64_t)columns * dtype_bytes(ref->dtype), left = (uint64_t)rows;
    uint64_t out = packed ? packed_row_bytes(columns) : in, most = packed ? run_rows(in) : left;
    for (uint64_t n; left > 0; left -= n, first += n * in, place += n * out) {
        n = left < most ? left : most;
        add_piece(pl->plan, (struct weight_piece){.ref = ref,
                                                  .first_bytes = first,
                                                  .bytes = n * in,
                                                  .place_bytes = place,
                                                  .taken_bytes = n * out,
                                                  .in_arena = true,
                                                  .kind = WEIGHT_MATRIX,
                                                  .columns = packed ? columns : 0});
    }
}

static int plan_layer_fused(struct planner *pl, int layer)
{
    const struct model_config *c = pl->c;
    char name[TENSOR_MAX_NAME_BYTES];
    const struct tensor_ref *both, *down;
    int64_t both_shape[] = {c->n_experts, 2 * (int64_t)c->moe_intermediate, c->hidden};
    int64_t down_shape[] = {c->n_experts, c->hidden, c->moe_intermediate};
    int rc;
    snprintf(name, sizeof name, "model.layers.%d.%s", layer, pl->f->fused_gate_up);
    if ((rc = expert_tensor(pl, name, 3, both_shape, &both)) < 0)
        return rc;
    snprintf(name, sizeof name, "model.layers.%d.%s", layer, pl->f->fused_down);
    if ((rc = expert_tensor(pl, name, 3, down_shape, &down)) < 0)
        return rc;
    const struct record_class *cls = &pl->w->cls;
    uint64_t n = (uint64_t)c->moe_intermediate * (uint64_t)c->hidden * dtype_bytes(cls->dtype);
    for (uint64_t e = 0; e < (uint64_t)c->n_experts; e++) {
        uint64_t record = pl->plan->arena_bytes;
        add_matrix(pl, both, 2 * e * n, cls->intermediate, cls->hidden, record + cls->gate_off);
        add_matrix(pl, both, (2 * e + 1) * n, cls->intermediate, cls->hidden, record + cls->up_off);
        add_matrix(pl, down, e * n, cls->hidden, cls->intermediate, record + cls->down_off);
        pl->plan->arena_bytes += cls->bytes;
    }
    return 0;
}

static int plan_layer_experts(struct planner *pl, int layer)
{
    const struct model_config *c = pl->c;
    const struct record_class *cls = &pl->w->cls;
    int64_t in[] = {c->moe_intermediate, c->hidden}, out[] = {c->hidden, c->moe_intermediate};
    const struct {
        const char *name;
        const int64_t *shape;
        const size_t *offset;
    } part[] = {{pl->f->gate, in, &cls->gate_off},
                {pl->f->up, in, &cls->up_off},
                {pl->f->down, out, &cls->down_off}};
    for (int e = 0; e < c->n_experts; e++) {
        for (int i = 0; i < 3; i++) {
            char name[TENSOR_MAX_NAME_BYTES];
            const struct tensor_ref *ref;
            snprintf(name, sizeof name, "model.layers.%d.%s.%d.%s", layer, pl->f->experts_prefix, e,
                     part[i].name);
            int rc = expert_tensor(pl, name, 2, part[i].shape, &ref);
            if (rc < 0)
                return rc;
            add_matrix(pl, ref, 0, (int)part[i].shape[0], (int)part[i].shape[1],
                       pl->plan->arena_bytes + *part[i].offset);
        }
        pl->plan->arena_bytes += cls->bytes;
    }
    return 0;
}

/* Whether the checkpoint has the experts of a layer in one tensor. */
static bool is_fused(const struct planner *pl)
{
    char name[TENSOR_MAX_NAME_BYTES];
    for (int i = 0; i < pl->c->n_layers; i++) {
        if (!pl->c->moe_layer[i])
            continue;
        snprintf(name, sizeof name, "model.layers.%d.%s", i, pl->f->fused_gate_up);
        if (store_find(pl->store, name))
            return true;
    }
    return false;
}

/* Buffers that older versions of transformers saved although they follow from the config. */
static bool is_known_buffer(const char *name)
{
    static const char tail[] = "rotary_emb.inv_freq";
    size_t n = strlen(name), t = sizeof tail - 1;
    return n >= t && strcmp(name + n - t, tail) == 0;
}

static int compare_refs(const void *a, const void *b)
{
    const struct tensor_ref *x = *(const struct tensor_ref *const *)a;
    const struct tensor_ref *y = *(const struct tensor_ref *const *)b;
    return ((uintptr_t)x > (uintptr_t)y) - ((uintptr_t)x < (uintptr_t)y);
}

/* A head of a model that says it is tied may be in the file; its shape must be right, its bytes are
 * not read. */
static int take_redundant_head(struct planner *pl)
{
    const struct model_config *c = pl->c;
    const struct tensor_ref *ref;
    int64_t shape[] = {c->vocab_size, c->hidden};
    if (!c->tied_embeddings || store_is_dummy(pl->store) ||
        !store_find(pl->store, "lm_head.weight"))
        return 0;
    int rc = store_expect(pl->store, "lm_head.weight", 2, shape, c->dtype, &ref, pl->err);
    if (rc < 0)
        return rc;
    take(pl->plan, ref);
    return 0;
}

static int refuse_surplus(struct planner *pl)
{
    struct weight_plan *p = pl->plan;
    if (store_is_dummy(pl->store))
        return 0;
    qsort(p->used, p->n_used, sizeof *p->used, compare_refs);
    for (size_t i = 0; i < store_count(pl->store); i++) {
        const struct tensor_ref *ref = store_at(pl->store, i);
        if (bsearch(&ref, p->used, p->n_used, sizeof *p->used, compare_refs) ||
            is_known_buffer(ref->name))
            continue;
        return moed_fail_param(pl->err, MOED_EFORMAT, "tensor",
                               "tensor %.200s in %s is not one that %s with this config.json has",
                               ref->name, store_file_path(pl->store, ref->file),
                               pl->c->architecture);
    }
    return 0;
}

int weights_plan(struct weight_plan *plan, struct weights *w, const struct model_config *c,
                 struct store *store, bool packed, struct moed_error *err)
{
    struct planner pl = {.plan = plan,
                         .w = w,
                         .c = c,
                         .f = family_find(c->family),
                         .store = store,
                         .packed = packed,
                         .err = err};
    bool fused = is_fused(&pl);
    int rc = weights_each_dense(c, fused, w, plan_dense, &pl);
    for (int i = 0; rc >= 0 && i < c->n_layers; i++)
        if (c->moe_layer[i])
            rc = fused ? plan_layer_fused(&pl, i) : plan_layer_experts(&pl, i);
    if (rc < 0 || (rc = take_redundant_head(&pl)) < 0 || (rc = refuse_surplus(&pl)) < 0)
        return rc;
    return 0;
}

void weights_plan_fini(struct weight_plan *plan)
{
    free(plan->piece);
    free(plan->used);
    *plan = (struct weight_plan){0};
}

struct estimate {
    enum dtype dtype;
    uint64_t bytes;
};

static int estimate_dense(void *arg, const struct weight_spec *s)
{
    struct estimate *e = arg;
    uint64_t n = (uint64_t)s->shape[0] * (uint64_t)(s->n_dims == 2 ? s->shape[1] : 1);
    e->bytes += align_up(n * dtype_bytes(e->dtype));
    return 0;
}

uint64_t weights_dense_bytes(const struct model_config *c, enum dtype dtype)
{
    struct estimate e = {.dtype = dtype};
    struct weights w = {.layer = mem_new((size_t)c->n_layers, sizeof *w.layer)};
    weights_each_dense(c, false, &w, estimate_dense, &e);
    free(w.layer);
    return e.bytes;
}

bool weights_can_pack(const struct model_config *c, enum dtype dtype)
{
    return c->n_experts && dtype == DTYPE_BF16 && packed_takes(c->hidden) &&
           packed_takes(c->moe_intermediate);
}

struct record_class weights_record_class(const struct model_config *c, enum dtype dtype,
                                         bool packed)
{
    if (!c->n_experts)
        return (struct record_class){0};
    return packed ? record_class_packed(c->hidden, c->moe_intermediate)
                  : record_class_swiglu(dtype, c->hidden, c->moe_intermediate);
}
