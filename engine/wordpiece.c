/* wordpiece.c - BERT's words and their pieces, in the steps of Hugging Face's `tokenizers`.
 *
 * normalize:  1  clean_text: control characters and U+FFFD go, white space becomes a blank
 *             2  handle_chinese_chars: a blank on either side of each CJK ideograph
 *             3  strip_accents: canonical decomposition (NFD) without its nonspacing marks
 *             4  lowercase, character by character
 * encode:     5  white space parts words; each punctuation character is a word
 *             6  a word becomes the longest token that it begins with, its rest the longest token that "##" and the
 * rest begin with, and so on; a word that this cannot spell, or that is too long, becomes the unknown token decode:
 * tokens after blanks, "##" without one; English punctuation drawn to the word before (cleanup) */
#include "engine/wordpiece.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Hugging Face's default; the array in encode_word would hold WORDPIECE_MAX_WORD_CHARS. */
#define DEFAULT_WORD_CHARS 100

struct wordpiece *wordpiece_open(void) {
    struct wordpiece *w = calloc(1, sizeof *w);
    uint8_t *unicode = malloc(UNICODE_SIZE);
    if (!w || !unicode) {
        free(w);
        free(unicode);
        return NULL;
    }
    for (size_t i = 0; i < wordpiece__n_unicode_runs; i++) {
        uint32_t start = wordpiece__unicode_runs[i] >> 8, flags = wordpiece__unicode_runs[i] & 0xFF;
        uint32_t end = i + 1 < wordpiece__n_unicode_runs ? wordpiece__unicode_runs[i + 1] >> 8 : UNICODE_SIZE;
        memset(unicode + start, (int)flags, end - start);
    }
    for (size_t i = 0; i < wordpiece__n_newer_cases; i++)
        for (int32_t c = wordpiece__newer_cases[i].first; c <= wordpiece__newer_cases[i].last; c++)
            unicode[c] |= WORDPIECE_NEWER_CASE;
    *w = (struct wordpiece){
        .unicode = unicode,
        .clean_text = true,
        .chinese_chars = true,
        .strip_accents = true,
        .lowercase = true,
        .max_word_chars = DEFAULT_WORD_CHARS,
        .unknown = -1,
        .cleanup = true,
    };
    return w;
}

void wordpiece_close(struct wordpiece *w) {
    if (!w) return;
    free(w->unicode);
    free(w);
}

/* ---- normalizing ------------------------------------------------------------------------------------------------- */

/* One call's state. */
struct normalizer {
    const struct wordpiece *w;
    const uint8_t *unicode; /* the tokenizer's table */
    struct bytes *out;
    int32_t *points; /* owned: decomposed characters whose marks are not in order yet; only the first may be no mark */
    size_t n, capacity;
};

static int32_t lower(const struct wordpiece *w, int32_t c) {
    if (!(w->unicode[c] & WORDPIECE_NEWER_CASE)) return utf8proc_tolower(c);
    for (size_t i = 0;; i++) {
        const struct wordpiece_case *k = &wordpiece__newer_cases[i];
        if (c >= k->first && c <= k->last) return c + k->delta;
    }
}

/* The end of step 3, and step 4. */
static void put(struct normalizer *z, int32_t c) {
    if (z->w->strip_accents && z->w->unicode[c] & WORDPIECE_MARK) return;
    bytes_reserve(z->out, 4);
    if (c == 0x130 && z->w->lowercase) { /* the one letter whose lower case is two characters: i and a dot above */
        bytes_append(z->out, "i\xCC\x87", 3);
        return;
    }
    z->out->n += utf8_encode(z->out->data + z->out->n, z->w->lowercase ? lower(z->w, c) : c);
}

static void put_points(struct normalizer *z) {
    tokenizer__order(z->points, z->n);
    for (size_t i = 0; i < z->n; i++) put(z, z->points[i]);
    z->n = 0;
}

/* Steps 3 and 4 of one character. */
static void feed(struct normalizer *z, int32_t c) {
    if (!z->w->strip_accents || c < 0xC0 || z->unicode[c] & NFC_INERT) {
        put_points(z);
        put(z, c);
        return;
    }
    int32_t parts[MAX_DECOMPOSITION];
    size_t n = tokenizer__decompose(c, parts);
    if (!utf8proc_get_property(parts[0])->combining_class) put_points(z); /* marks do not move across it */
    if (z->capacity - z->n < n) {
        z->capacity = 2 * z->capacity + 64;
        z->points = realloc(z->points, z->capacity * sizeof *z->points);
        CHECK(z->points);
    }
    memcpy(z->points + z->n, parts, n * sizeof *parts);
    z->n += n;
}

