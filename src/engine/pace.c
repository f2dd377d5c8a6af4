#include "engine/pace.h"

#include <math.h>

/* Of a new sample. Smaller than TCP's eighth and quarter: steps come by the hundred, and a
 * deviation that a few of them lower lets too many layers in before a long one. */
#define GAIN 0.0625
/* What may come above the mean: with fewer more than one token in a hundred is late (the test has
 * series). A sample of layers is the mean of those that ran together, which varies less than one.
 */
#define STEP_DEVIATIONS  4
#define LAYER_DEVIATIONS 2
/* Of the target that layers leave free. Steps beside a pass are slower than those before it, from
 * which their mean still comes when it begins: aiming at the whole target, one gap in a hundred
 * was 12 ms late at 200 (docs/performance.md). */
#define SPARE 0.1

static void observe(struct pace_time *t, double us)
{
    if (us < 1)
        us = 1;
    if (t->mean_us == 0) {
        t->mean_us = us;
        t->deviation_us = t->part * us;
    }
    double off = us - t->mean_us;
    t->mean_us += GAIN * off;
    t->deviation_us += GAIN * (fabs(off) - t->deviation_us);
}

void pace_step(struct pace *p, int64_t begin_us, int64_t end_us)
{
    observe(&p->step, (double)(end_us - begin_us));
    p->token_us = end_us;
}

void pace_no_streams(struct pace *p, int64_t now_us)
{
    p->token_us = now_us;
    p->step = (struct pace_time){0};
}

void pace_new_pass(struct pace *p)
{
    if (p->layer.mean_us > 0)
        p->layer.part = p->layer.deviation_us / p->layer.mean_us;
    p->layer.mean_us = p->layer.deviation_us = 0;
}

void pace_layers_ran(struct pace *p, int32_t n, int64_t us)
{
    observe(&p->layer, (double)us / n);
}

int32_t pace_layers(const struct pace *p, int64_t now_us, int32_t left, bool first)
{
    double step_us = p->step.mean_us + STEP_DEVIATIONS * p->step.deviation_us;
    double layer_us = p->layer.mean_us + LAYER_DEVIATIONS * p->layer.deviation_us;
    double aim_us = (1 - SPARE) * (double)p->target_us;
    double room_us = (double)(p->token_us - now_us) + aim_us - step_us;
    double n = layer_us > 0 && room_us > 0 ? floor(room_us / layer_us) : 0;
    if (n < 1)
        n = first;
    return n < left ? (int32_t)n : left;
}
