/* search.c - candidates of both lists, fusion, and the choice among them. */
#include "rag/search.h"

#include "rag/index.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_DEPTH = 100, RRF_K = 60, AGREEMENT_DEPTH = 10 };

struct search {
    struct search_options options;
    /* Loading has an exec and an analyser of its own, so that a large collection does not keep the others waiting.
     * Whoever takes both locks takes `loading` first. */
    pthread_mutex_t lock, loading;
    struct exec *e, *load_e;     /* owned; vectors of up to STORE_MAX_DIM */
    struct analyser *a, *load_a; /* owned */
    struct index **all;          /* owned [n] */
    size_t n, capacity;
    uint64_t clock;
    float *scores[2];   /* owned [n_scores]: dense, lexical */
    uint64_t *allowed;  /* owned [n_scores / 64 + 1] */
    size_t n_scores[3]; /* capacities */
};

int search_open(struct search **out, const struct search_options *options, char *err, size_t err_bytes) {
    struct search *s = *out = calloc(1, sizeof *s);
    CHECK(s);
    s->options = *options;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->loading, NULL);
    int status = analyser_open(&s->a, err, err_bytes);
    if (!status) status = analyser_open(&s->load_a, err, err_bytes);
    if (!status) status = dense_exec_open(&s->load_e, options->backend, 1, STORE_MAX_DIM, err, err_bytes);
    if (!status) status = dense_exec_open(&s->e, options->backend, options->n_threads, STORE_MAX_DIM, err, err_bytes);
    if (status) {
        search_close(s);
        *out = NULL;
    }
    return status;
}

void search_close(struct search *s) {
    if (!s) return;
    for (size_t i = 0; i < s->n; i++) index_close(s->all[i]);
    exec_close(s->load_e);
    exec_close(s->e);
    analyser_close(s->load_a);
    analyser_close(s->a);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->loading);
    free(s->all);
    free(s->scores[0]);
    free(s->scores[1]);
    free(s->allowed);
    free(s);
}

const char *search_backend(const struct search *s) {
    return exec_backend(s->e);
}

struct search_request search_default_request(void) {
    return (struct search_request){.n_results = 10, .fusion = FUSION_MIN_MAX, .dense_weight = 0.6f};
}

void search_result_deinit(struct search_result *result) {
    free(result->hits);
    *result = (struct search_result){0};
}

/* ---- which index ------------------------------------------------------------------------------------------------- */

static void forget(struct search *s, size_t i) {
    index_close(s->all[i]);
    s->all[i] = s->all[--s->n];
}

/* Closes the least recently used until the rest fits, but never x. */
static void make_room(struct search *s, const struct index *x) {
    while (s->options.memory_bytes) {
        size_t bytes = 0, oldest = s->n;
        for (size_t i = 0; i < s->n; i++) {
            bytes += index_bytes(s->all[i]);
            if (s->all[i] != x && (oldest == s->n || s->all[i]->used < s->all[oldest]->used)) oldest = i;
        }
        if (bytes <= s->options.memory_bytes || oldest == s->n) return;
        forget(s, oldest);
    }
}

static struct index *find(const struct search *s, const char *tenant, int64_t collection, size_t *at) {
    for (*at = 0; *at < s->n; ++*at)
        if (s->all[*at]->collection == collection && !strcmp(s->all[*at]->tenant, tenant)) return s->all[*at];
    return NULL;
}

