/* test_kernels_attention.c - attention over the paged KV cache: against double precision, and bit by bit the same
 * however a context is cut into steps, whoever shares the step, wherever the blocks lie. */
#include "kernels_test.h"

enum { LAYER = 1, N_LAYERS = 2 };

enum { MAX_POSITIONS = 600 };

static struct buffer table_new(int D, enum dtype act) {
    struct buffer table = buffer_new(DTYPE_F32, (size_t)MAX_POSITIONS * D);
    rope_table(table.data, MAX_POSITIONS, D, 1e4f, act);
    return table;
}

/* Stores the batch's k and v through the op that serving uses, and gives q back. */
static struct buffer store_biased(struct exec *e, const struct test_kv *kv, const struct buffer *qkv,
                                  const void *k_bias, const struct batch *batch, int H, const struct buffer *table) {
    const struct kv_layout *a = &kv->cache.layout;
    struct buffer q = buffer_new(e->options.dtype, (size_t)batch->T * H * a->D);
    struct rope rope = {.cos_sin = table->data, .max_positions = MAX_POSITIONS, .D = a->D};
    qk_norm_rope_store(e, q.data, &kv->cache, LAYER, qkv->data, NULL, NULL, k_bias, &rope, batch, H, 1e-6f);
    return q;
}

static struct buffer store(struct exec *e, const struct test_kv *kv, const struct buffer *qkv,
                           const struct batch *batch, int H, const struct buffer *table) {
    return store_biased(e, kv, qkv, NULL, batch, H, table);
}

static double e4m3(uint8_t h) {
    double v = (h >> 3 & 15) ? ldexp(8 + (h & 7), (h >> 3 & 15) - 10) : ldexp(h & 7, -9);
    return h & 0x80 ? -v : v;
}

static void load_row(double *out, const struct test_kv *kv, int b, int p, int which, int k) {
    const struct kv_layout *a = &kv->cache.layout;
    char *block = (char *)kv->cache.pool + (size_t)kv->table[b * kv->max_blocks + p / a->P] * a->granule_bytes +
                  (size_t)LAYER * a->layer_bytes;
    size_t row = ((size_t)which * a->K + k) * a->P + p % a->P, n = 2 * (size_t)a->K * a->P * a->D;
    struct buffer view = {.dtype = a->dtype, .data = block};
    for (int i = 0; i < a->D; i++)
        out[i] = a->dtype == DTYPE_F8_E4M3
                     ? e4m3(((uint8_t *)block)[row * a->D + i]) * (double)((float *)(block + n))[row]
                     : get(&view, row * a->D + i);
}

/* k += the bias of KV head k, rotated to position p. */
static void add_rotated(double *row, const struct buffer *bias, const struct buffer *table, int p, int k, int D) {
    for (int i = 0; i < D / 2; i++) {
        double a = get(bias, (size_t)k * D + i), b = get(bias, (size_t)k * D + D / 2 + i);
        double c = get(table, (size_t)p * D + i), s = get(table, (size_t)p * D + D / 2 + i);
        row[i] += a * c - b * s;
        row[i + D / 2] += b * c + a * s;
    }
}

/* bias: of k, or NULL. */
static void check_reference(const struct buffer *o, const struct buffer *q, const struct test_kv *kv,
                            const struct buffer *bias, const struct buffer *table, const struct batch *batch, int H,
                            enum dtype act) {
    const struct kv_layout *a = &kv->cache.layout;
    int D = a->D, group = H / a->K;
    double *s = malloc(sizeof(double) * 1200), *row = malloc(sizeof(double) * (size_t)D), *acc;
    acc = malloc(sizeof(double) * (size_t)D);
    for (int t = 0; t < batch->T; t++)
        for (int h = 0; h < H; h++) {
            int n = batch->positions[t] + 1, b = batch->seq_of[t];
            double max = -1e300, sum = 0, size = 0;
            for (int p = 0; p < n; p++) {
                load_row(row, kv, b, p, 0, h / group);
                if (bias) add_rotated(row, bias, table, p, h / group, D);
                s[p] = 0;
                for (int i = 0; i < D; i++) s[p] += row[i] * get(q, ((size_t)t * H + h) * D + i);
                s[p] /= sqrt(D);
                max = fmax(max, s[p]);
            }
            for (int i = 0; i < D; i++) acc[i] = 0;
            for (int p = 0; p < n; p++) {
                double w = exp(s[p] - max);
                load_row(row, kv, b, p, 1, h / group);
                sum += w;
                for (int i = 0; i < D; i++) acc[i] += w * row[i], size = fmax(size, fabs(row[i]));
            }
            for (int i = 0; i < D; i++)
                expect_close(get(o, ((size_t)t * H + h) * D + i), acc[i] / sum, size * 4e-6, epsilon(act), "attention",
                             ((size_t)t * H + h) * D + i);
        }
    free(s);
    free(row);
    free(acc);
}

