/* test_search.c - rag/search.h over a store: exact results against loops in the test, filters, fusion, near-duplicates,
 * surroundings, and an index that follows what others write. */
#include "rag/search.h"
#include "rag/store_internal.h"
#include "tests/unit/store_fixture.h"

#include <math.h>
#include <pthread.h>

static struct fixture fixture;
static struct store *s;
static struct search *search;
static struct search_result result;
static int64_t collection;

static void set_up(void) {
    fixture_init(&fixture);
    s = fixture_open(&fixture);
    const struct search_options options = {.backend = "cpu", .n_threads = 1};
    OK(search_open(&search, &options, ERR));
    OK(store_collection_add(s, "alice", "c", NULL, &collection, ERR));
}

static void tear_down(void) {
    search_result_deinit(&result);
    search_close(search);
    store_close(s);
    fixture_deinit(&fixture);
}

TestSuite(search, .init = set_up, .fini = tear_down);

static uint64_t state = 3;
static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) * 0x1p-53;
}
static int below(int n) {
    return (int)(uniform() * n);
}

static void unit_vector(float *v) {
    double sum = 0;
    for (int i = 0; i < DIM; i++) {
        v[i] = (float)(uniform() - 0.5);
        sum += (double)v[i] * (double)v[i];
    }
    for (int i = 0; i < DIM; i++) v[i] = f32_from_f16(f16_from_f32(v[i] / (float)sqrt(sum)));
}

/* One chunk per text, vectors [n, DIM] or NULL; attributes may be NULL. */
static int64_t put(const char *name, const char *attributes, const char *const *texts, const float *vectors, int n) {
    int64_t id = 0;
    struct store_chunk chunks[64];
    const struct store_document d = {.name = name, .hash = name, .attributes = attributes};
    OK(store_document_add(s, "alice", &d, collection, &id, NULL, ERR));
    for (int i = 0; i < n; i++)
        chunks[i] =
            (struct store_chunk){.text = texts ? texts[i] : "text", .vector = vectors ? vectors + i * DIM : NULL};
    OK(store_document_publish(s, "alice", id, chunks, (size_t)n, 0, ERR));
    return id;
}

static void ask(const char *text, const float *vector, int n, const struct filter *filter) {
    struct search_request r = search_default_request();
    r.text = text;
    r.vector = vector;
    r.n_results = n;
    r.filter = filter;
    OK(search_run(search, s, "alice", collection, &r, &result, ERR));
}

/* ---- exact, whatever happens to the collection ------------------------------------------------------------------- */

enum { MANY = 300, PER = 16 };
struct model { /* what must be in the index */
    int64_t id[MANY];
    int n_chunks[MANY];
    float vectors[MANY][PER * DIM];
    char name[MANY][16];
    bool there[MANY];
};

static void expect_exact(const struct model *m) {
    float question[DIM], best[10];
    struct store_chunks chunks = {0};
    unit_vector(question);
    int n_all = 0, n = 0;
    for (int i = 0; i < MANY; i++)
        for (int j = 0; m->there[i] && j < m->n_chunks[i]; j++) {
            float dot = 0;
            for (int k = 0; k < DIM; k++) dot += m->vectors[i][j * DIM + k] * f32_from_f16(f16_from_f32(question[k]));
            n_all++;
            if (n == 10 && dot <= best[9]) continue;
            int at = n < 10 ? n++ : 9;
            for (; at > 0 && best[at - 1] < dot; at--) best[at] = best[at - 1];
            best[at] = dot;
        }
    ask(NULL, question, 10, NULL);
    cr_assert_eq(result.n, n);
    cr_assert_eq(result.n_searched, n_all);
    for (int i = 0; i < n; i++) {
        cr_assert_float_eq(result.hits[i].dense, best[i], 1e-5, "%d: %g, %g", i, (double)best[i],
                           (double)result.hits[i].dense);
        cr_assert_eq(result.hits[i].dense_rank, i + 1);
        OK(store_chunk_get(s, "alice", &result.hits[i].chunk, 1, &chunks, ERR));
        cr_assert_eq(chunks.data->document, result.hits[i].document, "the index and the store disagree");
    }
    store_chunks_deinit(&chunks);
}

