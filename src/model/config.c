#include "model/config.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "model/config_read.h"
#include "model/family.h"

static int require(const struct config_reader *r, const char *key, int64_t min, int64_t max,
                   int32_t *out)
{
    int rc = config_int(r, key, min, max, out);
    return rc == 0 ? config_fail(r, MOED_EFORMAT, key, "is missing") : rc;
}

static int read_architecture(const struct config_reader *r, const struct family **out)
{
    json_t *list = config_get(r, "architectures");
    const char *type = NULL;
    if (list) {
        json_t *first = json_array_get(list, 0);
        const char *name = json_string_value(first);
        if (!name)
            return config_fail(r, MOED_EFORMAT, "architectures", "must be a list of names");
        *out = family_find_architecture(name);
        if (!*out)
            return config_fail(r, MOED_EUNSUPPORTED, "architectures", "%.80s is not supported",
                               name);
        return 0;
    }
    int rc = config_string(r, "model_type", &type);
    if (rc <= 0)
        return rc < 0 ? rc : config_fail(r, MOED_EFORMAT, "architectures", "is missing");
    *out = family_find_type(type);
    if (!*out)
        return config_fail(r, MOED_EUNSUPPORTED, "model_type", "%.80s is not supported", type);
    return 0;
}

static int read_sizes(const struct config_reader *r, const struct family *f, struct model_config *c)
{
    int rc;
    if ((rc = require(r, "vocab_size", 1, MODEL_MAX_VOCAB, &c->vocab_size)) < 0 ||
        (rc = require(r, "hidden_size", 1, MODEL_MAX_HIDDEN, &c->hidden)) < 0 ||
        (rc = require(r, "num_hidden_layers", 1, MODEL_MAX_LAYERS, &c->n_layers)) < 0 ||
        (rc = require(r, "num_attention_heads", 1, MODEL_MAX_HEADS, &c->n_heads)) < 0 ||
        (rc = require(r, "max_position_embeddings", 1, MODEL_MAX_POSITION, &c->max_position)) < 0)
        return rc;
    c->n_kv_heads = f->kv_heads ? f->kv_heads : c->n_heads;
    json_t *kv = json_object_get(r->object, "num_key_value_heads");
    if (json_is_null(kv))
        c->n_kv_heads = c->n_heads;
    if ((rc = config_int(r, "num_key_value_heads", 1, MODEL_MAX_HEADS, &c->n_kv_heads)) < 0)
        return rc;
    if (c->n_heads % c->n_kv_heads)
        return config_fail(r, MOED_EFORMAT, "num_key_value_heads",
                           "is %d, which does not divide the %d query heads", c->n_kv_heads,
                           c->n_heads);
    c->head_dim = f->head_dim;
    if ((rc = config_int(r, "head_dim", 2, MODEL_MAX_HEAD_DIM, &c->head_dim)) < 0)
        return rc;
    if (!c->head_dim) {
        c->head_dim = c->hidden / c->n_heads;
        if (c->hidden % c->n_heads || c->head_dim < 2 || c->head_dim > MODEL_MAX_HEAD_DIM)
            return config_fail(r, MOED_EFORMAT, "head_dim",
                               "is missing and does not follow from hidden_size %d and %d heads",
                               c->hidden, c->n_heads);
    }
    if (c->head_dim % 2)
        return config_fail(r, MOED_EFORMAT, "head_dim", "is %d, must be even", c->head_dim);
    double eps = f->rms_eps;
    if ((rc = config_number(r, "rms_norm_eps", 0, 1, &eps)) < 0)
        return rc;
    c->rms_eps = (float)eps;
    return 0;
}

/* The object that scales RoPE: rope_scaling of older files wins over rope_parameters of newer ones,
 * as in transformers. */
static int read_rope_object(const struct config_reader *r, struct config_reader *rope)
{
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    *rope = *r;
    rope->object = NULL;
    for (int i = 0; i < 2; i++) {
        json_t *v = config_get(r, keys[i]);
        if (v && !json_is_object(v))
            return config_fail(r, MOED_EFORMAT, keys[i], "must be an object");
        if (v && json_object_size(v) && !rope->object) {
            rope->group = keys[i];
            rope->object = v;
        }
    }
    const char *key;
    json_t *value;
    json_object_foreach(rope->object, key, value) if (json_is_object(value)) return config_fail(
        rope, MOED_EUNSUPPORTED, key, "sets RoPE for one type of layers, which is not supported");
    return 0;
}

