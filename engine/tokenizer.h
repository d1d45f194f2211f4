/* tokenizer.h - text to token ids and back, exactly as Hugging Face's `tokenizers` does it for Qwen and BERT.
 *
 * Owns: byte-level BPE (tokenizer.json, or vocab.json + merges.txt + tokenizer_config.json), NFC by utf8proc, the split
 * regex from the file by PCRE2, added tokens; for BERT's encoders WordPiece (tokenizer.json, or vocab.txt and, if there
 * is one, tokenizer_config.json) with BERT's normalizer. A tokenizer is immutable after opening and may be used by any
 * number of threads at once; per-thread scratch lives in the calls. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer; /* owned, immutable */

/* Opens from a folder: tokenizer.json if there is one, otherwise vocab.json, merges.txt and tokenizer_config.json, or
 * vocab.txt.
 * STATUS_INVALID / STATUS_NOT_FOUND / STATUS_UNSUPPORTED / STATUS_TOO_LARGE with a sentence. */
int tokenizer_open(struct tokenizer **out, const char *folder, char *err, size_t err_bytes);
/* From the text of a tokenizer.json (the fuzz entry). */
int tokenizer_open_json(struct tokenizer **out, const char *json, size_t bytes, char *err, size_t err_bytes);
void tokenizer_close(struct tokenizer *t); /* NULL is fine */

/* A growing list of ids: zero-initialise, free with ids_deinit. */
struct ids {
    int32_t *data; /* owned */
    size_t n, capacity;
};
void ids_push(struct ids *ids, int32_t id);
void ids_deinit(struct ids *ids);

/* Appends the ids of `bytes` bytes of text; the text need not be valid UTF-8 (each invalid sequence counts as U+FFFD,
 * as in Python's errors="replace"). With parse_special, added tokens in the text become their ids: for templates and
 * trusted text only. Without it every byte is plain text: what users send never turns into a special token.
 * Returns 0, or STATUS_TOO_LARGE with nothing appended: a text of 2 GiB, or a split regex that exceeds its match limit
 * (a regex other than Qwen's, on hostile text). WordPiece gives tokenizer_unknown for words that it cannot spell; it is
 * the only special token that plain text leads to. Time is O(n log n) in the longest word, linear otherwise. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes, bool parse_special, struct ids *out);

/* A part of a text, in bytes. */
struct text_span {
    size_t start, end;
};
/* The same for valid UTF-8 of mixed trust: added tokens count only where no byte of them lies in one of the plain spans
 * (ascending, disjoint). Between two added tokens the text is one run, as if there were no spans. */
int tokenizer_encode_spans(const struct tokenizer *t, const char *text, size_t bytes, const struct text_span *plain,
                           size_t n_plain, struct ids *out);

/* What the file's post-processor sets before and after a text, appended to out. Chat models have nothing here;
 * Qwen3-Embedding ends every text with <|endoftext|>, BERT has [CLS] before and [SEP] after it. */
void tokenizer_prefix(const struct tokenizer *t, struct ids *out);
void tokenizer_suffix(const struct tokenizer *t, struct ids *out);

/* The bytes of one token, as the vocabulary has it (WordPiece: with its "##"): a view, not zero-terminated; may be part
 * of a character. Special tokens give their content. An id outside the vocabulary (the padded tail of V) gives length
 * 0. */
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *bytes);
/* The id whose content is exactly this string (an added token, else a vocabulary entry by its bytes); -1 if none. */
int32_t tokenizer_id(const struct tokenizer *t, const char *text, size_t bytes);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
/* The id of words that the vocabulary cannot spell; -1 for byte-level BPE, which spells all. */
int32_t tokenizer_unknown(const struct tokenizer *t);
int tokenizer_size(const struct tokenizer *t); /* largest id + 1 */

/* Whole-sequence decoding as Hugging Face's decode(skip_special_tokens=...): invalid UTF-8 becomes U+FFFD. Returns a
 * malloc'ed, zero-terminated string; *bytes gets its length when not NULL. */
char *tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, size_t *bytes);

/* The text of chat_template.jinja, else "chat_template" in tokenizer_config.json; NULL if there is none, and always
 * after tokenizer_open_json. A view that lives as long as the tokenizer. */
const char *tokenizer_chat_template(const struct tokenizer *t);

/* ---- one stream's text: incremental detokenization and stop strings ---------------------------------------------- */

/* Bytes come out only as whole characters, and only once no stop string can still begin in them. What comes out does
 * not depend on how the text falls into tokens: the stop string that is complete first counts, of several that end at
 * the same character the longest. */
struct text_stream; /* owned; one per generated sequence, used by one thread */

#define TEXT_STREAM_MAX_STOPS      16
#define TEXT_STREAM_MAX_STOP_BYTES 1024

struct text_stream_options {
    bool skip_special;       /* leave special tokens out of the text */
    const char *const *stop; /* stop strings, copied: valid UTF-8 of 1..TEXT_STREAM_MAX_STOP_BYTES bytes each */
    int n_stop;              /* at most TEXT_STREAM_MAX_STOPS */
    bool include_stop;       /* keep the stop string in the text */
};
/* NULL if a stop string or their number is out of these bounds, or memory is short. The tokenizer must outlive it. */
struct text_stream *text_stream_open(const struct tokenizer *t, const struct text_stream_options *options);
void text_stream_close(struct text_stream *s); /* NULL is fine */

/* Adds one token; returns the newly final text (a view, valid until the next call; length may be 0). *stopped becomes
 * the index of the stop string that was found, and the text ends before it (or after it with include_stop); later
 * calls return nothing and the same index. -1 otherwise. */
const char *text_stream_push(struct text_stream *s, int32_t id, size_t *bytes, int *stopped);
/* The end of generation: what was held back (nothing after a stop). An incomplete character becomes U+FFFD. */
const char *text_stream_finish(struct text_stream *s, size_t *bytes);
