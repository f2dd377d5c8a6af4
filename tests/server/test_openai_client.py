"""The official Python client, as its users use it."""
import concurrent.futures

import httpx
import openai
import pytest

from test_endpoints import TEXT, text_of

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me something."}]


def client_of(server, **kwargs):
    kwargs.setdefault("api_key", "none")
    kwargs.setdefault("max_retries", 0)
    return openai.OpenAI(base_url=server.url + "/v1", **kwargs)


@pytest.fixture
def client(fake):
    with client_of(fake) as opened:
        yield opened


def test_completions(client):
    out = client.completions.create(model="fake", prompt="hi", max_tokens=12, temperature=0)
    assert out.choices[0].text == TEXT[:12] and out.choices[0].finish_reason == "length"
    assert out.usage.completion_tokens == 12 and out.usage.prompt_tokens_details.cached_tokens == 0
    assert out._request_id.startswith("req-")


def test_completions_with_logprobs(client):
    out = client.completions.create(model="fake", prompt=["a", "b"], max_tokens=3, temperature=0, logprobs=2, echo=True, n=2)
    assert len(out.choices) == 4
    assert out.choices[0].logprobs.tokens == ["<|bos|>", "a", *TEXT[:3]]
    assert out.choices[3].logprobs.token_logprobs[0] is None


def test_streamed_completions(client):
    text = ""
    for part in client.completions.create(model="fake", prompt="hi", max_tokens=30, temperature=0, stream=True):
        text += part.choices[0].text
    assert text == TEXT[:30]


def test_chat(client):
    out = client.chat.completions.create(
        model="fake", messages=MESSAGES, max_completion_tokens=9, temperature=0, logprobs=True, top_logprobs=3, n=2, seed=1,
        extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "chat_template_kwargs": {"mood": "calm"}},
    )
    assert [c.message.content for c in out.choices] == [TEXT[:9]] * 2
    assert out.choices[0].message.role == "assistant"
    assert len(out.choices[0].logprobs.content[0].top_logprobs) == 3


def test_streamed_chat(client):
    stream = client.chat.completions.create(
        model="fake", messages=MESSAGES, max_tokens=100, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    text, usage, finish = "", None, None
    for part in stream:
        usage = part.usage or usage
        for choice in part.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == text_of(100) and usage.completion_tokens == 100 and finish == "length"


def test_the_stream_helper(client):
    messages = [{"role": "user", "content": "@stop_at=20"}]
    with client.chat.completions.stream(model="fake", messages=messages, temperature=0) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == TEXT[:20]


def test_models(client):
    assert [m.id for m in client.models.list()] == ["fake", "org/fake-alias"]
    assert client.models.retrieve("fake").id == "fake"


def test_errors(client, fake, start):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="fake", prompt="hi", temperature=-1)
    assert caught.value.param == "temperature" and caught.value.code == "invalid_value"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nope", prompt="hi")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="fake", input="hi")
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model="fake", prompt="@fail_at=1")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="fake", messages=MESSAGES, response_format={"type": "json_object"})
    assert caught.value.param == "response_format"
    guarded = start("--api-key", "secret")
    with pytest.raises(openai.AuthenticationError):
        client_of(guarded, api_key="wrong").models.list()
    assert client_of(guarded, api_key="secret").models.list().data


def test_an_error_inside_a_stream(client):
    seen = []
    with pytest.raises(openai.APIError, match="a fault was asked for"):
        for part in client.completions.create(model="fake", prompt="@fail_at=4", stream=True):
            seen.append(part)
    assert len(seen) == 4


def test_a_client_that_gives_up(client, fake):
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).completions.create(model="fake", prompt="@slow=100", max_tokens=1000)
    fake.wait_metric("moed_sequences_running", 0)


def test_a_retry_after_a_full_queue(start):
    server = start("--max-num-seqs", 1, "--max-queue", 1)

    def ask(_):
        with client_of(server, max_retries=20) as retrying:
            return retrying.completions.create(model="fake", prompt="@slow=2", max_tokens=20).usage.completion_tokens

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [20] * 6


def test_64_streams_at_once(fake):
    def stream(i):
        with client_of(fake, http_client=httpx.Client()) as own:
            parts = own.chat.completions.create(
                model="fake", messages=[{"role": "user", "content": f"number {i}"}], max_tokens=150, temperature=1, seed=i,
                stream=True,
            )
            return "".join(p.choices[0].delta.content or "" for p in parts)

    alone = [stream(i) for i in (0, 63)]
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        texts = list(pool.map(stream, range(64)))
    assert texts[0] == alone[0] and texts[63] == alone[1]
    assert len({len(t) for t in texts}) <= 8 and all(texts)
