/* text_stream: whole characters only, stop strings wherever the tokens cut them, and against a slow definition of both
 * on random tokens. */
#include "engine/tokenizer.h"
#include "engine/tokenizer_utf8.h"
#include "kernels/status.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/tokenizer"

static struct tokenizer *tiny(void) {
    char err[ERR_BYTES];
    struct tokenizer *t;
    cr_assert_eq(tokenizer_open(&t, GOLDEN "/tiny", err, sizeof err), 0, "%s", err);
    return t;
}

/* One token per byte, which cuts text at the worst places. */
static struct ids bytes_of(const struct tokenizer *t, const char *text) {
    struct ids ids = {0};
    for (const char *p = text; *p; p++) ids_push(&ids, tokenizer_id(t, p, 1));
    return ids;
}

/* Runs a stream to its end; the text that came out. *stopped: the last answer. Checks each piece to be valid UTF-8. */
static char *run(const struct tokenizer *t, const struct text_stream_options *options, const struct ids *ids,
                 int *stopped) {
    struct text_stream *s = text_stream_open(t, options);
    cr_assert_not_null(s);
    struct bytes out = {0};
    size_t n;
    *stopped = -1;
    for (size_t i = 0; i < ids->n; i++) {
        int before = *stopped;
        const char *piece = text_stream_push(s, ids->data[i], &n, stopped);
        cr_expect_eq(utf8_valid_bytes((const uint8_t *)piece, n), n, "half a character came out");
        if (before >= 0) cr_expect(n == 0 && *stopped == before, "text after a stop string");
        bytes_append(&out, piece, n);
    }
    const char *piece = text_stream_finish(s, &n);
    bytes_append(&out, piece, n);
    piece = text_stream_finish(s, &n);
    cr_expect_eq(n, 0, "finishing twice");
    bytes_append(&out, "", 1);
    text_stream_close(s);
    return (char *)out.data;
}

Test(text_stream, characters) {
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"", ""},
        {"a\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80z", "a\u00e9\u4e2d\U0001F600z"},
        {"\xf0\x9f\x98", "\uFFFD"},
        {"\xf0\x9f\x98x", "\uFFFDx"},
        {"\xe4\xb8\xe4\xb8\xad", "\uFFFD\u4e2d"},
        {"\xff\x80\xc3", "\uFFFD\uFFFD\uFFFD"},
        {"\xed\xa0\x80", "\uFFFD\uFFFD\uFFFD"},
        {"\xc3\xc3\xa9", "\uFFFD\u00e9"},
    };
    struct tokenizer *t = tiny();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int stopped;
        struct ids ids = bytes_of(t, cases[i].text);
        char *text = run(t, &(struct text_stream_options){0}, &ids, &stopped);
        cr_expect_str_eq(text, cases[i].expected);
        cr_expect_eq(stopped, -1);
        free(text);
        ids_deinit(&ids);
    }
    tokenizer_close(t);
}

Test(text_stream, stop_strings) {
    static const struct {
        const char *text, *stops[4];
        int stopped;
        const char *expected, *included;
    } cases[] = {
        {"Hello END world", {"END"}, 0, "Hello ", "Hello END"},
        {"Hello EN world", {"END"}, -1, "Hello EN world", "Hello EN world"},
        {"Hello EN", {"END"}, -1, "Hello EN", "Hello EN"},
        {"aaab", {"aab"}, 0, "a", "aaab"},
        {"ababac", {"abac"}, 0, "ab", "ababac"},
        {"xaby", {"xaby", "ab"}, 1, "x", "xab"},   /* the one that is complete first */
        {"xab", {"b", "ab", "xab"}, 2, "", "xab"}, /* of those the longest */
        {"xab", {"ab", "ab"}, 0, "x", "xab"},      /* of the same the first */
        {"ENDEND", {"END"}, 0, "", "END"},
        {"\xe4\xb8\xad\xe6\x96\x87\xe4\xb8\xad", {"\xe6\x96\x87"}, 0, "\xe4\xb8\xad", "\xe4\xb8\xad\xe6\x96\x87"},
        {"a\xff"
         "b",
         {"\uFFFD"},
         0,
         "a",
         "a\uFFFD"},
        {"a\xe4\xb8", {"\uFFFD"}, -1, "a", "a\uFFFD"}, /* found at the end, when nobody asks any more */
        {"a\n\nUser:", {"\nUser:", "\n\n"}, 1, "a", "a\n\n"},
    };
    struct tokenizer *t = tiny();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int include = 0; include < 2; include++) {
            int stopped;
            struct ids ids = bytes_of(t, cases[i].text);
            struct text_stream_options o = {.stop = cases[i].stops, .include_stop = include};
            while (o.n_stop < 4 && cases[i].stops[o.n_stop]) o.n_stop++;
            char *text = run(t, &o, &ids, &stopped);
            cr_expect_str_eq(text, include ? cases[i].included : cases[i].expected, "case %zu: \"%s\"", i, text);
            cr_expect_eq(stopped, cases[i].stopped, "case %zu: %d", i, stopped);
            free(text);
            ids_deinit(&ids);
        }
    tokenizer_close(t);
}

