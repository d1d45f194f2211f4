/* report.h - private to benchmarks/: printing that the benchmarks share. */
#pragma once

#include "benchmarks/bench.h"

#include <cjson/cJSON.h>

/* Prints one line of JSON to standard output and frees the tree. */
void bench_print_and_delete(cJSON *root);

/* So much is done of `what`; NULL: the end. */
void bench_report(const struct bench_progress *progress, const char *what, int done, int total);
