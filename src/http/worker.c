/* The text worker: prepares long bodies, so that they stall no stream. */
#include "http/server_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct job *job_of(struct inbox_node *node)
{
    return (struct job *)((char *)node - offsetof(struct job, node));
}

void job_free(struct job **job)
{
    if (!*job)
        return;
    free((*job)->body);
    api_request_free(&(*job)->request);
    free(*job);
    *job = NULL;
}

static void *run(void *arg)
{
    struct worker *w = arg;
    pthread_setname_np(pthread_self(), "moed-text");
    while (!atomic_load(&w->stop)) {
        struct inbox_node *node = inbox_next(&w->todo);
        if (!node) {
            inbox_wait(&w->todo, -1);
            continue;
        }
        if (node == &w->stop_node)
            break;
        struct job *job = job_of(node);
        job->rc = api_prepare(&job->request, job->ctx, job->endpoint, job->body, job->body_bytes,
                              &job->error);
        inbox_push(&w->done, node);
    }
    return NULL;
}

int worker_open(struct worker *w, struct moed_error *err)
{
    int rc = inbox_init(&w->todo, err);
    if (rc < 0)
        return rc;
    rc = inbox_init(&w->done, err);
    if (rc < 0) {
        inbox_fini(&w->todo);
        return rc;
    }
    int error = pthread_create(&w->thread, NULL, run, w);
    if (error) {
        inbox_fini(&w->todo);
        inbox_fini(&w->done);
        return moed_fail(err, MOED_EIO, "the text worker cannot start: %s", strerror(error));
    }
    w->running = true;
    return 0;
}

void worker_submit(struct worker *w, struct job *job)
{
    inbox_push(&w->todo, &job->node);
}

struct job *worker_next_done(struct worker *w)
{
    struct inbox_node *node = inbox_next(&w->done);
    return node ? job_of(node) : NULL;
}

void worker_close(struct worker *w)
{
    if (!w->running)
        return;
    atomic_store(&w->stop, true);
    inbox_push(&w->todo, &w->stop_node);
    pthread_join(w->thread, NULL);
    w->running = false;
    struct inbox_node *node;
    while ((node = inbox_next(&w->todo))) {
        struct job *job = node == &w->stop_node ? NULL : job_of(node);
        job_free(&job);
    }
    struct job *job;
    while ((job = worker_next_done(w)))
        job_free(&job);
    inbox_fini(&w->todo);
    inbox_fini(&w->done);
}
