/* Sub-commands; wiring only. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"
#include "moed/version.h"

static const struct {
    const char *name;
    unsigned bit;
    int (*run)(const struct options *o);
} commands[] = {
    {"serve", CLI_SERVE, cli_serve},
    {"generate", CLI_GENERATE, cli_generate},
    {"bench", CLI_BENCH, cli_bench},
    {"plan", CLI_PLAN, cli_plan},
};

static enum log_level log_level_of(const char *name)
{
    return name[0] == 'e'   ? LOG_ERROR_LEVEL
           : name[0] == 'w' ? LOG_WARN_LEVEL
           : name[0] == 'i' ? LOG_INFO_LEVEL
                            : LOG_DEBUG_LEVEL;
}

static int run(size_t which, int argc, char **argv)
{
    struct options *o;
    struct moed_error err;
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            cli_print_help(commands[which].bit, stdout);
            return CLI_OK;
        }
    }
    if (options_parse(&o, cli_rows, cli_n_rows, commands[which].bit, argc, argv, &err) < 0) {
        cli_report(&err);
        return CLI_USAGE;
    }
    log_setup(log_level_of(options_string(o, "log-level")),
              strcmp(options_string(o, "log-format"), "json") == 0 ? LOG_FORMAT_JSON
                                                                   : LOG_FORMAT_TEXT);
    int status = commands[which].run(o);
    options_free(&o);
    return status;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "help";
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(name, commands[i].name) == 0)
            return run(i, argc - 2, argv + 2);
    if (strcmp(name, "reference") == 0) {
        cli_print_reference(stdout);
        return CLI_OK;
    }
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0) {
        printf("moed %s\n", moed_version());
        return CLI_OK;
    }
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        cli_print_help(0, argc > 1 ? stdout : stderr);
        return argc > 1 ? CLI_OK : CLI_USAGE;
    }
    fprintf(stderr, "moed: there is no command '%s' (see moed --help)\n", name);
    return CLI_USAGE;
}
