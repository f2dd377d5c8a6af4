#!/bin/sh
# Installs what the tests need, builds, and runs them.
#   sh tests/run.sh              release and address+undefined builds, lint, fuzz corpora, the running server
#   sh tests/run.sh --deep       the same, then the thread sanitizer, long property tests, clang-tidy, 60 s of each fuzzer
#   sh tests/run.sh --deep-only  only what --deep adds
# MOED_TEST_DATA names the folder of outside test data, if there is one; tests that need it are skipped otherwise.
set -eu
cd "$(dirname "$0")/.."

mode=${1:-base}
case $mode in
base | --deep | --deep-only) ;;
*)
    sed -n '2,6s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
fuzz_seconds=${MOED_FUZZ_SECONDS:-60}
jobs=$(nproc)

sh examples/packages.sh test
if [ ! -x build/venv/bin/pytest ] || [ tests/server/requirements.txt -nt build/venv/stamp ]; then
    python3 -m venv build/venv
    build/venv/bin/pip install -q --disable-pip-version-check -r tests/server/requirements.txt
    touch build/venv/stamp
fi

say() {
    printf '\n== %s (%s s)\n' "$1" "$(($(date +%s) - start))"
}
start=$(date +%s)

# build PRESET CMAKE_OPTIONS...; TARGETS may name the targets.
build() {
    preset=$1
    cmake --preset "$@" >build/"$preset".log 2>&1 || { cat build/"$preset".log; exit 1; }
    # shellcheck disable=SC2086
    cmake --build --preset "$preset" --target ${TARGETS:-all} >build/"$preset".log 2>&1 || {
        tail -n 100 build/"$preset".log
        exit 1
    }
}

# The running server of a preset. One test at a time would leave cores idle; tests of a file share a server.
server() {
    build/venv/bin/pytest -q -n "$jobs" --dist loadfile tests/server --moed build/"$1"/moed
}

# What the failed tests of the log $1 of ctest printed: the last 200 lines of each.
failures() {
    awk '
        function flush() {
            for (i = n > 200 ? n - 200 : 0; i < n; i++)
                print line[i]
            n = 0
        }
        /^ *[0-9]+\/[0-9]+ Test +#[0-9]+: / || /^ +Start +[0-9]+: / || /^[0-9]+% tests passed/ {
            flush()
            failed = /\*\*\*/ && !/\*\*\*Skipped/
            if (failed)
                print
            next
        }
        failed { line[n++] = $0 }
        END { flush() }
    ' "$1"
}

# Runs tests of a preset; the words after it choose them. Failed ones run once more, which says whether it was by
# chance; that makes nothing good.
tests() {
    preset=$1
    shift
    if ctest --preset "$preset" -j "$jobs" -LE deep "$@" --quiet -O build/test-"$preset".log; then
        tail -n 12 build/test-"$preset".log
        return
    fi
    failures build/test-"$preset".log
    sed -n '/^[0-9]*% tests passed/,$p' build/test-"$preset".log
    say "the failed tests once more"
    ctest --test-dir build/"$preset" --rerun-failed || true
    exit 1
}

base() {
    for preset in release asan; do
        say "build $preset"
        build $preset
        say "test $preset"
        tests $preset
    done
    say "the running server, address and undefined sanitizers"
    server asan
}

deep() {
    say "build tsan"
    build tsan -DEMULATOR=OFF
    say "test tsan"
    # What has threads; the rest is covered by the other builds.
    tests tsan -R '^(unit\.(base|io|device|pager|engine|http)|model)\.'
    say "the running server, thread sanitizer"
    server tsan
    say "long property tests"
    build release
    ctest --preset release -j "$jobs" -L deep --output-on-failure
    say "clang-tidy"
    sh tests/lint/tidy.sh build/release
    say "build fuzz"
    TARGETS="fuzzers moed" build fuzz
    say "each fuzzer for $fuzz_seconds s"
    find build/fuzz/tests -maxdepth 1 -type f -perm -u+x -name 'fuzz_*' | sort |
        xargs -P "$jobs" -n 1 sh tests/fuzz/run.sh "$fuzz_seconds"
}

mkdir -p build
[ "$mode" = --deep-only ] || base
[ "$mode" = base ] || deep
say "all passed"
