/* metrics.h - what /metrics tells Prometheus: vLLM's names and labels, so that its dashboards work unchanged.
 *
 * Owns the histograms and counters that the server itself observes; gauges and token counters come from the engine when
 * the page is written. Latency histograms have vLLM's buckets and finer ones below 10 ms. Loop thread only. */
#pragma once

#include "engine/engine.h"
#include "server/json_out.h"

#include <stdbool.h>

/* X(name, series, help, buckets) */
#define METRIC_HISTOGRAMS(X)                                                                                           \
    X(TTFT, "time_to_first_token_seconds", "Time from the request's first byte to its first token.", short_seconds)    \
    X(ITL, "inter_token_latency_seconds", "Time between two tokens of one answer.", short_seconds)                     \
    X(TPOT, "request_time_per_output_token_seconds", "Mean time per token after the first.", short_seconds)            \
    X(E2E, "e2e_request_latency_seconds", "Time from the request's first byte to its last token.", long_seconds)       \
    X(QUEUE, "request_queue_time_seconds", "Time from submission to the first step.", long_seconds)                    \
    X(INFERENCE, "request_inference_time_seconds", "Time from the first step to the last token.", long_seconds)        \
    X(PREFILL, "request_prefill_time_seconds", "Time from the first step to the first token.", long_seconds)           \
    X(DECODE, "request_decode_time_seconds", "Time from the first token to the last.", long_seconds)                   \
    X(PROMPT, "request_prompt_tokens", "Tokens of the prompt.", tokens)                                                \
    X(GENERATION, "request_generation_tokens", "Tokens of the answer.", tokens)                                        \
    X(MAX_TOKENS, "request_params_max_tokens", "max_tokens as requested.", tokens)                                     \
    X(N, "request_params_n", "n as requested.", tokens)

enum metric_histogram {
#define X(name, series, help, buckets) METRIC_##name,
    METRIC_HISTOGRAMS(X)
#undef X
        N_METRIC_HISTOGRAMS
};

struct metrics; /* owned */

/* The labels of each model's series are model_name, from here (copied), and engine, its number. Aborts when out of
 * memory, as it is called at start-up. */
struct metrics *metrics_open(const char *const *model_names, int n_models);
void metrics_close(struct metrics *m); /* NULL is fine */

/* model: 0 .. n_models-1. */
void metrics_observe(struct metrics *m, int model, enum metric_histogram h, double value);
/* One choice ended. Adds to request_success{finished_reason=stop|length|abort|error}. */
void metrics_finished(struct metrics *m, int model, enum finish_reason reason);
/* One answered HTTP request. handler: the route's pattern (static storage), "none" for unknown paths; status 0 (the
 * client left before there was one) counts as 4xx. */
void metrics_http(struct metrics *m, const char *handler, const char *method, int status, double seconds);

/* What a model's engine says of itself. */
struct metrics_engine {
    const struct engine_info *info;
    struct engine_stats stats;
};
/* What the server itself measures at the moment; these series are of the process and have no labels. */
struct metrics_gauges {
    int n_connections;
    size_t queued_bytes;  /* for slow readers */
    int n_in_flight;      /* requests that wait for, or receive, an answer of a model */
    double start_seconds; /* Unix time at which the process became ready */
};
/* Appends the whole page in text format 0.0.4. engines: [n_models]. */
void metrics_write(const struct metrics *m, const struct metrics_engine *engines, const struct metrics_gauges *gauges,
                   struct out *out);
