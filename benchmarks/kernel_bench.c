/* kernel_bench.c - `tandem bench kernels`: lists the cases of every kernel, opens an exec per dtype, and times each
 * case.
 *
 * A case runs on several sets of operands in turn, so many that together they are past three times the caches: what a
 * step would find in memory comes from memory here. Kernels with small operands would need thousands of sets; they get
 * MAX_COPIES, and find their operands in the L2 as they do in a step, where the op before has just written them. */
#include "benchmarks/kernel_plan.h"
#include "benchmarks/encoder_sizes.h"
#include "benchmarks/kv_operands.h"
#include "benchmarks/report.h"

#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_COPIES = 256, MAX_COPIES_HOST = 64, MAX_ROWS = 256 };
static const size_t FOOTPRINT_GPU = (size_t)192 << 20; /* three times the 60 MB L2 of an H200, and a little */
static const size_t FOOTPRINT_HOST = (size_t)64 << 20;

static const int TOKENS_GPU[] = {1, 16, 64, 2048, 8192}, GEMM_TOKENS_GPU[] = {1, 2, 4, 8, 16, 64, 512, 2048, 8192};
static const int TOKENS_HOST[] = {1, 16, 64, 512};
#define INTS(list) ((struct bench_ints){list, sizeof(list) / sizeof *(list)})

/* ---- the list ---------------------------------------------------------------------------------------------------- */

const int *bench_tokens(const struct bench_list *list, int *n) {
    *n = list->tokens.n;
    return list->tokens.values;
}

const int *bench_gemm_tokens(const struct bench_list *list, int *n) {
    *n = list->gemm_tokens.n;
    return list->gemm_tokens.values;
}

void bench_case_id(char *out, size_t n, const struct bench_case *c) {
    snprintf(out, n, "%s/%s/%s/T=%d", c->kernel->name, c->model, c->shape, c->T);
}

void bench_case_add(struct bench_list *list, const struct bench_model *m, const struct bench_case *c, const char *shape,
                    ...) {
    struct bench_case added = *c;
    char id[256];
    va_list args;
    added.kernel = list->adding;
    added.model = m->name;
    if (!c->act) added.act = m->act;
    va_start(args, shape);
    vsnprintf(added.shape, sizeof added.shape, shape, args);
    va_end(args);
    bench_case_id(id, sizeof id, &added);
    if (list->only && regexec(list->only, id, 0, NULL, 0)) return;
    for (int i = 0; i < list->n; i++) {
        const struct bench_case *old = &list->cases[i];
        if (old->kernel == added.kernel && old->act == added.act && old->T == added.T &&
            !memcmp(old->n, added.n, sizeof added.n) && !strcmp(old->shape, added.shape))
            return;
    }
    if (list->n == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 256;
        list->cases = realloc(list->cases, (size_t)list->capacity * sizeof *list->cases);
        CHECK(list->cases);
    }
    list->cases[list->n++] = added;
}

static int make_list(struct bench_list *list, const struct bench_model *models, int n_models, bool is_gpu) {
    const struct bench_kernels_options *o = list->options;
    list->tokens = o->tokens.n ? o->tokens : is_gpu ? INTS(TOKENS_GPU) : INTS(TOKENS_HOST);
    list->gemm_tokens = o->tokens.n ? o->tokens : is_gpu ? INTS(GEMM_TOKENS_GPU) : INTS(TOKENS_HOST);
    /* references first, so that rows can show what they are compared with */
    for (int is_reference = 1; is_reference >= 0; is_reference--)
        for (int k = 0; kernel_benches[k]; k++)
            for (int i = 0; i < n_models && kernel_benches[k]->is_reference == is_reference; i++) {
                list->adding = kernel_benches[k];
                kernel_benches[k]->cases(list, &models[i]);
            }
    return list->n;
}

/* ---- one case ---------------------------------------------------------------------------------------------------- */

struct case_run {
    const struct bench_case *c;
    char *operands; /* owned: n_copies sets */
};

static bool run_case(struct bench *b, void *user, int i) {
    const struct case_run *r = user;
    return r->c->kernel->run(b->e, r->c, r->operands + (size_t)i * r->c->kernel->operand_bytes);
}

