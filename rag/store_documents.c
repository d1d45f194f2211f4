/* store_documents.c - documents and their chunks: added as pending, published whole, ended, deleted. */
#include "rag/filter.h"
#include "rag/store_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const status_names[DOCUMENT_STATUS_COUNT] = {
#define X(name, text) text,
    DOCUMENT_STATUS_TABLE(X)
#undef X
};

const char *document_status_name(enum document_status status) {
    CHECK_LT((unsigned)status, DOCUMENT_STATUS_COUNT);
    return status_names[status];
}

static enum document_status status_of(const char *text) {
    int i = 0;
    while (i < DOCUMENT_STATUS_COUNT && strcmp(text, status_names[i])) i++;
    return i < DOCUMENT_STATUS_COUNT ? (enum document_status)i : DOCUMENT_FAILED;
}

void store_documents_deinit(struct store_documents *list) {
    arena_deinit(&list->arena);
    free(list->data);
    *list = (struct store_documents){0};
}

void store_chunks_deinit(struct store_chunks *list) {
    arena_deinit(&list->arena);
    free(list->data);
    *list = (struct store_chunks){0};
}

int store__document(struct store *s, const char *tenant, int64_t id, enum document_status *status) {
    struct db_cursor c;
    /* In PostgreSQL the row stays locked until the end, so that two who change one document take turns; in SQLite a
     * transaction that writes is alone anyway. */
    const char *sql = s->db->is_postgres && s->in_transaction
                          ? "SELECT status FROM documents WHERE tenant = ?1 AND id = ?2 FOR UPDATE"
                          : "SELECT status FROM documents WHERE tenant = ?1 AND id = ?2";
    int code = s->db->query(s, &c, sql, VALUES(V_TEXT(tenant), V_INT(id)));
    if (!code) code = s->db->step(s, &c);
    if (code < 0) return code;
    if (!code) return store__fail(s, STATUS_NOT_FOUND, "there is no document %llx", (long long)id);
    size_t n;
    if (status) *status = status_of(s->db->text(&c, 0, &n));
    s->db->close_cursor(s, &c);
    return 0;
}

/* ---- documents --------------------------------------------------------------------------------------------------- */

#define DOCUMENT_COLUMNS "d.id, d.name, d.hash, d.status, d.reason, d.bytes, d.pages, d.created, d.n_chunks, "

/* Rows of DOCUMENT_COLUMNS and the attributes. */
static int read_documents(struct store *s, struct db_cursor *c, struct store_documents *out) {
    size_t capacity = 0;
    int status;
    store_documents_deinit(out);
    while ((status = s->db->step(s, c)) == 1) {
        out->data = array_reserve(out->data, &capacity, out->n + 1, sizeof *out->data);
        struct store_document *d = &out->data[out->n++];
        *d = (struct store_document){
            .id = s->db->integer(c, 0),
            .name = store__column(s, c, 1, &out->arena),
            .hash = store__column(s, c, 2, &out->arena),
            .status = status_of(store__column(s, c, 3, &out->arena)),
            .reason = store__column(s, c, 4, &out->arena),
            .bytes = s->db->integer(c, 5),
            .pages = s->db->integer(c, 6),
            .created = s->db->integer(c, 7),
            .n_chunks = s->db->integer(c, 8),
            .attributes = store__column(s, c, 9, &out->arena),
        };
    }
    if (status < 0) store_documents_deinit(out);
    return status;
}

static int add(struct store *s, const char *tenant, const struct store_document *d, const char *attributes, int64_t *id,
               bool *existed) {
    struct db_cursor c;
    int status =
        s->db->query(s, &c,
                     "INSERT INTO documents (id, tenant, name, hash, status, reason, attributes, bytes, pages, "
                     "created, n_chunks) VALUES (?1, ?2, ?3, ?4, 'pending', '', ?5, ?6, ?7, ?8, 0) "
                     "ON CONFLICT (tenant, hash) DO NOTHING RETURNING id",
                     VALUES(V_INT(store__new_id(s)), V_TEXT(tenant), V_TEXT(d->name), V_TEXT(d->hash),
                            V_TEXT(attributes), V_INT(d->bytes), V_INT(d->pages), V_INT(s->now())));
    if (!status) status = s->db->step(s, &c);
    if (status < 0) return status;
    *existed = !status;
    if (!*existed) {
        *id = s->db->integer(&c, 0);
        return s->db->step(s, &c);
    }
    status = store__integer(s, id, "SELECT id FROM documents WHERE tenant = ?1 AND hash = ?2",
                            VALUES(V_TEXT(tenant), V_TEXT(d->hash)));
    if (status == STATUS_NOT_FOUND)
        return store__fail(s, STATUS_BUSY, "the document with this hash was deleted at this moment: try again");
    if (status) return status;
    int64_t restarted = 0;
    status = store__exec(
        s, &restarted,
        "UPDATE documents SET status = 'pending', reason = '', name = ?3, attributes = ?4, "
        "bytes = ?5, pages = ?6 WHERE tenant = ?1 AND id = ?2 AND status IN ('failed', 'cancelled')",
        VALUES(V_TEXT(tenant), V_INT(*id), V_TEXT(d->name), V_TEXT(attributes), V_INT(d->bytes), V_INT(d->pages)));
    *existed = !restarted;
    return status;
}

