/* store.c - opening a store, its tables and their versions, transactions, and what store_*.c share. */
#include "rag/store_internal.h"

#include "engine/tokenizer_utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* ---- the tables -------------------------------------------------------------------------------------------------- */

/* One script per version, run in order and never changed once released: a store of version v runs what is behind v. */
static const char *const migrations[STORE_SCHEMA] = {
    /* 1: documents, chunks, collections, what changed in them */
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL);"
    "INSERT INTO counters VALUES ('changes', 0);"
    "CREATE TABLE documents ("
    "    id {id}, tenant TEXT NOT NULL, name TEXT NOT NULL, hash TEXT NOT NULL, status TEXT NOT NULL,"
    "    reason TEXT NOT NULL, attributes TEXT NOT NULL, bytes BIGINT NOT NULL, pages BIGINT NOT NULL,"
    "    created BIGINT NOT NULL, n_chunks BIGINT NOT NULL,"
    "    UNIQUE (tenant, id), UNIQUE (tenant, hash));"
    "CREATE TABLE chunks ("
    "    id {serial}, tenant TEXT NOT NULL, document BIGINT NOT NULL, ordinal BIGINT NOT NULL, text TEXT NOT NULL,"
    "    context TEXT, start_at BIGINT NOT NULL, end_at BIGINT NOT NULL, page_first BIGINT NOT NULL,"
    "    page_last BIGINT NOT NULL, vector {vector}, UNIQUE (document, ordinal),"
    "    FOREIGN KEY (tenant, document) REFERENCES documents (tenant, id) ON DELETE CASCADE);"
    "CREATE TABLE collections ("
    "    id {id}, tenant TEXT NOT NULL, name TEXT NOT NULL, attributes TEXT NOT NULL, created BIGINT NOT NULL,"
    "    UNIQUE (tenant, id));"
    "CREATE INDEX collections_name ON collections (tenant, name);"
    "CREATE TABLE members ("
    "    tenant TEXT NOT NULL, collection BIGINT NOT NULL, document BIGINT NOT NULL, attributes TEXT,"
    "    PRIMARY KEY (collection, document),"
    "    FOREIGN KEY (tenant, collection) REFERENCES collections (tenant, id) ON DELETE CASCADE,"
    "    FOREIGN KEY (tenant, document) REFERENCES documents (tenant, id) ON DELETE CASCADE);"
    "CREATE INDEX members_document ON members (document);"
    "CREATE TABLE changes ("
    "    seq {id}, tenant TEXT NOT NULL, collection BIGINT NOT NULL, document BIGINT NOT NULL, kind BIGINT NOT NULL);"
    "CREATE INDEX changes_collection ON changes (collection, seq);"
    "CREATE TABLE settings ("
    "    tenant TEXT NOT NULL, collection BIGINT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,"
    "    PRIMARY KEY (tenant, collection, key));",
    /* 2: jobs and feedback */
    "CREATE TABLE jobs ("
    "    id {id}, tenant TEXT NOT NULL, document BIGINT, kind TEXT NOT NULL, payload TEXT NOT NULL,"
    "    state TEXT NOT NULL, stage TEXT NOT NULL, progress DOUBLE PRECISION NOT NULL, error TEXT NOT NULL, attempts BIGINT NOT NULL,"
    "    max_attempts BIGINT NOT NULL, created BIGINT NOT NULL, updated BIGINT NOT NULL, worker TEXT NOT NULL,"
    "    due BIGINT NOT NULL," /* queued: not before; running: when the lease ends */
    "    FOREIGN KEY (tenant, document) REFERENCES documents (tenant, id) ON DELETE CASCADE);"
    "CREATE INDEX jobs_open ON jobs (id) WHERE state = 'queued' OR state = 'running';"
    "CREATE INDEX jobs_tenant ON jobs (tenant, id);"
    "CREATE INDEX jobs_document ON jobs (document);"
    "CREATE TABLE feedback ("
    "    id {id}, tenant TEXT NOT NULL, collection BIGINT NOT NULL, rating BIGINT NOT NULL, question TEXT NOT NULL,"
    "    answer TEXT NOT NULL, comment TEXT NOT NULL, chunks {blob}, created BIGINT NOT NULL);"
    "CREATE INDEX feedback_tenant ON feedback (tenant, id);",
    /* 3: near-duplicates */
    "CREATE TABLE signatures ("
    "    document BIGINT PRIMARY KEY, tenant TEXT NOT NULL, signature {blob} NOT NULL,"
    "    FOREIGN KEY (tenant, document) REFERENCES documents (tenant, id) ON DELETE CASCADE);"
    "CREATE TABLE bands ("
    "    tenant TEXT NOT NULL, band BIGINT NOT NULL, key BIGINT NOT NULL, document BIGINT NOT NULL,"
    "    PRIMARY KEY (tenant, band, key, document),"
    "    FOREIGN KEY (tenant, document) REFERENCES documents (tenant, id) ON DELETE CASCADE);"
    "CREATE INDEX bands_document ON bands (document);",
};

