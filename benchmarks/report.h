/* report.h - private to benchmarks/: printing that the benchmarks share. */
#pragma once

#include <cjson/cJSON.h>

/* Prints one line of JSON to standard output and frees the tree. */
void bench_print_and_delete(cJSON *root);
