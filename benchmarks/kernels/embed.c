/* embed: x [T, C] = table[tokens]. Reads and writes C a token; the table [V, C] is one for all sets. */
#include "benchmarks/kernel_bench.h"

struct operands {
    void *x;
    const int32_t *tokens;
    struct matrix table;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    int n;
    const int *tokens = bench_tokens(list, &n), C = m->config.hidden, V = m->config.vocab;
    for (int i = 0; i < n; i++) {
        const double bytes = 2.0 * tokens[i] * C * (double)dtype_bytes(m->act);
        bench_case_add(list, m, &(struct bench_case){.T = tokens[i], .n = {C, V}, .bytes = bytes}, "C=%d V=%d", C, V);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    const struct operands *first = b->first;
    o->table = b->copy ? first->table : bench_matrix(b, c->act, c->n[1], c->n[0], 0);
    o->x = bench_memory(b, (size_t)c->T * (size_t)c->n[0] * dtype_bytes(c->act));
    o->tokens = bench_indices(b, (size_t)c->T, 7919 * b->copy, 104729, c->n[1]);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    embed(e, o->x, o->tokens, NULL, &o->table, c->T);
    return true;
}

const struct kernel_bench bench_embed = {
    .name = "embed",
    .summary = "x = table[tokens]",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
