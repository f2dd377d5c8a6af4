/* io_read_all and io_for_each, against files whose byte at offset i is known. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/io.h"

#define FILE_BYTES ((size_t)3 * 1024 * 1024 + 12345)
#define N_FILES    2

struct files {
    char dir[64];
    char path[N_FILES][96];
    const char *paths[N_FILES];
};

static uint8_t byte_at(int file, uint64_t i)
{
    return (uint8_t)((i * 2654435761u) >> 13 ^ i >> 3 ^ (uint64_t)file * 77);
}

static void make_files(struct files *f, const char *root)
{
    char dir[sizeof f->dir];
    snprintf(dir, sizeof dir, "%s/moed-io-XXXXXX", root);
    assert_non_null(mkdtemp(dir));
    memcpy(f->dir, dir, sizeof dir);
    uint8_t *bytes = malloc(FILE_BYTES);
    assert_non_null(bytes);
    for (int k = 0; k < N_FILES; k++) {
        snprintf(f->path[k], sizeof f->path[k], "%s/%d", dir, k);
        f->paths[k] = f->path[k];
        for (size_t i = 0; i < FILE_BYTES; i++)
            bytes[i] = byte_at(k, i);
        FILE *out = fopen(f->path[k], "wb");
        assert_non_null(out);
        assert_int_equal(fwrite(bytes, 1, FILE_BYTES, out), FILE_BYTES);
        assert_int_equal(fflush(out), 0);
        fsync(fileno(out));
        fclose(out);
    }
    free(bytes);
}

static void remove_files(struct files *f)
{
    for (int k = 0; k < N_FILES; k++)
        unlink(f->path[k]);
    rmdir(f->dir);
}

static int setup(void **state)
{
    struct files *f = calloc(1, sizeof *f);
    make_files(f, "/tmp");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    remove_files(*state);
    free(*state);
    return 0;
}

static void check_bytes(const struct io_extent *e, const uint8_t *got)
{
    for (size_t i = 0; i < e->bytes; i++)
        if (got[i] != byte_at(e->file, e->offset + i))
            fail_msg("file %d byte %llu is wrong", e->file, (unsigned long long)(e->offset + i));
}

static void check_extent(const struct io_extent *e)
{
    check_bytes(e, e->dst);
}

static uint32_t next_random(uint32_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 17;
    *s ^= *s << 5;
    return *s;
}

/* Extents of all sizes and alignments, overlapping ones too, each between guard bytes. */
static void read_random_extents(struct files *f, const struct io_config *cfg, uint32_t seed)
{
    enum { N = 120, GUARD = 16 };
    struct io_extent e[N];
    uint8_t *raw[N];
    struct moed_error err = {0};
    for (int i = 0; i < N; i++) {
        uint64_t most = FILE_BYTES;
        if (next_random(&seed) % 4)
            most = next_random(&seed) % 2 ? 100 : 70000;
        uint64_t offset = next_random(&seed) % FILE_BYTES;
        uint64_t bytes = next_random(&seed) % (most + 1);
        if (bytes > FILE_BYTES - offset)
            bytes = FILE_BYTES - offset;
        bool aligned = next_random(&seed) % 3 == 0;
        if (aligned)
            offset -= offset % 4096;
        raw[i] = aligned_alloc(4096, ((size_t)bytes + 3 * 4096) / 4096 * 4096);
        assert_non_null(raw[i]);
        memset(raw[i], 0xA5, ((size_t)bytes + 3 * 4096) / 4096 * 4096);
        size_t at = aligned ? 4096 : GUARD + next_random(&seed) % 64;
        e[i] = (struct io_extent){.file = (int)(next_random(&seed) % N_FILES),
                                  .offset = offset,
                                  .bytes = (size_t)bytes,
                                  .dst = raw[i] + at};
    }
    assert_ok(io_read_all(f->paths, N_FILES, e, N, cfg, &err), &err);
    for (int i = 0; i < N; i++) {
        check_extent(&e[i]);
        const uint8_t *dst = e[i].dst;
        for (int g = 1; g <= GUARD; g++)
            assert_true(dst[-g] == 0xA5 && dst[e[i].bytes + (size_t)g - 1] == 0xA5);
        free(raw[i]);
    }
}

