#include "support_model.h"

#include <math.h>

#include "base/mem.h"
#include "check.h"
#include "gpu.h"
#include "model/model_int.h"
#include "packed.h"
#include "store/store.h"

#define RIG_CONTEXT 512
/* Small models come in several parts, as large ones do. */
#define PART_BYTES ((size_t)16 << 10)
#define RIG_BLOCKS (RIG_MAX_SEQS * 64)
/* The emulator on a busy machine is slower than any GPU that is still alive. */
#define EMULATED_WAIT_US 60000000

/* Weights that packed rows keep in heads, in lists and, in the first row, in lists of more than a
 * warp has lanes. */
static void make_odd_row(uint16_t *w, int in, size_t row)
{
    /* Of longer rows as many as lists have room for. */
    size_t n = (size_t)in, least = row == 0 ? 19 : row % 53 ? 301 : 31;
    size_t each = row == 0 ? n / 40 : row % 53 ? n / 2 + 1 : n / 20;
    each = each > least ? each : least;
    for (size_t i = row % each; i < (size_t)in; i += each)
        w[i] = (uint16_t)(w[i] - (16 << 7));
    for (size_t i = row % 13; row % 3 == 0 && i < (size_t)in; i += 13)
        w[i] &= 0x8000;
}

/* The rows of a matrix in a record, to w [rows][in] or from it. */
struct odd_matrix {
    size_t off, rows, row_bytes;
    int in;
};

static uint16_t *take_rows(const struct odd_matrix *m, const uint8_t *record, bool packed,
                           uint16_t *w)
{
    for (size_t row = 0; row < m->rows; row++, w += m->in) {
        const uint8_t *at = record + m->off + row * m->row_bytes;
        if (packed)
            packed_row_unpack(at, m->in, w);
        else
            memcpy(w, at, m->row_bytes);
        make_odd_row(w, m->in, row);
    }
    return w;
}

static const uint16_t *put_rows(const struct odd_matrix *m, uint8_t *record,
                                const struct packed_lists *lists, const uint16_t *w)
{
    for (size_t row = 0; row < m->rows; row++, w += m->in) {
        uint8_t *at = record + m->off + row * m->row_bytes;
        if (lists)
            assert_true(packed_row_pack(w, m->in, at, lists));
        else
            memcpy(at, w, m->row_bytes);
    }
    return w;
}

/* Before anything is read of them. All of a record is taken before some is put back: the new lists
 * lie where the old ones did. */
static void make_odd(const struct weights *w, size_t records)
{
    const struct record_class *c = &w->cls;
    size_t inner = (size_t)c->intermediate, width = (size_t)c->hidden;
    const struct odd_matrix matrix[] = {{c->gate_off, inner, c->in_row_bytes, c->hidden},
                                        {c->up_off, inner, c->in_row_bytes, c->hidden},
                                        {c->down_off, width, c->down_row_bytes, c->intermediate}};
    uint16_t *all = malloc(3 * inner * width * sizeof *all);
    assert_non_null(all);
    for (size_t i = 0; i < records; i++) {
        uint8_t *record = (uint8_t *)(uintptr_t)w->host_of[i];
        _Atomic uint32_t used = 0;
        struct packed_lists room = {(uint32_t *)(void *)(record + c->lists_off),
                                    (uint32_t)(c->lists_bytes / sizeof(uint32_t)), &used};
        uint16_t *to = all;
        const uint16_t *from = all;
        for (int m = 0; m < 3 && record; m++)
            to = take_rows(&matrix[m], record, c->packed, to);
        for (int m = 0; m < 3 && record; m++)
            from = put_rows(&matrix[m], record, c->packed ? &room : NULL, from);
    }
    free(all);
}

