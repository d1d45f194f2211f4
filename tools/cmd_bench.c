/* cmd_bench.c - `tandem bench`: the flags of each benchmark. What they do is in benchmarks/. */
#include "benchmarks/bench.h"
#include "tools/engine_flags.h"
#include "tools/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int cmd_bench(int argc, char **argv);

/* ---- shared ------------------------------------------------------------------------------------------------------- */

static void show_progress(void *user, const char *what, int done, int total) {
    struct progress *p = user;
    if (!p->label) {
        progress_begin(p, what ? what : "bench", "cases", total);
        p->shown &= !isatty(STDOUT_FILENO); /* where the table goes to a terminal, it is the progress */
    }
    if (what) {
        p->label = what;
        progress_update(p, done);
    } else {
        progress_end(p, done);
    }
}

/* Counts such as 16, 4K, 1k. */
static bool read_counts(int **out, int *n, const struct option_list *list, const char *flag, int most) {
    *out = calloc(list->n + 1, sizeof **out);
    *n = (int)list->n;
    for (size_t i = 0; *out && i < list->n; i++) {
        double value;
        if (!options_number(list->items[i], &value) || value < 1 || value > most || value != (int)value) {
            fprintf(stderr, "tandem bench: --%s: expected whole numbers from 1 to %d, found \"%s\"\n", flag, most,
                    list->items[i]);
            return false;
        }
        (*out)[i] = (int)value;
    }
    return *out != NULL;
}

/* The exit code; says what failed. */
static int outcome(int status, const char *err) {
    if (status) fprintf(stderr, "tandem bench: %s\n", err);
    return status == 0 ? 0 : 1;
}

/* ---- kernels ------------------------------------------------------------------------------------------------------ */

static int bench_kernels_command(int argc, char **argv) {
    static const struct command_help help = {
        .name = "bench kernels",
        .operands = "",
        .summary = "Times every kernel at the sizes of real models, beside the limit that binds it, measured in the same run.",
        .example = "tandem bench kernels --model Qwen3-14B Qwen3-14B-AWQ --only '^linear'\n"
                   "tandem bench kernels --model weights/sample/small --tokens 1 16 --json\n"
                   "tandem bench kernels --only attention --list",
    };
    struct progress progress = {0};
    struct bench_kernels_options b = {
        .sample_ms = 30, .n_samples = 5, .progress = {.update = show_progress, .user = &progress}};
    struct option_list models = {0}, tokens = {0};
    int *counts = NULL;
    const struct option_spec specs[] = {
        FLAG(LIST, "model", &models, "MODEL...", "folders, shape files, or names that benchmarks/configs has",
             .shown = "all of benchmarks/configs on a GPU, else Qwen3-0.6B"),
        FLAG(STRING, "only", &b.only, "PATTERN", "cases whose kernel/model/shape/T=... matches this regular expression"),
        FLAG(LIST, "tokens", &tokens, "N...", "tokens per call", .shown = "from 1 to 8192"),
        FLAG(BOOL, "list", &b.list, NULL, "show the cases and measure nothing"),
        FLAG(STRING, "backend", &b.backend, "NAME", "cpu or cuda", .shown = "the best there is"),
        FLAG(INT, "threads", &b.n_threads, "N", "of the CPU backend", .low = 0, .high = 1024, .shown = "one per core"),
        FLAG(INT, "samples", &b.n_samples, "N", "of which the median counts", .low = 1, .high = 64),
        FLAG(DOUBLE, "sample-ms", &b.sample_ms, "MS", "what each sample lasts, at least", .low = 0.01, .high = 60000),
        FLAG(BOOL, "json", &b.json, NULL, "print one JSON object"),
        {0},
    };
    struct options o = {0};
    char err[ERR_BYTES];
    int exit_code;
    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    exit_code = 2;
    if (!read_counts(&counts, &b.n_tokens, &tokens, "tokens", 1 << 17)) goto done;
    b.tokens = counts;
    b.models = models.items;
    b.n_models = (int)models.n;
    exit_code = outcome(bench_kernels(&b, err, sizeof err), err);
done:
    free(counts);
    options_deinit(&o);
    return exit_code;
}

/* ---- which ------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} benches[] = {
    {"kernels", "every kernel beside the machine's limits", bench_kernels_command},
};
enum { N_BENCHES = sizeof benches / sizeof *benches };

static void show_help(FILE *to) {
    fprintf(to, "Measures. Usage: tandem bench BENCHMARK [operands] [flags]\n\n");
    for (int i = 0; i < N_BENCHES; i++) fprintf(to, "  %-12s %s\n", benches[i].name, benches[i].summary);
    fprintf(to, "\nFlags, defaults and an example of each: tandem bench BENCHMARK --help\n"
                "Example: tandem bench kernels --model Qwen3-14B-AWQ --only linear\n");
}

int cmd_bench(int argc, char **argv) {
    const char *names[N_BENCHES + 1] = {0}, *nearest;
    if (argc < 2) {
        show_help(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        show_help(stdout);
        return 0;
    }
    for (int i = 0; i < N_BENCHES; i++) {
        if (!strcmp(argv[1], benches[i].name)) return benches[i].run(argc - 1, argv + 1);
        names[i] = benches[i].name;
    }
    nearest = options_nearest(argv[1], names);
    fprintf(stderr, "tandem bench: unknown benchmark \"%s\"", argv[1]);
    if (nearest) fprintf(stderr, "; did you mean %s?", nearest);
    fprintf(stderr, "\nAll of them: tandem bench --help\n");
    return 2;
}
