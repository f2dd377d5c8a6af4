/*
 * Random workloads against a fake model that remembers what lies at each place of the KV cache: the
 * prefix (tokens, salt) that a position stands for. Each row that a plan computes checks all
 * positions before it, so a block that is shared, swapped, evicted or handed out wrongly shows.
 */
#include "check.h"

#include "base/mem.h"
#include "sched/sched.h"

#define MAX_REQUESTS 24
#define MAX_CHOICES  4
#define MAX_BLOCKS   48

struct rng {
    uint64_t s;
};

static uint64_t next(struct rng *r)
{
    uint64_t z = (r->s += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* low..high, both included. */
static int32_t pick(struct rng *r, int32_t low, int32_t high)
{
    return low + (int32_t)(next(r) % (uint64_t)(high - low + 1));
}

/* What the test knows of a sequence. */
struct watch {
    struct sched_seq *seq;
    int64_t since, bound; /* turns: a step and what follows of a long pass */
    int32_t computed;
    bool queued;
    int32_t stop_after; /* new tokens after which it ends */
};

struct job {
    struct sched_request *request;
    uint64_t salt, scope;
    int32_t arrival; /* plan */
    struct watch watch[MAX_CHOICES];
};

struct world {
    struct rng rng;
    struct sched_config cfg;
    struct sched *s;
    uint64_t kv[MAX_BLOCKS][SCHED_BLOCK_TOKENS]; /* the prefix that lies there; 0: nothing whole */
    struct job jobs[MAX_REQUESTS + 1];           /* the last one stays empty */
    int32_t n_jobs, n_alive, n_arrived;
    int64_t plans;
    uint64_t dropped; /* spans whose sequence went while the pass was paused */
    uint64_t long_passes, pauses, held;
    int32_t max_turns, turns_left; /* of a long pass */
    bool faults;
    bool limits; /* how many decode is limited now and then, and some are exempt */
    int32_t limit;
};

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0xFF51AFD7ED558CCDu;
    return (h ^ (h >> 32)) | 1;
}

static struct job *job_of(struct world *w, const struct sched_seq *q)
{
    return q->user;
}

/* Checks positions [0, first) and writes [first, first + n), as a pass does. */
static void compute(struct world *w, const struct sched_span *sp, bool whole)
{
    struct job *j = job_of(w, sp->seq);
    const struct sched_seq *q = sp->seq;
    uint64_t h = mix(mix(7, j->salt), w->cfg.no_prefix_cache ? j->scope : 0);
    assert_int_equal(sp->first, q->n_computed);
    assert_true(sp->first + sp->n <= q->n_tokens);
    assert_true((sp->first + sp->n - 1) / SCHED_BLOCK_TOKENS < q->n_blocks);
    for (int32_t p = 0; p < sp->first + sp->n; p++) {
        h = mix(h, (uint64_t)q->tokens[p]);
        uint64_t *at = &w->kv[q->blocks[p / SCHED_BLOCK_TOKENS]][p % SCHED_BLOCK_TOKENS];
        if (p >= sp->first)
            *at = whole ? h : 0;
        else
            assert_true(*at == h);
    }
}

/* The bound of src/sched/README.md. */
static int64_t bound(struct world *w, const struct sched_seq *q)
{
    int64_t s = w->max_turns, sum = 2 * s + 1, chunk = w->cfg.long_prefill_tokens;
    if (!chunk)
        chunk = w->cfg.max_batched_tokens - w->cfg.max_seqs + 1;
    for (int32_t i = 0; i < w->n_jobs; i++) {
        struct sched_request *r = w->jobs[i].request;
        for (int32_t c = 0; r && c < r->n; c++) {
            const struct sched_seq *o = &r->seqs[c];
            if (o->order && o->order < q->order && o->state != SCHED_ENDED)
                sum += s * ((o->max_len + chunk - 1) / chunk + 1) + (o->max_len - o->n_prompt);
        }
    }
    return sum;
}

static void watch_all(struct world *w)
{
    for (int32_t i = 0; i < w->n_jobs; i++) {
        struct sched_request *r = w->jobs[i].request;
        for (int32_t c = 0; r && c < r->n; c++) {
            struct watch *t = &w->jobs[i].watch[c];
            const struct sched_seq *q = &r->seqs[c];
            if (q->state == SCHED_HELD || q->state == SCHED_ENDED)
                continue;
            if (!t->queued || q->n_computed > t->computed) {
                t->queued = true;
                t->since = w->plans;
                t->bound = bound(w, q);
            }
            t->computed = q->n_computed;
            if (w->plans - t->since > t->bound)
                fail_msg("no advance in %lld plans, the bound is %lld",
                         (long long)(w->plans - t->since), (long long)t->bound);
        }
    }
}

static void arrive(struct world *w)
{
    struct job *j = &w->jobs[w->n_jobs];
    int32_t prompt[256], limit = w->cfg.max_model_len;
    int32_t n = pick(&w->rng, 1, pick(&w->rng, 0, 3) ? 30 : 200);
    int32_t family = pick(&w->rng, 0, 2), common = pick(&w->rng, 0, n);
    for (int32_t i = 0; i < n; i++)
        prompt[i] = i < common ? family : pick(&w->rng, 0, 1);
    struct sched_new r = {
        .prompt = prompt,
        .n_prompt = n,
        .n = pick(&w->rng, 0, 2) ? 1 : pick(&w->rng, 1, MAX_CHOICES),
        .max_tokens = pick(&w->rng, 0, 5) ? pick(&w->rng, 1, 120) : pick(&w->rng, 0, 1),
        .salt = (uint64_t)pick(&w->rng, 0, 1),
        .no_reuse = pick(&w->rng, 0, 7) == 0,
    };
    struct moed_error err;
    struct sched_stats st;
    sched_stats(w->s, &st);
    int32_t computed = r.max_tokens > 1 ? n + r.max_tokens - 1 : n;
    bool fits = n + r.max_tokens <= limit &&
                (computed + SCHED_BLOCK_TOKENS - 1) / SCHED_BLOCK_TOKENS <= w->cfg.kv_blocks;
    bool room = st.waiting < w->cfg.max_queue;
    int rc = sched_add(w->s, &j->request, &r, &err);
    w->n_arrived++;
    assert_int_equal(rc, !fits ? MOED_ELIMIT : !room ? MOED_EBUSY : 0);
    if (rc < 0)
        return;
    j->salt = r.salt;
    j->scope = (uint64_t)++w->n_jobs;
    w->n_alive++;
    for (int32_t c = 0; c < r.n; c++) {
        j->watch[c] =
            (struct watch){.seq = &j->request->seqs[c],
                           .stop_after = pick(&w->rng, 0, 1) ? r.max_tokens : pick(&w->rng, 0, 60)};
        j->request->seqs[c].user = j;
    }
}

/* The bound holds whatever the limit. */
static void limit(struct world *w)
{
    if (pick(&w->rng, 0, 3) == 0)
        sched_limit_decodes(w->s, w->limit = pick(&w->rng, 1, w->cfg.max_seqs));
    struct job *j = &w->jobs[pick(&w->rng, 0, w->n_jobs)];
    if (j->request && pick(&w->rng, 0, 15) == 0)
        sched_exempt(w->s, &j->request->seqs[pick(&w->rng, 0, j->request->n - 1)]);
    struct sched_stats st;
    sched_stats(w->s, &st);
    w->held += st.held;
}

static void finish_if_ended(struct world *w, struct job *j)
{
    for (int32_t c = 0; j->request && c < j->request->n; c++)
        if (j->request->seqs[c].state != SCHED_ENDED)
            return;
    if (j->request) {
        sched_remove(w->s, &j->request);
        w->n_alive--;
    }
}

static void cancel_some(struct world *w)
{
    struct job *j = &w->jobs[pick(&w->rng, 0, w->n_jobs - 1)];
    if (!j->request)
        return;
    if (pick(&w->rng, 0, 1)) {
        sched_end(w->s, &j->request->seqs[pick(&w->rng, 0, j->request->n - 1)]);
    } else {
        for (int32_t c = 0; c < j->request->n; c++)
            sched_end(w->s, &j->request->seqs[c]);
    }
    finish_if_ended(w, j);
}

/* No more than the limit, beside the oldest and those who are exempt; no fewer where others wait.
 */
static void check_limit(struct world *w, const struct sched_plan *p, uint64_t oldest, int32_t held)
{
    int32_t bound = 0, recompute = 0;
    for (int32_t i = 0; i < p->n_decode; i++)
        bound += !p->decode[i].seq->exempt && p->decode[i].seq->order != oldest;
    assert_true(bound <= w->limit);
    for (int32_t i = 0; i < w->n_jobs && held; i++) {
        struct sched_request *r = w->jobs[i].request;
        for (int32_t c = 0; r && c < r->n; c++)
            recompute += r->seqs[c].state == SCHED_PREFILL && r->seqs[c].decodes;
    }
    assert_true(!held || p->n_decode + recompute >= w->limit);
}

static void check_plan(struct world *w, const struct sched_plan *p, int32_t n_decoding,
                       uint64_t preemptions_before)
{
    struct sched_stats st;
    sched_stats(w->s, &st);
    int32_t rows = p->n_decode;
    for (int32_t i = 0; i < p->n_prefill; i++)
        rows += p->prefill[i].n;
    assert_int_equal(rows, p->n_rows);
    assert_true(rows <= w->cfg.max_batched_tokens);
    assert_true(st.running <= w->cfg.max_seqs);
    assert_true(p->n_decode + st.held + (int32_t)(st.preemptions - preemptions_before) >=
                n_decoding);
    uint64_t oldest_waiting = UINT64_MAX, oldest_running = UINT64_MAX, youngest_running = 0;
    int32_t beside = 0;
    for (int32_t i = 0; i < w->n_jobs; i++) {
        struct sched_request *r = w->jobs[i].request;
        for (int32_t c = 0; r && c < r->n; c++) {
            const struct sched_seq *q = &r->seqs[c];
            if (q->state == SCHED_WAITING && q->order < oldest_waiting)
                oldest_waiting = q->order;
            bool runs = q->state == SCHED_PREFILL || q->state == SCHED_DECODE;
            if (runs && q->order > youngest_running)
                youngest_running = q->order;
            if (runs && q->order < oldest_running)
                oldest_running = q->order;
            beside += q->state == SCHED_PREFILL;
        }
    }
    assert_true(youngest_running < oldest_waiting);
    if (st.preemptions == preemptions_before)
        check_limit(w, p, oldest_running, st.held);
    /* With a long lane each prompt is in the step or in the pass that follows it. */
    if (beside && !w->cfg.long_prefill_tokens)
        assert_true(p->prefill_rows > 0);
    for (int32_t i = 0; i < p->n_prefill && w->cfg.long_prefill_tokens; i++)
        assert_true(p->prefill[i].last && !p->prefill[i].seq->in_long);
}

/* Where the logits come: a token, or the end. */
static void sample(struct world *w, struct sched_seq *q)
{
    struct job *j = job_of(w, q);
    struct watch *t = &j->watch[q - j->request->seqs];
    if (q->n_tokens < q->max_len)
        sched_append(w->s, q, pick(&w->rng, 0, 2));
    if (q->n_tokens == q->max_len || q->n_tokens - q->n_prompt >= t->stop_after)
        sched_end(w->s, q);
    finish_if_ended(w, j);
}

static void run_plan(struct world *w, const struct sched_plan *p)
{
    struct sched_seq *due[64];
    int32_t n_due = 0;
    for (int32_t i = 0; i < p->n_decode; i++) {
        compute(w, &p->decode[i], true);
        due[n_due++] = p->decode[i].seq;
    }
    for (int32_t i = 0; i < p->n_prefill; i++) {
        compute(w, &p->prefill[i], true);
        if (p->prefill[i].last)
            due[n_due++] = p->prefill[i].seq;
    }
    sched_complete(w->s);
    for (int32_t i = 0; i < n_due; i++)
        sample(w, due[i]);
}

static void end_long(struct world *w, const struct sched_long *l)
{
    struct sched_seq *due[64];
    int32_t n_due = 0;
    for (int32_t i = 0; i < l->n_spans; i++) {
        if (l->spans[i].seq && l->spans[i].last)
            due[n_due++] = l->spans[i].seq;
        w->dropped += !l->spans[i].seq;
    }
    sched_long_complete(w->s);
    for (int32_t i = 0; i < n_due; i++)
        sample(w, due[i]);
}

/* Every prompt is in the pass, unless its tokens are used up. */
static void check_new_long(struct world *w, const struct sched_long *l)
{
    int32_t rows = 0, alive = 0, prefilling = 0;
    for (int32_t i = 0; i < l->n_spans; i++) {
        rows += l->spans[i].n;
        alive += l->spans[i].seq != NULL;
        assert_true(l->spans[i].n > 0);
    }
    assert_true(rows == l->n_rows && rows <= w->cfg.long_prefill_tokens && alive == l->n_alive);
    for (int32_t i = 0; i < w->n_jobs; i++)
        for (int32_t c = 0; w->jobs[i].request && c < w->jobs[i].request->n; c++)
            prefilling += w->jobs[i].request->seqs[c].state == SCHED_PREFILL;
    assert_true(rows == w->cfg.long_prefill_tokens || alive == prefilling);
}

static void excuse(struct world *w)
{
    for (int32_t i = 0; i < w->n_jobs; i++)
        for (int32_t c = 0; c < MAX_CHOICES; c++)
            w->jobs[i].watch[c].since += w->max_turns;
}

/* Some layers of the long pass: whatever lies in its rows is not whole until the last. Returns
 * whether there is one. */
static bool run_long(struct world *w)
{
    const struct sched_long *l = sched_long(w->s);
    if (l->n_spans == 0)
        return false;
    if (w->turns_left == 0) {
        check_new_long(w, l);
        w->turns_left = pick(&w->rng, 1, w->max_turns);
        w->long_passes++;
    }
    if (l->n_alive == 0 || (w->faults && pick(&w->rng, 0, 15) == 0)) {
        w->turns_left = 0;
        if (l->n_alive)
            excuse(w);
        sched_long_abandon(w->s);
        return true;
    }
    bool whole = --w->turns_left == 0;
    w->pauses += !whole;
    for (int32_t i = 0; i < l->n_spans; i++)
        if (l->spans[i].seq)
            compute(w, &l->spans[i], whole);
    if (whole)
        end_long(w, l);
    return true;
}

static int32_t decoding(struct world *w)
{
    int32_t n = 0;
    for (int32_t i = 0; i < w->n_jobs; i++)
        for (int32_t c = 0; w->jobs[i].request && c < w->jobs[i].request->n; c++)
            n += w->jobs[i].request->seqs[c].state == SCHED_DECODE;
    return n;
}

/* What all workloads together must have seen, or else they test nothing. */
struct coverage {
    uint64_t plans, finished, preemptions, hits, dropped, long_passes, pauses, held, exempted;
};

static void workload(uint64_t seed, struct coverage *seen)
{
    struct world *w = mem_new(1, sizeof *w);
    w->rng.s = seed * 77 + 1;
    struct rng *g = &w->rng;
    int32_t seqs = pick(g, 1, 8);
    bool long_lane = pick(g, 0, 1);
    w->max_turns = long_lane ? pick(g, 1, 6) : 1;
    w->faults = pick(g, 0, 9) == 0;
    w->limits = pick(g, 0, 2) == 0;
    w->cfg = (struct sched_config){
        .max_seqs = seqs,
        .max_batched_tokens = seqs + pick(g, 0, pick(g, 0, 1) ? 8 : 64),
        .max_queue = pick(g, 1, 12),
        .max_model_len = pick(g, 60, 300),
        .kv_blocks = pick(g, 0, 9) ? pick(g, 8, pick(g, 0, 1) ? 14 : MAX_BLOCKS) : pick(g, 1, 4),
        .long_prefill_tokens = long_lane ? pick(g, 1, pick(g, 0, 1) ? 40 : 300) : 0,
        .no_prefix_cache = pick(g, 0, 3) == 0,
        .kv_hash_mask = pick(g, 0, 2) ? 0 : 3,
    };
    struct moed_error err;
    w->limit = w->cfg.max_seqs;
    assert_ok(sched_open(&w->s, &w->cfg, &err), &err);
    int32_t arrivals = pick(g, 1, MAX_REQUESTS), pace = pick(g, 0, 12);
    while (w->n_arrived < arrivals || w->n_alive > 0) {
        while (w->n_arrived < arrivals && pick(g, 0, pace) == 0)
            arrive(w);
        if (w->n_jobs && pick(g, 0, w->turns_left ? 5 : 40) == 0)
            cancel_some(w);
        struct sched_stats st;
        sched_stats(w->s, &st);
        int32_t n_decoding = decoding(w);
        watch_all(w);
        if (w->limits)
            limit(w);
        const struct sched_plan *p = sched_plan(w->s);
        check_plan(w, p, n_decoding, st.preemptions);
        bool stepped = p->n_rows > 0;
        if (stepped && w->faults && pick(g, 0, 15) == 0) {
            sched_abandon(w->s);
            excuse(w);
        } else if (stepped) {
            run_plan(w, p);
        }
        bool any = run_long(w) || stepped;
        if (!any)
            assert_int_equal(w->n_alive, 0);
        w->plans += any;
    }
    struct sched_stats st;
    sched_stats(w->s, &st);
    assert_int_equal(st.kv_used, 0);
    assert_int_equal(st.running, 0);
    assert_int_equal(st.waiting, 0);
    seen->plans += (uint64_t)w->plans;
    seen->finished += (uint64_t)w->n_jobs;
    seen->preemptions += st.preemptions;
    seen->hits += st.prefix_hits;
    seen->dropped += w->dropped;
    seen->held += w->held;
    seen->exempted += st.exempted;
    seen->long_passes += w->long_passes;
    seen->pauses += w->pauses;
    sched_close(&w->s);
    free(w);
}

static void run_workloads(uint64_t first, uint64_t n)
{
    struct coverage seen = {0};
    for (uint64_t seed = first; seed < first + n; seed++)
        workload(seed, &seen);
    print_message("%llu turns, %llu requests, %llu preemptions, %llu tokens reused, %llu long "
                  "passes paused %llu times, %llu spans dropped\n",
                  (unsigned long long)seen.plans, (unsigned long long)seen.finished,
                  (unsigned long long)seen.preemptions, (unsigned long long)seen.hits,
                  (unsigned long long)seen.long_passes, (unsigned long long)seen.pauses,
                  (unsigned long long)seen.dropped);
    assert_true(seen.plans > 50 * n && seen.finished > 5 * n && seen.preemptions > n / 2 &&
                seen.hits > 10 * n && seen.dropped > n / 100 && seen.long_passes > n &&
                seen.pauses > n && seen.held > n && seen.exempted > n / 100);
}

static void ten_thousand_random_workloads(void **state)
{
    run_workloads(0, 10000);
}

static void many_random_workloads_deep(void **state)
{
    run_workloads(10000, 300000);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(ten_thousand_random_workloads),
    cmocka_unit_test(many_random_workloads_deep),
};
CHECK_MAIN(tests)
