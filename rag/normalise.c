/* normalise.c - blocks to text; see normalise.h. Characters: normalise_chars.c. */
#include "rag/normalise_internal.h"

#include "kernels/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPEAT_BYTES 200 /* a longer cell is not repeated along what it spans */

void *normalise__grow(void *items, size_t *capacity, size_t n, size_t item_bytes) {
    if (n < *capacity) return items;
    *capacity = 2 * *capacity + 64;
    items = realloc(items, *capacity * item_bytes);
    CHECK(items);
    return items;
}

void normalise__put(struct normaliser *z, const char *p, size_t n, uint64_t source) {
    struct text *t = z->t;
    if (!n) return;
    if (t->bytes + n + 1 > z->text_capacity) {
        z->text_capacity = 2 * (t->bytes + n + 1);
        t->text = realloc(t->text, z->text_capacity);
        CHECK(t->text);
    }
    if (source != DOC_NO_SOURCE) {
        struct text_run *last = t->n_runs ? &t->runs[t->n_runs - 1] : NULL;
        if (last && last->at + last->bytes == t->bytes && last->source + last->bytes == source) {
            last->bytes += n;
        } else {
            t->runs = normalise__grow(t->runs, &z->runs_capacity, t->n_runs, sizeof *t->runs);
            t->runs[t->n_runs++] = (struct text_run){t->bytes, n, source};
        }
    }
    memcpy(t->text + t->bytes, p, n);
    t->bytes += n;
    t->text[t->bytes] = 0;
}

