/* test_sample.c - sampling and log-probabilities against the CPU twin over random parameters, chi-square against the
 * exact distribution, inputs that must not hurt, and steps that run ahead of each other, in graphs and not. With
 * --time: microseconds at the vocabulary of a 14B model.
 *
 * The twins add up e^z in other formats and have other last bits in their logarithms. So a row may differ where two
 * scores agree to 1e-5, or where top_p ends within 1e-6 of a token's cumulated share; such rows are counted, and
 * few. */
#include "gpu_test.h"
#include "gpu_time.h"
#include "tests/sample_reference.h"

enum { MAX_V = 152064, MAX_R = 256 };
static const struct sample_params plain = {.top_p = 1, .repetition = 1};

/* ---- rows that differ -------------------------------------------------------------------------------------------- */

/* Whether rounding explains that one side chose a, the other b. */
static bool explained(const float *logits, const struct sample_params *p, int V, int a, int b) {
    if (p->temperature == 0) return false;
    struct entry *list = malloc((size_t)V * sizeof *list);
    const int m = reference_top(list, reference_sorted(list, logits, p, V), p);
    double total = 0, sum = 0, score_a = -INFINITY, score_b = -INFINITY, share_a = 0, share_b = 0;
    for (int i = 0; i < m; i++) total += exp(list[i].z);
    for (int i = 0; i < m; i++) {
        double score = list[i].z + (double)noise_gumbel(p->seed, p->position, list[i].id);
        if (list[i].id == a) score_a = score, share_a = sum / total;
        if (list[i].id == b) score_b = score, share_b = sum / total;
        sum += exp(list[i].z);
    }
    free(list);
    if (score_a == -INFINITY || score_b == -INFINITY) return false;
    return fabs(score_a - score_b) < 1e-5 || fabs(share_a - p->top_p) < 1e-6 || fabs(share_b - p->top_p) < 1e-6;
}

/* ---- rows on both sides ------------------------------------------------------------------------------------------ */

struct rows { /* owned */
    int R, V;
    struct twin logits, ids, pending;
    struct sample_params cpu[MAX_R], gpu[MAX_R]; /* the same, but for pending */
    int32_t *allowed;
    struct token_bias *biases;
    struct token_count *counts;
};

enum { MOST_LISTED = 6000 }; /* entries of a row's list */

static void random_logits(struct gpu_test *t, float *x, int V) {
    const float scale = (float)(1 + gpu_test_below(t, 12));
    const int kind = gpu_test_below(t, 5);
    for (int i = 0; i < V; i++) {
        const float u = gpu_test_value(t), v = kind == 4 ? u * u * u * scale * 3 : u * scale;
        x[i] = kind == 0 ? roundf(v * 2) / 2 : kind == 1 ? scale : v; /* few values, one value, all kinds */
    }
    if (kind == 1) x[gpu_test_below(t, V)] += 1;
    if (kind == 3) x[gpu_test_below(t, V)] = NAN, x[gpu_test_below(t, V)] = -INFINITY;
}

static int some_ids(struct gpu_test *t, int V, int most, int *step) {
    int n = 1 + gpu_test_below(t, gpu_test_below(t, 2) ? 20 : most);
    if (n > V) n = V;
    *step = V / n;
    return n;
}

