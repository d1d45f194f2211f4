#include "benchmarks/measure.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_quantile(double *values, size_t n, double p) {
    if (!n) return 0;
    qsort(values, n, sizeof *values, by_value);
    const double at = p * (double)(n - 1);
    const size_t i = (size_t)at;
    return i + 1 < n ? values[i] + (at - (double)i) * (values[i + 1] - values[i]) : values[n - 1];
}

/* ---- operands ---------------------------------------------------------------------------------------------------- */

int bench_arena_open(struct bench *b, size_t want, char *err, size_t err_bytes) {
    size_t free_bytes, total_bytes;
    exec_memory(b->e, &free_bytes, &total_bytes);
    if (want > free_bytes / 4 * 3) want = free_bytes / 4 * 3;
    want = want / 256 * 256;
    b->arena = exec_alloc(b->e, want);
    b->arena_bytes = want;
    if (!b->arena) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for %zu MB of operands", want >> 20);
    return 0;
}

void bench_arena_close(struct bench *b) {
    exec_free(b->e, b->arena);
    b->arena = NULL;
}

void *bench_memory(struct bench *b, size_t bytes) {
    bytes = (bytes + 255) / 256 * 256;
    if (b->is_full || bytes > b->arena_bytes - b->arena_used) {
        b->is_full = true;
        return NULL;
    }
    void *p = b->arena + b->arena_used;
    b->arena_used += bytes;
    return p;
}

void *bench_random(struct bench *b, enum dtype dtype, size_t n, float mean, float spread) {
    void *p = bench_memory(b, n * dtype_bytes(dtype));
    if (p) fill_random(b->e, p, dtype, n, mean, spread, ++b->seed);
    return p;
}

void *bench_upload(struct bench *b, const void *host, size_t bytes) {
    void *p = bench_memory(b, bytes);
    if (p) exec_upload(b->e, p, host, bytes);
    return p;
}

void *bench_indices(struct bench *b, size_t n, int first, int step, int modulus) {
    int32_t *host = malloc(n * sizeof *host);
    CHECK(host);
    for (size_t i = 0; i < n; i++) host[i] = (int32_t)(((int64_t)first + (int64_t)i * step) % modulus);
    void *p = bench_upload(b, host, n * sizeof *host);
    free(host);
    return p;
}

struct matrix bench_matrix(struct bench *b, enum dtype dtype, int rows, int cols, int group) {
    struct matrix w = {.dtype = dtype, .rows = rows, .cols = cols};
    const size_t n = (size_t)rows * (size_t)cols;
    if (!group) {
        w.data = bench_random(b, dtype, n, 0, 1.7f / sqrtf((float)cols)); /* outputs of about unit variance */
        return w;
    }
    w = (struct matrix){.format = MATRIX_AWQ, .dtype = DTYPE_F16, .rows = rows, .cols = cols, .group = group};
    void *base = bench_memory(b, awq_bytes(b->e, rows, cols, group));
    /* What a checkpoint would hold, only until it is packed. */
    const size_t mark = b->arena_used, n_groups = (size_t)cols / (size_t)group;
    const int32_t *qweight = bench_random(b, DTYPE_I32, n / 8, 0, 0);
    const int32_t *qzeros = bench_random(b, DTYPE_I32, n_groups * (size_t)rows / 8, 0, 0);
    const uint16_t *scales =
        bench_random(b, DTYPE_F16, n_groups * (size_t)rows, 0.3f / sqrtf((float)cols), 0.1f / sqrtf((float)cols));
    if (b->is_full) return w;
    awq_layout(b->e, &w, base);
    awq_pack(b->e, &w, 0, rows, qweight, qzeros, scales);
    b->arena_used = mark;
    return w;
}

double bench_matrix_bytes(enum dtype dtype, int rows, int cols, int group) {
    const double n = (double)rows * cols;
    return group ? n / 2 + n / group * 2.5 : n * (double)dtype_bytes(dtype);
}

/* ---- timing ------------------------------------------------------------------------------------------------------ */

enum { GRAPH_LAUNCHES_MAX = 2000, GPU_SAMPLES_MAX = 64, HOST_RUNS_MAX = 20000, SLOT = 0 };
static const double GRAPH_SECONDS = 2e-3;

