/* kernel_plan.h - private to benchmarks/: the cases of a run, their results, and how they are printed. */
#pragma once

#include "benchmarks/bench.h"
#include "benchmarks/measure.h"

struct bench_result {
    const struct bench_case *c; /* borrowed from the list */
    bool done;                  /* false: left out */
    struct bench_time time;
    int n_copies;
};

struct bench_list {
    const struct bench_kernels_options *options;
    struct bench_ints tokens, gemm_tokens;
    const struct kernel_bench *adding; /* the kernel whose cases are being listed */
    void *only;                        /* regex_t, or NULL */
    struct bench_case *cases;          /* owned */
    int n, capacity;
};

/* "linear/Qwen3-14B/qkv 7168x5120/T=16" */
void bench_case_id(char *out, size_t n, const struct bench_case *c);

/* The reference's result for the same computation, or NULL. */
const struct bench_result *bench_reference(const struct bench_result *results, int n, const struct bench_case *c);
/* Which limit binds, and that limit in seconds. */
double bench_floor(const char **bound, const struct bench_case *c, const struct bench_peaks *peaks);

void bench_print_list(const struct bench_list *list);
void bench_print_peaks(const struct exec *e, const struct bench_peaks *peaks);
void bench_print_row(const struct bench_result *r, const struct bench_result *reference,
                     const struct bench_peaks *peaks, const char *library);
/* Gains over the reference: a row per model and matrix, a column per T, and geometric means. */
void bench_print_gains(const struct bench_result *results, int n, const char *library);
void bench_print_json(const char *backend, const char *library, const struct bench_result *results, int n,
                      const struct bench_peaks peaks[DTYPE_COUNT]);
