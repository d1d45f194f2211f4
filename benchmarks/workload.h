/* workload.h - private to benchmarks/: requests of a trace or of given lengths, and random numbers to make them. */
#pragma once

#include "benchmarks/bench.h"

struct bench_request {
    int n_prompt, n_output;
    double arrival; /* seconds from the start, in a trace; else 0 */
};

/* Owned: *requests is malloc'ed. Lengths are kept within max_len in all; n_cut says how many had to be. */
int workload_open(struct bench_request **requests, int *n, int *n_cut, const struct bench_workload *w, int max_len,
                  char *err, size_t err_bytes);

uint64_t bench_random_bits(uint64_t *state);
double bench_random_unit(uint64_t *state); /* (0, 1) */
/* A draw from the Gamma distribution of that shape with mean 1. */
double bench_random_gamma(uint64_t *state, double shape);
/* The ids of request i: the shared prefix, then its own, each below `vocab`. */
void workload_prompt(int32_t *ids, const struct bench_workload *w, int i, int n_prompt, int vocab);
