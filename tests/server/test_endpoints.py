"""What each endpoint answers, field by field; the fake engine's text is known."""
import json

import pytest

from conftest import events

TEXT = (
    "It was a bright cold day in April \u2014 and the clocks were striking thirteen. "
    "Na\u00efve caf\u00e9s \U0001f642 opened late; \"quotes\" and \\slashes\\ were free.\n"
)


def complete(server, **body):
    body.setdefault("prompt", "hi")
    body.setdefault("temperature", 0)
    reply = server.post("/v1/completions", body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def chat(server, content="hi", **body):
    body.setdefault("messages", [{"role": "user", "content": content}])
    body.setdefault("temperature", 0)
    reply = server.post("/v1/chat/completions", body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def text_of(n_bytes):
    return TEXT.encode()[:n_bytes].decode(errors="replace")


def test_completion(fake):
    out = complete(fake, max_tokens=10)
    assert out["object"] == "text_completion" and out["model"] == "fake" and out["id"].startswith("cmpl-")
    assert out["choices"] == [
        {"index": 0, "text": TEXT[:10], "logprobs": None, "finish_reason": "length", "stop_reason": None}
    ]
    assert out["usage"] == {
        "prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_completion_takes_16_tokens_by_default(fake):
    assert complete(fake)["choices"][0]["text"] == TEXT[:16]


def test_text_is_whole_characters(fake):
    whole = complete(fake, max_tokens=120)["choices"][0]["text"]
    assert whole == text_of(120)
    cut = TEXT.encode().index("\u2014".encode()) + 1
    assert complete(fake, max_tokens=cut)["choices"][0]["text"] == text_of(cut)


def test_prompts_in_all_shapes(fake):
    ids = [256, *b"hi"]
    for prompt, n in (("hi", 1), (["hi"], 1), (["hi", "ho"], 2), (ids, 1), ([ids, ids, ids], 3), (["hi", ids], 2)):
        out = complete(fake, prompt=prompt, max_tokens=4)
        assert [c["index"] for c in out["choices"]] == list(range(n))
        assert all(c["text"] == TEXT[:4] for c in out["choices"])
        assert out["usage"]["prompt_tokens"] == 3 * n and out["usage"]["completion_tokens"] == 4 * n


def test_n_choices_and_seed(fake):
    out = complete(fake, prompt=["a", "b"], n=3, max_tokens=5, temperature=1, seed=7)
    assert [c["index"] for c in out["choices"]] == [0, 1, 2, 3, 4, 5]
    assert [c["text"] for c in out["choices"]] == [TEXT[i:i + 5] for i in (7, 8, 9)] * 2


def test_more_prompts_than_the_batch_holds(fake):
    prompts = [f"prompt {i}" for i in range(300)]
    out = complete(fake, prompt=prompts, max_tokens=2)
    assert [c["index"] for c in out["choices"]] == list(range(300))
    assert out["usage"]["completion_tokens"] == 600


def test_logprobs_of_a_completion(fake):
    out = complete(fake, max_tokens=6, logprobs=3)["choices"][0]["logprobs"]
    assert out["tokens"] == list(TEXT[:6]) and out["text_offset"] == [0, 1, 2, 3, 4, 5]
    for token, logprob, top in zip(out["tokens"], out["token_logprobs"], out["top_logprobs"]):
        assert len(top) == 3 and top[token] == logprob == pytest.approx(-0.25 - 0.125 * (ord(token) % 5))


def test_logprobs_zero_shows_the_chosen_token_only(fake):
    out = complete(fake, max_tokens=2, logprobs=0)["choices"][0]["logprobs"]
    assert len(out["tokens"]) == 2 and out["top_logprobs"] == [None, None]


def test_the_chosen_token_is_always_among_the_alternatives(fake):
    out = complete(fake, max_tokens=20, logprobs=1)["choices"][0]["logprobs"]
    for token, top in zip(out["tokens"], out["top_logprobs"]):
        assert token in top and len(top) == 1 + ord(token) % 2


def test_tokens_as_ids(fake):
    out = complete(fake, max_tokens=2, logprobs=0, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]
    assert out["tokens"] == [f"token_id:{ord(c)}" for c in TEXT[:2]]


def test_bytes_that_are_no_text_have_names_of_their_own(fake):
    dash = TEXT.encode().index("\u2014".encode())
    out = complete(fake, max_tokens=dash + 3, logprobs=2)["choices"][0]["logprobs"]
    assert out["tokens"][-3:] == ["bytes:\\xe2", "bytes:\\x80", "bytes:\\x94"]
    assert out["text_offset"][-3:] == [dash, dash + 1, dash + 1]


def test_echo(fake):
    out = complete(fake, prompt="Say: ", echo=True, max_tokens=3)["choices"][0]
    assert out["text"] == "Say: " + TEXT[:3] and out["logprobs"] is None
    out = complete(fake, prompt=[256, *b"Say: "], echo=True, max_tokens=3)["choices"][0]
    assert out["text"] == "<|bos|>Say: " + TEXT[:3]


def test_offsets_are_places_in_the_text(fake):
    for prompt in ("Say: ", [256, *b"Say: "], "<|user|>caf\u00e9 "):
        choice = complete(fake, prompt=prompt, echo=True, max_tokens=30, logprobs=0)["choices"][0]
        logprobs, text = choice["logprobs"], choice["text"]
        for token, offset in zip(logprobs["tokens"], logprobs["text_offset"]):
            if not token.startswith("bytes:") and not (token == "<|bos|>" and not text.startswith(token)):
                assert text[offset:].startswith(token)


def test_a_long_prompt_with_logprobs_streams_in_one_piece(start):
    server = start("--max-model-len", 30000, "--max-output", 4096)
    got = stream(server, "/v1/completions", {"prompt": "x" * 20000, "echo": True, "logprobs": 5, "max_tokens": 50})
    assert len(got[0]["choices"][0]["logprobs"]["tokens"]) == 20001
    assert sum(len((e["choices"][0]["logprobs"] or {"tokens": []})["tokens"]) for e in got) == 20051


def test_echo_with_no_new_tokens(fake):
    out = complete(fake, prompt=["ab", "cd"], echo=True, max_tokens=0)
    assert [c["text"] for c in out["choices"]] == ["ab", "cd"]
    assert [c["finish_reason"] for c in out["choices"]] == ["length", "length"]
    assert out["usage"]["completion_tokens"] == 0 and out["usage"]["prompt_tokens"] == 6


def test_echo_with_logprobs(fake):
    for new in (0, 2):
        out = complete(fake, prompt=[[256, 65, 66], [67, 68, 69]], echo=True, max_tokens=new, logprobs=1)
        for choice, prompt in zip(out["choices"], (["<|bos|>", "A", "B"], ["C", "D", "E"])):
            logprobs = choice["logprobs"]
            assert logprobs["tokens"] == prompt + list(TEXT[:new])
            assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
            assert all(value < 0 for value in logprobs["token_logprobs"][1:])
            assert choice["text"] == "".join(prompt) + TEXT[:new]


def test_prompt_logprobs(fake):
    out = complete(fake, prompt=[65, 66, 67], max_tokens=1, prompt_logprobs=2)["choices"][0]["prompt_logprobs"]
    assert out[0] is None
    assert out[1]["66"] == {"logprob": pytest.approx(-0.25 - 0.125 * (66 % 5)), "rank": 1, "decoded_token": "B"}
    assert len(out[1]) == 2 and out[2]["67"]["rank"] == 2
    out = chat(fake, max_tokens=1, prompt_logprobs=0)
    assert out["prompt_logprobs"][0] is None and len(out["prompt_logprobs"]) == out["usage"]["prompt_tokens"]


def test_stop_strings(fake):
    out = complete(fake, max_tokens=50, stop=["zzz", " cold"])["choices"][0]
    assert out["text"] == "It was a bright" and out["finish_reason"] == "stop" and out["stop_reason"] == " cold"
    out = complete(fake, max_tokens=50, stop=" cold", include_stop_str_in_output=True)["choices"][0]
    assert out["text"] == "It was a bright cold"
    out = complete(fake, max_tokens=50, stop_token_ids=[ord("w")])["choices"][0]
    assert out["finish_reason"] == "stop" and out["stop_reason"] == ord("w")


def test_chat(fake):
    out = chat(fake, max_tokens=8)
    assert out["object"] == "chat.completion" and out["id"].startswith("chatcmpl-")
    assert out["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": TEXT[:8], "refusal": None}, "logprobs": None,
         "finish_reason": "length", "stop_reason": None}
    ]
    assert out["usage"]["prompt_tokens"] == len("hi") + 4


def test_chat_takes_the_rest_of_the_context_by_default(start):
    out = chat(start("--max-model-len", 64, "--step-us", 10))
    assert out["usage"]["total_tokens"] == 64 and out["choices"][0]["finish_reason"] == "length"


def test_chat_content_parts(fake):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    rendered = fake.post("/apply-template", {"messages": [{"role": "user", "content": parts}]}).json()
    assert rendered == {"prompt": "<|bos|><|user|>a\nb<|eos|><|assistant|>"}


def test_developer_is_system(fake):
    rendered = fake.post("/apply-template", {"messages": [{"role": "developer", "content": "x"}]}).json()
    assert rendered["prompt"].startswith("<|bos|><|system|>x")


def test_continue_final_message(fake):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendered = fake.post("/apply-template", {"messages": messages, "continue_final_message": True}).json()
    assert rendered["prompt"] == "<|bos|><|user|>a<|eos|><|assistant|>b"
    body = {"messages": messages, "continue_final_message": True, "add_generation_prompt": True}
    assert fake.post("/apply-template", body).status_code == 400


def test_chat_logprobs(fake):
    out = chat(fake, max_tokens=3, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]
    assert [entry["token"] for entry in out["content"]] == list(TEXT[:3])
    for entry in out["content"]:
        assert entry["bytes"] == list(entry["token"].encode()) and len(entry["top_logprobs"]) == 2
        assert {"token", "logprob", "bytes"} == set(entry["top_logprobs"][0])
    out = chat(fake, max_tokens=3, logprobs=True)["choices"][0]["logprobs"]
    assert out["content"][0]["top_logprobs"] == []


def stream(server, path, body):
    reply = server.post(path, {**body, "stream": True, "temperature": 0})
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream")
    found = events(reply.text)
    assert found[-1] == "[DONE]"
    return found[:-1]


def test_stream_of_a_completion(fake):
    got = stream(fake, "/v1/completions", {"prompt": "hi", "max_tokens": 50, "n": 2})
    assert len({event["id"] for event in got}) == 1
    for index in (0, 1):
        choices = [e["choices"][0] for e in got if e["choices"][0]["index"] == index]
        assert "".join(c["text"] for c in choices) == text_of(50)
        assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["length"]


def test_stream_of_a_chat(fake):
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "stream_options": {"include_usage": True}}
    got = stream(fake, "/v1/chat/completions", body)
    assert got[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(event["usage"] is None for event in got[:-1])
    assert got[-1]["choices"] == [] and got[-1]["usage"]["completion_tokens"] == 40
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in got[:-1]) == text_of(40)
    assert got[-2]["choices"][0]["finish_reason"] == "length"


