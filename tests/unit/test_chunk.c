/* section.h and chunk.h: the tree of headings; for every chunk that its body is the text at its place, that it is
 * within its cap by an exact count, that nothing is lost; and what goes where in documents made for it. */
#include "rag/chunk.h"
#include "tests/unit/documents.h"

#include <ctype.h>

/* Words and signs, as the `tandem extract` command counts without a tokenizer. */
static size_t count_words(void *arg, const char *text, size_t bytes) {
    size_t n = 0, word = 0;
    (void)arg;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        word = c >= 0x80 || isalnum(c) ? word + 1 : 0;
        n += word ? word % 8 == 1 : c > ' ';
    }
    return n;
}
static size_t count_bytes(void *arg, const char *text, size_t bytes) { /* the finest */
    (void)arg, (void)text;
    return bytes;
}
static size_t count_one(void *arg, const char *text,
                        size_t bytes) { /* WordPiece's answer to a word that it cannot spell */
    (void)arg, (void)text, (void)bytes;
    return 1;
}
static size_t count_joint(void *arg, const char *text,
                          size_t bytes) { /* not additive: more than the sum of its parts */
    return count_words(arg, text, bytes) * 5 / 4 + 3;
}

struct cut {
    struct text t;
    struct outline o;
    struct chunks c;
};

static void check(const struct cut *x, const struct chunk_options *options) {
    unsigned char *seen = calloc(1, x->t.bytes + 1);
    size_t start = 0, end = 0;
    for (size_t i = 0; i < x->c.n; i++) {
        const struct chunk *k = &x->c.items[i];
        cr_assert(k->start < k->end && k->end <= x->t.bytes, "chunk %zu is [%zu, %zu)", i, k->start, k->end);
        cr_assert(k->start >= start && k->end > end && (i == 0 || k->start > start), "chunk %zu does not go on", i);
        cr_assert((x->t.text[k->start] & 0xC0) != 0x80, "chunk %zu begins within a character", i);
        cr_assert((x->t.text[k->end] & 0xC0) != 0x80, "chunk %zu ends within a character", i);
        cr_assert_eq(strlen(k->context), k->context_bytes);
        char *whole = malloc(k->context_bytes + (k->end - k->start) + 1);
        memcpy(whole, k->context, k->context_bytes);
        memcpy(whole + k->context_bytes, x->t.text + k->start, k->end - k->start);
        size_t tokens = options->count(NULL, whole, k->context_bytes + k->end - k->start);
        free(whole);
        cr_assert_eq(tokens, k->n_tokens, "chunk %zu has %zu tokens, not %zu", i, tokens, k->n_tokens);
        cr_assert_leq(tokens, (size_t)options->max_tokens);
        cr_assert_leq(k->end - k->start, (size_t)options->max_tokens * CHUNK_BYTES_PER_TOKEN);
        cr_assert_leq(k->first_block, k->last_block);
        cr_assert(x->t.blocks[k->first_block].start <= k->start && k->start < x->t.blocks[k->first_block].end);
        cr_assert(x->t.blocks[k->last_block].start < k->end && k->end <= x->t.blocks[k->last_block].end);
        memset(seen + k->start, 1, k->end - k->start);
        start = k->start;
        end = k->end;
    }
    for (size_t i = 0; i < x->t.bytes; i++)
        cr_assert(seen[i] || (unsigned char)x->t.text[i] <= ' ', "byte %zu ('%c') is in no chunk", i, x->t.text[i]);
    free(seen);
}

static struct cut cut(int format, const char *data, size_t bytes, struct chunk_options options) {
    struct cut x = {0};
    struct document d;
    cr_assert_eq(parse(&d, format, data, bytes, NULL), 0, "%s", err);
    normalise(&x.t, &d);
    document_deinit(&d);
    outline_make(&x.o, &x.t);
    chunks_make(&x.c, &x.t, &x.o, &options);
    check(&x, &options);
    return x;
}

static void cut_deinit(struct cut *x) {
    chunks_deinit(&x->c);
    outline_deinit(&x->o);
    text_deinit(&x->t);
}

static struct chunk_options words(int max, int overlap) {
    return (struct chunk_options){.max_tokens = max, .overlap_tokens = overlap, .count = count_words};
}

