/* tokenizer.h: Hugging Face's vectors, both kinds of files, the parts against slow or other implementations, and every
 * sentence of a refused file. Random strings against Hugging Face itself: tests/python/test_tokenizer_differential.py.
 */
#include "engine/tokenizer.h"
#include "engine/tokenizer_internal.h"
#include "kernels/status.h"
#include "weights/json.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define GOLDEN "tests/golden/tokenizer"
#define SHARED "../shared/data"
#define QWEN   SHARED "/qwen-tokenizer"

static char err[ERR_BYTES];

/* ---- helpers ----------------------------------------------------------------------------------------------------- */

static char *read_file(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(n + 1);
    cr_assert_eq(fread(text, 1, n, f), n);
    text[n] = 0;
    fclose(f);
    if (bytes) *bytes = n;
    return text;
}

static struct tokenizer *open_folder(const char *folder) {
    struct tokenizer *t;
    cr_assert_eq(tokenizer_open(&t, folder, err, sizeof err), 0, "%s", err);
    return t;
}

static struct tokenizer *tiny(void) {
    return open_folder(GOLDEN "/tiny");
}

/* Qwen's tokenizer.json put together from the shared data; NULL where that is absent. pairs: merges as ["a", "b"]. */
static struct tokenizer *qwen(bool pairs) {
    char *vocab = read_file(QWEN "/vocab.json", NULL), *merges = read_file(QWEN "/merges.txt", NULL);
    char *skeleton = read_file(QWEN "/qwen3-4b-tokenizer.json.skeleton.txt", NULL);
    if (!vocab || !merges || !skeleton) return NULL;
    static const char before[] = "\"ignore_merges\": false,";
    char *cut = strstr(skeleton, before) + strlen(before);
    struct bytes json = {0};
    bytes_append(&json, skeleton, (size_t)(cut - skeleton));
    bytes_append(&json, "\"vocab\":", 8);
    bytes_append(&json, vocab, strlen(vocab));
    bytes_append(&json, ",\"merges\":[", 11);
    bool first = true;
    for (char *line = strtok(merges, "\n"); line; line = strtok(NULL, "\n")) {
        if (!strncmp(line, "#version", 8)) continue;
        bytes_append(&json, ",", !first);
        bytes_append(&json, "[", pairs);
        bytes_append(&json, "\"", 1);
        for (char *p = line; *p; p++) {
            if (*p == '"' || *p == '\\') bytes_append(&json, "\\", 1);
            if (pairs && *p == ' ')
                bytes_append(&json, "\",\"", 3);
            else
                bytes_append(&json, p, 1);
        }
        bytes_append(&json, "\"", 1);
        bytes_append(&json, "]", pairs);
        first = false;
    }
    bytes_append(&json, "]", 1);
    bytes_append(&json, cut, strlen(cut));
    struct tokenizer *t;
    cr_assert_eq(tokenizer_open_json(&t, (char *)json.data, json.n, err, sizeof err), 0, "%s", err);
    free(json.data);
    free(vocab);
    free(merges);
    free(skeleton);
    return t;
}

static struct ids encode(const struct tokenizer *t, const char *text, size_t bytes, bool parse_special) {
    struct ids ids = {0};
    cr_assert_eq(tokenizer_encode(t, text, bytes, parse_special, &ids), 0);
    return ids;
}

/* The ids as text, for messages. */
static const char *show(const struct ids *ids) {
    static char text[4][1024];
    static int turn;
    char *out = text[turn = (turn + 1) % 4];
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < ids->n && n < 1000; i++) n += (size_t)snprintf(out + n, 1024 - n, " %d", ids->data[i]);
    return out;
}

static bool same(const struct ids *a, const struct ids *b) {
    return a->n == b->n && (a->n == 0 || !memcmp(a->data, b->data, a->n * sizeof *a->data));
}

static struct ids from_json(const cJSON *array) {
    struct ids ids = {0};
    const cJSON *item;
    cJSON_ArrayForEach(item, array) ids_push(&ids, item->valueint);
    return ids;
}

/* Calls test() for each line of a .jsonl file. */
static int each_line(const char *path, void (*test)(const struct tokenizer *, const cJSON *),
                     const struct tokenizer *t) {
    char *text = read_file(path, NULL), *rest = text;
    cr_assert(text, "%s is missing", path);
    int n = 0;
    for (char *line; (line = strsep(&rest, "\n"));) {
        if (!*line) continue;
        cJSON *row = cJSON_Parse(line);
        cr_assert_not_null(row);
        test(t, row);
        cJSON_Delete(row);
        n++;
    }
    free(text);
    return n;
}

