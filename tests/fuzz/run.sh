#!/bin/sh
# Runs one fuzz target for some seconds from its corpus: run.sh SECONDS TARGET. What it finds is kept beside the target's build.
set -eu
name=$(basename "$2" | sed 's/^fuzz_//')
found=$(dirname "$2")/../found/$name
log=$found.log
mkdir -p "$found"
if "$2" -max_total_time="$1" -timeout=10 -rss_limit_mb=4096 -verbosity=0 -print_final_stats=1 -artifact_prefix="$found-" \
    "$found" "tests/fuzz/corpus/$name" >"$log" 2>&1; then
    echo "fuzz $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs, nothing found"
else
    tail -n 60 "$log"
    echo "fuzz $name FAILED" >&2
    exit 255
fi
