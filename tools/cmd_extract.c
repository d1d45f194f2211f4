/* cmd_extract.c - `tandem extract`: what documents become on their way into a store: text, or chunks. */
#include "engine/tokenizer.h"
#include "kernels/status.h"
#include "rag/chunk.h"
#include "rag/dedup.h"
#include "rag/extract.h"
#include "tools/options.h"
#include "weights/weights.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_FOLDERS 32 /* within each other */

int cmd_extract(int argc, char **argv);

/* One file's line in the closing table. */
struct outcome {
    char *path; /* owned */
    int format, status;
    uint32_t pages;
    size_t text_bytes, n_chunks, n_tokens, same_as; /* same_as: another outcome + 1, with the same text */
    double seconds;
    struct text_hash hash;
    char reason[ERR_BYTES];
};

struct run {
    bool json, chunks, quiet;
    struct tokenizer *tokenizer; /* owned, or NULL: words are counted */
    struct chunk_options options;
    struct extract_limits limits;
    struct outcome *outcomes; /* owned */
    size_t n, capacity;
};

static size_t count_tokens(void *arg, const char *text, size_t bytes) {
    struct ids ids = {0};
    CHECK_EQ(tokenizer_encode(arg, text, bytes, false, &ids), 0);
    size_t n = ids.n;
    ids_deinit(&ids);
    return n;
}

/* Without a tokenizer: words, and signs, each as one; long words as one for every eight bytes. */
static size_t count_words(void *arg, const char *text, size_t bytes) {
    size_t n = 0, word = 0;
    (void)arg;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        bool letter = c >= 0x80 || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
        word = letter ? word + 1 : 0;
        n += letter ? word % 8 == 1 : c > ' ';
    }
    return n;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- what is printed --------------------------------------------------------------------------------------------- */

static void add_string(cJSON *object, const char *name, const char *text, size_t bytes) {
    char *copy = malloc(bytes + 1);
    CHECK(copy);
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    cJSON_AddStringToObject(object, name, copy);
    free(copy);
}

static void add_span(cJSON *object, const struct text *t, size_t start, size_t end) {
    uint64_t from, to;
    cJSON_AddNumberToObject(object, "start", (double)start);
    cJSON_AddNumberToObject(object, "end", (double)end);
    if (!text_source(t, start, end, &from, &to)) return;
    cJSON_AddNumberToObject(object, "source_start", (double)from);
    cJSON_AddNumberToObject(object, "source_end", (double)to);
}

static cJSON *blocks_json(const struct text *t) {
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < t->n_blocks; i++) {
        const struct text_block *b = &t->blocks[i];
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "kind", block_kind_name(b->kind));
        if (b->kind == BLOCK_HEADING) cJSON_AddNumberToObject(item, "level", b->level);
        if (b->page) cJSON_AddNumberToObject(item, "page", b->page);
        add_span(item, t, b->start, b->end);
        cJSON_AddItemToArray(list, item);
    }
    return list;
}

static cJSON *chunks_json(const struct text *t, const struct chunks *c) {
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < c->n; i++) {
        const struct chunk *k = &c->items[i];
        cJSON *item = cJSON_CreateObject();
        add_span(item, t, k->start, k->end);
        cJSON_AddNumberToObject(item, "tokens", (double)k->n_tokens);
        if (k->first_page) cJSON_AddNumberToObject(item, "first_page", k->first_page);
        if (k->last_page) cJSON_AddNumberToObject(item, "last_page", k->last_page);
        cJSON_AddStringToObject(item, "context", k->context);
        add_string(item, "body", t->text + k->start, k->end - k->start);
        cJSON_AddItemToArray(list, item);
    }
    return list;
}

static void print_json(const struct run *r, const struct outcome *o, const struct text *t, const struct chunks *c) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "path", o->path);
    cJSON_AddStringToObject(root, "format", extract_format_name(o->format));
    if (o->status) {
        cJSON_AddStringToObject(root, "error", o->reason);
    } else {
        char hash[33];
        snprintf(hash, sizeof hash, "%016" PRIx64 "%016" PRIx64, o->hash.high, o->hash.low);
        cJSON_AddStringToObject(root, "title", t->title);
        cJSON_AddNumberToObject(root, "pages", o->pages);
        cJSON_AddStringToObject(root, "hash", hash);
        cJSON_AddStringToObject(root, "text", t->text);
        cJSON_AddItemToObject(root, "blocks", blocks_json(t));
        if (r->chunks) cJSON_AddItemToObject(root, "chunks", chunks_json(t, c));
    }
    char *line = cJSON_PrintUnformatted(root);
    CHECK(line);
    puts(line);
    cJSON_free(line);
    cJSON_Delete(root);
}

