/* Characters as Python's str sees them. */
#ifndef MOED_TEXT_JINJA_UNICODE_H
#define MOED_TEXT_JINJA_UNICODE_H

#include <stddef.h>

int jinja_is_space(unsigned cp);
int jinja_is_printable(unsigned cp);
int jinja_is_alpha(unsigned cp);
int jinja_is_decimal(unsigned cp);
int jinja_is_digit(unsigned cp);
int jinja_is_numeric(unsigned cp);
int jinja_is_upper(unsigned cp);
int jinja_is_lower(unsigned cp);
int jinja_is_title(unsigned cp);
int jinja_is_cased(unsigned cp);
int jinja_is_name_start(unsigned cp); /* of an identifier */
int jinja_is_name_part(unsigned cp);
int jinja_is_case_ignorable(unsigned cp);
/* 0-9 for a decimal digit of any script, -1 otherwise. */
int jinja_digit_value(unsigned cp);
/* Full case mappings: up to three code points; returns how many. */
int jinja_to_upper(unsigned cp, unsigned out[3]);
int jinja_to_lower(unsigned cp, unsigned out[3]);
int jinja_to_title(unsigned cp, unsigned out[3]);
int jinja_to_folded(unsigned cp, unsigned out[3]);

#endif
