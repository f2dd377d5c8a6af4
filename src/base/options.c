#include "base/options.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct value {
    const char *text; /* NULL: unset */
    bool given;       /* by command line or environment */
    int64_t integer;
    double real;
    uint64_t bytes;
    double share; /* of SIZE; negative: bytes counts */
    const char **list;
    size_t n_list, cap_list;
};

struct options {
    const struct option_row *rows;
    size_t n_rows;
    unsigned command;
    struct value *values; /* [n_rows] */
    const char **positional;
    size_t n_positional, cap_positional;
};

const char *options_environment(const char *name)
{
    return getenv(name);
}

int options_parse_bytes(const char *text, uint64_t *bytes)
{
    static const struct {
        const char *unit;
        double factor;
    } units[] = {
        {"", 1},
        {"B", 1},
        {"KiB", 1024},
        {"K", 1024},
        {"k", 1024},
        {"MiB", 1048576},
        {"M", 1048576},
        {"GiB", 1073741824.0},
        {"G", 1073741824.0},
        {"TiB", 1099511627776.0},
    };
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return MOED_EINVAL;
    double n = strtod(text, &end);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(end, units[i].unit) == 0) {
            double total = n * units[i].factor;
            if (!(total >= 0 && total < 9.0e18))
                return MOED_ELIMIT;
            *bytes = (uint64_t)total;
            return 0;
        }
    }
    return MOED_EINVAL;
}

int options_parse_size(const char *text, uint64_t *bytes, double *share)
{
    char *end;
    *share = -1;
    if (!isdigit((unsigned char)text[0]))
        return MOED_EINVAL;
    double percent = strtod(text, &end);
    if (strcmp(end, "%") != 0)
        return options_parse_bytes(text, bytes);
    if (!(percent >= 0 && percent <= 100))
        return MOED_ELIMIT;
    *bytes = 0;
    *share = percent / 100;
    return 0;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *p = choices; *p;) {
        size_t len = strcspn(p, "|");
        if (len == n && memcmp(p, text, n) == 0)
            return true;
        p += len;
        p += *p == '|';
    }
    return false;
}

static int convert(const struct option_row *row, struct value *v, const char *text,
                   struct moed_error *err)
{
    char *end;
    errno = 0;
    switch (row->kind) {
    case OPTION_INT:
        v->integer = strtoll(text, &end, 10);
        if (end == text || *end || errno || (double)v->integer < row->min ||
            (double)v->integer > row->max)
            return moed_fail_param(err, MOED_EINVAL, row->name,
                                   "--%s takes a whole number from %.0f to %.0f, not '%s'",
                                   row->name, row->min, row->max, text);
        break;
    case OPTION_REAL:
        v->real = strtod(text, &end);
        if (end == text || *end || !(v->real >= row->min && v->real <= row->max))
            return moed_fail_param(err, MOED_EINVAL, row->name,
                                   "--%s takes a number from %g to %g, not '%s'", row->name,
                                   row->min, row->max, text);
        break;
    case OPTION_BYTES:
        if (options_parse_bytes(text, &v->bytes) < 0)
            return moed_fail_param(err, MOED_EINVAL, row->name,
                                   "--%s takes a size such as 512MiB or 12GiB, not '%s'", row->name,
                                   text);
        break;
    case OPTION_SIZE:
        if (options_parse_size(text, &v->bytes, &v->share) < 0)
            return moed_fail_param(err, MOED_EINVAL, row->name,
                                   "--%s takes a size such as 512MiB, 12GiB or 25%%, not '%s'",
                                   row->name, text);
        break;
    case OPTION_CHOICE:
        if (!is_choice(row->value, text))
            return moed_fail_param(err, MOED_EINVAL, row->name, "--%s is one of %s, not '%s'",
                                   row->name, row->value, text);
        break;
    case OPTION_LIST:
        v->list = mem_reserve(v->list, &v->cap_list, v->n_list + 1, sizeof *v->list);
        v->list[v->n_list++] = text;
        break;
    case OPTION_FLAG:
        if (strcmp(text, "1") != 0 && strcmp(text, "true") != 0 && strcmp(text, "0") != 0 &&
            strcmp(text, "false") != 0)
            return moed_fail_param(err, MOED_EINVAL, row->name,
                                   "--%s is a switch: 0, 1, true or false, not '%s'", row->name,
                                   text);
        v->integer = text[0] == '1' || text[0] == 't';
        break;
    case OPTION_STRING:
        break;
    }
    v->text = text;
    return 0;
}

