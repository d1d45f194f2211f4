/* linear: y [T, rows] = x [T, cols] W' for the four matrices of a layer, dense or AWQ, as the engine picks the kernel.
 * Reads W and x, writes y; 2 T rows cols FLOPs. Compared with the vendor's library on a dense bf16 W of that shape. */
#include "benchmarks/kernel_bench.h"

#include <stdio.h>

struct operands {
    void *y, *x;
    struct matrix w;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    struct bench_matrix_size sizes[BENCH_MATRICES];
    int n;
    const int *tokens = bench_gemm_tokens(list, &n);
    bench_matrix_sizes(sizes, m);
    for (int j = 0; j < BENCH_MATRICES; j++)
        for (int i = 0; i < n; i++) {
            const int rows = sizes[j].rows, cols = sizes[j].cols, T = tokens[i];
            struct bench_case c = {.T = T, .n = {rows, cols, m->group}, .flops = 2.0 * T * rows * cols};
            c.bytes = bench_matrix_bytes(m->act, rows, cols, m->group) +
                      (double)T * (rows + cols) * (double)dtype_bytes(m->act);
            snprintf(c.same_as, sizeof c.same_as, "linear %dx%d T=%d", rows, cols, T);
            bench_case_add(list, m, &c, "%s %dx%d", sizes[j].name, rows, cols);
        }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    o->w = bench_matrix(b, c->act, c->n[0], c->n[1], c->n[2]);
    o->x = bench_random(b, c->act, (size_t)c->T * (size_t)c->n[1], 0, 1);
    o->y = bench_memory(b, (size_t)c->T * (size_t)c->n[0] * dtype_bytes(c->act));
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    linear(e, o->y, o->x, &o->w, NULL, c->T);
    return true;
}

const struct kernel_bench bench_linear = {
    .name = "linear",
    .summary = "y = x W'",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
    .compared_tokens_max = 16,
};
