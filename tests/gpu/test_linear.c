/* test_linear.c - the dense matrix products of the CUDA backend against their CPU twins, and their times.
 *
 *     gpu_tests test_linear            correctness: awkward and real sizes, all epilogues, bf16, f16 and f32
 *     gpu_tests test_linear --time     each matrix of the Qwen models by T, beside cuBLASLt and the read bandwidth
 *     gpu_tests test_linear --chain    whole layers' linears at few tokens in a graph, beside their bytes' time */
#include "tests/gpu/gpu_test.h"
#include "tests/gpu/gpu_time.h"

static const char *const op_names[] = {"linear",      "linear+bias",      "linear_f32",          "linear_add",
                                       "norm_linear", "norm_linear+bias", "norm_linear_silu_mul"};
enum op { LINEAR, LINEAR_BIAS, LINEAR_F32, LINEAR_ADD, NORM_LINEAR, NORM_LINEAR_BIAS, NORM_LINEAR_SILU_MUL, N_OPS };

static const float EPS = 1e-6f;

/* ---- one case ---------------------------------------------------------------------------------------------------- */

struct operands {
    struct twin w, x, norm, bias, y, scratch_x, scratch_y;
    int rows, cols;
};

static void call(struct gpu_test *t, const struct operands *o, enum op op, int T, bool gpu) {
    struct exec *e = gpu ? t->gpu : t->cpu;
#define SIDE(a) (gpu ? o->a.gpu : o->a.cpu)
    const struct matrix w = {
        .format = MATRIX_DENSE, .dtype = t->act, .rows = o->rows, .cols = o->cols, .data = SIDE(w)};
    switch (op) {
    case LINEAR: linear(e, SIDE(y), SIDE(x), &w, NULL, T); break;
    case LINEAR_BIAS: linear(e, SIDE(y), SIDE(x), &w, SIDE(bias), T); break;
    case LINEAR_F32: linear_f32(e, SIDE(y), SIDE(x), &w, T); break;
    case LINEAR_ADD: linear_add(e, SIDE(y), SIDE(scratch_y), SIDE(x), &w, T); break;
    case NORM_LINEAR: norm_linear(e, SIDE(y), SIDE(scratch_x), SIDE(x), SIDE(norm), EPS, &w, NULL, T); break;
    case NORM_LINEAR_BIAS: norm_linear(e, SIDE(y), SIDE(scratch_x), SIDE(x), SIDE(norm), EPS, &w, SIDE(bias), T); break;
    case NORM_LINEAR_SILU_MUL:
        norm_linear_silu_mul(e, SIDE(y), SIDE(scratch_y), SIDE(scratch_x), SIDE(x), SIDE(norm), EPS, &w, T);
        break;
    case N_OPS: break;
    }
#undef SIDE
}

static size_t outputs(const struct operands *o, enum op op, int T) {
    return (size_t)T * (size_t)(op == NORM_LINEAR_SILU_MUL ? o->rows / 2 : o->rows);
}

static void make_operands(struct gpu_test *t, struct operands *o, enum op op, int rows, int cols, int T) {
    *o = (struct operands){.rows = rows, .cols = cols};
    o->x = twin_random(t, t->act, (size_t)T * (size_t)cols, 0, 1);
    o->norm = twin_random(t, t->act, (size_t)cols, 1, 0.5f);
    o->bias = twin_random(t, t->act, (size_t)rows, 0, 1);
    o->scratch_x = twin_poison(t, t->act, (size_t)T * (size_t)cols);
    o->scratch_y = twin_poison(t, t->act, (size_t)T * (size_t)rows);
    const size_t n = outputs(o, op, T);
    if (op == LINEAR_ADD) o->y = twin_random(t, t->act, n, 0, 1);
    else o->y = twin_poison(t, op == LINEAR_F32 ? DTYPE_F32 : t->act, n);
}

static void free_operands(struct gpu_test *t, struct operands *o) {
    twin_free(t, &o->x), twin_free(t, &o->norm), twin_free(t, &o->bias), twin_free(t, &o->y);
    twin_free(t, &o->scratch_x), twin_free(t, &o->scratch_y);
}

