/* cmd_perplexity.c - `tandem perplexity`: how well a model predicts a text.
 *
 * The file is tokenized whole and cut into consecutive windows of --window tokens that do not overlap. Within each
 * window every token but the first is scored; perplexity = exp(mean negative natural-log probability). */
#include "tools/engine_flags.h"
#include "tools/score.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int cmd_perplexity(int argc, char **argv);

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
    double nll;
    int64_t n_scored;
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
    if (score_read_file(&text, &bytes, "file", file, err, sizeof err)) goto failed;
    if (engine_open(&e, &engine, err, sizeof err)) goto failed;
    tokenizer_encode(engine_tokenizer(e), text, bytes, false, &ids);
    if (score_text(e, &ids, window, file, &nll, &n_scored, err, sizeof err)) goto failed;
    if (json)
        printf("{\"perplexity\": %.6f, \"nll\": %.6f, \"tokens\": %zu, \"scored\": %lld, \"window\": %d}\n", exp(nll),
               nll, ids.n, (long long)n_scored, window);
    else
        printf("perplexity %.4f over %lld tokens (%zu in the text, windows of %d); %.4f nats per token, %.4f bits per "
               "byte\n",
               exp(nll), (long long)n_scored, ids.n, window, nll, nll * (double)n_scored / log(2) / (double)bytes);
    exit_code = 0;
    goto done;
failed:
    fprintf(stderr, "tandem perplexity: %s\n", err);
done:
    free(text);
    ids_deinit(&ids);
    engine_close(e);
    options_deinit(&o);
    return exit_code;
}