static void any_extent_arrives_whole(void **state)
{
    for (int direct = -1; direct <= 1; direct++)
        for (uint32_t seed = 1; seed <= 4; seed++) {
            struct io_config cfg = {
                .direct = direct, .threads = (int)seed, .chunk_bytes = seed % 2 ? 64 << 10 : 0};
            read_random_extents(*state, &cfg, seed * 7919);
        }
    read_random_extents(*state, NULL, 5);
}

/* What came of extents, most of which have no place. */
struct homeless {
    const struct io_extent *e;
    _Atomic int came[300];
    _Atomic uint64_t bytes;
};

static int look_at(void *user, const struct io_extent *e, const void *data)
{
    struct homeless *h = user;
    assert_true(!e->dst || e->dst == data);
    check_bytes(e, data);
    atomic_fetch_add(&h->came[e - h->e], 1);
    atomic_fetch_add(&h->bytes, e->bytes);
    return 0;
}

static void keep_progress(void *user, const struct io_progress *p)
{
}

/* Side by side, as rows are, and anywhere; some with a place between them, some longer than what is
 * left of a cell of the file. */
static void an_extent_without_a_place_comes_in_one_piece(void **state)
{
    enum { N = 300, CHUNK = 64 << 10 };
    struct files *f = *state;
    struct moed_error err = {0};
    uint8_t *kept = malloc((size_t)N * CHUNK);
    assert_non_null(kept);
    for (int direct = -1; direct <= 1; direct++)
        for (uint32_t seed = 1; seed <= 6; seed++) {
            struct io_extent e[N];
            struct homeless h = {.e = e};
            uint32_t random = seed * 104729;
            uint64_t at = seed % 3, total = 0;
            for (int i = 0; i < N; i++) {
                uint64_t bytes = seed % 2 ? 20000 : next_random(&random) % (CHUNK + 1);
                if (next_random(&random) % 8 == 0)
                    bytes = CHUNK;
                if (seed > 4 && next_random(&random) % 4 == 0)
                    at = next_random(&random) % FILE_BYTES;
                if (at + bytes > FILE_BYTES)
                    at = next_random(&random) % 1000;
                bool home = seed > 2 && next_random(&random) % 5 == 0;
                e[i] = (struct io_extent){.file = i / 100 % 2,
                                          .offset = at,
                                          .bytes = (size_t)bytes,
                                          .dst = home ? kept + (size_t)i * CHUNK : NULL};
                at += bytes;
                total += bytes;
            }
            struct io_config cfg = {.direct = direct,
                                    .threads = (int)seed % 3 + 1,
                                    .chunk_bytes = CHUNK,
                                    .progress = keep_progress,
                                    .finished = look_at,
                                    .user = &h};
            assert_ok(io_read_all(f->paths, N_FILES, e, N, &cfg, &err), &err);
            assert_true(h.bytes == total);
            for (int i = 0; i < N; i++) {
                assert_int_equal(h.came[i], e[i].bytes > 0);
                if (e[i].dst)
                    check_extent(&e[i]);
            }
        }
    struct io_extent e = {.bytes = CHUNK + 1};
    struct io_config cfg = {.chunk_bytes = CHUNK};
    assert_int_equal(io_read_all(f->paths, 1, &e, 1, &cfg, &err), MOED_EINVAL);
    assert_non_null(strstr(err.text, "65537"));
    free(kept);
}

/* tmpfs refuses O_DIRECT on the kernels that matter here; the read must succeed all the same. */
static void a_file_system_without_direct_reads_is_read_buffered(void **state)
{
    struct files f;
    if (access("/dev/shm", W_OK) != 0)
        skip();
    make_files(&f, "/dev/shm");
    struct io_config cfg = {.direct = IO_DIRECT};
    read_random_extents(&f, &cfg, 99);
    remove_files(&f);
}