static void check(struct gpu_test *t, enum op op, const struct twin *w, int rows, int cols, int T, bool in_graph) {
    struct operands o;
    char name[128];
    if (op == NORM_LINEAR_SILU_MUL && rows % 2) return;
    make_operands(t, &o, op, rows, cols, T);
    o.w = *w;
    call(t, &o, op, T, false);
    const bool recording = in_graph && exec_graph_begin(t->gpu);
    call(t, &o, op, T, true);
    struct exec_graph *graph = recording ? exec_graph_end(t->gpu) : NULL;
    if (graph) exec_graph_launch(t->gpu, graph);
    snprintf(name, sizeof name, "%s %s T %d, %d x %d%s", op_names[op], dtype_name(t->act), T, rows, cols,
             in_graph ? ", in a graph" : "");
    /* Sums are of the size of 1. A 16-bit result is off by its last bit here and there, and by a few where an
     * intermediate was rounded the other way. */
    const double ulp = t->act == DTYPE_BF16 ? 0x1p-8 : t->act == DTYPE_F16 ? 0x1p-11 : 0x1p-20;
    const double exact = op == LINEAR_F32 && t->act != DTYPE_F32 ? 0x1p-16 : ulp;
    const double rms = op == LINEAR_ADD ? 2 * exact : exact; /* one rounding more, or not */
    twin_compare(t, name, &o.y, rms, 4 * exact, 4 * exact);
    if (graph) exec_graph_close(t->gpu, graph);
    free_operands(t, &o);
}

/* ---- correctness ------------------------------------------------------------------------------------------------- */

static const int tokens[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 64, 65, 130};

static void check_sizes(struct gpu_test *t) {
    static const struct {
        int rows, cols;
    } sizes[] = {{1, 1},       {2, 8},       {7, 3},  {16, 64},   {130, 72},   {258, 1000},  {1022, 520}, {2049, 328},
                 {2560, 2048}, {4352, 1096}, {7, 64}, {130, 320}, {1022, 576}, {2049, 1088}, {9002, 448}, {300, 13120}};
    const int n = t->act == DTYPE_F32 ? 7 : N_OF(sizes);
    for (int i = 0; i < n; i++) {
        const int rows = sizes[i].rows, cols = sizes[i].cols;
        struct twin w = twin_filled(t, t->act, (size_t)rows * (size_t)cols, sqrtf(3.0f / (float)cols));
        for (int j = 0; j < N_OF(tokens); j++) {
            if (t->act != DTYPE_BF16 && j % 3) continue;
            for (enum op op = 0; op < N_OPS; op++) check(t, op, &w, rows, cols, tokens[j], false);
        }
        twin_free(t, &w);
    }
}

/* The exec's first product is one that is recorded and needs the library: nothing is warm. */
static void check_first(struct gpu_test *t) {
    struct twin w = twin_filled(t, t->act, (size_t)640 * 320, sqrtf(3.0f / 320));
    check(t, LINEAR_BIAS, &w, 640, 320, 130, true);
    twin_free(t, &w);
}

/* Inputs that are no multiple of 64, x in the ring and beside it, more blocks of rows than SMs; one and two tiles of
 * tokens. cuBLASLt's kernels for more tokens are left out: racecheck sees races in them. */
static void check_few(struct gpu_test *t) {
    static const struct {
        int rows, cols;
    } sizes[] = {{7, 3}, {130, 320}, {16, 13120}, {9002, 448}};
    static const int few[] = {1, 5, 9};
    for (int i = 0; i < (t->act == DTYPE_F32 ? 2 : N_OF(sizes)); i++) {
        const int rows = sizes[i].rows, cols = sizes[i].cols;
        struct twin w = twin_filled(t, t->act, (size_t)rows * (size_t)cols, sqrtf(3.0f / (float)cols));
        for (int j = 0; j < N_OF(few); j++)
            for (enum op op = 0; op < N_OPS; op++)
                if (rows < 1000 || (int)op % N_OF(few) == j) check(t, op, &w, rows, cols, few[j], false);
        twin_free(t, &w);
    }
}

