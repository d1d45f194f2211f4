/* test_quantize.c - a model in 4 bits: that the search never does worse than rounding, that what it folds into norms,
 * biases and other rows leaves the model's function as it was, and the sentences of what cannot be quantised. */
#include "engine/engine.h"
#include "engine/quantize.h"
#include "tests/unit/temporary_folder.h"

#include <criterion/criterion.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SAMPLE "weights/sample/small"
enum { N_SEQUENCES = 3, LENGTH = 96, MAX_RESULTS = 64 };

static char err[ERR_BYTES];

static void setup(void) {
    folder_make("test_quantize");
}

TestSuite(quantize, .init = setup, .fini = folder_remove, .timeout = 300);

static const char *path_of(const char *name) {
    static char paths[4][PATH_MAX];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, PATH_MAX, "%s/%s", folder, name);
    return path;
}

static uint64_t state = 88172645463325252u;
static float random_value(void) { /* about normal: variance 1/3 */
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        sum += (float)(state >> 40) * 0x1p-23f - 1;
    }
    return sum / 2;
}

/* Quantises `model` into a folder of this name; returns the status. The text is random ids of the vocabulary. */
static int run(struct quantize_result results[MAX_RESULTS], const char *model, const char *name, bool awq) {
    static const struct model_quantization quantization = {.method = QUANTIZATION_AWQ, .group = AWQ_GROUP};
    struct model_config config;
    struct checkpoint *c;
    int32_t tokens[N_SEQUENCES * LENGTH];
    char file[PATH_MAX];
    cr_assert_eq(model_config_load(&config, model, err, sizeof err), 0, "%s", err);
    cr_assert_eq(checkpoint_open(&c, model, err, sizeof err), 0, "%s", err);
    cr_assert_eq(checkpoint_check(c, &config, err, sizeof err), 0, "%s", err);
    state = 7;
    for (int i = 0; i < N_SEQUENCES * LENGTH; i++) {
        random_value();
        tokens[i] = (int32_t)(state >> 20) % config.vocab;
        if (tokens[i] < 0) tokens[i] += config.vocab;
    }
    struct quantize_options o = {.backend = "cpu", .scale = awq, .clip = awq, .tokens = tokens,
                                 .n_sequences = N_SEQUENCES, .length = LENGTH};
    int status = model_folder_create(path_of(name), err, sizeof err);
    snprintf(file, sizeof file, "%s/model.safetensors", path_of(name));
    if (!status) status = quantize_model(results, file, c, &config, &o, err, sizeof err);
    if (!status) status = model_folder_finish(path_of(name), model, &quantization, err, sizeof err);
    checkpoint_close(c);
    return status;
}

/* The logits of some ids, [n, V]: the caller frees. */
static float *logits_of(const char *model, int n, int *vocab) {
    struct engine_options o = engine_default_options();
    struct engine *e;
    struct engine_event event;
    int32_t ids[64];
    o.model = model, o.backend = "cpu", o.dtype = "float16", o.token_ids_only = true, o.max_num_seqs = 1;
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), 0, "%s", err);
    *vocab = engine_info(e)->model.vocab;
    float *logits = malloc((size_t)n * (size_t)*vocab * sizeof *logits);
    for (int i = 0; i < n; i++) ids[i] = (i * 37 + 5) % *vocab;
    struct request_params p = {.prompt = ids, .n_prompt = n, .sampling = sampling_default(), .logits = logits};
    p.sampling.prompt_only = true;
    cr_assert_eq(engine_submit(e, &p, NULL, err, sizeof err), 0, "%s", err);
    do {
        engine_wait(e, -1);
        while (engine_poll(e, &event))
            if (event.kind == EVENT_FINISHED) break;
    } while (event.kind != EVENT_FINISHED);
    engine_close(e);
    return logits;
}

/* |a - b|^2 / |a|^2 of the logits, each row without its mean. */
static double distance(const char *a, const char *b) {
    enum { N = 48 };
    int V;
    float *x = logits_of(a, N, &V), *y = logits_of(b, N, &V);
    double norm = 0, sum = 0;
    for (int t = 0; t < N; t++) {
        double mx = 0, my = 0;
        for (int v = 0; v < V; v++) mx += x[t * V + v] / (double)V, my += y[t * V + v] / (double)V;
        for (int v = 0; v < V; v++) {
            const double p = x[t * V + v] - mx, q = y[t * V + v] - my;
            norm += p * p, sum += (p - q) * (p - q);
        }
    }
    free(x);
    free(y);
    return sum / norm;
}

