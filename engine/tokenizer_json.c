/* tokenizer_json.c - a tokenizer.json, as far as Qwen's and BERT's go; whatever else it asks for is refused with a
 * sentence. A BPE model:
 *
 *   model           BPE: vocab, merges ("a b" or ["a", "b"]), ignore_merges; unk_token, fuse_unk and byte_fallback
 *                   cannot matter, because every byte must have a token
 *   normalizer      null or NFC
 *   pre_tokenizer   Sequence of Split(Regex, Isolated) and ByteLevel without its own regex and prefix space
 *   post_processor  null, ByteLevel (it only trims offsets), "single" of TemplateProcessing, or a Sequence of these
 *   decoder         ByteLevel
 *   added_tokens    with all flags
 *
 * A WordPiece model:
 *
 *   model           WordPiece: vocab, unk_token, max_input_chars_per_word; continuing_subword_prefix is ##
 *   normalizer      BertNormalizer
 *   pre_tokenizer   BertPreTokenizer
 *   post_processor  null, BertProcessing, or "single" of TemplateProcessing
 *   decoder         WordPiece
 *
 * truncation and padding are the server's business and ignored, like in `transformers`. */
#include "engine/tokenizer_internal.h"
#include "engine/wordpiece.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <string.h>

#define EXCERPT 80 /* bytes of a value shown in a sentence */

/* The string "type" of an object, "" if there is none. */
static const char *type_of(const cJSON *object) {
    const cJSON *type = json_find(object, "type");
    return cJSON_IsString(type) ? type->valuestring : "";
}

static bool is_null(const cJSON *item) {
    return !item || cJSON_IsNull(item);
}

/* The members of a {"type": "Sequence", NAME: [...]}, else the item itself as a sequence of one. */
static const cJSON *sequence_first(const cJSON *item, const char *name, bool *is_sequence) {
    *is_sequence = !strcmp(type_of(item), "Sequence");
    if (!*is_sequence) return item;
    const cJSON *members = json_find(item, name);
    return cJSON_IsArray(members) ? members->child : NULL;
}

static int refuse(const char *part, const char *expected, const cJSON *found, char *err, size_t err_bytes) {
    char shown[EXCERPT];
    const char *type = type_of(found);
    return fail(err, err_bytes, STATUS_UNSUPPORTED, "%s: expected %s, found %s", part, expected,
                *type ? json_quote(type, shown, sizeof shown) : json_kind(found));
}

/* ---- the parts --------------------------------------------------------------------------------------------------- */

static int read_normalizer(struct tokenizer *t, const cJSON *item, char *err, size_t err_bytes) {
    if (is_null(item)) return 0;
    bool is_sequence;
    for (const cJSON *n = sequence_first(item, "normalizers", &is_sequence); n; n = is_sequence ? n->next : NULL) {
        if (strcmp(type_of(n), "NFC")) return refuse("normalizer", "NFC or null", n, err, err_bytes);
        t->nfc = true;
    }
    return 0;
}

static int read_split(struct tokenizer *t, const cJSON *split, char *err, size_t err_bytes) {
    const char *behavior = "", *pattern = NULL;
    bool invert = false;
    int status = json_get_string(split, "behavior", &behavior, err, err_bytes);
    if (!status) status = json_get_bool(split, "invert", &invert, err, err_bytes);
    if (!status) status = json_get_string(json_find(split, "pattern"), "Regex", &pattern, err, err_bytes);
    if (status) return status;
    char shown[EXCERPT];
    if (strcmp(behavior, "Isolated") || invert)
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "pre_tokenizer: expected a Split that is Isolated and not inverted, found \"%s\"%s",
                    json_quote(behavior, shown, sizeof shown), invert ? ", inverted" : "");
    if (!pattern)
        return fail(err, err_bytes, STATUS_UNSUPPORTED, "pre_tokenizer: expected a Split by a Regex, found none");
    return tokenizer__set_regex(t, pattern, err, err_bytes);
}

