/* tokenizer_internal.h - what the tokenizer's files share: tokenizer.c (encoding, decoding), tokenizer_open.c,
 * tokenizer_json.c and tokenizer_build.c (opening), tokenizer_added.c, tokenizer_nfc.c, tokenizer_split.c. Private. */
#pragma once

#include "engine/bpe.h"
#include "engine/tokenizer.h"
#include "engine/tokenizer_utf8.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Unicode, as Hugging Face's tokenizers sees it --------------------------------------------------------------- */

/* One byte per code point: a class in the low three bits, and flags. */
enum {
    CLASS_OTHER,   /* [^\s\p{L}\p{N}] */
    CLASS_LETTER,  /* \p{L} */
    CLASS_NUMBER,  /* \p{N} */
    CLASS_SPACE,   /* \s without \r and \n */
    CLASS_NEWLINE, /* \r, \n */
    CLASS_MASK = 7,

    NFC_ACTIVE = 8,      /* NFC may change this character, move it or fuse it with the one before */
    NFC_INERT = 16,      /* Unicode has assigned it a part in normalization that Hugging Face does not know yet */
    VERSIONED = 32,      /* libraries of other Unicode versions give it another class */
    VERSIONED_MARK = 64, /* with VERSIONED: it is a mark, \p{M}, which is CLASS_OTHER to Qwen's regex */
};

#define UNICODE_SIZE 0x110000
extern const uint32_t tokenizer__unicode_runs[];
extern const size_t tokenizer__n_unicode_runs;

/* ---- NFC --------------------------------------------------------------------------------------------------------- */

/* Appends the NFC form of valid UTF-8. `unicode` is the table of UNICODE_SIZE bytes. */
void tokenizer__nfc(const uint8_t *unicode, const uint8_t *p, size_t n, struct bytes *out);
/* Whether tokenizer__nfc could change anything: false for nearly every text as people write it. */
bool tokenizer__needs_nfc(const uint8_t *unicode, const uint8_t *p, size_t n);

/* The steps of a canonical decomposition: of one character (returns how many there are), and the marks' order. */
#define MAX_DECOMPOSITION 18 /* code points; the longest canonical one has 4 */
size_t tokenizer__decompose(int32_t c, int32_t parts[MAX_DECOMPOSITION]);
void tokenizer__order(int32_t *points, size_t n);

/* ---- the split into pieces, each of which is merged on its own --------------------------------------------------- */

/* The split regex of Qwen2, Qwen2.5 and Qwen3. */
#define QWEN_REGEX                                                                                                     \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"  \
    "\\s+(?!\\S)|\\s+"
#define MAX_REGEX_BYTES 4096

/* End of the piece that begins at p[at], at < n, as QWEN_REGEX would match it in p[0..n). */
size_t tokenizer__split_qwen(const uint8_t *unicode, const uint8_t *p, size_t at, size_t n);

/* Any other regex. */
struct split_regex; /* owned, immutable */
int tokenizer__regex_open(struct split_regex **out, const char *pattern, char *err, size_t err_bytes);
void tokenizer__regex_close(struct split_regex *r); /* NULL is fine */

/* Walks the pieces of one text. */
struct split_walk; /* owned */
struct split_walk *tokenizer__walk_open(const struct split_regex *r, const uint8_t *unicode, const uint8_t *p,
                                        size_t n);
void tokenizer__walk_close(struct split_walk *w);
/* *end of the piece that begins at `at` < n; STATUS_TOO_LARGE where the regex needs more than its limits. */
int tokenizer__walk_next(struct split_walk *w, size_t at, size_t *end);

/* ---- added tokens ------------------------------------------------------------------------------------------------ */

#define MAX_ADDED_TOKENS (1 << 16)
#define MAX_ADDED_BYTES  4096 /* of one added token */

struct added_token {
    int32_t id;
    bool special, normalized, lstrip, rstrip, single_word;
    char *content; /* owned */
    size_t bytes;
    const uint8_t *pattern; /* what is looked for: content, or its NFC form if `normalized`; borrowed or owned by own */
    size_t pattern_bytes;
    struct bytes own;     /* owned: the NFC form where it differs */
    struct bytes decoded; /* owned: what decoding makes of it, the content unless that is byte-level text */
};

