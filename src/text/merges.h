/*
 * Merges where a file has none: vocabularies of SentencePiece and tiktoken say which pieces go
 * first, and any two symbols may join whose strings together are a piece.
 */
#ifndef MOED_TEXT_MERGES_H
#define MOED_TEXT_MERGES_H

#include <stddef.h>
#include <stdint.h>

#include "text/bpe.h"
#include "text/pieces.h"

/*
 * Adds, for each id with a rank, the merge of every two symbols that make up its string. symbols:
 * strings of all symbols, indexed; rank: [n_ranks], MERGES_NONE for ids that take no part; symbols
 * behind n_ranks may be parts. by_char: strings are cut between UTF-8 characters only.
 */
void merges_derive(struct bpe *b, const struct pieces *symbols, const uint32_t *rank,
                   int32_t n_ranks, int by_char);

#define MERGES_NONE UINT32_MAX

/* Longer pieces get no merges: they could cost quadratic memory, and no vocabulary has them. */
enum { MERGES_MAX_PIECE_BYTES = 1024 };

#endif