/* The command's row of this name, else another's. */
static size_t find_row(const struct options *o, const char *name, size_t n)
{
    size_t found = o->n_rows;
    for (size_t i = 0; i < o->n_rows; i++) {
        if (strlen(o->rows[i].name) != n || memcmp(o->rows[i].name, name, n) != 0)
            continue;
        found = i;
        if (o->rows[i].commands & o->command)
            break;
    }
    return found;
}

static int unknown(const char *arg, struct moed_error *err)
{
    return moed_fail_param(err, MOED_EINVAL, arg, "there is no option %s (see --help)", arg);
}

/* One argument that starts with a dash, and its value, which may be the next argument. Returns how
 * many were used. */
static int take_option(struct options *o, unsigned command, int argc, char **argv,
                       struct moed_error *err)
{
    const char *arg = argv[0], *value = NULL;
    size_t row = o->n_rows;
    if (arg[1] == '-') {
        size_t len = strcspn(arg + 2, "=");
        row = find_row(o, arg + 2, len);
        if (arg[2 + len] == '=')
            value = arg + 2 + len + 1;
    } else {
        for (size_t i = 0; i < o->n_rows; i++)
            if (o->rows[i].letter && o->rows[i].letter == arg[1])
                row = i;
        if (arg[2])
            value = arg + 2;
    }
    if (row == o->n_rows)
        return unknown(arg, err);
    const struct option_row *r = &o->rows[row];
    if (!(r->commands & command))
        return moed_fail_param(err, MOED_EINVAL, r->name,
                               "--%s has no meaning for this command (see --help)", r->name);
    int used = 1;
    if (!value && r->kind == OPTION_FLAG) {
        value = "1";
    } else if (!value) {
        if (argc < 2)
            return moed_fail_param(err, MOED_EINVAL, r->name, "--%s needs a value", r->name);
        value = argv[1];
        used = 2;
    }
    int rc = convert(r, &o->values[row], value, err);
    o->values[row].given = true;
    return rc < 0 ? rc : used;
}

/* Rows that the command line left open: environment first, then the row's default. */
static int fill_rest(struct options *o, unsigned command, struct moed_error *err)
{
    for (size_t i = 0; i < o->n_rows; i++) {
        const struct option_row *r = &o->rows[i];
        if (o->values[i].given || !(r->commands & command))
            continue;
        const char *from_env = r->env ? options_environment(r->env) : NULL;
        const char *text = from_env && *from_env ? from_env : r->preset;
        if (!text)
            continue;
        int rc = convert(r, &o->values[i], text, err);
        if (rc < 0)
            return text == from_env ? moed_fail_in(err, rc, "environment variable %s", r->env) : rc;
        o->values[i].given = text == from_env;
    }
    return 0;
}

int options_parse(struct options **out, const struct option_row *rows, size_t n_rows,
                  unsigned command, int argc, char **argv, struct moed_error *err)
{
    int rc = 0;
    struct options *o = mem_new(1, sizeof *o);
    o->rows = rows;
    o->n_rows = n_rows;
    o->command = command;
    o->values = mem_new(n_rows, sizeof *o->values);
    bool only_words = false;
    for (int i = 0; i < argc;) {
        const char *arg = argv[i];
        if (!only_words && strcmp(arg, "--") == 0) {
            only_words = true;
            i++;
        } else if (only_words || arg[0] != '-' || !arg[1]) {
            o->positional = mem_reserve(o->positional, &o->cap_positional, o->n_positional + 1,
                                        sizeof *o->positional);
            o->positional[o->n_positional++] = arg;
            i++;
        } else {
            rc = take_option(o, command, argc - i, argv + i, err);
            if (rc < 0)
                goto out;
            i += rc;
        }
    }
    rc = fill_rest(o, command, err);
out:
    if (rc < 0)
        options_free(&o);
    *out = o;
    return rc < 0 ? rc : 0;
}

