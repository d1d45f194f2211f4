/* test_store.c - rag/store.h call by call: what is kept, what is refused, who may see it. Jobs: test_store_jobs.c; random
 * histories: test_store_random.c; a process that is killed: test_store_crash.c. */
#include "rag/store_internal.h"
#include "tests/unit/store_fixture.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>

static struct fixture fixture;
static struct store *s;

static void set_up(void) {
    signal(SIGPIPE, SIG_IGN);
    fixture_now = 1000;
    fixture_init(&fixture);
    s = fixture_open(&fixture);
}

static void tear_down(void) {
    store_close(s);
    fixture_deinit(&fixture);
}

TestSuite(store, .init = set_up, .fini = tear_down);

/* ---- documents and chunks ---------------------------------------------------------------------------------------- */

Test(store, a_document_comes_back_as_it_was_given) {
    int64_t id = 0;
    bool existed = true;
    struct store_documents list = {0};
    const struct store_document d = {.name = "Bericht \xC3\xBC"
                                             "ber 'x'.pdf",
                                     .hash = "ab12",
                                     .bytes = 123456789012,
                                     .pages = 3,
                                     .attributes = "{ \"year\": 2024, \"kind\": \"report\", \"ok\": true }"};
    OK(store_document_add(s, "alice", &d, 0, &id, &existed, ERR));
    cr_assert(!existed && id > 0);
    OK(store_document_get(s, "alice", id, &list, ERR));
    cr_assert_eq(list.n, 1);
    const struct store_document *found = list.data;
    cr_assert_eq(found->id, id);
    cr_assert_str_eq(found->name, d.name);
    cr_assert_str_eq(found->hash, d.hash);
    cr_assert_str_eq(found->attributes, "{\"year\":2024,\"kind\":\"report\",\"ok\":true}");
    cr_assert_str_eq(found->reason, "");
    cr_assert(found->status == DOCUMENT_PENDING && found->bytes == d.bytes && found->pages == 3);
    cr_assert(found->created == 1000 && found->n_chunks == 0);
    store_documents_deinit(&list);
}

Test(store, chunks_come_back_with_ordinals_and_vectors) {
    struct store_chunks chunks = {0};
    int64_t id = add_ready(s, "alice", "a", 0, 13);
    cr_assert_eq(status_of(s, "alice", id), DOCUMENT_READY);
    OK(store_chunk_range(s, "alice", id, 3, 7, true, &chunks, ERR));
    cr_assert_eq(chunks.n, 5);
    for (int i = 0; i < 5; i++) {
        const struct store_chunk *k = &chunks.data[i];
        char text[64];
        snprintf(text, sizeof text, "a chunk %d", i + 3);
        cr_assert_str_eq(k->text, text);
        cr_assert_eq(k->ordinal, i + 3);
        cr_assert_eq(k->document, id);
        cr_assert((i + 3) % 2 ? !strcmp(k->context, "Heading") : !k->context);
        cr_assert(k->start == (i + 3) * 10 && k->end == (i + 3) * 10 + 9 && k->page_first == 1 && k->page_last == 2);
        if ((i + 3) % 5 == 4) {
            cr_assert_null(k->vector);
            continue;
        }
        for (int j = 0; j < DIM; j++) cr_assert_eq(k->vector[j], (float)(i + 3) + (float)j / 8);
    }
    const int64_t ids[] = {chunks.data[4].id, chunks.data[0].id};
    struct store_chunks some = {0};
    OK(store_chunk_get(s, "alice", ids, 2, &some, ERR));
    cr_assert_str_eq(some.data[0].text, "a chunk 7");
    cr_assert_str_eq(some.data[1].text, "a chunk 3");
    const int64_t wrong[] = {ids[0], INT64_MAX};
    FAILS(STATUS_NOT_FOUND, store_chunk_get(s, "alice", wrong, 2, &some, ERR));
    store_chunks_deinit(&some);
    store_chunks_deinit(&chunks);
}

Test(store, the_same_content_is_one_document) {
    int64_t first = add_document(s, "alice", "same", 0), id = 0;
    bool existed = false;
    const struct store_document again = {.name = "another name", .hash = "same"};
    OK(store_document_add(s, "alice", &again, 0, &id, &existed, ERR));
    cr_assert(existed && id == first);
    OK(store_document_add(s, "bob", &again, 0, &id, &existed, ERR));
    cr_assert(!existed && id != first, "a hash is a tenant's own");
    OK(store_document_end(s, "alice", first, DOCUMENT_FAILED, "broken", ERR));
    cr_assert_eq(status_of(s, "alice", first), DOCUMENT_FAILED);
    OK(store_document_add(s, "alice", &again, 0, &id, &existed, ERR));
    cr_assert(!existed && id == first, "one that failed starts anew");
    cr_assert_eq(status_of(s, "alice", first), DOCUMENT_PENDING);
}

