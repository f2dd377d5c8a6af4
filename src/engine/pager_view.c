/* The pager's numbers for those who need not know it. */
#include <stdio.h>

#include "engine/engine_int.h"

int moed_engine_pager_counters(const struct moed_engine *e, int32_t layer, moed_counter_fn fn,
                               void *user)
{
    const struct pager *p = e->setup.backend.pager;
    if (!p || layer < -1 || layer >= e->setup.info.n_layers)
        return MOED_ENOTFOUND;
    struct pager_counters c;
    if (layer < 0)
        pager_counters(p, &c);
    else
        pager_counters_layer(p, layer, &c);
#define X(name, help) fn(user, #name, help, c.name);
    PAGER_COUNTERS(X)
#undef X
    return 0;
}

int moed_engine_pager_info(const struct moed_engine *e, struct moed_pager_info *out)
{
    const struct pager *p = e->setup.backend.pager;
    if (!p)
        return MOED_ENOTFOUND;
    struct pager_info info;
    pager_info(p, &info);
    *out = (struct moed_pager_info){.in_place = info.mode == PAGER_IN_PLACE,
                                    .slots = info.slots,
                                    .resident = info.resident,
                                    .record_bytes = info.slot_bytes,
                                    .cache_bytes = info.cache_bytes};
    snprintf(out->policy, sizeof out->policy, "%s", info.policy ? info.policy : "");
    return 0;
}
