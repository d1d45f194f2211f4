/* tokenizer_open.c - a tokenizer from a checkpoint's folder.
 *
 *   tokenizer.json          all of the tokenizer; where it is absent:
 *   vocab.json, merges.txt  the model,
 *   tokenizer_config.json   "added_tokens_decoder"; Qwen's regex, NFC and no prefix space are understood; or, for BERT:
 *   vocab.txt               the model, a token a line; ids count from 0
 *   tokenizer_config.json   may be absent: do_lower_case, strip_accents, tokenize_chinese_chars, the special tokens'
 * names The chat template is chat_template.jinja, else "chat_template" in tokenizer_config.json: a string, or a list of
 * {"name", "template"} of which "default" counts. */
#include "engine/tokenizer_internal.h"
#include "engine/wordpiece.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TEMPLATE_BYTES (1u << 20)

static const struct json_limits limits = {.max_bytes = MAX_TOKENIZER_BYTES, .max_depth = 32};

/* The folder's files, as far as they are there. */
struct folder {
    const char *path; /* borrowed */
    char file[PATH_MAX];
};

static int folder_file(struct folder *f, const char *name, char *err, size_t err_bytes) {
    int n = snprintf(f->file, sizeof f->file, "%s/%s", f->path, name);
    if (n < 0 || (size_t)n >= sizeof f->file)
        return fail(err, err_bytes, STATUS_INVALID, "the path of %s is too long: expected at most %zu bytes", name,
                    sizeof f->file - 1);
    return 0;
}

static bool folder_has(struct folder *f, const char *name) {
    return !folder_file(f, name, NULL, 0) && access(f->file, F_OK) == 0;
}

/* Puts the file's path before a sentence that does not have it yet. */
static int fail_in(const struct folder *f, int status, const char *sentence, char *err, size_t err_bytes) {
    return fail(err, err_bytes, status, "%s: %s", f->file, sentence);
}

static int read_text(const struct folder *f, size_t max_bytes, struct bytes *out, char *err, size_t err_bytes) {
    FILE *file = fopen(f->file, "rb");
    if (!file)
        return fail(err, err_bytes, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s: %s", f->file, strerror(errno));
    size_t got;
    do {
        bytes_reserve(out, 64 << 10);
        got = fread(out->data + out->n, 1, 64 << 10, file);
        out->n += got;
    } while (got && out->n <= max_bytes);
    bool failed = ferror(file);
    fclose(file);
    if (failed) return fail_in(f, STATUS_IO, "it cannot be read", err, err_bytes);
    if (out->n > max_bytes)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "%s: expected at most %zu bytes, found more", f->file, max_bytes);
    return 0;
}

/* ---- vocab.json, merges.txt, tokenizer_config.json --------------------------------------------------------------- */

static int read_merges(struct tokenizer *t, const struct bytes *text, char *err, size_t err_bytes) {
    const char *line = (const char *)text->data, *end = line + text->n;
    for (bool first = true; line < end; first = false) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        const char *next = newline ? newline + 1 : end;
        size_t n = (size_t)((newline ? newline : end) - line);
        if (n && line[n - 1] == '\r') n--;
        bool is_version = first && n >= 8 && !memcmp(line, "#version", 8);
        if (n && !is_version) {
            const char *blank = memchr(line, ' ', n);
            size_t n_left = blank ? (size_t)(blank - line) : n;
            int status = tokenizer__add_merge(t, line, n_left, blank ? blank + 1 : "", blank ? n - n_left - 1 : 0, err,
                                              err_bytes);
            if (status) return status;
        }
        line = next;
    }
    return 0;
}

static int read_added_tokens(struct tokenizer *t, const cJSON *config, char *err, size_t err_bytes) {
    const cJSON *tokens = json_find(config, "added_tokens_decoder"), *token;
    if (!cJSON_IsObject(tokens))
        return fail(err, err_bytes, STATUS_INVALID,
                    "expected an object \"added_tokens_decoder\" (there is no tokenizer.json), found %s",
                    json_kind(tokens));
    cJSON_ArrayForEach(token, tokens) {
        char *end;
        long id = strtol(token->string, &end, 10);
        if (end == token->string || *end) {
            char shown[80];
            return fail(err, err_bytes, STATUS_INVALID, "added_tokens_decoder: expected ids as names, found \"%s\"",
                        json_quote(token->string, shown, sizeof shown));
        }
        int status = tokenizer__add_added(t, token, id, err, err_bytes);
        if (status) return status;
    }
    return 0;
}

