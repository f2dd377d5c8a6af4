#!/bin/sh
# What a machine with a GPU must show. Works offline, on a build made there or brought along.
#   sh tests/gpu.sh build          builds here (needs the packages of examples/packages.sh and nvcc)
#   sh tests/gpu.sh pack DIR       copies from build/release into DIR what the other parts need, with its libraries; MOED_PACK_PYTHON is
#                                  the version of Python there (3.12), for the client's packages
#   sh tests/gpu.sh kernels        every op of the CUDA device against the portable CPU kernels, bit for bit
#   sh tests/gpu.sh models         small models: against transformers, and the CPU's bits at every cache size
#   sh tests/gpu.sh server         a server on the GPU and one on the CPU give the same tokens; the server tests of CI that use a real
#                                  model (OpenAI client, streams, clients that go), on the GPU
#   sh tests/gpu.sh bench ROW [OPTIONS]   one row of measurements, or several by name; options go to moed bench
#       qwen3-25 qwen3-0 qwen3-50-100 qwen3-uniform   Qwen3-30B-A3B, decode, batch 1, so many percent of the experts resident
#       ops        Qwen3, decode, batch 1, 25, 0, 50 and 100 %, with --one-row-step ops
#       streams    Qwen3 at 25 %, 2 to 32 streams
#       streams-75 the same at 75 %, 1 to 32 streams
#       streams-100 the same with all experts resident, plain, 1 to 64 streams
#       admission  Qwen3 with 13.5 GiB of slots, 1, 8, 32 and 1 clients in a closed loop, conversations of 128 tokens, --admission all and measured
#       prefill    Qwen3 at 25 % and with no expert resident, prompts of 4K and 16K tokens in one pass
#       mixed      Qwen3 at 25 %, a prompt of 16K tokens beside 4 and 8 streams, 100 and 200 ms between their tokens as the target
#       qwen3      all of these that decode only: what is paged in one process, the model loaded once; 50 and 100 % in another, since
#                  --expert-records auto packs experts for the former and leaves them plain for the latter
#       prompts    mixed, prefill, and decode of one stream where contexts may be as long
#       mixtral    Mixtral-8x7B cut to 16 layers, 3 of 8 experts resident, uniform routing
#       start      from start to ready, Qwen3 cut to 16 layers from a checkpoint written for it (20 GB of disk)
#       cpu        the CPU device, Qwen3 cut to 12 layers
#       sampling   sampling on the device, 151,936 logits, 1 to 64 rows
#       step       each op of a recorded step in a graph of its own, and the hand-off of a miss in one
#       handoff    the latter alone
#       memory     what limits jobs of missed experts, without the GPU: 54 GiB of records (MOED_BENCH_GIB), threads, pages, kernels
#   sh tests/gpu.sh plan           what moed plan says of the device's memory against what the driver reports, within 2 %
#   sh tests/gpu.sh sanitize [TOOL]   compute-sanitizer: memcheck, racecheck and initcheck, or one of them
#   sh tests/gpu.sh soak [SECONDS [OPTIONS]]   a server under shifting load (420 s), which must give everything back; options go to serve
# MOED_BUILD is the build to use (build/release; a folder of `pack`). Results are appended to MOED_GPU_RESULTS
# (build/gpu.json), one object a line. MOED_BENCH_LAYERS cuts the models of `bench` to so many layers, to try a row out, and
# MOED_BENCH_CONFIG is a folder whose config.json is the model instead. Everything has a limit of time; what it ends has failed.
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
    test.model.model.faults_cuda test.model.model.replay_cuda test.model.model.fused_cuda
    bench_misses bench_rows bench_cuda_tensor bench_cuda_sample bench_cuda_step bench_cuda_attention bench_cuda_plan"

# record PART STATUS LOG SECONDS: one line of results, with what the part printed and logged.
record() {
    mkdir -p "$(dirname "$results")"
    python3 - "$@" >>"$results" <<'PY'
import json, shutil, subprocess, sys, time
part, status, log, seconds = sys.argv[1:5]
ask = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
gpu = subprocess.run(ask, capture_output=True, text=True).stdout.strip() if shutil.which(ask[0]) else "no nvidia-smi"
text = open(log, errors="replace").read()
try:
    said = json.loads(text)
except ValueError:
    said = text[-20000:]
logged = open(log + ".err", errors="replace").read()[-30000:].splitlines()
print(json.dumps({"part": part, "status": int(status), "unix": int(time.time()), "seconds": int(seconds), "gpu": gpu, "said": said,
                  "logged": logged}))
PY
}

