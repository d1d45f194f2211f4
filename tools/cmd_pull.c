/* cmd_pull.c - `tandem pull`: downloads a model in Hugging Face layout. */
#include "kernels/status.h"
#include "tools/options.h"
#include "tools/progress.h"
#include "weights/weights.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cmd_pull(int argc, char **argv);

struct pull_display {
    struct progress bar;
    int file_id; /* the file that the bar shows; -1 before the first */
    int64_t done;
    char label[96];
};

static int show(void *user, const char *file, int64_t done, int64_t file_bytes, int file_id, int n_files) {
    struct pull_display *d = user;
    if (file_id != d->file_id) {
        if (d->file_id >= 0) progress_end(&d->bar, d->done);
        d->file_id = file_id;
        snprintf(d->label, sizeof d->label, "%d/%d %.60s", file_id + 1, n_files, file);
        progress_begin(&d->bar, d->label, NULL, file_bytes);
    }
    d->bar.total = file_bytes;
    d->done = done;
    progress_update(&d->bar, done);
    return 0;
}

int cmd_pull(int argc, char **argv) {
    static const struct command_help help = {
        .name = "pull",
        .operands = "ORG/NAME",
        .summary = "Downloads a model from a Hugging Face hub into a folder. What is there already is kept, what was\n"
                   "cut off is resumed, sizes and SHA-256 sums are checked. HF_ENDPOINT and HF_TOKEN are honoured.",
        .example = "tandem pull Qwen/Qwen3-0.6B && tandem serve Qwen3-0.6B",
        .min_operands = 1,
        .max_operands = 1,
    };
    const char *revision = "main", *folder = NULL, *endpoint = getenv("HF_ENDPOINT"), *token = getenv("HF_TOKEN");
    const struct option_spec specs[] = {
        FLAG(STRING, "revision", &revision, "REV", "branch, tag or commit"),
        FLAG(STRING, "local-dir", &folder, "DIR", "where to put the files", .shown = "./NAME"),
        FLAG(STRING, "endpoint", &endpoint, "URL", "the hub", .shown = "https://huggingface.co"),
        FLAG(STRING, "token", &token, "TOKEN", "access token for private models"),
        {0},
    };
    struct options o = {0};
    struct pull_display display = {.file_id = -1};
    char err[ERR_BYTES];
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    const char *repo = o.operands.items[0], *slash = strrchr(repo, '/');
    if (!folder) folder = slash ? slash + 1 : repo;
    const struct pull_options pull = {.repo = repo,
                                      .revision = revision,
                                      .endpoint = endpoint,
                                      .token = token,
                                      .folder = folder,
                                      .progress = show,
                                      .user = &display};
    int status = model_pull(&pull, err, sizeof err);
    if (display.file_id >= 0) progress_end(&display.bar, display.done);
    if (status)
        fprintf(stderr, "tandem pull: %s\n", err);
    else
        printf("%s is in %s\n", repo, folder);
    exit_code = status ? 1 : 0;
done:
    options_deinit(&o);
    return exit_code;
}
