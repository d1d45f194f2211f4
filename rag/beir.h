/* beir.h - labelled questions over a corpus, in the form of BEIR's data sets, and the measures of their leaderboard.
 *
 * A folder holds corpus.jsonl ({"_id", "title", "text"} per line), the questions as queries.test.tsv (id, tab, text) or
 * queries.jsonl ({"_id", "text"}), and the judgements as qrels.test.txt (TREC: question 0 document grade) or
 * qrels/test.tsv (question, document, grade, under a header). Questions without a judgement are left out.
 *
 *     nDCG@k = DCG / ideal DCG       DCG = sum over ranks r = 1..k of grade(r) / log2(r + 1)
 *     recall@k = relevant documents among the first k / relevant documents */
#pragma once

#include "rag/arena.h"
#include "rag/store.h"

struct beir_document {
    const char *id, *title, *text;
};
struct beir_judgement {
    int document; /* into documents */
    int grade;    /* above 0 */
};
struct beir_query {
    const char *id, *text;
    int number; /* its line in the file of questions, from 0: vectors of all questions are in that order */
    struct beir_judgement *judgements; /* in the arena */
    int n_judgements;
};
struct beir {
    struct beir_document *documents;        /* owned */
    struct beir_query *queries;             /* owned */
    size_t n_documents, n_queries, n_lines; /* n_lines: questions in the file */
    struct arena arena;
};

int beir_open(struct beir *b, const char *folder, char *err, size_t err_bytes);
void beir_close(struct beir *b);

/* ranking: [n] documents, best first, each once. */
double beir_ndcg(const struct beir_query *q, const int *ranking, int n, int k);
double beir_recall(const struct beir_query *q, const int *ranking, int n, int k);

/* Puts all documents into a collection, one chunk each, the title as its context, named "PREFIX ID"; ids[i] is what
 * document i became. vectors: [n_documents, dim] or NULL. */
int beir_ingest(const struct beir *b, struct store *store, const char *tenant, int64_t collection, const char *prefix,
                const float *vectors, int64_t *ids, char *err, size_t err_bytes);