void rig_open(struct rig *r, const struct rig_options *o)
{
    struct moed_error err;
    json_t *json;
    struct store *store;
    *r = (struct rig){0};
    struct dev_choice choice = {0};
    if (o->cuda) {
        cuda_or_skip(&choice);
        cuda_keep_context(&choice);
    }
    if (o->dummy) {
        r->c = *o->dummy;
        assert_ok(store_open_dummy(&store, &err), &err);
    } else {
        assert_ok(store_read_json(&json, o->dir, "config.json", &err), &err);
        assert_ok(model_config_parse(&r->c, json, &err), &err);
        json_decref(json);
        assert_ok(store_open(&store, o->dir, &err), &err);
    }
    struct dev_cpu_config dev = {
        .threads = o->threads ? o->threads : 2, .isa = o->isa, .max_context = RIG_CONTEXT};
    assert_ok(dev_open(&r->dev, &choice, &dev, &err), &err);
    if (o->alter)
        o->alter(r->dev);
    int32_t rows = o->max_rows ? o->max_rows : 64;
    struct model_options options = {
        .max_rows = rows,
        .long_rows = o->long_rows,
        .max_context = r->c.max_position < RIG_CONTEXT ? r->c.max_position : RIG_CONTEXT,
        .max_logits = rows,
        .kv_blocks = RIG_BLOCKS,
        .kv_dtype = o->kv_dtype,
        .pager = o->pager,
        .fused_step = o->fused,
        .miss_threads = o->miss_threads,
        .link_share = o->link_share,
        .miss_wait_us = cuda_emulated(&choice) ? EMULATED_WAIT_US : 0,
        .miss_patience_us = o->miss_patience_us,
        .on_miss = o->on_miss,
        .on_miss_arg = o->on_miss_arg,
        .load_part_bytes = PART_BYTES,
        .packed_experts = o->packed,
    };
    assert_ok(model_open(&r->m, &r->c, &options, store, r->dev, &err), &err);
    if (o->odd)
        make_odd(&r->m->w, (size_t)r->c.n_layers * (size_t)r->c.n_experts);
    store_close(&store);
}

void rig_reset(struct rig *r)
{
    for (int s = 0; s < r->n_seqs; s++)
        free(r->seq[s].logits);
    memset(r->seq, 0, sizeof r->seq);
    r->n_seqs = 0;
}

void rig_close(struct rig *r)
{
    rig_reset(r);
    model_close(&r->m);
    assert_null(r->m);
    dev_close(&r->dev);
}

int rig_add(struct rig *r, const int32_t *token, int32_t n)
{
    assert_true(r->n_seqs < RIG_MAX_SEQS && n <= RIG_CONTEXT);
    struct rig_seq *q = &r->seq[r->n_seqs];
    q->token = token;
    q->n = n;
    q->logits = mem_new((size_t)n * (size_t)r->c.vocab_size, sizeof *q->logits);
    /* 37 is prime to RIG_BLOCKS: every (sequence, block) gets a place of its own. */
    for (int k = 0; k < 64; k++)
        q->block[k] = ((k * RIG_MAX_SEQS + r->n_seqs) * 37 + 11) % RIG_BLOCKS;
    return r->n_seqs++;
}

void rig_pass(struct rig *r, const int32_t *count)
{
    int32_t token[256], pos[256], seq[256], rows[256], n = 0;
    struct model_seq seqs[RIG_MAX_SEQS];
    struct moed_error err;
    for (int s = 0; s < r->n_seqs; s++) {
        struct rig_seq *q = &r->seq[s];
        seqs[s].block_table = q->block;
        for (int32_t i = 0; i < count[s]; i++, n++) {
            assert_true(n < 256);
            token[n] = q->token[q->done + i];
            pos[n] = q->done + i;
            seq[n] = s;
            rows[n] = n;
        }
    }
    struct model_batch batch = {
        .n_rows = n, .token = token, .pos = pos, .seq = seq, .n_seqs = r->n_seqs, .seqs = seqs};
    float *logits = mem_new((size_t)n * (size_t)r->c.vocab_size, sizeof *logits);
    assert_ok(model_pass_begin(r->m, r->lane, &batch, &err), &err);
    int32_t step = r->layers_per_run ? r->layers_per_run : r->c.n_layers;
    for (int32_t layer = 0; layer < r->c.n_layers;) {
        layer = layer + step < r->c.n_layers ? layer + step : r->c.n_layers;
        assert_ok(model_pass_run(r->m, r->lane, layer, &err), &err);
    }
    assert_ok(model_pass_logits(r->m, r->lane, rows, n, logits, &err), &err);
    model_pass_end(r->m, r->lane);
    size_t row_bytes = (size_t)r->c.vocab_size * sizeof *logits;
    const float *from = logits;
    for (int s = 0; s < r->n_seqs; s++) {
        struct rig_seq *q = &r->seq[s];
        if (!count[s])
            continue;
        memcpy(q->logits + (size_t)q->done * (size_t)r->c.vocab_size, from,
               (size_t)count[s] * row_bytes);
        from += (size_t)count[s] * (size_t)r->c.vocab_size;
        q->done += count[s];
    }
    free(logits);
}