Test(search, is_exact_while_documents_come_and_go) {
    struct model *m = calloc(1, sizeof *m);
    int n_live = 0;
    for (int round = 0; round < 40; round++) {
        for (int step = 0; step < 25; step++) {
            const int i = below(MANY);
            if (m->there[i] && round % 2) {
                OK(store_document_delete(s, "alice", m->id[i], ERR));
                m->there[i] = false;
                n_live--;
            } else if (!m->there[i]) {
                m->n_chunks[i] = 1 + below(PER);
                for (int j = 0; j < m->n_chunks[i]; j++) unit_vector(&m->vectors[i][j * DIM]);
                snprintf(m->name[i], sizeof m->name[i], "d%d", i);
                m->id[i] = put(m->name[i], NULL, NULL, m->vectors[i], m->n_chunks[i]);
                m->there[i] = true;
                n_live++;
            }
        }
        expect_exact(m);
    }
    cr_assert_gt(n_live, 50);
    /* An index that is loaded now and one that followed all the while give the same answer to the bit. */
    struct search_result fresh = {0};
    struct search *other = NULL;
    float question[DIM];
    unit_vector(question);
    const struct search_options options = {.backend = "cpu", .n_threads = 2};
    OK(search_open(&other, &options, ERR));
    struct search_request r = search_default_request();
    r.text = "text";
    r.vector = question;
    r.n_results = 100;
    OK(search_run(search, s, "alice", collection, &r, &result, ERR));
    OK(search_run(other, s, "alice", collection, &r, &fresh, ERR));
    cr_assert(fresh.n == result.n && !memcmp(fresh.hits, result.hits, (size_t)fresh.n * sizeof *fresh.hits));
    search_result_deinit(&fresh);
    search_close(other);
    free(m);
}

/* On PostgreSQL: pgvector, asked in SQL, ranks as our own index does, and so does the same collection in SQLite. */
Test(search, pgvector_and_sqlite_rank_alike) {
    enum { N = 200 };
    if (!on_postgres()) cr_skip_test("skipped: this is about PostgreSQL");
    static float vectors[N * DIM];
    static char words[N][32];
    struct store *other = NULL;
    struct search_result theirs = {0};
    const struct store_options options = {.url = ":memory:", .create = true, .dim = DIM, .dtype = DTYPE_F16};
    int64_t there = 0, id, first[2] = {0};
    OK(store_open(&other, &options, ERR));
    OK(store_collection_add(other, "alice", "c", NULL, &there, ERR));
    for (int i = 0; i < N; i++) {
        struct store_chunk chunk = {.text = words[i], .vector = vectors + i * DIM}, copy = chunk;
        char name[16];
        const struct store_document d = {.name = name, .hash = name};
        unit_vector(vectors + i * DIM);
        snprintf(name, sizeof name, "d%d", i);
        snprintf(words[i], sizeof words[i], "w%d w%d w%d", below(20), below(20), below(20));
        OK(store_document_add(s, "alice", &d, collection, &id, NULL, ERR));
        OK(store_document_publish(s, "alice", id, &chunk, 1, 0, ERR));
        OK(store_document_add(other, "alice", &d, there, &id, NULL, ERR));
        OK(store_document_publish(other, "alice", id, &copy, 1, 0, ERR));
        if (!i) first[0] = chunk.id, first[1] = copy.id;
    }
    for (int round = 0; round < 20; round++) {
        float question[DIM];
        struct db_cursor c;
        struct search_request r = search_default_request();
        unit_vector(question);
        r.vector = question;
        OK(search_run(search, s, "alice", collection, &r, &result, ERR));
        cr_assert_eq(s->db->query(s, &c, "SELECT id FROM chunks ORDER BY vector <#> ?1 LIMIT 10",
                                  VALUES(V_VECTOR(question, DIM))),
                     0, "%s", s->err);
        for (int i = 0; i < 10; i++) {
            cr_assert_eq(s->db->step(s, &c), 1);
            cr_assert_eq(s->db->integer(&c, 0), result.hits[i].chunk);
        }
        s->db->close_cursor(s, &c);
        r.text = words[round];
        OK(search_run(search, s, "alice", collection, &r, &result, ERR));
        struct search *fresh = NULL; /* a search serves one store */
        const struct search_options cpu = {.backend = "cpu", .n_threads = 1};
        OK(search_open(&fresh, &cpu, ERR));
        OK(search_run(fresh, other, "alice", there, &r, &theirs, ERR));
        cr_assert(theirs.n == result.n && result.n == 10);
        for (int i = 0; i < 10; i++) {
            cr_assert_eq(result.hits[i].chunk - first[0], theirs.hits[i].chunk - first[1]);
            cr_assert_eq(result.hits[i].score, theirs.hits[i].score, "to the bit");
        }
        search_close(fresh);
    }
    search_result_deinit(&theirs);
    store_close(other);
}

