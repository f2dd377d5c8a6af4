"""Serves small models on the GPU and on the CPU, and compares what they answer: gpu_server.py MOED.

One has random weights, the other is the one that ships with moed."""
import json
import shutil
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 264, "hidden_size": 256,
    "intermediate_size": 128, "moe_intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 128, "num_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "max_position_embeddings": 2048, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}
STREAMS = 16


def start(moed, folder, *options):
    process = subprocess.Popen([moed, "serve", folder, "--port", "0", *options],
                               stderr=subprocess.PIPE, text=True)
    said = []
    for line in process.stderr:
        said.append(line.rstrip())
        found = re.search(r"ready on http://127\.0\.0\.1:(\d+)", line)
        if found:
            print("\n".join(text for text in said if "device" in text or "cache" in text))
            return process, int(found.group(1))
    sys.exit("the server did not start:\n" + "\n".join(said))


def ask(port, prompt):
    body = {"model": "any", "prompt": prompt, "max_tokens": 48, "temperature": 0, "logprobs": 2}
    body["model"] = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models"))["data"][0]["id"]
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        choice = json.load(reply)["choices"][0]
    return choice["finish_reason"], choice["logprobs"]


def answers(moed, folder, *options):
    process, port = start(moed, folder, *options)
    threading.Thread(target=process.stderr.read, daemon=True).start()
    prompts = [[(7 * s + 3 * i) % 256 for i in range(5 + 9 * s)] for s in range(STREAMS)]
    try:
        with ThreadPoolExecutor(STREAMS) as pool:
            out = list(pool.map(lambda p: ask(port, p), prompts))
        process.send_signal(signal.SIGTERM)
        if process.wait(timeout=60) != 0:
            sys.exit(f"the server ended with {process.returncode}")
        return out
    finally:
        process.kill()


def compare(moed, folder, *options):
    want = answers(moed, folder, *options, "--device", "cpu")
    for cache in ("0", "2MiB", None):
        # Long passes round activations for the tensor cores; the steps have the CPU's bits.
        got = answers(moed, folder, *options, "--device", "cuda", "--long-prefill-tokens", "0",
                      *(["--expert-cache", cache] if cache else []))
        print(f"{pathlib.Path(folder).name}, expert cache {cache or 'by default'}: {STREAMS} streams, "
              f"{'the same' if got == want else 'OTHER'} tokens and logprobs as on the CPU")
        for s, (a, b) in enumerate(zip(got, want)):
            if a != b:
                sys.exit(f"stream {s}: {json.dumps(a)[:400]}\n   on the CPU: {json.dumps(b)[:400]}")


def main():
    moed = sys.argv[1]
    here = pathlib.Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(here / "data" / "server" / name, folder)
        compare(moed, folder, "--load-format", "dummy")
    compare(moed, str(here.parent / "examples" / "models" / "storyteller"))


if __name__ == "__main__":
    main()
