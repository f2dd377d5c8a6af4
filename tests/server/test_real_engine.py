"""The main flows over the real engine: `moed serve` with a small model of random weights."""
import concurrent.futures
import json
import shutil
import signal
import time

import openai
import pytest

from conftest import MODEL, PATIENCE_S, ROOT, RealServer, events, raw_post
from test_lm_eval import loglikelihoods

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 264, "hidden_size": 64,
    "intermediate_size": 128, "moe_intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "max_position_embeddings": 2048, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 256,
    "eos_token_id": 257,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-moe"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, path / name)
    return path


def serve(moed, folder, *options):
    if not moed.exists():
        pytest.skip(f"{moed} is not built")
    return RealServer(moed, folder, "--load-format", "dummy", "--expert-cache", "64KiB", *options).wait_ready()


def on_gpu(server):
    return any("device: cuda" in line for line in server.log)


# Prompts cut into the steps, and prompts in passes of their own that pause at each layer.
LONG_PASSES = ("--long-prefill-tokens", 256, "--max-num-batched-tokens", 8, "--max-num-seqs", 8, "--target-itl-ms", 1)


@pytest.fixture(scope="module", params=[(), LONG_PASSES], ids=["chunks", "long-passes"])
def server(moed, folder, request):
    running = serve(moed, folder, *request.param)
    yield running
    assert running.stop() == 0, "".join(running.log)


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as opened:
        yield opened


def complete(server, **body):
    body = {"prompt": "Once upon a time", "max_tokens": 20, "temperature": 0, "ignore_eos": True, **body}
    reply = server.post("/v1/completions", body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_completion_and_its_stream_are_the_same(server):
    whole = complete(server, logprobs=0)["choices"][0]
    assert whole["finish_reason"] == "length" and len(whole["logprobs"]["tokens"]) == 20
    body = {"prompt": "Once upon a time", "max_tokens": 20, "temperature": 0, "ignore_eos": True, "stream": True, "logprobs": 0}
    got = events(server.post("/v1/completions", body).text)
    assert got[-1] == "[DONE]"
    assert "".join(e["choices"][0]["text"] for e in got[:-1]) == whole["text"]
    logprobs = [x for e in got[:-1] if e["choices"][0]["logprobs"] for x in e["choices"][0]["logprobs"]["token_logprobs"]]
    assert logprobs == whole["logprobs"]["token_logprobs"]


def test_echo_gives_the_same_logprobs_as_generation(server):
    """What a token scored when it was made is what it scores as part of a prompt."""
    made = complete(server, prompt=[256, 65, 66, 67], logprobs=0, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]
    ids = [256, 65, 66, 67] + [int(t.split(":")[1]) for t in made["tokens"]]
    again = complete(server, prompt=ids, max_tokens=0, echo=True, logprobs=1)["choices"][0]["logprobs"]
    assert again["token_logprobs"][0] is None and len(again["token_logprobs"]) == len(ids)
    assert again["token_logprobs"][4:] == made["token_logprobs"]
    # Temperature 0 took the likeliest token each time.
    assert all(own == max(top.values()) for own, top in zip(again["token_logprobs"][4:], again["top_logprobs"][4:]))


def test_lm_eval(server):
    both = loglikelihoods(server, [[65, 66, 67, 68], [256, 70, 71]], [2, 1], model="tiny-moe")
    alone = loglikelihoods(server, [[65, 66, 67, 68]], [2], model="tiny-moe")
    assert both[:1] == alone and all(score < 0 for score, _ in both)


def test_seeds(server):
    one = [complete(server, temperature=1, seed=5, n=3)["choices"] for _ in range(2)]
    texts = [[c["text"] for c in choices] for choices in one]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3
    assert complete(server, temperature=1, seed=6)["choices"][0]["text"] != texts[0][0]


def test_prefix_reuse_is_counted(server):
    prompt = "A long prompt that fills several blocks of the cache. " * 4
    first = complete(server, prompt=prompt)
    second = complete(server, prompt=prompt)
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 16
    assert first["choices"][0]["text"] == second["choices"][0]["text"]
    salted = complete(server, prompt=prompt, cache_salt="other")
    assert salted["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_the_openai_client(client):
    messages = [{"role": "user", "content": "hello"}]
    out = client.chat.completions.create(model="tiny-moe", messages=messages, max_tokens=10, logprobs=True, top_logprobs=2,
                                         extra_body={"ignore_eos": True})
    assert out.usage.completion_tokens == 10 and len(out.choices[0].logprobs.content) == 10
    stream = client.chat.completions.create(model="tiny-moe", messages=messages, max_tokens=10, stream=True,
                                            stream_options={"include_usage": True}, extra_body={"ignore_eos": True})
    parts = list(stream)
    assert parts[-1].usage.completion_tokens == 10
    with pytest.raises(openai.BadRequestError, match="2048"):
        client.completions.create(model="tiny-moe", prompt=[1] * 3000)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="x")


def test_64_streams_give_what_each_gives_alone(server):
    def ask(i):
        body = {"prompt": f"stream number {i}", "max_tokens": 24, "temperature": 1, "seed": i, "stream": True, "ignore_eos": True}
        got = events(server.post("/v1/completions", body).text)
        assert got[-1] == "[DONE]"
        return "".join(e["choices"][0]["text"] for e in got[:-1])

    alone = {i: ask(i) for i in (0, 31, 63)}
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        together = list(pool.map(ask, range(64)))
    assert all(together[i] == text for i, text in alone.items())


def test_a_gone_client_frees_its_place(server):
    body = {"prompt": "x", "max_tokens": 2000, "stream": True, "ignore_eos": True}
    socks = [server.connect() for _ in range(4)]
    for sock in socks:
        sock.sendall(raw_post("/v1/completions", body))
        assert sock.recv(1)
    for sock in socks:
        sock.close()
    server.wait_metric("moed_sequences_running", 0)


def test_metrics_of_the_pager(server):
    complete(server)
    values = server.metrics()
    totals = {name: v for name, v in values.items() if name.startswith("moed_pager_") and name.endswith("_total")}
    assert totals["moed_pager_activations_total"] > 0
    for name, total in totals.items():
        prefix = name.replace("moed_pager_", "moed_pager_layer_") + "{"
        layers = [v for other, v in values.items() if other.startswith(prefix)]
        assert not layers or sum(layers) == total, name


def test_measured_admission_changes_no_answer(moed, folder):
    prompts = [f"Story {n}:" for n in range(8)]
    every, measured = serve(moed, folder, "--admission", "all"), serve(moed, folder, "--admission-wait-ms", 100)
    alone = [complete(every, prompt=p, max_tokens=200)["choices"][0]["text"] for p in prompts]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda p: complete(measured, prompt=p, max_tokens=200)["choices"][0]["text"], prompts)) == alone
    assert every.metrics()["moed_batch_limit"] == 0
    values = measured.metrics()
    # Nothing is known at first, so one decoded and the others waited for it, or for their 100 ms.
    assert values["moed_batch_limit"] >= 1 and values["moed_requests_held"] == 0
    assert every.stop() == 0 and measured.stop() == 0


