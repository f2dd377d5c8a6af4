#include "cli/routing.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define UNIFORM "uniform"

static const struct routing_model models[] = {
    {"olmoe", 1.16, 1.25, 1.86, 1.9, 900},
    {"gpt-oss-20b", 0.60, 1.05, 1.05, 4.2, 950},
    {"qwen3-30b-a3b", 0.25, 1.66, 1.19, 2.6, 900},
    /* The same model where all conversations are alike. */
    {"qwen3-30b-a3b-one-tenant", 1.5, 1.0, 1.19, 2.6, 900},
    {"gpt-oss-120b", 0.58, 0.94, 0.78, 8.0, 900},
    {"mixtral-8x7b", 0.11, 0.25, 0.61, 4.4, 700},
    {"deepseek-v2-lite", 0.11, 0.45, 0.70, 4.0, 650},
    {"qwen1.5-moe", 0.12, 0.29, 0.43, 7.8, 700},
    {"qwen2-57b", 2.02, 1.38, 5.59, 1.0, 550},
    {"phi-3.5-moe", 0.05, 4.66, 5.17, 1.3, 800},
    {UNIFORM, 0, 0, 0, 0, 0},
};
#define N_MODELS (sizeof models / sizeof models[0])

const struct routing_model *routing_find(const char *name)
{
    for (size_t i = 0; i < N_MODELS; i++)
        if (strcmp(models[i].name, name) == 0)
            return &models[i];
    return NULL;
}

void routing_names(struct buf *out)
{
    for (size_t i = 0; i < N_MODELS; i++)
        buf_printf(out, "%s%s", i ? ", " : "", models[i].name);
}

/* xoshiro256++ (Blackman and Vigna), seeded by splitmix64. */
struct random {
    uint64_t s[4];
};

static void random_init(struct random *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        uint64_t z = seed += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        r->s[i] = z ^ z >> 31;
    }
}

static inline uint64_t rotate(uint64_t v, int n)
{
    return v << n | v >> (64 - n);
}

