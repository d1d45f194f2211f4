/* confidence.c - the fit: Newton's method on the penalised log-likelihood, K + 1 unknowns, a Cholesky step each. */
#include "rag/confidence.h"

#include "weights/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { UNKNOWNS = CONFIDENCE_N + 1, FOLDS = 5, BINS = 10, MIN_SAMPLES = 20, MIN_EACH = 5, MAX_STEPS = 50 };
/* Felt in a hundred samples, where a feature's luck should not count; in a thousand it is not. */
#define RIDGE 1.0

static const char *const names[CONFIDENCE_N] = {
#define X(name) #name,
    CONFIDENCE_FEATURES(X)
#undef X
};

static void values_of(double out[CONFIDENCE_N], const struct confidence_features *f) {
    int i = 0;
#define X(name) out[i++] = f->name;
    CONFIDENCE_FEATURES(X)
#undef X
}

static double sigmoid(double z) {
    return z >= 0 ? 1 / (1 + exp(-z)) : exp(z) / (1 + exp(z));
}

double confidence_of(const struct confidence *c, const struct confidence_features *features) {
    double x[CONFIDENCE_N], z = c->bias;
    values_of(x, features);
    for (int i = 0; i < CONFIDENCE_N; i++) z += c->weight[i] * (x[i] - c->mean[i]) / c->scale[i];
    return sigmoid(z);
}

/* ---- how good ---------------------------------------------------------------------------------------------------- */

double expected_calibration_error(const double *p, const bool *right, int n, int n_bins) {
    double error = 0;
    for (int bin = 0; bin < n_bins; bin++) {
        double sum = 0;
        int n_right = 0;
        for (int i = 0; i < n; i++) {
            int at = (int)(p[i] * n_bins);
            if (at >= n_bins) at = n_bins - 1;
            if (at != bin) continue;
            sum += p[i];
            n_right += right[i];
        }
        error += fabs(sum - n_right); /* times the bin's count, which the share of samples cancels */
    }
    return n ? error / n : 0;
}

double area_under_curve(const double *p, const bool *right, int n) {
    double wins = 0, pairs = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; right[i] && j < n; j++) {
            if (right[j]) continue;
            pairs++;
            wins += p[i] > p[j] ? 1 : p[i] == p[j] ? 0.5 : 0;
        }
    return pairs > 0 ? wins / pairs : 0.5;
}

/* ---- the fit ----------------------------------------------------------------------------------------------------- */

/* Whether a sample is used: all of them, or those of other folds. Folds by position: samples i, i + FOLDS, ... */
static bool used(int i, int fold) {
    return fold < 0 || i % FOLDS != fold;
}

static void standardise(struct confidence *c, const struct confidence_sample *samples, int n, int fold) {
    double x[CONFIDENCE_N];
    int k = 0;
    for (int i = 0; i < n; i++) {
        if (!used(i, fold)) continue;
        values_of(x, &samples[i].features);
        for (int j = 0; j < CONFIDENCE_N; j++) c->mean[j] += x[j];
        k++;
    }
    for (int j = 0; j < CONFIDENCE_N; j++) c->mean[j] /= k;
    for (int i = 0; i < n; i++) {
        if (!used(i, fold)) continue;
        values_of(x, &samples[i].features);
        for (int j = 0; j < CONFIDENCE_N; j++) c->scale[j] += (x[j] - c->mean[j]) * (x[j] - c->mean[j]);
    }
    for (int j = 0; j < CONFIDENCE_N; j++) {
        c->scale[j] = sqrt(c->scale[j] / k);
        if (!(c->scale[j] > 1e-9)) c->scale[j] = 1; /* constant: its weight stays 0 */
    }
}

/* Solves a x = b in place of b; a is symmetric and positive definite, which the ridge sees to. */
static void solve(double a[UNKNOWNS][UNKNOWNS], double b[UNKNOWNS]) {
    for (int i = 0; i < UNKNOWNS; i++)
        for (int j = 0; j <= i; j++) {
            double sum = a[i][j];
            for (int k = 0; k < j; k++) sum -= a[i][k] * a[j][k];
            a[i][j] = i == j ? sqrt(fmax(sum, 1e-12)) : sum / a[j][j];
        }
    for (int i = 0; i < UNKNOWNS; i++) {
        for (int k = 0; k < i; k++) b[i] -= a[i][k] * b[k];
        b[i] /= a[i][i];
    }
    for (int i = UNKNOWNS - 1; i >= 0; i--) {
        for (int k = i + 1; k < UNKNOWNS; k++) b[i] -= a[k][i] * b[k];
        b[i] /= a[i][i];
    }
}

