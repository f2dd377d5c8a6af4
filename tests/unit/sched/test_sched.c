#include "check.h"

#include "sched/sched.h"

static struct sched *open_sched(struct sched_config cfg)
{
    struct moed_error err;
    struct sched *s;
    assert_ok(sched_open(&s, &cfg, &err), &err);
    return s;
}

static const struct sched_config small = {
    .max_seqs = 4, .max_batched_tokens = 32, .max_queue = 4, .max_model_len = 512, .kv_blocks = 32};

static struct sched_request *add(struct sched *s, int32_t first, int32_t n_prompt, int32_t n,
                                 int32_t max_tokens)
{
    int32_t prompt[512];
    for (int32_t i = 0; i < n_prompt; i++)
        prompt[i] = first + i;
    struct moed_error err;
    struct sched_request *r;
    assert_ok(
        sched_add(s, &r,
                  &(struct sched_new){
                      .prompt = prompt, .n_prompt = n_prompt, .n = n, .max_tokens = max_tokens},
                  &err),
        &err);
    return r;
}

static void end(struct sched *s, struct sched_request **r)
{
    for (int32_t i = 0; i < (*r)->n; i++)
        sched_end(s, &(*r)->seqs[i]);
    sched_remove(s, r);
}

static void what_never_fits_is_refused_with_the_numbers(void **state)
{
    struct sched_config cfg = small;
    cfg.kv_blocks = 4;
    struct sched *s = open_sched(cfg);
    struct moed_error err;
    struct sched_request *r;
    int32_t prompt[512] = {0};
    struct sched_new n = {.prompt = prompt, .n_prompt = 60, .n = 1, .max_tokens = 6};
    assert_int_equal(sched_add(s, &r, &n, &err), MOED_ELIMIT);
    assert_non_null(strstr(err.text, "60 prompt tokens and 6 new ones need 5 KV blocks"));
    assert_non_null(strstr(err.text, "there are 4"));
    n.max_tokens = 5; /* the 65th token is never computed */
    assert_ok(sched_add(s, &r, &n, &err), &err);
    end(s, &r);
    n.n_prompt = 500;
    n.max_tokens = 13;
    assert_int_equal(sched_add(s, &r, &n, &err), MOED_ELIMIT);
    assert_non_null(strstr(err.text, "context of 512"));
    sched_close(&s);
}

static void the_queue_counts_requests_never_admitted(void **state)
{
    struct sched *s = open_sched(small);
    struct moed_error err;
    struct sched_request *r[4], *more;
    for (int i = 0; i < 4; i++)
        r[i] = add(s, 1000 * i, 20, 1, 4);
    int32_t prompt[1] = {1};
    struct sched_new n = {.prompt = prompt, .n_prompt = 1, .n = 1, .max_tokens = 1};
    assert_int_equal(sched_add(s, &more, &n, &err), MOED_EBUSY);
    assert_true(sched_plan(s)->n_rows == 32);
    sched_complete(s);
    assert_ok(sched_add(s, &more, &n, &err), &err);
    end(s, &more);
    for (int i = 0; i < 4; i++)
        end(s, &r[i]);
    sched_close(&s);
}

static void decodes_go_first_then_prompts_share_the_budget(void **state)
{
    struct sched *s = open_sched(small);
    struct sched_request *a = add(s, 0, 10, 1, 8), *b = add(s, 1000, 40, 1, 8);
    const struct sched_plan *p = sched_plan(s);
    assert_int_equal(p->n_decode, 0);
    assert_int_equal(p->n_prefill, 2);
    assert_int_equal(p->prefill[0].n, 10);
    assert_true(p->prefill[0].last);
    assert_int_equal(p->prefill[1].n, 22);
    assert_false(p->prefill[1].last);
    sched_complete(s);
    assert_int_equal(a->seqs[0].state, SCHED_DECODE);
    sched_append(s, &a->seqs[0], 7);
    struct sched_request *c = add(s, 2000, 40, 1, 8);
    p = sched_plan(s);
    assert_int_equal(p->n_decode, 1);
    assert_int_equal(p->decode[0].first, 10);
    assert_int_equal(p->n_prefill, 2);
    assert_int_equal(p->prefill[0].first, 22);
    assert_int_equal(p->prefill[0].n, 18);
    assert_int_equal(p->prefill[1].n, 13);
    assert_int_equal(p->n_rows, 32);
    sched_complete(s);
    end(s, &a);
    end(s, &b);
    end(s, &c);
    sched_close(&s);
}

