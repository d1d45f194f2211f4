/* test_quantize.c - what a search for 4-bit weights is made of, against its CPU twins: rounding and packing to the bit,
 * sums within fp32's error, limits by the error that they lead to. */
#include "tests/gpu/gpu_test.h"

enum { GROUP = AWQ_GROUP };

struct matrix_twin { /* one matrix on both sides, and a rule for it */
    struct twin w, s, limit;
    struct matrix cpu, gpu;
};

static struct matrix_twin matrix_twin(struct gpu_test *t, int rows, int cols) {
    const size_t n = (size_t)rows * (size_t)cols;
    struct matrix_twin m = {.w = twin_random(t, t->act, n, 0, 0.3f),
                            .s = twin_random(t, DTYPE_F32, (size_t)cols, 1.5f, 1.4f),
                            .limit = twin_random(t, DTYPE_F32, n / GROUP, 0.2f, 0.15f)};
    for (int k = 0; k < GROUP; k++) { /* a group of zeros, and one of one sign */
        twin_set(&m.w, (size_t)k, 0);
        twin_set(&m.w, n - 1 - (size_t)k, 0.1f + 0.05f * gpu_test_value(t));
    }
    twin_upload(t, &m.w);
    m.cpu = (struct matrix){.format = MATRIX_DENSE, .dtype = t->act, .rows = rows, .cols = cols, .data = m.w.cpu};
    m.gpu = m.cpu;
    m.gpu.data = m.w.gpu;
    return m;
}

static void matrix_twin_free(struct gpu_test *t, struct matrix_twin *m) {
    twin_free(t, &m->w), twin_free(t, &m->s), twin_free(t, &m->limit);
}

static void compare_bits(struct gpu_test *t, const char *name, const struct twin *x) {
    char err[ERR_BYTES];
    const size_t bytes = x->n * dtype_bytes(x->dtype);
    if (exec_finish(t->gpu, err, sizeof err)) {
        gpu_test_verdict(t, false, name, err);
        return;
    }
    void *found = malloc(bytes);
    exec_download(t->gpu, found, x->gpu, bytes);
    const bool same = !memcmp(found, x->cpu, bytes);
    gpu_test_verdict(t, same, name, same ? "the same bits as on the CPU" : "other bits than on the CPU");
    free(found);
}

static void test_rounding(struct gpu_test *t, int rows, int cols, bool ruled) {
    char name[160];
    struct matrix_twin m = matrix_twin(t, rows, cols);
    const struct awq_rule cpu = {.s = ruled ? m.s.cpu : NULL, .limit = ruled ? m.limit.cpu : NULL};
    const struct awq_rule gpu = {.s = ruled ? m.s.gpu : NULL, .limit = ruled ? m.limit.gpu : NULL};
    struct twin out = twin_poison(t, t->act, m.w.n), divisor = twin_random(t, DTYPE_F32, (size_t)rows, 2, 1.5f);
    struct twin qweight = twin_poison(t, DTYPE_I32, m.w.n / 8), qzeros = twin_poison(t, DTYPE_I32, m.w.n / GROUP / 8);
    struct twin scales = twin_poison(t, DTYPE_F16, m.w.n / GROUP);
    awq_round(t->cpu, out.cpu, &m.cpu, &cpu);
    awq_round(t->gpu, out.gpu, &m.gpu, &gpu);
    awq_quantize(t->cpu, qweight.cpu, qzeros.cpu, scales.cpu, &m.cpu, &cpu, ruled ? divisor.cpu : NULL);
    awq_quantize(t->gpu, qweight.gpu, qzeros.gpu, scales.gpu, &m.gpu, &gpu, ruled ? divisor.gpu : NULL);
    const struct {
        const char *what;
        const struct twin *x;
    } outputs[] = {{"awq_round", &out}, {"qweight", &qweight}, {"qzeros", &qzeros}, {"scales", &scales}};
    for (int i = 0; i < N_OF(outputs); i++) {
        snprintf(name, sizeof name, "%s %s, %d x %d%s", outputs[i].what, dtype_name(t->act), rows, cols,
                 ruled ? ", scaled and clipped" : "");
        compare_bits(t, name, outputs[i].x);
    }
    twin_free(t, &out), twin_free(t, &divisor), twin_free(t, &qweight), twin_free(t, &qzeros), twin_free(t, &scales);
    matrix_twin_free(t, &m);
}

static void test_sums(struct gpu_test *t, int T, int C) {
    char name[128];
    struct twin a = twin_random(t, t->act, (size_t)T * C, 0, 1), b = twin_random(t, t->act, (size_t)T * C, 0, 1);
    struct twin columns = twin_random(t, DTYPE_F32, (size_t)C, 0, 1), rows = twin_random(t, DTYPE_F32, (size_t)T, 0, 1);
    column_abs_add(t->cpu, columns.cpu, a.cpu, T, C);
    column_abs_add(t->gpu, columns.gpu, a.gpu, T, C);
    snprintf(name, sizeof name, "column_abs_add %s, T %d, C %d", dtype_name(t->act), T, C);
    twin_compare(t, name, &columns, 1e-6, 1e-5, 1e-5);
    row_distance_add(t->cpu, rows.cpu, a.cpu, b.cpu, T, C);
    row_distance_add(t->gpu, rows.gpu, a.gpu, b.gpu, T, C);
    row_distance_add(t->cpu, rows.cpu, a.cpu, NULL, T, C);
    row_distance_add(t->gpu, rows.gpu, a.gpu, NULL, T, C);
    snprintf(name, sizeof name, "row_distance_add %s, T %d, C %d", dtype_name(t->act), T, C);
    twin_compare(t, name, &rows, 1e-6, 1e-5, 1e-5);
    twin_free(t, &a), twin_free(t, &b), twin_free(t, &columns), twin_free(t, &rows);
}

