/* tokenizer_build.c - the parts of a tokenizer, checked as they are added, whatever files they come from.
 *
 * Token files are text, so bytes are written in the "byte-level alphabet" of GPT-2: printable Latin-1 characters stand
 * for themselves and the other 68 bytes, in order, for U+0100 to U+0143 (a blank is U+0120). WordPiece's files have no
 * such alphabet: a token is its own text. */
#include "engine/tokenizer_internal.h"
#include "engine/wordpiece.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <stdlib.h>
#include <string.h>

#define EXCERPT 80 /* bytes of a token shown in a sentence */

/* The byte that c stands for, -1 if it is not in the alphabet. */
static int alphabet_byte(int32_t c) {
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255)) return c;
    int k = c - 256;
    if (k < 0 || k > 67) return -1;
    return k < 33 ? k : k == 33 ? 127 : k < 67 ? 128 + k - 34 : 173;
}

/* Appends the bytes of alphabet text; false (and nothing appended) if a character is not in the alphabet. */
static bool append_alphabet(struct bytes *b, const char *text, size_t n) {
    size_t n_before = b->n;
    bytes_reserve(b, n);
    for (size_t i = 0; i < n;) {
        int32_t c;
        i += utf8_decode((const uint8_t *)text + i, n - i, &c);
        int byte = alphabet_byte(c);
        if (byte < 0) {
            b->n = n_before;
            return false;
        }
        b->data[b->n++] = (uint8_t)byte;
    }
    return true;
}

/* Appends what a token of the vocabulary stands for; false (and nothing appended) if it cannot be one. */
static bool append_token(const struct tokenizer *t, struct bytes *b, const char *text, size_t n) {
    if (!t->wordpiece) return append_alphabet(b, text, n);
    bytes_append(b, text, n);
    return true;
}

int tokenizer__begin(struct tokenizer *t, size_t n_tokens, size_t n_merges, char *err, size_t err_bytes) {
    t->unicode = malloc(UNICODE_SIZE);
    if (!t->unicode || bpe_init(&t->bpe, n_tokens, n_merges))
        return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the tokenizer");
    for (size_t i = 0; i < tokenizer__n_unicode_runs; i++) {
        uint32_t start = tokenizer__unicode_runs[i] >> 8, flags = tokenizer__unicode_runs[i] & 0xFF;
        uint32_t end = i + 1 < tokenizer__n_unicode_runs ? tokenizer__unicode_runs[i + 1] >> 8 : UNICODE_SIZE;
        memset(t->unicode + start, (int)flags, end - start);
    }
    return 0;
}

int tokenizer__add_token(struct tokenizer *t, int32_t id, const char *text, char *err, size_t err_bytes) {
    char shown[EXCERPT];
    struct bytes bytes = {0};
    int status;
    json_quote(text, shown, sizeof shown);
    if (append_token(t, &bytes, text, strlen(text))) {
        status = bpe_add_token(&t->bpe, id, bytes.data, bytes.n);
        if (status == STATUS_INVALID)
            fail(err, err_bytes, status, "token %d: expected an id and a text that come once, found \"%s\"", id, shown);
        else if (status)
            fail(err, err_bytes, status, "token %d, \"%s\", of %zu bytes: %s", id, shown, bytes.n, status_text(status));
    } else {
        status = fail(err, err_bytes, STATUS_INVALID,
                      "token %d: expected the byte-level alphabet of GPT-2, found \"%s\"", id, shown);
    }
    free(bytes.data);
    return status;
}

int tokenizer__add_vocab(struct tokenizer *t, const cJSON *vocab, char *err, size_t err_bytes) {
    if (!cJSON_IsObject(vocab))
        return fail(err, err_bytes, STATUS_INVALID, "the vocabulary: expected an object, found %s", json_kind(vocab));
    const cJSON *entry;
    cJSON_ArrayForEach(entry, vocab) {
        if (!cJSON_IsNumber(entry) || !(entry->valuedouble >= 0 && entry->valuedouble < BPE_MAX_IDS) ||
            entry->valuedouble != (int)entry->valuedouble) {
            char shown[EXCERPT], found[EXCERPT];
            return fail(err, err_bytes, STATUS_INVALID, "token \"%s\": expected an id from 0 to %d, found %s",
                        json_quote(entry->string, shown, sizeof shown), BPE_MAX_IDS - 1,
                        json_show(entry, found, sizeof found));
        }
        int status = tokenizer__add_token(t, (int32_t)entry->valuedouble, entry->string, err, err_bytes);
        if (status) return status;
    }
    return 0;
}