/* Enqueues the graph, or n calls, `times` over and waits for the end. Seconds. */
static double run_all(struct bench *b, struct exec_graph *graph, bench_body *run, void *user, int n, int n_copies,
                      int times, int *status, char *err, size_t err_bytes) {
    const double start = bench_now();
    for (int k = 0; k < times; k++) {
        if (graph)
            exec_graph_launch(b->e, graph);
        else
            for (int i = 0; i < n; i++) run(b, user, i % n_copies);
    }
    exec_record(b->e, SLOT);
    *status = exec_wait(b->e, SLOT, err, err_bytes);
    return bench_now() - start;
}

static int record(struct exec_graph **graph, struct bench *b, bench_body *run, void *user, int n, int n_copies,
                  char *err, size_t err_bytes) {
    *graph = NULL;
    if (!exec_graph_begin(b->e)) return exec_finish(b->e, err, err_bytes);
    for (int i = 0; i < n; i++) run(b, user, i % n_copies);
    *graph = exec_graph_end(b->e);
    return exec_finish(b->e, err, err_bytes);
}

static int measure_gpu(struct bench_time *time, struct bench *b, bench_body *run, void *user, int n_copies,
                       bool no_graph, char *err, size_t err_bytes) {
    struct exec_graph *graph = NULL;
    int status = 0, n = n_copies;
    double once = 0;
    for (bool is_long = false;; is_long = true) { /* a graph of each set once, then one that lasts long enough */
        if (!no_graph) status = record(&graph, b, run, user, n, n_copies, err, err_bytes);
        if (!status) run_all(b, graph, run, user, n, n_copies, 1, &status, err, err_bytes);
        if (!status) once = run_all(b, graph, run, user, n, n_copies, 1, &status, err, err_bytes) / n;
        if (status || is_long || once * n >= GRAPH_SECONDS) break;
        n = ((int)fmin(GRAPH_SECONDS / once, GRAPH_LAUNCHES_MAX) / n_copies + 1) * n_copies;
        exec_graph_close(b->e, graph);
    }
    const int times = (int)fmin(1e5, ceil(b->sample_seconds / (once * n)));
    const int n_samples = b->n_samples < GPU_SAMPLES_MAX ? b->n_samples : GPU_SAMPLES_MAX;
    double samples[GPU_SAMPLES_MAX];
    if (!status) run_all(b, graph, run, user, n, n_copies, times, &status, err, err_bytes); /* clocks settle */
    for (int i = 0; i < n_samples && !status; i++)
        samples[i] = run_all(b, graph, run, user, n, n_copies, times, &status, err, err_bytes) / n / times;
    exec_graph_close(b->e, graph);
    if (status) return status;
    time->median = bench_quantile(samples, (size_t)n_samples, 0.5);
    time->best = samples[0];
    return 0;
}

/* A call has run when it returns: each is a sample, until the time of all samples is used up. */
static int measure_host(struct bench_time *time, struct bench *b, bench_body *run, void *user, int n_copies, char *err,
                        size_t err_bytes) {
    double *samples = malloc(HOST_RUNS_MAX * sizeof *samples);
    CHECK(samples);
    const double budget = b->sample_seconds * b->n_samples;
    const int least = b->n_samples < 3 ? b->n_samples : 3;
    size_t n = 0;
    for (double start = bench_now(); n < HOST_RUNS_MAX && ((int)n < least || bench_now() - start < budget); n++) {
        const double t = bench_now();
        run(b, user, (int)(n % (size_t)n_copies));
        samples[n] = bench_now() - t;
    }
    time->median = bench_quantile(samples, n, 0.5);
    time->best = samples[0];
    free(samples);
    return exec_finish(b->e, err, err_bytes);
}

int bench_measure(struct bench_time *time, struct bench *b, bench_body *run, void *user, int n_copies, bool no_graph,
                  char *err, size_t err_bytes) {
    *time = (struct bench_time){0};
    for (int i = 0; i < (b->is_gpu ? n_copies : 1); i++)
        if (!run(b, user, i)) return fail(err, err_bytes, STATUS_UNSUPPORTED, "not for these sizes");
    const int status = exec_finish(b->e, err, err_bytes);
    if (status) return status;
    if (b->is_gpu) return measure_gpu(time, b, run, user, n_copies, no_graph, err, err_bytes);
    return measure_host(time, b, run, user, n_copies, err, err_bytes);
}

