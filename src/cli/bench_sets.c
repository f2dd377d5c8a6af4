/*
 * What moed bench is asked to measure: --cases is one or more sets, separated by ';'. A set names
 * kinds of cases and then, as NAME=VALUE, options that hold for it alone.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"

#define SYNTHETIC "synthetic:"
/* Fills the steady state of a cache of Qwen3-30B-A3B: eight half-lives of its policy. */
#define WARMUP_TOKENS 256
#define MAX_TEXT      512

/* The next item of a list, its end in *p; NULL after the last. An item longer than the limit is
 * cut, which makes it wrong. */
static const char *next_item(const char **p, char separator, char *item, size_t size)
{
    const char set[] = {separator, 0};
    if (!**p)
        return NULL;
    size_t n = strcspn(*p, set);
    snprintf(item, size, "%.*s", (int)n, *p);
    *p += n;
    *p += **p == separator;
    return item;
}

static int list_too_long(const char *name, struct moed_error *err)
{
    return moed_fail_param(err, MOED_EINVAL, name, "--%s takes 1 to %d values", name,
                           BENCH_MAX_LIST);
}

static int parse_number(const char *name, const char *item, double min, double max, double *out,
                        struct moed_error *err)
{
    char *end;
    *out = strtod(item, &end);
    if (end == item || *end || !(*out >= min && *out <= max))
        return moed_fail_param(err, MOED_EINVAL, name, "--%s takes numbers from %g to %g, not '%s'",
                               name, min, max, item);
    return 0;
}

static int parse_numbers(const char *name, const char *text, int32_t max, int32_t *out,
                         struct moed_error *err)
{
    char item[32];
    int n = 0;
    for (const char *p = text; next_item(&p, ',', item, sizeof item);) {
        char *end;
        long value = strtol(item, &end, 10);
        if (end == item || *end || value < 1 || value > max)
            return moed_fail_param(err, MOED_EINVAL, name,
                                   "--%s takes numbers from 1 to %d such as 1,2,4, not '%s'", name,
                                   max, text);
        if (n == BENCH_MAX_LIST)
            return list_too_long(name, err);
        out[n++] = (int32_t)value;
    }
    return n ? n : list_too_long(name, err);
}

static int parse_caches(struct bench_set *s, const char *text, struct moed_error *err)
{
    char item[32];
    s->n_cache = 0;
    for (const char *at = text; next_item(&at, ',', item, sizeof item); s->n_cache++) {
        if (s->n_cache == BENCH_MAX_LIST)
            return list_too_long("expert-cache", err);
        struct bench_cache_size *c = &s->cache[s->n_cache];
        c->given = true;
        if (options_parse_size(item, &c->bytes, &c->share) < 0)
            return moed_fail_param(err, MOED_EINVAL, "expert-cache",
                                   "--expert-cache takes sizes such as 0,12GiB,25%%, not '%s'",
                                   text);
    }
    return s->n_cache ? 0 : list_too_long("expert-cache", err);
}

static int parse_kinds(struct bench_set *s, const char *text, struct moed_error *err)
{
    char item[32];
    memset(s->kinds, 0, sizeof s->kinds);
    for (const char *at = text; next_item(&at, ',', item, sizeof item);) {
        int kind = 0;
        while (kind < BENCH_KINDS && strcmp(bench_kind_names[kind], item) != 0)
            kind++;
        if (kind == BENCH_KINDS)
            return moed_fail_param(err, MOED_EINVAL, "cases",
                                   "--cases takes prefill, decode, mixed and clients, not '%s'",
                                   text);
        s->kinds[kind] = true;
    }
    return *text ? 0 : list_too_long("cases", err);
}

static int parse_routing(struct bench_set *s, const char *text, struct moed_error *err)
{
    size_t prefix = strlen(SYNTHETIC);
    s->routing = NULL;
    if (strcmp(text, "model") == 0)
        return 0;
    if (strncmp(text, SYNTHETIC, prefix) == 0)
        s->routing = routing_find(text + prefix);
    if (s->routing)
        return 0;
    struct buf names = {0};
    routing_names(&names);
    moed_fail_param(err, MOED_EINVAL, "routing",
                    "--routing takes model or synthetic:NAME, not '%s'; the names are %s", text,
                    buf_str(&names));
    buf_fini(&names);
    return MOED_EINVAL;
}

static int parse_whole(const char *name, const char *text, double min, double max, int32_t *out,
                       struct moed_error *err)
{
    double value;
    int rc = parse_number(name, text, min, max, &value, err);
    if (rc == 0 && value != floor(value))
        rc = moed_fail_param(err, MOED_EINVAL, name, "--%s takes whole numbers, not '%s'", name,
                             text);
    if (rc == 0)
        *out = (int32_t)value;
    return rc;
}

