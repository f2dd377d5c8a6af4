#include "engine/admission.h"

#include <math.h>

/* After a change of size the cache adapts: its policy needs some steps, its copies some time. */
#define SETTLE_US    1000000
#define SETTLE_STEPS 8
/* Steps vary by two fifths. */
#define WINDOW_US    1000000
#define WINDOW_STEPS 16
/* Between the end of one request and the next of its client some steps are of another size. */
#define AWAY_US    200000
#define AWAY_STEPS 4

/* The size that was chosen stays within this part of the best. */
#define STAY    0.02
#define CLEARLY 0.8 /* of the wait that is borne */
/* From such a change of the chosen size's rate on, what is known of the others is in doubt. */
#define CHANGE        0.25
#define KNOWN_WINDOWS 4

/* Of the time of steps, for trials; saved up to. */
#define TRIAL_SHARE   0.02
#define EARNED_MAX_US 60e6
#define TRIAL_MAX_US  300000000
/* A size that is not known is expected to lose such a part of the chosen one's rate. */
#define LOSS 0.3
/* Demand is that of the last one to two periods: clients that ask again are not gone in between. */
#define PERIOD_US 1000000
/* Before a size is tried again: one that was near, one that was far, and at most. */
#define NEAR            0.2
#define BACKOFF_NEAR_US 60000000
#define BACKOFF_FAR_US  300000000
#define BACKOFF_MAX_US  1800000000

void admission_init(struct admission *a, int32_t max_seqs, int64_t max_wait_us)
{
    *a = (struct admission){
        .max_seqs = max_seqs, .max_wait_us = max_wait_us, .trial = -1, .spell.size = -1};
}

/* The nearest size of n rows, by ratio: 3 counts for 4, 5 for 4, 6 for 8. */
static int32_t size_of(int32_t n)
{
    int32_t i = 0;
    while (i < ADMISSION_SIZES - 1 && 2 * (int64_t)n * n > (int64_t)1 << (2 * i + 2))
        i++;
    return i;
}

/* Whether the last in the queue would wait no longer than asked for; clearly so where that would
 * hold back those who are admitted now. */
static bool bearable(const struct admission *a, int32_t size, double rate, int32_t demand)
{
    double waiting = (double)demand - (double)(1 << size);
    double part = size < a->chosen ? CLEARLY : 1;
    return !a->max_wait_us || size >= size_of(demand) ||
           waiting * a->mean_tokens * 1e6 <= part * rate * (double)a->max_wait_us;
}

static double best_rate(const struct admission *a, int32_t top, int32_t demand, bool *known)
{
    double best = 0;
    *known = false;
    for (int32_t i = 0; i <= top; i++) {
        double rate = a->size[i].rate;
        *known = *known || rate > 0;
        if (rate > best && bearable(a, i, rate, demand))
            best = rate;
    }
    return best;
}

/* The best, and of such the largest. One is where knowledge begins; where no wait is bearable, all
 * decode. */
static int32_t choose(const struct admission *a, int32_t top, int32_t demand)
{
    bool known;
    double best = best_rate(a, top, demand, &known);
    int32_t found = known ? top : 0;
    for (int32_t i = 0; i <= top && best > 0; i++) {
        double rate = a->size[i].rate, part = i == a->chosen ? 1 - STAY : 1;
        if (rate >= best * part && bearable(a, i, rate, demand))
            found = i;
    }
    return found;
}

static bool settled(const struct admission *a, int32_t size)
{
    return a->spell.size == size && a->spell.n_windows > 0;
}

/* What a trial of the size is expected to cost, until it has settled and a window is over. The next
 * one up needs nothing in advance, or a batch that pays would be climbed slowly. */
static double price_us(const struct admission *a, int32_t size)
{
    double rate = a->size[a->chosen].rate, known = a->size[size].rate;
    double expected = known > 0 ? known : rate * (1 - LOSS);
    double step_us = (double)(1 << size) * 1e6 / expected;
    double trial_us = fmax(SETTLE_US + WINDOW_US, (SETTLE_STEPS + WINDOW_STEPS) * step_us);
    return size == a->chosen + 1 ? 0 : (1 - expected / rate) * trial_us;
}

