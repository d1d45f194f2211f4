/* test_kernels_awq.c - 4-bit matrices on every CPU table: packed from AutoAWQ's tensors in several parts, multiplied,
 * and compared with the formula in double precision; rows do not depend on the other tokens, to the bit. */
#include "kernels_test.h"

enum { GROUP = 128 };

/* AutoAWQ's tensors of one part, and what they mean. */
struct part {
    int rows, cols;
    int32_t *qweight, *qzeros; /* [cols, rows / 8], [cols / GROUP, rows / 8] */
    struct buffer scales;      /* [cols / GROUP, rows] f16 */
};

static struct part part_random(int rows, int cols) {
    struct part p = {.rows = rows, .cols = cols};
    size_t n = (size_t)cols * (size_t)rows / 8, n_zeros = n / GROUP;
    p.qweight = malloc(n * sizeof *p.qweight);
    p.qzeros = malloc(n_zeros * sizeof *p.qzeros);
    for (size_t i = 0; i < n; i++) p.qweight[i] = (int32_t)random_u32();
    for (size_t i = 0; i < n_zeros; i++) p.qzeros[i] = (int32_t)random_u32();
    p.scales = buffer_random(DTYPE_F16, n_zeros * 8, 0.02f);
    return p;
}

static void part_free(struct part *p) {
    free(p->qweight);
    free(p->qzeros);
    buffer_free(&p->scales);
}

/* Nibble i of a word is column [0, 2, 4, 6, 1, 3, 5, 7][i] of its eight. */
static int nibble(const int32_t *words, size_t column) {
    static const int columns[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    for (int i = 0; i < 8; i++)
        if (columns[i] == (int)(column % 8)) return (int)((uint32_t)words[column / 8] >> 4 * i & 15);
    return -1;
}

static double weight(const struct part *p, int row, int k) {
    size_t words = (size_t)p->rows / 8, group = (size_t)k / GROUP;
    int q = nibble(p->qweight + (size_t)k * words, (size_t)row), z = nibble(p->qzeros + group * words, (size_t)row);
    return rounded((q - z) * get(&p->scales, group * (size_t)p->rows + (size_t)row), DTYPE_F16);
}

static void products(struct exec *e) {
    static const int shapes[][4] = {{16, 0, 0, 128}, {32, 16, 16, 256}, {48, 16, 0, 640}, {128, 32, 32, 384}};
    static const int tokens[] = {1, 2, 3, 4, 5, 7, 64, 67};
    if (e->options.dtype != DTYPE_F16) return;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int K = shapes[s][3], N = 0, n_parts = 0;
        struct part parts[3];
        for (; n_parts < 3 && shapes[s][n_parts]; n_parts++) parts[n_parts] = part_random(shapes[s][n_parts], K);
        for (int i = 0; i < n_parts; i++) N += parts[i].rows;
        struct matrix w = {.format = MATRIX_AWQ, .dtype = DTYPE_F16, .rows = N, .cols = K, .group = GROUP};
        struct buffer region = buffer_new(DTYPE_F32, awq_bytes(e, N, K, GROUP) / 4);
        awq_layout(e, &w, region.data);
        double *dense = malloc((size_t)N * (size_t)K * sizeof *dense);
        for (int i = 0, first = 0; i < n_parts; first += parts[i++].rows) {
            awq_pack(e, &w, first, parts[i].rows, parts[i].qweight, parts[i].qzeros, parts[i].scales.data);
            for (int n = 0; n < parts[i].rows; n++)
                for (int k = 0; k < K; k++)
                    dense[(size_t)(first + n) * (size_t)K + (size_t)k] = weight(&parts[i], n, k);
        }
        struct buffer bias = buffer_random(DTYPE_F16, (size_t)N, 1), first_row = buffer_new(DTYPE_F32, (size_t)N);
        for (size_t ti = 0; ti < sizeof tokens / sizeof *tokens; ti++) {
            int T = tokens[ti];
            size_t n_y = (size_t)T * (size_t)N;
            seed_values(11); /* so that token 0 is the same for every T */
            struct buffer x = buffer_random(DTYPE_F16, (size_t)T * (size_t)K, 1);
            struct buffer y = buffer_new(DTYPE_F16, n_y), logits = buffer_new(DTYPE_F32, n_y);
            linear(e, y.data, x.data, &w, bias.data, T);
            linear_f32(e, logits.data, x.data, &w, T);
            for (size_t i = 0; i < n_y; i++) {
                size_t t = i / (size_t)N, n = i % (size_t)N;
                double sum = 0, magnitude = 0;
                for (size_t k = 0; k < (size_t)K; k++) {
                    double product = get(&x, t * (size_t)K + k) * dense[n * (size_t)K + k];
                    sum += product;
                    magnitude += fabs(product);
                }
                expect_close(get(&logits, i), sum, 1e-6 * magnitude, 0, "logits", i);
                expect_close(get(&y, i), sum + get(&bias, n), 1e-6 * magnitude, epsilon(DTYPE_F16), "y", i);
            }
            if (!ti) memcpy(first_row.data, logits.data, (size_t)N * sizeof(float));
            cr_assert_arr_eq(first_row.data, logits.data, (size_t)N * sizeof(float));
            buffer_free(&x);
            buffer_free(&y);
            buffer_free(&logits);
        }
        for (int i = 0; i < n_parts; i++) part_free(&parts[i]);
        buffer_free(&bias);
        buffer_free(&first_row);
        buffer_free(&region);
        free(dense);
    }
}
Test(awq, products) { for_each_exec(products); }
