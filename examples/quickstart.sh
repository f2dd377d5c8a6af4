#!/bin/sh
# From a fresh Debian 12 to a served model: installs packages, builds, serves the model that ships with moed.
#   sh examples/quickstart.sh [MODEL_DIR] [options of moed serve]
set -eu
cd "$(dirname "$0")/.."

sh examples/packages.sh
cuda=off
if [ -e /dev/nvidia0 ] && command -v nvcc >/dev/null; then
    cuda=auto
fi
cmake -S . -B build/quickstart -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMOED_TESTS=OFF -DCUDA=$cuda >/dev/null
cmake --build build/quickstart

if [ $# -gt 0 ] && [ -d "$1" ]; then
    model=$1
    shift
else
    model=examples/models/storyteller
fi
port=8000
last=
for word in "$@"; do
    case $word in --port=*) port=${word#--port=} ;; esac
    [ "$last" != --port ] || port=$word
    last=$word
done
cat <<TEXT

Ask it, from another terminal:

  curl http://127.0.0.1:$port/v1/chat/completions -H 'Content-Type: application/json' -N \\
    -d '{"messages": [{"role": "user", "content": "Tell me a story about a fox."}], "stream": true}'

TEXT
exec build/quickstart/moed serve "$model" "$@"
