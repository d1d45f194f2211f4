/* linear_f32: logits [R, V] f32 = x [R, C] W' with R = T rows. Reads W, writes 4 V bytes a row. lm_head is dense in AWQ
 * models, too. */
#include "benchmarks/kernel_bench.h"

enum { MOST_ROWS = 256 };

struct operands {
    float *y;
    void *x;
    struct matrix w;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    int n;
    const int *tokens = bench_tokens(list, &n), C = m->config.hidden, V = m->config.vocab;
    for (int i = 0; i < n && tokens[i] <= MOST_ROWS; i++) {
        struct bench_case c = {.T = tokens[i], .n = {V, C}, .flops = 2.0 * tokens[i] * V * C};
        c.bytes = bench_matrix_bytes(m->act, V, C, 0) + tokens[i] * ((double)C * (double)dtype_bytes(m->act) + 4.0 * V);
        bench_case_add(list, m, &c, "lm_head %dx%d", V, C);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    o->w = bench_matrix(b, c->act, c->n[0], c->n[1], 0);
    o->x = bench_random(b, c->act, (size_t)c->T * (size_t)c->n[1], 0, 1);
    o->y = bench_memory(b, (size_t)c->T * (size_t)c->n[0] * sizeof(float));
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    linear_f32(e, o->y, o->x, &o->w, c->T);
    return true;
}

const struct kernel_bench bench_linear_f32 = {
    .name = "linear_f32",
    .summary = "logits = x W'",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
