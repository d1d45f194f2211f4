/* bench_retrieval.c - how good and how fast retrieval is: stores, BM25, vectors and their fusion.
 *
 * Quality is measured on a folder in BEIR's form (rag/beir.h), against its judgements: nDCG@10, recall@100. Vectors of
 * its documents and questions come from a safetensors file of f32, so that whatever embedder made them can be compared.
 * Speed is that of search_run as a caller sees it, looking for changes in the store included; `in all` adds reading the
 * texts of ten chunks back. Other work on the machine only ever adds time, so the best stands beside the median.
 * Everything goes through a store of its own, in a temporary file or at --store. */
#include "rag/beir.h"
#include "rag/search.h"
#include "weights/weights.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static const char help[] =
    "Usage: bench_retrieval --data FOLDER [--vectors FILE] [--copies N]      a labelled corpus\n"
    "       bench_retrieval --synthetic ROWSxDIM                             random vectors and words\n"
    "\n"
    "  --data FOLDER     corpus.jsonl, queries.test.tsv, qrels.test.txt\n"
    "  --vectors FILE    safetensors: documents [n, dim] and queries [m, dim], f32, in the order of the files\n"
    "  --copies N        of the corpus, for times alone: a larger collection with the same words [1]\n"
    "  --store URL       a new file, or postgresql://... [a temporary file]\n"
    "  --threads N       of the vectors' product [one per core]\n"
    "  --backend NAME    cpu or cuda [cpu]\n"
    "\n"
    "Example: bench_retrieval --data ../shared/data/rag-eval/scifact\n";

enum { DEPTH = 1000, N_TIMED = 300, TEXTS = 10 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *sentence) {
    fprintf(stderr, "bench_retrieval: %s\n", sentence);
    exit(1);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(double *times, int n) {
    qsort(times, (size_t)n, sizeof *times, by_value);
    printf(" %9.3f %9.3f %9.3f\n", 1e3 * times[0], 1e3 * times[n / 2], 1e3 * times[n * 99 / 100]);
}

struct bench {
    struct store *store;
    struct search *search;
    int64_t collection;
    char err[ERR_BYTES];
};

static void check(struct bench *b, int status) {
    if (status) die(b->err);
}
#define ERR(b) (b)->err, sizeof(b)->err

/* ---- a labelled corpus ------------------------------------------------------------------------------------------- */

struct corpus {
    struct beir data;
    int64_t *ids; /* of documents, ascending with their number */
    int copies;
    const float *documents, *queries; /* vectors, or NULL */
    struct tensor *tensors;           /* owned */
    size_t n_tensors;
    void *image;
    int dim;
};

static void read_vectors(struct bench *b, struct corpus *c, const char *path) {
    size_t bytes = 0, capacity = 0, k;
    FILE *f = fopen(path, "re");
    char *image = NULL;
    if (!f) die("the file of vectors cannot be opened");
    do {
        image = array_reserve(image, &capacity, bytes + (1 << 20), 1);
        k = fread(image + bytes, 1, 1 << 20, f);
        bytes += k;
    } while (k);
    fclose(f);
    c->image = image;
    check(b, safetensors_parse(&c->tensors, &c->n_tensors, image, bytes, path, ERR(b)));
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct tensor *t = &c->tensors[i];
        const bool documents = !strcmp(t->name, "documents");
        if (!documents && strcmp(t->name, "queries")) continue;
        const size_t rows = documents ? c->data.n_documents : c->data.n_lines;
        if (t->dtype != DTYPE_F32 || t->n_dims != 2 || t->dims[0] != (int64_t)rows || (c->dim && t->dims[1] != c->dim))
            die("expected f32 tensors documents [n, dim] and queries [m, dim] with a row for each line of the files");
        c->dim = (int)t->dims[1];
        *(documents ? &c->documents : &c->queries) = t->data;
    }
    if (!c->documents || !c->queries) die("expected the tensors documents and queries in the file of vectors");
}

