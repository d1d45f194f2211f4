/* test_kernels_forward.c - the ops of the forward pass but attention: against double-precision references at awkward
 * sizes, and the contract that an output row depends on its own inputs only, to the bit. */
#include "kernels_test.h"

static const int token_counts[] = {1, 2, 3, 16, 17, 31};
enum { N_TOKEN_COUNTS = sizeof token_counts / sizeof *token_counts };

/* ---- norms and elementwise ops ---------------------------------------------------------------------------------- */

static void check_norm(const struct buffer *out, const double *h, const struct buffer *w, size_t row, int C, float eps,
                       enum dtype act) {
    double sum = 0;
    for (int i = 0; i < C; i++) sum += h[i] * h[i];
    double scale = 1 / sqrt(sum / C + eps);
    for (int i = 0; i < C; i++)
        expect_close(get(out, row * C + i), rounded(h[i] * scale, act) * get(w, i), 1e-7, 3.2 * epsilon(act), "norm",
                     row * C + i);
}

static void norms(struct exec *e) {
    static const int widths[] = {1, 7, 61, 64, 100, 257, 1000};
    enum dtype act = e->options.dtype;
    for (size_t wi = 0; wi < sizeof widths / sizeof *widths; wi++)
        for (int ti = 0; ti < N_TOKEN_COUNTS; ti++) {
            int T = token_counts[ti], C = widths[wi];
            size_t n = (size_t)T * C;
            struct buffer h = buffer_random(act, n, 3), w = buffer_random(act, C, 1), out = buffer_new(act, n);
            struct buffer res = buffer_random(act, n, 3), old = buffer_new(act, n), in_place = buffer_new(act, n);
            double *row = malloc((size_t)C * sizeof *row);
            rms_norm(e, out.data, h.data, w.data, T, C, 1e-6f);
            for (int t = 0; t < T; t++) {
                for (int i = 0; i < C; i++) row[i] = get(&h, (size_t)t * C + i);
                check_norm(&out, row, &w, t, C, 1e-6f, act);
            }
            memcpy(in_place.data, h.data, n * dtype_bytes(act));
            rms_norm(e, in_place.data, in_place.data, w.data, T, C, 1e-6f);
            cr_assert_arr_eq(in_place.data, out.data, n * dtype_bytes(act));
            memcpy(old.data, res.data, n * dtype_bytes(act));
            add(e, res.data, h.data, T, C);
            for (size_t i = 0; i < n; i++)
                cr_assert_eq(get(&res, i), rounded((float)get(&old, i) + (float)get(&h, i), act));
            free(row);
            struct buffer *all[] = {&h, &w, &out, &res, &old, &in_place};
            for (int i = 0; i < 6; i++) buffer_free(all[i]);
        }
}
Test(kernels, norms) { for_each_exec(norms); }

static void silu(struct exec *e) {
    static const int widths[] = {1, 15, 16, 17, 100, 768};
    enum dtype act = e->options.dtype;
    for (size_t wi = 0; wi < sizeof widths / sizeof *widths; wi++)
        for (int ti = 0; ti < N_TOKEN_COUNTS; ti++) {
            int T = token_counts[ti], F = widths[wi];
            struct buffer in = buffer_random(act, 2 * (size_t)T * F, 12), out = buffer_new(act, (size_t)T * F);
            put(&in, 0, -200);
            silu_mul(e, out.data, in.data, T, F);
            for (int t = 0; t < T; t++)
                for (int i = 0; i < F; i++) {
                    double g = get(&in, (size_t)t * 2 * F + i), up = get(&in, (size_t)t * 2 * F + F + i);
                    /* Where the rounding in the middle falls the other way, the result is one step off. */
                    expect_close(get(&out, (size_t)t * F + i), rounded(g / (1 + exp(-g)), act) * up, 1e-6,
                                 3.2 * epsilon(act), "silu", (size_t)t * F + i);
                }
            buffer_free(&in);
            buffer_free(&out);
        }
}
Test(kernels, silu_mul) { for_each_exec(silu); }

