#!/usr/bin/env python3
"""Trains the small tokenizers of this folder and writes their cases, with the makers' libraries.

    pip install tokenizers sentencepiece tiktoken
    python3 make.py

For each tokenizer NAME.* there is NAME.jsonl: one case a line, {"text", "flags", "ids"} and, where
the ids were decoded, "decoded". flags are tokenizer_encode's: 1 adds special tokens, 2 recognises
them in the text. Everything is seeded; the training text is in this file.
"""
import base64, json, os, random, struct
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)
import sentencepiece
import tiktoken

HERE = os.path.dirname(os.path.abspath(__file__))
N_RANDOM = 90

TEXT = """
The expert pager keeps what the model needs close, and what it seldom needs far away.
Every token asks a few experts for help; most of them sleep in memory until they are called.
We don't know which ones come next, but we'll guess, and they've often been the same as before.
In 2024 there were 128 experts, 8 of them active; 12,345.67 tokens later nobody could tell.
def route(x, k=8): return sorted(range(len(x)), key=lambda i: -x[i])[:k]  # top-k, ties by index
if (a != b && c >= 10) { printf("%d\\n", a << 2); } else { return NULL; }
Die Straße ist lang, größer als früher, und über den Flüssen hängt Nebel. Schöne Grüße!
L'été dernier, nous étions à la mer; ça m'a plu, où que ce fût, garçon naïf.
El niño corrió mañana y mañana, ¿por qué no? ¡Qué día tan señorial!
Быстрая лиса прыгает через ленивую собаку и бежит дальше в лес.
Ο γρήγορος λύκος τρέχει μέσα στο δάσος, και το ποτάμι κυλάει.
今天天气很好,我们去公园散步。明天可能会下雨。模型需要很多内存。
今日はとても良い天気です。カタカナとひらがなを混ぜて書きます。
오늘은 날씨가 좋습니다. 모델은 많은 메모리를 필요로 합니다.
नमस्ते दुनिया, यह एक छोटा वाक्य है। مرحبا بالعالم، هذه جملة قصيرة. שלום עולם
emoji: 🙂🙃 👩‍👩‍👧 🇳🇱 ❤️ 🚀🚀🚀 — dashes – and “quotes”, ellipsis… ½ ² ③ Ⅷ ﬁ ﬂ № ™
""".strip().split("\n")
LINES = [line for line in TEXT for _ in range(4)] + [line.lower() for line in TEXT]

FIXED = ["", " ", "  ", "\n", " \n ", "\t\t", "a", " a", "a ", "  a  b   c ", "Hello", "hello world",
         "HELLO WORLD", "don't DON'T we'LL 'tis", "x" * 50, "ab" * 40, " " * 33, "\n" * 9,
         "e\u0301 \u00e9 a\u0316\u0301 a\u0301\u0316", "\u1100\u1161\u11a8 \uac01 \uac00\u11a7",
         "\ufb01 \u2460 \uff21\uff22 \u00bd", "\u0130stanbul \u017fs", "1234567 3.14 1,000",
         "\u4e2d\u6587abc\u3042\u30ab", "\U0001f642\U0001f469\u200d\U0001f469\u200d\U0001f467",
         "\u00a0x\u3000y\u2003z\u0085w", "a\r\nb\r\n\r\nc", "\u2581a \u2581", "<0x0A> <0x41>",
         "tab\tand\u000bvt", "null\u0000byte", "\u200b\ufeff", "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m"]
BLOCKS = [range(0x20, 0x7f), [9, 10, 13, 32, 32, 0xa0, 0x2003, 0x3000, 0x85, 0x200b],
          range(0xa1, 0x180), list(range(0x300, 0x340)), range(0x391, 0x3ca), range(0x410, 0x450),
          range(0x4e00, 0x4f00), range(0x3041, 0x3097), range(0xac00, 0xad00), range(0x905, 0x93a),
          range(0x1f600, 0x1f640), list(range(0x30, 0x3a)) + [0xb2, 0x663, 0x2167, 0x2462]]
WORDS = " ".join(TEXT).split()