static int document_number(const struct corpus *c, int64_t id) {
    size_t low = 0, high = c->data.n_documents;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (c->ids[mid] < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low < c->data.n_documents && c->ids[low] == id ? (int)low : -1;
}

struct quality {
    double ndcg, recall;
};

static struct quality evaluate(struct bench *b, const struct corpus *c, const char *name, bool words, bool meaning,
                               enum fusion fusion, double weight, struct confidence_sample *samples) {
    struct search_result result = {0};
    struct quality q = {0};
    double *times = malloc(c->data.n_queries * sizeof *times);
    int ranking[DEPTH];
    CHECK(times);
    for (size_t i = 0; i < c->data.n_queries; i++) {
        const struct beir_query *query = &c->data.queries[i];
        struct search_request r = search_default_request();
        r.text = words ? query->text : NULL;
        r.vector = meaning ? c->queries + (size_t)query->number * (size_t)c->dim : NULL;
        r.fusion = fusion;
        r.dense_weight = (float)weight;
        r.n_results = 100;
        const double start = now();
        check(b, search_run(b->search, b->store, "bench", b->collection, &r, &result, ERR(b)));
        times[i] = now() - start;
        int n = 0;
        for (int j = 0; j < result.n; j++) {
            ranking[n] = document_number(c, result.hits[j].document);
            n += ranking[n] >= 0;
        }
        q.ndcg += beir_ndcg(query, ranking, n, 10) / (double)c->data.n_queries;
        q.recall += beir_recall(query, ranking, n, 100) / (double)c->data.n_queries;
        if (samples) samples[i] = (struct confidence_sample){result.features, n && beir_ndcg(query, ranking, 1, 1) > 0};
    }
    if (c->copies == 1)
        printf("%-28s %8.4f %10.4f", name, q.ndcg, q.recall);
    else
        printf("%-28s %8s %10s", name, "-", "-");
    print_times(times, (int)c->data.n_queries);
    search_result_deinit(&result);
    free(times);
    return q;
}

/* Is the first hit right? From features alone, fitted and measured by cross-validation. */
static void calibrate(const struct corpus *c, const struct confidence_sample *samples) {
    struct confidence model;
    double brier = 0;
    char err[ERR_BYTES];
    const int n = (int)c->data.n_queries;
    if (confidence_fit(&model, samples, n, err, sizeof err)) die(err);
    double *raw = malloc((size_t)n * sizeof *raw);
    bool *right = malloc((size_t)n * sizeof *right);
    CHECK(raw && right);
    for (int i = 0; i < n; i++) {
        raw[i] = samples[i].features.dense_top;
        if (raw[i] < 0) raw[i] = 0;
        if (raw[i] > 1) raw[i] = 1;
        right[i] = samples[i].right;
    }
    printf("\nis the first hit right? %d of %d questions\n", model.n_positive, model.n);
    printf("%-28s %8s %8s %8s\n", "", "ECE", "Brier", "AUC");
    printf("%-28s %8.4f %8.4f %8.4f\n", "confidence, cross-validated", model.ece, model.brier, model.auc);
    for (int i = 0; i < n; i++) brier += (raw[i] - right[i]) * (raw[i] - right[i]) / n;
    printf("%-28s %8.4f %8.4f %8.4f\n", "the raw inner product", expected_calibration_error(raw, right, n, 10), brier,
           area_under_curve(raw, right, n));
    int i = 0;
#define X(name) printf("    %-24s %8.3f per standard deviation\n", #name, model.weight[i++]);
    CONFIDENCE_FEATURES(X)
#undef X
    free(raw);
    free(right);
}

static void open_collection(struct bench *b) {
    if (store_collection_find(b->store, "bench", "bench", &b->collection, ERR(b)) != STATUS_NOT_FOUND)
        die("the store is not new");
    check(b, store_collection_add(b->store, "bench", "bench", NULL, &b->collection, ERR(b)));
}

static void load(struct bench *b, int64_t n, double ingested) {
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    double start = now();
    check(b, search_load(b->search, b->store, "bench", b->collection, ERR(b)));
    start = now() - start;
    getrusage(RUSAGE_SELF, &after);
    printf("%lld chunks in %s: stored at %.0f/s, loaded in %.2f s (%.0f/s), %.0f MB more, the file's pages included\n",
           (long long)n, store_kind(b->store), (double)n / ingested, start, (double)n / start,
           (double)(after.ru_maxrss - before.ru_maxrss) / 1024);
    printf("vectors on %s\n\n", search_backend(b->search));
}

static void labelled(struct bench *b, struct corpus *c) {
    char name[64];
    open_collection(b);
    c->ids = malloc((c->data.n_documents + 1) * sizeof *c->ids);
    CHECK(c->ids);
    const double start = now();
    for (int i = 0; i < c->copies; i++) {
        snprintf(name, sizeof name, "copy %d", i);
        check(b, beir_ingest(&c->data, b->store, "bench", b->collection, name, c->documents, c->ids, ERR(b)));
    }
    load(b, (int64_t)c->data.n_documents * c->copies, now() - start);
    printf("%-28s %8s %10s %9s %9s %9s\n", "", "nDCG@10", "recall@100", "best ms", "p50 ms", "p99 ms");
    evaluate(b, c, "BM25", true, false, FUSION_MIN_MAX, 0, NULL);
    if (!c->documents) return;
    struct confidence_sample *samples = malloc((c->data.n_queries + 1) * sizeof *samples);
    CHECK(samples);
    evaluate(b, c, "vectors", false, true, FUSION_MIN_MAX, 1, NULL);
    for (int i = 3; i <= 8; i++) {
        snprintf(name, sizeof name, "min-max, vectors %.1f", i / 10.0);
        evaluate(b, c, name, true, true, FUSION_MIN_MAX, i / 10.0, NULL);
    }
    evaluate(b, c, "min-max, the default", true, true, FUSION_MIN_MAX, (double)search_default_request().dense_weight,
             samples);
    evaluate(b, c, "reciprocal ranks", true, true, FUSION_RRF, 0.5, NULL);
    if (c->copies == 1) calibrate(c, samples);
    free(samples);
}

/* ---- synthetic --------------------------------------------------------------------------------------------------- */

static uint64_t random_state = 1;
static double uniform(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

static void random_vector(float *v, int dim) {
    double sum = 0;
    for (int i = 0; i < dim; i++) {
        v[i] = (float)(uniform() + uniform() + uniform() - 1.5);
        sum += (double)v[i] * (double)v[i];
    }
    for (int i = 0; i < dim; i++) v[i] /= (float)sqrt(sum);
}

/* n words of a vocabulary of 50,000 with frequencies like those of language (Zipf). */
static void random_words(char *text, int n) {
    for (int i = 0; i < n; i++) text += sprintf(text, "w%d ", (int)pow(50000, uniform()));
}

static void synthetic(struct bench *b, int rows, int dim) {
    enum { PER_DOCUMENT = 50, WORDS = 150, QUESTION_WORDS = 10 };
    float *vectors = malloc((size_t)PER_DOCUMENT * (size_t)dim * sizeof *vectors);
    char(*texts)[WORDS * 8] = malloc(PER_DOCUMENT * sizeof *texts);
    struct store_chunk chunks[PER_DOCUMENT];
    CHECK(vectors && texts);
    open_collection(b);
    double spent = 0;
    for (int done = 0, n; done < rows; done += n) {
        char name[64];
        int64_t id;
        n = rows - done < PER_DOCUMENT ? rows - done : PER_DOCUMENT;
        for (int i = 0; i < n; i++) {
            random_vector(vectors + (size_t)i * (size_t)dim, dim);
            random_words(texts[i], WORDS);
            chunks[i] = (struct store_chunk){.text = texts[i], .vector = vectors + (size_t)i * (size_t)dim};
        }
        snprintf(name, sizeof name, "document %d", done);
        const struct store_document d = {.name = name, .hash = name};
        const double start = now();
        check(b, store_document_add(b->store, "bench", &d, b->collection, &id, NULL, ERR(b)));
        check(b, store_document_publish(b->store, "bench", id, chunks, (size_t)n, 0, ERR(b)));
        spent += now() - start;
    }
    load(b, rows, spent);
    printf("%-28s %9s %9s %9s\n", "", "best ms", "p50 ms", "p99 ms");
    static const char *const names[] = {"vectors", "BM25", "both", "both, in all"};
    for (int mode = 0; mode < 4; mode++) {
        double times[N_TIMED];
        struct search_result result = {0};
        struct store_chunks found = {0};
        for (int i = 0; i < N_TIMED; i++) {
            struct search_request r = search_default_request();
            char words[QUESTION_WORDS * 8];
            int64_t ids[TEXTS];
            random_vector(vectors, dim);
            random_words(words, QUESTION_WORDS);
            r.vector = mode == 1 ? NULL : vectors;
            r.text = mode == 0 ? NULL : words;
            r.n_results = TEXTS;
            const double start = now();
            check(b, search_run(b->search, b->store, "bench", b->collection, &r, &result, ERR(b)));
            for (int j = 0; j < result.n; j++) ids[j] = result.hits[j].chunk;
            if (mode == 3) check(b, store_chunk_get(b->store, "bench", ids, (size_t)result.n, &found, ERR(b)));
            times[i] = now() - start;
        }
        printf("%-28s", names[mode]);
        print_times(times, N_TIMED);
        search_result_deinit(&result);
        store_chunks_deinit(&found);
    }
    free(vectors);
    free(texts);
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"data", 1, NULL, 'd'},    {"vectors", 1, NULL, 'v'}, {"copies", 1, NULL, 'c'},
        {"store", 1, NULL, 's'},   {"threads", 1, NULL, 't'}, {"synthetic", 1, NULL, 'y'},
        {"backend", 1, NULL, 'b'}, {"help", 0, NULL, 'h'},    {NULL, 0, NULL, 0}};
    const char *data = NULL, *vectors = NULL, *url = NULL;
    struct search_options search = {.backend = "cpu"};
    struct corpus c = {.copies = 1};
    struct bench b = {0};
    int rows = 0, dim = 0;
    for (int o; (o = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (o) {
        case 'd':
            data = optarg;
            break;
        case 'v':
            vectors = optarg;
            break;
        case 'c':
            c.copies = atoi(optarg);
            break;
        case 's':
            url = optarg;
            break;
        case 't':
            search.n_threads = atoi(optarg);
            break;
        case 'b':
            search.backend = optarg;
            break;
        case 'y':
            if (sscanf(optarg, "%dx%d", &rows, &dim) != 2 || rows < 1 || dim < 1) rows = -1;
            break;
        case 'h':
            fputs(help, stdout);
            return 0;
        default:
            fputs(help, stderr);
            return 2;
        }
    }
    if (optind < argc || !data == !rows || rows < 0 || c.copies < 1) {
        fputs(help, stderr);
        return 2;
    }
    char path[] = "/tmp/tandem-bench-XXXXXX", file[64];
    if (!mkdtemp(path)) die("no temporary folder");
    snprintf(file, sizeof file, "%s/store.db", path);
    if (data) check(&b, beir_open(&c.data, data, ERR(&b)));
    if (vectors) read_vectors(&b, &c, vectors);
    const struct store_options store = {
        .url = url ? url : file, .create = true, .dim = rows ? dim : c.dim, .dtype = DTYPE_F16};
    check(&b, store_open(&b.store, &store, ERR(&b)));
    check(&b, search_open(&b.search, &search, ERR(&b)));
    if (rows)
        synthetic(&b, rows, dim);
    else
        labelled(&b, &c);
    search_close(b.search);
    store_close(b.store);
    if (c.tensors) safetensors_free(c.tensors, c.n_tensors);
    free(c.image);
    free(c.ids);
    beir_close(&c.data);
    unlink(file);
    rmdir(path);
    return 0;
}