/* The nearest size to try, larger ones first, of those that are not known or of the others; -1:
 * none is due at a price that can be earned. */
static int32_t nearest(const struct admission *a, int64_t now_us, int32_t top, int32_t demand,
                       bool known)
{
    double rate = a->size[a->chosen].rate;
    for (int32_t d = 1; d < ADMISSION_SIZES; d++) {
        const int32_t near[] = {a->chosen + d, a->chosen - d};
        for (int k = 0; k < 2; k++) {
            int32_t i = near[k];
            if (i >= 0 && i <= top && (a->size[i].rate > 0) == known &&
                now_us >= a->size[i].retry_us && price_us(a, i) <= EARNED_MAX_US &&
                bearable(a, i, rate, demand))
                return i;
        }
    }
    return -1;
}

/* What shall be tried now: all together, as soon as nothing is owed, since the best is mostly at
 * one end or at the other; then what is not known, for which all is saved up. -1: nothing. */
static int32_t due(const struct admission *a, int64_t now_us, int32_t top, int32_t demand)
{
    if (a->owing || !settled(a, a->chosen))
        return -1;
    if (a->size[top].rate == 0 && top != a->chosen && now_us >= a->size[top].retry_us)
        return top;
    int32_t i = nearest(a, now_us, top, demand, false);
    if (i < 0)
        i = nearest(a, now_us, top, demand, true);
    return i >= 0 && a->earned_us >= price_us(a, i) ? i : -1;
}

static void put_off(struct admission_size *s, int64_t now_us, double gap)
{
    int64_t first = gap > NEAR ? BACKOFF_FAR_US : BACKOFF_NEAR_US;
    s->backoff_us = s->backoff_us ? 2 * s->backoff_us : first;
    if (s->backoff_us > BACKOFF_MAX_US)
        s->backoff_us = BACKOFF_MAX_US;
    s->retry_us = now_us + s->backoff_us;
}

/* The sizes that lost to the chosen one without a trial need none for a while either. */
static void pass_over(struct admission *a, int64_t now_us)
{
    double rate = a->size[a->chosen].rate;
    for (int32_t i = 0; i < ADMISSION_SIZES && rate > 0; i++)
        if (i != a->chosen && a->size[i].rate > 0 && !a->size[i].backoff_us)
            put_off(&a->size[i], now_us, 1 - a->size[i].rate / rate);
}

/* What was chosen by its first windows alone, and soon was not, would be so again and again: it is
 * put off for longer each time, until it stays for as long as it was put off. */
static void choose_again(struct admission *a, int64_t now_us, int32_t found)
{
    struct admission_size *was = &a->size[a->chosen];
    if (now_us - a->chosen_us >= was->backoff_us)
        was->backoff_us = 0;
    if (found == a->chosen)
        return;
    if (was->backoff_us)
        put_off(was, now_us, 0);
    a->chosen = found;
    a->chosen_us = now_us;
}

static int32_t lasting_demand(struct admission *a, int64_t now_us, int32_t n)
{
    if (now_us - a->period_us >= PERIOD_US) {
        a->demand[1] = now_us - a->period_us < 2 * PERIOD_US ? a->demand[0] : 0;
        a->demand[0] = 0;
        a->period_us = now_us;
    }
    if (n > a->demand[0])
        a->demand[0] = n;
    return a->demand[0] > a->demand[1] ? a->demand[0] : a->demand[1];
}

int32_t admission_limit(struct admission *a, int64_t now_us, int32_t running, int32_t queued)
{
    int32_t demand = lasting_demand(a, now_us, running + queued);
    if (demand == 0)
        return a->max_seqs;
    int32_t top = size_of(demand < a->max_seqs ? demand : a->max_seqs);
    if (a->trial >= 0 && now_us >= a->trial_end_us)
        put_off(&a->size[a->trial], now_us, 1);
    if (a->trial > top || (a->trial >= 0 && now_us >= a->trial_end_us))
        a->trial = -1;
    if (a->trial < 0) {
        choose_again(a, now_us, choose(a, top, demand));
        pass_over(a, now_us);
        a->trial = due(a, now_us, top, demand);
        a->trial_end_us = now_us + TRIAL_MAX_US;
    }
    int32_t at = a->trial >= 0 ? a->trial : a->chosen;
    return at >= top || (1 << at) > a->max_seqs ? a->max_seqs : 1 << at;
}