void options_free(struct options **o)
{
    if (!*o)
        return;
    for (size_t i = 0; i < (*o)->n_rows; i++)
        free((*o)->values[i].list);
    free((*o)->values);
    free((*o)->positional);
    free(*o);
    *o = NULL;
}

static const struct value *value_of(const struct options *o, const char *name)
{
    size_t row = find_row(o, name, strlen(name));
    assert(row < o->n_rows);
    return &o->values[row];
}

bool options_has(const struct options *o, const char *name)
{
    return value_of(o, name)->text != NULL;
}

bool options_flag(const struct options *o, const char *name)
{
    return value_of(o, name)->integer != 0;
}

const char *options_string(const struct options *o, const char *name)
{
    return value_of(o, name)->text;
}

int64_t options_int(const struct options *o, const char *name)
{
    return value_of(o, name)->integer;
}

double options_real(const struct options *o, const char *name)
{
    return value_of(o, name)->real;
}

uint64_t options_bytes(const struct options *o, const char *name)
{
    return value_of(o, name)->bytes;
}

double options_share(const struct options *o, const char *name)
{
    return value_of(o, name)->share;
}

size_t options_list(const struct options *o, const char *name, const char *const **values)
{
    const struct value *v = value_of(o, name);
    *values = v->list;
    return v->n_list;
}

size_t options_positional(const struct options *o, const char *const **values)
{
    *values = o->positional;
    return o->n_positional;
}

static void put_head(const struct option_row *r, struct buf *out)
{
    if (r->letter)
        buf_printf(out, "-%c, ", r->letter);
    buf_printf(out, "--%s", r->name);
    if (r->kind != OPTION_FLAG)
        buf_printf(out, " %s", r->value);
}

/* Breaks text into lines of at most `width` bytes, each after `indent` spaces. */
static void put_wrapped(const char *text, size_t indent, size_t width, struct buf *out)
{
    while (*text) {
        size_t len = strlen(text);
        if (len > width) {
            len = width;
            while (len > 1 && text[len] != ' ')
                len--;
        }
        buf_printf(out, "%*s%.*s\n", (int)indent, "", (int)len, text);
        text += len;
        text += *text == ' ';
    }
}

void options_help(const struct option_row *rows, size_t n_rows, unsigned command, struct buf *out)
{
    for (size_t i = 0; i < n_rows; i++) {
        const struct option_row *r = &rows[i];
        if (!(r->commands & command))
            continue;
        struct buf text = {0};
        buf_puts(out, "  ");
        put_head(r, out);
        buf_putc(out, '\n');
        buf_puts(&text, r->help);
        if (r->preset)
            buf_printf(&text, " Default %s.", r->preset);
        if (r->env)
            buf_printf(&text, " Environment: %s.", r->env);
        put_wrapped(buf_str(&text), 8, 88, out);
        buf_fini(&text);
    }
}

static void put_cell(const char *text, struct buf *out)
{
    for (; *text; text++) {
        if (*text == '|')
            buf_putc(out, '\\');
        buf_putc(out, *text);
    }
}

void options_markdown(const struct option_row *rows, size_t n_rows, unsigned command,
                      struct buf *out)
{
    buf_puts(out, "| option | default | environment | meaning |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < n_rows; i++) {
        const struct option_row *r = &rows[i];
        if (!(r->commands & command))
            continue;
        struct buf head = {0};
        put_head(r, &head);
        buf_puts(out, "| `");
        put_cell(buf_str(&head), out);
        buf_printf(out, "` | %s | %s | ", r->preset ? r->preset : "", r->env ? r->env : "");
        put_cell(r->help, out);
        buf_puts(out, " |\n");
        buf_fini(&head);
    }
}