static int read_rope_llama3(const struct config_reader *r, const struct config_reader *rope,
                            struct model_config *c)
{
    static const char original_key[] = "original_max_position_embeddings";
    int rc;
    int32_t original = c->max_position;
    if ((rc = config_int(rope, original_key, 1, MODEL_MAX_POSITION, &original)) < 0 ||
        (rc == 0 && (rc = config_int(r, original_key, 1, MODEL_MAX_POSITION, &original)) < 0))
        return rc;
    c->rope_original_max = original;
    if ((rc = config_number(rope, "low_freq_factor", 1e-3, 1e6, &c->rope_low_freq)) <= 0)
        return rc < 0 ? rc : config_fail(rope, MOED_EFORMAT, "low_freq_factor", "is missing");
    if ((rc = config_number(rope, "high_freq_factor", 1e-3, 1e6, &c->rope_high_freq)) <= 0)
        return rc < 0 ? rc : config_fail(rope, MOED_EFORMAT, "high_freq_factor", "is missing");
    if (c->rope_high_freq <= c->rope_low_freq)
        return config_fail(rope, MOED_EFORMAT, "high_freq_factor",
                           "is %g, must be above low_freq_factor %g", c->rope_high_freq,
                           c->rope_low_freq);
    return 0;
}

static int read_rope(const struct config_reader *r, const struct family *f, struct model_config *c)
{
    struct config_reader rope;
    int rc = read_rope_object(r, &rope);
    if (rc < 0)
        return rc;
    c->rope_theta = f->rope_theta;
    if ((rc = config_number(r, "rope_theta", 1, 1e15, &c->rope_theta)) < 0 ||
        (rc = config_number(&rope, "rope_theta", 1, 1e15, &c->rope_theta)) < 0)
        return rc;
    double partial = 1;
    if ((rc = config_number(r, "partial_rotary_factor", 0, 1, &partial)) < 0 ||
        (rc = config_number(&rope, "partial_rotary_factor", 0, 1, &partial)) < 0)
        return rc;
    if (partial != 1)
        return config_fail(r, MOED_EUNSUPPORTED, "partial_rotary_factor",
                           "is %g; only whole heads are rotated", partial);

    const char *kind = "default";
    if ((rc = config_string(&rope, "type", &kind)) < 0 ||
        (rc = config_string(&rope, "rope_type", &kind)) < 0)
        return rc;
    c->rope_factor = 1;
    if (strcmp(kind, "default") == 0) {
        c->rope = ROPE_DEFAULT;
        return 0;
    }
    if (strcmp(kind, "linear") == 0)
        c->rope = ROPE_LINEAR;
    else if (strcmp(kind, "llama3") == 0)
        c->rope = ROPE_LLAMA3;
    else
        return config_fail(&rope, MOED_EUNSUPPORTED, "rope_type",
                           "%.40s is not supported (default, linear, llama3 are)", kind);
    if ((rc = config_number(&rope, "factor", 1e-3, 1e6, &c->rope_factor)) <= 0)
        return rc < 0 ? rc : config_fail(&rope, MOED_EFORMAT, "factor", "is missing");
    return c->rope == ROPE_LLAMA3 ? read_rope_llama3(r, &rope, c) : 0;
}

/* layer_types decides where the family has both kinds of layers; elsewhere it may only repeat. */
static int read_layer_types(const struct config_reader *r, const struct family *f, int32_t window,
                            struct model_config *c)
{
    json_t *types = config_get(r, "layer_types");
    if (!types)
        return 0;
    if (!json_is_array(types) || json_array_size(types) != (size_t)c->n_layers)
        return config_fail(r, MOED_EFORMAT, "layer_types", "must be a list of %d names",
                           c->n_layers);
    for (int i = 0; i < c->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        if (!type)
            return config_fail(r, MOED_EFORMAT, "layer_types", "must be a list of names");
        bool full = strcmp(type, "full_attention") == 0;
        if (!full && strcmp(type, "sliding_attention") != 0)
            return config_fail(r, MOED_EUNSUPPORTED, "layer_types", "%.40s is not supported", type);
        int32_t said = full ? 0 : window;
        if (!full && !window)
            return config_fail(r, MOED_EFORMAT, "layer_types",
                               "asks for sliding attention in layer %d without a window", i);
        if (f->windows != FAMILY_WINDOW_FROM && said != c->window[i])
            return config_fail(r, MOED_EUNSUPPORTED, "layer_types",
                               "contradicts sliding_window in layer %d", i);
        c->window[i] = said;
    }
    return 0;
}

