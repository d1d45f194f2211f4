/* gather.c - rows picked by an index: token embeddings, and the rows whose logits are wanted.
 *
 *     x[t] = table[tokens[t]]        out[r] = x[rows[r]]
 * A copy where the formats agree, else a widening and one rounding. Reads and writes C elements a row. */
#include "kernels/cpu/cpu.h"

struct gather {
    struct exec *e;
    char *out;
    const char *from;
    const int32_t *rows;
    const int32_t *sampled; /* rows[t] below 0: sampled[-1 - rows[t]] */
    size_t C;
    enum dtype from_dtype;
};

static void gather(void *arg, struct share *share) {
    const struct gather *o = arg;
    enum dtype act = o->e->options.dtype;
    size_t in = o->C * dtype_bytes(o->from_dtype), out = o->C * dtype_bytes(act);
    float *row = scratch_of(o->e, share);
    for (int first, last; threads_take(share, &first, &last);)
        for (int t = first; t < last; t++) {
            const int32_t id = o->rows[t] < 0 ? o->sampled[-1 - o->rows[t]] : o->rows[t];
            const char *from = o->from + (size_t)id * in;
            if (o->from_dtype == act) {
                memcpy(o->out + t * out, from, out);
                continue;
            }
            row_widen(row, from, o->C, o->from_dtype);
            row_narrow(o->out + t * out, row, o->C, act);
        }
}

void CPU(embed)(struct exec *e, void *x, const int32_t *tokens, const int32_t *sampled, const struct matrix *table,
                int T) {
    struct gather o = {.e = e, .out = x, .from = table->data, .rows = tokens, .sampled = sampled, .C = (size_t)table->cols,
                       .from_dtype = table->dtype};
    for (int t = 0; t < T; t++) {
        CHECK(tokens[t] >= 0 || sampled);
        const int32_t id = tokens[t] < 0 ? sampled[-1 - tokens[t]] : tokens[t];
        CHECK_LE(0, id);
        CHECK_LT(id, table->rows);
    }
    parallel(e, T, rows_per_part(table->cols), gather, &o);
}

void CPU(gather_rows)(struct exec *e, void *out, const void *x, const int32_t *rows, int R, int C) {
    struct gather o = {.e = e, .out = out, .from = x, .rows = rows, .C = (size_t)C, .from_dtype = e->options.dtype};
    for (int r = 0; r < R; r++) {
        CHECK_LE(0, rows[r]);
        CHECK_LT(rows[r], e->options.max_tokens);
    }
    parallel(e, R, rows_per_part(C), gather, &o);
}
