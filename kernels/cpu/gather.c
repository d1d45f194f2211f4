/* gather.c - rows picked by an index: token embeddings, and the rows whose logits are wanted.
 *
 *     x[t] = table[tokens[t]]        out[r] = x[rows[r]]
 * A copy where the formats agree, else a widening and one rounding. Reads and writes C elements a row. */
#include "kernels/cpu/cpu.h"

void CPU(embed)(struct exec *e, void *x, const int32_t *tokens, const struct matrix *table, int T) {
    enum dtype act = e->options.dtype;
    size_t C = (size_t)table->cols, in = C * dtype_bytes(table->dtype), out = C * dtype_bytes(act);
    for (int t = 0; t < T; t++) {
        CHECK_LE(0, tokens[t]);
        CHECK_LT(tokens[t], table->rows);
    }
#pragma omp parallel for num_threads(threads_if(e, (int64_t)T * table->cols)) schedule(static)
    for (int t = 0; t < T; t++) {
        const char *from = (const char *)table->data + (size_t)tokens[t] * in;
        char *to = (char *)x + t * out;
        if (table->dtype == act) {
            memcpy(to, from, out);
            continue;
        }
        float *row = thread_scratch(e);
        row_widen(row, from, C, table->dtype);
        row_narrow(to, row, C, act);
    }
}

void CPU(gather_rows)(struct exec *e, void *out, const void *x, const int32_t *rows, int R, int C) {
    size_t bytes = (size_t)C * dtype_bytes(e->options.dtype);
    for (int r = 0; r < R; r++) {
        CHECK_LE(0, rows[r]);
        CHECK_LT(rows[r], e->options.max_tokens);
        memcpy((char *)out + r * bytes, (const char *)x + (size_t)rows[r] * bytes, bytes);
    }
}