static uint64_t random_state = 88172645463325252u;
static uint32_t random_below(uint32_t n) { /* xorshift64 */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 16) % n);
}

/* A random string of characters from all classes, often with the ones that rules turn on. */
static size_t random_text(uint8_t *p, size_t max_points) {
    static const int32_t likely[] = {' ',  ' ',    '\n',   '\r',    '\t',   '\'',    's',    'S',   't',
                                     'r',  'e',    'v',    'l',     'L',    'd',     'm',    0x17F, 0x85,
                                     0xA0, 0x180E, 0x2003, 0x2028,  0x3000, '1',     0xBD,   0x663, '.',
                                     '<',  0xE9,   0x4E2D, 0x1F600, 0x301,  0x10D4A, 0x10D50};
    size_t n = 0;
    for (uint32_t i = random_below((uint32_t)max_points) + 1; i > 0; i--) {
        int32_t c = likely[random_below(sizeof likely / sizeof *likely)];
        if (random_below(3) == 0) {
            static const uint32_t limits[] = {0x80, 0x800, 0x10000, 0x110000};
            c = (int32_t)random_below(limits[random_below(4)]);
            if (c >= 0xD800 && c < 0xE000) c = 'x';
        }
        n += utf8_encode(p + n, c);
    }
    return n;
}

/* ---- vectors ----------------------------------------------------------------------------------------------------- */

static void one_vector(const struct tokenizer *t, const cJSON *row) {
    char bytes[64], *text = bytes;
    size_t n = 0;
    const cJSON *hex = json_find(row, "hex");
    if (hex) {
        for (const char *p = hex->valuestring; *p; p += 2) sscanf(p, "%2hhx", (unsigned char *)&bytes[n++]);
    } else {
        text = json_find(row, "text")->valuestring;
        n = strlen(text);
    }
    for (int special = 0; special < 2; special++) {
        struct ids expected = from_json(json_find(row, special ? "special" : "plain"));
        struct ids got = encode(t, text, n, special);
        cr_expect(same(&got, &expected), "%s: expected%s, found%s", hex ? hex->valuestring : text, show(&expected),
                  show(&got));
        ids_deinit(&expected);
        ids_deinit(&got);
    }
}

static void one_decoding(const struct tokenizer *t, const cJSON *row) {
    struct ids ids = from_json(json_find(row, "ids"));
    for (int skip = 0; skip < 2; skip++) {
        size_t bytes;
        char *text = tokenizer_decode(t, ids.data, ids.n, skip, &bytes);
        cr_expect_str_eq(text, json_find(row, skip ? "skipped" : "text")->valuestring);
        cr_expect_eq(bytes, strlen(text));
        free(text);
    }
    ids_deinit(&ids);
}

Test(tokenizer, vectors_of_the_small_tokenizer) {
    static const char *const folders[] = {GOLDEN "/tiny", GOLDEN "/tiny-files"};
    for (int i = 0; i < 2; i++) {
        struct tokenizer *t = open_folder(folders[i]);
        cr_expect_geq(each_line(GOLDEN "/vectors.jsonl", one_vector, t), 40);
        cr_expect_geq(each_line(GOLDEN "/decode.jsonl", one_decoding, t), 60);
        tokenizer_close(t);
    }
}

Test(tokenizer, qwen_vectors) {
    struct tokenizer *strings = qwen(false), *pairs = qwen(true);
    if (!strings) cr_skip_test("Qwen's vocabulary is not at " QWEN);
    char *inp = read_file(QWEN "/ggml-vocab-qwen2.gguf.inp", NULL),
         *out = read_file(QWEN "/ggml-vocab-qwen2.gguf.out", NULL);
    static const char mark[] = "\n__ggml_vocab_test__\n";
    int n = 0;
    for (char *text = inp, *line = out; text; n++) {
        char *end = strstr(text, mark), *next = end ? end + strlen(mark) : NULL, *newline = strchr(line, '\n');
        if (end) *end = 0;
        struct ids expected = {0};
        for (char *p = line, *q; p < newline; p = q) {
            long id = strtol(p, &q, 10);
            if (q == p || q > newline) break;
            ids_push(&expected, (int32_t)id);
        }
        struct ids a = encode(strings, text, strlen(text), false), b = encode(pairs, text, strlen(text), true);
        cr_expect(same(&a, &expected), "\"%s\": expected%s, found%s", text, show(&expected), show(&a));
        cr_expect(same(&b, &expected), "\"%s\" with merges as pairs", text);
        ids_deinit(&expected);
        ids_deinit(&a);
        ids_deinit(&b);
        text = next;
        line = newline + 1;
    }
    cr_expect_eq(n, 47);
    cr_expect_eq(tokenizer_size(strings), 151669);
    cr_expect_eq(tokenizer_id(strings, "<|im_end|>", 10), 151645);
    cr_expect_eq(tokenizer_id(strings, " the", 4), 279);
    cr_expect(tokenizer_is_special(strings, 151645) && !tokenizer_is_special(strings, 151667));
    free(inp);
    free(out);
    tokenizer_close(strings);
    tokenizer_close(pairs);
}

