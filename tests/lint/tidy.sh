#!/bin/sh
# clang-tidy over our sources with the compile commands of a build: tidy.sh BUILD_DIR
set -eu
cd "$(dirname "$0")/../.."
program=$(command -v clang-tidy-14 || command -v clang-tidy)
git ls-files 'src/*.c' 'kernels/*.c' | xargs -P "$(nproc)" -n 1 "$program" -p "$1" --quiet 2>build/tidy.log || {
    cat build/tidy.log
    exit 1
}
