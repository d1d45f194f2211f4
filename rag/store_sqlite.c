/* store_sqlite.c - a store in an SQLite file: writes ahead (WAL), foreign keys on, vectors as blobs of f16 or f32.
 *
 * synchronous=NORMAL: a commit is in the log when it returns and on the disk at the next checkpoint, so that a killed
 * process loses nothing and a power cut at most the last commits. The file is marked with an application id; a database
 * of somebody else is refused, not written to. */
#include "rag/store_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    APPLICATION_ID = 0x546e646d, /* "Tndm" */
    BUSY_MS = 30000,             /* how long a writer waits for another one */
    MAX_STATEMENTS = 128,
};

struct sqlite {
    sqlite3 *db;
    int n;
    struct {
        const char *sql;
        sqlite3_stmt *stmt;
    } statements[MAX_STATEMENTS];
};

static struct sqlite *sqlite_of(struct store *s) {
    return s->state;
}

static int failed(struct store *s, const char *doing) {
    struct sqlite *q = sqlite_of(s);
    int code = sqlite3_extended_errcode(q->db), status = STATUS_IO;
    switch (code & 0xff) {
    case SQLITE_NOMEM:
        status = STATUS_NO_MEMORY;
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        status = STATUS_BUSY;
        break;
    case SQLITE_CONSTRAINT:
        status = STATUS_INVALID;
        break;
    case SQLITE_TOOBIG:
        status = STATUS_TOO_LARGE;
        break;
    default:
        break;
    }
    return store__fail(s, status, "SQLite, %s: %s", doing, sqlite3_errmsg(q->db));
}

static int script(struct store *s, const char *sql) {
    return sqlite3_exec(sqlite_of(s)->db, sql, NULL, NULL, NULL) ? failed(s, "running a script") : 0;
}

static int pragma(struct store *s, const char *sql, int64_t *out) {
    sqlite3_stmt *stmt;
    struct sqlite *q = sqlite_of(s);
    if (sqlite3_prepare_v2(q->db, sql, -1, &stmt, NULL)) return failed(s, sql);
    int code = sqlite3_step(stmt);
    if (code == SQLITE_ROW && out) *out = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return code == SQLITE_ROW || code == SQLITE_DONE ? 0 : failed(s, sql);
}

/* Makes the file readable by its owner alone, before anything is in it. */
static int make_file(struct store *s, const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return store__fail(s, STATUS_IO, "%s: cannot be made or opened: %s", path, strerror(errno));
    close(fd);
    return 0;
}

static int open_file(struct store *s, const char *url, bool create) {
    struct sqlite *q = s->state = calloc(1, sizeof *q);
    if (!q) return store__fail(s, STATUS_NO_MEMORY, "no memory for a store");
    const bool memory = !strcmp(url, ":memory:");
    int64_t id = 0, n_tables = 0;
    int status = 0;
    if (!memory && create)
        status = make_file(s, url);
    else if (!memory && access(url, F_OK))
        status = store__fail(s, STATUS_NOT_FOUND, "%s: expected a store, found no such file", url);
    if (status) return status;
    if (sqlite3_open_v2(url, &q->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL))
        return store__fail(s, STATUS_IO, "%s: cannot be opened: %s", url, sqlite3_errmsg(q->db));
    sqlite3_busy_timeout(q->db, BUSY_MS);
    status = pragma(s, "PRAGMA application_id", &id);
    if (!status) status = pragma(s, "SELECT count(*) FROM sqlite_schema", &n_tables);
    if (status) return status;
    if (n_tables && id != APPLICATION_ID)
        return store__fail(s, STATUS_INVALID, "%s: expected a store of Tandem, found another program's database", url);
    char mark[64];
    snprintf(mark, sizeof mark, "PRAGMA application_id=%d", (int)APPLICATION_ID);
    const char *const settings[] = {"PRAGMA journal_mode=WAL",     "PRAGMA synchronous=NORMAL",
                                    "PRAGMA foreign_keys=ON",      "PRAGMA trusted_schema=OFF",
                                    "PRAGMA mmap_size=1073741824", "PRAGMA cache_size=-32768"};
    for (size_t i = 0; !status && i < sizeof settings / sizeof *settings; i++) status = pragma(s, settings[i], NULL);
    if (!status && id != APPLICATION_ID) status = pragma(s, mark, NULL);
    return status;
}

static void close_file(struct store *s) {
    struct sqlite *q = sqlite_of(s);
    if (!q) return;
    for (int i = 0; i < q->n; i++) sqlite3_finalize(q->statements[i].stmt);
    sqlite3_close(q->db);
    free(q);
}

static int begin(struct store *s, bool alone) {
    (void)alone; /* there is one writer at a time anyway; IMMEDIATE waits for the place now, not in the middle */
    return script(s, "BEGIN IMMEDIATE");
}

static int prepared(struct store *s, const char *sql, sqlite3_stmt **out) {
    struct sqlite *q = sqlite_of(s);
    for (int i = 0; i < q->n; i++)
        if (q->statements[i].sql == sql) {
            *out = q->statements[i].stmt;
            CHECK(!sqlite3_stmt_busy(*out));
            return 0;
        }
    CHECK_LT(q->n, MAX_STATEMENTS);
    if (sqlite3_prepare_v3(q->db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL))
        return failed(s, "preparing a statement");
    q->statements[q->n].sql = sql;
    q->statements[q->n++].stmt = *out;
    return 0;
}

