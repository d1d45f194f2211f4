/* lexical.h - BM25 over rows of text, in memory.
 *
 *     score(q, d) = sum over terms t of q of  idf(t) tf (k1 + 1) / (tf + k1 (1 - b + b |d| / avg))
 *     idf(t) = ln(1 + (N - df + 1/2) / (df + 1/2))           as in Lucene: never negative
 *
 * Rows are numbered 0, 1, ... as they are added; which of them still count is the caller's bitmap `live`, and N, df and
 * avg are those of live rows, so a score does not depend on what was deleted before. A row has a text and a context
 * (its headings), whose terms count CONTEXT_WEIGHT times. Sums have a fixed order: equal rows get equal bits.
 *
 * Why not FTS5's own index: PostgreSQL has no BM25, and one index for both gives one ranking. FTS5's statistics span
 * all tenants. And a posting here is four bytes and an addition: see rag/README.md for times. */
#pragma once

#include "rag/terms.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LEXICAL_MAX_TERMS = 256 /* distinct ones of a question; those behind are ignored */ };
#define LEXICAL_K1 1.2
#define LEXICAL_B  0.75

struct lexical; /* owned */

struct lexical *lexical_open(void);
void lexical_close(struct lexical *l); /* NULL is fine */
/* Adds row number lexical_rows(l). context may be NULL. */
void lexical_add(struct lexical *l, struct analyser *a, const char *text, const char *context);
uint32_t lexical_rows(const struct lexical *l);
size_t lexical_bytes(const struct lexical *l); /* of memory, about */
/* Keeps the rows of live: row i becomes the number of live rows before it. */
void lexical_compact(struct lexical *l, const uint64_t *live);

struct lexical_query {
    int n;
    struct lexical_term {
        uint32_t term; /* UINT32_MAX: in no row */
        uint32_t df;   /* live rows with it */
        float idf;     /* times how often the question has it */
    } terms[LEXICAL_MAX_TERMS];
    float idf; /* of all terms together */
    float n_live, average;
};
/* live: bit i of word i / 64; all_live says that every bit is set, which saves looking. Stop words are left out unless
 * there is nothing else. */
void lexical_prepare(struct lexical_query *q, const struct lexical *l, struct analyser *a, const char *text,
                     const uint64_t *live, bool all_live);
/* scores [rows]: of every row, 0 where no term occurs. */
void lexical_score(float *scores, const struct lexical_query *q, const struct lexical *l);
/* Share of q->idf whose terms occur in the row: 0..1. */
float lexical_coverage(const struct lexical_query *q, const struct lexical *l, uint32_t row);
