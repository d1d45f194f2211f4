/* main.c - the `tandem` command: a table of subcommands, nothing else.
 *
 * A subcommand NAME lives in tools/cmd_NAME.c as `int cmd_NAME(int argc, char **argv)`, with argv[0] = NAME. It returns
 * the exit code: 0 done, 1 failed, 2 wrong usage. To add one: a line in COMMANDS. */
#include "tools/options.h"

#include <stdio.h>
#include <string.h>

#define COMMANDS(X)                                                                                                    \
    X(serve, "serve a model over HTTP with OpenAI's API")                                                              \
    X(chat, "talk with a model in the terminal")                                                                       \
    X(generate, "continue one prompt")                                                                                 \
    X(pull, "download a model from a Hugging Face hub")                                                                \
    X(inspect, "check a checkpoint and print what it is")                                                              \
    X(tokenize, "text to token ids and back")                                                                          \
    X(logits, "write the logits of token ids to a file")                                                               \
    X(perplexity, "measure the perplexity of a text")                                                                  \
    X(bench, "measure kernels, latency, throughput, a server")                                                         \
    X(key, "make an API key and its line for --api-key-file")

#define X(name, summary) int cmd_##name(int argc, char **argv);
COMMANDS(X)
#undef X

static const struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
#define X(name, summary) {#name, summary, cmd_##name},
    COMMANDS(X)
#undef X
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void show_help(FILE *to) {
    fprintf(to, "Tandem %s: an inference engine for Qwen models.\n\nUsage: tandem COMMAND [operands] [flags]\n\n",
            TANDEM_VERSION);
    for (size_t i = 0; i < N_COMMANDS; i++) fprintf(to, "  %-12s %s\n", commands[i].name, commands[i].summary);
    fprintf(to, "\nFlags, defaults and an example of each: tandem COMMAND --help\n"
                "Exit codes: 0 done, 1 failed, 2 wrong usage.\n");
}

int main(int argc, char **argv) {
    const char *names[N_COMMANDS + 1] = {0}, *nearest;
    if (argc < 2) {
        show_help(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        show_help(stdout);
        return 0;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("tandem %s\n", TANDEM_VERSION);
        return 0;
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (!strcmp(argv[1], commands[i].name)) return commands[i].run(argc - 1, argv + 1);
        names[i] = commands[i].name;
    }
    nearest = options_nearest(argv[1], names);
    fprintf(stderr, "tandem: unknown command \"%s\"", argv[1]);
    if (nearest) fprintf(stderr, "; did you mean %s?", nearest);
    fprintf(stderr, "\nAll commands: tandem --help\n");
    return 2;
}
