/* cmd_quantize.c - `tandem quantize`: a model's folder in, a folder with an AWQ checkpoint of it out.
 *
 * The calibration text is tokenized whole and cut into sequences of --length tokens; where there are more than --samples,
 * those that are used lie evenly spread. Without --held-out the text's last tenth is set aside first, and perplexity is
 * measured on that. The output folder gets its config.json last: until then it is no model. */
#include "engine/quantize.h"
#include "tools/engine_flags.h"
#include "tools/progress.h"
#include "tools/score.h"

#include <cjson/cJSON.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int cmd_quantize(int argc, char **argv);

enum { MIN_TOKENS = 2048, WINDOW = 1024 };

struct quantize_flags {
    bool awq, nearest, scale, clip, json, perplexity;
    const char *calibration, *held_out, *output;
    int n_samples, length;
    struct engine_options engine; /* device and threads */
};

/* What the report is about. */
struct report {
    struct quantize_result *results; /* owned [n_results] */
    size_t n_results;
    int n_sequences;
    double seconds;
    size_t bytes_before, bytes_after;
    bool has_perplexity;
    const char *text; /* of the perplexity: for people */
    double before, after;
    int64_t n_scored;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the report -------------------------------------------------------------------------------------------------- */

static void add_error(cJSON *o, const char *name, double error) {
    if (!isnan(error)) cJSON_AddNumberToObject(o, name, error);
}

static void print_json(const struct report *r, const struct quantize_flags *f) {
    cJSON *o = cJSON_CreateObject(), *groups = cJSON_CreateArray();
    cJSON_AddStringToObject(o, "method", f->awq ? "awq" : "round-to-nearest");
    cJSON_AddStringToObject(o, "output", f->output);
    cJSON_AddNumberToObject(o, "calibration_sequences", r->n_sequences);
    cJSON_AddNumberToObject(o, "calibration_length", f->length);
    cJSON_AddNumberToObject(o, "seconds", r->seconds);
    cJSON_AddNumberToObject(o, "bytes_before", (double)r->bytes_before);
    cJSON_AddNumberToObject(o, "bytes_after", (double)r->bytes_after);
    for (size_t i = 0; i < r->n_results; i++) {
        const struct quantize_result *g = &r->results[i];
        cJSON *item = cJSON_CreateObject();
        cJSON_AddNumberToObject(item, "layer", g->layer);
        cJSON_AddStringToObject(item, "linears", g->linears);
        if (g->scaled) cJSON_AddNumberToObject(item, "alpha", g->exponent);
        cJSON_AddBoolToObject(item, "clipped", g->clipped);
        add_error(item, "error_nearest", g->error_nearest);
        add_error(item, "error", g->error);
        cJSON_AddItemToArray(groups, item);
    }
    cJSON_AddItemToObject(o, "groups", groups);
    if (r->has_perplexity) {
        cJSON *p = cJSON_AddObjectToObject(o, "perplexity");
        cJSON_AddStringToObject(p, "text", r->text);
        cJSON_AddNumberToObject(p, "scored", (double)r->n_scored);
        cJSON_AddNumberToObject(p, "window", WINDOW);
        cJSON_AddNumberToObject(p, "before", r->before);
        cJSON_AddNumberToObject(p, "after", r->after);
    }
    char *text = cJSON_Print(o);
    puts(text);
    free(text);
    cJSON_Delete(o);
}

static void print_people(const struct report *r, const struct quantize_flags *f) {
    if (r->n_results && !isnan(r->results[0].error)) {
        printf("Squared error of each block's output, relative to the output, %d sequences of %d tokens:\n\n",
               r->n_sequences, f->length);
        printf("layer  %-20s  alpha  nearest  written\n", "linear layers");
        for (size_t i = 0; i < r->n_results; i++) {
            const struct quantize_result *g = &r->results[i];
            char alpha[16] = "-";
            if (g->scaled) snprintf(alpha, sizeof alpha, "%.2f", g->exponent);
            printf("%5d  %-20s  %5s  %7.5f  %7.5f\n", g->layer, g->linears, alpha, g->error_nearest, g->error);
        }
        putchar('\n');
    }
    printf("%s: %.1f MB of tensors became %.1f MB in %.1f s\n", f->output, 1e-6 * (double)r->bytes_before,
           1e-6 * (double)r->bytes_after, r->seconds);
    if (r->has_perplexity)
        printf("perplexity %.4f in float16, %.4f now: %.4f times as much, over %lld tokens of %s (windows of %d)\n",
               r->before, r->after, r->after / r->before, (long long)r->n_scored, r->text, WINDOW);
}

/* ---- the texts --------------------------------------------------------------------------------------------------- */

static int encode_file(struct ids *ids, const struct tokenizer *t, const char *flag, const char *path, char *err,
                       size_t err_bytes) {
    char *text;
    size_t bytes;
    int status = score_read_file(&text, &bytes, flag, path, err, err_bytes);
    if (status) return status;
    status = tokenizer_encode(t, text, bytes, false, ids);
    free(text);
    return status ? fail(err, err_bytes, status, "--%s %s: %s", flag, path, status_text(status)) : 0;
}

/* Fills sequences [*n_sequences, length] from the calibration text. */
static int choose_sequences(struct ids *sequences, int *n_sequences, const struct quantize_flags *f,
                            const struct ids *text, char *err, size_t err_bytes) {
    const size_t length = (size_t)f->length, n = text->n / length;
    if (!n || n * length < MIN_TOKENS)
        return fail(err, err_bytes, STATUS_INVALID,
                    "--calibration %s: expected at least %d tokens of text in sequences of %d (--length), found %zu "
                    "tokens; give a longer text, some %d tokens are best",
                    f->calibration, MIN_TOKENS, f->length, text->n, f->n_samples * f->length);
    const size_t used = n < (size_t)f->n_samples ? n : (size_t)f->n_samples;
    if (used < (size_t)f->n_samples)
        fprintf(stderr, "note: --calibration %s has %zu sequences of %d tokens, fewer than the %d of --samples\n",
                f->calibration, n, f->length, f->n_samples);
    for (size_t i = 0; i < used; i++)
        for (size_t t = 0; t < length; t++) ids_push(sequences, text->data[i * n / used * length + t]);
    *n_sequences = (int)used;
    return 0;
}

/* The perplexity of ids under a model in float16. */
static int measure(double *perplexity, int64_t *n_scored, const char *model, const struct quantize_flags *f,
                   const struct ids *ids, const char *source, char *err, size_t err_bytes) {
    struct engine_options o = f->engine;
    struct engine *e;
    double nll = 0;
    o.model = model;
    o.dtype = "float16";
    o.max_num_seqs = 1;
    o.enable_prefix_caching = false;
    o.token_ids_only = true;
    int status = engine_open(&e, &o, err, err_bytes);
    if (status) return status;
    const int longest = engine_info(e)->max_model_len - 1, window = WINDOW < longest ? WINDOW : longest;
    status = score_text(e, ids, window, source, &nll, n_scored, err, err_bytes);
    *perplexity = exp(nll);
    engine_close(e);
    return status;
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

static void show_progress(void *bar, int64_t n_done) { progress_update(bar, n_done); }

static size_t tensor_bytes(const struct checkpoint *c) {
    size_t bytes = 0;
    for (size_t i = 0; i < checkpoint_n_tensors(c); i++) bytes += checkpoint_tensor(c, i)->bytes;
    return bytes;
}

/* Quantises the model in folder `path` into f->output, which is made and completed. */
static int quantize(struct report *r, const char *path, const struct quantize_flags *f, const struct ids *sequences,
                    char *err, size_t err_bytes) {
    static const struct model_quantization quantization = {.method = QUANTIZATION_AWQ, .group = AWQ_GROUP};
    struct model_config config;
    struct checkpoint *c = NULL, *written = NULL;
    struct progress bar;
    const double start = now();
    char file[PATH_MAX];
    int status = model_config_load(&config, path, err, err_bytes);
    if (!status) status = quantize_check(&config, path, err, err_bytes);
    if (!status) status = checkpoint_open(&c, path, err, err_bytes);
    if (!status) status = checkpoint_check(c, &config, err, err_bytes);
    if (!status && snprintf(file, sizeof file, "%s/model.safetensors", f->output) >= (int)sizeof file)
        status = fail(err, err_bytes, STATUS_TOO_LARGE, "--output: the path is longer than %d bytes", PATH_MAX);
    if (!status) status = model_folder_create(f->output, err, err_bytes);
    if (status) goto done;

    r->n_results = (size_t)config.n_layers * QUANTIZE_GROUPS;
    r->results = calloc(r->n_results, sizeof *r->results);
    CHECK(r->results);
    const struct quantize_options options = {
        .backend = f->engine.backend,
        .n_threads = f->engine.n_threads,
        .scale = f->awq && f->scale,
        .clip = f->awq && f->clip,
        .tokens = sequences->data,
        .n_sequences = r->n_sequences,
        .length = f->length,
        .progress = show_progress,
        .user = &bar,
    };
    progress_begin(&bar, "quantize", "matrices", (int64_t)r->n_results);
    status = quantize_model(r->results, file, c, &config, &options, err, err_bytes);
    if (status) goto done;
    progress_end(&bar, (int64_t)r->n_results);
    status = model_folder_finish(f->output, path, &quantization, err, err_bytes);
    if (!status) status = checkpoint_open(&written, f->output, err, err_bytes);
    if (status) goto done;
    r->bytes_before = tensor_bytes(c);
    r->bytes_after = tensor_bytes(written);
    r->seconds = now() - start;
done:
    checkpoint_close(c);
    checkpoint_close(written);
    return status;
}

static bool usage_is_right(const struct quantize_flags *f) {
    const char *wrong = NULL;
    if (f->awq == f->nearest) wrong = "one of --awq and --round-to-nearest is needed";
    else if (!f->output) wrong = "--output DIR is needed";
    else if (f->awq && !f->calibration) wrong = "--awq needs --calibration FILE, a text like those that the model is for";
    if (wrong) fprintf(stderr, "tandem quantize: %s\n", wrong);
    return !wrong;
}

int cmd_quantize(int argc, char **argv) {
    static const struct command_help help = {
        .name = "quantize",
        .operands = "MODEL",
        .summary = "Writes a 4-bit checkpoint of a model, in AutoAWQ's \"gemm\" form: groups of 128 inputs with zero\n"
                   "points; embedding, norms, biases and lm_head stay float16. Prints the error of every layer, and\n"
                   "the perplexity before and after.",
        .example = "tandem quantize weights/sample/small --awq --calibration README.md --held-out "
                   "weights/sample/heldout.txt \\\n"
                   "      --output small-awq\n"
                   "  tandem quantize Qwen/Qwen2.5-3B-Instruct --awq --calibration text.txt --output qwen2.5-3b-awq",
        .min_operands = 1,
        .max_operands = 1,
    };
    struct quantize_flags f = {.scale = true, .clip = true, .perplexity = true, .n_samples = 128, .length = 512,
                               .engine = engine_default_options()};
    const struct option_spec specs[] = {
        FLAG(BOOL, "awq", &f.awq, NULL, "scale and clip weights by what their inputs are on the calibration text"),
        FLAG(BOOL, "round-to-nearest", &f.nearest, NULL, "neither, for comparison: needs no calibration text"),
        FLAG(STRING, "calibration", &f.calibration, "FILE", "UTF-8 text like those that the model is for"),
        FLAG(INT, "samples", &f.n_samples, "N", "sequences of it to use, at most", .low = 1, .high = 1 << 20),
        FLAG(INT, "length", &f.length, "N", "tokens of a sequence", .low = 1, .high = 1 << 15),
        FLAG(BOOL, "scale", &f.scale, NULL, "search scalings of the inputs"),
        FLAG(BOOL, "clip", &f.clip, NULL, "search limits for the weights, too"),
        FLAG(STRING, "held-out", &f.held_out, "FILE", "text to measure perplexity on",
             .shown = "the calibration text's last tenth, which is then not calibrated on"),
        FLAG(BOOL, "perplexity", &f.perplexity, NULL, "measure perplexity before and after"),
        FLAG(STRING, "output", &f.output, "DIR", "the folder to write: new, or empty"),
        FLAG(BOOL, "json", &f.json, NULL, "print one JSON object"),
        FLAG(STRING, "device", &f.engine.backend, "NAME", "cpu or cuda", .shown = "cuda where there is a GPU"),
        FLAG(INT, "threads", &f.engine.n_threads, "N", "of the CPU backend", .low = 0, .high = 1024,
             .shown = "one per core"),
        {0},
    };
    struct options o = {0};
    struct tokenizer *t = NULL;
    struct ids text = {0}, held_out = {0}, sequences = {0};
    struct report r = {0};
    char err[ERR_BYTES], path[PATH_MAX];
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    exit_code = 2;
    if (!usage_is_right(&f)) goto done;
    exit_code = 1;
    if (model_find(o.operands.items[0], path, sizeof path, err, sizeof err)) goto failed;
    if (tokenizer_open(&t, path, err, sizeof err)) goto failed;
    if (f.calibration && encode_file(&text, t, "calibration", f.calibration, err, sizeof err)) goto failed;
    if (f.held_out) {
        if (encode_file(&held_out, t, "held-out", f.held_out, err, sizeof err)) goto failed;
        r.text = f.held_out;
    } else if (f.calibration && f.perplexity) {
        for (size_t i = text.n - text.n / 10; i < text.n; i++) ids_push(&held_out, text.data[i]);
        text.n -= held_out.n;
        r.text = "the calibration text's last tenth";
    }
    if (f.calibration && choose_sequences(&sequences, &r.n_sequences, &f, &text, err, sizeof err)) goto failed;
    if (quantize(&r, path, &f, &sequences, err, sizeof err)) goto failed;
    if (r.text && f.perplexity) {
        if (measure(&r.before, &r.n_scored, path, &f, &held_out, r.text, err, sizeof err)) goto failed;
        if (measure(&r.after, &r.n_scored, f.output, &f, &held_out, r.text, err, sizeof err)) goto failed;
        r.has_perplexity = true;
    }
    if (f.json)
        print_json(&r, &f);
    else
        print_people(&r, &f);
    exit_code = 0;
    goto done;
failed:
    fprintf(stderr, "tandem quantize: %s\n", err);
done:
    free(r.results);
    ids_deinit(&text);
    ids_deinit(&held_out);
    ids_deinit(&sequences);
    tokenizer_close(t);
    options_deinit(&o);
    return exit_code;
}
