#!/usr/bin/env python3
"""Makes the small seeded models of this folder and the log probabilities that transformers gives for them.

    python3 -m venv venv && venv/bin/pip install torch==2.11.0 transformers==5.17.0
    venv/bin/python make_models.py [NAME ...]

Each folder NAME/ gets config.json, generation_config.json, safetensors and vectors.bin. Everything is saved through
save_pretrained and read back in fp32 before the reference is computed, so that the reference is that of the file.

vectors.bin, little-endian: int32 magic 0x31564d4d ("MMV1"), vocab, sequences; then for each sequence int32 n, int32
token[n], float32 logprob[n][vocab] (log-softmax of the logits after each position).

Seeds are chosen, by trying them in order, so that rounding K and V to bf16 moves no log probability by more than 0.02:
a routing decision closer than that rounding would say nothing about a bf16 cache.
"""
import json
import pathlib
import struct
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

HERE = pathlib.Path(__file__).resolve().parent
LENGTHS = (43, 14)
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def llama3(original, factor):
    return {"rope_type": "llama3", "rope_theta": 10000.0, "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": original}


# name: (model_type, dtype, how to save, config)
MODELS = {
    "llama_mha_tied": ("llama", "f32", {"older"}, dict(
        vocab_size=67, hidden_size=30, intermediate_size=52, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=3, tie_word_embeddings=True, rms_norm_eps=1e-5)),
    "llama_rope3_bias": ("llama", "bf16", set(), dict(
        vocab_size=72, hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, head_dim=8, attention_bias=True, mlp_bias=True, rope_parameters=llama3(24, 8.0))),
    "llama_linear_wide": ("llama", "f16", {"older", "type"}, dict(
        vocab_size=64, hidden_size=24, intermediate_size=290, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, rope_parameters={"rope_type": "linear", "rope_theta": 500000.0, "factor": 4.0})),
    "mistral_window": ("mistral", "bf16", {"sharded"}, dict(
        vocab_size=56, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=1, head_dim=6, sliding_window=12)),
    "mistral_odd": ("mistral", "f16", {"older"}, dict(
        vocab_size=71, hidden_size=27, intermediate_size=41, num_hidden_layers=2, num_attention_heads=5,
        num_key_value_heads=5, head_dim=14, sliding_window=None, tie_word_embeddings=True)),
    "mixtral_top1": ("mixtral", "bf16", {"older"}, dict(
        vocab_size=48, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=1, sliding_window=None)),
    "mixtral_window": ("mixtral", "f16", {"sharded"}, dict(
        vocab_size=64, hidden_size=24, intermediate_size=20, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2, sliding_window=10)),
    "mixtral_fused": ("mixtral", "f32", {"fused"}, dict(
        vocab_size=64, hidden_size=20, intermediate_size=18, num_hidden_layers=2, num_attention_heads=5,
        num_key_value_heads=1, head_dim=8, num_local_experts=6, num_experts_per_tok=3, tie_word_embeddings=True)),
    "qwen3_tied": ("qwen3", "bf16", {"older"}, dict(
        vocab_size=83, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, tie_word_embeddings=True)),
    "qwen3_window_mix": ("qwen3", "f32", set(), dict(
        vocab_size=64, hidden_size=24, intermediate_size=32, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=6, head_dim=4, attention_bias=True, use_sliding_window=True, sliding_window=7,
        max_window_layers=2)),
    "qwen3_moe_top2": ("qwen3_moe", "bf16", set(), dict(
        vocab_size=56, hidden_size=32, moe_intermediate_size=20, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=8, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True)),
    "qwen3_moe_64e": ("qwen3_moe", "bf16", {"older"}, dict(
        vocab_size=48, hidden_size=20, moe_intermediate_size=6, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=1, head_dim=8, num_experts=64, num_experts_per_tok=8, norm_topk_prob=False)),
    "qwen3_moe_mixed": ("qwen3_moe", "f32", set(), dict(
        vocab_size=64, hidden_size=16, intermediate_size=28, moe_intermediate_size=9, num_hidden_layers=6,
        num_attention_heads=3, num_key_value_heads=3, head_dim=6, num_experts=16, num_experts_per_tok=3,
        norm_topk_prob=True, mlp_only_layers=[3], decoder_sparse_step=2, attention_bias=True)),
    "qwen3_moe_tied": ("qwen3_moe", "f16", {"older", "fused"}, dict(
        vocab_size=72, hidden_size=28, moe_intermediate_size=14, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=1, head_dim=10, num_experts=12, num_experts_per_tok=4, norm_topk_prob=True,
        tie_word_embeddings=True, use_sliding_window=True, sliding_window=19,
        rope_parameters={"rope_type": "linear", "rope_theta": 1000000.0, "factor": 2.0})),
}


