/* test_awq_large.c - products with 4-bit weights at many tokens against their CPU twins, and their times.
 *
 *     gpu_tests test_awq_large           correctness: awkward sizes, all epilogues; an identity, where weights show
 *     gpu_tests test_awq_large --time    the matrices of Qwen3-14B by T, beside cuBLASLt with f16 weights */
#include "tests/gpu/gpu_test.h"
#include "tests/gpu/gpu_time.h"

enum { GROUP = 128, N_INSTANCES = 12 };
static const float EPS = 1e-6f;

/* ---- a matrix on both sides -------------------------------------------------------------------------------------- */

struct awq_twin { /* owned */
    struct matrix cpu, gpu;
    void *cpu_base, *gpu_base;
};

static void pack(struct exec *e, struct matrix *w, void **base, int rows, int cols, const void *qweight,
                 const void *qzeros, const void *scales) {
    *w = (struct matrix){.format = MATRIX_AWQ, .dtype = DTYPE_F16, .rows = rows, .cols = cols, .group = GROUP};
    *base = exec_alloc(e, awq_bytes(e, rows, cols, GROUP));
    if (!*base) fprintf(stderr, "no memory for a matrix\n"), exit(1);
    awq_layout(e, w, *base);
    awq_pack(e, w, 0, rows, qweight, qzeros, scales);
}

/* Random weights, of such a size that sums of `cols` products with values below 1 are around 1. */
static struct awq_twin awq_random(struct gpu_test *t, int rows, int cols) {
    const size_t n = (size_t)rows * (size_t)cols, n_groups = n / GROUP;
    const float scale = 0.2f / sqrtf((float)cols);
    struct twin qweight = twin_poison(t, DTYPE_I32, n / 8), qzeros = twin_poison(t, DTYPE_I32, n_groups / 8);
    struct twin scales = twin_random(t, DTYPE_F16, n_groups, scale, 0.5f * scale);
    for (size_t i = 0; i < n / 8; i++) ((uint32_t *)qweight.cpu)[i] = gpu_test_u32(t);
    for (size_t i = 0; i < n_groups / 8; i++) ((uint32_t *)qzeros.cpu)[i] = gpu_test_u32(t);
    twin_upload(t, &qweight);
    twin_upload(t, &qzeros);
    struct awq_twin w;
    pack(t->cpu, &w.cpu, &w.cpu_base, rows, cols, qweight.cpu, qzeros.cpu, scales.cpu);
    pack(t->gpu, &w.gpu, &w.gpu_base, rows, cols, qweight.gpu, qzeros.gpu, scales.gpu);
    twin_free(t, &qweight), twin_free(t, &qzeros), twin_free(t, &scales);
    return w;
}

static void awq_free(struct gpu_test *t, struct awq_twin *w) {
    exec_free(t->cpu, w->cpu_base);
    exec_free(t->gpu, w->gpu_base);
}

/* ---- one case ---------------------------------------------------------------------------------------------------- */

enum op { LINEAR, LINEAR_BIAS, LINEAR_F32, LINEAR_ADD, NORM_LINEAR_SILU_MUL, N_OPS };
static const char *const op_names[] = {"linear", "linear+bias", "linear_f32", "linear_add", "norm_linear_silu_mul"};

