/* normalise_chars.c - characters: what is dropped, replaced, joined, composed.
 *
 * A span goes through an array of points: decoded and filtered, white space settled, then composed (NFC) and appended.
 * NFC by utf8proc is quadratic in a run of combining marks; runs are cut at 30, as in Unicode's stream-safe format. */
#include "rag/normalise_internal.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>

#define MAX_MARKS 30

/* Characters that nobody sees. */
static bool is_invisible(int32_t c) {
    if (c < 0x20) return c != '\n' && c != '\t' && c != '\r' && c != '\f' && c != '\v';
    if (c < 0x7F) return false;
    if (c < 0xA0) return c != 0x85;
    switch (c) {
    case 0x034F: /* combining grapheme joiner */
    case 0x061C: /* bidi */
    case 0x115F: /* Hangul fillers */
    case 0x1160:
    case 0x17B4: /* Khmer inherent vowels */
    case 0x17B5:
    case 0x3164:
    case 0xFEFF:
    case 0xFFA0:
        return true;
    }
    return (c >= 0x180B && c <= 0x180F) || /* Mongolian variation selectors, vowel separator */
           (c >= 0x200B && c <= 0x200F) || /* zero width, bidi marks */
           (c >= 0x202A && c <= 0x202E) || /* bidi embedding and override */
           (c >= 0x2060 && c <= 0x206F) || /* word joiner, invisible operators, bidi isolates */
           (c >= 0xFE00 && c <= 0xFE0F) || /* variation selectors */
           (c >= 0xFFF0 && c <= 0xFFFB) || (c & 0xFFFE) == 0xFFFE || (c >= 0xFDD0 && c <= 0xFDEF) ||
           (c >= 0xE0000 && c <= 0xE0FFF); /* tags, variation selectors */
}

static const char *ligature(int32_t c) {
    static const char *const letters[] = {"ff", "fi", "fl", "ffi", "ffl", "st", "st"};
    return c >= 0xFB00 && c <= 0xFB06 ? letters[c - 0xFB00] : NULL;
}

static bool is_space(int32_t c) {
    return c == ' ' || c == '\t' || c == '\f' || c == '\v' || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x202F || c == 0x205F || c == 0x3000;
}

static bool is_mark(int32_t c) {
    return c >= 0x300 && utf8proc_get_property(c)->combining_class != 0;
}

static void push(struct normaliser *z, int32_t c, uint32_t from, uint32_t bytes) {
    z->points = normalise__grow(z->points, &z->points_capacity, z->n_points, sizeof *z->points);
    z->points[z->n_points++] = (struct point){c, from, bytes};
}

static void decode(struct normaliser *z, const char *p, size_t n, uint32_t from) {
    int marks = 0;
    z->n_points = 0;
    for (size_t i = 0; i < n;) {
        int32_t c = (unsigned char)p[i];
        utf8proc_ssize_t step =
            c < 0x80 ? 1 : utf8proc_iterate((const utf8proc_uint8_t *)p + i, (utf8proc_ssize_t)(n - i), &c);
        CHECK_LT(0, step);
        uint32_t at = from + (uint32_t)i, bytes = (uint32_t)step;
        i += (size_t)step;
        if (c == '\r') {
            if (i < n && p[i] == '\n') continue;
            c = '\n';
        }
        if (c == 0x85 || c == 0x2028 || c == 0x2029) c = '\n', bytes = 0;
        if (is_invisible(c)) continue;
        if (c == 0xAD && !(i < n && (p[i] == '\n' || p[i] == '\r'))) continue; /* a soft hyphen within a line */
        if (c == 0xF0B7) c = 0x2022, bytes = 0;                                /* the bullet of Word's symbol font */
        marks = is_mark(c) ? marks + 1 : 0;
        if (marks > MAX_MARKS) continue;
        const char *letters = ligature(c);
        for (; letters && *letters; letters++) push(z, *letters, at, 0);
        if (!ligature(c)) push(z, c, at, bytes);
    }
}

/* ---- divided words ----------------------------------------------------------------------------------------------- */

