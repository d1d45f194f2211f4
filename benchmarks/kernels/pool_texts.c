/* pool_texts: the mean of each text's tokens, normalised. Reads C a token. */
#include "benchmarks/encoder_sizes.h"

struct operands {
    float *out;
    void *x;
    struct ragged texts;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    (void)m;
    for (int i = 0; i < N_BGE_TEXTS; i++) {
        const int T = bge_texts[i] * BGE_POSITIONS;
        const double bytes = (double)T * BGE_C * (double)dtype_bytes(bge_base.act);
        bench_case_add(list, &bge_base, &(struct bench_case){.T = T, .bytes = bytes}, "C=%d", BGE_C);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    o->texts = bge_ragged(b, c->T);
    o->out = bench_memory(b, (size_t)o->texts.B * BGE_C * sizeof(float));
    o->x = bench_random(b, c->act, (size_t)c->T * BGE_C, 0, 1);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    (void)c;
    pool_texts(e, o->out, o->x, &o->texts, BGE_C, POOLING_MEAN, true);
    return true;
}

const struct kernel_bench bench_pool_texts = {
    .name = "pool_texts",
    .summary = "v = mean of a text's x, normalised",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
