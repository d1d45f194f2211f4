/* Logits against Hugging Face's, for the checkpoints and vectors in tests/golden (made by make_golden.py, see there).
 *
 * The yardstick is Hugging Face's own run in the dtype: for each tensor of logits, ||ours - fp32|| may be at most
 * BOUND x ||HF in the dtype - fp32||; in fp32, 1e-4 of ||fp32||. Then the same logits through every other way that the
 * engine has of making them: in chunks, in a crowd, one decode step after the other. */
#include "engine/engine.h"
#include "kernels/dtype.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/"
#define BOUND 1.2
#define FP32_BOUND 1e-4
#define N_PROMPTS 3
#define N_PREFIX 100
#define N_DECODE 24
#define MAX_LOGPROBS 1000 /* the whole vocabulary, except of the sample model */

static const char *const FOLDERS[] = {"qwen2-fp32", "qwen2-bf16", "qwen2-fp16", "qwen3-fp32",
                                      "qwen3-bf16", "qwen3-fp16", "sample"};
#define N_FOLDERS (sizeof FOLDERS / sizeof *FOLDERS)

/* ---- vectors.safetensors ----------------------------------------------------------------------------------------- */

struct vectors {
    char *image; /* owned: the file */
    struct tensor *tensors;
    size_t n;
};

static struct vectors vectors_open(const char *folder) {
    char path[256], err[ERR_BYTES];
    snprintf(path, sizeof path, GOLDEN "%s/vectors.safetensors", folder);
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "%s: no such file; run the test from the repository's root", path);
    fseek(f, 0, SEEK_END);
    size_t bytes = (size_t)ftell(f);
    rewind(f);
    struct vectors v = {.image = malloc(bytes)};
    cr_assert_eq(fread(v.image, 1, bytes, f), bytes);
    fclose(f);
    cr_assert_eq(safetensors_parse(&v.tensors, &v.n, v.image, bytes, path, err, sizeof err), 0, "%s", err);
    return v;
}

static void vectors_close(struct vectors *v) {
    safetensors_free(v->tensors, v->n);
    free(v->image);
}

static const struct tensor *vector(const struct vectors *v, const char *name, int k) {
    char full[32];
    snprintf(full, sizeof full, k < 0 ? "%s" : "%s_%d", name, k);
    for (size_t i = 0; i < v->n; i++)
        if (!strcmp(v->tensors[i].name, full)) return &v->tensors[i];
    cr_assert_fail("vectors.safetensors has no tensor %s", full);
    return NULL;
}

/* ---- the engine -------------------------------------------------------------------------------------------------- */

static struct engine *open_engine(const char *folder, int max_num_batched_tokens) {
    struct engine *e;
    char path[256], err[ERR_BYTES];
    /* Of the trained model only the vectors are with the others. */
    bool sample = !strcmp(folder, "sample");
    snprintf(path, sizeof path, "%s%s%s", sample ? "weights/" : GOLDEN, folder, sample ? "/small" : "");
    struct engine_options o = engine_default_options();
    o.model = path;
    o.max_model_len = 512;
    o.max_num_seqs = 16;
    o.max_num_batched_tokens = max_num_batched_tokens;
    o.num_blocks_override = 256;
    o.max_logprobs = MAX_LOGPROBS;
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), 0, "%s", err);
    return e;
}

/* One prompt's logits, [n, V] or, for the batch of prompts of length one, [n prompts, V]. */
static void submit_prompts(struct engine *e, const int32_t *ids, int n, bool one_by_one, float *logits) {
    int V = engine_info(e)->model.vocab;
    char err[ERR_BYTES];
    uint64_t id;
    for (int i = 0; i < (one_by_one ? n : 1); i++) {
        struct request_params r = {.prompt = ids + i,
                                   .n_prompt = one_by_one ? 1 : n,
                                   .sampling = sampling_default(),
                                   .logits = logits + (size_t)i * V};
        r.sampling.prompt_only = true;
        cr_assert_eq(engine_submit(e, &r, &id, err, sizeof err), 0, "%s", err);
    }
}

static void wait_for(struct engine *e, int n_requests) {
    struct engine_event event;
    while (n_requests) {
        engine_wait(e, -1);
        while (engine_poll(e, &event)) {
            if (event.kind != EVENT_FINISHED) continue;
            cr_assert_neq(event.reason, FINISH_ERROR, "%s", event.error);
            n_requests--;
        }
    }
}

/* ---- distances --------------------------------------------------------------------------------------------------- */

static float element(const struct tensor *t, size_t i) {
    return t->dtype == DTYPE_F16 ? f32_from_f16(((const uint16_t *)t->data)[i]) : ((const float *)t->data)[i];
}

/* ||ours - stored||: row i of `stored` is position rows[i] of `ours`. With shift 1 the position before it, to see that
 * the yardstick can tell them apart (position 0 then counts as itself). */