static int read_pre_tokenizer(struct tokenizer *t, const cJSON *item, char *err, size_t err_bytes) {
    static const char expected[] = "a Sequence of one Split and one ByteLevel";
    bool is_sequence;
    const cJSON *split = is_null(item) ? NULL : sequence_first(item, "pretokenizers", &is_sequence);
    const cJSON *bytes = split && is_sequence ? split->next : NULL;
    if (!bytes || bytes->next || strcmp(type_of(split), "Split") || strcmp(type_of(bytes), "ByteLevel"))
        return refuse("pre_tokenizer", expected, item, err, err_bytes);
    bool add_prefix_space = true, use_regex = true; /* Hugging Face's defaults */
    int status = json_get_bool(bytes, "add_prefix_space", &add_prefix_space, err, err_bytes);
    if (!status) status = json_get_bool(bytes, "use_regex", &use_regex, err, err_bytes);
    if (status) return status;
    if (add_prefix_space || use_regex)
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "pre_tokenizer: expected ByteLevel without add_prefix_space and use_regex, found %s",
                    add_prefix_space ? "add_prefix_space" : "use_regex");
    return read_split(t, split, err, err_bytes);
}

/* The ids of one special token of a template. */
static int template_ids(const cJSON *post, const cJSON *special, struct ids *out, char *err, size_t err_bytes) {
    char shown[EXCERPT];
    const char *name = "";
    int status = json_get_string(special, "id", &name, err, err_bytes);
    if (status) return status;
    const cJSON *ids = json_find(json_find(json_find(post, "special_tokens"), name), "ids"), *id;
    if (!cJSON_IsArray(ids))
        return fail(err, err_bytes, STATUS_INVALID, "post_processor: expected the ids of \"%s\", found %s",
                    json_quote(name, shown, sizeof shown), json_kind(ids));
    cJSON_ArrayForEach(id, ids) {
        if (!cJSON_IsNumber(id) || !(id->valuedouble >= 0 && id->valuedouble < BPE_MAX_IDS))
            return fail(err, err_bytes, STATUS_INVALID, "post_processor: expected an id from 0 to %d, found %s",
                        BPE_MAX_IDS - 1, json_show(id, shown, sizeof shown));
        ids_push(out, (int32_t)id->valuedouble);
    }
    return 0;
}

static int read_template(struct tokenizer *t, const cJSON *post, char *err, size_t err_bytes) {
    const cJSON *single = json_find(post, "single"), *part;
    bool after_text = false;
    cJSON_ArrayForEach(part, single) {
        const cJSON *special = json_find(part, "SpecialToken");
        if (special) {
            int status = template_ids(post, special, after_text ? &t->suffix : &t->prefix, err, err_bytes);
            if (status) return status;
        } else {
            if (after_text) return refuse("post_processor", "a template with one Sequence", post, err, err_bytes);
            after_text = true;
        }
    }
    if (!after_text) return refuse("post_processor", "a template with one Sequence", post, err, err_bytes);
    return 0;
}

/* BertProcessing: {"cls": ["[CLS]", 101], "sep": ["[SEP]", 102]}. */
static int read_bert_affix(const cJSON *post, const char *name, struct ids *out, char *err, size_t err_bytes) {
    const cJSON *pair = json_find(post, name), *id = cJSON_IsArray(pair) && pair->child ? pair->child->next : NULL;
    char shown[EXCERPT];
    if (!cJSON_IsNumber(id) || !(id->valuedouble >= 0 && id->valuedouble < BPE_MAX_IDS))
        return fail(err, err_bytes, STATUS_INVALID,
                    "post_processor: expected \"%s\" as a text and an id from 0 to %d, found %s", name, BPE_MAX_IDS - 1,
                    json_show(id ? id : pair, shown, sizeof shown));
    ids_push(out, (int32_t)id->valuedouble);
    return 0;
}

static int read_post_processor(struct tokenizer *t, const cJSON *item, char *err, size_t err_bytes) {
    if (is_null(item)) return 0;
    bool is_sequence, seen = false;
    for (const cJSON *p = sequence_first(item, "processors", &is_sequence); p; p = is_sequence ? p->next : NULL) {
        if (!strcmp(type_of(p), "ByteLevel") && !t->wordpiece) continue;
        if (!strcmp(type_of(p), "BertProcessing") && t->wordpiece && !seen) {
            seen = true;
            int status = read_bert_affix(p, "cls", &t->prefix, err, err_bytes);
            if (!status) status = read_bert_affix(p, "sep", &t->suffix, err, err_bytes);
            if (status) return status;
            continue;
        }
        if (strcmp(type_of(p), "TemplateProcessing") || seen)
            return refuse("post_processor",
                          t->wordpiece ? "null, or one BertProcessing or TemplateProcessing"
                                       : "null, ByteLevel or one TemplateProcessing",
                          p, err, err_bytes);
        seen = true;
        int status = read_template(t, p, err, err_bytes);
        if (status) return status;
    }
    return 0;
}

