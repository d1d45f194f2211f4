/* store_postgres.c - a store in PostgreSQL, vectors in pgvector's type.
 *
 * Parameters and results travel in binary: bigint as 8 bytes, double precision likewise, a vector as its length in two
 * bytes, two zero bytes, and floats; all big-endian. Statements are prepared once and a result is fetched whole, so
 * lists are paged by the caller. A lost connection is made anew when the next call begins, never within one. */
#include "rag/store_internal.h"

#include <endian.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_STATEMENTS = 128, MAX_PARAMETERS = 16 };
enum { OID_BYTEA = 17, OID_INT8 = 20, OID_INT4 = 23, OID_TEXT = 25, OID_FLOAT8 = 701 }; /* pg_type.dat */
enum { LOCK_TABLES = 0x546e646d }; /* "Tndm": who makes or changes tables holds this advisory lock */

struct postgres {
    PGconn *conn;
    int n;
    const char *statements[MAX_STATEMENTS]; /* statement i is prepared under the name "si" */
};

static struct postgres *postgres_of(struct store *s) {
    return s->state;
}

static int failed(struct store *s, const char *doing, const PGresult *result) {
    const char *code = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    const char *text = result ? PQresultErrorMessage(result) : PQerrorMessage(postgres_of(s)->conn);
    int status = STATUS_IO;
    if (code && !strncmp(code, "23", 2)) status = STATUS_INVALID;                          /* a constraint */
    if (code && (!strncmp(code, "40", 2) || !strcmp(code, "55P03"))) status = STATUS_BUSY; /* deadlock, lock timeout */
    if (code && !strncmp(code, "53", 2)) status = STATUS_NO_MEMORY;
    return store__fail(s, status, "PostgreSQL, %s: %.*s", doing, (int)strcspn(text, "\n"), text);
}

static int script(struct store *s, const char *sql) {
    PGresult *result = PQexec(postgres_of(s)->conn, sql);
    const ExecStatusType code = PQresultStatus(result);
    int status = 0;
    if (code != PGRES_COMMAND_OK && code != PGRES_TUPLES_OK) status = failed(s, "running a script", result);
    PQclear(result);
    return status;
}

/* Notices, such as that a table exists already, are not for the user's screen. */
static void ignore(void *arg, const char *message) {
    (void)arg;
    (void)message;
}

static int settings(struct store *s) {
    PQsetNoticeProcessor(postgres_of(s)->conn, ignore, NULL);
    return script(s, "SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; SET lock_timeout = '30s'; "
                     "SET default_transaction_isolation = 'read committed'");
}

static int open_database(struct store *s, const char *url, bool create) {
    struct postgres *q = s->state = calloc(1, sizeof *q);
    if (!q) return store__fail(s, STATUS_NO_MEMORY, "no memory for a store");
    q->conn = PQconnectdb(url);
    if (PQstatus(q->conn) != CONNECTION_OK) return failed(s, "connecting", NULL);
    int status = settings(s);
    if (status || !create) return status;
    /* Making an extension that is there already needs no rights; two who make it at once would collide. */
    status =
        script(s, "BEGIN; SELECT pg_advisory_xact_lock(1416520813); CREATE EXTENSION IF NOT EXISTS vector; COMMIT");
    if (!status) return 0;
    char why[ERR_BYTES];
    snprintf(why, sizeof why, "%s", s->err);
    return store__fail(s, STATUS_UNSUPPORTED,
                       "expected the extension \"vector\" (pgvector) in the database: %.300s. Install "
                       "pgvector on the database's machine, and have its administrator run CREATE EXTENSION vector",
                       why);
}

static void close_database(struct store *s) {
    struct postgres *q = postgres_of(s);
    if (!q) return;
    PQfinish(q->conn);
    free(q);
}

