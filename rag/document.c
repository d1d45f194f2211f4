/* document.c - the builder of documents; see document.h. */
#include "rag/document.h"

#include "kernels/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

const char *block_kind_name(int kind) {
    static const char *const names[BLOCK_KINDS] = {"heading", "paragraph", "list item", "table", "code", "page break"};
    return kind >= 0 && kind < BLOCK_KINDS ? names[kind] : "unknown";
}

void document_init(struct document *d, size_t max_text_bytes) {
    CHECK_LT(max_text_bytes, 1u << 30); /* offsets have 32 bits */
    *d = (struct document){.max_text = max_text_bytes, .text = calloc(1, 64), .text_capacity = 64};
    CHECK(d->text);
}

void document_deinit(struct document *d) {
    free(d->text);
    free(d->blocks);
    free(d->cells);
    free(d->origins);
    *d = (struct document){0};
}

int doc_fail(struct document *d, int status, const char *format, ...) {
    if (d->status) return d->status;
    va_list args;
    va_start(args, format);
    vsnprintf(d->err, sizeof d->err, format, args);
    va_end(args);
    return d->status = status;
}

/* Makes room for one more item of an array; false (latched) beyond the bound or without memory. */
static bool grow(struct document *d, void **items, size_t *capacity, size_t n, size_t item_bytes, const char *what) {
    if (d->status) return false;
    if (n >= DOC_MAX_BLOCKS) {
        doc_fail(d, STATUS_TOO_LARGE, "it has more than %d %s", DOC_MAX_BLOCKS, what);
        return false;
    }
    if (n < *capacity) return true;
    size_t more = *capacity ? 2 * *capacity : 64;
    void *grown = realloc(*items, more * item_bytes);
    if (!grown) {
        doc_fail(d, STATUS_NO_MEMORY, "memory ran out at %zu %s", n, what);
        return false;
    }
    *items = grown;
    *capacity = more;
    return true;
}

void doc_begin(struct document *d, enum block_kind kind, int level) {
    doc_end(d);
    if (!grow(d, (void **)&d->blocks, &d->blocks_capacity, d->n_blocks, sizeof *d->blocks, "blocks")) return;
    int low = kind == BLOCK_HEADING, high = low ? 6 : DOC_MAX_LEVEL;
    if (kind == BLOCK_TABLE) high = 1;
    d->blocks[d->n_blocks] = (struct doc_block){
        .start = (uint32_t)d->text_bytes,
        .end = (uint32_t)d->text_bytes,
        .first_cell = (uint32_t)d->n_cells,
        .page = d->page,
        .kind = (uint8_t)kind,
        .level = (uint8_t)(level < low    ? low
                           : level > high ? high
                                          : level),
    };
    d->open = true;
}

static void end_cell(struct document *d) {
    if (d->cell_open) d->cells[d->n_cells - 1].end = (uint32_t)d->text_bytes;
    d->cell_open = false;
}

static bool visible(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)p[i] > ' ') return true;
    return false;
}

void doc_end(struct document *d) {
    if (!d->open) return;
    d->open = false;
    struct doc_block *b = &d->blocks[d->n_blocks];
    end_cell(d);
    b->end = (uint32_t)d->text_bytes;
    b->n_cells = (uint32_t)(d->n_cells - b->first_cell);
    if (b->kind == BLOCK_PAGE_BREAK || visible(d->text + b->start, b->end - b->start)) {
        d->n_blocks++;
        return;
    }
    d->text_bytes = b->start;
    d->n_cells = b->first_cell;
    while (d->n_origins && d->origins[d->n_origins - 1].text >= b->start) d->n_origins--;
}

struct doc_block *doc_current(struct document *d) {
    return d->open ? &d->blocks[d->n_blocks] : NULL;
}

void doc_cell(struct document *d, uint32_t row, uint32_t column, uint32_t row_span, uint32_t column_span) {
    if (!d->open || d->status) return;
    struct doc_block *b = &d->blocks[d->n_blocks];
    CHECK_EQ(b->kind, BLOCK_TABLE);
    end_cell(d);
    if (d->n_cells > b->first_cell) {
        const struct doc_cell *last = &d->cells[d->n_cells - 1];
        if (row < last->row) row = last->row;
        if (row == last->row && column < last->column + last->column_span) column = last->column + last->column_span;
    }
    if (column >= DOC_MAX_COLUMN) {
        doc_fail(d, STATUS_TOO_LARGE, "a table has more than %d columns", DOC_MAX_COLUMN);
        return;
    }
    if (!grow(d, (void **)&d->cells, &d->cells_capacity, d->n_cells, sizeof *d->cells, "cells of tables")) return;
    if (row_span < 1 || row_span > 1000) row_span = 1;
    if (column_span < 1 || column_span > 100) column_span = 1;
    d->cells[d->n_cells++] = (struct doc_cell){
        .start = (uint32_t)d->text_bytes,
        .end = (uint32_t)d->text_bytes,
        .row = row,
        .column = column,
        .row_span = (uint16_t)row_span,
        .column_span = (uint16_t)column_span,
    };
    d->cell_open = true;
}

