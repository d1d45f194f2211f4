/* beir.c - reading the files, and the measures. */
#include "rag/beir.h"

#include "weights/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINE = 16 << 20, MAX_JUDGEMENTS = 1000 };

/* ---- files ------------------------------------------------------------------------------------------------------- */

static FILE *open_in(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return fopen(path, "re");
}

static int missing(const char *folder, const char *names, char *err, size_t err_bytes) {
    return fail(err, err_bytes, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s: expected %s: %s", folder, names,
                strerror(errno));
}

typedef int line_function(struct beir *b, char *line, size_t n, char *err, size_t err_bytes);

/* Calls `read` with each line that is not empty, without its end. Closes the file. */
static int each_line(struct beir *b, FILE *f, const char *what, line_function *read, char *err, size_t err_bytes) {
    char *line = NULL, why[ERR_BYTES];
    size_t capacity = 0;
    ssize_t n;
    int status = 0, number = 0;
    while (!status && (n = getline(&line, &capacity, f)) >= 0) {
        number++;
        while (n && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
        if (!n) continue;
        status = read(b, line, (size_t)n, why, sizeof why);
        if (status) fail(err, err_bytes, status, "%s, line %d: %.400s", what, number, why);
    }
    if (!status && ferror(f)) status = fail(err, err_bytes, STATUS_IO, "%s cannot be read", what);
    free(line);
    fclose(f);
    return status;
}

static int get(cJSON **json, const char **id, const char **title, const char **text, const char *line, size_t n,
               char *err, size_t err_bytes) {
    int status = json_parse(json, line, n, (struct json_limits){.max_bytes = MAX_LINE, .max_depth = 8}, err, err_bytes);
    if (!status) status = json_get_string(*json, "_id", id, err, err_bytes);
    if (!status) status = json_get_string(*json, "title", title, err, err_bytes);
    if (!status) status = json_get_string(*json, "text", text, err, err_bytes);
    if (!status && !(*id && *text))
        status = fail(err, err_bytes, STATUS_INVALID, "expected an object with _id and text");
    return status;
}

static char *keep(struct beir *b, const char *text) {
    return arena_text(&b->arena, text, strlen(text));
}

static int read_document(struct beir *b, char *line, size_t n, char *err, size_t err_bytes) {
    const char *id = NULL, *title = "", *text = NULL;
    cJSON *json = NULL;
    int status = get(&json, &id, &title, &text, line, n, err, err_bytes);
    if (!status) {
        if ((b->n_documents & (b->n_documents - 1)) == 0) {
            b->documents = realloc(b->documents, (2 * b->n_documents + 1) * sizeof *b->documents);
            CHECK(b->documents);
        }
        b->documents[b->n_documents++] = (struct beir_document){keep(b, id), keep(b, title), keep(b, text)};
    }
    cJSON_Delete(json);
    return status;
}

static void add_query(struct beir *b, const char *id, const char *text) {
    if ((b->n_queries & (b->n_queries - 1)) == 0) {
        b->queries = realloc(b->queries, (2 * b->n_queries + 1) * sizeof *b->queries);
        CHECK(b->queries);
    }
    b->queries[b->n_queries] =
        (struct beir_query){.id = keep(b, id), .text = keep(b, text), .number = (int)b->n_queries};
    b->n_queries++;
}

static int read_query_json(struct beir *b, char *line, size_t n, char *err, size_t err_bytes) {
    const char *id = NULL, *title = NULL, *text = NULL;
    cJSON *json = NULL;
    int status = get(&json, &id, &title, &text, line, n, err, err_bytes);
    if (!status) add_query(b, id, text);
    cJSON_Delete(json);
    return status;
}

static int read_query_tsv(struct beir *b, char *line, size_t n, char *err, size_t err_bytes) {
    char *tab = memchr(line, '\t', n);
    if (!tab) return fail(err, err_bytes, STATUS_INVALID, "expected an id, a tab and a question");
    *tab = 0;
    add_query(b, line, tab + 1);
    return 0;
}

static int query_by_id(const void *a, const void *b) {
    return strcmp(((const struct beir_query *)a)->id, ((const struct beir_query *)b)->id);
}

static int query_by_number(const void *a, const void *b) {
    return ((const struct beir_query *)a)->number - ((const struct beir_query *)b)->number;
}

/* Documents are looked up through this order, in which each name stands with its number. */
struct named {
    const char *id;
    int number;
};
static int by_name(const void *a, const void *b) {
    return strcmp(((const struct named *)a)->id, ((const struct named *)b)->id);
}

struct judging { /* queries are sorted by id meanwhile */
    struct beir *b;
    struct named *documents;
};

static int judge(struct judging *j, const char *query, const char *document, int grade, char *err, size_t err_bytes) {
    const struct beir_query query_key = {.id = query};
    const struct named document_key = {.id = document};
    struct beir_query *q = bsearch(&query_key, j->b->queries, j->b->n_queries, sizeof *q, query_by_id);
    const struct named *d = bsearch(&document_key, j->documents, j->b->n_documents, sizeof *d, by_name);
    if (!q || !d || grade <= 0) return 0; /* of another split, or a judgement that it is not relevant */
    if (q->n_judgements == MAX_JUDGEMENTS)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "expected at most %d judgements of a question", MAX_JUDGEMENTS);
    struct beir_judgement *more = arena_take(&j->b->arena, (size_t)(q->n_judgements + 1) * sizeof *more);
    if (q->n_judgements) memcpy(more, q->judgements, (size_t)q->n_judgements * sizeof *more);
    more[q->n_judgements] = (struct beir_judgement){d->number, grade};
    q->judgements = more;
    q->n_judgements++;
    return 0;
}