static void check_models(struct gpu_test *t) {
    static const struct {
        enum op op;
        int rows, cols;
    } matrices[] = {{NORM_LINEAR_BIAS, 2560, 2048}, {LINEAR_ADD, 2048, 2048},  {NORM_LINEAR_SILU_MUL, 22016, 2048},
                    {LINEAR_ADD, 2048, 11008},      {NORM_LINEAR, 7168, 5120}, {LINEAR_ADD, 5120, 5120},
                    {NORM_LINEAR_SILU_MUL, 34816, 5120}, {LINEAR_ADD, 5120, 17408}, {LINEAR_F32, 151936, 2048},
                    {LINEAR_ADD, 5120, 25600}};
    static const int few[] = {1, 4, 8, 16, 64};
    for (int i = 0; i < N_OF(matrices); i++) {
        const int rows = matrices[i].rows, cols = matrices[i].cols;
        struct twin w = twin_filled(t, t->act, (size_t)rows * (size_t)cols, sqrtf(3.0f / (float)cols));
        for (int j = 0; j < N_OF(few); j++) check(t, matrices[i].op, &w, rows, cols, few[j], false);
        check(t, matrices[i].op, &w, rows, cols, 1, true);
        twin_free(t, &w);
    }
}

/* Row 0 of T tokens has the bits that it has alone, as far as one kernel serves both; a norm gives the bits of a pass
 * of its own. */
static void check_bits(struct gpu_test *t, int rows, int cols) {
    enum { MAX_T = 130 };
    const size_t row_bytes = (size_t)rows * dtype_bytes(t->act);
    char detail[160], *alone = malloc(row_bytes), *among = malloc(row_bytes);
    struct twin w = twin_filled(t, t->act, (size_t)rows * (size_t)cols, sqrtf(3.0f / (float)cols));
    struct operands o;
    make_operands(t, &o, LINEAR, rows, cols, MAX_T);
    o.w = w;
    call(t, &o, LINEAR, 1, true);
    exec_download(t->gpu, alone, o.y.gpu, row_bytes);
    int last_equal = 1, first_differs = 0;
    for (int i = 1; i < N_OF(tokens); i++) {
        call(t, &o, LINEAR, tokens[i], true);
        exec_download(t->gpu, among, o.y.gpu, row_bytes);
        const bool equal = !memcmp(alone, among, row_bytes);
        if (equal && !first_differs) last_equal = tokens[i];
        if (!equal && !first_differs) first_differs = tokens[i];
    }
    snprintf(detail, sizeof detail, "%d x %d: the bits of T 1 up to T %d, others from T %d (0: never)", rows, cols,
             last_equal, first_differs);
    gpu_test_verdict(t, last_equal >= 8, "a row alone and among others", detail);

    const struct matrix m = {.format = MATRIX_DENSE, .dtype = t->act, .rows = rows, .cols = cols, .data = w.gpu};
    int n_differ = 0;
    for (int T = 1; T <= 9; T++) {
        rms_norm(t->gpu, o.scratch_x.gpu, o.x.gpu, o.norm.gpu, T, cols, EPS);
        linear(t->gpu, o.y.gpu, o.scratch_x.gpu, &m, NULL, T);
        exec_download(t->gpu, alone, o.y.gpu, row_bytes);
        norm_linear(t->gpu, o.y.gpu, o.scratch_x.gpu, o.x.gpu, o.norm.gpu, EPS, &m, NULL, T);
        exec_download(t->gpu, among, o.y.gpu, row_bytes);
        n_differ += !!memcmp(alone, among, row_bytes);
    }
    snprintf(detail, sizeof detail, "%d x %d: %d of 9 T differ", rows, cols, n_differ);
    gpu_test_verdict(t, n_differ == 0, "norm inside and before", detail);
    free_operands(t, &o);
    twin_free(t, &w);
    free(alone);
    free(among);
}