/* Enough rows die that the index compacts itself; then everything goes on as before. */
Test(search, compaction_changes_nothing) {
    enum { N = 100, CHUNKS = 40 };
    static float vectors[N][CHUNKS * DIM];
    static char names[N][16];
    int64_t ids[N];
    float question[DIM];
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < CHUNKS; j++) unit_vector(&vectors[i][j * DIM]);
        snprintf(names[i], sizeof names[i], "d%d", i);
        char attributes[32];
        snprintf(attributes, sizeof attributes, "{\"i\":%d}", i);
        ids[i] = put(names[i], attributes, NULL, vectors[i], CHUNKS);
    }
    unit_vector(question);
    ask("text", question, 20, NULL);
    for (int i = 0; i < N; i += 2) OK(store_document_delete(s, "alice", ids[i], ERR));
    struct search_result before = {0};
    for (int round = 0; round < 3; round++) {
        struct filter *f = NULL;
        OK(filter_parse_text(&f, "{\"type\":\"gte\",\"key\":\"i\",\"value\":30}", ERR));
        ask("text", question, 20, f);
        filter_close(f);
        cr_assert_eq(result.n_searched, 35 * CHUNKS);
        for (int i = 0; i < result.n; i++) {
            int j = 0;
            while (ids[j] != result.hits[i].document) cr_assert_lt(++j, N);
            cr_assert(j % 2 == 1 && j >= 30, "a deleted or excluded document was found");
        }
        if (round) cr_assert(!memcmp(before.hits, result.hits, (size_t)result.n * sizeof *result.hits));
        search_result_deinit(&before);
        before = result;
        result = (struct search_result){0};
    }
    search_result_deinit(&before);
}

/* ---- filters, fusion, choice ------------------------------------------------------------------------------------- */

Test(search, filters_are_on_documents_and_their_memberships) {
    const char *const texts[] = {"alpha beta", "alpha gamma"};
    int64_t a = put("a", "{\"year\":2023}", texts, NULL, 2), b = put("b", "{\"year\":2024}", texts, NULL, 2);
    struct filter *f = NULL;
    OK(filter_parse_text(&f, "{\"type\":\"eq\",\"key\":\"year\",\"value\":2024}", ERR));
    ask("alpha", NULL, 10, f);
    cr_assert(result.n == 2 && result.hits[0].document == b && result.n_searched == 2);
    OK(store_document_set_attributes(s, "alice", a, "{\"year\":2024}", ERR));
    ask("alpha", NULL, 10, f);
    cr_assert_eq(result.n, 4);
    OK(store_collection_put(s, "alice", collection, b, "{\"year\":1999}", ERR));
    ask("alpha", NULL, 10, f);
    cr_assert(result.n == 2 && result.hits[0].document == a);
    filter_close(f);
    f = NULL;
    OK(filter_parse_text(&f, "{\"type\":\"eq\",\"key\":\"year\",\"value\":1}", ERR));
    ask("alpha", NULL, 10, f);
    cr_assert_eq(result.n, 0);
    filter_close(f);
}

