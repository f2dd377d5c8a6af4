/* Mixtral: experts in every layer, router weights always renormalised over the chosen ones. */
#include "model/family.h"

const struct family family_mixtral = {
    .id = MODEL_MIXTRAL,
    .architecture = "MixtralForCausalLM",
    .model_type = "mixtral",
    .kv_heads = 8,
    .experts = 8,
    .top_k = 2,
    .rms_eps = 1e-5,
    .rope_theta = 1e6,
    .bos = 1,
    .eos = 2,
    .windows = FAMILY_WINDOW_ALL,
    .moe = true,
    .moe_every_layer = true,
    .router = "block_sparse_moe.gate.weight",
    .experts_prefix = "block_sparse_moe.experts",
    .gate = "w1.weight",
    .up = "w3.weight",
    .down = "w2.weight",
    .fused_router = "mlp.gate.weight",
    .fused_gate_up = "mlp.experts.gate_up_proj",
    .fused_down = "mlp.experts.down_proj",
};
