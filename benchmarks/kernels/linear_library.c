/* linear_library: the same products as linear's, by the vendor's library alone and always dense in bf16: what linear is
 * compared with. */
#include "benchmarks/kernel_bench.h"

static void cases(struct bench_list *list, const struct bench_model *m) {
    const struct bench_products products = {.matrices = BENCH_ALL, .y_moves = 1, .is_compared = true, .is_bf16 = true};
    bench_product_cases(list, m, &products);
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    if (probe_library(b->e)) bench_product_make(b, c, operands); /* else run will say so */
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct bench_product *o = operands;
    return probe_library_linear(e, o->y, o->x, &o->w, c->T);
}

const struct kernel_bench bench_linear_library = {
    .name = "linear_library",
    .summary = "y = x W' by the vendor's library",
    .operand_bytes = sizeof(struct bench_product),
    .cases = cases,
    .make = make,
    .run = run,
    .is_reference = true,
};