static void print_text(const struct run *r, const struct outcome *o, const struct text *t, const struct chunks *c) {
    if (o->status) return;
    if (!r->chunks) {
        printf("%s\n", t->text);
        return;
    }
    for (size_t i = 0; i < c->n; i++) {
        const struct chunk *k = &c->items[i];
        printf("---- %s, chunk %zu of %zu, %zu tokens, [%zu, %zu)", o->path, i + 1, c->n, k->n_tokens, k->start,
               k->end);
        if (k->first_page) printf(", page %u", k->first_page);
        if (k->last_page > k->first_page) printf(" to %u", k->last_page);
        printf("\n%s%.*s\n", k->context, (int)(k->end - k->start), t->text + k->start);
    }
}

static void print_table(const struct run *r, FILE *to, double seconds) {
    size_t read = 0, pages = 0;
    fprintf(to, "\n%-7s %-7s %6s %10s %7s %8s  %s\n", "result", "format", "pages", "bytes", "chunks", "ms", "file");
    for (size_t i = 0; i < r->n; i++) {
        const struct outcome *o = &r->outcomes[i];
        char pages_shown[16] = "-", chunks_shown[24] = "-";
        if (o->pages) snprintf(pages_shown, sizeof pages_shown, "%u", o->pages);
        if (r->chunks && !o->status) snprintf(chunks_shown, sizeof chunks_shown, "%zu", o->n_chunks);
        fprintf(to, "%-7s %-7s %6s %10zu %7s %8.1f  %s", o->status ? "failed" : "read", extract_format_name(o->format),
                pages_shown, o->text_bytes, chunks_shown, 1e3 * o->seconds, o->path);
        if (o->status) fprintf(to, ": %s", o->reason);
        if (o->same_as) fprintf(to, ": the same text as %s", r->outcomes[o->same_as - 1].path);
        fputc('\n', to);
        read += !o->status;
        pages += o->status ? 0 : o->pages;
    }
    fprintf(to, "%zu read, %zu failed, %zu pages, %.2f s\n", read, r->n - read, pages, seconds);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static struct outcome *add_outcome(struct run *r, const char *path) {
    if (r->n == r->capacity) {
        r->capacity = 2 * r->capacity + 64;
        r->outcomes = realloc(r->outcomes, r->capacity * sizeof *r->outcomes);
        CHECK(r->outcomes);
    }
    struct outcome *o = &r->outcomes[r->n++];
    *o = (struct outcome){.path = strdup(path)};
    CHECK(o->path);
    return o;
}

static void find_same(struct run *r, struct outcome *o) {
    for (size_t i = 0; i + 1 < r->n; i++) {
        const struct outcome *other = &r->outcomes[i];
        if (other->status || other->hash.low != o->hash.low || other->hash.high != o->hash.high) continue;
        o->same_as = i + 1;
        return;
    }
}

static void take_file(struct run *r, const char *path) {
    struct outcome *o = add_outcome(r, path);
    struct document d;
    struct text t = {0};
    struct outline outline = {0};
    struct chunks chunks = {0};
    double start = now();
    o->status = extract_file(&d, &o->format, path, &r->limits, o->reason, sizeof o->reason);
    if (!o->status) {
        normalise(&t, &d);
        outline_make(&outline, &t);
        if (r->chunks) chunks_make(&chunks, &t, &outline, &r->options);
        o->pages = t.n_pages;
        o->text_bytes = t.bytes;
        o->n_chunks = chunks.n;
        o->hash = text_hash(t.text, t.bytes);
        find_same(r, o);
    }
    o->seconds = now() - start;
    if (!r->quiet && r->json) print_json(r, o, &t, &chunks);
    if (!r->quiet && !r->json) print_text(r, o, &t, &chunks);
    chunks_deinit(&chunks);
    outline_deinit(&outline);
    text_deinit(&t);
    document_deinit(&d);
}

/* A file, or all files below a folder, in the order of their names. Hidden ones are left out, links are not followed.
 */
static void take(struct run *r, const char *path, int depth) {
    struct stat st;
    struct dirent **entries;
    if (depth > MAX_FOLDERS || stat(path, &st) || !S_ISDIR(st.st_mode)) {
        take_file(r, path);
        return;
    }
    int n = scandir(path, &entries, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char below[PATH_MAX];
        bool fits = snprintf(below, sizeof below, "%s/%s", path, entries[i]->d_name) < (int)sizeof below;
        if (fits && entries[i]->d_name[0] != '.' && !lstat(below, &st) && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
            take(r, below, depth + 1);
        free(entries[i]);
    }
    if (n >= 0) free(entries);
}

int cmd_extract(int argc, char **argv) {
    static const struct command_help help = {
        .name = "extract",
        .operands = "PATH...",
        .summary =
            "Reads documents (txt, md, html, csv, json, eml, docx, pdf; folders with all below them) and prints their\n"
            "text, or the chunks that an embedder would get. A closing table says what was done with each file,\n"
            "and why not. Nothing is stored. The exit code is 1 if any file could not be read.",
        .example = "tandem extract report.pdf notes/ --chunks --max-tokens 400 --overlap 40",
        .min_operands = 1,
        .max_operands = INT_MAX,
    };
    struct run r = {.limits = extract_default_limits(), .options = {.max_tokens = 400, .overlap_tokens = 40}};
    const char *model = NULL;
    const struct option_spec specs[] = {
        FLAG(BOOL, "chunks", &r.chunks, NULL, "print chunks with their places, pages and headings"),
        FLAG(INT, "max-tokens", &r.options.max_tokens, "N", "tokens of a chunk at most, its headings included",
             .low = CHUNK_MIN_TOKENS, .high = 1000000),
        FLAG(INT, "overlap", &r.options.overlap_tokens, "N",
             "tokens that a chunk repeats of the one before it, up to a quarter", .low = 0, .high = 250000),
        FLAG(STRING, "tokenizer", &model, "MODEL", "a model, or a folder with a tokenizer, to count with",
             .shown = "words and signs are counted"),
        FLAG(INT, "timeout", &r.limits.seconds, "N", "seconds for one file", .low = 1, .high = 3600),
        FLAG(BOOL, "json", &r.json, NULL, "print one JSON object per file"),
        FLAG(BOOL, "quiet", &r.quiet, NULL, "print the closing table alone"),
        {0},
    };
    struct options o = {0};
    char err[ERR_BYTES], path[PATH_MAX];
    double start = now();
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    exit_code = 2;
    if (r.options.overlap_tokens > r.options.max_tokens / 4) {
        fprintf(stderr, "tandem extract: --overlap: expected at most a quarter of --max-tokens (%d), found %d\n",
                r.options.max_tokens / 4, r.options.overlap_tokens);
        goto done;
    }
    exit_code = 1;
    r.options.count = count_words;
    if (model) {
        struct stat st; /* a folder with a tokenizer alone is none that model_find takes for a model */
        bool folder = !stat(model, &st) && S_ISDIR(st.st_mode);
        if ((!folder && model_find(model, path, sizeof path, err, sizeof err)) ||
            tokenizer_open(&r.tokenizer, folder ? model : path, err, sizeof err)) {
            fprintf(stderr, "tandem extract: %s\n", err);
            goto done;
        }
        r.options.count = count_tokens;
        r.options.arg = r.tokenizer;
    }
    for (size_t i = 0; i < o.operands.n; i++) take(&r, o.operands.items[i], 0);
    print_table(&r, r.quiet && !r.json ? stdout : stderr, now() - start);
    exit_code = 0;
    for (size_t i = 0; i < r.n; i++) exit_code |= r.outcomes[i].status != 0;
done:
    for (size_t i = 0; i < r.n; i++) free(r.outcomes[i].path);
    free(r.outcomes);
    tokenizer_close(r.tokenizer);
    options_deinit(&o);
    return exit_code;
}
