/* One formatted value, as both str.format and the % operator need it. */
#ifndef MOED_TEXT_JINJA_FORMAT_H
#define MOED_TEXT_JINJA_FORMAT_H

#include "text/jinja_int.h"

struct jinja_spec {
    struct jv fill;
    char align; /* < > ^ = or 0 for the type's own */
    char sign;  /* + - or space */
    char group; /* , _ or 0 */
    char type;  /* 0: none given */
    int alternate;
    int64_t width;
    int64_t precision;  /* -1: none */
    int64_t min_digits; /* of integers; % only */
};

/* Output of text within width. natural: the alignment where none is asked for. */
void jinja_put_padded(struct jinja *J, const struct jinja_spec *spec, struct jv text, char natural);
/* An integer as b, c, d, o, x or X. */
void jinja_put_int(struct jinja *J, const struct jinja_spec *spec, int64_t i);
/* A float as e, E, f, F, g, G, % or (type 0) as str() with at least one decimal. */
void jinja_put_float(struct jinja *J, const struct jinja_spec *spec, double f);
/* repr(v) with everything but ASCII escaped. */
struct jv jinja_ascii(struct jinja *J, struct jv v);

#endif
