/* linear_add: residual [T, rows] += x W', the product that ends a sublayer: o and down. Reads W, x and residual, writes
 * residual. */
#include "benchmarks/kernel_bench.h"

struct operands {
    void *residual, *h, *x;
    struct matrix w;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    const struct bench_products products = {.matrices = 1 << BENCH_O | 1 << BENCH_DOWN, .y_moves = 2};
    bench_product_cases(list, m, &products);
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
