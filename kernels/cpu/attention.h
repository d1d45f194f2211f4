/* attention.h - private to attention*.c: a unit of attention's work, and a thread's scratch for it. */
#pragma once

#include "kernels/cpu/cpu.h"

enum {
    TILE_ROWS = 16, /* rows in the lanes of vectors, or in a tile of the matrix unit */
    UNIT_TILES = 8, /* of prefill: 128 rows share one preparation of K and V */
    SPLIT = 256,    /* positions: scores, K and V of a split stay in the L2 */
    N_VECTORS = TILE_ROWS / LANES,
    MAX_D = 256,
    FEW_ROWS = LANES / 2, /* up to here positions in the lanes are faster than rows */
};
#define LOG2_E 1.44269504f
_Static_assert(SPLIT % 64 == 0 && TILE_ROWS % LANES == 0, "tiles of positions fill a split, vectors fill a tile");

struct attention {
    struct exec *e;
    char *o;
    const char *q;
    const struct kv_cache *kv;
    int layer, H;
    size_t q_width;       /* elements of a row of q: H D, or more where k and v follow */
    const char *k_bias;   /* [K D], or NULL */
    const float *cos_sin; /* with a k_bias: [max_positions, D] */
    const struct batch *batch;
    const struct ragged *texts; /* bidirectional: instead of batch; kv then has the step's own rows, one a block */
};

/* One KV head of one sequence, and some of its rows (pairs of a token and a query head). */
struct unit {
    const struct attention *op;
    int b, k, group; /* sequence, KV head, H / K */
    int first_row, n_rows;
    int D, D_pad; /* D_pad: a multiple of 32 */
};

/* A thread's scratch; D is D_pad. In braces: what the matrix unit has there; attention_few.c says what it has. */
struct workspace {
    float *q;         /* [UNIT_TILES, D, TILE_ROWS] {packed pairs of bf16} */
    float *max, *sum; /* [UNIT_TILES, TILE_ROWS] */
    float *out;       /* [UNIT_TILES, D, TILE_ROWS] {one tile: [D / 16, TILE_ROWS, 16]} */
    float *split;     /* as one tile of out: the split's share of it */
    float *scores;    /* [SPLIT, TILE_ROWS], then probabilities */
    float *turned;    /* {[TILE_ROWS, SPLIT] scores} */
    void *p;          /* {probabilities in bf16, first rounded, then the rest: [2, SPLIT / 2, TILE_ROWS] pairs; one
                         tile: [2, TILE_ROWS, SPLIT]} */
    float *k, *v;     /* [SPLIT, D] {bf16; v as [D, SPLIT]; one tile: [SPLIT / 2, D] pairs} */
    /* Of the split's positions: rows of K and V in the cache, and what a score and a V are to be multiplied by. */
    const char **k_row, **v_row; /* [SPLIT] */
    float *k_scale, *v_scale;    /* [SPLIT]: of fp8, else 1; k_scale includes log2(e) / sqrt(D) */
    /* With a k_bias, whose share of a score is c . (cos p, sin p): */
    float *c;          /* [UNIT_TILES, D, TILE_ROWS], times log2(e) / sqrt(D) */
    float *bias_score; /* [SPLIT, TILE_ROWS] */
    float *key_scale;  /* [SPLIT]: what k_scale would be; that is 1, and scores have their factor already */
};

/* Row r of the unit: its token; where its q or o begins, in bytes, in rows of `width` elements. */
static inline const int32_t *starts(const struct attention *op) {
    return op->texts ? op->texts->start : op->batch->query_start;
}

static inline int row_token(const struct unit *u, int r) {
    return starts(u->op)[u->b] + (u->first_row + r) / u->group;
}

static inline size_t row_offset(const struct unit *u, int r, size_t width) {
    int h = u->k * u->group + (u->first_row + r) % u->group;
    return ((size_t)row_token(u, r) * width + (size_t)h * u->D) * dtype_bytes(u->op->e->options.dtype);
}