failed=0

# timed NAME SECONDS COMMAND...: runs it, no longer than that, and records it. What it logs is shown at once, what it prints is
# left in $log.
timed() {
    name=$1 limit=$2
    shift 2
    log=$(mktemp)
    begin=$(date +%s)
    { timeout -k 10 "$limit" "$@" >"$log" || echo $? >"$log.status"; } 2>&1 | tee "$log.err" >&2
    status=$(cat "$log.status" 2>/dev/null || echo 0)
    seconds=$(($(date +%s) - begin))
    record "$name" "$status" "$log" "$seconds"
}

# ended SHOW: shows $log by this command, says how it ended, and remembers whether anything failed.
ended() {
    "$1" "$log"
    rm -f "$log" "$log.err" "$log.status"
    [ "$status" -ne 124 ] && [ "$status" -ne 137 ] || echo "== $name: its $limit s are over"
    echo "== $name: status $status, $seconds s"
    [ "$status" -eq 0 ] || failed=1
}

# part NAME SECONDS COMMAND...
part() {
    timed "$@"
    ended cat
}

# run_test PROGRAM [SECONDS]
run_test() {
    part "$1" "${2:-60}" "$build/tests/$1"
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
    pip="python3 -m pip"
    [ ! -x build/venv/bin/pip ] || pip=build/venv/bin/pip # of tests/run.sh
    # shellcheck disable=SC2086
    $pip install -q --no-compile --disable-pip-version-check --target "$1/site" -r tests/server/requirements.txt \
        ${MOED_PACK_PYTHON:+--python-version $MOED_PACK_PYTHON --only-binary=:all:}
    du -sh "$1"
}

