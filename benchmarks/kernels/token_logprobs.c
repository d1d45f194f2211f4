/* token_logprobs: the chosen token's and the 20 most likely of R = T rows of logits [R, V] f32, which it reads once. */
#include "benchmarks/kernel_bench.h"

enum { MOST_ROWS = 256, TOP = 20 };

struct operands {
    float *logits;
    int32_t *targets;
    struct token_logprob *out;
    int n_top[MOST_ROWS];
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    int n;
    const int *tokens = bench_tokens(list, &n), V = m->config.vocab;
    for (int i = 0; i < n && tokens[i] <= MOST_ROWS; i++) {
        const struct bench_case c = {.T = tokens[i], .n = {V}, .bytes = 4.0 * tokens[i] * V, .no_graph = true};
        bench_case_add(list, m, &c, "top %d", TOP);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    o->logits = bench_random(b, DTYPE_F32, (size_t)c->T * (size_t)c->n[0], 0, 12);
    o->targets = bench_indices(b, (size_t)c->T, 1, 17, c->n[0]);
    o->out = bench_memory(b, (size_t)c->T * (TOP + 1) * sizeof *o->out);
    for (int r = 0; r < c->T; r++) o->n_top[r] = TOP;
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    token_logprobs(e, o->out, TOP + 1, o->logits, o->targets, o->n_top, c->T, c->n[0]);
    return true;
}

const struct kernel_bench bench_token_logprobs = {
    .name = "token_logprobs",
    .summary = "log softmax(logits) of a few ids",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
