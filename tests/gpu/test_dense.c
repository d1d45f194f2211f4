/* test_dense.c - rag/dense.h on the GPU against the same on the CPU: scores of every row, rows fetched back, rows
 * dropped; sizes around the segments' ends. With --time: a million rows of 768, beside what the device reads. */
#include "gpu_test.h"
#include "gpu_time.h"
#include "rag/dense.h"

struct sides {
    struct exec *e[2];
    struct dense *d[2]; /* CPU, GPU */
    int dim;
    uint32_t n;
    float *rows; /* owned [n, dim] */
};

static void die(const char *err) {
    fprintf(stderr, "%s\n", err);
    exit(1);
}

static void sides_open(struct gpu_test *t, struct sides *s, int dim, uint32_t n) {
    char err[ERR_BYTES];
    static const char *const backends[] = {"cpu", "cuda"};
    const float **pointers = malloc(((size_t)n + 1) * sizeof *pointers);
    *s = (struct sides){.dim = dim, .n = n, .rows = malloc((size_t)n * (size_t)dim * sizeof(float))};
    if (!pointers || !s->rows) die("no memory");
    for (size_t i = 0; i < (size_t)n * (size_t)dim; i++) s->rows[i] = gpu_test_value(t) / 16;
    for (uint32_t i = 0; i < n; i++) pointers[i] = i % 13 == 5 ? NULL : s->rows + (size_t)i * (size_t)dim;
    for (int i = 0; i < 2; i++) {
        if (dense_exec_open(&s->e[i], backends[i], 0, dim, err, sizeof err)) die(err);
        s->d[i] = dense_open(s->e[i], dim);
        for (uint32_t at = 0, k; at < n; at += k) { /* in pieces, as documents come */
            k = 1 + (uint32_t)gpu_test_below(t, 5000);
            if (k > n - at) k = n - at;
            if (dense_add(s->d[i], pointers + at, k, err, sizeof err)) die(err);
        }
    }
    free(pointers);
}

static void sides_close(struct sides *s) {
    for (int i = 0; i < 2; i++) {
        dense_close(s->d[i]);
        exec_close(s->e[i]);
    }
    free(s->rows);
}

static void compare_scores(struct gpu_test *t, struct sides *s, const char *name) {
    char err[ERR_BYTES], detail[160];
    const uint32_t n = dense_rows(s->d[0]);
    float *scores[2], *query = malloc((size_t)s->dim * sizeof *query);
    double worst = 0;
    for (int i = 0; i < s->dim; i++) query[i] = gpu_test_value(t);
    for (int i = 0; i < 2; i++) {
        scores[i] = malloc(((size_t)n + 1) * sizeof **scores);
        if (!scores[i] || !query) die("no memory");
        memset(scores[i], 0xff, (size_t)n * sizeof **scores);
        if (dense_score(s->d[i], scores[i], query, err, sizeof err)) die(err);
    }
    for (uint32_t i = 0; i < n; i++) {
        const double d = fabs((double)scores[0][i] - (double)scores[1][i]);
        if (!(d <= worst)) worst = d;
    }
    snprintf(detail, sizeof detail, "%u and %u rows, scores differ by up to %.2e", n, dense_rows(s->d[1]), worst);
    gpu_test_verdict(t, n == dense_rows(s->d[1]) && worst <= 1e-5, name, detail);
    for (int i = 0; i < 2; i++) free(scores[i]);
    free(query);
}

static void compare_rows(struct gpu_test *t, struct sides *s, const char *name) {
    enum { N = 300 };
    char err[ERR_BYTES];
    uint32_t rows[N];
    const size_t bytes = (size_t)N * (size_t)s->dim * sizeof(float);
    float *found[2] = {malloc(bytes), malloc(bytes)};
    if (!found[0] || !found[1]) die("no memory");
    for (int i = 0; i < N; i++) rows[i] = (uint32_t)gpu_test_below(t, (int)dense_rows(s->d[0]));
    for (int i = 0; i < 2; i++)
        if (dense_gather(s->d[i], found[i], rows, N, err, sizeof err)) die(err);
    gpu_test_verdict(t, !memcmp(found[0], found[1], bytes), name, "300 rows, to the bit");
    free(found[0]);
    free(found[1]);
}

static void test_size(struct gpu_test *t, int dim, uint32_t n) {
    char name[96], err[ERR_BYTES];
    struct sides s;
    sides_open(t, &s, dim, n);
    snprintf(name, sizeof name, "dense, %u rows of %d", n, dim);
    compare_scores(t, &s, name);
    compare_rows(t, &s, name);
    uint64_t *live = calloc((size_t)n / 64 + 1, sizeof *live);
    if (!live) die("no memory");
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || gpu_test_below(t, 3)) live[i / 64] |= (uint64_t)1 << (i % 64);
    for (int i = 0; i < 2; i++)
        if (dense_compact(s.d[i], live, err, sizeof err)) die(err);
    snprintf(name, sizeof name, "dense, %u rows of %d, a third dropped", n, dim);
    compare_scores(t, &s, name);
    compare_rows(t, &s, name);
    free(live);
    sides_close(&s);
}

/* The whole of dense_score, scores on the host included: what a search waits for. */
static void time_million(void) {
    enum { ROWS = 1000000, DIM = 768, BATCH = 1000, RUNS = 30 };
    char err[ERR_BYTES];
    struct exec *e;
    if (dense_exec_open(&e, "cuda", 0, DIM, err, sizeof err)) die(err);
    const double bandwidth = gpu_time_read_bandwidth(e);
    struct dense *d = dense_open(e, DIM);
    float *rows = calloc((size_t)BATCH * DIM, sizeof *rows), *scores = malloc(ROWS * sizeof *scores), query[DIM] = {1};
    const float *pointers[BATCH];
    double ms[RUNS];
    if (!rows || !scores) die("no memory");
    for (int i = 0; i < BATCH; i++) {
        pointers[i] = rows + (size_t)i * DIM;
        rows[(size_t)i * DIM] = (float)i;
    }
    for (int i = 0; i < ROWS / BATCH; i++)
        if (dense_add(d, pointers, BATCH, err, sizeof err)) die(err);
    for (int i = -3; i < RUNS; i++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        if (dense_score(d, scores, query, err, sizeof err)) die(err);
        clock_gettime(CLOCK_MONOTONIC, &b);
        if (i >= 0) ms[i] = (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) * 1e-6;
    }
    qsort(ms, RUNS, sizeof *ms, gpu_time_order);
    printf("a million rows of %d: %.2f ms (best %.2f), of which reading the rows takes %.2f\n", DIM, ms[RUNS / 2],
           ms[0], (double)ROWS * DIM * 2 / bandwidth * 1e-3);
    free(rows);
    free(scores);
    dense_close(d);
    exec_close(e);
}

int main(int argc, char **argv) {
    struct gpu_test t = gpu_test_begin(argc, argv);
    if (gpu_test_is_mode(&t, "--time")) {
        time_million();
        return 0;
    }
    static const uint32_t sizes[] = {1, 255, 257, 1023, 1024, 1025, 5000, 70001};
    static const int dims[] = {384, 768, 100};
    for (int i = 0; i < N_OF(dims); i++)
        for (int j = 0; j < N_OF(sizes) - (t.quick || i ? 1 : 0); j++) test_size(&t, dims[i], sizes[j]);
    return gpu_test_end(&t);
}
