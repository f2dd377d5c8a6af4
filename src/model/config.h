/*
 * A model's shape and habits, from config.json and generation_config.json (older and newer
 * spellings of transformers). Pure data after model_config_parse; any thread.
 */
#ifndef MOED_MODEL_CONFIG_H
#define MOED_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/dtype.h"
#include "moed/error.h"

/* Limits of what config.json may ask for: far above any model known, low enough that the bytes of
 * all weights together stay under 2^63 and the floats of one row under 2^31. */
#define MODEL_MAX_LAYERS       512
#define MODEL_MAX_EOS          8
#define MODEL_MAX_VOCAB        (1 << 22)
#define MODEL_MAX_HIDDEN       (1 << 16)
#define MODEL_MAX_INTERMEDIATE (1 << 18)
#define MODEL_MAX_HEADS        1024
#define MODEL_MAX_HEAD_DIM     512
#define MODEL_MAX_EXPERTS      4096
#define MODEL_MAX_TOP_K        64
#define MODEL_MAX_POSITION     (1 << 24)

enum model_family { MODEL_LLAMA, MODEL_MISTRAL, MODEL_MIXTRAL, MODEL_QWEN3, MODEL_QWEN3_MOE };

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };

struct model_config {
    enum model_family family;
    char architecture[64];
    int32_t vocab_size, hidden, n_layers, n_heads, n_kv_heads, head_dim;
    int32_t intermediate; /* of dense MLP layers; 0 where there are none */
    int32_t max_position; /* tokens */
    float rms_eps;
    double rope_theta;
    enum rope_kind rope;
    double rope_factor, rope_low_freq, rope_high_freq,
        rope_original_max; /* ROPE_LINEAR: factor; ROPE_LLAMA3: all */
    bool tied_embeddings, attention_bias, attention_out_bias, mlp_bias, qk_norm;
    int32_t n_experts, top_k, moe_intermediate; /* all 0 where no layer has experts */
    bool norm_topk;
    bool moe_layer[MODEL_MAX_LAYERS];
    int32_t window[MODEL_MAX_LAYERS];       /* sliding window in tokens, 0: full attention */
    enum dtype dtype;                       /* what the file says; tensors may differ */
    int32_t bos, eos[MODEL_MAX_EOS], n_eos; /* bos -1: none */
};

/* Defaults for sampling that generation_config.json gives; a negative number means that it says
 * nothing. */
struct model_generation {
    float temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;
    int do_sample; /* 0, 1; -1: not said */
    int32_t eos[MODEL_MAX_EOS], n_eos;
};

/* config: a JSON object, borrowed. A wrong value is MOED_EFORMAT, an unsupported architecture or
 * setting MOED_EUNSUPPORTED; both name the key in param. */
int model_config_parse(struct model_config *out, json_t *config, struct moed_error *err);
/* generation may be NULL (no file): all is "says nothing". */
int model_generation_parse(struct model_generation *out, json_t *generation,
                           struct moed_error *err);

int model_config_moe_layers(const struct model_config *c);
/* Parameters in all, and all but the experts that one token does not choose: the two figures that
 * models are published with. */
void model_config_parameters(const struct model_config *c, uint64_t *total, uint64_t *active);

#endif
