/* gather.c - rows picked by an index: token embeddings, and the rows whose logits are wanted.
 *
 *     x[t] = table[tokens[t]]        out[r] = x[rows[r]]
 *     x[t] = round((word[tokens[t]] + type) + position[positions[t]])
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

/* ---- the embeddings of an encoder -------------------------------------------------------------------------------- */

struct embed_sum {
    struct exec *e;
    char *x;
    const char *word, *position, *type;
    const struct ragged *texts;
    size_t C;
};

INLINE void embed_sum_rows_as(const struct embed_sum *o, struct share *share, enum dtype act) {
    const size_t b = dtype_bytes(act), C = o->C, row = C * b;
    for (int first, last; threads_take(share, &first, &last);)
        for (int t = first; t < last; t++) {
            const char *word = o->word + (size_t)o->texts->tokens[t] * row;
            const char *position = o->position + (size_t)o->texts->positions[t] * row;
            char *x = o->x + t * row;
            size_t i = 0;
            for (; i + LANES <= C; i += LANES) {
                vf sum = vf_widen(word + i * b, act) + vf_widen(o->type + i * b, act);
                vf_narrow(x + i * b, sum + vf_widen(position + i * b, act), act);
            }
            for (; i < C; i++) {
                float sum = f32_widen(word + i * b, act) + f32_widen(o->type + i * b, act);
                f32_narrow(x + i * b, sum + f32_widen(position + i * b, act), act);
            }
        }
}

static void embed_sum_rows(void *arg, struct share *share) {
    const struct embed_sum *o = arg;
    enum dtype act = o->e->options.dtype;
    if (act == DTYPE_BF16) embed_sum_rows_as(o, share, DTYPE_BF16);
    else if (act == DTYPE_F16) embed_sum_rows_as(o, share, DTYPE_F16);
    else embed_sum_rows_as(o, share, DTYPE_F32);
}

void CPU(embed_sum)(struct exec *e, void *x, const struct matrix *word, const struct matrix *position, const void *type,
                    const struct ragged *texts) {
    struct embed_sum o = {.e = e, .x = x, .word = word->data, .position = position->data, .type = type, .texts = texts,
                          .C = (size_t)word->cols};
    for (int t = 0; t < texts->T; t++) {
        CHECK_LT((uint32_t)texts->tokens[t], (uint32_t)word->rows);
        CHECK_LT((uint32_t)texts->positions[t], (uint32_t)position->rows);
    }
    parallel(e, texts->T, rows_per_part(word->cols), embed_sum_rows, &o);
}
