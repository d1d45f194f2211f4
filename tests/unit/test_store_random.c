/* test_store_random.c - random histories of a store beside a model of it in memory.
 *
 * Three tenants add, publish, end and delete documents and collections through two connections, with ids of their own
 * and of each other. After each call the status must be the model's; every so often the whole store is held against the
 * model, one connection is closed and opened again, and a follower that knows the log of changes alone must have
 * arrived at the same members as the store. */
#include "tests/unit/store_fixture.h"

enum { TENANTS = 3, DOCUMENTS = 40, COLLECTIONS = 6, STEPS = 3000, CHECK_EVERY = 250 };
static const char *const tenants[TENANTS] = {"alice", "bob", ""};

static uint64_t state;
static int below(int n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int)((state >> 33) % (uint64_t)n);
}

struct model_document {
    int64_t id; /* 0: there is none */
    int tenant, hash;
    enum document_status status;
    int n_chunks, attributes;
};
struct model_collection {
    int64_t id;
    int tenant;
    bool has[DOCUMENTS]; /* by the documents' places below */
    int own[DOCUMENTS];  /* attributes of the membership, -1: the document's */
    int64_t seq;         /* the follower: how far, and what it believes */
    int64_t followed[DOCUMENTS];
};
struct world {
    struct fixture fixture;
    struct store *stores[2];
    struct model_document documents[DOCUMENTS];
    struct model_collection collections[COLLECTIONS];
};

static const char *attributes_text(int n) {
    static char text[32];
    snprintf(text, sizeof text, "{\"n\":%d}", n);
    return text;
}

/* What a call with these ids must return. */
static int expected(bool found) {
    return found ? 0 : STATUS_NOT_FOUND;
}

