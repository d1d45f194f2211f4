/* products.c - what the benchmarks of matrix products have in common: cases of a layer's matrices, operands. */
#include "benchmarks/kernel_bench.h"

#include <stdio.h>

void bench_product_cases(struct bench_list *list, const struct bench_model *m, const struct bench_products *p) {
    struct bench_matrix_size sizes[BENCH_MATRICES];
    int n;
    const int *tokens = p->is_compared ? bench_gemm_tokens(list, &n) : bench_tokens(list, &n);
    const enum dtype act = p->is_bf16 ? DTYPE_BF16 : m->act;
    const int group = p->is_bf16 ? 0 : m->group;
    bench_matrix_sizes(sizes, m);
    for (int j = 0; j < BENCH_MATRICES; j++)
        for (int i = 0; i < n && p->matrices >> j & 1; i++) {
            const int rows = sizes[j].rows, cols = sizes[j].cols, T = tokens[i];
            struct bench_case c = {.act = act,
                                   .T = T,
                                   .n = {rows, cols, group, p->has_bias},
                                   .flops = 2.0 * T * rows * cols,
                                   .bytes = bench_matrix_bytes(act, rows, cols, group) +
                                            T * (p->y_moves * rows + cols) * (double)dtype_bytes(act)};
            if (p->is_compared) snprintf(c.same_as, sizeof c.same_as, "linear %dx%d T=%d", rows, cols, T);
            bench_case_add(list, m, &c, "%s %dx%d", sizes[j].name, rows, cols);
        }
}

void bench_product_make(struct bench *b, const struct bench_case *c, void *operands) {
    struct bench_product *o = operands;
    o->w = bench_matrix(b, c->act, c->n[0], c->n[1], c->n[2]);
    o->x = bench_random(b, c->act, (size_t)c->T * (size_t)c->n[1], 0, 1);
    o->y = bench_memory(b, (size_t)c->T * (size_t)c->n[0] * dtype_bytes(c->act));
}