/* Penalised negative log-likelihood of weights w (the bias last), its gradient and Hessian. */
static double likelihood(const struct confidence *c, const struct confidence_sample *samples, int n, int fold,
                         const double w[UNKNOWNS], double gradient[UNKNOWNS], double hessian[UNKNOWNS][UNKNOWNS]) {
    double loss = 0, x[UNKNOWNS];
    memset(gradient, 0, UNKNOWNS * sizeof *gradient);
    memset(hessian, 0, UNKNOWNS * sizeof *hessian);
    for (int i = 0; i < n; i++) {
        if (!used(i, fold)) continue;
        values_of(x, &samples[i].features);
        for (int j = 0; j < CONFIDENCE_N; j++) x[j] = (x[j] - c->mean[j]) / c->scale[j];
        x[CONFIDENCE_N] = 1;
        double z = 0;
        for (int j = 0; j < UNKNOWNS; j++) z += w[j] * x[j];
        const double p = sigmoid(z), y = samples[i].right;
        loss += log1p(exp(-fabs(z))) + (z > 0 ? z : 0) - y * z;
        for (int j = 0; j < UNKNOWNS; j++) {
            gradient[j] += (p - y) * x[j];
            for (int k = 0; k <= j; k++) hessian[j][k] += p * (1 - p) * x[j] * x[k];
        }
    }
    for (int j = 0; j < CONFIDENCE_N; j++) { /* not the bias: the mean p is to be the share of right ones */
        loss += RIDGE / 2 * w[j] * w[j];
        gradient[j] += RIDGE * w[j];
        hessian[j][j] += RIDGE;
    }
    hessian[CONFIDENCE_N][CONFIDENCE_N] += 1e-9;
    return loss;
}

static void newton(struct confidence *c, const struct confidence_sample *samples, int n, int fold) {
    double w[UNKNOWNS] = {0}, step[UNKNOWNS], hessian[UNKNOWNS][UNKNOWNS], next[UNKNOWNS], unused[UNKNOWNS];
    standardise(c, samples, n, fold);
    for (int i = 0; i < MAX_STEPS; i++) {
        double loss = likelihood(c, samples, n, fold, w, step, hessian), t = 1, moved = 0;
        solve(hessian, step);
        for (;; t /= 2) { /* a full step may go too far from a bad start */
            for (int j = 0; j < UNKNOWNS; j++) next[j] = w[j] - t * step[j];
            if (t < 1e-6 || likelihood(c, samples, n, fold, next, unused, hessian) <= loss) break;
        }
        for (int j = 0; j < UNKNOWNS; j++) {
            moved = fmax(moved, fabs(next[j] - w[j]));
            w[j] = next[j];
        }
        if (moved < 1e-10) break;
    }
    memcpy(c->weight, w, sizeof c->weight);
    c->bias = w[CONFIDENCE_N];
}

int confidence_fit(struct confidence *c, const struct confidence_sample *samples, int n, char *err, size_t err_bytes) {
    int n_right = 0;
    double x[CONFIDENCE_N];
    *c = (struct confidence){0};
    for (int i = 0; i < n; i++) {
        n_right += samples[i].right;
        values_of(x, &samples[i].features);
        for (int j = 0; j < CONFIDENCE_N; j++)
            if (!isfinite(x[j]))
                return fail(err, err_bytes, STATUS_INVALID, "sample %d: %s is not finite", i, names[j]);
    }
    if (n < MIN_SAMPLES || n_right < MIN_EACH || n - n_right < MIN_EACH)
        return fail(err, err_bytes, STATUS_INVALID,
                    "expected at least %d questions, %d answered rightly and %d wrongly; found %d with %d right",
                    MIN_SAMPLES, MIN_EACH, MIN_EACH, n, n_right);
    double *p = malloc((size_t)n * sizeof *p);
    bool *right = malloc((size_t)n * sizeof *right);
    CHECK(p && right);
    for (int fold = 0; fold < FOLDS; fold++) {
        struct confidence part = {0};
        newton(&part, samples, n, fold);
        for (int i = fold; i < n; i += FOLDS) p[i] = confidence_of(&part, &samples[i].features);
    }
    for (int i = 0; i < n; i++) {
        right[i] = samples[i].right;
        c->brier += (p[i] - right[i]) * (p[i] - right[i]) / n;
    }
    c->ece = expected_calibration_error(p, right, n, BINS);
    c->auc = area_under_curve(p, right, n);
    c->n = n;
    c->n_positive = n_right;
    newton(c, samples, n, -1);
    free(p);
    free(right);
    return 0;
}

