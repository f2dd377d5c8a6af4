#include "text/trie.h"

#include <stdlib.h>

#include "base/mem.h"

void trie_fini(struct trie *t)
{
    free(t->value);
    free(t->edges);
    *t = (struct trie){0};
}

static struct trie_edge *edge_of(const struct trie *t, uint32_t key)
{
    size_t mask = t->n_slots - 1;
    size_t i = (key * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (t->edges[i].child != 0 && t->edges[i].key != key)
        i = (i + 1) & mask;
    return &t->edges[i];
}

static void grow(struct trie *t)
{
    struct trie_edge *old = t->edges;
    size_t n_old = t->n_slots;
    t->n_slots = n_old ? 2 * n_old : 64;
    t->edges = mem_new(t->n_slots, sizeof *t->edges);
    for (size_t i = 0; i < n_old; i++)
        if (old[i].child != 0)
            *edge_of(t, old[i].key) = old[i];
    free(old);
}

uint32_t trie_step(const struct trie *t, uint32_t node, unsigned char byte)
{
    if (node == 0)
        return t->root[byte];
    return edge_of(t, node << 8 | byte)->child;
}

static uint32_t new_node(struct trie *t)
{
    t->value = mem_reserve(t->value, &t->cap, t->n_nodes + 1, sizeof *t->value);
    t->value[t->n_nodes] = -1;
    return (uint32_t)t->n_nodes++;
}

int trie_add(struct trie *t, const char *s, size_t n, int32_t value)
{
    if (n == 0 || t->n_nodes + n + 1 > TRIE_MAX_NODES)
        return -1;
    if (t->n_nodes == 0)
        new_node(t);
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)s[i];
        if (2 * t->n_edges >= t->n_slots)
            grow(t);
        uint32_t child = trie_step(t, node, byte);
        if (child == 0) {
            child = new_node(t);
            if (node == 0) {
                t->root[byte] = child;
            } else {
                *edge_of(t, node << 8 | byte) = (struct trie_edge){node << 8 | byte, child};
                t->n_edges++;
            }
        }
        node = child;
    }
    t->value[node] = value;
    return 0;
}

int32_t trie_longest(const struct trie *t, const char *bytes, size_t n, size_t *len)
{
    int32_t found = -1;
    uint32_t node = 0;
    *len = 0;
    for (size_t i = 0; i < n && t->n_nodes > 0; i++) {
        node = trie_step(t, node, (unsigned char)bytes[i]);
        if (node == 0)
            break;
        if (t->value[node] >= 0) {
            found = t->value[node];
            *len = i + 1;
        }
    }
    return found;
}