/* Loads a collection that is not there. Takes both locks; others search meanwhile. */
static int load(struct search *s, struct store *store, const char *tenant, int64_t collection, char *err,
                size_t err_bytes) {
    struct index *x = NULL;
    size_t at;
    pthread_mutex_lock(&s->loading);
    pthread_mutex_lock(&s->lock);
    const bool there = find(s, tenant, collection, &at); /* somebody else has just loaded it */
    pthread_mutex_unlock(&s->lock);
    int status = there ? 0 : index_open(&x, store, s->load_e, s->load_a, tenant, collection, err, err_bytes);
    if (!status && x) {
        status = index_follow(x, store, s->load_a, err, err_bytes); /* what changed while it loaded */
        if (!status && x->dense) dense_use(x->dense, s->e);
    }
    if (status) {
        index_close(x);
    } else if (x) {
        pthread_mutex_lock(&s->lock);
        s->all = array_reserve(s->all, &s->capacity, s->n + 1, sizeof *s->all);
        s->all[s->n++] = x;
        x->used = ++s->clock;
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_unlock(&s->loading);
    return status;
}

/* The collection's index, up to date; one that cannot follow is loaded anew. `lock` is held, and let go while loading.
 * Each try finds what the one before has loaded, unless others push it out or away at once. */
static int up_to_date(struct search *s, struct store *store, const char *tenant, int64_t collection, struct index **out,
                      char *err, size_t err_bytes) {
    enum { TRIES = 10 };
    for (int i = 0; i < TRIES; i++) {
        size_t at;
        struct index *x = find(s, tenant, collection, &at);
        int status = STATUS_TOO_LARGE;
        if (x && (x->dense || !store_dim(store))) status = index_follow(x, store, s->a, err, err_bytes);
        if (!status) {
            x->used = ++s->clock;
            make_room(s, x);
            *out = x;
            return 0;
        }
        if (x) forget(s, at);
        if (status != STATUS_TOO_LARGE) return status;
        pthread_mutex_unlock(&s->lock);
        status = load(s, store, tenant, collection, err, err_bytes);
        pthread_mutex_lock(&s->lock);
        if (status) return status;
    }
    return fail(err, err_bytes, STATUS_BUSY, "collection %llx changes faster than it can be loaded",
                (long long)collection);
}

int search_load(struct search *s, struct store *store, const char *tenant, int64_t collection, char *err,
                size_t err_bytes) {
    struct index *x;
    pthread_mutex_lock(&s->lock);
    int status = up_to_date(s, store, tenant, collection, &x, err, err_bytes);
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* ---- the best of a list ------------------------------------------------------------------------------------------ */

struct scored {
    float score;
    uint32_t row;
};

/* Whether a comes before b. Of equal scores the chunk that was stored first. */
static bool before(const struct index *x, struct scored a, struct scored b) {
    if (a.score != b.score) return a.score > b.score;
    return x->chunks[a.row] < x->chunks[b.row];
}

/* heap[0] is the last of those kept. */
static void sink(const struct index *x, struct scored *heap, int n, int i) {
    for (;;) {
        int child = 2 * i + 1;
        if (child >= n) return;
        if (child + 1 < n && before(x, heap[child], heap[child + 1])) child++;
        if (before(x, heap[child], heap[i])) return;
        const struct scored t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
        i = child;
    }
}

/* best [k]: the first k rows of `allowed` by score, in order; those at or below `floor` do not count. Returns how many.
 * One pass: nearly every score fails the first comparison. */
static int top(struct scored *best, int k, const struct index *x, const float *scores, const uint64_t *allowed,
               const uint64_t *also, float floor) {
    int n = 0;
    for (uint32_t word = 0; word * 64 < x->n_rows; word++) {
        uint64_t bits = allowed[word] & (also ? also[word] : ~(uint64_t)0);
        while (bits) {
            const uint32_t row = word * 64 + (uint32_t)__builtin_ctzll(bits);
            const struct scored one = {scores[row], row};
            bits &= bits - 1;
            if (!(one.score > floor)) continue;
            if (n < k) {
                best[n++] = one;
                if (n == k)
                    for (int i = k / 2 - 1; i >= 0; i--) sink(x, best, k, i);
            } else if (one.score >= best[0].score && before(x, one, best[0])) {
                best[0] = one;
                sink(x, best, k, 0);
            }
        }
    }
    if (n < k)
        for (int i = n / 2 - 1; i >= 0; i--) sink(x, best, n, i);
    for (int i = n - 1; i > 0; i--) { /* the last one to the end, again and again */
        const struct scored t = best[0];
        best[0] = best[i];
        best[i] = t;
        sink(x, best, i, 0);
    }
    return n;
}

/* ---- candidates -------------------------------------------------------------------------------------------------- */

struct candidate {
    uint32_t row;
    int64_t chunk;
    float dense, lexical, score;
    int dense_rank, lexical_rank;
};

struct run { /* one call */
    struct search *s;
    const struct index *x;
    const struct search_request *r;
    struct lexical_query question;
    struct scored *dense, *lexical; /* owned [depth] */
    int n_dense, n_lexical, depth;
    struct candidate *candidates; /* owned [2 depth] */
    int n, dim;
    int64_t n_allowed;
};

static int check_request(const struct search_request *r, int dim, char *err, size_t err_bytes) {
    if (!r->text && !r->vector)
        return fail(err, err_bytes, STATUS_INVALID, "expected a question's words, vector, or both");
    if (r->vector && !dim) return fail(err, err_bytes, STATUS_INVALID, "the store has no vectors: search by words");
    if (r->text && strlen(r->text) > SEARCH_MAX_TEXT)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "expected a question of at most %d bytes, found %zu",
                    SEARCH_MAX_TEXT, strlen(r->text));
    if (r->n_results < 1 || r->n_results > SEARCH_MAX_RESULTS)
        return fail(err, err_bytes, STATUS_INVALID, "expected 1 to %d results, found %d", SEARCH_MAX_RESULTS,
                    r->n_results);
    if (r->depth < 0 || r->depth > SEARCH_MAX_DEPTH)
        return fail(err, err_bytes, STATUS_INVALID, "expected a depth of 1 to %d, found %d", SEARCH_MAX_DEPTH,
                    r->depth);
    if (!(r->dense_weight >= 0 && r->dense_weight <= 1))
        return fail(err, err_bytes, STATUS_INVALID, "expected a weight of 0 to 1, found %g", (double)r->dense_weight);
    if (!(r->diversity >= 0 && r->diversity <= 1))
        return fail(err, err_bytes, STATUS_INVALID, "expected a diversity of 0 to 1, found %g", (double)r->diversity);
    for (int i = 0; r->vector && i < dim; i++)
        if (!isfinite(r->vector[i])) return fail(err, err_bytes, STATUS_INVALID, "the question's vector is not finite");
    return 0;
}

/* allowed = live rows of documents that pass. */
static void filter_rows(struct run *run) {
    struct search *s = run->s;
    const struct index *x = run->x;
    const size_t n_words = (size_t)x->n_rows / 64 + 1, used = ((size_t)x->n_rows + 63) / 64;
    s->allowed = array_reserve(s->allowed, &s->n_scores[2], n_words, sizeof *s->allowed);
    if (used) memcpy(s->allowed, x->live, used * sizeof *s->allowed);
    for (size_t i = 0; run->r->filter && i < x->n_documents; i++) {
        const struct index_document *d = &x->documents[i];
        if (!d->live || filter_pass(run->r->filter, &d->attributes)) continue;
        for (uint32_t j = 0; j < d->n_rows; j++) {
            const uint32_t row = d->first_row + j;
            s->allowed[row / 64] &= ~((uint64_t)1 << (row % 64));
        }
    }
    for (size_t i = 0; i < used; i++) run->n_allowed += __builtin_popcountll(s->allowed[i]);
}

static int score(struct run *run, char *err, size_t err_bytes) {
    struct search *s = run->s;
    const struct index *x = run->x;
    for (int i = 0; i < 2; i++)
        s->scores[i] = array_reserve(s->scores[i], &s->n_scores[i], (size_t)x->n_rows + 1, sizeof(float));
    if (run->r->vector) {
        int status = dense_score(x->dense, s->scores[0], run->r->vector, err, err_bytes);
        if (status) return status;
        run->n_dense = top(run->dense, run->depth, x, s->scores[0], s->allowed, x->has_vector, -INFINITY);
    }
    if (run->r->text) {
        lexical_prepare(&run->question, x->lexical, s->a, run->r->text, x->live, !x->n_dead);
        lexical_score(s->scores[1], &run->question, x->lexical);
        run->n_lexical = top(run->lexical, run->depth, x, s->scores[1], s->allowed, NULL, 0);
    }
    return 0;
}

static int by_row(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    return (x->row > y->row) - (x->row < y->row);
}

/* Both lists in one, each chunk once, with all it has. */
static void unite(struct run *run) {
    struct search *s = run->s;
    struct candidate *c = run->candidates;
    int n = 0;
    for (int i = 0; i < run->n_dense; i++) c[n++] = (struct candidate){.row = run->dense[i].row, .dense_rank = i + 1};
    for (int i = 0; i < run->n_lexical; i++)
        c[n++] = (struct candidate){.row = run->lexical[i].row, .lexical_rank = i + 1};
    qsort(c, (size_t)n, sizeof *c, by_row);
    for (int i = 0; i < n; i++) {
        struct candidate *last = run->n ? &c[run->n - 1] : NULL;
        if (last && last->row == c[i].row) {
            last->dense_rank += c[i].dense_rank;
            last->lexical_rank += c[i].lexical_rank;
        } else {
            c[run->n++] = c[i];
        }
    }
    for (int i = 0; i < run->n; i++) {
        c[i].chunk = run->x->chunks[c[i].row];
        c[i].dense = run->r->vector && index_bit(run->x->has_vector, c[i].row) ? s->scores[0][c[i].row] : 0;
        c[i].lexical = run->r->text ? s->scores[1][c[i].row] : 0;
    }
}

static int by_score(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return (x->chunk > y->chunk) - (x->chunk < y->chunk);
}

/* Gives each its score, and puts them in order. */
static void fuse(struct run *run) {
    const struct search_request *r = run->r;
    struct candidate *c = run->candidates;
    const float w = !r->text ? 1 : !r->vector ? 0 : r->dense_weight;
    float low = INFINITY, high = -INFINITY, most = 0;
    for (int i = 0; i < run->n; i++) {
        if (c[i].lexical > most) most = c[i].lexical;
        if (!r->vector || !index_bit(run->x->has_vector, c[i].row)) continue;
        if (c[i].dense < low) low = c[i].dense;
        if (c[i].dense > high) high = c[i].dense;
    }
    for (int i = 0; i < run->n; i++) {
        float dense = 0, lexical = 0;
        if (r->fusion == FUSION_RRF) {
            if (c[i].dense_rank) dense = 1.0f / (float)(RRF_K + c[i].dense_rank);
            if (c[i].lexical_rank) lexical = 1.0f / (float)(RRF_K + c[i].lexical_rank);
        } else {
            if (r->vector && index_bit(run->x->has_vector, c[i].row))
                dense = high > low ? (c[i].dense - low) / (high - low) : 1;
            if (most > 0) lexical = c[i].lexical / most;
        }
        c[i].score = w * dense + (1 - w) * lexical;
    }
    qsort(c, (size_t)run->n, sizeof *c, by_score);
}

/* ---- the choice -------------------------------------------------------------------------------------------------- */

static float cosine(const float *a, const float *b, int dim) {
    float ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < dim; i++) {
        ab += a[i] * b[i];
        aa += a[i] * a[i];
        bb += b[i] * b[i];
    }
    return aa > 0 && bb > 0 ? ab / sqrtf(aa * bb) : 0;
}

