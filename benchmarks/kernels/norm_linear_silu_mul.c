/* norm_linear_silu_mul: out [T, F] = silu(g) * u with (g, u) = norm(residual) W'. Reads W and residual, writes out. */
#include "benchmarks/kernel_bench.h"

struct operands {
    void *out, *gate_up, *x, *residual, *norm;
    struct matrix w;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    const struct bench_products products = {.matrices = 1 << BENCH_GATE_UP, .y_moves = 0.5}; /* (g, u) become one */
    bench_product_cases(list, m, &products);
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    const size_t rows = (size_t)c->n[0], cols = (size_t)c->n[1], T = (size_t)c->T, size = dtype_bytes(c->act);
    o->w = bench_matrix(b, c->act, c->n[0], c->n[1], c->n[2]);
    o->residual = bench_random(b, c->act, T * cols, 0, 1);
    o->norm = bench_random(b, c->act, cols, 1, 0.1f);
    o->x = bench_memory(b, T * cols * size);
    o->gate_up = bench_memory(b, T * rows * size);
    o->out = bench_memory(b, T * rows / 2 * size);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    norm_linear_silu_mul(e, o->out, o->gate_up, o->x, o->residual, o->norm, 1e-6f, &o->w, c->T);
    return true;
}

const struct kernel_bench bench_norm_linear_silu_mul = {
    .name = "norm_linear_silu_mul",
    .summary = "out = silu(g) * u, (g, u) = norm(residual) W'",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
