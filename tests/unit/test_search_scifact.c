/* test_search_scifact.c - BM25 through the store and the search, against SciFact's judgements. Vectors and fusion need
 * an embedder: benchmarks/bench_retrieval measures them from a file of vectors. */
#include "rag/beir.h"
#include "rag/search.h"
#include "tests/unit/store_fixture.h"

#define SCIFACT "../shared/data/rag-eval/scifact"

Test(search_scifact, bm25) {
    if (access(SCIFACT "/corpus.jsonl", R_OK)) cr_skip_test("skipped: no SciFact at " SCIFACT);
    struct fixture fixture;
    struct beir b;
    struct search *search = NULL;
    struct search_result result = {0};
    const struct search_options options = {.backend = "cpu", .n_threads = 1};
    int64_t collection = 0;
    double ndcg = 0, recall = 0;
    fixture_init(&fixture);
    struct store *s = fixture_open(&fixture);
    OK(beir_open(&b, SCIFACT, ERR));
    cr_assert(b.n_documents == 5183 && b.n_queries == 300);
    int64_t *ids = calloc(b.n_documents, sizeof *ids);
    OK(store_collection_add(s, "alice", "scifact", NULL, &collection, ERR));
    OK(beir_ingest(&b, s, "alice", collection, "scifact", NULL, ids, ERR));
    OK(search_open(&search, &options, ERR));
    for (size_t i = 0; i < b.n_queries; i++) {
        struct search_request r = search_default_request();
        int ranking[100];
        r.text = b.queries[i].text;
        r.n_results = 100;
        OK(search_run(search, s, "alice", collection, &r, &result, ERR));
        for (int j = 0; j < result.n; j++) {
            size_t d = 0;
            while (ids[d] != result.hits[j].document) d++;
            ranking[j] = (int)d;
        }
        ndcg += beir_ndcg(&b.queries[i], ranking, result.n, 10) / (double)b.n_queries;
        recall += beir_recall(&b.queries[i], ranking, result.n, 100) / (double)b.n_queries;
    }
    printf("SciFact, BM25: nDCG@10 %.4f, recall@100 %.4f\n", ndcg, recall);
    cr_assert_geq(ndcg, 0.685);
    cr_assert_geq(recall, 0.92);
    search_result_deinit(&result);
    search_close(search);
    store_close(s);
    free(ids);
    beir_close(&b);
    fixture_deinit(&fixture);
}

/* The measures against values computed by hand. */
Test(search_scifact, measures) {
    struct beir_judgement judgements[] = {{7, 1}, {8, 2}};
    const struct beir_query q = {.judgements = judgements, .n_judgements = 2};
    const int ranking[] = {3, 8, 7};
    const double ideal = 2 / 1.0 + 1 / 1.5849625007211562;
    cr_assert_float_eq(beir_ndcg(&q, ranking, 3, 10), (2 / 1.5849625007211562 + 1 / 2.0) / ideal, 1e-12);
    cr_assert_float_eq(beir_ndcg(&q, ranking, 3, 2), (2 / 1.5849625007211562) / ideal, 1e-12);
    cr_assert_eq(beir_recall(&q, ranking, 3, 2), 0.5);
    cr_assert_eq(beir_recall(&q, ranking, 3, 3), 1.0);
}