/* Replaces the words in braces and runs the script. */
static int run_schema(struct store *s, const char *script) {
    const struct {
        const char *word, *type;
    } words[] = {
        {"{id}", s->db->id}, {"{serial}", s->db->serial}, {"{blob}", s->db->blob}, {"{vector}", s->db->vector}};
    struct bytes sql = {0};
    while (*script) {
        const char *brace = strchr(script, '{');
        bytes_append(&sql, script, brace ? (size_t)(brace - script) : strlen(script));
        if (!brace) break;
        size_t i = 0;
        while (strncmp(brace, words[i].word, strlen(words[i].word))) CHECK_LT(++i, sizeof words / sizeof *words);
        bytes_append(&sql, words[i].type, strlen(words[i].type));
        script = brace + strlen(words[i].word);
    }
    bytes_append(&sql, "", 1);
    int status = s->db->script(s, (const char *)sql.data);
    free(sql.data);
    return status;
}

/* ---- facts about the store as a whole ---------------------------------------------------------------------------- */

static int meta_get(struct store *s, const char *key, char *out, size_t out_bytes) {
    struct db_cursor c;
    out[0] = 0;
    int status = s->db->query(s, &c, "SELECT value FROM meta WHERE key = ?1", VALUES(V_TEXT(key)));
    if (status) return status;
    status = s->db->step(s, &c);
    if (status != 1) return status;
    size_t n;
    const char *text = s->db->text(&c, 0, &n);
    snprintf(out, out_bytes, "%.*s", (int)n, text);
    s->db->close_cursor(s, &c);
    return 0;
}