static void check(struct gpu_test *t, const struct awq_twin *w, enum op op, int T) {
    const int rows = w->gpu.rows, cols = w->gpu.cols;
    const size_t n_x = (size_t)T * (size_t)cols, n_y = (size_t)T * (size_t)rows;
    if (op == NORM_LINEAR_SILU_MUL && rows % 32) return;
    struct twin x = twin_random(t, DTYPE_F16, n_x, 0, 1), bias = twin_random(t, DTYPE_F16, (size_t)rows, 0, 1);
    struct twin norm = twin_random(t, DTYPE_F16, (size_t)cols, 1, 0.5f), scratch = twin_poison(t, DTYPE_F16, n_x + n_y);
    struct twin y = op == LINEAR_ADD             ? twin_random(t, DTYPE_F16, n_y, 0, 1)
                    : op == NORM_LINEAR_SILU_MUL ? twin_poison(t, DTYPE_F16, n_y / 2)
                                                 : twin_poison(t, op == LINEAR_F32 ? DTYPE_F32 : DTYPE_F16, n_y);
    for (int side = 0; side < 2; side++) {
        struct exec *e = side ? t->gpu : t->cpu;
        const struct matrix *m = side ? &w->gpu : &w->cpu;
#define SIDE(a) (side ? (a).gpu : (a).cpu)
        switch (op) {
        case LINEAR: linear(e, SIDE(y), SIDE(x), m, NULL, T); break;
        case LINEAR_BIAS: linear(e, SIDE(y), SIDE(x), m, SIDE(bias), T); break;
        case LINEAR_F32: linear_f32(e, SIDE(y), SIDE(x), m, T); break;
        case LINEAR_ADD: linear_add(e, SIDE(y), SIDE(scratch), SIDE(x), m, T); break;
        case NORM_LINEAR_SILU_MUL:
            norm_linear_silu_mul(e, SIDE(y), (uint16_t *)SIDE(scratch) + n_x, SIDE(scratch), SIDE(x), SIDE(norm), EPS,
                                 m, T);
            break;
        case N_OPS: break;
        }
#undef SIDE
    }
    char name[96];
    snprintf(name, sizeof name, "%s T %d, %d x %d", op_names[op], T, rows, cols);
    /* Sums of fp32 in another order; a 16-bit result is off by its last bit here and there, and by some more where
     * x, gate and up were rounded before. */
    const double exact = op == LINEAR_F32 ? 0x1p-16 : 0x1p-11, bound = (op == NORM_LINEAR_SILU_MUL ? 16 : 4) * exact;
    twin_compare(t, name, &y, exact, bound, bound);
    twin_free(t, &x), twin_free(t, &bias), twin_free(t, &norm), twin_free(t, &scratch), twin_free(t, &y);
}

/* x is 1 where k = offset + token and 0 elsewhere: y is a part of w', to the bit. */
static void check_identity(struct gpu_test *t, const struct awq_twin *w, int T, int offset) {
    const int rows = w->gpu.rows, cols = w->gpu.cols;
    struct twin x = twin_random(t, DTYPE_F16, (size_t)T * (size_t)cols, 0, 0);
    struct twin y = twin_poison(t, DTYPE_F16, (size_t)T * (size_t)rows);
    for (int i = 0; i < T; i++) twin_set(&x, (size_t)i * (size_t)cols + (size_t)((offset + i) % cols), 1);
    twin_upload(t, &x);
    linear(t->cpu, y.cpu, x.cpu, &w->cpu, NULL, T);
    linear(t->gpu, y.gpu, x.gpu, &w->gpu, NULL, T);
    char name[96];
    snprintf(name, sizeof name, "identity T %d, %d x %d", T, rows, cols);
    twin_compare(t, name, &y, 0, 0, 0);
    twin_free(t, &x), twin_free(t, &y);
}

static void check_sizes(struct gpu_test *t) {
    static const int tokens[] = {65, 96, 127, 128, 129, 200, 255, 256, 257, 500, 1024};
    static const struct {
        int rows, cols;
    } sizes[] = {{16, 128}, {512, 384}, {1040, 640}, {1056, 1152}, {2560, 2048}, {17408, 256}};
    for (int i = 0; i < N_OF(sizes); i++) {
        struct awq_twin w = awq_random(t, sizes[i].rows, sizes[i].cols);
        for (int j = 0; j < N_OF(tokens); j++)
            for (enum op op = 0; op < N_OPS; op++)
                if (i < 3 || (int)op == j % N_OPS) check(t, &w, op, tokens[j]);
        check_identity(t, &w, 128, 0);
        check_identity(t, &w, 1024, 3);
        awq_free(t, &w);
    }
}

/* One case for each instance of the kernel as a chip of 132 SMs picks it, in the order of awq_large.cu's table; then
 * sizes that fill no tile. */
static void check_few(struct gpu_test *t) {
    static const struct {
        int rows, cols, T;
    } cases[] = {{16, 128, 65},     {8704, 128, 65},   {8704, 128, 128},  {11520, 128, 129}, {11520, 256, 176},
                 {11520, 640, 192}, {6400, 640, 1024}, {16, 1280, 1024},  {4096, 2048, 65},  {4096, 4096, 128},
                 {16, 1024, 65},    {16, 2048, 1024},  {1040, 640, 129},  {1056, 384, 257}};
    for (int i = 0; i < N_OF(cases); i++) {
        struct awq_twin w = awq_random(t, cases[i].rows, cases[i].cols);
        if (i < N_INSTANCES) check(t, &w, (enum op)(i % NORM_LINEAR_SILU_MUL), cases[i].T);
        else
            for (enum op op = 0; op < N_OPS; op++) check(t, &w, op, cases[i].T);
        awq_free(t, &w);
    }
}