/* Between transactions: a new connection where the old one is gone. */
static int connected(struct store *s) {
    struct postgres *q = postgres_of(s);
    if (PQstatus(q->conn) == CONNECTION_OK || s->in_transaction) return 0;
    PQreset(q->conn);
    q->n = 0;
    return PQstatus(q->conn) == CONNECTION_OK ? settings(s) : failed(s, "connecting again", NULL);
}

static int begin(struct store *s, bool alone) {
    int status = connected(s);
    if (!status) status = script(s, "BEGIN");
    if (!status && PQstatus(postgres_of(s)->conn) != CONNECTION_OK) status = failed(s, "beginning", NULL);
    if (!status && alone) {
        char sql[80];
        snprintf(sql, sizeof sql, "SELECT pg_advisory_xact_lock(%d)", (int)LOCK_TABLES);
        status = script(s, sql);
        if (status) script(s, "ROLLBACK");
    }
    return status;
}

/* ---- statements -------------------------------------------------------------------------------------------------- */

static int prepare(struct store *s, const char *sql, const struct db_value *values, size_t n, char name[16]) {
    /* 0: pgvector's type has no fixed number; it follows from the column. */
    static const Oid types[] = {[DB_INT] = OID_INT8, [DB_REAL] = OID_FLOAT8, [DB_TEXT] = OID_TEXT,
                                [DB_BLOB] = OID_BYTEA, [DB_VECTOR] = 0};
    struct postgres *q = postgres_of(s);
    int i = 0;
    while (i < q->n && q->statements[i] != sql) i++;
    snprintf(name, 16, "s%d", i);
    if (i < q->n) return 0;
    CHECK_LT(q->n, MAX_STATEMENTS);
    char *dollars = strdup(sql);
    Oid oids[MAX_PARAMETERS];
    CHECK(dollars);
    for (char *p = dollars; *p; p++)
        if (*p == '?') *p = '$';
    for (size_t k = 0; k < n; k++) oids[k] = types[values[k].type];
    PGresult *result = PQprepare(q->conn, name, dollars, (int)n, oids);
    int status = PQresultStatus(result) == PGRES_COMMAND_OK ? 0 : failed(s, "preparing a statement", result);
    if (!status) q->statements[q->n++] = sql;
    PQclear(result);
    free(dollars);
    return status;
}

static void put_f32(char *to, float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    bits = htobe32(bits);
    memcpy(to, &bits, sizeof bits);
}

static char *vector_out(const float *vector, size_t n) {
    char *p = malloc(4 + 4 * n);
    const uint16_t head[2] = {htobe16((uint16_t)n), 0};
    CHECK(p);
    memcpy(p, head, 4);
    for (size_t i = 0; i < n; i++) put_f32(p + 4 + 4 * i, vector[i]);
    return p;
}

static int query(struct store *s, struct db_cursor *c, const char *sql, const struct db_value *values, size_t n) {
    const char *pointers[MAX_PARAMETERS];
    int lengths[MAX_PARAMETERS], formats[MAX_PARAMETERS];
    uint64_t numbers[MAX_PARAMETERS];
    char *vectors[MAX_PARAMETERS] = {0}, name[16];
    *c = (struct db_cursor){0};
    CHECK_LE(n, MAX_PARAMETERS);
    int status = connected(s);
    if (!status) status = prepare(s, sql, values, n, name);
    if (status) return status;
    for (size_t i = 0; i < n; i++) {
        const struct db_value *v = &values[i];
        formats[i] = 1; /* binary; of text that is the text itself */
        pointers[i] = v->p;
        lengths[i] = (int)v->n;
        if (v->type == DB_INT || v->type == DB_REAL) {
            if (v->type == DB_INT)
                numbers[i] = (uint64_t)v->i;
            else
                memcpy(&numbers[i], &v->d, sizeof numbers[i]);
            numbers[i] = htobe64(numbers[i]);
            pointers[i] = (const char *)&numbers[i];
            lengths[i] = sizeof numbers[i];
        } else if (v->type == DB_VECTOR && v->p) {
            pointers[i] = vectors[i] = vector_out(v->p, v->n);
            lengths[i] = (int)(4 + 4 * v->n);
        }
    }
    PGresult *result = PQexecPrepared(postgres_of(s)->conn, name, (int)n, pointers, lengths, formats, 1);
    for (size_t i = 0; i < n; i++) free(vectors[i]);
    const ExecStatusType code = PQresultStatus(result);
    if (code != PGRES_COMMAND_OK && code != PGRES_TUPLES_OK) {
        status = failed(s, "running a statement", result);
        PQclear(result);
        return status;
    }
    *c = (struct db_cursor){.rows = result, .row = -1, .n_rows = PQntuples(result)};
    return 0;
}