Test(store, publishing_again_replaces_the_chunks) {
    struct store_chunks chunks = {0};
    int64_t id = add_ready(s, "alice", "a", 0, 7);
    OK(publish_chunks(s, "alice", id, "new", 3, ERR));
    OK(store_chunk_range(s, "alice", id, 0, 100, false, &chunks, ERR));
    cr_assert_eq(chunks.n, 3);
    cr_assert_str_eq(chunks.data[0].text, "new chunk 0");
    store_chunks_deinit(&chunks);
}

Test(store, what_ended_is_not_published) {
    int64_t a = add_document(s, "alice", "a", 0), b = add_document(s, "alice", "b", 0),
            c = add_ready(s, "alice", "c", 0, 1);
    OK(store_document_end(s, "alice", a, DOCUMENT_CANCELLED, NULL, ERR));
    FAILS(STATUS_CANCELLED, publish_chunks(s, "alice", a, "a", 2, ERR));
    OK(store_document_end(s, "alice", b, DOCUMENT_FAILED, "no text", ERR));
    FAILS(STATUS_INVALID, publish_chunks(s, "alice", b, "b", 2, ERR));
    FAILS(STATUS_INVALID, store_document_end(s, "alice", c, DOCUMENT_FAILED, "", ERR));
    OK(store_document_delete(s, "alice", c, ERR));
    FAILS(STATUS_NOT_FOUND, publish_chunks(s, "alice", c, "c", 2, ERR));
}

Test(store, a_refused_chunk_leaves_the_document_pending) {
    int64_t id = add_document(s, "alice", "a", 0);
    float vector[DIM] = {0}, bad[DIM] = {0, 1, NAN};
    struct store_chunk chunks[3] = {
        {.text = "one", .vector = vector}, {.text = "two", .vector = bad}, {.text = "three"}};
    FAILS(STATUS_INVALID, store_document_publish(s, "alice", id, chunks, 3, 0, ERR));
    chunks[1] = (struct store_chunk){.text = "\xff\xfe"};
    FAILS(STATUS_INVALID, store_document_publish(s, "alice", id, chunks, 3, 0, ERR));
    chunks[1] = (struct store_chunk){.text = NULL};
    FAILS(STATUS_INVALID, store_document_publish(s, "alice", id, chunks, 3, 0, ERR));
    cr_assert_eq(status_of(s, "alice", id), DOCUMENT_PENDING);
    struct store_chunks found = {0};
    OK(store_chunk_range(s, "alice", id, 0, 10, false, &found, ERR));
    cr_assert_eq(found.n, 0);
    chunks[1] = (struct store_chunk){.text = ""};
    OK(store_document_publish(s, "alice", id, chunks, 3, 0, ERR));
}

Test(store, lists_are_paged_both_ways) {
    int64_t ids[10], collection = add_collection(s, "alice", "c");
    struct store_documents list = {0};
    for (int i = 0; i < 10; i++) {
        char name[16];
        snprintf(name, sizeof name, "d%d", i);
        ids[i] = add_document(s, "alice", name, i % 2 ? collection : 0);
        if (i) cr_assert_lt(ids[i - 1], ids[i]);
        if (i > 6) OK(publish_chunks(s, "alice", ids[i], name, 1, ERR));
    }
    OK(store_document_list(s, "alice", 0, DOCUMENT_STATUS_COUNT, (struct store_page){.limit = 4}, &list, ERR));
    cr_assert(list.n == 4 && list.data[0].id == ids[0] && list.data[3].id == ids[3]);
    OK(store_document_list(s, "alice", 0, DOCUMENT_STATUS_COUNT, (struct store_page){.after = ids[7]}, &list, ERR));
    cr_assert(list.n == 2 && list.data[0].id == ids[8]);
    OK(store_document_list(s, "alice", collection, DOCUMENT_STATUS_COUNT,
                           (struct store_page){.newest_first = true, .limit = 2}, &list, ERR));
    cr_assert(list.n == 2 && list.data[0].id == ids[9] && list.data[1].id == ids[7]);
    OK(store_document_list(s, "alice", collection, DOCUMENT_PENDING,
                           (struct store_page){.newest_first = true, .after = ids[5]}, &list, ERR));
    cr_assert(list.n == 2 && list.data[0].id == ids[3] && list.data[1].id == ids[1]);
    FAILS(STATUS_INVALID,
          store_document_list(s, "alice", 0, DOCUMENT_STATUS_COUNT, (struct store_page){.limit = -1}, &list, ERR));
    FAILS(STATUS_INVALID,
          store_document_list(s, "alice", 0, DOCUMENT_STATUS_COUNT, (struct store_page){.limit = 10001}, &list, ERR));
    store_documents_deinit(&list);
}

