"""The commands beside serve, exit statuses and signals, as a user at a terminal or a supervisor sees them."""
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

from conftest import PATIENCE_S, ROOT, Server

MODEL = ROOT / "examples" / "models" / "storyteller"


@pytest.fixture(scope="module")
def run(moed):
    if not moed.exists() or not MODEL.exists():
        pytest.skip(f"{moed} or {MODEL} is not there")

    def run_one(*words, **kwargs):
        return subprocess.run([moed, *map(str, words)], capture_output=True, text=True, timeout=2 * PATIENCE_S, **kwargs)

    return run_one


@pytest.fixture
def serve(moed):
    running = []

    def serve_one(*options, **kwargs):
        running.append(Server([moed, "serve", MODEL, "--port", "0", *map(str, options)], **kwargs))
        return running[-1]

    yield serve_one
    for server in running:
        assert server.stop() == 0, "".join(server.log)


def test_wrong_words_exit_with_2(run, tmp_path):
    for words, says in (((), "moed COMMAND --help"), (("frob",), "no command 'frob'"), (("serve",), "which model"),
                        (("serve", MODEL, "--frob"), "no option --frob"), (("serve", MODEL, "--port"), "needs a value"),
                        (("serve", MODEL, "--port", "66000"), "0 to 65535"), (("plan", MODEL, "--expert-cache", "12x"), "12x")):
        done = run(*words)
        assert done.returncode == 2 and says in done.stdout + done.stderr, (words, done)


def test_what_fails_at_start_exits_with_1(run, serve, tmp_path):
    server = serve()
    for words, says in ((("plan", tmp_path), "config.json"), (("serve", MODEL, "--port", server.port), "already in use"),
                        (("serve", MODEL, "--port", 0, "--kv-cache-memory", "100TiB"), "does not fit"),
                        (("serve", MODEL, "--port", 0, "--api-key-file", tmp_path / "none"), "none")):
        done = run(*words)
        assert done.returncode == 1 and says in done.stderr, (words, done)


def test_plan(run):
    plan = json.loads(run("plan", MODEL, "--json", "--expert-cache", "1MiB").stdout)
    parts = plan["bytes"]
    whole = sum(v for k, v in parts.items() if k not in ("expert_record", "kv_block", "total"))
    assert parts["total"] == whole and parts["expert_cache"] == (1 << 20) // parts["expert_record"] * parts["expert_record"]
    assert plan["expert_records"] * parts["expert_record"] == parts["experts"] and plan["fits"]
    assert plan["record_class"] == "plain" and parts["expert_record"] == 73728
    packed = json.loads(run("plan", MODEL, "--json", "--expert-cache", "25%", "--expert-records", "packed").stdout)
    assert packed["record_class"] == "packed" and packed["bytes"]["expert_record"] < 73728
    assert packed["bytes"]["expert_cache"] == packed["expert_records"] // 4 * packed["bytes"]["expert_record"]
    assert "192 plain records of" in run("plan", MODEL).stdout
    assert "9.62 M parameters, 3.43 M active" in run("plan", MODEL).stdout


