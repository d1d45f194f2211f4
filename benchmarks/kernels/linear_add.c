/* linear_add: residual [T, rows] += x W', the product that ends a sublayer: o and down. Reads W, x and residual, writes
 * residual. */
#include "benchmarks/kernel_bench.h"

struct operands {
    void *residual, *h, *x;
    struct matrix w;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    struct bench_matrix_size sizes[BENCH_MATRICES];
    int n;
    const int *tokens = bench_tokens(list, &n);
    bench_matrix_sizes(sizes, m);
    for (int j = 1; j < BENCH_MATRICES; j += 2)
        for (int i = 0; i < n; i++) {
            const int rows = sizes[j].rows, cols = sizes[j].cols, T = tokens[i];
            struct bench_case c = {.T = T, .n = {rows, cols, m->group}, .flops = 2.0 * T * rows * cols};
            c.bytes = bench_matrix_bytes(m->act, rows, cols, m->group) +
                      (double)T * (2 * rows + cols) * (double)dtype_bytes(m->act);
            bench_case_add(list, m, &c, "%s %dx%d", sizes[j].name, rows, cols);
        }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    const size_t rows = (size_t)c->n[0], cols = (size_t)c->n[1], T = (size_t)c->T;
    o->w = bench_matrix(b, c->act, c->n[0], c->n[1], c->n[2]);
    o->x = bench_random(b, c->act, T * cols, 0, 1e-3f); /* small, for the product is added thousands of times */
    o->residual = bench_random(b, c->act, T * rows, 0, 1);
    o->h = bench_memory(b, T * rows * dtype_bytes(c->act));
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    linear_add(e, o->residual, o->h, o->x, &o->w, c->T);
    return true;
}

const struct kernel_bench bench_linear_add = {
    .name = "linear_add",
    .summary = "residual += x W'",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