static void nothing_to_read_is_fine(void **state)
{
    struct files *f = *state;
    struct moed_error err = {0};
    assert_ok(io_read_all(NULL, 0, NULL, 0, NULL, &err), &err);
    assert_ok(io_read_all(f->paths, 2, NULL, 0, NULL, &err), &err);
    struct io_extent e = {.file = 1, .offset = FILE_BYTES};
    assert_ok(io_read_all(f->paths, 2, &e, 1, NULL, &err), &err);
}

static void errors_name_the_file(void **state)
{
    struct files *f = *state;
    struct moed_error err = {0};
    static uint8_t byte[2];
    struct io_extent e = {.file = 1, .offset = FILE_BYTES - 1, .bytes = 2, .dst = byte};
    assert_int_equal(io_read_all(f->paths, 2, &e, 1, NULL, &err), MOED_EFORMAT);
    assert_non_null(strstr(err.text, f->path[1]));
    assert_non_null(strstr(err.text, "2 bytes at byte 3158072 are wanted"));
    e.offset = UINT64_MAX;
    assert_int_equal(io_read_all(f->paths, 2, &e, 1, NULL, &err), MOED_EFORMAT);
    e.file = 2;
    assert_int_equal(io_read_all(f->paths, 2, &e, 1, NULL, &err), MOED_EINVAL);
    e.file = -1;
    assert_int_equal(io_read_all(f->paths, 2, &e, 1, NULL, &err), MOED_EINVAL);
    const char *none[] = {"/tmp/moed-no-such-file", f->dir};
    e = (struct io_extent){.bytes = 1, .dst = byte};
    assert_int_equal(io_read_all(none, 1, &e, 1, NULL, &err), MOED_ENOTFOUND);
    assert_non_null(strstr(err.text, "moed-no-such-file"));
    assert_int_equal(io_read_all(none + 1, 1, &e, 1, NULL, &err), MOED_EIO);
    assert_non_null(strstr(err.text, "not a regular file"));
}

struct fault {
    _Atomic int calls;
    uint64_t fail_offset;
};

static int count_and_fail(void *user, const struct io_extent *e, const void *data)
{
    struct fault *f = user;
    atomic_fetch_add(&f->calls, 1);
    return e->offset == f->fail_offset ? -1 : 0;
}

static void a_fault_is_reported_with_its_offset(void **state)
{
    struct files *f = *state;
    struct moed_error err = {0};
    static uint8_t buffer[4][100000];
    struct io_extent e[4];
    for (int i = 0; i < 4; i++)
        e[i] = (struct io_extent){
            .offset = (uint64_t)i * 500000 + 7, .bytes = sizeof buffer[0], .dst = buffer[i]};
    struct fault fault = {.fail_offset = UINT64_MAX};
    struct io_config cfg = {.finished = count_and_fail, .user = &fault, .chunk_bytes = 64 << 10};
    assert_ok(io_read_all(f->paths, 1, e, 4, &cfg, &err), &err);
    assert_int_equal(fault.calls, 4); /* once for each extent, not for each chunk */
    fault.fail_offset = 1000007;
    assert_int_equal(io_read_all(f->paths, 1, e, 4, &cfg, &err), MOED_EIO);
    assert_non_null(strstr(err.text, f->path[0]));
    assert_non_null(strstr(err.text, "1000007"));
}

/* A file that shrinks after it was opened: its end is met in the middle of a read. */
static int shrink(void *user, const struct io_extent *e, const void *data)
{
    struct files *f = user;
    return truncate(f->path[0], 100000);
}

static void a_file_that_shrinks_meanwhile_is_an_error(void **state)
{
    struct files *f = *state;
    struct moed_error err = {0};
    static uint8_t a[1000], b[400000];
    for (int direct = 0; direct <= 1; direct++) {
        struct io_extent e[] = {{.offset = 10, .bytes = sizeof a, .dst = a},
                                {.offset = 1 << 20, .bytes = sizeof b, .dst = b}};
        struct io_config cfg = {.threads = 1, .direct = direct, .finished = shrink, .user = f};
        cfg.chunk_bytes = 64 << 10;
        assert_int_equal(truncate(f->path[0], (off_t)FILE_BYTES), 0);
        assert_int_equal(io_read_all(f->paths, 1, e, 2, &cfg, &err), MOED_EIO);
        assert_non_null(strstr(err.text, f->path[0]));
        assert_non_null(strstr(err.text, "the file ended at byte"));
    }
}

