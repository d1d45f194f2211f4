/* store_collections.c - collections, who is in them, and the log of changes that an index follows. */
#include "rag/filter.h"
#include "rag/store_internal.h"

#include <stdlib.h>
#include <string.h>

enum { KEPT_CHANGES = 100000, TRIM_EVERY = 1024 };

void store_collections_deinit(struct store_collections *list) {
    arena_deinit(&list->arena);
    free(list->data);
    *list = (struct store_collections){0};
}

void store_change_list_deinit(struct store_change_list *list) {
    arena_deinit(&list->arena);
    free(list->data);
    *list = (struct store_change_list){0};
}

int store__collection(struct store *s, const char *tenant, int64_t id) {
    int64_t found;
    int status = store__integer(s, &found, "SELECT id FROM collections WHERE tenant = ?1 AND id = ?2",
                                VALUES(V_TEXT(tenant), V_INT(id)));
    if (status != STATUS_NOT_FOUND) return status;
    return store__fail(s, STATUS_NOT_FOUND, "there is no collection %llx", (long long)id);
}

/* ---- collections ------------------------------------------------------------------------------------------------- */

int store_collection_add(struct store *s, const char *tenant, const char *name, const char *attributes, int64_t *id,
                         char *err, size_t err_bytes) {
    char *compact = NULL;
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__check_text(s, "name", name, 0, STORE_MAX_NAME);
    if (!status) status = attributes_check(attributes, &compact, s->err, sizeof s->err);
    if (!status) status = store__begin(s);
    if (!status) {
        *id = store__new_id(s);
        status = store__exec(s, NULL,
                             "INSERT INTO collections (id, tenant, name, attributes, created) "
                             "VALUES (?1, ?2, ?3, ?4, ?5)",
                             VALUES(V_INT(*id), V_TEXT(tenant), V_TEXT(name), V_TEXT(compact), V_INT(s->now())));
    }
    free(compact);
    return store__done(s, store__end(s, status), err, err_bytes);
}

static int read_counts(struct store *s, const char *tenant, struct store_collection *k) {
    struct db_cursor c;
    int status = s->db->query(s, &c,
                              "SELECT d.status, count(*), CAST(sum(d.bytes) AS BIGINT) FROM members m "
                              "JOIN documents d ON d.tenant = m.tenant AND d.id = m.document "
                              "WHERE m.tenant = ?1 AND m.collection = ?2 GROUP BY d.status",
                              VALUES(V_TEXT(tenant), V_INT(k->id)));
    while (!status && (status = s->db->step(s, &c)) == 1) {
        size_t n;
        const char *name = s->db->text(&c, 0, &n);
        for (int i = 0; i < DOCUMENT_STATUS_COUNT; i++)
            if (!strcmp(name, document_status_name((enum document_status)i))) k->counts[i] = s->db->integer(&c, 1);
        k->bytes += s->db->integer(&c, 2);
        status = 0;
    }
    return status;
}

static int read_collections(struct store *s, const char *tenant, struct db_cursor *c, struct store_collections *out) {
    size_t capacity = 0;
    int status;
    store_collections_deinit(out);
    while ((status = s->db->step(s, c)) == 1) {
        out->data = array_reserve(out->data, &capacity, out->n + 1, sizeof *out->data);
        out->data[out->n++] = (struct store_collection){
            .id = s->db->integer(c, 0),
            .name = store__column(s, c, 1, &out->arena),
            .attributes = store__column(s, c, 2, &out->arena),
            .created = s->db->integer(c, 3),
        };
    }
    for (size_t i = 0; i < out->n && !status; i++) status = read_counts(s, tenant, &out->data[i]);
    if (status) store_collections_deinit(out);
    return status;
}

int store_collection_get(struct store *s, const char *tenant, int64_t id, struct store_collections *out, char *err,
                         size_t err_bytes) {
    struct db_cursor c;
    store_collections_deinit(out);
    int status = store__check_tenant(s, tenant);
    if (!status)
        status =
            s->db->query(s, &c, "SELECT id, name, attributes, created FROM collections WHERE tenant = ?1 AND id = ?2",
                         VALUES(V_TEXT(tenant), V_INT(id)));
    if (!status) status = read_collections(s, tenant, &c, out);
    if (!status && !out->n) status = store__fail(s, STATUS_NOT_FOUND, "there is no collection %llx", (long long)id);
    return store__done(s, status, err, err_bytes);
}

