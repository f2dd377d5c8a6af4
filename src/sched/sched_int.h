/* Inside the scheduler: what states (sched.c) and plans (plan.c) share. */
#ifndef MOED_SCHED_INT_H
#define MOED_SCHED_INT_H

#include "sched/sched.h"

struct seq_list {
    struct sched_seq *head, *tail;
    int32_t n;
};

struct sched {
    struct sched_config cfg;
    struct kv_pool *kv;
    struct seq_list waiting; /* by seniority */
    struct seq_list running; /* by seniority; each is senior to every waiting one */
    uint64_t last_order, last_scope;
    int32_t n_new;      /* requests never admitted */
    int32_t n_requests; /* added and not removed */
    int32_t limit;      /* of sequences that decode; 1 to cfg.max_seqs */
    int32_t held;       /* by it, in the last plan */
    struct sched_plan plan;
    struct sched_long open;
    bool planned; /* between plan and complete */
    uint64_t preemptions, prefix_queries, prefix_hits, exempted;
};

static inline int32_t blocks_for(int32_t tokens)
{
    return (tokens + SCHED_BLOCK_TOKENS - 1) / SCHED_BLOCK_TOKENS;
}

/* The one function that changes a state: keeps lists and blocks in step with it. */
void sched_move(struct sched *s, struct sched_seq *seq, enum sched_state to);
/* Once the first choice has its prompt, or cannot get it any more. */
void sched_release_held(struct sched *s, struct sched_request *r);
/* A long pass that is paused forgets the sequence. */
void long_drop(struct sched *s, struct sched_seq *seq);

#endif
