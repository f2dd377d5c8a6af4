#include "cli/cli.h"

static const struct {
    unsigned bit;
    const char *name, *use, *what;
} commands[] = {
    {CLI_SERVE, "serve", "moed serve MODEL [options]",
     "Serves a model over HTTP with the OpenAI API."},
    {CLI_GENERATE, "generate", "moed generate MODEL -p TEXT [options]",
     "Continues a text and prints it."},
    {CLI_BENCH, "bench", "moed bench MODEL [options]",
     "Measures prefill and decode beside the memory bandwidth of the same run."},
    {CLI_PLAN, "plan", "moed plan MODEL [options]",
     "Says what the model takes and what fits, in bytes, without loading."},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

void cli_print_help(unsigned command, FILE *out)
{
    if (!command) {
        fputs("moed: a Mixture-of-Experts inference daemon\n\n", out);
        for (size_t i = 0; i < N_COMMANDS; i++)
            fprintf(out, "  %-40s %s\n", commands[i].use, commands[i].what);
        fputs("  moed reference                           Prints all options as a Markdown page.\n"
              "  moed version                             Prints the version.\n\n"
              "moed COMMAND --help shows the options of a command.\n",
              out);
        return;
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (commands[i].bit != command)
            continue;
        struct buf text = {0};
        options_help(cli_rows, cli_n_rows, command, &text);
        fprintf(out, "%s\n%s\n\n%s", commands[i].use, commands[i].what, buf_str(&text));
        buf_fini(&text);
    }
}

void cli_print_reference(FILE *out)
{
    fputs("# Options\n\nThis page is the output of `moed reference`; a test compares the two.\n",
          out);
    for (size_t i = 0; i < N_COMMANDS; i++) {
        struct buf text = {0};
        options_markdown(cli_rows, cli_n_rows, commands[i].bit, &text);
        fprintf(out, "\n## `%s`\n\n%s\n\n%s", commands[i].use, commands[i].what, buf_str(&text));
        buf_fini(&text);
    }
}