def bf16_cache_attention(module, query, key, value, attention_mask, **kwargs):
    key, value = key.bfloat16().float(), value.bfloat16().float()
    return eager_attention_forward(module, query, key, value, attention_mask, **kwargs)


ALL_ATTENTION_FUNCTIONS.register("bf16_cache", bf16_cache_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register("bf16_cache", eager_mask)


@torch.no_grad()
def randomize(model, seed):
    """Activations of about unit variance, logits with a spread above 1, clear routing."""
    gen = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=gen)
        if name.endswith("bias"):
            p.copy_(0.3 * noise)
        elif "norm" in name:
            p.copy_(1 + 0.2 * noise)
        elif "embed_tokens" in name:
            p.copy_(noise * (1.3 * p.shape[-1] ** -0.5 if model.config.tie_word_embeddings else 1.0))
        else:
            gain = 2.0 if name.endswith(".gate.weight") else 1.3 if name.endswith("lm_head.weight") else 1.0
            p.copy_(gain * noise * p.shape[-1] ** -0.5)


def fuse_experts(folder):
    """Rewrites a checkpoint with all experts of a layer in one tensor, as the module of transformers 5 holds them."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    layers = sorted({k.split(".")[2] for k in tensors if ".experts." in k})
    for layer in layers:
        base = f"model.layers.{layer}."
        old = base + ("block_sparse_moe." if base + "block_sparse_moe.gate.weight" in tensors else "mlp.")
        gate, up, down = ("w1", "w3", "w2") if "sparse" in old else ("gate_proj", "up_proj", "down_proj")
        n = tensors[old + "gate.weight"].shape[0]
        take = lambda part: torch.stack([tensors.pop(f"{old}experts.{e}.{part}.weight") for e in range(n)])
        fused = torch.cat([take(gate), take(up)], dim=1)
        tensors[base + "mlp.experts.gate_up_proj"] = fused
        tensors[base + "mlp.experts.down_proj"] = take(down)
        tensors[base + "mlp.gate.weight"] = tensors.pop(old + "gate.weight")
    save_file(tensors, path, metadata={"format": "pt"})


def older_spelling(folder, save):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type" if "type" in save else "rope_type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    if config["model_type"] == "qwen3_moe" and "num_local_experts" in config:
        config["num_experts"] = config.pop("num_local_experts")
    path.write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def reference(folder, attention="eager"):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention,
                                                 experts_implementation="eager").eval()
    out = []
    gen = torch.Generator().manual_seed(7)
    for n in LENGTHS:
        ids = torch.randint(0, model.config.vocab_size, (1, n), generator=gen)
        out.append((ids[0], torch.log_softmax(model(ids).logits[0].float(), dim=-1)))
    return out


def make(name):
    kind, dtype, save, extra = MODELS[name]
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    config = AutoConfig.for_model(kind, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, **extra)
    for seed in range(1, 200):
        for old in folder.iterdir():
            old.unlink()
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        randomize(model, seed)
        model.to(DTYPES[dtype]).save_pretrained(folder, max_shard_size="12KB" if "sharded" in save else "1GB")
        if "fused" in save:
            fuse_experts(folder)
        if "older" in save:
            older_spelling(folder, save)
        exact, rounded = reference(folder), reference(folder, "bf16_cache")
        delta = max((a - b).abs().max().item() for (_, a), (_, b) in zip(exact, rounded))
        if delta <= 0.02:
            break
    else:
        raise SystemExit(f"{name}: no seed keeps its routing under a bf16 cache")
    with open(folder / "vectors.bin", "wb") as f:
        f.write(struct.pack("<3i", 0x31564D4D, config.vocab_size, len(exact)))
        for ids, logprob in exact:
            f.write(struct.pack("<i", len(ids)))
            f.write(ids.to(torch.int32).numpy().tobytes())
            f.write(logprob.numpy().astype("<f4").tobytes())
    spread = exact[0][1].std(dim=-1).mean().item()
    entropy = -(exact[0][1].exp() * exact[0][1]).sum(-1).mean().item()
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{name}: seed {seed}, bf16 KV moves {delta:.4f}, spread {spread:.2f}, entropy {entropy:.2f}, {size} bytes")


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    for wanted in sys.argv[1:] or MODELS:
        make(wanted)