static bool is_chinese(int32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

void wordpiece_normalize(const struct wordpiece *w, const uint8_t *unicode, const uint8_t *p, size_t n,
                         struct bytes *out) {
    struct normalizer z = {.w = w, .unicode = unicode, .out = out};
    bytes_reserve(out, n);
    for (size_t at = 0; at < n;) {
        int32_t c;
        at += utf8_decode_valid(p + at, &c);
        uint8_t flags = w->unicode[c];
        if (w->clean_text && flags & WORDPIECE_REMOVED) continue;
        if (w->clean_text && flags & WORDPIECE_SPACE) c = ' ';
        bool blanks = w->chinese_chars && c >= 0x3400 && is_chinese(c);
        if (blanks) feed(&z, ' ');
        feed(&z, c);
        if (blanks) feed(&z, ' ');
    }
    put_points(&z);
    free(z.points);
}

/* ---- words and pieces -------------------------------------------------------------------------------------------- */

/* Start of the character that ends at p[end], above `start`, which is where one begins. */
static size_t char_before(const uint8_t *p, size_t start, size_t end) {
    do end--;
    while (end > start && (p[end] & 0xC0) == 0x80);
    return end;
}

/* Step 6 for a word of at most WORDPIECE_MAX_WORD_CHARS. */
static void encode_word(const struct wordpiece *w, const struct bpe *vocab, const uint8_t *p, size_t n,
                        struct ids *out) {
    uint8_t buffer[WORDPIECE_PREFIX_BYTES + 4 * WORDPIECE_MAX_WORD_CHARS];
    uint8_t *word = buffer + WORDPIECE_PREFIX_BYTES;
    memcpy(word, p, n);
    size_t n_before = out->n;
    for (size_t start = 0, end; start < n; start = end) {
        size_t prefix = start ? WORDPIECE_PREFIX_BYTES : 0;
        const uint8_t *piece = word + start - prefix;
        /* The prefix is written over what has been spelled. */
        memcpy(word + start - prefix, WORDPIECE_PREFIX, prefix);
        int32_t id = -1;
        end = n;
        if (n - start > vocab->longest) end = char_before(word, start, start + vocab->longest + 1);
        while (end > start && (id = bpe_find(vocab, piece, prefix + end - start)) < 0)
            end = char_before(word, start, end);
        if (end == start) {
            out->n = n_before;
            ids_push(out, w->unknown);
            return;
        }
        ids_push(out, id);
    }
}

void wordpiece_encode(const struct wordpiece *w, const struct bpe *vocab, const uint8_t *p, size_t n, struct ids *out) {
    for (size_t at = 0, end; at < n; at = end) {
        int32_t c;
        end = at + utf8_decode_valid(p + at, &c);
        if (w->unicode[c] & WORDPIECE_SPACE) continue;
        int64_t n_chars = 1;
        for (size_t next; !(w->unicode[c] & WORDPIECE_PUNCTUATION) && end < n; end = next, n_chars++) {
            next = end + utf8_decode_valid(p + end, &c);
            if (w->unicode[c] & (WORDPIECE_SPACE | WORDPIECE_PUNCTUATION)) break;
        }
        if (n_chars > w->max_word_chars)
            ids_push(out, w->unknown);
        else
            encode_word(w, vocab, p + at, end - at, out);
    }
}

bool wordpiece_spells(const struct wordpiece *w, const uint8_t *token, size_t n) {
    bool continues = n >= WORDPIECE_PREFIX_BYTES && !memcmp(token, WORDPIECE_PREFIX, WORDPIECE_PREFIX_BYTES);
    size_t at = continues ? WORDPIECE_PREFIX_BYTES : 0, n_chars = 0, n_parting = 0;
    while (at < n) {
        int32_t c;
        at += utf8_decode_valid(token + at, &c);
        n_chars++;
        n_parting += (w->unicode[c] & (WORDPIECE_SPACE | WORDPIECE_PUNCTUATION)) != 0;
    }
    return n_chars > 0 && (n_parting == 0 || (n_chars == 1 && !continues));
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

/* Replaces `old` in text[from..text->n) by `new`, which is no longer. */
static void replace(struct bytes *text, size_t from, const char *old, const char *new) {
    size_t n_old = strlen(old), n_new = strlen(new), to = from;
    while (from < text->n) {
        if (text->n - from >= n_old && !memcmp(text->data + from, old, n_old)) {
            memcpy(text->data + to, new, n_new);
            from += n_old, to += n_new;
        } else {
            text->data[to++] = text->data[from++];
        }
    }
    text->n = to;
}

void wordpiece_decode(const struct wordpiece *w, const char *token, size_t n, bool first, struct bytes *out) {
    static const char *const cleanups[][2] = {
        {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},    {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
    };
    size_t from = out->n;
    if (!first && n >= WORDPIECE_PREFIX_BYTES && !memcmp(token, WORDPIECE_PREFIX, WORDPIECE_PREFIX_BYTES)) {
        bytes_append(out, token + WORDPIECE_PREFIX_BYTES, n - WORDPIECE_PREFIX_BYTES);
    } else {
        bytes_append(out, " ", !first);
        bytes_append(out, token, n);
    }
    if (!w->cleanup) return;
    for (size_t i = 0; i < sizeof cleanups / sizeof *cleanups; i++) replace(out, from, cleanups[i][0], cleanups[i][1]);
}
