/* rms_norm: out [T, C] = norm(h [T, C]) * weight. Reads and writes C a token. */
#include "benchmarks/kernel_bench.h"

struct operands {
    void *out, *h, *weight;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    int n;
    const int *tokens = bench_tokens(list, &n), C = m->config.hidden;
    for (int i = 0; i < n; i++) {
        const double bytes = (2.0 * tokens[i] + 1) * C * (double)dtype_bytes(m->act);
        bench_case_add(list, m, &(struct bench_case){.T = tokens[i], .n = {C}, .bytes = bytes}, "C=%d", C);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    const size_t n = (size_t)c->T * (size_t)c->n[0];
    o->out = bench_memory(b, n * dtype_bytes(c->act));
    o->h = bench_random(b, c->act, n, 0, 1);
    o->weight = bench_random(b, c->act, (size_t)c->n[0], 1, 0.1f);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    rms_norm(e, o->out, o->h, o->weight, c->T, c->n[0], 1e-6f);
    return true;
}

const struct kernel_bench bench_rms_norm = {
    .name = "rms_norm",
    .summary = "out = norm(h)",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
