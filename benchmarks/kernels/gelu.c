/* gelu: x [T, F] in place. Reads and writes F a token. */
#include "benchmarks/encoder_sizes.h"

struct operands {
    void *x;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    int n;
    const int *tokens = bench_tokens(list, &n);
    (void)m;
    for (int i = 0; i < n; i++) {
        const double bytes = 2.0 * tokens[i] * BGE_F * (double)dtype_bytes(bge_base.act);
        bench_case_add(list, &bge_base, &(struct bench_case){.T = tokens[i], .bytes = bytes}, "F=%d", BGE_F);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    o->x = bench_random(b, c->act, (size_t)c->T * BGE_F, 0, 2);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    gelu(e, o->x, c->T, BGE_F);
    return true;
}

const struct kernel_bench bench_gelu = {
    .name = "gelu",
    .summary = "x = x (1 + erf(x / sqrt 2)) / 2",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