/* chosen [n_results]: candidates that are neither too like a better one nor, with diversity, outweighed by those
 * chosen. Looks at the first POOL candidates. */
static int choose_apart(struct run *run, int *chosen, int *n_chosen, char *err, size_t err_bytes) {
    enum { POOL = 1024 };
    const struct search_request *r = run->r;
    const struct candidate *c = run->candidates;
    const int n = run->n < POOL ? run->n : POOL, dim = run->dim;
    const float most = r->max_similarity > 0 ? r->max_similarity : INFINITY,
                best = n && c[0].score > 0 ? c[0].score : 1;
    uint32_t rows[POOL];
    float nearest[POOL]; /* of those chosen */
    bool gone[POOL] = {0};
    float *vectors = malloc(((size_t)n * (size_t)dim + 1) * sizeof *vectors);
    CHECK(vectors);
    for (int i = 0; i < n; i++) {
        rows[i] = c[i].row;
        nearest[i] = 0;
    }
    int status = dense_gather(run->x->dense, vectors, rows, (size_t)n, err, err_bytes);
    while (!status && *n_chosen < r->n_results) {
        int next = -1;
        float value = -INFINITY;
        for (int i = 0; i < n; i++) {
            const float v = (1 - r->diversity) * c[i].score / best - r->diversity * nearest[i];
            if (gone[i] || !(v > value)) continue;
            next = i;
            value = v;
        }
        if (next < 0) break;
        chosen[(*n_chosen)++] = next;
        gone[next] = true;
        for (int i = 0; i < n; i++) {
            if (gone[i]) continue;
            const float similar = cosine(vectors + (size_t)i * (size_t)dim, vectors + (size_t)next * (size_t)dim, dim);
            if (similar > nearest[i]) nearest[i] = similar;
            gone[i] = similar > most;
        }
    }
    free(vectors);
    return status;
}

