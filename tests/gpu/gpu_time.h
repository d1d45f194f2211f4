/* gpu_time.h - microseconds of an op as a decode step sees it: inside a graph, between launches of itself. */
#pragma once

#include "kernels/ops.h"

#include <stdio.h>
#include <stdlib.h>

/* Launches the op once more; i counts launches, so that it can move on to other memory. */
typedef void gpu_time_op(void *arg, int i);

static inline int gpu_time_order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median over RUNS of a graph of n launches, divided by n. */
static inline double gpu_time(struct exec *e, gpu_time_op *op, void *arg, int n) {
    enum { RUNS = 15 };
    char err[ERR_BYTES];
    double us[RUNS];
    if (!exec_graph_begin(e)) fprintf(stderr, "no graphs here\n"), exit(1);
    for (int i = 0; i < n; i++) op(arg, i);
    struct exec_graph *graph = exec_graph_end(e);
    for (int run = -3; graph && run < RUNS; run++) {
        exec_record(e, 0);
        exec_graph_launch(e, graph);
        exec_record(e, 1);
        if (exec_finish(e, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
        if (run >= 0) us[run] = exec_elapsed(e, 0, 1) * 1e6 / n;
    }
    if (!graph) exec_finish(e, err, sizeof err), fprintf(stderr, "%s\n", err), exit(1);
    exec_graph_close(e, graph);
    qsort(us, RUNS, sizeof *us, gpu_time_order);
    return us[RUNS / 2];
}

/* One line: bytes are what the op must move. */
static inline void gpu_time_print(const char *name, int T, double us, double bytes) {
    printf("%-28s T %5d %9.2f us %8.1f GB/s\n", name, T, us, bytes / us * 1e-3);
    fflush(stdout);
}
