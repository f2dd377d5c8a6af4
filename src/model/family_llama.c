/* Llama 1-3 and what is saved as such (TinyLlama, SmolLM2, ...): dense, optional biases. */
#include "model/family.h"

const struct family family_llama = {
    .id = MODEL_LLAMA,
    .architecture = "LlamaForCausalLM",
    .model_type = "llama",
    .rms_eps = 1e-6,
    .rope_theta = 1e4,
    .bos = 1,
    .eos = 2,
    .windows = FAMILY_WINDOW_NONE,
    .attention_bias = true,
    .mlp_bias = true,
};