Test(store, bad_input_is_refused_with_a_sentence) {
    int64_t id;
    char long_name[STORE_MAX_NAME + 2];
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    struct store_document d = {.name = "a", .hash = "h"};
    FAILS(STATUS_INVALID, store_document_add(s, NULL, &d, 0, &id, NULL, ERR));
    FAILS(STATUS_INVALID, store_document_add(s, "\xff", &d, 0, &id, NULL, ERR));
    FAILS(STATUS_INVALID, store_document_add(s, long_name, &d, 0, &id, NULL, ERR));
    FAILS(STATUS_NOT_FOUND, store_document_add(s, "alice", &d, 77, &id, NULL, ERR));
    d.name = long_name;
    FAILS(STATUS_INVALID, store_document_add(s, "alice", &d, 0, &id, NULL, ERR));
    d = (struct store_document){.name = "a", .hash = ""};
    FAILS(STATUS_INVALID, store_document_add(s, "alice", &d, 0, &id, NULL, ERR));
    static const char *const attributes[] = {"[]", "{", "{\"a\":null}", "{\"a\":[1]}", "{\"\":1}", "{\"a\":1,\"a\":2}"};
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        d = (struct store_document){.name = "a", .hash = "h", .attributes = attributes[i]};
        FAILS(STATUS_INVALID, store_document_add(s, "alice", &d, 0, &id, NULL, ERR));
    }
    struct store_documents list = {0};
    OK(store_document_list(s, "alice", 0, DOCUMENT_STATUS_COUNT, (struct store_page){0}, &list, ERR));
    cr_assert_eq(list.n, 0, "a refused call left something behind");
    store_documents_deinit(&list);
    d = (struct store_document){.name = "a", .hash = "h"};
    OK(store_document_add(s, "", &d, 0, &id, NULL, ERR)); /* the tenant of a server without keys */
}

/* ---- collections and what an index follows ----------------------------------------------------------------------- */

Test(store, a_document_belongs_to_several_collections) {
    int64_t a = add_collection(s, "alice", "a"), b = add_collection(s, "alice", "b"), found = 0;
    int64_t d = add_ready(s, "alice", "d", a, 2), e = add_document(s, "alice", "e", a);
    struct store_collections list = {0};
    struct store_documents documents = {0};
    OK(store_document_set_attributes(s, "alice", d, "{\"x\":1}", ERR));
    OK(store_collection_put(s, "alice", b, d, "{\"x\":2}", ERR));
    OK(store_collection_get(s, "alice", a, &list, ERR));
    cr_assert(list.data->counts[DOCUMENT_READY] == 1 && list.data->counts[DOCUMENT_PENDING] == 1);
    cr_assert_eq(list.data->bytes, 200);
    OK(store_document_list(s, "alice", a, DOCUMENT_READY, (struct store_page){0}, &documents, ERR));
    cr_assert_str_eq(documents.data->attributes, "{\"x\":1}");
    OK(store_document_list(s, "alice", b, DOCUMENT_READY, (struct store_page){0}, &documents, ERR));
    cr_assert_str_eq(documents.data->attributes, "{\"x\":2}", "a membership has attributes of its own");
    OK(store_members(s, "alice", b, 0, INT64_MAX, &documents, ERR));
    cr_assert(documents.n == 1 && documents.data->id == d && documents.data->n_chunks == 2);
    cr_assert_str_eq(documents.data->attributes, "{\"x\":2}");
    struct store_chunks chunks = {0};
    OK(store_member_chunks(s, "alice", a, 0, INT64_MAX, &chunks, ERR));
    cr_assert(chunks.n == 2 && chunks.data[1].vector[0] == 1.0f);
    OK(store_collection_update(s, "alice", b, "B", NULL, ERR));
    OK(store_collection_find(s, "alice", "B", &found, ERR));
    cr_assert_eq(found, b);
    FAILS(STATUS_NOT_FOUND, store_collection_find(s, "alice", "b", &found, ERR));
    OK(store_collection_list(s, "alice", (struct store_page){.newest_first = true}, &list, ERR));
    cr_assert(list.n == 2 && list.data[0].id == b);
    OK(store_collection_delete(s, "alice", a, ERR));
    cr_assert_eq(status_of(s, "alice", d), DOCUMENT_READY, "documents outlive a collection");
    cr_assert_eq(status_of(s, "alice", e), DOCUMENT_PENDING);
    OK(store_collection_remove(s, "alice", b, d, ERR));
    FAILS(STATUS_NOT_FOUND, store_collection_remove(s, "alice", b, d, ERR));
    store_chunks_deinit(&chunks);
    store_documents_deinit(&documents);
    store_collections_deinit(&list);
}

