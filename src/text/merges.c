#include "text/merges.h"

static int takes_part(const uint32_t *rank, int32_t n_ranks, int32_t id)
{
    return id >= 0 && (id >= n_ranks || rank[id] != MERGES_NONE);
}

void merges_derive(struct bpe *b, const struct pieces *symbols, const uint32_t *rank,
                   int32_t n_ranks, int by_char)
{
    for (int32_t id = 0; id < n_ranks; id++) {
        size_t n;
        const char *s = pieces_get(symbols, id, &n);
        if (!s || rank[id] == MERGES_NONE || n > MERGES_MAX_PIECE_BYTES ||
            pieces_find(symbols, s, n) != id)
            continue;
        for (size_t cut = 1; cut < n; cut++) {
            if (by_char && ((unsigned char)s[cut] & 0xC0) == 0x80)
                continue;
            int32_t left = pieces_find(symbols, s, cut);
            if (!takes_part(rank, n_ranks, left))
                continue;
            int32_t right = pieces_find(symbols, s + cut, n - cut);
            if (takes_part(rank, n_ranks, right))
                bpe_add(b, left, right, rank[id], id);
        }
    }
}
