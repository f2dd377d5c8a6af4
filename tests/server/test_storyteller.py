"""The model that ships with the project, served, against what transformers and tokenizers say of it."""
import concurrent.futures
import json

import pytest

from conftest import ROOT, RealServer, events

MODEL = ROOT / "examples" / "models" / "storyteller"
VECTORS = ROOT / "tests" / "data" / "story"
# Two likeliest tokens closer than this may change places.
CLOSE = 0.02


@pytest.fixture(scope="module")
def server(moed):
    if not moed.exists() or not MODEL.exists():
        pytest.skip(f"{moed} or {MODEL} is not there")
    running = RealServer(moed, MODEL, "--kv-cache-dtype", "fp32").wait_ready()
    yield running
    assert running.stop() == 0, "".join(running.log)


def test_conversations(server):
    for case in json.loads((VECTORS / "chat.json").read_text()):
        body = {"messages": case["messages"], "add_generation_prompt": case["add_generation_prompt"]}
        assert server.post("/apply-template", body).json()["prompt"] == case["text"]
        assert server.post("/tokenize", body).json()["tokens"] == case["ids"]


def test_tokens(server):
    for line in (VECTORS / "tokenizer.jsonl").read_text().splitlines():
        case = json.loads(line)
        got = server.post("/tokenize", {"prompt": case["text"], "add_special_tokens": False})
        if case["ids"]:
            assert got.json()["tokens"] == case["ids"], case["text"]


def test_greedy_text(server):
    compared = 0
    for case in json.loads((VECTORS / "greedy.json").read_text()):
        sure = next((i for i, step in enumerate(case["steps"]) if step["gap"] < CLOSE), len(case["ids"]))
        body = {"prompt": case["prompt"], "max_tokens": len(case["ids"]), "temperature": 0, "logprobs": 0,
                "return_tokens_as_token_ids": True, "skip_special_tokens": False, "add_special_tokens": False}
        choice = server.post("/v1/completions", body).json()["choices"][0]
        ids = [int(name.split(":")[1]) for name in choice["logprobs"]["tokens"]]
        assert ids[:sure] == case["ids"][:sure]
        for i in range(sure):
            assert choice["logprobs"]["token_logprobs"][i] == pytest.approx(case["steps"][i]["top"][0][1], abs=2e-3)
        compared += sure
    print(f"{compared} tokens compared")
    assert compared >= 200


def test_a_chat_streams_a_story(server):
    body = {"messages": [{"role": "user", "content": "Tell me a story about a fox."}], "max_tokens": 60, "temperature": 0}
    whole = server.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    got = events(server.post("/v1/chat/completions", {**body, "stream": True}).text)[:-1]
    assert whole.startswith("Once upon a time") and "".join(e["choices"][0]["delta"].get("content", "") for e in got) == whole


def test_http_takes_little_of_the_cpu(server):
    """64 streams: at most a tenth of the process's CPU time goes to HTTP, JSON and long prompts."""
    def ask(i):
        body = {"prompt": f"Story {i}: Once upon a time", "max_tokens": 48, "seed": i, "stream": True, "ignore_eos": True}
        return server.post("/v1/completions", body).text.endswith("data: [DONE]\n\n")

    before = server.metrics()
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert all(pool.map(ask, range(128)))
    after = server.metrics()
    spent = {name: after[name] - before[name] for name in after if name.endswith("_cpu_seconds_total")}
    share = (spent["moed_http_cpu_seconds_total"] + spent["moed_text_cpu_seconds_total"]) / spent["process_cpu_seconds_total"]
    print(f"HTTP and text: {100 * share:.1f} % of {spent['process_cpu_seconds_total']:.2f} s")
    assert share <= 0.10
