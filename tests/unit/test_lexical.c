/* test_lexical.c - terms and BM25: the tokenizer by examples, scores against SQLite's own FTS5 and against the formula
 * in double precision, and that deleted rows leave no trace. */
#include "rag/lexical.h"
#include "kernels/status.h"

#include <criterion/criterion.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct analyser *a;
static void set_up(void) {
    char err[ERR_BYTES];
    cr_assert_eq(analyser_open(&a, err, sizeof err), 0, "%s", err);
}
static void tear_down(void) {
    analyser_close(a);
}
TestSuite(lexical, .init = set_up, .fini = tear_down);

static void join(void *arg, const char *term, size_t n, bool stop) {
    char *out = arg;
    snprintf(out + strlen(out), 4096 - strlen(out), "%s%.*s%s", *out ? " " : "", (int)n, term, stop ? "!" : "");
}

static void expect_terms(const char *text, const char *terms) {
    char out[4096] = "";
    analyse(a, text, strlen(text), join, out);
    cr_assert_str_eq(out, terms);
}

Test(lexical, terms) {
    expect_terms("", "");
    expect_terms("The Running of 3 DOGS, e.g. B-cells!", "the! run of! 3 dog e g b cell");
    expect_terms("\xC3\x84rzte und Caf\xC3\xA9s", "arzt und cafe");
    expect_terms("\xD0\x9C\xD0\xBE\xD1\x81\xD0\xBA\xD0\xB2\xD0\xB0",
                 "\xD0\xBC\xD0\xBE\xD1\x81\xD0\xBA\xD0\xB2\xD0\xB0");
    /* Beijing university; Han between Latin letters; one character by itself */
    expect_terms("\xE5\x8C\x97\xE4\xBA\xAC\xE5\xA4\xA7\xE5\xAD\xA6",
                 "\xE5\x8C\x97\xE4\xBA\xAC \xE4\xBA\xAC\xE5\xA4\xA7 \xE5\xA4\xA7\xE5\xAD\xA6");
    expect_terms("abc\xE5\x8C\x97\xE4\xBA\xAC"
                 "def \xE5\xA4\xA7",
                 "abc \xE5\x8C\x97\xE4\xBA\xAC def \xE5\xA4\xA7");
    expect_terms("what does it mean", "what! doe! it! mean");
    char big[400], out[4096] = "";
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    analyse(a, big, strlen(big), join, out);
    cr_assert_eq(strlen(out), TERM_MAX_BYTES);
}

/* ---- a corpus of random words ------------------------------------------------------------------------------------ */

static uint64_t state = 7;
static int below(int n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int)((state >> 33) % (uint64_t)n);
}

enum { ROWS = 500, VOCAB = 300, MOST_WORDS = 60 };
static char texts[ROWS][MOST_WORDS * 8];

static void make_texts(void) {
    for (int i = 0; i < ROWS; i++) {
        texts[i][0] = 0;
        for (int n = below(MOST_WORDS); n > 0; n--) {
            char word[16];
            int x = below(VOCAB);
            snprintf(word, sizeof word, "w%d ", x * x / VOCAB); /* some words are common */
            strcat(texts[i], word);
        }
    }
}

static void make_question(char *question, int n) {
    question[0] = 0;
    for (; n > 0; n--) sprintf(question + strlen(question), "w%d ", below(VOCAB));
}

/* FTS5's bm25() has the same tf part; its idf is ln((N - df + 1/2) / (df + 1/2)), at least 1e-6. With one term per
 * question and the ratio of the two idfs, scores must agree. */
Test(lexical, agrees_with_fts5) {
    sqlite3 *db;
    sqlite3_stmt *stmt;
    struct lexical *l = lexical_open();
    make_texts();
    cr_assert_eq(sqlite3_open(":memory:", &db), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(db, "CREATE VIRTUAL TABLE f USING fts5(t, tokenize='porter unicode61')", 0, 0, 0),
                 SQLITE_OK);
    sqlite3_prepare_v2(db, "INSERT INTO f (rowid, t) VALUES (?1, ?2)", -1, &stmt, NULL);
    for (int i = 0; i < ROWS; i++) {
        sqlite3_bind_int(stmt, 1, i + 1);
        sqlite3_bind_text(stmt, 2, texts[i], -1, SQLITE_STATIC);
        cr_assert_eq(sqlite3_step(stmt), SQLITE_DONE);
        sqlite3_reset(stmt);
        lexical_add(l, a, texts[i], NULL);
    }
    sqlite3_finalize(stmt);
    sqlite3_prepare_v2(db, "SELECT rowid, bm25(f) FROM f WHERE f MATCH ?1", -1, &stmt, NULL);
    uint64_t live[ROWS / 64 + 1];
    memset(live, 0xff, sizeof live);
    int n_compared = 0;
    for (int w = 0; w < VOCAB; w++) {
        char word[16];
        struct lexical_query q;
        static float scores[ROWS];
        snprintf(word, sizeof word, "w%d", w);
        lexical_prepare(&q, l, a, word, live, true);
        cr_assert_eq(q.n, 1);
        lexical_score(scores, &q, l);
        const double df = q.terms[0].df, theirs = fmax(log((ROWS - df + 0.5) / (df + 0.5)), 1e-6),
                     ours = q.terms[0].idf;
        sqlite3_bind_text(stmt, 1, word, -1, SQLITE_STATIC);
        int n = 0;
        while (sqlite3_step(stmt) == SQLITE_ROW) {
            const double expected = -sqlite3_column_double(stmt, 1) / theirs * ours;
            const float found = scores[sqlite3_column_int(stmt, 0) - 1];
            cr_assert_float_eq(found, expected, 1e-4 * expected, "%s: expected %g, found %g", word, expected,
                               (double)found);
            n++;
        }
        sqlite3_reset(stmt);
        cr_assert_eq(n, (int)df);
        for (int i = 0; i < ROWS; i++) n -= scores[i] > 0;
        cr_assert_eq(n, 0, "a row scores that FTS5 does not find");
        n_compared += (int)df;
    }
    cr_assert_gt(n_compared, 5000);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    lexical_close(l);
}

