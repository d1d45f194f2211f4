/* test_encoder.c - the ops of encoders against their CPU twins, bits whoever shares the step, and a whole encoder's
 * vectors against the CPU's. With --time: the ops at bge-base's shape, and how many texts of 512 tokens a second a
 * whole encoder of that shape (random weights) turns into vectors. */
#include "engine/encoder.h"
#include "gpu_test.h"
#include "gpu_time.h"

enum { MAX_B = 64 };

/* What a differing last bit in fp32 may do after rounding: rms, and per element. */
static double rms_bound(enum dtype t) { return t == DTYPE_F32 ? 2e-6 : t == DTYPE_BF16 ? 5e-4 : 1e-4; }
static double rel_bound(enum dtype t) { return t == DTYPE_F32 ? 1e-5 : t == DTYPE_BF16 ? 0x1p-6 : 0x1p-9; }

static void compare(struct gpu_test *t, const char *name, const struct twin *x) {
    twin_compare(t, name, x, rms_bound(t->act), 2e-5, rel_bound(t->act));
}

/* ---- texts ------------------------------------------------------------------------------------------------------- */

struct texts {
    struct ragged cpu, gpu; /* views of the twins */
    struct twin parts[4];   /* tokens, positions, seq_of, start */
};

static struct texts texts_new(struct gpu_test *t, const int *lengths, int B, int vocab) {
    struct ragged r = {.B = B};
    struct texts s;
    for (int b = 0; b < B; b++) {
        r.T += lengths[b];
        if (lengths[b] > r.max_len) r.max_len = lengths[b];
    }
    for (int i = 0; i < 4; i++) s.parts[i] = twin_poison(t, DTYPE_I32, i < 3 ? (size_t)r.T : (size_t)B + 1);
    int32_t *tokens = s.parts[0].cpu, *positions = s.parts[1].cpu, *seq_of = s.parts[2].cpu, *start = s.parts[3].cpu;
    start[0] = 0;
    for (int b = 0; b < B; b++) {
        start[b + 1] = start[b] + lengths[b];
        for (int i = start[b]; i < start[b + 1]; i++) {
            tokens[i] = gpu_test_below(t, vocab);
            positions[i] = i - start[b];
            seq_of[i] = b;
        }
    }
    for (int i = 0; i < 4; i++) twin_upload(t, &s.parts[i]);
    s.cpu = s.gpu = r;
    s.cpu.tokens = tokens, s.gpu.tokens = s.parts[0].gpu;
    s.cpu.positions = positions, s.gpu.positions = s.parts[1].gpu;
    s.cpu.seq_of = seq_of, s.gpu.seq_of = s.parts[2].gpu;
    s.cpu.start = start, s.gpu.start = s.parts[3].gpu;
    return s;
}

static void texts_free(struct gpu_test *t, struct texts *s) {
    for (int i = 0; i < 4; i++) twin_free(t, &s->parts[i]);
}

/* ---- row by row -------------------------------------------------------------------------------------------------- */

static void test_layer_norm(struct gpu_test *t, int T, int C, bool with_residual) {
    char name[128];
    snprintf(name, sizeof name, "layer_norm %s, T %d, C %d%s", dtype_name(t->act), T, C,
             with_residual ? ", residual" : "");
    const size_t n = (size_t)T * C;
    struct twin x = twin_random(t, t->act, n, 0, 3), residual = twin_random(t, t->act, n, 0.5f, 2),
                w = twin_random(t, t->act, (size_t)C, 0, 1), b = twin_random(t, t->act, (size_t)C, 0, 1);
    const void *cpu = with_residual ? residual.cpu : NULL, *gpu = with_residual ? residual.gpu : NULL;
    layer_norm(t->cpu, x.cpu, x.cpu, cpu, w.cpu, b.cpu, T, C, 1e-5f); /* in place, as the forward pass */
    layer_norm(t->gpu, x.gpu, x.gpu, gpu, w.gpu, b.gpu, T, C, 1e-5f);
    if (C > 1) compare(t, name, &x); /* of one element the spread is nothing but rounding */
    twin_free(t, &x), twin_free(t, &residual), twin_free(t, &w), twin_free(t, &b);
}