/* One option of a set. */
static int set_option(struct bench_set *s, const char *name, const char *text,
                      struct moed_error *err)
{
    double ms;
    int rc;
    if (strcmp(name, "routing") == 0)
        return parse_routing(s, text, err);
    if (strcmp(name, "expert-cache") == 0)
        return parse_caches(s, text, err);
    if (strcmp(name, "batch") == 0) {
        rc = s->n_batch = parse_numbers(name, text, BENCH_MAX_BATCH, s->batch, err);
        return rc < 0 ? rc : 0;
    }
    if (strcmp(name, "prompt-tokens") == 0) {
        rc = s->n_prompt = parse_numbers(name, text, 1 << 20, s->prompt, err);
        return rc < 0 ? rc : 0;
    }
    if (strcmp(name, "decode-tokens") == 0)
        return parse_whole(name, text, 1, 65536, &s->decode_steps, err);
    if (strcmp(name, "warmup-tokens") == 0)
        return parse_whole(name, text, 0, 1 << 20, &s->warmup_tokens, err);
    if (strcmp(name, "runs") == 0)
        return parse_whole(name, text, 1, BENCH_MAX_RUNS, &s->runs, err);
    if (strcmp(name, "target-itl-ms") == 0) {
        rc = parse_number(name, text, 1, 60000, &ms, err);
        s->target_itl_us = (int64_t)(ms * 1e3);
        return rc;
    }
    if (strcmp(name, "admission") == 0) {
        s->measured = strcmp(text, "measured") == 0;
        if (s->measured || strcmp(text, "all") == 0)
            return 0;
        return moed_fail_param(err, MOED_EINVAL, name,
                               "--admission takes all or measured, not '%s'", text);
    }
    if (strcmp(name, "admission-wait-ms") == 0) {
        rc = parse_number(name, text, 0, 86400000, &ms, err);
        s->admission_wait_us = (int64_t)(ms * 1e3);
        return rc;
    }
    return moed_fail_param(err, MOED_EINVAL, "cases",
                           "a set of cases takes routing, expert-cache, batch, prompt-tokens, "
                           "decode-tokens, warmup-tokens, runs, target-itl-ms, admission and "
                           "admission-wait-ms, not '%s'",
                           name);
}

/* What the command line says for all sets. */
static int common_options(struct bench_set *s, const struct options *o, struct moed_error *err)
{
    static const char *const lists[] = {"routing", "batch", "prompt-tokens", "expert-cache"};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        const char *text = options_string(o, lists[i]);
        int rc = text ? set_option(s, lists[i], text, err) : 0;
        if (rc < 0)
            return rc;
    }
    if (s->n_cache == 0)
        s->n_cache = 1;
    s->decode_steps = (int32_t)options_int(o, "decode-tokens");
    s->warmup_tokens =
        options_has(o, "warmup-tokens") ? (int32_t)options_int(o, "warmup-tokens") : -1;
    s->runs = (int32_t)options_int(o, "runs");
    s->target_itl_us = (int64_t)(options_real(o, "target-itl-ms") * 1e3);
    s->measured = strcmp(options_string(o, "admission"), "measured") == 0;
    s->admission_wait_us = (int64_t)(options_real(o, "admission-wait-ms") * 1e3);
    return 0;
}

static int parse_set(struct bench_set *s, const char *text, struct moed_error *err)
{
    char word[MAX_TEXT];
    bool first = true;
    for (const char *at = text; next_item(&at, ' ', word, sizeof word);) {
        char *value = strchr(word, '=');
        int rc = 0;
        if (!*word || *word == '\n')
            continue;
        if (first) {
            rc = parse_kinds(s, word, err);
        } else if (value) {
            *value++ = 0;
            rc = set_option(s, word, value, err);
        } else {
            rc =
                moed_fail_param(err, MOED_EINVAL, "cases", "--cases: '%s' is not NAME=VALUE", word);
        }
        if (rc < 0)
            return rc;
        first = false;
    }
    return first ? list_too_long("cases", err) : 0;
}

int bench_parse_sets(struct bench_set *sets, const struct options *o, bool cuda,
                     struct moed_error *err)
{
    struct bench_set common = {0};
    char text[MAX_TEXT];
    int n = 0, rc = common_options(&common, o, err);
    for (const char *at = options_string(o, "cases"); rc == 0;) {
        if (!next_item(&at, ';', text, sizeof text))
            break;
        if (n == BENCH_MAX_SETS)
            return moed_fail_param(err, MOED_EINVAL, "cases", "--cases takes at most %d sets",
                                   BENCH_MAX_SETS);
        struct bench_set *s = &sets[n++];
        *s = common;
        rc = parse_set(s, text, err);
        if (s->warmup_tokens < 0)
            s->warmup_tokens = s->routing && (s->cache[0].given || cuda) ? WARMUP_TOKENS : 0;
    }
    return rc < 0 ? rc : n ? n : list_too_long("cases", err);
}

static int32_t largest(const int32_t *values, int n)
{
    int32_t most = 1;
    for (int i = 0; i < n; i++)
        most = values[i] > most ? values[i] : most;
    return most;
}

int32_t bench_set_batch(const struct bench_set *s)
{
    return s->kinds[BENCH_DECODE] || s->kinds[BENCH_MIXED] || s->kinds[BENCH_CLIENTS]
               ? largest(s->batch, s->n_batch)
               : 1;
}

int32_t bench_set_prompt(const struct bench_set *s)
{
    return s->kinds[BENCH_PREFILL] || s->kinds[BENCH_MIXED] ? largest(s->prompt, s->n_prompt) : 1;
}

int bench_set_cases(const struct bench_set *s)
{
    int each = 0;
    for (enum bench_kind kind = 0; kind < BENCH_KINDS; kind++)
        if (s->kinds[kind])
            each += bench_by_batch(kind) ? s->n_batch : s->n_prompt;
    return each * s->n_cache;
}