/* Four chunks whose scores are known: what min-max and reciprocal ranks make of them. */
Test(search, fusion_by_hand) {
    const char *const texts[] = {"apple", "apple banana", "cherry", "cherry cherry"};
    float vectors[4 * DIM] = {0}, question[DIM] = {1};
    const float x[] = {0.25f, 0.5f, 1.0f, 0.0f};
    for (int i = 0; i < 4; i++) vectors[i * DIM] = x[i];
    put("a", NULL, texts, vectors, 4);
    struct search_request r = search_default_request();
    r.text = "banana";
    r.vector = question;
    r.dense_weight = 0.75f;
    OK(search_run(search, s, "alice", collection, &r, &result, ERR));
    cr_assert_eq(result.n, 4);
    const float min_max[] = {0.75f, 0.75f * 0.5f + 0.25f, 0.75f * 0.25f, 0};
    for (int i = 0; i < 4; i++)
        cr_assert_float_eq(result.hits[i].score, min_max[i], 1e-6, "%d: %g", i, (double)result.hits[i].score);
    cr_assert(result.hits[1].lexical_rank == 1 && result.hits[1].dense_rank == 2 && result.hits[0].lexical_rank == 0);
    r.fusion = FUSION_RRF;
    OK(search_run(search, s, "alice", collection, &r, &result, ERR));
    cr_assert_float_eq(result.hits[0].score, 0.75f / 62 + 0.25f / 61, 1e-7);
    cr_assert_float_eq(result.hits[1].score, 0.75f / 61, 1e-7);
    cr_assert_eq(result.hits[0].dense_rank, 2);
    r.dense_weight = 0;
    r.fusion = FUSION_MIN_MAX;
    OK(search_run(search, s, "alice", collection, &r, &result, ERR));
    cr_assert_float_eq(result.hits[0].score, 1, 1e-6);
    cr_assert_eq(result.hits[0].lexical_rank, 1);
}

Test(search, chunks_without_a_vector_are_found_by_words) {
    const char *const texts[] = {"zebra", "yak"};
    float vectors[2 * DIM] = {0.5f}, question[DIM] = {-1};
    put("a", NULL, texts, vectors, 1);
    put("b", NULL, texts + 1, NULL, 1);
    ask(NULL, question, 10, NULL);
    cr_assert(result.n == 1 && result.hits[0].dense == -0.5f, "a zero that stands for nothing is not the better score");
    ask("yak", question, 10, NULL);
    cr_assert_eq(result.n, 2);
    cr_assert(result.hits[1].lexical_rank == 1 && result.hits[1].dense_rank == 0 && result.hits[1].dense == 0);
}

Test(search, equal_scores_are_in_the_order_of_storage) {
    const char *const texts[] = {"same", "same", "same", "same", "same", "same"};
    float vectors[6 * DIM] = {0}, question[DIM] = {1};
    for (int i = 0; i < 6; i++) vectors[i * DIM] = 1;
    put("a", NULL, texts, vectors, 6);
    for (int mode = 0; mode < 3; mode++) {
        ask(mode == 1 ? NULL : "same", mode == 0 ? NULL : question, 4, NULL);
        cr_assert_eq(result.n, 4);
        for (int i = 1; i < 4; i++) cr_assert_lt(result.hits[i - 1].chunk, result.hits[i].chunk);
    }
}

Test(search, near_duplicates_and_diversity) {
    /* Two groups: 0, 1, 2 nearly the same and best; 3 another direction; 4 in between. */
    float vectors[5 * DIM] = {0}, question[DIM] = {1};
    const float angles[] = {0.30f, 0.31f, -0.9f, 0.32f, 0.6f};
    for (int i = 0; i < 5; i++) {
        vectors[i * DIM] = cosf(angles[i]);
        vectors[i * DIM + 1] = sinf(angles[i]);
    }
    put("a", NULL, NULL, vectors, 5);
    struct search_request r = search_default_request();
    r.vector = question;
    r.n_results = 3;
    OK(search_run(search, s, "alice", collection, &r, &result, ERR));
    int64_t first = result.hits[0].chunk;
    cr_assert(result.hits[1].chunk == first + 1 && result.hits[2].chunk == first + 3);
    r.max_similarity = 0.99f;
    OK(search_run(search, s, "alice", collection, &r, &result, ERR));
    cr_assert_eq(result.n, 3);
    cr_assert(result.hits[0].chunk == first && result.hits[1].chunk == first + 4 && result.hits[2].chunk == first + 2);
    r.max_similarity = 0;
    r.diversity = 0.8f;
    r.n_results = 2;
    OK(search_run(search, s, "alice", collection, &r, &result, ERR));
    cr_assert(result.hits[0].chunk == first && result.hits[1].chunk == first + 2, "the farthest comes second");
}

