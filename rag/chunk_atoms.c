/* chunk_atoms.c - blocks into sentences, rows and lines; long ones between words. */
#include "rag/chunk_internal.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>

struct cutter {
    struct atoms *atoms;
    const char *text;
    const struct chunk_options *options;
    size_t limit; /* tokens of an atom */
    uint32_t block;
};

static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\t';
}

size_t chunk__character(const char *text, size_t start, size_t at) {
    size_t begin = at;
    while (begin > start && ((unsigned char)text[begin] & 0xC0) == 0x80) begin--;
    if (begin > start) return begin;
    for (at = start + 1; ((unsigned char)text[at] & 0xC0) == 0x80;) at++; /* the text ends with a zero */
    return at;
}

static void push(struct cutter *c, size_t start, size_t end, size_t tokens) {
    struct atoms *a = c->atoms;
    if (a->n == a->capacity) {
        a->capacity = 2 * a->capacity + 256;
        a->items = realloc(a->items, a->capacity * sizeof *a->items);
        CHECK(a->items);
    }
    a->items[a->n++] = (struct atom){start, end, tokens, c->block};
}

static size_t count(const struct cutter *c, size_t start, size_t end) {
    return c->options->count(c->options->arg, c->text + start, end - start);
}

/* The last space of text[start, end) that is not near its start, else end. */
static size_t before_space(const char *text, size_t start, size_t end) {
    for (size_t at = end; at > start + (end - start) / 2; at--)
        if (is_space(text[at - 1])) return at;
    return end;
}

/* Makes text[start, end) atoms: one, or as many as the limit asks for. */
static void put(struct cutter *c, size_t start, size_t end) {
    while (start < end) {
        while (start < end && is_space(c->text[start])) start++;
        while (end > start && is_space(c->text[end - 1])) end--;
        if (start == end) return;
        size_t n = end - start, tokens = 0, window = c->limit * CHUNK_BYTES_PER_TOKEN / 4;
        if (n > window) n = before_space(c->text, start, chunk__character(c->text, start, start + window)) - start;
        while ((tokens = count(c, start, start + n)) > c->limit && n > 4) {
            size_t less = n * c->limit / tokens; /* as if tokens had one length */
            if (less > n - 1) less = n - 1;
            if (less < n / 2) less = n / 2;
            n = before_space(c->text, start, chunk__character(c->text, start, start + less)) - start;
        }
        size_t last = start + n;
        while (last > start && is_space(c->text[last - 1])) last--;
        push(c, start, last, last < start + n ? count(c, start, last) : tokens);
        start += n;
    }
}

/* Words whose dot ends no sentence. */
static bool is_abbreviation(const char *text, size_t start, size_t dot) {
    static const char *const words[] = {"mr",  "mrs", "ms",  "dr",  "prof", "st",  "vs",  "fig", "figs",
                                        "eq",  "no",  "al",  "ca",  "cf",   "inc", "ltd", "co",  "approx",
                                        "e.g", "i.e", "sec", "vol", "pp",   "ed",  "jr"};
    size_t begin = dot, n;
    while (begin > start && !is_space(text[begin - 1]) && text[begin - 1] != '(' && dot - begin < 8) begin--;
    n = dot - begin;
    if (n == 1) return true; /* "J. Smith", "1. First" */
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strlen(words[i]) != n) continue;
        size_t same = 0;
        while (same < n && (text[begin + same] | 32) == (words[i][same] | 32)) same++;
        if (same == n) return true;
    }
    return false;
}

/* Bytes of a closing quote or bracket at p. */
static size_t closer(const char *p, size_t n) {
    static const char *const closers[] = {"\"", "'", ")", "]", "\u201D", "\u2019", "\u00BB", "*", "_"};
    for (size_t i = 0; i < sizeof closers / sizeof *closers; i++) {
        size_t bytes = strlen(closers[i]);
        if (bytes <= n && !memcmp(p, closers[i], bytes)) return bytes;
    }
    return 0;
}

/* Bytes of a full stop at p: "." and the like, which need a space behind them, or one of CJK's, which do not. */
static size_t stop(const char *p, size_t n, bool *alone) {
    static const char *const wide[] = {"\u3002", "\uFF01", "\uFF1F"};
    *alone = false;
    if (*p == '.' || *p == '!' || *p == '?') return 1;
    if (n >= 3 && !memcmp(p, "\u2026", 3)) return 3;
    for (size_t i = 0; i < 3 && n >= 3; i++)
        if (!memcmp(p, wide[i], 3)) return *alone = true, 3;
    return 0;
}

static void put_sentences(struct cutter *c, size_t start, size_t end) {
    const char *text = c->text;
    size_t from = start;
    for (size_t at = start; at < end;) {
        bool alone;
        if (text[at] == '\n') {
            put(c, from, at);
            from = ++at;
            continue;
        }
        size_t n = stop(text + at, end - at, &alone);
        if (!n) {
            at++;
            continue;
        }
        size_t dot = at, closing;
        at += n;
        while (at < end && (closing = closer(text + at, end - at))) at += closing;
        if (!alone) {
            if (at >= end || text[at] != ' ') continue;
            if (at + 1 < end && text[at + 1] >= 'a' && text[at + 1] <= 'z') continue;
            if (text[dot] == '.' && is_abbreviation(text, from, dot)) continue;
        }
        put(c, from, at);
        from = at;
    }
    put(c, from, end);
}

static void put_lines(struct cutter *c, size_t start, size_t end) {
    while (start < end) {
        const char *newline = memchr(c->text + start, '\n', end - start);
        size_t line = newline ? (size_t)(newline - c->text) : end;
        size_t first = c->atoms->n;
        put(c, start, line);
        if (c->atoms->n > first && c->atoms->items[first].start > start) { /* with its indentation, if that fits */
            struct atom *a = &c->atoms->items[first];
            size_t tokens = count(c, start, a->end);
            if (tokens <= c->limit && a->start - start < 256) a->start = start, a->tokens = tokens;
        }
        start = line + 1;
    }
}

void chunk__atoms(struct atoms *atoms, const struct text *t, const struct chunk_options *options) {
    struct cutter c = {.atoms = atoms, .text = t->text, .options = options, .limit = (size_t)options->max_tokens / 2};
    for (uint32_t i = 0; i < t->n_blocks; i++) {
        const struct text_block *b = &t->blocks[i];
        c.block = i;
        switch (b->kind) {
        case BLOCK_HEADING:
            put(&c, b->start, b->end);
            break;
        case BLOCK_CODE:
            put_lines(&c, b->start, b->end);
            break;
        case BLOCK_TABLE:
            for (uint32_t r = 0; r < b->n_rows; r++) {
                const struct text_row *row = &t->rows[b->first_row + r];
                /* to the next row, so that the line of dashes goes with the header */
                put(&c, row->start, r + 1 < b->n_rows ? row[1].start : b->end);
            }
            break;
        default:
            put_sentences(&c, b->start, b->end);
            break;
        }
    }
}