static int32_t next_count(const struct rig_seq *q, int32_t chunk)
{
    return q->n - q->done < chunk ? q->n - q->done : chunk;
}

void rig_run_alone(struct rig *r, int32_t chunk)
{
    for (int s = 0; s < r->n_seqs; s++)
        while (r->seq[s].done < r->seq[s].n) {
            int32_t count[RIG_MAX_SEQS] = {0};
            count[s] = next_count(&r->seq[s], chunk);
            rig_pass(r, count);
        }
}

void rig_run_together(struct rig *r, int32_t chunk)
{
    for (;;) {
        int32_t count[RIG_MAX_SEQS] = {0}, n = 0;
        for (int s = 0; s < r->n_seqs; s++)
            n += count[s] = next_count(&r->seq[s], chunk);
        if (!n)
            return;
        rig_pass(r, count);
    }
}

void vectors_open(struct vectors *v, const char *dir)
{
    char path[1100];
    *v = (struct vectors){0};
    snprintf(path, sizeof path, "%s/vectors.bin", dir);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s is not there", path);
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    rewind(f);
    assert_true(size > 12);
    v->file = mem_new((size_t)size, 1);
    assert_int_equal(fread(v->file, 1, (size_t)size, f), size);
    fclose(f);
    int32_t *word = (int32_t *)v->file;
    assert_int_equal(word[0], 0x31564D4D);
    v->vocab = word[1];
    v->n_seqs = word[2];
    assert_in_range(v->n_seqs, 1, RIG_MAX_SEQS);
    word += 3;
    for (int s = 0; s < v->n_seqs; s++) {
        v->n[s] = *word++;
        v->token[s] = word;
        word += v->n[s];
        v->logprob[s] = (float *)word;
        word += (size_t)v->n[s] * (size_t)v->vocab;
    }
    assert_ptr_equal(word, v->file + size);
}

void vectors_close(struct vectors *v)
{
    free(v->file);
    *v = (struct vectors){0};
}

void rig_add_vectors(struct rig *r, const struct vectors *v)
{
    assert_int_equal(r->c.vocab_size, v->vocab);
    for (int s = 0; s < v->n_seqs; s++)
        rig_add(r, v->token[s], v->n[s]);
}

static double log_sum_exp(const float *x, int32_t n)
{
    double max = x[0], sum = 0;
    for (int32_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int32_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

double rig_worst_delta(const struct rig *r, const struct vectors *v)
{
    double worst = 0;
    for (int s = 0; s < v->n_seqs; s++) {
        assert_int_equal(r->seq[s].done, v->n[s]);
        for (int32_t i = 0; i < v->n[s]; i++) {
            const float *logits = r->seq[s].logits + (size_t)i * (size_t)v->vocab;
            const float *want = v->logprob[s] + (size_t)i * (size_t)v->vocab;
            double norm = log_sum_exp(logits, v->vocab);
            for (int32_t t = 0; t < v->vocab; t++) {
                double delta = fabs(logits[t] - norm - want[t]);
                /* A NaN is the worst of all. */
                if (!(delta <= worst))
                    worst = delta;
            }
        }
    }
    return worst;
}

uint64_t rig_hash(const struct rig *r)
{
    uint64_t h = 0xCBF29CE484222325;
    for (int s = 0; s < r->n_seqs; s++) {
        const uint8_t *p = (const uint8_t *)r->seq[s].logits;
        size_t n = (size_t)r->seq[s].n * (size_t)r->c.vocab_size * sizeof(float);
        for (size_t i = 0; i < n; i++)
            h = (h ^ p[i]) * 0x100000001B3;
    }
    return h;
}
