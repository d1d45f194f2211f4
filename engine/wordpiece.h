/* wordpiece.h - the tokenizer of BERT's encoders: BertNormalizer, BertPreTokenizer, WordPiece and its decoder, as in
 * Hugging Face's `tokenizers`. Private to the tokenizer's files; others see it through tokenizer.h.
 *
 * The vocabulary is that of struct bpe, with texts as they are and without merges; added tokens are
 * tokenizer_added.c's.
 */
#pragma once

#include "engine/tokenizer_internal.h"

#define WORDPIECE_PREFIX         "##" /* of a piece that continues a word */
#define WORDPIECE_PREFIX_BYTES   2
#define WORDPIECE_UNKNOWN        "[UNK]" /* unless a file names another */
#define WORDPIECE_MAX_WORD_CHARS 256 /* a file may not ask for longer words: a word costs the square of its length */

/* What Hugging Face thinks of a code point; wordpiece_unicode.c has all of them. */
enum {
    WORDPIECE_REMOVED = 1,     /* clean_text drops it: control, format, private use, U+FFFD */
    WORDPIECE_SPACE = 2,       /* parts words; clean_text makes it a blank */
    WORDPIECE_PUNCTUATION = 4, /* a word of its own */
    WORDPIECE_MARK = 8,        /* strip_accents drops it */
    WORDPIECE_NEWER_CASE = 16, /* set when opening: among wordpiece__newer_cases */
};
extern const uint32_t wordpiece__unicode_runs[];
extern const size_t wordpiece__n_unicode_runs;

/* Capital letters that older versions of utf8proc do not know: the lower case of first..last is `delta` away. */
struct wordpiece_case {
    int32_t first, last, delta;
};
extern const struct wordpiece_case wordpiece__newer_cases[];
extern const size_t wordpiece__n_newer_cases;

struct wordpiece {
    uint8_t *unicode; /* owned [UNICODE_SIZE] */
    bool clean_text, chinese_chars, strip_accents, lowercase;
    int64_t max_word_chars; /* a longer word is unknown */
    int32_t unknown;        /* the id for words that the vocabulary cannot spell; -1 until tokenizer__set_unknown */
    bool cleanup;           /* decoding draws punctuation and contractions to the word before */
};

/* With the defaults of Hugging Face's BertNormalizer and WordPiece. NULL: no memory. */
struct wordpiece *wordpiece_open(void);
void wordpiece_close(struct wordpiece *w); /* NULL is fine */

/* Appends the normal form of valid UTF-8: clean_text, handle_chinese_chars, strip_accents, lowercase, in this order and
 * in one pass. `unicode` is the tokenizer's table. Linear time. */
void wordpiece_normalize(const struct wordpiece *w, const uint8_t *unicode, const uint8_t *p, size_t n,
                         struct bytes *out);
/* Appends the ids of normalized text. Time is linear in n: of a word each character begins at most max_word_chars
 * look-ups, none longer than the vocabulary's longest token. No memory but out's. */
void wordpiece_encode(const struct wordpiece *w, const struct bpe *vocab, const uint8_t *p, size_t n, struct ids *out);
/* Whether some text may become this vocabulary entry. */
bool wordpiece_spells(const struct wordpiece *w, const uint8_t *token, size_t n);
/* Appends what decoding makes of a token, the first of its text or a later one. */
void wordpiece_decode(const struct wordpiece *w, const char *token, size_t n, bool first, struct bytes *out);
