/* sample: ids [R] from logits [R, V] f32, R = T rows: greedy, and with temperature and top_p. Reads the logits once. */
#include "benchmarks/kernel_bench.h"

enum { MOST_ROWS = 256 };

struct operands {
    float *logits;
    int32_t *ids;
    unsigned stages;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    static const char *const kinds[] = {"greedy", "temperature 0.8", "top_p 0.9", "top_k 20, top_p 0.9"};
    int n;
    const int *tokens = bench_tokens(list, &n), V = m->config.vocab;
    for (int kind = 0; kind < 4; kind++)
        for (int i = 0; i < n && tokens[i] <= MOST_ROWS; i++) {
            const struct bench_case c = {.T = tokens[i], .n = {V, kind}, .bytes = 4.0 * tokens[i] * V};
            bench_case_add(list, m, &c, "%s", kinds[kind]);
        }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    static struct sample_params params[MOST_ROWS]; /* must stay as they are while the op is repeated */
    struct operands *o = operands;
    const struct operands *first = b->first;
    o->logits = bench_random(b, DTYPE_F32, (size_t)c->T * (size_t)c->n[0], 0, 12);
    o->ids = bench_memory(b, (size_t)c->T * sizeof *o->ids);
    o->stages = first->stages;
    if (b->copy) return;
    for (int r = 0; r < c->T; r++)
        params[r] = (struct sample_params){.temperature = c->n[1] ? 0.8f : 0,
                                           .top_p = c->n[1] >= 2 ? 0.9f : 1,
                                           .top_k = c->n[1] == 3 ? 20 : 0,
                                           .repetition = 1,
                                           .seed = 1,
                                           .position = r};
    o->stages = sample_set(b->e, params, c->T, c->n[0]);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    sample(e, o->ids, o->logits, o->stages, c->T, c->n[0]);
    return true;
}

const struct kernel_bench bench_sample = {
    .name = "sample",
    .summary = "ids = draw(logits)",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
