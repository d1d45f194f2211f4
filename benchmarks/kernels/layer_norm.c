/* layer_norm: out [T, C] = norm(x + residual), as the layers of an encoder call it. Reads 2C and writes C a token. */
#include "benchmarks/encoder_sizes.h"

struct operands {
    void *out, *x, *weight, *bias;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    int n;
    const int *tokens = bench_tokens(list, &n);
    (void)m;
    for (int i = 0; i < n; i++) {
        const double bytes = 3.0 * tokens[i] * BGE_C * (double)dtype_bytes(bge_base.act);
        bench_case_add(list, &bge_base, &(struct bench_case){.T = tokens[i], .bytes = bytes}, "C=%d", BGE_C);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    const size_t n = (size_t)c->T * BGE_C;
    o->out = bench_random(b, c->act, n, 0, 1); /* the residual, too */
    o->x = bench_random(b, c->act, n, 0, 1);
    o->weight = bench_random(b, c->act, BGE_C, 1, 0.25f);
    o->bias = bench_random(b, c->act, BGE_C, 0, 0.25f);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    layer_norm(e, o->out, o->x, o->out, o->weight, o->bias, c->T, BGE_C, 1e-12f);
    return true;
}

const struct kernel_bench bench_layer_norm = {
    .name = "layer_norm",
    .summary = "out = (h - mean) / spread * w + b, h = x + residual",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
