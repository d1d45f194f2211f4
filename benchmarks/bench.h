/* bench.h - the door of benchmarks/: what `tandem bench` runs. Each function prints its table (or JSON, or CSV) to
 * standard output and returns 0, or a status and a sentence in err. */
#pragma once

#include "engine/engine.h"

struct bench_progress { /* called now and then; may be all zero. `what` is NULL at the end */
    void (*update)(void *user, const char *what, int done, int total);
    void *user;
};

struct bench_ints { /* borrowed */
    const int *values;
    int n;
};

/* ---- kernels ----------------------------------------------------------------------------------------------------- */

struct bench_kernels_options {
    const char *const *models; /* folders, shape files, or names in benchmarks/configs */
    int n_models;              /* 0: all of benchmarks/configs on a GPU, else Qwen3-0.6B */
    const char *only;          /* extended regular expression over "kernel/model/shape/T=..."; NULL: everything */
    const char *backend;       /* NULL: the best there is */
    int n_threads;
    struct bench_ints tokens; /* T; none: a default */
    double sample_ms;         /* each sample lasts at least so long */
    int n_samples;            /* of which the median counts */
    bool list, json;
    struct bench_progress progress;
};
int bench_kernels(const struct bench_kernels_options *options, char *err, size_t err_bytes);

/* ---- the engine ----------------------------------------------------------------------------------------------------
 *
 * engine.model may also be a name in benchmarks/configs; a shape file gets random weights (--load-format dummy) without
 * being told. Prompts are random ids and eos is ignored, so that lengths are what was asked for. */

struct bench_latency_options {
    struct engine_options engine; /* max_num_seqs and max_model_len are raised to what the cases need */
    struct bench_ints batch_sizes, input_lens;
    int output_len;
    int n_runs; /* of each case, after one to warm up; the median counts */
    bool json;
    struct bench_progress progress;
};
int bench_latency(const struct bench_latency_options *options, char *err, size_t err_bytes);

/* Requests, by length: of a trace, or all alike. */
struct bench_workload {
    const char *trace;         /* CSV with columns TIMESTAMP, ContextTokens, GeneratedTokens, or NULL */
    int n_prompts;             /* how many; 0: the whole trace */
    int input_len, output_len; /* without a trace */
    int prefix_len;            /* tokens at the start that all prompts share */
    double range_ratio;        /* lengths are uniform in [(1 - r) len, (1 + r) len] */
    uint64_t seed;
};

struct bench_throughput_options {
    struct engine_options engine;
    struct bench_workload workload;
    bool json;
    struct bench_progress progress;
};
int bench_throughput(const struct bench_throughput_options *options, char *err, size_t err_bytes);

/* Throughput over a grid: every combination of what is listed; an empty list is the engine's own value. */
struct bench_sweep_options {
    struct engine_options engine;
    struct bench_workload workload;
    struct bench_ints max_num_seqs, max_num_batched_tokens, block_sizes, long_prefill_token_thresholds;
    const char *const *kv_cache_dtypes;
    int n_kv_cache_dtypes;
    bool json, csv;
    struct bench_progress progress;
};
int bench_sweep(const struct bench_sweep_options *options, char *err, size_t err_bytes);

/* ---- a server ---------------------------------------------------------------------------------------------------- */

struct bench_serve_options {
    const char *host; /* name or address */
    int port;
    const char *path;    /* "/v1/completions" */
    const char *model;   /* as the server names it; NULL: its first */
    const char *api_key; /* or NULL */
    int vocab;           /* ids are below */
    struct bench_workload workload;
    double request_rate; /* requests per second; infinite: all at once, or closed loops of max_concurrency */
    double burstiness;   /* shape of the Gamma distribution between arrivals: 1 is Poisson, less is burstier */
    double replay;       /* above 0: arrivals are the trace's, so many times as fast; request_rate is ignored */
    int max_concurrency; /* 0: no bound */
    double goodput_ttft_ms, goodput_tpot_ms; /* 0: not asked */
    const double *percentiles;               /* besides mean and median */
    int n_percentiles;
    double timeout; /* seconds without any byte from any request */
    bool json;
    struct bench_progress progress;
};
int bench_serve(const struct bench_serve_options *options, char *err, size_t err_bytes);