static int bench_case_run(struct bench_result *result, struct bench *b, const struct bench_case *c, char *err,
                          size_t err_bytes) {
    const size_t footprint = b->is_gpu ? FOOTPRINT_GPU : FOOTPRINT_HOST, size = c->kernel->operand_bytes;
    const int most = b->is_gpu ? MAX_COPIES : MAX_COPIES_HOST;
    const double wanted = (double)footprint / c->bytes + 1;
    b->n_copies = wanted < most ? (int)wanted : most;
    struct case_run run = {.c = c, .operands = calloc((size_t)b->n_copies, size)};
    CHECK(run.operands);
    b->first = run.operands;
    b->arena_used = 0;
    b->is_full = false;
    int made = 0, status = 0;
    for (; made < b->n_copies; made++) {
        b->copy = made;
        c->kernel->make(b, c, run.operands + (size_t)made * size);
        if (b->is_full) break; /* what was made so far must do */
    }
    if (!made) status = fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for one set of operands");
    if (!status) status = exec_finish(b->e, err, err_bytes);
    if (!status) status = bench_measure(&result->time, b, run_case, &run, made, c->no_graph, err, err_bytes);
    result->c = c;
    result->n_copies = made;
    result->done = !status;
    free(run.operands);
    return status;
}

/* ---- a run: one exec per dtype ----------------------------------------------------------------------------------- */

/* The largest sizes of all cases and of the peaks, for everything is planned when an exec opens. */
static struct exec_options exec_sizes(const struct bench_model *models, int n_models, const struct bench_list *list,
                                      enum dtype act, int gemm_size) {
    struct exec_options o = bench_exec_options(list->options->backend, act, list->options->n_threads, gemm_size);
    o.max_rows = MAX_ROWS;
    o.max_kv_len = 1 << 16;
#define AT_LEAST(field, value)                                                                                         \
    do {                                                                                                               \
        if (o.field < (value)) o.field = (value);                                                                      \
    } while (0)
    for (int i = 0; i < n_models; i++) {
        const struct model_config *c = &models[i].config;
        struct bench_matrix_size sizes[BENCH_MATRICES];
        bench_matrix_sizes(sizes, &models[i]);
        for (int j = 0; j < BENCH_MATRICES; j++) {
            AT_LEAST(max_width, sizes[j].rows);
            AT_LEAST(max_width, sizes[j].cols);
        }
        AT_LEAST(max_heads, c->n_heads);
        AT_LEAST(max_head_dim, c->head_dim);
        AT_LEAST(vocab, c->vocab);
    }
    AT_LEAST(max_tokens, KV_FILL_TOKENS);
    AT_LEAST(max_width, BGE_F);
    AT_LEAST(max_heads, BGE_H);
    AT_LEAST(max_head_dim, BGE_D);
    for (int i = 0; i < list->n; i++) AT_LEAST(max_tokens, list->cases[i].T);
#undef AT_LEAST
    return o;
}

struct totals {
    int done, left_out, failed;
};

/* `read` is the best bandwidth that was measured before, for the memory is the same whatever the dtype. */
static int bench_dtype(struct bench_result *results, const struct bench_list *list, const struct exec_options *sizes,
                       double *read, struct bench_peaks *peaks, struct totals *totals, char *backend,
                       size_t backend_bytes, const char **library, char *err, size_t err_bytes) {
    const struct bench_kernels_options *o = list->options;
    struct bench b = {.sample_seconds = 1e-3 * o->sample_ms, .n_samples = o->n_samples};
    char sentence[ERR_BYTES], id[256];
    int status = exec_open(&b.e, sizes, err, err_bytes);
    if (status) return status;
    b.is_gpu = exec_is_gpu(b.e);
    snprintf(backend, backend_bytes, "%s", exec_backend(b.e));
    *library = probe_library(b.e);
    status = bench_arena_open(&b, (size_t)(b.is_gpu ? 32 : 6) << 30, err, err_bytes);
    if (!status) status = bench_measure_peaks(peaks, &b, err, err_bytes);
    if (peaks->read < *read) peaks->read = *read;
    *read = peaks->read;
    if (!status && !o->json) bench_print_peaks(b.e, peaks);
    for (int i = 0; i < list->n && !status; i++) {
        const struct bench_case *c = &list->cases[i];
        if (c->act != sizes->dtype) continue;
        bench_case_id(id, sizeof id, c);
        bench_report(&o->progress, id, totals->done + totals->left_out + totals->failed, list->n);
        const int failure = bench_case_run(&results[i], &b, c, sentence, sizeof sentence);
        if (!failure)
            totals->done++;
        else if (failure == STATUS_UNSUPPORTED)
            totals->left_out++;
        else {
            totals->failed++;
            fprintf(stderr, "tandem bench: %s: %s\n", id, sentence);
            if (failure == STATUS_DEVICE) status = fail(err, err_bytes, failure, "%s: %s", id, sentence);
        }
        if (!failure && !o->json) bench_print_row(&results[i], bench_reference(results, list->n, c), peaks, *library);
    }
    bench_arena_close(&b);
    exec_close(b.e);
    return status;
}

