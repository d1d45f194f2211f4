/* kernels_test.h - what the tests of kernels.h share: guarded buffers, seeded values, execs of every table, batches.
 *
 * Test programs only. References are written in double precision, one loop per letter of the formula. */
#pragma once

#include "kernels/ops.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const enum dtype act_dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

/* ---- seeded values ---------------------------------------------------------------------------------------------- */

static uint64_t test__state = 1;

static inline void seed_values(uint64_t seed) { test__state = seed * 0x9e3779b97f4a7c15u + 1; }

static inline uint32_t random_u32(void) {
    test__state ^= test__state << 13;
    test__state ^= test__state >> 7;
    test__state ^= test__state << 17;
    return (uint32_t)(test__state >> 24);
}

/* In [-1, 1). */
static inline float random_value(void) { return (float)random_u32() * 0x1p-31f - 1.0f; }

static inline int random_below(int n) { return (int)(random_u32() % (uint32_t)n); }

/* ---- guarded buffers -------------------------------------------------------------------------------------------- */

enum { GUARD_BYTES = 64 };

struct buffer {
    enum dtype dtype;
    size_t n;
    char *raw;  /* owned: guard | data | guard */
    void *data; /* view, 64-byte aligned */
};

/* n elements, all bits set (NaN in every float format), so that an output nobody wrote is seen. */
static inline struct buffer buffer_new(enum dtype dtype, size_t n) {
    struct buffer b = {.dtype = dtype, .n = n};
    size_t bytes = n * dtype_bytes(dtype), all = (bytes + 2 * GUARD_BYTES + 63) / 64 * 64;
    b.raw = aligned_alloc(64, all);
    cr_assert(b.raw);
    memset(b.raw, 0xa5, all);
    b.data = b.raw + GUARD_BYTES;
    memset(b.data, 0xff, bytes);
    return b;
}

static inline void buffer_free(struct buffer *b) {
    const unsigned char *before = (unsigned char *)b->raw, *after = before + GUARD_BYTES + b->n * dtype_bytes(b->dtype);
    for (int i = 0; i < GUARD_BYTES; i++) cr_assert(before[i] == 0xa5 && after[i] == 0xa5, "wrote outside its output");
    free(b->raw);
    b->raw = NULL;
}

static inline double get(const struct buffer *b, size_t i) {
    if (b->dtype == DTYPE_F32) return ((float *)b->data)[i];
    uint16_t h = ((uint16_t *)b->data)[i];
    return b->dtype == DTYPE_BF16 ? f32_from_bf16(h) : f32_from_f16(h);
}

static inline void put(struct buffer *b, size_t i, float v) {
    if (b->dtype == DTYPE_F32) ((float *)b->data)[i] = v;
    else ((uint16_t *)b->data)[i] = b->dtype == DTYPE_BF16 ? bf16_from_f32(v) : f16_from_f32(v);
}

static inline struct buffer buffer_random(enum dtype dtype, size_t n, float scale) {
    struct buffer b = buffer_new(dtype, n);
    for (size_t i = 0; i < n; i++) put(&b, i, random_value() * scale);
    return b;
}

/* v rounded to the format, as Hugging Face does in the middle of an op. */
static inline double rounded(double v, enum dtype t) {
    if (t == DTYPE_BF16) return f32_from_bf16(bf16_from_f32((float)v));
    if (t == DTYPE_F16) return f32_from_f16(f16_from_f32((float)v));
    return (float)v;
}

/* Largest relative error of one rounding to the format. */
static inline double epsilon(enum dtype t) {
    return t == DTYPE_BF16 ? 0x1p-8 : t == DTYPE_F16 ? 0x1p-11 : t == DTYPE_F8_E4M3 ? 0x1p-4 : 0x1p-20;
}

static inline void expect_close(double found, double expected, double abs, double rel, const char *what, size_t i) {
    double error = fabs(found - expected);
    cr_assert(error <= abs + rel * fabs(expected), "%s [%zu]: expected %.9g, found %.9g", what, i, expected, found);
}

/* ---- execs ------------------------------------------------------------------------------------------------------ */

