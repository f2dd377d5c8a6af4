#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "sched/sched_int.h"

int sched_open(struct sched **out, const struct sched_config *cfg, struct moed_error *err)
{
    *out = NULL;
    if (cfg->max_seqs < 1 || cfg->max_queue < 1 || cfg->max_model_len < 1 ||
        cfg->long_prefill_tokens < 0)
        return moed_fail(err, MOED_EINVAL,
                         "max_num_seqs, max_queue and max_model_len must be at least 1");
    if (cfg->max_batched_tokens < cfg->max_seqs)
        return moed_fail_param(err, MOED_EINVAL, "max_num_batched_tokens",
                               "max_num_batched_tokens (%d) must be at least max_num_seqs (%d)",
                               cfg->max_batched_tokens, cfg->max_seqs);
    struct sched *s = mem_new(1, sizeof *s);
    s->cfg = *cfg;
    s->limit = cfg->max_seqs;
    int rc = kv_pool_open(&s->kv, cfg->kv_blocks,
                          cfg->kv_hash_mask ? cfg->kv_hash_mask : UINT64_MAX, err);
    if (rc < 0) {
        free(s);
        return rc;
    }
    s->plan.decode = mem_new((size_t)cfg->max_seqs, sizeof *s->plan.decode);
    s->plan.prefill = mem_new((size_t)cfg->max_seqs, sizeof *s->plan.prefill);
    s->open.spans = mem_new((size_t)cfg->max_seqs, sizeof *s->open.spans);
    *out = s;
    return 0;
}

void sched_close(struct sched **out)
{
    struct sched *s = *out;
    if (!s)
        return;
    assert(s->n_requests == 0);
    assert(kv_available(s->kv) == kv_total(s->kv));
    kv_pool_close(&s->kv);
    free(s->plan.decode);
    free(s->plan.prefill);
    free(s->open.spans);
    free(s);
    *out = NULL;
}

static void list_remove(struct seq_list *l, struct sched_seq *q)
{
    if (q->prev)
        q->prev->next = q->next;
    else
        l->head = q->next;
    if (q->next)
        q->next->prev = q->prev;
    else
        l->tail = q->prev;
    q->prev = q->next = NULL;
    l->n--;
}

static void list_push_back(struct seq_list *l, struct sched_seq *q)
{
    assert(!l->tail || l->tail->order < q->order);
    q->prev = l->tail;
    q->next = NULL;
    if (l->tail)
        l->tail->next = q;
    else
        l->head = q;
    l->tail = q;
    l->n++;
}

static void list_push_front(struct seq_list *l, struct sched_seq *q)
{
    assert(!l->head || q->order < l->head->order);
    q->prev = NULL;
    q->next = l->head;
    if (l->head)
        l->head->prev = q;
    else
        l->tail = q;
    l->head = q;
    l->n++;
}

/* The last block first, so that the LRU list evicts ends of prefixes before their starts. */
static void give_blocks_back(struct sched *s, struct sched_seq *q)
{
    for (int32_t i = q->n_blocks; i-- > 0;)
        kv_unref(s->kv, q->blocks[i]);
    q->n_blocks = q->n_published = q->n_computed = 0;
}

static bool allowed(enum sched_state from, enum sched_state to)
{
    switch (to) {
    case SCHED_HELD:
        return false;
    case SCHED_WAITING:
        return from == SCHED_HELD || from == SCHED_PREFILL || from == SCHED_DECODE;
    case SCHED_PREFILL:
        return from == SCHED_WAITING;
    case SCHED_DECODE:
        return from == SCHED_PREFILL;
    case SCHED_ENDED:
        return from != SCHED_ENDED;
    }
    return false;
}

static void leave_batch(struct sched *s, struct sched_seq *q)
{
    long_drop(s, q);
    give_blocks_back(s, q);
    list_remove(&s->running, q);
}

/* A request counts as new until its first choice is admitted or ends. */
static void no_longer_new(struct sched *s, struct sched_seq *q)
{
    if (q == q->request->seqs && !q->admitted)
        s->n_new--;
}

void sched_move(struct sched *s, struct sched_seq *q, enum sched_state to)
{
    enum sched_state from = q->state;
    assert(allowed(from, to));
    bool in_batch = from == SCHED_PREFILL || from == SCHED_DECODE;
    switch (to) {
    case SCHED_HELD:
        break;
    case SCHED_WAITING:
        if (in_batch) {
            leave_batch(s, q);
            s->preemptions++;
            q->preemptions++;
            list_push_front(&s->waiting, q);
        } else {
            q->order = ++s->last_order;
            list_push_back(&s->waiting, q);
        }
        break;
    case SCHED_PREFILL:
        list_remove(&s->waiting, q);
        list_push_back(&s->running, q);
        no_longer_new(s, q);
        q->admitted = true;
        break;
    case SCHED_DECODE:
        break;
    case SCHED_ENDED:
        if (in_batch)
            leave_batch(s, q);
        else if (from == SCHED_WAITING)
            list_remove(&s->waiting, q);
        no_longer_new(s, q);
        break;
    }
    q->state = to;
}

void sched_release_held(struct sched *s, struct sched_request *r)
{
    for (int32_t i = 1; i < r->n; i++)
        if (r->seqs[i].state == SCHED_HELD)
            sched_move(s, &r->seqs[i], SCHED_WAITING);
}

