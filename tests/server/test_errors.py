"""Requests that are refused: the status, and an error that names the parameter and the value."""
import concurrent.futures
import signal
import time

import httpx
import pytest

from conftest import PATIENCE_S, raw_post

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]


def refused(server, path, body, status=400, param=None, words=()):
    reply = server.post(path, body)
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"error"}
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    for word in words:
        assert word in error["message"], error
    return error


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_tokens", -1), ("max_tokens", "ten"), ("max_tokens", 1.5), ("max_tokens", True), ("max_tokens", 1e30),
        ("temperature", -0.1), ("temperature", 101), ("temperature", "hot"), ("temperature", []),
        ("top_p", 0), ("top_p", 1.1), ("top_k", -2), ("min_p", 2), ("n", 0), ("n", 65), ("n", 1.2),
        ("presence_penalty", 3), ("frequency_penalty", -3), ("repetition_penalty", 0), ("seed", "x"),
        ("stop", 5), ("stop", ""), ("stop", [""]), ("stop", [1]), ("stop", ["a"] * 17), ("stop", ["x" * 513]),
        ("stop", ["a\u0000b"]), ("stop_token_ids", "x"), ("stop_token_ids", [-1]), ("stop_token_ids", [99999]),
        ("logit_bias", []), ("logit_bias", {"x": 1}), ("logit_bias", {"5": 101}), ("logit_bias", {"99999": 1}),
        ("logit_bias", {"5": "x"}), ("min_tokens", 17), ("min_tokens", -1), ("ignore_eos", 1), ("stream", "yes"),
        ("stream_options", True), ("timeout", 0), ("timeout", -1), ("cache_salt", 5), ("model", 5), ("prompt_logprobs", 21),
    ],
)
def test_values_out_of_range(fake, name, value):
    error = refused(fake, COMPLETIONS, {"prompt": "hi", name: value}, param=name)
    assert error["type"] == "invalid_request_error"


def test_messages_quote_the_value(fake):
    refused(fake, COMPLETIONS, {"prompt": "hi", "temperature": -0.5}, param="temperature", words=["-0.5", "between 0 and"])
    refused(fake, COMPLETIONS, {"prompt": "hi", "top_p": 1.1}, param="top_p", words=["not 1.1"])
    assert "1.1000" not in refused(fake, COMPLETIONS, {"prompt": "hi", "top_p": 1.1}, param="top_p")["message"]
    refused(fake, COMPLETIONS, {"prompt": "hi", "stream_options": {"include_usage": 3}},
            param="stream_options.include_usage", words=["3"])


@pytest.mark.parametrize(
    "name, value",
    [
        ("suffix", "end"), ("best_of", 3), ("use_beam_search", True), ("guided_json", {"a": 1}), ("length_penalty", 2),
        ("response_format", {"type": "json_object"}), ("bad_words", ["x"]), ("structured_outputs", {"regex": "a"}),
    ],
)
def test_what_completions_lack_is_refused_by_name(fake, name, value):
    error = refused(fake, COMPLETIONS, {"prompt": "hi", name: value}, param=name, words=[name])
    assert error["code"] == "unsupported_parameter"


@pytest.mark.parametrize(
    "name, value",
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]), ("tool_choice", "required"),
        ("response_format", {"type": "json_schema", "json_schema": {}}), ("functions", [{}]), ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]), ("echo", True), ("chat_template", "{{ x }}"),
    ],
)
def test_what_chats_lack_is_refused_by_name(fake, name, value):
    error = refused(fake, CHAT, {"messages": MESSAGES, name: value}, param=name, words=[name])
    assert error["code"] == "unsupported_parameter"


@pytest.mark.parametrize(
    "prompt, param",
    [
        (None, "prompt"), (5, "prompt"), ([], "prompt"), ({}, "prompt"), ([[]], "prompt"), ([1, "a"], "prompt[1]"),
        (["a", 1], "prompt[1]"), ([-1], "prompt[0]"), ([1, 99999], "prompt[1]"), ([[1], [1, 99999]], "prompt[1][1]"),
        ([[1], None], "prompt[1]"), (["a"] * 2049, "prompt"), ([True], "prompt"),
    ],
)
def test_prompts(fake, prompt, param):
    refused(fake, COMPLETIONS, {"prompt": prompt}, param=param)


