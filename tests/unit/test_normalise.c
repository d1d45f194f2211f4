/* normalise.h and dedup.h: what becomes of characters, white space and divided words, that the map back to the file is
 * true, and that MinHash estimates what it says. */
#include "rag/dedup.h"
#include "tests/unit/documents.h"

#include <math.h>
#include <time.h>

Test(normalise, characters) {
    static const char *const cases[][2] = {
        {"e\u0301a\u0308 \u212B", "\u00E9\u00E4 \u00C5"},   /* NFC */
        {"e\u0323\u0302", "\u1EC7"},                        /* marks in another order */
        {"\u1112\u1161\u11AB", "\uD55C"},                   /* Hangul */
        {"o\uFB03ce \uFB01n \uFB06", "office fin st"},      /* ligatures */
        {"x\u00B2 \u2460", "x\u00B2 \u2460"},               /* no compatibility mapping beyond that */
        {"a\u200Bb\u200Dc\uFEFFd\u2060e\u00ADf", "abcdef"}, /* zero width, soft hyphen */
        {"a\u202Eb\u2066c\u200Fd\u061C", "abcd"},           /* bidi */
        {"a\U000E0041\U000E0042b\uFE0F\U000E0101", "ab"},   /* tags, variation selectors */
        {"a\x01\x7F\xC2\x90"
         "b\xC2\x85"
         "c",
         "ab\nc"},                                 /* controls */
        {"a\u00A0\u2003b\t c  \n  d", "a b c\nd"}, /* white space */
        {"a\u2028b\r\nc", "a\nb\nc"},
        {"\u200B\u202E", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect_text(FORMAT_TXT, cases[i][0], cases[i][1]);
    char marks[2002] = "a";
    for (int i = 0; i < 1000; i++) memcpy(marks + 1 + 2 * i, "\u0323", 2);
    struct text t = text_of(FORMAT_TXT, marks);
    cr_expect_leq(t.bytes, 70u, "%zu bytes of marks are left", t.bytes);
    text_deinit(&t);
}

Test(normalise, divided_words) {
    expect_text(FORMAT_TXT,
                "exam-\nple and e-\n  mail, well-\nknown; a well-known Anglo-\nSaxon, 1-\n2, soft\u00AD\nly",
                "example and email, well-\nknown; a well-known Anglo-\nSaxon, 1-\n2, softly");
    expect_text(FORMAT_MD, "exam-\nple", "exam-\nple");
    expect_text(FORMAT_MD, "    exam-\n    ple  x\n", "exam-\nple  x");
}

Test(normalise, every_code_point) {
    /* in a text of all of Unicode nothing is lost but what is meant to be, and all of it is NFC */
    char *all = malloc(0x110000 * 6);
    size_t n = 0;
    for (int32_t c = 1; c < 0x110000; c++) {
        if (c >= 0xD800 && c < 0xE000) continue;
        unsigned char *p = (unsigned char *)all + n;
        if (c < 0x80)
            n += (size_t)(p[0] = (unsigned char)c, 1);
        else if (c < 0x800)
            p[0] = (unsigned char)(0xC0 | c >> 6), p[1] = (unsigned char)(0x80 | (c & 63)), n += 2;
        else if (c < 0x10000)
            p[0] = (unsigned char)(0xE0 | c >> 12), p[1] = (unsigned char)(0x80 | (c >> 6 & 63)),
            p[2] = (unsigned char)(0x80 | (c & 63)), n += 3;
        else
            p[0] = (unsigned char)(0xF0 | c >> 18), p[1] = (unsigned char)(0x80 | (c >> 12 & 63)),
            p[2] = (unsigned char)(0x80 | (c >> 6 & 63)), p[3] = (unsigned char)(0x80 | (c & 63)), n += 4;
        all[n++] = 'x';
    }
    all[n] = 0;
    struct document d;
    struct text t = {0}, again = {0};
    cr_assert_eq(parse(&d, FORMAT_TXT, all, n, NULL), 0, "%s", err);
    normalise(&t, &d);
    document_deinit(&d);
    cr_expect_gt(t.bytes, n * 9 / 10);
    cr_assert_eq(parse(&d, FORMAT_TXT, t.text, t.bytes, NULL), 0, "%s", err);
    normalise(&again, &d);
    document_deinit(&d);
    cr_expect(t.bytes == again.bytes && !memcmp(t.text, again.text, t.bytes), "normalising twice changes something");
    text_deinit(&t);
    text_deinit(&again);
    free(all);
}

/* Each byte that the map knows is the file's, or white space for white space. */
Test(normalise, map_to_the_file) {
    static const char source[] =
        "First  line\r\nof e\u0301 text, o\uFB03ce.\n\n\tSecond\u00A0para-\ngraph\u200B here | there.\n";
    struct text t = text_of(FORMAT_TXT, source);
    cr_expect_str_eq(t.text, "First line\nof \u00E9 text, office.\n\nSecond paragraph here | there.");
    size_t known = 0;
    for (size_t i = 0; i < t.n_runs; i++) {
        for (size_t k = 0; k < t.runs[i].bytes; k++) {
            char a = t.text[t.runs[i].at + k], b = source[t.runs[i].source + k];
            cr_expect(a == b || (a <= ' ' && b <= ' '), "'%c' is not '%c'", a, b);
        }
        known += t.runs[i].bytes;
    }
    cr_expect_geq(known, t.bytes - 10, "%zu of %zu", known, t.bytes);
    uint64_t from, to;
    const char *here = strstr(t.text, "here");
    cr_assert(text_source(&t, (size_t)(here - t.text), (size_t)(here - t.text) + 4, &from, &to));
    cr_expect_eq(from, (uint64_t)(strstr(source, "here") - source));
    cr_expect_eq(to, from + 4);
    cr_expect_not(text_source(&t, t.bytes, t.bytes, &from, &to));
    text_deinit(&t);
}

/* Tables that ask for much: rows that span, columns that are far out. */
Test(normalise, filler_is_bounded) {
    size_t n = 0;
    char *page = malloc(1 << 20);
    n += (size_t)sprintf(page, "<table>");
    for (int i = 0; i < 5000; i++) n += (size_t)sprintf(page + n, "<tr><td rowspan=30 colspan=100>%0100d</tr>", i);
    struct text t = text_of(FORMAT_HTML, page);
    cr_expect_leq(t.bytes, 3u << 20, "%zu bytes", t.bytes);
    cr_expect_geq(t.bytes, 5000u * 100);
    text_deinit(&t);
    free(page);
}

Test(dedup, exact) {
    struct text_hash a = text_hash("text", 4), b = text_hash("text", 4), c = text_hash("test", 4);
    cr_expect(a.low == b.low && a.high == b.high && (a.low != c.low || a.high != c.high));
}

/* A text of `n` words; every `step`-th is another one than in variant 0. */
static char *make_words(int n, int step, int variant) {
    char *text = malloc((size_t)n * 12 + 1);
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        unsigned word = (unsigned)i * 2654435761u;
        if (step && i % step == 0) word += (unsigned)variant;
        at += (size_t)sprintf(text + at, "%s%x", i % 7 ? " " : ", ", word);
    }
    return text;
}

Test(dedup, near) {
    /* changing every step-th word of n changes 5 of step runs: J = (1 - 5/step) / (1 + 5/step) */
    static const int steps[] = {6, 10, 20, 50, 200, 1000};
    double worst = 0, sum = 0;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        double expected = (1 - 5.0 / steps[i]) / (1 + 5.0 / steps[i]);
        for (int variant = 1; variant <= 5; variant++) {
            char *a = make_words(3000, steps[i], 0), *b = make_words(3000, steps[i], variant);
            struct minhash x, y;
            minhash_make(&x, a, strlen(a));
            minhash_make(&y, b, strlen(b));
            double off = minhash_similarity(&x, &y) - expected;
            worst = fmax(worst, fabs(off));
            sum += off;
            uint64_t keys[2][MINHASH_BANDS];
            int shared = 0;
            minhash_bands(&x, keys[0]);
            minhash_bands(&y, keys[1]);
            for (int k = 0; k < MINHASH_BANDS; k++) shared += keys[0][k] == keys[1][k];
            if (expected > 0.9) cr_expect_gt(shared, 0, "J = %.2f shares no band", expected);
            if (expected < 0.2) cr_expect_eq(shared, 0, "J = %.2f shares %d bands", expected, shared);
            free(a);
            free(b);
        }
    }
    cr_expect_lt(worst, 0.14, "an estimate is off by %.3f", worst); /* three standard deviations */
    cr_expect_lt(fabs(sum / 30), 0.03, "estimates are off by %.3f on average", sum / 30);
    struct minhash x, y;
    minhash_make(&x, "", 0);
    minhash_make(&y, "", 0);
    cr_expect_eq(minhash_similarity(&x, &y), 0.0);
    minhash_make(&x, "Two words", 9);
    minhash_make(&y, "two, WORDS!", 11);
    cr_expect_eq(minhash_similarity(&x, &y), 1.0);
}
