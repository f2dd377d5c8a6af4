"""Turn the corpus into token streams, a validation split, and the fixed test questions.

    python3 prepare.py CORPUS_FOLDER OUT_FOLDER [--tokenizer FOLDER]

Everything follows from SEED.  Validation is held out by story: a title that hashes into
the split leaves training with all of its pieces, questions and passages, in every file.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import random
import re

import numpy
from tokenizers import Tokenizer

import chat
import fables
import facts
import passages
import stories
import tokenizer as bpe

SEED = 20261121
HELD_OUT_SHARE = 0.03
WORDS_DEFINED = 2400
FABLES = 80000
GRAMMAR_PASSAGES = 50000
PLAIN_FILES = [("simple", "stories_simple.txt"), ("old", "stories_chilit.txt")]


def held_out(title):
    key = re.sub(r"[^a-z]", "", title.lower())
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32 < HELD_OUT_SHARE


def shingles(text, n=10):
    words = re.findall(r"[a-z]+", text.lower())
    return {hash(tuple(words[i : i + n])) for i in range(0, len(words) - n + 1)}


def split_documents(corpus):
    """Training and validation documents; a story that stands in two files is no validation story."""
    train, valid = {}, {}
    sources = [(name, stories.read_documents(corpus / file)) for name, file in PLAIN_FILES]
    modern, credits = stories.read_cc_by(corpus / "cc_by_stories.jsonl")
    sources += [("modern", modern), ("fairytales", passages.fairytale_documents(corpus / "fairytaleqa.jsonl"))]
    for name, documents in sources:
        train[name] = [d for d in documents if not held_out(d[0])]
        valid[name] = [d for d in documents if held_out(d[0])]
    wanted = set()
    for documents in valid.values():
        for _, lines in documents:
            wanted |= shingles(" ".join(lines))
    seen = set()
    for documents in train.values():
        for _, lines in documents:
            seen |= shingles(" ".join(lines)) & wanted
    for name, documents in valid.items():
        clean = []
        for title, lines in documents:
            own = shingles(" ".join(lines))
            if len(own & seen) <= 0.1 * len(own):
                clean.append((title, lines))
        valid[name] = clean
    return train, valid, credits


def story_chats(rng, documents, repeat):
    """Requests and answers for every piece that can be cut out of the documents."""
    found = []
    for _, lines in documents:
        for _ in range(repeat):
            for text in stories.pieces(rng, lines):
                nouns, names = stories.subjects(text)
                found.append(((chat.book_request(rng, nouns, names), text),))
    return sorted(set(found))


def fable_chats(rng, count):
    found = []
    for i in range(count):
        body, about, scenes, called = fables.make(rng, hero=fables.HEROES[i % len(fables.HEROES)])
        found.append(((chat.story_request(rng, about, scenes, called), body),))
    return found


def conversations(rng, chats):
    """Chats as rendered parts: now and then a system prompt, a greeting, or a word of thanks."""
    for turns in chats:
        turns = list(turns)
        lot = rng.random()
        if lot < 0.05:
            turns.append((rng.choice(chat.THANKS), rng.choice(chat.THANKS_ANSWERS)))
        elif lot < 0.09:
            turns.insert(0, (rng.choice(chat.HELLO), rng.choice(chat.HELLO_ANSWERS)))
        system = rng.choice(chat.SYSTEM_PROMPTS) if rng.random() < 0.06 else None
        yield chat.render(turns, system)


def plain_text(documents):
    return [("# " + title + "\n" if title else "") + "\n".join(lines) for title, lines in documents]


class Encoder:
    """Streams of tokens; bit by bit which of them count in the loss, and where documents start."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.end = tokenizer.token_to_id(chat.END_OF_TEXT)

    def plain(self, texts):
        ids = [e.ids + [self.end] for e in self.tokenizer.encode_batch(texts)]
        return self.pack(ids, [[1] * len(i) for i in ids])

    def chats(self, rendered):
        rendered = list(rendered)
        flat = self.tokenizer.encode_batch([text for parts in rendered for text, _ in parts])
        ids, learned, at = [], [], 0
        for parts in rendered:
            tokens, marks = [], []
            for _, is_learned in parts:
                tokens += flat[at].ids
                marks += [int(is_learned)] * len(flat[at].ids)
                at += 1
            ids.append(tokens)
            learned.append(marks)
        return self.pack(ids, learned)

    @staticmethod
    def pack(ids, learned):
        return {
            "tokens": numpy.concatenate([numpy.array(i, numpy.uint16) for i in ids]),
            "learned": numpy.packbits(numpy.concatenate([numpy.array(m, numpy.uint8) for m in learned])),
            "lengths": numpy.array([len(i) for i in ids], numpy.int32),
        }


