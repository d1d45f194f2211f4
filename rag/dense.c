/* dense.c - segments of rows; what is uploaded goes through a staging buffer of whole rows. */
#include "rag/dense.h"

#include "rag/arena.h"

#include <stdlib.h>
#include <string.h>

enum {
    FIRST_ROWS = 1024, /* of the first segment, and STAGED rows at a time */
    MOST_ROWS = 65536, /* of a segment: 100 MB at 768 numbers, so that little lies idle */
    STAGED = 256,
    WIDTH = 64, /* rows are padded with zeros to a multiple: whole vectors on every processor */
};

struct segment {
    uint16_t *rows; /* owned by the exec: [capacity, C] f16 */
    uint32_t first, n, capacity;
};

struct dense {
    struct exec *e; /* borrowed */
    int dim, C;
    uint32_t n;
    struct segment *segments; /* owned */
    size_t n_segments, segments_capacity;
    uint16_t *staging;        /* owned, host: [STAGED, C] */
    uint16_t *query;          /* owned by the exec: [C] */
    uint16_t *picked;         /* likewise: [STAGED, C] */
    int32_t *picks;           /* likewise: [STAGED] */
    float *scores;            /* likewise: [scores_capacity] */
    uint32_t scores_capacity; /* grows with the segments */
};

int dense_exec_open(struct exec **out, const char *backend, int n_threads, int max_dim, char *err, size_t err_bytes) {
    const int width = (max_dim + WIDTH - 1) / WIDTH * WIDTH;
    const struct exec_options options = {.backend = backend,
                                         .dtype = DTYPE_F16,
                                         .n_threads = n_threads,
                                         .max_tokens = STAGED,
                                         .max_rows = 1,
                                         .max_width = width,
                                         .max_kv_len = 1,
                                         .max_heads = 1,
                                         .max_head_dim = WIDTH,
                                         .vocab = MOST_ROWS};
    return exec_open(out, &options, err, err_bytes);
}

struct dense *dense_open(struct exec *e, int dim) {
    CHECK_LT(0, dim);
    struct dense *d = calloc(1, sizeof *d);
    CHECK(d);
    d->e = e;
    d->dim = dim;
    d->C = (dim + WIDTH - 1) / WIDTH * WIDTH;
    d->staging = calloc((size_t)STAGED * (size_t)d->C, sizeof *d->staging);
    CHECK(d->staging);
    return d;
}

void dense_close(struct dense *d) {
    if (!d) return;
    for (size_t i = 0; i < d->n_segments; i++) exec_free(d->e, d->segments[i].rows);
    exec_free(d->e, d->query);
    exec_free(d->e, d->picked);
    exec_free(d->e, d->picks);
    exec_free(d->e, d->scores);
    free(d->segments);
    free(d->staging);
    free(d);
}

void dense_use(struct dense *d, struct exec *e) {
    d->e = e;
}

uint32_t dense_rows(const struct dense *d) {
    return d->n;
}

size_t dense_bytes(const struct dense *d) {
    size_t rows = 0;
    for (size_t i = 0; i < d->n_segments; i++) rows += d->segments[i].capacity;
    return rows * (size_t)d->C * sizeof(uint16_t) + d->scores_capacity * sizeof(float);
}

static int no_memory(const struct dense *d, size_t bytes, char *err, size_t err_bytes) {
    return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for %zu more bytes of vectors beside %zu on %s", bytes,
                dense_bytes(d), exec_backend(d->e));
}

/* The last segment, with room for a row. */
static int make_room(struct dense *d, char *err, size_t err_bytes) {
    struct segment *last = d->n_segments ? &d->segments[d->n_segments - 1] : NULL;
    if (last && last->n < last->capacity) return 0;
    struct segment s = {.first = d->n, .capacity = d->n < FIRST_ROWS ? FIRST_ROWS : d->n};
    if (s.capacity > MOST_ROWS) s.capacity = MOST_ROWS;
    if (!d->query) {
        d->query = exec_alloc(d->e, (size_t)d->C * sizeof *d->query);
        d->picked = exec_alloc(d->e, (size_t)STAGED * (size_t)d->C * sizeof *d->picked);
        d->picks = exec_alloc(d->e, STAGED * sizeof *d->picks);
    }
    const size_t bytes = (size_t)s.capacity * (size_t)d->C * sizeof *s.rows;
    if (!d->query || !d->picked || !d->picks) return no_memory(d, bytes, err, err_bytes);
    const uint32_t n_scores = s.first + s.capacity;
    if (n_scores > d->scores_capacity) {
        exec_free(d->e, d->scores);
        d->scores_capacity = 0;
        d->scores = exec_alloc(d->e, (size_t)n_scores * sizeof *d->scores);
        if (!d->scores) return no_memory(d, n_scores * sizeof *d->scores, err, err_bytes);
        d->scores_capacity = n_scores;
    }
    s.rows = exec_alloc(d->e, bytes);
    if (!s.rows) return no_memory(d, bytes, err, err_bytes);
    d->segments = array_reserve(d->segments, &d->segments_capacity, d->n_segments + 1, sizeof *d->segments);
    d->segments[d->n_segments++] = s;
    return 0;
}