Test(tokenizer, naughty_strings_come_back) {
    struct tokenizer *t = qwen(false);
    char *text = read_file(SHARED "/unicode/blns/blns.txt", NULL), *rest = text;
    if (!t || !text) cr_skip_test("the naughty strings are not at " SHARED "/unicode/blns");
    int n = 0;
    for (char *line; (line = strsep(&rest, "\n")); n++) {
        struct ids ids = encode(t, line, strlen(line), false);
        struct bytes normal = {0}, lossy = {0};
        utf8_append_lossy(&lossy, (uint8_t *)line, strlen(line));
        tokenizer__nfc(t->unicode, lossy.data, lossy.n, &normal);
        size_t bytes;
        char *back = tokenizer_decode(t, ids.data, ids.n, false, &bytes);
        cr_expect(bytes == normal.n && (!bytes || !memcmp(back, normal.data, bytes)), "\"%s\" became \"%s\"", line,
                  back);
        for (size_t i = 0; i < ids.n; i++) cr_expect_lt(ids.data[i], 151643, "an added token in \"%s\"", line);
        free(back);
        free(normal.data);
        free(lossy.data);
        ids_deinit(&ids);
    }
    cr_expect_gt(n, 500);
    free(text);
    tokenizer_close(t);
}

/* ---- NFC, the split and the merges against other implementations ------------------------------------------------- */

static size_t read_points(const char *field, uint8_t *p) {
    size_t n = 0;
    char *end;
    for (long c; (c = strtol(field, &end, 16)), end != field; field = end) n += utf8_encode(p + n, (int32_t)c);
    return n;
}

Test(tokenizer, normalization_rows) {
    struct tokenizer *t = tiny();
    char *text = read_file(SHARED "/unicode/NormalizationTest-8.0.0.txt", NULL), *rest = text;
    if (!text) cr_skip_test("the normalization rows are not at " SHARED "/unicode");
    int n = 0;
    for (char *line; (line = strsep(&rest, "\n"));) {
        uint8_t c[5][256];
        size_t bytes[5];
        char *fields = line;
        if (*line == '#' || *line == '@' || !strchr(line, ';')) continue;
        for (int i = 0; i < 5; i++) bytes[i] = read_points(strsep(&fields, ";"), c[i]);
        for (int i = 0; i < 5; i++) { /* NFC(c1..c3) is c2, NFC(c4..c5) is c4 */
            int expected = i < 3 ? 1 : 3;
            struct bytes got = {0};
            tokenizer__nfc(t->unicode, c[i], bytes[i], &got);
            cr_expect(got.n == bytes[expected] && !memcmp(got.data, c[expected], got.n), "column %d of %s", i + 1,
                      line);
            bool changed = got.n != bytes[i] || memcmp(got.data, c[i], got.n);
            cr_expect(!changed || tokenizer__needs_nfc(t->unicode, c[i], bytes[i]), "the quick check at %s", line);
            free(got.data);
        }
        n++;
    }
    cr_expect_gt(n, 18000);
    free(text);
    tokenizer_close(t);
}

Test(tokenizer, many_marks_are_ordered_in_linear_time) {
    struct tokenizer *t = tiny();
    struct bytes text = {0}, got = {0};
    bytes_append(&text, "e", 1);
    for (int i = 0; i < 200000; i++) bytes_append(&text, "\u0301\u0323", 4);
    clock_t start = clock();
    tokenizer__nfc(t->unicode, text.data, text.n, &got);
    cr_expect_lt((double)(clock() - start) / CLOCKS_PER_SEC, 3.0);
    /* e with dot below, then the other dots, then all accents */
    cr_expect_eq(got.n, 3 + 2 * (2 * 200000 - 1));
    cr_expect(!memcmp(got.data, "\u1EB9\u0323", 5) && !memcmp(got.data + got.n - 2, "\u0301", 2));
    free(text.data);
    free(got.data);
    tokenizer_close(t);
}

