/*
 * Command-line options as rows of a table: parsing, --help and the reference page all come from the
 * rows. The only place of the program that reads the environment.
 *
 * A value comes from the command line, else from the row's environment variable, else from the
 * row's default. A row belongs to one or more sub-commands (a bit mask); an option of another
 * command is an error that says so. Two rows may share a name where no command has both.
 */
#ifndef MOED_BASE_OPTIONS_H
#define MOED_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "moed/error.h"

enum option_kind {
    OPTION_FLAG, /* no value */
    OPTION_STRING,
    OPTION_LIST,   /* may be given several times; values are kept in order */
    OPTION_INT,    /* min..max */
    OPTION_REAL,   /* min..max */
    OPTION_BYTES,  /* a number with an optional KiB, MiB, GiB */
    OPTION_SIZE,   /* the same, or a share such as 25% */
    OPTION_CHOICE, /* one of `choices`, separated by | */
};

struct option_row {
    const char *name; /* without the dashes */
    char letter;      /* short form or 0 */
    enum option_kind kind;
    const char *value;  /* name of the value in help; for CHOICE the choices a|b|c */
    const char *preset; /* default as text; NULL: unset */
    double min, max;    /* INT, REAL */
    unsigned commands;  /* bits */
    const char *env;    /* environment variable or NULL */
    const char *help;
};

struct options;

/*
 * Parses argv[0..argc) (without program and command). Words without dashes are positional. `--`
 * ends options. rows must outlive the result. On failure *out is NULL and err->param names the
 * option.
 */
int options_parse(struct options **out, const struct option_row *rows, size_t n_rows,
                  unsigned command, int argc, char **argv, struct moed_error *err);
void options_free(struct options **o);

/* Names must be rows of the table (asserted). Unset strings are NULL, unset numbers 0: ask
 * options_has. */
bool options_has(const struct options *o, const char *name);
bool options_flag(const struct options *o, const char *name);
const char *options_string(const struct options *o, const char *name);
int64_t options_int(const struct options *o, const char *name);
double options_real(const struct options *o, const char *name);
/* Of BYTES, and of SIZE where options_share is negative. */
uint64_t options_bytes(const struct options *o, const char *name);
/* Of SIZE: 0 to 1, or negative for one in bytes. */
double options_share(const struct options *o, const char *name);
size_t options_list(const struct options *o, const char *name, const char *const **values);
size_t options_positional(const struct options *o, const char *const **values);

/* "64KiB", "1.5GiB", "4096": bytes, or negative with the reason. */
int options_parse_bytes(const char *text, uint64_t *bytes);
/* The same, or "25%": *share is then 0.25 and *bytes 0; else *share is -1. */
int options_parse_size(const char *text, uint64_t *bytes, double *share);

/* Text for --help and rows for the reference page (Markdown), of the rows of one command. */
void options_help(const struct option_row *rows, size_t n_rows, unsigned command, struct buf *out);
void options_markdown(const struct option_row *rows, size_t n_rows, unsigned command,
                      struct buf *out);

/* A variable that is no option: those that a supervisor sets (NOTIFY_SOCKET, JOURNAL_STREAM, ...).
 */
const char *options_environment(const char *name);

#endif
