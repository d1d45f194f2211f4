/* document_wire.c - a document across a pipe, from a process that reads hostile files to one that believes nothing.
 *
 * The message is a header, the reason (if it failed) or else the four arrays as they lie in memory, text last. Both
 * ends are the same program, so layouts agree; what they hold is checked field by field. */
#include "rag/document.h"

#include "kernels/status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

#define MAGIC 0x31434f44u /* "DOC1" */

struct wire_header {
    uint32_t magic;
    int32_t status;
    uint32_t reason_bytes, n_pages;
    uint64_t n_blocks, n_cells, n_origins, text_bytes;
    char title[DOC_TITLE_BYTES];
};

static bool write_all(int fd, const void *data, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t wrote = write(fd, (const char *)data + done, n - done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return false;
        done += (size_t)wrote;
    }
    return true;
}

bool document_write(const struct document *d, int status, const char *reason, int fd) {
    struct wire_header h = {.magic = MAGIC, .status = status};
    if (status) {
        h.reason_bytes = (uint32_t)strnlen(reason, ERR_BYTES - 1);
        return write_all(fd, &h, sizeof h) && write_all(fd, reason, h.reason_bytes);
    }
    h.n_pages = d->n_pages;
    h.n_blocks = d->n_blocks;
    h.n_cells = d->n_cells;
    h.n_origins = d->n_origins;
    h.text_bytes = d->text_bytes;
    memcpy(h.title, d->title, sizeof h.title);
    return write_all(fd, &h, sizeof h) && write_all(fd, d->blocks, d->n_blocks * sizeof *d->blocks) &&
           write_all(fd, d->cells, d->n_cells * sizeof *d->cells) &&
           write_all(fd, d->origins, d->n_origins * sizeof *d->origins) && write_all(fd, d->text, d->text_bytes);
}

static bool valid_utf8(const char *p, size_t n) {
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t c = (unsigned char)p[i];
        if (!c) return false;
        utf8proc_ssize_t step =
            c < 0x80 ? 1 : utf8proc_iterate((const utf8proc_uint8_t *)p + i, (utf8proc_ssize_t)(n - i), &c);
        if (step < 1) return false;
        i += (size_t)step;
    }
    return true;
}

/* A span's ends lie between characters, as the text is valid UTF-8. */
static bool between_characters(const struct document *d, uint32_t at) {
    return at == d->text_bytes || ((unsigned char)d->text[at] & 0xC0) != 0x80;
}

static const char *check_cells(const struct document *d, const struct doc_block *b) {
    uint32_t at = b->start, row = 0, column = 0;
    for (uint32_t i = 0; i < b->n_cells; i++) {
        const struct doc_cell *c = &d->cells[b->first_cell + i];
        if (c->start < at || c->end < c->start || c->end > b->end) return "a cell lies outside its table";
        if (!between_characters(d, c->start) || !between_characters(d, c->end)) return "a cell cuts a character";
        if (c->row < row || (i && c->row == row && c->column < column)) return "cells are out of order";
        if (c->row > DOC_MAX_BLOCKS || c->column >= DOC_MAX_COLUMN) return "a cell lies too far out";
        if (c->row_span < 1 || c->row_span > 1000 || c->column_span < 1 || c->column_span > 100)
            return "a cell spans too much";
        at = c->end;
        row = c->row;
        column = c->column + c->column_span;
    }
    return NULL;
}