static bool is_letter(int32_t c) {
    if (c < 0x80) return (c | 32) >= 'a' && (c | 32) <= 'z';
    utf8proc_category_t category = utf8proc_category(c);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

static uint64_t hash_of(const struct point *a, size_t n, const struct point *b, size_t m) {
    char word[128];
    size_t at = 0;
    for (size_t i = 0; i < n && at + 4 < sizeof word; i++)
        at += (size_t)utf8proc_encode_char(utf8proc_tolower(a[i].c), (utf8proc_uint8_t *)word + at);
    for (size_t i = 0; i < m && at + 4 < sizeof word; i++)
        at += (size_t)utf8proc_encode_char(utf8proc_tolower(b[i].c), (utf8proc_uint8_t *)word + at);
    uint64_t hash = XXH3_64bits(word, at);
    return hash ? hash : 1;
}

static size_t slot_of(const struct normaliser *z, uint64_t hash) {
    size_t i = hash & (z->hyphens_capacity - 1);
    while (z->hyphens[i] && z->hyphens[i] != hash) i = (i + 1) & (z->hyphens_capacity - 1);
    return i;
}

static size_t word_end(const struct point *p, size_t n, size_t at) {
    while (at < n && (is_letter(p[at].c) || (p[at].c == '-' && at + 1 < n && is_letter(p[at + 1].c)))) at++;
    return at;
}

/* Remembers the words that the document writes with a hyphen within a line. */
void normalise__collect_hyphens(struct normaliser *z) {
    const struct document *d = z->d;
    size_t hyphens = 0, divided = 0;
    for (size_t i = 1; i + 1 < d->text_bytes; i++) {
        if (d->text[i] != '-') continue;
        hyphens++;
        divided += d->text[i + 1] == '\n' || d->text[i + 1] == '\r';
    }
    if (!divided) return;
    for (z->hyphens_capacity = 64; z->hyphens_capacity < 2 * hyphens; z->hyphens_capacity *= 2) continue;
    z->hyphens = calloc(z->hyphens_capacity, sizeof *z->hyphens);
    CHECK(z->hyphens);
    for (size_t b = 0; b < d->n_blocks; b++) {
        const struct doc_block *block = &d->blocks[b];
        decode(z, d->text + block->start, block->end - block->start, block->start);
        for (size_t i = 0; i < z->n_points; i++) {
            size_t end = word_end(z->points, z->n_points, i), hyphen = i;
            while (hyphen < end && z->points[hyphen].c != '-') hyphen++;
            if (hyphen < end) {
                uint64_t hash = hash_of(z->points + i, end - i, NULL, 0);
                z->hyphens[slot_of(z, hash)] = hash;
            }
            if (end > i) i = end - 1;
        }
    }
}

/* points[at] is a hyphen before a line end: does the word go on without it? `next` is where the next line begins. */
static bool divides_word(const struct normaliser *z, size_t at, size_t next) {
    const struct point *p = z->points;
    if (p[at].c == 0xAD) return true;
    if (!at || next >= z->n_points || !is_letter(p[at - 1].c) || !is_letter(p[next].c)) return false;
    if (utf8proc_category(p[next].c) == UTF8PROC_CATEGORY_LU) return false; /* Anglo-\nSaxon */
    size_t start = at;
    while (start && at - start < 40 && (is_letter(p[start - 1].c) || p[start - 1].c == '-')) start--;
    uint64_t hash = hash_of(p + start, at + 1 - start, p + next, word_end(p, z->n_points, next) - next);
    return !z->hyphens || !z->hyphens[slot_of(z, hash)];
}

/* White space: one space, or one line end. Works in place, as it only shrinks. */
static void settle_spaces(struct normaliser *z, enum chars_mode mode) {
    struct point *p = z->points;
    size_t n = z->n_points, to = 0;
    for (size_t i = 0; i < n;) {
        bool hyphen = (p[i].c == '-' || p[i].c == 0xAD) && i + 1 < n && p[i + 1].c == '\n';
        if (hyphen) {
            size_t next = i + 2;
            while (next < n && is_space(p[next].c)) next++;
            bool join = (mode == CHARS_TYPED || mode == CHARS_LAYOUT || p[i].c == 0xAD) && divides_word(z, i, next);
            if (!join && p[i].c == '-') p[to++] = p[i];
            /* "well-\nknown" in a layout: the hyphen stays, the line end goes */
            bool whole =
                !join && mode == CHARS_LAYOUT && next < n && is_letter(p[next].c) && to > 1 && is_letter(p[to - 2].c);
            i = join || whole ? next : i + 1;
            continue;
        }
        if (!is_space(p[i].c) && p[i].c != '\n') {
            if (p[i].c != 0xAD) p[to++] = p[i];
            i++;
            continue;
        }
        size_t first = i, line = n;
        for (; i < n && (is_space(p[i].c) || p[i].c == '\n'); i++)
            if (p[i].c == '\n' && line == n) line = i;
        if (!to || i == n) continue;
        bool keep_line = line < n && (mode == CHARS_LINES || mode == CHARS_TYPED);
        struct point space = p[keep_line ? line : first];
        if (space.bytes > 1) space.bytes = 0; /* U+00A0 is longer than the space that it becomes */
        space.c = keep_line ? '\n' : ' ';
        p[to++] = space;
    }
    z->n_points = to;
}

/* Code keeps its white space, but not empty lines around it. */
static void settle_code(struct normaliser *z) {
    struct point *p = z->points;
    size_t from = 0, n = z->n_points;
    for (size_t i = 0; i < n; i++) {
        if (p[i].c != ' ' && is_space(p[i].c) && p[i].c != '\t') p[i].c = ' ', p[i].bytes = 0;
    }
    for (size_t i = 0; i < n && (is_space(p[i].c) || p[i].c == '\n'); i++)
        if (p[i].c == '\n') from = i + 1;
    while (n > from && (is_space(p[n - 1].c) || p[n - 1].c == '\n')) n--;
    memmove(p, p + from, (n - from) * sizeof *p);
    z->n_points = n - from;
}

/* ---- NFC and output ---------------------------------------------------------------------------------------------- */

static uint64_t source_of(struct normaliser *z, uint32_t from, uint32_t bytes) {
    const struct document *d = z->d;
    if (!bytes) return DOC_NO_SOURCE;
    if (z->origin < d->n_origins && d->origins[z->origin].text > from) z->origin = 0; /* a cell that is read again */
    while (z->origin < d->n_origins && d->origins[z->origin].text + d->origins[z->origin].bytes <= from) z->origin++;
    if (z->origin == d->n_origins || d->origins[z->origin].text > from) return DOC_NO_SOURCE;
    const struct doc_origin *o = &d->origins[z->origin];
    return from + bytes <= o->text + o->bytes ? o->source + (from - o->text) : DOC_NO_SOURCE;
}

/* Characters that NFC leaves alone whatever stands beside them, but for combining marks. */
static bool is_plain(int32_t c) {
    return c < 0x300 || (c >= 0x3400 && c <= 0x9FFF);
}

static void put_point(struct normaliser *z, const struct point *p) {
    char utf8[4];
    size_t n = (size_t)utf8proc_encode_char(p->c, (utf8proc_uint8_t *)utf8);
    normalise__put(z, utf8, n, p->bytes == n ? source_of(z, p->from, p->bytes) : DOC_NO_SOURCE);
}

/* points[i..end) is composed; where that changes nothing, each character keeps its origin. */
static void put_composed(struct normaliser *z, size_t i, size_t end) {
    size_t n = 0;
    if (z->utf8_capacity < 4 * (end - i) + 1) {
        z->utf8_capacity = 8 * (end - i) + 64;
        z->utf8 = realloc(z->utf8, z->utf8_capacity);
        CHECK(z->utf8);
    }
    for (size_t k = i; k < end; k++) n += (size_t)utf8proc_encode_char(z->points[k].c, z->utf8 + n);
    utf8proc_uint8_t *composed;
    utf8proc_ssize_t bytes = utf8proc_map(z->utf8, (utf8proc_ssize_t)n, &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    CHECK_LE(0, bytes);
    if ((size_t)bytes == n && !memcmp(composed, z->utf8, n))
        for (size_t k = i; k < end; k++) put_point(z, &z->points[k]);
    else
        normalise__put(z, (const char *)composed, (size_t)bytes, DOC_NO_SOURCE);
    free(composed);
}

void normalise__chars(struct normaliser *z, const char *p, size_t n, uint32_t from, enum chars_mode mode) {
    decode(z, p, n, from);
    if (mode == CHARS_CODE)
        settle_code(z);
    else
        settle_spaces(z, mode);
    const struct point *points = z->points;
    for (size_t i = 0; i < z->n_points;) {
        bool marked = i + 1 < z->n_points && !is_plain(points[i + 1].c);
        if (is_plain(points[i].c) && !marked) {
            if (mode == CHARS_CELL && points[i].c == '|') normalise__put(z, "\\", 1, DOC_NO_SOURCE);
            put_point(z, &points[i++]);
            continue;
        }
        size_t end = i + 1;
        while (end < z->n_points && !is_plain(points[end].c)) end++;
        put_composed(z, i, end);
        i = end;
    }
}
