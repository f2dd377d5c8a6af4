#!/usr/bin/env python3
"""Lists the kernels of a preprocessed CUDA source for emulator.h: list_kernels.py IN OUT."""

import re
import sys

HEAD = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*(\((?:[^()]|\([^()]*\))*\))\s*)?(\w+)\s*\(")


def first_bound(text):
    """The most threads of a block: the first argument of __launch_bounds__."""
    return text[1:-1].split(",")[0].strip() if text else "1024"


def main():
    source = open(sys.argv[1], encoding="utf-8").read()
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        for match in HEAD.finditer(source):
            out.write(f"EMULATED_KERNEL({match.group(2)}, {first_bound(match.group(1))})\n")


if __name__ == "__main__":
    main()