Test(tokenizer, split_equals_the_regex) {
    struct tokenizer *t = tiny();
    struct split_regex *regex;
    cr_assert_eq(tokenizer__regex_open(&regex, QWEN_REGEX, err, sizeof err), 0, "%s", err);
    for (int i = 0; i < 30000; i++) {
        uint8_t p[256];
        size_t n = random_text(p, i % 2 ? 12 : 60), in_c, in_pcre2;
        struct split_walk *walk = tokenizer__walk_open(regex, t->unicode, p, n);
        for (size_t at = 0; at < n; at = in_c) {
            in_c = tokenizer__split_qwen(t->unicode, p, at, n);
            cr_assert_eq(tokenizer__walk_next(walk, at, &in_pcre2), 0);
            cr_assert_eq(in_c, in_pcre2, "\"%.*s\" at byte %zu: %zu in C, %zu in PCRE2", (int)n, p, at, in_c, in_pcre2);
            cr_assert(in_c > at && in_c <= n);
        }
        tokenizer__walk_close(walk);
    }
    tokenizer__regex_close(regex);
    tokenizer_close(t);
}

/* The definition, without any cleverness: merge the pair of lowest rank, the leftmost first, until none is left. */
static void slow_merge(const struct bpe *b, const uint8_t *p, size_t n, struct ids *out) {
    out->n = 0;
    for (size_t i = 0; i < n; i++) ids_push(out, b->byte_id[p[i]]);
    for (;;) {
        uint32_t lowest = BPE_NO_RANK;
        size_t at = 0;
        int32_t merged = -1;
        for (size_t i = 0; i + 1 < out->n; i++)
            for (size_t k = 0; k <= b->merge_mask; k++) {
                uint64_t slot = b->merges[k];
                uint32_t rank = slot & BPE_NO_RANK;
                bool is_pair =
                    (int32_t)(slot >> 42) == out->data[i] && (slot >> 20 & 0x3FFFFF) == (uint64_t)out->data[i + 1];
                if (is_pair && rank < lowest) lowest = rank, at = i, merged = b->merged[rank];
            }
        if (merged < 0) return;
        out->data[at] = merged;
        memmove(&out->data[at + 1], &out->data[at + 2], (out->n - at - 2) * sizeof *out->data);
        out->n--;
    }
}

Test(tokenizer, merging_equals_its_definition) {
    struct tokenizer *t = tiny();
    struct bpe_scratch scratch = {0};
    struct ids slow = {0};
    for (int i = 0; i < 300; i++) {
        uint8_t p[400];
        size_t n = 1 + random_below(i < 200 ? 30 : 160); /* short and long ones: both ways of bpe.c */
        for (size_t k = 0; k < n; k++) p[k] = (uint8_t) " theandisquertoig"[random_below(17)];
        struct ids fast = {0};
        bpe_encode(&t->bpe, p, n, &scratch, &fast);
        slow_merge(&t->bpe, p, n, &slow);
        cr_expect(same(&fast, &slow), "\"%.*s\": expected%s, found%s", (int)n, p, show(&slow), show(&fast));
        ids_deinit(&fast);
    }
    ids_deinit(&slow);
    bpe_scratch_deinit(&scratch);
    tokenizer_close(t);
}

Test(tokenizer, long_words_are_not_quadratic) {
    struct tokenizer *t = tiny();
    struct bytes text = {0};
    for (int i = 0; i < 400000; i++) bytes_append(&text, &"theandisquertoig"[random_below(16)], 1);
    clock_t start = clock();
    struct ids ids = encode(t, (char *)text.data, text.n, false);
    cr_expect_lt((double)(clock() - start) / CLOCKS_PER_SEC, 5.0);
    size_t bytes;
    char *back = tokenizer_decode(t, ids.data, ids.n, false, &bytes);
    cr_expect(bytes == text.n && !memcmp(back, text.data, bytes));
    free(back);
    free(text.data);
    ids_deinit(&ids);
    tokenizer_close(t);
}