static void gathers(struct exec *e) {
    enum dtype act = e->options.dtype;
    for (int C = 1; C < 200; C += 66)
        for (size_t d = 0; d < 3; d++) {
            struct matrix table = {.dtype = act_dtypes[d], .rows = 50, .cols = C};
            struct buffer w = buffer_random(table.dtype, 50 * (size_t)C, 1), x = buffer_new(act, 17 * (size_t)C);
            struct buffer out = buffer_new(act, 3 * (size_t)C);
            table.data = w.data;
            int32_t tokens[17], picked[3] = {16, 0, 5};
            for (int t = 0; t < 17; t++) tokens[t] = t ? random_below(50) : 49;
            embed(e, x.data, tokens, NULL, &table, 17);
            for (int t = 0; t < 17; t++)
                for (int i = 0; i < C; i++)
                    cr_assert_eq(get(&x, (size_t)t * C + i), rounded(get(&w, (size_t)tokens[t] * C + i), act));
            gather_rows(e, out.data, x.data, picked, 3, C);
            for (int r = 0; r < 3; r++)
                for (int i = 0; i < C; i++)
                    cr_assert_eq(get(&out, (size_t)r * C + i), get(&x, (size_t)picked[r] * C + i));
            buffer_free(&w);
            buffer_free(&x);
            buffer_free(&out);
        }
}
Test(kernels, embed_and_gather) { for_each_exec(gathers); }

/* ---- number formats: every 16-bit pattern, and fp32 around every rounding boundary, through embed ---------------- */

static bool same(const struct buffer *a, size_t i, float expected) {
    float found = (float)get(a, i);
    return found == expected ? signbit(found) == signbit(expected) : found != found && expected != expected;
}

static void formats(struct exec *e) {
    enum dtype act = e->options.dtype;
    enum { C = 1024, ROWS = 256 };
    struct buffer w = buffer_new(DTYPE_F32, (size_t)ROWS * C), x = buffer_new(act, (size_t)ROWS * C);
    int32_t tokens[ROWS];
    for (int i = 0; i < ROWS; i++) tokens[i] = i;
    for (int pass = 0; pass < 2; pass++) { /* exact values of the format; then between and beside them */
        for (uint32_t i = 0; i < ROWS * C; i++) {
            uint32_t u = i << 14; /* every bf16, and four values between two of them */
            if (pass) u += (i * 2654435761u >> 18) & 1 ? 1u : 0x3fffu;
            float f = act == DTYPE_F16 ? f32_from_f16((uint16_t)(i >> 2)) : 0;
            if (act == DTYPE_F16 && pass)
                f = nextafterf(f + f32_from_f16(1) * (float)(i & 3) / 2, i & 1 ? 1e9f : -1e9f);
            else if (act != DTYPE_F16) memcpy(&f, &u, 4);
            ((float *)w.data)[i] = f;
        }
        struct matrix table = {.dtype = DTYPE_F32, .rows = ROWS, .cols = C, .data = w.data};
        embed(e, x.data, tokens, NULL, &table, ROWS);
        for (size_t i = 0; i < (size_t)ROWS * C; i++) {
            float f = ((float *)w.data)[i];
            cr_assert(same(&x, i, (float)rounded(f, act)), "%.9g became %.9g", f, get(&x, i));
        }
    }
    buffer_free(&w);
    buffer_free(&x);
}
Test(kernels, formats_are_exact) { for_each_exec(formats); }

/* ---- linear ----------------------------------------------------------------------------------------------------- */

