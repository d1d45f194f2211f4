/* norm_linear: y = norm(residual) W' + b, the first product of a layer: qkv. Reads W and residual, writes y. */
#include "benchmarks/kernel_bench.h"

struct operands {
    void *y, *x, *residual, *norm, *bias;
    struct matrix w;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    const struct bench_products products = {.matrices = 1 << BENCH_QKV, .y_moves = 1, .has_bias = m->config.qkv_bias};
    bench_product_cases(list, m, &products);
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    const size_t rows = (size_t)c->n[0], cols = (size_t)c->n[1];
    o->w = bench_matrix(b, c->act, c->n[0], c->n[1], c->n[2]);
    o->residual = bench_random(b, c->act, (size_t)c->T * cols, 0, 1);
    o->norm = bench_random(b, c->act, cols, 1, 0.1f);
    o->bias = c->n[3] ? bench_random(b, c->act, rows, 0, 1) : NULL;
    o->x = bench_memory(b, (size_t)c->T * cols * dtype_bytes(c->act));
    o->y = bench_memory(b, (size_t)c->T * rows * dtype_bytes(c->act));
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    norm_linear(e, o->y, o->x, o->residual, o->norm, 1e-6f, &o->w, o->bias, c->T);
    return true;
}

const struct kernel_bench bench_norm_linear = {
    .name = "norm_linear",
    .summary = "y = norm(residual) W' + b",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
