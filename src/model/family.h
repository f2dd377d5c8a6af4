/*
 * What sets one model family apart: its name, the values that config.json may leave out, and the
 * names of its tensors. One file per family (family_*.c); the forward pass knows no families.
 */
#ifndef MOED_MODEL_FAMILY_H
#define MOED_MODEL_FAMILY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/config.h"

/* How sliding_window of config.json reaches the layers. */
enum family_window {
    FAMILY_WINDOW_NONE, /* the architecture has no window */
    FAMILY_WINDOW_ALL,  /* sliding_window holds for every layer */
    FAMILY_WINDOW_FLAG, /* the same, and only where use_sliding_window is true */
    FAMILY_WINDOW_FROM, /* the same, from layer max_window_layers on, or by layer_types */
};

struct family {
    enum model_family id;
    const char *architecture, *model_type;

    /* Defaults of transformers for keys that config.json lacks. */
    int32_t kv_heads; /* 0: as many as query heads */
    int32_t head_dim; /* 0: hidden_size / num_attention_heads */
    int32_t window;   /* 0: none */
    int32_t experts, top_k, moe_intermediate;
    double rms_eps, rope_theta;
    int32_t bos, eos; /* -1: none */

    enum family_window windows;
    bool qk_norm;
    bool attention_bias, mlp_bias; /* the keys of these names are honoured */
    bool moe;
    bool moe_every_layer; /* no mlp_only_layers and decoder_sparse_step; intermediate_size is the
                             experts' */

    /* Tensor names after "model.layers.N."; NULL in dense families. Either spelling may occur:
     * one tensor per expert and matrix, or all experts of a layer fused. */
    const char *router;         /* [experts][hidden] */
    const char *experts_prefix; /* followed by ".E." and one of the three below */
    const char *gate, *up, *down;
    const char *fused_router;  /* the router's name beside fused experts */
    const char *fused_gate_up; /* [experts][2 * intermediate][hidden]: gate rows, then up rows */
    const char *fused_down;    /* [experts][hidden][intermediate] */
};

extern const struct family family_llama, family_mistral, family_mixtral, family_qwen3,
    family_qwen3_moe;

/* NULL where unknown. */
const struct family *family_find(enum model_family id);
const struct family *family_find_architecture(const char *architecture);
const struct family *family_find_type(const char *model_type);

#endif
