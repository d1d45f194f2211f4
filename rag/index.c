/* index.c - loading a collection, and following what others change in it. */
#include "rag/index.h"

#include <stdlib.h>
#include <string.h>

enum {
    LOAD_CHUNKS = 4096,   /* read from the store at a time, about */
    FOLLOW_CHANGES = 512, /* likewise, of changes */
    MIN_DEAD = 1024,      /* rows: below it is not worth compacting */
};
#define NONE UINT32_MAX

/* ---- documents by id --------------------------------------------------------------------------------------------- */

static uint32_t *place_of(const struct index *x, int64_t id) {
    for (size_t i = (size_t)((uint64_t)id * 0x9e3779b97f4a7c15u >> 20);; i++) {
        uint32_t *place = &x->table[i & (x->table_size - 1)];
        if (*place == NONE || x->documents[*place].id == id) return place;
    }
}

static void fill_table(struct index *x) {
    size_t size = 64;
    while (size < 2 * x->n_documents + 2) size *= 2;
    if (size > x->table_size) {
        x->table = realloc(x->table, size * sizeof *x->table);
        CHECK(x->table);
        x->table_size = size;
    }
    memset(x->table, 0xff, x->table_size * sizeof *x->table);
    for (size_t i = 0; i < x->n_documents; i++) *place_of(x, x->documents[i].id) = (uint32_t)i;
}

