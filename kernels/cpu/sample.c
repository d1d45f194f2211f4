/* sample.c - from a row of logits to a token, and to log-probabilities, without sorting the vocabulary.
 *
 * A row is copied to scratch (NaN becomes -inf, +inf the largest float), where allowed ids, biases and penalties
 * change it. Greedy: the first maximum. Otherwise z = (logit - max) / temperature, and the kept set shrinks in steps:
 *     min_p   e^z >= min_p, that is, at least min_p times as likely as the best token;
 *     top_k   the first k in the order (z descending, id ascending);
 *     top_p   the shortest prefix of that order whose share of the remaining probability is >= top_p; at least one.
 * The draw is the argmax of z + Gumbel noise over the kept set (noise.h).
 *
 * Before each step, tokens that it must drop are left out by a bound that takes one pass in vectors:
 *     top_k   the k-th largest of the maxima of blocks of 64 tokens: at least k tokens are no smaller;
 *     top_p   log((1 - top_p) S / n), S being the mass of all n: what lies below it has less mass than may be dropped.
 * What is left, a few thousand tokens of 150,000, goes through a radix selection on z's bits, 11 at a time: a
 * histogram of counts (top_k) or masses (top_p) tells in which bin the prefix ends; the next pass looks only into that
 * bin. Three passes fix the value at which the prefix ends and how many tokens of exactly that value (the lowest ids)
 * belong to it. Up to FEW tokens are sorted instead: clearing and reading histograms would take longer. Masses are summed
 * in fp64, in an order that depends on the row alone.
 *
 * A row is one thread's work. Reads V logits; passes over scratch are in vectors. */
#include "kernels/cpu/cpu.h"
#include "kernels/noise.h"

#include <float.h>

/* Tokens of one row, in ascending id; lives in a thread's scratch. */
struct candidates {
    int n;
    float *z;     /* [n] */
    float *mass;  /* [n] e^z; only where a step needs it */
    int32_t *ids; /* [n] */
};

/* ---- passes over a row: z [V] is padded with -inf to a whole vector ------------------------------------------------- */

INLINE float tame(float x) { return x != x ? -INFINITY : x > FLT_MAX ? FLT_MAX : x; }

static void pad(float *z, int V) {
    for (int i = V; i % LANES; i++) z[i] = -INFINITY;
}

static void copy_tamed(float *z, const float *logits, int V) {
    for (int i = 0; i < V; i++) z[i] = tame(logits[i]);
    pad(z, V);
}

static float row_max(const float *z, int V) {
    vf m = vf_set1(-INFINITY);
    for (int i = 0; i < V; i += LANES) m = vf_max(m, vf_load(z + i));
    float best = m[0];
    for (int i = 1; i < LANES; i++) best = m[i] > best ? m[i] : best;
    return best;
}

/* The first maximum. */
static int argmax(const float *z, int V) {
    float max = row_max(z, V);
    for (int i = 0; i < V; i++)
        if (z[i] == max) return i;
    return 0;
}

/* Whether any lane of a comparison's result is set. */
INLINE bool any(vi mask) {
#if LANES == 16
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif LANES == 8
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
    return mask[0] | mask[1] | mask[2] | mask[3];
#endif
}

/* Those of z [V] that are >= lowest. c->z may be z. */
static void collect(struct candidates *c, const float *z, int V, float lowest) {
    c->n = 0;
    for (int i = 0; i < V; i += LANES) {
        vf v = vf_load(z + i);
        if (!any(v >= lowest)) continue;
        for (int j = 0; j < LANES && i + j < V; j++) {
            if (!(v[j] >= lowest)) continue;
            c->z[c->n] = v[j];
            c->ids[c->n++] = i + j;
        }
    }
}

