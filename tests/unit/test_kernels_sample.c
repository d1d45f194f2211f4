/* test_kernels_sample.c - sampling and log-probabilities against a reference that sorts, chi-square against the exact
 * distribution, and inputs that must not hurt. */
#include "kernels_test.h"
#include "tests/sample_reference.h"

/* ---- the reference: everything in one sorted list ---------------------------------------------------------------- */

static int reference(const float *logits, const struct sample_params *p, int V) {
    struct entry *list = malloc(sizeof *list * (size_t)V);
    int best = 0, n;
    if (p->temperature == 0) {
        n = reference_sorted(list, logits, p, V);
    } else {
        n = reference_kept(list, logits, p, V);
        for (int i = 1; i < n; i++) {
            float a = list[i].z + noise_gumbel(p->seed, p->position, list[i].id);
            float b = list[best].z + noise_gumbel(p->seed, p->position, list[best].id);
            if (a > b || (a == b && list[i].id < list[best].id)) best = i;
        }
    }
    int id = n ? list[best].id : -1;
    if (!n) /* nothing allowed: the raw argmax */
        for (int i = 0; i < V; i++)
            if (id < 0 || reference_clean(logits[i]) > reference_clean(logits[id])) id = i;
    free(list);
    return id;
}

static const struct sample_params plain = {.top_p = 1, .repetition = 1};

/* A table's exec for sampling; formats do not matter. */
static void for_each_table(void (*body)(struct exec *e)) {
    const char *const *tables;
    int n = exec__cpu_tables(&tables);
    for (int i = 0; i < n; i++) {
        struct exec *e = exec_new(tables[i], DTYPE_BF16, 2);
        seed_values(5);
        body(e);
        exec_close(e);
    }
}

static int sample_one(struct exec *e, const struct buffer *logits, struct sample_params p, int V) {
    int32_t id = -1;
    sample(e, &id, logits->data, sample_set(e, &p, 1, V), 1, V);
    cr_assert(id >= 0 && id < V);
    return id;
}

/* ---- against the reference --------------------------------------------------------------------------------------- */

static void random_params(struct exec *e) {
    static const int sizes[] = {1, 2, 15, 16, 17, 63, 300, 1000, 5000};
    enum { MAX = 40 };
    for (int round = 0; round < 900; round++) {
        int V = sizes[round % 9];
        struct buffer logits = buffer_new(DTYPE_F32, (size_t)V);
        float scale = (float)(1 + random_below(12));
        bool coarse = random_below(2); /* many ties */
        for (int i = 0; i < V; i++) {
            float v = random_value() * scale;
            ((float *)logits.data)[i] = coarse ? roundf(v * 2) / 2 : v;
        }
        struct sample_params p = {.temperature = random_below(4) ? 0.2f + 0.3f * (float)random_below(6) : 0,
                                  .top_k = random_below(2) ? 1 + random_below(V + 3) : 0,
                                  .top_p = random_below(2) ? (float)random_below(100) / 100 : 1,
                                  .min_p = random_below(3) ? 0 : (float)random_below(60) / 100,
                                  .repetition = random_below(2) ? 1.25f : 1,
                                  .presence = random_below(2) ? 0.5f : 0,
                                  .frequency = random_below(2) ? 0.125f : 0,
                                  .seed = random_u32(),
                                  .position = random_below(1000)};
        int32_t allowed[MAX];
        struct token_bias biases[MAX];
        struct token_count counts[MAX];
        int step = V / MAX + 1, start = random_below(step);
        for (int id = start; id < V && p.n_counts < MAX; id += step) {
            counts[p.n_counts++] = (struct token_count){id, random_below(4), random_below(2)};
            biases[p.n_biases++] = (struct token_bias){id, random_below(5) ? random_value() * 4 : -INFINITY};
        }
        p.counts = counts;
        p.biases = biases;
        if (!random_below(4)) {
            p.allowed = allowed;
            p.n_allowed = random_below(MAX);
            for (int i = 0; i < p.n_allowed; i++) allowed[i] = random_below(V + V / 8);
        }
        /* with repetitions, in counts and not, and of a larger vocabulary; what lies between is nobody's */
        int32_t pending[3 * SAMPLE_MAX_PENDING] = {0};
        p.pending = pending;
        p.n_pending = random_below(2) ? random_below(SAMPLE_MAX_PENDING + 1) : 0;
        p.pending_gap = random_below(3);
        for (int i = 0; i < p.n_pending; i++)
            pending[i * (1 + p.pending_gap)] = random_below(random_below(2) ? V + 3 : V / 8 + 1);
        if (!random_below(4)) counts[p.n_counts - 1].id += V, biases[p.n_biases - 1].id += V;
        int found = sample_one(e, &logits, p, V), expected = reference(logits.data, &p, V);
        cr_assert_eq(found, expected,
                     "%s, round %d: V %d, T %g, top_k %d, top_p %g, min_p %g, allowed %d, pending %d: expected %d, "
                     "found %d",
                     exec_backend(e), round, V, p.temperature, p.top_k, p.top_p, p.min_p,
                     p.allowed ? p.n_allowed : -1, p.n_pending, expected, found);
        buffer_free(&logits);
    }
}
Test(sample, agrees_with_a_sort) { for_each_table(random_params); }

