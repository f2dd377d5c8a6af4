/* Qwen3 dense: normalised query and key heads. */
#include "model/family.h"

const struct family family_qwen3 = {
    .id = MODEL_QWEN3,
    .architecture = "Qwen3ForCausalLM",
    .model_type = "qwen3",
    .kv_heads = 32,
    .head_dim = 128,
    .window = 4096,
    .rms_eps = 1e-6,
    .rope_theta = 1e4,
    .bos = -1,
    .eos = -1,
    .windows = FAMILY_WINDOW_FROM,
    .qk_norm = true,
    .attention_bias = true,
};
