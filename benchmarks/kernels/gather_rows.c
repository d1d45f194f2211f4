/* gather_rows: out [R, C] = x[rows], the last token of each of R = T sequences out of 8 times as many tokens. */
#include "benchmarks/kernel_bench.h"

enum { SPREAD = 8, MOST_ROWS = 256 };

struct operands {
    void *out, *x;
    const int32_t *rows;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    int n;
    const int *tokens = bench_tokens(list, &n), C = m->config.hidden;
    for (int i = 0; i < n; i++) {
        const double bytes = 2.0 * tokens[i] * C * (double)dtype_bytes(m->act);
        if (tokens[i] <= MOST_ROWS)
            bench_case_add(list, m, &(struct bench_case){.T = tokens[i], .n = {C}, .bytes = bytes}, "C=%d", C);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    const size_t n = (size_t)c->T * (size_t)c->n[0];
    o->out = bench_memory(b, n * dtype_bytes(c->act));
    o->x = bench_random(b, c->act, SPREAD * n, 0, 1);
    o->rows = bench_indices(b, (size_t)c->T, SPREAD - 1, SPREAD, SPREAD * c->T);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    gather_rows(e, o->out, o->x, o->rows, c->T, c->n[0]);
    return true;
}

const struct kernel_bench bench_gather_rows = {
    .name = "gather_rows",
    .summary = "out = x[rows]",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