static void choices_share_the_blocks_of_the_prompt(void **state)
{
    for (int without_cache = 0; without_cache < 2; without_cache++) {
        struct sched_config cfg = small;
        cfg.max_batched_tokens = 64;
        cfg.no_prefix_cache = without_cache;
        struct sched *s = open_sched(cfg);
        struct sched_request *a = add(s, 0, 40, 3, 8);
        assert_int_equal(sched_plan(s)->n_rows, 40);
        assert_int_equal(a->seqs[1].state, SCHED_HELD);
        sched_complete(s);
        sched_append(s, &a->seqs[0], 7);
        const struct sched_plan *p = sched_plan(s);
        assert_int_equal(p->n_decode, 1);
        assert_int_equal(p->n_prefill, 2);
        assert_int_equal(p->prefill[0].first, 32);
        assert_int_equal(p->prefill[0].n, 8);
        assert_int_equal(a->seqs[2].cached_tokens, 32);
        struct sched_stats st;
        sched_stats(s, &st);
        assert_int_equal(st.kv_used, 2 + 3);
        sched_complete(s);
        end(s, &a);
        /* Another request with the same prompt finds it only where the cache is on. */
        struct sched_request *b = add(s, 0, 40, 1, 8);
        sched_plan(s);
        assert_int_equal(b->seqs[0].cached_tokens, without_cache ? 0 : 32);
        sched_complete(s);
        end(s, &b);
        sched_close(&s);
    }
}

static void ending_the_first_choice_frees_the_others(void **state)
{
    struct sched *s = open_sched(small);
    struct sched_request *a = add(s, 0, 40, 2, 8);
    sched_plan(s);
    sched_complete(s);
    sched_end(s, &a->seqs[0]);
    assert_int_equal(a->seqs[1].state, SCHED_WAITING);
    assert_int_equal(sched_plan(s)->n_rows, 8);
    sched_complete(s);
    end(s, &a);
    sched_close(&s);
}

/* Two sequences that grow until the blocks are gone: the younger one makes place, and goes on when
 * the older one has ended. */
static void the_youngest_makes_place_and_comes_back(void **state)
{
    struct sched_config cfg = small;
    cfg.kv_blocks = 5;
    cfg.max_batched_tokens = 64;
    struct sched *s = open_sched(cfg);
    struct sched_request *a = add(s, 0, 16, 1, 40), *b = add(s, 1000, 16, 1, 40);
    int32_t low = 0;
    for (int plan = 0; plan < 200 && (a || b); plan++) {
        const struct sched_plan *p = sched_plan(s);
        assert_true(p->n_rows > 0);
        struct sched_seq *due[4];
        int n = 0;
        for (int i = 0; i < p->n_decode; i++)
            due[n++] = p->decode[i].seq;
        for (int i = 0; i < p->n_prefill; i++)
            due[n++] = p->prefill[i].seq;
        if (a && b && b->seqs[0].state == SCHED_WAITING)
            low++;
        sched_complete(s);
        for (int i = 0; i < n; i++) {
            sched_append(s, due[i], 5);
            if (due[i]->n_tokens == due[i]->max_len)
                end(s, a && due[i] == a->seqs ? &a : &b);
        }
    }
    assert_null(a);
    assert_null(b);
    assert_true(low > 0);
    struct sched_stats st;
    sched_stats(s, &st);
    assert_true(st.preemptions >= 1);
    assert_int_equal(st.kv_used, 0);
    sched_close(&s);
}

/* Runs the next step; its one decode row gives token 1. */
static const struct sched_plan *step(struct sched *s, struct sched_request *r)
{
    const struct sched_plan *p = sched_plan(s);
    assert_int_equal(p->n_decode, 1);
    assert_ptr_equal(p->decode[0].seq, r->seqs);
    sched_complete(s);
    sched_append(s, r->seqs, 1);
    return p;
}

