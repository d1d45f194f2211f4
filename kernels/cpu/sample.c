/* sample.c - from a row of logits to a token, and to log-probabilities, without sorting the vocabulary.
 *
 * A row is copied to scratch (NaN becomes -inf, +inf the largest float), where allowed ids, biases and penalties
 * change it. Greedy: the first maximum. Otherwise z = (logit - max) / temperature, and the kept set shrinks in steps:
 *     min_p   e^z >= min_p, that is, at least min_p times as likely as the best token;
 *     top_k   the first k in the order (z descending, id ascending);
 *     top_p   the shortest prefix of that order whose share of the remaining probability is >= top_p; at least one.
 * The draw is argmax of z + Gumbel noise over the kept set (noise.h).
 *
 * A prefix of the order is found by radix selection on z's bits, 11 at a time: a histogram of counts (top_k) or
 * masses (top_p) tells in which bin the prefix ends; the next pass looks only into that bin. Three passes fix the
 * value at which the prefix ends and how many tokens of exactly that value (the lowest ids) belong to it.
 *
 * Masses are summed in fp64 in id order. A row is one thread's work. Reads V logits, in passes over scratch. */
#include "kernels/cpu/cpu.h"
#include "kernels/noise.h"

#include <float.h>

/* Tokens of one row, in ascending id; lives in a thread's scratch. */
struct candidates {
    int n;
    float *z;     /* [n] */
    int32_t *ids; /* [n] */
};

/* ---- a prefix of the order (z descending, id ascending) ----------------------------------------------------------- */

enum { RADIX_LEVELS = 3, RADIX_BINS = 2048 };
static const int radix_shift[RADIX_LEVELS] = {21, 10, 0};