/* ---- chi-square -------------------------------------------------------------------------------------------------- */

static void check_distribution(struct exec *e, struct sample_params p, const char *what) {
    enum { V = 64, DRAWS = 60000, ROWS = 1000 };
    struct buffer logits = buffer_new(DTYPE_F32, (size_t)ROWS * V);
    for (int i = 0; i < ROWS * V; i++)
        ((float *)logits.data)[i] = i < V ? random_value() * 4 : ((float *)logits.data)[i - V];
    struct entry list[V];
    int n = reference_kept(list, logits.data, &p, V), count[V] = {0};
    for (int first = 0; first < DRAWS; first += ROWS) {
        struct sample_params params[ROWS];
        int32_t ids[ROWS];
        for (int r = 0; r < ROWS; r++) params[r] = p, params[r].position = first + r;
        sample(e, ids, logits.data, sample_set(e, params, ROWS, V), ROWS, V);
        for (int r = 0; r < ROWS; r++) count[ids[r]]++;
    }
    const struct chi_square chi = reference_chi_square(list, n, count, DRAWS);
    cr_assert_eq(chi.n_outside, 0, "%s: %d draws outside the kept set", what, chi.n_outside);
    cr_assert(chi.value < chi.limit, "%s: chi-square %.1f for %d classes", what, chi.value, chi.n_classes);
    buffer_free(&logits);
}

static void distributions(struct exec *e) {
    struct sample_params p = plain;
    p.seed = 42;
    p.temperature = 1;
    check_distribution(e, p, "plain");
    p.temperature = 0.8f, p.top_p = 0.9f;
    check_distribution(e, p, "temperature 0.8, top_p 0.9");
    p.top_p = 1, p.top_k = 7;
    check_distribution(e, p, "top_k 7");
    p.top_k = 0, p.min_p = 0.1f;
    check_distribution(e, p, "min_p 0.1");
    p.top_k = 20, p.top_p = 0.8f, p.min_p = 0.02f, p.seed = 0xffffffffffffffffu;
    check_distribution(e, p, "all of them");
}
Test(sample, draws_follow_the_distribution) { for_each_table(distributions); }

/* ---- edges ------------------------------------------------------------------------------------------------------- */

