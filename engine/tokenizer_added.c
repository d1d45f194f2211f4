/* tokenizer_added.c - added tokens in a text: leftmost, then longest, with the flags of Hugging Face's AddedToken.
 *
 * The patterns are sorted, so all that share a prefix lie together: a match is a walk that narrows this range byte by
 * byte, and the longest pattern that ended on the way wins. Between candidates only first bytes are looked at (for
 * Qwen: memchr for '<'). */
#include "engine/tokenizer_internal.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static int by_pattern(const void *a, const void *b) {
    const struct added_token *x = *(const struct added_token *const *)a, *y = *(const struct added_token *const *)b;
    size_t n = x->pattern_bytes < y->pattern_bytes ? x->pattern_bytes : y->pattern_bytes;
    int order = memcmp(x->pattern, y->pattern, n);
    if (order) return order;
    return x->pattern_bytes < y->pattern_bytes ? -1 : x->pattern_bytes > y->pattern_bytes;
}

int tokenizer__added_set_init(struct added_set *s, const struct added_token *tokens, size_t n, bool normalized) {
    *s = (struct added_set){.only_first = -1};
    s->sorted = malloc((n + 1) * sizeof *s->sorted);
    if (!s->sorted) return STATUS_NO_MEMORY;
    int n_first = 0;
    for (size_t i = 0; i < n; i++) {
        if (tokens[i].normalized != normalized) continue;
        s->sorted[s->n++] = &tokens[i];
        uint8_t first = tokens[i].pattern[0];
        n_first += !s->first[first];
        s->first[first] = true;
        s->only_first = n_first == 1 ? first : -1;
    }
    qsort(s->sorted, s->n, sizeof *s->sorted, by_pattern);
    return 0;
}

void tokenizer__added_set_deinit(struct added_set *s) {
    free(s->sorted);
    *s = (struct added_set){0};
}

/* The first of sorted[low..high) whose byte at `depth` is at least `byte`; all of them share the bytes before it. A
 * pattern that ends there comes first. */
static size_t lower_bound(const struct added_set *s, size_t low, size_t high, size_t depth, int byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct added_token *t = s->sorted[middle];
        int there = depth < t->pattern_bytes ? t->pattern[depth] : -1;
        if (there < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest pattern that p[0..n) begins with, or NULL. */
static const struct added_token *longest_prefix(const struct added_set *s, const uint8_t *p, size_t n) {
    const struct added_token *best = NULL;
    size_t low = 0, high = s->n;
    for (size_t depth = 0; low < high; depth++) {
        if (s->sorted[low]->pattern_bytes == depth) best = s->sorted[low];
        if (depth == n) break;
        low = lower_bound(s, low, high, depth, p[depth]);
        high = lower_bound(s, low, high, depth, p[depth] + 1);
    }
    return best;
}

/* \w of Rust's regex: Alphabetic, marks, decimal digits, connector punctuation, joiners. */
static bool is_word(int32_t c) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* U+200C, U+200D and the circled and squared letters, symbols that are Alphabetic */
        return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
               (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
    }
}

/* Start of the character that ends at p[end], end > 0. */
static size_t before(const uint8_t *p, size_t end) {
    do end--;
    while (end > 0 && (p[end] & 0xC0) == 0x80);
    return end;
}

static bool word_at(const uint8_t *p, size_t at) {
    int32_t c;
    utf8_decode_valid(p + at, &c);
    return is_word(c);
}

static bool space_at(const uint8_t *unicode, const uint8_t *p, size_t at, size_t *next) {
    int32_t c;
    *next = at + utf8_decode_valid(p + at, &c);
    unsigned class = unicode[c] & CLASS_MASK;
    return class == CLASS_SPACE || class == CLASS_NEWLINE;
}

/* The next place at or after `from` where a pattern may begin; `to` if there is none. */
static size_t candidate(const struct added_set *set, const uint8_t *p, size_t from, size_t to) {
    if (set->n == 0 || from >= to) return to;
    if (set->only_first >= 0) {
        const uint8_t *found = memchr(p + from, set->only_first, to - from);
        return found ? (size_t)(found - p) : to;
    }
    while (from < to && !set->first[p[from]]) from++;
    return from;
}

const struct added_token *tokenizer__added_next(const struct added_set *set, const uint8_t *unicode,
                                                struct added_search *s, size_t *start) {
    while ((s->from = candidate(set, s->p, s->from, s->to)) < s->to) {
        const struct added_token *t = longest_prefix(set, s->p + s->from, s->to - s->from);
        if (!t) {
            s->from++;
            continue;
        }
        size_t begin = s->from, end = begin + t->pattern_bytes, next;
        s->from = end;
        if (t->single_word && ((begin > 0 && word_at(s->p, before(s->p, begin))) || (end < s->n && word_at(s->p, end))))
            continue;
        if (t->lstrip)
            while (begin > s->done && space_at(unicode, s->p, before(s->p, begin), &next)) begin = before(s->p, begin);
        if (t->rstrip)
            while (end < s->n && space_at(unicode, s->p, end, &next)) end = next;
        *start = begin;
        s->done = end;
        return t;
    }
    return NULL;
}
