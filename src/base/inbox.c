#include "base/inbox.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

int inbox_init(struct inbox *q, struct moed_error *err)
{
    atomic_init(&q->pushed, NULL);
    q->taken = NULL;
    q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->fd < 0)
        return moed_fail(err, MOED_EIO, "cannot make an eventfd: %s", strerror(errno));
    return 0;
}

void inbox_fini(struct inbox *q)
{
    assert(!q->taken && !atomic_load(&q->pushed));
    if (q->fd >= 0)
        close(q->fd);
    q->fd = -1;
}

void inbox_push(struct inbox *q, struct inbox_node *node)
{
    struct inbox_node *head = atomic_load_explicit(&q->pushed, memory_order_relaxed);
    do {
        node->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&q->pushed, &head, node, memory_order_release,
                                                    memory_order_relaxed));
    /* Whoever finds the queue empty rings; the others know that it has been rung. */
    if (!head) {
        uint64_t one = 1;
        while (write(q->fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
    }
}

/* Moves all that was pushed over, turning it round so that the oldest comes first. */
static struct inbox_node *take_all(struct inbox *q)
{
    struct inbox_node *n = atomic_exchange_explicit(&q->pushed, NULL, memory_order_acquire);
    struct inbox_node *oldest = NULL;
    while (n) {
        struct inbox_node *next = n->next;
        n->next = oldest;
        oldest = n;
        n = next;
    }
    return oldest;
}

struct inbox_node *inbox_next(struct inbox *q)
{
    if (!q->taken)
        q->taken = take_all(q);
    if (!q->taken) {
        uint64_t count;
        while (read(q->fd, &count, sizeof count) < 0 && errno == EINTR)
            ;
        /* A push between the look and the read has lost its ring: look once more. */
        q->taken = take_all(q);
    }
    struct inbox_node *n = q->taken;
    if (n) {
        q->taken = n->next;
        n->next = NULL;
    }
    return n;
}

void inbox_wait(struct inbox *q, long long timeout_us)
{
    if (q->taken)
        return;
    struct pollfd p = {.fd = q->fd, .events = POLLIN};
    struct timespec t = {.tv_sec = timeout_us / 1000000, .tv_nsec = timeout_us % 1000000 * 1000};
    ppoll(&p, 1, timeout_us < 0 ? NULL : &t, NULL);
}
