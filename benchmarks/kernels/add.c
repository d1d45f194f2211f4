/* add: residual [T, C] += h. Reads 2C and writes C a token. */
#include "benchmarks/kernel_bench.h"

struct operands {
    void *residual, *h;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    int n;
    const int *tokens = bench_tokens(list, &n), C = m->config.hidden;
    for (int i = 0; i < n; i++) {
        const double bytes = 3.0 * tokens[i] * C * (double)dtype_bytes(m->act);
        bench_case_add(list, m, &(struct bench_case){.T = tokens[i], .n = {C}, .bytes = bytes}, "C=%d", C);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    const size_t n = (size_t)c->T * (size_t)c->n[0];
    o->residual = bench_random(b, c->act, n, 0, 1);
    o->h = bench_random(b, c->act, n, 0, 1e-3f);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    add(e, o->residual, o->h, c->T, c->n[0]);
    return true;
}

const struct kernel_bench bench_add = {
    .name = "add",
    .summary = "residual += h",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