/* ---- the limits -------------------------------------------------------------------------------------------------- */

struct peak_operands {
    void *x, *y, *out;
    struct matrix w;
    size_t bytes;
    int size;
};

static bool run_read(struct bench *b, void *user, int i) {
    struct peak_operands *o = user;
    (void)i;
    probe_read(b->e, o->out, o->x, o->bytes);
    return true;
}

static bool run_gemm(struct bench *b, void *user, int i) {
    struct peak_operands *o = user;
    (void)i;
    linear(b->e, o->y, o->x, &o->w, NULL, o->size);
    return true;
}

static bool run_least(struct bench *b, void *user, int i) {
    struct peak_operands *o = user;
    (void)i;
    add(b->e, o->y, o->x, 1, 64);
    return true;
}

int bench_measure_peaks(struct bench_peaks *peaks, struct bench *b, char *err, size_t err_bytes) {
    struct peak_operands o = {.size = peaks->gemm_size};
    struct bench_time t;
    const enum dtype act = peaks->act;
    int status;

    o.bytes = peaks->read_bytes;
    o.out = bench_memory(b, 256);
    o.x = bench_random(b, DTYPE_I32, o.bytes / 4, 0, 0);
    if (b->is_full) return fail(err, err_bytes, STATUS_NO_MEMORY, "no room to read %zu MB", o.bytes >> 20);
    if ((status = bench_measure(&t, b, run_read, &o, 1, false, err, err_bytes))) return status;
    peaks->read = (double)o.bytes / t.best;

    b->arena_used = 0;
    const size_t n = (size_t)o.size * (size_t)o.size;
    o.y = bench_memory(b, n * dtype_bytes(act));
    o.x = bench_random(b, act, n, 0, 1);
    o.w = bench_matrix(b, act, o.size, o.size, 0);
    if (b->is_full) return fail(err, err_bytes, STATUS_NO_MEMORY, "no room for a product of %d^3", o.size);
    if ((status = bench_measure(&t, b, run_gemm, &o, 1, false, err, err_bytes))) return status;
    peaks->gemm = 2.0 * (double)n * o.size / t.best;
    if ((status = bench_measure(&t, b, run_least, &o, 1, false, err, err_bytes))) return status;
    peaks->launch = t.median;
    b->arena_used = 0;
    return 0;
}

struct bench_peaks bench_peaks_wanted(enum dtype act, bool is_gpu) {
    return (struct bench_peaks){
        .act = act, .gemm_size = is_gpu ? 8192 : 1024, .read_bytes = is_gpu ? (size_t)4 << 30 : (size_t)256 << 20};
}

struct exec_options bench_exec_options(const char *backend, enum dtype act, int n_threads, int size) {
    return (struct exec_options){.backend = backend,
                                 .dtype = act,
                                 .n_threads = n_threads,
                                 .max_tokens = size,
                                 .max_rows = 1,
                                 .max_width = size,
                                 .max_kv_len = 1,
                                 .max_heads = 1,
                                 .max_head_dim = 64,
                                 .vocab = 1};
}

int bench_machine_peaks(struct bench_peaks *peaks, enum dtype act, const char *backend, int n_threads, char *err,
                        size_t err_bytes) {
    struct bench b = {.sample_seconds = 0.03, .n_samples = 5};
    const struct exec_options o = bench_exec_options(backend, act, n_threads, 8192);
    int status = exec_open(&b.e, &o, err, err_bytes);
    if (status) return status;
    b.is_gpu = exec_is_gpu(b.e);
    *peaks = bench_peaks_wanted(act, b.is_gpu);
    status = bench_arena_open(&b, peaks->read_bytes + ((size_t)1 << 20), err, err_bytes);
    if (!status) status = bench_measure_peaks(peaks, &b, err, err_bytes);
    bench_arena_close(&b);
    exec_close(b.e);
    return status;
}
