#include "text/unigram.h"

#include <stdlib.h>

#include "base/mem.h"
#include "text/unicode.h"

void unigram_fini(struct unigram *u)
{
    trie_fini(&u->pieces);
    free(u->score);
    free(u->joins);
    *u = (struct unigram){0};
}

static size_t join_bit(unsigned left, unsigned right)
{
    return (left * 0x85EBCA6Bu ^ right * 0xC2B2AE35u) >> 14;
}

int unigram_add(struct unigram *u, const char *piece, size_t n, int32_t id)
{
    if (!u->joins)
        u->joins = mem_new(UNIGRAM_JOIN_BITS / 64, sizeof *u->joins);
    unsigned before = 0;
    for (size_t i = 0, len; i < n; i += len) {
        unsigned cp = unicode_at(piece + i, n - i, &len);
        size_t bit = join_bit(before, cp);
        if (i > 0)
            u->joins[bit / 64] |= 1ull << bit % 64;
        before = cp;
    }
    return trie_add(&u->pieces, piece, n, id);
}

/* How far from `begin` pieces may reach across characters. */
static size_t stretch_end(const struct unigram *u, const char *word, size_t n, size_t begin)
{
    size_t len, end;
    unsigned before = unicode_at(word + begin, n - begin, &len);
    for (end = begin + len; end < n && u->joins; end += len) {
        unsigned cp = unicode_at(word + end, n - end, &len);
        size_t bit = join_bit(before, cp);
        if ((u->joins[bit / 64] >> bit % 64 & 1) == 0)
            break;
        before = cp;
    }
    return end;
}

void unigram_work_fini(struct unigram_work *w)
{
    free(w->nodes);
    tokens_fini(&w->reversed);
    *w = (struct unigram_work){0};
}

/*
 * One step of the search: the best way to `to` may be the best way to `begin` and then this piece.
 * SentencePiece compares before it rounds to float, except for unknown characters.
 */
static void offer(const struct unigram *u, struct unigram_node *nodes, size_t begin, size_t to,
                  int32_t id, double score)
{
    double sum = nodes[begin].score + score, rounded = u->single_floats ? (double)(float)sum : sum;
    if (nodes[to].begin == UNIGRAM_UNREACHED || (id == u->unk ? rounded : sum) > nodes[to].score)
        nodes[to] = (struct unigram_node){rounded, (uint32_t)begin, id};
}

static void search(const struct unigram *u, struct unigram_node *nodes, const char *s, size_t n)
{
    for (size_t i = 0, len; i < n; i += len) {
        unicode_at(s + i, n - i, &len);
        int covered = 0;
        uint32_t node = 0;
        for (size_t end = i; end < n;) {
            node = trie_step(&u->pieces, node, (unsigned char)s[end++]);
            if (node == 0)
                break;
            int32_t id = u->pieces.value[node];
            if (id < 0)
                continue;
            offer(u, nodes, i, end, id, u->score[id]);
            covered |= end - i == len;
        }
        if (!covered)
            offer(u, nodes, i, i + len, u->unk, u->unk_score);
    }
}

/* A stretch that no piece covers: its bytes where allowed, otherwise one unk. */
static void add_unknown(const struct unigram *u, struct tokens *reversed, const char *s, size_t n)
{
    int all = u->byte_fallback;
    for (size_t i = 0; i < n && all; i++)
        all = u->byte_piece[(unsigned char)s[i]] >= 0;
    if (!all) {
        if (u->unk >= 0)
            tokens_add(reversed, u->unk);
        return;
    }
    for (size_t i = n; i > 0; i--)
        tokens_add(reversed, u->byte_piece[(unsigned char)s[i - 1]]);
}

/* Appends the ids of one stretch; the sums go on from `score`, and their end is returned. */
static double encode_stretch(const struct unigram *u, struct unigram_work *work, const char *s,
                             size_t n, double score)
{
    work->nodes = mem_reserve(work->nodes, &work->cap, n + 1, sizeof *work->nodes);
    work->nodes[0] = (struct unigram_node){.score = score};
    for (size_t i = 1; i <= n; i++)
        work->nodes[i].begin = UNIGRAM_UNREACHED;
    search(u, work->nodes, s, n);
    work->reversed.n = 0;
    size_t end = n;
    while (end > 0) {
        size_t begin = work->nodes[end].begin;
        int32_t id = work->nodes[end].id;
        if (id != u->unk) {
            tokens_add(&work->reversed, id);
        } else {
            while (begin > 0 && work->nodes[begin].id == u->unk)
                begin = work->nodes[begin].begin;
            add_unknown(u, &work->reversed, s + begin, end - begin);
        }
        end = begin;
    }
    return work->nodes[n].score;
}

void unigram_encode(const struct unigram *u, struct unigram_work *work, const char *word, size_t n,
                    struct tokens *out)
{
    size_t before = out->n;
    double score = 0;
    for (size_t begin = 0, end; begin < n; begin = end) {
        end = stretch_end(u, word, n, begin);
        score = encode_stretch(u, work, word + begin, end - begin, score);
        for (size_t i = work->reversed.n; i > 0; i--) {
            int32_t id = work->reversed.ids[i - 1];
            /* Unknown characters in a row are one unk, across stretches too. */
            if (id == u->unk && out->n > before && out->ids[out->n - 1] == id)
                continue;
            tokens_add(out, id);
        }
    }
}
