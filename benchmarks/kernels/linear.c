/* linear: y [T, rows] = x [T, cols] W' for the four matrices of a layer, dense or AWQ, as the engine picks the kernel.
 * Reads W and x, writes y; 2 T rows cols FLOPs. Compared with the vendor's library on a dense bf16 W of that shape. */
#include "benchmarks/kernel_bench.h"

static void cases(struct bench_list *list, const struct bench_model *m) {
    const struct bench_products products = {.matrices = BENCH_ALL, .y_moves = 1, .is_compared = true};
    bench_product_cases(list, m, &products);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct bench_product *o = operands;
    linear(e, o->y, o->x, &o->w, NULL, c->T);
    return true;
}

const struct kernel_bench bench_linear = {
    .name = "linear",
    .summary = "y = x W'",
    .operand_bytes = sizeof(struct bench_product),
    .cases = cases,
    .make = bench_product_make,
    .run = run,
    .compared_tokens_max = 16,
};