/* Row r's random parameters; lists lie at r * MOST_LISTED. */
static void random_params(struct gpu_test *t, struct rows *o, int r, bool lists) {
    const int V = o->V;
    struct sample_params p = {.temperature = gpu_test_below(t, 4) ? 0.2f + 0.3f * (float)gpu_test_below(t, 6) : 0,
                              .top_k =
                                  gpu_test_below(t, 2) ? 1 + gpu_test_below(t, gpu_test_below(t, 2) ? V + 3 : 60) : 0,
                              .top_p = gpu_test_below(t, 2) ? (float)gpu_test_below(t, 100) / 100 : 1,
                              .min_p = gpu_test_below(t, 3) ? 0 : (float)gpu_test_below(t, 60) / 100,
                              .repetition = 1,
                              .seed = (uint64_t)gpu_test_u32(t) << 32 | gpu_test_u32(t),
                              .position = gpu_test_below(t, 1000)};
    if (!gpu_test_below(t, 3)) p.temperature = 1;
    int step;
    if (lists && gpu_test_below(t, 2)) {
        p.biases = o->biases + (size_t)r * MOST_LISTED;
        p.n_biases = some_ids(t, V, MOST_LISTED, &step);
        for (int i = 0; i < p.n_biases; i++)
            o->biases[(size_t)r * MOST_LISTED + (size_t)i] =
                (struct token_bias){i * step, gpu_test_below(t, 5) ? 4 * gpu_test_value(t) : -INFINITY};
    }
    if (lists && gpu_test_below(t, 2)) {
        p.repetition = gpu_test_below(t, 2) ? 1.25f : 1;
        p.presence = gpu_test_below(t, 2) ? 0.5f : 0;
        p.frequency = gpu_test_below(t, 2) ? 0.125f : 0;
        p.counts = o->counts + (size_t)r * MOST_LISTED;
        p.n_counts = some_ids(t, V, MOST_LISTED, &step);
        for (int i = 0; i < p.n_counts; i++)
            o->counts[(size_t)r * MOST_LISTED + (size_t)i] =
                (struct token_count){i * step, gpu_test_below(t, 4), gpu_test_below(t, 2)};
    }
    if (lists && !gpu_test_below(t, 4)) {
        p.allowed = o->allowed + (size_t)r * MOST_LISTED;
        p.n_allowed = gpu_test_below(t, 10) ? some_ids(t, V, MOST_LISTED, &step) : 0;
        for (int i = 0; i < p.n_allowed; i++)
            o->allowed[(size_t)r * MOST_LISTED + (size_t)i] = gpu_test_below(t, V + V / 16);
    }
    o->cpu[r] = o->gpu[r] = p;
    if (lists && gpu_test_below(t, 2)) {
        int32_t *pending = (int32_t *)o->pending.cpu + (size_t)r * SAMPLE_MAX_PENDING;
        const int n = 1 + gpu_test_below(t, SAMPLE_MAX_PENDING);
        for (int i = 0; i < n; i++) /* some are in counts, some occur twice, some are of a larger vocabulary */
            pending[i] = p.n_counts && gpu_test_below(t, 2) ? p.counts[gpu_test_below(t, p.n_counts)].id
                         : i && !gpu_test_below(t, 3)       ? pending[gpu_test_below(t, i)]
                                                            : gpu_test_below(t, V + V / 16 + 1);
        o->cpu[r].pending = pending;
        o->gpu[r].pending = (int32_t *)o->pending.gpu + (size_t)r * SAMPLE_MAX_PENDING;
        o->cpu[r].n_pending = o->gpu[r].n_pending = n;
    }
}

static struct rows *rows_new(struct gpu_test *t, int R, int V) {
    struct rows *o = calloc(1, sizeof *o);
    o->R = R, o->V = V;
    o->logits = twin_poison(t, DTYPE_F32, (size_t)R * V);
    o->ids = twin_poison(t, DTYPE_I32, (size_t)R);
    o->pending = twin_poison(t, DTYPE_I32, (size_t)R * SAMPLE_MAX_PENDING);
    o->allowed = calloc((size_t)R * MOST_LISTED, sizeof *o->allowed);
    o->biases = calloc((size_t)R * MOST_LISTED, sizeof *o->biases);
    o->counts = calloc((size_t)R * MOST_LISTED, sizeof *o->counts);
    for (int r = 0; r < R; r++) random_logits(t, (float *)o->logits.cpu + (size_t)r * V, V);
    twin_upload(t, &o->logits);
    return o;
}

static void rows_free(struct gpu_test *t, struct rows *o) {
    twin_free(t, &o->logits), twin_free(t, &o->ids), twin_free(t, &o->pending);
    free(o->allowed), free(o->biases), free(o->counts), free(o);
}