Test(search, features) {
    const char *const one[] = {"the kernel multiplies matrices"}, *const two[] = {"cooking with butter"};
    float a[DIM] = {0.9f}, b[DIM] = {0.4f}, question[DIM] = {1};
    put("a", NULL, one, a, 1);
    put("b", NULL, two, b, 1);
    ask("What does the kernel multiply?", question, 10, NULL);
    const struct confidence_features *f = &result.features;
    cr_assert_float_eq(f->dense_top, f32_from_f16(f16_from_f32(0.9f)), 1e-6);
    cr_assert_float_eq(f->dense_margin, 0.5, 1e-3);
    cr_assert_float_eq(f->coverage, 1, 1e-6);
    cr_assert(f->same_top == 1 && f->agreement == 0.5);
    cr_assert(f->lexical_top > 0.3 && f->lexical_top <= 1);
    ask("butter knife", question, 10, NULL);
    cr_assert(result.features.same_top == 0 && result.features.coverage < 1);
    ask(NULL, question, 10, NULL);
    cr_assert(result.features.lexical_top == 0 && result.features.agreement == 0 && result.features.dense_top > 0.8);
}

/* ---- who may ask what -------------------------------------------------------------------------------------------- */

Test(search, another_tenants_collection_does_not_exist) {
    struct search_request r = search_default_request();
    float vector[DIM] = {1};
    r.text = "text";
    r.vector = vector;
    put("a", NULL, NULL, vector, 1);
    ask("text", vector, 1, NULL); /* it is loaded, and still not mallory's */
    cr_assert_eq(result.n, 1);
    FAILS(STATUS_NOT_FOUND, search_run(search, s, "mallory", collection, &r, &result, ERR));
    cr_assert(result.n == 0 && !result.hits);
    FAILS(STATUS_NOT_FOUND, search_load(search, s, "mallory", collection, ERR));
    OK(store_collection_delete(s, "alice", collection, ERR));
    FAILS(STATUS_NOT_FOUND, search_run(search, s, "alice", collection, &r, &result, ERR));
}

Test(search, requests_out_of_bounds) {
    struct search_request r = search_default_request();
    float vector[DIM] = {1};
    FAILS(STATUS_INVALID, search_run(search, s, "alice", collection, &r, &result, ERR));
    r.vector = vector;
    r.n_results = 0;
    FAILS(STATUS_INVALID, search_run(search, s, "alice", collection, &r, &result, ERR));
    r.n_results = SEARCH_MAX_RESULTS + 1;
    FAILS(STATUS_INVALID, search_run(search, s, "alice", collection, &r, &result, ERR));
    r = search_default_request();
    r.vector = vector;
    r.dense_weight = NAN;
    FAILS(STATUS_INVALID, search_run(search, s, "alice", collection, &r, &result, ERR));
    r = search_default_request();
    r.vector = vector;
    vector[3] = INFINITY;
    FAILS(STATUS_INVALID, search_run(search, s, "alice", collection, &r, &result, ERR));
    vector[3] = 0;
    OK(search_run(search, s, "alice", collection, &r, &result, ERR));
    cr_assert_eq(result.n, 0, "an empty collection");
    char *text = malloc(SEARCH_MAX_TEXT + 2);
    memset(text, 'a', SEARCH_MAX_TEXT + 1);
    text[SEARCH_MAX_TEXT + 1] = 0;
    r.text = text;
    FAILS(STATUS_TOO_LARGE, search_run(search, s, "alice", collection, &r, &result, ERR));
    free(text);
}

/* Indexes give way by least recent use; answers stay the same. */
Test(search, memory_is_bounded) {
    enum { N = 6 };
    int64_t collections[N];
    struct search *small = NULL;
    const struct search_options options = {.backend = "cpu", .n_threads = 1, .memory_bytes = 200000};
    float vector[DIM] = {1};
    OK(search_open(&small, &options, ERR));
    for (int i = 0; i < N; i++) {
        char name[16];
        OK(store_collection_add(s, "alice", "x", NULL, &collections[i], ERR));
        collection = collections[i];
        snprintf(name, sizeof name, "d%d", i);
        for (int k = 0; k <= i; k++) {
            snprintf(name, sizeof name, "d%d-%d", i, k);
            put(name, NULL, NULL, vector, 1);
        }
    }
    struct search_request r = search_default_request();
    r.vector = vector;
    for (int i = 0; i < 30; i++) {
        OK(search_run(small, s, "alice", collections[i % N], &r, &result, ERR));
        cr_assert_eq(result.n, i % N + 1);
    }
    search_close(small);
}

