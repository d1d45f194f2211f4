/* sample_reference.h - sampling by a sort of the whole vocabulary, as kernels.h words it: what the tests of sample() on
 * the CPU and on the GPU hold it against, with the chi-square of draws against the exact distribution. */
#pragma once

#include "kernels/kernels.h"
#include "kernels/noise.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

struct entry {
    float z; /* the adjusted logit; with a temperature (logit - max) / temperature */
    int id;
};

static inline int reference_order(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    return x->z != y->z ? (x->z < y->z ? 1 : -1) : x->id - y->id;
}

static inline float reference_clean(float x) {
    return isnan(x) ? -INFINITY : fminf(x, FLT_MAX);
}

/* list [V]: the row's tokens in order; those that are forbidden are left out. Returns how many. p->pending is host
 * memory; ids of V and above count for nothing. */
static inline int reference_sorted(struct entry *list, const float *logits, const struct sample_params *p, int V) {
    float *v = malloc((size_t)V * sizeof *v), max = -INFINITY;
    int n = 0;
    for (int i = 0; i < V; i++) v[i] = p->allowed ? -INFINITY : reference_clean(logits[i]);
    for (int i = 0; p->allowed && i < p->n_allowed; i++)
        if (p->allowed[i] < V) v[p->allowed[i]] = reference_clean(logits[p->allowed[i]]);
    for (int i = 0; i < p->n_biases; i++) {
        if (p->biases[i].id >= V) continue;
        float *x = &v[p->biases[i].id];
        *x = reference_clean(*x + p->biases[i].bias);
    }
    for (int i = 0; i < p->n_counts + p->n_pending; i++) {
        const int at = i - p->n_counts; /* in pending */
        struct token_count c = at < 0 ? p->counts[i] : (struct token_count){p->pending[at * (1 + p->pending_gap)], 0, 0};
        bool seen = c.id >= V; /* each id once */
        for (int j = 0; at >= 0 && j < p->n_counts; j++) seen |= p->counts[j].id == c.id;
        for (int j = 0; j < p->n_pending; j++) {
            const bool same = p->pending[j * (1 + p->pending_gap)] == c.id;
            c.n_output += same;
            seen |= j < at && same;
        }
        if (seen || v[c.id] == -INFINITY) continue;
        float *x = &v[c.id];
        if (c.n_output || c.in_prompt) *x = *x > 0 ? *x / p->repetition : *x * p->repetition;
        *x -= p->frequency * (float)c.n_output;
        if (c.n_output) *x -= p->presence;
    }
    for (int i = 0; i < V; i++) max = fmaxf(max, v[i]);
    for (int i = 0; i < V; i++)
        if (v[i] > -INFINITY) list[n++] = (struct entry){p->temperature > 0 ? (v[i] - max) / p->temperature : v[i], i};
    qsort(list, (size_t)n, sizeof *list, reference_order);
    free(v);
    return n;
}

/* How many of a sorted list of n min_p and top_k leave. */
static inline int reference_top(const struct entry *list, int n, const struct sample_params *p) {
    int m = 0;
    if (p->min_p > 0)
        while (m < n && list[m].z >= logf(p->min_p)) m++;
    else
        m = n;
    return p->top_k > 0 && m > p->top_k ? p->top_k : m;
}

/* The kept set in order: what a draw may give. */
static inline int reference_kept(struct entry *list, const float *logits, const struct sample_params *p, int V) {
    const int m = reference_top(list, reference_sorted(list, logits, p, V), p);
    double total = 0, sum = 0;
    for (int i = 0; i < m; i++) total += exp(list[i].z);
    for (int i = 0; i < m && p->top_p < 1; i++) {
        sum += exp(list[i].z);
        if (sum >= p->top_p * total * (1 - 1e-12)) return i + 1;
    }
    return m;
}

/* Draws against the distribution over the kept set: value must stay below limit, and n_outside is 0. */
struct chi_square {
    double value, limit;
    int n_classes, n_outside;
};
static inline struct chi_square reference_chi_square(const struct entry *kept, int n, const int *count, int draws) {
    struct chi_square chi = {.n_outside = draws};
    double total = 0, rare = 0;
    int n_rare = 0;
    for (int i = 0; i < n; i++) total += exp(kept[i].z);
    for (int i = 0; i < n; i++) {
        const double expected = draws * exp(kept[i].z) / total;
        chi.n_outside -= count[kept[i].id];
        if (expected < 10) { /* too few for the approximation: one class of all of them */
            rare += expected;
            n_rare += count[kept[i].id];
            continue;
        }
        chi.value += pow(count[kept[i].id] - expected, 2) / expected;
        chi.n_classes++;
    }
    if (rare > 0) chi.value += pow(n_rare - rare, 2) / rare, chi.n_classes++;
    chi.limit = chi.n_classes - 1 + 5 * sqrt(2.0 * (chi.n_classes - 1)) + 1e-9;
    return chi;
}
