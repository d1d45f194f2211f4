/* gpu_test.h - what the programs of tests/gpu share: two execs (the CUDA backend and its CPU twin), tensors that exist
 * on both sides, and one line per case.
 *
 * A case fills its inputs with fresh random values, poisons its outputs, runs the op on both execs and compares by
 * relative error in the root mean square, and element by element against abs + rel. A program ends with
 * "N passed, N failed" and exits 1 if anything failed.
 *
 * Arguments, in any order: a seed (else the clock gives one); --quick: few and small cases that still come past every
 * instance of every kernel, for runs under a sanitizer; what else begins with "--" is a mode, such as --time. */
#pragma once

#include "kernels/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define N_OF(a) ((int)(sizeof(a) / sizeof(a)[0]))

struct gpu_test {
    struct exec *cpu, *gpu;
    enum dtype act;
    uint64_t seed;
    bool quick;
    const char *mode; /* "--time"; NULL: the checks */
    int n_passed, n_failed;
};

/* Opens both execs for one activation dtype; exits with a sentence when there is no GPU. Sizes: 0 means a default. */
static inline void gpu_test_open(struct gpu_test *t, enum dtype act, struct exec_options sizes) {
    char err[ERR_BYTES];
    sizes.dtype = t->act = act;
    if (!sizes.max_tokens) sizes.max_tokens = 4096;
    if (!sizes.max_rows) sizes.max_rows = 256;
    if (!sizes.max_width) sizes.max_width = 1 << 16;
    if (!sizes.max_kv_len) sizes.max_kv_len = 1 << 17;
    if (!sizes.max_heads) sizes.max_heads = 128;
    if (!sizes.max_head_dim) sizes.max_head_dim = 256;
    if (!sizes.vocab) sizes.vocab = 151936;
    sizes.backend = "cpu";
    if (exec_open(&t->cpu, &sizes, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
    sizes.backend = "cuda";
    if (exec_open(&t->gpu, &sizes, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
}

static inline void gpu_test_close(struct gpu_test *t) {
    exec_close(t->cpu);
    exec_close(t->gpu);
    t->cpu = t->gpu = NULL;
}

static inline struct gpu_test gpu_test_begin(int argc, char **argv) {
    struct gpu_test t = {.seed = (uint64_t)time(NULL)};
    for (int i = 1; i < argc; i++) {
        char *end = argv[i];
        const uint64_t seed = strtoull(argv[i], &end, 10);
        if (!strcmp(argv[i], "--quick"))
            t.quick = true;
        else if (!strncmp(argv[i], "--", 2))
            t.mode = argv[i];
        else if (!*end)
            t.seed = seed;
        else
            fprintf(stderr, "%s: expected a seed, --quick or a mode, found \"%s\"\n", argv[0], argv[i]), exit(2);
    }
    printf("seed %llu\n", (unsigned long long)t.seed);
    return t;
}

static inline bool gpu_test_is_mode(const struct gpu_test *t, const char *mode) {
    return t->mode && !strcmp(t->mode, mode);
}

static inline uint32_t gpu_test_u32(struct gpu_test *t) { /* splitmix64 */
    uint64_t z = t->seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}
static inline float gpu_test_value(struct gpu_test *t) {
    return (float)gpu_test_u32(t) * 0x1p-31f - 1.0f;
} /* [-1, 1) */
static inline int gpu_test_below(struct gpu_test *t, int n) {
    return (int)(gpu_test_u32(t) % (uint32_t)n);
}

/* ---- tensors on both sides ------------------------------------------------------------------------------------------
 */

struct twin { /* owned on both sides */
    enum dtype dtype;
    size_t n;
    void *cpu, *gpu;
};

static inline void twin_set(struct twin *x, size_t i, float f) {
    if (x->dtype == DTYPE_F32) ((float *)x->cpu)[i] = f;
    if (x->dtype == DTYPE_BF16) ((uint16_t *)x->cpu)[i] = bf16_from_f32(f);
    if (x->dtype == DTYPE_F16) ((uint16_t *)x->cpu)[i] = f16_from_f32(f);
    if (x->dtype == DTYPE_I32) ((int32_t *)x->cpu)[i] = (int32_t)f;
}
static inline float twin_get(enum dtype dtype, const void *p, size_t i) {
    if (dtype == DTYPE_F32) return ((const float *)p)[i];
    if (dtype == DTYPE_BF16) return f32_from_bf16(((const uint16_t *)p)[i]);
    if (dtype == DTYPE_F16) return f32_from_f16(((const uint16_t *)p)[i]);
    return (float)((const int32_t *)p)[i];
}

static inline void twin_upload(struct gpu_test *t, struct twin *x) {
    exec_upload(t->gpu, x->gpu, x->cpu, x->n * dtype_bytes(x->dtype));
}

/* n elements, every bit set: NaN in the float formats, so that what nobody writes is seen. */
static inline struct twin twin_poison(struct gpu_test *t, enum dtype dtype, size_t n) {
    struct twin x = {.dtype = dtype, .n = n};
    x.cpu = exec_alloc(t->cpu, n * dtype_bytes(dtype));
    x.gpu = exec_alloc(t->gpu, n * dtype_bytes(dtype));
    if (!x.cpu || !x.gpu) fprintf(stderr, "no memory for %zu elements\n", n), exit(1);
    memset(x.cpu, 0xff, n * dtype_bytes(dtype));
    twin_upload(t, &x);
    return x;
}

/* Uniform in [mean - spread, mean + spread). */
static inline struct twin twin_random(struct gpu_test *t, enum dtype dtype, size_t n, float mean, float spread) {
    struct twin x = twin_poison(t, dtype, n);
    for (size_t i = 0; i < n; i++) twin_set(&x, i, mean + spread * gpu_test_value(t));
    twin_upload(t, &x);
    return x;
}

/* Uniform in [-spread, spread], or random bits, by the backends' own generator: for what is large. */
static inline struct twin twin_filled(struct gpu_test *t, enum dtype dtype, size_t n, float spread) {
    struct twin x = {.dtype = dtype, .n = n};
    x.cpu = exec_alloc(t->cpu, n * dtype_bytes(dtype));
    x.gpu = exec_alloc(t->gpu, n * dtype_bytes(dtype));
    if (!x.cpu || !x.gpu) fprintf(stderr, "no memory for %zu elements\n", n), exit(1);
    const uint64_t seed = gpu_test_u32(t);
    fill_random(t->cpu, x.cpu, dtype, n, 0, spread, seed);
    fill_random(t->gpu, x.gpu, dtype, n, 0, spread, seed);
    return x;
}

static inline void twin_free(struct gpu_test *t, struct twin *x) {
    exec_free(t->cpu, x->cpu);
    exec_free(t->gpu, x->gpu);
    *x = (struct twin){0};
}

/* ---- verdicts -------------------------------------------------------------------------------------------------------
 */

static inline void gpu_test_verdict(struct gpu_test *t, bool passed, const char *name, const char *detail) {
    printf("%s  %s: %s\n", passed ? "PASS" : "FAIL", name, detail);
    fflush(stdout);
    *(passed ? &t->n_passed : &t->n_failed) += 1;
}

/* Compares x's GPU side with its CPU side: rms(gpu - cpu) / rms(cpu) <= rms_bound, and |gpu - cpu| <= abs + rel |cpu|
 * for every element. NaN on the GPU's side fails. A device failure fails the case with its sentence. */
static inline void twin_compare(struct gpu_test *t, const char *name, const struct twin *x, double rms_bound,
                                double abs_, double rel) {
    char err[ERR_BYTES], detail[ERR_BYTES + 64];
    if (exec_finish(t->gpu, err, sizeof err)) {
        gpu_test_verdict(t, false, name, err);
        return;
    }
    char *found = malloc(x->n * dtype_bytes(x->dtype));
    exec_download(t->gpu, found, x->gpu, x->n * dtype_bytes(x->dtype));
    double square = 0, distance = 0, worst = -1;
    size_t worst_at = 0, n_bad = 0;
    for (size_t i = 0; i < x->n; i++) {
        double want = twin_get(x->dtype, x->cpu, i), got = twin_get(x->dtype, found, i), d = fabs(got - want);
        if (got != got) d = INFINITY;
        square += want * want;
        distance += d * d;
        double excess = d - (abs_ + rel * fabs(want));
        n_bad += !(excess <= 0);
        if (!(excess <= worst) || worst < 0) worst = excess, worst_at = i;
    }
    double rms = square > 0 ? sqrt(distance / square) : sqrt(distance);
    snprintf(detail, sizeof detail,
             "rms error %.2e (bound %.0e), %zu of %zu elements off; worst at %zu: want %g, found %g", rms, rms_bound,
             n_bad, x->n, worst_at, (double)twin_get(x->dtype, x->cpu, worst_at),
             (double)twin_get(x->dtype, found, worst_at));
    gpu_test_verdict(t, rms <= rms_bound && n_bad == 0, name, detail);
    free(found);
}

static inline int gpu_test_end(const struct gpu_test *t) {
    printf("%d passed, %d failed\n", t->n_passed, t->n_failed);
    return t->n_failed || !t->n_passed;
}
