/* extract_pdf.c - what `pdftotext -bbox-layout` prints: pages, blocks, lines and words, each with its box.
 *
 *     <page ...><flow><block ...><line ...><word xMin="72.0" yMin="72.6" xMax="92.0" yMax="85.9">The</word>
 *
 * poppler has put blocks into reading order. What it does not say is what a block is: lines of a larger size than most
 * of the text are headings, larger ones of a higher level; so is a short line of its own above a paragraph that begins
 * at the same margin. A bullet begins a list item, also where it stands in a block of its own beside the lines. The
 * text is read by a scanner of its own, because poppler prints whatever bytes a hostile font maps to, which no XML
 * parser would take. */
#include "rag/extract.h"
#include "rag/pdf_bidi.h"

#include "kernels/status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SIZES         512 /* of letters, in quarter points */
#define HEADING_RATIO 1.12
#define HEADING_BYTES 250 /* a longer one is text in large letters */

struct line {
    size_t start, end; /* in the text buffer */
    float size;        /* of its letters, in points */
    float x, x_end, y; /* where it stands on its page */
    uint32_t page, block;
    bool item, bullet; /* a bullet stands before it; it is a bullet, and nothing else */
};

struct pdf {
    struct document *d;
    char *text; /* owned */
    size_t n, capacity;
    struct line *lines; /* owned */
    size_t n_lines, lines_capacity;
    uint32_t page, block;
    double x_end, size_sum, letters; /* of the line at hand */
    double body;                     /* the size that most of the text has */
    size_t histogram[SIZES];         /* bytes of text per size */
};

static size_t slot_of(double size) {
    size_t slot = (size_t)(4 * size);
    return slot < SIZES ? slot : SIZES - 1;
}

static void put(struct pdf *p, const char *text, size_t n) {
    if (!n) return;
    if (p->n + n > p->d->max_text) {
        doc_fail(p->d, STATUS_TOO_LARGE, "it has more than %zu MB of text", p->d->max_text >> 20);
        return;
    }
    if (p->n + n > p->capacity) {
        p->capacity = 2 * (p->n + n) + 4096;
        p->text = realloc(p->text, p->capacity);
        CHECK(p->text);
    }
    memcpy(p->text + p->n, text, n);
    p->n += n;
}

/* The number in name="..." within a tag; 0 if there is none. */
static double attribute(const char *tag, size_t n, const char *name) {
    size_t bytes = strlen(name);
    const char *at = memmem(tag, n, name, bytes), *end = tag + n;
    double value = 0, unit = 1;
    if (!at || end - at < (long)bytes + 2 || at[bytes] != '=') return 0;
    at += bytes + 2;
    bool negative = at < end && *at == '-';
    for (at += negative; at < end && *at >= '0' && *at <= '9' && value < 1e9; at++) value = 10 * value + (*at - '0');
    if (at < end && *at == '.')
        for (at++; at < end && *at >= '0' && *at <= '9' && unit > 1e-7; at++) value += (unit /= 10) * (*at - '0');
    return negative ? -value : value;
}

static void begin_line(struct pdf *p, const char *tag, size_t n) {
    if (p->n_lines == p->lines_capacity) {
        p->lines_capacity = 2 * p->lines_capacity + 256;
        p->lines = realloc(p->lines, p->lines_capacity * sizeof *p->lines);
        CHECK(p->lines);
    }
    p->lines[p->n_lines] = (struct line){.start = p->n, .page = p->page, .block = p->block};
    p->lines[p->n_lines].x = (float)attribute(tag, n, "xMin");
    p->lines[p->n_lines].x_end = (float)attribute(tag, n, "xMax");
    p->lines[p->n_lines].y = (float)attribute(tag, n, "yMin");
    p->size_sum = p->letters = 0;
}

static void end_line(struct pdf *p) {
    if (p->n_lines == p->lines_capacity) return; /* none is open */
    struct line *l = &p->lines[p->n_lines];
    if (p->n == l->start) return;
    l->end = p->n;
    pdf_bidi_line(p->text + l->start, l->end - l->start);
    l->size = (float)(p->size_sum / p->letters);
    p->histogram[slot_of(l->size)] += l->end - l->start;
    p->n_lines++;
    begin_line(p, "", 0);
}

/* Text with the five entities of XML. */
static void put_decoded(struct pdf *p, const char *text, size_t n) {
    static const char *const entities[][2] = {{"&amp;", "&"},   {"&lt;", "<"},   {"&gt;", ">"},
                                              {"&quot;", "\""}, {"&apos;", "'"}, {"&#39;", "'"}};
    for (size_t i = 0; i < n;) {
        const char *amp = memchr(text + i, '&', n - i);
        size_t plain = amp ? (size_t)(amp - text) - i : n - i, step = 1, k = 0;
        put(p, text + i, plain);
        i += plain;
        if (!amp) return;
        for (; k < 6; k++)
            if (n - i >= strlen(entities[k][0]) && !memcmp(amp, entities[k][0], strlen(entities[k][0]))) break;
        if (k < 6) step = strlen(entities[k][0]);
        put(p, k < 6 ? entities[k][1] : "&", 1);
        i += step;
    }
}

