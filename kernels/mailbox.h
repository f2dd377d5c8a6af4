/*
 * The mailbox of a device's misses: how the GPU hands missed experts to the CPU's workers and gets
 * results back while a graph runs, without a call of the driver. Plain C, read by the workers
 * (src/device/misses.c) and by the CUDA kernels.
 *
 * It is one block of host memory that the GPU maps (pinned, page aligned, zeroed before either side
 * looks at it). A job is the misses of one layer of one step; at most one is open. The CPU computes
 * outputs [0, cpu_inner) of gate/up and [0, cpu_width) of down of each group, the GPU the rest from
 * the mapped records, over the link. Where few experts are missed both sides compute outputs of
 * each, and await each other's hidden. Where more are, each side has its own: the GPU link_groups
 * experts that are not in the job, the CPU all of gate/up of those that are. If the GPU would be
 * done with its own first, it has some of the CPU's outputs of down besides (late ones: cpu_width <
 * width); by then the CPU's hidden stands or nearly does.
 *
 *   GPU                                              CPU
 *   writes job fields, lists, x
 *   fence; posted = seq                        --->  reads them; gate/up of its share
 *   gate/up of its share over the link
 *   writes its part of hidden
 *   fence; link_hidden = seq                   --->  (awaits it when cpu_inner < inner)
 *                                              <---  writes hidden [0, cpu_inner); cpu_hidden = seq
 *   reads that; down of its share                    down of its share
 *                                              <---  writes y [0, cpu_width); y_soon, done = seq
 *   reads that
 *
 * x may be written before the rest of the job, and before it is known whether there is one; also
 * while workers are still in a job that was given up, of which nobody will read the results.
 *
 * To read done and then y takes two round trips over the link. So the GPU may fill the floats of y
 * that it will read with MAILBOX_NOT_YET before it posts a job, and look at them from y_soon on,
 * which says that worker 0 has come to its end. Workers write each float once, so any other value
 * is the result. For what stays NOT_YET, which a result may be too, the GPU awaits done; and in any
 * case before it posts the next job. idle is written before done.
 *
 * Sequence numbers are never 0 and grow from job to job, by any step: serial numbers, later ones
 * have a positive signed difference. A word holds the seq of the last job for which its event
 * happened. The GPU waits for equality with the seq of its own job, each wait bounded.
 *
 * When it goes wrong. The GPU that gives up a wait writes abandon = seq, posts nothing more in this
 * step and makes the rest of it no-ops. The CPU that cannot serve a job (a field beyond its limits,
 * a record that is not here, link_hidden not seen within the limit) writes failed = seq, never
 * done = seq. In both cases workers may be in the job still: lists, x, hidden and y belong to it
 * until idle = seq, which the CPU writes when the last worker has left, however the job ended. So
 * a job is posted only when idle holds the seq of the job posted before (after done = seq that is
 * so; after a failure the host awaits it before the next step, misses_settle).
 *
 * Memory order. Writers: data, then a fence or a release for the system, after a barrier where
 * other threads wrote the data, then the word. Readers: the word by a volatile or acquire load that
 * no cache answers, then (GPU: a fence) the data, likewise past the first-level cache. Reading this
 * memory from the GPU costs a round trip over the link.
 */
#ifndef MOED_KERNELS_MAILBOX_H
#define MOED_KERNELS_MAILBOX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define MAILBOX_FN static __host__ __device__ inline
#else
#define MAILBOX_FN static inline
#endif

/* Words of different writers are so far apart: two lines, since CPUs fetch pairs of lines. */
#define MAILBOX_LINE_BYTES 128
/* Of the arrays behind the header. */
#define MAILBOX_ALIGN_BYTES 256
/* cpu_inner and cpu_width are multiples of so many outputs (or inner, width themselves): the two
 * sides then write different lines, and the CPU's parts are whole. */
#define MAILBOX_GRAIN 32
/* The bits of a float of y that is not there yet: of a NaN that no arithmetic makes. */
#define MAILBOX_NOT_YET 0xffffffffu

/* A group of the job: one missed expert and its entries [first, first + count) of row and pair. */
struct mailbox_group {
    int32_t expert;
    int32_t first, count;
    int32_t reserved; /* 0 */
};

