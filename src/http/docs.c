/* The tables as Markdown: docs/api.md holds what this prints. */
#include <string.h>

#include "http/server.h"
#include "http/server_int.h"

static void put_cell(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '|')
            buf_putc(out, '\\');
        buf_putc(out, *text);
    }
}

static void put_params(struct buf *out, enum api_endpoint endpoint, const char *path)
{
    static const char *const titles[] = {
        [PARAM_HONOURED] = "honoured",
        [PARAM_IGNORED] = "accepted without effect",
        [PARAM_REFUSED] = "refused",
    };
    buf_printf(out, "### POST %s\n\n| parameter | type | | |\n| --- | --- | --- | --- |\n", path);
    for (size_t i = 0; i < n_param_rows; i++) {
        const struct param_row *row = &param_rows[i];
        if (!(row->endpoints & (unsigned)endpoint))
            continue;
        buf_printf(out, "| `%s` | %s | %s | ", row->name,
                   row->class == PARAM_HONOURED ? row->type : "", titles[row->class]);
        put_cell(out, row->doc);
        buf_puts(out, " |\n");
    }
    buf_putc(out, '\n');
}

void http_print_docs(struct buf *out)
{
    for (size_t i = 0; i < n_routes; i++)
        if (routes[i].endpoint)
            put_params(out, routes[i].endpoint, routes[i].path);
    buf_puts(out, "### Errors of requests\n\n| status | type | code | when |\n"
                  "| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < n_error_rows; i++) {
        buf_printf(out, "| %d | `%s` | `%s` | ", error_rows[i].status, error_rows[i].type,
                   error_rows[i].name);
        put_cell(out, error_rows[i].doc);
        buf_puts(out, " |\n");
    }
}
