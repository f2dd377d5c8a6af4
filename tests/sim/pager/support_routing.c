#include "support_routing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

const struct routing routings[] = {
    {"OLMoE", 16, 64, 8, 1.16, 1.25, 1.86, 1.9, 900},
    {"gpt-oss-20b", 24, 32, 4, 0.60, 1.05, 1.05, 4.2, 950},
    {"Qwen3-30B-A3B", 48, 128, 8, 0.25, 1.66, 1.19, 2.6, 900},
    {"gpt-oss-120b", 36, 128, 4, 0.58, 0.94, 0.78, 8.0, 900},
    {"Mixtral-8x7B", 32, 8, 2, 0.11, 0.25, 0.61, 4.4, 700},
    {"DeepSeek-V2-Lite", 26, 64, 6, 0.11, 0.45, 0.70, 4.0, 650},
    {"Qwen1.5-MoE", 24, 60, 4, 0.12, 0.29, 0.43, 7.8, 700},
    {"Qwen2-57B", 28, 64, 8, 2.02, 1.38, 5.59, 1.0, 550},
    {"Phi-3.5-MoE", 32, 16, 2, 0.05, 4.66, 5.17, 1.3, 800},
    {"Qwen3-30B-A3B, one tenant", 48, 128, 8, 1.5, 1.0, 1.19, 2.6, 900},
};
const size_t n_routings = sizeof routings / sizeof routings[0];

const struct routing *routing_find(const char *name)
{
    for (size_t i = 0; i < n_routings; i++)
        if (strcmp(routings[i].name, name) == 0)
            return &routings[i];
    return NULL;
}

