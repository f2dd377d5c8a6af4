/* Finds filters by name. */
#include <string.h>

#include "text/jinja_int.h"

const struct jinja_filter *jinja_filter_find(const char *name, size_t n)
{
    static const struct jinja_filter *const tables[] = {jinja_filters_text, jinja_filters_list,
                                                        jinja_filters_select, jinja_filters_number};
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++)
        for (const struct jinja_filter *f = tables[t]; f->name; f++)
            if (strlen(f->name) == n && memcmp(f->name, name, n) == 0)
                return f;
    return NULL;
}
