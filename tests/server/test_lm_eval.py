"""The requests that lm-eval's local-completions model sends, and what it reads from the answers."""
import operator

PATH = "/v1/completions"


def loglikelihoods(server, batch, ctxlens, model="fake"):
    """Scores of the tokens after each context, as lm-eval works them out."""
    payload = {"model": model, "prompt": batch, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    reply = server.post(PATH, payload)
    assert reply.status_code == 200, reply.text
    scores = []
    for choice, ctxlen in zip(sorted(reply.json()["choices"], key=operator.itemgetter("index")), ctxlens):
        logprobs = choice["logprobs"]
        score = sum(logprobs["token_logprobs"][ctxlen:-1])
        tops = logprobs["top_logprobs"][ctxlen:-1]
        greedy = all(own == max(top.values()) for own, top in zip(logprobs["token_logprobs"][ctxlen:-1], tops))
        scores.append((score, greedy))
    return scores


def expected(tokens):
    """The fake engine's score: odd tokens are second best."""
    return sum(-0.25 - 0.125 * (t % 5) for t in tokens), all(t % 2 == 0 for t in tokens)


def test_loglikelihood_of_token_lists(fake):
    contexts = [[65, 66, 67], [70], [256, 80, 81, 82, 83]]
    continuations = [[68, 70], [72, 73, 74], [200, 202, 204]]
    batch = [c + t for c, t in zip(contexts, continuations)]
    got = loglikelihoods(fake, batch, [len(c) for c in contexts])
    for (score, greedy), tokens in zip(got, continuations):
        want, want_greedy = expected(tokens)
        assert abs(score - want) < 1e-5 and greedy == want_greedy


def test_loglikelihood_one_at_a_time(fake):
    assert loglikelihoods(fake, [[65, 66, 68]], [1]) == loglikelihoods(fake, [[65, 66, 68], [1, 2]], [1, 1])[:1]


def test_a_full_window(fake):
    """lm-eval cuts prompts to the context less the one new token."""
    tokens = [66] * 4095
    (score, greedy), = loglikelihoods(fake, [tokens], [1])
    assert greedy and abs(score - expected(tokens[1:])[0]) < 1e-2


def test_loglikelihood_without_new_tokens(fake):
    body = {"model": "fake", "prompt": [[65, 66], [67, 68]], "temperature": 0, "max_tokens": 0, "logprobs": 1, "echo": True}
    for choice in fake.post(PATH, body).json()["choices"]:
        assert len(choice["logprobs"]["token_logprobs"]) == 2


def test_generate_until(fake):
    body = {"prompt": ["Question: x\nAnswer:", "Question: y\nAnswer:"], "model": "fake", "max_tokens": 256, "temperature": 0,
            "stop": ["\n\n", " cold", "<|eos|>"], "seed": 1234}
    texts = [None] * 2
    for choice in fake.post(PATH, body).json()["choices"]:
        texts[choice["index"]] = choice["text"]
    assert texts == ["It was a bright"] * 2


def test_chat_generate_until(fake):
    body = {"messages": [{"role": "user", "content": "x"}], "model": "fake", "max_tokens": 256, "temperature": 0,
            "stop": [" cold", "<|eos|>"], "seed": 1234}
    reply = fake.post("/v1/chat/completions", body).json()
    assert reply["choices"][0]["message"]["content"] == "It was a bright"
