"""Train the storyteller on the streams that prepare.py wrote.

    python3 train.py DATA_FOLDER OUT_FOLDER --steps N

fp32 master weights, bf16 products, AdamW, warm-up, a long plateau and a linear decay in
which the share of chats rises.  A checkpoint is written every few hundred steps; the
same command continues from it.
"""

import argparse
import json
import pathlib
import time

import numpy
import torch
import torch.nn.functional as F

from model import Config, Model, parameters, rope_tables

SEED = 20261121
ROWS = 128
LEARNING_RATE = 2.5e-3
WEIGHT_DECAY = 0.1
WARM_UP = 300
DECAY_FROM = 0.65
BALANCE = 0.04
# Shares of the rows of a batch: on the plateau, and at the end of the decay.  Small streams
# get small shares: what is read some twenty times is learned by heart.
MIX = {
    "plain_simple": (0.15, 0.07), "plain_old": (0.14, 0.04), "plain_modern": (0.01, 0.005),
    "plain_fairytales": (0.025, 0.01), "plain_facts": (0.005, 0.005), "chat_pieces": (0.05, 0.08),
    "chat_shorts": (0.01, 0.01), "chat_fables": (0.23, 0.34), "chat_capitals": (0.025, 0.03),
    "chat_meanings": (0.08, 0.11), "chat_passages": (0.27, 0.29), "chat_talk": (0.01, 0.01),
}
STORIES = ("chat_pieces", "chat_shorts", "chat_fables")
# An answer about a passage is a few tokens in two hundred: it counts more, or it is never learned.
WEIGHT = {"chat_passages": 10.0}


class Stream:
    """Documents in a new order every epoch, cut into rows."""

    def __init__(self, arrays, name, context, device, generator):
        tokens = arrays[name + ".tokens"]
        learned = numpy.unpackbits(arrays[name + ".learned"])[: len(tokens)]
        self.tokens = torch.from_numpy(tokens.astype(numpy.int32)).to(device)
        self.learned = torch.from_numpy(learned * numpy.float32(WEIGHT.get(name, 1.0))).to(device)
        self.lengths = torch.from_numpy(arrays[name + ".lengths"]).long().to(device)
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.width, self.device, self.generator = context + 1, device, generator
        self.order, self.at = torch.empty(0, dtype=torch.long, device=device), 0

    def _shuffle(self):
        permutation = torch.randperm(len(self.lengths), generator=self.generator).to(self.device)
        lengths, starts = self.lengths[permutation], self.starts[permutation]
        first = lengths.cumsum(0) - lengths
        order = torch.arange(int(lengths.sum()), device=self.device)
        return order + torch.repeat_interleave(starts - first, lengths)

    def rows(self, count):
        need = count * self.width
        while len(self.order) - self.at < need:
            self.order = torch.cat((self.order[self.at :], self._shuffle()))
            self.at = 0
        index = self.order[self.at : self.at + need].view(count, self.width)
        self.at += need
        return self.tokens[index].long(), self.learned[index]


def rows_of_step(step, steps, generator):
    """How many rows of each stream go into this step: the mix, rounded at random so that the mean is exact."""
    late = max(0.0, (step / steps - DECAY_FROM) / (1 - DECAY_FROM))
    shares = [a + (b - a) * min(1.0, 2 * late) for a, b in MIX.values()]
    edges = numpy.cumsum([0.0] + shares) / sum(shares) * ROWS + torch.rand(1, generator=generator).item()
    counts = numpy.diff(numpy.floor(edges).astype(int))
    return dict(zip(MIX, counts.tolist()))


def kinds_of(counts, device):
    """Averages over the rows of plain text, of stories, and of questions."""
    kind = [0 if n.startswith("plain") else 1 if n in STORIES else 2 for n, count in counts.items() for _ in range(count)]
    member = F.one_hot(torch.tensor(kind), 3).float()
    return (member / member.sum(0).clamp(min=1)).T.contiguous().to(device)


def rate(step, steps):
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return min(1.0, max(0.02, (1 - step / steps) / (1 - DECAY_FROM)))


def loss_of(logits, targets, learned):
    each = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    wanted = learned.flatten()
    return (each * wanted).sum() / wanted.sum().clamp(min=1)


@torch.no_grad()
def validate(run, model, arrays, tables, device, names):
    """Mean loss of the learned tokens of each validation stream, in rows of the whole context."""
    model.eval()
    results = {}
    context = model.c.context
    for name in names:
        tokens = torch.from_numpy(arrays[name + ".tokens"].astype(numpy.int64))
        learned = torch.from_numpy(numpy.unpackbits(arrays[name + ".learned"])[: len(tokens)].astype(bool))
        count = min(64, (len(tokens) - 1) // context)
        if count == 0:
            continue
        index = torch.arange(count)[:, None] * context + torch.arange(context + 1)[None]
        rows, marks = tokens[index].to(device), learned[index].to(device)
        total, seen = 0.0, 0.0
        for part, mark in zip(rows.split(32), marks.split(32)):
            with torch.autocast(device, dtype=torch.bfloat16):
                logits, _ = run(part[:, :-1], *tables, torch.zeros(3, len(part), device=device))
            each = F.cross_entropy(logits.flatten(0, 1).float(), part[:, 1:].flatten(), reduction="none")
            wanted = mark[:, 1:].flatten().float()
            total, seen = total + (each * wanted).sum().item(), seen + wanted.sum().item()
        results[name] = round(total / max(seen, 1), 4)
    model.train()
    return results


def optimizer_of(model, device):
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=device == "cuda")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="two rows and a small model, to try the script on a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device, config = options.device, Config()
    if options.tiny:
        global ROWS
        ROWS, config = 12, Config(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, experts=8, top_k=2, expert_hidden=8, context=64)

    torch.manual_seed(SEED)
    torch.backends.cuda.matmul.allow_tf32 = True
    generator = torch.Generator().manual_seed(SEED)
    train_arrays = dict(numpy.load(options.data / "train.npz"))
    valid_arrays = dict(numpy.load(options.data / "valid.npz"))
    streams = {name: Stream(train_arrays, name, config.context, device, generator) for name in MIX}
    valid_names = sorted({key.split(".")[0] for key in valid_arrays})
    model = Model(config).to(device)
    run = torch.compile(model) if device == "cuda" else model
    tables = rope_tables(config, device)
    optimizer = optimizer_of(model, device)
    print("parameters in all and active:", parameters(config), flush=True)

    checkpoint, first = options.out / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        for step in range(first):
            for name, count in rows_of_step(step, options.steps, generator).items():
                if count:
                    streams[name].rows(count)
    began = time.time()
    for step in range(first, options.steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate(step, options.steps)
        counts = rows_of_step(step, options.steps, generator)
        batch = [streams[name].rows(count) for name, count in counts.items() if count]
        tokens, learned = (torch.cat(part) for part in zip(*batch))
        with torch.autocast(device, dtype=torch.bfloat16):
            logits, balance = run(tokens[:, :-1], *tables, kinds_of(counts, device))
        loss = loss_of(logits, tokens[:, 1:], learned[:, 1:])
        (loss + BALANCE * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step + 1 == options.steps:
            spent = time.time() - began
            print(f"step {step} loss {loss.item():.4f} balance {balance.item():.4f} {spent:.0f} s", flush=True)
        if (step + 1) % 1000 == 0 or step + 1 == options.steps:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, checkpoint)
            print(f"step {step + 1} validation", json.dumps(validate(run, model, valid_arrays, tables, device, valid_names)), flush=True)
    torch.save(model.state_dict(), options.out / "weights.pt")


if __name__ == "__main__":
    main()
