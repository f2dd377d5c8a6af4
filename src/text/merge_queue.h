/*
 * The order in which merges of one long word happen: by rank, equal ranks from left to right.
 *
 * Positions of one rank mostly arrive from left to right already, so each rank has a list that is
 * appended to and read from the front, at constant cost and in the order of memory. Only what
 * arrives out of order goes through a heap. So time stays proportional to the word even where it no
 * longer fits the caches. Belongs to one thread; starts as {0}.
 */
#ifndef MOED_TEXT_MERGE_QUEUE_H
#define MOED_TEXT_MERGE_QUEUE_H

#include <stddef.h>
#include <stdint.h>

struct merge_queue {
    struct merge_node {
        uint32_t position, next; /* index of a node, 0 at the end */
    } * nodes;                   /* nodes[0] is not used */
    size_t n_nodes, nodes_cap;
    uint32_t free_node; /* nodes that were read, linked by next; 0 at the end */
    struct merge_list {
        uint32_t rank, slot;
        uint32_t head, tail; /* nodes; head is 0 where the list is empty */
    } * lists;
    size_t n_lists, lists_cap;
    uint32_t *slots; /* rank to 1 + index of its list, open addressing; n_slots a power of two */
    size_t n_slots;
    uint32_t *ranks; /* heap of indexes of lists that are not empty, lowest rank on top */
    size_t n_ranks, ranks_cap;
    uint64_t *late; /* heap of rank << 32 | position */
    size_t n_late, late_cap;
};

void merge_queue_fini(struct merge_queue *q);
/* Empties the queue and makes room for that many positions at once. */
void merge_queue_clear(struct merge_queue *q, size_t expect);
void merge_queue_push(struct merge_queue *q, uint32_t rank, uint32_t position);
/* Takes the first; 0 where there is none. */
int merge_queue_pop(struct merge_queue *q, uint32_t *rank, uint32_t *position);

#endif
