/* engine/wordpiece.h through tokenizer.h: BERT's vectors, the normalizer's switches, pieces and decoding on a small
 * vocabulary, and the sentence for each thing that is refused. Random strings against Hugging Face itself:
 * tests/python/test_wordpiece_differential.py. */
#include "engine/wordpiece.h"
#include "tests/unit/tokenizer_tree.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BERT "../shared/data/bert-tokenizer"

/* ---- helpers ----------------------------------------------------------------------------------------------------- */

enum { PAD, UNK, CLS, SEP, MASK, THE, CAT, S, A, B, AB, N_AB, N_C, DOT, HEAVEN, COMMA, E, N_E, I_DOT, N_SHARP, NOT };

static const char vocab_lines[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n##s\na\nb\nab\n##ab\n##c\n.\n\xE5\xA4\xA9\n,"
    "\ne\n##e\ni\xCC\x87\n###\ndo not\n";

static const char normalizer[] = "{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,"
                                 "\"strip_accents\":null,\"lowercase\":true}";
static const char model_head[] = "{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\","
                                 "\"max_input_chars_per_word\":100,\"vocab\":{";
static const char template[] =
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"[CLS]\",\"type_id\":0}},{\"Sequence\":"
    "{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"[SEP]\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":"
    "{\"[CLS]\":{\"id\":\"[CLS]\",\"ids\":[2],\"tokens\":[]},\"[SEP]\":{\"id\":\"[SEP]\",\"ids\":[3],\"tokens\":[]}}}";

/* The tokenizer.json of the small vocabulary, as a tree. */
static cJSON *tree(void) {
    struct bytes text = {0};
    const char *line = vocab_lines;
    bytes_append(&text, "{\"model\":", 9);
    bytes_append(&text, model_head, strlen(model_head));
    for (int id = 0; *line; id++) {
        char entry[64];
        const char *end = strchr(line, '\n');
        int n = snprintf(entry, sizeof entry, "%s\"%.*s\":%d", id ? "," : "", (int)(end - line), line, id);
        bytes_append(&text, entry, (size_t)n);
        line = end + 1;
    }
    static const char rest[] = "}},\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},"
                               "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"added_tokens\":[";
    bytes_append(&text, rest, strlen(rest));
    static const char *const specials[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (int id = 0; id < 5; id++) {
        char entry[160];
        int n = snprintf(entry, sizeof entry, "%s{\"id\":%d,\"content\":\"%s\",\"special\":true,\"normalized\":false}",
                         id ? "," : "", id, specials[id]);
        bytes_append(&text, entry, (size_t)n);
    }
    bytes_append(&text, "],\"normalizer\":", 15);
    bytes_append(&text, normalizer, strlen(normalizer));
    bytes_append(&text, ",\"post_processor\":", 18);
    bytes_append(&text, template, strlen(template));
    bytes_append(&text, "}", 2);
    cJSON *root = cJSON_Parse((char *)text.data);
    cr_assert(root, "%s", (char *)text.data);
    free(text.data);
    return root;
}

static struct tokenizer *changed(const char *path, const char *json) {
    struct tokenizer *t;
    cJSON *root = tree();
    if (path) change(root, path, json);
    cr_assert_eq(open_tree(&t, root), 0, "%s", err);
    return t;
}

static void expect_ids(const struct tokenizer *t, const char *text, bool special, const int32_t *expected, size_t n) {
    struct ids ids = {0};
    cr_assert_eq(tokenizer_encode(t, text, strlen(text), special, &ids), 0);
    cr_expect_eq(ids.n, n, "\"%s\": %zu ids", text, ids.n);
    for (size_t i = 0; i < ids.n && i < n; i++)
        cr_expect_eq(ids.data[i], expected[i], "\"%s\", id %zu: %d", text, i, ids.data[i]);
    ids_deinit(&ids);
}
#define EXPECT(t, text, special, ...)                                                                                  \
    expect_ids(t, text, special, (const int32_t[]){__VA_ARGS__}, sizeof(int32_t[]){__VA_ARGS__} / sizeof(int32_t))
#define EXPECT_NONE(t, text) expect_ids(t, text, false, NULL, 0)

static void expect_text(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip, const char *expected) {
    char *text = tokenizer_decode(t, ids, n, skip, NULL);
    cr_expect_str_eq(text, expected);
    free(text);
    struct text_stream_options options = {.skip_special = skip};
    struct text_stream *s = text_stream_open(t, &options);
    struct bytes streamed = {0};
    for (size_t i = 0; i <= n; i++) {
        size_t more;
        int stopped;
        const char *piece = i < n ? text_stream_push(s, ids[i], &more, &stopped) : text_stream_finish(s, &more);
        bytes_append(&streamed, piece, more);
    }
    bytes_append(&streamed, "", 1);
    cr_expect_str_eq((char *)streamed.data, expected);
    free(streamed.data);
    text_stream_close(s);
}
#define EXPECT_TEXT(t, skip, expected, ...)                                                                            \
    expect_text(t, (const int32_t[]){__VA_ARGS__}, sizeof(int32_t[]){__VA_ARGS__} / sizeof(int32_t), skip, expected)

static char *read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    struct bytes text = {0};
    size_t got;
    do {
        bytes_reserve(&text, 1 << 16);
        got = fread(text.data + text.n, 1, 1 << 16, f);
        text.n += got;
    } while (got);
    fclose(f);
    bytes_append(&text, "", 1);
    return (char *)text.data;
}

/* A folder of files under /tmp, removed by remove_folder. */
static void write_file(const char *folder, const char *name, const char *text, size_t bytes) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    cr_assert(f);
    cr_assert_eq(fwrite(text, 1, bytes, f), bytes);
    fclose(f);
}

