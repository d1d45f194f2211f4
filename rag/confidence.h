/* confidence.h - how likely a result answers its question: a logistic regression over what a search has seen.
 *
 * A cosine is no probability: of bge's, right and wrong ones crowd into the same narrow range, and differently in each
 * collection. So a weight per feature is fitted on questions whose right documents are known:
 *
 *     p = 1 / (1 + exp(-(bias + sum over i of weight_i (x_i - mean_i) / scale_i)))
 *
 * by Newton's method (iteratively reweighted least squares) with a penalty of RIDGE |weight|^2 / 2, and the model is
 * kept with its collection in the store. How good it is, is measured by cross-validation and comes with it. */
#pragma once

#include "rag/store.h"

#define CONFIDENCE_FEATURES(X)                                                                                         \
    X(dense_top)    /* inner product of the best chunk by meaning */                                                   \
    X(dense_margin) /* how far it is ahead of the best chunk of another document */                                    \
    X(lexical_top)  /* BM25 of the best chunk by words, as a share of what the question could reach */                 \
    X(coverage)     /* share of the question's words, by idf, that the first hit has */                                \
    X(agreement)    /* share of documents among the ten best that both lists have */                                   \
    X(same_top)     /* 1: both lists have the same document first */

struct confidence_features {
#define X(name) double name;
    CONFIDENCE_FEATURES(X)
#undef X
};
enum {
#define X(name) +1
    CONFIDENCE_N = 0 CONFIDENCE_FEATURES(X)
#undef X
};

struct confidence {
    double weight[CONFIDENCE_N], mean[CONFIDENCE_N], scale[CONFIDENCE_N], bias;
    int n, n_positive; /* questions that it was fitted on */
    double ece;        /* expected calibration error, cross-validated; 0..1 */
    double brier, auc; /* likewise: mean squared error, area under the ROC curve */
};

struct confidence_sample {
    struct confidence_features features;
    bool right;
};

/* STATUS_INVALID with fewer than 20 samples, or fewer than 5 of either kind. Deterministic. */
int confidence_fit(struct confidence *c, const struct confidence_sample *samples, int n, char *err, size_t err_bytes);
double confidence_of(const struct confidence *c, const struct confidence_features *features); /* 0..1 */

/* Sum over bins of equal width of (share of samples in it) |mean p - share that was right|. */
double expected_calibration_error(const double *p, const bool *right, int n, int n_bins);
/* Chance that a right sample has the higher p; ties count half. 0.5 without both kinds. */
double area_under_curve(const double *p, const bool *right, int n);

/* In the store, with a collection (0: for all of the tenant's that have none). *found false: there is none. */
int confidence_save(const struct confidence *c, struct store *store, const char *tenant, int64_t collection, char *err,
                    size_t err_bytes);
int confidence_load(struct confidence *c, bool *found, struct store *store, const char *tenant, int64_t collection,
                    char *err, size_t err_bytes);
