/* The sub-commands and the table of options they share. Each command returns the exit status of the
 * process. */
#ifndef MOED_CLI_H
#define MOED_CLI_H

#include <stdio.h>

#include "base/options.h"
#include "moed/engine.h"

enum cli_command_bit { CLI_SERVE = 1, CLI_GENERATE = 2, CLI_BENCH = 4, CLI_PLAN = 8 };
#define CLI_MODEL_COMMANDS (CLI_SERVE | CLI_GENERATE | CLI_BENCH | CLI_PLAN)

/* Exit statuses: sysexits.h names them, supervisors act on them. */
enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_DEVICE_FAILED = 70 };

extern const struct option_row cli_rows[];
extern const size_t cli_n_rows;

int cli_serve(const struct options *o);
int cli_generate(const struct options *o);
int cli_bench(const struct options *o);
int cli_plan(const struct options *o);

/* The model folder from the positional argument or --model; reports and returns NULL when there is
 * not exactly one. */
const char *cli_model(const struct options *o);
/* The engine part of the options. Strings point into o. */
struct moed_engine_config cli_engine_config(const struct options *o, const char *model_dir);
/* Prints "moed: <text>" on standard error; returns the exit status that fits the code. */
int cli_report(const struct moed_error *err);
/* "30.53 G parameters, 3.35 G active": in millions where there are fewer than a thousand of them.
 */
void cli_parameters_text(char *out, size_t size, uint64_t total, uint64_t active);
/* The whole help of one command, or the reference page of all (Markdown). */
void cli_print_help(unsigned command, FILE *out);
void cli_print_reference(FILE *out);

/* Loading progress: a bar on a terminal, a log line every few seconds otherwise. */
struct cli_progress {
    int64_t last_us;
    int on_terminal;
};
void cli_progress_init(struct cli_progress *p);
/* For moed_engine_config.progress, user being a struct cli_progress. */
void cli_progress_show(void *user, uint64_t done_bytes, uint64_t total_bytes, double seconds);

#endif