Test(quantize, never_worse_than_rounding) {
    struct quantize_result awq[MAX_RESULTS], nearest[MAX_RESULTS];
    struct model_config config, quantised;
    struct checkpoint *c;
    int n_scaled = 0, n_clipped = 0;
    cr_assert_eq(model_config_load(&config, SAMPLE, err, sizeof err), 0, "%s", err);
    cr_assert_eq(run(awq, SAMPLE, "awq", true), 0, "%s", err);
    cr_assert_eq(run(nearest, SAMPLE, "nearest", false), 0, "%s", err);
    for (int i = 0; i < config.n_layers * QUANTIZE_GROUPS; i++) {
        cr_assert(awq[i].error <= awq[i].error_nearest);
        cr_assert(awq[i].error > 0 && awq[i].error_nearest < 0.1, "%g", awq[i].error_nearest);
        cr_assert_eq(nearest[i].error, nearest[i].error_nearest);
        cr_assert(!nearest[i].scaled && !nearest[i].clipped);
        n_scaled += awq[i].scaled, n_clipped += awq[i].clipped;
        if (i % QUANTIZE_GROUPS == 1) cr_assert(!awq[i].scaled, "o_proj has grouped queries before it");
    }
    cr_assert(n_scaled > 0 && n_clipped > 0);
    /* The first block sees the same inputs in both runs. */
    cr_assert_eq(awq[0].error_nearest, nearest[0].error_nearest);
    /* What was written is the checkpoint that its config.json promises. */
    cr_assert_eq(model_config_load(&quantised, path_of("awq"), err, sizeof err), 0, "%s", err);
    cr_assert_eq(quantised.quantization.method, QUANTIZATION_AWQ);
    cr_assert_eq(quantised.dtype, DTYPE_F16);
    cr_assert_eq(checkpoint_open(&c, path_of("awq"), err, sizeof err), 0, "%s", err);
    cr_assert_eq(checkpoint_check(c, &quantised, err, sizeof err), 0, "%s", err);
    cr_assert_eq((int)checkpoint_n_tensors(c), model_n_tensors(&quantised));
    checkpoint_close(c);
    cr_assert_eq(access(path_of("awq/tokenizer.json"), R_OK), 0);
    cr_assert_eq(access(path_of("awq/generation_config.json"), R_OK), 0);
}

/* ---- folding ----------------------------------------------------------------------------------------------------- */

/* A model of two layers with a KV head for every query head, biases on q, k and v, and inputs of very different size, so
 * that every group is scaled, v's rows and bias included. */
static void write_model(const char *name) {
    static const char json[] =
        "{\"architectures\": [\"Qwen2ForCausalLM\"], \"hidden_size\": 256, \"intermediate_size\": 384, "
        "\"num_attention_heads\": 4, \"num_key_value_heads\": 4, \"num_hidden_layers\": 2, \"vocab_size\": 320, "
        "\"rms_norm_eps\": 1e-06, \"rope_theta\": 10000, \"tie_word_embeddings\": false, \"torch_dtype\": \"float32\", "
        "\"max_position_embeddings\": 256, \"hidden_act\": \"silu\"}";
    struct model_config config;
    char path[PATH_MAX];
    cr_assert_eq(mkdir(path_of(name), 0755), 0);
    snprintf(path, sizeof path, "%s/config.json", path_of(name));
    FILE *f = fopen(path, "w");
    cr_assert(f && fputs(json, f) >= 0 && !fclose(f));
    cr_assert_eq(model_config_load(&config, path_of(name), err, sizeof err), 0, "%s", err);
    const int n = model_n_tensors(&config);
    struct tensor *tensors = calloc((size_t)n, sizeof *tensors);
    char(*names)[MODEL_TENSOR_NAME] = calloc((size_t)n, sizeof *names);
    for (int i = 0; i < n; i++) {
        struct tensor *t = &tensors[i];
        size_t elements = 1;
        t->n_dims = model_tensor(&config, i, names[i], t->dims);
        t->name = names[i];
        for (int d = 0; d < t->n_dims; d++) elements *= (size_t)t->dims[d];
        t->bytes = 4 * elements;
        const size_t cols = t->n_dims == 2 ? (size_t)t->dims[1] : 1;
        const bool norm = strstr(names[i], "norm") != NULL, bias = strstr(names[i], ".bias") != NULL;
        const bool feeds = strstr(names[i], "v_proj") || strstr(names[i], "up_proj");
        float *data = malloc(t->bytes);
        for (size_t j = 0; j < elements; j++) {
            const size_t row = j / cols;
            const float outlier = row % 16 == 3 ? 12 : row % 7 == 1 ? 0.2f : 1;
            data[j] = norm   ? (1 + 0.3f * random_value()) * outlier
                      : bias ? random_value() * (feeds ? outlier : 1)
                             : random_value() * 1.5f / sqrtf((float)cols) * (feeds ? outlier : 1);
        }
        t->data = data;
    }
    snprintf(path, sizeof path, "%s/model.safetensors", path_of(name));
    cr_assert_eq(safetensors_write(path, tensors, (size_t)n, err, sizeof err), 0, "%s", err);
    for (int i = 0; i < n; i++) free((void *)tensors[i].data);
    free(tensors);
    free(names);
}

