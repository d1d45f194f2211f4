/* test_awq.c - 4-bit matrices on the CUDA backend against their CPU twins, and their times.
 *
 *     gpu_test_awq [seed]            correctness: packing, unpacking, products in all epilogues at awkward and real sizes
 *     gpu_test_awq [seed] --time [n]   each matrix of the Qwen models by T, beside cuBLASLt (f16) and the read bandwidth
 *     gpu_test_awq [seed] --chain [n]  whole layers' products at few tokens in one graph, beside the time of their bytes
 *
 * n: of the first n models. */
#include "kernels/probe.h"
#include "tests/gpu/gpu_test.h"

enum { GROUP = 128 };
#define N_OF(a) ((int)(sizeof(a) / sizeof(a)[0]))

static const float EPS = 1e-6f;

/* kernels/cuda/awq_pack.cu */
void cuda__awq_unpack(struct exec *e, void *dense, const struct matrix *w, int first_row, int n_rows);

/* ---- matrices on both sides ------------------------------------------------------------------------------------------ */

/* Random by the backends' own generator, the same bits on both sides. */
static struct twin filled(struct gpu_test *t, enum dtype dtype, size_t n, float spread) {
    struct twin x = {.dtype = dtype, .n = n};
    x.cpu = exec_alloc(t->cpu, n * dtype_bytes(dtype));
    x.gpu = exec_alloc(t->gpu, n * dtype_bytes(dtype));
    if (!x.cpu || !x.gpu) fprintf(stderr, "no memory for %zu elements\n", n), exit(1);
    const uint64_t seed = gpu_test_u32(t);
    fill_random(t->cpu, x.cpu, dtype, n, 0, spread, seed);
    fill_random(t->gpu, x.gpu, dtype, n, 0, spread, seed);
    return x;
}

/* AutoAWQ's tensors of one part. */
struct part {
    int rows, cols;
    struct twin qweight, qzeros, scales;
};

static struct part part_random(struct gpu_test *t, int rows, int cols) {
    const size_t n = (size_t)rows * (size_t)cols;
    /* q - zero has a deviation of 6.5: products with x in [-1, 1) become about 1. */
    const float spread = 3.0f / (6.5f * sqrtf((float)cols));
    return (struct part){.rows = rows, .cols = cols, .qweight = filled(t, DTYPE_I32, n / 8, 0),
                         .qzeros = filled(t, DTYPE_I32, n / 8 / GROUP, 0), .scales = filled(t, DTYPE_F16, n / GROUP, spread)};
}

static void part_free(struct gpu_test *t, struct part *p) {
    twin_free(t, &p->qweight), twin_free(t, &p->qzeros), twin_free(t, &p->scales);
}

struct pair { /* one matrix on both sides */
    struct matrix cpu, gpu;
};

static struct matrix matrix_new(struct exec *e, int rows, int cols) {
    struct matrix w = {.format = MATRIX_AWQ, .dtype = DTYPE_F16, .rows = rows, .cols = cols, .group = GROUP};
    void *region = exec_alloc(e, awq_bytes(e, rows, cols, GROUP));
    if (!region) fprintf(stderr, "no memory for %d x %d\n", rows, cols), exit(1);
    awq_layout(e, &w, region);
    return w;
}