# The config of a model with so many layers, in a folder of its own.
qwen3() {
    if [ -n "${MOED_BENCH_CONFIG:-}" ]; then
        folder=$MOED_BENCH_CONFIG
        return
    fi
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
    if [ -n "${MOED_BENCH_CONFIG:-}" ]; then
        folder=$MOED_BENCH_CONFIG
        return
    fi
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
# shellcheck disable=SC2317
summary() {
    python3 - "$1" <<'PY'
import json, sys
try:
    said = json.load(open(sys.argv[1]))
except ValueError:
    sys.exit(0)
print("peaks, GB/s:", {k: round(v, 1) for k, v in said["peaks_gb_per_s"].items()})
for c in said["cases"]:
    if not c["runs_seconds"]:
        print(f"{c['kind']} batch {c['batch']} tokens {c['tokens']} {c['routing']}: NOT MEASURED")
        continue
    ms = {k: round(v["seconds"] / c["steps"] * 1e3, 3) for k, v in c["stages"].items() if isinstance(v, dict) and v["seconds"] > 0}
    ms["recorded"] = round(c["stages"]["recorded_seconds"] / c["steps"] * 1e3, 3)
    print(f"{c['kind']} batch {c['batch']} tokens {c['tokens']} {c['routing']} cache {c['cache_bytes'] / 2**30:.2f} GiB ({c['slots']} slots): "
          f"{c['tokens_per_s']:.1f} tok/s, step {c['step_ms']:.3f} ms (p50 {c['step_ms_p50']:.3f}, p99 {c['step_ms_p99']:.3f}, longest {c['step_ms_max']:.3f}), "
          f"first token {c['first_token_ms']:.1f} ms, floor {c['floor_ms']:.3f} ms reached {100 * c['floor_part']:.0f} %, hits {c['hit_percent']:.1f} %, "
          f"{c['host_bytes_per_token'] / 1e6:.1f} MB and {c['admissions_per_token']:.2f} admissions a token, "
          f"link {c['link_gb_per_s']:.1f} GB/s = {100 * c['link_part']:.0f} %, "
          f"host {c['host_gb_per_s']:.1f} GB/s = {100 * c['host_part']:.0f} %, CPU {c['misses_gb_per_s']:.1f} GB/s in misses, "
          f"runs s {[round(s, 4) for s in c['runs_seconds']]}, stages ms {ms}"
          + (f", clients {c['clients']}" if c["clients"] else "")
          + (f", fused us {({k: round(v, 1) for k, v in c['fused_us'].items()})}" if c["fused_us"] else ""))
PY
}

# bench_one NAME SECONDS OPTIONS...: a run of moed bench on the model in $folder. It ends by itself in time, which the options may
# set otherwise; the limit is for one that hangs.
bench_one() {
    row=$1 total=$2
    shift 2
    before=
    for option in "$@"; do
        [ "$before" != --total-seconds ] || total=$option
        before=$option
    done
    timed "bench $row" "$((total + 60))" "$build/moed" bench "$folder" --load-format dummy --json --runs 3 --total-seconds "$total" "$@"
    ended summary
}

# Sets of cases, see moed bench --help. Short runs of what is slow: a step of 32 streams takes as long as 30 of one.
# A quarter of the experts, and as many as lie in what a quarter of them takes in bf16.
qwen3_25="decode batch=1 expert-cache=25%,13.5GiB"
qwen3_0="decode batch=1 expert-cache=0 decode-tokens=48"
qwen3_50_100="decode batch=1 expert-cache=50%,100%"
qwen3_uniform="decode batch=1 expert-cache=25% decode-tokens=64 routing=synthetic:uniform"
streams="decode batch=2,4 expert-cache=25% decode-tokens=64; decode batch=8,16,32 expert-cache=25% decode-tokens=16"
streams_75="decode batch=1,2,4,8,16,32 expert-cache=75% decode-tokens=32"
streams_100="decode batch=1,2,4,8,16,32,64 expert-cache=100% decode-tokens=32"
clients="clients batch=1,8,32,1 expert-cache=13.5GiB decode-tokens=128 runs=2"
mixed="mixed batch=4 prompt-tokens=16384 expert-cache=25% decode-tokens=64 target-itl-ms=100"
mixed="$mixed; mixed batch=8 prompt-tokens=16384 expert-cache=25% decode-tokens=64 target-itl-ms=200"
prefill="prefill prompt-tokens=4096,16384 expert-cache=25%; prefill prompt-tokens=4096 expert-cache=0"

case_seconds=60

# bench_qwen3 ROW SECONDS SETS OPTIONS...
bench_qwen3() {
    row=$1 total=$2 sets=$3
    shift 3
    qwen3 "${MOED_BENCH_LAYERS:-48}"
    bench_one "$row" "$total" --device cuda --decode-tokens 128 --routing synthetic:qwen3-30b-a3b --long-prefill-tokens 16384 \
        --case-seconds "$case_seconds" --cases "$sets" "$@"
}

# bench_row ROW OPTIONS...
bench_row() {
    row=$1
    shift
    case $row in
    qwen3)
        bench_qwen3 "$row" 270 "$qwen3_25; $streams; $qwen3_uniform; $qwen3_0" "$@"
        bench_qwen3 "$row" 90 "$qwen3_50_100" "$@"
        ;;
    prompts) bench_qwen3 "$row" 240 "$qwen3_25; $mixed; $prefill" "$@" ;;
    ops)
        bench_qwen3 "$row" 150 "$qwen3_25; $qwen3_0" --one-row-step ops "$@"
        bench_qwen3 "$row" 90 "$qwen3_50_100" --one-row-step ops "$@"
        ;;
    qwen3-25) bench_qwen3 "$row" 90 "$qwen3_25" "$@" ;;
    qwen3-0) bench_qwen3 "$row" 90 "$qwen3_0" "$@" ;;
    qwen3-50-100) bench_qwen3 "$row" 120 "$qwen3_50_100" "$@" ;;
    qwen3-uniform) bench_qwen3 "$row" 90 "$qwen3_uniform" "$@" ;;
    streams-75) bench_qwen3 "$row" 240 "$streams_75" "$@" ;;
    streams-100) bench_qwen3 "$row" 60 "$streams_100" --expert-records plain "$@" ;;
    admission) bench_qwen3 "$row" 330 "$clients admission=all; $clients admission=measured" "$@" ;;
    streams) bench_qwen3 "$row" 240 "$streams" "$@" ;;
    mixed) bench_qwen3 "$row" 120 "$mixed" "$@" ;;
    prefill) bench_qwen3 "$row" 120 "$prefill" "$@" ;;
    mixtral)
        mixtral "${MOED_BENCH_LAYERS:-16}"
        bench_one "$row" 120 --device cuda --cases decode --decode-tokens 48 --warmup-tokens 64 --batch 1 --expert-cache 37.5% \
            --routing synthetic:uniform --case-seconds 60 "$@"
        ;;
    cpu)
        qwen3 "${MOED_BENCH_LAYERS:-12}"
        bench_one "$row" 240 --device cpu --batch 1,4 --prompt-tokens 256 --routing synthetic:qwen3-30b-a3b "$@"
        ;;
    start)
        part "bench $row" 240 python3 tests/gpu_start.py "$build/moed" build/bench-start "${MOED_BENCH_LAYERS:-16}" --device cuda \
            --max-model-len 4096 --max-num-seqs 16 "$@"
        ;;
    sampling) part "bench $row" 120 "$build/tests/bench_cuda_sample" ;;
    step) part "bench $row" 180 "$build/tests/bench_cuda_step" ;;
    handoff) part "bench $row" 60 "$build/tests/bench_cuda_step" handoff ;;
    memory)
        timed "bench misses" 120 "$build/tests/bench_misses" --pool-gib "${MOED_BENCH_GIB:-54}"
        ended :
        timed "bench rows" 60 "$build/tests/bench_rows" 12 1,8,14
        ended :
        ;;
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
    for one in ${rows:?which row?}; do
        bench_row "$one" "$@"
    done
}