@pytest.mark.parametrize(
    "messages, param",
    [
        (None, "messages"), ([], "messages"), ("hi", "messages"), (["hi"], "messages[0]"), ([{}], "messages[0].role"),
        ([{"role": 5, "content": "x"}], "messages[0].role"), ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([MESSAGES[0], {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
         "messages[1].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [5]}], "messages[0].content[0]"),
    ],
)
def test_messages(fake, messages, param):
    refused(fake, CHAT, {"messages": messages}, param=param)


def test_context_length(fake):
    error = refused(fake, COMPLETIONS, {"prompt": "x" * 10, "max_tokens": 5000}, param="max_tokens",
                    words=["4096", "5011", "11 in the prompt", "5000"])
    assert error["code"] == "context_length_exceeded"
    refused(fake, COMPLETIONS, {"prompt": "x" * 5000}, param="prompt", words=["4096", "5001"])
    refused(fake, CHAT, {"messages": [{"role": "user", "content": "x" * 20000}]}, param="messages", words=["4096"])
    refused(fake, CHAT, {"messages": MESSAGES, "max_completion_tokens": 4096}, param="max_completion_tokens")
    full = fake.post(COMPLETIONS, {"prompt": [65] * 4096, "max_tokens": 0, "echo": True, "logprobs": 1})
    assert full.status_code == 200 and len(full.json()["choices"][0]["logprobs"]["tokens"]) == 4096
    last = fake.post(COMPLETIONS, {"prompt": [65] * 4090})
    assert last.json()["usage"]["completion_tokens"] == 6


def test_rules_between_parameters(fake):
    refused(fake, COMPLETIONS, {"prompt": "x", "max_tokens": 0}, param="max_tokens")
    refused(fake, CHAT, {"messages": MESSAGES, "top_logprobs": 2}, param="top_logprobs")
    refused(fake, COMPLETIONS, {"prompt": "x", "stream": True, "prompt_logprobs": 1}, param="prompt_logprobs")
    refused(fake, COMPLETIONS, {"prompt": ["x"] * 2048, "n": 64}, param="n")
    refused(fake, "/tokenize", {"prompt": "x", "messages": MESSAGES}, param="prompt")
    refused(fake, "/tokenize", {}, param="prompt")
    refused(fake, "/detokenize", {}, param="tokens")


def test_unknown_model(fake):
    for path, body in ((COMPLETIONS, {"prompt": "x"}), (CHAT, {"messages": MESSAGES}), ("/tokenize", {"prompt": "x"})):
        error = refused(fake, path, {**body, "model": "gpt-9"}, status=404, param="model", words=["gpt-9"])
        assert error["code"] == "model_not_found"


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "empty"), (b"{", "JSON"), (b"nonsense", "JSON"), (b"[]", "object"), (b'"x"', "JSON"), (b"{}{}", "JSON"),
        (b'{"prompt":"a","prompt":"b"}', "duplicate"), (b'{"prompt":"\xff"}', "UTF-8"), (b'{"prompt":"\xed\xa0\x80"}', "UTF-8"),
        (b'{"prompt":"\\ud800"}', "JSON"), (b'{"x":' + b"[" * 100 + b"]" * 100 + b"}", "nests"),
        (b'{"x":' + b"[" * 100000, "nests"), (b'{"max_tokens":1' + b"0" * 400 + b"}", "JSON"),
        (b'{"x":[' + b"[]," * 250000 + b"[]]}", "more than"),
    ],
)
def test_bodies_that_are_no_request(fake, body, words):
    reply = httpx.post(fake.url + COMPLETIONS, content=body, headers={"content-type": "application/json"}, timeout=PATIENCE_S)
    assert reply.status_code == 400 and words in reply.json()["error"]["message"], reply.text


def test_zero_characters_in_text_are_text(fake):
    assert fake.post("/tokenize", {"prompt": "a\u0000b"}).json()["tokens"] == [256, 97, 0, 98]


def test_media_type(fake):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        headers = {"content-type": kind} if kind else {}
        reply = httpx.post(fake.url + COMPLETIONS, content=b'{"prompt":"x"}', headers=headers, timeout=PATIENCE_S)
        assert reply.status_code == 415 and reply.json()["error"]["code"] == "unsupported_media_type"
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"):
        reply = httpx.post(fake.url + COMPLETIONS, content=b'{"prompt":"x"}', headers={"content-type": kind}, timeout=PATIENCE_S)
        assert reply.status_code == 200


def test_content_encoding(fake):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    reply = httpx.post(fake.url + COMPLETIONS, content=b"x", headers=headers, timeout=PATIENCE_S)
    assert reply.status_code == 415 and reply.json()["error"]["code"] == "unsupported_content_encoding"


def test_unknown_paths_and_methods(fake):
    for path in ("/", "/v1", "/v1/embeddings", "/v1/models/", "/v1/completions/", "/V1/completions", "/%2e%2e"):
        reply = fake.get(path)
        assert reply.status_code == 404 and reply.json()["error"]["code"] in ("not_found", "model_not_found"), path
    reply = fake.get(COMPLETIONS)
    assert reply.status_code == 405 and reply.headers["allow"] == "POST, OPTIONS"
    reply = httpx.delete(fake.url + "/v1/models")
    assert reply.status_code == 405 and reply.headers["allow"] == "GET, HEAD, OPTIONS"
    assert reply.json()["error"]["code"] == "method_not_allowed"
    reply = fake.get("/v1/models/%zz")
    assert reply.status_code == 400


def test_faults_of_the_engine(fake):
    error = refused(fake, COMPLETIONS, {"prompt": "@fail_at=3"}, status=500)
    assert error["type"] == "server_error" and error["code"] == "internal_error"