/* staging [k, C] = rows in f16. */
static void stage(struct dense *d, const float *const *rows, size_t k) {
    for (size_t i = 0; i < k; i++) {
        uint16_t *to = d->staging + i * (size_t)d->C;
        if (!rows[i]) memset(to, 0, (size_t)d->C * sizeof *to);
        for (int j = 0; rows[i] && j < d->dim; j++) to[j] = f16_from_f32(rows[i][j]);
    }
}

int dense_add(struct dense *d, const float *const *rows, size_t n, char *err, size_t err_bytes) {
    for (size_t i = 0; i < n;) {
        int status = make_room(d, err, err_bytes);
        if (status) return status;
        struct segment *last = &d->segments[d->n_segments - 1];
        size_t k = last->capacity - last->n;
        if (k > n - i) k = n - i;
        if (k > STAGED) k = STAGED;
        stage(d, rows + i, k);
        exec_upload(d->e, last->rows + (size_t)last->n * (size_t)d->C, d->staging,
                    k * (size_t)d->C * sizeof *d->staging);
        last->n += (uint32_t)k;
        d->n += (uint32_t)k;
        i += k;
    }
    return exec_finish(d->e, err, err_bytes);
}

static struct matrix matrix_of(const struct dense *d, const struct segment *s) {
    return (struct matrix){
        .format = MATRIX_DENSE, .dtype = DTYPE_F16, .rows = (int)s->n, .cols = d->C, .data = s->rows};
}

/* out [k, C], on the device: rows of one segment, by their numbers within it. A row is looked up as a token's embedding
 * is. */
static void pick(struct dense *d, uint16_t *out, const struct segment *s, const int32_t *rows, size_t k) {
    const struct matrix table = matrix_of(d, s);
    exec_upload(d->e, d->picks, rows, k * sizeof *rows);
    embed(d->e, out, d->picks, NULL, &table, (int)k);
}

int dense_compact(struct dense *d, const uint64_t *live, char *err, size_t err_bytes) {
    int32_t rows[STAGED];
    struct dense *to = dense_open(d->e, d->dim);
    int status = 0;
    for (size_t i = 0; i < d->n_segments && !status; i++) {
        const struct segment *s = &d->segments[i];
        for (uint32_t row = 0; row < s->n && !status;) {
            status = make_room(to, err, err_bytes);
            if (status) break;
            struct segment *last = &to->segments[to->n_segments - 1];
            const uint32_t room = last->capacity - last->n;
            size_t k = 0;
            for (; row < s->n && k < STAGED && k < room; row++) {
                const uint32_t at = s->first + row;
                if (live[at / 64] >> (at % 64) & 1) rows[k++] = (int32_t)row;
            }
            if (k) pick(d, last->rows + (size_t)last->n * (size_t)d->C, s, rows, k);
            last->n += (uint32_t)k;
            to->n += (uint32_t)k;
        }
    }
    if (!status) status = exec_finish(d->e, err, err_bytes);
    if (status) {
        dense_close(to);
        return status;
    }
    const struct dense old = *d;
    *d = *to;
    *to = old;
    dense_close(to);
    return 0;
}

int dense_score(struct dense *d, float *scores, const float *query, char *err, size_t err_bytes) {
    if (!d->n) return 0;
    stage(d, &query, 1);
    exec_upload(d->e, d->query, d->staging, (size_t)d->C * sizeof *d->query);
    for (size_t i = 0; i < d->n_segments; i++) {
        const struct segment *s = &d->segments[i];
        if (!s->n) continue;
        const struct matrix w = matrix_of(d, s);
        linear_f32(d->e, d->scores + s->first, d->query, &w, 1);
    }
    exec_download(d->e, scores, d->scores, (size_t)d->n * sizeof *scores);
    return exec_finish(d->e, err, err_bytes);
}

int dense_gather(struct dense *d, float *out, const uint32_t *rows, size_t n, char *err, size_t err_bytes) {
    for (size_t first = 0; first < n; first += STAGED) {
        const size_t n_now = n - first < STAGED ? n - first : STAGED;
        size_t slot_of[STAGED], slot = 0; /* rows go to slots by segment, so that one op takes all of a segment */
        for (size_t i = 0; i < d->n_segments; i++) {
            const struct segment *s = &d->segments[i];
            int32_t picks[STAGED];
            size_t k = 0;
            for (size_t j = 0; j < n_now; j++) {
                const uint32_t row = rows[first + j];
                CHECK_LT(row, d->n);
                if (row < s->first || row >= s->first + s->n) continue;
                slot_of[j] = slot + k;
                picks[k++] = (int32_t)(row - s->first);
            }
            if (k) pick(d, d->picked + slot * (size_t)d->C, s, picks, k);
            slot += k;
        }
        exec_download(d->e, d->staging, d->picked, n_now * (size_t)d->C * sizeof *d->staging);
        for (size_t j = 0; j < n_now; j++)
            for (size_t c = 0; c < (size_t)d->dim; c++)
                out[(first + j) * (size_t)d->dim + c] = f32_from_f16(d->staging[slot_of[j] * (size_t)d->C + c]);
    }
    return exec_finish(d->e, err, err_bytes);
}
