/*
 * Making plans: decodes first, then one prefill slice within the token budget, oldest first.
 */
#include <assert.h>

#include "sched/sched_int.h"

/* The next 16 tokens after `blocks` blocks, if they are known and end before the newest token,
 * which is always computed: its logits are wanted. */
static int32_t known_block(const struct sched *s, const struct sched_seq *q, int32_t blocks)
{
    if ((blocks + 1) * SCHED_BLOCK_TOKENS > q->n_tokens - 1)
        return -1;
    return kv_find(s->kv, blocks ? q->blocks[blocks - 1] : -1, q->salt,
                   q->tokens + (size_t)blocks * SCHED_BLOCK_TOKENS);
}

/* Tokens were reused; prompt tokens of a first admission count for the client. */
static void count_hits(struct sched *s, struct sched_seq *q, int32_t tokens)
{
    s->prefix_hits += (uint64_t)tokens;
    if (q->preemptions == 0)
        q->cached_tokens += tokens;
}

/*
 * Admits the head of the queue if its tokens fit, with a block to spare for each sequence of the
 * batch, or else they would soon push it out again. Alone it always fits (sched_check).
 */
static bool admit(struct sched *s)
{
    struct sched_seq *q = s->waiting.head;
    int32_t need = blocks_for(q->n_tokens);
    if (need + s->running.n > kv_total(s->kv) && s->running.n > 0)
        return false;
    int32_t b;
    while (!q->no_reuse && (b = known_block(s, q, q->n_blocks)) >= 0) {
        kv_ref(s->kv, b);
        q->blocks[q->n_blocks++] = b;
    }
    int32_t known = q->n_blocks;
    if (need - known + s->running.n > kv_available(s->kv)) {
        while (q->n_blocks > 0)
            kv_unref(s->kv, q->blocks[--q->n_blocks]);
        return false;
    }
    while (q->n_blocks < need)
        q->blocks[q->n_blocks++] = kv_alloc(s->kv);
    q->n_published = known;
    q->n_computed = known * SCHED_BLOCK_TOKENS;
    if (!q->no_reuse)
        s->prefix_queries += (uint64_t)q->n_tokens;
    count_hits(s, q, q->n_computed);
    sched_move(s, q, SCHED_PREFILL);
    return true;
}

/* What others have computed since admission need not be computed again. */
static void take_known(struct sched *s, struct sched_seq *q)
{
    int32_t b, before = q->n_computed;
    while (!q->no_reuse && (b = known_block(s, q, q->n_published)) >= 0) {
        kv_ref(s->kv, b);
        kv_unref(s->kv, q->blocks[q->n_published]);
        q->blocks[q->n_published++] = b;
        q->n_computed = q->n_published * SCHED_BLOCK_TOKENS;
    }
    count_hits(s, q, q->n_computed - before);
}

/* Room for the newest token of a decoding sequence; the youngest of the batch make place, which may
 * be the sequence itself (then false). */
static bool make_room(struct sched *s, struct sched_seq *q)
{
    if (blocks_for(q->n_tokens) <= q->n_blocks)
        return true;
    int32_t b;
    while ((b = kv_alloc(s->kv)) < 0) {
        struct sched_seq *youngest = s->running.tail;
        sched_move(s, youngest, SCHED_WAITING);
        if (youngest == q)
            return false;
    }
    q->blocks[q->n_blocks++] = b;
    return true;
}

static void plan_decodes(struct sched *s)
{
    struct sched_plan *p = &s->plan;
    p->n_decode = 0;
    for (struct sched_seq *q = s->running.head; q; q = q->next) {
        if (q->state != SCHED_DECODE)
            continue;
        assert(q->n_tokens == q->n_computed + 1);
        if (!make_room(s, q))
            break;
        p->decode[p->n_decode++] = (struct sched_span){q, q->n_computed, 1, true};
    }
}

static int32_t add_slice(struct sched *s, struct sched_seq *q, int32_t budget)
{
    struct sched_plan *p = &s->plan;
    take_known(s, q);
    int32_t left = q->n_tokens - q->n_computed;
    int32_t n = left < budget ? left : budget;
    p->prefill[p->n_prefill++] = (struct sched_span){q, q->n_computed, n, n == left};
    p->prefill_rows += n;
    return n;
}

static void plan_slice(struct sched *s)
{
    struct sched_plan *p = &s->plan;
    int32_t budget = s->cfg.max_batched_tokens - p->n_decode;
    p->n_prefill = p->prefill_rows = 0;
    p->layer_begin = p->layer_end = 0;
    for (struct sched_seq *q = s->running.head; q && budget > 0; q = q->next)
        if (q->state == SCHED_PREFILL)
            budget -= add_slice(s, q, budget);
    while (budget > 0 && s->waiting.head && s->running.n < s->cfg.max_seqs && admit(s))
        budget -= add_slice(s, s->running.tail, budget);
}

/* A slice whose sequences are all gone is not worth finishing. */
static bool slice_paused(const struct sched_plan *p)
{
    for (int32_t i = 0; i < p->n_prefill; i++)
        if (p->prefill[i].seq)
            return true;
    return false;
}

const struct sched_plan *sched_plan(struct sched *s)
{
    assert(!s->planned);
    struct sched_plan *p = &s->plan;
    plan_decodes(s);
    if (slice_paused(p))
        p->layer_begin = p->layer_end;
    else
        plan_slice(s);
    if (p->n_prefill > 0) {
        int32_t step = s->cfg.layers_per_slice ? s->cfg.layers_per_slice : s->cfg.n_layers;
        p->layer_end = p->layer_begin + step;
        if (p->layer_end > s->cfg.n_layers)
            p->layer_end = s->cfg.n_layers;
    }
    p->n_rows = p->n_decode + p->prefill_rows;
    p->number++;
    s->planned = p->n_rows > 0;
    return p;
}

void plan_drop(struct sched *s, const struct sched_seq *q)
{
    for (int32_t i = 0; i < s->plan.n_prefill; i++)
        if (s->plan.prefill[i].seq == q)
            s->plan.prefill[i].seq = NULL;
}

static void computed(struct sched *s, struct sched_seq *q, int32_t n)
{
    q->n_computed += n;
    while ((q->n_published + 1) * SCHED_BLOCK_TOKENS <= q->n_computed) {
        int32_t i = q->n_published++;
        q->blocks[i] = kv_publish(s->kv, q->blocks[i], i ? q->blocks[i - 1] : -1, q->salt,
                                  q->tokens + (size_t)i * SCHED_BLOCK_TOKENS);
    }
}

static void slice_clear(struct sched_plan *p)
{
    p->n_prefill = p->prefill_rows = p->layer_begin = p->layer_end = 0;
}

void sched_complete(struct sched *s)
{
    assert(s->planned);
    s->planned = false;
    struct sched_plan *p = &s->plan;
    for (int32_t i = 0; i < p->n_decode; i++)
        computed(s, p->decode[i].seq, 1);
    p->n_decode = 0;
    if (p->layer_end < s->cfg.n_layers)
        return;
    for (int32_t i = 0; i < p->n_prefill; i++) {
        struct sched_seq *q = p->prefill[i].seq;
        if (!q)
            continue;
        computed(s, q, p->prefill[i].n);
        if (q->n_computed < q->n_tokens)
            continue;
        sched_move(s, q, SCHED_DECODE);
        if (q == q->request->seqs)
            sched_release_held(s, q->request);
    }
    slice_clear(p);
}

void sched_abandon(struct sched *s)
{
    s->planned = false;
    s->plan.n_decode = 0;
    slice_clear(&s->plan);
}