/* e^z of each, and their sum. */
static double masses(float *mass, const float *z, int n) {
    typedef double vd __attribute__((vector_size(LANES * 8)));
    vd sum = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf e = vf_exp(vf_load(z + i));
        vf_store(mass + i, e);
        sum += __builtin_convertvector(e, vd);
    }
    double total = 0;
    for (int j = 0; j < LANES; j++) total += sum[j];
    if (i == n) return total;
    float rest[LANES] = {0};
    memcpy(rest, z + i, (size_t)(n - i) * sizeof(float));
    vf_store(rest, vf_exp(vf_load(rest)));
    for (int j = 0; i + j < n; j++) total += (double)(mass[i + j] = rest[j]);
    return total;
}

/* ---- a prefix of the order (z descending, id ascending) ----------------------------------------------------------- */

enum { RADIX_LEVELS = 3, RADIX_BINS = 2048, FEW = 64 };
static const int radix_shift[RADIX_LEVELS] = {21, 10, 0};

/* Order-preserving: a < b as floats is key(a) < key(b). -0 and 0 are made one. */
INLINE uint32_t sort_key(float z) {
    uint32_t u;
    z += 0.0f;
    memcpy(&u, &z, 4);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* keep_prefix of up to FEW tokens. */
static void keep_prefix_few(struct candidates *c, double target, bool by_mass) {
    uint64_t order[FEW]; /* descending: the key, then how far the token is from the end */
    bool kept[FEW] = {false};
    double sum = 0;
    int n = 0;
    for (int i = 0; i < c->n; i++) {
        uint64_t key = (uint64_t)sort_key(c->z[i]) << 32 | (uint64_t)(FEW - i);
        int at = i;
        for (; at && order[at - 1] < key; at--) order[at] = order[at - 1];
        order[at] = key;
    }
    for (int i = 0; i < c->n && (!i || sum < target); i++) {
        int token = FEW - (int)(order[i] & 0xffffffffu);
        kept[token] = true;
        sum += by_mass ? (double)c->mass[token] : 1;
    }
    for (int i = 0; i < c->n; i++) {
        if (!kept[i]) continue;
        c->z[n] = c->z[i];
        c->ids[n++] = c->ids[i];
    }
    c->n = n;
}

/* Keeps the shortest prefix whose measure reaches `target`: the number of tokens, or with by_mass the sum of their
 * masses. Keeps at least one token, and all when the target is out of reach. c->mass is not kept up. */
static void keep_prefix(struct candidates *c, double target, bool by_mass) {
    if (c->n <= FEW) {
        keep_prefix_few(c, target, by_mass);
        return;
    }
    uint32_t prefix = 0;
    double before = 0; /* measure of the tokens that are surely kept */
    int n_ties = 0;
    for (int level = 0; level < RADIX_LEVELS; level++) {
        int shift = radix_shift[level], width = level ? radix_shift[level - 1] - shift : 32 - shift;
        int count[RADIX_BINS] = {0};
        double mass[RADIX_BINS] = {0};
        for (int i = 0; i < c->n; i++) {
            uint32_t key = sort_key(c->z[i]);
            if (level && (key ^ prefix) >> radix_shift[level - 1]) continue;
            int bin = (int)(key >> shift & ((1u << width) - 1));
            count[bin]++;
            mass[bin] += by_mass ? (double)c->mass[i] : 1;
        }
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

/* The k-th largest of z [n]; k <= n. The larger ones are lost. z is padded with -inf. */
static float kth_largest(float *z, int n, int k) {
    float max = INFINITY;
    for (int found = 0; found < k && max > -INFINITY;) {
        max = row_max(z, n);
        vf at = vf_set1(max);
        for (int i = 0; i < n; i += LANES) {
            vf v = vf_load(z + i);
            vi same = v == at;
            if (!any(same)) continue;
            for (int j = 0; j < LANES; j++) found -= same[j];
            vf_store(z + i, vf_select(same, vf_set1(-INFINITY), v));
        }
    }
    return max;
}

/* The first k of z [V], among those >= lowest. c->mass, free for now, holds the maxima of blocks of tokens. */
static void collect_top(struct candidates *c, const float *z, int V, int k, float lowest) {
    enum { BLOCK = 64 };
    int n_blocks = V / BLOCK; /* a last one that is not whole does not count: the bound is only lower */
    if (k <= n_blocks / 2) {
        struct candidates maxima = {.n = n_blocks, .z = c->mass, .ids = c->ids};
        float bound = INFINITY;
        for (int i = 0; i < n_blocks; i++) maxima.z[i] = row_max(z + i * BLOCK, BLOCK);
        if (k <= FEW) {
            pad(maxima.z, n_blocks);
            bound = kth_largest(maxima.z, n_blocks, k);
        } else {
            keep_prefix(&maxima, k, false);
            for (int i = 0; i < maxima.n; i++) bound = maxima.z[i] < bound ? maxima.z[i] : bound;
        }
        if (bound > lowest) lowest = bound;
    }
    collect(c, z, V, lowest);
    if (k < c->n) keep_prefix(c, k, false);
}

/* The shortest prefix of the candidates whose share of their mass is >= top_p. */
static void keep_top_p(struct candidates *c, float top_p) {
    double total = masses(c->mass, c->z, c->n), target = top_p * total;
    double bound = log((total - target) / c->n) - 1e-3; /* far more than what is lost to rounding */
    int n = 0;
    for (int i = 0; i < c->n; i++) {
        if (c->z[i] < bound) continue;
        c->z[n] = c->z[i];
        c->mass[n] = c->mass[i];
        c->ids[n++] = c->ids[i];
    }
    if (n) c->n = n;
    keep_prefix(c, target, true);
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

/* ---- the draw ------------------------------------------------------------------------------------------------------ */

/* noise_bits of LANES ids. */
INLINE vu noise_lanes(uint64_t seed, int64_t position, vu ids) {
#if defined(__x86_64__)
    typedef uint64_t vw __attribute__((vector_size(LANES * 4)));
#if LANES == 16
#define MULTIPLY(a, b) (vw) _mm512_mul_epu32((__m512i)(a), (__m512i)(b))
#elif LANES == 8
#define MULTIPLY(a, b) (vw) _mm256_mul_epu32((__m256i)(a), (__m256i)(b))
#else
#define MULTIPLY(a, b) (vw) _mm_mul_epu32((__m128i)(a), (__m128i)(b))
#endif
    /* 32 x 32 to 64 bits exists for the even lanes; the odd ones are shifted there, and the halves put together. */
    const vw low = (vw){0} + 0xffffffffu;
    vu c0 = ids >> 2, zero = {0}, c1 = zero + (uint32_t)position, c2 = zero + (uint32_t)((uint64_t)position >> 32), c3 = zero;
    vu m0 = zero + 0xD2511F53u, m1 = zero + 0xCD9E8D57u;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        vw a_even = MULTIPLY(c0, m0), a_odd = MULTIPLY((vw)c0 >> 32, m0);
        vw b_even = MULTIPLY(c2, m1), b_odd = MULTIPLY((vw)c2 >> 32, m1);
        vu a_high = (vu)(a_even >> 32 | (a_odd & ~low)), a_low = (vu)((a_even & low) | a_odd << 32);
        vu b_high = (vu)(b_even >> 32 | (b_odd & ~low)), b_low = (vu)((b_even & low) | b_odd << 32);
        c0 = b_high ^ c1 ^ k0;
        c2 = a_high ^ c3 ^ k1;
        c1 = b_low;
        c3 = a_low;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    vu word = ids & 3;
    vf first = vf_select((vi)(word == 0), (vf)c0, (vf)c1), second = vf_select((vi)(word == 2), (vf)c2, (vf)c3);
    return (vu)vf_select((vi)(word < 2), first, second);
#undef MULTIPLY
#else
    vu bits;
    for (int i = 0; i < LANES; i++) bits[i] = noise_bits(seed, position, (int32_t)ids[i]);
    return bits;
#endif
}

/* The draw from tokens ids[i] (NULL: i) with z[i] >= lowest; z [n] is padded with -inf. `first` is the likeliest.
 *
 * noise is -log(-log(1 - u)) <= -log(u), so a token can only win with u <= e^(z - best so far): that much is tested
 * in vectors, and the few that pass are computed as noise.h says. */
static int32_t draw(const float *z, const int32_t *ids, int n, float lowest, int first, const struct sample_params *p) {
    int32_t best_id = ids ? ids[first] : first;
    float best = z[first] + noise_gumbel(p->seed, p->position, best_id);
    for (int i = 0; i < n; i += LANES) {
        vf v = vf_load(z + i);
        if (!any((v >= lowest) & (v + NOISE_GUMBEL_MAX >= best))) continue;
        vu id;
        for (int j = 0; j < LANES; j++) id[j] = (uint32_t)(i + j);
        if (ids) memcpy(&id, ids + i, sizeof id);
        vu bits = noise_lanes(p->seed, p->position, id);
        vf u = __builtin_convertvector(bits, vf) * 0x1p-32f;
        vi may = (v >= lowest) & (u <= vf_exp(v - best) * 1.0001f + 0x1p-32f);
        if (!any(may)) continue;
        for (int j = 0; j < LANES; j++) {
            if (!may[j]) continue;
            float score = v[j] + noise_gumbel(p->seed, p->position, (int32_t)id[j]);
            if (score < best || (score == best && (int32_t)id[j] >= best_id)) continue;
            best = score;
            best_id = (int32_t)id[j];
        }
    }
    return best_id;
}

/* ---- one row ------------------------------------------------------------------------------------------------------- */

/* What penalties leave of the value of a token with n_output occurrences in the output. */
static float penalised(float v, const struct sample_params *p, int n_output, bool in_prompt) {
    if (v == -INFINITY) return v;
    if (n_output || in_prompt) v = v > 0 ? v / p->repetition : v * p->repetition;
    v -= p->frequency * (float)n_output;
    if (n_output) v -= p->presence;
    return tame(v);
}

static int32_t pending_id(const struct sample_params *p, int i) { return p->pending[(size_t)i * (1 + (size_t)p->pending_gap)]; }

/* How often id is pending; marks where. */
static int count_pending(bool *counted, const struct sample_params *p, int32_t id) {
    int n = 0;
    for (int i = 0; i < p->n_pending; i++)
        if (pending_id(p, i) == id) counted[i] = true, n++;
    return n;
}

/* Allowed ids, biases, penalties: z [V] becomes what greedy decoding takes the maximum of. */
static void adjust(float *z, const float *logits, const struct sample_params *p, int V) {
    if (p->allowed) {
        for (int i = 0; i < V; i++) z[i] = -INFINITY;
        for (int i = 0; i < p->n_allowed; i++)
            if (p->allowed[i] < V) z[p->allowed[i]] = tame(logits[p->allowed[i]]);
        pad(z, V);
    } else {
        copy_tamed(z, logits, V);
    }
    for (int i = 0; i < p->n_biases; i++) {
        const struct token_bias *b = &p->biases[i];
        if (b->id < V) z[b->id] = tame(z[b->id] + b->bias);
    }
    bool counted[SAMPLE_MAX_PENDING] = {false};
    for (int i = 0; i < p->n_counts; i++) {
        const struct token_count *c = &p->counts[i];
        if (c->id < V) z[c->id] = penalised(z[c->id], p, c->n_output + count_pending(counted, p, c->id), c->in_prompt);
    }
    for (int i = 0; i < p->n_pending; i++) {
        int32_t id = pending_id(p, i);
        if (!counted[i] && id < V) z[id] = penalised(z[id], p, count_pending(counted, p, id), false);
    }
}

/* scratch: three rows of `stride` floats. */
static int32_t sample_row(float *scratch, size_t stride, const float *logits, const struct sample_params *p, int V) {
    float *z = scratch;
    adjust(z, logits, p, V);
    int best = argmax(z, V);
    float max = z[best];
    if (max == -INFINITY) { /* nothing is allowed */
        copy_tamed(z, logits, V);
        return argmax(z, V);
    }
    if (p->temperature == 0) return best;

    for (int i = 0; i < V; i += LANES) vf_store(z + i, (vf_load(z + i) - max) / p->temperature);
    float lowest = p->min_p > 0 ? fminf(logf(p->min_p), 0) : -FLT_MAX;
    bool top_k = p->top_k > 0 && p->top_k < V;
    if (!top_k && !(p->top_p < 1)) return draw(z, NULL, V, lowest, best, p);
    struct candidates c = {.z = z, .mass = scratch + stride, .ids = (int32_t *)(scratch + 2 * stride)};
    if (top_k) collect_top(&c, z, V, p->top_k, lowest);
    else collect(&c, z, V, lowest);
    if (p->top_p < 1) keep_top_p(&c, p->top_p);
    pad(z, c.n);
    return draw(z, c.ids, c.n, -FLT_MAX, argmax(z, c.n), p);
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
    for (int r, last; threads_take(share, &r, &last);)
        o->ids[r] = sample_row(z, cpu_of(o->e)->vocab_floats, o->logits + (size_t)r * o->V, &o->params[r], o->V);
}

unsigned CPU(sample_set)(struct exec *e, const struct sample_params *params, int R, int V) {
    (void)R, (void)V;
    cpu_of(e)->params = params;
    return 0;
}

void CPU(sample)(struct exec *e, int32_t *ids, const float *logits, unsigned stages, int R, int V) {
    (void)stages;
    struct sample_op o = {.e = e, .ids = ids, .logits = logits, .params = cpu_of(e)->params, .V = V};
    parallel(e, R, 1, sample_rows, &o);
}

/* ---- log-probabilities -------------------------------------------------------------------------------------------- */

/* log of the sum of e^z; scratch [V]. */
static double log_sum_exp(float *scratch, const float *z, int V) {
    float max = row_max(z, V);
    if (max == -INFINITY) return -INFINITY;
    for (int i = 0; i < V; i += LANES) vf_store(scratch + i, vf_load(z + i) - max);
    return (double)max + log(masses(scratch, scratch, V));
}

/* How many of z [V] come before token `target`, and it. */
static int rank_of(const float *z, int V, int32_t target) {
    int rank = 1;
    for (int i = 0; i < target; i++) rank += z[i] >= z[target];
    for (int i = target + 1; i < V; i++) rank += z[i] > z[target];
    return rank;
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

/* scratch: three rows of `stride` floats. */
static void logprobs_row(struct token_logprob *out, float *scratch, size_t stride, const float *logits, int32_t target,
                         int n_top, int V) {
    float *z = scratch, *mass = scratch + stride;
    copy_tamed(z, logits, V);
    double lse = log_sum_exp(mass, z, V);
    out[0] = (struct token_logprob){.id = target, .logprob = (float)(z[target] - lse), .rank = rank_of(z, V, target)};
    if (!n_top) return;
    struct candidates c = {.z = z, .mass = mass, .ids = (int32_t *)(scratch + 2 * stride)};
    collect_top(&c, z, V, n_top, -INFINITY);
    sort_candidates(&c);
    for (int i = 0; i < c.n; i++)
        out[1 + i] = (struct token_logprob){.id = c.ids[i], .logprob = (float)(c.z[i] - lse), .rank = i + 1};
}

static void logprobs_rows(void *arg, struct share *share) {
    const struct logprobs_op *o = arg;
    float *z = scratch_of(o->e, share);
    for (int r, last; threads_take(share, &r, &last);)
        if (o->n_top[r] >= 0)
            logprobs_row(o->out + (size_t)r * o->stride, z, cpu_of(o->e)->vocab_floats,
                         o->logits + (size_t)r * o->V, o->targets[r], o->n_top[r], o->V);
}

void CPU(token_logprobs)(struct exec *e, struct token_logprob *out, int stride, const float *logits,
                         const int32_t *targets, const int *n_top, int R, int V) {
    struct logprobs_op o = {.e = e, .out = out, .stride = stride, .logits = logits, .targets = targets,
                            .n_top = n_top, .V = V};
    parallel(e, R, 1, logprobs_rows, &o);
}