static void expect_changes(int64_t collection, int64_t *after, const char *kinds) {
    struct store_change_list list = {0};
    static const char letters[] = {
        [CHANGE_PUT] = 'p', [CHANGE_ATTRIBUTES] = 'a', [CHANGE_REMOVE] = 'r', [CHANGE_DROP] = 'd'};
    char found[32] = "";
    OK(store_changes(s, "alice", collection, *after, 31, &list, ERR));
    for (size_t i = 0; i < list.n; i++) {
        found[i] = letters[list.data[i].kind];
        cr_assert_lt(*after, list.data[i].seq);
        *after = list.data[i].seq;
    }
    cr_assert_str_eq(found, kinds);
    store_change_list_deinit(&list);
}

Test(store, changes_are_logged_for_each_collection) {
    int64_t a = add_collection(s, "alice", "a"), b = add_collection(s, "alice", "b"), at_a = 0, at_b = 0, last = -1;
    int64_t d = add_document(s, "alice", "d", a);
    expect_changes(a, &at_a, "");
    OK(publish_chunks(s, "alice", d, "d", 2, ERR));
    expect_changes(a, &at_a, "p");
    OK(store_collection_put(s, "alice", b, d, NULL, ERR));
    OK(store_document_set_attributes(s, "alice", d, "{\"x\":1}", ERR));
    expect_changes(a, &at_a, "a");
    expect_changes(b, &at_b, "pa");
    OK(store_collection_remove(s, "alice", a, d, ERR));
    OK(store_document_delete(s, "alice", d, ERR));
    expect_changes(a, &at_a, "r");
    expect_changes(b, &at_b, "r");
    OK(store_collection_delete(s, "alice", b, ERR));
    expect_changes(b, &at_b, "d");
    OK(store_change_last(s, &last, ERR));
    cr_assert_eq(last, at_b);
}

Test(store, a_log_that_was_trimmed_says_so) {
    int64_t a = add_collection(s, "alice", "a"), at = 0;
    struct store_change_list list = {0};
    add_ready(s, "alice", "d", a, 1);
    expect_changes(a, &at, "p");
    OK(store__exec(s, NULL, "UPDATE counters SET value = 200703", NULL,
                   0)); /* the next one trims: 200704 = 196 * 1024 */
    add_ready(s, "alice", "e", a, 1);
    FAILS(STATUS_TOO_LARGE, store_changes(s, "alice", a, at, 10, &list, ERR));
    at = 200703;
    expect_changes(a, &at, "p");
    store_change_list_deinit(&list);
}

/* ---- near-duplicates, feedback, settings ------------------------------------------------------------------------- */

Test(store, near_duplicates_are_found_by_their_signature) {
    enum { N = 128 };
    uint32_t words[4][N];
    int64_t ids[3];
    struct store_similar found[8];
    int n = -1;
    for (int i = 0; i < N; i++) {
        words[0][i] = (uint32_t)i * 2654435761u;
        words[1][i] = i % 10 ? words[0][i] : ~words[0][i]; /* 115 of 128 equal */
        words[2][i] = words[0][i] ^ 0x55555555u;
        words[3][i] = i % 16 ? words[0][i] : 7; /* 120 equal to 0 */
    }
    for (int i = 0; i < 3; i++) {
        char name[8];
        snprintf(name, sizeof name, "d%d", i);
        ids[i] = add_document(s, "alice", name, 0);
        OK(store_signature_put(s, "alice", ids[i], words[i], N, ERR));
    }
    OK(store_signature_put(s, "alice", ids[0], words[0], N, ERR)); /* again: replaces */
    OK(store_signature_find(s, "alice", words[3], N, 0.5, found, 8, &n, ERR));
    cr_assert_eq(n, 2);
    cr_assert(found[0].document == ids[0] && found[0].similarity == 120.0 / 128);
    cr_assert_eq(found[1].document, ids[1]);
    OK(store_signature_find(s, "alice", words[3], N, 0.9, found, 8, &n, ERR));
    cr_assert_eq(n, 1);
    OK(store_signature_find(s, "bob", words[3], N, 0.0, found, 8, &n, ERR));
    cr_assert_eq(n, 0, "another tenant's documents");
    OK(store_document_delete(s, "alice", ids[0], ERR));
    OK(store_signature_find(s, "alice", words[3], N, 0.5, found, 8, &n, ERR));
    cr_assert(n == 1 && found[0].document == ids[1]);
    FAILS(STATUS_INVALID, store_signature_put(s, "alice", ids[1], words[0], 127, ERR));
    FAILS(STATUS_INVALID, store_signature_put(s, "alice", ids[1], words[0], 512, ERR));
}

