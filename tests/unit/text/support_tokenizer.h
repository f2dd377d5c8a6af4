/* What the tokenizer tests share: reading files (packed ones too) and checking cases. */
#ifndef MOED_TESTS_TEXT_SUPPORT_TOKENIZER_H
#define MOED_TESTS_TEXT_SUPPORT_TOKENIZER_H

#include "base/buf.h"
#include "text/tokenizer.h"

/* The bytes of a file; where it is missing but path.xz is there, that is unpacked. Fails the test
 * if neither is there. */
void support_read(struct buf *out, const char *path);

/* The tokenizer in a file (packed or not), with the tokenizer_config.json at `config` or NULL. */
struct tokenizer *support_tokenizer(const char *path, const char *config);

/*
 * Encodes the text of each line {"text", "ids", "flags" (optional)} of a file of cases and compares
 * the ids; where "decoded" is given, decodes them, at once and in pieces. Returns the number of
 * cases, all of them exact.
 */
size_t support_check_cases(const struct tokenizer *t, const char *path, unsigned flags);

/* The text of ids pushed one by one; each output must be whole characters. */
void support_stream(const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags,
                    struct buf *out);

#endif