Test(text_stream, special_tokens) {
    struct tokenizer *t = tiny();
    struct ids ids = {0};
    ids_push(&ids, tokenizer_id(t, "\xc3", 1));
    ids_push(&ids, tokenizer_id(t, "<|im_end|>", 10));
    ids_push(&ids, tokenizer_id(t, "\xa9", 1));
    ids_push(&ids, tokenizer_id(t, "<think>", 7)); /* added, but not special */
    ids_push(&ids, 100000);                        /* the padded tail of the vocabulary */
    for (int skip = 0; skip < 2; skip++) {
        int stopped;
        char *text = run(t, &(struct text_stream_options){.skip_special = skip}, &ids, &stopped);
        cr_expect_str_eq(text, skip ? "\u00e9<think>" : "\uFFFD<|im_end|>\uFFFD<think>");
        free(text);
    }
    ids_deinit(&ids);
    tokenizer_close(t);
}

Test(text_stream, options_out_of_bounds) {
    struct tokenizer *t = tiny();
    const char *many[TEXT_STREAM_MAX_STOPS + 1];
    char longest[TEXT_STREAM_MAX_STOP_BYTES + 2] = "";
    for (int i = 0; i <= TEXT_STREAM_MAX_STOPS; i++) many[i] = "x";
    memset(longest, 'x', TEXT_STREAM_MAX_STOP_BYTES + 1);
    const char *too_long = longest, *long_enough = longest + 1, *empty = "", *invalid = "a\xff";
    cr_expect_null(
        text_stream_open(t, &(struct text_stream_options){.stop = many, .n_stop = TEXT_STREAM_MAX_STOPS + 1}));
    cr_expect_null(text_stream_open(t, &(struct text_stream_options){.stop = many, .n_stop = -1}));
    cr_expect_null(text_stream_open(t, &(struct text_stream_options){.stop = &too_long, .n_stop = 1}));
    cr_expect_null(text_stream_open(t, &(struct text_stream_options){.stop = &empty, .n_stop = 1}));
    cr_expect_null(text_stream_open(t, &(struct text_stream_options){.stop = &invalid, .n_stop = 1}));
    struct text_stream *s =
        text_stream_open(t, &(struct text_stream_options){.stop = many, .n_stop = TEXT_STREAM_MAX_STOPS});
    cr_expect_not_null(s);
    text_stream_close(s);
    s = text_stream_open(t, &(struct text_stream_options){.stop = &long_enough, .n_stop = 1});
    cr_expect_not_null(s);
    text_stream_close(s);
    text_stream_close(NULL);
    tokenizer_close(t);
}

/* ---- random tokens against the definition ------------------------------------------------------------------------ */

static uint64_t random_state = 7046029254386353131u;
static uint32_t random_below(uint32_t n) { /* xorshift64 */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 16) % n);
}