/* ---- in the store ------------------------------------------------------------------------------------------------ */

static const char key[] = "confidence";

int confidence_save(const struct confidence *c, struct store *store, const char *tenant, int64_t collection, char *err,
                    size_t err_bytes) {
    cJSON *json = cJSON_CreateObject(), *weights = cJSON_AddObjectToObject(json, "features");
    for (int i = 0; i < CONFIDENCE_N; i++) {
        const double three[] = {c->weight[i], c->mean[i], c->scale[i]};
        cJSON_AddItemToObject(weights, names[i], cJSON_CreateDoubleArray(three, 3));
    }
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"bias", c->bias}, {"n", c->n},         {"n_positive", c->n_positive},
                   {"ece", c->ece},   {"brier", c->brier}, {"auc", c->auc}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        cJSON_AddNumberToObject(json, numbers[i].name, numbers[i].value);
    char *text = cJSON_PrintUnformatted(json);
    CHECK(text);
    int status = store_setting_set(store, tenant, collection, key, text, err, err_bytes);
    free(text);
    cJSON_Delete(json);
    return status;
}

static int parse(struct confidence *c, const char *text, char *err, size_t err_bytes) {
    cJSON *json;
    int64_t n = 0, n_positive = 0;
    int status =
        json_parse(&json, text, strlen(text), (struct json_limits){.max_bytes = 65536, .max_depth = 4}, err, err_bytes);
    const struct {
        const char *name;
        double *to;
    } numbers[] = {{"bias", &c->bias}, {"ece", &c->ece}, {"brier", &c->brier}, {"auc", &c->auc}};
    for (size_t i = 0; !status && i < sizeof numbers / sizeof *numbers; i++)
        status = json_get_double(json, numbers[i].name, -1e6, 1e6, numbers[i].to, err, err_bytes);
    if (!status) status = json_get_int(json, "n", 0, INT32_MAX, &n, err, err_bytes);
    if (!status) status = json_get_int(json, "n_positive", 0, INT32_MAX, &n_positive, err, err_bytes);
    const cJSON *features = json_find(json, "features");
    for (int i = 0; i < CONFIDENCE_N && !status; i++) {
        double *const to[] = {&c->weight[i], &c->mean[i], &c->scale[i]};
        const cJSON *three = json_find(features, names[i]), *item;
        int k = 0;
        cJSON_ArrayForEach(item, three) {
            if (k < 3 && cJSON_IsNumber(item)) *to[k] = item->valuedouble;
            k++;
        }
        if (k != 3 || !(c->scale[i] > 0))
            status =
                fail(err, err_bytes, STATUS_INVALID, "the stored calibration lacks \"%s\": calibrate again", names[i]);
    }
    c->n = (int)n;
    c->n_positive = (int)n_positive;
    cJSON_Delete(json);
    return status;
}

int confidence_load(struct confidence *c, bool *found, struct store *store, const char *tenant, int64_t collection,
                    char *err, size_t err_bytes) {
    char *text = NULL;
    *c = (struct confidence){0};
    *found = false;
    int status = store_setting_get(store, tenant, collection, key, &text, err, err_bytes);
    if (!status && !text && collection) status = store_setting_get(store, tenant, 0, key, &text, err, err_bytes);
    if (!status && text) {
        status = parse(c, text, err, err_bytes);
        *found = !status;
    }
    free(text);
    return status;
}
