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
    X(extract, "read documents: their text, or chunks of it")                                                          \
    X(logits, "write the logits of token ids to a file")                                                               \
    X(embed, "turn texts into vectors with an encoder")                                                                \
    X(perplexity, "measure the perplexity of a text")                                                                  \
    X(quantize, "make a 4-bit checkpoint of a model")                                                                   \
    X(bench, "measure kernels, latency, throughput, a server")                                                         \
    X(key, "make an API key and its line for --api-key-file")

#define X(name, summary) int cmd_##name(int argc, char **argv);
COMMANDS(X)
#undef X

static const struct command commands[] = {
#define X(name, summary) {#name, summary, cmd_##name},
    COMMANDS(X)
#undef X
        {0},
};
static const struct command_table table = {
    .name = "tandem",
    .operand = "COMMAND",
    .what = "command",
    .summary = "Tandem " TANDEM_VERSION ": an inference engine for Qwen models.\n\n",
    .end = "Exit codes: 0 done, 1 failed, 2 wrong usage.\n",
    .commands = commands,
};

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts("tandem " TANDEM_VERSION);
        return 0;
    }
    return command_run(&table, argc, argv);
}
