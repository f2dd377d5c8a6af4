#!/bin/sh
# clang-tidy over our sources with the compile commands of a build: tidy.sh BUILD_DIR
set -eu
cd "$(dirname "$0")/../.."
program=$(command -v clang-tidy-14 || command -v clang-tidy)
# A build without CUDA has no compile commands for these, and maybe no cuda.h.
skip='^$'
grep -q src/device/cuda "$1/compile_commands.json" || skip='^src/device/cuda/'
git ls-files 'src/*.c' 'kernels/*.c' | grep -v "$skip" | xargs -P "$(nproc)" -n 1 "$program" -p "$1" --quiet 2>build/tidy.log || {
    cat build/tidy.log
    exit 1
}