static void a_long_pass_goes_on_beside_steps(void **state)
{
    struct sched_config cfg = small;
    cfg.long_prefill_tokens = 70;
    struct sched *s = open_sched(cfg);
    struct sched_request *a = add(s, 0, 8, 1, 20);
    assert_int_equal(sched_plan(s)->n_rows, 8);
    sched_complete(s);
    assert_int_equal(sched_long(s)->n_spans, 0);
    sched_append(s, a->seqs, 1);
    /* What does not fit whole into the step is left to the long pass, what fits rides along. */
    struct sched_request *b = add(s, 1000, 50, 1, 8), *d = add(s, 3000, 20, 1, 8),
                         *c = add(s, 2000, 40, 1, 8);
    const struct sched_plan *p = sched_plan(s);
    assert_int_equal(p->n_decode, 1);
    assert_int_equal(p->n_prefill, 1);
    assert_ptr_equal(p->prefill[0].seq, d->seqs);
    sched_complete(s);
    sched_append(s, a->seqs, 2);
    end(s, &d);
    const struct sched_long *l = sched_long(s);
    assert_int_equal(l->n_spans, 2);
    assert_int_equal(l->n_rows, 70);
    assert_ptr_equal(l->spans[0].seq, b->seqs);
    assert_true(l->spans[0].last);
    assert_int_equal(l->spans[1].n, 20);
    assert_false(l->spans[1].last);
    /* While it is open, steps decode and leave its sequences alone. */
    step(s, a);
    assert_ptr_equal(sched_long(s), l);
    assert_int_equal(l->n_rows, 70);
    assert_int_equal(b->seqs[0].n_computed, 0);
    end(s, &b);
    assert_null(l->spans[0].seq);
    assert_int_equal(l->n_alive, 1);
    step(s, a);
    sched_long_complete(s);
    assert_int_equal(c->seqs[0].n_computed, 20);
    assert_int_equal(c->seqs[0].state, SCHED_PREFILL);
    /* The rest fits a step now. */
    p = sched_plan(s);
    assert_int_equal(p->n_prefill, 1);
    assert_int_equal(p->prefill[0].n, 20);
    sched_complete(s);
    assert_int_equal(c->seqs[0].state, SCHED_DECODE);
    end(s, &a);
    end(s, &c);
    sched_close(&s);
}

static void a_long_pass_that_is_given_up_starts_anew(void **state)
{
    struct sched_config cfg = small;
    cfg.long_prefill_tokens = 100;
    struct sched *s = open_sched(cfg);
    struct sched_request *a = add(s, 0, 50, 1, 4), *b = add(s, 1000, 40, 1, 4);
    assert_int_equal(sched_plan(s)->n_rows, 0);
    assert_int_equal(sched_long(s)->n_rows, 90);
    sched_long_abandon(s);
    assert_int_equal(sched_plan(s)->n_rows, 0);
    const struct sched_long *l = sched_long(s);
    assert_int_equal(l->n_rows, 90);
    end(s, &a);
    end(s, &b);
    assert_int_equal(l->n_alive, 0);
    sched_long_abandon(s);
    assert_int_equal(sched_long(s)->n_spans, 0);
    sched_close(&s);
}

/* A decode that needs a block takes it from the youngest, which is in the paused pass. */
static void preemption_takes_a_sequence_out_of_the_long_pass(void **state)
{
    struct sched_config cfg = small;
    cfg.long_prefill_tokens = 100;
    cfg.kv_blocks = 6;
    struct sched *s = open_sched(cfg);
    struct sched_request *a = add(s, 0, 14, 1, 60);
    sched_plan(s);
    sched_complete(s);
    sched_append(s, a->seqs, 1);
    struct sched_request *b = add(s, 1000, 62, 1, 4);
    step(s, a);
    const struct sched_long *l = sched_long(s);
    assert_int_equal(l->n_rows, 62);
    for (int i = 0; i < 32 && l->n_alive; i++)
        step(s, a);
    assert_int_equal(l->n_alive, 0);
    assert_int_equal(b->seqs[0].state, SCHED_WAITING);
    assert_int_equal(b->seqs[0].preemptions, 1);
    sched_long_abandon(s);
    end(s, &a);
    assert_int_equal(sched_plan(s)->n_rows, 0);
    assert_int_equal(sched_long(s)->n_rows, 62);
    sched_long_complete(s);
    assert_int_equal(b->seqs[0].state, SCHED_DECODE);
    end(s, &b);
    sched_close(&s);
}

