/* kernel_report.c - the results of `tandem bench kernels`, as tables for people and as JSON for programs. */
#include "benchmarks/kernel_plan.h"
#include "benchmarks/report.h"

#include <math.h>
#include <stdio.h>

/* ---- what a result means ----------------------------------------------------------------------------------------- */

const struct bench_result *bench_reference(const struct bench_result *results, int n, const struct bench_case *c) {
    if (c->kernel->is_reference || !c->same_as[0]) return NULL;
    for (int i = 0; i < n; i++)
        if (results[i].done && results[i].c->kernel->is_reference && !strcmp(results[i].c->same_as, c->same_as))
            return &results[i];
    return NULL;
}

double bench_floor(const char **bound, const struct bench_case *c, const struct bench_peaks *peaks) {
    const double memory = c->bytes / peaks->read, arithmetic = c->flops / peaks->gemm;
    *bound = memory >= arithmetic ? "memory" : "arithmetic";
    return fmax(memory, arithmetic);
}

/* ---- for people -------------------------------------------------------------------------------------------------- */

void bench_print_list(const struct bench_list *list) {
    const struct kernel_bench *kernel = NULL;
    for (int i = 0; i < list->n; i++) {
        char id[256];
        if (list->cases[i].kernel != kernel) {
            kernel = list->cases[i].kernel;
            printf("%s: %s\n", kernel->name, kernel->summary);
        }
        bench_case_id(id, sizeof id, &list->cases[i]);
        printf("  %s %s\n", id, dtype_name(list->cases[i].act));
    }
}

void bench_print_peaks(const struct exec *e, const struct bench_peaks *p) {
    printf("\n%s, %s: reads %.0f GB/s (%.1f GB), multiplies matrices at %.1f TFLOP/s (%d^3), smallest op %.2f us\n\n",
           exec_backend(e), dtype_name(p->act), p->read / 1e9, (double)p->read_bytes / 1e9, p->gemm / 1e12,
           p->gemm_size, p->launch * 1e6);
    printf("%-22s %-20s %-22s %5s %10s %10s %8s %8s  %-10s %6s\n", "kernel", "model", "shape", "T", "median us",
           "best us", "GB/s", "TFLOP/s", "bound by", "share");
}

void bench_print_row(const struct bench_result *r, const struct bench_result *reference,
                     const struct bench_peaks *peaks, const char *library) {
    const struct bench_case *c = r->c;
    const char *bound;
    const double floor_s = bench_floor(&bound, c, peaks), t = r->time.median;
    printf("%-22s %-20s %-22s %5d %10.2f %10.2f %8.0f %8.2f  %-10s %5.1f%%", c->kernel->name, c->model, c->shape, c->T,
           t * 1e6, r->time.best * 1e6, c->bytes / t / 1e9, c->flops / t / 1e12, bound, 100 * floor_s / t);
    if (reference)
        printf("   %s %.2f us: %.2f x", library ? library : "reference", reference->time.median * 1e6,
               reference->time.median / t);
    putchar('\n');
    fflush(stdout);
}

/* One kernel and model: its shapes down, T across. */
struct gains {
    const struct kernel_bench *kernel;
    const char *model;
    const char *shapes[16];
    int tokens[16];
    int n_shapes, n_tokens;
    double gain[16][16]; /* [shape, T]; 0: not measured */
};

static int index_of(const char **list, int *n, const char *text) {
    for (int i = 0; i < *n; i++)
        if (!strcmp(list[i], text)) return i;
    if (*n == 16) return -1;
    list[*n] = text;
    return (*n)++;
}

static int token_index(int *list, int *n, int T) {
    for (int i = 0; i < *n; i++)
        if (list[i] == T) return i;
    if (*n == 16) return -1;
    list[*n] = T;
    return (*n)++;
}

static bool collect(struct gains *g, const struct bench_result *results, int n) {
    g->n_shapes = g->n_tokens = 0;
    memset(g->gain, 0, sizeof g->gain);
    for (int i = 0; i < n; i++) {
        const struct bench_case *c = results[i].c;
        if (!results[i].done || c->kernel != g->kernel || strcmp(c->model, g->model)) continue;
        const struct bench_result *reference = bench_reference(results, n, c);
        if (!reference) continue;
        const int s = index_of(g->shapes, &g->n_shapes, c->shape), t = token_index(g->tokens, &g->n_tokens, c->T);
        if (s >= 0 && t >= 0) g->gain[s][t] = reference->time.median / results[i].time.median;
    }
    return g->n_shapes > 0;
}

/* The geometric mean over all shapes and the Ts up to `most` and from `least`; 0 where there is none. */
static double mean_gain(const struct gains *g, int least, int most) {
    double sum = 0;
    int n = 0;
    for (int s = 0; s < g->n_shapes; s++)
        for (int t = 0; t < g->n_tokens; t++)
            if (g->gain[s][t] > 0 && g->tokens[t] >= least && g->tokens[t] <= most) sum += log(g->gain[s][t]), n++;
    return n ? exp(sum / n) : 0;
}