static int bind_vector(struct store *s, sqlite3_stmt *stmt, int i, const struct db_value *v) {
    if (!v->p) return sqlite3_bind_null(stmt, i);
    if (s->dtype == DTYPE_F32) return sqlite3_bind_blob64(stmt, i, v->p, v->n * sizeof(float), SQLITE_STATIC);
    uint16_t *half = malloc(v->n * sizeof *half);
    CHECK(half);
    for (size_t j = 0; j < v->n; j++) half[j] = f16_from_f32(((const float *)v->p)[j]);
    return sqlite3_bind_blob64(stmt, i, half, v->n * sizeof *half, free);
}

static int query(struct store *s, struct db_cursor *c, const char *sql, const struct db_value *values, size_t n) {
    sqlite3_stmt *stmt;
    *c = (struct db_cursor){0};
    int status = prepared(s, sql, &stmt), code = 0;
    if (status) return status;
    CHECK_EQ(sqlite3_bind_parameter_count(stmt), n);
    for (size_t i = 0; i < n && !code; i++) {
        const struct db_value *v = &values[i];
        const int at = (int)i + 1;
        switch (v->type) {
        case DB_INT:
            code = sqlite3_bind_int64(stmt, at, v->i);
            break;
        case DB_REAL:
            code = sqlite3_bind_double(stmt, at, v->d);
            break;
        case DB_TEXT:
            code = sqlite3_bind_text64(stmt, at, v->p, v->n, SQLITE_STATIC, SQLITE_UTF8);
            break;
        case DB_BLOB:
            code = sqlite3_bind_blob64(stmt, at, v->p, v->n, SQLITE_STATIC);
            break;
        case DB_VECTOR:
            code = bind_vector(s, stmt, at, v);
            break;
        }
    }
    if (code) {
        status = failed(s, "binding a parameter");
        sqlite3_reset(stmt);
        return status;
    }
    c->rows = stmt;
    return 0;
}

static void close_cursor(struct store *s, struct db_cursor *c) {
    (void)s;
    if (!c->rows) return;
    sqlite3_reset(c->rows);
    sqlite3_clear_bindings(c->rows);
    c->rows = NULL;
}

static int step(struct store *s, struct db_cursor *c) {
    int code = sqlite3_step(c->rows), status = 0;
    if (code == SQLITE_ROW) return 1;
    if (code != SQLITE_DONE) status = failed(s, "running a statement");
    close_cursor(s, c);
    return status;
}

static int64_t changed(struct store *s, struct db_cursor *c) {
    (void)c;
    return sqlite3_changes(sqlite_of(s)->db);
}

static bool is_null(struct db_cursor *c, int column) {
    return sqlite3_column_type(c->rows, column) == SQLITE_NULL;
}
static int64_t integer(struct db_cursor *c, int column) {
    return sqlite3_column_int64(c->rows, column);
}
static double real(struct db_cursor *c, int column) {
    return sqlite3_column_double(c->rows, column);
}

static const char *text(struct db_cursor *c, int column, size_t *n) {
    const char *p = (const char *)sqlite3_column_text(c->rows, column);
    *n = (size_t)sqlite3_column_bytes(c->rows, column);
    return p;
}

static const void *bytes(struct db_cursor *c, int column, size_t *n) {
    const void *p = sqlite3_column_blob(c->rows, column);
    *n = (size_t)sqlite3_column_bytes(c->rows, column);
    return p;
}

static size_t vector_of(struct store *s, struct db_cursor *c, int column, float *out) {
    size_t n;
    const char *p = bytes(c, column, &n);
    n /= dtype_bytes(s->dtype);
    if (!p || n != (size_t)s->dim) return 0;
    if (s->dtype == DTYPE_F32) {
        memcpy(out, p, n * sizeof *out);
        return n;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, p + 2 * i, sizeof half);
        out[i] = f32_from_f16(half);
    }
    return n;
}

static int copy_to(struct store *s, sqlite3 *to) {
    sqlite3_backup *b = sqlite3_backup_init(to, "main", sqlite_of(s)->db, "main");
    if (!b) return store__fail(s, STATUS_IO, "the backup cannot start: %s", sqlite3_errmsg(to));
    /* In one step: it reads one snapshot, and with a log that is written ahead no writer waits for it. Page by page,
     * each commit of another process would start it anew. */
    int code = sqlite3_backup_step(b, -1);
    sqlite3_backup_finish(b);
    if (code != SQLITE_DONE) return store__fail(s, STATUS_IO, "the backup failed: %s", sqlite3_errstr(code));
    return 0;
}

static int backup(struct store *s, const char *path) {
    char part[4096];
    sqlite3 *to = NULL;
    if ((size_t)snprintf(part, sizeof part, "%s.part", path) >= sizeof part)
        return store__fail(s, STATUS_INVALID, "the backup's path is too long");
    if (unlink(part) && errno != ENOENT) return store__fail(s, STATUS_IO, "%s: %s", part, strerror(errno));
    int status = make_file(s, part);
    if (status) return status;
    if (sqlite3_open_v2(part, &to, SQLITE_OPEN_READWRITE, NULL))
        status = store__fail(s, STATUS_IO, "%s: cannot be opened: %s", part, sqlite3_errmsg(to));
    if (!status) status = copy_to(s, to);
    if (sqlite3_close(to) && !status) status = store__fail(s, STATUS_IO, "%s: cannot be closed", part);
    if (!status && rename(part, path)) status = store__fail(s, STATUS_IO, "%s: %s", path, strerror(errno));
    if (status) unlink(part);
    return status;
}

const struct db_ops store__sqlite = {
    .name = "sqlite",
    .id = "INTEGER PRIMARY KEY",
    .serial = "INTEGER PRIMARY KEY AUTOINCREMENT",
    .blob = "BLOB",
    .vector = "BLOB",
    .open = open_file,
    .close = close_file,
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
    .backup = backup,
};
