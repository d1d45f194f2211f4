/* tokenizer_split.c - text into pieces, each of which is merged on its own ("pre-tokenization").
 *
 * Qwen's regex is known by its exact text and written out in C: one decision on the class of the first character and of
 * the one after it, then a run. It reads the classes from Hugging Face's own tables, so no library's Unicode version
 * can make a difference, and it is linear where a backtracking engine is not. In the order of the regex's alternatives:
 *
 *   1  (?i:'s|'t|'re|'ve|'m|'ll|'d)      a contraction; case folding makes U+017F an s
 *   2  [^\r\n\p{L}\p{N}]?\p{L}+          letters, with one character of another kind before them
 *   3  \p{N}                             one digit
 *   4   ?[^\s\p{L}\p{N}]+[\r\n]*         symbols, with one blank before and newlines after them
 *   5  \s*[\r\n]+                        white space up to its last newline
 *   6  \s+(?!\S)                         white space but for its last character (all of it at the end of the text)
 *   7  \s+                               one white space character
 *
 * Any other regex runs in PCRE2 (JIT), in the order of matches and the gaps between them. Where PCRE2's Unicode version
 * gives a character another class than Hugging Face's, the regex sees a character of the right class and of the same
 * length in its place. That is exact for patterns made of \p{L}, \p{N}, \p{M}, \s and ASCII; other properties (\p{Lu},
 * \p{Han}, ...) of the characters that Unicode added since version 14 remain as PCRE2 has them. */
#include "engine/tokenizer_internal.h"

#include "kernels/status.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* ---- Qwen's regex ------------------------------------------------------------------------------------------------ */

/* The class of the character at p[at]; *next is where the following one begins. */
static inline unsigned class_at(const uint8_t *unicode, const uint8_t *p, size_t at, size_t *next) {
    int32_t c;
    *next = at + utf8_decode_valid(p + at, &c);
    return unicode[c] & CLASS_MASK;
}

/* The end of the run of one class that p[at] continues. */
static inline size_t run(const uint8_t *unicode, unsigned class, const uint8_t *p, size_t at, size_t n) {
    size_t next;
    while (at < n && class_at(unicode, p, at, &next) == class) at = next;
    return at;
}

static inline size_t newlines(const uint8_t *p, size_t at, size_t n) {
    while (at < n && (p[at] == '\r' || p[at] == '\n')) at++;
    return at;
}

/* Bytes of the contraction that begins with the apostrophe p[0], 0 if there is none. */
static size_t contraction(const uint8_t *p, size_t n) {
    if (n < 2) return 0;
    uint8_t a = p[1] | 0x20, b = n > 2 ? p[2] | 0x20 : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return 3;
    if (n > 2 && p[1] == 0xC5 && p[2] == 0xBF) return 3; /* U+017F, the long s */
    return 0;
}

/* Alternatives 5, 6 and 7 for the white space that begins at p[at]. */
static size_t white_space(const uint8_t *unicode, const uint8_t *p, size_t at, size_t n) {
    size_t end = at, last = at, after_newline = 0;
    while (end < n) {
        size_t next;
        unsigned class = class_at(unicode, p, end, &next);
        if (class != CLASS_SPACE && class != CLASS_NEWLINE) break;
        if (class == CLASS_NEWLINE) after_newline = next;
        last = end;
        end = next;
    }
    if (after_newline) return after_newline;
    return end == n || last == at ? end : last;
}

size_t tokenizer__split_qwen(const uint8_t *unicode, const uint8_t *p, size_t at, size_t n) {
    size_t next;
    if (p[at] == '\'') {
        size_t bytes = contraction(p + at, n - at);
        if (bytes) return at + bytes;
    }
    unsigned class = class_at(unicode, p, at, &next);
    if (class == CLASS_LETTER) return run(unicode, CLASS_LETTER, p, next, n);
    if (class == CLASS_NUMBER) return next;
    if (class == CLASS_NEWLINE) return white_space(unicode, p, at, n);

    size_t after = next;
    unsigned class_after = next < n ? class_at(unicode, p, next, &after) : CLASS_NEWLINE;
    if (class_after == CLASS_LETTER) return run(unicode, CLASS_LETTER, p, after, n);
    if (class == CLASS_OTHER) return newlines(p, run(unicode, CLASS_OTHER, p, next, n), n);
    if (p[at] == ' ' && class_after == CLASS_OTHER) return newlines(p, run(unicode, CLASS_OTHER, p, after, n), n);
    return white_space(unicode, p, at, n);
}

/* ---- other regexes ----------------------------------------------------------------------------------------------- */

#define MATCH_LIMIT     1000000 /* of one match, in PCRE2's units: a good pattern needs a few per character */
#define JIT_STACK_BYTES (1u << 20)

struct split_regex {
    pcre2_code *code;             /* owned */
    pcre2_match_context *context; /* owned: the limits */
};

