/* quantize.c - what a search for 4-bit weights is made of: rounding a matrix, the best limits, and sums over activations.
 *
 *     awq_round        out = ((q - zero) * scale) / s             w, out [rows, K]; the rule of q is kernels.h's
 *     awq_quantize     q, zero, scale in AutoAWQ's order          [K, rows / 8], [K / 128, rows / 8], [K / 128, rows]
 *     awq_clip         limit = argmin d' gram d                   [rows, K / 128]
 *     gram_add         gram += x' x, group by group               x [T, C], gram [C / 128, 128, 128]
 *     column_abs_add   sums += sum over t of |x|                  sums [C]
 *     row_distance_add sums += |a - b|^2                          sums [T]
 *
 * Rounding has no sums. The others add in one order each: gram and columns by ascending t, awq_clip by ascending j, then
 * i, a distance in four vectors in turn over C. Awq_clip reads gram once per 8 rows of weights, so it costs 10 x 128
 * multiplications a weight and no bandwidth. */
#include "kernels/cpu/cpu.h"

enum {
    GROUP = AWQ_GROUP,
    WORD_ROWS = 8,                   /* of a word of qweight */
    CLIP_LANES = 8 * AWQ_CLIPS,      /* 8 rows of weights, every limit of each */
    GRAM_ROWS = 64, GRAM_COLUMNS = 16, /* tokens widened at a time; columns of one unit of work */
    SUM_COLUMNS = 64,
};

/* ---- one group --------------------------------------------------------------------------------------------------- */

struct code { /* what a group's inputs share */
    float scale, zero;
};

/* To the nearest integer, ties to even, for |v| < 2^22: the adder's own rounding. */
INLINE vf vf_integer(vf v) { return (v + 0x1.8p23f) - 0x1.8p23f; }
INLINE vf vf_keep(vf v, float lo, float hi) {
    v = vf_select(v < lo, vf_set1(lo), v);
    return vf_select(v > hi, vf_set1(hi), v);
}

static void widen_group(float *out, const char *in, enum dtype t) {
    for (size_t i = 0; i < GROUP; i += LANES) vf_store(out + i, vf_widen(in + i * dtype_bytes(t), t));
}

/* The extremes of v [GROUP] and 0. */
static void find_extremes(float *lo, float *hi, const float *v) {
    vf low = {0}, high = {0};
    for (int i = 0; i < GROUP; i += LANES) {
        low = vf_max(low, -vf_load(v + i));
        high = vf_max(high, vf_load(v + i));
    }
    *lo = -vf_max_lane(low);
    *hi = vf_max_lane(high);
}

static struct code code_of(float lo, float hi) {
    struct code code = {.scale = f32_round((hi - lo > 1e-5f ? hi - lo : 1e-5f) / 15, DTYPE_F16)};
    const float zero = rintf(-lo / code.scale);
    code.zero = zero > 15 ? 15 : zero;
    return code;
}

INLINE vf encode(vf v, struct code code) { return vf_keep(vf_integer(v / code.scale) + code.zero, 0, 15); }

/* v [K] = row `row` of w times s. */
static void scaled_row(float *v, const struct matrix *w, const float *s, size_t row) {
    const size_t K = (size_t)w->cols;
    row_widen(v, (const char *)w->data + row * K * dtype_bytes(w->dtype), K, w->dtype);
    for (size_t k = 0; s && k < K; k++) v[k] *= s[k];
}

/* q [K] and the codes [K / GROUP] of row `row`; v is what scaled_row gave, q may be v. */
static void encode_row(float *q, struct code *codes, const float *v, const struct awq_rule *rule, int K, size_t row) {
    const size_t n_groups = (size_t)(K / GROUP);
    for (size_t g = 0; g < n_groups; g++, v += GROUP, q += GROUP) {
        float lo, hi;
        const float limit = rule->limit ? rule->limit[row * n_groups + g] : INFINITY;
        find_extremes(&lo, &hi, v);
        codes[g] = code_of(lo < -limit ? -limit : lo, hi > limit ? limit : hi);
        for (int i = 0; i < GROUP; i += LANES)
            vf_store(q + i, encode(vf_keep(vf_load(v + i), -limit, limit), codes[g]));
    }
}

