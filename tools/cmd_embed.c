/* cmd_embed.c - `tandem embed`: texts in, vectors out.
 *
 * While the device runs one step, the next one's texts are read and tokenized. A step takes texts in their order until
 * its tokens or its texts are full: without padding there is nothing to gain from sorting them. */
#include "engine/encoder.h"
#include "engine/tokenizer.h"
#include "tools/options.h"
#include "tools/progress.h"
#include "weights/json.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int cmd_embed(int argc, char **argv);

struct job {
    const char *file, *output, *prefix, *dtype, *device, *load_format;
    struct option_list texts, fields;
    bool truncate, json;
    int n_threads;
    struct encoder_options options;

    char folder[PATH_MAX];
    struct encoder_config config;
    struct tokenizer *tokenizer;   /* owned */
    struct exec *exec;             /* owned */
    struct encoder *encoder;       /* owned */
    struct checkpoint *checkpoint; /* owned */
    char **lines;                  /* owned [n_texts], each owned: what is encoded, the prefix in front */
    size_t n_texts;
    float *vectors;    /* owned [n_texts, C] */
    int32_t *n_tokens; /* owned [n_texts] */
    struct ids ids[ENCODER_SLOTS];
    struct encoder_text *step; /* owned [max_texts] */
    int64_t tokens, truncated;
    double seconds;
    char err[ERR_BYTES];
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- what is to be encoded -------------------------------------------------------------------------------------- */

/* Appends prefix + text. Takes the text, which may be NULL: no memory. */
static int add_text(struct job *j, char *text) {
    char **more = realloc(j->lines, (j->n_texts + 1) * sizeof *more), *whole = NULL;
    if (more) j->lines = more;
    if (!text || !more || asprintf(&whole, "%s%s", j->prefix, text) < 0) {
        free(text);
        return fail(j->err, sizeof j->err, STATUS_NO_MEMORY, "no memory for %zu texts", j->n_texts + 1);
    }
    free(text);
    j->lines[j->n_texts++] = whole;
    return 0;
}

/* A line's text: the string that it is, or the named members of an object, with spaces between them. */
static int add_line(struct job *j, const char *line, size_t bytes, size_t number) {
    static const struct json_limits limits = {.max_bytes = 64 << 20, .max_depth = 32};
    char sentence[ERR_BYTES], *text = NULL;
    const char *field;
    cJSON *root = NULL;
    size_t n = 0;
    int status = json_parse(&root, line, bytes, limits, sentence, sizeof sentence);
    if (status) return fail(j->err, sizeof j->err, status, "%s: line %zu: %s", j->file, number, sentence);
    FILE *out = open_memstream(&text, &n);
    if (out && cJSON_IsString(root)) fputs(root->valuestring, out);
    for (size_t i = 0; out && !status && !cJSON_IsString(root) && i < j->fields.n; i++) {
        field = NULL;
        const char *name = j->fields.items[i];
        if (!cJSON_IsObject(root) || json_get_string(root, name, &field, sentence, sizeof sentence) || !field)
            status = fail(j->err, sizeof j->err, STATUS_INVALID,
                          "%s: line %zu: expected a string, or an object with a string \"%s\", found %s", j->file,
                          number, name, cJSON_IsObject(root) ? "an object without it" : json_kind(root));
        else
            fprintf(out, "%s%s", i ? " " : "", field);
    }
    cJSON_Delete(root);
    if (out && fclose(out)) {
        free(text);
        text = NULL;
    }
    if (!status) return add_text(j, text);
    free(text);
    return status;
}

static int read_texts(struct job *j) {
    int status = 0;
    for (size_t i = 0; i < j->texts.n && !status; i++) status = add_text(j, strdup(j->texts.items[i]));
    if (status || !j->file) return status;
    FILE *f = fopen(j->file, "r");
    if (!f) return fail(j->err, sizeof j->err, STATUS_IO, "%s: cannot be opened: %s", j->file, strerror(errno));
    char *line = NULL;
    size_t capacity = 0, number = 0;
    for (ssize_t n; !status && (n = getline(&line, &capacity, f)) >= 0;) {
        number++;
        while (n > 0 && strchr("\r\n \t", line[n - 1])) n--;
        if (n > 0) status = add_line(j, line, (size_t)n, number);
    }
    if (!status && ferror(f)) status = fail(j->err, sizeof j->err, STATUS_IO, "%s: cannot be read", j->file);
    free(line);
    fclose(f);
    return status;
}

/* ---- the encoder ------------------------------------------------------------------------------------------------- */

static enum dtype wanted_dtype(const struct job *j) {
    for (int t = DTYPE_F32; t <= DTYPE_F16; t++)
        if (!strcmp(j->dtype, dtype_name((enum dtype)t))) return (enum dtype)t;
    return j->config.dtype;
}

static int open_encoder(struct job *j, const char *model) {
    const bool dummy = !strcmp(j->load_format, "dummy");
    bool is_encoder;
    int status = model_find(model, j->folder, sizeof j->folder, j->err, sizeof j->err);
    if (!status) status = model_is_encoder(&is_encoder, j->folder, j->err, sizeof j->err);
    if (!status && !is_encoder)
        status = fail(j->err, sizeof j->err, STATUS_UNSUPPORTED,
                      "%s: expected an encoder (model_type \"bert\"), found another model; it generates text", model);
    if (!status) status = encoder_config_load(&j->config, j->folder, j->err, sizeof j->err);
    if (!status) status = tokenizer_open(&j->tokenizer, j->folder, j->err, sizeof j->err);
    if (!status && !dummy) status = checkpoint_open(&j->checkpoint, j->folder, j->err, sizeof j->err);
    if (!status && !dummy) status = encoder_check(j->checkpoint, &j->config, j->err, sizeof j->err);
    if (status) return status;
    if (tokenizer_size(j->tokenizer) > j->config.vocab)
        return fail(j->err, sizeof j->err, STATUS_INVALID,
                    "%s: expected a tokenizer of at most vocab_size, %d, ids, found %d", j->folder, j->config.vocab,
                    tokenizer_size(j->tokenizer));
    if (j->options.max_tokens < j->config.max_len) j->options.max_tokens = j->config.max_len;
    struct exec_options exec = {.backend = j->device, .dtype = wanted_dtype(j), .n_threads = j->n_threads};
    status = encoder_exec_open(&j->exec, &exec, !strcmp(j->dtype, "auto"), &j->config, &j->options, j->err,
                               sizeof j->err);
    if (!status)
        status = encoder_open(&j->encoder, j->exec, j->checkpoint, &j->config, &j->options, j->err, sizeof j->err);
    return status;
}

/* Appends the ids of text i to a step's; *cut: not all of them, because the model takes no more. */
static int tokenize(struct job *j, size_t i, struct ids *ids, bool *cut) {
    const size_t first = ids->n, bytes = strlen(j->lines[i]), most = (size_t)j->config.max_len;
    struct ids suffix = {0};
    tokenizer_prefix(j->tokenizer, ids);
    int status = tokenizer_encode(j->tokenizer, j->lines[i], bytes, false, ids);
    tokenizer_suffix(j->tokenizer, &suffix);
    const size_t n = ids->n - first + suffix.n;
    if (status) {
        fail(j->err, sizeof j->err, status, "text %zu: expected less than 2 GiB, found more", i + 1);
    } else if (n > most && (!j->truncate || suffix.n >= most)) {
        status = fail(j->err, sizeof j->err, STATUS_TOO_LARGE,
                      "text %zu: expected at most %zu tokens, found %zu; --truncate cuts such texts", i + 1, most, n);
    }
    *cut = n > most;
    if (*cut && !status) ids->n = first + most - suffix.n;
    for (size_t s = 0; s < suffix.n; s++) ids_push(ids, suffix.data[s]);
    ids_deinit(&suffix);
    j->n_tokens[i] = (int32_t)(ids->n - first);
    return status;
}

/* A step on its way: texts first .. first + n - 1. */
struct flight {
    size_t first;
    int n;
};

/* Tokenizes the next texts into slot `slot` as long as they fit. What did not fit is at the front for the next one: it
 * is tokenized again, which is one text in a step. */
static int fill_step(struct job *j, struct flight *f, int slot, size_t first) {
    struct ids *ids = &j->ids[slot];
    ids->n = 0;
    *f = (struct flight){.first = first};
    while (first + (size_t)f->n < j->n_texts && f->n < j->options.max_texts) {
        bool cut;
        int status = tokenize(j, first + (size_t)f->n, ids, &cut);
        if (status) return status;
        if (ids->n > (size_t)j->options.max_tokens) break;
        j->truncated += cut;
        f->n++;
    }
    for (int i = 0, at = 0; i < f->n; at += j->n_tokens[first + (size_t)i++])
        j->step[i] = (struct encoder_text){.ids = ids->data + at, .n = j->n_tokens[first + (size_t)i]};
    return 0;
}

static int land(struct job *j, const struct flight *f, int slot) {
    const float *vectors;
    const size_t C = (size_t)j->config.hidden;
    int status = encoder_land(j->encoder, slot, &vectors, NULL, j->err, sizeof j->err);
    if (!status) memcpy(j->vectors + f->first * C, vectors, (size_t)f->n * C * sizeof *vectors);
    return status;
}

static int encode(struct job *j) {
    struct flight flights[ENCODER_SLOTS] = {0};
    struct progress bar;
    const double start = now();
    int status = 0, slot = 0;
    size_t launched = 0, landed = 0;
    progress_begin(&bar, "embed", "texts", (int64_t)j->n_texts);
    while (!status && landed < j->n_texts) {
        struct flight *f = &flights[slot], *before = &flights[slot ^ 1];
        *f = (struct flight){0};
        if (launched < j->n_texts) status = fill_step(j, f, slot, launched);
        if (!status && f->n) {
            encoder_launch(j->encoder, slot, j->step, f->n);
            launched += (size_t)f->n;
        }
        if (before->n) {
            int landing = land(j, before, slot ^ 1);
            if (!status) status = landing;
            landed += (size_t)before->n;
            progress_update(&bar, (int64_t)landed);
        }
        slot ^= 1;
    }
    progress_end(&bar, (int64_t)landed);
    for (size_t i = 0; i < j->n_texts; i++) j->tokens += j->n_tokens[i];
    j->seconds = now() - start;
    return status;
}

/* ---- what comes out ---------------------------------------------------------------------------------------------- */

static int write_vectors(struct job *j) {
    const int64_t n = (int64_t)j->n_texts, C = j->config.hidden;
    const struct tensor tensors[] = {
        {.name = "embeddings",
         .dtype = DTYPE_F32,
         .n_dims = 2,
         .dims = {n, C},
         .bytes = (size_t)(n * C) * sizeof(float),
         .data = j->vectors},
        {.name = "n_tokens",
         .dtype = DTYPE_I32,
         .n_dims = 1,
         .dims = {n},
         .bytes = (size_t)n * sizeof(int32_t),
         .data = j->n_tokens},
    };
    return safetensors_write(j->output, tensors, 2, j->err, sizeof j->err);
}

static void print_vector(const float *v, int C) {
    for (int i = 0; i < C; i++) printf("%c%.9g", i ? ',' : '[', (double)v[i]);
    printf("]");
}

static void print(const struct job *j) {
    const double n = (double)j->n_texts;
    const size_t C = (size_t)j->config.hidden;
    if (j->json) {
        printf("{\"texts\":%zu,\"tokens\":%lld,\"truncated\":%lld,\"dimensions\":%zu,\"dtype\":\"%s\","
               "\"backend\":\"%s\",\"seconds\":%.3f,\"texts_per_s\":%.1f,\"tokens_per_s\":%.0f",
               j->n_texts, (long long)j->tokens, (long long)j->truncated, C, dtype_name(exec_dtype(j->exec)),
               exec_backend(j->exec), j->seconds, n / j->seconds, (double)j->tokens / j->seconds);
        for (size_t i = 0; i < j->n_texts && !j->output; i++) {
            printf(i ? "," : ",\"embeddings\":[");
            print_vector(j->vectors + i * C, (int)C);
        }
        puts(j->output ? "}" : "]}");
        return;
    }
    for (size_t i = 0; i < j->n_texts && !j->output; i++) {
        print_vector(j->vectors + i * C, (int)C);
        putchar('\n');
    }
    if (j->output)
        printf("%s: %zu vectors of %zu dimensions, %lld tokens, %lld texts cut; %.1f s on %s in %s: %.1f texts/s\n",
               j->output, j->n_texts, C, (long long)j->tokens, (long long)j->truncated, j->seconds,
               exec_backend(j->exec), dtype_name(exec_dtype(j->exec)), n / j->seconds);
}

static int run(struct job *j, const char *model) {
    int status = read_texts(j);
    if (!status && !j->n_texts) status = fail(j->err, sizeof j->err, STATUS_INVALID, "%s: no texts in it", j->file);
    if (!status) status = open_encoder(j, model);
    if (status) return status;
    j->vectors = malloc(j->n_texts * (size_t)j->config.hidden * sizeof *j->vectors);
    j->n_tokens = calloc(j->n_texts, sizeof *j->n_tokens);
    j->step = calloc((size_t)j->options.max_texts, sizeof *j->step);
    if (!j->vectors || !j->n_tokens || !j->step)
        return fail(j->err, sizeof j->err, STATUS_NO_MEMORY, "no memory for %zu vectors", j->n_texts);
    status = encode(j);
    if (!status && j->output) status = write_vectors(j);
    if (!status) print(j);
    return status;
}

static void job_deinit(struct job *j) {
    encoder_close(j->encoder);
    exec_close(j->exec);
    checkpoint_close(j->checkpoint);
    tokenizer_close(j->tokenizer);
    for (size_t i = 0; i < j->n_texts; i++) free(j->lines[i]);
    for (int i = 0; i < ENCODER_SLOTS; i++) ids_deinit(&j->ids[i]);
    free(j->lines);
    free(j->vectors);
    free(j->n_tokens);
    free(j->step);
}

int cmd_embed(int argc, char **argv) {
    static const struct command_help help = {
        .name = "embed",
        .operands = "MODEL",
        .summary = "Turns texts into vectors with an encoder (BERT: bge, MiniLM). Without --output, prints one JSON\n"
                   "array for each text.",
        .example = "tandem embed BAAI/bge-base-en-v1.5 --text \"What is a kernel?\" \"A kernel is ...\"\n"
                   "  tandem embed sentence-transformers/all-MiniLM-L6-v2 --file corpus.jsonl \\\n"
                   "      --fields title text --truncate --output vectors.safetensors",
        .min_operands = 1,
        .max_operands = 1,
    };
    static const char *const dtypes[] = {"auto", "float32", "bfloat16", "float16", NULL};
    static const char *const formats[] = {"auto", "dummy", NULL};
    static const char *text_field[] = {"text"};
    struct job j = {.prefix = "",
                    .dtype = "auto",
                    .load_format = "auto",
                    .fields = {.items = text_field, .n = 1},
                    .options = {.max_tokens = 8192, .max_texts = 256}};
    struct option_list fields = {0};
    const struct option_spec specs[] = {
        FLAG(LIST, "text", &j.texts, "TEXT...", "texts"),
        FLAG(STRING, "file", &j.file, "FILE", "one JSON string or object a line"),
        FLAG(LIST, "fields", &fields, "NAME...", "members of an object that make its text, joined by a space",
             .shown = "text"),
        FLAG(STRING, "prefix", &j.prefix, "TEXT", "what to put in front of every text, such as a query's instruction"),
        FLAG(BOOL, "truncate", &j.truncate, NULL, "cut texts that are longer than the model takes"),
        FLAG(STRING, "output", &j.output, "FILE", "the safetensors file to write: embeddings [n, C], n_tokens [n]"),
        FLAG(BOOL, "json", &j.json, NULL, "print one JSON object with the figures"),
        FLAG_TITLE("Encoder"),
        FLAG(STRING, "dtype", &j.dtype, "TYPE",
             "of weights and activations; auto is the checkpoint's, on a GPU float16 for float32", .choices = dtypes),
        FLAG(INT, "max-num-batched-tokens", &j.options.max_tokens, "N", "tokens in one step, at most", .low = 1,
             .high = 1 << 20),
        FLAG(INT, "max-num-seqs", &j.options.max_texts, "N", "texts in one step, at most", .low = 1, .high = 1 << 16),
        FLAG(STRING, "device", &j.device, "NAME", "cpu or cuda", .shown = "cuda where there is a GPU"),
        FLAG(STRING, "load-format", &j.load_format, "NAME", "auto, or dummy: random weights", .choices = formats),
        FLAG(INT, "threads", &j.n_threads, "N", "of the CPU backend", .low = 0, .high = 1024, .shown = "one per core"),
        {0},
    };
    struct options o = {0};
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    if (fields.n) j.fields = fields;
    exit_code = 2;
    if (!j.file && !j.texts.n) {
        fprintf(stderr, "tandem embed: --text TEXT or --file FILE is needed\n");
        goto done;
    }
    exit_code = run(&j, o.operands.items[0]) ? 1 : 0;
    if (exit_code) fprintf(stderr, "tandem embed: %s\n", j.err);
done:
    job_deinit(&j);
    options_deinit(&o);
    return exit_code;
}
