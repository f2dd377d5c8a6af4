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

#define MODEL_MAX_LAYERS 512
#define MODEL_MAX_EOS    8

enum model_family { MODEL_LLAMA, MODEL_MISTRAL, MODEL_MIXTRAL, MODEL_QWEN3, MODEL_QWEN3_MOE };

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };

struct model_config {
    enum model_family family;
    char architecture[64];
    int32_t vocab_size, hidden, n_layers, n_heads, n_kv_heads, head_dim;
    int32_t intermediate; /* of dense MLP layers */
    int32_t max_position; /* tokens */
    float rms_eps;
    double rope_theta;
    enum rope_kind rope;
    double rope_factor, rope_low_freq, rope_high_freq,
        rope_original_max; /* ROPE_LINEAR: factor; ROPE_LLAMA3: all */
    bool tied_embeddings, attention_bias, attention_out_bias, mlp_bias, qk_norm;
    int32_t n_experts, top_k, moe_intermediate; /* 0 experts: dense */
    bool norm_topk;
    bool moe_layer[MODEL_MAX_LAYERS];
    int32_t window[MODEL_MAX_LAYERS];       /* sliding window in tokens, 0: full attention */
    enum dtype dtype;                       /* what the file says; tensors may differ */
    int32_t bos, eos[MODEL_MAX_EOS], n_eos; /* bos -1: none */
};

/* Defaults for sampling that generation_config.json gives; a negative number or false means that it
 * says nothing. */
struct model_generation {
    float temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;
    int do_sample; /* -1: not said */
    int32_t eos[MODEL_MAX_EOS], n_eos;
};

/* config: a JSON object, borrowed. An unsupported architecture or setting is MOED_EUNSUPPORTED and
 * named in param. */
int model_config_parse(struct model_config *out, json_t *config, struct moed_error *err);
/* generation may be NULL (no file): all is "says nothing". */
int model_generation_parse(struct model_generation *out, json_t *generation,
                           struct moed_error *err);

int model_config_moe_layers(const struct model_config *c);
/* Parameters in all, and those one token reads. */
void model_config_parameters(const struct model_config *c, uint64_t *total, uint64_t *active);

#endif
