/* tokenizer.c - encoding and decoding, in the steps of Hugging Face's `tokenizers`.
 *
 * encode:  1  invalid UTF-8 becomes U+FFFD
 *          2  added tokens with normalized=false are cut out of the text        (tokenizer_added.c)
 *          3  what lies between them is normalized to NFC                       (tokenizer_nfc.c)
 *          4  added tokens with normalized=true are cut out of that
 *          5  the regex splits what remains into pieces                         (tokenizer_split.c)
 *          6  each piece is merged on its own                                   (bpe.c)
 *          A BERT tokenizer has its own 3, 5 and 6                              (wordpiece.c)
 * decode:  the tokens' bytes, one after the other, in which invalid UTF-8 becomes U+FFFD. */
#include "engine/tokenizer_internal.h"
#include "engine/wordpiece.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>

void ids_push(struct ids *ids, int32_t id) {
    if (ids->n == ids->capacity) {
        ids->capacity += ids->capacity / 2 + 32;
        ids->data = realloc(ids->data, ids->capacity * sizeof *ids->data);
        CHECK(ids->data);
    }
    ids->data[ids->n++] = id;
}

void ids_deinit(struct ids *ids) {
    free(ids->data);
    *ids = (struct ids){0};
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

/* One call's state. */
struct encoder {
    const struct tokenizer *t;
    bool normalized_tokens;     /* step 4 is wanted */
    struct bytes normal;        /* owned: the text after step 3 */
    struct bpe_scratch scratch; /* owned */
    struct ids *out;
};

/* Steps 5 and 6. */
static int encode_pieces(struct encoder *e, const uint8_t *p, size_t n) {
    const struct tokenizer *t = e->t;
    size_t end;
    if (t->wordpiece) {
        wordpiece_encode(t->wordpiece, &t->bpe, p, n, e->out);
        return 0;
    }
    if (!t->regex) {
        for (size_t at = 0; at < n; at = end) {
            end = tokenizer__split_qwen(t->unicode, p, at, n);
            bpe_encode(&t->bpe, p + at, end - at, &e->scratch, e->out);
        }
        return 0;
    }
    struct split_walk *walk = tokenizer__walk_open(t->regex, t->unicode, p, n);
    int status = 0;
    for (size_t at = 0; at < n && !(status = tokenizer__walk_next(walk, at, &end)); at = end)
        bpe_encode(&t->bpe, p + at, end - at, &e->scratch, e->out);
    tokenizer__walk_close(walk);
    return status;
}

/* Steps 3 to 6 for what lies between two added tokens. */
static int encode_between(struct encoder *e, const uint8_t *p, size_t n) {
    const struct tokenizer *t = e->t;
    if (t->wordpiece || (t->nfc && tokenizer__needs_nfc(t->unicode, p, n))) {
        e->normal.n = 0;
        if (t->wordpiece)
            wordpiece_normalize(t->wordpiece, t->unicode, p, n, &e->normal);
        else
            tokenizer__nfc(t->unicode, p, n, &e->normal);
        p = e->normal.data, n = e->normal.n;
    }
    if (!e->normalized_tokens || !t->normalized.n) return encode_pieces(e, p, n);

    struct added_search search = {.p = p, .n = n, .to = n};
    size_t done = 0, start;
    const struct added_token *added;
    int status = 0;
    while (!status && (added = tokenizer__added_next(&t->normalized, t->unicode, &search, &start))) {
        if (done < start) status = encode_pieces(e, p + done, start - done);
        ids_push(e->out, added->id);
        done = search.done;
    }
    return status ? status : encode_pieces(e, p + done, n - done);
}

/* Steps 2 to 6. The text is valid UTF-8. */
static int encode_valid(struct encoder *e, const uint8_t *p, size_t n, const struct text_span *plain, size_t n_plain) {
    const struct tokenizer *t = e->t;
    struct added_search search = {.p = p, .n = n};
    size_t done = 0, start;
    int status = 0;
    for (size_t i = 0; i <= n_plain && !status; i++) { /* the gap before plain[i], and the one after the last */
        if (i > 0 && search.from < plain[i - 1].end) search.from = plain[i - 1].end;
        search.to = i < n_plain ? plain[i].start : n;
        const struct added_token *added;
        while (!status && (added = tokenizer__added_next(&t->raw, t->unicode, &search, &start))) {
            if (done < start) status = encode_between(e, p + done, start - done);
            ids_push(e->out, added->id);
            done = search.done;
        }
    }
    return status ? status : encode_between(e, p + done, n - done);
}

static int encode(const struct tokenizer *t, const uint8_t *p, size_t n, const struct text_span *plain, size_t n_plain,
                  struct ids *out) {
    if (n > INT32_MAX) return STATUS_TOO_LARGE;
    /* A normalized text has no spans of its own, so with spans step 4 is left out; Qwen has no such tokens. */
    struct encoder e = {.t = t, .normalized_tokens = n_plain == 0, .out = out};
    size_t n_before = out->n;
    int status = encode_valid(&e, p, n, plain, n_plain);
    if (status) out->n = n_before;
    free(e.normal.data);
    bpe_scratch_deinit(&e.scratch);
    return status ? STATUS_TOO_LARGE : 0;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes, bool parse_special, struct ids *out) {
    const uint8_t *p = (const uint8_t *)text;
    struct bytes lossy = {0};
    if (utf8_valid_bytes(p, bytes) < bytes) {
        utf8_append_lossy(&lossy, p, bytes);
        p = lossy.data, bytes = lossy.n;
    }
    struct text_span all = {0, bytes};
    int status = encode(t, p, bytes, &all, parse_special ? 0 : 1, out);
    free(lossy.data);
    return status;
}

int tokenizer_encode_spans(const struct tokenizer *t, const char *text, size_t bytes, const struct text_span *plain,
                           size_t n_plain, struct ids *out) {
    CHECK_EQ(utf8_valid_bytes((const uint8_t *)text, bytes), bytes);
    for (size_t i = 0; i < n_plain; i++) {
        CHECK_LE(i ? plain[i - 1].end : 0, plain[i].start);
        CHECK_LE(plain[i].start, plain[i].end);
        CHECK_LE(plain[i].end, bytes);
    }
    return encode(t, (const uint8_t *)text, bytes, plain, n_plain, out);
}

void tokenizer_prefix(const struct tokenizer *t, struct ids *out) {
    for (size_t i = 0; i < t->prefix.n; i++) ids_push(out, t->prefix.data[i]);
}

void tokenizer_suffix(const struct tokenizer *t, struct ids *out) {
    for (size_t i = 0; i < t->suffix.n; i++) ids_push(out, t->suffix.data[i]);
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static const struct added_token *added_by_id(const struct tokenizer *t, int32_t id) {
    size_t low = 0, high = t->n_added;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (t->added[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < t->n_added && t->added[low].id == id ? &t->added[low] : NULL;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *bytes) {
    const struct added_token *added = added_by_id(t, id);
    if (added) {
        *bytes = added->decoded.n;
        return (const char *)added->decoded.data;
    }
    if (id < 0 || id >= t->bpe.n_ids) {
        *bytes = 0;
        return "";
    }
    *bytes = t->bpe.tokens[id].bytes;
    return t->bpe.arena + t->bpe.tokens[id].start;
}

int32_t tokenizer_id(const struct tokenizer *t, const char *text, size_t bytes) {
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].bytes == bytes && !memcmp(t->added[i].content, text, bytes)) return t->added[i].id;
    return bpe_find(&t->bpe, text, bytes);
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id) {
    const struct added_token *added = added_by_id(t, id);
    return added && added->special;
}

int32_t tokenizer_unknown(const struct tokenizer *t) {
    return t->wordpiece ? t->wordpiece->unknown : -1;
}

int tokenizer_size(const struct tokenizer *t) {
    return t->n_ids;
}

const char *tokenizer_chat_template(const struct tokenizer *t) {
    return t->chat_template;
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

const char *tokenizer__piece(const struct tokenizer *t, int32_t id, bool first, struct bytes *scratch, size_t *bytes) {
    const char *token = tokenizer_bytes(t, id, bytes);
    if (!t->wordpiece || !*bytes) return token;
    scratch->n = 0;
    wordpiece_decode(t->wordpiece, token, *bytes, first, scratch);
    *bytes = scratch->n;
    return scratch->n ? (const char *)scratch->data : "";
}

char *tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, size_t *bytes) {
    struct bytes raw = {0}, text = {0}, piece = {0};
    bool first = true;
    for (size_t i = 0; i < n; i++) {
        if (skip_special && tokenizer_is_special(t, ids[i])) continue;
        size_t token_bytes;
        const char *token = tokenizer__piece(t, ids[i], first, &piece, &token_bytes);
        bytes_append(&raw, token, token_bytes);
        first = first && !token_bytes;
    }
    free(piece.data);
    utf8_append_lossy(&text, raw.data, raw.n);
    free(raw.data);
    bytes_reserve(&text, 1)[text.n] = 0;
    if (bytes) *bytes = text.n;
    return (char *)text.data;
}
