/* store_feedback.c - what people said about answers. */
#include "rag/store_internal.h"

#include <stdlib.h>
#include <string.h>

void store_feedbacks_deinit(struct store_feedbacks *list) {
    arena_deinit(&list->arena);
    free(list->data);
    *list = (struct store_feedbacks){0};
}

static int check_chunks(struct store *s, const char *tenant, const int64_t *chunks, size_t n) {
    int status = 0;
    for (size_t i = 0; i < n && !status; i++) {
        int64_t id;
        status = store__integer(s, &id, "SELECT id FROM chunks WHERE tenant = ?1 AND id = ?2",
                                VALUES(V_TEXT(tenant), V_INT(chunks[i])));
        if (status == STATUS_NOT_FOUND) store__fail(s, status, "there is no chunk %lld", (long long)chunks[i]);
    }
    return status;
}

int store_feedback_add(struct store *s, const char *tenant, const struct store_feedback *f, int64_t *id, char *err,
                       size_t err_bytes) {
    const char *question = f->question ? f->question : "", *answer = f->answer ? f->answer : "";
    const char *comment = f->comment ? f->comment : "";
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__check_text(s, "question", question, 0, STORE_MAX_TEXT);
    if (!status) status = store__check_text(s, "answer", answer, 0, STORE_MAX_TEXT);
    if (!status) status = store__check_text(s, "comment", comment, 0, STORE_MAX_TEXT);
    if (!status && (f->rating < -1 || f->rating > 1))
        status = store__fail(s, STATUS_INVALID, "rating: expected -1, 0 or 1, found %d", f->rating);
    if (!status && f->n_chunks > 1000)
        status = store__fail(s, STATUS_INVALID, "expected at most 1000 chunks, found %zu", f->n_chunks);
    if (!status) status = store__begin(s);
    if (!status && f->collection) status = store__collection(s, tenant, f->collection);
    if (!status) status = check_chunks(s, tenant, f->chunks, f->n_chunks);
    if (!status) {
        *id = store__new_id(s);
        status = store__exec(s, NULL,
                             "INSERT INTO feedback (id, tenant, collection, rating, question, answer, comment, "
                             "chunks, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                             VALUES(V_INT(*id), V_TEXT(tenant), V_INT(f->collection), V_INT(f->rating),
                                    V_TEXT(question), V_TEXT(answer), V_TEXT(comment),
                                    V_BLOB(f->chunks, f->n_chunks * sizeof *f->chunks), V_INT(s->now())));
    }
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_feedback_list(struct store *s, const char *tenant, struct store_page page, struct store_feedbacks *out,
                        char *err, size_t err_bytes) {
#define FEEDBACK                                                                                                       \
    "SELECT id, collection, rating, question, answer, comment, chunks, created FROM feedback WHERE tenant = ?1 AND "   \
    "id "
    struct db_cursor c;
    int limit = 0;
    size_t capacity = 0;
    store_feedbacks_deinit(out);
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__page_limit(s, page, &limit);
    const int64_t after = !page.after && page.newest_first ? INT64_MAX : page.after;
    if (!status)
        status = s->db->query(
            s, &c, page.newest_first ? FEEDBACK "< ?2 ORDER BY id DESC LIMIT ?3" : FEEDBACK "> ?2 ORDER BY id LIMIT ?3",
            VALUES(V_TEXT(tenant), V_INT(after), V_INT(limit)));
    while (!status && (status = s->db->step(s, &c)) == 1) {
        size_t bytes;
        const void *chunks = s->db->bytes(&c, 6, &bytes);
        int64_t *copy = arena_take(&out->arena, bytes + 1);
        if (bytes) memcpy(copy, chunks, bytes);
        out->data = array_reserve(out->data, &capacity, out->n + 1, sizeof *out->data);
        out->data[out->n++] = (struct store_feedback){
            .id = s->db->integer(&c, 0),
            .collection = s->db->integer(&c, 1),
            .rating = (int)s->db->integer(&c, 2),
            .question = store__column(s, &c, 3, &out->arena),
            .answer = store__column(s, &c, 4, &out->arena),
            .comment = store__column(s, &c, 5, &out->arena),
            .chunks = copy,
            .n_chunks = bytes / sizeof *copy,
            .created = s->db->integer(&c, 7),
        };
        status = 0;
    }
    if (status) store_feedbacks_deinit(out);
    return store__done(s, status, err, err_bytes);
}