Test(store, feedback_and_settings) {
    struct store_chunks chunks = {0};
    struct store_feedbacks list = {0};
    char *value = NULL;
    int64_t c = add_collection(s, "alice", "c"), id = 0, d = add_ready(s, "alice", "d", c, 3);
    OK(store_chunk_range(s, "alice", d, 0, 2, false, &chunks, ERR));
    const int64_t ids[] = {chunks.data[2].id, chunks.data[0].id};
    const struct store_feedback f = {
        .collection = c, .rating = -1, .question = "why?", .comment = "wrong", .chunks = ids, .n_chunks = 2};
    OK(store_feedback_add(s, "alice", &f, &id, ERR));
    const struct store_feedback plain = {.rating = 1};
    OK(store_feedback_add(s, "alice", &plain, &id, ERR));
    const struct store_feedback wild = {.rating = 2};
    FAILS(STATUS_INVALID, store_feedback_add(s, "alice", &wild, &id, ERR));
    OK(store_feedback_list(s, "alice", (struct store_page){0}, &list, ERR));
    cr_assert_eq(list.n, 2);
    cr_assert(list.data[0].rating == -1 && list.data[0].n_chunks == 2 && list.data[0].chunks[1] == ids[1]);
    cr_assert_str_eq(list.data[0].question, "why?");
    cr_assert_str_eq(list.data[0].answer, "");
    cr_assert(list.data[1].n_chunks == 0 && list.data[1].rating == 1);

    OK(store_setting_get(s, "alice", c, "calibration", &value, ERR));
    cr_assert_null(value);
    OK(store_setting_set(s, "alice", c, "calibration", "{}", ERR));
    OK(store_setting_set(s, "alice", c, "calibration", "{\"a\":1}", ERR));
    OK(store_setting_set(s, "alice", 0, "calibration", "tenant's", ERR));
    OK(store_setting_get(s, "alice", c, "calibration", &value, ERR));
    cr_assert_str_eq(value, "{\"a\":1}");
    free(value);
    OK(store_setting_get(s, "bob", 0, "calibration", &value, ERR));
    cr_assert_null(value);
    OK(store_setting_set(s, "alice", c, "calibration", NULL, ERR));
    OK(store_setting_get(s, "alice", c, "calibration", &value, ERR));
    cr_assert_null(value);
    store_feedbacks_deinit(&list);
    store_chunks_deinit(&chunks);
}

/* ---- tenants ----------------------------------------------------------------------------------------------------- */

