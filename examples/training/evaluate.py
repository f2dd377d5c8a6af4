"""Every figure of the model card, from the files that ship.

    python3 evaluate.py MODEL_FOLDER DATA_FOLDER OUT_FOLDER

Writes figures.json, tables.md, samples.md, answers.md and routing.trace into OUT_FOLDER.
"""

import argparse
import gzip
import json
import math
import pathlib
import re
import string

import numpy
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import routing
from sampling import END_IDS, generate

LIMIT = 400
FIRST_SEED = 1000


def words_of(text):
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def chat_ids(tokenizer, text):
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
    return tokenizer(rendered, add_special_tokens=False).input_ids


def story_figures(rows, known):
    def share(test):
        return 100 * sum(map(test, rows)) / len(rows)

    def has_repeat(text):
        words = words_of(text)
        grams = [tuple(words[i : i + 8]) for i in range(len(words) - 7)]
        return len(grams) != len(set(grams))

    every = [w for row in rows for w in words_of(row["text"])]
    lengths = sorted(len(row["text"].split()) for row in rows)
    nouns = [row for row in rows if row["noun"]]
    return {
        "stories": len(rows),
        "ended_percent": share(lambda r: r["ended"]),
        "at_least_120_words_percent": share(lambda r: len(r["text"].split()) >= 120),
        "shortest_words": lengths[0],
        "median_words": lengths[len(lengths) // 2],
        "longest_words": lengths[-1],
        "no_repeated_8gram_percent": share(lambda r: not has_repeat(r["text"])),
        "known_words_percent": 100 * sum(w in known for w in every) / len(every),
        "nouns_followed": sum(bool(re.search(rf"\b{r['noun']}(s|es)?\b", r["text"].lower())) for r in nouns),
        "nouns_asked": len(nouns),
    }


def tell_stories(model, tokenizer, asked):
    prompts = [f"Tell me a story about a{'n' if n[0] in 'aeiou' else ''} {n}." for n in asked["nouns"]] + asked["others"]
    nouns = asked["nouns"] + [None] * len(asked["others"])
    ids = [chat_ids(tokenizer, p) for p in prompts]
    seeds = [FIRST_SEED + i for i in range(len(prompts))]
    rows = []
    for prompt, noun, seed, given, made in zip(prompts, nouns, seeds, ids, generate(model, ids, seeds, LIMIT)):
        ended = made[-1] in END_IDS
        text = tokenizer.decode(made[:-1] if ended else made)
        rows.append({"prompt": prompt, "noun": noun, "seed": seed, "ended": ended, "text": text, "ids": given + made, "given": len(given)})
    return rows


def normal(text):
    plain = "".join(c if c not in string.punctuation else " " for c in text.lower())
    return [w for w in plain.split() if w not in ("a", "an", "the")]


def f1(got, wanted):
    got, wanted = normal(got), normal(wanted)
    common = sum(min(got.count(w), wanted.count(w)) for w in set(got))
    return 2 * common / (len(got) + len(wanted)) if common else 0.0


def is_right(kind, got, wanted):
    """A capital must stand after "is"; a meaning must share most of its words with the gloss; so must an answer."""
    if kind == "capital":
        return normal(got.split(" is ")[-1]) == normal(wanted)
    if kind == "meaning":
        return f1(got.split("means:")[-1], wanted) >= 0.7
    return f1(got, wanted) >= 0.6


def answer_questions(model, tokenizer, questions):
    rows = []
    for at in range(0, len(questions), 50):
        part = questions[at : at + 50]
        made = generate(model, [chat_ids(tokenizer, q["question"]) for q in part], [0] * len(part), 60, temperature=0)
        for question, ids in zip(part, made):
            got = tokenizer.decode([i for i in ids if i not in END_IDS])
            rows.append({**question, "got": got, "right": is_right(question["kind"], got, question["answer"])})
    return rows


def question_figures(rows):
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    by_kind = {k: [sum(r["right"] for r in rows if r["kind"] == k), sum(r["kind"] == k for r in rows)] for k in kinds}
    return {"right": sum(r["right"] for r in rows), "asked": len(rows), "by_kind": by_kind}


@torch.no_grad()
def routes(model, ids):
    """Top-k expert ids [tokens, layers, k] of one sequence, in router order."""
    result = model(torch.tensor([ids], device=model.device), output_router_logits=True)
    k = model.config.num_experts_per_tok
    return torch.stack([logits.topk(k, dim=-1).indices for logits in result.router_logits], dim=1).cpu().numpy().astype(numpy.uint8)


@torch.no_grad()
def bits_per_byte(model, tokenizer, arrays, context):
    """Per validation stream of plain text: bits per byte over rows of the whole context, special tokens left out."""
    sizes = torch.tensor([0 if i < 3 else len(t) for i, t in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))])
    results, routed = {}, []
    for name in sorted({k.split(".")[0] for k in arrays if k.startswith("plain_")}):
        tokens = torch.from_numpy(arrays[name + ".tokens"].astype(numpy.int64))
        nats = size = 0.0
        for at in range(0, len(tokens) - 1, context):
            row = tokens[at : at + context + 1]
            if len(row) < 2:
                continue
            result = model(row[None, :-1].to(model.device), output_router_logits=True)
            target = row[1:]
            losses = F.cross_entropy(result.logits[0].float().cpu(), target, reduction="none")
            counted = sizes[target] > 0
            nats, size = nats + losses[counted].sum().item(), size + sizes[target].sum().item()
            k = model.config.num_experts_per_tok
            routed.append(torch.stack([l.topk(k).indices for l in result.router_logits], 1).cpu().numpy().astype(numpy.uint8))
        results[name] = [nats / math.log(2), size]
    total = [sum(v[i] for v in results.values()) for i in (0, 1)]
    figures = {name: v[0] / v[1] for name, v in results.items()} | {"all": total[0] / total[1]}
    return figures, routed


