/* tokenizer_open: what is read from which file, and the sentence for each thing that is refused. */
#include "tests/unit/tokenizer_tree.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GOLDEN "tests/golden/tokenizer"

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

static struct ids encode(const struct tokenizer *t, const char *text, size_t bytes, bool parse_special) {
    struct ids ids = {0};
    cr_assert_eq(tokenizer_encode(t, text, bytes, parse_special, &ids), 0);
    return ids;
}

static void write_file(const char *folder, const char *name, const char *text, size_t bytes) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f);
    fwrite(text, 1, bytes, f);
    fclose(f);
}

Test(tokenizer, chat_templates_of_a_folder) {
    char folder[] = "/tmp/tokenizer-XXXXXX", command[128];
    struct tokenizer *t = open_folder(GOLDEN "/tiny-files");
    cr_expect_str_eq(tokenizer_chat_template(t), "{{ messages }}", "\"default\" of a list");
    tokenizer_close(t);
    t = tiny();
    cr_expect_null(tokenizer_chat_template(t));
    tokenizer_close(t);

    size_t bytes;
    char *json = read_file(GOLDEN "/tiny/tokenizer.json", &bytes);
    cr_assert_not_null(mkdtemp(folder));
    write_file(folder, "tokenizer.json", json, bytes);
    write_file(folder, "tokenizer_config.json", "{\"chat_template\": \"config\"}", 27);
    t = open_folder(folder);
    cr_expect_str_eq(tokenizer_chat_template(t), "config");
    tokenizer_close(t);
    write_file(folder, "chat_template.jinja", "file\n", 5);
    t = open_folder(folder);
    cr_expect_str_eq(tokenizer_chat_template(t), "file\n", "the file comes before the configuration");
    tokenizer_close(t);
    snprintf(command, sizeof command, "rm -r %s", folder);
    cr_expect_eq(system(command), 0);
    free(json);
}