def test_stream_with_logprobs_and_echo(fake):
    got = stream(fake, "/v1/completions", {"prompt": "hi", "max_tokens": 40, "echo": True, "logprobs": 1})
    assert "".join(e["choices"][0]["text"] for e in got) == "hi" + text_of(40)
    tokens = [t for e in got for t in (e["choices"][0]["logprobs"] or {"tokens": []})["tokens"]]
    whole = complete(fake, max_tokens=40, echo=True, logprobs=1)["choices"][0]["logprobs"]
    assert tokens == whole["tokens"]
    assert [o for e in got for o in (e["choices"][0]["logprobs"] or {"text_offset": []})["text_offset"]] == whole["text_offset"]


def test_stream_of_an_echo_alone(fake):
    got = stream(fake, "/v1/completions", {"prompt": "hi", "max_tokens": 0, "echo": True})
    assert "".join(e["choices"][0]["text"] for e in got) == "hi"
    assert got[-1]["choices"][0]["finish_reason"] == "length"


def test_usage_in_every_event(fake):
    options = {"include_usage": True, "continuous_usage_stats": True}
    got = stream(fake, "/v1/completions", {"prompt": "hi", "max_tokens": 4, "stream_options": options})
    counts = [event["usage"]["completion_tokens"] for event in got]
    assert counts == sorted(counts) and counts[-1] == 4