static void linears(struct exec *e) {
    static const int shapes[][2] = {{1, 1}, {3, 5}, {16, 32}, {17, 33}, {70, 96}, {33, 257}, {130, 100}, {9, 1000}};
    enum dtype act = e->options.dtype;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int ti = 0; ti < N_TOKEN_COUNTS; ti++)
            for (size_t d = 0; d < 3; d++) {
                int T = token_counts[ti], N = shapes[s][0], K = shapes[s][1];
                struct buffer x = buffer_random(act, (size_t)T * K, 1), bias = buffer_random(act, N, 1);
                struct buffer w = buffer_random(act_dtypes[d], (size_t)N * K, 1), y = buffer_new(act, (size_t)T * N);
                struct buffer plain = buffer_new(act, (size_t)T * N), f = buffer_new(DTYPE_F32, (size_t)T * N);
                struct matrix m = {.dtype = w.dtype, .rows = N, .cols = K, .data = w.data};
                linear(e, y.data, x.data, &m, bias.data, T);
                linear(e, plain.data, x.data, &m, NULL, T);
                linear_f32(e, f.data, x.data, &m, T);
                for (int t = 0; t < T; t++)
                    for (int n = 0; n < N; n++) {
                        double sum = 0, size = 0;
                        for (int k = 0; k < K; k++) {
                            double v = get(&x, (size_t)t * K + k) * get(&w, (size_t)n * K + k);
                            sum += v;
                            size += fabs(v);
                        }
                        size_t i = (size_t)t * N + n;
                        double slack = 1e-7 + size * 0x1p-22;
                        expect_close(get(&f, i), sum, slack, 0, "linear_f32", i);
                        expect_close(get(&plain, i), sum, slack, epsilon(act), "linear", i);
                        expect_close(get(&y, i), sum + get(&bias, n), slack, 1.01 * epsilon(act), "linear + bias", i);
                    }
                struct buffer *all[] = {&x, &bias, &w, &y, &plain, &f};
                for (int i = 0; i < 6; i++) buffer_free(all[i]);
            }
}
Test(kernels, linear) { for_each_exec(linears); }

/* A row's bits: alone, in batches of any size and place, under any number of threads. */
static void check_linear_bits(const char *table, enum dtype act, enum dtype wt) {
    enum { T = 150, N = 83, K = 331 };
    static const int sizes[] = {1, 2, 3, 5, 15, 16, 17, 32, 63, 64, 65, 150};
    seed_values(3);
    struct buffer x = buffer_random(act, (size_t)T * K, 1), w = buffer_random(wt, (size_t)N * K, 1);
    struct buffer bias = buffer_random(act, N, 1);
    struct matrix m = {.dtype = wt, .rows = N, .cols = K, .data = w.data};
    struct buffer all = buffer_new(act, (size_t)T * N), logits = buffer_new(DTYPE_F32, (size_t)T * N);
    struct buffer y = buffer_new(act, (size_t)T * N), f = buffer_new(DTYPE_F32, (size_t)T * N);
    for (int threads = 1; threads <= 3; threads++) {
        struct exec *e = exec_new(table, act, threads);
        if (threads == 1) {
            linear(e, all.data, x.data, &m, bias.data, T);
            linear_f32(e, logits.data, x.data, &m, T);
        }
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (int t = 0; t < T; t += sizes[s]) {
                int n = T - t < sizes[s] ? T - t : sizes[s];
                /* Operands are 64-byte aligned, so a batch is copied to the front. */
                struct buffer part = buffer_new(act, (size_t)n * K);
                memcpy(part.data, (char *)x.data + (size_t)t * K * dtype_bytes(act), (size_t)n * K * dtype_bytes(act));
                linear(e, y.data, part.data, &m, bias.data, n);
                linear_f32(e, f.data, part.data, &m, n);
                cr_assert(!memcmp(y.data, (char *)all.data + (size_t)t * N * dtype_bytes(act),
                                  (size_t)n * N * dtype_bytes(act)), "%s: batches of %d, %d threads", table, sizes[s],
                          threads);
                cr_assert(!memcmp(f.data, (float *)logits.data + (size_t)t * N, (size_t)n * N * sizeof(float)),
                          "%s: logits in batches of %d, %d threads", table, sizes[s], threads);
                buffer_free(&part);
            }
        }
        exec_close(e);
    }
    struct buffer *used[] = {&x, &w, &bias, &all, &logits, &y, &f};
    for (int i = 0; i < 7; i++) buffer_free(used[i]);
}

Test(kernels, linear_rows_keep_their_bits) {
    const char *const *tables;
    int n = exec__cpu_tables(&tables);
    for (int i = 0; i < n; i++)
        for (size_t a = 0; a < 3; a++)
            for (size_t d = 0; d < 3; d++) check_linear_bits(tables[i], act_dtypes[a], act_dtypes[d]);
}