struct mailbox {
    /* Written by the GPU. The workers spin on `posted` and find the job on the same line. */
    uint32_t posted;
    int32_t layer;       /* of the table of records: host_of[layer * experts + expert] */
    int32_t n_rows;      /* rows of x that are filled */
    int32_t n_groups;    /* at least 1 */
    int32_t n_pairs;     /* entries of row and pair, all groups together */
    int32_t cpu_inner;   /* 1..inner; a job of which the CPU has no part of gate/up is not posted */
    int32_t cpu_width;   /* 0..width */
    int32_t link_groups; /* missed experts beside the job's; then cpu_inner is all of inner */
    uint64_t posted_ns;  /* of the GPU's clock, any start; 0: not told */
    uint8_t pad0[MAILBOX_LINE_BYTES - 40];

    /* Written by the GPU. */
    uint32_t link_hidden;
    uint32_t abandon;
    /* Of the clock of posted_ns; or 0. */
    uint64_t link_ns;  /* written before link_hidden; or when link_groups experts were done */
    uint64_t ended_ns; /* when both parts of the job's y stood */
    uint8_t pad1[MAILBOX_LINE_BYTES - 24];

    /* Written by the CPU's workers. */
    uint32_t cpu_hidden;
    uint32_t done;
    uint32_t failed;
    uint32_t idle;
    uint32_t y_soon; /* y is about to stand */
    uint8_t pad2[MAILBOX_LINE_BYTES - 20];

    /* Written by the CPU's workers for the host: nonzero while a job is being served. */
    uint32_t open;
    uint8_t pad3[MAILBOX_LINE_BYTES - 4];

    /* Written by the host: nonzero ends every wait of both sides. */
    uint32_t stop;
    uint8_t pad4[MAILBOX_LINE_BYTES - 4];
};

/* What the arrays behind the header hold at most, and where they begin (bytes from the mailbox). */
struct mailbox_layout {
    int32_t max_rows, top_k;  /* of a step */
    int32_t max_groups;       /* of a job */
    int32_t max_pairs;        /* max_rows * top_k; a pair is row * top_k + choice */
    int32_t width, inner;     /* of the record class: hidden, intermediate */
    size_t group_off;         /* struct mailbox_group [max_groups] */
    size_t row_off, pair_off; /* int32_t [max_pairs] */
    size_t x_off;             /* float [max_rows][width] */
    size_t hidden_off;        /* float [max_pairs][inner] */
    size_t y_off;             /* float [max_pairs][width] */
    size_t bytes;             /* of all, a multiple of 4 KiB */
};

MAILBOX_FN size_t mailbox_take(size_t *end, size_t bytes)
{
    size_t at = *end;
    *end = (at + bytes + MAILBOX_ALIGN_BYTES - 1) / MAILBOX_ALIGN_BYTES * MAILBOX_ALIGN_BYTES;
    return at;
}

/* The only place that computes the layout. All arguments are at least 1 and checked by the caller;
 * experts is the number per layer. */
MAILBOX_FN struct mailbox_layout mailbox_layout(int32_t max_rows, int32_t top_k, int32_t experts,
                                                int32_t width, int32_t inner)
{
    struct mailbox_layout l;
    size_t end = (sizeof(struct mailbox) + MAILBOX_ALIGN_BYTES - 1) / MAILBOX_ALIGN_BYTES *
                 MAILBOX_ALIGN_BYTES;
    l.max_rows = max_rows;
    l.top_k = top_k;
    l.max_pairs = max_rows * top_k;
    l.max_groups = l.max_pairs < experts ? l.max_pairs : experts;
    l.width = width;
    l.inner = inner;
    l.group_off = mailbox_take(&end, (size_t)l.max_groups * sizeof(struct mailbox_group));
    l.row_off = mailbox_take(&end, (size_t)l.max_pairs * sizeof(int32_t));
    l.pair_off = mailbox_take(&end, (size_t)l.max_pairs * sizeof(int32_t));
    l.x_off = mailbox_take(&end, (size_t)max_rows * (size_t)width * sizeof(float));
    l.hidden_off = mailbox_take(&end, (size_t)l.max_pairs * (size_t)inner * sizeof(float));
    l.y_off = mailbox_take(&end, (size_t)l.max_pairs * (size_t)width * sizeof(float));
    l.bytes = (end + 4095) / 4096 * 4096;
    return l;
}

