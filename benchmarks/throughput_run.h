/* throughput_run.h - private to benchmarks/: a workload through an engine as fast as it goes. */
#pragma once

#include "benchmarks/engine_run.h"
#include "benchmarks/report.h"

struct throughput {
    int n_requests, n_cut;
    double seconds;
    double input_tokens, output_tokens;
    double n_steps, tokens_per_step, n_preemptions;
    double busy;                          /* share of the time in which the device worked */
    double hit_rate;                      /* of prompt tokens in the prefix cache */
    double ttft_median, per_token_median; /* seconds */
};
int throughput_run(struct throughput *t, struct engine *e, const struct bench_workload *w,
                   const struct bench_progress *progress, char *err, size_t err_bytes);
void throughput_add_json(cJSON *o, const struct throughput *t);
