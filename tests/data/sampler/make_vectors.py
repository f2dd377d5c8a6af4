"""Makes vectors.json: sampling in plain double precision, written from the rules alone.

Run it without arguments in this folder. Cases in which a number lies so near a threshold that single precision
could decide otherwise are left out.
"""
import json
import math
import random
import struct

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
MASK = 0xFFFFFFFF


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = M0 * c[0], M1 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + W0) & MASK, (k[1] + W1) & MASK]
    return c


def uniform(seed, choice, position):
    r = philox([position & MASK, position >> 32, choice, 0], [seed & MASK, seed >> 32])
    return ((r[0] >> 5) * 67108864 + (r[1] >> 6)) / 2**53


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


class Near(Exception):
    pass


def apart(a, b, by=1e-4):
    if a != b and abs(a - b) < by:
        raise Near


def sample(case):
    logits = list(case["logits"])
    n = len(logits)
    prompt, generated = case["prompt"], case["generated"]
    for t in set(prompt) | set(generated):
        r = case["repetition_penalty"]
        logits[t] = logits[t] / r if logits[t] > 0 else logits[t] * r
    for t in set(generated):
        logits[t] -= case["frequency_penalty"] * generated.count(t) + case["presence_penalty"]
    for t, b in case["bias"]:
        logits[t] += b
    for t in case["mask"]:
        logits[t] = -math.inf
    order = sorted(range(n), key=lambda i: (-logits[i], i))
    for a, b in zip(order, order[1:]):
        apart(logits[a], logits[b], 1e-5)
    if case["temperature"] == 0:
        return order[0]
    top = logits[order[0]]
    weight = [math.exp((x - top) / case["temperature"]) for x in logits]
    kept = []
    for i in order:
        apart(weight[i], case["min_p"])
        if weight[i] >= case["min_p"] and weight[i] > 0:
            kept.append(i)
    if case["top_k"] > 0:
        kept = kept[: case["top_k"]]
    if case["top_p"] < 1:
        total, mass, best = sum(weight[i] for i in kept), 0.0, []
        for i in kept:
            if mass >= case["top_p"] * total:
                break
            best.append(i)
            mass += weight[i]
            apart(mass / total, case["top_p"])
        kept = best
    total, mass = sum(weight[i] for i in kept), 0.0
    u = uniform(case["seed"], case["choice"], case["position"])
    for i in sorted(kept):
        mass += weight[i]
        apart(mass / total, u)
        if mass > u * total:
            return i
    raise Near


def logprobs(case, token):
    logits = case["logits"]
    top = max(logits)
    log_sum = top + math.log(sum(math.exp(x - top) for x in logits))
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    return {
        "logprob": logits[token] - log_sum,
        "rank": order.index(token) + 1,
        "top": [[i, logits[i] - log_sum] for i in order[:5]],
    }


def make(rng):
    n = rng.choice([2, 7, 30])
    spread = rng.choice([0.5, 2, 6])
    case = {
        "logits": [f32(round(rng.gauss(0, spread) * 64) / 64) for _ in range(n)],
        "prompt": [rng.randrange(n) for _ in range(rng.choice([0, 3, 10]))],
        "generated": [rng.randrange(n) for _ in range(rng.choice([0, 3, 10]))],
        "bias": [[t, f32(round(rng.uniform(-5, 5), 2))] for t in rng.sample(range(n), rng.choice([0, 0, 1, 2]))],
        "mask": rng.sample(range(n), rng.choice([0, 0, 1])),
        "temperature": f32(rng.choice([0, 0.3, 0.7, 1, 1, 1.5])),
        "top_k": rng.choice([0, 0, -1, 1, 3, 20, 1000]),
        "top_p": f32(rng.choice([1, 1, 0.9, 0.5, 0.1])),
        "min_p": f32(rng.choice([0, 0, 0.05, 0.3])),
        "presence_penalty": f32(rng.choice([0, 0, 0.5, -1])),
        "frequency_penalty": f32(rng.choice([0, 0, 0.5, -0.25])),
        "repetition_penalty": f32(rng.choice([1, 1, 1.3, 0.8])),
        "seed": rng.getrandbits(63),
        "choice": rng.randrange(4),
        "position": rng.randrange(5000),
    }
    token = sample(case)
    return case | {"token": token} | logprobs(case, token)


def main():
    rng, cases = random.Random(7), []
    while len(cases) < 120:
        try:
            cases.append(make(rng))
        except Near:
            pass
    with open("vectors.json", "w", encoding="ascii") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


main()
