/* test_kernels_quantize.c - what a search for 4-bit weights is made of, on every CPU table: rounding against the rule as
 * kernels.h states it, to the bit; AutoAWQ's packing read back by a statement of its own; limits and sums against double
 * precision; and that threads change no bit. */
#include "kernels_test.h"

enum { GROUP = AWQ_GROUP };
static const int shapes[][2] = {{8, 128}, {24, 256}, {40, 640}};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

/* A weight with what searches meet: random groups, one of zeros, one of one sign. */
static struct buffer weights_random(enum dtype act, int rows, int cols) {
    struct buffer w = buffer_random(act, (size_t)rows * (size_t)cols, 0.3f);
    for (int k = 0; k < GROUP; k++) {
        put(&w, (size_t)k, 0);
        put(&w, (size_t)(2 * cols + k), 0.05f + fabsf(random_value()));
    }
    return w;
}

static struct buffer scaling_random(int cols) {
    struct buffer s = buffer_new(DTYPE_F32, (size_t)cols);
    for (int k = 0; k < cols; k++) put(&s, (size_t)k, expf(2 * random_value()));
    return s;
}

static struct buffer limits_random(int rows, int cols) {
    struct buffer limit = buffer_new(DTYPE_F32, (size_t)rows * (size_t)(cols / GROUP));
    for (size_t i = 0; i < limit.n; i++) put(&limit, i, i % 5 ? 0.15f + 0.1f * random_value() : INFINITY);
    return limit;
}

static struct matrix matrix_of(const struct buffer *w, int rows, int cols) {
    return (struct matrix){.format = MATRIX_DENSE, .dtype = w->dtype, .rows = rows, .cols = cols, .data = w->data};
}

/* The rule, word for word, in the type that it names. */
struct coded {
    int q, zero;
    float scale;
};
static struct coded coded_weight(const struct buffer *w, const float *s, const float *limit, int cols, int n, int k) {
    const int first = k / GROUP * GROUP;
    const float most = limit ? limit[n * (cols / GROUP) + k / GROUP] : INFINITY;
    float v[GROUP], lo = 0, hi = 0;
    for (int i = 0; i < GROUP; i++) {
        v[i] = (float)get(w, (size_t)n * (size_t)cols + (size_t)(first + i));
        if (s) v[i] *= s[first + i];
        v[i] = fminf(fmaxf(v[i], -most), most);
        lo = fminf(lo, v[i]), hi = fmaxf(hi, v[i]);
    }
    struct coded c = {.scale = (float)rounded(fmaxf(hi - lo, 1e-5f) / 15, DTYPE_F16)};
    c.zero = (int)fminf(rintf(-lo / c.scale), 15);
    c.q = (int)rintf(v[k - first] / c.scale) + c.zero;
    c.q = c.q < 0 ? 0 : c.q > 15 ? 15 : c.q;
    return c;
}

static void rounding(struct exec *e) {
    for (size_t i = 0; i < N_SHAPES; i++)
        for (int with = 0; with < 4; with++) {
            const int rows = shapes[i][0], cols = shapes[i][1];
            struct buffer w = weights_random(e->options.dtype, rows, cols), s = scaling_random(cols);
            struct buffer limit = limits_random(rows, cols), out = buffer_new(w.dtype, w.n);
            const struct matrix m = matrix_of(&w, rows, cols);
            const struct awq_rule rule = {.s = with & 1 ? s.data : NULL, .limit = with & 2 ? limit.data : NULL};
            awq_round(e, out.data, &m, &rule);
            for (int n = 0; n < rows; n++)
                for (int k = 0; k < cols; k++) {
                    const size_t at = (size_t)n * (size_t)cols + (size_t)k;
                    const struct coded c = coded_weight(&w, rule.s, rule.limit, cols, n, k);
                    float value = (float)(c.q - c.zero) * c.scale;
                    if (rule.s) value /= rule.s[k];
                    cr_assert_eq(get(&out, at), rounded(value, w.dtype), "row %d, input %d", n, k);
                    /* Plain rounding is off by half a step, and a little where the scale was rounded down. */
                    if (!with) expect_close(get(&out, at), get(&w, at), 0.51 * c.scale, epsilon(w.dtype), "round", at);
                }
            awq_round(e, w.data, &m, &rule); /* in place */
            cr_assert_arr_eq(w.data, out.data, w.n * dtype_bytes(w.dtype));
            buffer_free(&w), buffer_free(&s), buffer_free(&limit), buffer_free(&out);
        }
}
Test(quantize, rounding) { for_each_exec(rounding); }