static inline struct exec *exec_new(const char *table, enum dtype act, int n_threads) {
    struct exec_options o = {.backend = table,
                             .dtype = act,
                             .n_threads = n_threads,
                             .max_tokens = 2400,
                             .max_rows = 1024,
                             .max_width = 2048,
                             .max_kv_len = 2048,
                             .max_heads = 64,
                             .max_head_dim = 256,
                             .vocab = 70000};
    struct exec *e;
    char err[ERR_BYTES];
    cr_assert_eq(exec_open(&e, &o, err, sizeof err), 0, "%s", err);
    return e;
}

/* Runs body(e) for every table of this machine and every activation format, on two threads. */
static inline void for_each_exec(void (*body)(struct exec *e)) {
    const char *const *tables;
    int n = exec__cpu_tables(&tables);
    cr_assert(n > 0);
    for (int i = 0; i < n; i++)
        for (size_t d = 0; d < 3; d++) {
            struct exec *e = exec_new(tables[i], act_dtypes[d], 2);
            seed_values(7);
            body(e);
            char err[ERR_BYTES];
            cr_assert_eq(exec_finish(e, err, sizeof err), 0, "%s", err);
            exec_close(e);
        }
}

/* ---- batches over a paged KV cache ------------------------------------------------------------------------------ */

struct test_batch {
    struct batch batch; /* views of what follows */
    int32_t *tokens, *positions, *seq_of, *query_start, *kv_len, *block_table;
};

/* Sequence b has kv_len[b] tokens of context, of which the last n_query[b] are in this step; its blocks are the B rows
 * of `table` [B, max_blocks] (kept by the caller). */
static inline struct test_batch test_batch_new(int B, const int *kv_len, const int *n_query, int32_t *table,
                                               int max_blocks) {
    int T = 0;
    for (int b = 0; b < B; b++) T += n_query[b];
    struct test_batch s = {0};
    s.tokens = calloc((size_t)T, sizeof(int32_t));
    s.positions = calloc((size_t)T, sizeof(int32_t));
    s.seq_of = calloc((size_t)T, sizeof(int32_t));
    s.query_start = calloc((size_t)B + 1, sizeof(int32_t));
    s.kv_len = calloc((size_t)B, sizeof(int32_t));
    for (int b = 0, t = 0; b < B; b++) {
        s.kv_len[b] = kv_len[b];
        s.query_start[b] = t;
        for (int i = 0; i < n_query[b]; i++, t++) {
            s.positions[t] = kv_len[b] - n_query[b] + i;
            s.seq_of[t] = b;
        }
        s.query_start[b + 1] = t;
    }
    s.batch = (struct batch){.T = T,
                             .B = B,
                             .tokens = s.tokens,
                             .positions = s.positions,
                             .seq_of = s.seq_of,
                             .query_start = s.query_start,
                             .kv_len = s.kv_len,
                             .block_table = table,
                             .max_blocks = max_blocks};
    return s;
}

static inline void test_batch_free(struct test_batch *s) {
    free(s->tokens);
    free(s->positions);
    free(s->seq_of);
    free(s->query_start);
    free(s->kv_len);
}

struct test_kv {
    struct kv_cache cache;
    struct buffer pool;
    int32_t *table; /* [B, max_blocks], blocks in random places */
    int max_blocks;
};

static inline struct test_kv test_kv_new(enum dtype dtype, int L, int K, int D, int P, int B, int max_len) {
    struct test_kv kv = {.max_blocks = (max_len + P - 1) / P + 1};
    kv_layout_init(&kv.cache.layout, dtype, L, K, D, P, 256);
    int n = B * kv.max_blocks, step = kv.cache.layout.block_granules;
    kv.pool = buffer_new(DTYPE_F32, (size_t)n * (size_t)step * 256 / 4);
    kv.cache.pool = kv.pool.data;
    kv.table = malloc((size_t)n * sizeof(int32_t));
    for (int i = 0; i < n; i++) kv.table[i] = i * step;
    for (int i = n - 1; i > 0; i--) {
        int j = random_below(i + 1);
        int32_t swap = kv.table[i];
        kv.table[i] = kv.table[j];
        kv.table[j] = swap;
    }
    return kv;
}

static inline void test_kv_free(struct test_kv *kv) {
    buffer_free(&kv->pool);
    free(kv->table);
}