/* Added tokens that are looked for together, sorted by pattern. */
struct added_set {
    const struct added_token **sorted; /* owned array, borrowed tokens */
    size_t n;
    bool first[256]; /* whether some pattern begins with this byte */
    int only_first;  /* that byte if there is just one, -1 otherwise */
};
int tokenizer__added_set_init(struct added_set *s, const struct added_token *tokens, size_t n, bool normalized);
void tokenizer__added_set_deinit(struct added_set *s);

/* Where added tokens are looked for in the sentence p[0..n), and how far that has come. */
struct added_search {
    const uint8_t *p;
    size_t n;
    size_t from, to; /* matches lie in p[from..to) */
    size_t done;     /* the end of the last match with what rstrip took; lstrip takes nothing before it */
};
/* The next match in s->from..s->to, leftmost and then longest: its token, and in *start where it begins with what
 * lstrip took. Moves s->from and s->done behind it. NULL when there is none. */
const struct added_token *tokenizer__added_next(const struct added_set *set, const uint8_t *unicode,
                                                struct added_search *s, size_t *start);

/* ---- the tokenizer ----------------------------------------------------------------------------------------------- */

struct tokenizer {
    struct bpe bpe;              /* the model's vocabulary, without added tokens that are not in it */
    struct wordpiece *wordpiece; /* owned; NULL: byte-level BPE. Else bpe has no merges, and nfc, regex are unused */
    uint8_t *unicode;            /* owned [UNICODE_SIZE] */
    bool nfc;                    /* the file asks for NFC */
    struct split_regex *regex;   /* owned; NULL: QWEN_REGEX */
    struct added_token *added;   /* owned [n_added], by id once finished */
    size_t n_added, added_capacity;
    struct added_set raw, normalized; /* of `added`: looked for before and after NFC */
    struct ids prefix, suffix;        /* owned: what the post-processor sets around a text */
    int n_ids;                        /* largest id + 1 */
    char *chat_template;              /* owned; may be NULL */
};

/* ---- opening ----------------------------------------------------------------------------------------------------- */

#define MAX_TOKENIZER_BYTES (64u << 20) /* of each file */

/* What a token adds to decoded text, of which it is the first or not: a view of the tokenizer, or of *scratch. */
const char *tokenizer__piece(const struct tokenizer *t, int32_t id, bool first, struct bytes *scratch, size_t *bytes);

/* Reads the tree of a tokenizer.json into a zeroed tokenizer. The caller closes it whatever comes back. */
int tokenizer__read_json(struct tokenizer *t, const cJSON *root, char *err, size_t err_bytes);

/* The steps that both kinds of files share, in this order; they live in tokenizer_build.c. */
int tokenizer__begin(struct tokenizer *t, size_t n_tokens, size_t n_merges, char *err, size_t err_bytes);
/* The same for WordPiece, with Hugging Face's defaults. */
int tokenizer__begin_wordpiece(struct tokenizer *t, size_t n_tokens, char *err, size_t err_bytes);
/* Which of the vocabulary's tokens stands for words that it cannot spell. */
int tokenizer__set_unknown(struct tokenizer *t, const char *unknown, char *err, size_t err_bytes);
/* One entry, `text` in the byte-level alphabet, or as it is for WordPiece. */
int tokenizer__add_token(struct tokenizer *t, int32_t id, const char *text, char *err, size_t err_bytes);
/* All members of {"token": id}. */
int tokenizer__add_vocab(struct tokenizer *t, const cJSON *vocab, char *err, size_t err_bytes);
/* "left right", both in the byte-level alphabet. */
int tokenizer__add_merge(struct tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right,
                         char *err, size_t err_bytes);
int tokenizer__set_regex(struct tokenizer *t, const char *pattern, char *err, size_t err_bytes);
/* An added token from its JSON object; t->nfc and t->wordpiece must be known. */
int tokenizer__add_added(struct tokenizer *t, const cJSON *object, int64_t id, char *err, size_t err_bytes);
int tokenizer__finish(struct tokenizer *t, char *err, size_t err_bytes);
