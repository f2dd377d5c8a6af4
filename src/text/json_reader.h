/*
 * A pull reader for JSON (RFC 8259) that is in memory: no tree, no copy of strings without escapes.
 * It exists for vocabularies of many megabytes; small JSON goes through jansson.
 *
 * The first failure sticks: later calls return the same negative code, and err has the byte offset.
 * Strings are checked to be UTF-8. One thread at a time.
 */
#ifndef MOED_TEXT_JSON_READER_H
#define MOED_TEXT_JSON_READER_H

#include <stddef.h>

#include "base/buf.h"
#include "moed/error.h"

enum { JSON_READER_MAX_DEPTH = 64 };

struct json_reader {
    const char *begin, *at, *end;
    int depth;
    int fresh; /* just entered an object or array: no comma is due */
    int code;  /* 0, or the failure */
    struct buf unescaped;
    struct moed_error *err; /* may be NULL */
};

/* bytes must outlive the reader. jr_fini frees. */
void jr_init(struct json_reader *r, const char *bytes, size_t n, struct moed_error *err);
void jr_fini(struct json_reader *r);

/* The first byte of the next value ('{', '[', '"', a digit, ...), 0 at the end. */
char jr_peek(struct json_reader *r);

int jr_object_begin(struct json_reader *r);
/* 1 with the next key (as jr_string), 0 at the closing brace. The value must be read or skipped. */
int jr_object_next(struct json_reader *r, const char **key, size_t *n);
int jr_array_begin(struct json_reader *r);
/* 1 where another element follows (read or skip it), 0 at the closing bracket. */
int jr_array_next(struct json_reader *r);

/* *s points into the input or into the reader, until the next call. */
int jr_string(struct json_reader *r, const char **s, size_t *n);
int jr_number(struct json_reader *r, double *value);
/* A whole number from 0 to INT32_MAX. */
int jr_id(struct json_reader *r, int *value);
/* Passes over one value; its bytes are *from[*n]. */
int jr_skip(struct json_reader *r, const char **from, size_t *n);
/* 0 where nothing but white space is left. */
int jr_finish(struct json_reader *r);

#endif
