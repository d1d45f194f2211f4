/* store_internal.h - private to rag/store*.c: a connection, and the little that the two databases do differently.
 *
 * The statements of store*.c are written once, in the SQL that both understand, with parameters ?1, ?2, ...; a
 * database is one table of functions. Schema scripts may say {id}, {serial}, {blob} and {vector} for types. Failures
 * put a sentence into s->err; the public functions hand it out through store__done. */
#pragma once

#include "rag/store.h"

struct store {
    const struct db_ops *db;
    void *state; /* owned by the database */
    int64_t (*now)(void);
    int dim;
    enum dtype dtype;
    char embedder[256];
    bool in_transaction;
    int64_t last_id; /* that this connection made */
    char err[ERR_BYTES];
};

enum db_type { DB_INT, DB_REAL, DB_TEXT, DB_BLOB, DB_VECTOR };
struct db_value { /* a parameter; text, blob and vector may be NULL */
    enum db_type type;
    int64_t i;
    double d;
    const void *p;
    size_t n; /* bytes; of a vector: floats */
};
#define V_INT(x)       ((struct db_value){.type = DB_INT, .i = (x)})
#define V_REAL(x)      ((struct db_value){.type = DB_REAL, .d = (x)})
#define V_TEXT(x)      store__text(x)
#define V_BLOB(x, k)   ((struct db_value){.type = DB_BLOB, .p = (x), .n = (k)})
#define V_VECTOR(x, k) ((struct db_value){.type = DB_VECTOR, .p = (x), .n = (k)})
#define VALUES(...)                                                                                                    \
    (const struct db_value[]){__VA_ARGS__}, sizeof((struct db_value[]){__VA_ARGS__}) / sizeof(struct db_value)
struct db_value store__text(const char *text);

struct db_cursor { /* the rows of one statement; there may be several at a time, each of another statement */
    void *rows;
    int row, n_rows;
};

struct db_ops {
    const char *name;
    bool is_postgres;
    const char *id, *serial, *blob, *vector; /* types in schema scripts */

    int (*open)(struct store *s, const char *url, bool create);
    void (*close)(struct store *s);                  /* accepts a half-opened store */
    int (*script)(struct store *s, const char *sql); /* any number of statements, without parameters or rows */
    int (*begin)(struct store *s, bool alone);       /* alone: nobody else writes, not even tables */
    /* sql is a literal: prepared once, found by its address. */
    int (*query)(struct store *s, struct db_cursor *c, const char *sql, const struct db_value *values, size_t n);
    int (*step)(struct store *s, struct db_cursor *c); /* 1: a row. 0: no more; below 0: an error; both close it */
    void (*close_cursor)(struct store *s, struct db_cursor *c); /* before the end; fine after it */
    int64_t (*changed)(struct store *s, struct db_cursor *c);   /* rows written; after step returned 0 */
    bool (*is_null)(struct db_cursor *c, int column);
    int64_t (*integer)(struct db_cursor *c, int column); /* 0 for NULL, here and below */
    double (*real)(struct db_cursor *c, int column);
    const char *(*text)(struct db_cursor *c, int column, size_t *n); /* until the next step */
    const void *(*bytes)(struct db_cursor *c, int column, size_t *n);
    size_t (*vector_of)(struct store *s, struct db_cursor *c, int column, float *out); /* at most s->dim; how many */
    int (*backup)(struct store *s, const char *path);
};

extern const struct db_ops store__sqlite;
#if defined(TANDEM_POSTGRES)
extern const struct db_ops store__postgres;
#endif

/* As store_open, with tables of an older version: for the tests of migration. */
int store__open_at(struct store **out, const struct store_options *options, int schema, char *err, size_t err_bytes);

int store__fail(struct store *s, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* What a public function returns: hands s->err over. */
int store__done(struct store *s, int status, char *err, size_t err_bytes);
int store__begin(struct store *s);
int store__end(struct store *s, int status); /* commits after 0, else takes all back; returns status, or why not */

/* Runs a statement to its end; *changed (NULL: not wanted) is the number of rows written. */
int store__exec(struct store *s, int64_t *changed, const char *sql, const struct db_value *values, size_t n);
/* The first column of the first row. STATUS_NOT_FOUND, without a sentence, where there is no row. */
int store__integer(struct store *s, int64_t *out, const char *sql, const struct db_value *values, size_t n);
/* A copy in the arena: "" for NULL. */
const char *store__column(struct store *s, struct db_cursor *c, int column, struct arena *arena);

int store__check_tenant(struct store *s, const char *tenant);
int store__check_text(struct store *s, const char *what, const char *text, size_t least, size_t most);
int store__page_limit(struct store *s, struct store_page page, int *limit);
int64_t store__new_id(struct store *s);

/* STATUS_NOT_FOUND and a sentence unless it is the tenant's. status may be NULL. Locks the row until the end. */
int store__document(struct store *s, const char *tenant, int64_t id, enum document_status *status);
int store__collection(struct store *s, const char *tenant, int64_t id);
/* Logs a change of one collection (0: of every collection that the document is in). */
int store__change(struct store *s, const char *tenant, int64_t collection, int64_t document, enum change_kind kind);
/* store_document_add within a transaction; its arguments have been checked, attributes are compact. */
int store__add_document(struct store *s, const char *tenant, const struct store_document *d, const char *attributes,
                        int64_t collection, int64_t *id, bool *existed);
int store__check_document(struct store *s, const struct store_document *d, char **attributes);
/* Ends a document if it is pending. */
int store__end_pending(struct store *s, const char *tenant, int64_t id, enum document_status status,
                       const char *reason);