def passage_chats(rng, corpus, train, valid, valid_titles):
    """Training chats, and the held-out questions by kind."""
    learn, test = [], {"passage, by people": [], "passage, dialogue": [], "passage, grammar": []}
    for is_held, passage, question, answer in passages.human(corpus / "fairytaleqa.jsonl", held_out):
        if not is_held:
            learn += [(passages.chat(rng, passage, question, answer),) for _ in range(3)]
    for is_held, passage, question, answer in passages.human(corpus / "fairytaleqa.jsonl", lambda s: s in valid_titles):
        if is_held:
            test["passage, by people"].append((passage, question, answer))
    for _ in range(3):
        for _, lines in train["simple"]:
            learn += [(passages.chat(rng, *row),) for row in passages.dialogue(rng, lines)]
    for _, lines in valid["simple"]:
        test["passage, dialogue"] += list(passages.dialogue(rng, lines))
    learn += [(passages.chat(rng, *passages.grammar(rng)),) for _ in range(GRAMMAR_PASSAGES)]
    test["passage, grammar"] = [passages.grammar(rng, held_out=True) for _ in range(40)]
    return learn, test


def questions(rng, country_rows, meaning_rows, passage_tests):
    """The 200 fixed questions: 70 capitals, 70 meanings, 20 passages of each kind, in phrasings never trained on."""
    chosen = []
    # "Guatemala City" would be right by repeating the question.
    fair = [row for row in country_rows if row[0].lower() not in row[1].lower() and row[1].lower() not in row[0].lower()]
    for row in rng.sample(fair, 70):
        asked, _ = facts.capital_chat(rng, row, facts.CAPITAL_HELD_OUT)
        chosen.append({"kind": "capital", "question": asked, "answer": row[1]})
    for row in rng.sample(meaning_rows, 70):
        asked, _ = facts.meaning_chat(rng, row, facts.MEANING_HELD_OUT)
        chosen.append({"kind": "meaning", "question": asked, "answer": row[1]})
    for kind, rows in passage_tests.items():
        for row in rng.sample(rows, 20):
            asked, _ = passages.chat(rng, *row, asked=passages.ASKED_HELD_OUT)
            chosen.append({"kind": kind, "question": asked, "answer": row[2]})
    return chosen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path, help="use this one instead of training it")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)

    train, valid, credits = split_documents(options.corpus)
    for part in (train, valid):
        part["modern"] = [(t, stories.paragraphs_of_lines(lines)) for t, lines in part["modern"]]
    country_rows = facts.countries(options.corpus / "countries.jsonl")
    meaning_rows = facts.meanings(options.corpus / "definitions.jsonl", WORDS_DEFINED)
    valid_titles = {title for title, _ in valid["fairytales"]}
    learn_passages, passage_tests = passage_chats(rng, options.corpus, train, valid, valid_titles)

    plain = {name: plain_text(documents) for name, documents in train.items()}
    plain["facts"] = list(facts.plain(country_rows, meaning_rows))
    chats = {
        "pieces": story_chats(rng, train["simple"] + train["fairytales"], 3),
        "shorts": story_chats(rng, train["modern"], 3),
        "fables": fable_chats(rng, FABLES),
        "capitals": [(facts.capital_chat(rng, row),) for row in country_rows for _ in range(14)],
        "meanings": [(facts.meaning_chat(rng, row),) for row in meaning_rows for _ in range(10)],
        "passages": learn_passages,
        "talk": [(chat.small_talk(rng),) for _ in range(600)],
    }
    chats = {name: list(conversations(rng, rows)) for name, rows in chats.items()}

    texts = [t for rows in plain.values() for t in rows]
    texts += ["".join(text for text, _ in parts) for rows in chats.values() for parts in rows[:8000]]
    if options.tokenizer:
        tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
        bpe.write(tokenizer, options.out)
    else:
        tokenizer = bpe.train(texts)
        bpe.write(tokenizer, options.out)

    encoder = Encoder(tokenizer)
    streams = {"plain_" + n: encoder.plain(rows) for n, rows in plain.items()}
    streams |= {"chat_" + n: encoder.chats(rows) for n, rows in chats.items()}
    valid_streams = {"plain_" + n: encoder.plain(plain_text(d)) for n, d in valid.items()}
    valid_passages = [
        (passages.chat(rng, *row),) for kind in ("passage, by people", "passage, dialogue") for row in passage_tests[kind]
    ] + [(passages.chat(rng, *passages.grammar(rng)),) for _ in range(300)]
    valid_chats = {
        "passages": valid_passages,
        "pieces": story_chats(rng, valid["simple"] + valid["fairytales"], 1),
        "fables": fable_chats(rng, 200),
    }
    valid_streams |= {"chat_" + n: encoder.chats(chat.render(list(t)) for t in rows) for n, rows in valid_chats.items()}
    for name, part in (("train", streams), ("valid", valid_streams)):
        arrays = {f"{stream}.{key}": array for stream, data in part.items() for key, array in data.items()}
        numpy.savez_compressed(options.out / f"{name}.npz", **arrays)
        for stream, data in part.items():
            print(f"{name:5} {stream:17} {len(data['lengths']):7} documents {len(data['tokens']):9} tokens")

    asked = questions(rng, country_rows, meaning_rows, passage_tests)
    (options.out / "questions.json").write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
    words = set()
    for text in [t for rows in plain.values() for t in rows] + ["".join(t for t, _ in p) for rows in chats.values() for p in rows]:
        words |= set(re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower()))
    with gzip.open(options.out / "words.txt.gz", "wt", encoding="utf-8") as out:
        out.write("\n".join(sorted(words)) + "\n")
    (options.out / "credits.json").write_text(json.dumps(credits, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
