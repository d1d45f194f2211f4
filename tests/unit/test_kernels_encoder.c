/* test_kernels_encoder.c - the ops of encoders: against double-precision references at awkward sizes, and bit by bit
 * the same whoever shares the step and however many threads there are. */
#include "kernels_test.h"

static const int token_counts[] = {1, 2, 3, 16, 17, 31};
enum { N_TOKEN_COUNTS = sizeof token_counts / sizeof *token_counts };

/* ---- texts ------------------------------------------------------------------------------------------------------ */

struct test_texts {
    struct ragged ragged; /* views of what follows */
    int32_t *tokens, *positions, *seq_of, *start;
};

static struct test_texts texts_new(const int *lengths, int B, int vocab) {
    struct test_texts s = {.start = calloc((size_t)B + 1, sizeof(int32_t))};
    int max_len = 0;
    for (int b = 0; b < B; b++) {
        s.start[b + 1] = s.start[b] + lengths[b];
        if (lengths[b] > max_len) max_len = lengths[b];
    }
    const int T = s.start[B];
    s.tokens = calloc((size_t)T, sizeof(int32_t));
    s.positions = calloc((size_t)T, sizeof(int32_t));
    s.seq_of = calloc((size_t)T, sizeof(int32_t));
    for (int b = 0; b < B; b++)
        for (int t = s.start[b]; t < s.start[b + 1]; t++) {
            s.tokens[t] = random_below(vocab);
            s.positions[t] = t - s.start[b];
            s.seq_of[t] = b;
        }
    s.ragged = (struct ragged){.T = T,
                               .B = B,
                               .max_len = max_len,
                               .tokens = s.tokens,
                               .positions = s.positions,
                               .seq_of = s.seq_of,
                               .start = s.start};
    return s;
}

static void texts_free(struct test_texts *s) {
    free(s->tokens);
    free(s->positions);
    free(s->seq_of);
    free(s->start);
}

static void free_all(struct buffer *const *buffers, int n) {
    for (int i = 0; i < n; i++) buffer_free(buffers[i]);
}

/* ---- row by row ------------------------------------------------------------------------------------------------- */

static void check_layer_norm(const struct buffer *out, const struct buffer *x, const struct buffer *res,
                             const struct buffer *w, const struct buffer *b, int t, int C, float eps, enum dtype act) {
    const size_t row = (size_t)t * C;
    double *h = malloc(sizeof(double) * (size_t)C), mean = 0, square = 0;
    for (int i = 0; i < C; i++) {
        h[i] = res ? rounded((float)get(x, row + i) + (float)get(res, row + i), act) : get(x, row + i);
        mean += h[i] / C;
    }
    for (int i = 0; i < C; i++) square += (h[i] - mean) * (h[i] - mean) / C;
    /* with a spread near 0 the mean's own rounding shows */
    const double scale = 1 / sqrt(square + eps), slack = 1e-6 * (fabs(mean) + 1) * scale;
    for (int i = 0; i < C; i++)
        expect_close(get(out, row + i), (h[i] - mean) * scale * get(w, i) + get(b, i), 2e-6 + slack,
                     1.1 * epsilon(act), "layer_norm", row + i);
    free(h);
}

static void layer_norms(struct exec *e) {
    static const int widths[] = {1, 7, 61, 64, 90, 100, 257, 384, 1000};
    const enum dtype act = e->options.dtype;
    const float eps = 1e-5f;
    for (size_t wi = 0; wi < sizeof widths / sizeof *widths; wi++)
        for (int ti = 0; ti < N_TOKEN_COUNTS; ti++) {
            const int T = token_counts[ti], C = widths[wi];
            const size_t n = (size_t)T * C, bytes = n * dtype_bytes(act);
            struct buffer x = buffer_random(act, n, 3), res = buffer_random(act, n, 2), w = buffer_random(act, C, 1),
                          b = buffer_random(act, C, 1), out = buffer_new(act, n), in_place = buffer_new(act, n);
            layer_norm(e, out.data, x.data, NULL, w.data, b.data, T, C, eps);
            for (int t = 0; t < T; t++) check_layer_norm(&out, &x, NULL, &w, &b, t, C, eps, act);
            layer_norm(e, out.data, x.data, res.data, w.data, b.data, T, C, eps);
            for (int t = 0; t < T; t++) check_layer_norm(&out, &x, &res, &w, &b, t, C, eps, act);
            memcpy(in_place.data, res.data, bytes); /* out may be the residual, or x */
            layer_norm(e, in_place.data, x.data, in_place.data, w.data, b.data, T, C, eps);
            cr_assert_arr_eq(in_place.data, out.data, bytes);
            memcpy(in_place.data, x.data, bytes);
            layer_norm(e, in_place.data, in_place.data, res.data, w.data, b.data, T, C, eps);
            cr_assert_arr_eq(in_place.data, out.data, bytes);
            layer_norm(e, in_place.data, (char *)x.data, res.data, w.data, b.data, 1, C, eps); /* the first row alone */
            cr_assert_arr_eq(in_place.data, out.data, bytes / (size_t)T);
            free_all((struct buffer *[]){&x, &res, &w, &b, &out, &in_place}, 6);
        }
}
Test(encoder, layer_norm) { for_each_exec(layer_norms); }