/* Every call that takes an id, with ids of somebody else: not found, as if there were none, and nothing changes. */
Test(store, another_tenants_ids_do_not_exist) {
    int64_t c = add_collection(s, "alice", "c"), d = add_ready(s, "alice", "d", c, 3),
            p = add_document(s, "alice", "p", c);
    int64_t job = add_job(s, "alice", d, 0), own = add_collection(s, "mallory", "m"), id = 0, n_changes = 0;
    int64_t own_document = add_document(s, "mallory", "m", 0);
    const uint32_t signature[4] = {1, 2, 3, 4};
    char *value = NULL;
    struct store_documents documents = {0};
    struct store_chunks chunks = {0};
    struct store_collections collections = {0};
    struct store_jobs jobs = {0};
    struct store_change_list changes = {0};
    struct store_feedbacks feedbacks = {0};
    OK(store_signature_put(s, "alice", d, signature, 4, ERR));
    OK(store_setting_set(s, "alice", c, "k", "secret", ERR));
    OK(store_chunk_range(s, "alice", d, 0, 0, false, &chunks, ERR));
    const int64_t chunk = chunks.data->id;
    const struct store_feedback about_chunk = {.chunks = &chunk, .n_chunks = 1}, about = {.collection = c};
    OK(store_feedback_add(s, "alice", &about, &id, ERR));
    OK(store_change_last(s, &n_changes, ERR));
    const struct store_page page = {0};
    const struct store_document mine = {.name = "x", .hash = "x"};
    const char *const m = "mallory";

    FAILS(STATUS_NOT_FOUND, store_document_get(s, m, d, &documents, ERR));
    FAILS(STATUS_NOT_FOUND, store_document_add(s, m, &mine, c, &id, NULL, ERR));
    FAILS(STATUS_NOT_FOUND, store_document_list(s, m, c, DOCUMENT_STATUS_COUNT, page, &documents, ERR));
    FAILS(STATUS_NOT_FOUND, publish_chunks(s, m, d, "evil", 1, ERR));
    FAILS(STATUS_NOT_FOUND, publish_chunks(s, m, p, "evil", 1, ERR));
    FAILS(STATUS_NOT_FOUND, store_document_end(s, m, p, DOCUMENT_FAILED, "evil", ERR));
    FAILS(STATUS_NOT_FOUND, store_document_set_attributes(s, m, d, "{}", ERR));
    FAILS(STATUS_NOT_FOUND, store_document_delete(s, m, d, ERR));
    FAILS(STATUS_NOT_FOUND, store_chunk_get(s, m, &chunk, 1, &chunks, ERR));
    FAILS(STATUS_NOT_FOUND, store_chunk_range(s, m, d, 0, 9, true, &chunks, ERR));
    FAILS(STATUS_NOT_FOUND, store_collection_get(s, m, c, &collections, ERR));
    FAILS(STATUS_NOT_FOUND, store_collection_find(s, m, "c", &id, ERR));
    FAILS(STATUS_NOT_FOUND, store_collection_update(s, m, c, "evil", NULL, ERR));
    FAILS(STATUS_NOT_FOUND, store_collection_delete(s, m, c, ERR));
    FAILS(STATUS_NOT_FOUND, store_collection_put(s, m, c, own_document, NULL, ERR));
    FAILS(STATUS_NOT_FOUND, store_collection_put(s, m, own, d, NULL, ERR));
    FAILS(STATUS_NOT_FOUND, store_collection_remove(s, m, c, d, ERR));
    FAILS(STATUS_NOT_FOUND, store_collection_remove(s, m, own, d, ERR));
    FAILS(STATUS_NOT_FOUND, store_members(s, m, c, 0, INT64_MAX, &documents, ERR));
    FAILS(STATUS_NOT_FOUND, store_member_chunks(s, m, c, 0, INT64_MAX, &chunks, ERR));
    FAILS(STATUS_NOT_FOUND, store_signature_put(s, m, d, signature, 4, ERR));
    FAILS(STATUS_NOT_FOUND, store_job_add(s, m, d, "ingest", "", 0, &id, ERR));
    FAILS(STATUS_NOT_FOUND, store_job_get(s, m, job, &jobs, ERR));
    FAILS(STATUS_NOT_FOUND, store_job_cancel(s, m, job, ERR));
    FAILS(STATUS_NOT_FOUND, store_job_retry(s, m, job, ERR));
    FAILS(STATUS_NOT_FOUND, store_job_heartbeat(s, m, job, "w", 60, NULL, 0, ERR));
    FAILS(STATUS_NOT_FOUND, store_job_finish(s, m, job, "w", NULL, 0, ERR));
    FAILS(STATUS_NOT_FOUND, store_job_list(s, m, d, JOB_STATE_COUNT, page, &jobs, ERR));
    FAILS(STATUS_NOT_FOUND, store_feedback_add(s, m, &about, &id, ERR));
    FAILS(STATUS_NOT_FOUND, store_feedback_add(s, m, &about_chunk, &id, ERR));
    FAILS(STATUS_NOT_FOUND, store_setting_set(s, m, c, "k", "evil", ERR));
    FAILS(STATUS_NOT_FOUND, store_setting_get(s, m, c, "k", &value, ERR));

    /* Calls without an id see their own tenant's rows alone. */
    OK(store_document_list(s, m, 0, DOCUMENT_STATUS_COUNT, page, &documents, ERR));
    cr_assert(documents.n == 1 && documents.data->id == own_document);
    OK(store_collection_list(s, m, page, &collections, ERR));
    cr_assert(collections.n == 1 && collections.data->id == own);
    OK(store_job_list(s, m, 0, JOB_STATE_COUNT, page, &jobs, ERR));
    cr_assert_eq(jobs.n, 0);
    OK(store_job_claim(s, m, "w", 60, &jobs, ERR));
    cr_assert_eq(jobs.n, 0);
    OK(store_changes(s, m, c, 0, 100, &changes, ERR));
    cr_assert_eq(changes.n, 0);
    OK(store_feedback_list(s, m, page, &feedbacks, ERR));
    cr_assert_eq(feedbacks.n, 0);

    /* And nothing of alice's has changed. */
    int64_t last = -1;
    OK(store_change_last(s, &last, ERR));
    cr_assert_eq(last, n_changes);
    OK(store_document_list(s, "alice", c, DOCUMENT_STATUS_COUNT, page, &documents, ERR));
    cr_assert(documents.n == 2 && documents.data[0].status == DOCUMENT_READY &&
              documents.data[1].status == DOCUMENT_PENDING);
    OK(store_chunk_range(s, "alice", d, 0, 9, false, &chunks, ERR));
    cr_assert(chunks.n == 3 && !strcmp(chunks.data[0].text, "d chunk 0"));
    expect_job(s, "alice", job, JOB_QUEUED, 0, "");
    OK(store_setting_get(s, "alice", c, "k", &value, ERR));
    cr_assert_str_eq(value, "secret");
    free(value);
    store_documents_deinit(&documents);
    store_chunks_deinit(&chunks);
    store_collections_deinit(&collections);
    store_jobs_deinit(&jobs);
    store_change_list_deinit(&changes);
    store_feedbacks_deinit(&feedbacks);
}

