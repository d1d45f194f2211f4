/* bench.h - the door of benchmarks/: what `tandem bench` runs. Each function prints its table (or JSON) to standard
 * output and returns 0, or a status and a sentence in err. */
#pragma once

#include "engine/engine.h"

struct bench_progress { /* called now and then; may be all zero */
    void (*update)(void *user, const char *what, int done, int total);
    void *user;
};

struct bench_kernels_options {
    const char *const *models; /* folders, shape files, or names in benchmarks/configs */
    int n_models;              /* 0: all of benchmarks/configs on a GPU, else Qwen3-0.6B */
    const char *only;          /* extended regular expression over "kernel/model/shape/T=..." ; NULL: everything */
    const char *backend;       /* NULL: the best there is */
    int n_threads;
    const int *tokens; /* T; n_tokens 0: a default */
    int n_tokens;
    double sample_ms; /* each sample lasts at least so long */
    int n_samples;    /* of which the median counts */
    bool list, json;
    struct bench_progress progress;
};
int bench_kernels(const struct bench_kernels_options *options, char *err, size_t err_bytes);
