/* Runs JSON lines of {template or source, vars, output or error} through the engine. */
#ifndef MOED_TESTS_SUPPORT_TEMPLATE_H
#define MOED_TESTS_SUPPORT_TEMPLATE_H

#include <jansson.h>

/* The time that the vectors' strftime_now shows: 2025-07-26 12:00:00. */
#define VECTOR_TIME 1753531200

/*
 * Calls check for each line of the file; a line is a JSON object. check returns 0, or -1 with a
 * report printed. Fails the running test if any failed; returns the number of lines.
 */
size_t each_vector(const char *path, int (*check)(json_t *line, void *arg), void *arg);

/* Renders source with vars and compares with the line's output or error. Errors of Python carry
 * their type in front ("TypeError: "). With any_error the words may differ. */
int check_rendering(json_t *line, const char *source, size_t n, json_t *vars, int any_error);

/* The bytes of a file (free them), or the test fails. */
char *read_file(const char *path, size_t *n);

#endif