static void test_gelu(struct gpu_test *t, int T, int F) {
    char name[128];
    snprintf(name, sizeof name, "gelu %s, T %d, F %d", dtype_name(t->act), T, F);
    struct twin x = twin_random(t, t->act, (size_t)T * F, 0, 6);
    for (int i = 0; i < 2 && i < F; i++) twin_set(&x, (size_t)i, i ? -200 : 200);
    twin_upload(t, &x);
    gelu(t->cpu, x.cpu, T, F);
    gelu(t->gpu, x.gpu, T, F);
    compare(t, name, &x);
    twin_free(t, &x);
}

static void test_embed_sum(struct gpu_test *t, const int *lengths, int B, int C) {
    enum { V = 97 };
    char name[128];
    struct texts s = texts_new(t, lengths, B, V);
    snprintf(name, sizeof name, "embed_sum %s, T %d, C %d", dtype_name(t->act), s.cpu.T, C);
    struct twin word = twin_random(t, t->act, (size_t)V * C, 0, 1), type = twin_random(t, t->act, (size_t)C, 0, 1),
                position = twin_random(t, t->act, (size_t)s.cpu.max_len * C, 0, 1),
                x = twin_poison(t, t->act, (size_t)s.cpu.T * C);
    struct matrix w = {.dtype = t->act, .rows = V, .cols = C, .data = word.cpu},
                  p = {.dtype = t->act, .rows = s.cpu.max_len, .cols = C, .data = position.cpu};
    embed_sum(t->cpu, x.cpu, &w, &p, type.cpu, &s.cpu);
    w.data = word.gpu, p.data = position.gpu;
    embed_sum(t->gpu, x.gpu, &w, &p, type.gpu, &s.gpu);
    twin_compare(t, name, &x, 0, 0, 0);
    twin_free(t, &word), twin_free(t, &type), twin_free(t, &position), twin_free(t, &x);
    texts_free(t, &s);
}