/* Where the chosen size's rate has moved, the others' may have too. */
static void doubt(struct admission *a, int64_t now_us)
{
    struct admission_size *s = &a->size[a->chosen];
    if (s->known_rate == 0 && a->spell.n_windows < KNOWN_WINDOWS)
        return;
    bool moved = s->rate > s->known_rate * (1 + CHANGE) || s->rate < s->known_rate * (1 - CHANGE);
    for (int32_t i = 0; i < ADMISSION_SIZES && s->known_rate > 0 && moved; i++) {
        if (i != a->chosen && a->size[i].retry_us > now_us) {
            a->size[i].retry_us = now_us;
            a->size[i].backoff_us = BACKOFF_NEAR_US / 2;
        }
    }
    if (moved)
        s->known_rate = s->rate;
}

/* A trial has shown its size. */
static void judge(struct admission *a, int64_t now_us)
{
    struct admission_size *s = &a->size[a->trial];
    double gap = 1 - s->rate / a->size[a->chosen].rate;
    a->trial = -1;
    a->owing = true;
    if (gap > 0)
        put_off(s, now_us, gap);
}

/* A window is over. */
static void learn(struct admission *a, int64_t now_us)
{
    struct admission_spell *w = &a->spell;
    struct admission_size *s = &a->size[w->size];
    double figure = (double)w->window_tokens * 1e6 / (double)w->window_us;
    if (s->rate == 0)
        s->rate = figure;
    else
        s->rate += (figure - s->rate) * (w->n_windows == 0 ? 0.5 : 0.25);
    w->n_windows++;
    w->window_us = w->window_tokens = w->n_steps = 0;
    if (w->size == a->chosen)
        doubt(a, now_us);
    if (w->size == a->trial)
        judge(a, now_us);
}

/* What a step takes longer than the chosen size would take for its tokens. */
static void charge(struct admission *a, int32_t rows, bool pure, int64_t us)
{
    double rate = a->size[a->chosen].rate;
    a->earned_us += TRIAL_SHARE * (double)us;
    if (pure && (a->trial >= 0 || a->owing) && rate > 0)
        a->earned_us -= (double)us - rows * 1e6 / rate;
    if (a->earned_us > EARNED_MAX_US)
        a->earned_us = EARNED_MAX_US;
    if (a->earned_us < -EARNED_MAX_US)
        a->earned_us = -EARNED_MAX_US;
}

/* Whether the step is of the spell's size; a new one begins where others persist. */
static bool of_spell(struct admission_spell *w, int32_t size, int64_t us)
{
    if (size == w->size) {
        w->away_us = w->away_steps = 0;
        return true;
    }
    w->away_us += us;
    w->away_steps++;
    if (w->size < 0 || (w->away_us >= AWAY_US && w->away_steps >= AWAY_STEPS))
        *w = (struct admission_spell){.size = size};
    return false;
}

void admission_step(struct admission *a, int32_t rows, bool pure, int64_t begin_us, int64_t end_us)
{
    struct admission_spell *w = &a->spell;
    int64_t us = end_us - begin_us;
    if (rows < 1 || us <= 0)
        return;
    charge(a, rows, pure, us);
    if (!pure || !of_spell(w, size_of(rows), us))
        return;
    if (w->settle_us < SETTLE_US || w->settle_steps < SETTLE_STEPS) {
        w->settle_us += us;
        w->settle_steps++;
        return;
    }
    if (w->size == a->chosen)
        a->owing = false;
    w->window_us += us;
    w->window_tokens += rows;
    if (++w->n_steps >= WINDOW_STEPS && w->window_us >= WINDOW_US)
        learn(a, end_us);
}

void admission_ended(struct admission *a, int32_t tokens)
{
    if (tokens > 0)
        a->mean_tokens += a->mean_tokens > 0 ? (tokens - a->mean_tokens) / 16 : tokens;
}