static void edges(struct exec *e) {
    enum { V = 100 };
    struct buffer logits = buffer_new(DTYPE_F32, V);
    float *x = logits.data;
    struct sample_params p = plain;
    for (int i = 0; i < V; i++) x[i] = i == 33 || i == 77 ? 5 : (float)(i % 5);
    cr_assert_eq(sample_one(e, &logits, p, V), 33); /* greedy: ties to the lower id */
    p.allowed = (int32_t[]){77, 90, 12};
    p.n_allowed = 3;
    cr_assert_eq(sample_one(e, &logits, p, V), 77);
    p.n_allowed = 0;
    cr_assert_eq(sample_one(e, &logits, p, V), 33); /* nothing allowed: the raw argmax */
    p.temperature = 1;
    cr_assert_eq(sample_one(e, &logits, p, V), 33);
    p = plain;
    struct token_bias bias[] = {{33, -INFINITY}, {77, -INFINITY}, {50, 100}};
    p.biases = bias, p.n_biases = 2;
    cr_assert_eq(sample_one(e, &logits, p, V), 4);
    p.n_biases = 3;
    cr_assert_eq(sample_one(e, &logits, p, V), 50);
    p = plain;
    p.temperature = 1, p.top_p = 0; /* at least one token is kept */
    cr_assert_eq(sample_one(e, &logits, p, V), 33);
    p.top_p = 1, p.top_k = 1;
    for (p.position = 0; p.position < 50; p.position++) cr_assert_eq(sample_one(e, &logits, p, V), 33);
    p.top_k = 0, p.min_p = 1;
    for (p.position = 0; p.position < 50; p.position++) { /* exactly the most likely ones */
        int id = sample_one(e, &logits, p, V);
        cr_assert(id == 33 || id == 77);
    }
    p.temperature = 1e-30f, p.min_p = 0;
    int id = sample_one(e, &logits, p, V);
    cr_assert(id == 33 || id == 77);

    /* Values that are no numbers. */
    static const float strange[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 1e38f};
    for (int mode = 0; mode < 6; mode++)
        for (size_t s = 0; s < 6; s++)
            for (int all = 0; all < 2; all++) {
                for (int i = 0; i < V; i++) x[i] = all || i % 7 == 3 ? strange[s] : (float)(i % 5);
                p = plain;
                p.temperature = mode ? 0.7f : 0, p.top_k = mode == 2 ? 5 : 0, p.top_p = mode == 3 ? 0.5f : 1;
                p.min_p = mode == 4 ? 0.2f : 0, p.repetition = mode == 5 ? 1.5f : 1;
                struct token_count counts[] = {{3, 2, 1}, {10, 1, 0}};
                p.counts = counts, p.n_counts = 2;
                id = sample_one(e, &logits, p, V);
                if (!all && (strange[s] == INFINITY || strange[s] == FLT_MAX)) cr_assert_eq(id % 7, 3);
                if (!all && (isnan(strange[s]) || strange[s] < 0)) cr_assert_neq(id % 7, 3);
                struct token_logprob out[4];
                int32_t target = 3;
                int n_top = 3;
                token_logprobs(e, out, 4, x, &target, &n_top, 1, V);
            }
    buffer_free(&logits);
}
Test(sample, edges) { for_each_table(edges); }

Test(sample, does_not_depend_on_the_batch) {
    enum { V = 3000, R = 17 };
    seed_values(9);
    struct buffer logits = buffer_random(DTYPE_F32, (size_t)R * V, 5), one = buffer_new(DTYPE_F32, V);
    struct sample_params p[R];
    for (int r = 0; r < R; r++)
        p[r] = (struct sample_params){.temperature = 1, .top_p = r % 2 ? 0.9f : 1, .top_k = r % 3 ? 0 : 50,
                                      .repetition = 1, .seed = 7, .position = r};
    int32_t first[R], ids[R];
    const char *const *tables;
    int n = exec__cpu_tables(&tables);
    for (int i = 0; i < n; i++)
        for (int threads = 1; threads <= 3; threads++) {
            struct exec *e = exec_new(tables[i], DTYPE_F32, threads);
            sample(e, threads == 1 ? first : ids, logits.data, sample_set(e, p, R, V), R, V);
            for (int r = 0; r < R; r++) {
                if (threads > 1) cr_assert_eq(ids[r], first[r]);
                memcpy(one.data, (float *)logits.data + (size_t)r * V, sizeof(float) * V);
                cr_assert_eq(sample_one(e, &one, p[r], V), first[r]);
            }
            exec_close(e);
        }
    buffer_free(&logits);
    buffer_free(&one);
}

