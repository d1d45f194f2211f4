/* add_rms_norm: residual += h; out = norm(residual). Reads 2C and writes 2C a token. */
#include "benchmarks/kernel_bench.h"

struct operands {
    void *out, *h, *residual, *weight;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    int n;
    const int *tokens = bench_tokens(list, &n), C = m->config.hidden;
    for (int i = 0; i < n; i++) {
        const double bytes = (4.0 * tokens[i] + 1) * C * (double)dtype_bytes(m->act);
        bench_case_add(list, m, &(struct bench_case){.T = tokens[i], .n = {C}, .bytes = bytes}, "C=%d", C);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    const size_t n = (size_t)c->T * (size_t)c->n[0];
    o->out = bench_memory(b, n * dtype_bytes(c->act));
    o->h = bench_random(b, c->act, n, 0, 1e-3f); /* small, for it is added thousands of times */
    o->residual = bench_random(b, c->act, n, 0, 1);
    o->weight = bench_random(b, c->act, (size_t)c->n[0], 1, 0.1f);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    add_rms_norm(e, o->out, o->h, o->residual, o->weight, c->T, c->n[0], 1e-6f);
    return true;
}

const struct kernel_bench bench_add_rms_norm = {
    .name = "add_rms_norm",
    .summary = "residual += h; out = norm(residual)",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