static inline uint64_t random_next(struct random *r)
{
    uint64_t *s = r->s, result = rotate(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

static int32_t random_below(struct random *r, int32_t n)
{
    return (int32_t)((random_next(r) >> 32) * (uint64_t)n >> 32);
}

/* The sum of 16 even bytes, close enough to normal up to four deviations; some 2 ns. */
static inline float normal(struct random *r)
{
    const uint64_t even = 0x00ff00ff00ff00ffu;
    uint64_t a = random_next(r), b = random_next(r);
    uint64_t lanes = (a & even) + (a >> 8 & even) + (b & even) + (b >> 8 & even);
    uint64_t sum = lanes * 0x0001000100010001u >> 48;
    const float mean = 16 * 127.5f, deviation = 295.6011f; /* sqrt(16 * (256^2 - 1) / 12) */
    return ((float)(int32_t)sum - mean) * (1 / deviation);
}

struct stream {
    struct random random;
    float *steady;       /* [n_keys] g + s of this conversation */
    float *f;            /* [n_keys] */
    int32_t left_tokens; /* of this conversation */
};

struct routing {
    struct routing_model model;
    struct routing_shape shape;
    struct stream *streams; /* [n_streams] */
    int32_t n_streams;
    size_t n_keys;
    float keep, add; /* f = keep * f + add * normal */
    float *g;        /* [n_keys] */
    float *score;    /* [top_k], falling */
    int32_t *deck;   /* [n_experts] any order, for even draws */
};

static void start_conversation(struct routing *r, struct stream *st)
{
    for (size_t k = 0; k < r->n_keys; k++) {
        st->steady[k] = r->g[k] + (float)r->model.ss * normal(&st->random);
        st->f[k] = (float)r->model.sf * normal(&st->random);
    }
    st->left_tokens = r->model.talk_tokens;
}

static int open_streams(struct routing *r, uint64_t seed, struct moed_error *err)
{
    struct random random;
    random_init(&random, seed);
    r->g = mem_try(r->n_keys, sizeof *r->g);
    r->streams = mem_try((size_t)r->n_streams, sizeof *r->streams);
    if (!r->g || !r->streams)
        return moed_fail(err, MOED_ENOMEM, "no memory for synthetic routing");
    for (size_t k = 0; k < r->n_keys; k++)
        r->g[k] = (float)r->model.sg * normal(&random);
    for (int32_t i = 0; i < r->n_streams; i++) {
        struct stream *st = &r->streams[i];
        random_init(&st->random, seed + 1 + (uint64_t)i);
        if (r->model.talk_tokens == 0)
            continue;
        st->steady = mem_try(r->n_keys, sizeof *st->steady);
        st->f = mem_try(r->n_keys, sizeof *st->f);
        if (!st->steady || !st->f)
            return moed_fail(err, MOED_ENOMEM, "no memory for %d streams of synthetic routing",
                             r->n_streams);
        start_conversation(r, st);
        /* Streams are somewhere in their first conversation, so that they do not turn together. */
        st->left_tokens = 1 + random_below(&st->random, r->model.talk_tokens);
    }
    return 0;
}

int routing_open(struct routing **out, const struct routing_model *model,
                 const struct routing_shape *shape, int32_t n_streams, uint64_t seed,
                 struct moed_error *err)
{
    assert(shape->top_k >= 1 && shape->top_k <= shape->n_experts);
    struct routing *r = mem_new(1, sizeof *r);
    r->model = *model;
    r->shape = *shape;
    r->n_streams = n_streams;
    r->n_keys = (size_t)shape->n_layers * (size_t)shape->n_experts;
    if (model->talk_tokens > 0) {
        r->keep = (float)exp(-1 / model->tau);
        r->add = (float)model->sf * sqrtf(1 - r->keep * r->keep);
    }
    r->score = mem_new((size_t)shape->top_k, sizeof *r->score);
    r->deck = mem_new((size_t)shape->n_experts, sizeof *r->deck);
    for (int32_t e = 0; e < shape->n_experts; e++)
        r->deck[e] = e;
    int rc = open_streams(r, seed, err);
    if (rc < 0)
        routing_close(&r);
    *out = r;
    return rc;
}

void routing_close(struct routing **routing)
{
    struct routing *r = *routing;
    if (!r)
        return;
    for (int32_t i = 0; r->streams && i < r->n_streams; i++) {
        free(r->streams[i].steady);
        free(r->streams[i].f);
    }
    free(r->streams);
    free(r->g);
    free(r->score);
    free(r->deck);
    free(r);
    *routing = NULL;
}

/* The first top_k cards of a shuffle. The deck is put back in order: draws must not depend on other
 * streams. */
static void draw_even(struct routing *r, struct random *random, int32_t *id)
{
    int32_t n = r->shape.n_experts, top_k = r->shape.top_k;
    for (int32_t k = 0; k < top_k; k++) {
        int32_t from = k + random_below(random, n - k), card = r->deck[from];
        r->deck[from] = r->deck[k];
        r->deck[k] = id[k] = card;
    }
    for (int32_t k = 0; k < top_k; k++)
        r->deck[id[k]] = id[k];
    for (int32_t k = 0; k < top_k; k++)
        r->deck[k] = k;
}

/* One layer of one token: the top_k best so far stand sorted in id and score. */
static void draw_layer(struct routing *r, struct stream *st, int32_t layer, int32_t *id)
{
    const int32_t n = r->shape.n_experts, top_k = r->shape.top_k;
    const size_t first = (size_t)layer * (size_t)n;
    const float *steady = st->steady + first;
    float *f = st->f + first, *score = r->score;
    struct random random = st->random;
    int32_t found = 0;
    for (int32_t e = 0; e < n; e++) {
        f[e] = r->keep * f[e] + r->add * normal(&random);
        float v = steady[e] + f[e] + normal(&random);
        if (found == top_k && v <= score[top_k - 1])
            continue;
        int32_t at = found < top_k ? found++ : top_k - 1;
        for (; at > 0 && score[at - 1] < v; at--) {
            score[at] = score[at - 1];
            id[at] = id[at - 1];
        }
        score[at] = v;
        id[at] = e;
    }
    st->random = random;
}

void routing_draw(struct routing *r, int32_t stream, int32_t n, int32_t *id, size_t layer_stride)
{
    struct stream *st = &r->streams[stream];
    const int32_t top_k = r->shape.top_k;
    for (int32_t i = 0; i < n; i++) {
        if (r->model.talk_tokens > 0 && st->left_tokens-- == 0) {
            start_conversation(r, st);
            st->left_tokens--;
        }
        for (int32_t layer = 0; layer < r->shape.n_layers; layer++) {
            int32_t *to = id + (size_t)layer * layer_stride + (size_t)i * (size_t)top_k;
            if (!r->shape.has_experts[layer])
                memset(to, -1, (size_t)top_k * sizeof *to);
            else if (r->model.talk_tokens == 0)
                draw_even(r, &st->random, to);
            else
                draw_layer(r, st, layer, to);
        }
    }
}

void routing_next_conversation(struct routing *r, int32_t stream)
{
    if (r->model.talk_tokens > 0)
        start_conversation(r, &r->streams[stream]);
}
