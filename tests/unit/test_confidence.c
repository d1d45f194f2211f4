/* test_confidence.c - the logistic fit against data whose law is known, its measures, and its way through a store. */
#include "rag/confidence.h"
#include "tests/unit/store_fixture.h"

#include <math.h>

static uint64_t state = 1;
static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) * 0x1p-53;
}

/* p = sigmoid(12 (dense_top - 0.6) + 3 coverage - 1), other features noise. */
static double law(const struct confidence_features *f) {
    return 1 / (1 + exp(-(12 * (f->dense_top - 0.6) + 3 * f->coverage - 1)));
}

static void draw(struct confidence_sample *samples, int n) {
    for (int i = 0; i < n; i++) {
        samples[i].features = (struct confidence_features){.dense_top = 0.5 + 0.3 * uniform(),
                                                           .dense_margin = uniform(),
                                                           .lexical_top = uniform(),
                                                           .coverage = uniform(),
                                                           .agreement = uniform(),
                                                           .same_top = uniform() < 0.5};
        samples[i].right = uniform() < law(&samples[i].features);
    }
}

Test(confidence, finds_the_law_behind_the_samples) {
    enum { N = 10000 };
    static struct confidence_sample samples[N];
    struct confidence c;
    draw(samples, N);
    OK(confidence_fit(&c, samples, N, ERR));
    cr_assert_float_eq(c.weight[0] / c.scale[0], 12, 1.0, "%g", c.weight[0] / c.scale[0]);
    cr_assert_float_eq(c.weight[3] / c.scale[3], 3, 0.3, "%g", c.weight[3] / c.scale[3]);
    for (int i = 1; i < CONFIDENCE_N; i++)
        if (i != 3) cr_assert_float_eq(c.weight[i], 0, 0.1, "%d: %g", i, c.weight[i]);
    static double best[N]; /* nobody can do better than the law itself */
    static bool right[N];
    double worst = 0, mean = 0, brier = 0;
    for (int i = 0; i < N; i++) {
        best[i] = law(&samples[i].features);
        right[i] = samples[i].right;
        brier += (best[i] - right[i]) * (best[i] - right[i]) / N;
        worst = fmax(worst, fabs(confidence_of(&c, &samples[i].features) - law(&samples[i].features)));
        mean += confidence_of(&c, &samples[i].features) / N;
    }
    cr_assert_lt(worst, 0.1);
    cr_assert_float_eq(mean, (double)c.n_positive / N, 1e-6, "an unpenalised bias makes the means equal");
    cr_assert_lt(c.ece, 0.02);
    cr_assert_float_eq(c.auc, area_under_curve(best, right, N), 0.005);
    cr_assert_float_eq(c.brier, brier, 0.002);
}

Test(confidence, the_gradient_is_zero_at_the_end) { /* of the penalised likelihood, by differences of the fitted p */
    enum { N = 200 };
    struct confidence_sample samples[N];
    struct confidence c;
    draw(samples, N);
    OK(confidence_fit(&c, samples, N, ERR));
    double gradient[2] = {c.weight[0], 0}; /* the ridge is 1 */
    for (int i = 0; i < N; i++) {
        const double error = confidence_of(&c, &samples[i].features) - samples[i].right;
        gradient[0] += error * (samples[i].features.dense_top - c.mean[0]) / c.scale[0];
        gradient[1] += error;
    }
    cr_assert_float_eq(gradient[0], 0, 1e-6, "%g", gradient[0]);
    cr_assert_float_eq(gradient[1], 0, 1e-6, "%g", gradient[1]);
}

Test(confidence, separable_and_constant_features_do_no_harm) {
    enum { N = 100 };
    struct confidence_sample samples[N] = {0};
    struct confidence c;
    for (int i = 0; i < N; i++) {
        samples[i].features.dense_top = i;
        samples[i].right = i >= N / 2;
    }
    OK(confidence_fit(&c, samples, N, ERR));
    for (int i = 0; i < N; i++) {
        const double p = confidence_of(&c, &samples[i].features);
        cr_assert(isfinite(p) && (p > 0.5) == samples[i].right, "%d: %g", i, p);
    }
    cr_assert_gt(c.auc, 0.99);
    const struct confidence_features far = {.dense_top = 1e12};
    cr_assert_eq(confidence_of(&c, &far), 1.0);
}

Test(confidence, refuses_what_it_cannot_learn_from) {
    struct confidence_sample samples[30] = {0};
    struct confidence c;
    FAILS(STATUS_INVALID, confidence_fit(&c, samples, 30, ERR));
    for (int i = 0; i < 10; i++) samples[i].right = true;
    OK(confidence_fit(&c, samples, 30, ERR));
    FAILS(STATUS_INVALID, confidence_fit(&c, samples, 19, ERR));
    FAILS(STATUS_INVALID, confidence_fit(&c, samples, 14, ERR));
    samples[3].features.coverage = NAN;
    FAILS(STATUS_INVALID, confidence_fit(&c, samples, 30, ERR));
}

Test(confidence, measures) {
    const double p[] = {0.05, 0.15, 0.95, 0.95};
    const bool right[] = {false, true, true, false};
    cr_assert_float_eq(expected_calibration_error(p, right, 4, 10), (0.05 + 0.85 + fabs(1.9 - 1)) / 4, 1e-12);
    cr_assert_float_eq(area_under_curve(p, right, 4), (1 + 0 + 1 + 0.5) / 4, 1e-12);
    const double edge[] = {1.0, 0.0};
    const bool edge_right[] = {true, false};
    cr_assert_eq(expected_calibration_error(edge, edge_right, 2, 10), 0);
}

Test(confidence, is_kept_with_its_collection) {
    enum { N = 100 };
    struct fixture fixture;
    struct confidence_sample samples[N];
    struct confidence c, loaded;
    bool found = true;
    int64_t collection = 0;
    fixture_init(&fixture);
    struct store *s = fixture_open(&fixture);
    OK(store_collection_add(s, "alice", "c", NULL, &collection, ERR));
    draw(samples, N);
    OK(confidence_fit(&c, samples, N, ERR));
    OK(confidence_load(&loaded, &found, s, "alice", collection, ERR));
    cr_assert_not(found);
    OK(confidence_save(&c, s, "alice", 0, ERR));
    OK(confidence_load(&loaded, &found, s, "alice", collection, ERR));
    cr_assert(found, "the tenant's stands in");
    OK(confidence_save(&c, s, "alice", collection, ERR));
    OK(confidence_load(&loaded, &found, s, "alice", collection, ERR));
    cr_assert(found && loaded.n == N && loaded.n_positive == c.n_positive);
    cr_assert_float_eq(loaded.ece, c.ece, 1e-12);
    for (int i = 0; i < N; i++)
        cr_assert_float_eq(confidence_of(&loaded, &samples[i].features), confidence_of(&c, &samples[i].features),
                           1e-12);
    OK(confidence_load(&loaded, &found, s, "bob", 0, ERR));
    cr_assert_not(found);
    OK(store_setting_set(s, "alice", collection, "confidence", "{\"bias\":1}", ERR));
    FAILS(STATUS_INVALID, confidence_load(&loaded, &found, s, "alice", collection, ERR));
    store_close(s);
    fixture_deinit(&fixture);
}
