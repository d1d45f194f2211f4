/* Vectors against Hugging Face's, for the checkpoints and vectors in tests/golden/bert-* (made by make_encoder.py, see
 * there), on every instruction set; and that a text's vector depends on the text alone, to the bit.
 *
 * The yardstick is Hugging Face's own run in the dtype: ||ours - fp32|| over all texts may be at most BOUND x ||HF in
 * the dtype - fp32||; in fp32, 1e-5 in each element. */
#include "engine/encoder.h"
#include "engine/tokenizer.h"
#include "kernels/ops.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/"
#define BOUND 1.2
#define FP32_BOUND 1e-5
#define COSINE 0.9999
enum { MAX_TEXTS = 11, MAX_TOKENS = 600 };

static const char *const FOLDERS[] = {"bert-fp32", "bert-bf16", "bert-fp16"};
enum { N_FOLDERS = 3 };

static char err[ERR_BYTES];

/* ---- vectors.safetensors ----------------------------------------------------------------------------------------- */

struct golden {
    char *image; /* owned: the file */
    struct tensor *tensors;
    size_t n;
    struct encoder_text texts[MAX_TEXTS]; /* views */
    int n_texts;
    const float *vectors; /* view [n_texts, C] */
    double own;
};

static const struct tensor *find(const struct golden *g, const char *name) {
    for (size_t i = 0; i < g->n; i++)
        if (!strcmp(g->tensors[i].name, name)) return &g->tensors[i];
    return NULL;
}

static struct golden golden_open(const char *folder) {
    char path[256], name[32];
    snprintf(path, sizeof path, GOLDEN "%s/vectors.safetensors", folder);
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "%s: no such file; run the test from the repository's root", path);
    fseek(f, 0, SEEK_END);
    size_t bytes = (size_t)ftell(f);
    rewind(f);
    struct golden g = {.image = malloc(bytes)};
    cr_assert_eq(fread(g.image, 1, bytes, f), bytes);
    fclose(f);
    cr_assert_eq(safetensors_parse(&g.tensors, &g.n, g.image, bytes, path, err, sizeof err), 0, "%s", err);
    for (const struct tensor *t; snprintf(name, sizeof name, "ids_%d", g.n_texts), (t = find(&g, name)); g.n_texts++)
        g.texts[g.n_texts] = (struct encoder_text){.ids = t->data, .n = (int)t->dims[0]};
    cr_assert_eq(g.n_texts, MAX_TEXTS);
    g.vectors = find(&g, "vectors")->data;
    g.own = *(const float *)find(&g, "own")->data;
    return g;
}

static void golden_close(struct golden *g) {
    safetensors_free(g->tensors, g->n);
    free(g->image);
}

/* ---- an encoder -------------------------------------------------------------------------------------------------- */

struct subject {
    struct exec *exec;
    struct encoder *encoder;
    struct encoder_config config;
    int C;
};

static struct subject subject_open(const char *folder, const char *backend, int n_threads) {
    struct subject s;
    struct checkpoint *c;
    char path[256];
    snprintf(path, sizeof path, GOLDEN "%s", folder);
    cr_assert_eq(encoder_config_load(&s.config, path, err, sizeof err), 0, "%s", err);
    cr_assert_eq(checkpoint_open(&c, path, err, sizeof err), 0, "%s", err);
    cr_assert_eq(encoder_check(c, &s.config, err, sizeof err), 0, "%s", err);
    const struct encoder_options options = {.max_tokens = MAX_TOKENS, .max_texts = MAX_TEXTS};
    struct exec_options exec = {.backend = backend, .dtype = s.config.dtype, .n_threads = n_threads};
    encoder_widen(&exec, &s.config, &options);
    cr_assert_eq(exec_open(&s.exec, &exec, err, sizeof err), 0, "%s", err);
    cr_assert_eq(encoder_open(&s.encoder, s.exec, c, &s.config, &options, err, sizeof err), 0, "%s", err);
    checkpoint_close(c); /* the weights are in the encoder's own memory */
    s.C = s.config.hidden;
    return s;
}

static void subject_close(struct subject *s) {
    encoder_close(s->encoder);
    exec_close(s->exec);
}

/* Texts in one step, through `slot`: their vectors, which stay until the slot's next launch. */
static const float *encode(struct subject *s, int slot, const struct encoder_text *texts, int n) {
    const float *vectors;
    double seconds;
    encoder_launch(s->encoder, slot, texts, n);
    cr_assert_eq(encoder_land(s->encoder, slot, &vectors, &seconds, err, sizeof err), 0, "%s", err);
    cr_assert_geq(seconds, 0);
    return vectors;
}

static void for_each_table(void (*body)(const char *folder, const char *backend)) {
    const char *const *tables;
    int n = exec__cpu_tables(&tables);
    cr_assert(n > 0);
    for (int i = 0; i < n; i++)
        for (int f = 0; f < N_FOLDERS; f++) body(FOLDERS[f], tables[i]);
}

/* ---- the tests --------------------------------------------------------------------------------------------------- */