Test(store, the_database_itself_refuses_rows_of_two_tenants) {
    int64_t c = add_collection(s, "alice", "c"), d = add_document(s, "bob", "d", 0);
    const struct db_value mixed[] = {V_TEXT("alice"), V_INT(c), V_INT(d)};
    cr_assert_eq(
        store__exec(s, NULL, "INSERT INTO members (tenant, collection, document) VALUES (?1, ?2, ?3)", mixed, 3),
        STATUS_INVALID);
    const struct db_value chunk[] = {V_TEXT("alice"), V_INT(d)};
    cr_assert_eq(store__exec(s, NULL,
                             "INSERT INTO chunks (tenant, document, ordinal, text, start_at, end_at, page_first, "
                             "page_last) VALUES (?1, ?2, 0, '', 0, 0, 0, 0)",
                             chunk, 2),
                 STATUS_INVALID);
}

/* ---- the store as a whole ---------------------------------------------------------------------------------------- */

Test(store, what_is_settled_stays) {
    struct store *other = NULL;
    struct store_options options = {.url = fixture.url, .dtype = DTYPE_F32};
    OK(store_open(&other, &options, ERR));
    cr_assert_eq(store_dim(other), DIM);
    cr_assert_eq(store_dtype(other), DTYPE_F16, "the store's, not the caller's");
    cr_assert_str_eq(store_embedder(other), "test");
    FAILS(STATUS_INVALID, store_settle(other, DIM + 1, NULL, ERR));
    FAILS(STATUS_INVALID, store_settle(other, DIM, "other", ERR));
    OK(store_settle(other, DIM, "test", ERR));
    store_close(other);
    options.dim = DIM + 1;
    FAILS(STATUS_INVALID, store_open(&other, &options, ERR));
    cr_assert_null(other);
    options.dim = STORE_MAX_DIM + 1;
    FAILS(STATUS_INVALID, store_open(&other, &options, ERR));
}

Test(store, two_connections_see_each_others_commits) {
    struct store *other = fixture_open(&fixture);
    struct store_documents list = {0};
    int64_t id = add_ready(s, "alice", "d", 0, 2);
    OK(store_document_get(other, "alice", id, &list, ERR));
    cr_assert_eq(list.data->n_chunks, 2);
    OK(store_document_delete(other, "alice", id, ERR));
    FAILS(STATUS_NOT_FOUND, store_document_get(s, "alice", id, &list, ERR));
    store_close(other);
}

Test(store, an_old_store_is_brought_up_to_date) {
    struct fixture old;
    struct store *t = NULL;
    int64_t id, job;
    fixture_init(&old);
    const struct store_options options = {.url = old.url, .create = true, .dim = DIM, .dtype = DTYPE_F16};
    OK(store__open_at(&t, &options, 1, ERR));
    id = add_ready(t, "alice", "d", 0, 4);
    FAILS(STATUS_IO, store_job_add(t, "alice", id, "ingest", "", 0, &job, ERR)); /* version 1 has no jobs */
    store_close(t);
    OK(store_open(&t, &options, ERR));
    OK(store_job_add(t, "alice", id, "ingest", "", 0, &job, ERR));
    struct store_chunks chunks = {0};
    OK(store_chunk_range(t, "alice", id, 0, 9, true, &chunks, ERR));
    cr_assert_eq(chunks.n, 4);
    store_chunks_deinit(&chunks);
    OK(store__exec(t, NULL, "UPDATE meta SET value = '99' WHERE key = 'schema'", NULL, 0));
    store_close(t);
    FAILS(STATUS_UNSUPPORTED, store_open(&t, &options, ERR));
    fixture_deinit(&old);
}