/* AutoAWQ's order, stated by itself: the word of columns 8 j .. 8 j + 7 holds them at these nibbles, lowest first. */
static int unpacked(const uint32_t *words, size_t column) {
    static const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    int nibble = 0;
    while (order[nibble] != (int)(column % 8)) nibble++;
    return (int)(words[column / 8] >> (4 * nibble) & 15);
}

static void packing(struct exec *e) {
    for (size_t i = 0; i < N_SHAPES; i++)
        for (int divided = 0; divided < 2; divided++) {
            const int rows = shapes[i][0], cols = shapes[i][1], n_words = rows / 8;
            struct buffer w = weights_random(e->options.dtype, rows, cols), s = scaling_random(cols);
            struct buffer limit = limits_random(rows, cols), divisor = scaling_random(rows);
            struct buffer qweight = buffer_new(DTYPE_I32, (size_t)cols * (size_t)n_words);
            struct buffer qzeros = buffer_new(DTYPE_I32, (size_t)(cols / GROUP) * (size_t)n_words);
            struct buffer scales = buffer_new(DTYPE_F16, (size_t)(cols / GROUP) * (size_t)rows);
            const struct matrix m = matrix_of(&w, rows, cols);
            const struct awq_rule rule = {.s = s.data, .limit = limit.data};
            awq_quantize(e, qweight.data, qzeros.data, scales.data, &m, &rule, divided ? divisor.data : NULL);
            for (int n = 0; n < rows; n++)
                for (int k = 0; k < cols; k++) {
                    const struct coded c = coded_weight(&w, s.data, limit.data, cols, n, k);
                    const uint32_t *zeros = (uint32_t *)qzeros.data + (size_t)(k / GROUP) * (size_t)n_words;
                    const float scale = divided ? c.scale / ((float *)divisor.data)[n] : c.scale;
                    cr_assert_eq(unpacked((uint32_t *)qweight.data + (size_t)k * (size_t)n_words, (size_t)n), c.q);
                    cr_assert_eq(unpacked(zeros, (size_t)n), c.zero);
                    cr_assert_eq(get(&scales, (size_t)(k / GROUP) * (size_t)rows + (size_t)n),
                                 rounded(scale, DTYPE_F16));
                }
            buffer_free(&w), buffer_free(&s), buffer_free(&limit), buffer_free(&divisor);
            buffer_free(&qweight), buffer_free(&qzeros), buffer_free(&scales);
        }
}
Test(quantize, packing) { for_each_exec(packing); }

/* d' gram d of one row and group under a limit, in double precision. */
static double clip_error(const struct buffer *w, const float *s, const float *gram, int cols, int n, int g,
                         float limit) {
    float *limits = malloc((size_t)(n + 1) * (size_t)(cols / GROUP) * sizeof *limits);
    double d[GROUP], sum = 0;
    limits[n * (cols / GROUP) + g] = limit;
    for (int i = 0; i < GROUP; i++) {
        const int k = g * GROUP + i;
        const struct coded c = coded_weight(w, s, limits, cols, n, k);
        d[i] = (double)((float)(c.q - c.zero) * c.scale) / s[k] - get(w, (size_t)n * (size_t)cols + (size_t)k);
    }
    for (int i = 0; i < GROUP; i++)
        for (int j = 0; j < GROUP; j++) sum += d[i] * gram[(g * GROUP + i) * GROUP + j] * d[j];
    free(limits);
    return sum;
}