Test(section, tree_of_headings) {
    struct cut x = cut(FORMAT_MD, "pre\n\n# A\n\na\n\n### B\n\nb\n\n## C\n\nc\n\n# D\n", 36, words(100, 0));
    static const int parents[] = {0, 0, 1, 1, 0}, levels[] = {0, 1, 3, 2, 1};
    static const char *const titles[] = {"", "A", "B", "C", "D"};
    static const unsigned ends[] = {8, 7, 5, 7, 8};
    cr_assert_eq(x.o.n_sections, 5u);
    for (uint32_t i = 0; i < 5; i++) {
        size_t bytes;
        const char *title = section_title(&x.o, &x.t, i, &bytes);
        cr_expect_eq((int)x.o.sections[i].parent, parents[i]);
        cr_expect_eq(x.o.sections[i].level, levels[i]);
        cr_expect_eq(x.o.sections[i].end_block, ends[i], "section %u ends at %u", i, x.o.sections[i].end_block);
        cr_expect(bytes == strlen(titles[i]) && !memcmp(title, titles[i], bytes));
    }
    cr_expect_eq(x.o.section_of[0], 0u);
    cr_expect_eq(x.o.section_of[4], 2u);
    cut_deinit(&x);
}

static size_t repeat(char *to, const char *text, int n) {
    size_t at = 0;
    for (int i = 0; i < n; i++) at += (size_t)sprintf(to + at, text, i, i, i);
    return at;
}

Test(chunk, headings_are_context) {
    char page[20000];
    size_t n = (size_t)sprintf(page, "# Birds\n\n");
    n += repeat(page + n, "Sentence %d about all birds has some words. ", 10);
    n += (size_t)sprintf(page + n, "\n\n## Ducks\n\n");
    n += repeat(page + n, "Sentence %d about ducks alone has more words. ", 40);
    struct cut x = cut(FORMAT_MD, page, n, words(100, 0));
    cr_assert_gt(x.c.n, 4u);
    cr_expect_str_eq(x.c.items[0].context, "");
    cr_expect(!strncmp(x.t.text + x.c.items[0].start, "# Birds\n\nSentence 0", 19));
    cr_expect_str_eq(x.c.items[1].context, "Birds\n\n");
    cr_expect(!strncmp(x.t.text + x.c.items[1].start, "## Ducks\n\nSentence 0", 20), "a heading begins a chunk");
    cr_expect_str_eq(x.c.items[2].context, "Birds > Ducks\n\n");
    cut_deinit(&x);
}

Test(chunk, tables_repeat_their_header) {
    char page[20000];
    size_t n = (size_t)sprintf(page, "Some words before.\n\n| Name | Number |\n|---|---|\n");
    n += repeat(page + n, "| row %d of the table | %d |\n", 60);
    struct cut x = cut(FORMAT_MD, page, n, words(100, 20));
    cr_assert_gt(x.c.n, 3u);
    for (size_t i = 1; i < x.c.n; i++) {
        cr_expect_str_eq(x.c.items[i].context, "| Name | Number |\n| --- | --- |\n");
        cr_expect(!strncmp(x.t.text + x.c.items[i].start, "| row", 5), "rows stay whole");
        cr_expect(x.c.items[i].start > x.c.items[i - 1].end, "tables do not overlap");
    }
    cut_deinit(&x);
    n = (size_t)sprintf(page, "words before ");
    n += repeat(page + n, "and more of them %d ", 12);
    n += (size_t)sprintf(page + n, "\n\n| Name | Number |\n|---|---|\n");
    n += repeat(page + n, "| r %d | %d |\n", 8);
    x = cut(FORMAT_MD, page, n, words(100, 0));
    cr_assert_eq(x.c.n, 2u);
    cr_expect_eq(x.c.items[1].start, x.t.blocks[1].start, "a table that fits stays whole");
    cut_deinit(&x);
}

Test(chunk, code_is_cut_between_lines) {
    char page[20000];
    size_t n = (size_t)sprintf(page, "Text.\n\n```\n");
    n += repeat(page + n, "    if (x == %d) { call(%d); }\n", 40);
    n += (size_t)sprintf(page + n, "```\n");
    struct cut x = cut(FORMAT_MD, page, n, words(120, 30));
    cr_assert_gt(x.c.n, 3u);
    for (size_t i = 1; i < x.c.n; i++)
        cr_expect(!strncmp(x.t.text + x.c.items[i].start, "    if (x", 9), "with its indentation");
    cut_deinit(&x);
}

Test(chunk, overlap_within_a_paragraph) {
    char page[20000];
    size_t n = repeat(page, "This is sentence number %d of the text. ", 60);
    struct cut x = cut(FORMAT_TXT, page, n, words(100, 25));
    cr_assert_gt(x.c.n, 4u);
    for (size_t i = 1; i < x.c.n; i++) {
        const struct chunk *a = &x.c.items[i - 1], *b = &x.c.items[i];
        cr_expect_lt(b->start, a->end, "chunk %zu does not overlap", i);
        size_t shared = count_words(NULL, x.t.text + b->start, a->end - b->start);
        cr_expect(shared > 0 && shared <= 25, "%zu tokens", shared);
        cr_expect(!strncmp(x.t.text + b->start, "This is", 7), "sentences stay whole");
    }
    cut_deinit(&x);
}