const char *document_check(const struct document *d) {
    uint32_t at = 0, cell = 0, page = 0;
    uint64_t text = 0;
    if (!valid_utf8(d->text, d->text_bytes)) return "the text is not UTF-8";
    if (strnlen(d->title, sizeof d->title) == sizeof d->title || !valid_utf8(d->title, strlen(d->title)))
        return "the title is not UTF-8";
    for (size_t i = 0; i < d->n_blocks; i++) {
        const struct doc_block *b = &d->blocks[i];
        if (b->start < at || b->end < b->start || b->end > d->text_bytes) return "blocks are out of order";
        if (!between_characters(d, b->start) || !between_characters(d, b->end)) return "a block cuts a character";
        if (b->kind >= BLOCK_KINDS || b->level > DOC_MAX_LEVEL || b->lines > LINES_LAYOUT)
            return "a block's kind is unknown";
        if (b->kind == BLOCK_HEADING && (b->level < 1 || b->level > 6)) return "a heading's level is out of bounds";
        if (b->kind == BLOCK_TABLE ? !b->n_cells : b->n_cells != 0) return "cells belong to tables";
        if (b->n_cells && (b->first_cell != cell || b->n_cells > d->n_cells - cell)) return "cells are out of order";
        if (b->page && (b->page < page || b->page > d->n_pages)) return "pages are out of order";
        const char *wrong = b->n_cells ? check_cells(d, b) : NULL;
        if (wrong) return wrong;
        at = b->end;
        cell += b->n_cells;
        if (b->page) page = b->page;
    }
    if (cell != d->n_cells) return "there are cells without a table";
    for (size_t i = 0; i < d->n_origins; i++) {
        const struct doc_origin *o = &d->origins[i];
        if (o->text < text || !o->bytes || o->bytes > d->text_bytes || o->text > d->text_bytes - o->bytes)
            return "origins are out of order";
        if (o->source > (uint64_t)1 << 40) return "an origin lies too far out";
        text = (uint64_t)o->text + o->bytes;
    }
    return NULL;
}

/* Copies an array out of the message; NULL without memory. Never a size of 0. */
static void *take(const uint8_t **at, size_t bytes) {
    void *copy = malloc(bytes + 1);
    if (!copy) return NULL;
    memcpy(copy, *at, bytes);
    ((uint8_t *)copy)[bytes] = 0;
    *at += bytes;
    return copy;
}

int document_read(struct document *d, const uint8_t *bytes, size_t n, size_t max_text_bytes, int *sent, char *err,
                  size_t err_bytes) {
    struct wire_header h;
    const uint8_t *at = bytes + sizeof h;
    *sent = 0;
    if (n < sizeof h) return fail(err, err_bytes, STATUS_INVALID, "the extractor's answer ends after %zu bytes", n);
    memcpy(&h, bytes, sizeof h);
    n -= sizeof h;
    if (h.magic != MAGIC) return fail(err, err_bytes, STATUS_INVALID, "the extractor's answer is no document");
    if (h.status) {
        if (h.reason_bytes >= ERR_BYTES || h.reason_bytes != n || h.status > 0 || h.status < STATUS_CLOSED ||
            !valid_utf8((const char *)at, n))
            return fail(err, err_bytes, STATUS_INVALID, "the extractor's answer has no valid reason");
        *sent = 1;
        return fail(err, err_bytes, h.status, "%.*s", (int)n, (const char *)at);
    }
    if (h.n_blocks > DOC_MAX_BLOCKS || h.n_cells > DOC_MAX_BLOCKS || h.n_origins > DOC_MAX_BLOCKS ||
        h.text_bytes > max_text_bytes || h.n_pages > DOC_MAX_BLOCKS)
        return fail(err, err_bytes, STATUS_INVALID, "the extractor's answer is larger than it may be");
    size_t blocks = h.n_blocks * sizeof *d->blocks, cells = h.n_cells * sizeof *d->cells;
    size_t origins = h.n_origins * sizeof *d->origins;
    if (blocks + cells + origins + h.text_bytes != n)
        return fail(err, err_bytes, STATUS_INVALID, "the extractor's answer is cut short");
    d->max_text = max_text_bytes;
    d->blocks = take(&at, blocks);
    d->cells = take(&at, cells);
    d->origins = take(&at, origins);
    d->text = take(&at, h.text_bytes);
    d->n_blocks = d->blocks_capacity = h.n_blocks;
    d->n_cells = d->cells_capacity = h.n_cells;
    d->n_origins = d->origins_capacity = h.n_origins;
    d->text_bytes = h.text_bytes;
    d->text_capacity = h.text_bytes + 1;
    d->n_pages = h.n_pages;
    memcpy(d->title, h.title, sizeof d->title);
    int status = 0;
    const char *wrong;
    if (!d->blocks || !d->cells || !d->origins || !d->text)
        status = fail(err, err_bytes, STATUS_NO_MEMORY, "memory ran out while the extractor's answer was read");
    else if ((wrong = document_check(d)))
        status = fail(err, err_bytes, STATUS_INVALID, "the extractor's answer is no valid document: %s", wrong);
    if (status) document_deinit(d);
    *sent = !status;
    return status;
}
