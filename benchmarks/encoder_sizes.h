/* encoder_sizes.h - private to benchmarks/: the sizes at which the ops of encoders are benchmarked, those of
 * bge-base-en-v1.5, whatever decoders are benchmarked beside it. */
#pragma once

#include "benchmarks/kernel_bench.h"

#include <stdlib.h>

enum { BGE_C = 768, BGE_H = 12, BGE_D = 64, BGE_F = 3072, BGE_VOCAB = 30522, BGE_POSITIONS = 512 };

static const struct bench_model bge_base = {.name = "bge-base-en-v1.5", .act = DTYPE_BF16};

/* Texts of 512 tokens in a step. */
static const int bge_texts[] = {1, 2, 16, 32};
enum { N_BGE_TEXTS = sizeof bge_texts / sizeof *bge_texts };

/* T tokens as texts of 512, on the device. */
static inline struct ragged bge_ragged(struct bench *b, int T) {
    const int B = T / BGE_POSITIONS;
    int32_t *seq_of = malloc((size_t)T * sizeof *seq_of);
    CHECK(seq_of);
    for (int t = 0; t < T; t++) seq_of[t] = t / BGE_POSITIONS;
    const struct ragged texts = {
        .T = T,
        .B = B,
        .max_len = BGE_POSITIONS,
        .tokens = bench_indices(b, (size_t)T, 0, 7919, BGE_VOCAB),
        .positions = bench_indices(b, (size_t)T, 0, 1, BGE_POSITIONS),
        .seq_of = bench_upload(b, seq_of, (size_t)T * sizeof *seq_of),
        .start = bench_indices(b, (size_t)B + 1, 0, BGE_POSITIONS, T + 1),
    };
    free(seq_of);
    return texts;
}
