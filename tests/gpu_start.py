"""How long a server takes from its start until it is ready: gpu_start.py MOED FOLDER [LAYERS [OPTIONS...]].

Writes a checkpoint of Qwen3-30B-A3B's shapes with LAYERS (16) layers and random bf16 weights into FOLDER (20 GB), with its tokenizer where
MOED_TEST_DATA has it, starts a server on it three times with the files in the page cache. Beside: plain reads of them, over one buffer
and into fresh memory, and how fast the driver registers memory when it does nothing else. Prints one JSON object; removes what it wrote. part_of_slower: bytes a second from start to ready, as
a part of the slower of plain reads and registering from one thread."""
import ctypes
import json
import lzma
import mmap
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
TOUCHERS, PIECE, REGISTER_BYTES = 16, 512 << 20, 16 << 30
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


def copy_tokenizer(folder):
    """Whether the outside test data has one."""
    packed = pathlib.Path(os.environ.get("MOED_TEST_DATA", "/nowhere")) / "tokenizers/qwen3/tokenizer.json.xz"
    if not packed.exists():
        return False
    with lzma.open(packed) as source, open(folder / "tokenizer.json", "wb") as out:
        shutil.copyfileobj(source, out)
    return True


def fresh(count):
    """Memory that nobody has touched, on huge pages where the kernel gives them."""
    block = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_HUGEPAGE)
    return block


def in_threads(threads, job):
    begin = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(job, range(threads)))
    return done / (time.monotonic() - begin) / 1e9


def plain_reads(folder, threads, into_fresh):
    """GB/s of threads that read all files from the page cache, over and over into one buffer each or to memory of their own."""
    pieces, total = [], 0
    for file in folder.glob("*.safetensors"):
        for at in range(0, file.stat().st_size, CHUNK):
            pieces.append((file, at, total))
            total += CHUNK
    buffer = fresh(total if into_fresh else threads * CHUNK)
    view = memoryview(buffer)

    def share(k):
        got = 0
        for file, at, place in pieces[k::threads]:
            with open(file, "rb", buffering=0) as f:
                f.seek(at)
                to = place if into_fresh else k * CHUNK
                got += f.readinto(view[to:to + CHUNK])
        return got

    speed = in_threads(threads, share)
    view.release()
    buffer.close()
    return speed


def register_speed(threads):
    """GB/s of registering touched memory with the driver, as a server does it but with nothing beside; a process of its own."""
    cuda = ctypes.CDLL("libcuda.so.1")

    def must(result):
        if result != 0:
            raise RuntimeError(f"CUDA error {result}")

    context, device = ctypes.c_void_p(), ctypes.c_int()
    must(cuda.cuInit(0))
    must(cuda.cuDeviceGet(ctypes.byref(device), 0))
    must(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    block = fresh(REGISTER_BYTES + PIECE)
    at = ctypes.addressof(ctypes.c_char.from_buffer(block))
    at += -at % (2 << 20)

    def touch(k):
        for piece in range(k, REGISTER_BYTES // PIECE, TOUCHERS):
            ctypes.memset(at + piece * PIECE, 1, PIECE)
        return 0

    def register(k):
        must(cuda.cuCtxSetCurrent(context))
        mine = range(k, REGISTER_BYTES // PIECE, threads)
        for piece in mine:
            must(cuda.cuMemHostRegister_v2(ctypes.c_void_p(at + piece * PIECE), ctypes.c_size_t(PIECE), 3))
        return len(mine) * PIECE

    in_threads(TOUCHERS, touch)
    return in_threads(threads, register)


def register_peaks():
    peaks = {}
    for threads in (1, 2, 4):
        done = subprocess.run([sys.executable, __file__, "--register", str(threads)], capture_output=True, text=True)
        peaks[str(threads)] = float(done.stdout) if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1]
    return peaks


# What the log says of the stages of a start, in the order of its lines.
STAGES = [
    (r"model described in ([0-9.]+) s, device chosen (?:beside it )?in ([0-9.]+) s", ("described_s", "device_chosen_s")),
    (r"device opened in ([0-9.]+) s", ("device_opened_s",)),
    (r"weights: [0-9.]+ GB read in ([0-9.]+) s, ([0-9.]+) GB/s", ("read_s", "read_gb_per_s")),
    (r"registered [0-9.]+ GB in ([0-9.]+) s, ([0-9.]+) GB/s; all in place ([0-9.]+) s",
     ("registering_s", "registering_gb_per_s", "placed_after_read_s")),
    (r"memory taken in ([0-9.]+) s, misses measured in ([0-9.]+), slots made in ([0-9.]+), steps recorded in ([0-9.]+)",
     ("memory_s", "misses_measured_s", "slots_s", "recorded_s")),
    (r"loaded [0-9.]+ MiB in ([0-9.]+) s", ("loaded_s",)),
]


def start(moed, folder, options):
    begin = time.monotonic()
    process = subprocess.Popen([moed, "serve", folder, "--port", "0", *options], stderr=subprocess.PIPE, text=True)
    out = {"ready_s": None, "said": []}
    for line in process.stderr:
        if re.search(r"loaded|device|cuda|cache|small pages|weights|misses|100 %", line):
            out["said"].append(line.strip())
        if "(100 %)" in line:
            out["read_until_s"] = time.monotonic() - begin
        for pattern, names in STAGES:
            if found := re.search(pattern, line):
                out.update(zip(names, map(float, found.groups())))
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


def median(values):
    return sorted(values)[len(values) // 2]


def main():
    moed, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    layers = int(sys.argv[3]) if len(sys.argv) > 3 else 16
    folder.mkdir(parents=True, exist_ok=True)
    try:
        begin = time.monotonic()
        total = write_checkpoint(folder, layers)
        result = {"bytes": total, "layers": layers, "tokenizer": copy_tokenizer(folder), "write_s": time.monotonic() - begin,
                  "plain_reads_gb_per_s": [], "fresh_reads_gb_per_s": [], "starts": []}
        for _ in range(RUNS):
            result["plain_reads_gb_per_s"].append(plain_reads(folder, THREADS, False))
            result["fresh_reads_gb_per_s"].append(plain_reads(folder, TOUCHERS, True))
            result["starts"].append(start(moed, folder, sys.argv[4:]))
    finally:
        shutil.rmtree(folder)
    result["registering_gb_per_s_by_threads"] = peaks = register_peaks()
    ready = [s["ready_s"] or 1e9 for s in result["starts"]]
    speed = total / median(ready) / 1e9
    slower = min([median(result["plain_reads_gb_per_s"])] + [peaks["1"]] * isinstance(peaks["1"], float))
    result |= {"ready_s_median": median(ready), "ready_gb_per_s": speed, "slower_gb_per_s": slower, "part_of_slower": speed / slower}
    print(json.dumps(result))
    if max(ready) == 1e9:
        sys.exit("a server did not become ready")


if sys.argv[1] == "--register":
    print(register_speed(int(sys.argv[2])))
else:
    main()