/* The formula, from counts of words. */
static double reference(const char *text, const char *question, const uint64_t *live) {
    double sum = 0, average = 0, n_live = 0;
    char words[MOST_WORDS * 8], *at = NULL;
    for (int i = 0; i < ROWS; i++) {
        if (!(live[i / 64] >> (i % 64) & 1)) continue;
        n_live++;
        for (const char *p = texts[i]; (p = strchr(p, ' ')); p++) average++;
    }
    average /= n_live;
    strcpy(words, question);
    for (char *w = strtok_r(words, " ", &at); w; w = strtok_r(NULL, " ", &at)) {
        char padded[16];
        double df = 0, tf = 0, length = 0;
        snprintf(padded, sizeof padded, " %s ", w);
        for (int i = -1; i < ROWS; i++) {
            char row[MOST_WORDS * 8 + 1] = " ";
            if (i >= 0 && !(live[i / 64] >> (i % 64) & 1)) continue;
            strcat(row, i < 0 ? text : texts[i]);
            int n = 0;
            for (const char *p = row; (p = strstr(p, padded)); p++) n++;
            if (i >= 0)
                df += n > 0;
            else
                tf = n;
            if (i < 0)
                for (const char *p = text; (p = strchr(p, ' ')); p++) length++;
        }
        sum += log(1 + (n_live - df + 0.5) / (df + 0.5)) * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / average));
    }
    return sum;
}

Test(lexical, deleted_rows_leave_no_trace) {
    struct lexical *l = lexical_open();
    uint64_t live[ROWS / 64 + 1] = {0};
    char question[256];
    static float scores[ROWS], compacted[ROWS], coverage[ROWS];
    make_texts();
    for (int i = 0; i < ROWS; i++) {
        lexical_add(l, a, texts[i], NULL);
        if (below(3)) live[i / 64] |= (uint64_t)1 << (i % 64);
    }
    struct lexical_query q;
    for (int round = 0; round < 5; round++) {
        make_question(question, 4);
        lexical_prepare(&q, l, a, question, live, false);
        lexical_score(scores, &q, l);
        for (int i = 0; i < ROWS; i += 7) {
            const double expected = reference(texts[i], question, live);
            cr_assert_float_eq(scores[i], expected, 1e-5 + 1e-5 * expected, "row %d: %g, %g", i, expected,
                               (double)scores[i]);
        }
    }
    for (int i = 0; i < ROWS; i++) coverage[i] = lexical_coverage(&q, l, (uint32_t)i);
    const size_t before = lexical_bytes(l);
    lexical_compact(l, live);
    cr_assert_leq(lexical_bytes(l), before);
    uint64_t all[ROWS / 64 + 1];
    memset(all, 0xff, sizeof all);
    struct lexical_query again;
    lexical_prepare(&again, l, a, question, all, true);
    cr_assert_eq(again.average, q.average);
    lexical_score(compacted, &again, l);
    uint32_t to = 0;
    for (int i = 0; i < ROWS; i++)
        if (live[i / 64] >> (i % 64) & 1) {
            cr_assert_eq(compacted[to], scores[i], "the bits differ at row %d", i);
            cr_assert_eq(lexical_coverage(&again, l, to), coverage[i]);
            to++;
        }
    cr_assert_eq(lexical_rows(l), to);
    lexical_add(l, a, "fresh words", "context"); /* it goes on growing */
    lexical_prepare(&q, l, a, "fresh", all, true);
    lexical_score(compacted, &q, l);
    cr_assert(compacted[to] > 0 && compacted[0] == 0);
    lexical_close(l);
}

Test(lexical, questions) {
    struct lexical *l = lexical_open();
    uint64_t live[1] = {3};
    float scores[2];
    struct lexical_query q;
    lexical_add(l, a, "the president of France", "Elections");
    lexical_add(l, a, "what will be will be", NULL);
    lexical_prepare(&q, l, a, "what is the election?", live, true);
    cr_assert_eq(q.n, 1, "stop words do not count beside others");
    lexical_score(scores, &q, l);
    cr_assert(scores[0] > 0 && scores[1] == 0, "the context counts");
    lexical_prepare(&q, l, a, "will be", live, true);
    lexical_score(scores, &q, l);
    cr_assert(q.n == 2 && scores[1] > 0, "but where there is nothing else, they do");
    cr_assert_eq(lexical_coverage(&q, l, 1), 1.0f);
    lexical_prepare(&q, l, a, "unheard France", live, true);
    cr_assert(lexical_coverage(&q, l, 0) > 0.2f && lexical_coverage(&q, l, 0) < 0.5f, "a rare word weighs more");
    lexical_prepare(&q, l, a, "?!", live, true);
    cr_assert_eq(q.n, 0);
    lexical_score(scores, &q, l);
    cr_assert(scores[0] == 0 && scores[1] == 0);
    char *many = calloc(1, 8 * 1000);
    for (int i = 0; i < 1000; i++) sprintf(many + strlen(many), "t%d ", i);
    lexical_prepare(&q, l, a, many, live, true);
    cr_assert_eq(q.n, LEXICAL_MAX_TERMS);
    free(many);
    lexical_close(l);
}