int sched_check(const struct sched_config *cfg, size_t n_prompt, size_t max_tokens,
                struct moed_error *err)
{
    if (n_prompt == 0)
        return moed_fail_param(err, MOED_EINVAL, "prompt", "the prompt has no tokens");
    size_t len = n_prompt + max_tokens;
    if (n_prompt > (size_t)cfg->max_model_len || len > (size_t)cfg->max_model_len)
        return moed_fail_param(err, MOED_ELIMIT, "max_tokens",
                               "%zu prompt tokens and %zu new ones are more than the context of %d "
                               "tokens",
                               n_prompt, max_tokens, cfg->max_model_len);
    /* The last token of all is returned and never computed. */
    int32_t need = blocks_for((int32_t)(max_tokens > 1 ? len - 1 : n_prompt));
    if (need > cfg->kv_blocks)
        return moed_fail_param(err, MOED_ELIMIT, "max_tokens",
                               "%zu prompt tokens and %zu new ones need %d KV blocks of %d tokens; "
                               "there are %d",
                               n_prompt, max_tokens, need, SCHED_BLOCK_TOKENS, cfg->kv_blocks);
    return 0;
}

static int seq_init(struct sched_seq *q, struct sched_request *r, const struct sched_new *n,
                    struct kv_salt salt)
{
    *q = (struct sched_seq){
        .state = SCHED_HELD,
        .n_prompt = n->n_prompt,
        .n_tokens = n->n_prompt,
        .cap_tokens = n->n_prompt + n->max_tokens,
        .max_len = n->n_prompt + n->max_tokens,
        .cap_blocks = blocks_for(n->n_prompt + n->max_tokens),
        .salt = salt,
        .no_reuse = n->no_reuse && q == r->seqs,
        .request = r,
    };
    q->tokens = mem_try((size_t)q->cap_tokens, sizeof *q->tokens);
    q->blocks = mem_try((size_t)q->cap_blocks, sizeof *q->blocks);
    if (!q->tokens || !q->blocks)
        return MOED_ENOMEM;
    memcpy(q->tokens, n->prompt, (size_t)n->n_prompt * sizeof *q->tokens);
    return 0;
}

static void request_free(struct sched_request *r)
{
    for (int32_t i = 0; i < r->n; i++) {
        free(r->seqs[i].tokens);
        free(r->seqs[i].blocks);
    }
    free(r->seqs);
    free(r);
}

int sched_add(struct sched *s, struct sched_request **out, const struct sched_new *n,
              struct moed_error *err)
{
    *out = NULL;
    assert(n->n >= 1 && n->max_tokens >= 0);
    int rc = sched_check(&s->cfg, (size_t)n->n_prompt, (size_t)n->max_tokens, err);
    if (rc < 0)
        return rc;
    if (s->n_new >= s->cfg.max_queue)
        return moed_fail(err, MOED_EBUSY, "the queue is full: %d requests are waiting", s->n_new);
    struct kv_salt salt = {n->salt, s->cfg.no_prefix_cache ? ++s->last_scope : 0};
    struct sched_request *r = mem_new(1, sizeof *r);
    r->n = n->n;
    r->seqs = mem_new((size_t)n->n, sizeof *r->seqs);
    for (int32_t i = 0; i < n->n; i++) {
        if (seq_init(&r->seqs[i], r, n, salt) < 0) {
            request_free(r);
            return moed_fail(err, MOED_ENOMEM, "no memory for %d sequences of %d tokens", n->n,
                             n->n_prompt + n->max_tokens);
        }
    }
    s->n_new++;
    s->n_requests++;
    sched_move(s, &r->seqs[0], SCHED_WAITING);
    *out = r;
    return 0;
}

void sched_limit_decodes(struct sched *s, int32_t n)
{
    assert(n >= 1 && !s->planned);
    s->limit = n < s->cfg.max_seqs ? n : s->cfg.max_seqs;
}

void sched_exempt(struct sched *s, struct sched_seq *q)
{
    assert(!s->planned);
    q->exempt = true;
}

void sched_append(struct sched *s, struct sched_seq *q, int32_t token)
{
    assert(!s->planned && q->state == SCHED_DECODE && q->n_computed == q->n_tokens);
    assert(q->n_tokens < q->max_len);
    q->tokens[q->n_tokens++] = token;
}

void sched_end(struct sched *s, struct sched_seq *q)
{
    assert(!s->planned);
    if (q->state == SCHED_ENDED)
        return;
    sched_move(s, q, SCHED_ENDED);
    if (q == q->request->seqs)
        sched_release_held(s, q->request);
}

void sched_remove(struct sched *s, struct sched_request **r)
{
    for (int32_t i = 0; i < (*r)->n; i++)
        assert((*r)->seqs[i].state == SCHED_ENDED);
    request_free(*r);
    *r = NULL;
    s->n_requests--;
}

void sched_stats(const struct sched *s, struct sched_stats *out)
{
    *out = (struct sched_stats){
        .running = s->running.n,
        .waiting = s->n_new,
        .queued = s->waiting.n,
        .held = s->held,
        .exempted = s->exempted,
        .kv_used = kv_total(s->kv) - kv_available(s->kv),
        .kv_cached = kv_cached(s->kv),
        .preemptions = s->preemptions,
        .prefix_queries = s->prefix_queries,
        .prefix_hits = s->prefix_hits,
    };
}