struct split_walk {
    const struct split_regex *regex;
    const uint8_t *text; /* borrowed, or replaced */
    size_t n;
    struct bytes replaced; /* owned: the text with other characters of the same length */
    pcre2_match_data *match;
    pcre2_match_context *context; /* a copy with this walk's stack */
    pcre2_jit_stack *stack;
    size_t start, end; /* the next match; start == n: none is left */
    bool searched;
};

int tokenizer__regex_open(struct split_regex **out, const char *pattern, char *err, size_t err_bytes) {
    *out = NULL;
    size_t bytes = strlen(pattern);
    if (bytes > MAX_REGEX_BYTES)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "the split regex: expected at most %d bytes, found %zu",
                    MAX_REGEX_BYTES, bytes);
    int code, empty = 0;
    size_t offset;
    struct split_regex *r = calloc(1, sizeof *r);
    if (!r) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the split regex");
    r->code = pcre2_compile((PCRE2_SPTR)pattern, bytes, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset,
                            NULL);
    if (!r->code) {
        char message[120] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        tokenizer__regex_close(r);
        return fail(err, err_bytes, STATUS_INVALID, "the split regex: %s, at byte %zu of its pattern", message, offset);
    }
    pcre2_pattern_info(r->code, PCRE2_INFO_MATCHEMPTY, &empty);
    if (empty) {
        tokenizer__regex_close(r);
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "the split regex: expected a pattern that never matches the empty text");
    }
    r->context = pcre2_match_context_create(NULL);
    if (!r->context) {
        tokenizer__regex_close(r);
        return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the split regex");
    }
    pcre2_set_match_limit(r->context, MATCH_LIMIT);
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* where it cannot, pcre2_match interprets */
    *out = r;
    return 0;
}

void tokenizer__regex_close(struct split_regex *r) {
    if (!r) return;
    pcre2_code_free(r->code);
    pcre2_match_context_free(r->context);
    free(r);
}

/* Overwrites characters whose class depends on the Unicode version, see this file's head. */
static void replace_versioned(const uint8_t *unicode, uint8_t *p, size_t n) {
    /* By class, of 2, 3 and 4 bytes: characters that have had this class in every version. */
    enum { MARK = CLASS_NEWLINE + 1 };
    static const char *const stand_in[][3] = {
        [CLASS_OTHER] = {"\u00A7", "\u2020", "\U0001F600"},
        [CLASS_LETTER] = {"\u01BB", "\u4E00", "\U00020000"},
        [CLASS_NUMBER] = {"\u00B2", "\u2460", "\U00010107"},
        [CLASS_SPACE] = {"\u00A0", "\u3000", ""}, /* white space has been the same for long, and has no 4 bytes */
        [MARK] = {"\u0301", "\u20D0", "\U0001D165"},
    };
    for (size_t i = 0; i < n;) {
        int32_t c;
        size_t step = utf8_decode_valid(p + i, &c);
        unsigned class = unicode[c] & VERSIONED_MARK ? MARK : unicode[c] & CLASS_MASK;
        if (unicode[c] & VERSIONED) memcpy(p + i, stand_in[class][step - 2], step);
        i += step;
    }
}

struct split_walk *tokenizer__walk_open(const struct split_regex *r, const uint8_t *unicode, const uint8_t *p,
                                        size_t n) {
    struct split_walk *w = calloc(1, sizeof *w);
    CHECK(w);
    *w = (struct split_walk){.regex = r, .text = p, .n = n};
    for (size_t i = 0; i < n && !w->replaced.data;) {
        int32_t c;
        i += utf8_decode_valid(p + i, &c);
        if (unicode[c] & VERSIONED) bytes_append(&w->replaced, p, n);
    }
    if (w->replaced.data) {
        replace_versioned(unicode, w->replaced.data, n);
        w->text = w->replaced.data;
    }
    w->match = pcre2_match_data_create_from_pattern(r->code, NULL);
    w->context = pcre2_match_context_copy(r->context);
    w->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_BYTES, NULL);
    CHECK(w->match && w->context && w->stack);
    pcre2_jit_stack_assign(w->context, NULL, w->stack);
    return w;
}

void tokenizer__walk_close(struct split_walk *w) {
    if (!w) return;
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->context);
    pcre2_jit_stack_free(w->stack);
    free(w->replaced.data);
    free(w);
}

int tokenizer__walk_next(struct split_walk *w, size_t at, size_t *end) {
    if (!w->searched || (w->start < at)) {
        w->searched = true;
        int rc =
            pcre2_match(w->regex->code, w->text, w->n, at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, w->match, w->context);
        if (rc == PCRE2_ERROR_NOMATCH) {
            w->start = w->end = w->n;
        } else if (rc < 0) {
            return STATUS_TOO_LARGE;
        } else {
            const size_t *offsets = pcre2_get_ovector_pointer(w->match);
            w->start = offsets[0], w->end = offsets[1];
            /* \K can report a match that begins before the search or after its own end. */
            if (w->start < at || w->end <= w->start) return STATUS_INVALID;
        }
    }
    *end = at < w->start ? w->start : w->end;
    return 0;
}