static void remove_folder(const char *folder) {
    static const char *const names[] = {"vocab.txt", "tokenizer_config.json"};
    char path[256];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

/* Opens a folder with these files (config may be NULL). */
static int open_files(struct tokenizer **t, const char *vocab, size_t vocab_bytes, const char *config) {
    char folder[] = "/tmp/tandem-wordpiece-XXXXXX";
    cr_assert(mkdtemp(folder));
    write_file(folder, "vocab.txt", vocab, vocab_bytes);
    if (config) write_file(folder, "tokenizer_config.json", config, strlen(config));
    int status = tokenizer_open(t, folder, err, sizeof err);
    remove_folder(folder);
    return status;
}

/* ---- vectors ----------------------------------------------------------------------------------------------------- */

Test(wordpiece, the_47_vectors) {
    char *vocab = read_file(BERT "/vocab.txt"), *texts = read_file(BERT "/ggml-vocab-bert-bge.gguf.inp");
    char *lines = read_file(BERT "/ggml-vocab-bert-bge.gguf.out");
    if (!vocab || !texts || !lines) cr_skip_test(BERT " is not there");
    struct tokenizer *t;
    cr_assert_eq(open_files(&t, vocab, strlen(vocab), NULL), 0, "%s", err);
    cr_expect_eq(tokenizer_size(t), 30522);
    static const char part[] = "\n__ggml_vocab_test__\n";
    char *text = texts, *line = lines;
    int n = 0;
    while (text) {
        char *end = strstr(text, part), *rest = strsep(&line, "\n");
        size_t bytes = end ? (size_t)(end - text) : strlen(text);
        struct ids ids = {0};
        cr_assert_eq(tokenizer_encode(t, text, bytes, false, &ids), 0);
        for (size_t i = 0; i < ids.n; i++) {
            char *next;
            cr_expect_eq(ids.data[i], strtol(rest, &next, 10), "vector %d, id %zu: %d", n, i, ids.data[i]);
            cr_expect_neq(next, rest, "vector %d: %zu ids", n, ids.n);
            rest = next;
        }
        cr_expect_eq(rest[strspn(rest, " ")], 0, "vector %d: more than %zu ids", n, ids.n);
        ids_deinit(&ids);
        text = end ? end + strlen(part) : NULL;
        n++;
    }
    cr_expect_eq(n, 47);
    tokenizer_close(t);
    free(vocab);
    free(texts);
    free(lines);
}

/* ---- text to ids ------------------------------------------------------------------------------------------------- */

Test(wordpiece, words_and_pieces) {
    struct tokenizer *t = changed(NULL, NULL);
    EXPECT(t, "the cats.", false, THE, CAT, S, DOT);
    EXPECT(t, "abab abc", false, AB, N_AB, AB, N_C);
    EXPECT(t, "aab", false, A, N_AB);
    EXPECT(t, "aba", false, UNK); /* greedy: no way back from ab */
    EXPECT(t, "a#", false, A, UNK);
    EXPECT(t, "##s", false, UNK, UNK, UNK); /* # is punctuation; s alone is no token */
    EXPECT(t, ",.,the,", false, COMMA, DOT, COMMA, THE, COMMA);
    EXPECT_NONE(t, "");
    EXPECT_NONE(t, " \t\r\n\xC2\xA0\xE3\x80\x80");
    EXPECT_NONE(t, "\xFF\xC3\x01\xE2\x80\x8D\xEF\xBF\xBD"); /* invalid bytes, controls, a joiner */
    EXPECT(t,
           "t\xFFh\x01"
           "e",
           false, THE);
    tokenizer_close(t);
}

Test(wordpiece, long_words_are_unknown) {
    struct tokenizer *t = changed(NULL, NULL);
    char text[300] = "";
    for (int i = 0; i < 50; i++) strcat(text, "ab");
    struct ids ids = {0};
    cr_assert_eq(tokenizer_encode(t, text, 100, false, &ids), 0);
    cr_expect_eq(ids.n, 50);
    ids.n = 0;
    strcat(text, "ab");
    cr_assert_eq(tokenizer_encode(t, text, 102, false, &ids), 0);
    cr_expect(ids.n == 1 && ids.data[0] == UNK);
    ids_deinit(&ids);
    tokenizer_close(t);

    t = changed("model/max_input_chars_per_word", "2"); /* characters, not bytes */
    EXPECT(t, "ab abc \xC3\xA9\xC3\xA9", false, AB, UNK, E, N_E);
    tokenizer_close(t);
    t = changed("model/max_input_chars_per_word", "256"); /* the most: 4 bytes each */
    struct bytes wide = {0};
    for (int i = 0; i < 257; i++) {
        bytes_append(&wide, "\xF0\x9D\x90\x80", 4);
        if (i < 255) continue;
        ids.n = 0;
        cr_assert_eq(tokenizer_encode(t, (char *)wide.data, wide.n, false, &ids), 0);
        cr_expect(ids.n == 1 && ids.data[0] == UNK);
    }
    free(wide.data);
    ids_deinit(&ids);
    tokenizer_close(t);
}

Test(wordpiece, normalizer) {
    struct tokenizer *t = changed(NULL, NULL);
    EXPECT(t,
           "THE \xC3\x89"
           "e a\xE5\xA4\xA9"
           "b",
           false, THE, E, N_E, A, HEAVEN, B);
    EXPECT(t, "e\xCC\x81\xCC\xA3", false, E);
    tokenizer_close(t);
    t = changed("normalizer/lowercase", "false"); /* and accents stay */
    EXPECT(t, "the THE \xC3\xA9", false, THE, UNK, UNK);
    tokenizer_close(t);
    t = changed("normalizer/strip_accents", "false");
    EXPECT(t, "THE \xC3\xA9 \xC4\xB0", false, THE, UNK, I_DOT); /* U+0130 becomes two characters */
    tokenizer_close(t);
    cJSON *root = tree();
    change(root, "normalizer/lowercase", "false");
    change(root, "normalizer/strip_accents", "true");
    cr_assert_eq(open_tree(&t, root), 0, "%s", err);
    EXPECT(t, "THE \xC3\xA9", false, UNK, E);
    tokenizer_close(t);
    t = changed("normalizer/handle_chinese_chars", "false");
    EXPECT(t, "a\xE5\xA4\xA9 \xE5\xA4\xA9", false, UNK, HEAVEN);
    tokenizer_close(t);
    t = changed("normalizer/clean_text", "false");
    EXPECT(t, "t\x01he a\tb", false, UNK, A, B);
    tokenizer_close(t);
}

Test(wordpiece, long_runs_of_marks_end) {
    struct tokenizer *t = changed(NULL, NULL);
    struct bytes text = {0};
    for (int i = 0; i < 200000; i++) bytes_append(&text, i % 2 ? "\xF0\x9D\x85\xA5" : "\xF0\x9D\x85\xAD", 4);
    struct ids ids = {0};
    clock_t start = clock();
    cr_assert_eq(tokenizer_encode(t, (char *)text.data, text.n, false, &ids), 0);
    cr_expect_lt((double)(clock() - start) / CLOCKS_PER_SEC, 5.0);
    cr_expect(ids.n == 1 && ids.data[0] == UNK);
    ids_deinit(&ids);
    free(text.data);
    tokenizer_close(t);
}

/* ---- special tokens ---------------------------------------------------------------------------------------------- */

Test(wordpiece, special_tokens) {
    struct tokenizer *t = changed(NULL, NULL);
    EXPECT(t, "[CLS]the[MASK]cat", true, CLS, THE, MASK, CAT);
    EXPECT(t, "[CLS]", false, UNK, UNK, UNK); /* text of users: three words */
    cr_expect_eq(tokenizer_id(t, "[CLS]", 5), CLS);
    cr_expect_eq(tokenizer_id(t, "[SEP]", 5), SEP);
    cr_expect_eq(tokenizer_id(t, "[PAD]", 5), PAD);
    cr_expect_eq(tokenizer_id(t, "[MASK]", 6), MASK);
    cr_expect_eq(tokenizer_id(t, "##s", 3), S);
    cr_expect_eq(tokenizer_id(t, "s", 1), -1);
    cr_expect_eq(tokenizer_unknown(t), UNK);
    cr_expect(tokenizer_is_special(t, CLS) && !tokenizer_is_special(t, THE));
    struct ids ids = {0};
    tokenizer_prefix(t, &ids);
    cr_expect(ids.n == 1 && ids.data[0] == CLS);
    tokenizer_suffix(t, &ids);
    cr_expect(ids.n == 2 && ids.data[1] == SEP);
    ids_deinit(&ids);
    tokenizer_close(t);

    t = changed("post_processor", "{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",3],\"cls\":[\"[CLS]\",2]}");
    tokenizer_prefix(t, &ids);
    tokenizer_suffix(t, &ids);
    cr_expect(ids.n == 2 && ids.data[0] == CLS && ids.data[1] == SEP);
    ids_deinit(&ids);
    tokenizer_close(t);
    t = changed("post_processor", NULL);
    tokenizer_prefix(t, &ids);
    tokenizer_suffix(t, &ids);
    cr_expect_eq(ids.n, 0);
    tokenizer_close(t);

    /* An added token that is normalized is found in normalized text, and beside the vocabulary. */
    t = changed("added_tokens/5", "{\"id\":30,\"content\":\"Caf\xC3\xA9 X\",\"normalized\":true}");
    EXPECT(t, "the CAFE\xCC\x81 x", true, THE, 30);
    EXPECT(t, "the cafe x", false, THE, UNK, UNK);
    cr_expect_eq(tokenizer_size(t), 31);
    tokenizer_close(t);
}

