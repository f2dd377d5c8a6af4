#!/usr/bin/env python3
"""bench_tokenizer and Hugging Face tokenizers on the same text, in one run, one core each.

    python3 tests/bench/bench_tokenizer.py build/release/tests/bench_tokenizer TEXT TOKENIZER.json...
    (pip install tokenizers)
"""
import os
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import Tokenizer  # noqa: E402

DOCUMENT_BYTES = 16 << 10


def documents(data):
    at = 0
    while at < len(data):
        end = min(at + DOCUMENT_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end += 1
        yield data[at:end].decode()
        at = end


def main():
    program, text_path, paths = sys.argv[1], sys.argv[2], sys.argv[3:]
    with open(text_path, "rb") as f:
        data = f.read()
    docs = list(documents(data))
    print("%-40s %8s %8s %8s %8s %6s %8s" % ("", "load ms", "HF ms", "MB/s", "HF MB/s", "ratio", "tokens"))
    for path in paths:
        line = subprocess.run([program, path, text_path], check=True, capture_output=True, text=True)
        _, load, speed, tokens, _ = line.stdout.strip().split("\t")
        begin = time.process_time()
        tok = Tokenizer.from_file(path)
        hf_load = time.process_time() - begin
        best = 1e9
        for _ in range(3):
            begin = time.process_time()
            n = sum(len(tok.encode(doc, add_special_tokens=False).ids) for doc in docs)
            best = min(best, time.process_time() - begin)
        hf_speed = 1e-6 * len(data) / best
        same = "" if n == int(tokens) else "  (HF: %d tokens)" % n
        print("%-40s %8s %8.0f %8s %8.1f %6.1f %8s%s" % (
            path[-40:], load, 1e3 * hf_load, speed, hf_speed, float(speed) / hf_speed, tokens, same))


if __name__ == "__main__":
    main()