static void test_pool(struct gpu_test *t, const int *lengths, int B, int C, enum pooling pooling, bool normalize) {
    char name[128];
    struct texts s = texts_new(t, lengths, B, 1);
    snprintf(name, sizeof name, "pool %s, T %d, C %d, %s%s", dtype_name(t->act), s.cpu.T, C,
             pooling == POOLING_CLS ? "CLS" : "mean", normalize ? ", normalised" : "");
    struct twin x = twin_random(t, t->act, (size_t)s.cpu.T * C, 0, 2), out = twin_poison(t, DTYPE_F32, (size_t)B * C);
    pool_texts(t->cpu, out.cpu, x.cpu, &s.cpu, C, pooling, normalize);
    pool_texts(t->gpu, out.gpu, x.gpu, &s.gpu, C, pooling, normalize);
    twin_compare(t, name, &out, 2e-6, 1e-6, 1e-5);
    twin_free(t, &x), twin_free(t, &out);
    texts_free(t, &s);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

static void test_attention(struct gpu_test *t, const int *lengths, int B, int H, int D, float spread) {
    char name[128];
    struct texts s = texts_new(t, lengths, B, 1);
    snprintf(name, sizeof name, "attention_full %s, B %d, T %d, H %d, D %d, +-%g", dtype_name(t->act), B, s.cpu.T, H, D,
             (double)spread);
    const size_t row = (size_t)H * D, T = (size_t)s.cpu.T;
    struct twin qkv = twin_random(t, t->act, T * 3 * row, 0, spread), o = twin_poison(t, t->act, T * row);
    attention_full(t->cpu, o.cpu, qkv.cpu, &s.cpu, H, D);
    attention_full(t->gpu, o.gpu, qkv.gpu, &s.gpu, H, D);
    const double bound = t->act == DTYPE_F32 ? 2e-6 : t->act == DTYPE_F16 ? 2e-3 : 1e-2; /* probabilities are rounded */
    twin_compare(t, name, &o, bound, t->act == DTYPE_F32 ? 1e-5 : bound, t->act == DTYPE_F32 ? 1e-4 : bound);
    twin_free(t, &qkv), twin_free(t, &o);
    texts_free(t, &s);
}

/* Each text alone and among the others, which are NaN: the same bits. */
static void test_attention_bits(struct gpu_test *t, const int *lengths, int B, int H, int D) {
    char name[128], detail[ERR_BYTES + 64], err[ERR_BYTES];
    struct texts s = texts_new(t, lengths, B, 1);
    const size_t row = (size_t)H * D, T = (size_t)s.cpu.T, b = dtype_bytes(t->act);
    const int32_t *start = s.cpu.start;
    struct twin qkv = twin_random(t, t->act, T * 3 * row, 0, 2), crowd = twin_poison(t, t->act, T * 3 * row),
                o = twin_poison(t, t->act, T * row);
    char *among = malloc(T * row * b), *alone = malloc(T * row * b);
    size_t n_different = 0;
    for (int i = 0; i < B; i++) {
        const size_t at = (size_t)start[i], n = (size_t)lengths[i];
        memset(crowd.cpu, 0xff, T * 3 * row * b);
        memcpy((char *)crowd.cpu + at * 3 * row * b, (char *)qkv.cpu + at * 3 * row * b, n * 3 * row * b);
        twin_upload(t, &crowd);
        attention_full(t->gpu, o.gpu, crowd.gpu, &s.gpu, H, D);
        exec_download(t->gpu, among, (char *)o.gpu + at * row * b, n * row * b);
        struct texts one = texts_new(t, &lengths[i], 1, 1);
        exec_upload(t->gpu, crowd.gpu, (char *)qkv.cpu + at * 3 * row * b, n * 3 * row * b);
        attention_full(t->gpu, o.gpu, crowd.gpu, &one.gpu, H, D);
        exec_download(t->gpu, alone, o.gpu, n * row * b);
        for (size_t j = 0; j < n * row; j++) n_different += memcmp(among + j * b, alone + j * b, b) != 0;
        texts_free(t, &one);
    }
    snprintf(name, sizeof name, "attention_full %s, H %d, D %d: alone and among NaN", dtype_name(t->act), H, D);
    snprintf(detail, sizeof detail, "%zu of %zu elements differ", n_different, T * row);
    if (exec_finish(t->gpu, err, sizeof err)) snprintf(detail, sizeof detail, "%s", err), n_different = 1;
    gpu_test_verdict(t, !n_different, name, detail);
    free(among), free(alone);
    twin_free(t, &qkv), twin_free(t, &crowd), twin_free(t, &o);
    texts_free(t, &s);
}

/* ---- a whole encoder --------------------------------------------------------------------------------------------- */

static struct encoder *encoder_new(struct exec *e, const struct encoder_config *c, int max_tokens) {
    const struct encoder_options o = {.max_tokens = max_tokens, .max_texts = MAX_B};
    struct encoder *n;
    char err[ERR_BYTES];
    if (encoder_open(&n, e, NULL, c, &o, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
    return n;
}

static const float *encode(struct encoder *n, int slot, const struct encoder_text *texts, int B) {
    const float *vectors;
    char err[ERR_BYTES];
    encoder_launch(n, slot, texts, B);
    if (encoder_land(n, slot, &vectors, NULL, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
    return vectors;
}

/* Both backends draw the same random weights: their vectors agree as rounding lets them. */
static void test_encoder_vectors(struct gpu_test *t, int C, int H, enum pooling pooling) {
    enum { B = 5, V = 300 };
    static const int lengths[B] = {1, 30, 512, 129, 64};
    const struct encoder_config c = {.arch_name = "BertModel", .dtype = t->act, .n_layers = 3, .hidden = C,
                                     .n_heads = H, .head_dim = C / H, .ffn = 4 * C, .vocab = V, .max_positions = 512,
                                     .n_token_types = 2, .norm_eps = 1e-12f, .pooling = pooling, .normalize = true,
                                     .max_len = 512};
    struct encoder *cpu = encoder_new(t->cpu, &c, 1024), *gpu = encoder_new(t->gpu, &c, 1024);
    struct texts s = texts_new(t, lengths, B, V);
    struct encoder_text texts[B];
    for (int b = 0; b < B; b++) texts[b] = (struct encoder_text){s.cpu.tokens + s.cpu.start[b], lengths[b]};
    const float *want = encode(cpu, 0, texts, B), *found = encode(gpu, 1, texts, B);
    double worst = 1;
    for (int b = 0; b < B; b++) {
        double dot = 0;
        for (int i = 0; i < C; i++) dot += (double)want[b * C + i] * found[b * C + i];
        if (!(dot >= worst)) worst = dot;
    }
    char name[128], detail[64];
    snprintf(name, sizeof name, "encoder %s, C %d, H %d, %s", dtype_name(t->act), C, H,
             pooling == POOLING_CLS ? "CLS" : "mean");
    snprintf(detail, sizeof detail, "cosine %.7f at least", worst);
    gpu_test_verdict(t, worst >= (t->act == DTYPE_BF16 ? 0.9995 : 0.99999), name, detail);
    texts_free(t, &s);
    encoder_close(cpu), encoder_close(gpu);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

struct timed {
    struct exec *e;
    const struct texts *texts;
    void *o, *qkv, *ffn, *norm;
    int T, H, D;
    enum { ATTENTION, LAYER_NORM, GELU, POOL } op;
};

static void run_op(void *arg, int i) {
    const struct timed *x = arg;
    const int C = x->H * x->D;
    (void)i;
    if (x->op == ATTENTION) attention_full(x->e, x->o, x->qkv, &x->texts->gpu, x->H, x->D);
    if (x->op == LAYER_NORM) layer_norm(x->e, x->o, x->qkv, x->o, x->norm, x->norm, x->T, C, 1e-12f);
    if (x->op == GELU) gelu(x->e, x->ffn, x->T, 4 * C);
    if (x->op == POOL) pool_texts(x->e, x->norm, x->qkv, &x->texts->gpu, C, POOLING_MEAN, true);
}

static void time_ops(struct gpu_test *t, int B, int length, int H, int D) {
    int lengths[MAX_B];
    for (int b = 0; b < B; b++) lengths[b] = length;
    struct texts s = texts_new(t, lengths, B, 1);
    const size_t T = (size_t)s.cpu.T, C = (size_t)H * D;
    struct timed x = {.e = t->gpu, .texts = &s, .T = (int)T, .H = H, .D = D};
    x.o = exec_alloc(t->gpu, T * C * 2);
    x.qkv = exec_alloc(t->gpu, T * 3 * C * 2);
    x.ffn = exec_alloc(t->gpu, T * 4 * C * 2);
    x.norm = exec_alloc(t->gpu, MAX_B * C * 4);
    fill_random(t->gpu, x.qkv, t->act, T * 3 * C, 0, 2, 1);
    fill_random(t->gpu, x.ffn, t->act, T * 4 * C, 0, 2, 2);
    x.op = ATTENTION;
    const double us = gpu_time(t->gpu, run_op, &x, 12), flop = 4.0 * D * H * (double)B * length * length;
    printf("attention_full %s, %d texts of %d, H %d, D %d: %.1f us, %.1f TFLOP/s\n", dtype_name(t->act), B, length, H,
           D, us, flop / us * 1e-6);
    x.op = LAYER_NORM;
    gpu_time_print("layer_norm", (int)T, gpu_time(t->gpu, run_op, &x, 12), (double)T * C * 2 * 3);
    x.op = GELU;
    gpu_time_print("gelu", (int)T, gpu_time(t->gpu, run_op, &x, 12), (double)T * 4 * C * 2 * 2);
    x.op = POOL;
    gpu_time_print("pool", (int)T, gpu_time(t->gpu, run_op, &x, 12), (double)T * C * 2);
    exec_free(t->gpu, x.o), exec_free(t->gpu, x.qkv), exec_free(t->gpu, x.ffn), exec_free(t->gpu, x.norm);
    texts_free(t, &s);
}

/* Steps one behind the other, two on their way, as a server has them. */
static void time_encoder(struct gpu_test *t, const struct encoder_config *c, const char *name, int B, int length) {
    enum { WARM = 4, STEPS = 40 };
    struct encoder *n = encoder_new(t->gpu, c, B * length);
    int32_t *ids = malloc((size_t)B * length * sizeof *ids);
    struct encoder_text texts[MAX_B];
    char err[ERR_BYTES];
    const float *vectors;
    double device = 0, one;
    struct timespec begin, end;
    for (int i = 0; i < B * length; i++) ids[i] = gpu_test_below(t, c->vocab);
    for (int b = 0; b < B; b++) texts[b] = (struct encoder_text){ids + (size_t)b * length, length};
    for (int i = 0; i < WARM + STEPS + 1; i++) {
        if (i == WARM) clock_gettime(CLOCK_MONOTONIC, &begin);
        if (i < WARM + STEPS) encoder_launch(n, i % 2, texts, B);
        if (i && encoder_land(n, (i - 1) % 2, &vectors, &one, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
        if (i > WARM) device += one;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    const double wall = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    const double C = c->hidden, per_token = c->n_layers * (2 * (4 * C * C + 2 * C * c->ffn) + 4 * C * length);
    printf("%s %s, %d texts of %d tokens: %.0f texts/s (device alone %.0f), %.0f TFLOP/s\n", name, dtype_name(t->act),
           B, length, B * STEPS / wall, B * STEPS / device, B * STEPS / wall * length * per_token * 1e-12);
    fflush(stdout);
    free(ids);
    encoder_close(n);
}

static void time_all(struct gpu_test *t) {
    const struct encoder_config bge = {.arch_name = "BertModel", .dtype = t->act, .n_layers = 12, .hidden = 768,
                                       .n_heads = 12, .head_dim = 64, .ffn = 3072, .vocab = 30522,
                                       .max_positions = 512, .n_token_types = 2, .norm_eps = 1e-12f,
                                       .pooling = POOLING_CLS, .normalize = true, .max_len = 512};
    struct encoder_config minilm = bge;
    minilm.n_layers = 6, minilm.hidden = 384, minilm.head_dim = 32, minilm.ffn = 1536, minilm.pooling = POOLING_MEAN;
    time_ops(t, 32, 512, 12, 64);
    time_ops(t, 64, 256, 12, 32);
    static const int sizes[] = {1, 4, 8, 16, 32, 64};
    for (int i = 0; i < N_OF(sizes); i++) time_encoder(t, &bge, "bge-base", sizes[i], 512);
    time_encoder(t, &bge, "bge-base", 1, 16);
    time_encoder(t, &minilm, "MiniLM", 64, 256);
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

static void check_rows(struct gpu_test *t) {
    static const int tokens[] = {1, 7, 64, 200}, widths[] = {1, 7, 90, 100, 384, 768, 1024, 1025, 4096};
    const int n_tokens = t->quick ? 2 : N_OF(tokens);
    for (int i = 0; i < n_tokens; i++)
        for (int j = 0; j < N_OF(widths); j++) {
            test_layer_norm(t, tokens[i], widths[j], false);
            test_layer_norm(t, tokens[i], widths[j], true);
            test_gelu(t, tokens[i], widths[j]);
        }
}

static void check_texts(struct gpu_test *t) {
    static const int few[] = {1, 130, 17, 64}, many[] = {1, 2, 63, 64, 65, 127, 128, 129, 300, 512, 16, 15},
                     shapes[][2] = {{12, 64}, {12, 32}, {3, 32}, {5, 18}, {2, 128}, {1, 64}, {1, 256}};
    const int *lengths = t->quick ? few : many, B = t->quick ? N_OF(few) : N_OF(many);
    for (int i = 0; i < N_OF(shapes); i++) {
        test_attention(t, lengths, B, shapes[i][0], shapes[i][1], i % 2 ? 6 : 2);
        test_attention_bits(t, few, N_OF(few), shapes[i][0], shapes[i][1]);
    }
    static const int widths[] = {1, 90, 384, 768};
    for (int i = 0; i < N_OF(widths); i++) {
        test_embed_sum(t, few, N_OF(few), widths[i]);
        for (int kind = 0; kind < 4; kind++)
            test_pool(t, few, N_OF(few), widths[i], kind / 2 ? POOLING_MEAN : POOLING_CLS, kind % 2);
    }
    if (t->quick) return; /* cuBLASLt's products are not for racecheck */
    test_encoder_vectors(t, 128, 2, POOLING_CLS);
    test_encoder_vectors(t, 96, 3, POOLING_MEAN);
    test_encoder_vectors(t, 90, 5, POOLING_MEAN);
}

int main(int argc, char **argv) {
    struct gpu_test t = gpu_test_begin(argc, argv);
    const bool only_time = gpu_test_is_mode(&t, "--time");
    static const enum dtype acts[] = {DTYPE_BF16, DTYPE_F16, DTYPE_F32};
    for (int i = 0; i < (only_time ? 2 : 3); i++) {
        gpu_test_open(&t, acts[i], (struct exec_options){.max_tokens = 1 << 15, .max_width = 1 << 13});
        if (only_time) {
            time_all(&t);
        } else {
            check_rows(&t);
            check_texts(&t);
        }
        gpu_test_close(&t);
    }
    return only_time ? 0 : gpu_test_end(&t);
}
