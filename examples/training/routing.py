"""What a routing trace says: skew, reuse, drift, and what a cache of a quarter of the experts would hit.

A trace is a list of sequences; a sequence is an array [tokens, layers, top_k] of expert ids.
"""

import collections
import struct

import numpy

MAGIC = b"moed routing trace 1\n"

# Published fits of real routing: (experts, top-k, sg, ss, sf, tau, tokens in a conversation) of the score
# model score_e(t) = g_e + s_e(conversation) + f_e(t) + n_e(t), and hit % of LRU, decayed frequency, Belady.
PUBLISHED = {
    "Qwen3-30B-A3B": ((128, 8, 0.25, 1.66, 1.19, 2.6, 900), (81, 82, 91)),
    "gpt-oss-120b": ((128, 4, 0.58, 0.94, 0.78, 8.0, 900), (80, 82, 90)),
    "OLMoE": ((64, 8, 1.16, 1.25, 1.86, 1.9, 900), (65, 66, 80)),
    "DeepSeek-V2-Lite": ((64, 6, 0.11, 0.45, 0.70, 4.0, 650), (47, 48, 70)),
    "Qwen1.5-MoE": ((60, 4, 0.12, 0.29, 0.43, 7.8, 700), (40, 43, 67)),
}


def write(path, sequences, prompt_lengths, experts):
    """Header, then for each sequence two u32 (prompt tokens, tokens) and a byte for each id; little-endian."""
    _, layers, top_k = sequences[0].shape
    with open(path, "wb") as out:
        out.write(MAGIC + struct.pack("<4I", layers, experts, top_k, len(sequences)))
        for ids, prompt in zip(sequences, prompt_lengths):
            out.write(struct.pack("<2I", prompt, len(ids)) + ids.astype(numpy.uint8).tobytes())


def read(path):
    data = open(path, "rb").read()
    assert data.startswith(MAGIC)
    layers, experts, top_k, count = struct.unpack_from("<4I", data, len(MAGIC))
    at, sequences = len(MAGIC) + 16, []
    for _ in range(count):
        _, tokens = struct.unpack_from("<2I", data, at)
        size = tokens * layers * top_k
        ids = numpy.frombuffer(data, numpy.uint8, size, at + 8).reshape(tokens, layers, top_k)
        sequences.append(ids)
        at += 8 + size
    assert at == len(data)
    return sequences, experts


def synthetic(fit, sequences, layers, seed):
    """Routing drawn from a published fit, in the shape of a trace."""
    experts, top_k, sg, ss, sf, tau, length = fit
    rng = numpy.random.default_rng(seed)
    keep = numpy.exp(-1 / tau)
    base = rng.normal(0, sg, (layers, experts))
    out = []
    for _ in range(sequences):
        score = base + rng.normal(0, ss, (layers, experts))
        drift = rng.normal(0, sf, (layers, experts))
        ids = numpy.empty((length, layers, top_k), numpy.uint8)
        for t in range(length):
            drift = keep * drift + rng.normal(0, sf * (1 - keep**2) ** 0.5, (layers, experts))
            ids[t] = numpy.argsort(-(score + drift + rng.normal(0, 1, (layers, experts))), axis=1)[:, :top_k]
        out.append(ids)
    return out


def loads(sequences, experts):
    """Share of activations of each expert, [layers, experts]; each layer adds to one."""
    layers = sequences[0].shape[1]
    counts = numpy.zeros((layers, experts))
    for ids in sequences:
        for layer in range(layers):
            counts[layer] += numpy.bincount(ids[:, layer].ravel(), minlength=experts)
    return counts / counts.sum(1, keepdims=True)


def shape(sequences, experts):
    """Skew, reuse and drift of a trace, means over the layers.

    skew: share of activations that go to the busiest quarter of the experts (an even router: 25 %).
    reuse: part of a token's experts that the next token uses too; in brackets what chance would give.
    drift: distance (half of the L1 distance of the shares) between the two halves of a sequence,
    and between a sequence and the whole trace.
    """
    top_k = sequences[0].shape[2]
    share = loads(sequences, experts)
    quarter = numpy.sort(share, axis=1)[:, ::-1][:, : experts // 4].sum(1).mean()
    overlap = [(ids[:-1, :, :, None] == ids[1:, :, None, :]).sum((2, 3)).mean() / top_k for ids in sequences]
    within, between = [], []
    for ids in sequences:
        half = len(ids) // 2
        first, second = loads([ids[:half]], experts), loads([ids[half:]], experts)
        within.append(numpy.abs(first - second).sum(1).mean() / 2)
        between.append(numpy.abs(loads([ids], experts) - share).sum(1).mean() / 2)
    return {
        "skew": quarter,
        "least": share.min() * experts,
        "most": share.max() * experts,
        "reuse": float(numpy.mean(overlap)),
        "chance": (share**2).sum(1).mean() * top_k,
        "drift_within": float(numpy.mean(within)),
        "drift_between": float(numpy.mean(between)),
    }


def _replay(events, slots, victim_key, touch):
    """Hit share of one layer: a token's experts are one event, so it evicts none of its own."""
    cache, hits, seen = set(), 0, 0
    for t, wanted in enumerate(events):
        hits += sum(e in cache for e in wanted)
        seen += len(wanted)
        touch(t, wanted)
        for e in wanted:
            if e in cache:
                continue
            if len(cache) == slots:
                cache.remove(min((c for c in cache if c not in wanted), key=lambda c: victim_key(t, c)))
            cache.add(e)
    return hits / seen


def lru(events, slots):
    last = {}
    return _replay(events, slots, lambda t, e: last[e], lambda t, wanted: last.update((e, t) for e in wanted))


def frequency(events, slots, half_life=None):
    """Least frequently used, for life or with counts that halve every half_life tokens; ties go to the oldest."""
    score, last = collections.defaultdict(float), {}
    keep = 1.0 if half_life is None else 0.5 ** (1 / half_life)

    def touch(t, wanted):
        for e in wanted:
            score[e] = score[e] * keep ** (t - last.get(e, t)) + 1
            last[e] = t

    return _replay(events, slots, lambda t, e: (score[e] * keep ** (t - last[e]), last[e]), touch)


def belady(events, slots):
    uses = collections.defaultdict(list)
    for t, wanted in enumerate(events):
        for e in wanted:
            uses[e].append(t)
    for queue in uses.values():
        queue.reverse()

    def touch(t, wanted):
        for e in wanted:
            uses[e].pop()

    return _replay(events, slots, lambda t, e: -uses[e][-1] if uses[e] else -float("inf"), touch)


def hits(sequences, experts):
    """Hit % at a quarter of the experts in each layer, sequences one after another."""
    slots = experts // 4
    policies = {
        "LRU": lru, "decayed frequency": lambda e, s: frequency(e, s, 16), "LFU": frequency, "Belady": belady,
    }
    layers = sequences[0].shape[1]
    events = [[tuple(row) for ids in sequences for row in ids[:, layer].tolist()] for layer in range(layers)]
    return {name: 100 * sum(policy(e, slots) for e in events) / layers for name, policy in policies.items()}