static void clipping(struct exec *e) {
    enum { T = 67 };
    for (size_t i = 0; i < N_SHAPES; i++) {
        const int rows = shapes[i][0], cols = shapes[i][1], n_groups = cols / GROUP;
        struct buffer w = weights_random(e->options.dtype, rows, cols), s = scaling_random(cols);
        struct buffer x = buffer_random(e->options.dtype, (size_t)T * (size_t)cols, 1);
        struct buffer gram = buffer_new(DTYPE_F32, (size_t)cols * GROUP);
        struct buffer limit = buffer_new(DTYPE_F32, (size_t)rows * (size_t)n_groups);
        const struct matrix m = matrix_of(&w, rows, cols);
        int n_clipped = 0;
        memset(gram.data, 0, gram.n * sizeof(float));
        gram_add(e, gram.data, x.data, T, cols);
        awq_clip(e, limit.data, gram.data, &m, s.data);
        for (int n = 0; n < rows; n++)
            for (int g = 0; g < n_groups; g++) {
                float largest = 0;
                for (int k = g * GROUP; k < (g + 1) * GROUP; k++)
                    largest = fmaxf(largest, fabsf((float)get(&w, (size_t)n * (size_t)cols + (size_t)k) *
                                                   ((float *)s.data)[k]));
                const float chosen = (float)get(&limit, (size_t)n * (size_t)n_groups + (size_t)g);
                double least = INFINITY, found = INFINITY;
                for (int c = 0; c < AWQ_CLIPS; c++) {
                    const float candidate = largest * (1 - (float)c / 20);
                    const double error = clip_error(&w, s.data, gram.data, cols, n, g, candidate);
                    if (error < least) least = error;
                    if (candidate == chosen) found = error;
                }
                cr_assert(found <= least * (1 + 1e-4), "row %d, group %d: the limit %g of error %g, the least is %g", n,
                          g, chosen, found, least);
                n_clipped += chosen < largest;
            }
        cr_assert(n_clipped > 0, "some group of random weights is better off with a limit");
        buffer_free(&w), buffer_free(&s), buffer_free(&x), buffer_free(&gram), buffer_free(&limit);
    }
}
Test(quantize, clipping) { for_each_exec(clipping); }