static double distance(const float *ours, const struct tensor *stored, const struct tensor *rows, int shift) {
    size_t V = (size_t)stored->dims[1];
    double sum = 0;
    for (int64_t i = 0; i < stored->dims[0]; i++) {
        int32_t row = ((const int32_t *)rows->data)[i];
        const float *a = ours + (size_t)(row < shift ? row : row - shift) * V;
        for (size_t j = 0; j < V; j++) {
            double off = (double)a[j] - element(stored, (size_t)i * V + j);
            sum += off * off;
        }
    }
    return sqrt(sum);
}

static double norm(const struct tensor *t) {
    double sum = 0;
    for (size_t i = 0; i < (size_t)(t->dims[0] * t->dims[1]); i++) sum += (double)element(t, i) * element(t, i);
    return sqrt(sum);
}

struct prompt {
    const struct tensor *ids, *rows, *logits;
    double own, norm;  /* ||HF in the dtype - fp32||, ||fp32|| */
    double bound;      /* on our distance */
    int n;
    float *ours; /* owned, [n, V] */
};

static void prompts_of(struct prompt p[N_PROMPTS], const struct vectors *v, enum dtype dtype, int V) {
    for (int k = 0; k < N_PROMPTS; k++) {
        p[k] = (struct prompt){.ids = vector(v, "ids", k), .rows = vector(v, "rows", k)};
        p[k].logits = vector(v, "logits", k);
        p[k].own = *(const float *)vector(v, "own", k)->data;
        p[k].norm = norm(p[k].logits);
        p[k].bound = dtype == DTYPE_F32 ? FP32_BOUND * p[k].norm : BOUND * p[k].own;
        p[k].n = (int)p[k].ids->dims[0];
        p[k].ours = malloc((size_t)p[k].n * V * sizeof(float));
        for (size_t i = 0; i < (size_t)p[k].n * V; i++) p[k].ours[i] = NAN; /* what is not written is seen */
    }
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

Test(golden, prompts) {
    printf("%-12s %7s %5s %12s %12s %8s\n", "checkpoint", "prompt", "rows", "HF - fp32", "ours - fp32", "of bound");
    for (size_t f = 0; f < N_FOLDERS; f++) {
        struct vectors v = vectors_open(FOLDERS[f]);
        struct engine *e = open_engine(FOLDERS[f], 2048);
        int V = engine_info(e)->model.vocab;
        struct prompt p[N_PROMPTS];
        prompts_of(p, &v, engine_info(e)->dtype, V);
        for (int k = 0; k < N_PROMPTS; k++) {
            submit_prompts(e, p[k].ids->data, p[k].n, k == 0, p[k].ours);
            wait_for(e, k == 0 ? p[k].n : 1);
            double ours = distance(p[k].ours, p[k].logits, p[k].rows, 0);
            printf("%-12s %3s%4d %5d %12.3e %12.3e %7.1f%%\n", FOLDERS[f], k ? "" : "1 x", p[k].n,
                   (int)p[k].rows->dims[0], p[k].own / p[k].norm, ours / p[k].norm, 100 * ours / p[k].bound);
            cr_expect(ours <= p[k].bound, "%s, prompt %d: our distance %.3e is above %.3e", FOLDERS[f], k, ours,
                      p[k].bound);
            cr_expect(distance(p[k].ours, p[k].logits, p[k].rows, 1) > 10 * p[k].bound,
                      "%s, prompt %d: rows that are off by one pass for right", FOLDERS[f], k);
        }
        for (int k = 0; k < N_PROMPTS; k++) free(p[k].ours);
        engine_close(e);
        vectors_close(&v);
    }
    fflush(stdout);
}

/* The same bits in chunks of 33 tokens, and when all prompts share the steps. */
Test(golden, chunks_and_crowds) {
    for (size_t f = 0; f < N_FOLDERS; f++) {
        struct vectors v = vectors_open(FOLDERS[f]);
        struct engine *alone = open_engine(FOLDERS[f], 2048), *chunks = open_engine(FOLDERS[f], 33);
        int V = engine_info(alone)->model.vocab;
        struct prompt p[N_PROMPTS], q[N_PROMPTS];
        prompts_of(p, &v, engine_info(alone)->dtype, V);
        prompts_of(q, &v, engine_info(alone)->dtype, V);
        int n_requests = 0;
        for (int k = 0; k < N_PROMPTS; k++) {
            submit_prompts(alone, p[k].ids->data, p[k].n, k == 0, p[k].ours);
            wait_for(alone, k == 0 ? p[k].n : 1);
            submit_prompts(chunks, q[k].ids->data, q[k].n, k == 0, q[k].ours);
            n_requests += k == 0 ? q[k].n : 1;
        }
        wait_for(chunks, n_requests);
        for (int k = 0; k < N_PROMPTS; k++) {
            size_t differ = 0, first = 0;
            for (size_t i = (size_t)p[k].n * V; i-- > 0;)
                if (memcmp(p[k].ours + i, q[k].ours + i, sizeof(float))) differ++, first = i;
            cr_expect_eq(differ, 0, "%s, prompt %d: %zu of %d logits differ, the first at row %zu, token %zu",
                         FOLDERS[f], k, differ, p[k].n * V, first / V, first % V);
            free(p[k].ours);
            free(q[k].ours);
        }
        engine_close(alone);
        engine_close(chunks);
        vectors_close(&v);
    }
}

static double log_sum_exp(const float *logits, int V) {
    double max = -INFINITY, sum = 0;
    for (int j = 0; j < V; j++)
        if (logits[j] > max) max = logits[j];
    for (int j = 0; j < V; j++) sum += exp(logits[j] - max);
    return max + log(sum);
}

/* Decoding token by token gives the rows that one pass over the whole text gives; in fp32 the greedy text is Hugging
 * Face's. */
Test(golden, decode) {
    printf("%-12s %12s\n", "checkpoint", "logprobs off by");
    for (size_t f = 0; f < N_FOLDERS; f++) {
        struct vectors v = vectors_open(FOLDERS[f]);
        struct engine *e = open_engine(FOLDERS[f], 2048);
        int V = engine_info(e)->model.vocab, n = N_PREFIX + N_DECODE, n_decoded = 0;
        int32_t text[N_PREFIX + N_DECODE];
        memcpy(text, vector(&v, "ids", 2)->data, N_PREFIX * sizeof *text);
        int n_top = V < MAX_LOGPROBS ? V : MAX_LOGPROBS;
        float *decoded = malloc((size_t)N_DECODE * V * sizeof(float)), *logits = malloc((size_t)n * V * sizeof(float));
        for (int i = 0; i < N_DECODE * V; i++) decoded[i] = NAN;

        char err[ERR_BYTES];
        uint64_t id;
        struct request_params r = {.prompt = text, .n_prompt = N_PREFIX, .sampling = sampling_default()};
        r.sampling.temperature = 0;
        r.sampling.max_tokens = N_DECODE;
        r.sampling.ignore_eos = true;
        r.sampling.logprobs = n_top;
        cr_assert_eq(engine_submit(e, &r, &id, err, sizeof err), 0, "%s", err);
        for (bool finished = false; !finished;) {
            struct engine_event event;
            engine_wait(e, -1);
            while (engine_poll(e, &event)) {
                for (int i = 0; i < event.n_tokens; i++, n_decoded++) {
                    cr_assert_lt(n_decoded, N_DECODE);
                    const struct position_logprobs *l = &event.logprobs[i];
                    cr_assert_eq(l->n_top, n_top);
                    cr_assert_eq(l->entries[0].id, event.tokens[i]);
                    text[N_PREFIX + n_decoded] = event.tokens[i];
                    float *row = decoded + (size_t)n_decoded * V;
                    for (int j = 1; j <= n_top; j++) row[l->entries[j].id] = l->entries[j].logprob;
                }
                finished = event.kind == EVENT_FINISHED;
            }
        }
        cr_assert_eq(n_decoded, N_DECODE);

        submit_prompts(e, text, n, false, logits);
        wait_for(e, 1);
        double worst = 0;
        for (int i = 0; i < N_DECODE; i++) {
            const float *row = logits + (size_t)(N_PREFIX + i - 1) * V, *got = decoded + (size_t)i * V;
            double lse = log_sum_exp(row, V);
            int n_compared = 0;
            for (int j = 0; j < V; j++) {
                if (isnan(got[j])) continue; /* not among the likeliest */
                n_compared++;
                double off = fabs(row[j] - lse - got[j]);
                if (!(off <= worst)) worst = off;
                cr_expect(row[j] <= row[text[N_PREFIX + i]], "%s, step %d: token %d is likelier than the greedy one",
                          FOLDERS[f], i, j);
            }
            cr_expect_eq(n_compared, n_top, "%s, step %d: %d logprobs", FOLDERS[f], i, n_compared);
        }
        printf("%-12s %12.3e\n", FOLDERS[f], worst);
        cr_expect(worst <= 1e-5, "%s: decode and prefill differ by %.3e", FOLDERS[f], worst);
        if (engine_info(e)->dtype == DTYPE_F32)
            cr_expect_arr_eq(text + N_PREFIX, vector(&v, "greedy", -1)->data, N_DECODE * sizeof *text,
                             "%s: the greedy text is not Hugging Face's", FOLDERS[f]);
        free(decoded);
        free(logits);
        engine_close(e);
        vectors_close(&v);
    }
    fflush(stdout);
}