/* Compares the GPU's ids with the CPU's. */
static void compare_ids(struct gpu_test *t, const char *name, const struct rows *o, const int32_t *found) {
    const int32_t *want = o->ids.cpu;
    char detail[512] = "all rows agree", err[ERR_BYTES];
    int n_off = 0, n_explained = 0;
    for (int r = 0; r < o->R; r++) {
        if (found[r] == want[r]) continue;
        const struct sample_params *p = &o->cpu[r];
        if (found[r] >= 0 && found[r] < o->V &&
            explained((float *)o->logits.cpu + (size_t)r * o->V, p, o->V, want[r], found[r])) {
            n_explained++;
            continue;
        }
        if (!n_off++)
            snprintf(detail, sizeof detail,
                     "row %d: want %d, found %d; T %g, top_k %d, top_p %g, min_p %g, %d allowed, %d biases, "
                     "%d counts, %d pending",
                     r, want[r], found[r], p->temperature, p->top_k, p->top_p, p->min_p, p->allowed ? p->n_allowed : -1,
                     p->n_biases, p->n_counts, p->n_pending);
    }
    if (exec_finish(t->gpu, err, sizeof err)) n_off++, snprintf(detail, sizeof detail, "%.400s", err);
    if (!n_off && n_explained)
        snprintf(detail, sizeof detail, "all but %d of %d rows, which rounding decides", n_explained, o->R);
    gpu_test_verdict(t, !n_off && n_explained <= 2 + o->R / 50, name, detail);
}

/* ---- against the twin -------------------------------------------------------------------------------------------- */

static void test_random(struct gpu_test *t, int R, int V, bool lists) {
    char name[100];
    snprintf(name, sizeof name, "sample, R %d, V %d%s", R, V, lists ? ", edits" : "");
    struct rows *o = rows_new(t, R, V);
    for (int r = 0; r < R; r++) random_params(t, o, r, lists);
    twin_upload(t, &o->pending);
    sample(t->cpu, o->ids.cpu, o->logits.cpu, sample_set(t->cpu, o->cpu, R, V), R, V);
    sample(t->gpu, o->ids.gpu, o->logits.gpu, sample_set(t->gpu, o->gpu, R, V), R, V);
    int32_t found[MAX_R];
    exec_download(t->gpu, found, o->ids.gpu, (size_t)R * 4);
    compare_ids(t, name, o, found);
    rows_free(t, o);
}

/* Several steps that the host prepares at once; every third by a graph. */
static void test_ahead(struct gpu_test *t) {
    enum { R = 9, V = 5003, STEPS = 24 };
    struct rows *steps[STEPS];
    struct exec_graph *graph = NULL;
    unsigned recorded = 0;
    int32_t *ids = exec_alloc(t->gpu, STEPS * R * 4), found[STEPS][R];
    struct twin logits = twin_poison(t, DTYPE_F32, (size_t)R * V);
    for (int s = 0; s < STEPS; s++) {
        steps[s] = rows_new(t, R, V);
        for (int r = 0; r < R; r++) random_params(t, steps[s], r, true);
        steps[s]->cpu[0].top_p = steps[s]->gpu[0].top_p =
            0.5f; /* all steps need all stages, so that they share a graph */
        steps[s]->cpu[0].temperature = steps[s]->gpu[0].temperature = 1;
        steps[s]->cpu[1].allowed = steps[s]->gpu[1].allowed = steps[s]->allowed + MOST_LISTED;
        steps[s]->cpu[1].n_allowed = steps[s]->gpu[1].n_allowed = 3;
        twin_upload(t, &steps[s]->pending);
        sample(t->cpu, steps[s]->ids.cpu, steps[s]->logits.cpu, sample_set(t->cpu, steps[s]->cpu, R, V), R, V);
    }
    for (int s = 0; s < STEPS; s++) {
        const bool by_graph = s % 3 == 2;
        unsigned stages = sample_set(t->gpu, steps[s]->gpu, R, V);
        if (by_graph && (!graph || stages != recorded)) {
            if (graph) exec_finish(t->gpu, (char[ERR_BYTES]){0}, ERR_BYTES), exec_graph_close(t->gpu, graph);
            exec_graph_begin(t->gpu);
            sample(t->gpu, ids, logits.gpu, recorded = stages, R, V);
            graph = exec_graph_end(t->gpu);
        }
        if (by_graph) {
            exec_upload(t->gpu, logits.gpu, steps[s]->logits.cpu, (size_t)R * V * 4);
            exec_graph_launch(t->gpu, graph);
            exec_download(t->gpu, found[s], ids, sizeof found[s]);
        } else {
            sample(t->gpu, ids + (s + 1 < STEPS ? s + 1 : 0) * R, steps[s]->logits.gpu, stages, R, V);
        }
    }
    for (int s = 0; s < STEPS; s++) {
        char name[100];
        snprintf(name, sizeof name, "sample ahead, step %d%s", s, s % 3 == 2 ? ", by a graph" : "");
        if (s % 3 != 2) exec_download(t->gpu, found[s], ids + (s + 1 < STEPS ? s + 1 : 0) * R, sizeof found[s]);
        compare_ids(t, name, steps[s], found[s]);
        rows_free(t, steps[s]);
    }
    exec_graph_close(t->gpu, graph);
    exec_free(t->gpu, ids);
    twin_free(t, &logits);
}