int tokenizer__add_merge(struct tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right,
                         char *err, size_t err_bytes) {
    struct bytes bytes = {0};
    int status = STATUS_NOT_FOUND;
    if (append_alphabet(&bytes, left, n_left)) {
        size_t split = bytes.n;
        if (append_alphabet(&bytes, right, n_right))
            status = bpe_add_merge(&t->bpe, bytes.data, split, bytes.data + split, bytes.n - split);
    }
    if (status == STATUS_NOT_FOUND) {
        char shown[EXCERPT];
        bytes.n = 0;
        utf8_append_lossy(&bytes, (const uint8_t *)left, n_left);
        bytes_append(&bytes, " ", 1);
        utf8_append_lossy(&bytes, (const uint8_t *)right, n_right);
        bytes_append(&bytes, "", 1);
        fail(err, err_bytes, STATUS_INVALID, "merge %zu: expected two tokens whose union is a token, found \"%s\"",
             t->bpe.n_merges + 1, json_quote((const char *)bytes.data, shown, sizeof shown));
        status = STATUS_INVALID;
    } else if (status) {
        fail(err, err_bytes, status, "merge %zu: %s", t->bpe.n_merges + 1, status_text(status));
    }
    free(bytes.data);
    return status;
}

int tokenizer__set_regex(struct tokenizer *t, const char *pattern, char *err, size_t err_bytes) {
    if (!strcmp(pattern, QWEN_REGEX)) return 0;
    return tokenizer__regex_open(&t->regex, pattern, err, err_bytes);
}

int tokenizer__begin_wordpiece(struct tokenizer *t, size_t n_tokens, char *err, size_t err_bytes) {
    t->wordpiece = wordpiece_open();
    if (!t->wordpiece) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the tokenizer");
    return tokenizer__begin(t, n_tokens, 0, err, err_bytes);
}

int tokenizer__set_unknown(struct tokenizer *t, const char *unknown, char *err, size_t err_bytes) {
    char shown[EXCERPT];
    t->wordpiece->unknown = bpe_find(&t->bpe, unknown, strlen(unknown));
    if (t->wordpiece->unknown < 0)
        return fail(err, err_bytes, STATUS_INVALID, "the vocabulary: expected the unknown token \"%s\", found none",
                    json_quote(unknown, shown, sizeof shown));
    return 0;
}

/* ---- added tokens ------------------------------------------------------------------------------------------------ */

int tokenizer__add_added(struct tokenizer *t, const cJSON *object, int64_t id, char *err, size_t err_bytes) {
    const char *content = NULL;
    struct added_token token = {.id = (int32_t)id};
    if (!cJSON_IsObject(object))
        return fail(err, err_bytes, STATUS_INVALID, "added token %lld: expected an object, found %s", (long long)id,
                    json_kind(object));
    int status = json_get_string(object, "content", &content, err, err_bytes);
    if (!status) status = json_get_bool(object, "special", &token.special, err, err_bytes);
    token.normalized = !token.special; /* the defaults of Hugging Face's AddedToken */
    if (!status) status = json_get_bool(object, "normalized", &token.normalized, err, err_bytes);
    if (!status) status = json_get_bool(object, "lstrip", &token.lstrip, err, err_bytes);
    if (!status) status = json_get_bool(object, "rstrip", &token.rstrip, err, err_bytes);
    if (!status) status = json_get_bool(object, "single_word", &token.single_word, err, err_bytes);
    if (status) return status;
    token.bytes = content ? strlen(content) : 0;
    if (token.bytes == 0 || token.bytes > MAX_ADDED_BYTES)
        return fail(err, err_bytes, STATUS_INVALID, "added token %lld: expected a content of 1 to %d bytes, found %zu",
                    (long long)id, MAX_ADDED_BYTES, token.bytes);
    if (id < 0 || id >= BPE_MAX_IDS)
        return fail(err, err_bytes, STATUS_INVALID, "added token: expected an id from 0 to %d, found %lld",
                    BPE_MAX_IDS - 1, (long long)id);
    if (t->n_added == MAX_ADDED_TOKENS)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "expected at most %d added tokens", MAX_ADDED_TOKENS);
    if (t->n_added == t->added_capacity) {
        size_t capacity = 2 * t->added_capacity + 32;
        struct added_token *added = realloc(t->added, capacity * sizeof *added);
        if (!added) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the added tokens");
        t->added = added;
        t->added_capacity = capacity;
    }
    token.content = strdup(content);
    if (!token.content) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the added tokens");
    token.pattern = (const uint8_t *)token.content;
    token.pattern_bytes = token.bytes;
    if (token.normalized && (t->nfc || t->wordpiece)) {
        if (t->wordpiece)
            wordpiece_normalize(t->wordpiece, t->unicode, token.pattern, token.pattern_bytes, &token.own);
        else
            tokenizer__nfc(t->unicode, token.pattern, token.pattern_bytes, &token.own);
        if (!token.own.n) {
            char shown[EXCERPT];
            status = fail(err, err_bytes, STATUS_INVALID,
                          "added token \"%s\": expected a text of which normalizing leaves something",
                          json_quote(content, shown, sizeof shown));
            free(token.content);
            free(token.own.data);
            return status;
        }
        token.pattern = token.own.data;
        token.pattern_bytes = token.own.n;
    }
    /* Hugging Face decodes added tokens like any other: byte-level text where all of it is, itself otherwise. */
    if (!append_token(t, &token.decoded, (const char *)token.pattern, token.pattern_bytes))
        bytes_append(&token.decoded, token.pattern, token.pattern_bytes);
    t->added[t->n_added++] = token;
    return 0;
}