def texts(seed, specials):
    rng = random.Random(seed)
    out = list(FIXED)
    for s in specials:
        out += [s, "a" + s + "b", " " + s + " x", s + s, s[:-1], "x " + s[1:]]
    for _ in range(N_RANDOM):
        parts = []
        for _ in range(rng.randint(1, 8)):
            kind = rng.random()
            if kind < 0.5:
                parts.append(rng.choice(["", " ", "  ", "\n"]) + rng.choice(WORDS))
            elif kind < 0.6 and specials:
                parts.append(rng.choice(["", " "]) + rng.choice(specials) + rng.choice(["", " "]))
            else:
                block = list(rng.choice(BLOCKS))
                parts.append("".join(chr(rng.choice(block)) for _ in range(rng.randint(1, 6))))
        out.append("".join(parts))
    return out


def write_cases(name, cases):
    with open(os.path.join(HERE, name + ".jsonl"), "w", encoding="utf-8") as f:
        for case in cases:
            f.write(json.dumps(case, ensure_ascii=False) + "\n")
    print(name, len(cases))


def hf_cases(name, tok, specials, decode=True):
    cases = []
    for i, text in enumerate(texts(name, specials)):
        for flags in ([0, 2] if specials and any(s in text for s in specials) else [2, 3][i % 5 == 0:][:1]):
            tok.encode_special_tokens = not flags & 2
            ids = tok.encode(text, add_special_tokens=bool(flags & 1)).ids
            case = {"text": text, "flags": flags, "ids": ids}
            # The library decodes tokens of normalized text in normalized form; we as they are written.
            if decode and tok.token_to_id("UPPER") not in ids:
                case["decoded"] = tok.decode(ids, skip_special_tokens=False)
            cases.append(case)
    write_cases(name, cases)


def save(name, tok):
    with open(os.path.join(HERE, name + ".json"), "w", encoding="utf-8") as f:
        f.write(tok.to_str(pretty=False))


def train_bpe(tok, size, **kw):
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, **kw)
    tok.train_from_iterator(LINES, trainer)


BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_bpe_nfc():
    """As Qwen: NFC, one Split, special tokens and ordinary added ones."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    train_bpe(tok, 500, initial_alphabet=BYTES)
    tok.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|im_end"])
    tok.add_tokens([AddedToken("<think>", normalized=False)])
    save("byte_bpe_nfc", tok)
    hf_cases("byte_bpe_nfc", tok, ["<|im_start|>", "<|im_end|>", "<think>"])


def byte_bpe_ignore_merges():
    """As gpt-oss and Llama 3: case-aware Split, ignore_merges, a template with bos."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(O200K), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train_bpe(tok, 520, initial_alphabet=BYTES)
    tok.add_special_tokens(["<|start|>", "<|end|>"])
    tok.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", pair="<|start|> $A $B",
        special_tokens=[("<|start|>", tok.token_to_id("<|start|>"))])
    data = json.loads(tok.to_str())
    data["model"]["ignore_merges"] = True
    # Words that are pieces but that no merges reach: only ignore_merges finds them.
    n = len(data["model"]["vocab"]) + 2
    for word in ["\u0120tokenizers", "WORLD", "\u0120expertly"]:
        data["model"]["vocab"][word] = n
        n += 1
    tok = Tokenizer.from_str(json.dumps(data))
    save("byte_bpe_ignore_merges", tok)
    hf_cases("byte_bpe_ignore_merges", tok, ["<|start|>", "<|end|>"])


def byte_bpe_three_splits():
    """As DeepSeek-V3: digits, CJK, the rest; added tokens that see normalized text."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Split(Regex("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), "isolated"),
        pre_tokenizers.Split(Regex(
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train_bpe(tok, 480, initial_alphabet=BYTES)
    tok.add_special_tokens(["<\uff5cbegin\uff5c>"])
    tok.add_tokens([AddedToken("<\uff5cuser\uff5c>", normalized=True)])
    save("byte_bpe_three_splits", tok)
    hf_cases("byte_bpe_three_splits", tok, ["<\uff5cbegin\uff5c>", "<\uff5cuser\uff5c>"])


def gpt2_added_tokens():
    """ByteLevel with its own regex and a prefix space; every flag of added tokens."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Lowercase()
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tok.decoder = decoders.ByteLevel()
    train_bpe(tok, 450, initial_alphabet=BYTES)
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<sep>", rstrip=True),
                            AddedToken("<both>", lstrip=True, rstrip=True)])
    tok.add_tokens([AddedToken("word", single_word=True), AddedToken("UPPER", normalized=True),
                    AddedToken("exact", normalized=False)])
    tok.post_processor = processors.RobertaProcessing(
        ("<sep>", tok.token_to_id("<sep>")), ("<mask>", tok.token_to_id("<mask>")))
    save("gpt2_added_tokens", tok)
    hf_cases("gpt2_added_tokens", tok, ["<mask>", "<sep>", "<both>", "word", "UPPER", "exact"])