/* ---- rope and the KV store -------------------------------------------------------------------------------------- */

static double e4m3(uint8_t h) {
    double v = (h >> 3 & 15) ? ldexp(8 + (h & 7), (h >> 3 & 15) - 10) : ldexp(h & 7, -9);
    return h & 0x80 ? -v : v;
}

/* Element i of K (which 0) or V (1) of position p of sequence b, as attention will see it. */
static double kv_get(const struct test_kv *kv, int layer, int b, int p, int which, int k, int i) {
    const struct kv_layout *a = &kv->cache.layout;
    char *block = (char *)kv->cache.pool + (size_t)kv->table[b * kv->max_blocks + p / a->P] * a->granule_bytes +
                  (size_t)layer * a->layer_bytes;
    size_t row = ((size_t)which * a->K + k) * a->P + p % a->P, n = 2 * (size_t)a->K * a->P * a->D;
    if (a->dtype == DTYPE_F8_E4M3)
        return e4m3(((uint8_t *)block)[row * a->D + i]) * ((float *)(block + n))[row];
    struct buffer view = {.dtype = a->dtype, .data = block};
    return get(&view, row * a->D + i);
}

static void check_rope(struct exec *e, bool fp8, int H, int K, int D, int P, bool norm) {
    enum dtype act = e->options.dtype, kv_dtype = fp8 ? DTYPE_F8_E4M3 : act;
    enum { B = 3, LAYER = 1, MAX = 64 };
    const int kv_len[B] = {1, 2 * P + 1, P}, n_query[B] = {1, P + 2, 1};
    struct test_kv kv = test_kv_new(kv_dtype, 3, K, D, P, B, MAX);
    struct test_batch s = test_batch_new(B, kv_len, n_query, kv.table, kv.max_blocks);
    int T = s.batch.T, W = (H + 2 * K) * D;
    struct buffer qkv = buffer_random(act, (size_t)T * W, 2), q = buffer_new(act, (size_t)T * H * D);
    struct buffer qn = buffer_random(act, D, 1), kn = buffer_random(act, D, 1);
    struct buffer table = buffer_new(DTYPE_F32, (size_t)MAX * D);
    struct rope rope = {.cos_sin = table.data, .max_positions = MAX, .D = D};
    rope_table(table.data, MAX, D, 1e4f, act);
    qk_norm_rope_store(e, q.data, &kv.cache, LAYER, qkv.data, norm ? qn.data : NULL, norm ? kn.data : NULL, NULL, &rope,
                       &s.batch, H, 1e-6f);
    double *head = malloc((size_t)D * sizeof *head), *turned = malloc((size_t)D * sizeof *turned);
    for (int t = 0; t < T; t++)
        for (int h = 0; h < H + 2 * K; h++) {
            int p = s.positions[t], b = s.seq_of[t];
            double sum = 0, max = 0;
            for (int i = 0; i < D; i++) head[i] = get(&qkv, (size_t)t * W + (size_t)h * D + i);
            for (int i = 0; i < D; i++) sum += head[i] * head[i];
            if (norm && h < H + K)
                for (int i = 0; i < D; i++)
                    head[i] = rounded(rounded(head[i] / sqrt(sum / D + 1e-6), act) * get(h < H ? &qn : &kn, i), act);
            for (int i = 0; i < D; i++) {
                int j = i % (D / 2);
                double angle = p * pow(1e4, -2.0 * j / D), c = rounded(cos(angle), act), z = rounded(sin(angle), act);
                turned[i] = i < D / 2 ? head[j] * c - head[j + D / 2] * z : head[j + D / 2] * c + head[j] * z;
                if (h >= H + K) turned[i] = head[i];
                max = fmax(max, fabs(turned[i]));
            }
            for (int i = 0; i < D; i++) {
                double found = h < H ? get(&q, ((size_t)t * H + h) * D + i)
                                     : kv_get(&kv, LAYER, b, p, h >= H + K, (h - H) % K, i);
                /* A norm's or a cosine's rounding may fall the other way in fp32: one step of the largest element. */
                double slack = 2.5 * epsilon(act) * max + 1e-6, rel = epsilon(act);
                if (h >= H && fp8) slack += max / 448 * 0x1p-10, rel = epsilon(DTYPE_F8_E4M3) * 1.01;
                expect_close(found, turned[i], slack, rel, "rope", (size_t)i);
            }
        }
    free(head);
    free(turned);
    struct buffer *all[] = {&qkv, &q, &qn, &kn, &table};
    for (int i = 0; i < 5; i++) buffer_free(all[i]);
    test_batch_free(&s);
    test_kv_free(&kv);
}

