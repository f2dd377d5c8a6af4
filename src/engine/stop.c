#include "engine/stop.h"

#include <string.h>

void stop_init(struct stop_matcher *m, char *const *stop, size_t n, bool include)
{
    *m = (struct stop_matcher){.stop = stop, .n = n, .include = include};
    for (size_t i = 0; i < n; i++)
        if (strlen(stop[i]) > m->longest)
            m->longest = strlen(stop[i]);
}

void stop_fini(struct stop_matcher *m)
{
    buf_fini(&m->held);
    buf_fini(&m->out);
}

/* The longest stop string that the first `end` held bytes end with. */
static const char *match_at(const struct stop_matcher *m, size_t end)
{
    const char *best = NULL;
    size_t best_bytes = 0;
    for (size_t i = 0; i < m->n; i++) {
        size_t k = strlen(m->stop[i]);
        if (k > best_bytes && k <= end && !memcmp(m->held.data + end - k, m->stop[i], k)) {
            best = m->stop[i];
            best_bytes = k;
        }
    }
    return best;
}

/* Bytes at the end of what is held that some stop string begins with. */
static size_t open_bytes(const struct stop_matcher *m)
{
    size_t most = m->longest ? m->longest - 1 : 0;
    for (size_t k = m->held.len < most ? m->held.len : most; k > 0; k--)
        for (size_t i = 0; i < m->n; i++)
            if (strlen(m->stop[i]) > k && !memcmp(m->held.data + m->held.len - k, m->stop[i], k))
                return k;
    return 0;
}

static void let_go(struct stop_matcher *m, size_t bytes)
{
    buf_add(&m->out, m->held.data, bytes);
    buf_drop(&m->held, bytes);
}

void stop_push(struct stop_matcher *m, const char *text, size_t n)
{
    buf_truncate(&m->out, 0);
    if (m->found || n == 0)
        return;
    size_t seen = m->held.len;
    buf_add(&m->held, text, n);
    for (size_t end = seen + 1; end <= m->held.len && m->n > 0; end++) {
        m->found = match_at(m, end);
        if (m->found) {
            let_go(m, m->include ? end : end - strlen(m->found));
            buf_truncate(&m->held, 0);
            return;
        }
    }
    let_go(m, m->held.len - open_bytes(m));
}

void stop_finish(struct stop_matcher *m)
{
    buf_truncate(&m->out, 0);
    let_go(m, m->held.len);
}