static void gelus(struct exec *e) {
    static const int widths[] = {1, 15, 16, 17, 100, 1536};
    const enum dtype act = e->options.dtype;
    for (size_t wi = 0; wi < sizeof widths / sizeof *widths; wi++)
        for (int ti = 0; ti < N_TOKEN_COUNTS; ti++) {
            const int T = token_counts[ti], F = widths[wi];
            const size_t n = (size_t)T * F, bytes = n * dtype_bytes(act);
            struct buffer in = buffer_random(act, n, 6), out = buffer_new(act, n), row = buffer_new(act, F);
            if (n > 4) put(&in, 0, -300), put(&in, 1, 300), put(&in, 2, 0), put(&in, 3, NAN), put(&in, 4, -INFINITY);
            memcpy(out.data, in.data, bytes);
            gelu(e, out.data, T, F);
            for (size_t i = 0; i < n; i++) {
                const double x = get(&in, i), y = get(&out, i);
                if (isnan(x) || x == -INFINITY) { /* erf gives -1 there, and 0 times infinity is no number */
                    cr_assert(isnan(y), "gelu(%g): found %g", x, y);
                    continue;
                }
                /* 1 + erf is rounded where it is near 0, as everywhere in fp32 */
                expect_close(y, 0.5 * x * (1 + erf(x * M_SQRT1_2)), 1.2e-7 * fabs(x), 1.1 * epsilon(act), "gelu", i);
            }
            memcpy(row.data, (char *)in.data + bytes / T * (size_t)(T - 1), bytes / T); /* the last row alone */
            gelu(e, row.data, 1, F);
            cr_assert_arr_eq(row.data, (char *)out.data + bytes / T * (size_t)(T - 1), bytes / T);
            free_all((struct buffer *[]){&in, &out, &row}, 3);
        }
}
Test(encoder, gelu) { for_each_exec(gelus); }

static void embeddings(struct exec *e) {
    static const int widths[] = {1, 17, 90, 384}, lengths[] = {1, 5, 2, 40};
    enum { VOCAB = 50, POSITIONS = 40, B = 4 };
    const enum dtype act = e->options.dtype;
    for (size_t wi = 0; wi < sizeof widths / sizeof *widths; wi++) {
        const int C = widths[wi];
        struct test_texts texts = texts_new(lengths, B, VOCAB);
        const int T = texts.ragged.T;
        struct buffer word = buffer_random(act, (size_t)VOCAB * C, 1), type = buffer_random(act, C, 1),
                      position = buffer_random(act, (size_t)POSITIONS * C, 1), out = buffer_new(act, (size_t)T * C);
        const struct matrix w = {.dtype = act, .rows = VOCAB, .cols = C, .data = word.data},
                            p = {.dtype = act, .rows = POSITIONS, .cols = C, .data = position.data};
        embed_sum(e, out.data, &w, &p, type.data, &texts.ragged);
        for (int t = 0; t < T; t++)
            for (int i = 0; i < C; i++) {
                const float sum = (float)get(&word, (size_t)texts.tokens[t] * C + i) + (float)get(&type, i);
                cr_assert_eq(get(&out, (size_t)t * C + i),
                             rounded(sum + (float)get(&position, (size_t)texts.positions[t] * C + i), act));
            }
        free_all((struct buffer *[]){&word, &position, &type, &out}, 4);
        texts_free(&texts);
    }
}
Test(encoder, embed_sum) { for_each_exec(embeddings); }

/* ---- text by text ------------------------------------------------------------------------------------------------ */

static void check_pool(const float *out, const struct buffer *x, const struct test_texts *s, int b, int C,
                       enum pooling pooling, bool normalize) {
    const int first = s->start[b], n = pooling == POOLING_CLS ? 1 : s->start[b + 1] - first;
    double *v = calloc((size_t)C, sizeof *v), square = 0;
    for (int i = 0; i < C; i++) {
        for (int t = first; t < first + n; t++) v[i] += get(x, (size_t)t * C + i) / n;
        square += v[i] * v[i];
    }
    const double divisor = normalize ? fmax(sqrt(square), 1e-12) : 1;
    for (int i = 0; i < C; i++) expect_close(out[i], v[i] / divisor, 4e-6 / divisor, 1e-6, "pool", (size_t)b * C + i);
    free(v);
}