static void close_cursor(struct store *s, struct db_cursor *c) {
    (void)s;
    PQclear(c->rows);
    c->rows = NULL;
}

/* The count is kept for changed(), which is asked for after the end. */
static int step(struct store *s, struct db_cursor *c) {
    if (++c->row < c->n_rows) return 1;
    c->n_rows = atoi(PQcmdTuples(c->rows));
    close_cursor(s, c);
    return 0;
}

static int64_t changed(struct store *s, struct db_cursor *c) {
    (void)s;
    return c->n_rows;
}

/* ---- columns ----------------------------------------------------------------------------------------------------- */

static bool is_null(struct db_cursor *c, int column) {
    return PQgetisnull(c->rows, c->row, column);
}

static const void *bytes(struct db_cursor *c, int column, size_t *n) {
    *n = (size_t)PQgetlength(c->rows, c->row, column);
    return is_null(c, column) ? NULL : PQgetvalue(c->rows, c->row, column);
}

static const char *text(struct db_cursor *c, int column, size_t *n) {
    return bytes(c, column, n);
}

static int64_t integer(struct db_cursor *c, int column) {
    uint64_t wide;
    uint32_t narrow;
    if (is_null(c, column)) return 0;
    const char *p = PQgetvalue(c->rows, c->row, column);
    switch (PQftype(c->rows, column)) {
    case OID_INT8:
        memcpy(&wide, p, sizeof wide);
        return (int64_t)be64toh(wide);
    case OID_INT4:
        memcpy(&narrow, p, sizeof narrow);
        return (int32_t)be32toh(narrow);
    default:
        CHECK_EQ(PQftype(c->rows, column), OID_INT8);
        return 0;
    }
}

static double real(struct db_cursor *c, int column) {
    uint64_t bits;
    double d;
    if (is_null(c, column)) return 0;
    CHECK_EQ(PQftype(c->rows, column), OID_FLOAT8);
    memcpy(&bits, PQgetvalue(c->rows, c->row, column), sizeof bits);
    bits = be64toh(bits);
    memcpy(&d, &bits, sizeof d);
    return d;
}

static size_t vector_of(struct store *s, struct db_cursor *c, int column, float *out) {
    size_t n_bytes;
    const char *p = bytes(c, column, &n_bytes);
    uint16_t n;
    if (!p || n_bytes < 4) return 0;
    memcpy(&n, p, sizeof n);
    n = be16toh(n);
    if (n != s->dim || n_bytes != 4 + 4 * (size_t)n) return 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, p + 4 + 4 * i, sizeof bits);
        bits = be32toh(bits);
        memcpy(&out[i], &bits, sizeof bits);
    }
    return n;
}

const struct db_ops store__postgres = {
    .name = "postgresql",
    .is_postgres = true,
    .id = "BIGINT PRIMARY KEY",
    .serial = "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
    .blob = "BYTEA",
    .vector = "vector",
    .open = open_database,
    .close = close_database,
    .script = script,
    .begin = begin,
    .query = query,
    .step = step,
    .close_cursor = close_cursor,
    .changed = changed,
    .is_null = is_null,
    .integer = integer,
    .real = real,
    .text = text,
    .bytes = bytes,
    .vector_of = vector_of,
};