def stages():
    """Pre-tokenizers of many kinds behind each other, and ByteLevel not at the end."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Sequence([
        normalizers.NFD(), normalizers.StripAccents(), normalizers.Replace(Regex(" {3,}"), "  "),
        normalizers.Replace("!", "?"), normalizers.Strip(left=False, right=True)])
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.Split("e", "merged_with_previous"),
        pre_tokenizers.Split("t", "merged_with_next"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=True)])
    tok.decoder = decoders.ByteLevel()
    train_bpe(tok, 450, initial_alphabet=BYTES)
    save("stages", tok)
    hf_cases("stages", tok, [])


def word_stages():
    """Characters with an unknown token, white space dropped; no decoder."""
    tok = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=False))
    tok.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Whitespace(),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[aeiou]"), "removed", invert=False)])
    train_bpe(tok, 220, special_tokens=["[UNK]"], limit_alphabet=60)
    save("word_stages", tok)
    hf_cases("word_stages", tok, [])


def word_suffix():
    """Pieces that say where a word ends, and others where it goes on."""
    tok = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>",
                               continuing_subword_prefix="##"))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    train_bpe(tok, 400, special_tokens=["[UNK]"], limit_alphabet=80, end_of_word_suffix="</w>",
              continuing_subword_prefix="##")
    save("word_suffix", tok)
    hf_cases("word_suffix", tok, [], decode=False)


def llama_vocab(tok, size):
    """Trains with byte pieces in front, as SentencePiece with byte fallback has them."""
    train_bpe(tok, size, special_tokens=["<unk>", "<s>", "</s>"] +
              ["<0x%02X>" % i for i in range(256)], limit_alphabet=70)
    data = json.loads(tok.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["id"] < 3]
    data["model"].update(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return data


LLAMA_DECODER = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                   decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def llama_legacy():
    """As Llama 2 and Mixtral, first generation: Prepend and Replace, no pre-tokenizer."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"),
                                           normalizers.Replace(" ", "\u2581")])
    tok.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")  # for training only
    tok.decoder = LLAMA_DECODER
    data = llama_vocab(tok, 520)
    data["pre_tokenizer"] = None
    tok = Tokenizer.from_str(json.dumps(data))
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    save("llama_legacy", tok)
    hf_cases("llama_legacy", tok, ["<s>", "</s>"])