def test_models(fake):
    listed = fake.get("/v1/models").json()
    assert listed["object"] == "list" and [m["id"] for m in listed["data"]] == ["fake", "org/fake-alias"]
    assert listed["data"][0]["object"] == "model" and listed["data"][0]["max_model_len"] == 4096
    assert fake.get("/v1/models/fake").json()["id"] == "fake"
    assert fake.get("/v1/models/org/fake-alias").json()["id"] == "org/fake-alias"
    assert fake.get("/v1/models/org%2Ffake-alias").json()["id"] == "org/fake-alias"
    missing = fake.get("/v1/models/nope")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_served_names(fake):
    assert complete(fake, model="org/fake-alias", max_tokens=1)["model"] == "org/fake-alias"
    assert complete(fake, model=None, max_tokens=1)["model"] == "fake"


def test_tokenize(fake):
    out = fake.post("/tokenize", {"prompt": "h\u00e9"}).json()
    assert out == {"count": 4, "max_model_len": 4096, "tokens": [256, 104, 0xC3, 0xA9], "token_strs": None}
    out = fake.post("/tokenize", {"model": "fake", "prompt": "h ", "add_special_tokens": False, "return_token_strs": True})
    assert out.json()["tokens"] == [104, 32] and out.json()["token_strs"] == ["h", "\u0120"]
    assert fake.post("/tokenize", {"prompt": ""}).json()["tokens"] == [256]
    out = fake.post("/tokenize", {"messages": [{"role": "user", "content": "x"}]}).json()
    assert out["tokens"] == [256, 258, ord("x"), 257, 259]
    body = {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": False}
    assert fake.post("/tokenize", body).json()["tokens"] == [256, 258, ord("x"), 257]


def test_detokenize(fake):
    assert fake.post("/detokenize", {"tokens": [256, 104, 0xC3, 0xA9]}).json() == {"prompt": "<|bos|>h\u00e9"}
    assert fake.post("/detokenize", {"tokens": []}).json() == {"prompt": ""}
    bad = fake.post("/detokenize", {"tokens": [1, 99999]})
    assert bad.status_code == 400 and bad.json()["error"]["param"] == "tokens[1]"


def test_long_prompts_go_through_the_worker(fake):
    text = "lorem ipsum " * 5000
    out = fake.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()
    assert out["count"] == len(text) and bytes(out["tokens"]).decode() == text
    assert fake.post("/detokenize", {"tokens": out["tokens"]}).json()["prompt"] == text


def test_health_version_ping(fake):
    assert fake.get("/health").json() == {"status": "ok"}
    assert set(fake.get("/version").json()) == {"version"}
    assert fake.get("/ping").status_code == 200


def test_metrics(fake):
    complete(fake, max_tokens=5)
    text = fake.get("/metrics").text
    types = {}
    seen = set()
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split()
            assert name not in types, f"{name} stands twice"
            types[name] = kind
        elif not line.startswith("#"):
            name = line.split("{")[0].split(" ")[0]
            base = name
            for suffix in ("_bucket", "_sum", "_count"):
                if name.endswith(suffix) and types.get(name[: -len(suffix)]) == "histogram":
                    base = name[: -len(suffix)]
            assert base in types, f"{name} has no type"
            seen.add(base)
            float(line.rsplit(" ", 1)[1])
    assert seen == set(types)
    values = fake.metrics()
    assert values["moed_generated_tokens_total"] >= 5
    assert values["moed_pager_hits_total"] == 30 and values['moed_pager_layer_misses_total{layer="2"}'] == 3
    count = values["moed_time_to_first_token_seconds_count"]
    assert count > 0 and values['moed_time_to_first_token_seconds_bucket{le="+Inf"}'] == count


def test_null_means_absent(fake):
    names = ("max_tokens", "temperature", "top_p", "n", "stop", "logprobs", "echo", "stream", "suffix", "best_of", "seed",
             "logit_bias", "stream_options", "user", "tools", "response_format")
    assert complete(fake, **{name: None for name in names})["choices"][0]["text"]


def test_harmless_values_are_taken(fake):
    complete(fake, suffix="", best_of=1, user="me", store=False, metadata={"a": "b"}, service_tier="auto",
             response_format={"type": "text"}, unknown_parameter=[1, 2], max_tokens=3.0)
    chat(fake, tools=[], tool_choice="none", modalities=["text"], parallel_tool_calls=True, max_tokens=1)


def test_json_is_plain_text(fake):
    """Quotes, backslashes and control characters survive."""
    raw = fake.post("/v1/completions", {"prompt": "hi", "max_tokens": len(TEXT.encode()), "temperature": 0}).content
    assert json.loads(raw)["choices"][0]["text"] == TEXT