/* Values that are no numbers, everywhere or in places. */
static void test_strange(struct gpu_test *t, int n_sizes, int step) {
    static const float strange[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 1e38f};
    static const int sizes[] = {1, 100, 3000};
    struct token_count counts[] = {{0, 2, 1}, {10, 1, 0}};
    for (int size = 0; size < n_sizes; size++)
        for (int s = 0; s < 6; s += step) {
            enum { R = 14 };
            const int V = sizes[size];
            struct rows *o = rows_new(t, R, V);
            for (int r = 0; r < R; r++) {
                const int mode = r % 7;
                float *x = (float *)o->logits.cpu + (size_t)r * V;
                for (int i = 0; i < V; i++) x[i] = r >= 7 || i % 7 == 3 ? strange[s] : (float)(i % 5);
                o->cpu[r] = (struct sample_params){.temperature = mode == 0   ? 0
                                                                  : mode == 6 ? 1e-30f
                                                                              : 0.7f,
                                                   .seed = 3,
                                                   .position = r,
                                                   .top_k = mode == 2 ? 5 : 0,
                                                   .top_p = mode == 3   ? 0.5f
                                                            : mode == 6 ? 0
                                                                        : 1,
                                                   .min_p = mode == 4 ? 0.2f : 0,
                                                   .repetition = mode == 5 ? 1.5f : 1,
                                                   .counts = counts,
                                                   .n_counts = V > 10 ? 2 : 1};
                o->gpu[r] = o->cpu[r];
            }
            twin_upload(t, &o->logits);
            sample(t->cpu, o->ids.cpu, o->logits.cpu, sample_set(t->cpu, o->cpu, R, V), R, V);
            sample(t->gpu, o->ids.gpu, o->logits.gpu, sample_set(t->gpu, o->gpu, R, V), R, V);
            int32_t found[R];
            char name[100];
            exec_download(t->gpu, found, o->ids.gpu, sizeof found);
            snprintf(name, sizeof name, "sample, V %d, with %g", V, strange[s]);
            compare_ids(t, name, o, found);
            rows_free(t, o);
        }
}