static char *reserve(struct document *d, size_t n) {
    if (d->status) return NULL;
    if (n > d->max_text - d->text_bytes) {
        doc_fail(d, STATUS_TOO_LARGE, "it has more than %zu MB of text", d->max_text >> 20);
        return NULL;
    }
    if (d->text_bytes + n + 1 > d->text_capacity) {
        size_t more = 2 * (d->text_bytes + n + 1);
        char *text = realloc(d->text, more);
        if (!text) {
            doc_fail(d, STATUS_NO_MEMORY, "memory ran out at %zu bytes of text", d->text_bytes);
            return NULL;
        }
        d->text = text;
        d->text_capacity = more;
    }
    return d->text + d->text_bytes;
}

static void append(struct document *d, const char *p, size_t n, uint64_t source) {
    char *to = n ? reserve(d, n) : NULL;
    if (!to) return;
    if (source != DOC_NO_SOURCE) {
        struct doc_origin *last = d->n_origins ? &d->origins[d->n_origins - 1] : NULL;
        if (last && last->text + last->bytes == d->text_bytes && last->source + last->bytes == source) {
            last->bytes += (uint32_t)n;
        } else {
            if (!grow(d, (void **)&d->origins, &d->origins_capacity, d->n_origins, sizeof *d->origins, "pieces"))
                return;
            d->origins[d->n_origins++] = (struct doc_origin){(uint32_t)d->text_bytes, (uint32_t)n, source};
        }
    }
    for (size_t i = 0; i < n; i++) to[i] = p[i] ? p[i] : ' ';
    d->text_bytes += n;
    d->text[d->text_bytes] = 0;
}

void doc_text(struct document *d, const char *p, size_t n, uint64_t source) {
    if (d->status || !n) return;
    if (!d->open) doc_begin(d, BLOCK_PARAGRAPH, 0);
    if (!d->open) return;
    if (d->blocks[d->n_blocks].kind == BLOCK_TABLE && !d->cell_open) return; /* text between cells belongs nowhere */
    size_t from = 0;
    for (size_t i = 0; i < n && !d->status;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t step = (unsigned char)p[i] < 0x80
                                    ? 1
                                    : utf8proc_iterate((const utf8proc_uint8_t *)p + i, (utf8proc_ssize_t)(n - i), &c);
        if (step > 0) {
            i += (size_t)step;
            continue;
        }
        append(d, p + from, i - from, source == DOC_NO_SOURCE ? source : source + from);
        append(d, "\xEF\xBF\xBD", 3, DOC_NO_SOURCE);
        from = ++i;
    }
    append(d, p + from, n - from, source == DOC_NO_SOURCE ? source : source + from);
}

void doc_page_break(struct document *d, uint32_t next_page) {
    doc_begin(d, BLOCK_PAGE_BREAK, 0);
    doc_end(d);
    d->page = next_page;
    if (next_page > d->n_pages) d->n_pages = next_page;
}

void doc_title(struct document *d, const char *p, size_t n) {
    size_t at = 0;
    if (d->title[0]) return;
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t step = utf8proc_iterate((const utf8proc_uint8_t *)p + i, (utf8proc_ssize_t)(n - i), &c);
        if (step < 1) step = 1, c = ' ';
        if (c <= ' ') {
            if (at && d->title[at - 1] != ' ' && at + 1 < sizeof d->title) d->title[at++] = ' ';
        } else {
            if (at + (size_t)step >= sizeof d->title) break;
            memcpy(d->title + at, p + i, (size_t)step);
            at += (size_t)step;
        }
        i += (size_t)step;
    }
    if (at && d->title[at - 1] == ' ') at--;
    d->title[at] = 0;
}

int doc_finish(struct document *d, char *err, size_t err_bytes) {
    doc_end(d);
    if (d->status) return fail(err, err_bytes, d->status, "%s", d->err);
    return 0;
}