struct ticks {
    pthread_t thread;
    _Atomic int n;
    struct io_progress last;
};

static void on_progress(void *user, const struct io_progress *p)
{
    struct ticks *t = user;
    assert_true(pthread_equal(t->thread, pthread_self()));
    assert_true(p->done_bytes >= t->last.done_bytes && p->done_bytes <= p->total_bytes);
    assert_true(p->seconds >= t->last.seconds);
    t->last = *p;
    t->n++;
}

static void progress_is_told_on_the_callers_thread(void **state)
{
    struct files *f = *state;
    struct moed_error err = {0};
    uint8_t *all = malloc(FILE_BYTES);
    assert_non_null(all);
    struct ticks t = {.thread = pthread_self()};
    struct io_extent e = {.bytes = FILE_BYTES, .dst = all};
    struct io_config cfg = {.progress = on_progress, .user = &t, .direct = IO_DIRECT};
    assert_ok(io_read_all(f->paths, 1, &e, 1, &cfg, &err), &err);
    assert_true(t.n >= 1);
    assert_int_equal(t.last.done_bytes, FILE_BYTES);
    assert_int_equal(t.last.total_bytes, FILE_BYTES);
    check_extent(&e);
    free(all);
}

struct each {
    _Atomic int calls;
    uint8_t seen[1000];
    const struct ticks *until; /* its third tick has come; may be NULL */
};

static void visit(void *arg, size_t i)
{
    struct each *e = arg;
    e->seen[i]++;
    atomic_fetch_add(&e->calls, 1);
    while (e->until && atomic_load(&e->until->n) < 3)
        usleep(1000);
}

static void for_each_visits_each_index_once(void **state)
{
    struct moed_error err = {0};
    for (int threads = 0; threads <= 200; threads += 40) {
        struct each e = {0};
        struct io_config cfg = {.threads = threads};
        assert_ok(io_for_each(1000, visit, &e, &cfg, &err), &err);
        assert_int_equal(e.calls, 1000);
        for (int i = 0; i < 1000; i++)
            assert_int_equal(e.seen[i], 1);
    }
    struct each e = {0};
    assert_ok(io_for_each(0, visit, &e, NULL, &err), &err);
    assert_int_equal(e.calls, 0);
}

static void for_each_ticks_ten_times_a_second(void **state)
{
    struct moed_error err = {0};
    struct ticks t = {.thread = pthread_self()};
    struct each e = {.until = &t};
    struct io_config cfg = {.threads = 2, .progress = on_progress, .user = &t};
    assert_ok(io_for_each(100, visit, &e, &cfg, &err), &err);
    assert_int_equal(t.last.done_bytes, 100);
    double expected = t.last.seconds * 10;
    assert_true(t.n >= 4 && t.n <= expected + 2);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(any_extent_arrives_whole, setup, teardown),
    cmocka_unit_test_setup_teardown(an_extent_without_a_place_comes_in_one_piece, setup, teardown),
    cmocka_unit_test(a_file_system_without_direct_reads_is_read_buffered),
    cmocka_unit_test_setup_teardown(nothing_to_read_is_fine, setup, teardown),
    cmocka_unit_test_setup_teardown(errors_name_the_file, setup, teardown),
    cmocka_unit_test_setup_teardown(a_fault_is_reported_with_its_offset, setup, teardown),
    cmocka_unit_test_setup_teardown(a_file_that_shrinks_meanwhile_is_an_error, setup, teardown),
    cmocka_unit_test_setup_teardown(progress_is_told_on_the_callers_thread, setup, teardown),
    cmocka_unit_test(for_each_visits_each_index_once),
    cmocka_unit_test(for_each_ticks_ten_times_a_second),
};
CHECK_MAIN(tests)