/* Order-preserving: a < b as floats is key(a) < key(b). -0 and 0 are made one. */
INLINE uint32_t sort_key(float z) {
    uint32_t u;
    z += 0.0f;
    memcpy(&u, &z, 4);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* Keeps the shortest prefix whose measure reaches `target`: the number of tokens if by_mass is false, else
 * sum of e^z over sum of e^z of all. Keeps at least one token, and all when the target is out of reach. */
static void keep_prefix(struct candidates *c, double target, bool by_mass) {
    uint32_t prefix = 0;
    double before = 0; /* measure of the tokens that are surely kept */
    int n_ties = 0;
    for (int level = 0; level < RADIX_LEVELS; level++) {
        int shift = radix_shift[level], width = level ? radix_shift[level - 1] - shift : 32 - shift;
        int count[RADIX_BINS] = {0};
        double mass[RADIX_BINS] = {0}, total = 0;
        for (int i = 0; i < c->n; i++) {
            uint32_t key = sort_key(c->z[i]);
            if (level && (key ^ prefix) >> radix_shift[level - 1]) continue;
            int bin = (int)(key >> shift & ((1u << width) - 1));
            double m = by_mass ? (double)expf(c->z[i]) : 1;
            count[bin]++;
            mass[bin] += m;
            total += m;
        }
        if (!level && by_mass) target *= total;
        int chosen = -1;
        for (int bin = RADIX_BINS - 1; bin >= 0; bin--) {
            if (!count[bin]) continue;
            if (chosen >= 0) before += mass[chosen];
            chosen = bin;
            if (before + mass[bin] >= target) break;
        }
        prefix |= (uint32_t)chosen << shift;
        if (level == RADIX_LEVELS - 1) {
            double one = mass[chosen] / count[chosen];
            for (n_ties = 1; n_ties < count[chosen] && before + n_ties * one < target;) n_ties++;
        }
    }
    int n = 0;
    for (int i = 0; i < c->n; i++) {
        uint32_t key = sort_key(c->z[i]);
        if (key < prefix || (key == prefix && n_ties-- <= 0)) continue;
        c->z[n] = c->z[i];
        c->ids[n++] = c->ids[i];
    }
    c->n = n;
}

/* Whether candidate i comes after j in the order. */
INLINE bool after(const struct candidates *c, int i, int j) {
    return c->z[i] < c->z[j] || (c->z[i] == c->z[j] && c->ids[i] > c->ids[j]);
}

/* Sorts the candidates: a heap with the last of the order on top. */
static void sort_candidates(struct candidates *c) {
    for (int start = c->n / 2 - 1, end = c->n; end > 1;) {
        if (start < 0) { /* the heap stands: its top goes to the end */
            end--;
            float z = c->z[0];
            int32_t id = c->ids[0];
            c->z[0] = c->z[end], c->ids[0] = c->ids[end];
            c->z[end] = z, c->ids[end] = id;
        }
        for (int i = start < 0 ? 0 : start, child; (child = 2 * i + 1) < end; i = child) {
            if (child + 1 < end && after(c, child + 1, child)) child++;
            if (!after(c, child, i)) break;
            float z = c->z[i];
            int32_t id = c->ids[i];
            c->z[i] = c->z[child], c->ids[i] = c->ids[child];
            c->z[child] = z, c->ids[child] = id;
        }
        if (start >= 0) start--;
    }
}

/* ---- one row ------------------------------------------------------------------------------------------------------ */

INLINE float tame(float x) { return x != x ? -INFINITY : x > FLT_MAX ? FLT_MAX : x; }

static void copy_tamed(float *z, const float *logits, int V) {
    for (int i = 0; i < V; i++) z[i] = tame(logits[i]);
}

/* The first maximum. */
static int argmax(const float *z, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (z[i] > z[best]) best = i;
    return best;
}

/* Allowed ids, biases, penalties: z [V] becomes what greedy decoding takes the maximum of. */
static void adjust(float *z, const float *logits, const struct sample_params *p, int V) {
    if (p->allowed) {
        for (int i = 0; i < V; i++) z[i] = -INFINITY;
        for (int i = 0; i < p->n_allowed; i++) z[p->allowed[i]] = tame(logits[p->allowed[i]]);
    } else {
        copy_tamed(z, logits, V);
    }
    for (int i = 0; i < p->n_biases; i++) z[p->biases[i].id] = tame(z[p->biases[i].id] + p->biases[i].bias);
    for (int i = 0; i < p->n_counts; i++) {
        const struct token_count *c = &p->counts[i];
        float *v = &z[c->id];
        if (*v == -INFINITY) continue;
        if (c->n_output || c->in_prompt) *v = *v > 0 ? *v / p->repetition : *v * p->repetition;
        *v -= p->frequency * (float)c->n_output;
        if (c->n_output) *v -= p->presence;
        *v = tame(*v);
    }
}

static int32_t draw(const struct candidates *c, const struct sample_params *p) {
    int first = argmax(c->z, c->n);
    int32_t best_id = c->ids[first];
    float best = c->z[first] + noise_gumbel(p->seed, p->position, best_id);
    for (int i = 0; i < c->n; i++) {
        if (c->z[i] + NOISE_GUMBEL_MAX < best) continue; /* cannot win */
        float score = c->z[i] + noise_gumbel(p->seed, p->position, c->ids[i]);
        if (score > best || (score == best && c->ids[i] < best_id)) best = score, best_id = c->ids[i];
    }
    return best_id;
}

static int32_t sample_row(float *z, int32_t *ids, const float *logits, const struct sample_params *p, int V) {
    adjust(z, logits, p, V);
    int best = argmax(z, V);
    float max = z[best];
    if (max == -INFINITY) { /* nothing is allowed */
        copy_tamed(z, logits, V);
        return argmax(z, V);
    }
    if (p->temperature == 0) return best;

    struct candidates c = {.z = z, .ids = ids};
    float lowest = p->min_p > 0 ? logf(p->min_p) : -FLT_MAX;
    for (int i = 0; i < V; i++) {
        float v = (z[i] - max) / p->temperature;
        if (!(v >= lowest) && i != best) continue;
        z[c.n] = v;
        ids[c.n++] = i;
    }
    if (p->top_k > 0 && p->top_k < c.n) keep_prefix(&c, p->top_k, false);
    if (p->top_p < 1) keep_prefix(&c, p->top_p, true);
    return draw(&c, p);
}

struct sample_op {
    struct exec *e;
    int32_t *ids;
    const float *logits;
    const struct sample_params *params;
    int V;
};

static void sample_rows(void *arg, struct share *share) {
    const struct sample_op *o = arg;
    float *z = scratch_of(o->e, share);
    int32_t *scratch_ids = (int32_t *)(z + cpu_of(o->e)->vocab_floats);
    for (int r, last; threads_take(share, &r, &last);)
        o->ids[r] = sample_row(z, scratch_ids, o->logits + (size_t)r * o->V, &o->params[r], o->V);
}

void CPU(sample)(struct exec *e, int32_t *ids, const float *logits, const struct sample_params *params, int R, int V) {
    struct sample_op o = {.e = e, .ids = ids, .logits = logits, .params = params, .V = V};
    parallel(e, R, 1, sample_rows, &o);
}

/* ---- log-probabilities -------------------------------------------------------------------------------------------- */

static double log_sum_exp(const float *z, int V) {
    float max = z[argmax(z, V)];
    if (max == -INFINITY) return -INFINITY;
    double sum = 0;
    for (int i = 0; i < V; i++) sum += (double)expf(z[i] - max);
    return (double)max + log(sum);
}

struct logprobs_op {
    struct exec *e;
    struct token_logprob *out;
    int stride;
    const float *logits;
    const int32_t *targets;
    const int *n_top;
    int V;
};

static void logprobs_row(struct token_logprob *out, float *z, int32_t *ids, const float *logits, int32_t target,
                         int n_top, int V) {
    copy_tamed(z, logits, V);
    double lse = log_sum_exp(z, V);
    int rank = 1;
    for (int i = 0; i < V; i++) rank += z[i] > z[target] || (z[i] == z[target] && i < target);
    out[0] = (struct token_logprob){.id = target, .logprob = (float)(z[target] - lse), .rank = rank};
    if (!n_top) return;
    struct candidates c = {.n = V, .z = z, .ids = ids};
    for (int i = 0; i < V; i++) ids[i] = i;
    if (n_top < V) keep_prefix(&c, n_top, false);
    sort_candidates(&c);
    for (int i = 0; i < c.n; i++)
        out[1 + i] = (struct token_logprob){.id = c.ids[i], .logprob = (float)(c.z[i] - lse), .rank = i + 1};
}

static void logprobs_rows(void *arg, struct share *share) {
    const struct logprobs_op *o = arg;
    float *z = scratch_of(o->e, share);
    int32_t *ids = (int32_t *)(z + cpu_of(o->e)->vocab_floats);
    for (int r, last; threads_take(share, &r, &last);)
        if (o->n_top[r] >= 0)
            logprobs_row(o->out + (size_t)r * o->stride, z, ids, o->logits + (size_t)r * o->V, o->targets[r],
                         o->n_top[r], o->V);
}

void CPU(token_logprobs)(struct exec *e, struct token_logprob *out, int stride, const float *logits,
                         const int32_t *targets, const int *n_top, int R, int V) {
    struct logprobs_op o = {.e = e, .out = out, .stride = stride, .logits = logits, .targets = targets,
                            .n_top = n_top, .V = V};
    parallel(e, R, 1, logprobs_rows, &o);
}