static size_t characters(const char *text, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)text[i] & 0xC0) != 0x80;
    return count;
}

static void put_word(struct pdf *p, const char *tag, size_t tag_bytes, const char *text, size_t n) {
    double x = attribute(tag, tag_bytes, "xMin"), x_end = attribute(tag, tag_bytes, "xMax");
    double height = attribute(tag, tag_bytes, "yMax") - attribute(tag, tag_bytes, "yMin"), width = x_end - x;
    double letters = (double)characters(text, n) + 1e-3; /* bytes that are no characters are no division by zero */
    if (!n || p->n_lines == p->lines_capacity) return;
    bool upright = !(letters >= 4 && height > 2 * width); /* else its letters stand on their sides */
    double size = upright ? height : width;
    if (!(size > 0.1)) size = 0.1;
    /* words of one line without a gap are one word in two fonts, or CJK */
    bool gap = !upright || x - p->x_end > 0.05 * size || x < p->x_end - size;
    if (p->n > p->lines[p->n_lines].start && gap) put(p, " ", 1);
    put_decoded(p, text, n);
    p->x_end = x_end;
    p->size_sum += letters * size;
    p->letters += letters;
}

static void scan(struct pdf *p, const struct extract_input *in) {
    const char *at = in->data, *end = in->data + in->bytes;
    while ((at = memchr(at, '<', (size_t)(end - at))) && !p->d->status) {
        const char *close = memchr(at, '>', (size_t)(end - at));
        if (!close) return;
        size_t n = (size_t)(close - at) - 1;
        const char *tag = at + 1;
        at = close + 1;
        if (n >= 5 && !memcmp(tag, "word ", 5)) {
            const char *stop = memmem(at, (size_t)(end - at), "</word>", 7);
            if (!stop) return;
            put_word(p, tag, n, at, (size_t)(stop - at));
            at = stop;
        } else if (n >= 4 && !memcmp(tag, "line", 4)) {
            begin_line(p, tag, n);
        } else if (n == 5 && !memcmp(tag, "/line", 5)) {
            end_line(p);
        } else if (n >= 5 && !memcmp(tag, "block", 5)) {
            p->block++;
        } else if (n >= 5 && !memcmp(tag, "page ", 5)) {
            p->block++;
            if ((int)++p->page > in->limits->pages)
                doc_fail(p->d, STATUS_TOO_LARGE, "it has more than %d pages", in->limits->pages);
        } else if (n == 5 && !memcmp(tag, "title", 5) && !p->lines) {
            const char *stop = memmem(at, (size_t)(end - at), "</title>", 8);
            if (!stop) return;
            put_decoded(p, at, (size_t)(stop - at));
            doc_title(p->d, p->text, p->n);
            p->n = 0;
            at = stop;
        }
    }
}

/* ---- what the lines are -------------------------------------------------------------------------------------------
 */

/* The size that most of the text has. */
static double body_size(const struct pdf *p) {
    size_t best = 0;
    for (size_t i = 0; i < SIZES; i++) /* two neighbours: one size may fall on either side of a bound */
        if (p->histogram[i] + (i ? p->histogram[i - 1] : 0) > p->histogram[best] + (best ? p->histogram[best - 1] : 0))
            best = i;
    return (double)(best + 1) / 4;
}

static bool has_letter(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] >= 0x80 || ((text[i] | 32) >= 'a' && (text[i] | 32) <= 'z')) return true;
    return false;
}

/* Lines from i on, of one block, that are larger than most of the text: how many of them are a heading. */
static size_t large_heading(const struct pdf *p, size_t i) {
    size_t end = i, bytes = 0;
    bool letters = false;
    for (; end < p->n_lines && p->lines[end].block == p->lines[i].block; end++) {
        const struct line *l = &p->lines[end];
        if (l->size < HEADING_RATIO * p->body || fabsf(l->size - p->lines[i].size) > 1) break;
        bytes += l->end - l->start;
        letters |= has_letter(p->text + l->start, l->end - l->start);
    }
    return letters && bytes <= HEADING_BYTES ? end - i : 0;
}

/* A line of the common size that is a heading all the same: a block of its own, short, without a sentence's end, right
 * above a paragraph of two lines or more that begins at the same margin and is wider. */