/* ---- the interface ----------------------------------------------------------------------------------------------- */

Test(tokenizer, special_tokens_only_where_asked_for) {
    struct tokenizer *t = tiny();
    static const char text[] = "<|im_start|>user<|im_end|>";
    struct ids plain = encode(t, text, strlen(text), false), special = encode(t, text, strlen(text), true);
    int32_t start = tokenizer_id(t, "<|im_start|>", 12), end = tokenizer_id(t, "<|im_end|>", 10);
    cr_expect(special.data[0] == start && special.data[special.n - 1] == end);
    for (size_t i = 0; i < plain.n; i++) cr_expect(plain.data[i] != start && plain.data[i] != end);

    /* Spans: the first token lies outside, the second touches one by a byte, the third lies inside. */
    static const char mixed[] = "<|im_end|><|im_end|>  x<|im_end|>";
    struct text_span spans[] = {{19, 22}, {22, 33}};
    struct ids got = {0};
    cr_assert_eq(tokenizer_encode_spans(t, mixed, strlen(mixed), spans, 2, &got), 0);
    size_t n_end = 0;
    for (size_t i = 0; i < got.n; i++) n_end += got.data[i] == end;
    cr_expect_eq(n_end, 1);
    cr_expect_eq(got.data[0], end);
    ids_deinit(&got);
    ids_deinit(&plain);
    ids_deinit(&special);
    tokenizer_close(t);
}

Test(tokenizer, spans_without_special_tokens_change_nothing) {
    struct tokenizer *t = tiny();
    static const char *const parts[] = {"<|im_start|>", "user\n", "<|im_end|>\n", "e",       "\u0301",
                                        "  ",           " x",     "'s",           "<think>", "\n"};
    for (int i = 0; i < 3000; i++) {
        char text[256] = "";
        struct text_span spans[12];
        size_t n_spans = 0;
        for (uint32_t k = random_below(10) + 1; k > 0; k--) {
            size_t start = strlen(text);
            uint32_t part = random_below(10);
            strcat(text, parts[part]);
            if (strchr(parts[part], '<') || random_below(2)) continue;
            spans[n_spans++] = (struct text_span){start, strlen(text)};
        }
        struct ids spanned = {0}, whole = encode(t, text, strlen(text), true);
        cr_assert_eq(tokenizer_encode_spans(t, text, strlen(text), spans, n_spans, &spanned), 0);
        cr_expect(same(&spanned, &whole), "\"%s\": expected%s, found%s", text, show(&whole), show(&spanned));
        ids_deinit(&spanned);
        ids_deinit(&whole);
    }
    tokenizer_close(t);
}

Test(tokenizer, tokens) {
    struct tokenizer *t = tiny();
    size_t bytes;
    cr_expect_eq(tokenizer_size(t), 456 + 26);
    for (int32_t id = 0; id < tokenizer_size(t); id++) {
        const char *text = tokenizer_bytes(t, id, &bytes);
        cr_expect_gt(bytes, 0);
        cr_expect_eq(tokenizer_id(t, text, bytes), id);
    }
    static const int32_t absent[] = {-1, 482, 151936, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 5; i++) {
        tokenizer_bytes(t, absent[i], &bytes);
        cr_expect(bytes == 0 && !tokenizer_is_special(t, absent[i]));
        char *text = tokenizer_decode(t, &absent[i], 1, false, NULL);
        cr_expect_str_eq(text, "");
        free(text);
    }
    cr_expect_eq(tokenizer_id(t, "no such token", 13), -1);
    cr_expect_eq(tokenizer_id(t, "", 0), -1);
    tokenizer_close(t);
    tokenizer_close(NULL);
}

static void *encode_in_thread(void *arg) {
    const struct tokenizer *t = arg;
    for (int i = 0; i < 300; i++) {
        static const char text[] = "The quick brown fox e\u0301 <|im_end|> 我们在这里学习中文";
        struct ids ids = encode(t, text, strlen(text), true);
        char *back = tokenizer_decode(t, ids.data, ids.n, false, NULL);
        cr_expect_str_eq(back, "The quick brown fox \u00e9 <|im_end|> 我们在这里学习中文");
        free(back);
        ids_deinit(&ids);
    }
    return NULL;
}

Test(tokenizer, many_threads) {
    struct tokenizer *t = tiny();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) cr_assert_eq(pthread_create(&threads[i], NULL, encode_in_thread, t), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    tokenizer_close(t);
}
