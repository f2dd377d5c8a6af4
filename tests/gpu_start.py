"""How long a server takes from its start until it is ready: gpu_start.py MOED FOLDER [LAYERS [OPTIONS...]].

Writes a checkpoint of Qwen3-30B-A3B's shapes with LAYERS (16) layers and random bf16 weights into FOLDER (20 GB), starts a server on it
three times with the files in the page cache, and reads them plainly beside. Prints one JSON object; removes what it wrote."""
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

HIDDEN, INNER, EXPERTS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2048, 768, 128, 32, 4, 128, 151936
RUNS, THREADS, CHUNK = 3, 8, 16 << 20
# Values of about 0.01 to 0.03 of either sign: random bits would be infinities and NaN too.
HIGH = bytes(0x3C if i % 2 else 0xBC for i in range(256))


def config(layers):
    return {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": VOCAB, "hidden_size": HIDDEN,
            "intermediate_size": 6144, "moe_intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "num_experts": EXPERTS, "num_experts_per_tok": 8,
            "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu", "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0, "max_position_embeddings": 40960, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}


def layer_tensors(layer):
    at = f"model.layers.{layer}."
    yield at + "input_layernorm.weight", (HIDDEN,)
    yield at + "post_attention_layernorm.weight", (HIDDEN,)
    yield at + "self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
    yield at + "self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
    yield at + "self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
    yield at + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
    yield at + "self_attn.q_norm.weight", (HEAD_DIM,)
    yield at + "self_attn.k_norm.weight", (HEAD_DIM,)
    yield at + "mlp.gate.weight", (EXPERTS, HIDDEN)
    for expert in range(EXPERTS):
        yield at + f"mlp.experts.{expert}.gate_proj.weight", (INNER, HIDDEN)
        yield at + f"mlp.experts.{expert}.up_proj.weight", (INNER, HIDDEN)
        yield at + f"mlp.experts.{expert}.down_proj.weight", (HIDDEN, INNER)


def write_file(path, tensors, noise):
    header, at = {}, 0
    for name, shape in tensors:
        count = 2
        for n in shape:
            count *= n
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + count]}
        at += count
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb", buffering=0) as out:
        out.write(struct.pack("<Q", len(head)) + head)
        view, done = memoryview(noise), 0
        while done < at:
            # An odd stride, so that no two records are alike.
            start = done * 7 // 2 * 2 % (len(noise) // 2)
            done += out.write(view[start:start + min(len(noise) // 2, at - done)])
        os.fsync(out.fileno())
    return at


def write_checkpoint(folder, layers):
    noise = bytearray(os.urandom(64 << 20))
    noise[1::2] = bytes(noise[1::2]).translate(HIGH)
    files = [[("model.embed_tokens.weight", (VOCAB, HIDDEN)), ("lm_head.weight", (VOCAB, HIDDEN)), ("model.norm.weight", (HIDDEN,))]]
    for layer in range(layers):
        if layer % 4 == 0:
            files.append([])
        files[-1] += layer_tensors(layer)
    names, total = {}, 0
    for i, tensors in enumerate(files):
        file = f"model-{i + 1:05}-of-{len(files):05}.safetensors"
        total += write_file(folder / file, tensors, noise)
        names.update({name: file for name, _ in tensors})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": names}))
    (folder / "config.json").write_text(json.dumps(config(layers)))
    return total


def plain_reads(folder):
    """GB/s of THREADS threads that read all files from the page cache."""
    pieces = [(file, at) for file in folder.glob("*.safetensors") for at in range(0, file.stat().st_size, CHUNK)]
    buffers = [bytearray(CHUNK) for _ in range(THREADS)]

    def share(k):
        got = 0
        for file, at in pieces[k::THREADS]:
            with open(file, "rb", buffering=0) as f:
                f.seek(at)
                got += f.readinto(buffers[k])
        return got

    begin = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        done = sum(pool.map(share, range(THREADS)))
    return done / (time.monotonic() - begin) / 1e9


def start(moed, folder, options):
    begin = time.monotonic()
    process = subprocess.Popen([moed, "serve", folder, "--port", "0", *options], stderr=subprocess.PIPE, text=True)
    out = {"ready_s": None, "said": []}
    for line in process.stderr:
        if re.search(r"loaded|device|cuda|cache|small pages|100 %", line):
            out["said"].append(line.strip())
        if found := re.search(r"\(100 %\), ([0-9.]+) GB/s", line):
            out.update(read_gb_per_s=float(found.group(1)), read_until_s=time.monotonic() - begin)
        if "ready on" in line:
            out["ready_s"] = time.monotonic() - begin
            break
    process.send_signal(signal.SIGTERM)
    out["said"] += [line.strip() for line in process.stderr if out["ready_s"] is None]
    try:
        process.wait(timeout=60)
    finally:
        process.kill()
    return out


def main():
    moed, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    layers = int(sys.argv[3]) if len(sys.argv) > 3 else 16
    folder.mkdir(parents=True, exist_ok=True)
    try:
        begin = time.monotonic()
        total = write_checkpoint(folder, layers)
        result = {"bytes": total, "layers": layers, "write_s": time.monotonic() - begin, "plain_reads_gb_per_s": [], "starts": []}
        for _ in range(RUNS):
            result["plain_reads_gb_per_s"].append(plain_reads(folder))
            result["starts"].append(start(moed, folder, sys.argv[4:]))
    finally:
        shutil.rmtree(folder)
    ready = sorted(s["ready_s"] or 1e9 for s in result["starts"])
    result |= {"ready_s_median": ready[len(ready) // 2], "ready_gb_per_s": total / ready[len(ready) // 2] / 1e9}
    print(json.dumps(result))
    if ready[-1] == 1e9:
        sys.exit("a server did not become ready")


main()
