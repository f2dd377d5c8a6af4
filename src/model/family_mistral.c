/* Mistral: dense, a sliding window on all layers unless config.json says null. */
#include "model/family.h"

const struct family family_mistral = {
    .id = MODEL_MISTRAL,
    .architecture = "MistralForCausalLM",
    .model_type = "mistral",
    .kv_heads = 8,
    .window = 4096,
    .rms_eps = 1e-6,
    .rope_theta = 1e4,
    .bos = 1,
    .eos = 2,
    .windows = FAMILY_WINDOW_ALL,
};
