#include "cli/cli.h"

/* Every option of the program. --help, docs/options.md and the parser read these rows. */
const struct option_row cli_rows[] = {
    /* The model and its memory */
    {"model", 0, OPTION_STRING, "DIR", NULL, 0, 0, CLI_MODEL_COMMANDS, "MOED_MODEL",
     "Model folder in Hugging Face layout; the same as the positional argument."},
    {"load-format", 0, OPTION_CHOICE, "auto|safetensors|dummy", "auto", 0, 0, CLI_MODEL_COMMANDS,
     NULL,
     "Where weights come from. dummy needs only config.json and makes seeded random weights."},
    {"device", 0, OPTION_STRING, "auto|cpu|cuda|cuda:N", "auto", 0, 0, CLI_MODEL_COMMANDS,
     "MOED_DEVICE",
     "Where the model computes. auto takes a CUDA GPU where there is one, else the CPU, and the "
     "log "
     "says why."},
    {"device-memory-ratio", 0, OPTION_REAL, "PART", "0.75", 0.01, 1, CLI_MODEL_COMMANDS, NULL,
     "Share of a GPU's free memory that may be used: dense weights, KV cache, activations, expert "
     "slots."},
    {"threads", 't', OPTION_INT, "N", NULL, 0, 1024, CLI_MODEL_COMMANDS, "MOED_THREADS",
     "Compute threads. Without it: the cores that affinity and the cgroup leave."},
    {"isa", 0, OPTION_CHOICE, "auto|scalar|avx2|avx512", "auto", 0, 0, CLI_MODEL_COMMANDS, NULL,
     "Instruction set of the CPU kernels. All give the same bits."},
    {"expert-cache", 0, OPTION_SIZE, "SIZE", NULL, 0, 0, CLI_MODEL_COMMANDS & ~CLI_BENCH,
     "MOED_EXPERT_CACHE",
     "Device memory for expert slots: bytes, or a share of all experts such as 25%. Without it a "
     "GPU gets as many as fit; the CPU uses experts in place. With it a copying link and an arena "
     "stand in for a GPU on the CPU. "
     "Below the size of one expert there are no slots."},
    {"expert-cache", 0, OPTION_STRING, "LIST", NULL, 0, 0, CLI_BENCH, "MOED_EXPERT_CACHE",
     "The same for moed bench: one or more sizes, such as 0,4GiB,25%,100%. The cases run at each, "
     "with the weights loaded once."},
    {"expert-policy", 0, OPTION_CHOICE, "steady|lfru|lfu|lru", "steady", 0, 0, CLI_MODEL_COMMANDS,
     NULL, "Which expert leaves the cache. Changes speed, never output."},
    {"expert-records", 0, OPTION_CHOICE, "auto|plain|packed", "auto", 0, 0, CLI_MODEL_COMMANDS,
     NULL,
     "How experts lie in memory: plain, as in the files, or packed, bf16 in 12 bits a number "
     "without loss: three quarters of the bytes, a third more experts in as much of a GPU. auto "
     "packs bf16 experts where a GPU has room for less than two fifths of them, where it has room "
     "for all packed ones but not for all plain ones, and where the host has none for plain ones. "
     "Changes speed and memory, never output."},
    {"link-speed", 0, OPTION_BYTES, "BYTES", NULL, 0, 0, CLI_MODEL_COMMANDS, NULL,
     "Speed limit of the stand-in link in bytes per second. Without it: as fast as memory copies."},
    {"miss-threads", 0, OPTION_INT, "N", NULL, 0, 256, CLI_MODEL_COMMANDS, NULL,
     "Threads that compute what a GPU does not hold. Without it: the cores that affinity leaves, "
     "but one; of a cgroup's quota below that, all but two."},
    {"miss-link-share", 0, OPTION_STRING, "PERCENT|auto", "auto", 0, 0, CLI_MODEL_COMMANDS, NULL,
     "Of what a GPU does not hold, the part that it reads over the link while those threads "
     "compute the rest; auto: learned while running. Changes speed, never output."},
    {"one-row-step", 0, OPTION_CHOICE, "ops|fused", "fused", 0, 0, CLI_MODEL_COMMANDS, NULL,
     "A step of one row on a GPU: a launch for each op, or, where model and GPU allow it, all "
     "layers "
     "in one launch. Changes speed, never output."},
    {"stage-min-rows", 0, OPTION_INT, "N", NULL, 0, 1048576, CLI_MODEL_COMMANDS, NULL,
     "Missed experts that at least N rows want are copied to a staging slot first. 0: never."},
    {"kv-cache-dtype", 0, OPTION_CHOICE, "auto|bf16|fp32", "auto", 0, 0, CLI_MODEL_COMMANDS, NULL,
     "Number format of the KV cache; auto is bf16."},
    {"kv-cache-memory", 0, OPTION_BYTES, "SIZE", NULL, 0, 0, CLI_MODEL_COMMANDS, NULL,
     "Bytes of the KV cache. Without it: planned from what memory is left."},
    {"max-model-len", 0, OPTION_INT, "TOKENS", NULL, 1, 16777216, CLI_MODEL_COMMANDS, NULL,
     "Longest prompt and output of one sequence. Without it: the model's own, or what the KV cache "
     "holds."},
    {"max-num-seqs", 0, OPTION_INT, "N", "64", 1, 4096, CLI_MODEL_COMMANDS, NULL,
     "Sequences computed together."},
    {"admission", 0, OPTION_CHOICE, "all|measured", "measured", 0, 0, CLI_SERVE | CLI_BENCH, NULL,
     "Which streams decode together: all, or only as many as do not lower the tokens per second of "
     "all, by what was measured. Where streams evict each other's experts, measured keeps the "
     "total up and ends requests sooner: prompts are read and first tokens come as ever, and the "
     "rest of an answer waits for the answers before it. With all experts resident both are the "
     "same."},
    {"admission-wait-ms", 0, OPTION_REAL, "MS", "60000", 0, 86400000, CLI_SERVE | CLI_BENCH, NULL,
     "With measured admission: an answer goes on all the same this long after it was asked for, "
     "and "
     "fewer streams than keep that wait are not chosen. 0: no limit."},
    {"max-num-batched-tokens", 0, OPTION_INT, "N", NULL, 1, 65536, CLI_MODEL_COMMANDS, NULL,
     "Rows of one step: decode rows first, then prompts. Without it: 512, or 64 beside long "
     "passes; "
     "at least the sequences."},
    {"long-prefill-tokens", 0, OPTION_INT, "N", NULL, 0, 1048576, CLI_MODEL_COMMANDS, NULL,
     "Prompt tokens of a pass of its own that pauses at layers while steps run. 0: none, prompts "
     "are cut into the steps. Without it: up to 16384 on a GPU, none on the CPU."},
    {"target-itl-ms", 0, OPTION_REAL, "MS", "100", 1, 60000, CLI_MODEL_COMMANDS, NULL,
     "Time between two tokens of a stream that a long pass keeps by pausing. Less makes streams "
     "smoother and long prompts slower."},
    {"no-prefix-cache", 0, OPTION_FLAG, NULL, NULL, 0, 0, CLI_SERVE | CLI_GENERATE | CLI_PLAN, NULL,
     "Do not reuse the KV blocks of equal prompt beginnings."},
    {"generation-config", 0, OPTION_CHOICE, "auto|none", "auto", 0, 0, CLI_SERVE | CLI_GENERATE,
     NULL, "Take sampling defaults from the model's generation_config.json, or not."},

    /* Serving */
    {"host", 0, OPTION_STRING, "ADDRESS", "127.0.0.1", 0, 0, CLI_SERVE, "MOED_HOST",
     "Address to listen on; :: for all of IPv6 and IPv4."},
    {"port", 0, OPTION_INT, "N", "8000", 0, 65535, CLI_SERVE, "MOED_PORT",
     "Port to listen on; 0 takes a free one."},
    {"served-model-name", 0, OPTION_LIST, "NAME", NULL, 0, 0, CLI_SERVE, NULL,
     "Name in /v1/models and requests; may be repeated. Without it: the folder's name."},
    {"api-key", 0, OPTION_LIST, "KEY", NULL, 0, 0, CLI_SERVE, "MOED_API_KEY",
     "Key that clients must send as a bearer token; may be repeated. Visible in the process list: "
     "prefer the file."},
    {"api-key-file", 0, OPTION_STRING, "FILE", NULL, 0, 0, CLI_SERVE, NULL,
     "File with one key a line; read again on SIGHUP."},
    {"prefix-per-key", 0, OPTION_FLAG, NULL, NULL, 0, 0, CLI_SERVE, NULL,
     "Reuse equal prompt beginnings only among requests with the same API key."},
    {"cors-origin", 0, OPTION_LIST, "ORIGIN", NULL, 0, 0, CLI_SERVE, NULL,
     "Origin that browsers may call from; * for any; may be repeated."},
    {"max-queue", 0, OPTION_INT, "N", "256", 0, 65536, CLI_SERVE, NULL,
     "Requests that may wait; more get 429 with Retry-After."},
    {"request-timeout", 0, OPTION_REAL, "SECONDS", "600", 0, 86400, CLI_SERVE, NULL,
     "Longest life of a request; 0: no limit. A request may ask for less with its field timeout."},
    {"max-connections", 0, OPTION_INT, "N", "1024", 1, 1048576, CLI_SERVE, NULL,
     "Open client connections."},
    {"max-body", 0, OPTION_BYTES, "SIZE", "16MiB", 0, 0, CLI_SERVE, NULL, "Largest request body."},
    {"drain-timeout", 0, OPTION_REAL, "SECONDS", "30", 0, 3600, CLI_SERVE, NULL,
     "How long SIGTERM waits for running requests."},
    {"chat-template", 0, OPTION_STRING, "FILE", NULL, 0, 0, CLI_SERVE | CLI_GENERATE, NULL,
     "Jinja template instead of the model's own."},
    {"template-time", 0, OPTION_STRING, "ISO8601", NULL, 0, 0, CLI_SERVE | CLI_GENERATE, NULL,
     "Fixes the time that templates see, as 2026-01-31T12:00:00."},

    /* Generating */
    {"prompt", 'p', OPTION_STRING, "TEXT", NULL, 0, 0, CLI_GENERATE, NULL,
     "Text to continue. Without it: standard input."},
    {"chat", 0, OPTION_FLAG, NULL, NULL, 0, 0, CLI_GENERATE, NULL,
     "Wrap the prompt as a user's message in the chat template."},
    {"max-tokens", 'n', OPTION_INT, "N", "256", 1, 16777216, CLI_GENERATE, NULL,
     "New tokens at most."},
    {"temperature", 0, OPTION_REAL, "T", NULL, 0, 100, CLI_GENERATE, NULL,
     "Sampling temperature; 0 takes the likeliest token. Without it: the model's default."},
    {"top-p", 0, OPTION_REAL, "P", NULL, 0, 1, CLI_GENERATE, NULL, "Nucleus sampling."},
    {"seed", 0, OPTION_INT, "N", NULL, 0, 9e15, CLI_GENERATE, NULL,
     "Seed of the random numbers; the same seed, the same text."},
    {"stats", 0, OPTION_FLAG, NULL, NULL, 0, 0, CLI_GENERATE, NULL,
     "Print speed and cache counters at the end."},

    /* Measuring */
    {"cases", 0, OPTION_STRING, "LIST", "prefill,decode", 0, 0, CLI_BENCH, NULL,
     "What is measured: prefill of each prompt length, decode at each batch size, mixed: each "
     "prompt beside the largest batch of decoding streams, paced by --target-itl-ms, clients: so "
     "many "
     "clients as --batch says in a closed loop, each with one conversation of --decode-tokens "
     "after "
     "another, until each has had --runs of them or the time is over. Several sets are separated "
     "by ';', and options may be given for one of them: \"decode "
     "expert-cache=0,100% batch=1; prefill expert-cache=25%\". They are routing, expert-cache, "
     "batch, prompt-tokens, decode-tokens, warmup-tokens, runs, target-itl-ms, admission, "
     "admission-wait-ms."},
    {"routing", 0, OPTION_STRING, "model|synthetic:NAME", "model", 0, 0, CLI_BENCH, NULL,
     "Who chooses experts: the model's own router, or choices drawn with the locality of a real "
     "model. NAME is one of olmoe, gpt-oss-20b, qwen3-30b-a3b, qwen3-30b-a3b-one-tenant, "
     "gpt-oss-120b, mixtral-8x7b, deepseek-v2-lite, qwen1.5-moe, qwen2-57b, phi-3.5-moe, or "
     "uniform (no locality)."},
    {"batch", 0, OPTION_STRING, "LIST", "1,2,4,8,16,32", 0, 0, CLI_BENCH, NULL,
     "Batch sizes of the decode cases: so many streams, each with routing of its own."},
    {"prompt-tokens", 0, OPTION_STRING, "LIST", "512", 0, 0, CLI_BENCH, NULL,
     "Prompt lengths of the prefill cases."},
    {"decode-tokens", 0, OPTION_INT, "N", "32", 1, 65536, CLI_BENCH, NULL,
     "Decode steps of each run."},
    {"case-seconds", 0, OPTION_REAL, "SECONDS", "120", 1, 86400, CLI_BENCH, NULL,
     "Time of a case with its warm-up. Where it does not suffice, runs are shorter or fewer."},
    {"total-seconds", 0, OPTION_REAL, "SECONDS", "0", 0, 86400, CLI_BENCH, NULL,
     "Time of all cases and of loading the model: what is not measured by then is left out. 0: no "
     "limit."},
    {"warmup-tokens", 0, OPTION_INT, "N", NULL, 0, 1048576, CLI_BENCH, NULL,
     "Tokens that all streams together decode before each decode case, not measured, so that the "
     "cache is in its steady state; 32 steps at least. Without it: 256 with synthetic routing and "
     "an expert cache, else 0."},
    {"context", 0, OPTION_INT, "N", "128", 0, 1048576, CLI_BENCH, NULL,
     "Tokens in the cache when decoding starts."},
    {"runs", 0, OPTION_INT, "N", "3", 1, 100, CLI_BENCH, NULL, "Repetitions; the median is shown."},
    {"json", 0, OPTION_FLAG, NULL, NULL, 0, 0, CLI_BENCH | CLI_PLAN, NULL,
     "Print JSON instead of a table."},

    /* The log */
    {"log-level", 0, OPTION_CHOICE, "error|warning|info|debug", "info", 0, 0, CLI_MODEL_COMMANDS,
     "MOED_LOG_LEVEL", "How much is logged on standard error."},
    {"log-format", 0, OPTION_CHOICE, "text|json", "text", 0, 0, CLI_MODEL_COMMANDS, NULL,
     "Form of log lines."},
};
const size_t cli_n_rows = sizeof cli_rows / sizeof cli_rows[0];
