/* gpu_time.h - microseconds of an op as a decode step sees it: inside a graph, between launches of itself; and how fast
 * the device reads, which is what they are held against. */
#pragma once

#include "kernels/ops.h"
#include "kernels/probe.h"

#include <stdio.h>
#include <stdlib.h>

static inline int gpu_time_order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median over RUNS of what exec_graph_end has given, which is closed. */
static inline double gpu_time_graph(struct exec *e, struct exec_graph *graph) {
    enum { RUNS = 15 };
    char err[ERR_BYTES] = "no graphs here";
    double us[RUNS];
    if (!graph) exec_finish(e, err, sizeof err), fprintf(stderr, "%s\n", err), exit(1);
    for (int run = -3; run < RUNS; run++) {
        exec_record(e, 0);
        exec_graph_launch(e, graph);
        exec_record(e, 1);
        if (exec_finish(e, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
        if (run >= 0) us[run] = exec_elapsed(e, 0, 1) * 1e6;
    }
    exec_graph_close(e, graph);
    qsort(us, RUNS, sizeof *us, gpu_time_order);
    return us[RUNS / 2];
}

/* Launches the op once more; i counts launches, so that it can move on to other memory. */
typedef void gpu_time_op(void *arg, int i);

/* Of one op in a graph of n. */
static inline double gpu_time(struct exec *e, gpu_time_op *op, void *arg, int n) {
    if (!exec_graph_begin(e)) fprintf(stderr, "no graphs here\n"), exit(1);
    for (int i = 0; i < n; i++) op(arg, i);
    return gpu_time_graph(e, exec_graph_end(e)) / n;
}

/* Bytes per microsecond of a plain read; a line says so. Reads for long enough that the clocks are up afterwards. */
static inline double gpu_time_read_bandwidth(struct exec *e) {
    enum { N_READS = 6 };
    const size_t bytes = (size_t)2 << 30;
    uint32_t *out = exec_alloc(e, 64);
    void *p = exec_alloc(e, bytes);
    if (!out || !p) fprintf(stderr, "no memory to read\n"), exit(1);
    exec_graph_begin(e);
    for (int i = 0; i < N_READS; i++) probe_read(e, out, p, bytes);
    const double us = gpu_time_graph(e, exec_graph_end(e)) / N_READS;
    exec_free(e, out);
    exec_free(e, p);
    printf("%s: reads %.0f GB/s\n", exec_backend(e), (double)bytes / us * 1e-3);
    return (double)bytes / us;
}

/* One line: bytes are what the op must move. */
static inline void gpu_time_print(const char *name, int T, double us, double bytes) {
    printf("%-28s T %5d %9.2f us %8.1f GB/s\n", name, T, us, bytes / us * 1e-3);
    fflush(stdout);
}
