/* index.h - one collection in memory: the rows of dense.h and lexical.h, what document each belongs to, and the log of
 * changes followed up to `seq`. search.c owns all of them; nobody else calls this.
 *
 * Rows are only added; what was deleted is no longer `live` and is dropped when a quarter of the rows is dead. A
 * chunk's rank never depends on the order of rows: equal scores are ordered by chunk id. */
#pragma once

#include "rag/dense.h"
#include "rag/filter.h"
#include "rag/lexical.h"
#include "rag/store.h"

struct index_document {
    int64_t id;
    uint32_t first_row, n_rows;
    bool live;
    struct attributes attributes; /* in the index's arena */
};

struct index {
    int64_t collection;
    char tenant[STORE_MAX_TENANT + 1];
    int64_t seq;   /* the last change that is in here */
    uint64_t used; /* search.c's clock, for the least recently used */

    uint32_t n_rows, n_dead;
    uint64_t *live;        /* owned: bit i % 64 of word i / 64 */
    uint64_t *has_vector;  /* owned, likewise */
    int64_t *chunks;       /* owned [n_rows]: ids */
    uint32_t *document_of; /* owned [n_rows]: into documents */
    size_t bits_capacity[2], chunks_capacity, document_of_capacity;

    struct index_document *documents; /* owned */
    size_t n_documents, documents_capacity;
    uint32_t *table; /* owned [table_size]: documents by id, UINT32_MAX where empty; the last of an id counts */
    size_t table_size;
    struct arena arena; /* attributes */

    struct dense *dense;     /* owned; NULL: the store has no vectors */
    struct lexical *lexical; /* owned */
};

/* Loads a collection. STATUS_NOT_FOUND where the tenant has none of that id. */
int index_open(struct index **out, struct store *store, struct exec *e, struct analyser *a, const char *tenant,
               int64_t collection, char *err, size_t err_bytes);
void index_close(struct index *x); /* NULL is fine */
/* Brings it up to date. After an error it is good for index_close alone. STATUS_TOO_LARGE: it was too far behind, so
 * open it anew; STATUS_NOT_FOUND: the collection is gone. */
int index_follow(struct index *x, struct store *store, struct analyser *a, char *err, size_t err_bytes);
size_t index_bytes(const struct index *x); /* of memory, device and host, about */

static inline bool index_bit(const uint64_t *bits, uint32_t row) {
    return bits[row / 64] >> (row % 64) & 1;
}