static inline const char *q_row(const struct unit *u, int r) { return u->op->q + row_offset(u, r, u->op->q_width); }
static inline char *o_row(const struct unit *u, int r) { return u->op->o + row_offset(u, r, (size_t)u->op->H * u->D); }

/* The last position that a row sees. */
static inline int row_last(const struct unit *u, int r) {
    if (u->op->texts) return u->op->texts->start[u->b + 1] - u->op->texts->start[u->b] - 1;
    return u->op->batch->positions[row_token(u, r)];
}

/* Rows of tile i; the last position that any of them sees. */
static inline int tile_rows(const struct unit *u, int i) {
    int n = u->n_rows - i * TILE_ROWS;
    return n < TILE_ROWS ? n : TILE_ROWS;
}

static inline int tile_last(const struct unit *u, int i) {
    return row_last(u, i * TILE_ROWS + tile_rows(u, i) - 1);
}

/* How many of the positions from `first` on each row of the tile sees (lanes without a row: as the last row). */
static inline void rows_see(const struct unit *u, int tile, int first, int32_t seen[TILE_ROWS]) {
    int rows = tile_rows(u, tile);
    for (int r = 0; r < TILE_ROWS; r++)
        seen[r] = row_last(u, tile * TILE_ROWS + (r < rows ? r : rows - 1)) + 1 - first;
}

static inline bool kv_is_fp8(const struct unit *u) { return u->op->kv->layout.dtype == DTYPE_F8_E4M3; }

/* n values of e4m3, exactly: the bits, as those of an fp32 with another bias, times 2^(127 - 7). */
static inline void row_widen_e4m3(float *out, const char *in, int n) {
    for (int i = 0; i < n; i++) {
        uint32_t h = (uint8_t)in[i], u = (h & 0x80) << 24 | (h & 0x7f) << 20;
        float f;
        memcpy(&f, &u, 4);
        out[i] = (h & 0x7f) == 0x7f ? NAN : f * 0x1p120f;
    }
}

/* The running (max, sum) of `rows` rows takes in the split's; outputs are then to become out * keep + split's * take. A
 * row that saw nothing of the split (max -inf) is left as it is. n vectors. */
INLINE void fold_state(float *m, float *l, const float *max, const float *sum, float *keep, float *take, int n) {
    for (int i = 0; i < n * LANES; i += LANES) {
        vf old = vf_load(m + i), add = vf_load(max + i), new = vf_max(old, add);
        vi none = add == -INFINITY;
        vf k = vf_select(none, vf_set1(1), vf_exp2(old - new)), t = vf_select(none, vf_set1(0), vf_exp2(add - new));
        vf_store(m + i, vf_select(none, old, new));
        vf_store(l + i, vf_fma(vf_load(l + i), k, vf_load(sum + i) * t));
        vf_store(keep + i, k);
        vf_store(take + i, t);
    }
}

/* ---- with a k_bias: attention.c ------------------------------------------------------------------------------------- */

/* Makes w->scores of tile `tile`, for n positions from `first` on, whole: times key_scale, plus the bias's share. */
void CPU(attention_add_bias)(const struct unit *u, struct workspace *w, int tile, int first, int n);

/* ---- attention_amx.c: units on the matrix unit -------------------------------------------------------------------- */

/* The positions' rows are in w->k_row, w->v_row; attention.c goes over the splits. */
void CPU(attention_amx_begin)(const struct unit *u, struct workspace *w);
void CPU(attention_amx_split)(const struct unit *u, struct workspace *w, int first, int n);
void CPU(attention_amx_end)(const struct unit *u, struct workspace *w);

/* ---- attention_few.c: units of up to FEW_ROWS rows, to the bit as attention.c has them ------------------------------ */

void CPU(attention_few_begin)(const struct unit *u, struct workspace *w);
void CPU(attention_few_split)(const struct unit *u, struct workspace *w, int first, int n);
void CPU(attention_few_end)(const struct unit *u, struct workspace *w);