static int read_windows(const struct config_reader *r, const struct family *f,
                        struct model_config *c)
{
    int rc;
    int32_t window = f->window, from = 0;
    bool use = f->windows == FAMILY_WINDOW_ALL;
    json_t *said = json_object_get(r->object, "sliding_window");
    if (json_is_null(said))
        window = 0;
    if ((rc = config_int(r, "sliding_window", 1, MODEL_MAX_POSITION, &window)) < 0)
        return rc;
    if (f->windows == FAMILY_WINDOW_FLAG || f->windows == FAMILY_WINDOW_FROM)
        if ((rc = config_bool(r, "use_sliding_window", &use)) < 0 ||
            (rc = config_int(r, "max_window_layers", 0, MODEL_MAX_LAYERS, &from)) < 0)
            return rc;
    if (f->windows == FAMILY_WINDOW_FROM && rc == 0)
        from = 28;
    if (!use || f->windows == FAMILY_WINDOW_NONE)
        window = 0;
    /* Versions of transformers disagree on what it does there: from that layer on, or nothing. */
    if (f->windows == FAMILY_WINDOW_FLAG && window && from > 0)
        return config_fail(r, MOED_EUNSUPPORTED, "max_window_layers",
                           "is not supported with use_sliding_window in %s", f->architecture);
    for (int i = 0; i < c->n_layers; i++)
        c->window[i] = i >= from ? window : 0;
    return read_layer_types(r, f, window, c);
}

static int read_expert_count(const struct config_reader *r, const struct family *f,
                             struct model_config *c)
{
    int rc;
    int32_t a = -1, b = -1;
    int min = f->moe_every_layer ? 1 : 0;
    if ((rc = config_int(r, "num_experts", min, MODEL_MAX_EXPERTS, &a)) < 0 ||
        (rc = config_int(r, "num_local_experts", min, MODEL_MAX_EXPERTS, &b)) < 0)
        return rc;
    if (a >= 0 && b >= 0 && a != b)
        return config_fail(r, MOED_EFORMAT, "num_experts", "is %d, num_local_experts is %d", a, b);
    c->n_experts = a >= 0 ? a : b >= 0 ? b : f->experts;
    return 0;
}

/* Which layers have experts, after decoder_sparse_step and mlp_only_layers. */
static int read_moe_layers(const struct config_reader *r, const struct family *f,
                           struct model_config *c)
{
    int rc;
    int32_t step = 1;
    json_t *dense = NULL;
    if (!f->moe_every_layer) {
        if ((rc = config_int(r, "decoder_sparse_step", 1, MODEL_MAX_LAYERS, &step)) < 0)
            return rc;
        dense = config_get(r, "mlp_only_layers");
        if (dense && !json_is_array(dense))
            return config_fail(r, MOED_EFORMAT, "mlp_only_layers", "must be a list of layers");
    }
    for (int i = 0; i < c->n_layers; i++)
        c->moe_layer[i] = c->n_experts > 0 && (i + 1) % step == 0;
    for (size_t k = 0; k < json_array_size(dense); k++) {
        json_t *layer = json_array_get(dense, k);
        json_int_t i = json_integer_value(layer);
        if (!json_is_integer(layer) || i < 0 || i >= c->n_layers)
            return config_fail(r, MOED_EFORMAT, "mlp_only_layers",
                               "must be a list of layers from 0 to %d", c->n_layers - 1);
        c->moe_layer[i] = false;
    }
    return 0;
}

static int read_moe(const struct config_reader *r, const struct family *f, struct model_config *c)
{
    int rc;
    if (!f->moe)
        return 0;
    if ((rc = read_expert_count(r, f, c)) < 0 || (rc = read_moe_layers(r, f, c)) < 0)
        return rc;
    if (model_config_moe_layers(c) == 0) {
        c->n_experts = 0;
        return 0;
    }
    c->top_k = f->top_k;
    if ((rc = config_int(r, "num_experts_per_tok", 1, MODEL_MAX_TOP_K, &c->top_k)) < 0)
        return rc;
    if (c->top_k > c->n_experts)
        return config_fail(r, MOED_EFORMAT, "num_experts_per_tok", "is %d of %d experts", c->top_k,
                           c->n_experts);
    c->norm_topk = f->moe_every_layer;
    if (f->moe_every_layer)
        return require(r, "intermediate_size", 1, MODEL_MAX_INTERMEDIATE, &c->moe_intermediate);
    c->moe_intermediate = f->moe_intermediate;
    if ((rc = config_bool(r, "norm_topk_prob", &c->norm_topk)) < 0 ||
        (rc = config_int(r, "moe_intermediate_size", 1, MODEL_MAX_INTERMEDIATE,
                         &c->moe_intermediate)) < 0)
        return rc;
    return 0;
}