int store__add_document(struct store *s, const char *tenant, const struct store_document *d, const char *attributes,
                        int64_t collection, int64_t *id, bool *existed) {
    int status = add(s, tenant, d, attributes, id, existed);
    if (status || !collection) return status;
    status = store__collection(s, tenant, collection);
    if (!status) status = store__document(s, tenant, *id, NULL); /* against one who publishes it at this moment */
    if (!status)
        status = store__exec(s, NULL,
                             "INSERT INTO members (tenant, collection, document) VALUES (?1, ?2, ?3) "
                             "ON CONFLICT (collection, document) DO NOTHING",
                             VALUES(V_TEXT(tenant), V_INT(collection), V_INT(*id)));
    if (!status && *existed) status = store__change(s, tenant, collection, *id, CHANGE_PUT);
    return status;
}

int store__check_document(struct store *s, const struct store_document *d, char **attributes) {
    int status = store__check_text(s, "name", d->name, 1, STORE_MAX_NAME);
    if (!status) status = store__check_text(s, "hash", d->hash, 1, STORE_MAX_HASH);
    return status ? status : attributes_check(d->attributes, attributes, s->err, sizeof s->err);
}

int store_document_add(struct store *s, const char *tenant, const struct store_document *d, int64_t collection,
                       int64_t *id, bool *existed, char *err, size_t err_bytes) {
    char *attributes = NULL;
    bool found = false;
    *id = 0;
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__check_document(s, d, &attributes);
    if (!status) status = store__begin(s);
    if (!status) status = store__add_document(s, tenant, d, attributes, collection, id, &found);
    free(attributes);
    if (existed) *existed = found;
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_document_get(struct store *s, const char *tenant, int64_t id, struct store_documents *out, char *err,
                       size_t err_bytes) {
    struct db_cursor c;
    store_documents_deinit(out);
    int status = store__check_tenant(s, tenant);
    if (!status)
        status = s->db->query(s, &c,
                              "SELECT " DOCUMENT_COLUMNS "d.attributes FROM documents d "
                              "WHERE d.tenant = ?1 AND d.id = ?2",
                              VALUES(V_TEXT(tenant), V_INT(id)));
    if (!status) status = read_documents(s, &c, out);
    if (!status && !out->n) status = store__fail(s, STATUS_NOT_FOUND, "there is no document %llx", (long long)id);
    return store__done(s, status, err, err_bytes);
}

#define OF_TENANT                                                                                                      \
    "SELECT " DOCUMENT_COLUMNS                                                                                         \
    "d.attributes FROM documents d WHERE d.tenant = ?1 AND (?2 = '' OR d.status = ?2) AND d.id "
#define OF_COLLECTION                                                                                                  \
    "SELECT " DOCUMENT_COLUMNS "COALESCE(m.attributes, d.attributes) FROM members m "                                  \
    "JOIN documents d ON d.tenant = m.tenant AND d.id = m.document "                                                   \
    "WHERE m.tenant = ?1 AND (?2 = '' OR d.status = ?2) AND m.collection = ?5 AND m.document "

int store_document_list(struct store *s, const char *tenant, int64_t collection, enum document_status wanted,
                        struct store_page page, struct store_documents *out, char *err, size_t err_bytes) {
    static const char *const sql[2][2] = {
        {OF_TENANT "> ?3 ORDER BY d.id LIMIT ?4", OF_TENANT "< ?3 ORDER BY d.id DESC LIMIT ?4"},
        {OF_COLLECTION "> ?3 ORDER BY m.document LIMIT ?4", OF_COLLECTION "< ?3 ORDER BY m.document DESC LIMIT ?4"}};
    struct db_cursor c;
    int limit = 0;
    store_documents_deinit(out);
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__page_limit(s, page, &limit);
    if (!status && collection) status = store__collection(s, tenant, collection);
    const int64_t after = !page.after && page.newest_first ? INT64_MAX : page.after;
    const struct db_value values[] = {V_TEXT(tenant),
                                      V_TEXT(wanted == DOCUMENT_STATUS_COUNT ? "" : status_names[wanted]), V_INT(after),
                                      V_INT(limit), V_INT(collection)};
    if (!status) status = s->db->query(s, &c, sql[collection != 0][page.newest_first], values, collection ? 5 : 4);
    if (!status) status = read_documents(s, &c, out);
    return store__done(s, status, err, err_bytes);
}

int store_document_set_attributes(struct store *s, const char *tenant, int64_t id, const char *attributes, char *err,
                                  size_t err_bytes) {
    char *compact = NULL;
    int status = store__check_tenant(s, tenant);
    if (!status) status = attributes_check(attributes, &compact, s->err, sizeof s->err);
    if (!status) status = store__begin(s);
    if (!status) status = store__document(s, tenant, id, NULL);
    if (!status)
        status = store__exec(s, NULL, "UPDATE documents SET attributes = ?3 WHERE tenant = ?1 AND id = ?2",
                             VALUES(V_TEXT(tenant), V_INT(id), V_TEXT(compact)));
    if (!status) status = store__change(s, tenant, 0, id, CHANGE_ATTRIBUTES);
    free(compact);
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store__end_pending(struct store *s, const char *tenant, int64_t id, enum document_status status,
                       const char *reason) {
    return store__exec(s, NULL,
                       "UPDATE documents SET status = ?3, reason = ?4 WHERE tenant = ?1 AND id = ?2 "
                       "AND status = 'pending'",
                       VALUES(V_TEXT(tenant), V_INT(id), V_TEXT(status_names[status]), V_TEXT(reason)));
}

int store_document_end(struct store *s, const char *tenant, int64_t id, enum document_status end, const char *reason,
                       char *err, size_t err_bytes) {
    CHECK(end == DOCUMENT_FAILED || end == DOCUMENT_CANCELLED);
    enum document_status now = DOCUMENT_PENDING;
    if (!reason) reason = "";
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__check_text(s, "reason", reason, 0, STORE_MAX_TEXT);
    if (!status) status = store__begin(s);
    if (!status) status = store__document(s, tenant, id, &now);
    if (!status && now == DOCUMENT_READY)
        status = store__fail(s, STATUS_INVALID, "document %llx is ready: only a pending one can end so", (long long)id);
    if (!status) status = store__end_pending(s, tenant, id, end, reason);
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_document_delete(struct store *s, const char *tenant, int64_t id, char *err, size_t err_bytes) {
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__begin(s);
    if (!status) status = store__document(s, tenant, id, NULL);
    if (!status) status = store__change(s, tenant, 0, id, CHANGE_REMOVE);
    if (!status)
        status = store__exec(s, NULL, "DELETE FROM documents WHERE tenant = ?1 AND id = ?2",
                             VALUES(V_TEXT(tenant), V_INT(id)));
    return store__done(s, store__end(s, status), err, err_bytes);
}

/* ---- publishing -------------------------------------------------------------------------------------------------- */

static int check_chunk(struct store *s, const struct store_chunk *chunk) {
    int status = store__check_text(s, "chunk", chunk->text, 0, STORE_MAX_TEXT);
    if (!status && chunk->context) status = store__check_text(s, "context", chunk->context, 0, STORE_MAX_TEXT);
    if (status || !chunk->vector) return status;
    if (!s->dim) return store__fail(s, STATUS_INVALID, "the store has no vectors: settle their size first");
    for (int i = 0; i < s->dim; i++)
        if (!isfinite(chunk->vector[i]) || fabsf(chunk->vector[i]) > 65504.0f)
            return store__fail(s, STATUS_INVALID, "vector: expected finite numbers up to 65504, found %g at %d",
                               (double)chunk->vector[i], i);
    return 0;
}

/* Vectors are rounded to the store's format here, so that every database gives the same back. */
static const float *rounded(const struct store *s, const float *vector, float *scratch) {
    if (!vector || s->dtype == DTYPE_F32) return vector;
    for (int i = 0; i < s->dim; i++) scratch[i] = f32_from_f16(f16_from_f32(vector[i]));
    return scratch;
}

static int insert_chunk(struct store *s, const char *tenant, const struct store_chunk *k, float *scratch) {
    const float *vector = rounded(s, k->vector, scratch);
    return store__exec(s, NULL,
                       "INSERT INTO chunks (tenant, document, ordinal, text, context, start_at, end_at, "
                       "page_first, page_last, vector) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                       VALUES(V_TEXT(tenant), V_INT(k->document), V_INT(k->ordinal), V_TEXT(k->text),
                              V_TEXT(k->context), V_INT(k->start), V_INT(k->end), V_INT(k->page_first),
                              V_INT(k->page_last), V_VECTOR(vector, (size_t)s->dim)));
}

/* ids of the chunks that were inserted. */
static int read_ids(struct store *s, const char *tenant, int64_t id, struct store_chunk *chunks, size_t n) {
    struct db_cursor c;
    int status = s->db->query(s, &c, "SELECT id FROM chunks WHERE tenant = ?1 AND document = ?2 ORDER BY ordinal",
                              VALUES(V_TEXT(tenant), V_INT(id)));
    size_t i = 0;
    while (!status && (status = s->db->step(s, &c)) == 1) {
        CHECK_LT(i, n);
        chunks[i++].id = s->db->integer(&c, 0);
        status = 0;
        if (i < n) continue;
        s->db->close_cursor(s, &c);
        break;
    }
    return status;
}

int store_document_publish(struct store *s, const char *tenant, int64_t id, struct store_chunk *chunks, size_t n,
                           int64_t pages, char *err, size_t err_bytes) {
    enum document_status now = DOCUMENT_PENDING;
    float *scratch = malloc(((size_t)s->dim + 1) * sizeof *scratch);
    CHECK(scratch);
    int status = store__check_tenant(s, tenant);
    if (!status && n > STORE_MAX_CHUNKS)
        status = store__fail(s, STATUS_TOO_LARGE, "expected at most %d chunks, found %zu", STORE_MAX_CHUNKS, n);
    for (size_t i = 0; i < n && !status; i++) status = check_chunk(s, &chunks[i]);
    if (!status) status = store__begin(s);
    if (!status) status = store__document(s, tenant, id, &now);
    if (!status && now == DOCUMENT_CANCELLED)
        status = store__fail(s, STATUS_CANCELLED, "document %llx was cancelled", (long long)id);
    if (!status && now == DOCUMENT_FAILED)
        status = store__fail(s, STATUS_INVALID, "document %llx has failed: add it again first", (long long)id);
    if (!status && now == DOCUMENT_READY)
        status = store__exec(s, NULL, "DELETE FROM chunks WHERE tenant = ?1 AND document = ?2",
                             VALUES(V_TEXT(tenant), V_INT(id)));
    for (size_t i = 0; i < n && !status; i++) {
        chunks[i].document = id;
        chunks[i].ordinal = (int64_t)i;
        status = insert_chunk(s, tenant, &chunks[i], scratch);
    }
    if (!status && n) status = read_ids(s, tenant, id, chunks, n);
    if (!status)
        status = store__exec(s, NULL,
                             "UPDATE documents SET status = 'ready', reason = '', n_chunks = ?3, pages = ?4 "
                             "WHERE tenant = ?1 AND id = ?2",
                             VALUES(V_TEXT(tenant), V_INT(id), V_INT((int64_t)n), V_INT(pages)));
    if (!status) status = store__change(s, tenant, 0, id, CHANGE_PUT);
    free(scratch);
    return store__done(s, store__end(s, status), err, err_bytes);
}

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

#define CHUNK_COLUMNS "c.id, c.document, c.ordinal, c.text, c.context, c.start_at, c.end_at, c.page_first, c.page_last"

static int read_chunks(struct store *s, struct db_cursor *c, bool vectors, struct store_chunks *out) {
    size_t capacity = 0;
    int status;
    store_chunks_deinit(out);
    while ((status = s->db->step(s, c)) == 1) {
        out->data = array_reserve(out->data, &capacity, out->n + 1, sizeof *out->data);
        struct store_chunk *k = &out->data[out->n++];
        *k = (struct store_chunk){
            .id = s->db->integer(c, 0),
            .document = s->db->integer(c, 1),
            .ordinal = s->db->integer(c, 2),
            .text = store__column(s, c, 3, &out->arena),
            .context = s->db->is_null(c, 4) ? NULL : store__column(s, c, 4, &out->arena),
            .start = s->db->integer(c, 5),
            .end = s->db->integer(c, 6),
            .page_first = s->db->integer(c, 7),
            .page_last = s->db->integer(c, 8),
        };
        if (!vectors || s->db->is_null(c, 9)) continue;
        float *vector = arena_take(&out->arena, (size_t)s->dim * sizeof *vector);
        k->vector = vector;
        if (s->db->vector_of(s, c, 9, vector) == (size_t)s->dim) continue;
        status = store__fail(s, STATUS_INVALID, "chunk %lld: expected a vector of %d numbers, found damage",
                             (long long)k->id, s->dim);
        s->db->close_cursor(s, c);
        break;
    }
    if (status < 0) store_chunks_deinit(out);
    return status;
}

int store_chunk_get(struct store *s, const char *tenant, const int64_t *ids, size_t n, struct store_chunks *out,
                    char *err, size_t err_bytes) {
    struct store_chunks one = {0};
    struct db_cursor c;
    size_t capacity = 0;
    store_chunks_deinit(out);
    int status = store__check_tenant(s, tenant);
    for (size_t i = 0; i < n && !status; i++) {
        status = s->db->query(s, &c, "SELECT " CHUNK_COLUMNS " FROM chunks c WHERE c.tenant = ?1 AND c.id = ?2",
                              VALUES(V_TEXT(tenant), V_INT(ids[i])));
        if (!status) status = read_chunks(s, &c, false, &one);
        if (status) break;
        if (!one.n) {
            status = store__fail(s, STATUS_NOT_FOUND, "there is no chunk %lld", (long long)ids[i]);
            break;
        }
        out->data = array_reserve(out->data, &capacity, out->n + 1, sizeof *out->data);
        struct store_chunk *k = &out->data[out->n++];
        *k = one.data[0];
        k->text = arena_text(&out->arena, k->text, strlen(k->text));
        k->context = arena_text(&out->arena, k->context, k->context ? strlen(k->context) : 0);
    }
    store_chunks_deinit(&one);
    if (status) store_chunks_deinit(out);
    return store__done(s, status, err, err_bytes);
}

int store_chunk_range(struct store *s, const char *tenant, int64_t document, int64_t first, int64_t last, bool vectors,
                      struct store_chunks *out, char *err, size_t err_bytes) {
#define RANGE                                                                                                          \
    " FROM chunks c WHERE c.tenant = ?1 AND c.document = ?2 AND c.ordinal >= ?3 AND c.ordinal <= ?4 ORDER BY "         \
    "c.ordinal"
    struct db_cursor c;
    store_chunks_deinit(out);
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__document(s, tenant, document, NULL);
    if (!status)
        status =
            s->db->query(s, &c, vectors ? "SELECT " CHUNK_COLUMNS ", c.vector" RANGE : "SELECT " CHUNK_COLUMNS RANGE,
                         VALUES(V_TEXT(tenant), V_INT(document), V_INT(first), V_INT(last)));
    if (!status) status = read_chunks(s, &c, vectors, out);
    return store__done(s, status, err, err_bytes);
}

/* ---- for an index ------------------------------------------------------------------------------------------------ */

int store_members(struct store *s, const char *tenant, int64_t collection, int64_t first, int64_t last,
                  struct store_documents *out, char *err, size_t err_bytes) {
    struct db_cursor c;
    store_documents_deinit(out);
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__collection(s, tenant, collection);
    if (!status)
        status = s->db->query(s, &c,
                              "SELECT d.id, '', '', d.status, '', d.bytes, d.pages, d.created, d.n_chunks, "
                              "COALESCE(m.attributes, d.attributes) FROM members m "
                              "JOIN documents d ON d.tenant = m.tenant AND d.id = m.document "
                              "WHERE m.tenant = ?1 AND m.collection = ?2 AND m.document >= ?3 AND m.document <= ?4 "
                              "AND d.status = 'ready' ORDER BY m.document",
                              VALUES(V_TEXT(tenant), V_INT(collection), V_INT(first), V_INT(last)));
    if (!status) status = read_documents(s, &c, out);
    return store__done(s, status, err, err_bytes);
}

int store_member_chunks(struct store *s, const char *tenant, int64_t collection, int64_t first, int64_t last,
                        struct store_chunks *out, char *err, size_t err_bytes) {
    struct db_cursor c;
    store_chunks_deinit(out);
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__collection(s, tenant, collection);
    if (!status)
        status = s->db->query(s, &c,
                              "SELECT " CHUNK_COLUMNS ", c.vector FROM members m "
                              "JOIN documents d ON d.tenant = m.tenant AND d.id = m.document "
                              "JOIN chunks c ON c.tenant = m.tenant AND c.document = m.document "
                              "WHERE m.tenant = ?1 AND m.collection = ?2 AND m.document >= ?3 AND m.document <= ?4 "
                              "AND d.status = 'ready' ORDER BY c.document, c.ordinal",
                              VALUES(V_TEXT(tenant), V_INT(collection), V_INT(first), V_INT(last)));
    if (!status) status = read_chunks(s, &c, true, out);
    return store__done(s, status, err, err_bytes);
}