/* Bytes of `text` that are final: it may still grow. *stopped as text_stream_push says. */
static size_t final_bytes(const char *text, size_t n, const char *const *stops, int n_stops, int *stopped) {
    *stopped = -1;
    for (size_t end = 1; end <= n; end++) { /* the first end, then the longest */
        size_t longest = 0;
        for (int k = 0; k < n_stops; k++) {
            size_t bytes = strlen(stops[k]);
            if (bytes <= longest || bytes > end || memcmp(text + end - bytes, stops[k], bytes)) continue;
            longest = bytes;
            *stopped = k;
        }
        if (longest) return end - longest;
    }
    for (size_t start = 0; start < n; start++)
        for (int k = 0; k < n_stops; k++)
            if (!strncmp(text + start, stops[k], n - start)) return start;
    return n;
}

/* Length of the text of ids[0..n) without a character that the next token may complete. */
static size_t whole_characters(const struct tokenizer *t, const struct ids *ids, size_t n, char **text) {
    struct bytes raw = {0}, out = {0};
    for (size_t i = 0; i < n; i++) {
        size_t bytes;
        const char *token = tokenizer_bytes(t, ids->data[i], &bytes);
        bytes_append(&raw, token, bytes);
    }
    size_t cut = raw.n;
    for (size_t back = 1; back <= 3 && back <= raw.n; back++) {
        int32_t c;
        size_t step = utf8_decode(raw.data + raw.n - back, back, &c);
        if (c == UTF8_TRUNCATED && step == back) cut = raw.n - back;
    }
    utf8_append_lossy(&out, raw.data, cut);
    bytes_append(&out, "", 1);
    free(raw.data);
    *text = (char *)out.data;
    return out.n - 1;
}

Test(text_stream, random_tokens) {
    struct tokenizer *t = tiny();
    static const char *const letters[] = {"a", "b", "ab", "\xe4", "\xb8", "\xad", "\xc3\xa9", "\xff", "<|im_end|>"};
    static const char *const alphabet[] = {"a", "b", "\u4e2d", "\u00e9", "\uFFFD", "<"};
    for (int round = 0; round < 3000; round++) {
        struct ids ids = {0};
        char stops[3][64] = {"", "", ""};
        const char *stop[3] = {stops[0], stops[1], stops[2]};
        int n_stops = (int)random_below(4), stopped, expected_stop = -1;
        for (int k = 0; k < n_stops; k++)
            for (uint32_t i = random_below(4) + 1; i > 0; i--) strcat(stops[k], alphabet[random_below(6)]);
        for (uint32_t i = random_below(30) + 1; i > 0; i--) {
            const char *text = letters[random_below(9)];
            int32_t id = tokenizer_id(t, text, strlen(text));
            if (id < 0)
                for (const char *p = text; *p; p++) ids_push(&ids, tokenizer_id(t, p, 1));
            else
                ids_push(&ids, id);
        }
        struct text_stream *s = text_stream_open(t, &(struct text_stream_options){.stop = stop, .n_stop = n_stops});
        struct bytes got = {0};
        for (size_t i = 0; i < ids.n && expected_stop < 0; i++) {
            char *text;
            size_t n, whole = whole_characters(t, &ids, i + 1, &text);
            size_t expected = final_bytes(text, whole, stop, n_stops, &expected_stop);
            const char *piece = text_stream_push(s, ids.data[i], &n, &stopped);
            bytes_append(&got, piece, n);
            cr_assert_eq(stopped, expected_stop);
            cr_assert(got.n == expected && (!expected || !memcmp(got.data, text, expected)),
                      "after \"%s\": expected %zu bytes, found \"%.*s\"", text, expected, (int)got.n, got.data);
            free(text);
        }
        if (n_stops == 0) { /* all of it together is tokenizer_decode's */
            size_t n, bytes;
            const char *piece = text_stream_finish(s, &n);
            bytes_append(&got, piece, n);
            char *text = tokenizer_decode(t, ids.data, ids.n, false, &bytes);
            cr_assert(bytes == got.n && !memcmp(text, got.data, bytes));
            free(text);
        }
        text_stream_close(s);
        free(got.data);
        ids_deinit(&ids);
    }
    tokenizer_close(t);
}