/* Stacks the parts. */
static struct pair pair_pack(struct gpu_test *t, const struct part *parts, int n_parts) {
    int rows = 0;
    char err[ERR_BYTES];
    for (int i = 0; i < n_parts; i++) rows += parts[i].rows;
    struct pair w = {matrix_new(t->cpu, rows, parts[0].cols), matrix_new(t->gpu, rows, parts[0].cols)};
    for (int i = 0, row = 0; i < n_parts; row += parts[i++].rows) {
        const struct part *p = &parts[i];
        awq_pack(t->cpu, &w.cpu, row, p->rows, p->qweight.cpu, p->qzeros.cpu, p->scales.cpu);
        awq_pack(t->gpu, &w.gpu, row, p->rows, p->qweight.gpu, p->qzeros.gpu, p->scales.gpu);
    }
    if (exec_finish(t->gpu, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
    return w;
}

static struct pair pair_random(struct gpu_test *t, int rows, int cols) {
    struct part p = part_random(t, rows, cols);
    struct pair w = pair_pack(t, &p, 1);
    part_free(t, &p);
    return w;
}

static void pair_free(struct gpu_test *t, struct pair *w) {
    exec_free(t->cpu, (void *)w->cpu.data);
    exec_free(t->gpu, (void *)w->gpu.data);
}

/* ---- packing and unpacking ------------------------------------------------------------------------------------------- */

static int nibble(const int32_t *words, size_t column) {
    static const int place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return (int)((uint32_t)words[column / 8] >> 4 * place[column % 8] & 15);
}

/* The formula, to the bit, for every row of every part. */
static void check_unpack(struct gpu_test *t, const int *rows, int n_parts, int cols) {
    struct part parts[3];
    int N = 0;
    for (int i = 0; i < n_parts; i++) N += rows[i], parts[i] = part_random(t, rows[i], cols);
    struct pair w = pair_pack(t, parts, n_parts);
    struct twin dense = twin_poison(t, DTYPE_F16, (size_t)N * (size_t)cols);
    for (int i = 0, first = 0; i < n_parts; first += rows[i++]) {
        const struct part *p = &parts[i];
        const size_t n = (size_t)p->rows, words = n / 8;
        for (size_t k = 0; k < (size_t)cols; k++)
            for (size_t r = 0; r < n; r++) {
                const int q = nibble((const int32_t *)p->qweight.cpu + k * words, r);
                const int z = nibble((const int32_t *)p->qzeros.cpu + k / GROUP * words, r);
                const float s = twin_get(DTYPE_F16, p->scales.cpu, k / GROUP * n + r);
                twin_set(&dense, ((size_t)first + r) * (size_t)cols + k, (float)(q - z) * s);
            }
    }
    char name[128];
    snprintf(name, sizeof name, "unpack %d x %d of %d parts", N, cols, n_parts);
    cuda__awq_unpack(t->gpu, dense.gpu, &w.gpu, 0, N);
    twin_compare(t, name, &dense, 0, 0, 0);
    if (N > 16) { /* a range of rows */
        twin_upload(t, &dense);
        const size_t row_bytes = (size_t)cols * 2;
        memmove(dense.cpu, (char *)dense.cpu + 16 * row_bytes, (size_t)(N - 16) * row_bytes);
        cuda__awq_unpack(t->gpu, dense.gpu, &w.gpu, 16, N - 16);
        dense.n = (size_t)(N - 16) * (size_t)cols;
        snprintf(name, sizeof name, "unpack %d x %d, from row 16 on", N, cols);
        twin_compare(t, name, &dense, 0, 0, 0);
    }
    twin_free(t, &dense);
    pair_free(t, &w);
    for (int i = 0; i < n_parts; i++) part_free(t, &parts[i]);
}

/* ---- products -------------------------------------------------------------------------------------------------------- */

static const char *const op_names[] = {"linear", "linear+bias", "linear_f32", "linear_add", "norm_linear+bias",
                                       "norm_linear_silu_mul"};
enum op { LINEAR, LINEAR_BIAS, LINEAR_F32, LINEAR_ADD, NORM_LINEAR_BIAS, NORM_LINEAR_SILU_MUL, N_OPS };

struct operands {
    struct twin x, norm, bias, y, scratch_x, scratch_y;
};

static void call(struct gpu_test *t, const struct operands *o, const struct pair *m, enum op op, int T, bool gpu) {
    struct exec *e = gpu ? t->gpu : t->cpu;
    const struct matrix *w = gpu ? &m->gpu : &m->cpu;
#define SIDE(a) (gpu ? o->a.gpu : o->a.cpu)
    switch (op) {
    case LINEAR: linear(e, SIDE(y), SIDE(x), w, NULL, T); break;
    case LINEAR_BIAS: linear(e, SIDE(y), SIDE(x), w, SIDE(bias), T); break;
    case LINEAR_F32: linear_f32(e, SIDE(y), SIDE(x), w, T); break;
    case LINEAR_ADD: linear_add(e, SIDE(y), SIDE(scratch_y), SIDE(x), w, T); break;
    case NORM_LINEAR_BIAS: norm_linear(e, SIDE(y), SIDE(scratch_x), SIDE(x), SIDE(norm), EPS, w, SIDE(bias), T); break;
    case NORM_LINEAR_SILU_MUL:
        norm_linear_silu_mul(e, SIDE(y), SIDE(scratch_y), SIDE(scratch_x), SIDE(x), SIDE(norm), EPS, w, T);
        break;
    case N_OPS: break;
    }
#undef SIDE
}

static struct operands operands_new(struct gpu_test *t, enum op op, int rows, int cols, int T) {
    struct operands o;
    const size_t n_x = (size_t)T * (size_t)cols, n_y = (size_t)T * (size_t)rows;
    const size_t n = op == NORM_LINEAR_SILU_MUL ? n_y / 2 : n_y;
    o.x = twin_random(t, DTYPE_F16, n_x, 0, 1);
    o.norm = twin_random(t, DTYPE_F16, (size_t)cols, 1, 0.5f);
    o.bias = twin_random(t, DTYPE_F16, (size_t)rows, 0, 1);
    o.scratch_x = twin_poison(t, DTYPE_F16, n_x);
    o.scratch_y = twin_poison(t, DTYPE_F16, n_y);
    o.y = op == LINEAR_ADD ? twin_random(t, DTYPE_F16, n, 0, 1) : twin_poison(t, op == LINEAR_F32 ? DTYPE_F32 : DTYPE_F16, n);
    return o;
}

static void operands_free(struct gpu_test *t, struct operands *o) {
    twin_free(t, &o->x), twin_free(t, &o->norm), twin_free(t, &o->bias), twin_free(t, &o->y);
    twin_free(t, &o->scratch_x), twin_free(t, &o->scratch_y);
}

static void check(struct gpu_test *t, const struct pair *w, enum op op, int T) {
    char name[128];
    if (op == NORM_LINEAR_SILU_MUL && w->cpu.rows % 32) return;
    struct operands o = operands_new(t, op, w->cpu.rows, w->cpu.cols, T);
    call(t, &o, w, op, T, false);
    call(t, &o, w, op, T, true);
    snprintf(name, sizeof name, "%s T %d, %d x %d", op_names[op], T, w->cpu.rows, w->cpu.cols);
    /* Sums are of the size of 1. A 16-bit result is off by its last bit here and there, and by a few where an
     * intermediate was rounded the other way; normalised x is larger. */
    const double ulp = op == LINEAR_F32 ? 0x1p-16 : 0x1p-11;
    twin_compare(t, name, &o.y, ulp, 6 * ulp, 6 * ulp);
    operands_free(t, &o);
}

static void check_sizes(struct gpu_test *t) {
    static const int tokens[] = {1, 2, 7, 8, 9, 16, 17, 33, 64, 65, 130};
    static const struct {
        int rows, cols;
    } sizes[] = {{16, 128}, {32, 128}, {48, 256}, {16, 5120}, {64, 1280}, {80, 1408}, {112, 2688}, {528, 384}, {4112, 128}};
    for (int i = 0; i < N_OF(sizes); i++) {
        struct pair w = pair_random(t, sizes[i].rows, sizes[i].cols);
        for (int j = 0; j < N_OF(tokens); j++)
            for (enum op op = 0; op < N_OPS; op++) check(t, &w, op, tokens[j]);
        pair_free(t, &w);
    }
}

static void check_models(struct gpu_test *t) {
    static const struct {
        enum op op;
        int rows, cols;
    } matrices[] = {{NORM_LINEAR_BIAS, 2560, 2048}, {LINEAR_ADD, 2048, 2048}, {NORM_LINEAR_SILU_MUL, 22016, 2048},
                    {LINEAR_ADD, 2048, 11008},      {LINEAR_BIAS, 7168, 5120}, {LINEAR_ADD, 5120, 5120},
                    {NORM_LINEAR_SILU_MUL, 34816, 5120}, {LINEAR_ADD, 5120, 17408}, {LINEAR_F32, 5120, 25600}};
    static const int few[] = {1, 5, 16, 64};
    for (int i = 0; i < N_OF(matrices); i++) {
        struct pair w = pair_random(t, matrices[i].rows, matrices[i].cols);
        for (int j = 0; j < N_OF(few); j++) check(t, &w, matrices[i].op, few[j]);
        pair_free(t, &w);
    }
}

/* Row 0 of T tokens has the bits that it has alone, as far as one kernel serves both (up to 8 tokens; the line tells where
 * they change); a norm within gives the bits of a pass of its own. */
static void check_bits(struct gpu_test *t, int rows, int cols) {
    enum { MAX_T = 130 };
    static const int tokens[] = {1, 2, 3, 5, 8, 9, 13, 16, 17, 24, 31, 33, 48, 64, 65, 130};
    const size_t row_bytes = (size_t)rows * sizeof(float);
    char detail[160], *alone = malloc(row_bytes), *among = malloc(row_bytes);
    struct pair w = pair_random(t, rows, cols);
    struct operands o = operands_new(t, LINEAR_F32, rows, cols, MAX_T);
    int same = 0, differs = 0;
    for (int i = 0; i < N_OF(tokens); i++) {
        call(t, &o, &w, LINEAR_F32, tokens[i], true);
        exec_download(t->gpu, i ? among : alone, o.y.gpu, row_bytes);
        const bool equal = !i || !memcmp(alone, among, row_bytes);
        if (equal && !differs) same = tokens[i];
        if (!equal && !differs) differs = tokens[i];
    }
    snprintf(detail, sizeof detail, "%d x %d: the bits of T 1 up to T %d, others from T %d (0: never)", rows, cols, same, differs);
    gpu_test_verdict(t, same >= 8, "a row alone and among others", detail);

    int n_differ = 0;
    for (int T = 1; T <= 9; T++) {
        rms_norm(t->gpu, o.scratch_x.gpu, o.x.gpu, o.norm.gpu, T, cols, EPS);
        linear(t->gpu, o.y.gpu, o.scratch_x.gpu, &w.gpu, NULL, T);
        exec_download(t->gpu, alone, o.y.gpu, row_bytes / 2);
        norm_linear(t->gpu, o.y.gpu, o.scratch_x.gpu, o.x.gpu, o.norm.gpu, EPS, &w.gpu, NULL, T);
        exec_download(t->gpu, among, o.y.gpu, row_bytes / 2);
        n_differ += !!memcmp(alone, among, row_bytes / 2);
    }
    snprintf(detail, sizeof detail, "%d x %d: %d of 9 T differ", rows, cols, n_differ);
    gpu_test_verdict(t, n_differ == 0, "norm inside and before", detail);
    operands_free(t, &o);
    pair_free(t, &w);
    free(alone);
    free(among);
}

/* ---- layers ---------------------------------------------------------------------------------------------------------- */

struct shape {
    const char *name;
    int C, F, q, kv; /* widths of q, and of k or v */
};
static const struct shape shapes[] = {{"Qwen3-14B", 5120, 17408, 5120, 1024}, {"Qwen2.5-3B", 2048, 11008, 2048, 256},
                                      {"Qwen3-32B", 5120, 25600, 8192, 1024}};

enum { MAX_LAYERS = 16, MAX_WIDTH = 51200 };

struct layers {
    const struct shape *shape;
    int n;
    struct matrix qkv[MAX_LAYERS], o[MAX_LAYERS], gate_up[MAX_LAYERS], down[MAX_LAYERS];
    char *residual, *x, *h, *scratch, *act, *norm; /* device */
};

/* Random words, as good as any for times; zeros may be beyond 15. */
static struct matrix matrix_random(struct gpu_test *t, int rows, int cols) {
    struct matrix w = matrix_new(t->gpu, rows, cols);
    const size_t n = (size_t)rows * (size_t)cols;
    fill_random(t->gpu, (void *)w.data, DTYPE_I32, n / 8, 0, 0, gpu_test_u32(t));
    fill_random(t->gpu, (void *)w.zeros, DTYPE_I32, n / GROUP / 4, 0, 0, gpu_test_u32(t));
    fill_random(t->gpu, (void *)w.scales, DTYPE_F16, n / GROUP, 0, 0.02f / sqrtf((float)cols), gpu_test_u32(t));
    return w;
}

static size_t matrix_bytes(const struct matrix *w) {
    const size_t n = (size_t)w->rows * (size_t)w->cols;
    return n / 2 + n / GROUP * 3;
}

static double layer_bytes(const struct layers *l) {
    return (double)(matrix_bytes(l->qkv) + matrix_bytes(l->o) + matrix_bytes(l->gate_up) + matrix_bytes(l->down));
}

static void layers_open(struct gpu_test *t, struct layers *l, const struct shape *s, int n) {
    *l = (struct layers){.shape = s, .n = n};
    for (int i = 0; i < n; i++) {
        l->qkv[i] = matrix_random(t, s->q + 2 * s->kv, s->C);
        l->o[i] = matrix_random(t, s->C, s->q);
        l->gate_up[i] = matrix_random(t, 2 * s->F, s->C);
        l->down[i] = matrix_random(t, s->C, s->F);
    }
    char **buffers[] = {&l->residual, &l->x, &l->h, &l->scratch, &l->act, &l->norm};
    for (int i = 0; i < 6; i++) *buffers[i] = exec_alloc(t->gpu, (size_t)64 * MAX_WIDTH * 2);
    fill_random(t->gpu, l->norm, DTYPE_F16, MAX_WIDTH, 1, 0.1f, 3);
}

static void layers_close(struct gpu_test *t, struct layers *l) {
    for (int i = 0; i < l->n; i++) {
        const struct matrix *w[] = {&l->qkv[i], &l->o[i], &l->gate_up[i], &l->down[i]};
        for (int j = 0; j < 4; j++) exec_free(t->gpu, (void *)w[j]->data);
    }
    void *buffers[] = {l->residual, l->x, l->h, l->scratch, l->act, l->norm};
    for (int i = 0; i < 6; i++) exec_free(t->gpu, buffers[i]);
}

/* The products of every layer, where the first rows of qkv stand for what attention gives. */
static void layers_run(struct gpu_test *t, const struct layers *l, int T, bool wait) {
    char err[ERR_BYTES];
    for (int i = 0; i < l->n; i++)
        for (int step = 0; step < 4; step++) {
            if (step == 0) norm_linear(t->gpu, l->h, l->x, l->residual, l->norm, EPS, &l->qkv[i], l->norm, T);
            if (step == 1) linear_add(t->gpu, l->residual, l->scratch, l->h, &l->o[i], T);
            if (step == 2)
                norm_linear_silu_mul(t->gpu, l->act, l->scratch, l->x, l->residual, l->norm, EPS, &l->gate_up[i], T);
            if (step == 3) linear_add(t->gpu, l->residual, l->scratch, l->act, &l->down[i], T);
            if (wait && exec_finish(t->gpu, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
        }
}

/* A graph, in which kernels overlap, gives the bits of one op at a time, again and again. */
static void check_overlap(struct gpu_test *t, const struct shape *s, int T) {
    struct layers l;
    layers_open(t, &l, s, 3);
    const size_t n = (size_t)T * (size_t)s->C;
    char detail[160], *expected = malloc(2 * n), *found = malloc(2 * n);
    fill_random(t->gpu, l.residual, DTYPE_F16, n, 0, 1, 5);
    layers_run(t, &l, T, true);
    exec_download(t->gpu, expected, l.residual, 2 * n);
    exec_graph_begin(t->gpu);
    fill_random(t->gpu, l.residual, DTYPE_F16, n, 0, 1, 5);
    layers_run(t, &l, T, false);
    struct exec_graph *graph = exec_graph_end(t->gpu);
    int n_differ = 0, n_odd = 0;
    for (int i = 0; i < 10 && graph; i++) {
        exec_graph_launch(t->gpu, graph);
        exec_download(t->gpu, found, l.residual, 2 * n);
        n_differ += !!memcmp(expected, found, 2 * n);
    }
    for (size_t i = 0; i < n; i++) n_odd += !isfinite(twin_get(DTYPE_F16, expected, i));
    snprintf(detail, sizeof detail, "%s T %d: %d of 10 runs differ, %d sums are not finite", s->name, T, n_differ, n_odd);
    gpu_test_verdict(t, graph && !n_differ && !n_odd, "layers in a graph", detail);
    exec_graph_close(t->gpu, graph);
    layers_close(t, &l);
    free(expected);
    free(found);
}

/* ---- times ----------------------------------------------------------------------------------------------------------- */

enum { N_REPEATS = 7, ROTATE_BYTES = 256 << 20 };

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median microseconds of a replay of what has been recorded. */
static double replay(struct gpu_test *t, struct exec_graph *graph) {
    char err[ERR_BYTES];
    double us[N_REPEATS];
    if (!graph) {
        fprintf(stderr, "%s\n", exec_finish(t->gpu, err, sizeof err) ? err : "no graph");
        exit(1);
    }
    for (int i = -2; i < N_REPEATS; i++) {
        exec_record(t->gpu, 0);
        exec_graph_launch(t->gpu, graph);
        exec_record(t->gpu, 1);
        if (exec_finish(t->gpu, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
        if (i >= 0) us[i] = exec_elapsed(t->gpu, 0, 1) * 1e6;
    }
    exec_graph_close(t->gpu, graph);
    qsort(us, N_REPEATS, sizeof *us, ascending);
    return us[N_REPEATS / 2];
}

/* Bytes per microsecond of a plain read. */
static double read_bandwidth(struct gpu_test *t) {
    const size_t bytes = (size_t)2 << 30;
    uint32_t *out = exec_alloc(t->gpu, 64);
    void *p = exec_alloc(t->gpu, bytes);
    exec_graph_begin(t->gpu);
    probe_read(t->gpu, out, p, bytes);
    const double us = replay(t, exec_graph_end(t->gpu));
    exec_free(t->gpu, out);
    exec_free(t->gpu, p);
    printf("read bandwidth %.0f GB/s\n", (double)bytes / us * 1e-3);
    return (double)bytes / us;
}

static const int few_tokens[] = {1, 2, 4, 8, 12, 16, 24, 32, 48, 64};

static void time_matrix(struct gpu_test *t, const char *name, int rows, int cols, double bandwidth, double *log_gain) {
    enum { MOST = 160 };
    struct matrix w[MOST];
    const size_t dense_bytes = (size_t)rows * (size_t)cols * 2;
    const int n = (int)(ROTATE_BYTES / (dense_bytes / 4)) + 2, n_dense = (int)(ROTATE_BYTES / dense_bytes) + 2;
    const int n_launches = n > 24 ? n : 24;
    for (int i = 0; i < n; i++) w[i] = matrix_random(t, rows, cols);
    struct matrix dense = {.format = MATRIX_DENSE, .dtype = DTYPE_F16, .rows = rows, .cols = cols};
    char *all = exec_alloc(t->gpu, (size_t)n_dense * dense_bytes);
    void *x = exec_alloc(t->gpu, (size_t)64 * (size_t)cols * 2), *y = exec_alloc(t->gpu, (size_t)64 * (size_t)rows * 2);
    fill_random(t->gpu, all, DTYPE_F16, (size_t)n_dense * dense_bytes / 2, 0, 0.02f, 1);
    fill_random(t->gpu, x, DTYPE_F16, (size_t)64 * (size_t)cols, 0, 1, 2);
    for (int j = 0; j < N_OF(few_tokens); j++) {
        const int T = few_tokens[j];
        exec_graph_begin(t->gpu);
        for (int i = 0; i < n_launches; i++) linear(t->gpu, y, x, &w[i % n], NULL, T);
        const double us = replay(t, exec_graph_end(t->gpu)) / n_launches, bytes = (double)matrix_bytes(w);
        exec_graph_begin(t->gpu);
        for (int i = 0; i < n_launches; i++) {
            dense.data = all + (size_t)(i % n_dense) * dense_bytes;
            probe_library_linear(t->gpu, y, x, &dense, T);
        }
        const double library = replay(t, exec_graph_end(t->gpu)) / n_launches;
        log_gain[j] += log(library / us);
        printf("%-18s T %2d %6d x %-5d %7.2f us %5.0f GB/s %5.1f%%   cuBLASLt f16 %7.2f us, %.2fx\n", name, T, rows, cols, us,
               bytes / us * 1e-3, 100 * bytes / us / bandwidth, library, library / us);
        fflush(stdout);
    }
    for (int i = 0; i < n; i++) exec_free(t->gpu, (void *)w[i].data);
    exec_free(t->gpu, all), exec_free(t->gpu, x), exec_free(t->gpu, y);
}

static void time_matrices(struct gpu_test *t, int n_shapes) {
    const double bandwidth = read_bandwidth(t);
    for (int i = 0; i < n_shapes; i++) {
        const struct shape *s = &shapes[i];
        const struct {
            const char *name;
            int rows, cols;
        } m[] = {{"qkv", s->q + 2 * s->kv, s->C}, {"o", s->C, s->q}, {"gate_up", 2 * s->F, s->C}, {"down", s->C, s->F}};
        double log_gain[N_OF(few_tokens)] = {0};
        char name[64];
        for (int j = 0; j < 4; j++) {
            snprintf(name, sizeof name, "%s %s", s->name, m[j].name);
            time_matrix(t, name, m[j].rows, m[j].cols, bandwidth, log_gain);
        }
        printf("%s, geometric mean of the gains:", s->name);
        for (int j = 0; j < N_OF(few_tokens); j++) printf("  T %d %.2fx", few_tokens[j], exp(log_gain[j] / 4));
        printf("\n");
    }
}

static void time_chain(struct gpu_test *t, int n_shapes) {
    const double bandwidth = read_bandwidth(t);
    for (int i = 0; i < n_shapes; i++) {
        struct layers l;
        layers_open(t, &l, &shapes[i], shapes[i].C < 4096 ? 12 : 6);
        for (int j = 0; j < N_OF(few_tokens); j++) {
            const int T = few_tokens[j];
            fill_random(t->gpu, l.residual, DTYPE_F16, (size_t)T * (size_t)shapes[i].C, 0, 1, 5);
            exec_graph_begin(t->gpu);
            layers_run(t, &l, T, false);
            const double us = replay(t, exec_graph_end(t->gpu)) / l.n, floor_us = layer_bytes(&l) / bandwidth;
            printf("chain %-10s T %2d: %8.2f us a layer, its bytes %8.2f us, %.1f%%\n", shapes[i].name, T, us, floor_us,
                   100 * floor_us / us);
            fflush(stdout);
        }
        layers_close(t, &l);
    }
}

int main(int argc, char **argv) {
    struct gpu_test t = {.seed = gpu_test_seed(argc, argv)};
    const char *mode = argc > 2 ? argv[2] : "";
    const int n = argc > 3 ? atoi(argv[3]) : N_OF(shapes), n_shapes = n < N_OF(shapes) ? n : N_OF(shapes);
    gpu_test_open(&t, DTYPE_F16, (struct exec_options){0});
    if (*mode) {
        printf("%s\n", exec_backend(t.gpu));
        if (!strcmp(mode, "--time")) time_matrices(&t, n_shapes);
        if (!strcmp(mode, "--chain")) time_chain(&t, n_shapes);
        gpu_test_close(&t);
        return 0;
    }
    check_unpack(&t, (int[]){16}, 1, 128);
    check_unpack(&t, (int[]){48, 16, 32}, 3, 384);
    check_unpack(&t, (int[]){272, 128, 128}, 3, 1280);
    check_sizes(&t);
    check_bits(&t, 48, 384);
    check_bits(&t, 2048, 2048);
    check_bits(&t, 1024, 5120);
    check_bits(&t, 256, 17408);
    check_models(&t);
    for (int T = 1; T <= 40; T += T == 1 ? 7 : T == 8 ? 8 : 24) {
        check_overlap(&t, &shapes[0], T);
        check_overlap(&t, &shapes[1], T);
    }
    gpu_test_close(&t);
    return gpu_test_end(&t);
}