enum { B = 6, MAX = 560 };

/* B sequences with kv_len tokens of context, n_query of them in the step. k_bias: how large, 0 for none. */
static void check_step(struct exec *e, enum dtype kv_dtype, float k_bias, int H, int K, int D, int P,
                       const int kv_len[B], const int n_query[B]) {
    enum dtype act = e->options.dtype;
    int everything[B];
    memcpy(everything, kv_len, sizeof everything);
    struct test_kv kv = test_kv_new(kv_dtype, N_LAYERS, K, D, P, B, MAX);
    struct test_batch fill = test_batch_new(B, kv_len, everything, kv.table, kv.max_blocks);
    struct buffer qkv = buffer_random(act, (size_t)fill.batch.T * (H + 2 * K) * D, 2);
    struct buffer bias = buffer_random(act, (size_t)K * D, k_bias), table = table_new(D, act);
    struct rope rope = {.cos_sin = table.data, .max_positions = MAX_POSITIONS, .D = D};
    const void *bias_data = k_bias ? bias.data : NULL;
    struct buffer unused = store_biased(e, &kv, &qkv, bias_data, &fill.batch, H, &table);
    struct test_batch s = test_batch_new(B, kv_len, n_query, kv.table, kv.max_blocks);
    size_t n = (size_t)s.batch.T * H * D;
    struct buffer q = buffer_random(act, n, 2), o = buffer_new(act, n);
    attention(e, o.data, q.data, &kv.cache, LAYER, bias_data, &rope, &s.batch, H);
    check_reference(&o, &q, &kv, k_bias ? &bias : NULL, &table, &s.batch, H, act);
    struct buffer *all[] = {&qkv, &bias, &table, &unused, &q, &o};
    for (int i = 0; i < 6; i++) buffer_free(all[i]);
    test_batch_free(&fill);
    test_batch_free(&s);
    test_kv_free(&kv);
}

static void check_ragged(struct exec *e, enum dtype kv_dtype, int H, int K, int D, int P) {
    const int kv_len[B] = {P, P + 1, P > 1 ? P - 1 : 1, 1, 3 * P + 2, 97}, n_query[B] = {1, 1, 1, 1, 2 * P, 31};
    check_step(e, kv_dtype, 0, H, K, D, P, kv_len, n_query);
    if (kv_dtype == DTYPE_F8_E4M3) check_step(e, kv_dtype, 3, H, K, D, P, kv_len, n_query);
}

static void ragged(struct exec *e) {
    /* H, K, D, P: group sizes 1, 2, 4, 7; head dims that fill no vector; block sizes that divide nothing. */
    static const int shapes[][4] = {{2, 2, 64, 16}, {4, 2, 64, 5},  {4, 1, 128, 32}, {7, 1, 12, 5},
                                    {14, 2, 100, 7}, {2, 1, 16, 1}, {4, 4, 36, 3}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_ragged(e, e->options.dtype, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]);
        check_ragged(e, DTYPE_F8_E4M3, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]);
    }
}
Test(attention, matches_double_precision) { for_each_exec(ragged); }