def llama_metaspace(name, scheme, split):
    """As Mixtral, later generations: Metaspace."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme=scheme, split=True)
    tok.decoder = LLAMA_DECODER if scheme == "first" else decoders.Metaspace("\u2581", scheme)
    data = llama_vocab(tok, 500)
    data["pre_tokenizer"]["split"] = split
    tok = Tokenizer.from_str(json.dumps(data))
    save(name, tok)
    # The Metaspace decoder leaves byte pieces as they are, which the cases show as well.
    hf_cases(name, tok, ["<s>", "</s>"])


def unigram(name, normalizer, byte_fallback):
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="always")
    tok.decoder = decoders.Metaspace("\u2581", "always")
    specials = ["<unk>", "</s>"] + (["<0x%02X>" % i for i in range(256)] if byte_fallback else [])
    tok.train_from_iterator(LINES, trainers.UnigramTrainer(
        vocab_size=380 + len(specials), show_progress=False, special_tokens=specials,
        unk_token="<unk>", max_piece_length=8))
    data = json.loads(tok.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["id"] < 2]
    data["model"]["byte_fallback"] = byte_fallback
    for piece in data["model"]["vocab"]:
        piece[1] = round(piece[1], 4)
    tok = Tokenizer.from_str(json.dumps(data))
    tok.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B", special_tokens=[("</s>", 1)])
    save(name, tok)
    hf_cases(name, tok, ["</s>"])


# A few rules of the kind that nmt_nfkc has thousands of: source code points, tab, target.
RULES = "41\t61\nFB01\t66 69\n2460\t31\nFF21\t61\n9\t20\nA0\t20\n3000\t20\nAD\t\n65 301\tE9\n61 316 301\tE1\n"


def sentencepiece_model(name, **kw):
    os.chdir(HERE)  # a model remembers the names of its inputs: keep them relative
    rules, text = "rules.tmp", "text.tmp"
    with open(rules, "w") as f:
        f.write(RULES)
    with open(text, "w", encoding="utf-8") as f:
        f.write("\n".join(LINES))
    if kw.pop("rules", False):
        kw["normalization_rule_tsv"] = rules
    sentencepiece.SentencePieceTrainer.train(
        input=text, model_prefix=name, minloglevel=2, num_threads=1,
        character_coverage=0.98, **kw)
    for path in [rules, text, name + ".vocab"]:
        os.remove(path)
    sp = sentencepiece.SentencePieceProcessor(model_file=os.path.join(HERE, name + ".model"))
    cases = []
    for text in texts(name, kw.get("user_defined_symbols", []) + ["<s>"]):
        ids = sp.encode(text)
        case = {"text": text, "flags": 0, "ids": ids}
        if not any(sp.is_unknown(i) for i in ids):
            case["decoded"] = sp.decode(ids)
        cases.append(case)
    write_cases(name, cases)


def sp_unused():
    """Marks every fifth merged piece of sp_bpe as unused: it may be passed through, not given out."""
    with open(os.path.join(HERE, "sp_bpe.model"), "rb") as f:
        model = f.read()
    out, at, n = bytearray(), 0, 0
    while at < len(model):
        begin = at
        key, at = varint(model, at)
        size, at = varint(model, at)
        message = model[at:at + size]
        at += size
        if key == 10:
            length = message[1]
            n += 1
            # piece (field 1), score (field 2, fixed32), then no type: a normal piece
            if len(message) == 2 + length + 5 and length > 2 and n % 5 == 0 and n > 300:
                message += b"\x18\x05"
            out += bytes([key]) + write_varint(len(message)) + message
        else:
            out += model[begin:at]
    with open(os.path.join(HERE, "sp_unused.model"), "wb") as f:
        f.write(out)
    sp = sentencepiece.SentencePieceProcessor(model_file=os.path.join(HERE, "sp_unused.model"))
    assert any(sp.is_unused(i) for i in range(sp.get_piece_size()))
    write_cases("sp_unused", [{"text": t, "flags": 0, "ids": sp.encode(t)}
                              for t in texts("sp_unused", [])])


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def write_varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def tiktoken_ranks():
    """Ranks from byte_bpe_nfc's vocabulary; the specials are in a tokenizer_config.json."""
    with open(os.path.join(HERE, "byte_bpe_nfc.json"), encoding="utf-8") as f:
        vocab = json.load(f)["model"]["vocab"]
    alphabet = {}
    extra = 0
    for b in range(256):
        if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255:
            alphabet[chr(b)] = b
        else:
            alphabet[chr(256 + extra)] = b
            extra += 1
    pieces = [bytes(alphabet[c] for c in p) for p, _ in sorted(vocab.items(), key=lambda x: x[1])]
    ranks = {p: i for i, p in enumerate(pieces)}
    with open(os.path.join(HERE, "ranks.tiktoken"), "w") as f:
        for piece, rank in ranks.items():
            f.write("%s %d\n" % (base64.b64encode(piece).decode(), rank))
    special = {"<|endoftext|>": len(ranks) + 3, "<|pad|>": len(ranks)}
    config = {"eos_token": "<|endoftext|>", "added_tokens_decoder": {
        str(i): {"content": s, "special": True} for s, i in special.items()}}
    with open(os.path.join(HERE, "ranks.config.json"), "w") as f:
        json.dump(config, f)
    enc = tiktoken.Encoding("own", pat_str=CL100K, mergeable_ranks=ranks, special_tokens=special)
    cases = []
    for text in texts("ranks", list(special)):
        ids = enc.encode(text, disallowed_special=())
        cases.append({"text": text, "flags": 0, "ids": ids, "decoded": text})
        ids = enc.encode(text, allowed_special="all")
        cases.append({"text": text, "flags": 2, "ids": ids, "decoded": text})
    write_cases("ranks", cases)


