#!/bin/sh
# What a machine with a GPU must show. Works offline, on a build made there or brought along.
#   sh tests/gpu.sh build          builds here (needs the packages of examples/packages.sh and nvcc)
#   sh tests/gpu.sh pack DIR       copies from build/release into DIR what the other parts need, with its libraries
#   sh tests/gpu.sh kernels        every op of the CUDA device against the portable CPU kernels, bit for bit
#   sh tests/gpu.sh models         small models: against transformers, and the CPU's bits at every cache size
#   sh tests/gpu.sh server         a server on the GPU and one on the CPU give the same tokens
#   sh tests/gpu.sh bench ROW [OPTIONS]   one row of measurements, or several by name; options go to moed bench
#       qwen3-25 qwen3-0 qwen3-50-100 qwen3-uniform   Qwen3-30B-A3B, decode, batch 1, so many percent of the experts resident
#       qwen3      all of these sizes in one process
#       mixtral    Mixtral-8x7B cut to 16 layers, 3 of 8 experts resident, uniform routing
#       streams    Qwen3 at 25 %, 1 to 32 streams
#       prefill    Qwen3 at 25 %, prompts of 4K and 16K tokens in one pass
#       mixed      Qwen3 at 25 %, a prompt of 16K tokens beside 8 streams: time between their tokens
#       start      from start to ready, Qwen3 cut to 16 layers from a checkpoint written for it (20 GB of disk)
#       cpu        the CPU device, Qwen3 cut to 12 layers
#       sampling   sampling on the device, 151,936 logits, 1 to 64 rows
#   sh tests/gpu.sh plan           what moed plan says of the device's memory against what the driver reports, within 2 %
#   sh tests/gpu.sh sanitize [TOOL]   compute-sanitizer: memcheck, racecheck and initcheck, or one of them
#   sh tests/gpu.sh soak [SECONDS]    a server under shifting load (420 s), which must give everything back
# MOED_BUILD is the build to use (build/release; a folder of `pack`). Results are appended to MOED_GPU_RESULTS
# (build/gpu.json), one object a line. MOED_BENCH_LAYERS cuts the models of `bench` to so many layers, to try a row out.
set -eu
cd "$(dirname "$0")/.."

build=${MOED_BUILD:-build/release}
results=${MOED_GPU_RESULTS:-build/gpu.json}
MOED_SOURCE=$PWD
LD_LIBRARY_PATH=$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export MOED_SOURCE LD_LIBRARY_PATH
programs="test.kernels.cpu.ops_cuda test.kernels.cpu.tensor_cuda test.kernels.cpu.sample_cuda test.kernels.cpu.attention_cuda
    test.model.model.cuda test.model.model.long_cuda
    test.model.model.recorded_cuda test.model.model.sample_cuda test.model.engine.sampling_cuda
    test.model.model.faults_cuda test.model.model.replay_cuda
    bench_misses bench_cuda_tensor bench_cuda_sample bench_cuda_step bench_cuda_attention bench_cuda_plan"