static void long_contexts(struct exec *e) {
    /* Around the places where a context is split, and more rows than one unit of work has. */
    static const int kv_len[B] = {530, 257, 256, 255, 513, 400}, n_query[B] = {1, 3, 1, 2, 1, 130};
    check_step(e, e->options.dtype, 0, 4, 2, 64, 16, kv_len, n_query);
    check_step(e, DTYPE_F8_E4M3, 0, 3, 1, 40, 7, kv_len, n_query);
    check_step(e, DTYPE_F8_E4M3, 3, 3, 1, 40, 7, kv_len, n_query);
}
Test(attention, matches_double_precision_over_long_contexts) { for_each_exec(long_contexts); }

/* One sequence of `len` tokens: its outputs when all are prefilled at once; then in chunks, beside other sequences, in
 * blocks that lie elsewhere, with other thread counts. */
static void check_bits(const char *table, enum dtype act, enum dtype kv_dtype, int H, int K, int D, int P, int len) {
    static const int chunks[] = {100000, 64, 7, 1};
    enum { COMPANIONS = 2 };
    size_t row = (size_t)H * D * dtype_bytes(act);
    seed_values(11);
    struct buffer qkv = buffer_random(act, (size_t)len * (H + 2 * K) * D, 2);
    struct buffer expected = buffer_new(act, (size_t)len * H * D), rope = table_new(D, act);
    for (int threads = 1; threads <= 3; threads++)
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            if (chunks[c] == 1 && len > 100 && threads < 3) continue; /* for time */
            bool first = threads == 1 && !c;
            struct exec *e = exec_new(table, act, threads);
            /* Companions: decodes of 5 and 40 tokens of context, their KV arbitrary but finite. */
            int n_other = c % (COMPANIONS + 1);
            struct test_kv kv = test_kv_new(kv_dtype, N_LAYERS, K, D, P, 1 + COMPANIONS, len + 64);
            memset(kv.pool.data, 0x11, kv.pool.n * 4);
            for (int p = 0; p < len; p += chunks[c]) {
                int n = len - p < chunks[c] ? len - p : chunks[c];
                int kv_len[3] = {5, 40, 0}, n_query[3] = {1, 1, 0};
                kv_len[n_other] = p + n, n_query[n_other] = n;
                /* Companions first, so that the sequence's rows start at n_other; its blocks are table row n_other. */
                struct test_batch s = test_batch_new(n_other + 1, kv_len, n_query, kv.table, kv.max_blocks);
                struct buffer in = buffer_random(act, (size_t)(n_other + n) * (H + 2 * K) * D, 2);
                size_t in_row = (size_t)(H + 2 * K) * D * dtype_bytes(act);
                memcpy((char *)in.data + n_other * in_row, (char *)qkv.data + p * in_row, n * in_row);
                struct buffer q = store(e, &kv, &in, &s.batch, H, &rope);
                struct buffer o = buffer_new(act, (size_t)(n_other + n) * H * D);
                attention(e, o.data, q.data, &kv.cache, LAYER, NULL, NULL, &s.batch, H);
                char *found = (char *)o.data + n_other * row, *want = (char *)expected.data + p * row;
                if (first) memcpy(want, found, n * row);
                cr_assert(!memcmp(found, want, n * row), "%s, %s KV: chunks of %d, %d threads, %d companions, at %d",
                          table, dtype_name(kv_dtype), chunks[c], threads, n_other, p);
                buffer_free(&in);
                buffer_free(&q);
                buffer_free(&o);
                test_batch_free(&s);
            }
            test_kv_free(&kv);
            exec_close(e);
        }
    buffer_free(&qkv);
    buffer_free(&rope);
    buffer_free(&expected);
}

Test(attention, keeps_its_bits_however_a_context_is_cut) {
    const char *const *tables;
    int n = exec__cpu_tables(&tables);
    for (int i = 0; i < n; i++)
        for (size_t a = 0; a < 3; a++) {
            check_bits(tables[i], act_dtypes[a], act_dtypes[a], 4, 2, 64, 16, 75);
            check_bits(tables[i], act_dtypes[a], DTYPE_F8_E4M3, 7, 1, 36, 5, 75);
            check_bits(tables[i], act_dtypes[a], a ? DTYPE_F8_E4M3 : act_dtypes[a], 2, 2, 128, 16, 530);
            if (a) check_bits(tables[i], act_dtypes[a], act_dtypes[a], 6, 2, 64, 16, 300);
        }
}
