#include "benchmarks/engine_run.h"
#include "benchmarks/kv_operands.h"

#include <math.h>
#include <string.h>

/* The activations' dtype that the engine will take. */
static enum dtype act_of(const struct engine_options *o, const struct bench_model *m) {
    if (o->dtype && (!strcmp(o->dtype, "float32") || !strcmp(o->dtype, "float"))) return DTYPE_F32;
    if (o->dtype && !strcmp(o->dtype, "bfloat16")) return DTYPE_BF16;
    if (o->dtype && (!strcmp(o->dtype, "float16") || !strcmp(o->dtype, "half"))) return DTYPE_F16;
    return m->act;
}

static bool is_shape_file(const char *path) {
    const size_t n = strlen(path);
    return n > 5 && !strcmp(path + n - 5, ".json");
}

int bench_engine_open(struct bench_engine *b, const struct engine_options *options, bool with_peaks, char *err,
                      size_t err_bytes) {
    struct engine_options o = *options;
    int status = bench_model_open(&b->model, options->model, err, err_bytes);
    if (!status && with_peaks)
        status = bench_machine_peaks(&b->peaks, act_of(options, &b->model), o.backend, o.n_threads, err, err_bytes);
    if (status) return status;
    o.model = b->model.path;
    if (is_shape_file(o.model) && !o.load_format) o.load_format = "dummy";
    o.token_ids_only = true; /* prompts are made of ids */
    const double start = bench_now();
    status = engine_open(&b->engine, &o, err, err_bytes);
    b->open_seconds = bench_now() - start;
    return status;
}

void bench_engine_close(struct bench_engine *b) {
    engine_close(b->engine);
    b->engine = NULL;
}

/* One kernel's share of the step, `times` over. */
static void add_kernel(struct step_cost *cost, const struct bench_peaks *p, double times, double bytes, double flops) {
    cost->bytes += times * bytes;
    cost->flops += times * flops;
    cost->kernel_floor += times * fmax(bytes / p->read, flops / p->gemm);
}

struct step_cost bench_step_cost(const struct bench_engine *b, int B, int n, double context) {
    const struct model_config *c = &b->model.config;
    const struct engine_info *info = engine_info(b->engine);
    const double T = (double)B * n, L = c->n_layers, width = (double)c->n_heads * c->head_dim;
    struct bench_matrix_size sizes[BENCH_MATRICES];
    struct step_cost cost = {0};
    bench_matrix_sizes(sizes, &b->model);
    for (int i = 0; i < BENCH_MATRICES; i++)
        add_kernel(&cost, &b->peaks, L, bench_matrix_bytes(info->dtype, sizes[i].rows, sizes[i].cols, b->model.group),
                   2 * T * sizes[i].rows * sizes[i].cols);
    /* Attention: token i of n reads context + i + 1 positions, but the blocks are read once for all of them. */
    add_kernel(&cost, &b->peaks, L, B * (context + n) * kv_token_bytes(info->kv_dtype, c->n_kv_heads, c->head_dim),
               4 * width * T * (context + (n + 1) / 2.0));
    add_kernel(&cost, &b->peaks, 1, bench_matrix_bytes(info->dtype, c->vocab, c->hidden, 0),
               2.0 * B * c->vocab * c->hidden);
    cost.byte_floor = cost.bytes / b->peaks.read;
    return cost;
}