/* ---- times ------------------------------------------------------------------------------------------------------- */

/* A device buffer that weights are cut from in turn, so that each is out of the L2 when it comes again. */
struct arena {
    char *base;
    size_t bytes, used;
};

static const void *cut(struct arena *a, size_t bytes) {
    bytes = (bytes + 255) / 256 * 256;
    if (a->used + bytes > a->bytes) a->used = 0;
    const void *p = a->base + a->used;
    a->used += bytes;
    return p;
}

/* Microseconds of one product. */
static double time_linear(struct gpu_test *t, struct arena *a, void *y, const void *x, int rows, int cols, int T,
                          bool f32, bool library) {
    const size_t bytes = (size_t)rows * (size_t)cols * 2;
    int n = (int)(((size_t)1 << 30) / bytes);
    n = n < 5 ? 5 : n > 100 ? 100 : n;
    a->used = 0;
    exec_graph_begin(t->gpu);
    for (int i = 0; i < n; i++) {
        const struct matrix w = {
            .format = MATRIX_DENSE, .dtype = t->act, .rows = rows, .cols = cols, .data = cut(a, bytes)};
        if (library) probe_library_linear(t->gpu, y, x, &w, T);
        else if (f32) linear_f32(t->gpu, y, x, &w, T);
        else linear(t->gpu, y, x, &w, NULL, T);
    }
    return gpu_time_graph(t->gpu, exec_graph_end(t->gpu)) / n;
}

struct shape {
    const char *name;
    int C, F, q, kv, layers, V; /* widths of q, and of k or v */
};
static const struct shape shapes[] = {{"Qwen3-14B", 5120, 17408, 5120, 1024, 40, 151936},
                                      {"Qwen2.5-3B", 2048, 11008, 2048, 256, 36, 151936},
                                      {"Qwen3-8B", 4096, 12288, 4096, 1024, 36, 151936},
                                      {"Qwen3-0.6B", 1024, 3072, 2048, 1024, 28, 151936},
                                      {"Qwen3-32B", 5120, 25600, 8192, 1024, 64, 151936}};

static void time_matrices(struct gpu_test *t, struct arena *a) {
    static const int Ts[] = {1, 2, 4, 8, 16, 32, 64, 128, 512, 2048};
    const double bandwidth = gpu_time_read_bandwidth(t->gpu);
    void *x = exec_alloc(t->gpu, (size_t)2048 * 25600 * 2), *y = exec_alloc(t->gpu, (size_t)2048 * 51200 * 2);
    fill_random(t->gpu, x, t->act, (size_t)2048 * 25600, 0, 1, 1);
    for (int i = 0; i < N_OF(shapes); i++) {
        const struct shape *s = &shapes[i];
        const struct {
            const char *name;
            int rows, cols;
        } m[] = {{"qkv", s->q + 2 * s->kv, s->C}, {"o", s->C, s->q}, {"gate_up", 2 * s->F, s->C}, {"down", s->C, s->F},
                 {"lm_head", s->V, s->C}};
        for (int j = 0; j < 5; j++)
            for (int k = 0; k < N_OF(Ts); k++) {
                if (j == 4 && Ts[k] > 64) continue;
                const double us = time_linear(t, a, y, x, m[j].rows, m[j].cols, Ts[k], j == 4, false);
                const double library = time_linear(t, a, y, x, m[j].rows, m[j].cols, Ts[k], j == 4, true);
                const double bytes = (double)m[j].rows * m[j].cols * 2;
                printf("%-10s %-7s T %4d %6d x %-5d %8.2f us %5.0f GB/s %5.1f%%  cuBLASLt %8.2f us, %.2fx\n", s->name,
                       m[j].name, Ts[k], m[j].rows, m[j].cols, us, bytes / us * 1e-3, 100 * bytes / us / bandwidth,
                       library, library / us);
                fflush(stdout);
            }
    }
    exec_free(t->gpu, x);
    exec_free(t->gpu, y);
}