Test(store, a_store_must_exist_unless_it_is_to_be_made) {
    struct fixture none;
    struct store *t = NULL;
    fixture_init(&none);
    const struct store_options options = {.url = none.url, .dtype = DTYPE_F16};
    FAILS(STATUS_NOT_FOUND, store_open(&t, &options, ERR));
    fixture_deinit(&none);
}

Test(store, files_of_others_are_refused) {
    if (on_postgres()) return;
    struct store *t = NULL;
    char path[256];
    struct stat info;
    cr_assert_eq(stat(fixture.url, &info), 0);
    cr_assert_eq(info.st_mode & 0777, 0600, "only the owner may read it");
    const struct store_options options = {.url = path, .create = true, .dtype = DTYPE_F16};
    snprintf(path, sizeof path, "%s/text", fixture.folder);
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 1000; i++) fputs("no database\n", f);
    fclose(f);
    FAILS(STATUS_IO, store_open(&t, &options, ERR));
    snprintf(path, sizeof path, "%s/other.db", fixture.folder);
    const struct store_options ours = {.url = path, .create = true, .dtype = DTYPE_F16};
    OK(store_open(&t, &ours, ERR));
    OK(store__exec(t, NULL, "PRAGMA application_id = 7", NULL, 0));
    store_close(t);
    FAILS(STATUS_INVALID, store_open(&t, &ours, ERR));
    snprintf(path, sizeof path, "%s/no/such/folder.db", fixture.folder);
    FAILS(STATUS_IO, store_open(&t, &options, ERR));
#if !defined(TANDEM_POSTGRES)
    snprintf(path, sizeof path, "postgresql://nowhere");
    FAILS(STATUS_UNSUPPORTED, store_open(&t, &options, ERR));
#else
    snprintf(path, sizeof path, "postgresql:///?host=%s/nothing", fixture.folder);
    FAILS(STATUS_IO, store_open(&t, &options, ERR));
#endif
}

/* A copy made while another connection writes: whole, and the state of one moment. */
struct writing {
    atomic_bool stop;
    atomic_int n;
};

static void *keep_writing(void *arg) {
    struct writing *w = arg;
    struct store *mine = fixture_open(&fixture);
    while (!w->stop) {
        char name[32];
        snprintf(name, sizeof name, "w%d", w->n);
        add_ready(mine, "alice", name, 0, 20);
        w->n++;
    }
    store_close(mine);
    return NULL;
}

Test(store, backup_while_writing) {
    char path[512], err[ERR_BYTES];
    snprintf(path, sizeof path, "%s/copy.db", fixture.folder);
    if (on_postgres()) {
        FAILS(STATUS_UNSUPPORTED, store_backup(s, path, ERR));
        return;
    }
    struct writing w = {0};
    pthread_t thread;
    for (int i = 0; i < 50; i++) {
        char name[32];
        snprintf(name, sizeof name, "before%d", i);
        add_ready(s, "alice", name, 0, 20);
    }
    pthread_create(&thread, NULL, keep_writing, &w);
    while (w.n < 5) usleep(1000);
    int before = w.n, n_backups = 0;
    while (n_backups < 10 || w.n < before + 20) {
        struct store *copy = NULL;
        struct store_documents list = {0};
        struct store_chunks chunks = {0};
        cr_assert_eq(store_backup(s, path, ERR), 0, "%s", err);
        const struct store_options options = {.url = path, .dtype = DTYPE_F16};
        OK(store_open(&copy, &options, ERR));
        OK(store_document_list(copy, "alice", 0, DOCUMENT_STATUS_COUNT, (struct store_page){.limit = 10000}, &list,
                               ERR));
        cr_assert_geq(list.n, 55);
        for (size_t i = 0; i < list.n; i++) {
            if (list.data[i].status == DOCUMENT_PENDING) continue;
            OK(store_chunk_range(copy, "alice", list.data[i].id, 0, 99, true, &chunks, ERR));
            cr_assert_eq(chunks.n, 20);
        }
        store_chunks_deinit(&chunks);
        store_documents_deinit(&list);
        store_close(copy);
        n_backups++;
    }
    w.stop = true;
    pthread_join(thread, NULL);
    snprintf(path, sizeof path, "%s/no/folder", fixture.folder);
    FAILS(STATUS_IO, store_backup(s, path, ERR));
}