def test_generate(run, tmp_path):
    ask = ("generate", MODEL, "-p", "Once upon a time", "-n", 30, "--seed", 5, "--temperature", 1, "--log-level", "error")
    text = run(*ask).stdout
    assert len(text) > 40 and text.endswith("\n")
    for options in (("--expert-records", "plain"), ("--expert-records", "packed"), ("--expert-records", "plain", "--expert-cache", "25%"),
                    ("--expert-records", "packed", "--expert-cache", "25%"), ("--expert-cache", "0"), ("--expert-cache", "1MiB", "--expert-policy", "lru"), ("-t", 1, "--isa", "scalar")):
        assert run(*ask, *options).stdout == text
    # The text ends before the figures begin, also where both go to one pipe.
    both = subprocess.run([*map(str, run(*ask).args), "--stats"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=2 * PATIENCE_S).stdout
    assert both.startswith(text + "prompt 4 tokens")
    # A folder of links, as a download leaves it.
    (tmp_path / "snapshot").mkdir()
    for file in MODEL.iterdir():
        os.symlink(file, tmp_path / "snapshot" / file.name)
    assert run("generate", tmp_path / "snapshot", *ask[2:]).stdout == text


@pytest.fixture
def unpackable(tmp_path):
    """The model with one expert of random bits, in a folder of its own."""
    tensor = "model.layers.2.mlp.experts.7.up_proj.weight"
    shutil.copytree(MODEL, tmp_path / "model")
    with open(tmp_path / "model" / "model.safetensors", "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        begin, end = json.loads(file.read(size))[tensor]["data_offsets"]
        file.seek(8 + size + begin)
        # Exponents from all over the format, but not of infinities or so large that sums overflow.
        file.write(b"".join(struct.pack("<H", random.getrandbits(15) % 0x3e00) for _ in range((end - begin) // 2)))
    return tmp_path / "model", tensor


def test_experts_that_do_not_pack(run, unpackable):
    folder, tensor = unpackable
    ask = ("-p", "Once upon a time", "-n", 20, "--temperature", 0)
    plain = run("generate", folder, *ask, "--expert-records", "plain")
    assert plain.returncode == 0 and "again" not in plain.stderr
    packed = run("generate", folder, *ask, "--expert-records", "packed")
    assert packed.returncode == 1 and tensor in packed.stderr and "expert-records plain" in packed.stderr
    auto = run("generate", folder, *ask)
    assert auto.returncode == 0 and auto.stdout == plain.stdout and "again" not in auto.stderr


def test_experts_that_do_not_pack_for_a_gpu(moed, run, unpackable):
    """auto packs where a GPU holds few experts; these it reads once more."""
    folder, tensor = unpackable
    on_gpu = moed.parent / "tests" / "emulated" / "moed"
    if not on_gpu.exists():
        pytest.skip(f"{on_gpu} is not built")
    ask = ("-p", "Once upon a time", "-n", "2", "--temperature", "0")
    plain = run("generate", folder, *ask)
    auto = subprocess.run([on_gpu, "generate", folder, *ask, "--device", "cuda", "--expert-cache", "25%"], capture_output=True,
                          text=True, timeout=2 * PATIENCE_S)
    assert auto.returncode == 0 and auto.stdout == plain.stdout, auto
    assert f"tensor {tensor}" in auto.stderr and "opening again with plain records" in auto.stderr
    assert "192 packed records" in auto.stderr and "192 plain records" in auto.stderr
    said = subprocess.run([on_gpu, "bench", folder, "--json", "--runs", "1", "--cases", "decode", "--batch", "1", "--decode-tokens", "2",
                           "--warmup-tokens", "1", "--device", "cuda", "--expert-cache", "25%"], capture_output=True, text=True,
                          timeout=2 * PATIENCE_S)
    said = json.loads(said.stdout)
    assert said["record_class"] == "plain" and said["record_bytes"] == 73728


def test_experts_in_two_ways_are_refused(run, tmp_path):
    shutil.copytree(MODEL, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    body = data[8 + size:]
    more = 32 * 96 * 256 * 2
    header["model.layers.0.mlp.experts.gate_up_proj"] = {"dtype": "F16", "shape": [32, 96, 256],
                                                         "data_offsets": [len(body), len(body) + more]}
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + body + bytes(more))
    for records in ("auto", "plain", "packed"):
        done = run("generate", tmp_path / "model", "-p", "Once", "-n", 1, "--expert-records", records)
        assert done.returncode == 1 and "model.layers.0.mlp.experts." in done.stderr, done


def test_bench(run):
    expert_bytes = {}
    for records in ("plain", "packed"):
        said = json.loads(run("bench", MODEL, "--json", "--batch", 2, "--runs", 1, "--decode-tokens", 2, "--prompt-tokens", 16,
                              "--expert-records", records, "--log-level", "error").stdout)
        case, = [c for c in said["cases"] if c["kind"] == "decode"]
        assert case["batch"] == 2 and case["tokens"] == 4 and case["tokens_per_s"] > 0
        assert said["record_class"] == records
        expert_bytes[records] = said["record_bytes"]
    assert expert_bytes["packed"] < expert_bytes["plain"]


def test_bench_with_synthetic_routing_at_several_cache_sizes(run):
    said = json.loads(run("bench", MODEL, "--json", "--batch", "1,3", "--runs", 1, "--decode-tokens", 4, "--prompt-tokens", 40,
                          "--long-prefill-tokens", 32, "--routing", "synthetic:qwen3-30b-a3b", "--expert-cache", "0,100%",
                          "--warmup-tokens", 40, "--log-level", "error").stdout)
    cases = said["cases"]
    assert [(c["slots"], c["kind"], c["batch"], c["tokens"], c["steps"]) for c in cases] == [
        (said["records"] * share // 100, *case) for share in (0, 100)
        for case in (("prefill", 1, 40, 2), ("decode", 1, 4, 4), ("decode", 3, 12, 4))]
    assert said["peaks_gb_per_s"]["link"] > 0 and said["routing"] == "synthetic:qwen3-30b-a3b"
    shape = json.loads((MODEL / "config.json").read_text())
    for c in cases:
        # Each token goes to top-k experts in each layer, whatever the router would have said.
        assert c["pager"]["activations"] == c["tokens"] * shape["num_experts_per_tok"] * shape["num_hidden_layers"]
        assert len(c["runs_seconds"]) == 1 and len(c["steps_ms"]) == c["steps"]
        assert c["floor_ms"] > 0 and c["step_ms_p99"] >= c["step_ms_p50"] > 0
        if c["slots"] == 0:
            assert c["hit_percent"] == 0 and c["host_bytes_per_token"] > 0
    assert cases[-2]["hit_percent"] > 50


def test_bench_of_a_prompt_beside_streams(run):
    said = json.loads(run("bench", MODEL, "--json", "--batch", "1,2", "--runs", 2, "--decode-tokens", 4, "--prompt-tokens", 40,
                          "--long-prefill-tokens", 32, "--cases", "mixed", "--target-itl-ms", 1, "--routing", "synthetic:uniform",
                          "--log-level", "error").stdout)
    case, = said["cases"]
    assert (case["kind"], case["batch"], case["tokens"], case["steps"], case["target_itl_ms"]) == ("mixed", 2, 40, 2, 1)
    layers = json.loads((MODEL / "config.json").read_text())["num_hidden_layers"]
    # At least the step after the last layer of a run; at most one after each layer of two passes.
    assert 2 <= len(case["steps_ms"]) <= 2 * (2 * layers + 1)
    assert case["step_ms_max"] == max(case["steps_ms"]) and case["floor_ms"] == 0


def test_bench_of_clients(run):
    said = json.loads(run("bench", MODEL, "--json", "--runs", 2, "--expert-cache", "50%", "--routing", "synthetic:qwen3-30b-a3b", "--cases",
                          "clients batch=1,3 decode-tokens=20 warmup-tokens=10 admission=all; clients batch=3 decode-tokens=20",
                          "--log-level", "error").stdout)
    assert [(c["kind"], c["batch"], c["clients"]["admission"], c["clients"]["tokens"]) for c in said["cases"]] == [
        ("clients", 1, "all", 20), ("clients", 3, "all", 20), ("clients", 3, "measured", 20)]
    shape = json.loads((MODEL / "config.json").read_text())
    for c in said["cases"]:
        seen = c["clients"]
        assert seen["ended"] >= 2 * c["batch"] and c["tokens"] >= 20 and c["tokens_per_s"] > 0 and len(c["steps_ms"]) == c["steps"]
        assert 0 < seen["first_token_s_p50"] <= seen["first_token_s_p99"] <= seen["first_token_s_max"]
        assert seen["first_token_s_p50"] < seen["second_token_s_p50"] <= seen["second_token_s_p99"] <= seen["second_token_s_max"]
        assert seen["second_token_s_p50"] < seen["completion_s"]
        assert c["pager"]["activations"] == c["tokens"] * shape["num_experts_per_tok"] * shape["num_hidden_layers"]
    assert [c["clients"]["batch_limit"] for c in said["cases"]][:2] == [0, 0] and said["cases"][2]["clients"]["batch_limit"] >= 1


def test_bench_of_several_sets(run):
    said = json.loads(run("bench", MODEL, "--json", "--runs", 1, "--expert-cache", "50%", "--routing", "synthetic:qwen3-30b-a3b", "--cases",
                          "decode batch=1,2 decode-tokens=4 warmup-tokens=8; decode batch=1 expert-cache=0,50% routing=synthetic:uniform; "
                          "prefill prompt-tokens=40 expert-cache=50%", "--log-level", "error").stdout)
    half = said["records"] // 2
    assert [(c["kind"], c["batch"], c["slots"], c["routing"], c["steps"], c["warmup_steps"] > 0) for c in said["cases"]] == [
        ("decode", 1, half, "synthetic:qwen3-30b-a3b", 4, True), ("decode", 2, half, "synthetic:qwen3-30b-a3b", 4, True),
        ("decode", 1, 0, "synthetic:uniform", 32, True), ("decode", 1, half, "synthetic:uniform", 32, True),
        ("prefill", 1, half, "synthetic:qwen3-30b-a3b", 1, False)]


def test_bench_ends_when_its_time_is_over(moed):
    def bench(*limit):
        begin = time.monotonic()
        done = subprocess.run([moed, "bench", MODEL, "--json", "--cases", "decode batch=32 decode-tokens=800 runs=100; prefill",
                               *limit], capture_output=True, text=True, timeout=60)
        return done, time.monotonic() - begin

    done, _ = bench("--total-seconds", "0.001")
    assert (done.returncode, done.stdout) == (1, "") and "2 of 2 cases were not measured" in done.stderr
    done, seconds = bench("--case-seconds", "2")
    case = json.loads(done.stdout)["cases"][0]
    assert seconds < 30 and case["steps"] < 800 and "to fit into the time" in done.stderr


def test_bench_refuses_what_it_does_not_know(moed):
    for option, value, word in (("--routing", "synthetic:nobody", "deepseek-v2-lite"), ("--cases", "decode,all", "prefill, decode, mixed and clients"),
                                ("--expert-cache", "10%,ten", "not '10%,ten'"), ("--batch", "1,0", "not '1,0'")):
        done = subprocess.run([moed, "bench", MODEL, option, value], capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 2 and word in done.stderr


def test_a_second_signal_stops_at_once(serve):
    server = serve("--max-num-seqs", 1)
    server.wait_ready()
    for _ in range(6):
        sock = socket.create_connection(("127.0.0.1", server.port))
        body = json.dumps({"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "n": 60})
        sock.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
    while server.metrics()["moed_sequences_running"] == 0:
        time.sleep(0.01)
    server.signal(signal.SIGTERM)
    server.wait_draining()
    assert server.process.poll() is None
    server.signal(signal.SIGTERM)
    assert server.process.wait(timeout=PATIENCE_S) == 0
    server.wait_log("second signal")


def test_a_stop_while_loading(moed, tmp_path):
    shape = json.loads((MODEL / "config.json").read_text())
    shape |= {"moe_intermediate_size": 2048, "num_experts": 128}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    loading = False
    while not loading:  # or it was loaded before this was here to see it
        server = Server([moed, "serve", tmp_path, "--load-format", "dummy", "--port", "0", "--max-model-len", "64"])
        while True:
            reply = server.get("/health")
            loading = reply.status_code == 503
            assert not loading or reply.json()["status"] == "loading"
            if not loading or reply.json()["total_bytes"]:  # 0 until the plan is made
                break
            time.sleep(0.005)
        assert not loading or reply.json()["total_bytes"] > 1 << 30
        server.signal(signal.SIGTERM)
        assert server.process.wait(timeout=PATIENCE_S) == 0


def test_supervisor(serve, tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(PATIENCE_S)
        server = serve(env={"NOTIFY_SOCKET": path}.items())
        assert notify.recv(200) == b"STATUS=loading"
        assert notify.recv(200) == b"READY=1\nSTATUS=serving"
        server.signal(signal.SIGTERM)
        assert notify.recv(200) == b"STOPPING=1\nSTATUS=draining"