int store_collection_find(struct store *s, const char *tenant, const char *name, int64_t *id, char *err,
                          size_t err_bytes) {
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__check_text(s, "name", name, 0, STORE_MAX_NAME);
    if (!status) {
        status = store__integer(s, id, "SELECT id FROM collections WHERE tenant = ?1 AND name = ?2 ORDER BY id LIMIT 1",
                                VALUES(V_TEXT(tenant), V_TEXT(name)));
        if (status == STATUS_NOT_FOUND) store__fail(s, status, "there is no collection \"%.200s\"", name);
    }
    return store__done(s, status, err, err_bytes);
}

int store_collection_list(struct store *s, const char *tenant, struct store_page page, struct store_collections *out,
                          char *err, size_t err_bytes) {
#define COLLECTIONS "SELECT id, name, attributes, created FROM collections WHERE tenant = ?1 AND id "
    struct db_cursor c;
    int limit = 0;
    store_collections_deinit(out);
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__page_limit(s, page, &limit);
    const int64_t after = !page.after && page.newest_first ? INT64_MAX : page.after;
    if (!status)
        status = s->db->query(s, &c,
                              page.newest_first ? COLLECTIONS "< ?2 ORDER BY id DESC LIMIT ?3"
                                                : COLLECTIONS "> ?2 ORDER BY id LIMIT ?3",
                              VALUES(V_TEXT(tenant), V_INT(after), V_INT(limit)));
    if (!status) status = read_collections(s, tenant, &c, out);
    return store__done(s, status, err, err_bytes);
}