static int read_model_files(struct tokenizer *t, struct folder *f, const cJSON *config, char *err, size_t err_bytes) {
    char sentence[ERR_BYTES] = "";
    cJSON *vocab = NULL;
    struct bytes merges = {0};
    int status = folder_file(f, "vocab.json", err, err_bytes);
    if (!status) status = json_parse_file(&vocab, f->file, limits, err, err_bytes);
    if (status == STATUS_NOT_FOUND)
        fail(err, err_bytes, status,
             "%s: expected tokenizer.json, or vocab.json and merges.txt, or vocab.txt, found none of them", f->path);
    if (status) goto done;
    t->nfc = true;
    status = tokenizer__begin(t, (size_t)cJSON_GetArraySize(vocab), 0, sentence, sizeof sentence);
    if (!status) status = tokenizer__add_vocab(t, vocab, sentence, sizeof sentence);
    if (status) {
        fail_in(f, status, sentence, err, err_bytes);
        goto done;
    }
    status = folder_file(f, "merges.txt", err, err_bytes);
    if (!status) status = read_text(f, MAX_TOKENIZER_BYTES, &merges, err, err_bytes);
    if (status) goto done;
    status = read_merges(t, &merges, sentence, sizeof sentence);
    if (status) {
        fail_in(f, status, sentence, err, err_bytes);
        goto done;
    }
    status = folder_file(f, "tokenizer_config.json", err, err_bytes);
    if (status) goto done;
    status = read_added_tokens(t, config, sentence, sizeof sentence);
    if (!status) status = tokenizer__finish(t, sentence, sizeof sentence);
    if (status) fail_in(f, status, sentence, err, err_bytes);
done:
    free(merges.data);
    cJSON_Delete(vocab);
    return status;
}

/* ---- vocab.txt, tokenizer_config.json ---------------------------------------------------------------------------- */

static int read_lines(struct tokenizer *t, struct bytes *text, char *err, size_t err_bytes) {
    size_t good = utf8_valid_bytes(text->data, text->n);
    if (good < text->n) return fail(err, err_bytes, STATUS_INVALID, "expected UTF-8, found none at byte %zu", good);
    bytes_append(text, "", 1);
    char *line = (char *)text->data, *end = line + text->n - 1;
    for (int32_t id = 0; line < end; id++) {
        char *newline = memchr(line, '\n', (size_t)(end - line));
        char *line_end = newline ? newline : end;
        *line_end = 0;
        size_t n = (size_t)(line_end - line);
        if (n && line[n - 1] == '\r') line[--n] = 0;
        if (strlen(line) < n)
            return fail(err, err_bytes, STATUS_INVALID, "line %d: expected text, found a zero byte", id + 1);
        int status = tokenizer__add_token(t, id, line, err, err_bytes);
        if (status) return status;
        line = line_end + 1;
    }
    return 0;
}

/* "[CLS]" or {"content": "[CLS]", ...} */
static int special_name(const cJSON *config, const char *key, const char **name, char *err, size_t err_bytes) {
    const cJSON *item = json_find(config, key);
    if (cJSON_IsObject(item)) return json_get_string(item, "content", name, err, err_bytes);
    return json_get_string(config, key, name, err, err_bytes);
}

/* The five special tokens, under their names in the vocabulary, and [CLS] ... [SEP] around a text. */
static int add_bert_specials(struct tokenizer *t, const cJSON *config, char *err, size_t err_bytes) {
    static const char *const specials[][2] = {{"unk_token", WORDPIECE_UNKNOWN},
                                              {"cls_token", "[CLS]"},
                                              {"sep_token", "[SEP]"},
                                              {"pad_token", "[PAD]"},
                                              {"mask_token", "[MASK]"}};
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
        const char *key = specials[i][0], *name = specials[i][1];
        int status = special_name(config, key, &name, err, err_bytes);
        if (!status && i == 0) status = tokenizer__set_unknown(t, name, err, err_bytes);
        if (status) return status;
        int32_t id = bpe_find(&t->bpe, name, strlen(name));
        if (id < 0) {
            char shown[80];
            return fail(err, err_bytes, STATUS_INVALID, "the vocabulary: expected the %s \"%s\", found none", key,
                        json_quote(name, shown, sizeof shown));
        }
        if (!strcmp(key, "cls_token")) ids_push(&t->prefix, id);
        if (!strcmp(key, "sep_token")) ids_push(&t->suffix, id);
        bool known = false;
        for (size_t k = 0; k < t->n_added; k++) known = known || t->added[k].id == id;
        if (known) continue;
        cJSON *token = cJSON_CreateObject();
        if (!token || !cJSON_AddStringToObject(token, "content", name) || !cJSON_AddTrueToObject(token, "special"))
            status = fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the added tokens");
        if (!status) status = tokenizer__add_added(t, token, id, err, err_bytes);
        cJSON_Delete(token);
        if (status) return status;
    }
    return 0;
}