Test(quantize, folding_keeps_the_function) {
    struct quantize_result awq[MAX_RESULTS], nearest[MAX_RESULTS];
    int scaled[QUANTIZE_GROUPS] = {0};
    write_model("model");
    cr_assert_eq(run(awq, path_of("model"), "awq", true), 0, "%s", err);
    cr_assert_eq(run(nearest, path_of("model"), "nearest", false), 0, "%s", err);
    for (int i = 0; i < 2 * QUANTIZE_GROUPS; i++) scaled[i % QUANTIZE_GROUPS] += awq[i].scaled;
    for (int i = 0; i < QUANTIZE_GROUPS; i++) cr_assert(scaled[i], "%s is scaled nowhere", awq[i].linears);
    /* A factor that is folded into the wrong place, or not at all, changes the logits beyond recognition. */
    const double d_awq = distance(path_of("model"), path_of("awq"));
    const double d_nearest = distance(path_of("model"), path_of("nearest"));
    cr_assert(d_awq < d_nearest && d_nearest < 0.5, "AWQ %g, nearest %g", d_awq, d_nearest);
}

/* ---- refused ----------------------------------------------------------------------------------------------------- */

Test(quantize, refused) {
    struct quantize_result results[MAX_RESULTS];
    struct model_config config;
    cr_assert_eq(run(results, SAMPLE, "awq", false), 0, "%s", err);
    cr_assert_eq(model_config_load(&config, path_of("awq"), err, sizeof err), 0, "%s", err);
    cr_assert_eq(quantize_check(&config, "awq", err, sizeof err), STATUS_INVALID);
    cr_assert_str_eq(err, "awq: expected a model that is not quantised, found an AWQ checkpoint; give the model it was "
                          "made from");
    cr_assert_eq(model_config_load(&config, "tests/golden/qwen2-fp16", err, sizeof err), 0, "%s", err);
    cr_assert_eq(quantize_check(&config, "tiny", err, sizeof err), STATUS_UNSUPPORTED);
    cr_assert_str_eq(err, "tiny: hidden_size: expected a multiple of 128, which AWQ's packing needs, found 96; this model "
                          "cannot be quantised so");
    /* A folder that is not empty. */
    char expected[ERR_BYTES];
    cr_assert_eq(mkdir(path_of("full"), 0755), 0);
    cr_assert_eq(mkdir(path_of("full/x"), 0755), 0);
    cr_assert_eq(model_folder_create(path_of("full"), err, sizeof err), STATUS_INVALID);
    snprintf(expected, sizeof expected,
             "%s: expected a new or an empty folder, found \"x\" in it; name another, or remove it", path_of("full"));
    cr_assert_str_eq(err, expected);
    /* Weights that float16 cannot hold: no file is left, and nothing that looks like a model. */
    struct checkpoint *c;
    struct model_config big;
    const struct quantize_options o = {.backend = "cpu"};
    write_model("model");
    cr_assert_eq(model_config_load(&big, path_of("model"), err, sizeof err), 0, "%s", err);
    cr_assert_eq(checkpoint_open(&c, path_of("model"), err, sizeof err), 0, "%s", err);
    float *data = malloc(checkpoint_find(c, "model.layers.1.mlp.up_proj.weight")->bytes);
    struct tensor t = *checkpoint_find(c, "model.layers.1.mlp.up_proj.weight");
    memcpy(data, t.data, t.bytes);
    data[5] = 1e6f;
    ((struct tensor *)checkpoint_find(c, "model.layers.1.mlp.up_proj.weight"))->data = data;
    cr_assert_eq(mkdir(path_of("out"), 0755), 0);
    cr_assert_eq(quantize_model(results, path_of("out/model.safetensors"), c, &big, &o, err, sizeof err),
                 STATUS_UNSUPPORTED);
    cr_assert_str_eq(err, "tensor model.layers.1.mlp.up_proj.weight: expected values that float16 can hold (an AWQ "
                          "checkpoint is float16), found 1e+06");
    cr_assert_eq(rmdir(path_of("out")), 0, "something is left");
    checkpoint_close(c);
    free(data);
}