/* The same product twice, to the bit. */
static void check_repeats(struct gpu_test *t, int rows, int cols, int T) {
    struct awq_twin w = awq_random(t, rows, cols);
    const size_t bytes = (size_t)T * (size_t)rows * 2;
    struct twin x = twin_random(t, DTYPE_F16, (size_t)T * (size_t)cols, 0, 1), y = twin_poison(t, DTYPE_F16, bytes / 2);
    char name[96], err[ERR_BYTES], *once = malloc(bytes), *again = malloc(bytes);
    linear(t->gpu, y.gpu, x.gpu, &w.gpu, NULL, T);
    exec_download(t->gpu, once, y.gpu, bytes);
    int n_differ = 0;
    for (int i = 0; i < 20; i++) {
        linear(t->gpu, y.gpu, x.gpu, &w.gpu, NULL, T);
        exec_download(t->gpu, again, y.gpu, bytes);
        n_differ += !!memcmp(once, again, bytes);
    }
    const bool failed = exec_finish(t->gpu, err, sizeof err);
    if (!failed) snprintf(err, sizeof err, "%d of 20 runs differ", n_differ);
    snprintf(name, sizeof name, "repeats T %d, %d x %d", T, rows, cols);
    gpu_test_verdict(t, !failed && n_differ == 0, name, err);
    free(once), free(again);
    twin_free(t, &x), twin_free(t, &y);
    awq_free(t, &w);
}

/* Products that need each other, enqueued at once and one at a time: kernels overlap, results must not show it. */
static void check_chain(struct gpu_test *t, int T) {
    enum { C = 5120, N_LINKS = 6 };
    struct awq_twin w = awq_random(t, C, C);
    const size_t n = (size_t)T * C;
    struct twin x[2] = {twin_random(t, DTYPE_F16, n, 0, 1), twin_poison(t, DTYPE_F16, n)},
                start = twin_random(t, DTYPE_F16, n, 0, 1);
    char name[96], err[ERR_BYTES], *results[2] = {malloc(2 * n), malloc(2 * n)};
    for (int waits = 0; waits < 2; waits++) {
        exec_upload(t->gpu, x[0].gpu, start.cpu, 2 * n);
        for (int i = 0; i < N_LINKS; i++) {
            linear(t->gpu, x[1].gpu, x[0].gpu, &w.gpu, NULL, T);
            if (waits) exec_finish(t->gpu, err, sizeof err);
            linear_add(t->gpu, x[0].gpu, x[1].gpu, x[1].gpu, &w.gpu, T);
            if (waits) exec_finish(t->gpu, err, sizeof err);
        }
        exec_download(t->gpu, results[waits], x[0].gpu, 2 * n);
    }
    const bool failed = exec_finish(t->gpu, err, sizeof err), equal = !memcmp(results[0], results[1], 2 * n);
    if (!failed) snprintf(err, sizeof err, "%s", equal ? "equal" : "results differ");
    snprintf(name, sizeof name, "chain T %d", T);
    gpu_test_verdict(t, !failed && equal, name, err);
    free(results[0]), free(results[1]);
    twin_free(t, &x[0]), twin_free(t, &x[1]), twin_free(t, &start);
    awq_free(t, &w);
}

/* ---- times ------------------------------------------------------------------------------------------------------- */

struct timing {
    struct exec *e;
    char *weights, *x, *y; /* of so many bytes, used in turns */
    size_t weights_bytes, x_bytes, y_bytes;
    int rows, cols, T;
};

/* The i-th piece of n bytes of a buffer. */
static void *turn(char *base, size_t base_bytes, size_t n, int i) {
    n = (n + 255) / 256 * 256;
    return base + (size_t)i % (base_bytes / n) * n;
}

static void run_awq(void *arg, int i) {
    const struct timing *t = arg;
    struct matrix w = {.format = MATRIX_AWQ, .dtype = DTYPE_F16, .rows = t->rows, .cols = t->cols, .group = GROUP};
    awq_layout(t->e, &w, turn(t->weights, t->weights_bytes, awq_bytes(t->e, t->rows, t->cols, GROUP), i));
    linear(t->e, turn(t->y, t->y_bytes, (size_t)t->T * (size_t)t->rows * 2, i),
           turn(t->x, t->x_bytes, (size_t)t->T * (size_t)t->cols * 2, i), &w, NULL, t->T);
}