/* ---- a matrix ---------------------------------------------------------------------------------------------------- */

struct rounding {
    struct exec *e;
    char *out;
    const struct matrix *w;
    const struct awq_rule *rule;
    const float *divisor;
    uint32_t *qweight, *qzeros;
    uint16_t *scales;
};

static void round_rows(void *arg, struct share *share) {
    const struct rounding *o = arg;
    const size_t K = (size_t)o->w->cols, row_bytes = K * dtype_bytes(o->w->dtype);
    const float *s = o->rule->s;
    float *v = scratch_of(o->e, share);
    struct code *codes = (struct code *)(v + ROW_FLOATS(K));
    for (int row, last; threads_take(share, &row, &last);)
        for (; row < last; row++) {
            scaled_row(v, o->w, s, (size_t)row);
            encode_row(v, codes, v, o->rule, (int)K, (size_t)row);
            for (size_t k = 0; k < K; k++) v[k] = (v[k] - codes[k / GROUP].zero) * codes[k / GROUP].scale;
            for (size_t k = 0; s && k < K; k++) v[k] /= s[k];
            row_narrow(o->out + (size_t)row * row_bytes, v, K, o->w->dtype);
        }
}

void CPU(awq_round)(struct exec *e, void *out, const struct matrix *w, const struct awq_rule *rule) {
    struct rounding o = {.e = e, .out = out, .w = w, .rule = rule};
    parallel(e, w->rows, rows_per_part(8 * w->cols), round_rows, &o); /* two divisions a weight count for some */
}

/* A row's nibbles within their words; `word` is the row's eighth. */
static void put_row(const struct rounding *o, const float *q, const struct code *codes, size_t row) {
    static const uint8_t place[WORD_ROWS] = {0, 4, 1, 5, 2, 6, 3, 7};
    const size_t K = (size_t)o->w->cols, n_rows = (size_t)o->w->rows, n_words = n_rows / WORD_ROWS;
    const size_t word = row / WORD_ROWS, in_word = row % WORD_ROWS;
    const int shift = 4 * place[in_word];
    const float divisor = o->divisor ? o->divisor[row] : 1;
    for (size_t k = 0; k < K; k++) {
        uint32_t *to = &o->qweight[k * n_words + word];
        *to = (in_word ? *to : 0) | (uint32_t)q[k] << shift;
    }
    for (size_t g = 0; g < K / GROUP; g++) {
        uint32_t *to = &o->qzeros[g * n_words + word];
        *to = (in_word ? *to : 0) | (uint32_t)codes[g].zero << shift;
        o->scales[g * n_rows + row] = f16_from_f32(codes[g].scale / divisor);
    }
}

static void quantize_words(void *arg, struct share *share) {
    const struct rounding *o = arg;
    const size_t K = (size_t)o->w->cols;
    float *v = scratch_of(o->e, share);
    struct code *codes = (struct code *)(v + ROW_FLOATS(K));
    for (int word, last; threads_take(share, &word, &last);)
        for (; word < last; word++)
            for (size_t row = (size_t)word * WORD_ROWS; row < ((size_t)word + 1) * WORD_ROWS; row++) {
                scaled_row(v, o->w, o->rule->s, row);
                encode_row(v, codes, v, o->rule, (int)K, row);
                put_row(o, v, codes, row);
            }
}

