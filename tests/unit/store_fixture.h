/* store_fixture.h - a fresh store for each test: an SQLite file, or a schema of the PostgreSQL database that
 * TANDEM_TEST_POSTGRES names (a URL with a query part; tests/python/test_store_postgres.py starts one). */
#pragma once

#include "rag/store.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(TANDEM_POSTGRES)
#include <libpq-fe.h>
#endif

enum { DIM = 8 };

struct fixture {
    char url[1024];
    char folder[64]; /* "": PostgreSQL */
};

static int64_t fixture_now = 1000;
static inline int64_t fixture_clock(void) {
    return fixture_now;
}

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        char err[ERR_BYTES] = "";                                                                                      \
        int ok_code = (call);                                                                                          \
        cr_assert_eq(ok_code, 0, "%s: %s", #call, err);                                                                \
    } while (0)
#define FAILS(code, call)                                                                                              \
    do {                                                                                                               \
        char err[ERR_BYTES] = "";                                                                                      \
        int was_code = (call);                                                                                         \
        cr_assert_eq(was_code, code, "%s: expected %s, found %s: %s", #call, status_text(code), status_text(was_code), \
                     err);                                                                                             \
        cr_assert(*err, "%s: no sentence", #call);                                                                     \
    } while (0)
#define ERR err, sizeof err

static inline bool on_postgres(void) {
    return getenv("TANDEM_TEST_POSTGRES") != NULL;
}

#if defined(TANDEM_POSTGRES)
static inline void postgres_script(const char *sql) {
    PGconn *conn = PQconnectdb(getenv("TANDEM_TEST_POSTGRES"));
    PGresult *result = PQexec(conn, sql);
    cr_assert(PQresultStatus(result) == PGRES_COMMAND_OK, "%s: %s", sql, PQerrorMessage(conn));
    PQclear(result);
    PQfinish(conn);
}
#endif

static inline void fixture_init(struct fixture *f) {
    static int n;
    *f = (struct fixture){0};
    n++;
#if defined(TANDEM_POSTGRES)
    if (on_postgres()) {
        char sql[128];
        snprintf(sql, sizeof sql, "CREATE SCHEMA t%d_%d", (int)getpid(), n);
        postgres_script(sql);
        snprintf(f->url, sizeof f->url, "%s&options=-csearch_path%%3Dt%d_%d%%2Cpublic", getenv("TANDEM_TEST_POSTGRES"),
                 (int)getpid(), n);
        return;
    }
#endif
    cr_assert(!on_postgres(), "this build has no PostgreSQL");
    strcpy(f->folder, "/tmp/tandem-store-XXXXXX");
    cr_assert(mkdtemp(f->folder));
    snprintf(f->url, sizeof f->url, "%s/store.db", f->folder);
}

static inline void fixture_deinit(struct fixture *f) {
    char command[128];
    if (!*f->folder) {
#if defined(TANDEM_POSTGRES)
        char sql[128];
        const char *schema = strstr(f->url, "search_path%3D") + 14;
        snprintf(sql, sizeof sql, "SET client_min_messages = error; DROP SCHEMA %.*s CASCADE",
                 (int)strcspn(schema, "%"), schema);
        postgres_script(sql);
#endif
        return;
    }
    snprintf(command, sizeof command, "rm -r %s", f->folder);
    cr_assert_eq(system(command), 0);
}

static inline struct store *fixture_open(const struct fixture *f) {
    struct store *s = NULL;
    const struct store_options options = {
        .url = f->url, .create = true, .dim = DIM, .dtype = DTYPE_F16, .embedder = "test", .now = fixture_clock};
    OK(store_open(&s, &options, ERR));
    return s;
}

/* A document of n chunks "NAME chunk I ...", vectors filled with a number that f16 holds exactly. */
static inline int64_t add_document(struct store *s, const char *tenant, const char *name, int64_t collection) {
    int64_t id = 0;
    const struct store_document d = {.name = name, .hash = name, .bytes = 100};
    OK(store_document_add(s, tenant, &d, collection, &id, NULL, ERR));
    return id;
}

static inline int publish_chunks(struct store *s, const char *tenant, int64_t id, const char *name, int n, char *err,
                                 size_t err_bytes) {
    struct store_chunk *chunks = calloc((size_t)n + 1, sizeof *chunks);
    float *vectors = calloc((size_t)n * DIM + 1, sizeof *vectors);
    char(*texts)[128] = calloc((size_t)n + 1, sizeof *texts);
    for (int i = 0; i < n; i++) {
        snprintf(texts[i], sizeof texts[i], "%s chunk %d", name, i);
        for (int j = 0; j < DIM; j++) vectors[i * DIM + j] = (float)(i % 100) + (float)j / 8;
        chunks[i] = (struct store_chunk){.text = texts[i],
                                         .context = i % 2 ? "Heading" : NULL,
                                         .start = i * 10,
                                         .end = i * 10 + 9,
                                         .page_first = 1,
                                         .page_last = 2,
                                         .vector = i % 5 == 4 ? NULL : vectors + i * DIM};
    }
    int status = store_document_publish(s, tenant, id, chunks, (size_t)n, 2, err, err_bytes);
    for (int i = 0; !status && i < n; i++)
        if (chunks[i].id <= 0 || chunks[i].ordinal != i) status = STATUS_INVALID;
    free(chunks);
    free(vectors);
    free(texts);
    return status;
}

static inline int64_t add_ready(struct store *s, const char *tenant, const char *name, int64_t collection, int n) {
    int64_t id = add_document(s, tenant, name, collection);
    OK(publish_chunks(s, tenant, id, name, n, ERR));
    return id;
}

static inline int64_t add_collection(struct store *s, const char *tenant, const char *name) {
    int64_t id = 0;
    OK(store_collection_add(s, tenant, name, NULL, &id, ERR));
    return id;
}

static inline enum document_status status_of(struct store *s, const char *tenant, int64_t id) {
    struct store_documents list = {0};
    OK(store_document_get(s, tenant, id, &list, ERR));
    enum document_status status = list.data->status;
    store_documents_deinit(&list);
    return status;
}

static inline int64_t add_job(struct store *s, const char *tenant, int64_t document, int max_attempts) {
    int64_t id = 0;
    OK(store_job_add(s, tenant, document, "ingest", "/path", max_attempts, &id, ERR));
    return id;
}

static inline void expect_job(struct store *s, const char *tenant, int64_t id, enum job_state state, int attempts,
                              const char *error) {
    struct store_jobs jobs = {0};
    OK(store_job_get(s, tenant, id, &jobs, ERR));
    cr_assert_eq(jobs.data->state, state, "expected %s, found %s", job_state_name(state),
                 job_state_name(jobs.data->state));
    cr_assert_eq(jobs.data->attempts, attempts);
    cr_assert_str_eq(jobs.data->error, error);
    store_jobs_deinit(&jobs);
}