/* Random bits; zeros above 15 make weights larger and nothing else. */
static void fill_awq(const struct timing *t) {
    const size_t bytes = (awq_bytes(t->e, t->rows, t->cols, GROUP) + 255) / 256 * 256;
    fill_random(t->e, t->weights, DTYPE_I32, t->weights_bytes / 4, 0, 0, 2);
    for (size_t at = 0; at + bytes <= t->weights_bytes; at += bytes) {
        struct matrix w = {.format = MATRIX_AWQ, .dtype = DTYPE_F16, .rows = t->rows, .cols = t->cols, .group = GROUP};
        awq_layout(t->e, &w, t->weights + at);
        fill_random(t->e, (void *)w.scales, DTYPE_F16, (size_t)t->rows * (size_t)t->cols / GROUP, 0.001f, 0.0005f, at);
    }
}

static void run_library(void *arg, int i) {
    const struct timing *t = arg;
    const struct matrix w = {.format = MATRIX_DENSE,
                             .dtype = DTYPE_F16,
                             .rows = t->rows,
                             .cols = t->cols,
                             .data = turn(t->weights, t->weights_bytes, (size_t)t->rows * (size_t)t->cols * 2, i)};
    probe_library_linear(t->e, turn(t->y, t->y_bytes, (size_t)t->T * (size_t)t->rows * 2, i),
                         turn(t->x, t->x_bytes, (size_t)t->T * (size_t)t->cols * 2, i), &w, t->T);
}

static void time_all(struct gpu_test *g) {
    static const struct {
        const char *name;
        int rows, cols;
    } matrices[] = {{"qkv", 7168, 5120}, {"o", 5120, 5120}, {"gate_up", 34816, 5120}, {"down", 5120, 17408}};
    static const int tokens[] = {65, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192};
    struct timing t = {
        .e = g->gpu, .weights_bytes = (size_t)2 << 30, .x_bytes = (size_t)1 << 29, .y_bytes = (size_t)1 << 30};
    t.weights = exec_alloc(t.e, t.weights_bytes);
    t.x = exec_alloc(t.e, t.x_bytes);
    t.y = exec_alloc(t.e, t.y_bytes);
    if (!t.weights || !t.x || !t.y) fprintf(stderr, "no memory\n"), exit(1);
    fill_random(t.e, t.x, DTYPE_F16, t.x_bytes / 2, 0, 1, 1);
    for (int i = 0; i < N_OF(matrices); i++)
        for (int j = 0; j < N_OF(tokens); j++) {
            t.rows = matrices[i].rows, t.cols = matrices[i].cols, t.T = tokens[j];
            const double flop = 2.0 * t.rows * t.cols * t.T;
            const int n = (int)(4e-3 / (flop / 7e14 + 5e-6)) + 2; /* some milliseconds */
            fill_awq(&t);
            const double awq = gpu_time(t.e, run_awq, &t, n);
            fill_random(t.e, t.weights, DTYPE_F16, t.weights_bytes / 2, 0, 0.05f, 2);
            const double library = gpu_time(t.e, run_library, &t, n);
            printf("%-8s T %5d  %9.2f us %6.1f TFLOP/s   cuBLASLt f16 %9.2f us %6.1f TFLOP/s   %.2fx\n",
                   matrices[i].name, t.T, awq, flop / awq * 1e-6, library, flop / library * 1e-6, library / awq);
            fflush(stdout);
        }
    exec_free(t.e, t.weights), exec_free(t.e, t.x), exec_free(t.e, t.y);
}

int main(int argc, char **argv) {
    struct gpu_test t = gpu_test_begin(argc, argv);
    gpu_test_open(&t, DTYPE_F16, (struct exec_options){.max_tokens = 8192});
    if (gpu_test_is_mode(&t, "--time")) {
        time_all(&t);
        gpu_test_close(&t);
        return 0;
    }
    if (t.quick) {
        check_few(&t);
        gpu_test_close(&t);
        return gpu_test_end(&t);
    }
    check_sizes(&t);
    check_repeats(&t, 5120, 5120, 100);
    check_repeats(&t, 2048, 11008, 300);
    check_repeats(&t, 34816, 5120, 130);
    check_chain(&t, 100);
    check_chain(&t, 250);
    check_chain(&t, 700);
    gpu_test_close(&t);
    return gpu_test_end(&t);
}
