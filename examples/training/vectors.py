"""Write the test vectors that moed's own tests compare with.

    python3 vectors.py MODEL_FOLDER OUT_FOLDER

greedy.json, tokenizer.jsonl and chat.json, all computed by transformers and tokenizers in
fp32 on a CPU.  The format of each is in tests/data/story/README.md.
"""

import json
import pathlib
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

LIMIT = 128
CHATS = [
    "Tell me a story about a fox.",
    "Tell me a story about a king.",
    "Write a short story about a lighthouse.",
    "What is the capital of France?",
    "What does the word \"lantern\" mean?",
    "Hello!",
    "Read me a page from an old book about a squirrel.",
]
PLAIN = ["Once upon a time", "The old owl looked down and said, \"", "# The Lost Kite\n"]
TEXTS = [
    "", " ", "  ", "\n", "\n\n", " \n \n", "\t", "\t\tx", "a", "A", "Hello", " Hello", "  Hello", "Hello ", "Hello  world", "hello\nworld",
    "hello\r\nworld", "hello \n world", "hello\n\n  world\n", "Once upon a time there was a fox.", "\"No,\" said the fox.", "It's", "IT'S", "it\u2019s",
    "I'll, we've, they're, I'd, can't, I'm", "'tis 'twas", "don''t", "1", "12", "1234567890", "3.14159", "1,000,000", "a1b2c3", "x = y + 2;",
    "for (int i = 0; i < n; i++) { sum += a[i]; }", "{\"key\": [1, 2, null]}", "http://example.org/a?b=c&d=e#f", "snake_case CamelCase kebab-case",
    "...", "?!?!", "--", "- - -", "(a) [b] {c}", "$5.00 & 10%", "caf\u00e9", "cafe\u0301", "\u212b \u00c5 A\u030a", "na\u00efve \u0153uvre \u00df",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440", "\u4f60\u597d\u4e16\u754c", "\u3053\u3093\u306b\u3061\u306f", "\uc548\ub155", "\u1112\u1161\u11ab", "\u0645\u0631\u062d\u0628\u0627", "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f98a", "a \U0001f98a and a \U0001f43b!", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\u00a0nbsp\u00a0", "zero\u200bwidth", "\u2003em space", "tab\tseparated\tvalues",
    "<|endoftext|>", "a<|endoftext|>b", "<|im_start|>user\nHi<|im_end|>\n", "<|im_start|>", "<|im_end|><|im_end|>", "<|im_sta", " <|im_end|> ", "<|IM_END|>",
    "supercalifragilisticexpialidocious", "zzzzzzzzzzzzzzzzzzzz", "aAaAaAaA", "\u00bd \u00b2 \u2167 \u0663", "\ufb01nd", "line one\nline two\n\n\nline five", "end with spaces   ", "   start with spaces",
    "The capital of Chad is N'Djamena.", "\u0001control\u0007", "\u00ff\u0100\u017f\u2126", "mixed \u4e2d\u6587 and English\uff0c\u6807\u70b9\u3002",
]
CONVERSATIONS = [
    [{"role": "user", "content": "Hello!"}],
    [{"role": "system", "content": "You are a storyteller."}, {"role": "user", "content": "Tell me a story about a fox."}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello! Shall I tell you a story?"}, {"role": "user", "content": "Yes, please.\nA short one."}],
    [{"role": "user", "content": "  spaces stay  "}],
    [{"role": "user", "content": "quotes \" and 'quotes', \\ and {{ braces }}"}],
    [{"role": "user", "content": "caf\u00e9 \U0001f98a"}, {"role": "assistant", "content": ""}],
]


def greedy(model, tokenizer, name, text):
    """Greedy continuation by full recomputation, so that no cache can hide a mistake."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    given, steps = len(ids), []
    while len(steps) < LIMIT:
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        top = logprobs.topk(5)
        steps.append({
            "id": int(top.indices[0]),
            "gap": round(float(top.values[0] - top.values[1]), 6),
            "top": [[int(i), round(float(v), 6)] for i, v in zip(top.indices, top.values)],
        })
        ids.append(steps[-1]["id"])
        if steps[-1]["id"] in (0, 2):
            break
    made = ids[given:]
    return {
        "name": name, "prompt": text, "prompt_ids": ids[:given], "ids": made,
        "text": tokenizer.decode(made, skip_special_tokens=True), "steps": steps,
    }


def main():
    source, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()

    def render(messages, prompt):
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)

    cases = [("chat", render([{"role": "user", "content": text}], True)) for text in CHATS] + [("plain", text) for text in PLAIN]
    vectors = [greedy(model, tokenizer, name, text) for name, text in cases]
    (out / "greedy.json").write_text(json.dumps(vectors, separators=(",", ":")).replace("},{\"name\"", "},\n{\"name\"") + "\n")
    plain = Tokenizer.from_file(str(source / "tokenizer.json"))
    with open(out / "tokenizer.jsonl", "w", encoding="utf-8") as lines:
        for text in TEXTS:
            lines.write(json.dumps({"text": text, "ids": plain.encode(text, add_special_tokens=False).ids}) + "\n")
    chats = [
        {"messages": m, "add_generation_prompt": p, "text": render(m, p), "ids": plain.encode(render(m, p), add_special_tokens=False).ids}
        for m in CONVERSATIONS for p in (False, True)
    ]
    (out / "chat.json").write_text(json.dumps(chats, indent=1) + "\n")


if __name__ == "__main__":
    main()
