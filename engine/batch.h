/* batch.h - the arrays of struct batch (kernels.h), laid out one after the other in one piece of host memory, so that one
 * transfer takes them to the device. Where they lie depends on T, B, R and the table's width alone, so a recorded graph
 * finds them again. Private to engine/. */
#pragma once

#include "kernels/kernels.h"

#include <string.h>

struct batch_arrays {
    int32_t *tokens, *positions, *seq_of; /* [T] */
    int32_t *query_start;                 /* [B + 1] */
    int32_t *kv_len;                      /* [B] */
    int32_t *logits_rows;                 /* [R] */
    int32_t *table;                       /* [B, stride] */
    int32_t *end;
    int T, B, R, stride;
};

static inline struct batch_arrays batch_arrays_at(int32_t *base, int T, int B, int R, int stride) {
    struct batch_arrays a = {.tokens = base, .T = T, .B = B, .R = R, .stride = stride};
    a.positions = a.tokens + T;
    a.seq_of = a.positions + T;
    a.query_start = a.seq_of + T;
    a.kv_len = a.query_start + B + 1;
    a.logits_rows = a.kv_len + B;
    a.table = a.logits_rows + R;
    a.end = a.table + (size_t)B * (size_t)stride;
    return a;
}

/* Ints that the largest step needs. */
static inline size_t batch_arrays_ints(int max_tokens, int max_seqs, int max_rows, int widest) {
    return 3 * (size_t)max_tokens + 2 * (size_t)max_seqs + 1 + (size_t)max_rows + (size_t)max_seqs * (size_t)widest;
}

/* Widths of block tables are powers of two, so that few graphs are enough. */
static inline int batch_width(int n_blocks) {
    int stride = 1;
    while (stride < n_blocks) stride *= 2;
    return stride;
}

static inline void batch_set_blocks(struct batch_arrays *a, int b, const int32_t *blocks, int n_blocks) {
    int32_t *row = a->table + (size_t)b * (size_t)a->stride;
    memcpy(row, blocks, (size_t)n_blocks * sizeof *row);
    memset(row + n_blocks, 0, (size_t)(a->stride - n_blocks) * sizeof *row);
}

/* Takes the arrays to the device; what a batch says beside them is the caller's. */
static inline struct batch batch_upload(struct exec *e, const struct batch_arrays *a, int32_t *device) {
    exec_upload_async(e, device, a->tokens, (size_t)(a->end - a->tokens) * sizeof *device);
    return (struct batch){
        .T = a->T,
        .B = a->B,
        .tokens = device,
        .positions = device + (a->positions - a->tokens),
        .seq_of = device + (a->seq_of - a->tokens),
        .query_start = device + (a->query_start - a->tokens),
        .kv_len = device + (a->kv_len - a->tokens),
        .block_table = device + (a->table - a->tokens),
        .max_blocks = a->stride,
        .R = a->R,
        .logits_rows = device + (a->logits_rows - a->tokens),
    };
}