/* ---- ids to text ------------------------------------------------------------------------------------------------- */

Test(wordpiece, decoding) {
    struct tokenizer *t = changed(NULL, NULL);
    EXPECT_TEXT(t, false, "[CLS] the cats. [SEP]", CLS, THE, CAT, S, DOT, SEP);
    EXPECT_TEXT(t, true, "the cats.", CLS, THE, CAT, S, DOT, SEP);
    EXPECT_TEXT(t, true, "##s cat", CLS, S, CAT);           /* ## stays at the beginning */
    EXPECT_TEXT(t, false, "a# don't", 99, A, N_SHARP, NOT); /* 99: no token */
    tokenizer_close(t);
    t = changed("decoder/cleanup", "false");
    EXPECT_TEXT(t, false, "a . do not", A, DOT, NOT);
    tokenizer_close(t);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

Test(wordpiece, vocab_txt) {
    struct tokenizer *t;
    size_t n = strlen(vocab_lines);
    cr_assert_eq(open_files(&t, vocab_lines, n, NULL), 0, "%s", err);
    EXPECT(t, "[CLS]THE \xC3\xA9[SEP]", true, CLS, THE, E, SEP);
    EXPECT(t, "[CLS]", false, UNK, UNK, UNK);
    struct ids ids = {0};
    tokenizer_prefix(t, &ids);
    tokenizer_suffix(t, &ids);
    cr_expect(ids.n == 2 && ids.data[0] == CLS && ids.data[1] == SEP);
    ids_deinit(&ids);
    tokenizer_close(t);

    cr_assert_eq(open_files(&t, vocab_lines, n - 1, "{\"do_lower_case\":false,\"tokenize_chinese_chars\":false}"), 0,
                 "%s", err); /* without the last line's end */
    EXPECT(t, "THE the a\xE5\xA4\xA9", false, UNK, THE, UNK);
    cr_expect_eq(tokenizer_size(t), NOT + 1);
    tokenizer_close(t);

    static const char other[] = "{\"cls_token\":{\"content\":\"the\"},\"added_tokens_decoder\":{\"5\":{\"content\":"
                                "\"the\",\"special\":false,\"normalized\":false}}}";
    cr_assert_eq(open_files(&t, "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\nthe\r\n", 41, other), 0, "%s", err);
    EXPECT(t, "the", false, 5);
    tokenizer_close(t);
}

Test(wordpiece, vocab_txt_that_is_refused) {
    static const struct {
        const char *vocab;
        size_t bytes;
        const char *config;
        int status;
        const char *sentence;
    } cases[] = {
        {"", 0, NULL, STATUS_INVALID, "vocab.txt: the vocabulary: expected the unknown token \"[UNK]\", found none"},
        {"[UNK]\n", 6, NULL, STATUS_INVALID, "the vocabulary: expected the cls_token \"[CLS]\", found none"},
        {"a\n\nb\n", 5, NULL, STATUS_INVALID, "token 1: expected an id and a text that come once, found \"\""},
        {"a\nb\na\n", 6, NULL, STATUS_INVALID, "token 2: expected an id and a text that come once, found \"a\""},
        {"a\nb\0c\n", 6, NULL, STATUS_INVALID, "line 2: expected text, found a zero byte"},
        {"a\nb\0\n", 5, NULL, STATUS_INVALID, "line 2: expected text, found a zero byte"},
        {"a\n\xC3\n", 4, NULL, STATUS_INVALID, "expected UTF-8, found none at byte 2"},
        {"a\n", 2, "{\"unk_token\":5}", STATUS_INVALID, "tokenizer_config.json: unk_token: expected"},
        {"a\n", 2, "{\"do_lower_case\":1}", STATUS_INVALID, "tokenizer_config.json: do_lower_case: expected"},
        {"a\n", 2, "{\"do_basic_tokenize\":false}", STATUS_UNSUPPORTED, "do_basic_tokenize: expected true"},
        {"a\n", 2, "{\"added_tokens_decoder\":[]}", STATUS_INVALID, "\"added_tokens_decoder\""},
        {"[UNK]\ncls\n", 10, "{\"cls_token\":\"cls\"}", STATUS_INVALID, "expected the sep_token \"[SEP]\", found none"},
        {"[UNK]\ncls\n[SEP]\n[PAD]\n[MASK]\n", 29, "{\"cls_token\":\"cls\"}", STATUS_UNSUPPORTED,
         "\"cls\": expected a special token with punctuation, found one that text can spell"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokenizer *t;
        cr_expect_eq(open_files(&t, cases[i].vocab, cases[i].bytes, cases[i].config), cases[i].status, "%zu: %s", i,
                     err);
        cr_expect_null(t);
        cr_expect(strstr(err, cases[i].sentence), "%zu: \"%s\" is not in \"%s\"", i, cases[i].sentence, err);
    }
}

Test(wordpiece, json_that_is_refused) {
    static const struct {
        const char *path, *json;
        int status;
        const char *sentence;
    } cases[] = {
        {"model/vocab", "[]", STATUS_INVALID, "the vocabulary: expected an object, found an array"},
        {"model/vocab/the", "-1", STATUS_INVALID, "token \"the\": expected an id from 0 to 4194303, found -1"},
        {"model/vocab/the", "0", STATUS_INVALID, "token 0: expected an id and a text that come once, found \"the\""},
        {"model/vocab/", "50", STATUS_INVALID, "token 50: expected an id and a text that come once, found \"\""},
        {"model/vocab/[UNK]", NULL, STATUS_INVALID, "expected the unknown token \"[UNK]\", found none"},
        {"model/unk_token", "\"x\"", STATUS_INVALID, "expected the unknown token \"x\", found none"},
        {"model/unk_token", "1", STATUS_INVALID, "unk_token: expected"},
        {"model/continuing_subword_prefix", "\"@@\"", STATUS_UNSUPPORTED, "\"##\", found \"@@\""},
        {"model/max_input_chars_per_word", "0", STATUS_INVALID, "expected an integer from 1 to 256, found 0"},
        {"model/max_input_chars_per_word", "257", STATUS_INVALID, "expected an integer from 1 to 256, found 257"},
        {"normalizer", "null", STATUS_UNSUPPORTED, "normalizer: expected BertNormalizer, found null"},
        {"normalizer", "{\"type\":\"NFC\"}", STATUS_UNSUPPORTED, "normalizer: expected BertNormalizer, found NFC"},
        {"normalizer/strip_accents", "1", STATUS_INVALID, "strip_accents: expected"},
        {"pre_tokenizer", NULL, STATUS_UNSUPPORTED, "pre_tokenizer: expected BertPreTokenizer, found nothing"},
        {"pre_tokenizer/type", "\"Whitespace\"", STATUS_UNSUPPORTED, "expected BertPreTokenizer, found Whitespace"},
        {"decoder", "null", STATUS_UNSUPPORTED, "decoder: expected WordPiece, found null"},
        {"decoder/prefix", "\"\"", STATUS_UNSUPPORTED, "decoder: expected the prefix \"##\", found \"\""},
        {"decoder/cleanup", "1", STATUS_INVALID, "cleanup: expected"},
        {"post_processor", "{\"type\":\"RobertaProcessing\"}", STATUS_UNSUPPORTED,
         "post_processor: expected null, or one BertProcessing or TemplateProcessing, found RobertaProcessing"},
        {"post_processor", "{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",3]}", STATUS_INVALID,
         "post_processor: expected \"cls\" as a text and an id from 0 to 4194303, found nothing"},
        {"post_processor", "{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",3],\"cls\":[\"[CLS]\",2e9]}",
         STATUS_INVALID, "expected \"cls\" as a text and an id"},
        {"post_processor/special_tokens/[SEP]/ids/0", "21", STATUS_INVALID,
         "post_processor: expected ids below 21, found 21"},
        {"added_tokens/0/content", "\"[NO]\"", STATUS_INVALID, "expected an id of its own, found 0"},
        {"added_tokens/0/content", "\"[CLS]\"", STATUS_INVALID, "expected its id in the vocabulary, 2, found 0"},
        {"added_tokens/5", "{\"id\":5,\"content\":\"the\",\"special\":true}", STATUS_UNSUPPORTED,
         "\"the\": expected a special token with punctuation, found one that text can spell"},
        {"added_tokens/5", "{\"id\":7,\"content\":\"##s\",\"special\":true}", STATUS_UNSUPPORTED, "text can spell"},
        {"added_tokens/5", "{\"id\":13,\"content\":\".\",\"special\":true}", STATUS_UNSUPPORTED, "text can spell"},
        {"added_tokens/5", "{\"id\":40,\"content\":\"\xE2\x80\x8D\",\"normalized\":true}", STATUS_INVALID,
         "expected a text of which normalizing leaves something"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokenizer *t;
        cJSON *root = tree();
        change(root, cases[i].path, cases[i].json);
        cr_expect_eq(open_tree(&t, root), cases[i].status, "%s = %s: \"%s\"", cases[i].path, cases[i].json, err);
        cr_expect_null(t);
        cr_expect(strstr(err, cases[i].sentence), "%s = %s: \"%s\" is not in \"%s\"", cases[i].path, cases[i].json,
                  cases[i].sentence, err);
    }
    /* Files from before models had a type. */
    struct tokenizer *t = changed("model/type", NULL);
    EXPECT(t, "the", false, THE);
    tokenizer_close(t);
}