static void pools(struct exec *e) {
    static const int widths[] = {1, 17, 90, 384}, lengths[] = {1, 300, 2, 17};
    enum { B = 4 };
    const enum dtype act = e->options.dtype;
    for (size_t wi = 0; wi < sizeof widths / sizeof *widths; wi++) {
        const int C = widths[wi];
        struct test_texts texts = texts_new(lengths, B, 1);
        struct buffer x = buffer_random(act, (size_t)texts.ragged.T * C, 2), out = buffer_new(DTYPE_F32, (size_t)B * C),
                      alone = buffer_new(DTYPE_F32, C), last = buffer_new(act, (size_t)lengths[B - 1] * C);
        const size_t at = (size_t)texts.start[B - 1] * C;
        memcpy(last.data, (char *)x.data + at * dtype_bytes(act), last.n * dtype_bytes(act));
        for (int i = 0; i < C; i++) put(&x, (size_t)i, 0); /* of the first text: no length to divide by */
        for (int kind = 0; kind < 4; kind++) {
            const enum pooling pooling = kind / 2 ? POOLING_MEAN : POOLING_CLS;
            pool_texts(e, out.data, x.data, &texts.ragged, C, pooling, kind % 2);
            for (int b = 0; b < B; b++)
                check_pool((float *)out.data + (size_t)b * C, &x, &texts, b, C, pooling, kind % 2);
            struct test_texts one = texts_new(lengths + B - 1, 1, 1);
            pool_texts(e, alone.data, last.data, &one.ragged, C, pooling, kind % 2);
            cr_assert_arr_eq(alone.data, (float *)out.data + (size_t)(B - 1) * C, (size_t)C * sizeof(float));
            texts_free(&one);
        }
        free_all((struct buffer *[]){&x, &out, &alone, &last}, 4);
        texts_free(&texts);
    }
}
Test(encoder, pool) { for_each_exec(pools); }

/* ---- attention --------------------------------------------------------------------------------------------------- */

static void check_attention(const struct buffer *o, const struct buffer *qkv, const struct test_texts *s, int H, int D,
                            enum dtype act) {
    const size_t width = 3 * (size_t)H * D;
    double *w = malloc(sizeof(double) * (size_t)s->ragged.max_len);
    for (int t = 0; t < s->ragged.T; t++) {
        const int first = s->start[s->seq_of[t]], n = s->start[s->seq_of[t] + 1] - first;
        for (int h = 0; h < H; h++) {
            const size_t q = (size_t)t * width + (size_t)h * D;
            double max = -1e300, sum = 0;
            for (int p = 0; p < n; p++) {
                const size_t k = (size_t)(first + p) * width + (size_t)(H + h) * D;
                w[p] = 0;
                for (int i = 0; i < D; i++) w[p] += get(qkv, q + i) * get(qkv, k + i) / sqrt(D);
                max = fmax(max, w[p]);
            }
            for (int p = 0; p < n; p++) sum += w[p] = exp(w[p] - max);
            for (int i = 0; i < D; i++) {
                double y = 0, size = 0;
                for (int p = 0; p < n; p++) {
                    const double v = get(qkv, (size_t)(first + p) * width + (size_t)(2 * H + h) * D + i);
                    y += w[p] / sum * v;
                    size += w[p] / sum * fabs(v);
                }
                expect_close(get(o, ((size_t)t * H + h) * D + i), y, 2e-5 * size + 1e-6, epsilon(act), "attention_full",
                             ((size_t)t * H + h) * D + i);
            }
        }
    }
    free(w);
}

static void attentions(struct exec *e) {
    static const struct {
        int H, D, B, lengths[6];
    } cases[] = {{3, 32, 6, {1, 16, 2, 130, 7, 17}}, {2, 64, 4, {129, 1, 255, 33}}, {2, 64, 2, {257, 300}},
                 {5, 18, 3, {15, 31, 8}},            {1, 256, 2, {9, 40}},           {12, 32, 1, {64}}};
    const enum dtype act = e->options.dtype;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const int H = cases[c].H, D = cases[c].D, B = cases[c].B;
        struct test_texts texts = texts_new(cases[c].lengths, B, 1);
        const size_t T = (size_t)texts.ragged.T, row = (size_t)H * D;
        struct buffer qkv = buffer_random(act, T * 3 * row, 2), o = buffer_new(act, T * row);
        attention_full(e, o.data, qkv.data, &texts.ragged, H, D);
        check_attention(&o, &qkv, &texts, H, D, act);
        for (int b = 0; b < B; b++) { /* alone, on one thread: the same bits */
            struct exec *one = exec_new(e->ops->name, act, 1);
            struct test_texts text = texts_new(cases[c].lengths + b, 1, 1);
            const size_t n = (size_t)cases[c].lengths[b], at = (size_t)texts.start[b];
            struct buffer mine = buffer_new(act, n * 3 * row), out = buffer_new(act, n * row);
            memcpy(mine.data, (char *)qkv.data + at * 3 * row * dtype_bytes(act), mine.n * dtype_bytes(act));
            attention_full(one, out.data, mine.data, &text.ragged, H, D);
            cr_assert_arr_eq(out.data, (char *)o.data + at * row * dtype_bytes(act), out.n * dtype_bytes(act));
            free_all((struct buffer *[]){&mine, &out}, 2);
            texts_free(&text);
            exec_close(one);
        }
        free_all((struct buffer *[]){&qkv, &o}, 2);
        texts_free(&texts);
    }
}
Test(encoder, attention_full, .timeout = 600) { for_each_exec(attentions); }