static int read_merge(struct tokenizer *t, const cJSON *merge, char *err, size_t err_bytes) {
    if (cJSON_IsString(merge)) {
        const char *text = merge->valuestring, *blank = strchr(text, ' ');
        if (blank && !strchr(blank + 1, ' '))
            return tokenizer__add_merge(t, text, (size_t)(blank - text), blank + 1, strlen(blank + 1), err, err_bytes);
    } else if (cJSON_IsArray(merge)) {
        const cJSON *left = merge->child, *right = left ? left->next : NULL;
        if (cJSON_IsString(left) && cJSON_IsString(right) && !right->next)
            return tokenizer__add_merge(t, left->valuestring, strlen(left->valuestring), right->valuestring,
                                        strlen(right->valuestring), err, err_bytes);
    }
    char shown[EXCERPT];
    return fail(err, err_bytes, STATUS_INVALID, "merge %zu: expected \"left right\" or [\"left\", \"right\"], found %s",
                t->bpe.n_merges + 1, json_show(merge, shown, sizeof shown));
}

static int read_model(struct tokenizer *t, const cJSON *model, char *err, size_t err_bytes) {
    const cJSON *vocab = json_find(model, "vocab"), *merges = json_find(model, "merges"), *dropout, *merge;
    if (*type_of(model) && strcmp(type_of(model), "BPE"))
        return refuse("model", "BPE or WordPiece", model, err, err_bytes);
    dropout = json_find(model, "dropout");
    if (!is_null(dropout) && !(cJSON_IsNumber(dropout) && dropout->valuedouble == 0))
        return fail(err, err_bytes, STATUS_UNSUPPORTED, "model: expected no dropout, found some");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof affixes / sizeof *affixes; i++) {
        const char *affix = "";
        char shown[EXCERPT];
        int status = json_get_string(model, affixes[i], &affix, err, err_bytes);
        if (status) return status;
        if (*affix)
            return fail(err, err_bytes, STATUS_UNSUPPORTED, "model: expected no %s, found \"%s\"", affixes[i],
                        json_quote(affix, shown, sizeof shown));
    }
    if (!cJSON_IsArray(merges))
        return fail(err, err_bytes, STATUS_INVALID, "model: expected an array of merges, found %s", json_kind(merges));

    int status = json_get_bool(model, "ignore_merges", &t->bpe.ignore_merges, err, err_bytes);
    if (!status) status = tokenizer__add_vocab(t, vocab, err, err_bytes);
    if (status) return status;
    cJSON_ArrayForEach(merge, merges) {
        status = read_merge(t, merge, err, err_bytes);
        if (status) return status;
    }
    return 0;
}

/* The parts of a byte-level BPE tokenizer. */
static int read_byte_level(struct tokenizer *t, const cJSON *root, const cJSON *model, char *err, size_t err_bytes) {
    if (strcmp(type_of(json_find(root, "decoder")), "ByteLevel"))
        return refuse("decoder", "ByteLevel", json_find(root, "decoder"), err, err_bytes);
    int n_tokens = cJSON_GetArraySize(json_find(model, "vocab"));
    int n_merges = cJSON_GetArraySize(json_find(model, "merges"));
    int status = tokenizer__begin(t, (size_t)n_tokens, (size_t)n_merges, err, err_bytes);
    if (!status) status = read_normalizer(t, json_find(root, "normalizer"), err, err_bytes);
    if (!status) status = read_pre_tokenizer(t, json_find(root, "pre_tokenizer"), err, err_bytes);
    return status ? status : read_model(t, model, err, err_bytes);
}

/* ---- BERT's parts ------------------------------------------------------------------------------------------------ */

/* Old files have no type; this member is WordPiece's alone. */
static bool is_wordpiece(const cJSON *model) {
    const char *type = type_of(model);
    return !strcmp(type, "WordPiece") || (!*type && json_find(model, "max_input_chars_per_word"));
}

static int read_bert_normalizer(struct wordpiece *w, const cJSON *item, char *err, size_t err_bytes) {
    if (strcmp(type_of(item), "BertNormalizer")) return refuse("normalizer", "BertNormalizer", item, err, err_bytes);
    int status = json_get_bool(item, "clean_text", &w->clean_text, err, err_bytes);
    if (!status) status = json_get_bool(item, "handle_chinese_chars", &w->chinese_chars, err, err_bytes);
    if (!status) status = json_get_bool(item, "lowercase", &w->lowercase, err, err_bytes);
    w->strip_accents = w->lowercase; /* unless the file says otherwise */
    if (!status) status = json_get_bool(item, "strip_accents", &w->strip_accents, err, err_bytes);
    return status;
}