static bool small_heading(const struct pdf *p, size_t i) {
    const struct line *l = &p->lines[i], *next = l + 1;
    size_t n = l->end - l->start;
    if (i + 2 >= p->n_lines || n < 4 || n > 80 || next->block == l->block || next[1].block != next->block) return false;
    if ((i && l[-1].block == l->block) || next->page != l->page || next->item || !has_letter(p->text + l->start, n))
        return false;
    if (fabsf(next->x - l->x) > 2 || next->x_end < l->x_end || next->y < l->y || next->y - l->y > 4 * l->size)
        return false;
    char first = p->text[l->start], last = p->text[l->end - 1];
    return l->size > 0.95 * p->body && !(first >= 'a' && first <= 'z') && !strchr(".,;:!?-", last);
}

/* Levels by size: the largest is 1, those of the common size come last. Sizes within 1.5 points of each other are one.
 */
static int level_of(const bool sizes[SIZES], double size) {
    int level = 1;
    size_t slot = slot_of(size), last = SIZES + 6;
    for (size_t i = SIZES; i-- > slot + 6;)
        if (sizes[i] && i + 6 <= last) level++, last = i;
    return level < 6 ? level : 6;
}

/* Bytes of a bullet at the start of a line, with the spaces behind it. */
static size_t bullet(const char *text, size_t n) {
    static const char *const bullets[] = {"\u2022", "\u25E6", "\u25AA", "\u2023", "\u25CF",
                                          "\u25CB", "\u25A0", "\u2219", "\u00B7", "\uF0B7"};
    for (size_t i = 0; i < sizeof bullets / sizeof *bullets; i++) {
        size_t bytes = strlen(bullets[i]);
        if (n < bytes || memcmp(text, bullets[i], bytes)) continue;
        if (n > bytes && text[bytes] != ' ') return 0;
        return n > bytes ? bytes + 1 : bytes;
    }
    return 0;
}

/* Bullets that stand in blocks of their own: finds the lines beside them, which are near in reading order. */
static void find_items(struct pdf *p) {
    enum { NEAR = 200 };
    for (size_t i = 0; i < p->n_lines; i++) {
        struct line *l = &p->lines[i];
        size_t n = l->end - l->start;
        if (bullet(p->text + l->start, n) != n) continue;
        l->bullet = true;
        for (size_t k = i > NEAR ? i - NEAR : 0; k < p->n_lines && k < i + NEAR; k++) {
            struct line *beside = &p->lines[k];
            if (beside->page != l->page || beside->x <= l->x || beside->x - l->x > 6 * p->body) continue;
            if (fabsf(beside->y - l->y) > 0.5 * p->body) continue;
            beside->item = true;
            break;
        }
    }
}

static void begin(struct document *d, enum block_kind kind, int level) {
    doc_begin(d, kind, level);
    struct doc_block *b = doc_current(d);
    if (b) b->lines = LINES_LAYOUT;
}

static void turn_pages(struct document *d, uint32_t page) {
    while (d->page < page && !d->status) doc_page_break(d, d->page + 1);
}

void extract__pdf(struct document *d, const struct extract_input *in) {
    struct pdf p = {.d = d};
    bool sizes[SIZES] = {false};
    scan(&p, in);
    p.body = body_size(&p);
    find_items(&p);
    for (size_t i = 0, n; i < p.n_lines; i += n ? n : 1)
        if ((n = large_heading(&p, i))) sizes[slot_of(p.lines[i].size)] = true;
    d->page = d->n_pages = p.page > 0;
    for (size_t i = 0; i < p.n_lines && !d->status;) {
        const struct line *l = &p.lines[i];
        if (l->bullet) {
            i++;
            continue;
        }
        turn_pages(d, l->page);
        size_t n = l->item ? 0 : large_heading(&p, i), mark = n ? 0 : bullet(p.text + l->start, l->end - l->start);
        bool first = !i || p.lines[i - 1].block != l->block, small = !n && !l->item && !mark && small_heading(&p, i);
        if (n || small)
            begin(d, BLOCK_HEADING, level_of(sizes, n ? l->size : p.body));
        else if (mark || l->item)
            begin(d, BLOCK_LIST_ITEM, 0);
        else if (first || !doc_current(d))
            begin(d, BLOCK_PARAGRAPH, 0);
        for (size_t end = i + (n ? n : 1); i < end; i++, mark = 0) {
            l = &p.lines[i];
            doc_text(d, p.text + l->start + mark, l->end - l->start - mark, DOC_NO_SOURCE);
            doc_text(d, "\n", 1, DOC_NO_SOURCE);
        }
        if (n || small) doc_end(d);
    }
    doc_end(d);
    turn_pages(d, p.page);
    free(p.text);
    free(p.lines);
}