/* A token's choice is the same alone and among others. */
static void test_alone(struct gpu_test *t) {
    enum { R = 40, V = 20011 };
    struct rows *o = rows_new(t, R, V);
    struct twin one = twin_poison(t, DTYPE_F32, V);
    int32_t all[R], alone;
    int n_off = 0;
    for (int r = 0; r < R; r++) random_params(t, o, r, true);
    twin_upload(t, &o->pending);
    sample(t->gpu, o->ids.gpu, o->logits.gpu, sample_set(t->gpu, o->gpu, R, V), R, V);
    exec_download(t->gpu, all, o->ids.gpu, sizeof all);
    for (int r = 0; r < R; r++) {
        exec_upload(t->gpu, one.gpu, (float *)o->logits.cpu + (size_t)r * V, (size_t)V * 4);
        sample(t->gpu, o->ids.gpu, one.gpu, sample_set(t->gpu, &o->gpu[r], 1, V), 1, V);
        exec_download(t->gpu, &alone, o->ids.gpu, 4);
        n_off += alone != all[r];
    }
    gpu_test_verdict(t, !n_off, "sample, a row alone and among 40", n_off ? "ids differ" : "the same ids");
    twin_free(t, &one);
    rows_free(t, o);
}

/* ---- chi-square -------------------------------------------------------------------------------------------------- */

static void test_distribution(struct gpu_test *t, struct sample_params p, const char *what) {
    enum { V = 64, ROWS = 250, DRAWS = 240 * ROWS };
    struct twin logits = twin_poison(t, DTYPE_F32, (size_t)ROWS * V), ids = twin_poison(t, DTYPE_I32, ROWS);
    struct entry list[V];
    for (int i = 0; i < ROWS * V; i++)
        ((float *)logits.cpu)[i] = i < V ? 4 * gpu_test_value(t) : ((float *)logits.cpu)[i - V];
    twin_upload(t, &logits);
    int n = reference_kept(list, logits.cpu, &p, V), count[V] = {0};
    for (int first = 0; first < DRAWS; first += ROWS) {
        struct sample_params params[ROWS];
        int32_t found[ROWS];
        for (int r = 0; r < ROWS; r++) params[r] = p, params[r].position = first + r;
        sample(t->gpu, ids.gpu, logits.gpu, sample_set(t->gpu, params, ROWS, V), ROWS, V);
        exec_download(t->gpu, found, ids.gpu, sizeof found);
        for (int r = 0; r < ROWS; r++) count[(unsigned)found[r] % V]++;
    }
    const struct chi_square chi = reference_chi_square(list, n, count, DRAWS);
    char name[100], detail[200];
    snprintf(name, sizeof name, "distribution, %s", what);
    snprintf(detail, sizeof detail, "chi-square %.1f (limit %.1f) for %d classes, %d draws outside the kept set",
             chi.value, chi.limit, chi.n_classes, chi.n_outside);
    gpu_test_verdict(t, chi.value < chi.limit && !chi.n_outside, name, detail);
    twin_free(t, &logits), twin_free(t, &ids);
}

static void test_distributions(struct gpu_test *t) {
    struct sample_params p = plain;
    p.seed = gpu_test_u32(t);
    p.temperature = 1;
    test_distribution(t, p, "plain");
    p.temperature = 0.8f, p.top_p = 0.9f;
    test_distribution(t, p, "temperature 0.8, top_p 0.9");
    p.top_p = 1, p.top_k = 7;
    test_distribution(t, p, "top_k 7");
    p.top_k = 0, p.min_p = 0.1f;
    test_distribution(t, p, "min_p 0.1");
    p.top_k = 20, p.top_p = 0.8f, p.min_p = 0.02f, p.seed = 0xffffffffffffffffu;
    test_distribution(t, p, "all of them");
}

/* ---- log-probabilities ------------------------------------------------------------------------------------------- */