/* Settings that would change the arithmetic in ways nothing here does. */
static int refuse_unsupported(const struct config_reader *r, const struct family *f)
{
    int rc;
    const char *act = "silu";
    if ((rc = config_string(r, "hidden_act", &act)) < 0)
        return rc;
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return config_fail(r, MOED_EUNSUPPORTED, "hidden_act", "%.40s is not supported (silu is)",
                           act);
    static const char *const quantization[] = {"quantization_config", "compression_config"};
    for (int i = 0; i < 2; i++) {
        json_t *q = config_get(r, quantization[i]);
        const char *method = json_string_value(json_object_get(q, "quant_method"));
        if (q)
            return config_fail(r, MOED_EUNSUPPORTED, quantization[i],
                               "asks for quantised weights (%.40s), which are not supported",
                               method ? method : "no quant_method");
    }
    bool qk_norm = true;
    int32_t shared = 0;
    if ((rc = config_bool(r, "use_qk_norm", &qk_norm)) < 0 ||
        (rc = config_int(r, "shared_expert_intermediate_size", 0, MODEL_MAX_INTERMEDIATE,
                         &shared)) < 0)
        return rc;
    if (f->qk_norm && !qk_norm)
        return config_fail(r, MOED_EUNSUPPORTED, "use_qk_norm", "false is not supported in %s",
                           f->architecture);
    if (shared)
        return config_fail(r, MOED_EUNSUPPORTED, "shared_expert_intermediate_size",
                           "is %d; shared experts are not supported in %s", shared,
                           f->architecture);
    return 0;
}