def test_a_fault_ends_a_stream_with_an_error_and_no_done(fake):
    text = fake.post(COMPLETIONS, {"prompt": "@fail_at=3", "stream": True}).text
    blocks = [b for b in text.split("\n\n") if b]
    assert len(blocks) == 4 and blocks[-1].startswith('data: {"error":{"message":"a fault was asked for"')
    assert "[DONE]" not in text


def test_a_fault_before_the_first_token_has_its_status(fake):
    reply = fake.post(COMPLETIONS, {"prompt": "@fail_at=0", "stream": True})
    assert reply.status_code == 500 and reply.json()["error"]["code"] == "internal_error"


def test_one_bad_prompt_fails_the_request(fake):
    refused(fake, COMPLETIONS, {"prompt": ["a", "@fail_at=1", "b"], "max_tokens": 200}, status=500)
    fake.wait_metric("moed_sequences_running", 0)


def test_a_failed_device_is_told_to_the_supervisor(start):
    server = start()
    error = refused(server, COMPLETIONS, {"prompt": "@device_error"}, status=500)
    assert error["code"] == "device_error"
    assert server.get("/health").status_code == 503 and server.get("/health").json()["status"] == "failed"
    assert server.post(COMPLETIONS, {"prompt": "x"}).status_code == 500


def test_deadlines(start):
    server = start("--request-timeout", 0.3)
    refused(server, COMPLETIONS, {"prompt": "@slow=100", "max_tokens": 100}, status=504)
    refused(server, COMPLETIONS, {"prompt": "@slow=100", "max_tokens": 100, "timeout": 0.1}, status=504)
    text = server.post(COMPLETIONS, {"prompt": "@slow=100", "max_tokens": 100, "stream": True, "timeout": 60}).text
    assert '"code":"deadline_exceeded"' in text and "[DONE]" not in text
    server.wait_metric("moed_sequences_running", 0)


def test_before_the_model_is_loaded(start):
    server = start("--load", 10 * PATIENCE_S, ready=False)  # or until a signal
    reply = server.get("/health")
    assert reply.status_code == 503 and reply.json()["status"] == "loading"
    error = refused(server, COMPLETIONS, {"prompt": "x"}, status=503)
    assert error["code"] == "model_loading"
    assert server.get("/v1/models").status_code == 503
    assert server.get("/metrics").status_code == 200 and server.get("/version").status_code == 200
    server.signal(signal.SIGHUP)
    server.wait_ready()
    assert server.post(COMPLETIONS, {"prompt": "x"}).status_code == 200


def test_api_keys(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# people\nalpha\n\n  beta  # a comment\n")
    server = start("--api-key", "gamma", "--api-key-file", keys)

    def status(key, path="/v1/models"):
        headers = {"authorization": key} if key else {}
        return httpx.get(server.url + path, headers=headers, timeout=PATIENCE_S)

    for key in ("Bearer alpha", "bearer beta", "Bearer gamma"):
        assert status(key).status_code == 200
    for key in (None, "Bearer", "Bearer  x", "Bearer alph", "Bearer alphaa", "Basic alpha", "alpha", "Bearer #"):
        reply = status(key)
        assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer", key
        assert reply.json()["error"]["code"] == "invalid_api_key"
    assert server.post(COMPLETIONS, {"prompt": "x"}).status_code == 401
    assert server.post("/tokenize", {"prompt": "x"}).status_code == 401
    for path in ("/health", "/version", "/metrics", "/ping"):
        assert server.get(path).status_code == 200
    keys.write_text("delta\n")
    server.signal(signal.SIGHUP)
    end = time.monotonic() + PATIENCE_S
    while status("Bearer delta").status_code != 200:
        assert time.monotonic() < end
    assert status("Bearer alpha").status_code == 401 and status("Bearer gamma").status_code == 200
    keys.unlink()
    server.signal(signal.SIGHUP)
    time.sleep(0.2)
    assert status("Bearer delta").status_code == 200


def test_a_full_queue(start):
    server = start("--max-num-seqs", 1, "--max-queue", 2)
    running = server.connect()
    running.sendall(raw_post(COMPLETIONS, {"prompt": "@slow=100", "max_tokens": 4000, "stream": True}))
    server.wait_metric("moed_sequences_running", 1)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(server.post, COMPLETIONS, {"prompt": "x", "max_tokens": 2}) for _ in range(2)]
        server.wait_metric("moed_requests_waiting", 2)
        full = server.post(COMPLETIONS, {"prompt": "x", "max_tokens": 2})
        running.close()
        assert [w.result().status_code for w in waiting] == [200, 200]
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) >= 1
    assert full.json()["error"]["code"] == "queue_full" and full.json()["error"]["type"] == "rate_limit_error"
    assert server.post(COMPLETIONS, {"prompt": "x"}).status_code == 200


def test_a_batch_of_prompts_waits_for_the_queue(start):
    server = start("--max-num-seqs", 2, "--max-queue", 1)
    out = server.post(COMPLETIONS, {"prompt": ["a"] * 20, "max_tokens": 3}).json()
    assert len(out["choices"]) == 20 and out["usage"]["completion_tokens"] == 60