Test(tokenizer, folders_that_are_refused) {
    static const struct {
        const char *vocab, *merges, *config;
        int status;
        const char *sentence;
    } cases[] = {
        {NULL, NULL, NULL, STATUS_NOT_FOUND,
         "expected tokenizer.json, or vocab.json and merges.txt, or vocab.txt, found none of them"},
        {"[]", "", "{}", STATUS_INVALID, "vocab.json: the vocabulary: expected an object, found an array"},
        {"{}", NULL, "{}", STATUS_NOT_FOUND, "merges.txt: No such file"},
        {"{\"a\":0,\"b\":1}", "#version: 0.2\na b\n", "{}", STATUS_INVALID,
         "merges.txt: merge 1: expected two tokens whose union is a token, found \"a b\""},
        {"{\"a\":0}", "a\xff\n", "{}", STATUS_INVALID, "merges.txt: merge 1: expected two tokens"},
        {"{\"a\":0}", "\n\r\n", "{}", STATUS_INVALID, "expected an object \"added_tokens_decoder\""},
        {"{\"a\":0}", "", "{\"added_tokens_decoder\":{\"x\":{}}}", STATUS_INVALID,
         "expected ids as names, found \"x\""},
        {"{\"a\":0}", "", "{\"added_tokens_decoder\":{\"-5\":{\"content\":\"x\"}}}", STATUS_INVALID,
         "expected an id from 0"},
        {"{\"a\":0}", "", "{\"added_tokens_decoder\":{\"5\":{\"content\":\"\"}}}", STATUS_INVALID,
         "expected a content of 1 to 4096 bytes, found 0"},
        {"{\"a\":0}", "", "{\"added_tokens_decoder\":{}}", STATUS_INVALID,
         "expected a token for every byte, found none for 0x00"},
        {"{\"a\":0}", "", "{", STATUS_INVALID, "tokenizer_config.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[] = "/tmp/tokenizer-XXXXXX", command[128];
        cr_assert_not_null(mkdtemp(folder));
        if (cases[i].vocab) write_file(folder, "vocab.json", cases[i].vocab, strlen(cases[i].vocab));
        if (cases[i].merges) write_file(folder, "merges.txt", cases[i].merges, strlen(cases[i].merges));
        if (cases[i].config) write_file(folder, "tokenizer_config.json", cases[i].config, strlen(cases[i].config));
        struct tokenizer *t = (struct tokenizer *)folder;
        cr_expect_eq(tokenizer_open(&t, folder, err, sizeof err), cases[i].status, "case %zu: %s", i, err);
        cr_expect_null(t);
        cr_expect(strstr(err, cases[i].sentence), "case %zu: \"%s\" is not in \"%s\"", i, cases[i].sentence, err);
        cr_expect(strstr(err, folder), "case %zu: no path in \"%s\"", i, err);
        snprintf(command, sizeof command, "rm -r %s", folder);
        cr_expect_eq(system(command), 0);
    }
}

/* The small tokenizer.json as a tree, to be changed by a test. */
static cJSON *tiny_tree(void) {
    char *text = read_file(GOLDEN "/tiny/tokenizer.json", NULL);
    cJSON *root = cJSON_Parse(text);
    cr_assert_not_null(root);
    free(text);
    return root;
}

Test(tokenizer, files_that_are_refused) {
    static const char *const split = "pre_tokenizer/pretokenizers/0/", *const byte_level =
                                                                           "pre_tokenizer/pretokenizers/1/";
    static const struct {
        const char *prefix, *path, *json;
        int status;
        const char *sentence;
    } cases[] = {
        {"", "model", NULL, STATUS_INVALID, "expected an object with a \"model\""},
        {"", "model/type", "\"Unigram\"", STATUS_UNSUPPORTED, "model: expected BPE or WordPiece, found Unigram"},
        {"", "model/type", "\"WordPiece\"", STATUS_UNSUPPORTED, "normalizer: expected BertNormalizer, found NFC"},
        {"", "model/vocab", "[]", STATUS_INVALID, "the vocabulary: expected an object, found an array"},
        {"", "model/vocab/!", NULL, STATUS_INVALID, "expected a token for every byte, found none for 0x21"},
        {"", "model/vocab/!", "-1", STATUS_INVALID, "token \"!\": expected an id from 0 to 4194303, found -1"},
        {"", "model/vocab/!", "1.5", STATUS_INVALID, "expected an id from 0 to 4194303, found 1.5"},
        {"", "model/vocab/!", "4194304", STATUS_INVALID, "expected an id from 0 to 4194303, found 4194304"},
        {"", "model/vocab/!", "\"x\"", STATUS_INVALID, "expected an id from 0 to 4194303"},
        {"", "model/vocab/!", "7", STATUS_INVALID, "expected an id and a text that come once"},
        {"", "model/vocab/a b", "9999", STATUS_INVALID,
         "token 9999: expected the byte-level alphabet of GPT-2, found \"a b\""},
        {"", "model/vocab/", "9999", STATUS_INVALID, "expected an id and a text that come once"},
        {"", "model/merges", "{}", STATUS_INVALID, "expected an array of merges, found an object"},
        {"", "model/merges/0", "\"ab\"", STATUS_INVALID,
         "merge 1: expected \"left right\" or [\"left\", \"right\"], found \"ab\""},
        {"", "model/merges/0", "\"a b c\"", STATUS_INVALID, "merge 1: expected \"left right\""},
        {"", "model/merges/0", "[\"a\"]", STATUS_INVALID, "merge 1: expected \"left right\""},
        {"", "model/merges/0", "[\"a\",\"b\",\"c\"]", STATUS_INVALID, "merge 1: expected \"left right\""},
        {"", "model/merges/0", "7", STATUS_INVALID, "found 7"},
        {"", "model/merges/0", "\"! !\"", STATUS_INVALID,
         "merge 1: expected two tokens whose union is a token, found \"! !\""},
        {"", "model/merges/0", "\" a\"", STATUS_INVALID, "merge 1: expected two tokens"},
        {"", "model/dropout", "0.1", STATUS_UNSUPPORTED, "model: expected no dropout"},
        {"", "model/continuing_subword_prefix", "\"##\"", STATUS_UNSUPPORTED,
         "expected no continuing_subword_prefix, found \"##\""},
        {"", "model/end_of_word_suffix", "\"</w>\"", STATUS_UNSUPPORTED, "expected no end_of_word_suffix"},
        {"", "model/ignore_merges", "1", STATUS_INVALID, "ignore_merges: expected"},
        {"", "normalizer", "{\"type\":\"NFKC\"}", STATUS_UNSUPPORTED, "normalizer: expected NFC or null, found NFKC"},
        {"", "normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"}]}",
         STATUS_UNSUPPORTED, "found Lowercase"},
        {"", "decoder", "null", STATUS_UNSUPPORTED, "decoder: expected ByteLevel, found null"},
        {"", "pre_tokenizer", "null", STATUS_UNSUPPORTED,
         "pre_tokenizer: expected a Sequence of one Split and one ByteLevel, found null"},
        {"", "pre_tokenizer", "{\"type\":\"ByteLevel\"}", STATUS_UNSUPPORTED, "found ByteLevel"},
        {split, "behavior", "\"Removed\"", STATUS_UNSUPPORTED, "Isolated and not inverted, found \"Removed\""},
        {split, "invert", "true", STATUS_UNSUPPORTED, "found \"Isolated\", inverted"},
        {split, "pattern", "{\"String\":\" \"}", STATUS_UNSUPPORTED, "expected a Split by a Regex, found none"},
        {split, "pattern/Regex", "\"(\"", STATUS_INVALID, "the split regex: missing closing parenthesis, at byte 1"},
        {split, "pattern/Regex", "\"a*\"", STATUS_UNSUPPORTED, "expected a pattern that never matches the empty text"},
        {byte_level, "add_prefix_space", "true", STATUS_UNSUPPORTED,
         "ByteLevel without add_prefix_space and use_regex, found add_prefix_space"},
        {byte_level, "use_regex", NULL, STATUS_UNSUPPORTED, "found use_regex"},
        {"", "post_processor", "{\"type\":\"BertProcessing\"}", STATUS_UNSUPPORTED,
         "post_processor: expected null, ByteLevel or one TemplateProcessing"},
        {"", "post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}",
         STATUS_INVALID, "expected the ids of \"x\""},
        {"", "post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[]}", STATUS_UNSUPPORTED,
         "a template with one Sequence"},
        {"", "added_tokens", "{}", STATUS_INVALID, "added_tokens: expected an array, found an object"},
        {"", "added_tokens/0", "5", STATUS_INVALID, "added token -1: expected an object, found a number"},
        {"", "added_tokens/0/id", "3", STATUS_INVALID, "\"<|endoftext|>\": expected an id of its own, found 3"},
        {"", "added_tokens/0/id", "457", STATUS_INVALID, "expected each id once, found 457 twice"},
        {"", "added_tokens/0/content", "\"<|im_end|>\"", STATUS_INVALID,
         "expected different texts, found \"<|im_end|>\""},
        {"", "added_tokens/0/content", "\"\"", STATUS_INVALID, "expected a content of 1 to 4096 bytes, found 0"},
        {"", "added_tokens/0/content", "\"!\"", STATUS_INVALID, "expected its id in the vocabulary, 0, found 456"},
        {"", "added_tokens/0/special", "1", STATUS_INVALID, "special: expected"},
    };
    struct tokenizer *t;
    cr_assert_eq(open_tree(&t, tiny_tree()), 0, "%s", err);
    tokenizer_close(t);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[128];
        cJSON *root = tiny_tree();
        snprintf(path, sizeof path, "%s%s", cases[i].prefix, cases[i].path);
        change(root, path, cases[i].json);
        cr_expect_eq(open_tree(&t, root), cases[i].status, "%s = %s: \"%s\"", path, cases[i].json, err);
        cr_expect_null(t);
        cr_expect(strstr(err, cases[i].sentence), "%s = %s: \"%s\" is not in \"%s\"", path, cases[i].json,
                  cases[i].sentence, err);
    }
    static const char *const texts[] = {"", "[]", "null", "{}", "{\"model\": 5}", "\xff", "{\"model\":{}}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cr_expect_lt(tokenizer_open_json(&t, texts[i], strlen(texts[i]), err, sizeof err), 0, "\"%s\" was opened",
                     texts[i]);
        cr_expect(t == NULL && strstr(err, "expected"), "%s", err);
    }
}

