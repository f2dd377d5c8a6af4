#!/bin/sh
# What a machine with a GPU must show. Works offline, on a build made there or brought along.
#   sh tests/gpu.sh build          builds here (needs the packages of examples/packages.sh and nvcc)
#   sh tests/gpu.sh pack DIR       copies from build/release into DIR what the other parts need, with its libraries
#   sh tests/gpu.sh kernels        every op of the CUDA device against the portable CPU kernels, bit for bit
#   sh tests/gpu.sh models         small models: against transformers, and the CPU's bits at every cache size
#   sh tests/gpu.sh server         a server on the GPU and one on the CPU give the same tokens
#   sh tests/gpu.sh bench [LAYERS] Qwen3-30B-A3B's shapes, random weights, experts resident in full, a quarter, none; the CPU
#   sh tests/gpu.sh sanitize       the kernels' test under compute-sanitizer memcheck
# MOED_BUILD is the build to use (build/release; a folder of `pack`). Results are appended to MOED_GPU_RESULTS
# (build/gpu.json), one object a line.
set -eu
cd "$(dirname "$0")/.."

build=${MOED_BUILD:-build/release}
results=${MOED_GPU_RESULTS:-build/gpu.json}
MOED_SOURCE=$PWD
LD_LIBRARY_PATH=$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export MOED_SOURCE LD_LIBRARY_PATH
programs="test.kernels.cpu.ops_cuda test.kernels.cpu.sample_cuda test.model.model.cuda test.model.model.recorded_cuda
    test.model.model.sample_cuda test.model.engine.sampling_cuda bench_cuda_sample"

# record PART STATUS LOG: one line of results, with what the part printed.
record() {
    mkdir -p "$(dirname "$results")"
    python3 - "$@" >>"$results" <<'PY'
import json, subprocess, sys, time
part, status, log = sys.argv[1:4]
gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
                     capture_output=True, text=True).stdout.strip() or "no nvidia-smi"
text = open(log, errors="replace").read()
try:
    said = json.loads(text)
except ValueError:
    said = text[-20000:]
print(json.dumps({"part": part, "status": int(status), "unix": int(time.time()), "gpu": gpu, "said": said}))
PY
}

# part NAME COMMAND...: runs it, shows and records what it printed.
part() {
    name=$1
    shift
    log=$(mktemp)
    status=0
    "$@" >"$log" 2>"$log.err" || status=$?
    cat "$log.err" "$log"
    [ -s "$log" ] || cp "$log.err" "$log"
    record "$name" "$status" "$log"
    rm -f "$log" "$log.err"
    echo "== $name: status $status"
    return "$status"
}

run_test() {
    part "$1" "$build/tests/$1" 2>&1
}

pack() {
    mkdir -p "$1/tests" "$1/lib"
    cp build/release/moed build/release/libmoed_cuda.so "$1"
    for program in $programs; do
        cp "build/release/tests/$program" "$1/tests"
    done
    strip "$1/moed" "$1/libmoed_cuda.so" "$1"/tests/test.*
    ln -sf ../libmoed_cuda.so "$1/tests/libmoed_cuda.so"
    ldd "$1/moed" "$1"/tests/test.* | awk '/=> \// && !/\/lib(c|m|dl|pthread|rt)\.so/ {print $3}' | sort -u |
        xargs -I{} cp {} "$1/lib"
    du -sh "$1"
}

# The config of Qwen3-30B-A3B with fewer layers, in a folder of its own.
bench_model() {
    folder=build/bench-qwen3-$1
    mkdir -p "$folder"
    cat >"$folder/config.json" <<JSON
{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048,
 "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": $1, "num_attention_heads": 32,
 "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true,
 "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
 "max_position_embeddings": 40960, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}
JSON
    echo "$folder"
}

bench_one() {
    name=$1
    shift
    part "bench $name" "$build/moed" bench "$folder" --load-format dummy --log-level warning --json --batch 1,4 \
        --prompt-tokens 256 --max-num-batched-tokens 256 --context 128 --decode-tokens 32 --runs 3 "$@" || bench_failed=1
}

bench() {
    layers=${1:-12}
    bench_failed=0
    part "bench sampling" "$build/tests/bench_cuda_sample" || bench_failed=1
    folder=$(bench_model "$layers")
    all=$((layers * 128 * 9 * 1048576))
    bench_one "cuda, all resident" --device cuda --expert-cache $all
    bench_one "cuda, a quarter" --device cuda --expert-cache $((all / 4))
    bench_one "cuda, none" --device cuda --expert-cache 0
    bench_one "cpu, in place" --device cpu
    # All cases are measured, but one that failed is not a result.
    return "$bench_failed"
}

case ${1:-} in
build)
    cmake --preset release -DCUDA=on && cmake --build --preset release
    ;;
pack)
    pack "$2"
    ;;
kernels)
    run_test test.kernels.cpu.ops_cuda
    run_test test.kernels.cpu.sample_cuda
    ;;
models)
    run_test test.model.model.cuda
    run_test test.model.model.recorded_cuda
    run_test test.model.model.sample_cuda
    run_test test.model.engine.sampling_cuda
    ;;
server)
    part server python3 tests/gpu_server.py "$build/moed"
    ;;
bench)
    bench "${2:-12}"
    ;;
sanitize)
    part sanitize compute-sanitizer --tool memcheck --error-exitcode 1 "$build/tests/test.kernels.cpu.ops_cuda"
    part "sanitize sampling" compute-sanitizer --tool memcheck --error-exitcode 1 \
        "$build/tests/test.kernels.cpu.sample_cuda"
    part "races of sampling" compute-sanitizer --tool racecheck --error-exitcode 1 \
        "$build/tests/test.kernels.cpu.sample_cuda"
    ;;
*)
    sed -n '2,11s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