int store_collection_update(struct store *s, const char *tenant, int64_t id, const char *name, const char *attributes,
                            char *err, size_t err_bytes) {
    char *compact = NULL;
    int status = store__check_tenant(s, tenant);
    if (!status && name) status = store__check_text(s, "name", name, 0, STORE_MAX_NAME);
    if (!status && attributes) status = attributes_check(attributes, &compact, s->err, sizeof s->err);
    if (!status) status = store__begin(s);
    if (!status) status = store__collection(s, tenant, id);
    if (!status)
        status = store__exec(s, NULL,
                             "UPDATE collections SET name = COALESCE(?3, name), attributes = "
                             "COALESCE(?4, attributes) WHERE tenant = ?1 AND id = ?2",
                             VALUES(V_TEXT(tenant), V_INT(id), V_TEXT(name), V_TEXT(compact)));
    free(compact);
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_collection_delete(struct store *s, const char *tenant, int64_t id, char *err, size_t err_bytes) {
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__begin(s);
    if (!status) status = store__collection(s, tenant, id);
    if (!status) status = store__change(s, tenant, id, 0, CHANGE_DROP);
    const struct db_value at[] = {V_TEXT(tenant), V_INT(id)};
    if (!status) status = store__exec(s, NULL, "DELETE FROM settings WHERE tenant = ?1 AND collection = ?2", at, 2);
    if (!status) status = store__exec(s, NULL, "DELETE FROM collections WHERE tenant = ?1 AND id = ?2", at, 2);
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_collection_put(struct store *s, const char *tenant, int64_t id, int64_t document, const char *attributes,
                         char *err, size_t err_bytes) {
    char *compact = NULL;
    enum document_status now = DOCUMENT_PENDING;
    int status = store__check_tenant(s, tenant);
    if (!status && attributes) status = attributes_check(attributes, &compact, s->err, sizeof s->err);
    if (!status) status = store__begin(s);
    if (!status) status = store__collection(s, tenant, id);
    if (!status) status = store__document(s, tenant, document, &now);
    if (!status)
        status = store__exec(s, NULL,
                             "INSERT INTO members (tenant, collection, document, attributes) "
                             "VALUES (?1, ?2, ?3, ?4) ON CONFLICT (collection, document) DO UPDATE "
                             "SET attributes = excluded.attributes",
                             VALUES(V_TEXT(tenant), V_INT(id), V_INT(document), V_TEXT(compact)));
    if (!status && now == DOCUMENT_READY) status = store__change(s, tenant, id, document, CHANGE_PUT);
    free(compact);
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_collection_remove(struct store *s, const char *tenant, int64_t id, int64_t document, char *err,
                            size_t err_bytes) {
    int64_t removed = 0;
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__begin(s);
    if (!status) status = store__collection(s, tenant, id);
    if (!status) status = store__document(s, tenant, document, NULL);
    if (!status)
        status = store__exec(s, &removed, "DELETE FROM members WHERE tenant = ?1 AND collection = ?2 AND document = ?3",
                             VALUES(V_TEXT(tenant), V_INT(id), V_INT(document)));
    if (!status && !removed)
        status = store__fail(s, STATUS_NOT_FOUND, "document %llx is not in collection %llx", (long long)document,
                             (long long)id);
    if (!status) status = store__change(s, tenant, id, document, CHANGE_REMOVE);
    return store__done(s, store__end(s, status), err, err_bytes);
}

/* ---- changes ----------------------------------------------------------------------------------------------------- */

/* The counter's row stays locked until the transaction ends: numbers become visible in their order and without gaps, so
 * that nobody who has read up to n ever misses one below it. */
static int log_change(struct store *s, const char *tenant, int64_t collection, int64_t document,
                      enum change_kind kind) {
    int64_t seq = 0;
    int status = store__integer(s, &seq, "UPDATE counters SET value = value + 1 WHERE name = 'changes' RETURNING value",
                                NULL, 0);
    if (!status)
        status = store__exec(s, NULL,
                             "INSERT INTO changes (seq, tenant, collection, document, kind) "
                             "VALUES (?1, ?2, ?3, ?4, ?5)",
                             VALUES(V_INT(seq), V_TEXT(tenant), V_INT(collection), V_INT(document), V_INT(kind)));
    if (!status && seq % TRIM_EVERY == 0)
        status = store__exec(s, NULL, "DELETE FROM changes WHERE seq <= ?1", VALUES(V_INT(seq - KEPT_CHANGES)));
    return status;
}

int store__change(struct store *s, const char *tenant, int64_t collection, int64_t document, enum change_kind kind) {
    if (collection) return log_change(s, tenant, collection, document, kind);
    struct db_cursor c;
    size_t n = 0, capacity = 0;
    int64_t *collections = NULL;
    int status = s->db->query(s, &c,
                              "SELECT collection FROM members WHERE tenant = ?1 AND document = ?2 "
                              "ORDER BY collection",
                              VALUES(V_TEXT(tenant), V_INT(document)));
    while (!status && (status = s->db->step(s, &c)) == 1) {
        collections = array_reserve(collections, &capacity, n + 1, sizeof *collections);
        collections[n++] = s->db->integer(&c, 0);
        status = 0;
    }
    for (size_t i = 0; i < n && !status; i++) status = log_change(s, tenant, collections[i], document, kind);
    free(collections);
    return status;
}

int store_change_last(struct store *s, int64_t *seq, char *err, size_t err_bytes) {
    int status = store__integer(s, seq, "SELECT value FROM counters WHERE name = 'changes'", NULL, 0);
    if (status == STATUS_NOT_FOUND) store__fail(s, status, "the store's counters are damaged");
    return store__done(s, status, err, err_bytes);
}

int store_changes(struct store *s, const char *tenant, int64_t collection, int64_t after, int limit,
                  struct store_change_list *out, char *err, size_t err_bytes) {
    struct db_cursor c;
    int64_t oldest = 0;
    size_t capacity = 0;
    store_change_list_deinit(out);
    int status = store__check_tenant(s, tenant);
    if (!status)
        status = s->db->query(s, &c,
                              "SELECT seq, kind, document FROM changes WHERE tenant = ?1 AND collection = ?2 "
                              "AND seq > ?3 ORDER BY seq LIMIT ?4",
                              VALUES(V_TEXT(tenant), V_INT(collection), V_INT(after), V_INT(limit)));
    while (!status && (status = s->db->step(s, &c)) == 1) {
        out->data = array_reserve(out->data, &capacity, out->n + 1, sizeof *out->data);
        out->data[out->n++] = (struct store_change){.seq = s->db->integer(&c, 0),
                                                    .kind = (enum change_kind)s->db->integer(&c, 1),
                                                    .document = s->db->integer(&c, 2)};
        status = 0;
    }
    /* Asked for afterwards: what was trimmed in between shows as a gap. */
    if (!status) status = store__integer(s, &oldest, "SELECT COALESCE(min(seq), 0) FROM changes", NULL, 0);
    if (!status && oldest > after + 1)
        status = store__fail(s, STATUS_TOO_LARGE, "the log of changes begins at %lld: load the collection anew",
                             (long long)oldest);
    if (status) store_change_list_deinit(out);
    return store__done(s, status, err, err_bytes);
}
