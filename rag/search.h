/* search.h - from a question to the chunks that may answer it: by meaning, by words, or both.
 *
 * A search is exact: every chunk of the collection is scored, by the inner product of vectors (dense.h) and by BM25
 * (lexical.h), from indexes in memory that follow the store. The best `depth` of either list are candidates; each has
 * both scores, and a fused one:
 *
 *     FUSION_MIN_MAX   w d' + (1 - w) l'      d' = (d - min d) / (max d - min d) over the candidates, l' = l / max l
 *     FUSION_RRF       w / (60 + rank by d) + (1 - w) / (60 + rank by l)         a list without the chunk adds nothing
 *
 * Then near-duplicates of better chunks are left out, or candidates are chosen by maximal marginal relevance.
 *
 * A search serves one store, through whatever connection a call brings, and any number of threads: calls take turns,
 * but none waits for a collection that another one loads.
 * Indexes are loaded when they are first asked for; beyond `memory_bytes` the least recently used give way. */
#pragma once

#include "rag/confidence.h"
#include "rag/filter.h"
#include "rag/store.h"

enum { SEARCH_MAX_RESULTS = 1000, SEARCH_MAX_DEPTH = 10000, SEARCH_MAX_TEXT = 65536 };

struct search; /* owned */

struct search_options {
    const char *backend; /* of the vectors: "cpu", "cuda", or NULL: the best there is */
    int n_threads;       /* CPU: 0 means one per usable core */
    size_t memory_bytes; /* for all indexes together; 0: no limit */
};
int search_open(struct search **out, const struct search_options *options, char *err, size_t err_bytes);
void search_close(struct search *s);                /* NULL is fine */
const char *search_backend(const struct search *s); /* for people */

enum fusion { FUSION_MIN_MAX, FUSION_RRF };

struct search_request {
    const char *text;            /* the question's words; NULL: search by meaning alone */
    const float *vector;         /* [dim] the question's embedding, of length 1; NULL: by words alone */
    const struct filter *filter; /* on documents; NULL: none */
    int n_results;               /* 1..SEARCH_MAX_RESULTS */
    int depth;                   /* candidates of each list; 0: 100, and never fewer than n_results */
    enum fusion fusion;
    float dense_weight;   /* w in 0..1 */
    float max_similarity; /* a chunk whose cosine with a better one is above is left out; 0 or above 1: none is */
    float diversity;      /* 0: by score. Else choose by (1 - x) score - x similarity to those chosen; at most 1 */
};
/* 10 results, min-max fusion, and the weight that rag/README.md gives the figures for. */
struct search_request search_default_request(void);

struct search_hit {
    int64_t chunk, document;
    float score;                  /* fused; min-max: 0..1 within this result, no confidence */
    float dense, lexical;         /* inner product, BM25; 0 where the list was not asked for */
    int dense_rank, lexical_rank; /* from 1; 0: not among the best `depth` */
};

struct search_result {
    struct search_hit *hits; /* owned */
    int n;
    int64_t n_searched;                  /* chunks that passed the filter */
    struct confidence_features features; /* of this result: see confidence.h */
};
void search_result_deinit(struct search_result *result);

/* result: zeroed or in use. STATUS_NOT_FOUND where the tenant has no such collection; STATUS_INVALID for a request out
 * of bounds, or neither text nor vector. */
int search_run(struct search *s, struct store *store, const char *tenant, int64_t collection,
               const struct search_request *request, struct search_result *result, char *err, size_t err_bytes);

/* Loads a collection now, so that the first question does not wait. */
int search_load(struct search *s, struct store *store, const char *tenant, int64_t collection, char *err,
                size_t err_bytes);

/* ---- around a chunk ---------------------------------------------------------------------------------------------- */

enum surroundings {
    NEIGHBOURS, /* chunks before and after it */
    SECTION,    /* those that stand under the same headings without a break: its parent */
};
/* The chunk and what surrounds it in its document, in order, as much as `max_bytes` of text hold: grown outward from
 * the chunk, after and before by turns; the chunk itself always. */
int search_around(struct store *store, const char *tenant, int64_t chunk, enum surroundings kind, size_t max_bytes,
                  struct store_chunks *out, char *err, size_t err_bytes);