/* The four products of a layer, one after the other, for many layers: what a decode step spends on its weights. */
static void time_chain(struct gpu_test *t, struct arena *a) {
    const double bandwidth = gpu_time_read_bandwidth(t->gpu);
    const size_t most = (size_t)64 * 51200 * 2;
    char *residual = exec_alloc(t->gpu, most), *x = exec_alloc(t->gpu, most), *qkv = exec_alloc(t->gpu, most),
         *gate_up = exec_alloc(t->gpu, most), *act = exec_alloc(t->gpu, most), *norm = exec_alloc(t->gpu, 1 << 20);
    fill_random(t->gpu, residual, t->act, most / 2, 0, 1, 1);
    fill_random(t->gpu, norm, t->act, 1 << 19, 1, 0.1f, 2);
    static const int Ts[] = {1, 2, 4, 8, 16, 32, 64};
    for (int i = 0; i < N_OF(shapes); i++)
        for (int j = 0; j < N_OF(Ts); j++) {
            const struct shape *s = &shapes[i];
            const int T = Ts[j], layers = s->layers < 12 ? s->layers : 12;
#define M(n_rows, n_cols)                                                                                              \
    &(struct matrix) {                                                                                                 \
        .format = MATRIX_DENSE, .dtype = t->act, .rows = n_rows, .cols = n_cols,                                       \
        .data = cut(a, (size_t)(n_rows) * (size_t)(n_cols) * 2)                                                        \
    }
            exec_graph_begin(t->gpu);
            for (int l = 0; l < layers; l++) {
                norm_linear(t->gpu, qkv, x, residual, norm, EPS, M(s->q + 2 * s->kv, s->C), norm, T);
                linear_add(t->gpu, residual, gate_up, qkv, M(s->C, s->q), T);
                norm_linear_silu_mul(t->gpu, act, gate_up, x, residual, norm, EPS, M(2 * s->F, s->C), T);
                linear_add(t->gpu, residual, gate_up, act, M(s->C, s->F), T);
            }
#undef M
            const double us = gpu_time_graph(t->gpu, exec_graph_end(t->gpu)) / layers;
            const double bytes = 2.0 * s->C * (2.0 * s->q + 2.0 * s->kv + 3.0 * s->F);
            const double floor_us = bytes / bandwidth;
            printf("chain %-10s T %2d: %8.2f us a layer, its bytes %8.2f us, %.1f%%\n", s->name, T, us, floor_us,
                   100 * floor_us / us);
            fflush(stdout);
        }
}

int main(int argc, char **argv) {
    struct gpu_test t = gpu_test_begin(argc, argv);
    const struct exec_options sizes = {.max_width = 1 << 18};
    if (t.mode) {
        gpu_test_open(&t, DTYPE_BF16, sizes);
        struct arena a = {.bytes = (size_t)4 << 30};
        a.base = exec_alloc(t.gpu, a.bytes);
        if (!a.base) fprintf(stderr, "no memory for weights\n"), exit(1);
        fill_random(t.gpu, a.base, DTYPE_BF16, a.bytes / 2, 0, 0.02f, 1);
        if (gpu_test_is_mode(&t, "--chain")) time_chain(&t, &a);
        else time_matrices(&t, &a);
        exec_free(t.gpu, a.base);
        gpu_test_close(&t);
        return 0;
    }
    static const enum dtype dtypes[] = {DTYPE_BF16, DTYPE_F16, DTYPE_F32};
    for (int i = 0; i < 3; i++) {
        gpu_test_open(&t, dtypes[i], sizes);
        if (t.quick) {
            check_few(&t);
        } else {
            check_first(&t);
            check_sizes(&t);
            if (t.act == DTYPE_BF16) check_models(&t);
            if (t.act != DTYPE_F32) {
                check_bits(&t, 2560, 2048);
                check_bits(&t, 1000, 17408);
            }
        }
        gpu_test_close(&t);
    }
    return gpu_test_end(&t);
}
