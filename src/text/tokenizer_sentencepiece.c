/* SentencePiece .model files: a protobuf ModelProto (sentencepiece_model.proto). */
#include <string.h>

#include "text/protobuf.h"
#include "text/sp_model.h"

/* Field numbers of sentencepiece_model.proto. */
enum {
    MODEL_PIECES = 1,
    MODEL_TRAINER_SPEC = 2,
    MODEL_NORMALIZER_SPEC = 3,
    PIECE_STRING = 1,
    PIECE_SCORE = 2,
    PIECE_TYPE = 3,
    TRAINER_MODEL_TYPE = 3,
    TRAINER_WHITESPACE_AS_SUFFIX = 24,
    TRAINER_BYTE_FALLBACK = 35,
    TRAINER_BOS_ID = 41,
    TRAINER_EOS_ID = 42,
    NORMALIZER_CHARSMAP = 2,
    NORMALIZER_ADD_DUMMY_PREFIX = 3,
    NORMALIZER_REMOVE_EXTRA_WHITESPACES = 4,
    NORMALIZER_ESCAPE_WHITESPACES = 5,
};

enum { MODEL_TYPE_UNIGRAM = 1, MODEL_TYPE_BPE = 2 };

static int read_piece(struct sp_model *m, struct tokenizer *t, const struct protobuf_field *message,
                      struct moed_error *err)
{
    struct protobuf p;
    struct protobuf_field f;
    const char *piece = "";
    size_t n = 0;
    float score = 0;
    int type = SP_NORMAL;
    protobuf_init(&p, message->bytes ? message->bytes : "", message->n);
    while (protobuf_next(&p, &f)) {
        if (f.number == PIECE_STRING && f.bytes) {
            piece = f.bytes;
            n = f.n;
        } else if (f.number == PIECE_SCORE) {
            score = protobuf_float(&f);
        } else if (f.number == PIECE_TYPE) {
            type = f.value > SP_BYTE ? 0 : (int)f.value;
        }
    }
    if (p.damaged)
        return moed_fail(err, MOED_EFORMAT, "piece %d is damaged", m->n);
    if (type == SP_UNKNOWN)
        m->unk = m->n;
    return sp_model_add(m, t, piece, n, score, type, err);
}

/* Ids are written as 64-bit varints, -1 for none. */
static int32_t to_id(uint64_t value)
{
    return value <= PIECES_MAX_ID ? (int32_t)value : -1;
}

static int read_trainer(struct sp_model *m, const struct protobuf_field *message, uint64_t *type,
                        struct moed_error *err)
{
    struct protobuf p;
    struct protobuf_field f;
    protobuf_init(&p, message->bytes ? message->bytes : "", message->n);
    while (protobuf_next(&p, &f)) {
        switch (f.number) {
        case TRAINER_MODEL_TYPE:
            *type = f.value;
            break;
        case TRAINER_WHITESPACE_AS_SUFFIX:
            m->whitespace_as_suffix = f.value != 0;
            break;
        case TRAINER_BYTE_FALLBACK:
            m->byte_fallback = f.value != 0;
            break;
        case TRAINER_BOS_ID:
            m->bos = to_id(f.value);
            break;
        case TRAINER_EOS_ID:
            m->eos = to_id(f.value);
            break;
        default:
            break;
        }
    }
    return p.damaged ? moed_fail(err, MOED_EFORMAT, "the trainer settings are damaged") : 0;
}

static int read_normalizer(struct sp_model *m, const struct protobuf_field *message,
                           struct moed_error *err)
{
    struct protobuf p;
    struct protobuf_field f;
    protobuf_init(&p, message->bytes ? message->bytes : "", message->n);
    while (protobuf_next(&p, &f)) {
        switch (f.number) {
        case NORMALIZER_CHARSMAP:
            m->charsmap = f.bytes;
            m->n_charsmap = f.n;
            break;
        case NORMALIZER_ADD_DUMMY_PREFIX:
            m->add_dummy_prefix = f.value != 0;
            break;
        case NORMALIZER_REMOVE_EXTRA_WHITESPACES:
            m->remove_extra_whitespaces = f.value != 0;
            break;
        case NORMALIZER_ESCAPE_WHITESPACES:
            m->escape_whitespaces = f.value != 0;
            break;
        default:
            break;
        }
    }
    return p.damaged ? moed_fail(err, MOED_EFORMAT, "the normalizer settings are damaged") : 0;
}

static int read_model(struct sp_model *m, struct tokenizer *t, const char *bytes, size_t n,
                      struct moed_error *err)
{
    struct protobuf p;
    struct protobuf_field f;
    uint64_t type = MODEL_TYPE_UNIGRAM;
    int rc = 0;
    m->bos = 1; /* the defaults of the format */
    m->eos = 2;
    protobuf_init(&p, bytes, n);
    while (rc == 0 && protobuf_next(&p, &f)) {
        if (f.number == MODEL_PIECES)
            rc = read_piece(m, t, &f, err);
        else if (f.number == MODEL_TRAINER_SPEC)
            rc = read_trainer(m, &f, &type, err);
        else if (f.number == MODEL_NORMALIZER_SPEC)
            rc = read_normalizer(m, &f, err);
    }
    if (rc == 0 && p.damaged)
        rc = moed_fail(err, MOED_EFORMAT, "not a SentencePiece model: damaged at byte %zu",
                       (size_t)(p.at - (const uint8_t *)bytes));
    if (rc == 0 && type != MODEL_TYPE_UNIGRAM && type != MODEL_TYPE_BPE)
        rc = moed_fail(err, MOED_EUNSUPPORTED, "SentencePiece models of type %d are not supported",
                       (int)type);
    m->is_unigram = type == MODEL_TYPE_UNIGRAM;
    if (m->bos >= m->n)
        m->bos = -1;
    if (m->eos >= m->n)
        m->eos = -1;
    return rc;
}

int tokenizer_read_sentencepiece(struct tokenizer *t, const char *bytes, size_t n,
                                 const json_t *config, struct moed_error *err)
{
    struct sp_model m;
    sp_model_init(&m);
    int rc = read_model(&m, t, bytes, n, err);
    if (rc == 0)
        rc = sp_model_build(&m, t, err);
    if (rc == 0) {
        /* The file does not say; Llama's and T5's makers do so. add_bos_token and add_eos_token of
         * tokenizer_config.json decide. */
        if (m.is_unigram && m.eos >= 0)
            tokens_add(&t->after, m.eos);
        else if (m.bos >= 0)
            tokens_add(&t->before, m.bos);
        rc = tokenizer_apply_config(t, TOKENIZER_SENTENCEPIECE, config, err);
    }
    if (rc == 0)
        rc = tokenizer_finish(t, m.is_unigram ? "SentencePiece unigram" : "SentencePiece BPE", err);
    sp_model_fini(&m);
    return rc;
}