def routing_rows(trace, experts):
    """The model's own row, and those of the published fits measured with the same yardstick."""
    rows = [("this model, 50 stories", experts, trace[0].shape[2], routing.shape(trace, experts), routing.hits(trace, experts))]
    for name, (fit, published) in routing.PUBLISHED.items():
        drawn = routing.synthetic(fit, 8, 2, seed=1)
        given = dict(zip(("LRU", "decayed frequency", "Belady"), published))
        rows.append((name, fit[0], fit[1], routing.shape(drawn, fit[0]), given))
    return rows


def tables(figures, rows):
    s, q = figures["stories"], figures["questions"]
    lines = [
        "| goal | reached |", "| --- | --- |",
        f"| at least 95 % of 50 stories end by themselves within {LIMIT} tokens | {s['ended_percent']:.0f} % |",
        f"| stories run 120 words or more | {s['at_least_120_words_percent']:.0f} % of them; {s['shortest_words']} to {s['longest_words']} words, median {s['median_words']} |",
        f"| at least 90 % have no repeated 8-gram | {s['no_repeated_8gram_percent']:.0f} % |",
        f"| at least 98 % of the words occur in the training text | {s['known_words_percent']:.2f} % |",
        f"| the noun asked for is in the story, at least 18 of 20 | {s['nouns_followed']} of {s['nouns_asked']} |",
        f"| at least 60 % of 200 questions in held-out phrasings | {100 * q['right'] / q['asked']:.1f} % ({q['right']} of {q['asked']}) |",
    ]
    lines += [f"| ... {kind} | {right} of {asked} |" for kind, (right, asked) in q["by_kind"].items()]
    lines += [
        f"| no dead expert: each gets at least a quarter of its fair share | least {figures['least_stories']:.2f} of a fair share in the 50 stories, {figures['least_valid']:.2f} in the validation text |",
        "| validation bits per byte | " + ", ".join(f"{n.removeprefix('plain_')} {v:.3f}" for n, v in figures["bits_per_byte"].items()) + " |",
        "", "| routing of | experts, top-k | skew | reuse (chance) | drift within / between | LRU | decayed frequency | LFU | Belady |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, experts, top_k, shape, hits in rows:
        cells = [f"{hits[p]:.0f}" if p in hits else "-" for p in ("LRU", "decayed frequency", "LFU", "Belady")]
        lines.append(
            f"| {name} | {experts}, {top_k} | {100 * shape['skew']:.0f} % | {100 * shape['reuse']:.0f} % ({100 * shape['chance']:.0f} %) "
            f"| {100 * shape['drift_within']:.0f} / {100 * shape['drift_between']:.0f} % | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    here = pathlib.Path(__file__).parent
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).to(options.device).eval()
    known = set(gzip.open(options.data / "words.txt.gz", "rt").read().split())

    stories = tell_stories(model, tokenizer, json.loads((here / "prompts.json").read_text()))
    answers = answer_questions(model, tokenizer, json.loads((options.data / "questions.json").read_text()))
    # The last token of a sequence is never fed back, so it is routed nowhere.
    trace = [routes(model, row["ids"][:-1]) for row in stories]
    bits, routed = bits_per_byte(model, tokenizer, dict(numpy.load(options.data / "valid.npz")), model.config.max_position_embeddings)
    experts = model.config.num_experts
    figures = {
        "stories": story_figures(stories, known),
        "questions": question_figures(answers),
        "bits_per_byte": bits,
        "least_stories": float(routing.loads(trace, experts).min() * experts),
        "least_valid": float(routing.loads(routed, experts).min() * experts),
    }
    rows = routing_rows(trace, experts)
    figures["routing"] = [dict(name=r[0], shape=r[3], hits=r[4]) for r in rows]
    routing.write(options.out / "routing.trace", trace, [row["given"] for row in stories], experts)
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    (options.out / "tables.md").write_text(tables(figures, rows))
    with open(options.out / "samples.md", "w", encoding="utf-8") as out:
        for row in stories:
            note = "" if row["ended"] else f" (cut at {LIMIT} tokens)"
            out.write(f"## {row['prompt']}\n\nseed {row['seed']}{note}\n\n{row['text']}\n\n")
    with open(options.out / "answers.md", "w", encoding="utf-8") as out:
        for row in answers:
            out.write(f"- {'right' if row['right'] else 'WRONG'} ({row['kind']}) {row['question']!r}: {row['got']!r}, expected {row['answer']!r}\n")
    print(tables(figures, rows))


if __name__ == "__main__":
    main()