static int choose(struct run *run, struct search_result *result, char *err, size_t err_bytes) {
    const struct search_request *r = run->r;
    int chosen[SEARCH_MAX_RESULTS], n = 0, status = 0;
    const bool apart = run->x->dense && (r->diversity > 0 || (r->max_similarity > 0 && r->max_similarity <= 1));
    if (apart)
        status = choose_apart(run, chosen, &n, err, err_bytes);
    else
        for (; n < run->n && n < r->n_results; n++) chosen[n] = n;
    if (status) return status;
    result->hits = calloc((size_t)n + 1, sizeof *result->hits);
    CHECK(result->hits);
    for (int i = 0; i < n; i++) {
        const struct candidate *c = &run->candidates[chosen[i]];
        result->hits[result->n++] = (struct search_hit){
            .chunk = c->chunk,
            .document = run->x->documents[run->x->document_of[c->row]].id,
            .score = c->score,
            .dense = c->dense,
            .lexical = c->lexical,
            .dense_rank = c->dense_rank,
            .lexical_rank = c->lexical_rank,
        };
    }
    if (n && r->text)
        result->features.coverage =
            (double)lexical_coverage(&run->question, run->x->lexical, run->candidates[chosen[0]].row);
    return 0;
}

/* ---- what a calibration looks at --------------------------------------------------------------------------------- */