static int read_judgements(struct judging *j, FILE *f, bool trec, char *err, size_t err_bytes) {
    char line[1024], query[256], document[256];
    int grade, status = 0;
    for (int number = 1; !status && fgets(line, sizeof line, f); number++) {
        const int n = trec ? sscanf(line, "%255s %*s %255s %d", query, document, &grade)
                           : sscanf(line, "%255s %255s %d", query, document, &grade);
        if (n == 3)
            status = judge(j, query, document, grade, err, err_bytes);
        else if (trec || number > 1)
            status = fail(err, err_bytes, STATUS_INVALID,
                          "judgements, line %d: expected a question, a document and a grade", number);
    }
    fclose(f);
    return status;
}

int beir_open(struct beir *b, const char *folder, char *err, size_t err_bytes) {
    *b = (struct beir){0};
    FILE *f = open_in(folder, "corpus.jsonl");
    int status = f ? each_line(b, f, "corpus.jsonl", read_document, err, err_bytes)
                   : missing(folder, "corpus.jsonl", err, err_bytes);
    if (!status) {
        f = open_in(folder, "queries.test.tsv");
        if (f)
            status = each_line(b, f, "queries.test.tsv", read_query_tsv, err, err_bytes);
        else if ((f = open_in(folder, "queries.jsonl")))
            status = each_line(b, f, "queries.jsonl", read_query_json, err, err_bytes);
        else
            status = missing(folder, "queries.test.tsv or queries.jsonl", err, err_bytes);
    }
    if (!status) {
        struct judging j = {.b = b, .documents = malloc((b->n_documents + 1) * sizeof *j.documents)};
        CHECK(j.documents);
        for (size_t i = 0; i < b->n_documents; i++) j.documents[i] = (struct named){b->documents[i].id, (int)i};
        qsort(j.documents, b->n_documents, sizeof *j.documents, by_name);
        qsort(b->queries, b->n_queries, sizeof *b->queries, query_by_id);
        if ((f = open_in(folder, "qrels.test.txt")))
            status = read_judgements(&j, f, true, err, err_bytes);
        else if ((f = open_in(folder, "qrels/test.tsv")))
            status = read_judgements(&j, f, false, err, err_bytes);
        else
            status = missing(folder, "qrels.test.txt or qrels/test.tsv", err, err_bytes);
        qsort(b->queries, b->n_queries, sizeof *b->queries, query_by_number);
        free(j.documents);
    }
    b->n_lines = b->n_queries;
    b->n_queries = 0;
    for (size_t i = 0; i < b->n_lines; i++)
        if (b->queries[i].n_judgements) b->queries[b->n_queries++] = b->queries[i];
    if (!status && !b->n_queries)
        status = fail(err, err_bytes, STATUS_INVALID, "%s: no question has a judgement", folder);
    if (status) beir_close(b);
    return status;
}

void beir_close(struct beir *b) {
    free(b->documents);
    free(b->queries);
    arena_deinit(&b->arena);
    *b = (struct beir){0};
}

/* ---- measures ---------------------------------------------------------------------------------------------------- */

static int grade_of(const struct beir_query *q, int document) {
    for (int i = 0; i < q->n_judgements; i++)
        if (q->judgements[i].document == document) return q->judgements[i].grade;
    return 0;
}

static int descending(const void *a, const void *b) {
    return *(const int *)b - *(const int *)a;
}

double beir_ndcg(const struct beir_query *q, const int *ranking, int n, int k) {
    int grades[MAX_JUDGEMENTS];
    double gain = 0, ideal = 0;
    for (int i = 0; i < n && i < k; i++) gain += grade_of(q, ranking[i]) / log2(i + 2.0);
    for (int i = 0; i < q->n_judgements; i++) grades[i] = q->judgements[i].grade;
    qsort(grades, (size_t)q->n_judgements, sizeof *grades, descending);
    for (int i = 0; i < q->n_judgements && i < k; i++) ideal += grades[i] / log2(i + 2.0);
    return gain / ideal;
}

double beir_recall(const struct beir_query *q, const int *ranking, int n, int k) {
    int found = 0;
    for (int i = 0; i < n && i < k; i++) found += grade_of(q, ranking[i]) > 0;
    return (double)found / q->n_judgements;
}

/* ---- into a store ------------------------------------------------------------------------------------------------ */

int beir_ingest(const struct beir *b, struct store *store, const char *tenant, int64_t collection, const char *prefix,
                const float *vectors, int64_t *ids, char *err, size_t err_bytes) {
    int status = 0;
    for (size_t i = 0; i < b->n_documents && !status; i++) {
        const struct beir_document *d = &b->documents[i];
        char name[512], hash[STORE_MAX_HASH];
        snprintf(name, sizeof name, "%.200s %.200s", prefix, d->id);
        snprintf(hash, sizeof hash, "%.50s %.70s", prefix, d->id);
        const struct store_document document = {.name = name, .hash = hash, .bytes = (int64_t)strlen(d->text)};
        struct store_chunk chunk = {.text = d->text,
                                    .context = *d->title ? d->title : NULL,
                                    .end = (int64_t)strlen(d->text),
                                    .vector = vectors ? vectors + i * (size_t)store_dim(store) : NULL};
        status = store_document_add(store, tenant, &document, collection, &ids[i], NULL, err, err_bytes);
        if (!status) status = store_document_publish(store, tenant, ids[i], &chunk, 1, 0, err, err_bytes);
    }
    return status;
}
