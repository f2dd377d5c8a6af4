"""Write trained weights in the Hugging Face layout, rounded to bf16.

    python3 export.py WEIGHTS.pt DATA_FOLDER MODEL_FOLDER
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file

from model import Config


def named_tensors(state, c):
    """Our tensors under the names of Qwen3-MoE checkpoints, one set for each expert."""
    out = {"model.embed_tokens.weight": state["embedding"], "model.norm.weight": state["norm"]}
    for layer in range(c.layers):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        out[theirs + "input_layernorm.weight"] = state[ours + "attention_norm"]
        out[theirs + "post_attention_layernorm.weight"] = state[ours + "experts_norm"]
        for part in "qkvo":
            out[f"{theirs}self_attn.{part}_proj.weight"] = state[ours + "attention." + part]
        for part in "qk":
            out[f"{theirs}self_attn.{part}_norm.weight"] = state[f"{ours}attention.{part}_norm"]
        out[theirs + "mlp.gate.weight"] = state[ours + "experts.router"]
        for part in ("gate", "up", "down"):
            pieces = state[ours + "experts." + part].chunk(c.experts, dim=1 if part == "down" else 0)
            for expert, piece in enumerate(pieces):
                out[f"{theirs}mlp.experts.{expert}.{part}_proj.weight"] = piece
    return {name: tensor.to(torch.bfloat16).contiguous().clone() for name, tensor in out.items()}


def hf_config(c):
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "decoder_sparse_step": 1,
        "eos_token_id": 2,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "hidden_size": c.hidden,
        "initializer_range": 0.02,
        "intermediate_size": c.expert_hidden * c.top_k,
        "max_position_embeddings": c.context,
        "max_window_layers": c.layers,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": c.expert_hidden,
        "norm_topk_prob": True,
        "num_attention_heads": c.heads,
        "num_experts": c.experts,
        "num_experts_per_tok": c.top_k,
        "num_hidden_layers": c.layers,
        "num_key_value_heads": c.kv_heads,
        "output_router_logits": False,
        "pad_token_id": 0,
        "rms_norm_eps": c.eps,
        "rope_scaling": None,
        "rope_theta": c.rope_theta,
        "router_aux_loss_coef": 0.01,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": c.vocab_size,
    }


GENERATION = {"do_sample": True, "temperature": 0.7, "top_k": 40, "top_p": 0.95, "eos_token_id": [2, 0], "pad_token_id": 0}


def write(state, data, folder, c):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(named_tensors(state, c), str(folder / "model.safetensors"), metadata={"format": "pt"})
    for name, content in (("config.json", hf_config(c)), ("generation_config.json", GENERATION)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pathlib.Path(data) / name, folder / name)


if __name__ == "__main__":
    loaded = torch.load(sys.argv[1], map_location="cpu")
    write(loaded.get("model", loaded), sys.argv[2], sys.argv[3], Config())
