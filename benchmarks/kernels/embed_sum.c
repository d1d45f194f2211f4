/* embed_sum: x [T, C] = word + type + position. Reads 2C and writes C a token. */
#include "benchmarks/encoder_sizes.h"

struct operands {
    void *x, *type;
    struct matrix word, position;
    struct ragged texts;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    (void)m;
    for (int i = 0; i < N_BGE_TEXTS; i++) {
        const int T = bge_texts[i] * BGE_POSITIONS;
        const double bytes = 3.0 * T * BGE_C * (double)dtype_bytes(bge_base.act);
        bench_case_add(list, &bge_base, &(struct bench_case){.T = T, .bytes = bytes}, "C=%d", BGE_C);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    o->x = bench_memory(b, (size_t)c->T * BGE_C * dtype_bytes(c->act));
    o->type = bench_random(b, c->act, BGE_C, 0, 1);
    o->word = bench_matrix(b, c->act, BGE_VOCAB, BGE_C, 0);
    o->position = bench_matrix(b, c->act, BGE_POSITIONS, BGE_C, 0);
    o->texts = bge_ragged(b, c->T);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    (void)c;
    embed_sum(e, o->x, &o->word, &o->position, o->type, &o->texts);
    return true;
}

const struct kernel_bench bench_embed_sum = {
    .name = "embed_sum",
    .summary = "x = word[token] + type + position",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
