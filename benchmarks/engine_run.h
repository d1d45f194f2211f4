/* engine_run.h - private to benchmarks/: opening an engine for a benchmark, and what its steps cost at least. */
#pragma once

#include "benchmarks/measure.h"
#include "benchmarks/workload.h"

struct bench_engine {      /* zero-initialise */
    struct engine *engine; /* owned */
    struct bench_model model;
    struct bench_peaks peaks; /* of the machine, measured before the engine took the memory */
    double open_seconds;
};

/* Measures the machine where with_peaks, then opens. */
int bench_engine_open(struct bench_engine *b, const struct engine_options *options, bool with_peaks, char *err,
                      size_t err_bytes);
void bench_engine_close(struct bench_engine *b);

/* Of a step that advances B sequences by n tokens each from `context` tokens of context; one row of logits for each. */
struct step_cost {
    double bytes; /* weights once, and the KV that is read and written */
    double flops;
    double byte_floor;   /* seconds: bytes / read bandwidth */
    double kernel_floor; /* seconds: the sum over its kernels of max(bytes / bandwidth, FLOPs / matrix peak) */
};
struct step_cost bench_step_cost(const struct bench_engine *b, int B, int n, double context);