static int read_bert_config(struct wordpiece *w, const cJSON *config, char *err, size_t err_bytes) {
    bool basic = true;
    int status = json_get_bool(config, "do_lower_case", &w->lowercase, err, err_bytes);
    w->strip_accents = w->lowercase; /* unless the file says otherwise */
    if (!status) status = json_get_bool(config, "strip_accents", &w->strip_accents, err, err_bytes);
    if (!status) status = json_get_bool(config, "tokenize_chinese_chars", &w->chinese_chars, err, err_bytes);
    if (!status) status = json_get_bool(config, "do_basic_tokenize", &basic, err, err_bytes);
    if (!status && !basic)
        status = fail(err, err_bytes, STATUS_UNSUPPORTED, "do_basic_tokenize: expected true, found false");
    return status;
}

static int read_bert_files(struct tokenizer *t, struct folder *f, const cJSON *config, char *err, size_t err_bytes) {
    char sentence[ERR_BYTES] = "";
    struct bytes text = {0};
    int status = folder_file(f, "vocab.txt", err, err_bytes);
    if (!status) status = read_text(f, MAX_TOKENIZER_BYTES, &text, err, err_bytes);
    if (status) goto done;
    status = tokenizer__begin_wordpiece(t, 0, sentence, sizeof sentence);
    if (!status) status = read_lines(t, &text, sentence, sizeof sentence);
    if (!status && config) {
        status = folder_file(f, "tokenizer_config.json", err, err_bytes);
        if (status) goto done;
        status = read_bert_config(t->wordpiece, config, sentence, sizeof sentence);
        if (!status && json_find(config, "added_tokens_decoder"))
            status = read_added_tokens(t, config, sentence, sizeof sentence);
    }
    if (!status) status = add_bert_specials(t, config, sentence, sizeof sentence);
    if (!status) status = tokenizer__finish(t, sentence, sizeof sentence);
    if (status) fail_in(f, status, sentence, err, err_bytes);
done:
    free(text.data);
    return status;
}

/* ---- the chat template ------------------------------------------------------------------------------------------- */

/* "chat_template" of tokenizer_config.json; NULL if there is none. */
static const char *config_template(const cJSON *config) {
    const cJSON *item = json_find(config, "chat_template"), *named;
    if (cJSON_IsString(item)) return item->valuestring;
    if (!cJSON_IsArray(item)) return NULL;
    cJSON_ArrayForEach(named, item) {
        const cJSON *name = json_find(named, "name"), *text = json_find(named, "template");
        if (cJSON_IsString(name) && cJSON_IsString(text) && !strcmp(name->valuestring, "default"))
            return text->valuestring;
    }
    return NULL;
}

static int read_chat_template(struct tokenizer *t, struct folder *f, const cJSON *config, char *err, size_t err_bytes) {
    const char *text = config_template(config);
    struct bytes file = {0};
    int status = 0;
    if (folder_has(f, "chat_template.jinja")) {
        status = read_text(f, MAX_TEMPLATE_BYTES, &file, err, err_bytes);
        bytes_append(&file, "", 1);
        text = (const char *)file.data;
    }
    if (!status && text) {
        t->chat_template = strdup(text);
        if (!t->chat_template) status = fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the chat template");
    }
    free(file.data);
    return status;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

int tokenizer_open_json(struct tokenizer **out, const char *json, size_t bytes, char *err, size_t err_bytes) {
    *out = NULL;
    cJSON *root = NULL;
    int status = json_parse(&root, json, bytes, limits, err, err_bytes);
    if (status) return status;
    struct tokenizer *t = calloc(1, sizeof *t);
    status = t ? tokenizer__read_json(t, root, err, err_bytes)
               : fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the tokenizer");
    cJSON_Delete(root);
    if (status) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return 0;
}

int tokenizer_open(struct tokenizer **out, const char *folder, char *err, size_t err_bytes) {
    *out = NULL;
    struct folder f = {.path = folder};
    cJSON *config = NULL, *root = NULL;
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the tokenizer");

    int status = 0;
    if (folder_has(&f, "tokenizer_config.json")) status = json_parse_file(&config, f.file, limits, err, err_bytes);
    if (status) goto done;
    if (folder_has(&f, "tokenizer.json")) {
        char sentence[ERR_BYTES] = "";
        status = json_parse_file(&root, f.file, limits, err, err_bytes);
        if (status) goto done;
        status = tokenizer__read_json(t, root, sentence, sizeof sentence);
        if (status) fail_in(&f, status, sentence, err, err_bytes);
    } else if (folder_has(&f, "vocab.txt") && !folder_has(&f, "vocab.json")) {
        status = read_bert_files(t, &f, config, err, err_bytes);
    } else {
        status = read_model_files(t, &f, config, err, err_bytes);
    }
    if (!status) status = read_chat_template(t, &f, config, err, err_bytes);
done:
    cJSON_Delete(root);
    cJSON_Delete(config);
    if (status) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return 0;
}