/* Shares of the link are kept by the number of missed experts of a job: 1, 2, 3-4, 5-8, 9-16 and
 * more. */
#define MAILBOX_SHARE_CLASSES 6
MAILBOX_FN int32_t mailbox_share_class(int32_t n_groups)
{
    int32_t c = 0;
    while (c < MAILBOX_SHARE_CLASSES - 1 && n_groups > 1 << c)
        c++;
    return c;
}

#define MAILBOX_SHARE_ONE 1024
/* From so many missed experts on each side computes its own. */
#define MAILBOX_WHOLE_GROUPS 5

/*
 * How many of `outputs` the CPU takes when the link's share is `link_share` / 1024: rounded to
 * MAILBOX_GRAIN. 0 for a share of 1024, `outputs` for a share of 0; in between each side gets
 * something as long as there are two grains, so that both stay measured, and the CPU what cannot be
 * shared. A job whose cpu_inner comes out as 0 is the link's alone and is not posted.
 */
MAILBOX_FN int32_t mailbox_cpu_outputs(int32_t outputs, int32_t link_share)
{
    int32_t units = (outputs + MAILBOX_GRAIN - 1) / MAILBOX_GRAIN;
    int32_t link =
        (int32_t)(((int64_t)units * link_share + MAILBOX_SHARE_ONE / 2) / MAILBOX_SHARE_ONE);
    if (link_share <= 0)
        return outputs;
    if (link_share >= MAILBOX_SHARE_ONE)
        return 0;
    if (link < 1)
        link = 1;
    if (link > units - 1)
        link = units - 1;
    return link ? (units - link) * MAILBOX_GRAIN : outputs;
}

/* Who computes what of the missed experts of a layer. */
struct mailbox_cut {
    int32_t link_groups;          /* the link's alone, not in the job */
    int32_t cpu_inner, cpu_width; /* of each group of the job; cpu_inner 0: nothing is posted */
};

/* The cut of n_groups, two or more, each side with experts of its own. What an expert costs the CPU
 * is to what it costs the link as the link's share is to the CPU's. */
MAILBOX_FN struct mailbox_cut mailbox_cut_whole(int32_t n_groups, int32_t link_share, int32_t inner,
                                                int32_t width, int late)
{
    const int64_t one = MAILBOX_SHARE_ONE, s = link_share, n = n_groups, fair = n * s;
    const int64_t units = (width + MAILBOX_GRAIN - 1) / MAILBOX_GRAIN;
    int64_t link = fair / one, rest = fair % one, given, cpu;
    /* The CPU's hidden stands when two thirds of its time are over: of the last third the link can
     * take its share. In whole grains of down. */
    const int64_t most = (n - link) * s / 3;
    given = late ? 3 * units * (rest < most ? rest : most) / (one * (n - link)) : 0;
    cpu = (n - link) * one - given * one * (n - link) / (3 * units);
    /* Where the link would end later with one more than the CPU so, it gets no more. */
    if (link == 0 || (link + 1) * (one - s) * one < cpu * s) {
        link++;
        given = 0;
    }
    if (link > n - 1) {
        link = n - 1;
        given = 0;
    }
    struct mailbox_cut cut;
    cut.link_groups = (int32_t)link;
    cut.cpu_inner = inner;
    cut.cpu_width = given ? (int32_t)(units - given) * MAILBOX_GRAIN : width;
    return cut;
}

/* late: the GPU can compute late outputs of down. n_groups 0: all of the cut is 0. */
MAILBOX_FN struct mailbox_cut mailbox_cut_of(int32_t n_groups, int32_t link_share, int32_t inner,
                                             int32_t width, int late)
{
    struct mailbox_cut cut = {0, 0, 0};
    if (n_groups >= MAILBOX_WHOLE_GROUPS && link_share > 0 && link_share < MAILBOX_SHARE_ONE)
        return mailbox_cut_whole(n_groups, link_share, inner, width, late);
    if (n_groups) {
        cut.cpu_inner = mailbox_cpu_outputs(inner, link_share);
        cut.cpu_width = cut.cpu_inner ? mailbox_cpu_outputs(width, link_share) : 0;
    }
    return cut;
}

#endif