def test_long_prompts_beside_streams_change_nothing(moed, folder):
    chunks, passes = serve(moed, folder), serve(moed, folder, *LONG_PASSES)
    prompts = [[256] + [(i * i + n) % 256 for i in range(900)] for n in range(4)]
    alone = [complete(chunks, prompt=p, logprobs=0)["choices"][0] for p in prompts]
    # A prompt meets a stream, and its pass is paused: again and again until they have met.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        while not passes.metrics()["moed_long_pass_pauses_total"]:
            stream = pool.submit(complete, passes, prompt="stream 0", max_tokens=1500)
            while passes.metrics()["moed_sequences_running"] == 0 and not stream.done():
                pass
            complete(passes, prompt=prompts[0], cache_salt=str(time.monotonic()))
            stream.result()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(complete, passes, prompt=f"stream {i}", max_tokens=1500) for i in range(2)]
        # A client that goes while its prompt is read leaves the others alone.
        with passes.connect() as gone:
            gone.sendall(raw_post("/v1/completions", {"prompt": [1] * 1500, "max_tokens": 5, "stream": True}))
            beside = list(pool.map(lambda p: complete(passes, prompt=p, logprobs=0)["choices"][0], prompts[:2]))
        beside += list(pool.map(lambda p: complete(passes, prompt=p, logprobs=0)["choices"][0], prompts[2:]))
        texts = [s.result()["choices"][0]["text"] for s in streams]
    if on_gpu(passes):
        # Rows of long passes and of steps are of two classes there, whose sums differ in their last bits.
        for got, want in zip(beside, alone, strict=True):
            assert got["finish_reason"] == "length"
            assert got["logprobs"]["token_logprobs"][0] == pytest.approx(want["logprobs"]["token_logprobs"][0], abs=0.02)
    else:
        assert beside == alone
        assert texts == [complete(chunks, prompt=f"stream {i}", max_tokens=1500)["choices"][0]["text"] for i in range(2)]
    values = passes.metrics()
    assert values["moed_long_passes_total"] >= 4 and values["moed_long_pass_layers_total"] >= 8
    assert values["moed_pass_timeouts_total"] == values["moed_pass_retries_total"] == 0
    assert on_gpu(chunks) or chunks.metrics()["moed_long_passes_total"] == 0
    assert chunks.stop() == 0 and passes.stop() == 0


