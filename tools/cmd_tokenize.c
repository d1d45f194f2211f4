/* cmd_tokenize.c - `tandem tokenize`: text to ids and back, as the model sees it. */
#include "engine/tokenizer.h"
#include "kernels/status.h"
#include "tools/options.h"
#include "weights/weights.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cmd_tokenize(int argc, char **argv);

/* Bytes as people can read them: control and incomplete bytes as \xNN. */
static void print_piece(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '\n')
            printf("\\n");
        else if (c == '\t')
            printf("\\t");
        else if (c == '\\')
            printf("\\\\");
        else if (c < 32 || c == 127)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
}

static void print_table(const struct tokenizer *t, const struct ids *ids) {
    for (size_t i = 0; i < ids->n; i++) {
        size_t bytes;
        const char *text = tokenizer_bytes(t, ids->data[i], &bytes);
        printf("%8d  ", ids->data[i]);
        print_piece(text, bytes);
        putchar('\n');
    }
    printf("%zu tokens\n", ids->n);
}

static void print_json(const struct ids *ids) {
    putchar('[');
    for (size_t i = 0; i < ids->n; i++) printf(i ? ",%d" : "%d", ids->data[i]);
    puts("]");
}

static int decode(const struct tokenizer *t, const char *list, char *err, size_t err_bytes) {
    struct ids ids = {0};
    for (const char *p = list; *p;) {
        char *end;
        errno = 0;
        long id = strtol(p, &end, 10);
        if (end == p || errno || id < 0 || id > INT32_MAX || (*end && *end != ',')) {
            ids_deinit(&ids);
            return fail(err, err_bytes, STATUS_INVALID, "--decode: expected numbers like 1,2,3, found \"%.40s\"", p);
        }
        ids_push(&ids, (int32_t)id);
        p = *end ? end + 1 : end;
    }
    char *text = tokenizer_decode(t, ids.data, ids.n, false, NULL);
    puts(text);
    free(text);
    ids_deinit(&ids);
    return 0;
}

/* All of standard input. */
static char *read_stdin(size_t *bytes) {
    size_t capacity = 1 << 16, n = 0, got;
    char *text = malloc(capacity);
    CHECK(text);
    while ((got = fread(text + n, 1, capacity - n, stdin)) > 0)
        if ((n += got) == capacity) {
            text = realloc(text, capacity *= 2);
            CHECK(text);
        }
    *bytes = n;
    return text;
}

int cmd_tokenize(int argc, char **argv) {
    static const struct command_help help = {
        .name = "tokenize",
        .operands = "MODEL",
        .summary = "Prints the token ids of a text (standard input without --text), or the text of token ids. MODEL\n"
                   "is any folder with a tokenizer: byte-level BPE (tokenizer.json; vocab.json and merges.txt) or\n"
                   "BERT's WordPiece (tokenizer.json; vocab.txt).",
        .example = "tandem tokenize weights/sample/small --text \"Hello, world\"",
        .min_operands = 1,
        .max_operands = 1,
    };
    const char *text = NULL, *ids_text = NULL;
    bool json = false, special = false, add = false;
    const struct option_spec specs[] = {
        FLAG(STRING, "text", &text, "TEXT", "the text to tokenize", .shown = "standard input"),
        FLAG(STRING, "decode", &ids_text, "IDS", "comma-separated ids to turn into text instead"),
        FLAG(BOOL, "parse-special", &special, NULL, "let special tokens in the text become their ids"),
        FLAG(BOOL, "add-special-tokens", &add, NULL,
             "add what the tokenizer sets around a text: BERT's [CLS] and [SEP]"),
        FLAG(BOOL, "json", &json, NULL, "print a JSON array of ids"),
        {0},
    };
    struct options o = {0};
    struct tokenizer *t = NULL;
    struct ids ids = {0};
    char err[ERR_BYTES], path[PATH_MAX], *input = NULL;
    size_t bytes;
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    exit_code = 1;
    if (model_find(o.operands.items[0], path, sizeof path, err, sizeof err)) goto failed;
    if (tokenizer_open(&t, path, err, sizeof err)) goto failed;
    if (ids_text) {
        if (decode(t, ids_text, err, sizeof err)) goto failed;
    } else {
        if (text)
            bytes = strlen(text);
        else
            text = input = read_stdin(&bytes);
        if (add) tokenizer_prefix(t, &ids);
        tokenizer_encode(t, text, bytes, special, &ids);
        if (add) tokenizer_suffix(t, &ids);
        if (json)
            print_json(&ids);
        else
            print_table(t, &ids);
    }
    exit_code = 0;
    goto done;
failed:
    fprintf(stderr, "tandem tokenize: %s\n", err);
done:
    free(input);
    ids_deinit(&ids);
    tokenizer_close(t);
    options_deinit(&o);
    return exit_code;
}