/* Whether the backend that would be opened is a GPU. */
static int ask_backend(bool *is_gpu, const struct bench_kernels_options *o, char *err, size_t err_bytes) {
    const struct exec_options least = bench_exec_options(o->backend, DTYPE_BF16, 1, 64);
    struct exec *e;
    const int status = exec_open(&e, &least, err, err_bytes);
    if (status) return status;
    *is_gpu = exec_is_gpu(e);
    exec_close(e);
    return 0;
}

int bench_kernels(const struct bench_kernels_options *o, char *err, size_t err_bytes) {
    static const char *const host_models[] = {"Qwen3-0.6B", NULL};
    struct bench_list list = {.options = o};
    struct bench_model *models = NULL;
    struct bench_result *results = NULL;
    struct bench_peaks peaks[DTYPE_COUNT] = {0};
    struct totals totals = {0};
    double read = 0;
    regex_t only;
    char backend[80] = "";
    const char *library = NULL;
    bool is_gpu;
    int n_models = 0, status = ask_backend(&is_gpu, o, err, err_bytes);

    if (status) return status;
    if (o->only) {
        char why[128];
        const int wrong = regcomp(&only, o->only, REG_EXTENDED | REG_NOSUB);
        if (wrong) {
            regerror(wrong, &only, why, sizeof why);
            return fail(err, err_bytes, STATUS_INVALID,
                        "--only: expected an extended regular expression, found \"%s\": %s", o->only, why);
        }
        list.only = &only;
    }
    const char *const *names = o->n_models ? o->models : is_gpu ? bench_model_names : host_models;
    while (o->n_models ? n_models < o->n_models : names[n_models] != NULL) n_models++;
    models = calloc((size_t)n_models, sizeof *models);
    CHECK(models);
    for (int i = 0; i < n_models && !status; i++) status = bench_model_open(&models[i], names[i], err, err_bytes);
    if (status) goto done;
    if (!make_list(&list, models, n_models, is_gpu)) {
        status = fail(err, err_bytes, STATUS_NOT_FOUND, "no case matches; --list shows them all");
        goto done;
    }
    if (o->list) {
        bench_print_list(&list);
        goto done;
    }
    results = calloc((size_t)list.n, sizeof *results);
    CHECK(results);
    static const enum dtype order[] = {DTYPE_BF16, DTYPE_F16, DTYPE_F32}; /* the references' first */
    for (int k = 0; k < 3 && !status; k++) {
        const enum dtype act = order[k];
        bool any = false;
        for (int i = 0; i < list.n; i++) any |= list.cases[i].act == act;
        if (!any) continue;
        peaks[act] = bench_peaks_wanted(act, is_gpu);
        const struct exec_options sizes = exec_sizes(models, n_models, &list, act, peaks[act].gemm_size);
        status = bench_dtype(results, &list, &sizes, &read, &peaks[act], &totals, backend, sizeof backend, &library,
                             err, err_bytes);
    }
    bench_report(&o->progress, NULL, list.n, list.n);
    if (o->json) {
        bench_print_json(backend, library, results, list.n, peaks);
    } else {
        bench_print_gains(results, list.n, library);
        printf("\n%d cases measured, %d left out, %d failed\n", totals.done, totals.left_out, totals.failed);
    }
    if (!status && totals.failed) status = fail(err, err_bytes, STATUS_DEVICE, "%d cases failed", totals.failed);
done:
    if (o->only) regfree(&only);
    free(results);
    free(list.cases);
    free(models);
    return status;
}