static void put_string(struct normaliser *z, const char *p) {
    normalise__put(z, p, strlen(p), DOC_NO_SOURCE);
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

/* A cell that reaches into rows below it. */
struct reach {
    size_t start, end; /* its text */
    uint32_t rows;     /* that are still to come */
};

struct table {
    struct reach *reach; /* [DOC_MAX_COLUMN + 100] owned */
    uint32_t columns;    /* that any reach was set in */
};

/* Filler is text that no cell of the file has of its own; a hostile table may ask for much of it. */
static bool afford(struct normaliser *z, size_t n) {
    if (n > z->filler) return false;
    z->filler -= n;
    return true;
}

/* The text of another cell once more: a copy, since the text may move. */
static void put_again(struct normaliser *z, size_t start, size_t end) {
    char copy[REPEAT_BYTES];
    size_t n = end - start;
    if (n > sizeof copy || !afford(z, n)) return;
    memcpy(copy, z->t->text + start, n);
    normalise__put(z, copy, n, DOC_NO_SOURCE);
}

/* Columns [from, to) that have no cell of their own in this row. */
static void put_covered(struct normaliser *z, struct table *table, uint32_t from, uint32_t to) {
    for (uint32_t column = from; column < to && afford(z, 3); column++) {
        struct reach *r = &table->reach[column];
        put_string(z, " ");
        if (column < table->columns && r->rows) {
            put_again(z, r->start, r->end);
            r->rows--;
        }
        put_string(z, " |");
    }
}

static void put_row(struct normaliser *z, struct table *table, const struct doc_cell *cells, uint32_t n) {
    const struct document *d = z->d;
    uint32_t column = 0;
    size_t row_start = z->t->bytes;
    put_string(z, "|");
    for (uint32_t i = 0; i < n; i++) {
        const struct doc_cell *c = &cells[i];
        put_covered(z, table, column, c->column);
        put_string(z, " ");
        size_t start = z->t->bytes;
        normalise__chars(z, d->text + c->start, c->end - c->start, c->start, CHARS_CELL);
        size_t end = z->t->bytes;
        put_string(z, " |");
        for (uint32_t k = 1; k < c->column_span && afford(z, 3); k++) {
            put_string(z, " ");
            put_again(z, start, end);
            put_string(z, " |");
        }
        column = c->column + c->column_span;
        for (uint32_t k = c->column; k < column; k++) table->reach[k] = (struct reach){start, end, c->row_span - 1u};
        if (column > table->columns) table->columns = column;
    }
    uint32_t last = column; /* what reaches into this row behind its last cell */
    for (uint32_t k = column; k < table->columns; k++)
        if (table->reach[k].rows) last = k + 1;
    put_covered(z, table, column, last);
    if (column > z->widest) z->widest = column;
    z->t->rows = normalise__grow(z->t->rows, &z->rows_capacity, z->t->n_rows, sizeof *z->t->rows);
    z->t->rows[z->t->n_rows++] = (struct text_row){row_start, z->t->bytes};
}

static void put_table(struct normaliser *z, const struct doc_block *b) {
    const struct doc_cell *cells = z->d->cells + b->first_cell;
    struct table table = {.reach = calloc(DOC_MAX_COLUMN + 100, sizeof *table.reach)};
    CHECK(table.reach);
    for (uint32_t i = 0, end; i < b->n_cells; i = end) {
        for (end = i; end < b->n_cells && cells[end].row == cells[i].row; end++) continue;
        z->widest = 0;
        if (i) put_string(z, "\n");
        put_row(z, &table, cells + i, end - i);
        if (i || !b->level) continue;
        put_string(z, "\n|");
        for (uint32_t k = 0; k < z->widest; k++) put_string(z, " --- |");
    }
    free(table.reach);
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

static void put_marker(struct normaliser *z, const struct doc_block *b) {
    char marker[16];
    if (b->kind == BLOCK_HEADING) {
        normalise__put(z, &"###### "[6 - b->level], b -> level + 1u, DOC_NO_SOURCE);
    } else if (b->kind == BLOCK_LIST_ITEM) {
        for (int i = 0; i < b->level; i++) put_string(z, "  ");
        if (b->number)
            snprintf(marker, sizeof marker, "%u. ", b->number);
        else
            snprintf(marker, sizeof marker, "- ");
        put_string(z, marker);
    }
}

static void put_block(struct normaliser *z, const struct doc_block *b) {
    static const enum chars_mode modes[BLOCK_KINDS] = {
        [BLOCK_HEADING] = CHARS_LAYOUT, [BLOCK_CODE] = CHARS_CODE, [BLOCK_PARAGRAPH] = CHARS_LINES};
    struct text *t = z->t;
    size_t before = t->bytes, runs = t->n_runs;
    if (t->n_blocks) {
        bool list = b->kind == BLOCK_LIST_ITEM && t->blocks[t->n_blocks - 1].kind == BLOCK_LIST_ITEM;
        put_string(z, list ? "\n" : "\n\n");
    }
    struct text_block block = {.start = t->bytes, .first_row = (uint32_t)t->n_rows, .page = b->page, .kind = b->kind};
    block.level = b->level;
    block.header = b->kind == BLOCK_TABLE && b->level;
    if (b->kind == BLOCK_TABLE) {
        put_table(z, b);
        block.n_rows = (uint32_t)(t->n_rows - block.first_row);
    } else {
        enum chars_mode mode = b->kind == BLOCK_LIST_ITEM ? CHARS_LINES : modes[b->kind];
        if (mode == CHARS_LINES && b->lines == LINES_TYPED) mode = CHARS_TYPED;
        if (mode == CHARS_LINES && b->lines == LINES_LAYOUT) mode = CHARS_LAYOUT;
        put_marker(z, b);
        size_t body = t->bytes;
        normalise__chars(z, z->d->text + b->start, b->end - b->start, b->start, mode);
        if (t->bytes == body) { /* nothing that can be seen */
            t->bytes = before;
            t->text[before] = 0;
            t->n_runs = runs;
            return;
        }
    }
    block.end = t->bytes;
    t->blocks = normalise__grow(t->blocks, &z->blocks_capacity, t->n_blocks, sizeof *t->blocks);
    t->blocks[t->n_blocks++] = block;
}

void normalise(struct text *t, const struct document *d) {
    struct normaliser z = {.t = t, .d = d, .filler = d->text_bytes + (1 << 20)};
    z.text_capacity = d->text_bytes + 64;
    t->text = calloc(1, z.text_capacity);
    CHECK(t->text);
    normalise__collect_hyphens(&z);
    for (size_t i = 0; i < d->n_blocks; i++)
        if (d->blocks[i].kind != BLOCK_PAGE_BREAK) put_block(&z, &d->blocks[i]);
    t->n_pages = d->n_pages;
    memcpy(t->title, d->title, sizeof t->title);
    free(z.points);
    free(z.hyphens);
    free(z.utf8);
}

void text_deinit(struct text *t) {
    free(t->text);
    free(t->blocks);
    free(t->rows);
    free(t->runs);
    *t = (struct text){0};
}

/* The first run that ends behind `at`. */
static size_t run_at(const struct text *t, size_t at) {
    size_t low = 0, high = t->n_runs;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (t->runs[middle].at + t->runs[middle].bytes > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

bool text_source(const struct text *t, size_t start, size_t end, uint64_t *source_start, uint64_t *source_end) {
    size_t first = run_at(t, start), last = run_at(t, end);
    if (last == t->n_runs || t->runs[last].at >= end) {
        if (!last) return false;
        last--;
    }
    if (first >= t->n_runs || first > last) return false;
    const struct text_run *a = &t->runs[first], *b = &t->runs[last];
    size_t b_end = b->at + b->bytes < end ? b->at + b->bytes : end;
    *source_start = a->source + (start > a->at ? start - a->at : 0);
    *source_end = b->source + (b_end - b->at);
    return *source_start < *source_end;
}