static int read_bert_model(struct tokenizer *t, const cJSON *model, char *err, size_t err_bytes) {
    const char *prefix = WORDPIECE_PREFIX, *unknown = WORDPIECE_UNKNOWN;
    char shown[EXCERPT];
    int status = json_get_string(model, "continuing_subword_prefix", &prefix, err, err_bytes);
    if (!status) status = json_get_string(model, "unk_token", &unknown, err, err_bytes);
    if (!status)
        status = json_get_int(model, "max_input_chars_per_word", 1, WORDPIECE_MAX_WORD_CHARS,
                              &t->wordpiece->max_word_chars, err, err_bytes);
    if (status) return status;
    if (strcmp(prefix, WORDPIECE_PREFIX))
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "model: expected the continuing_subword_prefix \"" WORDPIECE_PREFIX "\", found \"%s\"",
                    json_quote(prefix, shown, sizeof shown));
    status = tokenizer__add_vocab(t, json_find(model, "vocab"), err, err_bytes);
    return status ? status : tokenizer__set_unknown(t, unknown, err, err_bytes);
}

static int read_bert_decoder(struct wordpiece *w, const cJSON *item, char *err, size_t err_bytes) {
    const char *prefix = WORDPIECE_PREFIX;
    if (strcmp(type_of(item), "WordPiece")) return refuse("decoder", "WordPiece", item, err, err_bytes);
    int status = json_get_bool(item, "cleanup", &w->cleanup, err, err_bytes);
    if (!status) status = json_get_string(item, "prefix", &prefix, err, err_bytes);
    if (!status && strcmp(prefix, WORDPIECE_PREFIX)) {
        char shown[EXCERPT];
        status = fail(err, err_bytes, STATUS_UNSUPPORTED,
                      "decoder: expected the prefix \"" WORDPIECE_PREFIX "\", found \"%s\"",
                      json_quote(prefix, shown, sizeof shown));
    }
    return status;
}

static int read_bert(struct tokenizer *t, const cJSON *root, const cJSON *model, char *err, size_t err_bytes) {
    int status = tokenizer__begin_wordpiece(t, (size_t)cJSON_GetArraySize(json_find(model, "vocab")), err, err_bytes);
    if (!status) status = read_bert_normalizer(t->wordpiece, json_find(root, "normalizer"), err, err_bytes);
    if (!status && strcmp(type_of(json_find(root, "pre_tokenizer")), "BertPreTokenizer"))
        status = refuse("pre_tokenizer", "BertPreTokenizer", json_find(root, "pre_tokenizer"), err, err_bytes);
    if (!status) status = read_bert_decoder(t->wordpiece, json_find(root, "decoder"), err, err_bytes);
    return status ? status : read_bert_model(t, model, err, err_bytes);
}

/* ---- the whole -----------------------------------------------------------------------------------------------------
 */

static int read_added(struct tokenizer *t, const cJSON *added, char *err, size_t err_bytes) {
    if (is_null(added)) return 0;
    if (!cJSON_IsArray(added))
        return fail(err, err_bytes, STATUS_INVALID, "added_tokens: expected an array, found %s", json_kind(added));
    const cJSON *token;
    cJSON_ArrayForEach(token, added) {
        int64_t id = -1;
        int status = json_get_int(token, "id", 0, BPE_MAX_IDS - 1, &id, err, err_bytes);
        if (!status) status = tokenizer__add_added(t, token, id, err, err_bytes);
        if (status) return status;
    }
    return 0;
}

int tokenizer__read_json(struct tokenizer *t, const cJSON *root, char *err, size_t err_bytes) {
    const cJSON *model = json_find(root, "model");
    if (!cJSON_IsObject(model))
        return fail(err, err_bytes, STATUS_INVALID, "expected an object with a \"model\", found %s", json_kind(root));
    int status = is_wordpiece(model) ? read_bert(t, root, model, err, err_bytes)
                                     : read_byte_level(t, root, model, err, err_bytes);
    if (!status) status = read_post_processor(t, json_find(root, "post_processor"), err, err_bytes);
    if (!status) status = read_added(t, json_find(root, "added_tokens"), err, err_bytes);
    return status ? status : tokenizer__finish(t, err, err_bytes);
}