static void test_logprobs(struct gpu_test *t, int R, int V, int most_top) {
    char name[100], detail[300] = "all agree", err[ERR_BYTES];
    struct rows *o = rows_new(t, R, V);
    const int most = most_top < V ? most_top : V, stride = 1 + most;
    struct twin targets = twin_poison(t, DTYPE_I32, (size_t)R);
    const size_t n = (size_t)R * stride, bytes = n * sizeof(struct token_logprob);
    struct token_logprob *want = malloc(bytes), *found = malloc(bytes), *gpu = exec_alloc(t->gpu, bytes);
    int n_top[MAX_R], n_off = 0;
    for (int r = 0; r < R; r++) {
        ((int32_t *)targets.cpu)[r] = gpu_test_below(t, V);
        n_top[r] = r % 3 == 0 ? most : gpu_test_below(t, most + 2) - 1;
    }
    if (R > 4) /* a row without a number */
        for (int i = 0; i < V; i++) ((float *)o->logits.cpu)[(size_t)4 * V + (size_t)i] = -INFINITY;
    twin_upload(t, &o->logits);
    twin_upload(t, &targets);
    memset(want, 0x77, bytes);
    exec_upload(t->gpu, gpu, want, bytes);
    token_logprobs(t->cpu, want, stride, o->logits.cpu, targets.cpu, n_top, R, V);
    token_logprobs(t->gpu, gpu, stride, o->logits.gpu, targets.gpu, n_top, R, V);
    exec_download(t->gpu, found, gpu, bytes);
    for (size_t i = 0; i < n; i++) {
        const struct token_logprob *a = &want[i], *b = &found[i];
        if (a->id == b->id && a->rank == b->rank &&
            (a->logprob == b->logprob || fabsf(a->logprob - b->logprob) <= 1e-6f + 1e-6f * fabsf(a->logprob) ||
             (isnan(a->logprob) && isnan(b->logprob))))
            continue;
        if (!n_off++)
            snprintf(detail, sizeof detail, "row %zu, entry %zu of %d: want %d %g #%d, found %d %g #%d",
                     i / (size_t)stride, i % (size_t)stride, n_top[i / (size_t)stride], a->id, a->logprob, a->rank,
                     b->id, b->logprob, b->rank);
    }
    if (exec_finish(t->gpu, err, sizeof err)) n_off++, snprintf(detail, sizeof detail, "%.250s", err);
    snprintf(name, sizeof name, "token_logprobs, R %d, V %d, up to %d", R, V, most);
    gpu_test_verdict(t, !n_off, name, detail);
    free(want), free(found), exec_free(t->gpu, gpu);
    twin_free(t, &targets);
    rows_free(t, o);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

struct timed {
    struct exec *e;
    float *logits;
    int32_t *ids, *targets;
    struct token_logprob *out;
    int R, copies;
    unsigned stages;
};

enum { TIME_V = 151936, TIME_COPIES = 320 };

static void time_sample(void *arg, int i) {
    struct timed *o = arg;
    sample(o->e, o->ids, o->logits + (size_t)(i % o->copies) * o->R * TIME_V, o->stages, o->R, TIME_V);
}
static void time_logprobs(void *arg, int i) {
    struct timed *o = arg;
    int n_top[MAX_R];
    for (int r = 0; r < o->R; r++) n_top[r] = 20;
    token_logprobs(o->e, o->out, 21, o->logits + (size_t)(i % o->copies) * o->R * TIME_V, o->targets, n_top, o->R,
                   TIME_V);
}

static void time_all(void) {
    static const int rows[] = {1, 16, 64, 256};
    static struct token_count counts[1000];
    struct gpu_test t = {.seed = 1};
    gpu_test_open(&t, DTYPE_F32, (struct exec_options){.max_rows = MAX_R, .vocab = MAX_V});
    struct timed o = {.e = t.gpu,
                      .logits = exec_alloc(t.gpu, (size_t)TIME_COPIES * TIME_V * 4),
                      .ids = exec_alloc(t.gpu, 4096),
                      .targets = exec_alloc(t.gpu, 4096),
                      .out = exec_alloc(t.gpu, MAX_R * 21 * sizeof *o.out)};
    float *one = malloc(2 * TIME_V * sizeof *one);
    for (int i = 0; i < TIME_V; i++) { /* about normal, a few far out: as a model's */
        float sum = 0;
        for (int j = 0; j < 6; j++) sum += gpu_test_value(&t);
        one[i] = one[i + TIME_V] = 1.8f * sum + (gpu_test_below(&t, 20000) ? 0 : 12 + 4 * gpu_test_value(&t));
    }
    for (int c = 0; c < TIME_COPIES; c++) exec_upload(t.gpu, o.logits + (size_t)c * TIME_V, one + c * 37, TIME_V * 4);
    for (int i = 0; i < 1000; i++) counts[i] = (struct token_count){i * 151, 1 + i % 3, i % 2};
    const struct {
        const char *name;
        struct sample_params p;
    } cases[] = {{"greedy", {.top_p = 1, .repetition = 1}},
                 {"temperature 1", {.temperature = 1, .top_p = 1, .repetition = 1}},
                 {"temperature 0.7", {.temperature = 0.7f, .top_p = 1, .repetition = 1}},
                 {"temperature 2", {.temperature = 2, .top_p = 1, .repetition = 1}},
                 {"top_p 0.95", {.temperature = 0.7f, .top_p = 0.95f, .repetition = 1}},
                 {"top_k 20", {.temperature = 0.7f, .top_k = 20, .top_p = 1, .repetition = 1}},
                 {"top_k 20, top_p 0.8", {.temperature = 0.7f, .top_k = 20, .top_p = 0.8f, .repetition = 1}},
                 {"temperature 2, top_p 0.95", {.temperature = 2, .top_p = 0.95f, .repetition = 1}},
                 {"greedy, 1000 counts", {.top_p = 1, .repetition = 1.1f, .counts = counts, .n_counts = 1000}}};
    for (int i = 0; i < 4; i++)
        for (int hot = 1; hot >= 0; hot--) {
            o.R = rows[i];
            o.copies = hot ? 1 : TIME_COPIES / o.R;
            const double bytes = (double)o.R * TIME_V * 4;
            char name[100];
            for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
                struct sample_params p[MAX_R];
                for (int r = 0; r < o.R; r++) p[r] = cases[c].p, p[r].position = r;
                o.stages = sample_set(t.gpu, p, o.R, TIME_V);
                snprintf(name, sizeof name, "%s %s", hot ? "hot " : "cold", cases[c].name);
                gpu_time_print(name, o.R, gpu_time(t.gpu, time_sample, &o, 20), bytes);
            }
            snprintf(name, sizeof name, "%s logprobs, 20 top", hot ? "hot " : "cold");
            gpu_time_print(name, o.R, gpu_time(t.gpu, time_logprobs, &o, 20), bytes);
        }
    gpu_test_close(&t);
    free(one);
}

