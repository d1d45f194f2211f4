/* attention_full: texts of 512 tokens, each attending to itself. 4 H D FLOPs per pair of tokens of a text. */
#include "benchmarks/encoder_sizes.h"

struct operands {
    void *o, *qkv;
    struct ragged texts;
};

static void cases(struct bench_list *list, const struct bench_model *m) {
    (void)m;
    for (int i = 0; i < N_BGE_TEXTS; i++) {
        const double T = bge_texts[i] * BGE_POSITIONS;
        const struct bench_case c = {.T = (int)T,
                                     .flops = 4.0 * T * BGE_POSITIONS * BGE_C,
                                     .bytes = 4.0 * T * BGE_C * (double)dtype_bytes(bge_base.act)};
        bench_case_add(list, &bge_base, &c, "H=%d D=%d texts=%d", BGE_H, BGE_D, bge_texts[i]);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    struct operands *o = operands;
    const size_t n = (size_t)c->T * BGE_C;
    o->o = bench_memory(b, n * dtype_bytes(c->act));
    o->qkv = bench_random(b, c->act, 3 * n, 0, 2);
    o->texts = bge_ragged(b, c->T);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct operands *o = operands;
    (void)c;
    attention_full(e, o->o, o->qkv, &o->texts, BGE_H, BGE_D);
    return true;
}

const struct kernel_bench bench_attention_full = {
    .name = "attention_full",
    .summary = "o = softmax(q k' / sqrt D) v over whole texts",
    .operand_bytes = sizeof(struct operands),
    .cases = cases,
    .make = make,
    .run = run,
};
