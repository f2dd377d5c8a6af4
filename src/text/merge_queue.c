#include "text/merge_queue.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

void merge_queue_fini(struct merge_queue *q)
{
    free(q->nodes);
    free(q->lists);
    free(q->slots);
    free(q->ranks);
    free(q->late);
    *q = (struct merge_queue){0};
}

static size_t slot_of(const struct merge_queue *q, uint32_t rank)
{
    size_t i = (rank * 0x9E3779B97F4A7C15u >> 32) & (q->n_slots - 1);
    while (q->slots[i] != 0 && q->lists[q->slots[i] - 1].rank != rank)
        i = (i + 1) & (q->n_slots - 1);
    return i;
}

void merge_queue_clear(struct merge_queue *q, size_t expect)
{
    for (size_t i = 0; i < q->n_lists; i++)
        q->slots[q->lists[i].slot] = 0;
    q->n_lists = q->n_ranks = q->n_late = 0;
    q->free_node = 0;
    q->n_nodes = 1;
    q->nodes = mem_reserve(q->nodes, &q->nodes_cap, expect + 1, sizeof *q->nodes);
}

/* A node that was read before is still in the cache, so it is used first. */
static uint32_t new_node(struct merge_queue *q, uint32_t position)
{
    uint32_t node = q->free_node;
    if (node != 0) {
        q->free_node = q->nodes[node].next;
    } else {
        if (q->n_nodes == q->nodes_cap)
            q->nodes = mem_reserve(q->nodes, &q->nodes_cap, q->n_nodes + 1, sizeof *q->nodes);
        node = (uint32_t)q->n_nodes++;
    }
    q->nodes[node] = (struct merge_node){position, 0};
    return node;
}

static void grow_slots(struct merge_queue *q)
{
    free(q->slots);
    q->n_slots = q->n_slots ? 2 * q->n_slots : 256;
    q->slots = mem_new(q->n_slots, sizeof *q->slots);
    for (size_t i = 0; i < q->n_lists; i++) {
        q->lists[i].slot = (uint32_t)slot_of(q, q->lists[i].rank);
        q->slots[q->lists[i].slot] = (uint32_t)i + 1;
    }
}

static size_t list_of(struct merge_queue *q, uint32_t rank)
{
    if (2 * q->n_lists >= q->n_slots)
        grow_slots(q);
    size_t slot = slot_of(q, rank);
    if (q->slots[slot] == 0) {
        q->lists = mem_reserve(q->lists, &q->lists_cap, q->n_lists + 1, sizeof *q->lists);
        q->lists[q->n_lists++] = (struct merge_list){.rank = rank, .slot = (uint32_t)slot};
        q->slots[slot] = (uint32_t)q->n_lists;
    }
    return q->slots[slot] - 1;
}

static void push_rank(struct merge_queue *q, size_t list)
{
    q->ranks = mem_reserve(q->ranks, &q->ranks_cap, q->n_ranks + 1, sizeof *q->ranks);
    size_t i = q->n_ranks++;
    for (; i > 0 && q->lists[list].rank < q->lists[q->ranks[(i - 1) / 2]].rank; i = (i - 1) / 2)
        q->ranks[i] = q->ranks[(i - 1) / 2];
    q->ranks[i] = (uint32_t)list;
}

static void pop_rank(struct merge_queue *q)
{
    uint32_t moved = q->ranks[--q->n_ranks];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < q->n_ranks; i = child) {
        if (child + 1 < q->n_ranks &&
            q->lists[q->ranks[child + 1]].rank < q->lists[q->ranks[child]].rank)
            child++;
        if (q->lists[moved].rank <= q->lists[q->ranks[child]].rank)
            break;
        q->ranks[i] = q->ranks[child];
    }
    q->ranks[i] = moved;
}

static void push_late(struct merge_queue *q, uint64_t key)
{
    q->late = mem_reserve(q->late, &q->late_cap, q->n_late + 1, sizeof *q->late);
    size_t i = q->n_late++;
    for (; i > 0 && key < q->late[(i - 1) / 2]; i = (i - 1) / 2)
        q->late[i] = q->late[(i - 1) / 2];
    q->late[i] = key;
}

static uint64_t pop_late(struct merge_queue *q)
{
    uint64_t top = q->late[0], moved = q->late[--q->n_late];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < q->n_late; i = child) {
        if (child + 1 < q->n_late && q->late[child + 1] < q->late[child])
            child++;
        if (moved <= q->late[child])
            break;
        q->late[i] = q->late[child];
    }
    q->late[i] = moved;
    return top;
}

void merge_queue_push(struct merge_queue *q, uint32_t rank, uint32_t position)
{
    size_t index = list_of(q, rank);
    struct merge_list *list = &q->lists[index];
    if (list->head != 0 && position < q->nodes[list->tail].position) {
        push_late(q, (uint64_t)rank << 32 | position);
        return;
    }
    uint32_t node = new_node(q, position);
    if (list->head != 0) {
        q->nodes[list->tail].next = node;
    } else {
        list->head = node;
        push_rank(q, index);
    }
    list->tail = node;
}

int merge_queue_pop(struct merge_queue *q, uint32_t *rank, uint32_t *position)
{
    uint64_t key = UINT64_MAX;
    struct merge_list *list = NULL;
    if (q->n_ranks > 0) {
        list = &q->lists[q->ranks[0]];
        key = (uint64_t)list->rank << 32 | q->nodes[list->head].position;
    }
    if (q->n_late > 0 && q->late[0] < key) {
        key = pop_late(q);
    } else if (list) {
        uint32_t node = list->head;
        list->head = q->nodes[node].next;
        q->nodes[node].next = q->free_node;
        q->free_node = node;
        if (list->head == 0)
            pop_rank(q);
    } else {
        return 0;
    }
    *rank = (uint32_t)(key >> 32);
    *position = (uint32_t)key;
    return 1;
}