def gguf_value(value):
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        raw = value.encode()
        return 8, struct.pack("<Q", len(raw)) + raw
    kind = 5 if isinstance(value[0], int) else gguf_value(value[0])[0]
    body = b"".join(struct.pack("<i", v) if kind == 5 else gguf_value(v)[1] for v in value)
    return 9, struct.pack("<IQ", kind, len(value)) + body


def write_gguf(name, values):
    with open(os.path.join(HERE, name + ".gguf"), "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)))
        for key, value in values.items():
            kind, body = gguf_value(value)
            f.write(gguf_value(key)[1] + struct.pack("<I", kind) + body)


def gguf_bpe():
    """byte_bpe_three_splits as a GGUF vocabulary."""
    with open(os.path.join(HERE, "byte_bpe_three_splits.json"), encoding="utf-8") as f:
        data = json.load(f)
    tokens = {i: p for p, i in data["model"]["vocab"].items()}
    types = {i: 1 for i in tokens}
    for token in data["added_tokens"]:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = 3 if token["special"] else 4
    write_gguf("gguf_bpe", {
        "general.architecture": "llama", "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "deepseek-v3",
        "tokenizer.ggml.tokens": [tokens[i] for i in range(len(tokens))],
        "tokenizer.ggml.token_type": [types[i] for i in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(m) for m in data["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": len(tokens) - 2, "tokenizer.ggml.add_bos_token": True})
    tok = Tokenizer.from_file(os.path.join(HERE, "byte_bpe_three_splits.json"))
    bos = len(tokens) - 2
    cases = []
    for i, text in enumerate(texts("gguf_bpe", ["<\uff5cbegin\uff5c>", "<\uff5cuser\uff5c>"])):
        ids = tok.encode(text).ids
        flags = 3 if i % 4 == 0 else 2
        cases.append({"text": text, "flags": flags, "ids": [bos] * (flags & 1) + ids})
    write_cases("gguf_bpe", cases)


def gguf_sentencepiece():
    """sp_bpe as a GGUF vocabulary."""
    sp = sentencepiece.SentencePieceProcessor(model_file=os.path.join(HERE, "sp_plain.model"))
    n = sp.get_piece_size()
    types = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1
             for i in range(n)]
    write_gguf("gguf_sentencepiece", {
        "general.architecture": "llama", "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [sp.id_to_piece(i) for i in range(n)],
        "tokenizer.ggml.scores": [float(sp.get_score(i)) for i in range(n)],
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2})
    cases = []
    for i, text in enumerate(texts("gguf_sentencepiece", [])):
        ids = sp.encode(text)
        cases.append({"text": text, "flags": i % 2, "ids": [1] * (i % 2) + ids})
    write_cases("gguf_sentencepiece", cases)


if __name__ == "__main__":
    byte_bpe_nfc()
    byte_bpe_ignore_merges()
    byte_bpe_three_splits()
    gpt2_added_tokens()
    stages()
    word_stages()
    word_suffix()
    llama_legacy()
    llama_metaspace("llama_metaspace_first", "first", False)
    llama_metaspace("llama_metaspace_always", "always", True)
    unigram("unigram", normalizers.Sequence([normalizers.NFKC(), normalizers.StripAccents()]), False)
    unigram("unigram_bytes", normalizers.NFKD(), True)
    sentencepiece_model("sp_bpe", model_type="bpe", vocab_size=560, byte_fallback=True,
                        normalization_rule_name="identity", remove_extra_whitespaces=False,
                        user_defined_symbols=["[INST]", "  ", "\u2581the"])
    sentencepiece_model("sp_plain", model_type="bpe", vocab_size=500, byte_fallback=True,
                        normalization_rule_name="identity", remove_extra_whitespaces=False)
    sentencepiece_model("sp_unigram", model_type="unigram", vocab_size=330, rules=True,
                        user_defined_symbols=["<extra>", "12"])
    sentencepiece_model("sp_unigram_suffix", model_type="unigram", vocab_size=560, rules=True,
                        treat_whitespace_as_suffix=True, byte_fallback=True)
    sp_unused()
    tiktoken_ranks()
    gguf_bpe()
    gguf_sentencepiece()