static struct index_document *find(struct index *x, int64_t id) {
    const uint32_t at = *place_of(x, id);
    return at == NONE || !x->documents[at].live ? NULL : &x->documents[at];
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static void set_bit(uint64_t *bits, uint32_t row, bool to) {
    if (to)
        bits[row / 64] |= (uint64_t)1 << (row % 64);
    else
        bits[row / 64] &= ~((uint64_t)1 << (row % 64));
}

static void add_row(struct index *x, struct analyser *a, const struct store_chunk *k, uint32_t document) {
    const size_t n_words = (size_t)x->n_rows / 64 + 1;
    if (x->n_rows % 64 == 0) {
        x->live = array_reserve(x->live, &x->bits_capacity[0], n_words, sizeof *x->live);
        x->has_vector = array_reserve(x->has_vector, &x->bits_capacity[1], n_words, sizeof *x->has_vector);
        x->live[n_words - 1] = x->has_vector[n_words - 1] = 0;
    }
    x->chunks = array_reserve(x->chunks, &x->chunks_capacity, (size_t)x->n_rows + 1, sizeof *x->chunks);
    x->document_of =
        array_reserve(x->document_of, &x->document_of_capacity, (size_t)x->n_rows + 1, sizeof *x->document_of);
    set_bit(x->live, x->n_rows, true);
    set_bit(x->has_vector, x->n_rows, k->vector != NULL);
    x->chunks[x->n_rows] = k->id;
    x->document_of[x->n_rows] = document;
    lexical_add(x->lexical, a, k->text, k->context);
    x->n_rows++;
}

/* Adds a document with chunks [n], which are its own. It is not there yet. */
static int add_document(struct index *x, struct analyser *a, int64_t id, const char *attributes,
                        const struct store_chunk *chunks, size_t n, char *err, size_t err_bytes) {
    struct attributes parsed;
    int status = attributes_parse(&parsed, &x->arena, attributes, err, err_bytes);
    const float **vectors = malloc((n + 1) * sizeof *vectors);
    CHECK(vectors);
    for (size_t i = 0; i < n; i++) vectors[i] = chunks[i].vector;
    if (!status && x->dense) status = dense_add(x->dense, vectors, n, err, err_bytes);
    free(vectors);
    if (status) return status;
    x->documents = array_reserve(x->documents, &x->documents_capacity, x->n_documents + 1, sizeof *x->documents);
    struct index_document *d = &x->documents[x->n_documents];
    *d = (struct index_document){
        .id = id, .first_row = x->n_rows, .n_rows = (uint32_t)n, .live = true, .attributes = parsed};
    for (size_t i = 0; i < n; i++) add_row(x, a, &chunks[i], (uint32_t)x->n_documents);
    x->n_documents++;
    if (2 * x->n_documents + 2 > x->table_size)
        fill_table(x);
    else
        *place_of(x, id) = (uint32_t)(x->n_documents - 1);
    return 0;
}

static void remove_document(struct index *x, int64_t id) {
    struct index_document *d = find(x, id);
    if (!d) return;
    d->live = false;
    for (uint32_t i = 0; i < d->n_rows; i++) set_bit(x->live, d->first_row + i, false);
    x->n_dead += d->n_rows;
}

/* Drops dead rows and documents. Attributes are parsed text in an arena: they are copied to a fresh one. */
static int compact(struct index *x, char *err, size_t err_bytes) {
    int status = x->dense ? dense_compact(x->dense, x->live, err, err_bytes) : 0;
    if (status) return status;
    lexical_compact(x->lexical, x->live);
    struct arena kept = {0};
    uint32_t n_rows = 0, n_documents = 0;
    for (size_t i = 0; i < x->n_documents; i++) {
        struct index_document d = x->documents[i];
        if (!d.live) continue;
        struct attribute *copy = arena_take(&kept, (size_t)d.attributes.n * sizeof *copy);
        for (int j = 0; j < d.attributes.n; j++) {
            copy[j] = d.attributes.data[j];
            copy[j].key = arena_text(&kept, copy[j].key, strlen(copy[j].key));
            copy[j].value.text =
                arena_text(&kept, copy[j].value.text, copy[j].value.text ? strlen(copy[j].value.text) : 0);
        }
        for (uint32_t j = 0; j < d.n_rows; j++) {
            const uint32_t from = d.first_row + j, to = n_rows + j;
            x->chunks[to] = x->chunks[from];
            x->document_of[to] = n_documents;
            set_bit(x->has_vector, to, index_bit(x->has_vector, from));
            set_bit(x->live, to, true);
        }
        d.attributes.data = copy;
        d.first_row = n_rows;
        n_rows += d.n_rows;
        x->documents[n_documents++] = d;
    }
    for (uint32_t row = n_rows; row < x->n_rows; row++) set_bit(x->live, row, false);
    arena_deinit(&x->arena);
    x->arena = kept;
    x->n_documents = n_documents;
    x->n_rows = n_rows;
    x->n_dead = 0;
    fill_table(x);
    CHECK_EQ(lexical_rows(x->lexical), n_rows);
    if (x->dense) CHECK_EQ(dense_rows(x->dense), n_rows);
    return 0;
}

/* ---- from the store ---------------------------------------------------------------------------------------------- */

/* Adds documents [n] of members, in order of ids like their chunks. What the store has of others, or no longer has, the
 * log of changes will tell. */
static int load(struct index *x, struct store *store, struct analyser *a, const struct store_document *members,
                size_t n, char *err, size_t err_bytes) {
    struct store_chunks chunks = {0};
    size_t at = 0;
    int status =
        store_member_chunks(store, x->tenant, x->collection, members[0].id, members[n - 1].id, &chunks, err, err_bytes);
    for (size_t i = 0; i < n && !status; i++) {
        while (at < chunks.n && chunks.data[at].document < members[i].id) at++;
        size_t end = at;
        while (end < chunks.n && chunks.data[end].document == members[i].id) end++;
        status = add_document(x, a, members[i].id, members[i].attributes, chunks.data + at, end - at, err, err_bytes);
        at = end;
    }
    store_chunks_deinit(&chunks);
    return status;
}

int index_open(struct index **out, struct store *store, struct exec *e, struct analyser *a, const char *tenant,
               int64_t collection, char *err, size_t err_bytes) {
    struct store_documents members = {0};
    *out = NULL;
    struct index *x = calloc(1, sizeof *x);
    CHECK(x);
    x->collection = collection;
    x->lexical = lexical_open();
    if (store_dim(store)) x->dense = dense_open(e, store_dim(store));
    fill_table(x);
    /* The number first: what changes while this loads is done again by index_follow, which does no harm. */
    int status = store_change_last(store, &x->seq, err, err_bytes);
    if (!status) status = store_members(store, tenant, collection, 0, INT64_MAX, &members, err, err_bytes);
    if (!status) strcpy(x->tenant, tenant); /* the store has checked its length */
    for (size_t i = 0; i < members.n && !status;) {
        size_t n = 0;
        for (int64_t n_chunks = 0; i + n < members.n && n_chunks < LOAD_CHUNKS && n < LOAD_CHUNKS; n++)
            n_chunks += members.data[i + n].n_chunks;
        status = load(x, store, a, members.data + i, n, err, err_bytes);
        i += n;
    }
    store_documents_deinit(&members);
    if (status) {
        index_close(x);
        return status;
    }
    *out = x;
    return 0;
}

void index_close(struct index *x) {
    if (!x) return;
    dense_close(x->dense);
    lexical_close(x->lexical);
    arena_deinit(&x->arena);
    free(x->live);
    free(x->has_vector);
    free(x->chunks);
    free(x->document_of);
    free(x->documents);
    free(x->table);
    free(x);
}

size_t index_bytes(const struct index *x) {
    return (x->dense ? dense_bytes(x->dense) : 0) + lexical_bytes(x->lexical) + x->arena.bytes +
           x->chunks_capacity * sizeof *x->chunks + x->document_of_capacity * sizeof *x->document_of +
           x->documents_capacity * sizeof *x->documents + x->table_size * sizeof *x->table;
}

static int apply(struct index *x, struct store *store, struct analyser *a, const struct store_change *change, char *err,
                 size_t err_bytes) {
    struct store_documents member = {0};
    int status = 0;
    switch (change->kind) {
    case CHANGE_DROP:
        return fail(err, err_bytes, STATUS_NOT_FOUND, "there is no collection %llx", (long long)x->collection);
    case CHANGE_REMOVE:
        remove_document(x, change->document);
        return 0;
    case CHANGE_PUT:
    case CHANGE_ATTRIBUTES:
        break;
    }
    status =
        store_members(store, x->tenant, x->collection, change->document, change->document, &member, err, err_bytes);
    struct index_document *d = find(x, change->document);
    if (!status && member.n && change->kind == CHANGE_ATTRIBUTES && d)
        status = attributes_parse(&d->attributes, &x->arena, member.data->attributes, err, err_bytes);
    if (!status && change->kind == CHANGE_PUT) {
        remove_document(x, change->document);
        if (member.n) status = load(x, store, a, member.data, 1, err, err_bytes);
    }
    store_documents_deinit(&member);
    return status;
}

int index_follow(struct index *x, struct store *store, struct analyser *a, char *err, size_t err_bytes) {
    struct store_change_list changes = {0};
    int64_t last;
    int status = store_change_last(store, &last, err, err_bytes);
    while (!status && x->seq < last) {
        status = store_changes(store, x->tenant, x->collection, x->seq, FOLLOW_CHANGES, &changes, err, err_bytes);
        for (size_t i = 0; i < changes.n && !status; i++) {
            status = apply(x, store, a, &changes.data[i], err, err_bytes);
            if (!status) x->seq = changes.data[i].seq;
        }
        if (!status && changes.n < FOLLOW_CHANGES && x->seq < last) x->seq = last; /* the others are not about us */
    }
    store_change_list_deinit(&changes);
    if (!status && x->n_dead >= MIN_DEAD && x->n_dead > x->n_rows / 4) status = compact(x, err, err_bytes);
    return status;
}
