#!/usr/bin/env python3
"""Checks of the tree itself: lint.py CHECK [MOED_PROGRAM]. Prints each violation; exit status 1 if there is one."""

import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# What each room may include besides itself. The same order as in CMakeLists.txt, lowest first.
BASE = {"moed", "base"}
LAYERS = {
    "moed": set(),
    "base": {"moed"},
    "kernels": {"base"},
    "text": BASE,
    "io": BASE,
    "store": BASE | {"io"},
    "device": BASE | {"kernels"},
    "pager": BASE | {"io", "kernels", "device"},
    "model": BASE | {"io", "store", "kernels", "device", "pager"},
    "sched": BASE,
    "engine": BASE | {"text", "store", "kernels", "device", "pager", "model", "sched"},
    "http": BASE | {"text"},
    "cli": BASE | {"text", "store", "kernels", "device", "pager", "model", "engine", "http"},
    "main": BASE | {"cli"},
}
# Libraries that only one room may know.
LIBRARIES = {
    r"event2/": {"http"},
    r"uv\.h": {"io", "pager"},
    r"pcre2|utf8proc": {"text"},
    r"cuda": {"device"},
}
MAX_LINES = 1000
MAX_BYTES = 1 << 20
BIG_FILES = {"examples/models"}


def tracked(*patterns):
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=ROOT, capture_output=True,
                         text=True, check=True).stdout
    return [p for p in out.splitlines() if (ROOT / p).is_file()]


def room_of(path):
    parts = pathlib.PurePath(path).parts
    if parts[0] == "include":
        return "moed"
    if parts[0] == "kernels":
        return "kernels"
    return "main" if len(parts) == 2 else parts[1]


def room_of_include(name):
    head = name.split("/")[0]
    if "/" not in name or head == "cpu":
        return "kernels" if (ROOT / "kernels" / name).exists() else None
    return head if head in LAYERS else None


def check_layers():
    for path in tracked("include/*.h", "src/*.[ch]", "kernels/*.[ch]"):
        room = room_of(path)
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            m = re.match(r'\s*#\s*include\s*([<"])([^>"]+)', line)
            if not m:
                continue
            name = m.group(2)
            target = room_of_include(name) if m.group(1) == '"' else None
            if target and target != room and target not in LAYERS[room]:
                yield f"{path}:{number}: {room} may not include {name}"
            if target and target != room and name.endswith("_int.h"):
                yield f"{path}:{number}: {name} is private to {target}"
            for pattern, rooms in LIBRARIES.items():
                if m.group(1) == "<" and re.match(pattern, name) and room not in rooms:
                    yield f"{path}:{number}: only {', '.join(sorted(rooms))} may include <{name}>"


def check_sizes():
    for path in tracked("*.[ch]", "*.py", "*.sh", "*.cu", "*.cuh", "*CMakeLists.txt"):
        lines = (ROOT / path).read_text(errors="replace").count("\n")
        if lines > MAX_LINES:
            yield f"{path}: {lines} lines, more than {MAX_LINES}"
    for path in tracked():
        size = (ROOT / path).stat().st_size
        if size > MAX_BYTES and not any(path.startswith(p) for p in BIG_FILES):
            yield f"{path}: {size} bytes, more than {MAX_BYTES}"


def check_environment():
    for path in tracked("include/*.h", "src/*.[ch]", "kernels/*.[ch]"):
        if path == "src/base/options.c":
            continue
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            if re.search(r"\b(secure_)?getenv\s*\(|\benviron\b", line):
                yield f"{path}:{number}: only src/base/options.c reads the environment"


def check_docs():
    """Files and folders of ours that documents name must exist."""
    tops = r"(?:include|src|kernels|tests|examples|docs|\.ci)"
    for path in tracked("*.md"):
        text = (ROOT / path).read_text()
        names = set(re.findall(rf"(?<![\w./-])({tops}/[\w./-]*\w)(?![*\w])", text))
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
            names.add(str((ROOT / path).parent.joinpath(target).resolve().relative_to(ROOT)))
        for name in sorted(names):
            if not (ROOT / name).exists():
                yield f"{path}: names {name}, which is not there"


def check_words():
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for path in tracked("*.[ch]", "*.py", "*.sh", "*.cu", "*.cuh", "*.txt"):
        if path == "tests/lint/lint.py":
            continue
        for number, line in enumerate((ROOT / path).read_text(errors="replace").splitlines(), 1):
            if words.search(line):
                yield f"{path}:{number}: unfinished work left in the code"


def check_format():
    program = shutil.which("clang-format-14") or shutil.which("clang-format")
    if not program:
        print("clang-format is not installed [  SKIPPED ]")
        return
    files = tracked("include/*.h", "src/*.[ch]", "kernels/*.[ch]", "tests/*.[ch]")
    done = subprocess.run([program, "--dry-run", "-Werror", *files], cwd=ROOT, capture_output=True, text=True)
    for line in done.stderr.splitlines():
        if "error:" in line:
            yield line


def check_reference(program):
    out = subprocess.run([program, "reference"], capture_output=True, text=True, check=True).stdout
    if out != (ROOT / "docs/options.md").read_text():
        yield "docs/options.md differs from the output of `moed reference`"


def check_unit():
    """The systemd unit is exposed by at most 2.5 of 10, as systemd-analyze counts."""
    program = shutil.which("systemd-analyze")
    if not program:
        print("systemd-analyze is not installed [  SKIPPED ]")
        return
    unit = ROOT / "examples/systemd/moed.service"
    done = subprocess.run([program, "security", "--no-pager", "--offline=true", "--threshold=25", str(unit)],
                          capture_output=True, text=True)
    if done.returncode:
        yield f"{unit.relative_to(ROOT)}: {(done.stdout + done.stderr).strip()}"


CHECKS = {
    "layers": check_layers, "sizes": check_sizes, "environment": check_environment, "docs": check_docs,
    "words": check_words, "format": check_format, "reference": check_reference,
    "unit": check_unit,
}


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in CHECKS:
        sys.exit(f"usage: lint.py {'|'.join(CHECKS)} [PROGRAM]")
    faults = list(CHECKS[sys.argv[1]](*sys.argv[2:]))
    for fault in faults:
        print(fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