Test(chunk, small_sections_share_chunks) {
    char page[20000];
    size_t n = repeat(page, "## Question %d?\n\nAn answer of few words.\n\n", 40);
    struct cut x = cut(FORMAT_MD, page, n, words(200, 0));
    cr_expect_lt(x.c.n, 15u, "%zu chunks", x.c.n);
    for (size_t i = 0; i < x.c.n; i++) cr_expect(!strncmp(x.t.text + x.c.items[i].start, "## ", 3));
    cut_deinit(&x);
}

Test(chunk, pages_and_sentences) {
    struct cut x = cut(FORMAT_TXT, "One page here.\fTwo pages here.\fThree.", 37, words(100, 0));
    cr_assert_eq(x.c.n, 1u);
    cr_expect_eq(x.c.items[0].last_page, 3u);
    cut_deinit(&x);
    char page[4000];
    size_t n = repeat(page, "Dr. J. Smith et al. saw No. %d, e.g. a duck. \u6C34\u3002\u706B\u3002 ", 40);
    x = cut(FORMAT_TXT, page, n, words(CHUNK_MIN_TOKENS, 0));
    for (size_t i = 0; i < x.c.n; i++)
        cr_expect(!strncmp(x.t.text + x.c.items[i].start, "Dr. J.", 6) || (x.t.text[x.c.items[i].start] & 0x80),
                  "\"%.20s\" begins no sentence", x.t.text + x.c.items[i].start);
    cut_deinit(&x);
}

static uint64_t state = 1;
static unsigned draw(unsigned n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % n;
}

/* Random Markdown, with all counters: what check() asserts holds for each. */
Test(chunk, random_documents) {
    static const char *const pieces[] = {"# ",
                                         "## ",
                                         "### ",
                                         "- ",
                                         "1. ",
                                         "\n\n",
                                         "\n",
                                         "word ",
                                         "Sentence end. ",
                                         "| a | b |\n|--|--|\n| c | d |\n| e | f |\n",
                                         "```\ncode\n  more\n```\n",
                                         "\u00E9\u6C34\u706B",
                                         "x",
                                         "verylongwordwithoutanyspaceinit",
                                         "! ",
                                         "? ",
                                         "    ",
                                         "> ",
                                         "\u3002",
                                         "(a) "};
    static chunk_count *const counters[] = {count_words, count_bytes, count_one, count_joint};
    char *page = malloc(1 << 16);
    for (int round = 0; round < 400; round++) {
        size_t n = 0;
        int length = 1 + (int)draw(600);
        for (int i = 0; i < length && n < 60000; i++) {
            const char *piece = pieces[draw(sizeof pieces / sizeof *pieces)];
            for (unsigned k = draw(20) ? 1 : 1 + draw(100); k && n < 60000; k--)
                n += (size_t)sprintf(page + n, "%s", piece);
        }
        n += (size_t)sprintf(page + n, "end");
        int max = CHUNK_MIN_TOKENS + (int)draw(200);
        struct chunk_options options = {.max_tokens = max, .overlap_tokens = (int)draw((unsigned)max / 4 + 1)};
        options.count = counters[draw(4)];
        struct cut x = cut(draw(4) ? FORMAT_MD : FORMAT_TXT, page, n, options);
        cut_deinit(&x);
    }
    free(page);
}

Test(chunk, corpora) {
    static const char *const names[] = {"chatlogs", "finance", "pubmed", "state_of_the_union", "wikitexts"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128];
        snprintf(path, sizeof path, "../shared/data/rag-eval/chunking/corpora/%s.md", names[i]);
        FILE *f = fopen(path, "rb");
        if (!f) cr_skip_test("the corpora are not at ../shared/data/rag-eval/chunking");
        char *data = malloc(1 << 20);
        size_t n = fread(data, 1, 1 << 20, f);
        fclose(f);
        for (int max = 64; max <= 512; max *= 2) {
            struct cut x = cut(FORMAT_MD, data, n, words(max, max / 8));
            for (size_t k = 0; k < x.c.n; k++) { /* and each has its place in the file */
                uint64_t from, to;
                cr_assert(text_source(&x.t, x.c.items[k].start, x.c.items[k].end, &from, &to), "%s, chunk %zu",
                          names[i], k);
                cr_assert(from < to && to <= n);
            }
            cut_deinit(&x);
        }
        free(data);
    }
}