int main(int argc, char **argv) {
    static const int sizes[] = {1, 2, 5, 31, 32, 33, 255, 256, 257, 1000, 4099, 32768, 151936, 152064};
    struct gpu_test t = gpu_test_begin(argc, argv);
    if (gpu_test_is_mode(&t, "--time")) {
        time_all();
        return 0;
    }
    gpu_test_open(&t, DTYPE_F32, (struct exec_options){.max_rows = MAX_R, .vocab = MAX_V});
    if (t.quick) {
        static const int few[] = {1, 33, 257, 4099}; /* one slice and two; all tokens, or more than fit a list */
        for (int i = 0; i < 4; i++) {
            const int R = i < 3 ? 5 : 2;
            for (int lists = 0; lists < 2; lists++) test_random(&t, R, few[i], lists);
            test_logprobs(&t, R, few[i], i % 2 ? 20 : 1000);
        }
        test_strange(&t, 1, 3);
        gpu_test_close(&t);
        return gpu_test_end(&t);
    }
    for (int i = 0; i < 14; i++)
        for (int lists = 0; lists < 2; lists++) {
            test_random(&t, 1, sizes[i], lists);
            test_random(&t, sizes[i] < 5000 ? 200 : 40, sizes[i], lists);
            test_random(&t, sizes[i] < 5000 ? MAX_R : 17, sizes[i], lists);
        }
    test_random(&t, 160, MAX_V, true); /* more than the workspace has views for */
    test_strange(&t, 3, 1);
    test_ahead(&t), test_alone(&t), test_distributions(&t);
    for (int i = 0; i < 14; i++) test_logprobs(&t, sizes[i] < 5000 ? 33 : 7, sizes[i], i % 2 ? 20 : 1000);
    gpu_test_close(&t);
    return gpu_test_end(&t);
}
