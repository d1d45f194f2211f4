/* silu_mul: out [T, F] = silu(gate) * up, both in gate_up [T, 2F]. Reads 2F and writes F a token. */
#include "benchmarks/kernel_bench.h"

struct operands {
    void *out, *gate_up;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    int n;
    const int *tokens = bench_tokens(list, &n), F = m->config.ffn;
    for (int i = 0; i < n; i++) {
        const double bytes = 3.0 * tokens[i] * F * (double)dtype_bytes(m->act);
        bench_case_add(list, m, &(struct bench_case){.T = tokens[i], .n = {F}, .bytes = bytes}, "F=%d", F);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    const size_t n = (size_t)c->T * (size_t)c->n[0];
    o->out = bench_memory(b, n * dtype_bytes(c->act));
    o->gate_up = bench_random(b, c->act, 2 * n, 0, 1);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    silu_mul(e, o->out, o->gate_up, c->T, c->n[0]);
    return true;
}

const struct kernel_bench bench_silu_mul = {
    .name = "silu_mul",
    .summary = "out = silu(gate) * up",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