static void sums(struct exec *e) {
    static const int tokens[] = {1, 63, 64, 67, 131}, widths[] = {128, 384};
    for (size_t ti = 0; ti < sizeof tokens / sizeof *tokens; ti++)
        for (size_t wi = 0; wi < 2; wi++) {
            const int T = tokens[ti], C = widths[wi], narrow = C - 27; /* widths of rows need be no multiple of anything */
            struct buffer a = buffer_random(e->options.dtype, (size_t)T * (size_t)C, 1), b = buffer_random(a.dtype, a.n, 1);
            struct buffer gram = buffer_random(DTYPE_F32, (size_t)C * GROUP, 1), gram0 = buffer_new(DTYPE_F32, gram.n);
            struct buffer columns = buffer_random(DTYPE_F32, (size_t)C, 1), columns0 = buffer_new(DTYPE_F32, columns.n);
            struct buffer rows = buffer_random(DTYPE_F32, (size_t)T, 1), rows0 = buffer_new(DTYPE_F32, rows.n);
            struct buffer norms = buffer_new(DTYPE_F32, (size_t)T);
            memset(norms.data, 0, norms.n * sizeof(float));
            memcpy(gram0.data, gram.data, gram.n * sizeof(float));
            memcpy(columns0.data, columns.data, columns.n * sizeof(float));
            memcpy(rows0.data, rows.data, rows.n * sizeof(float));
            gram_add(e, gram.data, a.data, T, C);
            column_abs_add(e, columns.data, a.data, T, narrow);
            row_distance_add(e, rows.data, a.data, b.data, T, narrow);
            row_distance_add(e, norms.data, a.data, NULL, T, narrow);
            for (int c = 0; c < C; c++)
                for (int j = 0; j < GROUP; j++) {
                    double sum = get(&gram0, (size_t)c * GROUP + (size_t)j);
                    for (int t = 0; t < T; t++)
                        sum += get(&a, (size_t)(t * C + c)) * get(&a, (size_t)(t * C + c / GROUP * GROUP + j));
                    expect_close(get(&gram, (size_t)c * GROUP + (size_t)j), sum, 1e-6 * T + 1e-6, 1e-6, "gram", (size_t)c);
                }
            for (int c = 0; c < narrow; c++) {
                double sum = get(&columns0, (size_t)c);
                for (int t = 0; t < T; t++) sum += fabs(get(&a, (size_t)(t * narrow + c)));
                expect_close(get(&columns, (size_t)c), sum, 1e-6, 1e-6 * T, "column", (size_t)c);
            }
            for (int t = 0; t < T; t++) {
                double distance = get(&rows0, (size_t)t), norm = 0;
                for (int c = 0; c < narrow; c++) {
                    const double x = get(&a, (size_t)(t * narrow + c)), y = get(&b, (size_t)(t * narrow + c));
                    distance += (x - y) * (x - y);
                    norm += x * x;
                }
                expect_close(get(&rows, (size_t)t), distance, 1e-6, 1e-5, "distance", (size_t)t);
                expect_close(get(&norms, (size_t)t), norm, 1e-6, 1e-5, "norm", (size_t)t);
            }
            buffer_free(&a), buffer_free(&b), buffer_free(&gram), buffer_free(&gram0), buffer_free(&columns);
            buffer_free(&columns0), buffer_free(&rows), buffer_free(&rows0), buffer_free(&norms);
        }
}
Test(quantize, sums) { for_each_exec(sums); }

Test(quantize, threads_change_no_bit) {
    enum { T = 131, ROWS = 40, COLS = 640 };
    const char *const *tables;
    const int n = exec__cpu_tables(&tables);
    for (int i = 0; i < n; i++) {
        struct buffer gram[2], limit[2], columns[2];
        for (int j = 0; j < 2; j++) {
            struct exec *e = exec_new(tables[i], DTYPE_F16, j ? 3 : 1);
            seed_values(5);
            struct buffer w = weights_random(DTYPE_F16, ROWS, COLS), x = buffer_random(DTYPE_F16, (size_t)T * COLS, 1);
            const struct matrix m = matrix_of(&w, ROWS, COLS);
            gram[j] = buffer_new(DTYPE_F32, (size_t)COLS * GROUP);
            limit[j] = buffer_new(DTYPE_F32, (size_t)ROWS * COLS / GROUP);
            columns[j] = buffer_new(DTYPE_F32, COLS);
            memset(gram[j].data, 0, gram[j].n * sizeof(float));
            memset(columns[j].data, 0, columns[j].n * sizeof(float));
            gram_add(e, gram[j].data, x.data, T, COLS);
            column_abs_add(e, columns[j].data, x.data, T, COLS);
            awq_clip(e, limit[j].data, gram[j].data, &m, NULL);
            buffer_free(&w), buffer_free(&x);
            exec_close(e);
        }
        cr_assert_arr_eq(gram[0].data, gram[1].data, gram[0].n * sizeof(float));
        cr_assert_arr_eq(limit[0].data, limit[1].data, limit[0].n * sizeof(float));
        cr_assert_arr_eq(columns[0].data, columns[1].data, columns[0].n * sizeof(float));
        for (int j = 0; j < 2; j++) buffer_free(&gram[j]), buffer_free(&limit[j]), buffer_free(&columns[j]);
    }
}