# sanitized TOOL SECONDS PROGRAM [TEST]: one run of a test program under a tool; findings and a run that is not over by then fail.
sanitized() {
    tool=$1 seconds=$2 program=$3
    shift 3
    part "sanitize $tool $program $*" "$seconds" "$sanitizer" --tool "$tool" --error-exitcode 1 --print-limit 20 \
        "$build/tests/$program" "$@"
}

# Memcheck reads every kernel's test whole; the slower tools see short runs that use each kernel of a step.
sanitize() {
    sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    for tool in $1; do
        case $tool in
        memcheck)
            sanitized memcheck 90 test.kernels.cpu.ops_cuda
            sanitized memcheck 45 test.model.model.replay_cuda plans_give_the_same_bits_cuda
            sanitized memcheck 45 test.model.model.fused_cuda one_row_has_the_same_bits_cuda
            sanitized memcheck 45 test.model.model.fused_cuda packed_experts_have_the_same_bits_cuda
            sanitized memcheck 45 test.model.model.fused_cuda each_side_has_experts_of_its_own_cuda
            sanitized memcheck 30 test.kernels.cpu.attention_cuda shapes_cuda
            sanitized memcheck 30 test.kernels.cpu.sample_cuda
            sanitized memcheck 45 test.kernels.cpu.tensor_cuda
            ;;
        racecheck | initcheck)
            sanitized "$tool" 60 test.model.model.replay_cuda plans_give_the_same_bits_cuda
            sanitized "$tool" 120 test.model.model.fused_cuda one_row_has_the_same_bits_cuda
            sanitized "$tool" 30 test.kernels.cpu.attention_cuda shapes_cuda
            sanitized "$tool" 60 test.kernels.cpu.tensor_cuda attention_of_short_rows_cuda
            sanitized "$tool" 60 test.kernels.cpu.sample_cuda combinations_cuda
            sanitized "$tool" 60 test.kernels.cpu.sample_cuda crowds_of_equal_logits_cuda
            ;;
        *)
            echo "there is no tool $tool" >&2
            exit 2
            ;;
        esac
    done
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
    run_test test.kernels.cpu.tensor_cuda
    ;;
models)
    run_test test.model.model.recorded_cuda 90
    run_test test.model.model.cuda
    run_test test.model.model.sample_cuda
    run_test test.model.engine.sampling_cuda
    run_test test.model.model.long_cuda
    run_test test.model.model.faults_cuda
    run_test test.model.model.replay_cuda 90
    run_test test.model.model.fused_cuda 90
    ;;
server)
    part server 180 python3 tests/gpu_server.py "$build/moed"
    PYTHONPATH=$build/site${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
    part "server tests" 240 python3 -m pytest -q -p no:cacheprovider tests/server/test_real_engine.py tests/server/test_storyteller.py \
        --moed "$build/moed" --device cuda
    ;;
bench)
    shift
    bench "$@"
    ;;
plan)
    qwen3 "${MOED_BENCH_LAYERS:-12}"
    part plan 120 "$build/tests/bench_cuda_plan" "$folder"
    ;;
sanitize)
    sanitize "${2:-memcheck racecheck initcheck}"
    ;;
soak)
    seconds=${2:-420}
    [ $# -lt 2 ] || shift
    shift
    part soak "$((seconds + 120))" python3 tests/gpu_soak.py "$build/moed" "$seconds" "$@"
    ;;
*)
    sed -n '2,30s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
exit "$failed"