static void print_gain(const struct gains *g, const char *library) {
    printf("\n%s, %s: times as fast as %s in bfloat16\n  %-22s", g->kernel->name, g->model, library, "T");
    for (int t = 0; t < g->n_tokens; t++) printf(" %7d", g->tokens[t]);
    for (int s = 0; s < g->n_shapes; s++) {
        printf("\n  %-22s", g->shapes[s]);
        for (int t = 0; t < g->n_tokens; t++) {
            if (g->gain[s][t] > 0)
                printf(" %7.2f", g->gain[s][t]);
            else
                printf(" %7s", "-");
        }
    }
    printf("\n  %-22s", "geometric mean");
    for (int t = 0; t < g->n_tokens; t++) printf(" %7.2f", mean_gain(g, g->tokens[t], g->tokens[t]));
    printf("\n  up to T = %d: %.2f\n", g->kernel->compared_tokens_max, mean_gain(g, 1, g->kernel->compared_tokens_max));
}

/* Calls one for every kernel and model that has something to compare. */
static void each_gain(const struct bench_result *results, int n, void (*one)(const struct gains *g, void *user),
                      void *user) {
    for (int i = 0; i < n; i++) {
        if (!results[i].done || !results[i].c->kernel->compared_tokens_max) continue;
        struct gains g = {.kernel = results[i].c->kernel, .model = results[i].c->model};
        bool seen = false;
        for (int j = 0; j < i && !seen; j++)
            seen = results[j].done && results[j].c->kernel == g.kernel && !strcmp(results[j].c->model, g.model);
        if (!seen && collect(&g, results, n)) one(&g, user);
    }
}

static void print_one(const struct gains *g, void *user) {
    print_gain(g, user);
}

void bench_print_gains(const struct bench_result *results, int n, const char *library) {
    each_gain(results, n, print_one, (void *)(library ? library : "the reference"));
}

/* ---- for programs ------------------------------------------------------------------------------------------------ */

static void add_row(cJSON *rows, const struct bench_result *r, const struct bench_result *reference,
                    const struct bench_peaks *peaks) {
    const struct bench_case *c = r->c;
    const char *bound;
    const double floor_s = bench_floor(&bound, c, peaks), t = r->time.median;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "kernel", c->kernel->name);
    cJSON_AddStringToObject(o, "model", c->model);
    cJSON_AddStringToObject(o, "shape", c->shape);
    cJSON_AddNumberToObject(o, "T", c->T);
    cJSON_AddStringToObject(o, "dtype", dtype_name(c->act));
    cJSON_AddNumberToObject(o, "median_s", t);
    cJSON_AddNumberToObject(o, "best_s", r->time.best);
    cJSON_AddNumberToObject(o, "bytes", c->bytes);
    cJSON_AddNumberToObject(o, "flops", c->flops);
    cJSON_AddNumberToObject(o, "bytes_per_s", c->bytes / t);
    cJSON_AddNumberToObject(o, "flops_per_s", c->flops / t);
    cJSON_AddStringToObject(o, "bound", bound);
    cJSON_AddNumberToObject(o, "share", floor_s / t);
    cJSON_AddNumberToObject(o, "copies", r->n_copies);
    if (reference) {
        cJSON_AddStringToObject(o, "reference", reference->c->kernel->name);
        cJSON_AddNumberToObject(o, "reference_s", reference->time.median);
        cJSON_AddNumberToObject(o, "gain", reference->time.median / t);
    }
    cJSON_AddItemToArray(rows, o);
}

static void add_gain(const struct gains *g, void *user) {
    cJSON *o = cJSON_CreateObject(), *means = cJSON_CreateObject();
    char T[16];
    cJSON_AddStringToObject(o, "kernel", g->kernel->name);
    cJSON_AddStringToObject(o, "model", g->model);
    cJSON_AddNumberToObject(o, "up_to_T", g->kernel->compared_tokens_max);
    cJSON_AddNumberToObject(o, "geomean", mean_gain(g, 1, g->kernel->compared_tokens_max));
    for (int t = 0; t < g->n_tokens; t++) {
        snprintf(T, sizeof T, "%d", g->tokens[t]);
        cJSON_AddNumberToObject(means, T, mean_gain(g, g->tokens[t], g->tokens[t]));
    }
    cJSON_AddItemToObject(o, "geomean_by_T", means);
    cJSON_AddItemToArray(user, o);
}

void bench_print_json(const char *backend, const char *library, const struct bench_result *results, int n,
                      const struct bench_peaks peaks[DTYPE_COUNT]) {
    cJSON *root = cJSON_CreateObject(), *limits = cJSON_AddObjectToObject(root, "peaks"),
          *rows = cJSON_AddArrayToObject(root, "rows"), *gains = cJSON_AddArrayToObject(root, "gains");
    cJSON_AddStringToObject(root, "backend", backend);
    if (library) cJSON_AddStringToObject(root, "library", library);
    for (int d = 0; d < DTYPE_COUNT; d++) {
        if (!(peaks[d].read > 0)) continue;
        cJSON *p = cJSON_AddObjectToObject(limits, dtype_name((enum dtype)d));
        cJSON_AddNumberToObject(p, "read_bytes_per_s", peaks[d].read);
        cJSON_AddNumberToObject(p, "gemm_flops_per_s", peaks[d].gemm);
        cJSON_AddNumberToObject(p, "smallest_op_s", peaks[d].launch);
    }
    for (int i = 0; i < n; i++)
        if (results[i].done)
            add_row(rows, &results[i], bench_reference(results, n, results[i].c), &peaks[results[i].c->act]);
    each_gain(results, n, add_gain, gains);
    bench_print_and_delete(root);
}