static void check_golden(const char *folder, const char *backend) {
    struct golden g = golden_open(folder);
    struct subject s = subject_open(folder, backend, 2);
    double distance = 0, worst = 0;
    for (int b = 0; b < MAX_TEXTS; b++) {
        const float *v = encode(&s, b % ENCODER_SLOTS, &g.texts[b], 1), *w = g.vectors + b * s.C;
        double dot = 0, vv = 0, ww = 0;
        for (int i = 0; i < s.C; i++) {
            dot += (double)v[i] * w[i], vv += (double)v[i] * v[i], ww += (double)w[i] * w[i];
            distance += ((double)v[i] - w[i]) * ((double)v[i] - w[i]);
            worst = fmax(worst, fabs((double)v[i] - w[i]));
        }
        cr_assert_geq(dot / sqrt(vv * ww), COSINE, "%s on %s: text %d: cosine %g", folder, backend, b,
                      dot / sqrt(vv * ww));
    }
    if (s.config.dtype == DTYPE_F32)
        cr_assert_leq(worst, FP32_BOUND, "%s on %s: an element differs by %g", folder, backend, worst);
    else
        cr_assert_leq(sqrt(distance), BOUND * g.own, "%s on %s: distance %g, Hugging Face's own is %g", folder, backend,
                      sqrt(distance), g.own);
    subject_close(&s);
    golden_close(&g);
}
Test(encoder, as_hugging_face) { for_each_table(check_golden); }

static void check_bits(const char *folder, const char *backend) {
    struct golden g = golden_open(folder);
    struct subject one = subject_open(folder, backend, 1), three = subject_open(folder, backend, 3);
    struct encoder_text all[MAX_TEXTS];
    for (int b = 0; b < MAX_TEXTS; b++) all[b] = g.texts[MAX_TEXTS - 1 - b];
    int B = 0;
    for (int T = 0; B < MAX_TEXTS && (T += all[B].n) <= MAX_TOKENS;) B++;
    cr_assert(B > 3);
    const float *crowd = encode(&three, 0, all, B);
    for (int b = 0; b < B; b++) {
        const float *alone = encode(&one, 1, &all[b], 1);
        cr_assert_arr_eq(alone, crowd + b * one.C, (size_t)one.C * sizeof *alone);
    }
    subject_close(&one);
    subject_close(&three);
    golden_close(&g);
}
Test(encoder, a_text_depends_on_itself_alone) { for_each_table(check_bits); }

/* Two steps on their way at once do not meet. */
Test(encoder, two_steps) {
    struct golden g = golden_open("bert-fp32");
    struct subject s = subject_open("bert-fp32", "cpu", 1);
    const float *vectors[2];
    encoder_launch(s.encoder, 0, &g.texts[3], 2);
    encoder_launch(s.encoder, 1, &g.texts[0], 1);
    for (int slot = 0; slot < 2; slot++)
        cr_assert_eq(encoder_land(s.encoder, slot, &vectors[slot], NULL, err, sizeof err), 0, "%s", err);
    for (int i = 0; i < 2 * s.C; i++) cr_assert_float_eq(vectors[0][i], g.vectors[3 * s.C + i], FP32_BOUND);
    for (int i = 0; i < s.C; i++) cr_assert_float_eq(vectors[1][i], g.vectors[i], FP32_BOUND);
    subject_close(&s);
    golden_close(&g);
}

/* Without a checkpoint: finite, normalised, not all the same. */
Test(encoder, random_weights) {
    struct encoder_config config;
    cr_assert_eq(encoder_config_load(&config, GOLDEN "bert-bf16", err, sizeof err), 0, "%s", err);
    const struct encoder_options options = {.max_tokens = 200, .max_texts = 2, .first_mark = 4};
    struct exec_options exec = {.backend = "cpu", .dtype = DTYPE_F32, .n_threads = 1};
    struct subject s = {.C = config.hidden};
    encoder_widen(&exec, &config, &options);
    cr_assert_eq(exec_open(&s.exec, &exec, err, sizeof err), 0, "%s", err);
    cr_assert_eq(encoder_open(&s.encoder, s.exec, NULL, &config, &options, err, sizeof err), 0, "%s", err);
    const int32_t ids[] = {2, 40, 41, 3, 2, 90, 3};
    const struct encoder_text texts[] = {{ids, 4}, {ids + 4, 3}};
    const float *v = encode(&s, 0, texts, 2);
    double dot[3] = {0};
    for (int i = 0; i < s.C; i++) {
        dot[0] += (double)v[i] * v[i];
        dot[1] += (double)v[s.C + i] * v[s.C + i];
        dot[2] += (double)v[i] * v[s.C + i];
    }
    cr_assert_float_eq(dot[0], 1, 1e-5);
    cr_assert_float_eq(dot[1], 1, 1e-5);
    cr_assert_lt(dot[2], 0.999);
    cr_assert_gt(encoder_bytes(&config, &options, DTYPE_F32), 4 * (size_t)encoder_config_n_params(&config));
    subject_close(&s);
}

/* The folders can be served: their vocabulary opens, and [CLS] and [SEP] stand around a text. */
Test(encoder, tokenizer) {
    struct tokenizer *t;
    struct ids ids = {0};
    cr_assert_eq(tokenizer_open(&t, GOLDEN "bert-fp32", err, sizeof err), 0, "%s", err);
    tokenizer_prefix(t, &ids);
    cr_assert_eq(tokenizer_encode(t, "The kernels", 11, false, &ids), 0);
    tokenizer_suffix(t, &ids);
    const char *const expected[] = {"[CLS]", "the", "kernel", "##s", "[SEP]"};
    cr_assert_eq(ids.n, 5);
    for (size_t i = 0; i < ids.n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, ids.data[i], &n);
        cr_assert(n == strlen(expected[i]) && !memcmp(bytes, expected[i], n), "token %zu", i);
    }
    ids_deinit(&ids);
    tokenizer_close(t);
}