#define RETURNS(code, call)                                                                                            \
    do {                                                                                                               \
        char err[ERR_BYTES] = "";                                                                                      \
        const int got = (call), want = (code);                                                                         \
        cr_assert_eq(got, want, "%s: expected %s, found %s: %s", #call, status_text(want), status_text(got), err);     \
    } while (0)

static int find_hash(const struct world *w, int tenant, int hash) {
    for (int i = 0; i < DOCUMENTS; i++)
        if (w->documents[i].id && w->documents[i].tenant == tenant && w->documents[i].hash == hash) return i;
    return -1;
}

static void add_document_step(struct world *w, struct store *s, int t) {
    char name[32];
    const int hash = below(60), c = below(COLLECTIONS + 2), attributes = below(5);
    struct model_collection *k = c < COLLECTIONS ? &w->collections[c] : NULL;
    int64_t id = 0;
    bool existed = false;
    snprintf(name, sizeof name, "hash%d", hash);
    const struct store_document d = {
        .name = name, .hash = name, .attributes = attributes_text(attributes), .bytes = hash};
    int at = find_hash(w, t, hash), place = 0;
    while (place < DOCUMENTS && w->documents[place].id) place++;
    if (at < 0 && place == DOCUMENTS) return; /* the model is full */
    const bool found = !k || (k->id && k->tenant == t);
    if (k && !k->id) return;
    RETURNS(expected(found), store_document_add(s, tenants[t], &d, k ? k->id : 0, &id, &existed, ERR));
    if (!found) return;
    if (at < 0) {
        at = place;
        w->documents[at] = (struct model_document){.id = id, .tenant = t, .hash = hash, .attributes = attributes};
        cr_assert_not(existed);
    } else {
        struct model_document *m = &w->documents[at];
        const bool ended = m->status == DOCUMENT_FAILED || m->status == DOCUMENT_CANCELLED;
        cr_assert(id == m->id && existed == !ended);
        if (ended) {
            m->status = DOCUMENT_PENDING;
            m->attributes = attributes;
        }
    }
    if (k && !k->has[at]) {
        k->has[at] = true;
        k->own[at] = -1;
    }
}

static void step(struct world *w) {
    struct store *s = w->stores[below(2)];
    const int t = below(TENANTS), action = below(10);
    struct model_document *d = &w->documents[below(DOCUMENTS)];
    struct model_collection *k = &w->collections[below(COLLECTIONS)];
    const int at = (int)(d - w->documents), n = below(7);
    const bool own_d = d->id && d->tenant == t, own_k = k->id && k->tenant == t;
    char name[32];
    snprintf(name, sizeof name, "hash%d", d->hash);
    if (!d->id && action > 1 && action < 8) return;
    switch (action) {
    case 0:
    case 1:
        add_document_step(w, s, t);
        return;
    case 2:
    case 3: {
        int status = !own_d                            ? STATUS_NOT_FOUND
                     : d->status == DOCUMENT_CANCELLED ? STATUS_CANCELLED
                     : d->status == DOCUMENT_FAILED    ? STATUS_INVALID
                                                       : 0;
        RETURNS(status, publish_chunks(s, tenants[t], d->id, name, n, ERR));
        if (status) return;
        d->status = DOCUMENT_READY;
        d->n_chunks = n;
        return;
    }
    case 4: {
        const enum document_status end = n % 2 ? DOCUMENT_FAILED : DOCUMENT_CANCELLED;
        int status = !own_d ? STATUS_NOT_FOUND : d->status == DOCUMENT_READY ? STATUS_INVALID : 0;
        RETURNS(status, store_document_end(s, tenants[t], d->id, end, "reason", ERR));
        if (!status && d->status == DOCUMENT_PENDING) d->status = end;
        return;
    }
    case 5:
        RETURNS(expected(own_d), store_document_set_attributes(s, tenants[t], d->id, attributes_text(n), ERR));
        if (own_d) d->attributes = n;
        return;
    case 6:
        RETURNS(expected(own_d), store_document_delete(s, tenants[t], d->id, ERR));
        if (!own_d) return;
        *d = (struct model_document){0};
        for (int i = 0; i < COLLECTIONS; i++) w->collections[i].has[at] = false;
        return;
    case 7:
        if (!k->id) return;
        if (n < 4) {
            RETURNS(expected(own_d && own_k),
                    store_collection_put(s, tenants[t], k->id, d->id, n ? attributes_text(n) : NULL, ERR));
            if (!own_d || !own_k) return;
            k->has[at] = true;
            k->own[at] = n ? n : -1;
        } else {
            RETURNS(expected(own_d && own_k && k->has[at]), store_collection_remove(s, tenants[t], k->id, d->id, ERR));
            if (own_d && own_k) k->has[at] = false;
        }
        return;
    case 8:
        if (k->id) return;
        *k = (struct model_collection){.tenant = t};
        RETURNS(0, store_collection_add(s, tenants[t], "c", NULL, &k->id, ERR));
        return;
    default:
        if (!k->id || n) return;
        RETURNS(expected(own_k), store_collection_delete(s, tenants[t], k->id, ERR));
        if (own_k) *k = (struct model_collection){0};
    }
}

/* ---- the whole store against the model --------------------------------------------------------------------------- */

static void check_chunks(struct store *s, const struct model_document *m) {
    struct store_chunks chunks = {0};
    char text[64];
    OK(store_chunk_range(s, tenants[m->tenant], m->id, 0, INT64_MAX, true, &chunks, ERR));
    cr_assert_eq((int)chunks.n, m->status == DOCUMENT_READY ? m->n_chunks : 0);
    for (size_t i = 0; i < chunks.n; i++) {
        snprintf(text, sizeof text, "hash%d chunk %zu", m->hash, i);
        cr_assert_str_eq(chunks.data[i].text, text);
        cr_assert_eq(!chunks.data[i].vector, i % 5 == 4);
        if (chunks.data[i].vector) cr_assert_eq(chunks.data[i].vector[1], (float)i + 0.125f);
    }
    store_chunks_deinit(&chunks);
}

static void check_documents(const struct world *w, struct store *s) {
    struct store_documents list = {0};
    for (int t = 0; t < TENANTS; t++) {
        size_t n = 0;
        OK(store_document_list(s, tenants[t], 0, DOCUMENT_STATUS_COUNT, (struct store_page){.limit = 1000}, &list,
                               ERR));
        for (int i = 0; i < DOCUMENTS; i++) {
            const struct model_document *m = &w->documents[i];
            if (!m->id || m->tenant != t) continue;
            size_t j = 0;
            while (list.data[j].id != m->id) cr_assert_lt(++j, list.n, "a document is lost");
            const struct store_document *d = &list.data[j];
            cr_assert_eq(d->status, m->status);
            cr_assert_eq(d->bytes >= 0 && d->n_chunks, m->status == DOCUMENT_READY && m->n_chunks);
            cr_assert_str_eq(d->attributes, attributes_text(m->attributes));
            check_chunks(s, m);
            n++;
        }
        cr_assert_eq(list.n, n, "there are documents that nobody added");
    }
    store_documents_deinit(&list);
}

static void check_collections(const struct world *w, struct store *s) {
    struct store_documents members = {0};
    struct store_collections info = {0};
    struct store_chunks chunks = {0};
    for (int c = 0; c < COLLECTIONS; c++) {
        const struct model_collection *k = &w->collections[c];
        if (!k->id) continue;
        size_t n = 0, n_chunks = 0;
        int64_t counts[DOCUMENT_STATUS_COUNT] = {0};
        OK(store_members(s, tenants[k->tenant], k->id, 0, INT64_MAX, &members, ERR));
        for (int i = 0; i < DOCUMENTS; i++) {
            const struct model_document *m = &w->documents[i];
            if (!k->has[i]) continue;
            counts[m->status]++;
            if (m->status != DOCUMENT_READY) continue;
            size_t j = 0;
            while (members.data[j].id != m->id) cr_assert_lt(++j, members.n, "a member is lost");
            cr_assert_str_eq(members.data[j].attributes, attributes_text(k->own[i] < 0 ? m->attributes : k->own[i]));
            n_chunks += (size_t)m->n_chunks;
            n++;
        }
        cr_assert_eq(members.n, n);
        OK(store_collection_get(s, tenants[k->tenant], k->id, &info, ERR));
        cr_assert(!memcmp(info.data->counts, counts, sizeof counts));
        OK(store_member_chunks(s, tenants[k->tenant], k->id, 0, INT64_MAX, &chunks, ERR));
        cr_assert_eq(chunks.n, n_chunks);
    }
    store_chunks_deinit(&chunks);
    store_collections_deinit(&info);
    store_documents_deinit(&members);
}

/* A follower knows what the log says, and asks the store only whether a document is ready there now. */
static void check_followers(struct world *w, struct store *s) {
    struct store_change_list changes = {0};
    struct store_documents member = {0};
    for (int c = 0; c < COLLECTIONS; c++) {
        struct model_collection *k = &w->collections[c];
        if (!k->id) continue;
        do {
            OK(store_changes(s, tenants[k->tenant], k->id, k->seq, 7, &changes, ERR));
            for (size_t i = 0; i < changes.n; i++) {
                const struct store_change *change = &changes.data[i];
                int place = 0, empty = -1;
                while (place < DOCUMENTS && k->followed[place] != change->document) {
                    if (!k->followed[place] && empty < 0) empty = place;
                    place++;
                }
                cr_assert_lt(k->seq, change->seq);
                k->seq = change->seq;
                cr_assert_neq(change->kind, CHANGE_DROP);
                if (change->kind == CHANGE_ATTRIBUTES) continue;
                if (place < DOCUMENTS)
                    k->followed[place] = 0;
                else
                    place = empty;
                OK(store_members(s, tenants[k->tenant], k->id, change->document, change->document, &member, ERR));
                if (change->kind == CHANGE_PUT && member.n) k->followed[place] = change->document;
            }
        } while (changes.n == 7);
        int n = 0;
        for (int i = 0; i < DOCUMENTS; i++) n += k->followed[i] != 0;
        for (int i = 0; i < DOCUMENTS; i++) {
            const struct model_document *m = &w->documents[i];
            if (!k->has[i] || m->status != DOCUMENT_READY) continue;
            int j = 0;
            while (k->followed[j] != m->id) cr_assert_lt(++j, DOCUMENTS, "the log did not tell of a member");
            n--;
        }
        cr_assert_eq(n, 0, "the log did not tell that a member went");
    }
    store_change_list_deinit(&changes);
    store_documents_deinit(&member);
}

static void history(uint64_t seed) {
    struct world *w = calloc(1, sizeof *w);
    state = seed;
    fixture_init(&w->fixture);
    for (int i = 0; i < 2; i++) w->stores[i] = fixture_open(&w->fixture);
    for (int i = 1; i <= (on_postgres() ? STEPS / 3 : STEPS); i++) {
        step(w);
        if (i % CHECK_EVERY) continue;
        struct store **again = &w->stores[below(2)];
        store_close(*again);
        *again = fixture_open(&w->fixture);
        check_documents(w, *again);
        check_collections(w, *again);
        check_followers(w, *again);
    }
    for (int i = 0; i < 2; i++) store_close(w->stores[i]);
    fixture_deinit(&w->fixture);
    free(w);
}

Test(store_random, history_1) {
    history(1);
}
Test(store_random, history_2) {
    history(2);
}
