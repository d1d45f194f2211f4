/* cmd_logits.c - `tandem logits`: the logits of given token ids, written as safetensors, for comparing engines. */
#include "tools/engine_flags.h"
#include "tools/score.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int cmd_logits(int argc, char **argv);

/* "1,2,3" -> ids. Whatever is not a number in range is named. */
static int parse_ids(struct ids *ids, const char *text, char *err, size_t err_bytes) {
    for (const char *p = text; *p;) {
        char *end;
        errno = 0;
        long id = strtol(p, &end, 10);
        if (end == p || errno || id < 0 || id > INT32_MAX || (*end && *end != ','))
            return fail(err, err_bytes, STATUS_INVALID, "--token-ids: expected numbers like 1,2,3, found \"%.40s\"", p);
        ids_push(ids, (int32_t)id);
        p = *end ? end + 1 : end;
    }
    if (!ids->n) return fail(err, err_bytes, STATUS_INVALID, "--token-ids: expected at least one id, found none");
    return 0;
}

int cmd_logits(int argc, char **argv) {
    static const struct command_help help = {
        .name = "logits",
        .operands = "MODEL",
        .summary = "Runs token ids through the model and writes their logits [n, vocab] (f32, tensor \"logits\", and\n"
                   "the ids as \"token_ids\") to a safetensors file.",
        .example = "tandem logits weights/sample/small --token-ids 1,2,3 --output logits.safetensors",
        .min_operands = 1,
        .max_operands = 1,
    };
    struct engine_options engine = engine_default_options();
    engine.max_num_seqs = 1;
    engine.token_ids_only = true;
    const char *list = NULL, *output = NULL;
    const struct option_spec specs[] = {
        FLAG(STRING, "token-ids", &list, "IDS", "comma-separated token ids"),
        FLAG(STRING, "output", &output, "FILE", "the safetensors file to write"),
        ENGINE_FLAGS(engine),
        {0},
    };
    struct options o = {0};
    struct engine *e = NULL;
    struct ids ids = {0};
    float *logits = NULL;
    char err[ERR_BYTES];
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    exit_code = 2;
    if (!list || !output) {
        fprintf(stderr, "tandem logits: --token-ids IDS and --output FILE are needed\n");
        goto done;
    }
    if (parse_ids(&ids, list, err, sizeof err)) goto failed;
    exit_code = 1;
    engine.model = o.operands.items[0];
    if (engine_open(&e, &engine, err, sizeof err)) goto failed;
    const int64_t n = (int64_t)ids.n, V = engine_info(e)->model.vocab;
    logits = malloc((size_t)(n * V) * sizeof *logits);
    if (!logits) {
        fail(err, sizeof err, STATUS_NO_MEMORY, "no memory for the logits of %zu tokens", ids.n);
        goto failed;
    }
    if (score_logits(e, ids.data, (int)n, logits, err, sizeof err)) goto failed;
    const struct tensor tensors[] = {
        {.name = "logits",
         .dtype = DTYPE_F32,
         .n_dims = 2,
         .dims = {n, V},
         .bytes = (size_t)(n * V) * 4,
         .data = logits},
        {.name = "token_ids", .dtype = DTYPE_I32, .n_dims = 1, .dims = {n}, .bytes = (size_t)n * 4, .data = ids.data},
    };
    if (safetensors_write(output, tensors, 2, err, sizeof err)) goto failed;
    exit_code = 0;
    goto done;
failed:
    fprintf(stderr, "tandem logits: %s\n", err);
done:
    free(logits);
    ids_deinit(&ids);
    engine_close(e);
    options_deinit(&o);
    return exit_code;
}