Test(tokenizer, text_cannot_spell_a_special_token) {
    struct tokenizer *t;
    cJSON *root = tiny_tree();
    change(root, "added_tokens/0/content", "\"ther\"");
    change(root, "added_tokens/0/id", "298");
    cr_expect_eq(open_tree(&t, root), STATUS_UNSUPPORTED, "%s", err);
    cr_expect(strstr(err, "no merges lead to"), "%s", err);

    /* One that is in the vocabulary, but out of the merges' reach, is taken; even without merges text does not meet it.
     */
    root = tiny_tree();
    change(root, "model/vocab/zqz", "470"); /* where the added token was */
    change(root, "model/ignore_merges", "true");
    change(root, "added_tokens/14/content", "\"zqz\"");
    change(root, "added_tokens/14/special", "true");
    cr_assert_eq(open_tree(&t, root), 0, "%s", err);
    struct ids plain = encode(t, "zqz", 3, false), special = encode(t, "zqz", 3, true);
    cr_expect_eq(plain.n, 3);
    cr_expect(special.n == 1 && special.data[0] == 470);
    ids_deinit(&plain);
    ids_deinit(&special);
    tokenizer_close(t);
}

Test(tokenizer, post_processors) {
    static const char template[] =
        "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":\"TemplateProcessing\",\"single\":["
        "{\"SpecialToken\":{\"id\":\"a\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":"
        "{\"id\":\"<|endoftext|>\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"a\":{\"id\":\"a\",\"ids\":[1,2],"
        "\"tokens\":[]},\"<|endoftext|>\":{\"id\":\"<|endoftext|>\",\"ids\":[456],\"tokens\":[\"<|endoftext|>\"]}}}]}";
    struct tokenizer *t;
    cJSON *root = tiny_tree();
    change(root, "post_processor", template);
    cr_assert_eq(open_tree(&t, root), 0, "%s", err);
    struct ids ids = {0};
    tokenizer_prefix(t, &ids);
    cr_expect(ids.n == 2 && ids.data[0] == 1 && ids.data[1] == 2);
    tokenizer_suffix(t, &ids);
    cr_expect(ids.n == 3 && ids.data[2] == 456);
    ids_deinit(&ids);
    tokenizer_close(t);
}

Test(tokenizer, hostile_regexes_end) {
    struct tokenizer *t;
    cJSON *root = tiny_tree();
    change(root, "pre_tokenizer/pretokenizers/0/pattern/Regex", "\"(?:(?:a+)+)+b|x\"");
    cr_assert_eq(open_tree(&t, root), 0, "%s", err);
    char text[64];
    memset(text, 'a', sizeof text);
    struct ids ids = {0};
    ids_push(&ids, 5);
    clock_t start = clock();
    cr_expect_eq(tokenizer_encode(t, text, sizeof text, false, &ids), STATUS_TOO_LARGE);
    cr_expect_lt((double)(clock() - start) / CLOCKS_PER_SEC, 5.0);
    cr_expect_eq(ids.n, 1, "nothing is appended");
    /* Text between matches is a piece of its own. */
    ids.n = 0;
    cr_expect_eq(tokenizer_encode(t, "therxther", 9, false, &ids), 0);
    char *back = tokenizer_decode(t, ids.data, ids.n, false, NULL);
    cr_expect_str_eq(back, "therxther");
    cr_expect_eq(ids.n, 3, "%zu ids", ids.n);
    free(back);
    ids_deinit(&ids);
    tokenizer_close(t);
}
