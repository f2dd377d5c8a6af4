#include "engine/pace.h"

/* Up at once, down by half: late tokens are worse than a layer less. */
static int64_t expect(int64_t known_us, int64_t us)
{
    if (us < 1)
        us = 1;
    return us >= known_us ? us : (known_us + us) / 2;
}

void pace_step(struct pace *p, int64_t begin_us, int64_t end_us)
{
    p->step_us = expect(p->step_us, end_us - begin_us);
    p->token_us = end_us;
}

void pace_no_streams(struct pace *p, int64_t now_us)
{
    p->token_us = now_us;
    p->step_us = 0;
}

void pace_new_pass(struct pace *p)
{
    p->layer_us = 0;
}

void pace_layers_ran(struct pace *p, int32_t n, int64_t us)
{
    p->layer_us = expect(p->layer_us, us / n);
}

int32_t pace_layers(const struct pace *p, int64_t now_us, int32_t left, bool first)
{
    int64_t aim_us = p->target_us - p->target_us / 10;
    int64_t room = p->token_us + aim_us - p->step_us - now_us;
    int64_t n = p->layer_us > 0 && room > 0 ? room / p->layer_us : 0;
    if (n < 1)
        n = first;
    return (int32_t)(n < left ? n : left);
}
