/* Qwen3-MoE: normalised query and key heads, experts in all or some of the layers. */
#include "model/family.h"

const struct family family_qwen3_moe = {
    .id = MODEL_QWEN3_MOE,
    .architecture = "Qwen3MoeForCausalLM",
    .model_type = "qwen3_moe",
    .kv_heads = 4,
    .window = 4096,
    .experts = 128,
    .top_k = 8,
    .moe_intermediate = 768,
    .rms_eps = 1e-6,
    .rope_theta = 1e4,
    .bos = -1,
    .eos = -1,
    .windows = FAMILY_WINDOW_FLAG,
    .qk_norm = true,
    .attention_bias = true,
    .moe = true,
    .router = "mlp.gate.weight",
    .experts_prefix = "mlp.experts",
    .gate = "gate_proj.weight",
    .up = "up_proj.weight",
    .down = "down_proj.weight",
    .fused_router = "mlp.gate.weight",
    .fused_gate_up = "mlp.experts.gate_up_proj",
    .fused_down = "mlp.experts.down_proj",
};
