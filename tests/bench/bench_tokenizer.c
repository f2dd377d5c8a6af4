/*
 * How fast a tokenizer loads and encodes: bench_tokenizer TOKENIZER TEXT [TOKENIZER TEXT ...]
 * One line per pair: name, ms to load, MB/s over documents of DOCUMENT_BYTES, tokens, MB/s
 * decoding. Beside Hugging Face tokenizers: tests/bench/bench_tokenizer.py.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/buf.h"
#include "text/tokenizer.h"

enum { DOCUMENT_BYTES = 16 << 10, ROUNDS = 3 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int read_file(struct buf *out, const char *path)
{
    FILE *f = fopen(path, "rb");
    char bytes[65536];
    size_t n;
    if (!f) {
        perror(path);
        return -1;
    }
    while ((n = fread(bytes, 1, sizeof bytes, f)) > 0)
        buf_add(out, bytes, n);
    fclose(f);
    return 0;
}

/* Seconds to encode the text document by document; documents end at the end of a character. */
static double encode_all(const struct tokenizer *t, const struct buf *text, struct tokens *ids)
{
    double begin = now_s();
    for (size_t at = 0; at < text->len;) {
        size_t n = text->len - at < DOCUMENT_BYTES ? text->len - at : DOCUMENT_BYTES;
        while (at + n < text->len && ((unsigned char)text->data[at + n] & 0xC0) == 0x80)
            n++;
        tokenizer_encode(t, text->data + at, n, TOKENIZER_PARSE_SPECIAL, 0, ids, NULL);
        at += n;
    }
    return now_s() - begin;
}

static int bench(const char *path, const char *text_path)
{
    struct tokenizer *t;
    struct moed_error err;
    struct buf text = {0}, decoded = {0};
    struct tokens ids = {0};
    double load = 1e9, encode = 1e9, decode = 1e9;
    if (read_file(&text, text_path) < 0)
        return -1;
    for (int i = 0; i < ROUNDS; i++) {
        double begin = now_s();
        if (tokenizer_open(&t, path, &err) < 0) {
            fprintf(stderr, "%s\n", err.text);
            buf_fini(&text);
            return -1;
        }
        double s = now_s() - begin;
        load = s < load ? s : load;
        if (i < ROUNDS - 1)
            tokenizer_close(&t);
    }
    for (int i = 0; i < ROUNDS; i++) {
        ids.n = 0;
        double s = encode_all(t, &text, &ids);
        encode = s < encode ? s : encode;
    }
    for (int i = 0; i < ROUNDS; i++) {
        buf_truncate(&decoded, 0);
        double begin = now_s();
        tokenizer_decode(t, ids.ids, ids.n, 0, &decoded);
        double s = now_s() - begin;
        decode = s < decode ? s : decode;
    }
    printf("%s\t%.0f\t%.1f\t%zu\t%.1f\n", path, 1e3 * load, 1e-6 * (double)text.len / encode, ids.n,
           1e-6 * (double)decoded.len / decode);
    tokenizer_close(&t);
    tokens_fini(&ids);
    buf_fini(&text);
    buf_fini(&decoded);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc % 2 == 0) {
        fprintf(stderr, "usage: bench_tokenizer TOKENIZER TEXT [TOKENIZER TEXT ...]\n");
        return 2;
    }
    for (int i = 1; i < argc; i += 2)
        if (bench(argv[i], argv[i + 1]) < 0)
            return 1;
    return 0;
}