static uint32_t draw(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

/* Twelve uniform numbers make a normal one, near enough; the same on every machine. */
static float normal(uint64_t *s)
{
    uint64_t sum = 0;
    for (int i = 0; i < 12; i++)
        sum += draw(s) & 0xFFFFFF;
    return (float)((double)sum / 16777216.0 - 6.0);
}

struct stream {
    float *s, *f; /* [n_keys] */
    int left;     /* tokens of this conversation */
    int tokens;   /* of this step */
};

static void new_conversation(struct stream *st, const struct routing *r, int32_t n_keys,
                             uint64_t *seed)
{
    for (int32_t k = 0; k < n_keys; k++) {
        st->s[k] = (float)r->ss * normal(seed);
        st->f[k] = (float)r->sf * normal(seed);
    }
    st->left = r->conversation / 2 + (int)(draw(seed) % (uint32_t)r->conversation);
}

/* The scores of one layer for one token, and the best top_k counted. */
static void route_layer(const struct routing *r, const float *g, struct stream *st, int32_t first,
                        uint64_t *seed, int *rows)
{
    float score[1024];
    float keep = (float)exp(-1 / r->tau), add = (float)r->sf * sqrtf(1 - keep * keep);
    for (int e = 0; e < r->n_experts; e++) {
        int32_t k = first + e;
        st->f[k] = keep * st->f[k] + add * normal(seed);
        score[e] = g[k] + st->s[k] + st->f[k] + normal(seed);
    }
    for (int i = 0; i < r->top_k; i++) {
        int best = 0;
        for (int e = 1; e < r->n_experts; e++)
            if (score[e] > score[best])
                best = e;
        rows[best]++;
        score[best] = -INFINITY;
    }
}

void routing_make(struct trace *out, const struct routing *r, int n_layers, int streams,
                  int prompt_tokens, size_t n_steps, uint32_t seed32)
{
    if (n_layers == 0)
        n_layers = r->n_layers;
    *out = (struct trace){.n_layers = n_layers, .n_experts = r->n_experts};
    int32_t n_keys = (int32_t)(n_layers * r->n_experts);
    uint64_t seed = seed32;
    float *g = mem_new((size_t)n_keys, sizeof g[0]);
    struct stream *st = mem_new((size_t)streams, sizeof st[0]);
    int *rows = mem_new((size_t)r->n_experts, sizeof rows[0]);
    for (int32_t k = 0; k < n_keys; k++)
        g[k] = (float)r->sg * normal(&seed);
    for (int i = 0; i < streams; i++) {
        st[i].s = mem_new((size_t)n_keys, sizeof(float));
        st[i].f = mem_new((size_t)n_keys, sizeof(float));
    }
    for (size_t t = 0; t < n_steps; t++) {
        for (int i = 0; i < streams; i++) {
            st[i].tokens = 1;
            if (st[i].left-- > 0)
                continue;
            new_conversation(&st[i], r, n_keys, &seed);
            st[i].tokens = prompt_tokens;
        }
        for (int layer = 0; layer < n_layers; layer++) {
            memset(rows, 0, (size_t)r->n_experts * sizeof rows[0]);
            for (int i = 0; i < streams; i++)
                for (int token = 0; token < st[i].tokens; token++)
                    route_layer(r, g, &st[i], layer * r->n_experts, &seed, rows);
            for (int e = 0; e < r->n_experts; e++)
                if (rows[e])
                    trace_use(out, layer, e, rows[e]);
        }
        trace_end_step(out);
    }
    for (int i = 0; i < streams; i++) {
        free(st[i].s);
        free(st[i].f);
    }
    free(st);
    free(g);
    free(rows);
}

struct use {
    int step, layer, expert;
};

static int use_order(const void *a, const void *b)
{
    const struct use *x = a, *y = b;
    if (x->step != y->step)
        return x->step < y->step ? -1 : 1;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

/* "prefill<tab>layer<tab>row<tab>experts..." (a row is a step) or
 * "layer<tab>step<tab>row<tab>experts..."; other lines are none. */
static int parse_line(char *line, int *step, int *layer, char **experts)
{
    int at = 0, row;
    if (sscanf(line, "prefill\t%d\t%d\t%n", layer, step, &at) != 2 || at == 0) {
        at = 0;
        if (sscanf(line, "%d\t%d\t%d\t%n", layer, step, &row, &at) != 3 || at == 0)
            return 0;
    }
    *experts = line + at;
    (*experts)[strcspn(*experts, "\t\n")] = 0;
    return 1;
}

static void build(struct trace *out, struct use *uses, size_t n)
{
    int layer_index[512], n_layers = 0, most_expert = 0;
    memset(layer_index, -1, sizeof layer_index);
    for (size_t i = 0; i < n; i++) {
        if (uses[i].expert > most_expert)
            most_expert = uses[i].expert;
        layer_index[uses[i].layer] = 0;
    }
    for (int l = 0; l < 512; l++)
        if (layer_index[l] == 0)
            layer_index[l] = n_layers++;
    *out = (struct trace){.n_layers = n_layers, .n_experts = most_expert + 1};
    qsort(uses, n, sizeof uses[0], use_order);
    for (size_t i = 0, next; i < n; i = next) {
        for (next = i; next < n && use_order(&uses[i], &uses[next]) == 0;)
            next++;
        trace_use(out, layer_index[uses[i].layer], uses[i].expert, (int)(next - i));
        if (next == n || uses[next].step != uses[i].step)
            trace_end_step(out);
    }
}

int trace_read(struct trace *out, const char *path)
{
    char command[1100], line[4096];
    snprintf(command, sizeof command, "xz -dc '%s'", path);
    FILE *in = popen(command, "r");
    if (!in)
        return -1;
    struct use *uses = NULL;
    size_t n = 0, cap = 0;
    while (fgets(line, sizeof line, in)) {
        struct use u;
        char *experts;
        if (!parse_line(line, &u.step, &u.layer, &experts) || u.layer < 0 || u.layer >= 512)
            continue;
        for (char *word = strtok(experts, ","); word; word = strtok(NULL, ",")) {
            u.expert = atoi(word);
            uses = mem_reserve(uses, &cap, n + 1, sizeof uses[0]);
            uses[n++] = u;
        }
    }
    int rc = pclose(in) == 0 && n > 0 ? 0 : -1;
    if (rc == 0)
        build(out, uses, n);
    free(uses);
    return rc;
}

#define SEQUENCES_MAGIC "moed routing trace 1\n"

struct sequence {
    const uint8_t *ids; /* of the next token */
    uint32_t prompt_tokens, tokens_left;
};

struct sequences {
    const uint8_t *at, *end;
    uint32_t n_layers, n_experts, top_k, n_left;
};

static uint32_t take_u32(struct sequences *s)
{
    uint32_t v = 0;
    if (s->end - s->at >= 4)
        v = (uint32_t)s->at[0] | (uint32_t)s->at[1] << 8 | (uint32_t)s->at[2] << 16 |
            (uint32_t)s->at[3] << 24;
    s->at += s->end - s->at >= 4 ? 4 : s->end - s->at;
    return v;
}

/* 1: there is one more; 0: none; -1: the file is not what it says. */
static int next_sequence(struct sequences *s, struct sequence *out)
{
    if (s->n_left == 0)
        return s->at == s->end ? 0 : -1;
    s->n_left--;
    out->prompt_tokens = take_u32(s);
    out->tokens_left = take_u32(s);
    out->ids = s->at;
    size_t token_bytes = (size_t)s->n_layers * s->top_k;
    if (out->prompt_tokens == 0 || out->prompt_tokens > out->tokens_left ||
        (size_t)(s->end - s->at) / token_bytes < out->tokens_left)
        return -1;
    s->at += out->tokens_left * token_bytes;
    return 1;
}

/* Adds what the first tokens of each stream chose, tokens[i] of stream i, as one step. */
static int add_step(struct trace *out, const struct sequences *s, struct sequence *st,
                    const uint32_t *tokens, int streams)
{
    size_t token_bytes = (size_t)s->n_layers * s->top_k;
    for (uint32_t layer = 0; layer < s->n_layers; layer++) {
        int rows[256] = {0};
        for (int i = 0; i < streams; i++)
            for (uint32_t t = 0; t < tokens[i]; t++)
                for (uint32_t k = 0; k < s->top_k; k++)
                    rows[st[i].ids[t * token_bytes + layer * s->top_k + k]]++;
        for (int e = 0; e < 256; e++) {
            if (rows[e] && e >= (int)s->n_experts)
                return -1;
            if (rows[e])
                trace_use(out, (int)layer, e, rows[e]);
        }
    }
    for (int i = 0; i < streams; i++) {
        st[i].ids += tokens[i] * token_bytes;
        st[i].tokens_left -= tokens[i];
    }
    trace_end_step(out);
    return 0;
}

static int run_sequences(struct trace *out, struct sequences *s, int streams)
{
    struct sequence *st = mem_new((size_t)streams, sizeof st[0]);
    uint32_t *tokens = mem_new((size_t)streams, sizeof tokens[0]);
    int rc = 0;
    for (;;) {
        int busy = 0;
        for (int i = 0; i < streams && rc >= 0; i++) {
            tokens[i] = st[i].tokens_left > 0;
            if (tokens[i] == 0 && (rc = next_sequence(s, &st[i])) == 1)
                tokens[i] = st[i].prompt_tokens;
            busy += tokens[i] > 0;
        }
        if (rc < 0 || busy == 0 || (rc = add_step(out, s, st, tokens, streams)) < 0)
            break;
    }
    free(st);
    free(tokens);
    return rc;
}

int trace_read_sequences(struct trace *out, const char *path, int streams)
{
    static const size_t limit_bytes = 16 << 20;
    size_t magic_bytes = strlen(SEQUENCES_MAGIC);
    FILE *in = fopen(path, "rb");
    if (!in)
        return -1;
    uint8_t *data = mem_new(limit_bytes, 1);
    size_t n = fread(data, 1, limit_bytes, in);
    fclose(in);
    int rc = -1;
    if (n > magic_bytes && n < limit_bytes && memcmp(data, SEQUENCES_MAGIC, magic_bytes) == 0) {
        struct sequences s = {.at = data + magic_bytes, .end = data + n};
        s.n_layers = take_u32(&s);
        s.n_experts = take_u32(&s);
        s.top_k = take_u32(&s);
        s.n_left = take_u32(&s);
        *out = (struct trace){.n_layers = (int)s.n_layers, .n_experts = (int)s.n_experts};
        if (s.n_layers - 1 < 512 && s.n_experts - 1 < 256 && s.top_k - 1 < s.n_experts)
            rc = run_sequences(out, &s, streams);
    }
    free(data);
    return rc;
}