def test_stop_strings_and_tokens(server):
    text = complete(server, max_tokens=40)["choices"][0]["text"]
    stop = text[10:13]
    cut = complete(server, max_tokens=40, stop=stop)["choices"][0]
    assert cut["text"] == text[: text.index(stop)] and cut["finish_reason"] == "stop" and cut["stop_reason"] == stop


def test_deadline_and_queue(moed, folder):
    server = serve(moed, folder, "--max-num-seqs", 1, "--max-queue", 1)
    seen = set()
    end = time.monotonic() + PATIENCE_S

    def ask(_):
        """Until one of six that ask came when one ran and one waited."""
        while not {200, 429} <= seen and time.monotonic() < end:
            seen.add(server.post("/v1/completions", {"prompt": "x", "max_tokens": 500, "ignore_eos": True}).status_code)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))
    assert seen == {200, 429}
    late = server.post("/v1/completions", {"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "timeout": 0.05})
    assert late.status_code == 504 and late.json()["error"]["code"] == "deadline_exceeded"
    assert server.stop() == 0


def test_sigterm_lets_a_stream_finish(moed, folder):
    server = serve(moed, folder)
    with server.connect() as sock, sock.makefile("rb") as stream:
        sock.sendall(raw_post("/v1/completions", {"prompt": "x", "max_tokens": 300, "stream": True, "ignore_eos": True}))
        while b"data:" not in stream.readline():
            pass
        server.signal(signal.SIGTERM)
        assert stream.read().endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert server.process.wait(PATIENCE_S) == 0, "".join(server.log)


def test_loading_is_told(moed, folder):
    if not moed.exists():
        pytest.skip(f"{moed} is not built")
    server = RealServer(moed, folder, "--load-format", "dummy")
    seen = set()
    end = time.monotonic() + PATIENCE_S
    while 200 not in seen and time.monotonic() < end:
        seen.add(server.get("/health").status_code)
    assert 200 in seen and seen <= {200, 503}
    assert server.stop() == 0


def test_a_model_without_a_tokenizer_takes_token_ids(moed):
    if not moed.exists():
        pytest.skip(f"{moed} is not built")
    server = RealServer(moed, ROOT / "tests" / "data" / "models" / "qwen3_moe_64e").wait_ready()
    body = {"prompt": [1, 5, 7], "max_tokens": 4, "logprobs": 2, "echo": True, "temperature": 0}
    choice = server.post("/v1/completions", body).json()["choices"][0]
    assert choice["logprobs"]["tokens"][:3] == ["token_id:1", "token_id:5", "token_id:7"]
    for path, refused in (("/v1/completions", {"prompt": "x"}), ("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
        reply = server.post(path, refused)
        assert reply.status_code == 400 and "no tokenizer" in reply.json()["error"]["message"]
    assert server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}).status_code == 400
    assert server.stop() == 0


def test_keys_that_are_reread_and_kept_apart(moed, folder, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("one\ntwo\n")
    server = serve(moed, folder, "--api-key-file", keys, "--prefix-per-key")

    def cached(key):
        body = {"prompt": "The same long beginning of a prompt, again and again and again.", "max_tokens": 1}
        reply = server.post("/v1/completions", body, headers={"authorization": f"Bearer {key}"})
        return reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"] if reply.status_code == 200 else reply.status_code

    assert [cached("one"), cached("two")] == [0, 0]
    assert cached("one") >= 16 and cached("two") >= 16 and cached("three") == 401
    keys.write_text("three\n")
    server.signal(signal.SIGHUP)
    end = time.monotonic() + PATIENCE_S
    while cached("three") == 401:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert cached("one") == 401
    assert server.stop() == 0


def test_a_second_signal_ends_streams_at_once(moed, folder):
    server = serve(moed, folder)
    with server.connect() as sock:
        body = {"prompt": "x", "max_tokens": 2000, "stream": True, "ignore_eos": True}
        sock.sendall(raw_post("/v1/completions", body))
        assert sock.recv(100)
        server.signal(signal.SIGTERM)
        server.wait_draining()
        server.signal(signal.SIGTERM)
        rest = b""
        while piece := sock.recv(65536):
            rest += piece
    assert server.process.wait(PATIENCE_S) == 0
    assert rest.endswith(b"0\r\n\r\n")
