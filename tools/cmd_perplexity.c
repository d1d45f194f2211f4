/* cmd_perplexity.c - `tandem perplexity`: how well a model predicts a text.
 *
 * The file is tokenized whole and cut into consecutive windows of --window tokens that do not overlap. Within each
 * window every token but the first is scored; perplexity = exp(mean negative natural-log probability). */
#include "tools/engine_flags.h"
#include "tools/progress.h"
#include "tools/score.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cmd_perplexity(int argc, char **argv);

static int read_file(char **text, size_t *bytes, const char *path, char *err, size_t err_bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) return fail(err, err_bytes, STATUS_IO, "--file %s: %m", path);
    size_t capacity = 1 << 16, n = 0, got;
    char *data = malloc(capacity);
    while (data && (got = fread(data + n, 1, capacity - n, f)) > 0)
        if ((n += got) == capacity) {
            char *more = realloc(data, capacity *= 2);
            if (!more) free(data);
            data = more;
        }
    int status = !data ? STATUS_NO_MEMORY : ferror(f) ? STATUS_IO : 0;
    fclose(f);
    if (status) {
        free(data);
        return fail(err, err_bytes, status, "--file %s: %s", path, status_text(status));
    }
    *text = data;
    *bytes = n;
    return 0;
}

int cmd_perplexity(int argc, char **argv) {
    static const struct command_help help = {
        .name = "perplexity",
        .operands = "MODEL",
        .summary = "Measures the perplexity of a text: tokenized whole, cut into windows that do not overlap; in each\n"
                   "window every token but the first is scored.",
        .example = "tandem perplexity weights/sample/small --file weights/sample/heldout.txt",
        .min_operands = 1,
        .max_operands = 1,
    };
    struct engine_options engine = engine_default_options();
    engine.max_num_seqs = 1;
    engine.enable_prefix_caching = false;
    const char *file = NULL;
    int window = 1024;
    bool json = false;
    const struct option_spec specs[] = {
        FLAG(STRING, "file", &file, "FILE", "UTF-8 text"),
        FLAG(INT, "window", &window, "N", "tokens per window", .low = 2, .high = 1 << 20),
        FLAG(BOOL, "json", &json, NULL, "print one JSON object"),
        ENGINE_FLAGS(engine),
        {0},
    };
    struct options o = {0};
    struct engine *e = NULL;
    struct ids ids = {0};
    char *text = NULL, err[ERR_BYTES];
    float *logprobs = NULL;
    size_t bytes = 0;
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    exit_code = 2;
    if (!file) {
        fprintf(stderr, "tandem perplexity: --file FILE is needed\n");
        goto done;
    }
    exit_code = 1;
    engine.model = o.operands.items[0];
    if (read_file(&text, &bytes, file, err, sizeof err)) goto failed;
    if (engine_open(&e, &engine, err, sizeof err)) goto failed;
    tokenizer_encode(engine_tokenizer(e), text, bytes, false, &ids);
    logprobs = malloc((size_t)window * sizeof *logprobs);
    CHECK(logprobs);

    double sum = 0;
    int64_t n_scored = 0;
    struct progress bar;
    progress_begin(&bar, "perplexity", "tokens", (int64_t)ids.n);
    for (size_t at = 0; at + 1 < ids.n; at += (size_t)window) {
        const int n = ids.n - at < (size_t)window ? (int)(ids.n - at) : window;
        if (score_logprobs(e, ids.data + at, n, logprobs, err, sizeof err)) goto failed;
        for (int i = 0; i < n - 1; i++) sum -= logprobs[i];
        n_scored += n - 1;
        progress_update(&bar, (int64_t)at + n);
    }
    progress_end(&bar, (int64_t)ids.n);
    if (!n_scored) {
        fail(err, sizeof err, STATUS_INVALID, "--file %s: expected at least two tokens of text, found %zu", file,
             ids.n);
        goto failed;
    }
    const double nll = sum / (double)n_scored;
    if (json)
        printf("{\"perplexity\": %.6f, \"nll\": %.6f, \"tokens\": %zu, \"scored\": %lld, \"window\": %d}\n", exp(nll),
               nll, ids.n, (long long)n_scored, window);
    else
        printf("perplexity %.4f over %lld tokens (%zu in the text, windows of %d); %.4f nats per token, %.4f bits per "
               "byte\n",
               exp(nll), (long long)n_scored, ids.n, window, nll, sum / log(2) / (double)bytes);
    exit_code = 0;
    goto done;
failed:
    fprintf(stderr, "tandem perplexity: %s\n", err);
done:
    free(text);
    free(logprobs);
    ids_deinit(&ids);
    engine_close(e);
    options_deinit(&o);
    return exit_code;
}
