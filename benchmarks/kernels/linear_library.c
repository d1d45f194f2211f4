/* linear_library: the same products as linear's, by the vendor's library alone and always dense in bf16: what linear is
 * compared with. */
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
            struct bench_case c = {.act = DTYPE_BF16, .T = T, .n = {rows, cols}, .flops = 2.0 * T * rows * cols};
            c.bytes = 2.0 * ((double)rows * cols + (double)T * (rows + cols));
            snprintf(c.same_as, sizeof c.same_as, "linear %dx%d T=%d", rows, cols, T);
            bench_case_add(list, m, &c, "%s %dx%d", sizes[j].name, rows, cols);
        }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    if (!probe_library(b->e)) return; /* run will say so */
    o->w = bench_matrix(b, c->act, c->n[0], c->n[1], 0);
    o->x = bench_random(b, c->act, (size_t)c->T * (size_t)c->n[1], 0, 1);
    o->y = bench_memory(b, (size_t)c->T * (size_t)c->n[0] * dtype_bytes(c->act));
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    return probe_library_linear(e, o->y, o->x, &o->w, c->T);
}

const struct kernel_bench bench_linear_library = {
    .name = "linear_library",
    .summary = "y = x W' by the vendor's library",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
    .is_reference = true,
};