static bool has_document(const struct index *x, const struct scored *list, int n, uint32_t document) {
    for (int i = 0; i < n; i++)
        if (x->document_of[list[i].row] == document) return true;
    return false;
}

/* Different documents among the first n of a list, and how many of them are among the first n_other of another. */
static int count_documents(const struct index *x, const struct scored *list, int n, const struct scored *other,
                           int n_other, int *both) {
    int different = 0;
    *both = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t document = x->document_of[list[i].row];
        if (has_document(x, list, i, document)) continue;
        different++;
        *both += has_document(x, other, n_other, document);
    }
    return different;
}

static void look(const struct run *run, struct confidence_features *f) {
    const struct index *x = run->x;
    const int n_dense = run->n_dense < AGREEMENT_DEPTH ? run->n_dense : AGREEMENT_DEPTH;
    const int n_lexical = run->n_lexical < AGREEMENT_DEPTH ? run->n_lexical : AGREEMENT_DEPTH;
    if (run->n_dense) {
        const uint32_t first = x->document_of[run->dense[0].row];
        int i = 1;
        while (i < run->n_dense && x->document_of[run->dense[i].row] == first) i++;
        f->dense_top = (double)run->dense[0].score;
        f->dense_margin = i < run->n_dense ? f->dense_top - (double)run->dense[i].score : f->dense_top;
    }
    if (run->n_lexical && run->question.idf > 0)
        f->lexical_top = (double)run->lexical[0].score / ((double)run->question.idf * (LEXICAL_K1 + 1));
    if (!run->n_dense || !run->n_lexical) return;
    int both, unused;
    const int a = count_documents(x, run->dense, n_dense, run->lexical, n_lexical, &both);
    const int b = count_documents(x, run->lexical, n_lexical, run->dense, n_dense, &unused);
    f->agreement = (double)both / (a > b ? a : b);
    f->same_top = x->document_of[run->dense[0].row] == x->document_of[run->lexical[0].row];
}

/* ---- a search ---------------------------------------------------------------------------------------------------- */

static int run_locked(struct search *s, struct store *store, const char *tenant, int64_t collection,
                      const struct search_request *r, struct search_result *result, char *err, size_t err_bytes) {
    struct index *x;
    int status = up_to_date(s, store, tenant, collection, &x, err, err_bytes);
    if (status) return status;
    struct run *run = calloc(1, sizeof *run);
    CHECK(run);
    *run = (struct run){.s = s, .x = x, .r = r, .dim = store_dim(store), .depth = r->depth ? r->depth : DEFAULT_DEPTH};
    if (run->depth < r->n_results) run->depth = r->n_results;
    run->dense = malloc((size_t)run->depth * sizeof *run->dense);
    run->lexical = malloc((size_t)run->depth * sizeof *run->lexical);
    run->candidates = malloc(2 * (size_t)run->depth * sizeof *run->candidates);
    CHECK(run->dense && run->lexical && run->candidates);
    filter_rows(run);
    status = score(run, err, err_bytes);
    if (!status) {
        unite(run);
        fuse(run);
        look(run, &result->features);
        result->n_searched = run->n_allowed;
        status = choose(run, result, err, err_bytes);
    }
    free(run->dense);
    free(run->lexical);
    free(run->candidates);
    free(run);
    return status;
}

int search_run(struct search *s, struct store *store, const char *tenant, int64_t collection,
               const struct search_request *request, struct search_result *result, char *err, size_t err_bytes) {
    search_result_deinit(result);
    int status = check_request(request, store_dim(store), err, err_bytes);
    if (status) return status;
    pthread_mutex_lock(&s->lock);
    status = run_locked(s, store, tenant, collection, request, result, err, err_bytes);
    pthread_mutex_unlock(&s->lock);
    if (status) search_result_deinit(result);
    return status;
}
