/* test_elementwise.c - embed, gather_rows, silu_mul, add, the norms, fill_random and the simple linear against their
 * CPU twins. With --time: microseconds at the shapes of a 14B model. */
#include "gpu_test.h"
#include "gpu_time.h"
#include "kernels/noise.h"

static const enum dtype acts[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

/* What a differing last bit in fp32 may do after rounding: rms, and per element. */
static double rms_bound(enum dtype t) { return t == DTYPE_F32 ? 2e-6 : t == DTYPE_BF16 ? 5e-4 : 1e-4; }
static double rel_bound(enum dtype t) { return t == DTYPE_F32 ? 1e-5 : t == DTYPE_BF16 ? 0x1p-6 : 0x1p-9; }

static void compare(struct gpu_test *t, const char *name, const struct twin *x) {
    twin_compare(t, name, x, rms_bound(t->act), 1e-6, rel_bound(t->act));
}

static struct twin twin_ids(struct gpu_test *t, size_t n, int below) {
    struct twin x = twin_poison(t, DTYPE_I32, n);
    for (size_t i = 0; i < n; i++) ((int32_t *)x.cpu)[i] = gpu_test_below(t, below);
    twin_upload(t, &x);
    return x;
}

/* ---- rows by an index -------------------------------------------------------------------------------------------- */

static void test_embed(struct gpu_test *t, int T, int C, enum dtype dtype) {
    enum { V = 97, N_SAMPLED = 5 };
    char name[128];
    snprintf(name, sizeof name, "embed %s from %s, T %d, C %d", dtype_name(t->act), dtype_name(dtype), T, C);
    struct twin table = twin_random(t, dtype, (size_t)V * C, 0, 4), x = twin_poison(t, t->act, (size_t)T * C);
    struct twin tokens = twin_ids(t, (size_t)T, V), sampled = twin_ids(t, N_SAMPLED, V);
    for (int i = 0; i < T; i += 3) ((int32_t *)tokens.cpu)[i] = -1 - gpu_test_below(t, N_SAMPLED);
    twin_upload(t, &tokens);
    struct matrix cpu = {.format = MATRIX_DENSE, .dtype = dtype, .rows = V, .cols = C, .data = table.cpu}, gpu = cpu;
    gpu.data = table.gpu;
    embed(t->cpu, x.cpu, tokens.cpu, sampled.cpu, &cpu, T);
    embed(t->gpu, x.gpu, tokens.gpu, sampled.gpu, &gpu, T);
    twin_compare(t, name, &x, 0, 0, 0);
    /* An id that no row has gives zeros, however it comes. */
    snprintf(name, sizeof name, "embed %s from %s, T %d, C %d, ids out of range", dtype_name(t->act), dtype_name(dtype),
             T, C);
    const int32_t outside[] = {V, INT32_MAX, -1 - N_SAMPLED + 1};
    ((int32_t *)sampled.cpu)[N_SAMPLED - 1] = gpu_test_below(t, 2) ? -1 : V;
    for (int i = 0; i < T; i++) ((int32_t *)tokens.cpu)[i] = outside[i % 3];
    twin_upload(t, &tokens);
    twin_upload(t, &sampled);
    memset(x.cpu, 0, x.n * dtype_bytes(x.dtype));
    embed(t->gpu, x.gpu, tokens.gpu, sampled.gpu, &gpu, T);
    twin_compare(t, name, &x, 0, 0, 0);
    twin_free(t, &table), twin_free(t, &x), twin_free(t, &tokens), twin_free(t, &sampled);
}

static void test_gather_rows(struct gpu_test *t, int R, int C) {
    enum { T = 131 };
    char name[128];
    snprintf(name, sizeof name, "gather_rows %s, R %d, C %d", dtype_name(t->act), R, C);
    struct twin x = twin_random(t, t->act, (size_t)T * C, 0, 4), out = twin_poison(t, t->act, (size_t)R * C);
    struct twin rows = twin_ids(t, (size_t)R, T);
    gather_rows(t->cpu, out.cpu, x.cpu, rows.cpu, R, C);
    gather_rows(t->gpu, out.gpu, x.gpu, rows.gpu, R, C);
    twin_compare(t, name, &out, 0, 0, 0);
    twin_free(t, &x), twin_free(t, &out), twin_free(t, &rows);
}

/* ---- elementwise ------------------------------------------------------------------------------------------------- */

static void test_silu_mul(struct gpu_test *t, int T, int F) {
    char name[128];
    snprintf(name, sizeof name, "silu_mul %s, T %d, F %d", dtype_name(t->act), T, F);
    struct twin gate_up = twin_random(t, t->act, 2 * (size_t)T * F, 0, 12), out = twin_poison(t, t->act, (size_t)T * F);
    for (int i = 0; i < 2 && i < F; i++) twin_set(&gate_up, (size_t)i, i ? -200 : 200); /* exponentials at their ends */
    twin_upload(t, &gate_up);
    silu_mul(t->cpu, out.cpu, gate_up.cpu, T, F);
    silu_mul(t->gpu, out.gpu, gate_up.gpu, T, F);
    compare(t, name, &out);
    twin_free(t, &gate_up), twin_free(t, &out);
}

static void test_add(struct gpu_test *t, int T, int C) {
    char name[128];
    snprintf(name, sizeof name, "add %s, T %d, C %d", dtype_name(t->act), T, C);
    struct twin r = twin_random(t, t->act, (size_t)T * C, 0, 4), h = twin_random(t, t->act, (size_t)T * C, 0, 4);
    add(t->cpu, r.cpu, h.cpu, T, C);
    add(t->gpu, r.gpu, h.gpu, T, C);
    twin_compare(t, name, &r, 0, 0, 0);
    twin_free(t, &r), twin_free(t, &h);
}

/* in_place: out is h. */
static void test_norm(struct gpu_test *t, int T, int C, bool in_place) {
    char name[128];
    struct twin h = twin_random(t, t->act, (size_t)T * C, 0.1f, 3), w = twin_random(t, t->act, (size_t)C, 1, 0.5f);
    struct twin out = twin_poison(t, t->act, (size_t)T * C), *y = in_place ? &h : &out;
    rms_norm(t->cpu, y->cpu, h.cpu, w.cpu, T, C, 1e-6f);
    rms_norm(t->gpu, y->gpu, h.gpu, w.gpu, T, C, 1e-6f);
    snprintf(name, sizeof name, "rms_norm %s, T %d, C %d%s", dtype_name(t->act), T, C, in_place ? ", in place" : "");
    compare(t, name, y);
    twin_free(t, &h), twin_free(t, &w), twin_free(t, &out);
}

/* ---- fill_random ------------------------------------------------------------------------------------------------- */

static void test_fill(struct gpu_test *t, enum dtype dtype, size_t n) {
    char name[128];
    snprintf(name, sizeof name, "fill_random %s, n %zu", dtype_name(dtype), n);
    struct twin x = twin_poison(t, dtype, n);
    uint64_t seed = (uint64_t)gpu_test_u32(t) << 32 | gpu_test_u32(t);
    fill_random(t->cpu, x.cpu, dtype, n, 0.125f, 0.7f, seed);
    fill_random(t->gpu, x.gpu, dtype, n, 0.125f, 0.7f, seed);
    void *found = malloc(n * dtype_bytes(dtype));
    exec_download(t->gpu, found, x.gpu, n * dtype_bytes(dtype));
    gpu_test_verdict(t, !memcmp(found, x.cpu, n * dtype_bytes(dtype)), name, "the same bits as on the CPU");
    free(found);
    twin_free(t, &x);
}

/* Elements past 2^31: only the last ones are compared. */
static void test_fill_large(struct gpu_test *t) {
    enum { TAIL = 1001 };
    const size_t n = ((size_t)1 << 31) + 501;
    uint16_t *p = exec_alloc(t->gpu, n * 2), found[TAIL];
    if (!p) {
        printf("SKIP  fill_random past 2^31: no memory\n");
        return;
    }
    fill_random(t->gpu, p, DTYPE_BF16, n, 0, 1, 7);
    exec_download(t->gpu, found, p + (n - TAIL), sizeof found);
    int n_off = 0;
    for (size_t i = 0; i < TAIL; i++) {
        uint32_t bits[4];
        noise_elements(bits, 7, (n - TAIL + i) / 4);
        n_off += found[i] != bf16_from_f32(noise_symmetric(bits[(n - TAIL + i) % 4]));
    }
    gpu_test_verdict(t, !n_off, "fill_random bfloat16 past 2^31",
                     n_off ? "elements differ" : "the same bits as on the CPU");
    exec_free(t->gpu, p);
}

/* ---- linear_simple ----------------------------------------------------------------------------------------------- */

/* linear.cu prefers faster kernels, so this one is called by its name in the object file. */
enum epilogue { EPILOGUE_STORE, EPILOGUE_F32, EPILOGUE_ADD, EPILOGUE_SILU_MUL };
struct linear_args {
    void *y;
    const void *x;
    const struct matrix *w;
    const void *bias;
    enum epilogue epilogue;
    int T;
    const void *norm;
    float eps;
};
void linear_simple(struct exec *e, const struct linear_args *a) __asm__("_Z19cuda__linear_simpleP4execPK11linear_args");

static void test_linear(struct gpu_test *t, int T, int N, int K, enum dtype dtype, enum epilogue epilogue,
                        bool with_bias) {
    static const char *const names[] = {"store", "f32", "add", "silu_mul"};
    char name[160];
    snprintf(name, sizeof name, "linear_simple %s, weights %s, T %d, N %d, K %d, %s%s", dtype_name(t->act),
             dtype_name(dtype), T, N, K, names[epilogue], with_bias ? " with bias" : "");
    const int n_out = epilogue == EPILOGUE_SILU_MUL ? N / 2 : N;
    struct twin x = twin_random(t, t->act, (size_t)T * K, 0, 1), w = twin_random(t, dtype, (size_t)N * K, 0, 1);
    struct twin bias = twin_random(t, t->act, (size_t)N, 0, 1), h = twin_poison(t, t->act, (size_t)T * N);
    struct twin y = epilogue == EPILOGUE_ADD
                        ? twin_random(t, t->act, (size_t)T * n_out, 0, 4)
                        : twin_poison(t, epilogue == EPILOGUE_F32 ? DTYPE_F32 : t->act, (size_t)T * n_out);
    struct matrix cpu = {.format = MATRIX_DENSE, .dtype = dtype, .rows = N, .cols = K, .data = w.cpu}, gpu = cpu;
    gpu.data = w.gpu;
    if (epilogue == EPILOGUE_STORE) {
        linear(t->cpu, y.cpu, x.cpu, &cpu, with_bias ? bias.cpu : NULL, T);
    } else if (epilogue == EPILOGUE_F32) {
        linear_f32(t->cpu, y.cpu, x.cpu, &cpu, T);
    } else {
        linear(t->cpu, h.cpu, x.cpu, &cpu, NULL, T);
        if (epilogue == EPILOGUE_ADD) add(t->cpu, y.cpu, h.cpu, T, N);
        else silu_mul(t->cpu, y.cpu, h.cpu, T, N / 2);
    }
    const struct linear_args a = {.y = y.gpu, .x = x.gpu, .w = &gpu, .bias = with_bias ? bias.gpu : NULL,
                                  .epilogue = epilogue, .T = T};
    linear_simple(t->gpu, &a);
    /* Sums of K products lose some 1e-7 of their terms; near a tie that moves a rounded value by a step, which the
     * residual may then bring out. Sums are below 64. */
    const double step = t->act == DTYPE_F32        ? 1e-3
                        : epilogue == EPILOGUE_F32 ? 1e-5
                        : t->act == DTYPE_BF16     ? 0x1p-2
                                                   : 0x1p-5;
    twin_compare(t, name, &y, epilogue == EPILOGUE_F32 ? 2e-6 : 2 * rms_bound(t->act), step + 1e-6 * sqrt(K),
                 epilogue == EPILOGUE_F32 ? 1e-5 : 2 * rel_bound(t->act));
    twin_free(t, &x), twin_free(t, &w), twin_free(t, &bias), twin_free(t, &h), twin_free(t, &y);
}

/* 4-bit weights as a checkpoint has them; the CPU's side is their dense equal. */
static void test_awq(struct gpu_test *t, int T, int N, int K) {
    static const int column_of[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    char name[128];
    snprintf(name, sizeof name, "linear_simple AWQ, T %d, N %d, K %d", T, N, K);
    struct twin x = twin_random(t, DTYPE_F16, (size_t)T * K, 0, 1), y = twin_poison(t, DTYPE_F16, (size_t)T * N);
    struct twin qweight = twin_poison(t, DTYPE_I32, (size_t)K * N / 8),
                qzeros = twin_poison(t, DTYPE_I32, (size_t)K / 128 * N / 8);
    struct twin scales = twin_random(t, DTYPE_F16, (size_t)K / 128 * N, 0.01f, 0.008f);
    struct twin dense = twin_poison(t, DTYPE_F16, (size_t)N * K);
    for (size_t i = 0; i < qweight.n; i++) ((uint32_t *)qweight.cpu)[i] = gpu_test_u32(t);
    for (size_t i = 0; i < qzeros.n; i++) ((uint32_t *)qzeros.cpu)[i] = gpu_test_u32(t);
    twin_upload(t, &qweight);
    twin_upload(t, &qzeros);
    for (int k = 0; k < K; k++)
        for (int word = 0; word < N / 8; word++)
            for (int i = 0; i < 8; i++) {
                const int n = 8 * word + column_of[i], group = k / 128;
                const int q = (int)(((uint32_t *)qweight.cpu)[(size_t)k * (N / 8) + word] >> 4 * i & 15);
                const int zero = (int)(((uint32_t *)qzeros.cpu)[(size_t)group * (N / 8) + word] >> 4 * i & 15);
                const float scale = twin_get(DTYPE_F16, scales.cpu, (size_t)group * N + (size_t)n);
                twin_set(&dense, (size_t)n * K + (size_t)k, (float)(q - zero) * scale);
            }
    struct matrix cpu = {.format = MATRIX_DENSE, .dtype = DTYPE_F16, .rows = N, .cols = K, .data = dense.cpu},
                  gpu = cpu;
    gpu.format = MATRIX_AWQ, gpu.group = 128;
    void *base = exec_alloc(t->gpu, awq_bytes(t->gpu, N, K, 128));
    awq_layout(t->gpu, &gpu, base);
    awq_pack(t->gpu, &gpu, 0, N, qweight.gpu, qzeros.gpu, scales.gpu);
    linear(t->cpu, y.cpu, x.cpu, &cpu, NULL, T);
    const struct linear_args a = {.y = y.gpu, .x = x.gpu, .w = &gpu, .epilogue = EPILOGUE_STORE, .T = T};
    linear_simple(t->gpu, &a);
    twin_compare(t, name, &y, 2 * rms_bound(DTYPE_F16), 1e-4, 2 * rel_bound(DTYPE_F16));
    exec_free(t->gpu, base);
    twin_free(t, &x), twin_free(t, &y), twin_free(t, &qweight), twin_free(t, &qzeros), twin_free(t, &scales),
        twin_free(t, &dense);
}

static void test_linears(struct gpu_test *t) {
    static const struct {
        int T, N, K;
    } sizes[] = {{1, 2, 1}, {1, 64, 64}, {3, 62, 17}, {63, 66, 65}, {64, 128, 48}, {65, 130, 257}, {129, 514, 1031}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int epilogue = 0; epilogue < 4; epilogue++)
            for (int bias = 0; bias < (epilogue ? 1 : 2); bias++)
                test_linear(t, sizes[i].T, sizes[i].N, sizes[i].K, (i + (size_t)bias) % 2 ? DTYPE_F32 : t->act,
                            epilogue, bias);
    for (int i = 0; i < 3; i++) test_linear(t, 5, 34, 100, acts[i], EPILOGUE_STORE, true);
    if (t->act == DTYPE_F16) test_awq(t, 3, 16, 128), test_awq(t, 70, 208, 640);
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

static void test_act(struct gpu_test *t) {
    static const int widths[] = {1, 7, 8, 13, 64, 120, 513, 1000, 2048, 2056, 5120, 8192, 10007, 17408};
    static const int rows[] = {1, 2, 3, 17, 64, 5, 300};
    for (int i = 0; i < 14; i++) {
        const int C = widths[i], T = rows[i % 7];
        for (int j = 0; j < 3; j++) test_embed(t, T, C, acts[j]);
        test_gather_rows(t, T, C);
        test_silu_mul(t, T, C);
        test_add(t, T, C);
        test_norm(t, T, C, false);
        test_norm(t, T, C, true);
    }
    test_linears(t);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

struct timed {
    struct exec *e;
    struct matrix table;
    char *x, *y, *w; /* x and y: `copies` pieces of `stride` bytes */
    int32_t *tokens;
    size_t stride;
    int copies, T, C, F;
};
static char *piece_of(const struct timed *o, char *p, int i) { return p + (size_t)(i % o->copies) * o->stride; }
static void time_embed(void *arg, int i) {
    struct timed *o = arg;
    embed(o->e, piece_of(o, o->x, i), o->tokens, NULL, &o->table, o->T);
}
static void time_norm(void *arg, int i) {
    struct timed *o = arg;
    rms_norm(o->e, piece_of(o, o->y, i), piece_of(o, o->x, i), o->w, o->T, o->C, 1e-6f);
}
static void time_add(void *arg, int i) {
    struct timed *o = arg;
    add(o->e, piece_of(o, o->x, i), piece_of(o, o->y, i), o->T, o->C);
}
static void time_silu(void *arg, int i) {
    struct timed *o = arg;
    silu_mul(o->e, piece_of(o, o->y, i), piece_of(o, o->x, i), o->T, o->F);
}
static void time_fill(void *arg, int i) {
    struct timed *o = arg;
    fill_random(o->e, o->x, DTYPE_BF16, (size_t)1 << 29, 0, 1, (uint64_t)i);
}

static void time_all(void) {
    static const int tokens[] = {1, 16, 64, 2048, 8192};
    enum { C = 5120, F = 17408, V = 151936, MOST = 8192 };
    struct gpu_test t = {0};
    gpu_test_open(&t, DTYPE_BF16, (struct exec_options){.max_tokens = MOST});
    struct timed o = {.e = t.gpu, .C = C, .F = F};
    o.table = (struct matrix){.format = MATRIX_DENSE, .dtype = DTYPE_BF16, .rows = V, .cols = C};
    const size_t bytes = (size_t)1 << 30; /* past three times the L2, whatever the tensors' size */
    o.x = exec_alloc(t.gpu, bytes), o.y = exec_alloc(t.gpu, bytes), o.w = exec_alloc(t.gpu, 2 * C);
    o.table.data = exec_alloc(t.gpu, (size_t)V * C * 2), o.tokens = exec_alloc(t.gpu, MOST * 4);
    int32_t ids[MOST];
    for (int i = 0; i < MOST; i++) ids[i] = gpu_test_below(&t, V);
    exec_upload(t.gpu, o.tokens, ids, sizeof ids);
    fill_random(t.gpu, o.x, DTYPE_BF16, bytes / 2, 0, 1, 1);
    fill_random(t.gpu, o.y, DTYPE_BF16, bytes / 2, 0, 1, 2);
    for (int i = 0; i < 5; i++) {
        const int T = o.T = tokens[i], n = T < 2048 ? 100 : 20;
        const double row = (double)T * C * 2;
        o.stride = ((size_t)T * 2 * F * 2 + 255) / 256 * 256; /* of the largest: gate_up */
        o.copies = (int)(bytes / o.stride) < 200 ? (int)(bytes / o.stride) : 200;
        gpu_time_print("embed", T, gpu_time(t.gpu, time_embed, &o, n), 2 * row);
        gpu_time_print("rms_norm", T, gpu_time(t.gpu, time_norm, &o, n), 2 * row);
        gpu_time_print("add", T, gpu_time(t.gpu, time_add, &o, n), 3 * row);
        gpu_time_print("silu_mul", T, gpu_time(t.gpu, time_silu, &o, n), 3 * (double)T * F * 2);
    }
    gpu_time_print("fill_random, 1 GiB of bf16", 0, gpu_time(t.gpu, time_fill, &o, 2), 1 << 30);
    gpu_test_close(&t);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--time")) {
        time_all();
        return 0;
    }
    struct gpu_test t = {.seed = gpu_test_seed(argc, argv)};
    for (int i = 0; i < 3; i++) {
        gpu_test_open(&t, acts[i], (struct exec_options){0});
        test_act(&t);
        if (!i) {
            static const enum dtype formats[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_I32};
            static const size_t counts[] = {1, 7, 8, 4095, 4096, 4097, 1000003};
            for (int f = 0; f < 4; f++)
                for (int c = 0; c < 7; c++) test_fill(&t, formats[f], counts[c]);
            test_fill_large(&t);
        }
        gpu_test_close(&t);
    }
    return gpu_test_end(&t);
}
