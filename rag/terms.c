/* terms.c - FTS5's tokenizer, called without a table: fts5_api hands it out (https://sqlite.org/fts5.html). */
#include "rag/terms.h"

#include "engine/tokenizer_utf8.h"
#include "kernels/status.h"

#include <limits.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_STOP_WORDS = 96, STOP_BYTES = 16 };

struct analyser {
    sqlite3 *db; /* owned: an empty one in memory, for its tokenizers */
    fts5_tokenizer methods;
    Fts5Tokenizer *tokenizer; /* owned */
    int n_stop;
    char stop[MAX_STOP_WORDS][STOP_BYTES]; /* as the tokenizer leaves them, sorted */
    term_function *emit;                   /* of the call that runs */
    void *arg;
};

/* Lucene's English stop words, and what questions are made of. */
static const char stop_words[] = "a an and are as at be but by for if in into is it no not of on or such that the "
                                 "their then there these they this to "
                                 "was will with what which who whom whose how when where why do does did can could "
                                 "should would has have had were been "
                                 "from its i me my we our you your he she his her them about tell please";

static int by_text(const void *a, const void *b) {
    return strcmp(a, b);
}

static bool is_stop(const struct analyser *a, const char *term, size_t n) {
    char word[STOP_BYTES] = {0};
    if (n >= sizeof word) return false;
    memcpy(word, term, n);
    return bsearch(word, a->stop, (size_t)a->n_stop, sizeof a->stop[0], by_text) != NULL;
}

static bool is_cjk(int32_t c) {
    return (c >= 0x2E80 && c <= 0x9FFF && !(c >= 0x3000 && c <= 0x303F)) || /* radicals, kana, Han */
           (c >= 0xAC00 && c <= 0xD7AF) || (c >= 0x1100 && c <= 0x11FF) ||  /* Hangul */
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0xFF66 && c <= 0xFF9F) ||  /* compatibility, half-width kana */
           (c >= 0x20000 && c <= 0x3FFFF);
}

static void emit(struct analyser *a, const char *term, size_t n) {
    if (n > TERM_MAX_BYTES) { /* at a character's start */
        n = TERM_MAX_BYTES;
        while (n && ((unsigned char)term[n] & 0xC0) == 0x80) n--;
    }
    if (n) a->emit(a->arg, term, n, is_stop(a, term, n));
}

/* A word with CJK characters in it: pairs of those, and what stands between them. */
static void emit_cjk(struct analyser *a, const char *term, size_t n) {
    size_t run = 0, before = 0; /* the run's start; the character before this one, within the run */
    int n_run = 0;
    bool cjk = false;
    for (size_t i = 0; i <= n;) {
        int32_t c = 0;
        size_t bytes = i < n ? utf8_decode((const uint8_t *)term + i, n - i, &c) : 1;
        const bool now = i < n && is_cjk(c);
        if (i == n || now != cjk) {
            if (cjk ? n_run == 1 : i > run) emit(a, term + run, i - run);
            run = i;
            n_run = 0;
            cjk = now;
        }
        if (i < n && cjk && ++n_run > 1) emit(a, term + before, i + bytes - before);
        before = i;
        i += bytes;
    }
}

static int on_token(void *arg, int flags, const char *term, int n, int start, int end) {
    (void)flags, (void)start, (void)end;
    struct analyser *a = arg;
    bool wide = false;
    for (int i = 0; i < n && !wide; i++) wide = (unsigned char)term[i] >= 0xE1; /* U+1000 and above */
    if (wide)
        emit_cjk(a, term, (size_t)n);
    else
        emit(a, term, (size_t)n);
    return SQLITE_OK;
}

void analyse(struct analyser *a, const char *text, size_t n, term_function *call, void *arg) {
    CHECK_LE(n, INT_MAX);
    a->emit = call;
    a->arg = arg;
    int code = a->methods.xTokenize(a->tokenizer, a, FTS5_TOKENIZE_DOCUMENT, text, (int)n, on_token);
    CHECK_EQ(code, SQLITE_OK); /* it fails without memory alone */
}

static void add_stop(void *arg, const char *term, size_t n, bool stop) {
    (void)stop;
    struct analyser *a = arg;
    CHECK_LT(a->n_stop, MAX_STOP_WORDS);
    CHECK_LT(n, STOP_BYTES);
    memcpy(a->stop[a->n_stop++], term, n);
}

/* The extension's table of functions, by the statement that its documentation prescribes. */
static fts5_api *api_of(sqlite3 *db) {
    fts5_api *api = NULL;
    sqlite3_stmt *stmt = NULL;
    if (!sqlite3_prepare_v2(db, "SELECT fts5(?1)", -1, &stmt, NULL)) {
        sqlite3_bind_pointer(stmt, 1, (void *)&api, "fts5_api_ptr", NULL);
        sqlite3_step(stmt);
    }
    sqlite3_finalize(stmt);
    return api;
}

int analyser_open(struct analyser **out, char *err, size_t err_bytes) {
    static const char *words[] = {"unicode61"};
    struct analyser *a = *out = calloc(1, sizeof *a);
    void *context;
    fts5_api *api;
    if (!a) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for the analyser");
    if (sqlite3_open(":memory:", &a->db) || !(api = api_of(a->db)) ||
        api->xFindTokenizer(api, "porter", &context, &a->methods) ||
        a->methods.xCreate(context, words, 1, &a->tokenizer)) {
        analyser_close(a);
        *out = NULL;
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "expected an SQLite with FTS5 and its tokenizer \"porter unicode61\", "
                    "found SQLite %s without",
                    sqlite3_libversion());
    }
    analyse(a, stop_words, sizeof stop_words - 1, add_stop, a);
    qsort(a->stop, (size_t)a->n_stop, sizeof a->stop[0], by_text);
    return 0;
}

void analyser_close(struct analyser *a) {
    if (!a) return;
    if (a->tokenizer) a->methods.xDelete(a->tokenizer);
    sqlite3_close(a->db);
    free(a);
}
