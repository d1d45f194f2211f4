/* measure.h - private to benchmarks/: clocks, medians, timing of ops on whatever backend, and the machine's limits. */
#pragma once

#include "benchmarks/kernel_bench.h"

/* CLOCK_MONOTONIC in seconds. */
double bench_now(void);
/* The p-quantile (0 .. 1) of n values by linear interpolation; sorts them. 0 for none. */
double bench_quantile(double *values, size_t n, double p);

struct bench_time {
    double median, best; /* seconds of one call */
};

/* One call on the i-th set of operands. False: it does not apply. */
typedef bool bench_body(struct bench *b, void *user, int i);

/* Times calls on sets 0 .. n_copies-1 in turn. On a GPU they are recorded into a graph (unless no_graph) of about two
 * milliseconds and each sample is a run of graphs between two looks at the clock, so that neither the host's launches
 * nor the clock count. STATUS_UNSUPPORTED when the body says so. */
int bench_measure(struct bench_time *time, struct bench *b, bench_body *run, void *user, int n_copies, bool no_graph,
                  char *err, size_t err_bytes);

struct bench_peaks {
    double read;       /* bytes per second */
    size_t read_bytes; /* the buffer that was read */
    enum dtype act;    /* the exec's */
    double gemm;       /* FLOP per second of a square matrix product in the exec's dtype */
    int gemm_size;
    double launch; /* seconds of the smallest op: what a call costs at least */
};
/* Nothing measured yet, but what to measure on such a device: act, gemm_size and read_bytes. */
struct bench_peaks bench_peaks_wanted(enum dtype act, bool is_gpu);
int bench_measure_peaks(struct bench_peaks *peaks, struct bench *b, char *err, size_t err_bytes);

/* The same, of an exec of that dtype that is opened for it and closed again. */
int bench_machine_peaks(struct bench_peaks *peaks, enum dtype act, const char *backend, int n_threads, char *err,
                        size_t err_bytes);
/* Options of an exec that multiplies square matrices of that size and does little else. */
struct exec_options bench_exec_options(const char *backend, enum dtype act, int n_threads, int size);

/* Opens the arena: as much of `want` as there is room for. */
int bench_arena_open(struct bench *b, size_t want, char *err, size_t err_bytes);
void bench_arena_close(struct bench *b);

/* Reads a model's sizes: a folder, a shape file NAME.json, or a NAME that benchmarks/configs or the Hugging Face cache
 * has. */
int bench_model_open(struct bench_model *m, const char *name, char *err, size_t err_bytes);
/* The NULL-terminated names of benchmarks/configs that `tandem bench kernels` takes by itself. */
extern const char *const bench_model_names[];