static int by_id(const void *a, const void *b) {
    int32_t x = ((const struct added_token *)a)->id, y = ((const struct added_token *)b)->id;
    return x < y ? -1 : x > y;
}

/* An added token may be in the vocabulary, under the same id. Plain text must not lead to it if it is special. */
static int check_added(struct tokenizer *t, const struct added_token *token, char *err, size_t err_bytes) {
    char shown[EXCERPT];
    json_quote(token->content, shown, sizeof shown);
    struct bytes bytes = {0};
    int32_t there = -1;
    if (append_token(t, &bytes, token->content, token->bytes)) there = bpe_find(&t->bpe, bytes.data, bytes.n);
    free(bytes.data);
    if (there < 0) {
        if (token->id < t->bpe.n_ids && t->bpe.tokens[token->id].bytes)
            return fail(err, err_bytes, STATUS_INVALID,
                        "added token \"%s\": expected an id of its own, found %d, which the vocabulary has", shown,
                        token->id);
        return 0;
    }
    if (there != token->id)
        return fail(err, err_bytes, STATUS_INVALID,
                    "added token \"%s\": expected its id in the vocabulary, %d, found %d", shown, there, token->id);
    if (t->wordpiece) {
        const uint8_t *content = (const uint8_t *)token->content;
        if (token->special && there != t->wordpiece->unknown && wordpiece_spells(t->wordpiece, content, token->bytes))
            return fail(err, err_bytes, STATUS_UNSUPPORTED,
                        "added token \"%s\": expected a special token with punctuation, found one that text can spell",
                        shown);
        return 0;
    }
    if (token->special && bpe_reaches(&t->bpe, there))
        return fail(
            err, err_bytes, STATUS_UNSUPPORTED,
            "added token \"%s\": expected a special token that no merges lead to, found one that text can spell",
            shown);
    if (token->special) t->bpe.whole[there] = 0;
    return 0;
}

/* What stands around a text must have an embedding. */
static int check_affix(const struct tokenizer *t, const struct ids *affix, char *err, size_t err_bytes) {
    for (size_t i = 0; i < affix->n; i++)
        if (affix->data[i] >= t->n_ids)
            return fail(err, err_bytes, STATUS_INVALID, "post_processor: expected ids below %d, found %d", t->n_ids,
                        affix->data[i]);
    return 0;
}

/* No two patterns of one set may be the same. */
static int check_set(const struct added_set *s, char *err, size_t err_bytes) {
    for (size_t i = 1; i < s->n; i++) {
        const struct added_token *a = s->sorted[i - 1], *b = s->sorted[i];
        char shown[EXCERPT];
        if (a->pattern_bytes == b->pattern_bytes && !memcmp(a->pattern, b->pattern, a->pattern_bytes))
            return fail(err, err_bytes, STATUS_INVALID,
                        "added tokens %d and %d: expected different texts, found \"%s\"", a->id, b->id,
                        json_quote(b->content, shown, sizeof shown));
    }
    return 0;
}

int tokenizer__finish(struct tokenizer *t, char *err, size_t err_bytes) {
    int missing = 0;
    int status = t->wordpiece ? 0 : bpe_finish(&t->bpe, &missing);
    if (status == STATUS_INVALID)
        return fail(err, err_bytes, status, "the vocabulary: expected a token for every byte, found none for 0x%02X",
                    missing);
    if (status) return fail(err, err_bytes, status, "out of memory for the tokenizer");

    if (t->n_added) qsort(t->added, t->n_added, sizeof *t->added, by_id);
    t->n_ids = t->bpe.n_ids;
    for (size_t i = 0; i < t->n_added; i++) {
        if (i > 0 && t->added[i - 1].id == t->added[i].id)
            return fail(err, err_bytes, STATUS_INVALID, "added tokens: expected each id once, found %d twice",
                        t->added[i].id);
        status = check_added(t, &t->added[i], err, err_bytes);
        if (status) return status;
        if (t->added[i].id >= t->n_ids) t->n_ids = t->added[i].id + 1;
    }
    if (tokenizer__added_set_init(&t->raw, t->added, t->n_added, false) ||
        tokenizer__added_set_init(&t->normalized, t->added, t->n_added, true))
        return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the added tokens");
    status = check_set(&t->raw, err, err_bytes);
    if (!status) status = check_set(&t->normalized, err, err_bytes);
    if (!status) status = check_affix(t, &t->prefix, err, err_bytes);
    return status ? status : check_affix(t, &t->suffix, err, err_bytes);
}

void tokenizer_close(struct tokenizer *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n_added; i++) {
        free(t->added[i].content);
        free(t->added[i].own.data);
        free(t->added[i].decoded.data);
    }
    free(t->added);
    tokenizer__added_set_deinit(&t->raw);
    tokenizer__added_set_deinit(&t->normalized);
    tokenizer__regex_close(t->regex);
    wordpiece_close(t->wordpiece);
    bpe_deinit(&t->bpe);
    ids_deinit(&t->prefix);
    ids_deinit(&t->suffix);
    free(t->unicode);
    free(t->chat_template);
    free(t);
}