/* d' gram d of one row and group under a limit, by the CPU's rounding of a matrix that is that group alone. */
static double clip_error(struct gpu_test *t, const struct matrix_twin *m, const float *gram, int row, int g, float limit) {
    _Alignas(64) float w[8 * GROUP] = {0}, out[8 * GROUP];
    float limits[8] = {limit};
    double sum = 0;
    const float *s = (const float *)m->s.cpu + g * GROUP;
    for (int k = 0; k < GROUP; k++)
        w[k] = twin_get(t->act, m->w.cpu, (size_t)row * (size_t)m->cpu.cols + (size_t)(g * GROUP + k));
    const struct matrix one = {.format = MATRIX_DENSE, .dtype = DTYPE_F32, .rows = 8, .cols = GROUP, .data = w};
    const struct awq_rule rule = {.s = s, .limit = limits};
    awq_round(t->cpu, out, &one, &rule);
    for (int i = 0; i < GROUP; i++)
        for (int j = 0; j < GROUP; j++)
            sum += ((double)out[i] - w[i]) * gram[(g * GROUP + i) * GROUP + j] * ((double)out[j] - w[j]);
    return sum;
}

/* In fp32, so that clip_error can round with the same exec. Near ties the sides may choose differently: what counts is
 * the error that the GPU's choice leads to. */
static void test_clip(struct gpu_test *t, int T, int rows, int cols) {
    char name[128], detail[128];
    const int n_groups = cols / GROUP;
    struct matrix_twin m = matrix_twin(t, rows, cols);
    struct twin x = twin_random(t, t->act, (size_t)T * cols, 0, 1);
    struct twin gram = twin_random(t, DTYPE_F32, (size_t)cols * GROUP, 0, 0), limit = twin_poison(t, DTYPE_F32, m.limit.n);
    gram_add(t->cpu, gram.cpu, x.cpu, T, cols);
    gram_add(t->gpu, gram.gpu, x.gpu, T, cols);
    snprintf(name, sizeof name, "gram_add %s, T %d, C %d", dtype_name(t->act), T, cols);
    twin_compare(t, name, &gram, 2e-6, 2e-6 * T + 1e-5, 1e-5);
    awq_clip(t->cpu, limit.cpu, gram.cpu, &m.cpu, m.s.cpu);
    awq_clip(t->gpu, limit.gpu, gram.gpu, &m.gpu, m.s.gpu);
    float *found = malloc(limit.n * sizeof *found);
    exec_download(t->gpu, found, limit.gpu, limit.n * sizeof *found);
    size_t n_other = 0, n_worse = 0;
    for (size_t i = 0; i < limit.n; i++) {
        const float want = ((float *)limit.cpu)[i];
        const int row = (int)i / n_groups, g = (int)i % n_groups;
        if (found[i] == want) continue;
        n_other++;
        n_worse += !(clip_error(t, &m, gram.cpu, row, g, found[i]) <=
                     clip_error(t, &m, gram.cpu, row, g, want) * (1 + 1e-4));
    }
    snprintf(name, sizeof name, "awq_clip %s, %d x %d", dtype_name(t->act), rows, cols);
    snprintf(detail, sizeof detail, "%zu of %zu limits are not the CPU's, %zu lead to a larger error", n_other, limit.n,
             n_worse);
    gpu_test_verdict(t, !n_worse && n_other <= limit.n / 100, name, detail);
    free(found);
    twin_free(t, &x), twin_free(t, &gram), twin_free(t, &limit);
    matrix_twin_free(t, &m);
}

int main(int argc, char **argv) {
    static const enum dtype acts[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    static const int shapes[][2] = {{8, 128}, {40, 384}, {136, 640}, {512, 5120}};
    static const int tokens[] = {1, 16, 67, 1031};
    struct gpu_test t = gpu_test_begin(argc, argv);
    for (int a = 0; a < N_OF(acts); a++) {
        gpu_test_open(&t, acts[a], (struct exec_options){0});
        for (int i = 0; i < N_OF(shapes) - t.quick; i++) {
            test_rounding(&t, shapes[i][0], shapes[i][1], false);
            test_rounding(&t, shapes[i][0], shapes[i][1], true);
            test_sums(&t, tokens[i], 3 * shapes[i][1] - 27);
            if (t.act == DTYPE_F32) test_clip(&t, tokens[i] + GROUP, shapes[i][0], shapes[i][1]);
        }
        gpu_test_close(&t);
    }
    return gpu_test_end(&t);
}