void CPU(awq_quantize)(struct exec *e, int32_t *qweight, int32_t *qzeros, uint16_t *scales, const struct matrix *w,
                       const struct awq_rule *rule, const float *divisor) {
    struct rounding o = {.e = e, .w = w, .rule = rule, .divisor = divisor, .qweight = (uint32_t *)qweight,
                         .qzeros = (uint32_t *)qzeros, .scales = scales};
    parallel(e, w->rows / WORD_ROWS, 1, quantize_words, &o);
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

struct clipping {
    struct exec *e;
    float *limit;
    const float *gram;
    const struct matrix *w;
    const float *s;
};

INLINE float limit_of(float largest, int i) { return largest * (1 - (float)i / 20); }

/* d [GROUP, CLIP_LANES]: in lane r * AWQ_CLIPS + i the error of row first + r under limit i. largest [8]: max |v|. */
static void clip_errors(float *d, float *largest, const struct clipping *o, size_t first, size_t g) {
    const size_t K = (size_t)o->w->cols, b = dtype_bytes(o->w->dtype);
    const float *s = o->s ? o->s + g * GROUP : NULL;
    float v[GROUP], x[GROUP], lo, hi;
    for (size_t r = 0; r < WORD_ROWS; r++) {
        widen_group(v, (const char *)o->w->data + ((first + r) * K + g * GROUP) * b, o->w->dtype);
        for (int k = 0; s && k < GROUP; k++) v[k] *= s[k];
        find_extremes(&lo, &hi, v);
        largest[r] = -lo > hi ? -lo : hi;
        for (int i = 0; i < AWQ_CLIPS; i++) {
            const float limit = limit_of(largest[r], i);
            const struct code code = code_of(lo < -limit ? -limit : lo, hi > limit ? limit : hi);
            for (int k = 0; k < GROUP; k += LANES) {
                const vf q = encode(vf_keep(vf_load(v + k), -limit, limit), code);
                const vf error = (q - code.zero) * code.scale - vf_load(v + k);
                vf_store(x + k, s ? error / vf_load(s + k) : error);
            }
            for (int k = 0; k < GROUP; k++) d[k * CLIP_LANES + (int)r * AWQ_CLIPS + i] = x[k];
        }
    }
}

/* Unit u is rows 8 (u / n_groups) .. of group u % n_groups. */
static void clip_units(void *arg, struct share *share) {
    const struct clipping *o = arg;
    enum { VECTORS = CLIP_LANES / LANES };
    const size_t n_groups = (size_t)o->w->cols / GROUP;
    float *d = scratch_of(o->e, share), largest[WORD_ROWS], errors[CLIP_LANES];
    for (int unit, last; threads_take(share, &unit, &last);)
        for (; unit < last; unit++) {
            const size_t g = (size_t)unit % n_groups, first = (size_t)unit / n_groups * WORD_ROWS;
            const float *gram = o->gram + g * GROUP * GROUP;
            vf sum[VECTORS] = {{0}};
            clip_errors(d, largest, o, first, g);
            for (int i = 0; i < GROUP; i++) {
                vf y[VECTORS] = {{0}};
                for (int j = 0; j < GROUP; j++)
                    for (int l = 0; l < VECTORS; l++)
                        y[l] = vf_fma(vf_set1(gram[i * GROUP + j]), vf_load(d + j * CLIP_LANES + l * LANES), y[l]);
                for (int l = 0; l < VECTORS; l++) sum[l] = vf_fma(vf_load(d + i * CLIP_LANES + l * LANES), y[l], sum[l]);
            }
            for (int l = 0; l < VECTORS; l++) vf_store(errors + l * LANES, sum[l]);
            for (size_t r = 0; r < WORD_ROWS; r++) {
                int best = 0;
                for (int i = 1; i < AWQ_CLIPS; i++)
                    if (errors[r * AWQ_CLIPS + (size_t)i] < errors[r * AWQ_CLIPS + (size_t)best]) best = i;
                o->limit[(first + r) * n_groups + g] = limit_of(largest[r], best);
            }
        }
}

void CPU(awq_clip)(struct exec *e, float *limit, const float *gram, const struct matrix *w, const float *s) {
    struct clipping o = {.e = e, .limit = limit, .gram = gram, .w = w, .s = s};
    parallel(e, w->rows / WORD_ROWS * (w->cols / GROUP), 1, clip_units, &o);
}

/* ---- sums over activations --------------------------------------------------------------------------------------- */

struct sums {
    struct exec *e;
    float *sums;
    const char *a, *b;
    int T, C;
};

/* Unit u is columns GRAM_COLUMNS (u % 8) .. of group u / 8. */
static void gram_units(void *arg, struct share *share) {
    const struct sums *o = arg;
    enum { UNITS = GROUP / GRAM_COLUMNS, VECTORS = GROUP / LANES };
    const enum dtype act = o->e->options.dtype;
    const size_t C = (size_t)o->C, bytes = dtype_bytes(act);
    float *x = scratch_of(o->e, share);
    for (int unit, last; threads_take(share, &unit, &last);)
        for (; unit < last; unit++) {
            const size_t g = (size_t)unit / UNITS, first = (size_t)unit % UNITS * GRAM_COLUMNS;
            float *gram = o->sums + (g * GROUP + first) * GROUP;
            for (int t0 = 0; t0 < o->T; t0 += GRAM_ROWS) {
                const int n = o->T - t0 < GRAM_ROWS ? o->T - t0 : GRAM_ROWS;
                for (int t = 0; t < n; t++)
                    widen_group(x + t * GROUP, o->a + ((size_t)(t0 + t) * C + g * GROUP) * bytes, act);
                for (int i = 0; i < GRAM_COLUMNS; i++) {
                    vf y[VECTORS];
                    for (int l = 0; l < VECTORS; l++) y[l] = vf_load(gram + i * GROUP + l * LANES);
                    for (int t = 0; t < n; t++) {
                        const vf xi = vf_set1(x[t * GROUP + (int)first + i]);
                        for (int l = 0; l < VECTORS; l++) y[l] = vf_fma(xi, vf_load(x + t * GROUP + l * LANES), y[l]);
                    }
                    for (int l = 0; l < VECTORS; l++) vf_store(gram + i * GROUP + l * LANES, y[l]);
                }
            }
        }
}

void CPU(gram_add)(struct exec *e, float *gram, const void *x, int T, int C) {
    struct sums o = {.e = e, .sums = gram, .a = x, .T = T, .C = C};
    parallel(e, C / GRAM_COLUMNS, 1, gram_units, &o);
}

static void column_units(void *arg, struct share *share) {
    const struct sums *o = arg;
    const enum dtype act = o->e->options.dtype;
    const size_t C = (size_t)o->C, bytes = dtype_bytes(act);
    float x[SUM_COLUMNS];
    for (int unit, last; threads_take(share, &unit, &last);)
        for (; unit < last; unit++) {
            const size_t first = (size_t)unit * SUM_COLUMNS, n = C - first < SUM_COLUMNS ? C - first : SUM_COLUMNS;
            for (int t = 0; t < o->T; t++) {
                row_widen(x, o->a + ((size_t)t * C + first) * bytes, n, act);
                for (size_t i = 0; i < n; i++) o->sums[first + i] += fabsf(x[i]);
            }
        }
}

void CPU(column_abs_add)(struct exec *e, float *sums, const void *x, int T, int C) {
    struct sums o = {.e = e, .sums = sums, .a = x, .T = T, .C = C};
    parallel(e, (C + SUM_COLUMNS - 1) / SUM_COLUMNS, 1, column_units, &o);
}

static void distance_rows(void *arg, struct share *share) {
    const struct sums *o = arg;
    const enum dtype act = o->e->options.dtype;
    const size_t C = (size_t)o->C, bytes = dtype_bytes(act), padded = round_up(C, 4 * LANES);
    float *a = scratch_of(o->e, share), *b = a + ROW_FLOATS(C);
    memset(a, 0, 2 * ROW_FLOATS(C) * sizeof *a); /* what lies behind a row, and b where there is none */
    for (int t, last; threads_take(share, &t, &last);)
        for (; t < last; t++) {
            vf sum[4] = {{0}};
            row_widen(a, o->a + (size_t)t * C * bytes, C, act);
            if (o->b) row_widen(b, o->b + (size_t)t * C * bytes, C, act);
            for (size_t i = 0; i < padded; i += 4 * LANES)
                for (size_t j = 0; j < 4; j++) {
                    const vf d = vf_load(a + i + j * LANES) - vf_load(b + i + j * LANES);
                    sum[j] = vf_fma(d, d, sum[j]);
                }
            o->sums[t] += vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
        }
}

void CPU(row_distance_add)(struct exec *e, float *sums, const void *a, const void *b, int T, int C) {
    struct sums o = {.e = e, .sums = sums, .a = a, .b = b, .T = T, .C = C};
    parallel(e, T, rows_per_part(2 * C), distance_rows, &o);
}