/* Pending tokens are so many more occurrences in the output, whether counts has them or not. */
static void pending(struct exec *e) {
    enum { V = 50 };
    struct buffer logits = buffer_random(DTYPE_F32, V, 2);
    for (int32_t id = 0; id < V; id++)
        for (int n = 1; n <= SAMPLE_MAX_PENDING; n++) {
            const struct token_count counts[] = {{7, 2, 0}, {9, 0, 1}};
            int32_t list[SAMPLE_MAX_PENDING];
            struct token_count all[2 + SAMPLE_MAX_PENDING] = {counts[0], counts[1]};
            struct sample_params with = plain, without = plain;
            with.repetition = without.repetition = 1.5f, with.presence = without.presence = 1;
            with.frequency = without.frequency = 0.25f;
            with.counts = counts, with.n_counts = 2, with.pending = list, with.n_pending = n;
            without.counts = all, without.n_counts = 2;
            for (int i = 0; i < n; i++) { /* id, a neighbour, id, another neighbour, ... */
                list[i] = i % 2 ? (id + i) % V : id;
                int at = 0;
                while (at < without.n_counts && all[at].id != list[i]) at++;
                if (at == without.n_counts) all[without.n_counts++] = (struct token_count){.id = list[i]};
                all[at].n_output++;
            }
            for (int alone = 0; alone < 2; alone++) { /* among all tokens, then against one other */
                const int32_t allowed[] = {id, (id + 1) % V};
                with.allowed = without.allowed = alone ? allowed : NULL, with.n_allowed = without.n_allowed = 2;
                int found = sample_one(e, &logits, with, V), expected = sample_one(e, &logits, without, V);
                cr_assert_eq(found, expected, "%d pending, %d first: expected %d, found %d", n, id, expected, found);
            }
        }
    buffer_free(&logits);
}
Test(sample, counts_pending_tokens) { for_each_table(pending); }

/* ---- noise ------------------------------------------------------------------------------------------------------- */

Test(noise, is_philox_and_never_an_end_of_the_interval) {
    cr_assert_eq(noise_bits(0, 0, 0), 0x6627e8d5u); /* Random123's known answer for a zero counter and key */
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        float u = noise_uniform(noise_bits(3, i, i * 7)), g = noise_gumbel(3, i, i * 7);
        cr_assert(u > 0 && u < 1);
        cr_assert(g <= NOISE_GUMBEL_MAX && g > -4);
        sum += u;
    }
    cr_assert_float_eq(sum / 100000, 0.5, 0.005);
}

/* ---- log-probabilities ------------------------------------------------------------------------------------------- */

static void logprobs(struct exec *e) {
    static const int sizes[] = {1, 5, 17, 1000, 65000};
    for (size_t s = 0; s < 5; s++)
        for (int coarse = 0; coarse < 2; coarse++) {
            enum { R = 3 };
            int V = sizes[s], stride = 1 + (V < 25 ? V : 25);
            struct buffer logits = buffer_random(DTYPE_F32, (size_t)R * V, 10);
            if (coarse)
                for (int i = 0; i < R * V; i++) ((float *)logits.data)[i] = roundf(((float *)logits.data)[i]);
            int32_t targets[R] = {0, V / 2, V - 1};
            int n_top[R] = {stride - 1, -1, 0};
            struct token_logprob *out = malloc(sizeof *out * (size_t)(R * stride));
            memset(out, 0x77, sizeof *out * (size_t)(R * stride));
            token_logprobs(e, out, stride, logits.data, targets, n_top, R, V);
            struct entry *list = malloc(sizeof *list * (size_t)V);
            for (int r = 0; r < R; r++) {
                struct token_logprob *row = out + r * stride;
                if (n_top[r] < 0) {
                    cr_assert_eq(row->id, 0x77777777);
                    continue;
                }
                const float *x = (float *)logits.data + (size_t)r * V;
                int n = reference_sorted(list, x, &plain, V), rank = 0;
                double sum = 0;
                for (int i = 0; i < n; i++) {
                    sum += exp((double)list[i].z - list[0].z);
                    if (list[i].id == targets[r]) rank = i + 1;
                }
                cr_assert_eq(row->id, targets[r]);
                cr_assert_eq(row->rank, rank);
                expect_close(row->logprob, (double)x[targets[r]] - list[0].z - log(sum), 1e-6, 1e-6, "logprob", 0);
                for (int i = 0; i < n_top[r]; i++) {
                    cr_assert_eq(row[1 + i].id, list[i].id);
                    cr_assert_eq(row[1 + i].rank, i + 1);
                    expect_close(row[1 + i].logprob, (double)list[i].z - list[0].z - log(sum), 1e-6, 1e-6, "top", i);
                }
            }
            free(list);
            free(out);
            buffer_free(&logits);
        }
}
Test(sample, token_logprobs) { for_each_table(logprobs); }