static void a_twin_takes_over_what_was_computed_meanwhile(void **state)
{
    struct sched *s = open_sched(small);
    struct sched_request *a = add(s, 0, 100, 1, 4), *b = add(s, 0, 100, 1, 4);
    int32_t rows = 0;
    for (int i = 0; i < 8 && b->seqs[0].state != SCHED_DECODE; i++) {
        rows += sched_plan(s)->n_rows;
        bool due = a->seqs[0].state == SCHED_DECODE;
        sched_complete(s);
        if (due || a->seqs[0].state == SCHED_DECODE)
            sched_append(s, &a->seqs[0], 1);
        if (a->seqs[0].n_tokens == a->seqs[0].max_len)
            break;
    }
    assert_int_equal(b->seqs[0].cached_tokens, 96);
    assert_true(rows < 100 + 4 + 8);
    end(s, &a);
    end(s, &b);
    sched_close(&s);
}

/* Plans and completes a step; each sequence of it gets a token. Returns how many decoded. */
static int32_t turn(struct sched *s)
{
    const struct sched_plan *p = sched_plan(s);
    struct sched_seq *due[16];
    int32_t n = 0, decoded = p->n_decode;
    for (int32_t i = 0; i < p->n_decode; i++)
        due[n++] = p->decode[i].seq;
    for (int32_t i = 0; i < p->n_prefill; i++)
        if (p->prefill[i].last)
            due[n++] = p->prefill[i].seq;
    sched_complete(s);
    for (int32_t i = 0; i < n; i++)
        sched_append(s, due[i], 1);
    return decoded;
}

static struct sched_stats stats_of(const struct sched *s)
{
    struct sched_stats st;
    sched_stats(s, &st);
    return st;
}

static void a_limit_holds_back_decoding_and_nothing_else(void **state)
{
    struct sched *s = open_sched(small);
    struct sched_request *r[4];
    for (int i = 0; i < 4; i++)
        r[i] = add(s, 1000 * i, 4, 1, 100);
    sched_limit_decodes(s, 2);
    /* All prompts are computed and have their first token; the oldest two go on. */
    turn(s);
    assert_int_equal(stats_of(s).running, 4);
    assert_int_equal(turn(s), 2);
    assert_int_equal(stats_of(s).held, 2);
    for (int i = 0; i < 4; i++)
        assert_int_equal(r[i]->seqs[0].n_tokens, i < 2 ? 6 : 5);
    /* The youngest pauses, and goes on when there is a place. */
    sched_limit_decodes(s, 1);
    assert_int_equal(turn(s), 1);
    assert_int_equal(r[1]->seqs[0].n_tokens, 6);
    end(s, &r[0]);
    assert_int_equal(turn(s), 1);
    assert_int_equal(r[1]->seqs[0].n_tokens, 7);
    assert_int_equal(stats_of(s).held, 2);
    end(s, &r[1]);
    assert_int_equal(turn(s), 1);
    assert_int_equal(r[2]->seqs[0].n_tokens, 6);
    assert_int_equal(stats_of(s).held, 1);
    assert_int_equal(stats_of(s).exempted, 0);
    /* One that is exempt does not wait for that. */
    sched_exempt(s, &r[3]->seqs[0]);
    assert_int_equal(turn(s), 2);
    assert_int_equal(turn(s), 2);
    assert_int_equal(stats_of(s).held, 0);
    assert_int_equal(stats_of(s).exempted, 1);
    /* No further than max_seqs. */
    sched_limit_decodes(s, 1000);
    assert_int_equal(turn(s), 2);
    end(s, &r[2]);
    end(s, &r[3]);
    sched_close(&s);
}