# record PART STATUS LOG: one line of results, with what the part printed.
record() {
    mkdir -p "$(dirname "$results")"
    python3 - "$@" >>"$results" <<'PY'
import json, shutil, subprocess, sys, time
part, status, log = sys.argv[1:4]
ask = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
gpu = subprocess.run(ask, capture_output=True, text=True).stdout.strip() if shutil.which(ask[0]) else "no nvidia-smi"
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
    strip "$1/moed" "$1/libmoed_cuda.so" "$1"/tests/*
    ln -sf ../libmoed_cuda.so "$1/tests/libmoed_cuda.so"
    ldd "$1/moed" "$1"/tests/* | awk '/=> \// && !/\/lib(c|m|dl|pthread|rt)\.so/ {print $3}' | sort -u |
        xargs -I{} cp {} "$1/lib"
    du -sh "$1"
}

# The config of a model with so many layers, in a folder of its own.
qwen3() {
    folder=build/bench-qwen3-$1
    mkdir -p "$folder"
    cat >"$folder/config.json" <<JSON
{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048,
 "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": $1, "num_attention_heads": 32,
 "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true,
 "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
 "max_position_embeddings": 40960, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}
JSON
}

mixtral() {
    folder=build/bench-mixtral-$1
    mkdir -p "$folder"
    cat >"$folder/config.json" <<JSON
{"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096,
 "intermediate_size": 14336, "num_hidden_layers": $1, "num_attention_heads": 32, "num_key_value_heads": 8,
 "num_local_experts": 8, "num_experts_per_tok": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
 "max_position_embeddings": 32768, "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}
JSON
}

# One line a case, of the JSON in the file.
summary() {
    python3 - "$1" <<'PY'
import json, sys
try:
    said = json.load(open(sys.argv[1]))
except ValueError:
    sys.exit(0)
print("peaks, GB/s:", {k: round(v, 1) for k, v in said["peaks_gb_per_s"].items()}, "routing", said["routing"])
for c in said["cases"]:
    ms = {k: round(v["seconds"] / c["steps"] * 1e3, 3) for k, v in c["stages"].items() if isinstance(v, dict) and v["seconds"] > 0}
    ms["recorded"] = round(c["stages"]["recorded_seconds"] / c["steps"] * 1e3, 3)
    print(f"{c['kind']} batch {c['batch']} tokens {c['tokens']} cache {c['cache_bytes'] / 2**30:.2f} GiB ({c['slots']} slots): "
          f"{c['tokens_per_s']:.1f} tok/s, step {c['step_ms']:.3f} ms (p50 {c['step_ms_p50']:.3f}, p99 {c['step_ms_p99']:.3f}, longest {c['step_ms_max']:.3f}), "
          f"first token {c['first_token_ms']:.1f} ms, floor {c['floor_ms']:.3f} ms reached {100 * c['floor_part']:.0f} %, hits {c['hit_percent']:.1f} %, "
          f"{c['host_bytes_per_token'] / 1e6:.1f} MB and {c['admissions_per_token']:.2f} admissions a token, "
          f"link {c['link_gb_per_s']:.1f} GB/s = {100 * c['link_part']:.0f} %, "
          f"host {c['host_gb_per_s']:.1f} GB/s = {100 * c['host_part']:.0f} %, "
          f"runs s {[round(s, 4) for s in c['runs_seconds']]}, stages ms {ms}")
PY
}

# bench_one NAME OPTIONS...: a run of moed bench on the model in $folder.
bench_one() {
    name=$1
    shift
    log=$(mktemp)
    status=0
    "$build/moed" bench "$folder" --load-format dummy --log-level warning --json --runs 3 "$@" >"$log" || status=$?
    record "bench $name" "$status" "$log"
    summary "$log"
    rm -f "$log"
    echo "== bench $name: status $status"
    [ "$status" -eq 0 ] || bench_failed=1
}

decode="--device cuda --cases decode --decode-tokens 128"
quarter="--expert-cache 25% --routing synthetic:qwen3-30b-a3b"

# bench_row ROW OPTIONS...
bench_row() {
    row=$1
    shift
    case $row in
    mixtral)
        mixtral "${MOED_BENCH_LAYERS:-16}"
        # shellcheck disable=SC2086
        bench_one "$row" $decode --batch 1 --expert-cache 37.5% --routing synthetic:uniform "$@"
        return
        ;;
    cpu)
        qwen3 "${MOED_BENCH_LAYERS:-12}"
        bench_one "$row" --device cpu --batch 1,4 --prompt-tokens 256 --routing synthetic:qwen3-30b-a3b "$@"
        return
        ;;
    start)
        part "bench $row" python3 tests/gpu_start.py "$build/moed" build/bench-start "${MOED_BENCH_LAYERS:-16}" --device cuda \
            --max-model-len 4096 --max-num-seqs 16 "$@" || bench_failed=1
        return
        ;;
    sampling)
        part "bench $row" "$build/tests/bench_cuda_sample" || bench_failed=1
        return
        ;;
    esac
    qwen3 "${MOED_BENCH_LAYERS:-48}"
    # shellcheck disable=SC2086
    case $row in
    qwen3) bench_one "$row" $decode --batch 1 $quarter --expert-cache 25%,0,50%,100% "$@" ;;
    qwen3-25) bench_one "$row" $decode --batch 1 $quarter "$@" ;;
    qwen3-0) bench_one "$row" $decode --batch 1 $quarter --expert-cache 0 --warmup-tokens 32 "$@" ;;
    qwen3-50-100) bench_one "$row" $decode --batch 1 $quarter --expert-cache 50%,100% "$@" ;;
    qwen3-uniform) bench_one "$row" $decode --batch 1 $quarter --routing synthetic:uniform "$@" ;;
    streams) bench_one "$row" $decode --batch 1,2,4,8,16,32 --decode-tokens 64 --warmup-tokens 192 $quarter "$@" ;;
    mixed) bench_one "$row" --device cuda --cases mixed --prompt-tokens 16384 --batch 8 --decode-tokens 64 $quarter "$@" ;;
    prefill) bench_one "$row" --device cuda --cases prefill --prompt-tokens 4096,16384 --long-prefill-tokens 16384 $quarter "$@" ;;
    *)
        echo "there is no row $row" >&2
        exit 2
        ;;
    esac
}

# bench ROW... OPTIONS...: all rows are measured, but one that failed is not a result.
bench() {
    rows=
    while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do
        rows="$rows $1"
        shift
    done
    bench_failed=0
    for one in ${rows:?which row?}; do
        bench_row "$one" "$@"
    done
    return "$bench_failed"
}

# sanitized TOOL SECONDS PROGRAM [TEST]: one run of a test program under a tool; findings and a run that is not over by then fail.
sanitized() {
    tool=$1 seconds=$2 program=$3
    shift 3
    part "sanitize $tool $program $*" timeout -k 10 "$seconds" "$sanitizer" --tool "$tool" --error-exitcode 1 --print-limit 20 \
        "$build/tests/$program" "$@" || sanitize_failed=1
}

# Memcheck reads every kernel's test whole; the slower tools see short runs that use each kernel.
sanitize() {
    sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    sanitize_failed=0
    for tool in $1; do
        case $tool in
        memcheck)
            sanitized memcheck 150 test.kernels.cpu.ops_cuda
            sanitized memcheck 60 test.kernels.cpu.sample_cuda
            sanitized memcheck 60 test.kernels.cpu.attention_cuda shapes_cuda
            sanitized memcheck 120 test.kernels.cpu.tensor_cuda
            sanitized memcheck 120 test.model.model.replay_cuda plans_give_the_same_bits_cuda
            ;;
        racecheck | initcheck)
            sanitized "$tool" 120 test.kernels.cpu.sample_cuda
            sanitized "$tool" 60 test.kernels.cpu.attention_cuda shapes_cuda
            sanitized "$tool" 120 test.model.model.replay_cuda plans_give_the_same_bits_cuda
            ;;
        *)
            echo "there is no tool $tool" >&2
            exit 2
            ;;
        esac
    done
    return "$sanitize_failed"
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
    run_test test.kernels.cpu.attention_cuda
    run_test test.kernels.cpu.sample_cuda
    ;;
models)
    run_test test.model.model.cuda
    run_test test.model.model.recorded_cuda
    run_test test.model.model.sample_cuda
    run_test test.model.engine.sampling_cuda
    run_test test.model.model.long_cuda
    run_test test.model.model.faults_cuda
    run_test test.model.model.replay_cuda
    ;;
server)
    part server python3 tests/gpu_server.py "$build/moed"
    ;;
bench)
    shift
    bench "$@"
    ;;
plan)
    qwen3 "${MOED_BENCH_LAYERS:-12}"
    part plan "$build/tests/bench_cuda_plan" "$folder"
    ;;
sanitize)
    sanitize "${2:-memcheck racecheck initcheck}"
    ;;
soak)
    part soak python3 tests/gpu_soak.py "$build/moed" "${2:-420}"
    ;;
*)
    sed -n '2,22s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