static int meta_set(struct store *s, const char *key, const char *value) {
    return store__exec(s, NULL,
                       "INSERT INTO meta (key, value) VALUES (?1, ?2) "
                       "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                       VALUES(V_TEXT(key), V_TEXT(value)));
}

static int migrate(struct store *s, int target, bool create, const char *url) {
    char version[32];
    int status = s->db->script(s, "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)");
    if (!status) status = meta_get(s, "schema", version, sizeof version);
    if (status) return status;
    const int found = atoi(version);
    if (!found && !create)
        return store__fail(s, STATUS_NOT_FOUND, "%s: expected a store, found an empty database", url);
    if (found > target)
        return store__fail(s, STATUS_UNSUPPORTED,
                           "%s: its tables are of version %d, and this program knows up to %d: use "
                           "a newer one",
                           url, found, target);
    for (int v = found; v < target && !status; v++) status = run_schema(s, migrations[v]);
    snprintf(version, sizeof version, "%d", target);
    if (!status && found != target) status = meta_set(s, "schema", version);
    return status;
}

static int settle(struct store *s, int dim, const char *embedder) {
    char text[32];
    int status = 0;
    if (dim < 0 || dim > STORE_MAX_DIM)
        return store__fail(s, STATUS_INVALID, "expected vectors of 1 to %d numbers, found %d", STORE_MAX_DIM, dim);
    if (dim && s->dim && dim != s->dim)
        return store__fail(s, STATUS_INVALID,
                           "the store's vectors have %d numbers, and these have %d: it was made with "
                           "another embedder",
                           s->dim, dim);
    if (embedder && *embedder && *s->embedder && strcmp(embedder, s->embedder))
        return store__fail(s, STATUS_INVALID,
                           "the store's vectors are by %s, and these are by %s: vectors of different "
                           "embedders cannot be compared",
                           s->embedder, embedder);
    if (dim && !s->dim) {
        snprintf(text, sizeof text, "%d", dim);
        status = meta_set(s, "dim", text);
    }
    if (!status && embedder && *embedder && !*s->embedder) {
        status = store__check_text(s, "embedder", embedder, 1, sizeof s->embedder - 1);
        if (!status) status = meta_set(s, "embedder", embedder);
    }
    return status;
}

/* Reads what is settled. */
static int read_meta(struct store *s) {
    char dim[32], dtype[32];
    int status = meta_get(s, "dim", dim, sizeof dim);
    if (!status) status = meta_get(s, "dtype", dtype, sizeof dtype);
    if (!status) status = meta_get(s, "embedder", s->embedder, sizeof s->embedder);
    if (status) return status;
    s->dim = atoi(dim);
    if (*dtype) s->dtype = strcmp(dtype, dtype_name(DTYPE_F32)) ? DTYPE_F16 : DTYPE_F32;
    return s->dim < 0 || s->dim > STORE_MAX_DIM ? store__fail(s, STATUS_INVALID, "the store's meta data are damaged")
                                                : 0;
}

static int64_t the_clock(void) {
    return (int64_t)time(NULL);
}

int store__open_at(struct store **out, const struct store_options *options, int schema, char *err, size_t err_bytes) {
    *out = NULL;
    CHECK(options->dtype == DTYPE_F16 || options->dtype == DTYPE_F32);
    struct store *s = calloc(1, sizeof *s);
    if (!s) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for a store");
    s->now = options->now ? options->now : the_clock;
    s->dtype = options->dtype;
    s->db = &store__sqlite;
    int status = 0;
    if (!strncmp(options->url, "postgres://", 11) || !strncmp(options->url, "postgresql://", 13)) {
#if defined(TANDEM_POSTGRES)
        s->db = &store__postgres;
#else
        status = store__fail(s, STATUS_UNSUPPORTED,
                             "this build has no PostgreSQL: install libpq-dev and configure again, "
                             "or name a file to use SQLite");
#endif
    }
    if (!status) status = s->db->open(s, options->url, options->create);
    if (!status) {
        status = s->db->begin(s, true);
        s->in_transaction = !status;
        if (!status) status = migrate(s, schema, options->create, options->url);
        if (!status) status = read_meta(s);
        char dtype[32];
        if (!status) status = meta_get(s, "dtype", dtype, sizeof dtype);
        if (!status && !*dtype) status = meta_set(s, "dtype", dtype_name(s->dtype));
        if (!status) status = settle(s, options->dim, options->embedder);
        if (s->in_transaction) status = store__end(s, status);
        if (!status) status = read_meta(s);
    }
    if (status) {
        fail(err, err_bytes, status, "%s", s->err);
        store_close(s);
        return status;
    }
    *out = s;
    return 0;
}

int store_open(struct store **out, const struct store_options *options, char *err, size_t err_bytes) {
    return store__open_at(out, options, STORE_SCHEMA, err, err_bytes);
}

void store_close(struct store *s) {
    if (!s) return;
    s->db->close(s);
    free(s);
}

const char *store_kind(const struct store *s) {
    return s->db->name;
}
int store_dim(const struct store *s) {
    return s->dim;
}
enum dtype store_dtype(const struct store *s) {
    return s->dtype;
}
const char *store_embedder(const struct store *s) {
    return s->embedder;
}

int store_settle(struct store *s, int dim, const char *embedder, char *err, size_t err_bytes) {
    int status = store__begin(s);
    if (!status) status = read_meta(s); /* another process may have settled it */
    if (!status) status = settle(s, dim, embedder);
    status = store__end(s, status);
    if (!status) status = read_meta(s);
    return store__done(s, status, err, err_bytes);
}

int store_backup(struct store *s, const char *path, char *err, size_t err_bytes) {
    int status = s->db->backup ? s->db->backup(s, path)
                               : store__fail(s, STATUS_UNSUPPORTED,
                                             "a store in %s is backed up with that database's own "
                                             "tools, such as pg_dump",
                                             s->db->name);
    return store__done(s, status, err, err_bytes);
}

/* ---- shared by store_*.c ----------------------------------------------------------------------------------------- */

int store__fail(struct store *s, int status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(s->err, sizeof s->err, format, args);
    va_end(args);
    return status;
}

int store__done(struct store *s, int status, char *err, size_t err_bytes) {
    return status ? fail(err, err_bytes, status, "%s", s->err) : 0;
}

int store__begin(struct store *s) {
    CHECK(!s->in_transaction);
    int status = s->db->begin(s, false);
    s->in_transaction = !status;
    return status;
}

int store__end(struct store *s, int status) {
    if (!s->in_transaction) return status; /* it did not begin */
    if (!status) status = s->db->script(s, "COMMIT");
    if (status) { /* the first failure is the one to tell */
        char first[ERR_BYTES];
        memcpy(first, s->err, sizeof first);
        s->db->script(s, "ROLLBACK");
        memcpy(s->err, first, sizeof first);
    }
    s->in_transaction = false;
    return status;
}

int store__exec(struct store *s, int64_t *n_changed, const char *sql, const struct db_value *values, size_t n) {
    struct db_cursor c;
    int status = s->db->query(s, &c, sql, values, n);
    while (!status) {
        status = s->db->step(s, &c);
        if (status == 1) {
            status = 0;
            continue;
        }
        if (!status && n_changed) *n_changed = s->db->changed(s, &c);
        break;
    }
    return status;
}

int store__integer(struct store *s, int64_t *out, const char *sql, const struct db_value *values, size_t n) {
    struct db_cursor c;
    int status = s->db->query(s, &c, sql, values, n);
    if (status) return status;
    status = s->db->step(s, &c);
    if (status < 0) return status;
    if (!status) return STATUS_NOT_FOUND;
    *out = s->db->integer(&c, 0);
    s->db->close_cursor(s, &c);
    return 0;
}

const char *store__column(struct store *s, struct db_cursor *c, int column, struct arena *arena) {
    size_t n = 0;
    const char *text = s->db->text(c, column, &n);
    return arena_text(arena, text ? text : "", text ? n : 0);
}

struct db_value store__text(const char *text) {
    return (struct db_value){.type = DB_TEXT, .p = text, .n = text ? strlen(text) : 0};
}

int store__check_text(struct store *s, const char *what, const char *text, size_t least, size_t most) {
    size_t n = text ? strlen(text) : 0;
    if (!text || n < least || n > most)
        return store__fail(s, STATUS_INVALID, "%s: expected %zu to %zu bytes of text, found %s%zu", what, least, most,
                           text ? "" : "none: ", n);
    size_t valid = utf8_valid_bytes((const uint8_t *)text, n);
    if (valid < n)
        return store__fail(s, STATUS_INVALID, "%s: expected UTF-8, found an invalid byte at %zu", what, valid);
    return 0;
}

int store__check_tenant(struct store *s, const char *tenant) {
    return store__check_text(s, "tenant", tenant, 0, STORE_MAX_TENANT);
}

int store__page_limit(struct store *s, struct store_page page, int *limit) {
    *limit = page.limit ? page.limit : 100;
    if (*limit < 1 || *limit > STORE_MAX_LIST || page.after < 0)
        return store__fail(s, STATUS_INVALID, "expected a limit of 1 to %d and an id, found %d and %lld",
                           STORE_MAX_LIST, page.limit, (long long)page.after);
    return 0;
}

/* Milliseconds since 1970 above 21 random bits; within one connection always more than the one before. Two connections
 * may meet by chance, one in two million of ids made in the same millisecond: the database refuses the second. */
int64_t store__new_id(struct store *s) {
    struct timespec t;
    uint32_t bits;
    clock_gettime(CLOCK_REALTIME, &t);
    CHECK_EQ(getrandom(&bits, sizeof bits, 0), sizeof bits);
    int64_t ms = (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
    int64_t id = (ms & (((int64_t)1 << 42) - 1)) << 21 | (bits & ((1u << 21) - 1));
    if (id <= s->last_id) id = s->last_id + 1 + (bits & 1023);
    s->last_id = id;
    return id;
}

/* ---- settings ---------------------------------------------------------------------------------------------------- */

int store_setting_set(struct store *s, const char *tenant, int64_t collection, const char *key, const char *value,
                      char *err, size_t err_bytes) {
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__check_text(s, "key", key, 1, STORE_MAX_NAME);
    if (!status && value) status = store__check_text(s, "value", value, 0, STORE_MAX_TEXT);
    if (!status) status = store__begin(s);
    if (!status && collection) status = store__collection(s, tenant, collection);
    const struct db_value at[] = {V_TEXT(tenant), V_INT(collection), V_TEXT(key), V_TEXT(value)};
    if (!status && value)
        status = store__exec(s, NULL,
                             "INSERT INTO settings (tenant, collection, key, value) VALUES (?1, ?2, ?3, ?4) "
                             "ON CONFLICT (tenant, collection, key) DO UPDATE SET value = excluded.value",
                             at, 4);
    else if (!status)
        status = store__exec(s, NULL, "DELETE FROM settings WHERE tenant = ?1 AND collection = ?2 AND key = ?3", at, 3);
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_setting_get(struct store *s, const char *tenant, int64_t collection, const char *key, char **value, char *err,
                      size_t err_bytes) {
    struct db_cursor c;
    *value = NULL;
    int status = store__check_tenant(s, tenant);
    if (!status && collection) status = store__collection(s, tenant, collection);
    if (!status)
        status = s->db->query(s, &c, "SELECT value FROM settings WHERE tenant = ?1 AND collection = ?2 AND key = ?3",
                              VALUES(V_TEXT(tenant), V_INT(collection), V_TEXT(key)));
    if (!status) status = s->db->step(s, &c);
    if (status == 1) {
        size_t n;
        const char *text = s->db->text(&c, 0, &n);
        *value = strndup(text, n);
        CHECK(*value);
        s->db->close_cursor(s, &c);
        status = 0;
    }
    return store__done(s, status, err, err_bytes);
}
