#!/bin/sh
# The API with curl: sh examples/curl.sh [URL]. Needs a running server: moed serve MODEL.
set -eu
url=${1:-http://127.0.0.1:8000}
json='Content-Type: application/json'

ask() {
    printf '\n$ curl %s\n' "$1"
    path=$1
    shift
    curl -sS "$url$path" "$@"
    echo
}

ask /v1/models
ask /v1/completions -H "$json" -d '{"prompt": "Once upon a time", "max_tokens": 32, "temperature": 0.7, "seed": 1}'
ask /v1/completions -N -H "$json" -d '{"prompt": "Once upon a time", "max_tokens": 16, "stream": true}'
ask /v1/completions -H "$json" -d '{"prompt": "Once upon a time", "max_tokens": 0, "echo": true, "logprobs": 1}'
ask /v1/chat/completions -H "$json" -d '{"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 32}'
ask /tokenize -H "$json" -d '{"prompt": "Once upon a time"}'
ask /health