static int read_dtype(const struct config_reader *r, enum dtype *out)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } names[] = {{"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}, {"float32", DTYPE_F32}};
    static const char *const keys[] = {"dtype", "torch_dtype"};
    *out = DTYPE_F32;
    for (int k = 0; k < 2; k++) {
        const char *name = "";
        int rc = config_string(r, keys[k], &name);
        if (rc < 0)
            return rc;
        if (rc == 0)
            continue;
        if (strncmp(name, "torch.", 6) == 0)
            name += 6;
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            if (strcmp(name, names[i].name) == 0) {
                *out = names[i].dtype;
                return 0;
            }
        return config_fail(r, MOED_EUNSUPPORTED, keys[k],
                           "%.40s is not supported (bfloat16, float16, float32 are)", name);
    }
    return 0;
}

static int read_tokens(const struct config_reader *r, const struct family *f,
                       struct model_config *c)
{
    int rc;
    int32_t bos[1], n_bos = 0;
    c->bos = f->bos < c->vocab_size ? f->bos : -1;
    if ((rc = config_ids(r, "bos_token_id", c->vocab_size - 1, bos, 1, &n_bos)) < 0)
        return rc;
    if (rc > 0)
        c->bos = n_bos ? bos[0] : -1;
    if (f->eos >= 0 && f->eos < c->vocab_size)
        c->eos[c->n_eos++] = f->eos;
    rc = config_ids(r, "eos_token_id", c->vocab_size - 1, c->eos, MODEL_MAX_EOS, &c->n_eos);
    return rc < 0 ? rc : 0;
}

int model_config_parse(struct model_config *out, json_t *config, struct moed_error *err)
{
    struct config_reader r = {.file = "config.json", .group = "", .object = config, .err = err};
    struct model_config c = {0};
    const struct family *f = NULL;
    int rc;
    if (!json_is_object(config))
        return moed_fail(err, MOED_EFORMAT, "config.json: must hold an object");
    if ((rc = read_architecture(&r, &f)) < 0)
        return rc;
    assert(f);
    if ((rc = refuse_unsupported(&r, f)) < 0)
        return rc;
    c.family = f->id;
    snprintf(c.architecture, sizeof c.architecture, "%s", f->architecture);
    c.qk_norm = f->qk_norm;
    if ((rc = read_sizes(&r, f, &c)) < 0 || (rc = read_rope(&r, f, &c)) < 0 ||
        (rc = read_windows(&r, f, &c)) < 0 || (rc = read_moe(&r, f, &c)) < 0 ||
        (rc = read_dtype(&r, &c.dtype)) < 0 || (rc = read_tokens(&r, f, &c)) < 0 ||
        (rc = config_bool(&r, "tie_word_embeddings", &c.tied_embeddings)) < 0)
        return rc;
    if (f->attention_bias && (rc = config_bool(&r, "attention_bias", &c.attention_bias)) < 0)
        return rc;
    c.attention_out_bias = c.attention_bias;
    if (f->mlp_bias && (rc = config_bool(&r, "mlp_bias", &c.mlp_bias)) < 0)
        return rc;
    if (model_config_moe_layers(&c) < c.n_layers &&
        (rc = require(&r, "intermediate_size", 1, MODEL_MAX_INTERMEDIATE, &c.intermediate)) < 0)
        return rc;
    *out = c;
    return 0;
}

/* A number of generation_config.json; absent leaves -1. */
static int read_setting(const struct config_reader *r, const char *key, double min, double max,
                        float *out)
{
    double x = -1;
    int rc = config_number(r, key, min, max, &x);
    *out = (float)x;
    return rc;
}

int model_generation_parse(struct model_generation *out, json_t *generation, struct moed_error *err)
{
    struct config_reader r = {
        .file = "generation_config.json", .group = "", .object = generation, .err = err};
    struct model_generation g = {.temperature = -1,
                                 .top_p = -1,
                                 .min_p = -1,
                                 .repetition_penalty = -1,
                                 .top_k = -1,
                                 .do_sample = -1};
    int rc;
    bool sample;
    *out = g;
    if (!generation)
        return 0;
    if (!json_is_object(generation))
        return moed_fail(err, MOED_EFORMAT, "generation_config.json: must hold an object");
    if ((rc = read_setting(&r, "temperature", 0, 100, &g.temperature)) < 0 ||
        (rc = read_setting(&r, "top_p", 0, 1, &g.top_p)) < 0 ||
        (rc = read_setting(&r, "min_p", 0, 1, &g.min_p)) < 0 ||
        (rc = read_setting(&r, "repetition_penalty", 1e-3, 100, &g.repetition_penalty)) < 0 ||
        (rc = config_int(&r, "top_k", -1, MODEL_MAX_VOCAB, &g.top_k)) < 0 ||
        (rc = config_ids(&r, "eos_token_id", MODEL_MAX_VOCAB - 1, g.eos, MODEL_MAX_EOS, &g.n_eos)) <
            0 ||
        (rc = config_bool(&r, "do_sample", &sample)) < 0)
        return rc;
    g.do_sample = rc > 0 ? sample : -1;
    *out = g;
    return 0;
}

int model_config_moe_layers(const struct model_config *c)
{
    int n = 0;
    for (int i = 0; i < c->n_layers; i++)
        n += c->moe_layer[i];
    return n;
}

void model_config_parameters(const struct model_config *c, uint64_t *total, uint64_t *active)
{
    uint64_t hidden = (uint64_t)c->hidden;
    uint64_t q = (uint64_t)c->n_heads * (uint64_t)c->head_dim;
    uint64_t kv = (uint64_t)c->n_kv_heads * (uint64_t)c->head_dim;
    uint64_t attention = hidden * (2 * q + 2 * kv) + 2 * hidden;
    if (c->qk_norm)
        attention += 2 * (uint64_t)c->head_dim;
    if (c->attention_bias)
        attention += q + 2 * kv;
    if (c->attention_out_bias)
        attention += hidden;
    uint64_t dense = 3 * hidden * (uint64_t)c->intermediate;
    if (c->mlp_bias)
        dense += 2 * (uint64_t)c->intermediate + hidden;
    uint64_t expert = 3 * hidden * (uint64_t)c->moe_intermediate;
    uint64_t experts = (uint64_t)c->n_experts, router = experts * hidden;
    uint64_t n_moe = (uint64_t)model_config_moe_layers(c);
    uint64_t n_dense = (uint64_t)c->n_layers - n_moe;

    *total = (uint64_t)c->vocab_size * hidden * (c->tied_embeddings ? 1 : 2) + hidden +
             (uint64_t)c->n_layers * attention + n_dense * dense +
             n_moe * (router + experts * expert);
    *active = *total - n_moe * (experts - (uint64_t)c->top_k) * expert;
}