static void ropes(struct exec *e) {
    static const int shapes[][4] = {{1, 1, 2, 1}, {4, 2, 64, 16}, {7, 1, 12, 5}, {3, 3, 100, 7}, {8, 2, 128, 16}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int norm = 0; norm < 2; norm++)
            for (int fp8 = 0; fp8 < 2; fp8++) {
                if (fp8 && shapes[i][2] % 4) continue;
                check_rope(e, fp8, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], norm);
            }
}
Test(kernels, qk_norm_rope_store) { for_each_exec(ropes); }

Test(kernels, rope_table_is_that_of_hugging_face) {
    /* cos, sin of 1000 * 1e6^(-2i/128) in fp32, from torch 2.x: i = 0, 1, 32, 63. */
    enum { D = 128, MAX = 1001 };
    float *table = malloc(sizeof(float) * MAX * D);
    rope_table(table, MAX, D, 1e6f, DTYPE_F32);
    for (int i = 0; i < D / 2; i++) {
        double angle = 1000 * pow(1e6, -2.0 * i / D);
        expect_close(table[1000 * D + i], cos(angle), 1e-4, 0, "cos", (size_t)i);
        expect_close(table[1000 * D + D / 2 + i], sin(angle), 1e-4, 0, "sin", (size_t)i);
    }
    cr_assert_float_eq(table[1000 * D], 0.562379062f, 1e-7);
    rope_table(table, MAX, D, 1e6f, DTYPE_BF16);
    for (int i = 0; i < MAX * D; i++) cr_assert_eq(table[i], rounded(table[i], DTYPE_BF16));
    free(table);
}

/* ---- the exec --------------------------------------------------------------------------------------------------- */

Test(kernels, exec_opens_what_it_names) {
    struct exec *e = exec_new("cpu", DTYPE_BF16, 0);
    cr_assert(exec_n_threads(e) >= 1);
    cr_assert(!strncmp(exec_backend(e), "cpu ", 4), "%s", exec_backend(e));
    char *p = exec_alloc(e, 100), back[100];
    cr_assert_eq((uintptr_t)p % 64, 0);
    for (int i = 0; i < 100; i++) cr_assert_eq(p[i], 0);
    exec_upload(e, p, "0123456789", 10);
    exec_download(e, back, p, 100);
    cr_assert(!memcmp(back, "0123456789", 10) && !back[10]);
    exec_free(e, p);
    exec_free(e, NULL);
    exec__fail(e, "linear", "linear.c", 7, "first");
    exec__fail(e, "add", "norm.c", 8, "second");
    char err[ERR_BYTES];
    embed(e, NULL, NULL, NULL, NULL, 1); /* a no-op: the exec has failed */
    cr_assert_eq(exec_finish(e, err, sizeof err), STATUS_DEVICE);
    cr_assert_str_eq(err, "linear (linear.c:7): first");
    cr_assert_eq(exec_finish(e, err, sizeof err), 0);
    exec_close(e);
    exec_close(NULL);
    struct exec_options o = {.backend = "abacus", .max_tokens = 1, .max_rows = 1, .max_width = 1, .max_kv_len = 1,
                             .max_heads = 1, .max_head_dim = 1, .vocab = 1};
    cr_assert_eq(exec_open(&e, &o, err, sizeof err), STATUS_UNSUPPORTED);
    cr_assert(strstr(err, "abacus"));
    cr_assert_null(e);
}
