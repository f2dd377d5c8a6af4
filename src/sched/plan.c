/*
 * Making plans. A step: decodes first, then prompts within the token budget, oldest first. A long
 * pass: all prompts that are left, oldest first.
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

/* Whether the limit lets one more decode, where n do. */
static bool within_limit(const struct sched *s, const struct sched_seq *q, int32_t n)
{
    return n < s->limit || q->exempt || q == s->running.head;
}

/*
 * Who decodes now: those who did, oldest first, as many as the limit lets; then others begin or go
 * on, oldest first. Who computes tokens again after a preemption keeps its place.
 */
static void choose_decoding(struct sched *s)
{
    int32_t n = 0;
    for (struct sched_seq *q = s->running.head; q; q = q->next) {
        q->decodes = q->decodes && within_limit(s, q, n);
        n += q->decodes;
    }
    s->held = 0;
    for (struct sched_seq *q = s->running.head; q; q = q->next) {
        if (q->state != SCHED_DECODE || q->decodes)
            continue;
        q->decodes = within_limit(s, q, n);
        s->exempted += q->decodes && q->exempt && n >= s->limit;
        s->held += !q->decodes;
        n += q->decodes;
    }
}

static void plan_decodes(struct sched *s)
{
    struct sched_plan *p = &s->plan;
    p->n_decode = 0;
    choose_decoding(s);
    for (struct sched_seq *q = s->running.head; q; q = q->next) {
        if (q->state != SCHED_DECODE || !q->decodes)
            continue;
        assert(q->n_tokens == q->n_computed + 1);
        if (!make_room(s, q))
            break;
        p->decode[p->n_decode++] = (struct sched_span){q, q->n_computed, 1, true};
    }
}

/* Tokens of the sequence that are not computed, after a look at what others have computed. */
static int32_t tokens_left(struct sched *s, struct sched_seq *q)
{
    take_known(s, q);
    return q->n_tokens - q->n_computed;
}

/*
 * What of the sequence goes into the step that has room for `budget` rows more. With a long lane a
 * step takes whole rests only: a prompt that does not fit is left to the next long pass, and its
 * tokens are added to *left.
 */
static int32_t add_prefill(struct sched *s, struct sched_seq *q, int32_t budget, int64_t *left)
{
    struct sched_plan *p = &s->plan;
    int32_t rest = tokens_left(s, q), n = rest < budget ? rest : budget;
    if (s->cfg.long_prefill_tokens && n < rest) {
        *left += rest;
        return 0;
    }
    p->prefill[p->n_prefill++] = (struct sched_span){q, q->n_computed, n, n == rest};
    p->prefill_rows += n;
    return n;
}

static void plan_prefill(struct sched *s)
{
    struct sched_plan *p = &s->plan;
    int32_t budget = s->cfg.max_batched_tokens - p->n_decode;
    int32_t long_tokens = s->cfg.long_prefill_tokens;
    int64_t left = 0;
    p->n_prefill = p->prefill_rows = 0;
    for (struct sched_seq *q = s->running.head; q && (budget > 0 || long_tokens); q = q->next)
        if (q->state == SCHED_PREFILL && !q->in_long)
            budget -= add_prefill(s, q, budget, &left);
    /* Prompts for one long pass are admitted ahead, so that short ones behind them get their step.
     */
    while ((long_tokens ? left < long_tokens : budget > 0) && s->waiting.head &&
           s->running.n < s->cfg.max_seqs && admit(s))
        budget -= add_prefill(s, s->running.tail, budget, &left);
}

const struct sched_plan *sched_plan(struct sched *s)
{
    assert(!s->planned);
    struct sched_plan *p = &s->plan;
    plan_decodes(s);
    plan_prefill(s);
    p->n_rows = p->n_decode + p->prefill_rows;
    p->number++;
    s->planned = p->n_rows > 0;
    return p;
}

const struct sched_long *sched_long(struct sched *s)
{
    assert(!s->planned);
    struct sched_long *l = &s->open;
    if (l->n_spans > 0)
        return l;
    int32_t budget = s->cfg.long_prefill_tokens;
    for (struct sched_seq *q = s->running.head; q && budget > 0; q = q->next) {
        if (q->state != SCHED_PREFILL)
            continue;
        int32_t rest = tokens_left(s, q), n = rest < budget ? rest : budget;
        l->spans[l->n_spans++] = (struct sched_span){q, q->n_computed, n, n == rest};
        q->in_long = true;
        budget -= n;
        l->n_rows += n;
    }
    l->n_alive = l->n_spans;
    return l;
}

void long_drop(struct sched *s, struct sched_seq *q)
{
    if (!q->in_long)
        return;
    int32_t i = 0;
    while (s->open.spans[i].seq != q)
        i++;
    s->open.spans[i].seq = NULL;
    s->open.n_alive--;
    q->in_long = false;
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

static void prefilled(struct sched *s, struct sched_seq *q, int32_t n)
{
    computed(s, q, n);
    if (q->n_computed < q->n_tokens)
        return;
    sched_move(s, q, SCHED_DECODE);
    if (q == q->request->seqs)
        sched_release_held(s, q->request);
}

static void step_clear(struct sched *s)
{
    s->planned = false;
    s->plan.n_decode = s->plan.n_prefill = s->plan.prefill_rows = 0;
}

void sched_complete(struct sched *s)
{
    assert(s->planned);
    struct sched_plan *p = &s->plan;
    for (int32_t i = 0; i < p->n_decode; i++)
        computed(s, p->decode[i].seq, 1);
    for (int32_t i = 0; i < p->n_prefill; i++)
        prefilled(s, p->prefill[i].seq, p->prefill[i].n);
    step_clear(s);
}

void sched_abandon(struct sched *s)
{
    step_clear(s);
}

static void long_clear(struct sched_long *l)
{
    for (int32_t i = 0; i < l->n_spans; i++)
        if (l->spans[i].seq)
            l->spans[i].seq->in_long = false;
    l->n_spans = l->n_rows = l->n_alive = 0;
}

void sched_long_complete(struct sched *s)
{
    struct sched_long *l = &s->open;
    assert(!s->planned && l->n_spans > 0);
    for (int32_t i = 0; i < l->n_spans; i++)
        if (l->spans[i].seq)
            prefilled(s, l->spans[i].seq, l->spans[i].n);
    long_clear(l);
}

void sched_long_abandon(struct sched *s)
{
    long_clear(&s->open);
}