/* Others began while its prompt was in a long pass: it does not wait for who is younger. */
static void a_limit_does_not_hold_back_the_oldest(void **state)
{
    struct sched_config cfg = small;
    cfg.long_prefill_tokens = 128;
    struct sched *s = open_sched(cfg);
    struct sched_request *old = add(s, 0, 100, 1, 40), *young = add(s, 1000, 4, 1, 40);
    struct sched_request *last = add(s, 2000, 4, 1, 40);
    sched_limit_decodes(s, 1);
    turn(s);
    assert_int_equal(sched_long(s)->n_spans, 1);
    assert_int_equal(turn(s), 1);
    assert_true(young->seqs[0].decodes && !last->seqs[0].decodes);
    sched_long_complete(s);
    sched_append(s, &old->seqs[0], 1);
    assert_int_equal(turn(s), 2);
    assert_true(old->seqs[0].decodes && !last->seqs[0].decodes);
    assert_int_equal(stats_of(s).held, 1);
    assert_int_equal(stats_of(s).exempted, 0);
    end(s, &old);
    end(s, &young);
    assert_int_equal(turn(s), 1);
    end(s, &last);
    sched_close(&s);
}

/* An older one that comes to decode does not take the place of one that does. */
static void who_decodes_stays_before_who_could_begin(void **state)
{
    struct sched_config cfg = small;
    cfg.long_prefill_tokens = 128;
    struct sched *s = open_sched(cfg);
    struct sched_request *oldest = add(s, 0, 4, 1, 40), *late = add(s, 1000, 100, 1, 40);
    struct sched_request *young = add(s, 2000, 4, 1, 40);
    sched_limit_decodes(s, 2);
    turn(s);
    sched_long(s);
    assert_int_equal(turn(s), 2);
    sched_long_complete(s);
    sched_append(s, &late->seqs[0], 1);
    assert_int_equal(turn(s), 2);
    assert_true(young->seqs[0].decodes && !late->seqs[0].decodes);
    end(s, &young);
    assert_int_equal(turn(s), 2);
    assert_true(late->seqs[0].decodes);
    end(s, &oldest);
    end(s, &late);
    sched_close(&s);
}

static void what_was_preempted_keeps_its_place(void **state)
{
    struct sched_config cfg = small;
    cfg.kv_blocks = 5;
    struct sched *s = open_sched(cfg);
    struct sched_request *r[3];
    for (int i = 0; i < 3; i++)
        r[i] = add(s, 1000 * i, 14, 1, 40);
    for (int i = 0; i < 20 && stats_of(s).preemptions == 0; i++)
        turn(s);
    assert_int_equal(r[2]->seqs[0].state, SCHED_WAITING);
    sched_limit_decodes(s, 2);
    end(s, &r[1]);
    turn(s);
    assert_int_equal(r[2]->seqs[0].state, SCHED_DECODE);
    assert_int_equal(turn(s), 2);
    end(s, &r[0]);
    end(s, &r[2]);
    sched_close(&s);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(what_never_fits_is_refused_with_the_numbers),
    cmocka_unit_test(the_queue_counts_requests_never_admitted),
    cmocka_unit_test(decodes_go_first_then_prompts_share_the_budget),
    cmocka_unit_test(choices_share_the_blocks_of_the_prompt),
    cmocka_unit_test(ending_the_first_choice_frees_the_others),
    cmocka_unit_test(the_youngest_makes_place_and_comes_back),
    cmocka_unit_test(a_limit_holds_back_decoding_and_nothing_else),
    cmocka_unit_test(a_limit_does_not_hold_back_the_oldest),
    cmocka_unit_test(who_decodes_stays_before_who_could_begin),
    cmocka_unit_test(what_was_preempted_keeps_its_place),
    cmocka_unit_test(a_long_pass_goes_on_beside_steps),
    cmocka_unit_test(a_long_pass_that_is_given_up_starts_anew),
    cmocka_unit_test(preemption_takes_a_sequence_out_of_the_long_pass),
    cmocka_unit_test(a_twin_takes_over_what_was_computed_meanwhile),
};
CHECK_MAIN(tests)