/* Threads with connections of their own ask while another one writes: documents 0, 1, 2, ... appear in this order, so
 * whoever found n of them once never finds fewer. */
enum { N_ASKING = 3, N_WRITTEN = 120 };
struct asking {
    pthread_t thread;
    int n_found, n_wrong;
};

static void *keep_asking(void *arg) {
    struct asking *me = arg;
    char err[ERR_BYTES];
    float question[DIM] = {1};
    struct search_result found = {0};
    struct store *mine = NULL;
    const struct store_options options = {.url = fixture.url, .dtype = DTYPE_F16};
    struct search_request r = search_default_request();
    r.text = "text";
    r.vector = question;
    r.n_results = N_WRITTEN;
    if (store_open(&mine, &options, ERR)) me->n_wrong++;
    while (mine && me->n_found < N_WRITTEN && !me->n_wrong) {
        if (search_run(search, mine, "alice", collection, &r, &found, ERR)) me->n_wrong++;
        if (found.n < me->n_found || found.n_searched != found.n) me->n_wrong++;
        me->n_found = found.n;
    }
    search_result_deinit(&found);
    store_close(mine);
    return NULL;
}

Test(search, many_threads_ask_while_one_writes) {
    struct asking asking[N_ASKING] = {0};
    float vector[DIM] = {1};
    for (int i = 0; i < N_ASKING; i++) pthread_create(&asking[i].thread, NULL, keep_asking, &asking[i]);
    for (int i = 0; i < N_WRITTEN; i++) {
        char name[16];
        snprintf(name, sizeof name, "d%d", i);
        put(name, NULL, NULL, vector, 1);
    }
    for (int i = 0; i < N_ASKING; i++) {
        pthread_join(asking[i].thread, NULL);
        cr_assert_eq(asking[i].n_wrong, 0);
        cr_assert_eq(asking[i].n_found, N_WRITTEN);
    }
}

/* ---- surroundings ------------------------------------------------------------------------------------------------ */

static void expect_around(int64_t chunk, enum surroundings kind, size_t bytes, int first, int last) {
    struct store_chunks chunks = {0};
    OK(search_around(s, "alice", chunk, kind, bytes, &chunks, ERR));
    cr_assert(chunks.data[0].ordinal == first && chunks.data[chunks.n - 1].ordinal == last, "%d..%d, found %d..%d",
              first, last, (int)chunks.data[0].ordinal, (int)chunks.data[chunks.n - 1].ordinal);
    cr_assert_eq((int)chunks.n, last - first + 1);
    store_chunks_deinit(&chunks);
}

Test(search, neighbours_and_sections) {
    enum { N = 10 };
    int64_t id = 0;
    struct store_chunk chunks[N];
    for (int i = 0; i < N; i++)
        chunks[i] = (struct store_chunk){.text = "0123456789", .context = i < 2 ? NULL : i < 7 ? "A" : "B"};
    const struct store_document d = {.name = "d", .hash = "d"};
    OK(store_document_add(s, "alice", &d, collection, &id, NULL, ERR));
    OK(store_document_publish(s, "alice", id, chunks, N, 0, ERR));
    expect_around(chunks[4].id, NEIGHBOURS, 0, 4, 4);
    expect_around(chunks[4].id, NEIGHBOURS, 29, 4, 5);
    expect_around(chunks[4].id, NEIGHBOURS, 30, 3, 5);
    expect_around(chunks[4].id, NEIGHBOURS, 60, 2, 7);
    expect_around(chunks[0].id, NEIGHBOURS, 30, 0, 2);
    expect_around(chunks[9].id, NEIGHBOURS, 1000, 0, 9);
    expect_around(chunks[4].id, SECTION, 1000, 2, 6);
    expect_around(chunks[1].id, SECTION, 1000, 0, 1);
    expect_around(chunks[8].id, SECTION, 20, 8, 9);
    struct store_chunks found = {0};
    FAILS(STATUS_NOT_FOUND, search_around(s, "mallory", chunks[4].id, NEIGHBOURS, 100, &found, ERR));
    FAILS(STATUS_NOT_FOUND, search_around(s, "alice", INT64_MAX, NEIGHBOURS, 100, &found, ERR));
}
